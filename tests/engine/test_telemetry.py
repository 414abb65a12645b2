"""Traces and metrics: what they tell of a run, and that nothing of it is there before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from flowloop.backends import connect
from flowloop.backends.prometheus import Prometheus
from flowloop.engine import Flow, FlowRunner, Parameter, Settings, context, subflow, task, telemetry, unmapped
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.executors import ProcessExecutor


class Seen:
    """What was traced and measured."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        telemetry.instrument(tracer_provider=self.tracers, meter_provider=MeterProvider(metric_readers=[self.reader]))

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def counted(self) -> dict[tuple[str, str], int]:
        data = self.reader.get_metrics_data()
        assert data is not None
        found: dict[tuple[str, str], int] = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == "flowloop.runs":
                for point in metric.data.data_points:
                    key = str(point.attributes["kind"]), str(point.attributes["state"])
                    found[key] = found.get(key, 0) + point.value
        return found


@pytest.fixture
def seen() -> Iterator[Seen]:
    yield Seen()
    telemetry.uninstrument()


@task
async def double(n: int) -> int:
    return 2 * n


def flow_of(body: Any = double) -> Flow:
    with Flow("traced") as flow:
        doubled = body.map([1, 2])
        task(lambda numbers: sum(numbers), name="add")(doubled)
    return flow


async def test_attempts_are_in_task_runs_and_these_in_the_flow_run(seen: Seen) -> None:
    tracer = trace.get_tracer("app", tracer_provider=seen.tracers)
    with tracer.start_as_current_span("request") as request:
        assert (await FlowRunner(flow_of()).run()).is_successful()
    spans = seen.spans()
    whole, child, reduce = spans["flow traced"], spans["task double[1]"], spans["task add"]
    assert whole.parent is not None
    assert whole.parent.span_id == request.get_span_context().span_id
    assert {one.parent.span_id for one in (child, reduce) if one.parent} == {whole.context.span_id}
    attempts = [one for one in seen.exporter.get_finished_spans() if one.name == "attempt 1"]
    assert child.context.span_id in {one.parent.span_id for one in attempts if one.parent}
    children = {spans[f"task double[{index}]"].context.span_id for index in range(2)}
    assert children <= {link.context.span_id for link in reduce.links}
    assert whole.attributes is not None
    assert whole.attributes["flowloop.state"] == "Success"
    assert seen.counted()["flow_run", "Success"] == 1


async def test_a_task_run_has_links_to_those_whose_results_it_takes(seen: Seen) -> None:
    with Flow("linked") as flow:
        numbers = task(lambda: [1, 2], name="numbers")()
        doubled = double.map(numbers)
        total = task(lambda doubled, numbers: sum(doubled), name="total")(doubled, numbers)
        task(lambda x, y: x, name="both").map(doubled, y=unmapped(total))
    assert (await FlowRunner(flow).run()).is_successful()
    names = {span.context.span_id: span.name.removeprefix("task ") for span in seen.exporter.get_finished_spans()}
    links = {name: {names[link.context.span_id] for link in span.links} for name, span in seen.spans().items()}
    assert links["task numbers"] == set()
    assert links["task total"] == {"numbers", "double[0]", "double[1]"}
    for index in range(2):
        assert links[f"task double[{index}]"] == {"numbers"}
        assert links[f"task both[{index}]"] == {f"double[{index}]", "total"}


async def test_each_attempt_is_a_span_and_a_failure_tells_why_without_secrets(seen: Seen) -> None:
    @task(max_retries=1, retry_delay=0)
    async def fails(token: str) -> None:
        raise ValueError(f"no {token}")

    with Flow("failing") as flow:
        fails(Parameter("token", secret=True))
    await FlowRunner(flow).run(parameters={"token": "hunter2!"})
    spans = seen.spans()
    assert {"attempt 1", "attempt 2"} <= spans.keys()
    event = spans["attempt 2"].events[0]
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "ValueError"
    assert "in fails" in str(event.attributes["exception.stacktrace"])
    assert not spans["flow failing"].status.is_ok
    assert "hunter2!" not in "".join(span.to_json() for span in seen.exporter.get_finished_spans())


async def test_a_trace_goes_on_in_a_worker_and_in_another_process(seen: Seen, settings: Settings) -> None:
    told: list[str] = []

    @task
    async def tells() -> None:
        told.append(context.traceparent)

    @task
    def elsewhere() -> str:
        return str(context.traceparent)

    with Flow("traced") as flow:
        tells()
        there = elsewhere()
    async with connect("memory://") as backend:
        tracer = trace.get_tracer("app", tracer_provider=seen.tracers)
        with tracer.start_as_current_span("request") as request:
            flow_run_id = await create_flow_run(flow, backend, settings=settings)
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        state = await runner.run(context={"flow_run_id": flow_run_id}, executor=ProcessExecutor(1))
    trace_id = format(request.get_span_context().trace_id, "032x")
    assert seen.spans()["flow traced"].context.trace_id == request.get_span_context().trace_id
    assert state[there].result.split("-")[1] == trace_id


async def test_a_subflow_is_a_part_of_its_task(seen: Seen) -> None:
    with Flow("inner") as inner:
        double(1)
    with Flow("outer") as flow:
        subflow(inner, name="part")()
    await FlowRunner(flow).run()
    spans = seen.spans()
    around = {one.context.span_id: one.name for one in seen.exporter.get_finished_spans()}
    assert spans["flow inner"].parent is not None
    assert around[spans["flow inner"].parent.span_id] == "attempt 1"


@pytest.mark.virtual_time
async def test_prometheus_measures_on_request(memory: Backend, settings: Settings) -> None:
    registry = CollectorRegistry()
    async with Prometheus(memory, registry):
        await CloudFlowRunner(flow_of(), backend=memory, settings=settings).run()
        text = generate_latest(registry).decode()
    assert 'flowloop_runs_total{flow="traced",kind="flow_run",state="Success"} 1.0' in text
    assert 'flowloop_body_seconds_count{flow="traced",task="double"} 2.0' in text
    assert 'flowloop_wait_seconds_count{flow="traced",task="add"} 1.0' in text
    assert "flowloop_backlog 0.0" in text
    assert telemetry.active is None
    assert "flowloop_runs" not in generate_latest(registry).decode()


def test_nothing_of_it_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, flowloop.engine.cloud; "
        "print([name for name in sys.modules if 'opentelemetry' in name or 'prometheus_client' in name])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
