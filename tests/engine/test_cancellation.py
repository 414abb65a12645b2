"""Stopping a run: from where, with which cause, how long it takes, and what is left."""

from __future__ import annotations

import asyncio
import datetime
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, Limits, Rate, context, task
from flowloop.engine.cancellation import Cause, undisturbed
from flowloop.engine.context import now
from flowloop.engine.settings import Settings
from flowloop.engine.state import Cancelled, Failed, Mapped, Pending, Queued, Retrying, Running, State, Success
from flowloop.engine.testing import VirtualLoop

pytestmark = pytest.mark.virtual_time

GRACE = 5.0
SETTINGS = Settings(cancel_grace=GRACE, inline_retry_limit=1e9)


@task
async def forever() -> None:
    await anyio.sleep_forever()


@task
async def quick() -> int:
    return 1


def runner_of(flow: Flow, **options: Any) -> FlowRunner:
    return FlowRunner(flow, settings=SETTINGS, **options)


async def stopped(
    flow: Flow, after: float = 10, *, stop: Callable[[FlowRunner], None] = FlowRunner.cancel, **options: Any
) -> State:
    """Run a flow, stop it after some seconds, and return its final state."""
    runner = runner_of(flow, **options)
    asyncio.get_running_loop().call_later(after, stop, runner)
    return await runner.run()


def causes(state: State) -> set[Any]:
    return {one.context.get("cause") for one in state.result.values() if isinstance(one, Cancelled)}


# -- with a cause --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", ["user", "timeout", "shutdown", "sibling"])
async def test_every_run_ends_in_a_final_state_with_the_cause(cause: Cause) -> None:
    with Flow("stopped") as flow:
        done, running = quick(), forever()
        waiting = quick(upstream_tasks=[running])
    state = await stopped(flow, stop=lambda runner: runner.cancel(cause))
    assert anyio.current_time() == 10
    assert type(state.result[done]) is Success
    for one in (running, waiting):
        assert type(state.result[one]) is Cancelled
        assert state.result[one].context["cause"] == cause
    assert state.context["cause"] == cause
    assert type(state) is (Failed if cause == "sibling" else Cancelled)


async def test_the_first_cause_stays() -> None:
    def twice(runner: FlowRunner) -> None:
        runner.cancel("timeout")
        runner.cancel("user")

    with Flow("stopped twice") as flow:
        forever()
    state = await stopped(flow, stop=twice)
    assert causes(state) == {"timeout"}


async def test_handlers_hear_of_it() -> None:
    seen: list[Any] = []

    def handler(owner: Any, old: State, new: State) -> None:
        seen.append((type(owner).__name__, type(old), type(new)))

    with Flow("heard", state_handlers=[handler]) as flow:
        running = forever(task_args={"state_handlers": [handler]})
        quick(upstream_tasks=[running], task_args={"state_handlers": [handler]})
    await stopped(flow)
    *tasks, last = [one for one in seen if one[2] is Cancelled]
    assert set(tasks) == {("FunctionTask", Pending, Cancelled), ("FunctionTask", Running, Cancelled)}
    assert last == ("Flow", Running, Cancelled)


async def test_cancelling_a_run_that_is_over_changes_nothing() -> None:
    with Flow("over") as flow:
        quick()
    runner = runner_of(flow)
    state = await runner.run()
    assert state.is_successful()
    assert runner.progress().finished == 1


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_body_does_not_begin_when_its_run_is_stopped_while_it_is_told_to(is_async: bool) -> None:
    runner: FlowRunner
    begun: list[int] = []

    def stop(owner: Any, old: State, new: State) -> None:
        if isinstance(new, Running):
            runner.cancel("user")

    async def later() -> None:
        begun.append(1)

    with Flow("told") as flow:
        done = task(later if is_async else lambda: begun.append(1), name="one", state_handlers=[stop])()
    runner = runner_of(flow)
    state = await runner.run()
    assert type(state.result[done]) is Cancelled
    assert begun == []


