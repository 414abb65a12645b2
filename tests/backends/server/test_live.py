"""Subscriptions: every change, in order, once; over a WebSocket and as an event stream."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from flowloop.backends.server import ServerSettings, create_app
from flowloop.backends.server.auth import Identity
from flowloop.backends.server.execution import Execution, GraphQLRequest
from flowloop.backends.server.live import Live
from flowloop.backends.server.metrics import Metrics
from flowloop.backends.server.operation_cache import Documents
from flowloop.backends.server.request import Budget, Call
from flowloop.backends.server.schema import build
from flowloop.backends.store import ANYONE, Caller, StateUpdate, Store

from ..store.world import state
from .served import QUIET, ManualClock, World, listening

QUICK = ServerSettings(require_api_key=False, poll_seconds=0.02, **QUIET)
PROTOCOL = Subprotocol("graphql-transport-ws")

FLOW_RUN = "subscription ($id: UUID) { flow_run_states(flow_run_id: $id) { id state version } }"
BOTH = "subscription ($id: UUID!) { run_states(flow_run_id: $id) { kind id state version serialized_state } }"


class Socket:
    """A client of a WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **message: Any) -> None:
        await self.connection.send(msgspec.json.encode(message).decode())

    async def receive(self) -> dict[str, Any]:
        return msgspec.json.decode(await self.connection.recv())

    async def rest(self) -> list[dict[str, Any]]:
        """Return all messages until the connection is closed."""
        return [msgspec.json.decode(message) async for message in _messages(self.connection)]

    async def subscribe(self, query: str, name: str = "1", **variables: Any) -> None:
        await self.send(type="subscribe", id=name, payload={"query": query, "variables": variables})

    async def next(self, field: str) -> dict[str, Any]:
        message = await self.receive()
        assert message["type"] == "next", message
        return message["payload"]["data"][field]


async def _messages(connection: ClientConnection) -> AsyncIterator[str | bytes]:
    while True:
        try:
            yield await connection.recv()
        except ConnectionClosed:
            return


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Socket]:
    given = {"subprotocols": [PROTOCOL], "open_timeout": 60, **options}
    async with connect(url.replace("http", "ws"), **given) as connection:
        yield Socket(connection)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Socket]:
    async with connected(url, **options) as socket:
        await socket.send(type="connection_init")
        assert await socket.receive() == {"type": "connection_ack"}
        yield socket


@pytest.fixture
async def url(database_url: str, world: World) -> AsyncIterator[str]:
    """A server of the same database as `store`, which is another process to it."""
    async with listening(database_url, QUICK, synchronous="OFF", clock=world.clock) as at:
        yield at


async def post(url: str, query: str, **variables: Any) -> Any:
    async with httpx.AsyncClient(timeout=60) as client:
        answer = (await client.post(url, json={"query": query, "variables": variables})).json()
    assert "errors" not in answer, answer
    return answer["data"]


async def set_here(url: str, run_id: str, kind: str, of: str = "flow_run") -> None:
    """Have the server itself record a state."""
    item = {f"{of}_id": run_id, "state": {"type": kind}}
    query = f"mutation ($input: set_{of}_states_input!) {{ set_{of}_states(input: $input) {{ states {{ status }} }} }}"
    await post(url, query, input={"states": [item]})


async def set_elsewhere(store: Store, run_id: str, kind: str, of: str = "flow_run") -> None:
    """Have another process record a state."""
    record = store.set_flow_run_states if of == "flow_run" else store.set_task_run_states
    assert (await record(ANYONE, [StateUpdate(run_id, state(kind))]))[0].status == "SUCCESS"


