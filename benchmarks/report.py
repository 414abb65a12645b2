"""The page of results and its plots, made from the JSON alone."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import beside_peers, targets
from .harness import HEADS, Report, Row, cells, number, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

__all__ = ["write_page", "write_plots"]

_ORDER = (
    "engine",
    "calls",
    "growth",
    "sleepers",
    "threads",
    "memory",
    "responsiveness",
    "transitions",
    "recorded_run",
    "flow_runs",
    "dispatch",
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
$ make bench-full     # the sizes of this page, and the peers, each in an environment of its own: about 40 minutes
```

The first prints tables, and writes JSON and plots under `build/benchmarks/`. The second writes them to
`benchmarks/results/` after each claim, and makes this page from them; `make bench-full ARGS=--resume` goes on after an
interruption. `make bench-gate` measures the ratios thrice and compares them with the history of such a machine in
`benchmarks/history/`. One claim alone: `python -m benchmarks transitions --scale full`.

How it is measured: contenders take turns, every other round backwards, so that whatever else the machine does meets
all of them. *Median* is that of the rounds, *spread* the distance from the best to the worst round as a part of it,
*ratio* the median of the ratios to the baseline, round by round; in the plots a thin line spans the rounds. Each
workload has an answer that is checked. Bodies do next to nothing, so what is measured is what stands around them.
"""


# -- plots -----------------------------------------------------------------------------------------------

_OURS, _BASELINE, _OTHER = "#0f766e", "#334155", "#b6bec8"
_SPREAD = "#b45309"
_GROUPS = {
    "flowloop": "#0f766e",
    "database": "#334155",
    "HTTP and GraphQL": "#8a97a8",
    "garbage collection": "#b45309",
    "event loop, bodies": "#d5dae1",
}
"""The colours of a profile; a component is flowloop's own unless `_GROUP_OF` says otherwise."""

_GROUP_OF = {
    **dict.fromkeys(("SQLite itself", "SQLAlchemy", "asyncpg"), "database"),
    **dict.fromkeys(("gql and GraphQL", "httpx", "uvicorn and starlette"), "HTTP and GraphQL"),
    **dict.fromkeys(("event loop", "bodies and the benchmark"), "event loop, bodies"),
    "garbage collection": "garbage collection",
}
_PEERS = {peer.name for peer in beside_peers.PEERS}


