"""Prefect 3: an async flow of three async tasks for each flow run, two of them gathered, on the SQLite server it has
started; set up as for the large flow.
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

from _flow_runs import measured, tell  # noqa: E402
from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402

plain = task(cache_policy=NO_CACHE, persist_result=False)


@plain
async def double(x):
    return 2 * x


@plain
async def square(x):
    return x * x


@plain
async def add(a, b):
    return a + b


@flow(persist_result=False)
async def bench(x: int) -> int:
    return await add(*await asyncio.gather(double(x), square(x)))


if __name__ == "__main__":
    tell("prefect", asyncio.run(measured(bench)))
    os._exit(0)  # nobody waits for what its server has still to record; who started this ends it, and removes the files
