"""The thirty points of the semantics that go wrong most easily, one test each at least.

They are numbered as in the table at the end of ``docs/semantics.md``. Many have further tests where their subject has.
"""

from __future__ import annotations

import datetime
from typing import Any

import anyio
import pytest

from flowloop.backends.memory.backend import MemoryBackend
from flowloop.engine import Flow, FlowRunner, Parameter, TaskRunner, context, flatten, task, triggers
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.context import now
from flowloop.engine.edge import Edge
from flowloop.engine.errors import BackendRejected
from flowloop.engine.result import NoResult
from flowloop.engine.results import LocalResult, PrefectResult
from flowloop.engine.runner import Runner, call_state_handlers
from flowloop.engine.secrets import Secret
from flowloop.engine.settings import Settings
from flowloop.engine.signals import (
    ENDRUN,
    FAIL,
    LOOP,
    PAUSE,
    RETRY,
    SKIP,
    SUCCESS,
    TRIGGERFAIL,
    VALIDATIONFAIL,
    PrefectSignal,
    TaskTimeoutSignal,
    VersionLockMismatchSignal,
)
from flowloop.engine.state import (
    Cached,
    Cancelled,
    Cancelling,
    ClientFailed,
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
    TriggerFailed,
)
from flowloop.engine.task import Task
from flowloop.engine.testing import FaultyBackend, RecordingBackend, VirtualClock

pytestmark = pytest.mark.virtual_time

SECOND = datetime.timedelta(seconds=1)
HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return Settings(home=str(tmp_path))


async def nothing() -> int:
    return 1


def up(*states: State, mapped: bool = False) -> dict[Edge, State]:
    below = Task(name="below")
    return {Edge(Task(name="up"), below, mapped=mapped): state for state in states}


class Steps(Runner):
    @call_state_handlers
    async def to(self, state: State, new_state: State) -> State:
        return new_state

    @call_state_handlers
    async def end(self, state: State, new_state: State) -> State:
        raise ENDRUN(new_state)


def raises(signal: BaseException) -> Any:
    def handler(owner: Any, old: State, new: State) -> State:
        raise signal

    return handler


# -- handlers and signals ------------------------------------------------------------------------------


async def test_01_handlers_fire_on_a_change_of_identity_and_not_of_equality() -> None:
    fired: list[State] = []
    runner = Steps([lambda runner, old, new: fired.append(new)])
    state, equal = Pending(), Pending()
    assert state == equal
    await runner.to(state, state)
    assert fired == []
    await runner.to(state, equal)
    assert fired[0] is equal


async def test_02_endrun_fires_handlers_first_and_propagates_the_replaced_state() -> None:
    replaced = Skipped("in its place")
    with pytest.raises(ENDRUN) as end:
        await Steps([lambda runner, old, new: replaced]).end(Pending(), Failed())
    assert end.value.state is replaced


async def test_03_pause_and_endrun_escape_handle_state_change_and_other_signals_become_states() -> None:
    for escaping in (PAUSE("wait"), ENDRUN(Success())):
        with pytest.raises(type(escaping)):
            await Steps([raises(escaping)]).handle_state_change(Pending(), Running())
    for signal in (FAIL("x"), SKIP("x"), SUCCESS("x"), RETRY("x"), LOOP("x"), TRIGGERFAIL("x"), VALIDATIONFAIL("x")):
        assert await Steps([raises(signal)]).handle_state_change(Pending(), Running()) is signal.state


async def test_04_other_handler_errors_become_endrun_with_failed() -> None:
    error = ValueError("in a handler")
    with pytest.raises(ENDRUN) as end:
        await Steps([raises(error)]).handle_state_change(Pending(), Running())
    assert type(end.value.state) is Failed
    assert end.value.state.result is error


async def test_05_all_signals_are_base_exceptions_and_pass_through_except_exception() -> None:
    for signal in (
        *(ENDRUN, FAIL, LOOP, PAUSE, RETRY, SKIP, SUCCESS, TRIGGERFAIL, VALIDATIONFAIL),
        *(TaskTimeoutSignal, VersionLockMismatchSignal),
    ):
        assert issubclass(signal, PrefectSignal)
        assert not issubclass(signal, Exception)

    @task
    async def careless() -> None:
        try:
            raise SKIP("on purpose")
        except Exception as error:
            raise AssertionError from error

    assert type(await TaskRunner(careless).run()) is Skipped


# -- states --------------------------------------------------------------------------------------------


