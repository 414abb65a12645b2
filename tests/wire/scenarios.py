"""What the server has to have, and what has to happen around it, for each recording to be replayed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from sqlalchemy import select, update

from flowloop.backends.server import Identity, ServerSettings, create_app
from flowloop.backends.store import ANYONE, Caller, StateUpdate, Store
from flowloop.backends.store.schema import metadata

from .replay import Clock, Replay, exchanges, index

__all__ = ["INDEX", "check"]

INDEX = index()
TENANT, SECOND_TENANT = (f"00000001-0000-4000-8000-00000000000{n}" for n in (1, 2))
PROJECT = "00000002-0000-4000-8000-000000000001"
FLOW = "00000004-0000-4000-8000-000000000001"
FLOW_RUN = "00000007-0000-4000-8000-000000000001"
TASK_RUN = "00000008-0000-4000-8000-000000000003"
AGENT_CONFIG = "00000013-0000-4000-8000-000000000001"
USER = "00000099-0000-4000-8000-000000000001"

RUNNING_ELSEWHERE = {
    "type": "Running",
    "message": "running elsewhere",
    "__version__": "1.4.1",
    "context": {"tags": []},
    "cached_inputs": {},
    "_result": {"type": "NoResultType", "__version__": "1.4.1"},
}

TABLES = {3: "flow_group", 5: "task", 8: "task_run"}

Stage = Callable[[Store, Replay], Awaitable[object]]


async def agent_config_exists(store: Store, replay: Replay) -> None:
    made = await store.create_agent_config(ANYONE, settings={"health_check": True})
    replay.learn(AGENT_CONFIG, made["id"])


async def flow_run_is(store: Store, replay: Replay, state: Any) -> None:
    update = StateUpdate(replay.ids[FLOW_RUN], msgspec.json.encode(state))
    assert (await store.set_flow_run_states(ANYONE, [update]))[0].status == "SUCCESS"


async def flow_run_is_submitted(store: Store, replay: Replay) -> None:
    await flow_run_is(store, replay, {"type": "Submitted"})


async def flow_run_runs_elsewhere(store: Store, replay: Replay) -> None:
    await flow_run_is(store, replay, RUNNING_ELSEWHERE)


async def task_run_runs_elsewhere(store: Store, replay: Replay) -> None:
    update = StateUpdate(replay.ids[TASK_RUN], msgspec.json.encode(RUNNING_ELSEWHERE))
    assert (await store.set_task_run_states(ANYONE, [update]))[0].status == "SUCCESS"


async def versions_are_locked(store: Store, replay: Replay) -> None:
    await store.enable_flow_version_lock(ANYONE, flow_id=replay.ids[FLOW])


async def heartbeat_is_disabled(store: Store, replay: Replay) -> None:
    off = update(metadata.tables["flow"]).values(settings={"heartbeat_enabled": False})
    await store.write(ANYONE, lambda tx: tx.run(off))


def flow_run_is_queued(scenario: str, seq: int) -> Stage:
    async def stage(store: Store, replay: Replay) -> None:
        """Store what the recording shows afterwards."""
        shown = exchanges(scenario)[seq]["response"]["body"]["data"]["flow_run_by_pk"]["serialized_state"]
        await flow_run_is(store, replay, shown)

    return stage


# What has to happen on the server's side just before a request is sent.
STAGES: dict[str, dict[int, Stage]] = {
    "agent_config": {5: agent_config_exists},
    "agent_submit_race": {15: flow_run_is_submitted},
    "flow_run_queued": {n: flow_run_is_queued("flow_run_queued", n) for n in (12, 16)},
    "heartbeat_disabled": {14: heartbeat_is_disabled},
    "version_lock_flow": {9: versions_are_locked, 12: flow_run_runs_elsewhere},
    "version_lock_task_running_elsewhere": {9: versions_are_locked, 16: task_run_runs_elsewhere},
    "version_locking_on": {9: versions_are_locked},
}

# Requests whose recorded answers were made up by the recorder: the server is not asked.
SCRIPTED: dict[str, set[int]] = {
    "final_info_errors": set(range(30, 60)),
    "flow_run_queued": {12, 16},
    "http_errors": {2, 3, 5, 6, 8, 9, 10, 11, 12, 13, 14},
    "task_running_in_cancelled_flow": {16, 19},
}


@asynccontextmanager
async def server(store: Store, replay_of: str, clock: Clock) -> AsyncIterator[Replay]:
    async def authenticate(key: str) -> Identity | None:
        """Know the keys of the recordings."""
        if key == "OLD_TOKEN":
            return Identity(Caller(user_id=USER), member_of=())
        own, other = replay.ids[TENANT], replay.ids[SECOND_TENANT]
        return Identity(Caller(tenant_id=own, user_id=USER), member_of=(own, other)) if key == "API_KEY" else None

    cloud = INDEX[replay_of]["backend"] == "cloud"
    settings = ServerSettings(require_api_key=cloud)
    app = create_app(store, settings=settings, authenticate=authenticate)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
    async with app.router.lifespan_context(app), client:
        replay = Replay(client, clock)
        if cloud:
            await seed(store, replay)
        yield replay


async def seed(store: Store, replay: Replay) -> None:
    tenant = await store.create_tenant(ANYONE, name="Demo tenant", slug="demo-tenant")
    second = await store.create_tenant(ANYONE, name="Second", slug="second")
    project = await store.create_project(ANYONE, name="demo", tenant_id=tenant["id"])
    replay.learn(TENANT, tenant["id"])
    replay.learn(SECOND_TENANT, second["id"])
    replay.learn(PROJECT, project["id"])


async def learn_unknown(store: Store, replay: Replay, exchange: dict[str, Any]) -> None:
    """Learn the ids that the client of a recording knew from elsewhere: they count the rows of a table."""
    for kind, number in replay.unknown(exchange):
        if kind in TABLES:
            rows = metadata.tables[TABLES[kind]].c
            nth = select(rows.id).order_by(rows.id).offset(number - 1).limit(1)
            async with store.engine.connect() as connection:
                actual = (await connection.execute(nth)).scalar()
            if actual is not None:
                replay.learn(f"{kind:08d}-0000-4000-8000-{number:012d}", actual)


async def check(scenario: str, database_url: str) -> None:
    """Replay a recording against a server of a fresh database; every answer has to be that of the recording."""
    clock = Clock()
    async with (
        Store(database_url, clock=clock, secret_key="a key", synchronous="OFF") as store,
        server(store, scenario, clock) as replay,
    ):
        for exchange in exchanges(scenario):
            seq = exchange["seq"]
            stage = STAGES.get(scenario, {}).get(seq)
            if stage is not None:
                clock.elapsed = exchange["t"]
                await stage(store, replay)
            if seq in SCRIPTED.get(scenario, ()):
                continue
            await learn_unknown(store, replay, exchange)
            status, body = await replay.send(exchange)
            expected = exchange["response"]
            assert status == expected["status"], f"{scenario} #{seq}: {body}"
            assert not replay.differences(expected["body"], body), f"{scenario} #{seq}"
