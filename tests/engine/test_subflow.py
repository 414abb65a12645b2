"""A flow used as a task of another one."""

import asyncio
import pickle
import threading

import anyio
import cloudpickle
import pytest

from flowloop.engine import Flow, FlowRunner, Limits, Parameter, Settings, context, task
from flowloop.engine.control import pause_task
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.executors import LocalExecutor
from flowloop.engine.signals import SKIP
from flowloop.engine.state import Cancelled, Failed, Mapped, Paused, Skipped, Success, TimedOut
from flowloop.engine.subflow import FlowTask, SubflowStates, subflow
from flowloop.engine.testing import run as run_virtually


@task
async def add(a, b):
    return a + b


def adding(name="child"):
    with Flow(name) as flow:
        a, b = Parameter("a"), Parameter("b", default=10)
        total = add(a, b)
    return flow, total


async def test_a_flow_runs_as_a_task_and_its_states_are_nested():
    child, total = adding()
    with Flow("parent") as flow:
        done = subflow(child)(a=1)
        used = add(done[total], 100)
    state = await flow.run()
    assert state.is_successful()
    assert state.result[used].result == 111
    nested = state.result[done].result
    assert isinstance(nested, SubflowStates)
    assert nested["add-1"].result == 11
    assert set(nested) == {"a", "b", "add-1"}


async def test_tasks_of_the_parent_are_its_parameters():
    child, total = adding()
    with Flow("parent") as flow:
        first = add(1, 2)
        done = subflow(child)(a=first, b=[first, 4][0])
        out = done[total]
    assert (await flow.run()).result[out].result == 6


async def test_a_mapped_subflow_runs_once_for_each_element():
    child, total = adding()
    with Flow("parent") as flow:
        done = subflow(child).map(a=[1, 2, 3])
        totals = done[total]
    state = await flow.run()
    assert isinstance(state.result[done], Mapped)
    assert state.result[totals].result == [11, 12, 13]


async def test_subflows_can_contain_subflows():
    inner, total = adding("inner")
    with Flow("middle") as middle:
        a = Parameter("a")
        inside = subflow(inner)(a=a)
        doubled = add(inside[total], inside[total])
    with Flow("outer") as outer:
        done = subflow(middle)(a=1)
        out = done[doubled]
    state = await outer.run()
    assert state.result[out].result == 22
    assert state.result[done].result[middle.slugs[inside]].result["add-1"].result == 11


async def test_an_element_of_the_result_is_taken_as_of_any_task():
    child, _ = adding()
    with Flow("parent") as flow:
        done = subflow(child)(a=1)
        state_of_add = done["add-1"]
    assert (await flow.run()).result[state_of_add].result.is_successful()


# -- how it ends ---------------------------------------------------------------------------------------


async def test_a_failed_flow_is_a_failed_task_and_can_be_retried():
    tries = []

    @task
    async def flaky():
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")

    with Flow("child") as child:
        flaky()
    with Flow("parent") as flow:
        once = subflow(child)()
    state = await flow.run()
    assert isinstance(state.result[once], Failed)
    assert state.result[once].message == "Flow 'child' failed (failed: flaky-1)."
    assert isinstance(state.result[once].result["flaky-1"].result, ValueError)
    tries.clear()
    with Flow("patient parent") as flow:
        subflow(child, max_retries=1, retry_delay=0)()
    assert (await flow.run()).is_successful()
    assert len(tries) == 2


async def test_a_flow_that_fails_as_a_whole_says_why():
    def handler(flow, old, new):
        raise ZeroDivisionError("handler")

    with Flow("child", state_handlers=[handler]) as child:
        add(1, 2)
    with Flow("parent") as flow:
        done = subflow(child)()
    failed = (await flow.run()).result[done]
    assert "handler" in failed.message
    assert isinstance(failed.result, ZeroDivisionError)


async def test_skipped_tasks_inside_do_not_skip_the_whole():
    @task
    async def skips():
        raise SKIP("no")

    with Flow("child") as child:
        skips()
    with Flow("parent") as flow:
        done = subflow(child)()
    state = (await flow.run()).result[done]
    assert type(state) is Success
    assert isinstance(state.result["skips-1"], Skipped)


