"""No run is left in a state in which nobody goes on with it: not by handlers, and not under a flow run that is over."""

from __future__ import annotations

import datetime

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, TaskRunner, context, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.cloud.task_runner import CloudTaskRunner
from flowloop.engine.context import now
from flowloop.engine.errors import FlowloopError
from flowloop.engine.results import LocalResult
from flowloop.engine.runner import Runner
from flowloop.engine.signals import ENDRUN, LOOP, PAUSE, SKIP
from flowloop.engine.state import (
    Cancelled,
    Cancelling,
    ClientFailed,
    Failed,
    Looped,
    Mapped,
    Paused,
    Pending,
    Queued,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    Submitted,
    Success,
)

pytestmark = pytest.mark.virtual_time

NO_END = [Running, Pending, Submitted, Looped, Cancelling]
AN_END = [Success, Skipped, Failed, Cancelled, Paused, Scheduled]


def raises(when, left):
    def raises_at(owner, old, new):
        if type(new) is when:
            raise ENDRUN(left())

    return raises_at


def puts(when, left):
    def puts_at(owner, old, new):
        return left() if type(new) is when else None

    return puts_at


def loops(when, left):
    def loops_at(owner, old, new):
        if type(new) is when:
            raise LOOP("again")

    return loops_at


class Run:
    """A flow of one task, with a handler at one of the four places."""

    def __init__(self, where, handler):
        def at(place):
            return [handler] if where == place else []

        with Flow("heard", state_handlers=at("flow")) as self.flow:
            self.task = task(lambda: 1, name="one", state_handlers=at("task"))()
        self.of_runner, self.of_task_runner = at("flow runner"), at("task runner")
        self.is_of_task = where.startswith("task")

    async def run(self, memory=None, settings=None):
        """Return the state that the run whose handler it is ended in, and the recorded one."""
        if memory is None:
            state = await FlowRunner(self.flow, state_handlers=self.of_runner).run(
                task_runner_state_handlers=self.of_task_runner
            )
            return state.result[self.task] if self.is_of_task else state, None
        runner = CloudFlowRunner(self.flow, self.of_runner, backend=memory, settings=settings)
        state = await runner.run(task_runner_state_handlers=self.of_task_runner)
        info = await memory.get_flow_run_info(runner.flow_run_id)
        if self.is_of_task:
            return state.result[self.task], info.task_runs[0].state
        return state, info.state


WHERE = ["task", "task runner", "flow", "flow runner"]
HANDLERS = [(make, when, left) for make in (raises, puts) for when in (Running, Success) for left in NO_END]


@pytest.mark.parametrize("where", WHERE)
async def test_what_a_handler_leaves_to_nobody_has_failed_and_says_whose_it_is(where, memory, settings):
    for make, when, left in [*HANDLERS, (loops, Running, Looped)]:
        if make is puts and ((left, when) in {(Running, Running), (Cancelling, Running)} or left is Looped):
            continue  # the run goes on from it
        run = Run(where, make(when, left))
        for state, recorded in (await run.run(), await run.run(memory, settings)):
            what = f"{make.__name__} {left.__name__} at {when.__name__}: {state!r}, {recorded!r}"
            assert type(state) is Failed, what
            assert recorded is None or type(recorded) is Failed, what
            assert left.__name__ in str(state.message), what
            assert f"{make.__name__}_at" in str(state.message) or make is loops, what
            assert "in which nobody goes on with it. End it with a finished state" in str(state.message), what


@pytest.mark.parametrize("where", WHERE)
async def test_a_handler_may_end_a_run_as_finished_or_waiting_and_put_like_for_like(where, memory, settings):
    for make in (raises, puts):
        for left in AN_END:
            state, recorded = await Run(where, make(Running, left)).run(memory, settings)
            assert type(state) is type(recorded) is left, f"{make.__name__} {left.__name__}"
    state, _ = await Run(where, puts(Running, Running)).run(memory, settings)
    assert type(state) is Success


