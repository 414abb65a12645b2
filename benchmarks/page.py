"""The page: how long each of its questions takes on a database of 200 flow runs with 5,000 task runs each.

One flow run of each is recorded as a runner does it; the children of its mapped task are then multiplied in the
database itself, with their states and lines of the log. What the page asks is read from its own modules, and asked of a
server in a process of its own.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import random
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from graphql import OperationDefinitionNode, parse

from flowloop.backends.store import ANYONE, StateUpdate, Store
from flowloop.backends.store.schema import metadata
from flowloop.backends.store.tx import Tx
from flowloop.engine import Flow, Parameter, task
from flowloop.engine.serialization import encode_state
from flowloop.engine.state import Failed, Mapped, Paused, Running, State, Success

from .harness import Row
from .recording import has_postgres, postgres, scratch, serving, sqlite_url

TITLE = "Every question of the page"

CHILDREN = 5_000
FAILED = 12
_RUNS = {"quick": 20, "full": 200, "guard": 2}
_ROUNDS = {"quick": 5, "full": 15, "guard": 1}
_LINES = 5
"""How many lines of the log there are of each task run that is recorded."""

QUERIES = Path(__file__).parents[1] / "backends" / "server" / "ui" / "static" / "model" / "queries.js"


def questions() -> dict[str, str]:
    """Return every operation of the page by its name, as the page sends it."""
    source = QUERIES.read_text()
    plain = dict(re.findall(r'^const (\w+) = "([^"]*)";', source, re.MULTILINE))
    found = dict(re.findall(r"^export const (\w+) = `([^`]*)`;", source, re.MULTILINE))
    return {name: re.sub(r"\$\{(\w+)\}", lambda part: plain[part[1]], text) for name, text in found.items()}


def kind_of(text: str) -> str:
    """Return whether an operation is a query, a mutation or a subscription."""
    (operation,) = parse(text).definitions
    assert isinstance(operation, OperationDefinitionNode)
    return operation.operation.value


def variables_of(text: str) -> set[str]:
    """Return the names of the variables that an operation declares."""
    return set(re.findall(r"\$(\w+)[:,)]", text.partition("{")[0]))


def run(scale: str) -> list[Row]:
    """Ask each question several times, one after the other."""
    rows: list[Row] = []
    databases = ["SQLite", *(["PostgreSQL"] if has_postgres() else [])]
    for name in databases:
        with scratch() as folder, postgres() if name == "PostgreSQL" else nullcontext(sqlite_url(folder)) as url:
            known = asyncio.run(_built(url, _RUNS[scale]))
            with serving(url) as place:
                taken = asyncio.run(_asked(place.url, known, _ROUNDS[scale]))
        rows += [
            Row(case=question, subject=name, unit="ms", values=values, size=_RUNS[scale] * CHILDREN)
            for question, values in taken.items()
        ]
    return rows


_ONLY_SO = ("RUNS", "RUN_COUNTS", "TIMELINE")
"""The questions that are asked as `_variants` says alone."""

# -- asking ----------------------------------------------------------------------------------------------


async def _asked(url: str, known: Mapping[str, Any], rounds: int) -> dict[str, list[float]]:
    asked = {name: (text, known) for name, text in questions().items() if kind_of(text) == "query"}
    asked |= {f"{name}, {what}": (asked[name][0], {**known, **other}) for name, what, other in _variants(known)}
    for name in _ONLY_SO:
        del asked[name]
    taken: dict[str, list[float]] = {}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for name, (text, variables) in asked.items():
            given = {key: variables[key] for key in variables_of(text)}
            taken[name] = [await _once(client, name, text, given) for _ in range(rounds)]
    return taken


async def _once(client: httpx.AsyncClient, name: str, text: str, given: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    answer = (await client.post("/", json={"query": text, "variables": given})).json()
    took = (time.perf_counter() - start) * 1e3
    if "errors" in answer:
        raise RuntimeError(f"{name}: {answer['errors']}")
    return took


def _variants(known: Mapping[str, Any]) -> Sequence[tuple[str, str, dict[str, Any]]]:
    """Return questions whose answer depends much on what is asked for: name, what, and those variables."""
    week = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=7)
    by_run, by_task = {"flow_run_id": {"_eq": known["run"]}}, {"task_id": {"_eq": known["task"]}}
    return [
        ("RUNS", "every state", {"where": {}}),
        ("RUNS", "one flow", {"where": {"flow": {"name": {"_eq": "page"}}}}),
        ("RUNS", "text", {"where": {"name": {"_ilike": "%salmon-1%"}}}),
        ("RUN_COUNTS", "a week", {"where": {}, "from": week.isoformat()}),
        ("TIMELINE", "all of it", {"from": None}),
        ("FOUND", "one state", {"where": {**by_run, **by_task, "state": {"_eq": "Success"}}}),
        ("FOUND", "failed", {"where": {**by_run, "state": {"_in": ["Failed", "TriggerFailed"]}}}),
        ("FOUND", "message", {"where": {**by_run, "state_message": {"_ilike": "%row 7%"}}}),
        ("FOUND", "began last", {"order": [{"start_time": "desc"}, {"id": "desc"}]}),
        ("LONGEST", "the second page", {"after": known["id"]}),
        ("ROWS", "the last", {"from": CHILDREN - 50}),
        ("LINES", "of a task run", {"where": {**by_run, "task_run_id": {"_eq": known["id"]}}}),
        ("LINES", "warnings", {"where": {**by_run, "level": {"_in": ["WARNING", "ERROR", "CRITICAL"]}}}),
        ("LINES", "text", {"where": {**by_run, "message": {"_ilike": "%nothing like that%"}}}),
        ("SEARCH", "an id", {"text": known["id"][:13]}),
    ]


# -- building --------------------------------------------------------------------------------------------


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task(max_retries=2, retry_delay=datetime.timedelta(seconds=1))
def price(row: int) -> int:
    return row


@task
def total(prices: list[int]) -> int:
    return sum(prices)


class _Hours:
    """A clock that begins as many hours ago as there are runs, and goes on by an hour for each."""

    def __init__(self, runs: int) -> None:
        self.time = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=runs)

    def now(self) -> datetime.datetime:
        self.time += datetime.timedelta(milliseconds=7)
        return self.time

    def move(self) -> None:
        self.time += datetime.timedelta(hours=1)


async def _built(url: str, runs: int) -> dict[str, Any]:
    """Make the database, and return what the questions ask for."""
    with Flow("page") as flow:
        total(price.map(numbers(Parameter("n", default=3, type=int))))
    clock = _Hours(runs)
    async with Store(url, synchronous="OFF", clock=clock) as store:
        await store.default_tenant(ANYONE)
        project = await store.get_or_create_project(ANYONE, name="bench")
        registered = await store.create_flow(ANYONE, project_id=project["id"], serialized_flow=flow.serialize())
        made = [await _run(store, registered["id"], number, clock) for number in range(runs)]
        for number, (_, _, child) in enumerate(made):
            await store.write(ANYONE, functools.partial(_multiplied, number, child))
    run_id, task_id, child = made[-1]
    now = datetime.datetime.now(datetime.UTC)
    return {
        "run": run_id,
        "task": task_id,
        "index": 7,
        "from": 0,
        "limit": 50,
        "flow": registered["id"],
        "id": child,
        "ids": [child],
        "runs": [run_id],
        "order": [{"task_id": "asc"}, {"map_index": "asc"}],
        "after": None,
        "states": ["Failed", "TriggerFailed", "TimedOut", "ValidationFailed", "Paused", "Retrying"],
        "text": "salmon",
        "now": now.isoformat(),
        "bins": 400,
        "every": "hour",
        "to": None,
        "schedule": {"clocks": [{"type": "CronClock", "cron": "0 6 * * *"}]},
        "where": {"flow_run_id": {"_eq": run_id}},
    }


async def _run(store: Store, flow_id: str, number: int, clock: _Hours) -> tuple[str, str, str]:
    """Record a flow run; return its id, that of its mapped task, and the child that is to be multiplied."""
    clock.move()
    created = await store.create_flow_run(ANYONE, flow_id=flow_id, flow_run_name=f"salmon-{number}")
    run_id = str(created["id"])
    info = await store.get_flow_run_info(ANYONE, flow_run_id=run_id)
    runs = {row["task_slug"]: row for row in info["task_runs"]}

    async def task_runs(ids: Sequence[str], *states: State) -> None:
        for state in states:
            await store.set_task_run_states(ANYONE, [StateUpdate(each, encode_state(state)) for each in ids])

    async def flow_run(state: State) -> None:
        await store.set_flow_run_states(ANYONE, [StateUpdate(run_id, encode_state(state))])

    begun, done = Running("Starting task run."), Success("Task run succeeded.")
    await flow_run(Running("Running flow."))
    await task_runs([runs["numbers-1"]["id"]], begun, done)
    mapped = runs["price-1"]
    await task_runs([mapped["id"]], begun, Mapped("mapped", n_map_states=CHILDREN))
    rows = await store.get_or_create_task_runs(
        ANYONE, flow_run_id=run_id, task_id=mapped["task_id"], map_indices=range(FAILED + 2)
    )
    children = [row["id"] for row in rows]
    traceback = 'Traceback (most recent call last):\n  File "prices.py", line 3, in price\nValueError: bad row'
    await task_runs(children, begun)
    await task_runs(children[:FAILED], Failed("ValueError('bad row 7')", context={"traceback": traceback}))
    await task_runs(children[-2:-1], done) if number % 40 else await task_runs(children[-2:-1], Paused("look at it"))
    await task_runs(children[-1:], done)
    logs = [
        {"flow_run_id": run_id, "task_run_id": each, "level": level, "name": "prices", "message": f"row {at}"}
        for each in children
        for at, level in enumerate(random.Random(number).choices(["INFO", "DEBUG", "WARNING"], k=_LINES))
    ]
    await store.write_run_logs(ANYONE, logs=logs)
    for each in children[:2]:
        await store.create_task_run_artifact(ANYONE, task_run_id=each, kind="markdown", data="# Row\n\nis **bad**")
    await flow_run(
        Failed("12 of 1 reference tasks failed") if number % 3 else Success("All reference tasks succeeded.")
    )
    return run_id, mapped["task_id"], children[-1]


def _multiplied(run: int, child: str, tx: Tx) -> None:
    """Add children of a map that are like one of them, with their states, and for every tenth its lines of the log."""
    first, connection = FAILED + 2, tx.connection
    if connection.dialect.name == "sqlite":
        counting = f"SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {CHILDREN - 1}"
        numbers = f"(WITH RECURSIVE n(i) AS ({counting}) SELECT i FROM n)"
        end, kind = f"printf('%04x%08x', {run}, i)", "TEXT"
    else:
        numbers = f"(SELECT generate_series({first}, {CHILDREN - 1}) AS i)"
        end, kind = f"lpad(to_hex({run}), 4, '0') || lpad(to_hex(i), 8, '0')", "UUID"
    for table, key, step in (("task_run", "id", 1), ("task_run_state", "task_run_id", 1), ("log", "task_run_id", 10)):
        values = {
            f'"{column.name}"': f't."{column.name}"' for column in metadata.tables[table].c if column.computed is None
        }
        for name in {"id", key}:
            values[f'"{name}"'] = f"CAST(substr(CAST(t.{name} AS TEXT), 1, 24) || {end} AS {kind})"
        if table == "task_run":
            values['"map_index"'] = "n.i"
        chosen = f"SELECT {', '.join(values.values())} FROM {table} t, {numbers} n"
        statement = f"INSERT INTO {table} ({', '.join(values)}) {chosen} WHERE t.{key} = :child AND n.i % {step} = 0"
        connection.execute(sa.text(statement), {"child": child})
