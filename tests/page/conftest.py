"""A browser, and servers for it: Debian's Chromium by its path, or whichever is on the PATH."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from flowloop.backends.server import ServerSettings
from flowloop.backends.store import ANYONE, Store

from ..backends.server.served import QUIET, listening
from .world import Recorded

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Of several lists of features the last holds: what Playwright turns off, and the panels below the address bar, which a
# headless browser loads for each visit, too.
OFF = (
    "AimEnabled",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "TcpPortRandomizationWin",
    "ThirdPartyStoragePartitioning",
    "WebUIOmniboxAimPopup",
    "WebUIOmniboxPopup",
)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={','.join(OFF)}",
)
OPEN = ServerSettings(require_api_key=False, poll_seconds=0.1, **QUIET)
HOLD = """waits => {
  const after = setTimeout;
  const held = [];
  globalThis.letGo = () => held.splice(0).forEach((call) => call());
  globalThis.setTimeout = (call, wait, ...more) => waits.includes(wait) ? held.push(call) : after(call, wait, ...more);
}"""
"""What is to go after so many milliseconds stays until it is let go, however long a test takes to look at it."""

DRAWN = """new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
  .then(() => document.querySelector("main [aria-busy=true]") !== null)"""
"""Whether something waits for its answer once what is known has been drawn."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)
    if CHROMIUM is None and not os.environ.get("FLOWLOOP_BROWSER_REQUIRED"):
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="there is no Chromium on the PATH"))


class Visit:
    """A page in a browser, that must have nothing to complain of when it is left."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[Any] = []
        self.allowed: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(f"{error}"))
        page.on("dialog", lambda dialog: self.problems.append(f"a dialog: {dialog.message}"))
        self._pending: set[Any] = set()
        page.on("request", self._begin)
        page.on("requestfinished", lambda request: self._pending.discard(request))
        page.on("requestfailed", lambda request: self._pending.discard(request))
        self._unheard: dict[Any, set[str]] = {}
        page.on("websocket", self._listen)
        page.on("domcontentloaded", lambda _: self._unheard.clear())

    def _begin(self, request: Any) -> None:
        self.requests.append(request)
        self._pending.add(request)

    def _listen(self, socket: Any) -> None:
        """Know of each feed whether its first answer is there."""
        unheard = self._unheard[socket] = set()

        def send(text: str) -> None:
            message = msgspec.json.decode(text)
            if message["type"] == "subscribe":
                unheard.add(message["id"])
            elif message["type"] == "complete":
                unheard.discard(message["id"])

        socket.on("framesent", send)
        socket.on("framereceived", lambda text: unheard.discard(msgspec.json.decode(text).get("id", "")))
        socket.on("close", lambda _: unheard.clear())

    async def settled(self) -> None:
        """Wait until everything that a view asks for is there, the first answers of its feeds too, and drawn."""
        quiet = 0
        while quiet < 3:
            is_busy = await self.page.evaluate(DRAWN)
            quiet = 0 if self._pending or is_busy or any(self._unheard.values()) else quiet + 1

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in self.allowed):
            self.problems.append(f"{message.type}: {message.text}")

    async def open(self, url: str) -> None:
        await self.page.goto(url)
        await self.page.wait_for_selector("main h1, main .empty")

    async def go(self, address: str) -> None:
        """Go to another address of the page, as a link in it does: nothing is loaded anew."""
        await self.page.evaluate(
            """to => {
                history.pushState(null, "", new URL(to, document.baseURI));
                dispatchEvent(new Event("popstate"));
            }""",
            address,
        )
        await self.page.wait_for_selector("main h1, main .empty")
        await self.settled()

    async def sign_in(self, key: str) -> None:
        """Give the first key that is right: the page loads anew, for nothing could be read before."""
        await self.page.get_by_label("API key").fill(key)
        async with self.page.expect_event("load"):
            await self.page.get_by_role("button", name="Sign in").click()

    async def live(self) -> None:
        await self.page.wait_for_selector(".link.is-live")
        await self.settled()

    async def hold(self, *waits: int) -> None:
        """Keep what goes by itself after these milliseconds."""
        await self.page.add_init_script(f"({HOLD})({list(waits)})")

    async def let_go(self) -> None:
        await self.page.evaluate("letGo()")

    async def text(self, selector: str = "main") -> str:
        return str(await self.page.inner_text(selector))

    async def see(self, text: str) -> None:
        """Wait until a text is shown."""
        await self.page.get_by_text(text).first.wait_for()

    async def nodes(self) -> int:
        return int(await self.page.evaluate("document.querySelectorAll('*').length"))


class Browser:
    """Opens pages."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @asynccontextmanager
    async def visit(self, width: int = 1440, theme: str = "light", **options: Any) -> AsyncIterator[Visit]:
        context = await self._browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            timezone_id="Europe/Berlin",
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(60_000)
        visit = Visit(await context.new_page())
        try:
            yield visit
            assert visit.problems == []
        finally:
            await context.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests of a file; each visit has cookies and storage of its own."""
    from playwright.async_api import async_playwright

    assert CHROMIUM is not None, "there is no Chromium on the PATH: apt-get install chromium"
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS])
        try:
            yield Browser(opened)
        finally:
            await opened.close()


@pytest_asyncio.fixture(loop_scope="module")
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """The database that the server of `url` serves, as another process has it open."""
    async with Store(f"sqlite:///{tmp_path / 'flowloop.db'}", synchronous="OFF") as opened:
        await opened.default_tenant(ANYONE)
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def recorded(store: Store) -> Recorded:
    found = Recorded(store)
    await found.register(
        parameters=[{"name": "n", "type": "Parameter", "required": True, "slug": "n", "default": None}]
    )
    return found


@pytest_asyncio.fixture(loop_scope="module")
async def url(tmp_path: Path, store: Store) -> AsyncIterator[str]:
    async with listening(f"sqlite:///{tmp_path / 'flowloop.db'}", OPEN, synchronous="OFF") as at:
        yield at
