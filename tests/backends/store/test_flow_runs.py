"""Flow runs and task runs: creation, names, cancelling, restarting, deleting, reading."""

from __future__ import annotations

import datetime
import re
from typing import Any

import msgspec
import pytest

from flowloop.backends.store import ANYONE, Caller
from flowloop.engine.errors import BackendRejected

from .world import FENCED, PREFECT, START, World, flow_document, state

NOWHERE = "00000000-0000-4000-8000-000000000000"


# -- creation ------------------------------------------------------------------------------------------


async def test_a_flow_run_begins_scheduled_and_its_task_runs_pending(world: World) -> None:
    await world.build(flow_document(tasks=[{"slug": "a", "cache_key": "k"}, {"slug": "b"}], edges=[]))
    run = await world.flow_run()
    assert (run["version"], run["state"], run["state_message"]) == (1, "Scheduled", "Flow run scheduled.")
    assert run["scheduled_start_time"] == run["state_start_time"] == START
    assert (run["parameters"], run["context"], run["labels"], run["run_config"]) == ({}, {}, [], None)
    assert (run["auto_scheduled"], run["times_resurrected"], run["heartbeat"]) == (False, 0, None)
    assert re.fullmatch(r"[a-z]+-[a-z]+", run["name"])
    document = msgspec.json.decode(run["serialized_state"])
    assert document["start_time"] == "2021-07-01T12:00:00+00:00"
    first, second = await world.rows("task_run")
    assert (first["version"], first["state"], first["map_index"], first["cache_key"]) == (1, "Pending", -1, "k")
    assert second["cache_key"] is None
    assert msgspec.json.decode(first["serialized_state"]) == {"type": "Pending", "message": "Task run created"}
    assert [(row["version"], row["state"]) for row in await world.rows("task_run_state")] == [(1, "Pending")] * 2


