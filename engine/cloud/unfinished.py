"""What is recorded of a flow run that ends here before it is finished: for what it waits, so that others go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from .._run.restart import RUNNER
from ..state import ClientFailed, Failed, Mapped, Paused, Queued, Scheduled, State
from ..task import Task

__all__ = ["handed_over", "waits_for_tasks"]

_WAITS = "waits_for_tasks"


def waits_for_tasks(state: State) -> bool:
    """Whether a flow run waits for nothing but tasks of its own: each of them knows its time."""
    return bool(state.context.get(_WAITS))


def handed_over(state: State, task_states: Mapping[Task[..., Any], State], runner_id: str | None) -> State:
    """Return as what a flow run ends here of which some tasks are not finished.

    It is Scheduled for the time at which the first of them goes on, or Paused where all wait for somebody. Where none
    waits, nobody would ever go on with it: then it has Failed.

    Args:
        - state: the state of the flow run, whose result is handed on
        - task_states: the states of its tasks
        - runner_id: names the runner in the states that it has recorded
    """
    lost = [task.name for task, one in _all(task_states) if isinstance(one, ClientFailed)]
    if lost:
        return _failed("States of these tasks could not be recorded", lost, state)
    waiting = [one for _, one in _all(task_states) if isinstance(one, (Scheduled, Queued))]
    if not waiting:
        if any(one.is_running() and _runner_of(one) not in (None, runner_id) for _, one in _all(task_states)):
            return state  # elsewhere: who runs it there goes on
        left = [task.name for task, one in _all(task_states) if not one.is_finished()]
        what = "These tasks were left unfinished, and wait for nothing"
        return _failed(what, left, state) if left else Failed("The flow run was left unfinished.", result=state.result)
    context = {_WAITS: True}
    times = [one.start_time for one in waiting if one.start_time is not None]
    if not times:
        message = "Some tasks are paused: the flow run goes on once they are resumed."
        return Paused(message, result=state.result, context=context)
    message = "Some tasks are not finished: the flow run goes on later."
    return Scheduled(message, result=state.result, start_time=min(times), context=context)


def _runner_of(state: State) -> str | None:
    """Return by whom a state was recorded; None if it never was."""
    return cast("str | None", state.context.get(RUNNER))


def _failed(what: str, names: list[str], state: State) -> State:
    return Failed(f"{what}: {', '.join(map(repr, dict.fromkeys(names)))}.", result=state.result)


def _all(task_states: Mapping[Task[..., Any], State]) -> Iterator[tuple[Task[..., Any], State]]:
    for task, state in task_states.items():
        for one in state.map_states if isinstance(state, Mapped) else [state]:
            if one is not None:
                yield task, one
