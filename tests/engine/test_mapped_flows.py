"""Mapped tasks in whole flows: shapes, order, failures, skips, restarts."""

from __future__ import annotations

import asyncio
import datetime
import io
import itertools
import tempfile
import typing
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flowloop.engine import Flow, FlowRunner, Parameter, apply_map, context, flatten, mapped, task, triggers, unmapped
from flowloop.engine.signals import PAUSE, RETRY, SKIP
from flowloop.engine.state import (
    Cached,
    Failed,
    Mapped,
    Pending,
    Retrying,
    Skipped,
    State,
    Success,
    TimedOut,
    TriggerFailed,
)
from flowloop.engine.testing import run

pytestmark = pytest.mark.virtual_time

DAY = datetime.timedelta(days=1)


@task
async def double(n: Any) -> Any:
    return n * 2


@task
async def add(x: Any, y: Any) -> Any:
    return x + y


@task
async def collect(values: Any) -> Any:
    return values


@task
async def numbers(n: int = 3) -> list[int]:
    return list(range(n))


async def results(flow: Flow, **kwargs: Any) -> dict[str, Any]:
    state = await FlowRunner(flow).run(**kwargs)
    assert state.is_successful(), {one.name: (found, found.message) for one, found in state.result.items()}
    return {one.name: found.result for one, found in state.result.items()}


async def states(flow: Flow, made: Any, **kwargs: Any) -> list[type[State]]:
    state = await FlowRunner(flow).run(**kwargs)
    assert isinstance(state.result[made], Mapped), state.result[made].message
    return [type(child) for child in state.result[made].map_states]


# -- shapes --------------------------------------------------------------------------------------------


async def test_over_a_list_a_task_and_a_parameter() -> None:
    with Flow("over") as flow:
        double.map([1, 2], task_args={"name": "constant"})
        double.map(numbers(4), task_args={"name": "task"})
        double.map(Parameter("p"), task_args={"name": "parameter"})
    found = await results(flow, parameters={"p": (5, 6)})
    assert (found["constant"], found["task"], found["parameter"]) == ([2, 4], [0, 2, 4, 6], [10, 12])


async def test_zipped_to_the_shortest_with_some_unmapped() -> None:
    with Flow("zipped") as flow:
        add.map([1, 2, 3], [10, 20], task_args={"name": "zipped"})
        add.map(numbers(), unmapped(100), task_args={"name": "constant"})
        add.map(unmapped(numbers(2)), [[1], [2]], task_args={"name": "list"})
    found = await results(flow)
    assert found["zipped"] == [11, 22]
    assert found["constant"] == [100, 101, 102]
    assert found["list"] == [[0, 1, 1], [0, 1, 2]]


async def test_stages_and_a_reduce() -> None:
    with Flow("stages") as flow:
        one = double.map(numbers(5))
        two = add.map(one, one)
        three = double.map(two)
        collect(three, task_args={"name": "reduced"})
        collect([one, three], task_args={"name": "both"})
    found = await results(flow)
    assert found["reduced"] == [0, 8, 16, 24, 32]
    assert found["both"] == [[0, 2, 4, 6, 8], [0, 8, 16, 24, 32]]


async def test_mapped_annotations_on_a_plain_call() -> None:
    with Flow("annotated") as flow:
        add(mapped(numbers()), 10)
    assert (await results(flow))["add"] == [10, 11, 12]


async def test_flatten_of_values_and_of_mapped_tasks() -> None:
    @task
    async def repeat(n: int) -> list[int]:
        return [n] * n

    with Flow("flat") as flow:
        nested = repeat.map([0, 1, 2, 3])
        double.map(flatten(nested), task_args={"name": "mapped"})
        collect(flatten(nested), task_args={"name": "reduced"})
        double.map(flatten([[1], [2, 3]]), task_args={"name": "constant"})
        double.map(flatten(double.map(flatten(nested))), task_args={"name": "again"})
    found = await results(flow)
    assert found["mapped"] == [2, 4, 4, 6, 6, 6]
    assert found["reduced"] == [1, 2, 2, 3, 3, 3]
    assert found["constant"] == [2, 4, 6]
    assert found["again"] == [4, 8, 8, 12, 12, 12]


