"""What clients of GraphQL over HTTP do by the letter of its specification, whoever wrote them."""

from __future__ import annotations

import gzip
from typing import Any

import httpx
import msgspec
import pytest

from flowloop.backends.server import ServerSettings
from flowloop.backends.server.metrics import Metrics
from flowloop.backends.server.schema import build
from flowloop.backends.store import Store

from .served import QUIET, Served, World, serve_store

HELLO = {"data": {"hello": "👋"}}
GRAPHQL = "application/graphql-response+json"
JSON = {"Content-Type": "application/json"}


async def get(served: Served, path: str = "/graphql", accept: str = "*/*", **params: str) -> httpx.Response:
    return await served.client.get(path, params=params, headers={"Accept": accept})


@pytest.mark.parametrize("path", ["/", "/graphql", "/graphql/"])
async def test_a_query_may_come_by_get(served: Served, path: str) -> None:
    for accept in ("*/*", "application/json", "text/html"):
        answer = await get(served, path, accept, query="{ hello }")
        assert (answer.status_code, answer.json()) == (200, HELLO)
    query = "query a($s: String) { tenant(where: {slug: {_eq: $s}}) { slug } } query b { hello }"
    found = await get(served, path, query=query, variables='{"s": "default"}', operationName="a")
    assert found.json() == {"data": {"tenant": [{"slug": "default"}]}}


async def test_a_get_changes_nothing(served: Served, store: Store) -> None:
    answer = await get(served, query='mutation { create_tenant(input: {name: "x", slug: "x"}) { id } }')
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert "data" not in answer.json()
    assert len((await served.data("{ tenant { slug } }"))["tenant"]) == 1


async def test_what_a_get_does_not_ask_is_no_page(served: Served) -> None:
    for path in ("/", "/graphql", "/graphql/"):
        for accept in ("*/*", "application/json", "text/html;q=0, application/json"):
            answer = await get(served, path, accept)
            assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/json; charset=utf-8")
            assert "There is no query" in answer.text
    page = await get(served, accept="text/html,application/xhtml+xml")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for path, place in (("/", "ui/"), ("/graphql/", "../graphql")):
        assert (await get(served, path, "text/html")).headers["Location"] == place


async def test_a_get_needs_its_key_too(store: Store) -> None:
    async with serve_store(store, ServerSettings(**QUIET)) as served:
        answer = await get(served, query="{ hello }")
        assert answer.json()["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (GRAPHQL, GRAPHQL),
        (f"{GRAPHQL}, application/json;q=0.9", GRAPHQL),
        (f"{GRAPHQL};charset=utf-8", GRAPHQL),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        (f"{GRAPHQL};q=0, application/json", "application/json"),
        (f"{GRAPHQL};q=0.5", GRAPHQL),
    ],
)
async def test_the_answer_is_of_the_type_that_is_asked_for(served: Served, accept: str, kind: str) -> None:
    for query, status in (("{ hello }", 200), ("{ nothing }", 400), ("{", 400)):
        answer = await served.client.post("/", json={"query": query}, headers={"Accept": accept})
        assert (answer.headers["Content-Type"], answer.status_code) == (f"{kind}; charset=utf-8", status)


async def test_a_body_may_be_packed_with_gzip(served: Served) -> None:
    body = msgspec.json.encode({"query": "{ hello }"})

    async def sent(content: bytes, packing: str = "gzip") -> tuple[int, Any]:
        answer = await served.client.post("/", content=content, headers={**JSON, "Content-Encoding": packing})
        return answer.status_code, answer.json()

    packed = gzip.compress(body)
    assert await sent(packed) == (200, HELLO)
    assert await sent(body, "identity") == (200, HELLO)
    for content, packing, status, why in (
        (body, "gzip", 400, "not what gzip makes"),
        (packed[:-9], "gzip", 400, "ends before"),
        (packed, "br", 415, "packed with gzip"),
        (gzip.compress(b" " * 50_000_000), "gzip", 413, "larger than"),
    ):
        refused, answer = await sent(content, packing)
        assert refused == status
        assert why in answer["errors"][0]["message"]


