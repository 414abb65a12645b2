"""How a flow run is stopped: with a cause, and only where a run can be cut short without lying about it.

A task run can be cut short while its body runs and while it waits. While it records a state it is not disturbed:
what was sent may have been recorded, and a second state would then contradict it. Such a run stops by itself at the
next place where it can.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import Any, Literal, Self, TypeVar

import anyio

from ._eager import spawned
from ._run.net import LeftBehind
from .context import flow_scope, values
from .errors import BackendUnavailable
from .signals import ENDRUN
from .state import Cancelled, Pending, State

__all__ = [
    "Cancellation",
    "Cause",
    "LeftBehind",
    "absorb_cancel",
    "at_last",
    "body_deadline",
    "current_cancellation",
    "interruptible",
    "is_stopped",
    "left_by",
    "outlast",
    "stopped_state",
    "undisturbed",
    "uninterrupted",
]

T = TypeVar("T")

body_deadline: ContextVar[float] = ContextVar("flowloop_body_deadline", default=math.inf)
"""When the timeout of the body is over that this code is part of, by the time of the loop."""

Cause = Literal["user", "timeout", "shutdown", "sibling", "handover"]
"""Why a flow run is stopped. After a handover it is not over: another process goes on with it."""

_MESSAGES: dict[str, str] = {
    "user": "Cancelled on request.",
    "timeout": "Cancelled: the flow run took too long.",
    "shutdown": "Cancelled: the process that ran it was stopped.",
    "sibling": "Cancelled: another task of the flow run failed.",
}


class Cancellation:
    """Whether, and why, a flow run is being stopped."""

    __slots__ = (
        "_deadline",
        "_outer",
        "_seen_from",
        "_timeouts",
        "cause",
        "interrupted_by",
        "interruptible",
        "left_behind",
        "look",
        "outage",
    )

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.interrupted_by: KeyboardInterrupt | None = None
        """What goes on to the caller once everything has been stopped."""
        self.outage: BackendUnavailable | None = None
        """Why nothing can be recorded any more."""
        self._outer: Cancellation | None = None
        self._deadline = math.inf
        self._timeouts: list[Callable[[], bool]] = []
        self._seen_from: asyncio.Task[Any] | None = None
        self.look: Callable[[], Awaitable[None]] = _nowhere
        """Finds out whether the run was stopped elsewhere, and requests it then; here there is no elsewhere."""
        self.interruptible: set[asyncio.Task[Any]] = set()
        """The asyncio tasks that are at a place where they can be cut short."""
        self.left_behind: set[asyncio.Task[Any]] = set()
        """The asyncio tasks whose bodies would not stop, so that their runs ended without them."""

    def request(self, cause: Cause) -> None:
        """Stop the run; the first cause stays."""
        if self.cause is None:
            self.cause = cause
            for task in self.interruptible:
                task.cancel()

    def interrupt(self, error: KeyboardInterrupt) -> None:
        """Stop the run because of an interrupt, which the caller is to hear of after that."""
        self.interrupted_by = self.interrupted_by or error
        self.request("shutdown")

    def lose(self, outage: BackendUnavailable) -> None:
        """Stop the run because nothing can be recorded any more: another process goes on with it."""
        self.outage = self.outage or outage
        self.request("handover")

    def look_around(self) -> Self:
        """Note what may cut this run short from outside: the flow run around it, and the timeouts around both."""
        self._outer = current_cancellation()
        self._deadline = min(anyio.current_effective_deadline(), body_deadline.get())
        task = asyncio.current_task()
        if task is not None and task is not self._seen_from:
            self._seen_from = task
            # a coroutine shows what it is inside of while it waits, so the look is taken when this one does
            # its frame is told by its id alone: held, it would hold all that the run has made until then
            asyncio.get_running_loop().call_soon(self._find_timeouts, task, id(sys._getframe(1)))
        return self

    def _find_timeouts(self, task: asyncio.Task[Any], inner: int) -> None:
        if not task.done():  # it has no coroutine any more, and Python 3.12 crashes when asked for it
            self._timeouts = list(_timeouts_around(task, inner))

    @property
    def cause_from_outside(self) -> Cause:
        """Why this run ends if its asyncio task is cancelled."""
        if self._outer is not None and self._outer.cause is not None:
            return self._outer.cause
        has_expired = anyio.current_time() >= self._deadline or any(expired() for expired in self._timeouts)
        return "timeout" if has_expired else "shutdown"


async def _nowhere() -> None: ...


_MAY_BE_TIMEOUTS = frozenset({asyncio.Timeout, MethodType})
"""The kinds of what a coroutine holds that is inside of a timeout: the timeout, or how it is left."""


def _timeouts_around(task: asyncio.Task[Any], inner: int) -> Iterator[Callable[[], bool]]:
    """Tell of each ``asyncio.timeout`` that the coroutines of a waiting task are inside of whether it has expired.

    The look goes from the outermost coroutine to the one of the frame with the id `inner`.

    asyncio cancels for a timeout as it does for anything else. What a coroutine has entered and not left yet, nobody
    shows but the garbage collector.
    """
    inside: Any = task.get_coro()
    while inside is not None and id(getattr(inside, "cr_frame", None)) != inner:
        held = gc.get_referents(inside)
        for one in () if _MAY_BE_TIMEOUTS.isdisjoint(map(type, held)) else held:
            entered = one.__self__ if type(one) is MethodType else one
            if type(entered) is asyncio.Timeout:  # nobody derives from it: it is final
                yield entered.expired
        inside = getattr(inside, "cr_await", None)
    if sys.version_info < (3, 12):  # there wait_for makes a task of what it waits for
        for held in gc.get_referents(task):
            if isinstance(held, functools.partial) and getattr(held.func, "__name__", "") == "_release_waiter":
                yield functools.partial(_is_released, held.args[0])


def _is_released(waiter: asyncio.Future[Any]) -> bool:
    return waiter.done() and not waiter.cancelled()


def current_cancellation() -> Cancellation | None:
    """Return the cancellation of the flow run that this code is part of."""
    found: Cancellation | None = flow_scope.get().cancellation
    return found


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the block be cut short when the flow run is stopped.

    Raises:
        - ENDRUN: with Cancelled, if the flow run is stopped
    """
    cancellation = current_cancellation()
    task = asyncio.current_task()
    if cancellation is None or task is None:
        yield
        return
    if cancellation.cause is not None:
        raise ENDRUN(stopped_state(cancellation.cause))
    cancellation.interruptible.add(task)
    try:
        yield
    except asyncio.CancelledError:
        if cancellation.cause is None:
            raise
        task.uncancel()
        raise ENDRUN(stopped_state(cancellation.cause)) from None
    finally:
        cancellation.interruptible.discard(task)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep a block inside a body from being cut short; if the flow run was stopped meanwhile, that is made up for."""
    cancellation = current_cancellation()
    task = asyncio.current_task()
    if cancellation is None or task is None or task not in cancellation.interruptible:
        yield
        return
    cancellation.interruptible.discard(task)
    try:
        yield
    finally:
        cancellation.interruptible.add(task)
        if cancellation.cause is not None and not task.cancelling():
            task.cancel()


async def absorb_cancel(task: asyncio.Task[Any]) -> None:
    """Take back every cancel of the current task, one that has not reached it yet included."""
    try:
        while task.cancelling():
            task.uncancel()
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        while task.cancelling():
            task.uncancel()


async def is_stopped() -> bool:
    """Tell whether a CancelledError that was caught in a task run is meant for that run.

    If it is not, something that was awaited had been cancelled, or the task cancelled itself.
    """
    task = asyncio.current_task()
    assert task is not None
    cancellation = current_cancellation()
    if cancellation is None:
        return task.cancelling() > 0
    if cancellation.cause is None and task.cancelling():
        # a loop that shuts down cancels all tasks, and the flow run may hear of it later than this one
        await absorb_cancel(task)
    return cancellation.cause is not None


async def outlast(tasks: Iterable[asyncio.Task[Any]], seconds: float) -> bool:
    """Wait until all tasks are done, for so many seconds at most, although the caller is cancelled meanwhile.

    Returns:
        - bool: whether the caller was cancelled
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    cancelled = False
    # no deadline for the scope: anyio lets nobody swallow a cancel of asyncio's inside one that has run out
    with anyio.CancelScope(shield=True):
        while (waiting := [task for task in tasks if not task.done()]) and loop.time() < deadline:
            try:
                await asyncio.wait(waiting, timeout=deadline - loop.time())
            except asyncio.CancelledError:
                cancelled = True
    return cancelled


