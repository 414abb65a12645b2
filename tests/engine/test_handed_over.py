"""A body that is handed over to a place where it begins later: what is recorded, and what it waits for."""

import asyncio
import itertools
from contextlib import asynccontextmanager

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, TaskRunner, context, task
from flowloop.engine._run import gates
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import Lost
from flowloop.engine.executors import LocalExecutor, Needs, SeveralExecutors, place
from flowloop.engine.executors._ticket import TaskTicket, outcome_of
from flowloop.engine.signals import ENDRUN, LOOP
from flowloop.engine.state import Cancelled, Failed, Pending, Running, Skipped, Submitted, Success, TimedOut
from flowloop.engine.testing import FaultyBackend, RecordingBackend

pytestmark = pytest.mark.virtual_time


class Queue(LocalExecutor):
    """Begins each body some seconds after it took it; one that is lost never begins."""

    window = None

    def __init__(self, seconds=10.0, *, loses=0):
        super().__init__()
        self.seconds, self.loses = seconds, loses
        self.stopped, self.jobs, self.causes = [], [], []

    @asynccontextmanager
    async def open(self):
        yield _Queue(self)


class _Queue(place.Place):
    reports_begin = True

    def __init__(self, executor):
        self._executor = executor
        self.window = executor.window

    async def submit(self, job):
        self._executor.jobs.append(job)
        return _Ticket(job, lambda ticket: self._work(job, ticket), self._executor.causes)

    async def _work(self, job, ticket):
        executor = self._executor
        try:
            await asyncio.sleep(executor.seconds)
            if executor.loses:
                executor.loses -= 1
                return place.Lost("its machine went away", may_have_run=False)
            ticket.has_begun()
            return await outcome_of(job.body(**job.inputs))
        except asyncio.CancelledError:
            executor.stopped.append(ticket.is_under_way)
            raise


class _Ticket(TaskTicket):
    def __init__(self, job, work, causes):
        super().__init__(job, work)
        self._causes = causes

    async def stop(self, cause, grace):
        self._causes.append(cause)
        return await super().stop(cause, grace)


async def history(backend):
    """The states of the only task run, with the seconds from the first to each."""
    [newest] = await backend.list_flow_runs(1)
    _, [run] = await backend.get_flow_run_history(newest.id)
    begin = run.states[0].timestamp
    return [(one.state, round((one.timestamp - begin).total_seconds())) for one in run.states]


async def recorded(backend, settings, executor, body, **options):
    with Flow("one") as flow:
        done = task(body, name="one", **options)()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run(context={"flow_run_id": flow_run_id}, executor=executor, return_tasks=[done])
    return state.result[done]


async def sleeps():
    await asyncio.sleep(5)
    return "there"


async def test_it_is_submitted_when_it_is_handed_over_and_running_when_it_begins(backend, settings):
    state = await recorded(backend, settings, Queue(), sleeps)
    assert state.result == "there"
    assert await history(backend) == [("Pending", 0), ("Submitted", 0), ("Running", 10), ("Success", 15)]


@pytest.mark.parametrize("name", ["", "far"])
async def test_only_where_it_begins_later(memory, settings, name):
    counting = RecordingBackend(memory)
    several = SeveralExecutors({"": LocalExecutor(), "far": Queue()})
    await recorded(counting, settings, several, sleeps, needs=Needs(place=name))
    sent = [type(call.arguments["state"]) for call in counting.calls_of("set_task_run_state")]
    assert sent == [*([Submitted] if name else []), Running, Success]


async def test_the_handlers_are_told_of_each_state():
    told = []

    def handler(task, old, new):
        told.append((type(old), type(new)))

    with Flow("one") as flow:
        task(sleeps, state_handlers=[handler])()
    assert (await FlowRunner(flow).run(executor=Queue())).is_successful()
    assert told == [(Pending, Submitted), (Submitted, Running), (Running, Success)]


async def test_a_handler_that_skips_what_begins_stops_the_body():
    def handler(task, old, new):
        return Skipped("not now") if new.is_running() else None

    with Flow("one") as flow:
        done = task(sleeps, state_handlers=[handler])()
    executor = Queue()
    state = await FlowRunner(flow).run(executor=executor, return_tasks=[done])
    assert type(state.result[done]) is Skipped
    assert executor.stopped == [True]


async def test_a_handler_that_ends_what_begins_is_not_told_of_its_own_end():
    told = []

    def handler(task, old, new):
        told.append((type(old), type(new)))
        if new.is_running():
            raise ENDRUN(Skipped("not now"))

    with Flow("one") as flow:
        done = task(sleeps, state_handlers=[handler])()
    state = await FlowRunner(flow).run(executor=Queue(), return_tasks=[done])
    assert type(state.result[done]) is Skipped
    assert told == [(Pending, Submitted), (Submitted, Running)]


class Stopped(Queue):
    """Its bodies end only when they are stopped, in a way that it is told."""

    def __init__(self, fate):
        super().__init__()
        self.fate = fate

    @asynccontextmanager
    async def open(self):
        yield _Stopped(self)


