"""How any value becomes a task, so that it can be an input of another one, and how many tasks are mapped at once."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from .context import context
from .edge import EdgeAnnotation, mapped
from .errors import FlowDefinitionError
from .operators import Constant, Dict, List, Set, Tuple
from .parameter import Parameter
from .task import Task, _the_flow

if TYPE_CHECKING:
    from .flow import Flow

__all__ = ["apply_map", "as_task", "is_constant", "refuse_coroutine"]


def refuse_coroutine(value: Any, owner: str) -> None:
    """Refuse a value that is a coroutine, and close it.

    Raises:
        - FlowDefinitionError: if it is one
    """
    if isinstance(value, CoroutineType):
        value.close()
        raise FlowDefinitionError(
            f"{owner} is the coroutine {value.__qualname__}(), which nobody has awaited: await it first, "
            "or make its function a task"
        )


def is_constant(value: Any, task: Task[..., Any] | None = None, key: str | None = None) -> bool:
    """Whether there is no task in `value`, however deep in lists, tuples, sets and dicts.

    Args:
        - value: the value
        - task, key: the argument it is for, if it is for one

    Raises:
        - FlowDefinitionError: if there is a coroutine in it
    """
    if isinstance(value, (Task, EdgeAnnotation)):
        return False
    if isinstance(value, (list, tuple, set)):
        return all(is_constant(item, task, key) for item in value)
    if isinstance(value, dict):
        return all(is_constant(item, task, key) for pair in value.items() for item in pair)
    if isinstance(value, CoroutineType):
        refuse_coroutine(value, "a value" if task is None else f"the argument {key!r} of task {task.name!r}")
    return True


def as_task(value: Any, flow: Flow) -> Task[..., Any]:
    """Return the task whose result is `value`, added to `flow` with all the tasks that `value` contains.

    Args:
        - value: a task, a collection that may contain tasks, or any other value
        - flow: the flow

    Raises:
        - FlowDefinitionError: if there is a coroutine in it
    """
    if isinstance(value, EdgeAnnotation):
        return as_task(value.value, flow)
    if isinstance(value, Task):
        return flow.add_task(value)
    if is_constant(value):
        return flow.add_task(Constant(value))
    if isinstance(value, dict):
        return Dict().bind(keys=list(value.keys()), values=list(value.values()), flow=flow)
    made = List() if isinstance(value, list) else Tuple() if isinstance(value, tuple) else Set()
    return _collection(made, list(value), flow)


def _collection(made: Task[..., Any], items: list[Any], flow: Flow) -> Task[..., Any]:
    return made.bind(**{f"arg_{number}": item for number, item in enumerate(items, 1)}, flow=flow)


def apply_map(function: Callable[..., Any], *args: Any, flow: Flow | None = None, **kwargs: Any) -> Any:
    """Call a function that wires several tasks, so that every task in it is mapped over the arguments.

    Args:
        - function: calls tasks, and returns one or several of them
        - args, kwargs: as for `Task.map`; wrap a value in `unmapped` to pass it whole
        - flow: the flow; the open one if None

    Raises:
        - FlowDefinitionError: if the function itself calls ``map``
    """
    from .flow import Flow

    target = _the_flow(flow, getattr(function, "__name__", "apply_map"))
    inner = Flow("apply_map")
    stand_ins: dict[Any, EdgeAnnotation] = {}

    def outside(value: Any) -> Any:
        annotated = value if isinstance(value, EdgeAnnotation) else mapped(value)
        with context(flow=target):
            made = as_task(annotated.value, flow=target)
        inner.add_task(made)
        stand_ins[made] = annotated
        return made

    with context(flow=inner):
        answer = function(*[outside(a) for a in args], **{k: outside(v) for k, v in kwargs.items()})

    for made in inner.ordered_tasks():
        if made not in stand_ins:
            target.add_task(made)
    for edge in inner.ordered_edges():
        if edge.mapped:
            raise FlowDefinitionError("a function given to apply_map cannot map tasks itself")
        given = stand_ins.get(edge.upstream_task)
        is_mapped = not isinstance(edge.upstream_task, Parameter) if given is None else given.mapped is not False
        target.add_edge(
            edge.upstream_task,
            edge.downstream_task,
            key=edge.key,
            mapped=is_mapped,
            flattened=edge.flattened or (given is not None and given.flattened),
        )
    for made, constants in inner.constants.items():
        target.constants.setdefault(made, {}).update(constants)
    for made in inner.ordered_tasks():
        # a task without inputs from outside runs once for each element all the same
        if made not in stand_ins and not inner.edges_to(made) and not isinstance(made, Parameter):
            for outer, annotated in stand_ins.items():
                if annotated.mapped is not False:
                    target.add_edge(outer, made, mapped=True)
    return answer
