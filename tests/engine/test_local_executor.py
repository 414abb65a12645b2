"""The default executor: the loop, and threads of its own."""

import asyncio
import contextvars
import datetime
import inspect
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, Settings, context, task
from flowloop.engine._run import gates
from flowloop.engine._run.gates import AHEAD
from flowloop.engine.executors import Executor, LocalExecutor, Needs, ProcessExecutor, SimpleExecutor
from flowloop.engine.executors._threads import NAME, BodyThreads
from flowloop.engine.signals import SKIP
from flowloop.engine.state import Failed, Success, TimedOut


def body_threads():
    return [thread for thread in threading.enumerate() if thread.name == NAME]


async def test_async_bodies_run_here_and_sync_ones_in_threads():
    async def coroutine():
        return threading.get_ident()

    def sync():
        return threading.get_ident()

    async with (executor := LocalExecutor()).start():
        assert await executor.submit(coroutine) == threading.get_ident()
        first = await executor.submit(sync)
        assert first != threading.get_ident()
        assert await executor.submit(sync) == first  # an idle thread is used again


async def test_a_thread_sees_the_context_of_the_run_and_cannot_change_it():
    variable = contextvars.ContextVar("variable", default="outside")

    def body(x, *, y):
        found = variable.get()
        variable.set("changed")
        return found, context.get("map_index"), x, y

    async with (executor := LocalExecutor()).start():
        variable.set("inside")
        with context(map_index=3):
            assert await executor.submit(body, 1, y=2) == ("inside", 3, 1, 2)
        assert variable.get() == "inside"


async def test_a_sync_body_that_returns_a_coroutine_is_awaited_here():
    async def inner():
        return threading.get_ident()

    async with (executor := LocalExecutor()).start():
        assert await executor.submit(lambda: inner()) == threading.get_ident()


@pytest.mark.parametrize("error", [ValueError("v"), SKIP("s"), KeyError()])
async def test_what_a_body_raises_is_raised_here(error):
    def body():
        raise error

    async with (executor := LocalExecutor()).start():
        with pytest.raises(type(error)) as raised:
            await executor.submit(body)
    assert raised.value is error


async def test_a_body_that_raises_stop_iteration_has_failed():
    with Flow("stop") as flow:
        done = task(lambda: next(iter(())), name="stops")()
    state = (await FlowRunner(flow).run()).result[done]
    assert isinstance(state, Failed)
    assert isinstance(state.result.__cause__, StopIteration)


async def test_as_many_bodies_run_at_once_as_there_may_be_and_no_more():
    running, most = 0, 0
    together, lock = threading.Barrier(3, timeout=60), threading.Lock()

    def body(n):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1

    with Flow("many") as flow:
        task(body).map(list(range(30)))
    assert (await FlowRunner(flow, settings=Settings(thread_limit=3)).run()).is_successful()
    assert most == 3


async def test_the_pool_of_the_application_is_left_alone():
    async with (executor := LocalExecutor(1)).start():
        names = [await executor.submit(lambda: threading.current_thread().name) for _ in range(3)]
    assert names == [NAME] * 3


async def test_the_threads_end_with_the_last_flow_run():
    others = set(body_threads())  # that a test before has left behind
    async with (executor := LocalExecutor()).start():
        async with executor.start():
            await executor.submit(int)
        await executor.submit(int)
        (thread,) = set(body_threads()) - others
    await anyio.to_thread.run_sync(thread.join, 60)
    assert not thread.is_alive()


async def test_an_abandoned_thread_gives_its_place_and_its_result_up():
    go_on, ended = threading.Event(), threading.Event()

    def stuck():
        go_on.wait(60)
        ended.set()
        return "late"

    @task(timeout=1)
    def hangs():
        return stuck()

    with Flow("stuck") as flow:
        late = hangs()
        after = task(lambda: "on time", name="after", trigger=lambda up: True)(upstream_tasks=[late])
    state = await FlowRunner(flow, settings=Settings(thread_limit=1)).run()
    assert isinstance(state.result[late], TimedOut)
    assert "Its thread cannot be stopped, and was abandoned." in state.result[late].message
    assert state.result[after].result == "on time"
    assert not ended.is_set()
    go_on.set()
    assert await anyio.to_thread.run_sync(ended.wait, 60)
    assert isinstance(state.result[late], TimedOut)


