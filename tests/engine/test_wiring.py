"""Building flows: what becomes a task, an edge or a constant, and what cannot be."""

import gc
import itertools
import operator
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.engine import (
    Edge,
    Flow,
    FlowRunner,
    Parameter,
    Task,
    apply_map,
    flatten,
    mapped,
    tags,
    task,
    unmapped,
)
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.operators import Constant, Dict, GetItem, List, Set, Tuple
from flowloop.engine.testing import run


@task
async def inc(x):
    return x + 1


@task
async def add(a, b=0, *, c=0):
    return a + b + c


@task
async def identity(x):
    return x


@task
async def anything(**kwargs):
    return kwargs


def edges(flow):
    """The edges as (upstream name, downstream name, key, mapped, flattened)."""
    return sorted(
        [(e.upstream_task.name, e.downstream_task.name, e.key, e.mapped, e.flattened) for e in flow.edges], key=repr
    )


async def result_of(flow, *tasks):
    state = await FlowRunner(flow).run()
    assert state.is_successful(), state.result
    found = [state.result[one].result for one in tasks]
    return found[0] if len(tasks) == 1 else found


# -- inputs --------------------------------------------------------------------------------------------


def test_calling_copies_and_binding_does_not():
    with Flow("f") as flow:
        called = inc(1)
        own = inc.copy()
        assert own.bind(2) is own
    assert called is not inc
    assert inc not in flow.tasks
    assert flow.ordered_tasks() == [called, own]


def test_plain_values_are_constants_of_the_flow_and_no_tasks():
    with Flow("f") as flow:
        made = add(1, b=[2, {"three": (4, {5})}], c=None)
    assert flow.ordered_tasks() == [made]
    assert flow.constants == {made: {"a": 1, "b": [2, {"three": (4, {5})}], "c": None}}


@pytest.mark.parametrize(
    ("build", "expected", "kinds"),
    [
        (lambda one: [1, one], [1, 2], [List]),
        (lambda one: (one, one), (2, 2), [Tuple]),
        (lambda one: {one}, {2}, [Set]),
        (lambda one: {"a": one, "b": 3}, {"a": 2, "b": 3}, [Dict, List]),
        (lambda one: {one: "a"}, {2: "a"}, [Dict, List]),
        (lambda one: [{"a": (one, [one])}, 5], [{"a": (2, [2])}, 5], [Dict, List, List, List, Tuple]),
        (lambda one: [], [], []),
        (lambda one: [0] * 12 + [one], [0] * 12 + [2], [List]),
    ],
)
async def test_collections_that_contain_tasks_are_built_of_their_results(build, expected, kinds):
    with Flow("f") as flow:
        one = inc(1)
        made = identity(build(one))
    assert await result_of(flow, made) == expected
    others = [type(other) for other in flow.tasks if other not in (one, made)]
    assert sorted(kind.__name__ for kind in others) == sorted(kind.__name__ for kind in kinds)


async def test_the_same_task_may_be_several_inputs():
    with Flow("f") as flow:
        one = inc(1)
        made = add(one, one, c=one)
    assert await result_of(flow, made) == 6
    assert len(flow.edges) == 3


