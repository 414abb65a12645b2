"""What has to run again when a flow run is continued in another process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..flow import Flow
from ..result import Result
from ..state import Cached, Failed, Finished, Looped, Mapped, Pending, Running, State, Submitted
from ..task import Task

__all__ = ["RETRY_FOLLOWS", "RUNNER", "continued", "is_under_way", "tasks_to_rerun"]

RETRY_FOLLOWS = "retry_follows_attempt"
"""Where a Failed state says that the task is tried again, and after which attempt: its runner may not get to that."""

RUNNER = "runner"
"""Where a state with which a task run begins says whose it is."""


def is_under_way(state: State) -> bool:
    """Whether the runner of a task run has not left it.

    It runs, was handed over to where it will, is between two rounds, or is about to be retried.
    """
    if isinstance(state, Submitted):
        return state.state is None  # one that holds a state goes on from that
    return isinstance(state, (Running, Looped)) or (isinstance(state, Failed) and RETRY_FOLLOWS in state.context)


def continued(recorded: State, *, takeover: bool) -> State:
    """Return the state with which a task run goes on that another runner began.

    Args:
        - recorded: the newest state
        - takeover: whether that runner is gone; if it may live, what is under way stays its own
    """
    if type(recorded) is Pending or not is_under_way(recorded) or (isinstance(recorded, Failed) and takeover):
        return recorded
    if not takeover:
        elsewhere = recorded if isinstance(recorded, Running) else Running("Under way in another process.")
        elsewhere.context.setdefault(RUNNER, "another")
        return elsewhere
    inputs = dict(recorded.cached_inputs)
    if isinstance(recorded, Looped) and recorded._result.location is not None:
        inputs = {"_loop_count": Result(recorded.loop_count + 1), "_loop_result": recorded._result}
    return Pending("Taken over from a runner that is gone.", context=recorded.context, cached_inputs=inputs)


def tasks_to_rerun(flow: Flow, states: Mapping[Task[..., Any], State]) -> list[Task[..., Any]]:
    """Return the finished tasks whose result was lost with the process that made it, and is needed again.

    Secrets, resources and what flowloop computes by itself are never stored. One of them runs again if something that
    has yet to run waits for it; a resource that is set up again is also cleaned up again.

    Args:
        - flow: the flow
        - states: what is known of its tasks
    """
    lost = {task for task, state in states.items() if task.reruns_on_restart and _is_final(state)}
    if not lost:
        return []
    over = {task for task, state in states.items() if _is_over(flow, task, state, states)}
    ordered = flow.sorted_tasks()
    chosen: set[Task[..., Any]] = set()
    for task in reversed(ordered):
        if task in lost and not task.is_cleanup:
            after = [edge.downstream_task for edge in flow._downstream[task]]
            if any(one in chosen or one not in over for one in after):
                chosen.add(task)
    for task in lost:
        if task.is_cleanup and any(edge.key and edge.upstream_task in chosen for edge in flow._upstream[task]):
            chosen.add(task)
    return [task for task in ordered if task in chosen]


def _is_over(flow: Flow, task: Task[..., Any], state: State, states: Mapping[Task[..., Any], State]) -> bool:
    if isinstance(state, Mapped):
        if len(state.map_states) < state.n_map_states:
            if task.cache_for is not None:
                return False  # a child may be Cached
            # the children are not known here; but what comes after all of them has not finished before they had
            after = (edge.downstream_task for edge in flow._downstream[task] if not edge.mapped)
            return any(isinstance(states.get(one), Finished) for one in after)
        return all(_is_final(child) for child in state.map_states)
    return _is_final(state)


def _is_final(state: State) -> bool:
    # a cached result is validated again, with the inputs it had
    return isinstance(state, Finished) and not isinstance(state, Cached)
