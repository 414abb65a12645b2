"""Flows and what they are made of: registration, tasks and edges, archiving, schedules."""

from __future__ import annotations

import base64
import binascii
import logging
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import RowMapping, delete, func, select, update

from ...engine.errors import BackendRejected
from . import flow_runs, scheduling
from .documents import check_flow
from .records import Payload
from .transitions import set_states, state_update
from .tx import Tx, document, tables

__all__ = [
    "archive_flow",
    "create_flow",
    "create_flow_from_compressed_string",
    "delete_flow",
    "register_edges",
    "register_tasks",
    "set_schedule_active",
    "set_schedule_inactive",
]

_log = logging.getLogger("flowloop.store")

_TASK_COLUMNS = (
    "tenant_id",
    "flow_id",
    "name",
    "slug",
    "type",
    "max_retries",
    "retry_delay",
    "trigger",
    "tags",
    "auto_generated",
    "cache_key",
)
_EDGE_COLUMNS = ("tenant_id", "flow_id", "upstream_task_id", "downstream_task_id", "key", "mapped")

_OLDEST_CLIENT = (0, 6, 1)
_INFLATED_LIMIT = 100_000_000


def create_flow(
    tx: Tx,
    *,
    project_id: str,
    serialized_flow: dict[str, Any],
    set_schedule_active: bool = True,
    version_group_id: str | None = None,
    idempotency_key: str | None = None,
    description: str | None = None,
) -> Payload:
    """Register a version of a flow, with whatever tasks and edges its document contains.

    Args:
        - project_id: where
        - serialized_flow: the flow document
        - set_schedule_active: whether its schedule, if it has one, starts at once
        - version_group_id: the name of the flow group; by default that of the flow of this name in this project
        - idempotency_key: if the group was last registered under the same key, nothing is written
        - description: shown with the flow

    Returns:
        - Payload: ``id``, ``version``, and ``created``: whether this is a new version
    """
    # Locked: of two registrations of one flow, one takes the version after the other.
    project = tx.row("project", project_id, "Invalid project.", lock=True)
    name = serialized_flow.get("name")
    if not isinstance(name, str) or not name:
        raise BackendRejected("The serialized flow has no name.")
    core_version = serialized_flow.get("__version__")
    _check_core_version(core_version)
    group_id, existed = _flow_group(tx, project, name, version_group_id, idempotency_key)
    flow = tables["flow"].c
    if existed and idempotency_key is not None:
        newest = tx.first(
            select(flow.id, flow.version)
            .where(flow.flow_group_id == group_id, flow.archived.is_(False))
            .order_by(flow.version.desc())
        )
        if newest is not None and _same_key(tx, group_id, idempotency_key):
            return {**newest, "created": False}
    check_flow(serialized_flow)
    if existed:
        _set_group_setting(tx, group_id, "idempotency_key", idempotency_key)
    group = tx.row("flow_group", group_id, "Invalid flow group.")
    version = (tx.scalar(select(func.max(flow.version)).where(flow.flow_group_id == group_id)) or 0) + 1
    same_group = select(flow.id).where(flow.flow_group_id == group_id, flow.archived.is_(False))
    others = tx.connection.execute(same_group).scalars().all()
    flow_id = tx.insert(
        "flow",
        tenant_id=project["tenant_id"],
        project_id=project["id"],
        flow_group_id=group_id,
        version_group_id=group["name"],
        name=name,
        version=version,
        core_version=core_version,
        description=description or serialized_flow.get("description"),
        serialized_flow=serialized_flow,
        environment=serialized_flow.get("environment"),
        run_config=serialized_flow.get("run_config"),
        storage=serialized_flow.get("storage"),
        parameters=serialized_flow.get("parameters") or [],
        schedule=serialized_flow.get("schedule"),
    )
    row = tx.row("flow", flow_id, "Invalid flow ID.")
    _insert_tasks(tx, row, serialized_flow.get("tasks") or [])
    _insert_edges(tx, row, serialized_flow.get("edges") or [])
    if set_schedule_active:
        try:
            _activate(tx, row, group)
        except BackendRejected as error:
            _log.warning("the schedule of flow %s could not be started: %s", flow_id, error)
    # Their planned runs go with them; a run that somebody asked for stays, and can still be run.
    tx.update("flow", flow.id.in_(others), archived=True)
    flow_runs.delete_auto_scheduled(tx, others)
    return {"id": flow_id, "version": version, "created": True}


