"""A flow that runs as a task of a recorded one: recorded as a flow run of its own, which goes on and ends with that."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowloop.engine import Flow, FlowRunner, Limits, Parameter, Settings, pause_task, task
from flowloop.engine.backend import Backend, FlowRunFilter, FlowRunSummary
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import BackendRejected, OwnershipLost
from flowloop.engine.schedules import CronSchedule
from flowloop.engine.state import Cancelled, Failed, Running, State, Success
from flowloop.engine.subflow import subflow
from flowloop.engine.watch import RunEvent

pytestmark = pytest.mark.virtual_time


class World:
    """A flow with one that runs as its task; counts what runs."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self.settings = settings
        self.ran: Counter[str] = Counter()
        self.waits = anyio.Event()
        self.reached = anyio.Event()
        self.fails = False

    def body(self, name: str, *, waits: bool = False, pauses: bool = False, fails: bool = False) -> Any:
        async def body(n: Any) -> Any:
            self.ran[name] += 1
            if waits:
                self.reached.set()
                await self.waits.wait()
            if pauses:
                return pause_task()
            if fails and self.fails:
                raise ValueError("told to fail")
            return n

        return task(body, name=name)

    def flow(self, **how: Any) -> Flow:
        """Return a flow around one of three tasks, of which the second is told what to do."""
        with Flow("inner") as inner:
            self.body("third")(self.body("second", **how)(self.body("first")(Parameter("n"))))
        with Flow("outer") as outer:
            self.body("after")(subflow(inner, name="part")(n=self.body("before")(1)))
        return outer

    async def created(self, flow: Flow) -> str:
        return await create_flow_run(flow, self.backend, settings=self.settings)

    async def run(self, flow: Flow, flow_run_id: str, runner: CloudFlowRunner | None = None, **given: Any) -> State:
        runner = runner or CloudFlowRunner(flow, backend=self.backend, settings=self.settings, **given)
        return await runner.run(context={"flow_run_id": flow_run_id})

    async def parts(self, flow_run_id: str) -> list[FlowRunSummary]:
        return (await self.backend.list_flow_runs(100, FlowRunFilter(part_of=flow_run_id)))[::-1]

    async def states(self, flow_run_id: str) -> dict[str, list[str]]:
        _, task_runs = await self.backend.get_flow_run_history(flow_run_id)
        return {run.task_slug: [one.state for one in run.states] for run in task_runs}


@pytest.fixture
def world(backend: Backend, settings: Settings) -> World:
    return World(backend, settings)


ENDED = ["Pending", "Running", "Success"]


async def test_it_is_a_flow_run_of_its_own_that_is_linked_both_ways(world: World) -> None:
    flow = world.flow()
    flow_run_id = await world.created(flow)
    assert (await world.run(flow, flow_run_id)).is_successful()
    (part,) = await world.parts(flow_run_id)
    infos = (await world.backend.get_flow_run_info(flow_run_id)).task_runs
    assert [info.id for info in infos if info.task_slug == "part-1"] == [part.parent_task_run_id]
    assert (part.flow_name, part.state) == ("inner", "Success")
    assert part.name.endswith("-part")
    assert await world.states(part.id) == {"n": ENDED, "first-1": ENDED, "second-1": ENDED, "third-1": ENDED}
    whole = await world.backend.list_flow_runs(10, FlowRunFilter(parts=False))
    assert [run.id for run in whole] == [flow_run_id]
    assert (await world.backend.get_flow_run_info(part.id)).parameters == {"n": 1}


async def test_each_mapped_child_and_each_attempt_is_one(world: World) -> None:
    tries: Counter[int] = Counter()

    @task
    async def flaky(n: int) -> int:
        tries[n] += 1
        if n == 2 and tries[n] == 1:
            raise ValueError(n)
        return n

    with Flow("inner") as inner:
        flaky(Parameter("n"))
    with Flow("outer") as flow:
        subflow(inner, name="part", max_retries=1, retry_delay=0).map(n=[1, 2, 3])
    flow_run_id = await world.created(flow)
    assert (await world.run(flow, flow_run_id)).is_successful()
    parts = await world.parts(flow_run_id)
    assert sorted((part.name.rpartition("-")[2], part.state) for part in parts) == [
        ("part[0]", "Success"),
        ("part[1]", "Failed"),
        ("part[1]", "Success"),
        ("part[2]", "Success"),
    ]


