"""What the tests of the server share: the server in this process, over a store with a flow and a run of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from starlette.applications import Starlette

from flowloop.backends.server import Identity, ServerSettings, create_app, serve
from flowloop.backends.store import Store

from ..store.world import ManualClock, World, flow_document

__all__ = ["OPEN", "QUIET", "ManualClock", "Served", "World", "flow_document", "listening", "serve_store"]

QUIET = {"scheduler": False, "zombie_killer": False, "lazarus": False, "retention": False, "notifications": False}
OPEN = ServerSettings(require_api_key=False, **QUIET)


class Served:
    """A server and a client of it."""

    def __init__(self, app: Starlette, store: Store, client: httpx.AsyncClient) -> None:
        self.app = app
        self.store = store
        self.client = client

    async def post(self, query: str, variables: Any = None, **headers: str) -> httpx.Response:
        """Send a request, with the variables as an object."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/", json={"query": query, "variables": variables}, headers=sent)

    async def answer(self, query: str, variables: Any = None, **headers: str) -> dict[str, Any]:
        """Send a request, and return the whole answer."""
        return msgspec.json.decode((await self.post(query, variables, **headers)).content)

    async def data(self, query: str, variables: Any = None, **headers: str) -> Any:
        """Send a request that has to succeed, and return its data."""
        answer = await self.answer(query, variables, **headers)
        assert "errors" not in answer, answer
        return answer["data"]

    async def error(self, query: str, variables: Any = None, **headers: str) -> dict[str, Any]:
        """Send a request of which one field has to fail, and return its error."""
        response = await self.post(query, variables, **headers)
        answer = msgspec.json.decode(response.content)
        assert response.status_code == 200, answer
        assert len(answer["errors"]) == 1, answer
        return answer["errors"][0]


@asynccontextmanager
async def listening(url: str, settings: ServerSettings = OPEN, **store_options: Any) -> AsyncIterator[str]:
    """Serve a database on loopback, as ``flowloop server`` does, while the block lasts; give the URL."""
    where: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    before = signal.getsignal(signal.SIGTERM)

    async def started(at: str) -> None:
        where.set_result(at)

    server = asyncio.create_task(serve(url, port=0, settings=settings, started=started, **store_options))
    done, _ = await asyncio.wait([server, where], return_when=asyncio.FIRST_COMPLETED)
    if server in done:
        await server
    try:
        yield where.result()
    finally:
        if signal.getsignal(signal.SIGTERM) is not before:  # else it is about to end, and does not hear of it any more
            os.kill(os.getpid(), signal.SIGTERM)
        await server


@asynccontextmanager
async def serve_store(
    store: Store,
    settings: ServerSettings = OPEN,
    authenticate: Callable[[str], Awaitable[Identity | None]] | None = None,
    headers: Mapping[str, str] | None = None,
    authenticate_request: Callable[[Mapping[str, str]], Awaitable[Identity | None]] | None = None,
) -> AsyncIterator[Served]:
    """Serve an open store in this process."""
    app = create_app(store, settings=settings, authenticate=authenticate, authenticate_request=authenticate_request)
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    client = httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)
    async with app.router.lifespan_context(app), client:
        yield Served(app, store, client)
