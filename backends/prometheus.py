"""Metrics of the flow runs of this process for Prometheus: on request, in an application or a worker."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from ..engine import telemetry
from ..engine.backend import Backend
from ..engine.errors import FlowloopError

__all__ = ["Prometheus"]

_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 7200.0)
_LOOK_EVERY = 0.5


class Prometheus:
    """Measures what runs in this process while it is open.

    =================================  =================================================================
    flowloop_runs_total                runs that ended here, by ``kind`` (flow_run, task_run), flow and state
    flowloop_run_seconds               how long they took, with what they waited for
    flowloop_body_seconds              how long the attempts of bodies took, by flow and task
    flowloop_wait_seconds              how long task runs waited beside that: for places, inputs, records, retries
    flowloop_backlog                   writes that wait to be acknowledged
    flowloop_loop_lag_seconds          by how much the event loop is late
    =================================  =================================================================

    Args:
        - backend: whose backlog is shown
        - registry: of prometheus-client; the global one if None

    Raises:
        - FlowloopError: if prometheus-client is not installed

    Example:

        ```python
        async with connect("sqlite:///runs.db") as backend, Prometheus(backend):
            ...
        ```
    """

    def __init__(self, backend: Backend | None = None, registry: Any = None) -> None:
        try:
            import prometheus_client
        except ModuleNotFoundError as error:
            raise FlowloopError("metrics for Prometheus need an extra: pip install 'flowloop[prometheus]'") from error
        self._registry = registry or prometheus_client.REGISTRY
        shared: dict[str, Any] = {"registry": self._registry}
        timed: dict[str, Any] = {"buckets": _BOUNDS, **shared}
        counter, gauge = prometheus_client.Counter, prometheus_client.Gauge
        histogram = prometheus_client.Histogram
        self._runs = counter("flowloop_runs", "Runs that ended here", ["kind", "flow", "state"], **shared)
        self._seconds = histogram("flowloop_run_seconds", "How long runs took", ["kind", "flow"], **timed)
        self._bodies = histogram("flowloop_body_seconds", "How long bodies took", ["flow", "task"], **timed)
        self._waits = histogram("flowloop_wait_seconds", "How long task runs waited", ["flow", "task"], **timed)
        self._backlog = gauge("flowloop_backlog", "Writes that wait to be acknowledged", **shared)
        self._backlog.set_function(lambda: 0 if backend is None else backend.backlog)
        self._lag = gauge("flowloop_loop_lag_seconds", "By how much the event loop is late", **shared)
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        telemetry.measure(self)
        self._looking = asyncio.get_running_loop().create_task(self._look(), name="flowloop loop lag")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        telemetry.uninstrument(self)
        for collector in (self._runs, self._seconds, self._bodies, self._waits, self._backlog, self._lag):
            self._registry.unregister(collector)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK_EVERY
            await asyncio.sleep(_LOOK_EVERY)
            self._lag.set(max(loop.time() - due, 0.0))

    def flow_run(self, flow: str, state: str, seconds: float) -> None:
        """See `telemetry.Recorder`."""
        self._runs.labels("flow_run", flow, state).inc()
        self._seconds.labels("flow_run", flow).observe(seconds)

    def task_run(self, flow: str, task: str, state: str, seconds: float, waited: float) -> None:
        """See `telemetry.Recorder`."""
        self._runs.labels("task_run", flow, state).inc()
        self._seconds.labels("task_run", flow).observe(seconds)
        self._waits.labels(flow, task).observe(waited)

    def attempt(self, flow: str, task: str, state: str, seconds: float) -> None:
        """See `telemetry.Recorder`."""
        self._bodies.labels(flow, task).observe(seconds)
