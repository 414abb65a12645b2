"""Where the time goes: a sampling profile of what bounds the numbers, by component.

py-spy looks at a process two hundred times a second, C code included, and each sample counts for the innermost frame
that belongs to a component. Threads that wait do not count; how much of the time a process did not wait is its *busy*.
Only what the benchmark measures is sampled, no preparation. A server is looked at beside its client.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from flowloop.engine import Flow, Settings, Task

from .dispatch import QUEUED, begun, fill_queue, worker
from .flow_runs import flow_runs
from .harness import Row, missing, one_row, seconds
from .latency import chain
from .recorded_run import recorded_seconds
from .recording import Place, open_backend, places, record_transitions, running_task_runs, scratch, settings
from .sleepers import mapped, static
from .start import to_the_first_body
from .threads import returning_at_once
from .workloads import WORKLOADS, checked_run

TITLE = "Where the time goes"

_RATE = 200
_SECONDS = {"quick": 2.0, "full": 5.0}

_MILLION = "map, reduce, N = 1,000,000"
_WITHOUT_BACKEND = (
    "fan-out, reduce",
    "map, reduce",
    "chain",
    "layers",
    "map, map, reduce",
    "diamond, 10 kB",
    _MILLION,
    "sleepers, mapped",
    "sleepers, static",
    "sync bodies",
)
_RECORDED = {
    "transitions": ("embedded, FULL", "HTTP, SQLite NORMAL", "HTTP, PostgreSQL"),
    "recorded run": ("embedded, FULL", "HTTP, SQLite NORMAL", "HTTP, PostgreSQL"),
    "recorded diamond": ("embedded, FULL",),
    "strict chain": ("embedded, FULL", "HTTP, SQLite NORMAL"),
    "start": ("embedded, FULL", "HTTP, SQLite NORMAL"),
    "flow runs": ("embedded, FULL", "HTTP, SQLite FULL", "HTTP, PostgreSQL"),
    "one flow run": ("embedded, FULL", "HTTP, SQLite FULL"),
    "full queue": ("embedded, FULL", "HTTP, PostgreSQL"),
}

_IDLE = (
    "wait (threading.py",
    "select (selectors.py",
    "_worker (concurrent/futures/thread.py",
    "get (queue.py",
    "_connection_worker_thread (aiosqlite",
    "BodyThreads._run (",
)
"""Innermost Python frames of threads that wait."""

_COMPONENTS: tuple[tuple[str, str], ...] = (
    ("gc_collect", "garbage collection"),
    ("libsqlite3", "SQLite itself"),
    ("do_commit (", "SQLite itself"),
    ("sqlalchemy/", "SQLAlchemy"),
    ("aiosqlite/", "SQLAlchemy"),
    ("asyncpg/", "asyncpg"),
    ("engine/state.py", "states and results"),
    ("engine/result.py", "states and results"),
    ("engine/results/", "states and results"),
    ("engine/serialization/", "state documents"),
    ("engine/cloud/", "cloud runner"),
    ("engine/task_runner.py", "task runner"),
    ("engine/runner.py", "task runner"),
    ("engine/_run/rules.py", "task runner"),
    ("engine/_run/mapping.py", "drive and ledger"),
    ("engine/_run/drive.py", "drive and ledger"),
    ("engine/_run/ledger.py", "drive and ledger"),
    ("engine/", "other engine code"),
    ("backends/batcher.py", "batcher"),
    ("backends/_circuit.py", "batcher"),
    ("backends/store/sqlite.py", "SQLite statements"),
    ("backends/store/postgres.py", "PostgreSQL statements"),
    ("backends/store/", "rules of the store"),
    ("backends/server/", "GraphQL server"),
    ("backends/", "client and embedded backend"),
    ("gql/", "gql and GraphQL"),
    ("graphql/", "gql and GraphQL"),
    ("httpx/", "httpx"),
    ("httpcore/", "httpx"),
    ("h11/", "httpx"),
    ("uvicorn/", "uvicorn and starlette"),
    ("starlette/", "uvicorn and starlette"),
    ("benchmarks/", "bodies and the benchmark"),
    ("asyncio/", "event loop"),
    ("anyio/", "event loop"),
    ("uvloop", "event loop"),
)


def run(scale: str) -> list[Row]:
    """Profile each subject in a process of its own."""
    subjects = [("engine", name) for name in _WITHOUT_BACKEND]
    subjects += [(kind, place) for kind, names in _RECORDED.items() for place in names]
    rows: list[Row] = []
    for kind, name in subjects:
        case = f"{kind}, {name}"
        command = [sys.executable, "-m", "benchmarks.profiles", kind, name, str(_SECONDS[scale])]
        try:
            done = subprocess.run(
                command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, check=True, timeout=300
            )
        except subprocess.SubprocessError as error:
            rows.append(missing(case, "flowloop", f"py-spy or what it looks at failed: {type(error).__name__}"))
            continue
        for process, profile in msgspec.json.decode(done.stdout, type=dict[str, Profile]).items():
            rows += _rows(f"{case}: {process}" if process else case, profile)
    return rows


def _rows(case: str, profile: Profile) -> list[Row]:
    counts = _components(profile.samples)
    total = sum(counts.values())
    busy = {"busy %": 100 * total / (_RATE * profile.seconds)}
    return [
        one_row(case, component, "%", [100 * count / total], details=busy)
        for component, count in counts.most_common()
        if count >= 0.01 * total
    ]


# -- sampling --------------------------------------------------------------------------------------------


class Profile(msgspec.Struct):
    """The samples of a process, each as its frames, outermost first, and a count; and for how long it was sampled."""

    samples: list[str] = []
    seconds: float = 0.0


class Sampler:
    """Samples a process between `begin` and `end`, as often as that is called."""

    def __init__(self, process: int, folder: Path) -> None:
        self.profile = Profile()
        self.process = process
        self._file = folder / f"samples-{process}"

    def begin(self) -> None:
        """Return as soon as samples are taken."""
        options = ["--native", "--rate", str(_RATE), "--format", "raw", "--output", str(self._file)]
        command = [str(Path(sys.executable).parent / "py-spy"), "record", *options, "--pid", str(self.process)]
        self._running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._running.stdout is not None
        said = self._running.stdout.readline()
        if "Sampling" not in said:
            raise RuntimeError(said.strip() or "py-spy says nothing")

    def end(self) -> None:
        """Stop, and keep the samples."""
        self._running.send_signal(signal.SIGINT)
        self._running.communicate()
        self.profile.samples += self._file.read_text().splitlines()


class Samplers:
    """A sampler for each process that takes part."""

    def __init__(self, by_process: dict[str, Sampler]) -> None:
        self.by_process = by_process

    def look_at(self, process: int) -> None:
        """Look at another process in the place of this one, which only waits for it."""
        next(iter(self.by_process.values())).process = process

    def begin(self) -> None:
        """Return as soon as all of them are sampled; until then they wait, which does not count."""
        for sampler in self.by_process.values():
            sampler.begin()
        self._begun = time.perf_counter()

    def end(self) -> None:
        """Stop that."""
        took = time.perf_counter() - self._begun
        for sampler in self.by_process.values():
            sampler.profile.seconds += took
            sampler.end()


def _components(samples: Sequence[str]) -> collections.Counter[str]:
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


def _engine(name: str, limit: float, folder: Path) -> dict[str, Sampler]:
    """Profile a flow without a backend."""
    body = _bodies()[name]()
    seconds(body)
    samplers = Samplers({"": Sampler(os.getpid(), folder)})
    samplers.begin()
    end = time.monotonic() + limit
    while time.monotonic() < end:
        seconds(body)
    samplers.end()
    return samplers.by_process


def _bodies() -> dict[str, Callable[[], Callable[[], Awaitable[None]]]]:
    """Return for each subject without a backend what makes its flow, ready to be run."""

    def workload(name: str, size: int) -> Callable[[], Awaitable[None]]:
        flow, last = WORKLOADS[name].flow(size)
        return functools.partial(checked_run, flow, last, WORKLOADS[name].answer(size))

    def other(made: Callable[[int], tuple[Flow, Task[..., int]]]) -> Callable[[], Awaitable[None]]:
        return functools.partial(checked_run, *made(10_000), 10_000)

    return {
        **{name: functools.partial(workload, name, 10_000) for name in WORKLOADS},
        _MILLION: functools.partial(workload, "map, reduce", 1_000_000),
        "sleepers, mapped": functools.partial(other, mapped),
        "sleepers, static": functools.partial(other, static),
        "sync bodies": functools.partial(other, returning_at_once),
    }


def _recorded(kind: str, name: str, limit: float, folder: Path) -> dict[str, Sampler]:
    """Profile what records, and the server if there is one."""
    options = settings(folder)
    with places([name]) as found:
        place = found[name]
        by_process = {"client" if place.server else "": Sampler(os.getpid(), folder)}
        if place.server is not None:
            by_process["server"] = Sampler(place.server, folder)
        samplers = Samplers(by_process)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            _KINDS[kind](place, options, samplers)
    return by_process


def _transitions(place: Place, options: Settings, samplers: Samplers) -> None:
    async def body() -> None:
        async with open_backend(place, options) as backend:
            runs = await running_task_runs(backend, 20_000, options)
            samplers.begin()
            await record_transitions(backend, runs, 2_000)
            samplers.end()

    asyncio.run(body())


def _recorded_run(
    place: Place, options: Settings, samplers: Samplers, workload: str = "map, reduce", size: int = 10_000
) -> None:
    samplers.begin()
    recorded_seconds(place, options, workload, size)
    samplers.end()


def _strict_chain(place: Place, options: Settings, samplers: Samplers) -> None:
    samplers.begin()
    chain(place, options, 1_000)
    samplers.end()


def _flow_runs(place: Place, options: Settings, samplers: Samplers, at_once: int = 100, count: int = 500) -> None:
    samplers.begin()
    flow_runs(place, options, at_once, count)
    samplers.end()


def _full_queue(place: Place, options: Settings, samplers: Samplers) -> None:
    async def measured() -> None:
        async with open_backend(place, options) as backend:
            await fill_queue(backend, options)
            async with worker(place) as process:
                await begun(process)
                samplers.look_at(process.pid)
                samplers.begin()
                for _ in range(QUEUED - 1):
                    await begun(process)
                samplers.end()

    asyncio.run(measured())


def _start(place: Place, options: Settings, samplers: Samplers) -> None:
    to_the_first_body(place, options, 10_000, samplers.begin, samplers.end)


_KINDS: dict[str, Callable[[Place, Settings, Samplers], None]] = {
    "transitions": _transitions,
    "recorded run": _recorded_run,
    "recorded diamond": functools.partial(_recorded_run, workload="diamond, 10 kB", size=2_000),
    "strict chain": _strict_chain,
    "start": _start,
    "flow runs": _flow_runs,
    "one flow run": functools.partial(_flow_runs, at_once=1, count=100),
    "full queue": _full_queue,
}


def _main(kind: str, name: str, limit: float) -> None:
    with scratch() as folder:
        found = _recorded(kind, name, limit, folder) if kind in _KINDS else _engine(name, limit, folder)
        print(msgspec.json.encode({process: sampler.profile for process, sampler in found.items()}).decode())


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
