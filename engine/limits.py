"""How many task runs go on at once, and how often they begin."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import msgspec

from .cancellation import interruptible
from .context import values
from .operators import _Generated
from .parameter import Parameter
from .task import Task

__all__ = ["Limits", "OpenLimits", "Rate"]


class Rate(msgspec.Struct, frozen=True):
    """At most `count` beginnings in any `period` seconds."""

    count: int
    period: float

    def __post_init__(self) -> None:
        if self.count < 1 or self.period <= 0:
            raise ValueError(f"a rate is at least 1 in more than 0 seconds, not {self.count} in {self.period}")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a flow run.

    Args:
        - concurrency: how many task runs at once, in all; None is no limit
        - tasks: how many runs of one task at once, by its name or slug
        - tags: how many runs at once of the tasks with a tag
        - rate: how often task runs begin

    Waiting is fair: who came first goes first. A run that waits for its retry holds nothing. Parameters, constants and
    what else flowloop computes by itself are not counted.

    Example:

        ```python
        FlowRunner(flow, limits=Limits(concurrency=50, tags={"database": 5}, rate=Rate(10, 1.0)))
        ```
    """

    concurrency: int | None = None
    tasks: Mapping[str, int] = msgspec.field(default_factory=dict)
    tags: Mapping[str, int] = msgspec.field(default_factory=dict)
    rate: Rate | None = None

    def __post_init__(self) -> None:
        for name, limit in {"concurrency": self.concurrency, **self.tasks, **self.tags}.items():
            if limit is not None and limit < 1:
                raise ValueError(f"the limit for {name!r} is at least 1, not {limit}")

    def opened(self) -> OpenLimits:
        """Return the slots of one flow run."""
        return OpenLimits(self)


class OpenLimits:
    """The slots of one flow run."""

    def __init__(self, limits: Limits) -> None:
        self._all = None if limits.concurrency is None else anyio.Semaphore(limits.concurrency, fast_acquire=True)
        self._tasks = {name: anyio.Semaphore(limit, fast_acquire=True) for name, limit in limits.tasks.items()}
        self._tags = {tag: anyio.Semaphore(limit, fast_acquire=True) for tag, limit in limits.tags.items()}
        self._rate = limits.rate
        self._begun: deque[float] = deque()
        self._turn = anyio.Lock(fast_acquire=True)

    def _semaphores(self, task: Task[..., Any]) -> list[anyio.Semaphore]:
        # the narrow ones first: who waits for a tag does not hold a place that others could use; and always in one
        # order, so that two runs never wait for each other
        names = {task.name, values.get().get("task_slug") or task.name}
        found = [self._tasks[name] for name in sorted(names) if name in self._tasks]
        found += [self._tags[tag] for tag in sorted(task.tags) if tag in self._tags]
        return found if self._all is None else [*found, self._all]

    @asynccontextmanager
    async def slot(self, task: Task[..., Any]) -> AsyncIterator[None]:
        """Hold all the slots that a run of this task needs."""
        if isinstance(task, (Parameter, _Generated)):
            yield
            return
        async with AsyncExitStack() as held:
            with interruptible():
                for semaphore in self._semaphores(task):
                    await held.enter_async_context(semaphore)
                await self._wait_for_rate()
            yield

    async def _wait_for_rate(self) -> None:
        if self._rate is None:
            return
        async with self._turn:
            if len(self._begun) == self._rate.count:
                await anyio.sleep_until(self._begun[0] + self._rate.period)
                self._begun.popleft()
            self._begun.append(anyio.current_time())
