"""Threads for the reading and writing of results, apart from those of task bodies.

A body may wait for as long as it likes; a result must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio.lowlevel import RunVar

__all__ = ["in_thread"]

R = TypeVar("R")

_THREADS = 16
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("flowloop_result_threads")


async def in_thread(function: Callable[..., R], *args: object) -> R:
    """Call a function in a thread, and return its result; at most 16 at once for each event loop."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await anyio.to_thread.run_sync(function, *args, limiter=limiter)
