"""Branches, and pausing from within a task."""

import datetime
import itertools

import pytest

from flowloop.engine import Flow, Parameter, apply_map, context, tags, task, unmapped
from flowloop.engine.control import CompareValue, Merge, case, merge, pause_task, switch
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.operators import Constant
from flowloop.engine.signals import SKIP
from flowloop.engine.state import Failed, Paused, Resume, Skipped, Success, TriggerFailed
from flowloop.engine.triggers import always_run


@task
async def identity(x):
    return x


@task
async def inc(x):
    return x + 1


@task
async def fails(x=None):
    raise ValueError("no")


def kinds(state, *tasks):
    return [type(state.result[one]) for one in tasks]


# -- case ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"), [("a", [Success, Success, Skipped, Skipped]), ("b", [Skipped, Skipped, Success, Success])]
)
async def test_only_the_tasks_of_the_matching_block_run(value, expected):
    with Flow("cases") as flow:
        kind = identity(value)
        with case(kind, "a"):
            one = inc(1)
            two = inc(one)
        with case(kind, "b"):
            three = inc(1)
            four = inc(three)
    state = await flow.run()
    assert state.is_successful()
    assert kinds(state, one, two, three, four) == expected


async def test_a_case_that_nobody_is_in_adds_nothing():
    with Flow("empty") as flow:
        kind = identity(1)
        with case(kind, 1):
            pass
    assert set(flow.tasks) == {kind}


async def test_only_the_first_tasks_of_a_block_wait_for_the_comparison():
    with Flow("first") as flow:
        kind = identity(1)
        with case(kind, 1):
            first = inc(1)
            second = inc(first)
    (compared,) = flow.get_tasks(task_type=CompareValue)
    assert flow.upstream_tasks(first) == {compared}
    assert flow.upstream_tasks(second) == {first}
    assert flow.upstream_tasks(compared) == {kind}


async def test_a_task_of_a_block_that_takes_something_from_outside_is_skipped_too():
    with Flow("outside") as flow:
        kind, other = identity("x"), identity(5)
        with case(kind, "y"):
            taken = inc(other)
    state = await flow.run()
    assert kinds(state, other, taken) == [Success, Skipped]


async def test_a_task_that_was_there_before_is_not_part_of_the_block():
    with Flow("before") as flow:
        kind, before = identity("x"), inc(1)
        with case(kind, "y"):
            inside = inc(before)
    assert kinds(await flow.run(), before, inside) == [Success, Skipped]


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [(1, 1, [Success, Success]), (1, 2, [Success, Skipped]), (2, 1, [Skipped, Skipped]), (2, 2, [Skipped, Skipped])],
)
async def test_blocks_can_be_nested(outer, inner, expected):
    with Flow("nested") as flow:
        first, second = identity(outer), identity(inner)
        with case(first, 1):
            in_first = inc(1)
            with case(second, 1):
                in_both = inc(2)
    assert kinds(await flow.run(), in_first, in_both) == expected


async def test_a_parameter_made_in_a_block_belongs_to_the_whole_flow():
    with Flow("parameter") as flow:
        kind = identity(1)
        with case(kind, 2):
            p = Parameter("p", default=3)
            inside = inc(p)
    state = await flow.run()
    assert kinds(state, p, inside) == [Success, Skipped]


async def test_the_case_may_be_on_a_parameter():
    with Flow("parameter") as flow:
        which = Parameter("which")
        with case(which, "yes"):
            inside = inc(1)
    assert kinds(await flow.run(which="yes"), inside) == [Success]
    assert kinds(await flow.run(which="no"), inside) == [Skipped]


def test_a_case_on_a_task_as_value_is_refused():
    with Flow("bad") as flow:
        value = identity(1)
        with pytest.raises(FlowDefinitionError, match="not the task 'identity'"):
            case(value, value)
    assert len(flow.tasks) == 1


def test_a_case_outside_a_flow_is_refused():
    with pytest.raises(FlowDefinitionError, match=r"case\(\.\.\.\) was opened outside a flow"), case(identity, 1):
        pass


@pytest.mark.parametrize(
    ("condition", "remedy"),
    [(lambda one: one == 7, "is_equal"), (lambda one: one != 7, "is_equal"), (lambda one: 5, "")],
)
def test_a_condition_that_is_no_task_is_refused_with_the_remedy(condition, remedy):
    with Flow("condition"):
        made = identity(7)
        for use in (lambda: case(condition(made), True), lambda: switch(condition(made), {True: inc(1)})):
            with pytest.raises(FlowDefinitionError, match=rf"the condition is .*, not a task.*{remedy}"):
                use()


