"""Letting go of results that no task of a run needs any more."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..result import NotStored
from ..state import Cached, Mapped, State
from .ledger import Graph, Key

__all__ = ["Release"]


class Release:
    """Counts which tasks have yet to use a result, and takes its value out of the state once none has.

    The result of a mapped child that only children of the same number use goes with the last of those.

    Args:
        - graph: the graph of the run
        - kept: the numbers of tasks whose results stay
    """

    def __init__(self, graph: Graph, kept: Collection[int]) -> None:
        self._graph = graph
        self._kept = frozenset(kept)
        self._uses = [
            len(plain) + len(spread)
            for plain, spread in zip(graph.plain_downstream, graph.spread_downstream, strict=True)
        ]
        self._child_uses: dict[int, list[int]] = {}
        self.released: set[int] = set()
        """The tasks whose results, or those of some of their children, are gone."""

    def child_finished(self, key: Key, states: Sequence[State | None]) -> None:
        """A mapped child is over."""
        task, child = key
        for upstream in self._graph.spread_upstream[task]:
            used = states[upstream]
            if upstream in self._kept or self._graph.plain_downstream[upstream] or not isinstance(used, Mapped):
                continue
            spread = self._graph.spread_downstream[upstream]
            left = self._child_uses.setdefault(upstream, [len(spread)] * len(used.map_states))
            left[child] -= 1
            if not left[child]:
                self._let_go(upstream, used.map_states[child])

    def task_finished(self, upstream_tasks: Collection[int], states: Sequence[State | None]) -> None:
        """A task is over, with all its children if it has any.

        Args:
            - upstream_tasks: the task upstream of each of its edges
            - states: the states of all tasks
        """
        for upstream in upstream_tasks:
            self._uses[upstream] -= 1
            if not self._uses[upstream] and upstream not in self._kept:
                self._let_go(upstream, states[upstream])

    def _let_go(self, task: int, state: State | None) -> None:
        self.released.add(task)
        if isinstance(state, Mapped):
            for child in state.map_states:
                self._let_go(task, child)
        elif state is not None and state.is_successful():
            result = state._result
            if result.location is not None:  # it can be read again
                state._result = result.copy()
                state._result.value = None
            elif not isinstance(state, Cached):  # which serves later runs
                state._result = NotStored  # and not NoResult: it is known that there was one
