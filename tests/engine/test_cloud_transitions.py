"""What the cloud runners record, and what they do when the backend has something else to say."""

import asyncio
import datetime
import re
import threading

import anyio
import pytest

from flowloop.engine import Flow, Parameter, context, task
from flowloop.engine.cloud import CloudFlowRunner, CloudTaskRunner, create_flow_run
from flowloop.engine.errors import BackendRejected, BackendUnavailable, UpstreamRefused, VersionLockMismatch
from flowloop.engine.executors import Needs
from flowloop.engine.results import LocalResult, PrefectResult
from flowloop.engine.serialization import decode_state
from flowloop.engine.signals import ENDRUN, LOOP, PAUSE, SKIP, SUCCESS
from flowloop.engine.state import (
    Cancelled,
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
    TimedOut,
    TriggerFailed,
)
from flowloop.engine.testing import FaultyBackend, RecordingBackend

pytestmark = pytest.mark.virtual_time


def now():
    return asyncio.get_running_loop().clock.now()


def at():
    return asyncio.get_running_loop().time()


def names(states):
    return [type(state).__name__ for state in states]


class One:
    """A flow of one task, and of one that comes after it."""

    def __init__(self, body=None, **options):
        self.ran = []

        @task(name="first", **options)
        async def first():
            self.ran.append(context.task_run_count)
            return await body() if body else "made"

        @task(name="second")
        async def second(given):
            self.ran.append(given)
            return given

        with Flow("one") as self.flow:
            self.first = first()
            self.second = second(self.first)

    async def run(self, backend, settings, **kwargs):
        flow_run_id = kwargs.pop("flow_run_id", None) or await create_flow_run(self.flow, backend, settings=settings)
        runner = CloudFlowRunner(self.flow, backend=backend, settings=settings, **kwargs.pop("options", {}))
        return await runner.run(context={"flow_run_id": flow_run_id, **kwargs.pop("context", {})}, **kwargs)


async def histories(backend):
    [newest] = await backend.list_flow_runs(1)
    _, task_runs = await backend.get_flow_run_history(newest.id)
    return {run.task_slug: [one.state for one in run.states] for run in task_runs}


def of_task(name):
    """Select the calls about a state of one task."""
    return lambda sent: context.task_name == name


def running(name):
    return lambda sent: context.task_name == name and sent["state"].is_running()


# -- reading ---------------------------------------------------------------------------------------------


async def test_one_read_serves_all_tasks_and_one_more_all_children(memory, settings):
    @task
    async def numbers():
        return [1, 2, 3]

    @task
    async def double(n):
        return 2 * n

    with Flow("mapped") as flow:
        double.map(double.map(numbers()))
    backend = RecordingBackend(memory)
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run(context={"flow_run_id": flow_run_id})
    assert state.is_successful()
    assert len(backend.calls_of("get_flow_run_info")) == 1
    assert len(backend.calls_of("get_task_run_info")) == 0
    assert [list(call.arguments["map_indices"]) for call in backend.calls_of("get_task_run_infos")] == [[0, 1, 2]] * 2


@pytest.mark.parametrize(("values", "ended"), [([], Mapped), (7, Failed)])
async def test_where_there_are_no_children_none_are_asked_for(memory, settings, values, ended):
    async def give():
        return values

    with Flow("mapped") as flow:
        done = task(lambda n: n, name="child").map(task(give)())
    backend = RecordingBackend(memory)
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
    assert type(state.result[done]) is ended
    assert ended is Mapped or "Cannot map over the result of task 'give'" in state.result[done].message
    assert backend.calls_of("get_task_run_infos") == []


async def test_a_task_runner_that_was_given_no_backend_takes_that_of_its_flow_run(memory, settings):
    class Own(CloudFlowRunner):
        def task_runner(self, task, state_handlers):
            return CloudTaskRunner(task, state_handlers, settings=settings)

    with Flow("own") as flow:
        done = task(lambda: 7, name="seven")()
    runner = Own(flow, backend=memory, settings=settings)
    assert (await runner.run()).result[done].result == 7
    [info] = (await memory.get_flow_run_info(runner.flow_run_id)).task_runs
    assert type(info.state) is Success


async def test_a_run_that_is_not_told_which_registers_the_flow_and_creates_one(memory, settings):
    one = One()
    state = await CloudFlowRunner(one.flow, backend=memory, settings=settings).run()
    again = await CloudFlowRunner(one.flow, backend=memory, settings=settings).run()
    assert state.is_successful()
    assert again.is_successful()
    runs = await memory.list_flow_runs()
    assert [(run.flow_name, run.state) for run in runs] == [("one", "Success")] * 2
    assert {(await memory.get_flow_run_info(run.id)).flow_id for run in runs} == {
        (await memory.get_flow_run_info(runs[0].id)).flow_id
    }


