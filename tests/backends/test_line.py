"""Who begins next under a limit that is shared, and when a rate lets one begin: against the plainest way to tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.backends._line import (
    PATIENCE,
    Waiter,
    ahead,
    beginning,
    checked_rate,
    pause,
    priority_in,
    why_not_yet,
    within,
)
from flowloop.engine.backend import MOST_URGENT
from flowloop.engine.errors import BackendRejected

numbers = st.integers(1, 5)
periods = st.sampled_from([1.0, 3.0, 60.0])
gaps = st.lists(st.sampled_from([0.0, 0.0, 0.25, 1.0, 2.5, 30.0, 61.0]), max_size=25)


def most_in_a_period(begun: list[float], period: float) -> int:
    """How many begin in the fullest of all periods, its end not counted."""
    return max((sum(start <= moment < start + period for moment in begun) for start in begun), default=0)


@given(numbers, periods, gaps)
def test_no_period_sees_more_and_nobody_waits_who_needs_not(number: int, period: float, gaps: list[float]) -> None:
    now, begun = 0.0, list[float]()
    for gap in gaps:
        now += gap
        at = beginning(within(begun, period, now), number, period, 0, now)
        may = most_in_a_period([*begun, now], period) <= number
        assert (at == now) is may
        if may:
            begun.append(now)
        else:
            assert most_in_a_period([*begun, at], period) <= number
            earlier = [moment + period for moment in begun if now < moment + period < at]
            assert all(most_in_a_period([*begun, moment], period) > number for moment in earlier)


@given(numbers, periods, gaps, st.integers(0, 20))
def test_who_is_behind_others_is_told_when_it_begins_after_them(
    number: int, period: float, gaps: list[float], before: int
) -> None:
    now, begun = 0.0, list[float]()
    for gap in gaps:
        now += gap
        if beginning(within(begun, period, now), number, period, 0, now) == now:
            begun.append(now)
    told = beginning(within(begun, period, now), number, period, before, now)
    time = now
    for _ in range(before):
        time = beginning(within(begun, period, time), number, period, 0, time)
        begun.append(time)
    assert told == pytest.approx(beginning(within(begun, period, time), number, period, 0, time))


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 50.0, 100.0]))),
    st.integers(-2, 2),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_a_higher_priority_goes_first_and_then_who_waits_longest(
    others: list[tuple[int, float, float]], priority: int, since: float
) -> None:
    now = 50.0 + PATIENCE
    line = [Waiter(*one[:2], f"{n}", one[2]) for n, one in enumerate(others)]
    me = Waiter(priority, since, "me")
    alive = [one for one in line if now - one.due <= PATIENCE]
    turns = sorted([*alive, me], key=lambda one: (-one.priority, one.since, one.run_id))
    assert ahead(me, [*line, me], now) == turns.index(me)


@pytest.mark.parametrize(
    ("waited", "before", "seconds"),
    [(0.0, 0, 1.0), (0.0, 6, 30.0), (2.0, 0, 1.0), (40.0, 0, 5.0), (40.0, 5, 5.0), (40.0, 6, 30.0), (1000.0, 0, 30.0)],
)
def test_who_is_next_asks_more_often(waited: float, before: int, seconds: float) -> None:
    assert pause(waited, before, 3, 30.0) == seconds


@pytest.mark.parametrize(
    ("number", "period"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -2.0), (1, float("inf")), (1, float("nan")), (1, None)]
)
def test_what_is_no_rate_is_refused(number: int, period: float | None) -> None:
    with pytest.raises(BackendRejected, match="at least 1 in more than 0 seconds"):
        checked_rate(number, period)


def test_a_rate_has_a_number_that_can_be_kept() -> None:
    assert checked_rate(10_000, 60) == 60.0
    with pytest.raises(BackendRejected, match="10,000 in a period: name a shorter one"):
        checked_rate(10_001, 60.0)
    with pytest.raises(BackendRejected, match="a year, not 1e\\+12"):
        checked_rate(1, 1e12)


@pytest.mark.parametrize(
    ("context", "priority"),
    [
        ({"priority": 3}, 3),
        ({"priority": -3}, -3),
        ({"priority": 10**9}, MOST_URGENT),
        ({"priority": -(10**9)}, -MOST_URGENT),
        ({"priority": "high"}, 0),
        ({"priority": True}, 0),
        ({"priority": 1.5}, 0),
        ({}, 0),
        (None, 0),
        ([1], 0),
    ],
)
def test_the_context_of_a_state_may_name_a_priority(context: object, priority: int) -> None:
    assert priority_in(context) == priority


def test_who_is_held_back_is_told_why_and_until_when() -> None:
    told = why_not_yet("api", 10, 60.0, 1_625_140_842.5)
    assert told == "Queued: of 'api' 10 begin in 60 s, and its turn is at 2021-07-01T12:00:42.500+00:00"
