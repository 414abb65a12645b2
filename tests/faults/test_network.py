"""A network that loses a third of what it is given: what was sent is recorded exactly, in order, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloop.backends.client.backend import GraphQLBackend
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.engine.backend import TaskRunInfoResult
from flowloop.engine.settings import Settings
from flowloop.engine.state import Failed, Retrying, Running, State, Success

from ..backends.serving import serve
from .proxy import DEEDS, proxied

CHILDREN = 80
AT_ONCE = 16
LIFE: list[type[State]] = [Running, Failed, Retrying, Running, Success]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with serve(
        create_app(f"sqlite:///{tmp_path / 'flowloop.db'}", settings=ServerSettings(require_api_key=False))
    ) as url:
        yield url


async def mapped_children(url: str) -> tuple[str, list[TaskRunInfoResult]]:
    task = {"__version__": "1.4.1", "name": "load", "slug": "load-1", "tags": []}
    flow = {"__version__": "1.4.1", "name": "etl", "type": "Flow", "tasks": [task], "edges": [], "parameters": []}
    async with GraphQLBackend(url, settings=Settings()) as backend:
        registered = await backend.register_flow(flow, project_name="demo")
        flow_run_id = await backend.create_flow_run(registered.id)
        await backend.set_flow_run_state(flow_run_id, 1, Running())
        info = await backend.get_flow_run_info(flow_run_id)
        return flow_run_id, await backend.get_task_run_infos(flow_run_id, info.task_runs[0].task_id, range(CHILDREN))


async def recorded(url: str, flow_run_id: str) -> dict[str, list[tuple[int, str, str | None]]]:
    async with GraphQLBackend(url, settings=Settings()) as backend:
        _, histories = await backend.get_flow_run_history(flow_run_id)
    return {
        history.id: [(record.version, record.state, record.message) for record in history.states]
        for history in histories
        if history.map_index >= 0
    }


@pytest.mark.parametrize("versioned", [True, False], ids=["with versions", "without"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_transition_is_recorded_once_and_in_order(server: str, seed: int, versioned: bool) -> None:
    flow_run_id, children = await mapped_children(server)
    room = asyncio.Semaphore(AT_ONCE)

    async def live(backend: GraphQLBackend, child: TaskRunInfoResult) -> None:
        async with room:
            for version, state in enumerate(LIFE, start=1):
                sent = state(f"{child.map_index} {version}")
                assert await backend.set_task_run_state(child.id, version if versioned else None, sent) is sent

    async with proxied(server, share=1 / 3, rng=random.Random(seed)) as (url, proxy):
        backend = GraphQLBackend(url, settings=Settings(), timeout=0.25, rng=random.Random(seed))
        async with backend:
            await asyncio.gather(*(live(backend, child) for child in children))
    assert all(proxy.done[deed] for deed in DEEDS), f"not every fault was tried: {proxy.done}"

    histories = await recorded(server, flow_run_id)
    for child in children:
        sent = [
            (number, state.__name__, f"{child.map_index} {number - 1}") for number, state in enumerate(LIFE, start=2)
        ]
        assert histories[child.id] == [(1, "Pending", "Task run created"), *sent]


async def test_a_server_that_is_away_for_a_while_is_waited_for(server: str) -> None:
    flow_run_id, children = await mapped_children(server)
    async with (
        proxied(server, share=0, rng=random.Random(1)) as (url, proxy),
        GraphQLBackend(url, settings=Settings(), rng=random.Random(1)) as backend,
    ):
        await asyncio.gather(*(backend.set_task_run_state(child.id, 1, Running()) for child in children))
        proxy.away = 6
        await asyncio.gather(*(backend.set_task_run_state(child.id, 2, Success()) for child in children))
    assert proxy.done["away"] == 6
    histories = await recorded(server, flow_run_id)
    assert {tuple(state for _, state, _ in history) for history in histories.values()} == {
        ("Pending", "Running", "Success")
    }
