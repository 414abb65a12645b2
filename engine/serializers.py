"""How a stored value becomes bytes and comes back."""

from __future__ import annotations

import datetime
import importlib
import io
from typing import Any, Protocol

import msgspec

from .errors import SerializationError

__all__ = [
    "ArrowSerializer",
    "CompressedSerializer",
    "DateTimeSerializer",
    "JSONSerializer",
    "PandasSerializer",
    "PickleSerializer",
    "Serializer",
]


class Serializer(Protocol):
    """Two functions, one the inverse of the other."""

    def serialize(self, value: Any) -> bytes:
        """Return `value` as bytes; raises `SerializationError` where that cannot be done."""
        ...

    def deserialize(self, value: bytes) -> Any:
        """Return the value that `serialize` made these bytes of; raises `SerializationError`."""
        ...


class _ByAttributes:
    """Two serializers of one class with the same attributes are equal."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return bool(self.__dict__ == other.__dict__)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def _cannot(what: str, value: object, error: Exception) -> SerializationError:
    return SerializationError(f"cannot {what} a value of type {type(value).__name__}: {error}")


class PickleSerializer(_ByAttributes):
    """Pickles by cloudpickle, which also takes lambdas and classes defined in a notebook."""

    def serialize(self, value: Any) -> bytes:
        """Return `value` pickled."""
        import cloudpickle

        try:
            data: bytes = cloudpickle.dumps(value)
            return data
        except Exception as error:
            raise _cannot("pickle", value, error) from error

    def deserialize(self, value: bytes) -> Any:
        """Return the unpickled value. Unpickle only what you trust: a pickle can run code."""
        import cloudpickle

        try:
            return cloudpickle.loads(value)
        except Exception as error:
            raise SerializationError(f"cannot unpickle {len(value)} bytes: {error}") from error


class JSONSerializer(_ByAttributes):
    """Writes JSON; a value comes back as JSON knows it, so a tuple returns as a list."""

    def serialize(self, value: Any) -> bytes:
        """Return `value` as JSON."""
        try:
            return msgspec.json.encode(value)
        except Exception as error:
            raise _cannot("write as JSON", value, error) from error

    def deserialize(self, value: bytes) -> Any:
        """Return the value of a JSON text."""
        try:
            return msgspec.json.decode(value)
        except Exception as error:
            raise SerializationError(f"not a JSON text: {error}") from error


class DateTimeSerializer(_ByAttributes):
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


_COMPRESSIONS = ("bz2", "lzma", "zlib")


class CompressedSerializer(_ByAttributes):
    """Compresses what another serializer writes.

    Args:
        - serializer: the other serializer
        - format: ``"zlib"`` (the default), ``"bz2"`` or ``"lzma"``
    """

    def __init__(self, serializer: Serializer, format: str = "zlib") -> None:
        if format not in _COMPRESSIONS:
            raise ValueError(f"format is one of {', '.join(_COMPRESSIONS)}, not {format!r}")
        self.serializer = serializer
        self.format = format

    def serialize(self, value: Any) -> bytes:
        """Return `value` serialized, then compressed."""
        data: bytes = importlib.import_module(self.format).compress(self.serializer.serialize(value))
        return data

    def deserialize(self, value: bytes) -> Any:
        """Return the value of the decompressed bytes."""
        try:
            data = importlib.import_module(self.format).decompress(value)
        except Exception as error:
            raise SerializationError(f"not {self.format} data: {error}") from error
        return self.serializer.deserialize(data)


class PandasSerializer(_ByAttributes):
    """Writes a pandas DataFrame, without its index, as CSV or Parquet. Needs the ``pandas`` extra.

    Args:
        - file_type: ``"parquet"`` or ``"csv"``
    """

    def __init__(self, file_type: str = "parquet") -> None:
        if file_type not in ("csv", "parquet"):
            raise ValueError(f"file_type is csv or parquet, not {file_type!r}")
        self.file_type = file_type

    def serialize(self, value: Any) -> bytes:
        """Return a DataFrame as a file's bytes."""
        buffer = io.BytesIO()
        try:
            getattr(value, f"to_{self.file_type}")(buffer, index=False)
        except Exception as error:
            raise _cannot(f"write as {self.file_type}", value, error) from error
        return buffer.getvalue()

    def deserialize(self, value: bytes) -> Any:
        """Return the DataFrame of a file's bytes."""
        pandas = _import("pandas")
        try:
            return getattr(pandas, f"read_{self.file_type}")(io.BytesIO(value))
        except Exception as error:
            raise SerializationError(f"not a {self.file_type} file: {error}") from error


class ArrowSerializer(_ByAttributes):
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
