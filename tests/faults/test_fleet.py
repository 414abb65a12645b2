"""Servers and workers that are restarted one after the other, clocks that differ, and runs that were due meanwhile.

``--tries`` says how often the whole fleet is restarted (once in five), and how many runs meet different clocks.
"""

from __future__ import annotations

import asyncio
import datetime
import signal
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from flowloop.backends import connect
from flowloop.backends.cli.flow_file import load_flow
from flowloop.backends.worker import Worker
from flowloop.engine import Flow, Settings, context, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import create_flow_run, register_flow
from flowloop.engine.schedules import IntervalSchedule

from ..commands import heard, own_port, start
from ..forks import Command

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(3600)]


async def ended(backend: Backend, flow_run_ids: list[str]) -> Counter[str]:
    """Wait until all are finished, and count their states."""
    while True:
        states = [await backend.get_flow_run_state(one) for one in flow_run_ids]
        if all(state.is_finished() for state in states):
            return Counter(type(state).__name__ for state in states)
        await asyncio.sleep(0.2)


# -- a rolling restart ---------------------------------------------------------------------------------

FLOW = """
    import os

    import anyio

    from flowloop.engine import Flow, context, task


    @task
    async def work():
        with open(os.environ["HERE"] + "/" + context.flow_run_id, "a") as file:
            file.write(f"{os.getpid()}\\n")
        await anyio.sleep(0.5)


    with Flow("rolled") as flow:
        work()
"""


class Fleet:
    """Two servers on one database, and three workers, each a process."""

    def __init__(self, db: str, ports: tuple[int, int], folder: Path) -> None:
        self._db, self._ports, self._folder = db, ports, folder
        # nobody reads on what they say, and a pipe that is full would stop them
        self._extra = {"HERE": str(folder), "FLOWLOOP_LOG_LEVEL": "WARNING"}
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.killed: set[int] = set()
        self.servers = [self._serve(number) for number in range(2)]
        self.workers = [self._work(number) for number in range(3)]

    def _serve(self, number: int) -> Command:
        port = str(self._ports[number])
        server = start("server", "--db", self._db, "--port", port, cwd=self._folder, extra=self._extra)
        heard(server, "flowloop serves ")
        return server

    def _work(self, number: int) -> Command:
        url = self.urls[number % 2]
        command = ("worker", "flows.py:flow", "--concurrency", "3", "--backend", url)
        worker = start(*command, cwd=self._folder, extra=self._extra)
        heard(worker, "flowloop works on ")
        return worker

    def restart(self) -> None:
        """Restart each process after the other as an upgrade does, and in the end one that is killed."""
        for number, server in enumerate(self.servers):
            self._stopped(server)
            self.servers[number] = self._serve(number)
        for number, worker in enumerate(self.workers):
            self._stopped(worker)
            self.workers[number] = self._work(number)
        victim = self.workers[0]
        self.killed.add(victim.pid)
        victim.kill()
        victim.communicate()
        self.workers[0] = self._work(0)

    def _stopped(self, process: Command) -> None:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said

    def close(self) -> None:
        for process in (*self.workers, *self.servers):
            with process:
                process.kill()


@pytest.fixture
def fleet(postgres_url: str, tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "flows.py").write_text(textwrap.dedent(FLOW))
    with own_port() as one, own_port() as other:
        made = Fleet(postgres_url, (one, other), tmp_path)
        yield made
        made.close()


async def test_a_rolling_restart_doubles_nothing(fleet: Fleet, tmp_path: Path, tries: int) -> None:
    flow = load_flow(f"{tmp_path / 'flows.py'}:flow")
    ids: list[str] = []
    async with connect(fleet.urls[0], settings=Settings(home=str(tmp_path))) as backend:
        is_done = anyio.Event()

        async def order() -> None:
            while not is_done.is_set():
                ids.append(await create_flow_run(flow, backend))
                await anyio.sleep(0.2)

        async with anyio.create_task_group() as group:
            group.start_soon(order)
            for _ in range(max(1, tries // 5)):
                await anyio.to_thread.run_sync(fleet.restart)
            is_done.set()
        assert await ended(backend, ids) == {"Success": len(ids)}
    for one in ids:
        began = [int(line) for line in (tmp_path / one).read_text().split()]
        others = [pid for pid in began if pid not in fleet.killed]
        assert len(began) == 1 or (len(others) == 1 and len(began) == 2), f"{one} began in {began}"


# -- clocks --------------------------------------------------------------------------------------------


class Shifted:
    """A clock that goes wrong by so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._shift = datetime.timedelta(seconds=seconds)

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self._shift


async def test_clocks_that_are_90_seconds_apart(database_url: str, tmp_path: Path, tries: int) -> None:
    began: Counter[str] = Counter()

    @task
    async def work() -> None:
        began[context.flow_run_id] += 1
        await anyio.sleep(1)

    with Flow("clocks") as flow:
        work()
    settings = Settings(home=str(tmp_path), heartbeat_interval=10)  # a lease is shorter than 90 s
    async with (
        connect(database_url, settings=settings, clock=Shifted(-45)) as slow,
        connect(database_url, settings=settings, clock=Shifted(45)) as fast,
    ):
        ids = [await create_flow_run(flow, slow) for _ in range(2 * tries)]  # which are due by both clocks
        async with Worker(slow, {"clocks": flow}, settings=settings, concurrency=tries):
            await asyncio.sleep(0.3)
            async with Worker(fast, {"clocks": flow}, settings=settings, concurrency=2 * tries):
                assert await ended(slow, ids) == {"Success": len(ids)}
    assert began == dict.fromkeys(ids, 1)


# -- late runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "ran"), [("all", 6), ("latest", 1), ("none", 0), ("within:1500", 2)], ids=lambda value: str(value)
)
async def test_runs_that_were_due_while_nobody_was_there(
    database_url: str,
    tmp_path: Path,
    policy: str,
    ran: int,
) -> None:
    settings = Settings(home=str(tmp_path), late_runs=policy)
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    minute = datetime.timedelta(minutes=1)
    # due 57, 47, 37, 27, 17 and 7 minutes ago
    with Flow("late", schedule=IntervalSchedule(start_date=then + 3 * minute, interval=10 * minute)) as flow:
        task(lambda: 1, name="one")()

    class Then:
        def now(self) -> datetime.datetime:
            return then

    async with connect(database_url, settings=settings, clock=Then(), schedules=True) as backend:
        await register_flow(flow, backend, settings=settings)
        await backend.store.run_scheduler()  # type: ignore[attr-defined]
        planned = await backend.list_flow_runs(limit=100)
    now = datetime.datetime.now(datetime.UTC)
    due = [run.id for run in planned if run.scheduled_start_time is not None and run.scheduled_start_time <= now]
    async with connect(database_url, settings=settings) as backend, Worker(backend, {"late": flow}, settings=settings):
        states = await ended(backend, due)
    assert (states["Success"], states["Skipped"]) == (ran, len(due) - ran)
