"""Retries, loops and timeouts of whole flows, on virtual time."""

from __future__ import annotations

import asyncio
import datetime
import random
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, Limits, context, task
from flowloop.engine.context import now
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.results import PrefectResult
from flowloop.engine.retries import delay_after, exponential_backoff
from flowloop.engine.settings import Settings
from flowloop.engine.signals import LOOP, RETRY, SUCCESS
from flowloop.engine.state import (
    Failed,
    Looped,
    Pending,
    Queued,
    Retrying,
    Running,
    State,
    Success,
    TimedOut,
)
from flowloop.engine.testing import VirtualLoop

pytestmark = pytest.mark.virtual_time

SECOND = datetime.timedelta(seconds=1)
HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)
PATIENT = Settings(inline_retry_limit=1e9)


class Flaky:
    """A body that fails some times, and writes down when it ran."""

    def __init__(self, failures: int, error: Callable[[], BaseException] = ValueError) -> None:
        self.failures = failures
        self.error = error
        self.times: list[float] = []
        self.counts: list[int] = []

    async def __call__(self) -> int:
        self.times.append(anyio.current_time())
        self.counts.append(context.task_run_count)
        if len(self.times) <= self.failures:
            raise self.error()
        return len(self.times)

    def flow(self, **task_args: Any) -> Flow:
        async def flaky() -> int:
            return await self()

        with Flow("flaky") as flow:
            task(flaky, **task_args)()
        return flow


async def final(flow: Flow, *, settings: Settings = PATIENT, **given: Any) -> State:
    """Run a flow of one task, and return the state of that task."""
    state = await FlowRunner(flow, settings=settings).run(**given)
    (found,) = state.result.values()
    assert isinstance(found, State)
    return found


# -- delays --------------------------------------------------------------------------------------------

DELAYS = [
    (10, [10, 10, 10]),
    (0, [0, 0, 0]),
    (0.5, [0.5, 0.5, 0.5]),
    (DAY, [86400, 86400, 86400]),
    ([1, 60], [1, 60, 60]),
    ((HOUR, 0, 5), [3600, 0, 5]),
    (lambda run_count: run_count * 100, [100, 200, 300]),
    (lambda run_count: run_count * SECOND, [1, 2, 3]),
]


@pytest.mark.parametrize(("delay", "waits"), DELAYS, ids=[str(waits) for _, waits in DELAYS])
async def test_delays(delay: Any, waits: list[float]) -> None:
    flaky = Flaky(3)
    state = await final(flaky.flow(max_retries=3, retry_delay=delay))
    assert state.result == 4
    assert flaky.times == [sum(waits[:n]) for n in range(4)]
    assert flaky.counts == [1, 2, 3, 4]


@pytest.mark.parametrize("nonsense", [-1, "soon", None, True, [1]])
def test_a_delay_that_is_none_names_the_task(nonsense: Any) -> None:
    with pytest.raises(FlowDefinitionError, match=r"task 'fetch': retry_delay gave .* after attempt 2"):
        delay_after(lambda run_count: nonsense, 2, "fetch")


async def test_a_delay_that_is_none_fails_the_task() -> None:
    state = await final(Flaky(9).flow(max_retries=1, retry_delay=lambda run_count: "soon"))
    assert type(state) is Failed
    assert "'flaky'" in str(state.message)


def test_exponential_backoff_has_full_jitter_and_a_cap() -> None:
    delay = exponential_backoff(2, cap=100, rng=random.Random(1))
    for run_count, most in [(1, 2), (2, 4), (3, 8), (6, 64), (7, 100), (50, 100), (100_000, 100)]:
        drawn = [delay(run_count) for _ in range(300)]
        assert all(0 <= one <= most for one in drawn)
        assert min(drawn) < most * 0.1
        assert max(drawn) > most * 0.9


