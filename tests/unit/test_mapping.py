"""Mapping: how many children there are, and what each of them gets."""

from __future__ import annotations

import array
import collections
from collections import UserString
from collections.abc import Sequence
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flowloop.engine._run import mapping
from flowloop.engine.edge import Edge
from flowloop.engine.result import NotStored, Result
from flowloop.engine.state import Failed, Mapped, Skipped, State, Success
from flowloop.engine.task import Task

DOWN = Task(name="down")


def edge(name: str, *, mapped: bool = True, flattened: bool = False) -> Edge:
    return Edge(Task(name=name), DOWN, key=name, mapped=mapped, flattened=flattened)


def children(*values: Any) -> Mapped:
    return Mapped(map_states=[value if isinstance(value, State) else Success(result=value) for value in values])


def seen_by(upstream: dict[Edge, State], child: int) -> dict[str | None, Any]:
    return {one.key: state.result for one, state in mapping.child_states(mapping.sources(upstream), child).items()}


# -- plain mapping -------------------------------------------------------------------------------------

values = st.lists(st.integers(), max_size=6)


@given(st.lists(values, min_size=1, max_size=4), st.lists(st.integers(), max_size=2))
def test_children_get_the_elements_side_by_side_and_the_unmapped_values_whole(
    given_lists: list[list[int]], whole: list[int]
) -> None:
    upstream: dict[Edge, State] = {edge(f"x{n}"): Success(result=found) for n, found in enumerate(given_lists)}
    upstream |= {edge(f"whole{n}", mapped=False): Success(result=value) for n, value in enumerate(whole)}
    expected = list(zip(*given_lists, strict=False))  # to the shortest
    assert mapping.unmappable(upstream) is None
    assert mapping.width(upstream) == len(expected)
    for child, row in enumerate(expected):
        seen = seen_by(upstream, child)
        assert [seen[f"x{n}"] for n in range(len(given_lists))] == list(row)
        assert [seen[f"whole{n}"] for n in range(len(whole))] == whole


@given(values)
def test_the_children_of_a_mapped_task_are_mapped_over_as_a_list_is(found: list[int]) -> None:
    over = edge("x")
    assert mapping.width({over: children(*found)}) == mapping.width({over: Success(result=found)}) == len(found)
    for child in range(len(found)):
        assert seen_by({over: children(*found)}, child) == seen_by({over: Success(result=found)}, child)


def test_a_child_sees_the_state_of_the_child_upstream_and_not_only_its_value() -> None:
    over, failed = edge("x"), Failed("no")
    upstream: dict[Edge, State] = {over: children(1, failed)}
    assert mapping.child_states(mapping.sources(upstream), 1)[over] is failed


@pytest.mark.parametrize("value", [[1, 2], (1, 2), range(2), collections.deque([1, 2]), array.array("i", [1, 2])])
def test_what_has_a_length_and_an_order_can_be_mapped_over(value: Sequence[Any]) -> None:
    upstream: dict[Edge, State] = {edge("x"): Success(result=value)}
    assert mapping.unmappable(upstream) is None
    assert mapping.width(upstream) == 2
    assert [seen_by(upstream, child)["x"] for child in range(2)] == list(value)


def test_an_array_can_be_mapped_over() -> None:
    upstream: dict[Edge, State] = {edge("x"): Success(result=numpy.array([[1, 2], [3, 4]]))}
    assert mapping.unmappable(upstream) is None
    assert list(seen_by(upstream, 1)["x"]) == [3, 4]


@pytest.mark.parametrize(
    "value", [5, None, {"a": 1}, {1, 2}, iter([1]), "ab", b"ab", bytearray(b"ab"), UserString("ab"), list]
)
def test_what_has_not_is_an_error_that_names_the_task_and_what_came(value: Any) -> None:
    problem = mapping.unmappable({edge("loader"): Success(result=value), edge("x"): Success(result=[1])})
    assert problem is not None
    assert "'loader'" in problem
    assert type(value).__name__ in problem


# -- failures upstream ---------------------------------------------------------------------------------


def test_nothing_can_be_mapped_over_when_every_mapped_task_failed() -> None:
    problem = mapping.unmappable({edge("one"): Failed(), edge("two"): Failed(), edge("c", mapped=False): Success()})
    assert problem is not None
    assert "one is Failed" in problem
    assert "two is Failed" in problem


