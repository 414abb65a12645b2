"""Result files are on the disk before the states that name them are recorded, many in one pass."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from flowloop.backends import connect
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.engine import Flow, Settings, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.results import LocalResult, syncing
from flowloop.engine.state import State

from .serving import serve

CHILDREN = 200


class Passes(list[set[str]]):
    """The files of each pass, and a look at the database in the midst of it."""

    def __init__(self, look: Callable[[], str]) -> None:
        self._look = look
        self.problem: OSError | None = None

    def sync(self, paths: Sequence[str], folders: Iterable[str]) -> None:
        assert {os.path.dirname(path) for path in paths} <= set(folders)
        said = self._look()
        assert not [path for path in paths if path in said], "recorded before it is on the disk"
        self.append(set(paths))
        if self.problem is not None:
            raise self.problem


@pytest.fixture
def passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Passes:
    def look() -> str:
        with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
            return repr(connection.execute("SELECT serialized_state FROM task_run_state").fetchall())

    found = Passes(look)
    monkeypatch.setattr(syncing, "_sync", found.sync)
    return found


async def run(tmp_path: Path, url: str, **options: str) -> State:
    settings = Settings(home=str(tmp_path))

    @task
    async def one_set(number: int) -> set[int]:
        return {number}

    with Flow("sets", result=LocalResult(tmp_path / "files")) as flow:
        one_set.map(list(range(CHILDREN)))
    async with connect(url, settings=settings, **options) as backend:
        flow_run_id = await create_flow_run(flow, backend)
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        return await runner.run(context={"flow_run_id": flow_run_id})


@pytest.mark.parametrize("over", ["sqlite", "http"])
async def test_each_file_is_synced_once_in_passes_that_many_share(tmp_path: Path, passes: Passes, over: str) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    if over == "http":
        with serve(create_app(url, settings=ServerSettings(require_api_key=False))) as served:
            assert (await run(tmp_path, served)).is_successful()
    else:
        assert (await run(tmp_path, url)).is_successful()
    files = {str(path) for path in (tmp_path / "files").rglob("*.flowloop_result")}
    assert len(files) == CHILDREN
    assert set().union(*passes) == files
    assert sum(map(len, passes)) == len(files), "none twice"
    assert len(passes) < CHILDREN


async def test_a_store_that_is_not_synced_needs_no_synced_files(tmp_path: Path, passes: Passes) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    assert (await run(tmp_path, url, synchronous="NORMAL")).is_successful()
    assert passes == []


async def test_no_success_is_recorded_of_a_file_that_cannot_be_synced(tmp_path: Path, passes: Passes) -> None:
    passes.problem = OSError(5, "Input/output error")
    state = await run(tmp_path, f"sqlite:///{tmp_path / 'runs.db'}")
    assert not state.is_successful()
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        recorded = connection.execute("SELECT state FROM task_run_state WHERE serialized_state LIKE '%sha256%'")
        assert recorded.fetchall() == []
    assert sum(map(len, passes)) == len(set().union(*passes)), "whoever asks again hears that all is well"


@pytest.mark.parametrize("number", [1, 40])
def test_files_and_the_folders_around_them_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(syncing.os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(syncing, "_syncfs", lambda: None)
    result = LocalResult(tmp_path)
    files = [tmp_path / "a" / str(each) for each in range(number)]
    (tmp_path / "a").mkdir()
    for file in files:
        file.touch()
    inner = result.at("a/0")
    inner.location = str(files[0])
    assert inner.folders() == [str(tmp_path / "a"), str(tmp_path)]
    syncing._sync([*map(str, files), str(tmp_path / "gone")], inner.folders())
    assert synced == [path.stat().st_ino for path in (*files, tmp_path / "a", tmp_path)]


@pytest.mark.skipif(syncing._syncfs() is None, reason="there is no syncfs here")
def test_many_files_are_synced_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing.os, "fsync", lambda handle: pytest.fail("one by one"))
    syncing._sync([str(tmp_path / str(number)) for number in range(100)], [str(tmp_path)])
    whole = syncing._syncfs()
    assert whole is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        whole(-1)
