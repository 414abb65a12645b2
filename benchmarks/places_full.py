"""``python -m benchmarks.places_full``: what bodies on a Dask cluster cost, and what is left when something is killed.

It begins a cluster of worker processes on loopback, and prints a table in Markdown, which stands in
``docs/several-machines.md``. Half an hour on two cores; ``--children``, ``--tries`` and ``--workers`` say how much.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from flowloop.backends import connect
from flowloop.engine import Flow, FlowRunner, Settings, context, task, unmapped
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import Lost
from flowloop.engine.executors import DaskExecutor
from flowloop.engine.state import Failed, State

from .peers._peer import peak_rss  # type: ignore[import-untyped]

_MIB = 2**20
_WIDTH = 40
"""Bodies of a flow run in which something is killed."""

_LEASE = 1.0


# -- the cluster -------------------------------------------------------------------------------------------


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """Run a cluster in processes of their own, and yield its address."""
    command = [sys.executable, "-m", "benchmarks.places_full", "cluster", str(workers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


async def _cluster(workers: int) -> None:
    import distributed

    async with distributed.LocalCluster(
        asynchronous=True,
        n_workers=workers,
        threads_per_worker=1,
        memory_limit="1GiB",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        protocol="tcp",
    ) as made:
        print(made.scheduler_address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class Through:
    """Counts what goes through the sockets of this process."""

    def __init__(self) -> None:
        from tornado.iostream import IOStream

        self.bytes = 0
        stream: Any = IOStream
        read, write = stream.read_from_fd, stream.write_to_fd

        def counted(method: Any) -> Any:
            def call(*args: Any) -> Any:
                count = method(*args)
                self.bytes += count or 0
                return count

            return call

        stream.read_from_fd, stream.write_to_fd = counted(read), counted(write)

    @contextmanager
    def counted(self, rows: list[Row], what: str, limit: str) -> Iterator[None]:
        """Add a row with what went through in a block."""
        before = self.bytes
        yield
        rows.append((what, f"{(self.bytes - before) / _MIB:.1f} MiB through the process of the run", limit))


Row = tuple[str, str, str]


# -- what it costs -----------------------------------------------------------------------------------------


async def transfers(address: str, through: Through) -> list[Row]:
    """Measure what of large values passes through this process."""
    rows: list[Row] = []
    executor = DaskExecutor(address)
    with Flow("chunks") as chunks:
        made = task(lambda n: bytes([n]) * (30 * _MIB), name="make").map([1, 2, 3, 4])
        turned = task(lambda chunk: chunk[::-1], name="turn").map(made)
        sizes = task(lambda chunk: len(chunk), name="size").map(turned)
    with through.counted(rows, "4 × 30 MiB through three stages", "bare values: 480 MiB"):
        state = await FlowRunner(chunks).run(executor=executor, return_tasks=[sizes])
        assert state.result[sizes].result == [30 * _MIB] * 4, state
    with Flow("unmapped") as once:
        taken = task(lambda n, large: n + len(large), name="take").map(list(range(20)), unmapped(bytes(30 * _MIB)))
    with through.counted(rows, "a 30 MiB unmapped input, 20 children", "once: 30 MiB"):
        state = await FlowRunner(once).run(executor=executor, return_tasks=[taken])
        assert state.is_successful(), state
    return rows


async def children(address: str, many: int, through: Through) -> list[Row]:
    """Measure a wide map of bodies that do nothing."""
    rows: list[Row] = []
    with Flow("wide") as flow:
        done = task(lambda n: n, name="nothing").map(list(range(many)))
    begin, before = time.perf_counter(), peak_rss()
    what = f"{many:,} children that do nothing"
    with through.counted(rows, what, f"{DaskExecutor(address).window:,} at once"):
        state = await FlowRunner(flow, release_results=False).run(executor=DaskExecutor(address), return_tasks=[done])
        assert state.result[done].result == list(range(many)), state
    took = time.perf_counter() - begin
    rows.append((what, f"{took:.0f} s, {many / took:.0f} a second", ""))
    rows.append((what, f"{(peak_rss() - before) * 1000 / many:,.0f} bytes of memory for each", ""))
    async with _client(address) as client:
        few = min(many, 10_000)
        begin = time.perf_counter()
        await client.gather([client.submit(_nothing, n, pure=False) for n in range(few)])
        rows.append(
            (f"{few:,} bare futures, submitted one by one", f"{few / (time.perf_counter() - begin):.0f} a second", "")
        )
    return rows


def _nothing(n: int) -> int:
    return n


@asynccontextmanager
async def _client(address: str) -> AsyncIterator[Any]:
    import distributed

    client: Any = distributed.Client
    async with client(address, asynchronous=True) as opened:
        yield opened


# -- what is left ------------------------------------------------------------------------------------------


def marked_flow(marks: str, *, retries: bool) -> tuple[Flow, Any]:
    """Return a flow whose bodies leave a mark each, and the task that has its value."""

    def body(n: int) -> int:
        with open(marks, "a") as file:
            file.write(f"{n}-{context.task_run_count} ")
        time.sleep(0.05)
        return n

    options: dict[str, Any] = {"max_retries": 5, "retry_delay": 0, "retry_on": Lost} if retries else {}
    with Flow("marked") as flow:
        done = task(body, name="body", **options).map(list(range(_WIDTH)))
    return flow, done


def checked(marks: str, state: State, done: Any, *, retries: bool) -> int:
    """Check that each attempt ran once at most, and that the flow ended as it should; return how many were lost."""
    ran = Counter(Path(marks).read_text().split())
    assert set(ran.values()) == {1}, [one for one, times in ran.items() if times > 1]
    ends = state.result[done].map_states
    lost = [n for n, end in enumerate(ends) if isinstance(end, Failed)]
    if retries:
        assert [end.result for end in ends] == list(range(_WIDTH)), ends
    else:
        assert state.is_failed() == bool(lost), state
        assert all(isinstance(ends[n].result, Lost) for n in lost)
        assert all(ends[n].result == n for n in range(_WIDTH) if n not in lost)
    return sum(one.endswith(tuple("23456")) for one in ran) if retries else len(lost)


async def killed_workers(address: str, workers: int, tries: int, folder: Path) -> list[Row]:
    """Kill a worker in the midst of a flow run, again and again."""
    rows = []
    for retries in (True, False):
        lost = 0
        for number in range(tries):
            async with _client(address) as client:  # some do not come back: a nanny gives up what dies as it begins
                await client.wait_for_workers(max(1, workers // 2))
            marks = str(folder / f"worker-{retries}-{number}")
            flow, done = marked_flow(marks, retries=retries)
            running = asyncio.create_task(FlowRunner(flow).run(executor=DaskExecutor(address), return_tasks=[done]))
            await _until_marked(marks, random.Random(number).randrange(_WIDTH // 2))
            async with _client(address) as client:
                pids = list((await client.run(os.getpid, on_error="ignore")).values())
            os.kill(random.Random(number).choice(pids), signal.SIGKILL)
            lost += checked(marks, await running, done, retries=retries)
        how = "tried again: the value of each flow run right" if retries else "Failed, and the others right"
        rows.append((f"SIGKILL of a worker, {tries} times", f"each attempt ran once; {lost} lost", how))
    return rows


async def killed_runs(address: str, tries: int, folder: Path) -> list[Row]:
    """Kill the process of a recorded flow run, again and again; another one goes on with it."""
    again = 0
    for number in range(tries):
        url, marks = f"sqlite:///{folder / f'run-{number}.db'}", str(folder / f"run-{number}")
        settings = Settings(home=str(folder / "home"), heartbeat_interval=_LEASE / 2, max_lapses=100)
        flow, done = marked_flow(marks, retries=True)
        async with connect(url, settings=settings) as backend:
            flow_run_id = await create_flow_run(flow, backend, settings=settings)
        command = [sys.executable, "-m", "benchmarks.places_full", "run", url, flow_run_id, address, marks]
        with subprocess.Popen([*command, str(folder / "home")], stdout=subprocess.DEVNULL) as process:  # noqa: ASYNC220
            await _until_marked(marks, random.Random(number).randrange(_WIDTH // 2))
            process.kill()
        await asyncio.sleep(1.5 * _LEASE)
        async with connect(url, settings=settings) as backend:
            runner = CloudFlowRunner(flow, backend=backend, settings=settings)
            context = {"flow_run_id": flow_run_id}
            state = await runner.run(context=context, executor=DaskExecutor(address), return_tasks=[done])
        again += checked(marks, state, done, retries=True)
    what = f"SIGKILL of the process of the run, {tries} times"
    return [(what, f"each attempt ran once; {again} lost", "the next process got the others' results")]


async def _until_marked(marks: str, count: int) -> None:
    while not os.path.exists(marks) or len(Path(marks).read_text().split()) <= count:  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.01)


async def _run(url: str, flow_run_id: str, address: str, marks: str, home: str) -> None:
    settings = Settings(home=home, heartbeat_interval=_LEASE / 2, max_lapses=100)
    flow, _ = marked_flow(marks, retries=True)
    async with connect(url, settings=settings) as backend:
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        await runner.run(context={"flow_run_id": flow_run_id}, executor=DaskExecutor(address))


# -- all of it ---------------------------------------------------------------------------------------------


async def _all(address: str, workers: int, many: int, tries: int, folder: Path) -> None:
    through = Through()
    print("| what | found | beside |\n| --- | --- | --- |")
    for part in (
        transfers(address, through),
        children(address, many, through),
        killed_workers(address, workers, tries, folder),
        killed_runs(address, tries, folder),
    ):
        for row in await part:
            print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.places_full", description=__doc__)
    parser.add_argument("--children", type=int, default=100_000)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster(chosen.workers) as address:
        asyncio.run(_all(address, chosen.workers, chosen.children, chosen.tries, Path(folder)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["cluster"]:
        asyncio.run(_cluster(int(sys.argv[2])))
    elif sys.argv[1:2] == ["run"]:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_run(*sys.argv[2:]))
    else:
        main()
