"""Memory: what a finished run keeps for each task run, and what a process weighs that does nothing.

Every number is taken in a process of its own: what the process holds before and after, garbage collected.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import sys

from flowloop.engine import FlowRunner

from .harness import Row, compare, in_fresh_process
from .idle import resident
from .recording import places, scratch
from .workloads import WORKLOADS

TITLE = "Memory kept by a finished run, and by a process that waits"

_SIZES = {"guard": 20_000, "quick": 20_000, "full": 100_000}
_CASES = {"mapped child": "map, reduce", "static task run": "fan-out, reduce"}


def run(scale: str) -> list[Row]:
    """Measure what one more task run costs."""
    rows: list[Row] = []
    size = _SIZES[scale]
    for case, workload in _CASES.items():
        contenders = {
            "the definition": functools.partial(_measured, workload, size, "definition"),
            "the final state": functools.partial(_measured, workload, size, "state"),
            "asyncio.Task objects": functools.partial(_measured, workload, size, "bare"),
        }
        rows += compare(case, contenders, unit="B", rounds=3, size=size, warm_up=False)
    return rows + _idle()


def _idle() -> list[Row]:
    """What a process holds that is ready to record a run, and the server that waits for its requests."""
    with scratch() as folder, places(("embedded, FULL", "HTTP, SQLite NORMAL")) as found:
        embedded, remote = found.values()
        assert remote.server is not None
        contenders = {
            "bare Python": functools.partial(_weighed, "bare"),
            "engine imported": functools.partial(_weighed, "engine"),
            "embedded store, open": functools.partial(_weighed, "open", embedded.url, str(folder)),
            "HTTP client, open": functools.partial(_weighed, "open", remote.url, str(folder)),
            "server": functools.partial(_megabytes, remote.server),
        }
        return compare("idle process", contenders, unit="MB", rounds=3, baseline="bare Python", warm_up=False)


def _weighed(*arguments: str) -> float:
    return in_fresh_process("benchmarks.idle", *arguments)["bytes"] / 1e6


def _megabytes(process: int) -> float:
    return resident(process) / 1e6


def _measured(workload: str, size: int, what: str) -> float:
    return in_fresh_process("benchmarks.memory", workload, str(size), what)["bytes"] / size


def _kept(name: str, size: int, what: str) -> int:
    """Return by how many bytes the process grows when a flow is defined, is run, or is run by bare asyncio tasks."""
    workload = WORKLOADS[name]
    small, _ = workload.flow(1_000)
    asyncio.run(FlowRunner(small).run())  # what is imported and allocated once
    del small
    gc.collect()
    before = resident()
    kept: object
    if what == "bare":
        kept = asyncio.run(_bare_tasks(size))
    else:
        flow, _ = workload.flow(size)
        if what == "definition":
            kept = flow
        else:
            asyncio.run(FlowRunner(flow)._prepared())
            gc.collect()
            before = resident()
            kept = asyncio.run(FlowRunner(flow).run())
    gc.collect()
    grown = resident() - before
    del kept
    return grown


async def _bare_tasks(size: int) -> list[asyncio.Task[int]]:
    async def same(x: int) -> int:
        return x

    async with asyncio.TaskGroup() as group:
        return [group.create_task(same(number)) for number in range(size)]


if __name__ == "__main__":
    print(json.dumps({"bytes": _kept(sys.argv[1], int(sys.argv[2]), sys.argv[3])}))
