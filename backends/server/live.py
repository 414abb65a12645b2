"""What is happening now: state changes, as they are committed, to whoever watches.

Changes that this process commits arrive at once. Those of other processes are found by asking the database: as soon as
they are heard, where the database tells of them, and now and then. Both meet in a feed, which hands them on in order,
each once: the versions of a run leave no room for doubt. The state of a flow run is told again when its limits change.
A watcher that cannot keep up is told of the newest state of each run only; nothing ever waits for it.
"""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import msgspec
import sqlalchemy as sa
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from graphql import GraphQLField
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.errors import BackendError, BackendRejected
from ..store import StateChange, Store
from ..store.records import Kind
from ..store.schema import metadata
from .changes import UNHEARD, Changes
from .database import reading
from .errors import ShuttingDown, field_error
from .execution import Variables
from .metrics import Metrics
from .operation_cache import Operation
from .projection import project
from .request import Call
from .settings import ServerSettings

__all__ = ["Live"]

logger = logging.getLogger("flowloop.server")

_RUNS_KEPT = 20_000
_OVERLAP = datetime.timedelta(seconds=30)  # how far the clocks of two processes may be apart
_FOUND_AT_ONCE = 1_000
_KEEP_ALIVE = 15.0

Kinds = tuple[str, ...]
_KINDS: dict[str, Kinds] = {
    "flow_run_states": ("flow_run",),
    "task_run_states": ("task_run",),
    "run_states": ("flow_run", "task_run"),
}


class _Watcher:
    """One subscription: the changes it has not been told of yet.

    Whoever is slow is told less: once more changes wait than `size`, only the newest of each run is kept.
    """

    def __init__(self, kinds: Kinds, tenants: Sequence[str] | None, size: int) -> None:
        self.kinds = kinds
        self._tenants = tenants
        self._size = size
        self._room = size
        self._waiting: deque[StateChange] = deque()
        self._woken = anyio.Event()
        self._ended = False

    def offer(self, change: StateChange) -> None:
        """Have a change wait, if it is wanted."""
        if change.kind not in self.kinds or (self._tenants is not None and change.tenant_id not in self._tenants):
            return
        self._waiting.append(change)
        if len(self._waiting) > self._room:
            newest = {each.run_id: each for each in self._waiting}
            self._waiting = deque(each for each in self._waiting if newest[each.run_id] is each)
            self._room = max(self._size, 2 * len(self._waiting))
        self._woken.set()

    def end(self) -> None:
        """Have no more changes come, because the server is stopping."""
        self._ended = True
        self._waiting.clear()
        self._woken.set()

    async def next(self) -> StateChange | None:
        """Return the next change, or None if there was none for a while.

        Raises:
            - ShuttingDown: if the server is stopping
        """
        if not self._waiting and not self._ended:
            self._woken = anyio.Event()
            with anyio.move_on_after(_KEEP_ALIVE):
                await self._woken.wait()
        if self._ended:
            raise ShuttingDown("The server is stopping: subscribe again.")
        if not self._waiting:
            return None
        change = self._waiting.popleft()
        if not self._waiting:
            self._room = self._size
        return change


class _Feed:
    """The changes of one flow run and its task runs, or of all flow runs (`flow_run_id` None)."""

    def __init__(self, flow_run_id: str | None) -> None:
        self.flow_run_id = flow_run_id
        self.watchers: set[_Watcher] = set()
        self.due = -math.inf
        """When it is to be looked for what the feed was not told of, by the time of the event loop."""
        self.asked: datetime.datetime | None = None
        self.limits: Any = None
        self._versions: OrderedDict[str, int] = OrderedDict()

    def look(self) -> None:
        """Have it looked at once for what the feed was not told of."""
        self.due = -math.inf

    @property
    def has_all_told(self) -> bool:
        """Whether other processes tell of all that is watched: they do of flow runs."""
        return all(watcher.kinds == ("flow_run",) for watcher in self.watchers)

    def version(self, run_id: str) -> int | None:
        """Return the version of the last change of a run that was handed on."""
        return self._versions.get(run_id)

    def start(self, run_id: str, version: int) -> None:
        """Note the version that a run has before anything is handed on."""
        self._versions.setdefault(run_id, version)

    def offer(self, change: StateChange, *, complete: bool = False) -> None:
        """Hand a change on, unless it was before, or one before it is still missing.

        Args:
            - change: what happened
            - complete: whether nothing before it can be missing
        """
        if change.again:
            self._hand_on(change)
            return
        known = self._versions.get(change.run_id)
        if known is not None and change.version <= known:
            return
        if known is not None and change.version > known + 1 and not complete:
            self.look()
            return
        self._versions[change.run_id] = change.version
        self._versions.move_to_end(change.run_id)
        if len(self._versions) > _RUNS_KEPT:
            self._versions.popitem(last=False)
        self._hand_on(change)

    def _hand_on(self, change: StateChange) -> None:
        for watcher in tuple(self.watchers):
            watcher.offer(change)


