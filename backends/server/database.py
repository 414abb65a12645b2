"""Reading from the database of a store, with its errors as flowloop's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from ..store import Store

__all__ = ["reading"]


@asynccontextmanager
async def reading(store: Store) -> AsyncIterator[AsyncConnection]:
    """Give a connection to read with.

    Raises:
        - BackendUnavailable: if the database cannot be reached
    """
    try:
        async with store.engine.connect() as connection:
            yield connection
    except Exception as error:
        known = store.translate(error)
        if known is error:
            raise
        raise known from error
