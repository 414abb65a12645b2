"""Telling those in this process who watch a flow run what other processes on the same database do to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Self

from ..engine.errors import BackendError
from ..engine.state import State
from ._hub import Hub

__all__ = ["Elsewhere"]

_LOOK_EVERY = 1.0
"""Seconds between two looks where other processes cannot be heard."""

logger = logging.getLogger(__name__)


class Elsewhere:
    """Reads anew what another process has moved, if anybody here watches it.

    Nothing goes on until the first call of `start`; leaving it as an async context manager ends it.

    Args:
        - hub: whom to tell
        - listen: hears which flow runs another process moves; see `Store.listen`
        - read: reads the newest state of a flow run
    """

    def __init__(
        self,
        hub: Hub,
        listen: Callable[[Callable[[Collection[str]], None]], AbstractAsyncContextManager[bool]],
        read: Callable[[str], Awaitable[State]],
    ) -> None:
        self._hub = hub
        self._listen = listen
        self._read = read
        self._moved: set[str] = set()
        self._named: set[str] = set()
        self._seen: dict[str, State] = {}
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def start(self) -> None:
        """Begin to listen, if that has not begun."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="what other processes do")

    def _note(self, flow_run_ids: Collection[str]) -> None:
        self._hub.moved()
        self._named.update(flow_run_ids)
        self._moved.update(flow_run_ids or self._hub.watched)
        self._told.set()

    async def _run(self) -> None:
        async with self._listen(self._note) as hears:
            while True:
                if hears:
                    await self._told.wait()
                else:
                    await asyncio.sleep(_LOOK_EVERY)
                    self._note(())
                self._told.clear()
                moved, self._moved = self._moved, set()
                named, self._named = self._named, set()
                self._seen = {
                    flow_run_id: state for flow_run_id, state in self._seen.items() if self._hub.watches(flow_run_id)
                }
                await asyncio.gather(*(self._tell(one, is_news=one in named) for one in moved))

    async def _tell(self, flow_run_id: str, *, is_news: bool) -> None:
        if not self._hub.watches(flow_run_id):
            return
        try:
            state = await self._read(flow_run_id)
        except BackendError as error:
            logger.debug("flow run %s cannot be read: %s", flow_run_id, error)
            return
        seen = self._seen.get(flow_run_id)
        if is_news or seen is None or (seen, seen.message) != (state, state.message):
            self._seen[flow_run_id] = state
            self._hub.publish(flow_run_id, state)