async def test_tasks_that_failed_together_do_not_try_again_together() -> None:
    times: list[float] = []

    async def flaky(n: int) -> None:
        times.append(anyio.current_time())
        if context.task_run_count == 1:
            raise ValueError

    with Flow("herd") as flow:
        task(flaky, max_retries=1, retry_delay=exponential_backoff(3600)).map(list(range(50)))
    await FlowRunner(flow, settings=PATIENT).run()
    assert len(set(times[50:])) == 50


# -- how often, and at what ----------------------------------------------------------------------------


async def test_after_the_last_retry_the_task_has_failed() -> None:
    flaky = Flaky(9)
    state = await final(flaky.flow(max_retries=2, retry_delay=DAY))
    assert type(state) is Failed
    assert isinstance(state.result, ValueError)
    assert len(flaky.times) == 3


async def test_only_the_errors_named_are_worth_another_attempt() -> None:
    flaky = Flaky(9, KeyError)
    assert (await final(flaky.flow(max_retries=5, retry_delay=1, retry_on=(ValueError, LookupError)))).is_failed()
    assert len(flaky.times) == 6
    flaky = Flaky(9, KeyError)
    assert (await final(flaky.flow(max_retries=5, retry_delay=1, retry_on=ValueError))).is_failed()
    assert len(flaky.times) == 1


async def test_a_retry_signal_does_not_count_the_retries() -> None:
    flaky = Flaky(5, lambda: RETRY(start_time=now() + HOUR))
    state = await final(flaky.flow())
    assert state.result == 6
    assert flaky.times == [n * 3600 for n in range(6)]
    assert flaky.counts == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("delays", "options", "times"),
    [
        ({"max_retries": 1, "retry_delay": 7}, {}, [0, 7, 14, 21, 28]),
        ({"max_retries": 1, "retry_delay": [1, 5]}, {}, [0, 1, 6, 11, 16]),
        ({}, {}, [0, 1, 3, 7, 15]),
        ({}, {"inline_retry_limit": 2.5}, [0, 1, 3, 5.5, 8]),
        ({}, {"inline_retry_limit": 1e9}, [0, 1, 3, 7, 15]),
    ],
)
async def test_a_retry_signal_that_does_not_say_when_waits_for_longer_and_longer(delays, options, times) -> None:
    flaky = Flaky(4, RETRY)
    state = await final(flaky.flow(**delays), settings=Settings(**options))
    assert state.result == 5
    assert flaky.times == times


async def test_one_warning_says_that_it_has_been_asked_for_often(caplog: pytest.LogCaptureFixture) -> None:
    flaky = Flaky(13, RETRY)
    assert (await final(flaky.flow())).result == 14
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "flaky" in warnings[0]
    assert "10" in warnings[0]


@pytest.mark.parametrize("delays", [{}, {"max_retries": 1, "retry_delay": 0}])
async def test_a_run_that_waits_for_nothing_comes_back_to_be_retried(delays: dict[str, Any]) -> None:
    flaky = Flaky(1_000, RETRY)
    flow = flaky.flow(**delays)
    [only] = flow.tasks
    state = await FlowRunner(flow, settings=Settings(inline_retry_limit=0)).run()
    assert not state.is_finished()
    assert type(state.result[only]) is Retrying
    assert len(flaky.times) == 1


async def test_a_handler_may_ask_for_another_attempt_without_saying_when() -> None:
    def again(task: Any, old: State, new: State) -> None:
        if new.is_failed():
            raise RETRY

    flaky = Flaky(3)
    assert (await final(flaky.flow(state_handlers=[again]))).result == 4
    assert flaky.times == [0, 1, 3, 7]


async def test_a_timeout_is_retried_too() -> None:
    begun: list[float] = []

    @task(timeout=60, max_retries=2, retry_delay=HOUR)
    async def slow() -> str:
        begun.append(anyio.current_time())
        if len(begun) < 3:
            await anyio.sleep_forever()
        return "done"

    with Flow("slow") as flow:
        slow()
    assert (await final(flow)).result == "done"
    assert begun == [0, 3660, 7320]


