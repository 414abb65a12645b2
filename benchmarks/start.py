"""The start of a large recorded flow run: how long until its first body begins."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable

from flowloop.engine import Flow, Settings, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run

from .harness import Row, Sample, compare
from .recording import Place, open_backend, places, places_of, scratch, settings

TITLE = "The start of a recorded flow run with many static tasks"

_SIZES = {"guard": 2_000, "quick": 10_000, "full": 10_000}


def run(scale: str) -> list[Row]:
    """Measure the time from the call to the first body, of a flow that is registered already."""
    size = _SIZES[scale]
    with scratch() as folder, places(places_of(scale)) as found:
        options = settings(folder)
        contenders = {name: functools.partial(to_the_first_body, place, options, size) for name, place in found.items()}
        return compare(
            "to the first body", contenders, unit="s", rounds=3 if scale == "full" else 1, size=size, warm_up=False
        )


def _nothing() -> None:
    pass


def to_the_first_body(
    place: Place,
    options: Settings,
    size: int,
    begin: Callable[[], None] = _nothing,
    end: Callable[[], None] = _nothing,
) -> Sample:
    """Start a flow run, and cancel it at its first body.

    Args:
        - place: where it is recorded
        - options: of the backend and the runner
        - size: how many static tasks
        - begin: called when the flow is registered, and its run is about to be created
        - end: called in the first body
    """
    begun: list[float] = []

    @task
    async def first(x: int) -> int:
        if not begun:
            begun.append(time.perf_counter())
            end()
            runner.cancel()
        return x

    with Flow("start") as flow:
        for number in range(size):
            first(number)
    runner: CloudFlowRunner

    async def body() -> dict[str, float]:
        nonlocal runner
        moments = [time.perf_counter()]
        async with open_backend(place, options) as backend:
            await create_flow_run(flow, backend, settings=options)
            begin()
            moments.append(time.perf_counter())
            flow_run_id = await create_flow_run(flow, backend, settings=options)
            moments.append(time.perf_counter())
            runner = CloudFlowRunner(flow, backend=backend, settings=options)
            await runner.run(context={"flow_run_id": flow_run_id})
        registered, created, started = moments
        return {
            "total": begun[0] - created,
            "first registration s": created - registered,
            "flow run created s": started - created,
            "read and begun s": begun[0] - started,
        }

    parts = asyncio.run(body())
    return Sample(parts.pop("total"), parts)
