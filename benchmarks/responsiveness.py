"""Responsiveness: for how long the event loop serves nobody else while a large flow runs.

A timer wants to fire every millisecond. How late it is, is how long everything else on the loop had to wait.
"""

from __future__ import annotations

import asyncio
import functools
import time
from pathlib import Path

from flowloop.engine.cloud import CloudFlowRunner, create_flow_run, register_flow

from .flow_runs import small_flow
from .harness import Row, Sample, compare
from .recording import Place, open_backend, percentile, places, scratch, settings
from .workloads import WORKLOADS, checked_run

TITLE = "The longest time the event loop is blocked"

_SIZES = {"guard": 10_000, "quick": 20_000, "full": 100_000}
_RECORDED = {"guard": 2_000, "quick": 2_000, "full": 10_000}
_EVERY = 0.001
_CLIENTS = 20

BESIDE_A_MAP = "a flow of three tasks, awaited by 20 clients beside a recorded map"


def run(scale: str) -> list[Row]:
    """Measure the lateness of a timer during runs, and beside bare tasks."""
    rows: list[Row] = []
    size = _SIZES[scale]
    for name in ("map, reduce", "fan-out, reduce", "chain"):
        contenders = {
            "asyncio.TaskGroup": functools.partial(_bare, name, size),
            "flowloop, first run": functools.partial(_ours, name, size),
        }
        rows += compare(name, contenders, unit="ms", rounds=3, size=size, warm_up=False)
    size = _RECORDED[scale]
    with scratch() as folder, places(("embedded, FULL", "HTTP, SQLite NORMAL")) as found:
        for name in ("map, reduce", "fan-out, reduce"):
            recorded = {
                place: functools.partial(_recorded, name, size, folder, where) for place, where in found.items()
            }
            rows += compare(f"{name}, recorded", recorded, unit="ms", rounds=3, size=size, warm_up=False)
        beside = {place: functools.partial(_beside, size, folder, where) for place, where in found.items()}
        rows += compare(BESIDE_A_MAP, beside, unit="ms", rounds=3, size=size, warm_up=False)
    return rows


class _Timer:
    """Fires every millisecond, and notes how late it is."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._late: list[float] = []
        self._next = self._loop.call_later(_EVERY, self._fire, self._loop.time() + _EVERY)

    def _fire(self, due: float) -> None:
        now = self._loop.time()
        self._late.append(now - due)
        self._next = self._loop.call_at(now + _EVERY, self._fire, now + _EVERY)

    async def stop(self) -> Sample:
        """Return the greatest lateness in ms, and the 99th percentile."""
        await asyncio.sleep(2 * _EVERY)
        self._next.cancel()
        late = sorted(self._late)
        return Sample(late[-1] * 1e3, {"p99 ms": percentile(late, 0.99) * 1e3, "p50 ms": percentile(late, 0.5) * 1e3})


def _bare(name: str, size: int) -> Sample:
    async def body() -> Sample:
        timer = _Timer()
        await WORKLOADS[name].bare(size)
        return await timer.stop()

    return asyncio.run(body())


def _beside(size: int, folder: Path, place: Place) -> Sample:
    """Have clients await small recorded flows while a large map is recorded in the same process."""
    large, small = WORKLOADS["map, reduce"].flow(size)[0], small_flow()
    options = settings(folder)
    took: list[float] = []

    async def body() -> Sample:
        async with open_backend(place, options) as backend:
            await register_flow(small, backend, settings=options)
            await register_flow(large, backend, settings=options)
            timer = _Timer()
            mapping = asyncio.ensure_future(CloudFlowRunner(large, backend=backend, settings=options).run())

            async def client() -> None:
                while not mapping.done():
                    start = time.perf_counter()
                    runner = CloudFlowRunner(small, backend=backend, settings=options)
                    assert (await runner.run(parameters={"x": 1})).is_successful()
                    took.append((time.perf_counter() - start) * 1e3)

            await asyncio.gather(mapping, *(client() for _ in range(_CLIENTS)))
            assert mapping.result().is_successful()
            blocked = (await timer.stop()).value
            took.sort()
            p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
            return Sample(p50, {"p50 ms": p50, "p99 ms": p99, "blocked ms": blocked})

    return asyncio.run(body())


def _ours(name: str, size: int) -> Sample:
    flow, last = WORKLOADS[name].flow(size)

    async def body() -> Sample:
        timer = _Timer()
        await checked_run(flow, last, WORKLOADS[name].answer(size))
        return await timer.stop()

    return asyncio.run(body())


def _recorded(name: str, size: int, folder: Path, place: Place) -> Sample:
    flow, _ = WORKLOADS[name].flow(size)
    options = settings(folder)

    async def body() -> Sample:
        async with open_backend(place, options) as backend:
            timer = _Timer()
            flow_run_id = await create_flow_run(flow, backend, settings=options)
            state = await CloudFlowRunner(flow, backend=backend, settings=options).run(
                context={"flow_run_id": flow_run_id}
            )
            assert state.is_successful(), state
            return await timer.stop()

    return asyncio.run(body())
