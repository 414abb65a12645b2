"""A hash of task inputs that is the same in every process.

Python's own ``hash`` is not (strings are salted), and a pickle is not either (the order of a set, references within
it), so a value is walked, and each part goes into a BLAKE2 hash with its type and length. What is equal as a set is
hashed as a set: the order of a dict does not matter. Whatever this module does not know is refused by name, because
a wrong guess would serve a stale result from the cache.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import struct
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from .errors import SerializationError

__all__ = ["hash_input", "hash_inputs"]


def hash_input(value: Any) -> str:
    """Return a hash of a value: 32 hexadecimal digits, the same in every process and on every machine.

    It knows None, numbers, text, bytes, dates and times, enums, paths, UUIDs, classes, lists, tuples, sets, dicts,
    dataclasses, attrs classes, msgspec structs, pydantic models, NumPy arrays and scalars, pandas frames, series and
    indexes, and all of these within each other. Equal values of different types differ: 1, 1.0 and True are three.

    Raises:
        - SerializationError: for anything else; it names the type and the path to it, for instance ``value.rows[3]``
    """
    return _hashed("value", value)


def hash_inputs(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of each input, by name; raises as `hash_input` does, with the name of the input."""
    return {name: _hashed(name, value) for name, value in inputs.items()}


def _hashed(name: str, value: Any) -> str:
    try:
        return _digest(value).hex()
    except _Unknown as unknown:
        problem = f"{name}{unknown.path} is of type {unknown.type}, whose hash would differ between processes"
    except RecursionError:
        problem = "it contains itself, or is nested too deeply"
    raise SerializationError(
        f"cannot hash the input {name!r}: {problem}; pass what it is made of, or use a cache validator that does not "
        "look at it"
    )


class _Unknown(Exception):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.type = _qualified(type(value))
        self.path = ""


# ---- the walk --------------------------------------------------------------------------------------

_Write = Callable[[bytes], None]


def _digest(value: Any) -> bytes:
    digest = blake2b(digest_size=16)
    _feed(digest.update, value)
    return digest.digest()


def _feed(write: _Write, value: Any) -> None:
    kind = type(value)
    feed = _EXACT.get(kind)
    if feed is None:
        feed = _feed_of(kind)
        # a class that only derives from a known one is another type, though it holds the same
        _put(write, b"class", _label(kind).encode())
    feed(write, value)


def _feed_of(kind: type) -> Callable[[_Write, Any], None]:
    if _field_names(kind) is not None:
        return _feed_fields
    for base in kind.__mro__:
        feed = _EXACT.get(base) or _BY_NAME.get(_qualified(base))
        if feed is not None:
            return feed
    return _refuse


def _refuse(write: _Write, value: Any) -> None:
    raise _Unknown(value)


def _put(write: _Write, tag: bytes, content: bytes = b"") -> None:
    write(b"%s:%d:" % (tag, len(content)))
    write(content)


def _feed_item(write: _Write, value: Any, step: str) -> None:
    try:
        _feed(write, value)
    except _Unknown as unknown:
        unknown.path = step + unknown.path
        raise


def _feed_sequence(write: _Write, value: Iterable[Any]) -> None:
    items = list(value)
    _put(write, b"seq", str(len(items)).encode())
    for index, item in enumerate(items):
        if (feed := _EXACT.get(type(item))) is not None and type(item) not in _CONTAINERS:
            feed(write, item)  # most items are plain, and need no path in case they are refused
        else:
            _feed_item(write, item, f"[{index}]")


def _feed_set(write: _Write, value: Iterable[Any]) -> None:
    digests = []
    for item in value:
        try:
            digests.append(_digest(item))
        except _Unknown as unknown:
            unknown.path = "{…}" + unknown.path
            raise
    _put(write, b"set", b"".join(sorted(digests)))


def _feed_dict(write: _Write, value: Mapping[Any, Any]) -> None:
    digests = []
    for key, item in value.items():
        pair = blake2b(digest_size=16)
        _feed_item(pair.update, key, "{…}")
        _feed_item(pair.update, item, f"[{key!r}]")
        digests.append(pair.digest())
    _put(write, b"dict", b"".join(sorted(digests)))


def _feed_fields(write: _Write, value: Any) -> None:
    for name in _field_names(type(value)) or ():
        _put(write, b"field", name.encode())
        _feed_item(write, getattr(value, name), f".{name}")


def _field_names(kind: type) -> list[str] | None:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind) if field.compare]  # what its own equality looks at
    if hasattr(kind, "__attrs_attrs__"):
        return [field.name for field in kind.__attrs_attrs__ if field.eq]
    names = getattr(kind, "__struct_fields__", None) or getattr(kind, "__pydantic_fields__", None)
    return None if names is None else list(names)


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _label(kind: type) -> str:
    # these packages move their classes between modules from version to version
    package = kind.__module__.partition(".")[0]
    return f"{package}.{kind.__qualname__}" if package in ("numpy", "pandas", "pathlib") else _qualified(kind)


