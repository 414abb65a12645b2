"""The net under the code of users: whatever it raises belongs to the one task run that called it.

A body, a handler, a trigger, a template or a sequence that is mapped over may raise anything: a signal, an exception, a
``SystemExit``, the panic of a Rust extension. All of it becomes a state. Only two things go on to the caller: a
``KeyboardInterrupt``, and the end of a coroutine that is being closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from ..context import values
from ..signals import ENDRUN, PrefectSignal, PrefectStateSignal

__all__ = ["LeftBehind", "Withdrawn", "failure", "goes_on", "is_let_through", "meant", "shown"]


class LeftBehind(BaseException):
    """A body ended after its run had ended without it, so nobody may hear of it."""


class Withdrawn(BaseException):
    """A run had stepped ahead of what it waited for, and that has not come: it begins anew, and nobody heard of it."""


def meant(raised: BaseException) -> BaseException:
    """Return what was meant by what was raised: a group around one single signal stands for that signal.

    ``asyncio.TaskGroup`` and anyio's task groups hand on in such a group what was raised inside them.
    """
    if not isinstance(raised, BaseExceptionGroup):
        return raised
    leaves = list(_leaves(raised))
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            return leaf
    return leaves[0] if len(leaves) == 1 and isinstance(leaves[0], PrefectSignal) else raised


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


def goes_on(error: BaseException) -> bool:
    """Tell whether an error is not caught by the net, as it is none of the task run's own."""
    return isinstance(error, (KeyboardInterrupt, LeftBehind, Withdrawn)) or (
        isinstance(error, GeneratorExit) and _is_closed()
    )


def is_let_through(error: BaseException) -> bool:
    """Tell whether an error goes on to the caller of the run, because the context says ``raise_on_exception``."""
    return isinstance(error, Exception) and bool(values.get().get("raise_on_exception"))


def failure(raised: BaseException) -> BaseException:
    """Return the error of a function of the user's, which fails the run.

    Raises:
        - ENDRUN: with its state, for a signal
        - BaseException: what is not for the net, is let through, or is a cancel, which may be meant for the run
    """
    error = meant(raised)
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
