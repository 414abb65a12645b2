"""The store on PostgreSQL, over asyncpg.

SQLAlchemy's connections are in autocommit mode, and the transaction around a write is asyncpg's own: the
hot statements then go to the driver inside the same transaction as everything else. They carry a whole
batch in arrays. Runs are locked in the order of their ids, so that batches that share runs cannot deadlock.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import asyncpg
from sqlalchemy import Connection, ExceptionContext, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from ....engine.errors import BackendUnavailable, FlowloopError
from ....engine.settings import Settings
from ..ids import is_id
from ..records import Kind
from ..schema import metadata
from .base import ANYTHING, Database, RunRow, SetUp, StateRecord, StateRow, copied, json_options, waves

__all__ = ["PostgresDatabase"]

R = TypeVar("R")

logger = logging.getLogger(__name__)

_ATTEMPTS = 5
"""How often a transaction is tried that the server chose as the victim of a deadlock."""

_CHANNEL = "flowloop"
"""What processes on one database tell each other travels on this channel."""

_LET_GO = "SET LOCAL idle_in_transaction_session_timeout = '10s'"
"""A process that is frozen amid a transaction loses it, so that what it has locked is free for others. Said in each
transaction, because a pooler between may give every transaction another session.
"""

_WAIT_NO_LONGER = "; SET LOCAL lock_timeout = '30s'"
"""What others have locked is not waited for without end: unless the URL says how long."""

_PROBE = "? "
"""How the message begins by which a listener finds out whether it hears anything."""

_PROOF = 2.0
"""Seconds in which a message of its own has to reach whoever listens."""

_CONNECTING = 60.0
"""Seconds that a connection may take at most, unless the URL says how long."""

_GIVEN_BACK = 2.0
"""Seconds for which a store that is closed waits for its connections."""

_RELISTEN = 1.0
"""Seconds until a lost connection that listens is made anew."""

_RUN_COLUMNS = {
    "task_run": "id::text, version, state, tenant_id::text, cached_inputs, flow_run_id::text",
    "flow_run": (
        "id::text, version, state, tenant_id::text, submitted, flow_id::text, "
        "epoch, owner, lease_expires, lease_seconds"
    ),
}

_LOCKED = "coalesce((g.settings ->> 'version_locking_enabled')::boolean, false)"

_FLOW_FACTS = {
    "task_run": (
        f"SELECT r.id::text, r.state, {_LOCKED}, "
        "EXISTS (SELECT 1 FROM task_tag_limit l WHERE l.tenant_id = r.tenant_id) "
        "OR EXISTS (SELECT 1 FROM task_rate_limit l WHERE l.tenant_id = r.tenant_id), "
        "r.epoch, r.owner, r.lease_expires, r.lease_seconds "
        "FROM flow_run r JOIN flow f ON f.id = r.flow_id JOIN flow_group g ON g.id = f.flow_group_id "
        "WHERE r.id IN (SELECT flow_run_id FROM task_run WHERE id = ANY($1::uuid[])) ORDER BY r.id FOR SHARE OF r"
    ),
    "flow_run": (
        f"SELECT f.id::text, NULL, {_LOCKED}, "
        "EXISTS (SELECT 1 FROM flow_concurrency_limit l WHERE l.tenant_id = f.tenant_id) "
        "FROM flow f JOIN flow_group g ON g.id = f.flow_group_id WHERE f.id = ANY($1::uuid[])"
    ),
}

_APPEND = """
WITH new AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::timestamptz[], $6::text[], $7::text[], $8::timestamptz[],
        $9::text[], $10::text[]
    ) AS n (id, tenant_id, run_id, version, timestamp, state, message, start_time, serialized_state, client_id)
), appended AS (
    INSERT INTO {kind}_state (id, tenant_id, {kind}_id, version, timestamp, state, message, start_time,
                              serialized_state, client_id)
    SELECT * FROM new
)
UPDATE {kind} SET {sets} FROM new WHERE {kind}.id = new.run_id
"""

_KINDS: tuple[Kind, ...] = ("task_run", "flow_run")
_APPEND_STATES = {kind: _APPEND.format(kind=kind, sets=copied(kind, "least", "greatest")) for kind in _KINDS}

_INSERT_TASK_RUNS = """
WITH new AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::int[], $6::text[], $7::text[], $8::uuid[], $9::uuid[]
    ) AS n (tenant_id, created, flow_run_id, task_id, map_index, cache_key, document, state_id, id)
), run AS (
    INSERT INTO task_run (id, tenant_id, created, updated, flow_run_id, task_id, map_index, cache_key, version,
                          state, state_message, state_timestamp, serialized_state)
    SELECT id, tenant_id, created, created, flow_run_id, task_id, map_index, cache_key, 1,
           'Pending', 'Task run created', created, document FROM new
    ON CONFLICT (flow_run_id, task_id, map_index) DO NOTHING
    RETURNING id
)
INSERT INTO task_run_state (id, tenant_id, task_run_id, version, timestamp, state, message, serialized_state)
SELECT new.state_id, new.tenant_id, new.id, 1, new.created, 'Pending', 'Task run created', new.document
FROM new JOIN run ON run.id = new.id
RETURNING task_run_id::text
"""

_FLOWS_TO_RUN = (
    "SELECT f.id::text, f.tenant_id::text, f.archived, f.flow_group_id::text, p.id::text, p.name, f.parameters::text, "
    "f.run_config::text, f.environment::text, g.default_parameters::text, g.labels::text, g.run_config::text "
    "FROM flow f JOIN flow_group g ON g.id = f.flow_group_id LEFT JOIN project p ON p.id = f.project_id "
    "WHERE f.id = ANY($1::uuid[])"
)
_TASKS_TO_RUN = (
    "SELECT flow_id::text, id::text, cache_key, slug FROM task WHERE flow_id = ANY($1::uuid[]) ORDER BY task.id"
)
_INSERT_FLOW_RUNS = """
INSERT INTO flow_run (tenant_id, created, updated, flow_id, name, parameters, context, labels, run_config,
                      scheduled_start_time, idempotency_key, owner, epoch, lease_seconds, lease_expires, id)