def create_flow_from_compressed_string(
    tx: Tx,
    *,
    project_id: str,
    serialized_flow: str,
    set_schedule_active: bool = True,
    version_group_id: str | None = None,
    idempotency_key: str | None = None,
    description: str | None = None,
) -> Payload:
    """Register a version of a flow whose document is gzipped and then in base64; as `create_flow`."""
    try:
        inflate = zlib.decompressobj(wbits=31)
        text = inflate.decompress(base64.b64decode(serialized_flow), _INFLATED_LIMIT)
        if not inflate.eof:
            raise ValueError("it is cut off, or too large")
        opened = msgspec.json.decode(text, type=dict[str, Any])
    except (binascii.Error, zlib.error, msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BackendRejected("Unable to decompress serialized flow") from error
    return create_flow(
        tx,
        project_id=project_id,
        serialized_flow=opened,
        set_schedule_active=set_schedule_active,
        version_group_id=version_group_id,
        idempotency_key=idempotency_key,
        description=description,
    )


def _check_core_version(core_version: object) -> None:
    numbers = str(core_version or "").split("+")[0].split(".")[:3]
    if all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) < _OLDEST_CLIENT:
        raise BackendRejected(f"Flows of core version {core_version} are not supported: 0.6.1 is the oldest.")


def _flow_group(
    tx: Tx, project: RowMapping, name: str, version_group_id: str | None, idempotency_key: str | None
) -> tuple[str, bool]:
    """Return the id of the group to register in, and whether it was there before."""
    flow, group = tables["flow"].c, tables["flow_group"].c
    if version_group_id is None:
        version_group_id = tx.scalar(
            select(flow.version_group_id)
            .where(flow.project_id == project["id"], flow.name == name)
            .order_by(flow.id.desc())
            .limit(1)
        )
    name = version_group_id or str(uuid.uuid4())
    same = select(group.id).where(group.tenant_id == project["tenant_id"], group.name == name)
    found = tx.first(same.with_for_update(key_share=True))
    if found is not None:
        return found["id"], True
    settings = {
        "heartbeat_enabled": True,
        "lazarus_enabled": True,
        "version_locking_enabled": tx.caller.client_id is not None,
        "idempotency_key": idempotency_key,
    }
    return tx.insert("flow_group", tenant_id=project["tenant_id"], name=name, settings=settings), False


def _same_key(tx: Tx, group_id: str, idempotency_key: str) -> bool:
    settings: dict[str, Any] = tx.row("flow_group", group_id, "Invalid flow group.")["settings"]
    return settings.get("idempotency_key") == idempotency_key


def _set_group_setting(tx: Tx, group_id: str, key: str, value: Any) -> None:
    group = tx.row("flow_group", group_id, "Invalid flow group.")
    tx.update("flow_group", tables["flow_group"].c.id == group_id, settings={**group["settings"], key: value})


# -- tasks and edges -----------------------------------------------------------------------------------


def register_tasks(tx: Tx, *, flow_id: str, serialized_tasks: Sequence[dict[str, Any]]) -> Payload:
    """Add tasks to a flow; those it has already, by their slug, stay as they are."""
    flow = tx.row("flow", flow_id, "Invalid flow ID.", lock=True)
    added = _insert_tasks(tx, flow, serialized_tasks)
    if added:
        flows = tables["flow"].c
        serialized = dict(tx.scalar(select(flows.serialized_flow).where(flows.id == flow["id"])))
        serialized["tasks"] = [*(serialized.get("tasks") or []), *added]
        tx.update("flow", tables["flow"].c.id == flow["id"], serialized_flow=serialized)
    return {"success": True}


