"""``python -m benchmarks``: runs claims, prints their tables, and writes what they found."""

from __future__ import annotations

import argparse
import importlib
import time
import traceback
from pathlib import Path

from . import harness, targets
from .report import write_page, write_plots

CLAIMS = (
    "engine",
    "growth",
    "sleepers",
    "threads",
    "transitions",
    "recorded_run",
    "flow_runs",
    "dispatch",
    "latency",
    "start",
    "memory",
    "responsiveness",
    "imports",
)
"""In the order they run."""

ONLY_FULL = ("beside_peers", "profiles")
GUARDED = ("engine", "growth", "sleepers", "threads", "transitions", "recorded_run")


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "claims", nargs="*", metavar="CLAIM", help=f"of {', '.join((*CLAIMS, *ONLY_FULL))}; all if none"
    )
    parser.add_argument("--scale", choices=("quick", "full", "guard"), default="quick", help="how large and how often")
    parser.add_argument("--results", type=Path, default=Path("build/benchmarks"), help="where JSON and plots go")
    parser.add_argument(
        "--page", type=Path, help="write the page of results from the JSON in --results, and run nothing"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep what --results has of this scale and commit; measure the rest"
    )
    chosen = parser.parse_args()
    if chosen.page is not None:
        write_page(chosen.results, chosen.page)
        return
    defaults = {"quick": CLAIMS, "guard": GUARDED, "full": (*CLAIMS, *ONLY_FULL)}[chosen.scale]
    reports = {}
    kept = _kept(chosen.results, chosen.scale) if chosen.resume else {}
    for name in chosen.claims or defaults:
        reports[name] = kept[name] if name in kept else _measured(name, chosen.scale)
        harness.write(reports[name], chosen.results)
        write_plots([reports[name]], chosen.results)
    print(f"\nJSON and plots are in {chosen.results}")
    print(targets.table(reports, room=targets.GUARD_ROOM if chosen.scale == "guard" else 1.0))
    absent = any(report.missing for report in reports.values())
    if chosen.scale == "guard" and (absent or targets.missed(reports, room=targets.GUARD_ROOM)):
        raise SystemExit(1)


def _kept(results: Path, scale: str) -> dict[str, harness.Report]:
    """Return what an interrupted run has measured, of this commit."""
    commit = harness.environment()["commit"]
    found = {
        name: report
        for name, report in harness.read(results).items()
        if report.scale == scale and report.environment["commit"] == commit and report.measured
    }
    print(f"kept from {results}: {', '.join(found) or 'nothing'}")
    return found


def _measured(name: str, scale: str) -> harness.Report:
    module = importlib.import_module(f".{name}", __package__)
    print(harness.table(module.TITLE), flush=True)
    before = harness.environment()
    start = time.perf_counter()
    try:
        rows = module.run(scale)
    except Exception as error:  # the other claims can still be measured, and the page says what is missing
        traceback.print_exc()
        rows = [harness.missing("all of it", "flowloop", f"{type(error).__name__}: {error}")]
    before["seconds"] = round(time.perf_counter() - start, 1)
    return harness.Report(claim=name, title=module.TITLE, scale=scale, environment=before, rows=rows)


if __name__ == "__main__":
    main()
