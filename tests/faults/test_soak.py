"""A server and two workers that run small flows for a long time: every run ends, and nothing of theirs grows.

``--soak`` says for how many minutes; without it there is nothing to see. Old runs are deleted meanwhile, so that the
database has as many rows at the end as after the first third, of which nothing is asked.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sqlite3
import sys
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import msgspec
import psutil
import pytest

from flowloop.backends import connect
from flowloop.backends.cli.flow_file import load_flow
from flowloop.engine import Flow, Settings
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import create_flow_run

from ..commands import environment
from .test_kills import killed_server

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(0)]

CLIENTS = 8
"""So many have a run each at a time, and begin the next when that has ended, and so many seconds have passed."""

PACE = 4.0

KEPT_MINUTES = 2.0
LOOKS = 240
LONGEST_LOG = 140.0
"""MiB: SQLite's log begins anew at 128."""

FLOW = """
    from flowloop.engine import Flow, Parameter, context, task


    @task
    async def numbers(count):
        return list(range(count))


    @task(max_retries=1, retry_delay=0)
    async def work(number):
        context.logger.info("work on %d", number)
        if number == 1 and context.task_run_count == 1:
            raise ValueError("once more")
        return "x" * 1_000


    @task
    async def total(worked, is_bad):
        if is_bad:
            raise ValueError("bad")
        return len(worked)


    with Flow("soaked") as flow:
        total(work.map(numbers(Parameter("count", default=5))), Parameter("is_bad", default=False))
"""


class Look(msgspec.Struct, frozen=True):
    """What a process had at some time."""

    minute: float
    memory: float
    files: int
    threads: int


class Watched:
    """A process, and what was seen of it."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self._process = psutil.Process(pid)
        self.looks: list[Look] = []

    def look(self, minute: float) -> None:
        with self._process.oneshot():
            memory = self._process.memory_info().rss / 2**20
            self.looks.append(Look(minute, memory, self._process.num_fds(), self._process.num_threads()))

    def told(self) -> str:
        late = self._late()
        by = slope(late)
        return f"{self.name}: {late[-1].memory:.0f} MiB, {by:+.3f} MiB a minute, {late[-1].files} files"

    def _late(self) -> list[Look]:
        return self.looks[len(self.looks) // 3 :]

    def check(self) -> None:
        """Check that nothing has grown since the first third of the time."""
        late = self._late()
        grown = slope(late) * (late[-1].minute - late[0].minute)
        assert grown < 0.1 * late[0].memory, f"{self.name} has grown by {grown:.1f} MiB: {self.looks}"
        half = len(late) // 2
        for what in ("files", "threads"):
            first, second = (max(getattr(look, what) for look in some) for some in (late[:half], late[half:]))
            assert second <= first + 3, f"{self.name} had {first} {what} at most, then {second}"


def slope(looks: list[Look]) -> float:
    """Return by how many MiB a minute memory grows, by least squares."""
    minute = sum(look.minute for look in looks) / len(looks)
    memory = sum(look.memory for look in looks) / len(looks)
    spread = sum((look.minute - minute) ** 2 for look in looks)
    return sum((look.minute - minute) * (look.memory - memory) for look in looks) / spread


def in_use(database: Path) -> float:
    """Return how many KiB of the file are in use for each flow run that it has."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        (runs,) = connection.execute("SELECT count(*) FROM flow_run").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (page,) = connection.execute("PRAGMA page_size").fetchone()
    return page * (pages - free) / 1024 / max(runs, 1)


def megabytes(path: Path) -> float:
    return path.stat().st_size / 2**20 if path.exists() else 0.0


async def end(backend: Backend, flow_run_id: str) -> str:
    while True:
        watching = backend.watch_flow_run(flow_run_id)
        assert watching is not None
        async with watching as states:
            async for state in states:
                if state.is_finished():
                    return type(state).__name__


async def run_again_and_again(
    flow: Flow, backend: Backend, numbers: Iterator[int], is_over: Callable[[], bool], ends: Counter[str]
) -> None:
    for number in numbers:
        if is_over():
            return
        begun = time.monotonic()
        is_bad = number % 10 == 0
        flow_run_id = await create_flow_run(flow, backend, parameters={"is_bad": is_bad})
        ended = await end(backend, flow_run_id)
        assert ended == ("Failed" if is_bad else "Success")
        ends[ended] += 1
        await asyncio.sleep(begun + PACE - time.monotonic())


@asynccontextmanager
async def worker(url: str, folder: Path, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    code = "from flowloop.backends.cli import main; main()"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, "worker", "flows.py:flow", "--backend", url),
            stdout=file,
            stderr=file,
            cwd=folder,
            env=environment(folder),
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_nothing_grows(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = float(request.config.getoption("--soak"))
    if not minutes:
        pytest.skip("a soak takes a while: --soak MINUTES")
    (tmp_path / "flows.py").write_text(textwrap.dedent(FLOW))
    flow = load_flow(f"{tmp_path / 'flows.py'}:flow")
    kept = min(KEPT_MINUTES, minutes / 10)
    extra = {
        "FLOWLOOP_SERVER_RETENTION_DAYS": str(kept / 1440),
        "FLOWLOOP_SERVER_RETENTION_SECONDS": str(kept * 60 / 5),
    }
    ends: Counter[str] = Counter()
    database = tmp_path / "runs.db"
    sizes: list[float] = []
    logs: list[float] = []
    begun = time.monotonic()

    def now() -> float:
        return (time.monotonic() - begun) / 60

    async with (
        killed_server(tmp_path, extra) as server,
        connect(server.url, settings=Settings(home=str(tmp_path))) as backend,
        worker(server.url, tmp_path, tmp_path / "first.log") as first,
        worker(server.url, tmp_path, tmp_path / "second.log") as second,
    ):
        watched = [Watched("server", server.pid), Watched("worker", first.pid), Watched("other worker", second.pid)]
        numbers = itertools.count()
        async with anyio.create_task_group() as group:
            for _ in range(CLIENTS):
                group.start_soon(run_again_and_again, flow, backend, numbers, lambda: now() > minutes, ends)
            while now() < minutes:
                await asyncio.sleep(minutes * 60 / LOOKS)
                sizes.append(in_use(database))
                logs.append(megabytes(database.with_name("runs.db-wal")))
                for one in watched:
                    one.look(now())
        left = [run for run in await backend.list_flow_runs(limit=1_000) if run.state not in ends]
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        assert await server.end(signal.SIGTERM) == 0
    with capsys.disabled():
        print(f"{minutes:g} minutes, {ends.total()} runs: {dict(ends)}; {'; '.join(one.told() for one in watched)}")
        print(
            f"database: {megabytes(database):.1f} MiB, its log: {max(logs):.0f} MiB at most; "
            f"KiB in use for each run there: {[round(one) for one in sizes[:: LOOKS // 12]]}"
        )
    assert not left
    for one in watched:
        one.check()
    late = sizes[len(sizes) // 3 :]
    half = len(late) // 2
    assert max(late[half:]) < 1.2 * max(late[:half]), f"the database grows beyond its rows: {sizes}"
    assert max(logs) < LONGEST_LOG
