"""Telling people of flow runs: rules, what they have found, and what was sent. Who sends is `backends.notifier`.

A rule is a row of the table ``cloud_hook``. Each pass looks for what has happened since the last one and notes it once
for each rule, flow run and event; what is noted is sent, and tried again until it is, or has been tried often enough.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, RowMapping, Select, delete, or_, select, update

from ...engine import lifecycle
from ...engine.errors import BackendRejected
from . import ownership, parts
from .records import Payload
from .tx import Tx, tables

__all__ = [
    "delete_notification",
    "due_notifications",
    "list_notifications",
    "note_events",
    "note_sent",
    "set_notification",
]

KINDS = ("webhook", "email", "slack")
"""Where people are told."""

CONDITIONS = ("late", "stuck", "paused")
"""What people can be told of beside states."""

_AFTER = datetime.timedelta(minutes=1)
_OVERLAP = datetime.timedelta(minutes=2)
"""States of other processes, whose clocks differ, are not missed."""

_DELAYS = tuple(datetime.timedelta(seconds=seconds) for seconds in (10, 60, 300, 1800, 7200))
"""How long to wait after each attempt that failed; then it is given up."""

_AT_ONCE = 500


def set_notification(
    tx: Tx,
    *,
    name: str,
    kind: str,
    target: str,
    events: Sequence[str],
    flow: str | None = None,
    after: float | None = None,
) -> Payload:
    """Tell people from now on of what happens to flow runs; a rule of that name is replaced.

    Args:
        - name: of the rule
        - kind: ``"webhook"``, ``"email"`` or ``"slack"``
        - target: the URL, or the address
        - events: names of states of flow runs (Failed is any kind of failure), ``"late"``, ``"stuck"`` and ``"paused"``
        - flow: only runs of the flow of this name
        - after: seconds after which a run counts as late, or as stuck; 60 by default

    Returns:
        - Payload: ``id``
    """
    unknown = [event for event in events if event not in (*lifecycle.LIFECYCLE, *CONDITIONS)]
    if kind not in KINDS:
        raise BackendRejected(f"there is no notification by {kind!r}; there are: {', '.join(KINDS)}")
    if not name or not target or not events or unknown:
        what = f"{unknown[0]!r} is none" if unknown else "name, target and events are needed"
        raise BackendRejected(
            f"a notification is on states of flow runs (Failed, Success, …), {', '.join(CONDITIONS)}: {what}"
        )
    if kind != "email" and not target.startswith(("http://", "https://")):
        raise BackendRejected(f"the target of a notification by {kind} is a URL, not {target!r}")
    _delete(tx, name)
    owner = tx.tenant_or_default(None)
    config = {"target": target, **({} if after is None else {"after": after})}
    known = {"name": name, "type": kind.upper(), "states": list(events), "config": config, "active": True}
    group = None if flow is None else _group_of(tx, flow)
    return {"id": tx.insert("cloud_hook", tenant_id=owner, version_group_id=group, seen=tx.now, **known)}


def _group_of(tx: Tx, flow: str) -> str:
    columns = tables["flow"].c
    found = tx.first(select(columns.version_group_id).where(columns.name == flow, tx.mine("flow")))
    if found is None:
        raise BackendRejected(f"There is no flow {flow!r}.")
    return str(found["version_group_id"])


def delete_notification(tx: Tx, *, name: str) -> Payload:
    """Tell people no more of what a rule says."""
    if not _delete(tx, name):
        raise BackendRejected(f"There is no notification {name!r}.")
    return {"success": True}


def _delete(tx: Tx, name: str) -> int:
    hook = tables["cloud_hook"].c
    return tx.run(delete(tables["cloud_hook"]).where(hook.name == name, tx.mine("cloud_hook")))


def list_notifications(tx: Tx) -> list[Payload]:
    """Return the rules, by name: ``name``, ``kind``, ``target``, ``events``, ``flow``, ``after``."""
    hook, flow = tables["cloud_hook"], tables["flow"].c
    of_flow = select(flow.name).where(flow.version_group_id == hook.c.version_group_id).limit(1).scalar_subquery()
    rows = tx.all(select(hook, of_flow.label("flow")).where(tx.mine("cloud_hook")).order_by(hook.c.name))
    return [
        {
            "name": row["name"] or "",
            "kind": row["type"].lower(),
            "target": str((row["config"] or {}).get("target", "")),
            "events": list(row["states"] or ()),
            "flow": row["flow"],
            "after": (row["config"] or {}).get("after"),
        }
        for row in rows
    ]


# -- what has happened ---------------------------------------------------------------------------------


class _Event(NamedTuple):
    flow_run_id: str
    tenant_id: str
    event: str
    key: str
    message: str | None


def note_events(tx: Tx) -> int:
    """Note what has happened since the last pass, and return how much that is."""
    hook = tables["cloud_hook"]
    noted = 0
    for rule in tx.all(select(hook).where(hook.c.active.is_(True)).order_by(hook.c.id)):
        for event in _events(tx, rule):
            row = {**event._asdict(), "cloud_hook_id": rule["id"], "next_attempt": tx.now}
            row |= {"id": tx.new_id(), "created": tx.now, "updated": tx.now}
            claim = tx.upsert("notification").values(row)
            noted += tx.run(claim.on_conflict_do_nothing(index_elements=["cloud_hook_id", "flow_run_id", "key"]))
        tx.run(update(hook).where(hook.c.id == rule["id"]).values(seen=tx.now))
    return noted


def _events(tx: Tx, rule: RowMapping) -> Iterator[_Event]:
    run = tables["flow_run"].c
    since = max((rule["seen"] or rule["created"]) - _OVERLAP, rule["created"])
    wanted = set(rule["states"] or ())
    states = sorted(wanted & lifecycle.LIFECYCLE.keys() | (lifecycle.FAILED if "Failed" in wanted else set()))
    after = datetime.timedelta(seconds=(rule["config"] or {}).get("after", _AFTER.total_seconds()))
    if states:
        for row in tx.all(_runs(tx, rule, run.state.in_(states), run.state_timestamp >= since)):
            yield _event(row, row["state"], f"{row['state']}-{row['version']}")
    if "late" in wanted:
        waits = run.state == "Scheduled", run.state_start_time <= tx.now - after, run.state_start_time >= since - after
        for row in tx.all(_runs(tx, rule, *waits, run.owner.is_(None))):
            yield _event(row, "late", f"late-{row['version']}")
    if "stuck" in wanted:
        begun = run.state.in_(sorted(lifecycle.RUNNING)), run.heartbeat <= tx.now - after, ownership.silent(tx)
        for row in tx.all(_runs(tx, rule, *begun)):
            yield _event(row, "stuck", f"stuck-{row['epoch']}-{row['version']}")
    if "paused" in wanted:
        task_run = tables["task_run"].c
        waiting = select(task_run.flow_run_id).where(task_run.attention == "Paused", task_run.attention_at >= since)
        either = or_(run.state == "Paused", run.id.in_(waiting)), run.state.in_(sorted(lifecycle.UNFINISHED))
        for row in tx.all(_runs(tx, rule, *either)):
            for name in _paused(tx, row, since):
                yield _event(row, "paused", f"paused-{name}")


def _paused(tx: Tx, run: RowMapping, since: datetime.datetime) -> Iterator[str]:
    """Yield what tells each pause of a flow run from every other."""
    task_run = tables["task_run"].c
    found = select(task_run.id, task_run.version).where(
        task_run.flow_run_id == run["id"], task_run.attention == "Paused", task_run.attention_at >= since
    )
    rows = tx.all(found)
    for row in rows:
        yield f"{row['id']}-{row['version']}"
    if not rows and run["state_timestamp"] >= since:
        yield str(run["version"])


def _runs(tx: Tx, rule: RowMapping, *where: ColumnElement[bool]) -> Select[Any]:
    run, flow = tables["flow_run"], tables["flow"].c
    columns = run.c.id, run.c.tenant_id, run.c.state, run.c.state_message, run.c.state_timestamp, run.c.version
    found = select(*columns, run.c.epoch).where(run.c.tenant_id == rule["tenant_id"], parts.whole(), *where)
    if rule["version_group_id"] is not None:
        found = found.where(run.c.flow_id.in_(select(flow.id).where(flow.version_group_id == rule["version_group_id"])))
    return found.order_by(run.c.id).limit(_AT_ONCE)


def _event(row: RowMapping, event: str, key: str) -> _Event:
    return _Event(row["id"], row["tenant_id"], event, key, row["state_message"])


# -- what is sent --------------------------------------------------------------------------------------


def due_notifications(tx: Tx, *, limit: int = 100) -> list[Payload]:
    """Return what is to be sent now, each noted as tried once more; what has been tried often enough is given up.

    Returns:
        - list[Payload]: of each: ``id``, ``rule``, ``kind``, ``target``, ``event``, ``message``, ``happened``,
          ``flow_run_id``, ``flow_run_name``, ``flow_name``
    """
    note, hook, run, flow = (tables[name] for name in ("notification", "cloud_hook", "flow_run", "flow"))
    joined = note.join(hook, note.c.cloud_hook_id == hook.c.id).join(run, note.c.flow_run_id == run.c.id)
    found = (
        select(
            note.c.id,
            note.c.attempts,
            hook.c.name.label("rule"),
            hook.c.type,
            hook.c.config,
            note.c.event,
            note.c.message,
            note.c.created.label("happened"),
            note.c.flow_run_id,
            run.c.name.label("flow_run_name"),
            flow.c.name.label("flow_name"),
        )
        .select_from(joined.join(flow, run.c.flow_id == flow.c.id))
        .where(note.c.next_attempt <= tx.now)
        .order_by(note.c.next_attempt, note.c.id)
        .limit(limit)
    )
    rows = tx.all(found)
    for row in rows:
        again = tx.now + _DELAYS[row["attempts"]] if row["attempts"] < len(_DELAYS) else None
        tx.update("notification", note.c.id == row["id"], attempts=row["attempts"] + 1, next_attempt=again)
    kept = ("id", "rule", "event", "message", "happened", "flow_run_id", "flow_run_name", "flow_name")
    return [
        {**{key: row[key] for key in kept}, "kind": row["type"].lower(), "target": (row["config"] or {}).get("target")}
        for row in rows
    ]


def note_sent(tx: Tx, *, notification_id: str, error: str | None = None) -> None:
    """Note that something was sent, or why it could not be."""
    note = tables["notification"].c
    known: dict[str, Any] = {"error": error} if error is not None else {"sent": tx.now, "next_attempt": None}
    tx.update("notification", note.id == notification_id, **known)
