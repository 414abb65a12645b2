"""Signals and the states they carry."""

from __future__ import annotations

import datetime
import pickle

import pytest

from flowloop.engine import signals
from flowloop.engine.errors import FlowloopError
from flowloop.engine.signals import (
    ENDRUN,
    FAIL,
    LOOP,
    PAUSE,
    RETRY,
    SKIP,
    SUCCESS,
    TRIGGERFAIL,
    VALIDATIONFAIL,
    PrefectSignal,
    PrefectStateSignal,
    signal_from_state,
)
from flowloop.engine.state import (
    Failed,
    Looped,
    Paused,
    Pending,
    Retrying,
    Skipped,
    Success,
    TriggerFailed,
    ValidationFailed,
)

PAIRS = [
    (FAIL, Failed),
    (TRIGGERFAIL, TriggerFailed),
    (VALIDATIONFAIL, ValidationFailed),
    (LOOP, Looped),
    (SUCCESS, Success),
    (RETRY, Retrying),
    (SKIP, Skipped),
    (PAUSE, Paused),
]


@pytest.mark.parametrize(("signal", "state_class"), PAIRS)
def test_a_signal_makes_its_state(signal, state_class):
    raised = signal("why", context={"a": 1})
    assert type(raised.state) is state_class
    assert (raised.state.message, raised.state.context, str(raised)) == ("why", {"a": 1}, "why")
    assert signal_from_state(state_class()) is signal


@pytest.mark.parametrize(("signal", "state_class"), PAIRS)
def test_the_result_is_the_signal_itself_unless_one_is_given(signal, state_class):
    raised = signal("why")
    assert raised.state.result == (repr(raised) if signal is LOOP else raised)
    assert signal("why", result=5).state.result == 5
    assert signal("why", result=None).state.result is None


def test_further_arguments_go_to_the_state():
    noon = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
    assert RETRY(start_time=noon, run_count=4).state == Retrying(start_time=noon, run_count=4, result=RETRY_RESULT)
    assert LOOP(result=1, loop_count=3).state.loop_count == 3


class _Anything:
    def __eq__(self, other):
        return True

    __hash__ = None


RETRY_RESULT = _Anything()


def test_a_state_without_a_signal():
    with pytest.raises(ValueError, match="Pending"):
        signal_from_state(Pending())


def test_signals_pass_through_except_exception():
    every = [getattr(signals, name) for name in signals.__all__ if name != "signal_from_state"]
    assert all(issubclass(signal, PrefectSignal) for signal in every)
    assert not any(issubclass(signal, (Exception, FlowloopError)) for signal in every)


def test_endrun_carries_a_state_and_is_no_state_signal():
    state = Success("done")
    raised = ENDRUN(state)
    assert raised.state is state
    assert not isinstance(raised, PrefectStateSignal)


@pytest.mark.parametrize(("signal", "state_class"), PAIRS)
def test_a_signal_and_its_state_can_be_pickled(signal, state_class):
    twin = pickle.loads(pickle.dumps(signal("why")))
    assert (type(twin), type(twin.state), twin.state.message) == (signal, state_class, "why")
    state = pickle.loads(pickle.dumps(signal("why").state))
    assert type(state.result) is (str if signal is LOOP else signal)
    if signal is not LOOP:
        assert state.result.state is state


def test_trigger_and_validation_failures_are_failures():
    assert issubclass(TRIGGERFAIL, FAIL)
    assert issubclass(VALIDATIONFAIL, FAIL)
