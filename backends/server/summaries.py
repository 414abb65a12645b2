"""What is asked of many rows at once: counts of a flow run by task and state, its timeline, flow runs by the hour.

Each is one statement that the database groups, so an answer is as large as what it says, and not as what it counts.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import sqlalchemy as sa
from graphql import GraphQLSchema
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.errors import BackendRejected
from ...engine.lifecycle import FINISHED
from ..store.schema import metadata
from .database import reading
from .execution import Resolver, Variables
from .filters import Filter
from .operation_cache import Field, arguments
from .projection import project
from .request import Call

__all__ = ["counts_of", "resolver", "resolvers", "run_of"]

_BINS = 1_000
_LONGEST = datetime.timedelta(days=31)
_ATTEMPTED_ONCE = 3  # Pending, Running, and an end: with more states it may have been attempted again
_LISTED = 1_000
_STEPS = (1, 2, 5)
_BOUNDS = tuple(step * 10.0**power for power in range(-3, 5) for step in _STEPS)
"""The upper ends of the bins of durations, in seconds."""

_WIDTHS = {"minute": 16, "hour": 13, "day": 10}
"""How much of a moment's text names its minute, its hour or its day."""

Counted = dict[str, Any]


def resolvers(schema: GraphQLSchema) -> dict[str, Resolver]:
    """Return how these fields are answered, by their names."""
    answers = {
        "run_summary": _run_summary,
        "run_timeline": _run_timeline,
        "flow_run_counts": _flow_run_counts,
        "longest_task_runs": _longest_task_runs,
    }
    return {name: resolver(schema, name, answer) for name, answer in answers.items()}


def resolver(schema: GraphQLSchema, name: str, answer: Callable[..., Awaitable[Any]]) -> Resolver:
    """Return how a field is answered: what `answer` makes of the call, the field and the arguments is projected."""
    assert schema.query_type is not None
    definition = schema.query_type.fields[name]

    async def resolve(call: Call, field: Field, variables: Variables) -> Any:
        given = variables.arguments(definition, field)
        where = arguments(field.node, variables.raw).get("where")  # a filter is read as it came
        return project(await answer(call, field, given | {"where": where}), field.fields)

    return resolve


async def run_of(connection: AsyncConnection, call: Call, flow_run_id: str) -> Any:
    """Return the head of a flow run that the caller may see.

    Raises:
        - BackendRejected: if there is none
    """
    run = metadata.tables["flow_run"].c
    wanted = sa.select(
        run.id, run.tenant_id, run.version, run.state, run.state_message, run.state_timestamp, run.start_time
    ).where(run.id == flow_run_id)
    found = (await connection.execute(wanted)).first()
    tenants = call.tenants("flow_run")
    if found is None or (tenants is not None and found.tenant_id not in tenants):
        raise BackendRejected(f"Flow run {flow_run_id} not found")
    return found


async def counts_of(connection: AsyncConnection, flow_run_id: str) -> list[Counted]:
    """Return how many task runs of each task are in each state."""
    run = metadata.tables["task_run"].c
    state = metadata.tables["task_run_state"].c
    begun = sa.select(sa.func.count()).where(state.task_run_id == run.id, state.state == "Running").scalar_subquery()
    # its states are looked at only where there are enough of them
    again = sa.func.sum(sa.case((run.version <= _ATTEMPTED_ONCE, 0), (begun > 1, 1), else_=0))
    grouped = (
        sa.select(
            run.task_id, run.state, sa.func.count(), sa.func.min(run.start_time), sa.func.max(run.end_time), again
        )
        .where(run.flow_run_id == flow_run_id)
        .group_by(run.task_id, run.state)
    )
    tasks: dict[str, Counted] = {}
    for task_id, state, count, start, end, repeated in await connection.execute(grouped):
        task = tasks.setdefault(
            task_id, {"task_id": task_id, "states": {}, "start_time": None, "end_time": None, "again": 0}
        )
        task["states"][state or "Pending"] = count
        task["again"] += repeated
        task["start_time"] = min(filter(None, (task["start_time"], start)), default=None)
        task["end_time"] = max(filter(None, (task["end_time"], end)), default=None)
    return list(tasks.values())


