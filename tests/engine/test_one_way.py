"""The plan that leaves out what has nothing to do, against one that leaves out nothing; and what stays in a plan."""

import asyncio
import functools
import itertools
import re
from pathlib import Path

import msgspec
import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, FlowRunner, Limits, TaskRunner, context, task, triggers
from flowloop.engine._run.steps import AFTER, BEFORE, BODY, plan_of
from flowloop.engine.cloud import CloudFlowRunner, CloudTaskRunner
from flowloop.engine.results import LocalResult
from flowloop.engine.signals import (
    ENDRUN,
    FAIL,
    LOOP,
    PAUSE,
    RETRY,
    SKIP,
    SUCCESS,
    VALIDATIONFAIL,
    VersionLockMismatchSignal,
)
from flowloop.engine.state import Failed, Mapped, Success

pytestmark = pytest.mark.virtual_time


def value():
    return 1


def nothing():
    return None


def error():
    raise ValueError("x")


def leaves():
    raise SystemExit(3)


def fail():
    raise FAIL("f")


def invalid():
    raise VALIDATIONFAIL("v")


def skip():
    raise SKIP("s")


def success():
    raise SUCCESS("s", result=3)


def retry():
    if context.task_run_count < 3:
        raise RETRY("again")
    return context.task_run_count


def loop():
    if (context.get("task_loop_count") or 1) < 3:
        raise LOOP("round", result=context.get("task_loop_result"))
    return context.task_loop_count


def pause():
    raise PAUSE("p")


def lock():
    raise VersionLockMismatchSignal("v")


def cancelled():
    raise asyncio.CancelledError


def end_well():
    raise ENDRUN(Success("mine", result=7))


def end_badly():
    raise ENDRUN(Failed("mine"))


BODIES = [
    value,
    nothing,
    error,
    leaves,
    fail,
    invalid,
    skip,
    success,
    retry,
    loop,
    pause,
    lock,
    cancelled,
    end_well,
    end_badly,
]


def shown(state):
    result = state.result if not isinstance(state.result, BaseException) else type(state.result)
    return type(state).__name__, str(state.message), str(result)


def whole(plan):
    """Return a plan with nothing left out."""
    return msgspec.structs.replace(
        plan,
        before_if_clear=plan.before,
        after_success=True,
        is_quiet=False,
        begins_plainly=False,
        takes_values=False,
    )


def runner_class(base, *, is_whole):
    class Chosen(base):
        def task_runner(self, task, state_handlers):
            runner = super().task_runner(task, state_handlers)
            if is_whole:
                runner._plan = whole(runner._plan)
            return runner

    return Chosen


class Once:
    """One run of a flow of a body, of a task before it and one after it; and all that can be seen of it."""

    def __init__(self, body, heard, retries, limited, recorded, watched):
        self.body, self.heard, self.recorded, self.watched = body, heard, recorded, watched
        self.retries = {"max_retries": 1, "retry_delay": 0} if retries else {}
        self.options = {"limits": Limits(concurrency=1)} if limited else {}

    async def run(self, *, is_whole):
        seen, events = [], []

        def told(who, old, new):
            seen.append((getattr(who, "name", "runner"), shown(old), shown(new)))

        async def fn(before):
            return self.body()

        handlers = [told] if self.heard == "task" else None
        with Flow("one") as flow:
            first = task(lambda: "before", name="before")()
            made = task(fn, name="body", state_handlers=handlers, **self.retries)(first)
            after = task(lambda x: x, name="after")(made)

        async def go(base, **more):
            runner = runner_class(base, is_whole=is_whole)(flow, **self.options, **more)
            stream = runner.events() if self.watched else None
            own = [told] if self.heard == "runner" else None
            state = await runner.run(task_runner_state_handlers=own)
            if stream is not None:
                events.extend([(e.task_slug, shown(e.old_state), shown(e.state)) async for e in stream])
            return state, runner

        history = None
        if self.recorded:
            async with connect("memory://", clock=asyncio.get_running_loop().clock) as backend:
                state, runner = await go(CloudFlowRunner, backend=backend)
                summary, runs = await backend.get_flow_run_history(runner.flow_run_id)
                history = (
                    summary.state,
                    sorted((one.task_slug, [(s.state, s.message) for s in one.states]) for one in runs),
                )
        else:
            state, _ = await go(FlowRunner)
        return [shown(state.result[one]) for one in (first, made, after)], sorted(map(str, seen)), events, history


