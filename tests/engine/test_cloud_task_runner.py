"""One task run recorded by a runner that is called alone, and what goes wrong at each of its borders."""

from __future__ import annotations

import asyncio
import datetime
import gc

import anyio
import pytest

from flowloop.engine import Flow, Parameter, context, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.cloud.task_runner import CloudTaskRunner, heard
from flowloop.engine.directives import GIVEN
from flowloop.engine.edge import Edge
from flowloop.engine.errors import (
    BackendRejected,
    BackendUnavailable,
    FlowloopError,
    OwnershipLost,
    TaskRunError,
    VersionLockMismatch,
)
from flowloop.engine.result import Result
from flowloop.engine.results import LocalResult, PrefectResult
from flowloop.engine.signals import ENDRUN
from flowloop.engine.state import (
    Cancelled,
    Cancelling,
    ClientFailed,
    Failed,
    Pending,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    Success,
)
from flowloop.engine.testing import FaultyBackend, RecordingBackend
from flowloop.engine.triggers import all_finished

pytestmark = pytest.mark.virtual_time


class Alone:
    """A recorded flow run of one task, whose runner is called by itself."""

    def __init__(self, backend, settings, body=lambda: 1, **options):
        self.backend, self.settings = backend, settings
        with Flow("alone") as self.flow:
            self.task = task(body, name="one", **options)()

    async def run(self, backend=None, state=None, **given):
        """Run the task, and return its state."""
        known = await self.create()
        runner = CloudTaskRunner(self.task, backend=backend or self.backend, settings=self.settings)
        with context(**known, **given):
            return await runner.run(state)

    async def create(self):
        """Create a flow run, and return what its task has to know of it."""
        self.id = await create_flow_run(self.flow, self.backend, settings=self.settings)
        await self.backend.set_flow_run_state(self.id, None, Running())
        info = await self.backend.get_flow_run_info(self.id)
        return {"flow_run_id": self.id, "flow_run_version": info.version, "task_id": info.task_runs[0].task_id}

    async def recorded(self):
        _, [run] = await self.backend.get_flow_run_history(self.id)
        return [one.state for one in run.states], run.states[-1].message


async def test_it_is_recorded_as_in_its_flow_run(memory, settings):
    alone = Alone(memory, settings)
    assert (await alone.run()).result == 1
    assert (await alone.recorded())[0] == ["Pending", "Running", "Success"]


@pytest.mark.parametrize("error", [OwnershipLost("gone"), BackendUnavailable("away"), BackendRejected("no")])
@pytest.mark.parametrize("method", ["set_task_run_state", "get_task_run_info"])
async def test_whatever_goes_wrong_is_told_without_a_flow_run_to_stop(memory, settings, error, method):
    alone, faulty = Alone(memory, settings), FaultyBackend(memory)
    faulty.fail(method, error, times=None)
    state = await alone.run(faulty)
    assert type(state) is (Failed if method == "get_task_run_info" else ClientFailed)
    assert str(error) in state.message
    assert (await alone.recorded())[0] == ["Pending"]


async def test_a_running_that_is_refused_is_replaced_without_a_flow_run_to_look_at(memory, settings):
    alone, faulty = Alone(memory, settings), FaultyBackend(memory)
    faulty.fail("set_task_run_state", BackendRejected("not today"))
    assert type(await alone.run(faulty)) is Failed
    assert await alone.recorded() == (["Pending", "Failed"], "The state Running could not be recorded: not today")


async def test_a_runner_without_a_backend_names_the_remedy(memory, settings):
    alone = Alone(memory, settings)
    runner = CloudTaskRunner(alone.task, settings=settings)
    with context(flow_run_id="x", task_id="y"), pytest.raises(FlowloopError, match="give it one as `backend=`"):
        await runner.initialize_run()


async def test_a_task_that_is_part_of_no_flow_run_is_told_to_name_one(memory, settings):
    runner = CloudTaskRunner(Alone(memory, settings).task, backend=memory, settings=settings)
    with pytest.raises(FlowloopError, match="no flow run that task 'one' is part of: name it as `flow_run_id`"):
        await runner.initialize_run(context={})


