"""Waiting out the outages of a backend: backoff with jitter, ``Retry-After``, and an end to all patience."""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio

from ..engine.errors import BackendError, BackendUnavailable

__all__ = ["Circuit", "CircuitState"]

R = TypeVar("R")

logger = logging.getLogger(__name__)

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 30.0
_MOST_DOUBLINGS = 10


class CircuitState(enum.Enum):
    """What is known of the way to a backend."""

    CLOSED = "closed"
    """The last exchange was answered."""

    OPEN = "open"
    """The backend is unavailable, and left alone for a while."""

    HALF_OPEN = "half-open"
    """The backend is being tried again."""


class Circuit:
    """The way to one backend, shared by everything that calls it.

    `state` says at any time whether the backend answers; its changes are logged, once each.

    Args:
        - name: the backend, as messages name it
        - limit: how many seconds an outage is waited out before a call fails
        - rng: source of the jitter, so that many clients do not come back in step
        - is_open: whether it serves any event loop from the start, or the one in `at_home` only
    """

    def __init__(self, name: str, limit: float, rng: random.Random | None = None, *, is_open: bool = True) -> None:
        self.name = name
        self.limit = limit
        self.state = CircuitState.CLOSED
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._opened_at = 0.0
        self._home: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None if is_open else 0

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """Serve this event loop of this process only, and after the block nobody."""
        self._home, self._pid = asyncio.get_running_loop(), os.getpid()
        try:
            yield
        finally:
            self._home, self._pid = None, 0

    def away(self) -> BackendUnavailable:
        """Return the error for whoever calls from where the backend cannot be used."""
        if self._pid and self._pid != os.getpid():
            return BackendUnavailable(
                f"{self.name} was opened by the process that this one was forked from: open it anew"
            )
        if self._home in (None, asyncio.get_running_loop()):
            return BackendUnavailable(f"{self.name} is not open: use it inside its 'async with'")
        return BackendUnavailable(f"{self.name} was opened in another event loop: open one in this loop")

    async def reach(self, attempt: Callable[[], Awaitable[R]], limit: float) -> R:
        """Call `attempt` as `call` does, and be done within the limit, also with a backend that is only silent.

        Args:
            - attempt: makes one exchange
            - limit: seconds for all attempts together; 0 makes one, however long it takes

        Raises:
            - BackendUnavailable: when they are over
        """
        why = BackendUnavailable("it does not answer")

        async def noted() -> R:
            nonlocal why
            try:
                return await attempt()
            except BackendUnavailable as error:
                why = error
                raise

        with anyio.move_on_after(limit or None):
            return await self.call(noted, limit)
        raise self._waited(limit, why)

    async def call(self, attempt: Callable[[], Awaitable[R]], limit: float | None = None) -> R:
        """Call `attempt` again and again while it finds the backend unavailable.

        Args:
            - attempt: makes one exchange; raises `BackendUnavailable` if it is worth another try
            - limit: seconds of patience, counted from the first failure; that of the circuit if None

        Raises:
            - BackendUnavailable: when the patience is at its end; at once from another event loop, and after the end
        """
        patience = self.limit if limit is None else limit
        give_up_at: float | None = None
        tries = 0
        while True:
            if self._pid is not None and self._home is not asyncio.get_running_loop():
                raise self.away()
            try:
                answer = await attempt()
            except BackendUnavailable as error:
                now = asyncio.get_running_loop().time()
                if give_up_at is None:
                    give_up_at = now + patience
                self._open(error, now)
                if now >= give_up_at:
                    raise self._waited(patience, error) from error
                delay = min(self._delay(tries, error.retry_after), give_up_at - now)
                tries += 1
            except BackendError:
                self._close()
                raise
            else:
                self._close()
                return answer
            await anyio.sleep(delay)
            if self.state is CircuitState.OPEN:  # else it has answered somebody else meanwhile
                self.state = CircuitState.HALF_OPEN

    def _waited(self, patience: float, error: BackendUnavailable) -> BackendUnavailable:
        message = f"{self.name} is unavailable, and was waited for {patience:g} s: {error}"
        return BackendUnavailable(message, error.retry_after)

    def _delay(self, tries: int, retry_after: float | None) -> float:
        longest = min(_FIRST_DELAY * 2 ** min(tries, _MOST_DOUBLINGS), _LONGEST_DELAY)
        if retry_after is not None:
            return retry_after + self._rng.uniform(0, longest)
        return self._rng.uniform(longest / 2, longest)

    def _open(self, error: BackendUnavailable, now: float) -> None:
        if self.state is CircuitState.CLOSED:
            self._opened_at = now
            logger.warning("%s is unavailable, waiting for it: %s", self.name, error)
        self.state = CircuitState.OPEN

    def _close(self) -> None:
        if self.state is not CircuitState.CLOSED:
            away = asyncio.get_running_loop().time() - self._opened_at
            logger.warning("%s answers again after %.1f s", self.name, away)
            self.state = CircuitState.CLOSED
