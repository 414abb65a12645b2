"""Registering flows and creating flow runs: for a runner here, or for a worker elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from .._large import aside
from ..backend import Backend, RegisteredFlow
from ..flow import Flow
from ..settings import Settings

__all__ = ["create_flow_run", "recorded_parameters", "register_flow"]


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
    document = flow.serialize()
    key = hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()
    project = (settings or Settings.from_env()).project
    return await backend.register_flow(document, project_name=project, idempotency_key=key)


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
    document = await aside(len(flow._tasks), flow.serialize)
    key = hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()
    project = (settings or Settings.from_env()).project
    registered = await backend.register_flow(document, project_name=project, idempotency_key=key)
    return await backend.create_flow_run(registered.id, parameters=recorded, **options)