async def test_a_handler_of_a_task_may_ask_for_another_round():
    rounds = []

    def again(owner, old, new):
        if type(new) is Success and len(rounds) < 2:
            return Looped(loop_count=len(rounds))
        return None

    state = await TaskRunner(task(lambda: rounds.append(1), name="one", state_handlers=[again])).run()
    assert [len(rounds), type(state)] == [2, Success]


@pytest.mark.parametrize("left", NO_END)
async def test_neither_a_body_nor_a_trigger_nor_the_last_word_on_a_flow_leaves_a_run_to_nobody(left):
    def ends(*_):
        raise ENDRUN(left())

    async def nothing():
        return 1

    for broken in (task(lambda: ends(), name="body"), task(nothing, name="trigger", trigger=lambda states: ends())):
        state = await TaskRunner(broken).run()
        assert type(state) is Failed, broken.name
        assert "in which nobody goes on with it" in str(state.message), broken.name
    for last in (lambda flow, state, reference: left(), lambda flow, state, reference: ends()):
        with Flow("last", terminal_state_handler=last) as flow:
            task(nothing)()
        state = await FlowRunner(flow).run()
        assert type(state) is Failed
        assert "in which nobody goes on with it" in str(state.message)


# -- what runs by the word of somebody who does not run it -------------------------------------------------


class Pair:
    """A flow of two tasks."""

    def __init__(self, **options):
        with Flow("pair", **options) as self.flow:
            self.first = task(lambda: 1, name="first")()
            self.second = task(lambda n: n, name="second")(self.first)

    async def run(self, backend, settings, runner=CloudFlowRunner, task_states=None, **options):
        """Return the state of the run, and the recorded ones of it and of its tasks."""
        running = runner(self.flow, backend=backend, settings=settings, **options)
        state = await running.run(task_states=task_states)
        info = await backend.get_flow_run_info(running.flow_run_id)
        return state, info.state, [type(run.state) for run in info.task_runs]


@pytest.mark.parametrize(
    "given",
    [
        Running,
        Cancelling,
        lambda: Submitted(state=Running()),
        lambda: Queued(state=Running()),
        lambda: ClientFailed(state=Running()),
        lambda: Mapped(map_states=[Running(), Success()]),
    ],
)
async def test_a_task_that_runs_by_the_word_of_the_caller_alone_fails_its_flow_run(backend, settings, given):
    pair = Pair()
    state, recorded, tasks = await pair.run(backend, settings, task_states={pair.first: given()})
    assert type(state) is type(recorded) is Failed
    assert state.message == "These tasks were left unfinished, and wait for nothing: 'first', 'second'."
    assert tasks == [Cancelled, Cancelled]


@pytest.mark.parametrize("step", ["check_task_is_ready", "get_task_run_state", "cache_result", "check_for_retry"])
async def test_a_step_that_leaves_a_task_running_fails_the_flow_run(backend, settings, step):
    async def leaves(self, *args, **kwargs):
        return Running()

    runner = type("Leaves", (CloudTaskRunner,), {step: leaves})
    state, recorded, _ = await Pair().run(backend, settings, task_runner_cls=runner)
    assert type(state) is type(recorded) is Failed
    assert "left unfinished, and wait for nothing: 'first', 'second'" in state.message


@pytest.mark.parametrize("left", [*NO_END, ClientFailed])
async def test_a_flow_run_whose_end_is_none_has_failed(backend, settings, left):
    class Leaves(CloudFlowRunner):
        async def determine_final_state(self, *args, **kwargs):
            return left()

    state, recorded, _ = await Pair().run(backend, settings, runner=Leaves)
    assert type(state) is type(recorded) is Failed
    assert "in which nobody goes on with it" in state.message or state.message == "The flow run was left unfinished."


