"""What the server counts, in the text format of OpenMetrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts requests, states and passes of the services."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, str], float] = defaultdict(float)
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self._gauges: dict[str, Callable[[], float]] = {}

    def count(self, name: str, label: str = "", by: float = 1) -> None:
        """Add to the counter ``flowloop_<name>_total``.

        Args:
            - name: the counter
            - label: its labels, ``kind="query"`` for instance
            - by: how much
        """
        self._counters[name, label] += by

    def observe(self, seconds: float) -> None:
        """Add one request to the histogram of durations."""
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show a number that is read when it is asked for."""
        self._gauges[name] = read

    def render(self) -> str:
        """Return the exposition."""
        lines: list[str] = []
        for name in sorted({name for name, _ in self._counters}):
            lines.append(f"# TYPE flowloop_{name} counter")
            lines += [
                f"flowloop_{name}_total{{{label}}} {_shown(value)}"
                if label
                else f"flowloop_{name}_total {_shown(value)}"
                for (other, label), value in sorted(self._counters.items())
                if other == name
            ]
        lines.append("# TYPE flowloop_request_seconds histogram")
        total = 0
        for bound, number in zip((*map(str, _BOUNDS), "+Inf"), self._buckets, strict=True):
            total += number
            lines.append(f'flowloop_request_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"flowloop_request_seconds_count {total}", f"flowloop_request_seconds_sum {_shown(self._seconds)}"]
        for name, read in sorted(self._gauges.items()):
            lines += [f"# TYPE flowloop_{name} gauge", f"flowloop_{name} {_shown(read())}"]
        return "\n".join([*lines, "# EOF", ""])


def _shown(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
