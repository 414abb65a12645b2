"""A hash of task inputs that is the same in every process.

Python's own ``hash`` is not (strings are salted), and a pickle is not either (the order of a set, references within
it), so a value is walked, and each part goes into a BLAKE2 hash with its type and length. What is equal as a set is
hashed as a set: the order of a dict does not matter, except where its class compares it. What a subclass holds besides
counts, too. Whatever this module does not know, or cannot see, is refused by name, because a wrong guess would serve a
stale result from the cache.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import pathlib
import struct
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, cast

from .errors import SerializationError

__all__ = ["hash_input", "hash_inputs"]


def hash_input(value: Any) -> str:
    """Return a hash of a value: 32 hexadecimal digits, the same in every process and on every machine.

    It knows None, numbers, text, bytes, dates and times, enums, paths, UUIDs, classes, lists, tuples, sets, dicts,
    dataclasses, attrs classes, msgspec structs, pydantic models, NumPy arrays and scalars, pandas frames, series and
    indexes, all of these within each other, and classes that derive from them. Equal values of different types differ:
    1, 1.0 and True are three.

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
_Feed = Callable[[_Write, Any], None]


def _digest(value: Any) -> bytes:
    digest = blake2b(digest_size=16)
    _feed(digest.update, value)
    return digest.digest()


def _feed(write: _Write, value: Any) -> None:
    kind = type(value)
    feed, base = _EXACT.get(kind), kind
    if feed is None:
        feed, base = _known(cast("Hashable", kind))
        # a class that only derives from a known one is another type, though it holds the same
        _put(write, b"class", _label(kind).encode())
    feed(write, value)
    if base is not kind:
        _feed_added(write, value, base)


@functools.lru_cache(maxsize=1024)
def _known(kind: type) -> tuple[_Feed, type]:
    """Return how to feed the values of a class, and which class that covers: what others add to it is still to feed."""
    if issubclass(kind, enum.Enum):
        return _feed_enum, kind
    if _field_names(kind) is not None:
        return _feed_fields, kind
    for base in kind.__mro__:
        feed = _EXACT.get(base) or _BY_NAME.get(_qualified(base))
        if feed is not None:
            if base is type or _package(kind) in _MOVING:
                return feed, kind
            return (_refuse, kind) if _is_opaque(kind, base) else (feed, base)
    return _refuse, kind


def _is_opaque(kind: type, base: type) -> bool:
    """Tell whether a class holds something beside its base that no Python code can see, or that belongs to the base."""
    added = kind.__mro__[: kind.__mro__.index(base)]
    members = sum(isinstance(one, types.MemberDescriptorType) for cls in added for one in vars(cls).values())
    members += kind.__dictoffset__ != base.__dictoffset__
    members += kind.__weakrefoffset__ != base.__weakrefoffset__
    is_larger = kind.__basicsize__ > base.__basicsize__ + members * struct.calcsize("P")
    hides = getattr(kind, "n_fields", 0) > getattr(kind, "n_sequence_fields", 0)  # as the tuples of the system do
    return is_larger or hides or _package(base) == "pandas"


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


def _feed_items(write: _Write, items: Sequence[Any]) -> None:
    _put(write, b"seq", str(len(items)).encode())
    for index, item in enumerate(items):
        if (feed := _EXACT.get(type(item))) is not None and type(item) not in _CONTAINERS:
            feed(write, item)  # most items are plain, and need no path in case they are refused
        else:
            _feed_item(write, item, f"[{index}]")


def _feed_set(write: _Write, value: Any) -> None:
    is_frozen = isinstance(value, frozenset)
    digests = []
    for item in frozenset.__iter__(value) if is_frozen else set.__iter__(value):
        try:
            digests.append(_digest(item))
        except _Unknown as unknown:
            unknown.path = "{…}" + unknown.path
            raise
    _put(write, b"frozenset" if is_frozen else b"set", b"".join(sorted(digests)))