async def test_arguments_that_have_no_name_of_their_own_are_inputs_too():
    with Flow("f") as flow:
        made = anything(first=1, second=inc(1))
    assert await result_of(flow, made) == {"first": 1, "second": 2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add(), "task 'add': missing a required argument: 'a'; it is run"),
        (lambda: add(1, 2, 3), "task 'add': too many positional arguments"),
        (lambda: add(1, d=2), "task 'add': got an unexpected keyword argument 'd'"),
        (lambda: add(1, a=2), "task 'add': multiple values for argument 'a'"),
        (lambda: add.map([1], d=2), "task 'add': got an unexpected keyword argument 'd'"),
        (lambda: add(1, task_args={"colour": 1}), "task_args names 'colour'"),
        (lambda: add(1, task_args={"timeout": 0.5}), "task 'add': timeout is a whole number"),
        (lambda: add(1, upstream_tasks=inc(1)), "task 'add': upstream_tasks is a list of tasks, not the one 'inc'"),
        (lambda: add(1, upstream_tasks="inc"), "upstream_tasks is a list of tasks, not the one 'inc'"),
        (lambda: add(1, upstream_tasks=5), "upstream_tasks is a list of tasks, not the one 5"),
        (lambda: add(1).set_dependencies(downstream_tasks=inc(1)), "downstream_tasks is a list of tasks"),
        (lambda: inc(1).set_upstream(inc(2), key="zzz"), "task 'inc' has no argument 'zzz'; it has: x"),
        (lambda: inc(1).set_upstream(5, key="zzz"), "task 'inc' has no argument 'zzz'; it has: x"),
        (lambda: anything().set_upstream(inc(2), key="a b"), "has the key 'a b', which is not a name"),
        (lambda: anything().set_upstream(inc(2), key="class"), "has the key 'class', which is not a name"),
        (lambda: (lambda t: t.set_upstream(t))(inc(1)), "task 'inc' cannot depend on itself"),
        (lambda: Parameter("p").set_upstream(inc(1)), "parameter 'p' cannot wait for another task"),
        (lambda: Parameter("p")(1), "parameter 'p' takes no inputs"),
        (lambda: [Parameter("p"), Parameter("p")], "two tasks have the slug 'p'"),
        (lambda: [inc(1, task_args={"slug": "s"}) for _ in range(2)], "two tasks have the slug 's'; give one"),
        (
            lambda: inc.map(5),
            r"task 'inc' cannot be mapped over its argument 'x', 5: type int has no length.*unmapped\(...\)",
        ),
        (lambda: inc.map({"a": 1}), "cannot be mapped over its argument 'x', {'a': 1}: type dict has no length"),
        (
            lambda: inc.map("ab"),
            r"cannot be mapped over its argument 'x', 'ab': str is a type of text.*unmapped\(...\)",
        ),
        (lambda: inc.map(flatten("ab")), "cannot be mapped over its argument 'x', 'ab': str is a type of text"),
        (lambda: add.map([1], mapped(None)), "cannot be mapped over its argument 'b', None"),
    ],
)
def test_wrong_wiring_names_the_task_and_the_field(call, message):
    with pytest.raises(FlowDefinitionError, match=message), Flow("f"):
        call()


def test_an_input_has_one_source_and_a_task_takes_the_place_of_a_value():
    with Flow("f") as flow:
        first, second = inc(1), inc(2)
        made = inc.copy().bind(5)
        made.bind(6)
        assert flow.constants[made] == {"x": 6}
        made.bind(first)
        assert flow.constants[made] == {}
        made.bind(first)
        for other in (second, 7):
            with pytest.raises(FlowDefinitionError, match="the argument 'x' of task 'inc' has an input already"):
                made.bind(other)


# -- await forgotten -----------------------------------------------------------------------------------


async def fetch():
    return 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inc(fetch()), r"the argument 'x' of task 'inc' is the coroutine fetch\(\), which nobody has awaited"),
        (lambda: inc([1, {"a": fetch()}]), r"the argument 'x' of task 'inc' is the coroutine fetch\(\)"),
        (lambda: inc([inc(1), fetch()]), r"the argument 'x' of task 'inc' is the coroutine fetch\(\)"),
        (lambda: inc.map(fetch()), r"the argument 'x' of task 'inc' is the coroutine fetch\(\)"),
        (lambda: inc(1, upstream_tasks=[fetch()]), r"is the coroutine fetch\(\)"),
        (lambda: inc(1).set_upstream(fetch()), r"is the coroutine fetch\(\)"),
        (lambda: inc(1) + fetch(), r"the argument 'y' of task 'Add' is the coroutine fetch\(\)"),
    ],
)
def test_a_coroutine_is_no_input(call, message):
    with pytest.raises(FlowDefinitionError, match=message), Flow("f"):
        call()


async def test_a_coroutine_is_no_parameter():
    with Flow("f") as flow:
        Parameter("p")
    for start in (flow.run, FlowRunner(flow).run):
        with pytest.raises(FlowDefinitionError, match=r"parameter 'p' of flow 'f' is the coroutine fetch\(\)"):
            await start(parameters={"p": fetch()})


