"""The backend behind a GraphQL server: flowloop's own, or another one that speaks the Prefect 1 dialect.

A flowloop server says so, and is sent everything in batches that it answers item by item. Any other server runs a
list without isolating its failures, so it is sent single items, at most four at a time.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import gzip
import logging
import random
import urllib.parse
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Self

import anyio
import httpx
import msgspec
from gql import Client
from gql.transport.exceptions import TransportQueryError

from ...engine import lifecycle
from ...engine.backend import (
    LEASE_SECONDS,
    MAX_LAPSES,
    ArtifactRecord,
    FlowRunClaim,
    FlowRunFilter,
    FlowRunInfoResult,
    FlowRunReservation,
    FlowRunSummary,
    FlowSummary,
    LimitRecord,
    LogRecord,
    NotificationRule,
    Post,
    RegisteredFlow,
    TaskRunHistory,
    TaskRunInfoResult,
    check_recordable,
    failing,
    started_step_by_step,
)
from ...engine.clock import Clock, SystemClock
from ...engine.directives import Directive
from ...engine.errors import (
    BackendRejected,
    DialectError,
    FlowloopError,
    FlowRunOwned,
    OwnershipLost,
    UpstreamRefused,
    VersionLockMismatch,
)
from ...engine.lifecycle import WAITING
from ...engine.results.syncing import ResultNotSynced, sync_results
from ...engine.serialization import VERSION, decode_state, encode_state
from ...engine.serialization.text import storable
from ...engine.settings import Settings
from ...engine.state import State
from .._circuit import Circuit, CircuitState
from .._hub import Hub
from .._line import checked_rate
from ..batcher import Batcher, RequestRejected
from . import texts as documents
from .subscription import Subscriptions
from .texts import Write
from .transport import HttpTransport, Request, error_of

__all__ = ["GraphQLBackend"]

logger = logging.getLogger(__name__)

_LANES = 4
_PAGE = 500
_CHILDREN = 5_000
_READ_AT_ONCE = 50
_ITEM_OVERHEAD = 150
_FIELD_WEIGHT = 80_000  # what has a field of its own: the limit of a batch in bytes then keeps the document short
_MAX_STATE_BYTES = 1_000_000
_REFUSALS = {"OWNERSHIP_LOST": OwnershipLost, "UPSTREAM_REFUSED": UpstreamRefused}
_NO_ID = "00000000-0000-0000-0000-000000000000"


class GraphQLBackend:
    """Records runs through a GraphQL server.

    Args:
        - url: where the server listens, ``http://host:4200`` for instance
        - settings: `api_key`, `outage_limit`, `cancel_grace` and `queue_interval` are used
        - clock: the time of day
        - timeout: seconds that one request may take
        - connect_limit: seconds that a server is waited for when the backend is opened, the outage limit at most
        - rng: source of the jitter between attempts
        - transport: httpx transport to use in place of the network, to reach an ASGI app in this process for instance

    Example:
        ```python
        async with GraphQLBackend("http://localhost:4200") as backend:
            info = await backend.get_flow_run_info(flow_run_id)
        ```
    """

    def __init__(
        self,
        url: str,
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
        timeout: float = 15.0,
        connect_limit: float = 15.0,
        rng: random.Random | None = None,
        transport: Any = None,
    ) -> None:
        self._settings = settings or Settings.from_env()
        self._clock = clock or SystemClock()
        self._connect_limit = min(connect_limit, self._settings.outage_limit)
        _check_url(url)
        self.url = _without_credentials(url)
        self._post_url = self.url if self._settings.api_key else url.rstrip("/")
        self._headers = {
            "X-PREFECT-CORE-VERSION": VERSION,
            "X-FLOWLOOP-CLIENT-ID": uuid.uuid4().hex,
            "X-FLOWLOOP-QUEUE-SECONDS": f"{self._settings.queue_interval:g}",
        }
        if self._settings.api_key:
            self._headers["Authorization"] = f"Bearer {self._settings.api_key}"
        self._circuit = Circuit(self.url, self._settings.outage_limit, rng, is_open=False)
        self._transport = HttpTransport(
            self._post_url, self.url, headers=self._headers, timeout=timeout, clock=self._clock, transport=transport
        )
        self._subscriptions = Subscriptions(self._transport, self.url, self._headers, timeout)
        self._hub = Hub()
        self._hears_all = 0
        """How many subscriptions to all flow runs are open."""
        self._stack = AsyncExitStack()
        self._session: Any = None
        self._most_rows, self._most_children = _PAGE, _CHILDREN
        self._is_flowloop = False
        self._outboxes: list[Batcher[Write, Any]] = []
        self._reading, self._looking = (
            Batcher[str, Any](read, self._circuit, max_items=_READ_AT_ONCE, max_flights=2)
            for read in (self._read_infos, self._read_states)
        )
        """Many who begin, or look, at once share their reads."""

    @property
    def backlog(self) -> int:
        """See `Backend.backlog`."""
        return sum(outbox.backlog for outbox in self._outboxes)

    @property
    def circuit_state(self) -> CircuitState:
        """Whether the server answers, as far as is known."""
        return self._circuit.state

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._circuit.at_home())
            stack.push_async_callback(self._subscriptions.aclose)
            self._session = await stack.enter_async_context(Client(transport=self._transport, execute_timeout=None))
            self._is_flowloop = await self._circuit.reach(self._ask_who, self._connect_limit)
            if self._is_flowloop:
                outboxes = [self._outbox(self._send_batch, max_items=1_000, max_flights=2)]
            else:
                logger.info("%s is not a flowloop server: states are sent one by one", self.url)
                outboxes = [self._outbox(self._send_one, max_items=1) for _ in range(_LANES)]
            await stack.enter_async_context(self._reading)
            await stack.enter_async_context(self._looking)
            self._outboxes = [await outbox.__aenter__() for outbox in outboxes]
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with anyio.CancelScope(shield=True):
            async with self._stack, anyio.create_task_group() as group:
                for outbox in self._outboxes:
                    group.start_soon(outbox.__aexit__, None, None, None)

    def _outbox(self, send: Any, max_items: int, max_flights: int = 1) -> Batcher[Write, Any]:
        grace = self._settings.cancel_grace
        return Batcher(send, self._circuit, max_items=max_items, max_flights=max_flights, grace=grace)

    # -- registration ------------------------------------------------------------------------------

    async def register_flow(
        self,
        serialized_flow: Mapping[str, Any],
        *,
        project_name: str,
        version_group_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> RegisteredFlow:
        """See `Backend.register_flow`."""
        project_id = await self._project(project_name)
        found = await self._read(documents.NEWEST_FLOW, name=serialized_flow["name"], project=project_id)
        newest = found["flow"][0] if found["flow"] else None
        if newest is not None and _is_unchanged(newest, version_group_id, idempotency_key):
            return RegisteredFlow(newest["id"], newest["version"], created=False)
        # Under a key, a request whose answer was lost may be repeated. Without one there would be two versions.
        document = msgspec.json.encode(serialized_flow)
        created = await self._mutate(
            "create_flow_from_compressed_string",
            project_id=project_id,
            serialized_flow=base64.b64encode(gzip.compress(document)).decode(),
            set_schedule_active=True,
            version_group_id=version_group_id,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
        )
        if newest is not None and created["id"] == newest["id"]:
            return RegisteredFlow(newest["id"], newest["version"], created=False)
        flow = (await self._read(documents.FLOW_VERSION, id=created["id"]))["flow_by_pk"]
        return RegisteredFlow(flow["id"], flow["version"], created=True)

    async def _project(self, name: str) -> str:
        async def tenants() -> list[dict[str, Any]]:
            return list((await self._read(documents.TENANTS))["tenant"])

        async def projects() -> list[dict[str, Any]]:
            return list((await self._read(documents.PROJECT, name=name))["project"])

        found = await projects()
        if not found:
            owners = await tenants() or await self._made(tenants, "create_tenant", name="default", slug="default")
            found = await self._made(projects, "create_project", name=name, tenant_id=owners[0]["id"])
        return str(found[0]["id"])

    async def _made(
        self, find: Callable[[], Awaitable[list[dict[str, Any]]]], operation: str, **content: Any
    ) -> list[dict[str, Any]]:
        """Create something, or find what another client of the same server was quicker to create."""
        try:
            return [await self._mutate(operation, **content)]
        except BackendRejected:
            found = await find()
            if not found:
                raise
            return found

    async def create_flow_run(
        self,
        flow_id: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Sequence[str] | None = None,
        scheduled_start_time: datetime.datetime | None = None,
        run_config: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        owner: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        priority: int = 0,
        fairness_key: str | None = None,
    ) -> str:
        """See `Backend.create_flow_run`."""
        check_recordable(parameters=parameters, context=context)
        wanted: dict[str, Any] = {
            "parameters": parameters,
            "context": context,
            "flow_run_name": name,
            "labels": None if labels is None else list(labels),
            "scheduled_start_time": scheduled_start_time,
            "run_config": run_config,
        }
        if owner is not None and self._is_flowloop:
            wanted |= {"owner": owner, "lease_seconds": lease_seconds}
        if self._is_flowloop:
            wanted |= {"priority": priority or None, "fairness_key": fairness_key}
        created = await self._mutate(
            "create_flow_run",
            flow_id=flow_id,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
            **{name: value for name, value in wanted.items() if value is not None},
        )
        return str(created["id"])

    async def start_flow_run(
        self,
        flow_id: str,
        *,
        owner: str,
        lease_seconds: float = LEASE_SECONDS,
        state: State | None = None,
        parameters: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        name: str | None = None,
    ) -> FlowRunInfoResult:
        """See `Backend.start_flow_run`."""
        check_recordable(parameters=parameters, context=context)
        options: dict[str, Any] = {"parameters": parameters, "context": context, "labels": labels, "name": name}
        if not self._is_flowloop:
            return await started_step_by_step(
                self, flow_id, owner=owner, lease_seconds=lease_seconds, state=state, **options
            )
        document = None if state is None else msgspec.Raw(self._document(state))
        key = uuid.uuid4().hex  # a request whose answer was lost is sent again
        item = documents.StartItem(flow_id, owner, lease_seconds, key, document, **options)
        size = len(msgspec.json.encode(item))
        row = await self._put(Write("start_flow_runs", (item,)), owner, size, owner)
        return documents.started_flow_run(row, state)

    async def start_subflow_run(
        self,
        flow_id: str,
        *,
        task_run_id: str,
        attempt: int,
        epoch: int | None,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> FlowRunInfoResult | None:
        """See `Backend.start_subflow_run`; other servers have none."""
        if not self._is_flowloop:
            return None
        check_recordable(parameters=parameters)
        row = await self._mutate(
            "start_subflow_run",
            flow_id=flow_id,
            task_run_id=task_run_id,
            attempt=attempt,
            epoch=epoch,
            parameters=parameters,
            name=name,
        )
        return documents.started_flow_run(row, None)

    # -- reading -----------------------------------------------------------------------------------

    async def get_flow_run_info(self, flow_run_id: str) -> FlowRunInfoResult:
        """See `Backend.get_flow_run_info`."""
        return documents.flow_run_info(await self._reading.put(_canonical(flow_run_id)))

    async def _read_infos(self, flow_run_ids: list[str], key: str) -> list[Any]:
        """Read many flow runs at once; what is too much for one request is read alone, and in pages."""
        text = documents.OWNED_FLOW_RUN_INFOS if self._is_flowloop else documents.FLOW_RUN_INFOS
        limit = self._most_rows
        try:
            answer = await self._execute(text, {"ids": flow_run_ids, "limit": limit})
        except RequestRejected:
            if len(flow_run_ids) > 1 or limit == 1:
                raise
            self._most_rows = min(self._most_rows, limit // 2)
            return await self._read_infos(flow_run_ids, key)
        for row in answer["flow_run"]:
            found = row["task_runs"]
            if len(found) == limit:
                more = self._pages("task_run", documents.MORE_TASK_RUNS, after=found[-1]["id"], id=row["id"])
                found.extend([task_run async for task_run in more])
        return _by_id(answer, flow_run_ids)

    async def get_flow_run_state(self, flow_run_id: str) -> State:
        """See `Backend.get_flow_run_state`."""
        return documents.row_state(await self._looking.put(_canonical(flow_run_id)))

    async def _read_states(self, flow_run_ids: list[str], key: str) -> list[Any]:
        answer = await self._execute(documents.FLOW_RUN_STATES, {"ids": flow_run_ids})
        return _by_id(answer, flow_run_ids)

    async def get_task_run_state(self, task_run_id: str) -> State:
        """See `Backend.get_task_run_state`."""
        answer = await self._read(documents.TASK_RUN_STATE, id=task_run_id)
        return documents.row_state(_found(answer["get_task_run_info"], "Task run", task_run_id))

    async def get_task_run_info(
        self, flow_run_id: str, task_id: str, map_index: int | None = None
    ) -> TaskRunInfoResult:
        """See `Backend.get_task_run_info`."""
        index = -1 if map_index is None else map_index
        row = await self._mutate(
            "get_or_create_task_run_info", flow_run_id=flow_run_id, task_id=task_id, map_index=index
        )
        return TaskRunInfoResult(row["id"], task_id, None, row["version"], documents.row_state(row), index)

    async def get_task_run_infos(
        self, flow_run_id: str, task_id: str, map_indices: Sequence[int]
    ) -> list[TaskRunInfoResult]:
        """See `Backend.get_task_run_infos`."""
        if not self._is_flowloop:
            return await self._task_run_infos_one_by_one(flow_run_id, task_id, map_indices)
        infos: list[TaskRunInfoResult] = []
        while len(infos) < len(map_indices):
            asked = list(map_indices[len(infos) : len(infos) + self._most_children])
            try:
                answer = await self._mutate(
                    "get_or_create_task_runs", flow_run_id=flow_run_id, task_id=task_id, map_indices=asked
                )
            except RequestRejected:
                if len(asked) == 1:
                    raise
                self._most_children = len(asked) // 2
            else:
                infos += [
                    TaskRunInfoResult(
                        row["id"], task_id, None, row["version"], documents.row_state(row), row["map_index"]
                    )
                    for row in answer["task_runs"]
                ]
        return infos

    async def _task_run_infos_one_by_one(
        self, flow_run_id: str, task_id: str, map_indices: Sequence[int]
    ) -> list[TaskRunInfoResult]:
        infos: dict[int, TaskRunInfoResult] = {}

        async def get(index: int) -> None:
            infos[index] = await self.get_task_run_info(flow_run_id, task_id, index)

        async with anyio.create_task_group() as group:
            for index in map_indices:
                group.start_soon(get, index)
        return [infos[index] for index in map_indices]

    async def get_latest_cached_states(
        self, task_id: str, cache_key: str | None, created_after: datetime.datetime
    ) -> list[State]:
        """See `Backend.get_latest_cached_states`."""
        if cache_key is not None:
            answer = await self._read(documents.CACHED_OF_KEY, cache_key=cache_key, after=created_after)
        else:
            answer = await self._read(documents.CACHED_OF_TASK, task_id=task_id, after=created_after)
        return [documents.row_state(row) for row in answer["task_run"]]

    async def list_flow_runs(self, limit: int = 20, only: FlowRunFilter | None = None) -> list[FlowRunSummary]:
        """See `Backend.list_flow_runs`."""
        if only is not None and not self._is_flowloop:
            if only.part_of is not None:
                return []
            only = msgspec.structs.replace(only, parts=True)
        answer = await self._read(self._own(documents.FLOW_RUNS), limit=limit, where=documents.conditions(only))
        return [documents.flow_run_summary(row) for row in answer["flow_run"]]

    def _own(self, text: str) -> str:
        """Return a query of flow runs with what other servers do not know of them."""
        return documents.with_parents(text) if self._is_flowloop else text

    async def list_flows(self) -> list[FlowSummary]:
        """See `Backend.list_flows`."""
        newest: dict[str, Any] = {}
        skip = 0
        while rows := (await self._read(documents.FLOWS, skip=skip, limit=_PAGE))["flow"]:
            for row in rows:
                newest.setdefault(row["flow_group_id"], row)
            skip += len(rows)
        found = [documents.flow_summary(row) for row in newest.values()]
        return sorted(found, key=lambda flow: (flow.name, flow.project))

    async def list_limits(self) -> list[LimitRecord]:
        """See `Backend.list_limits`."""
        answer = await self._read(documents.LIMITS)
        if self._is_flowloop:
            answer |= await self._read(documents.RATES)
        return [
            LimitRecord(kind, row[key], row["limit"], row.get("period"))
            for kind, (table, key, _) in documents.LIMIT_KINDS.items()
            for row in answer.get(table, ())
        ]

    async def get_run_logs(self, flow_run_id: str, *, skip: int = 0, limit: int = 1000) -> list[LogRecord]:
        """See `Backend.get_run_logs`."""
        answer = await self._read(documents.LOGS, id=flow_run_id, skip=skip, limit=limit)
        return [documents.log_record(row) for row in answer["log"]]

    async def list_artifacts(self, flow_run_id: str) -> list[ArtifactRecord]:
        """See `Backend.list_artifacts`."""
        rows = [row async for row in self._pages("task_run_artifact", documents.ARTIFACTS, id=flow_run_id)]
        found = [documents.artifact(row) for row in rows]
        return sorted(found, key=lambda made: (made.created, made.id))

    async def find_flow_run(self, name: str) -> FlowRunSummary:
        """See `Backend.find_flow_run`."""
        ids = documents.id_range(name)
        rows: list[Any] = []
        if ids is None or ids[0] != ids[1]:
            rows = (await self._read(self._own(documents.FLOW_RUNS_BY_NAME), name=name))["flow_run"]
        if ids is not None and not rows:
            rows = (await self._read(self._own(documents.FLOW_RUNS_BY_ID), first=ids[0], last=ids[1]))["flow_run"]
        if len(rows) > 1:
            raise BackendRejected(f"the ids of several flow runs begin with {name!r}")
        return documents.flow_run_summary(_found(rows[0] if rows else None, "Flow run", name))

    async def get_flow_run_history(self, flow_run_id: str) -> tuple[FlowRunSummary, list[TaskRunHistory]]:
        """See `Backend.get_flow_run_history`."""
        flow_run = await self.find_flow_run(flow_run_id)
        rows = [row async for row in self._pages("task_run", documents.TASK_RUN_HISTORIES, id=flow_run.id)]
        tracebacks: dict[str, dict[int, str | None]] = {}
        failed = sorted(lifecycle.FAILED)
        # another server records no tracebacks
        if self._is_flowloop and any(state["state"] in lifecycle.FAILED for row in rows for state in row["states"]):
            async for row in self._pages("task_run_state", documents.FAILURES, id=flow_run.id, states=failed):
                of_run = tracebacks.setdefault(row["task_run_id"], {})
                of_run[row["version"]] = documents.row_state(row).traceback
        histories = [documents.task_run_history(row, tracebacks.get(row["id"], {})) for row in rows]
        return flow_run, sorted(histories, key=lambda run: (run.task_slug, run.map_index))

    async def _pages(
        self, field: str, document: str, after: str = _NO_ID, **variables: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the rows of a query that is answered in pages, by id."""
        while True:
            answer, limit = await self._page(document, **variables, after=after)
            rows = answer[field]
            for row in rows:
                yield row
            if len(rows) < limit:
                return
            after = rows[-1]["id"]

    async def _page(self, document: str, **variables: Any) -> tuple[dict[str, Any], int]:
        """Read a page, and return it with its limit; where that is too much for the server, less from then on."""
        while True:
            limit = self._most_rows
            try:
                return await self._read(document, **variables, limit=limit), limit
            except RequestRejected:
                if limit == 1:
                    raise
                self._most_rows = min(self._most_rows, limit // 2)

    # -- writing -----------------------------------------------------------------------------------

    def set_flow_run_state(
        self,
        flow_run_id: str,
        version: int | None,
        state: State,
        *,
        epoch: int | None = None,
        rests_on: Sequence[Post] = (),
    ) -> Coroutine[Any, Any, State]:
        """See `Backend.set_flow_run_state`; a flowloop server takes states that rest on others."""
        version = version if self._is_flowloop or state.is_running() else None
        try:
            document = self._document(state)
            ids, awaited = tuple([one.run_id for one in rests_on]), tuple([one.sent for one in rests_on])
            item = documents.FlowRunStateItem(flow_run_id, version, msgspec.Raw(document), epoch, ids)
            write = Write("set_flow_run_states", (item,))
            sent = self._put(write, flow_run_id, len(document) + _ITEM_OVERHEAD, flow_run_id, awaited)
        except Exception as error:
            return failing(error)
        post = Post(flow_run_id, state, sent, _recorded)
        return post if self._is_flowloop else _asked(post, self.get_flow_run_state)

    def set_task_run_state(
        self,
        task_run_id: str,
        version: int | None,
        state: State,
        cache_for: datetime.timedelta | None = None,
        *,
        epoch: int | None = None,
        flow_run_id: str | None = None,
        rests_on: Sequence[Post] = (),
    ) -> Coroutine[Any, Any, State]:
        """See `Backend.set_task_run_state`; a flowloop server takes states that rest on others."""
        version = version if self._is_flowloop or state.is_running() or state.is_submitted() else None
        try:
            post = self._post(task_run_id, version, state, epoch, flow_run_id, rests_on)
        except Exception as error:
            return failing(error)
        return post if self._is_flowloop else _asked(post, self.get_task_run_state)

    def _post(
        self,
        task_run_id: str,
        version: int | None,
        state: State,
        epoch: int | None,
        flow_run_id: str | None,
        rests_on: Sequence[Post],
    ) -> Post:
        document = self._document(state)
        ids, awaited = tuple([one.run_id for one in rests_on]), tuple([one.sent for one in rests_on])
        item = documents.TaskRunStateItem(task_run_id, version, msgspec.Raw(document), epoch, ids)
        write = Write("set_task_run_states", (item,), state._result if state._result.is_unsynced else None)
        sent = self._put(write, task_run_id, len(document) + _ITEM_OVERHEAD, flow_run_id, awaited)
        return Post(task_run_id, state, sent, _recorded)

    async def set_task_run_name(self, task_run_id: str, name: str) -> bool:
        """See `Backend.set_task_run_name`."""
        content = {"task_run_id": task_run_id, "name": storable(name)}
        answer = await self._put(Write("set_task_run_name", content), task_run_id, _FIELD_WEIGHT)
        return bool(answer["success"])

    async def update_flow_run_heartbeat(self, flow_run_id: str, epoch: int | None = None) -> None:
        """See `Backend.update_flow_run_heartbeat`."""
        content = {"flow_run_id": flow_run_id} if epoch is None else {"flow_run_id": flow_run_id, "epoch": epoch}
        write = Write("update_flow_run_heartbeat", content)
        await self._put(write, flow_run_id, _FIELD_WEIGHT)

    async def write_run_logs(self, records: Sequence[LogRecord]) -> None:
        """See `Backend.write_run_logs`."""
        for lines in documents.log_lines(records):
            size = sum(len(line) for line in lines)
            await self._put(
                Write("write_run_logs", [msgspec.Raw(line) for line in lines]), records[0].flow_run_id, size
            )

    async def create_task_run_artifact(self, task_run_id: str, kind: str, data: Any) -> str:
        """See `Backend.create_task_run_artifact`."""
        document = msgspec.json.encode(data)  # here, so that what cannot be written fails alone
        content = {"task_run_id": task_run_id, "kind": kind, "data": msgspec.Raw(document)}
        size = _FIELD_WEIGHT + len(document)
        answer = await self._put(Write("create_task_run_artifact", content), task_run_id, size)
        return str(answer["id"])

    async def update_task_run_artifact(self, artifact_id: str, data: Any) -> None:
        """See `Backend.update_task_run_artifact`."""
        document = msgspec.Raw(msgspec.json.encode(data))
        await self._mutate("update_task_run_artifact", task_run_artifact_id=artifact_id, data=document)

    async def cancel_flow_run(self, flow_run_id: str) -> str:
        """See `Backend.cancel_flow_run`."""
        return str((await self._mutate("cancel_flow_run", flow_run_id=flow_run_id))["state"])

    # -- looking after runs ------------------------------------------------------------------------

    async def direct_flow_run(
        self,
        flow_run_id: str,
        kind: str,
        *,
        task: str | None = None,
        map_index: int = -1,
        value: Any = None,
        note: str | None = None,
        author: str | None = None,
        tag: str | None = None,
    ) -> Directive:
        """See `Backend.direct_flow_run`."""
        check_recordable(value=value)
        given = {"flow_run_id": flow_run_id, "kind": kind, "task": task, "map_index": map_index, "tag": tag}
        row = await self._mutate("direct_flow_run", **given, value=value, note=note, author=author)
        return documents.directive(row)

    async def list_directives(self, flow_run_id: str) -> list[Directive]:
        """See `Backend.list_directives`; other servers know none."""
        if not self._is_flowloop:
            return []
        answer = await self._read(documents.DIRECTIVES, id=flow_run_id)
        return [documents.directive(row) for row in answer["directive"]]

    async def obey_directive(self, directive_id: str, epoch: int | None = None) -> bool:
        """See `Backend.obey_directive`."""
        return bool((await self._mutate("obey_directive", directive_id=directive_id, epoch=epoch))["success"])

    async def restart_flow_run(self, flow_run_id: str) -> int:
        """See `Backend.restart_flow_run`."""
        return int((await self._mutate("restart_flow_run", flow_run_id=flow_run_id))["task_runs"])

    async def set_schedule_active(self, flow_id: str, active: bool) -> bool:
        """See `Backend.set_schedule_active`."""
        field = "set_schedule_active" if active else "set_schedule_inactive"
        return bool((await self._mutate(field, flow_id=flow_id))["success"])

    async def set_limit(self, kind: str, name: str, limit: int | None, *, period: float | None = None) -> None:
        """See `Backend.set_limit`."""
        if kind not in documents.LIMIT_KINDS:
            raise BackendRejected(f"There are limits of the kinds {', '.join(documents.LIMIT_KINDS)}, not {kind!r}.")
        table, key, query = documents.LIMIT_KINDS[kind]
        if limit is not None:
            rate = {"period": checked_rate(limit, period)} if kind == "rate" else {}
            await self._mutate(f"update_{table}", **{key: name}, limit=limit, **rate)
            return
        found = [row["id"] for row in (await self._read(query))[table] if row[key] == name]
        if not found:
            raise BackendRejected(f"There is no limit for the {kind} {name!r}.")
        await self._mutate(f"delete_{table}", limit_id=found[0])

    async def get_secret(self, name: str) -> Any:
        """See `Backend.get_secret`."""
        if name not in await self.list_secrets():
            return None
        return (await self._read(documents.SECRET, name=name))["secret_value"]

    async def set_secret(self, name: str, value: Any) -> None:
        """See `Backend.set_secret`."""
        await self._mutate("set_secret", name=name, value=value)

    async def list_secrets(self) -> list[str]:
        """See `Backend.list_secrets`."""
        return list((await self._read(documents.SECRETS))["secret_names"] or ())

    async def delete_flow_run(self, flow_run_id: str) -> None:
        """See `Backend.delete_flow_run`."""
        await self._mutate("delete_flow_run", flow_run_id=flow_run_id)

    async def set_notification(self, rule: NotificationRule) -> None:
        """See `Backend.set_notification`."""
        await self._mutate("set_notification", **msgspec.structs.asdict(rule))

    async def delete_notification(self, name: str) -> None:
        """See `Backend.delete_notification`."""
        await self._mutate("delete_notification", name=name)

    async def list_notifications(self) -> list[NotificationRule]:
        """See `Backend.list_notifications`."""
        answer = await self._read(documents.NOTIFICATIONS)
        return [NotificationRule(**row) for row in answer["notifications"]]

    # -- ownership ---------------------------------------------------------------------------------

    async def claim_flow_run(
        self,
        flow_run_id: str,
        owner: str,
        *,
        lease_seconds: float = LEASE_SECONDS,
        max_lapses: int = MAX_LAPSES,
        takeover: bool = False,
        gone: str | None = None,
    ) -> FlowRunClaim:
        """See `Backend.claim_flow_run`; other servers know no claims, and of owners no more than their heartbeats."""
        if not self._is_flowloop:
            await self._check_silent(flow_run_id, lease_seconds, takeover)
            return FlowRunClaim(owner, None, lease_seconds)
        answer = await self._mutate(
            "claim_flow_run",
            flow_run_id=flow_run_id,
            owner=owner,
            lease_seconds=lease_seconds,
            max_lapses=max_lapses,
            takeover=takeover,
            gone=gone,
        )
        if not answer["claimed"]:
            heard, free_at = (documents.moment(answer[name]) for name in ("last_heard", "free_at"))
            raise FlowRunOwned(flow_run_id, answer["owner"] or "", heard, free_at)
        return FlowRunClaim(owner, answer["epoch"], lease_seconds)

    async def _check_silent(self, flow_run_id: str, lease_seconds: float, takeover: bool) -> None:
        info = await self.get_flow_run_info(flow_run_id)
        if takeover or not info.state.is_running() or info.heartbeat is None:
            return
        free_at = info.heartbeat + datetime.timedelta(seconds=lease_seconds)
        if free_at > self._clock.now():
            raise FlowRunOwned(flow_run_id, "", info.heartbeat, free_at)

    async def release_flow_run(self, flow_run_id: str, epoch: int | None) -> None:
        """See `Backend.release_flow_run`."""
        if epoch is not None:
            await self._mutate("release_flow_run", flow_run_id=flow_run_id, epoch=epoch)

    # -- handing out runs --------------------------------------------------------------------------

    async def reserve_flow_runs(
        self,
        worker_id: str,
        *,
        limit: int = 1,
        labels: Sequence[str] = (),
        flow_names: Sequence[str] | None = None,
        lease_seconds: float = LEASE_SECONDS,
        max_lapses: int = MAX_LAPSES,
        begun: bool = False,
        not_flow_ids: Sequence[str] = (),
        alone: bool = True,
    ) -> list[FlowRunReservation]:
        """See `Backend.reserve_flow_runs`; only a flowloop server gives a run to one worker alone."""
        if not self._is_flowloop:
            raise BackendRejected(f"{self.url} is not a flowloop server: it hands out runs to agents, not to workers")
        answer = await self._mutate(
            "reserve_flow_runs",
            worker_id=worker_id,
            limit=limit,
            labels=list(labels),
            flow_names=None if flow_names is None else list(flow_names),
            lease_seconds=lease_seconds,
            max_lapses=max_lapses,
            begun=begun,
            not_flow_ids=list(not_flow_ids),
            alone=alone,
        )
        return [
            FlowRunReservation(
                row["flow_run_id"],
                row["flow_id"],
                row["flow_name"],
                row["lapsed"],
                FlowRunClaim(worker_id, row["epoch"], lease_seconds),
                row["alone"],
                None if row["flow_run"] is None else documents.started_flow_run(row["flow_run"], None),
            )
            for row in answer["flow_runs"]
        ]

    async def next_ready(self) -> float | None:
        """See `Backend.next_ready`."""
        seconds: float | None = (await self._read(documents.NEXT_READY))["next_ready"]
        return seconds

    # -- watching ----------------------------------------------------------------------------------

    def watch_ready(self) -> AbstractAsyncContextManager[AsyncIterator[None]] | None:
        """See `Backend.watch_ready`."""
        return self._waiting() if self._can_listen else None

    @asynccontextmanager
    async def _waiting(self) -> AsyncIterator[AsyncIterator[None]]:
        async with (
            self._subscriptions.subscribe(documents.WATCH_FLOW_RUNS, {}) as events,
            aclosing(self._moves(events)) as moves,
        ):
            yield moves

    async def _moves(self, events: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[None]:
        """Yield when a flow run may be ready; whoever watches one of them is told here, too."""
        self._hears_all += 1
        try:
            async for event in events:
                told = event["flow_run_states"]
                if self._hub.watches(told["id"]):
                    self._hub.publish(told["id"], documents.row_state(told))
                if told["state"] in WAITING:
                    yield
        finally:
            self._hears_all -= 1
            if not self._hears_all:
                self._hub.end()

    @property
    def _can_listen(self) -> bool:
        return self._is_flowloop and self._transport.kwargs["transport"] is None

    def watch_flow_run(self, flow_run_id: str) -> AbstractAsyncContextManager[AsyncIterator[State]] | None:
        """See `Backend.watch_flow_run`: by a subscription of its own, unless there is one to all flow runs."""
        if self._hears_all:
            return self._hub.watch(flow_run_id, lambda: self.get_flow_run_state(flow_run_id))
        return self._watch(flow_run_id) if self._can_listen else None

    @asynccontextmanager
    async def _watch(self, flow_run_id: str) -> AsyncIterator[AsyncIterator[State]]:
        async with (
            self._subscriptions.subscribe(documents.WATCH_FLOW_RUN, {"id": flow_run_id}) as events,
            aclosing(documents.row_state(event["flow_run_states"]) async for event in events) as states,
        ):
            yield states

    # -- exchanges ---------------------------------------------------------------------------------

    async def _ask_who(self) -> bool:
        """Ask whether this is a flowloop server; a server that is none of the dialect's raises an error."""
        try:
            answer = await self._execute(documents.WHO, {})
        except (BackendRejected, DialectError):  # it does not know the question, or something is wrong
            try:
                await self._execute(documents.HELLO, {})
            except BackendRejected as error:
                if self.url in str(error):
                    raise
                raise BackendRejected(f"{self.url} does not say hello: {error}") from error
            return False
        return bool((answer.get("api") or {}).get("flowloop"))

    async def _read(self, text: str, /, **variables: Any) -> dict[str, Any]:
        return await self._circuit.call(lambda: self._execute(text, variables))

    async def _mutate(self, field: str, /, **content: Any) -> dict[str, Any]:
        text = documents.mutation(field)
        answer = await self._circuit.call(lambda: self._execute(text, {"input": content}))
        return _payload(answer, field)

    async def _execute(self, text: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        data, errors = await self._exchange(Request(text, variables))
        if errors:
            raise error_of(errors, self.url)
        assert isinstance(data, dict)  # the transport accepts nothing else
        return data

    async def _exchange(self, request: Request, key: str | None = None) -> tuple[Any, list[Any]]:
        extra = {"extra_args": {"headers": {"X-FLOWLOOP-IDEMPOTENCY-KEY": key}}} if key is not None else {}
        if self._session is None:
            raise self._circuit.away()
        try:
            return await self._session.execute(request, **extra), []
        except TransportQueryError as error:
            return error.data, error.errors or []

    def _put(
        self,
        write: Write,
        run_id: str,
        size: int,
        flow_run_id: str | None = None,
        rests_on: Sequence[asyncio.Future[Any]] = (),
    ) -> asyncio.Future[Any]:
        if not self._outboxes:
            raise self._circuit.away()
        # Always the same lane for a run: its states arrive in the order they were sent.
        return self._outboxes[hash(run_id) % len(self._outboxes)].put(write, size, run_id, flow_run_id, rests_on)

    async def _send_batch(self, writes: list[Write], key: str) -> list[Any]:
        await _sync(writes)
        text, variables, keys = documents.combined(writes)
        # The versions tell a repeated message from a new one; without them only the key does.
        data, errors = await self._exchange(Request(text, variables), key if _unversioned(variables) else None)
        failed = {_path(error)[0]: error_of([error], self.url) for error in errors if _path(error)}
        for error in failed.values():
            if not isinstance(error, BackendRejected):
                raise error
        nowhere = [error for error in errors if not _path(error)]
        if nowhere or not isinstance(data, dict):
            error = error_of(nowhere or errors, self.url)
            raise RequestRejected(str(error)) if isinstance(error, BackendRejected) and len(writes) > 1 else error
        items = {
            field: iter(_payload(data, field)[documents.LISTS[field]])
            for field in documents.ANSWERED
            if field in variables and field not in failed
        }
        return [
            failed[key] if key in failed else _outcome(next(items[key])) if key in items else _payload(data, key)
            for key in keys
        ]

    async def _send_one(self, writes: list[Write], key: str) -> list[Any]:
        await _sync(writes)
        write = writes[0]
        listed = documents.LISTS.get(write.field)
        content = write.content if listed is None else {listed: write.content}
        answer = _payload(await self._execute(documents.mutation(write.field), {"input": content}), write.field)
        return [answer[listed][0] if listed is not None and write.field in documents.ANSWERED else answer]

    def _document(self, state: State) -> bytes:
        document = encode_state(state)
        if len(document) > _MAX_STATE_BYTES:
            raise BackendRejected(
                f"State payload is too large: {len(document):,} bytes, and {_MAX_STATE_BYTES:,} is the limit"
            )
        return document


async def _sync(writes: Sequence[Write]) -> None:
    """Have on the disk what the states name: the server's record of them outlives a loss of power."""
    try:
        await sync_results([write.result for write in writes])
    except ResultNotSynced as error:
        raise RequestRejected(str(error)) from error


def _recorded(sent: State, outcome: Mapping[str, Any]) -> State:
    document = outcome.get("serialized_state")
    return sent if document is None else decode_state(document)


async def _asked(post: Post, read: Callable[[str], Awaitable[State]]) -> State:
    """Return what is recorded where the answer may not say it: in the place of a state that has to wait."""
    outcome = await post.sent
    if outcome.get("status") == "QUEUED" and outcome.get("serialized_state") is None:
        return await read(post.run_id)
    return post.recorded(outcome)


def _is_unchanged(newest: Mapping[str, Any], version_group_id: str | None, idempotency_key: str | None) -> bool:
    """Whether the newest version of a flow was registered under this key, so that its document need not be sent."""
    settings = newest["flow_group"]["settings"] or {}
    return (
        idempotency_key is not None
        and settings.get("idempotency_key") == idempotency_key
        and version_group_id in (None, newest["version_group_id"])
        and not newest["archived"]
    )


def _canonical(flow_run_id: str) -> str:
    """Return an id as answers spell it; one that is none must not spoil what others ask for in the same request."""
    try:
        return str(uuid.UUID(flow_run_id))
    except ValueError:
        raise _missing("Flow run", flow_run_id) from None


def _found(row: Any, what: str, asked: str) -> Any:
    if row is None:
        raise _missing(what, asked)
    return row


def _by_id(answer: Mapping[str, Any], flow_run_ids: Sequence[str]) -> list[Any]:
    """Return the rows of flow runs in the order they were asked for, and a refusal for one that there is not."""
    rows = {row["id"]: row for row in answer["flow_run"]}
    return [rows.get(asked) or _missing("Flow run", asked) for asked in flow_run_ids]


def _missing(what: str, asked: str) -> BackendRejected:
    return BackendRejected(f"{what} {asked!r} not found")


def _unversioned(variables: Mapping[str, Any]) -> bool:
    return any(item.version is None for content in variables.values() for item in content.get("states", ()))


def _path(error: Any) -> list[Any]:
    return (error.get("path") or []) if isinstance(error, dict) else []


def _payload(data: Any, key: str) -> dict[str, Any]:
    payload = data.get(key)
    if not isinstance(payload, dict):
        raise DialectError(f"the answer has no {key}")
    return payload


def _outcome(item: Mapping[str, Any]) -> Mapping[str, Any] | BackendRejected:
    if item["status"] != "ERROR":
        return item
    message, document = item.get("message") or "the state was refused", item.get("serialized_state")
    if item.get("code") == "VERSION_LOCKING_ERROR":
        return VersionLockMismatch(message, None if document is None else decode_state(document))
    return _REFUSALS.get(item.get("code") or "", BackendRejected)(message)


def _check_url(url: str) -> None:
    """Refuse what can be the URL of no server: nobody would ever answer.

    Raises:
        - FlowloopError: if it is none; it may hold a password, so that nothing of it is told but the host
    """
    example = "a server has a URL like http://HOST:PORT"
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        problem = f"{example}, and this one cannot be read: special characters, in a password too, are written as %40"
        raise FlowloopError(problem) from None
    if parsed.scheme not in ("http", "https"):
        raise FlowloopError(f"{example}, or https://…, not {parsed.scheme}://…")
    if not parsed.host or ("%" in parsed.host and ":" not in parsed.host) or (parsed.port or 0) >= 2**16:
        raise FlowloopError(f"{example}, and this one names no such host: {parsed.netloc.decode()!r}")


def _without_credentials(url: str) -> str:
    parts = urllib.parse.urlsplit(url.rstrip("/"))
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
