"""Workers: what they take, how they end, and that no run is run twice."""

from __future__ import annotations

import asyncio
import collections
import datetime
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from flowloop.backends import connect
from flowloop.backends.isolation import LEFT, Isolation
from flowloop.backends.memory.backend import MemoryBackend
from flowloop.backends.worker import Worker
from flowloop.engine import Flow, Limits, Parameter, Settings, context, task
from flowloop.engine.backend import Backend, FlowRunReservation
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.cloud.creation import register_flow
from flowloop.engine.errors import BackendUnavailable, DialectError
from flowloop.engine.state import Cancelled, Resume, Running, Scheduled
from flowloop.engine.testing import FaultyBackend, VirtualLoop
from flowloop.engine.triggers import manual_only

pytestmark = pytest.mark.virtual_time

HOUR = datetime.timedelta(hours=1)


def clock() -> Any:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.clock


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path))


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[Backend]:
    async with connect("memory://", settings=settings, clock=clock()) as opened:
        yield opened


class Flows:
    """Flows that write down what ran."""

    def __init__(self) -> None:
        self.ran: collections.Counter[Any] = collections.Counter()
        self.at_once = self.most_at_once = 0
        ran = self.ran

        @task
        async def quick() -> None:
            ran["quick", context.flow_run_id] += 1

        @task
        async def slow() -> None:
            ran["slow", context.flow_run_id] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await anyio.sleep(100)
            finally:
                self.at_once -= 1

        with Flow("quick") as self.quick:
            quick()
        with Flow("slow") as self.slow:
            slow(upstream_tasks=[quick()])

    def by_name(self) -> dict[str, Flow]:
        return {flow.name: flow for flow in (self.quick, self.slow)}


@pytest.fixture
def flows() -> Flows:
    return Flows()


async def ended(backend: Backend, flow_run_ids: list[str]) -> list[str]:
    """Wait until flow runs are finished, and return the names of their states."""
    while True:
        states = [await backend.get_flow_run_state(flow_run_id) for flow_run_id in flow_run_ids]
        if all(state.is_finished() for state in states):
            return [type(state).__name__ for state in states]
        await anyio.sleep(1)


async def begun(backend: Backend, flow_run_id: str) -> None:
    while True:
        if type(await backend.get_flow_run_state(flow_run_id)) is Running:
            return
        await anyio.sleep(0.1)


async def test_runs_that_are_ready_are_run(backend: Backend, flows: Flows, settings: Settings) -> None:
    ids = [await create_flow_run(flows.quick, backend, settings=settings) for _ in range(3)]
    async with Worker(backend, flows.by_name(), settings=settings):
        ids.append(await create_flow_run(flows.quick, backend, settings=settings))
        assert await ended(backend, ids) == ["Success"] * 4
    assert set(flows.ran.values()) == {1}


async def test_a_run_begins_when_its_time_has_come(backend: Backend, flows: Flows, settings: Settings) -> None:
    start = clock().now() + HOUR
    flow_run_id = await create_flow_run(flows.quick, backend, settings=settings, scheduled_start_time=start)
    async with Worker(backend, flows.by_name(), settings=settings):
        await ended(backend, [flow_run_id])
    assert datetime.timedelta(0) <= clock().now() - start < datetime.timedelta(seconds=5)


async def test_hundreds_run_at_once_and_no_more_than_wanted(backend: Backend, flows: Flows, settings: Settings) -> None:
    ids = [await create_flow_run(flows.slow, backend, settings=settings) for _ in range(250)]
    async with Worker(backend, flows.by_name(), concurrency=200, settings=settings):
        assert set(await ended(backend, ids)) == {"Success"}
    assert flows.most_at_once == 200
    assert set(flows.ran.values()) == {1}