# -- operators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op",
    [
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
        operator.floordiv,
        operator.mod,
        operator.pow,
        operator.gt,
        operator.ge,
        operator.lt,
        operator.le,
    ],
)
async def test_operators_between_tasks_and_values(op):
    with Flow("f") as flow:
        seven, two = identity(7), identity(2)
        made = [op(seven, two), op(seven, 2), op(7, two)]
    assert await result_of(flow, *made) == [op(7, 2)] * 3


@pytest.mark.parametrize(("x", "y"), [(0, 0), (0, 3), (2, 0), (2, 3)])
async def test_logic_gives_one_of_the_two_values_as_python_does(x, y):
    with Flow("f") as flow:
        a, b = identity(x), identity(y)
        made = [a & b, a.and_(b), x & b, a & y, a.or_(b), a.not_(), a.is_equal(b), a.is_not_equal(y)]
    expected = [x and y, x and y, x and y, x and y, x or y, not x, x == y, x != y]
    found = await result_of(flow, *made)
    assert found == expected
    assert [type(one) for one in found] == [type(one) for one in expected]


async def test_a_bar_makes_a_chain():
    order = []

    def step(name):
        async def body():
            order.append(name)

        return task(name=name)(body)

    with Flow("f") as flow:
        last = step("a")() | step("b")() | step("c")()
        assert last.name == "c"
        assert (5 | last) is last
    assert [(u, d) for u, d, *_ in edges(flow)] == [("Constant[int]", "c"), ("a", "b"), ("b", "c")]
    await FlowRunner(flow).run()
    assert order == ["a", "b", "c"]


async def test_elements_are_taken_by_index():
    with Flow("f") as flow:
        data = identity({"a": [1, 2, 3], "key": "a"})
        made = [data["a"], data["a"][1], data["a"][0:2], data[data["key"]]]
    assert await result_of(flow, *made) == [[1, 2, 3], 2, [1, 2], [1, 2, 3]]
    names = [one.name for one in flow.get_tasks(task_type=GetItem)]
    assert names[:2] == ["identity['a']", "identity['a']"]
    assert "identity[identity['key']]" in names


def test_tasks_are_compared_as_objects():
    with Flow("f"):
        a, b = inc(1), inc(1)
        assert a == a
        assert a != b
        assert a in [b, a]
        assert len({a, b}) == 2


async def test_pipe_writes_from_left_to_right():
    with Flow("f") as flow:
        made = inc(1).pipe(add, 5).pipe(inc)
        sums = unmapped(identity(10)).pipe(lambda ten, values: add.map(values, ten), [1, 2])
    assert await result_of(flow, made, sums) == [8, [11, 12]]


def test_annotations_inside_an_edge_win_over_its_flags():
    up, down = identity.copy(name="up"), identity.copy(name="down")
    assert Edge(mapped(up), down, key="x") == Edge(up, down, key="x", mapped=True)
    assert Edge(unmapped(up), down, key="x", mapped=True) == Edge(up, down, key="x")
    assert Edge(flatten(mapped(up)), down, key="x") == Edge(up, down, key="x", mapped=True, flattened=True)
    flow = Flow("f", edges=[Edge(flatten(up), down, key="x", mapped=True)])
    assert edges(flow) == [("up", "down", "x", True, True)]


@pytest.mark.parametrize("wrong", ["up", None, 5])
def test_an_edge_leads_from_one_task_to_another(wrong):
    for ends in ((wrong, identity), (identity, wrong), (mapped(wrong), identity)):
        with pytest.raises(FlowDefinitionError, match=f"an edge leads from one task to another, and {wrong!r} is none"):
            Edge(*ends)
    with pytest.raises(FlowDefinitionError, match="has the key 5, which is not a name"):
        Edge(identity, inc, key=5)


# -- mapping -------------------------------------------------------------------------------------------


def test_annotations_win_over_flags():
    with Flow("f") as flow:
        one, two, three = (identity([n]).copy(name=str(n)) for n in range(3))
        add.map(one, unmapped(two), c=flatten(three))
        add(mapped(one), two, c=flatten(three))
        flow.add_edge(unmapped(one), inc.copy(), key="x", mapped=True)
    assert {e[2:] for e in edges(flow) if e[1] == "add" and e[0] == "0"} == {("a", True, False)}
    assert sorted(e[2:] for e in edges(flow) if e[1] == "add" and e[0] != "0") == [
        ("b", False, False),
        ("b", False, False),
        ("c", False, True),
        ("c", True, True),
    ]
    assert ("0", "inc", "x", False, False) in edges(flow)


