"""Turns under a limit: how many task runs with a tag, or flow runs with a label, may be running at once, and how often
task runs with a tag begin.

A run takes a place under every limit that concerns it when it starts to run, and gives them back with
whatever state ends that: both in the transaction that records the state. A place goes with its run or its
limit when either is deleted, and where a limit is full, those that runs of dead owners hold are given back: so none is
held by nobody.

A task run that is held back stands in the line of each limit that has held it back, until it begins or is given another
state. What is free is kept for who goes before, see `_line`; who was to ask again and did not is passed over.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, select, update

from ...engine import lifecycle
from .. import _line
from .._line import Turn, Waiter
from .deaths import free_places
from .records import Kind
from .tx import Tx, tables

__all__ = ["Held", "Slots"]

_LOOKED_AT = 1_000
"""So many of a line are looked at, and as many as its limit lets in: nobody behind these would be let in anyway."""


class Held(msgspec.Struct, frozen=True):
    """What holds a run back.

    Args:
        - message: why, as its state says
        - seconds: when it is to ask again
    """

    message: str
    seconds: float


class _Limit(msgspec.Struct):
    """A limit while a batch is applied: on what goes on at once, or with a `period` on what begins in one."""

    id: str
    name: str
    number: int
    free: int = 0
    period: float | None = None
    begun: list[float] = []
    line: list[Turn] = []
    """The turns of those who wait and are not late, in their order."""

    def opens(self, waiter: Waiter, now: float) -> float | None:
        """Return when it lets a run in, or None if nobody knows."""
        before = bisect.bisect_left(self.line, waiter.turn)
        if self.period is not None:
            return _line.beginning(self.begun, self.number, self.period, before, now)
        return now if self.free > before else None

    def leave(self, turn: Turn) -> None:
        """Take a turn out of the line, if it is there."""
        place = bisect.bisect_left(self.line, turn)
        if self.line[place : place + 1] == [turn]:
            del self.line[place]


class Slots:
    """The turns that the runs of one batch have and want.

    Args:
        - tx: the transaction
        - kind: whether task runs are limited by their tags, or flow runs by their labels
        - queue_seconds: when who is held back is to ask again at the latest
    """

    def __init__(self, tx: Tx, kind: Kind, queue_seconds: float) -> None:
        self.tx = tx
        self.kind = kind
        self._full = f"Queued by {kind.replace('_', ' ')} concurrency limit(s)"
        self._queue_seconds = queue_seconds
        self._slot = tables["task_slot" if kind == "task_run" else "flow_slot"]
        self._now = 0.0
        self._limits: dict[str, _Limit] = {}
        self._wanted: dict[str, list[_Limit]] = {}
        self._rates: dict[str, list[_Limit]] = {}
        self._holds: dict[str, set[str]] = {}
        self._before: dict[str, frozenset[str]] = {}
        self._waiting: dict[str, Waiter] = {}
        self._stands: dict[str, set[str]] = {}
        self._moved: set[str] = set()
        self._paced: dict[str, _Limit] = {}

    # -- reading ---------------------------------------------------------------------------------------

    def load(self, run_ids: Sequence[str], begin: Sequence[str]) -> None:
        """Read which limits concern these runs, what is free, and what the runs hold; lock the limits.

        Args:
            - run_ids: the runs
            - begin: those that want to begin
        """
        rows: Iterable[Any] = self.tx.connection.execute(self._names(run_ids))
        names: dict[str, tuple[str, list[str]]] = {row[0]: (row[1], row[2] or []) for row in rows}
        relevant = {(tenant, name) for tenant, found in names.values() for name in found}
        if not relevant:
            return
        is_task_run = self.kind == "task_run"
        places = self._locked("task_tag_limit" if is_task_run else "flow_concurrency_limit", relevant)
        rates = self._locked("task_rate_limit", relevant) if is_task_run and begin else {}
        self._limits = {limit.id: limit for limit in (*places.values(), *rates.values())}
        if not self._limits:
            return
        if places:
            self._count_free(places.values())
            if min(limit.free for limit in places.values()) <= 0 and free_places(self.tx):
                self._count_free(places.values())
        for run_id, (tenant_id, found) in names.items():
            keys = [(tenant_id, name) for name in dict.fromkeys(found)]
            if wanted := [places[key] for key in keys if key in places]:
                self._wanted[run_id] = wanted
                self._holds[run_id] = set()
            if paced := [rates[key] for key in keys if key in rates]:
                self._rates[run_id] = paced
        slot = self._slot.c
        mine = select(slot.run_id, slot.limit_id).where(slot.run_id.in_(self._holds))
        for run_id, limit_id in self.tx.connection.execute(mine):
            self._holds[run_id].add(limit_id)
        self._before = {run_id: frozenset(held) for run_id, held in self._holds.items()}
        if is_task_run and begin:
            self._now = self.tx.read_lease_clock().timestamp()  # later than what held the locks before
            self._load_lines(begin)

    def _locked(self, table: str, relevant: set[tuple[str, str]]) -> dict[tuple[str, str], _Limit]:
        limit = tables[table].c
        label = limit.name if self.kind == "flow_run" else limit.tag
        more = (limit.period, limit.begun) if "period" in limit else ()
        rows = select(limit.tenant_id, limit.id, label, limit.limit, *more).where(
            limit.tenant_id.in_({tenant for tenant, _ in relevant}), label.in_({name for _, name in relevant})
        )
        found: dict[tuple[str, str], _Limit] = {}
        rates: Iterable[Any] = self.tx.connection.execute(rows.order_by(limit.id).with_for_update(key_share=True))
        for tenant_id, limit_id, name, number, *rate in rates:
            found[tenant_id, name] = _Limit(limit_id, name, number, 0, *rate)
        return found

    def _count_free(self, limits: Iterable[_Limit]) -> None:
        slot = self._slot.c
        taken = select(slot.limit_id, func.count()).where(slot.limit_id.in_([limit.id for limit in limits]))
        counts = {row[0]: row[1] for row in self.tx.connection.execute(taken.group_by(slot.limit_id))}
        for limit in limits:
            limit.free = limit.number - counts.get(limit.id, 0)

    def _load_lines(self, run_ids: Sequence[str]) -> None:
        line = tables["task_line"].c
        columns = (line.limit_id, line.rank, line.since, line.run_id, line.due)
        mine = select(*columns).where(line.run_id.in_(run_ids))
        for limit_id, rank, since, run_id, due in self.tx.connection.execute(mine):
            self._waiting[run_id] = Waiter(-rank, since, run_id, due)
            self._stands.setdefault(run_id, set()).add(limit_id)
        there = select(*columns).where(line.due >= self._now - _line.PATIENCE)
        for limit in self._limits.values():
            if limit.period is not None:
                limit.begun = _line.within(limit.begun, limit.period, self._now)
            first = there.where(line.limit_id == limit.id).order_by(line.rank, line.since, line.run_id)
            rows = self.tx.connection.execute(first.limit(max(_LOOKED_AT, limit.number + 1)))
            limit.line = sorted(Waiter(-rank, since, run_id, due).turn for _, rank, since, run_id, due in rows)

    def _names(self, run_ids: Sequence[str]) -> Any:
        if self.kind == "task_run":
            run, task = tables["task_run"], tables["task"]
            joined = run.join(task, run.c.task_id == task.c.id)
            return select(run.c.id, run.c.tenant_id, task.c.tags).select_from(joined).where(run.c.id.in_(run_ids))
        flow_run = tables["flow_run"].c
        return select(flow_run.id, flow_run.tenant_id, flow_run.labels).where(flow_run.id.in_(run_ids))

    # -- deciding --------------------------------------------------------------------------------------

    def take(self, run_id: str, before: str | None, document: str) -> Held | None:
        """Let a run begin, with a place under every limit that concerns it, or say what holds it back.

        Args:
            - run_id: the run
            - before: the state that it is in
            - document: the state that it is to begin with, whose context may name a priority
        """
        rates = self._rates.get(run_id, ()) if before not in lifecycle.BEGINS[self.kind] else ()
        held = self._holds.get(run_id, set())
        missing = [limit for limit in self._wanted.get(run_id, ()) if limit.id not in held]
        if not missing and not rates:
            self._leave(run_id)
            return None
        waiter = self._waiter(run_id, document)
        self._leave_lines(run_id)
        opened = [(limit, limit.opens(waiter, self._now)) for limit in (*missing, *rates)]
        closed = [(limit, at) for limit, at in opened if at is None or at > self._now]
        if closed:
            return self._hold(waiter, closed)
        for limit in missing:
            limit.free -= 1
            held.add(limit.id)
        for limit in rates:
            limit.begun.append(self._now)
            self._paced[limit.id] = limit
        self._leave(run_id)
        return None

    def _waiter(self, run_id: str, document: str) -> Waiter:
        if self.kind == "flow_run":
            return Waiter(0, self._now, run_id)  # their order is that of the queue
        priority = _line.priority_in(msgspec.json.decode(document).get("context"))
        waiting = self._waiting.get(run_id)
        return Waiter(priority, self._now if waiting is None else waiting.since, run_id)

    def _hold(self, waiter: Waiter, closed: Sequence[tuple[_Limit, float | None]]) -> Held:
        """Put a run into the lines of the limits that it has to wait for."""
        self.release(waiter.run_id)
        limit, at = max(closed, key=lambda one: math.inf if one[1] is None else one[1])
        message, seconds = self._full, self._queue_seconds
        if at is None and self.kind == "task_run":
            before = bisect.bisect_left(limit.line, waiter.turn)
            seconds = _line.pause(self._now - waiter.since, before, limit.number, seconds)
        elif at is not None:
            seconds = min(at - self._now, self._queue_seconds)
            message = _line.why_not_yet(limit.name, limit.number, limit.period or 0.0, at)
        if self.kind == "task_run":
            waiter.due = self._now + seconds
            self._waiting[waiter.run_id] = waiter
            self._stands.setdefault(waiter.run_id, set()).update(limit.id for limit, _ in closed)
            self._moved.add(waiter.run_id)
            for limit_id in self._stands[waiter.run_id] & self._limits.keys():
                bisect.insort(self._limits[limit_id].line, waiter.turn)
        return Held(message, seconds)

    def release(self, run_id: str) -> None:
        """Give back every place of the run."""
        held = self._holds.get(run_id)
        while held:
            limit = self._limits.get(held.pop())
            if limit is not None:
                limit.free += 1

    def gives_up(self, run_id: str) -> None:
        """Let a run that was held back be held back no more: it was given another state."""
        if self.kind == "task_run":
            self._moved.add(run_id)
            self._leave(run_id)

    def _leave(self, run_id: str) -> None:
        self._leave_lines(run_id)
        if self._waiting.pop(run_id, None) is not None:
            self._moved.add(run_id)
            del self._stands[run_id]

    def _leave_lines(self, run_id: str) -> None:
        waiting = self._waiting.get(run_id)
        if waiting is not None:
            for limit_id in self._stands[run_id] & self._limits.keys():
                self._limits[limit_id].leave(waiting.turn)

    # -- writing ---------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write down who has a turn now, and who waits for one."""
        tx, slot = self.tx, self._slot
        given = [run_id for run_id, before in self._before.items() if before - self._holds[run_id]]
        if given:
            tx.run(delete(slot).where(slot.c.run_id.in_(given)))
        rows: list[dict[str, Any]] = [
            {"limit_id": limit_id, "run_id": run_id}
            for run_id, held in self._holds.items()
            for limit_id in (held if run_id in given else held - self._before[run_id])
        ]
        if rows:
            tx.connection.execute(insert(slot), rows)
        for limit in self._paced.values():
            tx.run(
                update(tables["task_rate_limit"])
                .where(tables["task_rate_limit"].c.id == limit.id)
                .values(begun=limit.begun)
            )
        self._save_lines()

    def _save_lines(self) -> None:
        if not self._moved:
            return
        line = tables["task_line"]
        self.tx.run(delete(line).where(line.c.run_id.in_(self._moved)))
        rows = [
            {"limit_id": limit_id, "run_id": run_id, "rank": -one.priority, "since": one.since, "due": one.due}
            for run_id in self._moved
            if (one := self._waiting.get(run_id)) is not None
            for limit_id in self._stands[run_id]
        ]
        if rows:
            self.tx.connection.execute(insert(line), rows)
