"""Task bodies on a Dask cluster."""

import os
import pickle
import threading

import anyio.lowlevel
import pytest

from flowloop.engine import Flow, FlowRunner, context, task
from flowloop.engine.errors import ExecutorError
from flowloop.engine.executors import DaskExecutor
from flowloop.engine.signals import SKIP
from flowloop.engine.state import Skipped, TimedOut

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

# what Dask does at its own edges is not for these tests to judge
pytestmark = pytest.mark.filterwarnings("default")


def executor(**kwargs):
    return DaskExecutor(
        cluster_kwargs={
            "n_workers": 1,
            "threads_per_worker": 2,
            "dashboard_address": None,
            "processes": False,
            **kwargs,
        }
    )


async def test_bodies_run_on_a_worker_and_see_the_run_context():
    def sync(n):
        return n + 1, distributed.get_worker().name, context.task_full_name

    async def coroutine(n):
        await anyio.lowlevel.checkpoint()
        return n + 2, threading.current_thread() is threading.main_thread()

    def skips():
        raise SKIP("not today")

    def fails():
        raise KeyError("k")

    with Flow("dask") as flow:
        first = task(sync).map([1, 2])
        second, third, fourth = task(coroutine)(1), task(skips)(), task(fails)()
    state = await FlowRunner(flow).run(executor=executor())
    assert [(n, name) for n, _, name in state.result[first].result] == [(2, "sync[0]"), (3, "sync[1]")]
    assert state.result[second].result == (3, False)
    assert isinstance(state.result[third], Skipped)
    assert isinstance(state.result[fourth].result, KeyError)
    assert "fails" in "".join(state.result[fourth].result.__notes__)


async def test_bodies_run_in_other_processes():
    with Flow("dask") as flow:
        pid = task(lambda: os.getpid(), name="pid")()
    state = await FlowRunner(flow).run(executor=executor(processes=True))
    assert state.result[pid].result not in (None, os.getpid())


async def test_a_cluster_that_is_there_is_used_and_left():
    async with distributed.LocalCluster(
        asynchronous=True, n_workers=1, processes=False, dashboard_address=None
    ) as cluster:
        made = DaskExecutor(cluster.scheduler_address)
        for _ in range(2):
            async with made.start(), made.start():
                assert await made.submit(divmod, 7, 2) == (3, 1)
            async with made.start():
                assert await made.submit(len, "abc") == 3


async def test_a_timeout_does_not_wait_for_the_body():
    @task(timeout=1)
    def stuck():
        threading.Event().wait(2)

    with Flow("stuck") as flow:
        done = stuck()
    state = await FlowRunner(flow).run(executor=executor())
    assert isinstance(state.result[done], TimedOut)
    assert "its Dask worker brings it to its end" in state.result[done].message


async def test_what_cannot_travel_is_named():
    def uses(lock):
        pass

    with Flow("lock") as flow:
        done = task(uses)(threading.Lock())
    state = await FlowRunner(flow).run(executor=executor())
    assert "its argument 'lock' (a _thread.lock) cannot be pickled" in str(state.result[done].result)


async def test_a_worker_that_is_lost_fails_the_body():
    def dies():
        os._exit(1)

    with Flow("dies") as flow:
        done = task(dies)()
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        state = await FlowRunner(flow).run(executor=executor(processes=True))
    assert isinstance(state.result[done].result, ExecutorError)
    assert "task 'dies' was lost on the Dask cluster" in str(state.result[done].result)


async def test_it_is_pickled_before_and_after_it_is_started():
    made = executor()
    assert pickle.loads(pickle.dumps(made)).cluster_kwargs == made.cluster_kwargs
    async with made.start():
        again = pickle.loads(pickle.dumps(made))
    with pytest.raises(ExecutorError, match="not started"):
        await again.submit(len, "abc")


def test_an_address_and_a_cluster_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        DaskExecutor("tcp://127.0.0.1:8786", cluster_kwargs={"n_workers": 1})


async def test_without_dask_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ExecutorError, match=r"pip install 'flowloop\[dask\]'"):
        async with DaskExecutor().start():
            pass
