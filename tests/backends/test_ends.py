"""Every end of a recorded run: what is recorded then, whose the flow run is, and what its caller hears."""

from __future__ import annotations

import asyncio
import datetime
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowloop.backends import connect
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.backends.worker import Worker
from flowloop.engine import Flow, Settings, context, subflow, task
from flowloop.engine.backend import Backend, FlowRunInfoResult
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.cloud.task_runner import CloudTaskRunner
from flowloop.engine.errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    DialectError,
    OwnershipLost,
    VersionLockMismatch,
)
from flowloop.engine.signals import ENDRUN, LOOP, PAUSE
from flowloop.engine.state import (
    Cancelled,
    Failed,
    Looped,
    Paused,
    Pending,
    Resume,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    State,
    Success,
    TriggerFailed,
)
from flowloop.engine.testing import FaultyBackend

from .serving import serve

QUIET = ServerSettings(
    require_api_key=False, scheduler=False, zombie_killer=False, lazarus=False, retention=False, poll_seconds=0.05
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), check_cancellation_interval=3600, cancel_grace=2, inline_retry_limit=0.1)


@pytest.fixture(params=["memory", "sqlite", "http", pytest.param("postgresql", marks=pytest.mark.heavy)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    if request.param == "http":
        with serve(create_app(database, settings=QUIET)) as served:
            yield served
    elif request.param == "postgresql":
        yield str(request.getfixturevalue("emptied_postgres_url"))
    else:
        yield "memory://" if request.param == "memory" else database


@pytest.fixture
async def backend(url: str, settings: Settings) -> AsyncIterator[Backend]:
    async with connect(url, settings=settings) as opened:
        yield opened


class Run:
    """A run of one task, and of one after it."""

    def __init__(self, backend: Backend, settings: Settings, body: Any, **options: Any) -> None:
        self.backend = backend
        self.settings = settings
        self.begun = asyncio.Event()

        @task(**options)
        async def first() -> Any:
            self.begun.set()
            return await body()

        @task
        async def second(given: Any) -> Any:
            return given

        with Flow("ends") as self.flow:
            self.first = first()
            self.second = second(self.first)

    async def create(self) -> str:
        self.id = await create_flow_run(self.flow, self.backend, settings=self.settings)
        return self.id

    def runner(self, backend: Backend | None = None) -> CloudFlowRunner:
        return CloudFlowRunner(self.flow, backend=backend or self.backend, settings=self.settings)

    async def run(self, backend: Backend | None = None) -> State:
        return await self.runner(backend).run(context={"flow_run_id": await self.create()})

    async def recorded(self) -> FlowRunInfoResult:
        return await self.backend.get_flow_run_info(self.id)

    async def again(self) -> State:
        return await self.runner().run(context={"flow_run_id": self.id})


async def value() -> int:
    return 7


async def forever() -> None:
    await asyncio.sleep(3600)


async def test_a_final_state_is_the_recorded_one_and_leaves_no_owner(backend: Backend, settings: Settings) -> None:
    run = Run(backend, settings, value)
    state = await run.run()
    info = await run.recorded()
    assert [type(state), type(info.state), info.owner] == [Success, Success, None]
    again = await run.again()
    assert type(again) is Success
    assert {task: [type(one), one.result] for task, one in again.result.items()} == {
        task: [Success, 7] for task in (run.first, run.second)
    }
    assert (await run.recorded()).version == info.version


async def test_a_run_that_is_over_returns_its_mapped_children_too(backend: Backend, settings: Settings) -> None:
    @task
    async def double(n: int) -> int:
        return 2 * n if n else 1 // n

    with Flow("children") as flow:
        doubled = double.map([1, 0, 3])
        unrelated = task(lambda: 5, name="unrelated")()
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run()
    known = {"flow_run_id": runner.flow_run_id}
    again = await CloudFlowRunner(flow, backend=backend, settings=settings).run(context=known)
    assert type(again) is type(state) is Failed
    assert [type(one) for one in again.result[doubled].map_states] == [Success, Failed, Success]
    assert again.result[doubled].map_states[2].result == 6
    asked = CloudFlowRunner(flow, backend=backend, settings=settings)
    assert (await asked.run(context=known, return_tasks=[unrelated])).result.keys() == {unrelated}


async def test_what_waits_for_later_is_given_up_for_whoever_goes_on(backend: Backend, settings: Settings) -> None:
    async def fails() -> None:
        raise ValueError("the first time")

    run = Run(backend, settings, fails)
    run.first.max_retries, run.first.retry_delay = 1, datetime.timedelta(hours=1)
    state = await run.run()
    info = await run.recorded()
    assert [type(state), type(info.state), info.owner] == [Scheduled, Scheduled, None]
    waits = {type(one.state): one.state for one in info.task_runs}
    assert waits.keys() == {Retrying, Pending}
    assert state.start_time == info.state.start_time == waits[Retrying].start_time
    assert await backend.reserve_flow_runs("somebody") == []
    run.first.retry_delay = datetime.timedelta(0)
    assert type(await run.again()) is Scheduled, "run again before its time, it waits on"


async def test_what_waits_for_somebody_is_paused_until_it_is_resumed(backend: Backend, settings: Settings) -> None:
    async def asks() -> str:
        if "answer" not in context:
            raise PAUSE("may I?")
        return str(context.answer["value"])

    for how in ("by a directive", "by another client"):
        run = Run(backend, settings, asks)
        state = await run.run()
        info = await run.recorded()
        assert [type(state), type(info.state), info.owner] == [Paused, Paused, None]
        assert await backend.reserve_flow_runs("somebody") == []
        (waits,) = (one for one in info.task_runs if type(one.state) is Paused)
        if how == "by a directive":
            await backend.direct_flow_run(run.id, "resume", task=waits.task_slug, value="yes")
        else:
            await backend.set_task_run_state(waits.id, None, Resume(context={"answer": {"value": "yes"}}))
        (taken,) = await backend.reserve_flow_runs("somebody")
        assert taken.flow_run_id == run.id
        runner = CloudFlowRunner(run.flow, backend=backend, settings=settings, claim=taken.claim)
        state = await runner.run(context={"flow_run_id": run.id})
        assert state.is_successful(), state
        assert state.result[run.second].result == "yes"


async def test_what_waits_for_nothing_has_failed(backend: Backend, settings: Settings) -> None:
    class Stops(CloudTaskRunner):
        async def check_task_is_ready(self, state: State) -> State:
            raise ENDRUN(state)

    run = Run(backend, settings, value)
    runner = CloudFlowRunner(run.flow, backend=backend, settings=settings, task_runner_cls=Stops)
    state = await runner.run(context={"flow_run_id": await run.create()})
    info = await run.recorded()
    assert [type(state), type(info.state), info.owner] == [Failed, Failed, None]
    assert "left unfinished, and wait for nothing: 'first', 'second'" in str(state.message)
    assert {type(one.state) for one in info.task_runs} == {Cancelled}


async def test_what_a_handler_leaves_to_nobody_has_failed(backend: Backend, settings: Settings) -> None:
    def ends_as_running(task: object, old: State, new: State) -> None:
        if new.is_successful():
            raise ENDRUN(Running())

    run = Run(backend, settings, value)
    run.first.state_handlers.append(ends_as_running)
    await run.run()
    info = await run.recorded()
    assert [type(info.state), info.owner, {type(one.state) for one in info.task_runs}] == [
        Failed,
        None,
        {Failed, TriggerFailed},
    ]


async def test_a_cancel_while_it_would_end_unfinished_is_obeyed(backend: Backend, settings: Settings) -> None:
    async def fails() -> None:
        await backend.cancel_flow_run(run.id)
        raise ValueError("the first time")

    class Deaf(FaultyBackend):
        def watch_flow_run(self, flow_run_id: str) -> None:
            return None

    run = Run(backend, settings, fails)
    run.first.max_retries, run.first.retry_delay = 1, datetime.timedelta(hours=1)
    state = await run.run(Deaf(backend))
    assert type(state) is Cancelled
    assert [*map(type, state.result.values())] == [Cancelled, Cancelled]
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Cancelled, None]
    assert {type(one.state) for one in info.task_runs} == {Cancelled}


async def test_a_cancel_while_it_is_handed_over_is_obeyed_although_its_caller_is_cancelled_too(
    backend: Backend, settings: Settings
) -> None:
    async def asks() -> None:
        raise PAUSE("may I?")

    class Deaf(FaultyBackend):
        def watch_flow_run(self, flow_run_id: str) -> None:
            return None

        async def set_flow_run_state(self, *args: Any, **kwargs: Any) -> State:
            if isinstance(args[2], Paused):
                await backend.cancel_flow_run(run.id)
                going.cancel()
            return await super().set_flow_run_state(*args, **kwargs)

    run = Run(backend, settings, asks)
    going = asyncio.create_task(run.run(Deaf(backend)))
    with pytest.raises(asyncio.CancelledError):
        await going
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Cancelled, None]
    assert {type(one.state) for one in info.task_runs} == {Cancelled}


