"""Turns: who waits for one of so many places gets it by priority, and of one priority by who came first."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Line", "Pace", "Places"]

T = TypeVar("T")


class Line(Generic[T]):
    """What waits, in the order in which it goes on."""

    __slots__ = ("_by_priority",)

    def __init__(self) -> None:
        self._by_priority: dict[int, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_priority)

    def add(self, one: T, priority: int = 0) -> None:
        """Put something behind what has its priority or a higher one."""
        found = self._by_priority.get(priority)
        if found is None:
            found = self._by_priority[priority] = deque()
        found.append(one)

    def take(self) -> T:
        """Take what goes on first; there has to be something."""
        priority = max(self._by_priority)
        found = self._by_priority[priority]
        one = found.popleft()
        if not found:
            del self._by_priority[priority]
        return one

    def discard(self, one: T, priority: int = 0) -> None:
        """Take something out of its turn, if it is there."""
        found = self._by_priority.get(priority)
        if found is not None and one in found:
            found.remove(one)
            if not found:
                del self._by_priority[priority]


class _Turns(ABC):
    """Gives turns while there are some, and lets the others wait."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: Line[asyncio.Future[None]] = Line()

    @abstractmethod
    def _is_free(self) -> bool:
        """Whether there is a turn."""

    @abstractmethod
    def _given(self) -> None:
        """Count one that was given."""

    @abstractmethod
    def _unused(self) -> None:
        """Take one back from who was cancelled in that moment."""

    async def take(self, priority: int = 0) -> None:
        """Wait for a turn."""
        if self._is_free():  # then nobody waits
            self._given()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.add(turn, priority)
        try:
            self._will_be_free()
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._unused()
            else:  # or it was passed over already, as it has been cancelled
                self._waiting.discard(turn, priority)
            raise

    def _hand_out(self) -> None:
        while self._waiting and self._is_free():
            turn = self._waiting.take()
            if not turn.done():
                self._given()
                turn.set_result(None)

    @abstractmethod
    def _will_be_free(self) -> None:
        """See to it that who waits is handed a turn."""


class Places(_Turns):
    """So many at once, all if None. How many can change at any time.

    Args:
        - number: how many
    """

    __slots__ = ("_number", "taken")

    def __init__(self, number: int | None) -> None:
        super().__init__()
        self._number = number
        self.taken = 0

    def change(self, number: int | None) -> None:
        """Let another number hold: who waits for what is free now gets it."""
        self._number = number
        self._hand_out()

    def give_back(self) -> None:
        """Give a place back: to who waits, if somebody does."""
        self.taken -= 1
        self._hand_out()

    def _is_free(self) -> bool:
        return self._number is None or self.taken < self._number

    def _given(self) -> None:
        self.taken += 1

    def _unused(self) -> None:
        self.give_back()

    def _will_be_free(self) -> None:
        """Do nothing: who gives back hands out."""


class Pace(_Turns):
    """So many in any period, all if None; by the time of the loop."""

    __slots__ = ("_count", "_given_at", "_period", "_timer")

    def __init__(self) -> None:
        super().__init__()
        self._count: int | None = None
        self._period = 0.0
        self._given_at: deque[float] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def change(self, count: int | None, period: float) -> None:
        """Let another pace hold, counted from now."""
        self._count, self._period = count, period
        self.forget()
        self._hand_out()
        self._will_be_free()

    def forget(self) -> None:
        """Count from now, on whatever loop."""
        self._given_at.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_free(self) -> bool:
        if self._count is None:
            return True
        given = self._given_at
        if len(given) >= self._count and asyncio.get_running_loop().time() >= given[0] + self._period:
            given.popleft()
        return len(given) < self._count

    def _given(self) -> None:
        if self._count is not None:
            self._given_at.append(asyncio.get_running_loop().time())

    def _unused(self) -> None:
        """Leave it counted: others may have been given theirs since."""

    def _will_be_free(self) -> None:
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._given_at[0] + self._period, self._due)

    def _due(self) -> None:
        self._timer = None
        self._hand_out()
        self._will_be_free()