async def test_what_a_flow_run_is_given(world: World) -> None:
    await world.build(flow_document(parameters=[{"name": "x"}]))
    later = datetime.datetime(2021, 7, 2, 14, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    await world.new_run(
        parameters={"x": None},
        context={"c": {"d": 1}},
        labels=["b", "a"],
        run_config={"type": "LocalRun", "labels": ["rc"]},
        scheduled_start_time=later,
        flow_run_name="my-run",
    )
    run = await world.flow_run()
    assert (run["parameters"], run["context"], run["labels"]) == ({"x": None}, {"c": {"d": 1}}, ["a", "b"])
    assert (run["name"], run["scheduled_start_time"], run["state_start_time"]) == ("my-run", later, later)
    assert run["run_config"]["type"] == "LocalRun"


async def test_an_idempotency_key_is_of_one_flow_and_returns_the_run_before(world: World) -> None:
    store = world.store
    await world.build()
    first = await store.create_flow_run(ANYONE, flow_id=world.flow_id, idempotency_key="k", flow_run_name="one")
    again = await store.create_flow_run(ANYONE, flow_id=world.flow_id, idempotency_key="k", flow_run_name="two")
    assert again == first
    assert (await world.row("flow_run", first["id"]))["name"] == "one"
    other = await store.create_flow(ANYONE, project_id=world.project_id, serialized_flow=flow_document(name="other"))
    assert await store.create_flow_run(ANYONE, flow_id=other["id"], idempotency_key="k") != first
    keyless = [await store.create_flow_run(ANYONE, flow_id=world.flow_id) for _ in range(2)]
    assert keyless[0] != keyless[1]


async def test_the_newest_version_of_a_group_is_run(world: World) -> None:
    await world.build()
    newest = await world.store.create_flow(ANYONE, project_id=world.project_id, serialized_flow=flow_document())
    group = (await world.row("flow", newest["id"]))["version_group_id"]
    run = await world.store.create_flow_run(ANYONE, version_group_id=group)
    assert (await world.row("flow_run", run["id"]))["flow_id"] == newest["id"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flow_id": NOWHERE}, f"Flow {NOWHERE} not found"),
        ({"flow_id": "x"}, "Flow x not found"),
        ({"version_group_id": "nope"}, "Version group nope has no unarchived flows."),
        ({}, "A flow run needs a flow_id or a version_group_id."),
    ],
)
async def test_a_flow_run_of_nothing(world: World, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(BackendRejected) as caught:
        await world.store.create_flow_run(ANYONE, **arguments)
    assert str(caught.value) == message


async def test_required_parameters(world: World) -> None:
    document = flow_document(
        parameters=[
            {"name": "must", "required": True},
            {"name": "zero", "required": False, "default": 0},
            {"name": "ten", "required": False, "default": 10},
            {"name": "group", "required": False, "default": "flow's"},
        ]
    )
    store = world.store
    project = (await store.create_project(ANYONE, name="demo"))["id"]
    world.flow_id = (await store.create_flow(ANYONE, project_id=project, serialized_flow=document))["id"]
    with pytest.raises(BackendRejected) as caught:
        await store.create_flow_run(ANYONE, flow_id=world.flow_id, parameters={"zero": 1})
    assert str(caught.value) == "Required parameters were not supplied: {'must'}"
    assert await world.rows("flow_run") == []
    group = (await world.rows("flow_group"))[0]["id"]
    await store.set_flow_group_default_parameters(
        ANYONE, flow_group_id=group, parameters={"group": "group's", "must": 1}
    )
    await world.new_run(parameters={"must": 2})
    assert (await world.flow_run())["parameters"] == {"ten": 10, "group": "group's", "must": 2}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"labels": ["z", "a"], "run_config": {"labels": ["rc"]}}, ["a", "z"]),
        ({"labels": []}, []),
        ({"run_config": {"labels": ["rc"]}}, ["rc"]),
        ({"run_config": {"labels": []}}, ["group"]),
        ({}, ["group"]),
    ],
)
async def test_where_labels_come_from(world: World, given: dict[str, Any], expected: list[str]) -> None:
    await world.build(flow_document(run_config={"type": "UniversalRun", "labels": ["flow"]}))
    assert (await world.flow_run())["labels"] == ["flow"]
    group = (await world.rows("flow_group"))[0]["id"]
    await world.store.set_flow_group_run_config(ANYONE, flow_group_id=group, run_config={"labels": ["group-config"]})
    await world.new_run()
    assert (await world.flow_run())["labels"] == ["group-config"]
    await world.store.set_flow_group_labels(ANYONE, flow_group_id=group, labels=["group"])
    await world.new_run(**given)
    assert (await world.flow_run())["labels"] == expected


# -- changes -------------------------------------------------------------------------------------------


async def test_names_and_labels(world: World) -> None:
    store = world.store
    await world.build()
    await store.set_flow_run_name(ANYONE, flow_run_id=world.run_id, name="new")
    await store.set_flow_run_labels(ANYONE, flow_run_id=world.run_id, labels=["b", "a"])
    await store.set_task_run_name(ANYONE, task_run_id=world.task_runs["a"], name="task")
    run = await world.flow_run()
    assert (run["name"], run["labels"]) == ("new", ["a", "b"])
    assert (await world.task_run("a"))["name"] == "task"
    for call in (
        store.set_flow_run_name(ANYONE, flow_run_id=world.run_id, name=""),
        store.set_task_run_name(ANYONE, task_run_id=world.task_runs["a"], name=""),
        store.set_flow_run_name(ANYONE, flow_run_id=NOWHERE, name="x"),
        store.set_task_run_name(ANYONE, task_run_id=NOWHERE, name="x"),
    ):
        with pytest.raises(BackendRejected, match="Invalid"):
            await call


