"""What a task body takes, read once per function."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

from ._containers import is_small
from .errors import FlowDefinitionError

RESERVED = frozenset({"mapped", "task_args", "upstream_tasks", "flow"})
"""Names that calling a task takes for itself, so no body can have them."""

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a task body, without ``self``."""
    method = getattr(function, "__func__", None)
    return _signature(function) if method is None else _method_signature(method)


@functools.lru_cache(maxsize=4096)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


@functools.lru_cache(maxsize=4096)
def _method_signature(method: Callable[..., Any]) -> inspect.Signature:
    declared = inspect.signature(method)
    return declared.replace(parameters=list(declared.parameters.values())[1:])


class Names(NamedTuple):
    """The names of what a body takes.

    Args:
        - by_position: those that can be given by position, in order
        - all: all of them
        - required: those that must be given
        - takes_any: whether any other name can be given, too
    """

    by_position: tuple[str, ...]
    all: frozenset[str]
    required: tuple[str, ...]
    takes_any: bool


def names(function: Callable[..., Any]) -> Names:
    """Return the names of what a task body takes, without ``self``."""
    method = getattr(function, "__func__", None)
    return _names(function, False) if method is None else _names(method, True)


@functools.lru_cache(maxsize=4096)
def _names(function: Callable[..., Any], is_method: bool) -> Names:
    declared = _method_signature(function) if is_method else _signature(function)
    named = [p for p in declared.parameters.values() if p.kind not in (_VAR_POSITIONAL, _VAR_KEYWORD)]
    return Names(
        by_position=tuple(p.name for p in named if p.kind is not _KEYWORD_ONLY),
        all=frozenset(p.name for p in named),
        required=tuple(p.name for p in named if p.default is p.empty),
        takes_any=any(p.kind is _VAR_KEYWORD for p in declared.parameters.values()),
    )


def own_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a task body that are small plain containers, which one run could change for the next.

    What wraps another function may treat what is given otherwise than what is not, so its defaults are left to it.
    """
    return _own_defaults(getattr(function, "__func__", function))


@functools.lru_cache(maxsize=4096)
def _own_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    if hasattr(function, "__wrapped__"):
        return {}
    declared = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in declared if is_small(parameter.default)}


def values_returned(function: Callable[..., Any]) -> int | None:
    """Return how many values a task body returns by its annotation, or None if that says nothing."""
    return _values_returned(getattr(function, "__func__", function))


@functools.lru_cache(maxsize=4096)
def _values_returned(function: Callable[..., Any]) -> int | None:
    try:
        hint = typing.get_type_hints(function).get("return")
    except Exception:  # annotations may name what does not exist yet
        return None
    if typing.get_origin(hint) is not tuple or hint is typing.Tuple:  # noqa: UP006 - a tuple of any length
        return None
    kinds = typing.get_args(hint)
    return None if Ellipsis in kinds else len(kinds)


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a task body is a coroutine function."""
    return _is_async(function if type(function) is FunctionType else getattr(function, "__func__", function))


@functools.lru_cache(maxsize=4096)
def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function)


def check_body(name: str, function: Callable[..., Any]) -> None:
    """Refuse a task body that could not be called with keywords.

    Raises:
        - FlowDefinitionError: for ``*args``, a positional-only argument, a reserved name, or what hides what it takes
    """
    try:
        declared = signature(function)
    except (TypeError, ValueError) as error:
        raise FlowDefinitionError(
            f"task {name!r}: what {function!r} takes cannot be read ({error}): call it in a function of your own"
        ) from None
    for parameter in declared.parameters.values():
        if parameter.kind is _VAR_POSITIONAL:
            raise FlowDefinitionError(
                f"task {name!r}: run() takes *{parameter.name}, but inputs are passed by name: name each one"
            )
        is_self = parameter.name == "self" and inspect.isfunction(function)
        if parameter.kind is _POSITIONAL_ONLY and not is_self:
            raise FlowDefinitionError(
                f"task {name!r}: {parameter.name!r} is positional-only, but inputs are passed by name: drop the '/'"
            )
        if parameter.name in RESERVED:
            raise FlowDefinitionError(
                f"task {name!r}: an argument cannot be called {parameter.name!r}; "
                f"reserved are {', '.join(sorted(RESERVED))}"
            )


def bind(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call, by name.

    Raises:
        - FlowDefinitionError: if the function cannot be called like this
    """
    known = names(function)
    arguments = dict(zip(known.by_position, args, strict=False))
    fits = (
        len(args) <= len(known.by_position)
        and (known.takes_any or kwargs.keys() <= known.all)
        and arguments.keys().isdisjoint(kwargs)
    )
    arguments.update(kwargs)
    if fits and all(name in arguments for name in known.required):
        return arguments
    declared = signature(function)
    try:
        declared.bind(*args, **kwargs)
    except TypeError as error:
        raise FlowDefinitionError(f"task {name!r}: {error}; it is run{declared}") from None
    raise FlowDefinitionError(f"task {name!r}: inputs are passed by name, and run{declared} has no names for {args!r}")


def describe_inputs(function: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Return for each input its type, whether it is required, and its default; None if it has none."""
    return {
        parameter.name: {
            "type": _annotated(parameter.annotation),
            "required": parameter.default is parameter.empty,
            "default": None if parameter.default is parameter.empty else parameter.default,
        }
        for parameter in signature(function).parameters.values()
        if parameter.kind not in (_VAR_POSITIONAL, _VAR_KEYWORD)
    }


def describe_output(function: Callable[..., Any]) -> Any:
    """Return the type of the result."""
    return _annotated(signature(function).return_annotation)


def return_type(function: Callable[..., Any]) -> Any:
    """Return the type that a task body returns by its annotation; Any if that says nothing."""
    try:
        return typing.get_type_hints(getattr(function, "__func__", function)).get("return", Any)
    except Exception:  # annotations may name what does not exist
        return Any


def _annotated(annotation: Any) -> Any:
    return Any if annotation is inspect.Signature.empty else annotation


def type_name(annotation: Any) -> str:
    """Return a type as text."""
    return "typing.Any" if annotation in ("Any", Any) else str(annotation)
