"""Watching a flow run while it goes on."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter, deque
from collections.abc import AsyncIterator

import msgspec

from .state import Finished, State

__all__ = ["Progress", "RunEvent", "Watch"]


class RunEvent(msgspec.Struct, frozen=True):
    """One change of state.

    Args:
        - timestamp: when, in wall time
        - task_slug: the task; None for the flow run itself
        - map_index: the mapped child; -1 for the task itself
        - old_state: the state before
        - state: the state since
        - run_count: the number of the attempt
    """

    timestamp: datetime.datetime
    task_slug: str | None
    map_index: int
    old_state: State
    state: State
    run_count: int = 1


class Progress(msgspec.Struct, frozen=True):
    """How far a flow run is.

    Args:
        - total: how many task runs are known: tasks, and the children of those mapped so far
        - finished: how many of them are over
        - states: how many ended in each kind of state, by its name
    """

    total: int
    finished: int
    states: dict[str, int]


class _Subscriber:
    """A bounded queue that drops its oldest events rather than make the run wait."""

    def __init__(self, size: int) -> None:
        self.events: deque[RunEvent] = deque(maxlen=size)
        self.woken = asyncio.Event()
        self.dropped = 0

    def put(self, event: RunEvent) -> None:
        self.dropped += len(self.events) == self.events.maxlen
        self.events.append(event)
        self.woken.set()


class Watch:
    """What is seen of a flow run from outside."""

    def __init__(self) -> None:
        self._subscribers: list[_Subscriber] = []
        self.closed = False
        self.active = False
        self.states: Counter[str] = Counter()
        self.total = 0

    def count(self, state: State) -> None:
        """Note that a task run has ended here; one that only waits is not over."""
        if isinstance(state, Finished):
            self.states[type(state).__name__] += 1

    def publish(self, event: RunEvent) -> None:
        """Hand an event to whoever watches."""
        for subscriber in self._subscribers:
            subscriber.put(event)

    def close(self) -> None:
        """End all streams once they are read empty."""
        self.closed = True
        for subscriber in self._subscribers:
            subscriber.woken.set()

    async def events(self, size: int) -> AsyncIterator[RunEvent]:
        """Yield events from now on until the run is over."""
        subscriber = _Subscriber(size)
        self._subscribers.append(subscriber)
        self.active = True
        try:
            while True:
                while subscriber.events:
                    yield subscriber.events.popleft()
                if self.closed:
                    return
                subscriber.woken.clear()
                await subscriber.woken.wait()
        finally:
            self._subscribers.remove(subscriber)
            self.active = bool(self._subscribers)

    def progress(self) -> Progress:
        """Return how far the run is."""
        return Progress(total=self.total, finished=sum(self.states.values()), states=dict(self.states))
