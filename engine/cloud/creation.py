"""Registering flows and creating flow runs: for a runner here, or for a worker elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from .. import telemetry
from .._large import aside
from .._run.net import shown
from ..backend import Backend, FlowRunInfoResult, RegisteredFlow
from ..errors import BackendRejected, FlowDefinitionError
from ..flow import Flow
from ..masking import MASK
from ..parameter import Parameter
from ..plain import plain
from ..settings import Settings
from ..task import Task

__all__ = ["create_flow_run", "recorded_parameters", "register_flow", "start_flow_run", "start_subflow_run"]

R = TypeVar("R")

_known: WeakKeyDictionary[Backend, dict[tuple[str, str], str]] = WeakKeyDictionary()
"""The flows that this process has registered at each open backend: project and hash of the document, and the id."""


async def register_flow(flow: Flow, backend: Backend, *, settings: Settings | None = None) -> RegisteredFlow:
    """Register a flow if it is new or changed, so that its schedule counts and others can create flow runs of it.

    Args:
        - flow: the flow
        - backend: where to register it; open
        - settings: name the project; from the environment if None

    Raises:
        - FlowDefinitionError: for a flow that cannot run; nothing is recorded
        - BackendError: if it cannot be registered
    """
    flow.validate()
    return await _registered(flow, backend, settings)


async def _registered(flow: Flow, backend: Backend, settings: Settings | None) -> RegisteredFlow:
    document = await aside(len(flow._tasks), flow.serialize)
    project = (settings or Settings.from_env()).project
    key = _hash(flow, document)
    registered = await backend.register_flow(document, project_name=project, idempotency_key=key)
    _known.setdefault(backend, {})[project, key] = registered.id
    return registered


def _hash(flow: Flow, document: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()
    except (TypeError, ValueError) as error:
        raise FlowDefinitionError(
            f"flow {shown(flow.name)} cannot be registered: JSON cannot carry its document: {error}"
        ) from error


# -- whether a flow has changed ------------------------------------------------------------------------

_SCALARS = frozenset({str, int, bool, float})
_FIELDS_OF_DOCUMENTS = attrgetter(
    *("name", "max_retries", "timeout", "trigger", "skip_on_upstream_skip", "cache_for", "cache_key"),
    *("cache_validator", "auto_generated", "document_type"),
)


def _key_of(flow: Flow) -> str:
    """Return the hash of a flow's document, which is made anew only if something that it tells of has changed."""
    memo: list[Any] = flow._remember("document key", list)  # which the flow forgets when its graph changes
    seen = _seen(flow)
    if not memo or memo[0] != seen:
        memo[:] = seen, _hash(flow, flow.serialize())
    return str(memo[1])


def _seen(flow: Flow) -> list[Any]:
    """Return all that the document of a flow tells of and that may change while its graph does not."""
    seen: list[Any] = [type(flow), flow.name, *map(_encoded, (flow.schedule, flow.storage, flow.run_config))]
    seen.append(None if flow._reference_tasks is None else frozenset(flow._reference_tasks))
    for task, slug in flow.slugs.items():
        kind, body, delay = type(task), task.body, task.retry_delay
        tags = frozenset(task.tags) if task.tags else ()  # of those that have none, not ten thousand empty ones
        seen += slug, kind, getattr(body, "__func__", body), _FIELDS_OF_DOCUMENTS(task), tags
        if delay is not None:
            seen.append(tuple(delay) if isinstance(delay, list) else delay)
        if isinstance(task, Parameter):
            seen += task.type, task.required, task.secret, _encoded(task.default)
        if kind.inputs is not Task.inputs or kind.outputs is not Task.outputs:
            seen.append(repr((task.inputs(), task.outputs())))
    return seen


def _encoded(value: Any) -> Any:
    """Return what tells a value in a document from every other, also from an equal one, as 1 from True."""
    if value is None or type(value) in _SCALARS:
        return type(value), value
    return msgspec.json.encode(plain(value.serialize() if hasattr(value, "serialize") else value))


def recorded_parameters(flow: Flow, given: Mapping[str, Any], *, complete: bool) -> dict[str, Any]:
    """Return the given parameters as a flow run records them: as what JSON knows.

    Raises:
        - FlowDefinitionError: for a parameter that cannot be, or that JSON cannot carry
    """
    checked = flow.check_parameters(given, complete=complete)
    return {p.name: p.recorded(checked[p.name]) for p in flow.parameters() if p.name in checked}