async def test_each_runner_signs_the_running_that_it_records(memory, settings):
    with Flow("signed") as flow:
        one = task(lambda: 1, name="one")()
    recording = RecordingBackend(memory)
    for _ in range(2):
        state = await CloudFlowRunner(flow, backend=recording, settings=settings).run()
        assert state.result[one].is_successful()
    sent = [call.arguments["state"] for call in recording.calls_of("set_task_run_state")]
    signed = [state.context["runner"] for state in sent if state.is_running()]
    assert len(signed) == len(set(signed)) == 2
    assert all(signed)


async def test_an_outage_while_cached_states_are_looked_for_stops_the_flow_run(memory, settings):
    with Flow("cached") as flow:
        task(lambda: 1, name="one", cache_for=datetime.timedelta(hours=1))()
    faulty = FaultyBackend(memory)
    faulty.fail("get_latest_cached_states", BackendUnavailable("the wire is cut"))
    with pytest.raises(BackendUnavailable, match=r"was left unfinished.*the wire is cut"):
        await CloudFlowRunner(flow, backend=faulty, settings=settings).run()


async def test_a_task_that_is_part_of_no_registered_flow_is_told_to_be(memory, settings):
    alone = Alone(memory, settings)
    runner = CloudTaskRunner(alone.task, backend=memory, settings=settings)
    with context(flow_run_id="x"), pytest.raises(ENDRUN) as ended:
        await runner.initialize_run()
    assert type(ended.value.state) is Failed
    assert "'one' is not part of the registered flow: register it again" in ended.value.state.message


async def test_the_given_state_of_a_run_that_cannot_be_read_is_its_end(memory, settings):
    faulty = FaultyBackend(memory)
    faulty.fail("get_task_run_info", BackendRejected("no"), times=None)
    given = Scheduled("as given", start_time=asyncio.get_running_loop().clock.now() + datetime.timedelta(hours=1))
    assert await Alone(memory, settings).run(faulty, given) is given


# -- a state that is given to a run that is over ---------------------------------------------------------


async def finished(alone):
    known = await alone.create()
    with context(**known):
        await CloudTaskRunner(alone.task, backend=alone.backend, settings=alone.settings).run()
    return known


async def test_it_begins_again_and_that_is_recorded(backend, settings):
    alone = Alone(backend, settings)
    with context(**await finished(alone)):
        state = await CloudTaskRunner(alone.task, backend=backend, settings=settings).run(Pending("again"))
    assert type(state) is Success
    assert (await alone.recorded())[0] == ["Pending", "Running", "Success", "Pending", "Running", "Success"]


@pytest.mark.parametrize("error", [OwnershipLost("gone"), BackendUnavailable("away"), BackendRejected("no")])
async def test_where_that_cannot_be_recorded_nothing_begins(memory, settings, error):
    alone = Alone(memory, settings)
    given = await finished(alone)
    faulty = FaultyBackend(memory)
    faulty.fail("set_task_run_state", error)
    with context(**given):
        state = await CloudTaskRunner(alone.task, backend=faulty, settings=settings).run(Pending("again"))
    assert type(state) is (Pending if isinstance(error, OwnershipLost) else ClientFailed)
    assert (await alone.recorded())[0] == ["Pending", "Running", "Success"]


# -- ownership ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Running, Success])
async def test_a_flow_run_that_is_lost_in_a_write_of_a_task_run_stops_here(memory, settings, kind):
    ran = []

    @task
    async def beside():
        await anyio.sleep(10_000)

    async def is_taken(one, old, new):
        if type(new) is kind:
            await memory.claim_flow_run(context.flow_run_id, "another", takeover=True)

    with Flow("lost") as flow:
        first = task(lambda: ran.append("first"), name="first", state_handlers=[is_taken])()
        task(lambda: ran.append("second"), name="second")(upstream_tasks=[first])
        beside()
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    with pytest.raises(OwnershipLost):
        await runner.run()
    assert ran == ["first"][: kind is Success]
    assert type(await memory.get_flow_run_state(runner.flow_run_id)) is Running
    assert asyncio.get_running_loop().time() < 1_000


