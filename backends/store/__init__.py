"""The store: every run, state and log line in SQLite or PostgreSQL, by the rules of the API.

    async with Store("sqlite:///flowloop.db") as store:
        run = await store.create_flow_run(ANYONE, flow_id=flow_id)

The tables are in `schema`, with their relations for generated reads. What each method of `Store` does is
described at the function it is made of, in the module of its subject. Ids sort by creation: order by id
where nothing else is asked for.
"""

from __future__ import annotations

from .records import ANYONE, Caller, NextEvents, Outcome, ScheduledEvent, StateChange, StateUpdate
from .store import Store

__all__ = [
    "ANYONE",
    "Caller",
    "NextEvents",
    "Outcome",
    "ScheduledEvent",
    "StateChange",
    "StateUpdate",
    "Store",
]
