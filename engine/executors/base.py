"""What an executor is: a description of where the bodies of tasks run."""

from __future__ import annotations

import asyncio
import functools
import inspect
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread

from .._one_pass import gathered, needs_reading, read
from ..errors import ExecutorError
from ._shared import Shared
from ._ticket import TaskTicket, outcome_of
from .place import Fate, Job, Outcome, Place, Ticket, settled

__all__ = ["Executor", "PlaceExecutor", "SimpleExecutor", "name_of"]

_SUBMIT_TAKES = frozenset({"extra_context", "fn", "self"})
"""Names of arguments that `Executor.submit` takes for itself."""


class Executor:
    """Describes where the bodies of tasks run; only they travel, the states of tasks stay on the loop.

    An executor holds nothing that belongs to a run: it can be pickled, and several flow runs, also on the loops of
    several threads, use it at once. Subclass `SimpleExecutor` to say no more than how a body is called.
    """

    def open(self) -> AbstractAsyncContextManager[Place]:
        """Open the place on this event loop, for as long as a flow runs."""
        return _simple_place(self)

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Hold whatever the bodies need for as long as the flow runs."""
        yield

    async def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run a body to its end.

        Args:
            - fn: the body, sync or async
            - args, kwargs: its arguments
            - extra_context: facts about the run, such as ``task_name``, for executors that show or use them

        Returns:
            - Any: what the body returns; what it raises is raised here

        Raises:
            - ExecutorError: if the body could not be run, or was lost
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to submit a task body")

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Return a sentence on what becomes of a body that times out or is cancelled; empty if it ends at once.

        Args:
            - is_async: whether the body is async
        """
        return ""

    async def wait(self, futures: Any) -> Any:
        """Await everything that can be awaited in nested lists, tuples, sets and dicts.

        Args:
            - futures: the nested structure

        Returns:
            - Any: the same structure with the values in place
        """
        if inspect.isawaitable(futures):
            return await futures
        if isinstance(futures, (list, tuple, set)):
            return type(futures)([await self.wait(item) for item in futures])
        if isinstance(futures, dict):
            return {key: await self.wait(item) for key, item in futures.items()}
        return futures

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class SimpleExecutor(Executor):
    """Calls bodies in a way of its own: subclass it and write `submit`, and `start` if something has to be held.

    The timeout of a task counts from when `submit` is called, as nobody says when the body begins.

    Example:

        ```python
        class Measured(SimpleExecutor):
            async def submit(self, fn, *args, extra_context=None, **kwargs):
                with stopwatch(extra_context["task_name"]):
                    return await fn(*args, **kwargs)
        ```
    """


class PlaceExecutor(Executor):
    """An executor with a place of its own, which the flow runs of a loop share."""

    def __init__(self) -> None:
        self._shared = Shared()

    def open(self) -> AbstractAsyncContextManager[Place]:
        """Open the place on this event loop; the flow runs of a loop share it."""
        if type(self).submit is not PlaceExecutor.submit:  # somebody's own, who wants to see every body
            return _simple_place(self)
        return self._shared.held(self._opened) if type(self).start is PlaceExecutor.start else self._started()

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[Place]:  # somebody's own, who holds more
        async with self.start(), self._shared.held(self._opened) as place:
            yield place

    def _opened(self) -> AbstractAsyncContextManager[Place]:
        """Open a place."""
        raise NotImplementedError

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Hold the place of this event loop open, for `submit`."""
        async with self._shared.held(self._opened):
            yield

    async def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run a body to its end; see `Executor.submit`."""
        place = self._shared.here()
        if place is None:
            kind = type(self).__name__
            raise ExecutorError(f"this {kind} is not started: submit inside `async with executor.start()`")
        name = name_of(fn, extra_context)
        is_async = inspect.iscoroutinefunction(fn)
        job = Job(id=uuid.uuid4().hex, name=name, body=fn, is_async=is_async, args=args, inputs=kwargs)
        ticket = await place.submit(job)
        try:
            return settled(await ticket.outcome(), name)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await ticket.stop("user", job.grace)
            raise


def name_of(fn: Callable[..., Any], extra_context: Mapping[str, Any] | None) -> str:
    """Return what a body is called in errors."""
    return str((extra_context or {}).get("task_name") or getattr(fn, "__name__", "a body"))


class _SimplePlace(Place):
    """Gives every job to the `submit` of an executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def submit(self, job: Job) -> Ticket:
        detail = self._executor.fate_when_cut_short(job.is_async)

        async def work(ticket: TaskTicket) -> Outcome:
            ticket.has_begun()
            ticket.fate = None if job.is_async and not detail else Fate.UNKNOWN
            outcome = await outcome_of(self._call(job))
            ticket.fate = None
            return outcome

        return TaskTicket(job, work, detail)

    async def _call(self, job: Job) -> Any:
        body, inputs = job.body, job.inputs
        if not inputs.keys().isdisjoint(_SUBMIT_TAKES):
            body, inputs = functools.partial(body, **inputs), {}
        extra = {"task_name": job.name, "timeout": job.timeout}
        value = await self._executor.submit(body, *job.args, extra_context=extra, **inputs)
        if job.is_read and needs_reading(value):
            value = await gathered(await anyio.to_thread.run_sync(read, value))
        return value


@asynccontextmanager
async def _simple_place(executor: Executor) -> AsyncIterator[Place]:
    async with executor.start():
        yield _SimplePlace(executor)
