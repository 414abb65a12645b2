"""Watching a flow run while it goes on."""

from __future__ import annotations

import asyncio
import datetime
from collections import defaultdict, deque
from typing import Any, Self
from weakref import WeakSet

import msgspec

from .state import Finished, State

__all__ = ["Events", "ItemEvent", "Progress", "RunEvent", "Watch"]


class RunEvent(msgspec.Struct, frozen=True):
    """One change of state.

    Args:
        - timestamp: when, in wall time
        - task_slug: the task; None for the flow run itself
        - map_index: the mapped child; -1 for the task itself
        - old_state: the state before
        - state: the state since
        - run_count: the number of the attempt
        - parents: of a flow that runs as a task the task runs around it, as slug and mapped child, the outermost first
    """

    timestamp: datetime.datetime
    task_slug: str | None
    map_index: int
    old_state: State
    state: State
    run_count: int = 1
    parents: tuple[tuple[str, int], ...] = ()


class ItemEvent(RunEvent, frozen=True):
    """One item of a task run whose body is an async generator: it is Running before and after.

    Args:
        - item: the item
    """

    item: Any = None


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

    def describe(self) -> str:
        """Return it in a few words."""
        counts = "".join(f", {count} {name}" for name, count in sorted(self.states.items()))
        return f"{self.finished} of {self.total} task runs{counts}"

    def _repr_html_(self) -> str:
        from .notebook import progress_html

        return progress_html(self)


class Events:
    """A stream of the changes of state of a flow run, from the moment it was asked for until the run is over.

    It holds a bounded number of events for its reader; beyond that the oldest are dropped, and the run never waits.
    """

    def __init__(self, size: int) -> None:
        self._events: deque[RunEvent] = deque(maxlen=size)
        self._woken = asyncio.Event()
        self._closed = False
        self.dropped = 0
        """How many events were dropped because nobody read them in time."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RunEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._woken.clear()
            await self._woken.wait()
        return self._events.popleft()

    def put(self, event: RunEvent) -> None:
        """Add an event."""
        self.dropped += len(self._events) == self._events.maxlen
        self._events.append(event)
        self._woken.set()

    def close(self) -> None:
        """End the stream once it is read empty."""
        self._closed = True
        self._woken.set()


class Watch:
    """What is seen of a flow run from outside.

    Args:
        - around: what is seen of the flow run that this one is a part of; its events are seen there, too
        - place: the task run that this one is there, as slug and mapped child
    """

    def __init__(self, around: Watch | None = None, place: tuple[str, int] = ("", -1)) -> None:
        # a stream that nobody holds any more is forgotten
        self._streams: WeakSet[Events] = WeakSet()
        self._around = around
        self._place = place
        self._inside: WeakSet[Watch] = WeakSet()
        self.closed = False
        self.active = False
        if around is not None:
            self.active = around.active
            around._inside.add(self)
        self.ended: defaultdict[type[State], int] = defaultdict(int)
        """How many task runs have ended here, by the state that each has; one that only waits is not over."""
        self.total = 0

    def publish(self, event: RunEvent) -> None:
        """Hand an event to whoever watches."""
        for stream in self._streams:
            stream.put(event)
        if self._around is not None and self._around.active:
            self._around.publish(msgspec.structs.replace(event, parents=(self._place, *event.parents)))

    def close(self) -> None:
        """End all streams once they are read empty."""
        self.closed = True
        for stream in self._streams:
            stream.close()

    def events(self, size: int) -> Events:
        """Open a stream of the events from now on."""
        stream = Events(size)
        self._streams.add(stream)
        self._activate()
        return stream

    def _activate(self) -> None:
        self.active = True
        for watch in self._inside:
            watch._activate()

    def progress(self) -> Progress:
        """Return how far the run is."""
        states = {kind.__name__: count for kind, count in self.ended.items() if issubclass(kind, Finished)}
        return Progress(total=self.total, finished=sum(states.values()), states=states)