SELECT tenant_id, created, created, flow_id, name, parameters::jsonb, context::jsonb, labels::jsonb, run_config::jsonb,
       scheduled_start_time, idempotency_key, owner, epoch, lease_seconds, lease_expires, id
FROM unnest(
    $1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::timestamptz[], $10::text[], $11::text[], $12::int[], $13::float[], $14::timestamptz[], $15::uuid[]
) AS n (tenant_id, created, flow_id, name, parameters, context, labels, run_config, scheduled_start_time,
        idempotency_key, owner, epoch, lease_seconds, lease_expires, id)
ON CONFLICT (flow_id, idempotency_key) DO NOTHING
RETURNING id::text
"""
_FLOW_RUNS_BY_KEY = (
    "SELECT r.flow_id::text, r.idempotency_key, r.id::text FROM unnest($1::uuid[], $2::text[]) AS k (flow_id, key) "
    "JOIN flow_run r ON r.flow_id = k.flow_id AND r.idempotency_key = k.key"
)


class PostgresDatabase(Database):
    """A PostgreSQL database.

    Args:
        - url: ``postgresql://user:password@host:port/database``, or ``postgres://…``, with what the drivers of
          PostgreSQL commonly take: see `_address`
        - settings: how many connections are kept and may be opened beside, and how many statements each keeps prepared
        - patience: for how many seconds a server is waited for that does not answer when it is opened, and, up to a
          minute, at each connection; `outage_limit` of the settings if None
    """

    name = "postgresql"

    def __init__(self, url: str, settings: Settings | None = None, *, patience: float | None = None) -> None:
        super().__init__(_shown(url))
        settings = settings or Settings.from_env()
        self._patience = settings.outage_limit if patience is None else patience
        self._address, self._options, kept = _address(url)
        self._options.setdefault("timeout", min(self._patience, _CONNECTING))
        if kept is None:
            kept = settings.database_statements
        self._is_pooled: bool | None = None if kept is None else kept == 0
        self._limits = _LET_GO if "lock_timeout" in url else _LET_GO + _WAIT_NO_LONGER
        self.engine = create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"async_creator_fn": self._connect},
            isolation_level="AUTOCOMMIT",
            pool_size=settings.database_connections,
            max_overflow=settings.database_overflow,
            **json_options,
        )
        self._prepared = _PREPARED if kept is None else kept
        event.listen(self.engine.sync_engine, "do_connect", self._before_connect)
        event.listen(self.engine.sync_engine, "handle_error", _notice_lost_connection)

    async def _connect(self) -> Any:
        kept = {"statement_cache_size": 0} if self._is_pooled else {}
        return await asyncpg.connect(self._address, **{**self._options, **kept})

    def _before_connect(self, dialect: object, record: object, args: object, options: dict[str, Any]) -> None:
        options["prepared_statement_cache_size"] = 0 if self._is_pooled else self._prepared

    async def _look_for_pooler(self) -> None:
        """See whether a pooler is between, which may give every transaction another session.

        Statements that are prepared in one session are then unknown in the next, or are those of another client. A
        pooler gives itself away by the number of the process that it says it is.
        """
        connection = await asyncpg.connect(self._address, **{**self._options, "statement_cache_size": 0})
        try:
            async with connection.transaction():
                self._is_pooled = await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid()
        finally:
            await connection.close()

    async def open(self, set_up: SetUp) -> None:
        """Connect, and run `set_up` in the first transaction."""

        def make(connection: Connection) -> None:
            # One process at a time may find the database empty.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('flowloop'))"))
            set_up(connection, self.shown)

        try:
            async with asyncio.timeout(self._patience):
                if self._is_pooled is None:
                    await self._look_for_pooler()
                await self._write(make)
        except FlowloopError:
            await self.engine.dispose()
            raise
        except TimeoutError as error:
            await self.engine.dispose()
            raise BackendUnavailable(f"the database {self.shown} did not answer within {self._patience:g} s") from error
        except Exception as error:
            await self.engine.dispose()
            raise FlowloopError(f"the database {self.shown} cannot be opened: {_root(error)}") from error

    async def close(self) -> None:
        """Close every connection, those that somebody is about to give back, too: the engine would leave them open."""
        pool: Any = self.engine.pool
        with suppress(TimeoutError):
            async with asyncio.timeout(_GIVEN_BACK):
                while pool.checkedout():  # noqa: ASYNC110 - a pool tells nobody
                    await asyncio.sleep(0.01)
        await self.engine.dispose()

    async def read(self, work: Callable[[Connection], R]) -> R:
        """Run `work`, which only reads: behind a pooler in one transaction, so that it stays in one session."""
        if not self._is_pooled:
            return await super().read(work)
        with self._translating():
            async with self.engine.connect() as connection:
                await connection.execution_options(isolation_level="READ COMMITTED")
                return await connection.run_sync(work)

    def announce(self, connection: Connection, message: str) -> None:
        """Notify the other processes, as part of the transaction."""
        _fetch(connection, "SELECT pg_notify($1, $2)", _CHANNEL, message)

    @asynccontextmanager
    async def listen(self, heard: Callable[[str], None]) -> AsyncIterator[bool]:
        """Listen on a connection kept for that, and on another one as soon as it is lost."""
        if self._is_pooled:
            yield False  # where a pooler delivers at all, it is to whoever has the session then
            return
        loop = asyncio.get_running_loop()
        proof = loop.create_future()
        probe = f"{_PROBE}{uuid.uuid4().hex}"

        def received(_: object, __: int, ___: str, message: str) -> None:
            if not message.startswith(_PROBE):
                heard(message)
            elif message != probe:
                pass  # another listener's
            elif proof.done():
                heard(ANYTHING)  # what was said while the connection was lost
            else:
                proof.set_result(None)

        listening = loop.create_task(self._listen(received, probe), name="listening to PostgreSQL")
        try:
            # a pooler between may take a LISTEN and deliver nothing
            await asyncio.wait([proof, listening], timeout=_PROOF, return_when=asyncio.FIRST_COMPLETED)
            yield proof.done()
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def _listen(self, received: Callable[..., None], probe: str) -> None:
        while True:
            lost = asyncio.Event()
            try:
                async with self.engine.connect() as connection:
                    raw: Any = (await connection.get_raw_connection()).driver_connection
                    raw.add_termination_listener(lambda _, lost=lost: lost.set())
                    await raw.add_listener(_CHANNEL, received)
                    try:
                        await raw.execute("SELECT pg_notify($1, $2)", _CHANNEL, probe)
                        await lost.wait()
                    finally:
                        if not raw.is_closed():
                            await raw.remove_listener(_CHANNEL, received)
                            await raw.reset()
            except (DBAPIError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.debug("%s cannot be listened to: %s", self.shown, error)
            await asyncio.sleep(_RELISTEN)

    async def _write(self, work: Callable[[Connection], R]) -> R:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._transact(work)
            except Exception as error:
                if not isinstance(_root(error), asyncpg.DeadlockDetectedError) or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _transact(self, work: Callable[[Connection], R]) -> R:
        async with self.engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            try:
                async with raw.transaction():
                    await raw.execute(self._limits)
                    return await connection.run_sync(work)
            except BaseException as error:
                # The pool must not give it out again. Who is cancelled while a transaction begins or ends leaves it
                # open: what the next one commits would be a part of it, and never be there.
                if raw.is_closed() or isinstance(error, asyncio.CancelledError) or isinstance(_root(error), _LOST):
                    await connection.invalidate()
                raise

    # -- errors ----------------------------------------------------------------------------------------

    def classify(self, error: BaseException) -> str:
        """Say what an error of asyncpg means."""
        cause = _root(error)
        if isinstance(cause, asyncpg.IntegrityConstraintViolationError):
            return "rejected"
        if isinstance(cause, asyncpg.DataError | UnicodeEncodeError | OverflowError):
            return "value"
        unavailable = (
            asyncpg.PostgresConnectionError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            asyncpg.OperatorInterventionError,
            asyncpg.InsufficientResourcesError,
            asyncpg.TransactionRollbackError,
            asyncpg.ReadOnlySQLTransactionError,
            asyncpg.LockNotAvailableError,
            *_STALE,
            OSError,
        )
        if isinstance(cause, unavailable):
            return "unavailable"
        return "refused" if isinstance(cause, asyncpg.PostgresError) else ""

    # -- the hot statements ----------------------------------------------------------------------------

    def clock(self, connection: Connection) -> datetime.datetime:
        """Return the time of the server."""
        moment: datetime.datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return moment

    def moment(self, value: datetime.datetime) -> Any:
        """Return a moment as a hot statement takes it."""
        return value

    def lock_runs(
        self, connection: Connection, kind: Kind, ids: Sequence[str]
    ) -> tuple[list[RunRow], list[tuple[Any, ...]]]:
        """Lock the runs in the order of their ids, and return what the rules need of them."""
        statement = (
            f"SELECT {_RUN_COLUMNS[kind]} FROM {kind} WHERE id = ANY($1::uuid[]) ORDER BY {kind}.id FOR NO KEY UPDATE"
        )
        readable = [run_id for run_id in ids if is_id(run_id)]
        facts = _fetch(connection, _FLOW_FACTS["task_run"], readable) if kind == "task_run" else None
        found = _fetch(connection, statement, readable)
        if facts is None:
            facts = self.flow_facts(connection, list({run[5] for run in found})) if found else []
        return found, facts

    def flow_facts(self, connection: Connection, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return what the rules need of flows."""
        return _fetch(connection, _FLOW_FACTS["flow_run"], ids)

    def recorded_states(self, connection: Connection, kind: Kind, keys: Sequence[tuple[str, int]]) -> list[StateRow]:
        """Return states by run id and version."""
        statement = (
            f"SELECT s.{kind}_id::text, s.version, s.state, s.serialized_state, s.client_id "
            f"FROM unnest($1::uuid[], $2::int[]) AS k (id, version) "
            f"JOIN {kind}_state s ON s.{kind}_id = k.id AND s.version = k.version"
        )
        return _fetch(connection, statement, [key[0] for key in keys], [key[1] for key in keys])

    def append_states(self, connection: Connection, kind: Kind, rows: Sequence[StateRecord]) -> None:
        """Insert states and copy each to its run, the first of every run in one statement, the second in the next."""
        for wave in waves(rows):
            _fetch(connection, _APPEND_STATES[kind], *zip(*wave, strict=True))

    def insert_rows(
        self, connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Insert rows into any table."""
        named = ", ".join(f'"{column}"' for column in columns)
        types = (metadata.tables[table].c[column].type.compile(connection.dialect) for column in columns)
        arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))
        statement = f"INSERT INTO {table} ({named}) SELECT * FROM unnest({arrays})"
        _fetch(connection, statement, *zip(*rows, strict=True))

    def flows_to_run(self, connection: Connection, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return what a flow run takes over from its flow."""
        return _fetch(connection, _FLOWS_TO_RUN, ids)

    def tasks_to_run(self, connection: Connection, flow_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return the tasks of flows."""
        return _fetch(connection, _TASKS_TO_RUN, flow_ids)

    def insert_flow_runs(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Collection[str]:
        """Insert flow runs, except those whose key is taken: by a transaction that is still open, after its end."""
        return {row[0] for row in _fetch(connection, _INSERT_FLOW_RUNS, *zip(*rows, strict=True))}

    def flow_runs_by_key(self, connection: Connection, keys: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
        """Return the flow runs with these flows and keys."""
        return _fetch(connection, _FLOW_RUNS_BY_KEY, *zip(*keys, strict=True))

    def insert_task_runs(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Collection[str]:
        """Insert task runs with their Pending state, where nobody else has done it meanwhile."""
        return [row[0] for row in _fetch(connection, _INSERT_TASK_RUNS, *zip(*rows, strict=True))]


_STALE = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
"""What the server says of a statement that was prepared on another connection, or before the tables were changed."""

_LOST = (asyncpg.InternalClientError, asyncpg.ReadOnlySQLTransactionError, *_STALE)
"""After which a connection is of no use any more."""

_PREPARED = 100
"""How many statements SQLAlchemy keeps prepared on each connection, unless the URL or a setting says otherwise."""

_OF_OTHER_DRIVERS = {
    "channel_binding",
    "client_encoding",
    "gssdelegation",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "requirepeer",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
}
"""What a URL may tell libpq about its own way to the server, and asyncpg has no use for."""


def _address(url: str) -> tuple[str, dict[str, Any], int | None]:
    """Return what asyncpg is to connect to, with which arguments, and how many statements are kept prepared if it says.

    What is not known here is asyncpg's to read (hosts, ``sslmode`` and certificates, ``target_session_attrs``), or else
    a setting of the session (``application_name``, ``options``, ``search_path``).

    Raises:
        - FlowloopError: if a value in the URL cannot be
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    prepared = _number(query, "prepared_statement_cache_size")
    options: dict[str, Any] = {}
    kept = _number(query, "statement_cache_size")
    if kept is not None:
        options["statement_cache_size"] = kept
    seconds = _number(query, "connect_timeout")
    if seconds:  # 0 means without end
        options["timeout"] = seconds
    if "fallback_application_name" in query:
        query.setdefault("application_name", query.pop("fallback_application_name"))
    bound = query.get("channel_binding")
    if bound == "require":
        raise FlowloopError("channel_binding=require is more than asyncpg can do: leave it out, and use sslmode")
    wanted = {name: value for name, value in query.items() if name not in _OF_OTHER_DRIVERS}
    address = parts._replace(scheme="postgresql", query=urlencode(wanted, quote_via=quote), fragment="")
    return address.geturl(), options, prepared if prepared is not None else kept


def _number(query: dict[str, str], name: str) -> int | None:
    value = query.pop(name, None)
    if value is None:
        return None
    if not value.isdecimal():
        raise FlowloopError(f"{name} in the URL of the database is a whole number, not {value!r}")
    return int(value)


def _shown(url: str) -> str:
    """Return a URL without what is secret in it."""
    parts = urlsplit(url)
    whose, at, where = parts.netloc.rpartition("@")
    user, colon, _ = whose.partition(":")
    query = [(name, "***" if "password" in name else value) for name, value in parse_qsl(parts.query)]
    shown = parts._replace(
        netloc=f"{user}{colon and ':***'}{at}{where}", query=urlencode(query, quote_via=quote, safe="*/,")
    )
    return f"{shown.scheme}://{shown._replace(scheme='').geturl().removeprefix('//')}"


def _fetch(connection: Connection, statement: str, *args: Sequence[Any]) -> list[Any]:
    adapted: Any = connection.connection.dbapi_connection

    def run(raw: Any) -> Coroutine[Any, Any, list[Any]]:
        found: Coroutine[Any, Any, list[Any]] = raw.fetch(statement, *args)
        return found

    rows: list[Any] = adapted.run_async(run)
    return rows


def _notice_lost_connection(context: ExceptionContext) -> None:
    """Have the pool drop a connection that the server cut while asyncpg was reading, or whose server is no primary."""
    if isinstance(_root(context.original_exception), _LOST):
        context.is_disconnect = True


def _root(error: BaseException) -> BaseException:
    """Return the error of the driver that SQLAlchemy has wrapped."""
    while not isinstance(error, asyncpg.PostgresError | OSError) and error.__cause__ is not None:
        error = error.__cause__
    return error
