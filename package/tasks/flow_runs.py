"""Starting flow runs of registered flows, and waiting for them: for workers to run, and recorded on their own."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

import anyio

from ..engine.backend import Backend, connect
from ..engine.context import context, flow_scope
from ..engine.context import now as now_in_run
from ..engine.errors import FlowloopError
from ..engine.settings import Settings
from ..engine.signals import FAIL, signal_from_state
from ..engine.state import State
from ..engine.task import task

__all__ = ["create_flow_run", "wait_for_flow_run"]

_LOOK_EVERY = 2.0


class _Backend:
    """The backend of the run around a body, or the one that the settings name, which is then opened and closed."""

    def __init__(self) -> None:
        scope = flow_scope.get()
        self._backend: Backend | None = scope.backend
        self._opened: Any = None
        self._settings = scope.settings or Settings.from_env()

    async def __aenter__(self) -> Backend:
        if self._backend is None:
            if not self._settings.backend_url:
                raise FlowloopError(
                    "a flow run is created in a backend, and this run has none: record it with CloudFlowRunner or "
                    "`flowloop run`, or set FLOWLOOP_BACKEND_URL"
                )
            self._opened = connect(self._settings.backend_url, settings=self._settings)
            return await self._opened.__aenter__()  # type: ignore[no-any-return]
        return self._backend

    async def __aexit__(self, *exc_info: Any) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(*exc_info)


@task(name="create flow run")
async def create_flow_run(
    flow_id: str | None = None,
    flow_name: str | None = None,
    project_name: str = "",
    parameters: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    labels: Iterable[str] | None = None,
    run_name: str | None = None,
    run_config: Any = None,
    scheduled_start_time: datetime.datetime | datetime.timedelta | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Create a flow run of a registered flow, and return its id.

    Args:
        - flow_id, flow_name: which flow: by its id, or the newest of this name
        - project_name: in which project, where several have a flow of this name
        - parameters, context: of the flow run
        - labels: which worker may take it
        - run_name: its name
        - run_config: a document for whoever runs it
        - scheduled_start_time: when it begins; now if None
        - idempotency_key: a flow run that was created under the key is not created again

    Raises:
        - ValueError: if there is no such flow, or more than one
    """
    if (flow_id is None) == (flow_name is None):
        raise ValueError("create_flow_run takes either a flow_id or a flow_name")
    if isinstance(scheduled_start_time, datetime.timedelta):
        scheduled_start_time = now_in_run() + scheduled_start_time
    async with _Backend() as backend:
        if flow_id is None:
            found = [flow for flow in await backend.list_flows() if flow.name == flow_name]
            found = [flow for flow in found if not project_name or flow.project == project_name]
            if len(found) != 1:
                raise ValueError(f"there {'is no flow' if not found else 'are several flows'} named {flow_name!r}")
            flow_id = found[0].id
        options: dict[str, Any] = {
            "name": run_name,
            "context": context,
            "run_config": run_config,
            "idempotency_key": idempotency_key,
        }
        return await backend.create_flow_run(
            flow_id,
            parameters=dict(parameters or {}),
            labels=list(labels) if labels is not None else None,
            scheduled_start_time=scheduled_start_time,
            **{name: value for name, value in options.items() if value is not None},
        )


@task(name="wait for flow run")
async def wait_for_flow_run(
    flow_run_id: str,
    stream_states: bool = True,
    stream_logs: bool = False,
    raise_final_state: bool = False,
    max_duration: datetime.timedelta = datetime.timedelta(hours=12),
) -> State:
    """Wait until a flow run has ended, and return its final state.

    Args:
        - flow_run_id: the flow run
        - stream_states: whether each state is told in the log
        - stream_logs: nothing: the log of the other run stays with it
        - raise_final_state: whether this task ends in the same state
        - max_duration: for how long to wait

    Raises:
        - FAIL: if it takes longer
    """
    seen: State | None = None
    async with _Backend() as backend:
        with anyio.move_on_after(max_duration.total_seconds()):
            while True:
                state = await backend.get_flow_run_state(flow_run_id)
                if stream_states and (seen is None or type(seen) is not type(state)):
                    context.logger.info(f"flow run {flow_run_id} is {type(state).__name__}: {state.message or ''}")
                seen = state
                if state.is_finished():
                    if raise_final_state:
                        signal = signal_from_state(state) if state.is_failed() or state.is_successful() else FAIL
                        raise signal(str(state.message), result=state.result)
                    return state
                await anyio.sleep(_LOOK_EVERY)
    raise FAIL(f"flow run {flow_run_id} has not ended within {max_duration}")