async def test_what_was_recorded_of_the_run_is_in_its_context(memory, settings):
    seen = {}

    @task
    async def look():
        seen.update(context.to_dict())

    with Flow("context") as flow:
        Parameter("a", default=1)
        Parameter("b", default=1)
        flow.add_task(look)
    flow_run_id = await create_flow_run(
        flow, memory, {"a": 2, "b": 2}, settings=settings, name="named", context={"x": "backend", "y": "backend"}
    )
    await CloudFlowRunner(flow, backend=memory, settings=settings).run(
        parameters={"b": 3}, context={"flow_run_id": flow_run_id, "y": "caller", "z": "caller"}
    )
    assert seen["parameters"] == {"a": 2, "b": 3}
    assert (seen["x"], seen["y"], seen["z"]) == ("backend", "backend", "caller")
    info = await memory.get_flow_run_info(flow_run_id)
    assert (seen["flow_run_id"], seen["flow_run_name"], seen["flow_id"]) == (flow_run_id, "named", info.flow_id)
    assert (seen["project_name"], seen["checkpointing"], seen["running_with_backend"]) == ("default", True, True)
    assert seen["scheduled_start_time"] == info.scheduled_start_time
    [look_run] = [run for run in info.task_runs if run.task_slug == "look-1"]
    assert (seen["task_run_id"], seen["task_id"]) == (look_run.id, look_run.task_id)


async def test_a_state_that_is_given_wins_over_the_recorded_one(memory, settings):
    one = One()
    later = Scheduled(start_time=now() + datetime.timedelta(days=1))
    assert await one.run(memory, settings, state=later) is later
    state = await one.run(memory, settings, task_states={one.first: Success(result="given")})
    assert one.ran == ["given"]
    assert state.is_successful()


async def test_a_submitted_run_begins(memory, settings):
    one = One()
    flow_run_id = await create_flow_run(one.flow, memory, settings=settings)
    recorded = await memory.get_flow_run_state(flow_run_id)
    await memory.set_flow_run_state(flow_run_id, None, Submitted(state=recorded))
    assert (await one.run(memory, settings, flow_run_id=flow_run_id)).is_successful()


async def test_a_run_before_its_time_does_not_begin(memory, settings):
    one = One()
    flow_run_id = await create_flow_run(
        one.flow, memory, settings=settings, scheduled_start_time=now() + datetime.timedelta(hours=1)
    )
    state = await one.run(memory, settings, flow_run_id=flow_run_id)
    assert type(state) is Scheduled
    assert one.ran == []
    assert (await memory.get_flow_run_info(flow_run_id)).version == 1


@pytest.mark.parametrize("final", [Success, Failed, Cancelled])
async def test_a_finished_run_is_not_run_again(memory, settings, final):
    one = One()
    flow_run_id = await create_flow_run(one.flow, memory, settings=settings)
    await memory.set_flow_run_state(flow_run_id, None, final())
    assert type(await one.run(memory, settings, flow_run_id=flow_run_id)) is final
    assert one.ran == []


@pytest.mark.parametrize("error", [BackendUnavailable("away"), BackendRejected("away")])
@pytest.mark.parametrize("state", [None, Scheduled("given")])
async def test_a_flow_run_that_cannot_be_read_does_not_begin_and_its_caller_hears_how_to_go_on(
    memory, settings, error, state
):
    backend = FaultyBackend(memory)
    backend.fail("get_flow_run_info", error)
    one = One()
    flow_run_id = await create_flow_run(one.flow, memory, settings=settings)
    with pytest.raises(type(error), match=rf"flow run {flow_run_id} .*away.* run it again with context="):
        await one.run(backend, settings, flow_run_id=flow_run_id, state=state)
    assert one.ran == []
    assert (await memory.get_flow_run_info(flow_run_id)).owner is None
    assert (await one.run(backend, settings, flow_run_id=flow_run_id)).is_successful()


@pytest.mark.parametrize("given", [None, Scheduled("given")])
async def test_the_step_that_cannot_read_a_flow_run_ends_with_the_given_state_or_failed(memory, settings, given):
    backend = FaultyBackend(memory)
    backend.fail("get_flow_run_info", BackendUnavailable("away"))
    runner = CloudFlowRunner(One().flow, backend=backend, settings=settings)
    with context(flow_run_id="a run"), pytest.raises(ENDRUN) as ended:
        await runner.initialize_run(given)
    if given is None:
        assert type(ended.value.state) is Failed
        assert "away" in ended.value.state.message
    else:
        assert ended.value.state is given


async def test_a_task_that_is_not_registered_fails_with_the_remedy(memory, settings):
    one = One()
    flow_run_id = await create_flow_run(one.flow, memory, settings=settings)

    @task
    async def new():
        raise AssertionError("it has no task run to record this in")

    one.flow.add_task(new)
    runner = CloudFlowRunner(one.flow, backend=memory, settings=settings)
    state = await runner.run(context={"flow_run_id": flow_run_id})
    assert "register it again" in state.result[new].message
    assert state.result[one.second].is_successful()


# -- recording -------------------------------------------------------------------------------------------


async def test_each_state_goes_with_the_version_before_it(memory, settings):
    async def twice():
        if context.task_run_count == 1:
            raise ValueError("once")

    backend = RecordingBackend(memory)
    await One(twice, max_retries=1, retry_delay=5).run(backend, settings)
    sent = [
        (call.arguments["version"], type(call.arguments["state"]).__name__)
        for call in backend.calls_of("set_task_run_state")
    ]
    assert sent[:5] == [(1, "Running"), (2, "Failed"), (3, "Retrying"), (4, "Running"), (5, "Success")]
    sent = [
        (call.arguments["version"], type(call.arguments["state"])) for call in backend.calls_of("set_flow_run_state")
    ]
    assert sent == [(1, Running), (2, Success)]


