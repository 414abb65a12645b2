"""A sync body of a Dask worker in a process of its own, which can be killed, wherever the body sits."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import WorkerPlugin
from distributed.utils import sync

from ._travel import Answer, ByName, Told, filled, pickled, stored_here
from .processes import ProcessWorker

__all__ = ["in_own_process"]

_NAME = "flowloop-processes"

_lock = threading.Lock()


class _Processes(WorkerPlugin):
    """The processes beside a Dask worker: never more than it has threads, and they end with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[ProcessWorker] = []
        self._busy: set[ProcessWorker] = set()
        self._is_closed = False

    @contextmanager
    def taken(self) -> Iterator[ProcessWorker]:
        """Take one for a body; the next body gets it if it is fit for another."""
        with self._lock:
            process = self._idle.pop() if self._idle else ProcessWorker()
            self._busy.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._busy.remove(process)
                is_kept = process.is_fit and not self._is_closed
                if is_kept:
                    self._idle.append(process)
            if not is_kept:
                process.kill()
                process.close()

    async def teardown(self, worker: Any) -> None:
        """End them all."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for process in self._busy:
                process.kill()
        for process in idle:
            await asyncio.to_thread(process.close)


def _processes_of(worker: Any) -> _Processes:
    with _lock:
        found: _Processes | None = worker.plugins.get(_NAME)
        if found is None:
            found = _Processes()
            sync(worker.loop, worker.plugin_add, plugin=found, name=_NAME)
        return found


def in_own_process(
    frame: bytes, worker: Any, claim: Callable[[ProcessWorker], None], told: Told, lying: Sequence[Any]
) -> Answer:
    """Run the body of a request in another process.

    Args:
        - frame: the request
        - worker: the Dask worker
        - claim: is given the process, to end it when the body is to stop; it raises if the body may not begin
        - told: hears of the body
        - lying: what stands in the request as a `Lying` value
    """
    try:
        request = pickle.loads(frame)  # noqa: S301 - it comes from the run that this worker works for
        if isinstance(request.body, ByName):
            request.body.resolve()
    except Exception as error:
        return Answer("unknown", None, f"{type(error).__name__}: {error}")
    inputs = filled(request, lying)
    whole = pickled(request._replace(kwargs=inputs, store=None), getattr(request.body, "__name__", "a body"))
    with _processes_of(worker).taken() as process:
        claim(process)
        began = time.monotonic()
        answer = process.run(whole, told)
        if answer.kind == "lost":  # it did not say so itself
            told.ended(time.monotonic() - began)
    if answer.kind == "value" and request.store is not None and answer.content is not None:
        return stored_here(request, answer.content, inputs, told)
    return answer
