"""How a stored value becomes bytes and comes back."""

from __future__ import annotations

import base64
import datetime
import hmac
import importlib
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from .errors import SerializationError

if TYPE_CHECKING:
    from ._pickler import Sink

__all__ = [
    "ArrowSerializer",
    "CompressedSerializer",
    "DateTimeSerializer",
    "JSONSerializer",
    "PandasSerializer",
    "PickleSerializer",
    "Serializer",
]


@runtime_checkable
class Serializer(Protocol):
    """Two functions, one the inverse of the other.

    Two serializers of one subclass with the same attributes are equal.
    """

    def serialize(self, value: Any) -> bytes:
        """Return `value` as bytes; raises `SerializationError` where that cannot be done."""
        ...

    def deserialize(self, value: bytes) -> Any:
        """Return the value that `serialize` made these bytes of; raises `SerializationError`."""
        ...

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return bool(self.__dict__ == other.__dict__)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def _cannot(what: str, value: object, error: Exception) -> SerializationError:
    return SerializationError(f"cannot {what} a value of type {type(value).__name__}: {error}")


class PickleSerializer(Serializer):
    """Pickles by cloudpickle, which also takes lambdas and classes defined in a notebook.

    Args:
        - key: signs what is written, and nothing is read that was not signed with it; the setting
            ``FLOWLOOP_RESULTS_KEY`` if None
    """

    def __init__(self, key: str | None = None) -> None:
        self.key = key

    def serialize(self, value: Any) -> bytes:
        """Return `value` pickled, and signed where there is a key."""
        from ._pickler import dumps

        try:
            data = dumps(value)
        except Exception as error:
            raise _cannot("pickle", value, error) from error
        key = self._signing_key
        return data if key is None else _SIGNED + _signature(data, key) + data

    def dump(self, value: Any, file: Sink) -> None:
        """Write into a file what `serialize` returns, without having all of it in memory where nothing is signed."""
        from ._pickler import dump

        if self._signing_key is not None:
            file.write(self.serialize(value))
            return
        try:
            dump(value, file)
        except Exception as error:
            raise _cannot("pickle", value, error) from error

    def load(self, file: io.BufferedIOBase) -> Any:
        """Return what `deserialize` returns of the bytes in a file, without having them in memory beside it."""
        import cloudpickle

        is_signed = file.read(len(_SIGNED)) == _SIGNED
        file.seek(0)
        if not is_signed and self._signing_key is None:
            try:
                return cloudpickle.load(file)
            except Exception:
                file.seek(0)  # what else it may be, or why it is nothing
        return self.deserialize(file.read())

    @property
    def _signing_key(self) -> str | None:
        return self.key or os.environ.get("FLOWLOOP_RESULTS_KEY") or None

    def _unsigned(self, value: bytes) -> bytes:
        """Return the pickle of signed bytes: it is not looked at before it is known whose it is."""
        key = self._signing_key
        is_signed = value.startswith(_SIGNED)
        if key is None:
            if is_signed:
                raise SerializationError("this pickle is signed: give its key in FLOWLOOP_RESULTS_KEY")
            return value
        signature, pickled = value[len(_SIGNED) : _PICKLE_AT], value[_PICKLE_AT:]
        if not is_signed or not hmac.compare_digest(signature, _signature(pickled, key)):
            what = "was signed with another key, or changed since" if is_signed else "is not signed"
            raise SerializationError(f"this pickle {what}, and FLOWLOOP_RESULTS_KEY is set: it is not read")
        return pickled

    def deserialize(self, value: bytes) -> Any:
        """Return the unpickled value. Unpickle only what you trust: a pickle can run code."""
        import cloudpickle

        value = self._unsigned(value)
        try:
            return cloudpickle.loads(value)
        except Exception as error:
            pickled = _from_base64(value)  # as Prefect wrote pickles once
            if pickled is not None and self._signing_key is None:
                return self.deserialize(pickled)
            raise SerializationError(f"cannot unpickle {len(value)} bytes: {error}") from error


_SIGNED = b"flowloop signed 1 "
_PICKLE_AT = len(_SIGNED) + 32


def _signature(pickled: bytes, key: str) -> bytes:
    return hmac.digest(key.encode(), pickled, "sha256")


def _from_base64(value: bytes) -> bytes | None:
    try:
        pickled = base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        return None
    return pickled if pickled.startswith(b"\x80") else None


class JSONSerializer(Serializer):
    """Writes JSON; a value comes back as JSON knows it, so a tuple returns as a list.

    A set, a time or a record, of which JSON would make something else, is refused.

    NaN and the infinities, for which JSON has no numbers, are written as Python's own ``json`` does.
    """

    def serialize(self, value: Any) -> bytes:
        """Return `value` as JSON."""
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except Exception as error:
            raise _cannot("write as JSON", value, error) from error

    def deserialize(self, value: bytes) -> Any:
        """Return the value of a JSON text."""
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            try:
                return json.loads(value)
            except ValueError as error:
                raise SerializationError(f"not a JSON text: {error}") from error
        except Exception as error:
            raise SerializationError(f"not a JSON text: {error}") from error