def write_plots(reports: Iterable[Report], folder: Path) -> None:
    """Draw each report as bars, one panel for each case, in ``<claim>.svg`` and ``<claim>.png``."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        print("no plots: they need an extra, pip install 'flowloop[bench]'")
        return
    mpl.use("agg")
    mpl.rcParams.update(
        {"svg.hashsalt": "flowloop", "svg.fonttype": "none", "font.size": 9, "axes.edgecolor": "#8a97a8"}
    )
    for report in reports:
        if not report.measured:
            continue
        figure = _shares(report) if report.claim == "profiles" else _bars(report)
        figure.savefig(folder / f"{report.claim}.svg", metadata={"Date": None}, bbox_inches="tight")
        figure.savefig(folder / f"{report.claim}.png", dpi=110, metadata={"Software": None}, bbox_inches="tight")
        figure.clear()


def _bars(report: Report) -> Figure:
    """Panels in two columns, a bar for each contender, its ratio to the baseline at its end."""
    from matplotlib.figure import Figure

    panels = list(_panels(report.measured).items())
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    tallest = [max(len(own) for _, own in panels[row * columns : (row + 1) * columns]) + 1.6 for row in range(rows)]
    figure = Figure(figsize=(6.2 * columns, 0.27 * sum(tallest) + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, height_ratios=tallest, squeeze=False).flat
    for axis, (title, own) in itertools.zip_longest(axes, panels, fillvalue=(None, None)):
        if title is None:
            axis.axis("off")
        else:
            _draw(axis, title, own)
    figure.suptitle(report.title, fontsize=11, fontweight="bold")
    return figure


def _panels(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each panel: those of one case, size and unit; or flowloop's beside all peers, by workload."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row.baseline in _PEERS:
            panels.setdefault(f"{row.case.partition(', ')[0]}: flowloop's rate, over the peer's", []).append(row)
        elif row.subject not in _PEERS:
            size = "" if row.size is None else f", N = {row.size:,}"
            panels.setdefault(f"{row.case}{size}  [{row.unit}]", []).append(row)
    return panels


def _draw(axis: Axes, title: str, rows: list[Row]) -> None:
    if rows[0].baseline in _PEERS:
        _draw_ratios(axis, rows)
    else:
        _draw_medians(axis, rows)
    axis.set_title(title, fontsize=9, loc="left")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.22)


def _draw_medians(axis: Axes, rows: list[Row]) -> None:
    baselines = {row.baseline for row in rows}
    rows = rows[::-1]
    medians = [row.median for row in rows]
    spread = [[row.median - min(row.values) for row in rows], [max(row.values) - row.median for row in rows]]
    colours = [_BASELINE if row.subject in baselines else _OURS for row in rows]
    names = [f"{row.subject} (baseline)" if row.subject in baselines else row.subject for row in rows]
    bars = axis.barh(names, medians, xerr=spread, color=colours, height=0.72, error_kw={"lw": 1, "ecolor": _SPREAD})
    _label(
        axis,
        bars,
        [number(row.median) if row.ratio is None else f"{number(row.median)}   {number(row.ratio)} ×" for row in rows],
    )
    if min(medians) > 0 and max(medians) > 30 * min(medians):
        axis.set_xscale("log")
    else:
        axis.set_xticks([])


def _draw_ratios(axis: Axes, rows: list[Row]) -> None:
    """Bars that begin at one: to the right flowloop is ahead, to the left the peer is."""
    rows = rows[::-1]
    names = [f"{row.baseline}, N = {row.size:,}" for row in rows]
    ratios = [row.ratio or 0.0 for row in rows]
    colours = [_OURS if ratio >= 1 else _OTHER for ratio in ratios]
    axis.set_xscale("log")
    bars = axis.barh(names, [ratio - 1 for ratio in ratios], left=1, color=colours, height=0.72)
    _label(axis, bars, [f"{number(ratio)} ×" for ratio in ratios])
    axis.axvline(1, color=_BASELINE, lw=1)


def _label(axis: Axes, bars: BarContainer, texts: list[str]) -> None:
    axis.bar_label(bars, texts, padding=6, fontsize=8)


def _shares(report: Report) -> Figure:
    """A bar for each profile, its parts by what they belong to."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    cases = _by_case(report.measured)
    figure = Figure(figsize=(12, 0.32 * len(cases) + 1), layout="constrained")
    axis = figure.subplots()
    for place, rows in enumerate(cases.values()):
        left = 0.0
        for row in sorted(rows, key=_group):
            _draw_share(axis, place, left, row)
            left += row.median
    axis.set_yticks(range(len(cases)), cases)
    axis.set_ylim(len(cases) - 0.4, -0.6)
    axis.set_xlim(0, 100)
    axis.set_xlabel("% of the samples")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    legend = [Patch(color=colour, label=group) for group, colour in _GROUPS.items()]
    figure.legend(handles=legend, loc="outside upper center", ncols=len(legend), frameon=False)
    return figure


def _group(row: Row) -> int:
    return list(_GROUPS).index(_GROUP_OF.get(row.subject, "flowloop"))


def _draw_share(axis: Axes, place: int, left: float, row: Row) -> None:
    colour = list(_GROUPS.values())[_group(row)]
    axis.barh(place, row.median, left=left, color=colour, edgecolor="white", height=0.8)
    text = f"{row.subject} {row.median:.0f} %"
    if 0.6 * len(text) < row.median:
        ink = "black" if colour == _GROUPS["event loop, bodies"] else "white"
        axis.text(left + 0.5, place, text, va="center", fontsize=6.5, color=ink)


# -- the page --------------------------------------------------------------------------------------------


def write_page(folder: Path, page: Path) -> None:
    """Write the page of results from the JSON in a folder, with its plots."""
    reports = read(folder)
    write_plots(reports.values(), folder)
    known = [name for name in _ORDER if name in reports]
    parts = [_INTRODUCTION, _environment([reports[name] for name in known]), _targets(reports), _missing(reports)]
    parts += [_section(reports[name], folder, page) for name in known]
    page.write_text("\n".join(part for part in parts if part))
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
        f"Measured from {min(report.environment['date'] for report in reports)} on, at commit {commits}, in "
        f"{sum(report.environment['seconds'] for report in reports) / 60:.0f} minutes. "
        f"Before each claim the load of the machine was {min(loads)} to {max(loads)}.\n"
    )


