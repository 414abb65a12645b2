"""What a recorded run returns of its tasks: their states, and the results that lie elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..backend import Backend, TaskRunInfoResult
from ..context import OwnLogger
from ..result import Result
from ..runner import is_outside
from ..state import Mapped, Pending, State
from ..task import Task
from .unrecordable import cut

__all__ = ["read_results", "recorded_states"]


async def read_results(task: Task[..., Any], state: State, result: Result | None, logger: OwnLogger) -> None:
    """Read what the runs of a task returned that is stored and not here yet; what cannot be read stays where it is.

    Args:
        - task: the task
        - state: its state
        - result: the result whose settings to read with
        - logger: where it is said what cannot be read
    """
    for one in state.map_states if isinstance(state, Mapped) else [state]:
        if one.is_successful() and one._result.value is None and one._result.location is not None:
            try:
                await one.load_result(result)
            except BaseException as error:
                if is_outside(error):
                    raise
                logger.warning("the result of %s cannot be read: %s", task.name, cut(error))


async def recorded_states(
    backend: Backend,
    flow_run_id: str,
    known: Mapping[Task[..., Any], TaskRunInfoResult],
    tasks: Iterable[Task[..., Any]],
) -> dict[Task[..., Any], State]:
    """Return the states that are recorded of the tasks of a flow run which is over, with those of mapped children.

    Args:
        - backend: where it is recorded
        - flow_run_id: the flow run
        - known: what was read of its tasks
        - tasks: the tasks
    """
    states = {task: known[task].state if task in known else Pending("The task was not run.") for task in tasks}
    mapped = {known[task].task_slug: (task, state) for task, state in states.items() if isinstance(state, Mapped)}
    if not mapped:
        return states
    _, runs = await backend.get_flow_run_history(flow_run_id)
    begun: dict[str | None, list[int]] = {slug: [] for slug in mapped}
    for run in runs:
        if run.map_index >= 0 and run.task_slug in begun:
            begun[run.task_slug].append(run.map_index)
    for slug, (task, state) in mapped.items():
        state.map_states = [Pending("The task was not run.") for _ in range(state.n_map_states)]
        for info in await backend.get_task_run_infos(flow_run_id, known[task].task_id, sorted(begun[slug])):
            if info.map_index < state.n_map_states:
                state.map_states[info.map_index] = info.state
    return states
