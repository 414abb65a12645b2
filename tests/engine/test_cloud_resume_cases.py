"""What a continued run does again, what it does not, and where its inputs come from: case by case."""

import asyncio
import collections
import datetime
import os

import anyio
import pytest

from flowloop.engine import Flow, Parameter, context, flatten, task, unmapped
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.operators import Add
from flowloop.engine.resources import resource_manager
from flowloop.engine.results import DefaultResult, LocalResult, PrefectResult
from flowloop.engine.secrets import Secret
from flowloop.engine.serializers import JSONSerializer
from flowloop.engine.signals import LOOP, SKIP
from flowloop.engine.state import Failed, Looped, Mapped, Pending, Running, Scheduled, Skipped, Success

from .mortal import MortalBackend, run_until_death

pytestmark = pytest.mark.virtual_time

HOUR = datetime.timedelta(hours=1)


class Runs:
    """What ran, and how often."""

    def __init__(self):
        self.counts = collections.Counter()

    def note(self, *what):
        self.counts[what or (context.task_full_name,)] += 1

    def took(self, *what):
        return self.counts[what]


@pytest.fixture
def runs():
    return Runs()


@pytest.fixture
def again(memory, settings):
    """Let the runner of a new run die at a chosen state, and continue the run; gives the final state and the id."""

    async def run(flow, dies_at, *, recorded=False, parameters=None, meanwhile=None, results=settings):
        flow_run_id = await create_flow_run(flow, memory, parameters, settings=settings)
        mortal = MortalBackend(memory, dies_at, recorded=recorded)
        assert await run_until_death(flow, mortal, flow_run_id, settings=settings), "it did not die"
        if meanwhile is not None:
            await meanwhile(flow_run_id)
        runner = CloudFlowRunner(flow, backend=memory, settings=results, takeover=True)
        return await runner.run(context={"flow_run_id": flow_run_id}), flow_run_id

    return run


def at(name, state):
    """Choose the write of one kind of state of one task run."""
    return lambda task, kind: (task, kind) == (name, state)


async def states_of(backend, flow_run_id, slug, index=-1):
    _, task_runs = await backend.get_flow_run_history(flow_run_id)
    [found] = [run for run in task_runs if (run.task_slug, run.map_index) == (slug, index)]
    return [one.state for one in found.states]


# -- where inputs come from ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (None, [1, "two", {"three": 3.0}]),
        (None, {1, 2}),
        (None, None),
        (None, ""),
        (DefaultResult(serializer=JSONSerializer()), {"large": list(range(20_000))}),
        (LocalResult(serializer=JSONSerializer(), location="{task_name}.json"), {"a": 1}),
        (PrefectResult(), [1]),
    ],
)
async def test_inputs_are_read_from_where_they_were_stored(again, result, value, tmp_path):
    if hasattr(result, "dir"):
        result.dir = str(tmp_path / "elsewhere")
    seen = []

    @task(result=result)
    async def make():
        return value

    @task
    async def use(made):
        seen.append(made)

    with Flow("inputs") as flow:
        use(make())
    state, _ = await again(flow, at("use", "Running"))
    assert state.is_successful()
    assert seen == [value]


async def test_they_are_found_although_results_are_kept_elsewhere_now(again, settings, tmp_path):
    import msgspec

    @task
    async def make():
        return {1, 2}

    @task
    async def use(made):
        return sorted(made)

    with Flow("moved") as flow:
        used = use(make())
    other = msgspec.structs.replace(settings, home=str(tmp_path / "other"))
    state, _ = await again(flow, at("use", "Running"), results=other)
    assert state.result[used].result == [1, 2]


def lose(backend, slug):
    """Delete the file with the result of a task, after its process has died."""

    async def delete(flow_run_id):
        info = await backend.get_flow_run_info(flow_run_id)
        [state] = [run.state for run in info.task_runs if run.task_slug == slug]
        os.unlink(state._result.location)

    return delete


