"""What people ask of a flow run that goes on: whoever runs it goes on from there, also another process later."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.settings import Settings
from flowloop.engine.state import Skipped, State, Success

pytestmark = pytest.mark.virtual_time


@pytest.fixture(params=["memory", "database"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.getfixturevalue(request.param)
    return found


async def run_with(backend: Backend, settings: Settings, steer: Any) -> tuple[State, list[str]]:
    """Run a flow whose first task waits for somebody to steer the rest."""
    ran: list[str] = []
    steered = anyio.Event()

    @task
    async def first() -> int:
        await steered.wait()
        return 1

    @task
    async def second(n: int) -> int:
        ran.append(f"second {n}")
        return n + 1

    @task
    async def third(n: int) -> int:
        ran.append(f"third {n}")
        return n + 1

    with Flow("steered") as flow:
        third(second(first()))
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    states: list[State] = []

    async def run() -> None:
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        states.append(await runner.run(context={"flow_run_id": flow_run_id}))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        while (await backend.get_flow_run_state(flow_run_id)).is_pending():  # noqa: ASYNC110 - in virtual time
            await anyio.sleep(0.1)
        await steer(flow_run_id)
        steered.set()
    return states[0], ran


async def test_a_task_that_is_skipped_does_not_run_and_what_follows_is_skipped(
    backend: Backend, settings: Settings
) -> None:
    state, ran = await run_with(
        backend, settings, lambda run: backend.direct_flow_run(run, "skip", task="second-1", author="ann")
    )
    assert state.is_successful()
    assert ran == []
    assert (type(state["second-1"]), state["second-1"].message) == (Skipped, "Skipped by ann.")
    assert type(state["third-1"]) is Skipped


async def test_a_result_that_is_set_is_what_the_next_task_gets(backend: Backend, settings: Settings) -> None:
    state, ran = await run_with(
        backend, settings, lambda run: backend.direct_flow_run(run, "set_result", task="second-1", value=41)
    )
    assert ran == ["third 41"]
    assert type(state["second-1"]) is Success
    assert state["third-1"].result == 42


async def test_a_run_that_somebody_cancels_says_who(backend: Backend, settings: Settings) -> None:
    runs: list[str] = []

    async def cancel(flow_run_id: str) -> None:
        runs.append(flow_run_id)
        await backend.direct_flow_run(flow_run_id, "cancel", author="ann", note="too late")
        await anyio.sleep(60)

    state, ran = await run_with(backend, settings, cancel)
    assert type(state).__name__ == "Cancelled"
    assert ran == []
    (asked,) = await backend.list_directives(runs[0])
    assert (asked.kind, asked.author, asked.note) == ("cancel", "ann", "too late")