async def test_nothing_is_sent_once_the_flow_run_is_known_to_be_lost(memory, settings):
    async def meanwhile():
        sent.append(len(recording.calls_of("set_task_run_state")))
        await memory.claim_flow_run(context.flow_run_id, "another", takeover=True)
        await anyio.sleep(2 * settings.heartbeat_interval)

    sent, recording = [], RecordingBackend(memory)
    with Flow("lost") as flow:
        task(meanwhile, name="one")()
    with pytest.raises(OwnershipLost):
        await CloudFlowRunner(flow, backend=recording, settings=settings).run()
    assert len(recording.calls_of("set_task_run_state")) == sent[0]


# -- refused, and what stands instead ----------------------------------------------------------------------


async def test_a_cancel_while_a_state_is_recorded_is_none_of_recording_it(memory, settings):
    alone, faulty = Alone(memory, settings), FaultyBackend(memory)
    faulty.delay("set_task_run_state", 10)
    with context(**await alone.create()):
        runner = CloudTaskRunner(alone.task, backend=faulty, settings=settings)
        _, begun = await runner.initialize_run()
        with context(begun):
            going = asyncio.create_task(runner.call_runner_target_handlers(Pending(), Running()))
            await anyio.sleep(1)
            going.cancel()
            with pytest.raises(asyncio.CancelledError):
                await going
    assert faulty.counts["set_task_run_state"] == 1
    assert (await alone.recorded())[0] == ["Pending"]


async def test_who_hears_that_the_flow_run_is_lost_while_a_task_begins_again_stops_it(memory, settings):
    async def later():
        await anyio.sleep(10_000)
        ran.append("later")

    ran = []
    with Flow("again") as flow:
        first = task(lambda: ran.append("first"), name="first")()
        waits = task(later, name="waits")()
        task(lambda: 1 / 0, name="last", max_retries=1, retry_delay=3600)(upstream_tasks=[first, waits])
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    assert type(await runner.run()) is Scheduled
    claims = []

    def is_taken(sent):
        if sent["state"].message == "again":
            claims.append(asyncio.create_task(memory.claim_flow_run(runner.flow_run_id, "another", takeover=True)))
        return bool(claims)

    faulty = FaultyBackend(memory)
    faulty.delay("set_task_run_state", 1, where=is_taken)
    began = asyncio.get_running_loop().time()
    again = CloudFlowRunner(flow, backend=faulty, settings=settings)
    given = {first: Pending("again"), waits: Pending("once more")}
    with pytest.raises(OwnershipLost):
        await again.run(context={"flow_run_id": runner.flow_run_id}, task_states=given)
    assert ran == ["first", "later"]
    assert asyncio.get_running_loop().time() - began < 10_000, "it does not wait for what it had begun"


async def test_who_hears_so_amiss_lets_it_begin_again(memory, settings):
    alone, faulty = Alone(memory, settings), FaultyBackend(memory)
    runner = CloudFlowRunner(alone.flow, backend=memory, settings=settings)
    await runner.run()
    await memory.set_flow_run_state(runner.flow_run_id, None, Scheduled("once more"))
    faulty.fail("set_task_run_state", OwnershipLost("gone"))
    again = CloudFlowRunner(alone.flow, backend=faulty, settings=settings)
    known = {"flow_run_id": runner.flow_run_id}
    state = await again.run(context=known, task_states={alone.task: Pending("again")})
    assert type(state) is Success
    assert type((await memory.get_flow_run_info(runner.flow_run_id)).state) is Success


@pytest.mark.parametrize("given", [Pending, Retrying])
async def test_a_task_run_that_cannot_be_read_is_not_asked_for_again(memory, settings, given):
    alone, faulty = Alone(memory, settings), FaultyBackend(memory)
    faulty.fail("get_task_run_info", BackendRejected("no"))
    state = given("given")
    assert await alone.run(faulty, state) is state
    assert faulty.counts["get_task_run_info"] == 1


async def test_second_thoughts_of_a_handler_that_are_refused_leave_what_is_recorded(memory, settings):
    def rethinks(runner, old, new):
        return Failed("on second thoughts") if type(new) is Success else None

    with Flow("rethought") as flow:
        one = task(lambda: 1, name="one")()
    faulty = FaultyBackend(memory)
    faulty.fail("set_task_run_state", BackendRejected("it is over"), where=lambda sent: type(sent["state"]) is Failed)
    runner = CloudFlowRunner(flow, backend=faulty, settings=settings)
    state = await runner.run(task_runner_state_handlers=[rethinks])
    assert type(state.result[one]) is type(state) is Success
    assert type((await memory.get_flow_run_info(runner.flow_run_id)).task_runs[0].state) is Success


