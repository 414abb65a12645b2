"""Each example, run as it is meant to be."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
import httpx
import nbformat
import pytest
import uvicorn
from nbclient import NotebookClient

from flowloop.backends import connect
from flowloop.backends.worker import Worker
from flowloop.engine import Flow, State
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.executors import DaskExecutor, Executor, RayExecutor, executor_named

from .commands import ROOT, environment

EXAMPLES = ROOT / "examples"
TESTED = {
    "seattle_weather.py": "test_demo.py",
    "fastapi_service.py": "test_examples.py",
    "agent_loop.py": "test_examples.py",
    "approval.py": "test_examples.py",
    "both_engines.py": "test_examples.py",
    "cars_report.py": "test_examples.py",
    "polite_crawl.py": "test_examples.py",
    "primes.py": "test_examples.py",
    "squares.ipynb": "test_examples.py",
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"} == TESTED.keys()
    for example, test in TESTED.items():
        assert example in (EXAMPLES / "README.md").read_text()
        assert example.partition(".")[0] in (ROOT / "tests" / test).read_text()


# -- scripts and flows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "printed"),
    [
        ("cars_report", "USA used most: 12.7 litres on 100 km\n"),
        ("polite_crawl", "30 pages, 500 characters after 40 requests\n" * 2),
        ("both_engines", "30 is large\n"),
    ],
)
def test_a_script_prints_its_result(example: str, printed: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{example}.py"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


async def test_cars_report_leaves_its_report_and_refuses_what_is_too_broken(tmp_path: Path) -> None:
    cars = load("cars_report")
    async with connect(f"sqlite:///{tmp_path / 'runs.db'}") as backend:
        runner = CloudFlowRunner(cars.flow, backend=backend)
        assert (await runner.run()).is_successful()
        assert runner.flow_run_id is not None
        left = {artifact.kind: artifact for artifact in await backend.list_artifacts(runner.flow_run_id)}
        assert left.keys() == {"markdown", "table"}
        assert left["markdown"].data["markdown"].count("\n") == 14
    failed = await cars.flow.run(most_broken=0.01)
    assert "14 of 406 records are broken" in str(failed["check-1"].message)


async def test_primes_are_the_same_wherever_they_are_counted() -> None:
    primes = load("primes")
    for executor in ("processes:2", "local"):
        state = await primes.flow.run(below=10_000, executor=executor_named(executor))
        assert state.result[primes.primes].result == 1229


def on_dask() -> Executor:
    pytest.importorskip("distributed")
    ports = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    return DaskExecutor(cluster_kwargs={"n_workers": 1, "threads_per_worker": 2, "processes": False, **ports})


def on_ray() -> Executor:
    pytest.importorskip("ray")
    return RayExecutor()


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")  # what a cluster does at its own edges is not for this test to judge
@pytest.mark.parametrize("made", [on_dask, on_ray])
async def test_primes_are_the_same_on_a_cluster(made: Callable[[], Executor]) -> None:
    primes = load("primes")
    state = await primes.flow.run(below=10_000, executor=made())
    assert state.result[primes.primes].result == 1229


async def answered(backend: Backend, flow: Flow, parameters: dict[str, Any], kind: str, task: str, value: Any) -> State:
    """Run a flow until it waits, answer it, let a worker go on with it, and return its last state."""
    runner = CloudFlowRunner(flow, backend=backend)
    assert not (await runner.run(parameters=parameters)).is_finished()
    assert runner.flow_run_id is not None
    async with Worker(backend, {flow.name: flow}, poll_interval=0.05):
        await backend.direct_flow_run(runner.flow_run_id, kind, task=task, value=value, author="ann")
        while not (state := await backend.get_flow_run_state(runner.flow_run_id)).is_finished():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return state


async def test_approval_waits_and_pays_what_was_approved(tmp_path: Path) -> None:
    approval = load("approval")
    async with connect(f"sqlite:///{tmp_path / 'runs.db'}") as backend:
        small = await CloudFlowRunner(approval.flow, backend=backend).run(parameters={"amount": 12})
        assert small.result[approval.small].result == "paid 12 for 2026-117"
        paid = await answered(backend, approval.flow, {"amount": 1200}, "resume", "ask-1", 1000)
        assert paid.is_successful()
        declined = await answered(backend, approval.flow, {"amount": 1200}, "reject", "ask-1", None)
        assert declined.is_failed()


async def test_agent_loop_thinks_acts_and_asks(tmp_path: Path) -> None:
    agent = load("agent_loop")
    async with connect(f"sqlite:///{tmp_path / 'runs.db'}") as backend:
        state = await answered(backend, agent.flow, {}, "resume", "approved-1", None)
        assert state.is_successful()
        (run,) = await backend.list_flow_runs()
        _, task_runs = await backend.get_flow_run_history(run.id)
        (talk,) = [one for one in task_runs if one.task_slug == "converse-1"]
        states = [record.state for record in talk.states]
        assert states.count("Retrying") == 2, "each search failed once"
        assert len(await backend.list_artifacts(run.id)) == 3


def test_the_notebook_of_squares_runs_in_a_kernel(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "squares.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [cell.outputs[-1].data for cell in notebook.cells if cell.cell_type == "code"]
    drawn, results, coloured, timeline = shown
    assert results["text/plain"] == "([9, 16], 25)"
    for picture in (drawn, coloured, timeline):
        assert "<svg" in picture["text/html"]
    assert "square" in drawn["text/html"]
    assert coloured["text/html"] != drawn["text/html"]


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

    server = Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    serving = asyncio.create_task(server.serve())
    try:
        await started.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


async def until(backend: Backend, flow_run_id: str, name: str) -> None:
    """Wait until the newest state of a flow run is of this kind."""
    watched = backend.watch_flow_run(flow_run_id)
    assert watched is not None
    async with asyncio.timeout(60), watched as states:
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
    service.anyio = SimpleNamespace(sleep=lambda _: anyio.sleep_forever())  # it is stopped before a second has passed
    async with served(service.app) as client:
        flow_run_id = (await client.post("/countdowns", params={"start": 2})).json()["id"]
        await until(service.app.state.backend, flow_run_id, "Running")
    async with connect(database) as backend:
        assert (await backend.get_flow_run_state(flow_run_id)).is_scheduled()
    async with served(load("fastapi_service").app) as client, connect(database) as backend:
        await until(backend, flow_run_id, "Success")


HELD = """
import types, anyio
from examples import fastapi_service

