"""What a schedule means for the runs of a flow."""

from __future__ import annotations

import datetime
import hashlib
import logging
from typing import Any

from sqlalchemy import func, select

from ...engine.errors import BackendRejected
from . import creation, flow_runs
from .records import ScheduledEvent
from .tx import Tx, document, tables

__all__ = ["clear_schedule_runs", "schedule_flow_runs", "schedule_of"]

_log = logging.getLogger("flowloop.store")


def schedule_of(tx: Tx, flow_id: str) -> dict[str, Any] | None:
    """Return the schedule document of a flow: that of its group, else its own."""
    flow, group = tables["flow"], tables["flow_group"]
    joined = flow.join(group, flow.c.flow_group_id == group.c.id)
    row = tx.first(
        select(group.c.schedule.label("of_group"), flow.c.schedule.label("of_flow"))
        .select_from(joined)
        .where(flow.c.id == flow_id)
    )
    if row is None:
        return None
    found: dict[str, Any] | None = row["of_group"] or row["of_flow"]
    return found


def schedule_flow_runs(tx: Tx, *, flow_id: str, max_runs: int = 10) -> list[str]:
    """Create the next runs of a flow's schedule that are not there yet.

    An event that brings parameters or labels of its own is always tried: several may fall on one time. A
    schedule that cannot be read creates nothing, and a line in the log.

    Returns:
        - list[str]: the ids of the runs of the next events, new or not
    """
    flow = tx.row("flow", flow_id, "Invalid flow ID.")
    schedule = schedule_of(tx, flow["id"])
    if flow["archived"] or not schedule or tx.next_events is None:
        return []
    run = tables["flow_run"].c
    last = tx.scalar(
        select(func.max(run.scheduled_start_time)).where(run.flow_id == flow["id"], run.auto_scheduled.is_(True))
    )
    ids: list[str] = []
    try:
        events = tx.next_events(schedule, tx.now, max_runs)
    except Exception:
        _log.exception("the schedule of flow %s cannot be read", flow["id"])
        return []
    for event in events:
        plain = not event.parameter_defaults and event.labels is None
        if plain and event.start_time <= (last or tx.now):
            continue
        # One whose parameters are wrong fails with the reason, where people look.
        request = creation.NewFlowRun(
            flow_id=flow["id"],
            scheduled_start_time=event.start_time,
            parameters=event.parameter_defaults,
            labels=event.labels,
            idempotency_key=_key(event),
        )
        created = creation.create_flow_runs(tx, [request])[0]
        if isinstance(created, BackendRejected):
            _log.warning("a scheduled run of flow %s was not created: %s", flow["id"], created)
            continue
        ids.append(created.id)
    if ids:
        tx.update("flow_run", run.id.in_(ids), auto_scheduled=True)
    return ids


def _key(event: ScheduledEvent) -> str:
    start = event.start_time.astimezone(datetime.UTC).isoformat()
    if not event.parameter_defaults and event.labels is None:
        return f"auto-scheduled:{start}"
    distinct = "".join(sorted(document([event.parameter_defaults, event.labels])))
    return f"auto-scheduled:{start}:{hashlib.md5(distinct.encode(), usedforsecurity=False).hexdigest()}"


def clear_schedule_runs(tx: Tx, flow_group_id: str) -> None:
    """Take back the planned runs of every flow of a group."""
    flow = tables["flow"].c
    ids = tx.connection.execute(select(flow.id).where(flow.flow_group_id == flow_group_id)).scalars().all()
    flow_runs.delete_auto_scheduled(tx, ids)