async def test_a_result_that_is_refused_costs_no_look_at_the_flow_run(memory, settings):
    with Flow("refused") as flow:
        task(lambda: 1, name="one")()
    faulty = RecordingBackend(FaultyBackend(memory))
    faulty.backend.fail("set_task_run_state", BackendRejected("no"), where=lambda sent: type(sent["state"]) is Success)
    state = await CloudFlowRunner(flow, backend=faulty, settings=settings).run()
    assert type(state) is Failed
    assert len(faulty.calls_of("get_flow_run_info")) <= 1


async def test_a_failure_before_the_body_is_not_taken_for_one_that_is_retried(memory, settings):
    def stops(task, old, new):
        if new.is_running():
            raise ENDRUN(Failed("stopped at the gate"))

    alone = Alone(memory, settings, max_retries=3, retry_delay=10, state_handlers=[stops])
    await alone.run()
    [info] = (await memory.get_flow_run_info(alone.id)).task_runs
    assert [type(info.state), info.state.context.get("retry_follows_attempt")] == [Failed, None]


async def test_a_failure_that_is_retried_says_so_until_the_retry_is_recorded(memory, settings):
    def fails():
        raise ValueError

    alone = Alone(memory, settings, fails, max_retries=1, retry_delay=10)
    recording = RecordingBackend(memory)
    assert type(await alone.run(recording)) is Failed
    sent = [call.arguments["state"] for call in recording.calls_of("set_task_run_state")]
    assert [(type(one).__name__, one.context.get("retry_follows_attempt")) for one in sent] == [
        ("Running", None),
        ("Failed", 1),
        ("Retrying", None),
        ("Running", None),
        ("Failed", None),
    ]


async def test_a_failure_whose_runner_died_before_the_retry_is_retried(memory, settings):
    alone = Alone(memory, settings, max_retries=2, retry_delay=10)
    given = Failed("its runner died", context={"retry_follows_attempt": 2}, cached_inputs={"x": PrefectResult("7")})
    runner = CloudTaskRunner(alone.task, backend=memory, settings=settings)
    with pytest.raises(ENDRUN) as ended:
        await runner.check_task_is_ready(given)
    state = ended.value.state
    assert type(state) is Retrying
    assert state.message == "Retrying task (after attempt 2 of 3)."
    assert [state.run_count, *state.cached_inputs] == [2, "x"]
    assert (state.start_time - asyncio.get_running_loop().clock.now()).total_seconds() == 10


# -- what somebody else has done meanwhile --------------------------------------------------------------------


@pytest.mark.parametrize(("moved", "cause"), [(Cancelling, "user"), (Cancelled, "user"), (Scheduled, "handover")])
async def test_why_a_flow_run_that_was_moved_ends_here(memory, settings, moved, cause):
    causes = []

    class Moving(FaultyBackend):
        async def get_task_run_state(self, task_run_id):
            await memory.set_flow_run_state(context.flow_run_id, None, moved())
            return Pending("by hand")

        def watch_flow_run(self, flow_run_id):
            return None

    class Heard(CloudFlowRunner):
        def _stopped(self, cancellation, *args):
            causes.append(cancellation.cause)
            return super()._stopped(cancellation, *args)

    with Flow("moved") as flow:
        task(lambda: 1, name="one")()
    backend = Moving(memory)
    backend.fail("set_task_run_state", VersionLockMismatch("moved"))
    recording = RecordingBackend(backend)
    try:
        await Heard(flow, backend=recording, settings=settings).run()
    except OwnershipLost:
        assert cause == "handover"
    assert causes == [cause]
    sent = [call.arguments["state"] for call in recording.calls_of("set_task_run_state")]
    assert len([one for one in sent if one.is_running()]) == 1, "it does not begin"


