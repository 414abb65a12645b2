"""The ledger, against an oracle that says what may start by looking at everything anew after each step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowloop.engine._run.ledger import Graph, Key, Ledger
from flowloop.engine.errors import InvalidTransition


class Oracle:
    """The same DAG, run one step at a time and without any counters."""

    def __init__(self, size: int, plain: list[Key], spread: list[Key]) -> None:
        self.size, self.plain, self.spread = size, plain, spread
        self.started: set[Key] = set()
        self.finished: set[Key] = set()
        self.width: dict[int, int] = {}

    def over(self, task: int) -> bool:
        """Whether a task is finished, with all its children if it has any."""
        if task in self.width:
            return all((task, child) in self.finished for child in range(self.width[task]))
        return (task, -1) in self.finished

    def may_start(self, key: Key) -> bool:
        task, child = key
        if key in self.started:
            return False
        if child < 0:
            return all(self.over(up) for up, down in self.plain if down == task) and all(
                up in self.width or self.over(up) for up, down in self.spread if down == task
            )
        return all(
            (up, child) in self.finished for up, down in self.spread if down == task and child < self.width.get(up, 0)
        )

    def ready(self) -> set[Key]:
        keys = [(task, -1) for task in range(self.size)]
        keys += [(task, child) for task, width in self.width.items() for child in range(width)]
        return {key for key in keys if self.may_start(key)}

    def running(self) -> list[Key]:
        return sorted(key for key in self.started - self.finished if not (key[1] < 0 and key[0] in self.width))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[Key], list[Key], list[bool]]:
    """A DAG of a few tasks; edges between mapped tasks may go child by child, and pairs may have several edges."""
    size = draw(st.integers(1, 7))
    mapped = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    pairs = [(up, down) for down in range(size) for up in range(down)]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=12)) if pairs else []
    plain: list[Key] = []
    spread: list[Key] = []
    for up, down in edges:
        (spread if mapped[up] and mapped[down] and draw(st.booleans()) else plain).append((up, down))
    return size, plain, spread, mapped


def check(ledger: Ledger) -> None:
    """Compare the counters with what they count."""
    assert ledger.unfinished == sum(not ledger.is_finished(task) for task in range(ledger.graph.size))
    for task, child in ledger.ready:
        assert (ledger.waits(task) if child < 0 else ledger._child_waits[task][child]) == 0
    assert len(set(ledger.ready)) == len(ledger.ready)


class LedgerMachine(RuleBasedStateMachine):
    ledger: Ledger
    oracle: Oracle

    @initialize(graph=graphs())
    def begin(self, graph: tuple[int, list[Key], list[Key], list[bool]]) -> None:
        size, plain, spread, self.mapped = graph
        self.ledger = Ledger(Graph(size, plain, spread), story=True)
        self.oracle = Oracle(size, plain, spread)

    @precondition(lambda self: self.ledger.ready)
    @rule()
    def start(self) -> None:
        key = self.ledger.start()
        assert self.oracle.may_start(key)
        self.oracle.started.add(key)

    @precondition(lambda self: self.oracle.running())
    @rule(data=st.data(), width=st.integers(0, 4))
    def end_or_expand(self, data: st.DataObject, width: int) -> None:
        key = data.draw(st.sampled_from(self.oracle.running()))
        # a mapped task that fails, or is skipped, ends without children
        if key[1] < 0 and self.mapped[key[0]] and data.draw(st.integers(0, 3)):
            self.ledger.expand(key[0], width)
            self.oracle.width[key[0]] = width
        else:
            self.ledger.finish(key)
            self.oracle.finished.add(key)

    @precondition(lambda self: self.oracle.started)
    @rule(data=st.data())
    def ask_for_a_wrong_move(self, data: st.DataObject) -> None:
        """A move that is not possible is refused with the story of the key, and changes nothing."""
        over = [key for key in sorted(self.oracle.finished) if self.over_for_good(key)]
        expanded = sorted((task, -1) for task in self.oracle.width)
        if not over and not expanded:
            return
        key = data.draw(st.sampled_from(over + expanded))
        with pytest.raises(InvalidTransition) as raised:
            self.ledger.finish(key) if key[1] >= 0 or data.draw(st.booleans()) else self.ledger.expand(key[0], 1)
        assert raised.value.key == key
        assert raised.value.story[0] == (key, "started")

    def over_for_good(self, key: Key) -> bool:
        return key in self.oracle.finished

    @invariant()
    def agrees_with_the_oracle(self) -> None:
        check(self.ledger)
        assert set(self.ledger.ready) == self.oracle.ready()
        over = [self.oracle.over(task) for task in range(self.oracle.size)]
        assert self.ledger.unfinished == over.count(False)
        assert (not self.ledger.unfinished) == all(over)
        for task in range(self.oracle.size):
            assert self.ledger.width(task) == self.oracle.width.get(task)

    @invariant()
    def never_gets_stuck(self) -> None:
        assert not self.ledger.unfinished or self.ledger.ready or self.oracle.running()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def ended(ledger: Ledger, *, width: int = 3, mapped: frozenset[int] = frozenset(), checked: bool = True) -> list[Key]:
    """Run a ledger to its end, each key before the next one, and return the order."""
    order: list[Key] = []
    while ledger.unfinished:
        key = ledger.start()
        order.append(key)
        if key[1] < 0 and key[0] in mapped:
            ledger.expand(key[0], width)
        else:
            ledger.finish(key)
        if checked:
            check(ledger)
    return order


def test_independent_tasks_start_in_their_order() -> None:
    assert ended(Ledger(Graph(4, [], []))) == [(task, -1) for task in range(4)]


def test_children_go_depth_first() -> None:
    """Child by child through all stages, not stage by stage; and the next stages are expanded before any child runs."""
    order = ended(Ledger(Graph(3, [], [(0, 1), (1, 2)])), mapped=frozenset({0, 1, 2}))
    expanded, children = order[:3], order[3:]
    assert expanded == [(0, -1), (1, -1), (2, -1)]
    assert children == [(stage, child) for child in range(3) for stage in range(3)]


def test_a_plain_edge_from_a_mapped_task_waits_for_all_its_children() -> None:
    ledger = Ledger(Graph(2, [(0, 1)], []))
    order = ended(ledger, mapped=frozenset({0}))
    assert order == [(0, -1), (0, 0), (0, 1), (0, 2), (1, -1)]


def test_a_child_waits_only_for_the_child_of_its_number() -> None:
    ledger = Ledger(Graph(2, [], [(0, 1)]))
    ledger.start()
    ledger.expand(0, 3)
    assert ledger.start() == (1, -1)
    ledger.expand(1, 3)
    started = [ledger.start() for _ in range(3)]
    assert started == [(0, 0), (0, 1), (0, 2)]
    ledger.finish((0, 2))
    assert list(ledger.ready) == [(1, 2)]
    ledger.finish((0, 0))
    assert set(ledger.ready) == {(1, 0), (1, 2)}


def test_a_mapped_task_without_children_is_finished_at_once() -> None:
    ledger = Ledger(Graph(2, [(0, 1)], []))
    ledger.start()
    ledger.expand(0, 0)
    assert list(ledger.ready) == [(1, -1)]
    assert ledger.width(0) == 0


def test_children_beyond_those_upstream_wait_for_nothing() -> None:
    ledger = Ledger(Graph(2, [], [(0, 1)]))
    ledger.start()
    ledger.expand(0, 1)
    ledger.start()
    ledger.expand(1, 3)
    assert set(ledger.ready) == {(0, 0), (1, 1), (1, 2)}


def test_a_mapped_task_that_ends_without_children_lets_go_of_what_is_mapped_over_it() -> None:
    ledger = Ledger(Graph(3, [], [(0, 1), (0, 2)]))
    ledger.finish(ledger.start())
    assert list(ledger.ready) == [(1, -1), (2, -1)]
    assert [ledger.waits(task) for task in range(3)] == [0, 0, 0]
    ledger.expand(*ledger.start()[:1], 2)
    assert list(ledger.ready) == [(2, -1), (1, 0), (1, 1)]


def test_a_child_that_is_over_is_not_waited_for_and_not_over_again() -> None:
    ledger = Ledger(Graph(2, [], [(0, 1)]))
    ledger.start()
    ledger.expand(0, 2)
    assert ledger.start() == (1, -1)
    ledger.finish(ledger.start())
    ledger.expand(1, 2)
    assert list(ledger.ready) == [(0, 1), (1, 0)]
    with pytest.raises(InvalidTransition, match="from finished to finished"):
        ledger.finish((0, 0))


def test_what_is_started_already_is_not_started_again() -> None:
    ledger = Ledger(Graph(1, [], []))
    ledger.ready.append((0, -1))
    ledger.start()
    with pytest.raises(InvalidTransition, match="from started to started"):
        ledger.start()


def wrong_moves() -> list[tuple[str, Any, str]]:
    return [
        ("finish what never started", lambda ledger: ledger.finish((1, -1)), "(1, -1) cannot go from waiting"),
        ("finish twice", lambda ledger: ledger.finish((0, -1)), "(0, -1) cannot go from finished"),
        ("expand what never started", lambda ledger: ledger.expand(1, 2), "(1, -1) cannot go from waiting"),
        ("expand what is finished", lambda ledger: ledger.expand(0, 2), "(0, -1) cannot go from finished"),
    ]


@pytest.mark.parametrize(("what", "move", "message"), wrong_moves(), ids=[what for what, _, _ in wrong_moves()])
def test_a_wrong_move_is_refused_with_the_story(what: str, move: Any, message: str) -> None:
    ledger = Ledger(Graph(2, [(0, 1)], []), story=True)
    ledger.start()
    ledger.finish((0, -1))
    with pytest.raises(InvalidTransition) as raised:
        move(ledger)
    text = str(raised.value)
    assert message in text
    if raised.value.key == (0, -1):
        assert "((0, -1), 'started')" in text
        assert "((0, -1), 'finished')" in text


def test_the_story_tells_every_move_of_a_mapped_task() -> None:
    ledger = Ledger(Graph(1, [], []), story=True)
    ledger.start()
    ledger.expand(0, 2)
    ledger.finish(ledger.start())
    assert ledger.story((0, -1)) == [((0, -1), "started"), ((0, -1), "expanded", 2)]
    assert [move[1] for move in ledger.story((0, 0))] == ["started", "finished"]
    with pytest.raises(InvalidTransition) as raised:
        ledger.expand(0, 2)
    assert raised.value.key == (0, -1)


def test_a_refused_move_leaves_the_ledger_and_its_story_as_they_were() -> None:
    ledger = Ledger(Graph(1, [], []), story=True)
    ledger.start()
    ledger.finish((0, -1))
    before = ledger.story((0, -1))
    with pytest.raises(InvalidTransition):
        ledger.finish((0, -1))
    assert ledger.story((0, -1)) == before
    assert not ledger.unfinished
    check(ledger)


def test_a_long_chain_and_a_wide_map_cost_no_recursion() -> None:
    size = 20_000
    chain = Ledger(Graph(size, [(n, n + 1) for n in range(size - 1)], []))
    assert ended(chain, checked=False) == [(task, -1) for task in range(size)]
    assert len(ended(Ledger(Graph(1, [], [])), width=size, mapped=frozenset({0}), checked=False)) == size + 1


def test_no_story_is_kept_unless_asked_for() -> None:
    ledger = Ledger(Graph(1, [], []))
    ledger.start()
    assert ledger.story((0, -1)) == []
