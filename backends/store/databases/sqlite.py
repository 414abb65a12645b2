"""The store on SQLite: one writer thread with its own connection, and a pool of connections that only read.

The file is in WAL mode, so readers and the writer do not wait for each other. Other processes may write to
the same file: a transaction begins by taking the write lock, and waits for it as long as `BUSY_LIMIT`.

Copying the log into the file takes as long as many transactions, so a thread of its own does it, and nobody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, StaticPool

from ....engine.cancellation import undisturbed
from ....engine.errors import BackendUnavailable, FlowloopError
from ....engine.settings import Settings
from ..records import Kind
from .base import Database, RunRow, SetUp, StateRecord, StateRow, copied, json_options, prepare, waves
from .wakeups import Wakeups, available, messages

__all__ = ["SqliteDatabase"]

R = TypeVar("R")

logger = logging.getLogger(__name__)

_LONGEST_READ = 30.0
"""Seconds after which the read of a caller that was cancelled is cut off after all."""

BUSY_LIMIT = 60.0
"""For how many seconds at most a write waits for other processes before it fails: it may be tried again."""

_CHECKPOINT_AFTER = 6_000
"""After as many changed rows, what the log holds is copied into the file, while the next rows are written."""

_LONGEST_LOG = 32_000
"""Pages of the log (128 MB) after which the writer waits until all of it is copied, so that the log begins anew."""

_BUSY_TIMEOUT = 1.0  # how long SQLite itself waits before it asks us whether to go on

_RUN_COLUMNS = {
    "task_run": "id, version, state, tenant_id, cached_inputs, flow_run_id",
    "flow_run": "id, version, state, tenant_id, submitted, flow_id, epoch, owner, lease_expires, lease_seconds",
}

_LOCKED = "coalesce(json_extract(g.settings, '$.version_locking_enabled'), 0)"

_FLOW_FACTS = {
    "task_run": (
        f"SELECT r.id, r.state, {_LOCKED}, EXISTS (SELECT 1 FROM task_tag_limit l WHERE l.tenant_id = r.tenant_id) "
        "OR EXISTS (SELECT 1 FROM task_rate_limit l WHERE l.tenant_id = r.tenant_id), "
        "r.epoch, r.owner, r.lease_expires, r.lease_seconds "
        "FROM flow_run r JOIN flow f ON f.id = r.flow_id JOIN flow_group g ON g.id = f.flow_group_id "
        "WHERE r.id IN (SELECT value FROM json_each(?))"
    ),
    "flow_run": (
        f"SELECT f.id, NULL, {_LOCKED}, "
        "EXISTS (SELECT 1 FROM flow_concurrency_limit l WHERE l.tenant_id = f.tenant_id) "
        "FROM flow f JOIN flow_group g ON g.id = f.flow_group_id "
        "WHERE f.id IN (SELECT value FROM json_each(?))"
    ),
}

_STATE_COLUMNS = "id, tenant_id, {kind}_id, version, timestamp, state, message, start_time, serialized_state, client_id"
_COPY_TO_RUNS = "UPDATE {kind} SET {sets} FROM {kind}_state AS new WHERE new.rowid > ? AND {kind}.id = new.{kind}_id"

_APPEND: dict[Kind, tuple[str, str]] = {
    kind: (_STATE_COLUMNS.format(kind=kind), _COPY_TO_RUNS.format(kind=kind, sets=copied(kind, "min", "max")))
    for kind in get_args(Kind)
}
"""The columns of a state, and the statement that copies new ones to their runs."""

_CREATED = "tenant_id, created, flow_run_id, task_id, map_index, cache_key, document, state_id, id"
_INSERT_TASK_RUNS = (
    "INSERT INTO task_run (id, tenant_id, created, updated, flow_run_id, task_id, map_index, cache_key, version, "
    "state, state_message, state_timestamp, serialized_state) SELECT id, tenant_id, created, created, flow_run_id, "
    "task_id, map_index, cache_key, 1, 'Pending', 'Task run created', created, document FROM new"
)
_INSERT_PENDING = (
    "INSERT INTO task_run_state (id, tenant_id, task_run_id, version, timestamp, state, message, serialized_state) "
    "SELECT state_id, tenant_id, id, 1, created, 'Pending', 'Task run created', document FROM new"
)

_FLOWS_TO_RUN = (
    "SELECT f.id, f.tenant_id, f.archived, f.flow_group_id, p.id, p.name, f.parameters, f.run_config, f.environment, "
    "g.default_parameters, g.labels, g.run_config "
    "FROM flow f JOIN flow_group g ON g.id = f.flow_group_id LEFT JOIN project p ON p.id = f.project_id "
    "WHERE f.id IN (SELECT value FROM json_each(?))"
)
_TASKS_TO_RUN = (
    "SELECT flow_id, id, cache_key, slug FROM task WHERE flow_id IN (SELECT value FROM json_each(?)) ORDER BY id"
)
_NEW_FLOW_RUN = (
    "tenant_id, created, flow_id, name, parameters, context, labels, run_config, scheduled_start_time, "
    "idempotency_key, owner, epoch, lease_seconds, lease_expires, id"
)
_INSERT_FLOW_RUNS = (
    f"INSERT OR IGNORE INTO flow_run ({_NEW_FLOW_RUN}, updated) SELECT {_NEW_FLOW_RUN}, created FROM new"
)

_PORTION = 1024
"""How many rows a statement over many rows takes at most."""


class SqliteDatabase(Database):
    """A SQLite file.

    Args:
        - url: ``sqlite:///path``, or ``sqlite://`` for a temporary file that goes with the store
        - synchronous: ``"FULL"``: an acknowledged write survives a loss of power; ``"NORMAL"``: it survives the end of
          the process, and is faster
        - read_only: whether it is only looked at; where there is no file yet, that is an empty database
        - patience: for how many seconds another process is waited for that has the file locked when it is opened, and,
          up to `BUSY_LIMIT`, at each write; `Settings.outage_limit` if None
    """

    name = "sqlite"

    def __init__(self, url: URL, synchronous: str, *, read_only: bool = False, patience: float | None = None) -> None:
        super().__init__(url.render_as_string())
        _check_url(url)
        # absolute from the start: a process may go to another directory meanwhile
        path = None if url.database in (None, "", ":memory:") else os.path.abspath(os.path.expanduser(url.database))
        is_nowhere = path is None or (read_only and not os.path.exists(path))
        self._scratch = tempfile.TemporaryDirectory(prefix="flowloop-") if is_nowhere else None
        self._read_only = read_only and self._scratch is None
        self._patience = Settings.from_env().outage_limit if patience is None else patience
        self._busy_limit = min(self._patience, BUSY_LIMIT)
        self.path = str(Path(self._scratch.name) / "flowloop.db") if self._scratch else str(path)
        self._identity: tuple[int, int] | None = None
        self._synchronous = synchronous
        self.is_synced = synchronous == "FULL"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flowloop-writer")
        self._connection: Connection | None = None
        self._checkpoints = ThreadPoolExecutor(1, "flowloop-checkpoint", initializer=_give_way)
        self._checkpoint: Future[None] | None = None
        self._copied = 0
        self._wakeups = Wakeups(self.path) if available() else None
        self._announced: list[str] = []
        self.engine = create_async_engine(
            # what only reads never makes a file
            URL.create("sqlite+aiosqlite", database=Path(self.path).as_uri(), query={"uri": "true", **self._mode()}),
            poolclass=AsyncAdaptedQueuePool,
            pool_size=4,
            connect_args={"timeout": self._busy_limit},
            **json_options,
        )
        event.listen(self.engine.sync_engine, "connect", self._set_up_reader)

    def _mode(self) -> dict[str, str]:
        """Return how SQLite opens the file to read it."""
        if not self._read_only:
            return {"mode": "rw"}
        # beside a file that is read, SQLite keeps a file of its own, unless it is told that nobody writes
        log = Path(f"{self.path}-wal")
        is_still = not os.access(os.path.dirname(self.path), os.W_OK) and not (log.exists() and log.stat().st_size)
        return {"mode": "ro", **({"immutable": "1"} if is_still else {})}

    async def read(self, work: Callable[[Connection], R]) -> R:
        """Run `work`, which only reads, to its end: a read that is cut off leaves a connection that nobody closes."""
        self._check_file()
        return await undisturbed(super().read(work), _LONGEST_READ)

    async def open(self, set_up: SetUp) -> None:
        """Connect, and run `set_up` in the first transaction."""
        try:
            if self._read_only:
                self._identity = _identity(self.path)
                await self.read(lambda connection: set_up(connection, self.shown))
                return
            made = prepare if self._scratch else set_up
            await self._in_thread(lambda: self._open(made))
        except Exception:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what has begun, and close every connection."""
        await self._in_thread(self._close)
        self._thread.shutdown()
        self._checkpoints.shutdown()
        await self.engine.dispose()
        if self._scratch is not None:
            self._scratch.cleanup()

    async def _write(self, work: Callable[[Connection], R]) -> R:
        return await self._in_thread(lambda: self._transact(work))

    async def _in_thread(self, call: Callable[[], R]) -> R:
        try:
            called = asyncio.get_running_loop().run_in_executor(self._thread, call)
        except RuntimeError as error:  # the thread has ended
            raise BackendUnavailable(f"the store on {self.shown} is not open") from error
        return await called

    # -- other processes -------------------------------------------------------------------------------

    def announce(self, connection: Connection, message: str) -> None:
        """Have a message told to other processes after the commit."""
        self._announced.append(message)

    @asynccontextmanager
    async def listen(self, heard: Callable[[str], None]) -> AsyncIterator[bool]:
        """Hear what other processes announce."""
        loop = asyncio.get_running_loop()
        try:
            if self._wakeups is None:
                raise OSError("no sockets")
            receiver = self._wakeups.open()
        except OSError:
            yield False
            return

        def read() -> None:
            for message in messages(receiver):
                heard(message.decode())

        try:
            loop.add_reader(receiver, read)
            yield True
        finally:
            loop.remove_reader(receiver)
            self._wakeups.close(receiver)

    # -- in the writer thread --------------------------------------------------------------------------

    def _open(self, set_up: SetUp) -> None:
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine("sqlite://", creator=self._connect, poolclass=StaticPool, **json_options)
            event.listen(engine, "begin", _take_write_lock)
            until = time.monotonic() + self._patience
            self._connection = _patiently(engine.connect, self._patience, self.shown)
            self._identity = _identity(self.path)
            self._transact(lambda connection: set_up(connection, self.shown), until - time.monotonic(), self.shown)
        except (DBAPIError, OSError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise FlowloopError(f"{self.path} cannot be used as a database: {reason}") from error

    def _connect(self) -> sqlite3.Connection:
        raw = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, cached_statements=256)
        try:
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute(f"PRAGMA synchronous = {self._synchronous}")
            raw.execute("PRAGMA foreign_keys = ON")
            raw.execute("PRAGMA cache_size = -32768")
            raw.execute(f"PRAGMA wal_autocheckpoint = {_LONGEST_LOG}")
        except sqlite3.Error:
            raw.close()
            raise
        return raw

    def _transact(self, work: Callable[[Connection], R], patience: float | None = None, said: str = "") -> R:
        connection = self._connection
        if connection is None:
            raise BackendUnavailable(f"the store on {self.shown} is not open")
        self._check_file()
        self._announced.clear()
        transaction = _patiently(connection.begin, self._busy_limit if patience is None else patience, said)
        with transaction:
            result = work(connection)
        self._check_file()  # what went into a file that nobody finds is not acknowledged
        if self._wakeups is not None:
            for message in self._announced:
                self._wakeups.send(message.encode())
        self._copy_log(_driver(connection).total_changes)
        return result

    def _check_file(self) -> None:
        """Raise if the file that was opened is not at its place any more: moved, deleted, or hidden by another."""
        if self._identity is not None and _identity(self.path) != self._identity:
            raise BackendUnavailable(
                f"the database file {self.path} was moved, deleted or replaced while it was in use: "
                "put it back, or start this process anew"
            )

    def _copy_log(self, changes: int) -> None:
        if changes - self._copied < _CHECKPOINT_AFTER or (self._checkpoint and not self._checkpoint.done()):
            return
        self._copied = changes
        self._checkpoint = self._checkpoints.submit(self._run_checkpoint)

    def _run_checkpoint(self) -> None:
        # If it fails, what is left waits for the next one, or for the writer to notice how long the log is.
        with contextlib.closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as raw:
            raw.execute(f"PRAGMA synchronous = {self._synchronous}")
            raw.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection.engine.dispose()
            self._connection = None
            self._identity = None
        if self._wakeups is not None:
            self._wakeups.close()

    # -- errors ----------------------------------------------------------------------------------------

    def classify(self, error: BaseException) -> str:
        """Say what an error of sqlite3 means."""
        if isinstance(error, sqlite3.IntegrityError):
            return "rejected"
        if isinstance(error, OverflowError | UnicodeEncodeError | sqlite3.DataError | sqlite3.InterfaceError):
            return "value"
        if isinstance(error, sqlite3.ProgrammingError) and "binding parameter" in str(error):
            return "value"
        if not isinstance(error, sqlite3.OperationalError):
            return ""
        # what is wrong with the statement itself, a pattern that is too long for instance, passes with no wait
        is_statement = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
        return "refused" if is_statement else "unavailable"

    @staticmethod
    def _set_up_reader(raw: Any, _: object) -> None:
        cursor = raw.cursor()
        cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    # -- the hot statements ----------------------------------------------------------------------------

    def clock(self, connection: Connection) -> datetime.datetime:
        """Return the time of the machine: all processes that use the file are on it."""
        return datetime.datetime.now(datetime.UTC)

    def moment(self, value: datetime.datetime) -> Any:
        """Return a moment as a hot statement takes it."""
        return value.isoformat(timespec="microseconds")

    def lock_runs(
        self, connection: Connection, kind: Kind, ids: Sequence[str]
    ) -> tuple[list[RunRow], list[tuple[Any, ...]]]:
        """Return what the rules need of the runs; the transaction has locked them all."""
        # in one document, because the driver lets go of the interpreter for every row, and waits to have it back
        rows = _driver(connection).execute(
            f"SELECT json_group_array(json_array({_RUN_COLUMNS[kind]})) FROM {kind} "
            "WHERE id IN (SELECT value FROM json_each(?))",
            (_json_text(ids),),
        )
        found: list[RunRow] = msgspec.json.decode(rows.fetchone()[0])
        return found, _facts(connection, kind, list({run[5] for run in found})) if found else []

    def flow_facts(self, connection: Connection, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return what the rules need of flows."""
        return _facts(connection, "flow_run", ids)

    def recorded_states(self, connection: Connection, kind: Kind, keys: Sequence[tuple[str, int]]) -> list[StateRow]:
        """Return states by run id and version."""
        read = (
            f"SELECT {kind}_id, version, state, serialized_state, client_id FROM {kind}_state "
            f"WHERE {kind}_id = ? AND version = ?"
        )
        driver = _driver(connection)
        return [row for key in keys if (row := driver.execute(read, key).fetchone()) is not None]

    def append_states(self, connection: Connection, kind: Kind, rows: Sequence[StateRecord]) -> None:
        """Insert states and copy each to its run: the first of every run at once, then the second."""
        columns, copy = _APPEND[kind]
        for wave in waves(rows):
            newest = _insert(connection, f"{kind}_state", columns, wave)
            # Nobody else writes meanwhile, so the rows of the wave are the newest, numbered one after the other.
            _driver(connection).execute(copy, (newest - len(wave),))

    def insert_rows(
        self, connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Insert rows into any table."""
        _insert(connection, table, ", ".join(f'"{column}"' for column in columns), rows)

    def flows_to_run(self, connection: Connection, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return what a flow run takes over from its flow."""
        return _driver(connection).execute(_FLOWS_TO_RUN, (_json_text(ids),)).fetchall()

    def tasks_to_run(self, connection: Connection, flow_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return the tasks of flows."""
        return _driver(connection).execute(_TASKS_TO_RUN, (_json_text(flow_ids),)).fetchall()

    def insert_flow_runs(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Collection[str]:
        """Insert flow runs, except those whose key is taken."""
        driver = _driver(connection)
        before = driver.total_changes
        _run_over(connection, rows, _NEW_FLOW_RUN, _INSERT_FLOW_RUNS)
        ids = [row[-1] for row in rows]
        if driver.total_changes - before == len(rows):
            return ids
        found = driver.execute(
            "SELECT id FROM flow_run WHERE id IN (SELECT value FROM json_each(?))", (_json_text(ids),)
        )
        return {row[0] for row in found}

    def flow_runs_by_key(self, connection: Connection, keys: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
        """Return the flow runs with these flows and keys."""
        read = "SELECT flow_id, idempotency_key, id FROM flow_run WHERE flow_id = ? AND idempotency_key = ?"
        driver = _driver(connection)
        return [row for key in keys if (row := driver.execute(read, key).fetchone()) is not None]

    def insert_task_runs(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Collection[str]:
        """Insert task runs with their Pending state; nobody else writes meanwhile."""
        _run_over(connection, rows, _CREATED, _INSERT_TASK_RUNS)
        _run_over(connection, rows, _CREATED, _INSERT_PENDING)
        return [row[-1] for row in rows]


def _check_url(url: URL) -> None:
    """Refuse what is not the path of a file: left out of account, it would make another file than was meant."""
    if url.host or url.port or url.username or url.password:
        raise FlowloopError(
            f"{url} names a host, and SQLite has files: write sqlite:///FILE, with three slashes, or four for a path "
            "from the root"
        )
    if url.database and (url.database.endswith("/") or "\0" in url.database):
        raise FlowloopError(f"{url!s} does not end in the name of a file, and a database is one: write sqlite:///FILE")
    if url.query:
        raise FlowloopError(
            f"SQLite takes nothing behind the name of the file, and {url} has ?{'&'.join(url.query)}: leave it out; a "
            "question mark in a name is written %3F"
        )


def _give_way() -> None:
    """Have this thread run when nobody else wants to: transactions do not wait for it, and it may take its time."""
    if sys.platform == "linux":  # elsewhere a priority is that of the whole process
        with contextlib.suppress(OSError):  # where it is not allowed, copying is only less polite
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _facts(connection: Connection, kind: Kind, ids: Sequence[str]) -> list[tuple[Any, ...]]:
    return _driver(connection).execute(_FLOW_FACTS[kind], (_json_text(ids),)).fetchall()


def _driver(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def _insert(connection: Connection, table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Insert rows, and return the number that SQLite gave the last one."""
    return _run_over(connection, rows, columns, f"INSERT INTO {table} ({columns}) SELECT * FROM new")


def _run_over(connection: Connection, rows: Sequence[tuple[Any, ...]], columns: str, insert: str) -> int:
    """Run an INSERT over a table `new` of these rows and columns, and return the number of the last row.

    Many rows go in one step. Before each step the driver lets go of the interpreter, and to have it back from a loop
    that is busy takes milliseconds: in a step for every row the writer would wait far longer than it works.
    """
    driver = _driver(connection)
    newest = 0
    for start in range(0, len(rows), _PORTION):
        portion = rows[start : start + _PORTION]
        width = len(portion[0])
        # filled up with empty rows to a power of two, so that few statements are prepared
        size = 1 << (len(portion) - 1).bit_length()
        values = [*chain.from_iterable(portion), *repeat(None, (size - len(portion)) * width)]
        newest = driver.execute(_over(size, width, columns, insert), values).lastrowid or 0
    return newest


@cache
def _over(size: int, width: int, columns: str, insert: str) -> str:
    row = f"({', '.join('?' * width)})"
    return f"WITH new ({columns}) AS (VALUES {', '.join([row] * size)}) {insert} WHERE id IS NOT NULL"


def _json_text(ids: Sequence[str]) -> str:
    return msgspec.json.encode(ids).decode()


def _take_write_lock(connection: Connection) -> None:
    _driver(connection).execute("BEGIN IMMEDIATE")


def _patiently(call: Callable[[], R], seconds: float, said: str = "") -> R:
    """Call until no other process is in the way, or so many seconds have passed; say so once of the database `said`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (OperationalError, sqlite3.OperationalError) as error:
            cause = error.orig if isinstance(error, OperationalError) else error
            code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
            if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > deadline:
                raise BackendUnavailable(f"another process kept the database locked for {seconds:.3g} s") from error
            if said:
                logger.warning("%s is locked by another process, waiting for it", said)
                said = ""


def _identity(path: str) -> tuple[int, int] | None:
    """Return which file is at a path, or None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
