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
from .recording import Place, has_postgres, open_backend, percentile, places, postgres, scratch, settings

TITLE = "Flow runs of three tasks a second"

PLACES = ("embedded, FULL", "HTTP, SQLite FULL", "HTTP, PostgreSQL")
OF_ONE_TASK = "of one task, 500 at once"
DBOS = Peer("DBOS on SQLite", "dbos_flow_runs", (), requirements="dbos_sqlite")
PREFECT = Peer("Prefect 3", "prefect_3_flow_runs", (), requirements="prefect_3")

CASES = {"100 at once": (100, 1_000), "one at a time": (1, 100)}
"""How many go on at once, and how many there are in all."""

_FEW = {"Prefect 3": 20}
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
                contender = functools.partial(measured_by, python, peer.script, str(at_once), fewer)
                try:
                    contender()
                except PeerError as error:
                    rows.append(missing(case, peer.name, error))
                else:
                    contenders[peer.name] = contender
            contenders["no backend"] = functools.partial(flow_runs, None, options, at_once, count)
            for name, place in found.items():
                contenders[name] = functools.partial(flow_runs, place, options, at_once, count)
            baseline = DBOS.name if DBOS.name in contenders else None
            rounds = 3 if scale == "full" else 2
            rows += compare(
                case, contenders, unit="flow runs/s", rounds=rounds, baseline=baseline, size=count, warm_up=False
            )
        if has_postgres():
            with postgres() as url:
                one = functools.partial(flow_runs, Place(url, {}), options, 500, 5_000, one_task())
                rows += compare(
                    OF_ONE_TASK,
                    {"embedded, PostgreSQL": one},
                    unit="flow runs/s",
                    rounds=3,
                    size=5_000,
                    warm_up=False,
                )
    return rows


def one_task() -> Flow:
    """Return a flow of a single task."""
    with Flow("one task") as flow:
        double(1)
    return flow


def flow_runs(place: Place | None, options: Settings, at_once: int, count: int, flow: Flow | None = None) -> Sample:
    """Run the flow of three tasks, or another one, `count` times, `at_once` at a time, and return the rate."""
    parameters = {} if flow is not None else {"x": 1}
    flow = small_flow() if flow is None else flow

    async def body() -> Sample:
        if place is None:
            return await measured(
                lambda x: FlowRunner(flow, settings=options).run(parameters=parameters), at_once, count
            )
        async with open_backend(place, options) as backend:
            await register_flow(flow, backend, settings=options)

            def one(x: int) -> Awaitable[object]:
                return CloudFlowRunner(flow, backend=backend, settings=options).run(parameters=parameters)

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