async def test_heartbeats(world: World) -> None:
    store = world.store
    await world.build()
    world.clock.move(seconds=30)
    await store.update_flow_run_heartbeat(ANYONE, flow_run_id=world.run_id)
    await store.update_task_run_heartbeat(ANYONE, task_run_id=world.task_runs["a"])
    assert (await world.flow_run())["heartbeat"] == world.clock.now()
    assert (await world.task_run("a"))["heartbeat"] == world.clock.now()
    for unknown in (NOWHERE, "x"):
        assert await store.update_flow_run_heartbeat(ANYONE, flow_run_id=unknown) == {"success": True}
        assert await store.update_task_run_heartbeat(ANYONE, task_run_id=unknown) == {"success": True}


@pytest.mark.parametrize(
    ("before", "answer", "message"),
    [
        ("Scheduled", "Cancelled", "Flow run is cancelled"),
        ("Submitted", "Cancelled", "Flow run is cancelled"),
        ("Queued", "Cancelled", "Flow run is cancelled"),
        ("Running", "Cancelling", "Flow run is cancelling"),
        ("Cancelling", "Cancelling", "Flow run is cancelling"),
        ("Success", "Success", "Success"),
        ("Failed", "Failed", "Failed"),
    ],
)
async def test_cancelling_a_flow_run(world: World, before: str, answer: str, message: str) -> None:
    await world.build()
    if before != "Scheduled":
        await world.flow_state(state(before), 1)
    cancelled = await world.store.cancel_flow_run(ANYONE, flow_run_id=world.run_id)
    assert cancelled == {"id": world.run_id, "state": answer}
    run = await world.flow_run()
    assert (run["state"], run["state_message"]) == (answer, message)
    pending = "Cancelled" if answer == "Cancelled" else "Pending"
    assert (await world.task_run("a"))["state"] == pending


async def test_a_restart_begins_at_what_did_not_succeed(world: World) -> None:
    kinds = ["Success", "Skipped", "Cached", "Mapped", "Failed", "TriggerFailed", "Cancelled", "Looped", "Pending"]
    await world.build(flow_document(*(kind.lower() for kind in kinds)))
    await world.start()
    for kind in kinds:
        await world.task_state(kind.lower(), state(kind), 1)
    with pytest.raises(BackendRejected, match="is Running: only a finished flow run can be restarted"):
        await world.store.restart_flow_run(ANYONE, flow_run_id=world.run_id)
    await world.flow_state(state("Failed"), 2)
    world.clock.move(hours=1)
    answer = await world.store.restart_flow_run(ANYONE, flow_run_id=world.run_id)
    assert answer == {"id": world.run_id, "state": "Scheduled", "task_runs": 4}
    run = await world.flow_run()
    assert (run["state"], run["version"], run["state_start_time"]) == ("Scheduled", 4, world.clock.now())
    after = {slug: (await world.task_run(slug))["state"] for slug in world.task_runs}
    keep = {"Success", "Skipped", "Cached", "Mapped"}
    assert after == {kind.lower(): kind if kind in keep else "Pending" for kind in kinds}
    assert (await world.flow_state(state("Running"), 4)).status == "SUCCESS"


async def test_deleting_a_flow_run(world: World) -> None:
    await world.build()
    await world.store.delete_flow_run(ANYONE, flow_run_id=world.run_id)
    for table in ("flow_run", "flow_run_state", "task_run", "task_run_state"):
        assert await world.rows(table) == [], table
    assert len(await world.rows("flow")) == 1
    with pytest.raises(BackendRejected, match="Invalid flow run ID"):
        await world.store.delete_flow_run(ANYONE, flow_run_id=world.run_id)