@pytest.mark.parametrize(
    ("query", "variables", "places"),
    [
        ("{\n  hello\n  nothing }", None, [{"line": 3, "column": 3}]),
        ("{ hello", None, [{"line": 1, "column": 8}]),
        (
            "mutation ($id: UUID!) { cancel_flow_run(input: {flow_run_id: $id}) { state } }",
            {"id": "x"},
            [{"line": 1, "column": 11}],
        ),
        ("query ($id: uuid!) { flow_by_pk(id: $id) { id } }", {}, [{"line": 1, "column": 8}]),
    ],
)
async def test_a_refusal_says_where(served: Served, query: str, variables: Any, places: Any) -> None:
    answer = await served.client.post("/", json={"query": query, "variables": variables})
    assert answer.status_code == 400
    assert [error["locations"] for error in answer.json()["errors"]] == [places]


async def test_clients_that_would_do_with_less_are_told_to_send_it_all(served: Served) -> None:
    hashed = {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}}
    by_post = await served.client.post("/", json=hashed)
    by_get = await get(served, extensions=msgspec.json.encode(hashed["extensions"]).decode())
    for answer in (by_post, by_get):
        assert answer.status_code == 200
        (error,) = answer.json()["errors"]
        assert error["message"] == "PersistedQueryNotSupported"
        assert error["extensions"] == {"code": "PERSISTED_QUERY_NOT_SUPPORTED"}
    assert (await served.client.post("/", json={"query": "{ hello }", **hashed})).json() == HELLO
    batch = await served.client.post("/", json=[{"query": "{ hello }"}])
    assert (batch.status_code, batch.json()["errors"][0]["message"][:7]) == (400, "Batches")
    for wrong in ("text", 1, True, [1]):
        assert (await served.client.post("/", json={"query": "{ hello }", "extensions": wrong})).status_code == 400


async def test_several_columns_are_counted_together(served: Served, world: World) -> None:
    query = "{ task_run_aggregate { aggregate { %s } } }"
    counts = (
        "a: count(columns: [state, flow_run_id]) b: count(columns: [state, flow_run_id], distinct: true) "
        "c: count(columns: [id, state], distinct: true) d: count(columns: [name, state]) e: count"
    )
    found = (await served.data(query % counts))["task_run_aggregate"]["aggregate"]
    rows = (await served.data("{ task_run { id } }"))["task_run"]
    assert found == {"a": len(rows), "b": 1, "c": len(rows), "d": 0, "e": len(rows)}


@pytest.mark.parametrize("seconds", [-5, 0, 1e18, 1e9])
async def test_a_lease_that_cannot_be_is_refused(served: Served, world: World, seconds: float) -> None:
    for name, given in (
        ("reserve_flow_runs", {"worker_id": "w"}),
        ("claim_flow_run", {"flow_run_id": world.run_id, "owner": "w"}),
        ("create_flow_run", {"flow_id": world.flow_id, "owner": "w"}),
    ):
        query = f"mutation ($input: {name}_input!) {{ {name}(input: $input) {{ __typename }} }}"
        error = await served.error(query, {"input": {**given, "lease_seconds": seconds}})
        assert error["message"] == "lease_seconds must be greater than zero, and less than a thousand million."


def test_counters_keep_their_digits() -> None:
    metrics = Metrics()
    metrics.gauge("many", lambda: 12_345_678_901)
    metrics.gauge("half", lambda: 0.5)
    shown = metrics.render()
    assert "flowloop_many 1.2345678901e+10\n" in shown
    assert "flowloop_half 0.5\n" in shown


def test_the_schema_describes_itself() -> None:
    schema = build()
    kinds = [kind for name, kind in schema.type_map.items() if not name.startswith("__")]
    assert [kind.name for kind in kinds if not kind.description] == []
    roots = (schema.query_type, schema.mutation_type, schema.subscription_type)
    assert [name for root in roots if root for name, field in root.fields.items() if not field.description] == []
    described = schema.type_map["claim_flow_run_input"].fields["takeover"].description  # type: ignore[attr-defined]
    assert described is None or described[0].islower()
