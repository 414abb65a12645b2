"""Executing an operation: its root fields one after the other, each answered whole by its resolver.

graphql-core parses and validates; completing values field by field is what it is slow at, and nothing here needs it.
A resolver returns its answer in the shape of the selection, so a list of a thousand rows is built once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from graphql import GraphQLField, GraphQLSchema, execute_sync, get_argument_values, get_variable_values
from graphql.execution.values import VariableValues

from .documents import Documents, Field, Operation
from .errors import BadRequest, field_error
from .hot import HOT_INPUTS

__all__ = ["Execution", "GraphQLRequest", "Resolver", "Variables"]


class GraphQLRequest(msgspec.Struct, rename="camel"):
    """The body of a request. `variables` may be an object, or the text of one."""

    query: str
    variables: msgspec.Raw = msgspec.Raw(b"null")
    operation_name: str | None = None


@dataclasses.dataclass(slots=True)
class Variables:
    """The variables of one request: as they came, and as the schema reads them."""

    raw: Mapping[str, Any]
    coerced: VariableValues | None
    hot: Mapping[str, Any]
    """Inputs of hot fields that were decoded straight into their records, by response key."""

    def arguments(self, definition: GraphQLField, field: Field) -> dict[str, Any]:
        """Return the arguments of `field`, of the types the schema gives them."""
        return get_argument_values(definition, field.node, self.coerced, hide_suggestions=True)


Resolver = Callable[[Any, Field, Variables], Awaitable[Any]]
"""Called with the call (who asks, and what is left to spend), the field and the variables."""


class Execution:
    """Executes requests against a schema.

    Args:
        - schema: what documents are validated against
        - documents: where prepared documents are kept
        - resolvers: how each root field is answered, by name
    """

    def __init__(self, schema: GraphQLSchema, documents: Documents, resolvers: Mapping[str, Resolver]) -> None:
        self._schema = schema
        self._documents = documents
        self._resolvers = resolvers

    def prepare(self, request: GraphQLRequest) -> tuple[Operation, Variables]:
        """Return the operation that was asked for, and its variables.

        Raises:
            - BadRequest: if the document or the variables are not valid
        """
        operation = self._documents.get(request.query).operation(request.operation_name)
        return operation, self._variables(operation, request.variables)

    async def execute(self, operation: Operation, variables: Variables, call: Any) -> dict[str, Any]:
        """Return the answer: ``data``, and ``errors`` before it if a field failed."""
        data: dict[str, Any] = {}
        errors: list[dict[str, Any]] = []
        for field in operation.fields(variables.raw):
            try:
                data[field.key] = await self._resolve(operation, field, variables, call)
            except Exception as error:
                data[field.key] = None
                errors.append(field_error(error, field.node, field.key))
        return {"errors": errors, "data": data} if errors else {"data": data}

    async def _resolve(self, operation: Operation, field: Field, variables: Variables, call: Any) -> Any:
        if field.name == "__typename":
            return field.owner
        call.authorize(operation.kind)
        if field.name in ("__schema", "__type"):
            return self._introspect(operation, field, variables)
        return await self._resolvers[field.name](call, field, variables)

    def _introspect(self, operation: Operation, field: Field, variables: Variables) -> Any:
        result = execute_sync(
            self._schema,
            operation.document,
            variable_values=dict(variables.raw),
            operation_name=operation.node.name.value if operation.node.name else None,
        )
        if result.errors:
            raise result.errors[0]
        assert result.data is not None
        return result.data[field.key]

    def _variables(self, operation: Operation, text: msgspec.Raw) -> Variables:
        given = _decode_variables(text)
        hot: dict[str, Any] = {}
        skip: set[str] = set()
        for key, variable in (operation.plain_inputs or {}).items():
            record = HOT_INPUTS.get(_name_of(operation, key))
            if record is not None and variable in given:
                try:
                    hot[key] = msgspec.json.decode(given[variable], type=record)
                except msgspec.ValidationError:
                    # The general path says in GraphQL's words what is wrong, or finds that nothing is.
                    return self._general(operation, given, set(), {})
                skip.add(variable)
        return self._general(operation, given, skip, hot)

    def _general(
        self, operation: Operation, given: Mapping[str, msgspec.Raw], skip: set[str], hot: Mapping[str, Any]
    ) -> Variables:
        raw = {name: msgspec.json.decode(value) for name, value in given.items() if name not in skip}
        definitions = [
            definition
            for definition in operation.node.variable_definitions or ()
            if definition.variable.name.value not in skip
        ]
        if not definitions:
            return Variables({}, None, hot)
        coerced = get_variable_values(self._schema, definitions, raw, max_errors=20, hide_suggestions=True)
        if isinstance(coerced, list):
            messages = [error.message for error in coerced]
            raise BadRequest(messages[0], "GRAPHQL_VALIDATION_FAILED", messages[1:])
        defaults = {name: value for name, value in coerced.coerced.items() if name not in raw}
        known = {definition.variable.name.value for definition in definitions}
        return Variables({**defaults, **{name: raw[name] for name in raw if name in known}}, coerced, hot)


def _name_of(operation: Operation, key: str) -> str:
    return next(field.name for field in operation.fixed or () if field.key == key)


def _decode_variables(text: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        value: bytes | msgspec.Raw = text
        if bytes(memoryview(text)[:1]) == b'"':
            value = msgspec.json.decode(text, type=str).encode() or b"null"
        return msgspec.json.decode(value, type=dict[str, msgspec.Raw] | None) or {}
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise BadRequest("The variables are not a JSON object.", "GRAPHQL_VALIDATION_FAILED") from None
