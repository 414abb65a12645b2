"""The targets: what was promised before the first line was written, and whether it is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .harness import Report, Row, number

__all__ = ["GUARD_ROOM", "TARGETS", "Target", "Verdict", "missed", "table", "verdicts"]

GUARD_ROOM = 0.4
"""The guard is content with this part of a target: it is there to notice a mistake, not to measure."""


class Target(NamedTuple):
    """One promise.

    Args:
        - what: the promise in words
        - claim: the claim that measures it
        - subject: the row's subject
        - case: the row's case, or the beginning of it
        - size: the row's size, where several are measured
        - baseline: the row's baseline, where several are measured
        - detail: a number of `Row.details` instead of the median or ratio
        - absolute: whether the median counts, not the ratio
        - at_least, at_most: the limit; of several rows the worst counts
        - unit: of the limit
        - bound: what keeps the number from being better, as the profile shows
    """

    what: str
    claim: str
    subject: str
    case: str = ""
    size: int | None = None
    baseline: str = ""
    detail: str = ""
    absolute: bool = False
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"
    bound: str = ""

    @property
    def is_ratio(self) -> bool:
        """Whether the value compares with a baseline of the same run."""
        return not self.absolute and not self.detail

    @property
    def limit(self) -> float:
        """The limit, whichever way it goes."""
        limit = self.at_least if self.at_least is not None else self.at_most
        assert limit is not None
        return limit

    def measured(self, rows: Sequence[Row]) -> float | None:
        """Return the worst of the rows that this target speaks of, or None if there is none."""
        found = [value for row in rows if self._speaks_of(row) and (value := self._value(row)) is not None]
        if not found:
            return None
        return min(found) if self.at_least is not None else max(found)

    def _speaks_of(self, row: Row) -> bool:
        return (
            row.subject == self.subject
            and row.case.startswith(self.case)
            and self.size in (None, row.size)
            and self.baseline in ("", row.baseline)
        )

    def _value(self, row: Row) -> float | None:
        if self.detail:
            return row.details.get(self.detail)
        return row.median if self.absolute else row.ratio

    def is_reached(self, value: float, room: float = 1.0) -> bool:
        """Whether a value is good enough, or `room` times as good as that."""
        return value >= self.at_least * room if self.at_least is not None else value <= self.limit / room


def _engine(case: str, bound: str) -> Target:
    return Target(
        f"engine, {case}, N = 10,000, against bare `asyncio.TaskGroup`, both on the standard loop",
        claim="engine",
        case=case,
        subject="flowloop",
        size=10_000,
        at_least=0.4,
        bound=bound,
    )


def _rate(where: str, coroutines: str, at_least: float, bound: str) -> Target:
    return Target(
        f"acknowledged transitions, {where}, {coroutines} coroutines",
        claim="transitions",
        case=f"{coroutines} coroutines",
        subject=where,
        absolute=True,
        at_least=at_least,
        unit="/s",
        bound=bound,
    )


def _p99(where: str, coroutines: str, at_most: float) -> Target:
    return Target(
        f"… their p99, {where}, {coroutines} coroutines",
        claim="transitions",
        case=f"{coroutines} coroutines",
        subject=where,
        detail="p99 ms",
        at_most=at_most,
        unit="ms",
        bound="the number of coroutines over the rate: each waits for one or two batches",
    )


_PYTHON_LINES = "the interpreter: a task run makes its context, its two states and its result, and passes the checks"
_CLIENT = "the CPU of the client: writing the document, one request for a thousand of them, waking who waits"

TARGETS: tuple[Target, ...] = (
    _engine("fan-out, reduce", _PYTHON_LINES),
    _engine("map, reduce", _PYTHON_LINES),
    _engine("map, map, reduce", _PYTHON_LINES),
    _engine("layers", _PYTHON_LINES + "; and garbage collection of the graph"),
    Target(
        "engine, against Apache Hamilton's async driver, every workload",
        claim="beside_peers",
        subject="flowloop",
        baseline="Hamilton, async driver",
        at_least=1.0,
        bound="as above",
    ),
    Target("… against Prefect 1.4.1", "beside_peers", "flowloop", baseline="Prefect 1.4.1", at_least=500),
    Target("… against Prefect 3", "beside_peers", "flowloop", baseline="Prefect 3", at_least=500),
    Target(
        "growth: time per task at N = 1,000,000 against N = 10,000",
        claim="growth",
        subject="1,000,000",
        at_most=1.3,
        bound="garbage collection: every full collection walks all that is kept",
    ),
    Target("growth: 100,000 against 10,000, a chain among them", "growth", "100,000", at_most=1.3, bound="the same"),
    Target(
        "memory kept for a finished mapped child",
        claim="memory",
        case="mapped child",
        subject="the final state",
        absolute=True,
        at_most=1_024,
        unit="B",
        bound="a state, its result and its context, three objects",
    ),
    Target(
        "memory kept for a finished static task run",
        claim="memory",
        case="static task run",
        subject="the final state",
        absolute=True,
        at_most=2_048,
        unit="B",
        bound="the same, and its place in the result of the flow",
    ),
    Target(
        "10,000 sleepers of 0.1 s, mapped, against the bare loop",
        claim="sleepers",
        subject="flowloop, mapped",
        size=10_000,
        at_most=1.5,
        bound="starting ten thousand runs takes longer than the nap",
    ),
    Target(
        "10,000 sleepers of 0.1 s, static, against the bare loop",
        claim="sleepers",
        subject="flowloop, static",
        size=10_000,
        at_most=1.5,
        bound="the same",
    ),
    Target(
        "sync bodies in threads, against `anyio.to_thread.run_sync`",
        claim="threads",
        subject="flowloop",
        at_most=1.5,
        bound="handing a call to a thread and back; the engine adds its few microseconds",
    ),
    _rate("HTTP, SQLite NORMAL", "200", 25_000, _CLIENT),
    _rate("HTTP, SQLite NORMAL", "2,000", 35_000, _CLIENT),
    _p99("HTTP, SQLite NORMAL", "200", 10),
    _p99("HTTP, SQLite NORMAL", "2,000", 50),
    Target(
        "… against one request per transition",
        claim="transitions",
        subject="HTTP, SQLite NORMAL",
        at_least=20,
        bound="as above",
    ),
    _rate(
        "embedded, FULL",
        "2,000",
        30_000,
        "the Python lines around SQLite share one interpreter lock with the coroutines",
    ),
    _rate("HTTP, PostgreSQL", "2,000", 18_000, "PostgreSQL: a row inserted and a row updated for each transition"),
    Target(
        "recorded flow run, embedded, against engine alone + transitions alone",
        claim="recorded_run",
        subject="embedded, FULL",
        at_most=2.0,
        bound="one interpreter for the engine and the store",
    ),
    Target(
        "recorded flow run, HTTP, the same",
        claim="recorded_run",
        subject="HTTP, SQLite NORMAL",
        at_most=3.0,
        bound=_CLIENT,
    ),
    Target(
        "recorded flow run, embedded, against DBOS on SQLite, fan-out",
        claim="beside_peers",
        case="fan-out",
        subject="flowloop",
        baseline="DBOS on SQLite",
        at_least=30,
    ),
    Target(
        "latency per task of a strict chain, HTTP, SQLite NORMAL",
        claim="latency",
        subject="HTTP, SQLite NORMAL",
        absolute=True,
        at_most=3.0,
        unit="ms",
        bound="two round trips, each through httpx, uvicorn and a commit",
    ),
    Target(
        "start of a flow run with 10,000 tasks, to the first body, embedded",
        claim="start",
        subject="embedded, FULL",
        absolute=True,
        at_most=1.0,
        unit="s",
        bound="ten thousand rows written, read, and made states of",
    ),
    Target(
        "… over HTTP",
        claim="start",
        subject="HTTP, SQLite NORMAL",
        absolute=True,
        at_most=1.0,
        unit="s",
        bound="the same, and a JSON document of ten thousand task runs",
    ),
    Target(
        "`import flowloop.engine`, more than bare Python",
        claim="imports",
        case="more than bare Python",
        subject="flowloop.engine",
        absolute=True,
        at_most=120,
        unit="ms",
        bound="asyncio itself is half of it",
    ),
    Target(
        "packages of the base installation",
        claim="imports",
        case="installation",
        subject="base",
        absolute=True,
        at_most=20,
        unit="packages",
    ),
)


class Verdict(NamedTuple):
    """A target and what was measured."""

    target: Target
    value: float
    reached: bool

    @property
    def limit(self) -> str:
        """The limit as a text."""
        sign = "≥" if self.target.at_least is not None else "≤"
        return f"{sign} {number(self.target.limit)} {self.target.unit}"

    @property
    def outcome(self) -> str:
        """Whether the target was reached, or by how much it was missed."""
        if self.reached:
            return "reached"
        least = self.target.at_least is not None
        times = self.target.limit / self.value if least else self.value / self.target.limit
        return f"missed by {number(times)} ×"


def verdicts(reports: Mapping[str, Report], room: float = 1.0) -> list[Verdict]:
    """Return a verdict for every target that was measured."""
    found = []
    for target in TARGETS:
        report = reports.get(target.claim)
        if room != 1.0 and not target.is_ratio:
            continue  # how fast the machine is, and how busy, is none of the guard's business
        value = None if report is None else target.measured(report.rows)
        if value is not None:
            found.append(Verdict(target, value, target.is_reached(value, room)))
    return found


def missed(reports: Mapping[str, Report], room: float = 1.0) -> list[Verdict]:
    """Return the verdicts on the targets that were not reached."""
    return [verdict for verdict in verdicts(reports, room) if not verdict.reached]


def table(reports: Mapping[str, Report], room: float = 1.0) -> str:
    """Return the targets as a table for the terminal."""
    head = "\nTargets" if room == 1.0 else f"\nTargets, with room: {room:.0%} of each will do"
    lines = [
        f"{'ok  ' if verdict.reached else 'MISS'}  {verdict.target.what:<84}  "
        f"{number(verdict.value)} {verdict.target.unit} ({verdict.limit})"
        for verdict in verdicts(reports, room)
    ]
    return "\n".join([head, *lines])