async def skip():
    raise SKIP("no need")


async def pause():
    raise PAUSE("wait for me")


async def fail():
    raise ValueError("no")


@pytest.mark.parametrize(
    ("body", "first", "second", "flow"),
    [
        (None, ["Running", "Success"], ["Running", "Success"], Success),
        (fail, ["Running", "Failed"], ["TriggerFailed"], Failed),
        (skip, ["Running", "Skipped"], ["Skipped"], Success),
        (pause, ["Running", "Paused"], [], Paused),
    ],
)
async def test_what_is_recorded_of_each_outcome(memory, settings, body, first, second, flow):
    state = await One(body).run(memory, settings)
    assert await histories(memory) == {"first-1": ["Pending", *first], "second-1": ["Pending", *second]}
    assert type(state) is flow
    [run] = await memory.list_flow_runs()
    assert run.state == flow.__name__


async def test_the_rounds_of_a_loop_are_recorded_and_each_reads_its_run_anew(memory, settings):
    async def loop():
        if context.get("task_loop_count", 1) < 3:
            raise LOOP(result=context.get("task_loop_count", 1))
        return context.task_loop_result

    backend = RecordingBackend(memory)
    one = One(loop)
    state = await one.run(backend, settings)
    assert state.result[one.second].result == 2
    assert (await histories(memory))["first-1"] == [
        *("Pending", "Running", "Looped", "Running", "Looped", "Running", "Success")
    ]
    assert len(backend.calls_of("get_task_run_info")) == 2


async def test_results_are_stored_and_flows_do_not_carry_those_of_their_tasks(memory, settings):
    backend = RecordingBackend(memory)
    one = One()
    state = await one.run(backend, settings)
    assert state.result[one.first].result == "made"
    [final] = [call.arguments["state"] for call in backend.calls_of("set_flow_run_state")][-1:]
    assert final.result is None
    [success] = [
        call.arguments["state"]
        for call in backend.calls_of("set_task_run_state")
        if type(call.arguments["state"]) is Success and call.arguments["state"].result == "made"
    ][:1]
    assert (await decode_state(success.serialize()).load_result()).result == "made"


async def test_handlers_come_before_the_record_and_may_change_it(memory, settings):
    order = []

    def replaced(task, old, new):
        order.append(f"task {type(new).__name__}")
        return Success("replaced", result="other") if new.is_successful() else None

    def seen(runner, old, new):
        order.append(f"runner {type(new).__name__}")

    one = One(state_handlers=[replaced])
    flow_run_id = await create_flow_run(one.flow, memory, settings=settings)
    state = await one.run(memory, settings, flow_run_id=flow_run_id, task_runner_state_handlers=[seen])
    assert order[:4] == ["task Running", "runner Running", "task Success", "runner Success"]
    assert state.result[one.first].result == "other"
    info = await memory.get_flow_run_info(flow_run_id)
    assert "replaced" in {run.state.message for run in info.task_runs}


async def test_a_state_that_cannot_be_recorded_is_replaced_by_a_small_failed_one_that_says_why(
    memory, settings, caplog
):
    backend = FaultyBackend(memory)
    backend.fail("set_task_run_state", BackendRejected("no room"), where=of_task("first"), nth=2)
    one = One()
    state = await one.run(backend, settings)
    failed = state.result[one.first]
    assert type(failed) is Failed
    assert failed.message == "The state Success could not be recorded: no room"
    assert re.search("the state of task run [0-9a-f-]+ could not be recorded: no room", caplog.text)
    assert [type(state), type(state.result[one.second])] == [Failed, TriggerFailed]
    assert (await histories(memory))["first-1"] == ["Pending", "Running", "Failed"]


async def test_if_that_is_refused_too_the_run_is_client_failed_and_the_flow_run_says_so(memory, settings):
    backend = FaultyBackend(memory)
    is_over = lambda sent: sent["state"].is_finished() and of_task("first")(sent)  # noqa: E731
    backend.fail("set_task_run_state", BackendRejected("no room"), where=is_over, times=None)
    one = One()
    state = await one.run(backend, settings)
    failed = state.result[one.first]
    assert type(failed) is ClientFailed
    assert type(failed.state) is Success
    assert failed.state.result == "made"
    assert "no room" in failed.message
    assert type(state.result[one.second]) is Cancelled
    assert (type(state), state.message) == (Failed, "States of these tasks could not be recorded: 'first'.")
    assert (await histories(memory))["first-1"] == ["Pending", "Running", "Cancelled"]
    [run] = await memory.list_flow_runs()
    assert (run.state, run.state_message) == ("Failed", state.message)


