"""Work on a whole graph, kept from holding up the event loop when the graph is large."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

__all__ = ["aside"]

T = TypeVar("T")

_LARGE = 2_000
"""Tasks above which a pass over a graph takes so long that the loop should go on meanwhile."""


async def aside(size: int, work: Callable[[], T]) -> T:
    """Return what `work` returns; if the graph has many tasks, a thread does it.

    The work is pure Python, so the thread does not make it faster: it lets the loop have its turns.

    Args:
        - size: how many tasks the graph has
        - work: a function that looks at the graph
    """
    return work() if size <= _LARGE else await anyio.to_thread.run_sync(work)
