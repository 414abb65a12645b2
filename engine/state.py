"""The states a run moves through.

::

    State
    ├─ Pending
    │  └─ Scheduled ── Paused, Resume, Retrying
    ├─ meta states   ── Submitted, Queued, ClientFailed    (each wraps another state)
    ├─ Running
    │  └─ Cancelling
    └─ Finished
       ├─ Success ── Cached, Mapped, Skipped
       ├─ Failed ── TimedOut, TriggerFailed, ValidationFailed
       ├─ Cancelled
       └─ Looped

A state is a value: it says what is known of a run at one moment. Two things are read from the run context when a
state is made, because a run's states should carry them wherever they are made: the tags of the task, and the
number of the current attempt.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, cast, overload

from ._generic import TypeVar
from .context import current_values, now, values
from .result import NoResult, NoResultType, Result
from .task_states import TaskStates

if TYPE_CHECKING:
    from .task import Task
    from .visualize import Drawing

__all__ = [
    "Cached",
    "Cancelled",
    "Cancelling",
    "ClientFailed",
    "Failed",
    "Finished",
    "Looped",
    "Mapped",
    "Paused",
    "Pending",
    "Queued",
    "Resume",
    "Retrying",
    "Running",
    "Scheduled",
    "Skipped",
    "State",
    "Submitted",
    "Success",
    "TimedOut",
    "TriggerFailed",
    "ValidationFailed",
]

T = TypeVar("T", default=Any)
R = TypeVar("R", default=Any)


TRACEBACK = "traceback"
"""The key of a state's context under which the text of a traceback is."""


