"""What a body gets that was said when the flow was built: tasks in containers, constants, defaults; and places."""

from __future__ import annotations

import collections
import dataclasses
import functools
import types
import typing
import warnings
from typing import Any

import msgspec
import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flowloop.engine import Flow, FlowRunner, Parameter, Task, defaults_from_attrs, flatten, merge, task, unmapped
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.results import LocalResult
from flowloop.engine.state import Success
from flowloop.engine.task import holds_task
from flowloop.engine.testing import run


@task
async def one() -> int:
    return 1


@task
async def same(x: Any) -> Any:
    return x


# -- tasks in containers -------------------------------------------------------------------------------


@dataclasses.dataclass
class Data:
    a: Any
    b: Any = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any = 5


class Named(typing.NamedTuple):
    a: Any
    b: Any = 5


class Model(BaseModel):
    a: Any
    b: Any = 5


class Struct(msgspec.Struct):
    a: Any
    b: Any = 5


class FrozenStruct(msgspec.Struct, frozen=True):
    a: Any


class Attrs:
    """Has its fields listed as a class of attrs has."""

    __attrs_attrs__ = (types.SimpleNamespace(name="a"),)

    def __init__(self, a: Any) -> None:
        self.a = a

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attrs) and self.a == other.a

    __hash__ = None  # type: ignore[assignment]


class Words(list[Any]):
    """A list of another type."""


CONTAINERS: dict[str, typing.Callable[[Any], Any]] = {
    "list": lambda x: [x, 2],
    "tuple": lambda x: (x, 2),
    "set": lambda x: {x, 2},
    "dict": lambda x: {"k": x, "l": 2},
    "key of a dict": lambda x: {x: "k"},
    "dataclass": lambda x: Data(x),
    "frozen dataclass with slots": lambda x: Frozen(x, b=[x]),
    "named tuple": lambda x: Named(x),
    "pydantic model": lambda x: Model(a=x),
    "msgspec struct": lambda x: Struct(x),
    "frozen msgspec struct": lambda x: FrozenStruct(x),
    "attrs class": lambda x: Attrs(x),
    "frozen set": lambda x: frozenset([x]),
    "deque with an end": lambda x: collections.deque([x, 2], maxlen=3),
    "ordered dict": lambda x: collections.OrderedDict(k=x),
    "default dict": lambda x: collections.defaultdict(list, k=x),
    "list of another type": lambda x: Words([x]),
    "deep": lambda x: [Data({"k": (Named(collections.deque([x])),)})],
}


