"""Reading tables: one SQL statement for each level of a query, whatever it selects.

Documents leave the database as text and go into the answer as they are. Moments do too on SQLite, which keeps them
in the form that an answer shows.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.errors import BackendRejected
from ..store.schema import PUBLIC, Relation, metadata
from .database import reading
from .execution import Resolver, Variables
from .filters import Filter, Term, columns, kind, relation
from .operation_cache import Field, arguments
from .request import Budget, Call

__all__ = ["Reader", "resolvers"]

_CHUNK = 2_000
_PARTITION = 500
_SMALL = 100
_EXTREMES = ("Int", "String", "timestamptz")

Record = dict[str, Any]
Decode = Callable[[Any], Any]


def resolvers() -> dict[str, Resolver]:
    """Return how the root fields of every public table are answered, by their names."""
    answers: dict[str, Resolver] = {}
    for table in PUBLIC:
        answers[table] = _root(table, Reader.rows)
        answers[f"{table}_by_pk"] = _root(table, Reader.by_pk)
        answers[f"{table}_aggregate"] = _root(table, Reader.aggregate)
    return answers


def _root(table: str, read: Callable[..., Awaitable[Any]]) -> Resolver:
    async def resolve(call: Call, field: Field, variables: Variables) -> Any:
        tenants = call.tenants(table)
        async with reading(call.store, call.budget.seconds) as connection:
            return await read(Reader(connection, variables.raw, call.budget), table, field, tenants)

    return resolve


class Reader:
    """Reads what the fields of one request select.

    Args:
        - connection: where to read
        - variables: the variables of the request
        - budget: how much it may read
    """

    def __init__(self, connection: AsyncConnection, variables: Mapping[str, Any], budget: Budget) -> None:
        self._connection = connection
        self._variables = variables
        self._budget = budget
        self.dialect = connection.dialect.name
        self._filter = Filter(self.dialect)

    async def rows(self, table: str, field: Field, tenants: Sequence[str] | None) -> list[Record]:
        """Return the rows a root field selects, of `tenants` only (None: of all)."""
        query = _Query(self, table, self._arguments(field), tenants=tenants)
        return await self._level(query, field.fields)

    async def by_pk(self, table: str, field: Field, tenants: Sequence[str] | None) -> Record | None:
        """Return the one row a root field asks for by its id."""
        given = {"where": {"id": {"_eq": self._arguments(field)["id"]}}, "limit": 1}
        found = await self._level(_Query(self, table, given, tenants=tenants), field.fields)
        return found[0] if found else None

    async def aggregate(self, table: str, field: Field, tenants: Sequence[str] | None) -> Record:
        """Return the aggregates a root field selects."""
        query = _Query(self, table, self._arguments(field), tenants=tenants)
        return (await self._aggregates(query, field, [None]))[None]

    # -- one level -----------------------------------------------------------------------------------------

    async def _level(self, query: _Query, fields: Sequence[Field]) -> list[Record]:
        return [record for _, record in await self._grouped(query, fields)]

    async def _grouped(self, query: _Query, fields: Sequence[Field]) -> list[tuple[Any, Record]]:
        """Read the rows of a query and everything below them; each comes with the value it is grouped by."""
        shown = columns(query.table)
        needed = {field.name for field in fields if field.name in shown}
        below = [(field, leads) for field in fields if (leads := _leads(query.table, field.name))]
        needed.update(leads.local for _, leads in below)
        names = sorted(needed)
        place = {name: number for number, name in enumerate(names)}
        decoders = [(place[name], decode) for name in names if (decode := self._decoder(shown[name]))]

        plain = [(field.key, place[field.name]) for field in fields if field.name in shown]
        constant = {field.key: field.owner for field in fields if field.name == "__typename"}
        records: list[tuple[Any, Record]] = []
        links: list[Sequence[Any]] = []
        for found in await self._fetch(query.select(names), query.at_most):
            values = list(found)
            for number, decode in decoders:
                if values[number] is not None:
                    values[number] = decode(values[number])
            records.append((values[-1], constant | {key: values[number] for key, number in plain}))
            links.append(values)

        for field, leads in below:
            parents = [(values[place[leads.local]], record) for values, (_, record) in zip(links, records, strict=True)]
            await self._attach(leads, field, parents)
        return records

    async def _attach(self, leads: Relation, field: Field, parents: Sequence[tuple[Any, Record]]) -> None:
        """Read what a relation leads to, for all parents at once, and put it into them."""
        keys = sorted({key for key, _ in parents if key is not None})
        given = self._arguments(field)
        found: dict[Any, Any] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            query = _Query(self, leads.table, given, group=leads.remote, keys=chunk)
            if field.name.endswith("_aggregate"):
                found.update(await self._aggregates(query, field, chunk))
            elif leads.many:
                for key, record in await self._grouped(query, field.fields):
                    found.setdefault(key, []).append(record)
            else:
                found.update(await self._grouped(query, field.fields))
        many = leads.many and not field.name.endswith("_aggregate")
        for key, parent in parents:
            parent[field.key] = found.get(key, []) if many else found.get(key)

    # -- aggregates ----------------------------------------------------------------------------------------

    async def _aggregates(self, query: _Query, field: Field, keys: Sequence[Any]) -> dict[Any, Record]:
        """Return the aggregates for each of `keys`, the values that the rows are grouped by."""
        answer: dict[Any, Record] = {key: {} for key in keys}
        for part in field.fields:
            if part.name == "nodes":
                for record in answer.values():
                    record[part.key] = []
                for key, record in await self._grouped(query, part.fields):
                    answer[key][part.key].append(record)
            elif part.name == "aggregate":
                for key, record in (await self._counted(query, part.fields, keys)).items():
                    answer[key][part.key] = record
            else:
                for record in answer.values():
                    record[part.key] = part.owner
        return answer

    async def _counted(self, query: _Query, fields: Sequence[Field], keys: Sequence[Any]) -> dict[Any, Record]:
        numbers = list(self._numbers(query, fields))
        names = {name for number in numbers for name in number.columns}
        rows = query.select(sorted(names)).subquery()
        terms = [number.over(rows) for number in numbers]
        group = rows.c[query.group_label]
        statement = sa.select(*terms, group).group_by(group) if query.grouped else sa.select(*terms, sa.null())
        found = await self._fetch(statement.select_from(rows), len(keys) + 1)
        counted = {values[-1]: values for values in found}
        return {key: _aggregate_record(fields, numbers, counted.get(key)) for key in keys}

    def _numbers(self, query: _Query, fields: Sequence[Field]) -> Iterator[_Number]:
        shown = columns(query.table)
        for field in fields:
            if field.name == "count":
                yield self._count(field)
            for column in field.fields:
                if column.name in shown:
                    over = partial(_extreme, field.name, column.name)
                    yield _Number(field, column, (column.name,), over, self._decoder(shown[column.name]))

    def _count(self, field: Field) -> _Number:
        given = self._arguments(field)
        names = given.get("columns") or []
        names = names if isinstance(names, list) else [names]
        over = partial(_counter, tuple(names), bool(given.get("distinct")))
        return _Number(field, None, tuple(names), over, None)

    # -- rows ----------------------------------------------------------------------------------------------

    async def _fetch(self, statement: sa.Select[Any], at_most: int | None) -> list[Sequence[Any]]:
        room = self._budget.rows + 1
        if at_most is None or at_most > room:
            statement = statement.limit(room)
        if at_most is not None and at_most <= _SMALL:
            rows: list[Sequence[Any]] = list((await self._connection.execute(statement)).all())
            self._budget.spend(rows)
            return rows
        rows = []
        async with self._connection.stream(statement) as result:
            async for partition in result.partitions(_PARTITION):
                self._budget.spend(partition)
                rows += partition
        return rows

    def _decoder(self, column: sa.Column[Any]) -> Decode | None:
        name = kind(column)
        if name == "jsonb":
            return _raw
        if name == "timestamptz" and self.dialect == "postgresql":
            return _iso
        return None

    def _arguments(self, field: Field) -> dict[str, Any]:
        return arguments(field.node, self._variables)

    def filter(self) -> Filter:
        """Return what turns the filters of this request into SQL."""
        return self._filter


class _Number(NamedTuple):
    """One number of an aggregate: whose it is, what it needs, and how it is computed and shown."""

    field: Field
    column: Field | None
    columns: tuple[str, ...]
    over: Callable[[sa.FromClause], sa.ColumnElement[Any]]
    decode: Decode | None


def _extreme(function: str, name: str, rows: sa.FromClause) -> sa.ColumnElement[Any]:
    return sa.func.max(rows.c[name]) if function == "max" else sa.func.min(rows.c[name])


def _counter(names: Sequence[str], distinct: bool, rows: sa.FromClause) -> sa.ColumnElement[Any]:
    """Count the rows in which none of the columns is null, or how many combinations of values they hold."""
    found = [rows.c[name] for name in names]
    if not found:
        return sa.func.count()
    if len(found) == 1:
        return sa.func.count(sa.distinct(found[0])) if distinct else sa.func.count(found[0])
    # a row of several values is none that both databases count: a text that tells each from its neighbours is
    values = [sa.cast(column, sa.Text) for column in found]
    parts = [sa.cast(sa.func.length(value), sa.Text).concat(":").concat(value) for value in values]
    told = reduce(lambda before, part: before.concat(part), parts)
    return sa.func.count(sa.distinct(told)) if distinct else sa.func.count(told)


def _aggregate_record(fields: Sequence[Field], numbers: Sequence[_Number], values: Sequence[Any] | None) -> Record:
    """Return the aggregates of one group; without `values` there is no row in it."""
    record: Record = {field.key: {} if field.fields else field.owner for field in fields}
    for place, number in enumerate(numbers):
        value = values[place] if values is not None else None
        if number.column is None:
            record[number.field.key] = value or 0
        else:
            shown = number.decode(value) if number.decode is not None and value is not None else value
            record[number.field.key][number.column.key] = shown
    for field in fields:
        for column in field.fields:
            if column.name == "__typename":
                record[field.key][column.key] = column.owner
    return record


class _Query:
    """One level: the rows of a table under a filter, in an order, as the arguments of a field ask for them.

    Args:
        - reader: whose query it is
        - table: the name of the table
        - given: the arguments
        - tenants: whose rows may be read; None means everybody's
        - group: the column that leads back to the level above
        - keys: the values of `group` that are asked for
    """

    group_label = "_group"

    def __init__(
        self,
        reader: Reader,
        table: str,
        given: Mapping[str, Any],
        *,
        tenants: Sequence[str] | None = None,
        group: str | None = None,
        keys: Sequence[Any] = (),
    ) -> None:
        self.table = table
        self._dialect = reader.dialect
        self.grouped = group is not None
        self._rows = metadata.tables[table].alias()
        self._group: sa.ColumnElement[Any] = self._rows.c[group] if group is not None else sa.null()
        self._limit = _natural("limit", given.get("limit"))
        self._offset = _natural("offset", given.get("offset")) or 0
        self._terms = reader.filter().order(table, self._rows, given.get("order_by"))
        self._distinct = _distinct(given.get("distinct_on"), self._terms)
        self._conditions = [
            condition
            for condition in (
                reader.filter().where(table, self._rows, given.get("where")),
                self._group.in_(keys) if group is not None else None,
                _owned(table, self._rows, tenants),
            )
            if condition is not None
        ]
        # Rows that nothing orders come in the order they were made.
        self._terms = self._terms or [Term("id", self._rows.c.id, "asc")]

    @property
    def at_most(self) -> int | None:
        """How many rows there can be, if that is known."""
        return None if self.grouped else self._limit

    def select(self, names: Iterable[str]) -> sa.Select[Any]:
        """Return the statement that reads these columns, and the value that the rows are grouped by as the last."""
        shown = [_text(self._rows.c[name], self._dialect).label(name) for name in names]
        shown.append(self._group.label(self.group_label))
        if self._distinct or (self.grouped and (self._limit is not None or self._offset)):
            return self._windowed(shown)
        statement = sa.select(*shown).select_from(self._rows).where(*self._conditions)
        statement = statement.order_by(*(term.clause for term in self._terms))
        return self._paged(statement)

    def _windowed(self, shown: Sequence[sa.Label[Any]]) -> sa.Select[Any]:
        """Pick one row of each distinct value, and a page of each group, by numbering the rows."""
        ordered = [term._replace(expression=term.expression.label(f"_o{n}")) for n, term in enumerate(self._terms)]
        clauses = [term.clause for term in self._terms]
        group = [self._group] if self.grouped else []
        inner = (
            sa.select(*shown, *(term.expression for term in ordered)).select_from(self._rows).where(*self._conditions)
        )
        if self._distinct:
            same = [*group, *(self._rows.c[name] for name in self._distinct)]
            number = sa.func.row_number().over(partition_by=same, order_by=clauses)
            chosen = inner.add_columns(number.label("_distinct")).subquery()
            inner = sa.select(chosen).where(chosen.c._distinct == 1)
            clauses = [term._replace(expression=chosen.c[f"_o{n}"]).clause for n, term in enumerate(ordered)]
            group = [chosen.c[self.group_label]] if self.grouped else []
        if self.grouped:
            inner = inner.add_columns(sa.func.row_number().over(partition_by=group, order_by=clauses).label("_number"))
        rows = inner.subquery()
        statement = sa.select(*(rows.c[item.name] for item in shown))
        statement = statement.order_by(*(t._replace(expression=rows.c[f"_o{n}"]).clause for n, t in enumerate(ordered)))
        if not self.grouped:
            return self._paged(statement)
        if self._limit is not None:
            statement = statement.where(rows.c._number <= self._offset + self._limit)
        return statement.where(rows.c._number > self._offset) if self._offset else statement

    def _paged(self, statement: sa.Select[Any]) -> sa.Select[Any]:
        if self._limit is not None:
            statement = statement.limit(self._limit)
        return statement.offset(self._offset) if self._offset else statement


def _leads(table: str, name: str) -> Relation | None:
    found = relation(table, name)
    if found is None and name.endswith("_aggregate"):
        found = relation(table, name.removesuffix("_aggregate"))
        return found if found is not None and found.many else None
    return found


def _owned(table: str, rows: sa.FromClause, tenants: Sequence[str] | None) -> sa.ColumnElement[bool] | None:
    if tenants is None:
        return None
    return rows.c["id" if table == "tenant" else "tenant_id"].in_(tenants)


def _natural(name: str, given: int | None) -> int | None:
    if given is not None and given < 0:
        raise BackendRejected(f"unexpected negative value for {name}: {given}")
    return given


def _distinct(given: Any, terms: Sequence[Term]) -> list[str]:
    names = [] if given is None else given if isinstance(given, list) else [given]
    leading = {term.column for term in terms[: len(names)]}
    if terms and leading != set(names):
        raise BackendRejected('"distinct_on" columns must match initial "order_by" columns')
    return names


def _text(column: sa.ColumnElement[Any], dialect: str) -> sa.ColumnElement[Any]:
    """Read documents, ids, and on SQLite moments, as the text they are kept in."""
    name = kind(column)
    if dialect == "postgresql":
        # The driver would make objects of documents and ids, and needs to be told to leave them.
        return sa.cast(column, sa.Text) if name in ("jsonb", "uuid") else column
    return sa.type_coerce(column, sa.Text) if name in ("jsonb", "timestamptz") else column


def _raw(value: str) -> msgspec.Raw:
    return msgspec.Raw(value.encode())


def _iso(value: datetime.datetime) -> str:
    return value.isoformat(timespec="microseconds")
