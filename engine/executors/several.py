"""Several executors in one flow, each task at the one that it names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from ..errors import FlowDefinitionError
from .base import Executor
from .local import LocalExecutor
from .place import Job, Place, Ticket

__all__ = ["SeveralExecutors"]


class SeveralExecutors(Executor):
    """Runs each body where its task says (`Needs.place`): what ``Flow(executor={"": ..., "gpu": ...})`` makes.

    Args:
        - executors: by name; the one named "" is for all tasks that name none, `LocalExecutor` if there is none
    """

    def __init__(self, executors: Mapping[str, Any]) -> None:
        self.executors: dict[str, Executor] = {"": LocalExecutor(), **executors}

    @asynccontextmanager
    async def _all(self) -> AsyncIterator[Place]:
        async with AsyncExitStack() as opened:
            places = {name: await opened.enter_async_context(one.open()) for name, one in self.executors.items()}
            yield _SeveralPlaces(places)

    def open(self) -> Any:
        """Open all places on this event loop."""
        return self._all()


class _SeveralPlaces(Place):
    """Several places, by name."""

    is_several = True

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self.is_here = places[""].is_here

    def has(self, name: str | None) -> bool:
        """Whether there is a place of this name."""
        return (name or "") in self._places

    def named(self, name: str | None) -> Place:
        """Return the place of this name.

        Raises:
            - FlowDefinitionError: if there is none
        """
        found = self._places.get(name or "")
        if found is None:
            known = ", ".join(repr(one) for one in self._places)
            raise FlowDefinitionError(f"the task needs the place {name!r}; the executors here are {known}")
        return found

    async def submit(self, job: Job) -> Ticket:
        """Take a job to the place that it names."""
        return await self.named(job.needs.place).submit(job)

    async def check(self) -> list[str]:
        """Return why bodies cannot run at any of the places."""
        return [problem for place in self._places.values() for problem in await place.check()]
