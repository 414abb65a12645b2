"""GraphQL documents: parsed, checked against the schema and the limits, and kept.

Validating a document costs a hundred times as much as executing one, so a document is prepared once per text.
What is kept of it is already in the shape that execution wants: an operation with the fields it selects, fragments
expanded and equal response keys merged.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSyntaxError,
    InlineFragmentNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    parse,
    validate,
)
from graphql.language import BooleanValueNode, FloatValueNode, IntValueNode, NullValueNode, StringValueNode

from .bulk_inputs import decoder
from .errors import BadRequest
from .settings import ServerSettings

__all__ = ["Document", "Documents", "Field", "Operation", "arguments", "literal"]

_LONGEST_KEPT = 16_000
_QUOTED = re.compile(r"'([^'\"]*)'")  # clients of this dialect read names in double quotes
_INTROSPECTION = {"__schema", "__type"}
_INTROSPECTION_FIELDS = 300


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A selected field: the key of its answer, its name, its first node, what is selected below it, and whose it is."""

    key: str
    name: str
    node: FieldNode
    fields: tuple[Field, ...]
    owner: str
    """The name of the type the field belongs to; it answers ``__typename``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A valid document: its operations by name."""

    operations: Mapping[str | None, Operation]

    def operation(self, name: str | None) -> Operation:
        """Return the operation called `name`, or the only one there is."""
        if name is not None and name in self.operations:
            return self.operations[name]
        if name is None and len(self.operations) == 1:
            return next(iter(self.operations.values()))
        wanted = "several operations: say which by operationName" if name is None else f"no operation named {name!r}"
        raise BadRequest(f"The document has {wanted}.", "GRAPHQL_VALIDATION_FAILED")


@dataclasses.dataclass(slots=True)
class Operation:
    """One operation of a document."""

    node: OperationDefinitionNode
    document: DocumentNode
    collector: _Collector
    fixed: tuple[Field, ...] | None
    hot: msgspec.json.Decoder[Any] | None = None
    """For a mutation that only takes whole inputs, some of them hot: what decodes its variables (see `hot`)."""

    @property
    def kind(self) -> str:
        """Return ``"query"``, ``"mutation"`` or ``"subscription"``."""
        return self.node.operation.value

    def fields(self, variables: Mapping[str, Any]) -> tuple[Field, ...]:
        """Return the root fields as `variables` include and skip them."""
        if self.fixed is not None:
            return self.fixed
        return self.collector.fields(self.node, variables)


class Documents:
    """Prepares documents, and remembers the ones asked for last."""

    def __init__(self, schema: GraphQLSchema, settings: ServerSettings) -> None:
        self._schema = schema
        self._settings = settings
        self._kept: OrderedDict[str, Document] = OrderedDict()

    def get(self, text: str) -> Document:
        """Return the document, parsed and checked.

        Raises:
            - BadRequest: if it cannot be parsed, does not fit the schema or passes a limit
        """
        known = self._kept.get(text)
        if known is not None:
            self._kept.move_to_end(text)
            return known
        document = self._prepare(text)
        if len(text) <= _LONGEST_KEPT:
            self._kept[text] = document
            if len(self._kept) > self._settings.document_cache:
                self._kept.popitem(last=False)
        return document

    def _prepare(self, text: str) -> Document:
        try:
            node = parse(text, max_tokens=self._settings.token_limit)
        except GraphQLSyntaxError as error:
            raise BadRequest.of([error], "GRAPHQL_PARSE_FAILED", "Syntax Error: {}".format) from None
        fragments = {
            definition.name.value: definition
            for definition in node.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        collector = _Collector(self._schema, fragments, self._settings)
        operations = [item for item in node.definitions if isinstance(item, OperationDefinitionNode)]
        # The limits come first: validating an enormous document is itself expensive.
        collected = [collector.fields(item, None) for item in operations]
        errors = validate(self._schema, node, max_errors=20, hide_suggestions=True)
        if errors:
            raise BadRequest.of(errors, "GRAPHQL_VALIDATION_FAILED", partial(_QUOTED.sub, r'"\1"'))
        fixed = "@" not in text
        return Document(
            {
                item.name.value if item.name else None: Operation(
                    node=item,
                    document=node,
                    collector=collector,
                    fixed=fields if fixed else None,
                    hot=decoder(_whole_inputs(item, fields)) if fixed else None,
                )
                for item, fields in zip(operations, collected, strict=True)
            }
        )


class _Collector:
    """Expands fragments and merges equal response keys, within the limits.

    It also runs on documents that are not validated yet, so it expects nothing of them. Without variables every
    ``@skip`` and ``@include`` is taken for included, so the limits hold whatever the variables are.
    """

    def __init__(
        self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode], limits: ServerSettings
    ) -> None:
        self._schema = schema
        self._fragments = fragments
        self._limits = limits

    def fields(self, operation: OperationDefinitionNode, variables: Mapping[str, Any] | None) -> tuple[Field, ...]:
        """Return the root fields of `operation`."""
        root = self._schema.get_root_type(operation.operation)
        budget = _Budget(self._limits.field_limit, self._limits.depth_limit)
        return self._merged([operation.selection_set], root, 1, variables, budget)

    def _merged(
        self,
        sets: list[SelectionSetNode],
        owner: GraphQLObjectType | None,
        depth: int,
        variables: Mapping[str, Any] | None,
        budget: _Budget,
    ) -> tuple[Field, ...]:
        if depth > budget.depth:
            raise BadRequest(f"The query nests deeper than the limit of {budget.depth}.", "GRAPHQL_VALIDATION_FAILED")
        merged: dict[str, list[FieldNode]] = {}
        seen: set[str] = set()
        for selections in sets:
            for node in self._nodes(selections, seen, variables, budget):
                merged.setdefault(node.alias.value if node.alias else node.name.value, []).append(node)
        for name, times in Counter(nodes[0].name.value for nodes in merged.values()).items():
            if times > 1 and (budget.once or name in _INTROSPECTION):
                raise BadRequest(f"The query asks for {name} more than once.", "GRAPHQL_VALIDATION_FAILED")
        fields: list[Field] = []
        for key, nodes in merged.items():
            name = nodes[0].name.value
            # The schema is large: nothing of it is told twice, and the validation rules limit how deep this may nest.
            inner = _Budget(_INTROSPECTION_FIELDS, 100, once=True) if name in _INTROSPECTION else budget
            below = [node.selection_set for node in nodes if node.selection_set]
            kind = self._type_below(owner, name)
            fields.append(
                Field(
                    key=key,
                    name=name,
                    node=nodes[0],
                    fields=self._merged(below, kind, depth + 1, variables, inner) if below else (),
                    owner=owner.name if owner else "",
                )
            )
        return tuple(fields)

    def _nodes(
        self,
        selections: SelectionSetNode,
        seen: set[str],
        variables: Mapping[str, Any] | None,
        budget: _Budget,
    ) -> Iterator[FieldNode]:
        for node in selections.selections:
            budget.spend()
            if not _included(node, variables):
                continue
            if isinstance(node, FieldNode):
                yield node
            elif isinstance(node, InlineFragmentNode):
                yield from self._nodes(node.selection_set, seen, variables, budget)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in seen:
                seen.add(node.name.value)
                fragment = self._fragments.get(node.name.value)
                if fragment is not None:
                    yield from self._nodes(fragment.selection_set, seen, variables, budget)

    @staticmethod
    def _type_below(owner: GraphQLObjectType | None, name: str) -> GraphQLObjectType | None:
        field = owner.fields.get(name) if owner else None
        kind = get_named_type(field.type) if field else None
        return kind if isinstance(kind, GraphQLObjectType) else None