def test_06_equality_ignores_message_and_context_and_the_hash_is_identity() -> None:
    one, two = Success("a", result=1, context={"a": 1}), Success("b", result=1)
    assert one == two
    assert hash(one) != hash(two)
    assert len({one, two}) == 2
    assert one != Success("a", result=2, context={"a": 1})
    assert Scheduled(start_time=now()) != Scheduled(start_time=now() + HOUR)


def test_07_meta_states_collapse_to_the_innermost_state() -> None:
    inside = Pending()
    assert Submitted(state=Queued(state=ClientFailed(state=inside))).state is inside
    queued = Queued()
    queued.state = Submitted(state=inside)
    assert queued.state is inside


def test_08_queued_is_scheduled_but_not_pending() -> None:
    queued = Queued()
    assert queued.is_scheduled()
    assert not queued.is_pending()
    assert not isinstance(queued, (Pending, Scheduled))


async def test_09_only_paused_keeps_no_start_time_and_an_elapsed_one_resumes() -> None:
    for kind in (Scheduled, Resume, Retrying, Queued):
        assert kind(start_time=None).start_time == now()
    assert Paused(start_time=None).start_time is None
    runner = TaskRunner(task(nothing))
    _, found = await runner.initialize_run(Paused(start_time=now() - SECOND), {})
    assert found["resume"] is True
    _, found = await runner.initialize_run(Paused(), {})
    assert not found.get("resume")


def test_10_cancelling_counts_as_running_and_looped_is_finished_but_neither_success_nor_failure() -> None:
    assert Cancelling().is_running()
    looped = Looped()
    assert looped.is_finished()
    assert not looped.is_successful()
    assert not looped.is_failed()
    assert not Cancelled().is_failed()


# -- the backend ---------------------------------------------------------------------------------------


class Recorded:
    """A flow run in a backend that remembers its calls and can be told to fail."""

    def __init__(self, flow: Flow, settings: Settings) -> None:
        self.flow = flow
        self.settings = settings
        self.memory = MemoryBackend(settings=settings, clock=VirtualClock())
        self.faulty = FaultyBackend(self.memory)
        self.backend = RecordingBackend(self.faulty)

    async def run(self, runner: type[CloudFlowRunner] = CloudFlowRunner, **kwargs: Any) -> State:
        backend: Backend = self.backend
        return await runner(self.flow, backend=backend, settings=self.settings).run(**kwargs)

    def sent(self, method: str = "set_task_run_state") -> list[tuple[type[State], int | None]]:
        """Return the states that were sent, each with the version that it was sent with."""
        calls = self.backend.calls_of(method)
        return [(type(call.arguments["state"]), call.arguments["version"]) for call in calls]


def one_task(**task_args: Any) -> Flow:
    with Flow("one task") as flow:
        task(nothing, **task_args)()
    return flow


async def test_11_running_states_are_sent_with_the_version_they_were_read_at(settings: Settings) -> None:
    """Here every other state carries its version, too: see the deliberate differences."""
    recorded = Recorded(one_task(), settings)
    await recorded.run()
    assert recorded.sent() == [(Running, 1), (Success, 2)]
    assert recorded.sent("set_flow_run_state") == [(Success, 2)]  # that of the flow run came with its creation
    created_before = Recorded(one_task(), settings)
    flow_run_id = await create_flow_run(created_before.flow, created_before.backend, settings=settings)
    await created_before.run(context={"flow_run_id": flow_run_id})
    assert created_before.sent("set_flow_run_state") == [(Running, 1), (Success, 2)]


def moved_elsewhere(recorded: Recorded, state: State, *, when: str) -> Any:
    """Return a state handler that moves the task run in the backend behind its runner's back."""
    moved: list[int] = []

    async def handler(owner: Any, old: State, new: State) -> None:
        if type(new).__name__ == when and not moved:
            moved.append(1)
            await recorded.memory.set_task_run_state(context.task_run_id, None, state, epoch=1)

    return handler


async def test_12_version_lock_ends_the_run_if_it_is_running_elsewhere_and_adopts_a_finished_state(
    settings: Settings,
) -> None:
    ran: list[int] = []

    async def body() -> int:
        ran.append(1)
        return 1

    @task
    async def double(n: int) -> int:
        return n * 2

    stored = PrefectResult(21, "21")
    with Flow("adopted") as flow:
        first: Any = task(body)()
        second: Any = double(first)
    recorded = Recorded(flow, settings)
    first.state_handlers.append(moved_elsewhere(recorded, Success(result=stored), when="Running"))
    state = await recorded.run()
    assert ran == []
    # the adopted state has its result loaded, for what comes after it
    assert (state.result[first].result, state.result[second].result) == (21, 42)

    with Flow("elsewhere") as flow:
        first = task(body)()
        second = double(first)
    recorded = Recorded(flow, settings)
    first.state_handlers.append(moved_elsewhere(recorded, Running("by somebody else"), when="Running"))
    state = await recorded.run()
    assert ran == []
    assert type(state.result[first]) is Running
    assert type(state.result[second]) is Pending
    assert not state.is_finished()


