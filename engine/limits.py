"""How many task runs go on at once, and how often they begin."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ._turns import Pace, Places
from .cancellation import interruptible
from .context import current_values
from .errors import FlowloopError
from .executors.place import priority_of
from .operators import _Generated
from .parameter import Parameter
from .task import Task

__all__ = ["Limits", "OpenLimits", "Rate", "Slot"]


class Rate(msgspec.Struct, frozen=True):
    """At most `count` beginnings in any `period` seconds."""

    count: int
    period: float

    def __post_init__(self) -> None:
        if not (self.count >= 1 and 0 < self.period < math.inf):
            raise ValueError(f"a rate is at least 1 in more than 0 seconds, not {self.count} in {self.period}")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a flow run.

    Args:
        - concurrency: how many task runs at once, in all; None is no limit
        - tasks: how many runs of one task at once, by its name or slug
        - tags: how many runs at once of the tasks with a tag
        - rate: how often task runs begin
        - timeout: seconds that the flow run may take, counted from its beginning; that of the flow if None

    Waiting is fair: of what waits, tasks with a higher priority (`Needs.priority`) go first, and of one priority who
    came first. A run that waits for its retry holds nothing. Parameters, constants and
    what else flowloop computes by itself are not counted. The limits reach into a flow that runs as a task: its tasks
    are counted as those around it are; what that task holds itself, by its name or its tags, they need not have again.

    Example:

        ```python
        FlowRunner(flow, limits=Limits(concurrency=50, tags={"database": 5}, rate=Rate(10, 1.0)))
        ```

    They hold for each run of the runner; `open` makes of them some that several runners share.
    """

    concurrency: int | None = None
    tasks: Mapping[str, int] = msgspec.field(default_factory=dict)
    tags: Mapping[str, int] = msgspec.field(default_factory=dict)
    rate: Rate | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name, limit in {"concurrency": self.concurrency, **self.tasks, **self.tags}.items():
            if limit is not None and not (isinstance(limit, int) and limit >= 1):
                raise ValueError(f"the limit for {name!r} is at least 1, and a whole number, not {limit}")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"a timeout is more than 0 seconds, and ends, not {self.timeout}")

    def open(self) -> OpenLimits:
        """Return these limits as something that many runners share: given to each as `limits`, they hold for all.

        Example:

            ```python
            shared = Limits(concurrency=50, rate=Rate(100, 60.0)).open()
            await asyncio.gather(*(FlowRunner(flow, limits=shared).run() for flow in flows))
            ```
        """
        return OpenLimits(self)

    def changed(self, asked: Mapping[str, Any]) -> Limits:
        """Return these limits with those that were asked for, as `directives.limits_of` reads them; None ends one."""
        known = {name: asked.get(name, getattr(self, name)) for name in ("concurrency", "timeout")}
        rate = asked.get("rate", self.rate)
        return Limits(
            **known,
            tasks=_with(self.tasks, asked.get("tasks", {})),
            tags=_with(self.tags, asked.get("tags", {})),
            rate=Rate(rate["count"], rate["period"]) if isinstance(rate, Mapping) else rate,
        )


def _with(limits: Mapping[str, int], changes: Mapping[str, int | None]) -> dict[str, int]:
    return {name: limit for name, limit in {**limits, **changes}.items() if limit is not None}


_NONE = Limits()
_NOTHING: frozenset[str] = frozenset()


