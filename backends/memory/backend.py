"""The backend in memory: the reference of the port, and what tests of flows run against.

It keeps every rule of `flowloop.engine.backend` in the plainest way, in dicts. State documents go through the real
codec, so that a result comes back as it would from a server: as the place it is stored at, not as the value.
"""

from __future__ import annotations

import asyncio
import datetime
import math
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

import msgspec

from ...engine import lifecycle
from ...engine.backend import (
    LEASE_SECONDS,
    MAX_LAPSES,
    MOST_URGENT,
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
    TaskRunHistory,
    TaskRunInfoResult,
    beside_after,
    check_recordable,
    started_step_by_step,
)
from ...engine.cancellation import left_by
from ...engine.clock import Clock, SystemClock
from ...engine.directives import HELD, LIVES, PART, Directive, can_be, check_state, checked, limits_of, state_of
from ...engine.errors import BackendRejected, FlowRunOwned
from ...engine.given import check_given, check_names
from ...engine.limits import Rate
from ...engine.serialization import decode_state, encode_state
from ...engine.settings import Settings
from ...engine.state import (
    Cached,
    Cancelled,
    Cancelling,
    Failed,
    Paused,
    Pending,
    Queued,
    Running,
    Scheduled,
    State,
    Success,
)
from .._hub import Hub
from .._line import Waiter, ahead, beginning, checked_rate, pause, priority_in, why_not_yet, within
from .rows import Entry, Flow, FlowRun, Run, TaskRun, Waiting, in_turn

__all__ = ["MemoryBackend"]

_MAX_STATE_BYTES = 1_000_000
_MAX_CACHED_STATES = 100


