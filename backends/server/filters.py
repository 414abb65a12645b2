"""From the filters and orders of a query to SQL expressions.

The language is the part of Hasura's that clients of the Prefect 1 API use. Two of its rules surprise: a comparison
with null is no condition at all, and an empty object is always true.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from ...engine.errors import BackendRejected
from ...engine.lifecycle import ATTENTION
from ..store.schema import RELATIONS, Relation, StateText, UtcDateTime, metadata

__all__ = ["DIRECTIONS", "OPERATORS", "Filter", "Term", "columns", "kind", "relation", "value"]

Expression = sa.ColumnElement[Any]
Rows = sa.FromClause

CONDITION_LIMIT = 400
VALUE_LIMIT = 20_000
DEPTH_LIMIT = 20
# SQLite takes 1,000 levels of an expression and 32,766 parameters.

_KINDS: tuple[tuple[type, str], ...] = (
    (UtcDateTime, "timestamptz"),
    (StateText, "jsonb"),
    (sa.JSON, "jsonb"),
    (sa.Integer, "Int"),
    (sa.Boolean, "Boolean"),
)

DIRECTIONS: Mapping[str, Callable[[Expression], Expression]] = {
    "asc": lambda column: column.asc().nulls_last(),
    "asc_nulls_first": lambda column: column.asc().nulls_first(),
    "asc_nulls_last": lambda column: column.asc().nulls_last(),
    "desc": lambda column: column.desc().nulls_first(),
    "desc_nulls_first": lambda column: column.desc().nulls_first(),
    "desc_nulls_last": lambda column: column.desc().nulls_last(),
}
"""The words of ``order_by``; nulls count as larger than every value, as in PostgreSQL."""

_COMPARISONS: Mapping[str, Callable[[Expression, Any], Expression]] = {
    "_eq": lambda column, given: column == given,
    "_neq": lambda column, given: column != given,
    "_gt": lambda column, given: column > given,
    "_gte": lambda column, given: column >= given,
    "_lt": lambda column, given: column < given,
    "_lte": lambda column, given: column <= given,
}
_PATTERNS: Mapping[str, Callable[[Expression, str], Expression]] = {
    "_like": lambda column, given: column.like(given, escape="\\"),
    "_nlike": lambda column, given: column.notlike(given, escape="\\"),
    "_ilike": lambda column, given: column.ilike(given, escape="\\"),
    "_nilike": lambda column, given: column.notilike(given, escape="\\"),
}

OPERATORS: Mapping[str, tuple[str, ...]] = {
    "uuid": ("_eq", "_neq", "_gt", "_gte", "_lt", "_lte"),
    "String": (*_COMPARISONS, *_PATTERNS),
    "Int": tuple(_COMPARISONS),
    "Boolean": ("_eq", "_neq"),
    "timestamptz": tuple(_COMPARISONS),
    "jsonb": ("_contains", "_has_key", "_has_keys_any", "_has_keys_all"),
}
"""The operators of each kind of column, beside ``_is_null`` and (for all but documents) ``_in`` and ``_nin``."""


class Term(NamedTuple):
    """One term of an order: the column it is (None if it belongs to another table), its value and its direction."""

    column: str | None
    expression: Expression
    direction: str

    @property
    def clause(self) -> Expression:
        """What goes into ORDER BY."""
        return DIRECTIONS[self.direction](self.expression)


def columns(table: str) -> dict[str, sa.Column[Any]]:
    """Return the columns of a table that an answer may show, by name."""
    return {column.name: column for column in metadata.tables[table].columns if not column.info.get("internal")}


def kind(column: sa.ColumnElement[Any]) -> str:
    """Return the GraphQL scalar of a column."""
    for base, name in _KINDS:
        if isinstance(column.type, base):
            return name
    return "uuid" if isinstance(column.type, sa.String) and column.type.length == 36 else "String"


def relation(table: str, name: str) -> Relation | None:
    """Return the relation called `name` of a table, if it has one."""
    return next((item for item in RELATIONS[table] if item.name == name), None)


def value(column: sa.Column[Any], given: Any) -> Any:
    """Return a value from a query as the column takes it.

    Raises:
        - BackendRejected: if it is not a value of the column's type
    """
    name = kind(column)
    try:
        if name == "uuid":
            return str(uuid.UUID(given))
        if name == "timestamptz":
            moment = datetime.datetime.fromisoformat(given)
            return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise BackendRejected(f'invalid input syntax for type {name}: "{given}"') from None
    if name == "String" and not isinstance(given, str):
        raise BackendRejected(f"{column.name} is compared with a String, not with {given!r}")
    if isinstance(given, str) and "\x00" in given:
        raise BackendRejected(f"{column.name} is compared with a text that holds a null character")
    return given


class Filter:
    """Turns the filters and the orders of one request into expressions, up to a limit of conditions.

    Args:
        - dialect: the kind of database, ``"sqlite"`` or ``"postgresql"``
    """

    def __init__(self, dialect: str) -> None:
        self._postgresql = dialect == "postgresql"
        self._conditions = CONDITION_LIMIT
        self._values = VALUE_LIMIT

    def where(self, table: str, rows: Rows, given: Any, depth: int = 0, *, by_id: bool = False) -> Expression | None:
        """Return the condition that a filter sets on the rows of a table, or None if it sets none.

        Args:
            - table: the name of the table
            - rows: the table, or an alias of it, that the condition is about
            - given: the filter as the query wrote it
            - depth: how deep in its filter it is
            - by_id: whether the ids around it narrow the rows down already

        Raises:
            - BackendRejected: if a value is not one of its column's type, or the filter passes a limit
        """
        if depth > DEPTH_LIMIT:
            raise BackendRejected(f"a filter may nest {DEPTH_LIMIT} levels deep at most")
        found: list[Expression] = []
        by_id = by_id or _narrows(given)
        for name, inner in (given or {}).items():
            if inner is not None:
                found += self._conditions_of(table, rows, name, inner, depth, by_id)
        if not found:
            return None
        return found[0] if len(found) == 1 else sa.and_(*found)

    def order(self, table: str, rows: Rows, given: Any, depth: int = 0) -> list[Term]:
        """Return the terms of an order.

        Args:
            - table: the name of the table
            - rows: the table, or an alias of it, whose rows are ordered
            - given: the order as the query wrote it: an object whose keys count in their order, or a list of such
            - depth: how deep in its order it is
        """
        terms: list[Term] = []
        for item in _listed(given) if given is not None else []:
            for name, wanted in (item or {}).items():
                self._spend(depth)
                leads = relation(table, name)
                if wanted is None:
                    continue
                if leads is None:
                    terms.append(Term(name, rows.c[name], wanted))
                    continue
                other = metadata.tables[leads.table].alias()
                joined = other.c[leads.remote] == rows.c[leads.local]
                for term in self.order(leads.table, other, wanted, depth + 1):
                    inner = sa.select(term.expression).where(joined).correlate(rows).scalar_subquery()
                    terms.append(Term(None, inner, term.direction))
        return terms

    def _spend(self, depth: int, values: int = 1) -> None:
        self._conditions -= 1
        self._values -= values
        if self._conditions < 0 or self._values < 0 or depth > DEPTH_LIMIT:
            raise BackendRejected(
                f"the filters and orders of one request may have {CONDITION_LIMIT} conditions and "
                f"{VALUE_LIMIT} values at most, {DEPTH_LIMIT} levels deep"
            )

    def _conditions_of(
        self, table: str, rows: Rows, name: str, given: Any, depth: int, by_id: bool
    ) -> list[Expression]:
        self._spend(depth)
        if name == "_and":
            listed = _listed(given)
            by_id = by_id or any(map(_narrows, listed))
            found = [self.where(table, rows, item, depth + 1, by_id=by_id) for item in listed]
            return [item for item in found if item is not None]
        if name == "_or":
            found = [self.where(table, rows, item, depth + 1, by_id=by_id) for item in _listed(given)]
            real = [item for item in found if item is not None]
            # One alternative without conditions is true, and so is the whole.
            return [sa.or_(sa.false(), *real)] if len(real) == len(found) else []
        if name == "_not":
            inner = self.where(table, rows, given, depth + 1, by_id=by_id)
            return [sa.false() if inner is None else sa.not_(inner)]
        leads = relation(table, name)
        if leads is not None:
            return [self._related(rows, leads, given, depth, by_id)]
        column = metadata.tables[table].columns[name]
        listed = [
            self._compare(rows.c[name], column, operator, operand, depth)
            for operator, operand in given.items()
            if operand is not None
        ]
        if table == "task_run" and name == "state":
            listed += _by_attention(rows, given)
        return listed

    def _related(self, rows: Rows, leads: Relation, given: Any, depth: int, by_id: bool) -> Expression:
        """Return the condition that a row has a related one.

        SQLite goes through the whole table for an EXISTS. Where a relation leads to one row, a list of ids lets it
        begin at the other end; not where ids narrow the table down already.
        """
        other = metadata.tables[leads.table].alias()
        inner = self.where(leads.table, other, given, depth + 1)
        conditions = [] if inner is None else [inner]
        local, remote = rows.c[leads.local], other.c[leads.remote]
        if leads.many or by_id:
            found = sa.select(sa.literal(1)).select_from(other).where(remote == local, *conditions)
            return found.correlate(rows).exists()
        listed = local.in_(sa.select(remote).where(*conditions))
        # NULL IN (…) is neither true nor false, and would stay so under _not.
        return sa.and_(local.is_not(None), listed) if local.nullable else listed

    def _compare(
        self, expression: Expression, column: sa.Column[Any], operator: str, operand: Any, depth: int
    ) -> Expression:
        self._spend(depth)
        if operator == "_is_null":
            return expression.is_(None) if operand else expression.is_not(None)
        if operator in ("_in", "_nin"):
            values = [value(column, item) for item in _listed(operand) if item is not None]
            self._spend(depth, len(values))
            if operator == "_in":
                return expression.in_(values) if values else sa.false()
            return expression.not_in(values) if values else sa.true()
        if operator in _COMPARISONS:
            return _COMPARISONS[operator](expression, value(column, operand))
        if operator in _PATTERNS:
            return _PATTERNS[operator](expression, value(column, operand))
        if operator == "_contains":
            return self._contains(expression, _parsed(operand), depth)
        conditions = [self._has_key(expression, str(key)) for key in _listed(operand)]
        self._spend(depth, len(conditions))
        return sa.or_(sa.false(), *conditions) if operator == "_has_keys_any" else sa.and_(sa.true(), *conditions)

    # -- documents -----------------------------------------------------------------------------------------

    def _has_key(self, expression: Expression, key: str) -> Expression:
        if self._postgresql:
            held: Expression = sa.cast(expression, postgresql.JSONB).has_key(key)
            return held
        entry = _entries(expression)
        found = sa.case((sa.func.json_type(expression) == "array", entry.c.value), else_=entry.c.key)
        return sa.select(sa.literal(1)).select_from(entry).where(found == key).exists()

    def _contains(self, expression: Expression, wanted: Any, depth: int) -> Expression:
        if self._postgresql:
            inner = sa.cast(sa.literal(msgspec.json.encode(wanted).decode(), sa.Text), postgresql.JSONB)
            held: Expression = sa.cast(expression, postgresql.JSONB).contains(inner)
            return held
        document, json_type = sa.func.json_extract(expression, "$"), sa.func.json_type(expression)
        inside = self._holds(document, json_type, wanted, depth)
        if isinstance(wanted, dict | list):
            return inside
        # A list contains a plain value that is one of its items.
        return sa.or_(inside, self._holds(document, json_type, [wanted], depth))

    def _holds(self, document: Expression, json_type: Expression, wanted: Any, depth: int) -> Expression:
        """Return the condition that a SQLite document, given with its type, contains `wanted`."""
        self._spend(depth)
        if isinstance(wanted, dict | list):
            conditions = [json_type == ("object" if isinstance(wanted, dict) else "array")]
            items = wanted.items() if isinstance(wanted, dict) else ((None, item) for item in wanted)
            for key, inner in items:
                entry = _entries(sa.case((conditions[0], document), else_="[]"))
                found = sa.select(sa.literal(1)).select_from(entry)
                found = found.where(self._holds(entry.c.value, entry.c.type, inner, depth + 1))
                conditions.append((found if key is None else found.where(entry.c.key == key)).exists())
            return sa.and_(*conditions)
        if wanted is None:
            return json_type == "null"
        if isinstance(wanted, bool):
            return json_type == ("true" if wanted else "false")
        if isinstance(wanted, str):
            return sa.and_(json_type == "text", document == sa.literal(wanted, sa.Text))
        return sa.and_(json_type.in_(["integer", "real"]), document == sa.literal(wanted, sa.Float))


def _by_attention(rows: Rows, given: Mapping[str, Any]) -> list[Expression]:
    """Say once more which states are asked for, in the words of an index, if it has them all."""
    listed = given.get("_in")
    for wanted in ([given.get("_eq")], _listed(listed)):
        if ATTENTION.issuperset(wanted) and wanted:
            return [rows.c.attention.in_(wanted)]
    return []


def _entries(document: Expression) -> sa.TableValuedAlias:
    return sa.func.json_each(document).table_valued("key", "value", "type").alias()


def _narrows(given: Any) -> bool:
    """Whether a filter asks for some ids, or a range of them."""
    wanted = (given or {}).get("id") or {}
    return not wanted.keys().isdisjoint(("_eq", "_in", "_gt", "_gte", "_lt", "_lte"))


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _parsed(operand: Any) -> Any:
    """Return the document that is looked for: a literal may also write it as the text of a document."""
    if isinstance(operand, str):
        try:
            return msgspec.json.decode(operand)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return operand
    return operand
