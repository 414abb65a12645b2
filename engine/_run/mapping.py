"""Mapping: how wide, and what each child gets."""

from __future__ import annotations

import sys
from collections import UserString
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..edge import Edge
from ..remote import Parts, Remote
from ..result import NotStored, Result
from ..state import Failed, Mapped, State, Success

__all__ = [
    "Elements",
    "child_states",
    "element",
    "elements_of",
    "flat_values",
    "is_sequence",
    "is_text",
    "sources",
    "unequal",
    "unmappable",
    "why_not",
    "width",
]

Elements = Sequence[State]
"""What a mapped edge brings: one state for each child."""


_BY_POSITION = (list, tuple, range, Parts)


def element(value: Any, index: int) -> Any:
    """Return an element of what can be mapped over, by its position."""
    return value[index] if isinstance(value, _BY_POSITION) else list(_items(value))[index]


class _ValueElements(Sequence[State]):
    """The elements of a value by position, each as the state of its own that a child sees upstream."""

    __slots__ = ("_values",)

    def __init__(self, values: Any) -> None:
        # an index may be a label there, and what reads as it goes may fail: found out before it is mapped over
        self._values = values if isinstance(values, _BY_POSITION) else list(_items(values))

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        value = self._values[index]
        return Success("", Result(value) if isinstance(value, Result) else value)


class _Lost(Sequence[State]):
    """The elements of what cannot be read: nobody knows how many there are, so each child sees why."""

    __slots__ = ("_failed",)

    def __init__(self, failed: Failed) -> None:
        self._failed = failed

    def __len__(self) -> int:
        return sys.maxsize

    def __iter__(self) -> Iterator[State]:
        yield self._failed

    def __getitem__(self, index: Any) -> Any:
        return self._failed


def is_text(value: Any) -> bool:
    """Return whether a value is a text, or bytes: one value, although it has a length and an order."""
    return isinstance(value, (str, bytes, bytearray, UserString))


def is_sequence(value: Any) -> bool:
    """Return whether a value can be mapped over: it has a length and an order, and is neither a text nor a table."""
    return (
        hasattr(value, "__getitem__")
        and hasattr(value, "__len__")
        and not isinstance(value, (Mapping, type))
        and not is_text(value)
        and not _is_table(value)
    )


def why_not(value: Any) -> str:
    """Return why a value cannot be mapped over, and what to do."""
    kind = type(value).__name__
    if is_text(value):
        return f"{kind} is a type of text, and a text is one value. Make a list of it where its characters are meant."
    if _is_table(value):
        return f"{kind} is a type of table, which is iterated over by column. Make a list of its rows."
    return f"type {kind} has no length and order. Return a list."


def unmappable(upstream_states: Mapping[Edge, State]) -> str | None:
    """Return why these states cannot be mapped over, or None if they can, or if there are none."""
    mapped = {edge: state for edge, state in upstream_states.items() if edge.mapped}
    if upstream_states and not any(state.is_successful() for state in mapped.values()):
        failed = ", ".join(sorted(f"{e.upstream_task.name} is {type(s).__name__}" for e, s in mapped.items()))
        return f"No upstream states can be mapped over: {failed}."
    for edge, state in mapped.items():
        if state.is_successful() and not state.is_mapped() and not is_sequence(_given(edge, state)):
            return f"Cannot map over the result of task '{edge.upstream_task.name}': {why_not(state.result)}"
    return None


def elements_of(edge: Edge, state: State) -> Elements | None:
    """Return what a mapped edge brings, or None if the state is passed whole: a failure, or an edge not mapped."""
    if not edge.mapped or not state.is_successful():
        return None
    if isinstance(state, Mapped):
        return _flat_states(edge.upstream_task.name, state) if edge.flattened else state.map_states
    value = _given(edge, state)
    return _ValueElements(value) if is_sequence(value) else None


