"""Sync bodies: what the engine adds to the thread that runs one."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable

import anyio
import anyio.to_thread

from flowloop.engine import Flow, Settings, Task, task

from .harness import Row, compare, seconds
from .workloads import checked_run, total

TITLE = "Sync bodies, in threads"
BASELINE = "anyio.to_thread.run_sync"

_SIZES = {"guard": 2_000, "quick": 2_000, "full": 10_000}
_THREADS = Settings().thread_limit


def _instant(x: int) -> int:
    return 1


def _short(x: int) -> int:
    time.sleep(0.001)
    return 1


def run(scale: str) -> list[Row]:
    """Measure mapped sync bodies against the same calls through anyio's threads alone, with as many threads."""
    size = _SIZES[scale]
    rows: list[Row] = []
    for name, body in {"returns at once": _instant, "sleeps 1 ms": _short}.items():
        flow, answer = _mapped(body, size)
        ours = functools.partial(checked_run, flow, answer, size)
        contenders = {
            BASELINE: functools.partial(seconds, functools.partial(_bare, body, size)),
            "flowloop": functools.partial(seconds, ours),
            "flowloop, uvloop": functools.partial(seconds, ours, "uvloop"),
        }
        rows += compare(
            f"sync body {name}", contenders, unit="s", rounds=3 if scale == "guard" else 5, baseline=BASELINE, size=size
        )
    return rows


def _mapped(body: Callable[[int], int], size: int) -> tuple[Flow, Task[..., int]]:
    with Flow("threads") as flow:
        answer = total(task(body).map(list(range(size))))
    return flow, answer


def returning_at_once(size: int) -> tuple[Flow, Task[..., int]]:
    """Return the flow whose bodies return at once, and the task that has its answer."""
    return _mapped(_instant, size)


async def _bare(body: object, size: int) -> None:
    limiter = anyio.CapacityLimiter(_THREADS)
    async with asyncio.TaskGroup() as group:
        for number in range(size):
            group.create_task(anyio.to_thread.run_sync(body, number, limiter=limiter))  # type: ignore[arg-type]