async def test_13_a_write_error_wraps_the_state_of_a_task_and_leaves_that_of_a_flow_bare(settings: Settings) -> None:
    """Where neither the state nor a small one in its place is taken."""

    def is_over(sent: dict[str, Any]) -> bool:
        return sent["state"].is_finished()

    recorded = Recorded(one_task(), settings)
    recorded.faulty.fail("set_task_run_state", BackendRejected("no"), where=is_over, times=None)
    state = await recorded.run()
    (one,) = state.result.values()
    assert type(one) is ClientFailed
    assert type(one.state) is Success

    recorded = Recorded(one_task(), settings)
    recorded.faulty.fail("set_flow_run_state", BackendRejected("no"), where=is_over, times=None)
    left: list[State] = []

    class Steps(CloudFlowRunner):
        async def call_runner_target_handlers(self, old_state: State, new_state: State) -> State:
            try:
                return await super().call_runner_target_handlers(old_state, new_state)
            except ENDRUN as end:
                left.append(end.state)
                raise

    with pytest.raises(BackendRejected, match="came to its end here as Success, and that is not recorded: no"):
        await recorded.run(Steps)
    assert list(map(type, left)) == [Success]


async def test_14_a_queued_answer_keeps_the_old_state_and_is_resubmitted_within_the_inline_limit(
    settings: Settings,
) -> None:
    def is_running(sent: dict[str, Any]) -> bool:
        return sent["state"].is_running()

    recorded = Recorded(one_task(), settings)
    recorded.faulty.answer("set_task_run_state", Queued(start_time=now() + 30 * SECOND), where=is_running)
    state = await recorded.run()
    assert state.is_successful()
    assert [kind for kind, _ in recorded.sent()] == [Running, Running, Success]
    assert anyio.current_time() == 30

    recorded = Recorded(one_task(), settings)
    recorded.faulty.answer("set_task_run_state", Queued(start_time=now() + HOUR), where=is_running)
    state = await recorded.run()
    assert not state.is_finished()
    (queued,) = state.result.values()
    assert type(queued) is Queued
    assert type(queued.state) is Pending
    assert [kind for kind, _ in recorded.sent()] == [Running]


async def test_15_an_inline_retry_has_the_same_cutoff(settings: Settings) -> None:
    async def flaky() -> None:
        if context.task_run_count == 1:
            raise ValueError

    for delay, kind in [(60, Success), (61, Retrying)]:
        with Flow("cutoff") as flow:
            made: Any = task(flaky, max_retries=1, retry_delay=delay)()
        assert type((await FlowRunner(flow).run()).result[made]) is kind
        assert type((await Recorded(flow, settings).run()).result[made]) is kind


async def test_16_which_state_which_context_and_which_parameters_win(settings: Settings) -> None:
    @task
    async def look(p: Any, q: Any) -> Any:
        return p, q, context.get("mine")

    with Flow("precedence") as flow:
        made: Any = look(Parameter("p"), Parameter("q"))
    recorded = Recorded(flow, settings)
    flow_run_id = await create_flow_run(
        flow, recorded.backend, {"p": "backend", "q": "backend"}, settings=settings, context={"mine": "backend"}
    )
    given = {"flow_run_id": flow_run_id, "mine": "caller"}
    state = await recorded.run(parameters={"p": "caller"}, context=given)
    assert state.result[made].result == ("caller", "backend", "backend")
    # the flow run is recorded as finished by now; an explicit state beats that
    assert (await recorded.run(context=given)).is_finished()
    later = Scheduled(start_time=now() + DAY)
    assert await recorded.run(state=later, context=given) is later


# -- loops and retries ---------------------------------------------------------------------------------


@task(max_retries=1, retry_delay=HOUR)
async def loops() -> int:
    count: int = context.get("task_loop_count", 1)
    if count == 2 and context.task_run_count == 1:
        raise ValueError("once, in round two")
    if count < 3:
        raise LOOP(result=count * 10)
    result: int = context.task_loop_result
    return result


