"""Task bodies in processes, for work that keeps a processor busy."""

from __future__ import annotations

import asyncio
import codecs
import functools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, BinaryIO, cast

import anyio
import anyio.to_thread

from .._turns import Places
from ._heard import log_levels
from ._ticket import TaskTicket
from ._travel import Answer, ByName, Request, Told, outcome_of_answer, pickled, request_for, unpickled
from ._worker import read_frame, write_frame
from .base import PlaceExecutor
from .place import Fate, Job, Outcome, Place, Ticket

__all__ = ["ProcessExecutor", "ProcessWorker"]


class ProcessExecutor(PlaceExecutor):
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
        - processes: how many bodies run at once, on each event loop that uses it; as many as there are processors if
            None
    """

    def __init__(self, processes: int | None = None) -> None:
        if processes is not None and processes < 1:
            raise ValueError(f"processes is at least 1, not {processes}")
        super().__init__()
        self.processes = processes or _processors()

    def _opened(self) -> AbstractAsyncContextManager[Place]:
        return _process_place(self.processes)

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Say that the process is gone."""
        return "Its process was killed."


@asynccontextmanager
async def _process_place(processes: int) -> AsyncIterator[Place]:
    place = _ProcessPlace(processes)
    try:
        yield place
    finally:
        with anyio.CancelScope(shield=True):
            await place.close()


class _ProcessPlace(Place):
    """A pool of processes; each begins when it is first needed."""

    reports_begin = True

    def __init__(self, processes: int) -> None:
        self.window = processes
        self._slots = Places(processes)
        self._idle: list[ProcessWorker] = []
        self._is_closed = False

    async def submit(self, job: Job) -> Ticket:
        """Take a job; it waits for a process."""
        await self._slots.take(job.needs.priority)
        ticket = TaskTicket(job, functools.partial(self._work, job))
        ticket.at_the_end(self._slots.give_back)
        return ticket

    async def close(self) -> None:
        """End the processes."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        await _in_thread(_close, idle)

    async def _work(self, job: Job, ticket: TaskTicket) -> Outcome:
        request = request_for(job.body, job.args, dict(job.inputs))
        answer = await self._answered(request, job.name, ticket)
        if answer.kind == "unknown" and isinstance(request.body, ByName):
            answer = await self._answered(request._replace(body=job.body), job.name, ticket)
        return outcome_of_answer(answer, job.name, has_begun=ticket.is_under_way)

    async def _answered(self, request: Request, name: str, ticket: TaskTicket) -> Answer:
        frame = await _in_thread(pickled, request, name)
        worker = self._idle.pop() if self._idle else ProcessWorker()
        answer: Answer | None = None
        try:
            answer = await _in_thread(worker.run, frame, _Told(ticket))
        finally:
            if answer is not None and answer.kind != "lost" and not self._is_closed:
                self._idle.append(worker)
            elif worker.kill():
                ticket.fate = Fate.KILLED
        assert answer is not None
        return answer


class _Told(Told):
    """Passes what a process says of its body on to the loop, from the thread that listens to it."""

    def __init__(self, ticket: TaskTicket) -> None:
        self._ticket = ticket
        self._loop = asyncio.get_running_loop()

    def began(self) -> None:
        with suppress(RuntimeError):  # the loop was closed in the meantime
            self._loop.call_soon_threadsafe(self._ticket.has_begun)

    def ended(self, seconds: float) -> None:
        self._ticket.has_taken(seconds)


class ProcessWorker:
    """One process, which runs one body at a time. Its methods block, except `kill`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_killed = False
        self.is_fit = True
        """Whether it can run another body after the one it has."""

    def run(self, frame: bytes, told: Told) -> Answer:
        """Run a body to its end."""
        process = self._started()
        if process is None:
            return _LOST
        assert process.stdin is not None
        assert process.stdout is not None
        stdout = cast("BinaryIO", process.stdout)
        with suppress(BrokenPipeError):  # how it ended is found out below
            write_frame(cast("BinaryIO", process.stdin), pickle.dumps(log_levels()))
            write_frame(cast("BinaryIO", process.stdin), frame)
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        while (kind := read_frame(stdout)) is not None and (content := read_frame(stdout)) is not None:
            match pickle.loads(kind):  # noqa: S301 - from a process that runs the user's own code
                case "printed":
                    sys.stdout.write(decoder.decode(content))
                case "logged":
                    record = pickle.loads(content)  # noqa: S301
                    logging.getLogger(record.name).handle(record)
                case "began":
                    told.began()
                case "ended":
                    told.ended(pickle.loads(content))  # noqa: S301
                case _:
                    return unpickled(content)
        self.is_fit = False
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()
        if self._is_killed:
            return _LOST
        return Answer("lost", None, f"the process that ran it ended: {_how(code)}")

    def _started(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._is_killed:
                return None
            if self._process is None:
                self._process = _process()
                assert self._process.stdin is not None
                write_frame(cast("BinaryIO", self._process.stdin), pickle.dumps(sys.path))
            return self._process

    def interrupt(self) -> None:
        """Raise a KeyboardInterrupt in the body; begin no process for it, and end one where nothing can raise one."""
        if sys.platform == "win32":
            self.kill()
            return
        with self._lock:
            self.is_fit = False  # what comes too late for this body must not reach the next one
            if self._process is None:
                self._is_killed = True
            elif self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)

    def kill(self) -> bool:
        """End the process, and all that the body started in its process group; return whether there was one."""
        with self._lock:
            self._is_killed = True
            self.is_fit = False
            if self._process is None or self._process.poll() is not None:
                return False
            if sys.platform == "win32":
                self._process.kill()
            else:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            return True

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


def _close(workers: list[ProcessWorker]) -> None:
    for worker in workers:
        worker.close()


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    # how many there are is limited by the slots; no other thread of the application has to wait for these
    limiter = anyio.CapacityLimiter(1)
    return await anyio.to_thread.run_sync(functools.partial(function, *args), abandon_on_cancel=True, limiter=limiter)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
