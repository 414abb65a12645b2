"""Flows that run as a task of another one, each in a flow run of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine import lifecycle
from ...engine.errors import BackendRejected, OwnershipLost
from . import creation, flow_runs, parts, reads
from .records import Payload
from .tx import Tx, tables

__all__ = ["start_subflow_run"]


def start_subflow_run(
    tx: Tx,
    *,
    flow_id: str,
    task_run_id: str,
    attempt: int = 1,
    epoch: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Payload:
    """Create or find the flow run that one attempt of a task run is; see `Backend.start_subflow_run`.

    Returns:
        - Payload: as of `get_flow_run_info`
    """
    parent = tx.row("task_run", task_run_id, "Invalid task run ID")
    around = tx.row("flow_run", parent["flow_run_id"], "Invalid flow run ID", lock=True)
    if epoch not in (None, around["epoch"]):
        raise OwnershipLost(f"flow run {around['id']} has another owner since: its epoch is {around['epoch']}")
    if around["state"] in lifecycle.FINISHED:
        raise BackendRejected(f"Flow run {around['id']} is {around['state']}: nothing begins in it.")
    key = parts.key_of(parent["id"], attempt)
    request = creation.NewFlowRun(flow_id=flow_id, parameters=parameters, name=name, idempotency_key=key, labels=[])
    created = creation.create_flow_runs(tx, [request])[0]
    if isinstance(created, BackendRejected):
        raise created
    if tx.row("flow_run", created.id, "Invalid flow run ID")["state"] in lifecycle.FINISHED:
        flow_runs.start_again(tx, created.id)
    tx.moved.pop(created.id, None)  # it is for nobody who waits for work
    tx.update(
        "flow_run",
        tables["flow_run"].c.id == created.id,
        parent_task_run_id=parent["id"],
        root_flow_run_id=around["root_flow_run_id"] or around["id"],
        **{name: around[name] for name in parts.SHARED},
    )
    return reads.get_flow_run_info(tx, flow_run_id=created.id)
