"""Group commit: whoever waits for an acknowledgement shares the request with everybody else who does.

One batch is in flight; what is put meanwhile makes the next one. There is no timer: a lone item travels at
once, and under load the batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Self, TypeVar

import anyio

from ..engine.errors import BackendError, BackendRejected, BackendUnavailable, DialectError
from ._circuit import Circuit

__all__ = ["Batcher", "RequestRejected"]

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


class RequestRejected(BackendRejected):
    """A request was refused as a whole, and nothing of it recorded, because something in it is malformed."""


class Batcher(Generic[T, R]):
    """Sends items in batches, one batch at a time, and hands every waiter the outcome of its own item.

    * Items are sent in the order they were put.
    * A batch whose answer was lost is sent again as it was, under the same idempotency key.
    * An item that is refused fails alone. A batch that is refused as a whole is halved until the bad item is
      found.
    * A waiter that is cancelled leaves its item behind: it is sent all the same.
    * After an outage longer than the circuit's limit, all that wait fail with `BackendUnavailable`.

    Use it as an async context manager. Leaving it sends what is still waiting, shielded from cancellation, for at
    most `grace` seconds.

    Args:
        - send: records a batch under an idempotency key, and returns one outcome for each item: its result, or the
          `BackendRejected` to raise for it. Raises `RequestRejected` to have the batch halved, `BackendUnavailable` to
          have it sent again, and anything else to fail all its items
        - circuit: waits out the outages
        - max_items: most items in a batch
        - max_bytes: most bytes in a batch, by the sizes given to `put`; a larger item travels alone
        - grace: seconds that leaving may take

    Example:
        ```python
        async with Batcher(send, Circuit("the server", limit=300)) as batcher:
            outcome = await batcher.put(item, len(item))
        ```
    """

    def __init__(
        self,
        send: Callable[[list[T], str], Awaitable[Sequence[R | BackendRejected]]],
        circuit: Circuit,
        *,
        max_items: int = 1_000,
        max_bytes: int = 4_000_000,
        grace: float = 5.0,
    ) -> None:
        self._send = send
        self._circuit = circuit
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._grace = grace
        self._queue: deque[tuple[T, int, asyncio.Future[R]]] = deque()
        self._flight: list[tuple[T, int, asyncio.Future[R]]] = []
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        state = self._circuit.state.value if self._loop is not None else "not open"
        return f"<Batcher {self._circuit.name}: {len(self._queue)} waiting, {len(self._flight)} in flight, {state}>"

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name=f"batcher of {self._circuit.name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None
        self._stop()
        try:
            with anyio.move_on_after(self._grace, shield=True):
                await asyncio.wait([self._task])
        finally:
            self._task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])

    async def put(self, item: T, size: int = 0) -> R:
        """Have an item sent with the next batch, and return its outcome.

        Args:
            - item: what to send
            - size: its length in bytes

        Raises:
            - BackendRejected: if the item was refused
            - BackendUnavailable: if it could not be sent, or if the batcher is not open
        """
        if self._loop is None:
            raise BackendUnavailable(f"{self._circuit.name} is not open")
        future: asyncio.Future[R] = self._loop.create_future()
        self._queue.append((item, size, future))
        if self._wake is not None:
            self._wake_up()
        return await future

    async def _run(self) -> None:
        try:
            while await self._something_waits():
                self._flight = self._take()
                await self._deliver(self._flight)
                self._flight = []
                # One turn of the loop: who was just answered puts what comes next, and shares the next batch.
                await asyncio.sleep(0)
        finally:
            self._stop()
            self._abandon()

    def _stop(self) -> None:
        self._loop = None
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        self._wake = None

    async def _something_waits(self) -> bool:
        while not self._queue:
            if self._loop is None:
                return False
            self._wake = self._loop.create_future()
            await self._wake
        return True

    def _take(self) -> list[tuple[T, int, asyncio.Future[R]]]:
        queue = self._queue
        batch = [queue.popleft()]
        size = batch[0][1]
        while queue and len(batch) < self._max_items and size + queue[0][1] <= self._max_bytes:
            batch.append(queue.popleft())
            size += batch[-1][1]
        return batch

    async def _deliver(self, batch: list[tuple[T, int, asyncio.Future[R]]]) -> None:
        items = [item for item, _, _ in batch]
        key = uuid.uuid4().hex
        try:
            outcomes = await self._circuit.call(lambda: self._send(items, key))
            if len(outcomes) != len(items):
                raise DialectError(f"{self._circuit.name} answered {len(outcomes)} outcomes to {len(items)} items")
        except RequestRejected as error:
            if len(batch) == 1:
                _fail(batch, error)
            else:
                middle = len(batch) // 2
                await self._deliver(batch[:middle])
                await self._deliver(batch[middle:])
        except BackendUnavailable as error:
            # The outage was already waited out once: what queued up meanwhile does not wait it out again.
            batch = [*batch, *self._queue]
            self._queue.clear()
            logger.error("gave up %d writes: %s", len(batch), error)
            _fail(batch, error)
        except Exception as error:
            _fail(batch, error)
        else:
            for (_, _, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, BackendRejected):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _abandon(self) -> None:
        left = [*self._flight, *self._queue]
        self._queue.clear()
        if left:
            error = BackendUnavailable(f"{self._circuit.name} was closed before {len(left)} writes were acknowledged")
            logger.error("%s", error)
            _fail(left, error)


def _fail(batch: list[tuple[T, int, asyncio.Future[R]]], error: Exception) -> None:
    """Raise an error of their own, with the common cause, in all that still wait for an item of the batch."""
    kind = type(error) if isinstance(error, BackendError) else BackendError
    for _, _, future in batch:
        if not future.done():
            own = kind(str(error))
            own.__cause__ = error
            future.set_exception(own)
