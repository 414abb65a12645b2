"""The runner, or the server, is killed again and again: the run goes on, and nothing is lost or done twice.

``--tries`` says how often, ``--seed`` when; each test says how many kills there were.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from flowloop.backends import connect
from flowloop.engine import Settings
from flowloop.engine.cloud import create_flow_run

from ..commands import environment, heard, own_port, start
from ..forks import Command
from .mapped import CHILDREN, check, history, mapped_flow, runner

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(7200)]


LINES = 3 * CHILDREN
"""As many lines a run says at least: of each child that it begins, and its two states."""

KILLS_OF_ONE_RUN = 25


def quiet(line: str) -> None: ...


async def test_a_runner_that_is_killed_again_and_again(
    url: str, tmp_path: Path, tries: int, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    flow, runs, kills, amid = mapped_flow(quiet), 0, 0, 0
    async with connect(url) as backend, Runners.forked(tmp_path) as runners:
        while kills < tries:
            flow_run_id = await create_flow_run(flow, backend)
            runs += 1
            lines: list[str] = []
            while True:
                kill_at = rng.randrange(-20, 120) if kills < tries else None
                said, killed = await runners.run(url, flow_run_id, kill_at)
                lines += said
                kills += killed
                amid += killed and bool(said)
                if not killed:
                    break
            assert (await backend.get_flow_run_state(flow_run_id)).is_successful()
            check(lines, await history(backend, flow_run_id), again=True)
    with capsys.disabled():
        print(f"killed runners: {kills} kills of {runs} runs, {amid} while bodies ran")


class Runners:
    """Processes that run a flow run each, one after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def forked(cls, folder: Path) -> AsyncIterator[Runners]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).parent / "mapped.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(folder),
        )
        try:
            yield cls(process)
        finally:
            process.kill()
            await process.wait()

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode().strip()
        assert line, "the runners have ended"
        return line

    async def run(self, url: str, flow_run_id: str, kill_at: int | None) -> tuple[list[str], bool]:
        """Run a flow run in a process, and kill that when it has said so many lines; below 0: before it says any.

        Returns:
            - what it said, and whether it was killed
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{url} {flow_run_id}\n".encode())
        pid = int((await self._line()).removeprefix("process "))
        lines: list[str] = []
        if kill_at is not None and kill_at < 0:
            await asyncio.sleep(-kill_at * 0.005)
            kill(pid)
        while not (line := await self._line()).startswith("ended "):
            lines.append(line)
            if len(lines) == kill_at:
                kill(pid)
        assert line in ("ended 0", f"ended {-signal.SIGKILL}"), "the runner failed by itself"
        return lines, line != "ended 0"


def kill(pid: int) -> None:
    """Kill a process, unless it has ended: what it said last may be heard later."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class KilledServer:
    """``flowloop server`` on a database, always at the same address."""

    def __init__(self, db: str, port: int, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        self._db = db
        self._port = port
        self._folder = folder
        # nobody reads on what it says, and a pipe that is full would stop it
        self._extra = {"FLOWLOOP_LOG_LEVEL": "WARNING", **(extra or {})}
        self._process: Command | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        command = ("server", "--db", self._db, "--port", str(self._port))
        self._process = await asyncio.to_thread(start, *command, cwd=self._folder, extra=self._extra)
        self.url = (await asyncio.to_thread(heard, self._process, "flowloop serves ")).split()[2]

    async def end(self, by: signal.Signals = signal.SIGKILL) -> int:
        """End it by a signal, and return its exit code."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(by)
        code = await asyncio.to_thread(self._process.wait)
        self._process.stdout.close()
        return code


@asynccontextmanager
async def killed_server(tmp_path: Path, extra: Mapping[str, str] | None = None) -> AsyncIterator[KilledServer]:
    with own_port() as port:
        server = KilledServer(f"sqlite:///{tmp_path / 'runs.db'}", port, tmp_path, extra)
        await server.start()
        try:
            yield server
        finally:
            await server.end()


class Lines(list[str]):
    """Lines that are said in this process, and a way to wait until there are enough."""

    def __init__(self) -> None:
        self._more = asyncio.Event()

    def say(self, line: str) -> None:
        self.append(line)
        self._more.set()

    async def reach(self, count: int) -> None:
        while len(self) < count:
            self._more.clear()
            await self._more.wait()


async def run_while(server: KilledServer, tmp_path: Path, away: list[tuple[int, float]]) -> None:
    """Run the flow over HTTP; after so many lines each time, kill the server, and leave it away for so many seconds."""
    lines = Lines()
    flow = mapped_flow(lines.say)

    async def haunt() -> None:
        for count, seconds in away:
            await lines.reach(count)
            await server.end()
            await asyncio.sleep(seconds)
            await server.start()

    async with connect(server.url, settings=Settings(home=str(tmp_path))) as backend:
        flow_run_id = await create_flow_run(flow, backend)
        # together: a run waits long for a server that does not come back, and a haunt for lines that nobody says
        async with anyio.create_task_group() as group:
            group.start_soon(haunt)
            state = await runner(flow, backend, lines.say).run(context={"flow_run_id": flow_run_id})
        assert state.is_successful(), state
        assert (await backend.get_flow_run_state(flow_run_id)).is_successful()
        check(lines, await history(backend, flow_run_id), again=False)


async def test_a_server_that_is_killed_again_and_again(
    tmp_path: Path, tries: int, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    left, runs = tries, 0
    async with killed_server(tmp_path) as server:
        while left > 0:
            kills = sorted(rng.sample(range(5, LINES - 50), min(left, KILLS_OF_ONE_RUN)))
            await run_while(server, tmp_path, [(count, 0) for count in kills])
            left, runs = left - len(kills), runs + 1
    with capsys.disabled():
        print(f"killed servers: {tries} kills amid {runs} runs")


async def test_a_server_that_is_away_for_some_seconds(tmp_path: Path) -> None:
    async with killed_server(tmp_path) as server:
        await run_while(server, tmp_path, [(400, 3)])
