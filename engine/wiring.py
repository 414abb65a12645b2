"""How any value becomes a task, so that it can be an input of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .edge import EdgeAnnotation
from .operators import Constant, Dict, List, Set, Tuple
from .task import Task

if TYPE_CHECKING:
    from .flow import Flow

__all__ = ["as_task", "is_constant"]


def is_constant(value: Any) -> bool:
    """Whether there is no task in `value`, however deep in lists, tuples, sets and dicts."""
    if isinstance(value, (Task, EdgeAnnotation)):
        return False
    if isinstance(value, (list, tuple, set)):
        return all(is_constant(item) for item in value)
    if isinstance(value, dict):
        return all(is_constant(key) and is_constant(item) for key, item in value.items())
    return True


def as_task(value: Any, flow: Flow) -> Task[..., Any]:
    """Return the task whose result is `value`, added to `flow` with all the tasks that `value` contains.

    Args:
        - value: a task, a collection that may contain tasks, or any other value
        - flow: the flow
    """
    if isinstance(value, EdgeAnnotation):
        return as_task(value.value, flow)
    if isinstance(value, Task):
        if value not in flow.tasks:
            flow.add_task(value)
        return value
    if is_constant(value):
        return flow.add_task(Constant(value))
    if isinstance(value, dict):
        return Dict().bind(
            keys=_collection(List(), list(value.keys()), flow),
            values=_collection(List(), list(value.values()), flow),
            flow=flow,
        )
    made = List() if isinstance(value, list) else Tuple() if isinstance(value, tuple) else Set()
    return _collection(made, list(value), flow)


def _collection(made: Task[..., Any], items: list[Any], flow: Flow) -> Task[..., Any]:
    return made.bind(**{f"arg_{number}": item for number, item in enumerate(items, 1)}, flow=flow)
