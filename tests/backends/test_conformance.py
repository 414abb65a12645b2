"""What every backend promises, held against each of them."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from flowloop.backends import connect
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.engine import Flow, Parameter, Secret, context, task
from flowloop.engine.backend import (
    MOST_URGENT,
    Backend,
    FlowRunClaim,
    FlowRunFilter,
    FlowRunInfoResult,
    FlowSummary,
    LimitRecord,
    LogRecord,
    TaskRunInfoResult,
)
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import (
    BackendRejected,
    FlowRunOwned,
    OwnershipLost,
    SerializationError,
    VersionLockMismatch,
)
from flowloop.engine.result import Result
from flowloop.engine.results import PrefectResult
from flowloop.engine.schedules import IntervalSchedule, serialize_schedule
from flowloop.engine.serialization import encode_state
from flowloop.engine.settings import Settings
from flowloop.engine.signals import PAUSE
from flowloop.engine.state import (
    Cached,
    Cancelled,
    Cancelling,
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
)

from .runs import MISSING, flow_document, started, task_document, unique
from .serving import serve

NOON = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="module", params=["memory", "sqlite", "postgresql", "client-sqlite", "client-postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the backend under test records. One database serves all tests: none minds what others left in it."""
    kind = request.param
    if kind == "memory":
        database = "memory://"
    elif kind.endswith("sqlite"):
        database = f"sqlite:///{tmp_path_factory.mktemp(kind) / 'flowloop.db'}"
    else:
        database = asyncio.run(request.getfixturevalue("postgres_server").make_database())
    if not kind.startswith("client"):
        yield database
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FLOWLOOP_SECRET_KEY", "a key")
        app = create_app(database, settings=ServerSettings(require_api_key=False))
    with serve(app) as served:
        yield served


@pytest.fixture
async def backend(url: str) -> AsyncIterator[Backend]:
    async with connect(url, settings=Settings(secret_key="a key")) as opened:
        yield opened


# ---- registration ------------------------------------------------------------------------------------


async def test_a_flow_is_registered_in_versions(backend: Backend) -> None:
    project = unique("project")
    first = await backend.register_flow(flow_document(), project_name=project)
    again = await backend.register_flow(flow_document(), project_name=project)
    other = await backend.register_flow(flow_document("other"), project_name=project)
    elsewhere = await backend.register_flow(flow_document(), project_name=unique("another project"))
    assert [(flow.version, flow.created) for flow in (first, again, other, elsewhere)] == [
        (1, True),
        (2, True),
        (1, True),
        (1, True),
    ]
    assert len({first.id, again.id, other.id, elsewhere.id}) == 4


async def test_under_the_same_key_a_flow_is_registered_once(backend: Backend) -> None:
    project = unique("project")
    first = await backend.register_flow(flow_document(), project_name=project, idempotency_key="a")
    again = await backend.register_flow(flow_document(), project_name=project, idempotency_key="a")
    changed = await backend.register_flow(flow_document(), project_name=project, idempotency_key="b")
    assert (again.id, again.version, again.created) == (first.id, 1, False)
    assert (changed.version, changed.created) == (2, True)


async def test_flows_of_one_version_group_are_versions_of_each_other(backend: Backend) -> None:
    project = unique("project")
    group = unique("group")
    first = await backend.register_flow(flow_document("old name"), project_name=project, version_group_id=group)
    renamed = await backend.register_flow(flow_document("new name"), project_name=project, version_group_id=group)
    assert (first.version, renamed.version) == (1, 2)


async def test_a_new_flow_run_is_scheduled_and_has_a_pending_task_run_for_each_task(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(parameters=[{"name": "n"}]), project_name="demo")
    flow_run_id = await backend.create_flow_run(
        flow.id, parameters={"n": 3}, context={"by": "hand"}, name="first", labels=["a"], scheduled_start_time=NOON
    )
    info = await backend.get_flow_run_info(flow_run_id)
    assert (info.id, info.name, info.flow_id, info.version) == (flow_run_id, "first", flow.id, 1)
    assert isinstance(info.state, Scheduled)
    assert info.state.start_time == info.scheduled_start_time == NOON
    assert (info.parameters, info.context, info.project.name) == ({"n": 3}, {"by": "hand"}, "demo")
    assert sorted(run.task_slug or "" for run in info.task_runs) == ["task-1", "task-2", "task-3"]
    assert {(type(run.state), run.version, run.map_index) for run in info.task_runs} == {(Pending, 1, -1)}
    assert len({run.task_id for run in info.task_runs}) == 3


async def test_a_flow_run_has_a_name_and_a_time_where_none_is_given(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    info = await backend.get_flow_run_info(await backend.create_flow_run(flow.id))
    assert info.name
    assert info.scheduled_start_time is not None
    assert info.scheduled_start_time.tzinfo is not None


async def test_the_parameters_of_a_run_are_the_defaults_and_what_is_given(backend: Backend) -> None:
    parameters = [
        {"name": "x", "slug": "x", "required": True, "default": None},
        {"name": "y", "slug": "y", "required": False, "default": 5},
    ]
    flow = await backend.register_flow(flow_document(parameters=parameters), project_name="demo")
    info = await backend.get_flow_run_info(await backend.create_flow_run(flow.id, parameters={"x": 1}))
    assert info.parameters == {"x": 1, "y": 5}
    with pytest.raises(BackendRejected, match=r"[Rr]equired parameters.*x"):
        await backend.create_flow_run(flow.id)


async def test_a_parameter_there_is_not_is_refused_and_a_value_that_none_takes_as_a_change(backend: Backend) -> None:
    name = unique("flow")
    parameters = [{"name": "n", "required": True, "schema": {"type": "integer"}}, {"name": "any", "required": False}]
    flow = await backend.register_flow(flow_document(name, parameters=parameters), project_name="demo")
    with pytest.raises(BackendRejected, match="the flow has no parameter 'm'; it has: any, n"):
        await backend.create_flow_run(flow.id, parameters={"n": 1, "m": 2})
    created = await backend.create_flow_run(flow.id, parameters={"n": "one"})
    assert [one.id for one in await backend.list_flow_runs(only=FlowRunFilter(flow=name))] == [created]
    assert (await backend.get_flow_run_info(created)).parameters["n"] == "one"
    for changed, value in (("m", 1), ("n", None)):
        with pytest.raises(BackendRejected, match=f"parameter '{changed}'"):
            await backend.direct_flow_run(created, "set_parameter", task=changed, value=value)
    (found,) = [one for one in await backend.list_flows() if one.name == name]
    assert [(one["name"], one.get("schema")) for one in found.parameters] == [("n", {"type": "integer"}), ("any", None)]


async def test_under_the_same_key_a_flow_run_is_created_once(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(parameters=[{"name": "n"}]), project_name="demo")
    one = await backend.create_flow_run(flow.id, idempotency_key="k", parameters={"n": 1})
    assert await backend.create_flow_run(flow.id, idempotency_key="k", parameters={"n": 2}) == one
    assert await backend.create_flow_run(flow.id, idempotency_key="other") != one
    assert await backend.create_flow_run(flow.id) != await backend.create_flow_run(flow.id)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {"a": [1, (float("nan"),)]}])
async def test_what_json_has_no_number_for_is_refused_and_nothing_is_created(backend: Backend, value: Any) -> None:
    name = unique("flow")
    flow = await backend.register_flow(flow_document(name, parameters=[{"name": "n"}]), project_name="demo")
    for given in ({"parameters": {"n": value}}, {"context": {"n": value}}):
        with pytest.raises(BackendRejected, match=r"n[.\[\]0-9a]* is -?(nan|inf)"):
            await backend.create_flow_run(flow.id, **given)
        with pytest.raises(BackendRejected, match=r"n[.\[\]0-9a]* is -?(nan|inf)"):
            await backend.start_flow_run(flow.id, owner="me", **given)
    known = {"parameters": {"n": 1.5}, "context": {"n": [2.5]}}
    run = await backend.create_flow_run(flow.id, **known)
    found = [one.id for one in await backend.list_flow_runs(only=FlowRunFilter(flow=name))]
    assert found == [run]


@dataclasses.dataclass
class Window:
    start: datetime.datetime
    days: set[datetime.date]


TYPED = {
    "window": (Window, Window(NOON, {NOON.date()})),
    "path": (Path, Path("a/b")),
    "amounts": (dict[str, decimal.Decimal], {"a": decimal.Decimal("1.10")}),
    "pair": (tuple[int, uuid.UUID], (1, uuid.UUID(int=7))),
    "length": (datetime.timedelta | None, datetime.timedelta(hours=1, microseconds=3)),
}


