"""Flow groups: what holds for every version of a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping

from ...engine.errors import BackendRejected
from . import scheduling
from .records import Payload
from .tx import Tx, tables

__all__ = [
    "delete_flow_group_default_parameter",
    "delete_flow_group_schedule",
    "disable_flow_heartbeat",
    "disable_flow_lazarus_process",
    "disable_flow_version_lock",
    "enable_flow_heartbeat",
    "enable_flow_lazarus_process",
    "enable_flow_version_lock",
    "set_flow_group_default_parameters",
    "set_flow_group_description",
    "set_flow_group_labels",
    "set_flow_group_run_config",
    "set_flow_group_schedule",
]


def _group(tx: Tx, flow_group_id: str) -> RowMapping:
    return tx.row("flow_group", flow_group_id, "Invalid flow group ID.", lock=True)


def _set(tx: Tx, group: RowMapping, **values: Any) -> Payload:
    tx.update("flow_group", tables["flow_group"].c.id == group["id"], **values)
    return {"success": True, "id": group["id"]}


def set_flow_group_schedule(
    tx: Tx,
    *,
    flow_group_id: str,
    cron_clocks: Sequence[dict[str, Any]] = (),
    interval_clocks: Sequence[dict[str, Any]] = (),
    timezone: str | None = None,
) -> Payload:
    """Replace the schedule of a group; planned runs of the one before are taken back.

    Args:
        - flow_group_id: the group
        - cron_clocks: clocks with ``cron`` and, maybe, ``parameter_defaults``
        - interval_clocks: clocks with ``interval`` in seconds and, maybe, ``parameter_defaults``
        - timezone: the time zone of the clocks
    """
    group = _group(tx, flow_group_id)
    start = {"dt": tx.now.replace(tzinfo=None).isoformat(), "tz": timezone} if timezone else None
    clocks = [
        *({"type": "CronClock", "cron": clock["cron"], **_common(clock, start)} for clock in cron_clocks),
        *(
            {"type": "IntervalClock", "interval": _microseconds(clock["interval"]), **_common(clock, start)}
            for clock in interval_clocks
        ),
    ]
    schedule = {
        "type": "Schedule",
        "clocks": clocks,
        "filters": [],
        "or_filters": [],
        "not_filters": [],
        "adjustments": [],
    }
    if tx.next_events is not None:
        try:
            tx.next_events(schedule, tx.now, 1)
        except Exception as error:
            raise BackendRejected(f"The schedule cannot be read: {error}") from error
    scheduling.clear_schedule_runs(tx, group["id"])
    return _set(tx, group, schedule=schedule)


def _common(clock: dict[str, Any], start: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "parameter_defaults": clock.get("parameter_defaults") or {},
        "labels": clock.get("labels"),
        "start_date": start,
        "end_date": None,
    }


def _microseconds(seconds: float) -> int:
    if seconds <= 0:
        raise BackendRejected("The interval of a clock must be greater than zero.")
    return round(seconds * 1_000_000)


def delete_flow_group_schedule(tx: Tx, *, flow_group_id: str) -> Payload:
    """Take the schedule of a group away, with its planned runs; the flows' own schedules count again."""
    group = _group(tx, flow_group_id)
    scheduling.clear_schedule_runs(tx, group["id"])
    return _set(tx, group, schedule=None)


def set_flow_group_labels(tx: Tx, *, flow_group_id: str, labels: Sequence[str] | None = None) -> Payload:
    """Set the labels of new runs; None takes them away, and the flow's own count again."""
    return _set(tx, _group(tx, flow_group_id), labels=None if labels is None else sorted(labels))


def set_flow_group_run_config(tx: Tx, *, flow_group_id: str, run_config: dict[str, Any] | None = None) -> Payload:
    """Set how new runs are to be run; None takes it away."""
    return _set(tx, _group(tx, flow_group_id), run_config=run_config)


def set_flow_group_description(tx: Tx, *, flow_group_id: str, description: str | None = None) -> Payload:
    """Describe a group."""
    return _set(tx, _group(tx, flow_group_id), description=description)


def set_flow_group_default_parameters(tx: Tx, *, flow_group_id: str, parameters: dict[str, Any]) -> Payload:
    """Set parameters that go before the defaults of the flows."""
    return _set(tx, _group(tx, flow_group_id), default_parameters=parameters)


def delete_flow_group_default_parameter(tx: Tx, *, flow_group_id: str, parameter_name: str) -> Payload:
    """Take one default parameter away."""
    group = _group(tx, flow_group_id)
    kept = {name: value for name, value in group["default_parameters"].items() if name != parameter_name}
    return _set(tx, group, default_parameters=kept)


def enable_flow_heartbeat(tx: Tx, *, flow_id: str) -> Payload:
    """Let silent runs of a flow be found by the zombie killer."""
    return _settings(tx, flow_id, heartbeat_enabled=True, disable_heartbeat=False)


def disable_flow_heartbeat(tx: Tx, *, flow_id: str) -> Payload:
    """Keep the zombie killer and Lazarus away from the runs of a flow."""
    return _settings(tx, flow_id, heartbeat_enabled=False, disable_heartbeat=True)


def enable_flow_lazarus_process(tx: Tx, *, flow_id: str) -> Payload:
    """Let Lazarus schedule dead runs of a flow again."""
    return _settings(tx, flow_id, lazarus_enabled=True)


def disable_flow_lazarus_process(tx: Tx, *, flow_id: str) -> Payload:
    """Keep Lazarus away from the runs of a flow."""
    return _settings(tx, flow_id, lazarus_enabled=False)


def enable_flow_version_lock(tx: Tx, *, flow_id: str) -> Payload:
    """Refuse states of the runs of a flow that come with a stale version."""
    return _settings(tx, flow_id, version_locking_enabled=True)


def disable_flow_version_lock(tx: Tx, *, flow_id: str) -> Payload:
    """Accept states of the runs of a flow whatever their version."""
    return _settings(tx, flow_id, version_locking_enabled=False)


def _settings(tx: Tx, flow_id: str, **values: bool) -> Payload:
    flow = tx.row("flow", flow_id, "Invalid flow ID.")
    group = _group(tx, flow["flow_group_id"])
    return _set(tx, group, settings={**group["settings"], **values})
