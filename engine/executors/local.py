"""The default executor: async bodies on the loop, sync bodies in threads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread

from .base import Executor

__all__ = ["LocalExecutor"]


class LocalExecutor(Executor):
    """Runs async bodies on the caller's event loop, and sync ones in threads of its own.

    The threads are counted apart from the application's default pool: neither can starve the other. A thread cannot be
    stopped from outside. One whose run is cancelled or times out is abandoned: it goes on to its end, and what it
    returns is dropped.

    Args:
        - threads: how many sync bodies run at once
    """

    def __init__(self, threads: int = 64) -> None:
        if threads < 1:
            raise ValueError(f"threads is at least 1, not {threads}")
        self.threads = threads
        self._limiter: anyio.CapacityLimiter | None = None
        self._flow_runs = 0

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Hold the limit on threads for as long as a flow runs; several flow runs share it."""
        if not self._flow_runs:
            self._limiter = anyio.CapacityLimiter(self.threads)
        self._flow_runs += 1
        try:
            yield
        finally:
            self._flow_runs -= 1
            if not self._flow_runs:
                self._limiter = None

    async def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run a body to its end; see `Executor.submit`."""
        if inspect.iscoroutinefunction(fn):
            return await fn(*args, **kwargs)
        call = functools.partial(fn, *args, **kwargs)
        answer = await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        return await answer if inspect.isawaitable(answer) else answer

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Say that a thread goes on."""
        return "" if is_async else "Its thread cannot be stopped, and was abandoned."

    def __getstate__(self) -> dict[str, Any]:
        return {"threads": self.threads, "_limiter": None, "_flow_runs": 0}
