"""Sending what one task prints to its run's log, without stealing what other tasks print."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TextIO, cast

from .context import context

__all__ = ["Lines", "captured_stdout", "redirected"]

_capturing: ContextVar[Lines | None] = ContextVar("flowloop_capturing_stdout", default=None)
_lock = threading.Lock()
_captures = 0


class _LineLogger(io.TextIOBase):
    """Logs each finished line."""

    def __init__(self) -> None:
        self._logger = context.logger
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line:
                self._logger.info(line)
        return len(text)

    def finish(self) -> None:
        if self._rest:
            self._logger.info(self._rest)
            self._rest = ""


class _Switch:
    """Stands in for ``sys.stdout``: each writer reaches the log of its own run, or the real stdout."""

    def __init__(self, real: TextIO) -> None:
        self.real = real

    def write(self, text: str) -> int:
        target: Any = _capturing.get() or self.real
        written: int = target.write(text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if _capturing.get() is None:
            self.real.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@contextmanager
def captured_stdout(enabled: bool) -> Iterator[None]:
    """Send what this run prints in the block to its log.

    Args:
        - enabled: False leaves everything as it is
    """
    if not enabled:
        yield
        return
    with redirected(_LineLogger()):
        yield


class Lines(Protocol):
    """Takes what is printed."""

    def write(self, text: str, /) -> int:
        """Take some text."""
        ...

    def finish(self) -> None:
        """Take it that there is no more."""
        ...


@contextmanager
def redirected(lines: Lines) -> Iterator[None]:
    """Send what is printed in this block, and not elsewhere, to `lines`."""
    token = _capturing.set(lines)
    _install()
    try:
        yield
    finally:
        _remove()
        _capturing.reset(token)
        lines.finish()


def _install() -> None:
    global _captures
    with _lock:
        if not isinstance(sys.stdout, _Switch):
            sys.stdout = cast("TextIO", _Switch(sys.stdout))
        _captures += 1


def _remove() -> None:
    global _captures
    with _lock:
        _captures -= 1
        if not _captures and isinstance(sys.stdout, _Switch):
            sys.stdout = sys.stdout.real