async def _run_summary(call: Call, field: Field, given: dict[str, Any]) -> Any:
    async with reading(call.store, call.budget.seconds) as connection:
        run = await run_of(connection, call, given["flow_run_id"])
        tasks = await counts_of(connection, run.id)
        durations = None
        if any(part.name == "durations" for part in field.fields):
            durations = await _durations(connection, run.id)
    return {"version": run.version, "state": run.state, "tasks": tasks, "durations": durations}


async def _durations(connection: AsyncConnection, flow_run_id: str) -> list[Counted]:
    run = metadata.tables["task_run"].c
    took = _took(connection, run)
    place = sa.case(*((took <= bound, number) for number, bound in enumerate(_BOUNDS)), else_=len(_BOUNDS))
    grouped = (
        sa.select(run.task_id, place.label("place"), sa.func.count())
        .where(run.flow_run_id == flow_run_id, run.start_time.is_not(None), run.end_time.is_not(None))
        .group_by(run.task_id, sa.text("place"))
    )
    return [
        {"task_id": task_id, "up_to": _BOUNDS[place] if place < len(_BOUNDS) else None, "count": count}
        for task_id, place, count in await connection.execute(grouped.order_by(run.task_id, sa.text("place")))
    ]


async def _longest_task_runs(call: Call, field: Field, given: dict[str, Any]) -> Any:
    if not 1 <= given["limit"] <= _LISTED:
        raise BackendRejected(f"longest_task_runs tells of 1 to {_LISTED} task runs, not of {given['limit']}")
    async with reading(call.store, call.budget.seconds) as connection:
        of = await run_of(connection, call, given["flow_run_id"])
        table, last = metadata.tables["task_run"], metadata.tables["task_run"].alias()
        run = table.c
        took = _took(connection, run)
        wanted = sa.select(run.id, took).where(
            run.flow_run_id == of.id, run.start_time.is_not(None), run.end_time.is_not(None)
        )
        condition = Filter(connection.dialect.name).where("task_run", table, given["where"])
        if condition is not None:
            wanted = wanted.where(condition)
        after = given.get("after")
        if after:
            limit = (
                sa.select(_took(connection, last.c))
                .where(last.c.id == after, last.c.flow_run_id == of.id)
                .scalar_subquery()
            )
            wanted = wanted.where(sa.or_(took < limit, sa.and_(took == limit, run.id > after)))
        rows = await connection.execute(wanted.order_by(took.desc(), run.id).limit(given["limit"]))
        return [{"task_run_id": run_id, "seconds": seconds} for run_id, seconds in rows]


async def _run_timeline(call: Call, field: Field, given: dict[str, Any]) -> Any:
    bins = given["bins"]
    if not 1 <= bins <= _BINS:
        raise BackendRejected(f"a timeline has from 1 to {_BINS} bins, not {bins}")
    async with reading(call.store, call.budget.seconds) as connection:
        found = await run_of(connection, call, given["flow_run_id"])
        run = metadata.tables["task_run"].c
        of_run = run.flow_run_id == found.id
        if given.get("task_id"):
            of_run = sa.and_(of_run, run.task_id == given["task_id"])
        once, several = _is_attempted_once(run), sa.not_(_is_attempted_once(run))
        over = sa.func.coalesce(run.end_time, run.state_timestamp)
        edges = sa.select(sa.func.min(run.start_time), sa.func.max(over), sa.func.sum(sa.case((several, 1), else_=0)))
        first, last, repeated = (await connection.execute(edges.where(run.flow_run_id == found.id))).one()
        begin = given.get("from") or found.start_time or first or call.store.clock.now()
        end = given.get("to") or max(
            last or begin, call.store.clock.now() if found.state not in FINISHED else found.state_timestamp
        )
        end = max(end, begin + datetime.timedelta(milliseconds=1))
        width = (end - begin).total_seconds() / bins
        tasks: dict[str, Counted] = {}

        async def count(name: str, moment: Any, state: Any, rows: Any, *where: Any) -> None:
            past = (_seconds(connection, moment) - begin.timestamp()) / width
            place = sa.case((moment < begin, -1), (moment >= end, bins - 1), else_=_bin(connection, past, bins))
            shown = run.task_id, place.label("place"), state.label("outcome"), sa.func.count()
            grouped = sa.select(*shown).select_from(rows).where(of_run, *where)
            grouped = grouped.group_by(run.task_id, sa.text("place"), sa.text("outcome"))
            for task_id, at, of, number in await connection.execute(grouped):
                task = tasks.setdefault(task_id, {"task_id": task_id, "started": [], "stopped": [], "ended": []})
                task[name].append([at, of, number] if name == "ended" else [at, number])

        task_runs, nothing = run.id.table, sa.literal(0)
        ended = run.state.in_(sorted(FINISHED))
        await count("started", run.start_time, nothing, task_runs, once, run.start_time.is_not(None))
        await count("stopped", over, nothing, task_runs, once, run.start_time.is_not(None), ended)
        await count("ended", over, run.state, task_runs, ended)
        if repeated:
            # those of several attempts neither run in between, nor while they wait for the next
            one, after = metadata.tables["task_run_state"], metadata.tables["task_run_state"].alias()
            states = task_runs.join(one, one.c.task_run_id == run.id)
            follows = sa.and_(after.c.task_run_id == run.id, after.c.version == one.c.version + 1)
            running = one.c.state == "Running"
            await count("started", one.c.timestamp, nothing, states, several, running)
            await count("stopped", after.c.timestamp, nothing, states.join(after, follows), several, running)
    return {"from": begin, "to": end, "bins": bins, "tasks": list(tasks.values())}