@pytest.mark.parametrize("step", ["initialize_run", "get_flow_run_state"])
@pytest.mark.parametrize("ends", [Success, Failed, Skipped, Paused, Running, Pending])
async def test_how_a_step_of_a_subclass_ends_a_flow_run_is_recorded(backend, settings, step, ends):
    """Also where it raises it before anything is known of the run, or returns it and tells nobody."""

    async def is_over(self, *args, **kwargs):
        if step == "initialize_run":
            raise ENDRUN(ends("by a step"))
        return ends("by a step")

    runner = type("Ends", (CloudFlowRunner,), {step: is_over})
    state, recorded, _ = await Pair().run(backend, settings, runner=runner)
    assert type(state) is type(recorded) is (Failed if ends in (Running, Pending) else ends)
    [run] = await backend.list_flow_runs()
    assert (await backend.get_flow_run_info(run.id)).owner is None


async def test_the_last_word_may_be_that_the_flow_run_waits(backend, settings):
    later = now() + datetime.timedelta(hours=1)
    pair = Pair(terminal_state_handler=lambda flow, state, reference: Scheduled("look again", start_time=later))
    state, recorded, tasks = await pair.run(backend, settings)
    assert [type(state), recorded.start_time, tasks] == [Scheduled, later, [Success, Success]]


@pytest.mark.parametrize("again", [Looped, Retrying])
async def test_what_a_handler_lets_begin_again_for_ever_can_be_stopped(backend, settings, again):
    rounds = []

    def for_ever(owner, old, new):
        if type(new) is not Success:
            return None
        rounds.append(new)
        if len(rounds) == 5:
            scope.cancel()
        return again()

    with Flow("for ever") as flow:
        task(lambda: 1, name="one", state_handlers=[for_ever])()
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    with anyio.CancelScope() as scope:
        await runner.run()
    assert scope.cancelled_caught
    assert type((await backend.get_flow_run_info(runner.flow_run_id)).state) is Cancelled


# -- under a flow run that is over -----------------------------------------------------------------------


async def fails_first(n):
    if n:
        await anyio.sleep(10_000)
    raise ValueError(n)


class OneChild(CloudFlowRunner):
    """Starts one child, and no other before the run ends: so much has yet to be recorded."""

    def _backlog(self):
        ledger = self._drive.ledger
        return 1_000_000 if any(ledger.width(number) for number in range(ledger.graph.size)) else 0


class Ended:
    """A flow of which one child has begun, others have not, and something waits for all of them."""

    def __init__(self, body=fails_first, **options):
        with Flow("ended", **options) as self.flow:
            children = task(body, name="child").map(list(range(5)))
            task(lambda values: sum(values), name="after")(children)

    async def run(self, backend, settings, **options):
        """Return as what the flow run ended, and as what the task runs did: by name the states, and the last message"""
        self.runner = OneChild(self.flow, backend=backend, settings=settings, **options)
        await self.runner.run()
        flow_run, runs = await backend.get_flow_run_history(self.runner.flow_run_id)
        return flow_run.state, {
            f"{run.task_slug.split('-')[0]}{run.map_index}": ([one.state for one in run.states], run.states[-1].message)
            for run in runs
        }


@pytest.fixture
def _slowly(monkeypatch):
    """Give others a turn, and have a look, after each task run that is started."""
    monkeypatch.setattr("flowloop.engine._run.drive._TURN", -1)


@pytest.mark.usefixtures("_slowly")
async def test_what_has_not_begun_when_a_task_fails_the_flow_is_cancelled_and_says_why(backend, settings):
    ended, told = await Ended().run(backend, settings, fail_fast=True)
    assert ended == "Failed"
    assert told["child0"][0] == ["Pending", "Running", "Failed"]
    cancelled = (["Pending", "Cancelled"], "Cancelled: another task of the flow run failed.")
    assert [told[name] for name in ("after-1", "child1", "child2", "child3", "child4")] == [cancelled] * 5


