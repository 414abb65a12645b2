"""Flow runs that are a task run of another one: which they are, and what befalls them with it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, RowMapping, exists, or_, select, update

from ...engine import lifecycle
from ...engine.directives import PART
from ...engine.errors import BackendRejected
from .tx import Tx, tables

__all__ = ["adopt", "begin_again", "check_whole", "is_part", "key_of", "parts_of", "whole"]

SHARED = ("owner", "epoch", "lease_expires", "lease_seconds")
"""The columns that a part has as the flow run around it."""


def whole() -> ColumnElement[bool]:
    """The condition that a flow run goes on by itself: it is a part of none that is unfinished."""
    run, root = tables["flow_run"].c, tables["flow_run"].alias("root").c
    goes_on = exists().where(root.id == run.root_flow_run_id, root.state.in_(sorted(lifecycle.UNFINISHED)))
    return or_(run.root_flow_run_id.is_(None), ~goes_on)


def is_part(tx: Tx, run: RowMapping) -> bool:
    """Whether a flow run goes on with another one."""
    if run["root_flow_run_id"] is None:
        return False
    root = tables["flow_run"].c
    return tx.scalar(select(root.state).where(root.id == run["root_flow_run_id"])) in lifecycle.UNFINISHED


def check_whole(tx: Tx, run: RowMapping) -> None:
    """Refuse what is asked of a flow run that goes on with another one.

    Raises:
        - BackendRejected: that says of which
    """
    if is_part(tx, run):
        raise BackendRejected(PART.format(run["id"], run["root_flow_run_id"]))


def parts_of(tx: Tx, flow_run_id: str) -> Sequence[str]:
    """Return the unfinished flow runs that are a part of one, and of its parts."""
    run = tables["flow_run"].c
    mine = select(run.id).where(run.root_flow_run_id == flow_run_id, run.state.in_(sorted(lifecycle.UNFINISHED)))
    return tx.connection.execute(mine.order_by(run.id)).scalars().all()


def adopt(tx: Tx, flow_run_id: str) -> None:
    """Give the parts of a flow run, which was claimed, to its owner."""
    ids = parts_of(tx, flow_run_id)
    if ids:
        run = tables["flow_run"].c
        around = tx.row("flow_run", flow_run_id, "Invalid flow run ID")
        tx.update("flow_run", run.id.in_(ids), **{name: around[name] for name in SHARED})


def key_of(task_run_id: str, attempt: int) -> str:
    """Return the idempotency key of the flow run that an attempt of a task run is."""
    return f"{task_run_id}-{attempt}"


def begin_again(tx: Tx, task_run_ids: Sequence[str], *, afresh: bool) -> None:
    """Have task runs go on from the flow runs that were their last attempts, or from none."""
    run = tables["flow_run"].c
    keyed = run.parent_task_run_id.in_(task_run_ids), run.idempotency_key.is_not(None)
    rows = tx.all(select(run.id, run.parent_task_run_id).where(*keyed).order_by(run.created, run.id))
    if not rows:
        return
    tx.run(update(tables["flow_run"]).where(run.id.in_([row["id"] for row in rows])).values(idempotency_key=None))
    newest = {} if afresh else {row["parent_task_run_id"]: row["id"] for row in rows}
    for task_run_id, flow_run_id in newest.items():
        tx.update("flow_run", run.id == flow_run_id, idempotency_key=key_of(task_run_id, 1))
