"""A store on each database, with a clock that stands still until it is moved."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from flowloop.backends.store import ANYONE, Store

from .world import ManualClock, World, events_every_hour


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(database_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    async with Store(
        database_url,
        clock=clock,
        lease_clock=clock,
        synchronous="OFF",
        secret_key="a secret key",
        next_events=events_every_hour,
    ) as opened:
        await opened.default_tenant(ANYONE)
        yield opened


@pytest.fixture
def world(store: Store, clock: ManualClock) -> World:
    return World(store, clock)