@pytest.mark.usefixtures("_slowly")
async def test_what_has_not_begun_when_the_time_is_up_is_cancelled(backend, settings):
    async def takes_too_long(n):
        run.runner._end_for_time(7)

    run = Ended(takes_too_long)
    ended, told = await run.run(backend, settings)
    assert ended == "TimedOut"
    cancelled = (["Pending", "Cancelled"], "Cancelled: the flow run took too long.")
    assert [told[name] for name in ("after-1", "child1", "child4")] == [cancelled] * 3


async def test_what_has_not_begun_when_a_handler_fails_the_flow_is_cancelled(backend, settings):
    def refuses(flow, old, new):
        if new.is_running():
            raise ENDRUN(Failed("not today"))

    ended, told = await Ended(state_handlers=[refuses]).run(backend, settings)
    assert ended == "Failed"
    assert [*told.values()] == [
        (["Pending", "Cancelled"], "The flow run ended as Failed before this task run did.")
    ] * 3


@pytest.mark.parametrize("kind", [Success, Failed])
async def test_without_a_backend_it_is_cancelled_too(kind):
    def is_enough(flow, state, reference):
        return kind("enough", result=state.result)

    async def waits(n):
        raise PAUSE("may I?")

    ended = Ended(waits, terminal_state_handler=is_enough)
    state = await FlowRunner(ended.flow).run()
    assert type(state) is kind
    left = {one.name: found for one, found in state.result.items()}
    message = f"The flow run ended as {kind.__name__} before this task run did."
    assert {(type(one), one.message) for one in (*left["child"].map_states, left["after"])} == {(Cancelled, message)}


async def test_a_foreign_client_keeps_its_own_rules(backend, settings):
    flow_run_id = await create_flow_run(Ended().flow, backend, settings=settings)
    await backend.set_flow_run_state(flow_run_id, None, Failed("by a client that claims nothing"))
    info = await backend.get_flow_run_info(flow_run_id)
    assert {type(run.state) for run in info.task_runs} == {Pending}


# -- a step that is called alone -------------------------------------------------------------------------


async def test_every_runner_begins_without_arguments(memory, settings):
    with Flow("alone") as flow:
        one = task(lambda: 1, name="one")()
    for begun in (await Runner().initialize_run(), await TaskRunner(one).initialize_run()):
        assert type(begun[0]) is Pending
    state, found = await TaskRunner(one).initialize_run(None, None)
    assert [type(state), found["task_name"], found["task_run_count"]] == [Pending, "one", 1]
    assert type((await FlowRunner(flow).initialize_run()).state) is Pending
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    with context(flow_run_id=flow_run_id):
        begun = await CloudFlowRunner(flow, backend=memory, settings=settings).initialize_run(None, None)
        with context(begun.context | begun.task_contexts[one]) as current:
            runner = CloudTaskRunner(one, backend=memory, settings=settings)
            state, found = await runner.initialize_run()
            assert type(state) is Pending
            assert found["task_run_id"] == (await memory.get_flow_run_info(flow_run_id)).task_runs[0].id
            assert "task_run_id" not in current
    with pytest.raises(FlowloopError, match="name it as `flow_run_id` in the context"):
        await CloudTaskRunner(one, backend=memory, settings=settings).initialize_run()


# -- odd ends, and errors that fail once more ---------------------------------------------------------------


def no_moment():
    state = Retrying("when?")
    state.start_time = "tomorrow"
    return state


def no_time():
    state = Scheduled("when?")
    state.start_time = None
    return state


ODD_ENDS = {
    "Running": Running,
    "Pending": Pending,
    "Submitted": Submitted,
    "ClientFailed": ClientFailed,
    "Queued": Queued,
    "Queued with its time": lambda: Queued(state=Running(), start_time=now() + datetime.timedelta(seconds=1)),
    "Mapped with a child that never ran": lambda: Mapped(map_states=[None, Success()], n_map_states=2),
    "Mapped with a child that runs": lambda: Mapped(map_states=[Running(), Success()]),
    "Mapped without its children": lambda: Mapped(n_map_states=3),
    "Retrying at no moment": no_moment,
    "Scheduled without a time": no_time,
}


