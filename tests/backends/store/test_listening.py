"""Hearing what other processes on the same database do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import anyio
import pytest

from flowloop.backends.store import ANYONE, StateUpdate, Store
from flowloop.backends.store.creation import NewFlowRun
from flowloop.backends.store.databases import wakeups

from .world import flow_document, state


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[Store, Store]]:
    """Two stores on one database, as two processes would have them."""
    async with Store(database_url) as one, Store(database_url) as other:
        yield one, other


class Ear:
    """Remembers what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.heard: list[Collection[str]] = []
        self._told = asyncio.Event()

    def __call__(self, ids: Collection[str]) -> None:
        self.heard.append(ids)
        self._told.set()

    async def next(self) -> Collection[str]:
        with anyio.fail_after(60):
            await self._told.wait()
        self._told.clear()
        return self.heard[-1]


async def new_flow(store: Store) -> str:
    project = await store.get_or_create_project(ANYONE, name="listening")
    flow = await store.create_flow(ANYONE, project_id=project["id"], serialized_flow=flow_document("a"))
    return str(flow["id"])


async def test_another_process_hears_which_flow_run_moved(stores: tuple[Store, Store]) -> None:
    one, other = stores
    flow_id = await new_flow(one)
    ear = Ear()
    async with other.listen(ear) as hears:
        assert hears
        run_id = (await one.create_flow_run(ANYONE, flow_id=flow_id))["id"]
        assert await ear.next() == [run_id]
        await one.cancel_flow_run(ANYONE, flow_run_id=run_id)
        assert await ear.next() == [run_id]
    await one.create_flow_run(ANYONE, flow_id=flow_id)
    assert len(ear.heard) == 2


async def test_what_a_process_does_itself_it_is_not_told(stores: tuple[Store, Store]) -> None:
    one, other = stores
    flow_id = await new_flow(one)
    own, ear = Ear(), Ear()
    async with one.listen(own), other.listen(ear):
        run_id = (await one.create_flow_run(ANYONE, flow_id=flow_id))["id"]
        assert await ear.next() == [run_id]
    assert own.heard == []


async def test_a_flow_run_that_starts_is_told_of_when_others_can_have_heard_of_it(
    stores: tuple[Store, Store],
) -> None:
    one, other = stores
    flow_id = await new_flow(one)
    ear = Ear()
    async with other.listen(ear):
        start = NewFlowRun(flow_id=flow_id, owner="me", state=state("Running"), idempotency_key="k")
        run = (await one.start_flow_runs(ANYONE, [start]))[0]
        assert isinstance(run, dict)
        await one.set_flow_run_states(ANYONE, [StateUpdate(run["id"], state("Success"), version=2, epoch=1)])
        assert await ear.next() == [run["id"]]
    assert len(ear.heard) == 1


async def test_of_very_many_flow_runs_it_is_only_told_that_there_are_some(stores: tuple[Store, Store]) -> None:
    one, other = stores
    flow_id = await new_flow(one)
    ids = [(await one.create_flow_run(ANYONE, flow_id=flow_id))["id"] for _ in range(101)]
    ear = Ear()
    async with other.listen(ear):
        await one.set_flow_run_states(ANYONE, [StateUpdate(run_id, state("Running")) for run_id in ids])
        assert await ear.next() == []


async def test_what_is_rolled_back_is_told_to_nobody(stores: tuple[Store, Store]) -> None:
    one, other = stores
    flow_id = await new_flow(one)
    run_id = (await one.create_flow_run(ANYONE, flow_id=flow_id))["id"]
    ear = Ear()
    async with other.listen(ear):
        with pytest.raises(ZeroDivisionError):
            await one.write(ANYONE, lambda tx: (tx.moved.update({run_id: None}), 1 // 0))
        await one.cancel_flow_run(ANYONE, flow_run_id=run_id)
        await ear.next()
    assert ear.heard == [[run_id]]


# -- the sockets beside a SQLite file ------------------------------------------------------------------


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("long " * 30)
    folder.mkdir()
    one, other = wakeups.Wakeups(str(folder / "f.db")), wakeups.Wakeups(str(folder / "f.db"))
    ear = one.open()
    other.send(b"hello")
    assert list(wakeups.messages(ear)) == [b"hello"]
    one.close(ear)
    other.close()
    assert list(folder.iterdir()) == []


def test_the_socket_of_a_process_that_is_gone_is_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "f.db")
    gone, sender = wakeups.Wakeups(path), wakeups.Wakeups(path)
    gone.open().close()  # as the system closes it when a process ends
    folder = tmp_path / "f.db-wakeups"
    assert len(list(folder.iterdir())) == 1
    sender.send(b"anybody?")
    sender.close()
    assert list(folder.iterdir()) == []


def test_a_listener_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "f.db")
    slow, sender = wakeups.Wakeups(path), wakeups.Wakeups(path)
    ear = slow.open()
    for _ in range(5_000):
        sender.send(b"x" * 1_000)
    assert 0 < len(list(wakeups.messages(ear))) < 5_000
    sender.send(b"now it reads again")
    assert list(wakeups.messages(ear)) == [b"now it reads again"]
    slow.close(ear)
    sender.close()


async def test_where_no_socket_can_be_made_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not here")

    async with Store(f"sqlite:///{tmp_path / 'f.db'}") as store:
        monkeypatch.setattr(socket.socket, "bind", refuse)
        async with store.listen(Ear()) as hears:
            assert not hears
