"""Values that can be read once: generators, iterators, open files.

What a body returns is read by everyone that takes its result, and by each attempt of theirs. So what can be read only
once is read where the body ran, and kept as a list.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterable, Iterable
from typing import Any, cast

__all__ = ["PLAIN", "gathered", "is_one_pass", "needs_reading", "read"]

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, set, frozenset})
"""Types of values that need no look."""

_ENDLESS = (itertools.count, itertools.cycle)


def is_one_pass(value: Any) -> bool:
    """Return whether a value can be read once, and whoever reads it next finds nothing."""
    kind = type(value)
    if kind in PLAIN or not (hasattr(kind, "__next__") or hasattr(kind, "__anext__")):
        return False
    if isinstance(value, io.IOBase):
        # one that is written to, or held in memory, is no stream of lines but a thing of its own
        return not isinstance(value, (io.BytesIO, io.StringIO)) and not value.closed and value.readable()
    return True


def needs_reading(value: Any) -> bool:
    """Return whether a result, or an item of one that is a list, tuple or dict, can be read once."""
    items = _items(value)
    if items is None:
        return is_one_pass(value)
    return not PLAIN.issuperset(map(type, items)) and any(map(is_one_pass, items))


def read(value: Any) -> Any:
    """Return a result with lists in the place of what can be read once; of an async iterator, nothing is read yet."""
    return _rebuilt(value, _read_one)


async def gathered(value: Any) -> Any:
    """Return a result with lists in the place of async iterators."""
    if hasattr(type(value), "__anext__"):
        return [item async for item in cast("AsyncIterable[Any]", value)]
    found = iter([await gathered(item) if is_one_pass(item) else item for item in _items(value) or ()])
    return _rebuilt(value, lambda item: next(found, item))


def _items(value: Any) -> Iterable[Any] | None:
    if isinstance(value, (list, tuple)):
        return value
    return value.values() if type(value) is dict else None


def _rebuilt(value: Any, change: Any) -> Any:
    items = _items(value)
    if items is None:
        return change(value)
    changed = [change(item) for item in items]
    if isinstance(value, dict):
        return dict(zip(value, changed, strict=True))
    if isinstance(value, list):
        return changed
    return value._make(changed) if hasattr(value, "_make") else tuple(changed)


def _read_one(value: Any) -> Any:
    if not is_one_pass(value) or hasattr(type(value), "__anext__"):
        return value
    if isinstance(value, _ENDLESS):
        raise ValueError(f"the body returned an {type(value).__name__} iterator, which never ends: return a list")
    if isinstance(value, io.IOBase):
        with value:
            return list(value)
    return list(value)