async def test_a_map_of_nothing_runs_nothing_and_reduces_to_nothing() -> None:
    with Flow("nothing") as flow:
        stage = double.map(double.map(numbers(0)))
        collect(stage, task_args={"name": "reduced"})
    assert (await results(flow))["reduced"] == []


async def test_apply_map_maps_what_a_function_wires() -> None:
    def wire(x: Any, y: Any) -> Any:
        return add(double(x), y)

    with Flow("applied") as flow:
        made = apply_map(wire, numbers(), unmapped(100))
        collect(made, task_args={"name": "reduced"})
    assert (await results(flow))["reduced"] == [100, 102, 104]


async def test_children_know_who_they_are() -> None:
    @task
    async def who(n: int) -> Any:
        return context.map_index, context.task_full_name, context.task_name

    with Flow("who") as flow:
        who.map([7, 8])
    assert (await results(flow))["who"] == [(0, "who[0]", "who"), (1, "who[1]", "who")]


async def test_upstream_tasks_of_a_mapped_task() -> None:
    ran: list[str] = []

    @task
    async def before() -> list[int]:
        ran.append("before")
        return [1, 2, 3]

    @task
    async def work(n: int) -> int:
        ran.append(f"work {n}")
        return n

    with Flow("upstream") as flow:
        first = before()
        work.map([1, 2], upstream_tasks=[unmapped(first)])
        # mapped over a task without taking its value: as many children all the same, to the shortest
        work.map([1, 2, 3, 4], upstream_tasks=[first], task_args={"name": "counted"})
    found = await results(flow)
    assert ran[0] == "before"
    assert (found["work"], found["counted"]) == ([1, 2], [1, 2, 3])


@given(
    width=st.integers(0, 5),
    stages=st.lists(st.sampled_from(["double", "add", "flat"]), max_size=4),
    reduce=st.booleans(),
)
@hypothesis_settings(max_examples=30, deadline=None)
def test_mapped_stages_compute_what_loops_compute(width: int, stages: list[str], reduce: bool) -> None:
    @task
    async def pair(n: int) -> list[int]:
        return [n, -n]

    with Flow("computed") as flow:
        made: Any = numbers(width)
        expected = list(range(width))
        for stage in stages:
            if stage == "double":
                made, expected = double.map(made), [n * 2 for n in expected]
            elif stage == "add":
                made, expected = add.map(made, unmapped(7)), [n + 7 for n in expected]
            else:
                made = double.map(flatten(pair.map(made)))
                expected = [m * 2 for n in expected for m in (n, -n)]
        made = collect(made) if reduce else made
    state = run(FlowRunner(flow).run())
    assert state.is_successful()
    assert state.result[made].result == expected


# -- order ---------------------------------------------------------------------------------------------


async def test_children_go_depth_first() -> None:
    """Child i of the next stage starts when child i is done, not when all are."""
    order: list[tuple[str, int]] = []

    async def stage(name: str, n: int) -> int:
        order.append((name, n))
        await anyio.sleep(1 if n == 0 else 100 + n)
        return n

    with Flow("depth") as flow:
        one: Any = task(stage, name="one").map(unmapped("one"), [0, 1, 2])
        two: Any = task(stage, name="two").map(unmapped("two"), one)
        task(stage, name="three").map(unmapped("three"), two)
    await FlowRunner(flow).run()
    # the first child is through all stages before the second one is through the first
    assert order.index(("three", 0)) < order.index(("two", 1))
    assert [one for one in order if one[1] == 2] == [("one", 2), ("two", 2), ("three", 2)]


async def test_one_child_after_the_other_goes_through_all_stages() -> None:
    """Where nothing waits, the whole work of a child is done before that of the next one begins."""
    order: list[tuple[int, int]] = []

    def stage(number: int) -> Any:
        async def work(n: int) -> int:
            order.append((number, n))
            return n

        return task(work)

    with Flow("one by one") as flow:
        made: Any = numbers(3)
        for number in range(3):
            made = stage(number).map(made)
    await FlowRunner(flow).run()
    assert sorted(order) == [(number, n) for number in range(3) for n in range(3)]
    for number in range(2):
        for n in range(3):
            assert order.index((number, n)) < order.index((number + 1, n))