class DateTimeSerializer(Serializer):
    """Writes a datetime as ISO 8601 text."""

    def serialize(self, value: Any) -> bytes:
        """Return a datetime as text."""
        if not isinstance(value, datetime.datetime):
            raise SerializationError(f"DateTimeSerializer writes datetimes, not {type(value).__name__}")
        return value.isoformat().encode()

    def deserialize(self, value: bytes) -> datetime.datetime:
        """Return the datetime of a text."""
        try:
            return datetime.datetime.fromisoformat(value.decode())
        except ValueError as error:
            raise SerializationError(f"not an ISO 8601 datetime: {error}") from error


_COMPRESSIONS = ("bz2", "gzip", "lzma", "zlib")


class CompressedSerializer(Serializer):
    """Compresses what another serializer writes.

    Args:
        - serializer: the other serializer
        - format: ``"zlib"`` (where nothing else is said), ``"bz2"``, ``"gzip"`` or ``"lzma"``
        - compress, decompress: functions from bytes to bytes that take the place of a format; both or none
        - compress_kwargs, decompress_kwargs: further arguments of the functions

    Raises:
        - ValueError: for a format that is not known, and for functions beside a format or without each other
    """

    def __init__(
        self,
        serializer: Serializer,
        format: str | None = None,
        compress: Callable[..., bytes] | None = None,
        decompress: Callable[..., bytes] | None = None,
        compress_kwargs: Mapping[str, Any] | None = None,
        decompress_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        has_functions = compress is not None or decompress is not None
        if has_functions and (format is not None or compress is None or decompress is None):
            raise ValueError("give either a format, or both functions: compress and decompress")
        self.serializer = serializer
        self.format = None if has_functions else format or "zlib"
        if self.format is not None and self.format not in _COMPRESSIONS:
            raise ValueError(f"format is one of {', '.join(_COMPRESSIONS)}, not {format!r}")
        self.compress, self.decompress = compress, decompress
        self.compress_kwargs, self.decompress_kwargs = dict(compress_kwargs or {}), dict(decompress_kwargs or {})

    def serialize(self, value: Any) -> bytes:
        """Return `value` serialized, then compressed."""
        compress = self.compress or importlib.import_module(str(self.format)).compress
        data: bytes = compress(self.serializer.serialize(value), **self.compress_kwargs)
        return data

    def deserialize(self, value: bytes) -> Any:
        """Return the value of the decompressed bytes."""
        try:
            decompress = self.decompress or importlib.import_module(str(self.format)).decompress
            data = decompress(value, **self.decompress_kwargs)
        except Exception as error:
            raise SerializationError(f"not {self.format or 'compressed'} data: {error}") from error
        return self.serializer.deserialize(data)


class PandasSerializer(Serializer):
    """Writes a pandas DataFrame, without its index if nothing else is said, as CSV or Parquet.

    Needs the ``pandas`` extra.

    Args:
        - file_type: ``"parquet"`` or ``"csv"``
        - deserialize_kwargs, serialize_kwargs: further arguments of pandas' functions that read and write it
    """

    def __init__(
        self,
        file_type: str = "parquet",
        deserialize_kwargs: Mapping[str, Any] | None = None,
        serialize_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if file_type not in ("csv", "parquet"):
            raise ValueError(f"file_type is csv or parquet, not {file_type!r}")
        self.file_type = file_type
        self.deserialize_kwargs, self.serialize_kwargs = dict(deserialize_kwargs or {}), dict(serialize_kwargs or {})

    def serialize(self, value: Any) -> bytes:
        """Return a DataFrame as a file's bytes."""
        buffer = io.BytesIO()
        try:
            getattr(value, f"to_{self.file_type}")(buffer, **{"index": False, **self.serialize_kwargs})
        except Exception as error:
            raise _cannot(f"write as {self.file_type}", value, error) from error
        return buffer.getvalue()

    def deserialize(self, value: bytes) -> Any:
        """Return the DataFrame of a file's bytes."""
        pandas = _import("pandas")
        try:
            return getattr(pandas, f"read_{self.file_type}")(io.BytesIO(value), **self.deserialize_kwargs)
        except Exception as error:
            raise SerializationError(f"not a {self.file_type} file: {error}") from error


class ArrowSerializer(Serializer):
    """Writes a table in the Arrow IPC format. Needs the ``pandas`` extra.

    It takes what speaks the Arrow stream protocol: tables of PyArrow, frames of polars and pandas. It returns
    PyArrow tables.
    """

    def serialize(self, value: Any) -> bytes:
        """Return a table as bytes."""
        pyarrow = _import("pyarrow")
        sink = pyarrow.BufferOutputStream()
        try:
            table = pyarrow.table(value)
            with pyarrow.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        except Exception as error:
            raise _cannot("write as an Arrow table", value, error) from error
        data: bytes = sink.getvalue().to_pybytes()
        return data

    def deserialize(self, value: bytes) -> Any:
        """Return the PyArrow table of these bytes."""
        pyarrow = _import("pyarrow")
        try:
            return pyarrow.ipc.open_stream(value).read_all()
        except Exception as error:
            raise SerializationError(f"not an Arrow stream: {error}") from error


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SerializationError(f"this needs {module}: pip install 'flowloop[pandas]'") from error