async def test_typed_parameters_have_their_types_in_the_process_that_goes_on(backend: Backend, tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []

    def built() -> Flow:
        @task
        async def use(**given: Any) -> None:
            got.append(given)
            if not context.get("resume"):
                raise PAUSE("until it is resumed")

        with Flow("typed") as flow:
            use(**{name: Parameter(name, type=kind) for name, (kind, _) in TYPED.items()})
        return flow

    settings = Settings(home=str(tmp_path))
    given = {name: value for name, (_, value) in TYPED.items()}
    flow_run_id = await create_flow_run(built(), backend, given, settings=settings)
    first = await CloudFlowRunner(built(), backend=backend, settings=settings).run(context={"flow_run_id": flow_run_id})
    assert not first.is_finished()
    await backend.direct_flow_run(flow_run_id, "resume", task="use-1")
    last = await CloudFlowRunner(built(), backend=backend, settings=settings).run(context={"flow_run_id": flow_run_id})
    assert last.is_successful()
    assert got == [given, given]
    assert [{name: type(one) for name, one in them.items()} for them in got] == [
        {name: type(one) for name, one in given.items()}
    ] * 2


async def test_a_run_of_a_flow_that_does_not_exist_is_refused(backend: Backend) -> None:
    with pytest.raises(BackendRejected, match="not found"):
        await backend.create_flow_run(MISSING)


# ---- states ------------------------------------------------------------------------------------------


async def test_every_recorded_state_adds_one_to_the_version(backend: Backend) -> None:
    run = await started(backend)
    assert run.info.version == 2
    task = run.tasks[0]
    for version, state in enumerate([Running("one"), Failed("two"), Retrying("three"), Running("four")], start=1):
        assert await backend.set_task_run_state(task.id, version, state) is state
    info = await backend.get_flow_run_info(run.id)
    assert {(each.id == task.id, each.version, type(each.state)) for each in info.task_runs} == {
        (True, 5, Running),
        (False, 1, Pending),
    }


async def test_what_waits_to_be_acknowledged_is_the_backlog(backend: Backend) -> None:
    run = await started(backend)
    assert backend.backlog == 0
    writes = [asyncio.create_task(backend.set_task_run_state(task.id, 1, Running("go"))) for task in run.tasks]
    await asyncio.sleep(0)
    assert backend.backlog == (0 if backend.url == "memory://" else len(writes))
    await asyncio.gather(*writes)
    assert backend.backlog == 0


STATES: list[State] = [
    Pending("wait", context={"tags": ["a", "b"]}),
    Scheduled("later", start_time=NOON),
    Retrying("again", start_time=NOON, run_count=2),
    Submitted(state=Scheduled("later", start_time=NOON)),
    Running('quotes " and \\ and ünïcode ☃ and \u2028'),
    Mapped("three", n_map_states=3),
    Success("stored", result=Result(location="2030/1/1/x.pickle")),
    Cached(
        "kept", hashed_inputs={"x": "abc"}, cached_parameters={"p": [1, {"q": None}]}, cached_result_expiration=NOON
    ),
    Failed("no", result=ValueError("stays here")),
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
async def test_a_state_comes_back_as_it_was_written(backend: Backend, state: State) -> None:
    run = await started(backend)
    await backend.set_task_run_state(run.tasks[0].id, 1, state)
    found = await backend.get_task_run_state(run.tasks[0].id)
    assert type(found) is type(state)
    assert encode_state(found) == encode_state(state)


async def test_a_value_does_not_travel_but_its_place_does(backend: Backend) -> None:
    run = await started(backend)
    await backend.set_task_run_state(run.tasks[0].id, None, Success(result=Result(value=object(), location="here")))
    found = await backend.get_task_run_state(run.tasks[0].id)
    assert found.result is None
    assert found._result.location == "here"


async def test_flow_run_states_are_recorded_too(backend: Backend) -> None:
    run = await started(backend)
    state = Success("all good")
    assert await backend.set_flow_run_state(run.id, 2, state) is state
    found = await backend.get_flow_run_state(run.id)
    assert (type(found), found.message) == (Success, "all good")
    assert (await backend.get_flow_run_info(run.id)).version == 3


async def test_a_stale_version_is_refused_and_nothing_is_written(backend: Backend) -> None:
    run = await started(backend)
    task = run.tasks[0]
    await backend.set_task_run_state(task.id, 1, Running("mine"))
    for version in (0, 1, 3, 100):
        with pytest.raises(VersionLockMismatch):
            await backend.set_task_run_state(task.id, version, Running("the straggler's"))
    with pytest.raises(VersionLockMismatch):
        await backend.set_flow_run_state(run.id, 1, Failed("the straggler's"))
    assert (await backend.get_task_run_state(task.id)).message == "mine"
    info = await backend.get_flow_run_info(run.id)
    assert info.version == 2
    assert {each.version for each in info.task_runs if each.id == task.id} == {2}


async def test_a_repeated_message_is_acknowledged_again_and_recorded_once(backend: Backend) -> None:
    run = await started(backend)
    task = run.tasks[0]
    running, done = Running("go"), Success("done")
    for state, version in ((running, 1), (running, 1), (done, 2), (done, 2), (running, 1)):
        assert await backend.set_task_run_state(task.id, version, state) is state
    await backend.set_flow_run_state(run.id, 1, Running("go"))
    _, histories = await backend.get_flow_run_history(run.id)
    states = {history.id: [record.state for record in history.states] for history in histories}
    assert states[task.id] == ["Pending", "Running", "Success"]
    assert (await backend.get_flow_run_info(run.id)).version == 2


async def test_without_a_version_nothing_is_checked(backend: Backend) -> None:
    run = await started(backend)
    for state in (Running("one"), Failed("two"), Retrying("three")):
        await backend.set_task_run_state(run.tasks[0].id, None, state)
    await backend.set_flow_run_state(run.id, None, Failed("over"))
    assert (await backend.get_task_run_state(run.tasks[0].id)).message == "three"
    assert (await backend.get_flow_run_info(run.id)).version == 3


@pytest.mark.parametrize(
    ("first", "then", "follows"),
    [
        (Success, Running, False),
        (Success, Failed, False),
        (Success, Cached, True),
        (Success, Scheduled, True),
        (Cached, Cached, False),
        (Mapped, Retrying, False),
        (Skipped, Pending, True),
        (Failed, Running, False),
        (Failed, Retrying, True),
        (TriggerFailed, Resume, True),
        (TimedOut, Success, False),
        (Cancelled, Retrying, False),
        (Cancelled, Pending, True),
        (Looped, Running, True),
        (Looped, Success, True),
    ],
)
@pytest.mark.parametrize("versioned", [True, False], ids=["with version", "without"])
async def test_a_finished_run_is_final_unless_it_is_retried_cached_or_restarted(
    backend: Backend, first: type[State], then: type[State], follows: bool, versioned: bool
) -> None:
    run = await started(backend)
    task = run.tasks[0]
    await backend.set_task_run_state(task.id, 1, first("the end"))
    write = backend.set_task_run_state(task.id, 2 if versioned else None, then("after it"))
    if follows:
        await write
    else:
        with pytest.raises(BackendRejected, match="finished"):
            await write
    found = await backend.get_task_run_state(task.id)
    assert (type(found), found.message) == ((then, "after it") if follows else (first, "the end"))


async def test_a_finished_flow_run_is_final_too(backend: Backend) -> None:
    run = await started(backend)
    await backend.set_flow_run_state(run.id, 2, Cancelled("over"))
    for version in (3, None):
        with pytest.raises(BackendRejected, match="finished"):
            await backend.set_flow_run_state(run.id, version, Running())
    await backend.set_flow_run_state(run.id, 3, Scheduled("again"))


async def test_unknown_runs_are_refused(backend: Backend) -> None:
    with pytest.raises(BackendRejected):
        await backend.set_task_run_state(MISSING, 1, Running())
    with pytest.raises(BackendRejected):
        await backend.set_flow_run_state(MISSING, None, Running())
    for read in (backend.get_flow_run_info, backend.get_flow_run_state, backend.get_task_run_state):
        with pytest.raises(BackendRejected):
            await read(MISSING)
        with pytest.raises(BackendRejected):
            await read("no id at all")


async def test_who_reads_at_the_same_moment_gets_what_was_asked_for(backend: Backend) -> None:
    runs = [await started(backend, tasks=tasks) for tasks in (1, 3, 2)]
    asked = [runs[0].id, MISSING, runs[1].id, runs[0].id, "no id at all", runs[2].id]
    found = await asyncio.gather(*map(backend.get_flow_run_info, asked), return_exceptions=True)
    assert [len(info.task_runs) if isinstance(info, FlowRunInfoResult) else type(info) for info in found] == [
        1,
        BackendRejected,
        3,
        1,
        BackendRejected,
        2,
    ]


async def test_a_state_that_is_too_large_is_refused(backend: Backend) -> None:
    run = await started(backend)
    with pytest.raises(BackendRejected, match="too large"):
        await backend.set_task_run_state(run.tasks[0].id, 1, Running("x" * 1_000_000))
    await backend.set_task_run_state(run.tasks[0].id, 1, Running("x" * 900_000))


async def test_a_state_that_is_no_json_is_refused_before_it_is_sent(backend: Backend) -> None:
    run = await started(backend)
    with pytest.raises(SerializationError):
        await backend.set_task_run_state(run.tasks[0].id, 1, Running(context={"a": object()}))
    await backend.set_task_run_state(run.tasks[0].id, 1, Running())


async def test_a_task_run_cannot_run_in_a_flow_run_that_does_not(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    info = await backend.get_flow_run_info(await backend.create_flow_run(flow.id))
    task = info.task_runs[0]
    with pytest.raises(BackendRejected, match="not in a running state"):
        await backend.set_task_run_state(task.id, 1, Running())
    await backend.set_task_run_state(task.id, 1, Failed("not run"))
    await backend.set_flow_run_state(info.id, 1, Running())
    await backend.cancel_flow_run(info.id)
    with pytest.raises(BackendRejected, match="not in a running state"):
        await backend.set_task_run_state(info.task_runs[1].id, 1, Running())


async def test_the_states_of_many_runs_written_at_once_are_all_there_in_order(backend: Backend) -> None:
    run = await started(backend, tasks=1)
    children = await backend.get_task_run_infos(run.id, run.tasks[0].task_id, range(100))

    async def live(child: TaskRunInfoResult) -> None:
        for version, state in enumerate([Running(), Failed("once"), Retrying("more"), Running(), Success()], start=1):
            await backend.set_task_run_state(child.id, version, state)

    await asyncio.gather(*(live(child) for child in children))
    _, histories = await backend.get_flow_run_history(run.id)
    assert [history.map_index for history in histories] == [-1, *range(100)]
    for history in histories[1:]:
        assert [record.state for record in history.states] == [
            "Pending",
            "Running",
            "Failed",
            "Retrying",
            "Running",
            "Success",
        ]
        assert [record.version for record in history.states] == [1, 2, 3, 4, 5, 6]
        assert history.start_time is not None
        assert history.end_time is not None


async def test_one_bad_item_fails_alone(backend: Backend) -> None:
    run = await started(backend, tasks=40)
    good, stale, twice = run.tasks[:37], run.tasks[37], run.tasks[38]
    outcomes = await asyncio.gather(
        *(backend.set_task_run_state(task.id, 1, Running()) for task in good[:20]),
        backend.set_task_run_state(MISSING, 1, Running()),
        backend.set_task_run_state("no id at all", 1, Running()),
        backend.set_task_run_state(stale.id, 7, Running()),
        backend.set_task_run_state(twice.id, 1, Running("first")),
        backend.set_task_run_state(twice.id, 1, Running("second")),
        *(backend.set_task_run_state(task.id, 1, Running()) for task in good[20:]),
        return_exceptions=True,
    )
    expected: list[type] = [Running] * 20 + [BackendRejected, BackendRejected, VersionLockMismatch, Running]
    for outcome, kind in zip(outcomes, [*expected, VersionLockMismatch, *[Running] * 17], strict=True):
        assert isinstance(outcome, kind)
    info = await backend.get_flow_run_info(run.id)
    versions = {task.id: task.version for task in info.task_runs}
    assert {versions[task.id] for task in good} == {2}
    assert versions[stale.id] == 1
    assert (await backend.get_task_run_state(twice.id)).message == "first"


@pytest.mark.parametrize("turns", range(0, 24, 2))
async def test_a_cancelled_write_is_recorded_whole_or_not_at_all(backend: Backend, turns: int) -> None:
    run = await started(backend, tasks=2)
    victim, other = run.tasks
    write = asyncio.create_task(backend.set_task_run_state(victim.id, 1, Running("whole")))
    beside = asyncio.create_task(backend.set_task_run_state(other.id, 1, Running("beside")))
    for _ in range(turns):
        await asyncio.sleep(0)
    write.cancel()
    await beside
    await asyncio.wait([write])
    await backend.set_task_run_state(other.id, 2, Success())  # what was on its way before this has arrived
    info = await backend.get_flow_run_info(run.id)
    [found] = [task for task in info.task_runs if task.id == victim.id]
    assert (found.version, found.state.message) in ((1, "Task run created"), (2, "whole"))
    await backend.set_task_run_state(victim.id, found.version, Success())


async def test_a_restarted_task_run_finds_the_inputs_it_had(backend: Backend) -> None:
    run = await started(backend)
    task = run.tasks[0]
    await backend.set_task_run_state(task.id, 1, Retrying("again", cached_inputs={"x": Result(location="there")}))
    await backend.set_task_run_state(task.id, 2, Running())
    await backend.set_task_run_state(task.id, 3, Failed("no"))
    found = await backend.get_task_run_state(task.id)
    assert {name: result.location for name, result in found.cached_inputs.items()} == {"x": "there"}
    await backend.set_task_run_state(task.id, 4, Retrying("more", cached_inputs={"y": Result(location="elsewhere")}))
    assert list((await backend.get_task_run_state(task.id)).cached_inputs) == ["y"]


# ---- cancellation ------------------------------------------------------------------------------------


async def test_cancelling_a_running_flow_run_lets_its_runner_end_it(backend: Backend) -> None:
    run = await started(backend)
    await backend.set_task_run_state(run.tasks[0].id, 1, Running())
    await backend.set_task_run_state(run.tasks[1].id, 1, Running())
    await backend.set_task_run_state(run.tasks[1].id, 2, Success())
    assert await backend.cancel_flow_run(run.id) == "Cancelling"
    assert isinstance(await backend.get_flow_run_state(run.id), Cancelling)
    assert isinstance(await backend.get_task_run_state(run.tasks[0].id), Running)
    await backend.set_flow_run_state(run.id, None, Cancelled("stopped"))
    states = [type(await backend.get_task_run_state(task.id)) for task in run.tasks]
    assert states == [Cancelled, Success, Cancelled]


async def test_who_is_too_late_hears_what_stands_there(backend: Backend) -> None:
    run = await started(backend)
    await backend.cancel_flow_run(run.id)
    with pytest.raises(VersionLockMismatch) as refused:
        await backend.set_flow_run_state(run.id, 2, Success("done"))
    standing = await backend.get_flow_run_state(run.id)
    assert type(refused.value.standing) is type(standing) is Cancelling
    assert refused.value.standing.message == standing.message


async def test_cancelled_said_again_ends_what_was_begun_again_since(backend: Backend) -> None:
    run = await started(backend)
    await backend.set_flow_run_state(run.id, None, Cancelled("stopped"))
    await backend.set_task_run_state(run.tasks[0].id, None, Pending())
    await backend.set_flow_run_state(run.id, None, Cancelled("stopped"))
    states = [type(await backend.get_task_run_state(task.id)) for task in run.tasks]
    assert states == [Cancelled, Cancelled, Cancelled]


async def test_cancelling_a_flow_run_that_has_not_started_ends_it_at_once(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id)
    assert await backend.cancel_flow_run(flow_run_id) == "Cancelled"
    info = await backend.get_flow_run_info(flow_run_id)
    assert {type(run.state) for run in info.task_runs} == {Cancelled}
    assert await backend.cancel_flow_run(flow_run_id) == "Cancelled"
    assert (await backend.get_flow_run_info(flow_run_id)).version == info.version


async def test_cancelling_a_finished_flow_run_changes_nothing(backend: Backend) -> None:
    run = await started(backend)
    await backend.set_flow_run_state(run.id, 2, Success())
    assert await backend.cancel_flow_run(run.id) == "Success"
    with pytest.raises(BackendRejected):
        await backend.cancel_flow_run(MISSING)


# ---- task runs ---------------------------------------------------------------------------------------


async def test_task_runs_of_mapped_children_are_created_once_and_come_in_the_order_asked(backend: Backend) -> None:
    run = await started(backend)
    task = run.tasks[0]
    children = await backend.get_task_run_infos(run.id, task.task_id, [2, 0, 1])
    assert [child.map_index for child in children] == [2, 0, 1]
    assert {(type(child.state), child.version, child.task_id) for child in children} == {(Pending, 1, task.task_id)}
    await backend.set_task_run_state(children[0].id, 1, Running("child 2"))
    again = await backend.get_task_run_infos(run.id, task.task_id, [0, 1, 2, 3])
    assert [child.id for child in again[:3]] == [children[1].id, children[2].id, children[0].id]
    assert (again[2].version, again[2].state.message) == (2, "child 2")
    assert (again[3].version, type(again[3].state)) == (1, Pending)
    assert len((await backend.get_flow_run_info(run.id)).task_runs) == 3, "static task runs only"
    assert await backend.get_task_run_infos(run.id, task.task_id, []) == []


async def test_one_task_run_is_asked_for_alike(backend: Backend) -> None:
    run = await started(backend)
    task = run.tasks[0]
    static = await backend.get_task_run_info(run.id, task.task_id)
    assert (static.id, static.map_index, static.version) == (task.id, -1, 1)
    child = await backend.get_task_run_info(run.id, task.task_id, 4)
    assert (child.map_index, child.version) == (4, 1)
    assert (await backend.get_task_run_info(run.id, task.task_id, 4)).id == child.id != static.id


async def test_coroutines_that_ask_for_the_same_child_get_the_same_task_run(backend: Backend) -> None:
    run = await started(backend)
    task = run.tasks[0]
    children = await asyncio.gather(*(backend.get_task_run_info(run.id, task.task_id, 0) for _ in range(10)))
    assert len({child.id for child in children}) == 1


async def test_task_runs_of_unknown_tasks_and_flow_runs_are_refused(backend: Backend) -> None:
    run = await started(backend)
    for flow_run_id, task_id in ((MISSING, run.tasks[0].task_id), (run.id, MISSING)):
        with pytest.raises(BackendRejected):
            await backend.get_task_run_info(flow_run_id, task_id, 0)
        with pytest.raises(BackendRejected):
            await backend.get_task_run_infos(flow_run_id, task_id, [0, 1])


async def test_a_task_run_can_be_named(backend: Backend) -> None:
    run = await started(backend)
    assert await backend.set_task_run_name(run.tasks[0].id, "load 2030") is True
    _, histories = await backend.get_flow_run_history(run.id)
    assert {history.id: history.name for history in histories}[run.tasks[0].id] == "load 2030"
    with pytest.raises(BackendRejected):
        await backend.set_task_run_name(MISSING, "nobody")


async def test_many_names_and_states_may_be_written_at_once(backend: Backend) -> None:
    run = await started(backend, tasks=1)
    children = await backend.get_task_run_infos(run.id, run.tasks[0].task_id, range(120))
    await asyncio.gather(
        *(backend.set_task_run_name(child.id, f"child {child.map_index}") for child in children),
        *(backend.set_task_run_state(child.id, 1, Running()) for child in children),
        backend.update_flow_run_heartbeat(run.id),
    )
    _, histories = await backend.get_flow_run_history(run.id)
    assert [(history.name, len(history.states)) for history in histories[1:]] == [
        (f"child {index}", 2) for index in range(120)
    ]


# ---- the cache ---------------------------------------------------------------------------------------


def cached(message: str) -> Cached:
    return Cached(message, result=Result(location=message))


async def test_cached_states_are_found_by_task_newest_first(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    task_id = ""
    for number in range(3):
        info = await backend.get_flow_run_info(await backend.create_flow_run(flow.id))
        [run] = [run for run in info.task_runs if run.task_slug == "task-1"]
        task_id = run.task_id
        await backend.set_task_run_state(run.id, 1, cached(f"result {number}"))
    found = await backend.get_latest_cached_states(task_id, None, long_ago)
    assert [state.message for state in found] == ["result 2", "result 1", "result 0"]
    assert {type(state) for state in found} == {Cached}
    assert found[0]._result.location == "result 2"
    assert await backend.get_latest_cached_states(task_id, None, NOON + datetime.timedelta(days=365_000)) == []
    assert await backend.get_latest_cached_states(MISSING, None, long_ago) == []


async def test_a_cache_key_is_shared_between_tasks_and_flows(backend: Backend) -> None:
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    key = unique("shared")
    for name in ("one", "other"):
        document = flow_document(name, tasks=0)
        document["tasks"] = [task_document("load-1", cache_key=key), task_document("own-1")]
        flow = await backend.register_flow(document, project_name="demo")
        info = await backend.get_flow_run_info(await backend.create_flow_run(flow.id))
        for run in info.task_runs:
            await backend.set_task_run_state(run.id, 1, cached(f"{name} {run.task_slug}"))
    found = await backend.get_latest_cached_states(MISSING, key, long_ago)
    assert [state.message for state in found] == ["other load-1", "one load-1"]
    assert await backend.get_latest_cached_states(MISSING, "unknown", long_ago) == []


async def test_a_state_is_no_longer_cached_when_the_run_went_on(backend: Backend) -> None:
    run = await started(backend)
    task = run.tasks[0]
    await backend.set_task_run_state(task.id, 1, cached("kept"))
    await backend.set_task_run_state(task.id, 2, Scheduled("again"))
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    assert await backend.get_latest_cached_states(task.task_id, None, long_ago) == []


# ---- lists and histories -----------------------------------------------------------------------------


async def test_flow_runs_are_listed_newest_first(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    ids = [await backend.create_flow_run(flow.id, name=f"run {number}") for number in range(5)]
    await backend.set_flow_run_state(ids[4], 1, Running("go"))
    listed = await backend.list_flow_runs()
    assert [summary.id for summary in listed[:5]] == ids[::-1]
    assert (listed[0].name, listed[0].flow_name, listed[0].state, listed[0].state_message) == (
        "run 4",
        "etl",
        "Running",
        "go",
    )
    assert listed[0].start_time is not None
    assert (listed[1].state, listed[1].start_time, listed[1].end_time) == ("Scheduled", None, None)
    assert len(await backend.list_flow_runs(limit=2)) == 2


async def test_a_history_shows_every_state_of_every_task_run(backend: Backend) -> None:
    run = await started(backend, tasks=2)
    await backend.set_task_run_state(run.tasks[0].id, 1, Running("go"))
    await backend.set_task_run_state(run.tasks[0].id, 2, Success("done"))
    await backend.set_task_run_state(run.tasks[1].id, 1, Mapped("two", n_map_states=2))
    await backend.get_task_run_infos(run.id, run.tasks[1].task_id, [0, 1])
    summary, histories = await backend.get_flow_run_history(run.id)
    assert (summary.id, summary.flow_name, summary.state) == (run.id, "etl", "Running")
    assert [(history.task_slug, history.map_index) for history in histories] == [
        ("task-1", -1),
        ("task-2", -1),
        ("task-2", 0),
        ("task-2", 1),
    ]
    first = histories[0]
    assert [(record.version, record.state, record.message) for record in first.states] == [
        (1, "Pending", "Task run created"),
        (2, "Running", "go"),
        (3, "Success", "done"),
    ]
    assert first.start_time is not None
    assert first.end_time is not None
    assert first.start_time <= first.end_time
    assert all(record.timestamp.tzinfo is not None for record in first.states)


async def test_a_history_is_found_by_the_beginning_of_an_id_or_by_name(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    nightly = unique("nightly")
    older = await backend.create_flow_run(flow.id, name=nightly)
    newer = await backend.create_flow_run(flow.id, name=nightly)
    assert (await backend.get_flow_run_history(nightly))[0].id == newer
    # other tests have left runs behind whose ids, which begin with the time, may begin like these
    others = [run.id for run in await backend.list_flow_runs(limit=1000) if run.id != older]
    length = next(n for n in range(1, 37) if not any(one.startswith(older[:n]) for one in others))
    assert (await backend.get_flow_run_history(older[:length]))[0].id == older
    if length > 1:
        with pytest.raises(BackendRejected, match=r"(?i)several"):
            await backend.get_flow_run_history(older[: length - 1])
    for missing in ("weekly", MISSING, "fffffff0", ""):
        with pytest.raises(BackendRejected):
            await backend.get_flow_run_history(missing)


async def test_a_history_has_the_tracebacks_of_failures_alone(backend: Backend) -> None:
    run = await started(backend, tasks=2)
    told = {"traceback": "Traceback …\n  File …"}
    await backend.set_task_run_state(run.tasks[0].id, 1, Running("go", context=dict(told)))
    await backend.set_task_run_state(run.tasks[0].id, 2, Failed("no", context=dict(told)))
    await backend.set_task_run_state(run.tasks[0].id, 3, Retrying("again", start_time=NOON))
    await backend.set_task_run_state(run.tasks[1].id, 1, Failed("no"))
    _, histories = await backend.get_flow_run_history(run.id)
    failed = [record.traceback for history in histories for record in history.states if record.state == "Failed"]
    assert failed == ["Traceback …\n  File …", None]
    others = [record.traceback for history in histories for record in history.states if record.state == "Retrying"]
    assert others == [None]


# ---- lists -------------------------------------------------------------------------------------------


async def test_a_list_of_flow_runs_holds_what_its_filter_lets_through(backend: Backend) -> None:
    part = unique("50%_of it")
    flow = await backend.register_flow(flow_document(part), project_name="demo")
    other = await backend.register_flow(flow_document(unique("another")), project_name="demo")
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    done = await backend.create_flow_run(flow.id, name="first")
    await backend.set_flow_run_state(done, 1, Running("go"))
    await backend.set_flow_run_state(done, 2, Success("done"))
    planned = await backend.create_flow_run(flow.id, name="second", scheduled_start_time=NOON)
    named = await backend.create_flow_run(other.id, name=f"of {part.upper()}")
    after = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)

    async def found(**fields: Any) -> list[str]:
        ours = {done: "done", planned: "planned", named: "named"}
        runs = await backend.list_flow_runs(1000, FlowRunFilter(**fields))
        return [ours[run.id] for run in runs if run.id in ours]

    assert await found() == ["named", "planned", "done"]
    assert await found(flow=part) == ["planned", "done"]
    assert await found(flow=part, states=("Success", "Failed")) == ["done"]
    assert await found(search=part[2:].upper()) == ["named", "planned", "done"]
    assert await found(search="%") == ["named", "planned", "done"]
    assert await found(search="no such") == []
    assert await found(since=before, until=after, due_before=after) == ["named", "done"]
    assert await found(until=before) == await found(since=after) == []
    assert len(await backend.list_flow_runs(1, FlowRunFilter(flow=part))) == 1
    (summary,) = await backend.list_flow_runs(1, FlowRunFilter(flow=part, states=("Scheduled",)))
    assert summary.scheduled_start_time == NOON


async def test_flows_are_listed_in_their_newest_version(backend: Backend) -> None:
    name, project = unique("flow"), unique("project")
    await backend.register_flow(flow_document(name), project_name=project)
    newest = await backend.register_flow(flow_document(name), project_name=project)
    (found,) = [flow for flow in await backend.list_flows() if flow.project == project]
    assert found == FlowSummary(
        newest.id, name, 2, project, has_schedule=False, schedule_active=found.schedule_active, next_run=None
    )


async def test_a_schedule_is_turned_off_and_on(backend: Backend) -> None:
    name = unique("scheduled")
    schedule = IntervalSchedule(interval=datetime.timedelta(days=1), start_date=NOON)
    document = flow_document(name, schedule=serialize_schedule(schedule))
    flow = await backend.register_flow(document, project_name="demo")
    if backend.url == "memory://":
        with pytest.raises(BackendRejected, match="no schedule"):
            await backend.set_schedule_active(flow.id, True)
        return
    for active in (False, True):
        assert await backend.set_schedule_active(flow.id, active)
        (found,) = [flow for flow in await backend.list_flows() if flow.name == name]
        assert (found.has_schedule, found.schedule_active) == (True, active)
    without = await backend.register_flow(flow_document(), project_name="demo")
    assert not await backend.set_schedule_active(without.id, True)


async def test_limits_are_set_and_taken_away(backend: Backend) -> None:
    tag = unique("tag")
    kinds = ["tag"] if backend.url == "memory://" else ["tag", "label"]
    for kind in kinds:
        await backend.set_limit(kind, tag, 3)
        await backend.set_limit(kind, tag, 2)
    assert [one for one in await backend.list_limits() if one.name == tag] == [
        LimitRecord(kind, tag, 2) for kind in kinds
    ]
    for kind in kinds:
        await backend.set_limit(kind, tag, None)
        with pytest.raises(BackendRejected, match="no limit"):
            await backend.set_limit(kind, tag, None)
    with pytest.raises(BackendRejected, match="kind"):
        await backend.set_limit("moon", tag, 1)
    assert not [one for one in await backend.list_limits() if one.name == tag]


async def test_a_rate_is_set_and_taken_away(backend: Backend) -> None:
    tag = unique("tag")
    await backend.set_limit("rate", tag, 3, period=60)
    await backend.set_limit("rate", tag, 10, period=0.5)
    assert [one for one in await backend.list_limits() if one.name == tag] == [LimitRecord("rate", tag, 10, 0.5)]
    for number, period in [(0, 1.0), (1, 0.0), (1, None), (1, -1.0)]:
        with pytest.raises(BackendRejected, match="rate"):
            await backend.set_limit("rate", tag, number, period=period)
    await backend.set_limit("rate", tag, None)
    with pytest.raises(BackendRejected, match="no limit"):
        await backend.set_limit("rate", tag, None)
    assert not [one for one in await backend.list_limits() if one.name == tag]


async def test_what_a_rate_holds_back_is_queued_until_its_turn(backend: Backend) -> None:
    tag = unique("tag")
    documents = [task_document(f"task-{n}", tags=[tag]) for n in range(4)]
    run = await started(backend, document={**flow_document(), "tasks": documents})
    await backend.set_limit("rate", tag, 2, period=600.0)
    running = Running("go", context={"tags": [tag]})
    begun = datetime.datetime.now(datetime.UTC)
    answers = [await backend.set_task_run_state(one.id, 1, running) for one in run.tasks]
    assert [type(answer) for answer in answers] == [Running, Running, Queued, Queued]
    for one, answer in zip(run.tasks[2:], answers[2:], strict=True):
        assert answer == await backend.get_task_run_state(one.id)
        assert answer.start_time is not None
        assert 0 < (answer.start_time - begun).total_seconds() <= 600 + 60, "when its turn comes"
        assert answer.message is not None
        assert f"of '{tag}' 2 begin in 600 s, and its turn is at" in answer.message
    await backend.set_task_run_state(run.tasks[0].id, 2, Success(context={"tags": [tag]}))
    again = await backend.set_task_run_state(run.tasks[3].id, 2, running)
    assert isinstance(again, Queued), "it is counted what begins, not what goes on"
    await backend.set_limit("rate", tag, None)
    assert await backend.set_task_run_state(run.tasks[3].id, 3, running) is running


async def test_what_goes_on_is_not_counted_again_by_a_rate(backend: Backend) -> None:
    tag = unique("tag")
    documents = [task_document(f"task-{n}", tags=[tag]) for n in range(2)]
    run = await started(backend, document={**flow_document(), "tasks": documents})
    await backend.set_limit("rate", tag, 2, period=3600.0)
    first, second = run.tasks
    tags = {"tags": [tag]}
    for version, state in enumerate([Submitted("there", context=tags), Running("go", context=tags)], 1):
        assert await backend.set_task_run_state(first.id, version, state) is state
    await backend.set_task_run_state(first.id, 3, Failed("no", context=tags))
    await backend.set_task_run_state(first.id, 4, Retrying("again", context=tags, start_time=NOON))
    again = Running("go again", context=tags)
    assert await backend.set_task_run_state(first.id, 5, again) is again, "its second beginning"
    assert isinstance(await backend.set_task_run_state(second.id, 1, Running("go", context=tags)), Queued)


async def test_a_place_goes_to_the_higher_priority_and_then_to_who_waits_longest(backend: Backend) -> None:
    tag = unique("tag")
    documents = [task_document(f"task-{n}", tags=[tag]) for n in range(5)]
    run = await started(backend, document={**flow_document(), "tasks": documents})
    await backend.set_limit("tag", tag, 1)

    def running(n: int) -> Running:
        return Running("go", context={"tags": [tag], **({"priority": priorities[n]} if priorities[n] else {})})

    priorities = [0, 0, 0, 5, -5]
    versions = [1] * 5
    order: list[int] = []

    async def ask(n: int) -> bool:
        answer = await backend.set_task_run_state(run.tasks[n].id, versions[n], running(n))
        versions[n] += 1
        return type(answer) is Running

    assert await ask(0)
    for n in (4, 2, 1, 3):
        assert not await ask(n)
    holder = 0
    while len(order) < 4:
        await backend.set_task_run_state(run.tasks[holder].id, versions[holder], Success(context={"tags": [tag]}))
        for n in (1, 4, 2, 3):  # whoever asks first
            if n not in order and await ask(n):
                order.append(n)
                holder = n
                break
        else:
            pytest.fail("a free place was given to nobody")
    assert order == [3, 2, 1, 4]


async def test_what_has_ended_waits_for_nothing(backend: Backend) -> None:
    tag = unique("tag")
    documents = [task_document(f"task-{n}", tags=[tag]) for n in range(3)]
    run = await started(backend, document={**flow_document(), "tasks": documents})
    await backend.set_limit("tag", tag, 1)
    first, second, third = run.tasks
    running = Running("go", context={"tags": [tag]})
    await backend.set_task_run_state(first.id, 1, running)
    for one in (second, third):
        assert isinstance(await backend.set_task_run_state(one.id, 1, running), Queued)
    await backend.set_task_run_state(second.id, 2, Cancelled(context={"tags": [tag]}))
    await backend.set_task_run_state(first.id, 2, Success(context={"tags": [tag]}))
    assert await backend.set_task_run_state(third.id, 2, running) is running


async def test_a_secret_is_kept_for_the_tasks_that_ask_for_it(backend: Backend, tmp_path: Path) -> None:
    name = unique("TOKEN")
    with Flow(unique("mail")) as flow:
        token = Secret(name)
        length = task(lambda word: len(word), name="length")(token)
    runner = CloudFlowRunner(flow, backend=backend, settings=Settings(home=str(tmp_path)))
    state = await runner.run()
    assert f"flowloop secrets set {name}" in str(state[token].message)

    await backend.set_secret(name, {"of": ["any", "kind"]})
    assert name in await backend.list_secrets()
    assert await backend.get_secret(name) == {"of": ["any", "kind"]}
    await backend.set_secret(name, "correct horse")
    state = await CloudFlowRunner(flow, backend=backend, settings=Settings(home=str(tmp_path))).run()
    assert state[length].result == len("correct horse")

    await backend.set_secret(name, None)
    assert name not in await backend.list_secrets()
    assert await backend.get_secret(name) is None
    with pytest.raises(BackendRejected, match="name"):
        await backend.set_secret("", "nothing")


async def test_logs_are_read_in_the_order_they_came_and_read_on(backend: Backend) -> None:
    run = await started(backend)
    lines = [LogRecord(run.id, run.tasks[0].id, NOON, "flowloop.run", "INFO", f"line {n}") for n in range(5)]
    late = LogRecord(run.id, None, NOON - datetime.timedelta(hours=1), "flowloop.run", "ERROR", "late")
    await backend.write_run_logs(lines)
    assert await backend.get_run_logs(run.id, limit=3) == lines[:3]
    await backend.write_run_logs([late])
    assert await backend.get_run_logs(run.id, skip=3) == [*lines[3:], late]
    assert await backend.get_run_logs(run.id, skip=6) == []


async def test_a_finished_run_is_restarted_from_what_did_not_succeed(backend: Backend) -> None:
    run = await started(backend, tasks=2)
    with pytest.raises(BackendRejected, match="only a finished"):
        await backend.restart_flow_run(run.id)
    await backend.set_task_run_state(run.tasks[0].id, 1, Success("done"))
    await backend.set_task_run_state(run.tasks[1].id, 1, Failed("no"))
    await backend.set_flow_run_state(run.id, 2, Failed("no"))
    assert await backend.restart_flow_run(run.id) == 1
    info = await backend.get_flow_run_info(run.id)
    assert type(info.state) is Scheduled
    assert {task.task_slug: type(task.state) for task in info.task_runs} == {"task-1": Success, "task-2": Pending}


# ---- directives --------------------------------------------------------------------------------------


async def test_each_directive_is_recorded_and_leads_to_its_state(backend: Backend) -> None:
    run = await started(backend, tasks=3)
    one, two, three = (task.task_slug for task in run.tasks)
    skipped = await backend.direct_flow_run(run.id, "skip", task=one, note="not today", author="ann")
    await backend.direct_flow_run(run.id, "set_result", task=two, value={"n": [1, None]})
    await backend.direct_flow_run(run.id, "skip", task=three, map_index=4, author="ann")
    await backend.set_task_run_state(run.tasks[2].id, 1, Paused("wait"))
    await backend.direct_flow_run(run.id, "resume", task=three, value=7)
    info = await backend.get_flow_run_info(run.id)
    states = {task.task_slug: task.state for task in info.task_runs}
    assert (type(states[one]), states[one].message) == (Skipped, "Skipped by ann: not today")
    assert type(states[two]) is Success
    assert (await PrefectResult().read(states[two]._result.location)).value == {"n": [1, None]}
    assert type(states[three]) is Resume
    assert states[three].context["answer"]["value"] == 7
    (child,) = await backend.get_task_run_infos(run.id, run.tasks[2].task_id, [4])
    assert type(child.state) is Skipped
    asked = await backend.list_directives(run.id)
    assert [(one.kind, one.task, one.map_index, one.author, one.value) for one in asked] == [
        ("skip", one, -1, "ann", None),
        ("set_result", two, -1, None, {"n": [1, None]}),
        ("skip", three, 4, "ann", None),
        ("resume", three, -1, None, 7),
    ]
    assert asked[0] == skipped
    assert all(one.obeyed is not None for one in asked)


async def test_a_directive_that_cannot_be_done_is_refused_and_not_recorded(backend: Backend) -> None:
    run = await started(backend, tasks=2)
    slug = run.tasks[0].task_slug
    await backend.set_task_run_state(run.tasks[0].id, 1, Running("go"))
    for kind, given, reason in [
        ("moon", {}, "no directive 'moon'"),
        ("skip", {}, "needs a task"),
        ("event", {}, "needs a name"),
        ("cancel", {"task": slug}, "as a whole"),
        ("event", {"task": "ready", "value": [1, float("nan")]}, r"\[1\] is nan"),
        ("skip", {"task": "missing"}, "has no task 'missing'"),
        ("skip", {"task": slug}, "is for what has not begun"),
        ("set_result", {"task": slug, "value": 1}, "is for what has not begun"),
        ("resume", {"task": slug}, "is for what is Paused"),
        ("reject", {}, "is for what is Paused"),
        ("restart", {}, "only a finished"),
    ]:
        with pytest.raises(BackendRejected, match=reason):
            await backend.direct_flow_run(run.id, kind, **given)
    with pytest.raises(BackendRejected):
        await backend.direct_flow_run(MISSING, "cancel")
    assert await backend.list_directives(run.id) == []


async def test_what_is_held_waits_and_is_released_but_not_resumed(backend: Backend) -> None:
    run = await started(backend, tasks=2)
    held, paused = (task.task_slug or "" for task in run.tasks)
    await backend.set_task_run_state(run.tasks[1].id, 1, Paused("wait"))
    await backend.direct_flow_run(run.id, "hold", task=held)
    for kind, slug, reason in [
        ("hold", held, "has not begun"),
        ("resume", held, "is held"),
        ("release", paused, "is not held"),
    ]:
        with pytest.raises(BackendRejected, match=reason):
            await backend.direct_flow_run(run.id, kind, task=slug)
    assert type(await backend.get_task_run_state(run.tasks[0].id)) is Paused
    await backend.direct_flow_run(run.id, "release", task=held)
    assert type(await backend.get_task_run_state(run.tasks[0].id)) is Scheduled


@pytest.mark.parametrize(("kind", "decided"), [("resume", Resume), ("reject", Failed)])
async def test_without_a_task_all_that_is_paused_is_decided(backend: Backend, kind: str, decided: type) -> None:
    run = await started(backend, tasks=3)
    for waits in run.tasks[:2]:
        await backend.set_task_run_state(waits.id, 1, Paused("wait"))
    await backend.direct_flow_run(run.id, "hold", task=run.tasks[2].task_slug)
    await backend.set_flow_run_state(run.id, None, Paused("tasks of it are paused"))
    await backend.direct_flow_run(run.id, kind, value=7)
    states = [await backend.get_task_run_state(one.id) for one in run.tasks]
    assert [type(state) for state in states] == [decided, decided, Paused]
    assert all(state.context["answer"]["value"] == 7 for state in states[:2])
    assert type(await backend.get_flow_run_state(run.id)) is Scheduled
    # nothing in it is paused any more: it is about the flow run
    await backend.set_flow_run_state(run.id, None, Paused("by hand"))
    await backend.direct_flow_run(run.id, kind)
    assert type(await backend.get_flow_run_state(run.id)) is decided


async def test_a_parameter_is_set_before_the_run_has_begun(backend: Backend) -> None:
    parameters = [{"name": "n", "slug": "n", "required": False, "default": 1}]
    document = flow_document(unique("set"), parameters=parameters)
    flow = await backend.register_flow(document, project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id)
    await backend.direct_flow_run(flow_run_id, "set_parameter", task="n", value=[2])
    assert (await backend.get_flow_run_info(flow_run_id)).parameters["n"] == [2]
    with pytest.raises(BackendRejected, match="no parameter 'm'"):
        await backend.direct_flow_run(flow_run_id, "set_parameter", task="m", value=1)
    await backend.set_flow_run_state(flow_run_id, None, Running("go"))
    with pytest.raises(BackendRejected, match="has begun"):
        await backend.direct_flow_run(flow_run_id, "set_parameter", task="n", value=3)


async def test_a_wire_cancel_is_a_directive_and_an_event_is_obeyed_once(backend: Backend) -> None:
    run = await started(backend)
    sent = await backend.direct_flow_run(run.id, "event", task="approved", value={"by": "ann"})
    assert sent.obeyed is None
    assert await backend.obey_directive(sent.id, 3)
    assert not await backend.obey_directive(sent.id, 4)
    assert await backend.cancel_flow_run(run.id) == "Cancelling"
    asked = await backend.list_directives(run.id)
    assert [(one.kind, one.epoch) for one in asked] == [("event", 3), ("cancel", asked[1].epoch)]
    await backend.set_flow_run_state(run.id, None, Cancelled("over"))
    with pytest.raises(BackendRejected, match="nothing in it waits"):
        await backend.direct_flow_run(run.id, "event", task="approved")


async def test_a_run_is_restarted_from_a_task_and_all_that_follows(backend: Backend) -> None:
    ends = [("task-1", "task-2"), ("task-2", "task-3")]
    edges = [
        {"upstream_task": {"slug": one}, "downstream_task": {"slug": two}, "key": None, "mapped": False}
        for one, two in ends
    ]
    run = await started(backend, document=flow_document(unique("chain"), tasks=4, edges=edges))
    for one in run.tasks:
        await backend.set_task_run_state(one.id, 1, Success("done"))
    await backend.set_flow_run_state(run.id, 2, Success("done"))
    await backend.direct_flow_run(run.id, "restart", task="task-2")
    info = await backend.get_flow_run_info(run.id)
    assert {task.task_slug: type(task.state) for task in info.task_runs} == {
        "task-1": Success,
        "task-2": Pending,
        "task-3": Pending,
        "task-4": Success,
    }


# ---- heartbeats, logs, artifacts, watching -----------------------------------------------------------


async def test_heartbeats_logs_and_artifacts_are_taken(backend: Backend) -> None:
    run = await started(backend)
    await backend.update_flow_run_heartbeat(run.id)
    line = LogRecord(run.id, run.tasks[0].id, NOON, "flowloop.run", "INFO", "héllo\n\x00?")
    await backend.write_run_logs([line, LogRecord(run.id, None, NOON, "flowloop.run", "ERROR", "x" * 5000)])
    await backend.write_run_logs([])
    await backend.write_run_logs([line] * 1200)
    first = await backend.create_task_run_artifact(run.tasks[0].id, "link", {"link": "/there"})
    second = await backend.create_task_run_artifact(run.tasks[0].id, "markdown", {"markdown": "# it"})
    assert first != second
    rows = [{"n": 1}, {"n": None}]
    await backend.update_task_run_artifact(first, rows)
    made = await backend.list_artifacts(run.id)
    assert [(one.id, one.task_run_id, one.kind, one.data) for one in made] == [
        (first, run.tasks[0].id, "link", rows),
        (second, run.tasks[0].id, "markdown", {"markdown": "# it"}),
    ]
    with pytest.raises(BackendRejected):
        await backend.create_task_run_artifact(MISSING, "link", {})
    with pytest.raises(BackendRejected):
        await backend.update_task_run_artifact(MISSING, {})


async def test_text_that_a_database_does_not_take_spoils_nothing(backend: Backend) -> None:
    run = await started(backend)
    odd = "half a pair \udcff, a \x00 byte"
    lines = [LogRecord(run.id, None, NOON, name, "INFO", odd) for name in ("flowloop.run", odd)]
    names = [backend.set_task_run_name(task_run.id, odd) for task_run in run.tasks[:1]]
    states = [backend.set_task_run_state(task_run.id, None, Running(odd)) for task_run in run.tasks]
    await asyncio.gather(backend.write_run_logs(lines), *names, *states)
    _, task_runs = await backend.get_flow_run_history(run.id)
    assert {task_run.states[-1].state for task_run in task_runs} == {"Running"}


async def test_what_a_worker_takes_comes_as_it_is_read(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(tasks=3), project_name="demo")
    for priority in (2, 1):
        await backend.create_flow_run(flow.id, labels=[label], priority=priority)
    taken = await backend.reserve_flow_runs("worker", limit=5, labels=[label])
    assert len(taken) == 2
    for one in taken:
        read, came = await backend.get_flow_run_info(one.flow_run_id), one.info
        assert came is not None
        came.task_runs.sort(key=lambda run: run.id)
        read.task_runs.sort(key=lambda run: run.id)
        assert came == read
        assert (came.owner, came.epoch) == ("worker", one.claim.epoch)


async def test_what_was_cancelled_after_a_worker_took_it_ends_before_it_begins(backend: Backend) -> None:
    begun = []

    @task
    async def body() -> None:
        begun.append(True)

    with Flow(unique("flow")) as flow:
        body()
    label = unique("label")
    flow_run_id = await create_flow_run(flow, backend, labels=[label])
    [taken] = await backend.reserve_flow_runs("worker", labels=[label])
    await backend.cancel_flow_run(flow_run_id)
    runner = CloudFlowRunner(flow, backend=backend, claim=taken.claim, info=taken.info)
    assert isinstance(await runner.run(context={"flow_run_id": flow_run_id}), Cancelled)
    assert isinstance(await backend.get_flow_run_state(flow_run_id), Cancelled)
    assert not begun


async def test_who_watches_sees_each_state_beginning_with_the_newest(backend: Backend) -> None:
    run = await started(backend)
    watching = backend.watch_flow_run(run.id)
    assert watching is not None
    async with asyncio.timeout(60), watching as states:
        assert (await anext(states)).message == "go"
        await backend.cancel_flow_run(run.id)
        assert isinstance(await anext(states), Cancelling)
        await backend.set_flow_run_state(run.id, None, Cancelled("over"))
        assert isinstance(await anext(states), Cancelled)


async def test_who_watches_one_flow_run_where_all_are_heard_sees_its_states_alone(backend: Backend) -> None:
    run, other = await started(backend), await started(backend)
    hearing, watching = backend.watch_ready(), None
    assert hearing is not None

    async def hear(moves: AsyncIterator[None]) -> None:
        async for _ in moves:
            pass

    async with asyncio.timeout(60), hearing as moves:
        pump = asyncio.ensure_future(hear(moves))
        try:
            await asyncio.sleep(0)
            watching = backend.watch_flow_run(run.id)
            assert watching is not None
            async with watching as states:
                assert (await anext(states)).message == "go"
                await backend.cancel_flow_run(other.id)
                await backend.cancel_flow_run(run.id)
                assert isinstance(await anext(states), Cancelling)
                await backend.set_flow_run_state(run.id, None, Cancelled("over"))
                assert isinstance(await anext(states), Cancelled)
        finally:
            pump.cancel()
            await asyncio.wait([pump])


async def test_who_watches_is_told_again_once_other_limits_hold(backend: Backend) -> None:
    run = await started(backend)
    watching = backend.watch_flow_run(run.id)
    assert watching is not None
    async with asyncio.timeout(60), watching as states:
        assert (await anext(states)).message == "go"
        await backend.direct_flow_run(run.id, "set_limits", value={"concurrency": 2})
        assert (await anext(states)).message == "go"
        await backend.cancel_flow_run(run.id)
        while (state := await anext(states)).message == "go":
            pass  # who looks now and then tells it once more
        assert isinstance(state, Cancelling)


async def test_who_waits_for_runs_is_told_of_new_ones(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    waiting = backend.watch_ready()
    assert waiting is not None
    async with waiting as told:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:

                async def create() -> None:
                    while True:  # a subscription may take a moment to begin
                        await backend.create_flow_run(flow.id, labels=["nobody"])
                        await anyio.sleep(0.1)

                group.start_soon(create)
                await anext(told)
                group.cancel_scope.cancel()


async def test_a_watcher_that_is_cancelled_leaves_nothing_behind(backend: Backend) -> None:
    run = await started(backend)
    first = backend.watch_flow_run(run.id)
    assert first is not None
    async with first:
        pass
    before = asyncio.all_tasks()  # what serves all watchers goes on until the backend is closed
    watching = backend.watch_flow_run(run.id)
    assert watching is not None
    with anyio.CancelScope() as scope:
        async with watching as states:
            async for _ in states:
                scope.cancel()
    assert scope.cancelled_caught
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert await backend.cancel_flow_run(run.id) == "Cancelling"


async def test_two_watchers_see_the_same_and_neither_sees_another_run(backend: Backend) -> None:
    run, other = await started(backend), await started(backend)
    first, second = backend.watch_flow_run(run.id), backend.watch_flow_run(run.id)
    assert first is not None
    assert second is not None
    async with asyncio.timeout(60), first as one, second as two:
        for states in (one, two):
            assert (await anext(states)).message == "go"
        await backend.set_flow_run_state(other.id, None, Success("the other one"))
        await backend.set_flow_run_state(run.id, None, Success("this one"))
        for states in (one, two):
            assert (await anext(states)).message == "this one"


# ---- ownership ---------------------------------------------------------------------------------------


class Owned:
    """A flow run that somebody owns, Running, and one of its task runs."""

    def __init__(self, backend: Backend, flow_run_id: str, task_run_id: str, claim: FlowRunClaim) -> None:
        self.backend = backend
        self.id = flow_run_id
        self.task_run_id = task_run_id
        self.claim = claim


async def owned(backend: Backend, lease_seconds: float = 60.0) -> Owned:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id, labels=[unique("label")])
    claim = await backend.claim_flow_run(flow_run_id, "first", lease_seconds=lease_seconds)
    await backend.set_flow_run_state(flow_run_id, 1, Running("go"), epoch=claim.epoch)
    info = await backend.get_flow_run_info(flow_run_id)
    return Owned(backend, flow_run_id, info.task_runs[0].id, claim)


async def test_a_claim_raises_the_epoch_and_shuts_the_former_owner_out(backend: Backend) -> None:
    run = await owned(backend)
    assert (run.claim.owner, run.claim.epoch) == ("first", 1)
    await backend.set_task_run_state(run.task_run_id, 1, Running(), epoch=1)
    second = await backend.claim_flow_run(run.id, "second", takeover=True)
    assert second.epoch == 2
    with pytest.raises(OwnershipLost, match="another owner"):
        await backend.set_task_run_state(run.task_run_id, 2, Success("late"), epoch=1)
    with pytest.raises(OwnershipLost):
        await backend.set_flow_run_state(run.id, 2, Failed("late"), epoch=1)
    with pytest.raises(OwnershipLost):
        await backend.set_flow_run_state(run.id, 1, Running("go"), epoch=1)  # what it recorded itself before
    with pytest.raises(OwnershipLost):
        await backend.update_flow_run_heartbeat(run.id, 1)
    assert isinstance(await backend.get_task_run_state(run.task_run_id), Running)
    await backend.set_task_run_state(run.task_run_id, 2, Success("mine"), epoch=2)
    await backend.set_flow_run_state(run.id, 2, Success("mine"), epoch=2)
    assert (await backend.get_flow_run_state(run.id)).message == "mine"


async def test_a_living_owner_is_named_to_whoever_wants_its_run(backend: Backend) -> None:
    run = await owned(backend)
    for _ in range(2):
        with pytest.raises(FlowRunOwned, match="first") as refused:
            await backend.claim_flow_run(run.id, "second")
        assert refused.value.flow_run_id == run.id
        assert refused.value.owner == "first"
        assert refused.value.last_heard is not None
        assert refused.value.free_at == refused.value.last_heard + datetime.timedelta(seconds=60)
    info = await backend.get_flow_run_info(run.id)
    assert (info.owner, info.epoch) == ("first", 1)
    assert await backend.reserve_flow_runs("worker", flow_names=["etl"], begun=True, limit=0) == []


async def test_who_claims_twice_by_one_name_is_answered_alike(backend: Backend) -> None:
    run = await owned(backend)
    assert await backend.claim_flow_run(run.id, "first") == run.claim


async def test_a_lease_that_ran_out_frees_a_run(backend: Backend) -> None:
    run = await owned(backend, lease_seconds=1e-6)
    await backend.set_task_run_state(run.task_run_id, 1, Running(), epoch=1)  # nobody has claimed it yet
    assert (await backend.claim_flow_run(run.id, "second")).epoch == 2


async def test_an_owner_that_is_known_to_be_dead_has_no_lease(backend: Backend) -> None:
    run = await owned(backend)
    with pytest.raises(FlowRunOwned):
        await backend.claim_flow_run(run.id, "second", gone="somebody else")
    assert (await backend.claim_flow_run(run.id, "second", gone="first")).epoch == 2
    with pytest.raises(FlowRunOwned):
        await backend.claim_flow_run(run.id, "third", gone="first")


@pytest.mark.parametrize("state", [Success(), Cancelled(), Scheduled(start_time=NOON), Retrying(start_time=NOON)])
async def test_a_state_that_ends_a_run_or_lets_it_wait_gives_it_up(backend: Backend, state: State) -> None:
    run = await owned(backend)
    await backend.set_flow_run_state(run.id, 2, state, epoch=1)
    info = await backend.get_flow_run_info(run.id)
    assert (info.owner, info.epoch) == (None, 1)
    claim = await backend.claim_flow_run(run.id, "second")
    assert claim.epoch == (1 if state.is_finished() else 2), "what is over is nobody's"


async def test_what_a_person_does_needs_no_epoch(backend: Backend) -> None:
    run = await owned(backend)
    await backend.set_task_run_state(run.task_run_id, None, Failed("by hand"))
    assert await backend.cancel_flow_run(run.id) == "Cancelling"
    await backend.set_flow_run_state(run.id, None, Cancelled("by hand"))
    await backend.set_flow_run_state(run.id, None, Scheduled("again", start_time=NOON))
    assert (await backend.get_flow_run_info(run.id)).owner is None


async def test_a_running_without_an_epoch_is_refused_beside_an_owner_that_lives(backend: Backend) -> None:
    run = await owned(backend)
    with pytest.raises(VersionLockMismatch):
        await backend.set_task_run_state(run.task_run_id, 1, Running())
    with pytest.raises(VersionLockMismatch):
        await backend.set_flow_run_state(run.id, 2, Running("mine"))
    await backend.release_flow_run(run.id, 1)
    await backend.set_task_run_state(run.task_run_id, 1, Running())
    await backend.set_flow_run_state(run.id, 2, Running("mine"))


async def test_a_client_without_claims_shuts_an_owner_out_that_is_silent(backend: Backend) -> None:
    run = await owned(backend, lease_seconds=1e-6)
    await backend.set_flow_run_state(run.id, 2, Running("mine"))
    with pytest.raises(OwnershipLost):
        await backend.set_task_run_state(run.task_run_id, 1, Running(), epoch=1)


async def test_a_run_whose_owners_die_is_begun_so_often_and_no_more(backend: Backend) -> None:
    run = await owned(backend, lease_seconds=1e-6)
    for number in range(2, 4):
        claim = await backend.claim_flow_run(run.id, f"owner {number}", lease_seconds=1e-6)
        assert claim.epoch == number
    assert isinstance(await backend.get_flow_run_state(run.id), Running)
    await backend.claim_flow_run(run.id, "the last")
    state = await backend.get_flow_run_state(run.id)
    assert isinstance(state, Failed)
    assert "3 times" in (state.message or "")
    info = await backend.get_flow_run_info(run.id)
    assert info.owner is None
    assert {type(task_run.state) for task_run in info.task_runs} == {Failed}


async def test_a_takeover_from_an_owner_that_lives_counts_as_no_death(backend: Backend) -> None:
    run = await owned(backend)
    for number in range(2, 7):
        await backend.claim_flow_run(run.id, f"owner {number}", takeover=True)
    assert isinstance(await backend.get_flow_run_state(run.id), Running)


async def test_a_run_that_nobody_lives_for_is_cancelled_at_once(backend: Backend) -> None:
    run = await owned(backend, lease_seconds=1e-6)
    await backend.set_task_run_state(run.task_run_id, 1, Running(), epoch=1)
    assert await backend.cancel_flow_run(run.id) == "Cancelled"
    info = await backend.get_flow_run_info(run.id)
    assert {type(state) for state in (info.state, *(task_run.state for task_run in info.task_runs))} == {Cancelled}


async def test_cancelling_one_run_touches_no_other(backend: Backend) -> None:
    first, second = await owned(backend, lease_seconds=1e-6), await owned(backend)
    await backend.set_task_run_state(second.task_run_id, 1, Running(), epoch=1)
    await backend.cancel_flow_run(first.id)
    info = await backend.get_flow_run_info(second.id)
    assert sorted(type(task_run.state).__name__ for task_run in info.task_runs) == ["Pending", "Pending", "Running"]


async def test_an_owner_may_write_over_its_own_end(backend: Backend) -> None:
    run = await owned(backend)
    await backend.set_task_run_state(run.task_run_id, 1, Success("first thoughts"), epoch=1)
    await backend.set_task_run_state(run.task_run_id, 2, Failed("second thoughts"), epoch=1)
    await backend.set_flow_run_state(run.id, 2, Success("first thoughts"), epoch=1)
    await backend.set_flow_run_state(run.id, 3, Failed("second thoughts"), epoch=1)
    for refused in (
        backend.set_flow_run_state(run.id, 4, Success("not the owner's")),
        backend.set_flow_run_state(run.id, None, Success("blind"), epoch=1),
        backend.set_task_run_state(run.task_run_id, 3, Success("not the owner's")),
    ):
        with pytest.raises(BackendRejected, match="finished"):
            await refused
    assert (await backend.get_flow_run_state(run.id)).message == "second thoughts"


async def test_a_run_that_was_given_up_counts_no_death(backend: Backend) -> None:
    run = await owned(backend)
    for number in range(2, 7):
        await backend.release_flow_run(run.id, number - 1)
        assert (await backend.claim_flow_run(run.id, f"owner {number}")).epoch == number
    assert isinstance(await backend.get_flow_run_state(run.id), Running)


async def test_a_run_is_created_for_its_owner(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id, owner="first", lease_seconds=60)
    info = await backend.get_flow_run_info(flow_run_id)
    assert (info.owner, info.epoch) == ("first", 1)
    with pytest.raises(FlowRunOwned):
        await backend.claim_flow_run(flow_run_id, "second")
    key = unique("key")
    created = await backend.create_flow_run(flow.id, owner="first", idempotency_key=key)
    assert await backend.create_flow_run(flow.id, owner="second", idempotency_key=key) == created
    assert (await backend.get_flow_run_info(created)).owner == "first"


async def test_a_run_that_is_started_is_recorded_as_one_that_is_created_and_then_running(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(parameters=[{"name": "x"}]), project_name="demo")
    running = Running("Running flow.", context={"runner": "r"})
    begun = await backend.start_flow_run(
        flow.id, owner="me", state=running, parameters={"x": 1}, context={"y": 2}, labels=["z"], name="started"
    )
    created = await backend.create_flow_run(
        flow.id, owner="me", parameters={"x": 1}, context={"y": 2}, labels=["z"], name="started"
    )
    await backend.set_flow_run_state(created, 1, running, epoch=1)
    step_by_step = await backend.get_flow_run_info(created)
    read_back = await backend.get_flow_run_info(begun.id)
    for seen in (begun, read_back):
        for name in ("name", "flow_id", "version", "parameters", "context", "project", "owner", "epoch"):
            assert getattr(seen, name) == getattr(step_by_step, name), name
        assert (seen.state, seen.state.message, seen.state.context["runner"]) == (running, "Running flow.", "r")
        runs = [(run.task_id, run.task_slug, run.version, run.state, run.map_index) for run in seen.task_runs]
        wanted = [(run.task_id, run.task_slug, run.version, run.state, run.map_index) for run in step_by_step.task_runs]
        assert sorted(runs, key=str) == sorted(wanted, key=str)
    assert {run.id for run in begun.task_runs} == {run.id for run in read_back.task_runs} != set()
    histories = []
    for flow_run_id in (begun.id, created):
        _, task_runs = await backend.get_flow_run_history(flow_run_id)
        histories.append([[(one.version, one.state, one.message) for one in run.states] for run in task_runs])
    assert histories[0] == histories[1]
    await backend.set_flow_run_state(begun.id, begun.version, Success("done"), epoch=begun.epoch)


async def test_a_run_is_started_without_a_state_too(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    begun = await backend.start_flow_run(flow.id, owner="me", lease_seconds=30)
    assert (begun.version, begun.state.is_scheduled(), begun.owner, begun.epoch) == (1, True, "me", 1)
    with pytest.raises(FlowRunOwned):
        await backend.claim_flow_run(begun.id, "another")


async def test_many_that_start_at_once_are_refused_each_for_itself(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    answers = await asyncio.gather(
        *(backend.start_flow_run(flow.id, owner=f"owner {n}", state=Running(f"run {n}")) for n in range(5)),
        backend.start_flow_run(MISSING, owner="me", state=Running("none")),
        return_exceptions=True,
    )
    *begun, refused = answers
    assert isinstance(refused, BackendRejected)
    assert len({info.id for info in begun if not isinstance(info, BaseException)}) == 5
    assert [info.state.message for info in begun if not isinstance(info, BaseException)] == [
        f"run {n}" for n in range(5)
    ]


@pytest.mark.parametrize("epoch", [None, 1])
async def test_the_answer_is_what_is_read_back(backend: Backend, epoch: int | None) -> None:
    run = await owned(backend)
    if epoch is None:
        await backend.release_flow_run(run.id, 1)
    states: list[State] = [
        Running("one", context={"tags": []}),
        Failed("two", cached_inputs={"x": Result(1, location="x")}),
        Pending("three"),
        Scheduled("four", start_time=NOON),
        Running("five"),
    ]
    for version, state in enumerate(states, 1):
        for _ in range(2):  # the second time as a repeated message
            answered = await backend.set_task_run_state(run.task_run_id, version, state, epoch=epoch)
            read = await backend.get_task_run_state(run.task_run_id)
            assert encode_state(answered) == encode_state(read)


# ---- handing out runs --------------------------------------------------------------------------------


async def test_a_flow_run_is_given_to_one_worker_alone(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    ids = {await backend.create_flow_run(flow.id, labels=[label]) for _ in range(4)}
    await backend.create_flow_run(flow.id, labels=[label], scheduled_start_time=NOON)
    await backend.create_flow_run(flow.id, labels=[label, "more"])
    given = await asyncio.gather(*(backend.reserve_flow_runs(f"worker {n}", limit=2, labels=[label]) for n in range(4)))
    reserved = [reservation.flow_run_id for batch in given for reservation in batch]
    assert sorted(reserved) == sorted(ids), "each one once; not the one that is not due, nor the one of other labels"
    assert {(r.flow_id, r.flow_name, r.lapsed) for batch in given for r in batch} == {(flow.id, "etl", False)}
    assert await backend.reserve_flow_runs("late", limit=9, labels=[label]) == []


async def taken(backend: Backend, label: str, limit: int) -> list[str]:
    given = await backend.reserve_flow_runs(unique("worker"), limit=limit, labels=[label])
    return [reservation.flow_run_id for reservation in given]


async def test_what_is_urgent_is_given_out_first(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    ids = {
        priority: await backend.create_flow_run(
            flow.id, labels=[label], priority=priority, idempotency_key=unique(f"{priority}")
        )
        for priority in (0, -MOST_URGENT, 7, MOST_URGENT, -1)
    }
    again = unique("again")
    ids[3] = await backend.create_flow_run(flow.id, labels=[label], priority=3, idempotency_key=again)
    assert await backend.create_flow_run(flow.id, labels=[label], priority=-3, idempotency_key=again) == ids[3]
    found = await taken(backend, label, 2) + await taken(backend, label, 9)
    assert found == [ids[priority] for priority in sorted(ids, reverse=True)]
    with pytest.raises(BackendRejected, match="A priority is at most"):
        await backend.create_flow_run(flow.id, priority=MOST_URGENT + 1)


async def test_keys_take_turns_however_much_each_has_waiting(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    keys = ["a", "a", "a", "a", "a", "b", None, "b", None, "c"]
    ids = {await backend.create_flow_run(flow.id, labels=[label], fairness_key=key): key for key in keys}
    urgent = await backend.create_flow_run(flow.id, labels=[label], fairness_key="a", priority=1)
    assert await taken(backend, label, 1) == [urgent]
    turns = [[ids[run] for run in await taken(backend, label, limit)] for limit in (4, 3, 9)]
    assert [sorted(map(str, turn)) for turn in turns] == [["None", "a", "b", "c"], ["None", "a", "b"], ["a"] * 3]


async def test_a_lease_that_ran_out_passes_the_run_on(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id, labels=[label])
    [first] = await backend.reserve_flow_runs("first", labels=[label], lease_seconds=1e-6)
    await backend.set_flow_run_state(flow_run_id, 1, Running(), epoch=first.claim.epoch)
    [taken] = await backend.reserve_flow_runs("second", labels=[label])
    assert (taken.flow_run_id, taken.lapsed, taken.claim.owner) == (flow_run_id, True, "second")
    assert first.claim.epoch is not None
    assert taken.claim.epoch == first.claim.epoch + 1
    with pytest.raises(OwnershipLost):
        await backend.update_flow_run_heartbeat(flow_run_id, first.claim.epoch)


async def test_what_is_given_back_can_be_given_to_another(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id, labels=[label])
    assert await backend.reserve_flow_runs("first", labels=[label], flow_names=["another flow"]) == []
    assert await backend.reserve_flow_runs("first", labels=[label], flow_names=["etl"], not_flow_ids=[flow.id]) == []
    [first] = await backend.reserve_flow_runs("first", labels=[label], flow_names=["another flow", "etl"])
    assert first.claim.epoch is not None
    await backend.release_flow_run(flow_run_id, first.claim.epoch + 1)
    assert await backend.reserve_flow_runs("second", labels=[label]) == []
    await backend.release_flow_run(flow_run_id, first.claim.epoch)
    assert len(await backend.reserve_flow_runs("second", labels=[label])) == 1


async def test_what_is_given_back_while_it_runs_can_be_given_to_another(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id, labels=[label])
    [first] = await backend.reserve_flow_runs("first", labels=[label])
    await backend.set_flow_run_state(flow_run_id, 1, Running(), epoch=first.claim.epoch)
    await backend.release_flow_run(flow_run_id, first.claim.epoch)
    [taken] = await backend.reserve_flow_runs("second", labels=[label], begun=True)
    assert (taken.flow_run_id, taken.lapsed, taken.claim.epoch) == (flow_run_id, False, 2)
    await backend.release_flow_run(flow_run_id, 2)
    await backend.set_flow_run_state(flow_run_id, None, Running("by a client that claims nothing"))
    assert await backend.reserve_flow_runs("third", labels=[label]) == [], "somebody was heard of"


async def test_a_run_is_ready_when_one_of_its_task_runs_is_due(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id, labels=[label])
    await backend.set_flow_run_state(flow_run_id, 1, Running())
    task_run = (await backend.get_flow_run_info(flow_run_id)).task_runs[0]
    await backend.set_task_run_state(task_run.id, 1, Retrying(start_time=NOON))
    assert await backend.reserve_flow_runs("worker", labels=[label]) == []
    await backend.set_task_run_state(task_run.id, 2, Retrying(start_time=NOON.replace(year=2020)))
    [taken] = await backend.reserve_flow_runs("worker", labels=[label])
    assert (taken.flow_run_id, taken.lapsed) == (flow_run_id, False)


@pytest.mark.parametrize("ends", [False, True])
async def test_a_run_whose_worker_was_lost_while_it_was_cancelled_is_passed_on(backend: Backend, ends: bool) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id, labels=[label])
    [first] = await backend.reserve_flow_runs("first", labels=[label])
    await backend.set_flow_run_state(flow_run_id, 1, Running(), epoch=first.claim.epoch)
    assert await backend.cancel_flow_run(flow_run_id) == "Cancelling"
    if ends:
        await backend.set_flow_run_state(flow_run_id, 3, Cancelled(), epoch=first.claim.epoch)
    else:
        await backend.claim_flow_run(flow_run_id, "gone", lease_seconds=1e-6, takeover=True)
    assert len(await backend.reserve_flow_runs("second", labels=[label])) == (0 if ends else 1)


async def test_it_is_known_when_a_runner_was_last_heard_of(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    flow_run_id = await backend.create_flow_run(flow.id)
    assert (await backend.get_flow_run_info(flow_run_id)).heartbeat is None
    await backend.set_flow_run_state(flow_run_id, 1, Running())
    began = (await backend.get_flow_run_info(flow_run_id)).heartbeat
    await backend.update_flow_run_heartbeat(flow_run_id)
    later = (await backend.get_flow_run_info(flow_run_id)).heartbeat
    assert began is not None
    assert later is not None
    assert began < later


async def test_the_url_may_be_shown(backend: Backend) -> None:
    assert "://" in backend.url
    assert "secret" not in backend.url


# ---- flows that run as a task of another one ---------------------------------------------------------


async def test_a_flow_run_that_is_a_part_of_another_goes_on_and_ends_with_it(backend: Backend) -> None:
    whole = await started(backend)
    claim = await backend.claim_flow_run(whole.id, unique("owner"), takeover=True)
    inner = await backend.register_flow(flow_document(unique("inner"), tasks=2), project_name="demo")
    given: dict[str, Any] = {"task_run_id": whole.tasks[0].id, "epoch": claim.epoch}
    part = await backend.start_subflow_run(inner.id, attempt=1, name=unique("part"), **given)
    assert part is not None
    assert (part.owner, part.epoch, len(part.task_runs)) == (claim.owner, claim.epoch, 2)
    again = await backend.start_subflow_run(inner.id, attempt=1, **given)
    second = await backend.start_subflow_run(inner.id, attempt=2, **given)
    assert again is not None
    assert second is not None
    assert (again.id, second.id != part.id) == (part.id, True)
    listed = await backend.list_flow_runs(10, FlowRunFilter(part_of=whole.id))
    assert {(run.id, run.parent_task_run_id) for run in listed} == {
        (part.id, whole.tasks[0].id),
        (second.id, whole.tasks[0].id),
    }
    assert part.id not in {run.id for run in await backend.list_flow_runs(10, FlowRunFilter(parts=False))}
    assert (await backend.find_flow_run(part.id)).parent_task_run_id == whole.tasks[0].id

    await backend.set_flow_run_state(part.id, None, Running("go"), epoch=part.epoch)
    newer = await backend.claim_flow_run(whole.id, unique("owner"), takeover=True)
    with pytest.raises(OwnershipLost):
        await backend.set_task_run_state(part.task_runs[0].id, None, Running("late"), epoch=part.epoch)
    with pytest.raises(OwnershipLost):
        await backend.start_subflow_run(inner.id, attempt=1, **given)
    await backend.set_task_run_state(part.task_runs[0].id, None, Success("now"), epoch=newer.epoch)
    with pytest.raises(BackendRejected, match="is a part of"):
        await backend.claim_flow_run(part.id, "somebody", takeover=True)

    await backend.set_flow_run_state(whole.id, None, Cancelled("stop"), epoch=newer.epoch)
    for run in (part, second):
        assert isinstance(await backend.get_flow_run_state(run.id), Cancelled)
    states = [await backend.get_task_run_state(run.id) for run in part.task_runs]
    assert sorted(type(state).__name__ for state in states) == ["Cancelled", "Success"]
    with pytest.raises(BackendRejected):
        await backend.start_subflow_run(inner.id, attempt=3, task_run_id=whole.tasks[0].id, epoch=newer.epoch)


async def test_what_an_owner_died_of_is_begun_alone_and_after_a_while(backend: Backend) -> None:
    label = unique("label")
    flow = await backend.register_flow(flow_document(), project_name="demo")
    killer = await backend.create_flow_run(flow.id, labels=[label])
    for owner, alone in (("first", 0), ("second", 30)):
        [taken] = await backend.reserve_flow_runs(owner, labels=[label], lease_seconds=1e-6)
        assert taken.alone == alone
        version = (await backend.get_flow_run_info(killer)).version
        await backend.set_flow_run_state(killer, version, Running(), epoch=taken.claim.epoch)
    healthy = await backend.create_flow_run(flow.id, labels=[label])
    others = await backend.reserve_flow_runs("busy", limit=9, labels=[label], alone=False)
    assert [(one.flow_run_id, one.alone) for one in others] == [(healthy, 0)]
    await backend.create_flow_run(flow.id, labels=[label])
    [taken] = await backend.reserve_flow_runs("idle", limit=9, labels=[label], lease_seconds=60)
    assert (taken.flow_run_id, taken.alone, taken.lapsed) == (killer, 300, True)


async def test_what_is_under_way_may_be_ready_at_any_moment(backend: Backend) -> None:
    flow = await backend.register_flow(flow_document(), project_name="demo")
    run = await backend.create_flow_run(flow.id)
    await backend.claim_flow_run(run, "somebody")
    assert await backend.next_ready() == 0  # its owner may die
