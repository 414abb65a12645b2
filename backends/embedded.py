"""The backend that opens the database itself: a SQLite file or a PostgreSQL database, without a server between."""

from __future__ import annotations

import asyncio
import datetime
import random
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any, Literal, Self

import anyio
import msgspec

from ..engine.backend import (
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
    ProjectInfo,
    RegisteredFlow,
    StateRecord,
    TaskRunHistory,
    TaskRunInfoResult,
    failing,
)
from ..engine.clock import Clock, SystemClock
from ..engine.directives import Directive
from ..engine.errors import BackendRejected, BackendUnavailable, FlowloopError, FlowRunOwned
from ..engine.lifecycle import WAITING
from ..engine.result import Result
from ..engine.results.syncing import sync_results
from ..engine.serialization import decode_state, encode_state
from ..engine.settings import Settings
from ..engine.state import Pending, State
from ._circuit import Circuit, CircuitState
from ._elsewhere import Elsewhere
from ._hub import Hub
from .batcher import Batcher, RequestRejected

try:
    from .schedule_dates import next_events
    from .store import Caller, Outcome, StateChange, StateUpdate, Store
    from .store.creation import NewFlowRun, start_flow_runs
    from .store.deaths import free_places
    from .store.flow_runs import update_flow_run_heartbeat
    from .store.records import Kind
    from .store.task_runs import set_task_run_name
    from .store.transitions import refused_in, set_flow_run_states, set_task_run_states
    from .store.tx import Tx
except ModuleNotFoundError as error:
    raise FlowloopError("a database backend needs an extra: pip install 'flowloop[store]'") from error

__all__ = ["StoreBackend"]

_ITEM_OVERHEAD = 150


class _Write(msgspec.Struct, frozen=True, gc=False):
    """Something for the outbox: a state, a flow run that starts, the name of a task run, or a heartbeat."""

    kind: Literal["task_run", "flow_run", "start", "name", "heartbeat"]
    content: Any
    result: Result | None = None
    """What a state names, and has to be on the disk before it."""


