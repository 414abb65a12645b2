"""The latency of a strict chain: each task waits until all that it builds on is acknowledged."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time

from flowloop.engine import Flow, FlowRunner, Settings, task
from flowloop.engine.cloud import CloudFlowRunner

from .harness import Row, Sample, compare
from .recording import Place, open_backend, percentile, places, places_of, scratch, settings

TITLE = "Latency per task of a chain, every state acknowledged before the next"

_LENGTH = {"guard": 100, "quick": 200, "full": 500}


def run(scale: str) -> list[Row]:
    """Measure the time from one body to the next."""
    names = places_of(scale)
    size = _LENGTH[scale]
    with scratch() as folder, places(names) as found:
        options = settings(folder)
        contenders = {"no backend": functools.partial(chain, None, options, size)}
        for name, place in found.items():
            contenders[name] = functools.partial(chain, place, options, size)
        return compare("chain", contenders, unit="ms/task", rounds=5, baseline="no backend", size=size)


def chain(place: Place | None, options: Settings, size: int) -> Sample:
    """Run a chain, recorded or not, and return the mean time from one body to the next."""
    moments: list[float] = []

    @task
    async def step(before: int) -> int:
        moments.append(time.perf_counter())
        return before + 1

    with Flow("latency") as flow:
        answer = step(0)
        for _ in range(size - 1):
            answer = step(answer)

    async def body() -> None:
        if place is None:
            state = await FlowRunner(flow).run()
        else:
            async with open_backend(place, options) as backend:
                state = await CloudFlowRunner(flow, backend=backend, settings=options).run()
        assert state.is_successful(), (state, state.result)

    asyncio.run(body())
    assert len(moments) == size
    gaps = sorted(after - before for before, after in itertools.pairwise(moments))
    mean = (moments[-1] - moments[0]) / (size - 1)
    return Sample(mean * 1e3, {"p50 ms": percentile(gaps, 0.5) * 1e3, "p99 ms": percentile(gaps, 0.99) * 1e3})
