"""Reading from the database of a store: for a limited time, with its errors as flowloop's."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.errors import BackendRejected
from ..store import Store

__all__ = ["reading"]

_INSTRUCTIONS = 100_000  # how many of them SQLite executes between two looks at the time
_CANCELLED = {"SQLITE_INTERRUPT", "57014"}


@asynccontextmanager
async def reading(store: Store, seconds: float = 30.0) -> AsyncIterator[AsyncConnection]:
    """Give a connection to read with; on PostgreSQL, all its statements see the same moment.

    Args:
        - store: whose database
        - seconds: how long a statement may take

    Raises:
        - BackendRejected: if a statement takes longer
        - BackendUnavailable: if the database cannot be reached
    """
    try:
        # A read that is cut off in the driver leaves a connection behind that nobody closes. It ends by itself soon.
        with anyio.CancelScope(shield=True):
            async with store.engine.connect() as connection:
                if connection.dialect.name == "postgresql":
                    # Rows are streamed inside a transaction only, which is what SET LOCAL needs too.
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                    await connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(seconds * 1_000)}")
                    yield connection
                    return
                driver: Any = (await connection.get_raw_connection()).driver_connection
                await driver.set_progress_handler(partial(_is_over, time.monotonic() + seconds), _INSTRUCTIONS)
                try:
                    yield connection
                finally:
                    await driver.set_progress_handler(None, 0)
    except Exception as error:
        if _was_cancelled(error):
            raise BackendRejected(
                f"the query takes longer than {seconds:g} seconds: narrow its filter, or give it a limit"
            ) from error
        known = store.translate(error)
        if known is error:
            raise
        raise known from error


def _is_over(deadline: float) -> bool:
    return time.monotonic() > deadline


def _was_cancelled(error: Exception) -> bool:
    cause: Any = error.orig if isinstance(error, DBAPIError) else error
    return not _CANCELLED.isdisjoint((getattr(cause, "sqlite_errorname", None), getattr(cause, "sqlstate", None)))
