"""What the runners and the command line read: one flow run with its tasks, lists, histories."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, select

from ...engine.errors import BackendRejected
from .ids import is_id
from .records import Payload
from .tx import Tx, tables

__all__ = [
    "find_flow",
    "get_flow_run_history",
    "get_flow_run_info",
    "get_flow_run_state",
    "get_latest_cached_states",
    "list_flow_runs",
]


_TASK_RUN = ("id", "task_id", "task_slug", "version", "serialized_state")


def find_flow(tx: Tx, *, name: str, project_name: str | None = None) -> Payload | None:
    """Return the newest unarchived version of a flow by its name, or None: ``id``, ``version``, ``flow_group_id``."""
    flow, project = tables["flow"], tables["project"]
    found = select(flow.c.id, flow.c.version, flow.c.flow_group_id).where(
        flow.c.name == name, flow.c.archived.is_(False), tx.mine("flow")
    )
    if project_name is not None:
        found = found.join(project, flow.c.project_id == project.c.id).where(project.c.name == project_name)
    row = tx.first(found.order_by(flow.c.version.desc(), flow.c.id.desc()))
    return None if row is None else dict(row)


def get_flow_run_info(tx: Tx, *, flow_run_id: str) -> Payload:
    """Return all that a runner needs to begin, in one read.

    Returns:
        - Payload: ``id``, ``name``, ``flow_id``, ``version``, ``serialized_state``, ``parameters``, ``context``,
          ``scheduled_start_time``, ``heartbeat``, ``project`` (``id`` and ``name``, or None), and ``task_runs``: of
          the runs with map index -1: ``id``, ``task_id``, ``task_slug``, ``version``, ``serialized_state``
    """
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID")
    flow, project = tables["flow"], tables["project"]
    owner = tx.first(
        select(project.c.id, project.c.name)
        .select_from(flow.join(project, flow.c.project_id == project.c.id))
        .where(flow.c.id == run["flow_id"])
    )
    task_run, task = tables["task_run"], tables["task"]
    task_runs = tx.connection.execute(
        select(
            task_run.c.id,
            task_run.c.task_id,
            task.c.slug.label("task_slug"),
            task_run.c.version,
            task_run.c.serialized_state,
        )
        .select_from(task_run.join(task, task_run.c.task_id == task.c.id))
        .where(task_run.c.flow_run_id == run["id"], task_run.c.map_index == -1)
        .order_by(task_run.c.id)
    ).all()
    wanted = (
        "id",
        "name",
        "flow_id",
        "version",
        "serialized_state",
        "parameters",
        "context",
        "scheduled_start_time",
        "heartbeat",
    )
    return {
        **{key: run[key] for key in wanted},
        "project": None if owner is None else dict(owner),
        "task_runs": [dict(zip(_TASK_RUN, row, strict=True)) for row in task_runs],
    }


def get_flow_run_state(tx: Tx, *, flow_run_id: str) -> Payload:
    """Return the newest state of a flow run: ``id``, ``version``, ``state``, ``serialized_state``."""
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID")
    return {key: run[key] for key in ("id", "version", "state", "serialized_state")}


def get_latest_cached_states(
    tx: Tx, *, task_id: str, cache_key: str | None, created_after: datetime.datetime, limit: int = 100
) -> list[Any]:
    """Return the documents of the Cached states of a task, or of a cache key if there is one, newest first."""
    run = tables["task_run"].c
    if not is_id(task_id) and cache_key is None:
        return []
    found = select(run.serialized_state).where(
        run.cached_at >= created_after,
        run.cache_key == cache_key if cache_key is not None else run.task_id == task_id,
        tx.mine("task_run"),
    )
    newest_first = found.order_by(run.cached_at.desc(), run.id.desc())
    return list(tx.connection.execute(newest_first.limit(limit)).scalars())


def list_flow_runs(tx: Tx, *, limit: int = 20) -> list[Payload]:
    """Return the newest flow runs, newest first.

    Returns:
        - list[Payload]: of each: ``id``, ``name``, ``flow_id``, ``flow_name``, ``state``, ``state_message``,
          ``created``, ``start_time``, ``end_time``
    """
    return [_summary(row) for row in _flow_runs(tx, limit=limit)]


def get_flow_run_history(tx: Tx, *, flow_run_id: str) -> Payload:
    """Return a flow run with its states, and all its task runs with theirs.

    Args:
        - flow_run_id: an id, the unique beginning of one, or the name of a flow run (the newest of that name)

    Returns:
        - Payload: the fields of `list_flow_runs`, ``states`` (``version``, ``timestamp``, ``state``, ``message``;
          oldest first), and ``task_runs``: ``id``, ``task_slug``, ``map_index``, ``name``, ``state``, ``start_time``,
          ``end_time``, ``states``
    """
    run = _summary(_resolve(tx, flow_run_id))
    task_run, task = tables["task_run"], tables["task"]
    rows = tx.all(
        select(
            task_run.c.id,
            task.c.slug.label("task_slug"),
            task_run.c.map_index,
            task_run.c.name,
            task_run.c.state,
            task_run.c.start_time,
            task_run.c.end_time,
        )
        .select_from(task_run.join(task, task_run.c.task_id == task.c.id))
        .where(task_run.c.flow_run_id == run["id"])
        .order_by(task_run.c.task_id, task_run.c.map_index)
    )
    task_runs: dict[str, Payload] = {row["id"]: {**row, "states": []} for row in rows}
    state = tables["task_run_state"]
    of_run = task_run.c.flow_run_id == run["id"]
    joined = state.join(task_run, state.c.task_run_id == task_run.c.id)
    for row in tx.all(_states(state.c.task_run_id, "task_run_state").select_from(joined).where(of_run)):
        owner = task_runs.get(row["run_id"])
        if owner is not None:
            owner["states"].append(_state(row))
    own = tables["flow_run_state"].c.flow_run_id
    states = tx.all(_states(own, "flow_run_state").where(own == run["id"]))
    return {**run, "states": [_state(row) for row in states], "task_runs": list(task_runs.values())}


def _states(run_id: ColumnElement[Any], table: str) -> Any:
    state = tables[table].c
    return select(run_id.label("run_id"), state.version, state.timestamp, state.state, state.message).order_by(
        run_id, state.version
    )


def _state(row: RowMapping) -> Payload:
    return {key: row[key] for key in ("version", "timestamp", "state", "message")}


def _flow_runs(tx: Tx, *where: ColumnElement[bool], limit: int) -> Sequence[RowMapping]:
    run, flow = tables["flow_run"], tables["flow"]
    columns = (run.c.id, run.c.name, run.c.flow_id, flow.c.name.label("flow_name"), run.c.state, run.c.state_message)
    times = (run.c.created, run.c.start_time, run.c.end_time)
    found = select(*columns, *times).select_from(run.join(flow, run.c.flow_id == flow.c.id))
    return tx.all(found.where(tx.mine("flow_run"), *where).order_by(run.c.created.desc(), run.c.id.desc()).limit(limit))


def _summary(row: RowMapping) -> Payload:
    return dict(row)


def _resolve(tx: Tx, text: str) -> RowMapping:
    run = tables["flow_run"].c
    if is_id(text):
        found = _flow_runs(tx, run.id == text, limit=1)
    else:
        found = _flow_runs(tx, run.name == text, limit=1) or _by_beginning(tx, text)
    if not found:
        raise BackendRejected(f"There is no flow run {text!r}.")
    return found[0]


def _by_beginning(tx: Tx, text: str) -> Sequence[RowMapping]:
    """Return the one flow run whose id begins with `text`."""
    beginning = text.lower()
    if not beginning or beginning.strip("0123456789abcdef-") or len(beginning) > 36:
        return []
    lowest = beginning + "00000000-0000-0000-0000-000000000000"[len(beginning) :]
    highest = beginning + "ffffffff-ffff-ffff-ffff-ffffffffffff"[len(beginning) :]
    if not is_id(lowest):
        return []
    run = tables["flow_run"].c
    found = _flow_runs(tx, run.id >= lowest, run.id <= highest, limit=2)
    if len(found) > 1:
        raise BackendRejected(f"Several flow runs begin with {text!r}: give more of the id.")
    return found
