"""Results that no task needs any more are let go, if that is asked for."""

from __future__ import annotations

import asyncio
import datetime
import gc
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.engine import Flow, FlowRunner, Parameter, Settings, context, task
from flowloop.engine._run.ledger import Graph
from flowloop.engine._run.release import Release
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.results import LocalResult
from flowloop.engine.state import Mapped, Retrying, Success
from flowloop.engine.testing import run

pytestmark = pytest.mark.virtual_time


class Load:
    """A result that is large enough to be missed."""

    alive: weakref.WeakSet[Load] = weakref.WeakSet()

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.alive.add(self)

    @classmethod
    def numbers(cls) -> set[int]:
        gc.collect()
        return {load.number for load in cls.alive}


@pytest.fixture(autouse=True)
def _nothing_left() -> None:
    Load.alive.clear()


@task
async def load(n: int = 0) -> Load:
    return Load(n)


@task
async def next_load(one: Load) -> Load:
    return Load(one.number + 100)


@task
async def number(one: Load) -> int:
    return one.number


def runner_of(flow: Flow, **options: Any) -> FlowRunner:
    return FlowRunner(flow, release_results=True, **options)


async def test_a_result_goes_when_the_last_task_that_takes_it_is_over() -> None:
    seen: list[set[int]] = []

    @task
    async def look(*, after: Any = None) -> None:
        seen.append(Load.numbers())

    with Flow("chain") as flow:
        first = load(1)
        one, two = number(first), number(first)
        look(upstream_tasks=[one, two])
    state = await runner_of(flow).run()
    assert state.is_successful()
    assert seen == [set()]
    assert type(state.result[first]) is Success
    assert state.result[first].result is None


async def test_it_stays_as_long_as_one_task_has_yet_to_take_it() -> None:
    seen: list[set[int]] = []

    @task
    async def look() -> None:
        seen.append(Load.numbers())

    with Flow("fork") as flow:
        first = load(1)
        looked = look(upstream_tasks=[number(first)])
        number(first, upstream_tasks=[looked])
    assert (await runner_of(flow).run()).is_successful()
    assert seen == [{1}]


async def test_all_stay_unless_asked_for() -> None:
    with Flow("kept") as flow:
        first = load(1)
        number(first)
    state = await FlowRunner(flow).run()
    assert state.result[first].result.number == 1


async def test_what_is_to_be_returned_and_what_was_given_stays() -> None:
    given_state = Success(result=Load(7))
    with Flow("named") as flow:
        named, others, known = load(1), load(2), load(3, task_args={"name": "known"})
        for one in (named, others, known):
            number(one)
    state = await runner_of(flow).run(return_tasks=[named, known, others], task_states={known: given_state})
    assert [state.result[one].result.number for one in (named, others, known)] == [1, 2, 7]
    state = await runner_of(flow).run(return_tasks=[named], task_states={known: given_state})
    assert state.result[named].result.number == 1
    assert given_state.result.number == 7
    assert Load.numbers() == {1, 7}


async def test_children_go_one_by_one() -> None:
    left: list[set[int]] = []

    @task
    async def last_waits_for_the_others(one: Load) -> int:
        found = one.number
        del one
        if found == 4:
            while Load.numbers() != {4}:  # noqa: ASYNC110 - what happens to garbage sets no event
                await asyncio.sleep(0)
            left.append(Load.numbers())
        return found

    with Flow("children") as flow:
        loads = load.map([0, 1, 2, 3, 4])
        numbers = last_waits_for_the_others.map(loads)
    async with asyncio.timeout(100):
        state = await runner_of(flow).run()
    assert left == [{4}]
    assert state.result[numbers].result == [0, 1, 2, 3, 4]
    assert isinstance(state.result[loads], Mapped)
    assert state.result[loads].result == [None] * 5


async def test_children_that_are_also_reduced_stay_until_then() -> None:
    @task
    async def count(many: list[Load], few: list[int]) -> int:
        return len(many) + len(few)

    with Flow("reduced") as flow:
        loads = load.map([0, 1, 2])
        total = count(loads, number.map(loads))
    state = await runner_of(flow).run()
    assert state.result[total].result == 6
    assert Load.numbers() == set()


async def test_the_elements_of_a_value_go_with_the_last_child() -> None:
    @task
    async def some() -> list[Load]:
        return [Load(n) for n in range(3)]

    with Flow("elements") as flow:
        numbers = number.map(some())
    state = await runner_of(flow).run()
    assert state.result[numbers].result == [0, 1, 2]
    assert Load.numbers() == set()


