"""The run context: what a task, a handler or a result may ask about the run it is part of.

There is one `contextvars.ContextVar`. Its value is a plain dict that nobody changes in place but the runner of the run
it was made for: whoever wants another context sets another dict, so a run can never see the values of its neighbour,
in this task or in another thread.

Example:

    ```python
    @task
    async def greet() -> str:
        return f"task run {context.task_run_count} of {context.task_name}"
    ```
"""

from __future__ import annotations

import datetime
import logging
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, cast

from .clock import Clock, SystemClock
from .masking import hiding

__all__ = ["Context", "context"]

_SYSTEM_CLOCK = SystemClock()
_EMPTY: dict[str, Any] = {}

values: ContextVar[dict[str, Any]] = ContextVar("flowloop_context", default=_EMPTY)
"""The values of the current context. Runners set it directly; everybody else uses `context`."""


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
            **kwargs.get("extra", {}),
        }
        return msg, kwargs


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        # what the logging module itself does: complain, and never raise
        return f"{record.msg!s} {record.args!s} (this line is malformed: {error})"


class _Masking(logging.Filter):
    """Takes out of every line what the run hides."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record, and let it pass."""
        mask = hiding.get()
        if mask is not None and mask.hides_anything:
            record.msg, record.args = mask.masked(_message(record)), None
            if record.exc_info and record.exc_info[1] is not None:
                record.exc_text = mask.masked("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        return True


_flowloop_logger = logging.getLogger("flowloop")
_run_logger = RunLogger(logging.getLogger("flowloop.run"))
for _logger in (_run_logger.logger, unheard):
    _logger.addFilter(_Masking())


class Context:
    """The current run context, with attribute and item access; called, it opens a changed one.

    The keys, where a run has them: parameters, caches, config, checkpointing, resume, logger, map_index, task_name,
    task_full_name, task_slug, task_tags, task_run_count, task_loop_count, task_loop_result, task_run_name,
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
        if name == "logger" and name not in current:
            return _run_logger
        return current[name]

    def __contains__(self, name: object) -> bool:
        return name in values.get()

    def __iter__(self) -> Iterator[str]:
        return iter(values.get())

    def __len__(self) -> int:
        return len(values.get())

    def get(self, name: str, default: Any = None) -> Any:
        """Return one value of the context, or `default`."""
        return _run_logger if name == "logger" and name not in self else values.get().get(name, default)

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of all values."""
        return dict(values.get())

    def update(self, changes: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Change values of the current context until it ends."""
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


def dates(day: datetime.date) -> dict[str, str]:
    """Return the date values of a run context, as the run started on `day`."""
    one = datetime.timedelta(days=1)
    named = {"today": day, "yesterday": day - one, "tomorrow": day + one}
    found: dict[str, Any] = {"date": day}
    for name, moment in named.items():
        found[name] = moment.strftime("%Y-%m-%d")
        found[f"{name}_nodash"] = moment.strftime("%Y%m%d")
    return found
