"""Room where bodies run: task runs for which there is none are not started, so that a wide map holds nothing for them.

A run that was started holds an asyncio task and what it has read. Those that wait here are a key each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .._turns import Line
from ..executors.place import Place
from ..task import Task
from .ledger import Key

__all__ = ["AHEAD", "Gate", "gates_of"]

AHEAD = 1000
"""Runs beyond the window of a place: while some record their states or wait for a retry, others have to be ready."""


class Gate:
    """The runs of a place.

    Args:
        - most: how many of them are under way at once
    """

    __slots__ = ("most", "under_way", "waiting")

    def __init__(self, most: int) -> None:
        self.most = most
        self.under_way = 0
        self.waiting: Line[Key] = Line()

    @property
    def is_full(self) -> bool:
        """Whether the next one waits."""
        return self.under_way >= self.most


def gates_of(tasks: Iterable[Task[..., Any]], opened: Place | None) -> Sequence[Gate | None]:
    """Return the gate of each task: one for all that run at the same place, and none where there is no end of room.

    Nothing is returned where there is no gate at all.

    Args:
        - tasks: the tasks
        - opened: where the bodies run
    """
    if opened is None or (opened.is_here and not opened.is_several):
        return ()
    gates: dict[int, Gate] = {}
    by_name: dict[str | None, Gate | None] = {}
    found: list[Gate | None] = []
    for task in tasks:
        name = None if task.needs is None else task.needs.place
        if name not in by_name:
            by_name[name] = _gate(name, opened, gates)
        found.append(by_name[name] if task.travels else None)
    return found if gates else ()


def _gate(name: str | None, opened: Place | None, gates: dict[int, Gate]) -> Gate | None:
    if opened is None or not opened.has(name):
        return None  # the run of a task that names it says so
    place = opened.named(name)
    if place.window is None:
        return None
    return gates.setdefault(id(place), Gate(place.window + AHEAD))
