"""Places under a limit: taken with Running, given back on every path."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
import pytest

from flowloop.backends import connect
from flowloop.backends.store import ANYONE, StateUpdate
from flowloop.engine.errors import BackendRejected

from .world import FENCED, PREFECT, RIVAL, World, flow_document, state

TASKS = [{"slug": slug, "name": slug, "tags": tags} for slug, tags in [("a", ["db"]), ("b", ["db", "web"]), ("c", [])]]


async def limited(world: World, **limits: int) -> World:
    """A running flow with tasks a (db), b (db, web), c, and limits on tags."""
    await world.build(flow_document(tasks=TASKS, edges=[]))
    await world.start()
    for tag, limit in limits.items():
        await world.store.update_task_tag_limit(ANYONE, tag=tag, limit=limit)
    return world


async def holders(world: World, table: str = "task_slot") -> set[str]:
    names = {run_id: slug for slug, run_id in world.task_runs.items()}
    return {names.get(row["run_id"], row["run_id"]) for row in await world.rows(table)}


async def test_without_a_place_a_run_is_queued(world: World) -> None:
    await limited(world, db=1)
    assert (await world.task_state("a", state("Running"), 1)).status == "SUCCESS"
    queued = await world.task_state("b", state("Running"), 1)
    assert (queued.status, queued.version) == ("QUEUED", 2)
    assert queued.message == "Queued by task run concurrency limit(s)"
    assert (await world.task_state("c", state("Running"), 1)).status == "SUCCESS"
    run = await world.task_run("b")
    assert (run["state"], run["state_message"]) == ("Queued", queued.message)
    assert msgspec.json.decode(run["serialized_state"]) == {
        "type": "Queued",
        "message": queued.message,
        "context": {},
        "cached_inputs": {},
        "_result": {"__version__": "1.4.1", "type": "NoResultType"},
        "start_time": "2021-07-01T12:00:01+00:00",
        "state": None,
        "__version__": "1.4.1",
    }
    assert (await world.task_state("a", state("Success"), 2)).status == "SUCCESS"
    assert (await world.task_state("b", state("Running"), 2)).status == "SUCCESS"
    assert await holders(world) == {"b"}


GIVING_BACK: list[tuple[str, dict[str, Any]]] = [
    ("Success", {}),
    ("Failed", {}),
    ("Retrying", {"start_time": None}),
    ("Paused", {}),
    ("Looped", {}),
    ("Cancelled", {}),
    ("Mapped", {}),
    ("Pending", {}),
]


@pytest.mark.parametrize(("kind", "fields"), GIVING_BACK)
async def test_whatever_ends_running_gives_the_place_back(world: World, kind: str, fields: dict[str, Any]) -> None:
    await limited(world, db=1)
    await world.task_state("a", state("Running"), 1)
    assert await holders(world) == {"a"}
    await world.task_state("a", state(kind, **fields), 2)
    assert await holders(world) == set()
    assert (await world.task_state("b", state("Running"), 1)).status == "SUCCESS"


async def test_cancelling_keeps_the_place(world: World) -> None:
    await limited(world, db=1)
    await world.task_state("a", state("Running"), 1)
    await world.task_state("a", state("Cancelling"), 2)
    assert await holders(world) == {"a"}


async def test_a_cancelled_flow_run_gives_back_the_places_of_its_task_runs(world: World) -> None:
    await limited(world, db=2)
    for slug in "ab":
        await world.task_state(slug, state("Running"), 1)
    assert await holders(world) == {"a", "b"}
    await world.flow_state(state("Cancelled"), 2)
    assert await holders(world) == set()


async def test_the_zombie_killer_gives_places_back(world: World) -> None:
    await limited(world, db=1)
    await world.task_state("a", state("Running"), 1)
    world.clock.move(minutes=11)
    await world.store.kill_zombies(ANYONE)
    assert await holders(world) == set()


async def test_a_full_limit_takes_back_what_a_dead_owner_holds(world: World) -> None:
    await limited(world, db=1)
    await world.new_run()
    await world.store.claim_flow_run(FENCED, flow_run_id=world.run_id, owner="dead", lease_seconds=60)
    await world.flow_state(state("Running"), 1, epoch=1)
    assert (await world.task_state("a", state("Running"), 1, epoch=1)).status == "SUCCESS"
    await world.new_run()
    await world.start()
    assert (await world.task_state("b", state("Running"), 1)).status == "QUEUED"
    world.clock.move(seconds=61)
    assert (await world.task_state("b", state("Running"), 2)).status == "SUCCESS"
    assert await holders(world) == {"b"}


async def test_places_of_dead_owners_are_given_back_when_a_database_is_opened(world: World, database_url: str) -> None:
    await limited(world, db=1)
    await world.new_run()
    await world.store.claim_flow_run(FENCED, flow_run_id=world.run_id, owner="dead", lease_seconds=0.001)
    await world.flow_state(state("Running"), 1, epoch=1)
    await world.task_state("a", state("Running"), 1, epoch=1)
    async with connect(database_url):
        assert await holders(world) == set()


@pytest.mark.parametrize("how", ["delete run", "delete flow", "delete limit", "prune"])
async def test_what_is_deleted_holds_no_place(world: World, how: str) -> None:
    await limited(world, db=1)
    await world.task_state("a", state("Running"), 1)
    if how == "delete run":
        await world.store.delete_flow_run(ANYONE, flow_run_id=world.run_id)
    elif how == "delete flow":
        await world.store.delete_flow(ANYONE, flow_id=world.flow_id)
    elif how == "delete limit":
        limit_id = (await world.rows("task_tag_limit"))[0]["id"]
        await world.store.delete_task_tag_limit(ANYONE, limit_id=limit_id)
        assert (await world.task_state("b", state("Running"), 1)).status == "SUCCESS"
    else:
        await world.flow_state(state("Failed"), 2)  # the task run is left Running
        assert await holders(world) == {"a"}
        world.clock.move(days=1)
        await world.store.prune(world.clock.now() - world.clock.now())
    assert await holders(world) == set()


async def test_a_run_has_a_place_under_every_limit_or_under_none(world: World) -> None:
    await limited(world, db=2, web=0)
    assert (await world.task_state("b", state("Running"), 1)).status == "QUEUED"
    assert await holders(world) == set()
    await world.store.update_task_tag_limit(ANYONE, tag="web", limit=1)
    assert (await world.task_state("b", state("Running"), 2)).status == "SUCCESS"
    assert len(await world.rows("task_slot")) == 2


async def test_places_are_counted_within_a_batch(world: World) -> None:
    await limited(world, db=1)
    a, b = world.task_runs["a"], world.task_runs["b"]
    outcomes = await world.store.set_task_run_states(
        FENCED,
        [
            StateUpdate(a, state("Running"), 1),
            StateUpdate(b, state("Running"), 1),
            StateUpdate(a, state("Success"), 2),
            StateUpdate(b, state("Running"), 2),
        ],
    )
    assert [outcome.status for outcome in outcomes] == ["SUCCESS", "QUEUED", "SUCCESS", "SUCCESS"]
    assert await holders(world) == {"b"}


async def test_a_repeated_message_is_queued_again_for_the_same_client_only(world: World) -> None:
    await limited(world, db=0)
    first = await world.task_state("a", state("Running"), 1)
    assert await world.task_state("a", state("Running"), 1) == first
    assert (await world.task_state("a", state("Success"), 1)).code == "VERSION_LOCKING_ERROR"
    assert (await world.task_state("a", state("Running"), 1, RIVAL)).code == "VERSION_LOCKING_ERROR"
    assert await world.history("a") == ["Pending", "Queued"]


async def test_a_limit_that_is_raised_and_lowered(world: World) -> None:
    await limited(world, db=2)
    for slug in "ab":
        await world.task_state(slug, state("Running"), 1)
    first = await world.rows("task_tag_limit")
    await world.store.update_task_tag_limit(ANYONE, tag="db", limit=1)
    assert [row["id"] for row in await world.rows("task_tag_limit")] == [first[0]["id"]]
    await world.task_state("a", state("Failed"), 2)
    await world.task_state("a", state("Retrying", start_time=None), 3)
    assert (await world.task_state("a", state("Running"), 4)).status == "QUEUED"
    with pytest.raises(BackendRejected, match="negative"):
        await world.store.update_task_tag_limit(ANYONE, tag="db", limit=-1)


async def test_a_refused_state_changes_nothing(world: World) -> None:
    await limited(world, db=1)
    await world.task_state("a", state("Running"), 1)
    assert (await world.task_state("a", state("Success"), 1)).status == "ERROR"
    assert await holders(world) == {"a"}


async def test_flow_runs_are_limited_by_their_labels(world: World) -> None:
    await world.build(flow_document(run_config={"labels": ["prod"]}))
    first, second = world.run_id, await world.new_run()
    await world.store.update_flow_concurrency_limit(ANYONE, name="prod", limit=1)
    update = [StateUpdate(first, state("Running"), 1), StateUpdate(second, state("Running"), 1)]
    outcomes = await world.store.set_flow_run_states(FENCED, update)
    assert [outcome.status for outcome in outcomes] == ["SUCCESS", "QUEUED"]
    assert outcomes[1].message == "Queued by flow run concurrency limit(s)"
    assert (await world.flow_run())["state"] == "Queued"
    world.clock.move(seconds=30)
    assert (await world.store.get_runs_in_queue(ANYONE, labels=["prod"]))["flow_run_ids"] == [second]
    await world.store.set_flow_run_states(FENCED, [StateUpdate(first, state("Success"), 2)])
    assert (await world.flow_state(state("Running"), 2)).status == "SUCCESS"
    assert await holders(world, "flow_slot") == {second}
    limit_id = (await world.rows("flow_concurrency_limit"))[0]["id"]
    await world.store.delete_flow_concurrency_limit(ANYONE, limit_id=limit_id)
    assert await holders(world, "flow_slot") == set()


async def test_limits_of_other_tenants_do_not_count(world: World) -> None:
    from flowloop.backends.store import Caller

    other = Caller(tenant_id=(await world.store.create_tenant(ANYONE, name="O", slug="o"))["id"])
    await world.store.update_task_tag_limit(other, tag="db", limit=0)
    await limited(world)
    assert (await world.task_state("a", state("Running"), 1, PREFECT)).status == "SUCCESS"


# -- rates and lines -----------------------------------------------------------------------------------


async def paced(world: World, limit: int, period: float, tasks: int = 6) -> World:
    """A running flow with tasks t0, t1, …, all with the tag api, and a rate of it."""
    documents = [{"slug": f"t{n}", "name": f"t{n}", "tags": ["api"]} for n in range(tasks)]
    await world.build(flow_document(tasks=documents, edges=[]))
    await world.start()
    await world.store.update_task_rate_limit(ANYONE, tag="api", limit=limit, period=period)
    return world


async def due(world: World, slug: str) -> float:
    """In how many seconds a task run that was held back is to ask again."""
    run = await world.task_run(slug)
    assert run["state"] == "Queued"
    seconds: float = (run["state_start_time"] - world.clock.now()).total_seconds()
    return seconds


async def test_a_rate_tells_each_when_its_turn_is(world: World) -> None:
    await paced(world, 2, 10)
    assert (await world.task_state("t0", state("Running"), 1)).status == "SUCCESS"
    world.clock.move(seconds=4)
    assert (await world.task_state("t1", state("Running"), 1)).status == "SUCCESS"
    for slug in ("t2", "t3", "t4", "t5"):
        assert (await world.task_state(slug, state("Running"), 1)).status == "QUEUED"
        world.clock.move(seconds=0.5)
    assert [await due(world, f"t{n}") for n in (2, 3, 4, 5)] == [4.0, 8.0, 14.0, 18.0]
    world.clock.move(seconds=4)
    assert (await world.task_state("t4", state("Running"), 2)).status == "QUEUED", "it is not its turn yet"
    assert await due(world, "t4") == 10
    assert (await world.task_state("t2", state("Running"), 2)).status == "SUCCESS"


async def test_who_is_far_behind_asks_again_as_often_as_its_settings_say(world: World) -> None:
    await paced(world, 1, 3600)
    await world.task_state("t0", state("Running"), 1)
    outcome = await world.task_state("t1", state("Running"), 1)
    assert outcome.message == "Queued: of 'api' 1 begin in 3600 s, and its turn is at 2021-07-01T13:00:00.000+00:00"
    assert await due(world, "t1") == 30


async def test_a_turn_is_not_kept_for_who_does_not_come(world: World) -> None:
    await paced(world, 1, 10)
    await world.task_state("t0", state("Running"), 1)
    for slug in ("t1", "t2"):
        await world.task_state(slug, state("Running"), 1)
        world.clock.move(seconds=1)
    world.clock.move(seconds=8)
    assert (await world.task_state("t2", state("Running"), 2)).status == "QUEUED"
    world.clock.move(seconds=10.5)
    assert (await world.task_state("t2", state("Running"), 3)).status == "SUCCESS"
    world.clock.move(seconds=10)
    assert (await world.task_state("t1", state("Running"), 2)).status == "SUCCESS"
    assert await world.rows("task_line") == []


async def test_who_was_late_keeps_its_place_in_the_line(world: World) -> None:
    await limited(world, db=1)
    await world.task_state("a", state("Running"), 1)
    await world.task_state("b", state("Running"), 1)
    since = [row["since"] for row in await world.rows("task_line")]
    world.clock.move(seconds=500)
    await world.task_state("b", state("Running"), 2)
    assert [row["since"] for row in await world.rows("task_line")] == since


async def test_those_who_are_next_ask_more_often(world: World) -> None:
    await paced(world, 100, 1, tasks=4)
    await world.store.update_task_tag_limit(ANYONE, tag="api", limit=1)
    await world.task_state("t0", state("Running"), 1)
    for slug, seconds in (("t1", 1), ("t2", 1), ("t3", 30)):
        await world.task_state(slug, state("Running"), 1)
        assert await due(world, slug) == seconds
    world.clock.move(seconds=32)
    for slug, seconds in (("t1", 4), ("t2", 4), ("t3", 30)):
        await world.task_state(slug, state("Running"), 2)
        assert await due(world, slug) == seconds


async def test_who_waits_for_one_limit_keeps_no_place_under_another(world: World) -> None:
    await limited(world, db=1, web=0)
    assert (await world.task_state("b", state("Running"), 1)).status == "QUEUED"
    assert (await world.task_state("a", state("Running"), 1)).status == "SUCCESS", "b does not wait for db"
    await world.task_state("b", state("Running"), 2)
    await world.store.update_task_tag_limit(ANYONE, tag="web", limit=1)
    await world.task_state("a", state("Failed"), 2)
    await world.task_state("a", state("Retrying", start_time=None), 3)
    world.clock.move(seconds=1)
    assert (await world.task_state("a", state("Running"), 4)).status == "QUEUED", "now it does, and is first"
    assert (await world.task_state("b", state("Running"), 3)).status == "SUCCESS"


async def test_a_rate_and_places_hold_together(world: World) -> None:
    await paced(world, 1, 10, tasks=3)
    await world.store.update_task_tag_limit(ANYONE, tag="api", limit=1)
    await world.task_state("t0", state("Running"), 1)
    world.clock.move(seconds=11)
    outcome = await world.task_state("t1", state("Running"), 1)
    assert outcome.message == "Queued by task run concurrency limit(s)"
    await world.task_state("t0", state("Success"), 2)
    assert (await world.task_state("t1", state("Running"), 2)).status == "SUCCESS"
    assert await holders(world) == {"t1"}
    assert len((await world.rows("task_rate_limit"))[0]["begun"]) == 1, "what does not count any more is not kept"


async def test_a_rate_is_one_for_all_who_share_the_database(world: World, database_url: str) -> None:
    await paced(world, 5, 3600)
    rows = await world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["t0"], map_indices=range(24)
    )
    ids = [row["id"] for row in rows]
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", ASKS, database_url, *ids[n::2], stdout=pipe)
        for n in range(2)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0, 0]
    counts = [int(output) for output, _ in outputs]
    assert sum(counts) == 5
    assert len((await world.rows("task_rate_limit"))[0]["begun"]) == 5


ASKS = """
import asyncio, sys
from flowloop.backends.store import Caller, StateUpdate, Store

async def main(url, *ids):
    document = b'{"type": "Running", "message": "go"}'
    begun = 0
    async with Store(url) as store:
        for run_id in ids:
            for version in (1, 2):
                update = StateUpdate(run_id, document, version)
                [answer] = await store.set_task_run_states(Caller(client_id="c"), [update])
                if answer.status == "SUCCESS":
                    begun += 1
                    break
    print(begun)

asyncio.run(main(*sys.argv[1:]))
"""