async def test_a_slow_child_holds_up_only_its_own_line_and_the_reduce() -> None:
    ended: dict[Any, float] = {}

    async def first(n: int) -> int:
        await anyio.sleep(3600 if n == 1 else 1)
        return n

    async def second(n: int) -> int:
        ended[n] = anyio.current_time()
        return n

    async def reduced(values: list[int]) -> None:
        ended["reduced"] = anyio.current_time()

    with Flow("slow child") as flow:
        task(reduced)(task(second).map(task(first).map([0, 1, 2])))
    await FlowRunner(flow).run()
    assert ended == {0: 1, 2: 1, 1: 3600, "reduced": 3600}


async def test_children_run_at_the_same_time() -> None:
    async def slow(n: int) -> None:
        await anyio.sleep(10)

    with Flow("together") as flow:
        task(slow).map(list(range(100)))
    await FlowRunner(flow).run()
    assert anyio.current_time() == 10


# -- failures, skips, triggers -------------------------------------------------------------------------


async def odd_fails(n: int) -> int:
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n


async def test_a_failed_child_fails_only_its_line() -> None:
    with Flow("lines") as flow:
        made: Any = double.map(task(odd_fails).map([0, 1, 2]))
    assert await states(flow, made) == [Success, TriggerFailed, Success]


async def test_a_failed_child_fails_the_reduce_unless_its_trigger_is_content() -> None:
    with Flow("reduces") as flow:
        failing: Any = task(odd_fails).map([0, 1, 2])
        strict: Any = collect(failing)
        lenient: Any = collect(failing, task_args={"trigger": triggers.any_successful})
    state = await FlowRunner(flow).run()
    assert type(state.result[strict]) is TriggerFailed
    assert state.result[lenient].result[::2] == [0, 2]
    assert isinstance(state.result[lenient].result[1], ValueError)


async def test_children_evaluate_their_own_trigger_and_the_parent_none() -> None:
    asked: list[int] = []

    def trigger(upstream: Any) -> bool:
        asked.append(context.map_index)
        return all(state.is_failed() for state in upstream.values())

    with Flow("own triggers") as flow:
        failing: Any = task(odd_fails).map([0, 1])
        made: Any = task(lambda n: "saved", trigger=trigger, name="saves").map(failing)
    assert await states(flow, made) == [TriggerFailed, Success]
    assert sorted(asked) == [0, 1]


async def test_a_skipped_child_skips_its_line() -> None:
    @task
    async def skips(n: int) -> int:
        if n == 1:
            raise SKIP("not this one")
        return n

    with Flow("skips") as flow:
        skipping: Any = skips.map([0, 1])
        line: Any = double.map(skipping)
        stubborn: Any = collect.map(skipping, task_args={"skip_on_upstream_skip": False, "name": "stubborn"})
        reduced: Any = collect(skipping)
    assert await states(flow, line) == [Success, Skipped]
    assert await states(flow, stubborn) == [Success, Success]
    assert type((await FlowRunner(flow).run()).result[reduced]) is Skipped


async def test_flatten_keeps_failed_and_skipped_children() -> None:
    @task
    async def shapes(n: int) -> list[int]:
        if n == 1:
            raise ValueError
        if n == 2:
            raise SKIP
        return [n, n]

    with Flow("flat failures") as flow:
        made: Any = double.map(flatten(shapes.map([0, 1, 2, 3])))
    assert await states(flow, made) == [Success, Success, TriggerFailed, Skipped, Success, Success]


async def test_when_everything_mapped_over_failed_the_task_fails_and_says_why() -> None:
    @task
    async def loader() -> list[int]:
        raise ValueError

    with Flow("no input") as flow:
        made: Any = double.map(loader())
        after: Any = double.map(made)
    state = await FlowRunner(flow).run()
    assert state.result[made].is_failed()
    assert "loader" in str(state.result[made].message)
    assert state.result[after].is_failed()


async def test_a_skipped_input_skips_the_whole_map() -> None:
    @task
    async def loader() -> list[int]:
        raise SKIP

    with Flow("skipped input") as flow:
        made: Any = double.map(loader())
    assert type((await FlowRunner(flow).run()).result[made]) is Skipped


@pytest.mark.parametrize("value", [5, {"a": 1}, {1, 2}, None])
async def test_mapping_over_what_has_no_length_says_which_task_and_what_came(value: Any) -> None:
    @task
    async def loader() -> Any:
        return value

    with Flow("no length") as flow:
        made: Any = double.map(loader())
    state = (await FlowRunner(flow).run()).result[made]
    assert type(state) is Failed
    assert "'loader'" in str(state.message)
    assert type(value).__name__ in str(state.message)


