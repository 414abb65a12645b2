"""When a flow is to run: clocks, and schedules made of them.

Example:

    ```python
    workdays = Schedule(
        clocks=[CronClock("0 9 * * *", start_date=datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")))],
        filters=[filters.is_weekday],
    )
    Flow("report", schedule=workdays)
    ```
"""

from __future__ import annotations

from . import adjustments, filters
from .clocks import Clock, CronClock, DatesClock, IntervalClock, RRuleClock, ScheduleEvent
from .documents import deserialize_schedule, next_events, serialize_schedule
from .schedules import CronSchedule, IntervalSchedule, RRuleSchedule, Schedule

__all__ = [
    "Clock",
    "CronClock",
    "CronSchedule",
    "DatesClock",
    "IntervalClock",
    "IntervalSchedule",
    "RRuleClock",
    "RRuleSchedule",
    "Schedule",
    "ScheduleEvent",
    "adjustments",
    "deserialize_schedule",
    "filters",
    "next_events",
    "serialize_schedule",
]