def test_retries_inside_are_waited_for_however_long():
    tries = []

    @task(max_retries=2, retry_delay=86400)
    async def flaky():
        tries.append(asyncio.get_running_loop().time())
        if len(tries) < 3:
            raise ValueError

    with Flow("child") as child:
        flaky()
    with Flow("parent") as flow:
        subflow(child)()
    assert run_virtually(FlowRunner(flow).run()).is_successful()
    assert tries[-1] - tries[0] == pytest.approx(2 * 86400, abs=1)


async def test_a_pause_inside_pauses_the_task_and_resuming_it_passes():
    ran = []

    @task
    async def gate():
        ran.append(1)
        pause_task()

    with Flow("child") as child:
        gate()
    with Flow("parent") as flow:
        done = subflow(child)()
    state = await FlowRunner(flow).run()
    assert isinstance(state.result[done], Paused)
    assert "gate-1" in state.result[done].message
    assert (await flow.run(on_paused=lambda *_: True)).is_successful()


# -- what flows down -----------------------------------------------------------------------------------


async def test_context_executor_and_settings_flow_down_and_what_is_said_of_the_task_does_not():
    seen = {}

    class Recording(LocalExecutor):
        def __init__(self):
            super().__init__()
            self.bodies = []

        async def submit(self, fn, *args, extra_context=None, **kwargs):
            self.bodies.append(extra_context["task_name"])
            return await super().submit(fn, *args, extra_context=extra_context, **kwargs)

    @task
    def look():
        seen.update(context.to_dict(), settings=context.settings)
        seen["thread"] = threading.current_thread()

    with Flow("child") as child:
        Parameter("a", default=1)
        look()
    with Flow("parent") as flow:
        Parameter("of_parent", default=1)
        done = subflow(child, tags=["outer"]).map(a=[5])
    executor = Recording()
    settings = Settings(inline_retry_limit=7.0)
    with context(secrets={"x": "y"}):
        state = await FlowRunner(flow, settings=settings).run(executor=executor)
    assert state.is_successful()
    assert isinstance(state.result[done], Mapped)
    assert seen["secrets"] == {"x": "y"}
    assert seen["settings"] is settings
    assert executor.bodies == ["look"]
    assert seen["flow_name"] == "child"
    assert seen["parameters"] == {"a": 5}
    assert seen["task_name"] == seen["task_full_name"] == "look"
    assert seen["task_tags"] == set()
    assert seen["map_index"] is None
    assert seen["flow_run_id"]


async def test_the_executor_of_the_child_wins():
    class Counting(LocalExecutor):
        count = 0

        async def submit(self, fn, *args, extra_context=None, **kwargs):
            self.count += 1
            return await super().submit(fn, *args, extra_context=extra_context, **kwargs)

    own, outer = Counting(), Counting()
    with Flow("child", executor=own) as child:
        task(lambda: 1, name="one")()
    with Flow("parent") as flow:
        subflow(child)()
    await FlowRunner(flow).run(executor=outer)
    assert (own.count, outer.count) == (1, 0)


async def test_it_runs_on_the_same_loop_in_the_same_thread():
    where = []

    @task
    async def look():
        where.append((asyncio.get_running_loop(), threading.get_ident()))

    with Flow("child") as child:
        look()
    with Flow("parent") as flow:
        subflow(child)()
    await flow.run()
    assert where == [(asyncio.get_running_loop(), threading.get_ident())]


async def test_a_limit_of_the_parent_does_not_lock_the_child_out():
    child, _ = adding()
    with Flow("parent") as flow:
        subflow(child).map(a=[1, 2, 3])
    assert (await FlowRunner(flow, limits=Limits(concurrency=1)).run()).is_successful()


# -- stopping ------------------------------------------------------------------------------------------


def waiting_parent(**task_args):
    ended = []

    @task
    async def waits():
        try:
            await anyio.sleep(1000)
        finally:
            ended.append("waits")

    with Flow("child") as child:
        first = waits()
        add(first, 1)
    with Flow("parent") as flow:
        done = subflow(child, **task_args)()
    return flow, done, ended