class State(Generic[T]):
    """What is known of a run at one moment; ``State[int]`` is one whose result, where it has one, is an int.

    Args:
        - message: a sentence for people, or the exception that led here
        - result: the value, or a `Result` that holds it; `NoResult` if there is none
        - context: facts about the run that travel with the state
        - cached_inputs: the inputs of the task, by name, as `Result`s

    Two states are equal if their type, result and further attributes are; the message and the context do not count.
    """

    __slots__ = ("_cached_inputs", "_context", "_held", "_tags", "message", "unknown_fields")

    color: ClassVar[str] = "#000000"
    fields: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that a class adds to those of its parents."""

    def __init__(
        self,
        message: str | BaseException | None = None,
        result: Any = NoResult,
        context: dict[str, Any] | None = None,
        cached_inputs: dict[str, Result] | None = None,
    ) -> None:
        self.message: Any = message
        self._held = result
        self._cached_inputs = cached_inputs
        self.unknown_fields: dict[str, Any] | None = None
        self._context = context
        self._tags: Collection[str] | None = current_values().get("task_tags")

    @property
    def context(self) -> dict[str, Any]:
        """Facts about the run that travel with the state; the tags of the task among them."""
        self._context, self._tags = self._peek_context(), None
        return self._context

    @context.setter
    def context(self, context: dict[str, Any]) -> None:
        self._context, self._tags = context, None

    def _peek_context(self) -> dict[str, Any]:
        """Return the context to read it once: if it is made for that, it does not stay."""
        context = {} if self._context is None else self._context
        if self._tags is not None:
            context.setdefault("tags", sorted(self._tags))
        return context

    @overload
    def __getitem__(self, key: Task[..., R]) -> State[R]: ...
    @overload
    def __getitem__(self, key: str | tuple[Any, int]) -> State[Any]: ...
    @overload
    def __getitem__(self, key: R) -> State[R]: ...
    def __getitem__(self, key: Any) -> State[Any]:
        """Return the state of a task, out of the state of a flow run.

        A type checker sees the type of its result: that of the task, or of what was wired.

        Args:
            - key: the task, or its slug; together with an index, a child of a mapped task: ``state[task, 3]``

        Raises:
            - KeyError: if there is none: one line that says which there are
        """
        which, child = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        if not isinstance(self.result, TaskStates):
            raise KeyError(f"{self!r} has no states of tasks: it is not that of a flow run")
        found = self.result.of(which)
        if child is None:
            return found
        children = found.map_states if isinstance(found, Mapped) else []
        if not isinstance(child, int) or not -len(children) <= child < len(children):
            raise KeyError(f"{which!r} has {len(children)} mapped children, and none is {child!r}")
        return cast("State", children[child])

    @property
    def traceback(self) -> str | None:
        """Where the error was raised that led here, as text; None where there was none."""
        return None if self._context is None else self._context.get(TRACEBACK)

    @property
    def cached_inputs(self) -> dict[str, Result]:
        """The inputs of the task, by name."""
        if self._cached_inputs is None:
            self._cached_inputs = {}
        return self._cached_inputs

    @cached_inputs.setter
    def cached_inputs(self, inputs: dict[str, Result] | None) -> None:
        self._cached_inputs = inputs

    @property
    def has_cached_inputs(self) -> bool:
        """Whether there are any; asking makes no dict."""
        return bool(self._cached_inputs)

    # -- the result ----------------------------------------------------------------------------------

    @property
    def result(self) -> T:
        """The value of this state; None where there is none."""
        held = self._held
        return held.value if isinstance(held, Result) else held  # type: ignore[no-any-return]

    @result.setter
    def result(self, value: Any) -> None:
        self._held = value

    @property
    def _result(self) -> Result:
        # a bare value becomes one when it is first asked for: most never are, and a run keeps one for every task run
        if not isinstance(self._held, Result):
            self._held = Result(self._held)
        return self._held

    @_result.setter
    def _result(self, result: Result) -> None:
        self._held = result

    async def load_result(self, result: Result | None = None) -> Self:
        """Read the value of this state from where it is stored, if it is stored and not here yet.

        Args:
            - result: the result whose settings to read with; it gives the location, too, where the state has no
                result at all. The state's own reads if None, and where the value was stored as another kind.

        Returns:
            - State: this state
        """
        location = self._result.location
        if self._result is NoResult and result is not None:
            location = result.location
        if self._result.value is None and location is not None:
            self._result = await _read(self._result, result, location)
        return self

    async def load_cached_results(self, results: Mapping[str, Result] | None = None) -> Self:
        """Read the values of `cached_inputs` that are stored and not here yet, each with the result of its name.

        Args:
            - results: by name, the results whose settings to read with; each gives the location, too, where the input
                has none

        Returns:
            - State: this state
        """
        for name, given in list(self.cached_inputs.items()):
            reader = (results or {}).get(name)
            location = given.location if given.location is not None or reader is None else reader.location
            if given.value is None and location is not None:
                self.cached_inputs[name] = await _read(given, reader, location)
        return self

    # -- what kind of state this is ------------------------------------------------------------------

    def is_pending(self) -> bool:
        """Whether the run has not begun: Pending, Scheduled and their kind."""
        return isinstance(self, Pending)

    def is_queued(self) -> bool:
        """Whether the backend holds the run back."""
        return isinstance(self, Queued)

    def is_retrying(self) -> bool:
        """Whether the run waits for another attempt."""
        return isinstance(self, Retrying)

    def is_running(self) -> bool:
        """Whether the run is under way; Cancelling counts."""
        return isinstance(self, Running)

    def is_cached(self) -> bool:
        """Whether the run's result came from, or went to, a cache."""
        return isinstance(self, Cached)

    def is_finished(self) -> bool:
        """Whether the run is over; Looped counts, because that attempt is."""
        return isinstance(self, Finished)

    def is_looped(self) -> bool:
        """Whether the task asked for another round."""
        return isinstance(self, Looped)

    def is_scheduled(self) -> bool:
        """Whether the run waits for a time; Queued counts although it is not Pending."""
        return isinstance(self, (Scheduled, Queued))

    def is_submitted(self) -> bool:
        """Whether the run was handed to something that will start it."""
        return isinstance(self, Submitted)

    def is_skipped(self) -> bool:
        """Whether the task was skipped, which counts as success."""
        return isinstance(self, Skipped)

    def is_successful(self) -> bool:
        """Whether the run ended well."""
        return isinstance(self, Success)

    def is_failed(self) -> bool:
        """Whether the run failed; Cancelled is not failed."""
        return isinstance(self, Failed)

    def is_mapped(self) -> bool:
        """Whether this is the state of a mapped task, whose children carry the results."""
        return isinstance(self, Mapped)

    def is_meta_state(self) -> bool:
        """Whether this state wraps another one."""
        return isinstance(self, _MetaState)

    @classmethod
    def children(cls, include_self: bool = False, names_only: bool = False) -> list[Any]:
        """Return all public subclasses, or their names."""
        found: list[type[State]] = [cls] if include_self else []
        found += [sub for child in cls.__subclasses__() for sub in child.children(include_self=True)]
        return _presented(found, names_only)

    @classmethod
    def parents(cls, include_self: bool = False, names_only: bool = False) -> list[Any]:
        """Return all public base classes that are states, or their names."""
        found = [base for base in cls.mro() if issubclass(base, State) and (include_self or base is not cls)]
        return _presented(found, names_only)

    # -- as a value ----------------------------------------------------------------------------------

    def _all_fields(self) -> tuple[str, ...]:
        return tuple(name for base in type(self).__mro__ if issubclass(base, State) for name in base.fields)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, State)
        return bool(
            self.result == other.result
            and (self._cached_inputs or {}) == (other._cached_inputs or {})
            and all(getattr(self, name) == getattr(other, name) for name in self._all_fields())
        )

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f'<{type(self).__name__}: "{self.message}">' if self.message is not None else f"<{type(self).__name__}>"

    def _repr_html_(self) -> str:
        from .notebook import state_html

        return state_html(self)

    def timeline(self, filename: str | None = None) -> Drawing:
        """Return when the task runs of a flow run went on, as a picture that a notebook shows.

        Args:
            - filename: where to write it, with the ending ``.svg``

        Raises:
            - FlowloopError: for a state whose task runs went on elsewhere, or for another format
        """
        from .timeline import timeline

        return timeline(self, filename)

    def __getstate__(self) -> dict[str, Any]:
        content = {name: getattr(self, name) for name in ("message", "_result", "context", "cached_inputs")}
        content |= {name: getattr(self, name) for name in self._all_fields()}
        # an exception that cannot be pickled degrades to its text; any other value must not change silently
        if isinstance(self.message, BaseException) and not _can_be_pickled(self.message):
            content["message"] = str(self.message)
        result = self.result
        is_own_signal = getattr(result, "state", None) is self
        if isinstance(result, BaseException) and not is_own_signal and not _can_be_pickled(result):
            content["_result"] = Result(repr(result))
        return content

    def __setstate__(self, content: dict[str, Any]) -> None:
        self.unknown_fields = None
        for name, value in content.items():
            setattr(self, name, value)

    def __sizeof__(self) -> int:
        held = (self.message, self.result, self.context, self.cached_inputs)
        return object.__sizeof__(self) + sum(sys.getsizeof(value) for value in held)

    def serialize(self) -> dict[str, Any]:
        """Return the document of this state as the API knows it (a JSON object)."""
        from .serialization import serialize_state

        return serialize_state(self)

    @staticmethod
    def deserialize(document: Mapping[str, Any]) -> State:
        """Return the state of a document; raises `DialectError` if it is not understood."""
        from .serialization import deserialize_state

        return deserialize_state(document)


