"""What follows a task run is sent behind its Success before that is acknowledged, and is recorded with it or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends import connect
from flowloop.backends.embedded import StoreBackend
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.engine import Flow, Parameter, Settings, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.results import DefaultResult
from flowloop.engine.state import Cancelled, Cancelling, Failed, State, Success
from flowloop.engine.testing import FaultyBackend
from flowloop.engine.triggers import all_finished

from .serving import serve

QUIET = ServerSettings(require_api_key=False, scheduler=False, zombie_killer=False, lazarus=False, retention=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path), check_cancellation_interval=3600)


@pytest.fixture(params=["sqlite", "http", pytest.param("postgresql", marks=pytest.mark.heavy)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    if request.param == "http":
        with serve(create_app(database, settings=QUIET)) as served:
            yield served
    else:
        yield str(request.getfixturevalue("emptied_postgres_url")) if request.param == "postgresql" else database


@pytest.fixture
async def backend(url: str, settings: Settings) -> AsyncIterator[Backend]:
    async with connect(url, settings=settings) as opened:
        yield opened


@task
async def double(x: int) -> int:
    return 2 * x


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def fail(x: int) -> int:
    raise ValueError(f"no {x}")


@task(trigger=all_finished)
def whatever() -> int:
    return 4


def everything() -> Flow:
    """Return a flow with whatever may and may not step ahead."""
    with Flow("everything") as flow:
        x = Parameter("x", default=1)
        tagged = Parameter("tagged", default=2, tags={"tagged"})
        one = double(x)
        joined = add(one, double(tagged))
        chained = double(double(joined))
        mapped = double.map([1, 2, 3])
        total = whatever(upstream_tasks=[mapped, chained])
        failed = fail(total)
        double(failed)
        whatever(upstream_tasks=[failed])
    return flow


async def run(flow: Flow, backend: Backend, settings: Settings) -> dict[tuple[str, int], list[tuple[str, Any]]]:
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    await runner.run()
    assert runner.flow_run_id is not None
    _, histories = await backend.get_flow_run_history(runner.flow_run_id)
    return {(one.task_slug, one.map_index): [(state.state, state.message) for state in one.states] for one in histories}


async def test_what_is_recorded_is_the_same_as_step_by_step(backend: Backend, settings: Settings) -> None:
    flow = everything()
    assert await run(flow, backend, settings) == await run(flow, FaultyBackend(backend), settings)


async def test_each_step_of_a_chain_costs_one_commit(tmp_path: Path, settings: Settings) -> None:
    steps = 6
    with Flow("chain") as flow:
        last: Any = Parameter("x", default=1)
        for _ in range(steps):
            last = double(last)
    async with StoreBackend(f"sqlite:///{tmp_path / 'runs.db'}", settings=settings) as backend:
        await run(flow, backend, settings)
        batches: list[int] = []
        send = backend._outbox._send

        async def counted(writes: list[Any], key: str) -> Any:
            batches.append(len(writes))
            return await send(writes, key)

        backend._outbox._send = counted  # type: ignore[method-assign]
        await run(flow, backend, settings)
    before = ["the start", "the first Running"]  # the end of the flow run goes with that of the last task
    assert len(batches) == steps + len(before)


class Meddled:
    """A backend at which somebody sets the state of a task run just before its runner records a Success."""

    def __init__(self, backend: Any, state: State) -> None:
        self._backend = backend
        self._state: State | None = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def set_task_run_state(self, task_run_id: str, version: int, state: State, *args: Any, **options: Any) -> Any:
        if isinstance(state, Success) and self._state is not None:
            meddled, self._state = self._state, None
            self._backend.set_task_run_state(task_run_id, version, meddled, flow_run_id=options["flow_run_id"])
        return self._backend.set_task_run_state(task_run_id, version, state, *args, **options)


@pytest.mark.parametrize(
    ("by_hand", "end", "bodies"),
    [
        (Failed, ["Pending", "TriggerFailed"], []),
        (Success, ["Pending", "Running", "Success"], [70]),
    ],
)
async def test_what_has_stepped_ahead_in_vain_begins_anew(
    backend: Backend, settings: Settings, by_hand: type[State], end: list[str], bodies: list[int]
) -> None:
    taken: list[int] = []

    @task
    def first() -> int:
        return 7

    @task
    def second(x: int) -> int:
        taken.append(x)
        return x

    with Flow("meddled") as flow:
        task(lambda x: x, name="third")(second(first()))
    given = await DefaultResult(settings.results_dir).write(70)
    history = await run(flow, Meddled(backend, by_hand("by hand", result=given)), settings)
    assert [state for state, _ in history["second-1", -1]] == end
    assert history["first-1", -1][1:] == [("Running", "Starting task run."), (by_hand.__name__, "by hand")]
    assert taken == bodies


async def test_a_task_of_which_somebody_hears_does_not_step_ahead(database: Backend, settings: Settings) -> None:
    heard: list[str] = []
    with Flow("meddled") as flow:
        hearing = task(lambda x: x, name="hears", state_handlers=[lambda _, old, new: heard.append(type(new).__name__)])
        hearing(double(1))
    await run(flow, Meddled(database, Failed("by hand")), settings)
    assert heard == ["TriggerFailed"]


class Noted:
    """A backend that notes each state that is sent for a task run, and how many others it rests on."""

    def __init__(self, backend: Any, hears: Callable[[State, int], None] = lambda state, rests_on: None) -> None:
        self._backend = backend
        self._hears = hears
        self.sent: list[tuple[str, str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def set_task_run_state(self, task_run_id: str, version: int, state: State, *args: Any, **options: Any) -> Any:
        rests_on = len(options.get("rests_on", ()))
        self.sent.append((task_run_id, type(state).__name__, rests_on))
        self._hears(state, rests_on)
        return self._backend.set_task_run_state(task_run_id, version, state, *args, **options)


@pytest.fixture
async def database(tmp_path: Path, settings: Settings) -> AsyncIterator[Backend]:
    async with StoreBackend(f"sqlite:///{tmp_path / 'runs.db'}", settings=settings) as opened:
        yield opened


async def test_nothing_rests_on_another_but_what_has_stepped_ahead_of_it(database: Backend, settings: Settings) -> None:
    noted = Noted(database)
    runner = CloudFlowRunner(everything(), backend=noted, settings=settings)
    await runner.run()
    assert runner.flow_run_id is not None
    info = await database.get_flow_run_info(runner.flow_run_id)
    slugs = {one.id: one.task_slug for one in info.task_runs}
    children = {one.id for one in info.task_runs if one.map_index is not None and one.map_index >= 0}
    resting = [(slugs[run], state) for run, state, rests_on in noted.sent if rests_on and run not in children]
    # no child of a map does, nor what comes after one: it is started in its turn
    assert len(resting) == sum(rests_on > 0 for _, _, rests_on in noted.sent)
    assert set(resting) - {("fail-1", "Running")} == {
        ("x", "Success"),  # on its own Running
        *((slug, "Running") for slug in ("double-1", "double-2", "add-1", "double-3", "double-4")),
    }


async def test_what_has_stepped_ahead_is_stopped_once(database: Backend, settings: Settings) -> None:
    taken: list[int] = []

    def stop(state: State, rests_on: int) -> None:
        if rests_on:
            runner.cancel("user")

    with Flow("stopped") as flow:
        last = task(lambda x: taken.append(x), name="second")(double(1))
        double(last)
    runner = CloudFlowRunner(flow, settings=settings)
    runner.backend = noted = Noted(database, stop)
    assert isinstance(await runner.run(), Cancelled)
    assert runner.flow_run_id is not None
    info = await database.get_flow_run_info(runner.flow_run_id)
    slugs = {one.id: one.task_slug for one in info.task_runs}
    assert sorted((slugs[run], state) for run, state, _ in noted.sent) == [
        ("double-1", "Running"),
        ("double-1", "Success"),
        ("double-2", "Cancelled"),
        ("second-1", "Cancelled"),
        ("second-1", "Running"),
    ]
    assert taken == []


class Overheard:
    """A backend that tells when the end of a flow run has been sent behind the last states of its tasks."""

    def __init__(self, backend: Any, hears: Callable[[str], None] = lambda flow_run_id: None) -> None:
        self._backend = backend
        self.hears = hears
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def set_flow_run_state(self, flow_run_id: str, version: int, state: State, **options: Any) -> Any:
        if options.get("rests_on"):
            self.heard.append(type(state).__name__)
            self.hears(flow_run_id)
        return self._backend.set_flow_run_state(flow_run_id, version, state, **options)


def two_in_a_row() -> Flow:
    with Flow("two in a row") as flow:
        double(double(1))
    return flow


async def recorded(backend: Backend, runner: CloudFlowRunner) -> tuple[str, int, set[str]]:
    """Return the state that a flow run has, how many it has had, and the states of its task runs."""
    assert runner.flow_run_id is not None
    info = await backend.get_flow_run_info(runner.flow_run_id)
    return type(info.state).__name__, info.version, {type(one.state).__name__ for one in info.task_runs}


async def test_the_end_of_a_flow_run_is_sent_behind_that_of_its_last_task(backend: Backend, settings: Settings) -> None:
    overheard = Overheard(backend)
    runner = CloudFlowRunner(everything(), backend=overheard, settings=settings)
    assert (await runner.run()).is_failed()
    assert overheard.heard == []  # how the last tasks fail is not foreseen
    runner = CloudFlowRunner(two_in_a_row(), backend=overheard, settings=settings)
    state = await runner.run()
    assert state.is_successful()
    assert state["double-2"].result == 4
    assert overheard.heard == ["Success"]
    assert await recorded(backend, runner) == ("Success", 3, {"Success"})


async def test_it_is_sent_once_behind_several_that_end_one_after_the_other(
    database: Backend, settings: Settings
) -> None:
    is_ending = asyncio.Event()

    @task
    async def later() -> None:
        await is_ending.wait()

    with Flow("several") as flow:
        double(1)
        later()
    overheard = Overheard(Noted(database, lambda state, _: is_ending.set() if isinstance(state, Success) else None))
    runner = CloudFlowRunner(flow, backend=overheard, settings=settings)
    assert (await runner.run()).is_successful()
    assert overheard.heard == ["Success"]
    assert await recorded(database, runner) == ("Success", 3, {"Success"})


async def test_a_stop_beside_the_end_comes_too_late(backend: Backend, settings: Settings) -> None:
    runner = CloudFlowRunner(two_in_a_row(), settings=settings)
    runner.backend = overheard = Overheard(backend, lambda flow_run_id: runner.cancel())
    state = await runner.run()
    assert state.is_successful()
    assert state["double-2"].result == 4
    assert overheard.heard == ["Success"]
    assert await recorded(backend, runner) == ("Success", 3, {"Success"})


async def test_a_caller_that_is_cancelled_beside_the_end_leaves_it(backend: Backend, settings: Settings) -> None:
    runner = CloudFlowRunner(two_in_a_row(), settings=settings)
    running = asyncio.ensure_future(runner.run())
    runner.backend = Overheard(
        backend, lambda flow_run_id: asyncio.get_running_loop().call_soon(running.cancel) and None
    )
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await recorded(backend, runner) == ("Success", 3, {"Success"})


async def test_a_cancel_before_the_end_stands(backend: Backend, settings: Settings) -> None:
    def ask(flow_run_id: str) -> None:
        backend.set_flow_run_state(flow_run_id, None, Cancelling("by hand"))

    runner = CloudFlowRunner(two_in_a_row(), backend=Overheard(backend, ask), settings=settings)
    assert isinstance(await runner.run(), Cancelled)
    assert await recorded(backend, runner) == ("Cancelled", 4, {"Success"})


async def test_an_end_that_rests_on_what_is_refused_is_not_recorded(backend: Backend, settings: Settings) -> None:
    with Flow("one") as flow:
        double(1)
    overheard = Overheard(Meddled(backend, Failed("by hand")))
    runner = CloudFlowRunner(flow, backend=overheard, settings=settings)
    assert (await runner.run()).is_failed()
    assert overheard.heard == ["Success"]
    assert await recorded(backend, runner) == ("Failed", 3, {"Failed"})


async def test_who_has_a_say_in_the_end_is_asked_before_it_is_sent(backend: Backend, settings: Settings) -> None:
    class Refined(CloudFlowRunner):
        async def determine_final_state(self, *args: Any, **options: Any) -> State:
            return await super().determine_final_state(*args, **options)

    heard = two_in_a_row()
    heard.state_handlers.append(lambda flow, old, new: new)
    decided = two_in_a_row()
    decided.terminal_state_handler = lambda flow, state, states: Failed("No.")
    overheard = Overheard(backend)
    for runner in (
        CloudFlowRunner(heard, backend=overheard, settings=settings),
        CloudFlowRunner(decided, backend=overheard, settings=settings),
        Refined(two_in_a_row(), backend=overheard, settings=settings),
    ):
        state = await runner.run()
        assert await recorded(backend, runner) == (type(state).__name__, 3, {"Success"})
    assert overheard.heard == []


async def test_what_was_logged_is_stored_before_the_end(backend: Backend, settings: Settings) -> None:
    @task
    async def tell() -> None:
        tell.logger.warning("heard")

    with Flow("telling") as flow:
        tell()
    overheard = Overheard(backend)
    assert (await CloudFlowRunner(flow, backend=overheard, settings=settings).run()).is_successful()
    assert overheard.heard == []