@pytest.mark.parametrize(
    ("annotate", "expected"),
    [
        (unmapped, (False, False)),
        (mapped, (True, False)),
        (flatten, (None, True)),
        (lambda v: unmapped(flatten(v)), (False, True)),
        (lambda v: flatten(unmapped(v)), (False, True)),
        (lambda v: mapped(unmapped(v)), (True, False)),
    ],
)
def test_annotations_can_be_nested(annotate, expected):
    made = annotate(5)
    assert made.value == 5
    assert (made.mapped, made.flattened) == expected


async def test_mapping_with_constants():
    with Flow("f") as flow:
        sums = add.map([1, 2], [10, 20], c=unmapped(100))
        letters = identity.map(mapped("ab"))
        ranged = inc.map(range(3))
        none = inc.map([])
    assert await result_of(flow, sums, letters, ranged, none) == [[111, 122], ["a", "b"], [1, 2, 3], []]
    assert {type(one) for one in flow.tasks if one.auto_generated} == {Constant}
    assert flow.constants[sums] == {"c": 100}


async def test_mapping_over_what_is_waited_for():
    with Flow("f") as flow:
        made = inc.map(x=unmapped(1), upstream_tasks=[[7, 8, 9]])
    assert await result_of(flow, made) == [2, 2, 2]


async def test_apply_map_maps_everything_a_function_wires():
    def both(n, factor):
        first = add(n, factor)
        return first, inc(first)

    with Flow("f") as flow:
        numbers = identity([1, 2, 3])
        sums, more = apply_map(both, numbers, unmapped(10))
    assert await result_of(flow, sums, more) == [[11, 12, 13], [12, 13, 14]]


async def test_apply_map_maps_tasks_without_inputs_as_often_and_leaves_parameters_whole():
    ran = []

    @task
    async def tick():
        ran.append(1)
        return len(ran)

    def function(n):
        p = Parameter("p", default=100)
        return tick(), add(n, p)

    with Flow("f") as flow:
        ticks, sums = apply_map(function, [1, 2])
    assert await result_of(flow, sums, ticks) == [[101, 102], [1, 2]]


@given(
    xs=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    ys=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    places=st.lists(st.sampled_from(["xs", "ys", "whole xs", "whole 7"]), min_size=1, max_size=3),
    used=st.lists(st.integers(0, 2), max_size=3),
    flow_is_given=st.booleans(),
)
def test_apply_map_computes_what_a_loop_over_the_arguments_computes(xs, ys, places, used, flow_is_given):
    """Whatever the function uses of what it is given, and wherever the same task stands."""

    def of_values(*values):
        shown = [values[n] for n in used if n < len(values)]
        return [[*shown, 5], len(shown)]

    def function(*values, **_):
        shown = [values[n] for n in used if n < len(values)]
        return anything(a=[*shown, 5], b=len(shown))

    with Flow("loop") as flow:
        tasks = {"xs": identity(xs), "ys": identity(ys)}
        ways = {"xs": tasks["xs"], "ys": tasks["ys"], "whole xs": unmapped(tasks["xs"]), "whole 7": unmapped(7)}
        is_mapped = {"xs", "ys"} & set(places)
        if not is_mapped:
            with pytest.raises(FlowDefinitionError, match="no argument is mapped over"):
                apply_map(function, *[ways[one] for one in places])
            return
        if not flow_is_given:
            made = apply_map(function, *[ways[one] for one in places])
    if flow_is_given:
        made = apply_map(function, *[ways[one] for one in places], flow=flow)
    state = run(FlowRunner(flow).run())
    width = min(len({"xs": xs, "ys": ys}[one]) for one in is_mapped)
    elements = [
        {"xs": x, "ys": y, "whole xs": xs, "whole 7": 7}
        for x, y in itertools.islice(itertools.zip_longest(xs, ys), width)
    ]
    expected = [of_values(*[one[place] for place in places]) for one in elements]
    assert [[found["a"], found["b"]] for found in state.result[made].result] == expected
    for place in set(places) - {"whole 7"}:
        assert made in flow.sorted_tasks([tasks[place.removeprefix("whole ")]]), (
            "it waits for what it does not use, too"
        )


