"""Flow runs come into being: with the task runs of their flow, many in one go."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import select

from ...engine.backend import LEASE_SECONDS, MOST_URGENT, check_recordable
from ...engine.errors import BackendRejected
from ...engine.given import check_names
from . import ownership, reads, task_runs
from .ids import is_id
from .names import random_name
from .records import Outcome, Payload, StateUpdate
from .transitions import set_states, state_update
from .tx import Tx, document, in_utc, tables

__all__ = ["CreatedFlowRun", "NewFlowRun", "create_flow_run", "create_flow_runs", "start_flow_runs"]


class NewFlowRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A flow run to be created; the fields are the arguments of `create_flow_run`."""

    flow_id: str
    parameters: Mapping[str, Any] | None = None
    context: Mapping[str, Any] | None = None
    labels: Sequence[str] | None = None
    run_config: Mapping[str, Any] | None = None
    scheduled_start_time: datetime.datetime | None = None
    name: str | None = None
    idempotency_key: str | None = None
    owner: str | None = None
    lease_seconds: float = LEASE_SECONDS
    priority: int = 0
    fairness_key: str | None = None
    checked: bool = False
    """Whether parameters that its flow does not have are refused; a value of a wrong type makes it end Failed."""
    state: bytes | None = None
    """The document of the Running state it begins with, or None; see `start_flow_runs`."""


class CreatedFlowRun(msgspec.Struct, frozen=True, gc=False):
    """A flow run that was created, or found under its idempotency key.

    Args:
        - id: its id
        - is_new: whether it was created now
        - name, parameters, scheduled_start_time: as they were recorded; of a run that is new
        - flow: its flow; of a run that is new
        - task_run_ids: of each task of the flow, in their order; of a run that is new
    """

    id: str
    is_new: bool = False
    name: str = ""
    parameters: Mapping[str, Any] = {}
    scheduled_start_time: datetime.datetime | None = None
    flow: RunnableFlow | None = None
    task_run_ids: Sequence[str] = ()


