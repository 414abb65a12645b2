"""Tasks of asyncio that begin within the call that makes them, where Python can do that."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["spawned"]

T = TypeVar("T")

if sys.version_info >= (3, 12):

    def spawned(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
        """Return a task; what never has to wait has ended by then."""
        return asyncio.Task(coroutine, loop=loop, eager_start=True)

else:

    def spawned(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
        """Return a task, which begins in the next turn of the loop."""
        return loop.create_task(coroutine)
