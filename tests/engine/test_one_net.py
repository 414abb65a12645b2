"""Whatever the code of users raises, wherever it is called: it ends one task run, and nothing else."""

import asyncio
import datetime
import logging
from collections import defaultdict

import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, FlowRunner, Limits, Settings, TaskRunner, flatten, resource_manager, subflow, task
from flowloop.engine._run.drive import Drive, plan_of
from flowloop.engine._run.ledger import Graph, Ledger
from flowloop.engine._run.net import failure, shown
from flowloop.engine.cancellation import Cancellation
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import InvalidTransition
from flowloop.engine.executors import ProcessExecutor
from flowloop.engine.results import LocalResult
from flowloop.engine.signals import ENDRUN, FAIL, SKIP
from flowloop.engine.state import Cached, Failed, Skipped, Success
from flowloop.engine.triggers import always_run
from flowloop.engine.watch import Watch

pytestmark = pytest.mark.virtual_time


class Panic(BaseException):
    """What a Rust extension raises that panics."""


class Mute(Exception):
    """Its repr fails, too."""

    def __repr__(self):
        raise Panic("no repr")


def group(*errors):
    return BaseExceptionGroup("a task group", errors)


DAY = datetime.timedelta(days=1)

RAISED = {
    "panic": (lambda: Panic("out of bounds"), Failed),
    "exit": (lambda: SystemExit(0), Failed),
    "closing": (GeneratorExit, Failed),
    "own cancel": (asyncio.CancelledError, Failed),
    "mute": (Mute, Failed),
    "one signal in groups": (lambda: group(group(SKIP("not today"))), Skipped),
    "one ENDRUN in a group": (lambda: group(ENDRUN(Failed("stop here"))), Failed),
    "two signals in a group": (lambda: group(SKIP("not today"), FAIL("nor tomorrow")), Failed),
    "a signal and an error in a group": (lambda: group(SKIP("not today"), ValueError("x")), Failed),
    "a panic in a group": (lambda: group(Panic("out of bounds")), Failed),
}


def where(raised):
    """Return the places that call the code of users, each as what adds a task to a flow that meets the error there."""

    def fails(*args, **kwargs):
        raise raised()

    async def fails_late(*args, **kwargs):
        await asyncio.sleep(0.01)
        raise raised()

    async def late_body():
        await fails_late()

    def nothing():
        return 1

    class Values:
        def __init__(self, broken):
            self.broken = broken

        def __format__(self, spec):
            return fails()

        def __len__(self):
            return fails() if self.broken == "len" else 2

        def __getitem__(self, index):
            return fails() if self.broken == index else index

    @resource_manager
    class Pool:
        def setup(self):
            fails()

        def cleanup(self, pool):
            pass

    class Unwritable(LocalResult):
        async def write(self, value, /, **kwargs):
            return fails()

    class Unreadable(LocalResult):
        async def exists(self, location, /, **kwargs):
            return True

        async def read(self, location):
            return fails()

    def flattened(values):
        return task(lambda given: 1, name="use")(flatten(task(lambda: [values], checkpoint=False)()))

    def named_after(values):
        return task(lambda given: 1, task_run_name="{given}")(task(lambda: values, checkpoint=False)())

    def mapped_over(values):
        async def use(value):
            return value

        return task(use).map(task(lambda: values, checkpoint=False)())

    def with_resource():
        with Pool() as pool:
            task(lambda p: p, name="use")(pool)
        return pool

    def handler(when):
        return lambda it, old, new: fails() if when(new) else None

    def late_handler(it, old, new):
        return fails_late() if new.is_running() else None

    return {
        "body": lambda: task(lambda: fails(), name="body")(),
        "async body": lambda: task(late_body)(),
        "handler at the beginning": lambda: task(nothing, state_handlers=[handler(lambda s: s.is_running())])(),
        "handler at the end": lambda: task(nothing, state_handlers=[handler(lambda s: s.is_finished())])(),
        "async handler": lambda: task(nothing, state_handlers=[late_handler])(),
        "trigger": lambda: task(nothing, trigger=fails)(),
        "async trigger": lambda: task(nothing, trigger=fails_late)(),
        "run name": lambda: task(nothing, task_run_name=fails)(),
        "target": lambda: task(nothing, target=fails, result=LocalResult("."))(),
        "target that is read": lambda: task(nothing, target="there", result=Unreadable("."))(),
        "format of an input": lambda: named_after(Values("format")),
        "len of what is flattened": lambda: flattened(Values("len")),
        "resource": with_resource,
        "len of what is mapped over": lambda: mapped_over(Values("len")),
        "the first item of what is mapped over": lambda: mapped_over(Values(0)),
        "the last item of what is mapped over": lambda: mapped_over(Values(1)),
        "result that is written": lambda: task(nothing, name="written", result=Unwritable("."))(),
    }


