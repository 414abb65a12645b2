"""How the page is served: its addresses, its policy, its files, and who may sign in. No browser is needed."""

from __future__ import annotations

import re
import runpy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from flowloop.backends.server import ServerSettings, create_app
from flowloop.backends.server.ui.assets import Assets
from flowloop.backends.store import ANYONE, Caller, Store

from ..backends.server.served import OPEN, QUIET
from ..backends.store.world import ManualClock
from ..commands import ROOT

STATIC = ROOT / "backends" / "server" / "ui" / "static"
LOCKED = ServerSettings(require_api_key=True, key_cache_seconds=0, **QUIET)
HELLO = {"query": "{ auth_info { key_name scopes } }"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 'flowloop.db'}", synchronous="OFF", clock=ManualClock()) as opened:
        await opened.default_tenant(ANYONE)
        yield opened


@asynccontextmanager
async def served(store: Store, settings: ServerSettings = OPEN, mount: str = "") -> AsyncIterator[httpx.AsyncClient]:
    flows = create_app(store, settings=settings)
    app: Any = flows
    if mount:
        app = FastAPI()
        app.mount(mount, flows)
    transport = httpx.ASGITransport(app)
    async with (
        flows.router.lifespan_context(flows),
        httpx.AsyncClient(transport=transport, base_url="http://test") as c,
    ):
        yield c


@pytest.mark.parametrize("mount", ["", "/team/flows"])
async def test_every_address_is_relative_to_the_page(store: Store, mount: str) -> None:
    async with served(store, mount=mount) as client:
        led = await client.get(f"{mount}/", headers={"Accept": "text/html"})
        assert (led.status_code, led.headers["location"]) == (303, "ui/")
        moved = await client.get(f"{mount}/ui")
        assert (moved.status_code, moved.headers["location"]) == (308, "ui/")
        for path in ("", "runs", "runs/x", "runs/x/tasks/y/3", "flows/x", "nonsense/é"):
            answer = await client.get(f"{mount}/ui/{path}")
            assert answer.status_code == 200
            base = re.search(r'<base href="([^"]*)">', answer.text)
            assert base is not None
            where = httpx.URL(f"http://test{mount}/ui/{path}").join(base[1])
            assert where.path == f"{mount}/ui/"
            for link in re.findall(r'(?:src|href)="([^"]+)"', answer.text)[1:]:
                assert "//" not in link
                assert (await client.get(str(where.join(link)))).status_code == 200, link


async def test_the_policy_allows_nothing_inline_and_no_other_host(store: Store) -> None:
    async with served(store) as client:
        answer = await client.get("/ui/runs")
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|\bstyle=", answer.text)
    embedding = msgspec.structs.replace(OPEN, page_frame_ancestors="https://portal.test")
    async with served(store, embedding) as client:
        assert "frame-ancestors https://portal.test" in (await client.get("/ui/")).headers["content-security-policy"]