# -- waiting children and restarts ---------------------------------------------------------------------


async def test_children_retry_each_for_itself() -> None:
    @task(max_retries=2, retry_delay=10)
    async def flaky(n: int) -> int:
        if context.task_run_count <= n:
            raise ValueError
        return context.task_run_count

    with Flow("flaky children") as flow:
        collect(flaky.map([0, 1, 2]), task_args={"name": "reduced"})
    assert (await results(flow))["reduced"] == [1, 2, 3]
    assert anyio.current_time() == 20


async def test_a_map_goes_on_with_the_children_that_are_not_finished() -> None:
    ran: list[tuple[str, int]] = []

    @task(max_retries=1, retry_delay=DAY)
    async def first(n: int) -> int:
        ran.append(("first", n))
        if n == 1 and context.task_run_count == 1:
            raise ValueError
        return n

    @task
    async def second(n: int) -> int:
        ran.append(("second", n))
        return n * 10

    with Flow("restart") as flow:
        one: Any = first.map([0, 1, 2])
        two: Any = second.map(one)
        reduced: Any = collect(two)
    state = await FlowRunner(flow).run()
    assert not state.is_finished()
    assert [type(child) for child in state.result[one].map_states] == [Success, Retrying, Success]
    assert [type(child) for child in state.result[two].map_states] == [Success, Pending, Success]
    assert type(state.result[reduced]) is Pending
    await anyio.sleep(DAY.total_seconds())
    ran.clear()
    state = await FlowRunner(flow).run(task_states=state.result)
    assert ran == [("first", 1), ("second", 1)]
    assert state.result[reduced].result == [0, 10, 20]


async def test_a_mapped_state_without_its_children_makes_them_anew() -> None:
    """As a backend returns it: how many children there are, and nothing of them."""
    with Flow("regenerated") as flow:
        made: Any = double.map([1, 2, 3])
    state = await FlowRunner(flow).run(task_states={made: Mapped(n_map_states=3)})
    assert state.result[made].result == [2, 4, 6]


async def test_a_mapped_state_with_too_many_children_is_cut_to_the_input() -> None:
    with Flow("shrunk") as flow:
        made: Any = double.map([1, 2])
    old = Mapped(map_states=[Success(result="old"), Failed(), Failed(), Failed()])
    state = await FlowRunner(flow).run(task_states={made: old})
    assert [type(child) for child in state.result[made].map_states] == [Success, Failed]


async def test_paused_and_waiting_children_leave_the_flow_unfinished() -> None:
    @task
    async def waits(n: int) -> int:
        if n == 1:
            raise PAUSE("look")
        if n == 2:
            raise RETRY(start_time=datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))
        return n

    with Flow("waiting") as flow:
        made: Any = waits.map([0, 1, 2])
    state = await FlowRunner(flow).run()
    assert not state.is_finished()
    assert [child.is_finished() for child in state.result[made].map_states] == [True, False, False]


async def test_children_are_served_from_a_cache() -> None:
    ran: list[int] = []

    @task(cache_for=DAY, cache_validator=lambda state, inputs, parameters: state.result == inputs["n"] * 2)
    async def dear(n: int) -> int:
        ran.append(n)
        return n * 2

    with Flow("cached children") as flow:
        made: Any = dear.map([1, 2, 3])
    given = {"caches": {"dear": [Cached(result=4)]}}
    state = await FlowRunner(flow).run(context=given)
    assert state.result[made].result == [2, 4, 6]
    assert sorted(ran) == [1, 3]


def test_a_wide_map_gives_the_loop_its_turns() -> None:
    """On real time: on virtual time nothing takes long enough to be worth a turn."""

    async def nothing(n: int) -> None:
        pass

    with Flow("wide") as flow:
        task(nothing).map(list(range(10_000)))

    async def main() -> int:
        turns = 0

        async def ticks() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(ticks())
        await asyncio.sleep(0)
        before = turns
        await FlowRunner(flow).run()
        ticking.cancel()
        return turns - before

    assert asyncio.run(main()) > 3


