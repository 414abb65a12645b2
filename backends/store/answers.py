"""Answering a task run that waits for a person: it goes on with the answer, or fails because it was declined."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from ...engine.errors import VersionLockMismatch
from . import queue
from .directives import direct_flow_run
from .idempotency import once
from .records import Payload
from .tx import Tx, tables

__all__ = ["answer_task_run"]


def answer_task_run(
    tx: Tx,
    *,
    task_run_id: str,
    version: int,
    approve: bool,
    note: str | None = None,
    value: Any = None,
    idempotency_key: str | None = None,
) -> Payload:
    """Answer a Paused task run, once: of two people who answer the same question the second is told of the first.

    It is recorded as the directive to resume or to reject.

    Args:
        - task_run_id: the task run
        - version: the version of the Paused state that is answered
        - approve: whether it is to go on (Resume); else it fails
        - note: why
        - value: what the body is to find beside the note, in the context of the Resume state under ``answer``
        - idempotency_key: the same answer sent again under this key is answered as it was the first time

    Returns:
        - Payload: ``state``, ``version``, and ``picked_up_by``: ``runner``, ``workers`` or ``nobody``
    """

    def answer(tx: Tx) -> Payload:
        return _answer(tx, task_run_id, version, approve, note, value)

    if idempotency_key is None:
        return answer(tx)
    answered: Payload = once(tx, f"answer:{idempotency_key}", answer)
    return answered


def _answer(tx: Tx, task_run_id: str, version: int, approve: bool, note: str | None, value: Any) -> Payload:
    row = tx.row("task_run", task_run_id, f"Task run {task_run_id} not found", lock=True)
    if row["state"] != "Paused" or row["version"] != version:
        raise VersionLockMismatch(
            f"Task run {row['id']} is {row['state']} (version {row['version']}): {row['state_message']!r}"
        )
    slug = tx.scalar(select(tables["task"].c.slug).where(tables["task"].c.id == row["task_id"]))
    direct_flow_run(
        tx,
        flow_run_id=row["flow_run_id"],
        kind="resume" if approve else "reject",
        task=slug,
        map_index=row["map_index"],
        value=value,
        note=note,
    )
    now = tx.row("task_run", row["id"], "Invalid task run ID.")
    run = tx.row("flow_run", row["flow_run_id"], "Invalid flow run ID.")
    return {"state": now["state"], "version": now["version"], "picked_up_by": _who_goes_on(tx, run)}


def _who_goes_on(tx: Tx, run: Any) -> str:
    """Say who will go on with a flow run: its own runner, the workers that there are, or nobody."""
    if run["owner"] is not None and run["lease_expires"] is not None and run["lease_expires"] > tx.lease_now:
        return "runner"
    worker, flow = tables["worker"].c, tables["flow"].c
    name = tx.scalar(select(flow.name).where(flow.id == run["flow_id"]))
    seen = tx.all(
        select(worker.labels, worker.flow_names, worker.not_flow_ids).where(
            tx.mine("worker"), worker.updated > tx.now - queue.ALIVE
        )
    )
    able = any(
        queue.suits(run, row["labels"], is_worker=True) and queue.knows(row, run["flow_id"], name) for row in seen
    )
    return "workers" if able else "nobody"