async def test_files_are_kept_for_ever_and_the_document_is_not(store: Store) -> None:
    async with served(store) as client:
        page = await client.get("/ui/runs")
        assert page.headers["cache-control"] == "no-cache"
        again = await client.get("/ui/runs", headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        name = f"/ui/-/{Assets.load().digest}/page.js"
        packed = await client.get(name, headers={"Accept-Encoding": "gzip"})
        plain = await client.get(name, headers={"Accept-Encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content == Assets.load().files["page.js"].body
        assert "immutable" in plain.headers["cache-control"]
        for gone in ("/ui/-/000000000000/page.js", f"/ui/-/{Assets.load().digest}/../assets.py", "/ui/-/page.js"):
            assert (await client.get(gone)).status_code == 404


async def test_a_server_can_do_without_the_page(store: Store) -> None:
    async with served(store, msgspec.structs.replace(OPEN, page=False)) as client:
        assert (await client.get("/ui/")).status_code == 404
        assert "GraphiQL" in (await client.get("/", headers={"Accept": "text/html"})).text


# -- files -------------------------------------------------------------------------------------------------


def test_what_others_wrote_is_what_was_fetched() -> None:
    assert runpy.run_path(str(ROOT / "tools" / "vendor.py"))["problems"]() == []


def test_what_is_sent_weighs_what_it_may() -> None:
    """In bytes as they are, and of gzip: what others wrote, all that we wrote, and its styles."""
    files = Assets.load().files
    assert sorted(name for name in files if not name.startswith("vendor/")) == ["icon.svg", "page.css", "page.js"]
    others = [asset for name, asset in files.items() if name.startswith("vendor/")]
    for assets, raw, packed in (
        (others, 80_000, 29_000),
        ([files["page.js"]], 120_000, 42_100),
        ([files["page.css"]], 12_000, 4_300),
    ):
        assert sum(len(asset.body) for asset in assets) <= raw
        assert sum(len(asset.packed) for asset in assets) <= packed
    at_once = [*Assets.load().modules(), "page.css"]
    assert sum(len(files[name].packed) for name in at_once) <= 57_600


def test_what_is_read_at_once_is_all_but_what_draws_graphs() -> None:
    assets = Assets.load()
    modules = {name for name in assets.files if name.endswith(".js")}
    assert set(assets.modules()) == modules - {"vendor/dagre.js"}
    assert 'import("./vendor/dagre.js")' in assets.files["page.js"].body.decode()


def test_every_module_is_reached_from_the_first_one() -> None:
    waiting, reached = [STATIC / "main.js"], set()
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            named = re.findall(r'(?:\bfrom|\bimport\()\s*"(\.[^"]+)"', path.read_text())
            waiting += [(path.parent / name).resolve() for name in named]
    assert reached == set(STATIC.rglob("*.js"))


def test_our_own_code_makes_no_markup_of_text_and_talks_in_one_place() -> None:
    for path in STATIC.rglob("*.js"):
        if path.parent.name == "vendor":
            continue
        source = path.read_text()
        name = path.relative_to(STATIC).as_posix()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source), (
            name
        )
        assert not re.search(r'style="|style=\$\{`', source), f"{name}: a style is an object"
        if name != "api.js":
            assert not re.search(r"\bfetch\(|new WebSocket|EventSource", source), name
        if name != "model/time.js":
            assert not re.search(r"toLocale(Time|Date)|DateTimeFormat", source), name
        assert not re.search(r"https?://(?![^\s]*\)|\|)", re.sub(r"https\?:", "", source)), f"{name} names a host"


# -- signing in --------------------------------------------------------------------------------------------


HERE = {"Origin": "http://test", "Content-Type": "application/json"}


async def sign_in(client: httpx.AsyncClient, key: str, **headers: str) -> httpx.Response:
    return await client.post("/ui/session", json={"key": key, "path": "/"}, headers={**HERE, **headers})


async def test_a_session_allows_what_its_key_allows_and_ends_with_it(store: Store) -> None:
    made = await store.create_api_key(ANYONE, name="ada", scopes=["read"])
    async with served(store, LOCKED) as client:
        answer = await sign_in(client, made["key"])
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"]
        for word in ("flowloop_session=", "HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
            assert word in cookie
        assert "Secure" not in cookie
        info = (await client.post("/graphql", json=HELLO, headers=HERE)).json()
        assert info["data"]["auth_info"] == {"key_name": "ada", "scopes": ["read"]}
        mutation = {"query": 'mutation { set_key_value(input: {key: "k", value: 1}) { id } }'}
        refused = (await client.post("/graphql", json=mutation, headers=HERE)).json()
        assert refused["errors"][0]["extensions"]["code"] == "FORBIDDEN"
        # A page of another site has the cookie sent along, and is not believed.
        for origin in ({"Origin": "http://elsewhere.test"}, {}):
            foreign = await client.post("/graphql", json=HELLO, headers={"Content-Type": "application/json", **origin})
            assert foreign.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        keys = (await client.post("/graphql", json={"query": "{ auth_api_key { name } }"}, headers=HERE)).json()
        assert [key["name"] for key in keys["data"]["auth_api_key"]] == ["ada"]
        await store.delete_api_key(ANYONE, key_id=made["id"])
        gone = (await client.post("/graphql", json=HELLO, headers=HERE)).json()
        assert gone["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_a_session_ends_after_twelve_hours_unless_it_is_prolonged(store: Store) -> None:
    made = await store.create_api_key(ANYONE, name="ada")
    clock: Any = store.clock
    async with served(store, LOCKED) as client:
        await sign_in(client, made["key"])
        clock.move(hours=11)
        assert (await client.post("/ui/session", json={"path": "/"}, headers=HERE)).status_code == 200
        clock.move(hours=11)
        assert "errors" not in (await client.post("/graphql", json=HELLO, headers=HERE)).json()
        clock.move(hours=2)
        assert "errors" in (await client.post("/graphql", json=HELLO, headers=HERE)).json()
        assert (await client.post("/ui/session", json={"path": "/"}, headers=HERE)).status_code == 401


async def test_metrics_are_shown_to_who_may_read_unless_they_are_open(store: Store) -> None:
    reader = {"Authorization": f"Bearer {(await store.create_api_key(ANYONE, name='scraper', scopes=['read']))['key']}"}
    async with served(store, LOCKED) as client:
        refused = await client.get("/metrics")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "flowloop_" not in refused.text
        assert "flowloop_requests" in (await client.get("/metrics", headers=reader)).text
        assert (await client.get("/metrics", headers={"Authorization": "Bearer guess"})).status_code == 401
    async with served(store, msgspec.structs.replace(LOCKED, metrics_open=True)) as client:
        assert "flowloop_requests" in (await client.get("/metrics")).text


async def test_signing_out_forgets_the_session(store: Store) -> None:
    made = await store.create_api_key(ANYONE, name="ada")
    async with served(store, LOCKED) as client:
        await sign_in(client, made["key"])
        session = client.cookies["flowloop_session"]
        assert (await client.request("DELETE", "/ui/session", headers=HERE)).status_code == 200
        assert await store.authenticate(session) is None
        assert await store.authenticate(made["key"]) is not None


async def test_an_api_key_itself_is_no_session(store: Store) -> None:
    made = await store.create_api_key(ANYONE, name="ada")
    async with served(store, LOCKED) as client:
        client.cookies["flowloop_session"] = made["key"]
        await client.request("DELETE", "/ui/session", headers=HERE)
        assert await store.authenticate(made["key"]) is not None


async def test_signing_in_is_refused_to_other_pages_and_to_who_guesses(store: Store) -> None:
    made = await store.create_api_key(ANYONE, name="ada")
    async with served(store, LOCKED) as client:
        for headers, status in (
            ({"Origin": "http://elsewhere.test"}, 403),
            ({"Origin": "null"}, 403),
            ({"Content-Type": "text/plain"}, 415),
        ):
            answer = await client.post(
                "/ui/session", content=msgspec.json.encode({"key": made["key"]}), headers={**HERE, **headers}
            )
            assert answer.status_code == status
        bare = await client.post("/ui/session", json={"key": made["key"]})
        assert bare.status_code == 403
        assert (await client.post("/ui/session", content=b"[", headers=HERE)).status_code == 400
        for _ in range(10):
            assert (await sign_in(client, "guess")).status_code == 401
        assert (await sign_in(client, made["key"])).status_code == 429


async def test_a_proxy_that_changes_the_host_is_named(store: Store) -> None:
    made = await store.create_api_key(ANYONE, name="ada")
    behind = msgspec.structs.replace(LOCKED, allowed_origins="https://flows.test https://other.test")
    async with served(store, behind) as client:
        answer = await sign_in(client, made["key"], Origin="https://flows.test")
        assert answer.status_code == 200
        assert "Secure" in answer.headers["set-cookie"]


async def test_less_than_write_allows_what_it_says(store: Store) -> None:
    cases: dict[tuple[str, ...], list[str]] = {
        ("read",): ["read"],
        ("read", "answer"): ["read", "answer"],
        ("read", "run"): ["read", "answer", "run"],
        ("read", "write"): ["read", "answer", "run", "write"],
        ("admin", "read"): ["read", "answer", "run", "write", "admin"],
    }
    start = "mutation { create_flow_run(input: {}) { id } }"
    answer = (
        'mutation { answer_task_run(input: {task_run_id: "00000000-0000-4000-8000-000000000000", version: 1, '
        "approve: true}) { state } }"
    )
    anybody = "00000000-0000-4000-8000-000000000000"
    asked = [
        (start, "run"),
        (answer, "answer"),
        ('query { secret_value(name: "x") }', "write"),
        ("query { notifications { name } }", "admin"),
        *(
            (f"mutation {{ {name}(input: {{{given}}}) {{ {shown} }} }}", "admin")
            for name, given, shown in (
                ("create_api_key", 'name: "x", scopes: ["read"]', "id"),
                ("delete_api_key", f'key_id: "{anybody}"', "success"),
                ("set_secret", 'name: "x", value: 1', "success"),
                ("delete_notification", 'name: "x"', "success"),
                ("update_task_tag_limit", 'tag: "x", limit: 1', "id"),
                ("delete_flow_run", f'flow_run_id: "{anybody}"', "success"),
            )
        ),
    ]
    async with served(store, LOCKED) as client:
        for scopes, amounts in cases.items():
            made = await store.create_api_key(ANYONE, name="k", scopes=scopes)
            headers = {"Authorization": f"Bearer {made['key']}"}
            info = (await client.post("/", json=HELLO, headers=headers)).json()
            assert info["data"]["auth_info"]["scopes"] == amounts
            for query, scope in asked:
                errors = (await client.post("/", json={"query": query}, headers=headers)).json().get("errors", [])
                codes = [error["extensions"]["code"] for error in errors]
                assert codes == ["FORBIDDEN"] if scope not in amounts else "FORBIDDEN" not in codes, (scopes, query)
    caller = Caller(scopes=frozenset({"read", "run"}))
    assert (await store.create_api_key(caller, name="less", scopes=["read", "answer"]))["id"]