async def test_a_run_is_followed_from_the_state_it_has(url: str, world: World, store: Store) -> None:
    async with opened(url) as socket:
        await socket.subscribe(FLOW_RUN, id=world.run_id)
        assert await socket.next("flow_run_states") == {"id": world.run_id, "state": "Scheduled", "version": 1}
        await set_here(url, world.run_id, "Submitted")
        assert await socket.next("flow_run_states") == {"id": world.run_id, "state": "Submitted", "version": 2}
        await set_elsewhere(store, world.run_id, "Running")
        assert await socket.next("flow_run_states") == {"id": world.run_id, "state": "Running", "version": 3}
        await post(
            url, "mutation ($id: UUID!) { cancel_flow_run(input: {flow_run_id: $id}) { state } }", id=world.run_id
        )
        assert await socket.next("flow_run_states") == {"id": world.run_id, "state": "Cancelling", "version": 4}


async def test_a_run_that_has_other_limits_is_told_again_whoever_set_them(url: str, world: World, store: Store) -> None:
    async with opened(url) as socket:
        await socket.subscribe(FLOW_RUN, id=world.run_id)
        newest = await socket.next("flow_run_states")
        value = {"concurrency": 2}
        await store.direct_flow_run(ANYONE, flow_run_id=world.run_id, kind="set_limits", value=value)
        assert await socket.next("flow_run_states") == newest
        await set_here(url, world.run_id, "Running")
        while (change := await socket.next("flow_run_states")) == newest:
            pass
        assert (change["state"], change["version"]) == ("Running", 2)


async def test_every_change_comes_once_and_in_order_whoever_made_it(url: str, world: World, store: Store) -> None:
    rng = random.Random(7)
    runs = {"flow_run": world.run_id, "a": world.task_runs["a"], "b": world.task_runs["b"]}
    await set_elsewhere(store, world.run_id, "Running")
    async with opened(url) as socket:
        await socket.subscribe(BOTH, id=world.run_id)
        first = await socket.next("run_states")
        assert (first["kind"], first["version"]) == ("flow_run", 2)
        expected = {world.run_id: 2, runs["a"]: 1, runs["b"]: 1}
        for _ in range(60):
            name = rng.choice(sorted(runs))
            of = "flow_run" if name == "flow_run" else "task_run"
            if rng.random() < 0.5:
                await set_here(url, runs[name], "Running", of)
            else:
                await set_elsewhere(store, runs[name], "Running", of)
        seen = dict(expected)
        for _ in range(60):
            change = await socket.next("run_states")
            assert change["version"] == seen[change["id"]] + 1
            assert change["serialized_state"]["type"] == "Running"
            seen[change["id"]] += 1
        rows = await post(url, "query { flow_run { id version } task_run { id version } }")
        assert seen == {row["id"]: row["version"] for row in (*rows["flow_run"], *rows["task_run"])}


async def test_all_flow_runs_are_followed_from_now_on(url: str, world: World, store: Store) -> None:
    async with opened(url) as socket:
        await socket.subscribe(FLOW_RUN)
        await until_subscribed(url, 1)
        await set_here(url, world.run_id, "Running")
        change = await socket.next("flow_run_states")
        assert (change["id"], change["state"]) == (world.run_id, "Running")
        created = await world.new_run()
        change = await socket.next("flow_run_states")
        assert (change["id"], change["state"], change["version"]) == (created, "Scheduled", 1)


async def until_subscribed(url: str, number: int) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        while True:
            if f"flowloop_subscriptions {number}.0\n" in (await client.get(f"{url}/metrics")).text:
                return


async def test_a_subscription_ends_when_its_client_has_enough(url: str, world: World) -> None:
    async with opened(url) as socket:
        await socket.subscribe(FLOW_RUN, "one", id=world.run_id)
        await socket.subscribe(FLOW_RUN, "two", id=world.run_id)
        assert {(await socket.receive())["id"] for _ in range(2)} == {"one", "two"}
        await socket.send(type="complete", id="one")
        await until_subscribed(url, 1)
        await set_here(url, world.run_id, "Running")
        assert (await socket.receive())["id"] == "two"
        # An id that is free again can be used again.
        await socket.subscribe(FLOW_RUN, "one", id=world.run_id)
        assert (await socket.receive())["id"] == "one"
    await until_subscribed(url, 0)