async def test_only_flows_it_knows_and_labels_it_has(backend: Backend, flows: Flows, settings: Settings) -> None:
    unknown = await create_flow_run(flows.slow, backend, settings=settings)
    labelled = await create_flow_run(flows.quick, backend, settings=settings, labels=["gpu"])
    known = await create_flow_run(flows.quick, backend, settings=settings)
    async with Worker(backend, {"quick": flows.quick}, settings=settings):
        await ended(backend, [known])
        await anyio.sleep(10)
        for left in (unknown, labelled):
            assert (await backend.get_flow_run_state(left)).is_scheduled()
    async with Worker(backend, {"quick": flows.quick}, labels=["gpu", "big"], settings=settings):
        await ended(backend, [labelled])
    assert (await backend.get_flow_run_state(unknown)).is_scheduled()


async def test_a_run_that_somebody_runs_by_hand_is_left_to_him(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    async with Worker(backend, flows.by_name(), poll_interval=0.5, settings=settings):
        runner = CloudFlowRunner(flows.slow, backend=backend, settings=settings)
        assert (await runner.run()).is_successful()
    assert set(flows.ran.values()) == {1}


async def test_a_run_begins_as_soon_as_it_is_created(backend: Backend, flows: Flows, settings: Settings) -> None:
    async with Worker(backend, flows.by_name(), poll_interval=600, settings=settings):
        await anyio.sleep(60)  # nothing is there when it asks
        before = anyio.current_time()
        run = await create_flow_run(flows.quick, backend, settings=settings)
        await ended(backend, [run])
        assert anyio.current_time() - before < 60


class Looks:
    """A backend that notes when it is asked for flow runs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.at: list[float] = []
        self.limits: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def reserve_flow_runs(self, *args: Any, **options: Any) -> Any:
        self.at.append(anyio.current_time())
        self.limits.append(options["limit"])
        return await self._backend.reserve_flow_runs(*args, **options)


async def test_a_worker_that_would_be_told_looks_rarely_and_in_time(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    looks: Any = Looks(backend)
    async with Worker(looks, flows.by_name(), settings=settings):
        await anyio.sleep(600)
        assert len(looks.at) < 10
        start = clock().now() + datetime.timedelta(seconds=30)
        run = await create_flow_run(flows.slow, backend, settings=settings, scheduled_start_time=start)
        await begun(backend, run)
        assert clock().now() - start < datetime.timedelta(seconds=2)
        looks.at.clear()
        await anyio.sleep(20)  # while its owner may die
        assert len(looks.at) > 10
        await ended(backend, [run])


async def test_a_worker_that_cannot_be_told_looks_again_and_again(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    looks: Any = Looks(backend)
    looks.watch_ready = lambda: None
    async with Worker(looks, flows.by_name(), settings=settings):
        await anyio.sleep(20)
        assert len(looks.at) > 10


async def test_several_workers_share_what_is_ready(backend: Backend, flows: Flows, settings: Settings) -> None:
    runs = [await create_flow_run(flows.slow, backend, settings=settings) for _ in range(60)]
    workers = [Worker(backend, flows.by_name(), settings=settings) for _ in range(3)]
    async with workers[0], workers[1], workers[2]:
        await anyio.sleep(50)
        assert min(len(worker.flow_run_ids) for worker in workers) >= 10
        await ended(backend, runs)


async def test_the_longer_a_queue_is_the_more_is_taken_of_it_at_a_time(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    runs = [await create_flow_run(flows.slow, backend, settings=settings) for _ in range(240)]
    looks: Any = Looks(backend)
    async with Worker(looks, flows.by_name(), concurrency=400, settings=settings):
        assert set(await ended(backend, runs)) == {"Success"}
    assert looks.limits[:6] == [10, 20, 40, 80, 80, 80]  # of which the last brings 10
    assert set(looks.limits[6:]) == {10}


async def test_a_function_finds_the_flow(backend: Backend, flows: Flows, settings: Settings) -> None:
    asked = []

    async def find(taken: Any) -> Flow | None:
        asked.append(taken.flow_name)
        return flows.by_name()[taken.flow_name] if taken.flow_name == "quick" else None

    left = await create_flow_run(flows.slow, backend, settings=settings)
    run = await create_flow_run(flows.quick, backend, settings=settings)
    async with Worker(backend, find, settings=settings):
        await ended(backend, [run])
        await anyio.sleep(10)
    assert (await backend.get_flow_run_state(left)).is_scheduled()
    assert 3 < asked.count("slow") < 20, "what it cannot run it leaves alone for a while"


async def test_a_retry_far_off_frees_the_worker_and_is_resumed_when_due(backend: Backend, settings: Settings) -> None:
    ran = []

    @task(max_retries=1, retry_delay=HOUR)
    async def flaky() -> str:
        ran.append(clock().now())
        if len(ran) == 1:
            raise ValueError("not yet")
        return "done"

    with Flow("patient") as flow:
        flaky()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    async with Worker(backend, {"patient": flow}, settings=settings) as worker:
        await anyio.sleep(60)
        assert worker.flow_run_ids == []
        assert type(await backend.get_flow_run_state(flow_run_id)) is Scheduled
        assert await ended(backend, [flow_run_id]) == ["Success"]
    assert HOUR <= ran[1] - ran[0] < HOUR + datetime.timedelta(seconds=5)


async def test_a_paused_task_goes_on_after_somebody_resumed_it(backend: Backend, settings: Settings) -> None:
    @task(trigger=manual_only)
    async def publish() -> None: ...

    with Flow("publish") as flow:
        publish()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    async with Worker(backend, {"publish": flow}, settings=settings) as worker:
        await anyio.sleep(600)
        info = await backend.get_flow_run_info(flow_run_id)
        assert [type(run.state).__name__ for run in info.task_runs] == ["Paused"]
        assert worker.flow_run_ids == []
        await backend.set_task_run_state(info.task_runs[0].id, None, Resume())
        assert await ended(backend, [flow_run_id]) == ["Success"]


# -- stopping ------------------------------------------------------------------------------------------


async def test_a_run_of_which_no_state_can_be_recorded_is_left_until_its_lease_has_run_out(
    backend: Backend, flows: Flows, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyBackend(backend)
    faulty.fail("set_flow_run_state", DialectError("what is that?"), times=None)
    flow_run_id = await create_flow_run(flows.quick, backend, settings=settings)
    await Worker(faulty, lambda taken: flows.quick, settings=settings).run_one()
    assert f"flow run {flow_run_id} is free when its lease has run out: what is that?" in caplog.text
    assert type(await backend.get_flow_run_state(flow_run_id)) is Scheduled
    assert flows.ran.total() == 0


async def test_a_stopped_worker_lets_its_runs_end(backend: Backend, flows: Flows, settings: Settings) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    async with Worker(backend, flows.by_name(), grace=200, settings=settings) as worker:
        await begun(backend, flow_run_id)
        worker.stop()
        late = await create_flow_run(flows.quick, backend, settings=settings)
    assert (await backend.get_flow_run_state(flow_run_id)).is_successful()
    assert (await backend.get_flow_run_state(late)).is_scheduled()


def stopped(worker: Worker, task: asyncio.Task[None]) -> None:
    worker.stop()


def at_once(worker: Worker, task: asyncio.Task[None]) -> None:
    worker.stop(at_once=True)


def cancelled(worker: Worker, task: asyncio.Task[None]) -> None:
    task.cancel()


@pytest.mark.parametrize("end", [stopped, at_once, cancelled])
async def test_what_does_not_end_in_time_is_handed_over_and_continued(
    backend: Backend, flows: Flows, settings: Settings, end: Callable[..., None]
) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    worker = Worker(backend, flows.by_name(), grace=10, lease_seconds=10_000, settings=settings)
    working = asyncio.create_task(worker.run())
    await begun(backend, flow_run_id)
    await anyio.sleep(5)
    before = asyncio.get_running_loop().time()
    end(worker, working)
    await asyncio.wait([working])
    assert working.cancelled() == (end is cancelled)
    assert asyncio.get_running_loop().time() - before == pytest.approx(10 if end is stopped else 0, abs=0.1)

    assert worker.flow_run_ids == []
    assert (await backend.get_flow_run_state(flow_run_id)).is_scheduled()
    info = await backend.get_flow_run_info(flow_run_id)
    assert {type(run.state).__name__ for run in info.task_runs} == {"Success", "Pending"}
    async with Worker(backend, flows.by_name(), settings=settings):
        assert await ended(backend, [flow_run_id]) == ["Success"]
    assert flows.ran == {("quick", flow_run_id): 1, ("slow", flow_run_id): 2}


async def test_the_attempt_and_the_round_survive_a_handover(backend: Backend, settings: Settings) -> None:
    seen = []

    @task(max_retries=2, retry_delay=1)
    async def flaky() -> None:
        seen.append(context.task_run_count)
        if context.task_run_count == 1:
            raise ValueError("once")
        await anyio.sleep(100)

    with Flow("flaky") as flow:
        flaky()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    async with Worker(backend, {"flaky": flow}, grace=0, settings=settings):
        await anyio.sleep(20)
    async with Worker(backend, {"flaky": flow}, settings=settings):
        await ended(backend, [flow_run_id])
    assert seen == [1, 2, 2]


async def test_a_run_that_is_cancelled_ends_as_cancelled(backend: Backend, flows: Flows, settings: Settings) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    async with Worker(backend, flows.by_name(), settings=settings) as worker:
        await begun(backend, flow_run_id)
        await backend.cancel_flow_run(flow_run_id)
        assert await ended(backend, [flow_run_id]) == [Cancelled.__name__]
        await anyio.sleep(2)
        assert worker.flow_run_ids == []


# -- leases --------------------------------------------------------------------------------------------


async def test_a_lease_is_renewed_for_as_long_as_a_run_takes(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    async with (
        Worker(backend, flows.by_name(), lease_seconds=6, settings=settings),
        Worker(backend, flows.by_name(), lease_seconds=6, settings=settings),
    ):
        await ended(backend, [flow_run_id])
    assert set(flows.ran.values()) == {1}


async def test_the_runs_of_a_worker_that_is_gone_are_continued(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    faulty = FaultyBackend(backend)
    gone = Worker(faulty, flows.by_name(), lease_seconds=30, settings=settings)
    working = asyncio.create_task(gone.run())
    await begun(backend, flow_run_id)
    await anyio.sleep(5)
    # from here on nothing of it reaches the backend, as if its process had been killed
    for method in (
        "set_flow_run_state",
        "set_task_run_state",
        "update_flow_run_heartbeat",
        "release_flow_run",
        "reserve_flow_runs",
    ):
        faulty.fail(method, BackendUnavailable("gone"), times=None)
    working.cancel()
    await asyncio.wait([working])
    assert type(await backend.get_flow_run_state(flow_run_id)) is Running

    async with Worker(backend, flows.by_name(), settings=settings) as heir:
        await anyio.sleep(20)
        assert heir.flow_run_ids == []
        await anyio.sleep(12)
        assert heir.flow_run_ids == [flow_run_id]
        assert await ended(backend, [flow_run_id]) == ["Success"]
    assert flows.ran == {("quick", flow_run_id): 1, ("slow", flow_run_id): 2}


async def test_a_worker_that_lost_a_lease_leaves_the_run_to_its_heir(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    faulty = FaultyBackend(backend)
    faulty.delay("update_flow_run_heartbeat", 60)
    async with Worker(faulty, flows.by_name(), lease_seconds=30, settings=settings) as sleepy:
        await begun(backend, flow_run_id)
        faulty.delay("reserve_flow_runs", 1000)
        async with Worker(backend, flows.by_name(), settings=settings) as heir:
            await anyio.sleep(60)
            assert heir.flow_run_ids == [flow_run_id]
            await anyio.sleep(20)
            assert sleepy.flow_run_ids == []
            assert await ended(backend, [flow_run_id]) == ["Success"]
    _, task_runs = await backend.get_flow_run_history(flow_run_id)
    states = {run.task_slug: [record.state for record in run.states] for run in task_runs}
    assert states["slow-1"] == ["Pending", "Running", "Running", "Success"]


async def test_a_worker_whose_lease_lapsed_unnoticed_goes_on(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    faulty = FaultyBackend(backend)
    faulty.delay("update_flow_run_heartbeat", 60)
    async with Worker(faulty, flows.by_name(), lease_seconds=30, settings=settings):
        assert await ended(backend, [flow_run_id]) == ["Success"]
    assert set(flows.ran.values()) == {1}


async def test_an_outage_of_the_backend_is_lived_through(backend: Backend, flows: Flows, settings: Settings) -> None:
    faulty = FaultyBackend(backend)
    faulty.fail("reserve_flow_runs", BackendUnavailable("away"), times=5)
    faulty.fail("update_flow_run_heartbeat", BackendUnavailable("away"), times=2)
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    async with Worker(faulty, flows.by_name(), settings=settings):
        assert await ended(backend, [flow_run_id]) == ["Success"]
    assert set(flows.ran.values()) == {1}


@pytest.mark.parametrize("by", ["worker", "caller"])
async def test_what_was_left_unfinished_by_an_outage_is_gone_on_with(
    backend: Backend, flows: Flows, settings: Settings, by: str
) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    faulty = FaultyBackend(backend)
    away = BackendUnavailable("away for longer than anybody waits")
    faulty.fail("set_task_run_state", away, where=lambda sent: sent["state"].is_finished(), times=1)
    if by == "caller":
        with pytest.raises(BackendUnavailable, match="A worker goes on with it"):
            await CloudFlowRunner(flows.slow, backend=faulty, settings=settings).run(
                context={"flow_run_id": flow_run_id}
            )
    async with Worker(faulty, flows.by_name(), settings=settings):
        assert await ended(backend, [flow_run_id]) == ["Success"]


async def test_a_run_that_cannot_be_run_does_not_stop_the_others(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    def find(taken: Any) -> Flow:
        return {"quick": flows.quick}[taken.flow_name]

    broken = await create_flow_run(flows.slow, backend, settings=settings)
    fine = await create_flow_run(flows.quick, backend, settings=settings)
    async with Worker(backend, find, settings=settings):
        assert await ended(backend, [fine, broken]) == ["Success", "Failed"]
    message = (await backend.get_flow_run_state(broken)).message
    assert message == "The flow run could not be run: KeyError: 'slow'"


async def test_a_parameter_that_cannot_be_ends_the_run_at_once(backend: Backend, settings: Settings) -> None:
    @task
    async def work(n: int) -> int:
        return n

    with Flow("typed") as flow:
        work(Parameter("n", type=Annotated[int, msgspec.Meta(ge=3)]))
    registered = await register_flow(flow, backend, settings=settings)
    wrong = [await backend.create_flow_run(registered.id, parameters={"n": n}) for n in (2, "three")]
    right = await backend.create_flow_run(registered.id, parameters={"n": 3})
    async with Worker(backend, {"typed": flow}, settings=settings):
        assert await ended(backend, [*wrong, right]) == ["Failed", "Failed", "Success"]
    for flow_run_id in wrong:
        assert "parameter 'n'" in ((await backend.get_flow_run_state(flow_run_id)).message or "")


def another_version(flows: Flows) -> Flow:
    with Flow("quick") as flow:
        step = task(lambda: flows.ran.update(["another"]), name="another")
        step()
    return flow


async def test_a_run_of_another_version_waits_for_a_worker_that_has_it(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    old = [await create_flow_run(flows.quick, backend, settings=settings) for _ in range(3)]
    new = await create_flow_run(another_version(flows), backend, settings=settings)
    async with Worker(backend, {"quick": another_version(flows)}, concurrency=2, settings=settings):
        assert await ended(backend, [new]) == ["Success"]
        await anyio.sleep(10)
        assert all([(await backend.get_flow_run_state(one)).is_scheduled() for one in old])
        async with Worker(backend, {"quick": flows.quick}, settings=settings):
            assert await ended(backend, old) == ["Success"] * 3
    assert flows.ran["another"] == 1


async def test_one_run_is_taken_past_those_of_another_version(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    old = [await create_flow_run(flows.quick, backend, settings=settings) for _ in range(2)]
    new = await create_flow_run(another_version(flows), backend, settings=settings)
    assert await Worker(backend, {"quick": another_version(flows)}, settings=settings).run_one() == new
    assert await Worker(backend, {"quick": another_version(flows)}, settings=settings).run_one() is None
    [taken] = await backend.reserve_flow_runs("parent")
    assert await Worker(backend, {"slow": flows.slow}, settings=settings).run_one(taken) is None
    assert await Worker(backend, {"quick": flows.quick}, settings=settings).run_one() in old


class Processes(Isolation):
    """Processes that end with a code before they have claimed their flow runs."""

    def __init__(self, code: int) -> None:
        super().__init__({}, "", everything=True)
        self.code = code
        self.begun: list[str] = []

    async def run(self, taken: FlowRunReservation) -> int:
        self.begun.append(taken.flow_run_id)
        return self.code


async def test_what_a_process_leaves_to_others_is_left_to_them(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    ids = [await create_flow_run(flows.quick, backend, settings=settings) for _ in range(3)]
    processes = Processes(LEFT)
    async with Worker(backend, flows.by_name(), concurrency=1, settings=settings, isolation=processes):
        await anyio.sleep(10)
        assert len(processes.begun) == 1
        async with Worker(backend, flows.by_name(), settings=settings):
            assert await ended(backend, ids) == ["Success"] * 3


async def test_a_process_that_cannot_begin_is_not_started_all_the_time(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    await create_flow_run(flows.quick, backend, settings=settings)
    processes = Processes(1)
    async with Worker(backend, flows.by_name(), poll_interval=10, settings=settings, isolation=processes):
        await anyio.sleep(35)
    assert 1 < len(processes.begun) < 5


async def test_a_version_with_the_same_tasks_is_run(backend: Backend, flows: Flows, settings: Settings) -> None:
    flow_run_id = await create_flow_run(flows.slow, backend, settings=settings)
    same = Flows()
    same.slow.state_handlers.append(lambda runner, old, new: new)
    async with Worker(backend, {"slow": same.slow}, settings=settings):
        assert await ended(backend, [flow_run_id]) == ["Success"]


async def test_a_run_of_another_project_is_left_alone(backend: Backend, flows: Flows, settings: Settings) -> None:
    elsewhere = msgspec.structs.replace(settings, project="another")
    flow_run_id = await create_flow_run(flows.quick, backend, settings=elsewhere)
    async with Worker(backend, flows.by_name(), settings=settings):
        await anyio.sleep(10)
        assert (await backend.get_flow_run_state(flow_run_id)).is_scheduled()
        async with Worker(backend, flows.by_name(), settings=elsewhere):
            assert await ended(backend, [flow_run_id]) == ["Success"]


async def test_what_a_dead_worker_left_of_another_version_is_not_lost(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    flow_run_id = await create_flow_run(flows.quick, backend, settings=settings)
    [dead] = await backend.reserve_flow_runs("dead", lease_seconds=5)
    info = await backend.get_flow_run_info(flow_run_id)
    await backend.set_flow_run_state(flow_run_id, info.version, Running(), epoch=dead.claim.epoch)
    async with Worker(backend, {"quick": another_version(flows)}, settings=settings):
        await anyio.sleep(30)
        async with Worker(backend, {"quick": flows.quick}, settings=settings):
            assert await ended(backend, [flow_run_id]) == ["Success"]


async def test_where_runs_are_not_handed_out_it_says_so(flows: Flows, settings: Settings) -> None:
    from flowloop.engine.errors import BackendRejected

    faulty = FaultyBackend(MemoryBackend(settings=settings))
    faulty.fail("reserve_flow_runs", BackendRejected("not a flowloop server"), times=None)
    with pytest.raises(BackendRejected, match="not a flowloop server"):
        await Worker(faulty, flows.by_name(), settings=settings).run()


async def test_what_two_workers_died_of_is_run_alone(backend: Backend, flows: Flows, settings: Settings) -> None:
    killer = await create_flow_run(flows.slow, backend, settings=settings)
    for owner in ("first", "second"):
        [taken] = await backend.reserve_flow_runs(owner, lease_seconds=1)
        version = (await backend.get_flow_run_info(killer)).version
        await backend.set_flow_run_state(killer, version, Running(), epoch=taken.claim.epoch)
        await anyio.sleep(3)
    ids = [await create_flow_run(flows.slow, backend, settings=settings) for _ in range(2)]
    async with Worker(backend, flows.by_name(), settings=settings) as worker:
        await anyio.sleep(50)
        assert worker.flow_run_ids == [killer]
        await anyio.sleep(60)
        assert (await backend.get_flow_run_state(killer)).is_successful()
        assert sorted(worker.flow_run_ids) == sorted(ids)


async def test_what_a_worker_died_of_is_kept_alone_for_a_while(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    ids = [await create_flow_run(flows.slow, backend, settings=settings) for _ in range(3)]
    for taken in await backend.reserve_flow_runs("dead", limit=2, lease_seconds=1):
        version = (await backend.get_flow_run_info(taken.flow_run_id)).version
        await backend.set_flow_run_state(taken.flow_run_id, version, Running(), epoch=taken.claim.epoch)
    await anyio.sleep(3)
    async with Worker(backend, flows.by_name(), settings=settings) as worker:
        await anyio.sleep(20)
        assert len(worker.flow_run_ids) == 1
        assert ids[2] not in worker.flow_run_ids, "what nobody died of is not begun beside it"
        await anyio.sleep(20)
        assert sorted(worker.flow_run_ids) == sorted(ids)
        assert await ended(backend, ids) == ["Success"] * 3


async def test_one_run_is_run_and_no_more(backend: Backend, flows: Flows, settings: Settings) -> None:
    worker = Worker(backend, flows.by_name(), settings=settings)
    assert await worker.run_one() is None
    ids = [await create_flow_run(flows.slow, backend, settings=settings) for _ in range(2)]
    assert await worker.run_one() == ids[0]
    assert [(await backend.get_flow_run_state(flow_run_id)).is_successful() for flow_run_id in ids] == [True, False]


@pytest.mark.parametrize(
    ("url", "results", "is_said"),
    [
        ("https://flows.example", "", True),
        ("postgresql://me@db.example/runs", "", True),
        ("http://127.0.0.1:4200", "", False),
        ("postgresql:///runs?host=/run/postgresql", "", False),
        ("sqlite:////here/runs.db", "", False),
        ("https://flows.example", "/shared/results", False),
        ("https://flows.example", "s3://bucket", False),
    ],
)
async def test_a_worker_says_that_its_results_are_of_this_machine_and_its_backend_is_not(
    backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture, url: str, results: str, is_said: bool
) -> None:
    backend.url = url
    settings = Settings(home=str(tmp_path), results=results)
    with Flow("sets") as flow:
        task(lambda: {1}, name="one set")()
    async with Worker(backend, {"sets": flow}, settings=settings):
        await anyio.lowlevel.checkpoint()
    said = [record.message for record in caplog.records if "FLOWLOOP_RESULTS" in record.message]
    assert len(said) == is_said
    assert all("flow 'sets'" in one and str(tmp_path) in one for one in said)


async def test_the_limits_of_a_worker_hold_for_all_that_it_runs(
    backend: Backend, flows: Flows, settings: Settings
) -> None:
    ids = [await create_flow_run(flows.slow, backend) for _ in range(6)]
    async with Worker(backend, flows.by_name(), settings=settings, limits=Limits(concurrency=2)):
        assert await ended(backend, ids) == ["Success"] * 6
    assert flows.most_at_once == 2
