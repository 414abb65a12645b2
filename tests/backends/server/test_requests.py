"""Requests and their answers: what is accepted, and the form of every refusal."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from flowloop.backends.server import ServerSettings
from flowloop.backends.server.operations import version
from flowloop.backends.store import ANYONE, StateUpdate, Store

from ..store.world import state
from .served import QUIET, Served, World, serve_store

MISSING = "00000000-0000-4000-8000-000000000000"


async def raw(served: Served, body: Any, path: str = "/", **headers: str) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    response = await served.client.post(path, content=content, headers={"Content-Type": "application/json", **headers})
    return response.status_code, msgspec.json.decode(response.content)


HELLO = {"data": {"hello": "👋"}}


async def test_a_request_is_answered_without_the_key_errors(served: Served) -> None:
    forms: list[dict[str, Any]] = [{}, *({"variables": sent} for sent in (None, "null", {}, "{}", ""))]
    for path in ("/", "/graphql", "/graphql/"):
        for form in forms:
            assert await raw(served, {"query": "query { hello }", **form}, path) == (200, HELLO)


async def test_variables_may_be_the_text_of_an_object(served: Served) -> None:
    query = "query ($slug: String) { tenant(where: {slug: {_eq: $slug}}) { name } }"
    for slug, expected in (("default", [{"name": "Default"}]), ("other", [])):
        variables = {"slug": slug}
        for sent in (variables, msgspec.json.encode(variables).decode()):
            assert await raw(served, {"query": query, "variables": sent}) == (200, {"data": {"tenant": expected}})


async def test_one_of_several_operations_is_chosen_by_name(served: Served) -> None:
    query = "query a { hello } query b { b: hello }"
    assert await raw(served, {"query": query, "operationName": "b"}) == (200, {"data": {"b": "👋"}})
    status, answer = await raw(served, {"query": query})
    assert status == 400
    assert answer["errors"][0]["message"] == "The document has several operations: say which by operationName."
    assert (await raw(served, {"query": query, "operationName": "c"}))[0] == 400


async def test_an_answer_says_what_serves_it(served: Served) -> None:
    response = await served.post("query { api { flowloop core_version mode } }")
    assert response.headers["X-Flowloop-Version"] == version()
    assert response.json()["data"]["api"] == {"flowloop": version(), "core_version": "1.4.1", "mode": "normal"}
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_a_mutation_may_write_its_input_as_a_literal(served: Served, world: World) -> None:
    task_id = world.tasks["a"]
    inline = f'flow_run_id: "{world.run_id}", task_id: "{task_id}", map_index: -1'
    data = await served.data(
        f"mutation {{ get_or_create_task_run_info(input: {{ {inline} }}) {{ id version state serialized_state }} }}"
    )
    info = data["get_or_create_task_run_info"]
    assert (info["id"], info["version"], info["state"]) == (world.task_runs["a"], 1, "Pending")
    document = '{\\"x\\": [1, 2]}'
    data = await served.data(
        f'mutation {{ create_flow_run(input: {{ flow_id: "{world.flow_id}", context: "{document}" }}) {{ id }} }}'
    )
    created = data["create_flow_run"]["id"]
    stored = await served.data("query ($id: uuid!) { flow_run_by_pk(id: $id) { context } }", {"id": created})
    assert stored["flow_run_by_pk"]["context"] == {"x": [1, 2]}


async def test_a_parameter_that_no_flow_has_is_refused_but_from_clients_of_prefect_1(
    served: Served, world: World
) -> None:
    mutation = "mutation ($input: create_flow_run_input!) { create_flow_run(input: $input) { id } }"
    given = {"input": {"flow_id": world.flow_id, "parameters": {"x": 1}}}
    assert (await served.error(mutation, given))["message"] == "the flow has no parameter 'x'; it has: none"
    flowloop = {"X_PREFECT_CORE_VERSION": "1.4.1", "X_FLOWLOOP_CLIENT_ID": "one"}
    assert "has no parameter" in (await served.error(mutation, given, **flowloop))["message"]
    await served.data(mutation, given, X_PREFECT_CORE_VERSION="1.4.1")


async def test_a_single_item_stands_for_a_list(served: Served, world: World) -> None:
    line = {"flow_run_id": world.run_id, "name": "x", "message": "alone", "level": "ERROR"}
    await served.data(
        "mutation ($input: write_run_logs_input!) { write_run_logs(input: $input) { success } }",
        {"input": {"logs": line}},
    )
    assert (await served.data("query { log { message level } }"))["log"] == [{"message": "alone", "level": "ERROR"}]
    item = {"task_run_id": world.task_runs["a"], "state": msgspec.json.decode(state("Pending"))}
    data = await served.data(
        "mutation ($input: set_task_run_states_input!) { set_task_run_states(input: $input) { states { status } } }",
        {"input": {"states": item}},
    )
    assert data["set_task_run_states"]["states"] == [{"status": "SUCCESS"}]


async def test_fields_of_one_request_are_executed_in_order_and_fail_alone(served: Served, world: World) -> None:
    answer = await served.answer(
        f"""mutation {{
          first: set_flow_run_name(input: {{flow_run_id: "{world.run_id}", name: "one"}}) {{ success }}
          second: set_flow_run_name(input: {{flow_run_id: "{MISSING}", name: "two"}}) {{ success }}
          third: set_flow_run_name(input: {{flow_run_id: "{world.run_id}", name: "three"}}) {{ success }}
        }}"""
    )
    assert answer["data"] == {"first": {"success": True}, "second": None, "third": {"success": True}}
    assert [error["path"] for error in answer["errors"]] == [["second"]]
    assert (await served.data("query { flow_run { name } }"))["flow_run"] == [{"name": "three"}]


BAD_REQUESTS: list[tuple[Any, str]] = [
    (b"", "BAD_REQUEST"),
    (b"{", "BAD_REQUEST"),
    (b"\xff\xfe", "BAD_REQUEST"),
    (b"[]", "BAD_REQUEST"),
    (b"[" * 100_000, "BAD_REQUEST"),
    (b'[{"query": "query { hello }"}]', "BAD_REQUEST"),
    ({"variables": {}}, "BAD_REQUEST"),
    ({"query": 7}, "BAD_REQUEST"),
    ({"query": ""}, "GRAPHQL_PARSE_FAILED"),
    ({"query": "query { tenant( }"}, "GRAPHQL_PARSE_FAILED"),
    ({"query": "{" * 10_000}, "GRAPHQL_PARSE_FAILED"),
    ({"query": "query { nothing }"}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query { flow { nothing } }"}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query { flow(where: {nothing: {_eq: 1}}) { id } }"}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": 'query { flow(where: {version: {_eq: "one"}}) { id } }'}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query { flow(order_by: {name: sideways}) { id } }"}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query { flow }"}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "fragment f on Query { hello }"}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query { hello }", "variables": "nonsense"}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query { hello }", "variables": [1]}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query { hello }", "variables": "[" * 5_000}, "GRAPHQL_VALIDATION_FAILED"),
    ({"query": "query ($id: uuid!) { flow_by_pk(id: $id) { id } }"}, "GRAPHQL_VALIDATION_FAILED"),
    (
        {
            "query": "mutation ($input: create_tenant_input!) { create_tenant(input: $input) { id } }",
            "variables": {"input": {"name": 7, "slug": "x"}},
        },
        "GRAPHQL_VALIDATION_FAILED",
    ),
    ({"query": "subscription { flow_run_states { id } }"}, "BAD_REQUEST"),
]


async def test_a_request_that_is_none_is_answered_with_400(served: Served) -> None:
    for body, code in BAD_REQUESTS:
        status, answer = await raw(served, body, Accept="application/json")
        assert status == 400, (body, answer)
        assert "data" not in answer
        assert {error["extensions"]["code"] for error in answer["errors"]} == {code}, body
        assert all(error["message"] for error in answer["errors"])


@pytest.mark.parametrize(
    ("accepted", "kind"),
    [
        ("application/graphql-response+json, application/json", "graphql-response+json"),
        ("application/json, application/graphql-response+json;q=0.9", "json"),
        ("application/json;q=0.5, Application/GraphQL-Response+JSON ; q=0.9", "graphql-response+json"),
        ("application/graphql-response+json;q=0.0, */*", "json"),
        ("application/graphql-response+json;q=nonsense", "graphql-response+json"),
    ],
)
async def test_an_answer_is_of_the_type_that_is_wanted_most(served: Served, accepted: str, kind: str) -> None:
    response = await served.client.post("/", json={"query": "{ hello }"}, headers={"Accept": accepted})
    assert response.headers["Content-Type"] == f"application/{kind}; charset=utf-8"


async def test_a_body_of_another_type_is_refused(served: Served) -> None:
    """A page of another site may post forms and texts without asking; it may not post JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        response = await served.client.post(
            "/", content=b'{"query": "query { hello }"}', headers={"Content-Type": kind}
        )
        assert response.status_code == 415
    assert await raw(served, {"query": "query { hello }"}, **{"content-type": "application/json; charset=utf-8"}) == (
        200,
        HELLO,
    )