def test_apply_map_gives_the_flow_to_a_function_that_asks_for_it():
    flow = Flow("asks")

    def function(x, y, flow):
        first = inc.copy().bind(x, flow=flow)
        return inc.copy(name="last").bind(first, flow=flow), y

    last, whole = apply_map(function, [1, 2], unmapped([3]), flow=flow)
    state = run(FlowRunner(flow).run())
    assert state.result[last].result == [3, 4]
    assert state.result[whole].result == [3]


async def test_apply_map_passes_whole_what_the_function_takes_from_outside():
    with Flow("closure") as flow:
        outer, numbers = identity([7]), identity([1, 2])
        mapped_outer = inc.map(numbers)
        made = apply_map(lambda x: anything(x=x, outer=outer, all=mapped_outer), numbers)
    assert await result_of(flow, outer) == [7]
    assert await result_of(flow, made) == [{"x": n, "outer": [7], "all": [2, 3]} for n in (1, 2)]


def test_apply_map_takes_no_text_to_pieces_unless_asked():
    with Flow("text") as flow:
        with pytest.raises(FlowDefinitionError, match="apply_map of 'wire': argument 1, 'ab', is a text"):
            apply_map(wire, "ab")
        made = apply_map(wire, mapped("ab"))
    assert run(FlowRunner(flow).run()).result[made].result == ["a", "b"]


def wire(x):
    return identity(x)


def test_apply_map_refuses_to_map_twice():
    with pytest.raises(FlowDefinitionError, match="a function given to apply_map cannot map"), Flow("f"):
        apply_map(lambda n: inc.map(n), [[1]])


# -- the graph -----------------------------------------------------------------------------------------


def diamond():
    with Flow("diamond") as flow:
        top = inc(1)
        left, right = inc(top), add(top)
        bottom = add(left, right)
    return flow, top, left, right, bottom


def test_the_tasks_and_edges_are_sets_apart_from_the_flow():
    flow, top, *_ = diamond()
    assert type(flow.tasks) is type(flow.edges) is set
    flow.tasks.clear()
    flow.edges.clear()
    assert top in flow.tasks
    assert len(flow.edges) == 4


async def test_reference_tasks_can_be_taken_over_too():
    def flows():
        with Flow("one") as one:
            p = Parameter("p", default=1)
            first = inc(p)
            inc(first)
        with Flow("two") as two:
            second = inc(5)
            inc(second)
        one.set_reference_tasks([first, p])
        two.set_reference_tasks([second])
        return one, two, first, second, p

    one, two, first, second, p = flows()
    one.update(two)
    assert one.reference_tasks() == {first, p}
    one, two, first, second, p = flows()
    one.update(two, merge_reference_tasks=True)
    assert one.reference_tasks() == {first, second, p}
    one, two, first, second, p = flows()
    with two:
        q = Parameter("p", default=2)
    one.update(two, merge_parameters=True, merge_reference_tasks=True)
    assert one.reference_tasks() == {first, second, q}


def test_a_flow_that_cannot_run_has_no_document():
    flow = Flow("f", tasks=[add.copy()])
    with pytest.raises(FlowDefinitionError, match="needs the argument 'a'"):
        flow.serialize()


def test_questions_about_the_graph():
    flow, top, left, right, bottom = diamond()
    assert flow.root_tasks() == {top}
    assert flow.terminal_tasks() == flow.reference_tasks() == {bottom}
    assert flow.upstream_tasks(bottom) == {left, right}
    assert flow.downstream_tasks(top) == {left, right}
    assert {e.key for e in flow.edges_to(bottom)} == {"a", "b"}
    assert flow.edges_from(bottom) == set()
    assert flow.all_upstream_edges()[left] == flow.edges_to(left)
    assert flow.all_downstream_edges()[left] == flow.edges_from(left)
    assert flow.sorted_tasks() == (top, left, right, bottom)
    assert flow.sorted_tasks([right]) == (right, bottom)
    assert flow.sorted_tasks([]) == flow.sorted_tasks()
    assert list(flow) == [top, left, right, bottom]
    assert flow.get_tasks(name="inc") == [top, left]
    assert flow.get_tasks(name="add", slug="add-2") == [bottom]
    assert flow.parameters() == set()
    assert top in flow
    assert inc not in flow
    assert "inc" not in flow


