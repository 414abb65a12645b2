"""How long to wait before a task is tried again."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from ._at_once import answered
from .errors import FlowDefinitionError

__all__ = ["RetryDelay", "delay_after", "doubling_delay", "exponential_backoff"]

RetryDelay = float | int | datetime.timedelta | Sequence["float | datetime.timedelta"] | Callable[[int], "float"]
"""Seconds, a timedelta, one delay for each attempt (the last serves all later ones), or a function of the attempt."""


def exponential_backoff(
    base: float, *, cap: float = 3600.0, rng: random.Random | None = None
) -> Callable[[int], float]:
    """Return delays that grow twofold with each attempt, each drawn anew between zero and that (full jitter).

    Jitter keeps many tasks that failed together from trying again together; see "Exponential Backoff And Jitter",
    Marc Brooker, AWS Architecture Blog, 2015.

    Args:
        - base: seconds before the first retry, at most
        - cap: seconds that no delay exceeds
        - rng: where chance comes from

    Example:

        ```python
        @task(max_retries=5, retry_delay=exponential_backoff(2, cap=300))
        async def fetch(url: str) -> bytes: ...
        ```
    """
    draw = rng or random.Random()  # noqa: S311 - spreads load, guards nothing

    def delay(run_count: int) -> float:
        return draw.uniform(0.0, min(cap, base * 2.0 ** min(run_count - 1, 64)))

    return delay


def doubling_delay(run_count: int, limit: float) -> datetime.timedelta:
    """Return how long to wait after attempt number `run_count` where nobody has said: 1 s, 2 s, 4 s … up to `limit`."""
    return datetime.timedelta(seconds=min(2.0 ** min(run_count - 1, 64), limit))


_LONGEST = datetime.timedelta(days=36_500)


def delay_after(delay: RetryDelay, run_count: int, task_name: str) -> datetime.timedelta:
    """Return how long to wait after attempt number `run_count` (the first is 1).

    Raises:
        - FlowDefinitionError: if that is no delay: something else, less than nothing, or more than a hundred years
        - TypeError: if it would have to be awaited
    """
    if callable(delay):
        chosen: object = answered(delay(run_count), f"task {task_name!r}: the function retry_delay")
    elif isinstance(delay, Sequence):
        chosen = delay[min(run_count, len(delay)) - 1]
    else:
        chosen = delay
    if isinstance(chosen, (int, float)) and not isinstance(chosen, bool):
        with suppress(OverflowError, ValueError):  # infinite, or no number at all
            chosen = datetime.timedelta(seconds=chosen)
    if isinstance(chosen, datetime.timedelta) and datetime.timedelta() <= chosen <= _LONGEST:
        return chosen
    raise FlowDefinitionError(
        f"task {task_name!r}: retry_delay gave {chosen!r} after attempt {run_count}; "
        "seconds or a timedelta are needed, from zero up to a hundred years"
    )