async def test_a_cancel_while_it_is_taken_over_is_obeyed(backend: Backend, settings: Settings) -> None:
    class Meanwhile(FaultyBackend):
        async def set_flow_run_state(self, *args: Any, **kwargs: Any) -> State:
            if args[2].is_running():
                await backend.cancel_flow_run(run.id)
            return await super().set_flow_run_state(*args, **kwargs)

    run = Run(backend, settings, value)
    await run.create()
    dead = await backend.claim_flow_run(run.id, "a dead owner")
    await backend.set_flow_run_state(run.id, None, Running(), epoch=dead.epoch)
    runner = run.runner(Meanwhile(backend))
    runner.takeover = True
    state = await runner.run(context={"flow_run_id": run.id})
    info = await run.recorded()
    assert [type(state), type(info.state), info.owner] == [Cancelled, Cancelled, None]
    assert not run.begun.is_set()


class StoppedWhenClaimed(FaultyBackend):
    """Has whoever runs a flow run cancelled while it is claimed."""

    async def stops(self, run: Run) -> None:
        """Run a flow run until it is stopped."""
        self.going = asyncio.create_task(run.run(self))
        with pytest.raises(asyncio.CancelledError):
            await self.going

    async def claim_flow_run(self, *args: Any, **kwargs: Any) -> Any:
        self.going.cancel()
        return await super().claim_flow_run(*args, **kwargs)


