"""Clocks: sources of the times at which a flow is to run."""

from __future__ import annotations

import datetime
import heapq
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from ..context import now
from ..errors import FlowDefinitionError
from ..state import aware
from ._zones import UTC, instants, wall

if TYPE_CHECKING:
    from dateutil.rrule import rrulebase

__all__ = ["Clock", "CronClock", "DatesClock", "IntervalClock", "RRuleClock", "ScheduleEvent"]

_ONE_DAY = datetime.timedelta(days=1)
_AROUND_A_CHANGE = datetime.timedelta(hours=2)
_FIRST_INTERVAL = datetime.datetime(2019, 1, 1, tzinfo=UTC)


class ScheduleEvent(msgspec.Struct, frozen=True):
    """One run that a schedule asks for.

    Args:
        - start_time: when, in the time zone of its clock
        - parameter_defaults: the parameters its clock gives
        - labels: the labels its clock gives
    """

    start_time: datetime.datetime
    parameter_defaults: dict[str, Any] = {}
    labels: list[str] | None = None


class Clock:
    """A source of times; the subclasses say which.

    Args:
        - start_date: no time before this one; its time zone is that of the clock, UTC if there is none
        - end_date: no time after this one
        - parameter_defaults: parameters of the runs
        - labels: labels of the runs
    """

    def __init__(
        self,
        start_date: datetime.datetime | None = None,
        end_date: datetime.datetime | None = None,
        parameter_defaults: dict[str, Any] | None = None,
        labels: list[str] | None = None,
    ) -> None:
        self.start_date = None if start_date is None else aware(start_date)
        self.end_date = None if end_date is None else aware(end_date)
        self.parameter_defaults = parameter_defaults or {}
        self.labels = labels

    @property
    def zone(self) -> datetime.tzinfo:
        """The time zone of this clock."""
        return (None if self.start_date is None else self.start_date.tzinfo) or UTC

    def events(self, after: datetime.datetime | None = None) -> Iterator[ScheduleEvent]:
        """Yield the events later than `after`, in order; later than now if None."""
        moment = now() if after is None else aware(after)
        after = moment.astimezone(UTC)
        start = None if self.start_date is None else self.start_date.astimezone(UTC)
        end = None if self.end_date is None else self.end_date.astimezone(UTC)
        for instant in self._instants(after):
            if instant <= after or (start is not None and instant < start):
                continue
            if end is not None and instant > end:
                return
            yield ScheduleEvent(instant.astimezone(self.zone), self.parameter_defaults, self.labels)

    def _instants(self, after: datetime.datetime) -> Iterator[datetime.datetime]:
        """Yield times in UTC, in order, among them all later than `after`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class IntervalClock(Clock):
    """Every so often, counted from `start_date`.

    An interval of a day or longer keeps to the clock on the wall: each day at nine stays at nine when the clocks
    change. A shorter one keeps to real time: each hour stays an hour.

    Args:
        - interval: how often
        - start_date: the first time; the beginning of 2019, in UTC, if None
        - end_date, parameter_defaults, labels: as for `Clock`
    """

    def __init__(
        self,
        interval: datetime.timedelta,
        start_date: datetime.datetime | None = None,
        end_date: datetime.datetime | None = None,
        parameter_defaults: dict[str, Any] | None = None,
        labels: list[str] | None = None,
    ) -> None:
        if not isinstance(interval, datetime.timedelta) or interval <= datetime.timedelta():
            raise FlowDefinitionError(f"IntervalClock: interval is a timedelta above zero, not {interval!r}")
        super().__init__(start_date, end_date, parameter_defaults, labels)
        self.interval = interval

    def _instants(self, after: datetime.datetime) -> Iterator[datetime.datetime]:
        start = (self.start_date or _FIRST_INTERVAL).astimezone(UTC)
        if self.interval < _ONE_DAY:
            count = max(0, (after - start) // self.interval)
            while True:
                yield start + count * self.interval
                count += 1
        first = wall(start, self.zone)
        count = max(0, (wall(after, self.zone) - first) // self.interval)
        while True:
            yield instants(first + count * self.interval, self.zone)[0]
            count += 1


class CronClock(Clock):
    """At the times of a cron expression, by the clock on the wall. Needs the ``schedules`` extra.

    When the clocks change, fixed times run once each day: one that is skipped as late as the clock jumped, one
    that comes twice the first time. An expression whose minutes or hours begin with ``*`` keeps its pace instead: it
    runs in both hours of a repeated one.

    Args:
        - cron: five fields, for instance ``"30 9 * * mon-fri"``, or a name like ``"@hourly"``
        - start_date: no time before this one; its zone is the one of the expression, UTC if there is none
        - end_date, parameter_defaults, labels: as for `Clock`
        - day_or: where both the day of the month and that of the week are given, whether one of them is enough
    """

    def __init__(
        self,
        cron: str,
        start_date: datetime.datetime | None = None,
        end_date: datetime.datetime | None = None,
        parameter_defaults: dict[str, Any] | None = None,
        labels: list[str] | None = None,
        day_or: bool | None = None,
    ) -> None:
        super().__init__(start_date, end_date, parameter_defaults, labels)
        if not _croniter().is_valid(cron):
            raise FlowDefinitionError(f"CronClock: {cron!r} is not a cron expression")
        self.cron = cron
        self.day_or = True if day_or is None else day_or

    def _instants(self, after: datetime.datetime) -> Iterator[datetime.datetime]:
        keeps_pace = self.cron == "@hourly" or any(field.startswith("*") for field in self.cron.split()[:2])
        if self.start_date is not None:
            after = max(after, self.start_date.astimezone(UTC) - datetime.timedelta(seconds=1))
        waiting: list[datetime.datetime] = []
        last: datetime.datetime | None = None
        for time in self._walls(wall(after, self.zone) - _AROUND_A_CHANGE):
            first, second = instants(time, self.zone)
            # around a change, an instant may come after that of a later time on the wall
            while waiting and waiting[0] < min(first, second):
                instant = heapq.heappop(waiting)
                if instant != last:
                    yield instant
                last = instant
            if first == second or not keeps_pace:
                heapq.heappush(waiting, first)
            elif first < second:
                heapq.heappush(waiting, first)
                heapq.heappush(waiting, second)
        yield from sorted(set(waiting) - {last})

    def _walls(self, after: datetime.datetime) -> Iterator[datetime.datetime]:
        from croniter import CroniterBadDateError

        times = _croniter()(self.cron, after, day_or=self.day_or, ret_type=datetime.datetime)
        while True:
            try:
                yield times.get_next()
            except CroniterBadDateError:  # no such day in the next fifty years
                return


def _croniter() -> Any:
    try:
        from croniter import croniter
    except ImportError as error:
        raise FlowDefinitionError("a CronClock needs croniter: pip install 'flowloop[schedules]'") from error
    return croniter


class DatesClock(Clock):
    """At the times of a list.

    Args:
        - dates: the times
        - parameter_defaults, labels: as for `Clock`
    """

    def __init__(
        self,
        dates: Iterable[datetime.datetime],
        parameter_defaults: dict[str, Any] | None = None,
        labels: list[str] | None = None,
    ) -> None:
        self.dates = sorted((aware(date) for date in dates), key=lambda date: date.astimezone(UTC))
        if not self.dates:
            raise FlowDefinitionError("DatesClock: dates is empty, so the flow would never run")
        super().__init__(self.dates[0], self.dates[-1], parameter_defaults, labels)

    def _instants(self, after: datetime.datetime) -> Iterator[datetime.datetime]:
        return (date.astimezone(UTC) for date in self.dates)


class RRuleClock(Clock):
    """At the times of a recurrence rule (RFC 5545). Needs the ``schedules`` extra.

    Args:
        - rrule_obj: a ``dateutil.rrule.rrule`` or ``rruleset``; give it a ``dtstart``, with a time zone
        - start_date, end_date, parameter_defaults, labels: as for `Clock`
    """

    def __init__(
        self,
        rrule_obj: rrulebase,
        start_date: datetime.datetime | None = None,
        end_date: datetime.datetime | None = None,
        parameter_defaults: dict[str, Any] | None = None,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__(start_date, end_date, parameter_defaults, labels)
        self.rrule_obj = rrule_obj

    @property
    def zone(self) -> datetime.tzinfo:
        """The time zone of `start_date`, else that of the rule."""
        first = self.start_date or next(iter(self.rrule_obj), None)
        return (None if first is None else first.tzinfo) or UTC

    def _instants(self, after: datetime.datetime) -> Iterator[datetime.datetime]:
        first: datetime.datetime | None = next(iter(self.rrule_obj), None)
        if first is None:
            return
        if first.tzinfo is None:
            times = self.rrule_obj.xafter(wall(after, self.zone) - _AROUND_A_CHANGE)
            yield from (instants(time, self.zone)[0] for time in times)
        else:
            yield from (time.astimezone(UTC) for time in self.rrule_obj.xafter(after - _AROUND_A_CHANGE))
