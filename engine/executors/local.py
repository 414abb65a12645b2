"""The default executor: async bodies on the loop, sync bodies in threads."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any, Self

from .._one_pass import gathered, needs_reading, read
from .._turns import Places
from ..cancellation import body_deadline
from ._threads import BodyThreads
from ._ticket import TaskTicket, outcome_of
from .base import PlaceExecutor
from .place import Done, Fate, Job, Outcome, Place, Ticket

__all__ = ["HERE", "LocalExecutor"]

_ABANDONED = "Its thread cannot be stopped, and was abandoned."


class LocalExecutor(PlaceExecutor):
    """Runs async bodies on the caller's event loop, and sync ones in threads of its own.

    The threads are apart from those of the application: neither can starve the other. A thread cannot be stopped from
    outside. One whose run is cancelled or times out is abandoned: it goes on to its end, what it returns is dropped,
    and the process does not wait for it when it ends.

    Args:
        - threads: how many sync bodies run at once, on each event loop that uses it
    """

    def __init__(self, threads: int = 64) -> None:
        if threads < 1:
            raise ValueError(f"threads is at least 1, not {threads}")
        super().__init__()
        self.threads = threads

    def _opened(self) -> AbstractAsyncContextManager[Place]:
        return _LocalPlace(self.threads)

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Say that a thread goes on."""
        return "" if is_async else _ABANDONED


class _LocalPlace(Place):
    """This loop, and threads.

    Args:
        - threads: how many sync bodies run at once; None is no limit
    """

    is_here = True

    def __init__(self, threads: int | None) -> None:
        self._slots = None if threads is None else Places(threads)
        self._pool = BodyThreads()

    async def submit(self, job: Job) -> Ticket:
        """Take a job; a sync body waits for a thread."""
        if job.is_async:
            return TaskTicket(job, functools.partial(_on_the_loop, job))
        slot = ExitStack()
        if self._slots is not None:
            await self._slots.take(job.needs.priority)
            slot.callback(self._slots.give_back)
        ticket = TaskTicket(job, functools.partial(self._in_a_thread, job, slot), _ABANDONED)
        ticket.at_the_end(slot.close)
        return ticket

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._pool.shutdown()  # which lets the idle threads end

    async def _in_a_thread(self, job: Job, slot: ExitStack, ticket: TaskTicket) -> Outcome:
        context = contextvars.copy_context()
        ticket.has_begun()
        ticket.fate = Fate.GOES_ON
        outcome = await outcome_of(
            asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(_timed, job, ticket))
        )
        slot.close()
        if isinstance(outcome, Done) and _goes_on_here(job, outcome.value):
            ticket.fate = None
            return await outcome_of(_finished(job, outcome.value))
        return outcome


def _timed(job: Job, ticket: TaskTicket) -> Any:
    began = time.monotonic()
    value = None
    try:
        value = job.body(*job.args, **job.inputs)
        if job.is_read and needs_reading(value):
            value = read(value)
    finally:
        if not _goes_on_here(job, value):
            ticket.has_taken(time.monotonic() - began)
    return value


def _goes_on_here(job: Job, value: Any) -> bool:
    """Whether a body that returned from its thread has only begun."""
    return inspect.isawaitable(value) or (job.is_read and needs_reading(value))


async def _finished(job: Job, value: Any) -> Any:
    if inspect.isawaitable(value):
        value = await value
    return await gathered(read(value)) if job.is_read and needs_reading(value) else value


async def _on_the_loop(job: Job, ticket: TaskTicket) -> Outcome:
    ticket.has_begun()
    if job.timeout is not None:
        body_deadline.set(asyncio.get_running_loop().time() + job.timeout)
    return await outcome_of(_finished(job, job.body(*job.args, **job.inputs)))


HERE = _LocalPlace(None)
"""Where a body runs that does not travel, or whose run has no executor."""