*PLACES, WRITTEN = where(ValueError)
"""The last one is where only recorded runs come."""


def flow_with(place, raised):
    async def unrelated():
        await asyncio.sleep(1)
        return "unrelated"

    with Flow("net") as flow:
        bad = where(raised)[place]()
        other = task(unrelated)()
    return flow, bad, other


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("place", PLACES)
async def test_it_ends_one_task_run(place, name):
    raised, expected = RAISED[name]
    flow, bad, other = flow_with(place, raised)
    state = await asyncio.wait_for(FlowRunner(flow).run(), 60)
    assert state.result[other].result == "unrelated"
    assert isinstance(state.result[bad], expected), state.result[bad]


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("place", [*PLACES, WRITTEN])
async def test_what_is_returned_is_recorded(place, name, memory, settings):
    raised, expected = RAISED[name]
    flow, bad, other = flow_with(place, raised)
    state, recorded = await ended_as_recorded(flow, memory, settings)
    assert isinstance(state.result[bad], expected), state.result[bad]
    assert recorded[flow.slugs[other]] == "Success"


async def ended_as_recorded(flow, memory, settings):
    """Run a flow; return its state, and how its tasks ended by the record, which says what is returned."""
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    state = await asyncio.wait_for(runner.run(), 60)
    summary, runs = await memory.get_flow_run_history(runner.flow_run_id)
    assert summary.state == type(state).__name__
    recorded = {run.task_slug: run.states[-1].state for run in runs if run.map_index < 0}
    assert recorded == {flow.slugs[one]: type(ended).__name__ for one, ended in state.result.items()}
    return state, recorded


@pytest.mark.parametrize("name", RAISED)
async def test_the_validator_of_a_recorded_cache(name, memory, settings):
    raised, expected = RAISED[name]

    def fails(*args):
        raise raised()

    with Flow("cached") as flow:
        task(lambda: 1, name="cached", cache_for=DAY, cache_validator=fails)()
    for _ in ("nothing is recorded yet", "something is"):
        _, recorded = await ended_as_recorded(flow, memory, settings)
    assert recorded == {"cached-1": expected.__name__}


@pytest.mark.parametrize("name", RAISED)
async def test_an_error_that_cannot_be_kept(name, memory, settings):
    raised, _ = RAISED[name]

    class Unwritable(LocalResult):
        def at(self, location):
            raise raised()

    def fails():
        raise ValueError("the body")

    with Flow("kept") as flow:
        bad = task(fails, result=Unwritable("."))()
        seen = task(lambda given: str(given), name="see", trigger=always_run)(bad)
    state, recorded = await ended_as_recorded(flow, memory, settings)
    assert recorded == {"fails-1": "Failed", "see-1": "Success"}
    assert state.result[seen].result == "the body"


@pytest.mark.parametrize("name", RAISED)
async def test_a_message_that_cannot_be_written(name, memory, settings):
    raised, _ = RAISED[name]

    class Message:
        def __str__(self):
            raise raised()

    def fails():
        raise FAIL(Message())

    with Flow("message") as flow:
        task(fails)()
    _, recorded = await ended_as_recorded(flow, memory, settings)
    assert recorded == {"fails-1": "Failed"}


class Unlisted:
    def __dir__(self):
        raise Panic("no names")


def with_a_note_that_fails():
    class Noted(ValueError):
        @property
        def __notes__(self):
            raise Panic("no notes")

    raise Noted("the body")


def with_a_cause_that_fails():
    class Caused(ValueError):
        def __getattribute__(self, name):
            if name in ("__cause__", "__traceback__"):
                raise Panic("no cause")
            return super().__getattribute__(name)

    raise Caused("the body")


def with_no_truth():
    class Neither(ValueError):
        def __bool__(self):
            raise Panic("neither true nor false")

    raise Neither("the body")


UNTOLD = {
    "note": with_a_note_that_fails,
    "cause": with_a_cause_that_fails,
    "truth": with_no_truth,
    "names that it might have meant": lambda: Unlisted().missing,
}


@pytest.mark.parametrize("body", UNTOLD.values(), ids=UNTOLD)
@pytest.mark.parametrize("where", ["body", "handler", "trigger"])
async def test_an_error_whose_traceback_cannot_be_told(where, body, memory, settings):
    def when_it_runs(it, old, new):
        return body() if new.is_running() else None

    options = {"handler": {"state_handlers": [when_it_runs]}, "trigger": {"trigger": lambda upstream: body()}}
    with Flow("untold") as flow:
        bad = task(body if where == "body" else lambda: 1, name="bad", **options.get(where, {}))()
        other = task(lambda: 1, name="other")()
    state, recorded = await ended_as_recorded(flow, memory, settings)
    ended = "TriggerFailed" if where == "trigger" else "Failed"
    assert recorded == {flow.slugs[bad]: ended, flow.slugs[other]: "Success"}
    assert state.result[bad].traceback


