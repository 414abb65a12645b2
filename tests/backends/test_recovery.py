"""Recovery: what an application started goes on, whatever became of the process that began it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from flowloop.backends import Recovery, connect
from flowloop.backends.worker import Worker
from flowloop.engine import Flow, context, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import BackendUnavailable
from flowloop.engine.settings import Settings
from flowloop.engine.state import Failed, Running, Success
from flowloop.engine.testing import FaultyBackend

pytestmark = pytest.mark.virtual_time

HOUR = datetime.timedelta(hours=1)


def clock() -> Any:
    loop: Any = asyncio.get_running_loop()
    return loop.clock


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), heartbeat_interval=30, check_cancellation_interval=1000)


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[Backend]:
    async with connect("memory://", settings=settings, clock=clock()) as opened:
        yield opened


class Chain:
    """A flow of two tasks, the second one long."""

    def __init__(self) -> None:
        self.ran: list[str] = []

        @task
        async def first() -> None:
            self.ran.append("first")

        @task
        async def second() -> None:
            self.ran.append("second")
            await anyio.sleep(20)

        with Flow("chain") as self.flow:
            second(upstream_tasks=[first()])


async def left_behind(chain: Chain, backend: Backend, settings: Settings) -> str:
    """Run a flow until its second task runs, and let its process die there."""
    faulty = FaultyBackend(backend)
    runner = CloudFlowRunner(chain.flow, backend=faulty, settings=settings)
    running = asyncio.create_task(runner.run())
    await anyio.sleep(5)
    writes = ("set_flow_run_state", "set_task_run_state", "update_flow_run_heartbeat", "release_flow_run")
    for method in writes:
        faulty.fail(method, BackendUnavailable("gone"), times=None)
    running.cancel()
    await asyncio.wait([running])
    assert runner.flow_run_id is not None
    assert type(await backend.get_flow_run_state(runner.flow_run_id)) is Running
    return runner.flow_run_id


async def test_what_a_process_left_behind_goes_on_when_its_lease_has_run_out(
    backend: Backend, settings: Settings
) -> None:
    chain = Chain()
    flow_run_id = await left_behind(chain, backend, settings)
    async with Recovery(backend, [chain.flow], settings=settings) as recovery:
        await anyio.sleep(50)
        assert recovery.flow_run_ids == []
        await anyio.sleep(10)
        assert recovery.flow_run_ids == [flow_run_id]
        await anyio.sleep(20)
    assert type(await backend.get_flow_run_state(flow_run_id)) is Success
    assert chain.ran == ["first", "second", "second"]


async def test_a_worker_may_continue_it_too(backend: Backend, settings: Settings) -> None:
    chain = Chain()
    flow_run_id = await left_behind(chain, backend, settings)
    async with Worker(backend, {"chain": chain.flow}, settings=settings):
        await anyio.sleep(90)
    assert type(await backend.get_flow_run_state(flow_run_id)) is Success


async def test_of_two_processes_one_continues_a_run(backend: Backend, settings: Settings) -> None:
    chain = Chain()
    ids = [await left_behind(chain, backend, settings) for _ in range(4)]
    chain.ran.clear()
    async with (
        Recovery(backend, [chain.flow], settings=settings),
        Recovery(backend, {"chain": chain.flow}, settings=settings),
    ):
        await anyio.sleep(120)
    assert [type(await backend.get_flow_run_state(one)) for one in ids] == [Success] * 4
    assert chain.ran == ["second"] * 4


async def test_a_run_that_waits_for_a_late_retry_goes_on_at_its_time(backend: Backend, settings: Settings) -> None:
    attempts: list[datetime.datetime] = []

    @task(max_retries=1, retry_delay=HOUR)
    async def flaky() -> None:
        attempts.append(clock().now())
        if context.task_run_count == 1:
            raise ValueError("once")

    with Flow("flaky") as flow:
        flaky()
    async with Recovery(backend, [flow], settings=settings):
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        assert not (await runner.run()).is_finished()
        await anyio.sleep(HOUR.total_seconds() + 5)
        assert runner.flow_run_id is not None
        assert type(await backend.get_flow_run_state(runner.flow_run_id)) is Success
    assert attempts[1] - attempts[0] >= HOUR


async def test_what_nobody_has_begun_is_left_to_workers(backend: Backend, settings: Settings) -> None:
    chain = Chain()
    flow_run_id = await create_flow_run(chain.flow, backend, settings=settings)
    async with Recovery(backend, [chain.flow], settings=settings):
        await anyio.sleep(10)
    assert chain.ran == []
    assert (await backend.get_flow_run_state(flow_run_id)).is_scheduled()


async def test_what_is_started_is_owned_at_once_and_handed_over_at_the_end(
    backend: Backend, settings: Settings
) -> None:
    chain = Chain()
    async with Recovery(backend, [chain.flow], settings=settings) as recovery:
        flow_run_id = await recovery.start(chain.flow)
        assert (await backend.get_flow_run_info(flow_run_id)).owner == recovery.id
        await anyio.sleep(5)
    assert (await backend.get_flow_run_state(flow_run_id)).is_scheduled()
    async with Recovery(backend, [chain.flow], settings=settings):
        await anyio.sleep(25)
    assert type(await backend.get_flow_run_state(flow_run_id)) is Success


async def test_a_run_that_ends_its_processes_is_not_begun_for_ever(backend: Backend, settings: Settings) -> None:
    chain = Chain()
    flow_run_id = await left_behind(chain, backend, settings)
    for _ in range(5):
        faulty = FaultyBackend(backend)
        async with anyio.create_task_group() as group:
            group.start_soon(Recovery(faulty, [chain.flow], settings=settings).run)
            await anyio.sleep(65)
            for method in ("set_flow_run_state", "set_task_run_state", "update_flow_run_heartbeat", "release_flow_run"):
                faulty.fail(method, BackendUnavailable("gone"), times=None)
            group.cancel_scope.cancel()
    state = await backend.get_flow_run_state(flow_run_id)
    assert type(state) is Failed
    assert "3 times" in (state.message or "")
    assert chain.ran.count("second") == 3


async def test_a_run_that_was_started_under_its_key_before_is_not_begun_beside_that(
    backend: Backend, settings: Settings
) -> None:
    chain = Chain()
    async with (
        Recovery(backend, [chain.flow], settings=settings) as one,
        Recovery(backend, [chain.flow], settings=settings) as other,
    ):
        started = [await process.start(chain.flow, idempotency_key="order-17") for process in (one, one, other)]
        await anyio.sleep(10)
        started += [await process.start(chain.flow, idempotency_key="order-17") for process in (other, one)]
        await anyio.sleep(15)
        started.append(await one.start(chain.flow, idempotency_key="order-17"))  # it is over
        await anyio.sleep(1)
        (flow_run_id,) = set(started)
        assert type(await backend.get_flow_run_state(flow_run_id)) is Success
    assert chain.ran == ["first", "second"]
