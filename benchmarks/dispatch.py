"""From the creation of a flow run in one process to its first body on a worker in another; and a queue that is emptied.

``python -m benchmarks.dispatch URL`` is the worker: it prints the moment of each body, of the clock that all processes
of a machine share.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flowloop.backends import connect
from flowloop.backends.worker import Worker
from flowloop.engine import Flow, Settings, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import create_flow_run, register_flow

from .harness import Row, Sample, compare, one_row
from .recording import Place, open_backend, percentile, places, scratch, settings

TITLE = "From a flow run's creation to its first body on a worker of another process"

PLACES = ("embedded, FULL", "HTTP, SQLite FULL", "HTTP, PostgreSQL")
_COUNT = {"quick": 50, "full": 500}
QUEUED = 1_000
_IDLE = 5.0
"""Seconds for which a worker without work is watched."""


@task
async def body() -> None:
    print(time.monotonic(), flush=True)


with Flow("dispatch") as flow:
    body()


def run(scale: str) -> list[Row]:
    """Measure each place."""
    with scratch() as folder, places(PLACES) as found:
        options = settings(folder)
        count = _COUNT[scale]
        alone = {name: functools.partial(latencies, place, options, count) for name, place in found.items()}
        rows = compare("an idle queue", alone, unit="ms", rounds=1, size=count, warm_up=False)
        for name, place in found.items():
            share = asyncio.run(idle_share(place))
            rows.append(one_row("an idle worker", name, "% of a core", [share * 100]))
        queued = {name: functools.partial(emptied, place, options) for name, place in found.items()}
        rows += compare("a full queue", queued, unit="flow runs/s", rounds=1, size=QUEUED, warm_up=False)
    return rows


@asynccontextmanager
async def worker(place: Place) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker in a process of its own, at work already."""
    command = [sys.executable, "-m", "benchmarks.dispatch", place.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield process
    finally:
        process.terminate()
        await process.wait()


async def begun(process: asyncio.subprocess.Process) -> float:
    """Wait for the next body, and return the moment it began."""
    assert process.stdout is not None
    return float(await process.stdout.readline())


def latencies(place: Place, options: Settings, count: int) -> Sample:
    """Create flow runs, each when the one before has begun, and return the median from its creation to its body."""

    async def measured() -> list[float]:
        async with open_backend(place, options) as backend, worker(place) as process:
            found = []
            for number in range(-5, count):
                start = time.monotonic()
                await create_flow_run(flow, backend, settings=options)
                took = await begun(process) - start
                if number >= 0:
                    found.append(took * 1e3)
                await asyncio.sleep(0.02)  # the worker is idle again
            return sorted(found)

    found = asyncio.run(measured())
    return Sample(percentile(found, 0.5), {"p50 ms": percentile(found, 0.5), "p99 ms": percentile(found, 0.99)})


async def idle_share(place: Place) -> float:
    """Return how much of a core a worker takes that has nothing to do."""
    async with worker(place) as process:
        await asyncio.sleep(1.0)  # it has looked once
        before = _cpu_seconds(process.pid)
        await asyncio.sleep(_IDLE)
        return (_cpu_seconds(process.pid) - before) / _IDLE


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def fill_queue(backend: Backend, options: Settings) -> None:
    """Create the flow runs of a full queue."""
    await register_flow(flow, backend, settings=options)
    for _ in range(QUEUED // 100):
        await asyncio.gather(*(create_flow_run(flow, backend, settings=options) for _ in range(100)))


def emptied(place: Place, options: Settings) -> Sample:
    """Queue flow runs, and return how many a second one worker takes and ends."""

    async def measured() -> float:
        async with open_backend(place, options) as backend:
            await fill_queue(backend, options)
            start = time.monotonic()
            async with worker(place) as process:
                first = await begun(process)
                for _ in range(QUEUED - 1):
                    last = await begun(process)
            assert first >= start
            return (QUEUED - 1) / (last - first)

    return Sample(asyncio.run(measured()))


async def _work(url: str) -> None:
    with tempfile.TemporaryDirectory(prefix="flowloop-bench-") as home:
        options = Settings(home=home)
        backend: Backend
        async with connect(url, settings=options) as backend, Worker(backend, {flow.name: flow}, settings=options):
            print("ready", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1]))
