"""GraphQL requests by chance: mostly ones the schema has, with odd values, and some that are broken on purpose."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_list_type,
    is_non_null_type,
    is_required_input_field,
)

_TEXTS = (
    "",
    "a",
    "x" * 300,
    "%",
    "_",
    "'; DROP TABLE flow; --",
    '"',
    "\\",
    "\u0000",
    "😀",
    "Running",
    "{}",
    "[1]",
    "null",
)
_MOMENTS = (
    "2021-07-01T12:00:00",
    "2021-07-01",
    "2021-07-01T12:00:00+00:00",
    "now",
    "9999-12-31T23:59:59.999999-23:59",
    "0001-01-01T00:00:00+23:59",
    "",
)
_NUMBERS = (0, 1, -1, 2, 100, 2**31 - 1, -(2**31), 2**31, 2**63, 10**30)


_DOCUMENTS: tuple[Any, ...] = (
    {},
    [],
    1.5,
    "text",
    [None],
    {"a": [1, {"b": None}]},
    {"type": "Running"},
    {"type": "Nonsense"},
    {"type": "Scheduled", "start_time": "never", "cached_inputs": 7},
    {"slug": 1, "tags": 2},
    {"slug": "a-1", "retry_delay": "soon", "max_retries": "many"},
    {"upstream_task": {"slug": ["a"]}, "downstream_task": "b"},
    {"name": "f", "tasks": [1]},
    {"name": "f", "tasks": [{"slug": 1}], "edges": [{}], "parameters": [1]},
    {"name": "f", "parameters": {"a": 1}, "schedule": {"clocks": [{"type": "CronClock", "cron": "no"}]}},
    {"name": "f", "tasks": {"a": 1}, "run_config": {"labels": 5}, "storage": [], "__version__": [1]},
    {"name": "f", "schedule": [1], "environment": 3, "run_config": "x"},
)


class Grammar:
    """Makes requests.

    Args:
        - schema: what they are about
        - rng: the source of chance
        - ids: ids of rows that are there
    """

    def __init__(self, schema: GraphQLSchema, rng: random.Random, ids: Sequence[str]) -> None:
        self._schema = schema
        self._rng = rng
        self._ids = [*ids, "00000000-0000-4000-8000-000000000000", "nonsense", ""]

    def request(self) -> dict[str, Any]:
        """Return the body of a request."""
        rng = self._rng
        root = self._schema.mutation_type if rng.random() < 0.25 else self._schema.query_type
        assert root is not None
        word = "mutation" if root is self._schema.mutation_type else "query"
        fields = [self._selection(root, 0) for _ in range(rng.choice((1, 1, 1, 1, 3)))]
        if rng.random() < 0.05:
            return self._with_variable(root, word)
        text = f"{word} {{ {' '.join(fields)} }}"
        if rng.random() < 0.1:
            text = self._broken(text)
        return {"query": text, "variables": rng.choice((None, {}, "null", "{}", "", "[]", 7, {"a": 1}))}

    def _with_variable(self, root: GraphQLObjectType, word: str) -> dict[str, Any]:
        name, field = self._rng.choice([item for item in root.fields.items() if item[1].args])
        argument, definition = self._rng.choice(list(field.args.items()))
        text = f"{word} ($v: {definition.type}) {{ {name}({argument}: $v){self._below(field, 1)} }}"
        return {"query": text, "variables": {"v": self._value(definition.type, 0)}}

    def _broken(self, text: str) -> str:
        place = self._rng.randrange(len(text))
        return (
            text[:place]
            + self._rng.choice(("{", "}", "(", '"', "@skip(if: true)", "...", "$x", "", "\x07", "…"))
            + text[place + 1 :]
        )

    # -- documents ---------------------------------------------------------------------------------------------

    def _selection(self, kind: GraphQLObjectType, depth: int) -> str:
        rng = self._rng
        chance = rng.random()
        if chance < 0.03:
            return "__typename"
        if chance < 0.05:
            return rng.choice(("nothing", "__schema { queryType { name } }", "... on Query { hello }", "...missing"))
        name, field = rng.choice(list(kind.fields.items()))
        alias = f"{rng.choice('abc')}: " if rng.random() < 0.2 else ""
        directive = (
            rng.choice((" @skip(if: false)", " @include(if: true)", " @skip(if: true)")) if rng.random() < 0.05 else ""
        )
        return f"{alias}{name}{self._arguments(field)}{directive}{self._below(field, depth + 1)}"

    def _below(self, field: GraphQLField, depth: int) -> str:
        kind = get_named_type(field.type)
        if not isinstance(kind, GraphQLObjectType):
            return ""
        if depth > 3:
            return " { __typename }"
        return f" {{ {' '.join(self._selection(kind, depth) for _ in range(self._rng.choice((1, 1, 2))))} }}"

    def _arguments(self, field: GraphQLField) -> str:
        given: list[str] = []
        for name, definition in field.args.items():
            if is_non_null_type(definition.type) or self._rng.random() < 0.35:
                given.append(f"{name}: {_printed(self._value(definition.type, 0), definition.type)}")
        if self._rng.random() < 0.01:
            given.append("nonsense: 1")
        return f"({', '.join(given)})" if given else ""

    # -- values ------------------------------------------------------------------------------------------------

    def _value(self, kind: Any, depth: int) -> Any:
        rng = self._rng
        if is_non_null_type(kind):
            return self._value(kind.of_type, depth)
        if rng.random() < 0.06:
            return None
        if rng.random() < 0.02:
            return rng.choice((1, "text", [], {}, True, [[[]]]))
        if is_list_type(kind):
            if rng.random() < 0.2:
                return self._value(kind.of_type, depth)
            return [self._value(kind.of_type, depth + 1) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
        if isinstance(kind, GraphQLInputObjectType):
            return self._object(kind, depth)
        if isinstance(kind, GraphQLEnumType):
            return rng.choice(list(kind.values))
        return self._scalar(kind.name)

    def _object(self, kind: GraphQLInputObjectType, depth: int) -> dict[str, Any]:
        fields = list(kind.fields.items())
        wanted = [name for name, field in fields if is_required_input_field(field)]
        if depth < 6:
            wanted += self._rng.sample([name for name, _ in fields], min(len(fields), self._rng.choice((0, 0, 1, 1))))
        return {name: self._value(kind.fields[name].type, depth + 1) for name in dict.fromkeys(wanted)}

    def _scalar(self, name: str) -> Any:
        rng = self._rng
        if name in ("uuid", "UUID"):
            return rng.choice(self._ids)
        if name in ("timestamptz", "DateTime"):
            return rng.choice(_MOMENTS)
        if name == "Int":
            return rng.choice(_NUMBERS)
        if name == "Float":
            return rng.choice((0.0, -1.5, 1e30))
        if name == "Boolean":
            return rng.random() < 0.5
        if name in ("JSON", "JSONObject", "jsonb"):
            return rng.choice(_DOCUMENTS)
        return rng.choice(_TEXTS)


def _printed(value: Any, kind: Any) -> str:
    """Return a value as a literal."""
    if is_non_null_type(kind):
        return _printed(value, kind.of_type)
    if is_list_type(kind) and isinstance(value, list):
        return f"[{', '.join(_printed(item, kind.of_type) for item in value)}]"
    if isinstance(kind, GraphQLInputObjectType) and isinstance(value, dict):
        pairs = (
            f"{name}: {_printed(item, kind.fields[name].type)}" for name, item in value.items() if name in kind.fields
        )
        return f"{{{', '.join(pairs)}}}"
    if isinstance(kind, GraphQLEnumType) and isinstance(value, str):
        return value
    text = msgspec.json.encode(value).decode()
    if getattr(kind, "name", "") in ("JSON", "JSONObject"):
        return msgspec.json.encode(text).decode()
    return text if not isinstance(value, dict) else "{}"
