"""Prefect 3: an async flow of async tasks, gathered (its own `map` takes three times as long), on the SQLite server it
starts; logs, caching, results and analytics off. The time is that until the flow returns; the server goes on recording
the task runs after that.
"""

import asyncio
import os
import tempfile

home = tempfile.mkdtemp()
os.environ.update(
    PREFECT_HOME=home,
    PREFECT_LOGGING_LEVEL="CRITICAL",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_LOGGING_LEVEL="CRITICAL",
    PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="60",
    DO_NOT_TRACK="1",
)

from _peer import MODULUS, TEN_KB, layer_plan, main  # noqa: E402
from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402

plain = task(cache_policy=NO_CACHE, persist_result=False)


@plain
async def same(x):
    return x


@plain
async def following(x):
    return x + 1


@plain
async def add(a, b, c):
    return (a + b + c) % MODULUS


@plain
async def total(xs):
    return sum(xs)


@plain
async def source():
    return TEN_KB


@plain
async def turned(data):
    return data[::-1]


@plain
async def total_length(parts):
    return sum(map(len, parts))


@flow(persist_result=False)
async def bench(workload: str, size: int) -> int:
    if workload == "chain":
        value = 0
        for _ in range(size):
            value = await following(value)
        return value
    if workload == "layers":
        plan = layer_plan(size)
        layer = await asyncio.gather(*(same(number) for number in range(len(plan[0]))))
        for one in plan:
            layer = await asyncio.gather(*(add(*(layer[number] for number in upstream)) for upstream in one))
        return await total(list(layer))
    if workload == "two-maps":

        async def twice(number):
            return await following(await following(number))

        return await total(list(await asyncio.gather(*(twice(number) for number in range(size // 2)))))
    if workload == "diamond":
        data = await source()
        return await total_length(list(await asyncio.gather(*(turned(data) for _ in range(size)))))
    return await total(list(await asyncio.gather(*(same(number) for number in range(size)))))


async def prepare(workload, size):
    async def run():
        return await bench(workload, size)

    return run


if __name__ == "__main__":
    main("prefect", prepare)
    os._exit(0)  # nobody waits for what its server has still to record; who started this ends it, and removes the files