async def at_last(work: Coroutine[Any, Any, Any], grace: float) -> None:
    """Await `work` to its end, for `grace` seconds at most, although the caller is cancelled meanwhile."""
    await _end(asyncio.create_task(work), grace)


async def undisturbed(work: Coroutine[Any, Any, T], grace: float) -> T:
    """Await `work` to its end although the caller is cancelled meanwhile; from then on it has `grace` seconds.

    Raises:
        - CancelledError: when the caller was cancelled, after the work has ended
    """
    loop = asyncio.get_running_loop()
    task = spawned(work, loop)
    if not task.done():
        ended: asyncio.Future[None] = loop.create_future()
        task.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
        try:
            await ended
        except asyncio.CancelledError:
            await _end(task, grace)
            raise
    return task.result()


async def _end(task: asyncio.Task[Any], grace: float) -> None:
    await outlast((task,), grace)
    if task.cancel():
        await outlast((task,), grace)
    if task.done() and not task.cancelled():
        task.exception()


def stopped_state(cause: Cause) -> State:
    """Return the state of a run that was stopped: Cancelled, or Pending where another process goes on with it."""
    if cause != "handover":
        return Cancelled(_MESSAGES[cause], context={"cause": cause})
    attempt = values.get().get("task_run_count", 1)
    return Pending("Handed over to another process.", context={"task_run_count": attempt} if attempt > 1 else None)


def left_by(ended: str, cause: object) -> State:
    """Return what the task runs end as that a flow run leaves unfinished when it fails.

    Args:
        - ended: the name of the state that it ended in
        - cause: why it was stopped, if it was
    """
    if isinstance(cause, str) and cause in _MESSAGES:
        return Cancelled(_MESSAGES[cause], context={"cause": cause})
    return Cancelled(f"The flow run ended as {ended} before this task run did.")