def _insert_tasks(tx: Tx, flow: RowMapping, documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    known = set(_tasks_by_slug(tx, flow["id"]))
    added: list[dict[str, Any]] = []
    for task in documents:
        slug = task.get("slug")
        if not isinstance(slug, str) or not slug:
            raise BackendRejected("A task of the flow has no slug.")
        if slug not in known:
            known.add(slug)
            added.append(task)
    tx.insert_rows("task", _TASK_COLUMNS, [_task_row(flow, task) for task in added])
    return added


def _task_row(flow: RowMapping, task: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of `_TASK_COLUMNS`."""
    trigger = task.get("trigger")
    return (
        flow["tenant_id"],
        flow["id"],
        task.get("name") or task["slug"],
        task["slug"],
        task.get("type"),
        task.get("max_retries") or 0,
        _interval(task.get("retry_delay")),
        trigger.get("fn") if isinstance(trigger, dict) else None,
        document(task.get("tags") or []),
        bool(task.get("auto_generated")),
        task.get("cache_key"),
    )


def _interval(seconds: object) -> str | None:
    """Return seconds as ``HH:MM:SS``, the way intervals are shown."""
    if not isinstance(seconds, int | float):
        return None
    whole, fraction = divmod(seconds, 1)
    minutes, rest = divmod(int(whole), 60)
    text = f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"
    return f"{text}.{round(fraction * 1_000_000):06d}".rstrip("0") if fraction else text


def register_edges(tx: Tx, *, flow_id: str, serialized_edges: Sequence[dict[str, Any]]) -> Payload:
    """Add edges between the tasks of a flow; of several between the same two tasks the first is kept."""
    flow = tx.row("flow", flow_id, "Invalid flow ID.", lock=True)
    _insert_edges(tx, flow, serialized_edges)
    return {"success": True}


def _insert_edges(tx: Tx, flow: RowMapping, documents: Sequence[dict[str, Any]]) -> None:
    if not documents:
        return
    tasks = _tasks_by_slug(tx, flow["id"])
    known_edges = tables["edge"].c
    ends_of = select(known_edges.upstream_task_id, known_edges.downstream_task_id)
    pairs = ends_of.where(known_edges.flow_id == flow["id"])
    known = {(row[0], row[1]) for row in tx.connection.execute(pairs)}
    rows: list[tuple[Any, ...]] = []
    for edge in documents:
        try:
            ends = (tasks[edge["upstream_task"]["slug"]], tasks[edge["downstream_task"]["slug"]])
        except (KeyError, TypeError) as error:
            raise BackendRejected(
                "Edges could not be registered - some edges reference tasks that do not exist within this flow."
            ) from error
        if ends in known:
            continue
        known.add(ends)
        rows.append((flow["tenant_id"], flow["id"], *ends, edge.get("key"), bool(edge.get("mapped"))))
    tx.insert_rows("edge", _EDGE_COLUMNS, rows)


def _tasks_by_slug(tx: Tx, flow_id: str) -> dict[str, str]:
    task = tables["task"].c
    return {row[0]: row[1] for row in tx.connection.execute(select(task.slug, task.id).where(task.flow_id == flow_id))}


# -- the end of a flow, and its schedule ---------------------------------------------------------------


def archive_flow(tx: Tx, *, flow_id: str) -> Payload:
    """Archive a flow: its scheduled runs end, and no new ones begin."""
    flow = tx.row("flow", flow_id, "Invalid flow ID.")
    tx.update("flow", tables["flow"].c.id == flow["id"], archived=True)
    flow_runs.delete_auto_scheduled(tx, [flow["id"]])
    run = tables["flow_run"].c
    waiting = tx.all(select(run.id).where(run.flow_id == flow["id"], run.state == "Scheduled"))
    if waiting:
        message = f"Flow {flow['id']} was archived."
        set_states(tx, "flow_run", [state_update(row["id"], "Cancelled", message) for row in waiting])
    return {"success": True}


def delete_flow(tx: Tx, *, flow_id: str) -> Payload:
    """Delete a version of a flow with its runs."""
    flow = tx.row("flow", flow_id, "Invalid flow ID.")
    tx.run(delete(tables["flow_run"]).where(tables["flow_run"].c.flow_id == flow["id"]))
    tx.run(delete(tables["flow"]).where(tables["flow"].c.id == flow["id"]))
    return {"success": True}


def set_schedule_active(tx: Tx, *, flow_id: str) -> Payload:
    """Start the schedule of a flow, and plan its next runs. Without a schedule, ``success`` is false."""
    flow = tx.row("flow", flow_id, "Invalid flow ID.")
    return {"success": _activate(tx, flow, tx.row("flow_group", flow["flow_group_id"], "Invalid flow group."))}


def _activate(tx: Tx, flow: RowMapping, group: RowMapping) -> bool:
    schedule = group["schedule"] or flow["schedule"]
    if not schedule:
        return False
    required = {item["name"] for item in flow["parameters"] if item.get("required")}
    for clock in schedule.get("clocks") or []:
        if required - {*(clock.get("parameter_defaults") or {}), *group["default_parameters"]}:
            raise BackendRejected("Can not schedule a flow that has required parameters.")
    tx.run(update(tables["flow"]).where(tables["flow"].c.id == flow["id"]).values(is_schedule_active=True))
    scheduling.schedule_flow_runs(tx, flow_id=flow["id"])
    return True


def set_schedule_inactive(tx: Tx, *, flow_id: str) -> Payload:
    """Stop the schedule of a flow, and take its planned runs back."""
    flow = tx.row("flow", flow_id, "Invalid flow ID.")
    tx.update("flow", tables["flow"].c.id == flow["id"], is_schedule_active=False)
    flow_runs.delete_auto_scheduled(tx, [flow["id"]])
    return {"success": True}
