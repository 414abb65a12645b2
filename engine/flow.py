"""Flows: graphs of tasks."""

from __future__ import annotations

import copy
import datetime
import itertools
import re
import string
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Token
from typing import TYPE_CHECKING, Any, Self, cast

from ._checks import FailureHandler, StateHandler, checked, failure_handler
from ._containers import OwnCopies, is_small
from ._run.caching import check_known_input
from ._run.mapping import flat_values, is_sequence, is_text, why_not
from ._signature import names, own_defaults
from .context import Building, building
from .edge import Edge, EdgeAnnotation
from .errors import FlowDefinitionError
from .parameter import Parameter
from .result import Result
from .task import Task
from .wiring import as_task, is_constant, refuse_coroutine

if TYPE_CHECKING:
    from .executors import Executor
    from .state import State
    from .visualize import Drawing

__all__ = ["Flow"]

_GRAPH = (
    "_tasks",
    "_edges",
    "_inputs",
    "_upstream",
    "_downstream",
    "_slug_owners",
    "_reference_tasks",
    "slugs",
    "constants",
)
"""What changes when the graph is built anew."""

_OF_EACH_CHILD = frozenset({"map_index", "task_full_name", "task_run_id", "task_run_name"})
"""What a template can name that is another thing for each child of a mapped task."""