# -- task runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registered_by", "asked_by", "version"),
    [(PREFECT, PREFECT, 0), (FENCED, PREFECT, 1), (PREFECT, FENCED, 1), (FENCED, FENCED, 1)],
)
async def test_the_version_of_a_task_run_that_is_new(
    world: World, registered_by: Caller, asked_by: Caller, version: int
) -> None:
    await world.build(caller=registered_by)
    arguments = {"flow_run_id": world.run_id, "task_id": world.tasks["a"], "map_index": 3}
    info = await world.store.get_or_create_task_run_info(asked_by, **arguments)
    assert (info["version"], info["state"]) == (version, "Pending")
    assert msgspec.json.decode(info["serialized_state"]) == {
        "type": "Pending",
        "message": "Task run created",
        "__version__": "1.4.1",
        "context": {},
        "cached_inputs": {},
        "_result": {"__version__": "1.4.1", "type": "NoResultType"},
    }
    again = await world.store.get_or_create_task_run_info(asked_by, **arguments)
    assert (again["id"], again["version"]) == (info["id"], 1)
    assert await world.store.get_or_create_task_run(asked_by, **arguments) == {"id": info["id"]}


async def test_a_static_task_run_is_found(world: World) -> None:
    await world.build()
    info = await world.store.get_or_create_task_run_info(PREFECT, flow_run_id=world.run_id, task_id=world.tasks["a"])
    assert (info["id"], info["version"]) == (world.task_runs["a"], 1)


async def test_many_task_runs_at_once(world: World) -> None:
    await world.build(flow_document(tasks=[{"slug": "a", "cache_key": "k"}], edges=[]))

    async def ask(*indices: int) -> list[dict[str, Any]]:
        return await world.store.get_or_create_task_runs(
            FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=indices
        )

    first = await ask(2, 0, 2)
    assert [row["map_index"] for row in first] == [2, 0, 2]
    assert first[0] == first[2]
    more = await ask(*range(-1, 1200))
    assert [row["map_index"] for row in more] == list(range(-1, 1200))
    assert (more[0]["id"], more[1]["id"]) == (world.task_runs["a"], first[1]["id"])
    assert {row["version"] for row in more} == {1}
    assert (await world.row("task_run", more[-1]["id"]))["cache_key"] == "k"
    assert await ask() == []


async def test_a_task_run_of_nothing(world: World) -> None:
    await world.build()
    other = await world.store.create_flow(
        ANYONE, project_id=world.project_id, serialized_flow=flow_document(name="other")
    )
    strange = (await world.rows("task", flow_id=other["id"]))[0]["id"]
    for task_id in (NOWHERE, "x", strange):
        with pytest.raises(BackendRejected, match=r"^Invalid task ID$"):
            await world.store.get_or_create_task_run_info(ANYONE, flow_run_id=world.run_id, task_id=task_id)
    with pytest.raises(BackendRejected, match=r"^Invalid flow run ID$"):
        await world.store.get_or_create_task_run_info(ANYONE, flow_run_id=NOWHERE, task_id=world.tasks["a"])
    with pytest.raises(BackendRejected, match=r"^Invalid task run ID$"):
        await world.store.get_task_run_info(ANYONE, task_run_id=NOWHERE)


async def test_mapped_children(world: World) -> None:
    await world.build()
    await world.start()
    parent = world.task_runs["a"]
    children = await world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=[0, 1, 2]
    )
    for child in children[:2]:
        world.clock.move(seconds=1)
        await world.task_state(child["id"], state("Running"), 1)
        await world.task_state(child["id"], state("Success"), 2)
    assert await world.store.mapped_children(ANYONE, task_run_id=parent) == {
        "min_start_time": START + datetime.timedelta(seconds=1),
        "max_end_time": START + datetime.timedelta(seconds=2),
        "state_counts": {"Success": 2, "Pending": 1},
    }


# -- reading -------------------------------------------------------------------------------------------


