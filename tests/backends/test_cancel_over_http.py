"""Cancelling the caller of a run that is recorded over HTTP, where closing the subscription takes several turns."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from flowloop.backends import connect
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.engine import Flow, task
from flowloop.engine.cloud import CloudFlowRunner

from .serving import serve


@task
async def hang(started: asyncio.Event) -> None:
    started.set()
    await anyio.sleep_forever()


async def test_the_caller_sees_the_cancellation_and_the_record_tells_it(tmp_path: Path) -> None:
    started = asyncio.Event()
    with Flow("hangs") as flow:
        hang(started, task_args={"checkpoint": False})
    with serve(create_app(f"sqlite:///{tmp_path}/runs.db", settings=ServerSettings(require_api_key=False))) as url:
        async with connect(url) as backend:
            runner = CloudFlowRunner(flow, backend=backend)
            run = asyncio.create_task(runner.run())
            await started.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert runner.flow_run_id is not None
            summary, (history,) = await backend.get_flow_run_history(runner.flow_run_id)
    assert summary.state == "Cancelled"
    assert [record.state for record in history.states] == ["Pending", "Running", "Cancelled"]
