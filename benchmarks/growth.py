"""Growth: a task costs as much among a million as among ten thousand, and a long chain is no deep recursion.

Each size runs in a process of its own: the graph of one would make the garbage collector slow for the others.
"""

from __future__ import annotations

import functools
import json
import sys

from .harness import Row, compare, in_fresh_process, seconds
from .workloads import WORKLOADS, checked_run

TITLE = "Time per task as the flow grows"

_SIZES = {
    "guard": {"map, reduce": (10_000, 100_000)},
    "quick": {"map, reduce": (10_000, 100_000)},
    "full": {
        "map, reduce": (10_000, 100_000, 1_000_000),
        "map, map, reduce": (10_000, 100_000),
        "fan-out, reduce": (10_000, 100_000, 1_000_000),
        "chain": (10_000, 100_000),
        "layers": (10_000, 100_000),
    },
}


def run(scale: str) -> list[Row]:
    """Measure the time per task of large flows against the same flow with 10,000 tasks."""
    rows: list[Row] = []
    for name, sizes in _SIZES[scale].items():
        contenders = {f"{size:,}": functools.partial(_measured, name, size) for size in sizes}
        rows += compare(
            name,
            contenders,
            unit="µs/task",
            rounds=1 if scale == "guard" else 3,
            baseline=f"{sizes[0]:,}",
            warm_up=False,
        )
    return rows


def _measured(name: str, size: int) -> float:
    return in_fresh_process("benchmarks.growth", name, str(size))["us"]


def _per_task(name: str, size: int) -> float:
    """Return the time per task; the first run is not measured, and a short one is measured several times."""
    workload = WORKLOADS[name]
    flow, last = workload.flow(size)
    ours = functools.partial(checked_run, flow, last, workload.answer(size))
    seconds(ours)
    rounds = max(1, 100_000 // size)
    return sum(seconds(ours) for _ in range(rounds)) / rounds / size * 1e6


if __name__ == "__main__":
    print(json.dumps({"us": _per_task(sys.argv[1], int(sys.argv[2]))}))