@pytest.mark.parametrize(("error", "ends"), [(VersionLockMismatch, Cancelled), (BackendRejected, Scheduled)])
async def test_what_is_stopped_before_it_begins_and_refused_to_end_is_ended_or_given_back(
    backend: Backend,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    error: type[BackendRejected],
    ends: type[State],
) -> None:
    faulty = StoppedWhenClaimed(backend)
    faulty.fail("set_flow_run_state", error("not now"))
    run = Run(backend, settings, value)
    await faulty.stops(run)
    info = await run.recorded()
    assert [type(info.state), info.owner] == [ends, None]
    assert (f"flow run {run.id} could not be ended: not now" in caplog.text) is (ends is Scheduled)


@pytest.mark.parametrize("error", [BackendRejected, DialectError])
async def test_what_is_stopped_before_it_begins_is_looked_at_again_if_the_look_is_refused(
    backend: Backend, settings: Settings, error: type[BackendError]
) -> None:
    faulty = StoppedWhenClaimed(backend)
    faulty.fail("get_flow_run_info", error("not now"))
    run = Run(backend, settings, value)
    await faulty.stops(run)
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Cancelled, None]


async def test_what_cannot_go_on_is_given_back_although_its_caller_is_cancelled(
    backend: Backend, settings: Settings
) -> None:
    class Stopped(FaultyBackend):
        async def release_flow_run(self, *args: Any, **kwargs: Any) -> None:
            going.cancel()
            await asyncio.sleep(0)
            await super().release_flow_run(*args, **kwargs)

    faulty = Stopped(backend)
    faulty.fail("get_flow_run_info", BackendRejected("not this one"))
    run = Run(backend, settings, value)
    going = asyncio.create_task(run.run(faulty))
    with pytest.raises(asyncio.CancelledError):
        await going
    assert (await run.recorded()).owner is None


