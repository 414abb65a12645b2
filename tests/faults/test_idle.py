"""Thousands of idle connections to one server: it answers others meanwhile, tells them of changes, and closes them.

``--tries`` says how many hundreds of them; it is told what each costs.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from flowloop.backends import connect
from flowloop.engine import Settings
from flowloop.engine.cloud import create_flow_run
from flowloop.engine.state import Running

from ..commands import ROOT, environment
from .mapped import mapped_flow
from .test_kills import killed_server, quiet

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(3600)]

CLIENTS = 2
FILES = 256
SPARE = 50
"""So many connections the server may have above those that are idle."""


@contextmanager
def few_files() -> Iterator[None]:
    """Have what is started in the block open few files, if it asks for no more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def client(url: str, flow_run_id: str, count: int, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.idle", url, flow_run_id, str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(folder),
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def says(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def slowest_answer(url: str, number: int = 50) -> float:
    """Ask for the flow runs so many times, and return the longest wait, in seconds."""
    slowest = 0.0
    async with httpx.AsyncClient(timeout=60) as asking:
        for _ in range(number):
            begun = time.perf_counter()
            given = await asking.post(url, json={"query": "{ flow_run { id state } }"})
            assert "errors" not in given.json(), given.text
            slowest = max(slowest, time.perf_counter() - begun)
    return slowest


def refusals(url: str, number: int) -> int:
    """Open so many connections more, and return how many of them are told to come again; all others are answered."""
    with ExitStack() as stack:
        address = ("127.0.0.1", httpx.URL(url).port or 80)
        opened = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(number)]
        answers = [answer(one) for one in opened]
    refused = [one for one in answers if not one.startswith(b"HTTP/1.1 200")]
    assert all(b"Retry-After" in one for one in refused)
    return len(refused)


def answer(connection: socket.socket) -> bytes:
    """Ask, and return what is heard: who refuses before it is asked cuts whoever asks then, but has said so."""
    with suppress(ConnectionError):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return connection.recv(65_536)


async def test_idle_connections(tmp_path: Path, tries: int, capsys: pytest.CaptureFixture[str]) -> None:
    count = 100 * tries
    limits = {"FLOWLOOP_SERVER_CONNECTION_LIMIT": count + SPARE, "FLOWLOOP_SERVER_SUBSCRIBER_LIMIT": count}
    extra = {name: str(limit) for name, limit in limits.items()}
    async with AsyncExitStack() as stack:
        with few_files():
            server = await stack.enter_async_context(killed_server(tmp_path, extra))
        process = psutil.Process(server.pid)
        async with connect(server.url, settings=Settings(home=str(tmp_path))) as backend:
            flow_run_id = await create_flow_run(mapped_flow(quiet), backend)
            alone = await slowest_answer(server.url)
            before, begun = process.memory_info().rss, time.perf_counter()
            shares = [(count + number) // CLIENTS for number in range(CLIENTS)]
            clients = [
                await stack.enter_async_context(client(server.url, flow_run_id, share, tmp_path)) for share in shares
            ]
            assert [await says(one) for one in clients] == ["open"] * CLIENTS
            opening, each = time.perf_counter() - begun, (process.memory_info().rss - before) / count
            amid = await slowest_answer(server.url)
            await backend.set_flow_run_state(flow_run_id, 1, Running())
            for one in clients:
                assert one.stdin is not None
                one.stdin.write(b"\n")
            assert [await says(one) for one in clients] == ["heard"] * CLIENTS
            refused = refusals(server.url, 2 * SPARE)
            assert SPARE <= refused < 2 * SPARE, "it is not the limit that refuses them"
            await slowest_answer(server.url)
        begun = time.perf_counter()
        assert await server.end(signal.SIGTERM) == 0
        stopping = time.perf_counter() - begun
        ends: Counter[str] = Counter()
        for one in clients:
            ends.update({end: int(n) for end, n in (pair.split(":") for pair in (await says(one)).split())})
    with capsys.disabled():
        print(
            f"{count} idle connections: {each / 1024:.0f} KiB each, opened in {opening:.0f} s; the slowest of 50 "
            f"queries took {1000 * alone:.0f} ms before and {1000 * amid:.0f} ms amid them; {refused} more were told "
            f"to come again; closed in {stopping:.1f} s: {dict(ends)}"
        )
    streams = sum(len(range(1, share, 10)) for share in shares)
    assert ends == {"1012": count - streams, "cut": streams}