def test_the_cases_of_a_switch_are_a_dict():
    with Flow("cases"), pytest.raises(FlowDefinitionError, match=r"the cases are a dict of tasks by value, not \["):
        switch(identity(1), [inc(1)])


@task(skip_on_upstream_skip=False, trigger=always_run)
async def insists(x=None):
    return "ran"


INSIDE = {
    "a merge of what is outside": lambda a, b: merge(a, b),
    "a merge of one": lambda a, b: merge(a),
    "a merge of a plain value": lambda a, b: merge(a, 5),
    "a merge of a merge": lambda a, b: merge(merge(a), inc(b)),
    "a merge of something inside": lambda a, b: merge(inc(a), b),
    "a merge with a trigger of its own": lambda a, b: merge(a, b, trigger=always_run),
    "what is not skipped otherwise": lambda a, b: insists(a),
    "what is not skipped otherwise, behind another": lambda a, b: insists(inc(a)),
    "a map": lambda a, b: inc.map([1, 2]),
    "a mapped merge": lambda a, b: merge(identity.map([1]), identity.map([2]), mapped=True),
}


@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("taken", [True, False])
async def test_nothing_of_an_untaken_case_runs_whatever_it_takes_from_outside(inside, depth, taken):
    ran = []

    @task
    async def note(x):
        ran.append(x)

    with Flow("untaken") as flow:
        a, b, kind, other = (identity(value) for value in (1, 2, taken, True))
        with case(kind, True):
            if depth == 1:
                note(inside(a, b))
            else:
                with case(other, True):
                    made = inside(a, b)
                note(merge(made))
    state = await flow.run()
    assert state.is_successful()
    assert bool(ran) == taken


def test_a_block_that_fails_wires_nothing():
    with Flow("failed") as flow:
        kind = identity(1)
        with pytest.raises(ZeroDivisionError), case(kind, 1):
            inc(1 / 0)
        after = inc(1)
    assert set(flow.tasks) == {kind, after}
    assert not flow.edges


# -- switch and merge ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ["a", "b", "c", "other"])
async def test_switch_runs_the_task_of_the_value(chosen):
    with Flow("switch") as flow:
        ways = {name: inc(number, task_args={"name": name}) for number, name in enumerate("abc")}
        switch(identity(chosen), ways)
    state = await flow.run()
    assert state.is_successful()
    assert {name for name, way in ways.items() if not state.result[way].is_skipped()} == {chosen} - {"other"}


async def test_a_mapped_switch_chooses_for_each_element():
    with Flow("mapped") as flow:
        condition = identity.map(["a", "b", "a"])
        ways = {name: identity.map([f"{name}{n}" for n in range(3)]) for name in "ab"}
        switch(condition, ways, mapped=True)
        merged = merge(ways["a"], ways["b"], mapped=True)
    state = await flow.run()
    assert state.result[merged].result == ["a0", "b1", "a2"]


def test_switch_takes_tasks_only():
    with Flow("bad") as flow:
        condition = identity(1)
        with pytest.raises(FlowDefinitionError, match="the case 'a' is 5, not a task"):
            switch(condition, {"a": 5})
    assert set(flow.tasks) == {condition}


def test_the_comparisons_of_a_switch_are_tagged():
    with Flow("tags") as flow:
        switch(identity(1), {1: inc(1)})
    (compared,) = flow.get_tasks(task_type=CompareValue)
    assert compared.tags == {"switch"}


async def test_merge_has_the_result_of_the_branch_that_ran():
    for chosen in ("a", "b"):
        with Flow("diamond") as flow:
            kind = identity(chosen)
            with case(kind, "a"):
                first = identity("from a")
            with case(kind, "b"):
                second = identity("from b")
            merged = merge(first, second)
        state = await flow.run()
        assert state.result[merged].result == f"from {chosen}"


async def test_merge_is_skipped_when_every_branch_is():
    with Flow("none") as flow:
        kind = identity("c")
        with case(kind, "a"):
            first = identity(1)
        with case(kind, "b"):
            second = identity(2)
        merged = merge(first, second)
        after = inc(merged)
        told = task(lambda found: [found], name="told", skip_on_upstream_skip=False)(merged)
    state = await flow.run()
    assert state.is_successful()
    assert kinds(state, merged, after) == [Skipped, Skipped]
    assert state.result[told].result == [None]


