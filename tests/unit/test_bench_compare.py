"""Contenders that are measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from benchmarks.harness import NotMeasured, compare


def that_gives(*values: float | NotMeasured) -> Callable[[], float]:
    left: Iterator[float | NotMeasured] = iter(values)

    def measure() -> float:
        value = next(left)
        if isinstance(value, NotMeasured):
            raise value
        return value

    return measure


@pytest.mark.parametrize("slow", [(NotMeasured("no answer"),), (5.0, NotMeasured("no answer"))])
def test_who_drops_out_costs_the_others_nothing(slow: tuple[float | NotMeasured, ...]) -> None:
    contenders = {"bare": that_gives(2.0, 4.0), "slow": that_gives(*slow), "ours": that_gives(3.0, 2.0)}
    bare, gone, ours = compare("a case", contenders, unit="/s", rounds=2, baseline="bare", warm_up=False)
    assert (bare.values, ours.values, ours.ratios) == ([2.0, 4.0], [3.0, 2.0], [1.5, 0.5])
    assert (gone.values, gone.about) == ([], "no answer")


def test_where_the_baseline_drops_out_there_are_values_and_no_ratios() -> None:
    contenders = {"bare": that_gives(NotMeasured("not installed")), "ours": that_gives(3.0)}
    gone, ours = compare("a case", contenders, unit="/s", rounds=1, baseline="bare", warm_up=False)
    assert (gone.values, ours.values, ours.ratios, ours.baseline) == ([], [3.0], [], None)
