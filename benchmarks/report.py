"""The page of results and its plots, made from the JSON alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import beside_peers, targets
from .harness import HEADS, Report, Row, cells, number, read

__all__ = ["write_page", "write_plots"]

_ORDER = (
    "engine",
    "growth",
    "sleepers",
    "threads",
    "memory",
    "responsiveness",
    "transitions",
    "recorded_run",
    "latency",
    "start",
    "imports",
    "beside_peers",
    "profiles",
)

_INTRODUCTION = """# Benchmarks

What flowloop costs, measured against a named baseline in the same run, on the machine named below. Two commands
measure it on yours:

```console
$ make bench          # every claim in its quick size: a few minutes
$ make bench-full     # the sizes of this page, and the peers, each in an environment of its own: about an hour
```

The first prints tables, and writes JSON and plots under `build/benchmarks/`. The second writes them to
`benchmarks/results/`, and makes this page from them. `make bench-guard` is what CI runs: in less than a minute it
checks that every ratio is at least 40 % of its target. One claim alone:
`python -m benchmarks transitions --scale full`.

How it is measured: contenders take turns, every other round backwards, so that whatever else the machine does meets
all of them. *Median* is that of the rounds, *spread* the distance from the best to the worst round as a part of it,
*ratio* the median of the ratios to the baseline, round by round. Each workload has an answer that is checked.
Bodies do next to nothing, so what is measured is what stands around them.
"""


# -- plots -----------------------------------------------------------------------------------------------


def write_plots(reports: Iterable[Report], folder: Path) -> None:
    """Draw each report as bars, one panel for each case, in ``<claim>.svg`` and ``<claim>.png``."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        print("no plots: they need an extra, pip install 'flowloop[bench]'")
        return
    mpl.use("agg")
    mpl.rcParams.update({"svg.hashsalt": "flowloop", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    for report in reports:
        panels = _panels(report.rows)
        heights = [len(rows) + 1.2 for rows in panels.values()]
        figure, axes = pyplot.subplots(
            len(panels), 1, figsize=(8, 0.24 * sum(heights) + 0.5), height_ratios=heights, squeeze=False
        )
        for axis, (title, rows) in zip(axes[:, 0], panels.items(), strict=True):
            _draw(axis, title, rows)
        figure.suptitle(report.title, fontsize=10)
        figure.tight_layout()
        figure.savefig(folder / f"{report.claim}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{report.claim}.png", dpi=110, metadata={"Software": None})
        pyplot.close(figure)


def _panels(rows: Iterable[Row]) -> dict[str, list[Row]]:
    panels: dict[str, list[Row]] = {}
    for row in rows:
        size = "" if row.size is None else f", N = {row.size:,}"
        panels.setdefault(f"{row.case}{size} [{row.unit}]", []).append(row)
    return panels


def _draw(axis: object, title: str, rows: list[Row]) -> None:
    names = [row.subject for row in rows][::-1]
    medians = [row.median for row in rows][::-1]
    lows = [row.median - min(row.values) for row in rows][::-1]
    highs = [max(row.values) - row.median for row in rows][::-1]
    colours = ["#1b7f79" if _is_ours(row) else "#b0b7bd" for row in rows][::-1]
    axis.barh(names, medians, xerr=[lows, highs], color=colours, height=0.7, error_kw={"lw": 0.8})  # type: ignore[attr-defined]
    positive = [median for median in medians if median > 0]
    if positive and max(positive) > 30 * min(positive):
        axis.set_xscale("log")  # type: ignore[attr-defined]
    axis.set_title(title, fontsize=8, loc="left")  # type: ignore[attr-defined]
    axis.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]


def _is_ours(row: Row) -> bool:
    return "asyncio" not in row.subject and "bare" not in row.subject and row.ratio is not None


# -- the page --------------------------------------------------------------------------------------------


def write_page(folder: Path, page: Path) -> None:
    """Write the page of results from the JSON in a folder, with its plots."""
    reports = read(folder)
    write_plots(reports.values(), folder)
    known = [name for name in _ORDER if name in reports]
    parts = [_INTRODUCTION, _environment([reports[name] for name in known]), _targets(reports)]
    parts += [_section(reports[name], folder, page) for name in known]
    page.write_text("\n".join(parts))
    print(f"{page} is made of {len(known)} reports")


def _environment(reports: list[Report]) -> str:
    if not reports:
        return ""
    first = reports[0].environment
    loads = [report.environment["load"][0] for report in reports]
    versions = ", ".join(f"{name} {found}" for name, found in first["packages"].items())
    commits = ", ".join(sorted({report.environment["commit"] for report in reports}))
    return (
        "## Where\n\n"
        f"{first['cores']} cores of {first['processor']}, {first['system']}, {first['python']}, "
        f"SQLite {first['sqlite']}; {versions}.\n\n"
        f"Measured from {min(report.environment['date'] for report in reports)} on, at commit {commits}. "
        f"Before each claim the load of the machine was {min(loads)} to {max(loads)}.\n"
    )


def _targets(reports: Mapping[str, Report]) -> str:
    found = targets.verdicts(reports)
    lines = [
        "## The targets\n",
        f"{sum(verdict.reached for verdict in found)} of {len(found)} are reached. "
        "*What bounds it* is what the profiles at the end of this page show.\n",
        "| what | target | measured | | what bounds it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for verdict in found:
        outcome = verdict.outcome if verdict.reached else f"**{verdict.outcome}**"
        measured = f"{number(verdict.value)} {verdict.target.unit}"
        lines.append(f"| {verdict.target.what} | {verdict.limit} | {measured} | {outcome} | {verdict.target.bound} |")
    return "\n".join(lines) + "\n"


def _section(report: Report, folder: Path, page: Path) -> str:
    lines = [f"## {report.title}\n"]
    if report.claim == "beside_peers":
        lines += ["How each is set up:\n", *_configurations(), ""]
    if report.claim == "profiles":
        lines += [*_profile(report.rows), ""]
        return "\n".join(lines)
    lines.append(f"![{report.title}]({_relative(folder, page)}/{report.claim}.svg)\n")
    lines.append(f"| {' | '.join(head for head in HEADS)} |")
    lines.append("| --- | ---: | --- | ---: | ---: | ---: | --- | --- |")
    lines += [f"| {' | '.join(cells(row))} |" for row in report.rows]
    return "\n".join(lines) + "\n"


def _configurations() -> list[str]:
    return [f"- **{peer.name}**: {' '.join(beside_peers.configuration(peer).split())}" for peer in beside_peers.PEERS]


def _profile(rows: list[Row]) -> list[str]:
    cases = dict.fromkeys(row.case for row in rows)
    lines = ["Samples of a running process, by the component that the innermost known frame belongs to.\n"]
    for case in cases:
        shares = sorted((row for row in rows if row.case == case), key=lambda row: -row.median)
        lines.append(f"- **{case}**: " + ", ".join(f"{row.subject} {row.median:.0f} %" for row in shares))
    return lines


def _relative(folder: Path, page: Path) -> str:
    return Path(os.path.relpath(folder, page.parent)).as_posix()