async def test_an_input_that_is_lost_fails_the_task_that_needs_it(again, memory, runs):
    @task
    async def make():
        runs.note()
        return {1, 2}

    @task
    async def use(made): ...

    with Flow("lost") as flow:
        used = use(make())
    state, _ = await again(flow, at("use", "Running"), meanwhile=lose(memory, "make-1"))
    assert state.is_failed()
    assert "'make' could not be read from" in state.result[used].message
    assert runs.took("make") == 1


async def test_children_that_are_finished_do_not_miss_a_list_that_is_lost(again, memory, runs):
    @task
    async def numbers():
        return [{n} for n in range(3)]

    @task
    async def work(n):
        runs.note()
        await anyio.sleep(max(n))
        return max(n)

    @task
    async def total(values):
        return sum(values)

    with Flow("lost list") as flow:
        worked = work.map(numbers())
        total(worked)
    state, _ = await again(flow, at("work[2]", "Success"), meanwhile=lose(memory, "numbers-1"))
    assert [type(child) for child in state.result[worked].map_states] == [Success, Success, Failed]
    assert "'numbers' could not be read" in state.result[worked].map_states[2].message
    assert runs.counts == {("work[0]",): 1, ("work[1]",): 1, ("work[2]",): 1}

    runs.counts.clear()
    state, _ = await again(flow, at("total", "Success"), meanwhile=lose(memory, "numbers-1"))
    assert state.is_successful()
    assert runs.counts == {("work[0]",): 1, ("work[1]",): 1, ("work[2]",): 1}


async def test_a_result_that_is_never_stored_fails_what_needs_it_rather_than_be_none(again, runs):
    @task(checkpoint=False)
    async def connect():
        runs.note()
        return object()

    @task
    async def use(connection): ...

    with Flow("not stored") as flow:
        used = use(connect())
    state, _ = await again(flow, at("use", "Running"))
    assert "checkpoint=False" in state.result[used].message
    assert "reruns_on_restart" in state.result[used].message
    assert runs.took("connect") == 1


async def test_where_the_task_says_so_it_runs_again_for_it(again, runs):
    @task(checkpoint=False)
    async def connect():
        runs.note()
        return "connection"

    @task
    async def use(connection):
        return connection

    connect.reruns_on_restart = True
    with Flow("not stored") as flow:
        used = use(connect)
    state, _ = await again(flow, at("use", "Running"))
    assert state.result[used].result == "connection"
    assert runs.took("connect") == 2


# -- what is computed again ------------------------------------------------------------------------------


async def test_small_tasks_that_a_flow_makes_by_itself_are_computed_again_where_they_are_needed(again, memory, runs):
    @task
    async def one(x):
        runs.note()
        return x

    with Flow("operators") as flow:
        n = Parameter("n", default=2)
        first = one(n + 1)
        last = one((n + first) * 10, task_args={"name": "last"})
    state, flow_run_id = await again(flow, at("last", "Running"))
    assert state.result[last].result == 50
    assert runs.counts == {("one",): 1, ("last",): 1}
    assert await states_of(memory, flow_run_id, "Mul-1") == [
        *("Pending", "Running", "Success", "Pending", "Running", "Success")
    ]
    needed_no_more = [slug for slug in flow.slugs.values() if slug == "Add-1"]
    assert await states_of(memory, flow_run_id, needed_no_more[0]) == ["Pending", "Running", "Success"]


async def test_those_that_are_mapped_too(again, runs):
    @task
    async def slow(n):
        await anyio.sleep(n)
        return n

    with Flow("mapped operator") as flow:
        added = Add().map(x=[1, 2, 3], y=unmapped(10))
        slowed = slow.map(added)
    state, _ = await again(flow, at("slow[1]", "Success"))
    assert state.result[slowed].result == [11, 12, 13]