@pytest.mark.parametrize("is_mapped", [True, False])
async def test_what_was_put_back_into_a_queue_is_cancelled_with_the_rest(is_mapped: bool) -> None:
    def put_back(owner: Any, old: State, new: State) -> State | None:
        if not isinstance(new, Running) or context.map_index == 1:
            return None
        return Queued("not now", start_time=now() + datetime.timedelta(days=1))

    waits = task(lambda n: anyio.sleep(n), name="waits", state_handlers=[put_back])
    with Flow("queued") as flow:
        forever()
        put = waits.map([1000, 1000]) if is_mapped else waits(1000)
    runner = FlowRunner(flow, settings=Settings(cancel_grace=GRACE, inline_retry_limit=60))
    asyncio.get_running_loop().call_later(10, runner.cancel)
    state = await runner.run()
    ended = state.result[put].map_states if is_mapped else [state.result[put]]
    assert [type(one) for one in ended] == [Cancelled] * len(ended)
    assert {one.message for one in ended} == {state.message}


# -- from inside ---------------------------------------------------------------------------------------


async def test_a_body_may_stop_its_own_run() -> None:
    runner: FlowRunner

    @task
    async def enough(n: int) -> int:
        runner.cancel("user")
        if n:
            await anyio.sleep(n)
        return n

    for seconds, kind in [(0, Success), (1, Cancelled)]:
        with Flow("enough") as flow:
            made = enough(seconds)
            after = quick(upstream_tasks=[made])
        runner = runner_of(flow)
        state = await runner.run()
        assert type(state) is Cancelled
        # a body that had all it needed has succeeded, whatever came of the run
        assert type(state.result[made]) is kind
        assert type(state.result[after]) is Cancelled
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_a_body_stored_before_it_was_stopped_is_still_recorded(tmp_path: Any) -> None:
    from flowloop.engine.results import LocalResult

    runner: FlowRunner
    told: list[State] = []

    async def handler(owner: Any, old: State, new: State) -> None:
        await anyio.sleep(1)
        told.append(new)

    @task(result=LocalResult(tmp_path, location="found"), state_handlers=[handler])
    async def enough() -> str:
        runner.cancel("user")
        return "found"

    with Flow("stored") as flow:
        made = enough()
    runner = runner_of(flow)
    state = await runner.run(context={"checkpointing": True})
    assert type(state.result[made]) is Success
    assert told[-1] is state.result[made]
    assert (tmp_path / "found").exists()


async def test_a_state_handler_may_stop_the_run() -> None:
    runner: FlowRunner

    def handler(owner: Any, old: State, new: State) -> None:
        if new.is_successful():
            runner.cancel("user")

    with Flow("handled") as flow:
        done = quick(task_args={"state_handlers": [handler]})
        running = forever()
    runner = runner_of(flow)
    state = await runner.run()
    assert [type(state.result[one]) for one in (done, running)] == [Success, Cancelled]


async def test_a_body_that_cancels_its_own_asyncio_task_fails_and_the_rest_goes_on() -> None:
    @task
    async def odd() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await anyio.sleep(1)

    with Flow("odd") as flow:
        made, other = odd(), quick()
    with anyio.fail_after(60):
        state = await runner_of(flow).run()
    assert type(state.result[made]) is Failed
    assert type(state.result[other]) is Success


async def test_what_a_body_awaited_was_cancelled_by_somebody_else() -> None:
    @task
    async def awaits() -> None:
        inner = asyncio.create_task(anyio.sleep(60))
        asyncio.get_running_loop().call_later(1, inner.cancel)
        await inner

    with Flow("inner") as flow:
        made, other = awaits(), quick()
    state = await runner_of(flow).run()
    assert type(state.result[made]) is Failed
    assert "from within" in str(state.result[made].message)
    assert type(state.result[other]) is Success


# -- from outside --------------------------------------------------------------------------------------


def kept(flow: Flow) -> list[State]:
    """Keep what the handlers of a flow are told, as its caller gets no state when it is cancelled."""
    found: list[State] = []
    flow.state_handlers.append(lambda flow, old, new: found.append(new))
    return found


async def test_the_caller_that_is_cancelled_sees_it_after_everything_has_ended() -> None:
    with Flow("cancelled") as flow:
        running = forever()
    told = kept(flow)
    caller = asyncio.create_task(runner_of(flow).run())
    await anyio.sleep(10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert type(told[-1]) is Cancelled
    assert told[-1].result[running].context["cause"] == "shutdown"


async def test_a_timeout_around_the_run() -> None:
    with Flow("timed") as flow:
        forever()
    told = kept(flow)
    with anyio.move_on_after(7) as scope:
        await runner_of(flow).run()
    assert scope.cancelled_caught
    assert anyio.current_time() == 7
    assert causes(told[-1]) == {"timeout"}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runner_of(flow).run(), 7)
    assert anyio.current_time() == 14
    assert type(told[-1]) is Cancelled
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7):
            await runner_of(flow).run()