def _targets(reports: Mapping[str, Report]) -> str:
    found = targets.verdicts(reports)
    shares = _by_case(reports["profiles"].measured) if "profiles" in reports else {}
    lines = [
        "## The targets\n",
        _summary(found),
        "\n*What bounds it* quotes the profiles at the end of this page: the three largest parts, and how busy the "
        "process is.\n",
        "| what | target | measured | | what bounds it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for verdict in found:
        outcome = verdict.outcome if verdict.reached else f"**{verdict.outcome}**"
        measured = f"{number(verdict.value)} {verdict.target.unit}"
        bound = _bound(verdict.target, shares)
        lines.append(f"| {verdict.target.what} | {verdict.limit} | {measured} | {outcome} | {bound} |")
    return "\n".join(lines) + "\n"


def _summary(found: list[targets.Verdict]) -> str:
    missed = [verdict for verdict in found if not verdict.reached]
    text = f"{len(found) - len(missed)} of {len(found)} are reached."
    if not missed:
        return text
    each = "; ".join(
        f"{verdict.target.what.removeprefix('… ')} ({number(verdict.value)} {verdict.target.unit} instead of "
        f"{verdict.limit}, {verdict.outcome})"
        for verdict in missed
    )
    return f"{text} Missed: {each}."


def _bound(target: targets.Target, shares: Mapping[str, list[Row]]) -> str:
    quoted = []
    for case in target.profile:
        if case in shares:
            _, colon, process = case.rpartition(": ")
            largest = ", ".join(f"{row.subject} {row.median:.0f} %" for row in shares[case][:3])
            quoted.append(
                f"{process if colon else 'process'} ({shares[case][0].details['busy %']:.0f} % busy): {largest}"
            )
    return "; ".join([*([target.bound] if target.bound else []), *quoted])


def _missing(reports: Mapping[str, Report]) -> str:
    """Say what could not be measured, and why; nothing is left out in silence."""
    rows = [row for report in reports.values() for row in report.missing]
    if not rows:
        return ""
    return "\n".join(["## Not measured\n", *(f"- {row.case}, {row.subject}: {row.about}" for row in rows)]) + "\n"


def _section(report: Report, folder: Path, page: Path) -> str:
    lines = [f"## {report.title}\n"]
    if report.measured:
        lines.append(f"![{report.title}]({_relative(folder, page)}/{report.claim}.svg)\n")
    if report.claim == "profiles":
        lines += _profile(report.measured)
        return "\n".join(lines) + "\n"
    if report.claim == "beside_peers":
        lines += [
            "How each is set up; the environments are pinned in `benchmarks/peers`:\n",
            *_configurations(report),
            "",
        ]
    lines.append(f"| {' | '.join(head for head in HEADS)} |")
    lines.append("| --- | ---: | --- | ---: | ---: | ---: | --- | --- |")
    lines += [f"| {' | '.join(cells(row))} |" for row in report.measured]
    return "\n".join(lines) + "\n"


def _configurations(report: Report) -> list[str]:
    """Return how each peer is set up, as its script says, and in which versions it was measured."""
    versions = {row.subject: row.about for row in report.measured}
    lines = []
    for peer in beside_peers.PEERS:
        measured = f" ({versions[peer.name]})" if peer.name in versions else ""
        lines.append(f"- **{peer.name}**{measured}: {' '.join(beside_peers.configuration(peer).split())}")
    return lines


def _profile(rows: list[Row]) -> list[str]:
    lines = ["Samples of a running process, by the component that the innermost known frame belongs to.\n"]
    for case, shares in _by_case(rows).items():
        parts = ", ".join(f"{row.subject} {row.median:.0f} %" for row in shares)
        lines.append(f"- **{case}** ({shares[0].details['busy %']:.0f} % busy): {parts}")
    return lines


def _by_case(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the shares of each profile, the largest first."""
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(row.case, []).append(row)
    return {case: sorted(own, key=lambda row: -row.median) for case, own in cases.items()}


def _relative(folder: Path, page: Path) -> str:
    return Path(os.path.relpath(folder, page.parent)).as_posix()
