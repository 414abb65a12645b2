"""Schedules: clocks, and what is done with their times."""

from __future__ import annotations

import datetime
import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, overload

import msgspec

from ..context import now
from ..errors import FlowDefinitionError
from ..state import aware
from ._zones import UTC
from .adjustments import Adjustment
from .clocks import Clock, CronClock, IntervalClock, RRuleClock, ScheduleEvent
from .filters import Filter

if TYPE_CHECKING:
    from dateutil.rrule import rrulebase

__all__ = ["CronSchedule", "IntervalSchedule", "RRuleSchedule", "Schedule"]

_PATIENCE = 10_000


class Schedule:
    """Says when a flow is to run.

    Each time of a clock is kept if all of `filters`, at least one of `or_filters` (if there are any) and none of
    `not_filters` say so; then the adjustments move it, one after the other.

    Args:
        - clocks: where the times come from
        - filters, or_filters, not_filters: functions of a time that return a bool (`flowloop.engine.schedules.filters`)
        - adjustments: functions of a time that return a time (`flowloop.engine.schedules.adjustments`)
    """

    def __init__(
        self,
        clocks: Iterable[Clock],
        filters: Iterable[Filter] | None = None,
        or_filters: Iterable[Filter] | None = None,
        not_filters: Iterable[Filter] | None = None,
        adjustments: Iterable[Adjustment] | None = None,
    ) -> None:
        self.clocks = list(clocks)
        if not self.clocks:
            raise FlowDefinitionError("a Schedule needs at least one clock")
        self.filters = list(filters or ())
        self.or_filters = list(or_filters or ())
        self.not_filters = list(not_filters or ())
        self.adjustments = list(adjustments or ())
        _all_callable("filters", [*self.filters, *self.or_filters, *self.not_filters])
        _all_callable("adjustments", self.adjustments)

    @overload
    def next(
        self, n: int, after: datetime.datetime | None = None, return_events: Literal[False] = False
    ) -> list[datetime.datetime]: ...
    @overload
    def next(
        self, n: int, after: datetime.datetime | None = None, *, return_events: Literal[True]
    ) -> list[ScheduleEvent]: ...
    def next(
        self, n: int, after: datetime.datetime | None = None, return_events: bool = False
    ) -> list[datetime.datetime] | list[ScheduleEvent]:
        """Return the next times.

        Args:
            - n: how many; fewer come back where the clocks end, or where the filters keep none of 10,000 in a row
            - after: only later ones; later than now if None
            - return_events: whether to return events, with parameters and labels, instead of times
        """
        events = list(islice(self.events(after), n))
        return events if return_events else [event.start_time for event in events]

    def events(self, after: datetime.datetime | None = None) -> Iterator[ScheduleEvent]:
        """Yield the events later than `after` (now if None), each once; endless for most clocks."""
        start = (now() if after is None else aware(after)).astimezone(UTC)
        candidates = heapq.merge(
            *(clock.events(start) for clock in self.clocks), key=lambda event: event.start_time.astimezone(UTC)
        )
        seen: set[tuple[Any, ...]] = set()
        refused = 0
        for event in candidates:
            if not self._keeps(event.start_time):
                refused += 1
                if refused >= _PATIENCE:
                    return
                continue
            refused = 0
            adjusted = self._adjusted(event)
            instant = adjusted.start_time.astimezone(UTC)
            identity = (instant, msgspec.json.encode([event.parameter_defaults, event.labels], order="sorted"))
            if instant > start and identity not in seen:
                seen.add(identity)
                yield adjusted

    def _keeps(self, time: datetime.datetime) -> bool:
        return (
            all(keep(time) for keep in self.filters)
            and (not self.or_filters or any(keep(time) for keep in self.or_filters))
            and not any(keep(time) for keep in self.not_filters)
        )

    def _adjusted(self, event: ScheduleEvent) -> ScheduleEvent:
        time = event.start_time
        for adjust in self.adjustments:
            time = adjust(time)
        return event if time is event.start_time else ScheduleEvent(time, event.parameter_defaults, event.labels)

    def serialize(self) -> dict[str, Any]:
        """Return the document of this schedule as the API knows it."""
        from .documents import serialize_schedule

        return serialize_schedule(self)

    def __repr__(self) -> str:
        return f"<Schedule: {', '.join(type(clock).__name__ for clock in self.clocks)}>"


def _all_callable(field: str, functions: Iterable[Callable[..., Any]]) -> None:
    for function in functions:
        if not callable(function):
            raise FlowDefinitionError(f"Schedule: {field} are functions of a time, not {function!r}")


def IntervalSchedule(  # noqa: N802 - the name that code written for Prefect 1 knows
    start_date: datetime.datetime | None = None,
    interval: datetime.timedelta | None = None,
    end_date: datetime.datetime | None = None,
    parameter_defaults: dict[str, Any] | None = None,
) -> Schedule:
    """Return a schedule of one `IntervalClock`.

    Raises:
        - FlowDefinitionError: without an interval, or with one that is not above zero
    """
    if interval is None:
        raise FlowDefinitionError("IntervalSchedule: interval= is missing; what comes first is the start_date")
    return Schedule([IntervalClock(interval, start_date, end_date, parameter_defaults)])


def CronSchedule(  # noqa: N802
    cron: str,
    start_date: datetime.datetime | None = None,
    end_date: datetime.datetime | None = None,
    day_or: bool | None = None,
    parameter_defaults: dict[str, Any] | None = None,
) -> Schedule:
    """Return a schedule of one `CronClock`."""
    return Schedule([CronClock(cron, start_date, end_date, parameter_defaults, day_or=day_or)])


def RRuleSchedule(  # noqa: N802
    rrule_obj: rrulebase,
    start_date: datetime.datetime | None = None,
    end_date: datetime.datetime | None = None,
    parameter_defaults: dict[str, Any] | None = None,
) -> Schedule:
    """Return a schedule of one `RRuleClock`."""
    return Schedule([RRuleClock(rrule_obj, start_date, end_date, parameter_defaults)])