class MemoryBackend:
    """Keeps flows, runs and states in this object, for as long as it lives.

    Args:
        - url: shown to people; the backend is the same whatever it is
        - settings: `queue_interval` is how long a queued run waits
        - clock: what states are stamped with

    Attributes a test may look at, or set:
        - logs: the lines written, in order
        - heartbeats: flow run id to the time of its last heartbeat
        - artifacts: what task runs made for people to look at, by id
        - task_tag_limits: task tag to how many task runs with it may run at once; the next one is queued
        - task_rates: task tag to how often task runs with it may begin
        - flow_run_limit: how many flow runs may run at once

    Example:
        ```python
        async with MemoryBackend() as backend:
            registered = await backend.register_flow(flow.serialize(), project_name="demo")
            flow_run_id = await backend.create_flow_run(registered.id)
        ```
    """

    def __init__(self, url: str = "memory://", *, settings: Settings | None = None, clock: Clock | None = None) -> None:
        self.url = url
        self.logs: list[LogRecord] = []
        self.heartbeats: dict[str, datetime.datetime] = {}
        self.artifacts: dict[str, ArtifactRecord] = {}
        self.task_tag_limits: dict[str, int] = {}
        self.task_rates: dict[str, Rate] = {}
        self._begun: defaultdict[str, list[float]] = defaultdict(list)
        self._line: dict[str, Waiting] = {}
        self._secrets: dict[str, Any] = {}
        self.flow_run_limit: int | None = None
        self._queue_interval = datetime.timedelta(seconds=(settings or Settings()).queue_interval)
        self._clock = clock or SystemClock()
        self._projects: dict[str, ProjectInfo] = {}
        self._flows: dict[str, Flow] = {}
        self._flow_runs: dict[str, FlowRun] = {}
        self._parts_of: defaultdict[str, list[FlowRun]] = defaultdict(list)
        self._flow_run_keys: dict[tuple[str, str], str] = {}
        self._task_runs: dict[str, TaskRun] = {}
        self._directives: dict[str, Directive] = {}
        self._hub = Hub()

    @property
    def backlog(self) -> int:
        """See `Backend.backlog`: nothing ever waits."""
        return 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

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
        document = msgspec.json.decode(msgspec.json.encode(serialized_flow))
        project = self._projects.setdefault(project_name, ProjectInfo(str(uuid.uuid4()), project_name))
        name = document["name"]
        if version_group_id is None:
            same = [flow for flow in self._flows.values() if (flow.project, flow.name) == (project, name)]
            version_group_id = same[-1].version_group_id if same else str(uuid.uuid4())
        group = [flow for flow in self._flows.values() if flow.version_group_id == version_group_id]
        if group and idempotency_key is not None and group[-1].idempotency_key == idempotency_key:
            return RegisteredFlow(group[-1].id, group[-1].version, created=False)
        flow = Flow(
            id=str(uuid.uuid4()),
            name=name,
            version=len(group) + 1,
            project=project,
            version_group_id=version_group_id,
            idempotency_key=idempotency_key,
            document=document,
            task_ids={task["slug"]: str(uuid.uuid4()) for task in document.get("tasks", ())},
        )
        self._flows[flow.id] = flow
        return RegisteredFlow(flow.id, flow.version, created=True)

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
        """See `Backend.create_flow_run`; nothing in memory asks for the run config."""
        if flow_id in self._flows:
            check_names(self._flows[flow_id].document.get("parameters", ()), parameters or {})
        if not -MOST_URGENT <= priority <= MOST_URGENT:
            raise BackendRejected(f"A priority is at most {MOST_URGENT} and at least {-MOST_URGENT}.")
        is_known = idempotency_key is not None and (flow_id, idempotency_key) in self._flow_run_keys
        run = self._created(
            flow_id,
            parameters,
            context,
            name,
            labels,
            scheduled_start_time=scheduled_start_time,
            idempotency_key=idempotency_key,
            owner=owner,
            lease_seconds=lease_seconds,
        )
        if not is_known:
            run.priority, run.fairness_key = priority, fairness_key
        return run.id

    def _created(
        self,
        flow_id: str,
        parameters: Mapping[str, Any] | None,
        context: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Sequence[str] | None = None,
        *,
        scheduled_start_time: datetime.datetime | None = None,
        idempotency_key: str | None = None,
        owner: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> FlowRun:
        flow = self._flows.get(flow_id)
        if flow is None:
            raise BackendRejected(f"Flow {flow_id} not found")
        if idempotency_key is not None and (flow_id, idempotency_key) in self._flow_run_keys:
            return self._flow_runs[self._flow_run_keys[flow_id, idempotency_key]]
        check_recordable(parameters=parameters, context=context)
        known = flow.document.get("parameters", ())
        given = {parameter["name"]: parameter["default"] for parameter in known if parameter.get("default")}
        given |= parameters or {}
        missing = {parameter["name"] for parameter in known if parameter.get("required")} - given.keys()
        if missing:
            raise BackendRejected(f"Required parameters were not supplied: {', '.join(sorted(missing))}")
        now = self._clock.now()
        flow_run = FlowRun(
            id=str(uuid.uuid4()),
            name=name or f"{flow.name}-{len(self._flow_runs) + 1}",
            created=now,
            flow=flow,
            parameters=given,
            context=dict(context or {}),
            scheduled_start_time=scheduled_start_time or now,
            labels=frozenset(labels or ()),
        )
        self._record(flow_run, Scheduled("Flow run scheduled.", start_time=flow_run.scheduled_start_time))
        self._flow_runs[flow_run.id] = flow_run
        if idempotency_key is not None:
            self._flow_run_keys[flow_id, idempotency_key] = flow_run.id
        for task in flow.document.get("tasks", ()):
            self._new_task_run(flow_run, flow.task_ids[task["slug"]], -1)
        if owner is not None:
            self._take(flow_run, owner, lease_seconds)
        return flow_run

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
        options: dict[str, Any] = {"parameters": parameters, "context": context, "labels": labels, "name": name}
        return await started_step_by_step(
            self, flow_id, owner=owner, lease_seconds=lease_seconds, state=state, **options
        )

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
        parent = self._task_run(task_run_id)
        around = parent.flow_run
        around.fence(epoch)
        if around.meaning.ends:
            raise BackendRejected(f"Flow run {around.id} is {around.state.__name__}: nothing begins in it.")
        runs = self._parts(around)
        found = [run for run in runs if (run.parent, run.attempt, run.flow.id) == (parent, attempt, flow_id)]
        if found:
            run = found[0]
        else:
            run = self._created(flow_id, parameters, name=name)
            run.parent, run.attempt = parent, attempt
            self._parts_of[run.root.id].append(run)
        if run.meaning.ends:
            self._restart_failed(run)
        run.owner, run.epoch, run.lease, run.heartbeat = around.owner, around.epoch, around.lease, around.heartbeat
        return await self.get_flow_run_info(run.id)

    def _parts(self, run: FlowRun) -> list[FlowRun]:
        """Return the flow runs that are a part of this one, and of its parts."""
        return [one for one in self._parts_of.get(run.root.id, ()) if run in _around(one)]

    # -- reading -----------------------------------------------------------------------------------

    async def get_flow_run_info(self, flow_run_id: str) -> FlowRunInfoResult:
        """See `Backend.get_flow_run_info`."""
        run = self._flow_run(flow_run_id)
        return FlowRunInfoResult(
            id=run.id,
            name=run.name or "",
            flow_id=run.flow.id,
            version=len(run.entries),
            state=decode_state(run.newest.document),
            task_runs=[task_run.info() for task_run in run.task_runs.values() if task_run.map_index == -1],
            parameters=dict(run.parameters),
            context=dict(run.context),
            scheduled_start_time=run.scheduled_start_time,
            project=run.flow.project,
            heartbeat=run.heartbeat,
            owner=run.owner,
            epoch=run.epoch,
            start_time=run.start_time,
            limits=run.limits,
        )

    async def get_flow_run_state(self, flow_run_id: str) -> State:
        """See `Backend.get_flow_run_state`."""
        return decode_state(self._flow_run(flow_run_id).newest.document)

    async def get_task_run_state(self, task_run_id: str) -> State:
        """See `Backend.get_task_run_state`."""
        return decode_state(self._task_run(task_run_id).newest.document)

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
        flow_run = self._flow_run(flow_run_id)
        if task_id not in flow_run.flow.task_ids.values():
            raise BackendRejected(f"Invalid task ID: {task_id}")
        found = (flow_run.task_runs.get((task_id, index)) for index in map_indices)
        return [
            (task_run or self._new_task_run(flow_run, task_id, index)).info()
            for index, task_run in zip(map_indices, found, strict=True)
        ]

    async def get_latest_cached_states(
        self, task_id: str, cache_key: str | None, created_after: datetime.datetime
    ) -> list[State]:
        """See `Backend.get_latest_cached_states`."""
        found = [
            run.newest
            for run in self._task_runs.values()
            if run.state is Cached
            and run.newest.record.timestamp >= created_after
            and (run.task_id == task_id if cache_key is None else run.cache_key == cache_key)
        ]
        found.sort(key=lambda entry: entry.record.timestamp, reverse=True)
        return [decode_state(entry.document) for entry in found[:_MAX_CACHED_STATES]]

    async def list_flow_runs(self, limit: int = 20, only: FlowRunFilter | None = None) -> list[FlowRunSummary]:
        """See `Backend.list_flow_runs`."""
        newest_first = reversed(self._flow_runs.values())
        found = (run for run in newest_first if only is None or run.matches(only))
        return [run.summary() for run, _ in zip(found, range(limit), strict=False)]

    async def list_flows(self) -> list[FlowSummary]:
        """See `Backend.list_flows`; no schedule of a flow in memory is followed."""
        newest = {flow.version_group_id: flow for flow in self._flows.values()}
        found = [
            FlowSummary(
                flow.id,
                flow.name,
                flow.version,
                flow.project.name,
                has_schedule=bool(flow.document.get("schedule")),
                schedule_active=False,
                next_run=None,
                parameters=list(flow.document.get("parameters", ())),
            )
            for flow in newest.values()
        ]
        return sorted(found, key=lambda flow: (flow.name, flow.project))

    async def list_limits(self) -> list[LimitRecord]:
        """See `Backend.list_limits`."""
        return [
            *(LimitRecord("tag", tag, limit) for tag, limit in sorted(self.task_tag_limits.items())),
            *(LimitRecord("rate", tag, rate.count, rate.period) for tag, rate in sorted(self.task_rates.items())),
        ]

    async def get_run_logs(self, flow_run_id: str, *, skip: int = 0, limit: int = 1000) -> list[LogRecord]:
        """See `Backend.get_run_logs`."""
        return [line for line in self.logs if line.flow_run_id == flow_run_id][skip : skip + limit]

    async def list_artifacts(self, flow_run_id: str) -> list[ArtifactRecord]:
        """See `Backend.list_artifacts`."""
        mine = {run.id for run in self._flow_run(flow_run_id).task_runs.values()}
        return [made for made in self.artifacts.values() if made.task_run_id in mine]

    async def find_flow_run(self, name: str) -> FlowRunSummary:
        """See `Backend.find_flow_run`."""
        return self._found(name).summary()

    def _found(self, name: str) -> FlowRun:
        runs = list(self._flow_runs.values())
        found = [run for run in runs if run.id == name] or [run for run in runs if run.name == name][-1:]
        found = found or [run for run in runs if name and run.id.startswith(name.lower())]
        if len(found) > 1:
            raise BackendRejected(f"the ids of several flow runs begin with {name!r}")
        if not found:
            raise BackendRejected(f"Flow run {name!r} not found")
        return found[0]

    async def get_flow_run_history(self, flow_run_id: str) -> tuple[FlowRunSummary, list[TaskRunHistory]]:
        """See `Backend.get_flow_run_history`."""
        flow_run = self._found(flow_run_id)
        task_runs = sorted(flow_run.task_runs.values(), key=lambda run: (run.task_slug, run.map_index))
        return flow_run.summary(), [run.history() for run in task_runs]

    # -- writing -----------------------------------------------------------------------------------

    async def set_flow_run_state(
        self,
        flow_run_id: str,
        version: int | None,
        state: State,
        *,
        epoch: int | None = None,
        rests_on: Sequence[Post] = (),
    ) -> State:
        """See `Backend.set_flow_run_state`; nothing rests on states that are recorded at once."""
        sent = _encode(state)
        await asyncio.sleep(0)  # as everywhere else, other coroutines come in between
        run = self._flow_run(flow_run_id)
        run.fence(epoch)
        repeated = run.repeated(version, sent)
        if repeated is not None:
            if type(state) is Cancelled and version is None:  # said again: what has not finished since is meant
                self._end_task_runs(run, state)
            return self._answer(state, repeated)
        if type(state) is Running:
            run.check_unowned(epoch, self._clock.now())
        run.check_version(version)
        if epoch is None or version is None:  # over an end of its own an owner may write
            run.check_not_finished(state)
        if type(state) is Running:
            run.prolong(epoch, self._clock.now())
        if type(state) is Running and epoch is None and run.owner is not None:
            run.owner, run.epoch = None, run.epoch + 1
        recorded = state
        if type(state) is Running and run.state is not Running and self._flow_runs_are_full():
            recorded = self._queued("Queued: the limit of flow runs at once is reached")
        self._record(run, recorded, sent)
        is_vouched_for = epoch is not None and version is not None
        name = type(state).__name__
        if lifecycle.ends_task_runs(name, is_claimed=run.epoch > 0, is_vouched_for=is_vouched_for):
            is_cancelled = isinstance(state, Cancelled)
            self._end_task_runs(run, state if is_cancelled else left_by(name, state.context.get("cause")))
        return self._answer(state, run.newest)

    async def set_task_run_state(
        self,
        task_run_id: str,
        version: int | None,
        state: State,
        cache_for: datetime.timedelta | None = None,
        *,
        epoch: int | None = None,
        flow_run_id: str | None = None,
        rests_on: Sequence[Post] = (),
    ) -> State:
        """See `Backend.set_task_run_state`; nothing rests on states that are recorded at once."""
        sent = _encode(state)
        await asyncio.sleep(0)
        run = self._task_run(task_run_id)
        run.flow_run.fence(epoch)
        repeated = run.repeated(version, sent)
        if repeated is not None:
            return self._answer(state, repeated)
        begins = type(state).__name__ in lifecycle.BEGINS["task_run"]
        if begins:
            run.flow_run.check_unowned(epoch, self._clock.now())
        run.check_version(version)
        if (begins or state.is_running()) and run.flow_run.state is not Running:
            raise BackendRejected(
                f"State update failed for task run ID {run.id}: provided a running state but associated flow run "
                f"{run.flow_run.id} is not in a running state."
            )
        if epoch is None or version is None:  # over an end of its own an owner may write
            run.check_not_finished(state)
        if begins:
            run.flow_run.prolong(epoch, self._clock.now())
        recorded = state
        if begins and not run.holds_places:
            recorded = self._held_back(run, state) or state
        if recorded is state:
            self._line.pop(run.id, None)
        self._record(run, recorded, sent)
        return self._answer(state, run.newest)

    async def set_task_run_name(self, task_run_id: str, name: str) -> bool:
        """See `Backend.set_task_run_name`."""
        if not name:
            raise BackendRejected("a task run's name cannot be empty")
        self._task_run(task_run_id).name = name
        return True

    async def update_flow_run_heartbeat(self, flow_run_id: str, epoch: int | None = None) -> None:
        """See `Backend.update_flow_run_heartbeat`."""
        run = self._flow_run(flow_run_id)
        run.fence(epoch)
        self.heartbeats[run.id] = run.heartbeat = self._clock.now()

    async def write_run_logs(self, records: Sequence[LogRecord]) -> None:
        """See `Backend.write_run_logs`."""
        self.logs.extend(records)

    async def create_task_run_artifact(self, task_run_id: str, kind: str, data: Any) -> str:
        """See `Backend.create_task_run_artifact`."""
        run, now = self._task_run(task_run_id), self._clock.now()
        made = ArtifactRecord(str(uuid.uuid4()), run.id, kind, msgspec.json.decode(msgspec.json.encode(data)), now)
        self.artifacts[made.id] = made
        return made.id

    async def update_task_run_artifact(self, artifact_id: str, data: Any) -> None:
        """See `Backend.update_task_run_artifact`."""
        if artifact_id not in self.artifacts:
            raise BackendRejected(f"Artifact {artifact_id} not found")
        now = msgspec.json.decode(msgspec.json.encode(data))
        self.artifacts[artifact_id] = msgspec.structs.replace(self.artifacts[artifact_id], data=now)

    async def cancel_flow_run(self, flow_run_id: str) -> str:
        """See `Backend.cancel_flow_run`."""
        await self.direct_flow_run(flow_run_id, "cancel")
        return self._flow_run(flow_run_id).state.__name__

    def _cancel(self, run: FlowRun) -> None:
        is_dead = run.owner is not None and run.is_silent(self._clock.now())
        if run.meaning.runs and not is_dead:
            self._record(run, Cancelling("Flow run is cancelling"))
        elif not run.meaning.ends:
            cancelled = Cancelled("Flow run is cancelled")
            self._record(run, cancelled)
            self._end_task_runs(run, cancelled)

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
        checked(kind, task, tag, value)
        run, now = self._flow_run(flow_run_id), self._clock.now()
        asked = Directive(
            id=str(uuid.uuid4()),
            flow_run_id=run.id,
            kind=kind,
            author=author,
            created=now,
            task=task,
            map_index=map_index,
            value=msgspec.json.decode(msgspec.json.encode(value)),
            note=note,
            tag=tag,
            obeyed=None if kind == "event" else now,
            epoch=None if kind == "event" else run.epoch,
        )
        if kind == "event" and run.meaning.ends:
            raise BackendRejected(f"Flow run {run.id} is {run.state.__name__}: nothing in it waits for an event.")
        if kind == "cancel":
            self._cancel(run)
        elif kind == "restart":
            self._restart(run, asked)
        elif kind == "set_parameter":
            self._set_parameter(run, asked)
        elif kind == "set_limits":
            self._set_limits(run, asked)
        elif kind != "event":
            self._move(run, asked)
        self._directives[asked.id] = asked
        return asked

    async def list_directives(self, flow_run_id: str) -> list[Directive]:
        """See `Backend.list_directives`."""
        return [asked for asked in self._directives.values() if asked.flow_run_id == flow_run_id]

    async def obey_directive(self, directive_id: str, epoch: int | None = None) -> bool:
        """See `Backend.obey_directive`."""
        asked = self._directives.get(directive_id)
        if asked is None:
            raise BackendRejected(f"Directive {directive_id} not found")
        if asked.obeyed is not None:
            return False
        self._directives[directive_id] = msgspec.structs.replace(asked, obeyed=self._clock.now(), epoch=epoch)
        return True

    def _move(self, run: FlowRun, asked: Directive) -> None:
        if run.meaning.ends:
            raise BackendRejected(f"Flow run {run.id} is {run.state.__name__}: its task runs wait for nobody any more.")
        state = state_of(asked)
        if asked.tag is not None:
            self._move_tagged(run, asked, state)
            return
        if asked.task is None:
            self._move_paused(run, asked, state)
            return
        task_id = self._task_id(run, asked.task)
        found = run.task_runs.get((task_id, asked.map_index)) or self._new_task_run(run, task_id, asked.map_index)
        check_state(asked.kind, found.state.__name__, f"Task run {asked.task}", is_held=_is_held(found))
        self._record(found, state)
        if asked.kind != "hold":
            self._wake(run, state.message)

    def _move_paused(self, run: FlowRun, asked: Directive, state: State) -> None:
        """Decide all task runs that are paused; where there are none, the flow run itself."""
        chosen = [one for one in run.task_runs.values() if one.state is Paused and not _is_held(one)]
        for one in chosen:
            self._record(one, state)
        if not chosen:
            check_state(asked.kind, run.state.__name__, f"Flow run {run.name}")
            self._record(run, state)
        self._wake(run, state.message)

    def _move_tagged(self, run: FlowRun, asked: Directive, state: State) -> None:
        tagged = {one["slug"] for one in run.flow.document.get("tasks", ()) if asked.tag in one.get("tags", ())}
        of_tasks = [one for one in run.task_runs.values() if one.task_slug in tagged]
        chosen = [one for one in of_tasks if can_be(asked.kind, one.state.__name__, is_held=_is_held(one))]
        if not chosen:
            raise BackendRejected(f"Flow run {run.name} has no task run with the tag {asked.tag!r} for that.")
        for one in chosen:
            self._record(one, state)
        if asked.kind == "release":
            self._wake(run, state.message)

    def _set_limits(self, run: FlowRun, asked: Directive) -> None:
        if run.meaning.ends:
            raise BackendRejected(f"Flow run {run.id} is {run.state.__name__}: nothing in it is limited any more.")
        run.limits = limits_of(asked.value, run.limits)
        self._hub.publish(run.id, decode_state(run.newest.document))

    def _wake(self, run: FlowRun, message: Any) -> None:
        """Let somebody go on with a flow run in which something waited that does so no more."""
        if run.is_part:
            assert run.parent is not None
            if run.parent.state is Paused:
                self._record(run.parent, Scheduled(message, start_time=self._clock.now()))
                self._wake(run.parent.flow_run, message)
            return
        waits_for_nobody = run.owner is None and run.epoch and run.state in (Running, Scheduled)
        if waits_for_nobody or run.state is Paused:
            self._record(run, Scheduled(message, start_time=self._clock.now()))

    def _set_parameter(self, run: FlowRun, asked: Directive) -> None:
        if not run.meaning.waits or run.epoch or run.start_time:
            raise BackendRejected(f"Flow run {run.id} has begun: its parameters have been read.")
        given = {asked.task or "": asked.value}
        check_given(run.flow.document.get("parameters", ()), given)
        run.parameters.update(given)

    def _task_id(self, run: FlowRun, slug: str) -> str:
        if slug not in run.flow.task_ids:
            raise BackendRejected(f"Flow run {run.name} has no task {slug!r}.")
        return run.flow.task_ids[slug]

    def _restart(self, run: FlowRun, asked: Directive) -> None:
        if asked.task is not None:
            self._task_id(run, asked.task)
        if run.is_part:
            raise BackendRejected(PART.format(run.id, run.root.id))
        self._restart_failed(run)
        if asked.task is None:
            return
        after = run.flow.downstream(asked.task)
        for task_run in run.task_runs.values():
            is_chosen = task_run.task_slug == asked.task and asked.map_index in (-1, task_run.map_index)
            if is_chosen or task_run.task_slug in after:
                self._begin_again(task_run, afresh=True)
                if task_run.state is not Pending:
                    self._record(task_run, Pending("Flow run restarted."))

    def _begin_again(self, task_run: TaskRun, *, afresh: bool) -> None:
        """Have a task run go on from the flow run that was its last attempt, or from none."""
        attempts = [run for run in self._parts(task_run.flow_run) if run.parent is task_run and run.attempt]
        for run in attempts:
            run.attempt = 0
        if attempts and not afresh:
            attempts[-1].attempt = 1

    async def restart_flow_run(self, flow_run_id: str) -> int:
        """See `Backend.restart_flow_run`."""
        run = self._flow_run(flow_run_id)
        before = sum(task_run.state is Pending for task_run in run.task_runs.values())
        await self.direct_flow_run(flow_run_id, "restart")
        return sum(task_run.state is Pending for task_run in run.task_runs.values()) - before

    def _restart_failed(self, flow_run: FlowRun) -> None:
        if not flow_run.meaning.ends:
            raise BackendRejected(
                f"Flow run {flow_run.id} is {flow_run.state.__name__}: only a finished flow run can be restarted."
            )
        again = [run for run in flow_run.task_runs.values() if not issubclass(run.state, (Success, Pending))]
        for task_run in again:
            self._begin_again(task_run, afresh=False)
            self._record(task_run, Pending("Flow run restarted."))
        self._record(flow_run, Scheduled("Flow run restarted.", start_time=self._clock.now()))
        flow_run.lapses = 0

    async def set_schedule_active(self, flow_id: str, active: bool) -> bool:
        """See `Backend.set_schedule_active`."""
        raise BackendRejected("a flow in memory runs after no schedule: use a database")

    async def set_limit(self, kind: str, name: str, limit: int | None, *, period: float | None = None) -> None:
        """See `Backend.set_limit`; there are limits on tags alone."""
        if kind not in ("tag", "rate"):
            raise BackendRejected(f"there is no limit of the kind {kind!r} in memory")
        limits: dict[str, Any] = self.task_tag_limits if kind == "tag" else self.task_rates
        if limit is not None:
            limits[name] = limit if kind == "tag" else Rate(limit, checked_rate(limit, period))
        elif limits.pop(name, None) is None:
            raise BackendRejected(f"There is no limit for the {kind} {name!r}.")

    async def get_secret(self, name: str) -> Any:
        """See `Backend.get_secret`."""
        return self._secrets.get(name)

    async def set_secret(self, name: str, value: Any) -> None:
        """See `Backend.set_secret`."""
        if not name:
            raise BackendRejected("A secret needs a name.")
        if value is None:
            self._secrets.pop(name, None)
        else:
            self._secrets[name] = value

    async def list_secrets(self) -> list[str]:
        """See `Backend.list_secrets`."""
        return sorted(self._secrets)

    async def delete_flow_run(self, flow_run_id: str) -> None:
        """See `Backend.delete_flow_run`."""
        run = self._flow_run(flow_run_id)
        if run.owner is not None and not run.is_silent(self._clock.now()) and not run.meaning.ends:
            raise BackendRejected(LIVES.format(run.id))
        for one in [run, *self._parts(run)]:
            del self._flow_runs[one.id]
            for task_run in one.task_runs.values():
                del self._task_runs[task_run.id]
        self._directives = {key: asked for key, asked in self._directives.items() if asked.flow_run_id != run.id}
        self._flow_run_keys = {key: found for key, found in self._flow_run_keys.items() if found != run.id}

    async def set_notification(self, rule: NotificationRule) -> None:
        """See `Backend.set_notification`."""
        raise BackendRejected("nobody is told of flow runs in memory: use a database")

    async def delete_notification(self, name: str) -> None:
        """See `Backend.delete_notification`."""
        raise BackendRejected(f"There is no notification {name!r}.")

    async def list_notifications(self) -> list[NotificationRule]:
        """See `Backend.list_notifications`."""
        return []

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
        run = self._flow_run(flow_run_id)
        if run.is_part and run.owner != owner:
            raise BackendRejected(PART.format(run.id, run.root.id))
        if run.meaning.ends or run.owner == owner:
            run.heartbeat = self._clock.now()
            return FlowRunClaim(owner, run.epoch, lease_seconds)
        is_dead = run.is_silent(self._clock.now()) or (gone is not None and gone == run.owner)
        if not is_dead and not takeover:
            raise FlowRunOwned(run.id, run.owner or "", run.heartbeat, run.free_at())
        return FlowRunClaim(owner, self._take(run, owner, lease_seconds, max_lapses, is_dead=is_dead), lease_seconds)

    def _take(
        self, run: FlowRun, owner: str, lease_seconds: float, max_lapses: int = MAX_LAPSES, *, is_dead: bool = True
    ) -> int:
        lapsed = is_dead and run.owner is not None
        run.lapses += lapsed
        run.owner, run.epoch = owner, run.epoch + 1
        run.lease, run.heartbeat = datetime.timedelta(seconds=lease_seconds), self._clock.now()
        if lapsed and run.lapses >= max_lapses:
            failed = Failed(
                f"The flow run was begun {run.lapses} times, and each time the process that ran it ended before it did."
            )
            self._record(run, failed)
            self._end_task_runs(run, failed)
        for part in self._parts(run):
            if not part.meaning.ends:
                part.owner, part.epoch, part.lease, part.heartbeat = run.owner, run.epoch, run.lease, run.heartbeat
        return run.epoch

    async def release_flow_run(self, flow_run_id: str, epoch: int | None) -> None:
        """See `Backend.release_flow_run`."""
        run = self._flow_run(flow_run_id)
        if run.epoch == epoch:
            run.owner = run.heartbeat = None

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
        now = self._clock.now()
        found: list[FlowRunReservation] = []
        ready: list[FlowRun] = []
        for run in self._flow_runs.values():
            mine = (flow_names is None or run.flow.name in flow_names) and run.flow.id not in not_flow_ids
            wanted = {label for label in run.labels if not label.startswith("agentless-")}
            suits = wanted <= set(labels) if wanted else not labels
            if mine and suits and run.owner != worker_id and (run.epoch > 0 or not begun):
                ready += [run] if run.is_ready(now) or run.is_left_behind(now) else []
        ready = in_turn(ready)
        lapses = [run for run in ready if run.owner is not None]
        due = [run for run in lapses if run.may_be_begun_again(now, alone=alone)]
        chosen = due[:1] if alone and due else [run for run in ready if run not in lapses or run in due]
        for run in chosen:
            lapsed = run.owner is not None
            is_alone = beside_after(run.lapses) if alone and lapsed else 0.0
            claim = FlowRunClaim(
                worker_id, self._take(run, worker_id, lease_seconds, max_lapses, is_dead=lapsed), lease_seconds
            )
            if not run.meaning.ends:
                info = await self.get_flow_run_info(run.id)
                found.append(FlowRunReservation(run.id, run.flow.id, run.flow.name, lapsed, claim, is_alone, info))
                if len(found) == limit or is_alone:
                    break
        return found

    async def next_ready(self) -> float | None:
        """See `Backend.next_ready`."""
        now, runs = self._clock.now(), [run for run in self._flow_runs.values() if not run.meaning.ends]
        if any(run.owner is not None or run.epoch > 0 or not run.meaning.waits for run in runs):
            return 0.0
        waiting = [*runs, *(task_run for run in runs for task_run in run.task_runs.values())]
        moments = [run.starts_at for run in waiting if run.meaning.waits and run.starts_at is not None]
        return min(((moment - now).total_seconds() for moment in moments if moment > now), default=None)

    # -- watching ----------------------------------------------------------------------------------

    def watch_ready(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """See `Backend.watch_ready`."""
        return self._hub.watch_ready()

    def watch_flow_run(self, flow_run_id: str) -> AbstractAsyncContextManager[AsyncIterator[State]]:
        """See `Backend.watch_flow_run`."""
        return self._hub.watch(flow_run_id, lambda: self.get_flow_run_state(flow_run_id))

    # -- rules -------------------------------------------------------------------------------------

    def _flow_run(self, flow_run_id: str) -> FlowRun:
        run = self._flow_runs.get(flow_run_id)
        if run is None:
            raise BackendRejected(f"Flow run {flow_run_id} not found")
        return run

    def _task_run(self, task_run_id: str) -> TaskRun:
        run = self._task_runs.get(task_run_id)
        if run is None:
            raise BackendRejected(f"Task run {task_run_id} not found")
        return run

    def _new_task_run(self, flow_run: FlowRun, task_id: str, map_index: int) -> TaskRun:
        task = next(task for task in flow_run.flow.document["tasks"] if flow_run.flow.task_ids[task["slug"]] == task_id)
        run = TaskRun(
            id=str(uuid.uuid4()),
            name=None,
            created=self._clock.now(),
            flow_run=flow_run,
            task_id=task_id,
            task_slug=task["slug"],
            cache_key=task.get("cache_key"),
            map_index=map_index,
        )
        flow_run.task_runs[task_id, map_index] = self._task_runs[run.id] = run
        self._record(run, Pending("Task run created"))
        return run

    def _record(self, run: Run, state: State, sent: bytes | None = None) -> None:
        document = _encode(state) if sent is None or type(state) is Queued else sent
        if isinstance(run, TaskRun) and run.entries and not state.cached_inputs:
            document = _with_cached_inputs_of(run.newest.document, document)
        run.record(state, sent or document, document, self._clock.now())
        if isinstance(run, FlowRun):
            if "flow_run" in run.meaning.alive and run.owner is None:
                self.heartbeats[run.id] = run.heartbeat = self._clock.now()
                run.lease = datetime.timedelta(seconds=LEASE_SECONDS)
            if run.meaning.state not in lifecycle.KEEPS_OWNER:
                run.owner = None
        if isinstance(run, FlowRun) and run.meaning.waits:
            self._hub.moved()
        if isinstance(run, FlowRun) and self._hub.watches(run.id):
            self._hub.publish(run.id, decode_state(document))

    def _answer(self, state: State, entry: Entry) -> State:
        return state if entry.document == entry.sent else decode_state(entry.document)

    def _end_task_runs(self, flow_run: FlowRun, state: State) -> None:
        for part in self._parts(flow_run):
            if not part.meaning.ends:
                self._record(part, state)
                self._end_task_runs(part, state)
        for run in flow_run.task_runs.values():
            if not run.meaning.ends:
                self._line.pop(run.id, None)
                self._record(run, state)

    def _queued(self, why: str, wait: datetime.timedelta | None = None) -> Queued:
        return Queued(why, start_time=self._clock.now() + (self._queue_interval if wait is None else wait))

    def _flow_runs_are_full(self) -> bool:
        running = sum(run.meaning.runs for run in self._flow_runs.values())
        return self.flow_run_limit is not None and running >= self.flow_run_limit

    def _held_back(self, run: TaskRun, state: State) -> Queued | None:
        """Return what a task run is to be recorded as that may not begin yet, and put it into its lines."""
        now, waiting = self._clock.now().timestamp(), self._line.get(run.id)
        waiter = Waiter(priority_in(state.context), now if waiting is None else waiting.who.since, run.id)
        opened = dict(self._opened(waiter, state.context.get("tags", ()), now))
        closed = {limit: at for limit, at in opened.items() if at > now}
        if not closed:
            for kind, tag in opened:
                if kind == "rate":
                    self._begun[tag].append(now)
            return None
        (kind, tag), at = max(closed.items(), key=lambda one: one[1])
        rate = self.task_rates.get(tag)
        if kind == "tag" or rate is None:
            before, interval = self._ahead(waiter, (kind, tag), now), self._queue_interval.total_seconds()
            seconds = pause(now - waiter.since, before, self.task_tag_limits[tag], interval)
            queued = self._queued(
                f"Queued: the limit of task runs tagged {tag!r} is reached", datetime.timedelta(seconds=seconds)
            )
        else:
            wait = min(datetime.timedelta(seconds=at - now), self._queue_interval)
            queued = self._queued(why_not_yet(tag, rate.count, rate.period, at), wait)
        assert queued.start_time is not None
        waiter.due = queued.start_time.timestamp()
        self._line[run.id] = Waiting(waiter, (set() if waiting is None else waiting.limits) | set(closed))
        return queued

    def _opened(self, waiter: Waiter, tags: Iterable[str], now: float) -> Iterator[tuple[tuple[str, str], float]]:
        """Yield when each limit lets a run begin; infinite where nobody knows."""
        for tag in tags:
            number, rate = self.task_tag_limits.get(tag), self.task_rates.get(tag)
            if number is not None:
                free = number - sum(self._holds(run, tag) for run in self._task_runs.values())
                yield ("tag", tag), now if free > self._ahead(waiter, ("tag", tag), now) else math.inf
            if rate is not None:
                begun = self._begun[tag] = within(self._begun[tag], rate.period, now)
                before = self._ahead(waiter, ("rate", tag), now)
                yield ("rate", tag), beginning(begun, rate.count, rate.period, before, now)

    def _ahead(self, waiter: Waiter, limit: tuple[str, str], now: float) -> int:
        return ahead(waiter, (one.who for one in self._line.values() if limit in one.limits), now)

    def _holds(self, run: TaskRun, tag: str) -> bool:
        return run.holds_places and tag in decode_state(run.newest.document).context.get("tags", ())


def _is_held(run: TaskRun) -> bool:
    return run.state is Paused and HELD in decode_state(run.newest.document).context


def _around(run: FlowRun) -> Iterator[FlowRun]:
    """Yield the flow runs that this one is a part of."""
    while run.parent is not None:
        run = run.parent.flow_run
        yield run


def _encode(state: State) -> bytes:
    document = encode_state(state)
    if len(document) > _MAX_STATE_BYTES:
        raise BackendRejected(
            f"State payload is too large: {len(document):,} bytes, and {_MAX_STATE_BYTES:,} is the limit"
        )
    return document


def _with_cached_inputs_of(before: bytes, document: bytes) -> bytes:
    """Carry the cached inputs of a task run over to a state that has none: a restart finds its inputs in them."""
    if b'"cached_inputs":{}' in before:
        return document
    cached = msgspec.json.decode(before).get("cached_inputs")
    return msgspec.json.encode({**msgspec.json.decode(document), "cached_inputs": cached}) if cached else document