async def test_an_end_of_a_flow_run_that_is_refused_is_replaced_by_a_small_failed_one(memory, settings, caplog):
    backend = FaultyBackend(memory)
    is_over = lambda sent: sent["state"].is_finished()  # noqa: E731
    backend.fail("set_flow_run_state", BackendRejected("no room"), where=is_over)
    one = One()
    state = await one.run(backend, settings)
    assert type(state) is Failed
    assert state.result[one.second].is_successful()
    [run] = await memory.list_flow_runs()
    assert run.state == "Failed"
    assert "could not be recorded: no room" in caplog.text


async def test_a_flow_run_that_may_not_begin_has_failed_and_is_nobodys(memory, settings):
    backend = FaultyBackend(memory)
    backend.fail("set_flow_run_state", BackendRejected("not here"))
    one = One()
    state = await one.run(backend, settings)
    assert (type(state), state.message) == (Failed, "The state Running could not be recorded: not here")
    assert one.ran == []
    [run] = await memory.list_flow_runs()
    assert run.state == "Failed"
    assert (await memory.get_flow_run_info(run.id)).owner is None


@pytest.mark.parametrize("operation", ["set_task_run_state", "set_flow_run_state"])
async def test_what_is_refused_as_if_it_rested_on_another_state_is_not_sent_for_ever(memory, settings, operation):
    backend = FaultyBackend(memory)
    is_success = lambda sent: isinstance(sent["state"], Success)  # noqa: E731
    backend.fail(operation, UpstreamRefused("that was refused"), where=is_success, times=None)
    state = await One().run(backend, settings)
    assert type(state) is Failed
    assert "that was refused" in state.message
    [run] = await memory.list_flow_runs()
    assert run.state == "Failed"


@pytest.mark.parametrize(
    ("operation", "kind"),
    [("set_task_run_state", Running), ("set_flow_run_state", Success), ("set_task_run_state", Success)],
)
async def test_what_is_refused_as_too_late_though_nothing_came_before_it_ends_the_run(
    memory, settings, operation, kind
):
    backend = FaultyBackend(memory)
    is_kind = lambda sent: isinstance(sent["state"], kind)  # noqa: E731
    backend.fail(operation, VersionLockMismatch("it has moved"), where=is_kind, times=None)
    state = await One().run(backend, settings)
    assert type(state) is Failed
    [run] = await memory.list_flow_runs()
    assert run.state == "Failed"


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("set_flow_run_state", Running),
        ("set_flow_run_state", Success),
        ("set_task_run_state", Running),
        ("set_task_run_state", Success),
    ],
)
async def test_what_is_refused_once_as_too_late_though_nothing_came_before_it_is_recorded(
    backend, settings, operation, kind
):
    faulty = FaultyBackend(backend)
    is_kind = lambda sent: isinstance(sent["state"], kind)  # noqa: E731
    faulty.fail(operation, VersionLockMismatch("it has moved"), where=is_kind)
    one = One()
    state = await one.run(faulty, settings)
    assert type(state) is Success
    assert one.ran == [1, "made"]
    assert set(map(tuple, (await histories(backend)).values())) == {("Pending", "Running", "Success")}
    [run] = await backend.list_flow_runs()
    assert run.state == "Success"


async def fail_once():
    if context.task_run_count == 1:
        raise ValueError("once")


async def loop_once():
    if context.get("task_loop_count", 1) == 1:
        raise LOOP("again")


async def pause():
    raise PAUSE("wait")


@pytest.mark.parametrize(
    ("kind", "body", "ends", "last"),
    [
        (Running, None, Success, "Success"),
        (Looped, loop_once, Success, "Success"),
        (Failed, fail_once, Scheduled, "Retrying"),
        (Retrying, fail_once, Scheduled, "Retrying"),
        (Paused, pause, Paused, "Paused"),
    ],
)
async def test_what_was_recorded_and_is_answered_as_too_late_is_gone_on_from(backend, settings, kind, body, ends, last):
    faulty = FaultyBackend(backend)
    is_kind = lambda sent: type(sent["state"]) is kind and context.task_name == "first"  # noqa: E731
    faulty.fail("set_task_run_state", VersionLockMismatch("it has moved"), where=is_kind, after=True)
    one = One(body, **({"max_retries": 1, "retry_delay": 3600} if body is fail_once else {}))
    state = await one.run(faulty, settings)
    recorded = (await histories(backend))["first-1"]
    [run] = await backend.list_flow_runs()
    assert [type(state), run.state, recorded[-1]] == [ends, ends.__name__, last]


@pytest.mark.parametrize("error", [VersionLockMismatch, BackendRejected])
@pytest.mark.parametrize("operation", ["set_flow_run_state", "set_task_run_state"])
async def test_a_beginning_that_was_recorded_and_is_answered_as_refused_ends_as_it_is_recorded(
    backend, settings, operation, error
):
    faulty = FaultyBackend(backend)
    faulty.fail(operation, error("no"), where=lambda sent: sent["state"].is_running(), after=True)
    one = One()
    state = await one.run(faulty, settings)
    [run] = await backend.list_flow_runs()
    assert run.state == type(state).__name__ == ("Success" if error is VersionLockMismatch else "Failed")
    assert (await backend.get_flow_run_info(run.id)).owner is None
    if operation == "set_task_run_state":
        recorded = (await histories(backend))["first-1"]
        assert recorded[-1] == type(state.result[one.first]).__name__


