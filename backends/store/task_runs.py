"""Task runs: created for a flow run, found or created one by one, named, counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import RowMapping, func, select

from ...engine.errors import BackendRejected
from ...engine.serialization.text import storable
from .ids import is_id
from .records import Kind, Payload
from .transitions import VERSION, no_result
from .tx import Tx, document, tables

__all__ = [
    "beat",
    "create_static",
    "get_or_create_task_run",
    "get_or_create_task_run_info",
    "get_or_create_task_runs",
    "get_task_run_info",
    "mapped_children",
    "set_task_run_name",
    "update_task_run_heartbeat",
]

_PENDING = '{"type":"Pending","message":"Task run created"}'
_PENDING_IN_FULL = document(
    {
        "type": "Pending",
        "message": "Task run created",
        "__version__": VERSION,
        "context": {},
        "cached_inputs": {},
        "_result": no_result(),
    }
)

_CHUNK = 10_000  # as many map indices are looked up by one statement


def create_static(tx: Tx, runs: Sequence[tuple[str, str, Sequence[tuple[str, str | None]]]]) -> list[list[str]]:
    """Create the task run of every task of flow runs, Pending, and return their ids, flow run by flow run.

    Args:
        - runs: of each flow run: its tenant, its id, and id and cache key of each of its tasks
    """
    now = tx.database.moment(tx.now)
    rows = [
        (tenant_id, now, flow_run_id, task_id, -1, cache_key, _PENDING, tx.new_id(), tx.new_id())
        for tenant_id, flow_run_id, tasks in runs
        for task_id, cache_key in tasks
    ]
    if rows:
        tx.database.insert_task_runs(tx.connection, rows)
    ids = iter(row[-1] for row in rows)
    return [[next(ids) for _ in tasks] for _, _, tasks in runs]


def get_or_create_task_runs(tx: Tx, *, flow_run_id: str, task_id: str, map_indices: Sequence[int]) -> list[Payload]:
    """Return many runs of one task, in the order asked, those that are new created Pending.

    Returns:
        - list[Payload]: of each: ``id``, ``version``, ``state``, ``serialized_state``, ``map_index``
    """
    flow_run, task = _flow_run_and_task(tx, flow_run_id, task_id)
    wanted = list(dict.fromkeys(map_indices))
    found = _find(tx, flow_run["id"], task["id"], wanted)
    found |= _create(tx, flow_run, task, [index for index in wanted if index not in found])
    return [found[index] for index in map_indices]


def _flow_run_and_task(tx: Tx, flow_run_id: str, task_id: str) -> tuple[RowMapping, RowMapping]:
    task = tx.row("task", task_id, "Invalid task ID")
    flow_run = tx.row("flow_run", flow_run_id, "Invalid flow run ID")
    if task["flow_id"] != flow_run["flow_id"]:
        raise BackendRejected("Invalid task ID")
    return flow_run, task


def _find(tx: Tx, flow_run_id: str, task_id: str, indices: Sequence[int]) -> dict[int, Payload]:
    """Return the runs of a task with these map indices, those that there are."""
    run = tables["task_run"].c
    columns = (run.id, run.version, run.state, run.serialized_state, run.map_index)
    mine = select(*columns).where(run.flow_run_id == flow_run_id, run.task_id == task_id)
    found: dict[int, Payload] = {}
    for start in range(0, len(indices), _CHUNK):
        some = indices[start : start + _CHUNK]
        lowest, highest = min(some), max(some)
        dense = highest - lowest < 2 * len(some)
        chosen = run.map_index.between(lowest, highest) if dense else run.map_index.in_(some)
        for row in tx.connection.execute(mine.where(chosen)):
            found[row[4]] = _payload(*row)
    return {index: found[index] for index in indices if index in found}


def _create(tx: Tx, flow_run: RowMapping, task: RowMapping, indices: Sequence[int]) -> dict[int, Payload]:
    """Create runs of a task, and return them; where another transaction was first, return its run."""
    if not indices:
        return {}
    common = (flow_run["tenant_id"], tx.database.moment(tx.now), flow_run["id"], task["id"])
    rows = [
        (*common, index, task["cache_key"], _PENDING_IN_FULL, tx.new_id(), tx.new_id()) for index in sorted(indices)
    ]
    created = set(tx.database.insert_task_runs(tx.connection, rows))
    document = msgspec.Raw(_PENDING_IN_FULL.encode())
    made = {row[4]: _payload(row[-1], 1, "Pending", document, row[4]) for row in rows if row[-1] in created}
    return made | _find(tx, flow_run["id"], task["id"], [index for index in indices if index not in made])


def _payload(run_id: str, version: int, state: str, document: msgspec.Raw, map_index: int) -> Payload:
    return {"id": run_id, "version": version, "state": state, "serialized_state": document, "map_index": map_index}


def get_or_create_task_run_info(tx: Tx, *, flow_run_id: str, task_id: str, map_index: int | None = None) -> Payload:
    """Return a task run, created Pending if it is new.

    A client that nobody fences is told version 0 of a run that has just been created, as it always was.

    Returns:
        - Payload: ``id``, ``version``, ``state``, ``serialized_state``
    """
    flow_run, task = _flow_run_and_task(tx, flow_run_id, task_id)
    index = -1 if map_index is None else map_index
    found = _find(tx, flow_run["id"], task["id"], [index])
    if found:
        return found[index]
    info = _create(tx, flow_run, task, [index])[index]
    if tx.caller.client_id is None and not _is_locked(tx, flow_run):
        info["version"] = 0
    return info


def _is_locked(tx: Tx, flow_run: RowMapping) -> bool:
    facts = tx.database.flow_facts(tx.connection, [flow_run["flow_id"]])
    return bool(facts[0][2])


def get_or_create_task_run(tx: Tx, *, flow_run_id: str, task_id: str, map_index: int | None = None) -> Payload:
    """Return the id of a task run, created Pending if it is new."""
    return {"id": get_or_create_task_run_info(tx, flow_run_id=flow_run_id, task_id=task_id, map_index=map_index)["id"]}


def get_task_run_info(tx: Tx, *, task_run_id: str) -> Payload:
    """Return the newest state of a task run: ``id``, ``version``, ``state``, ``serialized_state``."""
    run = tx.row("task_run", task_run_id, "Invalid task run ID")
    return {key: run[key] for key in ("id", "task_id", "version", "state", "serialized_state", "map_index")}


def mapped_children(tx: Tx, *, task_run_id: str) -> Payload:
    """Return what became of the children of a mapped task run.

    Returns:
        - Payload: ``min_start_time``, ``max_end_time``, and ``state_counts``
    """
    parent = tx.row("task_run", task_run_id, "Invalid task run ID")
    run = tables["task_run"].c
    children = (run.flow_run_id == parent["flow_run_id"], run.task_id == parent["task_id"], run.map_index >= 0)
    times = tx.first(
        select(func.min(run.start_time).label("first"), func.max(run.end_time).label("last")).where(*children)
    )
    counts = tx.connection.execute(select(run.state, func.count()).where(*children).group_by(run.state))
    return {
        "min_start_time": times["first"] if times else None,
        "max_end_time": times["last"] if times else None,
        "state_counts": {row[0]: row[1] for row in counts},
    }


def set_task_run_name(tx: Tx, *, task_run_id: str, name: str) -> Payload:
    """Name a task run."""
    if not name:
        raise BackendRejected("Invalid task run name.")
    run = tx.row("task_run", task_run_id, "Invalid task run ID.")
    tx.update("task_run", tables["task_run"].c.id == run["id"], name=storable(name))
    return {"success": True}


def update_task_run_heartbeat(tx: Tx, *, task_run_id: str) -> Payload:
    """Note that the process of a task run is alive. An unknown id is not reported."""
    beat(tx, "task_run", task_run_id)
    return {"success": True}


def beat(tx: Tx, kind: Kind, run_id: str) -> None:
    """Set the heartbeat of a run to now."""
    if is_id(run_id):
        run: Any = tables[kind].c
        tx.update(kind, run.id == run_id, tx.mine(kind), heartbeat=tx.now)