async def test_the_limits_hold(store: Store) -> None:
    limits = ServerSettings(
        require_api_key=False, body_limit=3_000, depth_limit=4, field_limit=20, token_limit=200, **QUIET
    )
    async with serve_store(store, limits) as served:
        status, answer = await raw(served, {"query": "query { hello }", "variables": {"x": "y" * 3_000}})
        assert (status, answer["errors"][0]["message"]) == (413, "The request is larger than 3000 bytes.")

        deep = "query { flow { flow_runs { task_runs { %s } } } }"
        assert (await raw(served, {"query": deep % "id"}))[0] == 200
        status, answer = await raw(served, {"query": deep % "task { id }"})
        assert (status, answer["errors"][0]["message"]) == (400, "The query nests deeper than the limit of 4.")

        many = "query {" + " ".join(f"a{n}: hello" for n in range(21)) + "}"
        status, answer = await raw(served, {"query": many})
        assert (status, answer["errors"][0]["message"]) == (400, "The query selects more than 20 fields.")
        doubling = "query { flow { ...a } } fragment a on flow { x: tasks { ...b } y: tasks { ...b } } "
        doubling += "fragment b on task {" + " ".join(f"a{n}: id" for n in range(9)) + "}"
        status, answer = await raw(served, {"query": doubling})
        assert (status, answer["errors"][0]["message"]) == (400, "The query selects more than 20 fields.")

        status, answer = await raw(
            served, {"query": "query { flow(where: {version: {_in: [%s]}}) { id } }" % ("1 " * 300)}
        )
        assert (status, answer["errors"][0]["extensions"]["code"]) == (400, "GRAPHQL_PARSE_FAILED")
        cycle = "query { ...a } fragment a on Query { hello ...b } fragment b on Query { ...a }"
        assert (await raw(served, {"query": cycle}))[0] == 400