class StoreBackend:
    """Records runs in a database that this process opens.

    What the coroutines of this process write at the same moment shares a transaction.

    Args:
        - url: ``sqlite:///FILE`` or ``postgresql://user@host/database``
        - settings: `outage_limit`, `cancel_grace`, `queue_interval`, `late_runs` and `secret_key` are used
        - clock: what states are stamped with
        - rng: source of the jitter between attempts while the database is away
        - schedules: whether runs are planned after the schedules of flows, by a `Worker` or `Recovery` on this backend
        - read_only: whether it is only looked at: nothing is written, not even a file where there is none
        - store_options: further arguments of `Store`, `synchronous` for instance

    Example:
        ```python
        async with StoreBackend("sqlite:///flowloop.db") as backend:
            info = await backend.get_flow_run_info(flow_run_id)
        ```
    """

    def __init__(
        self,
        url: str,
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        schedules: bool = False,
        read_only: bool = False,
        **store_options: Any,
    ) -> None:
        self._settings = settings or Settings.from_env()
        self._clock = clock or SystemClock()
        given = {
            "secret_key": self._settings.secret_key,
            "late_runs": self._settings.late_runs,
            "patience": self._settings.outage_limit,
            "next_events": next_events if schedules else None,
        }
        self._read_only = read_only
        self.store = Store(url, clock=self._clock, read_only=read_only, **{**given, **store_options})
        self.url = self.store.url
        self._caller = Caller(client_id=uuid.uuid4().hex, queue_seconds=self._settings.queue_interval)
        self._circuit = Circuit(self.url, self._settings.outage_limit, rng, is_open=False)
        self._outbox: Batcher[_Write, Any] = Batcher(self._send, self._circuit, grace=self._settings.cancel_grace)
        self._reading, self._looking = (
            Batcher[str, Any](read, self._circuit, max_flights=2) for read in (self._read_infos, self._read_states)
        )
        """Many who begin, or look, at once share their reads."""
        self._hub = Hub()
        self._elsewhere = Elsewhere(self._hub, self.store.listen, self.get_flow_run_state)
        self._stack = AsyncExitStack()

    @property
    def backlog(self) -> int:
        """See `Backend.backlog`."""
        return self._outbox.backlog

    @property
    def circuit_state(self) -> CircuitState:
        """Whether the database answers, as far as is known."""
        return self._circuit.state

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._circuit.at_home())
            await stack.enter_async_context(self.store)
            if not self._read_only:
                with suppress(BackendUnavailable):  # what is locked now is looked after later
                    await self.store.write(self._caller, free_places)
            stack.callback(self.store.watch(self._publish, ["flow_run"]))
            await stack.enter_async_context(self._elsewhere)
            await stack.enter_async_context(self._reading)
            await stack.enter_async_context(self._looking)
            await stack.enter_async_context(self._outbox)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()

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
        project = await self._call(self.store.get_or_create_project, name=project_name)
        flow = await self._call(
            self.store.create_flow,
            project_id=project["id"],
            serialized_flow=dict(serialized_flow),
            version_group_id=version_group_id,
            idempotency_key=idempotency_key,
        )
        return RegisteredFlow(flow["id"], flow["version"], flow["created"])

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
        created = await self._call(
            self.store.create_flow_run,
            flow_id=flow_id,
            parameters=parameters,
            context=context,
            flow_run_name=name,
            labels=labels,
            scheduled_start_time=scheduled_start_time,
            run_config=run_config,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
            owner=owner,
            lease_seconds=lease_seconds,
            priority=priority,
            fairness_key=fairness_key,
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
        document = None if state is None else encode_state(state)
        new = NewFlowRun(
            flow_id=flow_id,
            parameters=parameters,
            context=context,
            labels=labels,
            name=name,
            idempotency_key=owner,  # a batch whose answer was lost is sent again
            owner=owner,
            lease_seconds=lease_seconds,
            state=document,
        )
        row = await self._outbox.put(_Write("start", new), len(document or ()) + _ITEM_OVERHEAD, lane=owner)
        info = _flow_run(row, state)
        self._hub.started(info.id, info.state)
        return info

    async def start_subflow_run(
        self,
        flow_id: str,
        *,
        task_run_id: str,
        attempt: int,
        epoch: int | None,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> FlowRunInfoResult:
        """See `Backend.start_subflow_run`."""
        row = await self._call(
            self.store.start_subflow_run,
            flow_id=flow_id,
            task_run_id=task_run_id,
            attempt=attempt,
            epoch=epoch,
            parameters=parameters,
            name=name,
        )
        return _flow_run(row)

    # -- reading -----------------------------------------------------------------------------------

    async def get_flow_run_info(self, flow_run_id: str) -> FlowRunInfoResult:
        """See `Backend.get_flow_run_info`."""
        return _flow_run(await self._reading.put(flow_run_id))

    async def get_flow_run_state(self, flow_run_id: str) -> State:
        """See `Backend.get_flow_run_state`."""
        return _state(await self._looking.put(flow_run_id))

    async def get_task_run_state(self, task_run_id: str) -> State:
        """See `Backend.get_task_run_state`."""
        row = await self._call(self.store.get_task_run_info, task_run_id=task_run_id)
        return _state(row["serialized_state"])

    async def get_task_run_info(
        self, flow_run_id: str, task_id: str, map_index: int | None = None
    ) -> TaskRunInfoResult:
        """See `Backend.get_task_run_info`."""
        infos = await self.get_task_run_infos(flow_run_id, task_id, [-1 if map_index is None else map_index])
        return infos[0]

    async def get_task_run_infos(
        self, flow_run_id: str, task_id: str, map_indices: Sequence[int]
    ) -> list[TaskRunInfoResult]:
        """See `Backend.get_task_run_infos`."""
        rows = await self._call(
            self.store.get_or_create_task_runs, flow_run_id=flow_run_id, task_id=task_id, map_indices=list(map_indices)
        )
        return [_task_run(row, task_id, row["map_index"]) for row in rows]

    async def get_latest_cached_states(
        self, task_id: str, cache_key: str | None, created_after: datetime.datetime
    ) -> list[State]:
        """See `Backend.get_latest_cached_states`."""
        documents = await self._call(
            self.store.get_latest_cached_states, task_id=task_id, cache_key=cache_key, created_after=created_after
        )
        return [_state(document) for document in documents]

    async def list_flow_runs(self, limit: int = 20, only: FlowRunFilter | None = None) -> list[FlowRunSummary]:
        """See `Backend.list_flow_runs`."""
        return [_summary(row) for row in await self._call(self.store.list_flow_runs, limit=limit, only=only)]

    async def list_flows(self) -> list[FlowSummary]:
        """See `Backend.list_flows`."""
        return [FlowSummary(**row) for row in await self._call(self.store.list_flows)]

    async def list_limits(self) -> list[LimitRecord]:
        """See `Backend.list_limits`."""
        return [LimitRecord(**row) for row in await self._call(self.store.list_limits)]

    async def get_run_logs(self, flow_run_id: str, *, skip: int = 0, limit: int = 1000) -> list[LogRecord]:
        """See `Backend.get_run_logs`."""
        rows = await self._call(self.store.get_run_logs, flow_run_id=flow_run_id, skip=skip, limit=limit)
        return [LogRecord(**{**row, "name": row["name"] or "", "message": row["message"] or ""}) for row in rows]

    async def list_artifacts(self, flow_run_id: str) -> list[ArtifactRecord]:
        """See `Backend.list_artifacts`."""
        rows = await self._call(self.store.list_artifacts, flow_run_id=flow_run_id)
        return [ArtifactRecord(**row) for row in rows]

    async def find_flow_run(self, name: str) -> FlowRunSummary:
        """See `Backend.find_flow_run`."""
        return _summary(await self._call(self.store.find_flow_run, name=name))

    async def get_flow_run_history(self, flow_run_id: str) -> tuple[FlowRunSummary, list[TaskRunHistory]]:
        """See `Backend.get_flow_run_history`."""
        row = await self._call(self.store.get_flow_run_history, flow_run_id=flow_run_id)
        histories = [_history(task_run) for task_run in row["task_runs"]]
        return _summary(row), sorted(histories, key=lambda run: (run.task_slug, run.map_index))

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
        """See `Backend.set_flow_run_state`."""
        try:
            return self._sent("flow_run", flow_run_id, version, state, epoch, flow_run_id, rests_on)
        except Exception as error:
            return failing(error)

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
        """See `Backend.set_task_run_state`."""
        try:
            return self._sent("task_run", task_run_id, version, state, epoch, flow_run_id, rests_on)
        except Exception as error:
            return failing(error)

    def _sent(
        self,
        kind: Kind,
        run_id: str,
        version: int | None,
        state: State,
        epoch: int | None,
        flow_run_id: str | None,
        rests_on: Sequence[Post] = (),
    ) -> Post:
        document, held = encode_state(state), state._held
        ids: tuple[str, ...] = ()
        awaited: Sequence[asyncio.Future[Any]] = ()
        if rests_on:
            ids, awaited = tuple([one.run_id for one in rests_on]), [one.sent for one in rests_on]
        unsynced = held if isinstance(held, Result) and held.is_unsynced else None
        write = _Write(kind, StateUpdate(run_id, document, version, epoch, ids), unsynced)
        sent = self._outbox.put(write, len(document) + _ITEM_OVERHEAD, lane=flow_run_id, rests_on=awaited)
        return Post(run_id, state, sent, _recorded)

    async def set_task_run_name(self, task_run_id: str, name: str) -> bool:
        """See `Backend.set_task_run_name`."""
        await self._outbox.put(_Write("name", {"task_run_id": task_run_id, "name": name}), _ITEM_OVERHEAD)
        return True

    async def update_flow_run_heartbeat(self, flow_run_id: str, epoch: int | None = None) -> None:
        """See `Backend.update_flow_run_heartbeat`."""
        await self._outbox.put(_Write("heartbeat", {"flow_run_id": flow_run_id, "epoch": epoch}), _ITEM_OVERHEAD)

    async def write_run_logs(self, records: Sequence[LogRecord]) -> None:
        """See `Backend.write_run_logs`."""
        logs = [msgspec.structs.asdict(record) for record in records]
        await self._call(self.store.write_run_logs, logs=logs)

    async def create_task_run_artifact(self, task_run_id: str, kind: str, data: Any) -> str:
        """See `Backend.create_task_run_artifact`."""
        created = await self._call(self.store.create_task_run_artifact, task_run_id=task_run_id, kind=kind, data=data)
        return str(created["id"])

    async def update_task_run_artifact(self, artifact_id: str, data: Any) -> None:
        """See `Backend.update_task_run_artifact`."""
        await self._call(self.store.update_task_run_artifact, task_run_artifact_id=artifact_id, data=data)

    async def cancel_flow_run(self, flow_run_id: str) -> str:
        """See `Backend.cancel_flow_run`."""
        return str((await self._call(self.store.cancel_flow_run, flow_run_id=flow_run_id))["state"])

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
        row = await self._call(
            self.store.direct_flow_run,
            flow_run_id=flow_run_id,
            kind=kind,
            task=task,
            map_index=map_index,
            value=value,
            note=note,
            author=author,
            tag=tag,
        )
        return _directive(row)

    async def list_directives(self, flow_run_id: str) -> list[Directive]:
        """See `Backend.list_directives`."""
        return [_directive(row) for row in await self._call(self.store.list_directives, flow_run_id=flow_run_id)]

    async def obey_directive(self, directive_id: str, epoch: int | None = None) -> bool:
        """See `Backend.obey_directive`."""
        done = await self._call(self.store.obey_directive, directive_id=directive_id, epoch=epoch)
        return bool(done["success"])

    async def restart_flow_run(self, flow_run_id: str) -> int:
        """See `Backend.restart_flow_run`."""
        return int((await self._call(self.store.restart_flow_run, flow_run_id=flow_run_id))["task_runs"])

    async def set_schedule_active(self, flow_id: str, active: bool) -> bool:
        """See `Backend.set_schedule_active`."""
        operation = self.store.set_schedule_active if active else self.store.set_schedule_inactive
        return bool((await self._call(operation, flow_id=flow_id))["success"])

    async def set_limit(self, kind: str, name: str, limit: int | None, *, period: float | None = None) -> None:
        """See `Backend.set_limit`."""
        await self._call(self.store.set_limit, kind=kind, name=name, limit=limit, period=period)

    async def get_secret(self, name: str) -> Any:
        """See `Backend.get_secret`."""
        if name not in await self.list_secrets():
            return None
        return await self._call(self.store.secret_value, name=name)

    async def set_secret(self, name: str, value: Any) -> None:
        """See `Backend.set_secret`."""
        await self._call(self.store.set_secret, name=name, value=value)

    async def list_secrets(self) -> list[str]:
        """See `Backend.list_secrets`."""
        return list(await self._call(self.store.secret_names))

    async def delete_flow_run(self, flow_run_id: str) -> None:
        """See `Backend.delete_flow_run`."""
        await self._call(self.store.delete_flow_run, flow_run_id=flow_run_id)

    async def set_notification(self, rule: NotificationRule) -> None:
        """See `Backend.set_notification`."""
        await self._call(self.store.set_notification, **msgspec.structs.asdict(rule))

    async def delete_notification(self, name: str) -> None:
        """See `Backend.delete_notification`."""
        await self._call(self.store.delete_notification, name=name)

    async def list_notifications(self) -> list[NotificationRule]:
        """See `Backend.list_notifications`."""
        return [NotificationRule(**row) for row in await self._call(self.store.list_notifications)]

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
        """See `Backend.claim_flow_run`."""
        answer = await self._call(
            self.store.claim_flow_run,
            flow_run_id=flow_run_id,
            owner=owner,
            lease_seconds=lease_seconds,
            max_lapses=max_lapses,
            takeover=takeover,
            gone=gone,
        )
        if not answer["claimed"]:
            raise FlowRunOwned(flow_run_id, answer["owner"] or "", answer["last_heard"], answer["free_at"])
        return FlowRunClaim(owner, answer["epoch"], lease_seconds)

    async def release_flow_run(self, flow_run_id: str, epoch: int | None) -> None:
        """See `Backend.release_flow_run`."""
        await self._call(self.store.release_flow_run, flow_run_id=flow_run_id, epoch=epoch)

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
        """See `Backend.reserve_flow_runs`."""
        rows = await self._call(
            self.store.reserve_flow_runs,
            worker_id=worker_id,
            limit=limit,
            labels=labels,
            flow_names=flow_names,
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
                None if row["flow_run"] is None else _flow_run(row["flow_run"]),
            )
            for row in rows
        ]

    async def next_ready(self) -> float | None:
        """See `Backend.next_ready`."""
        seconds: float | None = await self._call(self.store.next_ready)
        return seconds

    # -- watching ----------------------------------------------------------------------------------

    def watch_ready(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """See `Backend.watch_ready`."""
        self._elsewhere.start()
        return self._hub.watch_ready()

    def watch_flow_run(self, flow_run_id: str) -> AbstractAsyncContextManager[AsyncIterator[State]]:
        """See `Backend.watch_flow_run`: what other processes on the same database write is heard, too."""
        self._elsewhere.start()
        return self._hub.watch(flow_run_id, lambda: self.get_flow_run_state(flow_run_id))

    def _publish(self, changes: Sequence[StateChange]) -> None:
        if any(change.kind == "flow_run" and change.state in WAITING for change in changes):
            self._hub.moved()
        for change in changes:
            if change.kind == "flow_run" and self._hub.watches(change.run_id):
                self._hub.publish(change.run_id, decode_state(change.serialized_state))

    # -- exchanges ---------------------------------------------------------------------------------

    async def _call(self, operation: Any, /, **arguments: Any) -> Any:
        return await self._circuit.call(lambda: operation(self._caller, **arguments))

    async def _send(self, writes: list[_Write], key: str) -> list[Any]:
        try:
            if self.store.is_synced:
                await sync_results([write.result for write in writes])
            return await self.store.write(self._caller, lambda tx: _record(tx, writes, key))
        except BackendUnavailable:
            raise
        except Exception as error:
            raise RequestRejected(str(error)) from error  # nothing was recorded: halving finds what cannot be

    async def _read_states(self, flow_run_ids: list[str], key: str) -> list[Any]:
        return await self.store.get_flow_run_states(self._caller, flow_run_ids=flow_run_ids)

    async def _read_infos(self, flow_run_ids: list[str], key: str) -> list[Any]:
        return await self.store.get_flow_run_infos(self._caller, flow_run_ids=flow_run_ids)


def _recorded(sent: State, outcome: Outcome) -> State:
    return sent if outcome.document is None else decode_state(outcome.document)


_SINGLE = {"name": set_task_run_name, "heartbeat": update_flow_run_heartbeat}


def _record(tx: Tx, writes: Sequence[_Write], key: str) -> list[Any]:
    """Record a batch in one transaction, and return the outcome of each write."""
    outcomes: list[Any] = [None] * len(writes)
    for place, write in enumerate(writes):
        operation: Any = _SINGLE.get(write.kind)
        if operation is not None:
            try:
                outcomes[place] = operation(tx, **write.content)
            except BackendRejected as error:
                outcomes[place] = error
    starts = [place for place, write in enumerate(writes) if write.kind == "start"]
    if starts:
        for place, started in zip(
            starts, start_flow_runs(tx, [writes[place].content for place in starts]), strict=True
        ):
            outcomes[place] = started
    refused: set[str] = set()
    for kind, record in (("task_run", set_task_run_states), ("flow_run", set_flow_run_states)):
        places = [place for place, write in enumerate(writes) if write.kind == kind]
        updates = [writes[place].content for place in places]
        if updates:
            # The versions tell a repeated message from a new one; without them only the key does.
            unversioned = any(update.version is None for update in updates)
            answers = record(tx, updates, key if unversioned else None, refused=refused)
            refused = refused_in(answers)
            for place, outcome in zip(places, answers, strict=True):
                outcomes[place] = outcome.error or outcome
    return outcomes


def _state(document: Any) -> State:
    return decode_state(bytes(document) if isinstance(document, msgspec.Raw) else document)


def _flow_run(row: Mapping[str, Any], sent: State | None = None) -> FlowRunInfoResult:
    """Return a flow run; a row without a document has the state that was sent."""
    project = row["project"] or {"id": "", "name": ""}
    is_as_sent = sent is not None and row["serialized_state"] is None
    return FlowRunInfoResult(
        id=row["id"],
        name=row["name"] or "",
        flow_id=row["flow_id"],
        version=row["version"],
        state=sent if sent is not None and is_as_sent else _state(row["serialized_state"]),
        task_runs=[_task_run(task_run, task_run["task_id"], -1) for task_run in row["task_runs"]],
        parameters=row["parameters"] or {},
        context=row["context"] or {},
        scheduled_start_time=row["scheduled_start_time"],
        project=ProjectInfo(project["id"], project["name"]),
        heartbeat=row["heartbeat"],
        owner=row["owner"],
        epoch=row["epoch"],
        start_time=row.get("start_time"),
        limits=row.get("limits"),
    )


def _task_run(row: Mapping[str, Any], task_id: str, map_index: int) -> TaskRunInfoResult:
    document = row["serialized_state"]
    state = Pending("Task run created") if document is None else _state(document)
    return TaskRunInfoResult(row["id"], task_id, row.get("task_slug"), row["version"], state, map_index)


def _directive(row: Mapping[str, Any]) -> Directive:
    return Directive(**{name: row[name] for name in Directive.__struct_fields__})


def _summary(row: Mapping[str, Any]) -> FlowRunSummary:
    return FlowRunSummary(
        id=row["id"],
        name=row["name"] or "",
        flow_name=row["flow_name"],
        state=row["state"],
        state_message=row["state_message"],
        created=row["created"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        scheduled_start_time=row["scheduled_start_time"],
        parent_task_run_id=row["parent_task_run_id"],
    )


def _history(row: Mapping[str, Any]) -> TaskRunHistory:
    return TaskRunHistory(
        id=row["id"],
        task_slug=row["task_slug"],
        map_index=row["map_index"],
        name=row["name"],
        states=[StateRecord(**state) for state in row["states"]],
        start_time=row["start_time"],
        end_time=row["end_time"],
    )
