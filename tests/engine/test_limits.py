"""Limits of a flow run: how many at once, how often, in which order, and that every place is given back."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flowloop.engine import Flow, FlowRunner, Limits, Parameter, Rate, context, task
from flowloop.engine._turns import Places
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.executors import Needs
from flowloop.engine.settings import Settings
from flowloop.engine.signals import ENDRUN, LOOP, SKIP
from flowloop.engine.state import Cancelled, Skipped, State
from flowloop.engine.task import Task
from flowloop.engine.testing import run

pytestmark = pytest.mark.virtual_time

PATIENT = Settings(inline_retry_limit=1e9)


class Busy:
    """Counts who works at the same time."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.begun: list[tuple[Any, float]] = []

    def work(self, *names: str, seconds: float = 10, **task_args: Any) -> Any:
        async def work(n: int = 0) -> int:
            self.begun.append((n, anyio.current_time()))
            for name in names:
                self.now[name] += 1
                self.most[name] = max(self.most[name], self.now[name])
            try:
                await anyio.sleep(seconds)
            finally:
                for name in names:
                    self.now[name] -= 1
            return n

        return task(work, **{"name": names[0] if names else "work", **task_args})


async def limited(flow: Flow, limits: Limits) -> None:
    state = await FlowRunner(flow, limits=limits, settings=PATIENT).run()
    assert state.is_successful(), state.result


# -- at once -------------------------------------------------------------------------------------------


async def test_concurrency_of_the_flow_run() -> None:
    busy = Busy()
    with Flow("flow") as flow:
        busy.work("a", "all").map(list(range(7)))
        busy.work("b", "all")()
    await limited(flow, Limits(concurrency=3))
    assert busy.most["all"] == 3
    assert anyio.current_time() == 30


async def test_concurrency_of_a_task_by_its_name_or_its_slug() -> None:
    busy = Busy()
    with Flow("tasks") as flow:
        for name in ("a", "b", "c"):
            busy.work(name, slug="mine" if name == "b" else None).map([1, 2, 3, 4])
    await limited(flow, Limits(tasks={"a": 2, "mine": 1, "c-1": 3}))
    assert busy.most == {"a": 2, "b": 1, "c": 3}


async def test_concurrency_of_a_tag() -> None:
    busy = Busy()
    with Flow("tags") as flow:
        busy.work("db", tags={"database", "slow"}).map([1, 2, 3, 4])
        busy.work("other", tags={"database"}).map([1, 2, 3, 4])
        busy.work("free").map([1, 2, 3, 4])
    seen = Counter[float]()

    def handler(runner: Any, old: Any, new: Any) -> None:
        if new.is_running() and "database" in context.task_tags:
            seen[anyio.current_time()] += 1

    state = await FlowRunner(flow, limits=Limits(tags={"database": 2, "slow": 1})).run(
        task_runner_state_handlers=[handler]
    )
    assert state.is_successful()
    assert busy.most["db"] == 1
    assert busy.most["free"] == 4
    assert max(seen.values()) <= 2


async def test_who_waits_for_a_narrow_place_does_not_hold_a_wide_one() -> None:
    """Otherwise two runs of a tag with one place would fill a flow with two."""
    busy = Busy()
    with Flow("narrow") as flow:
        busy.work("narrow", tags={"one"}).map([1, 2, 3])
        busy.work("free")(7)
    await limited(flow, Limits(concurrency=2, tags={"one": 1}))
    assert (7, 0) in busy.begun
    assert anyio.current_time() == 30


async def test_parameters_and_constants_and_what_flowloop_computes_are_not_counted() -> None:
    busy = Busy()
    with Flow("uncounted") as flow:
        work = busy.work()
        work([Parameter("p", default=1), work(1)][1] + 1)
    await limited(flow, Limits(rate=Rate(1, 60.0)))
    assert [time for _, time in busy.begun] == [0, 60]


async def test_who_comes_first_goes_first() -> None:
    busy = Busy()
    with Flow("fair") as flow:
        busy.work().map(list(range(20)))
    await limited(flow, Limits(concurrency=3))
    assert [n for n, _ in busy.begun] == list(range(20))