async def test_what_a_run_that_ends_leaves_unfinished_ends_with_it(backend: Backend, settings: Settings) -> None:
    """A mapped child that waits, and what comes after all of them."""

    @task(max_retries=1, retry_delay=datetime.timedelta(hours=1))
    async def invert(n: int) -> float:
        return 1 / n

    def decide(flow: Flow, state: State, states: set[State]) -> State:
        return ended("enough", result=state.result)

    with Flow("leaves", terminal_state_handler=decide) as flow:
        inverted = invert.map([1, 0])
        total = task(lambda values: sum(values), name="total")(inverted)
    for ended in (Failed, Cancelled):
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        state = await runner.run()
        assert type(state) is ended
        children = state.result[inverted].map_states
        assert [type(one) for one in (*children, state.result[total])] == [Success, Cancelled, Cancelled]
        _, runs = await backend.get_flow_run_history(runner.flow_run_id or "")
        recorded = {(one.task_slug, one.map_index): one.states[-1] for one in runs}
        for slug, child, left in [("invert-1", 1, children[1]), ("total-1", -1, state.result[total])]:
            assert (recorded[slug, child].state, recorded[slug, child].message) == ("Cancelled", left.message)


async def test_a_cancel_while_it_ends_is_heard_with_the_refusal(backend: Backend, settings: Settings) -> None:
    reads: list[str] = []

    class Deaf(FaultyBackend):
        def watch_flow_run(self, flow_run_id: str) -> None:
            return None

        async def set_flow_run_state(self, *args: Any, **kwargs: Any) -> State:
            if args[2].is_successful():
                await backend.cancel_flow_run(run.id)
                reads.clear()
            return await super().set_flow_run_state(*args, **kwargs)

        async def get_flow_run_info(self, flow_run_id: str) -> FlowRunInfoResult:
            reads.append("info")
            return await super().get_flow_run_info(flow_run_id)

        async def get_flow_run_state(self, flow_run_id: str) -> State:
            reads.append("state")
            return await super().get_flow_run_state(flow_run_id)

    run = Run(backend, settings, value)
    state = await run.run(Deaf(backend))
    assert [type(state), reads] == [Cancelled, []]
    assert state.result[run.second].result == 7
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Cancelled, None]


@pytest.mark.parametrize("how", ["api", "runner", "timeout", "caller"])
async def test_what_is_stopped_is_cancelled_with_its_cause(backend: Backend, settings: Settings, how: str) -> None:
    run = Run(backend, settings, forever)
    flow_run_id = await run.create()
    runner = run.runner()
    going = asyncio.create_task(runner.run(context={"flow_run_id": flow_run_id}))
    await run.begun.wait()
    if how == "api":
        await backend.cancel_flow_run(flow_run_id)
    elif how == "runner":
        runner.cancel()
    elif how == "timeout":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(going, 0.01)
    else:
        going.cancel()
    await asyncio.wait((going,))
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Cancelled, None]
    assert {type(one.state) for one in info.task_runs} == {Cancelled}


async def test_who_has_lost_the_run_records_nothing_more_and_hears_of_it(backend: Backend, settings: Settings) -> None:
    async def is_taken() -> int:
        await backend.claim_flow_run(run.id, "a successor", takeover=True)
        return 7

    run = Run(backend, settings, is_taken)
    with pytest.raises(OwnershipLost, match="another owner"):
        await run.run()
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Running, "a successor"]
    assert {type(one.state) for one in info.task_runs} == {Running, Pending}


async def test_what_cannot_be_recorded_is_a_small_failed(backend: Backend, settings: Settings) -> None:
    async def fails() -> None:
        raise ValueError("row: " + "x" * 1_500_000)

    run = Run(backend, settings, fails)
    assert type(await run.run()) is Failed
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Failed, None]
    messages = [one.state.message for one in info.task_runs if type(one.state) is Failed]
    assert any("could not be recorded whole" in message for message in messages)


