"""What people ask of a flow run that goes on: whoever runs it goes on from there, also another process later."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, Limits, pause_task, task, wait_for_event
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import BackendRejected
from flowloop.engine.settings import Settings
from flowloop.engine.state import Cancelled, Running, Scheduled, Skipped, State, Success, TimedOut

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


async def test_limits_hold_from_when_they_are_set_also_for_what_goes_on_already(
    backend: Backend, settings: Settings
) -> None:
    now = most = 0
    widths: list[int] = []

    @task(tags=["db"])
    async def works(n: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(10)
        widths.append(now)
        now -= 1

    with Flow("limited") as flow:
        works.map([*range(12)])
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    runner = CloudFlowRunner(flow, backend=backend, settings=settings, limits=Limits(concurrency=6))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: runner.run(context={"flow_run_id": flow_run_id}))
        await anyio.sleep(5)
        await backend.direct_flow_run(flow_run_id, "set_limits", value={"tags": {"db": 2}, "concurrency": None})
    assert (most, widths) == (6, [6, 5, 4, 3, 2, 1, 2, 1, 2, 1, 2, 1])
    info = await backend.get_flow_run_info(flow_run_id)
    assert info.limits == {"tags": {"db": 2}, "concurrency": None}


@pytest.mark.parametrize(
    "value", [{"concurrency": 0}, {"threads": 3}, 5, None, {"rate": {"count": 1}}, {"tags": {"db": "many"}}]
)
async def test_what_is_no_limit_is_refused(backend: Backend, settings: Settings, value: Any) -> None:
    with Flow("empty") as flow:
        flow.add_task(task(lambda: 1, name="one"))
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    with pytest.raises(BackendRejected, match="limits are an object of"):
        await backend.direct_flow_run(flow_run_id, "set_limits", value=value)


async def test_all_tasks_with_a_tag_are_held_that_can_be(backend: Backend, settings: Settings) -> None:
    @task(tags=["late"])
    async def late(n: int) -> int:
        return n

    with Flow("tagged") as flow:
        late.map([1, 2])
        late(3)
        task(lambda: 1, name="early")()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    await backend.direct_flow_run(flow_run_id, "hold", tag="late")
    with pytest.raises(BackendRejected, match="no task run with the tag 'late'"):
        await backend.direct_flow_run(flow_run_id, "hold", tag="late")
    with pytest.raises(BackendRejected, match="of a tag"):
        await backend.direct_flow_run(flow_run_id, "skip", tag="late")
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run(context={"flow_run_id": flow_run_id})
    assert not state.is_finished()
    assert [type(one).__name__ for one in state.result.values()].count("Paused") == 2
    await backend.direct_flow_run(flow_run_id, "release", tag="late")
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run(context={"flow_run_id": flow_run_id})
    assert state.is_successful()


async def test_an_answer_of_another_type_pauses_again_and_says_so(backend: Backend, settings: Settings) -> None:
    @task
    async def asks() -> int:
        answer: int = pause_task("how many?", type=int)
        return answer

    with Flow("asking") as flow:
        asked = asks()
    known = {"flow_run_id": await create_flow_run(flow, backend, settings=settings)}
    for value in ("three", 3):
        await CloudFlowRunner(flow, backend=backend, settings=settings).run(context=known)
        await backend.direct_flow_run(known["flow_run_id"], "resume", task="asks-1", value=value)
    _, (history,) = await backend.get_flow_run_history(known["flow_run_id"])
    paused = [one.message or "" for one in history.states if one.state == "Paused"]
    assert paused[0] == "how many?"
    assert paused[1].startswith("how many? The answer 'three' will not do:")
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run(context=known)
    assert state[asked].result == 3


async def test_a_time_limit_counts_from_the_beginning_also_for_who_takes_over(
    backend: Backend, settings: Settings
) -> None:
    began = anyio.current_time()

    @task
    async def waits() -> None:
        await anyio.sleep(1000)

    with Flow("slow", timeout=100) as flow:
        waits()
    known = {"flow_run_id": await create_flow_run(flow, backend, settings=settings)}
    first = CloudFlowRunner(flow, backend=backend, settings=settings)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: first.run(context=known))
        await anyio.sleep(60)
        first.cancel("handover")
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run(context=known)
    assert anyio.current_time() - began == pytest.approx(100, abs=1)
    assert type(state) is TimedOut
    assert state.message == "The flow run took longer than its time limit of 100 s."
    assert type(state["waits-1"]) is Cancelled
    late = await CloudFlowRunner(flow, backend=backend, settings=settings).run(context=known)
    assert type(late) is TimedOut


async def test_a_time_limit_of_a_run_that_is_not_recorded_and_one_that_is_changed(
    backend: Backend, settings: Settings
) -> None:
    @task
    async def waits() -> None:
        await anyio.sleep(50)

    with Flow("slow", timeout=20) as flow:
        waits()
    assert type(await FlowRunner(flow).run()) is TimedOut
    assert type(await FlowRunner(flow, limits=Limits(timeout=60)).run()) is Success
    known = {"flow_run_id": await create_flow_run(flow, backend, settings=settings)}
    async with anyio.create_task_group() as group:
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        group.start_soon(lambda: runner.run(context=known))
        await anyio.sleep(10)
        await backend.direct_flow_run(known["flow_run_id"], "set_limits", value={"timeout": 60})
    assert type(await backend.get_flow_run_state(known["flow_run_id"])) is Success
