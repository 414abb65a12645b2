"""Answering what waits for a person: once, by whoever was first, and with an answer to who goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flowloop.backends.store import ANYONE, Caller
from flowloop.engine.errors import BackendRejected, VersionLockMismatch

from .world import World, state

ADA = Caller(key_name="ada")


@pytest.fixture
async def paused(world: World) -> World:
    """A flow run that waits for its task a to be answered."""
    await world.build()
    await world.start()
    await world.task_state("a", state("Paused", "is this right?"), 1)
    await world.flow_state(state("Paused", "waits"), 2)
    return world


async def answer(world: World, caller: Caller = ADA, **fields: Any) -> dict[str, Any]:
    given = {"task_run_id": world.task_runs["a"], "version": 2, "approve": True} | fields
    return await world.store.answer_task_run(caller, **given)


async def recorded(world: World) -> dict[str, Any]:
    row = await world.task_run("a")
    return {**row, "document": msgspec.json.decode(row["serialized_state"])}


async def test_what_is_approved_goes_on_with_the_answer(paused: World) -> None:
    answered = await answer(paused, note="fine", value={"limit": 0.95})
    assert answered == {"state": "Resume", "version": 3, "picked_up_by": "nobody"}
    row = await recorded(paused)
    assert (row["state"], row["state_message"]) == ("Resume", "Resumed by ada: fine")
    said = row["document"]["context"]["answer"]
    assert (said["value"], said["note"], said["by"]) == ({"limit": 0.95}, "fine", "ada")
    # The flow run is offered again, and to a worker if there is one.
    assert (await paused.flow_run())["state"] == "Scheduled"
    taken = await paused.store.reserve_flow_runs(ANYONE, worker_id="w", limit=1)
    assert [run["flow_run_id"] for run in taken] == [paused.run_id]


async def test_what_is_declined_fails_and_says_by_whom(paused: World) -> None:
    assert (await answer(paused, approve=False, note="too high"))["state"] == "Failed"
    row = await recorded(paused)
    assert row["state_message"] == "Rejected by ada: too high"
    assert row["document"]["context"]["answer"]["note"] == "too high"


async def test_the_second_of_two_people_is_told_of_the_first(paused: World) -> None:
    await answer(paused, note="fine")
    with pytest.raises(VersionLockMismatch, match=r"is Resume \(version 3\): 'Resumed by ada: fine'"):
        await answer(paused, Caller(key_name="bob"), approve=False)
    for version in (1, 3):
        with pytest.raises(VersionLockMismatch):
            await answer(paused, version=version)


async def test_an_answer_that_is_sent_twice_counts_once(paused: World) -> None:
    first = await answer(paused, idempotency_key="k")
    assert await answer(paused, idempotency_key="k") == first
    assert await paused.history("a") == ["Pending", "Paused", "Resume"]


async def test_who_goes_on_is_said(paused: World) -> None:
    await paused.store.reserve_flow_runs(ANYONE, worker_id="w", limit=0, labels=["gpu"])
    assert (await answer(paused))["picked_up_by"] == "nobody"  # the run has no label, and the worker has
    await paused.task_state("a", state("Paused", "again?"))
    await paused.store.reserve_flow_runs(ANYONE, worker_id="v", limit=0)
    assert (await answer(paused, version=4))["picked_up_by"] == "workers"


async def test_nobody_answers_what_is_over_or_is_not_theirs(paused: World) -> None:
    with pytest.raises(BackendRejected, match="not found"):
        await answer(paused, task_run_id="00000000-0000-4000-8000-000000000000")
    other = (await paused.store.create_tenant(ANYONE, name="o", slug="o"))["id"]
    with pytest.raises(BackendRejected, match="not found"):
        await answer(paused, Caller(tenant_id=other))
