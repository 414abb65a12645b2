"""A web service that runs flows: a short one in a handler, a long one in the background, which outlives the process.

It tells how a run goes on as a stream of events, and has the live page of all runs at ``/flows/ui/``. Runs are recorded
in the database that ``FLOWLOOP_BACKEND_URL`` names, else in a SQLite file::

    pip install 'flowloop[cli]' fastapi
    uvicorn examples.fastapi_service:app
    curl -X POST 'localhost:8000/greetings?name=you'
    curl -X POST 'localhost:8000/countdowns?start=60'
    curl localhost:8000/runs/ID/events
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from flowloop import CloudFlowRunner, Flow, Parameter, Recovery, Settings, State, connect, task
from flowloop.backends.server.app import create_app
from flowloop.engine.errors import BackendRejected, FlowDefinitionError


@task
async def greet(name: str) -> str:
    """Return a greeting."""
    return f"Hello, {name}!"


@task
async def count_from(start: int) -> list[int]:
    """Return the numbers from `start` down to one."""
    return list(range(start, 0, -1))


@task
async def wait_a_second(number: int) -> int:
    """Take a second."""
    await anyio.sleep(1)
    return number


with Flow("greeting") as greeting:
    greeted = greet(Parameter("name", type=str))

with Flow("countdown") as countdown:
    numbers = wait_a_second.map(count_from(Parameter("start", type=int)))


database = Settings.from_env().default_backend_url
page = create_app(database)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the backend for as long as the service runs, and continue what an earlier process of it left behind."""
    async with (
        page.router.lifespan_context(page),
        connect(database) as backend,
        Recovery(backend, [greeting, countdown]) as recovery,
    ):
        app.state.backend = backend
        app.state.recovery = recovery
        yield


app = FastAPI(title="flows", lifespan=lifespan)
app.mount("/flows", page)


def _described(flow_run_id: str, state: State) -> dict[str, Any]:
    return {"id": flow_run_id, "state": type(state).__name__, "message": state.message}


@app.post("/greetings")
async def run_greeting(name: str) -> dict[str, str]:
    """Run a short flow, and answer with its result."""
    state = await CloudFlowRunner(greeting, backend=app.state.backend).run(parameters={"name": name})
    if not state.is_successful():
        raise HTTPException(500, f"the flow ended as {type(state).__name__}: {state.message}")
    return {"greeting": state.result[greeted].result}


@app.post("/countdowns", status_code=202)
async def start_countdown(start: int) -> dict[str, str]:
    """Start a long flow, and answer with the id of the flow run."""
    try:
        return {"id": await app.state.recovery.start(countdown, {"start": start})}
    except FlowDefinitionError as error:
        raise HTTPException(422, str(error)) from error


@app.get("/runs/{flow_run_id}")
async def report(flow_run_id: str) -> dict[str, Any]:
    """Tell what state a flow run is in."""
    try:
        return _described(flow_run_id, await app.state.backend.get_flow_run_state(flow_run_id))
    except BackendRejected as error:
        raise HTTPException(404, str(error)) from error


@app.get("/runs/{flow_run_id}/events")
async def follow(flow_run_id: str) -> StreamingResponse:
    """Tell each state of a flow run as it comes, until the last one: as server-sent events."""
    backend = app.state.backend
    first = await report(flow_run_id)

    async def events() -> AsyncIterator[str]:
        async with backend.watch_flow_run(flow_run_id) as states:
            yield f"data: {json.dumps(first)}\n\n"
            async for state in states:
                yield f"data: {json.dumps(_described(flow_run_id, state))}\n\n"
                if state.is_finished():
                    break

    return StreamingResponse(events(), media_type="text/event-stream")


@app.delete("/runs/{flow_run_id}", status_code=202)
async def cancel(flow_run_id: str) -> dict[str, str]:
    """Ask for a flow run to be cancelled; it ends when its tasks have been stopped."""
    try:
        return {"id": flow_run_id, "state": await app.state.backend.cancel_flow_run(flow_run_id)}
    except BackendRejected as error:
        raise HTTPException(404, str(error)) from error
