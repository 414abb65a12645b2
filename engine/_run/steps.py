"""The steps of a task run, in their order, and the plan that one kind of runner follows for one kind of task.

A plan leaves out what would have nothing to do. It goes by identity: a step that is flowloop's own is known to pass
where its row says so, and an override of any make is always taken. A step that is taken and may change the state brings
with it all that come after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from ..edge import Edge
from ..result import Result
from ..state import State
from ..task import Task
from ..triggers import all_successful

__all__ = ["AFTER", "BEFORE", "BODY", "Facts", "Plan", "Step", "own_steps", "plan_of"]


class Facts(msgspec.Struct, eq=False):
    """What the steps of one run share.

    Args:
        - state: the newest state
        - upstream: the states upstream, by edge
        - is_parent: whether this is the run of a mapped task, which has children but no body
        - inputs: the inputs, once they are collected
    """

    state: State
    upstream: dict[Edge, State]
    is_parent: bool
    inputs: dict[str, Result] | None = None


Call = Callable[[Any, State, Facts], Awaitable[State]]
"""A step as the plan calls it: with the runner, the state, and the facts."""


class Step(NamedTuple):
    """One row of the pipeline.

    Args:
        - name: the name of the method
        - takes: makes the call of the method
        - exists: whether the runs of a task have this step
        - idle: whether it passes where the state is Pending and everything upstream is Success
    """

    name: str
    takes: Callable[[Any], Call]
    exists: Callable[[Task[..., Any]], bool]
    idle: Callable[[Task[..., Any]], bool]


# -- how a step is called ------------------------------------------------------------------------------


def alone(step: Any) -> Call:
    """With the state."""
    return lambda runner, state, facts: step(runner, state)


def with_upstream(step: Any) -> Call:
    """With the state, and the states upstream."""
    return lambda runner, state, facts: step(runner, state, facts.upstream)


def with_inputs(step: Any) -> Call:
    """With the state, and the inputs."""
    return lambda runner, state, facts: step(runner, state, facts.inputs)


def with_both(step: Any) -> Call:
    """With the state, the inputs, and the states upstream."""
    return lambda runner, state, facts: step(runner, state, facts.inputs, facts.upstream)


def loading(step: Any) -> Call:
    """It may put other states upstream."""

    async def call(runner: Any, state: State, facts: Facts) -> State:
        state, facts.upstream = await step(runner, state, facts.upstream)
        return state

    return call


def for_parents(step: Any) -> Call:
    """Only where the run has children."""

    async def call(runner: Any, state: State, facts: Facts) -> State:
        return await step(runner, state, facts.upstream) if facts.is_parent else state

    return call


def collecting(step: Any) -> Call:
    """It returns the inputs."""

    async def call(runner: Any, state: State, facts: Facts) -> State:
        facts.inputs = await step(runner, state, facts.upstream)
        return state

    return call


def naming(step: Any) -> Call:
    """With the inputs; it returns nothing."""

    async def call(runner: Any, state: State, facts: Facts) -> State:
        await step(runner, facts.inputs)
        return state

    return call


# -- the pipeline --------------------------------------------------------------------------------------


def _always(task: Task[..., Any]) -> bool:
    return True


def _never(task: Task[..., Any]) -> bool:
    return False


def _is_named(task: Task[..., Any]) -> bool:
    return task.task_run_name is not None


def _has_target(task: Task[..., Any]) -> bool:
    return task.target is not None


def _has_no_target(task: Task[..., Any]) -> bool:
    return task.target is None


def _has_cache(task: Task[..., Any]) -> bool:
    return task.cache_for is not None


def _has_no_cache(task: Task[..., Any]) -> bool:
    return task.cache_for is None


def _may_have_result(task: Task[..., Any]) -> bool:
    return _has_cache(task) or _has_target(task)


def _is_triggered_by_success(task: Task[..., Any]) -> bool:
    return task.trigger is all_successful


BEFORE = (
    Step("check_task_is_ready", alone, _always, _always),
    Step("check_task_reached_start_time", alone, _always, _always),
    Step("check_upstream_finished", with_upstream, _always, _always),
    Step("check_upstream_skipped", with_upstream, _always, _always),
    Step("load_results", loading, _always, _always),
    Step("check_task_ready_to_map", for_parents, _always, _always),
    Step("get_task_inputs", collecting, _always, _always),
    Step("set_task_run_name", naming, _is_named, _never),
    Step("check_task_trigger", with_upstream, _always, _is_triggered_by_success),
    Step("_identify", with_both, _has_cache, _never),
    Step("check_target", with_inputs, _has_target, _never),
    Step("check_task_is_cached", with_inputs, _has_no_target, _has_no_cache),
    Step("_check_needs_body", alone, _may_have_result, _never),
)
BODY = (
    Step("set_task_to_running", with_inputs, _always, _never),
    Step("get_task_run_state", with_inputs, _always, _never),
)
AFTER = (
    Step("cache_result", with_inputs, _always, _has_no_cache),
    Step("check_for_retry", with_inputs, _always, _always),
    Step("check_task_is_looping", with_both, _always, _always),
)
_CHANGE = ("handle_state_change", "call_runner_target_handlers")

_UNHEARD = frozenset({"load_results", "get_task_inputs"})
_RETURNS_NO_STATE = frozenset({"get_task_inputs", "set_task_run_name"})
_KEEPS_STATE = _RETURNS_NO_STATE | {"load_results", "check_task_trigger"}
"""The steps that, as flowloop has them, leave the state as it is unless they end the run."""

_own: dict[Any, bool] = {}


def own_steps(runner_class: type[Any], names: Iterable[str] | None = None, *, idle: bool = True) -> None:
    """Say that steps of a class are flowloop's own: what they do to a state is known.

    Args:
        - runner_class: the class
        - names: the names of the steps; all of them if None
        - idle: whether they pass where their rows say so
    """
    every = (*(step.name for step in (*BEFORE, *BODY, *AFTER)), "initialize_run", *_CHANGE)
    for name in every if names is None else names:
        _own[getattr(runner_class, name)] = idle


# -- the plan ------------------------------------------------------------------------------------------


class Planned(NamedTuple):
    """A step of a plan: its call, and whether the handlers are told of what it makes of the state."""

    call: Call
    tells: bool


class Plan(msgspec.Struct, frozen=True, eq=False):
    """What a runner does for a task.

    Args:
        - before: the steps up to the body
        - before_if_clear: the same for a run whose state is Pending and for which everything upstream is Success
        - body: the steps that run the body
        - after: the steps after the body
        - after_success: whether they have something to do for a Success
        - is_quiet: whether nobody hears of changes of the state, unless somebody watches
        - change: `handle_state_change`, without what would have nothing to do in it
        - begins_plainly: whether a new run begins with Pending, whatever its context
        - takes_values: whether the body can have its arguments straight from upstream if nothing is stored
        - begins_unheard: whether nobody could tell that a run for which all is clear has got as far as Running
        - ends_at_once: whether nothing comes after a Success, and nobody hears of it
    """

    before: tuple[Planned, ...]
    before_if_clear: tuple[Planned, ...]
    body: tuple[Planned, ...]
    after: tuple[Planned, ...]
    after_success: bool
    is_quiet: bool
    change: Callable[[Any, State, State], Awaitable[State]]
    begins_plainly: bool
    takes_values: bool
    begins_unheard: bool
    ends_at_once: bool


def plan_of(runner_class: type[Any], task: Task[..., Any], is_heard: bool) -> Plan:
    """Return the plan of a runner for a task; it is made once for all tasks that have the same steps.

    Args:
        - runner_class: the class of the runner, whose steps are looked up when its first plan is made
        - task: the task
        - is_heard: whether there are handlers
    """
    key = (
        is_heard,
        task.task_run_name is None,
        task.target is None,
        task.cache_for is None,
        task.trigger is all_successful,
    )
    plans: dict[Any, Plan] = runner_class.plans
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = _compiled(runner_class, task, is_heard)
    return plan


def _compiled(runner_class: type[Any], task: Task[..., Any], is_heard: bool) -> Plan:
    def method(name: str) -> Any:
        return getattr(runner_class, name)

    def planned(step: Step) -> Planned:
        return _planned(method(step.name), step)

    before = [step for step in BEFORE if step.exists(task)]
    if_clear = _without_idle(before, method, task)
    names = {step.name for step in if_clear}
    body_is_own = all(method(step.name) in _own for step in BODY)
    after_success = not all(_own.get(method(step.name)) and step.idle(task) for step in AFTER)
    changes_unheard = not is_heard and all(method(name) in _own for name in _CHANGE)
    return Plan(
        before=tuple(map(planned, before)),
        before_if_clear=tuple(map(planned, if_clear)),
        body=tuple(map(planned, BODY)),
        after=tuple(map(planned, AFTER)),
        after_success=after_success,
        is_quiet=changes_unheard and body_is_own and all(_own[method(name)] for name in _CHANGE),
        change=method("_change_unheard" if changes_unheard else "handle_state_change"),
        begins_plainly=_own.get(method("initialize_run"), False),
        takes_values="get_task_inputs" not in names,
        begins_unheard=not is_heard and all(name in _UNHEARD and method(name) in _own for name in names),
        ends_at_once=not is_heard and body_is_own and not after_success,
    )


def _without_idle(steps: list[Step], method: Callable[[str], Any], task: Task[..., Any]) -> list[Step]:
    kept: set[str] = set()
    may_have_changed = False
    for step in steps:
        own = method(step.name)
        if may_have_changed or not (_own.get(own, False) and step.idle(task)):
            kept.add(step.name)
            is_known_to_keep = own in _own and step.name in _KEEPS_STATE
            may_have_changed |= step.name not in _RETURNS_NO_STATE and not is_known_to_keep
    if any(step.takes in (with_inputs, with_both, naming) for step in steps if step.name in kept):
        kept.add("get_task_inputs")
    return [step for step in steps if step.name in kept]


def _planned(method: Any, step: Step) -> Planned:
    raw = getattr(method, "raw_step", None)
    if raw is not None and raw[1] is method:
        # whoever walks the plan tells the handlers, in no frame of its own; a wrapped one has `raw_step` of another
        return Planned(step.takes(raw[0]), True)
    return Planned(step.takes(method), step.name in _RETURNS_NO_STATE)
