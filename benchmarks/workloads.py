"""The workloads: each as a flow, and as the shortest asyncio program that does the same without a flow engine.

Bodies do next to nothing, so that what is measured is what stands around them. Every workload has an answer that is
checked after each run.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from flowloop.engine import Flow, FlowRunner, Task, task

__all__ = ["WORKLOADS", "Workload", "checked_run", "layer_plan"]

_LAYERS = 100
_UPSTREAMS = 3
_TEN_KB = b"x" * 10_000


class Workload(NamedTuple):
    """A shape of work.

    Args:
        - name: what tables call it
        - flow: makes the flow of a size, and says which task has the answer
        - bare: does the same with `asyncio.TaskGroup`, and returns the answer
        - answer: the right answer for a size
    """

    name: str
    flow: Callable[[int], tuple[Flow, Task[..., Any]]]
    bare: Callable[[int], Awaitable[Any]]
    answer: Callable[[int], Any]


async def checked_run(flow: Flow, last: Task[..., Any], answer: Any) -> None:
    """Run a flow without a backend, and check its answer."""
    state = await FlowRunner(flow).run()
    if not state.is_successful() or state.result[last].result != answer:
        raise AssertionError(f"flow {flow.name!r} ended {state!r} with {state.result[last]!r}")


# -- bodies ----------------------------------------------------------------------------------------------


async def _same(x: int) -> int:
    return x


async def _next(x: int) -> int:
    return x + 1


async def _sum(xs: list[int]) -> int:
    return sum(xs)


async def _add(a: int, b: int, c: int) -> int:
    return (a + b + c) % 1_000_003


async def _source() -> bytes:
    return _TEN_KB


async def _copied(data: bytes) -> bytes:
    return data[::-1]


async def _total_length(parts: list[bytes]) -> int:
    return sum(map(len, parts))


same, next_, total, add = task(_same), task(_next), task(_sum), task(_add)
source, copied, total_length = task(_source), task(_copied), task(_total_length)


# -- fan-out and reduce ------------------------------------------------------------------------------------


def _fan_out_flow(size: int) -> tuple[Flow, Task[..., Any]]:
    with Flow("fan-out") as flow:
        answer = total([same(number) for number in range(size)])
    return flow, answer


async def _fan_out_bare(size: int) -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_same(number)) for number in range(size)]
    return await _sum([one.result() for one in tasks])


# -- map, reduce -------------------------------------------------------------------------------------------


def _map_flow(size: int) -> tuple[Flow, Task[..., Any]]:
    with Flow("map, reduce") as flow:
        answer = total(same.map(list(range(size))))
    return flow, answer


# -- chain -------------------------------------------------------------------------------------------------


def _chain_flow(size: int) -> tuple[Flow, Task[..., Any]]:
    with Flow("chain") as flow:
        answer = next_(0)
        for _ in range(size - 1):
            answer = next_(answer)
    return flow, answer


async def _chain_bare(size: int) -> int:
    value = 0
    async with asyncio.TaskGroup() as group:
        for _ in range(size):
            value = await group.create_task(_next(value))
    return value


# -- a layered random graph ----------------------------------------------------------------------------------


@functools.cache
def layer_plan(size: int) -> list[list[tuple[int, ...]]]:
    """Return for each task of each layer but the first which tasks of the layer before it adds up."""
    rng = random.Random(1)
    width = size // _LAYERS
    return [[tuple(rng.sample(range(width), _UPSTREAMS)) for _ in range(width)] for _ in range(_LAYERS - 1)]


def _layers_flow(size: int) -> tuple[Flow, Task[..., Any]]:
    with Flow("layers") as flow:
        layer = [same(number) for number in range(size // _LAYERS)]
        for plan in layer_plan(size):
            layer = [add(*(layer[number] for number in upstream)) for upstream in plan]
        answer = total(layer)
    return flow, answer


async def _layers_bare(size: int) -> int:
    async with asyncio.TaskGroup() as group:

        async def added(upstream: list[asyncio.Task[int]]) -> int:
            return await _add(*[await one for one in upstream])

        layer = [group.create_task(_same(number)) for number in range(size // _LAYERS)]
        for plan in layer_plan(size):
            layer = [group.create_task(added([layer[number] for number in upstream])) for upstream in plan]
        return await _sum([await one for one in layer])


def _layers_answer(size: int) -> int:
    layer = list(range(size // _LAYERS))
    for plan in layer_plan(size):
        layer = [sum(layer[number] for number in upstream) % 1_000_003 for upstream in plan]
    return sum(layer)


# -- map, map, reduce ----------------------------------------------------------------------------------------


def _two_maps_flow(size: int) -> tuple[Flow, Task[..., Any]]:
    with Flow("map, map, reduce") as flow:
        answer = total(next_.map(next_.map(list(range(size // 2)))))
    return flow, answer


async def _two_maps_bare(size: int) -> int:
    async with asyncio.TaskGroup() as group:

        async def after(first: asyncio.Task[int]) -> int:
            return await _next(await first)

        firsts = [group.create_task(_next(number)) for number in range(size // 2)]
        seconds = [group.create_task(after(first)) for first in firsts]
    return await _sum([one.result() for one in seconds])


# -- a diamond with large results ----------------------------------------------------------------------------


def _diamond_flow(size: int) -> tuple[Flow, Task[..., Any]]:
    with Flow("diamond, 10 kB") as flow:
        data = source()
        answer = total_length([copied(data) for _ in range(size)])
    return flow, answer


async def _diamond_bare(size: int) -> int:
    async with asyncio.TaskGroup() as group:
        data = await group.create_task(_source())
        tasks = [group.create_task(_copied(data)) for _ in range(size)]
    return await _total_length([one.result() for one in tasks])


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("fan-out, reduce", _fan_out_flow, _fan_out_bare, lambda size: size * (size - 1) // 2),
        Workload("map, reduce", _map_flow, _fan_out_bare, lambda size: size * (size - 1) // 2),
        Workload("chain", _chain_flow, _chain_bare, lambda size: size),
        Workload("layers", _layers_flow, _layers_bare, _layers_answer),
        Workload(
            "map, map, reduce", _two_maps_flow, _two_maps_bare, lambda s: (s // 2) * (s // 2 - 1) // 2 + s // 2 * 2
        ),
        Workload("diamond, 10 kB", _diamond_flow, _diamond_bare, lambda size: size * 10_000),
    )
}