async def test_a_cancel_that_cannot_be_recorded_whole_says_its_cause(backend: Backend, settings: Settings) -> None:
    faulty = FaultyBackend(backend)
    faulty.fail("set_flow_run_state", BackendRejected("no"), where=lambda sent: isinstance(sent["state"], Cancelled))
    run = Run(backend, settings, forever)
    runner = run.runner(faulty)
    going = asyncio.create_task(runner.run(context={"flow_run_id": await run.create()}))
    await run.begun.wait()
    runner.cancel()
    await going
    state = (await run.recorded()).state
    assert [type(state), state.context["cause"]] == [Cancelled, "user"]


async def test_what_waits_and_cannot_be_recorded_waits_with_less_to_say(backend: Backend, settings: Settings) -> None:
    async def asks() -> None:
        raise PAUSE("row: " + "x" * 1_500_000)

    run = Run(backend, settings, asks)
    assert type(await run.run()) is Paused
    messages = [str(one.state.message) for one in (await run.recorded()).task_runs if type(one.state) is Paused]
    assert [len(message) for message in messages] == [pytest.approx(5_000, abs=100)]


@pytest.mark.parametrize("error", [BackendRejected, VersionLockMismatch])
@pytest.mark.parametrize("begins", [False, True])
async def test_who_can_record_no_end_at_all_hears_how_to_go_on(
    backend: Backend, settings: Settings, error: type[BackendRejected], begins: bool
) -> None:
    faulty = FaultyBackend(backend)
    is_refused = lambda sent: begins or sent["state"].is_finished()  # noqa: E731
    faulty.fail("set_flow_run_state", error("not this one"), where=is_refused, times=None)
    run = Run(backend, settings, value)
    with pytest.raises(BackendRejected, match=r"flow run .* is not recorded: .*run it again with context=") as raised:
        await run.run(faulty)
    assert run.id in str(raised.value)
    assert run.begun.is_set() is not begins
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Scheduled if begins else Running, None]
    if not begins:
        (taken,) = await backend.reserve_flow_runs("a worker")
        assert taken.flow_run_id == run.id, "a worker goes on with it"
        await backend.release_flow_run(run.id, taken.claim.epoch)
    assert type(await run.again()) is Success


async def test_a_worker_whose_end_is_refused_fails_the_run_once_it_may(
    backend: Backend, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyBackend(backend)
    faulty.fail(
        "set_flow_run_state", BackendRejected("not this one"), where=lambda sent: sent["state"].is_finished(), times=2
    )
    run = Run(backend, settings, value)
    await run.create()
    await Worker(faulty, {run.flow.name: run.flow}, settings=settings).run_one()
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Failed, None]
    assert "could not be run" in str(info.state.message)
    assert "not this one" in str(info.state.message)


async def test_who_cannot_record_for_longer_than_the_patience_hears_how_to_go_on(
    backend: Backend, settings: Settings
) -> None:
    faulty = FaultyBackend(backend)
    is_over = lambda sent: sent["state"].is_finished()  # noqa: E731
    faulty.fail("set_task_run_state", BackendUnavailable("the wire is cut"), where=is_over, times=None)
    faulty.fail("release_flow_run", BackendUnavailable("the wire is cut"), times=None)
    run = Run(backend, settings, value)
    with pytest.raises(BackendUnavailable, match=r"was left unfinished.*the wire is cut.*run it again with"):
        await run.run(faulty)
    info = await run.recorded()
    assert type(info.state) is Running
    assert info.owner is not None, "its lease runs out"
    going_on = CloudFlowRunner(run.flow, backend=backend, settings=settings, takeover=True)
    assert (await going_on.run(context={"flow_run_id": run.id})).is_successful()


async def fails(given: Any = None) -> None:
    raise ValueError("no")


async def asks(given: Any = None) -> None:
    raise PAUSE("may I?")


async def again_and_again() -> None:
    raise LOOP("another round")