async def test_a_round_is_told_and_what_it_means_if_its_result_cannot_be_stored(memory, settings, caplog):
    async def rounds():
        if context.get("task_loop_count", 1) == 1:
            raise LOOP(result=threading.Lock())
        return "over"

    one = One(rounds)
    state = await one.run(memory, settings)
    assert state.result[one.first].result == "over"
    [run] = await memory.list_flow_runs()
    _, task_runs = await memory.get_flow_run_history(run.id)
    assert "Task is looping (round 1)." in {one.message for run in task_runs for one in run.states}
    said = "what round 1 of task 'first' left cannot be stored: "
    assert [line for line in caplog.messages if line.startswith(said) and line.endswith("it loops from the beginning")]


async def test_a_message_too_large_to_record_is_cut_and_its_length_noted(backend, settings):
    async def fail_long():
        raise ValueError("x" * 2_000_000)

    one = One(fail_long, max_retries=1, retry_delay=1)
    state = await one.run(backend, settings)
    failed = state.result[one.first]
    assert type(failed) is Failed
    assert failed.message.startswith("Error during execution of task: ValueError('xxx")
    assert "characters) (the state could not be recorded whole: State payload is too large" in failed.message
    assert len(failed.message) < 12_000
    assert (await histories(backend))["first-1"] == ["Pending", "Running", "Failed", "Retrying", "Running", "Failed"]
    [run] = await backend.list_flow_runs()
    assert run.state == "Failed"


@pytest.mark.parametrize(
    ("message", "kind"), [("x" * 2_000_000, Cancelled), ("x" * 2_000_000, TimedOut), ("x" * 2_000_000, Skipped)]
)
async def test_what_a_run_ended_as_it_stays(backend, settings, message, kind):
    """Only a success is none any more: its result is nowhere."""

    def ends(task, old, new):
        return kind(message) if new.is_successful() else None

    one = One(state_handlers=[ends])
    state = await one.run(backend, settings)
    kept = kind if kind is not Skipped else Failed
    assert type(state.result[one.first]) is kept
    assert (await histories(backend))["first-1"][-1] == kept.__name__


async def test_a_large_parameter_lies_with_its_run_and_not_in_a_state(backend, settings):
    ran = []

    @task(max_retries=1, retry_delay=3600)
    async def later(value):
        ran.append(len(value))
        if len(ran) == 1:
            raise ValueError("the first time")

    with Flow("large") as flow:
        value = Parameter("value")
        later(value)
    flow_run_id = await create_flow_run(flow, backend, {"value": "x" * 1_200_000}, settings=settings)

    async def run():
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        return await runner.run(context={"flow_run_id": flow_run_id})

    assert not (await run()).is_finished()
    await anyio.sleep(3601)
    state = await run()
    assert state.is_successful()
    assert ran == [1_200_000] * 2
    assert (await histories(backend))["value"] == ["Pending", "Running", "Success"]


# -- outages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("set_task_run_state", lambda sent: sent["state"].is_running()),
        ("set_task_run_state", lambda sent: sent["state"].is_finished()),
        ("set_flow_run_state", lambda sent: sent["state"].is_running()),
        ("set_flow_run_state", lambda sent: sent["state"].is_finished()),
        ("get_task_run_infos", None),
    ],
)
async def test_an_outage_longer_than_the_patience_leaves_the_run_to_another_process(memory, settings, method, where):
    ran = []

    @task
    async def one(n):
        ran.append(n)
        return n

    @task
    async def numbers():
        return [1, 2]

    with Flow("outage") as flow:
        one.map(numbers())
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    backend = FaultyBackend(memory)
    backend.fail(method, BackendUnavailable("the wire is cut"), where=where, times=1)
    with pytest.raises(
        BackendUnavailable, match=rf"flow run {flow_run_id} was left unfinished.*the wire is cut.*run it"
    ):
        await CloudFlowRunner(flow, backend=backend, settings=settings).run(context={"flow_run_id": flow_run_id})
    sent = backend.counts["set_flow_run_state"]
    assert sent == (1 if method != "set_flow_run_state" or where is None else sent), "nothing more is recorded"
    assert not (await memory.get_flow_run_state(flow_run_id)).is_finished()
    runner = CloudFlowRunner(flow, backend=memory, settings=settings, takeover=True)
    assert (await runner.run(context={"flow_run_id": flow_run_id})).is_successful()
    assert {1, 2} == set(ran)
    assert type(await memory.get_flow_run_state(flow_run_id)) is Success


# -- version locks ---------------------------------------------------------------------------------------


class Meddling(FaultyBackend):
    """Lets somebody else move a run just before one of its states arrives."""

    def __init__(self, backend, kind, where, *states):
        super().__init__(backend)
        self._kind, self._where, self._states = kind, where, list(states)

    async def _called(self, call, args, kwargs):
        if call.method == f"set_{self._kind}_run_state" and self._states and self._where(call.arguments):
            run_id = call.arguments[f"{self._kind}_run_id"]
            states, self._states = self._states, []
            for state in states:
                await getattr(self.backend, call.method)(run_id, None, state, epoch=kwargs["epoch"])
        return await super()._called(call, args, kwargs)


