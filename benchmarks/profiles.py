"""Where the time goes: a sampling profile of what bounds the numbers, by component.

py-spy looks at a process two hundred times a second, C code included, and each sample counts for the innermost frame
that belongs to a component. Threads that wait do not count.
"""

from __future__ import annotations

import collections
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .harness import Row, one_row, seconds
from .recorded_run import recorded_seconds
from .recording import places, scratch, settings, transitions_alone
from .workloads import WORKLOADS, checked_run

TITLE = "Where the time goes"

_RATE = "200"
_SECONDS = {"quick": 4, "full": 12}
_SUBJECTS = {
    "engine, fan-out": "engine:fan-out, reduce",
    "engine, layers": "engine:layers",
    "engine, map": "engine:map, reduce",
    "engine, chain": "engine:chain",
    "transitions, embedded FULL": "transitions:embedded, FULL",
    "transitions, HTTP client": "transitions:HTTP, SQLite NORMAL",
    "recorded run, embedded FULL": "recorded:embedded, FULL",
    "recorded run, HTTP client": "recorded:HTTP, SQLite NORMAL",
}

_IDLE = (
    "wait (threading.py",
    "select (selectors.py",
    "_worker (concurrent/futures/thread.py",
    "get (queue.py",
    "_connection_worker_thread (aiosqlite",
)
"""Innermost Python frames of threads that wait."""

_COMPONENTS: tuple[tuple[str, str], ...] = (
    ("gc_collect", "garbage collection"),
    ("engine/state.py", "states and results"),
    ("engine/result.py", "states and results"),
    ("engine/results/", "states and results"),
    ("engine/serialization/", "state documents"),
    ("engine/cloud/", "cloud runner"),
    ("engine/task_runner.py", "task runner"),
    ("engine/runner.py", "task runner"),
    ("engine/_rules.py", "task runner"),
    ("engine/_mapping.py", "drive and ledger"),
    ("engine/_drive.py", "drive and ledger"),
    ("engine/_ledger.py", "drive and ledger"),
    ("engine/", "engine, the rest"),
    ("backends/batcher.py", "batcher"),
    ("backends/_circuit.py", "batcher"),
    ("backends/store/sqlite.py", "SQLite statements"),
    ("backends/store/postgres.py", "PostgreSQL statements"),
    ("backends/store/", "rules of the store"),
    ("backends/server/", "GraphQL server"),
    ("backends/", "client and embedded backend"),
    ("sqlalchemy/", "SQLAlchemy"),
    ("aiosqlite/", "SQLAlchemy"),
    ("gql/", "gql and GraphQL"),
    ("graphql/", "gql and GraphQL"),
    ("httpx/", "httpx"),
    ("httpcore/", "httpx"),
    ("h11/", "httpx"),
    ("uvicorn/", "uvicorn, starlette"),
    ("starlette/", "uvicorn, starlette"),
    ("benchmarks/", "bodies and the benchmark"),
    ("asyncio/", "event loop"),
    ("anyio/", "event loop"),
    ("uvloop", "event loop"),
)


def run(scale: str) -> list[Row]:
    """Profile each subject in a process of its own."""
    rows: list[Row] = []
    for case, subject in _SUBJECTS.items():
        command = [sys.executable, "-m", "benchmarks.profiles", subject, str(_SECONDS[scale])]
        counts = _components(_sampled([*command]))
        total = sum(counts.values())
        for component, count in counts.most_common():
            if count / total >= 0.01:
                rows.append(one_row(case, component, "%", [100 * count / total]))
    return rows


def _sampled(command: list[str]) -> list[str]:
    """Return the samples of a process, each as its frames, outermost first, and a count."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples"
        py_spy = Path(sys.executable).parent / "py-spy"
        options = ["--native", "--rate", _RATE, "--format", "raw", "--output", str(file)]
        subprocess.run(
            [str(py_spy), "record", *options, "--", *command],
            cwd=Path(__file__).parent.parent,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return file.read_text().splitlines()


def _components(samples: list[str]) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    for sample in samples:
        stack, _, count = sample.rpartition(" ")
        frames = stack.split(";")
        innermost = next((frame for frame in reversed(frames) if ".py:" in frame), "")
        if "importlib" in stack or any(idle in innermost for idle in _IDLE):
            continue
        component = _component(frames)
        if component is not None:
            counts[component] += int(count)
    return counts


def _component(frames: list[str]) -> str | None:
    for frame in reversed(frames):
        for pattern, component in _COMPONENTS:
            if pattern in frame:
                return component
    return None


# -- what is profiled, in its own process ------------------------------------------------------------------


def _repeat(once: Callable[[], object], limit: float) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        once()


def _subject(kind: str, name: str, limit: float) -> None:
    if kind == "engine":
        workload = WORKLOADS[name]
        flow, last = workload.flow(10_000)
        body = functools.partial(checked_run, flow, last, workload.answer(10_000))
        _repeat(functools.partial(seconds, body), limit)
        return
    with scratch() as folder, places([name]) as found:
        options = settings(folder)
        if kind == "transitions":
            _repeat(functools.partial(transitions_alone, found[name], options, 20_000, 2_000), limit)
        else:
            _repeat(functools.partial(recorded_seconds, found[name], options, "map, reduce", 10_000), limit)


if __name__ == "__main__":
    _subject(*sys.argv[1].split(":", 1), float(sys.argv[2]))