async def test_an_error_that_cannot_be_shown(memory, settings):
    class Silent(ValueError):
        def __str__(self):
            raise Panic("no text")

    def fails():
        raise Silent

    with Flow("silent") as flow:
        task(fails)()
        other = task(lambda: 1, name="other")()
    state, recorded = await ended_as_recorded(flow, memory, settings)
    assert recorded == {"fails-1": "Failed", "other-1": "Success"}
    assert state.result[other].result == 1


@pytest.mark.parametrize(
    "options",
    [{"limits": Limits(concurrency=1)}, {"fail_fast": True}, {"release_results": True}],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("name", RAISED)
async def test_under_every_option(name, options):
    raised, expected = RAISED[name]
    flow, bad, _ = flow_with("async body", raised)
    state = await asyncio.wait_for(FlowRunner(flow, **options).run(), 60)
    assert isinstance(state.result[bad], expected)
    assert all(one.is_finished() for one in state.result.values())


@pytest.mark.parametrize("name", RAISED)
async def test_a_flow_handler_or_its_last_word(name):
    raised, expected = RAISED[name]

    def fails(*args):
        raise raised()

    def at_the_end(flow, old, new):
        return fails() if new.is_finished() else None

    for options in ({"state_handlers": [at_the_end]}, {"terminal_state_handler": fails}):
        with Flow("handled", **options) as flow:
            task(lambda: 1, name="fine")()
        assert isinstance(await asyncio.wait_for(FlowRunner(flow).run(), 60), expected)


@pytest.mark.parametrize("name", RAISED)
async def test_a_subflow_fails_with_it(name):
    raised, _ = RAISED[name]

    async def fails():
        raise raised()

    with Flow("inner") as inner:
        task(fails)()
    with Flow("outer") as outer:
        bad = subflow(inner)()
    state = await asyncio.wait_for(FlowRunner(outer).run(), 60)
    assert isinstance(state.result[bad], Success if name == "one signal in groups" else Failed)


@pytest.mark.parametrize("name", RAISED)
async def test_the_validator_of_a_cache(name):
    raised, expected = RAISED[name]

    def fails(*args):
        raise raised()

    cached = task(lambda: 1, name="cached", cache_for=datetime.timedelta(days=1), cache_validator=fails)
    state = await TaskRunner(cached).run(Cached("served", result=1))
    assert isinstance(state, expected)


async def test_a_function_of_retry_delays():
    def fails(attempt):
        raise Panic("no delay")

    async def bad():
        raise ValueError("the body")

    state = await TaskRunner(task(bad, max_retries=1, retry_delay=fails)).run()
    assert state.is_failed()
    assert "its retry_delay failed after attempt 1" in state.message
    assert "no delay" in state.message
    assert isinstance(state.result, ValueError)


@pytest.mark.parametrize("raised", [Panic, GeneratorExit, StopIteration, SystemExit], ids=lambda one: one.__name__)
def test_in_processes(raised):
    def fails():
        raise raised

    with Flow("processes") as flow:
        bad = task(fails)()
    state = asyncio.run(FlowRunner(flow).run(executor=ProcessExecutor(1)))
    assert state.result[bad].is_failed()


# -- what is not caught --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["body", "async body", "handler at the beginning", "trigger", "run name", WRITTEN])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, lambda: group(KeyboardInterrupt())], ids=["plain", "in a group"])
def test_an_interrupt_stops_the_run_and_goes_on_to_the_caller(place, raised, tmp_path):
    flow, bad, _ = flow_with(place, raised)
    told = []

    async def main():
        async with connect("memory://") as backend:
            runner = CloudFlowRunner(flow, backend=backend, settings=Settings(home=str(tmp_path)))
            try:
                await runner.run()
            except KeyboardInterrupt:
                summary, runs = await backend.get_flow_run_history(runner.flow_run_id)
                told.append((summary.state, {run.task_slug: run.states[-1].state for run in runs}))
                raise

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert told == [("Cancelled", dict.fromkeys(flow.slugs.values(), "Cancelled"))]
    assert bad in flow.slugs


async def test_an_error_of_the_place_of_a_result_is_let_through_to_who_asks_for_errors(memory, settings):
    flow, *_ = flow_with(WRITTEN, lambda: ValueError("not written"))
    with pytest.raises(ValueError, match="not written"):
        await CloudFlowRunner(flow, backend=memory, settings=settings).run(context={"raise_on_exception": True})


# -- the drive itself ----------------------------------------------------------------------------------


async def test_a_runner_that_raises_ends_the_run_and_not_only_its_task():
    class Broken(FlowRunner):
        def task_runner(self, task, state_handlers):
            raise Panic("no runner")

    with Flow("broken") as flow:
        task(lambda: 1, name="one")()
    state = await asyncio.wait_for(Broken(flow).run(), 10)
    assert state.is_failed()
    assert isinstance(state.result, Panic)


async def test_a_task_run_that_somebody_cancels_from_outside_ends_the_run_and_is_named():
    async def cancels_itself(*args):
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    with Flow("cut") as flow:
        task(lambda: 1, name="cut", state_handlers=[cancels_itself])()
        other = task(lambda: asyncio.sleep(100), name="other")()
    state = await asyncio.wait_for(FlowRunner(flow).run(return_tasks=[other]), 10)
    assert state.is_failed()
    assert "the run of task 'cut' was cancelled from outside" in state.message


async def test_what_ends_in_the_callback_wakes_the_drive():
    def uncounted():
        raise Panic("not countable")

    async def late():
        await asyncio.sleep(1)

    with Flow("woken") as flow:
        task(late)()
    plan = plan_of(flow)
    runner, watch = FlowRunner(flow), Watch()
    watch.ended = defaultdict(uncounted)
    drive = Drive(
        plan,
        lambda one: runner.task_runner(one, []),
        {},
        {},
        Cancellation(),
        watch,
        backlog=lambda: 0,
        fail_fast=False,
        grace=1,
    )
    with pytest.raises(Panic):
        await asyncio.wait_for(drive.run(), 10)


async def test_what_has_ended_ahead_of_its_turn_has_its_times():
    async def ended():
        return Success()

    with Flow("ahead") as flow:
        task(lambda: 1)()
    drive = Drive(plan_of(flow), None, {}, {}, Cancellation(), Watch(), backlog=lambda: 0, fail_fast=False, grace=1)
    drive._ahead.runs[0] = asyncio.ensure_future(ended())
    await drive._ahead.runs[0]
    await drive.run()
    assert drive.times().keys() == {(one, -1) for one in flow.tasks}


def test_an_impossible_move_tells_its_story():
    ledger = Ledger(Graph(1, [], []), story=True)
    key = ledger.start()
    ledger.finish(key)
    with pytest.raises(InvalidTransition, match=r"(?s)from finished to finished.*'started'.*'finished'"):
        ledger.finish(key)


async def test_the_drive_keeps_the_story_in_debug_mode(monkeypatch):
    monkeypatch.setattr(Drive, "keeps_story", False)
    with Flow("story") as flow:
        task(lambda: 1, name="one")()
    loop = asyncio.get_running_loop()
    stories = []
    for debug in (False, True):
        loop.set_debug(debug)
        drive = Drive(
            plan_of(flow),
            FlowRunner(flow).task_runner,
            {},
            {},
            Cancellation(),
            Watch(),
            backlog=int,
            fail_fast=False,
            grace=1,
        )
        drive.ledger.start()
        stories.append(drive.ledger.story((0, -1)))
    loop.set_debug(False)
    assert stories == [[], [((0, -1), "started")]]


@pytest.mark.parametrize("raised", [Panic, ValueError, lambda: FAIL("no line"), asyncio.CancelledError])
@pytest.mark.parametrize("where", ["handler", "filter"])
async def test_who_hears_the_log(where, raised, memory, settings, caplog, capsys):
    class Handler(logging.Handler):
        def emit(self, record):
            raise raised()

    def filtered(record):
        raise raised()

    logger = logging.getLogger("flowloop")
    caplog.set_level(logging.DEBUG, "flowloop")
    handler = Handler()
    if where == "filter":
        handler.addFilter(filtered)
    logger.addHandler(handler)
    try:
        with Flow("heard") as flow:
            task(lambda: 1, name="fine")()
            task(lambda: 1 // 0, name="fails")()
        state, recorded = await ended_as_recorded(flow, memory, settings)
    finally:
        logger.removeHandler(handler)
    assert recorded == {"fine-1": "Success", "fails-1": "Failed"}
    assert state.is_failed()
    assert "emit" in capsys.readouterr().err or where == "filter"


def test_what_ends_a_coroutine_that_nobody_runs_any_more_goes_on():
    with pytest.raises(GeneratorExit):
        failure(GeneratorExit())


def test_an_interrupt_while_a_value_is_shown_goes_on():
    class Interrupting:
        def __repr__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shown(Interrupting())


async def test_an_interrupt_while_an_element_is_read_goes_on():
    class Interrupted(list):
        was = False

        def __getitem__(self, index):
            if not Interrupted.was:
                Interrupted.was = True
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with Flow("interrupted") as flow:
        task(lambda n: n, name="each").map(task(lambda: Interrupted([1, 2]), name="numbers")())
    with pytest.raises(KeyboardInterrupt):
        await FlowRunner(flow).run()