async def test_a_task_that_runs_elsewhere_is_left_alone(memory, settings):
    one = One()
    backend = Meddling(memory, "task", running("first"), Running("elsewhere"))
    state = await one.run(backend, settings)
    assert one.ran == []
    assert (type(state.result[one.first]), state.result[one.first].message) == (Running, "elsewhere")
    assert type(state.result[one.second]) is Pending
    assert type(state) is Running


@pytest.mark.parametrize("between", [Looped(), Failed(context={"retry_follows_attempt": 1})])
async def test_one_that_is_between_two_rounds_elsewhere_runs_elsewhere(memory, settings, between):
    one = One()
    backend = Meddling(memory, "task", running("first"), Running(), between)
    state = await one.run(backend, settings)
    assert one.ran == []
    assert type(state.result[one.first]) is Running
    assert type(state.result[one.second]) is Pending


async def test_what_somebody_else_finished_is_gone_on_with_and_its_result_read(memory, settings):
    one = One()
    result = await CloudTaskRunner(one.first, settings=settings).result.write("theirs")
    backend = Meddling(memory, "task", running("first"), Running(), Success("done elsewhere", result=result))
    state = await one.run(backend, settings)
    assert state.is_successful()
    assert one.ran == ["theirs"]


async def test_where_the_result_of_somebody_else_cannot_be_read_the_run_ends_as_client_failed(memory, settings):
    from flowloop.engine.results import LocalResult

    one = One()
    lost = LocalResult(dir=settings.results_dir, location="nowhere")
    backend = Meddling(memory, "task", running("first"), Running(), Success(result=lost))
    state = await one.run(backend, settings)
    assert type(state.result[one.first]) is ClientFailed
    assert "nowhere" in state.result[one.first].message


async def test_a_straggler_cannot_overwrite_what_its_successor_wrote(memory, settings):
    one = One()
    result = await CloudTaskRunner(one.first, settings=settings).result.write("theirs")
    finished = Meddling(memory, "task", lambda sent: context.task_name == "first" and sent["state"].is_finished(),
                        Running("again"), Success("the successor's", result=result))  # fmt: skip
    state = await one.run(finished, settings)
    assert one.ran == [1, "theirs"]
    assert state.result[one.first].message == "the successor's"
    assert (await histories(memory))["first-1"] == ["Pending", "Running", "Running", "Success"]


async def test_a_task_that_somebody_has_set_back_meanwhile_begins_all_the_same(memory, settings):
    one = One()
    state = await one.run(Meddling(memory, "task", running("first"), Pending("by hand")), settings)
    assert state.is_successful()
    assert one.ran == [1, "made"]
    assert (await histories(memory))["first-1"] == ["Pending", "Pending", "Running", "Success"]


@pytest.mark.parametrize(
    ("moved", "ends", "first"), [("cancelled", Cancelled, Cancelled), ("scheduled by hand", Scheduled, Pending)]
)
async def test_a_task_that_is_set_back_with_its_flow_run_ends_for_that_cause(memory, settings, moved, ends, first):
    class Moved(Meddling):
        async def get_task_run_state(self, task_run_id):
            [newest] = await memory.list_flow_runs(1)
            if moved == "cancelled":
                await memory.cancel_flow_run(newest.id)
            else:
                await memory.set_flow_run_state(newest.id, None, Scheduled(moved))
            return await super().get_task_run_state(task_run_id)

        def watch_flow_run(self, flow_run_id):
            return None

    one = One()
    state = await one.run(Moved(memory, "task", running("first"), Pending("by hand")), settings)
    assert one.ran == []
    assert [type(state), type(state.result[one.first])] == [ends, first]
    assert state.context.get("cause") == ("user" if moved == "cancelled" else None)
    [newest] = await memory.list_flow_runs(1)
    assert newest.state == ends.__name__


async def test_a_flow_run_that_runs_elsewhere_is_left_alone(memory, settings):
    one = One()
    backend = Meddling(memory, "flow", lambda sent: sent["state"].is_running(), Running("elsewhere"))
    state = await one.run(backend, settings)
    assert (type(state), state.message) == (Running, "elsewhere")
    assert one.ran == []


async def test_the_end_that_somebody_else_recorded_for_a_flow_run_stands(memory, settings):
    one = One()
    backend = Meddling(memory, "flow", lambda sent: sent["state"].is_running(), Failed("by hand"))
    state = await one.run(backend, settings)
    assert (type(state), state.message) == (Failed, "by hand")
    assert one.ran == []


async def test_where_nothing_can_be_read_after_a_mismatch_the_run_ends(memory, settings):
    backend = FaultyBackend(memory)
    backend.fail("set_task_run_state", VersionLockMismatch("moved"), where=of_task("first"))
    backend.fail("get_task_run_state", BackendRejected("cannot be read"))
    one = One()
    state = await one.run(backend, settings)
    assert type(state.result[one.first]) is ClientFailed
    assert one.ran == []


# -- queued ----------------------------------------------------------------------------------------------


