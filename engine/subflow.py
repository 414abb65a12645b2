"""A flow used as a task of another one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import anyio
import msgspec

from ._signature import RESERVED
from .backend import FlowRunClaim, FlowRunInfoResult
from .cancellation import current_cancellation
from .context import FlowScope, flow_scope
from .context import values as _values
from .errors import BackendRejected, BackendUnavailable, FlowDefinitionError, OwnershipLost
from .flow import Flow
from .flow_loop import run_flow
from .flow_runner import Around, FlowRunner
from .operators import _Generated
from .result import NoResult
from .signals import FAIL, PAUSE, PrefectStateSignal
from .state import Cancelled, Mapped, Paused, State
from .task import Task

__all__ = ["FlowTask", "SubflowStates", "subflow"]


class SubflowStates(dict[str, State]):
    """The states of the tasks of a flow that was run as a task, each by its slug.

    When it is stored, the results that are never stored (``checkpoint=False``) are left out.

    Args:
        - states: the states by slug
        - unstored: the slugs of tasks whose results are never stored
    """

    def __init__(self, states: Mapping[str, State], unstored: frozenset[str] = frozenset()) -> None:
        super().__init__(states)
        self.unstored = unstored

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {slug: _without_result(state) if slug in self.unstored else state for slug, state in self.items()}
        return type(self), (kept, self.unstored)


def _without_result(state: State) -> State:
    new = object.__new__(type(state))
    new.__setstate__({**state.__getstate__(), "_result": NoResult})
    if isinstance(new, Mapped):
        new.map_states = [_without_result(child) for child in new.map_states]
    return new


class _TaskOfFlow(_Generated):
    """The result of one task of a flow that was run as a task."""

    def __init__(self, slug: str, **kwargs: Any) -> None:
        self.task_slug = slug
        super().__init__(**kwargs)

    async def run(self, states: Any) -> Any:
        """Return the result; of a mapped flow, the list of them."""
        if isinstance(states, Mapping):
            return states[self.task_slug].result
        return [one[self.task_slug].result for one in states]


class _CANCELLED(PrefectStateSignal):
    """The flow was stopped, and this is what became of its tasks."""

    state_class = Cancelled


class FlowTask(Task[..., Any]):
    """Runs a flow as a task of another one: made by `subflow`.

    The flow's parameters are the arguments. It runs on the same event loop; its tasks see the context of the run around
    them, use its executor and its settings where the flow has no executor of its own, and are cancelled with it, for
    the same cause. The state of the task is that of the flow, and its result has the states of the tasks by slug; what
    waits for a retry is waited for. In a recorded run it is a flow run of its own, which goes on and ends with that.

    Args:
        - flow: the flow
        - kwargs: as for `Task`; the name is that of the flow if none is given
    """

    travels = False
    runs_a_flow = True

    def __init__(self, flow: Flow, **kwargs: Any) -> None:
        if not isinstance(flow, Flow):
            raise FlowDefinitionError(f"a subflow is made of a Flow, not of {flow!r}")
        flow.validate()
        self.flow = flow
        kwargs.setdefault("name", flow.name)
        super().__init__(**kwargs)
        self.reruns_on_restart = self.checkpoint is False
        for parameter in flow.parameters():
            if parameter.name in RESERVED:
                raise FlowDefinitionError(
                    f"subflow {self.name!r}: its parameter {parameter.name!r} has a name that calling a task takes for "
                    f"itself; reserved are {', '.join(sorted(RESERVED))}"
                )

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Add this very task to a flow; the inputs are the parameters of its own flow.

        Raises:
            - FlowDefinitionError: for a parameter that its flow does not have, or one that is missing
        """
        if args:
            raise FlowDefinitionError(f"subflow {self.name!r}: parameters are given by name, not by position")
        inputs = {name: value for name, value in kwargs.items() if name not in _WIRING}
        known = {parameter.name: parameter for parameter in self.flow.parameters()}
        for name in inputs:
            if name not in known:
                names = ", ".join(sorted(known)) or "none"
                raise FlowDefinitionError(f"subflow {self.name!r} has no parameter {name!r}; it has: {names}")
        missing = sorted(name for name, parameter in known.items() if parameter.required and name not in inputs)
        if missing:
            raise FlowDefinitionError(f"subflow {self.name!r} needs the parameter {missing[0]!r}, which is not given")
        return super().bind(**kwargs)

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return for each parameter of the flow its ``type``, whether it is ``required``, and its ``default``."""
        ordered = sorted(self.flow.parameters(), key=lambda parameter: parameter.name)
        return {one.name: {"type": one.type, "required": one.required, "default": one.default} for one in ordered}

    async def run(self, **parameters: Any) -> SubflowStates:
        """Run the flow to its end.

        Raises:
            - FAIL: if the flow failed
            - PAUSE: if something in it is paused; once that goes on, or this task is resumed, so does the flow
        """
        changes: list[State] = []
        scope = flow_scope.get()
        recorded = None if scope.backend is None else _Recorded(self.flow, scope, parameters)
        try:
            given = None if recorded is None else await recorded.begun()
            state = await run_flow(
                self.flow,
                parameters,
                run_on_schedule=False,
                runner_cls=lambda flow: self._runner(flow, changes, None if given is None else recorded),
                executor=self.flow.executor or scope.executor,
                context=given,
                on_paused=lambda *_: False,
            )
        except (OwnershipLost, BackendUnavailable) as error:
            await _left_with(scope, error)
        except asyncio.CancelledError:
            stopped = _stopped(changes)
            if stopped is None:
                raise
            state = stopped
        states = self._by_slug(state)
        if state.is_successful():
            return states
        if state.is_failed():
            failed = sorted(slug for slug, one in states.items() if one.is_failed())
            detail = f"failed: {', '.join(failed)}" if failed else str(state.message)
            raise FAIL(f"Flow '{self.flow.name}' failed ({detail}).", result=states or state._result)
        if isinstance(state, Cancelled):
            raise _CANCELLED(state.message, context=state.context, result=states)
        paused = sorted(slug for slug, one in states.items() if isinstance(one, Paused))
        raise PAUSE(f"Flow '{self.flow.name}' is not finished (paused: {', '.join(paused) or 'none'}).", result=states)

    def _runner(self, flow: Flow, changes: list[State], recorded: _Recorded | None) -> FlowRunner:
        """Return a runner for the flow, under the limits of the run around it, and seen where that one is."""
        scope, current = flow_scope.get(), _values.get()
        runner = FlowRunner(flow, settings=scope.settings) if recorded is None else recorded.runner()
        runner.state_handlers.append(lambda _, old, new: changes.append(new))
        slug, map_index = current["task_slug"] or self.name, current.get("map_index")
        place = slug, -1 if map_index is None else map_index
        runner.become_part(Around(place, frozenset({self.name, slug, *self.tags}), scope.limits, scope.watch))
        return runner

    def _by_slug(self, state: State) -> SubflowStates:
        slugs = self.flow.slugs
        known = state.result if isinstance(state.result, dict) else {}
        unstored = frozenset(slugs[task] for task in known if task.checkpoint is False)
        return SubflowStates({slugs[task]: one for task, one in known.items()}, unstored)

    def __getitem__(self, key: Any) -> Any:
        """Add a task that takes the result of one task of the flow, or an element of this task's own result."""
        if isinstance(key, Task) and key in self.flow:
            slug = self.flow.slugs[key]
            return _TaskOfFlow(slug, name=f"{self.name}[{slug}]").bind(states=self)
        return super().__getitem__(key)


