"""Flows in the background of an application: what comes of one never touches the others."""

from __future__ import annotations

import asyncio
import logging

import anyio
import pytest

from flowloop.backends.memory import MemoryBackend
from flowloop.engine import Flow, FlowRunner, task
from flowloop.engine.cloud import CloudFlowRunner, background
from flowloop.engine.errors import BackendRejected
from flowloop.engine.settings import Settings
from flowloop.engine.testing import FaultyBackend

pytestmark = pytest.mark.virtual_time


async def test_a_run_that_fails_or_cannot_begin_leaves_its_neighbours_alone(
    memory: MemoryBackend, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    @task
    async def fails() -> None:
        raise ValueError("no")

    @task
    async def slow() -> None:
        await anyio.sleep(10)
        done.append("slow")

    with Flow("bad") as bad:
        fails()
    with Flow("good") as good:
        slow()
    refusing = FaultyBackend(memory)
    refusing.fail("register_flow", BackendRejected("not today"))
    async with anyio.create_task_group() as group:
        background(group, CloudFlowRunner(good, backend=memory, settings=settings))
        background(group, CloudFlowRunner(bad, backend=memory, settings=settings))
        background(group, CloudFlowRunner(good, backend=refusing, settings=settings))
    assert done == ["slow"]
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("of 'bad' failed: " in line for line in told)
    assert "flow 'good' could not be run in the background: not today" in told


async def test_a_group_of_asyncio_takes_one_too() -> None:
    done: list[str] = []

    @task
    async def notes() -> None:
        done.append("it")

    with Flow("noted") as flow:
        notes()
    async with asyncio.TaskGroup() as group:  # noqa: TID251 - as an application may have one
        background(group, FlowRunner(flow))
    assert done == ["it"]