@pytest.mark.parametrize("hold", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("mapped", [False, True])
def test_a_task_in_a_container_is_waited_for_and_the_type_is_kept(
    hold: typing.Callable[[Any], Any], mapped: bool
) -> None:
    with Flow("containers") as flow:
        made: Any = same.map([hold(one()), hold(3)]) if mapped else same(hold(one()))
    state = run(FlowRunner(flow).run())
    assert state.is_successful(), state.result
    assert state.result[made].result == ([hold(1), hold(3)] if mapped else hold(1))
    for found in state.result[made].result if mapped else [state.result[made].result]:
        assert type(found) is type(hold(1))
        if isinstance(found, collections.deque):
            assert found.maxlen == 3
        if isinstance(found, collections.defaultdict):
            assert found.default_factory is list


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


class Slotted:
    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held


class Odd(tuple[Any, ...]):
    def __new__(cls, first: Any) -> Odd:
        return super().__new__(cls, [first, first])


REFUSED: dict[str, typing.Callable[[Any], Any]] = {
    "generator": lambda x: (n for n in [x, x]),
    "map": lambda x: map(str, [x]),
    "iterator": lambda x: iter([x]),
    "values of a dict": lambda x: {"k": x}.values(),
    "items of a dict": lambda x: {"k": x}.items(),
    "read-only dict": lambda x: types.MappingProxyType({"k": x}),
    "user list": lambda x: collections.UserList([x]),
    "chain map": lambda x: collections.ChainMap({"k": x}),
    "namespace": lambda x: types.SimpleNamespace(a=x),
    "partial": lambda x: functools.partial(max, x),
    "object": lambda x: Holder(x),
    "object with slots": lambda x: Slotted(x),
    "exception": lambda x: ValueError("no", x),
    "array of objects": lambda x: numpy.array([x, None], dtype=object),
    "series": lambda x: pandas.Series([None, x], dtype=object),
    "table": lambda x: pandas.DataFrame({"n": [1], "x": [x]}),
    "object in a list": lambda x: [Holder([x])],
    "tuple that is made otherwise": lambda x: Odd(x),
}


@pytest.mark.parametrize("hold", REFUSED.values(), ids=REFUSED)
def test_a_task_where_its_result_cannot_take_its_place_is_refused_by_name(hold: typing.Callable[[Any], Any]) -> None:
    with Flow("refused"), pytest.raises(FlowDefinitionError, match=r"the argument 'x' of task 'same': a .*: pass "):
        same(hold(one()))


HOLD: dict[str, typing.Callable[[Any], Any]] = {
    "tuple": lambda x: (1, x),
    "list": lambda x: [{"k": x}],
    "record": lambda x: Data(x),
    "object": lambda x: Holder([x]),
}


@pytest.mark.parametrize("hold", HOLD.values(), ids=HOLD)
def test_a_task_in_a_default_is_refused_by_name(hold: typing.Callable[[Any], Any]) -> None:
    with pytest.raises(FlowDefinitionError, match="parameter 'p': its default holds a task"):
        Parameter("p", default=hold(one))
    held = hold(one)

    def body(x: Any = held) -> Any:
        return x

    with pytest.raises(FlowDefinitionError, match="task 'body': the default of its argument 'x' holds a task"):
        task(body)
    with pytest.raises(FlowDefinitionError, match="task 'Made': the default of its argument 'x' holds a task"):
        type("Made", (Task,), {"run": lambda self, x=held: x})


def test_a_large_default_is_not_searched_for_long() -> None:
    rows = [[0] * 1_000] * 1_000
    assert Parameter("p", default=rows).default is rows
    assert not holds_task([rows] * 1_000)


def test_a_default_that_can_be_read_once_is_refused_by_name() -> None:
    with pytest.raises(FlowDefinitionError, match=r"parameter 'p': its default can be read only once: give list"):
        Parameter("p", default=(n for n in range(3)))


def itself(kind: type) -> Any:
    made: Any = kind()
    made.append(made) if kind is list else made.update(k=made)
    return made


@pytest.mark.parametrize("kind", [list, dict])
def test_what_contains_itself_is_refused_by_name(kind: type) -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    for value in (itself(kind), [1, itself(kind)], deep):
        for use in (same, same.map, lambda x: same.map([x])):
            with Flow("itself"), pytest.raises(FlowDefinitionError, match=r"argument 'x' of task 'same': a .* itself"):
                use(value)


@pytest.mark.parametrize("kind", [list, dict])
def test_a_default_that_contains_itself_is_refused_by_name(kind: type) -> None:
    with pytest.raises(FlowDefinitionError, match="parameter 'p': its default contains itself, or is nested too deep"):
        Parameter("p", default=itself(kind))


async def test_what_is_nested_deep_is_shared() -> None:
    deep: list[Any] = []
    for _ in range(150):
        deep = [deep]
    with Flow("deep") as flow:
        made = same(deep)
    assert (await FlowRunner(flow).run()).result[made].result is deep


async def test_records_that_know_each_other_are_constants_as_they_are() -> None:
    first, second = Data(1), Data(2)
    first.b, second.b = second, first
    with Flow("circle") as flow:
        made = same(first)
    assert (await FlowRunner(flow).run()).result[made].result is first


# -- constants and defaults ----------------------------------------------------------------------------


def grown(value: Any) -> int:
    """Change a value and all that is in it, and say how large it was."""
    size = len(value)
    for inner in list(value.values() if isinstance(value, dict) else value):
        if isinstance(inner, (list, dict, set, tuple)):
            size += 100 * grown(inner)
    if isinstance(value, list):
        value.append(0)
    elif isinstance(value, set):
        value.add(f"new {len(value)}")
    elif isinstance(value, dict):
        value[f"new {len(value)}"] = 0
    return size


def attempts(sizes: list[int]) -> Any:
    @task(max_retries=1, retry_delay=0)
    async def changes(value: Any) -> int:
        sizes.append(grown(value))
        if len(sizes) % 2:
            raise ValueError("once more")
        return sizes[-1]

    return changes


def can_change(value: Any) -> bool:
    return isinstance(value, (list, dict, set)) or (isinstance(value, tuple) and any(map(can_change, value)))


plain = st.recursive(
    st.integers() | st.text(max_size=2) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=8,
).filter(lambda value: type(value) in (list, dict, set) or (type(value) is tuple and can_change(value)))

WAYS: dict[str, typing.Callable[[Any, Any], Any]] = {
    "constant": lambda body, value: body(value),
    "constant of each child": lambda body, value: body.map([value, value]),
    "default of a parameter": lambda body, value: body(Parameter("p", default=value)),
}


@pytest.mark.parametrize("way", WAYS)
@given(value=plain)
def test_each_run_attempt_and_child_gets_its_own(way: str, value: Any) -> None:
    expected = repr(value)
    sizes: list[int] = []
    with Flow("own") as flow:
        WAYS[way](attempts(sizes), value)
    for _ in range(2):
        run(FlowRunner(flow).run())
    assert len(set(sizes)) == 1
    assert repr(value) == expected


async def test_all_children_of_a_map_get_their_own_of_what_is_not_mapped_over() -> None:
    sizes: list[int] = []

    @task
    async def changes(n: int, value: Any) -> None:
        sizes.append(grown(value))

    with Flow("whole") as flow:
        changes.map([1, 2, 3], unmapped([1, [2]]))
        changes.map([1, 2], unmapped(Parameter("p", default=[1, [2]])))
    await FlowRunner(flow).run()
    assert set(sizes) == {102}


async def test_the_default_of_a_body_is_new_for_each_run() -> None:
    @task(max_retries=1, retry_delay=0)
    async def collects(n: int, seen: list[int] = []) -> list[int]:  # noqa: B006 - what this is about
        seen.append(n)
        if len(seen) == 1 and n == 2 and not again:
            again.append(1)
            raise ValueError
        return seen

    again: list[int] = []
    with Flow("defaults") as flow:
        each: Any = collects.map([1, 2, 3])
        given: Any = collects(4, seen=[9])
    for _ in range(2):
        state = await FlowRunner(flow).run()
        assert state.result[each].result == [[1], [2], [3]]
        assert state.result[given].result == [9, 4]
    assert await collects.run(5) == [5]


@pytest.mark.parametrize(
    ("value", "is_shared"),
    [
        (list(range(1_000)), False),
        (list(range(1_001)), True),
        ([list(range(600)), list(range(500))], True),
        ({n: [n] for n in range(400)}, False),
        ({n: [n] for n in range(600)}, True),
        (Words([1]), True),
        ((1, 2), True),
        ((1, ("a", ())), True),
        ((1, [2]), False),
        (((), ({},)), False),
        (([0], *range(1_000)), True),
        (Data([1]), True),
        (collections.OrderedDict(a=1), True),
    ],
)
async def test_only_small_plain_containers_are_copied(value: Any, is_shared: bool) -> None:
    with Flow("size") as flow:
        made = [same(value), same(Parameter("p", default=value))]
    state = await FlowRunner(flow).run()
    assert [state.result[one].result is value for one in made] == [is_shared] * 2
    assert all(state.result[one].result == value for one in made)


async def test_so_are_attributes_that_stand_in_for_arguments() -> None:
    class Collects(Task[..., Any]):
        def __init__(self, seen: list[int]) -> None:
            self.seen = seen
            super().__init__()

        @defaults_from_attrs("seen")
        async def run(self, n: int, seen: list[int] = []) -> list[int]:  # noqa: B006
            seen.append(n)
            return seen

    with Flow("attributes") as flow:
        each: Any = Collects([0]).map([1, 2])
    for _ in range(2):
        assert (await FlowRunner(flow).run()).result[each].result == [[0, 1], [0, 2]]


async def test_results_are_never_copied() -> None:
    held = [[1], [2]]

    @task
    async def gives() -> Any:
        return held

    with Flow("results") as flow:
        source = gives()
        whole, each = same(source), same.map(source)
        built: Any = same([source, [3]])
        merged: Any = merge(source)
    state = await FlowRunner(flow).run()
    assert state.result[whole].result is held
    assert state.result[merged].result is held
    assert state.result[built].result[0] is held
    assert [child.result is one for child, one in zip(state.result[each].map_states, held, strict=True)] == [True, True]


async def test_constants_that_are_changed_after_a_run_count_in_the_next() -> None:
    with Flow("changed") as flow:
        first, second = same(1), same([1])
    await FlowRunner(flow).run()
    flow.constants[first]["x"], flow.constants[second]["x"] = 2, [2]
    state = await FlowRunner(flow).run()
    assert (state.result[first].result, state.result[second].result) == (2, [2])
    assert isinstance(state, Success)


# -- one place for all children ------------------------------------------------------------------------


def in_flow(wire: typing.Callable[[], Any], result: Any = None) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with Flow("places", result=result) as flow:
            wire()
        flow.validate()
    return [str(one.message) for one in said]


@pytest.mark.parametrize(
    ("task_args", "flow_result"),
    [
        ({"target": "out.txt"}, None),
        ({"target": "{today}/out.txt", "result": LocalResult("d")}, None),
        ({"target": "{whole}.txt"}, None),
        ({"result": LocalResult("d", location="out.txt")}, None),
        ({}, LocalResult("d", location="{flow_run_id}.txt")),
    ],
)
def test_one_place_for_all_children_is_warned_of_by_name(task_args: dict[str, Any], flow_result: Any) -> None:
    @task(**task_args)
    async def saves(x: Any, whole: Any = 1) -> Any: ...

    said = in_flow(lambda: saves.map([1, 2]), flow_result)
    assert len(said) == 1
    assert "flow 'places': all children of the mapped task 'saves'" in said[0]
    assert "{map_index}" in said[0]
    assert in_flow(lambda: saves(1), flow_result) == []
    assert len(in_flow(lambda: saves.map(flatten([[1]])), flow_result)) == 1


@pytest.mark.parametrize(
    "task_args",
    [
        {"target": "{map_index}.txt"},
        {"target": "{x}.txt"},
        {"target": "{x.name}.txt"},
        {"target": "{x[0]}.txt"},
        {"target": "{task_full_name}.txt"},
        {"target": "{task_run_name}.txt", "task_run_name": "{x}"},
        {"target": lambda **_: "somewhere"},
        {"target": "{x"},
        {"result": LocalResult("d")},
        {"result": LocalResult("d", location="one"), "checkpoint": False},
    ],
)
def test_a_place_for_each_child_is_not_warned_of(task_args: dict[str, Any]) -> None:
    assert in_flow(lambda: Task.map(task(lambda x: x, name="saves", **task_args), [1, 2])) == []
