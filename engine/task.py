"""Tasks: the nodes of a flow."""

from __future__ import annotations

import datetime
import functools
import inspect
import itertools
import warnings
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Protocol, Self, cast, overload

from . import _signature, cache_validators, triggers
from ._checks import FailureHandler, StateHandler, checked, failure_handler
from ._containers import LOOKED_AT, SCALARS, hidden, own_copy, parts_of
from ._generic import ParamSpec, TypeVar
from .context import RunLogger, building, context, values
from .edge import mapped
from .errors import FlowDefinitionError
from .executors.place import Needs
from .result import Result
from .retries import RetryDelay

if TYPE_CHECKING:
    from .flow import Flow

__all__ = ["FunctionTask", "Task", "defaults_from_attrs", "tags", "task"]

P = ParamSpec("P", default=...)
R = TypeVar("R", default=Any)
B = TypeVar("B", default=Any)

_NOTHING: frozenset[str] = frozenset()


class _CallSignature:
    """The signature of a call of a task: what its body takes, and the words that wire it. Of a class, that of making
    one.
    """

    def __get__(self, task: Task[..., Any] | None, owner: type) -> inspect.Signature:
        if task is None:
            made = inspect.signature(owner.__init__)  # type: ignore[misc]
            return made.replace(parameters=list(made.parameters.values())[1:])
        called = inspect.signature(Task.__call__).parameters.values()
        words = [parameter for parameter in called if parameter.kind is parameter.KEYWORD_ONLY]
        taken = list(_signature.signature(task.body).parameters.values())
        place = len(taken) - bool(taken and taken[-1].kind is inspect.Parameter.VAR_KEYWORD)
        return inspect.Signature([*taken[:place], *words, *taken[place:]], return_annotation="Task")


class _Unmade(FlowDefinitionError, AttributeError):
    """A task whose class does not call ``super().__init__()``."""


class _RunLogger:
    """Gives a task the logger of the run that goes on; a task may have one of its own instead."""

    def __get__(self, task: object, owner: type) -> RunLogger:
        return cast("RunLogger", context.logger)


