"""The run context: what a task, a handler or a result may ask about the run it is part of.

It is three things. The *values*, which anybody may read and set, are a plain dict that nobody changes in place but the
runner of the run it was made for: whoever wants another context sets another dict, so a run can never see the values of
its neighbour, in this task or in another thread. They are what a body finds in another process. What flowloop itself
needs of a flow run is a `FlowScope`, and of one run of a task a `TaskScope`: no value of a user's can change them, they
stay where the run is, and a flow run inside another one begins with a scope of its own. A `Building` is there only
while a flow is built.

Example:

    ```python
    @task
    async def greet() -> str:
        return f"task run {context.task_run_count} of {context.task_name}"
    ```
"""

from __future__ import annotations

import datetime
import functools
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, cast

import msgspec

from .clock import Clock, SystemClock
from .masking import hiding

__all__ = ["Context", "context"]

_SYSTEM_CLOCK = SystemClock()
_EMPTY: dict[str, Any] = {}

values: ContextVar[dict[str, Any]] = ContextVar("flowloop_context", default=_EMPTY)
"""The values of the current context. Runners set it directly; everybody else uses `context`."""

OF_A_TASK = (
    "map_index",
    "task_full_name",
    "task_id",
    "task_loop_count",
    "task_loop_result",
    "task_name",
    "task_run_count",
    "task_run_id",
    "task_run_name",
    "task_run_version",
    "task_slug",
    "task_tags",
)
"""The values that say something of one run of a task, which nobody else may name."""
_OF_ONE_RUN = frozenset(
    {
        *OF_A_TASK,
        "flow_id",
        "flow_run_name",
        "flow_run_version",
        "project_id",
        "project_name",
        "running_with_backend",
    }
)


