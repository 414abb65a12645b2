"""A limit on what runs at once: the backend records Queued in the place of Running, and says so."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends import connect
from flowloop.backends.memory.backend import MemoryBackend
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.backends.store import ANYONE, Store
from flowloop.engine.backend import Backend
from flowloop.engine.settings import Settings
from flowloop.engine.state import Queued, Running, Success

from .runs import flow_document, started, task_document
from .serving import serve

SetLimit = Callable[[str, int], Coroutine[Any, Any, None]]


@pytest.fixture(params=["memory", "sqlite", "client"])
async def limited(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Backend, SetLimit]]:
    """A backend, and how to limit the task runs with a tag."""
    if request.param == "memory":
        async with MemoryBackend(settings=Settings(queue_interval=300)) as memory:

            async def set_limit(tag: str, limit: int) -> None:
                memory.task_tag_limits[tag] = limit

            yield memory, set_limit
        return

    url = f"sqlite:///{tmp_path / 'flowloop.db'}"

    async def set_limit_in_store(tag: str, limit: int) -> None:
        async with Store(url) as store:
            await store.update_task_tag_limit(ANYONE, tag=tag, limit=limit)

    if request.param == "sqlite":
        async with connect(url, settings=Settings(queue_interval=300)) as backend:
            yield backend, set_limit_in_store
        return
    with serve(create_app(url, settings=ServerSettings(require_api_key=False))) as served:
        async with connect(served, settings=Settings(queue_interval=300)) as backend:
            yield backend, set_limit_in_store


async def test_a_task_run_that_finds_no_place_is_queued_and_asks_again(limited: tuple[Backend, SetLimit]) -> None:
    backend, set_limit = limited
    tasks = [task_document(f"task-{n}", tags=["db"]) for n in (1, 2, 3)]
    run = await started(backend, document={**flow_document(), "tasks": tasks})
    await set_limit("db", 1)
    first, second, third = run.tasks
    running = Running("go", context={"tags": ["db"]})
    assert await backend.set_task_run_state(first.id, 1, running) is running

    answered = datetime.datetime.now(datetime.UTC)
    answer = await backend.set_task_run_state(second.id, 1, running)
    assert isinstance(answer, Queued)
    assert answer.message
    assert answer.start_time is not None
    assert 0 < (answer.start_time - answered).total_seconds() < 60, "who is next does not let a place lie idle"
    await set_limit("db", 0)
    later = await backend.set_task_run_state(third.id, 1, running)
    assert isinstance(later, Queued)
    assert later.start_time is not None
    assert later.start_time - answered > datetime.timedelta(seconds=200), "as long as the settings of the client say"
    await set_limit("db", 1)
    recorded = await backend.get_task_run_state(second.id)
    assert isinstance(recorded, Queued)
    assert recorded.start_time == answer.start_time, "the answer is what was recorded"
    assert (await backend.get_task_run_info(run.id, second.task_id)).version == 2

    again = await backend.set_task_run_state(second.id, 1, running)
    assert isinstance(again, Queued), "the same message has the same answer"
    assert (await backend.get_task_run_info(run.id, second.task_id)).version == 2
    assert isinstance(await backend.set_task_run_state(second.id, 2, running), Queued), "there is still no place"

    await backend.set_task_run_state(first.id, 2, Success(context={"tags": ["db"]}))
    assert await backend.set_task_run_state(second.id, 3, running) is running


async def test_flow_runs_can_be_limited_in_memory() -> None:
    async with MemoryBackend(settings=Settings()) as backend:
        backend.flow_run_limit = 1
        flow = await backend.register_flow(flow_document(), project_name="demo")
        first, second = [await backend.create_flow_run(flow.id) for _ in range(2)]
        assert isinstance(await backend.set_flow_run_state(first, 1, Running()), Running)
        assert isinstance(await backend.set_flow_run_state(second, 1, Running()), Queued)
        assert isinstance(await backend.set_flow_run_state(first, 2, Running("still")), Running)
        await backend.set_flow_run_state(first, 3, Success())
        assert isinstance(await backend.set_flow_run_state(second, 2, Running()), Running)