async def test_17_the_context_of_a_loop_survives_a_retry(tmp_path: Any) -> None:
    runner = TaskRunner(loops.copy(result=LocalResult(tmp_path)))
    with context(checkpointing=True):
        retrying = await runner.run()
    assert type(retrying) is Retrying
    assert retrying.cached_inputs["_loop_count"].location == "2"
    assert retrying.cached_inputs["_loop_result"].location is not None
    await anyio.sleep(3600)
    # another process has only what is stored
    retrying.cached_inputs["_loop_result"].value = None
    assert (await runner.run(retrying)).result == 20


async def test_18_a_loop_enters_the_whole_pipeline_again_and_reads_the_task_run_each_time(settings: Settings) -> None:
    entered: list[str] = []

    class Watched(TaskRunner):
        async def initialize_run(self, *args: Any) -> Any:
            entered.append("initialize_run")
            return await super().initialize_run(*args)

        async def check_task_trigger(self, *args: Any) -> State:
            entered.append("check_task_trigger")
            return await super().check_task_trigger(*args)

    @task
    async def rounds() -> None:
        if context.get("task_loop_count", 1) < 3:
            raise LOOP

    await Watched(rounds).run()
    assert entered == ["initialize_run", "check_task_trigger"] * 3
    with Flow("rounds") as flow:
        rounds()
    recorded = Recorded(flow, settings)
    await recorded.run()
    # what was read with the flow run serves the first round
    assert len(recorded.backend.calls_of("get_task_run_info")) == 2


async def test_19_the_run_count_of_retrying_increments_on_the_next_initialize() -> None:
    runner = TaskRunner(task(nothing, max_retries=5, retry_delay=0))
    with context(task_run_count=3):
        retrying = await runner.check_for_retry(Failed(), {})
    assert retrying.run_count == 3
    _, found = await runner.initialize_run(retrying, {})
    assert found["task_run_count"] == 4


async def test_20_a_retry_signal_ignores_max_retries() -> None:
    async def again() -> int:
        if context.task_run_count < 5:
            raise RETRY(start_time=now())
        return context.task_run_count

    assert (await TaskRunner(task(again)).run()).result == 5
    assert (await TaskRunner(task(again, max_retries=1, retry_delay=0)).run()).result == 5


# -- mapping -------------------------------------------------------------------------------------------


async def test_21_a_mapped_parent_skips_its_trigger_and_children_evaluate_their_own() -> None:
    asked: list[Any] = []

    def trigger(states: Any) -> bool:
        asked.append(context.get("map_index"))
        return True

    with Flow("triggers") as flow:
        task(lambda n: n, name="mapped", trigger=trigger).map([1, 2, 3])
    await FlowRunner(flow).run()
    assert sorted(asked) == [0, 1, 2]


def test_22_a_reduce_sees_the_children_for_trigger_skip_and_finished_checks_but_not_on_mapped_edges() -> None:
    from flowloop.engine._run import rules

    state = Pending()
    failed, skipped, waiting = (Mapped(map_states=[Success(), one]) for one in (Failed(), Skipped(), Pending()))
    with pytest.raises(TRIGGERFAIL):
        triggers.all_successful(up(failed))
    with pytest.raises(ENDRUN):
        rules.upstream_skipped(state, up(skipped), True)
    with pytest.raises(ENDRUN):
        rules.upstream_finished(state, up(waiting))
    assert rules.upstream_skipped(state, up(skipped, mapped=True), True) is state
    assert rules.upstream_finished(state, up(waiting, mapped=True)) is state


async def test_23_mapping_zips_to_the_shortest_and_a_mapped_state_regenerates_its_children() -> None:
    with Flow("zipped") as flow:
        made: Any = task(lambda x, y: x + y, name="adds").map([1, 2, 3], [10, 20])
    state = await FlowRunner(flow).run()
    assert state.result[made].result == [11, 22]
    again = await FlowRunner(flow).run(task_states={made: Mapped(n_map_states=2)})
    assert again.result[made].result == [11, 22]


async def test_24_flatten_passes_non_iterables_through_and_preserves_failed_and_skipped_children() -> None:
    @task
    async def shapes(n: int) -> Any:
        if n == 1:
            raise ValueError
        if n == 2:
            raise SKIP
        return n if n == 3 else [n, n]

    @task
    async def same(n: Any) -> Any:
        return n

    with Flow("flat") as flow:
        made: Any = same.map(flatten(shapes.map([0, 1, 2, 3])))
    children = (await FlowRunner(flow).run()).result[made].map_states
    assert [type(child) for child in children] == [Success, Success, TriggerFailed, Skipped, Success]
    assert [child.result for child in children if child.is_successful() and not child.is_skipped()] == [0, 0, 3]


