"""How many calls of Python functions a task run takes: a speed that no busy machine changes.

Where a change makes one of these numbers larger, it has to be worth it.
"""

from __future__ import annotations

import pytest

from benchmarks.calls import SHAPES, calls_per_task_run

AT_MOST = {"fan-out": 50, "map": 49, "chain": 83, "handler": 81, "trigger": 67}
"""With some room above what Python 3.11 takes; later ones take less."""


@pytest.mark.parametrize("shape", SHAPES)
def test_a_task_run_takes_few_calls(shape: str) -> None:
    assert calls_per_task_run(shape) <= AT_MOST[shape]
