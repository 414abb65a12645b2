"""A runner in a process of its own, which runs one flow run after the other and says what it does, a line each.

As a script: ``python owners.py DATABASE_OR_SERVER HEARTBEAT_INTERVAL``. It reads lines ``FLOW_RUN_ID DELAY``; it says
``began TASK``, ``acked TASK VERSION STATE`` and at last ``end`` with the kind of state or error that it ended with.
"""

from __future__ import annotations

import asyncio
import sys

import anyio
import msgspec

from flowloop.backends import connect
from flowloop.engine import Flow, Limits, Settings, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import BackendError

from .mapped import Say, TellingBackend, key, to_pipe

CHILDREN = 6


def owned_flow(say: Say) -> Flow:
    @task
    async def numbers() -> list[int]:
        say(f"began {key()}")
        return list(range(CHILDREN))

    @task
    async def work(number: int) -> int:
        say(f"began {key()}")
        await anyio.sleep(0.3)
        return number

    @task
    async def total(worked: list[int]) -> int:
        say(f"began {key()}")
        return sum(worked)

    with Flow("owned") as flow:
        total(work.map(numbers()))
    return flow


async def run(backend: Backend, settings: Settings, flow_run_id: str) -> str:
    runner = CloudFlowRunner(
        owned_flow(to_pipe),
        backend=TellingBackend(backend, to_pipe),
        settings=settings,
        limits=Limits(concurrency=2),
    )
    try:
        return type(await runner.run(context={"flow_run_id": flow_run_id})).__name__
    except BackendError as error:
        return type(error).__name__


async def main(url: str, heartbeat_interval: str) -> None:
    settings = msgspec.structs.replace(
        Settings.from_env(), heartbeat_interval=float(heartbeat_interval), cancel_grace=1.0
    )
    async with connect(url, settings=settings) as backend:
        to_pipe("ready")
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            flow_run_id, delay = line.split()
            await anyio.sleep(float(delay))
            to_pipe(f"end {await run(backend, settings, flow_run_id)}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
