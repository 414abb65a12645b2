"""Branches and pauses: `case`, `switch`, `merge` and `pause_task`.

A branch that is not taken is skipped, and so is what comes after it, up to a `merge`.

Example:

    ```python
    with Flow("branches") as flow:
        kind = look_at(page)
        with case(kind, "table"):
            rows = read_table(page)
        with case(kind, "list"):
            items = read_list(page)
        store(merge(rows, items))
    ```
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from typing import TYPE_CHECKING, Any, Self

import msgspec

from .context import Building, building, context
from .edge import EdgeAnnotation
from .errors import FlowDefinitionError
from .operators import Constant, _Generated
from .parameter import Parameter
from .plain import typed
from .signals import PAUSE, SKIP, PrefectSignal
from .task import Task
from .triggers import not_all_skipped
from .wiring import is_constant

if TYPE_CHECKING:
    from .flow import Flow

__all__ = ["CompareValue", "Merge", "case", "merge", "pause_task", "switch"]


class WiringScope:
    """A block inside ``with Flow`` that hears of each task that is added to the flow in it."""

    def __init__(self) -> None:
        self._flow: Flow | None = None
        self._tasks: dict[Task[..., Any], None] = {}
        self._token: Token[Building | None] | None = None

    def open(self, what: str) -> None:
        """Begin to hear; `what` names the block in the error."""
        around = building.get()
        if around is None:
            raise FlowDefinitionError(f"{what} was opened outside a flow: open it inside `with Flow(...)`")
        self._flow = around.flow
        if self._token is not None:
            raise FlowDefinitionError(f"{what} was opened twice: make one for each block")
        self._token = building.set(msgspec.structs.replace(around, blocks=(*around.blocks, self)))

    def close(self) -> Flow:
        """Hear no more."""
        assert self._token is not None
        assert self._flow is not None
        building.reset(self._token)
        return self._flow

    def add_task(self, task: Task[..., Any], flow: Flow) -> None:
        """Hear of a task; parameters belong to the whole flow, whichever block they are made in."""
        if flow is self._flow and not isinstance(task, Parameter):
            self._tasks[task] = None

    def first_tasks(self, flow: Flow) -> list[Task[..., Any]]:
        """Return the tasks of the block that wait for no other one in it."""
        return [task for task in self._tasks if not self._tasks.keys() & flow.upstream_tasks(task)]

    def gated_tasks(self, flow: Flow) -> list[Task[..., Any]]:
        """Return the tasks of the block that do not run where the block is not taken, unless told so themselves.

        They are the first ones, and those that no skip upstream reaches: a `merge`, above all.
        """
        first = set(self.first_tasks(flow))
        return [task for task in self._tasks if task in first or not task.skip_on_upstream_skip]

    def last_tasks(self, flow: Flow) -> list[Task[..., Any]]:
        """Return the tasks of the block that no other one in it waits for."""
        return [task for task in self._tasks if not self._tasks.keys() & flow.downstream_tasks(task)]


class CompareValue(_Generated):
    """Lets what comes after it run if a value is the expected one, and be skipped if not.

    Args:
        - value: the expected value
    """

    is_gate = True

    def __init__(self, value: Any, name: str | None = None, **kwargs: Any) -> None:
        self.value = value
        super().__init__(name=name or f'CompareValue: "{value}"', **kwargs)

    async def run(self, value: Any) -> None:
        """Compare.

        Raises:
            - SKIP: if the value is not the expected one
        """
        if value != self.value:
            raise SKIP(f"The value {value!r} is not {self.value!r}.")


class case:  # noqa: N801 - it reads as a statement
    """A block whose tasks run only if a task's result is this value; otherwise they are skipped.

    Args:
        - task: the task
        - value: the value, compared by ``==``

    Raises:
        - FlowDefinitionError: outside a flow, if the condition is no task, or if the value is one
    """

    def __init__(self, task: Any, value: Any) -> None:
        _check_condition("case(...)", task)
        if isinstance(value, Task):
            raise FlowDefinitionError(f"case(...): the value is a plain one, not the task {value.name!r}")
        self.task = task
        self.value = value
        self._scope = WiringScope()

    def __enter__(self) -> Self:
        self._scope.open("case(...)")
        return self

    def __exit__(self, *exc_info: Any) -> None:
        flow = self._scope.close()
        gated = self._scope.gated_tasks(flow)
        if not gated or exc_info[0] is not None:
            return
        chosen = CompareValue(self.value, name=f"case({self.value})").bind(value=self.task, flow=flow)
        for task in gated:
            task.set_upstream(chosen, flow=flow)


def _check_condition(what: str, condition: Any) -> None:
    if isinstance(condition, (Task, EdgeAnnotation)):
        return
    found = f"the condition is {condition!r}, not a task"
    if isinstance(condition, bool):
        found += ": `==` and `!=` compare tasks at once, while the flow is built; write task.is_equal(...) instead"
    raise FlowDefinitionError(f"{what}: {found}")


def switch(condition: Any, cases: Mapping[Any, Any], mapped: bool = False) -> None:
    """Run of several tasks the one whose key is the result of `condition`; the others are skipped.

    Args:
        - condition: a task
        - cases: the tasks, each by the value it is for
        - mapped: whether to choose for each element of the condition's result

    Raises:
        - FlowDefinitionError: if the condition is no task, or a case is none

    Example:

        ```python
        switch(kind, {"table": read_table(page), "list": read_list(page)})
        ```
    """
    _check_condition("switch(...)", condition)
    if not isinstance(cases, Mapping):
        raise FlowDefinitionError(f"switch(...): the cases are a dict of tasks by value, not {cases!r}")
    for value, task in cases.items():
        if not isinstance(task, Task):
            raise FlowDefinitionError(f"switch(...): the case {value!r} is {task!r}, not a task")
        chosen = CompareValue(value, tags=["switch"]).bind(value=condition, mapped=mapped)
        task.set_upstream(chosen, mapped=mapped)


class Merge(_Generated):
    """Takes the result of the branch that was run.

    It is skipped only if all branches are, and fails if one of them did.
    """

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.setdefault("skip_on_upstream_skip", False):
            raise FlowDefinitionError(
                "a merge always has skip_on_upstream_skip=False: its branches are there to be skipped"
            )
        kwargs.setdefault("trigger", not_all_skipped)
        super().__init__(**kwargs)

    async def run(self, **branches: Any) -> Any:
        """Return the first result there is, in the order the branches were given."""
        ordered = sorted(branches.items(), key=lambda branch: int(branch[0].removeprefix("task_")))
        # a task that skips itself has its signal as a result
        return next((value for _, value in ordered if value is not None and not isinstance(value, PrefectSignal)), None)


def merge(*tasks: Any, flow: Flow | None = None, mapped: bool = False, **kwargs: Any) -> Any:
    """Bring branches together: return a task with the result of the one that was run.

    Args:
        - tasks: the last task of each branch; a plain value is a branch that is always taken
        - flow: the flow; the open one if None
        - mapped: whether the branches are mapped, and are brought together child by child
        - kwargs: as for `Task`
    """
    branches = [Constant(value) if is_constant(value) else value for value in tasks]
    inputs = {f"task_{number}": branch for number, branch in enumerate(branches, 1)}
    return Merge(**kwargs).bind(flow=flow, mapped=mapped, **inputs)


def pause_task(message: str | None = None, *, type: Any = Any) -> Any:
    """Pause the task that calls this, until somebody resumes it; then it runs from its beginning and passes here.

    Args:
        - message: the message of the Paused state
        - type: what the answer is to be: a type annotation as of a `Parameter`. With an answer that cannot be that, the
            task pauses again, and says so.

    Returns:
        - Any: the value that was given at the resume, as that type; None if there was none

    Raises:
        - PAUSE: unless the run was resumed
    """
    message = message or "The task paused itself."
    if not context.get("resume"):
        raise PAUSE(message)
    answer = context.get("answer") or {}
    if type is Any or "value" not in answer:
        return answer.get("value")
    try:
        return typed(answer["value"], type)
    except ValueError as error:
        raise PAUSE(f"{message} The answer {answer['value']!r} will not do: {error}") from None