async def test_a_scope_around_the_run() -> None:
    with Flow("scoped") as flow:
        forever()
    told = kept(flow)
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(3, scope.cancel)
        await runner_of(flow).run()
    assert scope.cancelled_caught
    assert causes(told[-1]) == {"shutdown"}
    # and the task is free for anything else
    await anyio.sleep(1)
    current = asyncio.current_task()
    assert current is not None
    assert not current.cancelling()


async def test_a_run_in_a_task_group_whose_other_member_fails() -> None:
    with Flow("grouped") as flow:
        forever()
    told = kept(flow)

    async def fails() -> None:
        await anyio.sleep(1)
        raise ValueError("outside")

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner_of(flow).run)
            tasks.start_soon(fails)

    with pytest.raises(ExceptionGroup) as group:
        await both()
    assert group.group_contains(ValueError)
    assert type(told[-1]) is Cancelled


async def test_a_run_inside_a_body_is_stopped_with_the_outer_one_and_its_cause() -> None:
    inner_told: list[State] = []
    with Flow("inner") as inner:
        forever()
    inner.state_handlers.append(lambda flow, old, new: inner_told.append(new))

    @task
    async def runs_inner() -> None:
        await runner_of(inner).run()

    with Flow("outer") as outer:
        made = runs_inner()
    state = await stopped(outer, stop=lambda runner: runner.cancel("timeout"))
    assert state.result[made].context["cause"] == "timeout"
    assert type(inner_told[-1]) is Cancelled
    assert causes(inner_told[-1]) == {"timeout"}


# -- fail fast -----------------------------------------------------------------------------------------


async def test_fail_fast_stops_the_siblings_of_the_first_failure() -> None:
    @task
    async def fails() -> None:
        await anyio.sleep(3)
        raise ValueError

    with Flow("fast") as flow:
        first, running = fails(), forever()
        waiting = quick(upstream_tasks=[running])
    state = await runner_of(flow, fail_fast=True).run()
    assert anyio.current_time() == 3
    assert type(state) is Failed
    assert type(state.result[first]) is Failed
    assert [type(state.result[one]) for one in (running, waiting)] == [Cancelled, Cancelled]
    assert causes(state) == {"sibling"}


async def test_fail_fast_is_off_unless_asked_for() -> None:
    @task
    async def fails() -> None:
        raise ValueError

    with Flow("slow") as flow:
        fails()
        other = task(anyio.sleep, name="sleeps")(5)
    state = await runner_of(flow).run()
    assert type(state) is Failed
    assert type(state.result[other]) is Success


async def test_fail_fast_waits_for_the_last_retry_and_counts_children() -> None:
    async def flaky(n: int) -> int:
        if n == 1:
            raise ValueError
        await anyio.sleep(1000)
        return n

    with Flow("children") as flow:
        made: Any = task(flaky, max_retries=1, retry_delay=60).map([0, 1, 2])
    state = await runner_of(flow, fail_fast=True).run()
    assert anyio.current_time() == 60
    assert [type(child) for child in state.result[made].map_states] == [Cancelled, Failed, Cancelled]


# -- what takes its time -------------------------------------------------------------------------------


async def test_a_body_that_cleans_up_within_the_grace_is_awaited() -> None:
    cleaned: list[float] = []

    @task
    async def careful() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(GRACE - 1)
            cleaned.append(anyio.current_time())

    with Flow("careful") as flow:
        made = careful()
    state = await stopped(flow)
    assert cleaned == [10 + GRACE - 1]
    assert anyio.current_time() == 10 + GRACE - 1
    assert type(state.result[made]) is Cancelled


async def test_a_body_that_cleans_up_for_longer_is_cut_short() -> None:
    cut: list[float] = []

    @task
    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            try:
                await anyio.sleep(1000)
            finally:
                cut.append(anyio.current_time())

    with Flow("slow") as flow:
        made = slow()
    state = await stopped(flow)
    assert cut == [10 + GRACE]
    assert anyio.current_time() == 10 + GRACE
    assert type(state.result[made]) is Cancelled


async def test_a_body_that_swallows_its_cancel_and_returns_has_returned() -> None:
    @task
    async def swallows() -> str:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            return "saved"
        return "never"

    with Flow("swallows") as flow:
        made = swallows()
    state = await stopped(flow)
    assert type(state) is Cancelled
    assert state.result[made].result == "saved"


