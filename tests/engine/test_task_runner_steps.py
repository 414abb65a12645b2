"""Each step of the task runner, called alone; all of them in their order; each of them overridden."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest

from flowloop.engine import TaskRunner, cache_validators, context, task, triggers
from flowloop.engine.context import now
from flowloop.engine.edge import Edge
from flowloop.engine.result import NoResult, Result
from flowloop.engine.results import LocalResult, PrefectResult
from flowloop.engine.settings import Settings
from flowloop.engine.signals import ENDRUN, FAIL, LOOP, PAUSE, RETRY, SKIP, SUCCESS, VALIDATIONFAIL
from flowloop.engine.state import (
    Cached,
    Cancelled,
    Failed,
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

pytestmark = pytest.mark.virtual_time

DAY = datetime.timedelta(days=1)


@task
async def plus(x: int = 0, y: int = 0) -> int:
    return x + y


def up(*states: State, mapped: bool = False, key: str | None = None, flattened: bool = False) -> dict[Edge, State]:
    return {Edge(Task(name="up"), plus, key=key, mapped=mapped, flattened=flattened): state for state in states}


async def ends(step: Awaitable[Any]) -> State:
    """Return the state that a step ends the run with."""
    with pytest.raises(ENDRUN) as end:
        await step
    return end.value.state


# -- initialize_run ------------------------------------------------------------------------------------


async def test_initialize_run_begins_with_pending() -> None:
    state, found = await TaskRunner(plus).initialize_run(None, {})
    assert type(state) is Pending
    assert found["task_name"] == found["task_full_name"] == "plus"
    assert found["task_run_count"] == 1


@pytest.mark.parametrize("wrapper", [Submitted, Queued])
async def test_initialize_run_unwraps_meta_states(wrapper: Any) -> None:
    inside = Scheduled()
    state, _ = await TaskRunner(plus).initialize_run(wrapper(state=wrapper(state=inside)), {})
    assert state is inside


async def test_initialize_run_leaves_the_given_context_alone_and_adds_to_it() -> None:
    tagged = task(lambda: 1, name="tagged", tags={"a"}, slug="mine")
    given = {"map_index": 3, "mine": 1}
    _, found = await TaskRunner(tagged).initialize_run(Pending(), dict(given))
    assert found.items() >= given.items()
    assert found["task_full_name"] == "tagged[3]"
    assert found["task_slug"] == "mine"
    assert found["task_tags"] == {"a"}


@pytest.mark.parametrize(
    ("state", "count"),
    [
        (Pending(), 1),
        (Retrying(run_count=1), 2),
        (Retrying(run_count=5), 6),
        (Scheduled(context={"task_run_count": 4}), 4),
        (Resume(context={"task_run_count": 2}), 2),
    ],
    ids=repr,
)
async def test_initialize_run_counts_the_attempt(state: State, count: int) -> None:
    _, found = await TaskRunner(plus).initialize_run(state, {})
    assert found["task_run_count"] == count


async def test_initialize_run_resumes() -> None:
    runner = TaskRunner(plus)
    for state, resumed in [
        (Resume(), True),
        (Paused(), False),
        (Paused(start_time=now() - DAY), True),
        (Paused(start_time=now() + DAY), False),
        (Scheduled(), False),
    ]:
        _, found = await runner.initialize_run(state, {})
        assert found.get("resume", False) is resumed, state


async def test_initialize_run_restores_the_round_of_a_loop(tmp_path: Any) -> None:
    runner = TaskRunner(task(lambda: 1, name="loops", result=LocalResult(tmp_path)))
    stored = await LocalResult(tmp_path).write([1, 2])
    retrying = Retrying(
        run_count=1,
        cached_inputs={"_loop_count": PrefectResult(location="4"), "_loop_result": Result(location=stored.location)},
    )
    _, found = await runner.initialize_run(retrying, {})
    assert found["task_loop_count"] == 4
    assert found["task_loop_result"] == [1, 2]


# -- the checks before the body ------------------------------------------------------------------------


@pytest.mark.parametrize("state", [Pending(), Scheduled(), Retrying(), Mapped(), Cached()], ids=repr)
async def test_check_task_is_ready_passes(state: State) -> None:
    assert await TaskRunner(plus).check_task_is_ready(state) is state


@pytest.mark.parametrize("state", [Running(), Success(), Failed(), Cancelled(), Looped(), Submitted()], ids=repr)
async def test_check_task_is_ready_ends(state: State) -> None:
    assert await ends(TaskRunner(plus).check_task_is_ready(state)) is state


async def test_check_task_reached_start_time() -> None:
    runner = TaskRunner(plus)
    later = Scheduled(start_time=now() + DAY)
    assert await ends(runner.check_task_reached_start_time(later)) is later
    paused = Paused()
    assert await ends(runner.check_task_reached_start_time(paused)) is paused
    await anyio.sleep(DAY.total_seconds())
    assert await runner.check_task_reached_start_time(later) is later
    pending = Pending()
    assert await runner.check_task_reached_start_time(pending) is pending


async def test_check_upstream_finished() -> None:
    runner, state = TaskRunner(plus), Pending()
    assert await runner.check_upstream_finished(state, up(Success(), Failed(), Cancelled())) is state
    assert await ends(runner.check_upstream_finished(state, up(Success(), Running()))) is state


async def test_check_upstream_skipped() -> None:
    runner, state = TaskRunner(plus), Pending()
    assert type(await ends(runner.check_upstream_skipped(state, up(Skipped())))) is Skipped
    stubborn = TaskRunner(plus.copy(skip_on_upstream_skip=False))
    assert await stubborn.check_upstream_skipped(state, up(Skipped())) is state


async def test_load_results_has_nothing_to_do_here() -> None:
    state, found = Pending(), up(Success(result=1))
    assert await TaskRunner(plus).load_results(state, found) == (state, found)


async def test_get_task_inputs() -> None:
    runner = TaskRunner(plus, constants={"y": 5})
    inputs = await runner.get_task_inputs(Pending(), {**up(Success(result=2), key="x"), **up(Success(result=9))})
    assert {name: result.value for name, result in inputs.items()} == {"x": 2, "y": 5}
    assert await TaskRunner(plus).get_task_inputs(Pending(), {}) == {}


async def test_get_task_inputs_reduces_and_flattens() -> None:
    runner = TaskRunner(plus)
    children = Mapped(map_states=[Success(result=1), Failed(result="no"), Success(result=[2, 3])])
    reduced = await runner.get_task_inputs(Pending(), up(children, key="x"))
    assert reduced["x"].value == [1, "no", [2, 3]]
    flat = await runner.get_task_inputs(Pending(), up(Success(result=[[1], [2, 3], 4]), key="x", flattened=True))
    assert flat["x"].value == [1, 2, 3, 4]


async def test_get_task_inputs_keeps_where_a_value_is_stored() -> None:
    stored = PrefectResult(5, "5")
    inputs = await TaskRunner(plus).get_task_inputs(Pending(), up(Success(result=stored), key="x"))
    assert inputs["x"] is stored


async def test_check_task_ready_to_map_always_ends() -> None:
    runner = TaskRunner(plus)
    mapped = await ends(runner.check_task_ready_to_map(Pending(), up(Success(result=[1, 2, 3]), mapped=True)))
    assert type(mapped) is Mapped
    assert mapped.n_map_states == 3
    failed = await ends(runner.check_task_ready_to_map(Pending(), up(Success(result=7), mapped=True)))
    assert type(failed) is Failed
    assert "'up'" in str(failed.message)
    assert "int" in str(failed.message)
    again = Mapped(n_map_states=2)
    assert await ends(runner.check_task_ready_to_map(again, up(Success(result=[1, 2]), mapped=True))) is again
    assert len(again.map_states) == 2


NAMES = [
    ("{task_name}-{x}", "plus-5"),
    ("{parameter}/{map_index}", "p/7"),
    ("{x}", "5"),
    (lambda x, task_name, **_: f"{task_name} of {x}", "plus of 5"),
    ("no template", "no template"),
    (None, None),
]


@pytest.mark.parametrize(("template", "name"), NAMES, ids=[str(name) for _, name in NAMES])
async def test_set_task_run_name(template: Any, name: str | None) -> None:
    runner = TaskRunner(plus.copy(task_run_name=template))
    # an input wins over the context, and the context over the parameters
    parameters = {"parameter": "p", "x": "parameter", "map_index": 1}
    with context(parameters=parameters, map_index=7, x="context", task_name="plus", task_run_name=None):
        await runner.set_task_run_name({"x": Result(5)})
        assert context.task_run_name == name


async def test_check_target(tmp_path: Any) -> None:
    runner = TaskRunner(plus.copy(result=LocalResult(tmp_path), target="{x}.pickle"))
    state = Pending()
    assert await runner.check_target(state, {"x": Result(1)}) is state
    await LocalResult(tmp_path, location="1.pickle").write("found")
    cached = await runner.check_target(state, {"x": Result(1)})
    assert type(cached) is Cached
    assert cached.result == "found"
    assert "1.pickle" in str(cached.message)
    assert cached._result.location == str(tmp_path / "1.pickle")
    assert await runner.check_target(state, {"x": Result(2)}) is state


async def test_check_task_is_cached_looks_in_the_caches_of_the_context() -> None:
    cached = Cached(result=5, hashed_inputs=None, cached_inputs={"x": Result(1)})
    runner = TaskRunner(plus.copy(cache_for=DAY, cache_validator=cache_validators.all_inputs))
    state = Pending()
    with context(caches={"plus": [cached], "other": [Cached(result=6)]}):
        found = await runner.check_task_is_cached(state, {"x": Result(1)})
        assert (type(found), found.result) == (Cached, 5)
        assert await runner.check_task_is_cached(state, {"x": Result(2)}) is state
    assert await runner.check_task_is_cached(state, {"x": Result(1)}) is state
    keyed = TaskRunner(plus.copy(cache_for=DAY, cache_key="other", cache_validator=cache_validators.duration_only))
    with context(caches={"plus": [cached], "other": [Cached(result=6)]}):
        assert (await keyed.check_task_is_cached(state, {})).result == 6


async def test_check_task_is_cached_validates_a_cached_state_again() -> None:
    runner = TaskRunner(plus.copy(cache_for=DAY, cache_validator=cache_validators.duration_only))
    valid = Cached(result=5, cached_result_expiration=now() + DAY)
    assert await runner.check_task_is_cached(valid, {}) is valid
    expired = Cached(result=5, cached_result_expiration=now() - DAY)
    assert type(await runner.check_task_is_cached(expired, {})) is Pending


async def test_a_cache_validator_may_be_async_and_its_failure_names_the_task() -> None:
    async def is_five(state: Cached, inputs: Any, parameters: Any) -> bool:
        await anyio.sleep(1)
        return state.result == 5

    def broken(state: Cached, inputs: Any, parameters: Any) -> bool:
        raise ZeroDivisionError("oh")

    cached = Cached(result=5)
    assert (
        await TaskRunner(plus.copy(cache_for=DAY, cache_validator=is_five)).check_task_is_cached(cached, {}) is cached
    )
    failed = await ends(TaskRunner(plus.copy(cache_for=DAY, cache_validator=broken)).check_task_is_cached(cached, {}))
    assert type(failed) is Failed
    assert isinstance(failed.result, ZeroDivisionError)
    assert "cache_validator" in str(failed.message)
    assert "'plus'" in str(failed.message)


async def test_check_task_trigger_passes_and_fails() -> None:
    runner, state = TaskRunner(plus), Pending()
    assert await runner.check_task_trigger(state, up(Success())) is state
    assert await runner.check_task_trigger(state, {}) is state
    failed = await ends(runner.check_task_trigger(state, up(Failed())))
    assert type(failed) is TriggerFailed
    assert "all_successful" in str(failed.message)


async def test_check_task_trigger_is_asked_of_a_cached_result_too() -> None:
    cached = Cached(result=1)
    assert await TaskRunner(plus).check_task_trigger(cached, up(Success())) is cached
    assert type(await ends(TaskRunner(plus).check_task_trigger(cached, up(Failed())))) is TriggerFailed


async def test_triggers_may_be_async_and_raise_signals() -> None:
    async def patient(states: dict[Edge, State]) -> bool:
        await anyio.sleep(3600)
        return all(state.is_failed() for state in states.values())

    async def skips(states: dict[Edge, State]) -> bool:
        raise SKIP("not today")

    state = Pending()
    runner = TaskRunner(plus.copy(trigger=patient))
    assert await runner.check_task_trigger(state, up(Failed())) is state
    assert type(await ends(runner.check_task_trigger(state, up(Success())))) is TriggerFailed
    assert type(await ends(TaskRunner(plus.copy(trigger=skips)).check_task_trigger(state, {}))) is Skipped
    manual = TaskRunner(plus.copy(trigger=triggers.manual_only))
    assert type(await ends(manual.check_task_trigger(state, {}))) is Paused
    with context(resume=True):
        assert await manual.check_task_trigger(state, {}) is state


@pytest.mark.parametrize("nonsense", [None, 1, "yes", [True]])
async def test_a_trigger_that_returns_nonsense(nonsense: Any) -> None:
    failed = await ends(TaskRunner(plus.copy(trigger=lambda states: nonsense)).check_task_trigger(Pending(), {}))
    assert type(failed) is TriggerFailed
    assert "'plus'" in str(failed.message)
    assert repr(nonsense) in str(failed.message)
    assert "True or False" in str(failed.message)


async def test_a_trigger_that_fails_names_the_task() -> None:
    def broken(states: dict[Edge, State]) -> bool:
        raise ZeroDivisionError("oh")

    failed = await ends(TaskRunner(plus.copy(trigger=broken)).check_task_trigger(Pending(), {}))
    assert type(failed) is TriggerFailed
    assert isinstance(failed.result, ZeroDivisionError)
    assert "'plus'" in str(failed.message)


async def test_set_task_to_running() -> None:
    runner = TaskRunner(plus)
    assert type(await runner.set_task_to_running(Pending(), {})) is Running
    for state in (Success(), Running()):
        assert await ends(runner.set_task_to_running(state, {})) is state


# -- the body ------------------------------------------------------------------------------------------


async def test_get_task_run_state_needs_running() -> None:
    state = Pending()
    assert await ends(TaskRunner(plus).get_task_run_state(state, {})) is state


async def test_get_task_run_state_runs_the_body() -> None:
    state = await TaskRunner(plus).get_task_run_state(Running(), {"x": Result(2), "y": Result(3)})
    assert type(state) is Success
    assert state.result == 5


async def test_a_sync_body_runs_in_a_thread_with_the_context() -> None:
    @task
    def where() -> tuple[bool, int]:
        return threading.current_thread() is threading.main_thread(), context.get("mine")

    with context(mine=7):
        state = await TaskRunner(where).get_task_run_state(Running(), {})
    assert state.result == (False, 7)


async def test_an_input_may_have_any_name(tmp_path: Any) -> None:
    """Also one that a step, an executor or a result has for an argument of its own."""

    def sync_body(fn: int, extra_context: int, value: int, location: int, state: int, task: int) -> list[int]:
        return [fn, extra_context, value, location, state, task]

    async def async_body(fn: int, extra_context: int, value: int, location: int, state: int, task: int) -> list[int]:
        return [fn, extra_context, value, location, state, task]

    names = ("fn", "extra_context", "value", "location", "state", "task")
    for body in (sync_body, async_body):
        target = f"{body.__name__}-{{value}}-{{location}}"
        one = task(body, result=LocalResult(tmp_path), target=target, task_run_name="{fn}-{state}", timeout=5)
        with context(checkpointing=True):
            for kind in (Success, Cached):
                state = await TaskRunner(one, constants=dict(zip(names, range(6), strict=True))).run()
                assert (type(state), state.result) == (kind, [0, 1, 2, 3, 4, 5]), state.message


async def test_a_method_as_body() -> None:
    class Adds(Task[..., int]):
        def __init__(self, n: int) -> None:
            self.n = n
            super().__init__(name="adds")

        async def run(self, x: int) -> int:
            return x + self.n

    assert (await TaskRunner(Adds(5)).get_task_run_state(Running(), {"x": Result(1)})).result == 6


SIGNALS = [
    (SUCCESS("m", result=1), Success, 1),
    (SKIP("m"), Skipped, None),
    (PAUSE("m"), Paused, None),
    (VALIDATIONFAIL("m"), ValidationFailed, None),
    (RETRY("m"), Retrying, None),
    (FAIL("m"), Failed, None),
    (LOOP("m", result=4), Looped, 4),
]


@pytest.mark.parametrize(("signal", "kind", "result"), SIGNALS, ids=[kind.__name__ for _, kind, _ in SIGNALS])
@pytest.mark.parametrize("sync", [True, False])
async def test_a_signal_sets_the_state(signal: BaseException, kind: type[State], result: Any, sync: bool) -> None:
    async def body() -> None:
        raise signal

    def sync_body() -> None:
        raise signal

    runner = TaskRunner(task(sync_body if sync else body, name="signals"))
    state = await runner.get_task_run_state(Running(), {})
    assert type(state) is kind
    assert state.message == "m"
    if result is not None:
        assert state.result == result
    elif kind is not Looped:
        assert state.result is signal


async def test_endrun_from_a_body_is_the_answer() -> None:
    answer = Success("that is all", result=3)

    @task
    async def body() -> None:
        raise ENDRUN(answer)

    assert await ends(TaskRunner(body).get_task_run_state(Running(), {})) is answer
    assert await TaskRunner(body).run() is answer


async def test_an_error_fails_the_task_and_is_the_result() -> None:
    error = ValueError("wrong")

    @task
    async def body() -> None:
        raise error

    state = await TaskRunner(body).get_task_run_state(Running(), {})
    assert type(state) is Failed
    assert state.result is error
    assert "wrong" in str(state.message)


async def test_raise_on_exception_lets_errors_out_and_signals_not() -> None:
    @task
    async def body(signal: bool = False) -> None:
        if signal:
            raise FAIL("a signal")
        raise ValueError("wrong")

    with context(raise_on_exception=True):
        with pytest.raises(ValueError, match="wrong"):
            await TaskRunner(body).get_task_run_state(Running(), {})
        with pytest.raises(ValueError, match="wrong"):
            await TaskRunner(body).run()
        assert type(await TaskRunner(body, constants={"signal": True}).run()) is Failed


@pytest.mark.parametrize(("max_retries", "told"), [(0, ["plain: attempt 1 of 1 failed: ValueError: wrong"]), (1, [])])
async def test_a_body_that_is_run_alone_is_the_first_attempt(
    max_retries: int, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    @task(name="plain", max_retries=max_retries, retry_delay=DAY if max_retries else None)
    async def body() -> None:
        raise ValueError("wrong")

    assert type(await TaskRunner(body).get_task_run_state(Running(), {})) is Failed
    assert [record.getMessage().splitlines()[0] for record in caplog.records] == told


async def test_the_timeout_of_a_body() -> None:
    cleaned = []

    @task(timeout=30)
    async def slow() -> None:
        try:
            await anyio.sleep(31)
        finally:
            cleaned.append(anyio.current_time())

    state = await TaskRunner(slow).get_task_run_state(Running(), {})
    assert type(state) is TimedOut
    assert "30 s" in str(state.message)
    assert cleaned == [30]


CHECKPOINTS = [
    # checkpointing in the context, checkpoint of the task, value, whether it is stored
    (True, None, 1, True),
    (True, True, 1, True),
    (True, False, 1, False),
    (True, None, None, False),
    (True, None, 0, True),
    (False, True, 1, False),
    (None, True, 1, False),
    ("true", None, 1, False),
]


@pytest.mark.parametrize(("flag", "wish", "value", "stored"), CHECKPOINTS)
async def test_a_checkpoint_needs_the_flag_and_the_task_and_a_value(
    flag: Any, wish: bool | None, value: Any, stored: bool
) -> None:
    async def body() -> Any:
        return value

    runner = TaskRunner(task(body, checkpoint=wish, result=PrefectResult()))
    with context({} if flag is None else {"checkpointing": flag}):
        state = await runner.get_task_run_state(Running(), {})
    assert state._result.location == (str(value) if stored else None)
    assert state.result == value


async def test_the_result_of_the_flow_serves_a_task_without_one() -> None:
    with context(checkpointing=True):
        state = await TaskRunner(plus, flow_result=PrefectResult()).get_task_run_state(Running(), {})
        assert state._result.location == "0"
        own = TaskRunner(plus.copy(result=Result()), flow_result=PrefectResult())
        assert (await own.get_task_run_state(Running(), {}))._result.location is None  # which stores nothing


async def test_a_result_that_cannot_be_stored_fails_the_task_and_names_it() -> None:
    @task(result=PrefectResult())
    async def unstorable() -> object:
        return object()

    with context(checkpointing=True):
        state = await TaskRunner(unstorable).get_task_run_state(Running(), {})
    assert type(state) is Failed
    assert "'unstorable'" in str(state.message)


# -- after the body ------------------------------------------------------------------------------------


async def test_cache_result() -> None:
    runner = TaskRunner(plus.copy(cache_for=DAY))
    success = Success("m", result=Result(5))
    with context(parameters={"p": 1}):
        cached = await runner.cache_result(success, {"x": Result(2)})
    assert type(cached) is Cached
    assert cached._result is success._result
    assert cached.cached_result_expiration == now() + DAY
    assert cached.cached_parameters == {"p": 1}
    assert cached.hashed_inputs == {}  # duration_only looks at none
    for state in (Failed(), Skipped(), Cached(result=1), Looped()):
        assert await runner.cache_result(state, {}) is state
    assert await TaskRunner(plus).cache_result(success, {}) is success


async def test_check_for_retry() -> None:
    runner = TaskRunner(plus.copy(max_retries=2, retry_delay=60, retry_on=(ValueError,)))
    failed = Failed(result=ValueError())
    retrying = await runner.check_for_retry(failed, {})
    assert type(retrying) is Retrying
    assert retrying.start_time == now() + datetime.timedelta(minutes=1)
    assert retrying.run_count == 1
    other = Failed(result=KeyError())
    assert await runner.check_for_retry(other, {}) is other
    with context(task_run_count=3):
        assert await runner.check_for_retry(failed, {}) is failed
    for state in (Success(), Cancelled(), Looped()):
        assert await runner.check_for_retry(state, {}) is state


async def test_check_for_retry_keeps_the_round_of_a_loop() -> None:
    runner = TaskRunner(plus.copy(max_retries=1, retry_delay=0, result=PrefectResult()))
    with context(task_loop_count=3, task_loop_result=[7], checkpointing=True):
        retrying = await runner.check_for_retry(Failed(), {})
    assert retrying.cached_inputs["_loop_count"].location == "3"
    assert retrying.cached_inputs["_loop_result"].location == "[7]"


async def test_check_task_is_looping() -> None:
    runner = TaskRunner(plus)
    success = Success()
    assert await runner.check_task_is_looping(success, {}, {}) is success
    with context():
        assert type(await runner.check_task_is_looping(Looped(result=4, loop_count=2), {}, {})) is Pending
        assert context.task_loop_count == 3
        assert context.task_loop_result == 4


# -- all of them ---------------------------------------------------------------------------------------

BEFORE = [
    "initialize_run",
    "check_task_is_ready",
    "check_task_reached_start_time",
    "check_upstream_finished",
    "check_upstream_skipped",
    "load_results",
]
BODY = ["set_task_to_running", "get_task_run_state", "cache_result", "check_for_retry", "check_task_is_looping"]
STEPS = [
    *BEFORE,
    "get_task_inputs",
    "check_task_ready_to_map",
    "set_task_run_name",
    "check_target",
    "check_task_is_cached",
    "check_task_trigger",
    *BODY,
]


def watched(names: list[str]) -> tuple[type[TaskRunner], list[str]]:
    """Return a task runner whose steps of these names write down that they were called."""
    seen: list[str] = []

    def override(name: str) -> Any:
        async def step(self: TaskRunner, *args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return await getattr(TaskRunner, name)(self, *args, **kwargs)

        return step

    return type("Watched", (TaskRunner,), {name: override(name) for name in names}), seen


async def test_the_steps_come_in_their_order() -> None:
    runner, seen = watched(STEPS)
    assert (await runner(plus).run()).is_successful()
    assert seen == [*BEFORE, "get_task_inputs", "check_task_trigger", "check_task_is_cached", *BODY]


async def test_with_a_name_and_a_target(tmp_path: Any) -> None:
    runner, seen = watched(STEPS)
    named = plus.copy(task_run_name="n", target="t", result=LocalResult(tmp_path))
    assert (await runner(named).run()).is_successful()
    before = [*BEFORE, "get_task_inputs", "set_task_run_name", "check_task_trigger", "check_target"]
    assert seen == [*before, *BODY]


async def test_a_mapped_parent_ends_where_it_knows_its_children() -> None:
    runner, seen = watched(STEPS)
    state = await runner(plus).run(upstream_states=up(Success(result=[1]), mapped=True), is_mapped_parent=True)
    assert state.is_mapped()
    assert seen == [*BEFORE, "check_task_ready_to_map"]


@pytest.mark.parametrize("name", [*STEPS, "handle_state_change", "call_runner_target_handlers"])
async def test_each_step_can_be_overridden_alone(name: str, tmp_path: Any) -> None:
    runner, seen = watched([name])
    one, upstream = plus, up(Success(result=[1, 2]), key="x", mapped=True)
    if name in ("set_task_run_name", "check_target"):
        one = plus.copy(task_run_name="n", target="t", result=LocalResult(tmp_path))
    if name == "check_task_ready_to_map":
        await runner(one).run(upstream_states=upstream, is_mapped_parent=True)
    else:
        await runner(one).run()
    changes = ["handle_state_change", "call_runner_target_handlers"]
    assert seen == [name] * (2 if name in changes else 1)  # to Running, and to Success


@pytest.mark.parametrize("name", [step for step in STEPS if step not in ("check_task_ready_to_map", "check_target")])
async def test_each_step_can_end_the_run(name: str) -> None:
    answer = Cancelled("mine")

    async def override(self: TaskRunner, *args: Any, **kwargs: Any) -> Any:
        raise ENDRUN(answer)

    runner = type("Ends", (TaskRunner,), {name: override})
    assert await runner(plus.copy(task_run_name="n")).run() is answer


@pytest.mark.parametrize("name", [step for step in STEPS if step not in ("check_task_ready_to_map", "check_target")])
async def test_an_error_in_a_step_fails_the_run_and_calls_the_handlers(name: str) -> None:
    error = ZeroDivisionError("oh")
    changes: list[State] = []

    async def override(self: TaskRunner, *args: Any, **kwargs: Any) -> Any:
        raise error

    runner = type("Broken", (TaskRunner,), {name: override})
    named = plus.copy(task_run_name="n", state_handlers=[lambda task, old, new: changes.append(new)])
    state = await runner(named).run()
    assert type(state) is Failed
    assert state.result is error
    assert "'plus'" in str(state.message)
    assert changes[-1] is state


async def test_one_runner_serves_many_runs_at_once() -> None:
    @task
    async def own() -> tuple[int, int]:
        before = context.map_index
        await anyio.sleep(10 - before)
        return before, context.map_index

    runner = TaskRunner(own)
    found = await asyncio.gather(*(runner.run(context={"map_index": child}) for child in range(5)))
    assert [state.result for state in found] == [(child, child) for child in range(5)]


async def test_the_limit_of_inline_retries_comes_from_the_settings() -> None:
    @task(max_retries=1, retry_delay=100)
    async def flaky() -> int:
        if context.task_run_count == 1:
            raise ValueError
        return 1

    assert type(await TaskRunner(flaky, settings=Settings(inline_retry_limit=99)).run()) is Retrying
    assert type(await TaskRunner(flaky, settings=Settings(inline_retry_limit=100)).run()) is Success


async def test_a_run_leaves_no_trace_in_the_context_of_its_caller() -> None:
    before = context.to_dict()
    await TaskRunner(plus.copy(task_run_name="n")).run(context={"mine": 1})
    assert context.to_dict() == before


async def test_a_state_without_a_result_stays_without() -> None:
    state, _ = await TaskRunner(plus).initialize_run(None, {})
    assert state._result is NoResult
