"""Values that a database cannot hold, or can only just: refused whole, and the store goes on."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import literal, select

from flowloop.backends.store import ANYONE, Store
from flowloop.engine.errors import BackendRejected

from .world import FENCED, World, flow_document

Call = Callable[[World, Any], Awaitable[Any]]


def name_flow_run(world: World, value: Any) -> Awaitable[Any]:
    return world.store.set_flow_run_name(ANYONE, flow_run_id=world.run_id, name=value)


def give_context(world: World, value: Any) -> Awaitable[Any]:
    return world.store.create_flow_run(ANYONE, flow_id=world.flow_id, context={"x": value})


def map_index(world: World, value: Any) -> Awaitable[Any]:
    return world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=[value]
    )


def register(world: World, value: Any) -> Awaitable[Any]:
    tasks = [{"slug": "a", "max_retries": value, "name": value}]
    document = flow_document(tasks=tasks, edges=[])
    return world.store.create_flow(ANYONE, project_id=world.project_id, serialized_flow=document)


def start_at(world: World, value: Any) -> Awaitable[Any]:
    return world.store.create_flow_run(ANYONE, flow_id=world.flow_id, scheduled_start_time=value)


CASES: list[tuple[Call, Any]] = [
    (name_flow_run, "with \x00 in it"),
    (name_flow_run, "half a pair \ud800"),
    (name_flow_run, "x" * 100_000),
    (give_context, "with \x00 in it"),
    (give_context, "half a pair \ud800"),
    (give_context, 2**70),
    (give_context, float("nan")),
    (give_context, object()),
    (map_index, 2**31),
    (map_index, 2**70),
    (map_index, -(2**70)),
    (register, {"a": "dict"}),
    (register, "text"),
    (register, 2**70),
    (start_at, datetime.datetime.max.replace(tzinfo=datetime.UTC)),
    (start_at, datetime.datetime.min.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=2)))),
]


@pytest.mark.parametrize(("call", "value"), CASES)
async def test_a_value_is_stored_or_refused(world: World, call: Call, value: Any) -> None:
    await world.build()
    before = [await world.rows(table) for table in ("flow", "flow_run", "task_run")]
    stored = True
    try:
        await call(world, value)
    except BackendRejected:
        stored = False
    assert stored or [await world.rows(table) for table in ("flow", "flow_run", "task_run")] == before
    await world.store.set_flow_run_name(ANYONE, flow_run_id=world.run_id, name="goes on")
    assert (await world.flow_run())["name"] == "goes on"


async def test_a_comparison_that_sqlite_cannot_make_is_no_outage(tmp_path: Path) -> None:
    """It takes patterns of 50,000 bytes; who took that for an outage would ask again for minutes."""
    compared = select(literal("a name").like("x" * 60_000))
    async with Store(f"sqlite:///{tmp_path}/runs.db") as store:
        with pytest.raises(BackendRejected, match="refuses: LIKE or GLOB pattern too complex"):
            await store.read(ANYONE, lambda tx: tx.connection.execute(compared).all())