@pytest.mark.parametrize("recorded", [False, True], ids=["local", "recorded"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_the_short_plan_does_what_the_whole_one_does(body, recorded, monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWLOOP_HOME", str(tmp_path))
    for heard, retries, limited, watched in itertools.product(
        (None, "task", "runner"), (False, True), (False, True), (False, True)
    ):
        once = Once(body, heard, retries, limited, recorded, watched)
        short, full = await once.run(is_whole=False), await once.run(is_whole=True)
        assert short == full, (heard, retries, limited, watched)


@pytest.mark.parametrize("trigger", [triggers.all_successful, triggers.all_finished, triggers.any_failed])
@pytest.mark.parametrize("upstream", [Success, Failed, "skip"], ids=["success", "failed", "skipped"])
async def test_with_every_state_upstream(trigger, upstream):
    async def before():
        if upstream == "skip":
            raise SKIP("not today")
        if upstream is Failed:
            raise FAIL("broken")
        return [1, 2]

    async def use(value):
        return str(value)

    found = []
    for is_whole in (False, True):
        with Flow("upstream") as flow:
            made = task(before)()
            one = task(use, name="one", trigger=trigger)(made)
            many = task(use, name="many", trigger=trigger).map(made)
        state = await runner_class(FlowRunner, is_whole=is_whole)(flow).run()
        ended = [state.result[one], state.result[many]]
        children = ended[1].map_states if isinstance(ended[1], Mapped) else []
        found.append([shown(each) for each in (ended[0], *children)] + [type(ended[1])])
    assert found[0] == found[1]


# -- what stays ----------------------------------------------------------------------------------------

STEPS = [step.name for step in (*BEFORE, *BODY, *AFTER) if not step.name.startswith("_")]


def audited(name, calls):
    @functools.wraps(getattr(TaskRunner, name))
    async def step(self, *args, **kwargs):
        calls.append(name)
        return await getattr(TaskRunner, name)(self, *args, **kwargs)

    return step


@pytest.mark.parametrize("name", STEPS)
async def test_a_wrapped_step_is_called(name, tmp_path):
    calls = []
    wrapped = type("Wrapped", (TaskRunner,), {name: audited(name, calls)})
    kinds = {
        "set_task_run_name": {"task_run_name": "n"},
        "check_target": {"target": "t", "result": LocalResult(tmp_path)},
    }
    one = task(lambda: 1, name="one", **kinds.get(name, {}))
    await wrapped(one).run(is_mapped_parent=name == "check_task_ready_to_map")
    assert calls == [name]


class Mixin:
    async def check_task_trigger(self, state, upstream_states):
        raise ENDRUN(Failed("not today"))


async def test_a_mixed_in_step_is_called():
    class Mixed(Mixin, TaskRunner):
        pass

    assert (await Mixed(task(lambda: 1, name="one")).run()).message == "not today"


def test_a_plain_plan_is_short_and_each_step_brings_those_after_it():
    one = task(lambda: 1, name="one")
    plan = plan_of(TaskRunner, one, False)
    assert (plan.before_if_clear, plan.after_success, plan.is_quiet) == ((), False, True)
    assert plan_of(TaskRunner, one, False) is plan

    def lengths(kind, of):
        return len(plan_of(kind, of, False).before_if_clear)

    first = type("First", (TaskRunner,), {"check_task_is_ready": audited("check_task_is_ready", [])})
    late = type("Late", (TaskRunner,), {"check_task_trigger": audited("check_task_trigger", [])})
    assert lengths(first, one) == len(plan.before)
    assert lengths(late, one) == 3  # a cache is looked at after it, for which the inputs are needed
    assert lengths(TaskRunner, task(lambda: 1, name="one", trigger=triggers.always_run)) == 1
    assert lengths(TaskRunner, task(lambda: 1, name="one", task_run_name="n")) == 2  # it needs the inputs
    assert lengths(CloudTaskRunner, one) == 1  # it loads results


async def test_the_runner_of_tasks_that_a_flow_runner_names_is_used(memory, settings):
    calls = []
    loud = type("Loud", (CloudTaskRunner,), {"set_task_to_running": audited("set_task_to_running", calls)})
    with Flow("loud") as flow:
        task(lambda: 1, name="one")()
    by_class = type("LoudFlow", (CloudFlowRunner,), {"task_runner_class": loud})
    assert (await by_class(flow, backend=memory, settings=settings).run()).is_successful()
    assert (await CloudFlowRunner(flow, backend=memory, settings=settings, task_runner_cls=loud).run()).is_successful()
    assert calls == ["set_task_to_running"] * 2


async def test_a_runner_that_records_nothing_is_refused(memory, settings):
    with Flow("quiet") as flow:
        task(lambda: 1, name="one")()
    with pytest.raises(ValueError, match="task_runner_cls is a CloudTaskRunner"):
        CloudFlowRunner(flow, backend=memory, settings=settings, task_runner_cls=TaskRunner)


@pytest.mark.parametrize("also", [(), ("get_task_inputs",), ("check_task_trigger",)])
async def test_a_body_gets_what_a_step_has_put_upstream(also):
    class Tenfold(TaskRunner):
        async def load_results(self, state, upstream_states):
            return state, {edge: Success("", result=10 * one.result) for edge, one in upstream_states.items()}

    for name in also:
        setattr(Tenfold, name, audited(name, []))
    with Flow("tenfold") as flow:
        two = task(lambda: 2, name="two")()
        added = task(lambda x, y: x + y, name="added")(two, 1)
        mapped = task(lambda x: x, name="mapped").map([3, 4])
    state = await FlowRunner(flow, task_runner_cls=Tenfold).run()
    assert (state[added].result, state[mapped].result) == (21, [30, 40])


async def test_steps_take_the_state_by_keyword():
    runner = TaskRunner(task(lambda: 1, name="one"))
    state, known = await runner.initialize_run(state=None, context={})
    assert known["task_name"] == "one"
    assert await runner.check_task_is_ready(state=state) is state
    assert await runner.check_upstream_finished(state=state, upstream_states={}) is state
    running = await runner.set_task_to_running(state=state, inputs={})
    assert (await runner.get_task_run_state(state=running, inputs={})).is_successful()


def test_the_picture_of_the_pipeline_is_that_of_the_table():
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## One run of a task")[2].split("```")[1]
    drawn = [line.split() for line in re.sub(r"[>]", " ", section).splitlines() if line.startswith("  ")]
    assert [name for line in drawn for name in line] == [step.name for step in (*BEFORE, *BODY, *AFTER)]
