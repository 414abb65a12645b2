"""What goes on beside a flow run while it is under way, and what the run can do without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from ..cancellation import outlast
from ..context import OwnLogger
from ..runner import is_outside

__all__ = ["helped", "without_harm"]

_BEGIN_AFTER = 0.25
"""Seconds that a run goes on without help. Most runs of a service are over by then, and what has happened meanwhile a
listener hears when it begins.
"""

Work = Callable[[], Awaitable[None]]


async def without_harm(name: str, work: Work, run: str, logger: OwnLogger) -> None:
    """Let something help a run: what it raises ends it, and nothing else.

    Args:
        - name: what the log calls it
        - work: the work
        - run: what the log calls the run
        - logger: where it is said that it has ended
    """
    try:
        await work()
    except BaseException as error:
        if is_outside(error):
            raise
        logger.warning("the %s of %s has ended, and the run goes on: %r", name, run, error)


@asynccontextmanager
async def helped(helpers: Mapping[str, Work], run: str, logger: OwnLogger, grace: float) -> AsyncIterator[None]:
    """Let helpers work beside a block, from a moment after its beginning to its end.

    They are asyncio tasks and no group of anyio's around the block: anyio hands what a cancelled scope inside a helper
    owes in ``uncancel`` calls to the group, whose host is the task of the block, and a cancel by the caller is lost.

    Args:
        - helpers: what works, by name
        - run: what the log calls the run
        - logger: where it is said that a helper has ended
        - grace: seconds that they get to end
    """
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []

    def begin() -> None:
        for name, work in helpers.items():
            tasks.append(loop.create_task(without_harm(name, work, run, logger), name=f"{name} of {run}"))

    beginning = loop.call_later(_BEGIN_AFTER, begin)
    try:
        yield
    finally:
        beginning.cancel()
        if tasks:
            for task in tasks:
                task.cancel()
            if await outlast(tasks, grace):
                raise asyncio.CancelledError