async def test_all_that_a_runner_needs_in_one_read(world: World) -> None:
    await world.build()
    await world.start()
    await world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=[0]
    )
    info = await world.store.get_flow_run_info(ANYONE, flow_run_id=world.run_id)
    assert (info["id"], info["flow_id"], info["version"]) == (world.run_id, world.flow_id, 2)
    assert bytes(info["serialized_state"]) == state("Running")
    assert info["project"] == {"id": world.project_id, "name": "demo"}
    assert [(row["task_slug"], row["version"]) for row in info["task_runs"]] == [("a", 1), ("b", 1)]
    newest, refused = await world.store.get_flow_run_states(ANYONE, flow_run_ids=[world.run_id, "nonsense"])
    assert bytes(newest) == state("Running")
    assert isinstance(refused, BackendRejected)


async def test_cached_states(world: World) -> None:
    await world.build(flow_document(tasks=[{"slug": "a"}, {"slug": "b", "cache_key": "k"}], edges=[]))
    for minute in range(3):
        await world.new_run()
        await world.start()
        world.clock.move(minutes=1)
        for slug in ("a", "b"):
            await world.task_state(slug, state("Success"), 1)
            await world.task_state(slug, state("Cached", f"{slug}{minute}"), 2)
    await world.task_state("a", state("Pending"), 3)

    async def ask(task: str, cache_key: str | None, minutes: int, limit: int = 100) -> list[str]:
        found = await world.store.get_latest_cached_states(
            ANYONE,
            task_id=world.tasks[task],
            cache_key=cache_key,
            created_after=START + datetime.timedelta(minutes=minutes),
            limit=limit,
        )
        return [msgspec.json.decode(document)["message"] for document in found]

    assert await ask("a", None, 0) == ["a1", "a0"], "a run that has left Cached does not count"
    assert await ask("b", None, 0) == ["b2", "b1", "b0"]
    assert await ask("b", None, 2) == ["b2", "b1"]
    assert await ask("b", None, 0, limit=1) == ["b2"]
    assert await ask("a", "k", 0) == ["b2", "b1", "b0"]
    assert await ask("a", "other", 0) == []


async def test_lists_and_histories(world: World) -> None:
    await world.build()
    first = world.run_id
    world.clock.move(minutes=1)
    await world.new_run(flow_run_name="named")
    await world.start()
    await world.task_state("a", state("Running", "go"), 1)
    await world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=[1, 0]
    )
    runs = await world.store.list_flow_runs(ANYONE)
    assert [row["id"] for row in runs] == [world.run_id, first]
    assert (runs[0]["flow_name"], runs[0]["state"]) == ("flow", "Running")
    assert [row["id"] for row in await world.store.list_flow_runs(ANYONE, limit=1)] == [world.run_id]
    for reference in (world.run_id, "named"):
        history = await world.store.get_flow_run_history(ANYONE, flow_run_id=reference)
        assert history["id"] == world.run_id
        assert [row["state"] for row in history["states"]] == ["Scheduled", "Running"]
        assert [(row["task_slug"], row["map_index"]) for row in history["task_runs"]] == [
            ("a", -1),
            ("a", 0),
            ("a", 1),
            ("b", -1),
        ]
        assert [(row["version"], row["state"], row["message"]) for row in history["task_runs"][0]["states"]] == [
            (1, "Pending", "Task run created"),
            (2, "Running", "go"),
        ]


async def test_a_flow_run_by_the_beginning_of_its_id(world: World) -> None:
    await world.build()
    first, second = world.run_id, await world.new_run()
    for length in (36, 35, 24, 23):
        if first[:length] != second[:length]:
            found = await world.store.get_flow_run_history(ANYONE, flow_run_id=first[:length].upper())
            assert found["id"] == first
    with pytest.raises(BackendRejected, match="Several flow runs begin with"):
        await world.store.get_flow_run_history(ANYONE, flow_run_id=first[:2])
    for unknown in ("ffff", "no-such-name", "", NOWHERE, "0" * 40):
        with pytest.raises(BackendRejected, match="There is no flow run"):
            await world.store.get_flow_run_history(ANYONE, flow_run_id=unknown)