class Live:
    """Hands state changes to subscriptions.

    Args:
        - store: whose changes
        - fields: the subscriptions of the schema
        - settings: `queue_size`, `subscriber_limit` and `poll_seconds`
        - metrics: where the number of subscriptions is shown
    """

    def __init__(
        self, store: Store, fields: Mapping[str, GraphQLField], settings: ServerSettings, metrics: Metrics
    ) -> None:
        self._store = store
        self._fields = fields
        self._settings = settings
        self._feeds: dict[str | None, _Feed] = {}
        self._wake = anyio.Event()
        self._unwatch: Callable[[], None] | None = None
        self._told: set[anyio.Event] = set()
        self._feed_changes = Changes(store, settings.poll_seconds)
        self._reading = 0
        self._is_over = False
        metrics.gauge("subscriptions", self._count)

    def _count(self) -> int:
        return self._reading + sum(len(feed.watchers) for feed in self._feeds.values())

    def publish(self, changes: Sequence[StateChange]) -> None:
        """Take in changes that this process has committed."""
        for change in changes:
            feed = self._feeds.get(change.flow_run_id)
            if feed is not None:
                feed.offer(change)
            everything = self._feeds.get(None)
            if everything is not None and change.kind == "flow_run":
                everything.offer(change)
        if any(feed.due < 0 for feed in self._feeds.values()):
            self._wake.set()

    async def run(self, *, task_status: TaskStatus[bool] = TASK_STATUS_IGNORED) -> None:
        """Look for the changes of other processes while there are subscriptions, until cancelled.

        It is started once it listens, with whether other processes can be heard.
        """
        async with self._store.listen(self._hear) as hears:
            self._feed_changes.hears = hears
            task_status.started(hears)
            await self._look_now_and_then()

    def _hear(self, flow_run_ids: Collection[str]) -> None:
        """Take note that another process gave these flow runs a state, or it may be any of them."""
        self._feed_changes.wake(flow_run_ids)
        for flow_run_id, feed in self._feeds.items():
            if flow_run_id is None or not flow_run_ids or flow_run_id in flow_run_ids:
                feed.look()
                self._wake.set()

    async def _look_now_and_then(self) -> None:
        while True:
            due = min((feed.due for feed in self._feeds.values()), default=math.inf)
            with anyio.move_on_after(due - anyio.current_time()):
                await self._wake.wait()
            self._wake = anyio.Event()
            try:
                await self._look()
            except Exception as error:
                known = isinstance(error, BackendError)
                logger.warning("changes of other processes could not be read: %s", error, exc_info=not known)
                for feed in self._feeds.values():
                    feed.look()
                await anyio.sleep(self._settings.poll_seconds)

    def end(self) -> None:
        """End every subscription, those that only begin, too, because the server is about to stop."""
        self._is_over = True
        self._feed_changes.close()
        for feed in self._feeds.values():
            for watcher in feed.watchers:
                watcher.end()

    async def close(self) -> None:
        """End every subscription, and give them a second to say so."""
        self.end()
        with anyio.move_on_after(1):
            while self._told:
                await next(iter(self._told)).wait()

    # -- subscriptions -------------------------------------------------------------------------------------

    async def subscribe(
        self, operation: Operation, variables: Variables, call: Call
    ) -> AsyncGenerator[dict[str, Any] | None]:
        """Yield the answers of a subscription, one for each change; None keeps a quiet connection alive.

        Raises:
            - ShuttingDown: if the server is stopping
        """
        over = anyio.Event()
        self._told.add(over)
        try:
            async with aclosing(self._answers(operation, variables, call)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            self._told.discard(over)
            over.set()

    async def _answers(
        self, operation: Operation, variables: Variables, call: Call
    ) -> AsyncGenerator[dict[str, Any] | None]:
        for field in operation.fields(variables.raw):
            try:
                call.authorize("subscription")
                if field.name == "__typename":
                    yield {"data": {field.key: field.owner}}
                    continue
                given = variables.arguments(self._fields[field.name], field)
                async with aclosing(self._documents(field.name, given, call)) as documents:
                    async for document in documents:
                        shown = None if document is None else project(document, field.fields)
                        yield None if shown is None else {"data": {field.key: shown}}
            except ShuttingDown:
                raise
            except Exception as error:
                yield {"errors": [field_error(error, field.node, field.key)], "data": {field.key: None}}

    async def _documents(
        self, name: str, given: Mapping[str, Any], call: Call
    ) -> AsyncGenerator[dict[str, Any] | None]:
        if self._count() >= self._settings.subscriber_limit:
            raise BackendRejected("There are too many subscriptions: try again later.")
        if name in _KINDS:
            async with aclosing(self._changes(_KINDS[name], given.get("flow_run_id"), call)) as changes:
                async for change in changes:
                    yield None if change is None else _document(change)
            return
        self._reading += 1
        unwatch = self._store.watch(self._feed_changes.publish)
        try:
            async with aclosing(self._feed_changes.feeds[name](call, given)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            self._reading -= 1
            unwatch()

    async def _changes(self, kinds: Kinds, flow_run_id: str | None, call: Call) -> AsyncGenerator[StateChange | None]:
        tenants = None if call.caller.tenant_id is None else [call.caller.tenant_id]
        feed = await self._feed(flow_run_id)
        watcher = _Watcher(kinds, tenants, self._settings.queue_size)
        feed.watchers.add(watcher)
        if self._is_over:
            watcher.end()
        if self._unwatch is None:
            self._unwatch = self._store.watch(self.publish)
        feed.look()
        self._wake.set()
        try:
            current = None if flow_run_id is None else await self._current(flow_run_id, tenants)
            if current is not None and "flow_run" in kinds:
                yield current
            while True:
                change = await watcher.next()
                if change is None or current is None or not _is_in(change, current):
                    yield change
        finally:
            feed.watchers.discard(watcher)
            if not feed.watchers and self._feeds.get(flow_run_id) is feed:
                del self._feeds[flow_run_id]
            if not self._feeds and self._unwatch is not None:
                self._unwatch()
                self._unwatch = None

    async def _feed(self, flow_run_id: str | None) -> _Feed:
        """Return the feed of a flow run, or of all; a new one knows which versions the runs have before it begins."""
        known = self._feeds.get(flow_run_id)
        if known is not None:
            return known
        feed = _Feed(flow_run_id)
        async with reading(self._store) as connection:
            if flow_run_id is None:
                for change in await self._newest(connection):
                    feed.start(change.run_id, change.version)
            else:
                feed.limits = await _limits(connection, flow_run_id)
                for kind in ("flow_run", "task_run"):
                    run = metadata.tables[kind].c
                    mine = run.id if kind == "flow_run" else run.flow_run_id
                    versions = sa.select(run.id, run.version).where(mine == flow_run_id).limit(_RUNS_KEPT)
                    for run_id, version in await connection.execute(versions):
                        feed.start(run_id, version)
        return self._feeds.setdefault(flow_run_id, feed)

    async def _current(self, flow_run_id: str, tenants: Sequence[str] | None) -> StateChange:
        run = metadata.tables["flow_run"].c
        wanted = sa.select(
            run.id.label("run_id"),
            run.id.label("flow_run_id"),
            run.tenant_id,
            run.version,
            run.state,
            run.state_message.label("message"),
            run.state_timestamp.label("timestamp"),
            run.serialized_state,
        ).where(run.id == flow_run_id)
        async with reading(self._store) as connection:
            row = (await connection.execute(wanted)).first()
        if row is None or (tenants is not None and row.tenant_id not in tenants):
            raise BackendRejected(f"Flow run {flow_run_id} not found")
        return _change("flow_run", row)

    # -- changes of other processes ------------------------------------------------------------------------

    async def _look(self) -> None:
        now = anyio.current_time()
        feeds = [feed for feed in self._feeds.values() if feed.watchers and feed.due <= now]
        if not feeds:
            return
        async with reading(self._store) as connection:
            for feed in feeds:
                is_told = self._feed_changes.hears and feed.has_all_told
                feed.due = now + (UNHEARD if is_told else self._settings.poll_seconds)
                if feed.flow_run_id is not None:
                    await self._look_at(connection, feed, feed.flow_run_id)
                    continue
                for change in reversed(await self._newest(connection)):
                    feed.offer(change, complete=True)

    async def _newest(self, connection: AsyncConnection) -> list[StateChange]:
        """Return the states of flow runs of the last moments, newest first."""
        # Ids begin with the time they were made, so the newest states are at the end of the index.
        milliseconds = time.time_ns() // 1_000_000 - int(_OVERLAP.total_seconds() * 1_000)
        oldest = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-000000000000"
        state = metadata.tables["flow_run_state"].c
        newest = _states("flow_run").where(state.id > oldest).order_by(state.id.desc()).limit(_FOUND_AT_ONCE)
        return await _read(connection, "flow_run", newest)

    async def _look_at(self, connection: AsyncConnection, feed: _Feed, flow_run_id: str) -> None:
        since, feed.asked = feed.asked, self._store.clock.now() - _OVERLAP
        state = metadata.tables["flow_run_state"].c
        known = feed.version(flow_run_id) or 0
        new = _states("flow_run").where(state.flow_run_id == flow_run_id, state.version > known)
        for change in await _read(connection, "flow_run", new.order_by(state.version)):
            feed.offer(change, complete=True)
        limits = await _limits(connection, flow_run_id)
        if limits != feed.limits:
            feed.limits = limits
            newest = _states("flow_run").where(state.flow_run_id == flow_run_id).order_by(state.version.desc()).limit(1)
            for change in await _read(connection, "flow_run", newest):
                feed.offer(msgspec.structs.replace(change, again=True))

        run, state = metadata.tables["task_run"].c, metadata.tables["task_run_state"].c
        moved = sa.select(run.id, run.version).where(run.flow_run_id == flow_run_id)
        if since is not None:
            moved = moved.where(run.updated >= since)
        changed: list[str] = []
        for run_id, version in await connection.execute(moved):
            if since is None:
                feed.start(run_id, version)
            if (feed.version(run_id) or 0) < version:
                changed.append(run_id)
        for start in range(0, len(changed), _FOUND_AT_ONCE):
            some = changed[start : start + _FOUND_AT_ONCE]
            new = _states("task_run").where(state.task_run_id.in_(some)).order_by(state.task_run_id, state.version)
            for change in await _read(connection, "task_run", new):
                feed.offer(change, complete=True)


def _is_in(change: StateChange, current: StateChange) -> bool:
    """Whether a change came while the current state was read, which tells it."""
    return not change.again and change.run_id == current.run_id and change.version <= current.version


def _states(kind: str) -> Any:
    state, run = metadata.tables[f"{kind}_state"], metadata.tables[kind]
    run_id = state.c[f"{kind}_id"]
    flow_run_id = run.c.id if kind == "flow_run" else run.c.flow_run_id
    return sa.select(
        run_id.label("run_id"),
        flow_run_id.label("flow_run_id"),
        run.c.tenant_id,
        state.c.version,
        state.c.state,
        state.c.message,
        state.c.timestamp,
        state.c.serialized_state,
    ).join_from(state, run, run_id == run.c.id)


async def _limits(connection: AsyncConnection, flow_run_id: str) -> Any:
    run = metadata.tables["flow_run"].c
    return (await connection.execute(sa.select(run.limits).where(run.id == flow_run_id))).scalar()


async def _read(connection: AsyncConnection, kind: Kind, statement: sa.Executable) -> list[StateChange]:
    return [_change(kind, row) for row in await connection.execute(statement)]


def _change(kind: Kind, row: Any) -> StateChange:
    document = bytes(row.serialized_state).decode() if row.serialized_state is not None else "null"
    facts = (row.run_id, row.flow_run_id, row.tenant_id, row.version, row.state, row.message, row.timestamp)
    return StateChange(kind, *facts, document)


def _document(change: StateChange) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "id": change.run_id,
        "flow_run_id": change.flow_run_id,
        "tenant_id": change.tenant_id,
        "version": change.version,
        "state": change.state,
        "message": change.message,
        "timestamp": change.timestamp,
        "serialized_state": msgspec.Raw(change.serialized_state.encode()),
    }