fastapi_service.anyio = types.SimpleNamespace(sleep=lambda _: anyio.sleep_forever())
app = fastapi_service.app
"""
"""The service, but what takes a second lasts until it is killed."""


@contextmanager
def service_process(
    listener: socket.socket, app: str = "examples.fastapi_service:app"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the example as its page says, in a process of its own, on a socket that is bound already."""
    command = [sys.executable, "-m", "uvicorn", app, "--fd", str(listener.fileno())]
    process = subprocess.Popen(
        [*command, "--log-level", "warning"], cwd=ROOT, pass_fds=[listener.fileno()], env=os.environ
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_service_that_is_killed_in_the_middle_of_a_map_finishes_it_by_itself(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "held_service.py").write_text(HELD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with connect(database) as backend, httpx.AsyncClient(base_url=url, timeout=60) as client:
            with service_process(listener, "held_service:app"):
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
    async with asyncio.timeout(60):
        while True:
            _, task_runs = await backend.get_flow_run_history(flow_run_id)
            if any(run.map_index >= 0 and run.states[-1].state == "Running" for run in task_runs):
                return


async def test_the_states_of_a_run_are_streamed_and_the_page_is_there(database: str) -> None:
    service = load("fastapi_service")
    async with served(service.app) as client:
        flow_run_id = (await client.post("/countdowns", params={"start": 1})).json()["id"]
        async with client.stream("GET", f"/runs/{flow_run_id}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            heard = [line.removeprefix("data: ") async for line in stream.aiter_lines() if line]
        assert json.loads(heard[-1])["state"] == "Success"
        assert (await client.get("/flows/ui/")).status_code == 200
        assert (await client.get("/runs/nonesuch/events")).status_code == 404


async def test_bad_requests_are_refused(database: str) -> None:
    service = load("fastapi_service")
    async with served(service.app) as client:
        assert (await client.post("/countdowns", params={"start": "soon"})).status_code == 422
        assert (await client.get("/runs/nonesuch")).status_code == 404
        assert (await client.delete("/runs/nonesuch")).status_code == 404
    async with connect(database) as backend:
        assert await backend.list_flow_runs() == []