@pytest.mark.parametrize("error", [BackendRejected, DialectError])
@pytest.mark.parametrize(("kind", "body"), [(Failed, fails), (Retrying, fails), (Looped, again_and_again)])
async def test_what_was_recorded_and_is_answered_as_refused_leaves_nobody_running(
    backend: Backend, settings: Settings, error: type[BackendError], kind: type[State], body: Any
) -> None:
    faulty = FaultyBackend(backend)
    faulty.fail("set_task_run_state", error("no"), where=lambda sent: type(sent["state"]) is kind, after=True)
    run = Run(backend, settings, body, max_retries=1, retry_delay=3600)
    state = await run.run(faulty)
    info = await run.recorded()
    assert [type(state), type(info.state), info.owner] == [Scheduled, Scheduled, None]
    recorded = {type(one.state) for one in info.task_runs if one.task_slug == run.flow.slugs[run.first]}
    assert recorded == {type(state.result[run.first])} == {Retrying}


async def test_second_thoughts_on_a_flow_run_that_are_recorded_and_answered_as_refused_are_its_end(
    backend: Backend, settings: Settings
) -> None:
    def regrets(runner: CloudFlowRunner, old: State, new: State) -> State | None:
        return Failed("on second thoughts") if new.is_successful() else None

    faulty = FaultyBackend(backend)
    faulty.fail("set_flow_run_state", BackendRejected("no"), where=lambda sent: sent["state"].is_failed(), after=True)
    run = Run(backend, settings, value)
    runner = CloudFlowRunner(run.flow, [regrets], backend=faulty, settings=settings)
    state = await runner.run(context={"flow_run_id": await run.create()})
    assert [type(state), state.message] == [type((await run.recorded()).state), "on second thoughts"]


def by_the_last_word(kind: type[State]) -> dict[str, Any]:
    def is_enough(flow: Flow, state: State, reference: set[State]) -> State | None:
        return None if state.is_finished() else kind("enough", result=state.result)

    return {"terminal_state_handler": is_enough}


def by_a_handler(kind: type[State]) -> dict[str, Any]:
    def is_enough(flow: Flow, old: State, new: State) -> State | None:
        return kind("enough", result=new.result) if isinstance(new, (Paused, Scheduled)) else None

    return {"state_handlers": [is_enough]}


def by_a_handler_of_the_runner(kind: type[State]) -> dict[str, Any]:
    return {"of_the_runner": by_a_handler(kind)["state_handlers"]}


def by_a_handler_at_its_beginning(kind: type[State]) -> dict[str, Any]:
    def is_not_needed(flow: Flow, old: State, new: State) -> None:
        raise ENDRUN(kind("enough"))

    return {"state_handlers": [is_not_needed]}


@pytest.mark.parametrize("kind", [Success, Skipped, Failed, Cancelled])
@pytest.mark.parametrize("left", [asks, fails])
@pytest.mark.parametrize(
    "how", [by_the_last_word, by_a_handler, by_a_handler_of_the_runner, by_a_handler_at_its_beginning]
)
async def test_whatever_a_flow_run_ends_as_what_it_leaves_unfinished_ends_with_it(
    backend: Backend, settings: Settings, how: Any, left: Any, kind: type[State]
) -> None:
    options = how(kind)
    handlers = options.pop("of_the_runner", [])
    with Flow("left", **options) as flow:
        children = task(left, name="child", max_retries=1, retry_delay=3600).map([1, 2])
        task(lambda values: values, name="after")(children)
        task(lambda: 5, name="beside")()
    runner = CloudFlowRunner(flow, handlers, backend=backend, settings=settings)
    state = await runner.run()
    _, task_runs = await backend.get_flow_run_history(str(runner.flow_run_id))
    info = await backend.get_flow_run_info(str(runner.flow_run_id))
    assert [type(state), type(info.state), info.owner] == [kind, kind, None]
    recorded = {(run.task_slug, run.map_index): run.states[-1].state for run in task_runs}
    assert set(recorded.values()) <= {"Success", "Mapped", "Cancelled"}
    for one, ended in (state.result or {}).items():
        assert type(ended).__name__ == recorded[flow.slugs[one], -1]
        for number, child in enumerate(getattr(ended, "map_states", ())):
            assert type(child).__name__ == recorded[flow.slugs[one], number] == "Cancelled"


