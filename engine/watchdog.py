"""Telling who blocks the event loop: one thread looks whether the loops on which flows run still answer.

Each look wakes the loop, and with it what Python does about signals: asyncio's own loops sleep through a Ctrl-C that
another thread got, or that came in the moment they went to sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["watched_loop"]

_BEAT = 0.25
_PATIENCE = 4
"""Beats without an answer after which a loop is taken to be blocked. They are counted, not the seconds: a process that
was suspended has missed beats, too."""

_OWN = (f"{Path(__file__).parent}/", f"{Path(__file__).parent.parent / 'backends'}/")
_LIBRARIES = (*{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}, "<frozen")
_log = logging.getLogger("flowloop.loop")

_lock = threading.Lock()
_watched: dict[asyncio.AbstractEventLoop, _Watched] = {}
_thread: threading.Thread | None = None


class _Watched:
    """A loop, and whether it answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.runs = 0
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._beats_without_answer = 0
        self._is_asked = False
        self._named: set[tuple[str | None, CodeType]] = set()

    def look(self) -> None:
        """Ask the loop for an answer, or count how long it has owed one."""
        if self._is_asked:
            self._beats_without_answer += 1
            if self._beats_without_answer == _PATIENCE:
                self._name_culprit()
            return
        self._is_asked, self._beats_without_answer = True, 0
        with contextlib.suppress(RuntimeError):  # it was closed
            self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._is_asked = False

    def _name_culprit(self) -> None:
        innermost = sys._current_frames().get(self._thread_id)
        if innermost is None:
            return
        frames = list(_outwards(innermost))
        run = _run_context(frames)
        frame = next((frame for frame in frames if not _is_library(frame)), innermost)
        name = run.get("task_full_name")
        if (run.get("task_slug"), frame.f_code) in self._named:
            return
        self._named.add((run.get("task_slug"), frame.f_code))
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        _log.warning(
            "%s has blocked the event loop for more than %g s, in %s:%d, %s: %s; nothing else goes on meanwhile. "
            "What cannot be awaited belongs in a task that is no coroutine: it runs in a thread.",
            f"task {name!r}" if name else "something",
            _BEAT * _PATIENCE,
            frame.f_code.co_filename,
            frame.f_lineno,
            frame.f_code.co_name,
            line,
            extra={
                "flow_name": run.get("flow_name"),
                "flow_run_id": run.get("flow_run_id"),
                "task_name": name,
                "task_run_id": run.get("task_run_id"),
            },
        )


@contextmanager
def watched_loop() -> Iterator[None]:
    """Watch the running loop inside the block: what blocks it for longer than a second is named in the log, once."""
    loop = asyncio.get_running_loop()
    with _lock:
        watched = _watched.get(loop)
        if watched is None:
            watched = _watched[loop] = _Watched(loop)
        watched.runs += 1
        _see_to_thread()
    try:
        yield
    finally:
        with _lock:
            watched.runs -= 1
            if not watched.runs:
                del _watched[loop]


def _see_to_thread() -> None:
    global _thread
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_watch, name="flowloop watchdog", daemon=True)
        _thread.start()


def _watch() -> None:
    global _thread
    while True:
        time.sleep(_BEAT)
        with _lock:
            if not _watched:
                _thread = None
                return
            loops = list(_watched.values())
        for watched in loops:
            watched.look()


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _run_context(frames: list[FrameType]) -> dict[str, Any]:
    """Return the run context of the body that these frames are in; nothing if they are in none."""
    for frame in frames:
        if frame.f_code.co_name == "_outcome" and frame.f_code.co_filename.startswith(_OWN):
            current = frame.f_locals.get("current")
            return current if isinstance(current, dict) else {}
    return {}


def _is_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith((*_OWN, *_LIBRARIES))