class _Recorded:
    """The flow run of its own that a flow is recorded as, where it runs as a task of a recorded one.

    Args:
        - flow: the flow
        - scope: of the run around it
        - parameters: what it is given
    """

    def __init__(self, flow: Flow, scope: FlowScope, parameters: Mapping[str, Any]) -> None:
        self._flow = flow
        self._scope = scope
        self._parameters = parameters
        self._claim: FlowRunClaim | None = None

    async def begun(self) -> dict[str, Any] | None:
        """Return the context of the flow run, which goes on where it was left; None where it is no flow run."""
        from .cloud.creation import start_subflow_run

        current, backend, ownership = _values.get(), self._scope.backend, self._scope.ownership
        if ownership is None or current.get("task_run_id") is None:
            return None
        start = functools.partial(
            start_subflow_run,
            self._flow,
            backend,
            self._parameters,
            task_run_id=current["task_run_id"],
            attempt=current["task_run_count"],
            epoch=ownership.claim.epoch,
            name=f"{current['flow_run_name']}-{current['task_full_name']}",
            settings=self._scope.settings,
        )
        try:
            info = await start()
        except OwnershipLost:
            if await ownership.is_lost():
                raise
            info = await _started_again(start)
        if info is None:
            return None
        self._claim = msgspec.structs.replace(ownership.claim, epoch=info.epoch)
        if current.get("resume"):
            await self._resume(info.id, current.get("answer") or {})
        return {"flow_run_id": info.id, "resume": False, "answer": None}

    async def _resume(self, flow_run_id: str, answer: Mapping[str, Any]) -> None:
        """Resume all that is paused in the flow run, with the answer that its task was given."""
        given = {"value": answer.get("value"), "note": answer.get("note"), "author": answer.get("by")}
        _, task_runs = await self._scope.backend.get_flow_run_history(flow_run_id)
        for one in task_runs:
            if one.states and one.states[-1].state == "Paused":
                place = {"task": one.task_slug, "map_index": one.map_index}
                await self._scope.backend.direct_flow_run(flow_run_id, "resume", **place, **given)

    def runner(self) -> FlowRunner:
        """Return a runner for the flow run."""
        from .cloud import CloudFlowRunner

        return CloudFlowRunner(
            self._flow, backend=self._scope.backend, settings=self._scope.settings, claim=self._claim
        )


