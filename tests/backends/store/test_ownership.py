"""Claims, leases and epochs, on both databases and at chosen times."""

from __future__ import annotations

import asyncio
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends.store import ANYONE, Store
from flowloop.engine import presence
from flowloop.engine.errors import BackendRejected, OwnershipLost

from .world import FENCED, PREFECT, START, ManualClock, World, state

OWNER = {"owner": "one", "lease_seconds": 60.0}


async def claim(world: World, owner: str, **options: Any) -> dict[str, Any]:
    return await world.store.claim_flow_run(FENCED, flow_run_id=world.run_id, owner=owner, **options)


async def test_a_lease_is_as_long_as_its_owner_said(world: World) -> None:
    await world.build()
    await claim(world, "one", lease_seconds=1800)
    world.clock.move(seconds=1799)
    refused = await claim(world, "two", lease_seconds=1)
    assert refused["claimed"] is False
    assert (refused["last_heard"], refused["free_at"]) == (START, START + datetime.timedelta(seconds=1800))
    world.clock.move(seconds=1)
    assert (await claim(world, "two", lease_seconds=1))["epoch"] == 2


async def test_leases_are_compared_by_one_clock_however_those_of_the_processes_differ(database_url: str) -> None:
    ahead, behind = ManualClock(), ManualClock()
    ahead.time = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    behind.time = ahead.time - datetime.timedelta(seconds=180)
    async with Store(database_url, clock=behind) as one, Store(database_url, clock=ahead) as two:
        await one.default_tenant(ANYONE)
        world = await World(one, behind).build()
        assert (await claim(world, "one", lease_seconds=60))["epoch"] == 1
        world.store = two
        assert (await claim(world, "two"))["claimed"] is False
        assert await two.reserve_flow_runs(FENCED, worker_id="three") == []
        world.store = one
        ahead_world = await World(two, ahead).build()
        assert (await claim(ahead_world, "one", lease_seconds=60))["epoch"] == 1
        ahead_world.store = one
        assert (await claim(ahead_world, "two"))["claimed"] is False


async def test_of_many_who_claim_at_once_one_wins(database_url: str) -> None:
    async with Store(database_url, synchronous="OFF") as one, Store(database_url, synchronous="OFF") as two:
        await one.default_tenant(ANYONE)
        world = await World(one, ManualClock()).build()
        answers = await asyncio.gather(
            *(
                store.claim_flow_run(FENCED, flow_run_id=world.run_id, owner=f"{number}")
                for number, store in enumerate([one, two] * 5)
            )
        )
    assert sum(answer["claimed"] for answer in answers) == 1
    assert {answer["epoch"] for answer in answers} == {1}


async def test_a_write_and_a_claim_come_one_after_the_other(database_url: str) -> None:
    """What is acknowledged to a former owner was recorded before its successor claimed the run."""
    async with Store(database_url, synchronous="OFF") as one, Store(database_url, synchronous="OFF") as two:
        await one.default_tenant(ANYONE)
        world = await World(one, ManualClock()).build()
        await claim(world, "one")
        await world.flow_state(state("Running"), 1, epoch=1)

        async def write() -> int:
            version = 1
            while True:
                outcome = await world.task_state("a", state("Running", f"{version}"), version, epoch=1)
                if outcome.code is not None:
                    assert outcome.code == "OWNERSHIP_LOST"
                    return version
                version += 1

        async def take() -> int:
            await asyncio.sleep(0.05)
            await two.claim_flow_run(FENCED, flow_run_id=world.run_id, owner="two", takeover=True)
            return int((await two.get_task_run_info(FENCED, task_run_id=world.task_runs["a"]))["version"])

        assert len(set(await asyncio.gather(write(), take()))) == 1


async def test_the_services_leave_a_run_alone_whose_owner_promised_to_be_silent_for_so_long(world: World) -> None:
    await world.build()
    await claim(world, "one", lease_seconds=1800)
    await world.flow_state(state("Running"), 1, epoch=1)
    await world.task_state("a", state("Running"), 1, epoch=1)
    world.clock.move(minutes=29)
    assert await world.store.kill_zombies(ANYONE) == {"task_runs": 0, "flow_runs": 0}
    await world.task_state("a", state("Success"), 2, epoch=1)
    assert await world.store.revive(ANYONE) == {"rescheduled": 0, "failed": 0}
    world.clock.move(minutes=1)
    assert await world.store.revive(ANYONE) == {"rescheduled": 1, "failed": 0}
    assert (await world.flow_run())["owner"] is None


async def test_whoever_notices_a_death_counts_it_with_the_others(world: World) -> None:
    await world.build()
    await claim(world, "one", lease_seconds=60)
    await world.flow_state(state("Running"), 1, epoch=1)
    world.clock.move(minutes=11)
    await world.store.revive(ANYONE)
    await claim(world, "two", lease_seconds=60)
    world.clock.move(minutes=2)
    assert len(await world.store.reserve_flow_runs(FENCED, worker_id="three", lease_seconds=60)) == 1
    await world.flow_state(state("Running"), None, epoch=3)
    world.clock.move(minutes=11)
    assert await world.store.revive(ANYONE) == {"rescheduled": 0, "failed": 1}
    run = await world.flow_run()
    assert (run["state"], "3 times" in run["state_message"]) == ("Failed", True)
    await world.store.restart_flow_run(ANYONE, flow_run_id=world.run_id)
    assert (await world.flow_run())["times_resurrected"] == 0


