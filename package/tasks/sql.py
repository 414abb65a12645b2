"""Statements of SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.errors import FlowloopError
from ..engine.task import task

__all__ = ["sql_query"]


@task(name="sql query")
def sql_query(
    url: str, statement: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Execute a statement in a transaction of its own, and return its rows.

    Args:
        - url: the database, as SQLAlchemy writes it: ``sqlite:///shop.db``, ``postgresql+psycopg://…``
        - statement: the statement, with ``:name`` where a parameter goes
        - parameters: their values; several sets of them execute the statement once for each

    Raises:
        - FlowloopError: if SQLAlchemy is not there
    """
    try:
        import sqlalchemy
    except ModuleNotFoundError:
        raise FlowloopError("sql_query needs SQLAlchemy: pip install 'flowloop[store]'") from None
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.begin() as connection:
            found = connection.execute(sqlalchemy.text(statement), parameters)
            return [dict(row) for row in found.mappings()] if found.returns_rows else []
    finally:
        engine.dispose()
