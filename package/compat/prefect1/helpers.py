"""What old files use most of ``prefect.utilities``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any

import cloudpickle

from ...engine.context import context

__all__ = [
    "CompoundKey",
    "DotDict",
    "as_nested_dict",
    "dict_to_flatdict",
    "flatdict_to_dict",
    "flatten_seq",
    "get_logger",
    "is_serializable",
    "merge_dicts",
    "raise_on_exception",
]


def get_logger(name: str | None = None) -> logging.Logger:
    """Return the logger ``prefect``, or one below it."""
    return logging.getLogger("prefect" if name is None else f"prefect.{name}")


def raise_on_exception() -> AbstractContextManager[Any]:
    """Let what a body raises come out of ``flow.run``."""
    return context(raise_on_exception=True)


def is_serializable(value: Any, raise_on_error: bool = False) -> bool:
    """Tell whether a value can be pickled, functions included."""
    try:
        cloudpickle.loads(cloudpickle.dumps(value))
    except Exception:
        if raise_on_error:
            raise
        return False
    return True


# -- nested dicts --------------------------------------------------------------------------------------


class DotDict(MutableMapping[str, Any]):
    """A dict whose items are attributes."""

    def __init__(self, *given: Any, **items: Any) -> None:
        self.__dict__.update(*given, **items)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def __delitem__(self, name: str) -> None:
        del self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(sorted(map(repr, self)))}>" if self else f"<{type(self).__name__}>"

    def copy(self) -> DotDict:
        """Return one that can be changed without changing this one."""
        return type(self)(self.__dict__)

    def to_dict(self) -> Any:
        """Return a plain dict, in depth."""
        return as_nested_dict(self, dict)


def as_nested_dict(value: Any, dct_class: type = DotDict) -> Any:
    """Return a value with all dicts in it, in depth and in lists, as dicts of a class."""
    if isinstance(value, (list, tuple, set)):
        return type(value)(as_nested_dict(one, dct_class) for one in value)
    if isinstance(value, (dict, DotDict)):
        return dct_class({name: as_nested_dict(one, dct_class) for name, one in value.items()})
    return value


class CompoundKey(tuple[Any, ...]):
    """The keys that lead to a value of a nested dict."""

    __slots__ = ()


def dict_to_flatdict(dct: Mapping[str, Any], parent: CompoundKey | None = None) -> dict[CompoundKey, Any]:
    """Return the values of a nested dict, by the keys that lead to them."""
    flat: dict[CompoundKey, Any] = {}
    for name, value in dct.items():
        key = CompoundKey((*(parent or ()), name))
        flat.update(dict_to_flatdict(value, key) if isinstance(value, Mapping) else {key: value})
    return flat


def flatdict_to_dict(dct: Mapping[CompoundKey, Any], dct_class: type | None = None) -> Any:
    """Return the nested dict whose values a flat one has."""
    made: Any = (dct_class or dict)()
    for key, value in dct.items():
        place = made
        for name in key[:-1]:
            place = place.setdefault(name, (dct_class or dict)())
        place[key[-1]] = value
    return made


def flatten_seq(values: Iterable[Any]) -> Iterator[Any]:
    """Yield what nested lists contain."""
    for value in values:
        if isinstance(value, (list, tuple, set)):
            yield from flatten_seq(value)
        else:
            yield value


def merge_dicts(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return both dicts in one, merged in depth; the second wins."""
    merged = dict(first)
    for name, value in second.items():
        inner = merged.get(name)
        merged[name] = merge_dicts(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
