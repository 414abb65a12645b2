"""Errors as pickles: whole and of their own kind, also those that pickle cannot write, or could not read again.

Pickle makes an error anew by calling its class with ``args``, which few classes with an ``__init__`` of their own bear.
Here one is made without calling anything of its class, and then gets back what it had.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

__all__ = ["has_its_own_way", "reduced"]

_Kept = Callable[[Any], Any]


def reduced(error: BaseException, kept: _Kept) -> tuple[Any, ...]:
    """Return how to make an error anew, as ``__reduce__`` does.

    Args:
        - error: the error
        - kept: returns what of a value can be pickled; it is asked about each argument and attribute
    """
    native: Any = _native(type(error))
    _, args, *rest = native.__reduce__(error)
    state = dict(rest[0] or {}) if rest else {}
    state |= {name: getattr(error, name) for name in _slots(type(error)) if hasattr(error, name)}
    chain = {name: getattr(error, name) for name in ("__cause__", "__context__", "__suppress_context__")}
    kept_state = {name: kept(value) for name, value in state.items()} | chain
    # what it holds comes after the error itself, for it may hold itself: every signal does
    return _made, (type(error), kept(args)), kept_state, None, None, _fill


def has_its_own_way(error: BaseException) -> bool:
    """Whether the class of an error says itself how it is pickled, and that works."""
    kind, native = type(error), _native(type(error))
    if all(getattr(kind, name) is getattr(native, name) for name in ("__reduce__", "__reduce_ex__")):
        return False
    try:
        return type(pickle.loads(pickle.dumps(error))) is kind  # noqa: S301 - it was written in this very line
    except KeyboardInterrupt:
        raise
    except BaseException:  # what a class says of its pickles is code of users
        return False


def _made(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    native: Any = _native(kind)
    try:
        error: BaseException = native.__new__(kind, *args)
    except TypeError:  # a class written in C insists on its own
        error = kind.__new__(kind, *args)
    native.__init__(error, *args)
    return error


def _fill(error: BaseException, state: dict[str, Any]) -> None:
    for name, value in state.items():
        try:
            object.__setattr__(error, name, value)
        except AttributeError:  # a property of this name hides it
            error.__dict__[name] = value


def _native(kind: type[BaseException]) -> type[BaseException]:
    """Return the class of Python's own that an error's class is made from."""
    return next(one for one in kind.__mro__ if one.__module__ == "builtins")


def _slots(kind: type[BaseException]) -> list[str]:
    found: list[str] = []
    for one in kind.__mro__:
        slots = one.__dict__.get("__slots__", ())
        found.extend([slots] if isinstance(slots, str) else slots)
    return [name for name in found if name not in ("__dict__", "__weakref__")]
