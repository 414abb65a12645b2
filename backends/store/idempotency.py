"""Operations that a client may send again because it does not know whether they arrived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import select, update

from .tx import Tx, document, tables

__all__ = ["once"]


def once(tx: Tx, key: str, operation: Callable[[Tx], Any]) -> Any:
    """Run an operation, unless it was run under this key before; then return what it answered.

    Args:
        - key: unique among the operations of the caller's tenant
        - operation: what to run; its answer must be plain JSON
    """
    key = f"{tx.caller.tenant_id or ''}:{key}"
    answer = tables["answer"]
    claim = tx.upsert("answer").values(key=key, created=tx.now, outcomes="")
    # On PostgreSQL this waits for another transaction that has the same operation in hand.
    if not tx.run(claim.on_conflict_do_nothing()):
        return msgspec.json.decode(tx.scalar(select(answer.c.outcomes).where(answer.c.key == key)))
    result = operation(tx)
    tx.run(update(answer).where(answer.c.key == key).values(outcomes=document(result)))
    return result
