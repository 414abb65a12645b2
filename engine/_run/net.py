"""The net under the code of users: whatever it raises belongs to the one task run that called it.

A body, a handler, a trigger, a template or a sequence that is mapped over may raise anything: a signal, an exception, a
``SystemExit``, the panic of a Rust extension. All of it becomes a state. Only two things go on to the caller: a
``KeyboardInterrupt``, and the end of a coroutine that is being closed.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterator
from typing import Any, TypeGuard

from ..context import values
from ..signals import ENDRUN, PrefectSignal, PrefectStateSignal
from ..state import Finished, Looped, Mapped, Paused, Scheduled, State

__all__ = [
    "NO_END",
    "LeftBehind",
    "Withdrawn",
    "failure",
    "goes_on",
    "is_let_through",
    "is_moment",
    "is_the_end",
    "meant",
    "shown",
]


NO_END = (
    "in which nobody goes on with it. End it with a finished state, or one that waits: Scheduled, Retrying, Paused."
)
"""What is wrong with the end of a run that `is_the_end` is False of, and the remedy."""


def is_the_end(state: State) -> bool:
    """Whether the code of users may end a run in a state: it is over, or it waits for a time or for somebody.

    What has begun is not held back (Queued), and only a finished child counts as one: nobody would run the others.
    """
    if isinstance(state, Mapped):
        children = state.map_states
        return len(children) == state.n_map_states and all(isinstance(child, Finished) for child in children)
    if isinstance(state, Scheduled):
        return is_moment(state.start_time) or (isinstance(state, Paused) and state.start_time is None)
    return isinstance(state, Finished) and not isinstance(state, Looped)


def is_moment(time: object) -> TypeGuard[datetime.datetime]:
    """Whether a time, which the code of users may have set, is one."""
    return isinstance(time, datetime.datetime) and time.tzinfo is not None


class LeftBehind(BaseException):
    """A body ended after its run had ended without it, so nobody may hear of it."""


class Withdrawn(BaseException):
    """A run had stepped ahead of what it waited for, and that has not come: it begins anew, and nobody heard of it."""


def meant(raised: BaseException) -> BaseException:
    """Return what was meant by what was raised: a group around one single signal stands for that signal.

    ``asyncio.TaskGroup`` and anyio's task groups hand on in such a group what was raised inside them. A signal that
    has no state is an error like any other.
    """
    try:
        _ = raised.__class__  # which whoever asks what it is asks for, and may be code of users
    except BaseException as problem:
        if goes_on(problem):
            raise
        said = f"{type(raised).__qualname__} was raised, of which nothing can be asked: that raises"
        return TypeError(f"{said} {type(problem).__qualname__}")
    error = _meant_by(raised) if isinstance(raised, BaseExceptionGroup) else raised
    return _with_state(error) if isinstance(error, (ENDRUN, PrefectStateSignal)) else error


def _meant_by(group: BaseExceptionGroup[Any]) -> BaseException:
    leaves = list(_leaves(group))
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            return leaf
    return leaves[0] if len(leaves) == 1 and isinstance(leaves[0], PrefectSignal) else group


def _with_state(signal: ENDRUN | PrefectStateSignal) -> BaseException:
    name = type(signal).__qualname__
    try:
        state: object = signal.state
    except BaseException as error:
        if goes_on(error):
            raise
        return TypeError(f"the signal {name} has no state: to ask for it raises {type(error).__qualname__}")
    if isinstance(state, State):
        return signal
    return TypeError(f"the state of the signal {name} is {shown(state)}, which is none")


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


def goes_on(error: BaseException) -> bool:
    """Tell whether an error is not caught by the net, as it is none of the task run's own."""
    kind = type(error)  # past what it says of its class, which is code of users
    return issubclass(kind, (KeyboardInterrupt, LeftBehind, Withdrawn)) or (
        issubclass(kind, GeneratorExit) and _is_closed()
    )


def is_let_through(error: BaseException) -> bool:
    """Tell whether an error goes on to the caller of the run, because the context says ``raise_on_exception``."""
    return issubclass(type(error), Exception) and bool(values.get().get("raise_on_exception"))


def failure(raised: BaseException) -> BaseException:
    """Return the error of a function of the user's, which fails the run.

    Raises:
        - ENDRUN: with its state, for a signal
        - BaseException: what is not for the net, is let through, or is a cancel, which may be meant for the run
    """
    error = meant(raised)
    state = error.state if isinstance(error, (ENDRUN, PrefectStateSignal)) else None
    if isinstance(state, Mapped) and not is_the_end(state):
        # further on it would pass for that of a run whose children come next
        return ValueError(f"the run was ended as Mapped with children that are not finished, {NO_END}")
    if isinstance(error, PrefectStateSignal):
        raise ENDRUN(error.state) from None
    if isinstance(error, (ENDRUN, asyncio.CancelledError)) or goes_on(error) or is_let_through(error):
        raise error from None
    return error


def _is_closed() -> bool:
    """Tell whether the coroutine that asks is being closed: nobody runs it any more, so it may await nothing."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:
        return True


def shown(value: object) -> str:
    """Return the repr of a value, or say that it has none: that is code of users, too."""
    try:
        return repr(value)
    except BaseException as error:
        if goes_on(error):
            raise
        return f"<{type(value).__qualname__}, whose repr fails with {type(error).__name__}>"