def test_a_failed_task_is_passed_whole_when_another_gives_the_width() -> None:
    failed, over = edge("failed"), edge("over")
    upstream: dict[Edge, State] = {failed: Failed("no", result="why"), over: Success(result=[1, 2, 3])}
    assert mapping.unmappable(upstream) is None
    assert mapping.width(upstream) == 3
    assert seen_by(upstream, 2) == {"failed": "why", "over": 3}


# -- flatten -------------------------------------------------------------------------------------------

nested = st.lists(st.one_of(st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=3)), max_size=5)


def flat(value: list[Any]) -> list[Any]:
    """One level of nesting taken out, said in the plainest way."""
    found: list[Any] = []
    for item in value:
        found += item if isinstance(item, list) else [item]
    return found


@given(nested)
def test_flatten_takes_out_one_level(value: list[Any]) -> None:
    assert mapping.flat_values(value) == flat(value)


@given(nested)
def test_flattening_a_value_and_the_children_with_that_value_is_the_same(value: list[Any]) -> None:
    over = edge("x", flattened=True)
    as_value: dict[Edge, State] = {over: Success(result=value)}
    as_children: dict[Edge, State] = {over: children(*value)}
    expected = flat(value)
    assert mapping.width(as_value) == mapping.width(as_children) == len(expected)
    for child, item in enumerate(expected):
        assert seen_by(as_value, child)["x"] == seen_by(as_children, child)["x"] == item


class Record(BaseModel):
    """Iterates over pairs of names and values."""

    a: int = 1
    b: int = 2


