"""Flows, tasks, edges and parameters as documents.

The documents are what a flow is registered as. They are the same each time a flow is built, in every process: lists
are sorted, and functions are given by name. flowloop's own triggers, validators and filters have the names that
the dialect knows them by.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .._signature import type_name
from ..errors import SerializationError
from ..plain import plain
from .states import VERSION

if TYPE_CHECKING:
    from ..edge import Edge
    from ..flow import Flow
    from ..parameter import Parameter
    from ..task import Task

__all__ = ["function_reference", "serialize_edge", "serialize_flow", "serialize_parameter", "serialize_task"]

_DIALECT_MODULES = {
    "flowloop.engine.triggers": "prefect.triggers",
    "flowloop.engine.cache_validators": "prefect.engine.cache_validators",
    "flowloop.engine.schedules.filters": "prefect.schedules.filters",
    "flowloop.engine.schedules.adjustments": "prefect.schedules.adjustments",
}


def serialize_flow(flow: Flow) -> dict[str, Any]:
    """Return the document of a flow, with its tasks and edges.

    Raises:
        - SerializationError: if something in it cannot be written as JSON; it names the place
    """
    slugs = flow.slugs
    functions: dict[int, tuple[Callable[..., Any], dict[str, Any]]] = {}

    def reference(function: Callable[..., Any]) -> dict[str, Any]:
        # made once, for thousands of tasks have it in common
        known = functions.get(id(function))
        if known is None:
            known = functions[id(function)] = (function, function_reference(function))
        return known[1]

    ends = {task: _reference(slug) for task, slug in slugs.items()}
    reference_tasks = flow.reference_tasks()
    if reference_tasks == flow.terminal_tasks():
        reference_tasks = set()
    edges = [_edge(edge, ends[edge.upstream_task], ends[edge.downstream_task]) for edge in flow.ordered_edges()]
    edges.sort(key=lambda e: (e["upstream_task"]["slug"], e["downstream_task"]["slug"], e["key"] or ""))
    document = {
        "name": flow.name,
        "type": _qualified(type(flow)),
        "schedule": _document_of(flow.schedule),
        "parameters": sorted((serialize_parameter(task) for task in flow.parameters()), key=_slug),
        "tasks": sorted(
            (
                _task(task, slugs[task], reference(task.trigger), reference(task.cache_validator))
                for task in flow.ordered_tasks()
            ),
            key=_slug,
        ),
        "edges": edges,
        "reference_tasks": sorted((ends[task] for task in reference_tasks), key=_slug),
        "run_config": _document_of(flow.run_config),
        "storage": _document_of(flow.storage),
        "__version__": VERSION,
    }
    for field in ("schedule", "run_config", "storage"):
        document[field] = _plain(document[field], f"flow {flow.name!r}: its {field}")
    return document


def serialize_task(task: Task[..., Any], slug: str | None = None) -> dict[str, Any]:
    """Return the document of a task.

    Args:
        - task: the task
        - slug: its slug in its flow; that of the task, or its name, if None
    """
    slug = slug or task.slug or task.name
    return _task(task, slug, function_reference(task.trigger), function_reference(task.cache_validator))


def _task(task: Task[..., Any], slug: str, trigger: dict[str, Any], cache_validator: dict[str, Any]) -> dict[str, Any]:
    return {
        "slug": slug,
        "name": task.name,
        "type": task.document_type or _qualified(type(task)),
        "tags": sorted(task.tags),
        "max_retries": task.max_retries,
        "retry_delay": _first_delay(task.retry_delay),
        "timeout": task.timeout,
        "inputs": {
            name: {"required": one["required"], "type": type_name(one["type"])} for name, one in task.inputs().items()
        },
        "outputs": type_name(task.outputs()),
        "trigger": trigger,
        "skip_on_upstream_skip": task.skip_on_upstream_skip,
        "cache_for": None if task.cache_for is None else _whole_seconds(task.cache_for),
        "cache_key": task.cache_key,
        "cache_validator": cache_validator,
        "auto_generated": task.auto_generated,
        "__version__": VERSION,
    }


def serialize_parameter(parameter: Parameter) -> dict[str, Any]:
    """Return the document of a parameter.

    Raises:
        - SerializationError: if its default cannot be written as JSON
    """
    document = {
        "name": parameter.name,
        "slug": parameter.slug or parameter.name,
        "type": parameter.document_type or _qualified(type(parameter)),
        "default": _plain(parameter.default, f"parameter {parameter.name!r}: its default"),
        "required": parameter.required,
        "tags": sorted(parameter.tags),
        "outputs": type_name(parameter.outputs()),
        "__version__": VERSION,
    }
    # Beside what Prefect 1 writes, and only where there is something to say.
    schema = _schema(parameter)
    return document | ({"schema": schema} if schema else {}) | ({"secret": True} if parameter.secret else {})


def _schema(parameter: Parameter) -> Any:
    """Return the JSON schema of the values of a parameter, for who makes a form of it; None if its type has none."""
    from ..parameter import DateTimeParameter

    if isinstance(parameter, DateTimeParameter):
        return {"type": "string", "format": "date-time"}
    if parameter.type is Any:
        return parameter.document_schema
    try:
        schema = msgspec.json.schema(parameter.type)
    except (TypeError, RuntimeError, NotImplementedError):
        return None
    for name in _flags(parameter.type):
        schema["$defs"][name] = {"title": name, "type": "integer"}  # several members at once are a value, too
    return schema


def _flags(kind: Any) -> Iterator[str]:
    """Yield the names of the enums in a type annotation whose members can be combined."""
    if isinstance(kind, enum.EnumMeta):
        yield from [kind.__name__] if issubclass(kind, enum.Flag) else ()
    for inner in getattr(kind, "__args__", ()):
        yield from _flags(inner)


def serialize_edge(edge: Edge, upstream_slug: str | None = None, downstream_slug: str | None = None) -> dict[str, Any]:
    """Return the document of an edge.

    Args:
        - edge: the edge
        - upstream_slug, downstream_slug: the slugs of its tasks in their flow; those of the tasks if None
    """
    up, down = edge.upstream_task, edge.downstream_task
    upstream = _reference(upstream_slug or up.slug or up.name)
    return _edge(edge, upstream, _reference(downstream_slug or down.slug or down.name))


def _edge(edge: Edge, upstream: dict[str, str], downstream: dict[str, str]) -> dict[str, Any]:
    return {
        "upstream_task": upstream,
        "downstream_task": downstream,
        "key": edge.key,
        "mapped": edge.mapped,
        "flattened": edge.flattened,
        "__version__": VERSION,
    }


def function_reference(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function as the dialect writes it: its name, and what a factory made it of.

    ``some_failed(at_least=2)`` becomes ``{"fn": "prefect.triggers.some_failed", "kwargs": {"at_least": 2, ...}}``.
    """
    known: dict[str, Any] | None = getattr(function, "reference", None)
    if known is not None:  # it was read from a document
        return known
    target: Any = function if hasattr(function, "__qualname__") and hasattr(function, "__module__") else type(function)
    module = _DIALECT_MODULES.get(target.__module__, target.__module__)
    name = target.__qualname__.partition(".<locals>")[0]
    reference = {"fn": f"{module}.{name}", "kwargs": {}}
    if inspect.isfunction(function) and function.__closure__ and "<locals>" in function.__qualname__:
        given = inspect.getclosurevars(function).nonlocals
        plain = {key: _marked(value) for key, value in given.items()}
        reference["kwargs"] = msgspec.to_builtins(plain, str_keys=True, enc_hook=_type_name)
    return reference


