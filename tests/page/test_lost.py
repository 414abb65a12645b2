"""The connection is lost and comes back: what is shown stays, and in the end it is what the tables say."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from flowloop.backends.server import create_app
from flowloop.backends.server.ui.assets import Assets
from flowloop.backends.store import ANYONE, Store

from ..commands import own_port
from .conftest import OPEN, Browser
from .world import Recorded

HIDE = """isHidden => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
    document.dispatchEvent(new Event("visibilitychange"));
}"""

pytestmark = [pytest.mark.browser, pytest.mark.heavy]


@pytest.fixture
def port() -> Iterator[int]:
    with own_port() as found:
        yield found


@asynccontextmanager
async def serving(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=port, log_config=None, ws="websockets-sansio", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
        if task.done():
            await task
    try:
        yield "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        await task


class Between:
    """A proxy as people have it: below a path of its own, and particular about what it lets through."""

    def __init__(self, app: ASGIApp, *, prefix: str = "", sockets: bool = True, streams: bool | None = True) -> None:
        self.app, self.prefix, self.sockets, self.streams = app, prefix, sockets, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self.sockets:
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        headers = dict(scope.get("headers", ()))
        if not self.streams and b"event-stream" in headers.get(b"accept", b""):
            if self.streams is None:  # it keeps what it is given until there is more of it
                await asyncio.Event().wait()
            await send({"type": "http.response.start", "status": 502, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if self.prefix and scope["type"] in ("http", "websocket"):
            scope = {**scope, "path": scope["path"].removeprefix(self.prefix)}
            scope["raw_path"] = scope["path"].encode()
        await self.app(scope, receive, send)


async def test_a_server_that_was_away_is_followed_again(
    browser: Browser, tmp_path: Path, store: Store, port: int
) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("brave-badger")
    ids = await run.map("price", 60)
    database = f"sqlite:///{tmp_path / 'flowloop.db'}"
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
            # it may be back by itself before it is asked to be, and then there is no button any more
            await page.evaluate("document.querySelector('.link button')?.click()")
            await visit.live()
            await page.locator(".total .of-success", has_text="60").wait_for()
            assert await page.evaluate("document.querySelector('.rows').scrollTop") == 700
            await visit.see("[25]")
        # what is looked for meanwhile is asked as soon as there is somebody to ask
        await page.wait_for_selector(".link.is-away")
        await visit.go("inbox")
        await visit.see("What waits could not be read")
        async with serving(create_app(database, settings=OPEN), port):
            await visit.see("Nothing waits for anybody.")


@pytest.mark.parametrize(("streams", "mode"), [(True, "stream"), (False, "polling")])
async def test_a_proxy_that_drops_sockets(
    browser: Browser, tmp_path: Path, store: Store, streams: bool, mode: str
) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("patient-pike")
    app = create_app(f"sqlite:///{tmp_path / 'flowloop.db'}", settings=OPEN)
    async with (
        serving(Between(app, sockets=False, streams=streams)) as url,
        browser.visit() as visit,
    ):
        visit.allowed += ["WebSocket", "502"]
        await visit.open(f"{url}/ui/runs/{run.id}")
        await visit.page.wait_for_selector(f".link.is-{mode}")
        await run.task("numbers", "Running", "Success")
        await visit.page.wait_for_selector(".node.of-success")


async def test_a_proxy_that_holds_streams_back(browser: Browser, tmp_path: Path, store: Store) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("patient-pike")
    app = create_app(f"sqlite:///{tmp_path / 'flowloop.db'}", settings=OPEN)
    async with (
        serving(Between(app, sockets=False, streams=None)) as url,
        browser.visit() as visit,
    ):
        visit.allowed += ["WebSocket"]
        page = visit.page
        await page.clock.install()
        async with page.expect_request(lambda each: "event-stream" in each.headers.get("accept", "")):
            await page.goto(f"{url}/ui/runs/{run.id}")
        await page.clock.fast_forward(21_000)
        await page.wait_for_selector(".link.is-polling")
        await run.task("numbers", "Running", "Success")
        await page.clock.fast_forward(2_000)
        await page.wait_for_selector(".node.of-success")
        await page.goto("about:blank")


async def test_a_server_with_too_many_readers_is_asked_now_and_then(
    browser: Browser, tmp_path: Path, store: Store
) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("crowded-crane")
    settings = msgspec.structs.replace(OPEN, subscriber_limit=1)
    app = create_app(f"sqlite:///{tmp_path / 'flowloop.db'}", settings=settings)
    async with serving(app) as url, browser.visit() as visit:
        await visit.open(f"{url}/ui/runs/{run.id}")
        await visit.page.wait_for_selector(".link.is-polling")
        assert "too many subscriptions" in await visit.text(".link")
        await run.task("numbers", "Running", "Success")
        await visit.page.wait_for_selector(".node.of-success")


async def test_another_version_of_the_page_is_taken_where_nothing_is_lost_by_it(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    run = await recorded.begin("brave-badger")
    await run.map("price", 3)

    async def other(route: Any) -> None:
        await route.fulfill(body="", headers={"ETag": '"0123456789ab-0"'})

    again = 'dispatchEvent(new Event("online"))'  # a connection of its own begins anew, and asks for the version
    async with browser.visit() as visit:
        page = visit.page
        offer = page.get_by_text("A new version of this page is there.")
        await page.route(f"{url}/ui/", other)
        await visit.open(f"{url}/ui/runs/{run.id}?tab=tasks")
        await visit.live()
        async with page.expect_event("load"):
            await page.evaluate(again)
        # it is the same as before: it is not loaded for ever
        await visit.live()
        assert await offer.count() == 0
        await page.evaluate(again)
        await offer.wait_for()
    async with browser.visit() as visit:
        page = visit.page
        offer = page.get_by_text("A new version of this page is there.")
        await page.route(f"{url}/ui/", other)
        await visit.open(f"{url}/ui/runs/{run.id}?tab=tasks")
        # what somebody has done to a view is in no address
        await page.get_by_role("button", name="children of PRICE").click()
        await visit.live()
        await page.evaluate(again)
        await offer.wait_for()
        await page.get_by_role("link", name="PRICE [2]").wait_for()
        # with another view comes the other version
        async with page.expect_event("load"):
            await page.get_by_role("link", name="Inbox").click()
        assert page.url == f"{url}/ui/inbox"
    async with browser.visit() as visit:
        page = visit.page
        await page.route(f"{url}/ui/", other)
        await visit.open(f"{url}/ui/tail")
        await visit.live()
        await recorded.begin("calm-crab")
        # what is told of once cannot be read again
        await page.get_by_role("link", name="calm-crab").first.wait_for()
        await page.evaluate(again)
        await page.get_by_text("A new version of this page is there.").wait_for()
        await page.get_by_role("link", name="calm-crab").first.wait_for()


async def test_another_version_of_the_page_is_told_of_and_waits(
    browser: Browser, tmp_path: Path, store: Store, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(store)
    await recorded.register()
    await recorded.begin("brave-badger")
    database = f"sqlite:///{tmp_path / 'flowloop.db'}"
    files = {name: asset.body for name, asset in Assets.load().files.items()}
    newer = Assets("<!doctype html><title>newer</title><main><h1>newer</h1></main>", files)
    async with browser.visit() as visit:
        visit.allowed += ["WebSocket", "ERR_", "404"]
        page = visit.page
        async with serving(create_app(database, settings=OPEN), port) as url:
            await visit.open(f"{url}/ui/flows/{recorded.flow_id}?form=run")
            await visit.live()
            await page.get_by_label("Labels").fill("half written")
        await page.wait_for_selector(".link.is-away")
        monkeypatch.setattr(Assets, "load", lambda: newer)
        async with serving(create_app(database, settings=OPEN), port):
            # a server that stops and is back is found without anybody's doing
            await visit.live()
            await visit.see("A new version of this page is there.")
            assert await page.get_by_label("Labels").input_value() == "half written"
            await page.get_by_role("button", name="Reload").click()
            await page.get_by_role("heading", name="newer").wait_for()


async def test_what_only_another_version_has_is_said_not_to_be_there(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    run = await recorded.begin("brave-badger")
    async with browser.visit() as visit:
        visit.allowed += ["404"]
        page = visit.page
        await page.route("**/dagre.js", lambda route: route.fulfill(status=404))
        await visit.open(f"{url}/ui/runs/{run.id}")
        await visit.see("What draws the graph could not be read")
        await page.locator(".as-list .row a").first.wait_for()


async def test_a_hidden_page_asks_for_nothing_and_catches_up_at_once(browser: Browser, url: str, store: Store) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("drowsy-dormouse")
    ids = await run.map("price", 6_000)
    async with browser.visit() as visit:
        page = visit.page
        frames: list[str] = []
        closed = asyncio.Event()

        def listen(socket: Any) -> None:
            socket.on("framereceived", lambda text: frames.append(str(text)))
            socket.on("close", lambda _: closed.set())

        page.on("websocket", listen)
        # an hour behind the clock of the server
        await page.clock.install(time=datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1))
        await visit.open(f"{url}/ui/runs/{run.id}?tab=tasks")
        await visit.live()
        await page.get_by_role("button", name="children of PRICE").click()
        await visit.see("[3]")
        await page.evaluate("document.querySelector('.rows').scrollTop = 900")
        assert not re.search(r"\b\d+ (h|min)\b", await visit.text(".head .facts"))
        await page.evaluate(HIDE, True)
        await page.clock.fast_forward(61_000)
        await closed.wait()
        frames.clear()
        await run.all(ids, "Running")
        await run.all(ids, "Success")
        assert frames == []
        await page.clock.fast_forward(600_000)
        await page.evaluate(HIDE, False)
        await page.locator(".total .of-success", has_text="6,000").wait_for()
        assert len([frame for frame in frames if "run_changes" in frame]) == 1
        assert await page.evaluate("document.querySelector('.rows').scrollTop") == 900
        await visit.live()


async def test_a_key_that_is_revoked_is_asked_for_over_what_was_shown(
    browser: Browser, tmp_path: Path, store: Store
) -> None:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("hidden-heron")
    first, second = [await store.create_api_key(ANYONE, name=name) for name in ("ada", "bob")]
    locked = msgspec.structs.replace(OPEN, require_api_key=True, key_cache_seconds=0)
    app = create_app(f"sqlite:///{tmp_path / 'flowloop.db'}", settings=locked)
    async with serving(app) as url, browser.visit() as visit:
        visit.allowed += ["401", "WebSocket"]
        page = visit.page
        await page.goto(f"{url}/ui/flows/{recorded.flow_id}?form=run")
        await visit.sign_in(first["key"])
        await visit.live()
        await page.get_by_label("Labels").fill("half written")
        await store.delete_api_key(ANYONE, key_id=first["id"])
        await page.get_by_label("API key").wait_for()
        assert await page.get_by_label("Labels").input_value() == "half written"
        await page.get_by_label("API key").fill(second["key"])
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_label("API key").wait_for(state="detached")
        await visit.live()
        await page.locator("header").get_by_text("bob", exact=True).wait_for()
        assert await page.get_by_label("Labels").input_value() == "half written"
        await visit.go(f"runs/{run.id}")
        await visit.see("hidden-heron")


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
    async with serving(app) as url, browser.visit() as visit:
        await visit.open(f"{url}/a/b/")
        await visit.live()
        await visit.page.get_by_role("link", name="nimble-newt").click()
        await visit.page.wait_for_selector(".node")
        assert visit.page.url == f"{url}/a/b/ui/runs/{run.id}"
        await visit.page.reload()
        await visit.live()
        await visit.page.wait_for_selector(".node")
