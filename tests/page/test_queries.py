"""Every question of the page: it fits the schema, both databases answer it, and none reads a growing table whole."""

from __future__ import annotations

import datetime
import itertools
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from graphql import parse, validate
from sqlalchemy import event

from benchmarks.page import QUERIES, kind_of, questions, variables_of
from flowloop.backends.server.schema import build
from flowloop.backends.store import ANYONE, Store

from ..backends.server.served import OPEN, Served, serve_store
from .world import Recorded, failed_run, paused_run

ALL = questions()


@pytest.mark.parametrize("name", ALL)
def test_each_fits_the_schema(name: str) -> None:
    assert validate(build(), parse(ALL[name])) == []


def test_none_is_written_anywhere_else() -> None:
    for path in QUERIES.parents[1].rglob("*.js"):
        if path != QUERIES and path.parent.name != "vendor":
            written = re.findall(r"`\s*(?:query|mutation|subscription) (\w+)[ ({]", path.read_text())
            assert written == [], path


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with Store(database_url, synchronous="OFF") as opened:
        await opened.default_tenant(ANYONE)
        yield opened


@pytest.fixture
async def served(store: Store) -> AsyncIterator[Served]:
    async with serve_store(store, OPEN) as server:
        yield server


async def variables(store: Store) -> dict[str, Any]:
    recorded = Recorded(store)
    await recorded.register()
    run = await failed_run(recorded, children=10)
    await paused_run(recorded)
    price = run.tasks["price"]
    return {
        "run": run.id,
        "task": price,
        "index": 7,
        "from": 0,
        "limit": 50,
        "flow": recorded.flow_id,
        "id": run.task_runs["price"],
        "ids": list(run.task_runs.values()),
        "runs": [run.id],
        "order": [{"start_time": "desc"}, {"id": "desc"}],
        "states": ["Failed", "Paused"],
        "text": "gannet",
        "now": "2021-01-01T00:00:00Z",
        "bins": 50,
        "every": "hour",
        "schedule": {"clocks": [{"type": "CronClock", "cron": "0 6 * * *"}]},
    }


WHERE: dict[str, Any] = {
    "RUNS": {"_and": [{"state": {"_in": ["Success", "Failed"]}}]},
    "RUN_COUNTS": {"_and": []},
}


def given(name: str, known: dict[str, Any]) -> dict[str, Any]:
    wanted = variables_of(ALL[name])
    found = {key: known[key] for key in wanted if key in known}
    if "where" in wanted:
        by_run = {"flow_run_id": {"_eq": known["run"]}}
        found["where"] = WHERE.get(name, by_run)
    if name == "RUN_COUNTS":
        found["from"] = datetime.datetime.now(datetime.UTC).isoformat()
    elif name == "TIMELINE":
        found["from"] = None
    return found


async def test_both_databases_answer_each(store: Store, served: Served) -> None:
    known = await variables(store)
    for name, text in ALL.items():
        if kind_of(text) == "query":
            answer = await served.answer(text, given(name, known))
            assert "errors" not in answer, (name, answer)


CROWD = 4_000
"""How many task runs, states and lines of a log there are of which nobody asks."""


async def test_what_is_asked_costs_the_same_however_much_else_there_is(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine: to read one row of a table from end to end takes several."""
    path = tmp_path / "flowloop.db"
    async with Store(f"sqlite:///{path}", synchronous="OFF") as store:
        await store.default_tenant(ANYONE)
        statements = [each async for each in _statements(store)]
        before = list(_steps(path, statements))
        await _crowd(store)
        after = list(_steps(path, statements))
    grown = {
        f"{name}: {statement}": (few, many)
        for (name, statement, _), few, many in zip(statements, before, after, strict=True)
        if many > few + CROWD
    }
    assert grown == {}


def _steps(path: Path, statements: list[tuple[str, str, Any]]) -> Iterator[int]:
    with closing(sqlite3.connect(path)) as connection:
        for _, statement, parameters in statements:
            steps = itertools.count()
            connection.set_progress_handler(lambda steps=steps: next(steps) < 0, 1)
            connection.execute(statement, parameters).fetchall()
            yield next(steps)


async def test_what_is_asked_costs_the_same_however_much_else_there_is_on_postgresql(postgres_url: str) -> None:
    """Counted in rows that a plan looks at."""
    async with Store(postgres_url) as store, store.engine.connect() as connection:
        await store.default_tenant(ANYONE)
        statements = [each async for each in _statements(store)]
        await _crowd(store)
        await connection.exec_driver_sql("ANALYZE")
        dear: dict[str, Any] = {}
        for name, statement, parameters in statements:
            explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
            plan = (await connection.exec_driver_sql(explained, parameters)).scalar_one()
            if _looked_at(plan[0]["Plan"]) > CROWD / 4:
                dear[f"{name}: {statement}"] = plan
        assert dear == {}


def _looked_at(node: dict[str, Any]) -> float:
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) if "Relation Name" in node else 0
    return float(rows * node["Actual Loops"]) + sum(map(_looked_at, node.get("Plans", ())))


async def _crowd(store: Store) -> None:
    """Record much of which nobody asks."""
    recorded = Recorded(store)
    await recorded.register("others")
    for number in range(4):
        run = await recorded.begin(f"other-{number}")
        ids = await run.map("price", CROWD // 4)
        await run.all(ids[: CROWD // 8], "Running")
        await run.all(ids[: CROWD // 8], "Success")
        lines = [{"flow_run_id": run.id, "task_run_id": each, "level": "INFO", "message": "x"} for each in ids]
        await store.write_run_logs(ANYONE, logs=lines)
        await store.create_task_run_artifact(ANYONE, task_run_id=ids[0], kind="markdown", data="x")


async def _statements(store: Store) -> AsyncIterator[tuple[str, str, Any]]:
    """Yield what the store is asked for each question of the page, and the parameters."""
    known = await variables(store)
    seen: list[Any] = []
    async with serve_store(store, OPEN) as served:
        for name, text in ALL.items():
            if kind_of(text) == "query":
                with _reading(store, seen):
                    await served.data(text, given(name, known))
                for statement, parameters in seen:
                    yield name, statement, parameters
                seen.clear()


@contextmanager
def _reading(store: Store, seen: list[Any]) -> Iterator[None]:
    """Note the statements that a store reads with, and their parameters."""

    def note(_: Any, __: Any, statement: str, parameters: Any, *more: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            seen.append((statement, parameters))

    engine = store.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", note)