async def test_it_goes_on_with_the_flow_run_around_it_and_with_its_owner(world: World) -> None:
    flow = world.flow(waits=True)
    flow_run_id = await world.created(flow)
    first = CloudFlowRunner(flow, backend=world.backend, settings=world.settings)
    async with anyio.create_task_group() as group:
        group.start_soon(world.run, flow, flow_run_id, first)
        await world.reached.wait()
        (part,) = await world.parts(flow_run_id)
        around, inside = [await world.backend.get_flow_run_info(one) for one in (flow_run_id, part.id)]
        assert (inside.owner, inside.epoch) == (around.owner, around.epoch)
        assert await world.backend.reserve_flow_runs("worker", limit=10) == []
        with pytest.raises(BackendRejected, match="is a part of flow run"):
            await world.backend.claim_flow_run(part.id, "somebody", takeover=True)
        first.cancel("handover")
    (reserved,) = await world.backend.reserve_flow_runs("worker", limit=10)
    assert reserved.flow_run_id == flow_run_id
    world.waits.set()
    second = CloudFlowRunner(flow, backend=world.backend, settings=world.settings, claim=reserved.claim)
    assert (await world.run(flow, flow_run_id, second)).is_successful()
    assert world.ran == {"before": 1, "first": 1, "second": 2, "third": 1, "after": 1}
    assert [(one.id, one.state) for one in await world.parts(flow_run_id)] == [(part.id, "Success")]
    assert (await world.backend.get_flow_run_info(part.id)).epoch == reserved.claim.epoch


async def test_a_former_owner_can_record_nothing_in_it(world: World) -> None:
    flow = world.flow(waits=True)
    flow_run_id = await world.created(flow)
    async with anyio.create_task_group() as group:
        group.start_soon(world.run, flow, flow_run_id)
        await world.reached.wait()
        (part,) = await world.parts(flow_run_id)
        info = await world.backend.get_flow_run_info(part.id)
        claim = await world.backend.claim_flow_run(flow_run_id, "another", takeover=True)
        late = next(one for one in info.task_runs if one.task_slug == "third-1")
        with pytest.raises(OwnershipLost):
            await world.backend.set_task_run_state(late.id, None, Success("late"), epoch=info.epoch)
        with pytest.raises(OwnershipLost):
            await world.backend.set_flow_run_state(part.id, None, Running("late"), epoch=info.epoch)
        group.cancel_scope.cancel()
    assert (await world.states(part.id))["third-1"] == ["Pending"]
    successor = CloudFlowRunner(flow, backend=world.backend, settings=world.settings, claim=claim)
    world.waits.set()
    assert (await world.run(flow, flow_run_id, successor)).is_successful()
    assert [one.state for one in await world.parts(flow_run_id)] == ["Success"]


@pytest.mark.parametrize("is_alive", [True, False])
async def test_it_is_cancelled_once_with_the_flow_run_around_it(world: World, *, is_alive: bool) -> None:
    flow = world.flow(waits=True)
    flow_run_id = await world.created(flow)
    runner = CloudFlowRunner(flow, backend=world.backend, settings=world.settings)
    async with anyio.create_task_group() as group:
        group.start_soon(world.run, flow, flow_run_id, runner)
        await world.reached.wait()
        (part,) = await world.parts(flow_run_id)
        if not is_alive:
            runner.cancel("handover")
        else:
            await world.backend.cancel_flow_run(flow_run_id)
            await anyio.sleep(2000)
    if not is_alive:
        await world.backend.cancel_flow_run(flow_run_id)
    for one in (flow_run_id, part.id):
        assert isinstance(await world.backend.get_flow_run_state(one), Cancelled)
    states = await world.states(part.id)
    assert [states[slug].count("Cancelled") for slug in ("first-1", "second-1", "third-1")] == [0, 1, 1]


async def test_what_failed_in_it_is_restarted_with_the_flow_run_around_it(world: World) -> None:
    flow = world.flow(fails=True)
    flow_run_id = await world.created(flow)
    world.fails = True
    assert isinstance(await world.run(flow, flow_run_id), Failed)
    (part,) = await world.parts(flow_run_id)
    world.fails = False
    await world.backend.restart_flow_run(flow_run_id)
    with pytest.raises(BackendRejected, match="is a part of flow run"):
        await world.backend.restart_flow_run(part.id)
    assert (await world.run(flow, flow_run_id)).is_successful()
    assert world.ran == {"before": 1, "first": 1, "second": 2, "third": 1, "after": 1}
    assert [(one.id, one.state) for one in await world.parts(flow_run_id)] == [(part.id, "Success")]


async def test_a_restart_from_its_task_begins_it_afresh(world: World) -> None:
    flow = world.flow()
    flow_run_id = await world.created(flow)
    assert (await world.run(flow, flow_run_id)).is_successful()
    await world.backend.direct_flow_run(flow_run_id, "restart", task="part-1")
    assert (await world.run(flow, flow_run_id)).is_successful()
    assert world.ran == {"before": 1, "first": 2, "second": 2, "third": 2, "after": 2}
    assert [one.state for one in await world.parts(flow_run_id)] == ["Success", "Success"]


async def test_a_flow_run_that_was_a_part_goes_on_by_itself_afterwards(world: World) -> None:
    flow = world.flow(fails=True)
    flow_run_id = await world.created(flow)
    world.fails = True
    await world.run(flow, flow_run_id)
    (part,) = await world.parts(flow_run_id)
    await world.backend.restart_flow_run(part.id)
    (reserved,) = await world.backend.reserve_flow_runs("worker", limit=10)
    assert reserved.flow_run_id == part.id