@pytest.mark.parametrize("cause", ["user", "timeout", "shutdown"])
@pytest.mark.parametrize("limits", [None, Limits(concurrency=5)])
def test_the_child_is_cancelled_with_the_parent_for_the_same_cause(cause, limits):
    flow, done, ended = waiting_parent()
    changes = []

    async def main():
        runner = FlowRunner(flow, limits=limits)
        handler = [lambda r, old, new: changes.append(type(new).__name__)]
        async with anyio.create_task_group() as group:
            states = []

            async def run():
                states.append(await runner.run(task_runner_state_handlers=handler))

            group.start_soon(run)
            await anyio.sleep(10)
            runner.cancel(cause)
        return states[0]

    state = run_virtually(main())
    assert isinstance(state, Cancelled)
    nested = state.result[done]
    assert isinstance(nested, Cancelled)
    assert nested.context["cause"] == cause
    assert {slug: one.context["cause"] for slug, one in nested.result.items()} == {"waits-1": cause, "add-1": cause}
    assert ended == ["waits"]
    assert changes == ["Running", "Cancelled"]


def test_cancelling_the_caller_ends_the_child_too():
    flow, _, ended = waiting_parent()
    finals = []
    flow.state_handlers.append(lambda f, old, new: finals.append(new))

    async def main():
        running = asyncio.create_task(flow.run())
        await anyio.sleep(10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run_virtually(main())
    (nested,) = finals[-1].result.values()
    assert nested.context["cause"] == "shutdown"
    assert all(isinstance(one, Cancelled) for one in nested.result.values())
    assert ended == ["waits"]


def test_a_timeout_stops_the_child_and_says_so():
    flow, done, ended = waiting_parent(timeout=5)
    causes = []

    def handler(f, old, new):
        causes.extend([new.context["cause"]] if isinstance(new, Cancelled) else [])

    flow.get_tasks(task_type=FlowTask)[0].flow.state_handlers.append(handler)
    state = run_virtually(flow.run())
    assert isinstance(state.result[done], TimedOut)
    assert causes == ["timeout"]
    assert ended == ["waits"]


def test_a_child_that_waits_for_a_retry_is_cancelled_too():
    @task(max_retries=1, retry_delay=86400)
    async def flaky():
        raise ValueError

    with Flow("child") as child:
        flaky()
    with Flow("parent") as flow:
        done = subflow(child)()

    async def main():
        runner = FlowRunner(flow)
        asyncio.get_running_loop().call_later(3600, runner.cancel)
        return await runner.run()

    nested = run_virtually(main()).result[done]
    assert nested.context["cause"] == "user"
    assert nested.result["flaky-1"].context["cause"] == "user"


# -- wiring --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (lambda sub: sub(1), "by name, not by position"),
        (lambda sub: sub(), "needs the parameter 'a'"),
        (lambda sub: sub(a=1, c=2), "has no parameter 'c'; it has: a, b"),
    ],
)
def test_wrong_parameters_are_refused_when_the_flow_is_built(wire, message):
    child, _ = adding()
    sub = subflow(child)
    with pytest.raises(FlowDefinitionError, match=message), Flow("parent"):
        wire(sub)


def test_what_is_no_flow_or_cannot_be_called_is_refused():
    with pytest.raises(FlowDefinitionError, match="made of a Flow"):
        subflow(lambda: 1)
    with Flow("child") as child:
        Parameter("mapped", default=1)
    with pytest.raises(FlowDefinitionError, match="'mapped' has a name that calling a task takes"):
        subflow(child)


def test_its_inputs_are_the_parameters():
    with Flow("child") as child:
        Parameter("a", type=int)
        Parameter("b", default=None)
    inputs = subflow(child).inputs()
    assert {name: one["required"] for name, one in inputs.items()} == {"a": True, "b": False}
    assert inputs["a"]["type"] is int


def test_the_registered_document_has_the_subflow_as_one_task():
    child, _ = adding()
    with Flow("parent") as flow:
        subflow(child, name="sub")(a=1)
    assert [one["name"] for one in flow.serialize()["tasks"]] == ["sub"]


async def test_stored_states_leave_out_what_is_never_stored():
    @task(checkpoint=False)
    async def secret():
        return threading.Lock()

    @task
    async def kept():
        return 5

    with Flow("child") as child:
        secret()
        kept()
    with Flow("parent") as flow:
        done = subflow(child)()
    states = (await flow.run()).result[done].result
    again = pickle.loads(cloudpickle.dumps(states))
    assert isinstance(again, SubflowStates)
    assert {slug: one.result for slug, one in again.items()} == {"secret-1": None, "kept-1": 5}
    assert [type(one) for one in again.values()] == [type(one) for one in states.values()]