class _Stopped(_Queue):
    reports_begin = False

    async def submit(self, job):
        return _EndsAs(self._executor)


class _EndsAs(place.Ticket):
    def __init__(self, executor):
        self._executor = executor
        self._is_stopped = asyncio.Event()

    async def began(self):
        return True

    async def outcome(self):
        await self._is_stopped.wait()
        return place.Done("in time") if self._executor.fate is place.Fate.ENDED else place.Lost("gone", True)

    async def stop(self, cause, grace):
        self._executor.causes.append((cause, grace))
        self._is_stopped.set()
        return self._executor.fate


@pytest.mark.parametrize("fate", place.Fate)
async def test_what_a_stopped_body_has_left_counts_only_if_it_ended(memory, settings, fate):
    executor = Stopped(fate)
    with Flow("one") as flow:
        done = task(sleeps)()
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    asyncio.get_running_loop().call_later(5, runner.cancel, "user")
    state = await runner.run(executor=executor, return_tasks=[done])
    assert executor.causes == [("user", settings.cancel_grace)]
    if fate is place.Fate.ENDED:
        assert state.result[done].result == "in time"
    else:
        assert type(state.result[done]) is Cancelled


async def test_a_body_that_a_scope_stops_has_tidied_up_before_the_scope_is_left():
    left = []

    async def tidies():
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(2)
            left.append(anyio.current_time())

    with anyio.move_on_after(1) as scope:
        await TaskRunner(task(tidies, timeout=1000)).run()
    assert scope.cancelled_caught
    assert left == [anyio.current_time()] == [3]


@pytest.mark.parametrize(("seconds", "is_late"), [(59, False), (61, True)])
async def test_a_queue_timeout_counts_the_wait_and_a_timeout_does_not(memory, settings, seconds, is_late):
    executor = Queue(seconds)
    state = await recorded(memory, settings, executor, sleeps, needs=Needs(queue_timeout=60), timeout=6)
    if is_late:
        assert type(state) is TimedOut
        assert state.message == "The task waited longer than its queue_timeout of 60 s for a place to run."
        assert executor.stopped == [False]
    else:
        assert state.result == "there"


async def test_a_timeout_that_is_over_stops_what_has_begun(memory, settings):
    executor = Queue(100)
    state = await recorded(memory, settings, executor, sleeps, timeout=3)
    assert type(state) is TimedOut
    assert executor.stopped == [True]
    assert await history(memory) == [("Pending", 0), ("Submitted", 0), ("Running", 100), ("TimedOut", 103)]


async def test_one_that_never_began_is_lost_and_tried_again_where_the_task_says_so(memory, settings):
    with_retry = {"max_retries": 1, "retry_delay": 1, "retry_on": Lost}
    state = await recorded(memory, settings, Queue(1, loses=1), sleeps, **with_retry)
    assert state.result == "there"
    states = [name for name, _ in await history(memory)]
    assert states == ["Pending", "Submitted", "Failed", "Retrying", "Submitted", "Running", "Success"]


async def test_without_that_it_fails_and_says_that_it_never_ran(memory, settings):
    state = await recorded(memory, settings, Queue(1, loses=1), sleeps)
    assert type(state) is Failed
    assert state.context["lost"] == {"may_have_run": False}


@pytest.mark.parametrize("seconds", [5, 12])
async def test_a_cancel_stops_it_wherever_it_is(memory, settings, seconds):
    with Flow("one") as flow:
        done = task(sleeps)()
    executor = Queue()
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)

    async def cancel():
        await asyncio.sleep(seconds)
        runner.cancel("user")

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        state = await runner.run(context={"flow_run_id": flow_run_id}, executor=executor, return_tasks=[done])
    assert type(state.result[done]) is Cancelled
    assert executor.stopped == [seconds > 10]
    assert executor.causes == ["user"]
    names = [name for name, _ in await history(memory)]
    assert names == ["Pending", "Submitted", *(["Running"] if seconds > 10 else []), "Cancelled"]


async def test_a_cancel_while_its_beginning_is_recorded_waits_for_that(memory, settings):
    faulty = FaultyBackend(memory)
    with Flow("one") as flow:
        done = task(sleeps, name="one")()
    flow_run_id = await create_flow_run(flow, faulty, settings=settings)
    runner = CloudFlowRunner(flow, backend=faulty, settings=settings)
    is_beginning = lambda sent: sent["state"].is_running()  # noqa: E731
    faulty.delay("set_task_run_state", 3, where=is_beginning)

    async def cancel():
        await asyncio.sleep(11)
        runner.cancel("user")

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        state = await runner.run(context={"flow_run_id": flow_run_id}, executor=Queue(), return_tasks=[done])
    assert type(state.result[done]) is Cancelled
    assert [name for name, _ in await history(memory)] == ["Pending", "Submitted", "Running", "Cancelled"]


