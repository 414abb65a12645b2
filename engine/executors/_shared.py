"""What an executor holds open: one of it for each event loop, shared by the flow runs there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import anyio

from .place import Place

__all__ = ["Shared"]


class _Open:
    """What is open on one loop."""

    def __init__(self) -> None:
        self.users = 0
        self.place: Place | None = None
        self.held = AsyncExitStack()
        self.lock = anyio.Lock(fast_acquire=True)


class Shared:
    """Opens a place for the first flow run of an event loop, and closes it after the last.

    Loops of other threads have places of their own. A copy that was pickled has nothing open.
    """

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, _Open] = {}

    def __reduce__(self) -> tuple[type[Shared], tuple[()]]:
        return Shared, ()

    def here(self) -> Place | None:
        """Return the place that is open on this loop."""
        found = self._by_loop.get(asyncio.get_running_loop())
        return None if found is None else found.place

    @asynccontextmanager
    async def held(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> AsyncIterator[Any]:
        """Hold the place of this loop open for the block.

        Args:
            - make: opens it
        """
        loop = asyncio.get_running_loop()
        entry = self._by_loop.setdefault(loop, _Open())
        entry.users += 1
        try:
            # a place that needs nothing is open without a turn of the loop, in which the run could be cancelled
            if entry.place is None or entry.lock.locked():
                await self._open(entry, make)
            yield entry.place
        finally:
            entry.users -= 1
            if not entry.users:
                with anyio.CancelScope(shield=True):
                    await self._close(loop, entry)

    async def _open(self, entry: _Open, make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        if entry.lock.locked():
            await entry.lock.acquire()
        else:
            entry.lock.acquire_nowait()
        try:
            if entry.place is None:
                async with AsyncExitStack() as opened:
                    entry.place = await opened.enter_async_context(make())
                    entry.held = opened.pop_all()
        finally:
            entry.lock.release()

    async def _close(self, loop: asyncio.AbstractEventLoop, entry: _Open) -> None:
        async with entry.lock:
            if not entry.users:  # somebody may have come meanwhile
                entry.place = None
                await entry.held.aclose()
        if not entry.users and self._by_loop.get(loop) is entry:
            del self._by_loop[loop]
