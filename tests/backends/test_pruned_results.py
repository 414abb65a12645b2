"""What is pruned takes its results with it, those that nothing else names, and in no place that nobody has named."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from flowloop.backends import connect
from flowloop.backends.store import Store
from flowloop.engine import Flow, Settings, task
from flowloop.engine.cache_validators import duration_only
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.result import Result
from flowloop.engine.results import DefaultResult, LocalResult, trusted

NOW = datetime.timedelta()


async def ran(url: str, flow: Flow, settings: Settings) -> str:
    async with connect(url, settings=settings) as backend:
        flow_run_id = await create_flow_run(flow, backend)
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        assert (await runner.run(context={"flow_run_id": flow_run_id})).is_successful()
    return flow_run_id


def flow_of(result: Result, cache_for: datetime.timedelta | None = None) -> Flow:
    @task(cache_for=cache_for, cache_validator=duration_only if cache_for else None)
    async def one_set(number: int) -> set[int]:
        return {number}

    with Flow("sets", result=result) as flow:
        one_set.map([1, 2])
        one_set(3)
    return flow


def files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


@pytest.fixture
def url(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FLOWLOOP_HOME", str(tmp_path / "home"))
    return database_url


async def test_results_go_with_their_runs(url: str, tmp_path: Path) -> None:
    settings, folder = Settings(home=str(tmp_path / "home")), tmp_path / "home" / "results"
    await ran(url, flow_of(DefaultResult()), settings)
    assert files(folder) == 3
    async with Store(url) as store:
        assert (await store.prune(datetime.timedelta(days=1)))["results"] == 0
        assert files(folder) == 3
        pruned = await store.prune(NOW)
    assert (pruned["flow_run"], pruned["results"], pruned["results_left"]) == (1, 3, 0)
    assert files(folder) == 0


async def test_what_a_run_that_stays_names_stays(url: str, tmp_path: Path) -> None:
    settings, folder = Settings(home=str(tmp_path / "home")), tmp_path / "home" / "results"
    flow = flow_of(DefaultResult(), cache_for=datetime.timedelta(hours=1))
    await ran(url, flow, settings)
    between = datetime.datetime.now(datetime.UTC)
    await ran(url, flow, settings)  # which is served from the cache
    kept = files(folder)
    async with Store(url) as store:
        pruned = await store.prune(datetime.datetime.now(datetime.UTC) - between)
        assert pruned["flow_run"] == 1
        assert files(folder) == kept
        assert (await store.prune(NOW))["results"] == kept
    assert files(folder) == 0


async def test_no_file_is_deleted_where_nobody_has_named_its_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ran(url, flow_of(LocalResult(tmp_path / "own")), Settings(home=str(tmp_path / "home")))
    monkeypatch.setattr(trusted, "_NAMED", set())  # as in a process that does not know the flow
    async with Store(url) as store:
        pruned = await store.prune(NOW)
    assert (pruned["flow_run"], pruned["results"], pruned["results_left"]) == (1, 0, 3)
    assert files(tmp_path / "own") == 3
