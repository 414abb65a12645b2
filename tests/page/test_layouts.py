"""What is told of a layout that changed, and what is let pass."""

from __future__ import annotations

import pytest

from .layouts import Part, differences, parts

KEPT = [Part("header", "", [0, 0, 1440, 45]), Part("h2", "Graph", None), Part("section", "Graph", [16, 400, 840, 160])]


@pytest.mark.parametrize("box", [[16, 400, 840, 160], [10, 400, 850, 160], [16, 440, 840, 190]])
def test_what_a_font_may_do_is_let_pass(box: list[int]) -> None:
    assert differences(KEPT, [*KEPT[:2], Part("section", "Graph", box)], 1440) == []


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([*KEPT[:2], Part("section", "Graph", [60, 400, 840, 160])], "left was 16, is 60"),
        ([*KEPT[:2], Part("section", "Graph", [16, 900, 840, 160])], "top was 400, is 900"),
        ([*KEPT[:2], Part("section", "Graph", [16, 400, 400, 160])], "width was 840, is 400"),
        ([*KEPT[:2], Part("section", "Graph", [16, 400, 840, 0])], "height was 160, is 0"),
        (KEPT[:2], "without [\"section 'Graph'\"], with []"),
        ([*KEPT, Part("button", "Cancel…", None)], "with [\"button 'Cancel…'\"]"),
        ([KEPT[1], KEPT[0], KEPT[2]], "in another order"),
    ],
)
def test_what_is_elsewhere_is_told(found: list[Part], told: str) -> None:
    [difference] = differences(KEPT, found, 1440)
    assert told in difference


def test_numbers_and_times_are_one_sign() -> None:
    for name in ("1 ✕ 12 ms", "2 ✕ 1.5 s", "3 ✕ 1 min 5 s"):
        assert parts([("button", name, None)]) == [Part("button", "# ✕ #", None)]
