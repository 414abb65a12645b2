"""The tables themselves: their relations, their owners, and indexes for what is asked often."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import UniqueConstraint

from flowloop.backends.store import ANYONE, StateUpdate, Store
from flowloop.backends.store.schema import PUBLIC, RELATIONS, metadata

from .world import FENCED, START, ManualClock, World, events_every_hour, flow_document, state

GROWING = ("flow_run", "task_run", "flow_run_state", "task_run_state", "log", "task_run_artifact", "task_slot")


def test_relations_lead_from_column_to_column() -> None:
    for table, relations in RELATIONS.items():
        names = [relation.name for relation in relations]
        assert len(names) == len(set(names))
        assert not set(names) & set(metadata.tables[table].c.keys())
        for relation in relations:
            here = metadata.tables[table].c[relation.local]
            there = metadata.tables[relation.table].c[relation.remote]
            if relation.name in ("parent_task_run", "children"):
                continue  # a parent may be gone; task runs refer to flow runs already
            (reference,) = (there if relation.many else here).foreign_keys
            assert reference.column is (here if relation.many else there), f"{table}.{relation.name}"


def test_every_public_row_has_an_owner() -> None:
    assert {name for name in PUBLIC if "tenant_id" not in metadata.tables[name].c} == {"tenant"}
    assert "secret" not in PUBLIC


def test_the_columns_of_secrets_are_internal() -> None:
    hidden = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.c
        if column.info.get("internal")
    }
    assert {"api_key.key_hash", "secret.ciphertext"} <= hidden


def test_what_refers_to_a_growing_table_is_indexed() -> None:
    for table in metadata.tables.values():
        leading = {next(iter(index.columns)).name for index in table.indexes}
        leading |= {next(iter(table.primary_key.columns)).name} if table.primary_key.columns else set()
        for constraint in table.constraints:
            if isinstance(constraint, UniqueConstraint):
                leading.add(next(iter(constraint.columns)).name)
        for column in table.c:
            for reference in column.foreign_keys:
                if reference.column.table.name in GROWING:
                    assert column.name in leading, f"{table.name}.{column.name}"


Call = Callable[[World], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "set task run states": lambda world: world.store.set_task_run_states(
        FENCED,
        [
            StateUpdate(world.task_runs["a"], state("Running"), 1),
            StateUpdate(world.task_runs["a"], state("Running"), 0),
        ],
    ),
    "cancel": lambda world: world.store.set_flow_run_states(FENCED, [StateUpdate(world.run_id, state("Cancelled"))]),
    "restart": lambda world: world.store.restart_flow_run(ANYONE, flow_run_id=world.run_id),
    "task runs": lambda world: world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=[0, 500]
    ),
    "info": lambda world: world.store.get_flow_run_info(ANYONE, flow_run_id=world.run_id),
    "history": lambda world: world.store.get_flow_run_history(ANYONE, flow_run_id=world.run_id),
    "history by name": lambda world: world.store.get_flow_run_history(ANYONE, flow_run_id=world.run_id[:30]),
    "list": lambda world: world.store.list_flow_runs(ANYONE),
    "queue": lambda world: world.store.get_runs_in_queue(ANYONE),
    "reserve": lambda world: world.store.reserve_flow_runs(ANYONE, worker_id="w"),
    "cached": lambda world: world.store.get_latest_cached_states(
        ANYONE, task_id=world.tasks["a"], cache_key=None, created_after=START
    ),
    "cached by key": lambda world: world.store.get_latest_cached_states(
        ANYONE, task_id=world.tasks["a"], cache_key="k", created_after=START
    ),
    "zombies": lambda world: world.store.kill_zombies(ANYONE),
    "lazarus": lambda world: world.store.revive(ANYONE),
    "scheduler": lambda world: world.store.schedule_flow_runs(ANYONE, flow_id=world.flow_id),
    "prune": lambda world: world.store.prune(datetime.timedelta(days=1)),
    "delete": lambda world: world.store.delete_flow_run(ANYONE, flow_run_id=world.run_id),
    "logs": lambda world: world.store.write_run_logs(FENCED, logs=[{"flow_run_id": world.run_id, "message": "m"}]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_no_growing_table_is_read_from_end_to_end(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.db"
    seen: list[str] = []
    connect = sqlite3.connect

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    clock = ManualClock()
    async with Store(f"sqlite:///{path}", clock=clock, synchronous="OFF", next_events=events_every_hour) as store:
        await store.default_tenant(ANYONE)
        world = await World(store, clock).build(flow_document(schedule={"clocks": [{}]}))
        if call is CALLS["restart"]:
            await world.flow_state(state("Failed"), 1)
        clock.move(days=2)
        seen.clear()
        await call(world)
        statements = list(seen)
        monkeypatch.undo()
        connection = connect(path)
        scanned = []
        for statement in statements:
            if statement.split()[0] in ("SELECT", "UPDATE", "DELETE", "WITH"):
                for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                    words = row[3].split()
                    if words[0] == "SCAN" and words[1] in GROWING and "USING" not in words:
                        scanned.append((row[3], statement))
        connection.close()
    assert statements
    assert scanned == []