async def test_handlers_see_each_change_of_a_retry() -> None:
    seen: list[Any] = []

    def handler(owner: Any, old: State, new: State) -> None:
        seen.append((type(old), type(new), now()))

    flaky = Flaky(1)
    start = now()
    await final(flaky.flow(max_retries=1, retry_delay=DAY, state_handlers=[handler]))
    assert seen == [
        (Pending, Running, start),
        (Running, Failed, start),
        (Failed, Retrying, start),
        (Retrying, Running, start + DAY),
        (Running, Success, start + DAY),
    ]


async def test_a_retry_holds_no_place_while_it_waits() -> None:
    order: list[str] = []

    async def flaky() -> None:
        order.append(f"flaky {context.task_run_count}")
        if context.task_run_count == 1:
            raise ValueError

    async def other() -> None:
        order.append("other")

    with Flow("one place") as flow:
        task(flaky, max_retries=1, retry_delay=HOUR)()
        task(other)()
    await FlowRunner(flow, settings=PATIENT, limits=Limits(concurrency=1)).run()
    assert order == ["flaky 1", "other", "flaky 2"]


async def test_thousands_of_retries_wait_at_the_same_time() -> None:
    async def flaky(n: int) -> int:
        if context.task_run_count == 1:
            raise ValueError
        return n

    with Flow("many") as flow:
        mapped: Any = task(flaky, max_retries=1, retry_delay=DAY).map(list(range(2_000)))
    state = await FlowRunner(flow, settings=PATIENT).run()
    assert state.result[mapped].result == list(range(2_000))
    assert anyio.current_time() == DAY.total_seconds()


# -- the inline limit ----------------------------------------------------------------------------------


async def test_a_retry_due_within_a_minute_is_waited_for_and_a_later_one_ends_the_run() -> None:
    soon, later = Flaky(1), Flaky(1)
    assert (await final(soon.flow(max_retries=1, retry_delay=60), settings=Settings())).is_successful()
    flow = later.flow(max_retries=1, retry_delay=61)
    state = await FlowRunner(flow, settings=Settings()).run()
    assert type(state) is Running
    assert not state.is_finished()
    (waiting,) = state.result.values()
    assert type(waiting) is Retrying
    assert later.times == [60]


async def test_a_run_that_ended_with_a_retry_goes_on_from_its_states() -> None:
    flaky = Flaky(1)
    flow = flaky.flow(max_retries=1, retry_delay=DAY)
    first = await FlowRunner(flow, settings=Settings()).run()
    early = await FlowRunner(flow, settings=Settings()).run(state=first, task_states=first.result)
    assert not early.is_finished()
    assert flaky.counts == [1]
    await anyio.sleep(DAY.total_seconds())
    second = await FlowRunner(flow, settings=Settings()).run(state=early, task_states=early.result)
    assert second.is_successful()
    assert flaky.counts == [1, 2]


async def test_what_does_not_wait_for_the_retry_goes_on() -> None:
    ran: list[str] = []
    flaky = Flaky(1)

    async def body() -> int:
        return await flaky()

    async def after(n: int) -> None:
        ran.append("after")

    async def other() -> None:
        ran.append("other")

    with Flow("both") as flow:
        first: Any = task(body, max_retries=1, retry_delay=DAY)()
        second: Any = task(after)(first)
        third: Any = task(other)()
    state = await FlowRunner(flow).run()
    assert [type(state.result[one]) for one in (first, second, third)] == [Retrying, Pending, Success]
    assert ran == ["other"]


