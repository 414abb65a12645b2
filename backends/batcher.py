"""Group commit: whoever waits for an acknowledgement shares the request with everybody else who does.

While a batch is in flight, what is put makes the next one. There is no timer: a lone item travels at once, and
under load the batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, Self, TypeAlias, TypeVar

import anyio

from ..engine.errors import BackendError, BackendRejected, BackendUnavailable, DialectError, UpstreamRefused
from ._answered import Answer, Answered
from ._circuit import Circuit

__all__ = ["Batcher", "RequestRejected"]

T = TypeVar("T")
R = TypeVar("R")

_WORTH_A_FLIGHT = 50
"""As many items cost about as much as a request by itself: so many may take off beside another batch."""

_TURNS_FOR_COMPANY = 2
"""Turns of the loop before a batch takes off: who was just answered puts what comes next, and what follows from an item
is put behind it.
"""

_AMONG_OTHERS = 200
"""Items of a batch, at most, while several lanes are busy: the few of a small run do not wait until the many of a large
one are recorded.
"""

_OF_EACH = 4
"""Items for each of many lanes, for which a batch has room all the same: as many as a small run puts at once."""

_ALONE = 3
"""After as many batches of a single lane in a row it is taken to be alone."""

logger = logging.getLogger(__name__)


_Entry: TypeAlias = tuple[T, int, Hashable, Answer[R], Sequence[asyncio.Future[R]]]


class RequestRejected(BackendRejected):
    """A request was refused as a whole, and nothing of it recorded: something is malformed, or there is too much."""


class Batcher(Generic[T, R]):
    """Sends items in batches, and hands every waiter the outcome of its own item.

    * Items of one lane are sent in the order they were put, and the lanes take turns: what a large flow run has waiting
      holds up no small one. Where several batches may be in flight, the order is promised to items with the same key:
      an item waits while another one with its key is in flight.
    * A second batch takes off beside the first only if it is large: a small one is better off waiting for company.
    * A batch whose answer was lost is sent again as it was, under the same idempotency key.
    * An item that is refused fails alone, but for those that rest on it. A batch that is refused as a whole is halved
      until the bad item is found.
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
        - max_flights: most batches in flight: with two, one is made and read while the other is being recorded
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
        max_flights: int = 1,
        grace: float = 5.0,
    ) -> None:
        self._send = send
        self._circuit = circuit
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_flights = max_flights
        self._grace = grace
        self._lanes: dict[Hashable, deque[_Entry[T, R]]] = {}
        self._turns: deque[Hashable] = deque()
        """The lanes in the order of their next turns."""
        self._waiting = 0
        self._weight = 0
        """The bytes of all that waits."""
        self._alone = _ALONE
        """How many batches in a row were taken while all that waited was of one lane."""
        self._flights: dict[int, list[_Entry[T, R]]] = {}
        self._keys: set[Hashable] = set()  # of what is in flight
        self._wake: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._answered = Answered()

    def __repr__(self) -> str:
        state = self._circuit.state.value if self._loop is not None else "not open"
        flying = self.backlog - self._waiting
        return f"<Batcher {self._circuit.name}: {self._waiting} waiting, {flying} in flight, {state}>"

    @property
    def backlog(self) -> int:
        """How many items wait for their outcome."""
        return self._waiting + sum(len(batch) for batch in self._flights.values())

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        name = f"batcher of {self._circuit.name}"
        self._tasks = [self._loop.create_task(self._run(lane), name=name) for lane in range(self._max_flights)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stop()
        try:
            with anyio.move_on_after(self._grace, shield=True):
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait(self._tasks)

    def put(
        self,
        item: T,
        size: int = 0,
        key: Hashable = None,
        lane: Hashable = None,
        rests_on: Sequence[asyncio.Future[R]] = (),
    ) -> asyncio.Future[R]:
        """Have an item sent with the next batch.

        Args:
            - item: what to send
            - size: its length in bytes
            - key: what it is about: items with one key are recorded in the order they were put; all are of one lane
            - lane: whose it is: lanes take turns
            - rests_on: outcomes of items of the same lane, put before, without which this one makes no sense. It is
              sent with them or after them; what is refused in the same batch, `send` has to see to.

        Returns:
            - Future: the outcome of the item, or a `BackendRejected` if it was refused, or a `BackendUnavailable` if it
              could not be sent, or an `UpstreamRefused` if one that it rests on was not recorded

        Raises:
            - BackendUnavailable: if the batcher is not open, or not in this event loop
        """
        if self._loop is not asyncio.get_running_loop():
            raise self._circuit.away()
        future: Answer[R] = Answer(loop=self._loop)
        future.waiters = ()
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = deque()
            self._turns.append(lane)
        queue.append((item, size, key, future, rests_on))
        self._waiting += 1
        self._weight += size
        if self._wake is not None and self._may_take_off():
            self._wake_up()
        return future

    async def _run(self, lane: int) -> None:
        """Send one batch after the other; there are as many lanes as batches may be in flight."""
        try:
            while batch := await self._next():
                keys = {entry[2] for entry in batch}
                self._flights[lane] = batch
                self._keys |= keys
                await self._deliver(batch)
                del self._flights[lane]
                self._keys -= keys
        except asyncio.CancelledError:
            self._stop()
            self._abandon()
            raise

    def _stop(self) -> None:
        self._loop = None
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        self._wake = None

    def _may_take_off(self) -> bool:
        return self._waiting >= (_WORTH_A_FLIGHT if self._flights else 1)

    async def _next(self) -> list[_Entry[T, R]]:
        """Wait for the next batch, and return it; or return none at the end, when what waits is left to others."""
        while True:
            if self._may_take_off():
                turns = 0
                while turns < _TURNS_FOR_COMPANY or self._answered:
                    await asyncio.sleep(0)
                    turns += 1
                if batch := self._take():
                    return batch
            if self._loop is None:
                return []
            if self._wake is None:
                self._wake = self._loop.create_future()
            await self._wake

    def _take(self) -> list[_Entry[T, R]]:
        room, most = self._max_bytes, min(self._max_items, self._share())
        is_beside = bool(self._flights)  # else nothing is ahead of what is first in its lane
        self._alone = 0 if len(self._turns) > 1 else self._alone + 1
        if self._alone < _ALONE:
            most = min(most, max(_AMONG_OTHERS, _OF_EACH * len(self._turns)))
        if self._waiting <= most and self._weight <= room and not is_beside:
            return self._take_all()
        batch: list[_Entry[T, R]] = []
        taken: set[asyncio.Future[R]] = set()
        held: dict[Hashable, list[_Entry[T, R]]] = {}
        while self._turns and len(batch) < most:
            lane = self._turns.popleft()
            queue = self._lanes[lane]
            turn_ends = len(batch) + 1 if self._turns else most
            while queue and len(batch) < turn_ends:
                entry = queue[0]
                size = entry[1]
                if is_beside and (entry[2] in self._keys or (entry[4] and _is_ahead(entry, taken))):
                    held.setdefault(lane, []).append(queue.popleft())
                elif size > room and batch:
                    most = 0  # what is left of this turn comes first in the next batch
                    break
                else:
                    batch.append(queue.popleft())
                    room -= size
                    if is_beside:
                        taken.add(entry[3])
            if queue:
                (self._turns.append if most else self._turns.appendleft)(lane)
            elif lane not in held:
                del self._lanes[lane]
        for lane, entries in held.items():
            if not self._lanes[lane]:
                self._turns.appendleft(lane)
            self._lanes[lane].extendleft(reversed(entries))
        self._waiting -= len(batch)
        self._weight -= self._max_bytes - room
        return batch

    def _take_all(self) -> list[_Entry[T, R]]:
        left = list(itertools.chain.from_iterable(self._lanes.values()))
        self._lanes.clear()
        self._turns.clear()
        self._waiting = self._weight = 0
        return left

    def _share(self) -> int:
        """Return how many items a batch takes so that each that may take off gets as many."""
        waiting = self._waiting
        batches = min(self._max_flights - len(self._flights), waiting // _WORTH_A_FLIGHT)
        return -(-waiting // max(1, batches))

    async def _deliver(self, batch: list[_Entry[T, R]]) -> None:
        await self._settle(batch)
        self._answered.resume([entry[3] for entry in batch])

    async def _settle(self, batch: list[_Entry[T, R]]) -> None:
        batch = [entry for entry in batch if not (entry[4] and _falls_with_another(entry))]
        if not batch:
            return
        items = [entry[0] for entry in batch]
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
            left = [*batch, *self._take_all()]
            logger.error("gave up %d writes: %s", len(left), error)
            _fail(left, error)
            self._answered.resume([entry[3] for entry in left])
        except Exception as error:
            _fail(batch, error)
        else:
            for entry, outcome in zip(batch, outcomes, strict=True):
                future = entry[3]
                if future.done():
                    continue
                if not isinstance(outcome, BackendRejected):
                    future.set_result(outcome)
                elif not (entry[4] and _falls_with_another(entry)):
                    future.set_exception(outcome)

    def _abandon(self) -> None:
        left = [*itertools.chain(*self._flights.values()), *self._take_all()]
        if left:
            error = BackendUnavailable(f"{self._circuit.name} was closed before {len(left)} writes were acknowledged")
            logger.error("%s", error)
            _fail(left, error)
            self._answered.resume([entry[3] for entry in left])


def _is_ahead(entry: _Entry[T, R], taken: set[asyncio.Future[R]]) -> bool:
    """Whether something that an entry rests on is in another batch, which has yet to be answered."""
    return any(not one.done() and one not in taken for one in entry[4])


def _falls_with_another(entry: _Entry[T, R]) -> bool:
    """Fail an entry of which something that it rests on was not recorded, and return whether that is so."""
    for one in entry[4]:
        if one.done() and (one.cancelled() or one.exception() is not None):
            if not entry[3].done():
                entry[3].set_exception(UpstreamRefused("a state that this one rests on was not recorded"))
            return True
    return False


def _fail(batch: list[_Entry[T, R]], error: Exception) -> None:
    """Raise an error of their own, with the common cause, in all that still wait for an item of the batch."""
    kind = type(error) if isinstance(error, BackendError) else BackendError
    is_away = isinstance(error, BackendUnavailable)
    for entry in batch:
        if not entry[3].done() and (is_away or not (entry[4] and _falls_with_another(entry))):
            own = kind(str(error))
            own.__cause__ = error
            entry[3].set_exception(own)
