"""A server that takes little at once: what the client asks for is asked for in parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowloop.backends.client import GraphQLBackend
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.engine import Flow, Settings, task
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.state import Running

from .runs import started
from .serving import serve

QUIET = {"require_api_key": False, "scheduler": False, "zombie_killer": False, "lazarus": False, "retention": False}


@task
async def one(n: int) -> int:
    return n


@task
async def numbers() -> list[int]:
    return list(range(400))


def many() -> Flow:
    with Flow("many") as flow:
        for n in range(60):
            one(n)
    return flow


def wide() -> Flow:
    with Flow("wide") as flow:
        one.map(numbers())
    return flow


@pytest.mark.parametrize(
    ("flow", "limits"),
    [(many(), {"row_limit": 50}), (many(), {"answer_limit": 12_000}), (wide(), {"body_limit": 20_000})],
)
async def test_a_run_is_recorded_whatever_a_server_takes_at_once(
    tmp_path: Path, flow: Flow, limits: dict[str, int]
) -> None:
    app = create_app(f"sqlite:///{tmp_path}/runs.db", settings=ServerSettings(**QUIET, **limits))
    settings = Settings(home=str(tmp_path))
    with serve(app) as url:
        async with GraphQLBackend(url, settings=settings) as backend:
            state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
            assert state.is_successful()
            [run] = await backend.list_flow_runs()
            _, task_runs = await backend.get_flow_run_history(run.id)
            assert len(task_runs) == (60 if flow.name == "many" else 402)
            assert {task_run.states[-1].state for task_run in task_runs} <= {"Success", "Mapped"}


@pytest.mark.parametrize("rows", [1, 3])
async def test_a_flow_run_is_read_whole_in_pages_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("flowloop.backends.client.backend._PAGE", rows)
    monkeypatch.setattr("flowloop.backends.client.backend._CHILDREN", rows)
    app = create_app(f"sqlite:///{tmp_path}/runs.db", settings=ServerSettings(**QUIET))
    with serve(app) as url:
        async with GraphQLBackend(url, settings=Settings(home=str(tmp_path))) as backend:
            run = await started(backend, tasks=6)
            for task_run in run.tasks:
                await backend.set_task_run_state(task_run.id, None, Running())
            info = await backend.get_flow_run_info(run.id)
            assert sorted(one.id for one in info.task_runs) == sorted(one.id for one in run.tasks)
            assert len(info.task_runs) == 6
            assert {type(one.state) for one in info.task_runs} == {Running}
            indices = [3, 0, 5, 1]
            children = await backend.get_task_run_infos(run.id, run.tasks[0].task_id, indices)
            assert [child.map_index for child in children] == indices