def _marked(value: Any) -> Any:
    # the dialect marks times, so that they can be told from text
    if isinstance(value, datetime.datetime):
        return f"//datetime:{value.isoformat()}"
    if isinstance(value, datetime.time):
        return f"//time:{value.isoformat()}"
    if isinstance(value, datetime.timedelta):
        return f"//timedelta:{value.total_seconds()}"
    return value


def _reference(slug: str) -> dict[str, str]:
    return {"slug": slug, "__version__": VERSION}


def _slug(document: Mapping[str, Any]) -> Any:
    return document["slug"]


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _type_name(value: Any) -> str:
    # not its repr, which may hold an address and so differ from process to process
    return _qualified(type(value))


def _document_of(value: Any) -> Any:
    return value.serialize() if hasattr(value, "serialize") else value


def _plain(value: Any, where: str) -> Any:
    try:
        return plain(value)
    except SerializationError as error:
        raise SerializationError(f"{where} cannot be recorded: {error}") from None


def _first_delay(delay: Any) -> int | None:
    # the dialect knows one delay: where there are many, the first is what others are told
    first = delay[0] if isinstance(delay, Sequence) else delay
    return None if first is None or callable(first) else _whole_seconds(first)


def _whole_seconds(duration: float | datetime.timedelta) -> int:
    return math.ceil(duration.total_seconds() if isinstance(duration, datetime.timedelta) else duration)
