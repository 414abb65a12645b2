"""Telling the states of flow runs to those in this process who watch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from ..engine.state import State

__all__ = ["Hub"]

_MOST_STARTED = 1_000
"""As many flow runs may have begun that nobody watches yet."""


class Hub:
    """Hands every state that is published for a flow run to each of its watchers."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[MemoryObjectSendStream[State]]] = defaultdict(set)
        self._started: dict[str, State] = {}
        self._waiters: set[MemoryObjectSendStream[None]] = set()

    @property
    def watched(self) -> list[str]:
        """The flow runs that somebody watches, or is about to watch."""
        return [*self._watchers, *self._started]

    def watches(self, flow_run_id: str) -> bool:
        """Whether anybody watches this flow run, or is about to."""
        return flow_run_id in self._watchers or flow_run_id in self._started

    def started(self, flow_run_id: str, state: State) -> None:
        """Note a flow run that has just begun here: its runner will watch it, and need not ask how it stands."""
        self._started[flow_run_id] = state
        if len(self._started) > _MOST_STARTED:
            del self._started[next(iter(self._started))]

    def publish(self, flow_run_id: str, state: State) -> None:
        """Tell a state to those who watch its flow run."""
        if flow_run_id in self._started:
            if state.is_finished():
                del self._started[flow_run_id]  # over before its runner had to listen
            else:
                self._started[flow_run_id] = state
        for watcher in self._watchers.get(flow_run_id, ()):
            watcher.send_nowait(state)

    def end(self) -> None:
        """End the streams of those who watch a flow run: nothing more will be told."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()
        self._watchers.clear()

    def moved(self) -> None:
        """Tell those who `watch_ready` that a flow run may have become ready."""
        for waiter in self._waiters:
            with suppress(anyio.WouldBlock):  # it has yet to hear of the last one
                waiter.send_nowait(None)

    @asynccontextmanager
    async def watch_ready(self) -> AsyncIterator[AsyncIterator[None]]:
        """Open a stream that yields when a flow run may have become ready; several at once are one."""
        send, receive = anyio.create_memory_object_stream[None](1)
        self._waiters.add(send)
        try:
            with send, receive:
                yield receive
        finally:
            self._waiters.discard(send)

    @asynccontextmanager
    async def watch(
        self, flow_run_id: str, read: Callable[[], Awaitable[State]]
    ) -> AsyncIterator[AsyncIterator[State]]:
        """Open the stream of a flow run's states.

        Args:
            - flow_run_id: the flow run
            - read: reads its newest state, which comes first; not asked of a flow run that has just begun here
        """
        send, receive = anyio.create_memory_object_stream[State](math.inf)
        watchers = self._watchers[flow_run_id]
        watchers.add(send)  # before reading: a state that comes meanwhile is not missed
        try:
            with send, receive:
                newest = self._started.pop(flow_run_id, None) or await read()
                async with aclosing(_after(newest, receive)) as states:
                    yield states
        finally:
            watchers.discard(send)
            if not watchers and self._watchers.get(flow_run_id) is watchers:
                del self._watchers[flow_run_id]


async def _after(first: State, rest: AsyncIterator[State]) -> AsyncGenerator[State, None]:
    yield first
    async for state in rest:
        yield state
