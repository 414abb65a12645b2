"""Hearing that the process is to stop, also where another framework serves the application.

A web server lets the answers that have begun go on before it ends the lifespan of an application, and a subscription is
an answer without an end. Whoever waits for the end of the lifespan to end the subscriptions waits for ever.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["told_of_stop"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def told_of_stop(tell: Callable[[], None]) -> Iterator[None]:
    """Have `tell` called in the event loop at a signal to stop, before whoever handles that signal.

    Outside the main thread, and of a signal that nobody handles, nothing is told.

    Args:
        - tell: called at each such signal
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}

    def heard(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(tell)
        before[signal.Signals(number)](number, frame)

    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            before[number] = handler
            signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is heard:
                signal.signal(number, handler)