class _Budget:
    """How many fields may still be selected, how deep, and whether each `once` only."""

    def __init__(self, fields: int, depth: int, *, once: bool = False) -> None:
        self.depth = depth
        self.once = once
        self._fields = fields
        self._left = fields

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BadRequest(f"The query selects more than {self._fields} fields.", "GRAPHQL_VALIDATION_FAILED")


def _included(node: SelectionNode, variables: Mapping[str, Any] | None) -> bool:
    if variables is None:
        return True
    for directive in node.directives or ():
        name = directive.name.value
        if name in ("skip", "include") and directive.arguments:
            value = literal(directive.arguments[0].value, variables)
            if bool(value) is (name == "skip"):
                return False
    return True


def _whole_inputs(operation: OperationDefinitionNode, fields: tuple[Field, ...]) -> Mapping[str, str]:
    """Return the mutation of each variable, where every root field is written ``name(input: $variable)``."""
    inputs: dict[str, str] = {}
    for field in fields:
        given = field.node.arguments or ()
        if len(given) != 1 or given[0].name.value != "input" or not isinstance(given[0].value, VariableNode):
            return {}
        inputs[given[0].value.name.value] = field.name
    definitions = operation.variable_definitions or ()
    plain = not any(definition.default_value for definition in definitions)
    return inputs if plain and len(inputs) == len(fields) == len(definitions) else {}


_UNSET: Any = object()


def literal(node: ValueNode, variables: Mapping[str, Any]) -> Any:
    """Return the value of a literal that validation has accepted, the order of its keys kept.

    A variable that was not given is left out of an object and stands for null elsewhere.
    """
    value = _value(node, variables)
    return None if value is _UNSET else value


def arguments(node: FieldNode, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a field that were given, each as `literal` reads it."""
    given = {argument.name.value: _value(argument.value, variables) for argument in node.arguments or ()}
    return {name: value for name, value in given.items() if value is not _UNSET}


def _value(node: ValueNode, variables: Mapping[str, Any]) -> Any:
    if isinstance(node, VariableNode):
        return variables.get(node.name.value, _UNSET)
    if isinstance(node, ObjectValueNode):
        pairs = ((field.name.value, _value(field.value, variables)) for field in node.fields)
        return {name: value for name, value in pairs if value is not _UNSET}
    if isinstance(node, ListValueNode):
        return [literal(item, variables) for item in node.values]
    if isinstance(node, NullValueNode):
        return None
    if isinstance(node, IntValueNode):
        return _integer(node)
    if isinstance(node, FloatValueNode):
        return float(node.value)
    if isinstance(node, (StringValueNode, BooleanValueNode)):
        return node.value
    return node.value  # type: ignore[attr-defined]  # an enum value, the only kind that is left


def _integer(node: IntValueNode) -> int:
    if len(node.value) > 20:
        raise GraphQLError(f"The number {node.value[:20]}... is too large.", node)
    return int(node.value)