# -- widths are fixed from final states ----------------------------------------------------------------


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("how", ["retried", "paused"])
async def test_what_is_flattened_is_waited_for_as_a_whole(how: str, late: int) -> None:
    @task(max_retries=1, retry_delay=DAY)
    async def pages(n: int) -> list[str]:
        if n == late and how == "paused" and not context.get("resume"):
            raise PAUSE("look")
        if n == late and how == "retried" and context.task_run_count == 1:
            raise ValueError
        return [f"{n}a", f"{n}b"]

    with Flow("late") as flow:
        made: Any = double.map(flatten(pages.map([0, 1, 2])))
        reduced: Any = collect(flatten(made))
    first = await FlowRunner(flow).run()
    assert type(first.result[made]) is Pending
    state = await flow.run(on_paused=lambda *_: True)
    assert state.result[made].result == ["0a0a", "0b0b", "1a1a", "1b1b", "2a2a", "2b2b"]
    assert state.result[reduced].result == state.result[made].result


async def test_inputs_of_unequal_length_are_warned_of_with_their_lengths(caplog: pytest.LogCaptureFixture) -> None:
    with Flow("unequal") as flow:
        add.map([1, 2, 3], [10, 20])
        double.map([1, 2, 3, 4], upstream_tasks=[numbers()])
        add.map([[1], [2]], unmapped([10, 20, 30]))
    assert (await FlowRunner(flow).run()).is_successful()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert "'add'" in said[0]
    assert "3 of 'x', 2 of 'y': 2 children run" in said[0]
    assert "'double'" in said[1]
    assert "3 of 'numbers', which it waits for" in said[1]


async def test_a_sequence_that_cannot_be_read_fails_the_task_that_is_mapped_over_it() -> None:
    class Lazy:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            raise OSError("the source broke")

    @task
    async def source() -> Any:
        return Lazy()

    with Flow("lazy") as flow:
        made: Any = double.map(source())
        other: Any = numbers()
    state = await FlowRunner(flow).run()
    assert type(state.result[made]) is Failed
    assert "the source broke" in str(state.result[made].message)
    assert state.result[other].is_successful()


# -- what can be read once -----------------------------------------------------------------------------


def generated(n: int) -> Any:
    return (one for one in range(n))


def yields(n: int) -> Any:
    yield from range(n)


async def yields_async(n: int) -> Any:
    for one in range(n):
        yield one


async def iterates(n: int) -> Any:
    return iter(range(n))


def maps(n: int) -> Any:
    return map(int, range(n))


async def opens(n: int) -> Any:
    file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - handed on open, as a body might
    file.write("".join(f"{one}\n" for one in range(n)))
    file.seek(0)
    return file.file if hasattr(file, "file") else file


ONE_PASS = [generated, yields, yields_async, iterates, maps, opens]


@pytest.mark.parametrize("body", ONE_PASS)
async def test_what_can_be_read_once_is_read_by_everyone(body: Any) -> None:
    attempts: list[list[int]] = []

    @task(max_retries=1, retry_delay=0)
    async def second_time(values: Any) -> list[int]:
        attempts.append([int(one) for one in values])
        if len(attempts) == 1:
            raise ValueError
        return attempts[-1]

    @task
    async def as_list(values: Any) -> list[int]:
        return [int(one) for one in values]

    @task
    async def number(value: Any) -> int:
        return int(value)

    with Flow("one pass") as flow:
        one: Any = task(body)(3)
        several: Any = task(body).map([2, 3])
        readers = [as_list(one), as_list(one), second_time(one), number.map(one)]
        flat = [number.map(flatten(several)), as_list(flatten(several))]
    state = await FlowRunner(flow).run()
    assert state.is_successful(), state.result
    assert [state.result[reader].result for reader in readers] == [[0, 1, 2]] * 4
    assert attempts == [[0, 1, 2]] * 2
    assert [state.result[reader].result for reader in flat] == [[0, 1, 0, 1, 2]] * 2


