"""Finding something by a piece of its id or its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from graphql import GraphQLSchema
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.errors import BackendRejected
from ..schedule_dates import next_events
from ..store.schema import metadata
from .database import reading
from .execution import Resolver
from .operation_cache import Field
from .request import Call
from .summaries import resolver

__all__ = ["resolvers"]

_NEWEST = 10_000
"""How many flow runs are looked through for a piece of a name, the newest first."""

_AT_MOST = 100
_PIECE_OF_ID = re.compile(r"[0-9a-f]{4,32}")

Found = dict[str, Any]


def resolvers(schema: GraphQLSchema) -> dict[str, Resolver]:
    """Return how these fields are answered, by their names."""
    answers = {"search": _search, "preview_schedule": _preview_schedule}
    return {name: resolver(schema, name, answer) for name, answer in answers.items()}


async def _search(call: Call, field: Field, given: dict[str, Any]) -> list[Found]:
    text, limit = given["text"].strip(), given["limit"]
    if not 1 <= limit <= _AT_MOST:
        raise BackendRejected(f"a search finds from 1 to {_AT_MOST} of a kind, not {limit}")
    if not text or "\x00" in text:
        return []
    found: dict[str, Found] = {}
    async with reading(call.store, call.budget.seconds) as connection:
        for read in (_by_id, _by_name):
            for row in await read(connection, call, text, limit):
                found.setdefault(row["id"], row)
    return list(found.values())[: 3 * limit]


async def _by_id(connection: AsyncConnection, call: Call, text: str, limit: int) -> list[Found]:
    piece = text.lower().replace("-", "")
    if _PIECE_OF_ID.fullmatch(piece) is None:
        return []
    first, last = _id(piece.ljust(32, "0")), _id(piece.ljust(32, "f"))
    rows: list[Found] = []
    for kind, statement in _selects():
        table = metadata.tables[kind].c
        between = statement.where(table.id >= first, table.id <= last).order_by(table.id.desc()).limit(limit)
        rows += await _rows(connection, call, kind, between)
    return rows


async def _by_name(connection: AsyncConnection, call: Call, text: str, limit: int) -> list[Found]:
    rows: list[Found] = []
    for kind, statement in _selects():
        table = metadata.tables[kind].c
        if kind == "task_run":
            continue
        newest = sa.select(table.id).order_by(table.created.desc()).limit(_NEWEST)
        named = statement.where(table.id.in_(newest), table.name.icontains(text, autoescape=True))
        rows += await _rows(connection, call, kind, named.order_by(table.created.desc()).limit(limit))
    return rows


def _selects() -> Iterator[tuple[str, Any]]:
    run, flow, task_run, task = (metadata.tables[name] for name in ("flow_run", "flow", "task_run", "task"))
    nothing = sa.null()
    yield (
        "flow_run",
        sa.select(run.c.id, run.c.name, run.c.state, run.c.state_timestamp.label("at"), flow.c.name.label("of"))
        .join_from(run, flow, flow.c.id == run.c.flow_id)
        .add_columns(run.c.id.label("flow_run_id"), nothing.label("map_index")),
    )
    yield (
        "flow",
        sa.select(flow.c.id, flow.c.name, nothing.label("state"), flow.c.created.label("at"), nothing.label("of"))
        .add_columns(nothing.label("flow_run_id"), nothing.label("map_index"))
        .where(flow.c.archived.is_(False)),
    )
    yield (
        "task_run",
        sa.select(task_run.c.id, task.c.name, task_run.c.state, task_run.c.state_timestamp.label("at"))
        .join_from(task_run, task, task.c.id == task_run.c.task_id)
        .add_columns(nothing.label("of"), task_run.c.flow_run_id, task_run.c.map_index),
    )


async def _rows(connection: AsyncConnection, call: Call, kind: str, statement: Any) -> list[Found]:
    tenants = call.tenants(kind)
    if tenants is not None:
        statement = statement.where(metadata.tables[kind].c.tenant_id.in_(tenants))
    return [dict(row._mapping) | {"kind": kind} for row in await connection.execute(statement)]


def _id(digits: str) -> str:
    return "-".join(digits[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


async def _preview_schedule(call: Call, field: Field, given: dict[str, Any]) -> list[str]:
    count = given["count"]
    if not 1 <= count <= _AT_MOST:
        raise BackendRejected(f"a schedule shows from 1 to {_AT_MOST} dates, not {count}")
    try:
        events = next_events(given["schedule"], call.store.clock.now(), count)
    except Exception as error:
        raise BackendRejected(f"the schedule cannot be read: {error}") from error
    return [event.start_time.isoformat() for event in events]