def queued(seconds):
    return Queued("no room", start_time=now() + datetime.timedelta(seconds=seconds))


async def test_a_queued_task_asks_again_when_its_time_has_come(memory, settings):
    memory.task_tag_limits["slot"] = 1
    order = []

    def worker(name):
        @task(name=name, tags=["slot"])
        async def work():
            order.append((name, at()))
            await anyio.sleep(10)

        return work

    with Flow("two") as flow:
        worker("a")()
        worker("b")()
    state = await CloudFlowRunner(flow, backend=memory, settings=settings).run()
    assert state.is_successful()
    (first, began), (second, waited) = order
    assert {first, second} == {"a", "b"}
    assert began == pytest.approx(0, abs=0.1)
    assert 10 <= waited < 12, "the place lies idle for a moment only"
    once, often = sorted((await histories(memory)).values(), key=len)
    assert once == ["Pending", "Running", "Success"]
    assert [state for state in often if state != "Queued"] == once


async def test_queued_tasks_have_their_turn_by_their_priority(memory, settings):
    memory.task_tag_limits["slot"] = 1
    order = []

    def worker(name, priority=0):
        @task(name=name, tags=["slot"], needs=Needs(priority=priority))
        async def work():
            order.append((name, round(at())))
            await anyio.sleep(10)

        return work()

    @task
    async def later():
        await anyio.sleep(1)

    with Flow("held") as flow:
        worker("first")
        waits = later()
        for name, priority in [("low", -1), ("plain", 0), ("urgent", 7)]:
            worker(name, priority).set_upstream(waits)
    assert (await CloudFlowRunner(flow, backend=memory, settings=settings).run()).is_successful()
    assert [name for name, _ in order] == ["first", "urgent", "plain", "low"]
    began = dict(order)
    assert began["first"] == 0
    assert 10 <= began["urgent"] < 12
    assert 20 <= began["plain"] < 25, "it is next, and asks more often than it has to"


async def test_a_rate_of_the_backend_lets_tasks_begin_when_it_is_their_turn(memory, settings):
    await memory.set_limit("rate", "api", 2, period=10.0)
    began = []

    @task(tags=["api"])
    async def call(n):
        began.append(round(at(), 1))
        return n

    with Flow("paced") as flow:
        call.map([1, 2, 3, 4, 5])
    state = await CloudFlowRunner(flow, backend=memory, settings=settings).run()
    assert state.is_successful()
    assert began == [0, 0, 10, 10, 20]


async def test_a_queued_task_goes_on_from_the_state_it_was_in(memory, settings):
    async def flaky():
        if context.task_run_count == 1:
            raise ValueError("once")
        return context.task_run_count

    backend = FaultyBackend(memory)
    backend.answer("set_task_run_state", queued(20), where=running("first"), nth=2)
    one = One(flaky, max_retries=1, retry_delay=5)
    state = await one.run(backend, settings)
    assert state.result[one.first].result == 2
    assert at() == pytest.approx(20, abs=0.1)


async def test_a_task_that_is_queued_for_long_ends_its_run_as_not_finished(memory, settings):
    backend = FaultyBackend(memory)
    backend.answer("set_task_run_state", queued(61), where=running("first"))
    one = One()
    state = await one.run(backend, settings)
    assert type(state.result[one.first]) is Queued
    assert type(state.result[one.first].state) is Pending
    assert type(state) is Scheduled
    assert one.ran == []
    assert at() < 1


async def test_a_queued_flow_run_asks_again_when_its_time_has_come(memory, settings):
    memory.flow_run_limit = 1
    first, second = One(), One(lambda: anyio.sleep(10))
    long = asyncio.create_task(second.run(memory, settings))
    await anyio.sleep(1)
    state = await first.run(memory, settings)
    assert state.is_successful()
    assert at() == pytest.approx(1 + settings.queue_interval, abs=0.1)
    assert (await long).is_successful()


async def test_a_flow_run_that_is_queued_for_long_is_given_back(memory, settings):
    backend = FaultyBackend(memory)
    backend.answer("set_flow_run_state", queued(61))
    one = One()
    state = await one.run(backend, settings)
    assert type(state) is Queued
    assert type(state.state) is Scheduled
    assert one.ran == []


async def queued_run(memory, settings):
    """A run that waits for a place: its runner, the asyncio task of that, and the id of the flow run."""
    memory.flow_run_limit = 0
    one = One()
    flow_run_id = await create_flow_run(one.flow, memory, settings=settings)
    runner = CloudFlowRunner(one.flow, backend=memory, settings=settings)
    run = asyncio.create_task(runner.run(context={"flow_run_id": flow_run_id}))
    await anyio.sleep(1)
    assert type(await memory.get_flow_run_state(flow_run_id)) is Queued
    return runner, run, flow_run_id


async def test_a_queued_flow_run_can_be_stopped(memory, settings):
    runner, run, flow_run_id = await queued_run(memory, settings)
    runner.cancel("user")
    assert type(await run) is Cancelled
    assert at() == pytest.approx(1, abs=0.1)
    assert type(await memory.get_flow_run_state(flow_run_id)) is Cancelled