@pytest.mark.parametrize(
    "ask",
    [
        lambda flow: flow.edges_to(inc),
        lambda flow: flow.edges_from("inc"),
        lambda flow: flow.upstream_tasks([]),
        lambda flow: flow.sorted_tasks([inc]),
        lambda flow: flow.set_reference_tasks([inc]),
        lambda flow: flow.replace(inc, add),
    ],
)
def test_unknown_tasks_are_named(ask):
    flow, *_ = diamond()
    with pytest.raises(FlowDefinitionError, match=r"task ('inc'|\[\]) is not in flow 'diamond'"):
        ask(flow)


def test_answers_change_with_the_graph():
    flow, top, *_, bottom = diamond()
    assert flow.terminal_tasks() == {bottom}
    with flow:
        last = inc(bottom)
    assert flow.terminal_tasks() == {last}
    assert flow.sorted_tasks()[-1] is last
    first = inc.copy(name="first")
    flow.add_edge(first, top)
    assert flow.root_tasks() == {first}


def test_what_is_returned_can_be_changed_without_changing_the_flow():
    flow, top, *_ = diamond()
    flow.root_tasks().clear()
    flow.edges_to(top).add("x")
    flow.reference_tasks().clear()
    assert flow.root_tasks() == {top}
    assert flow.edges_to(top) == set()
    assert flow.reference_tasks()


def test_reference_tasks():
    flow, top, *_, bottom = diamond()
    flow.set_reference_tasks([top])
    assert flow.reference_tasks() == {top}
    flow.set_reference_tasks([])
    assert flow.reference_tasks() == {bottom}


def test_a_cycle_names_its_tasks():
    with Flow("round") as flow:
        a, b, c, d = (inc(0, task_args={"name": name}) for name in "abcd")
        a.set_upstream(d)
        a | b | c | a
    with pytest.raises(FlowDefinitionError, match="flow 'round' has a cycle: ") as raised:
        flow.validate()
    names = str(raised.value).partition(": ")[2].split(" -> ")
    assert names[0] == names[-1]
    follows = {("a", "b"), ("b", "c"), ("c", "a")}
    assert set(itertools.pairwise(names)) == follows
    for build in (flow.sorted_tasks, lambda: flow.add_edge(a, inc.copy(), validate=True)):
        with pytest.raises(FlowDefinitionError, match="has a cycle"):
            build()
    with pytest.raises(FlowDefinitionError, match="has a cycle"):
        Flow("at once", tasks=[a], edges=[Edge(a, b), Edge(b, a)], validate=True)


async def test_a_missing_input_is_found_before_anything_runs():
    flow = Flow("f", tasks=[add.copy()])
    with pytest.raises(FlowDefinitionError, match="flow 'f': task 'add' needs the argument 'a', and nothing is"):
        flow.validate()
    with pytest.raises(FlowDefinitionError, match="needs the argument 'a'"):
        await FlowRunner(flow).run()


def test_edges():
    a, b = inc.copy(name="a"), inc.copy(name="b")
    edge = Edge(a, b, key="x", mapped=True)
    assert edge == Edge(a, b, key="x", mapped=True)
    assert hash(edge) == hash(Edge(a, b, "x", True))
    assert edge != Edge(a, b, key="x")
    assert edge != "edge"
    assert edge.tasks == {a, b}
    assert repr(edge) == "<Edge (key=x): a to b>"
    flow = Flow("f")
    assert flow.add_edge(a, b, key="x") is not None
    assert flow.add_edge(a, b, key="x") == Edge(a, b, key="x")
    assert len(flow.edges) == 1


def test_chain():
    flow = Flow("f")
    a, b, c = (identity.copy(name=name) for name in "abc")
    assert flow.chain(a, b, c) == [Edge(a, b), Edge(b, c)]


