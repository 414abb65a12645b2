"""What a recorded run returns is what is recorded; and its steps, called alone, with nothing but their backend."""

import asyncio

import pytest

from flowloop.engine import Flow, context, task
from flowloop.engine.cloud import CloudFlowRunner, CloudTaskRunner, create_flow_run
from flowloop.engine.errors import FlowDefinitionError, FlowloopError
from flowloop.engine.executors import LocalExecutor
from flowloop.engine.signals import ENDRUN, FAIL, PAUSE, SKIP
from flowloop.engine.state import Cancelled, Failed, Looped, Mapped, Paused, Pending, Running, Scheduled, Skipped
from flowloop.engine.testing import FaultyBackend

pytestmark = pytest.mark.virtual_time


def made(body=lambda: 1, **options):
    with Flow("one", **options.pop("flow_options", {})) as flow:
        one = task(body, name="one", **options)()
    return flow, one


async def recorded(backend, runner):
    summary, runs = await backend.get_flow_run_history(runner.flow_run_id)
    return summary.state, [state.state for run in runs for state in run.states]


def at_the_end(answer):
    def handler(runner, old, new):
        if not new.is_finished():
            return new
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return handler


ANSWERS = {
    "a failure": (lambda: Failed("not good enough"), Failed),
    "a skip": (lambda: Skipped("never mind"), Skipped),
    "a signal": (lambda: FAIL("not good enough"), Failed),
    "another signal": (lambda: SKIP("never mind"), Skipped),
    "the end": (lambda: ENDRUN(Failed("stop")), Failed),
    "a pause": (lambda: PAUSE("wait"), Paused),
    "a defect": (lambda: KeyError("defect"), Failed),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_a_handler_makes_of_the_end_of_a_task_run(name, backend, settings):
    answer, expected = ANSWERS[name]
    flow, one = made(state_handlers=[at_the_end(answer())])
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run()
    assert isinstance(state.result[one], expected)
    assert await recorded(backend, runner) == (type(state).__name__, ["Pending", "Running", expected.__name__])


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_a_handler_makes_of_the_end_of_a_flow_run(name, backend, settings):
    answer, expected = ANSWERS[name]
    flow, _ = made(flow_options={"state_handlers": [at_the_end(answer())]})
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    assert isinstance(await runner.run(), expected)
    assert (await recorded(backend, runner))[0] == expected.__name__


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "a pause"])
async def test_the_second_thoughts_of_a_runners_handler_are_one_more_transition(name, backend, settings):
    answer, expected = ANSWERS[name]
    flow, one = made()
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run(task_runner_state_handlers=[at_the_end(answer())])
    assert isinstance(state.result[one], expected)
    assert (await recorded(backend, runner))[1] == ["Pending", "Running", "Success", expected.__name__]


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "a pause"])
async def test_the_second_thoughts_about_a_flow_run_are_one_more_transition(name, backend, settings):
    answer, expected = ANSWERS[name]
    flow, _ = made()
    runner = CloudFlowRunner(flow, [at_the_end(answer())], backend=backend, settings=settings)
    assert isinstance(await runner.run(), expected)
    assert (await recorded(backend, runner))[0] == expected.__name__


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_the_last_word_makes_of_the_end_of_a_flow_run(name, backend, settings):
    answer, expected = ANSWERS[name]
    seen = []
    last_word = at_the_end(answer())
    flow, _ = made(
        flow_options={
            "terminal_state_handler": lambda flow, state, references: last_word(flow, None, state),
            "state_handlers": [lambda flow, old, new: seen.append(type(new))],
        }
    )
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    assert isinstance(await runner.run(), expected)
    assert (await recorded(backend, runner))[0] == expected.__name__
    assert seen == [Running, expected], "its handlers hear of it, too"


