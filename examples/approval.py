"""Nothing is paid before somebody has said so: a flow that waits for a person, for days if need be.

The run is recorded, and waits without a process. A worker goes on with it once it is answered::

    flowloop run examples/approval.py -p amount=1200
    flowloop approve RUN --value 1000      # or on the page, with a note; reject declines
    flowloop worker examples/approval.py
"""

from __future__ import annotations

from typing import Any

from flowloop import Flow, Parameter, case, context, pause_task, task


@task
async def needs_approval(amount: float) -> bool:
    """Small amounts need none."""
    return amount >= 100


@task
async def ask(amount: float) -> float:
    """Wait for a person, who may change the amount."""
    pause_task(f"pay {amount:g}?")
    answer: dict[str, Any] | None = context.answer
    return float(answer["value"]) if answer and answer["value"] is not None else amount


@task
async def keep(amount: float) -> float:
    """Take the amount as it is."""
    return amount


@task(max_retries=3, retry_delay=60)
async def pay(amount: float, invoice: str) -> str:
    """Pay: the number of the invoice is the key that keeps the bank from paying twice."""
    return f"paid {amount:g} for {invoice}"


with Flow("pay an invoice") as flow:
    amount = Parameter("amount", type=float)
    invoice = Parameter("invoice", default="2026-117", type=str)
    asked_for = needs_approval(amount)
    with case(asked_for, True):
        approved = pay.copy(name="pay what was approved")(ask(amount), invoice)
    with case(asked_for, False):
        small = pay.copy(name="pay at once")(keep(amount), invoice)
