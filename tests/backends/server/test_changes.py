"""The feeds: what they say in the end is what the tables say, however often they were asked and left."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import aclosing
from typing import Any

import anyio
import msgspec
import pytest

from flowloop.backends.server import ServerSettings, changes
from flowloop.backends.server.auth import Identity
from flowloop.backends.server.errors import ShuttingDown
from flowloop.backends.server.execution import Execution, GraphQLRequest
from flowloop.backends.server.live import Live
from flowloop.backends.server.metrics import Metrics
from flowloop.backends.server.operation_cache import Documents
from flowloop.backends.server.request import Budget, Call
from flowloop.backends.server.schema import build
from flowloop.backends.store import ANYONE, Caller, StateUpdate, Store

from ..store.world import World, state

RUN = """subscription ($r: UUID!, $after: String, $tasks: [UUID!]) {
  run_changes(flow_run_id: $r, after: $after, tasks: $tasks, every: 0.05) {
    cursor reset run tasks { task_id states again } rows { id task_id map_index version state message } } }"""
RUNS = """subscription ($after: String) {
  runs_changes(after: $after, every: 0.05) { cursor reset paused flow_runs { id state version } } }"""
STATES = """subscription ($r: UUID!) { flow_run_states(flow_run_id: $r) { state } }"""
LOGS = """subscription ($r: UUID!, $after: String) {
  run_logs(flow_run_id: $r, after: $after, every: 0.05) { cursor lines { message level } } }"""


class Feeds:
    """The subscriptions of a store, without a server around."""

    def __init__(self, store: Store, poll_seconds: float = 0.05) -> None:
        self.settings = ServerSettings(poll_seconds=poll_seconds)
        types = build()
        assert types.subscription_type is not None
        self.execution = Execution(types, Documents(types, self.settings), {})
        self.live = Live(store, types.subscription_type.fields, self.settings, Metrics())
        self.store = store

    def subscribe(self, query: str, caller: Caller = ANYONE, **variables: Any) -> Any:
        request = GraphQLRequest(query, msgspec.Raw(msgspec.json.encode(variables)))
        call = Call(store=self.store, identity=Identity(caller), budget=Budget(self.settings))
        return self.live.subscribe(*self.execution.prepare(request), call)


@pytest.fixture
def feeds(store: Store) -> Feeds:
    return Feeds(store)


async def answer(stream: Any, field: str) -> dict[str, Any]:
    while (found := await anext(stream)) is None:
        pass
    return found["data"][field] or pytest.fail(str(found))


async def test_counts_and_rows_end_as_the_tables_say(feeds: Feeds, world: World) -> None:
    rng = random.Random(11)
    await world.start()
    children = await world.store.get_or_create_task_runs(
        ANYONE, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(40)
    )
    counts: dict[str, Any] = {}
    rows: dict[str, dict[str, Any]] = {}
    cursor = None
    for _ in range(6):  # it leaves, misses something, and comes back with its cursor
        async with aclosing(feeds.subscribe(RUN, r=world.run_id, after=cursor, tasks=[world.tasks["a"]])) as stream:
            for _ in range(3):
                updates = [
                    StateUpdate(child["id"], state(rng.choice(["Running", "Success", "Failed", "Retrying"])))
                    for child in rng.sample(children, 9)
                ]
                await world.store.set_task_run_states(ANYONE, updates)
                found = await answer(stream, "run_changes")
                assert not found["reset"]
                cursor = found["cursor"]
                counts |= {task["task_id"]: task["states"] for task in found["tasks"]}
                for row in found["rows"]:
                    assert row["version"] > rows.get(row["id"], {"version": 0})["version"] or row == rows[row["id"]]
                    rows[row["id"]] = row
        await world.store.set_task_run_states(ANYONE, [StateUpdate(children[0]["id"], state("Running"))])
    async with aclosing(feeds.subscribe(RUN, r=world.run_id, after=cursor, tasks=[world.tasks["a"]])) as stream:
        found = await answer(stream, "run_changes")
        counts |= {task["task_id"]: task["states"] for task in found["tasks"]}
        rows |= {row["id"]: row for row in found["rows"]}
        assert found["run"]["state"] == "Running"
    recorded = [row for row in await world.rows("task_run") if row["task_id"] == world.tasks["a"]]
    assert counts[world.tasks["a"]] == dict(Counter(row["state"] for row in recorded))
    changed = {row["id"]: (row["version"], row["state"]) for row in recorded if row["version"] > 1}
    assert {key: (row["version"], row["state"]) for key, row in rows.items() if row["version"] > 1} == changed


async def test_thousands_of_transitions_are_a_few_answers(feeds: Feeds, world: World) -> None:
    await world.start()
    children = await world.store.get_or_create_task_runs(
        ANYONE, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(500)
    )
    size = answers = 0
    async with aclosing(feeds.subscribe(RUN, r=world.run_id)) as stream:
        await answer(stream, "run_changes")
        for kind in ("Running", "Success"):
            await world.store.set_task_run_states(ANYONE, [StateUpdate(row["id"], state(kind)) for row in children])
        found: dict[str, Any] = {}
        while found.get("states") != {"Pending": 1, "Success": 500}:
            change = await answer(stream, "run_changes")
            size += len(msgspec.json.encode(change))
            answers += 1
            (found,) = change["tasks"]
    assert answers <= 3
    assert size < 2_000


async def test_all_flow_runs_and_how_many_wait_for_somebody(feeds: Feeds, world: World) -> None:
    async with aclosing(feeds.subscribe(RUNS)) as stream:
        first = await answer(stream, "runs_changes")
        assert (first["flow_runs"], first["paused"]) == ([], 0)
        await world.start()
        await world.task_state("a", state("Paused"), 1)
        seen: list[Any] = []
        paused = 0
        while not (seen and paused):
            change = await answer(stream, "runs_changes")
            seen, paused = seen + change["flow_runs"], change["paused"]
        assert seen == [{"id": world.run_id, "state": "Running", "version": 2}]
    async with aclosing(feeds.subscribe(RUNS, after=first["cursor"])) as stream:
        again = await answer(stream, "runs_changes")
        assert {"id": world.run_id, "state": "Running", "version": 2} in again["flow_runs"]


async def test_what_another_process_does_to_a_flow_run_is_told_as_soon_as_it_is_heard(
    database_url: str, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks by themselves: what wakes the feeds is that the other process is heard, whatever they do then."""
    monkeypatch.setattr(changes, "UNHEARD", 3_600)
    feeds = Feeds(store, poll_seconds=3_600)
    async with Store(database_url, synchronous="OFF") as other, anyio.create_task_group() as group:
        assert await group.start(feeds.live.run)
        async with aclosing(feeds.subscribe(RUNS)) as runs, aclosing(feeds.subscribe(STATES, r=world.run_id)) as states:
            await answer(runs, "runs_changes")
            await answer(states, "flow_run_states")
            await other.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Running"))])
            assert await answer(states, "flow_run_states") == {"state": "Running"}
            told = (await answer(runs, "runs_changes"))["flow_runs"]
            assert told == [{"id": world.run_id, "state": "Running", "version": 2}]
        group.cancel_scope.cancel()


