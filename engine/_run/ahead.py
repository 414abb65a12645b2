"""Which task runs may step ahead: begin while what they wait for is on its way to the backend."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Any

from ..state import State
from .ledger import Ledger

__all__ = ["Ahead"]


class Ahead:
    """What is foreseen in one run.

    Args:
        - ledger: how far the run is
    """

    __slots__ = ("_hopes", "_ledger", "foreseen", "next", "runs")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._hopes: Counter[int] = Counter()
        """By task, how many of its waits are about to end."""
        self.foreseen: dict[int, tuple[State, Any]] = {}
        """By task, the state it ends with once the backend has taken it, and that state on its way."""
        self.next: deque[int] = deque()
        """What waits only for what is foreseen or finished."""
        self.runs: dict[int, asyncio.Task[State]] = {}
        """What has stepped ahead, until its turn comes."""

    def foresee(self, task: int, state: State, posted: Any) -> None:
        """A run is about to end, and with it the wait of what comes after."""
        self.foreseen[task] = (state, posted)
        for one in self._ledger.graph.plain_downstream[task]:
            self._hopes[one] += 1
            if self._hopes[one] == self._ledger.waits(one):
                self.next.append(one)

    def settle(self, task: int) -> None:
        """A run has ended, as foreseen or otherwise."""
        if self.foreseen.pop(task, None) is not None:
            for one in self._ledger.graph.plain_downstream[task]:
                self._hopes[one] -= 1