class Shelf:
    """A sequence that does not say so: it can be indexed, and has a length."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        return self._values[index]


class Table(Shelf):
    """A table that is known by its columns alone."""

    columns = ("a", "b")


class Frame(Shelf):
    """A table that other libraries can read."""

    def __dataframe__(self) -> None: ...


class Unreadable(Shelf):
    """A sequence whose elements are gone."""

    def __getitem__(self, index: int) -> Any:
        raise OSError("the disk is gone")


NO_COLLECTIONS = [
    5,
    None,
    "text",
    b"bytes",
    bytearray(b"b"),
    UserString("ab"),
    {"a": 1},
    Record(),
    pandas.DataFrame({"a": [1, 2]}),
    Table(1, 2),
    Frame(1, 2),
    list,
]


@pytest.mark.parametrize("value", NO_COLLECTIONS, ids=lambda value: type(value).__name__)
def test_flatten_passes_on_what_is_not_a_collection(value: Any) -> None:
    over = edge("x", flattened=True)
    assert mapping.flat_values(value) is value
    taken = mapping.flat_values([value, [1]])
    assert taken[0] is value
    assert taken[1:] == [1]
    assert mapping.unmappable({over: Success(result=value)}) is not None
    elements = mapping.elements_of(over, children(value, [1]))
    assert elements is not None
    assert elements[0].result is value
    assert len(elements) == 2


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1, 2},
        frozenset([1, 2]),
        range(1, 3),
        collections.deque([1, 2]),
        {1: "a", 2: "b"}.keys(),
        array.array("i", [1, 2]),
        numpy.array([1, 2]),
        pandas.Series([1, 2], index=[7, 5]),
        Shelf(1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_flatten_takes_every_collection_out_by_position(value: Any) -> None:
    assert mapping.flat_values([[0], value, 3]) == [0, 1, 2, 3]
    over = edge("x", flattened=True)
    elements = mapping.elements_of(over, children([0], value, 3))
    assert elements is not None
    assert [one.result for one in elements] == [0, 1, 2, 3]


# -- by position, and what cannot be read --------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("text", "str is a type of text, and a text is one value. Make a list of it"),
        (Table(1, 2), "Table is a type of table, which is iterated over by column. Make a list of its rows."),
        (5, "type int has no length and order. Return a list."),
    ],
)
def test_what_cannot_be_mapped_over_is_named_with_the_remedy(value: Any, why: str) -> None:
    said = mapping.unmappable({edge("x"): Success(result=value)})
    assert said is not None
    assert said.startswith(f"Cannot map over the result of task 'x': {why}")


def test_children_that_are_not_here_are_counted_and_a_failure_has_none() -> None:
    assert mapping.width({edge("x"): Mapped(n_map_states=3)}) == 3
    assert mapping.width({edge("x"): Failed()}) == 0


@pytest.mark.parametrize(
    ("child", "said"),
    [
        (Success(result=Unreadable(1, 2)), "cannot be read: OSError('the disk is gone')."),
        (Success(result=NotStored), "cannot be read."),
    ],
)
def test_a_child_that_cannot_be_flattened_says_so(child: State, said: str) -> None:
    elements = mapping.elements_of(edge("x", flattened=True), children(child, [1]))
    assert elements is not None
    assert (type(elements[0]), elements[0].message) == (Failed, f"The result of 'x[0]' {said}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pandas.Series([10, 20, 30], index=[2, 1, 0]), [10, 20, 30]),
        (pandas.Series([1, 5, 9])[lambda s: s > 4], [5, 9]),
        (pandas.Series(["x", "y"], index=["y", "x"]), ["x", "y"]),
        (pandas.Index([3, 1]), [3, 1]),
        (Shelf("a", "b"), ["a", "b"]),
    ],
)
def test_what_has_labels_is_mapped_over_by_position(value: Any, expected: list[Any]) -> None:
    upstream: dict[Edge, State] = {edge("x"): Success(result=value)}
    assert mapping.unmappable(upstream) is None
    assert mapping.width(upstream) == len(expected)
    assert [seen_by(upstream, child)["x"] for child in range(len(expected))] == expected


def test_a_table_is_not_mapped_over() -> None:
    problem = mapping.unmappable({edge("rows"): Success(result=pandas.DataFrame({"a": [1]}))})
    assert problem is not None
    assert "'rows'" in problem
    assert "DataFrame" in problem


class Broken(Shelf):
    def __getitem__(self, index: int) -> Any:
        if self._values[index] is None:
            raise OSError("the source broke")
        return self._values[index]


@pytest.mark.parametrize("values", [(None,), (1, None, 3)])
def test_what_cannot_be_read_is_an_error_before_it_is_mapped_over_and_a_failure_for_every_child_after(
    values: tuple[Any, ...],
) -> None:
    over = edge("shelf")
    upstream: dict[Edge, State] = {over: Success(result=Broken(*values))}
    with pytest.raises(OSError, match="the source broke"):
        mapping.width(upstream)
    child = mapping.child_states(mapping.sources(upstream), 0)[over]
    assert child.is_failed()
    assert "'shelf'" in str(child.message)


@pytest.mark.parametrize("lost", [Result(location="gone"), NotStored])
def test_what_is_flattened_after_a_lost_result_is_lost_for_every_child(lost: Result) -> None:
    """How many elements it had nobody knows, so the numbers of those after it cannot be known either."""
    over = edge("x", flattened=True)
    gone: State = Success()
    gone._result = lost
    elements = mapping.elements_of(over, children([1, 2], gone, [3]))
    assert elements is not None
    assert all(elements[child].is_failed() for child in (0, 1, 2, 7))


# -- inputs of unequal length --------------------------------------------------------------------------


@given(st.lists(values, min_size=1, max_size=4))
def test_inputs_of_unequal_length_are_named_with_their_lengths(found: list[list[int]]) -> None:
    lengths = [len(one) for one in found]
    said = mapping.unequal({edge(f"x{n}"): Success(result=one) for n, one in enumerate(found)})
    if len(set(lengths)) == 1:
        assert said is None
    else:
        assert said is not None
        assert all(f"{length} of 'x{n}'" in said for n, length in enumerate(lengths))
        assert f"{min(lengths)} children run" in said


def test_flatten_keeps_failed_and_skipped_children_as_they_are() -> None:
    failed, skipped = Failed("no", result=[1, 2]), Skipped("no", result=[3])
    over = edge("x", flattened=True)
    elements = mapping.elements_of(over, children([1, 2], failed, skipped, [3]))
    assert elements is not None
    assert [one if one in (failed, skipped) else one.result for one in elements] == [1, 2, failed, skipped, 3]
    assert elements[2] is failed
    assert elements[3] is skipped
