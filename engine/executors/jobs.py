"""Bodies as jobs of an engine that launches, watches and terminates them by name: Kubernetes, a batch service.

What a job needs and what becomes of it travels through a store that both sides reach: the request, a mark that the
body has begun, and the answer. The name of a job follows from the attempt of the task run, so whoever goes on with a
flow run finds the jobs of the one before.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import importlib.metadata
import json
import logging
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from .._turns import Places
from ..cancellation import undisturbed
from ..result import Result, ResultNotFound
from ..serialization import encode_state
from ..state import Success
from ._heard import HOME, log_levels
from ._ticket import TaskTicket
from ._travel import outcome_of_answer, pickled, request_for, unpickled
from .base import PlaceExecutor
from .place import Fate, Job, Lost, Outcome, Place, Refused, Ticket

__all__ = ["JobService", "JobsExecutor", "Phase", "Seen", "Specification"]

_log = logging.getLogger("flowloop.executors.jobs")

_PAUSE = 1.0
"""Seconds after which a service is asked again that did not answer."""

_MANY = 1000
"""Jobs after which those that are over are removed."""


class Phase(enum.Enum):
    """How far a job is."""

    WAITS = "waits"
    RUNS = "runs"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    GONE = "gone"


_OVER = (Phase.SUCCEEDED, Phase.FAILED, Phase.GONE)


class Seen(NamedTuple):
    """What a service says of a job.

    Args:
        - name: its name
        - phase: how far it is
        - detail: why, as far as it is known
    """

    name: str
    phase: Phase
    detail: str = ""


class Specification(NamedTuple):
    """What a service launches: ``python -m flowloop.engine.executors._job_worker``, with `environment`.

    Args:
        - name: the name of the job, of letters, digits and dashes, below 64 of them
        - environment: the variables that the program reads
        - job: the job, for what it needs and the grace that it has to end
    """

    name: str
    environment: dict[str, str]
    job: Job


class JobRefusedError(Exception):
    """The service does not take a job; the text says why."""


class JobService(ABC):
    """An engine that runs programs by name, open on one event loop."""

    @abstractmethod
    async def launch(self, wanted: Specification) -> None:
        """Launch a job; if there is one of this name, that is the job.

        Raises:
            - JobRefusedError: if the service does not take it
        """

    @abstractmethod
    def watch(self) -> AsyncGenerator[Seen]:
        """Tell of the jobs, for ever: first how far each is, then each step, also of jobs that somebody else launched.

        Raises:
            - Exception: if the service does not answer; it is asked again, then
        """

    @abstractmethod
    def lines(self, name: str) -> AsyncGenerator[str]:
        """Tell what a job that runs, or did, has written, to the end of it."""

    @abstractmethod
    async def terminate(self, name: str) -> None:
        """Tell a job to stop, and end it after its grace; it is `Phase.GONE` then."""

    @abstractmethod
    async def remove(self, name: str) -> None:
        """Forget a job that is over, if there is one of this name."""

    async def check(self) -> list[str]:
        """Return why jobs cannot be launched here, one sentence for each reason."""
        return []


class JobsExecutor(PlaceExecutor):
    """Runs each body as a job: launched, watched, and terminated by name. Write `service` for an engine of your own.

    Args:
        - store: where requests and answers lie, which this process and the jobs reach: a result without a location,
            such as ``S3Result("bucket")``; jobs read its credentials from their own environment
        - window: how many jobs there are at once; the other bodies wait here
    """

    def __init__(self, store: Result, window: int = 100) -> None:
        super().__init__()
        self.store = store
        self.window = window

    def service(self) -> AbstractAsyncContextManager[JobService]:
        """Open the engine."""
        raise NotImplementedError(f"{type(self).__name__} does not say what launches its jobs")

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Place]:
        async with self.service() as service:
            place = _JobsPlace(service, self.store, self.window)
            # a task of its own, and no group of anyio's: another flow run than the first may close the place
            watching = asyncio.create_task(place.watch())
            try:
                yield place
            finally:
                watching.cancel()
                await asyncio.wait((watching,))
                with anyio.CancelScope(shield=True):
                    await place.close()


class _Launched:
    """A job that was launched.

    Args:
        - ticket: its ticket
    """

    def __init__(self, ticket: TaskTicket) -> None:
        self.ticket = ticket
        self.end: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self.runs = asyncio.Event()
        self.is_asked_for = False
        """Whether the service was asked to launch it: if not, there is nothing to wait for when it is to stop."""
        # what it prints is printed where the run prints
        self._context = contextvars.copy_context()

    def see(self, seen: Seen) -> None:
        """Take what the service says."""
        if seen.phase is not Phase.WAITS and seen.phase is not Phase.GONE:
            self.runs.set()
        if seen.phase is Phase.SUCCEEDED:
            self.ticket.has_begun()
        if seen.phase in _OVER and not self.end.done():
            self.end.set_result(seen)

    def hear(self, line: str) -> None:
        """Take a line that the job has written."""
        said = _said(line)
        if said is None:
            self._context.run(sys.stdout.write, line.rstrip("\n") + "\n")
        elif said[0] == "began":
            self.ticket.has_begun()
        elif said[0] == "ended":
            self.ticket.has_taken(said[1])
        elif said[0] == "logged":
            record = logging.makeLogRecord(said[1])
            logging.getLogger(record.name).handle(record)


def _said(line: str) -> tuple[str, Any] | None:
    """Return what a line tells this process; None if it is for people."""
    if line.startswith('{"flowloop": '):
        with suppress(ValueError, KeyError, TypeError):
            kind, said = json.loads(line)["flowloop"]
            return kind, said
    return None


class _JobsPlace(Place):
    """An engine of jobs.

    Args:
        - service: the engine
        - store: where requests and answers lie
        - window: how many jobs there are at once
    """

    reports_begin = True
    reattaches = True

    def __init__(self, service: JobService, store: Result, window: int) -> None:
        self._service = service
        self._store = store
        self.window = window
        self._room = Places(window)
        self._launched: dict[str, _Launched] = {}
        self._over: list[str] = []

    async def watch(self) -> None:
        """Hear of the jobs."""
        while True:
            try:
                async with aclosing(self._service.watch()) as watched:
                    async for seen in watched:
                        if seen.name in self._launched:
                            self._launched[seen.name].see(seen)
            except Exception as error:
                _log.warning("the jobs cannot be watched, and are asked for again: %s", error)
            await anyio.sleep(_PAUSE)

    async def close(self) -> None:
        """Leave no job behind that is over."""
        over, self._over = self._over, []
        for name in over:
            with suppress(Exception):  # the service may be gone
                await self._service.remove(name)
            for part in ("request", "begun", "answer"):
                with suppress(Exception):
                    await self._store.remove(f"{name}/{part}")

    async def check(self) -> list[str]:
        """Return why jobs cannot be launched."""
        return await self._service.check()

    async def submit(self, job: Job) -> Ticket:
        """Take a job; waits while the window is full."""
        await self._room.take(job.needs.priority)
        ticket = TaskTicket(job, functools.partial(self._work, job))
        ticket.at_the_end(self._room.give_back)
        return ticket

    async def _work(self, job: Job, ticket: TaskTicket) -> Outcome:
        name = f"flowloop-{uuid.uuid5(uuid.NAMESPACE_OID, job.id).hex}"
        launched = self._launched[name] = _Launched(ticket)
        listening = asyncio.create_task(self._listen(name, launched))
        try:
            await self._launch(name, job, launched)
            seen = await asyncio.shield(launched.end)
            await listening
            return await self._outcome(name, job, seen)
        except JobRefusedError as error:
            return Refused(str(error))
        except asyncio.CancelledError:
            ticket.fate = Fate.GOES_ON if ticket.is_left else await self._terminated(name, job, launched)
            raise
        finally:
            listening.cancel()
            del self._launched[name]
            self._over.extend([] if ticket.is_left else [name])
            if len(self._over) >= _MANY:
                await self.close()

    async def _launch(self, name: str, job: Job, launched: _Launched) -> None:
        request = request_for(job.body, job.args, dict(job.inputs))._replace(body=job.body)
        frame = await anyio.to_thread.run_sync(functools.partial(pickled, request, job.name, with_module=True))
        stored = await self._at(f"{name}/request").write(frame)
        about = {
            "request": json.loads(encode_state(Success("", stored)))["_result"],
            "may_rerun": job.needs.may_rerun,
            "home": HOME,
            "levels": log_levels(),
            "versions": versions(),
        }
        launched.is_asked_for = True
        wanted = Specification(name, {"FLOWLOOP_JOB": json.dumps(about)}, job)
        # cut short, it would not be known whether there is a job to terminate
        await undisturbed(self._service.launch(wanted), job.grace)

    async def _listen(self, name: str, launched: _Launched) -> None:
        """Hear what a job writes, from its beginning to its end; what cannot be heard is no reason to fail."""
        waiting = asyncio.ensure_future(launched.runs.wait())
        try:
            await asyncio.wait((waiting, launched.end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not launched.runs.is_set():
            return
        try:
            async with aclosing(self._service.lines(name)) as lines:
                async for line in lines:
                    launched.hear(line)
        except Exception as error:
            _log.warning("what job %s writes cannot be heard: %s", name, error)
            launched.ticket.has_begun()

    async def _outcome(self, name: str, job: Job, seen: Seen) -> Outcome:
        try:
            answer = await self._at(None).read(f"{name}/answer")
        except ResultNotFound:
            has_begun = await self._at(None).exists(f"{name}/begun")
            return Lost(f"its job {name} {seen.phase.value}: {seen.detail}".rstrip(": "), may_have_run=has_begun)
        return outcome_of_answer(unpickled(answer.value), job.name)

    async def _terminated(self, name: str, job: Job, launched: _Launched) -> Fate | None:
        """End a job, and return what became of it; None if it never began, or has ended."""
        if not launched.is_asked_for:
            return None
        try:
            await self._service.terminate(name)
        except Exception as error:
            _log.warning("job %s could not be terminated: %s", name, error)
            return Fate.UNKNOWN
        with anyio.move_on_after(job.grace + _PAUSE):
            seen = await asyncio.shield(launched.end)
            return Fate.KILLED if seen.phase is Phase.GONE and launched.ticket.is_under_way else None
        return Fate.GOES_ON if launched.ticket.is_under_way else None

    def _at(self, location: str | None) -> Result:
        place = self._store.at(location)
        place.serializer = Result.serializer_default
        return place


def versions() -> dict[str, str]:
    """Return the versions that have to be the same on both sides."""
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "flowloop": importlib.metadata.version("flowloop"),
    }
