"""API keys: who gets in, what a key allows, and whose rows it shows and changes."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from flowloop.backends.server import Identity, ServerSettings
from flowloop.backends.store import ANYONE, Caller, Store

from ..store.world import state
from .served import QUIET, ManualClock, Served, World, flow_document, serve_store

USER = "00000099-0000-4000-8000-000000000001"
CLOSED = ServerSettings(key_cache_seconds=0, **QUIET)


class Tenant:
    """A tenant with a flow, a run of it, and a key."""

    def __init__(self, tenant_id: str, key: str, world: World) -> None:
        self.id = tenant_id
        self.key = key
        self.world = world

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


async def tenant(store: Store, clock: ManualClock, slug: str, **key: Any) -> Tenant:
    tenant_id = (await store.create_tenant(ANYONE, name=slug, slug=slug))["id"]
    key = {"scopes": ["read", "admin"]} | key
    made = await store.create_api_key(ANYONE, name="key", tenant_id=tenant_id, **key)
    world = World(store, clock)
    await world.build(caller=Caller(tenant_id=tenant_id))
    return Tenant(tenant_id, made["key"], world)


@pytest.fixture
async def mine(store: Store, clock: ManualClock) -> Tenant:
    return await tenant(store, clock, "mine")


@pytest.fixture
async def theirs(store: Store, clock: ManualClock) -> Tenant:
    return await tenant(store, clock, "theirs")


@pytest.fixture
async def closed(store: Store) -> AsyncIterator[Served]:
    async with serve_store(store, CLOSED) as served:
        yield served


async def test_nobody_gets_in_without_a_key(closed: Served, mine: Tenant) -> None:
    for headers, message in (
        ({}, "Unauthenticated"),
        ({"Authorization": "Bearer nonsense"}, "Unauthenticated"),
        ({"Authorization": "Bearer "}, "Malformed Authorization header"),
        ({"Authorization": mine.key}, "Malformed Authorization header"),
        ({"Authorization": f"Basic {mine.key}"}, "Malformed Authorization header"),
    ):
        for query in (
            "query { hello }",
            "query { flow { id } }",
            "query { __schema { queryType { name } } }",
            'mutation { create_tenant(input: {name: "x", slug: "x"}) { id } }',
        ):
            error = await closed.error(query, **headers)
            assert error["message"] == message
            assert error["extensions"] == {"code": "UNAUTHENTICATED"}
    assert (await closed.data("query { hello }", **mine.headers)) == {"hello": "👋"}
    assert (await closed.client.get("/health")).status_code == 200


async def test_a_key_is_asked_for_unless_it_is_said_otherwise(store: Store) -> None:
    async with serve_store(store, ServerSettings(**QUIET)) as served:
        assert (await served.error("query { hello }"))["extensions"] == {"code": "UNAUTHENTICATED"}


async def test_a_key_ends(closed: Served, store: Store, clock: ManualClock, mine: Tenant) -> None:
    expires = clock.now() + datetime.timedelta(hours=1)
    short = await tenant(store, clock, "short", expires_at=expires)
    await closed.data("query { hello }", **short.headers)
    clock.move(hours=2)
    await closed.error("query { hello }", **short.headers)
    keys = await closed.data("query { auth_api_key { id name } }", **mine.headers)
    await closed.data(
        "mutation ($id: UUID!) { delete_api_key(input: {key_id: $id}) { success } }",
        {"id": keys["auth_api_key"][0]["id"]},
        **mine.headers,
    )
    await closed.error("query { hello }", **mine.headers)


async def test_a_checked_key_is_trusted_for_a_moment(store: Store, mine: Tenant, statements_of: Any) -> None:
    async with serve_store(store, ServerSettings(key_cache_seconds=60, **QUIET)) as served:
        await served.data("query { hello }", **mine.headers)
        with statements_of(store) as sent:
            await served.data("query { hello }", **mine.headers)
        assert sent == []


async def test_a_key_that_reads_does_not_write(closed: Served, store: Store, clock: ManualClock) -> None:
    reader = await tenant(store, clock, "reader", scopes=["read"])
    assert len((await closed.data("query { flow_run { id } }", **reader.headers))["flow_run"]) == 1
    for query, scope in (
        (f'mutation {{ cancel_flow_run(input: {{flow_run_id: "{reader.world.run_id}"}}) {{ state }} }}', "run"),
        ('mutation { create_api_key(input: {name: "more", scopes: ["write"]}) { key } }', "admin"),
        # a secret is for those who run flows
        ('query { secret_value(name: "x") }', "write"),
    ):
        error = await closed.error(query, **reader.headers)
        assert error["message"] == f"The API key does not have the scope '{scope}'."
        assert error["extensions"] == {"code": "FORBIDDEN"}
    assert (await closed.data("query { flow_run { state } }", **reader.headers))["flow_run"] == [{"state": "Scheduled"}]


async def test_a_key_that_writes_does_not_read(closed: Served, store: Store, clock: ManualClock) -> None:
    writer = await tenant(store, clock, "writer", scopes=["write"])
    assert (await closed.error("query { flow { id } }", **writer.headers))["extensions"] == {"code": "FORBIDDEN"}


async def test_rows_of_others_do_not_exist(closed: Served, mine: Tenant, theirs: Tenant) -> None:
    tables = ("tenant", "project", "flow", "flow_group", "task", "edge", "flow_run", "task_run")
    for table in tables:
        rows = (await closed.data(f"query {{ {table} {{ id }} }}", **mine.headers))[table]
        assert rows, table
        for row in rows:
            by_pk = f'query {{ {table}_by_pk(id: "{row["id"]}") {{ id }} }}'
            assert (await closed.data(by_pk, **mine.headers))[f"{table}_by_pk"] == row
            assert (await closed.data(by_pk, **theirs.headers))[f"{table}_by_pk"] is None
        counted = await closed.data(f"query {{ {table}_aggregate {{ aggregate {{ count }} }} }}", **mine.headers)
        assert counted[f"{table}_aggregate"]["aggregate"]["count"] == len(rows)
    slugs = (await closed.data("query { tenant { slug flows { name } projects { name } } }", **mine.headers))["tenant"]
    assert slugs == [{"slug": "mine", "flows": [{"name": "flow"}], "projects": [{"name": "demo"}]}]


async def test_rows_of_others_are_not_changed(closed: Served, mine: Tenant, theirs: Tenant) -> None:
    world = theirs.world
    task_run = world.task_runs["a"]
    pending = msgspec.json.decode(state("Pending"))
    before = await closed.data("query { flow_run { name state version } task_run { state version } }", **theirs.headers)
    for name, given, message in (
        ("cancel_flow_run", {"flow_run_id": world.run_id}, "Invalid flow run ID."),
        ("set_flow_run_name", {"flow_run_id": world.run_id, "name": "taken"}, "Invalid flow run ID."),
        ("delete_flow", {"flow_id": world.flow_id}, "Invalid flow ID."),
        ("delete_project", {"project_id": world.project_id}, "Invalid project."),
        ("delete_tenant", {"tenant_id": theirs.id, "confirm": True}, "Invalid tenant ID."),
        ("create_project", {"name": "x", "tenant_id": theirs.id}, "Invalid tenant ID."),
        ("create_api_key", {"name": "x", "tenant_id": theirs.id}, "Invalid tenant ID."),
        ("create_flow_run", {"flow_id": world.flow_id}, f"Flow {world.flow_id} not found"),
        ("create_flow", {"project_id": world.project_id, "serialized_flow": flow_document()}, "Invalid project."),
        ("set_flow_run_states", {"states": [{"flow_run_id": world.run_id, "state": pending}]}, "State update failed"),
        ("set_task_run_states", {"states": [{"task_run_id": task_run, "state": pending}]}, "State update failed"),
        (
            "create_task_run_artifact",
            {"task_run_id": task_run, "kind": "x", "data": {}},
            f"Task run {task_run} not found",
        ),
        ("switch_tenant", {"tenant_id": theirs.id}, "Invalid tenant ID."),
    ):
        query = f"mutation ($input: {name}_input!) {{ {name}(input: $input) {{ __typename }} }}"
        if "states" in given:
            query = f"mutation ($input: {name}_input!) {{ {name}(input: $input) {{ states {{ id }} }} }}"
        error = await closed.error(query, {"input": given}, **mine.headers)
        assert error["message"].startswith(message), name
    log = {"logs": [{"flow_run_id": world.run_id, "message": "x"}]}
    query = "mutation ($input: write_run_logs_input!) { write_run_logs(input: $input) { success } }"
    await closed.data(query, {"input": log}, **mine.headers)
    assert (await closed.data("query { log { id } }", **theirs.headers))["log"] == []
    after = await closed.data("query { flow_run { name state version } task_run { state version } }", **theirs.headers)
    assert after == before


async def test_the_owner_of_keys_in_two_tenants_may_name_either(
    closed: Served, store: Store, clock: ManualClock, theirs: Tenant
) -> None:
    first = await tenant(store, clock, "first", user_id=USER)
    second = await tenant(store, clock, "second", user_id=USER)
    assert (await closed.data("query { auth_info { tenant_id user_id } }", **first.headers)) == {
        "auth_info": {"tenant_id": first.id, "user_id": USER}
    }
    seen = await closed.data("query { tenant(order_by: {slug: asc}) { slug } }", **first.headers)
    assert [row["slug"] for row in seen["tenant"]] == ["first", "second"]
    as_second = {**first.headers, "X-PREFECT-TENANT-ID": second.id}
    assert (await closed.data("query { auth_info { tenant_id } }", **as_second)) == {
        "auth_info": {"tenant_id": second.id}
    }
    flow_runs = (await closed.data("query { flow_run { id } }", **as_second))["flow_run"]
    assert flow_runs == [{"id": second.world.run_id}]
    error = await closed.error("query { hello }", **{**first.headers, "X-PREFECT-TENANT-ID": theirs.id})
    assert error["message"] == "The API key does not belong to this tenant."


async def test_nobody_makes_a_key_for_another_user(
    closed: Served, store: Store, clock: ManualClock, theirs: Tenant
) -> None:
    """Else a key would open every tenant that the other user has keys in."""
    mine = await tenant(store, clock, "own", user_id=USER)
    made = 'mutation ($user: UUID) { create_api_key(input: {name: "x", user_id: $user}) { key } }'
    error = await closed.error(made, {"user": "00000099-0000-4000-8000-000000000002"}, **mine.headers)
    assert error["message"] == "An API key can only be made for its own user."
    key = (await closed.data(made, {"user": USER}, **mine.headers))["create_api_key"]["key"]
    assert (await closed.data("query { hello }", Authorization=f"Bearer {key}")) == {"hello": "👋"}


async def test_old_clients_exchange_a_key_for_a_token(closed: Served, mine: Tenant, clock: ManualClock) -> None:
    who = await closed.data(
        "query { auth_info { api_token_scope } user { default_membership { tenant_id } } }", **mine.headers
    )
    assert who == {"auth_info": {"api_token_scope": "USER"}, "user": [{"default_membership": {"tenant_id": mine.id}}]}
    fields = "{ access_token expires_at refresh_token }"
    switch = f"mutation ($input: switch_tenant_input!) {{ switch_tenant(input: $input) {fields} }}"
    token = (await closed.data(switch, {"input": {"tenant_id": mine.id}}, **mine.headers))["switch_tenant"]
    bearer = {"Authorization": f"Bearer {token['access_token']}"}
    assert len((await closed.data("query { flow { id } }", **bearer))["flow"]) == 1
    refresh = f"mutation ($input: refresh_token_input!) {{ refresh_token(input: $input) {fields} }}"
    clock.move(minutes=50)
    given = {"input": {"access_token": token["access_token"]}}
    newer = (await closed.data(refresh, given, Authorization=f"Bearer {token['refresh_token']}"))["refresh_token"]
    clock.move(minutes=50)
    await closed.error("query { hello }", **bearer)
    await closed.data("query { hello }", Authorization=f"Bearer {newer['access_token']}")


async def test_a_token_goes_with_its_key(closed: Served, store: Store, mine: Tenant) -> None:
    fields = "{ access_token }"
    switch = f"mutation ($input: switch_tenant_input!) {{ switch_tenant(input: $input) {fields} }}"
    token = (await closed.data(switch, {"input": {"tenant_id": mine.id}}, **mine.headers))["switch_tenant"]
    refresh = f"mutation ($input: refresh_token_input!) {{ refresh_token(input: $input) {fields} }}"
    bearer = {"Authorization": f"Bearer {token['access_token']}"}
    given = {"input": {"access_token": token["access_token"]}}
    again = (await closed.data(refresh, given, **bearer))["refresh_token"]["access_token"]
    key_id = (await closed.data("query { auth_api_key { id } }", **mine.headers))["auth_api_key"][0]["id"]
    await store.delete_api_key(ANYONE, key_id=key_id)
    for key in (mine.key, token["access_token"], again):
        error = await closed.error("query { hello }", Authorization=f"Bearer {key}")
        assert error["extensions"] == {"code": "UNAUTHENTICATED"}


async def test_what_is_made_of_a_key_ends_with_it(closed: Served, store: Store, clock: ManualClock) -> None:
    ends = clock.now() + datetime.timedelta(minutes=10)
    short = await tenant(store, clock, "short", expires_at=ends)
    switch = "mutation ($id: UUID!) { switch_tenant(input: {tenant_id: $id}) { access_token } }"
    token = (await closed.data(switch, {"id": short.id}, **short.headers))["switch_tenant"]["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    made = 'mutation ($at: DateTime) { create_api_key(input: {name: "x", expires_at: $at}) { key } }'
    later = (ends + datetime.timedelta(minutes=1)).isoformat()
    for headers in (short.headers, bearer):
        error = await closed.error(made, {"at": later}, **headers)
        assert error["message"] == "An API key cannot live longer than the key that creates it."
    heir = (await closed.data(made, **bearer))["create_api_key"]["key"]
    clock.move(minutes=9)
    for key in (token, heir):
        await closed.data("query { hello }", Authorization=f"Bearer {key}")
    clock.move(minutes=2)
    for key in (token, heir):
        await closed.error("query { hello }", Authorization=f"Bearer {key}")


async def test_the_last_use_of_a_key_is_known_to_a_minute(closed: Served, mine: Tenant, clock: ManualClock) -> None:
    async def used() -> datetime.datetime:
        rows = await closed.data("query { auth_api_key { last_used_at } }", **mine.headers)
        return datetime.datetime.fromisoformat(rows["auth_api_key"][0]["last_used_at"])

    first = await used()
    assert first == clock.now()
    clock.move(seconds=30)
    assert await used() == first
    clock.move(seconds=31)
    assert await used() == clock.now()


async def test_a_proxy_may_say_who_asks(store: Store, mine: Tenant) -> None:
    async def by_proxy(headers: Mapping[str, str]) -> Identity | None:
        if headers.get("x-forwarded-user") != "ann":
            return None
        scopes = frozenset(headers.get("x-forwarded-groups", "").split())
        return Identity(Caller(tenant_id=mine.id, scopes=scopes, user_id="ann"), member_of=(mine.id,))

    async with serve_store(store, CLOSED, authenticate_request=by_proxy) as served:
        ann = {"X_Forwarded_User": "ann", "X_Forwarded_Groups": "read"}
        assert len((await served.data("query { flow { id } }", **ann))["flow"]) == 1
        error = await served.error('mutation { create_project(input: {name: "x"}) { id } }', **ann)
        assert error["extensions"] == {"code": "FORBIDDEN"}
        await served.error("query { flow { id } }", X_Forwarded_User="bob")
        assert len((await served.data("query { flow { id } }", **mine.headers))["flow"]) == 1


async def test_a_key_from_elsewhere_is_its_own_token(store: Store, mine: Tenant) -> None:
    known = {"elsewhere": Identity(Caller(tenant_id=mine.id), member_of=(mine.id,))}

    async def authenticate(key: str) -> Identity | None:
        return known.get(key)

    switch = "mutation ($id: UUID!) { switch_tenant(input: {tenant_id: $id}) { access_token } }"
    async with serve_store(store, CLOSED, authenticate) as served:
        token = await served.data(switch, {"id": mine.id}, Authorization="Bearer elsewhere")
        assert token["switch_tenant"]["access_token"] == "elsewhere"
        known.clear()
        await served.error("query { hello }", Authorization="Bearer elsewhere")


async def test_an_application_may_know_keys_of_its_own(store: Store, mine: Tenant) -> None:
    async def authenticate(key: str) -> Identity | None:
        known = Identity(Caller(tenant_id=mine.id, scopes=frozenset({"read"})), member_of=(mine.id,))
        return known if key == "from elsewhere" else None

    async with serve_store(store, CLOSED, authenticate) as served:
        assert len((await served.data("query { flow { id } }", Authorization="Bearer from elsewhere"))["flow"]) == 1
        await served.error("query { flow { id } }", Authorization="Bearer from nowhere")
        assert len((await served.data("query { flow { id } }", **mine.headers))["flow"]) == 1


async def test_without_keys_a_header_chooses_the_tenant(served: Served, mine: Tenant, theirs: Tenant) -> None:
    everything = (await served.data("query { flow_run { id } }"))["flow_run"]
    assert {row["id"] for row in everything} == {mine.world.run_id, theirs.world.run_id}
    one = (await served.data("query { flow_run { id } }", X_PREFECT_TENANT_ID=theirs.id))["flow_run"]
    assert one == [{"id": theirs.world.run_id}]
