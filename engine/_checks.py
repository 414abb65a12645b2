"""What the arguments of tasks and flows may be: each check returns the value, or raises ValueError with the reason."""

from __future__ import annotations

import datetime
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._at_once import gives_coroutines
from .errors import FlowDefinitionError
from .result import Result
from .retries import delay_after

if TYPE_CHECKING:
    from .state import State

__all__ = ["CHECKS", "FailureHandler", "StateHandler", "checked", "failure_handler"]

_LONGEST = datetime.timedelta(days=36_500)
_SECOND = datetime.timedelta(seconds=1)

StateHandler = Callable[[Any, "State", "State"], Any]
FailureHandler = Callable[[Any, "State"], Any]


def checked(owner: str, field: str, value: Any) -> Any:
    """Return an argument, in the form it is kept in.

    Args:
        - owner: what it is an argument of, for the error
        - field: its name
        - value: what was given

    Raises:
        - FlowDefinitionError: if it cannot be that
    """
    check = CHECKS.get(field)
    if check is None:
        return value
    try:
        return check(value)
    except ValueError as error:
        raise FlowDefinitionError(f"{owner}: {field} {error}") from None


def failure_handler(on_failure: FailureHandler) -> StateHandler:
    """Return a state handler that calls `on_failure` when the new state is a failure."""

    async def handler(owner: Any, old_state: State, new_state: State) -> State:
        if new_state.is_failed():
            answer = on_failure(owner, new_state)
            if inspect.isawaitable(answer):
                await answer
        return new_state

    return handler


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"is a text that is not empty, not {value!r}")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _name(value)


def _tags(value: Any) -> set[str]:
    if isinstance(value, str):
        raise ValueError(f"is a set of strings, not the one string {value!r}")
    if value is not None and not isinstance(value, Iterable):
        raise ValueError(f"is a set of strings, not {value!r}")
    tags = list(value or ())
    for tag in tags:
        if not isinstance(tag, str):
            raise ValueError(f"is a set of strings, and {tag!r} is none")
    return set(tags)


def _max_retries(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"is a whole number from zero up, not {value!r}")
    return value


def _retry_delay(value: Any) -> Any:
    if value is None or callable(value):
        return _not_async(value)
    if isinstance(value, Sequence) and not value:
        raise ValueError("is an empty list")
    delays: Sequence[Any] = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    for delay in delays:
        try:
            good = delay_after(delay, 1, "") >= datetime.timedelta()
        except FlowDefinitionError:
            good = False
        if not good:
            raise ValueError(
                f"is a number of seconds, a timedelta, a list of these or a function, not {value!r}; "
                "each is from zero up to a hundred years"
            )
    return value


def _retry_on(value: Any) -> tuple[type[BaseException], ...] | None:
    if value is None:
        return None
    kinds = (value,) if isinstance(value, type) or not isinstance(value, Iterable) else tuple(value)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ValueError(f"takes exception types, not {kind!r}")
    return kinds


def _timeout(value: Any) -> int | None:
    if value is None:
        return None
    seconds = value // _SECOND if isinstance(value, datetime.timedelta) else value
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= _LONGEST.total_seconds() or seconds % 1:
        raise ValueError(f"is a whole number of seconds above zero, at most a hundred years, not {value!r}")
    if isinstance(value, datetime.timedelta) and value % _SECOND:
        warnings.warn(f"a timeout counts whole seconds: {value!r} is taken as {seconds} s", stacklevel=4)
    return int(seconds)


def _cache_for(value: Any) -> datetime.timedelta | None:
    if value is not None and not isinstance(value, datetime.timedelta):
        raise ValueError(f"is a timedelta, not {value!r}")
    if value is not None and value > _LONGEST:
        raise ValueError(f"is at most a hundred years, not {value!r}")
    return value


def _function(value: Any) -> Any:
    if value is not None and not callable(value):
        raise ValueError(f"is a function, not {value!r}")
    return value


def _template(value: Any) -> Any:
    if value is not None and not isinstance(value, str) and not callable(value):
        raise ValueError(f"is a text or a function, not {value!r}")
    return _not_async(value)


def _not_async(value: Any) -> Any:
    if gives_coroutines(value):
        raise ValueError(f"is asked for at once and not awaited, so it is no async function as {value!r} is")
    return value


def _result(value: Any) -> Result | None:
    if isinstance(value, type):
        raise ValueError(f"is a result, not the class {value.__name__}: write {value.__name__}(...)")
    if value is not None and not isinstance(value, Result):
        raise ValueError(f"is a result that says where to store, not {value!r}")
    return value


def _nout(value: Any) -> int | None:
    return None if value is None else _max_retries(value)


def _state_handlers(value: Any) -> list[StateHandler]:
    if value is None:
        return []
    if callable(value) or not isinstance(value, Iterable):
        raise ValueError(f"is a list of functions, not {value!r}")
    found = list(value)
    for handler in found:
        if not callable(handler):
            raise ValueError(f"is a list of functions, and {handler!r} is none")
    return found


def _executor(value: Any) -> Any:
    if isinstance(value, Mapping):
        from .executors.several import SeveralExecutors

        return SeveralExecutors({name: _executor(one) for name, one in value.items()})
    if isinstance(value, type):
        raise ValueError(f"is an executor, not the class {value.__name__}: write {value.__name__}()")
    if value is not None and not (hasattr(value, "submit") and hasattr(value, "start")):
        raise ValueError(f"is an executor, or a dict of executors by name, not {value!r}")
    return value


def _needs(value: Any) -> Any:
    from .executors.place import Needs

    if value is not None and not isinstance(value, Needs):
        raise ValueError(f"is a Needs(...), not {value!r}")
    return value


def _stream(value: Any) -> str:
    if value not in ("list", "last"):
        raise ValueError(f'is "list" or "last", not {value!r}')
    return str(value)


def _schedule(value: Any) -> Any:
    if value is not None and (isinstance(value, type) or not hasattr(value, "next")):
        raise ValueError(f"is a schedule (flowloop.engine.schedules), not {value!r}")
    return value


CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "slug": _optional_text,
    "tags": _tags,
    "max_retries": _max_retries,
    "retry_delay": _retry_delay,
    "retry_on": _retry_on,
    "timeout": _timeout,
    "trigger": _function,
    "cache_for": _cache_for,
    "cache_validator": _function,
    "cache_key": _optional_text,
    "state_handlers": _state_handlers,
    "on_failure": _function,
    "terminal_state_handler": _function,
    "result": _result,
    "target": _template,
    "task_run_name": _template,
    "nout": _nout,
    "needs": _needs,
    "stream": _stream,
    "executor": _executor,
    "schedule": _schedule,
}
