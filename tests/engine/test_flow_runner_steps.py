"""Each step of the flow runner, called alone; all of them in their order; each of them overridden."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, Parameter, TaskRunner, context, task
from flowloop.engine.context import now
from flowloop.engine.errors import FlowDefinitionError, FlowloopError
from flowloop.engine.executors import Executor, LocalExecutor
from flowloop.engine.signals import ENDRUN, SKIP
from flowloop.engine.state import (
    Cached,
    Cancelled,
    Cancelling,
    Failed,
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
)

pytestmark = pytest.mark.virtual_time

DAY = datetime.timedelta(days=1)


async def ends(step: Awaitable[Any]) -> State:
    """Return the state that a step ends the run with."""
    with pytest.raises(ENDRUN) as end:
        await step
    return end.value.state


def adding() -> Flow:
    @task
    async def add(x: int, y: int) -> int:
        return x + y

    with Flow("adding") as flow:
        add(Parameter("x", default=1), Parameter("y"))
    return flow


async def initialized(flow: Flow, **given: Any) -> Any:
    arguments: dict[str, Any] = {
        "state": None,
        "task_states": {},
        "context": {},
        "task_contexts": {},
        "parameters": {},
    }
    return await FlowRunner(flow).initialize_run(**{**arguments, **given})


# -- initialize_run ------------------------------------------------------------------------------------


async def test_initialize_run_begins_with_pending_and_the_dates() -> None:
    found = await initialized(adding())
    assert type(found.state) is Pending
    assert found.context["flow_name"] == "adding"
    assert found.context["scheduled_start_time"] == found.context["date"] == now()
    assert (found.context["today"], found.context["yesterday_nodash"]) == ("2024-01-01", "20231231")
    assert found.context["tomorrow"] == "2024-01-02"


async def test_initialize_run_returns_what_it_was_given() -> None:
    flow = adding()
    (add,) = flow.get_tasks(name="add")
    states, contexts = {add: Success()}, {add: {"mine": 1}}
    state, task_states, _, task_contexts = await initialized(flow, task_states=states, task_contexts=contexts)
    assert type(state) is Pending
    assert task_states == states
    assert task_contexts == contexts


@pytest.mark.parametrize("wrapper", [Submitted, Queued])
async def test_initialize_run_unwraps_meta_states(wrapper: Any) -> None:
    inside = Scheduled()
    assert (await initialized(adding(), state=wrapper(state=inside))).state is inside


async def test_parameters_given_win_over_those_of_the_context_and_those_over_defaults() -> None:
    flow = adding()
    assert (await initialized(flow)).context["parameters"] == {"x": 1}
    given = {"context": {"parameters": {"x": 2, "y": 2}}, "parameters": {"y": 3}}
    assert (await initialized(flow, **given)).context["parameters"] == {"x": 2, "y": 3}


async def test_the_context_given_wins_over_the_one_around_and_config_is_merged() -> None:
    with context(mine=1, other=1, config={"a": {"b": 1, "c": 1}}):
        found = await initialized(adding(), context={"mine": 2, "config": {"a": {"b": 2}}})
    assert (found.context["mine"], found.context["other"]) == (2, 1)
    assert found.context["config"] == {"a": {"b": 2, "c": 1}}


@pytest.mark.parametrize("key", ["task_name", "map_index", "logger", "task_run_count", "task_loop_result"])
async def test_a_context_key_that_shadows_a_reserved_one_is_refused(key: str) -> None:
    flow = adding()
    (add,) = flow.get_tasks(name="add")
    with pytest.raises(FlowDefinitionError, match=f"'{key}'"):
        await FlowRunner(flow).run(context={key: 1})
    with pytest.raises(FlowDefinitionError, match=f"'{key}'"):
        await FlowRunner(flow).run(task_contexts={add: {key: 1}})


async def test_what_is_not_in_the_flow_is_refused_by_name() -> None:
    stranger = task(lambda: 1, name="stranger")
    for given in ({"task_states": {stranger: Success()}}, {"task_contexts": {stranger: {}}}):
        with pytest.raises(FlowDefinitionError, match="'stranger' is not in flow 'adding'"):
            await FlowRunner(adding()).run(**given)
    with pytest.raises(FlowDefinitionError, match="'stranger' is not in flow 'adding'"):
        await FlowRunner(adding()).run(return_tasks=[stranger])
    with pytest.raises(FlowDefinitionError, match="no parameter 'z'"):
        await FlowRunner(adding()).run(parameters={"z": 1})


# -- the checks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [Pending(), Scheduled(), Retrying(), Resume(), Running()], ids=repr)
async def test_check_flow_is_pending_or_running_passes(state: State) -> None:
    assert await FlowRunner(adding()).check_flow_is_pending_or_running(state) is state


@pytest.mark.parametrize("state", [Success(), Failed(), Cancelled(), Cancelling(), Cached(), Skipped()], ids=repr)
async def test_check_flow_is_pending_or_running_ends(state: State) -> None:
    assert await ends(FlowRunner(adding()).check_flow_is_pending_or_running(state)) is state


async def test_check_flow_reached_start_time() -> None:
    runner, later = FlowRunner(adding()), Scheduled(start_time=now() + DAY)
    assert await ends(runner.check_flow_reached_start_time(later)) is later
    await anyio.sleep(DAY.total_seconds())
    assert await runner.check_flow_reached_start_time(later) is later
    paused = Paused()
    assert await ends(runner.check_flow_reached_start_time(paused)) is paused


async def test_set_flow_to_running() -> None:
    runner = FlowRunner(adding())
    assert type(await runner.set_flow_to_running(Pending())) is Running
    running = Running()
    assert await runner.set_flow_to_running(running) is running
    for over in (Success(), Failed(), Queued()):
        with pytest.raises(ENDRUN) as ended:
            await runner.set_flow_to_running(over)
        assert ended.value.state is over


async def test_get_flow_run_state_needs_running() -> None:
    flow, pending = adding(), Pending()
    arguments: dict[str, Any] = {
        "task_states": {},
        "task_contexts": {},
        "return_tasks": [],
        "task_runner_state_handlers": None,
        "executor": LocalExecutor(),
    }
    runner = FlowRunner(flow)
    assert await ends(runner.get_flow_run_state(pending, **arguments)) is pending
    with context(parameters={"x": 1, "y": 2}):
        state = await runner.get_flow_run_state(Running(), **{**arguments, "return_tasks": list(flow.tasks)})
    assert type(state) is Success
    assert {one.name: found.result for one, found in state.result.items()} == {"x": 1, "y": 2, "add": 3}


async def test_determine_final_state() -> None:
    runner, running = FlowRunner(adding()), Running()
    (add,) = runner.flow.get_tasks(name="add")
    found = await runner.determine_final_state(running, [Success()], {add: Success()}, [Success()])
    assert type(found) is Success
    assert found.result == {add: Success()}
    assert type(await runner.determine_final_state(running, [Failed()], {}, [Success()])) is Failed
    assert await runner.determine_final_state(running, [Failed()], {}, [Pending()]) is running


# -- the whole run -------------------------------------------------------------------------------------

STEPS = [
    "initialize_run",
    "check_flow_is_pending_or_running",
    "check_flow_reached_start_time",
    "set_flow_to_running",
    "get_flow_run_state",
    "determine_final_state",
]


async def test_the_steps_come_in_their_order() -> None:
    seen: list[str] = []

    def override(name: str) -> Any:
        async def step(self: FlowRunner, *args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return await getattr(FlowRunner, name)(self, *args, **kwargs)

        return step

    runner = type("Watched", (FlowRunner,), {name: override(name) for name in STEPS})
    assert (await runner(adding()).run(parameters={"y": 1})).is_successful()
    assert seen == STEPS


@pytest.mark.parametrize("name", STEPS)
async def test_each_step_can_end_the_run(name: str) -> None:
    answer = Cancelled("mine")

    async def override(self: FlowRunner, *args: Any, **kwargs: Any) -> Any:
        raise ENDRUN(answer)

    runner = type("Ends", (FlowRunner,), {name: override})
    assert await runner(adding()).run(parameters={"y": 1}) is answer


@pytest.mark.parametrize("name", STEPS)
async def test_an_error_in_a_step_fails_the_flow_and_calls_the_handlers(name: str) -> None:
    error = ZeroDivisionError("oh")
    changes: list[State] = []

    async def override(self: FlowRunner, *args: Any, **kwargs: Any) -> Any:
        raise error

    runner = type("Broken", (FlowRunner,), {name: override})
    flow = adding()
    flow.state_handlers.append(lambda flow, old, new: changes.append(new))
    state = await runner(flow).run(parameters={"y": 1})
    assert type(state) is Failed
    assert state.result is error
    assert "'adding'" in str(state.message)
    assert changes[-1] is state
    with context(raise_on_exception=True), pytest.raises(ZeroDivisionError):
        await runner(flow).run(parameters={"y": 1})


async def test_the_result_has_the_states_of_the_tasks_asked_for() -> None:
    flow = adding()
    (add,) = flow.get_tasks(name="add")
    state = await FlowRunner(flow).run(parameters={"y": 2})
    assert state.result.keys() == flow.tasks
    state = await FlowRunner(flow).run(parameters={"y": 2}, return_tasks=[add])
    assert state.result == {add: Success(result=3)}


async def test_a_missing_parameter_fails_its_task() -> None:
    flow = adding()
    state = await FlowRunner(flow).run()
    (y,) = flow.get_tasks(name="y")
    assert type(state) is Failed
    assert type(state.result[y]) is Failed
    assert "'y'" in str(state.result[y].message)


async def test_a_run_goes_on_from_given_states() -> None:
    ran: list[str] = []

    @task
    async def first() -> int:
        ran.append("first")
        return 1

    @task
    async def second(n: int) -> int:
        ran.append("second")
        return n + 1

    with Flow("two") as flow:
        one = first()
        two = second(one)
    state = await FlowRunner(flow).run(task_states={one: Success(result=41)})
    assert state.result[two].result == 42
    assert ran == ["second"]


async def test_task_contexts_reach_only_their_task() -> None:
    @task
    async def look() -> Any:
        return context.get("mine")

    with Flow("contexts") as flow:
        one, two = look(), look()
    state = await FlowRunner(flow).run(task_contexts={one: {"mine": 5}}, context={"mine": 1})
    assert (state.result[one].result, state.result[two].result) == (5, 1)


async def test_a_finished_flow_comes_back_as_it_is() -> None:
    done = Success("long ago")
    assert await FlowRunner(adding()).run(state=done) is done


async def test_a_flow_that_is_due_later_comes_back_as_it_is() -> None:
    later = Scheduled(start_time=now() + DAY)
    assert await FlowRunner(adding()).run(state=later) is later
    assert anyio.current_time() == 0


async def test_a_class_for_the_task_runners_can_be_given() -> None:
    class Skips(TaskRunner):
        async def get_task_inputs(self, *args: Any) -> Any:
            raise SKIP("all of them")

    state = await FlowRunner(adding(), Skips).run(parameters={"y": 1})
    assert {type(one) for one in state.result.values()} == {Skipped}


async def test_bodies_run_where_the_executor_says() -> None:
    ran: list[str] = []

    class Counting(LocalExecutor):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            ran.append(self.name)
            return await super().submit(fn, *args, **kwargs)

    with Flow("executed", executor=Counting("of the flow")) as flow:
        task(lambda: 1, name="one")()
    await FlowRunner(flow).run()
    await FlowRunner(flow).run(executor=Counting("given"))
    assert ran == ["of the flow", "given"]


async def test_an_executor_that_cannot_submit_fails_the_flow() -> None:
    with Flow("nowhere") as flow:
        made = task(lambda: 1, name="one")()
    state = await FlowRunner(flow).run(executor=Executor())
    assert type(state) is Failed
    assert isinstance(state.result[made].result, NotImplementedError)


async def test_an_error_of_the_executor_around_the_run_fails_the_flow() -> None:
    class Broken(LocalExecutor):
        def start(self) -> Any:
            raise OSError("no room")

    state = await FlowRunner(adding()).run(parameters={"y": 1}, executor=Broken())
    assert type(state) is Failed
    assert isinstance(state.result, OSError)


async def test_a_flow_without_tasks_succeeds() -> None:
    state = await FlowRunner(Flow("empty")).run()
    assert type(state) is Success
    assert state.result == {}


async def test_a_runner_runs_once_at_a_time_and_again_afterwards() -> None:
    @task
    async def slow() -> None:
        await anyio.sleep(60)

    with Flow("slow") as flow:
        slow()
    runner = FlowRunner(flow)
    async with anyio.create_task_group() as group:
        group.start_soon(runner.run)
        await anyio.sleep(1)
        with pytest.raises(FlowloopError, match="'slow' is running"):
            await runner.run()
    assert (await runner.run()).is_successful()


async def test_raise_on_exception_ends_the_run_with_the_error_and_stops_the_rest() -> None:
    stopped: list[float] = []

    @task
    async def fails() -> None:
        await anyio.sleep(1)
        raise ValueError("here")

    @task
    async def slow() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            stopped.append(anyio.current_time())

    with Flow("raises") as flow:
        fails()
        slow()
    with pytest.raises(ValueError, match="here"):
        await FlowRunner(flow).run(context={"raise_on_exception": True})
    assert stopped == [1]


async def test_reference_tasks_decide_and_terminal_tasks_that_wait_win() -> None:
    @task
    async def fine() -> None:
        pass

    @task
    async def fails() -> None:
        raise ValueError

    @task(max_retries=1, retry_delay=DAY)
    async def waits() -> None:
        raise ValueError

    with Flow("decided") as flow:
        good, _bad = fine(), fails()
    assert type(await FlowRunner(flow).run()) is Failed
    flow.set_reference_tasks([good])
    assert type(await FlowRunner(flow).run()) is Success
    with flow:
        waits()
    state = await FlowRunner(flow).run()
    assert type(state) is Running
    assert not state.is_finished()


async def test_children_count_for_the_outcome() -> None:
    @task
    async def half(n: int) -> int:
        if n % 2:
            raise ValueError
        return n

    with Flow("children") as flow:
        mapped = half.map([0, 1, 2])
    state = await FlowRunner(flow).run()
    assert type(state) is Failed
    assert type(state.result[mapped]) is Mapped
    assert [type(child) for child in state.result[mapped].map_states] == [Success, Failed, Success]