def _pairs(value: dict[Any, Any]) -> list[bytes]:
    digests = []
    for key, item in dict.items(value):
        pair = blake2b(digest_size=16)
        _feed_item(pair.update, key, "{…}")
        _feed_item(pair.update, item, f"[{key!r}]")
        digests.append(pair.digest())
    return digests


def _feed_dict(write: _Write, value: dict[Any, Any]) -> None:
    if type(value) is dict or type(value).__eq__ is dict.__eq__:
        _put(write, b"dict", b"".join(sorted(_pairs(value))))
    else:  # it may compare the order
        _put(write, b"ordered", b"".join(_pairs(value)))


def _feed_counter(write: _Write, value: dict[Any, Any]) -> None:
    _put(write, b"counter", b"".join(sorted(_pairs(value))))


def _feed_defaultdict(write: _Write, value: Any) -> None:
    _feed_item(write, value.default_factory, ".default_factory")
    _put(write, b"defaultdict", b"".join(sorted(_pairs(value))))


def _feed_enum(write: _Write, value: Any) -> None:
    _put(write, b"enum", str(value._name_).encode("utf-8", "surrogatepass"))
    _feed_item(write, value._value_, ".value")


def _feed_fields(write: _Write, value: Any) -> None:
    kind = type(value)
    for name in _field_names(kind) or ():
        _put(write, b"field", name.encode())
        _feed_attribute(write, value, name)
    if hasattr(kind, "__pydantic_fields__"):
        for more in (value.__pydantic_extra__, value.__pydantic_private__):
            _feed_named(write, more or {})
    elif not hasattr(kind, "__struct_fields__") or kind.__dictoffset__:
        _feed_named(write, _state(value, kind))


def _feed_attribute(write: _Write, value: Any, name: str) -> None:
    try:
        held = getattr(value, name)
    except AttributeError:
        _put(write, b"unset")
    else:
        _feed_item(write, held, f".{name}")


def _feed_added(write: _Write, value: Any, base: type) -> None:
    """Feed what the instance of a class that derives from `base` holds besides."""
    _feed_named(write, _state(value, base))


def _feed_named(write: _Write, held: Mapping[str, Any]) -> None:
    for name in sorted(held):
        _put(write, b"added", name.encode("utf-8", "surrogatepass"))
        _feed_item(write, held[name], f".{name}")
    if held:
        _put(write, b"end")


def _state(value: Any, base: type) -> dict[str, Any]:
    """Return the attributes of an instance that are neither of `base`, nor fields, nor kept results of its own."""
    # of the class, `object` itself: many classes have a __getstate__ of their own that leaves something out
    found: Any = object.__getstate__(value)
    attributes, slots = found if isinstance(found, tuple) else (found, None)
    own = {**(attributes or {}), **(slots or {})}
    covered = {name for cls in base.__mro__ for name in _names_of_slots(cls)} if base is not type(value) else set()
    covered |= _all_fields(type(value)) | {"_attrs_cached_hash"}
    return {
        name: held
        for name, held in own.items()
        if name not in covered and not isinstance(getattr(type(value), name, None), functools.cached_property)
    }


def _names_of_slots(kind: type) -> Iterable[str]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots


def _field_names(kind: type) -> list[str] | None:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind) if field.compare]  # what its own equality looks at
    if hasattr(kind, "__attrs_attrs__"):
        return [field.name for field in kind.__attrs_attrs__ if field.eq]
    names = getattr(kind, "__struct_fields__", None) or getattr(kind, "__pydantic_fields__", None)
    is_empty = hasattr(kind, "__pydantic_fields__") or hasattr(kind, "__struct_fields__")
    return list(names) if names else [] if is_empty else None


def _all_fields(kind: type) -> set[str]:
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    return {field.name for field in getattr(kind, "__attrs_attrs__", ())}


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


