"""The loops of the server: what they do, when, and in which process."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from flowloop.backends.server import ServerSettings
from flowloop.backends.server.metrics import Metrics
from flowloop.backends.server.services import Services
from flowloop.backends.store import ANYONE, StateUpdate, Store
from flowloop.engine.errors import BackendUnavailable

from ..store.world import events_every_hour, flow_document, state
from .served import QUIET, ManualClock, World, serve_store

ALL = ServerSettings(require_api_key=False)


@pytest.fixture
def services(store: Store) -> Services:
    return Services(store, ALL, Metrics())


async def states(store: Store, world: World) -> dict[str, str]:
    info = await store.get_flow_run_info(ANYONE, flow_run_id=world.run_id)
    found: dict[str, str] = {}
    for row in info["task_runs"]:
        run = await store.get_task_run_info(ANYONE, task_run_id=row["id"])
        found[row["task_slug"]] = run["state"]
    return found


async def test_the_scheduler_creates_the_next_runs(database_url: str, clock: ManualClock) -> None:
    async with Store(database_url, clock=clock, next_events=events_every_hour) as store:
        world = await World(store, clock).build(flow_document(schedule={"clocks": [{"type": "Every hour"}]}))
        await store.set_schedule_active(ANYONE, flow_id=world.flow_id)
        services = Services(store, ALL, Metrics())

        async def planned() -> int:
            async with serve_store(store) as served:
                query = "{ flow_run_aggregate(where: {auto_scheduled: {_eq: true}}) { aggregate { count } } }"
                return (await served.data(query))["flow_run_aggregate"]["aggregate"]["count"]

        assert await planned() == 10
        assert await services.run_once("scheduler")
        assert await planned() == 10
        clock.move(hours=3)
        assert await services.run_once("scheduler")
        assert await planned() == 13


async def test_the_zombie_killer_and_lazarus_take_over_from_a_dead_process(
    store: Store, world: World, services: Services, clock: ManualClock
) -> None:
    await store.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Running"))])
    await store.set_task_run_states(ANYONE, [StateUpdate(world.task_runs["a"], state("Running"))])
    clock.move(minutes=9)
    assert await services.run_once("zombie_killer")
    assert (await states(store, world))["a"] == "Running"
    clock.move(minutes=2)
    assert await services.run_once("zombie_killer")
    assert (await states(store, world))["a"] == "Failed"
    assert await services.run_once("lazarus")
    [newest] = await store.get_flow_run_states(ANYONE, flow_run_ids=[world.run_id])
    assert msgspec.json.decode(newest)["type"] == "Scheduled"


async def test_retention_deletes_what_is_old(store: Store, world: World, clock: ManualClock) -> None:
    services = Services(store, ServerSettings(retention_days=30), Metrics())
    await store.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Cancelled"))])
    clock.move(days=29)
    assert await services.run_once("retention")
    assert len(await store.list_flow_runs(ANYONE)) == 1
    clock.move(days=2)
    assert await services.run_once("retention")
    assert await store.list_flow_runs(ANYONE) == []


async def test_runs_stay_where_no_retention_is_set(
    store: Store, world: World, services: Services, clock: ManualClock
) -> None:
    await store.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Cancelled"))])
    clock.move(days=4_000)
    assert await services.run_once("retention")
    assert len(await store.list_flow_runs(ANYONE)) == 1


async def test_one_process_at_a_time_runs_a_service(store: Store, world: World, clock: ManualClock) -> None:
    first, second = Services(store, ALL, Metrics()), Services(store, ALL, Metrics())
    assert await first.run_once("lazarus")
    assert not await second.run_once("lazarus")
    assert await second.run_once("zombie_killer")  # each service for itself
    clock.move(seconds=ALL.lazarus_seconds)
    assert await first.run_once("lazarus")  # prolongs its lease
    clock.move(seconds=ALL.lazarus_seconds)
    assert not await second.run_once("lazarus")
    clock.move(seconds=ALL.lazarus_seconds)  # the first one is gone
    assert await second.run_once("lazarus")
    assert not await first.run_once("lazarus")


async def test_a_pass_that_fails_is_not_the_last(
    store: Store, world: World, services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise error

    for error in (RuntimeError("a defect"), BackendUnavailable("the database is away")):
        with monkeypatch.context() as patched:
            patched.setattr(Store, "revive", fail)
            assert not await services.run_once("lazarus")
        assert str(error) in caplog.text
        assert await services.run_once("lazarus")


@pytest.mark.virtual_time
async def test_each_service_has_its_interval_and_can_be_switched_off(clock: ManualClock) -> None:
    """The loops wait in loop time; what is due is up to the clock of the store."""
    passes: dict[str, list[float]] = {}

    class Counting:
        clock = ManualClock()

        async def acquire_lease(self, caller: Any, *, service: str, holder: str, seconds: float) -> bool:
            return True

        async def release_lease(self, caller: Any, *, service: str, holder: str) -> None:
            passes[f"{service} released"] = []

        async def run_scheduler(self) -> None:
            passes.setdefault("scheduler", []).append(asyncio.get_running_loop().time())
            await asyncio.sleep(20)  # a pass of a while does not move the next

        async def kill_zombies(self, caller: Any) -> None:
            passes.setdefault("zombie_killer", []).append(asyncio.get_running_loop().time())

    settings = ServerSettings(**{**QUIET, "scheduler": True, "zombie_killer": True}, scheduler_seconds=100)
    services = Services(Counting(), settings, Metrics())  # type: ignore[arg-type]
    begun = asyncio.get_running_loop().time()
    running = asyncio.create_task(services.run())
    await asyncio.sleep(350)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [time - begun for time in passes["scheduler"]] == [0, 100, 200, 300]
    assert [time - begun for time in passes["zombie_killer"]] == [0, 120, 240]
    assert set(passes) == {"scheduler", "zombie_killer", "scheduler released", "zombie_killer released"}


async def test_a_server_runs_its_services_and_gives_their_leases_back(
    store: Store, world: World, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "flowloop.server")
    done = asyncio.Event()

    async def revive(*_: Any, **__: Any) -> None:
        done.set()

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(Store, "revive", revive)
        async with serve_store(store, ServerSettings(**{**QUIET, "lazarus": True})):
            await done.wait()
    assert await Services(store, ALL, Metrics()).run_once("lazarus")