# -- skips, targets, results ---------------------------------------------------------------------------


async def test_25_the_skip_check_precedes_the_trigger_and_skip_counts_as_success() -> None:
    asked: list[int] = []

    def trigger(states: Any) -> bool:
        asked.append(1)
        return True

    runner = TaskRunner(task(nothing, trigger=trigger))
    state = await runner.run(upstream_states=up(Skipped()))
    assert type(state) is Skipped
    assert state.is_successful()
    assert asked == []
    assert triggers.all_successful(up(Skipped())) is True


async def test_26_a_target_replaces_the_cache_check_and_calls_handlers(tmp_path: Any) -> None:
    changes: list[State] = []
    validated: list[int] = []

    def validator(*args: Any) -> bool:
        validated.append(1)
        return True

    stored = LocalResult(tmp_path)
    await stored.at("there").write("found")
    one = task(nothing, target="there", result=stored, cache_for=DAY, cache_validator=validator)
    one.state_handlers.append(lambda owner, old, new: changes.append(new))
    with context(caches={"nothing": [Cached(result="cached")]}):
        state = await TaskRunner(one).run()
    assert state.result == "found"
    assert changes == [state]
    assert type(state) is Cached
    assert validated == []


async def test_27_formatting_takes_parameters_before_context_before_inputs(tmp_path: Any) -> None:
    async def body(c: str) -> str:
        return c

    runner = TaskRunner(task(body, result=LocalResult(tmp_path, location="{a}-{b}-{c}")), constants={"c": "input"})
    given = dict.fromkeys("abc", "parameter")
    with context(parameters=given, b="context", c="context", checkpointing=True):
        state = await runner.run()
    assert state._result.location == str(tmp_path / "parameter-context-input")


async def test_28_a_checkpoint_needs_three_things_and_the_location_of_a_prefect_result_is_the_json() -> None:
    async def body(value: Any) -> Any:
        return value

    async def location(flag: bool, wish: bool | None, value: Any) -> str | None:
        one = task(body, checkpoint=wish, result=PrefectResult())
        with context(checkpointing=flag):
            return (await TaskRunner(one, constants={"value": value}).run())._result.location

    assert await location(True, None, {"a": [1]}) == '{"a":[1]}'
    assert await location(True, True, 1) == "1"
    assert await location(False, True, 1) is None
    assert await location(True, False, 1) is None
    assert await location(True, True, None) is None


# -- the end of a flow, and a restart ------------------------------------------------------------------


async def test_29_unfinished_terminal_tasks_win_and_the_terminal_state_handler_comes_last() -> None:
    heard: list[type[State]] = []

    def handler(flow: Flow, state: State, reference: set[State]) -> State | None:
        heard.append(type(state))
        return None if state.is_running() else Success("all the same", result=state.result)

    @task
    async def fails() -> None:
        raise ValueError

    @task(max_retries=1, retry_delay=DAY)
    async def waits() -> None:
        raise ValueError

    with Flow("unfinished", terminal_state_handler=handler) as flow:
        failing: Any = fails()
        waits()
    flow.set_reference_tasks([failing])
    assert type(await FlowRunner(flow).run()) is Running
    with Flow("finished", terminal_state_handler=handler) as flow:
        fails()
    assert type(await FlowRunner(flow).run()) is Success
    assert heard == [Running, Failed]


async def test_30_finished_secrets_run_again_on_a_restart_and_cached_states_are_validated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWLOOP_SECRET__WORD", "new")
    ran: list[str] = []

    @task
    async def uses(word: str) -> str:
        ran.append(word)
        return word

    @task(cache_for=DAY, cache_validator=lambda state, inputs, parameters: state.result == "still good")
    async def dear() -> str:
        ran.append("dear")
        return "dear"

    with Flow("restart") as flow:
        secret: Any = Secret("WORD")
        used: Any = uses(secret)
        good, bad = dear(), dear()
    states = {
        secret: Success(result=NoResult),
        good: Cached(result="still good"),
        bad: Cached(result="stale"),
    }
    state = await FlowRunner(flow).run(task_states=states)
    assert state.result[used].result == "new"
    assert sorted(ran) == ["dear", "new"]
    assert [state.result[one].result for one in (good, bad)] == ["still good", "dear"]
