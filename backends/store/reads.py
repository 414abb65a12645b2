"""What the runners and the command line read: one flow run with its tasks, lists, histories."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, RowMapping, and_, case, false, func, not_, null, or_, select

from ...engine import lifecycle
from ...engine.backend import FlowRunFilter
from ...engine.errors import BackendRejected
from .hosted import LIMITS
from .ids import is_id
from .records import Payload
from .tx import Tx, tables

__all__ = [
    "find_flow",
    "find_flow_run",
    "get_flow_run_history",
    "get_flow_run_info",
    "get_flow_run_infos",
    "get_flow_run_states",
    "get_latest_cached_states",
    "get_run_logs",
    "list_flow_runs",
    "list_flows",
    "list_limits",
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


_RUN = (
    "id",
    "name",
    "flow_id",
    "version",
    "serialized_state",
    "parameters",
    "context",
    "scheduled_start_time",
    "heartbeat",
    "owner",
    "epoch",
    "start_time",
    "limits",
)


def get_flow_run_info(tx: Tx, *, flow_run_id: str) -> Payload:
    """Return all that a runner needs to begin, in one read.

    Returns:
        - Payload: ``id``, ``name``, ``flow_id``, ``version``, ``serialized_state``, ``parameters``, ``context``,
          ``scheduled_start_time``, ``heartbeat``, ``owner``, ``epoch``, ``start_time``, ``limits``, ``project``
          (``id`` and ``name``, or None), and ``task_runs``: of the runs with map index -1: ``id``, ``task_id``,
          ``task_slug``, ``version``, ``serialized_state``
    """
    (found,) = get_flow_run_infos(tx, flow_run_ids=[flow_run_id])
    if isinstance(found, BackendRejected):
        raise found
    return found


def get_flow_run_infos(
    tx: Tx, *, flow_run_ids: Sequence[str], at_most: int | None = None
) -> list[Payload | BackendRejected]:
    """Return what `get_flow_run_info` does of many flow runs, and a refusal for one that there is not.

    Args:
        - flow_run_ids: the flow runs
        - at_most: with more task runs in all, nothing is returned
    """
    ids = [flow_run_id for flow_run_id in flow_run_ids if is_id(flow_run_id)]
    run, flow, project = tables["flow_run"], tables["flow"], tables["project"]
    columns = [run.c[name] for name in _RUN]
    whose = [project.c.id.label("project_id"), project.c.name.label("project_name")]
    joined = run.join(flow, flow.c.id == run.c.flow_id).outerjoin(project, project.c.id == flow.c.project_id)
    runs = tx.all(select(*columns, *whose).select_from(joined).where(run.c.id.in_(ids), tx.mine("flow_run")))
    task_run, task = tables["task_run"], tables["task"]
    task_runs: dict[str, list[Payload]] = {row["id"]: [] for row in runs}
    listed = (
        select(
            task_run.c.flow_run_id,
            task_run.c.id,
            task_run.c.task_id,
            task.c.slug.label("task_slug"),
            task_run.c.version,
            task_run.c.serialized_state,
        )
        .select_from(task_run.join(task, task_run.c.task_id == task.c.id))
        .where(task_run.c.flow_run_id.in_(list(task_runs)), task_run.c.map_index == -1)
        .order_by(task_run.c.id)
    )
    rows = tx.connection.execute(listed if at_most is None else listed.limit(at_most + 1)).all()
    if at_most is not None and len(rows) > at_most:
        return []
    for flow_run_id, *row in rows:
        task_runs[flow_run_id].append(dict(zip(_TASK_RUN, row, strict=True)))
    found = {
        row["id"]: {
            **{key: row[key] for key in _RUN},
            "project": None if row["project_id"] is None else {"id": row["project_id"], "name": row["project_name"]},
            "task_runs": task_runs[row["id"]],
        }
        for row in runs
    }
    return [found.get(flow_run_id) or BackendRejected("Invalid flow run ID") for flow_run_id in flow_run_ids]


def get_flow_run_states(tx: Tx, *, flow_run_ids: Sequence[str]) -> list[Any]:
    """Return the documents of the newest states of flow runs, and a refusal for one that there is not."""
    run = tables["flow_run"].c
    ids = [flow_run_id for flow_run_id in flow_run_ids if is_id(flow_run_id)]
    rows = tx.all(select(run.id, run.serialized_state).where(run.id.in_(ids), tx.mine("flow_run")))
    found = {row["id"]: row["serialized_state"] for row in rows}
    return [found.get(flow_run_id, BackendRejected("Invalid flow run ID")) for flow_run_id in flow_run_ids]


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


def list_flow_runs(tx: Tx, *, limit: int = 20, only: FlowRunFilter | None = None) -> list[Payload]:
    """Return the newest flow runs, newest first; all that there are, or those that a filter lets through.

    Returns:
        - list[Payload]: of each: ``id``, ``name``, ``flow_id``, ``flow_name``, ``state``, ``state_message``,
          ``created``, ``start_time``, ``end_time``, ``scheduled_start_time``, ``parent_task_run_id``
    """
    return [_summary(row) for row in _flow_runs(tx, *_conditions(only or FlowRunFilter()), limit=limit)]


def _conditions(only: FlowRunFilter) -> Iterator[ColumnElement[bool]]:
    run, flow = tables["flow_run"].c, tables["flow"].c
    if only.flow is not None:
        yield flow.name == only.flow
    if only.states:
        yield run.state.in_(only.states)
    if only.since is not None:
        yield run.created >= only.since
    if only.until is not None:
        yield run.created < only.until
    if only.search is not None:
        yield or_(*(column.icontains(only.search, autoescape=True) for column in (run.name, flow.name)))
    if only.due_before is not None:
        is_planned = and_(run.state == "Scheduled", run.scheduled_start_time >= only.due_before)
        yield not_(func.coalesce(is_planned, false()))
    if not only.parts:
        yield run.parent_task_run_id.is_(None)
    if only.part_of is not None:
        task_run = tables["task_run"].c
        yield run.parent_task_run_id.in_(select(task_run.id).where(task_run.flow_run_id == only.part_of))


def list_flows(tx: Tx) -> list[Payload]:
    """Return the newest version of every flow that is not archived, by name.

    Returns:
        - list[Payload]: of each: ``id``, ``name``, ``version``, ``project``, ``has_schedule``, ``schedule_active``,
          ``next_run``, ``parameters``
    """
    flow, project, group, run = (tables[name] for name in ("flow", "project", "flow_group", "flow_run"))
    newest = select(func.max(flow.c.version)).where(flow.c.flow_group_id == group.c.id, flow.c.archived.is_(False))
    next_run = select(func.min(run.c.scheduled_start_time)).where(
        run.c.flow_id == flow.c.id, run.c.state == "Scheduled", run.c.auto_scheduled.is_(True)
    )
    columns = (flow.c.id, flow.c.name, flow.c.version, flow.c.is_schedule_active, flow.c.schedule, flow.c.parameters)
    rows = tx.all(
        select(
            *columns,
            group.c.schedule.label("group_schedule"),
            project.c.name.label("project"),
            next_run.correlate(flow).scalar_subquery().label("next_run"),
        )
        .select_from(flow.join(group, flow.c.flow_group_id == group.c.id).outerjoin(project))
        .where(tx.mine("flow"), flow.c.version == newest.correlate(group).scalar_subquery())
        .order_by(flow.c.name, project.c.name)
    )
    return [
        {
            **{key: row[key] for key in ("id", "name", "version", "next_run", "parameters")},
            "project": row["project"] or "",
            "has_schedule": bool(row["group_schedule"] or row["schedule"]),
            "schedule_active": row["is_schedule_active"],
        }
        for row in rows
    ]


def list_limits(tx: Tx) -> list[Payload]:
    """Return the limits on task tags and on the labels of flow runs: ``kind``, ``name``, ``limit``, ``period``."""
    found: list[Payload] = []
    for kind, (table, key) in LIMITS.items():
        limit = tables[table].c
        period = limit.get("period", null().label("period"))
        rows = tx.all(select(limit[key].label("name"), limit.limit, period).where(tx.mine(table)).order_by(limit[key]))
        found += [{"kind": kind, **row} for row in rows]
    return found


def get_run_logs(tx: Tx, *, flow_run_id: str, skip: int = 0, limit: int = 1000) -> list[Payload]:
    """Return lines of a flow run's log in the order they came in: the fields of a line of `write_run_logs`."""
    log = tables["log"].c
    rows = tx.all(
        select(log.flow_run_id, log.task_run_id, log.timestamp, log.name, log.level, log.message)
        .where(tx.mine("log"), log.flow_run_id == flow_run_id)
        .order_by(log.created, log.id)
        .offset(skip)
        .limit(limit)
    )
    return [dict(row) for row in rows]


