"""Watching a flow run that another process on the same database moves."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from flowloop.backends import _elsewhere
from flowloop.backends.embedded import StoreBackend
from flowloop.engine.settings import Settings
from flowloop.engine.state import Cancelling, Running, State

from .runs import started


async def cancelled_from_elsewhere(database_url: str) -> None:
    """Cancel a flow run by one backend, and expect another one to see it."""
    settings = Settings(outage_limit=5)
    async with (
        StoreBackend(database_url, settings=settings) as one,
        StoreBackend(database_url, settings=settings) as other,
    ):
        run = await started(one, tasks=1)
        async with one.watch_flow_run(run.id) as states:
            assert (await anext(states)).is_running()
            await other.cancel_flow_run(run.id)
            with anyio.fail_after(60):
                # where it is looked for, what stood there before may be seen once more
                seen = [state async for state in _until(states, Cancelling)]
            assert [type(state) for state in seen] in ([Cancelling], [Running, Cancelling])


async def _until(states: AsyncIterator[State], last: type[State]) -> AsyncIterator[State]:
    async for state in states:
        yield state
        if isinstance(state, last):
            return


async def test_a_cancel_by_another_process_is_seen(database_url: str) -> None:
    await cancelled_from_elsewhere(database_url)


async def test_where_others_cannot_be_heard_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def deaf(_: object, __: Callable[[Collection[str]], None]) -> AsyncIterator[bool]:
        yield False

    monkeypatch.setattr("flowloop.backends.store.Store.listen", deaf)
    monkeypatch.setattr(_elsewhere, "_LOOK_EVERY", 0.01)
    await cancelled_from_elsewhere(f"sqlite:///{tmp_path / 'f.db'}")


async def test_who_watches_nothing_listens_to_nobody(tmp_path: Path) -> None:
    async with StoreBackend(f"sqlite:///{tmp_path / 'f.db'}") as backend:
        await started(backend, tasks=1)
        assert "f.db-wakeups" not in os.listdir(tmp_path)
