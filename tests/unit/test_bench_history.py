"""The gate of the benchmarks: ratios against their history."""

from __future__ import annotations

from pathlib import Path

from benchmarks import history
from benchmarks.harness import Report, Row


def report(unit: str, ratio: float) -> Report:
    row = Row(case="map", subject="flowloop", unit=unit, values=[1.0], size=10_000, baseline="bare", ratios=[ratio])
    return Report(claim="engine", title="", scale="guard", environment={}, rows=[row])


def test_more_is_better_whatever_is_measured() -> None:
    (what,) = history.ratios([report("/s", 0.5)])
    assert what == "engine: map, 10,000: flowloop to bare"
    assert history.ratios([report("/s", 0.5)]) == {what: 0.5}
    assert history.ratios([report("s", 4.0)]) == {what: 0.25}


def test_the_median_of_the_runs_counts_and_only_what_each_has_measured() -> None:
    assert history.medians([{"a": 1.0, "b": 1.0}, {"a": 9.0}, {"a": 2.0, "b": 1.0}]) == {"a": 2.0}


def test_what_is_far_below_the_usual_is_named_and_further_closes_the_gate() -> None:
    kept = [{"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 7.0}]
    compared = history.changes({"a": 0.79, "b": 0.59, "c": 0.81, "new": 1.0}, kept)
    assert [(one.what, one.verdict) for one in compared] == [("b", "FAIL"), ("a", "warn"), ("c", "ok")]


def test_each_kind_of_machine_has_a_history_of_its_own(tmp_path: Path) -> None:
    here = {"processor": "Some(R) CPU @ 2.0GHz", "cores": 2, "python": "CPython 3.13.0"}
    name = history.machine(here)
    assert name == "some-r-cpu-2.0ghz-2-cores-python-3.13"
    assert history.machine({**here, "cores": 4}) != name
    assert history.read(tmp_path, name) == []
    for value in range(25):
        history.keep(tmp_path, name, {"a": float(value)})
    assert history.read(tmp_path, name) == [{"a": float(value)} for value in range(5, 25)]