def _presented(classes: list[type[State]], names_only: bool) -> list[Any]:
    public = [cls for cls in classes if not cls.__name__.startswith("_")]
    return [cls.__name__ for cls in public] if names_only else list(public)


async def _read(stored: Result, given: Result | None, location: str) -> Result:
    reader = _reader(stored, given).expecting(stored)
    if stored.is_recorded:
        await reader.check_recorded(location)
    return await reader.read(location)


async def _is_gone(stored: Result, given: Result | None) -> bool:
    """Whether nothing is stored where a result says it is."""
    if stored.value is not None or stored.location is None:
        return False
    return not await _reader(stored, given).expecting(stored).exists(stored.location)


def _reader(stored: Result, given: Result | None) -> Result:
    if given is None:
        return stored
    # a kind of result that came as a document has its default settings, so one of the same kind knows better
    known = (Result, NoResultType, type(given), *given.reads_kinds)
    return given if type(stored) in known else stored


def _can_be_pickled(value: object) -> bool:
    import cloudpickle

    from ._pickler import dumps

    try:
        cloudpickle.loads(dumps(value))
    except KeyboardInterrupt:
        raise
    except BaseException:  # what a value says of itself is code of users
        return False
    return True


# ---- not begun -------------------------------------------------------------------------------------


class Pending(State):
    """The run has not begun."""

    __slots__ = ()
    color = "#d3d3d3"


