"""Each example, run as it is meant to be."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

from flowloop.backends import connect
from flowloop.engine.backend import Backend

from .commands import ROOT

EXAMPLES = ROOT / "examples"
TESTED = {
    "seattle_weather.py": "test_demo.py",
    "fastapi_service.py": "test_examples.py",
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED.keys()
    for example, test in TESTED.items():
        assert example.removesuffix(".py") in (ROOT / "tests" / test).read_text()


# -- the FastAPI service ---------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FLOWLOOP_HOME", str(tmp_path))
    return f"sqlite:///{tmp_path / 'flowloop.db'}"


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application with uvicorn on loopback, and stop it."""
    started = asyncio.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    try:
        await started.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        await serving


async def until(backend: Backend, flow_run_id: str, name: str) -> None:
    """Wait until the newest state of a flow run is of this kind."""
    watched = backend.watch_flow_run(flow_run_id)
    assert watched is not None
    async with asyncio.timeout(20), watched as states:
        async for state in states:
            if type(state).__name__ == name:
                return
    raise AssertionError(f"flow run {flow_run_id} never became {name}")


async def test_a_short_flow_is_awaited_in_a_handler(database: str) -> None:
    service = load("fastapi_service")
    async with served(service.app) as client:
        answer = await client.post("/greetings", params={"name": "you"})
    assert answer.status_code == 200
    assert answer.json() == {"greeting": "Hello, you!"}
    async with connect(database) as backend:
        assert [(run.flow_name, run.state) for run in await backend.list_flow_runs()] == [("greeting", "Success")]


async def test_a_long_flow_goes_on_in_the_background_and_can_be_cancelled(database: str) -> None:
    service = load("fastapi_service")
    async with served(service.app) as client:
        started = await client.post("/countdowns", params={"start": 60})
        assert started.status_code == 202
        flow_run_id = started.json()["id"]
        await until(service.app.state.backend, flow_run_id, "Running")
        report = await client.get(f"/runs/{flow_run_id}")
        assert report.json() == {"id": flow_run_id, "state": "Running", "message": "Running flow."}

        cancelled = await client.delete(f"/runs/{flow_run_id}")
        assert cancelled.status_code == 202
        assert cancelled.json() == {"id": flow_run_id, "state": "Cancelling"}
        await until(service.app.state.backend, flow_run_id, "Cancelled")
        assert (await client.get(f"/runs/{flow_run_id}")).json()["state"] == "Cancelled"


async def test_what_still_runs_when_the_service_stops_goes_on_at_its_next_launch(database: str) -> None:
    service = load("fastapi_service")
    async with served(service.app) as client:
        flow_run_id = (await client.post("/countdowns", params={"start": 2})).json()["id"]
        await until(service.app.state.backend, flow_run_id, "Running")
    async with connect(database) as backend:
        assert (await backend.get_flow_run_state(flow_run_id)).is_scheduled()
    async with served(load("fastapi_service").app) as client, connect(database) as backend:
        await until(backend, flow_run_id, "Success")


@contextmanager
def service_process(listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Run the example as its page says, in a process of its own, on a socket that is bound already."""
    command = [sys.executable, "-m", "uvicorn", "examples.fastapi_service:app", "--fd", str(listener.fileno())]
    process = subprocess.Popen(
        [*command, "--log-level", "warning"], cwd=ROOT, pass_fds=[listener.fileno()], env=os.environ
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_service_that_is_killed_in_the_middle_of_a_map_finishes_it_by_itself(database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with connect(database) as backend, httpx.AsyncClient(base_url=url, timeout=20) as client:
            with service_process(listener):
                flow_run_id = (await client.post("/countdowns", params={"start": 3})).json()["id"]
                await until_a_child_runs(backend, flow_run_id)
            assert type(await backend.get_flow_run_state(flow_run_id)).__name__ == "Running"
            with service_process(listener):
                await until(backend, flow_run_id, "Success")
            _, task_runs = await backend.get_flow_run_history(flow_run_id)
    children = [[state.state for state in run.states] for run in task_runs if run.map_index >= 0]
    assert len(children) == 3
    assert all(states[-1] == "Success" for states in children)
    assert any(states.count("Running") == 2 for states in children), "it was killed while children ran"


async def until_a_child_runs(backend: Backend, flow_run_id: str) -> None:
    async with asyncio.timeout(20):
        while True:
            _, task_runs = await backend.get_flow_run_history(flow_run_id)
            if any(run.map_index >= 0 and run.states[-1].state == "Running" for run in task_runs):
                return


async def test_bad_requests_are_refused(database: str) -> None:
    service = load("fastapi_service")
    async with served(service.app) as client:
        assert (await client.post("/countdowns", params={"start": "soon"})).status_code == 422
        assert (await client.get("/runs/nonesuch")).status_code == 404
        assert (await client.delete("/runs/nonesuch")).status_code == 404
    async with connect(database) as backend:
        assert await backend.list_flow_runs() == []
