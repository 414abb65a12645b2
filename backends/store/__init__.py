"""The store: every run, state and log line in SQLite or PostgreSQL, by the rules of the API.

Public names: `Store`, and the records its methods take and give.
"""

from __future__ import annotations

from .records import ANYONE, Caller, NextEvents, Outcome, ScheduledEvent, StateChange, StateUpdate

__all__ = [
    "ANYONE",
    "Caller",
    "NextEvents",
    "Outcome",
    "ScheduledEvent",
    "StateChange",
    "StateUpdate",
]