async def test_a_success_over_what_is_unfinished_is_none_over_a_cancel(backend: Backend, settings: Settings) -> None:
    async def cancels(flow: Flow, state: State, reference: set[State]) -> State:
        await backend.cancel_flow_run(context.flow_run_id)
        return Success("enough")

    run = Run(backend, settings, asks)
    run.flow.terminal_state_handler = cancels
    state = await run.run()
    assert [type(state), type((await run.recorded()).state)] == [Cancelled, Cancelled]


async def test_what_a_person_ends_as_a_success_leaves_nothing_that_waits(backend: Backend, settings: Settings) -> None:
    run = Run(backend, settings, asks)
    await run.run()
    await backend.set_flow_run_state(run.id, (await run.recorded()).version, Success("said by hand"))
    assert [type(one.state) for one in (await run.recorded()).task_runs] == [Cancelled, Cancelled]


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("operation", ["set_flow_run_state", "set_task_run_state", "start_subflow_run"])
async def test_who_is_told_amiss_that_the_run_has_another_owner_goes_on(
    backend: Backend, settings: Settings, operation: str, is_recorded: bool
) -> None:
    with Flow("a part") as part:
        task(lambda: 5, name="five")()
    with Flow("in parts") as flow:
        doubled = task(lambda n: 2 * n, name="double").map([1, 2])
        subflow(part)()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    state = Scheduled()
    for nth in range(1, 9):
        faulty = FaultyBackend(backend)
        faulty.fail(operation, OwnershipLost("it has another owner"), nth=nth, after=is_recorded)
        state = await CloudFlowRunner(flow, backend=faulty, settings=settings).run(context={"flow_run_id": flow_run_id})
        info = await backend.get_flow_run_info(flow_run_id)
        assert [type(state), type(info.state), info.owner] == [Success, Success, None], nth
        assert [one.result for one in state.result[doubled].map_states] == [2, 4]
        flow_run_id = await create_flow_run(flow, backend, settings=settings)


async def test_a_heartbeat_that_is_answered_amiss_stops_no_run(backend: Backend, settings: Settings) -> None:
    heartbeats, is_second = itertools.count(1), asyncio.Event()

    def is_heard(sent: dict[str, Any]) -> bool:
        if next(heartbeats) == 2:
            is_second.set()
        return True

    async def waits() -> int:
        await is_second.wait()
        return 7

    faulty = FaultyBackend(backend)
    faulty.fail("update_flow_run_heartbeat", OwnershipLost("it has another owner"), where=is_heard)
    run = Run(backend, msgspec.structs.replace(settings, heartbeat_interval=0.2), waits)
    assert type(await run.run(faulty)) is Success
    info = await run.recorded()
    assert [type(info.state), info.owner] == [Success, None]


async def test_who_cannot_look_whether_the_run_has_another_owner_takes_it_that_it_has(
    backend: Backend, settings: Settings
) -> None:
    faulty = FaultyBackend(backend)

    async def is_refused() -> int:
        faulty.fail("get_flow_run_info", BackendRejected("not now"), times=None)
        return 7

    faulty.fail("set_flow_run_state", OwnershipLost("no"), where=lambda sent: sent["state"].is_finished(), times=None)
    run = Run(backend, settings, is_refused)
    with pytest.raises(OwnershipLost, match="another owner"):
        await run.run(faulty)
    assert type((await run.recorded()).state) is Running


async def test_what_ended_and_is_answered_as_refused_hands_on_what_is_stored_nowhere(
    backend: Backend, settings: Settings
) -> None:
    """The value of a task without a checkpoint is here alone."""
    faulty = FaultyBackend(backend)
    is_end = lambda sent: type(sent["state"]) is Success  # noqa: E731
    faulty.fail("set_task_run_state", VersionLockMismatch("it has moved"), where=is_end, after=True)
    run = Run(backend, settings, value, checkpoint=False)
    state = await run.run(faulty)
    assert [type(state), state.result[run.second].result] == [Success, 7]
