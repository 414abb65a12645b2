"""State handlers: whose, when, in which order, and what they may do."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, TaskRunner, context, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.context import now
from flowloop.engine.runner import Runner, call_state_handlers
from flowloop.engine.settings import Settings
from flowloop.engine.signals import ENDRUN, FAIL, LOOP, PAUSE, RETRY, SKIP, SUCCESS
from flowloop.engine.state import (
    Cancelled,
    Failed,
    Paused,
    Pending,
    Queued,
    Resume,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    State,
    Success,
)
from flowloop.engine.task import Task

pytestmark = pytest.mark.virtual_time

Handler = Callable[[Any, State, State], Any]


def told(seen: list[Any], name: str, *, is_async: bool = False) -> Handler:
    """Return a handler that writes down what it is told."""

    def handler(target: Any, old: State, new: State) -> State:
        seen.append((name, type(old).__name__, type(new).__name__))
        return new

    async def async_handler(target: Any, old: State, new: State) -> State:
        await anyio.sleep(1)
        return handler(target, old, new)

    return async_handler if is_async else handler


async def nothing() -> int:
    return 1


class Steps(Runner):
    """A runner with a step of each kind."""

    @call_state_handlers
    async def same(self, state: State) -> State:
        return state

    @call_state_handlers
    async def equal(self, state: State) -> State:
        return type(state)(state.message)

    @call_state_handlers
    async def ends(self, state: State, answer: State) -> State:
        raise ENDRUN(answer)

    @call_state_handlers
    async def raises(self, state: State, error: BaseException) -> State:
        raise error


# -- when they are called ------------------------------------------------------------------------------


async def test_an_equal_but_new_state_is_a_change_and_the_same_one_is_not() -> None:
    seen: list[Any] = []
    runner, state = Steps([told(seen, "h")]), Pending()
    assert await runner.same(state) is state
    assert seen == []
    changed = await runner.equal(state)
    assert changed == state
    assert seen == [("h", "Pending", "Pending")]


async def test_endrun_calls_the_handlers_first_and_ends_with_what_they_leave() -> None:
    other = Skipped("instead")
    seen: list[Any] = []

    def replace(runner: Runner, old: State, new: State) -> State:
        seen.append(new)
        return other

    answer = Failed()
    with pytest.raises(ENDRUN) as end:
        await Steps([replace]).ends(Pending(), answer)
    assert seen == [answer]
    assert end.value.state is other


async def test_endrun_with_the_state_itself_is_no_change() -> None:
    seen: list[Any] = []
    state = Pending()
    with pytest.raises(ENDRUN) as end:
        await Steps([told(seen, "h")]).ends(state, state)
    assert end.value.state is state
    assert seen == []


async def test_an_error_of_a_step_is_not_for_the_handlers_of_that_step() -> None:
    seen: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        await Steps([told(seen, "h")]).raises(Pending(), ZeroDivisionError())
    assert seen == []


# -- what they may do ----------------------------------------------------------------------------------


async def test_each_handler_gets_what_the_one_before_it_returned() -> None:
    first, second = Success("first"), Success("second")
    seen: list[State] = []

    def handler(answer: State | None) -> Handler:
        def call(runner: Any, old: State, new: State) -> State | None:
            seen.append(new)
            return answer

        return call

    start, new = Pending(), Running()
    found = await Steps([handler(first), handler(None), handler(second)]).handle_state_change(start, new)
    assert seen == [new, first, first]
    assert found is second


@pytest.mark.parametrize("signal", [PAUSE("wait"), ENDRUN(Cancelled())])
async def test_pause_and_endrun_escape(signal: BaseException) -> None:
    def handler(runner: Any, old: State, new: State) -> State:
        raise signal

    seen: list[Any] = []
    with pytest.raises(type(signal)):
        await Steps([handler, told(seen, "later")]).handle_state_change(Pending(), Running())
    assert seen == []


@pytest.mark.parametrize("signal", [FAIL("x"), SKIP("x"), SUCCESS("x"), RETRY("x"), LOOP("x")], ids=repr)
async def test_any_other_signal_becomes_its_state_and_later_handlers_are_not_asked(signal: Any) -> None:
    async def handler(runner: Any, old: State, new: State) -> State:
        await anyio.sleep(1)
        raise signal

    seen: list[Any] = []
    found = await Steps([handler, told(seen, "later")]).handle_state_change(Pending(), Running())
    assert found is signal.state
    assert seen == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_any_other_error_ends_the_run_as_failed(is_async: bool) -> None:
    error = ValueError("broken")

    def broken(runner: Any, old: State, new: State) -> State:
        raise error

    async def async_broken(runner: Any, old: State, new: State) -> State:
        await anyio.sleep(1)
        raise error

    with pytest.raises(ENDRUN) as end:
        await Steps([async_broken if is_async else broken]).handle_state_change(Pending(), Running())
    assert type(end.value.state) is Failed
    assert end.value.state.result is error
    assert "broken" in str(end.value.state.message)


def test_handlers_come_as_a_list() -> None:
    one: Any = told([], "one")
    for owner in (
        Runner,
        lambda given: Task(name="t", state_handlers=given),
        lambda given: Flow("f", state_handlers=given),
    ):
        with pytest.raises(ValueError, match="state_handlers is a list"):
            owner(one)
    wrong: Any = [one, "two"]
    with pytest.raises(ValueError, match="'t': state_handlers is a list of functions, and 'two' is none"):
        Task(name="t", state_handlers=wrong)


# -- whose they are ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_handlers_of_the_task_come_before_those_of_its_runner(is_async: bool) -> None:
    seen: list[Any] = []
    mine = [told(seen, "task 1", is_async=is_async), told(seen, "task 2")]
    one = task(nothing, state_handlers=mine)
    await TaskRunner(one, state_handlers=[told(seen, "runner", is_async=is_async)]).run()
    changes = [("Pending", "Running"), ("Running", "Success")]
    assert seen == [(who, *change) for change in changes for who in ("task 1", "task 2", "runner")]


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_handlers_of_the_flow_come_before_those_of_its_runner(is_async: bool) -> None:
    seen: list[Any] = []
    with Flow("handled", state_handlers=[told(seen, "flow", is_async=is_async)]) as flow:
        task(nothing)()
    runner = FlowRunner(flow, state_handlers=[told(seen, "runner", is_async=is_async)])
    assert (await runner.run()).is_successful()
    changes = [("Pending", "Running"), ("Running", "Success")]
    assert seen == [(who, *change) for change in changes for who in ("flow", "runner")]


async def test_handlers_get_their_owner_first() -> None:
    owners: list[Any] = []

    def handler(owner: Any, old: State, new: State) -> State:
        owners.append(owner)
        return new

    with Flow("owned", state_handlers=[handler]) as flow:
        made = task(nothing, state_handlers=[handler])()
    runner = FlowRunner(flow, state_handlers=[handler])
    await runner.run(task_runner_state_handlers=[handler])
    assert owners[:2] == [flow, runner]
    assert owners[2] is made
    assert isinstance(owners[3], TaskRunner)
    assert owners[3].task is made


async def test_the_handlers_given_to_a_run_hear_of_every_task() -> None:
    seen: list[str] = []

    def handler(runner: TaskRunner, old: State, new: State) -> State:
        seen.append(f"{context.task_full_name} {type(new).__name__}")
        return new

    with Flow("all of them") as flow:
        task(nothing, name="one")()
        task(lambda n: n, name="mapped").map([1, 2])
    await FlowRunner(flow).run(task_runner_state_handlers=[handler])
    assert sorted(seen) == sorted(
        ["one Running", "one Success", "mapped Mapped"]
        + [f"mapped[{child}] {kind}" for child in range(2) for kind in ("Running", "Success")]
        + [line for line in seen if line.startswith(("Constant", "List"))]
    )


async def test_a_handler_can_stop_a_task_before_its_body() -> None:
    ran: list[int] = []

    def skips(owner: Any, old: State, new: State) -> State:
        return Skipped("not today") if new.is_running() else new

    async def body() -> None:
        ran.append(1)

    state = await TaskRunner(task(body, state_handlers=[skips])).run()
    assert type(state) is Skipped
    assert ran == []


async def test_a_handler_that_raises_pause_pauses_the_task() -> None:
    def pauses(owner: Any, old: State, new: State) -> State:
        if new.is_running():
            raise PAUSE("look first")
        return new

    state = await TaskRunner(task(nothing, state_handlers=[pauses])).run()
    assert type(state) is Paused


async def test_a_handler_that_fails_fails_the_task_and_says_so() -> None:
    async def broken(owner: Any, old: State, new: State) -> State:
        await anyio.sleep(1)
        raise ValueError("broken")

    with Flow("broken handler") as flow:
        made = task(nothing, state_handlers=[broken])()
        after = task(lambda x: x, name="after")(made)
    state = await FlowRunner(flow).run()
    assert type(state) is Failed
    assert type(state.result[made]) is Failed
    assert "state handlers" in str(state.result[made].message)
    assert state.result[after].is_failed()


async def test_a_handler_that_fails_while_the_run_ends_does_not_hide_the_answer() -> None:
    """Also where the last handler call is about a failure: the run still ends, in a final state."""

    def broken(owner: Any, old: State, new: State) -> State:
        if new.is_failed():
            raise ValueError("broken")
        return new

    async def fails() -> None:
        raise KeyError("first")

    state = await TaskRunner(task(fails, state_handlers=[broken])).run()
    assert type(state) is Failed


async def test_a_handler_that_pauses_on_an_unexpected_error_pauses_the_run() -> None:
    def pauses(owner: Any, old: State, new: State) -> State:
        if new.is_failed():
            raise PAUSE("look at it")
        return new

    class Broken(TaskRunner):
        async def load_results(self, *args: Any) -> Any:
            raise ZeroDivisionError("oh")

    assert type(await Broken(task(nothing, state_handlers=[pauses])).run()) is Paused


async def test_a_handler_of_a_flow_that_pauses_on_an_unexpected_error_pauses_the_run() -> None:
    def pauses(owner: Any, old: State, new: State) -> State:
        if new.is_failed():
            raise PAUSE("look at it")
        return new

    class Broken(FlowRunner):
        async def get_flow_run_state(self, *args: Any, **kwargs: Any) -> Any:
            raise ZeroDivisionError("oh")

    with Flow("paused", state_handlers=[pauses]) as flow:
        task(nothing)()
    assert type(await Broken(flow).run()) is Paused


async def test_a_cancelled_error_that_nobody_asked_for_fails_the_task_and_not_the_run() -> None:
    """What a handler awaits may have been cancelled by somebody else: that must not look like the end of the run."""

    async def awaits_what_was_cancelled(owner: Any, old: State, new: State) -> State:
        if new.is_running():
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled
        return new

    with Flow("cancelled inside") as flow:
        made = task(nothing, state_handlers=[awaits_what_was_cancelled])()
        task(lambda x: x, name="after")(made)
    with anyio.fail_after(3600):
        state = await FlowRunner(flow).run()
    assert type(state.result[made]) is Failed


async def test_what_is_no_state_is_refused_by_name() -> None:
    def nonsense(owner: Any, old: State, new: State) -> Any:
        return "done"

    state = await TaskRunner(task(nothing, state_handlers=[nonsense])).run()
    assert type(state) is Failed
    assert "nonsense" in str(state.message)
    assert "'done'" in str(state.message)


# -- on_failure and terminal_state_handler -------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_failure_of_a_task_is_called_at_each_failure(is_async: bool) -> None:
    seen: list[Any] = []

    def on_failure(failed: Any, state: State) -> None:
        seen.append((failed.name, str(state.result)))

    async def async_on_failure(failed: Any, state: State) -> None:
        await anyio.sleep(1)
        on_failure(failed, state)

    async def fails(n: int) -> int:
        if n:
            raise ValueError(f"number {n}")
        return n

    one = task(fails, name="one", on_failure=async_on_failure if is_async else on_failure)
    assert (await TaskRunner(one, constants={"n": 0}).run()).is_successful()
    assert seen == []
    assert (await TaskRunner(one, constants={"n": 3}).run()).is_failed()
    assert seen == [("one", "number 3")]


async def test_on_failure_of_a_flow() -> None:
    seen: list[Any] = []

    async def fails() -> None:
        raise ValueError

    with Flow("failing", on_failure=lambda flow, state: seen.append((flow.name, type(state)))) as flow:
        task(fails)()
    assert (await FlowRunner(flow).run()).is_failed()
    assert seen == [("failing", Failed)]


async def test_on_failure_comes_after_the_state_handlers() -> None:
    seen: list[str] = []

    async def fails() -> None:
        raise ValueError

    def handler(owner: Any, old: State, new: State) -> State:
        seen.append(type(new).__name__)
        return new

    one = task(fails, state_handlers=[handler], on_failure=lambda owner, state: seen.append("on_failure"))
    await TaskRunner(one).run()
    assert seen == ["Running", "Failed", "on_failure"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_terminal_state_handler_comes_last_and_may_replace_the_state(is_async: bool) -> None:
    seen: list[Any] = []

    def handler(flow: Flow, state: State, reference: set[State]) -> State:
        seen.append((flow.name, type(state), {type(one) for one in reference}))
        return Cancelled("in the end")

    async def async_handler(flow: Flow, state: State, reference: set[State]) -> State:
        await anyio.sleep(1)
        return handler(flow, state, reference)

    changes: list[Any] = []
    chosen = async_handler if is_async else handler
    with Flow("ended", terminal_state_handler=chosen, state_handlers=[told(changes, "flow")]) as flow:
        task(nothing)()
    assert type(await FlowRunner(flow).run()) is Cancelled
    assert seen == [("ended", Success, {Success})]
    assert changes[-1] == ("flow", "Running", "Cancelled")


async def test_a_terminal_state_handler_that_returns_none_keeps_the_state() -> None:
    with Flow("kept", terminal_state_handler=lambda flow, state, reference: None) as flow:
        task(nothing)()
    assert type(await FlowRunner(flow).run()) is Success


async def test_a_terminal_state_handler_that_fails_fails_the_flow() -> None:
    def handler(flow: Flow, state: State, reference: set[State]) -> State:
        raise ValueError("in the end")

    with Flow("fails", terminal_state_handler=handler) as flow:
        task(nothing)()
    state = await FlowRunner(flow).run()
    assert type(state) is Failed
    assert "in the end" in str(state.message)


# -- held back, and without a word on when it goes on ----------------------------------------------------

TIMES = {
    Queued: [0, 30, 60, 90],
    Scheduled: [0, 30, 60, 90],
    Resume: [0, 30, 60, 90],
    Retrying: [0, 1, 3, 7],
}


def holding(kind: type[State], times: list[float], *, raises: bool) -> Handler:
    """Return a handler that holds a run back each time that it begins, but for the fourth."""

    def handler(owner: Any, old: State, new: State) -> State | None:
        if not isinstance(new, Running):
            return None
        times.append(anyio.current_time())
        if len(times) == 4:
            return None
        if raises:
            raise ENDRUN(kind("not yet"))
        return kind("not yet")

    return handler


@pytest.mark.parametrize(
    ("kind", "raises"),
    [(kind, raises) for kind in TIMES for raises in (False, True) if not (raises and kind is Queued)],
)
@pytest.mark.parametrize("whose", ["task", "runner", "flow"])
async def test_a_run_that_is_held_back_without_a_time_waits_for_a_while(
    whose: str, kind: type[State], raises: bool
) -> None:
    times: list[float] = []
    handlers = [holding(kind, times, raises=raises)]
    with Flow("held back", state_handlers=handlers if whose == "flow" else []) as flow:
        task(nothing)(task_args={"state_handlers": handlers if whose == "task" else []})
    state = await flow.run(task_runner_state_handlers=handlers if whose == "runner" else [])
    assert state.is_successful()
    assert times == (TIMES[Scheduled] if whose == "flow" else TIMES[kind])


@pytest.mark.parametrize("whose", ["task", "runner", "flow"])
@pytest.mark.parametrize("kind", TIMES)
async def test_a_recorded_run_is_given_the_time_at_which_it_goes_on(
    memory: Backend, settings: Settings, whose: str, kind: type[State]
) -> None:
    times: list[float] = []
    handlers = [holding(kind, times, raises=False)]
    with Flow("held back", state_handlers=handlers if whose == "flow" else []) as flow:
        task(nothing)(task_args={"state_handlers": handlers if whose == "task" else []})
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    state: Any = await runner.run(task_runner_state_handlers=handlers if whose == "runner" else [])
    if kind is Queued or (kind is Retrying and whose != "flow"):
        assert state.is_successful()
        assert times == TIMES[kind]
    else:
        assert (state.start_time - now()).total_seconds() == 30
        recorded: Any = await memory.get_flow_run_state(str(runner.flow_run_id))
        assert recorded.start_time == state.start_time


async def test_a_time_that_is_given_stands_and_what_waits_anyway_is_left_as_it_is() -> None:
    times: list[float] = []

    def handler(owner: Any, old: State, new: State) -> State | None:
        if isinstance(new, Running):
            times.append(anyio.current_time())
        if isinstance(new, Running) and len(times) == 1:
            return Queued(start_time=now() + datetime.timedelta(seconds=5))
        return Retrying("at once", start_time=new.start_time) if isinstance(new, Retrying) else None

    def fails_once() -> None:
        if context.task_run_count == 1:
            raise OSError

    with Flow("held back") as flow:
        task(fails_once, max_retries=1, retry_delay=0)(task_args={"state_handlers": [handler]})
    assert (await flow.run()).is_successful()
    assert times == [0, 5, 5]


async def test_a_body_that_asks_to_be_run_at_once_for_ever_is_slowed_down_in_the_end() -> None:
    times: list[float] = []

    async def again() -> None:
        times.append(anyio.current_time())
        if len(times) < 13:
            raise RETRY("at once", start_time=now())

    with Flow("again") as flow:
        task(again)()
    assert (await flow.run()).is_successful()
    assert times[:10] == [0] * 10
    assert times[10] == 60
    assert times[12] == 180