async def test_lines_come_as_they_are_written(feeds: Feeds, world: World) -> None:
    async with aclosing(feeds.subscribe(LOGS, r=world.run_id)) as stream:
        assert (await answer(stream, "run_logs"))["lines"] == []
        for number in range(3):
            line = {"flow_run_id": world.run_id, "message": str(number), "level": "ERROR"}
            await world.store.write_run_logs(ANYONE, logs=[line])
            change = await answer(stream, "run_logs")
            assert change["lines"] == [{"message": str(number), "level": "ERROR"}]


async def test_more_lines_than_one_answer_holds_come_in_several(
    feeds: Feeds, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_AT_ONCE", 3)
    async with aclosing(feeds.subscribe(LOGS, r=world.run_id)) as stream:
        await answer(stream, "run_logs")
        lines = [{"flow_run_id": world.run_id, "message": str(number), "level": "INFO"} for number in range(8)]
        await world.store.write_run_logs(ANYONE, logs=lines)
        told: list[str] = []
        while len(told) < 8:
            change = await answer(stream, "run_logs")
            assert len(change["lines"]) <= 3
            told += [line["message"] for line in change["lines"]]
        assert told == [line["message"] for line in lines]


async def test_a_feed_belongs_to_who_may_see_the_run(feeds: Feeds, world: World) -> None:
    other = (await world.store.create_tenant(ANYONE, name="o", slug="o"))["id"]
    for query in (RUN, LOGS):
        async with aclosing(feeds.subscribe(query, Caller(tenant_id=other), r=world.run_id)) as stream:
            assert (await anext(stream))["errors"][0]["message"] == f"Flow run {world.run_id} not found"
    async with aclosing(feeds.subscribe(RUN, r=world.run_id, after="nonsense")) as stream:
        assert (await anext(stream))["errors"][0]["message"] == "after is the cursor of an earlier answer"


async def test_a_stopping_server_ends_its_feeds(feeds: Feeds, world: World) -> None:
    async with aclosing(feeds.subscribe(RUN, r=world.run_id)) as stream:
        await answer(stream, "run_changes")
        await feeds.live.close()
        with pytest.raises(ShuttingDown):
            await anext(stream)
    assert world.store._watchers == []


async def test_what_is_subscribed_while_a_server_stops_ends_too(feeds: Feeds, world: World) -> None:
    feeds.live.end()
    for query in (RUN, STATES, "subscription { flow_run_states { state } }"):
        async with aclosing(feeds.subscribe(query, r=world.run_id)) as stream:
            with pytest.raises(ShuttingDown):
                async for _ in stream:
                    pass
