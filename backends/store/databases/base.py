"""One database: how it is opened, read and written, whichever it is.

Everything the store does to rows is an ordinary function over a SQLAlchemy `Connection`. A database runs
such a function in a transaction: in its one writer thread on SQLite, under the async driver on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import datetime
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from ....engine import lifecycle
from ....engine.errors import BackendError, BackendRejected, BackendUnavailable, FlowloopError
from ..records import Kind
from ..schema import metadata

__all__ = [
    "ANYTHING",
    "HEAD",
    "VERSION_TABLE",
    "Database",
    "RunRow",
    "SetUp",
    "StateRecord",
    "StateRow",
    "copied",
    "json_options",
    "prepare",
    "version_of",
    "waves",
]

R = TypeVar("R")

HEAD = "0012"
"""The newest migration: what a fresh database is made at, and what an old one must be upgraded to."""

ANYTHING = "*"
"""The message that anything may have been announced unheard."""

VERSION_TABLE = "flowloop_version"

json_options: dict[str, Any] = {
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
    "json_deserializer": msgspec.json.decode,
}
"""How both engines read and write JSON columns."""

SetUp = Callable[[Connection, str], None]

RunRow = tuple[Any, ...]
StateRow = tuple[Any, ...]
StateRecord = tuple[Any, ...]
"""A state to be written: id, tenant, run, version, timestamp, state, message, start time, document, client id."""


class Database(ABC):
    """A SQLite file or a PostgreSQL database.

    The methods from `lock_runs` on are the hot statements: they speak to the driver directly, inside the
    transaction of the `Connection` they are given.
    """

    name: str
    engine: AsyncEngine
    is_synced = True
    """Whether an acknowledged write survives a loss of power."""

    def __init__(self, shown: str) -> None:
        self.shown = shown

    @abstractmethod
    async def open(self, set_up: SetUp) -> None:
        """Connect, and run `set_up` in the first transaction: it makes the tables, or refuses what it finds.

        Raises:
            - FlowloopError: if the database cannot be used
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what has begun, and close every connection."""

    @abstractmethod
    async def _write(self, work: Callable[[Connection], R]) -> R:
        """Run `work` in a transaction of its own."""

    async def write(self, work: Callable[[Connection], R]) -> R:
        """Run `work` in a transaction of its own.

        A caller that is cancelled leaves a transaction that is either recorded whole or not at all.

        Raises:
            - BackendRejected: if a constraint forbids it
            - BackendUnavailable: if the database cannot be reached, or was busy for too long
        """
        with self._translating():
            return await self._write(work)

    async def read(self, work: Callable[[Connection], R]) -> R:
        """Run `work`, which only reads."""
        with self._translating():
            async with self.engine.connect() as connection:
                return await connection.run_sync(work)

    @abstractmethod
    def announce(self, connection: Connection, message: str) -> None:
        """Have a message told to all who `listen` in other processes, once the transaction is committed."""

    @abstractmethod
    def listen(self, heard: Callable[[str], None]) -> AbstractAsyncContextManager[bool]:
        """Hear what is announced, in this process or in others.

        Args:
            - heard: called in the event loop with each message; it must be quick and must not raise

        Returns:
            - AbstractAsyncContextManager: entering it tells whether this database can be listened to from here
        """

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            translated = self.translate(error)
            if translated is error:
                raise
            raise translated from error

    def translate(self, error: Exception) -> Exception:
        """Say what happened as one of flowloop's errors; an error that is none of the database's stays."""
        if isinstance(error, BackendError):
            return error
        if isinstance(error, PoolTimeout | OSError | asyncio.TimeoutError):
            return BackendUnavailable(f"the database {self.shown} does not answer: {error}")
        cause = error.orig if isinstance(error, StatementError) and isinstance(error.orig, Exception) else error
        # What is no error of the driver was raised before the driver was asked: by the conversion of a value.
        converted = isinstance(error, StatementError) and not isinstance(error, DBAPIError)
        kind = "value" if converted else self.classify(cause)
        if kind == "rejected":
            message = "Foreign key violation." if "foreign key" in str(cause).lower() else "Uniqueness violation."
            return BackendRejected(message)
        if kind == "value":
            return BackendRejected(f"a value cannot be stored: {cause}")
        if kind == "unavailable":
            return BackendUnavailable(f"the database {self.shown} does not answer: {cause}")
        if kind == "refused" or isinstance(error, DBAPIError):
            return BackendRejected(f"the database {self.shown} refuses: {cause}")
        if isinstance(error, SQLAlchemyError):  # what became of a connection that was lost
            return BackendUnavailable(f"the database {self.shown} does not answer: {error}")
        return error

    @abstractmethod
    def classify(self, error: BaseException) -> str:
        """Say what an error of the driver means: ``rejected``, ``value``, ``unavailable`` or ``refused``; of any other
        error nothing.
        """

    # -- the hot statements ----------------------------------------------------------------------------

    @abstractmethod
    def clock(self, connection: Connection) -> datetime.datetime:
        """Return the time by the clock that all processes which use this database share."""

    @abstractmethod
    def moment(self, value: datetime.datetime) -> Any:
        """Return a moment, aware and in UTC, as the rows of the hot statements hold it."""

    @abstractmethod
    def lock_runs(
        self, connection: Connection, kind: Kind, ids: Sequence[str]
    ) -> tuple[list[RunRow], list[tuple[Any, ...]]]:
        """Lock the runs with these ids against other writers, and return what the rules need of them.

        Flow runs are locked before their task runs, everywhere, so that nobody waits in a circle.

        Returns:
            - tuple: of task runs: id, version, state, tenant, cached_inputs, flow_run_id; of flow runs: id, version,
              state, tenant, submitted, flow_id, epoch, owner, lease_expires, lease_seconds. And of the flow runs of
              task runs: flow_run_id, state, whether versions are locked, whether the tenant has limits for task runs,
              epoch, owner, lease_expires, lease_seconds; of the flows of flow runs: `flow_facts`. Flow runs are kept
              from being changed until the end of the transaction: nobody claims one of them meanwhile.
        """

    @abstractmethod
    def flow_facts(self, connection: Connection, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return what the rules need of flows.

        Returns:
            - list: flow_id, None, whether versions are locked, whether the tenant has limits for flow runs
        """

    @abstractmethod
    def recorded_states(self, connection: Connection, kind: Kind, keys: Sequence[tuple[str, int]]) -> list[StateRow]:
        """Return run id, version, state, document and client id of the states with these run ids and versions."""

    @abstractmethod
    def append_states(self, connection: Connection, kind: Kind, rows: Sequence[StateRecord]) -> None:
        """Insert states, and copy each to its run."""

    @abstractmethod
    def insert_rows(
        self, connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Insert rows into any table.

        Args:
            - table: its name
            - columns: the names of the columns that are given
            - rows: their values, as the driver takes them: documents as text, moments as `moment` returns them
        """

    @abstractmethod
    def flows_to_run(self, connection: Connection, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return what a flow run takes over from its flow.

        Returns:
            - of each flow: id, tenant, whether it is archived, its group, id and name of its project, then, as JSON
              text, its parameters, run config and environment, and the default parameters, labels and run config of its
              group
        """

    @abstractmethod
    def tasks_to_run(self, connection: Connection, flow_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return the tasks of flows, in the order of their ids: flow, id, cache key, slug."""

    @abstractmethod
    def insert_flow_runs(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Collection[str]:
        """Insert flow runs without a state, except those whose flow has one with the same idempotency key.

        Args:
            - rows: of each: tenant, moment, flow, name, parameters, context, labels and run config as JSON text,
              scheduled start time, idempotency key, owner, epoch, length and end of the lease, id

        Returns:
            - Collection: the ids of those that were inserted
        """

    @abstractmethod
    def flow_runs_by_key(self, connection: Connection, keys: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
        """Return flow, key and id of the flow runs with these flows and idempotency keys."""

    @abstractmethod
    def insert_task_runs(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Collection[str]:
        """Insert Pending task runs with their state rows, except those whose place is taken.

        Args:
            - rows: of each: tenant, moment, flow run, task, map index, cache key, document, id of the state, id

        Returns:
            - Collection: the ids of those that were inserted
        """


def copied(kind: Kind, least: str, greatest: str) -> str:
    """Return what a state row `new` sets in its run, for an UPDATE of `kind`.

    Args:
        - kind: whose state it is
        - least: the function that returns the smaller of two values
        - greatest: the function that returns the greater
    """
    sets = f"""
        version = new.version, state = new.state, state_message = new.message, state_timestamp = new.timestamp,
        state_start_time = new.start_time, serialized_state = new.serialized_state, updated = new.timestamp,
        start_time = CASE WHEN new.state = 'Running'
            THEN coalesce({least}({kind}.start_time, new.timestamp), new.timestamp) ELSE {kind}.start_time END,
        end_time = CASE WHEN new.state IN ({_names(lifecycle.ENDED)})
            THEN coalesce({greatest}({kind}.end_time, new.timestamp), new.timestamp) ELSE {kind}.end_time END,
        heartbeat = CASE WHEN new.state IN ({_names(lifecycle.ALIVE[kind])})
            THEN new.timestamp ELSE {kind}.heartbeat END"""
    if kind == "flow_run":
        return sets
    attention = f"CASE WHEN new.state IN ({_names(lifecycle.ATTENTION)})"
    return f"""{sets},
        cached_at = CASE WHEN new.state = 'Cached' THEN new.timestamp END,
        attention = {attention} THEN new.state END, attention_at = {attention} THEN new.timestamp END"""


def _names(states: Iterable[str]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


def waves(rows: Sequence[StateRecord]) -> list[Sequence[StateRecord]]:
    """Split states so that no run is twice in one part, in order."""
    if len({row[2] for row in rows}) == len(rows):
        return [rows]
    parts: list[list[StateRecord]] = []
    seen: dict[str, int] = {}
    for row in rows:
        part = seen[row[2]] = seen.get(row[2], -1) + 1
        if part == len(parts):
            parts.append([])
        parts[part].append(row)
    return list(parts)


def version_of(connection: Connection) -> str | None:
    """Return the version of the tables of a database: empty if unknown, None if there are none of ours."""
    if VERSION_TABLE not in inspect(connection).get_table_names():
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() or ""


def prepare(connection: Connection, shown: str) -> None:
    """Make the tables of a fresh database, or check that those that are there are ours and new enough.

    Raises:
        - FlowloopError: if they are not
    """
    version = version_of(connection)
    if version is None:
        if set(inspect(connection).get_table_names()) & set(metadata.tables):
            raise FlowloopError(
                f"the database {shown} holds tables that are not flowloop's: give it a database of its own"
            )
        metadata.create_all(connection)
        connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:head)"), {"head": HEAD})
    else:
        check_version(connection, shown)


def check_version(connection: Connection, shown: str) -> None:
    """Check that the tables of a database are ours, and of this version.

    Raises:
        - FlowloopError: if they are not
    """
    version = version_of(connection)
    if version is None:
        raise FlowloopError(f"the database {shown} has no tables of flowloop yet")
    if version > HEAD:
        raise FlowloopError(
            f"the database {shown} was written by a newer flowloop: its version is {version}, this one knows {HEAD}. "
            "Install that flowloop."
        )
    if version < HEAD:
        raise FlowloopError(
            f"the database {shown} is of an older version ({version or 'unknown'}, this flowloop needs {HEAD}): "
            f"run `flowloop db upgrade --db {shown}` once"
        )