async def _started_again(start: Callable[[], Awaitable[FlowRunInfoResult | None]]) -> FlowRunInfoResult | None:
    """Begin a part that was refused as if the run around it had another owner, which it has not."""
    try:
        return await start()
    except OwnershipLost as error:
        raise BackendRejected(str(error)) from error


async def _left_with(scope: FlowScope, error: OwnershipLost | BackendUnavailable) -> NoReturn:
    """Leave a flow run that cannot go on here with the one around it: that is stopped, and this task with it."""
    if isinstance(error, OwnershipLost):
        scope.ownership.lost = True
        scope.cancellation.request("handover")
    else:
        scope.cancellation.lose(error)
    await anyio.sleep_forever()
    raise AssertionError


def _stopped(changes: list[State]) -> State | None:
    """Return the final state of a flow that was stopped with the one around it; None if that is not what happened."""
    cancellation, task = current_cancellation(), asyncio.current_task()
    if cancellation is None or cancellation.cause is None or not changes or not changes[-1].is_finished():
        return None
    assert task is not None
    task.uncancel()
    return changes[-1]


_WIRING = frozenset({"mapped", "upstream_tasks", "flow"})


def subflow(flow: Flow, **task_args: Any) -> FlowTask:
    """Make a task of a flow.

    Args:
        - flow: the flow; its parameters become the arguments of the task
        - task_args: as for `Task`

    Example:

        ```python
        with Flow("clean one region") as cleaning:
            region = Parameter("region")
            cleaned = clean(load(region))

        with Flow("all regions") as flow:
            done = subflow(cleaning).map(region=["north", "south"])
            report(done[cleaned])
        ```
    """
    return FlowTask(flow, **task_args)
