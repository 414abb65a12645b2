"""What an executor holds open: one of it for each event loop, shared by the flow runs there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import anyio

from .place import Place

__all__ = ["Shared"]


class _Open:
    """What is open on one loop."""

    def __init__(self) -> None:
        self.users = 0
        self.place: Place | None = None
        self.opened: AbstractAsyncContextManager[Any] | None = None
        self.lock = asyncio.Lock()


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

    def held(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> AbstractAsyncContextManager[Any]:
        """Hold the place of this loop open for a block, which gets it.

        Args:
            - make: opens it
        """
        return _Held(self._by_loop, make)


class _Held:
    """A block for which the place of a loop is open; no generator, because every flow run has one."""

    __slots__ = ("_by_loop", "_entry", "_make")

    def __init__(
        self,
        by_loop: dict[asyncio.AbstractEventLoop, _Open],
        make: Callable[[], AbstractAsyncContextManager[Any]],
    ) -> None:
        self._by_loop = by_loop
        self._make = make
        self._entry = _Open()

    async def __aenter__(self) -> Place | None:
        entry = self._entry = self._by_loop.setdefault(asyncio.get_running_loop(), self._entry)
        entry.users += 1
        try:
            # a place that needs nothing is open without a turn of the loop, in which the run could be cancelled
            if entry.place is None or entry.lock.locked():
                async with entry.lock:
                    if entry.place is None:
                        opened = self._make()
                        entry.place = await opened.__aenter__()
                        entry.opened = opened
        except BaseException:
            await self._leave()
            raise
        return entry.place

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        entry = self._entry
        entry.users -= 1
        if not entry.users:
            with anyio.CancelScope(shield=True):
                await self._close(entry)

    async def _close(self, entry: _Open) -> None:
        async with entry.lock:
            if not entry.users:  # somebody may have come meanwhile
                opened, entry.opened, entry.place = entry.opened, None, None
                if opened is not None:
                    await opened.__aexit__(None, None, None)
        loop = asyncio.get_running_loop()
        if not entry.users and self._by_loop.get(loop) is entry:
            del self._by_loop[loop]
