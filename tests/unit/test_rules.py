"""The rules of a task run and of a flow run: facts in, a state or the end of the run out."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.engine import state as states
from flowloop.engine._run import rules
from flowloop.engine.edge import Edge
from flowloop.engine.signals import ENDRUN
from flowloop.engine.state import (
    Cached,
    Cancelled,
    Cancelling,
    ClientFailed,
    Failed,
    Finished,
    Looped,
    Mapped,
    Paused,
    Pending,
    Queued,
    Resume,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    State,
    Submitted,
    Success,
    TimedOut,
    TriggerFailed,
    ValidationFailed,
)
from flowloop.engine.task import Task

NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
SECOND = datetime.timedelta(seconds=1)
ALL: list[type[State]] = [getattr(states, name) for name in states.__all__]


def ends(rule: Callable[..., State], *args: Any, **kwargs: Any) -> State:
    """Return the state that a rule ends the run with."""
    with pytest.raises(ENDRUN) as end:
        rule(*args, **kwargs)
    return end.value.state


def upstream(*found: State, mapped: bool = False) -> dict[Edge, State]:
    """Return states upstream of one task."""
    below = Task(name="below")
    return {
        Edge(Task(name=f"up {number}"), below, key=f"x{number}", mapped=mapped): state
        for number, state in enumerate(found)
    }


# -- ready ---------------------------------------------------------------------------------------------

GOES_ON = {Pending, Scheduled, Paused, Resume, Retrying, Mapped, Cached}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_ready(kind: type[State]) -> None:
    state = kind()
    if kind in GOES_ON:
        assert rules.ready(state) is state
    else:
        assert ends(rules.ready, state) is state


# -- start time ----------------------------------------------------------------------------------------

START_TIMES = [
    (Pending(), True),
    (Mapped(), True),
    (Scheduled(start_time=NOON - SECOND), True),
    (Scheduled(start_time=NOON), True),
    (Scheduled(start_time=NOON + SECOND), False),
    (Retrying(start_time=NOON + SECOND), False),
    (Retrying(start_time=NOON - HOUR), True),
    (Resume(start_time=NOON - HOUR), True),
    (Paused(), False),
    (Paused(start_time=NOON - SECOND), True),
    (Paused(start_time=NOON + SECOND), False),
]


@pytest.mark.parametrize(("state", "passes"), START_TIMES, ids=lambda value: repr(value))
def test_started_by_now(state: State, passes: bool) -> None:
    if passes:
        assert rules.started_by_now(state, NOON) is state
    else:
        assert ends(rules.started_by_now, state, NOON) is state


# -- upstream ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("mapped", [False, True])
def test_upstream_finished(kind: type[State], mapped: bool) -> None:
    state = Pending()
    found = upstream(Success(), kind(), mapped=mapped)
    if issubclass(kind, Finished):
        assert rules.upstream_finished(state, found) is state
    else:
        assert ends(rules.upstream_finished, state, found) is state


def test_a_reduce_waits_for_all_children_and_a_mapped_edge_does_not() -> None:
    state = Pending()
    children = Mapped(map_states=[Success(), Running()])
    assert ends(rules.upstream_finished, state, upstream(children)) is state
    assert rules.upstream_finished(state, upstream(children, mapped=True)) is state


SKIPS = [
    ([], False),
    ([Success(), Failed(), Cached()], False),
    ([Success(), Skipped()], True),
    ([Mapped(map_states=[Success(), Failed()])], False),
    ([Mapped(map_states=[Success(), Skipped()])], True),
]


@pytest.mark.parametrize(("found", "skips"), SKIPS)
def test_upstream_skipped(found: list[State], skips: bool) -> None:
    state = Pending()
    if skips:
        answer = ends(rules.upstream_skipped, state, upstream(*found), True)
        assert type(answer) is Skipped
        assert "up " in str(answer.message)
    else:
        assert rules.upstream_skipped(state, upstream(*found), True) is state
    assert rules.upstream_skipped(state, upstream(*found), False) is state


def test_a_skipped_child_skips_a_reduce_but_not_the_parent_of_a_next_stage() -> None:
    state = Pending()
    children = Mapped(map_states=[Success(), Skipped()])
    assert rules.upstream_skipped(state, upstream(children, mapped=True), True) is state


# -- trigger and running -------------------------------------------------------------------------------


def test_a_trigger_says_true() -> None:
    state = Pending()
    assert rules.trigger_answer(state, True, "t", "mine") is state


@pytest.mark.parametrize("answer", [False, None, 0, 1, "yes", [], object()])
def test_any_other_answer_of_a_trigger_fails_the_task_and_names_both(answer: object) -> None:
    failed = ends(rules.trigger_answer, Pending(), answer, "load", "mine")
    assert type(failed) is TriggerFailed
    assert "'mine'" in str(failed.message)
    assert "'load'" in str(failed.message)
    if answer is False:
        assert failed.message == "Trigger 'mine' of task 'load' was not satisfied."
    else:
        assert f"returned {answer!r}; a trigger returns True or False" in str(failed.message)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_only_a_pending_run_begins_or_is_handed_over(kind: type[State]) -> None:
    state = kind()
    for rule, next_kind in ((rules.running, Running), (rules.submitted, Submitted)):
        if issubclass(kind, Pending):
            assert type(rule(state)) is next_kind
        else:
            assert ends(rule, state) is state


@pytest.mark.parametrize("told", [Running(), Success(), Failed(), Looped()], ids=lambda told: type(told).__name__)
@pytest.mark.parametrize("loops", [True, False])
def test_a_handler_may_begin_another_round_only_at_the_end_of_one(told: State, *, loops: bool) -> None:
    assert rules.may_replace(told, Looped(), loops=loops) is (loops and type(told) is not Running)


# -- retry and loop ------------------------------------------------------------------------------------


@given(
    run_count=st.integers(1, 9),
    max_retries=st.integers(0, 8),
    retry_on=st.sampled_from([None, (ValueError,), (KeyError, OSError), (Exception,)]),
    error=st.sampled_from([None, ValueError("v"), KeyError("k"), FileNotFoundError(), KeyboardInterrupt()]),
)
def test_retry(
    run_count: int,
    max_retries: int,
    retry_on: tuple[type[BaseException], ...] | None,
    error: BaseException | None,
) -> None:
    state = Failed("no", result=error)
    inputs: dict[str, Any] = {}
    found = rules.retry(
        state,
        run_count=run_count,
        max_retries=max_retries,
        retry_on=retry_on,
        start_time=NOON,
        cached_inputs=inputs,
    )
    is_worth_one = retry_on is None or error is None or isinstance(error, retry_on)
    if run_count <= max_retries and is_worth_one:
        assert type(found) is Retrying
        assert (found.run_count, found.start_time, found.cached_inputs) == (run_count, NOON, inputs)
        assert found.message == f"Retrying task (after attempt {run_count} of {max_retries + 1})."
    else:
        assert found is state


def test_the_next_round_of_a_loop_is_pending() -> None:
    assert type(rules.loop_again(3)) is Pending
    assert "3" in str(rules.loop_again(3).message)


DUE = [
    (Retrying(start_time=NOON + 30 * SECOND), 30.0),
    (Retrying(start_time=NOON + 60 * SECOND), 60.0),
    (Retrying(start_time=NOON + 60.1 * SECOND), None),
    (Retrying(start_time=NOON - HOUR), 0.0),
    (Queued(start_time=NOON + SECOND), 1.0),
    (Queued(start_time=NOON + HOUR), None),
    (Scheduled(start_time=NOON + SECOND), None),
    (Paused(start_time=NOON + SECOND), None),
    (Paused(), None),
    (Resume(start_time=NOON), None),
    (Pending(), None),
    (Running(), None),
    (Success(), None),
]


@pytest.mark.parametrize(("state", "seconds"), DUE, ids=lambda value: repr(value))
def test_due_in(state: State, seconds: float | None) -> None:
    assert rules.due_in(state, NOON, 60.0) == seconds


# -- the flow ------------------------------------------------------------------------------------------

OUTCOMES: list[tuple[list[State], list[State], type[State]]] = [
    ([], [], Success),
    ([Success()], [Success()], Success),
    ([Success(), Skipped(), Cached(), Mapped()], [Success()], Success),
    ([Failed()], [Failed()], Failed),
    ([Failed()], [Success()], Success),
    ([Success()], [Success(), TimedOut()], Failed),
    ([Success()], [Success(), TriggerFailed()], Failed),
    ([Success()], [Success(), ValidationFailed()], Failed),
    ([Success()], [Success(), Cancelled()], Success),
    ([Looped()], [Looped()], Success),
    ([Pending()], [Success()], Running),
    ([Retrying()], [Failed()], Running),
    ([Success(), Paused()], [Failed()], Running),
    ([Cancelling()], [Success()], Running),
    ([Queued()], [Queued()], Running),
    ([Submitted()], [Success()], Running),
    ([ClientFailed()], [Success()], Running),
]


@pytest.mark.parametrize(("terminal", "reference", "kind"), OUTCOMES)
def test_flow_outcome(terminal: list[State], reference: list[State], kind: type[State]) -> None:
    state = Running()
    result: dict[Any, State] = {"task": Success()}
    found = rules.flow_outcome(state, terminal, reference, result)
    assert type(found) is kind
    assert found.result is result
    if kind is Running:
        assert found is state


@given(
    terminal=st.lists(st.sampled_from(ALL).map(lambda kind: kind()), max_size=5),
    reference=st.lists(st.sampled_from(ALL).map(lambda kind: kind()), max_size=5),
)
def test_flow_outcome_of_any_states(terminal: list[State], reference: list[State]) -> None:
    found = rules.flow_outcome(Running(), iter(terminal), iter(reference), {})
    if not all(state.is_finished() for state in terminal):
        assert type(found) is Running
    elif any(state.is_failed() for state in reference):
        assert type(found) is Failed
    else:
        assert type(found) is Success
