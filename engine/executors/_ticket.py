"""A job that an asyncio task of this loop sees to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from .place import Done, Fate, Job, Outcome, Raised, Ticket, TimedOut

__all__ = ["TaskTicket", "outcome_of"]

_AT_ONCE = 0.05
"""Seconds within which a body that was told to stop counts as having ended at once."""


class TaskTicket(Ticket):
    """Runs `work` in an asyncio task, and holds it to the timeout of its job, counted from when the work says so.

    Args:
        - job: the job
        - work: given this ticket, sees to the job; it calls `has_begun`, and `has_taken` where the body is elsewhere
        - gone_on: a sentence on a body that goes on although its work was cancelled
    """

    def __init__(self, job: Job, work: Callable[[TaskTicket], Coroutine[Any, Any, Outcome]], gone_on: str = "") -> None:
        self.id = job.id
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._gone_on = gone_on
        self._began_at: float | None = None
        self._seconds: float | None = None
        self._is_late = False
        self.fate: Fate | None = None
        """What became of a body whose work was cancelled; None if it ended with it."""
        self.is_left = False
        """Whether it is to go on for whoever takes the flow run over, where that one can find it."""
        self._timer: asyncio.TimerHandle | None = None
        self._begin: asyncio.Future[None] = self._loop.create_future()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._work = self._loop.create_task(work(self))
        self._work.add_done_callback(self._finished)

    @property
    def is_under_way(self) -> bool:
        """Whether the body has begun."""
        return self._began_at is not None

    # -- what the work says ------------------------------------------------------------------------------

    def has_begun(self) -> None:
        """Count from now."""
        if self._began_at is None:
            self._began_at = self._loop.time()
            if not self._begin.done():
                self._begin.set_result(None)
            if self._job.timeout is not None and not self._work.done():
                self._timer = self._loop.call_later(self._job.timeout, self._expire)

    def has_taken(self, seconds: float) -> None:
        """Note how long the body took, as soon as it has ended and from any thread: its answer may be on its way."""
        self._seconds = seconds
        self.fate = None

    def at_the_end(self, call: Callable[[], Any]) -> None:
        """Call a function as soon as the work is over, be it that it never began."""
        self._work.add_done_callback(lambda _: call())

    # -- what happens to it ------------------------------------------------------------------------------

    def _expire(self) -> None:
        if self._seconds is not None:
            return
        self._is_late = True
        self._work.cancel()
        self._timer = self._loop.call_later(self._job.grace + _AT_ONCE, self._leave)

    def _leave(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _finished(self, work: asyncio.Task[Outcome]) -> None:
        self._stop_timer()
        if self._began_at is not None and self._seconds is None:
            self._seconds = self._loop.time() - self._began_at
        if not work.cancelled():
            work.exception()
        for future in (self._begin, self._over):
            if not future.done():
                future.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # -- the port ----------------------------------------------------------------------------------------

    async def began(self) -> bool:
        """Wait until the body begins; see `Ticket.began`."""
        if not self._begin.done():
            await asyncio.wait((self._begin,))
        return self.is_under_way

    async def outcome(self) -> Outcome:
        """Wait until it is known what became of the body; see `Ticket.outcome`."""
        if not self._over.done():
            await asyncio.wait((self._over,))
        if self._took_too_long():
            return TimedOut(self._fate(), self._sentence())
        return self._answer()

    async def stop(self, cause: str, grace: float) -> Fate:
        """Cancel the work; see `Ticket.stop`."""
        self.is_left = cause == "handover"
        self._work.cancel()
        await asyncio.wait((self._work,), timeout=grace)
        if not self._work.done():
            self._leave()
        return self._fate()

    def _answer(self) -> Outcome:
        if not self._work.done() or self._work.cancelled():
            return Raised(asyncio.CancelledError())
        error = self._work.exception()
        return self._work.result() if error is None else Raised(error)

    def _took_too_long(self) -> bool:
        timeout = self._job.timeout
        return self._is_late or (timeout is not None and self._seconds is not None and self._seconds > timeout)

    def _fate(self) -> Fate:
        if self._began_at is None and self._seconds is None:
            return Fate.NEVER_BEGAN
        if not self._work.done():
            return Fate.GOES_ON
        return self.fate or Fate.ENDED

    def _sentence(self) -> str:
        fate = self._fate()
        if fate is Fate.KILLED:
            return "Its process was killed."
        if not self._work.done():
            return f"It was told to stop, and still ran {self._job.grace:g} s later: it goes on, to no effect."
        if fate in (Fate.GOES_ON, Fate.UNKNOWN):
            return self._gone_on
        assert self._job.timeout is not None
        assert self._seconds is not None
        late = max(0.0, self._seconds - self._job.timeout)
        answer = self._answer()
        if isinstance(answer, Done):
            return f"It ran on for {late:.1f} s, and what it returned was dropped."
        if isinstance(answer, Raised) and not isinstance(answer.error, asyncio.CancelledError):
            return f"It ran on for {late:.1f} s, and then raised {answer.error!r}."
        return f"It ran on for {late:.1f} s." if late >= _AT_ONCE else ""


async def outcome_of(call: Awaitable[Any]) -> Outcome:
    """Await a body here, and return what became of it."""
    try:
        return Done(await call)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        # an asyncio task that ends with SystemExit would take the loop with it
        return Raised(error)
