"""What stands between a client and its server answers for it: an outage in a session, an error at its beginning."""

from __future__ import annotations

import asyncio
import gzip
import multiprocessing
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowloop.backends import connect
from flowloop.backends.client.backend import GraphQLBackend
from flowloop.backends.server import ServerSettings, create_app
from flowloop.backends.store import Store
from flowloop.engine import Flow, Parameter, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import BackendError, BackendRejected, BackendUnavailable, DialectError, FlowloopError
from flowloop.engine.settings import Settings
from flowloop.engine.state import Success

SETTINGS = Settings(outage_limit=60, heartbeat_interval=300)
JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/html"}

STRANGE: dict[str, Callable[[], httpx.Response]] = {
    "404 of an ingress": lambda: httpx.Response(404, text="default backend - 404"),
    "403 of a firewall": lambda: httpx.Response(403, text="<html>blocked</html>", headers=HTML),
    "401 of a proxy": lambda: httpx.Response(401, headers={"WWW-Authenticate": "Basic"}),
    "a page to log in": lambda: httpx.Response(200, text="<html>sign in</html>", headers=HTML),
    "a redirection to log in": lambda: httpx.Response(302, headers={"Location": "https://login.example/"}),
    "a redirection that can be followed": lambda: httpx.Response(307, headers={"Location": "/maintenance"}),
    "an empty object": lambda: httpx.Response(200, json={}),
    "null": lambda: httpx.Response(200, json=None),
    "a list": lambda: httpx.Response(200, json=[]),
    "data of nobody": lambda: httpx.Response(200, json={"data": None}),
    "an error of nobody": lambda: httpx.Response(200, json={"errors": [{"message": "no route"}]}),
    "half of gzip": lambda: httpx.Response(
        200, stream=httpx.ByteStream(gzip.compress(b'{"data": {}}')[:15]), headers={**JSON, "Content-Encoding": "gzip"}
    ),
    "no gzip": lambda: httpx.Response(
        200, stream=httpx.ByteStream(b"plain"), headers={**JSON, "Content-Encoding": "gzip"}
    ),
    "nothing": lambda: httpx.Response(200, content=b"", headers=JSON),
    "half of an answer": lambda: httpx.Response(200, content=b'{"data": {"flow', headers=JSON),
    "text": lambda: httpx.Response(200, text='{"data": {}}'),
    "400 of a balancer": lambda: httpx.Response(400, text="Bad Request"),
    "405": lambda: httpx.Response(405, text="Method Not Allowed"),
    "502 in HTML": lambda: httpx.Response(502, text="<html>Bad Gateway</html>", headers=HTML),
}


class Between(httpx.AsyncBaseTransport):
    """Answers every other request of a session in the server's place."""

    def __init__(self, server: httpx.AsyncBaseTransport) -> None:
        self._server = server
        self.waiting: list[Callable[[], httpx.Response]] = []
        self.told = 0
        self._is_its_turn = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/maintenance":
            return httpx.Response(200, text="<html>back soon</html>", headers=HTML)
        self._is_its_turn = not self._is_its_turn
        if self.waiting and self._is_its_turn:
            self.told += 1
            return self.waiting.pop(0)()
        return await self._server.handle_async_request(request)


@pytest.fixture
async def between(tmp_path: Path) -> AsyncIterator[Between]:
    open_to_all = ServerSettings(
        require_api_key=False, scheduler=False, zombie_killer=False, lazarus=False, retention=False
    )
    async with Store(f"sqlite:///{tmp_path}/runs.db", synchronous="OFF") as store:
        app = create_app(store, settings=open_to_all)
        async with app.router.lifespan_context(app):
            yield Between(httpx.ASGITransport(app))


@task
def add(x: int) -> int:
    return x + 1


with Flow("adds") as flow:
    value = add(1)
    for _ in range(8):
        value = add(value)


async def test_a_run_survives_every_kind_of_strange_answer(between: Between) -> None:
    async with GraphQLBackend("http://server", settings=SETTINGS, transport=between) as backend:
        run_id = await create_flow_run(flow, backend)
        between.waiting = list(STRANGE.values())
        state = await CloudFlowRunner(flow, backend=backend).run(context={"flow_run_id": run_id})
        assert state.is_successful()
        while between.waiting:
            await backend.get_flow_run_state(run_id)
        assert between.told == len(STRANGE)
        assert (await backend.get_flow_run_state(run_id)).is_successful()


