"""Filters: functions of a time that say whether a schedule keeps it.

They see the time in the zone of the clock it comes from. Bounds are inclusive.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

__all__ = [
    "at_time",
    "between_dates",
    "between_datetimes",
    "between_times",
    "is_day_of_week",
    "is_month_end",
    "is_month_start",
    "is_weekday",
    "is_weekend",
    "on_date",
    "on_datetime",
]

Filter = Callable[[datetime.datetime], bool]


def on_datetime(dt: datetime.datetime) -> Filter:
    """Return a filter that keeps one time."""

    def keep(time: datetime.datetime) -> bool:
        return time == dt

    return keep


def on_date(month: int, day: int) -> Filter:
    """Return a filter that keeps one day of each year."""

    def keep(time: datetime.datetime) -> bool:
        return (time.month, time.day) == (month, day)

    return keep


def at_time(t: datetime.time) -> Filter:
    """Return a filter that keeps one time of each day."""

    def keep(time: datetime.datetime) -> bool:
        return time.time() == t

    return keep


def between_datetimes(start: datetime.datetime, end: datetime.datetime) -> Filter:
    """Return a filter that keeps the times from `start` to `end`."""

    def keep(time: datetime.datetime) -> bool:
        return start <= time <= end

    return keep


def between_times(start: datetime.time, end: datetime.time) -> Filter:
    """Return a filter that keeps the times of day from `start` to `end`, over midnight if `end` is the earlier one."""

    def keep(time: datetime.datetime) -> bool:
        clock = time.time()
        return start <= clock <= end if start <= end else clock >= start or clock <= end

    return keep


def between_dates(start_month: int, start_day: int, end_month: int, end_day: int) -> Filter:
    """Return a filter that keeps the days from one date to another, over the new year if the end is the earlier one."""

    def keep(time: datetime.datetime) -> bool:
        start, date, end = (start_month, start_day), (time.month, time.day), (end_month, end_day)
        return start <= date <= end if start <= end else date >= start or date <= end

    return keep


def is_day_of_week(day_of_week: int) -> Filter:
    """Return a filter that keeps one day of the week, as `datetime.weekday` counts: 0 is Monday, 6 is Sunday."""

    def keep(time: datetime.datetime) -> bool:
        return time.weekday() == day_of_week

    return keep


def is_weekday(time: datetime.datetime) -> bool:
    """Keep Monday to Friday."""
    return time.weekday() < 5


def is_weekend(time: datetime.datetime) -> bool:
    """Keep Saturday and Sunday."""
    return time.weekday() >= 5


def is_month_start(time: datetime.datetime) -> bool:
    """Keep the first day of each month."""
    return time.day == 1


def is_month_end(time: datetime.datetime) -> bool:
    """Keep the last day of each month."""
    return (time.date() + datetime.timedelta(days=1)).day == 1