async def test_a_queued_run_asks_again_when_it_is_due() -> None:
    """What a backend with limits answers: the run waits with the state it had."""
    asked: list[float] = []

    def queues(owner: Any, old: State, new: State) -> State:
        if new.is_running():
            asked.append(anyio.current_time())
            if len(asked) < 3:
                return Queued(state=old, start_time=now() + 30 * SECOND)
        return new

    with Flow("queued") as flow:
        task(lambda: 1, name="one", state_handlers=[queues])()
    assert (await final(flow, settings=Settings())).is_successful()
    assert asked == [0, 30, 60]


# -- loops ---------------------------------------------------------------------------------------------


async def test_a_loop_gets_its_result_and_its_round() -> None:
    seen: list[Any] = []

    @task
    async def loops() -> int:
        seen.append((context.get("task_loop_count", 1), context.get("task_loop_result"), context.task_run_count))
        total: int = (context.get("task_loop_result") or 0) + 10
        if total < 40:
            raise LOOP(result=total)
        return total

    with Flow("loops") as flow:
        loops()
    assert (await final(flow)).result == 40
    assert seen == [(1, None, 1), (2, 10, 1), (3, 20, 1), (4, 30, 1)]


async def test_handlers_see_each_round() -> None:
    seen: list[Any] = []

    @task(state_handlers=[lambda owner, old, new: seen.append((type(new).__name__, getattr(new, "loop_count", None)))])
    async def loops() -> None:
        if context.get("task_loop_count", 1) < 3:
            raise LOOP("again")

    with Flow("loops") as flow:
        loops()
    await final(flow)
    running = ("Running", None)
    assert [one for one in seen if one[0] != "Pending"] == [
        running,
        ("Looped", 1),
        running,
        ("Looped", 2),
        running,
        ("Success", None),
    ]


async def test_a_long_loop_needs_no_stack() -> None:
    @task
    async def loops() -> int:
        count: int = context.get("task_loop_count", 1)
        if count < 5_000:
            raise LOOP(result=count)
        return count

    with Flow("long") as flow:
        loops()
    assert (await final(flow)).result == 5_000


async def test_a_loop_checks_everything_again_in_each_round() -> None:
    """Also the trigger: a round goes through the whole pipeline."""
    asked: list[int] = []

    def trigger(states: Any) -> bool:
        asked.append(1)
        return True

    @task(trigger=trigger)
    async def loops() -> None:
        if context.get("task_loop_count", 1) < 3:
            raise LOOP

    with Flow("again") as flow:
        loops()
    await final(flow)
    assert len(asked) == 3


@pytest.mark.parametrize("inline", [True, False])
async def test_a_retry_inside_a_loop_goes_on_from_its_round(inline: bool) -> None:
    seen: list[Any] = []

    @task(max_retries=1, retry_delay=HOUR, result=PrefectResult())
    async def loops() -> int:
        count: int = context.get("task_loop_count", 1)
        seen.append((count, context.get("task_loop_result"), context.task_run_count))
        if count == 3 and context.task_run_count == 1:
            raise ValueError("in round three")
        if count < 4:
            raise LOOP(result=count * 10)
        return count

    with Flow("loop and retry") as flow:
        made: Any = loops()
    checkpointing = {"checkpointing": True}
    if inline:
        state = await FlowRunner(flow, settings=PATIENT).run(context=checkpointing)
    else:
        state = await FlowRunner(flow).run(context=checkpointing)
        assert type(state.result[made]) is Retrying
        await anyio.sleep(3600)
        state = await FlowRunner(flow).run(task_states=state.result, context=checkpointing)
    assert state.result[made].result == 4
    assert seen[:4] == [(1, None, 1), (2, 10, 1), (3, 20, 1), (3, 20, 2)]
    assert seen[4][:2] == (4, 30)


async def test_each_round_of_a_loop_has_its_own_retries() -> None:
    counts: list[Any] = []

    @task(max_retries=1, retry_delay=1)
    async def loops() -> None:
        counts.append((context.get("task_loop_count", 1), context.task_run_count))
        if context.task_run_count == 1:
            raise ValueError
        if context.get("task_loop_count", 1) < 3:
            raise LOOP

    with Flow("own retries") as flow:
        loops()
    assert (await final(flow)).is_successful()
    assert counts == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]


