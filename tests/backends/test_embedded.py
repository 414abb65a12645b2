"""The embedded backend: what is its own beside the promises of the port."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from flowloop.backends import connect
from flowloop.backends._circuit import CircuitState
from flowloop.backends.embedded import StoreBackend
from flowloop.backends.worker import Worker
from flowloop.engine import Flow, task
from flowloop.engine.cloud import register_flow
from flowloop.engine.errors import BackendRejected, BackendUnavailable
from flowloop.engine.schedules import IntervalSchedule
from flowloop.engine.settings import Settings
from flowloop.engine.state import Cancelled, Failed, Retrying, Running, Success

from .runs import MISSING, flow_document, started


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[StoreBackend]:
    url = f"sqlite:///{tmp_path / 'flowloop.db'}"
    async with StoreBackend(url, settings=Settings(outage_limit=5), synchronous="OFF") as opened:
        yield opened


class Disturbed:
    """Stands before the writes of a store: `before` and `after` say how many of the next ones fail, and when."""

    def __init__(self, backend: StoreBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = self.after = self.writes = 0
        self._write = backend.store.write
        monkeypatch.setattr(backend.store, "write", self.write)

    async def write(self, caller: Any, operation: Callable[..., Any]) -> Any:
        self.writes += 1
        if self.before:
            self.before -= 1
            raise BackendUnavailable("the database is away")
        result = await self._write(caller, operation)
        if self.after:
            self.after -= 1
            raise BackendUnavailable("the connection was lost after the commit")
        return result


async def test_what_is_written_at_once_shares_a_transaction(
    backend: StoreBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await started(backend, tasks=50)
    disturbed = Disturbed(backend, monkeypatch)
    outcomes = await asyncio.gather(
        *(backend.set_task_run_state(task.id, 1, Running()) for task in run.tasks),
        *(backend.set_task_run_name(task.id, "name") for task in run.tasks),
        backend.set_task_run_name(MISSING, "nobody"),
        backend.set_flow_run_state(run.id, 2, Running("still")),
        backend.update_flow_run_heartbeat(run.id),
        return_exceptions=True,
    )
    assert disturbed.writes == 1
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [BackendRejected]
    _, histories = await backend.get_flow_run_history(run.id)
    assert {(history.name, len(history.states)) for history in histories} == {("name", 2)}


@pytest.mark.parametrize("versioned", [True, False], ids=["with versions", "without"])
async def test_a_transaction_whose_commit_was_not_heard_of_is_not_done_twice(
    backend: StoreBackend, monkeypatch: pytest.MonkeyPatch, versioned: bool
) -> None:
    run = await started(backend)
    disturbed = Disturbed(backend, monkeypatch)
    for version, state in enumerate([Running(), Failed(), Retrying(), Running(), Success()], start=1):
        disturbed.before, disturbed.after = version % 2, 1
        task = run.tasks[0]
        assert await backend.set_task_run_state(task.id, version if versioned else None, state) is state
    _, histories = await backend.get_flow_run_history(run.id)
    assert [record.state for record in histories[0].states] == [
        "Pending",
        "Running",
        "Failed",
        "Retrying",
        "Running",
        "Success",
    ]


async def test_a_database_that_is_away_is_waited_for(
    backend: StoreBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = await started(backend)
    disturbed = Disturbed(backend, monkeypatch)
    disturbed.before = 3
    await backend.set_task_run_state(run.tasks[0].id, 1, Running())
    assert disturbed.writes == 4
    away, back = caplog.messages
    assert away == f"{backend.url} is unavailable, waiting for it: the database is away"
    assert back.startswith(f"{backend.url} answers again after ")
    assert backend.circuit_state is CircuitState.CLOSED


async def test_a_database_that_stays_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'flowloop.db'}"
    async with StoreBackend(url, settings=Settings(outage_limit=0)) as backend:
        run = await started(backend)
        Disturbed(backend, monkeypatch).before = 100
        with pytest.raises(BackendUnavailable, match=r"flowloop\.db is unavailable.*the database is away"):
            await backend.set_task_run_state(run.tasks[0].id, 1, Running())


async def test_another_backend_on_the_same_file_is_a_rival(backend: StoreBackend) -> None:
    run = await started(backend)
    task = run.tasks[0]
    async with connect(backend.url, settings=Settings()) as rival:
        await backend.set_task_run_state(task.id, 1, Running("go"))
        with pytest.raises(BackendRejected):
            await rival.set_task_run_state(task.id, 1, Running("go"))
        assert (await rival.get_task_run_info(run.id, task.task_id)).version == 2


async def test_a_worker_looks_after_the_database_it_has_open(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with Flow("hourly", schedule=IntervalSchedule(interval=datetime.timedelta(hours=1))) as flow:
        task(lambda: 1, name="one")()
    async with connect(url) as backend, Worker(backend, {}):
        await register_flow(flow, backend)
    async with connect(url) as backend:
        assert await backend.list_flow_runs() == [], "nobody asked for it"
    async with connect(url, schedules=True) as backend, Worker(backend, {"other": flow}):
        while True:
            if len(await backend.list_flow_runs()) == 10:
                break
            await anyio.sleep(0.01)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{folder}/own.db"])
async def test_what_is_ready_next_is_foretold(url: str, tmp_path: Path) -> None:
    async with connect(url.format(folder=tmp_path), settings=Settings(home=str(tmp_path))) as backend:
        flow = await backend.register_flow(flow_document(), project_name="demo")
        assert await backend.next_ready() is None
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=3)
        await backend.create_flow_run(flow.id, scheduled_start_time=later)
        sooner = await backend.create_flow_run(flow.id, scheduled_start_time=later - datetime.timedelta(hours=1))
        assert 3_600 < (await backend.next_ready() or 0) <= 7_200
        claim = await backend.claim_flow_run(sooner, "somebody")
        assert await backend.next_ready() == 0
        await backend.set_flow_run_state(sooner, None, Cancelled("over"), epoch=claim.epoch)
        assert 7_200 < (await backend.next_ready() or 0) <= 10_800
