"""A flow run that is recorded, against the engine and its transitions, one after the other."""

from __future__ import annotations

import asyncio
import functools
import time

from flowloop.engine import Settings
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run

from .harness import Row, Sample, compare, seconds
from .recording import Place, open_backend, places, places_of, scratch, settings, transitions_alone
from .workloads import WORKLOADS, checked_run

TITLE = "A recorded flow run, two transitions for each task"

_CASES = {
    "guard": (("map, reduce", 2_000),),
    "quick": (("map, reduce", 2_000),),
    "full": (
        ("map, reduce", 1_000),
        ("map, reduce", 10_000),
        ("fan-out, reduce", 10_000),
        ("layers", 10_000),
        ("map, map, reduce", 10_000),
    ),
}
_UNCOMPARED = {"guard": (), "quick": (), "full": (("map, reduce", 100_000), ("diamond, 10 kB", 10_000))}
"""Not compared with their parts: those of the one take as long once more, and the other stores a hundred megabytes of
results, which is in neither part. One round, because a round takes a minute.
"""

_NARROW = {"layers"}
_FULL_PLACES = ("embedded, FULL", "HTTP, SQLite NORMAL", "HTTP, PostgreSQL")


def run(scale: str) -> list[Row]:
    """Measure recorded runs against the sum of the engine alone and as many transitions alone."""
    rows: list[Row] = []
    names = places_of(scale) or _FULL_PLACES
    with scratch() as folder, places(names) as found:
        options = settings(folder)
        for workload, size in _CASES[scale]:
            for name, place in found.items():
                alone = f"engine + transitions, {name}"
                contenders = {
                    alone: functools.partial(_alone, place, options, workload, size),
                    name: functools.partial(_recorded, place, options, workload, size),
                }
                rows += compare(
                    workload,
                    contenders,
                    unit="s",
                    rounds=3 if scale == "full" else 2,
                    baseline=alone,
                    size=size,
                    warm_up=False,
                )
        for workload, size in _UNCOMPARED[scale]:
            whole = {
                name: functools.partial(_recorded, place, options, workload, size) for name, place in found.items()
            }
            rows += compare(workload, whole, unit="s", rounds=1, size=size, warm_up=False)
    return rows


def _alone(place: Place, options: Settings, name: str, size: int) -> Sample:
    """The same flow without a backend, and after it the same number of transitions without a flow."""
    workload = WORKLOADS[name]
    flow, last = workload.flow(size)
    engine = seconds(functools.partial(checked_run, flow, last, workload.answer(size)))
    coroutines = size // 100 if name in _NARROW else size  # as many as are ready at once
    transitions = 2 * size / transitions_alone(place, options, size, coroutines).value
    return Sample(engine + transitions, {"engine s": engine, "transitions s": transitions})


def _recorded(place: Place, options: Settings, name: str, size: int) -> Sample:
    took = recorded_seconds(place, options, name, size)
    return Sample(took, {"tasks/s": size / took})


def recorded_seconds(place: Place, options: Settings, name: str, size: int) -> float:
    """Return how long a flow run takes; the flow is registered, and the flow run created, before."""
    workload = WORKLOADS[name]
    flow, last = workload.flow(size)

    async def body() -> float:
        async with open_backend(place, options) as backend:
            flow_run_id = await create_flow_run(flow, backend, settings=options)
            start = time.perf_counter()
            runner = CloudFlowRunner(flow, backend=backend, settings=options)
            state = await runner.run(context={"flow_run_id": flow_run_id})
            took = time.perf_counter() - start
            assert state.is_successful(), state
            assert state.result[last].result == workload.answer(size)
            return took

    return asyncio.run(body())