class Refusing(httpx.AsyncBaseTransport):
    """Refuses, as the server would, one request that has the end of a task run in it."""

    def __init__(self, server: httpx.AsyncBaseTransport, answer: httpx.Response) -> None:
        self._server = server
        self.waiting = [answer]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.waiting and b'"type":"Success"' in request.content:
            return self.waiting.pop()
        return await self._server.handle_async_request(request)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (401, {"errors": [{"message": "who are you?"}]}),
        (404, {}),
        (400, {"errors": [{"message": "no"}]}),
        (200, {"data": {"set_task_run_states": None}, "errors": [{"message": "no", "path": ["set_task_run_states"]}]}),
    ],
)
async def test_a_state_that_is_refused_with_the_one_before_it_begins_anew(
    between: Between, status: int, answer: dict[str, Any]
) -> None:
    with Flow("given") as given:
        add(Parameter("x", default=1))
    refusing = Refusing(between, httpx.Response(status, json=answer, headers={"X-FLOWLOOP-VERSION": "1"}))
    async with GraphQLBackend("http://server", settings=SETTINGS, transport=refusing) as backend:
        runner = CloudFlowRunner(given, backend=backend)
        state = await runner.run()
        assert refusing.waiting == []
        assert (state.message, state.is_successful()) == ("All reference tasks succeeded.", True)
        info = await backend.get_flow_run_info(runner.flow_run_id or "")
        assert {type(one.state) for one in info.task_runs} == {Success}


WORTH_A_WAIT = {"502 in HTML", "nothing", "half of an answer", "half of gzip"}
OF_ANOTHER_SERVER = {"text"}  # which is judged by what it answers


@pytest.mark.parametrize("kind", sorted(STRANGE.keys() - WORTH_A_WAIT - OF_ANOTHER_SERVER))
async def test_at_first_contact_a_wrong_url_is_named_at_once(kind: str) -> None:
    asked = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return STRANGE[kind]()

    with pytest.raises(BackendError, match="http://wrong") as raised:
        async with GraphQLBackend("http://wrong", settings=SETTINGS, transport=httpx.MockTransport(answer)):
            pass
    assert isinstance(raised.value, BackendRejected | DialectError)
    assert asked <= 4  # each of two questions, followed once


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///graphql",
        "http://:4200",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://[::1",
        "http://a b",
        "http://host\n",
        "http://me:se/cret@host",
        "http+unix:///run/flowloop.sock",
    ],
)
def test_what_is_the_url_of_no_server_is_named_at_once_and_without_what_is_secret(url: str) -> None:
    with pytest.raises(FlowloopError, match="a server has a URL like http://HOST:PORT") as raised:
        connect(url)
    assert "cret" not in str(raised.value)


async def test_a_proxy_that_takes_less_has_batches_split(between: Between) -> None:
    """What it says has no header of the server, and is no outage."""
    async with GraphQLBackend("http://server", settings=SETTINGS, transport=between) as backend:
        between.waiting = [lambda: httpx.Response(413, text="Request Entity Too Large")]
        between._is_its_turn = False
        with pytest.raises(BackendRejected, match="413"):
            await backend.list_flow_runs()


# ---- from elsewhere --------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "http"])
async def backend(request: pytest.FixtureRequest, between: Between, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "http":
        opened: Backend = GraphQLBackend("http://server", settings=SETTINGS, transport=between)
    else:
        opened = connect(f"sqlite:///{tmp_path}/own.db", settings=SETTINGS)
    async with opened:
        yield opened


async def _use(backend: Backend, run_id: str) -> list[str]:
    """Read and write, and return what is said."""
    said: list[str] = []
    for call in (backend.get_flow_run_state, backend.update_flow_run_heartbeat):
        try:
            await call(run_id)
        except BackendUnavailable as error:
            said.append(str(error))
    return said


async def test_another_event_loop_is_told_at_once(backend: Backend) -> None:
    run_id = await create_flow_run(flow, backend)
    said = await asyncio.to_thread(lambda: asyncio.run(_use(backend, run_id)))
    assert len(said) == 2
    assert all("was opened in another event loop: open one in this loop" in one for one in said)
    assert await _use(backend, run_id) == []


async def test_a_closed_backend_says_so_at_once(backend: Backend) -> None:
    run_id = await create_flow_run(flow, backend)
    await backend.__aexit__(None, None, None)
    said = await _use(backend, run_id)
    assert len(said) == 2
    assert all("is not open: use it inside its 'async with'" in one for one in said)


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 50, None])
async def test_a_run_whose_backend_is_closed_under_it_ends_and_says_so(backend: Backend, turns: int | None) -> None:
    """After so many turns of the loop, or while its body runs."""
    begun, closed = asyncio.Event(), asyncio.Event()

    @task
    async def waits() -> None:
        begun.set()
        await closed.wait()

    with Flow("closed") as waiting:
        waits()
    run = asyncio.create_task(CloudFlowRunner(waiting, backend=backend, settings=SETTINGS).run())
    for _ in range(turns or 0):
        await asyncio.sleep(0)
    if turns is None:
        await begun.wait()
    await backend.__aexit__(None, None, None)
    closed.set()
    with pytest.raises(BackendUnavailable, match=r"is not open: use it inside its 'async with'|was closed before"):
        await run


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_forked_child_is_told_at_once(backend: Backend, tmp_path: Path) -> None:
    run_id = await create_flow_run(flow, backend)
    told = tmp_path / "told"

    def child() -> None:
        asyncio.events._set_running_loop(None)
        told.write_text("\n".join(asyncio.run(_use(backend, run_id))))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    await asyncio.to_thread(process.join)
    said = told.read_text().splitlines()
    assert len(said) == 2
    assert all("was opened by the process that this one was forked from: open it anew" in one for one in said)
    assert await _use(backend, run_id) == []
