"""`Store`: the database and everything that can be asked of it."""

from __future__ import annotations

import contextlib
import datetime
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from ...engine.clock import Clock, SystemClock
from ...engine.errors import BackendError, BackendRejected, BackendUnavailable, FlowloopError
from . import (
    answers,
    creation,
    directives,
    flow_groups,
    flow_runs,
    flows,
    hosted,
    late,
    logs,
    notifications,
    ownership,
    pruning,
    queue,
    reads,
    scheduling,
    services,
    subflows,
    task_runs,
    tenants,
    transitions,
)
from .databases.base import Database, check_version, prepare
from .ids import new_ids
from .records import ANYONE, Caller, Kind, NextEvents, Payload, StateChange
from .tx import Tx

__all__ = ["Store", "open_database"]

P = ParamSpec("P")
R = TypeVar("R")

_NAMED_AT_ONCE = 100
"""So many flow runs are named to other processes; of more it is only said that there are some."""


def open_database(
    url: str, *, synchronous: str = "FULL", read_only: bool = False, patience: float | None = None
) -> Database:
    """Return the database of a URL, not yet open.

    Raises:
        - FlowloopError: if the URL is none of a database the store knows, or a driver is missing
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise FlowloopError(f"{url!r} is not a database URL: give sqlite:///FILE or postgresql://…")
    url = f"{scheme.lower()}://{rest}"
    dialect = scheme.partition("+")[0].lower()
    if dialect == "sqlite":
        if synchronous not in ("FULL", "NORMAL", "OFF"):
            raise FlowloopError(f"synchronous is FULL, NORMAL or OFF, not {synchronous!r}")
        from .databases.sqlite import SqliteDatabase

        try:
            return SqliteDatabase(make_url(url), synchronous, read_only=read_only, patience=patience)
        except ArgumentError as error:
            raise FlowloopError(f"{url!r} is not a database URL: give sqlite:///FILE") from error
    if dialect in ("postgresql", "postgres"):
        try:
            from .databases.postgres import PostgresDatabase
        except ImportError as error:
            raise FlowloopError("PostgreSQL needs an extra: pip install 'flowloop[postgres]'") from error
        return PostgresDatabase(url, patience=patience)
    raise FlowloopError(f"there is no store on {dialect!r}: give sqlite:///FILE or postgresql://…")


def _write(
    operation: Callable[Concatenate[Tx, P], R],
) -> Callable[Concatenate[Store, Caller, P], Coroutine[Any, Any, R]]:
    """Make a method of an operation: it runs in a write transaction of its own."""

    async def method(store: Store, caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await store.write(caller, lambda tx: operation(tx, *args, **kwargs))

    _describe(method, operation)
    return method


def _read(
    operation: Callable[Concatenate[Tx, P], R],
) -> Callable[Concatenate[Store, Caller, P], Coroutine[Any, Any, R]]:
    """Make a method of an operation that only reads."""

    async def method(store: Store, caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await store.read(caller, lambda tx: operation(tx, *args, **kwargs))

    _describe(method, operation)
    return method


def _describe(method: Any, operation: Callable[..., Any]) -> None:
    method.__name__ = operation.__name__
    method.__qualname__ = f"Store.{operation.__name__}"
    method.__doc__ = operation.__doc__
    method.__wrapped__ = operation  # what the method takes can be asked for


class Store:
    """Every flow, run, state and log line, in one database. Use it in ``async with``.

    Each operation of the API is a method of the same name: ``await store.create_flow_run(caller, flow_id=…)``. Its
    arguments are the fields of the operation's input, its answer is the payload as plain data, and it is done
    in one transaction. What it does is described at the function it is made of.

    Args:
        - url: ``sqlite:///FILE``, ``sqlite://`` for a database that goes with the store, or ``postgresql://…``
        - clock: tells the time of everything that is written
        - new_id: makes the ids of rows: texts of UUIDs, each greater than the last
        - synchronous: of SQLite: ``"FULL"`` (an acknowledged write survives a loss of power), ``"NORMAL"`` (it
          survives the end of the process) or ``"OFF"``
        - secret_key: what secrets are encrypted with; without one they cannot be stored
        - next_events: tells the next dates of a schedule document; without one no runs are scheduled
        - lease_clock: tells the time that leases are compared with; the clock of the database if None, because those of
          the processes that use it may differ
        - late_runs: which planned runs are run whose time came while nobody was there: ``"all"``, the ``"latest"`` of
          each flow, ``"none"``, or ``"within:3600"``, those that are late for no longer than so many seconds
        - read_only: whether it is only looked at: nothing is written, and no file is made
        - patience: for how many seconds a database is waited for that is locked or does not answer, when it is opened
          and, up to a minute, at each write; `Settings.outage_limit` if None

    Raises (every method):
        - BackendRejected: what was asked is refused, with the message of the API
        - BackendUnavailable: the database cannot be reached, or was busy for too long

    Example:
        ::

            async with Store("sqlite:///flowloop.db") as store:
                project = await store.get_or_create_project(ANYONE, name="demo")
                flow = await store.create_flow(ANYONE, project_id=project["id"], serialized_flow=document)
                run = await store.create_flow_run(ANYONE, flow_id=flow["id"])
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        new_id: Callable[[], str] | None = None,
        synchronous: str = "FULL",
        secret_key: str | None = None,
        next_events: NextEvents | None = None,
        lease_clock: Clock | None = None,
        late_runs: str = "all",
        read_only: bool = False,
        patience: float | None = None,
    ) -> None:
        self._database = open_database(url, synchronous=synchronous, read_only=read_only, patience=patience)
        self._late_runs = late.check_policy(late_runs)
        self._read_only = read_only
        self._clock = clock or SystemClock()
        self._new_id = new_id or new_ids()
        self._secret_key = secret_key or ""
        self._next_events = next_events
        self._name = uuid.uuid4().hex[:12]
        self._lease_clock = lease_clock
        self._watchers: list[tuple[Collection[Kind], Callable[[Sequence[StateChange]], None]]] = []
        self._watched: frozenset[Kind] = frozenset()
        self._is_open = False

    @property
    def url(self) -> str:
        """Where the rows are kept, without a password."""
        return self._database.shown

    @property
    def engine(self) -> AsyncEngine:
        """The engine for reads. On SQLite it has connections of its own, which cannot write."""
        return self._database.engine

    def translate(self, error: Exception) -> Exception:
        """Say what an error of `engine` means as one of flowloop's; an error that is none of the database's stays."""
        return self._database.translate(error)

    @property
    def is_synced(self) -> bool:
        """Whether an acknowledged write survives a loss of power."""
        return self._database.is_synced

    @property
    def clock(self) -> Clock:
        """The clock of the store."""
        return self._clock

    @property
    def plans(self) -> bool:
        """Whether it can plan runs after schedules."""
        return self._next_events is not None

    async def __aenter__(self) -> Self:
        """Connect, and make the tables of a fresh database.

        Raises:
            - FlowloopError: if the database cannot be used: one line that says why and what to do
        """
        await self._database.open(check_version if self._read_only else prepare)
        self._is_open = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Finish the write in hand, and close every connection."""
        self._is_open = False
        await self._database.close()

    async def check(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            - BackendUnavailable: if it gives none, or the store is not open
        """
        if not self._is_open:
            raise BackendUnavailable(
                f"the store on {self.url} is not open: an application that mounts this one runs its lifespan too"
            )
        await self._database.read(lambda connection: connection.execute(text("SELECT 1")).scalar())

    # -- transactions ----------------------------------------------------------------------------------

    def _tx(self, connection: Any, caller: Caller) -> Tx:
        return Tx(
            connection,
            self._database,
            caller,
            self._clock.now(),
            self._new_id,
            self._next_events,
            self._secret_key,
            self._watched,
            self._lease_clock,
            self._late_runs,
        )

    async def write(self, caller: Caller, operation: Callable[[Tx], R]) -> R:
        """Run an operation, or several, in one write transaction, and tell those who watch."""
        if self._read_only:
            raise BackendRejected(f"{self.url} was opened to be looked at alone: nothing is written there")
        used: list[Tx] = []

        def work(connection: Any) -> R:
            tx = self._tx(connection, caller)
            used[:] = [tx]
            result = operation(tx)
            for message in self._messages(tx.moved):
                self._database.announce(connection, message)
            return result

        result = await self._database.write(work)
        if used[0].changes:
            for _, watcher in list(self._watchers):
                watcher(used[0].changes)
        return result

    async def read(self, caller: Caller, operation: Callable[[Tx], R]) -> R:
        """Run an operation that only reads."""
        return await self._database.read(lambda connection: operation(self._tx(connection, caller)))

    def watch(
        self, watcher: Callable[[Sequence[StateChange]], None], kinds: Collection[Kind] = ("flow_run", "task_run")
    ) -> Callable[[], None]:
        """Have the states that this store records told to `watcher`, in the event loop, after each commit.

        Args:
            - watcher: called with the states of one transaction, in order; it must be quick and must not raise
            - kinds: whose states it wants to hear of; it may hear of others, too

        Returns:
            - Callable: call it to stop watching
        """

        def look_again() -> None:
            self._watched = frozenset(kind for kinds, _ in self._watchers for kind in kinds)

        def stop() -> None:
            self._watchers.remove(entry)
            look_again()

        entry = (kinds, watcher)
        self._watchers.append(entry)
        look_again()
        return stop

    @asynccontextmanager
    async def listen(self, moved: Callable[[Collection[str]], None]) -> AsyncIterator[bool]:
        """Have the flow runs told that another process gives a new state.

        Args:
            - moved: called in the event loop with their ids, or with none if it may be any; it must be quick and must
              not raise

        Returns:
            - AsyncIterator: entering tells whether other processes can be heard; if not, the database has to be asked
        """

        def heard(message: str) -> None:
            speaker, *ids = message.split()
            if speaker != self._name:
                moved(ids)

        async with self._database.listen(heard) as hears:
            yield hears

    def _messages(self, flow_run_ids: Collection[str]) -> Iterator[str]:
        """Say which flow runs have moved: each in words of limited length, and many in one word."""
        if len(flow_run_ids) > _NAMED_AT_ONCE:
            yield self._name
        elif flow_run_ids:
            yield " ".join((self._name, *flow_run_ids))

    # -- states ----------------------------------------------------------------------------------------

    set_flow_run_states = _write(transitions.set_flow_run_states)
    set_task_run_states = _write(transitions.set_task_run_states)

    # -- tenants and projects --------------------------------------------------------------------------

    create_tenant = _write(tenants.create_tenant)
    update_tenant_name = _write(tenants.update_tenant_name)
    update_tenant_slug = _write(tenants.update_tenant_slug)
    delete_tenant = _write(tenants.delete_tenant)
    default_tenant = _write(tenants.default_tenant)
    create_project = _write(tenants.create_project)
    get_or_create_project = _write(tenants.get_or_create_project)
    set_project_name = _write(tenants.set_project_name)
    set_project_description = _write(tenants.set_project_description)
    delete_project = _write(tenants.delete_project)
    mark_message_as_read = _write(tenants.mark_message_as_read)
    mark_message_as_unread = _write(tenants.mark_message_as_unread)
    delete_message = _write(tenants.delete_message)
    create_agent_config = _write(tenants.create_agent_config)
    update_agent_config = _write(tenants.update_agent_config)
    delete_agent_config = _write(tenants.delete_agent_config)

    # -- flows -----------------------------------------------------------------------------------------

    create_flow = _write(flows.create_flow)
    create_flow_from_compressed_string = _write(flows.create_flow_from_compressed_string)
    register_tasks = _write(flows.register_tasks)
    register_edges = _write(flows.register_edges)
    archive_flow = _write(flows.archive_flow)
    delete_flow = _write(flows.delete_flow)
    set_schedule_active = _write(flows.set_schedule_active)
    set_schedule_inactive = _write(flows.set_schedule_inactive)
    find_flow = _read(reads.find_flow)

    set_flow_group_schedule = _write(flow_groups.set_flow_group_schedule)
    delete_flow_group_schedule = _write(flow_groups.delete_flow_group_schedule)
    set_flow_group_labels = _write(flow_groups.set_flow_group_labels)
    set_flow_group_run_config = _write(flow_groups.set_flow_group_run_config)
    set_flow_group_description = _write(flow_groups.set_flow_group_description)
    set_flow_group_default_parameters = _write(flow_groups.set_flow_group_default_parameters)
    delete_flow_group_default_parameter = _write(flow_groups.delete_flow_group_default_parameter)
    enable_flow_heartbeat = _write(flow_groups.enable_flow_heartbeat)
    disable_flow_heartbeat = _write(flow_groups.disable_flow_heartbeat)
    enable_flow_lazarus_process = _write(flow_groups.enable_flow_lazarus_process)
    disable_flow_lazarus_process = _write(flow_groups.disable_flow_lazarus_process)
    enable_flow_version_lock = _write(flow_groups.enable_flow_version_lock)
    disable_flow_version_lock = _write(flow_groups.disable_flow_version_lock)

    # -- flow runs and task runs -----------------------------------------------------------------------

    create_flow_run = _write(creation.create_flow_run)
    start_flow_runs = _write(creation.start_flow_runs)
    start_subflow_run = _write(subflows.start_subflow_run)
    delete_flow_run = _write(flow_runs.delete_flow_run)
    set_flow_run_name = _write(flow_runs.set_flow_run_name)
    set_flow_run_labels = _write(flow_runs.set_flow_run_labels)
    update_flow_run_heartbeat = _write(flow_runs.update_flow_run_heartbeat)
    cancel_flow_run = _write(directives.cancel_flow_run)
    restart_flow_run = _write(directives.restart_flow_run)
    direct_flow_run = _write(directives.direct_flow_run)
    obey_directive = _write(directives.obey_directive)
    list_directives = _read(directives.list_directives)
    get_flow_run_info = _read(reads.get_flow_run_info)
    get_flow_run_infos = _read(reads.get_flow_run_infos)
    get_flow_run_states = _read(reads.get_flow_run_states)
    list_flow_runs = _read(reads.list_flow_runs)
    find_flow_run = _read(reads.find_flow_run)
    list_flows = _read(reads.list_flows)
    list_limits = _read(reads.list_limits)
    get_run_logs = _read(reads.get_run_logs)
    list_artifacts = _read(logs.list_artifacts)
    get_flow_run_history = _read(reads.get_flow_run_history)

    get_or_create_task_run = _write(task_runs.get_or_create_task_run)
    get_or_create_task_run_info = _write(task_runs.get_or_create_task_run_info)
    get_or_create_task_runs = _write(task_runs.get_or_create_task_runs)
    get_task_run_info = _read(task_runs.get_task_run_info)
    get_latest_cached_states = _read(reads.get_latest_cached_states)
    mapped_children = _read(task_runs.mapped_children)
    answer_task_run = _write(answers.answer_task_run)
    set_task_run_name = _write(task_runs.set_task_run_name)
    update_task_run_heartbeat = _write(task_runs.update_task_run_heartbeat)

    write_run_logs = _write(logs.write_run_logs)
    create_task_run_artifact = _write(logs.create_task_run_artifact)
    update_task_run_artifact = _write(logs.update_task_run_artifact)
    delete_task_run_artifact = _write(logs.delete_task_run_artifact)

    # -- agents and workers ----------------------------------------------------------------------------

    register_agent = _write(queue.register_agent)
    get_runs_in_queue = _write(queue.get_runs_in_queue)
    reserve_flow_runs = _write(queue.reserve_flow_runs)
    claim_flow_run = _write(ownership.claim_flow_run)
    release_flow_run = _write(ownership.release_flow_run)

    # -- what only the hosted API had ------------------------------------------------------------------

    set_secret = _write(hosted.set_secret)
    delete_secret = _write(hosted.delete_secret)
    next_ready = _read(queue.next_ready)
    secret_value = _read(hosted.secret_value)
    secret_names = _read(hosted.secret_names)
    set_key_value = _write(hosted.set_key_value)
    delete_key_value = _write(hosted.delete_key_value)
    update_task_rate_limit = _write(hosted.update_task_rate_limit)
    delete_task_rate_limit = _write(hosted.delete_task_rate_limit)
    update_task_tag_limit = _write(hosted.update_task_tag_limit)
    delete_task_tag_limit = _write(hosted.delete_task_tag_limit)
    update_flow_concurrency_limit = _write(hosted.update_flow_concurrency_limit)
    delete_flow_concurrency_limit = _write(hosted.delete_flow_concurrency_limit)
    set_limit = _write(hosted.set_limit)
    create_api_key = _write(hosted.create_api_key)
    delete_api_key = _write(hosted.delete_api_key)
    list_api_keys = _read(hosted.list_api_keys)
    create_descendant = _write(hosted.create_descendant)
    renew_session = _write(hosted.renew_session)
    delete_session = _write(hosted.delete_session)

    async def authenticate(self, key: str) -> Caller | None:
        """Return the caller whose API key this is, or None if it is nobody's or has expired."""
        now = self._clock.now()
        found = await self._database.read(lambda connection: hosted.authenticate(connection, key, now))
        if found is None:
            return None
        caller, is_to_be_noted = found
        if is_to_be_noted:
            with contextlib.suppress(BackendError):  # a database that takes no writes can be read all the same
                await self.write(caller, lambda tx: hosted.note_use(tx, key=key))
        return caller

    # -- telling people --------------------------------------------------------------------------------

    set_notification = _write(notifications.set_notification)
    delete_notification = _write(notifications.delete_notification)
    list_notifications = _read(notifications.list_notifications)
    note_events = _write(notifications.note_events)
    due_notifications = _write(notifications.due_notifications)
    note_sent = _write(notifications.note_sent)

    # -- services --------------------------------------------------------------------------------------

    schedule_flow_runs = _write(scheduling.schedule_flow_runs)
    find_active_schedules = _read(services.find_active_schedules)
    acquire_lease = _write(services.acquire_lease)
    release_lease = _write(services.release_lease)
    count_runs = _read(services.count_runs)
    kill_zombies = _write(services.kill_zombies)
    revive = _write(services.revive)

    async def run_scheduler(self) -> int:
        """Plan the next runs of every active schedule, a flow at a time; return how many runs are planned."""
        planned = 0
        after = ""
        while page := await self.find_active_schedules(ANYONE, after=after):
            for flow_id in page:
                planned += len(await self.schedule_flow_runs(ANYONE, flow_id=flow_id))
            after = page[-1]
        return planned

    async def prune(self, older_than: datetime.timedelta) -> Payload:
        """Delete what finished, or was last used, longer ago than this; see `pruning.prune`."""
        return await pruning.prune(self, older_than)