async def test_a_filter_is_limited(served: Served) -> None:
    query = "query ($where: flow_bool_exp!) { flow(where: $where) { id } }"
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"_not": deep}
    assert "20 levels deep" in (await served.error(query, {"where": deep}))["message"]
    wide = {"_or": [{"version": {"_eq": number}} for number in range(500)]}
    assert "400 conditions" in (await served.error(query, {"where": wide}))["message"]
    many = {"version": {"_in": list(range(30_000))}}
    assert "20000 values" in (await served.error(query, {"where": many}))["message"]
    assert await served.data(query, {"where": {"version": {"_in": list(range(10_000))}}}) is not None


async def test_the_schema_can_be_asked_for_once(served: Served) -> None:
    from graphql import get_introspection_query

    data = await served.data(get_introspection_query())
    assert len(data["__schema"]["types"]) > 100
    for query, name in (
        ("query { a: __schema { queryType { name } } b: __schema { queryType { name } } }", "__schema"),
        ("query { __schema { types { a: fields { name } b: fields { name } } } }", "fields"),
    ):
        status, answer = await raw(served, {"query": query})
        assert (status, answer["errors"][0]["message"]) == (400, f"The query asks for {name} more than once.")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("create_project", {"name": ""}, "A project needs a name."),
    ("create_tenant", {"name": "x", "slug": "Not A Slug"}, "Tenant slug is not valid"),
    ("create_flow_run", {"flow_id": MISSING}, f"Flow {MISSING} not found"),
    ("create_flow_run", {}, "A flow run needs a flow_id or a version_group_id."),
    ("cancel_flow_run", {"flow_run_id": MISSING}, "Invalid flow run ID."),
    ("delete_flow_run", {"flow_run_id": MISSING}, "Invalid flow run ID."),
    ("register_tasks", {"flow_id": MISSING, "serialized_tasks": []}, "Invalid flow ID."),
    ("set_task_run_name", {"task_run_id": MISSING, "name": "x"}, "Invalid task run ID"),
    (
        "create_task_run_artifact",
        {"task_run_id": MISSING, "kind": "x", "data": {}},
        f"Task run {MISSING} not found",
    ),
    ("update_task_tag_limit", {"tag": "x", "limit": -1}, "A limit must not be negative."),
    ("create_flow_from_compressed_string", {"serialized_flow": "?"}, "Unable to decompress serialized flow"),
    ("create_flow", {"serialized_flow": {"name": "f", "tasks": 7}}, "The serialized flow is malformed"),
    ("set_key_value", {"key": "k", "value": "x" * 20_000}, "Value payload"),
    ("create_api_key", {"name": "k", "scopes": ["root"]}, "The scopes of an API key are read, answer, run, write and"),
]