def find_flow_run(tx: Tx, *, name: str) -> Payload:
    """Return a flow run, as `list_flow_runs` does, by its id, the unique beginning of that, or its name."""
    return _summary(_resolve(tx, name))


def get_flow_run_history(tx: Tx, *, flow_run_id: str) -> Payload:
    """Return a flow run with its states, and all its task runs with theirs.

    Args:
        - flow_run_id: an id, the unique beginning of one, or the name of a flow run (the newest of that name)

    Returns:
        - Payload: the fields of `list_flow_runs`, ``states`` (``version``, ``timestamp``, ``state``, ``message``,
          ``traceback``; oldest first), and ``task_runs``: ``id``, ``task_slug``, ``map_index``, ``name``, ``state``,
          ``start_time``, ``end_time``, ``states``
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
    # the documents of all states would be many bytes; those of failures tell where they come from
    document = case((state.state.in_(sorted(lifecycle.FAILED)), state.serialized_state)).label("document")
    columns = (state.version, state.timestamp, state.state, state.message)
    return select(run_id.label("run_id"), *columns, document).order_by(run_id, state.version)


def _state(row: RowMapping) -> Payload:
    known = {key: row[key] for key in ("version", "timestamp", "state", "message")}
    return {**known, "traceback": traceback_in(row["document"])}


def traceback_in(document: Any) -> str | None:
    """Return the traceback in the document of a state, if there is one."""
    if document is None:
        return None
    return _decode_traceback(bytes(document) if isinstance(document, msgspec.Raw) else document).context.traceback


class _Context(msgspec.Struct):
    traceback: str | None = None


class _Told(msgspec.Struct):
    context: _Context = msgspec.field(default_factory=_Context)


_decode_traceback = msgspec.json.Decoder(_Told).decode


def _flow_runs(tx: Tx, *where: ColumnElement[bool], limit: int) -> Sequence[RowMapping]:
    run, flow = tables["flow_run"], tables["flow"]
    columns = (run.c.id, run.c.name, run.c.flow_id, flow.c.name.label("flow_name"), run.c.state, run.c.state_message)
    times = (run.c.created, run.c.start_time, run.c.end_time, run.c.scheduled_start_time)
    found = select(*columns, *times, run.c.parent_task_run_id).select_from(run.join(flow, run.c.flow_id == flow.c.id))
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