async def test_mapped_parents_hold_nothing() -> None:
    busy = Busy()
    with Flow("parents") as flow:
        made = busy.work("a").map([1, 2])
        busy.work("b").map(made)
    await limited(flow, Limits(concurrency=1))
    assert anyio.current_time() == 40


@given(
    concurrency=st.one_of(st.none(), st.integers(1, 4)),
    tag=st.one_of(st.none(), st.integers(1, 3)),
    widths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    seconds=st.lists(st.sampled_from([0, 1, 5]), min_size=4, max_size=4),
)
@hypothesis_settings(max_examples=30, deadline=None)
def test_limits_hold_for_any_flow(
    concurrency: int | None, tag: int | None, widths: list[int], seconds: list[float]
) -> None:
    busy = Busy()
    with Flow("any") as flow:
        for number, width in enumerate(widths):
            work = busy.work(f"t{number}", "all", seconds=seconds[number], tags={"odd"} if number % 2 else set())
            work.map(list(range(width)))
    limits = Limits(concurrency=concurrency, tags={} if tag is None else {"odd": tag})
    run(limited(flow, limits))
    assert busy.now.total() == 0
    assert busy.most["all"] <= (concurrency or 1000)
    assert all(busy.most[f"t{number}"] <= (tag or 1000) for number in range(1, len(widths), 2))
    assert len(busy.begun) == sum(widths)


# -- every place is given back -------------------------------------------------------------------------


def ways_to_end() -> dict[str, Any]:
    async def succeeds() -> int:
        return 1

    async def fails() -> None:
        raise ValueError

    async def skips() -> None:
        raise SKIP

    async def loops() -> None:
        if context.get("task_loop_count", 1) < 3:
            raise LOOP

    async def retries() -> None:
        if context.task_run_count == 1:
            raise ValueError

    async def hangs() -> None:
        await anyio.sleep_forever()

    async def ends() -> None:
        raise ENDRUN(Cancelled("from the body"))

    def in_a_thread() -> int:
        return 1

    def stops(owner: Any, old: Any, new: Any) -> Any:
        return Skipped() if new.is_running() else new

    def breaks(owner: Any, old: Any, new: Any) -> Any:
        raise ZeroDivisionError

    return {
        "succeeds": task(succeeds),
        "fails": task(fails),
        "skips": task(skips),
        "loops": task(loops),
        "retries": task(retries, max_retries=1, retry_delay=3600),
        "times out": task(hangs, timeout=5),
        "ends the run": task(ends),
        "in a thread": task(in_a_thread),
        "handler stops it": task(succeeds, state_handlers=[stops]),
        "handler breaks": task(succeeds, state_handlers=[breaks]),
    }


@pytest.mark.parametrize("way", ways_to_end())
async def test_a_place_is_given_back_on_every_way_out(way: str) -> None:
    work: Task[..., Any] = ways_to_end()[way]
    with Flow("ways out") as flow:
        for _ in range(3):
            work.copy(tags={"one"})(flow=flow)
    limits = Limits(concurrency=1, tags={"one": 1}, tasks={work.name: 1})
    with anyio.fail_after(10 * 3600):
        state = await FlowRunner(flow, limits=limits, settings=PATIENT).run()
    assert all(one.is_finished() for one in state.result.values())
    if way == "ends the run":
        assert [type(one) for one in state.result.values()] == [Cancelled] * 3


async def test_the_limits_of_one_runner_are_not_those_of_another() -> None:
    busy = Busy()
    with Flow("own limits") as flow:
        busy.work("a", "all")()
    limits = Limits(concurrency=1)
    await asyncio.gather(*(FlowRunner(flow, limits=limits).run() for _ in range(3)))
    assert busy.most["all"] == 3


# -- how often -----------------------------------------------------------------------------------------


async def test_at_most_so_many_beginnings_in_a_period() -> None:
    busy = Busy()
    with Flow("rate") as flow:
        busy.work(seconds=0).map(list(range(7)))
    await limited(flow, Limits(rate=Rate(3, 60.0)))
    assert [time for _, time in busy.begun] == [0, 0, 0, 60, 60, 60, 120]
    assert [n for n, _ in busy.begun] == list(range(7))


