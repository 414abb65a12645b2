"""Runs that are stopped in their first moments: by the API, by their caller, by a timeout, and by their runner.

``--tries`` and ``--seed`` choose how often, and when. Each test says how many tries truly met the beginning of a run:
stopped before its first state was acknowledged, or before its first body began.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, Settings, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.state import Cancelled

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(3600)]

FIRST_SECONDS = 0.1
LATEST_END = 60.0
"""Seconds, far less than the interval at which a run asks for its cancellation."""


@pytest.fixture
async def backend(url: str, tmp_path: Path) -> AsyncIterator[Backend]:
    settings = Settings(home=str(tmp_path), check_cancellation_interval=3600, cancel_grace=10)
    async with connect(url, settings=settings) as opened:
        yield opened


class Try:
    """One flow run that is stopped, and what was seen of it."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self.settings = settings
        self.bodies = 0
        self.first = 0.0
        """When the first body began, by the loop's time."""

        @task
        async def step(n: int) -> int:
            self.first = self.first or asyncio.get_running_loop().time()
            self.bodies += 1
            await asyncio.sleep(0.05)
            return n + 1

        with Flow("stopped early") as self.flow:
            last = step(0)
            for _ in range(8):
                last = step(last)

    async def seconds_to_begin(self) -> float:
        """Let the run go on to its end, and return how long it took to its first body."""
        flow_run_id = await create_flow_run(self.flow, self.backend, settings=self.settings)
        start = asyncio.get_running_loop().time()
        runner = CloudFlowRunner(self.flow, backend=self.backend, settings=self.settings)
        assert (await runner.run(context={"flow_run_id": flow_run_id})).is_successful()
        return self.first - start

    async def run(self, how: str, after: float) -> bool:
        """Stop the run after so many seconds; return whether that was while it began."""
        flow_run_id = await create_flow_run(self.flow, self.backend, settings=self.settings)
        runner = CloudFlowRunner(self.flow, backend=self.backend, settings=self.settings)
        started = runner.run(context={"flow_run_id": flow_run_id})
        met = False
        try:
            if how == "timeout":
                async with asyncio.timeout(after):
                    await started
            else:
                run = asyncio.create_task(started)
                await asyncio.sleep(after)
                met = self.bodies <= 1
                if how == "caller":
                    run.cancel()
                elif how == "runner":
                    runner.cancel()
                else:
                    await self.backend.cancel_flow_run(flow_run_id)
                async with asyncio.timeout(LATEST_END):
                    await run
        except (asyncio.CancelledError, TimeoutError):
            met = met or self.bodies <= 1
        info = await self.backend.get_flow_run_info(flow_run_id)
        assert type(info.state) is Cancelled, f"{how} after {after:.4f} s left it {info.state!r}"
        assert info.owner is None
        unfinished = [one for one in info.task_runs if not one.state.is_finished()]
        assert not unfinished, f"{how} after {after:.4f} s left {unfinished}"
        return met


@pytest.mark.parametrize("how", ["api", "caller", "timeout", "runner"])
async def test_no_run_is_left_unfinished(
    backend: Backend, tmp_path: Path, how: str, tries: int, request: pytest.FixtureRequest
) -> None:
    rng = random.Random(f"{how} {request.config.getoption('--seed')}")
    settings = Settings(home=str(tmp_path), check_cancellation_interval=3600, cancel_grace=10)
    # a quick machine is through the beginning in a fraction of that
    within = min(FIRST_SECONDS, 2 * await Try(backend, settings).seconds_to_begin())
    met: Counter[bool] = Counter()
    for _ in range(tries):
        has_met = await Try(backend, settings).run(how, rng.uniform(0, within))
        met[has_met] += 1
        if not has_met:
            within *= 0.7  # it was quicker this time than when it was looked at
    print(f"{how}: {met[True]} of {tries} tries were stopped while the run began, none was left unfinished")
    assert met[True] * 2 >= tries, "too few tries met what is tried here"
