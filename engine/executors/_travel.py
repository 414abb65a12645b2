"""What travels to another process and back: a body with its inputs, and its answer."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import io
import operator
import os
import pickle
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import cloudpickle

from .._one_pass import gathered, needs_reading, read
from .._pickler import Pickler
from .._run.net import shown
from ..context import context as run_context
from ..context import values
from ..errors import ExecutorError
from ..explain import explained
from ._errors import has_its_own_way, reduced
from .place import Done, Lost, Outcome, Raised, Refused

__all__ = [
    "Answer",
    "ByName",
    "Gathered",
    "Lying",
    "Request",
    "Told",
    "alone",
    "answer_to",
    "filled",
    "outcome_of_answer",
    "pickled",
    "request_for",
    "run",
    "stored_here",
    "unpickled",
    "written",
]


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
    """A body to be run.

    Args:
        - body: the function, or its name
        - args, kwargs: its arguments
        - context: what it finds as the run context
        - store: the result that its value is written to, there
    """

    body: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: dict[str, Any]
    store: Any = None


class Lying(NamedTuple):
    """Stands in a request for an input that lies where the body runs."""

    number: int


class Gathered(NamedTuple):
    """Stands in a request for a list, some elements of which lie where the body runs.

    Args:
        - elements: the others, and a `Lying` for each of these
    """

    elements: list[Any]


class Answer(NamedTuple):
    """What became of a body: ``value``, ``error``, ``unpicklable`` (the answer), ``unknown`` (the body's name),
    ``lost``, or ``refused``.
    """

    kind: str
    content: Any
    detail: str = ""


_NAMELESS = "<dynamic-code>"


class _Pickler(Pickler):
    """Lets bodies mention the run context: it is the one there that they find in the other process.

    Code keeps the name of its file, so that a traceback shows lines; cloudpickle 3.1.3 and later take it away. Errors
    keep their kind.

    Args:
        - file: where the pickle goes
        - is_careful: whether what an error holds is replaced by its repr where it cannot be pickled
    """

    def __init__(self, file: io.BytesIO, *, is_careful: bool = False) -> None:
        super().__init__(file)
        self._is_careful = is_careful

    def reducer_override(self, obj: Any) -> Any:
        if obj is run_context:
            return "context"
        if isinstance(obj, BaseException) and not has_its_own_way(obj):
            return reduced(obj, _what_travels if self._is_careful else _as_it_is)
        if isinstance(obj, types.CodeType):
            plain: Any = self.dispatch_table[types.CodeType](obj)
            make, parts = plain
            return make, tuple(obj.co_filename if one == _NAMELESS else one for one in parts)
        return super().reducer_override(obj)


def _dumps(value: Any, *, is_careful: bool = False) -> bytes:
    """Return a value as a pickle that may contain functions."""
    buffer = io.BytesIO()
    _Pickler(buffer, is_careful=is_careful).dump(value)
    return buffer.getvalue()


def _as_it_is(value: Any) -> Any:
    return value


def _what_travels(value: Any) -> Any:
    if isinstance(value, BaseException):
        return value  # the pickler asks about what is inside
    if type(value) in (list, tuple):
        return type(value)(_what_travels(one) for one in value)
    return value if _problem(value) is None else repr(value)


# -- on the way there ----------------------------------------------------------------------------------


def request_for(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], store: Any = None) -> Request:
    """Return a request for a body, with the values of the run context that mean something elsewhere.

    The body goes by name where that is possible.
    """
    context = {key: value for key, value in values.get().items() if key not in ("caches", "clock")}
    return Request(by_name(fn) or fn, args, kwargs, context, store)


def by_name(fn: Callable[..., Any]) -> ByName | None:
    """Return the name of a body that is that of a task in a module, or None."""
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or "<" in qualname:
        return None
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return ByName(module, qualname) if getattr(found, "fn", None) is fn else None


def pickled(request: Request, name: str, *, with_module: bool = False) -> bytes:
    """Return a request as a pickle.

    Args:
        - request: the request
        - name: what errors call the body
        - with_module: whether the module of the body travels, too, with those that lie beside it

    Raises:
        - ExecutorError: if it cannot be one; it names what of it cannot
    """
    try:
        with _by_value(request.body) if with_module else nullcontext():
            frame = _dumps(request)
    except Exception as error:
        if _problem(request.context) is not None:
            # a value that cannot travel is missing there, as it would be if nobody had set it
            kept = {key: value for key, value in request.context.items() if _problem(value) is None}
            return pickled(request._replace(context=kept), name)
        raise ExecutorError(f"task {name!r} cannot run in another process: {_culprit(request, error)}") from error
    return frame


_registering = threading.Lock()


@contextmanager
def _by_value(body: Any) -> Iterator[None]:
    """Let the functions and classes of a body's module travel, and those of the modules that lie beside it."""
    own = sys.modules.get(getattr(inspect.unwrap(body), "__module__", None) or "")
    folder = _folder(own)
    beside = [] if folder is None else [one for one in list(sys.modules.values()) if _folder(one) == folder]
    with _registering:
        known = cloudpickle.list_registry_pickle_by_value()
        fresh = [one for one in beside if one.__name__ not in known and one.__name__ != "__main__"]
        for module in fresh:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in fresh:
                cloudpickle.unregister_pickle_by_value(module)


def _folder(module: Any) -> str | None:
    file = getattr(module, "__file__", None)
    return os.path.dirname(os.path.abspath(file)) if isinstance(file, str) else None


def _problem(value: Any) -> BaseException | None:
    """Return why a value cannot be pickled, which is code of users, or None."""
    try:
        _dumps(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
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
            return f"its {what} (a {_kind(value)}) cannot be pickled: {_where(value)}{problem}"
    return f"its body cannot be pickled: {error}"


_DEEP = 20
"""Levels of a value that are looked through for what cannot be pickled."""


def _where(value: Any) -> str:
    """Say which part of a value it is that cannot be pickled; nothing if it is the value itself."""
    path = ""
    for _ in range(_DEEP):
        found = next(((name, part) for name, part in _parts(value) if _problem(part) is not None), None)
        if found is None:
            break
        path, value = path + found[0], found[1]
    return f"{path.removeprefix('.')} is a {_kind(value)}: " if path else ""


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [(f"[{number}]", part) for number, part in enumerate(value)]
    if inspect.isfunction(value):
        used = inspect.getclosurevars(value)
        return [(f".{name}", part) for name, part in {**used.globals, **used.nonlocals}.items()]
    return [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as one of no module, which is pickled with its code: what reads it needs no flowloop."""
    found = types.FunctionType(function.__code__, {"__builtins__": __builtins__}, None, function.__defaults__)
    found.__module__ = "__main__"
    return found


# -- over there ----------------------------------------------------------------------------------------


class Told:
    """Hears of a body while it runs."""

    def began(self) -> None:
        """The body begins now."""

    def awaits(self, task: asyncio.Task[Any]) -> None:
        """The body is a coroutine, awaited by this task."""

    def stored(self, result: bytes) -> None:
        """What the body returned is stored; `result` is a pickle of one without a value, and says where."""

    def ended(self, seconds: float) -> None:
        """The body has ended; its answer has yet to be written."""


def run(frame: bytes, told: Told, values: Sequence[Any] = ()) -> bytes:
    """Run the body of a request, and return the answer; both are pickles.

    Args:
        - frame: the request
        - told: hears of the body
        - values: what stands in the request as a `Lying` value
    """
    return written(answer_to(frame, told, values))


def answer_to(frame: bytes, told: Told, values: Sequence[Any] = ()) -> Answer:
    """Run the body of a request; see `run`."""
    try:
        request = pickle.loads(frame)  # noqa: S301 - it comes from the process that this one works for
    except Exception as error:
        return Answer("unknown", None, f"{type(error).__name__}: {error}")
    return _answer(request, told, values)


def _answer(request: Request, told: Told, lying: Sequence[Any]) -> Answer:
    try:
        body = request.body.resolve() if isinstance(request.body, ByName) else request.body
    except (ImportError, AttributeError) as error:
        return Answer("unknown", None, str(error))
    token = values.set(request.context)
    told.began()
    began = time.monotonic()
    try:
        inputs = filled(request, lying)
        value = body(*request.args, **inputs)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value, told))
        if needs_reading(value):
            value = asyncio.run(gathered(read(value)))
        if request.store is not None and value is not None:
            asyncio.run(_store(request, value, inputs, told))
        return Answer("value", value)
    except BaseException as error:
        return Answer("error", error, explained(error))
    finally:
        told.ended(time.monotonic() - began)
        values.reset(token)


def filled(request: Request, lying: Sequence[Any]) -> dict[str, Any]:
    """Return the inputs of a request with what lies here in them."""
    return {key: _there(one, lying) for key, one in request.kwargs.items()}


def stored_here(request: Request, value: Any, inputs: dict[str, Any], told: Told) -> Answer:
    """Store what a body returned that ran in yet another process, and return the answer."""
    try:
        asyncio.run(_store(request, value, inputs, told))
    except Exception as error:
        return Answer("error", error, explained(error))
    return Answer("value", value)


async def _store(request: Request, value: Any, inputs: dict[str, Any], told: Told) -> None:
    names = {**(request.context.get("parameters") or {}), **request.context, **inputs}
    stored = await request.store.write(value, **names)
    there = stored.at(stored.location)
    there.value = None
    told.stored(_dumps(there))


def _there(value: Any, lying: Sequence[Any]) -> Any:
    """Return an input with what lies here in it."""
    if isinstance(value, Lying):
        return lying[value.number]
    return [_there(one, lying) for one in value.elements] if isinstance(value, Gathered) else value


async def _awaited(answer: Any, told: Told) -> Any:
    task = asyncio.current_task()
    assert task is not None
    told.awaits(task)
    return await answer


def written(answer: Answer) -> bytes:
    """Return an answer as a pickle; one that cannot be one says so."""
    problem: BaseException | None = None
    for is_careful in (False, True):
        try:
            frame = _dumps(answer, is_careful=is_careful)
            if answer.kind == "error":
                pickle.loads(frame)  # noqa: S301 - some errors can be written, but not read
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problem = error if problem is None else problem
        else:
            return frame
    what = _kind(answer.content)
    text = answer.detail or shown(answer.content)
    return _dumps(Answer("unpicklable", (answer.kind, what, f"{_place_of(answer.content)}{_text(problem)}"), text))


def _place_of(value: Any) -> str:
    """Say which part of a value cannot be pickled, if it lets itself be looked through."""
    try:
        return _where(value)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return ""


def _text(problem: BaseException | None) -> str:
    try:
        return str(problem)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return shown(problem)


# -- back again ----------------------------------------------------------------------------------------


def unpickled(frame: bytes) -> Answer:
    """Return an answer; one that cannot be read is an answer, too."""
    try:
        answer: Answer = pickle.loads(frame)  # noqa: S301
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Answer("unpicklable", ("value", "value", _text(error)))
    return answer


def outcome_of_answer(answer: Answer, name: str, *, has_begun: bool = True) -> Outcome:
    """Return what became of a body."""
    if answer.kind == "value":
        return Done(answer.content)
    if answer.kind == "error":
        return Raised(_told(answer.content, answer.detail, name))
    if answer.kind == "refused":
        return Refused(answer.detail)
    if answer.kind == "lost":
        return Lost(answer.detail, may_have_run=has_begun)
    if answer.kind == "unpicklable":
        kind, what, problem = answer.content
        if kind == "value":
            return Raised(ExecutorError(f"task {name!r}: its result (a {what}) cannot be pickled: {problem}"))
        said = f"task {name!r} failed with {what}, which cannot be pickled: {problem}\n{answer.detail}"
        return Raised(ExecutorError(said))
    said = f"task {name!r} cannot run in another process, which could not read it: {answer.detail}"
    return Raised(ExecutorError(said))


def _told(error: BaseException, story: str, name: str) -> BaseException:
    """Return an error as it is raised here."""
    if isinstance(error, Exception):
        try:
            BaseException.add_note(error, f"In the process that ran the task:\n{story}")
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: S110 - what an error makes of its notes is code of users
            pass
    if isinstance(error, KeyboardInterrupt):  # nobody at a keyboard interrupted this process
        return ExecutorError(f"task {name!r} raised KeyboardInterrupt in the process that ran it")
    return error