class FlowScope(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What flowloop needs of a flow run while it goes on.

    Args:
        - cancellation: whether the run is being stopped
        - executor, place: where bodies run, and the same opened
        - settings: those of its runner
        - limits: the slots of the run, if it has limits
        - watch: where changes of state are told
        - slugs: the slug of each task
        - again: the tasks that run again although they are finished
        - continues: whether what the run finds was made in this process
        - backend: where it is recorded
        - ownership: its owner's claim
        - runner_id: who records it
        - takes_over: whether the run goes on where another runner left it
        - took_over: whether that is recorded
        - known: what was read of its task runs, by task, until it is used
        - foresee: hears of the Success that a run will have once the backend has taken it
    """

    cancellation: Any = None
    executor: Any = None
    place: Any = None
    settings: Any = None
    limits: Any = None
    watch: Any = None
    slugs: Mapping[Any, str] = {}
    again: frozenset[Any] = frozenset()
    continues: bool = False
    backend: Any = None
    ownership: Any = None
    runner_id: str | None = None
    takes_over: bool = False
    took_over: bool = False
    known: dict[Any, Any] = {}
    foresee: Any = None


class TaskScope(msgspec.Struct, eq=False):
    """What flowloop needs of one run of a task while it goes on.

    Args:
        - is_next_round: whether a round of a loop has ended, and the next one follows
        - has_waited: whether the run went on after it had waited here
        - waited_until: until when it has waited
        - is_unread: whether its record could not be read
        - was_cached: whether its record says that it is Cached
        - identity: what its result is filed under in a cache, or why it cannot be
        - told_by: the inputs that tell a mapped child from the others
        - facts: what the steps of the run share, while its body is handed over to a place where it begins later
    """

    is_next_round: bool = False
    has_waited: bool = False
    waited_until: datetime.datetime | None = None
    is_unread: bool = False
    was_cached: bool = False
    identity: dict[str, str] | Exception | None = None
    told_by: Any = ()
    facts: Any = None


class Building(msgspec.Struct, frozen=True, eq=False):
    """The flow that is being built.

    Args:
        - flow: the flow
        - fresh: the tasks that were made in its block and are not part of it yet
        - blocks: the blocks inside it that hear of its new tasks
    """

    flow: Any
    fresh: set[Any]
    blocks: tuple[Any, ...] = ()


_NO_FLOW_RUN = FlowScope()

flow_scope: ContextVar[FlowScope] = ContextVar("flowloop_flow_scope", default=_NO_FLOW_RUN)
task_scope: ContextVar[TaskScope | None] = ContextVar("flowloop_task_scope", default=None)

# what is asked many times for each task run: Python looks a method of a context variable up anew at each call
current_values, current_flow_scope = values.get, flow_scope.get
building: ContextVar[Building | None] = ContextVar("flowloop_building", default=None)


@contextmanager
def building_into(flow: Any) -> Iterator[None]:
    """Let what is wired in the block become part of this flow."""
    around = building.get()
    inner = Building(flow, set()) if around is None else msgspec.structs.replace(around, flow=flow)
    token = building.set(inner)
    try:
        yield
    finally:
        building.reset(token)


resting_on: ContextVar[Any] = ContextVar("flowloop_resting_on", default=())
"""The states upstream that are on their way to the backend while a run steps ahead: what it records rests on them."""
current_rest = resting_on.get


def change_flow_scope(**changes: Any) -> FlowScope:
    """Set another scope of the flow run, with some of it changed."""
    scope = msgspec.structs.replace(flow_scope.get(), **changes)
    flow_scope.set(scope)
    return scope


def current_task_scope() -> TaskScope:
    """Return the scope of the task run; where a step is called alone it gets one now."""
    scope = task_scope.get()
    if scope is None:
        scope = TaskScope()
        task_scope.set(scope)
    return scope


@contextmanager
def fresh_flow_run() -> Iterator[None]:
    """Begin a flow run that may be inside a task of another one: it hears when that one is stopped, and its tasks see
    the values that users gave; of what is said of the other run and its task they see nothing.
    """
    outer = flow_scope.get()
    kept = {name: value for name, value in values.get().items() if name not in _OF_ONE_RUN}
    tokens = values.set(kept), flow_scope.set(FlowScope(cancellation=outer.cancellation))
    others = task_scope.set(None), building.set(None)
    try:
        yield
    finally:
        building.reset(others[1])
        task_scope.reset(others[0])
        flow_scope.reset(tokens[1])
        values.reset(tokens[0])


unheard = logging.Logger("flowloop.run", logging.INFO)
"""Hears the lines of runs that the application's own logging lets nobody hear, so that they can be stored."""


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds to every line the ids of the run it is written in, as attributes of the log record.

    A recorded run stores its lines from INFO on in an application that has not said what it wants of flowloop's, too:
    these it hands to `unheard`, past the application's handlers.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Whether anybody hears a line of this level."""
        return self.logger.isEnabledFor(level) or self._is_stored(level)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Hand a line on, with the ids of the current run."""
        logger = self.logger if self.logger.isEnabledFor(level) else unheard if self._is_stored(level) else None
        if logger is not None:
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the line is the caller's, not this one's
            msg, given = self.process(msg, kwargs)
            logger.log(level, msg, *args, **given)

    def _is_stored(self, level: int) -> bool:
        if not unheard.handlers or level < unheard.level or level <= unheard.manager.disable:
            return False
        return not any(logger.level or logger.disabled for logger in (self.logger, _flowloop_logger))

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the ids of the current run under the ``extra`` of the record."""
        current = values.get()
        kwargs["extra"] = {
            "flow_name": current.get("flow_name"),
            "flow_run_id": current.get("flow_run_id"),
            "task_name": current.get("task_full_name"),
            "task_run_id": current.get("task_run_id"),
            "map_index": current.get("map_index"),
            **(kwargs.get("extra") or {}),
        }
        return msg, kwargs


class OwnLogger(logging.LoggerAdapter[logging.Logger]):
    """Writes flowloop's own lines: what a handler, or a filter, of the application raises ends no run."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Hand a line on; who cannot take it is complained of, as the logging module does it."""
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        try:
            super().log(level, msg, *args, **kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exception(error, file=sys.stderr)


class OwnRunLogger(OwnLogger, RunLogger):
    """The same, with the ids of the run."""


def text_of(record: logging.LogRecord, form: Callable[[logging.LogRecord], str] = logging.LogRecord.getMessage) -> str:
    """Return the text of a line; one that cannot be written out, which is code of users, is told as it was called.

    Args:
        - record: the line
        - form: writes it out
    """
    try:
        return form(record)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # what the logging module itself does: complain, and never raise
        return f"{_told(record.msg)} {_told(record.args)} (this line is malformed: {_told(error)})"


def _told(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"<{type(value).__name__}>"


class _Masking(logging.Filter):
    """Takes out of every line what the run hides."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record, and let it pass."""
        mask = hiding.get()
        if mask is not None and mask.hides_anything:
            record.msg, record.args = mask.masked(text_of(record)), None
            if record.exc_info and isinstance(record.exc_info[1], BaseException):
                record.exc_text = mask.masked("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        return True


_flowloop_logger = logging.getLogger("flowloop")
_run_logger = RunLogger(logging.getLogger("flowloop.run"))
for _logger in (_run_logger.logger, unheard):
    _logger.addFilter(_Masking())


_SCOPED = frozenset({"backend", "cancellation", "executor", "limits", "settings", "watch"})


class Context(MutableMapping[str, Any]):
    """The current run context, a mapping with attribute access, too; called, it opens a changed one.

    The keys, where a run has them: artifact, parameters, caches, config, checkpointing, resume, logger, map_index,
    task_name, task_full_name, task_slug, task_tags, task_run_count, task_loop_count, task_loop_result, task_run_name,
    task_run_id, task_run_version, task_id, flow, flow_name, flow_id, flow_run_id, flow_run_name, flow_run_version,
    project_id, project_name, running_with_backend, scheduled_start_time, date, today, yesterday, tomorrow (each also
    with ``_nodash``), tags, secrets, raise_on_exception.

    Example:

        ```python
        with context(tags={"nightly"}):
            assert context.tags == {"nightly"}
        assert "tags" not in context
        ```
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the run context has no {name!r} here; it has: {', '.join(sorted(self))}") from None

    def __setattr__(self, name: str, value: object) -> None:
        values.set({**values.get(), name: value})

    def __getitem__(self, name: str) -> Any:
        current = values.get()
        if name in current:
            return current[name]
        found = _run_logger if name == "logger" else _of_scope(name)
        if found is None:
            raise KeyError(name)
        return found

    def __setitem__(self, name: str, value: object) -> None:
        values.set({**values.get(), name: value})

    def __delitem__(self, name: str) -> None:
        kept = dict(values.get())
        del kept[name]
        values.set(kept)

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __contains__(self, name: object) -> bool:
        return name in values.get()

    def __iter__(self) -> Iterator[str]:
        return iter(values.get())

    def __len__(self) -> int:
        return len(values.get())

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of all values."""
        return dict(values.get())

    copy = to_dict

    def update(self, changes: Any = None, /, **more: Any) -> None:
        """Change values of the current context until it ends."""
        changes = dict(changes or {})
        values.set(merge(values.get(), {**(changes or {}), **more}))

    @contextmanager
    def __call__(self, changes: Mapping[str, Any] | None = None, /, **more: Any) -> Iterator[Context]:
        """Open a context with some values changed; ``config`` is merged deeply, every other key is replaced.

        Leaving the block restores everything.
        """
        token = values.set(merge(values.get(), {**(changes or {}), **more}))
        try:
            yield self
        finally:
            values.reset(token)

    def __repr__(self) -> str:
        return f"<Context: {', '.join(sorted(self))}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("the run context cannot be pickled: pass the values a task needs as its arguments")


def _of_scope(name: str) -> Any:
    if name == "flow":
        built = building.get()
        return None if built is None else built.flow
    if name == "artifact":
        from .artifacts import artifacts

        return artifacts
    return getattr(flow_scope.get(), name) if name in _SCOPED else None


context = Context()


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`, ``config`` merged deeply."""
    merged = {**base, **changes}
    if "config" in base and "config" in changes:
        merged["config"] = _merge_deeply(base["config"], changes["config"])
    return merged


def _merge_deeply(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge_deeply(cast("Mapping[str, Any]", inner), value) if both else value
    return merged


def now() -> datetime.datetime:
    """Return the time of the current context's clock: that of the machine, unless a test replaced it."""
    clock: Clock = values.get().get("clock", _SYSTEM_CLOCK)
    return clock.now()


def as_day(given: Any) -> datetime.date | None:
    """Return the date that a caller gave, as a date, a time or their text; None if it is none of these."""
    if isinstance(given, str):
        try:
            given = datetime.datetime.fromisoformat(given)
        except ValueError:
            return None
    return given if isinstance(given, datetime.date) else None


def dates(day: datetime.date) -> dict[str, Any]:
    """Return the date values of a run context, as the run started on `day`."""
    return {"date": day, **_days_around(day.year, day.month, day.day)}


@functools.lru_cache(maxsize=4)
def _days_around(year: int, month: int, day: int) -> dict[str, str]:
    one = datetime.timedelta(days=1)
    today = datetime.date(year, month, day)
    found = {}
    for name, moment in {"today": today, "yesterday": today - one, "tomorrow": today + one}.items():
        found[name] = moment.strftime("%Y-%m-%d")
        found[f"{name}_nodash"] = moment.strftime("%Y%m%d")
    return found