def sources(upstream_states: Mapping[Edge, State]) -> list[tuple[Edge, State, Elements | None]]:
    """Return for each edge the state upstream, and what it brings if it is mapped over.

    What cannot be read is not there for any child: the children that have yet to run each see why.
    """
    found: list[tuple[Edge, State, Elements | None]] = []
    for edge, state in upstream_states.items():
        try:
            elements = elements_of(edge, state)
        except Exception as error:
            elements = _Lost(_unreadable(f"The result of '{edge.upstream_task.name}'", error))
        found.append((edge, state, elements))
    return found


def _lengths(upstream_states: Mapping[Edge, State]) -> dict[Edge, int]:
    lengths = {}
    for edge, state in upstream_states.items():
        elements = elements_of(edge, state)
        if isinstance(state, Mapped) and elements is state.map_states:
            lengths[edge] = state.n_map_states
        elif elements is not None:
            lengths[edge] = len(elements)
    return lengths


def width(upstream_states: Mapping[Edge, State]) -> int:
    """Return how many children there are: as many as the shortest upstream has elements."""
    return min(_lengths(upstream_states).values(), default=0)


def unequal(upstream_states: Mapping[Edge, State]) -> str | None:
    """Return which inputs are of which length, if they are not all as long, or None."""
    lengths = _lengths(upstream_states)
    if len(set(lengths.values())) < 2:
        return None
    named = [
        f"{length} of {edge.key!r}" if edge.key else f"{length} of {edge.upstream_task.name!r}, which it waits for"
        for edge, length in lengths.items()
    ]
    return f"{', '.join(named)}: {min(lengths.values())} children run, the other elements are left out"


def child_states(sources: list[tuple[Edge, State, Elements | None]], child: int) -> dict[Edge, State]:
    """Return the states that one child sees upstream.

    Args:
        - sources: for each edge the state upstream, and what it brings if it is mapped over
        - child: the number of the child
    """
    return {edge: state if elements is None else elements[child] for edge, state, elements in sources}


def _given(edge: Edge, state: State) -> Any:
    value = state.result
    if type(value) is Remote:
        value = value.parts
    return flat_values(value) if edge.flattened else value


def _flat_states(name: str, state: Mapped) -> Elements:
    flat: list[State] = []
    for number, child in enumerate(state.map_states):
        # a child without a usable result stays one element, so that its failure is seen downstream
        if not child.is_successful() or child.is_skipped():
            flat.append(child)
            continue
        what = f"The result of '{name}[{number}]'"
        if child._result is NotStored or (child._result.value is None and child._result.location is not None):
            return _Lost(_unreadable(what, None))
        try:
            nested = _is_nested(child.result)
            flat.extend([Success("", Result(item)) for item in _items(child.result)] if nested else [child])
        except Exception as error:
            flat.append(_unreadable(what, error))
    return flat


def _unreadable(what: str, error: Exception | None) -> Failed:
    return Failed(f"{what} cannot be read{'' if error is None else f': {error!r}'}.", result=error)


def flat_values(value: Any) -> Any:
    """Return `value` with one level of nesting taken out; what is no collection passes through as it is."""
    if not _is_nested(value):
        return value
    flat: list[Any] = []
    for item in _items(value):
        if _is_nested(item):
            flat.extend(_items(item))
        else:
            flat.append(item)
    return flat


def _is_nested(value: Any) -> bool:
    """Return whether a value is a collection of others: neither one text, nor names for values."""
    if isinstance(value, (list, tuple)):
        return True
    if getattr(value, "ndim", 1) == 0 or isinstance(value, (Mapping, type)) or is_text(value) or _is_table(value):
        return False
    return isinstance(value, Collection) or is_sequence(value)


def _is_table(value: Any) -> bool:
    # what iterates over the names of its columns: frames of any library say so with one of these
    kind = type(value)
    return hasattr(kind, "__dataframe__") or (hasattr(value, "columns") and hasattr(value, "__getitem__"))


def _items(value: Any) -> Any:
    """Return the items of a collection, by position."""
    return value if hasattr(value, "__iter__") else [value[index] for index in range(len(value))]
