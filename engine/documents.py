"""Reading the documents of flows, tasks and edges: for who inspects flows that an API knows, without their code.

What is read has the graph and all that its document says, but no bodies. Written again, it is the same document.
"""

from __future__ import annotations

import contextvars
import datetime
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from . import cache_validators, triggers
from .edge import Edge
from .errors import DialectError, FlowDefinitionError
from .flow import Flow
from .parameter import DateTimeParameter, Parameter, no_default
from .serialization import function_reference
from .task import Task

__all__ = ["DocumentedTask", "deserialize_edge", "deserialize_flow", "deserialize_task"]

T = TypeVar("T")


class DocumentedTask(Task[..., Any]):
    """A task of which the document is known, and not the code.

    Args:
        - document: the document of the task
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(name=document["name"], slug=document["slug"], tags=document.get("tags"))
        # one by one, for a document says less than a task needs: not how later delays differ from the first one
        self.document_type = document.get("type")
        self.max_retries = document.get("max_retries") or 0
        self.retry_delay = _seconds(document.get("retry_delay"))
        self.timeout = document.get("timeout")
        self.trigger = _function(document.get("trigger")) or triggers.all_successful
        self.skip_on_upstream_skip = document.get("skip_on_upstream_skip", True)
        self.cache_for = _seconds(document.get("cache_for"))
        self.cache_key = document.get("cache_key")
        self.cache_validator = _function(document.get("cache_validator")) or cache_validators.never_use
        self.auto_generated = bool(document.get("auto_generated"))
        self.documented_inputs = {name: dict(one) for name, one in (document.get("inputs") or {}).items()}
        self.documented_outputs = str(document.get("outputs") or "typing.Any")

    def run(self, **inputs: Any) -> NoReturn:
        """Refuse: there is no code to run.

        Raises:
            - FlowDefinitionError: always
        """
        raise FlowDefinitionError(f"task {self.name!r} was read from a document, which holds no code to run")

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return for each argument whether it is ``required``, and its ``type``, as the document says."""
        return self.documented_inputs

    def outputs(self) -> str:
        """Return the type of the result, as the document says."""
        return self.documented_outputs


def deserialize_task(document: Mapping[str, Any]) -> Task[..., Any]:
    """Return the task, or the parameter, of a document.

    Raises:
        - DialectError: if the document is not that of a task
    """
    return _read("task", _task, document)


def deserialize_edge(document: Mapping[str, Any]) -> Edge:
    """Return the edge of a document, between tasks of which only the slugs are known.

    Raises:
        - DialectError: if the document is not that of an edge
    """
    return _read("edge", _lone_edge, document)


def deserialize_flow(document: Mapping[str, Any]) -> Flow:
    """Return the flow of a document, with its tasks and edges.

    Raises:
        - DialectError: if the document is not that of a flow
    """
    return _read("flow", _flow, document)


def _read(what: str, read: Callable[[Mapping[str, Any]], T], document: Mapping[str, Any]) -> T:
    try:
        # where no flow is being built, to which a parameter would add itself
        return contextvars.Context().run(read, document)
    except DialectError:
        raise
    except KeyError as error:
        raise DialectError(f"the document of a {what} says nothing of its {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DialectError(f"the document of a {what} is not understood: {error}") from error


def _task(document: Mapping[str, Any]) -> Task[..., Any]:
    return _parameter(document) if "required" in document else DocumentedTask(document)


def _parameter(document: Mapping[str, Any]) -> Parameter:
    is_time = str(document.get("type") or "").endswith(".DateTimeParameter")
    default = no_default if document["required"] else document.get("default")
    kind: Any = DateTimeParameter if is_time else Parameter
    found: Parameter = kind(document["name"], default=default, required=document["required"], tags=document.get("tags"))
    if document.get("type"):
        found.document_type = document["type"]
    found.document_schema, found.secret = document.get("schema"), bool(document.get("secret"))
    return found


def _lone_edge(document: Mapping[str, Any]) -> Edge:
    return _edge(document, _end(document["upstream_task"]), _end(document["downstream_task"]))


def _edge(document: Mapping[str, Any], upstream: Task[..., Any], downstream: Task[..., Any]) -> Edge:
    return Edge(
        upstream,
        downstream,
        document.get("key"),
        bool(document.get("mapped")),
        bool(document.get("flattened")),
    )


def _end(document: Mapping[str, Any]) -> Task[..., Any]:
    return DocumentedTask({"name": document.get("name") or document["slug"], **document})


def _flow(document: Mapping[str, Any]) -> Flow:
    flow = Flow(document["name"], run_config=document.get("run_config"), storage=document.get("storage"))
    if document.get("schedule") is not None:
        from .schedules.documents import deserialize_schedule

        flow.schedule = deserialize_schedule(document["schedule"])
    tasks: dict[str, Task[..., Any]] = {}
    for one in document.get("parameters") or ():
        tasks[one.get("slug") or one["name"]] = flow.add_task(deserialize_task({"required": True, **one}))
    for one in document.get("tasks") or ():
        if one["slug"] not in tasks:
            tasks[one["slug"]] = flow.add_task(DocumentedTask(one))
    for one in document.get("edges") or ():
        ends = (tasks[one[end]["slug"]] for end in ("upstream_task", "downstream_task"))
        edge = _edge(one, *ends)
        flow.add_edge(edge.upstream_task, edge.downstream_task, edge.key, edge.mapped, edge.flattened)
    if document.get("reference_tasks"):
        flow.set_reference_tasks(tasks[one["slug"]] for one in document["reference_tasks"])
    return flow


def _seconds(given: float | None) -> datetime.timedelta | None:
    return None if given is None else datetime.timedelta(seconds=given)


# -- functions -----------------------------------------------------------------------------------------

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    function_reference(function)["fn"]: function
    for module in (triggers, cache_validators)
    for name in module.__all__
    if callable(function := getattr(module, name)) and not isinstance(function, type)
}


class _Unknown:
    """A function of which only the name is known."""

    def __init__(self, reference: Mapping[str, Any]) -> None:
        self.reference = dict(reference)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = self.reference["fn"]
        raise FlowDefinitionError(f"the function {name!r} was read from a document, which holds no code")


def _function(reference: Mapping[str, Any] | None) -> Callable[..., Any] | None:
    if reference is None:
        return None
    known = _FUNCTIONS.get(reference["fn"])
    if known is None:
        return _Unknown(reference)
    kwargs = reference.get("kwargs")
    made: Callable[..., Any] = known(**kwargs) if kwargs else known
    return made
