"""What bodies that run elsewhere leave there, and how many of them are begun at once."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from flowloop.engine import Flow, Task, flatten, task, unmapped
from flowloop.engine._run.gates import AHEAD, Gate, gates_of
from flowloop.engine._run.keeping import may_stay
from flowloop.engine.executors.place import Needs
from flowloop.engine.results import PrefectResult
from flowloop.engine.triggers import always_run

SEEN_HERE: dict[str, dict[str, Any]] = {
    "cached": {"cache_for": datetime.timedelta(hours=1)},
    "with a target": {"target": "there.pkl", "result": PrefectResult()},
    "with a result": {"result": PrefectResult()},
    "with a name of its own": {"task_run_name": "{x}"},
    "with a handler": {"state_handlers": [lambda one, old, new: None]},
    "with another trigger": {"trigger": always_run},
    "elsewhere": {"needs": Needs(place="gpu")},
}


def chain(makes: dict[str, Any], takes: dict[str, Any]) -> tuple[Flow, Task[..., Any], Task[..., Any]]:
    """A flow of a task that makes something, and one that takes it."""
    with Flow("chain") as flow:
        first = task(lambda: [1], name="makes", **makes)()
        second = task(lambda x: x, name="takes", **takes)(first)
    return flow, first, second


@pytest.mark.parametrize("needs", [None, Needs(), Needs(place="gpu")])
def test_what_only_a_body_at_the_same_place_takes_may_stay_there(needs: Needs | None) -> None:
    flow, first, second = chain({"needs": needs}, {"needs": needs})
    assert may_stay(flow, first)
    assert not may_stay(flow, second), "nobody takes it"


def test_to_name_no_place_is_to_name_the_default() -> None:
    flow, first, _ = chain({"needs": Needs(cpus=1)}, {})
    assert may_stay(flow, first)


def test_what_a_body_at_another_place_takes_may_not() -> None:
    flow, first, _ = chain({"needs": Needs(place="gpu")}, {"needs": Needs(place="cpu")})
    assert not may_stay(flow, first)


@pytest.mark.parametrize("seen", SEEN_HERE)
@pytest.mark.parametrize("which", [0, 1], ids=["makes", "takes"])
def test_what_is_looked_at_here_may_not(seen: str, which: int) -> None:
    options: list[dict[str, Any]] = [{}, {}]
    options[which] = SEEN_HERE[seen]
    flow, first, _ = chain(*options)
    assert not may_stay(flow, first)


@pytest.mark.parametrize("which", [1, 2], ids=["makes", "takes"])
def test_what_runs_here_leaves_nothing_elsewhere(which: int) -> None:
    made = chain({}, {})
    made[which].travels = False  # type: ignore[union-attr]
    assert not may_stay(made[0], made[1])


def test_one_that_looks_at_it_here_is_enough() -> None:
    with Flow("two") as flow:
        first = task(lambda: [1], name="makes")()
        task(lambda x: x, name="takes")(first)
        task(lambda x: x, name="looks", trigger=always_run)(first)
    assert not may_stay(flow, first)


def test_what_is_waited_for_alone_or_flattened_may_not() -> None:
    with Flow("waits") as waits:
        first = task(lambda: [1], name="makes")()
        task(lambda: 1, name="waits")(upstream_tasks=[first])
    assert not may_stay(waits, first)
    with Flow("flat") as flat:
        first = task(lambda: [[1]], name="makes")()
        task(lambda x, y: x, name="takes").map(flatten(first), y=unmapped(1))
    assert not may_stay(flat, first)


class Places:
    """Two places, one of them without an end of room."""

    is_here = False

    def __init__(self) -> None:
        self.places: dict[str | None, Any] = {None: SimpleNamespace(window=2), "wide": SimpleNamespace(window=None)}
        self.places["default"] = self.places[None]

    def has(self, name: str | None) -> bool:
        return name in self.places

    def named(self, name: str | None) -> Any:
        return self.places[name]


def test_tasks_of_one_place_share_its_gate() -> None:
    needs = [None, Needs(cpus=1), Needs(place="default"), Needs(place="wide"), Needs(place="nowhere"), None]
    tasks = [task(lambda: 1, name="body", needs=one) for one in needs]
    tasks[-1].travels = False
    first, *others = gates_of(tasks, Places())  # type: ignore[arg-type]
    assert first is not None
    assert others == [first, first, None, None, None]
    assert gates_of(tasks, None) == ()
    assert first.most == 2 + AHEAD


def test_a_gate_is_full_with_as_many_as_it_takes() -> None:
    gate = Gate(2)
    full = []
    for _ in range(3):
        full.append(gate.is_full)
        gate.under_way += 1
    assert full == [False, False, True]
