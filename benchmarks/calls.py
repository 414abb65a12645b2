"""Calls of Python functions for each task run: a number that says the same on every machine, however busy it is.

What it costs to run a task is mostly how many calls it takes, the event loop's own included; a coroutine that goes on
after a wait is called again. The numbers are of one version of Python.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from flowloop.engine import Flow, FlowRunner, State, task
from flowloop.engine.triggers import all_finished

from .harness import Row, one_row

__all__ = ["SHAPES", "calls_per_task_run"]

TITLE = "Calls of Python functions for each task run, without a backend"

_SIZE = 400


@task
async def one() -> int:
    return 1


@task
async def next_(x: int) -> int:
    return x + 1


def heard(of: Any, old: State, new: State) -> State:
    return new


def fan_out(size: int) -> Flow:
    with Flow("fan-out") as flow:
        for _ in range(size):
            one()
    return flow


def mapped(size: int) -> Flow:
    with Flow("map") as flow:
        next_.map(list(range(size)))
    return flow


def chain(size: int) -> Flow:
    with Flow("chain") as flow:
        x = one()
        for _ in range(size - 1):
            x = next_(x)
    return flow


def with_handler(size: int) -> Flow:
    with Flow("handler") as flow:
        for _ in range(size):
            one.copy(state_handlers=[heard])()
    return flow


def with_trigger(size: int) -> Flow:
    with Flow("trigger") as flow:
        first = one()
        for _ in range(size - 1):
            next_.copy(trigger=all_finished)(first)
    return flow


SHAPES: Mapping[str, Callable[[int], Flow]] = {
    "fan-out": fan_out,
    "map": mapped,
    "chain": chain,
    "handler": with_handler,
    "trigger": with_trigger,
}
"""What is counted, by name: each makes a flow of a size."""


def run(scale: str) -> list[Row]:
    """Count every shape."""
    return [one_row(name, "flowloop", "calls", [calls_per_task_run(name)], size=_SIZE) for name in SHAPES]


def calls_per_task_run(shape: str, size: int = _SIZE) -> float:
    """Return how many calls one more task run takes: what a flow run takes by itself does not count."""
    flows = SHAPES[shape](size), SHAPES[shape](2 * size)
    gc.collect()  # what others have left ends now, and not while we count
    small, large = (asyncio.run(_calls(flow)) for flow in flows)
    return (large - small) / size


async def _calls(flow: Flow) -> int:
    await FlowRunner(flow).run()  # what is made once is made
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        state = await FlowRunner(flow).run()
    finally:
        sys.setprofile(None)
    assert state.is_successful()
    return count


if __name__ == "__main__":
    run("quick")
