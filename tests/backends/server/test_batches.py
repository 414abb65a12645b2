"""Many states in one request: each for itself, once, and however the request is written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flowloop.backends.store import ANYONE, StateUpdate, Store
from flowloop.engine.errors import BackendRejected

from ..store.world import state
from .served import Served, World

MISSING = "00000000-0000-4000-8000-000000000000"
FENCED = {"X_FLOWLOOP_CLIENT_ID": "a client"}

ITEM_BY_ITEM = """mutation ($input: set_task_run_states_input!) {
  set_task_run_states(input: $input) { states { id status message version code } }
}"""
ALL_OR_NONE = """mutation($input: set_task_run_states_input!) {
  set_task_run_states(input: $input) { states { status id message } }
}"""


def item(task_run_id: str, kind: str, version: int | None = None, **fields: Any) -> dict[str, Any]:
    document = msgspec.json.decode(state(kind, **fields))
    return {"task_run_id": task_run_id, "version": version, "state": document}


async def send(served: Served, query: str, items: list[dict[str, Any]], **headers: str) -> list[dict[str, Any]]:
    data = await served.data(query, {"input": {"states": items}}, **headers)
    return list(data["set_task_run_states"]["states"])


async def recorded(served: Served, slug: str) -> list[str]:
    query = "query ($slug: String) { task_run(where: {task: {slug: {_eq: $slug}}}) { states { state } } }"
    return [row["state"] for row in (await served.data(query, {"slug": slug}))["task_run"][0]["states"]]


@pytest.fixture
async def running(world: World, served: Served) -> World:
    await served.store.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Running"))])
    return world


async def test_one_bad_item_fails_alone(served: Served, running: World) -> None:
    a, b = running.task_runs["a"], running.task_runs["b"]
    outcomes = await send(
        served,
        ITEM_BY_ITEM,
        [
            item(a, "Running", 1),
            item(MISSING, "Running", 1),
            item(b, "Running", 7),
            item(a, "Nonsense"),
            item(a, "Success", message="x" * 1_000_001),
            item(b, "Running", 1),
        ],
        **FENCED,
    )
    assert [(outcome["status"], outcome["code"], outcome["version"]) for outcome in outcomes] == [
        ("SUCCESS", None, 2),
        ("ERROR", None, None),
        ("ERROR", "VERSION_LOCKING_ERROR", 1),
        ("ERROR", None, None),
        ("ERROR", None, None),
        ("SUCCESS", None, 2),
    ]
    assert outcomes[1]["message"] == f"State update failed for task run ID {MISSING}"
    assert outcomes[2]["message"].endswith("version 7 is not the current version.")
    assert "no state of type" in outcomes[3]["message"]
    assert outcomes[4]["message"] == "State payload is too large."
    assert await recorded(served, "a") == ["Pending", "Running"]


async def test_a_client_that_cannot_see_items_is_told_by_an_error(served: Served, running: World) -> None:
    a, b = running.task_runs["a"], running.task_runs["b"]
    given = {"input": {"states": [item(a, "Running", 1), item(MISSING, "Running"), item(b, "Running", 1)]}}
    error = await served.error(ALL_OR_NONE, given)
    assert error["message"] == f"State update failed for task run ID {MISSING}"
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    stale = await served.error(
        ALL_OR_NONE, {"input": {"states": [item(a, "Running", 1)]}}, X_FLOWLOOP_CLIENT_ID="other"
    )
    assert stale["extensions"] == {"code": "VERSION_LOCKING_ERROR"}


async def test_an_item_of_the_wrong_type_refuses_the_request(served: Served, running: World) -> None:
    """Before anything is recorded; the client then halves the batch."""
    a, b = running.task_runs["a"], running.task_runs["b"]
    good = item(a, "Running", 1)
    for bad in (
        {"task_run_id": b, "version": "one", "state": {}},
        {"task_run_id": b, "version": 2**40, "state": {}},
        {"task_run_id": b, "version": None, "state": "text"},
        {"task_run_id": b, "version": None},
        {"task_run_id": "nonsense", "version": None, "state": {}},
        {"task_run_id": b, "version": None, "state": {}, "more": 1},
        7,
    ):
        for query in (ITEM_BY_ITEM, ALL_OR_NONE):
            response = await served.post(query, {"input": {"states": [good, bad]}})
            assert response.status_code == 400, (bad, response.text)
    assert await recorded(served, "b") == ["Pending"]


async def test_the_answer_is_the_same_however_the_request_is_written(served: Served, running: World) -> None:
    """The way for hot documents and the general way cannot be told apart."""
    a = running.task_runs["a"]
    document = msgspec.json.decode(state("Pending", "the same", cached_inputs={"x": {"type": "NoResultType"}}))
    text = msgspec.json.encode({"input": {"states": [{"task_run_id": a, "state": document}]}}).decode()
    literal = msgspec.json.encode(msgspec.json.encode(document).decode()).decode()
    selected = "{ states { __typename id status message version code } }"
    whole = "set_task_run_states(input: $input)"
    one = f'set_task_run_states(input: {{states: [{{task_run_id: "{a}", state: %s}}]}}) {selected}'
    answers: list[Any] = []
    for query in (
        f"mutation ($input: set_task_run_states_input!) {{ {whole} {selected} }}",
        f"mutation named($input: set_task_run_states_input!) {{ {whole} {selected} }}",
        f"mutation ($input: set_task_run_states_input!) {{ {whole} @include(if: true) {selected} }}",
        f"mutation ($input: set_task_run_states_input! = {{states: []}}) {{ {whole} {selected} }}",
        f"mutation ($s: JSONObject!) {{ {one % '$s'} }}",
        f"mutation {{ {one % literal} }}",
    ):
        states = (await served.data(query, text if "$input" in query else {"s": document}))["set_task_run_states"][
            "states"
        ]
        answers.append([{**outcome, "version": outcome["version"] - len(answers)} for outcome in states])
        shown = "query ($id: UUID!) { get_task_run_info(task_run_id: $id) { serialized_state } }"
        assert (await served.data(shown, {"id": a}))["get_task_run_info"]["serialized_state"] == document
    assert answers == [answers[0]] * len(answers)
    assert answers[0][0]["__typename"] == "set_state_result"


async def test_an_id_may_be_written_in_capitals(served: Served, running: World) -> None:
    a = running.task_runs["a"]
    outcomes = await send(served, ITEM_BY_ITEM, [item(a.upper(), "Running", 1)])
    assert (outcomes[0]["id"], outcomes[0]["status"]) == (a, "SUCCESS")


async def test_a_batch_sent_again_is_recorded_once(served: Served, running: World) -> None:
    a, b = running.task_runs["a"], running.task_runs["b"]
    query = """mutation ($t: set_task_run_states_input!, $f: set_flow_run_states_input!, $l: write_run_logs_input!,
                         $artifact: create_task_run_artifact_input!) {
      set_task_run_states(input: $t) { states { id status version code message } }
      set_flow_run_states(input: $f) { states { status version } }
      artifact_0: create_task_run_artifact(input: $artifact) { id }
      write_run_logs(input: $l) { success }
    }"""
    variables = {
        "t": {"states": [item(a, "Running"), item(b, "Pending"), item(MISSING, "Pending")]},
        "f": {"states": [{"flow_run_id": running.run_id, "state": msgspec.json.decode(state("Running", "again"))}]},
        "l": {"logs": [{"flow_run_id": running.run_id, "message": "once"}]},
        "artifact": {"task_run_id": a, "kind": "link", "data": {"link": "x"}},
    }
    first = await served.data(query, variables, X_FLOWLOOP_IDEMPOTENCY_KEY="batch-1")
    assert await served.data(query, variables, X_FLOWLOOP_IDEMPOTENCY_KEY="batch-1") == first
    assert await recorded(served, "a") == ["Pending", "Running"]
    assert (await served.data("query { log { message } }"))["log"] == [{"message": "once"}]
    assert len((await served.data("query { task_run_artifact { id } }"))["task_run_artifact"]) == 1
    await served.data(query, variables, X_FLOWLOOP_IDEMPOTENCY_KEY="batch-2")
    assert await recorded(served, "a") == ["Pending", "Running", "Running"]
    assert len((await served.data("query { log { message } }"))["log"]) == 2


async def test_heartbeats_names_and_logs_ride_in_the_same_request(served: Served, running: World) -> None:
    a = running.task_runs["a"]
    data = await served.data(
        """mutation (
          $n: set_task_run_name_input!, $t: set_task_run_states_input!, $h: update_flow_run_heartbeat_input!
        ) {
          name_0: set_task_run_name(input: $n) { success }
          set_task_run_states(input: $t) { states { status message code } }
          heart: update_flow_run_heartbeat(input: $h) { success }
        }""",
        {
            "n": {"task_run_id": a, "name": "first"},
            "t": {"states": [item(a, "Running", 1)]},
            "h": {"flow_run_id": running.run_id},
        },
    )
    assert data == {
        "name_0": {"success": True},
        "set_task_run_states": {"states": [{"status": "SUCCESS", "message": None, "code": None}]},
        "heart": {"success": True},
    }
    assert (await served.data("query { task_run(order_by: {id: asc}) { name } }"))["task_run"][0] == {"name": "first"}


async def test_a_run_that_finds_no_place_is_queued(served: Served, running: World) -> None:
    document = msgspec.json.decode(msgspec.json.encode({"name": "tagged", "tasks": [{"slug": "t", "tags": ["db"]}]}))
    await running.build(document)
    await served.store.set_flow_run_states(ANYONE, [StateUpdate(running.run_id, state("Running"))])
    await served.store.update_task_tag_limit(ANYONE, tag="db", limit=0)
    outcomes = await send(served, ALL_OR_NONE, [item(running.task_runs["t"], "Running", 1)])
    assert outcomes[0]["status"] == "QUEUED"
    assert outcomes[0]["message"]


TASKS_AND_THEIR_FLOW = """mutation ($tasks: set_task_run_states_input!, $flow: set_flow_run_states_input!) {
  set_task_run_states(input: $tasks) { states { status code } }
  set_flow_run_states(input: $flow) { states { status code } }
}"""


def ending(world: World, version: int) -> dict[str, Any]:
    """Return the variables that end a task run, read at a version, and the flow run that rests on it."""
    a = world.task_runs["a"]
    end = {"flow_run_id": world.run_id, "state": msgspec.json.decode(state("Success")), "rests_on": [a]}
    return {"tasks": {"states": [item(a, "Success", version)]}, "flow": {"states": [end]}}


async def newest_state(store: Store, world: World) -> str:
    [document] = await store.get_flow_run_states(ANYONE, flow_run_ids=[world.run_id])
    return str(msgspec.json.decode(document)["type"])


@pytest.mark.parametrize(("version", "code", "then"), [(1, None, "Success"), (7, "UPSTREAM_REFUSED", "Running")])
async def test_the_end_of_a_flow_run_rests_on_a_task_run_of_the_same_request(
    served: Served, running: World, version: int, code: str | None, then: str
) -> None:
    answer = await served.data(TASKS_AND_THEIR_FLOW, ending(running, version), **FENCED)
    assert answer["set_flow_run_states"]["states"][0]["code"] == code
    assert await newest_state(served.store, running) == then


async def test_the_end_of_a_flow_run_does_not_outlive_a_field_that_fails(
    served: Served, running: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise BackendRejected("not now")

    monkeypatch.setattr(Store, "set_task_run_states", refuse)
    error = await served.error(TASKS_AND_THEIR_FLOW, ending(running, 1), **FENCED)
    assert error["path"] == ["set_task_run_states"]
    assert await newest_state(served.store, running) == "Running"
