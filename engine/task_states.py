"""The states of the tasks of a flow run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .state import State

__all__ = ["TaskStates"]

Times = Mapping[tuple[Any, int], tuple[float, float]]


class TaskStates(dict[Any, "State"]):
    """The states of the tasks of a flow run, by task: the result of its state.

    Args:
        - states: the states
        - slugs: the slugs of all tasks of the flow
        - times: when the runs of tasks (and a mapped child, or -1) began and ended here, on the loop's clock
    """

    __slots__ = ("_slugs", "times")

    def __init__(self, states: Mapping[Any, State], slugs: Mapping[Any, str], times: Times | None = None) -> None:
        super().__init__(states)
        self._slugs = slugs
        self.times: Times = {} if times is None else times

    def slug(self, task: Any) -> str:
        """Return the slug of a task."""
        return self._slugs.get(task) or str(task.name)

    def of(self, which: Any) -> State:
        """Return the state of a task.

        Args:
            - which: the task, its slug, or its name if no other task has it

        Raises:
            - KeyError: if there is none
        """
        slugs = {task: self._slugs.get(task, "") for task in self}
        matches = [task for task in self if task is which or slugs[task] == which]
        if not matches and isinstance(which, str):
            matches = [task for task in self if task.name == which]
        if len(matches) == 1:
            return self[matches[0]]
        problem = "several tasks are called" if matches else "there is no state of a task"
        raise KeyError(f"{problem} {which!r}; there are: {', '.join(sorted(slugs.values()))}")
