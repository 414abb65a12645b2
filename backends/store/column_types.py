"""Column types: moments, JSON documents, state documents, and columns that repeat another."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
from sqlalchemy import JSON, Computed, Dialect, String, Text, TypeDecorator
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler
from sqlalchemy.types import TypeEngine

__all__ = ["Copy", "JsonText", "StateText", "UtcDateTime"]

_UTC = datetime.UTC


class UtcDateTime(TypeDecorator[datetime.datetime]):
    """A moment: aware and in UTC in Python; ``timestamptz`` on PostgreSQL.

    SQLite keeps the text ``2021-07-01T12:00:02.960624+00:00``, always in full: it sorts as the moments do, and is
    what an answer shows. A naive datetime is taken as UTC.
    """

    impl = String(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(String(32))

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> Any:
        """Bring a moment to UTC."""
        if value is None:
            return None
        value = value.replace(tzinfo=_UTC) if value.tzinfo is None else value.astimezone(_UTC)
        return value if dialect.name == "postgresql" else value.isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime.datetime | None:
        """Read a moment."""
        if value is None:
            return None
        moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(_UTC)


class StateText(TypeDecorator[msgspec.Raw]):
    """A state document, byte for byte as its client sent it.

    It comes out as `msgspec.Raw`: an answer takes it in without parsing it, and whoever wants its fields
    decodes it to the type it needs.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Store the text of a document."""
        if value is None or isinstance(value, str):
            return value
        return bytes(value if isinstance(value, bytes | msgspec.Raw) else msgspec.json.encode(value)).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> msgspec.Raw | None:
        """Return the document unparsed."""
        return None if value is None else msgspec.Raw(value.encode())


class JsonText(JSON):
    """A JSON document in a column that SQLite takes for text: in a column called JSON it turns ``5`` into a number."""


@compiles(JsonText, "sqlite")
def _json_text_ddl(*_: Any, **__: Any) -> str:
    return "TEXT"


class Copy(Computed):
    """A generated column that repeats another; only PostgreSQL has to store it."""

    inherit_cache = True


@compiles(Copy, "sqlite")
@compiles(Copy, "postgresql")
def _copy_ddl(copy: Copy, compiler: DDLCompiler, **_: Any) -> str:
    kind = "STORED" if compiler.dialect.name == "postgresql" else "VIRTUAL"
    return f"GENERATED ALWAYS AS ({copy.sqltext}) {kind}"
