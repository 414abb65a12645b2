"""The runner, or the server, is killed again and again: the run goes on, and nothing is lost or done twice.

``--tries`` says how often.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from flowloop.backends import connect
from flowloop.engine import Settings
from flowloop.engine.cloud import create_flow_run

from ..commands import environment
from .mapped import check, history, mapped_flow, runner

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(300)]


def quiet(line: str) -> None: ...


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--tries"))


async def test_a_runner_that_is_killed_again_and_again(tmp_path: Path, tries: int) -> None:
    rng = random.Random(20)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    flow, kills = mapped_flow(quiet), 0
    while kills < tries:
        async with connect(url) as backend:
            flow_run_id = await create_flow_run(flow, backend)
        lines: list[str] = []
        while True:
            heard = rng.randrange(120) if kills < tries else None
            said, killed = run_and_kill(url, flow_run_id, tmp_path, heard)
            lines += said
            kills += killed
            if not killed:
                break
        async with connect(url) as backend:
            assert (await backend.get_flow_run_state(flow_run_id)).is_successful()
            check(lines, await history(backend, flow_run_id), again=True)


def run_and_kill(url: str, flow_run_id: str, folder: Path, heard: int | None) -> tuple[list[str], bool]:
    """Run the flow run in a process, and kill that when it has said so many lines.

    Returns:
        - all lines, and whether it was killed
    """
    command = [sys.executable, str(Path(__file__).parent / "mapped.py"), url, flow_run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(folder)) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if len(lines) == heard:
                process.kill()
    assert process.returncode in (0, -9), "the runner failed by itself"
    return lines, process.returncode == -9


class KilledServer:
    """``flowloop server`` on a database, always at the same address."""

    def __init__(self, db: str, folder: Path) -> None:
        self._db = db
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        code = "from flowloop.backends.cli import main; main()"
        port = self.url.rpartition(":")[2] or "0"
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, "server", "--db", self._db, "--port", port),
            stdout=asyncio.subprocess.PIPE,
            env=environment(self._folder),
        )
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        assert line.startswith("flowloop serves "), line
        self.url = line.split()[2]

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def killed_server(tmp_path: Path) -> AsyncIterator[KilledServer]:
    server = KilledServer(f"sqlite:///{tmp_path / 'runs.db'}", tmp_path)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


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
            await server.kill()
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


async def test_a_server_that_is_killed_again_and_again(tmp_path: Path, tries: int) -> None:
    rng = random.Random(21)
    async with killed_server(tmp_path) as server:
        await run_while(server, tmp_path, [(count, 0) for count in sorted(rng.sample(range(5, 850), tries))])


async def test_a_server_that_is_away_for_some_seconds(tmp_path: Path) -> None:
    async with killed_server(tmp_path) as server:
        await run_while(server, tmp_path, [(400, 3)])
