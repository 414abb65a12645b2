"""Whether a recorded run may be sent ahead of what it rests on: only if nobody could tell."""

from __future__ import annotations

from typing import Any

import pytest

from flowloop.engine import task
from flowloop.engine._run.steps import plan_of
from flowloop.engine.cloud.task_runner import CloudTaskRunner
from flowloop.engine.edge import Edge
from flowloop.engine.state import State


class OwnStep(CloudTaskRunner):
    """A runner with a step of its own before the body."""

    async def check_upstream_finished(self, state: State, upstream_states: dict[Edge, State]) -> State:
        return await super().check_upstream_finished(state, upstream_states)


class OwnBody(CloudTaskRunner):
    """A runner with a step of its own around the body."""

    async def get_task_run_state(self, *args: Any, **kwargs: Any) -> State:
        return await super().get_task_run_state(*args, **kwargs)


class OwnRecording(CloudTaskRunner):
    """A runner with a say in what is recorded."""

    async def call_runner_target_handlers(self, old_state: State, new_state: State) -> State:
        return await super().call_runner_target_handlers(old_state, new_state)


class Plain(CloudTaskRunner):
    """A runner that changes nothing."""


@pytest.mark.parametrize(("runner", "may"), [(CloudTaskRunner, True), (Plain, True), (OwnRecording, False)])
def test_who_has_a_say_in_what_is_recorded_goes_step_by_step(runner: type[CloudTaskRunner], *, may: bool) -> None:
    assert runner(task(lambda: 1, name="one")).may_step_ahead is may


@pytest.mark.parametrize(
    ("runner", "is_heard", "begins", "ends"),
    [
        (CloudTaskRunner, False, True, True),
        (CloudTaskRunner, True, False, False),
        (OwnStep, False, False, True),
        (OwnStep, True, False, False),
        (OwnBody, False, True, False),
        (OwnBody, True, False, False),
    ],
)
def test_only_where_nobody_has_a_say_a_run_may_go_ahead(
    runner: type[CloudTaskRunner], is_heard: bool, begins: bool, ends: bool
) -> None:
    plan = plan_of(runner, task(lambda: 1, name="one"), is_heard)
    assert (plan.begins_unheard, plan.ends_at_once) == (begins, ends)