async def test_a_result_that_was_set_by_hand_is_adopted_as_what_the_task_returns(memory, settings):
    def pair() -> tuple[int, int]:
        return 1, 2

    class Set(FaultyBackend):
        async def get_task_run_state(self, task_run_id):
            return Success(result=PrefectResult(location="[3, 4]"), context={GIVEN: True})

    backend = Set(memory)
    backend.fail("set_task_run_state", VersionLockMismatch("moved"))
    assert (await Alone(memory, settings, pair).run(backend)).result == (3, 4)


@pytest.mark.parametrize(("kind", "text", "value"), [(tuple, "[3]", (3,)), (int, '"x"', "x"), (None, "[3]", [3])])
async def test_a_result_that_was_set_by_hand_is_of_the_type_that_the_task_returns(memory, settings, kind, text, value):
    def returned():
        return None

    if kind is not None:
        returned.__annotations__["return"] = kind
    alone = Alone(memory, settings, returned)
    with context(**await alone.create()):
        [info] = (await memory.get_flow_run_info(alone.id)).task_runs
        given = Success(result=PrefectResult(location=text), context={GIVEN: True})
        await memory.set_task_run_state(info.id, None, given)
        state = await CloudTaskRunner(alone.task, backend=memory, settings=settings).run()
    assert state.result == value


# -- results ---------------------------------------------------------------------------------------------------


class Counting(LocalResult):
    """Counts how often it is read."""

    reads = 0

    async def read(self, location):
        Counting.reads += 1
        return await super().read(location)


async def test_what_is_at_hand_is_not_read(memory, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "reads", 0)
    with Flow("at hand", result=Counting(dir=str(tmp_path))) as flow:
        one = task(lambda: 1, name="one")()
        task(lambda n: n, name="two")(one)
    assert type(await CloudFlowRunner(flow, backend=memory, settings=settings).run()) is Success
    assert Counting.reads == 0


async def test_cached_inputs_are_read_where_a_run_goes_on(memory, settings):
    stored = await LocalResult(dir=settings.results_dir).write([1, 2])
    given = Pending(cached_inputs={"x": LocalResult(dir=settings.results_dir, location=stored.location)})
    runner = CloudTaskRunner(Alone(memory, settings).task, backend=memory, settings=settings)
    state, _ = await runner.load_results(given, {})
    assert state.cached_inputs["x"].value == [1, 2]


class Hanging(Result):
    """Neither reads nor writes, until it is cancelled."""

    async def read(self, location):
        await anyio.sleep_forever()

    async def write(self, value, **values):
        await anyio.sleep_forever()


def edge_to(one):
    return Edge(task(lambda: 1, name="before", result=Hanging()), one, key="x")


def failing(kind):
    return kind("left", result=Hanging(location="there"))


