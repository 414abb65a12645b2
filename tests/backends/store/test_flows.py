"""Registration: tenants, projects, flows, their tasks and edges; flow groups; archiving."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowloop.backends.store import ANYONE, Caller, Store
from flowloop.engine.errors import BackendRejected

from .world import FENCED, PREFECT, ManualClock, World, flow_document

NOWHERE = "00000000-0000-4000-8000-000000000000"


# -- tenants and projects ------------------------------------------------------------------------------


async def test_tenants(world: World) -> None:
    store = world.store
    tenant = await store.create_tenant(ANYONE, name="Demo", slug="demo-tenant")
    with pytest.raises(BackendRejected, match=r"^Uniqueness violation\.$"):
        await store.create_tenant(ANYONE, name="Demo", slug="demo-tenant")
    for slug in ("", "Demo", "a b", "-a"):
        with pytest.raises(BackendRejected, match="slug"):
            await store.create_tenant(ANYONE, name="Demo", slug=slug)
    with pytest.raises(BackendRejected, match="Confirm"):
        await store.delete_tenant(ANYONE, tenant_id=tenant["id"])
    await store.create_project(Caller(tenant_id=tenant["id"]), name="p")
    assert await store.delete_tenant(ANYONE, tenant_id=tenant["id"], confirm=True) == {"success": True}
    assert await world.rows("project") == []


FIRST_WRITES: dict[str, dict[str, Any]] = {
    "create_project": {"name": "demo"},
    "get_or_create_project": {"name": "demo"},
    "create_agent_config": {"name": "config"},
    "create_api_key": {"name": "key"},
    "register_agent": {"type": "LocalAgent"},
    "set_key_value": {"key": "key", "value": 1},
    "set_limit": {"kind": "label", "name": "gpu", "limit": 2},
    "set_notification": {"name": "rule", "kind": "email", "target": "a@b.c", "events": ["Failed"]},
    "set_secret": {"name": "TOKEN", "value": "secret"},
}


@pytest.mark.parametrize("write", FIRST_WRITES)
async def test_whatever_is_written_first_has_a_tenant(tmp_path: Path, write: str) -> None:
    async with Store(f"sqlite:///{tmp_path / 'new.db'}", synchronous="OFF", secret_key="a key") as store:
        assert await store.get_runs_in_queue(ANYONE) == {"flow_run_ids": []}
        await store.delete_secret(ANYONE, name="TOKEN")
        await getattr(store, write)(ANYONE, **FIRST_WRITES[write])
        assert [row["slug"] for row in await World(store, ManualClock()).rows("tenant")] == ["default"]


async def test_projects(world: World) -> None:
    store = world.store
    project = await store.create_project(ANYONE, name="demo", description="d")
    with pytest.raises(BackendRejected, match=r"^Uniqueness violation\.$"):
        await store.create_project(ANYONE, name="demo")
    assert await store.get_or_create_project(ANYONE, name="demo") == project
    other = Caller(tenant_id=(await store.create_tenant(ANYONE, name="O", slug="o"))["id"])
    assert await store.get_or_create_project(other, name="demo") != project
    with pytest.raises(BackendRejected, match="Invalid project"):
        await store.delete_project(other, project_id=project["id"])
    with pytest.raises(BackendRejected, match="Invalid tenant"):
        await store.create_project(other, name="x", tenant_id=(await store.default_tenant(ANYONE))["id"])
    assert await store.delete_project(ANYONE, project_id=project["id"]) == {"success": True}


async def test_deleting_a_project_takes_everything_with_it(world: World) -> None:
    await world.build()
    await world.start()
    await world.store.write_run_logs(FENCED, logs=[{"flow_run_id": world.run_id, "message": "m"}])
    await world.store.delete_project(ANYONE, project_id=world.project_id)
    for table in ("flow", "task", "edge", "flow_run", "task_run", "flow_run_state", "task_run_state", "log"):
        assert await world.rows(table) == [], table


# -- flows ---------------------------------------------------------------------------------------------


async def test_a_flow_is_registered_with_its_tasks_and_edges(world: World) -> None:
    task = {
        "slug": "a-1",
        "name": "a",
        "type": "prefect.core.task.Task",
        "max_retries": 3,
        "retry_delay": 3725,
        "tags": ["t"],
        "trigger": {"fn": "prefect.triggers.all_successful", "kwargs": {}},
        "auto_generated": True,
        "cache_key": "k",
    }
    edges = [
        {"upstream_task": {"slug": "a-1"}, "downstream_task": {"slug": "b-1"}, "key": key, "mapped": True}
        for key in ("x", "y")
    ]
    document = flow_document(tasks=[task, {"slug": "b-1", "name": "b"}], edges=edges, storage={"type": "Local"})
    await world.build(document)
    flow = (await world.rows("flow"))[0]
    assert flow["serialized_flow"] == document
    assert (flow["version"], flow["core_version"], flow["archived"]) == (1, "1.4.1", False)
    assert (flow["storage"], flow["settings"], flow["environment"]) == ({"type": "Local"}, {}, None)
    first, second = await world.rows("task")
    assert {key: first[key] for key in task if key != "trigger"} == {
        **{key: value for key, value in task.items() if key != "trigger"},
        "retry_delay": "01:02:05",
    }
    assert first["trigger"] == "prefect.triggers.all_successful"
    assert (second["max_retries"], second["retry_delay"], second["tags"]) == (0, None, [])
    assert [(row["key"], row["mapped"]) for row in await world.rows("edge")] == [("x", True)]


async def test_versions_of_a_flow(world: World) -> None:
    store = world.store
    await world.build()
    second = await store.create_flow(FENCED, project_id=world.project_id, serialized_flow=flow_document())
    assert (second["version"], second["created"]) == (2, True)
    flows = await world.rows("flow")
    assert [(row["version"], row["archived"]) for row in flows] == [(1, True), (2, False)]
    assert len({row["flow_group_id"] for row in flows}) == 1
    assert (await world.flow_run())["state"] == "Scheduled", "a run that somebody asked for can still be run"
    elsewhere = await store.create_flow(
        FENCED, project_id=world.project_id, serialized_flow=flow_document(name="another")
    )
    assert elsewhere["version"] == 1
    third = await store.create_flow(
        FENCED,
        project_id=world.project_id,
        serialized_flow=flow_document(name="renamed"),
        version_group_id=flows[0]["version_group_id"],
    )
    assert third["version"] == 3


async def test_the_idempotency_key_of_a_registration(world: World) -> None:
    async def register(key: str | None) -> dict[str, Any]:
        return await world.store.create_flow(
            PREFECT, project_id=world.project_id, serialized_flow=flow_document(), idempotency_key=key
        )

    world.project_id = (await world.store.create_project(ANYONE, name="demo"))["id"]
    first = await register("k")
    assert await register("k") == {**first, "created": False}
    assert (await register("other"))["version"] == 2
    assert (await register("k"))["version"] == 3
    assert (await register(None))["version"] == 4
    assert (await register("k"))["version"] == 5


@pytest.mark.parametrize(("caller", "locked"), [(FENCED, True), (PREFECT, False)])
async def test_who_registers_decides_about_the_version_lock(world: World, caller: Caller, locked: bool) -> None:
    await world.build(caller=caller)
    settings = (await world.rows("flow_group"))[0]["settings"]
    assert settings == {
        "heartbeat_enabled": True,
        "lazarus_enabled": True,
        "version_locking_enabled": locked,
        "idempotency_key": None,
    }


async def test_a_compressed_flow(world: World) -> None:
    project = (await world.store.create_project(ANYONE, name="demo"))["id"]
    text = base64.b64encode(gzip.compress(msgspec.json.encode(flow_document()))).decode()
    flow = await world.store.create_flow_from_compressed_string(PREFECT, project_id=project, serialized_flow=text)
    assert (await world.row("flow", flow["id"]))["serialized_flow"] == flow_document()
    for broken in ("", "%%%", "AAAA", base64.b64encode(gzip.compress(b"[]")).decode(), text[:-8]):
        with pytest.raises(BackendRejected, match="Unable to decompress serialized flow"):
            await world.store.create_flow_from_compressed_string(ANYONE, project_id=project, serialized_flow=broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "no name"),
        ({"__version__": "0.6.0"}, "0.6.0"),
        ({"__version__": "0.5.3+12"}, "0.5.3"),
        ({"tasks": [{"name": "no slug"}]}, "slug"),
        ({"edges": [{"upstream_task": {"slug": "a"}, "downstream_task": {"slug": "z"}}]}, "Edges could not be"),
        ({"edges": [{"upstream_task": None}]}, "Edges could not be"),
    ],
)
async def test_a_bad_flow_is_refused_whole(world: World, change: dict[str, Any], message: str) -> None:
    project = (await world.store.create_project(ANYONE, name="demo"))["id"]
    with pytest.raises(BackendRejected, match=message):
        await world.store.create_flow(ANYONE, project_id=project, serialized_flow=flow_document(**change))
    assert await world.rows("flow") == []
    assert await world.rows("flow_group") == []


async def test_an_unknown_project(world: World) -> None:
    for project_id in (NOWHERE, "x"):
        with pytest.raises(BackendRejected, match=r"^Invalid project\.$"):
            await world.store.create_flow(ANYONE, project_id=project_id, serialized_flow=flow_document())


async def test_tasks_and_edges_registered_in_batches(world: World) -> None:
    store = world.store
    project = (await store.create_project(ANYONE, name="demo"))["id"]
    document = flow_document("a", "b", "c")
    bare = {**document, "tasks": [], "edges": []}
    flow_id = (await store.create_flow(PREFECT, project_id=project, serialized_flow=bare))["id"]
    for _ in range(2):  # the second time nothing is new
        for batch in (document["tasks"][:2], document["tasks"][2:], []):
            await store.register_tasks(PREFECT, flow_id=flow_id, serialized_tasks=batch)
        for batch in (document["edges"], []):
            await store.register_edges(PREFECT, flow_id=flow_id, serialized_edges=batch)
    assert [row["slug"] for row in await world.rows("task")] == ["a", "b", "c"]
    assert len(await world.rows("edge")) == 2
    serialized = (await world.row("flow", flow_id))["serialized_flow"]
    assert serialized["tasks"] == document["tasks"]
    assert serialized["edges"] == []
    with pytest.raises(BackendRejected, match="some edges reference tasks that do not exist within this flow"):
        await store.register_edges(
            PREFECT,
            flow_id=flow_id,
            serialized_edges=[{"upstream_task": {"slug": "a"}, "downstream_task": {"slug": "?"}}],
        )


async def test_archiving_ends_what_is_scheduled(world: World) -> None:
    store = world.store
    await world.build(flow_document(schedule={"clocks": [{}]}))
    scheduled, running = world.run_id, await world.new_run()
    await world.start()
    await store.set_schedule_active(ANYONE, flow_id=world.flow_id)
    await store.archive_flow(ANYONE, flow_id=world.flow_id)
    runs = {row["id"]: row for row in await world.rows("flow_run")}
    assert set(runs) == {scheduled, running}, "the planned runs are deleted"
    assert (runs[scheduled]["state"], runs[scheduled]["state_message"]) == (
        "Cancelled",
        f"Flow {world.flow_id} was archived.",
    )
    assert runs[running]["state"] == "Running"
    with pytest.raises(BackendRejected, match=f"^Flow {world.flow_id} is archived.$"):
        await store.create_flow_run(ANYONE, flow_id=world.flow_id)


async def test_deleting_a_flow(world: World) -> None:
    await world.build()
    await world.store.delete_flow(ANYONE, flow_id=world.flow_id)
    for table in ("flow", "task", "flow_run", "task_run", "task_run_state"):
        assert await world.rows(table) == [], table


# -- schedules and flow groups -------------------------------------------------------------------------


async def test_a_schedule_is_switched_on_and_off(world: World) -> None:
    store = world.store
    await world.build(flow_document(schedule={"clocks": [{}]}))
    manual = world.run_id
    assert len(await world.rows("flow_run", auto_scheduled=True)) == 10, "a schedule starts with its registration"
    await store.set_schedule_inactive(ANYONE, flow_id=world.flow_id)
    assert [row["id"] for row in await world.rows("flow_run")] == [manual]
    assert await store.set_schedule_active(ANYONE, flow_id=world.flow_id) == {"success": True}
    assert (await world.row("flow", world.flow_id))["is_schedule_active"] is True


async def test_without_a_schedule_there_is_nothing_to_switch(world: World) -> None:
    await world.build()
    assert await world.store.set_schedule_active(ANYONE, flow_id=world.flow_id) == {"success": False}
    assert (await world.row("flow", world.flow_id))["is_schedule_active"] is False


@pytest.mark.parametrize(
    ("clocks", "group_defaults", "allowed"),
    [
        ([{}], {}, False),
        ([{"parameter_defaults": {"x": 1}}], {}, True),
        ([{"parameter_defaults": {"x": 1}}, {}], {}, False),
        ([{}], {"x": 1}, True),
    ],
)
async def test_a_schedule_has_to_supply_what_is_required(
    world: World, clocks: list[dict[str, Any]], group_defaults: dict[str, Any], allowed: bool
) -> None:
    store = world.store
    project = (await store.create_project(ANYONE, name="demo"))["id"]
    document = flow_document(parameters=[{"name": "x", "required": True}], schedule={"clocks": clocks})
    flow_id = (await store.create_flow(ANYONE, project_id=project, serialized_flow=document))["id"]
    group = (await world.rows("flow_group"))[0]["id"]
    await store.set_flow_group_default_parameters(ANYONE, flow_group_id=group, parameters=group_defaults)
    if allowed:
        assert await store.set_schedule_active(ANYONE, flow_id=flow_id) == {"success": True}
    else:
        with pytest.raises(BackendRejected, match="Can not schedule a flow that has required parameters"):
            await store.set_schedule_active(ANYONE, flow_id=flow_id)


async def test_the_schedule_of_a_group_replaces_that_of_the_flow(world: World) -> None:
    store = world.store
    await world.build(flow_document(schedule={"clocks": [{}]}))
    group = (await world.rows("flow_group"))[0]["id"]
    await store.set_flow_group_schedule(
        ANYONE,
        flow_group_id=group,
        cron_clocks=[{"cron": "0 * * * *"}],
        interval_clocks=[{"interval": 90, "parameter_defaults": {"x": 1}}],
        timezone="Europe/Berlin",
    )
    clocks = (await world.rows("flow_group"))[0]["schedule"]["clocks"]
    assert [(clock["type"], clock.get("cron"), clock.get("interval")) for clock in clocks] == [
        ("CronClock", "0 * * * *", None),
        ("IntervalClock", None, 90_000_000),
    ]
    assert {clock["start_date"]["tz"] for clock in clocks} == {"Europe/Berlin"}
    assert await world.rows("flow_run", auto_scheduled=True) == []
    with pytest.raises(BackendRejected, match="interval"):
        await store.set_flow_group_schedule(ANYONE, flow_group_id=group, interval_clocks=[{"interval": 0}])
    await store.delete_flow_group_schedule(ANYONE, flow_group_id=group)
    assert (await world.rows("flow_group"))[0]["schedule"] is None


async def test_settings_of_a_flow_group(world: World) -> None:
    store = world.store
    await world.build()
    group = (await world.rows("flow_group"))[0]["id"]
    await store.set_flow_group_labels(ANYONE, flow_group_id=group, labels=["b", "a"])
    await store.set_flow_group_description(ANYONE, flow_group_id=group, description="d")
    await store.set_flow_group_run_config(ANYONE, flow_group_id=group, run_config={"type": "UniversalRun"})
    await store.set_flow_group_default_parameters(ANYONE, flow_group_id=group, parameters={"x": 1, "y": 2})
    await store.delete_flow_group_default_parameter(ANYONE, flow_group_id=group, parameter_name="x")
    await store.disable_flow_heartbeat(ANYONE, flow_id=world.flow_id)
    await store.disable_flow_lazarus_process(ANYONE, flow_id=world.flow_id)
    row = (await world.rows("flow_group"))[0]
    assert (row["labels"], row["description"], row["default_parameters"]) == (["a", "b"], "d", {"y": 2})
    assert row["run_config"] == {"type": "UniversalRun"}
    switches = ("heartbeat_enabled", "disable_heartbeat", "lazarus_enabled")
    assert [row["settings"][name] for name in switches] == [False, True, False]
    await store.enable_flow_heartbeat(ANYONE, flow_id=world.flow_id)
    await store.enable_flow_lazarus_process(ANYONE, flow_id=world.flow_id)
    await store.set_flow_group_labels(ANYONE, flow_group_id=group)
    row = (await world.rows("flow_group"))[0]
    assert [row["settings"][name] for name in switches] == [True, False, True]
    assert row["labels"] is None


async def test_what_belongs_to_another_tenant_is_not_there(world: World) -> None:
    store = world.store
    await world.build()
    stranger = Caller(tenant_id=(await store.create_tenant(ANYONE, name="O", slug="o"))["id"])
    group = (await world.rows("flow_group"))[0]["id"]
    attempts = [
        store.create_flow(stranger, project_id=world.project_id, serialized_flow=flow_document()),
        store.register_tasks(stranger, flow_id=world.flow_id, serialized_tasks=[]),
        store.register_edges(stranger, flow_id=world.flow_id, serialized_edges=[]),
        store.archive_flow(stranger, flow_id=world.flow_id),
        store.delete_flow(stranger, flow_id=world.flow_id),
        store.set_schedule_active(stranger, flow_id=world.flow_id),
        store.set_schedule_inactive(stranger, flow_id=world.flow_id),
        store.enable_flow_version_lock(stranger, flow_id=world.flow_id),
        store.set_flow_group_labels(stranger, flow_group_id=group),
        store.create_flow_run(stranger, flow_id=world.flow_id),
        store.create_flow_run(stranger, version_group_id=(await world.rows("flow"))[0]["version_group_id"]),
        store.delete_flow_run(stranger, flow_run_id=world.run_id),
        store.set_flow_run_name(stranger, flow_run_id=world.run_id, name="n"),
        store.cancel_flow_run(stranger, flow_run_id=world.run_id),
        store.restart_flow_run(stranger, flow_run_id=world.run_id),
        store.get_flow_run_info(stranger, flow_run_id=world.run_id),
        store.get_flow_run_history(stranger, flow_run_id=world.run_id),
        store.get_task_run_info(stranger, task_run_id=world.task_runs["a"]),
        store.set_task_run_name(stranger, task_run_id=world.task_runs["a"], name="n"),
        store.get_or_create_task_run_info(stranger, flow_run_id=world.run_id, task_id=world.tasks["a"]),
        store.create_task_run_artifact(stranger, task_run_id=world.task_runs["a"], kind="link"),
    ]
    before = await world.rows("flow_run")
    for attempt in attempts:
        with pytest.raises(BackendRejected):
            await attempt
    await store.update_flow_run_heartbeat(stranger, flow_run_id=world.run_id)
    await store.write_run_logs(stranger, logs=[{"flow_run_id": world.run_id, "message": "m"}])
    assert await world.rows("flow_run") == before
    assert await world.rows("log") == []
    assert await store.list_flow_runs(stranger) == []


async def test_find_flow(world: World) -> None:
    await world.build()
    await world.store.create_flow(ANYONE, project_id=world.project_id, serialized_flow=flow_document())
    found = await world.store.find_flow(ANYONE, name="flow", project_name="demo")
    assert found is not None
    assert found["version"] == 2
    assert await world.store.find_flow(ANYONE, name="flow", project_name="other") is None
    assert await world.store.find_flow(ANYONE, name="other") is None
