"""How any value becomes a task, so that it can be an input of another one, and how many tasks are mapped at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from ._containers import SCALARS, parts_of, rebuilt
from ._one_pass import is_one_pass
from ._run.mapping import is_text
from ._signature import names
from .context import building_into
from .edge import EdgeAnnotation
from .errors import FlowDefinitionError
from .operators import Constant, Container, Dict, List, Set, Tuple
from .parameter import Parameter
from .task import Task, _the_flow, holds_task

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
    """Whether there is no task in `value`, however deep in collections and in records with fields.

    Args:
        - value: the value
        - task, key: the argument it is for, if it is for one

    Raises:
        - FlowDefinitionError: if there is something in it that cannot be an input: a coroutine, what can be read only
            once, a container that holds itself, or a task where its result could not take its place
    """
    if type(value) in SCALARS:
        return True
    return not _Look("a value" if task is None else f"the argument {key!r} of task {task.name!r}").finds(value)


_TOO_DEEP = 200


class _Look:
    """Looks for tasks in a value.

    Args:
        - where: what the value is, for errors
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._around: list[int] = []
        self._seen: dict[int, Any] = {}

    def finds(self, value: Any) -> bool:
        """Return whether there is a task in a value.

        Raises:
            - FlowDefinitionError: see `is_constant`
        """
        if type(value) in SCALARS:
            return False
        if isinstance(value, (Task, EdgeAnnotation)):
            return True
        refuse_coroutine(value, self._where)
        if is_one_pass(value):
            raise self._wrong(value, "can be read only once: pass list(...)")
        parts = parts_of(value)
        if parts is None:
            if holds_task(value):
                raise self._wrong(value, "holds a task, and cannot be made of its result: pass the task by itself")
            return False
        return self._found_in(value, parts)

    def _found_in(self, value: Any, parts: list[Any]) -> bool:
        is_record = not isinstance(value, (list, tuple, dict, set, frozenset, deque))
        if id(value) in self._seen and is_record:
            return False  # records may refer to each other in a circle
        if id(value) in self._around or len(self._around) > _TOO_DEEP:
            raise self._wrong(value, "contains itself, or is nested too deep: pass what it is made of")
        self._seen[id(value)] = value
        self._around.append(id(value))
        # each is looked at: what comes after a task may be what cannot be an input
        found = [part for part in parts if type(part) not in SCALARS and self.finds(part)]
        self._around.pop()
        if found and not is_record and type(value) not in (list, tuple, dict, set):
            self._check_rebuilt(value, parts)
        return bool(found)

    def _check_rebuilt(self, value: Any, parts: list[Any]) -> None:
        try:
            is_alike = set(map(id, parts_of(rebuilt(value, parts)) or ())) == set(map(id, parts))
        except Exception:
            is_alike = False
        if not is_alike:
            raise self._wrong(value, "holds a task, and none like it can be made of other parts: pass a list")

    def _wrong(self, value: Any, what: str) -> FlowDefinitionError:
        return FlowDefinitionError(f"{self._where}: a {type(value).__name__} {what}")


def as_task(value: Any, flow: Flow) -> Task[..., Any]:
    """Return the task whose result is `value`, added to `flow` with all the tasks that `value` contains.

    Args:
        - value: a task, a collection or record that may contain tasks, or any other value
        - flow: the flow

    Raises:
        - FlowDefinitionError: if there is something in it that cannot be an input, see `is_constant`
    """
    if isinstance(value, EdgeAnnotation):
        return as_task(value.value, flow)
    if isinstance(value, Task):
        return flow.add_task(value)
    if is_constant(value):
        return flow.add_task(Constant(value))
    if type(value) is dict:
        return Dict().bind(keys=list(value.keys()), values=list(value.values()), flow=flow)
    made = _COLLECTIONS[type(value)]() if type(value) in _COLLECTIONS else Container(value)
    return _collection(made, parts_of(value) or [], flow)


_COLLECTIONS: dict[type, Callable[[], Task[..., Any]]] = {list: List, tuple: Tuple, set: Set}


def _collection(made: Task[..., Any], items: list[Any], flow: Flow) -> Task[..., Any]:
    return made.bind(**{f"arg_{number}": item for number, item in enumerate(items, 1)}, flow=flow)


