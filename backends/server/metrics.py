"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics import exposition

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = exposition.CONTENT_TYPE_LATEST

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts requests and passes of the services, and shows how the flow runs are when it is asked.

    Args:
        - registry: of prometheus-client; one of its own if None
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        counted = ["kind", "status", "errors"]
        self._requests = Counter("flowloop_requests", "Requests to the API", counted, registry=self.registry)
        self._seconds = Histogram(
            "flowloop_request_seconds", "How long they took", buckets=_BOUNDS, registry=self.registry
        )
        self._passes = Counter(
            "flowloop_service_passes", "Passes of the services", ["service", "outcome"], registry=self.registry
        )
        self._runs = Gauge("flowloop_flow_runs", "Flow runs that are not finished", ["state"], registry=self.registry)
        self._ended = Gauge(
            "flowloop_flow_runs_ended", "Flow runs that ended within the last hour", ["state"], registry=self.registry
        )
        self._queue = Gauge(
            "flowloop_queue", "Flow runs that are due and that nobody has", ["labels"], registry=self.registry
        )
        self._age = Gauge(
            "flowloop_queue_age_seconds", "How long the first one waits that is due", registry=self.registry
        )
        self._lag = Gauge(
            "flowloop_loop_lag_seconds", "How long a turn of the event loop takes", registry=self.registry
        )

    def count_request(
        self, kind: str, status: int = 200, *, errors: bool = False, seconds: float | None = None
    ) -> None:
        """Count a request.

        Args:
            - kind: of its operation
            - status: of its answer
            - errors: whether that tells of any
            - seconds: how long it took, where that says something
        """
        self._requests.labels(kind, str(status), "true" if errors else "false").inc()
        if seconds is not None:
            self._seconds.observe(seconds)

    def count_pass(self, service: str, outcome: str) -> None:
        """Count a pass of a service."""
        self._passes.labels(service, outcome).inc()

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show a number that is read when it is asked for."""
        Gauge(f"flowloop_{name}", name, registry=self.registry).set_function(read)

    def show(
        self, runs: Mapping[str, int], ended: Mapping[str, int], queue: Mapping[str, int], age: float, lag: float
    ) -> None:
        """Show how the flow runs are.

        Args:
            - runs: how many are in each state that is not the end
            - ended: how many ended within the last hour, by their state
            - queue: how many are due and nobody has, by the labels of the workers that may take them
            - age: for how many seconds the first one waits that is due
            - lag: how many seconds a turn of the event loop takes
        """
        for gauge, numbers in ((self._runs, runs), (self._ended, ended), (self._queue, queue)):
            gauge.clear()
            for label, number in numbers.items():
                gauge.labels(label).set(number)
        self._age.set(age)
        self._lag.set(lag)

    def render(self) -> str:
        """Return the exposition."""
        text: bytes = exposition.generate_latest(self.registry)  # type: ignore[no-untyped-call]
        return text.decode()