def test_dependencies_by_name():
    flow = Flow("f")
    a, b, c = (anything.copy(name=name) for name in "abc")
    b.set_dependencies(flow, upstream_tasks=[a], downstream_tasks=[c], keyword_tasks={"x": a, "y": 5})
    c.set_upstream(a, flow=flow, key="z", mapped=True)
    a.set_downstream(c, flow=flow)
    assert edges(flow) == [
        ("a", "b", "x", False, False),
        ("a", "b", None, False, False),
        ("a", "c", "z", True, False),
        ("a", "c", None, False, False),
        ("b", "c", None, False, False),
    ]
    assert flow.constants == {b: {"y": 5}}


# -- slugs ---------------------------------------------------------------------------------------------


def test_slugs_are_name_tags_and_number_and_the_same_each_time():
    def build():
        with Flow("f") as flow:
            inc(1)
            inc(1)
            with tags("b", "a"):
                inc(1)
            inc(1, task_args={"slug": "own"})
            Parameter("p")
        return list(flow.slugs.values())

    assert build() == build() == ["inc-1", "inc-2", "inc-a-b-1", "own", "p"]


def test_a_made_slug_steps_aside_for_a_given_one():
    with Flow("f") as flow:
        inc(1, task_args={"slug": "inc-1"})
        inc(1)
    assert list(flow.slugs.values()) == ["inc-1", "inc-2"]


# -- changing and copying ------------------------------------------------------------------------------


def test_a_copy_of_a_flow_is_equal_until_one_is_changed():
    flow, top, *_ = diamond()
    flow.set_reference_tasks([top])
    again = flow.copy()
    assert again == flow
    assert again is not flow
    assert again.slugs == flow.slugs
    with again:
        inc(top)
    assert again != flow
    assert len(again.tasks) == len(flow.tasks) + 1
    assert flow.edges_from(top) < again.edges_from(top)
    again.constants[top]["x"] = 9
    assert flow.constants[top] == {"x": 1}
    assert flow.reference_tasks() == {top}


def test_flows_are_equal_by_what_is_in_them():
    a, b = inc.copy(), inc.copy()
    first, second = Flow("f", tasks=[a, b]), Flow("f", tasks=[b, a])
    assert first == second
    assert first != Flow("g", tasks=[a, b])
    second.add_edge(a, b)
    assert first != second
    assert first != "f"
    assert len({first, second}) == 2


async def test_update_takes_over_tasks_edges_and_constants():
    with Flow("one") as one:
        p = Parameter("p", default=1)
        a = inc(p)
    with Flow("two") as two:
        q = Parameter("p", default=5)
        b = add(q, 10)
    one.copy().update(Flow("empty"))
    with pytest.raises(FlowDefinitionError, match="two tasks have the slug 'p'"):
        one.copy().update(two)
    taken, before = one.copy(), one.copy()
    with pytest.raises(FlowDefinitionError, match="two tasks have the slug 'p'"):
        taken.update(two)
    assert taken == before
    assert taken.slugs == before.slugs
    one.update(two, merge_parameters=True)
    assert one.parameters() == {q}
    assert await result_of(one, a, b) == [6, 15]
    assert sorted(one.slugs.values()) == ["add-1", "inc-1", "p"]


async def test_replace_puts_a_task_or_a_value_in_the_place_of_a_task():
    with Flow("f") as flow:
        a = inc(1)
        b = inc(a)
        c = inc(b)
    flow.set_reference_tasks([b])
    double = task(lambda x: 2 * x, name="double")
    flow.replace(b, double)
    assert flow.reference_tasks() == {double}
    assert b not in flow
    assert await result_of(flow, c) == 5
    flow.replace(a, 10)
    assert await result_of(flow, c) == 21
    before = flow.copy()
    with pytest.raises(FlowDefinitionError, match="task 'Other' has no argument 'x'"):
        flow.replace(double, type("Other", (Task,), {"run": lambda self: 1})())
    assert flow == before
    assert flow.slugs == before.slugs
    assert await result_of(flow, c) == 21


# -- the block -----------------------------------------------------------------------------------------


