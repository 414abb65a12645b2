"""The targets: what was promised before the first line was written, and whether it is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .harness import Report, Row, number

__all__ = ["TARGETS", "Target", "Verdict", "table", "verdicts"]


class Target(NamedTuple):
    """One promise.

    Args:
        - what: the promise in words
        - claim: the claim that measures it
        - subject: the row's subject
        - case: the row's case, or the beginning of it
        - size: the row's size, where several are measured
        - smallest: the least size that counts
        - baseline: the row's baseline, where several are measured
        - detail: a number of `Row.details` instead of the median or ratio
        - absolute: whether the median counts, not the ratio
        - at_least, at_most: the limit; of several rows the worst counts
        - unit: of the limit
        - profile: the profiles of what is measured; the page quotes what takes most in each
        - bound: what else there is to say of what keeps the number from being better
    """

    what: str
    claim: str
    subject: str
    case: str = ""
    size: int | None = None
    smallest: int = 0
    baseline: str = ""
    detail: str = ""
    absolute: bool = False
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"
    profile: tuple[str, ...] = ()
    bound: str = ""

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
            and self.smallest <= (row.size or 0)
            and self.baseline in ("", row.baseline)
        )

    def _value(self, row: Row) -> float | None:
        if self.detail:
            return row.details.get(self.detail)
        return row.median if self.absolute else row.ratio

    def is_reached(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.at_least if self.at_least is not None else value <= self.limit


def _engine(case: str, at_least: float = 0.4) -> Target:
    return Target(
        f"engine, {case}, N = 10,000, against bare `asyncio.TaskGroup`, both on the standard loop",
        claim="engine",
        case=case,
        subject="flowloop",
        size=10_000,
        at_least=at_least,
        profile=(f"engine, {case}",),
    )


def _processes(case: str, where: str) -> tuple[str, ...]:
    """The profiles of a recorded case: of one process, or of a client and its server."""
    parts = ("",) if where.startswith("embedded") else (": client", ": server")
    return tuple(f"{case}, {where}{part}" for part in parts)


def _rate(where: str, coroutines: str, at_least: float) -> Target:
    return Target(
        f"acknowledged transitions, {where}, {coroutines} coroutines",
        claim="transitions",
        case=f"{coroutines} coroutines",
        subject=where,
        absolute=True,
        at_least=at_least,
        unit="/s",
        profile=_processes("transitions", where),
        bound="" if coroutines == "2,000" else "as profiled with 2,000",
    )


def _flow_runs(where: str, at_least: float, at_most: float | None) -> list[Target]:
    claim, unit = "flow_runs", "/s"
    what = f"flow runs of three tasks, {where}"
    many = Target(
        f"{what}, 100 at once",
        claim,
        where,
        "100 at once",
        absolute=True,
        at_least=at_least,
        unit=unit,
        profile=_processes("flow runs", where),
    )
    if at_most is None:
        return [many]
    alone = Target(
        f"… their p50, {where}, one at a time",
        claim,
        where,
        "one at a time",
        detail="p50 ms",
        at_most=at_most,
        unit="ms",
        profile=_processes("one flow run", where),
        bound="four commits, one after the other",
    )
    return [many, alone]


def _p99(where: str, coroutines: str, at_most: float) -> Target:
    return Target(
        f"… their p99, {where}, {coroutines} coroutines",
        claim="transitions",
        case=f"{coroutines} coroutines",
        subject=where,
        detail="p99 ms",
        at_most=at_most,
        unit="ms",
        profile=_processes("transitions", where),
        bound="the number of coroutines over the rate: each waits for one or two batches, the slowest for SQLite, "
        "which syncs its log while that is copied into the file",
    )


def _recorded(what: str, where: str, at_most: float) -> Target:
    return Target(
        what,
        claim="recorded_run",
        subject=where,
        smallest=2_000,
        at_most=at_most,
        profile=_processes("recorded run", where),
    )


def _prefect(name: str) -> Target:
    return Target(
        f"… against {name}",
        claim="beside_peers",
        subject="flowloop",
        baseline=name,
        at_least=500,
        profile=("engine, diamond, 10 kB",),
        bound="flowloop's part of the worst, the diamond",
    )


def _dispatched(where: str, p99: float) -> list[Target]:
    claim = "dispatch"
    what = f"from the creation of a flow run to its first body on a worker of another process, {where}"
    idle = {"claim": claim, "case": "an idle queue", "subject": where, "unit": "ms"}
    bound = "commits, one after the other: of the flow run, its reservation, its Running and that of its task run"
    return [
        Target(f"{what}, p50", **idle, detail="p50 ms", at_most=10, bound=bound),
        Target(f"… their p99, {where}", **idle, detail="p99 ms", at_most=p99, bound=bound),
        Target(
            f"an idle worker, {where}",
            claim,
            where,
            "an idle worker",
            absolute=True,
            at_most=0.5,
            unit="% of a core",
        ),
        Target(
            f"1,000 queued flow runs, taken and ended by one worker, {where}",
            claim,
            where,
            "a full queue",
            absolute=True,
            at_least=1_500,
            unit="/s",
            profile=_processes("full queue", where),
        ),
    ]


def _statements(case: str, what: str, at_most: float) -> list[Target]:
    return [
        Target(
            f"statements on PostgreSQL: {what}",
            "statements",
            "embedded, PostgreSQL",
            case,
            absolute=True,
            at_most=at_most,
            unit="statements",
        )
    ]


def _beside_a_map(detail: str, at_most: float) -> list[Target]:
    return [
        Target(
            f"a flow of three tasks, 20 clients, beside a recorded map of 10,000, embedded: {detail.split()[0]}",
            "responsiveness",
            "embedded, FULL",
            "a flow of three tasks",
            detail=detail,
            at_most=at_most,
            unit="ms",
            bound="the map has the loop: a step of a small flow waits for its turn, and for batches that the map fills",
        )
    ]


def _start(what: str, where: str) -> Target:
    return Target(
        what,
        claim="start",
        subject=where,
        absolute=True,
        at_most=1.0,
        unit="s",
        profile=_processes("start", where),
    )


TARGETS: tuple[Target, ...] = (
    _engine("fan-out, reduce", 0.6),
    _engine("map, reduce", 0.65),
    _engine("chain"),
    _engine("layers", 0.55),
    _engine("map, map, reduce"),
    _engine("diamond, 10 kB"),
    Target(
        "engine, against Apache Hamilton's async driver, every workload",
        claim="beside_peers",
        subject="flowloop",
        baseline="Hamilton, async driver",
        at_least=1.0,
        profile=("engine, sleepers, static",),
        bound="the worst are the sleepers; the others are bounded as above",
    ),
    _prefect("Prefect 1.4.1"),
    _prefect("Prefect 3"),
    Target(
        "growth: time per task at N = 1,000,000 against N = 10,000",
        claim="growth",
        subject="1,000,000",
        at_most=1.3,
        profile=("engine, map, reduce, N = 1,000,000",),
    ),
    Target(
        "growth: 100,000 against 10,000, a chain among them",
        claim="growth",
        subject="100,000",
        at_most=1.3,
        profile=("engine, chain",),
    ),
    Target(
        "memory kept for a finished mapped child",
        claim="memory",
        case="mapped child",
        subject="the final state",
        absolute=True,
        at_most=1_024,
        unit="B",
        bound="the objects a run keeps: a state and its result",
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
        profile=("engine, sleepers, mapped",),
    ),
    Target(
        "10,000 sleepers of 0.1 s, static, against the bare loop",
        claim="sleepers",
        subject="flowloop, static",
        size=10_000,
        at_most=1.5,
        profile=("engine, sleepers, static",),
    ),
    Target(
        "sync bodies in threads, against `anyio.to_thread.run_sync`",
        claim="threads",
        subject="flowloop",
        at_most=1.5,
        profile=("engine, sync bodies",),
    ),
    _rate("HTTP, SQLite NORMAL", "200", 25_000),
    _rate("HTTP, SQLite NORMAL", "2,000", 35_000),
    _p99("HTTP, SQLite NORMAL", "200", 10),
    _p99("HTTP, SQLite NORMAL", "2,000", 50),
    Target(
        "… against one request per transition",
        claim="transitions",
        subject="HTTP, SQLite NORMAL",
        at_least=20,
        profile=_processes("transitions", "HTTP, SQLite NORMAL"),
    ),
    _rate("embedded, FULL", "2,000", 30_000),
    _rate("HTTP, PostgreSQL", "2,000", 18_000),
    _recorded(
        "recorded flow run of 10,000 tasks, embedded, against engine alone + transitions alone", "embedded, FULL", 2.0
    ),
    _recorded("… over HTTP, the same", "HTTP, SQLite NORMAL", 3.0),
    Target(
        "… embedded, against DBOS on SQLite, fan-out",
        claim="beside_peers",
        case="fan-out",
        subject="flowloop",
        size=10_000,
        baseline="DBOS on SQLite",
        at_least=40,
        profile=_processes("recorded run", "embedded, FULL"),
    ),
    *_flow_runs("embedded, FULL", 1_500, 4),
    Target(
        "… against DBOS on SQLite, 100 at once",
        claim="flow_runs",
        case="100 at once",
        subject="embedded, FULL",
        baseline="DBOS on SQLite",
        at_least=15,
        profile=_processes("flow runs", "embedded, FULL"),
    ),
    *_flow_runs("HTTP, SQLite FULL", 1_000, 10),
    *_flow_runs("HTTP, PostgreSQL", 1_000, None),
    Target(
        "flow runs of one task, embedded, PostgreSQL, 500 at once",
        claim="flow_runs",
        case="of one task",
        subject="embedded, PostgreSQL",
        absolute=True,
        at_least=2_000,
        unit="/s",
    ),
    *_dispatched("HTTP, PostgreSQL", 25),
    *_dispatched("embedded, FULL", 50),
    *_statements("a flow run of three tasks", "a flow run of three tasks, 100 at once", 6),
    *_statements("a further idle worker", "an idle worker, a second", 0.1),
    *_statements("a watched flow run", "a watched flow run, a second", 0),
    Target(
        "longest that a recorded map of 10,000 blocks the loop, embedded",
        claim="responsiveness",
        case="map, reduce, recorded",
        subject="embedded, FULL",
        absolute=True,
        at_most=25,
        unit="ms",
        bound="a full collection of garbage walks all objects of the process, 77,000 of which are there before the "
        "first run: SQLAlchemy's for the most part",
    ),
    *_beside_a_map("p50 ms", 60),
    *_beside_a_map("p99 ms", 150),
    Target(
        "latency per task of a strict chain, HTTP, SQLite NORMAL",
        claim="latency",
        subject="HTTP, SQLite NORMAL",
        absolute=True,
        at_most=3.0,
        unit="ms",
        profile=_processes("strict chain", "HTTP, SQLite NORMAL"),
        bound="two round trips, each with a commit",
    ),
    _start("start of a flow run with 10,000 tasks, to the first body, embedded", "embedded, FULL"),
    _start("… over HTTP", "HTTP, SQLite NORMAL"),
    *(
        Target(
            f"each question of the page, 1,000,000 task runs, {database}",
            claim="page",
            subject=database,
            size=1_000_000,
            absolute=True,
            at_most=100,
            unit="ms",
            bound="what counts or times all task runs of a flow run reads the 5,000 of it",
        )
        for database in ("SQLite", "PostgreSQL")
    ),
    Target(
        "`import flowloop.engine`, more than bare Python",
        claim="imports",
        case="more than bare Python",
        subject="flowloop.engine",
        absolute=True,
        at_most=120,
        unit="ms",
        bound="how much of it is asyncio, the table of imports says",
    ),
    Target(
        "packages of the base installation",
        claim="imports",
        case="installation",
        subject="base",
        absolute=True,
        at_most=20,
        unit="packages",
        bound="what the dependencies depend on",
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


def verdicts(reports: Mapping[str, Report]) -> list[Verdict]:
    """Return a verdict for every target that was measured."""
    found = []
    for target in TARGETS:
        report = reports.get(target.claim)
        value = None if report is None else target.measured(report.measured)
        if value is not None:
            found.append(Verdict(target, value, target.is_reached(value)))
    return found


def table(reports: Mapping[str, Report]) -> str:
    """Return the targets as a table for the terminal."""
    lines = [
        f"{'ok  ' if verdict.reached else 'MISS'}  {verdict.target.what:<84}  "
        f"{number(verdict.value)} {verdict.target.unit} ({verdict.limit})"
        for verdict in verdicts(reports)
    ]
    return "\n".join(["\nTargets", *lines])
