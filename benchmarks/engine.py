"""The engine without a backend: the whole state machine around bodies that do next to nothing."""

from __future__ import annotations

import functools
import time

from flowloop.engine import Flow, FlowRunner

from .harness import Row, compare, one_row, seconds
from .workloads import WORKLOADS, Workload, checked_run

TITLE = "The engine without a backend, async bodies that do next to nothing"
BASELINE = "asyncio.TaskGroup"

_SIZES = {"guard": (10_000,), "quick": (10_000,), "full": (1_000, 10_000, 100_000)}
_ROUNDS = {1_000: 9, 10_000: 5, 100_000: 3}


def run(scale: str) -> list[Row]:
    """Measure every workload against the shortest asyncio program that does the same."""
    rows: list[Row] = []
    for workload in WORKLOADS.values():
        for size in _SIZES[scale]:
            rows += _compared(workload, size, 3 if scale == "guard" else _ROUNDS[size])
    if scale != "guard":
        rows += _definition(10_000)
    return rows


def _compared(workload: Workload, size: int, rounds: int) -> list[Row]:
    flow, last = workload.flow(size)
    answer = workload.answer(size)

    async def bare() -> None:
        found = await workload.bare(size)
        assert found == answer, found

    def rate(body: object, loop: str) -> float:
        return size / seconds(body, loop)  # type: ignore[arg-type]

    ours = functools.partial(checked_run, flow, last, answer)
    contenders = {
        BASELINE: lambda: rate(bare, "asyncio"),
        "flowloop": lambda: rate(ours, "asyncio"),
        "flowloop, uvloop": lambda: rate(ours, "uvloop"),
    }
    return compare(workload.name, contenders, unit="tasks/s", rounds=rounds, baseline=BASELINE, size=size)


def _definition(size: int) -> list[Row]:
    """What comes before: writing the flow down, and the first look at its graph."""
    building, looking = [], []
    for _ in range(3):
        start = time.perf_counter()
        flow, _last = WORKLOADS["layers"].flow(size)
        building.append((time.perf_counter() - start) * 1e6 / size)
        looking.append(seconds(functools.partial(_prepared, flow)) * 1e6 / size)
    return [
        one_row("definition, layers", "with Flow(...)", "µs/task", building, size=size),
        one_row("definition, layers", "validate and plan, once", "µs/task", looking, size=size),
    ]


async def _prepared(flow: Flow) -> None:
    await FlowRunner(flow)._prepared()