async def test_a_queued_flow_run_whose_caller_is_cancelled_ends(memory, settings):
    _, run, flow_run_id = await queued_run(memory, settings)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert type(await memory.get_flow_run_state(flow_run_id)) is Cancelled


async def test_a_queued_flow_run_can_be_handed_over(memory, settings):
    runner, run, flow_run_id = await queued_run(memory, settings)
    runner.cancel("handover")
    assert type(await run) is Queued
    assert type(await memory.get_flow_run_state(flow_run_id)) is Queued


async def test_a_flow_run_that_is_cancelled_while_it_is_queued_does_not_begin(memory, settings):
    _, run, flow_run_id = await queued_run(memory, settings)
    await memory.cancel_flow_run(flow_run_id)
    assert type(await run) is Cancelled


# -- retries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delay", "waits"), [(59, True), (60, True), (61, False), (3600, False)])
async def test_a_retry_is_waited_for_within_the_limit(memory, settings, delay, waits):
    async def flaky():
        if context.task_run_count == 1:
            raise ValueError("once")

    one = One(flaky, max_retries=1, retry_delay=delay)
    state = await one.run(memory, settings)
    if waits:
        assert state.is_successful()
        assert at() == pytest.approx(delay, abs=0.1)
    else:
        assert type(state) is Scheduled
        assert type(state.result[one.first]) is Retrying
        assert state.start_time == state.result[one.first].start_time == now() + datetime.timedelta(seconds=delay)
        assert at() < 1


async def test_a_read_error_before_a_retry_does_not_make_it_spin(memory, settings):
    async def flaky():
        if context.task_run_count == 1:
            raise ValueError("once")

    backend = FaultyBackend(memory)
    backend.fail("get_task_run_info", BackendUnavailable("away"), times=None)
    one = One(flaky, max_retries=1, retry_delay=1)
    state = await one.run(backend, settings)
    assert backend.counts["get_task_run_info"] == 1
    assert state.is_successful()
    assert one.ran == [1, 2, None]


async def test_names_of_task_runs_are_recorded_before_they_run(memory, settings):
    @task(task_run_name="double {n} of {flow_run_name}")
    async def double(n):
        return 2 * n

    with Flow("named") as flow:
        double.map([1, 2])
    backend = RecordingBackend(memory)
    flow_run_id = await create_flow_run(flow, memory, settings=settings, name="tuesday")
    await CloudFlowRunner(flow, backend=backend, settings=settings).run(context={"flow_run_id": flow_run_id})
    _, task_runs = await memory.get_flow_run_history(flow_run_id)
    named = {run.map_index: run for run in task_runs if run.task_slug == "double-1"}
    assert {index: run.name for index, run in named.items()} == {
        -1: None,
        0: "double 1 of tuesday",
        1: "double 2 of tuesday",
    }
    first = [
        call.method if call.method == "set_task_run_name" else type(call.arguments["state"]).__name__
        for call in backend.calls
        if call.arguments.get("task_run_id") == named[0].id
    ]
    assert first == ["set_task_run_name", "Running", "Success"]


# -- what cannot be read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [Pending("given"), Retrying("given"), Success("given")])
async def test_a_task_run_that_cannot_be_read_ends_with_the_state_it_was_given(memory, settings, given):
    backend = FaultyBackend(memory)
    backend.fail("get_task_run_info", BackendUnavailable("away"), times=None)
    one = One()
    known = {"flow_run_id": "a run", "task_id": "a task", "checkpointing": True}
    runner = CloudTaskRunner(one.first, settings=settings, backend=backend)
    assert await runner.run(given, context=known) is given
    assert backend.counts["get_task_run_info"] == 1
    assert one.ran == []


async def test_what_a_raised_success_carries_is_stored(backend, settings):
    async def body():
        raise SUCCESS("enough", result=[1, (2,)])

    one = One(body)
    state = await one.run(backend, settings)
    stored = state.result[one.first]
    assert (stored.message, stored.result) == ("enough", [1, (2,)])
    assert (await stored._result.read(stored._result.location)).value == [1, (2,)]


async def test_a_raised_success_without_a_value_needs_no_place(backend, settings):
    async def body():
        raise SUCCESS("enough")

    one = One(body, result=PrefectResult())
    state = await one.run(backend, settings)
    assert (type(state.result[one.first]), state.result[one.first].message) == (Success, "enough")


@pytest.mark.parametrize("error", [KeyError("moody"), RuntimeError("moody"), OSError("moody")])
async def test_an_adopted_state_whose_result_cannot_be_read_ends_the_run_here(memory, settings, tmp_path, error):
    class Moody(LocalResult):
        async def read(self, location):
            raise error

    one = One(result=Moody(tmp_path))
    flow_run_id = await create_flow_run(one.flow, memory, settings=settings)

    backend = FaultyBackend(memory)
    backend.fail("set_task_run_state", VersionLockMismatch("moved"), where=of_task("first"))
    backend.answer("get_task_run_state", Success(result=Moody(tmp_path, location="there")), where=of_task("first"))
    state = await one.run(backend, settings, flow_run_id=flow_run_id)
    assert isinstance(state.result[one.first], ClientFailed)
    assert "moody" in state.result[one.first].message
