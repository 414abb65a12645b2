"""The rules of a task run: each looks at facts, and either returns the state to go on with or ends the run.

To end the run a rule raises `ENDRUN` with the answer. Rules await nothing, read no clock and know no backend.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from ..edge import Edge
from ..result import Result
from ..signals import ENDRUN
from ..state import (
    Cached,
    Failed,
    Finished,
    Looped,
    Mapped,
    Pending,
    Queued,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    State,
    Submitted,
    Success,
    TimedOut,
    TriggerFailed,
)
from .net import NO_END, is_moment, is_the_end, shown

__all__ = [
    "NO_END",
    "begun",
    "due_in",
    "is_retried",
    "is_the_end",
    "loop_again",
    "may_replace",
    "ready",
    "retry",
    "running",
    "started_by_now",
    "submitted",
    "trigger_answer",
    "upstream_finished",
    "upstream_skipped",
]


def may_replace(told: State, answer: State, *, loops: bool) -> bool:
    """Whether a handler may put a state in the place of the one it was told: the run ends in it, or goes on from it.

    A handler may hold a run back as a backend does: it is Queued until its time.
    """
    if is_the_end(answer) or (isinstance(answer, Queued) and is_moment(answer.start_time)):
        return True
    if isinstance(answer, Looped):
        return loops and told.is_finished()  # the next round begins
    if isinstance(answer, Running):
        return told.is_running() or told.is_submitted()
    return type(answer) is type(told)


def ready(state: State, *, runs_again: bool = False, is_own: bool = False) -> State:
    """A run may go on from Pending and from the states that are checked later; it ends from any other.

    One whose result was lost, and is needed, begins again although it is finished. A Cached result is validated again,
    unless it is this very run's own, found in an earlier round.
    """
    if runs_again and isinstance(state, Finished) and not isinstance(state, (Mapped, Cached)):
        return Pending("Running again: the result was lost with the process that made it.")
    if isinstance(state, Pending):
        return state
    # a Mapped task regenerates its children
    if isinstance(state, Mapped) or (isinstance(state, Cached) and not is_own):
        return state
    raise ENDRUN(state)


def started_by_now(state: State, now: datetime.datetime) -> State:
    """A scheduled run goes on once its time has come; a paused one without a time never does by itself."""
    if isinstance(state, Scheduled) and not (state.start_time is not None and state.start_time <= now):
        raise ENDRUN(state)
    return state


def upstream_finished(state: State, upstream_states: Mapping[Edge, State]) -> State:
    """A run waits until everything upstream is finished, mapped children included.

    Where it goes child by child it does not wait for the children upstream. What is flattened does not.
    """
    for edge, upstream in upstream_states.items():
        if not isinstance(upstream, Finished) or (
            isinstance(upstream, Mapped)
            and not (edge.mapped and not edge.flattened)
            and not _children_finished(upstream)
        ):
            raise ENDRUN(state)
    return state


def _children_finished(state: Mapped) -> bool:
    return all(issubclass(kind, Finished) for kind in _kinds(state.map_states))


def _kinds(states: Iterable[State]) -> set[type[State]]:
    """Return of which classes states are: few, however many states there are."""
    return {*map(type, states)}


def upstream_skipped(state: State, upstream_states: Mapping[Edge, State], skip_on_upstream_skip: bool) -> State:
    """A task is skipped when something upstream was, unless it wants to see for itself; and in any case that was not
    taken.
    """
    for edge, upstream in upstream_states.items():
        if isinstance(upstream, Skipped):
            is_skipped = skip_on_upstream_skip or edge.upstream_task.is_gate
        else:
            is_skipped = (
                isinstance(upstream, Mapped)
                and skip_on_upstream_skip
                and not edge.mapped
                and any(issubclass(kind, Skipped) for kind in _kinds(upstream.map_states))
            )
        if is_skipped:
            raise ENDRUN(Skipped(f"Upstream task '{edge.upstream_task.name}' was skipped."))
    return state


def trigger_answer(state: State, answer: object, task_name: str, trigger_name: str) -> State:
    """A trigger says True to go on, and False (or a signal) to end the run."""
    if answer is True:
        return state
    if answer is False:
        raise ENDRUN(TriggerFailed(f"Trigger '{trigger_name}' of task '{task_name}' was not satisfied."))
    raise ENDRUN(
        TriggerFailed(
            f"Trigger '{trigger_name}' of task '{task_name}' returned {shown(answer)}; a trigger returns True or False."
        )
    )


def running(state: State) -> State:
    """A Pending run begins."""
    if not isinstance(state, Pending):
        raise ENDRUN(state)
    return Running("Starting task run.")


def submitted(state: State) -> State:
    """A Pending run is handed over to where its body will begin."""
    if not isinstance(state, Pending):
        raise ENDRUN(state)
    return Submitted("Handed over to where its body runs.")


def begun(submitted: State) -> State:
    """A run begins that was handed over."""
    return Running("Starting task run.", context=submitted.context)


def is_retried(
    state: State, *, run_count: int, max_retries: int, retry_on: tuple[type[BaseException], ...] | None
) -> bool:
    """A failed run is tried again while it has attempts left and its error is worth one."""
    return (
        isinstance(state, Failed)
        and run_count <= max_retries
        and (retry_on is None or state.result is None or _is_worth_one(state, retry_on))
    )


def _is_worth_one(state: State, retry_on: tuple[type[BaseException], ...]) -> bool:
    return isinstance(state.result, retry_on) or (isinstance(state, TimedOut) and issubclass(TimeoutError, retry_on))


def retry(
    state: State,
    *,
    run_count: int,
    max_retries: int,
    retry_on: tuple[type[BaseException], ...] | None,
    start_time: datetime.datetime,
    cached_inputs: dict[str, Result],
) -> State:
    """A run that is to be tried again waits until then."""
    if not is_retried(state, run_count=run_count, max_retries=max_retries, retry_on=retry_on):
        return state
    return Retrying(
        f"Retrying task (after attempt {run_count} of {max_retries + 1}).",
        start_time=start_time,
        run_count=run_count,
        cached_inputs=cached_inputs,
    )


def loop_again(loop_count: int) -> State:
    """A looped run begins its next round."""
    return Pending(f"Looping task (round {loop_count}).")


def due_in(state: State, now: datetime.datetime, limit: float) -> float | None:
    """Return in how many seconds a waiting run goes on by itself here, or None if it does not.

    Only Retrying and Queued runs do, and only if they are due within `limit` seconds; with a limit of 0, none does.
    """
    if not isinstance(state, (Retrying, Queued)) or state.start_time is None or not limit:
        return None
    seconds = (state.start_time - now).total_seconds()
    return max(0.0, seconds) if seconds <= limit else None


def flow_outcome(
    state: State, terminal_states: Iterable[State], key_states: Iterable[State], return_states: dict[Any, State]
) -> State:
    """Return the final state of a flow.

    Unfinished terminal tasks win over everything: the flow is not finished. Then one failed reference task fails it.
    """
    kinds = _kinds(key_states)
    if not all(issubclass(kind, Finished) for kind in _kinds(terminal_states)):
        state.result = return_states
        state.message = "Some tasks are not finished: the flow run goes on later."
        return state
    if any(issubclass(kind, Failed) for kind in kinds):
        return Failed("Some reference tasks failed.", result=return_states)
    if all(issubclass(kind, Success) for kind in kinds):
        return Success("All reference tasks succeeded.", result=return_states)
    return Success("No reference tasks failed.", result=return_states)