async def test_it_has_its_place_under_a_limit_from_when_it_is_handed_over(backend, settings):
    running = []

    async def counted():
        running.append(1)
        await asyncio.sleep(5)
        assert running.pop()

    with Flow("many") as flow:
        done = task(counted, tags=["one"])
        ends = [done() for _ in range(3)]
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    await backend.set_limit("tag", "one", 1)
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run(context={"flow_run_id": flow_run_id}, executor=Queue(1), return_tasks=ends)
    assert all(state.result[end].is_successful() for end in ends)
    _, runs = await backend.get_flow_run_history(flow_run_id)
    spans = sorted(
        (next(one for one in run.states if one.state == "Submitted").timestamp, run.states[-1].timestamp)
        for run in runs
    )
    # no two of them are handed over at once
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


async def test_whoever_takes_over_goes_on_with_what_was_handed_over(memory, settings):
    with Flow("one") as flow:
        done = task(sleeps, name="one")()
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    first = CloudFlowRunner(flow, backend=memory, settings=settings)
    left, taken = Queue(10_000), Queue(1)
    running = asyncio.create_task(first.run(context={"flow_run_id": flow_run_id}, executor=left))
    await asyncio.sleep(5)
    first.cancel("handover")
    await running
    assert left.causes == ["handover"]
    assert (await history(memory))[-1][0] in ("Submitted", "Pending")
    second = CloudFlowRunner(flow, backend=memory, settings=settings)
    state = await second.run(context={"flow_run_id": flow_run_id}, executor=taken, return_tasks=[done])
    assert state.result[done].result == "there"
    # it is the same job, by which a place that still has it knows it
    assert [(job.id, job.is_taken_over) for job in taken.jobs] == [(left.jobs[0].id, True)]


async def loops_and_fails_once():
    if context.get("task_loop_count", 1) == 1:
        raise LOOP(result="round")
    if context.task_run_count == 1:
        raise ValueError("once")
    return "there"


async def test_each_attempt_and_round_is_a_job_of_its_own(memory, settings):
    executor = Queue(1)
    state = await recorded(memory, settings, executor, loops_and_fails_once, max_retries=1, retry_delay=1)
    assert state.result == "there"
    [newest] = await memory.list_flow_runs(1)
    _, [run] = await memory.get_flow_run_history(newest.id)
    assert [job.id for job in executor.jobs] == [f"{run.id}-{count}" for count in ("1-1", "1-2", "2-2")]


async def test_unrecorded_no_two_jobs_are_the_same():
    executor = Queue(1)
    with Flow("one") as flow:
        task(loops_and_fails_once, max_retries=1, retry_delay=1)()
    for _ in range(2):
        assert (await FlowRunner(flow).run(executor=executor)).is_successful()
    assert len({job.id for job in executor.jobs}) == 6


@pytest.mark.parametrize("seconds", [1, 10])
async def test_a_task_runner_that_is_cancelled_alone_stops_its_body_and_is_cancelled(seconds):
    runner = TaskRunner(task(sleeps, name="one"))
    running = asyncio.create_task(runner.run())
    await asyncio.sleep(seconds)
    assert running.cancel() == (seconds < 5)
    if seconds < 5:
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        assert (await running).result == "there"


async def test_children_that_wait_for_room_are_cancelled_with_the_others(memory, settings, monkeypatch):
    monkeypatch.setattr(gates, "AHEAD", 0)
    executor = Queue(10)
    executor.window = 1
    with Flow("mapped") as flow:
        done = task(lambda n: asyncio.sleep(5), name="mapped").map([1, 2, 3])
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    for seconds, cause in ((1, "handover"), (1, "user")):
        runner = CloudFlowRunner(flow, backend=memory, settings=settings)
        asyncio.get_running_loop().call_later(seconds, runner.cancel, cause)
        state = await runner.run(context={"flow_run_id": flow_run_id}, executor=executor, return_tasks=[done])
    assert [type(child) for child in state.result[done].map_states] == [Cancelled] * 3
    _, runs = await memory.get_flow_run_history(flow_run_id)
    ends = {
        run.map_index: [one.state for one in run.states if one.state == "Cancelled"]
        for run in runs
        if run.map_index >= 0
    }
    assert ends == {index: ["Cancelled"] for index in range(3)}


@pytest.mark.parametrize("name", ["", "far"])
async def test_of_a_wide_map_no_more_is_started_than_there_is_room_for(monkeypatch, name):
    monkeypatch.setattr(gates, "AHEAD", 3)
    counts, handed_over, ended, here = [], [], [], []

    async def counted(n):
        counts.append(len(asyncio.all_tasks()))
        handed_over.append(len(executor.jobs) - len(ended))
        await asyncio.sleep(n % 3)
        ended.append(n)
        return n

    async def elsewhere(n):
        here.append(n)

    executor = Queue(1)
    executor.window = 4
    with Flow("wide") as flow:
        done = task(counted, needs=Needs(place=name)).map(list(range(200)))
        task(elsewhere).map(list(range(200)))
    several = SeveralExecutors({"": executor} if name == "" else {"far": executor})
    state = await FlowRunner(flow).run(executor=several, return_tasks=[done])
    assert state.result[done].result == list(range(200))
    # each has a task of its own, and so has its ticket; those of the other map are as many again at most
    assert max(counts) <= 2 * 2 * (4 + 3) + 3
    assert max(handed_over) == 4 + 3
    assert len(here) == 200