class Flow:
    """A graph of tasks.

    Args:
        - name: what people read, and the identity in the project where the flow is registered
        - schedule: when it runs by itself (`flowloop.engine.schedules`)
        - executor: where the bodies of its tasks run; on the loop and in threads if None
        - tasks, edges: what it starts with
        - reference_tasks: the tasks whose states decide that of the flow; the terminal ones if None
        - state_handlers: functions (flow, old state, new state) called at each change, sync or async
        - on_failure: a function (flow, state) called when the flow fails
        - validate: whether to check the graph at once
        - result: where the results of tasks are stored that say nothing themselves
        - terminal_state_handler: a function (flow, state, states of the reference tasks) that may replace the final
            state
        - storage, run_config: documents that travel with the registered flow
        - timeout: whole seconds after which a run of the flow is ended, counted from its beginning, also where another
            process goes on with it

    Example:

        ```python
        with Flow("sum of squares") as flow:
            total = add_up(square.map([1, 2, 3]))
        state = await FlowRunner(flow).run()
        assert state.result[total].result == 14
        ```
    """

    def __init__(
        self,
        name: str,
        schedule: Any = None,
        executor: Executor | None = None,
        tasks: Iterable[Task[..., Any]] | None = None,
        edges: Iterable[Edge] | None = None,
        reference_tasks: Iterable[Task[..., Any]] | None = None,
        state_handlers: Iterable[StateHandler] | None = None,
        on_failure: FailureHandler | None = None,
        validate: bool | None = None,
        result: Result | None = None,
        terminal_state_handler: Callable[..., Any] | None = None,
        storage: Any = None,
        run_config: Any = None,
        timeout: int | datetime.timedelta | None = None,
    ) -> None:
        owner = f"flow {name!r}"
        self.name: str = checked(owner, "name", name)
        self.schedule = checked(owner, "schedule", schedule)
        self.executor: Executor | None = checked(owner, "executor", executor)
        self.result: Result | None = checked(owner, "result", result)
        self.timeout: int | None = checked(owner, "timeout", timeout)
        self.storage = storage
        self.run_config = run_config
        self.state_handlers: list[StateHandler] = checked(owner, "state_handlers", state_handlers)
        if checked(owner, "on_failure", on_failure) is not None:
            self.state_handlers.append(failure_handler(cast("FailureHandler", on_failure)))
        self.terminal_state_handler: Callable[..., Any] | None = checked(
            owner, "terminal_state_handler", terminal_state_handler
        )
        self.constants: defaultdict[Task[..., Any], dict[str, Any]] = defaultdict(dict)
        self.slugs: dict[Task[..., Any], str] = {}
        self._slug_owners: dict[str, Task[..., Any]] = {}
        self._slug_counts: Counter[str] = Counter()
        self._tasks: dict[Task[..., Any], None] = {}
        self._edges: dict[Edge, None] = {}
        self._upstream: dict[Task[..., Any], list[Edge]] = {}
        self._downstream: dict[Task[..., Any], list[Edge]] = {}
        self._inputs: set[tuple[Task[..., Any], str]] = set()
        """The arguments that have an edge."""
        self._reference_tasks: set[Task[..., Any]] | None = None
        self._memo: dict[Any, Any] = {}
        self._caches: dict[str, list[Any]] = {}
        """Results that may serve later runs in this process, by cache key."""
        self._warned: set[Task[..., Any]] = set()
        self._blocks: list[tuple[Token[Building | None], set[Task[..., Any]]]] = []

        for task in tasks or ():
            self.add_task(task)
        for edge in edges or ():
            if not isinstance(edge, Edge):
                raise FlowDefinitionError(f"flow {name!r}: edges are Edge objects, not {type(edge).__name__}")
            self._add(edge)
        if reference_tasks is not None:
            self.set_reference_tasks(reference_tasks)
        if validate:
            self.validate()

    # -- the block ---------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        fresh: set[Task[..., Any]] = set()
        around = building.get()
        blocks = () if around is None else around.blocks
        self._blocks.append((building.set(Building(self, fresh, blocks)), fresh))
        return self

    def __exit__(self, *exc_info: Any) -> None:
        token, fresh = self._blocks.pop()
        building.reset(token)
        if exc_info[0] is None:
            self._warn_of_one_place()
        unused = sorted(task.name for task in fresh if task not in self._tasks)
        if unused and exc_info[0] is None:
            import warnings

            warnings.warn(
                f"flow {self.name!r}: tasks were made in its block but never called, so they are not part of it: "
                f"{', '.join(unused)}",
                stacklevel=2,
            )

    # -- building ----------------------------------------------------------------------------------------

    def add_task(self, task: Task[..., Any]) -> Task[..., Any]:
        """Add a task, if it is not in the flow yet.

        Raises:
            - FlowDefinitionError: if its slug is taken
        """
        if not isinstance(task, Task):
            raise FlowDefinitionError(f"flow {self.name!r}: tasks are Task objects, not {type(task).__name__}")
        if task in self._tasks:
            return task
        slug = task.slug or self._new_slug(task)
        owner = self._slug_owners.get(slug)
        if owner is not None and task._original is owner._original:
            slug = self._free_slug(f"{slug}-copy")  # the same task, called twice
        elif owner is not None:
            raise FlowDefinitionError(
                f"flow {self.name!r}: two tasks have the slug {slug!r}; give one of them another slug"
            )
        self._tasks[task] = None
        self.slugs[task] = slug
        self._slug_owners[slug] = task
        self._upstream[task] = []
        self._downstream[task] = []
        self._memo.clear()
        built = building.get()
        if built is not None:
            built.fresh.discard(task)
            for block in built.blocks:
                block.add_task(task, self)
        return task

    def _new_slug(self, task: Task[..., Any]) -> str:
        base = "-".join([task.name, *sorted(task.tags)]) if task.tags else task.name
        while True:
            number = self._slug_counts[base] = self._slug_counts.get(base, 0) + 1
            slug = f"{base}-{number}"
            if slug not in self._slug_owners:
                return slug

    def _free_slug(self, base: str) -> str:
        numbered = (f"{base}-{number}" for number in itertools.count(2))
        return next(slug for slug in itertools.chain([base], numbered) if slug not in self._slug_owners)

    def _is_wired(self, task: Task[..., Any]) -> bool:
        return task in self._tasks and bool(self._upstream[task] or self._downstream[task])

    def _is_mapped(self, task: Task[..., Any]) -> bool:
        return any(edge.mapped for edge in self._upstream.get(task, ()))

    def add_edge(
        self,
        upstream_task: Any,
        downstream_task: Task[..., Any],
        key: str | None = None,
        mapped: bool = False,
        flattened: bool = False,
        validate: bool | None = None,
    ) -> Edge:
        """Add an edge, and its tasks if they are not in the flow yet.

        Args:
            - upstream_task, downstream_task, key, mapped, flattened: as for `Edge`; an annotation around the upstream
                task (`mapped`, `unmapped`, `flatten`) wins over the flags
            - validate: whether to look for a cycle at once

        Raises:
            - FlowDefinitionError: if the edge is not possible
        """
        if isinstance(downstream_task, Parameter):
            raise FlowDefinitionError(
                f"flow {self.name!r}: parameter {downstream_task.name!r} cannot wait for another task"
            )
        self.add_task(upstream_task.value if isinstance(upstream_task, EdgeAnnotation) else upstream_task)
        edge = Edge(upstream_task, self.add_task(downstream_task), key, mapped, flattened)
        if edge in self._edges:
            return edge
        if key is not None:
            if (downstream_task, key) in self._inputs:
                raise FlowDefinitionError(
                    f"flow {self.name!r}: the argument {key!r} of task {downstream_task.name!r} has an input already"
                )
            self._check_key(downstream_task, key)
            if isinstance(edge.upstream_task, Parameter) and not mapped:
                check_known_input(downstream_task, key, edge.upstream_task.default)
            self._inputs.add((downstream_task, key))
            if downstream_task in self.constants:
                self.constants[downstream_task].pop(key, None)
        self._edges[edge] = None
        self._upstream[edge.downstream_task].append(edge)
        self._downstream[edge.upstream_task].append(edge)
        self._memo.clear()
        if validate:
            self.validate()
        return edge

    def _check_key(self, task: Task[..., Any], key: str) -> None:
        known = names(task.body)
        if key not in known.all and not known.takes_any:
            raise FlowDefinitionError(
                f"task {task.name!r} has no argument {key!r}; it has: {', '.join(sorted(known.all)) or 'none'}"
            )

    def chain(self, *tasks: Task[..., Any], validate: bool | None = None) -> list[Edge]:
        """Add edges so that each task waits for the one before it."""
        edges = [self.add_edge(first, second) for first, second in itertools.pairwise(tasks)]
        if validate:
            self.validate()
        return edges

    def set_dependencies(
        self,
        task: Any,
        upstream_tasks: Iterable[Any] | None = None,
        downstream_tasks: Iterable[Any] | None = None,
        keyword_tasks: Mapping[str, Any] | None = None,
        mapped: bool = False,
        validate: bool | None = None,
    ) -> None:
        """Set what a task waits for, what waits for it, and what its inputs are.

        A plain value as an input becomes one of the flow's `constants`; one that is mapped over becomes a task.
        """
        target = as_task(task, self)
        for upstream in _listed("upstream_tasks", upstream_tasks, target):
            self._depend(upstream, target, None, mapped)
        for downstream in _listed("downstream_tasks", downstream_tasks, target):
            self._depend(target, as_task(downstream, self), None, mapped)
        for key, value in (keyword_tasks or {}).items():
            self._depend(value, target, key, mapped)
        if validate:
            self.validate()

    def _depend(self, value: Any, task: Task[..., Any], key: str | None, mapped: bool) -> None:
        flattened, is_asked = False, False
        if isinstance(value, EdgeAnnotation):
            mapped, is_asked = (mapped, False) if value.mapped is None else (value.mapped, value.mapped)
            flattened, value = value.flattened, value.value
        if key is not None and not isinstance(value, Task) and is_constant(value, task, key):
            if not mapped and not flattened:
                self._keep_constant(task, key, value)
                return
            if is_asked and is_text(value):
                value = list(value)
            given = flat_values(value) if flattened else value
            if mapped and not is_sequence(given):
                raise FlowDefinitionError(
                    f"task {task.name!r} cannot be mapped over its argument {key!r}, {value!r}: {why_not(given)} "
                    "Or write unmapped(...) to pass it whole to each run"
                )
        self.add_edge(as_task(value, self), task, key=key, mapped=mapped, flattened=flattened)

    def _keep_constant(self, task: Task[..., Any], key: str, value: Any) -> None:
        self._check_key(task, key)
        if (task, key) in self._inputs:
            raise FlowDefinitionError(
                f"flow {self.name!r}: the argument {key!r} of task {task.name!r} has an input already"
            )
        check_known_input(task, key, value)
        self.constants[task][key] = value
        self._memo.clear()

    def wait_for(self, first: Any, second: Any) -> Task[..., Any]:
        """Let `second` wait for `first`, and return it; each a task or a value that becomes one."""
        before, after = as_task(first, self), as_task(second, self)
        self.add_edge(before, after)
        return after

    def update(
        self,
        flow: Flow,
        merge_parameters: bool = False,
        validate: bool | None = None,
        merge_reference_tasks: bool = False,
    ) -> None:
        """Add all tasks, edges and constants of another flow.

        Args:
            - flow: the other flow
            - merge_parameters: whether a parameter of the other flow takes the place of the one of the same name here
            - validate: whether to check the graph at once
            - merge_reference_tasks: whether the reference tasks of the other flow are some here, too

        Raises:
            - FlowDefinitionError: if a slug is taken, or the graph cannot be; then nothing changes
        """
        with self._as_a_whole():
            reference = self.reference_tasks() | flow.reference_tasks()
            if merge_parameters:
                new = {parameter.name: parameter for parameter in flow.parameters()}
                for parameter in self.parameters():
                    if (twin := new.get(parameter.name, parameter)) is not parameter:
                        self._replace(parameter, twin)
                        reference = {twin if task is parameter else task for task in reference}
            for task in flow._tasks:
                self.add_task(task)
            for edge in flow._edges:
                self._add(edge)
            for task, constants in flow.constants.items():
                self.constants[task].update(constants)
            if merge_reference_tasks:
                self.set_reference_tasks(reference)
            self._memo.clear()
            if validate or merge_parameters:
                self.validate()

    def _add(self, edge: Edge) -> None:
        self.add_edge(edge.upstream_task, edge.downstream_task, edge.key, edge.mapped, edge.flattened)

    @contextmanager
    def _as_a_whole(self) -> Iterator[None]:
        """A change of the graph that is made as a whole or not at all."""
        before = copy.copy(self.copy().__dict__)
        try:
            yield
        except FlowDefinitionError:
            self.__dict__.update({name: before[name] for name in _GRAPH})
            self._memo.clear()
            raise

    def replace(self, old: Task[..., Any], new: Any, validate: bool | None = None) -> None:
        """Put another task, or a value, in the place of a task.

        A value waits for nothing and takes no inputs, so what led to the task is gone then.

        Raises:
            - FlowDefinitionError: if `old` is not in the flow, or `new` cannot take its inputs; then nothing changes
        """
        self._must_have(old)
        with self._as_a_whole():
            self._replace(old, new)
            if validate:
                self.validate()

    def _replace(self, old: Task[..., Any], new: Any) -> None:
        edges, reference, constants = self._edges, self._reference_tasks, self.constants
        kept = [task for task in self._tasks if task is not old]
        self._tasks, self._edges, self._inputs = dict.fromkeys(kept), {}, set()
        self.slugs = {task: self.slugs[task] for task in kept}
        self._slug_owners = {slug: task for task, slug in self.slugs.items()}
        self._upstream, self._downstream = {task: [] for task in kept}, {task: [] for task in kept}
        self.constants = defaultdict(
            dict, {task: dict(values) for task, values in constants.items() if task is not old}
        )
        self._memo.clear()
        task = as_task(new, self)
        inherits = isinstance(new, Task)
        for edge in edges:
            if edge.downstream_task is not old or inherits:
                up, down = (task if end is old else end for end in (edge.upstream_task, edge.downstream_task))
                self.add_edge(up, down, key=edge.key, mapped=edge.mapped, flattened=edge.flattened)
        for key, value in constants.get(old, {}).items() if inherits else ():
            self._keep_constant(task, key, value)
        if reference is not None and old in reference:
            self._reference_tasks = (reference - {old}) | {task}

    def copy(self) -> Flow:
        """Return a flow with the same tasks and edges, which can be changed on its own."""
        new = copy.copy(self)
        new._tasks, new._edges, new.slugs = dict(self._tasks), dict(self._edges), dict(self.slugs)
        new._slug_owners, new._slug_counts = dict(self._slug_owners), Counter(self._slug_counts)
        new._upstream = {task: list(edges) for task, edges in self._upstream.items()}
        new._downstream = {task: list(edges) for task, edges in self._downstream.items()}
        new._inputs = set(self._inputs)
        new.constants = defaultdict(dict, {task: dict(values) for task, values in self.constants.items()})
        new._reference_tasks = None if self._reference_tasks is None else set(self._reference_tasks)
        new.state_handlers = list(self.state_handlers)
        new._memo, new._blocks, new._warned = {}, [], set(self._warned)
        return new

    # -- asking ------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> set[Task[..., Any]]:
        """All tasks; `ordered_tasks` has them in order."""
        return set(self._tasks)

    @property
    def edges(self) -> set[Edge]:
        """All edges; `ordered_edges` has them in order."""
        return set(self._edges)

    def ordered_tasks(self) -> list[Task[..., Any]]:
        """Return the tasks in the order they were added."""
        return list(self._tasks)

    def ordered_edges(self) -> list[Edge]:
        """Return the edges in the order they were added."""
        return list(self._edges)

    def _must_have(self, task: Task[..., Any]) -> None:
        if not isinstance(task, Task) or task not in self._tasks:
            raise FlowDefinitionError(f"task {getattr(task, 'name', task)!r} is not in flow {self.name!r}")

    def edges_to(self, task: Task[..., Any]) -> set[Edge]:
        """Return the edges that lead to a task."""
        self._must_have(task)
        return set(self._upstream[task])

    def edges_from(self, task: Task[..., Any]) -> set[Edge]:
        """Return the edges that lead away from a task."""
        self._must_have(task)
        return set(self._downstream[task])

    def all_upstream_edges(self) -> dict[Task[..., Any], set[Edge]]:
        """Return for each task the edges that lead to it."""
        return {task: set(edges) for task, edges in self._upstream.items()}

    def all_downstream_edges(self) -> dict[Task[..., Any], set[Edge]]:
        """Return for each task the edges that lead away from it."""
        return {task: set(edges) for task, edges in self._downstream.items()}

    def upstream_tasks(self, task: Task[..., Any]) -> set[Task[..., Any]]:
        """Return the tasks that a task waits for."""
        return {edge.upstream_task for edge in self.edges_to(task)}

    def downstream_tasks(self, task: Task[..., Any]) -> set[Task[..., Any]]:
        """Return the tasks that wait for a task."""
        return {edge.downstream_task for edge in self.edges_from(task)}

    def root_tasks(self) -> set[Task[..., Any]]:
        """Return the tasks that wait for nothing."""
        return set(self._remember("roots", lambda: [t for t, edges in self._upstream.items() if not edges]))

    def terminal_tasks(self) -> set[Task[..., Any]]:
        """Return the tasks that nothing waits for."""
        return set(self._remember("terminals", lambda: [t for t, edges in self._downstream.items() if not edges]))

    def parameters(self) -> set[Parameter]:
        """Return the parameters."""
        return set(self._remember("parameters", self._all_parameters))

    def _all_parameters(self) -> list[Parameter]:
        return [task for task in self._tasks if isinstance(task, Parameter)]

    def reference_tasks(self) -> set[Task[..., Any]]:
        """Return the tasks whose states decide that of the flow.

        Where none were set they are the terminal ones, with the cleaning up of resources left out of account.
        """
        if self._reference_tasks is not None:
            return set(self._reference_tasks)
        return set(self._remember("references", self._default_reference_tasks))

    def _default_reference_tasks(self) -> list[Task[..., Any]]:
        return [
            task
            for task, edges in self._downstream.items()
            if not task.is_cleanup and all(edge.downstream_task.is_cleanup for edge in edges)
        ]

    def set_reference_tasks(self, tasks: Iterable[Task[..., Any]]) -> None:
        """Set the tasks whose states decide that of the flow; none means the terminal ones.

        Raises:
            - FlowDefinitionError: if one is not in the flow
        """
        chosen = set(tasks)
        for task in chosen:
            self._must_have(task)
        self._reference_tasks = chosen or None

    def get_tasks(
        self,
        name: str | None = None,
        slug: str | None = None,
        tags: Iterable[str] | None = None,
        task_type: type | None = None,
    ) -> list[Task[..., Any]]:
        """Return the tasks that match all that is given, in the order they were added."""
        wanted = set(tags or ())
        return [
            task
            for task in self._tasks
            if (name is None or task.name == name)
            and (slug is None or self.slugs[task] == slug)
            and wanted <= task.tags
            and (task_type is None or isinstance(task, task_type))
        ]

    def sorted_tasks(self, root_tasks: Iterable[Task[..., Any]] | None = None) -> tuple[Task[..., Any], ...]:
        """Return the tasks so that each comes after those it waits for.

        Args:
            - root_tasks: return only these and the tasks that wait for them, directly or not; if none, all tasks

        Raises:
            - FlowDefinitionError: if there is a cycle
        """
        ordered: tuple[Task[..., Any], ...] = self._remember("sorted", self._sort)
        reached: set[Task[..., Any]] = set(root_tasks or ())
        if not reached:
            return ordered
        for task in reached:
            self._must_have(task)
        for task in ordered:
            if any(edge.upstream_task in reached for edge in self._upstream[task]):
                reached.add(task)
        return tuple(task for task in ordered if task in reached)

    def _sort(self) -> tuple[Task[..., Any], ...]:
        waiting = {task: len(edges) for task, edges in self._upstream.items()}
        ready = deque(task for task, count in waiting.items() if not count)
        ordered: list[Task[..., Any]] = []
        while ready:
            task = ready.popleft()
            ordered.append(task)
            for edge in self._downstream[task]:
                waiting[edge.downstream_task] -= 1
                if not waiting[edge.downstream_task]:
                    ready.append(edge.downstream_task)
        if len(ordered) < len(self._tasks):
            raise FlowDefinitionError(f"flow {self.name!r} has a cycle: {' -> '.join(self._find_cycle(waiting))}")
        return tuple(ordered)

    def _find_cycle(self, waiting: dict[Task[..., Any], int]) -> list[str]:
        task = next(task for task, count in waiting.items() if count)
        path: dict[Task[..., Any], int] = {}
        while task not in path:
            path[task] = len(path)
            # what is stuck waits for something else that is
            task = next(edge.upstream_task for edge in self._upstream[task] if waiting[edge.upstream_task])
        cycle = [*list(path)[path[task] :], task]
        return [one.name for one in reversed(cycle)]

    def validate(self) -> None:
        """Check the graph.

        Raises:
            - FlowDefinitionError: for a cycle, a required argument without an input, or a reference task that is gone
        """
        self._remember("valid", self._validate)

    def _warn_of_one_place(self) -> None:
        """Warn of mapped tasks whose children all store their results at one place."""
        for task, edges in self._upstream.items():
            mapped_keys = {edge.key for edge in edges if edge.mapped}
            if mapped_keys and task not in self._warned and (place := self._one_place(task, mapped_keys)) is not None:
                import warnings

                self._warned.add(task)
                warnings.warn(
                    f"flow {self.name!r}: all children of the mapped task {task.name!r} store their results at "
                    f"{place!r}, where each takes that of another for its own: put {{map_index}} into it",
                    stacklevel=3,
                )

    def _one_place(self, task: Task[..., Any], mapped_keys: set[str | None]) -> str | None:
        result = task.result or self.result
        place: Any = task.target if task.target is not None else None if result is None else result.location
        if not isinstance(place, str) or (task.target is None and task.checkpoint is False):
            return None
        try:
            named = {re.split(r"[.\[]", field)[0] for _, field, _, _ in string.Formatter().parse(place) if field}
        except ValueError:
            return None
        return None if named & (mapped_keys | _OF_EACH_CHILD) else place

    def _validate(self) -> bool:
        self.sorted_tasks()
        self._warn_of_one_place()
        for task in self._reference_tasks or ():
            self._must_have(task)
        for task in self._tasks:
            required = names(task.body).required
            if required:
                given = {edge.key for edge in self._upstream[task]} | self.constants.get(task, {}).keys()
                for name in required:
                    if name not in given:
                        raise FlowDefinitionError(
                            f"flow {self.name!r}: task {task.name!r} needs the argument {name!r}, "
                            "and nothing is passed for it"
                        )
        return True

    def _remember(self, name: Any, compute: Callable[[], Any]) -> Any:
        if name not in self._memo:
            self._memo[name] = compute()
        return self._memo[name]

    def _own_copies(self) -> dict[Task[..., Any], OwnCopies]:
        """Return the constants of the tasks of whose constants, or defaults, each attempt gets copies."""
        found: dict[Task[..., Any], OwnCopies] = self._remember("copied", lambda: dict(self._copied_constants()))
        return found

    def _copied_constants(self) -> Iterator[tuple[Task[..., Any], OwnCopies]]:
        for task, edges in self._upstream.items():
            own, defaults = self.constants.get(task, {}), own_defaults(task.body)
            if defaults:
                taken = own.keys() | {edge.key for edge in edges}
                defaults = {name: value for name, value in defaults.items() if name not in taken}
            if defaults or any(map(is_small, own.values())):
                yield task, OwnCopies(own, defaults)

    def check_parameters(self, given: Mapping[str, Any], *, complete: bool, from_text: bool = False) -> dict[str, Any]:
        """Return the given parameters, each as the type of its parameter.

        Args:
            - given: values by name
            - complete: whether every required parameter must be there
            - from_text: whether the values come as text, as from a command line

        Raises:
            - FlowDefinitionError: for a name that no parameter has, a value of the wrong type, or a missing value
        """
        known = {parameter.name: parameter for parameter in self._remember("parameters", self._all_parameters)}
        for name in given:
            if name not in known:
                names = ", ".join(sorted(known)) or "none"
                raise FlowDefinitionError(f"flow {self.name!r} has no parameter {name!r}; it has: {names}")
        if complete and (missing := [name for name, p in known.items() if name not in given and p.required]):
            raise FlowDefinitionError(f"flow {self.name!r} needs the parameter {min(missing)!r}, which was not given")
        for name, value in given.items():
            refuse_coroutine(value, f"parameter {name!r} of flow {self.name!r}")
        return {name: known[name].cast(value, from_text=from_text) for name, value in given.items()}

    # -- as a value --------------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return the document of this flow as the API knows it.

        Raises:
            - FlowDefinitionError: for a flow that cannot run
        """
        self.validate()
        from .serialization import serialize_flow

        return serialize_flow(self)

    @staticmethod
    def deserialize(document: Mapping[str, Any]) -> Flow:
        """Return the flow of a document, to look at: it has tasks and edges, and no bodies to run.

        Raises:
            - DialectError: if the document is not that of a flow
        """
        from .documents import deserialize_flow

        return deserialize_flow(document)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, Flow)
        return (
            self.name == other.name
            and self.tasks == other.tasks
            and self.edges == other.edges
            and self.reference_tasks() == other.reference_tasks()
        )

    __hash__ = object.__hash__

    def __contains__(self, task: object) -> bool:
        return isinstance(task, Task) and task in self._tasks

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(self.sorted_tasks())

    def __repr__(self) -> str:
        return f'<Flow: name="{self.name}">'

    # -- running -----------------------------------------------------------------------------------------

    async def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        run_on_schedule: bool | None = None,
        runner_cls: type[Any] | None = None,
        **kwargs: Any,
    ) -> State:
        """Run this flow until it is finished, waiting for whatever it schedules on the way.

        Args:
            - parameters: values of the parameters, by name
            - run_on_schedule: whether to wait for the schedule's times and run at each; true if there is a schedule
            - runner_cls: the runner; `FlowRunner` if None
            - kwargs: go to the runner's ``run``, except ``runner_options``, a dict that goes to the runner itself

        Returns:
            - State: the final state; its result is a dict of the states of the tasks
        """
        from .flow_loop import run_flow

        return await run_flow(self, dict(parameters or {}), run_on_schedule, runner_cls, **kwargs)

    def run_sync(self, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> State:
        """Run this flow from a script: as `run`, on an event loop of its own.

        Raises:
            - FlowloopError: inside a running event loop, where ``await flow.run()`` is what to write
        """
        from .flow_loop import run_sync

        return run_sync(self.run(parameters, **kwargs), instead="await flow.run(...)")

    def visualize(self, flow_state: State | None = None, filename: str | None = None, format: str = "svg") -> Drawing:
        """Return a drawing of the graph, which a notebook shows as a picture; or also write it to a file.

        Args:
            - flow_state: a final state of this flow: colours each task by its state
            - filename: where to write it, without the ending
            - format: the ending: ``svg``, ``dot``, ``mermaid``, or one of the pictures that Graphviz draws, as ``png``
        """
        from .visualize import visualize

        return visualize(self, flow_state, filename, format)

    def _repr_html_(self) -> str:
        from .notebook import flow_html

        return flow_html(self)


def _listed(field: str, tasks: Iterable[Any] | None, owner: Task[..., Any]) -> Iterable[Any]:
    if tasks is None:
        return ()
    if isinstance(tasks, (Task, EdgeAnnotation, str)) or not isinstance(tasks, Iterable):
        shown = repr(tasks.name) if isinstance(tasks, Task) else repr(tasks)
        raise FlowDefinitionError(f"task {owner.name!r}: {field} is a list of tasks, not the one {shown}")
    return tasks