async def test_a_rate_is_a_sliding_one() -> None:
    busy = Busy()
    with Flow("sliding") as flow:
        before: Any = None
        for n, wait in enumerate([0, 50, 5, 5, 5]):
            after = task(anyio.sleep, name="sleeps")(wait)
            if before is not None:
                after.set_upstream(before, flow=flow)
            before = busy.work(seconds=0)(n, upstream_tasks=[after])
    # the sleeping tasks begin, too, so only the count in each minute is asked for
    times: list[float] = []
    await FlowRunner(flow, limits=Limits(rate=Rate(4, 60.0))).run(
        task_runner_state_handlers=[
            lambda runner, old, new: times.append(anyio.current_time()) if new.is_running() else None
        ]
    )
    for time in times:
        assert sum(time <= other < time + 60 for other in times) <= 4


async def test_attempts_and_rounds_count_as_beginnings() -> None:
    begun: list[float] = []

    @task(max_retries=2, retry_delay=0)
    async def flaky() -> None:
        begun.append(anyio.current_time())
        if context.task_run_count <= 2:
            raise ValueError

    with Flow("attempts") as flow:
        flaky()
    await limited(flow, Limits(rate=Rate(1, 10.0)))
    assert begun == [0, 10, 20]


# -- what cannot be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": math.inf}, "concurrency"),
        ({"tasks": {"a": -1}}, "a"),
        ({"tags": {"t": 0}}, "t"),
        ({"tags": {"t": math.nan}}, "t"),
    ],
)
def test_a_limit_below_one_is_refused_by_name(given: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is at least 1"):
        Limits(**given)


@pytest.mark.parametrize(("count", "period"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, math.nan), (1, math.inf)])
def test_a_rate_of_nothing_is_refused(count: int, period: float) -> None:
    with pytest.raises(ValueError, match="a rate is at least 1"):
        Rate(count, period)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_time_limit_that_never_comes_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="a timeout is more than 0 seconds"):
        Limits(timeout=seconds)


async def test_running_is_recorded_when_the_body_begins_and_not_when_it_begins_to_wait() -> None:
    running: list[float] = []
    busy = Busy()

    def handler(runner: Any, old: Any, new: Any) -> None:
        if new.is_running() and context.task_name == "work":
            running.append(anyio.current_time())

    with Flow("running") as flow:
        busy.work().map([1, 2])
    await FlowRunner(flow, limits=Limits(concurrency=1)).run(task_runner_state_handlers=[handler])
    assert running == [0, 10]


# -- shared by many runs ---------------------------------------------------------------------------------


async def test_shared_limits_hold_for_all_runs_together() -> None:
    busy = Busy()
    work, query = busy.work("work"), busy.work("work", "query", tags={"database"})
    with Flow("many") as flow:
        work.map(list(range(4)))
        query.map(list(range(4)))
    shared = Limits(concurrency=5, tags={"database": 2}).open()
    runners = [FlowRunner(flow, limits=shared, settings=PATIENT) for _ in range(3)]
    states = await asyncio.gather(*(runner.run() for runner in runners))
    assert all(state.is_successful() for state in states)
    assert busy.most == {"work": 5, "query": 2}


async def test_a_shared_rate_holds_for_all_runs_together() -> None:
    busy = Busy()
    with Flow("many") as flow:
        busy.work(seconds=0).map(list(range(5)))
    shared = Limits(rate=Rate(2, 10.0)).open()
    began = anyio.current_time()
    await asyncio.gather(*(FlowRunner(flow, limits=shared, settings=PATIENT).run() for _ in range(2)))
    assert sorted(round(moment - began) for _, moment in busy.begun) == [0, 0, 10, 10, 20, 20, 30, 30, 40, 40]


