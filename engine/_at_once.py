"""Functions of users that are asked for an answer at once: it is not awaited, and so may be no coroutine."""

from __future__ import annotations

import functools
import inspect
from typing import Any

__all__ = ["answered", "gives_coroutines"]


def gives_coroutines(function: Any) -> bool:
    """Whether to call a function makes a coroutine, as far as can be seen without calling it."""
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004 - whether it is async, and not whether it is there
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def answered(answer: Any, what: str) -> Any:
    """Return the answer of a function.

    Args:
        - answer: the answer
        - what: what gave it, for the error

    Raises:
        - TypeError: if it would have to be awaited
    """
    if not (inspect.isawaitable(answer) or inspect.isasyncgen(answer)):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()
    raise TypeError(
        f"{what} has to be awaited (it gave a {type(answer).__qualname__}), and is asked at once: let it be a "
        "function that is not async"
    )
