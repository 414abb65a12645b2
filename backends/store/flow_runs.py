"""Flow runs: named, cancelled, restarted, deleted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, or_, select

from ...engine import lifecycle
from ...engine.directives import LIVES
from ...engine.errors import BackendRejected
from . import ownership, parts, task_runs
from .records import Payload, StateUpdate
from .transitions import set_states, state_update
from .tx import Tx, tables

__all__ = [
    "cancel_flow_run",
    "delete_auto_scheduled",
    "delete_flow_run",
    "restart_flow_run",
    "set_flow_run_labels",
    "set_flow_run_name",
    "set_one",
    "start_again",
    "update_flow_run_heartbeat",
]


def set_one(tx: Tx, update: StateUpdate) -> None:
    """Record a state of a flow run that the store makes itself.

    Raises:
        - BackendRejected: if it is refused
    """
    outcome = set_states(tx, "flow_run", [update])[0]
    if outcome.error is not None:
        raise outcome.error


def delete_auto_scheduled(tx: Tx, flow_ids: Sequence[str]) -> None:
    """Delete the planned runs of flows: those that a schedule created and nothing has touched."""
    run = tables["flow_run"].c
    tx.run(
        delete(tables["flow_run"]).where(
            run.flow_id.in_(flow_ids), run.state == "Scheduled", run.auto_scheduled.is_(True)
        )
    )


def delete_flow_run(tx: Tx, *, flow_run_id: str) -> Payload:
    """Delete a flow run with its task runs, states and logs, and the flow runs that are a part of it."""
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID.", lock=True)
    lives = run["owner"] is not None and not ownership.is_silent(tx, run)
    if run["state"] in lifecycle.UNFINISHED and lives:
        raise BackendRejected(LIVES.format(run["id"]))
    table = tables["flow_run"]
    tx.run(delete(table).where(or_(table.c.id == run["id"], table.c.root_flow_run_id == run["id"])))
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


def update_flow_run_heartbeat(tx: Tx, *, flow_run_id: str, epoch: int | None = None) -> Payload:
    """Note that the process of a flow run is alive; with an epoch, begin its lease anew.

    Without one, an unknown id is not reported.

    Raises:
        - OwnershipLost: if the flow run has another owner since
    """
    if epoch is None:
        task_runs.beat(tx, "flow_run", flow_run_id)
    else:
        ownership.renew(tx, flow_run_id, epoch)
    return {"success": True}


def cancel_flow_run(tx: Tx, *, flow_run_id: str) -> Payload:
    """Cancel a flow run: at once if nobody who lives runs it, else by asking its runner.

    Returns:
        - Payload: ``id`` and ``state``: the name of the state it is in now
    """
    run = tx.row("flow_run", flow_run_id, "Invalid flow run ID.", lock=True)
    state = run["state"]
    if state in lifecycle.RUNNING and not (run["owner"] is not None and ownership.is_silent(tx, run)):
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
    parts.check_whole(tx, run)
    return {"id": run["id"], "state": "Scheduled", "task_runs": start_again(tx, run["id"])}


def start_again(tx: Tx, flow_run_id: str) -> int:
    """Schedule a finished flow run again, from the task runs that did not succeed, and return how many these are."""
    task_run = tables["task_run"].c
    keep = sorted(lifecycle.SUCCESS | {"Pending"})
    failed = select(task_run.id).where(
        task_run.flow_run_id == flow_run_id, or_(task_run.state.not_in(keep), task_run.state.is_(None))
    )
    ids = tx.connection.execute(failed).scalars().all()
    set_states(tx, "task_run", [state_update(row_id, "Pending", "Flow run restarted.") for row_id in ids])
    parts.begin_again(tx, ids, afresh=False)
    set_one(tx, state_update(flow_run_id, "Scheduled", "Flow run restarted.", start_time=tx.now.isoformat()))
    tx.update("flow_run", tables["flow_run"].c.id == flow_run_id, times_resurrected=0)
    return len(ids)