async def test_a_run_that_is_stopped_gives_the_shared_places_back() -> None:
    busy = Busy()
    with Flow("long") as flow:
        busy.work(seconds=1000).map([1, 2])
    shared = Limits(concurrency=1).open()
    stopped, follows = (FlowRunner(flow, limits=shared, settings=PATIENT) for _ in range(2))
    first = asyncio.create_task(stopped.run())
    second = asyncio.create_task(follows.run())
    await anyio.sleep(1)
    stopped.cancel("user")
    assert type(await first) is Cancelled
    assert (await second).is_successful()
    assert busy.most["work"] == 1 or len(busy.begun) == 3


async def test_the_time_limit_of_shared_limits_is_that_of_each_run() -> None:
    with Flow("long") as flow:
        Busy().work(seconds=30)()
    shared = Limits(concurrency=1, timeout=50).open()
    states = await asyncio.gather(*(FlowRunner(flow, limits=shared, settings=PATIENT).run() for _ in range(2)))
    assert [state.is_successful() for state in states] == [True, False], "the second waited for the first"


def test_shared_limits_are_those_of_one_event_loop_at_a_time() -> None:
    busy = Busy()
    with Flow("one") as flow:
        busy.work(seconds=5).map([1, 2, 3])
    shared = Limits(concurrency=1, rate=Rate(1, 100.0)).open()

    def elsewhere() -> State:
        return run(FlowRunner(flow, limits=shared, settings=PATIENT).run())

    async def within() -> None:
        first = asyncio.create_task(FlowRunner(flow, limits=shared, settings=PATIENT).run())
        await anyio.sleep(1)
        assert "shared by runs in another event loop" in str((await anyio.to_thread.run_sync(elsewhere)).message)
        assert (await first).is_successful()

    run(within())
    assert elsewhere().is_successful()
    assert len(busy.begun) == 6


async def test_a_place_is_handed_on_over_the_heads_of_those_who_left() -> None:
    places = Places(1)
    await places.take()
    waiting = [asyncio.create_task(places.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    places.give_back()  # before the first has noticed that it is cancelled
    await asyncio.wait(waiting[:2])
    assert waiting[0].cancelled()
    assert places.taken == 1
    places.give_back()
    await waiting[2]
    assert places.taken == 1


# -- priorities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [Limits(concurrency=1), Limits(tags={"busy": 1}), Limits(tasks={"work": 1}), Limits(rate=Rate(1, 10.0))]
)
async def test_of_what_waits_the_highest_priority_goes_first_and_of_one_priority_who_came_first(limits: Limits) -> None:
    busy = Busy()
    with Flow("queue") as flow:
        for n, needs in enumerate([None, Needs(priority=5), Needs(), Needs(priority=-1), Needs(priority=5)]):
            busy.work(tags={"busy"}, needs=needs)(n)
    await limited(flow, limits)
    assert [n for n, _ in busy.begun] == [1, 4, 0, 2, 3]


async def test_what_comes_late_goes_before_what_waits_with_a_lower_priority() -> None:
    busy = Busy()
    with Flow("late") as flow:
        first = busy.work(needs=Needs(priority=1))(1)
        busy.work().map([10, 11, 12])
        busy.work(needs=Needs(priority=-1))(-1)
        busy.work(needs=Needs(priority=9))(9, upstream_tasks=[first])
    await limited(flow, Limits(concurrency=1))
    assert [n for n, _ in busy.begun] == [1, 10, 9, 11, 12, -1], "10 was given the place before 9 was ready"


async def test_runs_that_share_limits_share_their_priorities() -> None:
    busy = Busy()
    shared = Limits(concurrency=1).open()

    def runner(n: int, priority: int) -> FlowRunner:
        with Flow("one") as flow:
            busy.work(needs=Needs(priority=priority)).map([n, n + 1])
        return FlowRunner(flow, limits=shared, settings=PATIENT)

    await asyncio.gather(*(runner(10 * priority, priority).run() for priority in (1, 3, 2)))
    assert [n for n, _ in busy.begun] == [10, 30, 31, 20, 21, 11]


@pytest.mark.parametrize("priority", [1.5, "high", None, True])
def test_a_priority_is_a_whole_number(priority: Any) -> None:
    with pytest.raises(FlowDefinitionError, match="a priority is a whole number, not"):
        Needs(priority=priority)
