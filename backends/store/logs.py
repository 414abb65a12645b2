"""What runs leave behind beside states: log lines and artifacts."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, select

from ...engine.errors import BackendRejected
from ...engine.serialization.text import storable
from .ids import is_id
from .records import Payload
from .tx import Tx, tables

__all__ = [
    "create_task_run_artifact",
    "delete_task_run_artifact",
    "list_artifacts",
    "update_task_run_artifact",
    "write_run_logs",
]

_LEVELS = frozenset({"NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_ARTIFACT_LIMIT = 1_000_000


class _Line(msgspec.Struct):
    """A log line that is well formed."""

    flow_run_id: str | None = None
    task_run_id: str | None = None
    timestamp: datetime.datetime | None = None
    name: str | None = None
    level: str | None = None
    message: str | None = None
    info: Any = None


def write_run_logs(tx: Tx, *, logs: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Payload:
    """Store log lines. One that is malformed, or of a run that does not exist, is dropped without a word.

    Args:
        - logs: lines with ``flow_run_id``, ``task_run_id``, ``timestamp`` (now), ``name``, ``level`` (INFO),
          ``message`` and ``info``; one alone need not be in a list
    """
    given = [logs] if isinstance(logs, Mapping) else logs
    lines = [line for item in given if (line := _read(item)) is not None]
    tenants = _tenants(tx, lines)
    rows: list[dict[str, Any]] = []
    for line in lines:
        owner = tenants.get(line.task_run_id or line.flow_run_id or "")
        if owner is None or (line.flow_run_id and line.flow_run_id not in tenants):
            continue
        rows.append(
            {
                "tenant_id": owner,
                "flow_run_id": line.flow_run_id,
                "task_run_id": line.task_run_id,
                "timestamp": line.timestamp or tx.now,
                "name": line.name and storable(line.name),
                "level": line.level or "INFO",
                "message": line.message and storable(line.message),
                "info": line.info,
            }
        )
    tx.insert_many("log", rows)
    return {"success": True}


def _read(item: object) -> _Line | None:
    try:
        line = msgspec.convert(item, _Line)
    except msgspec.ValidationError:
        return None
    ids = [run_id for run_id in (line.flow_run_id, line.task_run_id) if run_id is not None]
    known_level = line.level is None or line.level in _LEVELS
    return line if ids and all(map(is_id, ids)) and known_level else None


def _tenants(tx: Tx, lines: Sequence[_Line]) -> dict[str, str]:
    """Return the tenant of every run that the lines name and the caller may write to."""
    found: dict[str, str] = {}
    for kind in ("flow_run", "task_run"):
        run = tables[kind].c
        ids = list({run_id for line in lines if (run_id := getattr(line, f"{kind}_id")) is not None})
        for start in range(0, len(ids), 10_000):
            mine = select(run.id, run.tenant_id).where(run.id.in_(ids[start : start + 10_000]), tx.mine(kind))
            found |= {row[0]: row[1] for row in tx.connection.execute(mine)}
    return found


def create_task_run_artifact(
    tx: Tx, *, task_run_id: str, kind: str, data: Any = None, tenant_id: str | None = None
) -> Payload:
    """Attach an artifact to a task run."""
    run = tx.row("task_run", task_run_id, f"Task run {task_run_id} not found")
    if tenant_id is not None and tenant_id != run["tenant_id"]:
        raise BackendRejected("Invalid tenant ID.")
    _check_size(data)
    owners = {"tenant_id": run["tenant_id"], "flow_run_id": run["flow_run_id"], "task_run_id": run["id"]}
    return {"id": tx.insert("task_run_artifact", **owners, kind=kind, data=data)}


def update_task_run_artifact(tx: Tx, *, task_run_artifact_id: str, data: Any = None) -> Payload:
    """Replace the data of an artifact."""
    artifact = tx.row("task_run_artifact", task_run_artifact_id, f"Artifact {task_run_artifact_id} not found")
    _check_size(data)
    tx.update("task_run_artifact", tables["task_run_artifact"].c.id == artifact["id"], data=data)
    return {"success": True}


def delete_task_run_artifact(tx: Tx, *, task_run_artifact_id: str) -> Payload:
    """Delete an artifact."""
    artifact = tx.row("task_run_artifact", task_run_artifact_id, f"Artifact {task_run_artifact_id} not found")
    tx.run(delete(tables["task_run_artifact"]).where(tables["task_run_artifact"].c.id == artifact["id"]))
    return {"success": True}


def list_artifacts(tx: Tx, *, flow_run_id: str) -> list[Payload]:
    """Return the artifacts of a flow run, oldest first: ``id``, ``task_run_id``, ``kind``, ``data``, ``created``."""
    made = tables["task_run_artifact"].c
    found = select(made.id, made.task_run_id, made.kind, made.data, made.created)
    mine = found.where(tx.mine("task_run_artifact"), made.flow_run_id == flow_run_id)
    return [dict(row) for row in tx.all(mine.order_by(made.created, made.id))]


def _check_size(data: Any) -> None:
    if len(msgspec.json.encode(data)) > _ARTIFACT_LIMIT:
        raise BackendRejected("The data of an artifact is limited to 1,000,000 bytes.")
