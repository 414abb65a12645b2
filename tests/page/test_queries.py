"""Every question of the page: it fits the schema, both databases answer it, and none reads a growing table whole."""

from __future__ import annotations

import datetime
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from graphql import OperationDefinitionNode, parse, validate
from sqlalchemy import event

from flowloop.backends.server.schema import build
from flowloop.backends.store import ANYONE, Store

from ..backends.server.served import OPEN, Served, serve_store
from ..commands import ROOT
from .world import Recorded, failed_run, paused_run

QUERIES = ROOT / "backends" / "server" / "ui" / "static" / "model" / "queries.js"
GROWING = {"flow_run", "task_run", "flow_run_state", "task_run_state", "log", "task_run_artifact"}


def constants() -> dict[str, str]:
    """Return every query by its name, as the page would send it."""
    source = QUERIES.read_text()
    plain = dict(re.findall(r'^const (\w+) = "([^"]*)";', source, re.MULTILINE))
    found = dict(re.findall(r"^export const (\w+) = `([^`]*)`;", source, re.MULTILINE))
    return {name: re.sub(r"\$\{(\w+)\}", lambda part: plain[part[1]], text) for name, text in found.items()}


ALL = constants()


def kind_of(text: str) -> str:
    (operation,) = parse(text).definitions
    assert isinstance(operation, OperationDefinitionNode)
    return operation.operation.value


@pytest.mark.parametrize("name", ALL)
def test_each_fits_the_schema(name: str) -> None:
    assert validate(build(), parse(ALL[name])) == []


def test_none_is_written_anywhere_else() -> None:
    for path in QUERIES.parents[1].rglob("*.js"):
        if path != QUERIES and path.parent.name != "vendor":
            written = re.findall(r"`\s*(?:query|mutation|subscription) (\w+)[ ({]", path.read_text())
            assert set(written) <= {"Bars", "Grid", "Older"}, path


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
    wanted = set(re.findall(r"\$(\w+)[:,)]", ALL[name].partition("{")[0]))
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


async def test_none_reads_a_growing_table_from_end_to_end(tmp_path: Path) -> None:
    """With statistics as they are without ANALYZE: SQLite goes by the shape of the tables."""
    path = tmp_path / "flowloop.db"
    async with Store(f"sqlite:///{path}", synchronous="OFF") as store:
        await store.default_tenant(ANYONE)
        scanned: dict[str, list[str]] = {}
        with closing(sqlite3.connect(path)) as connection:
            async for name, statement, parameters in _statements(store):
                for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
                    words = row[3].split()
                    table = re.sub(r"_\d+$", "", words[1]) if words[0] == "SCAN" else ""
                    if table in GROWING and "USING" not in words:
                        scanned.setdefault(name, []).append(row[3])
        assert scanned == {}


async def test_none_reads_a_growing_table_from_end_to_end_on_postgresql(postgres_url: str) -> None:
    """With reads of whole tables as dear as can be: where one is left there is no index that serves."""
    async with Store(postgres_url) as store, store.engine.connect() as connection:
        await store.default_tenant(ANYONE)
        for name in ("enable_seqscan", "enable_bitmapscan"):
            await connection.exec_driver_sql(f"SET {name} = off")
        scanned: dict[str, list[str]] = {}
        async for name, statement, parameters in _statements(store):
            plan = (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()
            found = list(_read_whole(plan[0]["Plan"]))
            if found:
                scanned.setdefault(name, []).extend(found)
        assert scanned == {}


def _read_whole(node: dict[str, Any], limited: bool = False) -> Iterator[str]:
    """Yield the growing tables that a plan reads from end to end; in the order of an index up to a limit is fine."""
    limited = limited or node["Node Type"] == "Limit"
    table = node.get("Relation Name")
    if table in GROWING:
        by_index = "Index" in node["Node Type"] and ("Index Cond" in node or limited)
        if not by_index:
            yield f"{node['Node Type']} on {table}"
    for part in node.get("Plans", ()):
        yield from _read_whole(part, limited and node["Node Type"] not in ("Sort", "Aggregate", "Hash"))


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
