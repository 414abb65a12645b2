"""Acknowledged transitions: how many a second are on disk, when every coroutine waits for its own."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable

import anyio
import httpx
import msgspec

from flowloop.engine import Settings
from flowloop.engine.backend import Backend, TaskRunInfoResult
from flowloop.engine.serialization import encode_state
from flowloop.engine.state import Running, Success

from .harness import Row, Sample, compare
from .recording import (
    Place,
    open_backend,
    percentile,
    places,
    places_of,
    record_transitions,
    running_task_runs,
    scratch,
    settings,
)

TITLE = "Acknowledged transitions, each coroutine waiting for its own"
BASELINE = "one request each, SQLite NORMAL"

_COROUTINES = {"guard": (200,), "quick": (200, 2_000), "full": (200, 2_000)}
_TRANSITIONS = {"guard": 4_000, "quick": 8_000, "full": 20_000}
_SINGLE = 800
"""Transitions of the baseline: it is slow, and its rate does not depend on their number."""

_CONNECTIONS = 4
_MUTATION = (
    "mutation($input: set_task_run_states_input!) {"
    " set_task_run_states(input: $input) { states { id status message } } }"
)

Move = Callable[[Backend, str, list[TaskRunInfoResult], int], Awaitable[Sample]]


def run(scale: str) -> list[Row]:
    """Measure every place where runs are recorded against one request per transition."""
    rows: list[Row] = []
    names = places_of(scale)
    with scratch() as folder, places(names) as found:
        options = settings(folder)
        for coroutines in _COROUTINES[scale]:
            count = max(_TRANSITIONS[scale] // 2, coroutines)
            contenders: dict[str, Callable[[], Sample]] = {
                BASELINE: functools.partial(
                    _measured,
                    found["HTTP, SQLite NORMAL"],
                    options,
                    _one_by_one,
                    max(_SINGLE // 2, coroutines),
                    coroutines,
                )
            }
            for name, place in found.items():
                contenders[name] = functools.partial(_measured, place, options, _shared, count, coroutines)
            rows += compare(
                f"{coroutines:,} coroutines",
                contenders,
                unit="/s",
                rounds=5 if scale == "full" else 2,
                baseline=BASELINE,
                size=2 * count,
                warm_up=scale != "guard",
            )
    return rows


def _measured(place: Place, options: Settings, move: Move, count: int, coroutines: int) -> Sample:
    async def body() -> Sample:
        async with open_backend(place, options) as backend:
            runs = await running_task_runs(backend, count, options)
            return await move(backend, place.url, runs, coroutines)

    return asyncio.run(body())


async def _shared(backend: Backend, url: str, runs: list[TaskRunInfoResult], coroutines: int) -> Sample:
    return await record_transitions(backend, runs, coroutines)


async def _one_by_one(backend: Backend, url: str, runs: list[TaskRunInfoResult], coroutines: int) -> Sample:
    """The same moves with a request for each: httpx, four connections kept open, nothing but the mutation."""
    turns = anyio.Semaphore(_CONNECTIONS)
    latencies: list[float] = []
    clock = time.perf_counter

    async def move(own: list[TaskRunInfoResult]) -> None:
        for run in own:
            for offset, state in enumerate((Running("Starting task run."), Success("Task run succeeded."))):
                start = clock()
                item = {
                    "task_run_id": run.id,
                    "version": run.version + offset,
                    "state": msgspec.Raw(encode_state(state)),
                }
                body = msgspec.json.encode({"query": _MUTATION, "variables": {"input": {"states": [item]}}})
                async with turns:
                    answer = (await client.post(url, content=body)).json()
                assert answer["data"]["set_task_run_states"]["states"][0]["status"] == "SUCCESS", answer
                latencies.append(clock() - start)

    limits = httpx.Limits(max_connections=_CONNECTIONS)
    async with httpx.AsyncClient(limits=limits, headers={"Content-Type": "application/json"}, timeout=60) as client:
        start = clock()
        async with asyncio.TaskGroup() as group:
            for number in range(coroutines):
                group.create_task(move(runs[number::coroutines]))
        rate = len(latencies) / (clock() - start)
    latencies.sort()
    return Sample(rate, {"p50 ms": percentile(latencies, 0.5) * 1e3, "p99 ms": percentile(latencies, 0.99) * 1e3})
