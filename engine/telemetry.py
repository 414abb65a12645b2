"""Traces and metrics of flow runs through OpenTelemetry: on request, and nothing before that.

Example:

    ```python
    from flowloop.engine.telemetry import instrument

    instrument()                       # with the providers that the application has set up
    state = await FlowRunner(flow).run()
    ```

A flow run is a span, each task run one below it, and each attempt of its body one below that, in which the body's own
spans are. A task run has links to the task runs that it takes results of. A flow run is a part of the trace around it,
or of the one that ``traceparent`` in its context names: who creates a flow run for a worker gives it along by itself,
and a body finds its own as ``context.traceparent``, also in another process.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterable
from contextvars import ContextVar
from typing import Any, Protocol

from .context import values
from .errors import FlowloopError
from .masking import masked
from .state import State

__all__ = ["Recorder", "Telemetry", "instrument", "measure", "uninstrument"]

Key = tuple[int, int]


class Recorder(Protocol):
    """Takes down how long runs took, and how they ended."""

    def flow_run(self, flow: str, state: str, seconds: float) -> None:
        """Take down a flow run that ended here, or went to wait."""

    def task_run(self, flow: str, task: str, state: str, seconds: float, waited: float) -> None:
        """Take down a task run: how long it took, and how much of that was outside of its body."""

    def attempt(self, flow: str, task: str, state: str, seconds: float) -> None:
        """Take down one attempt of a body."""


class Telemetry:
    """What watches the runs of this process.

    Args:
        - tracer: of OpenTelemetry; None makes no spans
        - recorders: take down what took how long
    """

    def __init__(self, tracer: Any = None, recorders: Iterable[Recorder] = ()) -> None:
        self.tracer = tracer
        self.recorders = list(recorders)

    def _span(self, name: str, **options: Any) -> Any:
        # of what is raised through it the state tells, without what is to be hidden
        return self.tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False, **options)

    async def flow_run(self, run: Coroutine[Any, Any, State], flow: str) -> State:
        """Watch a flow run."""
        known = values.get()
        began = time.monotonic()
        if self.tracer is None:
            state = await run
        else:
            attributes = _known({"flowloop.flow": flow, "flowloop.flow_run_id": known.get("flow_run_id")})
            around = _context_of(known.get("traceparent"))
            with self._span(f"flow {flow}", context=around, attributes=attributes) as span:
                state = await run
                _end(span, state)
        for recorder in self.recorders:
            recorder.flow_run(flow, type(state).__name__, time.monotonic() - began)
        return state

    async def task_run(
        self, run: Coroutine[Any, Any, State], name: str, key: Key, spans: dict[Key, Any], upstream: Iterable[Key]
    ) -> State:
        """Watch a task run.

        Args:
            - run: the run
            - name: what it is called
            - key: which one it is
            - spans: the spans of the other task runs of its flow run, and then its own
            - upstream: those that it has links to
        """
        flow = values.get().get("flow_name", "")
        in_body = [0.0]
        _in_body.set(in_body)
        began = time.monotonic()
        if self.tracer is None:
            state = await run
        else:
            from opentelemetry.trace import Link

            links = [Link(spans[one]) for one in upstream if one in spans]
            attributes = _known({"flowloop.task": name, "flowloop.map_index": key[1] if key[1] >= 0 else None})
            with self._span(f"task {name}", links=links, attributes=attributes) as span:
                spans[key] = span.get_span_context()
                state = await run
                _end(span, state)
        took = time.monotonic() - began
        for recorder in self.recorders:
            recorder.task_run(flow, name.partition("[")[0], type(state).__name__, took, max(took - in_body[0], 0.0))
        return state

    async def attempt(self, run: Coroutine[Any, Any, State]) -> State:
        """Watch one attempt of a body."""
        known = values.get()
        count = known.get("task_run_count", 1)
        began = time.monotonic()
        if self.tracer is None:
            state = await run
        else:
            attributes = {"flowloop.attempt": count, **_known({"flowloop.task_run_id": known.get("task_run_id")})}
            with self._span(f"attempt {count}", attributes=attributes) as span:
                known["traceparent"] = _traceparent()
                state = await run
                _end(span, state)
        took = time.monotonic() - began
        _in_body.get()[0] += took
        for recorder in self.recorders:
            recorder.attempt(known.get("flow_name", ""), known.get("task_name", ""), type(state).__name__, took)
        return state


_in_body: ContextVar[list[float]] = ContextVar("flowloop_in_body", default=[0.0])  # noqa: B039 - for a body run alone
"""For how long the bodies of a task run have gone on."""


active: Telemetry | None = None
"""What watches the runs of this process; None costs a look."""


def instrument(*, tracer_provider: Any = None, meter_provider: Any = None) -> None:
    """Have the flow runs of this process traced and measured through OpenTelemetry.

    Args:
        - tracer_provider, meter_provider: of OpenTelemetry; those that the application has set globally if None

    Raises:
        - FlowloopError: if OpenTelemetry is not installed
    """
    global active
    try:
        from opentelemetry import metrics, trace
    except ModuleNotFoundError as error:
        raise FlowloopError("OpenTelemetry needs an extra: pip install 'flowloop[otel]'") from error
    others = [one for one in ([] if active is None else active.recorders) if not isinstance(one, _Meter)]
    tracer = trace.get_tracer("flowloop", tracer_provider=tracer_provider)
    active = Telemetry(tracer, [*others, _Meter(metrics.get_meter("flowloop", meter_provider=meter_provider))])


def measure(recorder: Recorder) -> None:
    """Have a recorder take down what the flow runs of this process take."""
    global active
    active = active or Telemetry()
    active.recorders.append(recorder)


def uninstrument(recorder: Recorder | None = None) -> None:
    """Watch no more; with a recorder, only that one takes down nothing more."""
    global active
    if recorder is not None and active is not None:
        active.recorders = [one for one in active.recorders if one is not recorder]
        if active.recorders or active.tracer is not None:
            return
    active = None


def outgoing() -> dict[str, str]:
    """Return what a flow run that is created here takes along, so that its trace is a part of the one here."""
    found = None if active is None or active.tracer is None else _traceparent()
    return {} if found is None else {"traceparent": found}


class _Meter:
    """The instruments of OpenTelemetry."""

    def __init__(self, meter: Any) -> None:
        self._runs = meter.create_counter("flowloop.runs", description="runs that ended, by kind and state")
        self._seconds = meter.create_histogram("flowloop.run.duration", unit="s", description="how long runs took")

    def flow_run(self, flow: str, state: str, seconds: float) -> None:
        self._add({"kind": "flow_run", "flow": flow, "state": state}, seconds)

    def task_run(self, flow: str, task: str, state: str, seconds: float, waited: float) -> None:
        self._add({"kind": "task_run", "flow": flow, "task": task, "state": state}, seconds)

    def attempt(self, flow: str, task: str, state: str, seconds: float) -> None:
        self._add({"kind": "attempt", "flow": flow, "task": task, "state": state}, seconds)

    def _add(self, attributes: dict[str, str], seconds: float) -> None:
        self._runs.add(1, attributes)
        self._seconds.record(seconds, attributes)


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _context_of(traceparent: Any) -> Any:
    """Return the context of a trace that is named; None is the one around."""
    if not isinstance(traceparent, str):
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _traceparent() -> str | None:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def _end(span: Any, state: State) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("flowloop.state", type(state).__name__)
    if state.is_failed():
        message = masked(str(state.message))
        if state.traceback:  # what a recorded exception would say, with nothing that is to be hidden
            kind = type(state._result.value).__name__
            told = {"exception.type": kind, "exception.message": message, "exception.stacktrace": state.traceback}
            span.add_event("exception", told)
        span.set_status(Status(StatusCode.ERROR, message))