async def create_flow_run(
    flow: Flow,
    backend: Backend,
    parameters: Mapping[str, Any] | None = None,
    *,
    settings: Settings | None = None,
    **options: Any,
) -> str:
    """Register a flow if it is new or changed, and create a flow run of it.

    Args:
        - flow: the flow
        - backend: where to create it; open
        - parameters: values of the parameters, by name
        - settings: name the project; from the environment if None
        - options: more for `Backend.create_flow_run`: a name, labels, a scheduled start time …

    Returns:
        - str: the id of the flow run

    Raises:
        - FlowDefinitionError: for a flow that cannot run, or a parameter that cannot be; nothing is recorded
        - BackendError: if the flow cannot be registered, or the flow run cannot be created

    Example:

        ```python
        flow_run_id = await create_flow_run(flow, backend, {"name": "you"})
        state = await CloudFlowRunner(flow, backend=backend).run(context={"flow_run_id": flow_run_id})
        ```
    """
    flow.validate()
    recorded = recorded_parameters(flow, parameters or {}, complete=True)
    if telemetry.active is not None:
        options["context"] = {**telemetry.outgoing(), **(options.get("context") or {})}
    return await _of_registered(
        flow, backend, settings, lambda flow_id: backend.create_flow_run(flow_id, parameters=recorded, **options)
    )


async def start_flow_run(
    flow: Flow,
    backend: Backend,
    parameters: Mapping[str, Any] | None = None,
    *,
    settings: Settings | None = None,
    **options: Any,
) -> FlowRunInfoResult:
    """Register a flow if it is new or changed, and start a flow run of it for its owner.

    Arguments and errors are those of `create_flow_run`; the options are those of `Backend.start_flow_run`.

    Returns:
        - FlowRunInfoResult: what its runner needs to begin
    """
    flow.validate()
    recorded = recorded_parameters(flow, parameters or {}, complete=True)
    return await _of_registered(
        flow, backend, settings, lambda flow_id: backend.start_flow_run(flow_id, parameters=recorded, **options)
    )


_LARGEST = 100_000
"""Bytes of the JSON of a parameter above which a flow run that is a part of another one does not record it, too."""


async def start_subflow_run(
    flow: Flow,
    backend: Backend,
    parameters: Mapping[str, Any],
    *,
    task_run_id: str,
    attempt: int,
    epoch: int | None,
    name: str,
    settings: Settings,
) -> FlowRunInfoResult | None:
    """Register a flow if it is new or changed, and create or find the flow run that is a task run of another one.

    Its parameters are recorded to be looked at: whoever runs the other one has them.

    Returns:
        - FlowRunInfoResult: what its runner needs to begin; None where the backend knows no such flow runs
    """
    shown = {p.name: _shown(p, parameters[p.name]) for p in flow.parameters() if p.name in parameters}
    options: dict[str, Any] = {"task_run_id": task_run_id, "attempt": attempt, "epoch": epoch, "name": name}

    async def make(flow_id: str) -> FlowRunInfoResult | None:
        return await backend.start_subflow_run(flow_id, parameters=shown, **options)

    return await _of_registered(flow, backend, settings, make, _registered_as_part)


async def _registered_as_part(flow: Flow, backend: Backend, settings: Settings | None) -> RegisteredFlow:
    """Register a flow that is a part of another one: it is that one's schedule that counts, until somebody says so."""
    registered = await _registered(flow, backend, settings)
    if flow.schedule is not None and registered.created and registered.version == 1:
        with suppress(BackendRejected):  # which knows no schedules
            await backend.set_schedule_active(registered.id, False)
    return registered


def _shown(parameter: Parameter, value: Any) -> Any:
    if parameter.secret:
        return MASK
    try:
        recorded = parameter.recorded(value)
        if len(msgspec.json.encode(recorded)) <= _LARGEST:
            return recorded
    except Exception:  # whatever it is, it need not be a JSON document
        recorded = value
    return f"<{type(value).__name__}>"


async def _of_registered(
    flow: Flow,
    backend: Backend,
    settings: Settings | None,
    make: Callable[[str], Awaitable[R]],
    register: Callable[[Flow, Backend, Settings | None], Awaitable[RegisteredFlow]] = _registered,
) -> R:
    """Make something of the id of a flow, which is registered unless this process has done that before."""
    known = _known.get(backend)
    if known:
        key = (settings or Settings.from_env()).project, await aside(len(flow._tasks), lambda: _key_of(flow))
        flow_id = known.get(key)
        if flow_id is not None:
            try:
                return await make(flow_id)
            except BackendRejected:  # perhaps somebody has archived or deleted it meanwhile
                del known[key]
    return await make((await register(flow, backend, settings)).id)
