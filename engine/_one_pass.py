"""Values that can be read once: generators, iterators, open files.

What a body returns is read by everyone that takes its result, and by each attempt of theirs. So what can be read only
once is read where the body ran, and kept as a list.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncIterable, Collection
from typing import Any, cast

__all__ = ["PLAIN", "gathered", "is_one_pass", "needs_reading", "read"]

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, set, frozenset})
"""Types of values that need no look."""

_LOOKED_INTO = 1_000
"""How many items a result has at most, with those inside them, for a look at what lies deeper."""


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
    """Return whether a result, or something in one that is a list, tuple or dict, can be read once.

    What lies deeper than that is looked at in a small result only.
    """
    items = _items(value)
    if items is None:
        return is_one_pass(value)
    return not PLAIN.issuperset(map(type, items)) and (any(map(is_one_pass, items)) or _lies_deeper(items))


def _lies_deeper(items: Collection[Any]) -> bool:
    left, inside = _LOOKED_INTO - len(items), [items]
    while inside and left >= 0:
        for item in inside.pop():
            deeper = _items(item)
            if deeper is None or PLAIN.issuperset(map(type, deeper)):
                continue
            if any(map(is_one_pass, deeper)):
                return True
            left -= len(deeper)
            inside.append(deeper)
    return False


def read(value: Any) -> Any:
    """Return a result with lists in the place of what can be read once; of an async iterator, nothing is read yet."""
    if _items(value) is not None:
        return _rebuilt(value, read) if needs_reading(value) else value
    return _read_one(value) if is_one_pass(value) else value


async def gathered(value: Any) -> Any:
    """Return a result with lists in the place of async iterators."""
    if hasattr(type(value), "__anext__"):
        return [await gathered(read(item)) async for item in cast("AsyncIterable[Any]", value)]
    items = _items(value)
    if items is None or not needs_reading(value):
        return value
    found = iter([await gathered(item) for item in items])
    return _rebuilt(value, lambda item: next(found))


def _items(value: Any) -> Collection[Any] | None:
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
    if hasattr(type(value), "__anext__"):
        return value
    if _never_ends(value):
        raise ValueError(f"the body returned an {type(value).__name__} iterator, which never ends: return a list")
    if isinstance(value, io.IOBase):
        with value:
            return list(value)
    # each item before the next: the groups of groupby are over when the next one begins
    return [item if type(item) in PLAIN else read(item) for item in value]


def _never_ends(value: Any) -> bool:
    if not isinstance(value, itertools.repeat):
        return isinstance(value, (itertools.count, itertools.cycle))
    try:
        value.__length_hint__()
    except TypeError:  # "len() of unsized object"
        return True
    return False