async def test_a_refusal_names_what_is_wrong(served: Served, world: World) -> None:
    before = await snapshot(served)
    for name, given, message in REFUSED:
        if "serialized_flow" in given:
            given = {"project_id": world.project_id, **given}
        error = await served.error(
            f"mutation ($input: {name}_input!) {{ {name}(input: $input) {{ __typename }} }}", {"input": given}
        )
        assert error["message"].startswith(message), name
        assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
        assert error["path"] == [name]
        assert error["locations"][0]["line"] == 1
    assert await snapshot(served) == before


async def snapshot(served: Served) -> Any:
    """Count the rows that a refused request must not have made."""
    tables = ("tenant", "project", "flow", "flow_group", "task", "flow_run", "task_run", "task_run_artifact", "api_key")
    fields = " ".join(f"{table}_aggregate {{ aggregate {{ count max {{ updated }} }} }}" for table in tables)
    return await served.data(f"query {{ {fields} }}")


async def test_an_internal_failure_says_nothing_of_itself(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(Store, "secret_names", broken)
    error = await served.error("query { secret_names }")
    assert error["message"] == "Unable to complete operation. An internal API error occurred."
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    assert "a secret of the inside" in caplog.text


async def test_a_database_that_is_away_is_worth_another_try(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowloop.engine.errors import BackendUnavailable

    async def away(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("the database is away")

    monkeypatch.setattr(Store, "secret_names", away)
    error = await served.error("query { secret_names }")
    assert error["extensions"] == {"code": "API_ERROR"}


async def test_every_mutation_takes_what_the_store_takes() -> None:
    """The schema and the store cannot drift apart."""
    import inspect

    from graphql import get_nullable_type

    from flowloop.backends.server import schema

    types = schema.build()
    assert types.mutation_type is not None
    own = {"switch_tenant", "refresh_token", "set_flow_run_states", "set_task_run_states", "start_flow_runs"}
    for name, field in types.mutation_type.fields.items():
        assert str(field.args["input"].type) == f"{name}_input!"
        if name in own:
            continue
        parameters = inspect.signature(getattr(Store, name)).parameters.values()
        taken = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
        assert set(get_nullable_type(field.args["input"].type).fields) == taken, name


async def test_secrets_are_stored_and_shown(served: Served, world: World, caplog: pytest.LogCaptureFixture) -> None:
    value = {"user": "u", "password": "hunter2"}
    await served.data(
        "mutation ($input: set_secret_input!) { set_secret(input: $input) { success } }",
        {"input": {"name": "LOGIN", "value": value}},
    )
    query = "query ($name: String!) { secret_value(name: $name) }"
    assert await served.data(query, {"name": "LOGIN"}) == {"secret_value": value}
    assert await served.data("query { secret_names }") == {"secret_names": ["LOGIN"]}
    error = await served.error(query, {"name": "OTHER"})
    assert error["message"] == "No value found for the requested key"
    assert "hunter2" not in caplog.text


async def test_the_pages_and_the_checks_are_there(served: Served) -> None:
    page = await served.client.get("/graphql", headers={"Accept": "text/html"})
    assert page.status_code == 200
    import re

    for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if source == "data:,":
            continue
        assert "//" not in source  # nothing comes from another host
        assert (await served.client.get(f"/{source}")).status_code == 200
    assert b"GraphiQL" in (await served.client.get("/graphiql/graphiql.min.js")).content
    assert (await served.client.get("/graphiql/other.js")).status_code == 404
    assert (await served.client.get("/graphiql/..%2fapp.py")).status_code == 404
    assert (await served.client.get("/health")).json() == {"status": "ok", "version": version()}
    assert (await served.client.get("/ready")).json() == {"status": "ok", "problem": None}


async def test_a_database_that_is_away_is_not_ready(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no route to the database")

    monkeypatch.setattr(type(served.store.engine), "connect", refuse)
    response = await served.client.get("/ready")
    assert response.status_code == 503
    assert "does not answer" in response.json()["problem"]
    assert (await served.client.get("/health")).status_code == 200


async def test_what_happens_is_counted(served: Served, world: World) -> None:
    await served.data("query { hello }")
    await served.post("query { nothing }")
    text = (await served.client.get("/metrics")).text
    assert text.endswith("# EOF\n")
    assert 'flowloop_requests_total{errors="false",kind="query",status="200"} 1.0' in text
    assert 'flowloop_requests_total{errors="true",kind="none",status="400"} 1.0' in text
    assert 'flowloop_request_seconds_bucket{le="+Inf"} 2.0' in text
    assert "flowloop_subscriptions 0.0" in text
    assert 'flowloop_flow_runs{state="Scheduled"} ' in text
    assert float(re.search(r"\nflowloop_queue_age_seconds (\S+)", text)[1]) >= 0
    assert "flowloop_loop_lag_seconds " in text


async def test_what_a_client_says_of_itself_reaches_the_store(served: Served, world: World) -> None:
    registered = await served.data(
        'mutation { register_agent(input: {type: "LocalAgent", name: "me", labels: ["b", "a"]}) { id } }',
        X_PREFECT_CORE_VERSION="1.4.1",
    )
    agent_id = registered["register_agent"]["id"]
    await served.data(
        "mutation { get_runs_in_queue(input: {labels: []}) { flow_run_ids } }", X_PREFECT_AGENT_ID=agent_id
    )
    agents = await served.data("query { agent { id name labels core_version last_queried } }")
    assert agents["agent"] == [
        {
            "id": agent_id,
            "name": "me",
            "labels": ["a", "b"],
            "core_version": "1.4.1",
            "last_queried": "2021-07-01T12:00:00.000000+00:00",
        }
    ]


async def test_children_of_a_mapped_task_are_made_at_once(served: Served, world: World) -> None:
    given = {"flow_run_id": world.run_id, "task_id": world.tasks["a"], "map_indices": [2, 0, -1]}
    query = """mutation ($input: get_or_create_task_runs_input!) {
      get_or_create_task_runs(input: $input) { task_runs { id map_index version state } }
    }"""
    first = (await served.data(query, {"input": given}))["get_or_create_task_runs"]["task_runs"]
    assert [(run["map_index"], run["state"]) for run in first] == [(2, "Pending"), (0, "Pending"), (-1, "Pending")]
    assert first[2]["id"] == world.task_runs["a"]
    assert (await served.data(query, {"input": given}))["get_or_create_task_runs"]["task_runs"] == first


async def test_a_finished_run_can_be_restarted(served: Served, world: World) -> None:
    again = "mutation ($id: UUID!) { restart_flow_run(input: {flow_run_id: $id}) { id state task_runs } }"
    error = await served.error(again, {"id": world.run_id})
    assert "only a finished flow run can be restarted" in error["message"]
    await served.store.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Running"))])
    await served.store.set_task_run_states(ANYONE, [StateUpdate(world.task_runs["a"], state("Failed"))])
    await served.store.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Failed"))])
    restarted = (await served.data(again, {"id": world.run_id}))["restart_flow_run"]
    assert restarted == {"id": world.run_id, "state": "Scheduled", "task_runs": 1}


async def test_a_worker_takes_ready_runs_for_itself(served: Served, world: World) -> None:
    take = 'mutation { reserve_flow_runs(input: {worker_id: "%s", limit: 5}) { flow_runs { flow_run_id name state } } }'
    taken = await served.data(take % "one")
    assert [run["flow_run_id"] for run in taken["reserve_flow_runs"]["flow_runs"]] == [world.run_id]
    assert await served.data(take % "two") == {"reserve_flow_runs": {"flow_runs": []}}
    beat = (
        "mutation ($id: UUID!, $epoch: Int) { update_flow_run_heartbeat(input: {flow_run_id: $id, epoch: $epoch}) "
        "{ success } }"
    )
    assert (await served.data(beat, {"id": world.run_id, "epoch": 1}))["update_flow_run_heartbeat"]["success"]
    error = await served.error(beat, {"id": world.run_id, "epoch": 2})
    assert error["extensions"]["code"] == "OWNERSHIP_LOST"
    claim = (
        "mutation ($id: UUID!, $takeover: Boolean) { claim_flow_run(input: "
        '{flow_run_id: $id, owner: "three", takeover: $takeover}) { claimed owner epoch last_heard free_at } }'
    )
    refused = (await served.data(claim, {"id": world.run_id}))["claim_flow_run"]
    assert (refused["claimed"], refused["owner"], refused["epoch"]) == (False, "one", 1)
    assert refused["last_heard"] < refused["free_at"]
    claimed = (await served.data(claim, {"id": world.run_id, "takeover": True}))["claim_flow_run"]
    assert (claimed["claimed"], claimed["owner"], claimed["epoch"]) == (True, "three", 2)
    release = "mutation ($id: UUID!) { release_flow_run(input: {flow_run_id: $id, epoch: 2}) { success } }"
    await served.data(release, {"id": world.run_id})
    assert len((await served.data(take % "two"))["reserve_flow_runs"]["flow_runs"]) == 1


async def test_a_state_with_the_epoch_of_a_former_owner_is_refused(served: Served, world: World) -> None:
    await served.store.claim_flow_run(ANYONE, flow_run_id=world.run_id, owner="one")
    record = (
        "mutation ($input: set_flow_run_states_input!) { set_flow_run_states(input: $input) "
        "{ states { status code serialized_state } } }"
    )
    item = {"flow_run_id": world.run_id, "version": 1, "state": {"type": "Running"}}
    for epoch, code in [(0, "OWNERSHIP_LOST"), (None, "VERSION_LOCKING_ERROR"), (1, None)]:
        answered = await served.data(record, {"input": {"states": [{**item, "epoch": epoch}]}})
        [outcome] = answered["set_flow_run_states"]["states"]
        assert outcome["code"] == code
    literal = (
        'mutation { set_flow_run_states(input: {states: [{flow_run_id: "%s", version: 2, epoch: 7, '
        'state: {type: "Success"}}]}) { states { status code } } }'
    )
    [outcome] = (await served.data(literal % world.run_id))["set_flow_run_states"]["states"]
    assert outcome == {"status": "ERROR", "code": "OWNERSHIP_LOST"}


async def test_what_is_read_is_compressed_for_whoever_takes_it_so(served: Served) -> None:
    body = {"query": "{ __schema { types { name description } } }"}
    plain = await served.client.post("/", json=body, headers={"Accept-Encoding": "identity"})
    packed = await served.client.post("/", json=body, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert packed.json() == plain.json()
    small = await served.client.post("/", json={"query": "{ hello }"}, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers
