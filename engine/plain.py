"""Typed values as what JSON carries, and back: what a flow run's parameters are recorded as.

Beside what msgspec knows (numbers, text, times, enums, UUIDs, decimals, collections, dataclasses, structs …) these are
pydantic models, paths, fractions, complex numbers, time zones and addresses, also within each other.
"""

from __future__ import annotations

import datetime
import enum
import fractions
import math
import operator
import pathlib
import types
from collections.abc import Callable
from typing import Any, Union, cast, get_origin

import msgspec

from .errors import SerializationError

__all__ = ["as_recorded", "check_finite", "plain", "supports", "typed", "typed_text"]

_TIMES = (datetime.datetime, datetime.date, datetime.time)
_AS_TEXT = (pathlib.PurePath, fractions.Fraction, complex)
"""Types whose text, given to their constructor, makes the value again."""

_AS_TEXT_BY_NAME = frozenset(
    {"zoneinfo.ZoneInfo"}
    | {f"ipaddress.IPv{version}{what}" for version in (4, 6) for what in ("Address", "Network", "Interface")}
)


# -- from plain data -----------------------------------------------------------------------------------


def supports(kind: Any) -> str | None:
    """Return why no value can be made a type annotation, or None if it can."""
    try:
        typed(_NOTHING, kind)
    except ValueError:
        return None
    except Exception as error:
        return str(error)
    return None


def typed(value: Any, kind: Any) -> Any:
    """Return a value as a type: a value that has it already, or plain data that says it.

    Args:
        - value: the value, or what `plain` made of it
        - kind: the type annotation

    Raises:
        - ValueError: if it is not of that type
        - TypeError: for an annotation that is not supported
    """
    if isinstance(kind, enum.EnumMeta):
        return _member(value, kind)
    if kind in _TIMES and isinstance(value, str):
        return kind.fromisoformat(value)
    if _is_of_pydantic(kind):
        return _by_pydantic(value, kind)
    return msgspec.convert(value, kind, str_keys=True, dec_hook=_decode)


def typed_text(text: str, kind: Any) -> Any:
    """Return a text from a command line as a type: the value itself, its JSON text, or its plain words.

    Raises:
        - ValueError: if it is not of that type
    """
    kind = kind if text == "null" else _without_none(kind)
    try:
        return typed(text, kind)
    except ValueError as error:
        failed = error
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    else:
        try:
            return typed(value, kind)
        except ValueError as error:
            failed = error
    try:
        return _words(text, kind)
    except ValueError:
        raise failed from None


def _without_none(kind: Any) -> Any:
    inner = [one for one in getattr(kind, "__args__", ()) if one is not type(None)]
    is_optional = get_origin(kind) in (Union, types.UnionType) and len(inner) == 1
    return inner[0] if is_optional else kind


def _words(text: str, kind: Any) -> Any:
    if isinstance(kind, enum.EnumMeta) and text in kind.__members__:
        return kind.__members__[text]
    found = msgspec.convert(text, kind, strict=False, dec_hook=_decode)
    if isinstance(found, (datetime.date, datetime.time)):  # no number of seconds is meant by a year
        raise ValueError(f"{text!r} is not a time in ISO 8601")
    return found


def _member(value: Any, kind: enum.EnumMeta) -> Any:
    if isinstance(value, kind):
        return value
    forms: tuple[Callable[[Any], Any], ...] = (operator.attrgetter("value"), as_recorded)
    for form in forms:
        for member in cast("Any", kind):
            said = form(member)
            if type(said) is type(value) and said == value:
                return member
    if issubclass(kind, enum.Flag) and isinstance(value, int) and not isinstance(value, bool):
        return cast("Any", kind)(value)
    raise ValueError(f"it is none of {', '.join(cast('Any', kind).__members__)}")


def _is_of_pydantic(kind: Any) -> bool:
    return hasattr(kind, "__pydantic_validator__") or any(map(_is_of_pydantic, getattr(kind, "__args__", ())))


def _by_pydantic(value: Any, kind: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        said = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in error.errors())
        raise ValueError("; ".join(said)) from None


def _decode(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    if _is_of_pydantic(kind):
        return _by_pydantic(value, kind)
    if isinstance(value, str) and isinstance(kind, type) and _is_as_text(kind):
        return kind(value)
    raise ValueError(f"Expected `{getattr(kind, '__name__', kind)}`, got `{type(value).__name__}`")


def _is_as_text(kind: type) -> bool:
    return issubclass(kind, _AS_TEXT) or f"{kind.__module__}.{kind.__qualname__}" in _AS_TEXT_BY_NAME


_NOTHING = object()


# -- to plain data -------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a value as what JSON knows: None, booleans, finite numbers, text, lists, and dicts with text as keys.

    Raises:
        - SerializationError: if JSON cannot carry it; also for NaN and the infinities, of which it would make null
    """
    try:
        found = msgspec.to_builtins(value, str_keys=True, enc_hook=_encode)
    except RecursionError:
        raise SerializationError("it contains itself, or is nested too deeply") from None
    except Exception as error:
        raise SerializationError(f"JSON cannot carry it: {error}") from error
    check_finite(found)
    try:
        return msgspec.json.decode(msgspec.json.encode(found))
    except (ValueError, TypeError, OverflowError) as error:
        raise SerializationError(f"JSON cannot carry it: {error}") from error


def as_recorded(value: Any) -> Any:
    """Return what `plain` does, or the value itself where that cannot be."""
    try:
        return plain(value)
    except SerializationError:
        return value


def _encode(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None and hasattr(value, "__pydantic_validator__"):
        return dump(mode="json", by_alias=True, round_trip=True)
    if _is_as_text(type(value)) or isinstance(value, pathlib.PurePath):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} has no form there")


def check_finite(value: Any, path: str = "") -> None:
    """Refuse NaN and the infinities, of which JSON would make null.

    Args:
        - value: plain data
        - path: where in it this is

    Raises:
        - SerializationError: if there are any
    """
    kind = type(value)
    if kind is float:
        if not math.isfinite(value):
            where = f"{path.lstrip('.')} is" if path else "it is"
            raise SerializationError(f"{where} {value}, which JSON has no number for")
    elif kind is dict:
        for key, item in value.items():
            check_finite(item, f"{path}.{key}")
    elif kind is list or kind is tuple:
        for index, item in enumerate(value):
            check_finite(item, f"{path}[{index}]")