@pytest.mark.parametrize("upstream", [Success, Failed, Skipped])
async def test_a_cancel_while_a_result_is_read_is_no_result_that_cannot_be_read(memory, settings, upstream):
    runner = CloudTaskRunner(Alone(memory, settings).task, backend=memory, settings=settings)
    reading = asyncio.create_task(runner.load_results(Pending(), {edge_to(runner.task): failing(upstream)}))
    await anyio.sleep(1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_cancel_while_an_error_is_stored_is_none_of_storing_it(memory, settings):
    alone = Alone(memory, settings, result=Hanging())
    runner = CloudTaskRunner(alone.task, backend=memory, settings=settings)
    runner.hands_on_errors = True
    with context(task_run_id="x", task_run_version=1):
        storing = asyncio.create_task(runner.call_runner_target_handlers(Running(), Failed(result=ValueError())))
        await anyio.sleep(1)
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing


async def test_of_an_error_that_is_nowhere_its_message_is_left(memory, settings):
    runner = CloudTaskRunner(Alone(memory, settings, trigger=all_finished).task, backend=memory, settings=settings)
    lost = Failed("out of bounds", result=LocalResult(dir=settings.results_dir, location="nowhere"))
    skipped = Skipped("no need", result=LocalResult(dir=settings.results_dir, location="nowhere"))
    await runner.load_results(Pending(), {edge_to(runner.task): lost})
    await runner.load_results(Pending(), {edge_to(runner.task): skipped})
    assert type(lost.result) is TaskRunError
    assert str(lost.result) == "out of bounds"
    assert skipped.result is None


async def test_what_only_has_to_be_over_is_not_read(memory, settings):
    runner = CloudTaskRunner(Alone(memory, settings).task, backend=memory, settings=settings)
    lost = Success(result=LocalResult(dir=settings.results_dir, location="nowhere"))
    await runner.load_results(Pending(), {Edge(task(lambda: 1, name="before"), runner.task): lost})
    with pytest.raises(ENDRUN, match="nowhere"):
        await runner.load_results(Pending(), {Edge(task(lambda: 1, name="before"), runner.task, key="x"): lost})


async def test_what_returned_nothing_is_not_read_from_where_its_task_stores(memory, settings):
    fixed = LocalResult(dir=settings.results_dir, location="nowhere")
    runner = CloudTaskRunner(Alone(memory, settings).task, backend=memory, settings=settings)
    nothing = Success()
    await runner.load_results(
        Pending(), {Edge(task(lambda: 1, name="before", result=fixed), runner.task, key="x"): nothing}
    )
    assert nothing.result is None


async def test_a_large_result_that_lies_in_its_state_is_recorded_whole(memory, settings):
    alone = Alone(memory, settings, lambda: "x" * 200_000, result=PrefectResult())
    await alone.run(checkpointing=True)
    [info] = (await memory.get_flow_run_info(alone.id)).task_runs
    assert len((await info.state.load_result(PrefectResult())).result) == 200_000


# -- a run that has waited, or stepped ahead -------------------------------------------------------------------


async def test_what_somebody_ended_while_it_waited_for_its_retry_stands(backend, settings):
    async def fails():
        ran.append(context.task_run_count)
        raise ValueError

    ran = []
    with Flow("waits") as flow:
        one = task(fails, name="one", max_retries=1, retry_delay=20)()
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    running = asyncio.create_task(runner.run())
    await anyio.sleep(10)
    [info] = (await backend.get_flow_run_info(runner.flow_run_id)).task_runs
    await backend.set_task_run_state(info.id, None, Success("by hand", result=PrefectResult(location="7")))
    state = await running
    assert [type(state), state.result[one].message, ran] == [Success, "by hand", [1]]


async def test_who_goes_step_by_step_does_not_step_ahead(memory, settings):
    runner = CloudTaskRunner(Alone(memory, settings).task, backend=memory, settings=settings)
    assert runner.may_step_ahead
    runner.go_step_by_step()
    assert not runner.may_step_ahead


async def test_a_child_that_cannot_be_read_for_an_outage_leaves_its_flow_run_to_another_process(memory, settings):
    with Flow("mapped") as flow:
        task(lambda n: n, name="child").map([1, 2])
    faulty = FaultyBackend(memory)
    faulty.fail("get_task_run_infos", BackendRejected("no"))
    faulty.fail("get_task_run_info", BackendUnavailable("away"), times=None)
    runner = CloudFlowRunner(flow, backend=faulty, settings=settings)
    with pytest.raises(BackendUnavailable, match="away"):
        await runner.run()
    assert type(await memory.get_flow_run_state(runner.flow_run_id)) is Running


# -- a write that nobody waits for -----------------------------------------------------------------------------


async def test_a_refusal_that_tells_nothing_is_heard_of_and_so_is_a_cancel():
    loop, told = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda loop, what: told.append(what))
    refused, cancelled = loop.create_future(), loop.create_future()
    refused.add_done_callback(heard)
    cancelled.add_done_callback(heard)
    refused.set_exception(BackendRejected("no"))
    cancelled.cancel()
    await anyio.sleep(1)
    del refused, cancelled
    gc.collect()
    assert told == []


async def test_a_parameter_is_looked_up_where_its_value_lies_with_the_run_alone(backend, settings):
    seen = []
    with Flow("large") as flow:
        given = Parameter("given")
        task(lambda text: seen.append(len(text)), name="look")(given)
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    assert type(await runner.run(parameters={"given": "x" * 200_000})) is Success
    with context(flow_run_id=runner.flow_run_id, parameters={"given": "x" * 200_000}):
        runs = (await backend.get_flow_run_info(runner.flow_run_id)).task_runs
        with context(task_id=next(run.task_id for run in runs if run.task_slug.startswith("given"))):
            begun = await CloudTaskRunner(given, backend=backend, settings=settings).initialize_run()
    assert len(begun.state.result) == 200_000
    assert seen == [200_000]
