"""The operations beside the reads of tables: each is the store's method of the same name.

An operation's answer is a document; what the query selected of it goes into the answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import metadata
from typing import Any

import msgspec
from graphql import GraphQLField, GraphQLSchema

from ...engine.errors import BackendRejected
from ...engine.state import State
from ..store import Outcome, Store, logs
from ..store.creation import NewFlowRun
from ..store.idempotency import once
from ..store.transitions import refused_in
from . import accounts, finding, summaries, work
from .bulk_inputs import state_updates
from .execution import Resolver, Variables
from .operation_cache import Field
from .projection import project
from .request import Call

__all__ = ["CORE_VERSION", "QUERIES", "resolvers", "version"]

CORE_VERSION = "1.4.1"
"""The version of the API that is spoken here."""

QUERIES = ("get_task_run_info", "mapped_children", "next_ready", "secret_value", "secret_names", "notifications")
"""The queries that the store answers."""

_LISTS = {"get_or_create_task_runs": "task_runs", "reserve_flow_runs": "flow_runs"}
"""The operations that answer with a list, and the field that shows it."""

_REPEATED: dict[str, Callable[..., Any]] = {
    "write_run_logs": logs.write_run_logs,
    "create_task_run_artifact": logs.create_task_run_artifact,
}
"""The operations that would leave something twice if their message came twice."""

_STATES = {"set_flow_run_states": "flow_run_id", "set_task_run_states": "task_run_id"}


def version() -> str:
    """Return the version of flowloop that is installed."""
    return metadata.version("flowloop")


def resolvers(schema: GraphQLSchema) -> dict[str, Resolver]:
    """Return how each operation of `schema.graphql` is answered, by its name."""
    assert schema.query_type is not None
    assert schema.mutation_type is not None
    answers: dict[str, Resolver] = {"hello": _hello, "api": _api, "reference_data": _reference_data}
    for name in QUERIES:
        answers[name] = _query(name, schema.query_type.fields[name])
    for name, definition in schema.mutation_type.fields.items():
        answers[name] = _set_states(name, definition) if name in _STATES else _mutation(name, definition)
    answers["start_flow_runs"] = _start_flow_runs(schema.mutation_type.fields["start_flow_runs"])
    for module in (accounts, summaries, work, finding):
        answers |= module.resolvers(schema)
    return answers


async def _hello(call: Call, field: Field, variables: Variables) -> Any:
    return "👋"


async def _api(call: Call, field: Field, variables: Variables) -> Any:
    facts = {
        "backend": "SERVER",
        "mode": "normal",
        "version": version(),
        "core_version": CORE_VERSION,
        "release_timestamp": None,
        "flowloop": version(),
    }
    return project(facts, field.fields)


async def _reference_data(call: Call, field: Field, variables: Variables) -> Any:
    facts = {
        "state_hierarchy": {"State": _children(State)},
        "state_info": {kind.__name__: {"color": kind.color} for kind in _descendants(State)},
    }
    return project(facts, field.fields)


def _children(kind: type[State]) -> dict[str, Any]:
    """Return the tree of states below `kind`; a class that no document names shows its children in its place."""
    tree: dict[str, Any] = {}
    for child in kind.__subclasses__():
        below = _children(child)
        tree.update(below if child.__name__.startswith("_") else {child.__name__: below})
    return tree


def _descendants(kind: type[State]) -> Iterator[type[State]]:
    for child in kind.__subclasses__():
        if not child.__name__.startswith("_"):
            yield child
        yield from _descendants(child)


def _query(name: str, definition: GraphQLField) -> Resolver:
    async def resolve(call: Call, field: Field, variables: Variables) -> Any:
        method = "list_notifications" if name == "notifications" else name
        answer = await getattr(call.store, method)(call.caller, **variables.arguments(definition, field))
        return project(answer, field.fields)

    return resolve


def _mutation(name: str, definition: GraphQLField) -> Resolver:
    async def resolve(call: Call, field: Field, variables: Variables) -> Any:
        given = variables.arguments(definition, field)["input"]
        # To leave an argument out and to give null for it are the same, as they are for the original server.
        given = {key: value for key, value in given.items() if value is not None}
        given |= {key: None for key in _required(name) if key not in given}
        if name in _REPEATED and call.idempotency_key is not None:
            key = f"{name}:{call.key_for(field)}"
            answer = await call.store.write(
                call.caller, lambda tx: once(tx, key, lambda inner: _REPEATED[name](inner, **given))
            )
        else:
            answer = await getattr(call.store, name)(call.caller, **given)
        return project({_LISTS[name]: answer} if name in _LISTS else answer, field.fields)

    return resolve


@cache
def _required(name: str) -> frozenset[str]:
    parameters = inspect.signature(getattr(Store, name)).parameters.values()
    keywords = (parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in keywords if parameter.default is parameter.empty)


def _set_states(name: str, definition: GraphQLField) -> Resolver:
    async def resolve(call: Call, field: Field, variables: Variables) -> Any:
        record = variables.record(field)
        if record is not None:
            updates = record.updates()
        else:
            updates = state_updates(variables.arguments(definition, field)["input"]["states"], _STATES[name])
        record_states, key, before = getattr(call.store, name), call.key_for(field), frozenset(call.refused)
        ids = {update.run_id for update in updates}
        call.refused |= ids  # until they are recorded
        outcomes = await record_states(call.caller, updates, idempotency_key=key, refused=before)
        call.refused -= ids - refused_in(outcomes)
        return {part.key: _outcomes(outcomes, part) for part in field.fields}

    return resolve


def _start_flow_runs(definition: GraphQLField) -> Resolver:
    async def resolve(call: Call, field: Field, variables: Variables) -> Any:
        items = variables.arguments(definition, field)["input"]["flow_runs"]
        requests = []
        for item in items:
            given = {key: value for key, value in item.items() if value is not None}
            if "state" in given:
                given["state"] = msgspec.json.encode(given["state"])
            requests.append(NewFlowRun(**given))
        answers = await call.store.start_flow_runs(call.caller, requests)
        rows = [
            {"status": "ERROR", "message": str(answer)}
            if isinstance(answer, BackendRejected)
            else {"status": "SUCCESS", **answer}
            for answer in answers
        ]
        return project({"flow_runs": rows}, field.fields)

    return resolve


def _outcomes(outcomes: Sequence[Outcome], part: Field) -> Any:
    """Return what became of each state.

    A client that does not select `code` or `version` cannot see that one state among others was refused, so for it
    the refusal is the failure of the whole field.
    """
    if part.name == "__typename":
        return part.owner
    names = [field.name for field in part.fields]
    if not ("code" in names or "version" in names):
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
    if "__typename" in names:
        shown = [
            {**msgspec.structs.asdict(outcome), "serialized_state": outcome.serialized_state} for outcome in outcomes
        ]
        return project(shown, part.fields)
    pairs = [(field.key, field.name) for field in part.fields]
    return [{key: getattr(outcome, name) for key, name in pairs} for outcome in outcomes]