def apply_map(function: Callable[..., Any], *args: Any, flow: Flow | None = None, **kwargs: Any) -> Any:
    """Call a function that wires several tasks, so that all of it runs once for each element of the arguments.

    As many times as the shortest argument has elements; where a task of the function takes nothing from it, it waits
    for it all the same. A task that the function takes from outside, and not as an argument, is passed whole.

    Args:
        - function: calls tasks, and returns one or several of them; one that takes an argument `flow` is given the flow
            to wire them in, if `flow` is given here
        - args, kwargs: as for `Task.map`; wrap a value in `unmapped` to pass it whole
        - flow: the flow; the open one if None

    Raises:
        - FlowDefinitionError: if the function itself calls ``map``, or no argument can be mapped over
    """
    name = getattr(function, "__name__", "apply_map")
    if not callable(function):
        raise FlowDefinitionError(f"apply_map takes a function that wires tasks, not {function!r}")
    target = _the_flow(flow, name)
    outside = _Outside(target, name)
    given = [outside.stand_in(value, f"argument {number}") for number, value in enumerate(args, 1)]
    named: dict[str, Any] = {key: outside.stand_in(value, f"argument {key!r}") for key, value in kwargs.items()}
    if flow is not None and "flow" in names(function).all:
        named["flow"] = outside.inner
    if not any(annotated.mapped for annotated in outside.arguments.values()):
        raise FlowDefinitionError(f"apply_map of {name!r}: no argument is mapped over; call the function instead")
    with building_into(outside.inner):
        answer = function(*given, **named)
    outside.take_over()
    return outside.resolved(answer)


class _Outside:
    """What a function given to `apply_map` gets for its arguments, and how what it wires becomes part of the flow.

    Args:
        - target: the flow
        - name: the name of the function, for errors
    """

    def __init__(self, target: Flow, name: str) -> None:
        from .flow import Flow

        self.target = target
        self.inner = Flow("apply_map")
        self.arguments: dict[Task[..., Any], EdgeAnnotation] = {}
        """For each stand-in what it stands for, and how it is passed."""
        self._name = name
        self._before = set(target._tasks)

    def stand_in(self, value: Any, what: str) -> Task[..., Any]:
        """Return what the function gets for an argument: the task that it is, or another where that stands already."""
        is_asked = isinstance(value, EdgeAnnotation) and value.mapped
        annotated = EdgeAnnotation(value)
        annotated.mapped = annotated.mapped is not False
        if annotated.mapped and is_text(annotated.value):
            if not is_asked:
                raise FlowDefinitionError(
                    f"apply_map of {self._name!r}: {what}, {annotated.value!r}, is a text, and a text is one value: "
                    "write unmapped(...) to pass it whole to each run, or mapped(...) where its characters are meant"
                )
            annotated.value = list(annotated.value)
        with building_into(self.target):
            made = as_task(annotated.value, flow=self.target)
        annotated.value = made
        stand_in = made
        if made in self.arguments:
            stand_in = object.__new__(type(made))
            stand_in.__dict__.update(made.__dict__, slug=None)
        self.inner.add_task(stand_in)
        self.arguments[stand_in] = annotated
        return stand_in

    def take_over(self) -> None:
        """Wire in the flow what the function wired.

        Raises:
            - FlowDefinitionError: if it mapped a task itself
        """
        inner, target = self.inner, self.target
        wired = [made for made in inner.ordered_tasks() if made not in self.arguments]
        for made in wired:
            target.add_task(made)
        for edge in inner.ordered_edges():
            if edge.mapped:
                raise FlowDefinitionError("a function given to apply_map cannot map tasks itself")
            up, is_mapped, flattened = edge.upstream_task, True, edge.flattened
            if up in self.arguments:
                annotated = self.arguments[up]
                up, is_mapped, flattened = annotated.value, annotated.mapped is True, flattened or annotated.flattened
            elif up in self._before or isinstance(up, Parameter):
                is_mapped = False
            target.add_edge(up, edge.downstream_task, key=edge.key, mapped=is_mapped, flattened=flattened)
        for made, constants in inner.constants.items():
            target.constants[made].update(constants)
        for made in wired:
            if made not in self._before and not isinstance(made, Parameter) and self._is_first(made):
                self._wait_for_all(made)

    def _is_first(self, made: Task[..., Any]) -> bool:
        """Whether a task waits for no other one that the function wired: it says how often those after it run."""
        return all(
            up in self.arguments or up in self._before or isinstance(up, Parameter)
            for up in self.inner.upstream_tasks(made)
        )

    def _wait_for_all(self, made: Task[..., Any]) -> None:
        for annotated in self.arguments.values():
            waits = {(edge.upstream_task, edge.mapped) for edge in self.target.edges_to(made)}
            is_mapped = annotated.mapped is True
            is_known = not is_mapped and isinstance(annotated.value, Constant)
            if not is_known and (annotated.value, is_mapped) not in waits:
                self.target.add_edge(annotated.value, made, mapped=is_mapped, flattened=annotated.flattened)

    def resolved(self, answer: Any) -> Any:
        """Return what the function returned, with arguments themselves in the place of what stood for them."""
        if isinstance(answer, Task):
            return self.arguments[answer].value if answer in self.arguments else answer
        if type(answer) in (list, tuple):
            return type(answer)(self.resolved(one) for one in answer)
        if type(answer) is dict:
            return {key: self.resolved(one) for key, one in answer.items()}
        return answer
