"""What the schema says of itself: taken from the docstrings of what answers, so that it is written once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from graphql import GraphQLSchema, is_input_object_type

from ..store import Store
from ..store.schema import PUBLIC

__all__ = ["describe"]

_SCALARS = {
    "UUID": "A UUID as text.",
    "uuid": "A UUID as text.",
    "DateTime": "A date and time in ISO 8601; without an offset it is UTC.",
    "timestamptz": "A date and time in ISO 8601; without an offset it is UTC.",
    "JSON": "Any JSON document; in the text of a query it is written as a string that holds it.",
    "jsonb": "Any JSON document; in the text of a query it is written as a string that holds it.",
    "JSONObject": "A JSON object; in the text of a query it is written as a string that holds it.",
    "order_by": "The order of a column; nulls count as larger than every value.",
    "Query": "What can be read: the tables, and what is put together from several of them.",
    "Mutation": "What can be changed. The fields of one request are executed in their order, and fail alone.",
    "Subscription": "What is told when it changes, over a WebSocket (graphql-transport-ws) or as an event stream.",
}
_TABLES = {
    "bool_exp": "Which rows of {table}: all given conditions hold.",
    "order_by": "The order of rows of {table}; the keys of one object count in their order.",
    "select_column": "The columns of {table}.",
    "extremes": "The values of one end of the columns of {table}.",
    "aggregate_fields": "Numbers over rows of {table}.",
    "aggregate": "Rows of {table}, and numbers over them.",
}
_ARGUMENT = re.compile(r"^\s*- (\w+): (.*?)(?=^\s*- \w+: |^\s*\w+:\s*$|\Z)", re.MULTILINE | re.DOTALL)


def describe(schema: GraphQLSchema) -> None:
    """Describe the types and fields of a schema that `schema.graphql` says nothing of."""
    for name, kind in schema.type_map.items():
        if kind.description is None and not name.startswith("__"):
            kind.description = _SCALARS.get(name) or _of_table(name) or _of_operation(name)
        if is_input_object_type(kind) and name.endswith("_input"):
            for argument, text in _arguments(name.removesuffix("_input")).items():
                if argument in kind.fields and kind.fields[argument].description is None:
                    kind.fields[argument].description = text
    for root in (schema.query_type, schema.mutation_type):
        assert root is not None
        for name, field in root.fields.items():
            if field.description is None:
                field.description = _of_root(name) or _summary(name)
    for table in PUBLIC:
        _describe_columns(schema.type_map[table], table)


def _describe_columns(kind: Any, table: str) -> None:
    for name, field in kind.fields.items():
        if field.description is None:
            words = name.removesuffix("_aggregate").replace("_", " ")
            is_aggregate = name.endswith("_aggregate")
            field.description = f"Numbers over the {words} of the {table}." if is_aggregate else f"The {words}."


def _of_table(name: str) -> str | None:
    if name in PUBLIC:
        return f"A row of the table {name}."
    for suffix, text in _TABLES.items():
        table = name.removesuffix(f"_{suffix}")
        if table != name and table in PUBLIC:
            return text.format(table=table)
    if name.endswith("_comparison_exp"):
        return f"Conditions on a value of the type {name.removesuffix('_comparison_exp')}; all given ones hold."
    return None


def _of_root(name: str) -> str | None:
    if name in PUBLIC:
        return f"Rows of the table {name}: those that `where` chooses, in the order of `order_by`."
    if name.removesuffix("_by_pk") in PUBLIC:
        return f"The row of the table {name.removesuffix('_by_pk')} with this id."
    if name.removesuffix("_aggregate") in PUBLIC:
        return f"Numbers over rows of the table {name.removesuffix('_aggregate')}."
    return None


def _of_operation(name: str) -> str:
    for suffix, verb in (("_input", "takes"), ("_payload", "answers"), ("_result", "answers")):
        if name.endswith(suffix):
            return f"What {name.removesuffix(suffix)} {verb}."
    return f"A {name.replace('_', ' ')}."


def _docstring(operation: str) -> str:
    return inspect.getdoc(getattr(Store, operation, None)) or ""


def _summary(operation: str) -> str:
    first = _docstring(operation).partition("\n\n")[0].replace("\n", " ")
    return first.partition("; see ")[0].rstrip(".") + "." if first else f"The {operation.replace('_', ' ')}."


def _arguments(operation: str) -> Mapping[str, str]:
    found = _ARGUMENT.findall(_docstring(operation).partition("Args:\n")[2].partition("\n\n")[0])
    return {name: " ".join(text.split()) for name, text in found}