_MOVING = ("numpy", "pandas", "pathlib")
"""Packages that move their classes between modules from version to version, and whose own subclasses hold nothing that
is not fed here."""


def _label(kind: type) -> str:
    package = _package(kind)
    return f"{package}.{kind.__qualname__}" if package in _MOVING else _qualified(kind)


# ---- the types it knows ----------------------------------------------------------------------------


def _plain(tag: bytes, content: Callable[[Any], bytes]) -> Callable[[_Write, Any], None]:
    def feed(write: _Write, value: Any) -> None:
        _put(write, tag, content(value))

    return feed


def _float(value: float) -> bytes:
    return struct.pack(">d", math.nan if math.isnan(value) else value)


def _text(convert: Callable[[Any], str]) -> Callable[[Any], bytes]:
    return lambda value: convert(value).encode("utf-8", "surrogatepass")


def _feed_list(write: _Write, value: list[Any]) -> None:
    write(b"list:")
    _feed_items(write, list.__getitem__(value, slice(None)))


def _feed_tuple(write: _Write, value: tuple[Any, ...]) -> None:
    _feed_items(write, tuple.__getitem__(value, slice(None)))


def _feed_type(write: _Write, value: type) -> None:
    if "<locals>" in value.__qualname__:  # there may be several of this name
        raise _Unknown(value)
    _put(write, b"type", _qualified(value).encode())


def _moment(value: Any) -> str:
    text: str = value.isoformat() if _package(type(value)) == "pandas" else datetime.datetime.isoformat(value)
    offset = value.utcoffset()
    if offset is None or value.replace(fold=not value.fold).utcoffset() == offset:
        return text
    return f"{text} {value.fold} {value.tzinfo}"  # in an hour that there is twice, the zone makes a difference to ==


def _duration(value: Any) -> str:
    return f"{value.days},{value.seconds},{value.microseconds}"


def _zone(value: Any) -> str:
    if value.key is None:
        raise _Unknown(value)
    return str(value.key)


def _feed_array(write: _Write, value: Any) -> None:
    if value.dtype.hasobject or value.dtype.kind == "T":
        _put(write, b"objects", f"{value.dtype.descr}{value.shape}".encode())
        _feed_items(write, value.ravel().tolist())
    else:
        _put(write, b"array", f"{value.dtype.str}{value.dtype.descr}{value.shape}".encode())
        _put(write, b"data", value.tobytes())


def _feed_frame(write: _Write, value: Any) -> None:
    _feed_named(write, {"attrs": value.attrs} if value.attrs else {})
    _feed_item(write, value.index, ".index")
    _feed_item(write, value.columns, ".columns")
    for position, name in enumerate(value.columns):
        try:
            _feed_column(write, value.iloc[:, position])
        except _Unknown as unknown:
            unknown.path = f"[{name!r}]{unknown.path}"
            raise


def _feed_series(write: _Write, value: Any) -> None:
    _feed_named(write, {"attrs": value.attrs} if value.attrs else {})
    _feed_item(write, value.index, ".index")
    _feed_column(write, value)


def _feed_index(write: _Write, value: Any) -> None:
    if not hasattr(value, "levels"):
        _put(write, b"freq", str(getattr(value, "freqstr", None)).encode())
        _feed_column(write, value)
        return
    _put(write, b"levels", str(value.nlevels).encode())
    for level in range(value.nlevels):
        try:
            _feed_column(write, value.get_level_values(level))
        except _Unknown as unknown:
            unknown.path = f".levels[{level}]{unknown.path}"
            raise


def _feed_column(write: _Write, value: Any) -> None:
    dtype = value.dtype
    _feed_item(write, value.name, ".name")
    _put(write, b"dtype", str(dtype).encode())
    categories = getattr(dtype, "categories", None)
    if categories is not None:
        _put(write, b"categories", b"ordered" if dtype.ordered else b"")
        _feed_item(write, categories, ".categories")
    _feed(write, value.to_numpy())


