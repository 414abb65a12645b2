"""Wall time, as an object that can be replaced.

flowloop keeps two clocks apart. Wall time, read here, is what states and records carry. Loop time
(``anyio.sleep``, deadlines) is what waits are made of, and belongs to the event loop. A test replaces
both: see `flowloop.engine.testing`.
"""

from __future__ import annotations

import datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock"]

_utc = datetime.UTC


class Clock(Protocol):
    """Something that tells the time of day."""

    def now(self) -> datetime.datetime:
        """Return the current time, aware, in UTC."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime.datetime:
        """Return the current time, aware, in UTC."""
        return datetime.datetime.now(_utc)
