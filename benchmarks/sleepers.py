"""Many tasks that wait at once: ten thousand coroutines asleep are no work."""

from __future__ import annotations

import asyncio
import functools

from flowloop.engine import Flow, Task, task

from .harness import Row, compare, seconds
from .workloads import checked_run, total

TITLE = "Tasks that sleep 0.1 s, all at once"
BASELINE = "asyncio.TaskGroup"

_SIZES = {"guard": (10_000,), "quick": (10_000,), "full": (1_000, 10_000)}
_NAP = 0.1


async def _sleep(x: int) -> int:
    await asyncio.sleep(_NAP)
    return 1


sleep = task(_sleep)


def run(scale: str) -> list[Row]:
    """Measure mapped and static sleepers against bare ones."""
    rows: list[Row] = []
    for size in _SIZES[scale]:
        contenders = {
            BASELINE: functools.partial(seconds, functools.partial(_bare, size)),
            "flowloop, mapped": _ours(*mapped(size), size, "asyncio"),
            "flowloop, static": _ours(*static(size), size, "asyncio"),
            "flowloop, mapped, uvloop": _ours(*mapped(size), size, "uvloop"),
        }
        rounds = 7 if scale == "full" else 3
        rows += compare("sleepers", contenders, unit="s", rounds=rounds, baseline=BASELINE, size=size)
    return rows


async def _bare(size: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(size):
            group.create_task(_sleep(number))


def mapped(size: int) -> tuple[Flow, Task[..., int]]:
    """Return a flow that maps the nap, and the task that has its answer."""
    with Flow("mapped sleepers") as flow:
        answer = total(sleep.map(list(range(size))))
    return flow, answer


def static(size: int) -> tuple[Flow, Task[..., int]]:
    """Return a flow with a task for each nap, and the task that has its answer."""
    with Flow("static sleepers") as flow:
        answer = total([sleep(number) for number in range(size)])
    return flow, answer


def _ours(flow: Flow, last: Task[..., int], size: int, loop: str) -> functools.partial[float]:
    return functools.partial(seconds, functools.partial(checked_run, flow, last, size), loop)
