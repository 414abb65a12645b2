"""What a task body takes, read once per function."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from .errors import FlowDefinitionError

RESERVED = frozenset({"mapped", "task_args", "upstream_tasks", "flow"})
"""Names that calling a task takes for itself, so no body can have them."""

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
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


@functools.lru_cache(maxsize=4096)
def return_hint(function: Callable[..., Any]) -> Any:
    """Return the annotated return type of a task body, or Any."""
    try:
        return typing.get_type_hints(function).get("return", Any)
    except Exception:
        return Any


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a task body is a coroutine function."""
    return _is_async(getattr(function, "__func__", function))


@functools.lru_cache(maxsize=4096)
def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function)


def check_body(name: str, function: Callable[..., Any]) -> None:
    """Refuse a task body that could not be called with keywords.

    Raises:
        - FlowDefinitionError: for ``*args``, a positional-only argument, or a reserved name
    """
    for parameter in signature(function).parameters.values():
        if parameter.kind is _VAR_POSITIONAL:
            raise FlowDefinitionError(
                f"task {name!r}: run() takes *{parameter.name}, but inputs are passed by name: give each one an argument"
            )
        if parameter.kind is _POSITIONAL_ONLY and parameter.name != "self":
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
    declared = signature(function)
    try:
        bound = declared.bind(*args, **kwargs)
    except TypeError as error:
        raise FlowDefinitionError(f"task {name!r}: {error}; it is run{declared}") from None
    arguments = dict(bound.arguments)
    for parameter in declared.parameters.values():
        if parameter.kind is _VAR_KEYWORD:
            arguments.update(arguments.pop(parameter.name, {}))
    return arguments


def describe_inputs(function: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Return for each input whether it is required, and its type as text."""
    return {
        parameter.name: {
            "required": parameter.default is inspect.Parameter.empty,
            "type": type_name(parameter.annotation),
        }
        for parameter in signature(function).parameters.values()
        if parameter.kind is not _VAR_KEYWORD
    }


def describe_output(function: Callable[..., Any]) -> str:
    """Return the type of the result, as text."""
    return type_name(signature(function).return_annotation)


def type_name(annotation: Any) -> str:
    return "typing.Any" if annotation in (inspect.Signature.empty, "Any") else str(annotation)
