"""Mapping: how wide, and what each child gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..edge import Edge
from ..result import Result
from ..state import Mapped, State, Success

__all__ = ["Elements", "child_states", "elements_of", "flat_values", "is_sequence", "unmappable", "width"]

Elements = Sequence[State]
"""What a mapped edge brings: one state for each child."""


class _ValueElements(Sequence[State]):
    """The elements of a value by position, each as the state of its own that a child sees upstream."""

    __slots__ = ("_values",)

    def __init__(self, values: Any) -> None:
        # an index may be a label there, and what reads as it goes may fail: found out before it is mapped over
        self._values = values if isinstance(values, (list, tuple, str, range)) else list(values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return Success("", Result(self._values[index]))


def is_sequence(value: Any) -> bool:
    """Return whether a value has a length and an order, as what is mapped over has."""
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, Mapping)


def unmappable(upstream_states: Mapping[Edge, State]) -> str | None:
    """Return why these states cannot be mapped over, or None if they can."""
    mapped = {edge: state for edge, state in upstream_states.items() if edge.mapped}
    if not any(state.is_successful() for state in mapped.values()):
        failed = ", ".join(sorted(f"{e.upstream_task.name} is {type(s).__name__}" for e, s in mapped.items()))
        return f"No upstream states can be mapped over: {failed}."
    for edge, state in mapped.items():
        if state.is_successful() and not state.is_mapped() and not edge.flattened and not is_sequence(state.result):
            return (
                f"Cannot map over the result of task '{edge.upstream_task.name}': it is a "
                f"{type(state.result).__name__}, which has no length and order. Return a list."
            )
    return None


def elements_of(edge: Edge, state: State) -> Elements | None:
    """Return what a mapped edge brings, or None if the state is passed whole: a failure, or an edge not mapped."""
    if not edge.mapped or not state.is_successful():
        return None
    if edge.flattened:
        return _flat_states(state)
    if isinstance(state, Mapped):
        return state.map_states
    return _ValueElements(state.result) if is_sequence(state.result) else None


def width(upstream_states: Mapping[Edge, State]) -> int:
    """Return how many children there are: as many as the shortest upstream has elements."""
    lengths = []
    for edge, state in upstream_states.items():
        elements = elements_of(edge, state)
        if isinstance(state, Mapped) and elements is state.map_states:
            lengths.append(state.n_map_states)
        elif elements is not None:
            lengths.append(len(elements))
    return min(lengths, default=0)


def child_states(sources: list[tuple[Edge, State, Elements | None]], child: int) -> dict[Edge, State]:
    """Return the states that one child sees upstream.

    Args:
        - sources: for each edge the state upstream, and what it brings if it is mapped over
        - child: the number of the child
    """
    return {edge: state if elements is None else elements[child] for edge, state, elements in sources}


def _flat_states(state: State) -> Elements:
    if not isinstance(state, Mapped):
        return _ValueElements(flat_values(state.result))
    flat: list[State] = []
    for child in state.map_states:
        # a child without a usable result stays one element, so that its failure is seen downstream
        if child.is_successful() and not child.is_skipped() and _is_nested(child.result):
            flat.extend(Success("", Result(value)) for value in child.result)
        else:
            flat.append(child)
    return flat


def flat_values(value: Any) -> list[Any]:
    """Return `value` with one level of nesting taken out; what is not iterable passes through."""
    if not _is_nested(value):
        return [value]
    flat: list[Any] = []
    for item in value:
        if _is_nested(item):
            flat.extend(item)
        else:
            flat.append(item)
    return flat


def _is_nested(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
