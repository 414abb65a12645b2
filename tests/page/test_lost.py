"""The connection is lost and comes back: what is shown stays, and in the end it is what the tables say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from flowloop.backends.server import create_app
from flowloop.backends.store import Store

from .conftest import OPEN, Browser
from .world import Recorded

pytestmark = [pytest.mark.browser, pytest.mark.heavy]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def serving(app: ASGIApp, port: int) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=port, log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
        if task.done():
            await task
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


class Between:
    """A proxy as people have it: below a path of its own, and particular about what it lets through."""

    def __init__(self, app: ASGIApp, *, prefix: str = "", sockets: bool = True, streams: bool = True) -> None:
        self.app, self.prefix, self.sockets, self.streams = app, prefix, sockets, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self.sockets:
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        headers = dict(scope.get("headers", ()))
        if not self.streams and b"event-stream" in headers.get(b"accept", b""):
            await send({"type": "http.response.start", "status": 502, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if self.prefix and scope["type"] in ("http", "websocket"):
            scope = {**scope, "path": scope["path"].removeprefix(self.prefix)}
            scope["raw_path"] = scope["path"].encode()
        await self.app(scope, receive, send)


async def test_a_server_that_was_away_is_followed_again(browser: Browser, tmp_path: Path, store: Store) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("brave-badger")
    ids = await run.map("price", 60)
    database, port = f"sqlite:///{tmp_path / 'flowloop.db'}", free_port()
    async with browser.visit() as visit:
        visit.allowed += ["WebSocket", "ERR_"]
        page = visit.page
        async with serving(create_app(database, settings=OPEN), port) as url:
            await visit.open(f"{url}/ui/runs/{run.id}?tab=tasks")
            await visit.live()
            await page.get_by_role("button", name="children of PRICE").click()
            await visit.see("[3]")
            await page.evaluate("document.querySelector('.rows').scrollTop = 700")
        await page.wait_for_selector(".link.is-away")
        assert "hidden" not in await visit.text("h1")
        await run.all(ids, "Running")
        await run.all(ids, "Success")
        async with serving(create_app(database, settings=OPEN), port):
            await page.get_by_role("button", name="now").click()
            await visit.live()
            await page.locator(".total .of-success", has_text="60").wait_for()
            assert await page.evaluate("document.querySelector('.rows').scrollTop") == 700
            await visit.see("[25]")


@pytest.mark.parametrize(("streams", "mode"), [(True, "stream"), (False, "polling")])
async def test_a_proxy_that_drops_sockets(
    browser: Browser, tmp_path: Path, store: Store, streams: bool, mode: str
) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("patient-pike")
    app = create_app(f"sqlite:///{tmp_path / 'flowloop.db'}", settings=OPEN)
    async with (
        serving(Between(app, sockets=False, streams=streams), free_port()) as url,
        browser.visit() as visit,
    ):
        visit.allowed += ["WebSocket", "502"]
        await visit.open(f"{url}/ui/runs/{run.id}")
        await visit.page.wait_for_selector(f".link.is-{mode}")
        await run.task("numbers", "Running", "Success")
        await visit.page.wait_for_selector(".node.of-success")


@pytest.mark.parametrize("way", ["mounted", "stripped"])
async def test_below_any_path(browser: Browser, tmp_path: Path, store: Store, way: str) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("nimble-newt")
    flows = create_app(f"sqlite:///{tmp_path / 'flowloop.db'}", settings=OPEN)
    if way == "mounted":
        app: ASGIApp = FastAPI(lifespan=flows.router.lifespan_context)
        app.mount("/a/b", flows)  # type: ignore[attr-defined]
    else:
        app = Between(flows, prefix="/a/b")
    async with serving(app, free_port()) as url, browser.visit() as visit:
        await visit.open(f"{url}/a/b/")
        await visit.live()
        await visit.page.get_by_role("link", name="nimble-newt").click()
        await visit.page.wait_for_selector(".node")
        assert visit.page.url == f"{url}/a/b/ui/runs/{run.id}"
        await visit.page.reload()
        await visit.live()
        await visit.page.wait_for_selector(".node")
