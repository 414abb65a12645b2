"""Which results may stay where the body ran, because nobody here looks at them."""

from __future__ import annotations

from typing import Any

from ..edge import Edge
from ..flow import Flow
from ..task import Task
from ..triggers import all_successful

__all__ = ["may_stay"]


def may_stay(flow: Flow, task: Task[..., Any]) -> bool:
    """Return whether all that takes the result of a task is bodies that run at the same place.

    Args:
        - flow: the flow
        - task: a task whose result nobody asks for after the run
    """
    edges = flow._downstream[task]
    return bool(edges) and _is_unseen(task) and all(_takes_it_there(task, edge) for edge in edges)


def _takes_it_there(task: Task[..., Any], edge: Edge) -> bool:
    taker = edge.downstream_task
    # what is flattened is looked through here
    is_taken = edge.key is not None and not edge.flattened
    return is_taken and _is_unseen(taker) and _place(taker) == _place(task)


def _is_unseen(task: Task[..., Any]) -> bool:
    """Whether nothing of the user's that runs here gets to see the inputs or the result of a task."""
    return (
        task.travels
        and task.cache_for is None
        and task.target is None
        and task.result is None
        and task.task_run_name is None
        and not task.state_handlers
        and task.trigger is all_successful
    )


def _place(task: Task[..., Any]) -> str:
    return (task.needs and task.needs.place) or ""
