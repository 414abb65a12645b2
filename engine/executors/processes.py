"""Task bodies in processes, for work that keeps a processor busy."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, BinaryIO, cast

import anyio
import anyio.to_thread

from ..context import values
from ..errors import ExecutorError
from ._worker import Answer, ByName, Request, dumps, read_frame, write_frame
from .base import Executor

__all__ = ["ProcessExecutor"]

_AT_HOME = frozenset(
    {
        "backend",
        "caches",
        "cancellation",
        "clock",
        "executor",
        "flow_slugs",
        "limits",
        "logger",
        "settings",
        "task_run_info",
        "watch",
    }
)
"""Values of the run context that mean something only where the run is."""


class ProcessExecutor(Executor):
    """Runs each body in a process of its own pool, sync and async ones alike.

    A body that times out or is cancelled is really ended: its process is killed, with all that it started, and only its
    own. A process that dies fails the one body it ran, with an `ExecutorError`, which a retry can cure. That is why the
    pool is flowloop's own: in those of ``concurrent.futures`` and ``loky`` one process that dies takes the work of all
    others with it, and no single body can be ended.

    A body travels by name where it is a task of a module that the processes can import, and as a pickle (cloudpickle)
    otherwise; arguments, results and errors always travel as pickles. What a body prints and logs appears in the
    process of the run, and it sees the values of the run context. Its result comes back whole: for large data, return
    where it is stored.

    Args:
        - processes: how many bodies run at once; as many as there are processors if None
    """

    def __init__(self, processes: int | None = None) -> None:
        if processes is not None and processes < 1:
            raise ValueError(f"processes is at least 1, not {processes}")
        self.processes = processes or _processors()
        self._reset()

    def _reset(self) -> None:
        self._flow_runs = 0
        self._slots: anyio.Semaphore | None = None
        self._idle: list[_Worker] = []

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Keep processes for as long as a flow runs; each begins when it is first needed."""
        if not self._flow_runs:
            self._slots = anyio.Semaphore(self.processes, fast_acquire=True)
        self._flow_runs += 1
        try:
            yield
        finally:
            self._flow_runs -= 1
            if not self._flow_runs:
                idle = self._idle
                self._reset()
                with anyio.CancelScope(shield=True):
                    await _in_thread(_close, idle)

    async def submit(
        self, fn: Callable[..., Any], *args: Any, extra_context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run a body to its end; see `Executor.submit`.

        Raises:
            - ExecutorError: if something of the body cannot be pickled, or its process died
        """
        if self._slots is None:
            raise ExecutorError("this ProcessExecutor is not started: submit inside `async with executor.start()`")
        name = str((extra_context or {}).get("task_name") or getattr(fn, "__name__", "a body"))
        context = {key: value for key, value in values.get().items() if key not in _AT_HOME}
        request = Request(_by_name(fn) or fn, args, kwargs, context, _log_levels())
        async with self._slots:
            answer = await self._answered(request, name)
            if answer.kind == "unknown" and isinstance(request.body, ByName):
                answer = await self._answered(request._replace(body=fn), name)
        return _value_of(answer, name)

    async def _answered(self, request: Request, name: str) -> Answer:
        frame = await _in_thread(_pickled, request, name)
        worker = self._idle.pop() if self._idle else _Worker()
        ended = False
        try:
            answer: Answer = await _in_thread(worker.run, frame, name)
            ended = True
        finally:
            if ended and self._flow_runs:
                self._idle.append(worker)
            else:
                worker.kill()
        return answer

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Say that the process is gone."""
        return "Its process was killed."

    def __getstate__(self) -> dict[str, Any]:
        return {"processes": self.processes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class _Worker:
    """One process, which runs one body at a time. Its methods block, except `kill`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_killed = False

    def run(self, frame: bytes, name: str) -> Answer:
        """Run a body to its end."""
        process = self._started()
        if process is None:
            return _LOST
        assert process.stdin is not None
        assert process.stdout is not None
        stdout = cast("BinaryIO", process.stdout)
        with suppress(BrokenPipeError):  # how it ended is found out below
            write_frame(cast("BinaryIO", process.stdin), frame)
        while (kind := read_frame(stdout)) is not None and (content := read_frame(stdout)) is not None:
            match pickle.loads(kind):  # noqa: S301 - from a process that runs the user's own code
                case "printed":
                    sys.stdout.write(content.decode())
                case "logged":
                    record = pickle.loads(content)  # noqa: S301
                    logging.getLogger(record.name).handle(record)
                case _:
                    return _unpickled(content)
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()
        if self._is_killed:
            return _LOST
        raise ExecutorError(f"task {name!r}: the process that ran it ended: {_how(code)}")

    def _started(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._is_killed:
                return None
            if self._process is None:
                self._process = _process()
                assert self._process.stdin is not None
                write_frame(cast("BinaryIO", self._process.stdin), pickle.dumps(sys.path))
            return self._process

    def kill(self) -> None:
        """End the process, and all that the body started in its process group."""
        with self._lock:
            self._is_killed = True
            if self._process is not None and self._process.poll() is None:
                if sys.platform == "win32":
                    self._process.kill()
                else:
                    with suppress(ProcessLookupError):
                        os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process while it is idle."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


_LOST = Answer("lost", None)


def _process() -> subprocess.Popen[bytes]:
    # a group of its own: Ctrl-C reaches the run, which then ends its bodies itself
    # nothing of the user's is in this command
    command = [sys.executable, "-c", "from flowloop.engine.executors._worker import main; main()"]
    if sys.platform == "win32":
        group = subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, creationflags=group)  # noqa: S603
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)  # noqa: S603


def _close(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.close()


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    # how many there are is limited by the slots; no other thread of the application has to wait for these
    limiter = anyio.CapacityLimiter(1)
    return await anyio.to_thread.run_sync(functools.partial(function, *args), abandon_on_cancel=True, limiter=limiter)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _log_levels() -> dict[str, int]:
    return {name: logging.getLogger(name).getEffectiveLevel() for name in ("", "flowloop")}


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


# -- what travels ------------------------------------------------------------------------------------


def _by_name(fn: Callable[..., Any]) -> ByName | None:
    """Return the name of a body that is that of a task in a module, or None."""
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or "<" in qualname:
        return None
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return ByName(module, qualname) if getattr(found, "fn", None) is fn else None


def _pickled(request: Request, name: str) -> bytes:
    try:
        frame = dumps(request)
    except Exception as error:
        if _problem(request.context) is not None:
            # a value that cannot travel is missing there, as it would be if nobody had set it
            kept = {key: value for key, value in request.context.items() if _problem(value) is None}
            return _pickled(request._replace(context=kept), name)
        raise ExecutorError(f"task {name!r} cannot run in another process: {_culprit(request, error)}") from error
    return frame


def _unpickled(frame: bytes) -> Answer:
    try:
        answer: Answer = pickle.loads(frame)  # noqa: S301
    except Exception as error:
        return Answer("unpicklable", ("value", "value", str(error)))
    return answer


def _problem(value: Any) -> Exception | None:
    try:
        dumps(value)
    except Exception as error:
        return error
    return None


def _culprit(request: Request, error: Exception) -> str:
    given = {f"argument number {number}": value for number, value in enumerate(request.args, 1)}
    given |= {f"argument {key!r}": value for key, value in request.kwargs.items()}
    body = inspect.unwrap(request.body) if callable(request.body) else request.body
    owner = getattr(body, "__self__", None)
    if owner is not None:
        given |= {f"attribute {key!r}": value for key, value in vars(owner).items()}
    elif inspect.isfunction(body):
        used = inspect.getclosurevars(body)
        given |= {
            f"variable {key!r}, which its body uses,": value
            for key, value in {**used.globals, **used.nonlocals}.items()
        }
    for what, value in given.items():
        problem = _problem(value)
        if problem is not None:
            return f"its {what} (a {_kind(value)}) cannot be pickled: {problem}"
    return f"its body cannot be pickled: {error}"


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _value_of(answer: Answer, name: str) -> Any:
    if answer.kind == "value":
        return answer.content
    if answer.kind == "error":
        if isinstance(answer.content, Exception):
            answer.content.add_note(f"In the process that ran the task:\n{answer.detail}")
        raise answer.content
    if answer.kind == "unpicklable":
        kind, what, problem = answer.content
        if kind == "value":
            raise ExecutorError(f"task {name!r}: its result (a {what}) cannot be pickled: {problem}")
        raise ExecutorError(f"task {name!r} failed with {what}, which cannot be pickled: {problem}\n{answer.detail}")
    raise ExecutorError(f"task {name!r} cannot run in another process, which could not read it: {answer.detail}")