class OpenLimits:
    """The places of one flow run and of the flows that run as tasks of it, or of many that share them.

    Args:
        - limits: those of the run, which `change` replaces while it goes on
        - around: the places of the flow run that this one is a part of, which its tasks need, too
        - held: the name and the tags of the task that this run is there, which that one holds places for already
    """

    def __init__(
        self, limits: Limits | None = None, around: OpenLimits | None = None, held: frozenset[str] = _NOTHING
    ) -> None:
        self._around = around
        self._held = held
        self._slots: dict[Slot, frozenset[str]] = {}
        self._all: dict[str, Places] = {}
        self._tasks: dict[str, Places] = {}
        self._tags: dict[str, Places] = {}
        self._rate: Rate | None = None
        self._pace: Pace | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.limits = _NONE
        self._has_none = True
        if limits is not None:
            self.change(limits)

    def shared(self) -> OpenLimits:
        """Return the places of one more run, which needs these beside its own.

        Raises:
            - FlowloopError: if what goes on under these limits does so in another event loop
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._slots:
                raise FlowloopError(
                    "these limits are shared by runs in another event loop: open some for each loop, or set limits of "
                    "the backend (flowloop limits set), which hold for all processes"
                )
            self._loop = loop
            if self._pace is not None:
                self._pace.forget()  # each loop has a time of its own
        timeout = self.limits.timeout
        return OpenLimits(None if timeout is None else Limits(timeout=timeout), self)

    @property
    def are_none(self) -> bool:
        """Whether there is nothing to wait for."""
        return self._has_none and (self._around is None or self._around.are_none)

    def change(self, limits: Limits) -> None:
        """Set other limits: who goes on, goes on and is counted, and who waits for what is free now gets it."""
        self.limits = limits
        changes = (self._all, {"": limits.concurrency}), (self._tasks, limits.tasks), (self._tags, limits.tags)
        new = [one for places, numbers in changes for one in _resized(places, numbers)]
        for slot, held in self._slots.items() if new else ():
            for places in self._places(slot.task, slot.names, held):
                if places in new:
                    places.taken += 1
                    slot.take(places)
        self._has_none = limits.rate is None and not (self._all or self._tasks or self._tags)
        if limits.rate != self._rate:
            self._rate, self._pace = limits.rate, self._pace or Pace()
            self._pace.change(*((None, 0.0) if limits.rate is None else (limits.rate.count, limits.rate.period)))

    def _places(self, task: Task[..., Any], names: Iterable[str], held: frozenset[str]) -> list[Places]:
        # the narrow ones first: who waits for a tag does not hold a place that others could use; and always in one
        # order, so that two runs never wait for each other
        found = [self._tasks[name] for name in sorted(names) if name in self._tasks and name not in held]
        found += [self._tags[tag] for tag in sorted(task.tags) if tag in self._tags and tag not in held]
        return found if task.runs_a_flow else [*found, *self._all.values()]  # of a flow, the tasks are counted

    def entered(self, task: Task[..., Any]) -> Slot | None:
        """Return what a run of this task holds where there is nothing to wait for; None where it has to `enter`."""
        around = self._around
        if not (self._has_none if around is None else self.are_none) or isinstance(task, _UNLIMITED):
            return None
        slot = Slot(task, current_values().get("task_slug") or task.name)
        self._slots[slot] = _NOTHING
        if around is not None:
            around._note(slot, self._held)
        return slot

    async def enter(self, task: Task[..., Any]) -> Slot | None:
        """Return what a run of this task holds, once it has all the places that it needs; `leave` gives them back."""
        if isinstance(task, _UNLIMITED):
            return None
        slot = Slot(task, current_values().get("task_slug") or task.name)
        try:
            with interruptible():
                await self._take_places(slot)
                if not task.runs_a_flow:
                    await self._wait_for_rate(priority_of(task.needs))
        except BaseException:
            self.leave(slot)
            raise
        self._note(slot, _NOTHING)
        return slot

    def leave(self, slot: Slot | None) -> None:
        """Give back what a run has held."""
        if slot is None:
            return
        self._forget(slot)
        if slot.places:
            slot.give_back()

    async def _take_places(self, slot: Slot) -> None:
        wanted, priority = self._wanted(slot, _NOTHING), priority_of(slot.task.needs)
        while True:
            for places in wanted:
                await places.take(priority)
                slot.take(places)
            before, wanted = wanted, self._wanted(slot, _NOTHING)
            if before == wanted:
                return
            slot.give_back()  # other limits were set while it waited

    def _wanted(self, slot: Slot, held: frozenset[str]) -> list[Places]:
        own = self._places(slot.task, slot.names, held)
        return own if self._around is None else [*self._around._wanted(slot, held | self._held), *own]

    def _note(self, slot: Slot, held: frozenset[str]) -> None:
        self._slots[slot] = held
        if self._around is not None:
            self._around._note(slot, held | self._held)

    def _forget(self, slot: Slot) -> None:
        self._slots.pop(slot, None)
        if self._around is not None:
            self._around._forget(slot)

    async def _wait_for_rate(self, priority: int) -> None:
        if self._around is not None:
            await self._around._wait_for_rate(priority)
        if self._pace is not None:
            await self._pace.take(priority)


# Each run that is under way has one, limits or not: the garbage collector, which would find nothing, is spared it.
class Slot(msgspec.Struct, eq=False, gc=False):
    """What one run of a task holds.

    Args:
        - task: the task
        - slug: its slug in the flow
        - places: what it holds
    """

    task: Task[..., Any]
    slug: str
    places: list[Places] | None = None

    @property
    def names(self) -> set[str]:
        """What limits may call the task."""
        return {self.task.name, self.slug}

    def take(self, places: Places) -> None:
        """Hold a place that was taken."""
        if self.places is None:
            self.places = []
        self.places.append(places)

    def give_back(self) -> None:
        """Give back all its places."""
        while self.places:
            self.places.pop().give_back()


_UNLIMITED = (Parameter, _Generated)
"""The tasks that do no work of the user's."""


def _resized(places: dict[str, Places], limits: Mapping[str, int | None]) -> list[Places]:
    """Set other numbers of places, and return those that are new; without a limit, everybody is let in."""
    for name, one in places.items():
        one.change(limits.get(name))
    new = {name: Places(number) for name, number in limits.items() if number is not None and name not in places}
    places.update(new)
    return list(new.values())
