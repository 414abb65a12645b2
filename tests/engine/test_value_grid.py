"""What a flow computes, whatever happens on the way, is what plain Python computes.

`GRID_EXAMPLES` says how many trials there are: `make simulate` walks ten thousand, other ones each time.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pandas
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flowloop.engine import Parameter, Task, TaskRunner, _containers, _one_pass, task_runner, wiring
from flowloop.engine._run import caching, mapping, release, rules
from flowloop.engine.cloud import CloudTaskRunner
from flowloop.engine.context import current_task_scope
from flowloop.engine.control import CompareValue
from flowloop.engine.edge import Edge
from flowloop.engine.result import NoResult
from flowloop.engine.signals import ENDRUN
from flowloop.engine.state import Cached, Mapped, State

from .grid import AXES, KINDS, PAIRS, PLACES, Held, Stage, Trial, value_of, wanted

EXAMPLES = int(os.environ.get("GRID_EXAMPLES", "100"))
SHARE_ELSEWHERE = 0.06 if EXAMPLES <= 300 else 1.0
"""Of how many recorded trials each runner is a process of its own."""
FORMS = ("list", "list", "generator", "iterator", "yields", "labelled")


def program(draw: random.Random) -> tuple[Stage, ...]:
    """Return some sources, then stages that take what is there."""
    made: list[Stage] = []
    types: list[str] = []
    for number in range(draw.randint(4, 8)):
        fitting = [name for name, kind in KINDS.items() if all(one in types for one in kind.takes)]
        name = draw.choice([name for name in fitting if KINDS[name].is_source == (number < 2)])
        kind = KINDS[name]
        inputs = tuple(draw.choice([n for n, found in enumerate(types) if found == one]) for one in kind.takes)
        trouble = [frozenset[int](), frozenset[int](), frozenset({0}), frozenset({draw.randint(0, 3)})]
        hands_on = name in ("source", "nested source", "repeat", "as list")
        made.append(
            Stage(
                name,
                inputs,
                size=draw.randint(0, 4),
                form=draw.choice(FORMS) if hands_on else "list",
                late=draw.choice(trouble),
                paused=draw.choice(trouble),
                cached=name not in ("flat records", "survivors") and draw.random() < 0.3,
            )
        )
        types.append(kind.makes)
    return tuple(made)


def trial_of(seed: int) -> Trial:
    """Return the trial of a number."""
    draw = random.Random(seed)
    return Trial(
        stages=program(draw),
        recorded=draw.random() < 0.6,
        deaths=tuple(draw.randint(0, 60) for _ in range(draw.choice([0, 1, 1, 2]))),
        releases=draw.random() < 0.5,
        place=draw.choices(PLACES, (64, 30, 6))[0],
        again=draw.random() < 0.3,
        elsewhere=draw.random() < SHARE_ELSEWHERE,
    )


@pytest.fixture
def silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)  # which also makes loggers forget what they have decided meanwhile


@pytest.mark.timeout(900 if EXAMPLES <= 300 else 36_000)
def test_the_grid(capsys: pytest.CaptureFixture[str], silence: None) -> None:
    # thousands of tasks fail on purpose: what is said of them is another test's
    met: collections.Counter[tuple[str, str]] = collections.Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=EXAMPLES <= 300,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32).map(trial_of))
    def walk(trial: Trial) -> None:
        with tempfile.TemporaryDirectory() as folder:
            assert value_of(trial, folder) == wanted(trial)
        axes = trial.axes()
        met.update(pair for pair in PAIRS if set(pair) <= axes)
        met["continue elsewhere", "by another process"] += "continue elsewhere" in axes and trial.elsewhere

    walk()
    with capsys.disabled():
        print(f"\nhow often each pair met in {EXAMPLES} trials:")
        for first, pairs in itertools.groupby(PAIRS, key=lambda pair: pair[0]):
            print(f"  {first}:", ", ".join(f"{second} {met[first, second]}" for _, second in pairs))
        print("  another process went on:", met["continue elsewhere", "by another process"])
    assert not [pair for pair in [*PAIRS, ("continue elsewhere", "by another process")] if not met[pair]]
    assert set(AXES) == {axis for pair in PAIRS for axis in pair}


ONE, FOUR = frozenset({0}), frozenset({3})
FOUND = [
    Trial(
        stages=(
            Stage("constant", size=4),
            Stage("map", (0,), cached=True),
            Stage("map", (0,), late=frozenset({1}), cached=True),
            Stage("apply", (2, 1), late=ONE),
        ),
        recorded=True,
        deaths=(46,),
        place="threads",
        again=True,
    ),
    Trial(
        stages=(
            Stage("constant", size=2),
            Stage("constant"),
            Stage("with a default", (1,), late=ONE, paused=ONE, cached=True),
            Stage("with the whole", (0, 0), late=ONE),
            Stage("total", (3,), late=ONE, paused=ONE, cached=True),
            Stage("apply", (2, 1), late=FOUR, paused=ONE, cached=True),
            Stage("with a constant", (2,), paused=ONE),
        ),
        recorded=True,
        deaths=(4, 4),
        releases=True,
    ),
    Trial(
        stages=(
            Stage("default", size=1),
            Stage("source", size=0, late=ONE),
            Stage("repeat", (0,), form="labelled"),
            Stage("flat map", (2,)),
        ),
        releases=True,
    ),
]


@pytest.mark.parametrize("trial", FOUND, ids=range(len(FOUND)))
def test_what_the_long_form_has_found(trial: Trial, silence: None) -> None:
    """Cached children of a continued run are validated with the constant that they are mapped over; and a map whose
    children are over is as wide as it was, though what was flattened for it has been let go.
    """
    with tempfile.TemporaryDirectory() as folder:
        assert value_of(trial, folder) == wanted(trial)


# -- what the grid is worth: each of these is a fault that it has to find ----------------------------------


def has(*kinds: str) -> Callable[[Trial], bool]:
    """Return whether a trial has a stage of one of these kinds."""
    return lambda trial: trial.place != "processes" and any(stage.kind in kinds for stage in trial.stages)


def one_pass_forms(trial: Trial) -> bool:
    return trial.place != "processes" and any(stage.form in ("generator", "iterator") for stage in trial.stages)


def flat_late(trial: Trial) -> bool:
    """Whether what is flattened has children that are late."""
    flat = [trial.stages[stage.inputs[0]] for stage in trial.stages if stage.kind == "flat map"]
    return trial.place != "processes" and any(one.kind == "repeat" and one.late | one.paused for one in flat)


def cached_map(trial: Trial) -> bool:
    return trial.place != "processes" and any(
        s.cached and s.kind in ("map", "zip", "repeat", "flat map") for s in trial.stages
    )


def old_upstream_finished(state: State, upstream_states: dict[Edge, State]) -> State:
    for edge, upstream in upstream_states.items():
        is_waited_for = not edge.mapped and isinstance(upstream, Mapped)
        if not upstream.is_finished() or (is_waited_for and not all(one.is_finished() for one in upstream.map_states)):
            raise ENDRUN(state)
    return state


def by_label(values: Any) -> Any:
    return [values.loc[n] for n in range(len(values))] if isinstance(values, pandas.Series) else values


def first_two(self: Task[..., Any]) -> Any:
    return iter([self[index] for index in range(self.nout or 0)])


def last_annotation(self: Any, value: Any, what: str) -> Any:
    made = ORIGINAL_STAND_IN(self, value, what)
    outer = self.arguments[made]
    for known, annotated in self.arguments.items():
        if annotated.value is outer.value:
            self.arguments[known] = outer
    return made


async def late_identity(self: TaskRunner, state: State, inputs: Any) -> State:
    current_task_scope().identity = None
    return await ORIGINAL_CACHE(self, state, inputs)


def lets_cached_go(self: release.Release, task: int, state: State | None) -> None:
    if isinstance(state, Cached) and state._result.location is None:
        state._result = NoResult
    ORIGINAL_LET_GO(self, task, state)


async def keeps_nothing(self: Any, *args: Any) -> None:
    return None


ORIGINAL_CACHE, ORIGINAL_LET_GO = TaskRunner.cache_result, release.Release._let_go
ORIGINAL_STAND_IN, ORIGINAL_READY, ORIGINAL_PARTS = wiring._Outside.stand_in, rules.ready, wiring.parts_of
WHERE: dict[str, tuple[list[tuple[Any, str, Any]], Callable[[Trial], bool]]] = {
    "a flattened edge goes on from children that are not final": (
        [(rules, "upstream_finished", old_upstream_finished)],
        flat_late,
    ),
    "what can be read once is left as it is": ([(_one_pass, "needs_reading", lambda value: False)], one_pass_forms),
    "a record is flattened as what it iterates over": (
        [(mapping, "_is_nested", lambda value: isinstance(value, Iterable) and not isinstance(value, str))],
        has("flat records"),
    ),
    "labels are taken for positions": (
        [(mapping, "_items", by_label)],
        lambda trial: any(s.form == "labelled" for s in trial.stages),
    ),
    "values are unpacked from the first children": ([(Task, "__iter__", first_two)], has("unpack")),
    "the last annotation of a task counts in all places": (
        [(wiring._Outside, "stand_in", last_annotation)],
        has("apply"),
    ),
    "what a function of apply_map does not use is not waited for": (
        [(wiring._Outside, "_wait_for_all", lambda self, made: None)],
        has("apply"),
    ),
    "a merge in a case that is not taken runs": ([(CompareValue, "is_gate", False)], has("merge in a case")),
    "constants are shared": (
        [(_containers.OwnCopies, "fresh", lambda self: {**self._defaults, **self._values})],
        has("with a constant"),
    ),
    "defaults are shared": ([(task_runner, "own_copy", lambda value: value)], has("with a default")),
    "a cached result of this run is validated with what is gone": (
        [(rules, "ready", lambda state, runs_again=False, is_own=False: ORIGINAL_READY(state, runs_again=runs_again))],
        lambda trial: not trial.recorded and trial.releases and any(stage.cached for stage in trial.stages),
    ),
    "a task in a record stays a task": (
        [
            (wiring, "parts_of", lambda value: None if isinstance(value, Held) else ORIGINAL_PARTS(value)),
            (wiring, "holds_task", lambda value: False),
        ],
        has("held"),
    ),
    "a parameter with a type is what JSON made of it": (
        [(Parameter, "restored", lambda self, found: found)],
        lambda trial: trial.recorded and has("typed")(trial),
    ),
    "errors are not kept for the process that goes on": (
        [(CloudTaskRunner, "_keep_what_was_left", keeps_nothing), (CloudTaskRunner, "_load_error", keeps_nothing)],
        lambda trial: trial.recorded and bool(trial.deaths) and has("survivors")(trial),
    ),
    "the identity of inputs is taken after the body": (
        [(TaskRunner, "cache_result", late_identity), (TaskRunner, "plans", {})],  # which remember the steps
        lambda trial: trial.again and not trial.recorded and has("spoiled")(trial),
    ),
    "a cached result that serves the next run is let go": (
        [(release.Release, "_let_go", lets_cached_go)],
        lambda trial: (
            trial.again and trial.releases and not trial.recorded and any(stage.cached for stage in trial.stages)
        ),
    ),
    "children take the cached results of their siblings": (
        [(caching, "is_of_this_child", lambda *args, **kwargs: True), (caching, "told_by", lambda task, mapped: set())],
        cached_map,
    ),
}


@pytest.mark.heavy
@pytest.mark.parametrize("fault", WHERE)
def test_the_grid_finds(fault: str, monkeypatch: pytest.MonkeyPatch, silence: None) -> None:
    changes, fits = WHERE[fault]
    for place, name, change in changes:
        monkeypatch.setattr(place, name, change)
    here = (dataclasses.replace(trial_of(seed), elsewhere=False) for seed in range(3_000))  # the change is made here
    for trial in itertools.islice(filter(fits, here), 60):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = value_of(trial, folder)
            except Exception:
                return
        if found != wanted(trial):
            return
    raise AssertionError("the grid passes")