def _is_attempted_once(run: Any) -> Any:
    """Tell whether a task run ran, if it ran, from its start to its end, or to now."""
    return sa.and_(
        run.version <= _ATTEMPTED_ONCE,
        sa.or_(run.start_time.is_(None), run.state == "Running", run.state.in_(sorted(FINISHED))),
    )


async def _flow_run_counts(call: Call, field: Field, given: dict[str, Any]) -> Any:
    every = given["every"]
    if every not in _WIDTHS:
        raise BackendRejected(f"every is one of {', '.join(_WIDTHS)}, not {every!r}")
    begin, end = given["from"], given.get("to") or call.store.clock.now()
    if end - begin > _LONGEST or (every == "minute" and end - begin > datetime.timedelta(minutes=_BINS)):
        raise BackendRejected(f"runs are counted over {_LONGEST.days} days at most, by the minute over {_BINS} minutes")
    run = metadata.tables["flow_run"]
    async with reading(call.store, call.budget.seconds) as connection:
        condition = Filter(connection.dialect.name).where("flow_run", run, given["where"])
        tenants = call.tenants("flow_run")
        at = _prefix(connection, run.c.created, _WIDTHS[every]).label("at")
        counted = (
            sa.select(run.c.state, at, sa.func.count())
            .where(run.c.created >= begin, run.c.created < end)
            .group_by(run.c.state, sa.text("at"))
            .order_by(sa.text("at"))
        )
        if condition is not None:
            counted = counted.where(condition)
        if tenants is not None:
            counted = counted.where(run.c.tenant_id.in_(tenants))
        rows: Sequence[Any] = (await connection.execute(counted)).all()
    return [
        {"key": state, "at": datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC), "count": count}
        for state, text, count in rows
    ]


def _took(connection: AsyncConnection, run: Any) -> Any:
    """Return how many seconds a run took."""
    return _seconds(connection, run.end_time) - _seconds(connection, run.start_time)


def _seconds(connection: AsyncConnection, moment: Any) -> Any:
    """Return a moment as seconds since 1970."""
    if connection.dialect.name == "postgresql":
        return sa.cast(sa.extract("epoch", moment), sa.Float)
    text = sa.type_coerce(moment, sa.Text)  # always in full, see `UtcDateTime`
    whole, fraction = sa.func.strftime("%s", text), sa.func.substr(text, 20, 7)
    return sa.cast(whole, sa.Float) + sa.cast(fraction, sa.Float)


def _bin(connection: AsyncConnection, number: Any, bins: int) -> Any:
    """Return the whole number below, but never more than the last bin: what comes close to the end is not beyond it."""
    if connection.dialect.name == "postgresql":
        return sa.func.least(sa.cast(sa.func.floor(number), sa.Integer), bins - 1)
    return sa.func.min(sa.cast(number, sa.Integer), bins - 1)


def _prefix(connection: AsyncConnection, moment: Any, width: int) -> Any:
    """Return so much of the text of a moment in UTC."""
    if connection.dialect.name == "postgresql":
        text: Any = sa.func.to_char(sa.func.timezone("UTC", moment), 'YYYY-MM-DD"T"HH24:MI')
        return sa.func.substr(text, 1, width)
    return sa.func.substr(sa.type_coerce(moment, sa.Text), 1, width)
