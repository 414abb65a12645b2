"""What travels to another process and back: a body with its inputs, and its answer."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import io
import operator
import pickle
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cloudpickle

from .._one_pass import gathered, needs_reading, read
from ..context import context as run_context
from ..context import values
from ..errors import ExecutorError

__all__ = ["Answer", "ByName", "Request", "name_of", "pickled", "request_for", "run", "unpickled", "value_of"]

_AT_HOME = frozenset(
    {
        "backend",
        "caches",
        "cancellation",
        "clock",
        "executor",
        "flow_slugs",
        "limits",
        "logger",
        "settings",
        "task_run_info",
        "watch",
    }
)
"""Values of the run context that mean something only where the run is."""


class ByName(NamedTuple):
    """A body that is found under a name, rather than sent."""

    module: str
    qualname: str

    def resolve(self) -> Callable[..., Any]:
        """Return the function that the task of this name is made of."""
        task = operator.attrgetter(self.qualname)(importlib.import_module(self.module))
        function: Callable[..., Any] = task.fn
        return function


class Request(NamedTuple):
    """A body to be run."""

    body: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: dict[str, Any]


class Answer(NamedTuple):
    """What became of a body: ``value``, ``error``, ``unpicklable`` (the answer), or ``unknown`` (the body's name)."""

    kind: str
    content: Any
    detail: str = ""


_NAMELESS = "<dynamic-code>"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Lets bodies mention the run context: it is the one there that they find in the other process.

    Code keeps the name of its file, so that a traceback shows lines; cloudpickle 3.1.3 and later take it away.
    """

    def reducer_override(self, obj: Any) -> Any:
        if obj is run_context:
            return "context"
        if isinstance(obj, types.CodeType):
            reduced: Any = self.dispatch_table[types.CodeType](obj)
            return reduced[0], tuple(obj.co_filename if one == _NAMELESS else one for one in reduced[1])
        return super().reducer_override(obj)


def _dumps(value: Any) -> bytes:
    """Return a value as a pickle that may contain functions."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


# -- on the way there ----------------------------------------------------------------------------------


def name_of(fn: Callable[..., Any], extra_context: Mapping[str, Any] | None) -> str:
    """Return what a body is called in errors."""
    return str((extra_context or {}).get("task_name") or getattr(fn, "__name__", "a body"))


def request_for(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
    """Return a request for a body, with the values of the run context that mean something elsewhere.

    The body goes by name where that is possible.
    """
    context = {key: value for key, value in values.get().items() if key not in _AT_HOME}
    return Request(by_name(fn) or fn, args, kwargs, context)


def by_name(fn: Callable[..., Any]) -> ByName | None:
    """Return the name of a body that is that of a task in a module, or None."""
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or "<" in qualname:
        return None
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return ByName(module, qualname) if getattr(found, "fn", None) is fn else None


def pickled(request: Request, name: str) -> bytes:
    """Return a request as a pickle.

    Raises:
        - ExecutorError: if it cannot be one; it names what of it cannot
    """
    try:
        frame = _dumps(request)
    except Exception as error:
        if _problem(request.context) is not None:
            # a value that cannot travel is missing there, as it would be if nobody had set it
            kept = {key: value for key, value in request.context.items() if _problem(value) is None}
            return pickled(request._replace(context=kept), name)
        raise ExecutorError(f"task {name!r} cannot run in another process: {_culprit(request, error)}") from error
    return frame


def _problem(value: Any) -> Exception | None:
    try:
        _dumps(value)
    except Exception as error:
        return error
    return None


def _culprit(request: Request, error: Exception) -> str:
    given = {f"argument number {number}": value for number, value in enumerate(request.args, 1)}
    given |= {f"argument {key!r}": value for key, value in request.kwargs.items()}
    body = inspect.unwrap(request.body) if callable(request.body) else request.body
    owner = getattr(body, "__self__", None)
    if owner is not None:
        given |= {f"attribute {key!r}": value for key, value in vars(owner).items()}
    elif inspect.isfunction(body):
        used = inspect.getclosurevars(body)
        given |= {
            f"variable {key!r}, which its body uses,": value
            for key, value in {**used.globals, **used.nonlocals}.items()
        }
    for what, value in given.items():
        problem = _problem(value)
        if problem is not None:
            return f"its {what} (a {_kind(value)}) cannot be pickled: {problem}"
    return f"its body cannot be pickled: {error}"


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# -- over there ----------------------------------------------------------------------------------------


def run(frame: bytes) -> bytes:
    """Run the body of a request, and return the answer; both are pickles."""
    try:
        request = pickle.loads(frame)  # noqa: S301 - it comes from the process that this one works for
    except Exception as error:
        answer = Answer("unknown", None, f"{type(error).__name__}: {error}")
    else:
        answer = _answer(request)
    return _pickled_answer(answer)


def _answer(request: Request) -> Answer:
    try:
        body = request.body.resolve() if isinstance(request.body, ByName) else request.body
    except (ImportError, AttributeError) as error:
        return Answer("unknown", None, str(error))
    token = values.set(request.context)
    try:
        value = body(*request.args, **request.kwargs)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        if needs_reading(value):
            value = asyncio.run(gathered(read(value)))
        return Answer("value", value)
    except BaseException as error:
        return Answer("error", error, "".join(traceback.format_exception(error)))
    finally:
        values.reset(token)


async def _awaited(answer: Any) -> Any:
    return await answer


def _pickled_answer(answer: Answer) -> bytes:
    try:
        frame = _dumps(answer)
        if answer.kind == "error":
            pickle.loads(frame)  # noqa: S301 - many errors can be written, but not read
    except Exception as error:
        what = f"{type(answer.content).__module__}.{type(answer.content).__qualname__}"
        text = answer.detail or repr(answer.content)
        return _dumps(Answer("unpicklable", (answer.kind, what, str(error)), text))
    return frame


# -- back again ----------------------------------------------------------------------------------------


def unpickled(frame: bytes) -> Answer:
    """Return an answer; one that cannot be read is an answer, too."""
    try:
        answer: Answer = pickle.loads(frame)  # noqa: S301
    except Exception as error:
        return Answer("unpicklable", ("value", "value", str(error)))
    return answer


def value_of(answer: Answer, name: str) -> Any:
    """Return what a body returned, or raise what it raised.

    Raises:
        - ExecutorError: if that could not travel
    """
    if answer.kind == "value":
        return answer.content
    if answer.kind == "error":
        if isinstance(answer.content, Exception):
            answer.content.add_note(f"In the process that ran the task:\n{answer.detail}")
        raise answer.content
    if answer.kind == "unpicklable":
        kind, what, problem = answer.content
        if kind == "value":
            raise ExecutorError(f"task {name!r}: its result (a {what}) cannot be pickled: {problem}")
        raise ExecutorError(f"task {name!r} failed with {what}, which cannot be pickled: {problem}\n{answer.detail}")
    raise ExecutorError(f"task {name!r} cannot run in another process, which could not read it: {answer.detail}")