_EXACT: dict[type, _Feed] = {
    type(None): _plain(b"none", lambda value: b""),
    type(...): _plain(b"ellipsis", lambda value: b""),
    bool: _plain(b"bool", lambda value: b"1" if value else b"0"),
    int: _plain(b"int", lambda value: b"%x" % int.__index__(value)),
    float: _plain(b"float", _float),
    complex: _plain(b"complex", lambda value: _float(value.real) + _float(value.imag)),
    str: _plain(b"str", lambda value: str.encode(value, "utf-8", "surrogatepass")),
    bytes: _plain(b"bytes", lambda value: bytes(memoryview(value))),
    bytearray: _plain(b"bytearray", lambda value: bytes(memoryview(value))),
    decimal.Decimal: _plain(b"decimal", _text(decimal.Decimal.__str__)),
    fractions.Fraction: _plain(b"fraction", _text(fractions.Fraction.__str__)),
    datetime.datetime: _plain(b"datetime", _text(_moment)),
    datetime.date: _plain(b"date", _text(datetime.date.isoformat)),
    datetime.time: _plain(b"time", _text(datetime.time.isoformat)),
    datetime.timedelta: _plain(b"timedelta", _text(_duration)),
    datetime.timezone: _plain(b"timezone", _text(lambda value: f"{_duration(value.utcoffset(None))} {value}")),
    pathlib.PurePath: _plain(b"path", _text(pathlib.PurePath.as_posix)),
    type: _feed_type,
    range: _plain(b"range", _text(lambda value: f"{value.start},{value.stop},{value.step}")),
    list: _feed_list,
    tuple: _feed_tuple,
    set: _feed_set,
    frozenset: _feed_set,
    dict: _feed_dict,
    collections.Counter: _feed_counter,
    collections.OrderedDict: _feed_dict,
    collections.defaultdict: _feed_defaultdict,
}
_CONTAINERS = frozenset({list, tuple, set, frozenset, dict, *(kind for kind in _EXACT if issubclass(kind, dict)), type})

_TIMESTAMP = _plain(b"timestamp", _text(_moment))
_TIMEDELTA = _plain(b"timedelta", _text(lambda value: f"{_duration(value)},{value.nanoseconds}"))
_UUID = _plain(b"uuid", lambda value: value.bytes)

_BY_NAME: dict[str, _Feed] = {
    "uuid.UUID": _UUID,
    "asyncpg.pgproto.pgproto.UUID": _UUID,
    "zoneinfo.ZoneInfo": _plain(b"zone", _text(_zone)),
    "numpy.ndarray": _feed_array,
    "numpy.generic": lambda write, value: _feed_array(write, value.reshape(())),
    "numpy.ma.MaskedArray": _refuse,
    "numpy.ma.core.MaskedArray": _refuse,
    "pandas.DataFrame": _feed_frame,
    "pandas.Series": _feed_series,
    "pandas.Index": _feed_index,
    "pandas.core.frame.DataFrame": _feed_frame,
    "pandas.core.series.Series": _feed_series,
    "pandas.core.indexes.base.Index": _feed_index,
    "pandas.Timestamp": _TIMESTAMP,
    "pandas._libs.tslibs.timestamps.Timestamp": _TIMESTAMP,
    "pandas.Timedelta": _TIMEDELTA,
    "pandas._libs.tslibs.timedeltas.Timedelta": _TIMEDELTA,
    "pandas.api.typing.NAType": _plain(b"na", lambda value: b""),
    "pandas._libs.missing.NAType": _plain(b"na", lambda value: b""),
    "pandas.api.typing.NaTType": _plain(b"nat", lambda value: b""),
    "pandas._libs.tslibs.nattype.NaTType": _plain(b"nat", lambda value: b""),
}
"""Types of modules that this one does not import, by name; the class of the value, or one it derives from."""
