"""What the services do in one pass: scheduler, zombie killer, Lazarus, retention, and who may run them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowloop.backends.store import ANYONE, Store
from flowloop.engine.errors import FlowloopError

from .world import FENCED, PREFECT, START, ManualClock, World, flow_document, state

HOUR = datetime.timedelta(hours=1)


# -- scheduler -----------------------------------------------------------------------------------------


async def scheduled(world: World) -> list[dict[str, Any]]:
    return [row for row in await world.rows("flow_run") if row["auto_scheduled"]]


async def test_the_next_ten_runs_are_planned_once(world: World) -> None:
    await world.build(flow_document(schedule={"clocks": [{}]}))
    runs = await scheduled(world)
    assert [row["scheduled_start_time"] for row in runs] == [START + n * HOUR for n in range(1, 11)]
    assert runs[0]["idempotency_key"] == "auto-scheduled:2021-07-01T13:00:00+00:00"
    assert await world.store.run_scheduler() == 0
    assert len(await scheduled(world)) == 10
    world.clock.move(hours=2)
    assert await world.store.run_scheduler() == 2
    assert (await scheduled(world))[-1]["scheduled_start_time"] == START + 12 * HOUR


@pytest.mark.parametrize(
    ("policy", "kept"), [("all", [13, 14, 15]), ("latest", [15]), ("none", []), ("within:6000", [14, 15])]
)
async def test_what_came_due_while_nobody_was_there(
    world: World, clock: ManualClock, database_url: str, policy: str, kept: list[int]
) -> None:
    await world.build(flow_document(schedule={"clocks": [{}]}))
    clock.move(hours=3, minutes=30)
    async with Store(database_url, clock=clock, lease_clock=clock, late_runs=policy) as store:
        taken = await store.reserve_flow_runs(ANYONE, worker_id="w", limit=20)
    runs = await scheduled(world)
    begun = {row["flow_run_id"] for row in taken}
    assert [row["scheduled_start_time"].hour for row in runs if row["id"] in begun] == kept
    skipped = [row for row in runs if row["state"] == "Skipped"]
    assert [row["scheduled_start_time"].hour for row in skipped] == [hour for hour in (13, 14, 15) if hour not in kept]
    assert all(policy in row["state_message"] for row in skipped)
    assert {row["state"] for one in skipped for row in await world.rows("task_run", flow_run_id=one["id"])} <= {
        "Skipped"
    }
    assert len([row for row in runs if row["state"] == "Scheduled" and row["owner"] is None]) == 7


def test_a_policy_that_is_none_is_refused(tmp_path: Path) -> None:
    for wrong in ("some", "within:", "within:nan", "within:inf"):
        with pytest.raises(FlowloopError, match="within:3600"):
            Store(f"sqlite:///{tmp_path / 'a.db'}", late_runs=wrong)


async def test_how_many_wait_for_which_workers(world: World) -> None:
    await world.build()
    for labels in (["gpu", "large"], ["large", "gpu"], ["agentless-1"]):
        await world.new_run(labels=labels)
    assert (await world.store.count_runs(ANYONE))["queue"] == {"": 2, "gpu,large": 2}


async def test_events_with_parameters_or_labels_may_fall_on_one_time(world: World) -> None:
    clocks = [{"parameter_defaults": {"x": 1}}, {"parameter_defaults": {"x": 2}}, {"labels": ["l"]}]
    await world.build(flow_document(schedule={"clocks": clocks}))
    runs = await scheduled(world)
    assert len(runs) == 10
    assert {row["scheduled_start_time"] for row in runs[:3]} == {START + HOUR}
    assert [(row["parameters"], row["labels"]) for row in runs[:3]] == [({"x": 1}, []), ({"x": 2}, []), ({}, ["l"])]
    assert len({row["idempotency_key"] for row in runs}) == 10
    await world.store.run_scheduler()
    assert len(await scheduled(world)) == 10


async def test_a_schedule_that_is_broken_stops_no_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.build(flow_document(schedule={"clocks": [{}], "broken": True}))
    assert await scheduled(world) == []
    assert "cannot be read" in caplog.text
    await world.store.create_flow(
        ANYONE,
        project_id=world.project_id,
        serialized_flow=flow_document(name="whole", schedule={"clocks": [{}]}),
        set_schedule_active=False,
    )
    assert await world.store.run_scheduler() == 0
    whole = (await world.rows("flow", name="whole"))[0]["id"]
    await world.store.set_schedule_active(ANYONE, flow_id=whole)
    world.clock.move(hours=1)
    assert await world.store.run_scheduler() == 1


async def test_all_active_schedules_are_found_page_by_page(world: World) -> None:
    await world.build()
    ids = []
    for n in range(5):
        document = flow_document(name=f"f{n}", schedule={"clocks": [{}]})
        flow = await world.store.create_flow(ANYONE, project_id=world.project_id, serialized_flow=document)
        ids.append(flow["id"])
    await world.store.set_schedule_inactive(ANYONE, flow_id=ids.pop())
    await world.store.archive_flow(ANYONE, flow_id=ids.pop())
    first = await world.store.find_active_schedules(ANYONE, limit=2)
    rest = await world.store.find_active_schedules(ANYONE, limit=2, after=first[-1])
    assert first + rest == ids


# -- zombie killer -------------------------------------------------------------------------------------


async def zombie(world: World, **task: Any) -> World:
    """A flow run that has been silent for eleven minutes, with a running task run."""
    await world.build(flow_document(tasks=[{"slug": "a", "name": "A", **task}, {"slug": "b"}], edges=[]))
    await world.start()
    await world.task_state("a", state("Running"), 1)
    world.clock.move(minutes=11)
    return world


async def test_a_silent_task_run_fails(world: World) -> None:
    await zombie(world)
    assert await world.store.kill_zombies(ANYONE) == {"task_runs": 1, "flow_runs": 0}
    run = await world.task_run("a")
    message = f"No heartbeat detected from the remote task; marking the task run {world.task_runs['a']} (A) as failed."
    assert (run["state"], run["state_message"], run["version"]) == ("Failed", message, 3)
    log = (await world.rows("log"))[0]
    assert (log["level"], log["message"], log["task_run_id"]) == ("ERROR", message, run["id"])
    assert log["flow_run_id"] == world.run_id
    assert (await world.task_run("b"))["state"] == "Pending"
    assert await world.store.kill_zombies(ANYONE) == {"task_runs": 0, "flow_runs": 0}


async def test_a_silent_task_run_is_retried_as_often_as_it_may(world: World) -> None:
    await zombie(world, max_retries=2, retry_delay=90)
    for attempt in (1, 2):
        await world.store.kill_zombies(ANYONE)
        run = await world.task_run("a")
        assert run["state"] == "Retrying"
        assert run["state_message"] == (
            f"No heartbeat detected from the remote task; retrying the run.This will be retry {attempt} of 2."
        )
        assert run["state_start_time"] == world.clock.now() + datetime.timedelta(seconds=90)
        assert msgspec.json.decode(run["serialized_state"])["run_count"] == attempt
        await world.task_state("a", state("Running"), run["version"])
        world.clock.move(minutes=11)
    await world.store.kill_zombies(ANYONE)
    assert (await world.task_run("a"))["state"] == "Failed"


async def test_no_retry_in_a_flow_run_that_does_not_run(world: World) -> None:
    await zombie(world, max_retries=2)
    await world.flow_state(state("Failed"), 2)
    await world.store.kill_zombies(ANYONE)
    assert (await world.task_run("a"))["state"] == "Failed"


@pytest.mark.parametrize(("hours", "found"), [(1, 1), (25, 0)])
async def test_the_task_runs_of_a_flow_run_that_has_ended_are_looked_after_for_a_day(
    world: World, hours: int, found: int
) -> None:
    await zombie(world)
    await world.flow_state(state("Failed"), 2)
    world.clock.move(hours=hours)
    assert (await world.store.kill_zombies(ANYONE))["task_runs"] == found


async def test_a_flow_run_that_is_alive_has_no_zombies(world: World) -> None:
    await zombie(world)
    await world.store.update_flow_run_heartbeat(ANYONE, flow_run_id=world.run_id)
    world.clock.move(minutes=9)
    assert await world.store.kill_zombies(ANYONE) == {"task_runs": 0, "flow_runs": 0}
    assert await world.store.kill_zombies(ANYONE, silence=datetime.timedelta(minutes=8)) == {
        "task_runs": 1,
        "flow_runs": 0,
    }


async def test_a_flow_without_heartbeats_has_no_zombies(world: World) -> None:
    await zombie(world)
    await world.store.disable_flow_heartbeat(ANYONE, flow_id=world.flow_id)
    assert await world.store.kill_zombies(ANYONE) == {"task_runs": 0, "flow_runs": 0}


async def test_a_silent_flow_run_that_is_cancelling_fails(world: World) -> None:
    await world.build()
    await world.start()
    await world.store.cancel_flow_run(ANYONE, flow_run_id=world.run_id)
    world.clock.move(minutes=11)
    assert await world.store.kill_zombies(ANYONE) == {"task_runs": 0, "flow_runs": 1}
    run = await world.flow_run()
    assert (run["state"], run["state_message"]) == (
        "Failed",
        "No heartbeat detected from the flow run; marking the run as failed.",
    )
    assert (await world.rows("log"))[0]["message"] == run["state_message"]


# -- Lazarus -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Running", "Submitted"])
async def test_a_dead_flow_run_is_scheduled_again_three_times(world: World, kind: str) -> None:
    await world.build()
    for attempt in (1, 2, 3):
        await world.flow_state(state(kind), None, PREFECT)
        world.clock.move(minutes=11)
        assert await world.store.revive(ANYONE) == {"rescheduled": 1, "failed": 0}
        run = await world.flow_run()
        assert (run["state"], run["state_message"]) == ("Scheduled", "Rescheduled by a Lazarus process.")
        assert (run["times_resurrected"], run["state_start_time"]) == (attempt, world.clock.now())
        log = (await world.rows("log"))[-1]
        assert (log["level"], log["message"]) == (
            "INFO",
            f"Rescheduled by a Lazarus process. This is attempt {attempt}.",
        )
    await world.flow_state(state(kind), None, PREFECT)
    world.clock.move(minutes=11)
    assert await world.store.revive(ANYONE) == {"rescheduled": 0, "failed": 1}
    run = await world.flow_run()
    message = "A Lazarus process attempted to reschedule this run 3 times without success. Marking as failed."
    assert (run["state"], run["state_message"]) == ("Failed", message)
    assert (await world.rows("log"))[-1]["level"] == "ERROR"


@pytest.mark.parametrize(
    ("kind", "left_alone"),
    [
        ("Running", True),
        ("Cancelling", True),
        ("Scheduled", True),
        ("Paused", True),
        ("Resume", True),
        ("Retrying", True),
        ("Queued", False),
        ("Pending", False),
        ("Success", False),
        ("Looped", False),
    ],
)
async def test_a_flow_run_with_a_live_task_run_is_not_dead(world: World, kind: str, left_alone: bool) -> None:
    await world.build()
    await world.start()
    await world.task_state("a", state(kind), 1)
    world.clock.move(minutes=11)
    assert (await world.store.revive(ANYONE))["rescheduled"] == (0 if left_alone else 1)


@pytest.mark.parametrize("switch", ["disable_flow_heartbeat", "disable_flow_lazarus_process"])
async def test_lazarus_can_be_kept_away(world: World, switch: str) -> None:
    await world.build()
    await world.start()
    await getattr(world.store, switch)(ANYONE, flow_id=world.flow_id)
    world.clock.move(minutes=11)
    assert await world.store.revive(ANYONE) == {"rescheduled": 0, "failed": 0}


async def test_a_run_that_never_beat_is_not_dead(world: World) -> None:
    await world.build()
    world.clock.move(days=1)
    assert await world.store.revive(ANYONE) == {"rescheduled": 0, "failed": 0}


# -- one process at a time -----------------------------------------------------------------------------


async def test_a_service_runs_in_one_process_at_a_time(world: World) -> None:
    async def acquire(holder: str) -> bool:
        return await world.store.acquire_lease(ANYONE, service="scheduler", holder=holder, seconds=60)

    assert await acquire("p1")
    assert not await acquire("p2")
    world.clock.move(seconds=50)
    assert await acquire("p1")
    world.clock.move(seconds=50)
    assert not await acquire("p2")
    assert await world.store.acquire_lease(ANYONE, service="lazarus", holder="p2", seconds=60)
    world.clock.move(seconds=10)
    assert await acquire("p2")
    await world.store.release_lease(ANYONE, service="scheduler", holder="p1")
    assert not await acquire("p1")
    await world.store.release_lease(ANYONE, service="scheduler", holder="p2")
    assert await acquire("p1")


# -- retention -----------------------------------------------------------------------------------------


async def test_pruning_deletes_what_finished_long_ago(world: World) -> None:
    store = world.store
    await world.build()
    for _ in range(30):
        await world.new_run()
        await world.flow_state(state("Success"), 1)
    await store.write_run_logs(FENCED, logs=[{"flow_run_id": world.run_id, "message": "m"}])
    await store.create_task_run_artifact(FENCED, task_run_id=world.task_runs["a"], kind="link", data={})
    await store.set_flow_run_states(FENCED, [], idempotency_key="k")
    await store.register_agent(PREFECT, type="LocalAgent")
    world.clock.move(days=8)
    recent = await world.new_run()
    await world.flow_state(state("Success"), 1)
    await store.create_flow(ANYONE, project_id=world.project_id, serialized_flow=flow_document())
    pruned = await store.prune(datetime.timedelta(days=7))
    assert pruned["flow_run"] == 30
    assert pruned["agent"] == 1
    left = await world.rows("flow_run")
    assert [row["state"] for row in left] == ["Scheduled", "Success"]
    assert left[1]["id"] == recent
    assert len(await world.rows("task_run")) == 4
    for table in ("log", "task_run_artifact", "answer", "agent"):
        assert await world.rows(table) == [], table
    assert len(await world.rows("flow")) == 2, "an archived flow stays as long as it has runs"
    await store.cancel_flow_run(ANYONE, flow_run_id=left[0]["id"])
    world.clock.move(days=8)
    pruned = await store.prune(datetime.timedelta(days=7))
    assert (pruned["flow_run"], pruned["flow"]) == (2, 1)
    assert [row["version"] for row in await world.rows("flow")] == [2]


async def test_pruning_leaves_what_has_not_finished(world: World) -> None:
    await world.build()
    await world.start()
    world.clock.move(days=100)
    assert (await world.store.prune(datetime.timedelta(days=7)))["flow_run"] == 0
    assert (await world.flow_run())["state"] == "Running"
