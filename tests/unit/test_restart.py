"""What a flow run that is continued finds of its task runs, and which of them run again."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from flowloop.engine import Flow, Task, task
from flowloop.engine._run.restart import RETRY_FOLLOWS, continued, tasks_to_rerun
from flowloop.engine.state import (
    Failed,
    Looped,
    Mapped,
    Pending,
    Retrying,
    Running,
    Scheduled,
    State,
    Submitted,
    Success,
)


@pytest.mark.parametrize(
    ("recorded", "taken_over", "left"),
    [
        (Submitted(), Pending, Running),
        (Submitted(state=Scheduled()), Submitted, Submitted),
        (Running(), Pending, Running),
        (Looped(), Pending, Running),
        (Failed(context={RETRY_FOLLOWS: 1}), Failed, Running),
        (Failed(), Failed, Failed),
        (Retrying(), Retrying, Retrying),
        (Success(), Success, Success),
    ],
)
def test_what_is_under_way_is_its_runners_unless_that_is_gone(
    recorded: State, taken_over: type[State], left: type[State]
) -> None:
    assert type(continued(recorded, takeover=True)) is taken_over
    assert type(continued(recorded, takeover=False)) is left


@pytest.mark.parametrize(
    ("cached", "after_all", "again"), [(False, True, False), (False, False, True), (True, True, True)]
)
def test_children_that_are_not_here_are_over_when_what_comes_after_all_of_them_is(
    cached: bool, after_all: bool, again: bool
) -> None:
    """What comes after each of them may have got as far as its own children without that."""

    @task(checkpoint=False)
    def unstored() -> int:
        return 1

    @task(cache_for=datetime.timedelta(hours=1) if cached else None)
    def each(number: int, one: int) -> int:
        return number + one

    @task
    def after(taken: object) -> None: ...

    with Flow("mapped") as flow:
        lost = unstored()
        lost.reruns_on_restart = True
        children = each.map([1, 2], one=lost)
        onward, total = after.map(children), after(children)
    over = Mapped(map_states=[Success(), Success()])
    states: dict[Task[..., Any], State] = {lost: Success(), children: Mapped(n_map_states=2), onward: over}
    if after_all:
        states[total] = Success()
    assert (lost in tasks_to_rerun(flow, states)) is again
