"""Adjustments: functions that move a time of a schedule."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from ._zones import UTC, instants

__all__ = ["add", "next_weekday"]

Adjustment = Callable[[datetime.datetime], datetime.datetime]


def add(interval: datetime.timedelta) -> Adjustment:
    """Return an adjustment that adds a timedelta, which may be negative.

    Days are added by the clock on the wall, the rest in real time.
    """

    def adjust(time: datetime.datetime) -> datetime.datetime:
        days = datetime.timedelta(days=interval.days)
        moved = instants(time.replace(tzinfo=None) + days, time.tzinfo or UTC)[0]
        return (moved + (interval - days)).astimezone(time.tzinfo)

    return adjust


def next_weekday(time: datetime.datetime) -> datetime.datetime:
    """Move a time on a Saturday or Sunday to the Monday after."""
    days = 7 - time.weekday() if time.weekday() >= 5 else 0
    return add(datetime.timedelta(days=days))(time)
