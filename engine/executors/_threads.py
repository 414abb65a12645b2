"""Threads for the sync bodies of tasks."""

from __future__ import annotations

import concurrent.futures
import functools
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["NAME", "BodyThreads"]

P = ParamSpec("P")
T = TypeVar("T")

NAME = "flowloop body"
"""How the threads are called."""

_PATIENCE = 10.0
"""Seconds after which an idle thread ends."""

_Work = tuple["concurrent.futures.Future[Any]", Callable[[], Any]]


class BodyThreads(concurrent.futures.Executor):
    """Calls functions in threads: in one that is idle, or in a new one.

    A thread cannot be stopped, so one whose work was given up goes on. These are daemons: unlike those of the standard
    pools they do not keep a process from ending because of that.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._is_shut_down = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
        """Call a function in a thread."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            one_is_idle = self._idle > 0
            self._idle -= one_is_idle
        self._work.put((future, functools.partial(fn, *args, **kwargs)))
        if not one_is_idle:
            threading.Thread(target=self._run, name=NAME, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the idle threads end; the others end after their work, which is not waited for."""
        with self._lock:
            self._is_shut_down = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._work.put(None)

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=_PATIENCE)
            except queue.Empty:
                with self._lock:
                    if self._idle:  # otherwise there is work on its way
                        self._idle -= 1
                        return
                continue
            if work is None:
                return
            tell = _done(*work)
            del work
            with self._lock:
                is_over = self._is_shut_down
                self._idle += not is_over  # before it is told: whoever hears of it may have work for this thread
            tell()
            del tell
            if is_over:
                return


def _done(future: concurrent.futures.Future[Any], call: Callable[[], Any]) -> Callable[[], None]:
    """Do a work, and return what tells what became of it."""
    if not future.set_running_or_notify_cancel():
        return _nothing
    try:
        return functools.partial(future.set_result, call())
    except StopIteration as error:
        # no future can carry one
        stopped = RuntimeError("the body raised StopIteration")
        stopped.__cause__ = error
        return functools.partial(future.set_exception, stopped)
    except BaseException as error:
        # signals are no Exceptions, and have to arrive where the body is awaited, as everything else
        return functools.partial(future.set_exception, error)


def _nothing() -> None: ...
