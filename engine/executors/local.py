"""The default executor: async bodies on the loop, sync bodies in threads."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio

from ._threads import BodyThreads
from .base import Executor

__all__ = ["LocalExecutor"]


class LocalExecutor(Executor):
    """Runs async bodies on the caller's event loop, and sync ones in threads of its own.

    The threads are apart from those of the application: neither can starve the other. A thread cannot be stopped from
    outside. One whose run is cancelled or times out is abandoned: it goes on to its end, what it returns is dropped,
    and the process does not wait for it when it ends.

    Args:
        - threads: how many sync bodies run at once
    """

    def __init__(self, threads: int = 64) -> None:
        if threads < 1:
            raise ValueError(f"threads is at least 1, not {threads}")
        self.threads = threads
        self._reset()

    def _reset(self) -> None:
        self._flow_runs = 0
        self._slots: anyio.Semaphore | None = None
        self._pool = BodyThreads()

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Hold the threads for as long as a flow runs; several flow runs share them."""
        if not self._flow_runs:
            self._slots = anyio.Semaphore(self.threads, fast_acquire=True)
        self._flow_runs += 1
        try:
            yield
        finally:
            self._flow_runs -= 1
            if not self._flow_runs:
                self._pool.shutdown()
                self._reset()

    async def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run a body to its end; see `Executor.submit`."""
        if inspect.iscoroutinefunction(fn):
            return await fn(*args, **kwargs)
        call = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
        async with self._slots or nullcontext():
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, call)
        return await answer if inspect.isawaitable(answer) else answer

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Say that a thread goes on."""
        return "" if is_async else "Its thread cannot be stopped, and was abandoned."

    def __getstate__(self) -> dict[str, Any]:
        return {"threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