class Scheduled(Pending):
    """The run begins at a time.

    Args:
        - start_time: when; now if None
    """

    __slots__ = ("start_time",)
    color = "#ffab00"
    fields = ("start_time",)

    def __init__(
        self,
        message: str | BaseException | None = None,
        result: Any = NoResult,
        start_time: datetime.datetime | None = None,
        context: dict[str, Any] | None = None,
        cached_inputs: dict[str, Result] | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        self.start_time: datetime.datetime | None = aware(start_time) if start_time is not None else self._no_time()
        run_count = values.get().get("task_run_count")
        if run_count is not None:
            self.context.setdefault("task_run_count", run_count)

    @staticmethod
    def _no_time() -> datetime.datetime | None:
        return now()


class Paused(Scheduled):
    """The run waits for somebody to resume it, or for `start_time` if one is given."""

    __slots__ = ()
    color = "#cfd8dc"

    @staticmethod
    def _no_time() -> datetime.datetime | None:
        return None


class Resume(Scheduled):
    """The run may pass, once, where it would pause."""

    __slots__ = ()
    color = "#fb8c00"


class Retrying(Scheduled):
    """The run failed and begins again at `start_time`.

    Args:
        - run_count: how many attempts there were; the current attempt's number if None
    """

    __slots__ = ("run_count",)
    color = "#ff5722"
    fields = ("run_count",)

    def __init__(
        self,
        message: str | BaseException | None = None,
        result: Any = NoResult,
        start_time: datetime.datetime | None = None,
        context: dict[str, Any] | None = None,
        cached_inputs: dict[str, Result] | None = None,
        run_count: int | None = None,
    ) -> None:
        super().__init__(message, result, start_time, context, cached_inputs)
        self.run_count: int = values.get().get("task_run_count", 1) if run_count is None else run_count


# ---- states about states ---------------------------------------------------------------------------


class _MetaState(State):
    """Wraps another state; wrapping a wrapper wraps what that one wraps."""

    __slots__ = ("_state",)
    fields = ("state",)

    def __init__(
        self,
        message: str | BaseException | None = None,
        result: Any = NoResult,
        state: State | None = None,
        context: dict[str, Any] | None = None,
        cached_inputs: dict[str, Result] | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        self.state = state

    @property
    def state(self) -> State | None:
        """The innermost state that is wrapped."""
        return self._state

    @state.setter
    def state(self, state: State | None) -> None:
        self._state: State | None = state.state if isinstance(state, _MetaState) else state


class ClientFailed(_MetaState):
    """The state inside could not be recorded: neither finished nor failed, but the end of this run here."""

    __slots__ = ()
    color = "#eb0000"


class Submitted(_MetaState):
    """The run was handed to something that will start it."""

    __slots__ = ()
    color = "#ffbf00"


class Queued(_MetaState):
    """The backend holds the run back, because of a limit.

    Args:
        - start_time: when to ask again; now if None
    """

    __slots__ = ("start_time",)
    color = "#ffea00"
    fields = ("start_time",)

    def __init__(
        self,
        message: str | BaseException | None = None,
        result: Any = NoResult,
        state: State | None = None,
        start_time: datetime.datetime | None = None,
        context: dict[str, Any] | None = None,
        cached_inputs: dict[str, Result] | None = None,
    ) -> None:
        super().__init__(message, result, state, context, cached_inputs)
        self.start_time: datetime.datetime | None = now() if start_time is None else aware(start_time)


# ---- under way -------------------------------------------------------------------------------------


class Running(State):
    """The run is under way."""

    __slots__ = ()
    color = "#3d67ff"


class Cancelling(Running):
    """The run is under way and is being stopped."""

    __slots__ = ()
    color = "#bdbdbd"


# ---- over ------------------------------------------------------------------------------------------


class Finished(State):
    """The run is over."""

    __slots__ = ()
    color = "#003ccb"


class Success(Finished):
    """The run ended well."""

    __slots__ = ()
    color = "#28a745"


class Cached(Success):
    """The run ended well, and its result may serve later runs.

    Args:
        - hashed_inputs: a hash of each input, by name
        - cached_parameters: the parameters of the flow run
        - cached_result_expiration: until when the result may serve; None means for ever
    """

    __slots__ = ("cached_parameters", "cached_result_expiration", "hashed_inputs")
    color = "#34d058"
    fields = ("hashed_inputs", "cached_parameters", "cached_result_expiration")

    def __init__(
        self,
        message: str | BaseException | None = None,
        result: Any = NoResult,
        hashed_inputs: dict[str, str] | None = None,
        cached_inputs: dict[str, Result] | None = None,
        cached_parameters: dict[str, Any] | None = None,
        cached_result_expiration: datetime.datetime | None = None,
        context: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        self.hashed_inputs = hashed_inputs
        self.cached_parameters = cached_parameters
        self.cached_result_expiration = None if cached_result_expiration is None else aware(cached_result_expiration)


class Looped(Finished):
    """One round of a task is over, and it asked for another.

    Args:
        - loop_count: the number of this round; the current one if None
    """

    __slots__ = ("loop_count",)
    color = "#003ccb"
    fields = ("loop_count",)

    def __init__(
        self,
        message: str | BaseException | None = None,
        result: Any = NoResult,
        loop_count: int | None = None,
        context: dict[str, Any] | None = None,
        cached_inputs: dict[str, Result] | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        self.loop_count: int = values.get().get("task_loop_count", 1) if loop_count is None else loop_count


class Mapped(Success):
    """A mapped task has, or will have, these children.

    Args:
        - map_states: the states of the children
        - n_map_states: how many children there are; the length of `map_states` if None or 0

    Its result is the list of the children's results.
    """

    __slots__ = ("_n_map_states", "map_states")
    color = "#97ffff"
    fields = ("map_states", "n_map_states")

    def __init__(
        self,
        message: str | BaseException | None = None,
        result: Any = NoResult,
        map_states: list[State] | None = None,
        context: dict[str, Any] | None = None,
        cached_inputs: dict[str, Result] | None = None,
        n_map_states: int | None = None,
    ) -> None:
        super().__init__(message, result, context, cached_inputs)
        self.map_states: list[Any] = map_states if map_states is not None else []
        self._n_map_states = n_map_states

    @property
    def n_map_states(self) -> int:
        """How many children there are."""
        return self._n_map_states or len(self.map_states)

    @n_map_states.setter
    def n_map_states(self, value: int | None) -> None:
        self._n_map_states = value

    @property
    def result(self) -> Any:
        """The results of the children, in order; the result given, if one was; None if the children are not here."""
        if self._result is not NoResult or len(self.map_states) < self.n_map_states:
            return self._result.value
        return [None if state is None else state.result for state in self.map_states]

    @result.setter
    def result(self, value: Any) -> None:
        self._held = value


class Skipped(Success):
    """The task was not run, on purpose."""

    __slots__ = ()
    color = "#62757f"


class Cancelled(Finished):
    """The run was stopped before its end. ``context["cause"]`` says why: user, timeout, shutdown or sibling."""

    __slots__ = ()
    color = "#bdbdbd"


class Failed(Finished):
    """The run ended badly; its result is the exception, where there was one."""

    __slots__ = ()
    color = "#eb0000"


class TimedOut(Failed):
    """The task took longer than its timeout."""

    __slots__ = ()
    color = "#cf5d5d"


class TriggerFailed(Failed):
    """The task was not run, because its trigger did not accept the states upstream."""

    __slots__ = ()
    color = "#f08080"


class ValidationFailed(Failed):
    """The task ran, and its result did not pass validation."""

    __slots__ = ()
    color = "#e53935"


def aware(moment: datetime.datetime) -> datetime.datetime:
    """Return `moment` with a time zone; a naive one is taken to be UTC.

    Raises:
        - TypeError: if it is no moment
    """
    if not isinstance(moment, datetime.datetime):
        raise TypeError(f"a time is a datetime, not {moment!r}")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
