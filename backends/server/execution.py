"""Executing an operation: its root fields one after the other, each answered whole by its resolver.

graphql-core parses and validates; completing values field by field is what it is slow at, and nothing here needs it.
A resolver returns its answer in the shape of the selection, so a list of a thousand rows is built once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from graphql import (
    GraphQLField,
    GraphQLSchema,
    VariableNode,
    execute_sync,
    get_argument_values,
    get_variable_values,
)
from graphql.execution.values import VariableValues

from .bulk_inputs import decode
from .errors import BadRequest, field_error
from .operation_cache import Documents, Field, Operation

__all__ = ["Execution", "GraphQLRequest", "Resolver", "Variables"]


class GraphQLRequest(msgspec.Struct, rename="camel"):
    """The body of a request. `variables` may be an object, or the text of one."""

    query: str
    variables: msgspec.Raw = msgspec.Raw(b"null")
    operation_name: str | None = None
    extensions: dict[str, msgspec.Raw] | None = None


@dataclasses.dataclass(slots=True)
class Variables:
    """The variables of one request: as they came, and as the schema reads them."""

    raw: Mapping[str, Any]
    coerced: VariableValues | None
    hot: Mapping[str, Any]
    """Inputs that were decoded straight into their records, by the name of the variable."""

    def record(self, field: Field) -> Any:
        """Return the input of `field` if it was decoded straight into its record, else None."""
        if not self.hot or not field.node.arguments:
            return None
        value = field.node.arguments[0].value
        return self.hot.get(value.name.value) if isinstance(value, VariableNode) else None

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
        call.authorize(operation.kind, field.name)
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
        given = _document(text)
        decoded = decode(operation.hot, given) if operation.hot is not None else None
        if decoded is not None:
            hot, others = decoded
            return self._coerced(operation, others, hot)
        # The general way says in GraphQL's words what is wrong with the variables, or finds that nothing is.
        return self._coerced(operation, _decoded(given), {})

    def _coerced(self, operation: Operation, raw: Mapping[str, Any], hot: Mapping[str, Any]) -> Variables:
        definitions = [
            definition
            for definition in operation.node.variable_definitions or ()
            if definition.variable.name.value not in hot
        ]
        if not definitions:
            return Variables({}, None, hot)
        coerced = get_variable_values(self._schema, definitions, dict(raw), max_errors=20, hide_suggestions=True)
        if isinstance(coerced, list):
            raise BadRequest.of(coerced, "GRAPHQL_VALIDATION_FAILED")
        # Filters are read as they came, because the order of their keys counts.
        return Variables({name: raw.get(name, value) for name, value in coerced.coerced.items()}, coerced, hot)


def _document(text: msgspec.Raw) -> bytes | msgspec.Raw:
    """Return the JSON document of the variables, which may be a text that holds it."""
    if bytes(memoryview(text)[:1]) != b'"':
        return text
    try:
        return msgspec.json.decode(text, type=str).encode() or b"null"
    except (msgspec.DecodeError, UnicodeError):
        raise BadRequest("The variables are not a JSON object.", "GRAPHQL_VALIDATION_FAILED") from None


def _decoded(text: bytes | msgspec.Raw) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any] | None) or {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadRequest("The variables are not a JSON object.", "GRAPHQL_VALIDATION_FAILED") from None