@pytest.mark.parametrize("inside", [True, False], ids=["of what is paused", "of the task around it"])
async def test_a_pause_in_it_ends_with_a_resume(world: World, *, inside: bool) -> None:
    flow = world.flow(pauses=True)
    flow_run_id = await world.created(flow)
    state = await world.run(flow, flow_run_id)
    assert not state.is_finished()
    (part,) = await world.parts(flow_run_id)
    assert await world.backend.reserve_flow_runs("worker", limit=10) == []
    asked, slug = (part.id, "second-1") if inside else (flow_run_id, "part-1")
    await world.backend.direct_flow_run(asked, "resume", task=slug, value={"answer": 42})
    (reserved,) = await world.backend.reserve_flow_runs("worker", limit=10)
    assert reserved.flow_run_id == flow_run_id
    runner = CloudFlowRunner(flow, backend=world.backend, settings=world.settings, claim=reserved.claim)
    state = await world.run(flow, flow_run_id, runner)
    assert state.is_successful(), state
    assert state["part-1"].result["third-1"].result == {"answer": 42}
    assert [(one.id, one.state) for one in await world.parts(flow_run_id)] == [(part.id, "Success")]


async def test_it_takes_what_json_does_not_know(world: World) -> None:
    @task(checkpoint=False)
    async def lock() -> Any:
        return threading.Lock()

    @task(checkpoint=False)
    async def uses(one: Any, token: str) -> bool:
        return one.acquire(blocking=False) and token == "hunter2!"

    with Flow("inner") as inner:
        used = uses(Parameter("one"), Parameter("token", secret=True))
    with Flow("outer") as flow:
        done = subflow(inner, name="part", checkpoint=False)(one=lock(), token="hunter2!")
        value = done[used]
    flow_run_id = await world.created(flow)
    state = await world.run(flow, flow_run_id)
    assert state[value].result is True
    (part,) = await world.parts(flow_run_id)
    assert (await world.backend.get_flow_run_info(part.id)).parameters == {"one": "<lock>", "token": "***"}


async def test_its_own_schedule_is_off_until_somebody_says_so(world: World) -> None:
    with Flow("inner", schedule=CronSchedule("0 0 * * *")) as inner:
        world.body("first")(1)
    with Flow("outer") as flow:
        subflow(inner)()
    assert (await world.run(flow, await world.created(flow))).is_successful()
    assert {one.name: one.schedule_active for one in await world.backend.list_flows()} == {
        "inner": False,
        "outer": False,
    }


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_limits_of_the_run_around_it_reach_into_it(world: World, *, is_recorded: bool) -> None:
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()

    @task(tags=["db"])
    async def works(n: int) -> int:
        now["works"] += 1
        most["works"] = max(most["works"], now["works"])
        await anyio.sleep(10)
        now["works"] -= 1
        return n

    with Flow("inner") as inner:
        works.map([1, 2, 3])
        Parameter("n")
    with Flow("outer") as flow:
        subflow(inner).map(n=[1, 2, 3])
        works(0)
    for limits, expected in [(Limits(concurrency=2), 2), (Limits(tags={"db": 1}), 1), (None, 10)]:
        most.clear()
        options: dict[str, Any] = {"limits": limits, "settings": world.settings}
        runner = CloudFlowRunner(flow, backend=world.backend, **options) if is_recorded else FlowRunner(flow, **options)
        assert (await runner.run()).is_successful()
        assert most["works"] == expected


async def test_what_the_task_of_a_flow_holds_its_tasks_need_not_have_again(world: World) -> None:
    @task(tags=["db"])
    async def works() -> None:
        await anyio.sleep(1)

    with Flow("inner") as inner:
        works()
        Parameter("n")
    with Flow("outer") as flow:
        subflow(inner, tags=["db"]).map(n=[1, 2])
    assert (await FlowRunner(flow, limits=Limits(tags={"db": 1})).run()).is_successful()


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_events_tell_of_its_tasks_and_where_they_are(world: World, *, is_recorded: bool) -> None:
    flow = world.flow()
    runner = CloudFlowRunner(flow, backend=world.backend, settings=world.settings) if is_recorded else FlowRunner(flow)
    events: list[RunEvent] = []

    async def read() -> None:
        events.extend([event async for event in runner.events()])

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.lowlevel.checkpoint()
        await runner.run()
    ends = [(one.parents, one.task_slug) for one in events if isinstance(one.state, Success)]
    inside = (("part-1", -1),)
    assert ends == [
        ((), "before-1"),
        (inside, "n"),
        (inside, "first-1"),
        (inside, "second-1"),
        (inside, "third-1"),
        (inside, None),
        ((), "part-1"),
        ((), "after-1"),
        ((), None),
    ]
