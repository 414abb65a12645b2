"""Triggers: a table of what each says to each mix of states."""

from __future__ import annotations

import cloudpickle
import pytest

from flowloop.engine import triggers
from flowloop.engine.context import context
from flowloop.engine.edge import Edge
from flowloop.engine.signals import PAUSE, SKIP, TRIGGERFAIL
from flowloop.engine.state import (
    Cached,
    Cancelled,
    Failed,
    Mapped,
    Paused,
    Pending,
    Running,
    Skipped,
    State,
    Success,
    TriggerFailed,
)


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


SINK = Named("sink")


def upstream(*states: State) -> dict[Edge, State]:
    return {Edge(Named(f"t{index}"), SINK): state for index, state in enumerate(states)}  # type: ignore[arg-type]


def verdict(trigger, states: dict[Edge, State]) -> str:
    try:
        return "run" if trigger(states) is True else "refused"
    except TRIGGERFAIL:
        return "fail"
    except SKIP:
        return "skip"
    except PAUSE:
        return "pause"


S, F, K, C, P = Success(), Failed(), Skipped(), Cancelled(), Pending()

TABLE = [
    # states,                          all_succ, all_fail, all_fin, any_succ, any_fail, not_all_skipped
    ((),                               "run",  "run",  "run",  "run",  "run",  "skip"),
    ((S,),                             "run",  "fail", "run",  "run",  "fail", "run"),
    ((F,),                             "fail", "run",  "run",  "fail", "run",  "fail"),
    ((K,),                             "run",  "fail", "run",  "run",  "fail", "skip"),
    ((C,),                             "fail", "fail", "run",  "fail", "fail", "fail"),
    ((P,),                             "fail", "fail", "fail", "fail", "fail", "fail"),
    ((Running(),),                     "fail", "fail", "fail", "fail", "fail", "fail"),
    ((Cached(), TriggerFailed()),      "fail", "fail", "run",  "run",  "run",  "fail"),
    ((S, F),                           "fail", "fail", "run",  "run",  "run",  "fail"),
    ((S, K),                           "run",  "fail", "run",  "run",  "fail", "run"),
    ((K, K),                           "run",  "fail", "run",  "run",  "fail", "skip"),
    ((K, F),                           "fail", "fail", "run",  "run",  "run",  "fail"),
    ((F, F),                           "fail", "run",  "run",  "fail", "run",  "fail"),
    ((Mapped(map_states=[S, S]),),     "run",  "fail", "run",  "run",  "fail", "run"),
    ((Mapped(map_states=[S, F]),),     "fail", "fail", "run",  "run",  "run",  "fail"),
    ((Mapped(map_states=[F, F]), F),   "fail", "run",  "run",  "fail", "run",  "fail"),
    ((Mapped(map_states=[K, K]), K),   "run",  "fail", "run",  "run",  "fail", "skip"),
    ((Mapped(map_states=[S, P]),),     "fail", "fail", "fail", "run",  "fail", "fail"),
    ((Mapped(map_states=[]), S),       "run",  "fail", "run",  "run",  "fail", "run"),
]  # fmt: skip
COLUMNS = (
    triggers.all_successful,
    triggers.all_failed,
    triggers.all_finished,
    triggers.any_successful,
    triggers.any_failed,
    triggers.not_all_skipped,
)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: " ".join(type(state).__name__ for state in row[0]) or "nothing")
def test_what_each_trigger_says(row):
    states = upstream(*row[0])
    assert tuple(verdict(trigger, states) for trigger in COLUMNS) == row[1:]


def test_always_run_is_all_finished():
    assert triggers.always_run is triggers.all_finished


@pytest.mark.parametrize("states", [(), (S,), (F,), (P,)])
def test_manual_only_pauses_until_it_is_resumed(states):
    with pytest.raises(PAUSE) as caught:
        triggers.manual_only(upstream(*states))
    assert type(caught.value.state) is Paused
    assert caught.value.state.start_time is None
    with context(resume=True):
        assert triggers.manual_only(upstream(*states)) is True


@pytest.mark.parametrize(
    ("limits", "failed", "total", "wanted"),
    [
        ({}, 0, 4, "run"),
        ({"at_least": 2}, 1, 4, "fail"),
        ({"at_least": 2}, 2, 4, "run"),
        ({"at_least": 1}, 1, 4, "run"),
        ({"at_least": 1.0}, 1, 4, "run"),  # one task, not all of them
        ({"at_least": 0.5}, 1, 4, "fail"),
        ({"at_least": 0.5}, 2, 4, "run"),
        ({"at_least": 0.4}, 1, 3, "fail"),  # more than one in three
        ({"at_most": 0}, 1, 4, "fail"),
        ({"at_most": 0}, 0, 4, "run"),
        ({"at_most": 2}, 3, 4, "fail"),
        ({"at_most": 0.5}, 3, 4, "fail"),
        ({"at_most": 0.5}, 2, 4, "run"),
        ({"at_least": 1, "at_most": 2}, 3, 4, "fail"),
        ({"at_least": 0.25, "at_most": 2}, 1, 4, "run"),
        ({"at_least": 3}, 0, 0, "run"),  # nothing upstream
    ],
)
def test_thresholds(limits, failed, total, wanted):
    failures = upstream(*[Failed()] * failed, *[Success()] * (total - failed))
    successes = upstream(*[Success()] * failed, *[Failed()] * (total - failed))
    assert verdict(triggers.some_failed(**limits), failures) == wanted
    assert verdict(triggers.some_successful(**limits), successes) == wanted


def test_thresholds_count_children():
    states = upstream(Mapped(map_states=[F, F, S]), S)
    assert verdict(triggers.some_failed(at_least=2, at_most=2), states) == "run"
    assert verdict(triggers.some_successful(at_least=0.75), states) == "fail"


@pytest.mark.parametrize("factory", [triggers.some_failed, triggers.some_successful])
@pytest.mark.parametrize("limits", [{"at_least": -1}, {"at_most": -0.5}])
def test_a_negative_threshold_is_refused(factory, limits):
    with pytest.raises(ValueError, match="number of tasks"):
        factory(**limits)


def test_the_message_names_the_tasks():
    with pytest.raises(TRIGGERFAIL) as caught:
        triggers.all_successful(upstream(S, F, Mapped(map_states=[S, C])))
    assert caught.value.state.message == (
        "all_successful: 2 of 4 upstream tasks not successful: t1 (Failed), t2[1] (Cancelled)"
    )
    assert type(caught.value.state) is TriggerFailed


def test_the_message_stays_short():
    with pytest.raises(TRIGGERFAIL) as caught:
        triggers.all_successful(upstream(Mapped(map_states=[F] * 1000)))
    assert caught.value.state.message.endswith("t0[4] (Failed), …")


@pytest.mark.parametrize("trigger", [*COLUMNS, triggers.manual_only, triggers.some_failed(at_least=2)])
def test_triggers_can_be_pickled(trigger):
    assert cloudpickle.loads(cloudpickle.dumps(trigger)).__name__ == trigger.__name__
