"""The history of ratios: whether what was once fast still is, on machines of one kind.

A ratio compares two contenders of one run, so it says little of how busy the machine was. The gate takes the median of
three runs, each in a process of its own, and compares it with the median of what was kept before. Ratios of another
processor, another number of cores or another Python are another history.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .harness import Report, number

__all__ = ["Change", "changes", "keep", "machine", "medians", "ratios", "read", "table"]

WARNING = 0.8
"""Below this part of what is usual a ratio is named."""

FAILURE = 0.6
"""Below this part of what is usual the gate is closed."""

_KEPT = 20


class Change(NamedTuple):
    """One ratio, beside what is usual.

    Args:
        - what: the claim, the case, the subject and its baseline
        - now: how good it is now; more is better
        - usual: how good it was
    """

    what: str
    now: float
    usual: float

    @property
    def part(self) -> float:
        """How good it is, as a part of what is usual."""
        return self.now / self.usual

    @property
    def verdict(self) -> str:
        """Whether that will do."""
        return "FAIL" if self.part < FAILURE else "warn" if self.part < WARNING else "ok"


def machine(environment: Mapping[str, Any]) -> str:
    """Return what machines have in common whose ratios can be compared, as the name of a file."""
    minor = ".".join(str(environment["python"]).split()[-1].split(".")[:2])
    text = f"{environment['processor']} {environment['cores']} cores Python {minor}"
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def ratios(reports: Iterable[Report]) -> dict[str, float]:
    """Return the ratios of the reports, each so that more is better."""
    found: dict[str, float] = {}
    for report in reports:
        for row in report.measured:
            if row.ratio:
                size = "" if row.size is None else f", {row.size:,}"
                what = f"{report.claim}: {row.case}{size}: {row.subject} to {row.baseline}"
                found[what] = row.ratio if row.unit.endswith("/s") else 1 / row.ratio
    return found


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each ratio that every run has."""
    common = set(runs[0]).intersection(*runs) if runs else set()
    return {what: statistics.median(run[what] for run in runs) for what in sorted(common)}


def read(folder: Path, name: str) -> list[dict[str, float]]:
    """Return what was kept of a machine, the oldest first; nothing if there is no history of it."""
    path = folder / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=list[dict[str, float]]) if path.exists() else []


def keep(folder: Path, name: str, found: Mapping[str, float]) -> None:
    """Add to what is kept of a machine."""
    folder.mkdir(parents=True, exist_ok=True)
    rounded = {what: float(f"{value:.4g}") for what, value in found.items()}
    kept = [*read(folder, name), rounded][-_KEPT:]
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")


def changes(found: Mapping[str, float], kept: Sequence[Mapping[str, float]]) -> list[Change]:
    """Return each ratio that has a history, beside the median of it; the worst first."""
    usual = {what: statistics.median(run[what] for run in kept if what in run) for what in set().union(*kept)}
    compared = [Change(what, value, usual[what]) for what, value in found.items() if what in usual]
    return sorted(compared, key=lambda change: change.part)


def table(compared: Sequence[Change]) -> str:
    """Return the changes as lines for the terminal."""
    lines = [
        f"{one.verdict:<5} {one.part:6.0%}  {one.what}: {number(one.now)}, usually {number(one.usual)}"
        for one in compared
    ]
    return "\n".join(["\nRatios, as a part of what is usual on such a machine", *lines])