async def test_mapped_children_loop_each_for_itself() -> None:
    async def loops(n: int) -> list[int]:
        found: list[int] = [*(context.get("task_loop_result") or []), n]
        await anyio.sleep(n)
        if len(found) < n:
            raise LOOP(result=found)
        return found

    with Flow("mapped loops") as flow:
        mapped: Any = task(loops).map([1, 2, 3])
    state = await FlowRunner(flow).run()
    assert state.result[mapped].result == [[1], [2, 2], [3, 3, 3]]


async def test_a_looped_state_from_a_handler_is_no_loop() -> None:
    """Nothing waits for ever on a state that only looks like a round."""
    with Flow("odd") as flow:
        task(lambda: 1, name="one")()
    assert (await final(flow)).is_successful()
    state = await FlowRunner(flow).run(task_states=dict.fromkeys(flow.tasks, Looped(result=1)))
    assert state.is_finished()


# -- timeouts ------------------------------------------------------------------------------------------


async def test_an_async_body_is_cancelled_and_awaited() -> None:
    events: list[Any] = []

    @task(timeout=30)
    async def slow() -> None:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            events.append(("cancelled", anyio.current_time()))
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            events.append(("clean", anyio.current_time()))
            raise

    with Flow("slow") as flow:
        slow()
    state = await final(flow)
    events.append((type(state), anyio.current_time()))
    assert events == [("cancelled", 30), ("clean", 35), (TimedOut, 35)]
    assert "30 s" in str(state.message)


async def test_a_body_that_is_faster_is_left_alone() -> None:
    @task(timeout=30)
    async def fast() -> int:
        await anyio.sleep(29)
        return 1

    @task(timeout=datetime.timedelta(minutes=1))
    def in_a_thread() -> int:
        return 2

    with Flow("fast") as flow:
        one, two = fast(), in_a_thread()
    state = await FlowRunner(flow).run()
    assert (state.result[one].result, state.result[two].result) == (1, 2)


async def test_a_timeout_error_of_the_body_itself_is_an_error_like_any_other() -> None:
    @task(timeout=60)
    async def body() -> None:
        with anyio.fail_after(1):
            await anyio.sleep_forever()

    with Flow("own timeout") as flow:
        body()
    state = await final(flow)
    assert type(state) is Failed
    assert isinstance(state.result, TimeoutError)


async def test_what_is_downstream_of_a_timeout_sees_a_failure() -> None:
    @task(timeout=1)
    async def slow() -> None:
        await anyio.sleep_forever()

    with Flow("downstream") as flow:
        made = slow()
        after = task(lambda: 1, name="after")(upstream_tasks=[made])
    state = await FlowRunner(flow).run()
    assert state.is_failed()
    assert state.result[after].is_failed()


async def test_a_thread_is_abandoned_and_what_it_returns_is_dropped() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    release, over = threading.Event(), asyncio.Event()

    @task(timeout=1)
    def stuck() -> str:
        release.wait()
        loop.call_soon_threadsafe(over.set)
        return "late"

    with Flow("stuck") as flow:
        made = stuck()
        after = task(lambda x: x, name="after")(made)
    state = await FlowRunner(flow).run()
    assert type(state.result[made]) is TimedOut
    assert "abandoned" in str(state.result[made].message)
    release.set()
    with loop.awaiting_thread():
        await over.wait()
        await asyncio.sleep(0)
    assert type(state.result[made]) is TimedOut
    assert state.result[after].is_failed()


async def test_success_can_be_declared_with_a_signal_in_time() -> None:
    @task(timeout=5)
    async def body() -> None:
        await anyio.sleep(4)
        raise SUCCESS("enough", result=7)

    with Flow("enough") as flow:
        body()
    assert (await final(flow)).result == 7
