"""Containers: what they are made of, how one like them is made of something else, and copies of small plain ones."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

__all__ = [
    "COPIED",
    "LOOKED_AT",
    "SCALARS",
    "OwnCopies",
    "hidden",
    "is_small",
    "is_too_deep",
    "own_copy",
    "parts_of",
    "rebuilt",
]

SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
"""Types of values that hold no others."""

_PLAIN_CONTAINERS = frozenset({list, dict, set})
"""Types of containers that a body may change, and that are copied where they are small."""

COPIED = _PLAIN_CONTAINERS | {tuple}
"""What may be copied, with what is inside it: a tuple only for the sake of that."""

_SMALL = 1_000
"""How many elements a container has at most, with all inside it, that each attempt gets a copy of."""

_DEEP = 100
"""How deep it is nested at most."""

LOOKED_AT = 1_000
"""Items of a collection that an object holds; more are not looked at, for a task would be a strange thing there."""

_OPAQUE = (type, ModuleType, FunctionType, MethodType)
_BUILTIN = (dict, list, tuple, set, frozenset, collections.deque)


# -- any container -------------------------------------------------------------------------------------


def parts_of(value: Any) -> list[Any] | None:
    """Return what a container or a record is made of, or None for anything else.

    They are collections of the standard library, and what has fields: dataclasses, and the classes of pydantic, attrs
    and msgspec.
    """
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, _BUILTIN):
        return list(value)
    return [getattr(value, name) for name in _fields(value)] or None


def rebuilt(value: Any, parts: list[Any]) -> Any:
    """Return a container of the same type as `value`, made of other parts.

    Args:
        - value: the container; it stays as it is
        - parts: as many as `parts_of` returns for it
    """
    if isinstance(value, tuple):
        made: Any = getattr(value, "_make", type(value))  # of a named tuple, or of another type of tuple
        return made(parts)
    if isinstance(value, frozenset):
        return type(value)(parts)
    new = copy.copy(value)
    if isinstance(value, _BUILTIN):
        new.clear()
    if isinstance(value, dict):
        half = len(parts) // 2
        new.update(zip(parts[:half], parts[half:], strict=True))
    elif isinstance(value, set):
        new.update(parts)
    elif isinstance(value, _BUILTIN):
        new.extend(parts)
    else:
        for name, part in zip(_fields(value), parts, strict=True):
            _set(new, name, part)
    return new


def _fields(value: Any) -> list[str]:
    kind = type(value)
    names: list[str]
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in kind.__attrs_attrs__]
    else:
        names = list(getattr(kind, "model_fields", ()) or getattr(kind, "__struct_fields__", ()))
    return [name for name in names if hasattr(value, name)]


def _set(record: Any, name: str, value: Any) -> None:
    if hasattr(type(record), "__struct_fields__"):
        from msgspec.structs import force_setattr

        force_setattr(record, name, value)
    else:
        object.__setattr__(record, name, value)  # also where it is frozen


def hidden(value: Any) -> list[Any]:
    """Return what an object holds that no other could be made like: its attributes, what it is a view of."""
    if isinstance(value, _OPAQUE):
        return []
    if isinstance(value, (KeysView, ValuesView)):
        return list(value)
    if isinstance(value, (ItemsView, MappingProxyType)):
        return [part for pair in dict(value).items() for part in pair]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, slice):
        return [value.start, value.stop, value.step]
    if isinstance(value, BaseException):
        return list(value.args)
    if hasattr(value, "dtype") or hasattr(value, "dtypes"):
        return _objects_of(value)
    slots = [name for kind in type(value).__mro__ for name in _names(getattr(kind, "__slots__", ()))]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name) for name in slots if hasattr(value, name))]


def _names(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _objects_of(table: Any) -> list[Any]:
    """Return the first elements of an array, a series or a table, if they are objects of Python."""
    try:
        array = table.iloc[:LOOKED_AT].to_numpy() if hasattr(table, "iloc") else table
        return list(array.flat[:LOOKED_AT]) if array.dtype == object else []
    except Exception:  # one of another library, which holds no tasks
        return []


# -- copies --------------------------------------------------------------------------------------------


def is_small(value: Any) -> bool:
    """Return whether a value is a plain list, dict or set, or a tuple that holds one, small enough for each attempt to
    get a copy.
    """
    return type(value) in COPIED and _count(value, _SMALL, _DEEP) >= 0 and _can_change(value)


def _can_change(value: Any) -> bool:
    return type(value) in _PLAIN_CONTAINERS or (type(value) is tuple and any(map(_can_change, value)))


def is_too_deep(value: Any, levels: int = 200) -> bool:
    """Return whether a collection contains itself, or is nested deeper than so many levels."""
    if type(value) not in _PLAIN_CONTAINERS and not isinstance(value, tuple):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not levels or any(is_too_deep(item, levels - 1) for item in inner if type(item) not in SCALARS)


def own_copy(value: Any) -> Any:
    """Return a copy of what is small and plain, with what is inside it; what is larger, or no such thing, is shared."""
    return _copied(value) if is_small(value) else value


def _count(value: Any, left: int, levels: int) -> int:
    """Return how many elements are left to go, below zero if there are more, or more levels."""
    left = left - len(value) if levels else -1
    inner = value.values() if type(value) is dict else value
    for item in inner if left >= 0 else ():
        if left >= 0 and type(item) in COPIED:
            left = _count(item, left, levels - 1)
    return left


def _copied(value: Any) -> Any:
    if type(value) is set:
        return set(value)
    if type(value) is dict:
        return {key: _copied(item) if type(item) in COPIED else item for key, item in value.items()}
    items = [_copied(item) if type(item) in COPIED else item for item in value]
    return items if type(value) is list else tuple(items)


class OwnCopies:
    """Values by name, of which each attempt gets copies where they are small plain containers.

    Args:
        - values: the values
        - defaults: values for the names that are not among them
    """

    __slots__ = ("_defaults", "_small", "_values")

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._values = values
        self._defaults = defaults
        self._small = [name for name, value in {**defaults, **values}.items() if is_small(value)]

    def fresh(self) -> dict[str, Any]:
        """Return the values, with new copies."""
        found = {**self._defaults, **self._values}
        for name in self._small:
            found[name] = own_copy(found[name])
        return found
