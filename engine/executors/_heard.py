"""What the run hears of a body that runs in a worker elsewhere: what it prints and logs."""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..stdout import redirected
from ._travel import Told

__all__ = ["HOME", "Speaker", "heard", "log_levels", "passed_on"]

HOME = [socket.gethostname(), os.getpid()]
"""This process; a body that runs in the process of its run need not send what it logs."""


class Speaker(Told):
    """A body that tells its run what becomes of it."""

    def tell(self, kind: str, said: Any = None) -> None:
        """Send an event, from any thread."""
        raise NotImplementedError


_current: ContextVar[Speaker | None] = ContextVar("flowloop_heard_body", default=None)


class _Forwarding(logging.handlers.QueueHandler):
    """Sends what the bodies of this process log."""

    sends_home = True

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]

    def emit(self, record: logging.LogRecord) -> None:
        body = _current.get()
        if body is not None:
            body.tell("logged", pickle.dumps(self.prepare(record)))


_forwarding = _Forwarding()


@contextmanager
def heard(body: Speaker, home: list[Any], levels: Mapping[str, int]) -> Iterator[None]:
    """Send what is printed and logged in the block.

    Args:
        - body: the body that runs in it
        - home: the process of its run
        - levels: those of the loggers there
    """
    is_home = home == [socket.gethostname(), os.getpid()]
    if not is_home:
        _forward(levels)
    token = _current.set(None if is_home else body)
    try:
        with redirected(_Lines(body)):
            yield
    finally:
        _current.reset(token)


def _forward(levels: Mapping[str, int]) -> None:
    root = logging.getLogger()
    if _forwarding not in root.handlers:
        root.addHandler(_forwarding)
    for name, level in levels.items():
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() > level:
            logger.setLevel(level)


class _Lines:
    """Sends what is printed, line by line."""

    def __init__(self, body: Speaker) -> None:
        self._body = body
        self._rest = ""

    def write(self, text: str) -> int:
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._body.tell("printed", lines + newline)
        return len(text)

    def finish(self) -> None:
        if self._rest:
            self._body.tell("printed", self._rest)
            self._rest = ""


def log_levels() -> dict[str, int]:
    """Return the levels of the loggers here, for workers elsewhere."""
    return {name: logging.getLogger(name).getEffectiveLevel() for name in ("", "flowloop")}


def passed_on(frame: bytes) -> None:
    """Log here what a body logged elsewhere."""
    record: logging.LogRecord = pickle.loads(frame)  # noqa: S301 - from a worker that runs the user's own code
    logging.getLogger(record.name).handle(record)
