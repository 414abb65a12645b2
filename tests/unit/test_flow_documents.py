"""Flows as documents: what a flow is registered as."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys

import pytest

from flowloop.engine import triggers
from flowloop.engine.cache_validators import partial_inputs_only
from flowloop.engine.edge import mapped
from flowloop.engine.errors import SerializationError
from flowloop.engine.flow import Flow
from flowloop.engine.parameter import DateTimeParameter, Parameter
from flowloop.engine.retries import exponential_backoff
from flowloop.engine.schedules import IntervalSchedule
from flowloop.engine.serialization import function_reference
from flowloop.engine.task import Task, task

ANY = {"required": True, "type": "typing.Any"}


@task
def add(x, y):
    return x + y


@task
def inc(x):
    return x + 1


@task
def one():
    return 1


@task
def say(x):
    print(x)


def build() -> Flow:
    with Flow("success") as flow:
        x = Parameter("x", default=1)
        say(add(inc(x), one()))
    return flow


def plain_task(slug: str, name: str, kind: str, inputs: dict) -> dict:
    return {
        "slug": slug,
        "name": name,
        "type": kind,
        "tags": [],
        "max_retries": 0,
        "retry_delay": None,
        "timeout": None,
        "inputs": inputs,
        "outputs": "typing.Any",
        "trigger": {"fn": "prefect.triggers.all_successful", "kwargs": {}},
        "skip_on_upstream_skip": True,
        "cache_for": None,
        "cache_key": None,
        "cache_validator": {"fn": "prefect.engine.cache_validators.never_use", "kwargs": {}},
        "auto_generated": False,
        "__version__": "1.4.1",
    }


def plain_edge(upstream: str, downstream: str, key: str | None) -> dict:
    return {
        "upstream_task": {"slug": upstream, "__version__": "1.4.1"},
        "downstream_task": {"slug": downstream, "__version__": "1.4.1"},
        "key": key,
        "mapped": False,
        "flattened": False,
        "__version__": "1.4.1",
    }


def test_a_flow_is_written_as_a_prefect_1_client_writes_it():
    function, parameter = "flowloop.engine.task.FunctionTask", "flowloop.engine.parameter.Parameter"
    assert build().serialize() == {
        "name": "success",
        "type": "flowloop.engine.flow.Flow",
        "schedule": None,
        "parameters": [
            {
                "outputs": "typing.Any",
                "name": "x",
                "tags": [],
                "type": parameter,
                "default": 1,
                "required": False,
                "slug": "x",
                "__version__": "1.4.1",
            }
        ],
        "tasks": [
            plain_task("add-1", "add", function, {"x": ANY, "y": ANY}),
            plain_task("inc-1", "inc", function, {"x": ANY}),
            plain_task("one-1", "one", function, {}),
            plain_task("say-1", "say", function, {"x": ANY}),
            plain_task("x", "x", parameter, {}),
        ],
        "edges": [
            plain_edge("add-1", "say-1", "x"),
            plain_edge("inc-1", "add-1", "x"),
            plain_edge("one-1", "add-1", "y"),
            plain_edge("x", "inc-1", "x"),
        ],
        "reference_tasks": [],
        "run_config": None,
        "storage": None,
        "__version__": "1.4.1",
    }


def test_every_argument_of_a_task():
    @task(
        tags=["b", "a"],
        max_retries=2,
        retry_delay=datetime.timedelta(seconds=90),
        timeout=5,
        trigger=triggers.some_failed(at_least=2),
        skip_on_upstream_skip=False,
        cache_for=datetime.timedelta(hours=1),
        cache_key="shared",
        cache_validator=partial_inputs_only(["n"]),
    )
    def work(n: int = 3, *, word) -> str:
        return word * n

    document = work.serialize()
    assert {name: document[name] for name in document if name not in ("__version__", "type", "outputs", "inputs")} == {
        "slug": "work",
        "name": "work",
        "tags": ["a", "b"],
        "max_retries": 2,
        "retry_delay": 90,
        "timeout": 5,
        "trigger": {"fn": "prefect.triggers.some_failed", "kwargs": {"at_least": 2, "at_most": None}},
        "skip_on_upstream_skip": False,
        "cache_for": 3600,
        "cache_key": "shared",
        "cache_validator": {
            "fn": "prefect.engine.cache_validators.partial_inputs_only",
            "kwargs": {"validate_on": ["n"]},
        },
        "auto_generated": False,
    }
    assert {name: about["required"] for name, about in document["inputs"].items()} == {"n": False, "word": True}


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        (0, 0),
        (1.2, 2),
        ([3, 60], 3),
        ([datetime.timedelta(minutes=1)], 60),
        (exponential_backoff(2), None),
    ],
)
def test_others_are_told_the_first_delay_in_whole_seconds(delay, seconds):
    assert Task(name="t", max_retries=1, retry_delay=delay).serialize()["retry_delay"] == seconds


def test_mapped_edges_constants_and_reference_tasks():
    with Flow("f") as flow:
        first = inc(one())
        second = add.map(x=mapped(first), y=[1, 2])
        say(5)
    flow.set_reference_tasks([first])
    document = flow.serialize()
    assert document["reference_tasks"] == [{"slug": "inc-1", "__version__": "1.4.1"}]
    edges = {(edge["downstream_task"]["slug"], edge["key"]): edge["mapped"] for edge in document["edges"]}
    assert edges[(flow.slugs[second], "x")] is True
    assert not any(slug == "say-1" for slug, _ in edges)  # a constant is no task
    flow.set_reference_tasks(flow.terminal_tasks())
    assert flow.serialize()["reference_tasks"] == []


def test_an_edge_alone():
    edge = next(iter(build().edges))
    assert set(edge.serialize()) == {"upstream_task", "downstream_task", "key", "mapped", "flattened", "__version__"}


class Documented:
    def serialize(self):
        return {"type": "LocalRun", "labels": ["a"]}


def test_schedule_storage_and_run_config_travel():
    flow = Flow(
        "f",
        schedule=IntervalSchedule(interval=datetime.timedelta(hours=1)),
        storage={"type": "Local", "flows": {"f": "/f.py"}},
        run_config=Documented(),
    )
    document = flow.serialize()
    assert document["schedule"]["clocks"][0]["interval"] == 3_600_000_000
    assert document["storage"] == {"type": "Local", "flows": {"f": "/f.py"}}
    assert document["run_config"] == {"type": "LocalRun", "labels": ["a"]}


def test_what_json_cannot_carry_is_refused_with_its_place():
    with Flow("f") as flow:
        Parameter("x", default=object())
    with pytest.raises(SerializationError, match="parameter 'x': its default"):
        flow.serialize()
    with pytest.raises(SerializationError, match="flow 'f': its storage"):
        Flow("f", storage={"x": object()}).serialize()


class Choosy:
    def __call__(self, upstream_states):
        return True


def lambda_factory(limit, lock):
    return lambda upstream_states: bool(limit and lock)


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (triggers.always_run, {"fn": "prefect.triggers.all_finished", "kwargs": {}}),
        (len, {"fn": "builtins.len", "kwargs": {}}),
        (Choosy(), {"fn": f"{__name__}.Choosy", "kwargs": {}}),
        (
            lambda_factory(2, object()),
            {"fn": f"{__name__}.lambda_factory", "kwargs": {"limit": 2, "lock": "builtins.object"}},
        ),
        (
            lambda_factory(datetime.timedelta(minutes=1), datetime.time(9)),
            {"fn": f"{__name__}.lambda_factory", "kwargs": {"limit": "//timedelta:60.0", "lock": "//time:09:00:00"}},
        ),
    ],
)
def test_functions_are_given_by_name(function, reference):
    assert function_reference(function) == reference


PROGRAM = """
import json
from flowloop.engine.flow import Flow
from flowloop.engine.task import task

@task(tags={"c", "a", "b"})
def work(x): ...

with Flow("f") as flow:
    for n in range(5):
        work(work(n))
print(json.dumps(flow.serialize(), sort_keys=True))
"""


def test_the_document_is_the_same_in_every_process():
    documents = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(documents) == 1
    assert len(json.loads(documents.pop())["tasks"]) == 10


def test_a_parameter_says_of_which_type_its_values_are() -> None:
    for kind, schema in ((int, {"type": "integer"}), (list[str], {"type": "array", "items": {"type": "string"}})):
        document = Parameter("n", type=kind).serialize()
        assert document["schema"] == schema
        assert "secret" not in document
    assert "schema" not in Parameter("n").serialize()
    assert "schema" not in Parameter("n", type=complex, required=False).serialize()
    assert DateTimeParameter("at").serialize()["schema"] == {"type": "string", "format": "date-time"}
    assert Parameter("key", type=str, secret=True).serialize()["secret"] is True