async def test_what_a_run_that_goes_on_later_needs_stays() -> None:
    attempts: list[int] = []

    @task(max_retries=1, retry_delay=datetime.timedelta(days=1))
    async def flaky(one: Load) -> int:
        attempts.append(one.number)
        if len(attempts) == 1:
            raise ValueError
        return one.number

    with Flow("later") as flow:
        first = load(1)
        second = flaky(first)
    state = await runner_of(flow).run()
    assert isinstance(state.result[second], Retrying)
    assert state.result[first].result.number == 1
    again = runner_of(flow)
    await asyncio.sleep(datetime.timedelta(days=1).total_seconds())
    state = await again.run(task_states=state.result)
    assert state.is_successful()
    assert attempts == [1, 1]


async def test_a_recorded_result_can_be_read_again(backend: Backend, settings: Settings) -> None:
    with Flow("recorded") as flow:
        loads, plain = load.map([1, 2]), load(3)
        numbers = number.map(loads)
        number(plain)
    runner = CloudFlowRunner(flow, backend=backend, settings=settings, release_results=True)
    state = await runner.run()
    assert state.result[numbers].result == [1, 2]
    patience = time.monotonic() + 60
    while Load.numbers() and time.monotonic() < patience:
        time.sleep(0.01)  # noqa: ASYNC251 - the time of the loop is virtual; a thread that wrote may be about to let go
    assert Load.numbers() == set()
    assert (state.result[plain].result, state.result[loads].result) == (None, [None, None]), "nor is it read again"
    read = [await child.load_result() for child in state.result[loads].map_states]
    assert [one.result.number for one in read] == [1, 2]


async def test_what_a_task_failed_with_stays() -> None:
    @task
    async def fails() -> None:
        raise ValueError("the reason")

    with Flow("failed") as flow:
        failed = fails()
        number(failed)
    state = await runner_of(flow).run()
    assert str(state.result[failed].result) == "the reason"


async def test_a_cached_result_stays_for_another_run_that_takes_it(tmp_path: Path) -> None:
    @task(cache_for=datetime.timedelta(days=1), result=LocalResult(dir=str(tmp_path)), checkpoint=True)
    async def cached() -> int:
        return 1

    @task
    async def wait(seconds: int) -> None:
        await asyncio.sleep(seconds)

    @task
    async def next_number(n: int) -> int:
        return n + 1

    with Flow("shared") as flow:
        taken = next_number(cached(), upstream_tasks=[wait(Parameter("seconds"))])
    with context(checkpointing=True):
        await flow.run(seconds=0)
        options = {"release_results": True}
        ends = await asyncio.gather(*(flow.run(seconds=n, runner_options=options) for n in (1, 10)))
    assert [end.result[taken].result for end in ends] == [2, 2]


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=12),
    st.booleans(),
)
def test_what_is_let_go_is_what_nobody_takes(graph: list[list[int]], mapped: bool) -> None:
    @task
    async def add(xs: list[int], own: int) -> int:
        return sum(xs) + own

    @task
    async def add_one(x: int) -> int:
        return x + 1

    with Flow("any") as flow:
        made: list[Any] = []
        for place, upstream in enumerate(graph):
            made.append(add([made[number % place] for number in upstream if place], place))
        children = add_one.map(add_one.map(made)) if mapped else None
    keeping = run(FlowRunner(flow).run())
    releasing = run(FlowRunner(flow, release_results=True).run())
    assert releasing.is_successful()
    ends = flow.terminal_tasks()
    for one in flow.tasks:
        assert type(releasing.result[one]) is type(keeping.result[one])
        if one in ends:
            assert releasing.result[one].result == keeping.result[one].result
        elif isinstance(releasing.result[one], Mapped):
            assert releasing.result[one].result == [None] * len(made)
        else:
            assert releasing.result[one].result is None
    assert children is None or len(releasing.result[children].map_states) == len(made)


def _mapped(plain: list[tuple[int, int]], kept: tuple[int, ...] = ()) -> tuple[Release, list[Any]]:
    """A task of two children, and one that is mapped over it."""
    states: list[Any] = [Mapped(map_states=[Success(result=1), Success(result=2)]), Mapped(map_states=[None, None])]
    return Release(Graph(3, plain, [(0, 1)]), kept), states


@pytest.mark.parametrize(("plain", "kept", "left"), [([], (), [None, 2]), ([(0, 2)], (), [1, 2]), ([], (0,), [1, 2])])
def test_a_child_goes_with_the_child_that_takes_it(
    plain: list[tuple[int, int]], kept: tuple[int, ...], left: list[int | None]
) -> None:
    release, states = _mapped(plain, kept)
    release.child_finished((1, 0), states)
    assert [child.result for child in states[0].map_states] == left


def test_the_value_that_children_share_stays_until_the_last() -> None:
    release, states = _mapped([])
    states[0] = Success(result=[1, 2])
    release.child_finished((1, 0), states)
    assert states[0].result == [1, 2]
    release.task_finished([0], states)
    assert states[0].result is None