@pytest.mark.parametrize(
    "hold", [lambda *them: list(them), lambda *them: tuple(them), lambda *them: dict(enumerate(them))]
)
async def test_what_can_be_read_once_is_kept_inside_a_collection_too(hold: Any) -> None:
    async def items(n: int) -> Any:
        for one in range(n):
            yield one

    @task
    async def many() -> Any:
        return hold(generated(2), items(3), 7)

    @task
    async def as_lists(values: Any) -> Any:
        found = values.values() if isinstance(values, dict) else values
        return [list(one) for one in list(found)[:2]]

    with Flow("inside") as flow:
        held: Any = many()
        readers = [as_lists(held), as_lists(held)]
    state = await FlowRunner(flow).run()
    assert [state.result[reader].result for reader in readers] == [[[0, 1], [0, 1, 2]]] * 2
    assert type(state.result[held].result) is type(hold())


ONE_PASS_INSIDE = {
    "groups": (lambda: itertools.groupby([1, 1, 2]), [(1, [1, 1]), (2, [2])]),
    "generators of generators": (lambda: ((n for n in range(m)) for m in (1, 2)), [[0], [0, 1]]),
    "deep": (lambda: {"a": [{"b": (map(int, "12"), 3)}]}, {"a": [{"b": ([1, 2], 3)}]}),
    "repeated three times": (lambda: itertools.repeat(1, 3), [1, 1, 1]),
}


@pytest.mark.parametrize("name", ONE_PASS_INSIDE)
async def test_what_can_be_read_once_is_kept_however_deep_it_is(name: str) -> None:
    make, expected = ONE_PASS_INSIDE[name]
    with Flow("deep") as flow:
        made: Any = task(make, name="made")()
    state = await flow.run()
    assert state.result[made].result == expected


async def test_async_iterators_are_read_however_deep_they_are() -> None:
    async def made() -> Any:
        return [[yields_async(2)], {"x": (yields_async(1),)}]

    with Flow("deep") as flow:
        held: Any = task(made)()
    state = await flow.run()
    assert state.result[held].result == [[[0, 1]], {"x": ([0],)}]


@pytest.mark.parametrize("endless", [itertools.count, lambda: itertools.cycle([1]), lambda: itertools.repeat(1)])
async def test_what_never_ends_is_refused_wherever_it_is(endless: Any) -> None:
    with Flow("ends") as flow:
        made: Any = task(lambda: [1, {"x": endless()}], name="made")()
    state = await flow.run()
    assert "never ends" in str(state.result[made].message)


async def test_what_never_ends_is_refused_and_what_is_written_to_is_handed_on() -> None:
    with Flow("ends") as flow:
        endless: Any = task(lambda: itertools.count(), name="counts")()
        buffer: Any = task(lambda: io.BytesIO(b"abc"), name="buffer")()
    state = await FlowRunner(flow).run()
    assert "never ends" in str(state.result[endless].message)
    assert state.result[buffer].result.read() == b"abc"


async def test_a_body_that_yields_may_time_out_fail_and_be_tried_again() -> None:
    @task(timeout=2)
    async def slow() -> Any:
        yield 1
        await anyio.sleep(10)

    @task(max_retries=1, retry_delay=1)
    async def flaky() -> Any:
        yield context.task_run_count
        if context.task_run_count == 1:
            raise ValueError

    with Flow("yields") as flow:
        timed_out, tried = slow(), flaky()
    state = await FlowRunner(flow).run()
    assert type(state.result[timed_out]) is TimedOut
    assert state.result[tried].result == [2]


# -- what several values are unpacked into --------------------------------------------------------------


async def test_the_values_of_a_mapped_task_are_unpacked_child_by_child() -> None:
    @task(nout=2)
    async def both(n: int) -> Any:
        return n, -n

    @task
    async def either(n: int) -> tuple[int, str]:
        return n, f"{n}"

    @task
    async def anyhow(n: int) -> typing.Tuple:  # type: ignore[type-arg] # noqa: UP006
        return n, n

    with Flow("unpacked") as flow:
        plus, minus = both.map([1, 2, 3])
        number, text = either.map([4, 5, 6, 7])
        sums: Any = add.map(plus, number)
        single, _ = both(9)
        first = apply_map(lambda n: next(iter(both(n))), [7, 8])
        with pytest.raises(TypeError, match="say how many values it returns with nout="):
            iter(anyhow.map([1]))
    state = await FlowRunner(flow).run()
    shown = [state.result[one].result for one in (plus, minus, number, text, sums, single, first)]
    assert shown == [[1, 2, 3], [-1, -2, -3], [4, 5, 6, 7], ["4", "5", "6", "7"], [5, 7, 9], 9, [7, 8]]
