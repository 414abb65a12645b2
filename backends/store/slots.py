"""Places under a limit: how many task runs with a tag, or flow runs with a label, may be running at once.

A run takes a place under every limit that concerns it when it starts to run, and gives them back with
whatever state ends that: both in the transaction that records the state. A place goes with its run or its
limit when either is deleted, and where a limit is full, those that runs of dead owners hold are given back: so none is
held by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select

from .deaths import free_places
from .records import Kind
from .tx import Tx, tables

__all__ = ["Slots"]


class Slots:
    """The places that the runs of one batch hold and want.

    Args:
        - tx: the transaction
        - kind: whether task runs are limited by their tags, or flow runs by their labels
    """

    def __init__(self, tx: Tx, kind: Kind) -> None:
        self.tx = tx
        self.kind = kind
        self.message = f"Queued by {kind.replace('_', ' ')} concurrency limit(s)"
        self._slot = tables["task_slot" if kind == "task_run" else "flow_slot"]
        self._free: dict[str, int] = {}
        self._wanted: dict[str, list[str]] = {}
        self._holds: dict[str, set[str]] = {}
        self._before: dict[str, frozenset[str]] = {}

    def load(self, run_ids: Sequence[str]) -> None:
        """Read which limits concern these runs, which places are free, and which the runs hold; lock the limits."""
        tx, slot = self.tx, self._slot.c
        names: dict[str, tuple[str, list[str]]] = {}
        rows: Iterable[Any] = tx.connection.execute(self._names(run_ids))
        for row in rows:
            names[row[0]] = (row[1], row[2] or [])
        limit = tables["task_tag_limit" if self.kind == "task_run" else "flow_concurrency_limit"]
        label = limit.c.tag if self.kind == "task_run" else limit.c.name
        relevant = {(tenant, name) for tenant, found in names.values() for name in found}
        if not relevant:
            return
        limits: dict[tuple[str, str], str] = {}
        locked = select(limit.c.id, limit.c.tenant_id, label, limit.c.limit).where(
            limit.c.tenant_id.in_({tenant for tenant, _ in relevant}), label.in_({name for _, name in relevant})
        )
        for limit_id, tenant_id, name, places in tx.connection.execute(
            locked.order_by(limit.c.id).with_for_update(key_share=True)
        ):
            limits[tenant_id, name] = limit_id
            self._free[limit_id] = places
        if not limits:
            return
        places = dict(self._free)
        self._count_free(places)
        if min(self._free.values()) <= 0 and free_places(tx):
            self._count_free(places)
        for run_id, (tenant_id, found) in names.items():
            wanted = [limits[tenant_id, name] for name in dict.fromkeys(found) if (tenant_id, name) in limits]
            if wanted:
                self._wanted[run_id] = wanted
                self._holds[run_id] = set()
        mine = select(slot.run_id, slot.limit_id).where(slot.run_id.in_(self._holds))
        for run_id, limit_id in tx.connection.execute(mine):
            self._holds[run_id].add(limit_id)
        self._before = {run_id: frozenset(held) for run_id, held in self._holds.items()}

    def _count_free(self, places: dict[str, int]) -> None:
        slot = self._slot.c
        taken = select(slot.limit_id, func.count()).where(slot.limit_id.in_(places)).group_by(slot.limit_id)
        counts = {row[0]: row[1] for row in self.tx.connection.execute(taken)}
        self._free = {limit_id: number - counts.get(limit_id, 0) for limit_id, number in places.items()}

    def _names(self, run_ids: Sequence[str]) -> Any:
        if self.kind == "task_run":
            run, task = tables["task_run"], tables["task"]
            joined = run.join(task, run.c.task_id == task.c.id)
            return select(run.c.id, run.c.tenant_id, task.c.tags).select_from(joined).where(run.c.id.in_(run_ids))
        flow_run = tables["flow_run"].c
        return select(flow_run.id, flow_run.tenant_id, flow_run.labels).where(flow_run.id.in_(run_ids))

    def take(self, run_id: str) -> bool:
        """Take a place under every limit of the run, or none; say whether it has them all now."""
        held = self._holds.get(run_id)
        if held is None:
            return True
        missing = [limit_id for limit_id in self._wanted[run_id] if limit_id not in held]
        if any(self._free[limit_id] <= 0 for limit_id in missing):
            self.release(run_id)
            return False
        for limit_id in missing:
            self._free[limit_id] -= 1
            held.add(limit_id)
        return True

    def release(self, run_id: str) -> None:
        """Give back every place of the run."""
        held = self._holds.get(run_id)
        while held:
            limit_id = held.pop()
            if limit_id in self._free:
                self._free[limit_id] += 1

    def save(self) -> None:
        """Write down who holds what now."""
        slot = self._slot
        given = [run_id for run_id, before in self._before.items() if before - self._holds[run_id]]
        if given:
            self.tx.run(delete(slot).where(slot.c.run_id.in_(given)))
        rows = [
            {"limit_id": limit_id, "run_id": run_id}
            for run_id, held in self._holds.items()
            for limit_id in (held if run_id in given else held - self._before[run_id])
        ]
        if rows:
            self.tx.connection.execute(insert(slot), rows)
