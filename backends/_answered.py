"""Futures that are answered many at a time: those who wait for them go on together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any, TypeAlias, TypeVar

__all__ = ["Answer", "Answered"]

R = TypeVar("R")

_TURN = 0.005
"""Seconds after which the loop gets a turn."""

Waiter: TypeAlias = tuple[Callable[[Any], object], Context]


class Answer(asyncio.Future[R]):
    """A future whose waiters are resumed by `Answered.resume`, together with those of others.

    One of asyncio's has the loop schedule each of its waiters by itself, which costs as much as many a waiter does
    when it goes on. Whoever makes one sets `waiters`: a constructor of its own would cost more than the rest of it.
    """

    __slots__ = ("waiters",)

    waiters: tuple[Waiter, ...]

    def add_done_callback(self, call: Callable[[Any], object], *, context: Context | None = None) -> None:
        """As of any future."""
        if self.done():
            super().add_done_callback(call, context=context)
        else:
            self.waiters += ((call, copy_context() if context is None else context),)

    def remove_done_callback(self, call: Callable[[Any], object]) -> int:
        """As of any future."""
        waiters = self.waiters
        self.waiters = tuple([waiter for waiter in waiters if waiter[0] != call])
        return len(waiters) - len(self.waiters) + super().remove_done_callback(call)

    def cancel(self, msg: Any | None = None) -> bool:
        """As of any future; nobody has answered, so its waiters are resumed at once."""
        if not super().cancel(msg):
            return False
        waiters, self.waiters = self.waiters, ()
        for call, context in waiters:
            self.get_loop().call_soon(call, self, context=context)
        return True


class Answered:
    """Who was answered, and goes on in one of the next turns of the loop."""

    def __init__(self) -> None:
        self._left: deque[Answer[Any]] = deque()

    def __bool__(self) -> bool:
        return bool(self._left)

    def resume(self, answers: Iterable[Answer[Any]]) -> None:
        """Let those go on who wait for these futures, which are done."""
        is_under_way = bool(self._left)
        self._left.extend(answers)
        if self._left and not is_under_way:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        left, loop = self._left, asyncio.get_running_loop()
        turn_ends = loop.time() + _TURN
        others: Iterator[Waiter] = iter(())
        try:
            while left and loop.time() < turn_ends:
                answer = left.popleft()
                waiters, answer.waiters = answer.waiters, ()
                others = iter(waiters)
                for call, context in others:
                    context.run(call, answer)
        finally:  # what one of them raises is the loop's to tell, as of any callback
            for call, context in others:
                loop.call_soon(call, answer, context=context)
            if left:
                loop.call_soon(self._go_on)
