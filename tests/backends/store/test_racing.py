"""Transactions that meet: two stores on one database, asked at the same time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowloop.backends.store import ANYONE, Caller, StateUpdate, Store

from .world import FENCED, PREFECT, RIVAL, ManualClock, World, flow_document, state


@pytest.fixture
async def other(store: Store, database_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """A second store on the same database."""
    async with Store(database_url, clock=clock, lease_clock=clock, synchronous="OFF") as opened:
        yield opened


async def test_shuffled_batches_over_the_same_runs(world: World, other: Store) -> None:
    await world.build()
    await world.start()
    rows = await world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(60)
    )
    ids = [row["id"] for row in rows]

    async def claim(store: Store, client: str) -> list[str]:
        mine: list[str] = []
        for _ in range(3):
            order = random.sample(ids, len(ids))
            outcomes = await store.set_task_run_states(
                Caller(client_id=client), [StateUpdate(row, state("Running"), 1) for row in order]
            )
            mine += [outcome.id for outcome in outcomes if outcome.status == "SUCCESS" and outcome.id not in mine]
        return mine

    claims = await asyncio.gather(*(claim(store, f"c{n}") for n, store in enumerate([world.store, other] * 4)))
    assert sorted(row for mine in claims for row in mine) == sorted(ids)
    assert {row["version"] for row in await world.rows("task_run") if row["id"] in ids} == {2}


async def test_the_same_task_runs_created_twice(world: World, other: Store) -> None:
    await world.build()

    async def create(store: Store, *indices: int) -> dict[int, str]:
        rows = await store.get_or_create_task_runs(
            FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=indices
        )
        return {row["map_index"]: row["id"] for row in rows}

    stores = [world.store, other] * 3
    answers = await asyncio.gather(*(create(store, *range(n, 50 + n)) for n, store in enumerate(stores)))
    merged: dict[int, str] = {}
    for answer in answers:
        assert {**answer, **merged} == {**merged, **answer}, "everybody is told the same ids"
        merged |= answer
    found = [row for row in await world.rows("task_run_state") if row["task_run_id"] in merged.values()]
    assert len(found) == len(merged) == 55


async def test_one_key_one_flow_run(world: World, other: Store) -> None:
    await world.build()
    runs = await asyncio.gather(
        *(
            store.create_flow_run(ANYONE, flow_id=world.flow_id, idempotency_key="k")
            for store in [world.store, other] * 4
        )
    )
    assert len({run["id"] for run in runs}) == 1


async def test_registrations_of_one_flow_take_one_version_each(world: World, other: Store) -> None:
    async def register(store: Store, key: str | None) -> int:
        project = await store.get_or_create_project(ANYONE, name="demo")
        flow = await store.create_flow(
            PREFECT, project_id=project["id"], serialized_flow=flow_document(), idempotency_key=key
        )
        return int(flow["version"])

    versions = await asyncio.gather(*(register(store, None) for store in [world.store, other] * 3))
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]
    versions = await asyncio.gather(*(register(store, "k") for store in [world.store, other] * 3))
    assert set(versions) == {7}
    assert len(await world.rows("flow_group")) == 1


async def test_tasks_registered_twice_at_once(world: World, other: Store) -> None:
    project = (await world.store.get_or_create_project(ANYONE, name="demo"))["id"]
    bare = flow_document(tasks=[], edges=[])
    flow_id = (await world.store.create_flow(PREFECT, project_id=project, serialized_flow=bare))["id"]
    tasks = flow_document("a", "b", "c")["tasks"]
    await asyncio.gather(
        *(store.register_tasks(PREFECT, flow_id=flow_id, serialized_tasks=tasks) for store in [world.store, other] * 3)
    )
    assert [row["slug"] for row in await world.rows("task")] == ["a", "b", "c"]
    assert len((await world.row("flow", flow_id))["serialized_flow"]["tasks"]) == 3


async def test_no_run_is_reserved_twice(world: World, other: Store) -> None:
    await world.build()
    for _ in range(11):
        await world.new_run()
    taken = await asyncio.gather(
        *(
            store.reserve_flow_runs(ANYONE, worker_id=f"w{n}", limit=4)
            for n, store in enumerate([world.store, other] * 3)
        )
    )
    ids = [row["flow_run_id"] for rows in taken for row in rows]
    assert len(ids) == len(set(ids))
    rest = await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=20)
    assert len(ids) + len(rest) == 12


async def test_a_limit_holds_between_processes(world: World, other: Store) -> None:
    await world.build(flow_document(tasks=[{"slug": "a", "tags": ["db"]}], edges=[]))
    await world.start()
    await world.store.update_task_tag_limit(ANYONE, tag="db", limit=3)
    rows = await world.store.get_or_create_task_runs(
        FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(12)
    )

    async def run(store: Store, run_id: str) -> str:
        return (await store.set_task_run_states(FENCED, [StateUpdate(run_id, state("Running"), 1)]))[0].status

    stores = [world.store, other] * 6
    statuses = await asyncio.gather(*(run(store, row["id"]) for store, row in zip(stores, rows, strict=True)))
    assert sorted(statuses) == ["QUEUED"] * 9 + ["SUCCESS"] * 3
    assert len(await world.rows("task_slot")) == 3


async def test_a_batch_sent_twice_at_once_is_applied_once(world: World, other: Store) -> None:
    await world.build(caller=PREFECT)
    await world.start(PREFECT)
    batch = [StateUpdate(world.task_runs["a"], state("Success"))]
    answers = await asyncio.gather(
        *(store.set_task_run_states(PREFECT, batch, idempotency_key="k") for store in [world.store, other] * 3)
    )
    assert [answer[0].version for answer in answers] == [2] * 6
    assert await world.history("a") == ["Pending", "Success"]


async def test_cancelling_races_with_tasks_that_start(world: World, other: Store) -> None:
    slugs = [f"t{n}" for n in range(20)]
    await world.build(flow_document(*slugs, edges=[]))
    await world.start()

    async def start(store: Store, slug: str, caller: Caller) -> None:
        await store.set_task_run_states(caller, [StateUpdate(world.task_runs[slug], state("Running"), 1)])

    callers = [FENCED, RIVAL]
    starts = [start([world.store, other][n % 2], slug, callers[n % 2]) for n, slug in enumerate(slugs)]
    cancel = other.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Cancelled"))])
    work: list[Any] = [*starts[:10], cancel, *starts[10:]]
    await asyncio.gather(*work)
    assert {(await world.task_run(slug))["state"] for slug in slugs} == {"Cancelled"}


async def test_a_fresh_pair_of_tenant_and_project(world: World, other: Store) -> None:
    tenant = (await world.store.default_tenant(ANYONE))["id"]
    await world.store.delete_tenant(ANYONE, tenant_id=tenant, confirm=True)
    projects = await asyncio.gather(
        *(store.get_or_create_project(ANYONE, name="demo") for store in [world.store, other] * 4)
    )
    assert len({project["id"] for project in projects}) == 1
    values = await asyncio.gather(
        *(store.set_key_value(ANYONE, key="k", value=n) for n, store in enumerate([world.store, other] * 4))
    )
    assert len({value["id"] for value in values}) == 1