async def test_queries_and_mutations_travel_the_same_way(url: str, world: World) -> None:
    async with opened(url) as socket:
        await socket.subscribe("query { hello }")
        assert await socket.receive() == {"id": "1", "type": "next", "payload": {"data": {"hello": "👋"}}}
        assert await socket.receive() == {"id": "1", "type": "complete"}
        await socket.subscribe("query { nothing }")
        message = await socket.receive()
        assert (message["id"], message["type"]) == ("1", "error")
        assert message["payload"][0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
        await socket.send(type="ping")
        assert await socket.receive() == {"type": "pong"}


async def test_an_unknown_run_cannot_be_followed(url: str) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    async with opened(url) as socket:
        await socket.subscribe(FLOW_RUN, id=missing)
        message = await socket.receive()
        assert message["payload"]["errors"][0]["message"] == f"Flow run {missing} not found"
        assert await socket.receive() == {"id": "1", "type": "complete"}


INIT = {"type": "connection_init"}
SUBSCRIBE = {"type": "subscribe", "id": "1", "payload": {"query": "subscription { flow_run_states { id } }"}}


async def test_who_breaks_the_protocol_is_told_how(url: str) -> None:
    for messages, code in (
        ([SUBSCRIBE], 4401),
        ([{"type": "ping"}], 4401),
        ([INIT, INIT], 4429),
        ([INIT, SUBSCRIBE, SUBSCRIBE], 4409),
        ([INIT, {"type": "nonsense"}], 4400),
        ([INIT, {"type": "subscribe"}], 4400),
        ([INIT, {"type": "subscribe", "id": "1", "payload": {}}], 4400),
        ([INIT, ["a list"]], 4400),
        ([INIT, "no json"], 4400),
        ([INIT, b"bytes"], 4400),
        ([{"type": "connection_init", "payload": 7}], 4400),
    ):
        async with connected(url) as socket:
            for message in messages:
                raw = isinstance(message, str | bytes)
                await socket.connection.send(message if raw else msgspec.json.encode(message).decode())
            await socket.rest()
            assert socket.connection.close_code == code, messages


async def test_one_operation_too_many_is_refused_and_the_others_go_on(url: str) -> None:
    async with connected(url) as socket:
        await socket.send(type="connection_init")
        assert await socket.receive() == {"type": "connection_ack"}
        query = {"query": "subscription { flow_run_states { id } }"}
        for number in range(101):
            await socket.send(type="subscribe", id=str(number), payload=query)
        answer = await socket.receive()
        assert (answer["type"], answer["id"]) == ("error", "100")
        assert "100 operations" in answer["payload"][0]["message"]
        await socket.send(type="complete", id="7")
        await socket.send(type="subscribe", id="again", payload={"query": "query { hello }"})
        assert (await socket.receive())["id"] == "again"


async def test_a_connection_needs_the_protocol_and_no_foreign_page(url: str) -> None:
    for options in (
        {"subprotocols": [Subprotocol("graphql-ws")]},
        {"subprotocols": None},
        {"subprotocols": [PROTOCOL], "origin": Origin("http://elsewhere.test")},
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url.replace("http", "ws"), open_timeout=60, **options):
                pass
        assert refused.value.response.status_code == 403
    async with connected(url, origin=Origin(url)) as socket:
        await socket.send(type="connection_init")
        assert await socket.receive() == {"type": "connection_ack"}


async def test_a_subscription_is_also_an_event_stream(url: str, world: World) -> None:
    body = {"query": FLOW_RUN, "variables": {"id": world.run_id}}
    async with httpx.AsyncClient(timeout=60) as client:
        request = client.stream("POST", url, json=body, headers={"Accept": "text/event-stream"})
        async with request as response, aclosing(response.aiter_lines()) as lines:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            assert await anext(lines) == "event: next"
            first = msgspec.json.decode((await anext(lines)).removeprefix("data: "))
            assert first == {"data": {"flow_run_states": {"id": world.run_id, "state": "Scheduled", "version": 1}}}
    await until_subscribed(url, 0)


async def test_events_of_a_run_can_be_had_with_a_get(url: str, world: World) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        request = client.stream("GET", f"{url}/events", params={"flow_run_id": world.run_id})
        async with request as response, aclosing(response.aiter_lines()) as lines:
            seen = []
            async for line in lines:
                if line.startswith("data: "):
                    change = msgspec.json.decode(line.removeprefix("data: "))["data"]["run_states"]
                    seen.append((change["kind"], change["state"], change["version"]))
                    if len(seen) == 1:
                        await set_here(url, world.run_id, "Running")
                        await set_here(url, world.task_runs["a"], "Running", "task_run")
                    if len(seen) == 3:
                        break
            assert seen == [("flow_run", "Scheduled", 1), ("flow_run", "Running", 2), ("task_run", "Running", 2)]
        assert (await client.get(f"{url}/events", params={"flow_run_id": "nonsense"})).status_code == 400


async def test_a_stopping_server_ends_its_subscriptions(database_url: str, world: World) -> None:
    async with listening(database_url, QUICK, synchronous="OFF") as url:
        connection = await connect(url.replace("http", "ws"), subprotocols=[PROTOCOL], open_timeout=60)
        socket = Socket(connection)
        await socket.send(type="connection_init")
        await socket.receive()
        await socket.subscribe(FLOW_RUN, id=world.run_id)
        await socket.next("flow_run_states")
    # a client that reads an error, or a complete, does not come back
    assert await socket.rest() == []
    assert connection.close_code == 1012  # service restart


async def test_a_stopping_server_cuts_its_streams(database_url: str, world: World) -> None:
    lines: list[str] = []
    async with httpx.AsyncClient(timeout=60) as client, AsyncExitStack() as stack:
        url = await stack.enter_async_context(listening(database_url, QUICK, synchronous="OFF"))
        params = {"flow_run_id": world.run_id}
        async with client.stream("GET", f"{url}/events", params=params) as stream:
            async for line in stream.aiter_lines():
                lines.append(line)
                if line.startswith("data: "):
                    os.kill(os.getpid(), signal.SIGTERM)
    assert [line for line in lines if line.startswith("event: ")] == ["event: next"]


async def test_a_revoked_key_ends_what_is_open(database_url: str, world: World, store: Store) -> None:
    made = await store.create_api_key(ANYONE, name="stolen")
    secret = {"Authorization": f"Bearer {made['key']}"}
    settings = ServerSettings(require_api_key=True, poll_seconds=0.02, key_cache_seconds=0, **QUIET)
    async with (
        listening(database_url, settings, synchronous="OFF", clock=world.clock) as url,
        opened(url, additional_headers=secret) as socket,
        httpx.AsyncClient(timeout=60) as client,
        client.stream("GET", f"{url}/events?flow_run_id={world.run_id}", headers=secret) as stream,
    ):
        await socket.subscribe(FLOW_RUN, id=world.run_id)
        await socket.next("flow_run_states")
        lines = stream.aiter_lines()
        while not (await anext(lines)).startswith("data: "):
            pass
        await store.delete_api_key(ANYONE, key_id=made["id"])
        await set_elsewhere(store, world.run_id, "Running")
        rest = [line async for line in lines if line.startswith("data: ")]
        assert "UNAUTHENTICATED" in rest[0]
        assert "Running" not in "".join(rest)
        await socket.rest()
        assert socket.connection.close_code == 4403


async def test_a_first_message_sets_no_header_of_a_proxy(database_url: str, world: World, store: Store) -> None:
    async def by_proxy(headers: Mapping[str, str]) -> Identity | None:
        return Identity(ANYONE) if headers.get("x-forwarded-user") == "admin" else None

    app = create_app(store, settings=ServerSettings(**QUIET), authenticate_request=by_proxy)
    sent: list[Any] = []
    said = [{"type": "websocket.connect"}]
    for payload in ({"X-Forwarded-User": "admin"},):
        init = msgspec.json.encode({"type": "connection_init", "payload": payload}).decode()
        said.append({"type": "websocket.receive", "text": init})

    async def receive() -> Any:
        return said.pop(0) if said else {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [], "subprotocols": [PROTOCOL], "query_string": b""}
    await app({**scope, "asgi": {"version": "3.0"}}, receive, send)
    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", 4403)


class Followed:
    """Subscriptions of a store without a server around."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.settings = ServerSettings(poll_seconds=3_600, **settings)
        types = build()
        assert types.subscription_type is not None
        self.execution = Execution(types, Documents(types, self.settings), {})
        self.live = Live(store, types.subscription_type.fields, self.settings, Metrics())
        self.store = store

    def subscribe(self, query: str, caller: Caller = ANYONE, **variables: Any) -> Any:
        request = GraphQLRequest(query, msgspec.Raw(msgspec.json.encode(variables)))
        call = Call(store=self.store, identity=Identity(caller), budget=Budget(self.settings))
        return self.live.subscribe(*self.execution.prepare(request), call)


async def test_who_cannot_keep_up_is_told_of_the_newest_state_of_each_run(store: Store, world: World) -> None:
    followed = Followed(store, queue_size=3)
    async with aclosing(followed.subscribe(BOTH, id=world.run_id)) as slow:
        assert (await anext(slow))["data"]["run_states"]["version"] == 1
        for _ in range(10):
            await set_elsewhere(store, world.run_id, "Running")
            await set_elsewhere(store, world.task_runs["a"], "Running", "task_run")
        newest = {world.run_id: 11, world.task_runs["a"]: 11}
        told: dict[str, list[int]] = {run: [] for run in newest}
        while {run: versions[-1:] for run, versions in told.items()} != {
            run: [version] for run, version in newest.items()
        }:
            change = (await anext(slow))["data"]["run_states"]
            told[change["id"]].append(change["version"])
        for versions in told.values():
            assert versions == sorted(set(versions))
            assert len(versions) < 10
        await set_elsewhere(store, world.run_id, "Running")
        assert (await anext(slow))["data"]["run_states"]["version"] == 12


async def test_nothing_is_asked_while_nobody_watches(store: Store, world: World) -> None:
    followed = Followed(store)
    async with aclosing(followed.subscribe(FLOW_RUN, id=world.run_id)) as stream:
        await anext(stream)
        assert len(store._watchers) == 1
    assert store._watchers == []


async def test_the_number_of_subscriptions_is_limited(store: Store, world: World) -> None:
    followed = Followed(store, subscriber_limit=1)
    async with aclosing(followed.subscribe(FLOW_RUN, id=world.run_id)) as first:
        await anext(first)
        async with aclosing(followed.subscribe(FLOW_RUN, id=world.run_id)) as second:
            refused = await anext(second)
            assert refused["errors"][0]["message"] == "There are too many subscriptions: try again later."


async def test_changes_of_others_are_not_told(
    store: Store, world: World, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, watch = asyncio.Event(), store.watch
    monkeypatch.setattr(store, "watch", lambda watcher: (watched.set(), watch(watcher))[1])
    tenant = (await store.create_tenant(ANYONE, name="theirs", slug="theirs"))["id"]
    theirs = await World(store, clock).build(caller=Caller(tenant_id=tenant))
    mine = (await store.default_tenant(ANYONE))["id"]
    followed = Followed(store)
    async with aclosing(followed.subscribe(FLOW_RUN, Caller(tenant_id=mine), id=theirs.run_id)) as stream:
        assert (await anext(stream))["errors"][0]["message"] == f"Flow run {theirs.run_id} not found"
    async with aclosing(followed.subscribe(FLOW_RUN, Caller(tenant_id=mine))) as stream:
        watched.clear()
        waiting = asyncio.ensure_future(anext(stream))
        await watched.wait()
        await set_elsewhere(store, theirs.run_id, "Running")
        await set_elsewhere(store, world.run_id, "Running")
        assert (await waiting)["data"]["flow_run_states"]["id"] == world.run_id
    for caller, code in ((Caller(scopes=frozenset({"write"})), "FORBIDDEN"),):
        async with aclosing(followed.subscribe(FLOW_RUN, caller)) as stream:
            assert (await anext(stream))["errors"][0]["extensions"] == {"code": code}
