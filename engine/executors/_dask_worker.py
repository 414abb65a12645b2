"""What runs on a Dask worker: a body, what is heard of it, and how it is stopped.

Of each body the coordinator hears over one topic of the scheduler: when it began and where, what it prints and logs,
and when it ended. The events of a worker arrive in order, and before the result of the body.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import cloudpickle
from distributed import get_worker
from distributed.utils import sync

from .._run import mapping
from ..errors import ExecutorError
from ._dask_process import in_own_process
from ._heard import Speaker, heard
from ._travel import Answer, Told, alone, answer_to, written
from .processes import ProcessWorker

__all__ = ["item", "run", "stop", "width"]

_running: dict[str, _Body] = {}
"""The bodies of this process, by the names of their jobs."""


class _Stopped(BaseException):
    """Raised in the place of a body that was to stop before it began."""


class _Body(Speaker):
    """A body that runs here."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.worker: Any = get_worker()
        self._name: str = about["name"]
        self._topic: str = about["topic"]
        self._may_rerun: bool = about["may_rerun"]
        self._grace: float = about["grace"]
        self._lock = threading.Lock()
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopped = False
        self._is_under_way = False
        self._process: ProcessWorker | None = None

    # -- what the coordinator hears ------------------------------------------------------------------

    def tell(self, kind: str, said: Any = None) -> None:
        """Send an event, from any thread."""
        self.worker.log_event(self._topic, {"name": self._name, "kind": kind, "said": said})

    def began(self) -> None:
        """Begin, unless this very body has begun before: on a worker that is gone now."""
        self._claim()
        with self._lock:
            if self._is_stopped:
                raise _Stopped
        self.begins()

    def begins(self) -> None:
        """Say that it begins."""
        self._is_under_way = True
        self.tell("began", self.worker.address)

    def _claim(self) -> None:
        if not self._may_rerun:
            # both in one call: a body waits for it
            call = {"function": _CLAIM, "args": pickle.dumps((self._name,)), "kwargs": pickle.dumps({})}
            answer = sync(self.worker.loop, self.worker.scheduler.run_function, **call)
            if answer["status"] != "OK":
                raise ExecutorError(f"the Dask scheduler does not say whether the body may begin: {answer}")
            if not answer["result"]:
                raise _BegunBeforeError

    def awaits(self, task: asyncio.Task[Any]) -> None:
        """Note what is to be cancelled."""
        with self._lock:
            self._task, self._loop = task, asyncio.get_running_loop()
            if self._is_stopped:
                task.cancel()

    def stored(self, result: bytes) -> None:
        """Say where."""
        self.tell("stored", result)

    def runs_in(self, process: ProcessWorker) -> None:
        """Begin in another process, which is killed if the body is to stop, and does not."""
        self._claim()
        with self._lock:
            if self._is_stopped:
                raise _Stopped
            self._process = process

    def ended(self, seconds: float) -> None:
        """Say so if it had begun, and be stopped no more."""
        with self._lock:
            self._task = self._loop = self._process = None
        if self._is_under_way:
            self._is_under_way = False
            self.tell("ended", seconds)

    # -- being stopped -------------------------------------------------------------------------------

    @property
    def was_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._is_stopped

    def stop(self) -> None:
        """Cancel an async body in its loop; interrupt a sync one in its process, and kill that after the grace."""
        with self._lock:
            self._is_stopped = True
            if self._task is not None and self._loop is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
            elif self._process is not None:
                self._process.interrupt()
                self.worker.loop.call_later(self._grace, self._kill)

    def _kill(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self.tell("killed")


class _Elsewhere(Told):
    """Passes on what a body says that runs in yet another process."""

    def __init__(self, body: _Body) -> None:
        self._body = body

    def began(self) -> None:
        """Pass it on."""
        self._body.begins()

    def stored(self, result: bytes) -> None:
        """Pass it on."""
        self._body.stored(result)

    def ended(self, seconds: float) -> None:
        """Pass it on."""
        self._body.ended(seconds)


def _claim(name: str, dask_scheduler: Any = None) -> bool:
    """Say at the scheduler that a body begins, unless it has begun before."""
    begun = dask_scheduler.extensions["events"]
    if begun.event_is_set(name=name):
        return False
    begun.event_set(name=name)
    return True


_CLAIM = cloudpickle.dumps(alone(_claim))


class _BegunBeforeError(Exception):
    """The body began before, and is not run again."""


class Held:
    """A result that stays on its worker."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __sizeof__(self) -> int:
        from dask.sizeof import sizeof

        size: int = sizeof(self.value)
        return size


def run(frame: bytes, about: dict[str, Any], *values: Any) -> bytes | Held:
    """Run a body, and return its answer as a pickle, or a large one itself where it is to stay.

    Args:
        - frame: the request
        - about: the ``name`` of its job, the ``topic`` of the run, its ``home``, the ``levels`` of its loggers, whether
            the body ``is_async`` and ``may_rerun``, the size from which on its result ``stays`` here, the ``grace``
            after which the process of a sync one is killed once it was told to stop, and the numbers of the values that
            are ``held`` results of other bodies
        - values: the inputs that lie here
    """
    name = about["name"]
    lying = [value.value if isinstance(value, Held) else value for value in values]
    if any(not isinstance(values[number], Held) for number in about["held"]):
        return written(Answer("lost", None, "an input of it was lost with its Dask worker"))
    body = _Body(about)
    _running[name] = body
    try:
        with heard(body, about["home"], about["levels"]):
            if about["is_async"]:
                answer = answer_to(frame, body, lying)
            else:
                answer = in_own_process(frame, body.worker, body.runs_in, _Elsewhere(body), lying)
    except _BegunBeforeError:
        answer = Answer("lost", None, _BEGUN_BEFORE)
    except _Stopped:  # in the very moment it began or ended
        answer = _CANCELLED
    finally:
        body.ended(0.0)
        if _running.get(name) is body:
            del _running[name]
    if about["stays"] is not None and answer.kind == "value" and Held(answer.content).__sizeof__() >= about["stays"]:
        return Held(answer.content)
    return written(_CANCELLED if body.was_stopped and _is_of_the_stop(answer) else answer)


def _is_of_the_stop(answer: Answer) -> bool:
    return answer.kind == "lost" or isinstance(answer.content, KeyboardInterrupt)


def width(held: Any) -> int | str | None:
    """Return how many elements a value has that is held here, or why it cannot be mapped over; None if it is gone."""
    if not isinstance(held, Held):
        return None
    return len(held.value) if mapping.is_sequence(held.value) else mapping.why_not(held.value)


def item(held: Any, index: int) -> Any:
    """Return an element of a value that is held here; of one that is gone, what says so."""
    if not isinstance(held, Held):
        return held
    return Held(mapping.element(held.value, index))


_BEGUN_BEFORE = "it had begun, and its worker or its result is gone since; it is not run twice"
_CANCELLED = Answer("error", asyncio.CancelledError())


def stop(name: str) -> bool:
    """Stop a body, if it runs here."""
    body = _running.get(name)
    if body is not None:
        body.stop()
    return body is not None