async def test_a_secret_is_asked_for_again_only_where_it_is_needed(again, monkeypatch):
    monkeypatch.setenv("FLOWLOOP_SECRET__TOKEN", "old")
    seen = []

    @task
    async def login(token):
        seen.append(token)

    @task
    async def after(): ...

    with Flow("secret") as flow:
        after(upstream_tasks=[login(Secret("TOKEN"))])

    async def change(flow_run_id):
        monkeypatch.setenv("FLOWLOOP_SECRET__TOKEN", "new")

    state, _ = await again(flow, at("login", "Success"), meanwhile=change)
    assert state.is_successful()
    assert seen == ["old", "new"]

    async def forget(flow_run_id):
        monkeypatch.delenv("FLOWLOOP_SECRET__TOKEN")

    state, _ = await again(flow, at("after", "Running"), meanwhile=forget)
    assert state.is_successful()


async def test_a_resource_is_set_up_and_cleaned_up_again(again, runs):
    @resource_manager
    class Pool:
        def setup(self):
            runs.note("setup")
            return "pool"

        def cleanup(self, pool):
            runs.note("cleanup")

    @task
    async def use(pool, n):
        runs.note()
        await anyio.sleep(n)
        return pool, n

    with Flow("pool") as flow, Pool() as pool:
        used = use.map(unmapped(pool), [1, 2])
    state, _ = await again(flow, at("use[1]", "Success"))
    assert state.result[used].map_states[1].result == ("pool", 2)
    assert runs.counts == {("setup",): 2, ("cleanup",): 1, ("use[0]",): 1, ("use[1]",): 2}


# -- mapping ---------------------------------------------------------------------------------------------


async def test_of_nested_and_flattened_maps_only_what_is_missing_runs(again, runs):
    @task
    async def spread(n):
        runs.note()
        return [n * 10 + i for i in range(2)]

    @task
    async def leaf(n):
        runs.note()
        await anyio.sleep(n / 10)
        return n

    @task
    async def twice(n):
        runs.note()
        return 2 * n

    with Flow("nested") as flow:
        doubled = twice.map(leaf.map(flatten(spread.map([1, 2]))))
    state, _ = await again(flow, at("leaf[2]", "Success"))
    assert state.result[doubled].result == [20, 22, 40, 42]
    assert runs.counts == {
        **{(f"spread[{i}]",): 1 for i in range(2)},
        **{(f"leaf[{i}]",): 2 if i >= 2 else 1 for i in range(4)},
        **{(f"twice[{i}]",): 1 for i in range(4)},
    }


async def test_an_empty_map_stays_empty(again):
    @task
    async def none():
        return []

    @task
    async def work(n): ...

    @task
    async def count(values):
        return len(values)

    with Flow("empty") as flow:
        counted = count(work.map(none()))
    state, _ = await again(flow, at("count", "Success"))
    assert state.result[counted].result == 0


async def test_what_was_skipped_or_had_failed_stays_so(again, runs):
    @task
    async def work(n):
        runs.note()
        if n == 1:
            raise SKIP("one")
        if n == 2:
            raise ValueError("two")
        await anyio.sleep(1)
        return n

    with Flow("mixed") as flow:
        worked = work.map([0, 1, 2])
    state, _ = await again(flow, at("work[0]", "Success"))
    assert [type(child) for child in state.result[worked].map_states] == [Success, Skipped, Failed]
    assert runs.counts == {("work[0]",): 2, ("work[1]",): 1, ("work[2]",): 1}


# -- attempts and rounds ---------------------------------------------------------------------------------


def flaky_flow(runs, *, delay, times=2, **options):
    @task(max_retries=times, retry_delay=delay, **options)
    async def flaky():
        runs.note(context.task_run_count, asyncio.get_running_loop().time())
        if context.task_run_count <= times:
            raise KeyError("not yet")
        return "at last"

    with Flow("flaky") as flow:
        made = flaky()
    return flow, made


def attempts(runs):
    return [what[0] for what in runs.counts]


async def test_an_attempt_that_was_interrupted_is_made_again_and_not_counted_twice(again, runs):
    flow, _ = flaky_flow(runs, delay=5)
    state, _ = await again(flow, at("flaky", "Success"), meanwhile=lambda flow_run_id: anyio.sleep(1))
    assert state.is_successful()
    assert attempts(runs) == [1, 2, 3, 3]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("retry_on", [None, KeyError])