class Task(Generic[P, R]):
    """A unit of work: subclass it and write `run`, or use the `task` decorator on a function.

    Args:
        - name: what people read; the name of the class if None
        - slug: the identity in the flow; made of the name, the tags and a number if None
        - tags: further words, also for limits; those of an open `tags` block are added
        - max_retries: how many more attempts after a failed one
        - retry_delay: how long to wait before each (see `flowloop.engine.retries`); needed with `max_retries`
        - retry_on: exception types that are worth another attempt; all if None
        - timeout: whole seconds after which an attempt is ended
        - trigger: a function of the states upstream that says whether to run; all of them successful by default
        - skip_on_upstream_skip: whether to be skipped when a task upstream is
        - cache_for: how long a result may serve other runs
        - cache_validator: a function that says whether a cached result may serve
        - cache_key: the name under which tasks share cached results
        - checkpoint: False never stores the result
        - state_handlers: functions (task, old state, new state) called at each change, sync or async
        - on_failure: a function (task, state) called when the task fails
        - log_stdout: whether what the body prints goes to the run's log
        - result: where the result is stored
        - target: a location; when something is stored there the task does not run
        - task_run_name: a name for each run: a template, or a function of parameters, context and inputs
        - nout: how many values the result can be unpacked into; if None, as many as a return annotation such as
            ``tuple[int, str]`` says
        - needs: what the body needs to run: processors, other resources, the place
        - stream: of a body that is an async generator: ``"list"`` makes all its items the result, ``"last"`` the last
            one. Each is told to `FlowRunner.events` as it comes.

    Raises:
        - FlowDefinitionError: for arguments that cannot work together
    """

    logger: Any = _RunLogger()
    """Where a body logs, as `context.logger`: the lines carry the ids of the run that they are written in."""

    reruns_on_restart: bool = False
    """Whether the result is lost with the process that made it, so that a run continued elsewhere makes it anew."""

    document_type: str | None = None
    """The class that the document of the task names; that of the task if None."""

    travels: ClassVar[bool] = True
    """Whether the body runs where the executor says; otherwise it always runs in the process of the run."""

    runs_a_flow: ClassVar[bool] = False
    """Whether the body is a flow: then its tasks are counted where task runs are limited, and not this one."""

    is_cleanup: ClassVar[bool] = False
    """Whether the task only undoes what a task upstream did: it does not decide the state of the flow."""

    _copy_of: Task[..., Any] | None = None
    """The task with a slug that this one is a copy of, which may so have one like it."""

    gives_copies: bool = False
    """Whether the result is a small default or constant, of which each attempt that takes it gets a copy."""

    is_gate: ClassVar[bool] = False
    """Whether what waits for the task is skipped with it, even what is not skipped otherwise."""

    __signature__ = _CallSignature()

    if not TYPE_CHECKING:

        def __new__(cls, *args: Any, **kwargs: Any) -> Self:
            """Warn of tasks among the arguments: what is made here is made before there is any result."""
            for given in (*args, *kwargs.values()):
                if isinstance(given, Task):
                    warnings.warn(
                        f"task {given.name!r} was passed as an argument to {cls.__name__}(...), which cannot wait for "
                        "its result: make the task first, then call it with the other one",
                        stacklevel=2,
                    )
            return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "run" in cls.__dict__ and "body" not in cls.__dict__:
            _signature.check_body(cls.__name__, cls.run)
            _check_defaults(cls.__name__, cls.run)

    def __init__(
        self,
        name: str | None = None,
        slug: str | None = None,
        tags: Iterable[str] | None = None,
        max_retries: int | None = None,
        retry_delay: RetryDelay | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | None = None,
        timeout: int | datetime.timedelta | None = None,
        trigger: Callable[..., Any] | None = None,
        skip_on_upstream_skip: bool = True,
        cache_for: datetime.timedelta | None = None,
        cache_validator: Callable[..., Any] | None = None,
        cache_key: str | None = None,
        checkpoint: bool | None = None,
        state_handlers: Iterable[StateHandler] | None = None,
        on_failure: FailureHandler | None = None,
        log_stdout: bool = False,
        result: Result | None = None,
        target: str | Callable[..., str] | None = None,
        task_run_name: str | Callable[..., str] | None = None,
        nout: int | None = None,
        needs: Needs | None = None,
        stream: str = "list",
    ) -> None:
        owner = f"task {name or type(self).__name__!r}"
        overwritten = sorted(_FIELDS & (self.__dict__.keys() | _class_fields(cast("Any", type(self)))))
        if overwritten:
            warnings.warn(
                f"{owner}: {type(self).__name__} sets {', '.join(overwritten)} itself, which Task.__init__ sets anew: "
                "pass it to super().__init__(), or give it another name",
                stacklevel=2,
            )
        self.name: str = type(self).__name__ if name is None else checked(owner, "name", name)
        self.slug: str | None = checked(owner, "slug", slug)
        self.tags: set[str] = checked(owner, "tags", tags) | _outer_tags()
        self.max_retries: int = checked(owner, "max_retries", max_retries)
        self.retry_delay: RetryDelay | None = checked(owner, "retry_delay", retry_delay)
        self.retry_on: tuple[type[BaseException], ...] | None = checked(owner, "retry_on", retry_on)
        self.timeout: int | None = checked(owner, "timeout", timeout)
        self.trigger: Callable[..., Any] = checked(owner, "trigger", trigger) or triggers.all_successful
        self.skip_on_upstream_skip = skip_on_upstream_skip
        self.cache_for: datetime.timedelta | None = checked(owner, "cache_for", cache_for)
        self.cache_key: str | None = checked(owner, "cache_key", cache_key)
        self.cache_validator: Callable[..., Any] = checked(owner, "cache_validator", cache_validator) or (
            cache_validators.never_use if cache_for is None else cache_validators.duration_only
        )
        self.checkpoint = checkpoint
        self.state_handlers: list[StateHandler] = checked(owner, "state_handlers", state_handlers)
        if checked(owner, "on_failure", on_failure) is not None:
            self.state_handlers.append(failure_handler(cast("FailureHandler", on_failure)))
        self.log_stdout = log_stdout
        self.result: Result | None = checked(owner, "result", result)
        self.target: str | Callable[..., str] | None = checked(owner, "target", target)
        self.task_run_name: str | Callable[..., str] | None = checked(owner, "task_run_name", task_run_name)
        self.nout: int | None = _signature.values_returned(self.body) if nout is None else checked(owner, "nout", nout)
        self.needs: Needs | None = checked(owner, "needs", needs)
        self.stream: str = checked(owner, "stream", stream)
        self.auto_generated = False
        self._check_together()
        self._place_result()
        if cache_for is None and self.cache_validator is not cache_validators.never_use:
            warnings.warn(
                f"task {self.name!r} has a cache_validator but no cache_for, so nothing is ever cached", stacklevel=2
            )
        _made(self)

    # -- checks of the arguments -----------------------------------------------------------------------

    def _wrong(self, field: str, message: str) -> FlowDefinitionError:
        return FlowDefinitionError(f"task {self.name!r}: {field} {message}")

    def _check_together(self) -> None:
        if self.max_retries:
            if self.retry_delay is None:
                raise self._wrong("max_retries", "needs a retry_delay: retry_delay=0 tries again at once")
        elif self.retry_delay is not None:
            raise self._wrong("retry_delay", "does nothing without max_retries")
        elif self.retry_on:
            raise self._wrong("retry_on", "does nothing without max_retries")

    def _place_result(self) -> None:
        if self.target is None or self.result is None:
            return
        if self.result.location not in (None, self.target):
            warnings.warn(
                f"task {self.name!r}: result has the location {self.result.location!r}, and target says "
                f"{self.target!r}: the target is where it is stored",
                stacklevel=3,
            )
        self.result = self.result.at(self.target)

    # -- the work --------------------------------------------------------------------------------------

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Do the work; sync or async. Subclasses write this one; a bare task does nothing, and others wait for it."""
        return None

    @property
    def body(self) -> Callable[..., Any]:
        """The function that does the work."""
        return self.run

    # -- wiring ----------------------------------------------------------------------------------------

    def copy(self, **task_args: Any) -> Self:
        """Return a copy, with some attributes changed.

        Args:
            - task_args: as for `Task`, and the attributes that a subclass has besides; tags are added to those that
                the task has

        Raises:
            - FlowDefinitionError: for an attribute that tasks do not have, or a value that it cannot have
        """
        flow = _flow_being_built()
        if flow is not None and flow._is_wired(self):
            warnings.warn(
                f"task {self.name!r} is wired to others in flow {flow.name!r}, and a copy was made of it, which is not",
                stacklevel=3,
            )
        new = object.__new__(type(self))
        # one by one, because attributes that are set like this take a third of the memory of a copied dict
        for field, value in self.__dict__.items():
            setattr(new, field, value)
        new.tags = self.tags | _outer_tags()
        if new.slug is not None:
            new._copy_of = None if "slug" in task_args else self._original
        if task_args:
            new._change(task_args)
        return new

    def _change(self, task_args: dict[str, Any]) -> None:
        on_failure = task_args.pop("on_failure", None)
        tags = self.tags
        for field, value in task_args.items():
            if field not in self.__dict__ or field.startswith("_"):
                raise self._wrong("task_args", f"names {field!r}, which tasks do not have")
            setattr(self, field, checked(f"task {self.name!r}", field, value))
        self.tags |= tags
        if "cache_for" in task_args and self.cache_validator is cache_validators.never_use:
            self.cache_validator = task_args.get("cache_validator") or cache_validators.duration_only
        if on_failure is not None:
            handler = failure_handler(checked(f"task {self.name!r}", "on_failure", on_failure))
            self.state_handlers = [*self.state_handlers, handler]
        if self.max_retries and self.retry_delay is None:
            self.retry_delay = 0
        self._place_result()

    def bind(
        self,
        *args: Any,
        mapped: bool = False,
        upstream_tasks: Iterable[Any] | None = None,
        flow: Flow | None = None,
        **kwargs: Any,
    ) -> Self:
        """Add this very task to a flow, and make the arguments its inputs.

        Args:
            - args, kwargs: the inputs: tasks, collections that contain tasks, or plain values
            - mapped: whether to run once for each element of the inputs
            - upstream_tasks: tasks to wait for without taking their result
            - flow: the flow; the open one if None

        Returns:
            - Task: this task
        """
        target = _the_flow(flow, self.name)
        inputs = _signature.bind(self.name, self.body, args, kwargs)
        target.set_dependencies(self, upstream_tasks=upstream_tasks, keyword_tasks=inputs, mapped=mapped)
        return self

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: Any, upstream_tasks: Iterable[Any], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: Any, mapped: bool, **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: Any, task_args: dict[str, Any], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: Any, flow: Flow, **kwargs: Any) -> R: ...
    def __call__(  # type: ignore[misc] # no body has arguments with these names
        self,
        *args: Any,
        mapped: bool = False,
        task_args: dict[str, Any] | None = None,
        upstream_tasks: Iterable[Any] | None = None,
        flow: Flow | None = None,
        **kwargs: Any,
    ) -> Any:
        """Add a copy of this task to the open flow, with these inputs.

        A type checker sees the type of the *result*, so that wiring a result into the wrong argument is a type error;
        the value is the copy of the task.
        """
        target = _the_flow(flow, self.name)
        _used(self)
        new = self.copy(**(task_args or {}))
        return new.bind(*args, mapped=mapped, upstream_tasks=upstream_tasks, flow=target, **kwargs)

    def map(
        self,
        *args: Any,
        upstream_tasks: Iterable[Any] | None = None,
        flow: Flow | None = None,
        task_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[R]:
        """Add a copy of this task that runs once for each element of its inputs.

        Wrap an input in `unmapped` to pass it whole to each run. The shortest input says how many runs there are.
        """
        target = _the_flow(flow, self.name)
        _used(self)
        new = self.copy(**(task_args or {}))
        return cast("list[R]", new.bind(*args, mapped=True, upstream_tasks=upstream_tasks, flow=target, **kwargs))

    def pipe(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return ``function(self, *args, **kwargs)``, to write a chain from left to right."""
        return function(self, *args, **kwargs)

    def set_dependencies(
        self,
        flow: Flow | None = None,
        upstream_tasks: Iterable[Any] | None = None,
        downstream_tasks: Iterable[Any] | None = None,
        keyword_tasks: dict[str, Any] | None = None,
        mapped: bool = False,
    ) -> Self:
        """Set what this task waits for and what waits for it."""
        _the_flow(flow, self.name).set_dependencies(
            self,
            upstream_tasks=upstream_tasks,
            downstream_tasks=downstream_tasks,
            keyword_tasks=keyword_tasks,
            mapped=mapped,
        )
        return self

    def set_upstream(self, task: Any, flow: Flow | None = None, key: str | None = None, mapped: bool = False) -> Self:
        """Wait for `task`; with a `key`, take its result as that argument."""
        if key is not None:
            return self.set_dependencies(flow, keyword_tasks={key: task}, mapped=mapped)
        return self.set_dependencies(flow, upstream_tasks=[task], mapped=mapped)

    def set_downstream(
        self, task: Task[..., Any], flow: Flow | None = None, key: str | None = None, mapped: bool = False
    ) -> Self:
        """Let `task` wait for this one; with a `key`, it takes the result as that argument."""
        task.set_upstream(self, flow=flow, key=key, mapped=mapped)
        return self

    @property
    def _original(self) -> Task[..., Any]:
        return self if self._copy_of is None else self._copy_of

    # -- description -----------------------------------------------------------------------------------

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return for each argument of `run` its ``type``, whether it is ``required``, and its ``default``."""
        return _signature.describe_inputs(self.body)

    def outputs(self) -> Any:
        """Return the type of the result; None of a task that does nothing."""
        return None if type(self).run is Task.run else _signature.describe_output(self.body)

    def serialize(self) -> dict[str, Any]:
        """Return the document of this task as the API knows it."""
        from .serialization import serialize_task

        return serialize_task(self)

    @staticmethod
    def deserialize(document: Mapping[str, Any]) -> Task[..., Any]:
        """Return the task, or the parameter, of a document: with all that it says, and without a body.

        Raises:
            - DialectError: if the document is not that of a task
        """
        from .documents import deserialize_task

        return deserialize_task(document)

    def __repr__(self) -> str:
        return f"<Task: {self.name}>"

    def __format__(self, spec: str) -> str:
        if building.get() is not None:
            warnings.warn(
                f"task {self.name!r} was put into a text while the flow is built: that has its name, and never its "
                "result. Make the text in a task, or write {task!r} where the name is meant",
                stacklevel=2,
            )
        return format(repr(self), spec)

    def __bool__(self) -> NoReturn:
        raise FlowDefinitionError(
            f"task {self.name!r} is neither true nor false while the flow is built, because its result is known only "
            "when it runs: branch with case(...), or decide inside a task"
        )

    def __await__(self) -> NoReturn:
        raise FlowDefinitionError(
            f"task {self.name!r} was awaited: tasks are wired together by calling them, and the flow is awaited "
            "(await flow.run()); to run this body alone, write await task.run(...)"
        )

    def __contains__(self, item: object) -> NoReturn:
        raise FlowDefinitionError(f"what task {self.name!r} contains is known only when it runs: look inside a task")

    def __iter__(self) -> Iterator[Any]:
        if self.nout is None:
            raise TypeError(f"task {self.name!r} cannot be unpacked: say how many values it returns with nout=")
        flow = _flow_being_built()
        if flow is None or not flow._is_mapped(self):
            return iter([self[index] for index in range(self.nout)])
        from .operators import GetItem

        # each child returns that many values: the first of them all, the second of them all, and so on
        items = [GetItem(name=f"{self.name}[{index}]") for index in range(self.nout)]
        return iter([item.bind(value=mapped(self), key=index) for index, item in enumerate(items)])

    def __getattr__(self, name: str) -> Any:
        kind = type(self).__name__
        if name in _FIELDS:
            raise _Unmade(f"class {kind}: its tasks have no {name}: call super().__init__(**kwargs) in its __init__")
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")

    # -- operators: each adds a task that computes it --------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        from .operators import GetItem

        name = f"{self.name}[{key!r}]" if not isinstance(key, Task) else f"{self.name}[{key.name}]"
        return GetItem(name=name).bind(value=self, key=key)

    def is_equal(self, other: Any) -> Any:
        """Add a task that compares the results for equality."""
        return _operator("Equal", self, other)

    def is_not_equal(self, other: Any) -> Any:
        """Add a task that compares the results for inequality."""
        return _operator("NotEqual", self, other)

    def not_(self) -> Any:
        """Add a task that negates the result."""
        from .operators import Not

        return Not().bind(self)

    def and_(self, other: Any) -> Any:
        """Add a task that computes ``self and other``."""
        return _operator("And", self, other)

    def or_(self, other: Any) -> Any:
        """Add a task that computes ``self or other``."""
        return _operator("Or", self, other)

    def __add__(self, other: Any) -> Any:
        return _operator("Add", self, other)

    def __sub__(self, other: Any) -> Any:
        return _operator("Sub", self, other)

    def __mul__(self, other: Any) -> Any:
        return _operator("Mul", self, other)

    def __truediv__(self, other: Any) -> Any:
        return _operator("Div", self, other)

    def __floordiv__(self, other: Any) -> Any:
        return _operator("FloorDiv", self, other)

    def __mod__(self, other: Any) -> Any:
        return _operator("Mod", self, other)

    def __pow__(self, other: Any) -> Any:
        return _operator("Pow", self, other)

    def __and__(self, other: Any) -> Any:
        return _operator("And", self, other)

    def __or__(self, other: Any) -> Any:
        """Let `other` wait for this task, and return it: ``a | b | c`` is a chain."""
        return _the_flow(None, self.name).wait_for(self, other)

    def __gt__(self, other: Any) -> Any:
        return _operator("GreaterThan", self, other)

    def __ge__(self, other: Any) -> Any:
        return _operator("GreaterThanOrEqual", self, other)

    def __lt__(self, other: Any) -> Any:
        return _operator("LessThan", self, other)

    def __le__(self, other: Any) -> Any:
        return _operator("LessThanOrEqual", self, other)

    def __radd__(self, other: Any) -> Any:
        return _operator("Add", other, self)

    def __rsub__(self, other: Any) -> Any:
        return _operator("Sub", other, self)

    def __rmul__(self, other: Any) -> Any:
        return _operator("Mul", other, self)

    def __rtruediv__(self, other: Any) -> Any:
        return _operator("Div", other, self)

    def __rfloordiv__(self, other: Any) -> Any:
        return _operator("FloorDiv", other, self)

    def __rmod__(self, other: Any) -> Any:
        return _operator("Mod", other, self)

    def __rpow__(self, other: Any) -> Any:
        return _operator("Pow", other, self)

    def __rand__(self, other: Any) -> Any:
        return _operator("And", other, self)

    def __ror__(self, other: Any) -> Self:
        """Let this task wait for `other`, and return it."""
        _the_flow(None, self.name).wait_for(other, self)
        return self


_FIELDS = frozenset(inspect.signature(Task.__init__).parameters) - {"self"}
"""What `Task.__init__` sets."""


@functools.lru_cache(maxsize=1024)
def _class_fields(kind: Any) -> frozenset[str]:
    """Return which of these a class has as attributes of its own."""
    return frozenset(name for name in _FIELDS if hasattr(kind, name))


def holds_task(value: Any, levels: int = 4) -> bool:
    """Return whether a value is a task, or has one inside, so many levels deep."""
    found = [value]
    for _ in range(levels + 1):
        if any(isinstance(one, Task) for one in found):
            return True
        inside = ((parts_of(one) or hidden(one))[:LOOKED_AT] for one in found if type(one) not in SCALARS)
        found = list(itertools.islice(itertools.chain.from_iterable(inside), LOOKED_AT))
    return False


def _check_defaults(name: str, body: Callable[..., Any]) -> None:
    for parameter in _signature.signature(body).parameters.values():
        if holds_task(parameter.default):
            raise FlowDefinitionError(
                f"task {name!r}: the default of its argument {parameter.name!r} holds a task, whose result it would "
                "never get: pass the task where this one is called"
            )


def _operator(name: str, left: Any, right: Any) -> Any:
    from . import operators

    return getattr(operators, name)().bind(left, right)


def _outer_tags() -> Set[str]:
    """Return the tags that the context gives to every task."""
    found = values.get().get("tags")
    if not found:
        return _NOTHING
    return {found} if isinstance(found, str) else set(found)


def _made(task: Task[..., Any]) -> None:
    """Note that a task was made inside a flow's block, where it should also be used."""
    built = building.get()
    if built is not None:
        built.fresh.add(task)


