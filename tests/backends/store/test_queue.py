"""Agents, the queue, and the reservations of workers."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from flowloop.backends.store import ANYONE, Caller
from flowloop.backends.store.queue import knows
from flowloop.engine.errors import BackendRejected, OwnershipLost

from .world import FENCED, PREFECT, START, World, flow_document, state

NOWHERE = "00000000-0000-4000-8000-000000000000"


async def queue(world: World, *labels: str, **arguments: Any) -> list[str]:
    found = await world.store.get_runs_in_queue(ANYONE, labels=labels, **arguments)
    return list(found["flow_run_ids"])


# -- agents --------------------------------------------------------------------------------------------


async def test_an_agent_is_found_again_by_what_it_is(world: World) -> None:
    store = world.store
    first = await store.register_agent(PREFECT, type="LocalAgent", name="agent", labels=["b", "a"])
    assert await store.register_agent(PREFECT, type="LocalAgent", name="agent", labels=["a", "b"]) == first
    others = [
        await store.register_agent(PREFECT, type="DockerAgent", name="agent", labels=["a", "b"]),
        await store.register_agent(PREFECT, type="LocalAgent", name=None, labels=["a", "b"]),
        await store.register_agent(PREFECT, type="LocalAgent", name="agent", labels=["a"]),
        await store.register_agent(Caller(core_version="1.4.0"), type="LocalAgent", name="agent", labels=["a", "b"]),
    ]
    assert len({row["id"] for row in [first, *others]}) == 5
    row = await world.row("agent", first["id"])
    assert (row["labels"], row["core_version"]) == (["a", "b"], "1.4.1")


async def test_an_agent_with_settings(world: World) -> None:
    store = world.store
    config = (await store.create_agent_config(ANYONE, name="c", settings={"x": 1}))["id"]
    agent = (await store.register_agent(PREFECT, type="LocalAgent", agent_config_id=config))["id"]
    assert (await world.row("agent", agent))["agent_config_id"] == config
    await store.update_agent_config(ANYONE, agent_config_id=config, settings={"x": 2})
    row = await world.row("agent_config", config)
    assert (row["name"], row["settings"]) == ("c", {"x": 2})
    await store.delete_agent_config(ANYONE, agent_config_id=config)
    assert (await world.row("agent", agent))["agent_config_id"] is None
    with pytest.raises(BackendRejected, match="Invalid agent config ID"):
        await store.register_agent(PREFECT, type="LocalAgent", name="new", agent_config_id=config)


async def test_asking_for_runs_is_a_sign_of_life_of_an_agent(world: World) -> None:
    agent = (await world.store.register_agent(PREFECT, type="LocalAgent"))["id"]
    world.clock.move(minutes=1)
    await world.store.get_runs_in_queue(Caller(agent_id=agent))
    assert (await world.row("agent", agent))["last_queried"] == world.clock.now()
    await world.store.get_runs_in_queue(Caller(agent_id="nonsense"))


# -- the queue -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "listed"),
    [
        ("Scheduled", {"start_time": "2021-07-01T12:00:00Z"}, True),
        ("Scheduled", {"start_time": "2021-07-01T12:00:01Z"}, False),
        ("Scheduled", {"start_time": None}, False),
        ("Queued", {"start_time": "2021-07-01T11:00:00Z"}, True),
        ("Resume", {"start_time": "2021-07-01T11:00:00Z"}, True),
        ("Retrying", {"start_time": "2021-07-01T11:00:00Z"}, True),
        ("Paused", {"start_time": "2021-07-01T11:00:00Z"}, True),
        ("Paused", {}, False),
        ("Submitted", {}, False),
        ("Running", {}, False),
        ("Success", {}, False),
    ],
)
async def test_which_flow_runs_are_ready(world: World, kind: str, fields: dict[str, Any], listed: bool) -> None:
    await world.build(caller=PREFECT)
    await world.flow_state(state(kind, **fields), None, PREFECT)
    assert await queue(world) == ([world.run_id] if listed else [])


@pytest.mark.parametrize(
    ("kind", "start", "listed"),
    [
        ("Retrying", "2021-07-01T12:00:00Z", True),
        ("Retrying", "2021-07-01T12:00:01Z", False),
        ("Scheduled", "2021-07-01T11:00:00Z", True),
        ("Paused", None, False),
    ],
)
async def test_a_running_flow_run_is_ready_when_a_task_run_is_due(
    world: World, kind: str, start: str | None, listed: bool
) -> None:
    await world.build()
    await world.start()
    await world.task_state("b", state(kind, start_time=start), 1)
    assert await queue(world) == ([world.run_id] if listed else [])


@pytest.mark.parametrize(
    ("begun", "kind", "start", "listed"),
    [
        (True, "Resume", "2021-07-01T12:00:00Z", True),
        (True, "Resume", "2021-07-01T12:00:01Z", False),
        (True, "Retrying", "2021-07-01T12:00:00Z", False),
        (False, "Resume", "2021-07-01T12:00:00Z", False),
    ],
)
async def test_a_flow_run_that_waits_is_ready_when_a_task_run_of_it_is_resumed(
    world: World, begun: bool, kind: str, start: str, listed: bool
) -> None:
    await world.build()
    later = state("Scheduled", start_time="2021-07-01T13:00:00Z")
    if begun:
        await reserve(world, "w1")
    assert (await world.flow_state(later, epoch=1 if begun else None)).status == "SUCCESS"
    await world.task_state("a", state(kind, start_time=start), 1)
    assert await queue(world) == ([world.run_id] if listed else [])


async def test_agents_are_shown_what_was_left_from_the_moment_its_lease_ends(world: World) -> None:
    await world.build()
    await reserve(world, "w1", lease_seconds=60)
    world.clock.move(seconds=59)
    assert await queue(world) == []
    world.clock.move(seconds=1)
    assert await queue(world) == [world.run_id]


async def test_what_becomes_ready_before_a_moment_counts(world: World) -> None:
    await world.build()
    soon = await world.new_run(scheduled_start_time=START + datetime.timedelta(seconds=10))
    first = (await world.rows("flow_run"))[0]["id"]
    assert await queue(world) == [first]
    assert await queue(world, before=START + datetime.timedelta(seconds=10)) == [first, soon]


async def test_the_longest_waiting_come_first_and_not_all_at_once(world: World) -> None:
    await world.build()
    ids = [await world.new_run(scheduled_start_time=START - datetime.timedelta(hours=n)) for n in range(1, 31)]
    assert await queue(world) == ids[:4:-1]


@pytest.mark.parametrize(
    ("run", "agent", "shown"),
    [
        ([], [], True),
        (["a"], ["a"], True),
        (["a"], ["a", "b"], True),
        (["a", "b"], ["a"], False),
        (["a"], [], False),
        ([], ["a"], False),
    ],
)
async def test_labels_decide_who_is_shown_a_run(world: World, run: list[str], agent: list[str], shown: bool) -> None:
    await world.build()
    await world.store.delete_flow_run(ANYONE, flow_run_id=world.run_id)
    await world.new_run(labels=run)
    assert await queue(world, *agent) == ([world.run_id] if shown else [])


async def test_the_queue_of_a_tenant(world: World) -> None:
    await world.build()
    other = (await world.store.create_tenant(ANYONE, name="O", slug="o"))["id"]
    assert await queue(world, tenant_id=other) == []
    with pytest.raises(BackendRejected, match="Invalid tenant"):
        await queue(world, tenant_id=NOWHERE)
    with pytest.raises(BackendRejected, match="Invalid tenant"):
        await world.store.get_runs_in_queue(
            Caller(tenant_id=other), tenant_id=(await world.store.default_tenant(ANYONE))["id"]
        )


# -- reservations --------------------------------------------------------------------------------------


async def reserve(world: World, worker: str, limit: int = 10, **arguments: Any) -> list[str]:
    taken = await world.store.reserve_flow_runs(FENCED, worker_id=worker, limit=limit, **arguments)
    return [row["flow_run_id"] for row in taken]


async def test_a_worker_takes_runs_and_nobody_else_gets_them(world: World) -> None:
    await world.build()
    ids = [world.run_id, await world.new_run(), await world.new_run()]
    assert await reserve(world, "w1", 2) == ids[:2]
    assert await reserve(world, "w2") == ids[2:]
    assert await reserve(world, "w1") == []
    assert await reserve(world, "w1", 0) == []
    assert await queue(world) == [], "agents are not shown what somebody has"


async def test_a_lease_runs_out_unless_it_is_renewed(world: World) -> None:
    await world.build()
    await reserve(world, "w1", lease_seconds=60)
    world.clock.move(seconds=50)
    await world.store.update_flow_run_heartbeat(FENCED, flow_run_id=world.run_id, epoch=1)
    world.clock.move(seconds=50)
    assert await reserve(world, "w2") == []
    world.clock.move(seconds=11)
    assert await reserve(world, "w2") == [world.run_id]
    with pytest.raises(OwnershipLost, match="epoch is 2, not 1"):
        await world.store.update_flow_run_heartbeat(FENCED, flow_run_id=world.run_id, epoch=1)


@pytest.mark.parametrize("kind", ["Submitted", "Running"])
async def test_a_run_whose_worker_is_gone_is_taken_up_by_another(world: World, kind: str) -> None:
    await world.build()
    await reserve(world, "w1", lease_seconds=60)
    await world.flow_state(state(kind), 1, epoch=1)
    assert await reserve(world, "w2") == []
    world.clock.move(seconds=61)
    taken = await world.store.reserve_flow_runs(FENCED, worker_id="w2")
    assert [(row["flow_run_id"], row["state"], row["epoch"]) for row in taken] == [(world.run_id, kind, 2)]
    assert taken[0]["flow_id"] == world.flow_id
    assert taken[0]["expires"] == world.clock.now() + datetime.timedelta(seconds=60)


async def test_who_let_a_lease_run_out_is_not_given_the_run_again(world: World) -> None:
    await world.build()
    await reserve(world, "w1", lease_seconds=60)
    world.clock.move(seconds=61)
    assert await reserve(world, "w1") == [], "it has it already, and may be running it"
    await world.store.update_flow_run_heartbeat(FENCED, flow_run_id=world.run_id, epoch=1)
    assert await reserve(world, "w2") == []


async def test_reservations_are_given_to_those_who_wait_longest(world: World) -> None:
    await world.build()
    now = world.clock.now()
    later = await world.new_run(scheduled_start_time=now - datetime.timedelta(seconds=10))
    first = await world.new_run(scheduled_start_time=now - datetime.timedelta(seconds=30))
    second = await world.new_run(scheduled_start_time=now - datetime.timedelta(seconds=20))
    assert await reserve(world, "w1", 2) == [first, second]
    assert (await reserve(world, "w1"))[0] == later


@pytest.mark.parametrize("kind", ["Running", "Pending"])
async def test_what_nobody_ever_reserved_is_left_alone(world: World, kind: str) -> None:
    await world.build()
    assert (await world.flow_state(state(kind), 1)).status == "SUCCESS"
    world.clock.move(hours=1)
    assert await reserve(world, "w1") == []


async def test_what_is_given_back_can_be_taken_again(world: World) -> None:
    await world.build()
    await reserve(world, "w1")
    await world.store.release_flow_run(FENCED, flow_run_id=world.run_id, epoch=7)
    assert await reserve(world, "w2") == []
    await world.store.release_flow_run(FENCED, flow_run_id=world.run_id, epoch=1)
    assert await reserve(world, "w2") == [world.run_id]


async def test_what_only_keeps_agents_away_keeps_no_worker(world: World) -> None:
    await world.build()
    await world.store.delete_flow_run(ANYONE, flow_run_id=world.run_id)
    plain = await world.new_run(labels=["agentless-run-1"])
    labelled = await world.new_run(labels=["agentless-run-2", "gpu"])
    assert await queue(world) == await queue(world, "gpu") == []
    assert await reserve(world, "w1") == [plain]
    assert await reserve(world, "w1", labels=["gpu"]) == [labelled]


async def test_only_what_has_begun_is_given_to_those_who_want_no_more(world: World) -> None:
    untouched = (await world.build()).run_id
    begun = await world.new_run(owner="somebody", lease_seconds=60)
    world.clock.move(seconds=61)
    assert await reserve(world, "w1", begun=True) == [begun]
    assert await reserve(world, "w1") == [untouched]


async def test_runs_for_others_do_not_stand_in_the_way(world: World) -> None:
    await world.build(flow_document(run_config={"labels": ["gpu"]}))
    for _ in range(80):
        await world.new_run()
    mine = await world.new_run(labels=["cpu"])
    assert await reserve(world, "w1", labels=["cpu"]) == [mine]


async def test_who_asks_for_runs_is_noted(world: World) -> None:
    await world.build()
    await reserve(world, "w1", 3, labels=["b", "a"], flow_names=["flow"], not_flow_ids=[NOWHERE])
    await reserve(world, "w1", 2, labels=["a"])
    [noted] = await world.rows("worker")
    known = {name: noted[name] for name in ("name", "labels", "flow_names", "room", "not_flow_ids")}
    assert known == {"name": "w1", "labels": ["a"], "flow_names": None, "room": 2, "not_flow_ids": []}


@pytest.mark.parametrize(
    ("names", "refused", "known"),
    [(None, None, True), (None, ["other"], True), (["flow"], [], True), (["other"], [], False), (None, ["id"], False)],
)
def test_which_flows_a_worker_knows(names: list[str] | None, refused: list[str] | None, known: bool) -> None:
    assert knows({"flow_names": names, "not_flow_ids": refused}, "id", "flow") is known


async def die(world: World, run_id: str, *owners: str) -> None:
    """Let owners begin a flow run, and each be gone without another word."""
    world.run_id = run_id
    for owner in owners:
        [taken] = await world.store.reserve_flow_runs(FENCED, worker_id=owner, lease_seconds=1)
        assert (taken["flow_run_id"], taken["name"] != "") == (run_id, True)
        version = (await world.flow_run())["version"]
        assert (await world.flow_state(state("Running"), version, epoch=taken["epoch"])).status == "SUCCESS"
        world.clock.move(seconds=301)


async def test_what_its_owner_may_have_died_of_is_taken_alone(world: World) -> None:
    suspect = (await world.build()).run_id
    await die(world, suspect, "w1")
    healthy = await world.new_run()
    [taken] = await world.store.reserve_flow_runs(FENCED, worker_id="w2", limit=9)
    assert (taken["flow_run_id"], taken["lapsed"], taken["alone"]) == (suspect, True, 30)
    [beside] = await world.store.reserve_flow_runs(FENCED, worker_id="w2", limit=9)
    assert (beside["flow_run_id"], beside["lapsed"], beside["alone"]) == (healthy, False, 0)


async def test_it_is_taken_with_others_after_a_while_where_nothing_can_be_alone(world: World) -> None:
    suspect = (await world.build()).run_id
    await die(world, suspect, "w1")
    healthy = await world.new_run()
    taken = await world.store.reserve_flow_runs(FENCED, worker_id="w2", limit=9, alone=False)
    assert {row["flow_run_id"]: (row["lapsed"], row["alone"]) for row in taken} == {
        suspect: (True, 0),
        healthy: (False, 0),
    }


async def test_a_run_of_which_too_many_owners_died_is_over_and_given_to_nobody(world: World) -> None:
    over = (await world.build()).run_id
    await die(world, over, "w1", "w2")
    waiting = await world.new_run()
    assert await reserve(world, "w3", alone=False, max_lapses=2) == [waiting]
    assert (await world.row("flow_run", over))["state"] == "Failed"


async def test_who_takes_up_a_flow_run_has_its_parts_with_it(world: World) -> None:
    whole = (await world.build()).run_id
    await reserve(world, "w1", lease_seconds=60)
    assert (await world.flow_state(state("Running"), 1, epoch=1)).status == "SUCCESS"
    inner = await world.store.start_subflow_run(
        FENCED, flow_id=world.flow_id, task_run_id=world.task_runs["a"], epoch=1
    )
    assert (await world.flow_state(state("Scheduled"), 2, epoch=1)).status == "SUCCESS"
    assert await reserve(world, "w2", lease_seconds=30) == [whole], "a part is given to nobody alone"
    shared = ("owner", "epoch", "lease_expires", "lease_seconds")
    around, part = [await world.row("flow_run", run_id) for run_id in (whole, inner["id"])]
    assert [part[name] for name in shared] == [around[name] for name in shared]
    assert (part["owner"], part["epoch"], part["lease_seconds"]) == ("w2", 2, 30)


async def test_what_was_left_by_a_client_that_said_nothing_of_its_lease_waits_as_long_as_any(world: World) -> None:
    await world.build()
    await reserve(world, "w1", lease_seconds=1)
    await world.flow_state(state("Running"), 1, epoch=1)
    world.clock.move(seconds=1.5)
    assert await reserve(world, "w2") == [], "a second after its lease has ended"
    world.clock.move(seconds=0.5)
    assert await reserve(world, "w2") == [world.run_id]


async def test_a_run_with_a_short_lease_waits_no_longer_than_that_after_a_death(world: World) -> None:
    await die(world, (await world.build()).run_id, "w1")
    [taken] = await world.store.reserve_flow_runs(FENCED, worker_id="w2", lease_seconds=1)
    await world.flow_state(state("Running"), None, epoch=taken["epoch"])
    world.clock.move(seconds=1.5)
    assert await reserve(world, "w3") == []
    world.clock.move(seconds=0.5)
    assert await reserve(world, "w3") == [world.run_id]


async def test_a_lease_needs_a_length(world: World) -> None:
    with pytest.raises(BackendRejected, match="lease_seconds"):
        await reserve(world, "w1", lease_seconds=0)


# -- turns, and what comes next ------------------------------------------------------------------------


async def test_the_urgent_come_first_and_keys_take_turns(world: World) -> None:
    await world.build()
    await reserve(world, "w0")  # the first run is out of the way

    async def made(ago: int, key: str | None = None, priority: int = 0) -> str:
        start = START - datetime.timedelta(seconds=ago)
        return await world.new_run(scheduled_start_time=start, fairness_key=key, priority=priority)

    of_a = [await made(ago, "a") for ago in (60, 50, 40)]
    of_none = await made(35)
    of_b = [await made(ago, "b") for ago in (30, 20)]
    urgent = await made(1, "a", priority=5)
    assert await reserve(world, "w1", 7) == [urgent, of_a[0], of_none, of_b[0], of_a[1], of_b[1], of_a[2]]


async def test_without_keys_priority_and_time_decide(world: World) -> None:
    await world.build()
    await reserve(world, "w0")
    waits = [await world.new_run(scheduled_start_time=START - datetime.timedelta(seconds=ago)) for ago in (5, 9)]
    urgent = await world.new_run(scheduled_start_time=START, priority=1)
    put_off = await world.new_run(scheduled_start_time=START - datetime.timedelta(hours=1), priority=-1)
    assert await reserve(world, "w1", 4) == [urgent, *reversed(waits), put_off]


async def test_without_keys_those_with_other_labels_take_no_turns(world: World) -> None:
    await world.build()
    await reserve(world, "w0")

    async def made(ago: int, label: str) -> str:
        return await world.new_run(scheduled_start_time=START - datetime.timedelta(seconds=ago), labels=[label])

    waits = [await made(60, "a"), await made(50, "a"), await made(40, "b")]
    assert await reserve(world, "w1", 3, labels=["a", "b"]) == waits


async def test_what_is_ready_next_is_the_earliest_that_waits(world: World) -> None:
    await world.build()
    store = world.store
    assert await store.next_ready(ANYONE) is None, "what is ready already waits for nothing"
    await world.new_run(scheduled_start_time=START + datetime.timedelta(seconds=90))
    assert await store.next_ready(ANYONE) == 90
    await world.new_run(scheduled_start_time=START + datetime.timedelta(seconds=30))
    assert await store.next_ready(ANYONE) == 30
    world.clock.move(seconds=30)
    assert await store.next_ready(ANYONE) == 60
    other = Caller(tenant_id=(await store.create_tenant(ANYONE, name="Other", slug="other"))["id"])
    assert await store.next_ready(other) is None


async def test_a_task_run_that_waits_may_be_what_is_ready_next(world: World) -> None:
    await world.build()
    await world.task_state("a", state("Scheduled", start_time="2021-07-01T12:00:40Z"), 1)
    await world.new_run(scheduled_start_time=START + datetime.timedelta(seconds=90))
    assert await world.store.next_ready(ANYONE) == 40
    world.clock.move(seconds=40)
    assert await world.store.next_ready(ANYONE) == 50


@pytest.mark.parametrize("left", ["owned", "given back", "Running"])
async def test_what_was_begun_may_be_ready_at_any_moment(world: World, left: str) -> None:
    await world.build()
    if left == "Running":
        await world.start()
    else:
        await reserve(world, "w1")
    if left == "given back":
        await world.flow_state(state("Scheduled", start_time="2021-07-01T13:00:00Z"), epoch=1)
        await world.store.release_flow_run(FENCED, flow_run_id=world.run_id, epoch=1)
    assert await world.store.next_ready(ANYONE) == 0
    await world.flow_state(state("Cancelled"), None)
    assert await world.store.next_ready(ANYONE) is None
