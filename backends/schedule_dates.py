"""The next dates of a schedule document, for the store."""

from __future__ import annotations

import datetime
from typing import Any

from ..engine import schedules
from .store import ScheduledEvent

__all__ = ["next_events"]


def next_events(document: dict[str, Any], after: datetime.datetime, count: int) -> list[ScheduledEvent]:
    """Return the next dates of a schedule, in order.

    Args:
        - document: the schedule, as a flow document holds it
        - after: only later dates
        - count: how many at most
    """
    return [
        ScheduledEvent(event.start_time, event.parameter_defaults, event.labels)
        for event in schedules.next_events(document, count, after)
    ]
