"""A sync body of a Dask worker in a process of its own, which can be killed, wherever the body sits."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ._travel import Answer, ByName, Told, filled, pickled, stored_here
from .processes import ProcessWorker

__all__ = ["in_own_process"]

_idle: list[ProcessWorker] = []
"""Processes that wait for the next body; they end with this one."""

_lock = threading.Lock()


def in_own_process(frame: bytes, claim: Callable[[ProcessWorker], None], told: Told, lying: Sequence[Any]) -> Answer:
    """Run the body of a request in another process.

    Args:
        - frame: the request
        - claim: is given the process, to kill it when the body is to stop; it raises if the body may not begin
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
    with _lock:
        process = _idle.pop() if _idle else ProcessWorker()
    claim(process)
    began = time.monotonic()
    answer = process.run(whole, told)
    if answer.kind == "lost":  # it did not say so itself
        told.ended(time.monotonic() - began)
    else:
        with _lock:
            _idle.append(process)
    if answer.kind == "value" and request.store is not None and answer.content is not None:
        return stored_here(request, answer.content, inputs, told)
    return answer
