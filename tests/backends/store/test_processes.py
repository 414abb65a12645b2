"""Several processes on one database."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import pytest

from flowloop.backends.store import ANYONE, Store
from flowloop.backends.store.databases import sqlite
from flowloop.engine.errors import BackendUnavailable

from .world import FENCED, World

PROCESSES = 4
RUNS = 100


async def test_processes_that_claim_the_same_runs_get_each_once_and_never_meet_a_lock(
    world: World, database_url: str
) -> None:
    await world.build()
    await world.start()
    rows = await world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(RUNS)
    )
    ids = [row["id"] for row in rows]
    script = Path(__file__).with_name("writer_process.py")
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, str(script), database_url, *ids, stdout=pipe, stderr=pipe)
        for _ in range(PROCESSES)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors.decode()
    got = [line for output, _ in outputs for line in output.decode().split()]
    assert sorted(got) == sorted(ids)
    states = await world.rows("task_run_state")
    for row in rows:
        mine = sorted((state["version"], state["state"]) for state in states if state["task_run_id"] == row["id"])
        assert mine == [(1, "Pending"), (2, "Running"), (3, "Success")]


async def test_a_write_waits_for_another_process_within_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr(sqlite, "BUSY_LIMIT", 0.1)
    path = tmp_path / "f.db"
    async with Store(f"sqlite:///{path}") as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert await store.list_flow_runs(ANYONE) == [], "readers do not wait"
        with pytest.raises(BackendUnavailable, match="another process kept the database locked"):
            await store.default_tenant(ANYONE)
        monkeypatch.setattr(sqlite, "BUSY_LIMIT", 60.0)
        write = asyncio.create_task(store.default_tenant(ANYONE))
        await store.list_flow_runs(ANYONE)
        other.execute("COMMIT")
        other.close()
        assert set(await write) == {"id"}
