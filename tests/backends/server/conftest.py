"""The server over a store on each database, with a flow and a run of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from flowloop.backends.store import ANYONE, Store

from .served import ManualClock, Served, World, serve_store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(database_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    async with Store(
        database_url, clock=clock, lease_clock=clock, synchronous="OFF", secret_key="a secret key"
    ) as opened:
        await opened.default_tenant(ANYONE)
        yield opened


@pytest.fixture
async def world(store: Store, clock: ManualClock) -> World:
    return await World(store, clock).build()


@pytest.fixture
async def served(store: Store) -> AsyncIterator[Served]:
    async with serve_store(store) as server:
        yield server


@contextmanager
def reading(store: Store) -> Iterator[list[str]]:
    """Note the statements that a store reads with while the block lasts."""
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *more: Any) -> None:
        if statement.startswith("SELECT"):
            sent.append(statement)

    engine = store.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def statements(served: Served) -> Iterator[list[str]]:
    """The statements that the server has read with, from now on."""
    with reading(served.store) as sent:
        yield sent


@pytest.fixture
def statements_of() -> Callable[[Store], AbstractContextManager[list[str]]]:
    """What notes the statements that a store reads with."""
    return reading