class RunnableFlow(msgspec.Struct, gc=False):
    """What a flow run takes over from its flow: a row of `Database.flows_to_run`, its documents read once."""

    id: str
    tenant_id: str
    archived: bool
    flow_group_id: str
    project_id: str | None
    project_name: str | None
    parameters: list[dict[str, Any]]
    run_config: dict[str, Any] | None
    environment: dict[str, Any] | None
    default_parameters: dict[str, Any]
    group_labels: list[str] | None
    group_run_config: dict[str, Any] | None
    tasks: list[tuple[str, str | None, str]]
    """Of each: id, cache key, slug."""

    def chosen(self, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the parameters of a run.

        Raises:
            - BackendRejected: if one that is required is missing
        """
        chosen = {
            **{item["name"]: item["default"] for item in self.parameters if item.get("default")},
            **self.default_parameters,
            **(parameters or {}),
        }
        missing = {item["name"] for item in self.parameters if item.get("required")} - chosen.keys()
        if missing:
            raise BackendRejected(f"Required parameters were not supplied: {missing}")
        return chosen

    def labels(self, labels: Sequence[str] | None, run_config: Mapping[str, Any] | None) -> Sequence[str]:
        """Return the labels of whoever comes first to have any; an empty list given by the caller counts."""
        if labels is not None:
            return labels
        group: Mapping[str, Any] = {"labels": self.group_labels}
        for owner in (run_config, group, self.group_run_config, self.run_config, self.environment):
            found: Sequence[str] = (owner or {}).get("labels") or ()
            if found:
                return found
        return ()


def create_flow_run(
    tx: Tx,
    *,
    flow_id: str | None = None,
    version_group_id: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    run_config: Mapping[str, Any] | None = None,
    scheduled_start_time: datetime.datetime | None = None,
    flow_run_name: str | None = None,
    idempotency_key: str | None = None,
    owner: str | None = None,
    lease_seconds: float = LEASE_SECONDS,
    priority: int = 0,
    fairness_key: str | None = None,
) -> Payload:
    """Create a flow run, Scheduled, with a Pending task run for every task of its flow.

    Clients of Prefect 1 may give parameters that the flow does not have, as its server lets them. With a value of a
    wrong type it ends Failed with the reason, where people look.

    Args:
        - flow_id: the flow to run
        - version_group_id: or the flow group whose newest version is to run
        - parameters: values that go before the defaults of the flow group and of the flow
        - context: values that the run finds in its context
        - labels: which agents may run it; by default those of the run config, the group or the flow
        - run_config: how it is to be run; by default that of the group or the flow
        - scheduled_start_time: when; now by default
        - flow_run_name: two random words by default
        - idempotency_key: with the key of an earlier run of this flow, that run is returned and nothing written
        - owner: who runs it from the start, under the epoch 1; nobody by default
        - lease_seconds: for how long it is the owner's without a heartbeat
        - priority: of what is ready, what has a higher one is run first
        - fairness_key: whose it is: of one priority, the keys take turns, however much each has waiting

    Returns:
        - Payload: ``id``
    """
    request = NewFlowRun(
        flow_id=flow_id or _newest_version(tx, version_group_id),
        parameters=parameters,
        context=context,
        labels=labels,
        run_config=run_config,
        scheduled_start_time=scheduled_start_time,
        name=flow_run_name,
        idempotency_key=idempotency_key,
        owner=owner,
        lease_seconds=lease_seconds,
        priority=priority,
        fairness_key=fairness_key,
        checked=not tx.caller.is_foreign,
    )
    created = create_flow_runs(tx, [request])[0]
    if isinstance(created, BackendRejected):
        raise created
    return {"id": created.id}


def _newest_version(tx: Tx, version_group_id: str | None) -> str:
    if version_group_id is None:
        raise BackendRejected("A flow run needs a flow_id or a version_group_id.")
    flow = tables["flow"].c
    newest: str | None = tx.scalar(
        select(flow.id)
        .where(flow.version_group_id == version_group_id, flow.archived.is_(False), tx.mine("flow"))
        .order_by(flow.version.desc())
    )
    if newest is None:
        raise BackendRejected(f"Version group {version_group_id} has no unarchived flows.")
    return newest


def create_flow_runs(tx: Tx, requests: Sequence[NewFlowRun]) -> list[CreatedFlowRun | BackendRejected]:
    """Create many flow runs in as many statements as one takes, each for itself: one that is refused stops no other."""
    flows = _flows(tx, {request.flow_id for request in requests})
    answers: list[CreatedFlowRun | BackendRejected | None] = [None] * len(requests)
    new: dict[int, CreatedFlowRun] = {}
    rows: list[tuple[Any, ...]] = []
    for place, request in enumerate(requests):
        try:
            run = _new_run(tx, request, flows.get(request.flow_id))
            rows.append(_row(tx, run, request))
        except BackendRejected as error:
            answers[place] = error
        else:
            new[place] = run
    if rows:
        inserted = tx.database.insert_flow_runs(tx.connection, rows)
        taken = {place: run for place, run in new.items() if run.id not in inserted}
        created = {place: run for place, run in new.items() if place not in taken}
        _rank(tx, created, requests)
        for place, run in _begun(tx, created, requests).items():
            answers[place] = run
        for place, earlier in _found_by_key(tx, requests, list(taken)).items():
            answers[place] = CreatedFlowRun(earlier)
    assert all(answer is not None for answer in answers)
    return [answer for answer in answers if answer is not None]


def _rank(tx: Tx, created: Mapping[int, CreatedFlowRun], requests: Sequence[NewFlowRun]) -> None:
    for place, run in created.items():
        priority, key = requests[place].priority, requests[place].fairness_key
        if priority != 0 or key is not None:
            tx.update("flow_run", tables["flow_run"].c.id == run.id, priority=priority, fairness_key=key)


def _new_run(tx: Tx, request: NewFlowRun, flow: RunnableFlow | None) -> CreatedFlowRun:
    if flow is None:
        raise BackendRejected(f"Flow {request.flow_id} not found")
    if flow.archived:
        raise BackendRejected(f"Flow {flow.id} is archived.")
    check_recordable(parameters=request.parameters, context=request.context)
    if not -MOST_URGENT <= request.priority <= MOST_URGENT:
        raise BackendRejected(f"A priority is at most {MOST_URGENT} and at least {-MOST_URGENT}.")
    if request.checked:
        check_names(flow.parameters, request.parameters or {})
    start = in_utc(request.scheduled_start_time or tx.now)
    name = request.name or random_name()
    return CreatedFlowRun(tx.new_id(), True, name, flow.chosen(request.parameters), start, flow)


def _row(tx: Tx, run: CreatedFlowRun, request: NewFlowRun) -> tuple[Any, ...]:
    """Return a flow run as `Database.insert_flow_runs` takes it."""
    flow = run.flow
    assert flow is not None
    run_config = request.run_config or flow.group_run_config or flow.run_config
    try:
        return (
            flow.tenant_id,
            tx.database.moment(tx.now),
            flow.id,
            run.name,
            document(run.parameters),
            document(request.context or {}),
            document(sorted(flow.labels(request.labels, request.run_config))),
            None if run_config is None else document(run_config),
            None if run.scheduled_start_time is None else tx.database.moment(run.scheduled_start_time),
            request.idempotency_key,
            *ownership.new(tx, request.owner, request.lease_seconds),
            run.id,
        )
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise BackendRejected(f"a value cannot be stored: {error}") from error


def start_flow_runs(tx: Tx, requests: Sequence[NewFlowRun]) -> list[Payload | BackendRejected]:
    """Create flow runs that their owners run from the start: claimed, and Running where they say so.

    Returns:
        - list: of each what its runner needs, as `get_flow_run_info` returns it, or why it was refused.
          ``serialized_state`` is None where the state is the one that was sent; task runs are new and Pending
    """
    created = create_flow_runs(tx, requests)
    running = {
        run.id: StateUpdate(run.id, request.state, version=1, epoch=1)
        for run, request in zip(created, requests, strict=True)
        if isinstance(run, CreatedFlowRun) and run.is_new and request.state is not None
    }
    outcomes = dict(zip(running, set_states(tx, "flow_run", list(running.values())), strict=True))
    for run_id in running:
        tx.moved.pop(run_id, None)
    return [
        run if isinstance(run, BackendRejected) else _started(tx, run, request, outcomes.get(run.id))
        for run, request in zip(created, requests, strict=True)
    ]


def _started(tx: Tx, run: CreatedFlowRun, request: NewFlowRun, outcome: Outcome | None) -> Payload:
    if run.flow is None or outcome is None or outcome.error is not None:
        return reads.get_flow_run_info(tx, flow_run_id=run.id)
    flow = run.flow
    return {
        "id": run.id,
        "name": run.name,
        "flow_id": flow.id,
        "version": outcome.version,
        "serialized_state": outcome.serialized_state,
        "parameters": run.parameters,
        "context": request.context or {},
        "scheduled_start_time": run.scheduled_start_time,
        "heartbeat": tx.now,
        "owner": request.owner,
        "epoch": 1,
        "start_time": tx.now,
        "limits": None,
        "project": None if flow.project_id is None else {"id": flow.project_id, "name": flow.project_name},
        "task_runs": [
            {"id": run_id, "task_id": task_id, "task_slug": slug, "version": 1, "serialized_state": None}
            for run_id, (task_id, _, slug) in zip(run.task_run_ids, flow.tasks, strict=True)
        ],
    }


def _flows(tx: Tx, flow_ids: set[str]) -> dict[str, RunnableFlow]:
    """Return those of the flows that there are, and that are the caller's to run."""
    ids = sorted(flow_id for flow_id in flow_ids if is_id(flow_id))
    flows: dict[str, RunnableFlow] = {}
    for row in tx.database.flows_to_run(tx.connection, ids):
        if tx.caller.tenant_id in (None, row[1]):
            read = [None if text is None else msgspec.json.decode(text) for text in row[6:]]
            values: list[Any] = [*row[:6], *read, []]
            flows[row[0]] = RunnableFlow(*values)
    for flow_id, *task in tx.database.tasks_to_run(tx.connection, list(flows)):
        flows[flow_id].tasks.append((task[0], task[1], task[2]))
    return flows


def _begun(tx: Tx, created: Mapping[int, CreatedFlowRun], requests: Sequence[NewFlowRun]) -> dict[int, CreatedFlowRun]:
    """Give new flow runs their task runs and their first state."""
    runs = [
        (run.flow.tenant_id, run.id, [(task_id, key) for task_id, key, _ in run.flow.tasks])
        for run in created.values()
        if run.flow is not None
    ]
    ids = task_runs.create_static(tx, runs)
    updates = [
        state_update(
            run.id,
            "Scheduled",
            "Flow run scheduled.",
            epoch=None if requests[place].owner is None else 1,
            start_time=run.scheduled_start_time.isoformat(),
        )
        for place, run in created.items()
        if run.scheduled_start_time is not None
    ]
    set_states(tx, "flow_run", updates)
    for place, run in created.items():
        if requests[place].owner is not None:
            del tx.moved[run.id]
    return {
        place: msgspec.structs.replace(run, task_run_ids=task_run_ids)
        for (place, run), task_run_ids in zip(created.items(), ids, strict=True)
    }


def _found_by_key(tx: Tx, requests: Sequence[NewFlowRun], places: Sequence[int]) -> dict[int, str]:
    """Return the earlier flow runs with the keys of these requests."""
    if not places:
        return {}
    keys = [(requests[place].flow_id, requests[place].idempotency_key or "") for place in places]
    found = {(flow_id, key): run_id for flow_id, key, run_id in tx.database.flow_runs_by_key(tx.connection, keys)}
    return {place: found[key] for place, key in zip(places, keys, strict=True)}
