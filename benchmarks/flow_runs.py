"""Many small flow runs: what a service that runs a flow in each of its requests gets.

The flow is one parameter, two tasks side by side, and one that joins them: four recorded task runs.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Awaitable, Callable

from flowloop.engine import Flow, FlowRunner, Parameter, Settings, task
from flowloop.engine.cloud import CloudFlowRunner, register_flow

from .beside_peers import Peer, PeerError, environment_of, measured_by
from .harness import Row, Sample, compare, missing
from .recording import Place, open_backend, percentile, places, scratch, settings

TITLE = "Flow runs of three tasks a second"

PLACES = ("embedded, FULL", "HTTP, SQLite FULL", "HTTP, PostgreSQL")
DBOS = Peer("DBOS on SQLite", "dbos_flow_runs", (), requirements="dbos_sqlite")
PREFECT = Peer("Prefect 3", "prefect_3_flow_runs", (), requirements="prefect_3")

CASES = {"100 at once": (100, 1_000), "one at a time": (1, 100)}
"""How many go on at once, and how many there are in all."""

_FEW = {"Prefect 3": 10}
"""By how much fewer of those that take long each."""


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def square(x: int) -> int:
    return x * x


@task
async def add(a: int, b: int) -> int:
    return a + b


def small_flow() -> Flow:
    """Return the flow."""
    with Flow("flow runs") as flow:
        x = Parameter("x")
        add(double(x), square(x))
    return flow


def run(scale: str) -> list[Row]:
    """Measure each place in turns with the peers."""
    rows: list[Row] = []
    peers = (DBOS, PREFECT) if scale == "full" else (DBOS,)
    with scratch() as folder, places(PLACES) as found:
        options = settings(folder)
        for case, (at_once, count) in CASES.items():
            contenders: dict[str, Callable[[], Sample]] = {}
            for peer in peers:
                try:
                    python = environment_of(peer)
                except PeerError as error:
                    rows.append(missing(case, peer.name, error))
                    continue
                fewer = count // _FEW.get(peer.name, 1)
                contenders[peer.name] = functools.partial(measured_by, python, peer.script, str(at_once), fewer)
            contenders["no backend"] = functools.partial(flow_runs, None, options, at_once, count)
            for name, place in found.items():
                contenders[name] = functools.partial(flow_runs, place, options, at_once, count)
            baseline = DBOS.name if DBOS.name in contenders else None
            rounds = 5 if scale == "full" else 2
            rows += compare(
                case, contenders, unit="flow runs/s", rounds=rounds, baseline=baseline, size=count, warm_up=False
            )
    return rows


def flow_runs(place: Place | None, options: Settings, at_once: int, count: int) -> Sample:
    """Run the flow `count` times, `at_once` at a time, and return the rate."""
    flow = small_flow()

    async def body() -> Sample:
        if place is None:
            return await measured(lambda x: FlowRunner(flow, settings=options).run(parameters={"x": x}), at_once, count)
        async with open_backend(place, options) as backend:
            await register_flow(flow, backend, settings=options)

            def one(x: int) -> Awaitable[object]:
                return CloudFlowRunner(flow, backend=backend, settings=options).run(parameters={"x": x})

            return await measured(one, at_once, count)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # as the documentation recommends for a process of one's own
    try:
        return asyncio.run(body())
    finally:
        sys.setswitchinterval(interval)


async def measured(one: Callable[[int], Awaitable[object]], at_once: int, count: int) -> Sample:
    """Await `one` for each number below `count`, `at_once` at a time, after a few to warm up."""
    latencies: list[float] = []
    await asyncio.gather(*(one(x) for x in range(min(at_once, 20))))
    numbers = iter(range(count))

    async def client() -> None:
        for x in numbers:
            start = time.perf_counter()
            await one(x)
            latencies.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    took = time.perf_counter() - start
    latencies.sort()
    return Sample(
        count / took, {"p50 ms": percentile(latencies, 0.5) * 1e3, "p99 ms": percentile(latencies, 0.99) * 1e3}
    )