# ---- the types it knows ----------------------------------------------------------------------------


def _plain(tag: bytes, content: Callable[[Any], bytes]) -> Callable[[_Write, Any], None]:
    def feed(write: _Write, value: Any) -> None:
        _put(write, tag, content(value))

    return feed


def _float(value: float) -> bytes:
    return b"nan" if value != value else struct.pack(">d", value)


def _text(convert: Callable[[Any], str]) -> Callable[[Any], bytes]:
    return lambda value: convert(value).encode("utf-8", "surrogatepass")


def _feed_list(write: _Write, value: Iterable[Any]) -> None:
    write(b"list:")
    _feed_sequence(write, value)


def _feed_array(write: _Write, value: Any) -> None:
    if value.dtype.hasobject:
        _put(write, b"objects", str(value.shape).encode())
        _feed_sequence(write, value.ravel().tolist())
    else:
        _put(write, b"array", f"{value.dtype.str}{value.dtype.descr}{value.shape}".encode())
        _put(write, b"data", value.tobytes())


def _feed_frame(write: _Write, value: Any) -> None:
    _feed_item(write, value.index, ".index")
    _feed_item(write, value.columns, ".columns")
    for position, name in enumerate(value.columns):
        _feed_item(write, value.iloc[:, position], f"[{name!r}]")


def _feed_series(write: _Write, value: Any) -> None:
    _feed_item(write, value.index, ".index")
    _feed_column(write, value)


def _feed_column(write: _Write, value: Any) -> None:
    _feed_item(write, value.name, ".name")
    _put(write, b"dtype", str(value.dtype).encode())
    _feed(write, value.to_numpy())


_EXACT: dict[type, Callable[[_Write, Any], None]] = {
    type(None): _plain(b"none", lambda value: b""),
    type(...): _plain(b"ellipsis", lambda value: b""),
    bool: _plain(b"bool", lambda value: b"1" if value else b"0"),
    int: _plain(b"int", lambda value: b"%x" % value),
    float: _plain(b"float", _float),
    complex: _plain(b"complex", lambda value: _float(value.real) + b"," + _float(value.imag)),
    str: _plain(b"str", _text(str)),
    bytes: _plain(b"bytes", bytes),
    bytearray: _plain(b"bytearray", bytes),
    decimal.Decimal: _plain(b"decimal", _text(str)),
    fractions.Fraction: _plain(b"fraction", _text(str)),
    datetime.datetime: _plain(b"datetime", _text(lambda value: value.isoformat())),
    datetime.date: _plain(b"date", _text(datetime.date.isoformat)),
    datetime.time: _plain(b"time", _text(datetime.time.isoformat)),
    datetime.timedelta: _plain(b"timedelta", _text(lambda value: f"{value.days},{value.seconds},{value.microseconds}")),
    datetime.timezone: _plain(b"timezone", _text(str)),
    pathlib.PurePath: _plain(b"path", _text(pathlib.PurePath.as_posix)),
    enum.Enum: _plain(b"enum", _text(lambda value: str(value.name))),
    type: _plain(b"type", _text(_qualified)),
    range: _plain(b"range", _text(lambda value: f"{value.start},{value.stop},{value.step}")),
    list: _feed_list,
    tuple: _feed_sequence,
    set: _feed_set,
    frozenset: _feed_set,
    dict: _feed_dict,
}
_CONTAINERS = frozenset({list, tuple, set, frozenset, dict})

_BY_NAME: dict[str, Callable[[_Write, Any], None]] = {
    "uuid.UUID": _plain(b"uuid", lambda value: value.bytes),
    "zoneinfo.ZoneInfo": _plain(b"zone", _text(str)),
    "numpy.ndarray": _feed_array,
    "numpy.generic": lambda write, value: _feed_array(write, value.reshape(())),
    "numpy.ma.MaskedArray": _refuse,
    "numpy.ma.core.MaskedArray": _refuse,
    "pandas.DataFrame": _feed_frame,
    "pandas.Series": _feed_series,
    "pandas.Index": _feed_column,
    "pandas.core.frame.DataFrame": _feed_frame,
    "pandas.core.series.Series": _feed_series,
    "pandas.core.indexes.base.Index": _feed_column,
    "pandas.api.typing.NAType": _plain(b"na", lambda value: b""),
    "pandas._libs.missing.NAType": _plain(b"na", lambda value: b""),
}
"""Types of modules that this one does not import, by name; the class of the value, or one it derives from."""
