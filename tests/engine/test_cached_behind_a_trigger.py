"""A result that is there serves only where the trigger lets the task run."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from flowloop.engine import Flow, FlowRunner, Task, task, triggers
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.context import now
from flowloop.engine.results import LocalResult
from flowloop.engine.state import Cached, Paused, Resume, Scheduled, State, TriggerFailed

pytestmark = pytest.mark.virtual_time

HOUR = datetime.timedelta(hours=1)
TRIGGERS = {
    triggers.all_successful: TriggerFailed,
    triggers.any_successful: TriggerFailed,
    triggers.all_finished: Cached,
    triggers.any_failed: Cached,
    triggers.manual_only: Paused,
}


class Kept:
    """A flow whose last task has a result already, made while what it waits for did not fail yet."""

    def __init__(self, how: str, folder: Any, trigger: Any) -> None:
        self.ran: list[str] = []
        self.fails = False
        self.heard: list[str] = []

        @task
        def before() -> None:
            if self.fails:
                raise ValueError("not today")

        def hear(owner: Any, old: State, new: State) -> State:
            self.heard.append(type(new).__name__)
            return new

        place: dict[str, Any] = {"target": "kept", "result": LocalResult(folder)}
        options = place if how == "target" else {"cache_for": HOUR, "cache_key": "kept"}

        @task(trigger=trigger, state_handlers=[hear], **options)
        def kept() -> int:
            self.ran.append("kept")
            return 7

        with Flow("kept") as self.flow:
            self.kept: Task[..., Any] = kept(upstream_tasks=[before()])

    async def first(self, runner: Any, **words: Any) -> State:
        trigger, self.kept.trigger = self.kept.trigger, triggers.all_finished
        ended = await runner(self.flow, **words).run(context={"checkpointing": True})
        self.kept.trigger = trigger
        self.fails = True
        self.heard.clear()
        made: State = ended.result[self.kept]
        return made


@pytest.mark.parametrize("how", ["target", "cache"])
@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger.__name__)
async def test_a_result_that_is_there_is_taken_where_the_trigger_says_so(how, trigger, tmp_path):
    kept = Kept(how, tmp_path, trigger)
    made = await kept.first(FlowRunner)
    caches = {"kept": [made]} if how == "cache" else {}
    state = (await FlowRunner(kept.flow).run(context={"caches": caches, "checkpointing": True})).result[kept.kept]
    assert type(state) is TRIGGERS[trigger]
    assert kept.ran == ["kept"]
    assert kept.heard == [type(state).__name__], "it was not Cached first"


@pytest.mark.parametrize("how", ["target", "cache"])
@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger.__name__)
async def test_so_it_is_in_a_recorded_run(how, trigger, tmp_path, backend, settings):
    kept = Kept(how, tmp_path, trigger)
    await kept.first(CloudFlowRunner, backend=backend, settings=settings)
    state = (await CloudFlowRunner(kept.flow, backend=backend, settings=settings).run()).result[kept.kept]
    assert type(state) is TRIGGERS[trigger]
    assert kept.ran == ["kept"]
    assert kept.heard == [type(state).__name__]


async def test_a_given_cached_state_is_no_way_around_the_trigger(tmp_path):
    kept = Kept("cache", tmp_path, triggers.all_successful)
    kept.fails = True
    given = Cached(result=9, cached_result_expiration=now() + HOUR)
    state = await FlowRunner(kept.flow).run(task_states={kept.kept: given})
    assert state.is_failed()
    assert type(state.result[kept.kept]) is TriggerFailed


async def test_whoever_approved_a_run_is_not_asked_again_by_the_process_that_goes_on(tmp_path, backend, settings):
    kept = Kept("target", tmp_path, triggers.manual_only)
    await kept.first(CloudFlowRunner, backend=backend, settings=settings)
    await CloudFlowRunner(kept.flow, backend=backend, settings=settings).run()
    [flow_run] = await backend.list_flow_runs(1)

    async def ends_in(follows: State | None) -> type[State]:
        [run] = [one for one in (await backend.get_flow_run_info(flow_run.id)).task_runs if one.task_slug == "kept-1"]
        if follows is not None:
            await backend.set_task_run_state(run.id, None, follows)
        await backend.set_flow_run_state(flow_run.id, None, Scheduled())
        runner = CloudFlowRunner(kept.flow, backend=backend, settings=settings)
        return type((await runner.run(context={"flow_run_id": flow_run.id})).result[kept.kept])

    assert await ends_in(None) is Paused
    assert await ends_in(Resume()) is Cached
    assert await ends_in(None) is Cached
    assert kept.ran == ["kept"]
