"""``python -m benchmarks``: runs claims, prints their tables, and writes what they found."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
import traceback
from pathlib import Path

from . import harness, history, targets
from .report import write_page, write_plots

CLAIMS = (
    "engine",
    "calls",
    "growth",
    "sleepers",
    "threads",
    "transitions",
    "recorded_run",
    "flow_runs",
    "dispatch",
    "statements",
    "synced_results",
    "latency",
    "start",
    "memory",
    "responsiveness",
    "page",
    "imports",
)
"""In the order they run."""

ONLY_FULL = ("beside_peers", "profiles")
GUARDED = ("engine", "growth", "sleepers", "threads", "transitions", "recorded_run")
_RUNS = 3


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
    parser.add_argument(
        "--gate", type=Path, metavar="HISTORY", help="run the guard thrice, and compare with what is kept there"
    )
    parser.add_argument("--keep", action="store_true", help="with --gate: keep what was found as part of the history")
    chosen = parser.parse_args()
    if chosen.page is not None:
        write_page(chosen.results, chosen.page)
        return
    if chosen.gate is not None:
        pass_gate(chosen.gate, chosen.results, keep=chosen.keep)
        return
    defaults = {"quick": CLAIMS, "guard": GUARDED, "full": (*CLAIMS, *ONLY_FULL)}[chosen.scale]
    reports = {}
    kept = _kept(chosen.results, chosen.scale) if chosen.resume else {}
    for name in chosen.claims or defaults:
        reports[name] = kept[name] if name in kept else _measured(name, chosen.scale)
        harness.write(reports[name], chosen.results)
        write_plots([reports[name]], chosen.results)
    print(f"\nJSON and plots are in {chosen.results}")
    print(targets.table(reports))


def pass_gate(kept_in: Path, results: Path, *, keep: bool) -> None:
    """Measure the ratios in three fresh processes, and compare their medians with the history of such a machine.

    Raises:
        - SystemExit: if one is below three fifths of what is usual
    """
    runs = []
    for number in range(_RUNS):
        folder = results / f"gate-{number}"
        command = [sys.executable, "-m", "benchmarks", "--scale", "guard", "--results", str(folder)]
        subprocess.run(command, check=True)
        runs.append(history.ratios(harness.read(folder).values()))
    found, name = history.medians(runs), history.machine(harness.environment())
    kept = history.read(kept_in, name)
    compared = history.changes(found, kept)
    print(history.table(compared))
    if not kept:
        print(f"there is no history of such a machine ({name}): nothing is compared; --keep begins one")
    if keep:
        history.keep(kept_in, name, found)
    if any(one.verdict == "FAIL" for one in compared):
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
