"""What may step ahead: only what waits for nothing but ends that are foreseen."""

from __future__ import annotations

from flowloop.engine._run.ahead import Ahead
from flowloop.engine._run.ledger import Graph, Ledger
from flowloop.engine.state import Success


def test_it_steps_ahead_when_all_that_it_still_waits_for_is_foreseen() -> None:
    ledger = Ledger(Graph(4, [(0, 3), (1, 3), (2, 3)], []))
    ahead = Ahead(ledger)
    for _ in range(3):
        ledger.start()

    def foresee(task: int) -> list[int]:
        ahead.foresee(task, Success(), None)
        return list(ahead.next)

    assert foresee(0) == []
    ahead.settle(0)
    ledger.finish((0, -1))
    assert foresee(1) == [], "one that is over is hoped for no more"
    assert foresee(2) == [3]
    assert set(ahead.foreseen) == {1, 2}


def test_what_ended_otherwise_is_hoped_for_again() -> None:
    ledger = Ledger(Graph(3, [(0, 2), (1, 2)], []))
    ahead = Ahead(ledger)
    ahead.settle(0)
    ahead.foresee(0, Success(), None)
    ahead.settle(0)
    ahead.foresee(0, Success(), None)
    assert list(ahead.next) == []
    ahead.foresee(1, Success(), None)
    assert list(ahead.next) == [2]