async def test_a_body_that_fails_while_it_cleans_up_has_failed() -> None:
    @task
    async def breaks() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("while cleaning up")

    with Flow("breaks") as flow:
        made = breaks()
    state = await stopped(flow)
    assert type(state) is Cancelled
    assert isinstance(state.result[made].result, OSError)


@pytest.mark.parametrize("mapped", [False, True])
async def test_a_body_that_cannot_be_stopped_is_left_behind_and_its_late_result_dropped(
    mapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    over = asyncio.Event()

    @task
    async def stubborn(n: int) -> str:
        end = anyio.current_time() + 1000
        while anyio.current_time() < end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(end - anyio.current_time())
        over.set()
        return "late"

    with Flow("stubborn") as flow:
        made: Any = stubborn.map([1]) if mapped else stubborn(1)
    changes: list[State] = []
    flow.get_tasks(name="stubborn")[0].state_handlers.append(lambda owner, old, new: changes.append(new))
    state = await stopped(flow)
    assert anyio.current_time() == 10 + 2 * GRACE
    ended = state.result[made].map_states[0] if mapped else state.result[made]
    assert type(ended) is Cancelled
    await over.wait()
    await anyio.sleep(1)
    after = state.result[made].map_states[0] if mapped else state.result[made]
    assert after is ended
    assert not any(change.is_successful() and not isinstance(change, Mapped) for change in changes)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_handler_that_cannot_be_stopped_changes_nothing_when_it_ends_late() -> None:
    over = asyncio.Event()

    async def stubborn(owner: Any, old: State, new: State) -> None:
        end = anyio.current_time() + 1000
        while new.is_running() and anyio.current_time() < end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(end - anyio.current_time())
        over.set()

    @task(state_handlers=[stubborn])
    async def slow(n: int) -> int:
        return n

    with Flow("stubborn") as flow:
        made = slow.map([1])
    state = await stopped(flow)
    [ended] = state.result[made].map_states
    assert type(ended) is Cancelled
    over.clear()
    await over.wait()
    await anyio.sleep(1)
    assert state.result[made].map_states == [ended]
    assert state.result[made].map_states[0] is ended


async def test_a_caller_that_is_cancelled_while_the_run_is_stopped_hears_of_it() -> None:
    @task
    async def careful() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(1)

    with Flow("stopped twice") as flow:
        careful()
    told = kept(flow)
    runner = runner_of(flow)
    caller = asyncio.create_task(runner.run())
    await anyio.sleep(1)
    runner.cancel()
    await anyio.sleep(0.5)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert anyio.current_time() == 2
    assert [type(one) for one in told if one.is_finished()] == [Cancelled]


async def test_many_cancels_do_not_make_the_grace_longer_or_leave_anything() -> None:
    @task
    async def careful(seconds: float) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(seconds)

    with Flow("many cancels") as flow:
        careful.map([1, GRACE - 0.5, 1000])
    told = kept(flow)
    caller = asyncio.create_task(runner_of(flow).run())
    for _ in range(30):
        await anyio.sleep(0.7)
        caller.cancel()
    began = 0.7
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert anyio.current_time() <= 30 * 0.7
    assert type(told[-1]) is Cancelled
    assert sum(one.is_finished() for one in told) == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert began + GRACE <= anyio.current_time()


async def test_a_thread_is_abandoned() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    release, begun = threading.Event(), asyncio.Event()

    @task
    def stuck() -> None:
        loop.call_soon_threadsafe(begun.set)
        release.wait()

    with Flow("stuck") as flow:
        made = stuck()
    runner = runner_of(flow)
    running = asyncio.create_task(runner.run())
    await begun.wait()
    runner.cancel()
    state = await running
    assert type(state.result[made]) is Cancelled
    release.set()


async def test_recording_states_gets_the_grace_and_no_more() -> None:
    async def hangs(owner: Any, old: State, new: State) -> None:
        if new.is_finished():
            await anyio.sleep_forever()

    with Flow("hangs") as flow:
        forever(task_args={"state_handlers": [hangs]})
        quick(task_args={"state_handlers": [hangs]})
    state = await stopped(flow)
    assert anyio.current_time() <= 10 + 2 * GRACE
    assert all(one.is_finished() for one in state.result.values())


# -- what waits ----------------------------------------------------------------------------------------


async def test_a_retry_that_waits_is_stopped() -> None:
    changes: list[State] = []

    @task(max_retries=1, retry_delay=3600, state_handlers=[lambda owner, old, new: changes.append(new)])
    async def flaky() -> None:
        raise ValueError

    with Flow("waits") as flow:
        made = flaky()
    state = await stopped(flow)
    assert anyio.current_time() == 10
    assert type(state.result[made]) is Cancelled
    assert [type(change) for change in changes] == [Running, Failed, Retrying, Cancelled]


async def test_what_waits_for_a_place_or_for_its_turn_is_stopped() -> None:
    with Flow("places") as flow:
        for _ in range(3):
            forever()
    for limits in (Limits(concurrency=1), Limits(rate=Rate(1, 3600.0)), Limits(tasks={"forever": 1})):
        began = anyio.current_time()
        state = await stopped(flow, limits=limits)
        assert anyio.current_time() == began + 10
        assert [type(one) for one in state.result.values()] == [Cancelled] * 3


async def test_children_that_never_began_are_cancelled() -> None:
    async def slow(n: int) -> int:
        await anyio.sleep(6)
        return n

    with Flow("children") as flow:
        made: Any = task(slow).map(list(range(5)))
        after: Any = quick.map(upstream_tasks=[made])
    state = await stopped(flow, limits=Limits(tasks={"slow": 1}))
    assert [type(child) for child in state.result[made].map_states] == [Success, *[Cancelled] * 4]
    assert [type(child) for child in state.result[after].map_states] == [Success, *[Cancelled] * 4]


async def test_paused_and_scheduled_runs_are_cancelled_with_the_rest() -> None:
    from flowloop.engine.signals import PAUSE, RETRY

    @task
    async def pauses() -> None:
        raise PAUSE("wait")

    @task
    async def later() -> None:
        raise RETRY(start_time=datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))

    with Flow("waiting") as flow:
        pauses()
        later()
        forever()
    runner = FlowRunner(flow, settings=Settings(inline_retry_limit=1, cancel_grace=GRACE))
    asyncio.get_running_loop().call_later(10, runner.cancel)
    asyncio.get_running_loop().call_later(5, lambda: seen.append(runner.progress().finished))
    seen: list[int] = []
    state = await runner.run()
    assert [type(one) for one in state.result.values()] == [Cancelled] * 3
    assert seen == [0]  # what waits is not over
    assert (runner.progress().finished, runner.progress().total) == (3, 3)


