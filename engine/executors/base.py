"""The executor port: only the body of a task travels, its states stay on the loop."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["Executor"]


class Executor:
    """Runs the bodies of tasks. Subclass it and write `submit`.

    An executor can be pickled, before it is started and after.
    """

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Hold whatever the bodies need for as long as the flow runs."""
        yield

    async def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run a body to its end.

        Args:
            - fn: the body, sync or async
            - args, kwargs: its arguments
            - extra_context: facts about the run, such as ``task_name``, for executors that show or use them

        Returns:
            - Any: what the body returns; what it raises is raised here

        Raises:
            - ExecutorError: if the body could not be run, or was lost
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to submit a task body")

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Return a sentence on what becomes of a body that times out or is cancelled; empty if it ends at once.

        Args:
            - is_async: whether the body is async
        """
        return ""

    async def wait(self, futures: Any) -> Any:
        """Await everything that can be awaited in nested lists, tuples, sets and dicts.

        Args:
            - futures: the nested structure

        Returns:
            - Any: the same structure with the values in place
        """
        if inspect.isawaitable(futures):
            return await futures
        if isinstance(futures, (list, tuple, set)):
            return type(futures)([await self.wait(item) for item in futures])
        if isinstance(futures, dict):
            return {key: await self.wait(item) for key, item in futures.items()}
        return futures

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
