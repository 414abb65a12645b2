"""Who works on what: workers, limits, and why flow runs that are due have not begun."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from graphql import GraphQLSchema
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.errors import BackendRejected
from ...engine.lifecycle import WAITING
from .._line import within
from ..store.queue import ALIVE, knows, suits
from ..store.schema import metadata
from .database import reading
from .execution import Resolver
from .operation_cache import Field
from .request import Call
from .summaries import resolver

__all__ = ["resolvers"]

_SHOWN = 200
_QUEUED = 100

Row = Mapping[str, Any]


def resolvers(schema: GraphQLSchema) -> dict[str, Resolver]:
    """Return how these fields are answered, by their names."""
    answers = {"workers": _workers, "limits": _limits, "queue": _queue, "going_on": _going_on}
    return {name: resolver(schema, name, answer) for name, answer in answers.items()}


async def _workers(call: Call, field: Field, given: dict[str, Any]) -> list[dict[str, Any]]:
    async with reading(call.store, call.budget.seconds) as connection:
        return await _seen(connection, call)


async def _seen(connection: AsyncConnection, call: Call) -> list[dict[str, Any]]:
    """Return the workers, the one seen last first, with the flow runs that they hold."""
    now = call.store.clock.now()
    worker, run = metadata.tables["worker"].c, metadata.tables["flow_run"].c
    told = (worker.name, worker.labels, worker.flow_names, worker.not_flow_ids, worker.room)
    wanted = sa.select(*told, worker.created, worker.updated)
    found = await _rows(connection, _mine(call, "worker", wanted).order_by(worker.updated.desc()).limit(_SHOWN))
    held = sa.select(run.owner, run.id, run.name).where(
        run.owner.in_([row["name"] for row in found]), run.lease_expires > now
    )
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in await _rows(connection, held):
        runs.setdefault(row["owner"], []).append({"id": row["id"], "name": row["name"]})
    return [
        {
            "name": row["name"],
            "labels": row["labels"],
            "flow_names": row["flow_names"],
            "not_flow_ids": row["not_flow_ids"] or [],
            "running": len(runs.get(row["name"], ())),
            "concurrency": row["room"] + len(runs.get(row["name"], ())),
            "flow_runs": runs.get(row["name"], [])[:_QUEUED],
            "started": row["created"],
            "seen": row["updated"],
            "alive": row["updated"] > now - ALIVE,
        }
        for row in found
    ]


async def _alive(connection: AsyncConnection, call: Call) -> list[dict[str, Any]]:
    return [worker for worker in await _seen(connection, call) if worker["alive"]]


async def _limits(call: Call, field: Field, given: dict[str, Any]) -> list[dict[str, Any]]:
    async with reading(call.store, call.budget.seconds) as connection:
        return [
            *await _limits_of(connection, call, "task_tag_limit", "tag", "task_slot"),
            *await _rates(connection, call),
            *await _limits_of(connection, call, "flow_concurrency_limit", "name", "flow_slot"),
        ]


async def _limits_of(connection: AsyncConnection, call: Call, table: str, key: str, slots: str) -> list[dict[str, Any]]:
    limit, slot = metadata.tables[table].c, metadata.tables[slots].c
    used = sa.select(sa.func.count()).where(slot.limit_id == limit.id).scalar_subquery()
    wanted = sa.select(limit.id, limit[key].label("name"), limit.limit, used.label("used"))
    kind = "task" if table == "task_tag_limit" else "flow"
    return [
        dict(row) | {"kind": kind} for row in await _rows(connection, _mine(call, table, wanted).order_by(limit[key]))
    ]


async def _rates(connection: AsyncConnection, call: Call) -> list[dict[str, Any]]:
    rate, now = metadata.tables["task_rate_limit"].c, call.store.clock.now().timestamp()
    wanted = sa.select(rate.id, rate.tag.label("name"), rate.limit, rate.period, rate.begun)
    return [
        {"kind": "rate", **row, "used": len(within(row["begun"], row["period"], now))}
        for row in await _rows(connection, _mine(call, "task_rate_limit", wanted).order_by(rate.tag))
    ]


async def _queue(call: Call, field: Field, given: dict[str, Any]) -> dict[str, Any]:
    now = call.store.clock.now()
    run = metadata.tables["flow_run"].c
    waiting = run.state.in_(sorted(WAITING))
    async with reading(call.store, call.budget.seconds) as connection:
        counted = _mine(call, "flow_run", sa.select(sa.func.count()).where(waiting))
        ready = (await connection.execute(counted.where(run.state_start_time <= now))).scalar()
        later = (await connection.execute(counted.where(run.state_start_time > now))).scalar()
        due = (
            _runs(run.name, run.state, run.state_start_time)
            .where(waiting, run.state_start_time <= now)
            .order_by(run.state_start_time, run.id)
            .limit(_QUEUED)
        )
        rows = await _rows(connection, _mine(call, "flow_run", due))
        workers = await _alive(connection, call)
        limits = (
            {row["name"]: row for row in await _limits(call, field, given) if row["kind"] == "flow"} if rows else {}
        )
    runs = [
        {
            "flow_run_id": row["id"],
            "name": row["name"],
            "state": row["state"],
            "flow_id": row["flow_id"],
            "flow_name": row["flow_name"],
            "labels": row["labels"],
            "since": row["state_start_time"],
            "because": _why(row, workers, limits, now),
        }
        for row in rows
    ]
    return {"ready": ready, "later": later, "flow_runs": runs}


async def _going_on(call: Call, field: Field, given: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = given["flow_run_ids"]
    if len(wanted) > _SHOWN:
        raise BackendRejected(f"going_on tells of {_SHOWN} flow runs at once, not of {len(wanted)}")
    now = call.store.clock.now()
    async with reading(call.store, call.budget.seconds) as connection:
        asked = _runs().where(metadata.tables["flow_run"].c.id.in_(wanted))
        rows = await _rows(connection, _mine(call, "flow_run", asked))
        workers = await _alive(connection, call) if rows else []
    found = []
    for row in rows:
        lacks = None if _is_held(row, now) else _lacks(row, workers)
        by = "runner" if _is_held(row, now) else "nobody" if lacks else "workers"
        found.append({"flow_run_id": row["id"], "picked_up_by": by, "because": lacks})
    return found


def _runs(*more: Any) -> sa.Select[Any]:
    """Select what says who may take a flow run."""
    run, flow = metadata.tables["flow_run"].c, metadata.tables["flow"].c
    named = flow.id.label("flow_id"), flow.name.label("flow_name")
    return sa.select(run.id, run.labels, run.owner, run.lease_expires, *named, *more).join_from(
        metadata.tables["flow_run"], metadata.tables["flow"], flow.id == run.flow_id
    )


def _is_held(row: Row, now: datetime.datetime) -> bool:
    return row["owner"] is not None and row["lease_expires"] is not None and row["lease_expires"] > now


def _why(row: Row, workers: Sequence[Row], limits: Mapping[str, Row], now: datetime.datetime) -> str:
    """Say in words why a flow run whose time has come has not begun."""
    if _is_held(row, now):
        return f"{row['owner']} has taken it"
    full = [name for name in row["labels"] or () if name in limits and limits[name]["used"] >= limits[name]["limit"]]
    if full:
        return f"the limit {full[0]!r} is full: {limits[full[0]]['used']} of {limits[full[0]]['limit']}"
    lacks = _lacks(row, workers)
    if lacks:
        return lacks
    if all(each["running"] >= each["concurrency"] for each in _able(row, workers)):
        return "every worker that could take it is full"
    return "a worker is about to take it"


def _lacks(row: Row, workers: Sequence[Row]) -> str | None:
    """Say in words why no live worker can take a flow run; None if one can."""
    if not workers:
        return "there is no live worker"
    fitting = [each for each in workers if suits(row, each["labels"], is_worker=True)]
    if not fitting:
        labels = ", ".join(row["labels"] or ())
        return f"no live worker has the labels {labels}" if labels else "all live workers have labels"
    if _able(row, fitting):
        return None
    others = any(row["flow_id"] in each["not_flow_ids"] for each in fitting)
    return f"no live worker has {'this version of ' if others else ''}the flow {row['flow_name']!r}"


def _able(row: Row, workers: Sequence[Row]) -> list[Row]:
    return [
        each
        for each in workers
        if suits(row, each["labels"], is_worker=True) and knows(each, row["flow_id"], row["flow_name"])
    ]


def _mine(call: Call, table: str, statement: Any) -> Any:
    tenants = call.tenants(table)
    return statement if tenants is None else statement.where(metadata.tables[table].c.tenant_id.in_(tenants))


async def _rows(connection: AsyncConnection, statement: Any) -> Sequence[Row]:
    return [dict(row._mapping) for row in await connection.execute(statement)]
