"""Who begins next under a limit that runs, processes and machines share, and when a rate lets one begin.

Pure: moments are seconds, told by whoever asks, and everybody who shares a limit tells them by one clock.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ..engine.backend import MOST_URGENT
from ..engine.errors import BackendRejected

__all__ = [
    "PATIENCE",
    "Turn",
    "Waiter",
    "ahead",
    "beginning",
    "checked_rate",
    "pause",
    "priority_in",
    "why_not_yet",
    "within",
]

PATIENCE = 10.0
"""For so many seconds a turn is kept for who was to ask for it and is late."""

_SOONEST = 1.0
_LONGEST_PERIOD = 366 * 86_400
_MOST_IN_A_PERIOD = 10_000  # as many beginnings are kept for each rate


Turn = tuple[int, float, str]
"""What those who wait are sorted by."""


class Waiter(msgspec.Struct, gc=False):
    """Who waits for a turn.

    Args:
        - priority: a higher one goes first
        - since: since when it waits; of one priority, who waits longest goes first
        - run_id: the run
        - due: when it asks again
    """

    priority: int
    since: float
    run_id: str
    due: float = math.inf

    @property
    def turn(self) -> Turn:
        """Its turn: who has the least goes first."""
        return -self.priority, self.since, self.run_id


def ahead(waiter: Waiter, line: Iterable[Waiter], now: float) -> int:
    """Return how many of a line go before a waiter: what was to ask again and did not is passed over."""
    turn = waiter.turn
    return sum(one.turn < turn and one.run_id != waiter.run_id and one.due + PATIENCE >= now for one in line)


def pause(waited: float, before: int, number: int, interval: float) -> float:
    """Return in how many seconds who waits for a place asks again.

    Nobody knows when one is free. Those who are next ask more often, in proportion to what they have waited, so that a
    place lies idle for them no longer than for a small part of that.

    Args:
        - waited: for how many seconds it has waited
        - before: how many go before it
        - number: how many places there are; as many go next, and as many after them
        - interval: in how many seconds it asks again at the latest, and else
    """
    return min(interval, max(_SOONEST, waited / 8)) if before < 2 * number else interval


def within(begun: Iterable[float], period: float, now: float) -> list[float]:
    """Return the beginnings that count, in order: those of the last period."""
    return sorted(moment for moment in begun if moment + period > now)


def beginning(begun: Sequence[float], number: int, period: float, before: int, now: float) -> float:
    """Return when the next one may begin, if no `period` seconds may see more than `number` beginnings.

    A log of the beginnings, over which the period slides. Unlike a bucket of tokens, which lets nearly twice the number
    through where a full one meets its refill, it holds for every period, and `Rate` within one process means the same.

    Args:
        - begun: the beginnings that count, as `within` returns them
        - number: how many
        - period: in how many seconds
        - before: how many others begin before it
        - now: what time it is
    """
    later = len(begun) + before - number
    if later < 0:
        return now
    last = [*begun[-number:], *[now] * (number - len(begun))]
    return last[later % number] + period * (1 + later // number)


def why_not_yet(name: str, number: int, period: float, at: float) -> str:
    """Return what a run is told that a rate holds back."""
    when = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
    return f"Queued: of {name!r} {number} begin in {period:g} s, and its turn is at {when}"


def checked_rate(number: int, period: float | None) -> float:
    """Return the period of a rate.

    Raises:
        - BackendRejected: if it is none
    """
    if period is None or not 0 < period < math.inf or number < 1:
        raise BackendRejected("A rate is at least 1 in more than 0 seconds: it needs a number and a period.")
    if period > _LONGEST_PERIOD:
        raise BackendRejected(f"The period of a rate is at most {_LONGEST_PERIOD:,} seconds, a year, not {period:g}.")
    if number > _MOST_IN_A_PERIOD:
        raise BackendRejected(f"A rate is at most {_MOST_IN_A_PERIOD:,} in a period: name a shorter one.")
    return float(period)


def priority_in(context: Any) -> int:
    """Return the priority that the context of a state names, 0 if it names none."""
    priority = context.get("priority") if isinstance(context, dict) else None
    return max(-MOST_URGENT, min(priority, MOST_URGENT)) if type(priority) is int else 0