async def test_a_failure_is_retried_although_its_runner_died_before_it_said_so(again, memory, runs, recorded, retry_on):
    flow, _ = flaky_flow(runs, delay=5, times=1, **({} if retry_on is None else {"retry_on": retry_on}))
    state, flow_run_id = await again(flow, at("flaky", "Retrying"), recorded=recorded)
    assert state.is_successful()
    assert attempts(runs) == [1, 2]
    assert [what[1] for what in runs.counts] == pytest.approx([0, 5], abs=0.1)
    assert await states_of(memory, flow_run_id, "flaky-1") == [
        *("Pending", "Running", "Failed", "Retrying", "Running", "Success")
    ]


@pytest.mark.parametrize("options", [{"times": 0, "delay": None}, {"times": 1, "delay": 1, "retry_on": ValueError}])
async def test_a_failure_that_is_not_retried_stays_a_failure(again, memory, runs, options):
    times = options.pop("times")

    @task(max_retries=times, retry_delay=options.pop("delay"), **options)
    async def hopeless():
        runs.note()
        raise KeyError("never")

    with Flow("hopeless") as flow:
        flow.add_task(hopeless)
    state, _ = await again(flow, lambda task, kind: task is None and kind == "Failed")
    assert state.is_failed()
    assert runs.counts == {("hopeless",): 1}


async def test_a_retry_far_off_ends_the_run_and_is_made_when_it_is_due(memory, settings, runs):
    flow, made = flaky_flow(runs, delay=HOUR, times=1)
    flow_run_id = await create_flow_run(flow, memory, settings=settings)

    async def run():
        runner = CloudFlowRunner(flow, backend=memory, settings=settings)
        return await runner.run(context={"flow_run_id": flow_run_id})

    assert type(await run()) is Scheduled
    await anyio.sleep(60)
    assert type(await run()) is Scheduled, "it is not due"
    await anyio.sleep(3540)
    state = await run()
    assert state.is_successful()
    assert state.result[made].result == "at last"
    assert attempts(runs) == [1, 2]


def looping_flow(runs, *, make=lambda n: n, **options):
    @task(**options)
    async def loop():
        done = context.get("task_loop_result") or []
        runs.note(context.get("task_loop_count", 1), context.task_run_count)
        if len(done) == 2 and options.get("max_retries") and context.task_run_count == 1:
            raise ValueError("in the third round")
        if len(done) == 3:
            return len(done)
        raise LOOP(result=[*done, make(len(done))])

    with Flow("loop") as flow:
        looped = loop()
    return flow, looped


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("make", [lambda n: n, lambda n: {n}], ids=["in the state", "in a file"])
async def test_a_loop_goes_on_with_the_round_it_was_in(again, runs, recorded, make):
    flow, looped = looping_flow(runs, make=make)
    looped_twice = iter([False, True])
    state, _ = await again(flow, lambda task, kind: kind == "Looped" and next(looped_twice), recorded=recorded)
    assert state.result[looped].result == 3
    assert runs.counts == {(1, 1): 1, (2, 1): 1 if recorded else 2, (3, 1): 1, (4, 1): 1}


async def test_a_retry_in_a_loop_goes_on_with_its_round_in_another_process(memory, settings, runs):
    flow, looped = looping_flow(runs, make=lambda n: {n}, max_retries=1, retry_delay=HOUR)
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    for state in (Scheduled, Success):
        runner = CloudFlowRunner(flow, backend=memory, settings=settings)
        final = await runner.run(context={"flow_run_id": flow_run_id})
        assert type(final) is state
        await anyio.sleep(3600)
    assert final.result[looped].result == 3
    assert list(runs.counts) == [(1, 1), (2, 1), (3, 1), (3, 2), (4, 1)]