async def test_what_is_known_of_a_stopped_run_adds_up() -> None:
    with Flow("adds up") as flow:
        quick()
        forever()
        quick.map(upstream_tasks=[[1, 2]])
    runner = runner_of(flow)
    asyncio.get_running_loop().call_later(10, runner.cancel)
    state = await runner.run()
    progress = runner.progress()
    assert progress.finished == progress.total
    assert progress.states["Cancelled"] == sum(isinstance(one, Cancelled) for one in state.result.values())


async def test_limits_are_free_again_after_a_stopped_run() -> None:
    with Flow("again") as flow:
        forever()
        forever()
    runner = runner_of(flow, limits=Limits(concurrency=1))
    for _ in range(3):
        asyncio.get_running_loop().call_later(10, runner.cancel)
        assert type(await runner.run()) is Cancelled


# -- undisturbed ---------------------------------------------------------------------------------------


async def test_undisturbed_work_ends_before_the_cancel_is_seen() -> None:
    done: list[str] = []

    async def work(seconds: float) -> str:
        try:
            await anyio.sleep(seconds)
            done.append("done")
        except asyncio.CancelledError:
            done.append("cut")
            raise
        return "answer"

    assert await undisturbed(work(1), 5) == "answer"
    for seconds, expected in [(4, "done"), (1000, "cut")]:
        done.clear()
        caller = asyncio.create_task(undisturbed(work(seconds), 5))
        await anyio.sleep(1)
        caller.cancel()
        await anyio.sleep(1)
        caller.cancel()
        began = anyio.current_time()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert done == [expected]
        assert anyio.current_time() - began < 5


async def test_undisturbed_work_may_fail() -> None:
    async def fails() -> None:
        raise KeyError("why")

    with pytest.raises(KeyError):
        await undisturbed(fails(), 5)


async def test_the_context_is_that_of_the_caller() -> None:
    async def look() -> Any:
        return context.get("mine")

    with context(mine=5):
        assert await undisturbed(look(), 5) == 5