def _used(task: Task[..., Any]) -> None:
    built = building.get()
    if built is not None:
        built.fresh.discard(task)


def _flow_being_built() -> Flow | None:
    built = building.get()
    return None if built is None else built.flow


def _the_flow(flow: Flow | None, task_name: str) -> Flow:
    found = _flow_being_built() if flow is None else flow
    if found is None:
        raise FlowDefinitionError(
            f"task {task_name!r} was called outside a flow: call it inside `with Flow(...)`, pass flow=, "
            "or call .run() to do its work directly"
        )
    if not hasattr(found, "add_task"):
        raise FlowDefinitionError(f"task {task_name!r}: flow= takes a flow, not {found!r}")
    return found


class FunctionTask(Task[P, R], Generic[P, R, B]):
    """A task made of a function; made by the `task` decorator.

    Its types are those of the parameters, of the result, and of what a call of the function returns: for an async one
    a coroutine with the result.

    Args:
        - fn: the function, sync or async
        - kwargs: as for `Task`; the name is that of the function if none is given
    """

    def __init__(self, fn: Callable[..., Any], name: str | None = None, **kwargs: Any) -> None:
        if not callable(fn):
            raise FlowDefinitionError(f"a task is made of a function, not of {fn!r}")
        chosen = name or str(getattr(fn, "__name__", type(fn).__name__))
        _signature.check_body(chosen, fn)
        _check_defaults(chosen, fn)
        self.fn = fn
        super().__init__(name=chosen, **kwargs)
        self.__doc__ = fn.__doc__
        for field in ("__name__", "__qualname__", "__module__"):
            if hasattr(fn, field):
                setattr(self, field, getattr(fn, field))

    def run(self, *args: P.args, **kwargs: P.kwargs) -> B:
        """Call the function."""
        return self.fn(*args, **kwargs)  # type: ignore[no-any-return]

    @property
    def body(self) -> Callable[..., Any]:
        """The function."""
        return self.fn

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function, for tools that look below decorators."""
        return self.fn


class TaskDecorator(Protocol):
    """What `task` with arguments returns."""

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> FunctionTask[P, R, Coroutine[object, None, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> FunctionTask[P, R, R]: ...


@overload
def task(
    fn: Callable[P, Coroutine[Any, Any, R]], /, **task_args: Any
) -> FunctionTask[P, R, Coroutine[object, None, R]]: ...
@overload
def task(fn: Callable[P, R], /, **task_args: Any) -> FunctionTask[P, R, R]: ...
@overload
def task(**task_args: Any) -> TaskDecorator: ...
def task(fn: Callable[..., Any] | None = None, /, **task_args: Any) -> Any:
    """Make a task of a function, sync or async.

    Args:
        - fn: the function
        - task_args: as for `Task`

    Example:

        ```python
        @task
        async def fetch(url: str) -> bytes: ...

        @task(max_retries=3, retry_delay=10)
        def parse(page: bytes) -> dict[str, int]: ...
        ```
    """
    if fn is None:
        return lambda function: task(function, **task_args)
    if isinstance(fn, Task) or (isinstance(fn, type) and issubclass(fn, Task)):
        raise FlowDefinitionError(f"a task is made of a function, not of {fn!r}, which is one already")
    return FunctionTask(fn, **task_args)


@contextmanager
def tags(*names: str) -> Iterator[None]:
    """Give every task that is made or called in the block these tags.

    Raises:
        - FlowDefinitionError: if one is no text
    """
    checked("tags(...)", "tags", names)
    with context(tags=_outer_tags() | set(names)):
        yield


def defaults_from_attrs(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let arguments of `Task.run` that are not given default to attributes of the task with their names.

    None is given, where it is. Of a small plain list, dict or set each run gets a copy, as of any other default.

    Example:

        ```python
        class Fetch(Task):
            def __init__(self, url: str | None = None, **kwargs):
                self.url = url
                super().__init__(**kwargs)

            @defaults_from_attrs("url")
            def run(self, url: str | None = None) -> bytes: ...
        ```
    """

    def decorate(run: Callable[P, R]) -> Callable[P, R]:
        def filled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
            given = _signature.signature(run).bind_partial(*args, **kwargs).arguments
            return kwargs | {name: own_copy(getattr(args[0], name)) for name in names if name not in given}

        @functools.wraps(run)
        async def with_defaults_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await cast("Any", run)(*args, **filled(args, kwargs))

        @functools.wraps(run)
        def with_defaults(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast("Any", run)(*args, **filled(args, kwargs))  # type: ignore[no-any-return]

        return cast("Any", with_defaults_async if inspect.iscoroutinefunction(run) else with_defaults)  # type: ignore[no-any-return]

    return decorate
