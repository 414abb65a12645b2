"""Reading documents of flows: what an API knows of a flow, as objects to look at."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from flowloop.engine import DateTimeParameter, Edge, Flow, Parameter, Task, case, flatten, task, triggers
from flowloop.engine import cache_validators as validators
from flowloop.engine.errors import DialectError, FlowDefinitionError
from flowloop.engine.schedules import IntervalSchedule

HOUR = datetime.timedelta(hours=1)


def never(upstream: Any) -> bool:
    return False


class Load(Task[..., Any]):
    def run(self, path: str, limit: int = 3) -> list[str]:
        return []


@task(
    name="clean",
    slug="the-cleaning",
    tags=["b", "a"],
    max_retries=3,
    retry_delay=[10, 60],
    timeout=60,
    trigger=triggers.some_failed(at_least=1, at_most=0.5),
    skip_on_upstream_skip=False,
    cache_for=HOUR,
    cache_validator=validators.partial_inputs_only(["rows"]),
    cache_key="cleaned",
)
async def clean(rows: list[str], day: datetime.datetime) -> int:
    return 0


@task(trigger=never, max_retries=1, retry_delay=lambda attempt: 3.0)
def report(count: Any) -> None: ...


def build() -> Flow:
    schedule = IntervalSchedule(start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), interval=HOUR)
    with Flow("cleaning", schedule=schedule, run_config={"labels": ["big"]}, storage={"type": "Local"}) as flow:
        path = Parameter("path", default="in.csv", tags=["p"])
        rows = Load()(path)
        count = clean(rows, DateTimeParameter("day"))
        with case(count, 3):
            report(count)
        report.map(flatten(rows), upstream_tasks=[count], task_args={"name": "each"})
    flow.set_reference_tasks([count])
    return flow


def as_sent(document: Any) -> Any:
    return json.loads(json.dumps(document))


def test_what_is_read_and_written_again_is_the_same_document():
    document = as_sent(build().serialize())
    assert as_sent(Flow.deserialize(document).serialize()) == document


def test_a_flow_has_the_graph_that_its_document_says():
    flow, read = build(), Flow.deserialize(as_sent(build().serialize()))
    assert (read.name, read.run_config, read.storage) == (flow.name, flow.run_config, flow.storage)
    assert sorted(read.slugs.values()) == sorted(flow.slugs.values())
    assert [one.name for one in read.sorted_tasks()] != []

    def drawn(of: Flow) -> set[Any]:
        return {
            (of.slugs[edge.upstream_task], of.slugs[edge.downstream_task], edge.key, edge.mapped, edge.flattened)
            for edge in of.edges
        }

    assert drawn(read) == drawn(flow)
    assert {one.name for one in read.reference_tasks()} == {"clean"}
    assert {one.name for one in read.parameters()} == {"path", "day"}
    assert read.schedule.next(2, after=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)) == flow.schedule.next(
        2, after=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    )


def test_a_task_has_what_its_document_says():
    read = Task.deserialize(as_sent(clean.serialize()))
    assert (read.name, read.slug, read.tags) == ("clean", "the-cleaning", {"a", "b"})
    assert (read.max_retries, read.retry_delay, read.timeout) == (3, datetime.timedelta(seconds=10), 60)
    assert (read.skip_on_upstream_skip, read.cache_for, read.cache_key) == (False, HOUR, "cleaned")
    assert {name: one["required"] for name, one in read.inputs().items()} == {"rows": True, "day": True}
    assert Task.deserialize(as_sent(Load().serialize())).inputs()["limit"]["required"] is False
    assert read.outputs() == as_sent(clean.serialize())["outputs"]
    assert as_sent(read.serialize()) == as_sent(clean.serialize())


@pytest.mark.parametrize("trigger", [triggers.all_failed, triggers.always_run, triggers.manual_only])
def test_functions_of_its_own_are_found_again(trigger):
    read = Task.deserialize(Task(name="t", slug="t", trigger=trigger).serialize())
    assert read.trigger is trigger
    assert read.cache_validator is validators.never_use


def test_of_a_function_of_somebody_else_the_name_is_kept():
    read = Task.deserialize(report.serialize())
    with pytest.raises(FlowDefinitionError, match="never"):
        read.trigger({})
    assert read.serialize()["trigger"] == report.serialize()["trigger"]


def test_a_task_that_was_read_has_nothing_to_run():
    with pytest.raises(FlowDefinitionError, match=r"'clean'.*no code"):
        Task.deserialize(clean.serialize()).run()


@pytest.mark.parametrize(
    "parameter",
    [
        Parameter("x"),
        Parameter("x", default=[1, None], tags=["t"]),
        Parameter("x", required=False),
        DateTimeParameter("x"),
        DateTimeParameter("x", default="2024-01-01"),
        Parameter("x", type=dict[str, int], secret=True),
    ],
)
def test_a_parameter_is_read_as_one(parameter):
    read = Task.deserialize(as_sent(parameter.serialize()))
    assert type(read) is type(parameter)
    assert (read.name, read.required, read.default, read.tags) == (
        parameter.name, parameter.required, parameter.default, parameter.tags
    )  # fmt: skip
    assert as_sent(read.serialize()) == as_sent(parameter.serialize())


def test_reading_adds_nothing_to_an_open_flow():
    parameter, document = Parameter("x", default=1).serialize(), build().serialize()
    with Flow("open") as flow:
        Task.deserialize(parameter)
        Flow.deserialize(document)
    assert flow.tasks == set()


def test_an_edge_is_read_between_the_slugs_it_names():
    edge = Edge(Load(slug="load"), clean, key="rows", mapped=True)
    read = Edge.deserialize(as_sent(edge.serialize()))
    assert (read.upstream_task.slug, read.downstream_task.slug) == ("load", "the-cleaning")
    assert (read.key, read.mapped, read.flattened) == ("rows", True, False)
    assert as_sent(read.serialize()) == as_sent(edge.serialize())


@pytest.mark.parametrize(
    ("read", "document"),
    [
        (Flow.deserialize, {}),
        (Flow.deserialize, {"name": "f", "tasks": [{"name": "no slug"}]}),
        (
            Flow.deserialize,
            {"name": "f", "edges": [{"upstream_task": {"slug": "a"}, "downstream_task": {"slug": "b"}}]},
        ),
        (Flow.deserialize, {"name": "f", "schedule": {"clocks": [{"type": "SunClock"}]}}),
        (Flow.deserialize, {"name": "f", "reference_tasks": [{"slug": "nowhere"}]}),
        (Flow.deserialize, {"name": "f", "tasks": 3}),
        (Flow.deserialize, None),
        (Task.deserialize, {"slug": "no-name"}),
        (Task.deserialize, {"name": "t", "slug": "t", "max_retries": 1, "retry_delay": "soon"}),
        (Task.deserialize, {"name": "t", "slug": "t", "trigger": {"kwargs": {}}}),
        (Edge.deserialize, {"upstream_task": {"slug": "a"}}),
        (Edge.deserialize, {"upstream_task": {"slug": "a"}, "downstream_task": {"slug": "b"}, "key": "not a name"}),
    ],
)
def test_what_is_no_such_document_is_one_error(read, document):
    with pytest.raises(DialectError, match=r"the document of|schedule document"):
        read(document)


def test_a_short_document_is_enough():
    read = Task.deserialize({"name": "t", "slug": "t-1"})
    assert (read.max_retries, read.retry_delay, read.tags, read.trigger) == (0, None, set(), triggers.all_successful)
    assert Flow.deserialize({"name": "f"}).tasks == set()