@pytest.mark.parametrize(
    ("timeout", "end"), [(1, "pass"), (None, "import os, signal; os.kill(os.getpid(), signal.SIGINT)")]
)
def test_a_process_does_not_wait_for_what_was_abandoned(timeout, end):
    script = f"""
        import threading
        from flowloop.engine import Flow, run, task

        @task(timeout={timeout}, state_handlers=[lambda t, old, new: print(type(new).__name__, flush=True)])
        def stuck():
            {end}
            threading.Event().wait()

        with Flow("stuck") as flow:
            stuck()
        run(flow)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["Running", "TimedOut" if timeout else "Cancelled"]


async def test_a_body_that_was_cancelled_before_it_had_a_thread_does_not_run():
    ran, begun, go_on = [], threading.Event(), threading.Event()

    def first():
        begun.set()
        go_on.wait(60)

    async with (executor := LocalExecutor(1)).start(), anyio.create_task_group() as group:
        group.start_soon(executor.submit, first)
        await anyio.to_thread.run_sync(begun.wait, 60)
        waiting = asyncio.create_task(executor.submit(ran.append, 1))
        await anyio.wait_all_tasks_blocked()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
    assert ran == []


async def test_a_work_that_is_cancelled_in_the_queue_is_not_done():
    pool, ran = BodyThreads(), []
    busy = threading.Event()
    first = pool.submit(busy.wait, 60)
    second = pool.submit(ran.append, 1)
    assert second.result(60) is None
    busy.set()
    assert first.result(60) is True
    assert ran == [1]
    pool.shutdown()


async def test_it_can_be_pickled_before_and_after_it_is_started():
    executor = LocalExecutor(5)
    assert pickle.loads(pickle.dumps(executor)).threads == 5
    async with executor.start():
        again = pickle.loads(pickle.dumps(executor))
        async with again.start():
            assert await again.submit(int, "5") == 5


def test_there_is_at_least_one_thread():
    with pytest.raises(ValueError, match="threads is at least 1, not 0"):
        LocalExecutor(0)


# -- the port ------------------------------------------------------------------------------------------


async def test_an_executor_that_does_not_say_how_fails_the_task_with_its_name():
    class Silent(Executor):
        pass

    with Flow("silent") as flow:
        done = task(lambda: 1, name="one")()
    state = await FlowRunner(flow).run(executor=Silent())
    assert state.is_failed()
    assert isinstance(state.result[done].result, NotImplementedError)
    assert "Silent does not say how to submit" in str(state.result[done].result)


@pytest.mark.parametrize("base", [Executor, SimpleExecutor])
async def test_an_executor_that_only_submits_runs_bodies(base):
    class Own(base):
        async def submit(self, fn, *args, extra_context=None, **kwargs):
            value = fn(*args, **kwargs)
            return extra_context["task_name"], await value if inspect.iscoroutine(value) else value

    async def later(fn):
        return fn

    def reads():
        yield 3

    with Flow("own") as flow:
        first, second, third = task(lambda x: x, name="plain")(1), task(later)(2), task(reads)()
    state = await FlowRunner(flow).run(executor=Own())
    assert [state.result[one].result for one in (first, second)] == [("plain", 1), ("later", 2)]
    assert state.result[third].result == ("reads", [3])


async def test_wait_gathers_what_is_nested():
    async def later(value):
        return value

    executor = LocalExecutor()
    assert await executor.wait([later(1), (later(2), {"a": later(3)}), 4]) == [1, (2, {"a": 3}), 4]
    assert repr(executor) == "<LocalExecutor>"


# -- timeouts, loops ------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [LocalExecutor(threads=1), ProcessExecutor(1)], ids=repr)
async def test_a_timeout_does_not_count_the_wait_for_a_place(executor):
    @task(timeout=2)
    def works(n):
        time.sleep(0.1)  # far less than the timeout, which all of them together exceed
        return n

    with Flow("queue") as flow:
        done = works.map(list(range(24)))
    state = await FlowRunner(flow).run(executor=executor)
    assert state.result[done].result == list(range(24))


async def timed_out(body):
    with Flow("late") as flow:
        done = task(body, name="late", timeout=1)()
    state = (await FlowRunner(flow).run()).result[done]
    assert isinstance(state, TimedOut)
    return state.message


@pytest.mark.virtual_time
async def test_a_body_that_swallows_its_cancel_has_timed_out():
    async def swallows():
        try:
            await anyio.sleep(60)
        except asyncio.CancelledError:
            await anyio.sleep(3)
        return "late"

    assert "It ran on for 3.0 s, and what it returned was dropped." in await timed_out(swallows)


@pytest.mark.virtual_time
async def test_a_body_that_raises_after_its_timeout_has_timed_out():
    async def raises():
        try:
            await anyio.sleep(60)
        finally:
            raise KeyError("k")

    assert "and then raised KeyError('k')" in await timed_out(raises)


@pytest.mark.virtual_time
async def test_a_body_that_never_stops_does_not_hold_its_run():
    goes_on = asyncio.Event()

    async def never_stops():
        while not goes_on.is_set():
            try:
                await goes_on.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    assert "still ran 5 s later" in await timed_out(never_stops)
    goes_on.set()
    await anyio.wait_all_tasks_blocked()


async def test_a_body_that_blocks_the_loop_past_its_timeout_has_timed_out():
    async def blocks():
        time.sleep(1.2)  # noqa: ASYNC251 - that is what it is about
        return "late"

    assert "what it returned was dropped" in await timed_out(blocks)


async def test_a_sync_body_that_ended_in_time_is_not_late_because_the_loop_was():
    begun = threading.Event()

    def body():
        begun.set()
        time.sleep(0.2)
        return "in time"

    @task
    async def blocks():
        await anyio.to_thread.run_sync(begun.wait, 60)
        time.sleep(1.2)  # noqa: ASYNC251 - that is what it is about

    with Flow("busy") as flow:
        done = task(body, timeout=1)()
        blocks()
    assert (await FlowRunner(flow).run()).result[done].result == "in time"


@pytest.mark.virtual_time
@pytest.mark.parametrize(("kinds", "kind"), [(TimeoutError, Success), (OSError, Success), (ValueError, TimedOut)])
async def test_a_timeout_is_a_timeout_error_for_retry_on(kinds, kind):
    @task(timeout=1, max_retries=1, retry_delay=0, retry_on=kinds)
    async def slow_once():
        if context.task_run_count == 1:
            await anyio.sleep(5)

    with Flow("slow") as flow:
        done = slow_once()
    assert type((await FlowRunner(flow).run()).result[done]) is kind


class SetBack:
    """A clock that is set back once a body has failed."""

    back = datetime.timedelta()

    def now(self):
        return datetime.datetime.now(datetime.UTC) - self.back


@pytest.mark.virtual_time
async def test_a_retry_is_waited_for_by_the_time_of_the_loop():
    clock = SetBack()

    @task(max_retries=1, retry_delay=2)
    async def flaky():
        if context.task_run_count == 1:
            asyncio.get_running_loop().call_later(1, setattr, clock, "back", datetime.timedelta(minutes=10))
            raise ValueError
        return "there"

    with Flow("set back") as flow:
        done = flaky()
    state = await FlowRunner(flow).run(context={"clock": clock})
    assert state.result[done].result == "there"


@pytest.mark.parametrize("executor", [LocalExecutor(threads=2), ProcessExecutor(1)], ids=repr)
def test_one_executor_serves_the_loops_of_several_threads(executor):
    with Flow("shared", executor=executor) as flow:
        done = task(lambda n: n * 2, name="double").map(list(range(6)))
    found = []
    threads = [threading.Thread(target=lambda: found.append(flow.run_sync().result[done].result)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [[0, 2, 4, 6, 8, 10]] * 3


@pytest.mark.parametrize(
    ("executor", "ahead"), [(LocalExecutor(1), AHEAD), (ProcessExecutor(1), AHEAD), (ProcessExecutor(1), 0)]
)
async def test_of_what_waits_for_a_thread_or_a_process_the_highest_priority_goes_first(executor, ahead, monkeypatch):
    monkeypatch.setattr(gates, "AHEAD", ahead)

    def now():
        return time.monotonic()

    with Flow("queue", executor=executor) as flow:
        tasks = [task(now, needs=Needs(priority=one))() for one in (0, 5, 0, -1, 5)]
    state = await FlowRunner(flow).run()
    begun = [state.result[one].result for one in tasks]
    assert sorted(range(5), key=begun.__getitem__) == [1, 4, 0, 2, 3]