def test_tasks_that_are_made_and_not_used_are_named():
    def build():
        with Flow("f"):
            Task(name="other")
            task(lambda: 1, name="forgotten")
            task(lambda: 1, name="called")()
            inc(task(lambda: 1, name="input")())

    with pytest.warns(UserWarning, match="flow 'f': .*not part of it: forgotten, other"):
        build()


def test_nothing_is_said_of_what_was_made_elsewhere_or_when_the_block_failed():
    made = Task(name="elsewhere")
    with Flow("f"):
        pass
    with pytest.raises(ZeroDivisionError), Flow("f"):
        inc(Task(name="lost", nout=1 // 0))
    assert made.name == "elsewhere"


def test_blocks_can_be_opened_again_and_nested():
    with Flow("outer") as outer:
        a = inc(1)
        with Flow("inner") as inner:
            b = inc(2)
        c = inc(a)
    with inner:
        d = inc(b)
    assert set(outer.tasks) == {a, c}
    assert set(inner.tasks) == {b, d}


def test_a_task_can_be_part_of_several_flows():
    with Flow("one") as one:
        a = inc(1)
    with Flow("two") as two:
        inc(0)
        inc(a)
    assert one.slugs[a] == "inc-1"
    assert two.slugs[a] == "inc-3"
    assert two.constants.get(a) is None


def test_flow_as_an_argument_needs_no_block():
    flow = Flow("f")
    a = inc(1, flow=flow)
    b = add.map([1, a], flow=flow)
    assert {a, b} < set(flow.tasks)
    with Flow("open") as other:
        c = inc([a], flow=flow)
    assert c in flow
    assert not other.tasks


# -- any graph -----------------------------------------------------------------------------------------


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 12))
    pairs = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))
    return size, sorted({(min(p), max(p)) for p in draw(st.lists(pairs, max_size=30)) if p[0] != p[1]})


@given(graphs())
def test_any_graph_is_sorted_copied_and_taken_over(graph):
    size, pairs = graph
    made = [anything.copy(name=str(n)) for n in range(size)]
    flow = Flow("any", tasks=made, edges=[Edge(made[a], made[b]) for a, b in pairs])
    flow.validate()
    place = {one: n for n, one in enumerate(flow.sorted_tasks())}
    assert len(place) == size
    assert all(place[made[a]] < place[made[b]] for a, b in pairs)
    assert flow.root_tasks() == {made[n] for n in range(size)} - {made[b] for _, b in pairs}
    assert flow.terminal_tasks() == {made[n] for n in range(size)} - {made[a] for a, _ in pairs}
    assert flow.copy() == flow
    taken = Flow("any")
    taken.update(flow)
    assert taken == flow
    assert taken.slugs == flow.slugs
    reached = set(flow.sorted_tasks([made[0]]))
    below = {0}
    for a, b in pairs:
        if a in below:
            below.add(b)
    assert reached == {made[n] for n in below}


@given(graphs(), st.data())
def test_any_cycle_is_found_and_told(graph, data):
    size, pairs = graph
    if not pairs:
        return
    made = [anything.copy(name=str(n)) for n in range(size)]
    flow = Flow("any", tasks=made, edges=[Edge(made[a], made[b]) for a, b in pairs])
    a, b = data.draw(st.sampled_from(pairs))
    flow.add_edge(made[b], made[a])
    with pytest.raises(FlowDefinitionError, match="has a cycle") as raised:
        flow.validate()
    names = [int(name) for name in str(raised.value).partition("cycle: ")[2].split(" -> ")]
    assert names[0] == names[-1]
    assert all(step in {*pairs, (b, a)} for step in itertools.pairwise(names))


def test_building_and_checking_take_as_many_steps_for_each_task_however_many_there_are():
    def steps(size):
        count = 0

        def counted(*_):
            nonlocal count
            count += 1

        gc.collect()
        gc.disable()  # what it calls, of whatever was there before, would be counted, too
        sys.setprofile(counted)
        try:
            with Flow("large") as flow:
                last = inc(0)
                for _ in range(size):
                    last = last + inc(1)
                identity([inc(n) for n in range(size)])
            flow.validate()
        finally:
            sys.setprofile(None)
            gc.enable()
        return count

    steps(100)
    small, middle, large = steps(100), steps(200), steps(400)
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.02)
