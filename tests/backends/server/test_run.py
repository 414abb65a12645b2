"""Serving: on loopback and elsewhere, as a program and inside another application."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from flowloop.backends.server import ServerSettings, create_app, serve
from flowloop.backends.server.run import settle
from flowloop.backends.store import ANYONE, Store
from flowloop.engine.errors import FlowloopError

from .served import OPEN, QUIET, World, listening

HELLO = {"query": "query { hello }"}
KEYS = ServerSettings(require_api_key=True, **QUIET)


async def ask(url: str, body: Any = HELLO, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(url, json=body, headers=headers)


async def test_the_start_up_line_says_what_is_served_and_to_whom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flowloop.server")
    db = f"sqlite:///{tmp_path}/flowloop.db"
    async with listening(db) as url:
        assert (await ask(url)).json() == {"data": {"hello": "👋"}}
        assert f"serves {db} at {url} (no API keys: open to this machine)" in caplog.text
    async with listening(db, KEYS) as url:
        assert (await ask(url)).json()["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}
        assert f"at {url} (API keys are required)" in caplog.text


async def test_an_open_server_listens_on_loopback_only(tmp_path: Path) -> None:
    with pytest.raises(FlowloopError, match=r"without API keys the server listens on loopback only, not on 0\.0\.0\.0"):
        await serve(f"sqlite:///{tmp_path}/flowloop.db", host="0.0.0.0", port=0, settings=OPEN)


async def test_elsewhere_than_on_loopback_a_key_is_needed(tmp_path: Path) -> None:
    where: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def started(url: str) -> None:
        where.set_result(url)

    db = f"sqlite:///{tmp_path}/flowloop.db"
    server = asyncio.create_task(serve(db, host="0.0.0.0", port=0, settings=ServerSettings(**QUIET), started=started))
    url = (await where).replace("0.0.0.0", "127.0.0.1")
    assert (await ask(url)).json()["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}
    server.cancel()
    await asyncio.wait([server])


async def test_an_open_server_is_not_reached_under_another_name(tmp_path: Path) -> None:
    """A page elsewhere may have its own name point at this machine."""
    async with listening(f"sqlite:///{tmp_path}/flowloop.db") as url:
        refused = await ask(url, Host="elsewhere.test")
        assert (refused.status_code, refused.json()["errors"][0]["extensions"]) == (403, {"code": "FORBIDDEN"})
        for name in ("localhost", "127.0.0.1:1", "[::1]:4200"):
            assert (await ask(url, Host=name)).status_code == 200


async def test_what_cannot_be_served_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FlowloopError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            await serve(f"sqlite:///{tmp_path}/flowloop.db", port=port)
    for db, message in (
        ("nonsense", "'nonsense' is not a database URL"),
        ("mysql://x/y", "there is no store on 'mysql'"),
        (f"sqlite:///{tmp_path}", "cannot be used as a database"),
    ):
        with pytest.raises(FlowloopError, match=message) as failed:
            await serve(db, port=0)
        assert "\n" not in str(failed.value)


async def test_a_stopping_server_finishes_what_it_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, create_tenant = asyncio.Event(), asyncio.Event(), Store.create_tenant

    async def slowly(*args: Any, **given: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await create_tenant(*args, **given)

    monkeypatch.setattr(Store, "create_tenant", slowly)
    db = f"sqlite:///{tmp_path}/flowloop.db"
    mutation = {"query": 'mutation { create_tenant(input: {name: "last", slug: "last"}) { id } }'}
    async with listening(db) as url:
        answer = asyncio.create_task(ask(url, mutation))
        await begun.wait()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
    created = (await answer).json()["data"]["create_tenant"]["id"]
    async with Store(db) as store:
        assert (await store.default_tenant(ANYONE))["id"] == created


async def test_the_application_is_part_of_another(tmp_path: Path) -> None:
    flowloop = create_app(f"sqlite:///{tmp_path}/flowloop.db", settings=OPEN)
    app = FastAPI(lifespan=flowloop.router.lifespan_context)
    app.mount("/flows", flowloop)

    @app.get("/own")
    async def own() -> str:
        return "mine"

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await client.get("/own")).json() == "mine"
        for path in ("/flows/", "/flows/graphql", "/flows/graphql/"):
            assert (await client.post(path, json=HELLO)).json() == {"data": {"hello": "👋"}}
        assert (await client.get("/flows/health")).json()["status"] == "ok"
        page = (await client.get("/flows/graphql", headers={"Accept": "text/html"})).text
        assert 'src="graphiql/start.js"' in page
        assert (await client.get("/flows/graphiql/start.js")).status_code == 200


async def test_a_store_that_is_open_stays_open(tmp_path: Path) -> None:
    async with Store(f"sqlite:///{tmp_path}/flowloop.db") as store:
        app = create_app(store, settings=OPEN)
        assert isinstance(app, Starlette)
        async with app.router.lifespan_context(app):
            pass
        assert (await store.default_tenant(ANYONE))["id"]


async def test_two_servers_share_a_database(store: Store, world: World, database_url: str) -> None:
    async with (
        listening(database_url, OPEN, clock=world.clock) as first,
        listening(database_url, OPEN, clock=world.clock) as second,
    ):
        names = [f"name-{number}" for number in range(20)]
        given = "{flow_run_id: $id, name: $name}"
        rename = f"mutation ($id: UUID!, $name: String!) {{ set_flow_run_name(input: {given}) {{ success }} }}"
        bodies = [{"query": rename, "variables": {"id": world.run_id, "name": name}} for name in names]
        answers = await asyncio.gather(*(ask(url, body) for body in bodies for url in (first, second)))
        assert all(answer.json() == {"data": {"set_flow_run_name": {"success": True}}} for answer in answers)
        shown = {"query": "query { flow_run { name } }"}
        assert (await ask(first, shown)).json() == (await ask(second, shown)).json()


def test_the_garbage_collector_leaves_alone_what_the_start_has_made() -> None:
    before = gc.get_threshold()
    try:
        settle()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
