"""The GraphQL schema: the reads generated from the tables, the operations from ``schema.graphql``."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import msgspec
from graphql import (
    GraphQLError,
    GraphQLScalarType,
    GraphQLSchema,
    StringValueNode,
    ValueNode,
    extend_schema,
    parse,
    value_from_ast_untyped,
)

from ..store.schema import PUBLIC, RELATIONS
from .descriptions import describe
from .filters import DIRECTIONS, OPERATORS, columns, kind

__all__ = ["build", "tables_sdl"]


@cache
def build() -> GraphQLSchema:
    """Return the schema that requests are validated against."""
    operations = resources.files(__package__ or __name__).joinpath("schema.graphql").read_text(encoding="utf-8")
    scalars = [
        GraphQLScalarType("UUID", parse_value=_uuid),
        GraphQLScalarType("DateTime", parse_value=_moment),
        GraphQLScalarType("JSON", parse_value=_document, parse_literal=_document_literal),
        GraphQLScalarType("JSONObject", parse_value=_object, parse_literal=_object_literal),
    ]
    made = {f"scalar {scalar.name}" for scalar in scalars}
    lines = [line for line in operations.splitlines() if line not in made]
    schema = extend_schema(GraphQLSchema(types=scalars), parse("\n".join([*lines, tables_sdl()])))
    describe(schema)
    return schema


def _uuid(value: Any) -> str:
    try:
        return str(uuid.UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise GraphQLError(f"{value!r} is not a UUID.") from None


def _moment(value: Any) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, TypeError, OverflowError):
        raise GraphQLError(f"{value!r} is not an ISO 8601 date and time.") from None


def _document(value: Any) -> Any:
    return value


def _document_literal(node: ValueNode, variables: dict[str, Any] | None = None) -> Any:
    if not isinstance(node, StringValueNode):
        return value_from_ast_untyped(node, variables)
    try:
        return msgspec.json.decode(node.value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise GraphQLError("A document is written as the text of its JSON.", node) from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GraphQLError("A JSON object is expected.")
    return value


def _object_literal(node: ValueNode, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    return _object(_document_literal(node, variables))


def tables_sdl() -> str:
    """Return the types, the filters and the root fields of all public tables."""
    parts = [f"enum order_by {{ {' '.join(DIRECTIONS)} }}", *_comparisons()]
    for table in PUBLIC:
        parts += _table(table)
    roots = "\n".join(line for table in PUBLIC for line in _roots(table))
    return "\n".join([*parts, f"extend type Query {{\n{roots}\n}}"])


def _comparisons() -> Iterator[str]:
    for name, operators in OPERATORS.items():
        lists = ("_has_keys_any", "_has_keys_all")
        fields = ["_is_null: Boolean"]
        for operator in operators:
            operand = "String" if operator == "_has_key" else "[String!]" if operator in lists else name
            fields.append(f"{operator}: {operand}")
        if name != "jsonb":
            fields += [f"_in: [{name}]", f"_nin: [{name}]"]
        yield f"input {name}_comparison_exp {{ {' '.join(fields)} }}"


def _page(table: str) -> str:
    return (
        f"where: {table}_bool_exp, order_by: [{table}_order_by], distinct_on: [{table}_select_column!], "
        "limit: Int, offset: Int"
    )


def _roots(table: str) -> Iterator[str]:
    yield f"{table}({_page(table)}): [{table}!]"
    yield f"{table}_by_pk(id: uuid!): {table}"
    yield f"{table}_aggregate({_page(table)}): {table}_aggregate"


def _table(table: str) -> Iterator[str]:
    shown = columns(table)
    plain = [f"{name}: {kind(column)}" for name, column in shown.items()]
    related: list[str] = []
    for item in RELATIONS[table]:
        if item.many:
            related.append(f"{item.name}({_page(item.table)}): [{item.table}!]")
            related.append(f"{item.name}_aggregate({_page(item.table)}): {item.table}_aggregate")
        else:
            related.append(f"{item.name}: {item.table}")
    yield f"type {table} {{ {' '.join([*plain, *related])} }}"

    conditions = [f"{name}: {kind(column)}_comparison_exp" for name, column in shown.items()]
    conditions += [f"{item.name}: {item.table}_bool_exp" for item in RELATIONS[table]]
    logic = f"_and: [{table}_bool_exp] _or: [{table}_bool_exp] _not: {table}_bool_exp"
    yield f"input {table}_bool_exp {{ {logic} {' '.join(conditions)} }}"

    orders = [f"{name}: order_by" for name, column in shown.items() if kind(column) != "jsonb"]
    orders += [f"{item.name}: {item.table}_order_by" for item in RELATIONS[table] if not item.many]
    yield f"input {table}_order_by {{ {' '.join(orders)} }}"

    distinct = [name for name, column in shown.items() if kind(column) != "jsonb"]
    yield f"enum {table}_select_column {{ {' '.join(distinct)} }}"

    ordered = ("Int", "String", "timestamptz")
    extremes = [f"{name}: {kind(column)}" for name, column in shown.items() if kind(column) in ordered]
    yield f"type {table}_extremes {{ {' '.join(extremes)} }}"
    yield (
        f"type {table}_aggregate_fields {{ count(columns: [{table}_select_column!], distinct: Boolean): Int "
        f"max: {table}_extremes min: {table}_extremes }}"
    )
    yield f"type {table}_aggregate {{ aggregate: {table}_aggregate_fields nodes: [{table}!] }}"
