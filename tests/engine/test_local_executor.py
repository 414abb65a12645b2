"""The default executor: the loop, and threads of its own."""

import asyncio
import contextvars
import pickle
import subprocess
import sys
import textwrap
import threading

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, Settings, context, task
from flowloop.engine.executors import Executor, LocalExecutor
from flowloop.engine.executors._threads import NAME, BodyThreads
from flowloop.engine.signals import SKIP
from flowloop.engine.state import Failed, TimedOut


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
    together, lock = threading.Barrier(3, timeout=30), threading.Lock()

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
    async with (executor := LocalExecutor()).start():
        async with executor.start():
            await executor.submit(int)
        await executor.submit(int)
        (thread,) = body_threads()
    await anyio.to_thread.run_sync(thread.join, 10)
    assert not thread.is_alive()


async def test_an_abandoned_thread_gives_its_place_and_its_result_up():
    go_on, ended = threading.Event(), threading.Event()

    def stuck():
        go_on.wait(30)
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
    assert await anyio.to_thread.run_sync(ended.wait, 30)
    assert isinstance(state.result[late], TimedOut)


@pytest.mark.parametrize("end", ["pass", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"])
def test_a_process_does_not_wait_for_what_was_abandoned(end):
    script = f"""
        import threading
        from flowloop.engine import Flow, run, task

        @task(timeout=1, state_handlers=[lambda t, old, new: print(type(new).__name__, flush=True)])
        def stuck():
            {end}
            threading.Event().wait()

        with Flow("stuck") as flow:
            stuck()
        run(flow)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.split() == ["Running", "TimedOut" if end == "pass" else "Cancelled"]


async def test_a_body_that_was_cancelled_before_it_had_a_thread_does_not_run():
    ran, begun, go_on = [], threading.Event(), threading.Event()

    def first():
        begun.set()
        go_on.wait(30)

    async with (executor := LocalExecutor(1)).start(), anyio.create_task_group() as group:
        group.start_soon(executor.submit, first)
        await anyio.to_thread.run_sync(begun.wait, 30)
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
    first = pool.submit(busy.wait, 30)
    second = pool.submit(ran.append, 1)
    assert second.result(30) is None
    busy.set()
    assert first.result(30) is True
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


async def test_wait_gathers_what_is_nested():
    async def later(value):
        return value

    executor = LocalExecutor()
    assert await executor.wait([later(1), (later(2), {"a": later(3)}), 4]) == [1, (2, {"a": 3}), 4]
    assert repr(executor) == "<LocalExecutor>"
