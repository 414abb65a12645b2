"""The ledger: which task runs are ready, and when the flow is done.

It is a pure machine. It is told what happened (`expand`, `finish`), and keeps `ready`, the queue of what may start
next. It knows nothing of states, bodies, clocks or backends.

A key is ``(task, child)``: the number of a task in the graph, and the number of a mapped child, or -1 for the task
itself. Two kinds of waiting exist between tasks:

* a *plain* edge waits until the task upstream is finished, with all its children if it has any;
* a *spread* edge leads from one mapped task to another. The task waits only until the one upstream knows its children,
  and then child *k* waits for child *k*. This is what makes mapped stages run depth-first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ..errors import InvalidTransition

__all__ = ["Graph", "Key", "Ledger"]

Key = tuple[int, int]

_WAITING, _STARTED, _EXPANDED, _FINISHED = range(4)
_NAMES = ("waiting", "started", "expanded", "finished")


class Graph:
    """What the ledger needs to know of a flow; built once, shared by its runs.

    Args:
        - size: how many tasks there are, numbered from zero
        - plain: pairs (upstream, downstream)
        - spread: pairs (upstream, downstream) of mapped tasks that go child by child
        - priorities: of each task; of what becomes ready at once, what has a higher one starts first
    """

    __slots__ = ("plain_downstream", "roots", "size", "spread_downstream", "spread_upstream", "waits")

    def __init__(
        self, size: int, plain: Sequence[Key], spread: Sequence[Key], priorities: Sequence[int] | None = None
    ) -> None:
        self.size = size
        if priorities is not None and any(priorities):
            plain = sorted(plain, key=lambda pair: -priorities[pair[1]])
        self.plain_downstream = _grouped(size, plain)
        self.spread_downstream = _grouped(size, spread)
        self.spread_upstream = _grouped(size, [(downstream, upstream) for upstream, downstream in spread])
        self.waits = [0] * size
        for _, downstream in (*plain, *spread):
            self.waits[downstream] += 1
        self.roots: list[Key] = [(task, -1) for task, waits in enumerate(self.waits) if not waits]
        if priorities is not None and any(priorities):
            self.roots.sort(key=lambda key: -priorities[key[0]])


def _grouped(size: int, pairs: Iterable[Key]) -> list[Sequence[int]]:
    """Return for each number what it is paired with; those that have nothing share one empty sequence."""
    groups: dict[int, list[int]] = {}
    for number, other in pairs:
        groups.setdefault(number, []).append(other)
    return [groups.get(number, ()) for number in range(size)]


class Ledger:
    """The progress of one run of a graph.

    Args:
        - graph: the graph
        - story: whether to keep a log of all moves, for error messages and tests
    """

    __slots__ = (
        "_child_left",
        "_child_status",
        "_child_waits",
        "_log",
        "_status",
        "_waits",
        "graph",
        "ready",
        "unfinished",
    )

    def __init__(self, graph: Graph, *, story: bool = False) -> None:
        self.graph = graph
        self.unfinished = graph.size
        """How many tasks are not finished, with all their children."""
        self._waits = list(graph.waits)
        self._status = bytearray(graph.size)
        self._child_status: dict[int, bytearray] = {}
        self._child_waits: dict[int, list[int]] = {}
        self._child_left: dict[int, int] = {}
        self._log: list[tuple[object, ...]] | None = [] if story else None
        self.ready: deque[Key] = deque(graph.roots)
        """What may start, in the order to start it; take from the left and call `start`."""

    def is_finished(self, task: int) -> bool:
        """Whether a task is finished, with all its children if it has any."""
        return self._status[task] == _FINISHED

    def waits(self, task: int) -> int:
        """How many tasks a task still waits for; none once it is ready, or started."""
        return self._waits[task]

    def width(self, task: int) -> int | None:
        """How many children a task was given, or None before that."""
        status = self._child_status.get(task)
        return None if status is None else len(status)

    # -- what happens --------------------------------------------------------------------------------

    def start(self) -> Key:
        """Take the next key off the queue."""
        key = self.ready.popleft()
        task, child = key
        if child < 0:
            status, place = self._status, task
        else:
            status, place = self._child_status[task], child
        if status[place] != _WAITING:
            raise self._invalid(key, _NAMES[status[place]], "started")
        status[place] = _STARTED
        if self._log is not None:
            self._log.append((key, "started"))
        return key

    def expand(self, task: int, width: int) -> None:
        """A started task turned out to be mapped over `width` elements: its children may start."""
        if self._status[task] != _STARTED:
            raise self._invalid((task, -1), _NAMES[self._status[task]], "expanded")
        self._status[task] = _EXPANDED
        if self._log is not None:
            self._log.append(((task, -1), "expanded", width))
        waits = [0] * width
        for upstream in self.graph.spread_upstream[task]:
            # an upstream task that never expanded has no children to wait for
            for child, status in enumerate(self._child_status.get(upstream, b"")[:width]):
                if status != _FINISHED:
                    waits[child] += 1
        self._child_waits[task] = waits
        self._child_status[task] = bytearray(width)
        self._child_left[task] = width
        self.ready.extend([(task, child) for child, count in enumerate(waits) if not count])
        self._release(self.graph.spread_downstream[task], first=True)
        if not width:
            self._finish_task(task)

    def finish(self, key: Key) -> None:
        """A started key is finished: what waited for it may become ready."""
        task, child = key
        if child < 0:
            status, place = self._status, task
        else:
            status, place = self._child_status[task], child
        if status[place] != _STARTED:
            raise self._invalid(key, _NAMES[status[place]], "finished")
        if self._log is not None:
            self._log.append((key, "finished"))
        if child < 0:
            if downstream := self.graph.spread_downstream[task]:
                self._release(downstream)
            self._finish_task(task)
            return
        status[child] = _FINISHED
        for one in self.graph.spread_downstream[task]:
            waits = self._child_waits.get(one)
            if waits is not None and child < len(waits):
                waits[child] -= 1
                if not waits[child]:
                    self.ready.appendleft((one, child))
        self._child_left[task] -= 1
        if not self._child_left[task]:
            self._finish_task(task)

    def _finish_task(self, task: int) -> None:
        self._status[task] = _FINISHED
        self.unfinished -= 1
        if downstream := self.graph.plain_downstream[task]:
            self._release(downstream)

    def _release(self, tasks: Iterable[int], *, first: bool = False) -> None:
        """Let tasks wait for one less."""
        waits = self._waits
        for task in tasks:
            left = waits[task] = waits[task] - 1
            if not left:
                if first:
                    self.ready.appendleft((task, -1))
                else:
                    self.ready.append((task, -1))

    # -- for people ----------------------------------------------------------------------------------

    def story(self, key: Key) -> list[tuple[object, ...]]:
        """Return the logged moves of one key, oldest first."""
        return [line for line in self._log or () if line[0] == key]

    def _invalid(self, key: Key, start: str, finish: str) -> InvalidTransition:
        return InvalidTransition(key, start, finish, self.story(key))
