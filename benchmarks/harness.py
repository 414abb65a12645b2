"""The harness: contenders take turns, and every number keeps its unit, its baseline and where it was measured."""

from __future__ import annotations

import asyncio
import datetime
import gc
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import uvloop

__all__ = [
    "LOOPS",
    "NotMeasured",
    "Report",
    "Row",
    "Sample",
    "compare",
    "environment",
    "in_fresh_process",
    "missing",
    "one_row",
    "read",
    "seconds",
    "table",
    "write",
]

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

_ROOT = Path(__file__).parent.parent
_PACKAGES = (
    "flowloop",
    "anyio",
    "uvloop",
    "msgspec",
    "httpx",
    "gql",
    "graphql-core",
    "SQLAlchemy",
    "uvicorn",
    "asyncpg",
)


class Row(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One contender of one case.

    Args:
        - case: what was measured
        - subject: who was measured
        - unit: of `values`
        - values: one for each round
        - size: the number of tasks, transitions or whatever the case counts
        - baseline: the subject of the same case that `ratios` compare with
        - ratios: this value over the baseline's, round by round
        - details: further numbers of the same rounds, their medians
        - about: the versions of a peer; or, of a row without values, why there are none
    """

    case: str
    subject: str
    unit: str
    values: list[float]
    size: int | None = None
    baseline: str | None = None
    ratios: list[float] = []
    details: dict[str, float] = {}
    about: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """The median of the ratios to the baseline."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def best(self) -> float:
        """The best round: the greatest rate, or the least of anything else."""
        return max(self.values) if self.unit.endswith("/s") else min(self.values)

    @property
    def spread(self) -> float:
        """The distance between the worst and the best round, as a part of the median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0


class Report(msgspec.Struct, kw_only=True):
    """All rows of one claim, and where they were measured."""

    claim: str
    title: str
    scale: str
    environment: dict[str, Any]
    rows: list[Row]

    @property
    def measured(self) -> list[Row]:
        """The rows with values."""
        return [row for row in self.rows if row.values]

    @property
    def missing(self) -> list[Row]:
        """The rows without: what could not be measured, and why."""
        return [row for row in self.rows if not row.values]


class Sample(msgspec.Struct):
    """What a contender measured in one round: its value, further numbers, and what the row is to say of it."""

    value: float
    details: dict[str, float] = {}
    about: str = ""


Contender = Callable[[], "float | Sample"]


class NotMeasured(Exception):
    """A contender has no value to give, and says why."""


def seconds(body: Callable[[], Awaitable[Any]], loop: str = "asyncio") -> float:
    """Return how long a coroutine takes on an event loop of its own; starting the loop does not count."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.sleep(0))
        start = time.perf_counter()
        runner.run(_awaited(body))
        return time.perf_counter() - start


async def _awaited(body: Callable[[], Awaitable[Any]]) -> None:
    await body()


def compare(
    case: str,
    contenders: Mapping[str, Contender],
    *,
    unit: str,
    rounds: int,
    baseline: str | None = None,
    size: int | None = None,
    warm_up: bool = True,
) -> list[Row]:
    """Measure contenders in turns, so that whatever else the machine does meets all of them.

    Args:
        - case: what is measured
        - contenders: by name; each measures itself once and returns its value
        - unit: of the values
        - rounds: how many turns each contender has; every other round goes backwards
        - baseline: the contender that the others are compared with
        - size: how many tasks, or whatever the case counts
        - warm_up: whether each contender first runs once unmeasured

    Returns:
        - list[Row]: one for each; of a contender that drops out, which costs the others nothing, it says why
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    gone: dict[str, NotMeasured] = {}
    for number in range(-1 if warm_up else 0, rounds):
        for name in reversed(samples) if number % 2 else samples:
            if name in gone:
                continue
            gc.collect()
            try:
                sample = contenders[name]()
            except NotMeasured as error:
                gone[name] = error
                continue
            if number >= 0:
                samples[name].append(sample if isinstance(sample, Sample) else Sample(float(sample)))
    rows = []
    for name, taken in samples.items():
        if name in gone:
            rows.append(missing(case, name, gone[name]))
            continue
        ratios = []
        if baseline is not None and baseline not in gone and name != baseline:
            ratios = [one.value / base.value for one, base in zip(taken, samples[baseline], strict=True)]
        details = {key: statistics.median(sample.details[key] for sample in taken) for key in taken[0].details}
        rows.append(
            Row(
                case=case,
                subject=name,
                unit=unit,
                values=[sample.value for sample in taken],
                size=size,
                baseline=baseline if ratios else None,
                ratios=ratios,
                details=details,
                about=taken[-1].about,
            )
        )
        print(line(rows[-1]), flush=True)
    return rows


def in_fresh_process(*arguments: str, timeout: float = 600) -> dict[str, float]:
    """Run ``python -m`` with these arguments, so that nothing of this process counts, and return the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=_ROOT, stdout=subprocess.PIPE, timeout=timeout, check=True
    )
    found: dict[str, float] = msgspec.json.decode(done.stdout)
    return found


def one_row(case: str, subject: str, unit: str, values: Sequence[float], **more: Any) -> Row:
    """Return a row of something that has no contender, and print it."""
    row = Row(case=case, subject=subject, unit=unit, values=list(values), **more)
    print(line(row), flush=True)
    return row


def missing(case: str, subject: str, reason: object) -> Row:
    """Return a row of something that could not be measured, and print why."""
    print(f"{case}, {subject}: not measured: {reason}", flush=True)
    return Row(case=case, subject=subject, unit="", values=[], about=str(reason))


# -- where ---------------------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """Return what the numbers depend on: the machine and how busy it is, the interpreter, the versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _output("git", "rev-parse", "--short", "HEAD")
        + ("+" if _output("git", "diff", "HEAD", "--", ".", ":!benchmarks/results", ":!docs/benchmarks.md") else ""),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# -- for people ----------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Return a number with about three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.4f}"


HEADS = ("case", "size", "subject", "median", "best", "spread", "ratio", "")


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as the cells of a table, under `HEADS`."""
    ratio = row.ratio
    return (
        row.case,
        "" if row.size is None else f"{row.size:,}",
        row.subject,
        f"{number(row.median)} {row.unit}",
        number(row.best),
        f"{row.spread:.0%}" if len(row.values) > 1 else "",
        "" if ratio is None else f"{number(ratio)} × {row.baseline}",
        ", ".join(f"{name} {number(value)}" for name, value in row.details.items()),
    )


_WIDTHS = (36, 10, 34, 16, 9, 7, 28, 0)


def line(row: Row) -> str:
    """Return a row as a line of fixed columns."""
    return table_line(cells(row))


def table_line(texts: Sequence[str]) -> str:
    """Return texts in the columns of the table."""
    return "  ".join(text.ljust(width) for text, width in zip(texts, _WIDTHS, strict=True)).rstrip()


def table(title: str) -> str:
    """Return the head of a table on the terminal."""
    return f"\n{title}\n{table_line(HEADS)}"


def write(report: Report, folder: Path) -> Path:
    """Write a report as ``<claim>.json``, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.claim}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return path


def read(folder: Path) -> dict[str, Report]:
    """Return the reports in a folder, by claim."""
    return {path.stem: msgspec.json.decode(path.read_bytes(), type=Report) for path in sorted(folder.glob("*.json"))}


if sys.version_info < (3, 12):
    print("note: on this Python tasks cannot start eagerly; the engine is faster on 3.12 and later", file=sys.stderr)
