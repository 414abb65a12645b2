"""What is asked of many rows at once, beside a count by hand."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import update

from flowloop.backends.store import ANYONE, Caller, StateUpdate
from flowloop.backends.store.schema import metadata

from ..store.world import START, state
from .served import OPEN, Served, World, serve_store

SUMMARY = """query ($r: UUID!) { run_summary(flow_run_id: $r) {
  version state tasks { task_id states start_time end_time again } durations { task_id up_to count } } }"""


@pytest.fixture
async def mapped(world: World) -> World:
    """A running flow run, one task of which has 30 children in all kinds of states, a second apart."""
    await world.start()
    children = await world.store.get_or_create_task_runs(
        ANYONE, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(30)
    )

    async def record(kind: str, numbers: range) -> None:
        world.clock.move(seconds=1)
        updates = [StateUpdate(children[number]["id"], state(kind)) for number in numbers]
        assert {outcome.status for outcome in await world.store.set_task_run_states(ANYONE, updates)} == {"SUCCESS"}

    await record("Running", range(25))
    await record("Success", range(12))
    await record("Failed", range(12, 20))
    await record("Retrying", range(15, 20))
    await record("Running", range(15, 17))
    return world


async def test_a_summary_counts_what_the_rows_say(served: Served, mapped: World) -> None:
    found = (await served.data(SUMMARY, {"r": mapped.run_id}))["run_summary"]
    rows = await mapped.rows("task_run")
    assert {task["task_id"]: task["states"] for task in found["tasks"]} == {
        task_id: dict(Counter(row["state"] for row in rows if row["task_id"] == task_id))
        for task_id in mapped.tasks.values()
    }
    (task,) = [task for task in found["tasks"] if task["task_id"] == mapped.tasks["a"]]
    attempts = Counter(row["task_run_id"] for row in await mapped.rows("task_run_state") if row["state"] == "Running")
    assert task["again"] == sum(count > 1 for count in attempts.values()) == 2
    assert datetime.datetime.fromisoformat(task["start_time"]) == START + datetime.timedelta(seconds=1)
    assert datetime.datetime.fromisoformat(task["end_time"]) == START + datetime.timedelta(seconds=3)
    assert (found["state"], found["version"]) == ("Running", 2)
    assert found["durations"] == [
        {"task_id": mapped.tasks["a"], "up_to": 1.0, "count": 12},
        {"task_id": mapped.tasks["a"], "up_to": 2.0, "count": 8},
    ]


async def test_a_timeline_says_when_how_many_began_and_ended(served: Served, mapped: World) -> None:
    query = """query ($r: UUID!, $from: DateTime, $to: DateTime) {
      run_timeline(flow_run_id: $r, bins: 10, from: $from, to: $to) {
        from to bins tasks { task_id started stopped ended } } }"""
    whole = (await served.data(query, {"r": mapped.run_id}))["run_timeline"]
    (task,) = whole["tasks"]
    assert (whole["from"], whole["to"]) == ("2021-07-01T12:00:00.000000+00:00", "2021-07-01T12:00:05.000000+00:00")
    # two of those that failed began again: they did not run in between
    assert _sums(task["started"]) == {2: 25, 9: 2}
    assert _sums(task["stopped"]) == {4: 12, 6: 8}
    assert sorted(task["ended"]) == [[4, "Success", 12], [6, "Failed", 3]]
    window = {"from": (START + datetime.timedelta(seconds=2)).isoformat(), "to": whole["to"]}
    (task,) = (await served.data(query, {"r": mapped.run_id, **window}))["run_timeline"]["tasks"]
    assert _sums(task["started"]) == {-1: 25, 9: 2}
    assert sum(count for at, _, count in task["ended"] if at >= 0) == 15
    error = await served.error(query.replace("bins: 10", "bins: 0"), {"r": mapped.run_id})
    assert error["message"] == "a timeline has from 1 to 1000 bins, not 0"


def _sums(pairs: list[list[int]]) -> dict[int, int]:
    found: Counter[int] = Counter()
    for place, count in pairs:
        found[place] += count
    return dict(found)


async def test_what_a_restart_or_a_pause_parts_is_not_told_as_one_attempt(served: Served, world: World) -> None:
    await world.start()
    kinds = {
        "a": ("Running", "Failed", "Pending"),  # restarted, and waits
        "b": ("Paused", "Resume", "Running", "Success"),  # its states are many, its attempt is one
    }
    for number in range(4):
        for name, of in kinds.items():
            world.clock.move(seconds=1)
            if number < len(of):
                update = StateUpdate(world.task_runs[name], state(of[number]))
                (outcome,) = await world.store.set_task_run_states(ANYONE, [update])
                assert outcome.status == "SUCCESS"
    summary = (await served.data(SUMMARY, {"r": world.run_id}))["run_summary"]["tasks"]
    assert {task["again"] for task in summary} == {0}
    query = "query ($r: UUID!) { run_timeline(flow_run_id: $r, bins: 12) { tasks { task_id started stopped } } }"
    found = {task["task_id"]: task for task in (await served.data(query, {"r": world.run_id}))["run_timeline"]["tasks"]}
    for name in kinds:
        task = found[world.tasks[name]]
        assert (sum(_sums(task["started"]).values()), sum(_sums(task["stopped"]).values())) == (1, 1), name


async def test_flow_runs_are_counted_by_the_hour(served: Served, world: World) -> None:
    for hours in (1, 0, 24):
        world.clock.move(hours=hours)
        await world.new_run()
    await world.start()
    query = """query ($from: DateTime!, $to: DateTime, $every: String, $where: flow_run_bool_exp) {
      flow_run_counts(from: $from, to: $to, every: $every, where: $where) { key at count } }"""
    span = {"from": START.isoformat(), "to": (START + datetime.timedelta(days=2)).isoformat()}
    hours = (await served.data(query, span))["flow_run_counts"]
    assert [(row["key"], row["at"][:16], row["count"]) for row in hours] == [
        ("Scheduled", "2021-07-01T12:00", 1),
        ("Scheduled", "2021-07-01T13:00", 2),
        ("Running", "2021-07-02T13:00", 1),
    ]
    days = await served.data(query, span | {"every": "day", "where": {"state": {"_eq": "Scheduled"}}})
    assert [(row["at"][:10], row["count"]) for row in days["flow_run_counts"]] == [("2021-07-01", 3)]
    error = await served.error(query, span | {"from": "2021-01-01T00:00:00Z"})
    assert error["message"].startswith("runs are counted over 31 days at most")


async def test_task_runs_are_read_by_pages_the_longest_first(served: Served, world: World) -> None:
    await world.start()
    rows = await world.store.get_or_create_task_runs(
        ANYONE, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(12)
    )

    async def move(task_run_id: str, kind: str) -> None:
        await world.store.set_task_run_states(ANYONE, [StateUpdate(task_run_id, state(kind))])

    took: dict[str, float] = {}
    for number, row in enumerate(rows):
        await move(row["id"], "Running")
        world.clock.move(seconds=number * 5 % 4 + 0.25)
        if number < 10:
            took[row["id"]] = number * 5 % 4 + 0.25
            await move(row["id"], "Success" if number % 2 else "Failed")
    query = """query ($r: UUID!, $w: task_run_bool_exp, $a: UUID) {
        longest_task_runs(flow_run_id: $r, where: $w, after: $a, limit: 3) { task_run_id seconds } }"""

    async def read(where: Any) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        while page := (await served.data(query, {"r": world.run_id, "w": where, "a": found[-1][0] if found else None}))[
            "longest_task_runs"
        ]:
            found += [(row["task_run_id"], round(row["seconds"], 6)) for row in page]
        return found

    longest = sorted(took.items(), key=lambda item: (-item[1], item[0]))
    assert await read(None) == longest
    good = {row["id"] for row in rows[1::2]}
    assert await read({"state": {"_eq": "Success"}}) == [item for item in longest if item[0] in good]
    error = await served.error(
        "query ($r: UUID!) { longest_task_runs(flow_run_id: $r, limit: 0) { seconds } }", {"r": world.run_id}
    )
    assert error["message"] == "longest_task_runs tells of 1 to 1000 task runs, not of 0"


async def test_a_run_of_others_has_no_summary(served: Served, world: World) -> None:
    other = (await served.store.create_tenant(ANYONE, name="o", slug="o"))["id"]
    key = await served.store.create_api_key(Caller(tenant_id=other), name="k")
    async with serve_store(served.store, OPEN.__class__(require_api_key=True)) as locked:
        for query in (
            SUMMARY,
            "query ($r: UUID!) { run_timeline(flow_run_id: $r) { bins } }",
            "query ($r: UUID!) { longest_task_runs(flow_run_id: $r) { seconds } }",
        ):
            error = await locked.error(query, {"r": world.run_id}, authorization=f"Bearer {key['key']}")
            assert error["message"] == f"Flow run {world.run_id} not found"


async def test_something_is_found_by_a_piece_of_its_id_or_name(served: Served, world: World) -> None:
    run = await world.new_run(flow_run_name="hasty-gannet 100%")

    async def search(text: str) -> list[tuple[str, str]]:
        data = await served.data("query ($t: String!) { search(text: $t) { kind id name } }", {"t": text})
        return [(hit["kind"], hit["id"]) for hit in data["search"]]

    assert ("flow_run", run) in await search(run[:30])
    assert await search(run.upper()) == [("flow_run", run)]
    assert await search("TY-GAN") == [("flow_run", run)]
    assert await search("100%") == [("flow_run", run)]
    assert await search("1_0") == []
    assert await search("flow") == [("flow", world.flow_id)]
    assert await search(world.task_runs["a"]) == [("task_run", world.task_runs["a"])]
    for nothing in ("", "  ", "\x00", "ffffffff", "__proto__"):
        assert await search(nothing) == []


async def test_a_schedule_shows_its_next_dates(served: Served) -> None:
    schedule: Any = {
        "type": "Schedule",
        "clocks": [{"type": "CronClock", "cron": "0 6 * * *", "start_date": None, "parameter_defaults": {}}],
    }
    query = "query ($s: JSON!) { preview_schedule(schedule: $s, count: 2) }"
    data = await served.data(query, {"s": schedule})
    assert data["preview_schedule"] == ["2021-07-02T06:00:00+00:00", "2021-07-03T06:00:00+00:00"]
    error = await served.error(query, {"s": {"clocks": [{"type": "CronClock", "cron": "nonsense"}]}})
    assert error["message"].startswith("the schedule cannot be read")


async def test_the_queue_says_why_a_run_has_not_begun(served: Served, world: World) -> None:
    async def why() -> str:
        data = await served.data("{ queue { ready later flow_runs { flow_run_id because } } }")
        assert data["queue"]["ready"] == 1
        return data["queue"]["flow_runs"][0]["because"]

    assert await why() == "there is no live worker"
    await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=5, labels=["gpu"])
    assert await why() == "all live workers have labels"
    await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=5, flow_names=["other"])
    assert await why() == "no live worker has the flow 'flow'"
    await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=5, not_flow_ids=[world.flow_id])
    assert await why() == "no live worker has this version of the flow 'flow'"
    await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=0)
    assert await why() == "every worker that could take it is full"
    assert len(await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=5)) == 1
    assert await why() == "w has taken it"
    (worker,) = (await served.data("{ workers { name running concurrency alive flow_runs { id } } }"))["workers"]
    assert worker == {
        "name": "w",
        "running": 1,
        "concurrency": 6,
        "alive": True,
        "flow_runs": [{"id": world.run_id}],
    }
    world.clock.move(minutes=5)
    assert await why() == "there is no live worker"


async def test_who_would_go_on_with_a_run_is_told_before_it_is_answered(served: Served, world: World) -> None:
    async def told() -> tuple[str, str | None]:
        query = "query ($r: [UUID!]!) { going_on(flow_run_ids: $r) { flow_run_id picked_up_by because } }"
        (found,) = (await served.data(query, {"r": [world.run_id]}))["going_on"]
        assert found["flow_run_id"] == world.run_id
        return found["picked_up_by"], found["because"]

    assert await told() == ("nobody", "there is no live worker")
    await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=0, labels=["gpu"])
    assert await told() == ("nobody", "all live workers have labels")
    await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=0)
    assert await told() == ("workers", None)
    world.clock.move(minutes=3)  # one that has nothing to do looks rarely
    assert await told() == ("workers", None)
    world.clock.move(minutes=3)
    assert await told() == ("nobody", "there is no live worker")
    await world.store.reserve_flow_runs(ANYONE, worker_id="w", limit=1)
    assert await told() == ("runner", None)
    many = {"r": [world.run_id] * 201}
    error = await served.error("query ($r: [UUID!]!) { going_on(flow_run_ids: $r) { because } }", many)
    assert error["message"] == "going_on tells of 200 flow runs at once, not of 201"


async def test_a_limit_says_how_full_it_is(served: Served, world: World) -> None:
    await world.store.update_task_tag_limit(ANYONE, tag="db", limit=5)
    await world.store.update_flow_concurrency_limit(ANYONE, name="big", limit=1)
    await world.new_run(labels=["big"])
    await world.start()
    limits = (await served.data("{ limits { kind name limit used } }"))["limits"]
    assert limits == [
        {"kind": "task", "name": "db", "limit": 5, "used": 0},
        {"kind": "flow", "name": "big", "limit": 1, "used": 1},
    ]


async def test_a_rate_says_how_many_have_begun_in_its_period(served: Served, world: World) -> None:
    (task_run,) = await world.store.get_or_create_task_runs(
        ANYONE, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=[0]
    )
    await served.data(
        "mutation ($input: update_task_rate_limit_input!) { update_task_rate_limit(input: $input) { id } }",
        {"input": {"tag": "api", "limit": 2, "period": 30}},
    )
    tagged = update(metadata.tables["task"]).values(tags=["api"])
    await world.store.write(ANYONE, lambda tx: tx.run(tagged))
    await world.start()
    assert (await world.task_state(task_run["id"], state("Running"), 1)).status == "SUCCESS"
    shown = "{ limits { kind name limit used period } }"
    rate = {"kind": "rate", "name": "api", "limit": 2, "period": 30.0}
    assert (await served.data(shown))["limits"] == [{**rate, "used": 1}]
    world.clock.move(seconds=30)
    assert (await served.data(shown))["limits"] == [{**rate, "used": 0}]