@pytest.mark.parametrize("options", [{}, {"checkpoint": False}])
async def test_a_loop_whose_rounds_cannot_be_stored_begins_anew(again, runs, options):
    import threading

    flow, looped = looping_flow(runs, make=lambda n: threading.Lock() if not options else n, **options)
    rounds = iter([False, True])
    state, _ = await again(flow, lambda task, kind: kind == "Looped" and next(rounds), recorded=True)
    assert state.result[looped].result == 3
    assert runs.counts == {(1, 1): 2, (2, 1): 2, (3, 1): 1, (4, 1): 1}


async def test_what_a_round_leaves_is_not_taken_for_the_result(again, runs, tmp_path):
    flow, looped = looping_flow(runs, result=LocalResult(dir=str(tmp_path)), target="the result")
    rounds = iter([False, True])
    state, _ = await again(flow, lambda task, kind: kind == "Looped" and next(rounds), recorded=True)
    assert state.result[looped].result == 3
    assert runs.took(4, 1) == 1


async def test_a_loop_that_another_engine_left_between_two_rounds(memory, settings, runs):
    flow, looped = looping_flow(runs, make=lambda n: {n})
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    await memory.set_flow_run_state(flow_run_id, None, Running())
    [task_run] = (await memory.get_flow_run_info(flow_run_id)).task_runs
    stored = await DefaultResult(settings.results_dir).write([{0}, {1}])
    await memory.set_task_run_state(task_run.id, None, Running())
    await memory.set_task_run_state(task_run.id, None, Looped(loop_count=2, result=stored))
    runner = CloudFlowRunner(flow, backend=memory, settings=settings, takeover=True)
    state = await runner.run(context={"flow_run_id": flow_run_id})
    assert state.result[looped].result == 3
    assert list(runs.counts) == [(3, 1), (4, 1)]


# -- restarts --------------------------------------------------------------------------------------------


async def test_a_failed_run_is_restarted_from_its_failed_tasks(memory, settings, runs):
    @task
    async def make():
        runs.note()
        return {1}

    @task
    async def use(made):
        runs.note()
        if runs.took("use") == 1:
            raise ValueError("the first time")
        return made

    @task
    async def after(used):
        runs.note()

    with Flow("restarted") as flow:
        after(use(make()))
    flow_run_id = await create_flow_run(flow, memory, settings=settings)

    async def run():
        runner = CloudFlowRunner(flow, backend=memory, settings=settings)
        return await runner.run(context={"flow_run_id": flow_run_id})

    assert (await run()).is_failed()
    for one in (await memory.get_flow_run_info(flow_run_id)).task_runs:
        if not one.state.is_successful():
            await memory.set_task_run_state(one.id, None, Pending())
    await memory.set_flow_run_state(flow_run_id, None, Scheduled())
    assert (await run()).is_successful()
    assert runs.counts == {("make",): 1, ("use",): 2, ("after",): 1}


async def test_a_run_that_is_over_but_for_its_final_state_is_only_ended(again, memory, runs):
    @task
    async def work(n):
        runs.note()

    with Flow("over") as flow:
        work.map([1, 2])
    state, flow_run_id = await again(flow, lambda task, kind: task is None and kind == "Success")
    assert state.is_successful()
    assert set(runs.counts.values()) == {1}
    assert type(await memory.get_flow_run_state(flow_run_id)) is Success
    mapped = [run.state for run in (await memory.get_flow_run_info(flow_run_id)).task_runs if run.task_slug == "work-1"]
    assert [type(one) for one in mapped] == [Mapped]


async def test_a_waiting_retry_of_a_dead_runner_is_waited_for(again, memory, runs):
    flow, _ = flaky_flow(runs, delay=50, times=1)

    async def sleep(flow_run_id):
        await anyio.sleep(20)

    state, _ = await again(flow, at("flaky", "Retrying"), recorded=True, meanwhile=sleep)
    assert state.is_successful()
    assert [what[1] for what in runs.counts] == pytest.approx([0, 50], abs=0.1)