class Asked(BaseException):
    """What is raised by who is asked once too often."""


class NoState(ENDRUN):
    @property
    def state(self):
        raise Asked

    @state.setter
    def state(self, state):
        pass


class OnceState(NoState):
    """Its state can be asked for once."""

    def __init__(self):
        super().__init__(Success())
        self.states = [Success("once")]

    @property
    def state(self):
        if not self.states:
            raise Asked
        return self.states.pop()

    @state.setter
    def state(self, state):
        pass


class NoClass(Exception):
    def __getattribute__(self, name):
        raise Asked


def none_as_state():
    skip = SKIP("none")
    skip.state = None
    return skip


ODD_ERRORS = {
    **{name: lambda make=make: ENDRUN(make()) for name, make in ODD_ENDS.items()},
    "a state that cannot be asked for": lambda: NoState(Success()),
    "a state that can be asked for once": OnceState,
    "an error without a class": NoClass,
    "None for a state": none_as_state,
}


class OddSequence:
    def __init__(self, error):
        self.error = error

    def __len__(self):
        raise self.error()

    def __getitem__(self, index):
        raise self.error()


def at_every_place(error):
    """Return a task for each place that runs code of users, which raises an error there."""

    def raises(*_, **__):
        raise error()

    def at(kind):
        return [lambda owner, old, new: raises() if type(new) is kind else None]

    options = {
        "trigger": {"trigger": raises},
        "name": {"task_run_name": raises},
        "target": {"target": raises, "result": LocalResult()},
        "handler of Running": {"state_handlers": at(Running)},
        "handler of Success": {"state_handlers": at(Success)},
    }
    tasks = {"body": task(lambda: raises(), name="body")()}
    tasks |= {place: task(lambda: 1, name=place, **given)() for place, given in options.items()}
    tasks["children"] = task(lambda _: raises(), name="children").map([1, 2])
    seq = task(lambda: OddSequence(error), name="sequence", checkpoint=False)()
    return tasks | {"mapped over": task(lambda x: x, name="mapped over").map(seq)}


@pytest.mark.parametrize("name", ODD_ERRORS)
async def test_what_is_raised_anywhere_belongs_to_one_task_run_which_ends_as_it_is_recorded(backend, settings, name):
    with Flow("odd") as flow:
        tasks = at_every_place(ODD_ERRORS[name])
        other = task(lambda: 1, name="other")()
        flow.set_reference_tasks([other])
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    with anyio.fail_after(3600):
        state = await runner.run()
    assert type(state) is Success, state
    assert type(state.result[other]) is Success
    recorded = {}
    for run in (await backend.get_flow_run_history(runner.flow_run_id))[1]:
        recorded[run.task_slug, run.map_index] = run.states[-1].state
    for place, one in tasks.items():
        ended, slug = state.result[one], flow.slugs[one]
        assert recorded[slug, -1] == type(ended).__name__, place
        children = ended.map_states if isinstance(ended, Mapped) else []
        assert [recorded[slug, n] for n in range(len(children))] == [type(child).__name__ for child in children], place
        for failed in children or [ended]:
            assert failed.is_failed() or name.startswith("a state that can be"), f"{place}: {failed!r}"


@pytest.mark.parametrize("name", ODD_ERRORS)
async def test_a_flow_run_whose_last_word_is_odd_ends_as_it_is_recorded(memory, settings, name):
    def raises(*_):
        raise ODD_ERRORS[name]()

    with Flow("odd", terminal_state_handler=raises) as flow:
        task(lambda: 1, name="one")()
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    state = await runner.run()
    recorded = (await memory.get_flow_run_info(runner.flow_run_id)).state
    assert type(recorded) is type(state)
    assert state.is_failed() or name == "a state that can be asked for once"