async def test_how_often_is_settable(world: World) -> None:
    await world.build()
    for number in range(1, 3):
        assert (await claim(world, f"{number}", lease_seconds=1, max_lapses=2))["epoch"] == number
        world.clock.move(seconds=1)
    await claim(world, "3", max_lapses=2)
    assert (await world.flow_run())["state"] == "Failed"


async def test_a_run_of_a_client_that_claims_nothing_is_its_own_as_long_as_it_is_heard_of(world: World) -> None:
    await world.build(caller=PREFECT)
    await world.start(PREFECT)
    world.clock.move(seconds=40)
    await world.store.update_flow_run_heartbeat(PREFECT, flow_run_id=world.run_id)
    world.clock.move(seconds=59)
    refused = await claim(world, "one")
    assert (refused["claimed"], refused["owner"]) == (False, None)
    world.clock.move(seconds=1)
    assert (await claim(world, "one"))["claimed"] is True


async def test_a_little_left_of_a_lease_is_prolonged_by_what_begins(world: World) -> None:
    await world.build()
    await claim(world, "one", lease_seconds=100)
    await world.flow_state(state("Running"), 1, epoch=1)
    world.clock.move(seconds=74)
    await world.task_state("a", state("Running"), 1, epoch=1)
    assert (await world.flow_run())["lease_expires"] == START + datetime.timedelta(seconds=100)
    world.clock.move(seconds=2)
    await world.task_state("a", state("Running", "again"), 2, epoch=1)
    assert (await world.flow_run())["lease_expires"] == START + datetime.timedelta(seconds=176)


async def test_a_heartbeat_with_an_epoch_is_the_owners_alone(world: World) -> None:
    await world.build()
    await claim(world, "one", lease_seconds=60)
    world.clock.move(seconds=30)
    await world.store.update_flow_run_heartbeat(FENCED, flow_run_id=world.run_id)
    assert (await world.flow_run())["lease_expires"] == START + datetime.timedelta(seconds=60)
    await world.store.update_flow_run_heartbeat(FENCED, flow_run_id=world.run_id, epoch=1)
    assert (await world.flow_run())["lease_expires"] == START + datetime.timedelta(seconds=90)
    for epoch in (0, 2):
        with pytest.raises(OwnershipLost):
            await world.store.update_flow_run_heartbeat(FENCED, flow_run_id=world.run_id, epoch=epoch)


@pytest.mark.parametrize("wrong", [{"owner": ""}, {"lease_seconds": 0}, {"lease_seconds": float("nan")}])
async def test_a_claim_that_makes_no_sense_is_refused(world: World, wrong: dict[str, Any]) -> None:
    await world.build()
    with pytest.raises(BackendRejected):
        await world.store.claim_flow_run(FENCED, flow_run_id=world.run_id, **{**OWNER, **wrong})


# -- proof of a death ----------------------------------------------------------------------------------

_OWNER = "from flowloop.engine.presence import new_owner; print(new_owner(), flush=True); input()"


@contextmanager
def owner_process() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A process that lives until it is killed, and the name of an owner in it."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


async def test_an_owner_whose_process_was_killed_is_known_to_be_dead_at_once(world: World) -> None:
    await world.build()
    with owner_process() as (owner, process):
        assert not presence.is_gone(owner)
        await claim(world, owner)
        await world.flow_state(state("Running"), 1, epoch=1)
        assert (await claim(world, "two"))["claimed"] is False
        assert await world.store.reserve_flow_runs(FENCED, worker_id="three") == []
        process.kill()
        process.wait()
        assert presence.is_gone(owner)
        assert await world.store.reserve_flow_runs(FENCED, worker_id="three") == [], "it waits for a moment"
        world.clock.move(seconds=1)
        [taken] = await world.store.reserve_flow_runs(FENCED, worker_id="three")
        assert (taken["lapsed"], taken["epoch"]) == (True, 2)


async def test_a_run_whose_process_was_killed_is_cancelled_at_once(world: World) -> None:
    await world.build()
    with owner_process() as (owner, _):
        await claim(world, owner)
        await world.flow_state(state("Running"), 1, epoch=1)
    assert (await world.store.cancel_flow_run(ANYONE, flow_run_id=world.run_id))["state"] == "Cancelled"


def test_what_cannot_be_known_is_no_proof() -> None:
    mine = presence.new_owner()
    name, folder, process, _ = mine.split("/")
    others = (f"{name}/elsewhere/{process}/1", f"{name}/{folder}/{'0' * 32}/1", f"a/{folder}/../b")
    for owner in (mine, "", "worker", *others):
        assert not presence.is_gone(owner)


_BEGIN = "from flowloop.engine.presence import new_owner; print(new_owner().split('/')[2])"


def _begin(folder: Path) -> Path:
    """Let a process own something and end, and return the file whose lock it held."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    name = subprocess.check_output([sys.executable, "-c", _BEGIN], env=environment, text=True).strip()
    return folder / f"flowloop-{os.getuid()}" / name


def test_what_processes_that_ended_long_ago_left_is_looked_for_once_a_day(tmp_path: Path) -> None:
    left = [_begin(tmp_path) for _ in range(2)]
    yesterday = time.time() - 25 * 3600
    os.utime(left[0], (yesterday, yesterday))
    _begin(tmp_path)
    assert left[0].exists(), "looked though the last look was just now"
    os.utime(left[0].parent / "mark", (yesterday, yesterday))
    _begin(tmp_path)
    assert [one.exists() for one in left] == [False, True]