STEPS = ["check_flow_is_pending_or_running", "set_flow_to_running", "get_flow_run_state", "determine_final_state"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", [name for name in ANSWERS if isinstance(ANSWERS[name][0](), BaseException)])
async def test_what_a_step_of_a_subclass_ends_a_flow_run_with(name, step, backend, settings):
    answer, expected = ANSWERS[name]

    async def ends(self, *args, **kwargs):
        raise answer()

    flow, _ = made()
    runner = type("Ends", (CloudFlowRunner,), {step: ends})(flow, backend=backend, settings=settings)
    assert isinstance(await runner.run(), expected)
    assert (await recorded(backend, runner))[0] == expected.__name__
    assert (await backend.get_flow_run_info(runner.flow_run_id)).owner is None


@pytest.mark.parametrize("new", [Paused, Failed])
async def test_what_a_runners_handler_puts_in_the_place_of_running(new, backend, settings):
    def handler(runner, old, state):
        return new("mine") if state.is_running() else state

    flow, one = made()
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run(task_runner_state_handlers=[handler])
    assert isinstance(state.result[one], new)
    assert await recorded(backend, runner) == (type(state).__name__, ["Pending", "Running", new.__name__])


@pytest.mark.parametrize("given", [Pending, Scheduled])
async def test_a_given_state_beats_the_recorded_one(given, backend, settings):
    ran = []
    flow, one = made(lambda: ran.append(context.task_run_id))
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    flow.set_reference_tasks([one])
    with Flow("waits") as waits:
        first = task(lambda: ran.append("first"), name="first")()
        task(lambda x: 1 / 0, name="second", max_retries=1, retry_delay=3600)(first)
    runner = CloudFlowRunner(waits, backend=backend, settings=settings)
    await runner.run()
    known = {"flow_run_id": runner.flow_run_id}
    state = await CloudFlowRunner(waits, backend=backend, settings=settings).run(
        task_states={first: given("again")}, context=known
    )
    assert ran == ["first", "first"]
    assert state.result[first].is_successful()
    _, runs = await backend.get_flow_run_history(runner.flow_run_id)
    states = next([one.state for one in run.states] for run in runs if run.task_slug.startswith("first"))
    assert states == ["Pending", "Running", "Success", given.__name__, "Running", "Success"]
    assert flow_run_id != runner.flow_run_id


async def test_a_task_that_a_handler_leaves_between_two_rounds_ends_with_its_flow_run(backend, settings):
    with Flow("between") as flow:
        children = task(lambda n: n, name="child", state_handlers=[leaves_between]).map([1, 2])
        task(lambda n: n, name="after").map(children)
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run()
    assert [type(state), type(state.result[children])] == [Failed, Cancelled]
    _, runs = await backend.get_flow_run_history(runner.flow_run_id)
    [last] = [run.states[-1] for run in runs if run.task_slug == "child-1" and run.map_index < 0]
    assert last.message == state.result[children].message


def leaves_between(task, old, new):
    return Looped() if isinstance(new, Mapped) else new


# -- what a run is given, and cannot be ----------------------------------------------------------------


CANNOT_BE = {
    "a reserved name": lambda: {"context": {"map_index": 3}},
    "a value for a task of another flow": lambda: {"task_contexts": {made()[1]: {}}},
    "a state of a task of another flow": lambda: {"task_states": {made()[1]: Pending()}},
    "a task of another flow": lambda: {"return_tasks": [made()[1]]},
    "an executor": lambda: {"executor": "processes"},
}


@pytest.mark.parametrize("name", CANNOT_BE)
async def test_a_run_that_is_given_what_cannot_be_is_not_created(name, backend, settings):
    flow, _ = made()
    with pytest.raises(FlowDefinitionError):
        await CloudFlowRunner(flow, backend=backend, settings=settings).run(**CANNOT_BE[name]())
    assert await backend.list_flow_runs() == []


async def test_the_tasks_to_return_may_be_an_iterator(backend, settings):
    flow, one = made()
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run(return_tasks=iter([one]))
    assert state.result.keys() == {one}


async def test_a_runner_that_runs_creates_no_second_flow_run(backend, settings):
    flow, _ = made()
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state, error = await asyncio.gather(runner.run(), runner.run(), return_exceptions=True)
    assert state.is_successful()
    assert isinstance(error, FlowloopError)
    assert "make another one for another run" in str(error)
    assert [run.state for run in await backend.list_flow_runs()] == ["Success"]
    assert (await runner.run()).is_successful()


@pytest.mark.parametrize("where", ["terminal_state_handler", "executor"])
async def test_what_is_found_to_be_wrong_once_a_run_has_begun_fails_it(where, backend, settings):
    class Unready(LocalExecutor):
        def open(self):
            raise FlowDefinitionError("not like this")

    def unready(*_):
        raise FlowDefinitionError("not like this")

    flow, _ = made()
    flow.terminal_state_handler = unready if where == "terminal_state_handler" else None
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run(executor=Unready() if where == "executor" else None)
    assert type(state) is Failed
    assert "not like this" in state.message
    assert (await recorded(backend, runner))[0] == "Failed"


async def test_what_goes_wrong_before_a_run_is_read_is_recorded_as_its_failure(memory, settings):
    flow, _ = made()
    faulty = FaultyBackend(memory)
    faulty.fail("get_flow_run_info", RuntimeError("a defect of the adapter"))
    known = {"flow_run_id": await create_flow_run(flow, memory, settings=settings)}
    runner = CloudFlowRunner(flow, backend=faulty, settings=settings)
    state = await runner.run(context=known)
    assert type(state) is Failed
    assert "a defect of the adapter" in state.message
    assert (await recorded(memory, runner))[0] == "Failed"


# -- steps that are called alone -----------------------------------------------------------------------


async def test_the_steps_of_a_flow_run_need_no_more_than_their_backend(memory, settings):
    flow, one = made()
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    with context(flow_run_id=flow_run_id):
        begun = await runner.initialize_run(None)
        assert begun.state.is_pending()
        assert begun.context["flow_run_id"] == flow_run_id
        assert begun.task_contexts[one]["task_id"]
    with context(begun.context):
        assert (await runner.set_flow_to_running(state=begun.state)).is_running()
    assert (await memory.get_flow_run_state(flow_run_id)).is_running()


async def test_the_steps_of_a_task_run_need_no_more_than_their_backend(memory, settings):
    flow, one = made()
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    await memory.set_flow_run_state(flow_run_id, None, Running())
    info = await memory.get_flow_run_info(flow_run_id)
    known = {"flow_run_id": flow_run_id, "task_id": info.task_runs[0].task_id}
    runner = CloudTaskRunner(one, settings=settings, backend=memory)
    state, found = await runner.initialize_run(None, known)
    assert found["task_run_id"] == info.task_runs[0].id
    with context(found):
        assert (await runner.set_task_to_running(state=state, inputs={})).is_running()
    assert (await memory.get_task_run_state(found["task_run_id"])).is_running()


async def test_without_a_backend_or_a_flow_run_the_error_says_what_to_give(memory, settings):
    flow, one = made()
    with context(flow_run_id="a run"), pytest.raises(FlowloopError, match=r"give the runner one as `backend=`"):
        await CloudFlowRunner(flow, settings=settings).initialize_run()
    with pytest.raises(FlowloopError, match="name it as `flow_run_id` in the context"):
        await CloudFlowRunner(flow, backend=memory, settings=settings).initialize_run()
    with pytest.raises(FlowloopError, match="the runner of task 'one' has no backend: give it one as `backend=`"):
        await CloudTaskRunner(one, settings=settings).initialize_run(
            None, {"flow_run_id": "a run", "task_id": "a task"}
        )
    assert asyncio.get_running_loop().time() == 0
