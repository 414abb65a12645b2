"""What people ask of a flow run that goes on: whoever runs it goes on from there, also another process later."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, pause_task, task, wait_for_event
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.settings import Settings
from flowloop.engine.state import Running, Scheduled, Skipped, State, Success

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


async def test_a_task_that_is_held_begins_when_it_is_released(backend: Backend, settings: Settings) -> None:
    held: list[str] = []

    async def hold(flow_run_id: str) -> None:
        held.append(flow_run_id)
        await backend.direct_flow_run(flow_run_id, "hold", task="second-1")

    state, ran = await run_with(backend, settings, hold)
    assert not state.is_finished()
    assert state["first-1"].is_successful()
    assert ran == []
    await backend.direct_flow_run(held[0], "release", task="second-1")
    info = await backend.get_flow_run_info(held[0])
    assert type(info.state) is Scheduled
    assert {run.task_slug: type(run.state) for run in info.task_runs}["second-1"] is Scheduled


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


async def test_a_task_that_waits_for_an_event_goes_on_with_its_value(backend: Backend, settings: Settings) -> None:
    got: list[Any] = []

    @task
    async def pays(amount: int) -> None:
        got.append(amount)

    with Flow("payout") as flow:
        pays(wait_for_event("approved"))
        late = wait_for_event("never", timeout=3, name="late")
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    states: list[State] = []

    async def run() -> None:
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        states.append(await runner.run(context={"flow_run_id": flow_run_id}))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.sleep(1)
        await backend.direct_flow_run(flow_run_id, "event", task="other", value=1)
        await backend.direct_flow_run(flow_run_id, "event", task="approved", value=250)
        await anyio.sleep(1)
        assert got == [250]
    assert "no event 'never' came within 3 s" in (states[0][late].message or "")
    assert [one.obeyed is not None for one in await backend.list_directives(flow_run_id)] == [False, True]


async def test_an_event_needs_a_run_that_can_be_sent_one() -> None:
    with Flow("alone") as flow:
        waits = wait_for_event("approved")
    state = await FlowRunner(flow).run()
    assert "only a recorded flow run can be sent" in (state[waits].message or "")


async def test_a_pause_returns_the_value_of_the_resume_also_to_a_runner_that_takes_over(
    backend: Backend, settings: Settings
) -> None:
    @task
    async def asks() -> Any:
        return pause_task("how many?")

    with Flow("asking") as flow:
        asked = asks()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    known = {"flow_run_id": flow_run_id}
    assert not (await CloudFlowRunner(flow, backend=backend, settings=settings).run(context=known)).is_finished()
    await backend.direct_flow_run(flow_run_id, "resume", task="asks-1", value={"n": 3})
    # somebody went on with it, and was gone before the body had ended
    (info,) = (await backend.get_flow_run_info(flow_run_id)).task_runs
    await backend.set_flow_run_state(flow_run_id, None, Running("go"))
    await backend.set_task_run_state(info.id, info.version, Running("go", context=info.state.context))
    state = await CloudFlowRunner(flow, backend=backend, settings=settings, takeover=True).run(context=known)
    assert state[asked].result == {"n": 3}
