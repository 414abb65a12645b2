"""Reads of tables: filters, orders, relations, pages, aggregates, on each database."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest

from flowloop.backends.server import ServerSettings
from flowloop.backends.store import ANYONE, StateUpdate

from ..store.world import state
from .served import QUIET, ManualClock, Served, World, flow_document, serve_store

NAMES = [None, "a", "b", "B", "ab", "a_b", "x%y"]
INFOS: list[Any] = [None, {}, {"k": 1, "n": {"m": [1, 2]}}, ["red", "blue"], "text", 7, {"k": None, "n": "x"}]


@pytest.fixture
async def logs(world: World, served: Served) -> list[str]:
    """Seven log lines, a second apart; returns the names of them in the order of their making."""
    rows = [
        {
            "tenant_id": (await served.data("{ tenant { id } }"))["tenant"][0]["id"],
            "flow_run_id": world.run_id,
            "timestamp": world.clock.now() + datetime.timedelta(seconds=number),
            "name": NAMES[number],
            "level": "INFO" if number % 2 else "ERROR",
            "message": str(number),
            "info": INFOS[number],
        }
        for number in range(len(NAMES))
    ]
    await served.store.write(ANYONE, lambda tx: tx.insert_many("log", rows))
    return [str(number) for number in range(len(NAMES))]


async def found(served: Served, arguments: str) -> list[str]:
    data = await served.data(f"query {{ log({arguments}) {{ message }} }}")
    return [row["message"] for row in data["log"]]


FILTERS = [
    # null is no condition, and neither is an empty object
    ("null", "0123456"),
    ("{}", "0123456"),
    ("{name: null}", "0123456"),
    ("{name: {}}", "0123456"),
    ("{name: {_eq: null}}", "0123456"),
    ("{_and: null, _or: null, _not: null}", "0123456"),
    # comparisons never match a row without a value
    ('{name: {_eq: "a"}}', "1"),
    ('{name: {_neq: "a"}}', "23456"),
    ('{message: {_gt: "4"}}', "56"),
    ('{message: {_gte: "4"}}', "456"),
    ('{message: {_lt: "2"}}', "01"),
    ('{message: {_lte: "2"}}', "012"),
    ("{name: {_is_null: true}}", "0"),
    ("{name: {_is_null: false}}", "123456"),
    ('{name: {_in: ["a", "b", null]}}', "12"),
    ("{name: {_in: []}}", ""),
    ("{name: {_nin: []}}", "0123456"),
    ('{name: {_nin: ["a"]}}', "23456"),
    ('{message: {_gt: "1", _lt: "4"}}', "23"),
    ('{name: {_ilike: "B"}}', "23"),
    ('{name: {_ilike: "a%"}}', "145"),
    ('{name: {_nilike: "a%"}}', "236"),
    # combinations
    ('{_and: [{level: {_eq: "INFO"}}, {}, {message: {_gt: "2"}}]}', "35"),
    ('{_and: {level: {_eq: "INFO"}}}', "135"),
    ("{_and: []}", "0123456"),
    ('{_or: [{message: {_eq: "1"}}, {message: {_eq: "3"}}]}', "13"),
    ('{_or: {message: {_eq: "1"}}}', "1"),
    ("{_or: []}", ""),
    ('{_or: [{}, {message: {_eq: "1"}}]}', "0123456"),
    ('{_or: [{message: {_eq: null}}, {message: {_eq: "1"}}]}', "0123456"),
    ('{_not: {level: {_eq: "INFO"}}}', "0246"),
    ("{_not: {}}", ""),
    ('{level: {_eq: "INFO"}, message: {_lt: "3"}}', "1"),
    # moments, with and without an offset
    ('{timestamp: {_gte: "2021-07-01T12:00:05"}}', "56"),
    ('{timestamp: {_gte: "2021-07-01T14:00:05+02:00"}}', "56"),
    ('{timestamp: {_lt: "2021-07-01T12:00:00.000001Z"}}', "0"),
    # documents
    ("{info: {_is_null: true}}", "0"),
    ("{info: {_contains: {k: 1}}}", "2"),
    ("{info: {_contains: {n: {m: [2]}}}}", "2"),
    ("{info: {_contains: {k: null}}}", "6"),
    ("{info: {_contains: {}}}", "126"),
    ('{info: {_contains: ["red"]}}', "3"),
    ('{info: {_contains: "red"}}', "3"),
    ("{info: {_contains: 7}}", "5"),
    ('{info: {_contains: "text"}}', "4"),
    ('{info: {_has_key: "k"}}', "26"),
    ('{info: {_has_keys_any: ["m", "blue"]}}', "3"),
    ('{info: {_has_keys_all: ["k", "n"]}}', "26"),
]


async def test_a_filter_finds_its_rows(served: Served, logs: list[str]) -> None:
    rows = {where: await found(served, f"where: {where}, order_by: {{timestamp: asc}}") for where, _ in FILTERS}
    assert rows == {where: list(expected) for where, expected in FILTERS}


async def test_a_filter_can_come_in_a_variable(served: Served, logs: list[str]) -> None:
    query = "query ($where: log_bool_exp, $by: [log_order_by]) { log(where: $where, order_by: $by) { message } }"
    variables = {"where": {"_and": {"name": {"_eq": None, "_in": ["a", "b"]}}}, "by": {"level": "asc", "name": "desc"}}
    assert [row["message"] for row in (await served.data(query, variables))["log"]] == ["2", "1"]
    left_out = "query ($name: String, $id: uuid) { log(where: {name: {_eq: $name}, id: {_eq: $id}}) { message } }"
    assert len((await served.data(left_out, {"name": "a"}))["log"]) == 1
    assert len((await served.data(left_out))["log"]) == 7


PAGES = [
    ("where: {}", "0123456"),
    ("order_by: {timestamp: desc}", "6543210"),
    # null is larger than every value, unless it is said otherwise
    ("order_by: {name: asc_nulls_first, message: asc}, limit: 1", "0"),
    ("order_by: {name: desc, message: asc}, limit: 1", "0"),
    ("order_by: {name: desc_nulls_last, message: asc}, offset: 6", "0"),
    ("order_by: [{level: desc}, {message: asc}]", "1350246"),
    ("order_by: {level: asc, message: desc}", "6420531"),
    ("order_by: {message: desc, level: asc}", "6543210"),
    ("order_by: null, limit: null", "0123456"),
    ("order_by: {message: asc}, limit: 2", "01"),
    ("order_by: {message: asc}, offset: 5", "56"),
    ("order_by: {message: asc}, limit: 2, offset: 3", "34"),
    ("limit: 0", ""),
    ("distinct_on: level, order_by: {level: asc, message: desc}", "65"),
    ("distinct_on: [level], order_by: [{level: desc}, {message: asc}]", "10"),
    ("distinct_on: level, order_by: {level: asc, message: desc}, limit: 1, offset: 1", "5"),
    ("distinct_on: null, limit: 1", "0"),
]


async def test_rows_come_in_their_order_and_page(served: Served, logs: list[str]) -> None:
    rows = {arguments: await found(served, arguments) for arguments, _ in PAGES}
    assert rows == {arguments: list(expected) for arguments, expected in PAGES}


NONSENSE = [
    ("limit: -1", "unexpected negative value for limit: -1"),
    ("offset: -1", "unexpected negative value for offset: -1"),
    ("distinct_on: name, order_by: {level: asc}", '"distinct_on" columns must match initial "order_by" columns'),
    ('where: {id: {_eq: "nonsense"}}', 'invalid input syntax for type uuid: "nonsense"'),
    ('where: {id: {_in: ["nonsense"]}}', 'invalid input syntax for type uuid: "nonsense"'),
    ('where: {timestamp: {_gt: "now"}}', 'invalid input syntax for type timestamptz: "now"'),
    ('where: {timestamp: {_gt: "0001-01-01T00:00:00+23:00"}}', "invalid input syntax for type timestamptz"),
    ('where: {name: {_eq: "\\u0000"}}', "name is compared with a text that holds a null character"),
]


async def test_an_argument_that_makes_no_sense_is_an_error(served: Served, logs: list[str]) -> None:
    for arguments, message in NONSENSE:
        error = await served.error(f"query {{ log({arguments}) {{ message }} }}")
        assert error["message"].startswith(message)
        assert error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
        assert error["path"] == ["log"]


@pytest.fixture
async def runs(world: World, served: Served) -> World:
    """Two flows in two projects; the first with two runs, of which one runs."""
    other = await served.store.create_project(ANYONE, name="other")
    await served.store.create_flow(ANYONE, project_id=other["id"], serialized_flow=flow_document("only", name="second"))
    await world.new_run(flow_run_name="young")
    await served.store.set_flow_run_states(ANYONE, [StateUpdate(world.run_id, state("Running"))])
    await served.store.set_task_run_states(ANYONE, [StateUpdate(world.task_runs["a"], state("Running"))])
    return world


async def test_relations_are_read_to_any_depth(served: Served, runs: World) -> None:
    data = await served.data(
        """query {
          project(order_by: {name: asc}) {
            name
            flows {
              name
              project { name tenant { slug } }
              tasks(order_by: {slug: desc}) { slug downstream_edges { downstream_task { slug } } }
              flow_runs(order_by: {created: asc}) {
                state
                task_runs(where: {state: {_eq: "Running"}}) { task { slug } states(order_by: {version: asc}) { state } }
              }
            }
          }
        }"""
    )
    demo, other = data["project"]
    assert other == {
        "name": "other",
        "flows": [
            {
                "name": "second",
                "project": {"name": "other", "tenant": {"slug": "default"}},
                "tasks": [{"slug": "only", "downstream_edges": []}],
                "flow_runs": [],
            }
        ],
    }
    flow = demo["flows"][0]
    assert flow["tasks"] == [
        {"slug": "b", "downstream_edges": []},
        {"slug": "a", "downstream_edges": [{"downstream_task": {"slug": "b"}}]},
    ]
    running = {"task": {"slug": "a"}, "states": [{"state": "Pending"}, {"state": "Running"}]}
    assert flow["flow_runs"] == [
        {"state": "Scheduled", "task_runs": []},
        {"state": "Running", "task_runs": [running]},
    ]


async def test_one_statement_reads_one_level(served: Served, runs: World, statements: list[str]) -> None:
    await served.data("query { flow_run { flow { project { name } } task_runs { task { slug } states { state } } } }")
    assert len(statements) == 6


RELATED = [
    ('{flow: {project: {name: {_eq: "demo"}}}}', 2),
    ('{flow: {project: {name: {_eq: "other"}}}}', 0),
    ("{flow: {project: {name: {_eq: null}}}}", 2),
    ('{task_runs: {state: {_eq: "Running"}}}', 1),
    ('{_not: {task_runs: {state: {_eq: "Running"}}}}', 1),
    ('{task_runs: {task: {slug: {_eq: "a"}}, states: {state: {_eq: "Running"}}}}', 1),
    ('{_or: [{state: {_eq: "Scheduled"}}, {state: {_eq: "Running"}, task_runs: {map_index: {_gte: 0}}}]}', 1),
    ("{agent: {}}", 0),
    ("{task_runs: {}}", 2),
]


async def test_a_relation_in_a_filter_asks_for_a_row_that_exists(served: Served, runs: World) -> None:
    counted = {}
    for where, _ in RELATED:
        counted[where] = len((await served.data(f"query {{ flow_run(where: {where}) {{ id }} }}"))["flow_run"])
    assert counted == dict(RELATED)


async def test_rows_can_be_ordered_by_a_relation(served: Served, runs: World) -> None:
    query = "query { task(order_by: {flow: {name: %s}, slug: asc}) { slug } }"
    assert [row["slug"] for row in (await served.data(query % "asc"))["task"]] == ["a", "b", "only"]
    assert [row["slug"] for row in (await served.data(query % "desc"))["task"]] == ["only", "a", "b"]


async def test_every_parent_gets_its_own_page(served: Served, runs: World) -> None:
    data = await served.data(
        """query {
          flow(order_by: {name: asc}) {
            name
            first: tasks(limit: 1, order_by: {slug: asc}) { slug }
            second: tasks(limit: 1, offset: 1, order_by: {slug: asc}) { slug }
            one_of_type: tasks(distinct_on: type, order_by: {type: asc, slug: desc}) { slug }
          }
        }"""
    )
    first, second = data["flow"]
    assert first == {
        "name": "flow",
        "first": [{"slug": "a"}],
        "second": [{"slug": "b"}],
        "one_of_type": [{"slug": "b"}],
    }
    assert second == {"name": "second", "first": [{"slug": "only"}], "second": [], "one_of_type": [{"slug": "only"}]}


async def test_aggregates_count_and_find_extremes(served: Served, runs: World) -> None:
    data = await served.data(
        """query {
          all: flow_run_aggregate { aggregate { count max { state } min { state } } nodes { state } }
          none: flow_run_aggregate(where: {state: {_eq: "Failed"}}) {
            aggregate { count max { name created } }
            nodes { id }
          }
          page: task_aggregate(limit: 2) { aggregate { count } }
          distinct: task_aggregate { aggregate { count(columns: [flow_id], distinct: true) } }
          project(order_by: {name: asc}) {
            flows_aggregate(distinct_on: name) { aggregate { count } }
            flows {
              tasks_aggregate { aggregate { count(columns: slug) max { slug } } nodes { slug } }
              flow_runs_aggregate(where: {state: {_eq: "Running"}}) { aggregate { count max { scheduled_start_time } } }
            }
          }
        }"""
    )
    assert data["all"]["aggregate"] == {
        "count": 2,
        "max": {"state": "Scheduled"},
        "min": {"state": "Running"},
    }
    assert data["all"]["nodes"] == [{"state": "Scheduled"}, {"state": "Running"}]
    assert data["none"] == {"aggregate": {"count": 0, "max": {"name": None, "created": None}}, "nodes": []}
    assert data["page"]["aggregate"]["count"] == 2
    assert data["distinct"]["aggregate"]["count"] == 2
    demo, other = data["project"]
    assert demo["flows_aggregate"] == {"aggregate": {"count": 1}}
    tasks = {"aggregate": {"count": 2, "max": {"slug": "b"}}, "nodes": [{"slug": "a"}, {"slug": "b"}]}
    assert demo["flows"][0]["tasks_aggregate"] == tasks
    counted = demo["flows"][0]["flow_runs_aggregate"]["aggregate"]
    assert counted == {"count": 1, "max": {"scheduled_start_time": "2021-07-01T12:00:00.000000+00:00"}}
    nothing = {"count": 0, "max": {"scheduled_start_time": None}}
    assert other["flows"][0]["flow_runs_aggregate"]["aggregate"] == nothing


async def test_values_come_in_the_forms_of_the_contract(served: Served, world: World, clock: ManualClock) -> None:
    document = flow_document("slow", name="forms")
    document["tasks"][0] |= {"retry_delay": 90, "max_retries": 1, "tags": ["x"]}
    flow = await served.store.create_flow(ANYONE, project_id=world.project_id, serialized_flow=document)
    data = await served.data(
        "query ($id: uuid!) { flow_by_pk(id: $id) { id archived version created settings environment description "
        "tasks { retry_delay max_retries tags mapped } } }",
        {"id": flow["id"].upper()},
    )
    assert data["flow_by_pk"] == {
        "id": flow["id"],
        "archived": False,
        "version": 1,
        "created": "2021-07-01T12:00:00.000000+00:00",
        "settings": {},
        "environment": None,
        "description": None,
        "tasks": [{"retry_delay": "00:01:30", "max_retries": 1, "tags": ["x"], "mapped": False}],
    }


async def test_a_missing_row_is_null(served: Served, world: World) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    assert await served.data(f'query {{ flow_by_pk(id: "{missing}") {{ name }} }}') == {"flow_by_pk": None}


async def test_a_selection_may_say_things_twice(served: Served, world: World) -> None:
    data = await served.data(
        """query ($no: Boolean!) {
          ...tenants
          tenant { __typename left_out: id @include(if: $no) kept: slug @skip(if: $no) }
        }
        fragment tenants on Query { tenant { slug ... on tenant { slug name } } }""",
        {"no": False},
    )
    assert data == {"tenant": [{"__typename": "tenant", "slug": "default", "name": "Default", "kept": "default"}]}


async def test_a_query_that_would_read_everything_is_cut(served: Served, logs: list[str]) -> None:
    few = ServerSettings(require_api_key=False, row_limit=3, **QUIET)
    async with serve_store(served.store, few) as small:
        error = await small.error("query { log { message } }")
        assert error["message"] == "the query reads more than 3 rows: give it a limit, or a narrower filter"
        assert len((await small.data("query { log(limit: 3) { message } }"))["log"]) == 3
        assert "more than 3 rows" in (await small.error("query { flow_run { logs { message } } }"))["message"]
        # The limit is for the request, not for each of its fields.
        answer = await small.answer("query { a: log(limit: 2) { id } b: log(limit: 2) { id } }")
        assert answer["data"]["b"] is None
        # Counting reads no rows.
        assert (await small.data("{ log_aggregate { aggregate { count } } }"))["log_aggregate"]["aggregate"][
            "count"
        ] == 7
    short = ServerSettings(require_api_key=False, answer_limit=100, **QUIET)
    async with serve_store(served.store, short) as small:
        assert "more than 100 bytes" in (await small.error("query { flow_run { serialized_state } }"))["message"]


@pytest.mark.new_database  # one that was full before plans this query as if it were still
async def test_a_query_that_takes_too_long_is_ended(served: Served, runs: World) -> None:
    hurried = ServerSettings(require_api_key=False, query_seconds=0.05, **QUIET)
    await served.store.get_or_create_task_runs(
        ANYONE, flow_run_id=runs.run_id, task_id=runs.tasks["a"], map_indices=list(range(600))
    )
    each_with_each = '{name: {_ilike: "%no%"}}'
    for _ in range(3):
        # Alternatives keep a database from joining in a cleverer way, and ids keep it at this end.
        related = f'{{flow_run: {{task_runs: {{_or: [{each_with_each}, {{name: {{_eq: "x"}}}}]}}}}}}'
        each_with_each = f'{{id: {{_gt: "{uuid.UUID(int=0)}"}}, _or: [{related}, {{name: {{_eq: "x"}}}}]}}'
    async with serve_store(served.store, hurried) as small:
        error = await small.error(f"query {{ task_run(where: {each_with_each}) {{ id }} }}")
        assert error["message"].startswith("the query takes longer than 0.05 seconds")
        # The connections are as good as before.
        for _ in range(8):
            assert (await small.data("query { tenant { slug } }"))["tenant"] == [{"slug": "default"}]


async def test_what_the_store_keeps_for_itself_is_not_shown(served: Served) -> None:
    for query in (
        "{ secret { name } }",
        "{ api_key { key_hash } }",
        "{ lease { holder } }",
        "{ flow_run { submitted } }",
    ):
        response = await served.post(query)
        assert response.status_code == 400
        assert "Cannot query field" in response.text


async def test_a_row_without_a_related_one_is_what_a_relation_is_not(served: Served, runs: World) -> None:
    """A missing reference is no related row, under a negation too, and whatever else the filter says."""
    data = await served.data("{ flow_run { id agent_id } }")
    every = {row["id"] for row in data["flow_run"]}
    assert {row["agent_id"] for row in data["flow_run"]} == {None}
    for where, expected in (
        ("{agent: {}}", set()),
        ("{_not: {agent: {}}}", every),
        ('{_not: {agent: {name: {_eq: "x"}}}}', every),
        ("{_or: [{agent: {}}, {state: {_is_null: false}}]}", every),
        ('{_not: {flow: {name: {_eq: "flow"}}}}', set()),
        ('{flow: {name: {_eq: "flow"}}}', every),
        (f'{{id: {{_gt: "{uuid.UUID(int=0)}"}}, flow: {{name: {{_eq: "flow"}}}}}}', every),
    ):
        found = await served.data(f"{{ flow_run(where: {where}) {{ id }} }}")
        assert {row["id"] for row in found["flow_run"]} == expected, where


async def test_a_filter_on_the_one_related_row_begins_at_its_end(
    served: Served, runs: World, statements: list[str]
) -> None:
    """SQLite would go through all states of all runs for an EXISTS."""
    query = "query ($r: uuid) { task_run_state(where: {task_run: {flow_run_id: {_eq: $r}}}) { state } }"
    assert len((await served.data(query, {"r": runs.run_id}))["task_run_state"]) == 3
    assert [" IN (SELECT" in text for text in statements] == [True]
    statements.clear()
    await served.data(
        query.replace("{task_run:", f'{{id: {{_gt: "{uuid.UUID(int=0)}"}}, task_run:'), {"r": runs.run_id}
    )
    assert ["EXISTS" in text for text in statements] == [True]


async def test_what_wants_attention_is_found_by_an_index(served: Served, runs: World, statements: list[str]) -> None:
    """The newest states alone cannot be indexed, or PostgreSQL would write every index at every transition."""

    async def states(where: str) -> list[str]:
        statements.clear()
        found = await served.data(f"{{ task_run(where: {where}, order_by: {{updated: asc}}) {{ state }} }}")
        return sorted(row["state"] for row in found["task_run"])

    a, b = runs.task_runs["a"], runs.task_runs["b"]
    for run_id, kind in ((a, "Paused"), (b, "Failed")):
        await served.store.set_task_run_states(ANYONE, [StateUpdate(run_id, state(kind))])
    assert await states('{state: {_eq: "Paused"}}') == ["Paused"]
    assert ["attention" in text for text in statements] == [True]
    assert await states('{state: {_in: ["Failed", "Paused", "Retrying"]}}') == ["Failed", "Paused"]
    assert ["attention" in text for text in statements] == [True]
    assert "Failed" in await states('{state: {_in: ["Failed", "Running"]}}')
    assert ["attention" in text for text in statements] == [False]
    assert set(await states('{_not: {state: {_eq: "Paused"}}}')) >= {"Failed"}
    await served.store.set_task_run_states(ANYONE, [StateUpdate(a, state("Pending"))])
    assert await states('{state: {_eq: "Paused"}}') == []
