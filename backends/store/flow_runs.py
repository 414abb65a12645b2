"""Flow runs: created, named, cancelled, restarted, deleted."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, delete, or_, select

from ...engine import lifecycle
from ...engine.errors import BackendRejected
from . import task_runs
from .names import random_name
from .records import Payload, StateUpdate
from .transitions import VERSION, no_result, set_states
from .tx import Tx, document, in_utc, tables

__all__ = [
    "cancel_flow_run",
    "create_flow_run",
    "delete_auto_scheduled",
    "delete_flow_run",
    "restart_flow_run",
    "set_flow_run_labels",
    "set_flow_run_name",
    "set_one",
    "state_update",
    "update_flow_run_heartbeat",
]


def state_update(run_id: str, state: str, message: str, **fields: Any) -> StateUpdate:
    """Return an update to a state that the store makes itself, whatever the version of the run."""
    made = {
        "type": state,
        "message": message,
        **fields,
        "__version__": VERSION,
        "context": {},
        "cached_inputs": {},
        "_result": no_result(),
    }
    return StateUpdate(run_id, document(made).encode())


def set_one(tx: Tx, update: StateUpdate) -> None:
    """Record a state of a flow run that the store makes itself.

    Raises:
        - BackendRejected: if it is refused
    """
    outcome = set_states(tx, "flow_run", [update])[0]
    if outcome.error is not None:
        raise outcome.error


def create_flow_run(
    tx: Tx,
    *,
    flow_id: str | None = None,
    version_group_id: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    run_config: Mapping[str, Any] | None = None,
    scheduled_start_time: datetime.datetime | None = None,
    flow_run_name: str | None = None,
    idempotency_key: str | None = None,
) -> Payload:
    """Create a flow run, Scheduled, with a Pending task run for every task of its flow.

    Args:
        - flow_id: the flow to run
        - version_group_id: or the flow group whose newest version is to run
        - parameters: values that go before the defaults of the flow group and of the flow
        - context: values that the run finds in its context
        - labels: which agents may run it; by default those of the run config, the group or the flow
        - run_config: how it is to be run; by default that of the group or the flow
        - scheduled_start_time: when; now by default
        - flow_run_name: two random words by default
        - idempotency_key: with the key of an earlier run of this flow, that run is returned and nothing written

    Returns:
        - Payload: ``id``
    """
    flow = _flow_to_run(tx, flow_id, version_group_id)
    if idempotency_key is not None and (earlier := _find_by_key(tx, flow["id"], idempotency_key)):
        return {"id": earlier}
    group = tx.row("flow_group", flow["flow_group_id"], "Invalid flow group.")
    chosen = {
        **{item["name"]: item["default"] for item in flow["parameters"] if item.get("default")},
        **group["default_parameters"],
        **(parameters or {}),
    }
    missing = {item["name"] for item in flow["parameters"] if item.get("required")} - chosen.keys()
    if missing:
        raise BackendRejected(f"Required parameters were not supplied: {missing}")
    start = in_utc(scheduled_start_time or tx.now)
    run_id = tx.insert(
        "flow_run",
        tenant_id=flow["tenant_id"],
        flow_id=flow["id"],
        name=flow_run_name or random_name(),
        parameters=chosen,
        context=context or {},
        labels=sorted(_labels(labels, run_config, group, flow)),
        run_config=run_config or group["run_config"] or flow["run_config"],
        scheduled_start_time=start,
        idempotency_key=idempotency_key,
    )
    task_runs.create_static(tx, run_id, flow)
    set_one(tx, state_update(run_id, "Scheduled", "Flow run scheduled.", start_time=start.isoformat()))
    return {"id": run_id}


def _flow_to_run(tx: Tx, flow_id: str | None, version_group_id: str | None) -> RowMapping:
    """Return the flow, locked: two runs with one idempotency key are created one after the other."""
    if flow_id is None and version_group_id is None:
        raise BackendRejected("A flow run needs a flow_id or a version_group_id.")
    flow = tables["flow"]
    if flow_id is None:
        newest = tx.first(
            select(flow.c.id)
            .where(flow.c.version_group_id == version_group_id, flow.c.archived.is_(False), tx.mine("flow"))
            .order_by(flow.c.version.desc())
        )
        if newest is None:
            raise BackendRejected(f"Version group {version_group_id} has no unarchived flows.")
        flow_id = newest["id"]
    found = tx.row("flow", flow_id, f"Flow {flow_id} not found")
    if found["archived"]:
        raise BackendRejected(f"Flow {flow_id} is archived.")
    return found


def _find_by_key(tx: Tx, flow_id: str, idempotency_key: str) -> str | None:
    run = tables["flow_run"].c
    tx.run(select(tables["flow"].c.id).where(tables["flow"].c.id == flow_id).with_for_update(key_share=True))
    found: str | None = tx.scalar(select(run.id).where(run.flow_id == flow_id, run.idempotency_key == idempotency_key))
    return found


def _labels(
    labels: Sequence[str] | None, run_config: Mapping[str, Any] | None, group: RowMapping, flow: RowMapping
) -> Sequence[str]:
    """Return the labels of whoever comes first to have any; an empty list given by the caller counts."""
    if labels is not None:
        return labels
    candidates = (run_config, group, group["run_config"], flow["run_config"], flow["environment"])
    for owner in candidates:
        if owner and owner.get("labels"):
            found: Sequence[str] = owner["labels"]
            return found
    return []


def delete_auto_scheduled(tx: Tx, flow_ids: Sequence[str]) -> None:
    """Delete the planned runs of flows: those that a schedule created and nothing has touched."""
    run = tables["flow_run"].c
    tx.run(
        delete(tables["flow_run"]).where(
            run.flow_id.in_(flow_ids), run.state == "Scheduled", run.auto_scheduled.is_(True)
        )
    )


def delete_flow_run(tx: Tx, *, flow_run_id: str) -> Payload:
    """Delete a flow run with its task runs, states and logs."""
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID.")
    tx.run(delete(tables["flow_run"]).where(tables["flow_run"].c.id == run["id"]))
    return {"success": True}


def set_flow_run_name(tx: Tx, *, flow_run_id: str, name: str) -> Payload:
    """Rename a flow run."""
    if not name:
        raise BackendRejected("Invalid flow run name.")
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID.")
    tx.update("flow_run", tables["flow_run"].c.id == run["id"], name=name)
    return {"success": True}


def set_flow_run_labels(tx: Tx, *, flow_run_id: str, labels: Sequence[str]) -> Payload:
    """Set which agents may run a flow run."""
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID.")
    tx.update("flow_run", tables["flow_run"].c.id == run["id"], labels=sorted(labels))
    return {"id": run["id"]}


def update_flow_run_heartbeat(tx: Tx, *, flow_run_id: str) -> Payload:
    """Note that the process of a flow run is alive. An unknown id is not reported."""
    task_runs.beat(tx, "flow_run", flow_run_id)
    return {"success": True}


def cancel_flow_run(tx: Tx, *, flow_run_id: str) -> Payload:
    """Cancel a flow run: at once if it does not run, else by asking its runner.

    Returns:
        - Payload: ``id`` and ``state``: the name of the state it is in now
    """
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID.", lock=True)
    state = run["state"]
    if state in lifecycle.RUNNING:
        state = "Cancelling"
        set_one(tx, state_update(run["id"], state, "Flow run is cancelling"))
    elif state not in lifecycle.FINISHED:
        state = "Cancelled"
        set_one(tx, state_update(run["id"], state, "Flow run is cancelled"))
    return {"id": run["id"], "state": state}


def restart_flow_run(tx: Tx, *, flow_run_id: str) -> Payload:
    """Schedule a finished flow run again, from the tasks that did not succeed.

    Task runs that succeeded, or were skipped, keep their states; all others become Pending.

    Returns:
        - Payload: ``id``, ``state``, and ``task_runs``: how many task runs became Pending
    """
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID.", lock=True)
    if run["state"] not in lifecycle.FINISHED:
        raise BackendRejected(f"Flow run {run['id']} is {run['state']}: only a finished flow run can be restarted.")
    task_run = tables["task_run"].c
    keep = sorted(lifecycle.SUCCESS | {"Pending"})
    failed = select(task_run.id).where(
        task_run.flow_run_id == run["id"], or_(task_run.state.not_in(keep), task_run.state.is_(None))
    )
    ids = tx.connection.execute(failed).scalars().all()
    set_states(tx, "task_run", [state_update(row_id, "Pending", "Flow run restarted.") for row_id in ids])
    set_one(tx, state_update(run["id"], "Scheduled", "Flow run restarted.", start_time=tx.now.isoformat()))
    return {"id": run["id"], "state": "Scheduled", "task_runs": len(ids)}