async def test_merge_fails_when_a_branch_did():
    with Flow("failed") as flow:
        kind = identity("a")
        with case(kind, "a"):
            first = fails()
        with case(kind, "b"):
            second = identity(2)
        merged = merge(first, second)
    state = await flow.run()
    assert state.is_failed()
    assert kinds(state, first, second, merged) == [Failed, Skipped, TriggerFailed]


async def test_merge_takes_the_first_result_in_the_order_given_beyond_nine():
    values = [None] * 9 + ["tenth", None, "twelfth"]
    with Flow("many") as flow:
        merged = merge(*[identity(value) for value in values])
    assert (await flow.run()).result[merged].result == "tenth"


@pytest.mark.parametrize("value", [0, False, "", []])
async def test_a_result_that_is_not_true_is_a_result(value):
    with Flow("falsy") as flow:
        merged = merge(identity(None), identity(value), identity("later"))
    assert (await flow.run()).result[merged].result == value


async def test_merge_does_not_take_the_signal_of_a_task_that_skipped_itself():
    @task
    async def skips():
        raise SKIP("not today")

    with Flow("signal") as flow:
        merged = merge(skips(), identity("real"))
    assert (await flow.run()).result[merged].result == "real"


async def test_merge_takes_plain_values():
    with Flow("plain") as flow:
        kind = identity("b")
        with case(kind, "a"):
            first = identity("a")
        merged = merge(first, "otherwise")
    assert (await flow.run()).result[merged].result == "otherwise"


def test_merge_never_skips_because_a_branch_is_skipped():
    with pytest.raises(FlowDefinitionError, match="skip_on_upstream_skip=False"):
        Merge(skip_on_upstream_skip=True)


async def test_branches_inside_apply_map():
    def branches(n, step):
        with case(parity(n), 0):
            even = add(n, step)
        with case(parity(n), 1):
            odd = identity(n)
        return merge(even, odd)

    @task
    async def parity(n):
        return n % 2

    @task
    async def add(a, b):
        return a + b

    with Flow("apply") as flow:
        merged = apply_map(branches, identity([1, 2, 3, 4]), unmapped(10))
    state = await flow.run()
    assert state.is_successful()
    assert state.result[merged].result == [1, 12, 3, 14]


async def test_comparisons_are_part_of_the_registered_flow_but_written_by_nobody():
    with Flow("auto") as flow:
        with case(identity(1), 1):
            inc(1)
        made = [one for one in flow.tasks if one.auto_generated]
    assert [type(one) for one in made] == [CompareValue]
    assert not flow.get_tasks(task_type=Constant)


@pytest.mark.parametrize(("left", "right"), list(itertools.product([1, 1.0, True, "1", None], repeat=2)))
async def test_values_are_compared_by_equality(left, right):
    with Flow("equal") as flow, case(identity(left), right):
        inside = inc(1)
    assert (await flow.run()).result[inside].is_skipped() == (left != right)


# -- pause_task ----------------------------------------------------------------------------------------


async def test_a_task_pauses_itself_until_it_is_resumed():
    steps = []

    @task
    async def asks():
        steps.append("before")
        pause_task("please look")
        steps.append("after")

    with Flow("pause") as flow:
        made = asks()
    messages = []

    async def on_paused(paused, child, state):
        messages.append(state.message)
        return True

    assert (await flow.run(on_paused=on_paused)).is_successful()
    assert messages == ["please look"]
    assert steps == ["before", "before", "after"]
    state = await flow.run(on_paused=lambda *_: False)
    assert isinstance(state.result[made], Paused)


async def test_a_resumed_task_reads_what_it_was_answered():
    answer = {"value": 0.95, "note": "fine", "by": "ada", "at": "2026-01-01T00:00:00+00:00"}

    @task
    async def asks():
        return context.get("answer")

    with Flow("pause") as flow:
        made = asks()
    resumed = {
        made: Resume("fine", start_time=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), context={"answer": answer})
    }
    state = await flow.run(task_states=resumed)
    assert state.result[made].result == answer
    assert (await flow.run()).result[made].result is None


async def test_a_task_in_a_thread_pauses_itself():
    @task
    def asks():
        pause_task()
        return context.resume

    with Flow("pause") as flow:
        made = asks()
    state = await flow.run(on_paused=lambda *_: True)
    assert state.result[made].result is True


def test_tags_of_an_open_block_reach_what_flowloop_makes():
    with Flow("tags") as flow, tags("night"), case(identity(1), 1):
        inc(1)
    (compared,) = flow.get_tasks(task_type=CompareValue)
    assert compared.tags == {"night"}
