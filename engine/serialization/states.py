"""States as documents, and back.

A document holds no value but says where it is stored: see ``_result``. What a document has and this module does not
know is kept in ``unknown_fields``, of the state or of its result, and written again. Reading takes nothing from the
run context, as making a state does: a document says everything it has to say itself.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, cast

import msgspec

from .. import state as _states
from ..context import now
from ..errors import DialectError, SerializationError
from ..plain import as_recorded
from ..result import NoResult, Result
from ..state import Mapped, Paused, State, aware

__all__ = ["VERSION", "decode_state", "deserialize_state", "encode_state", "read_result", "serialize_state"]

VERSION = "1.4.1"
"""The version of the dialect, in every document."""

_COMMON = frozenset({"type", "message", "context", "cached_inputs", "_result", "__version__"})
_NOTHING: dict[str, Any] = {}
_NO_RESULT = {"__version__": VERSION, "type": "NoResultType"}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_bare: tuple[str | bytes, type[State], str | None] = ("", State, None)
"""The last text of a state with nothing but a message: all mapped children that have yet to begin have the same."""


# ---- writing ---------------------------------------------------------------------------------------


def serialize_state(state: State) -> dict[str, Any]:
    """Return the document of a state, made of what JSON knows alone.

    Raises:
        - SerializationError: if its context, or what it caches, holds something that JSON cannot carry
    """
    document = _document(state)
    try:
        return cast("dict[str, Any]", msgspec.to_builtins(document, str_keys=True))
    except Exception as error:
        _refuse(state, document, error)


def encode_state(state: State) -> bytes:
    """Return the document of a state as JSON text; raises as `serialize_state` does."""
    document = _document(state)
    try:
        return _encode(document)
    except Exception as error:
        _refuse(state, document, error)


def _document(state: State) -> dict[str, Any]:
    name, writers = _WRITERS.get(type(state)) or _writers_of_subclass(type(state))
    message, cached = state.message, state._cached_inputs
    document: dict[str, Any] = {
        "type": name,
        "message": message if (type(message) is str and message.isascii()) or message is None else _text(message),
        "context": state._peek_context(),
        "cached_inputs": {key: _result_document(result) for key, result in cached.items()} if cached else _NOTHING,
        "__version__": VERSION,
    }
    if name != "Mapped":  # its children carry the results
        document["_result"] = _NO_RESULT if state._held is NoResult else _result_document(state._result)
    for field, write in writers:
        value = getattr(state, field)
        document[field] = value if write is None or value is None else write(value)
    return {**state.unknown_fields, **document} if state.unknown_fields else document


def _result_document(result: Result) -> dict[str, Any]:
    if result is NoResult:
        return _NO_RESULT
    document: dict[str, Any] = {field: getattr(result, field) for field in result.wire_fields}
    for field in result.wire_facts:
        if (fact := getattr(result, field)) is not None:
            document[field] = fact
    document["type"] = result.wire_type
    document["__version__"] = VERSION
    return {**document, **result.unknown_fields} if result.unknown_fields else document


def _text(message: Any) -> str:
    # a file name in an exception may hold surrogates, which no JSON text can
    text = message if isinstance(message, str) else str(message) or repr(message)
    return text.encode("utf-8", "backslashreplace").decode()


def _refuse(state: State, document: dict[str, Any], error: Exception) -> NoReturn:
    for field, value in document.items():
        try:
            _encode(value)
        except Exception as cause:
            raise SerializationError(
                f"cannot write the field {field!r} of a {type(state).__name__} state as JSON: {cause}"
            ) from error
    raise SerializationError(f"cannot write a {type(state).__name__} state as JSON: {error}") from error


# ---- reading ---------------------------------------------------------------------------------------


def decode_state(document: Mapping[str, Any] | str | bytes) -> State:
    """Return the state of a document, or of its JSON text.

    Raises:
        - DialectError: if the document is not that of a state
    """
    global _bare
    if not isinstance(document, (str, bytes)):
        return deserialize_state(document)
    text, cls, message = _bare
    if document == text:
        return _without_facts(cls, message)
    try:
        read = _decode(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DialectError(f"a state document is not JSON: {error}") from error
    state = deserialize_state(read)
    facts = (state._context, state._cached_inputs, state.unknown_fields)
    if facts == (None, None, None) and state._held is NoResult and type(state) in _FACTLESS:
        _bare = document, type(state), state.message
    return state


def _without_facts(cls: type[State], message: str | None) -> State:
    state = object.__new__(cls)
    state.message, state._held = message, NoResult
    state._context = state._tags = state._cached_inputs = state.unknown_fields = None
    return state


def deserialize_state(document: Mapping[str, Any]) -> State:
    """Return the state of a document; ``{"type": ..., "message": ...}`` is enough of one.

    Raises:
        - DialectError: if the document is not that of a state
    """
    if not isinstance(document, Mapping):
        raise DialectError(f"a state document is a JSON object, not {type(document).__name__}")
    name = document.get("type")
    plan = _READERS.get(name) if isinstance(name, str) else None
    if plan is None:
        raise DialectError(f"unknown state type {name!r}; the known ones are {', '.join(_READERS)}")
    cls, known, readers = plan
    state = object.__new__(cls)
    try:
        state.message = _optional_str(document.get("message"))
        context = document.get("context")
        state._context, state._tags = dict(context) if context else None, None
        cached = document.get("cached_inputs")
        state.cached_inputs = {key: read_result(given) for key, given in cached.items()} if cached else None
        if cls is Mapped:
            state._result, cast("Mapped", state).map_states = NoResult, []
        else:
            state._result = read_result(document.get("_result"))
        for field, read, default in readers:
            value = document.get(field)
            setattr(state, field, default() if value is None else read(value))
    except DialectError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise DialectError(f"a {name} state document is not understood: {error}") from error
    state.unknown_fields = (
        None if document.keys() <= known else {key: value for key, value in document.items() if key not in known}
    )
    return state


def read_result(document: Any) -> Result:
    """Return the result of a document, as a state has it.

    Raises:
        - DialectError: if the document is not that of a result
    """
    if document is None:
        return NoResult
    if not isinstance(document, Mapping):
        raise DialectError(f"a result document is a JSON object, not {type(document).__name__}")
    name = document.get("type")
    if name == "NoResultType":
        return NoResult
    cls = _result_class(name)
    result = object.__new__(cls)
    Result.__init__(result, location=_optional_str(document.get("location")))
    result.is_recorded = True
    for field in cls.wire_fields:
        if field != "location":
            setattr(result, field, document.get(field))
    for field in cls.wire_facts:
        if (fact := document.get(field)) is not None:
            setattr(result, field, fact)
    known = (*cls.wire_fields, *cls.wire_facts, "type", "__version__")
    unknown = {key: value for key, value in document.items() if key not in known}
    if name != cls.wire_type:
        unknown["type"] = name
    result.unknown_fields = unknown or None
    return result


def _result_class(name: Any) -> type[Result]:
    if name not in Result.wire_types:
        from .. import results  # noqa: F401  (importing it makes its classes known)
    return Result.wire_types.get(name, Result)


def _optional_str(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{value!r} should be text or null")


def _optional_object(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise TypeError(f"{value!r} should be an object or null")


def _write_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: as_recorded(value) for name, value in parameters.items()}


def _read_time(value: Any) -> datetime.datetime:
    return aware(datetime.datetime.fromisoformat(value))


# ---- what each class adds --------------------------------------------------------------------------

_Write = Callable[[Any], Any]
_Read = Callable[[Any], Any]

_FIELDS: dict[str, tuple[_Write | None, _Read, Callable[[], Any]]] = {
    "start_time": (datetime.datetime.isoformat, _read_time, now),
    "run_count": (None, int, lambda: 1),
    "state": (_document, deserialize_state, lambda: None),
    "hashed_inputs": (None, _optional_object, lambda: None),
    "cached_parameters": (_write_parameters, _optional_object, lambda: None),
    "cached_result_expiration": (datetime.datetime.isoformat, _read_time, lambda: None),
    "loop_count": (None, int, lambda: 1),
    "n_map_states": (None, int, lambda: 0),
}
"""Field: how to write it, how to read it, and what it is where the document has none."""

_WRITERS: dict[type[State], tuple[str, list[tuple[str, _Write | None]]]] = {}
_READERS: dict[str, tuple[type[State], frozenset[str], list[tuple[str, _Read, Callable[[], Any]]]]] = {}

for _name in _states.__all__:
    _cls: type[State] = getattr(_states, _name)
    _fields = [field for base in _cls.__mro__ if issubclass(base, State) for field in base.fields if field in _FIELDS]
    _WRITERS[_cls] = (_name, [(field, _FIELDS[field][0]) for field in _fields])
    _READERS[_name] = (
        _cls,
        _COMMON.union(_fields),
        [
            (field, _FIELDS[field][1], partial(_cls._no_time) if issubclass(_cls, Paused) else _FIELDS[field][2])
            for field in _fields
        ],
    )


_FACTLESS = frozenset(cls for cls, (_, fields) in _WRITERS.items() if not fields)
"""The classes whose states have no fields of their own."""


def _writers_of_subclass(cls: type[State]) -> tuple[str, list[tuple[str, _Write | None]]]:
    # a class of the user's own travels as the class it was made of
    _WRITERS[cls] = _WRITERS[next(base for base in cls.__mro__ if base in _WRITERS)]
    return _WRITERS[cls]
