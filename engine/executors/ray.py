"""Task bodies on Ray."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import importlib
import importlib.metadata
import os
import pickle
import sys
import threading
import types
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread

from .. import errors
from .._turns import Places
from ..errors import ExecutorError
from ..remote import Part, Parts, Remote
from ..result import Result
from ._heard import HOME, log_levels, passed_on
from ._put import Put
from ._ray_worker import size
from ._ticket import TaskTicket
from ._travel import Answer, Request, alone, outcome_of_answer, pickled, request_for, unpickled
from .base import PlaceExecutor
from .place import Done, Fate, Job, Lost, Needs, Outcome, Place, Refused, Stored, Ticket

__all__ = ["RayExecutor"]


class RayExecutor(PlaceExecutor):
    """Runs each body, sync or async, in a worker of Ray, where flowloop is installed, too.

    A body runs once, or it is visibly `Lost`. One that times out or is cancelled is interrupted, and after the grace
    its worker is killed. Large inputs are put into Ray's store once.

    Args:
        - address: the address of a Ray cluster that is there; if None, the Ray that this process has begun already, or
            else one of this computer, on loopback only and without its dashboard
        - init_kwargs: other arguments of ``ray.init``
        - window: how many bodies are handed over at once; the others wait here

    Raises:
        - ExecutorError: if Ray is not installed
    """

    def __init__(
        self, address: str | None = None, init_kwargs: Mapping[str, Any] | None = None, window: int = 1000
    ) -> None:
        super().__init__()
        self.address = address
        self.init_kwargs = dict(init_kwargs or {})
        self.window = window

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Place]:
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise ExecutorError("a RayExecutor needs Ray: pip install 'flowloop[ray]'") from None
        await anyio.to_thread.run_sync(_RUNNING.enter, ray, self.address, self.init_kwargs)
        try:
            place = _RayPlace(ray, self.window)
            # a task of its own, and no group of anyio's: another flow run than the first may close the place
            listening = asyncio.create_task(place.listen())
            try:
                yield place
            finally:
                listening.cancel()
                await asyncio.wait((listening,))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_RUNNING.leave, ray)


class _Running:
    """The Ray of this process: there is one at a time, for all loops.

    It is begun in a thread that lives as long as it does, for its processes end with the thread that began them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def enter(self, ray: Any, address: str | None, init_kwargs: Mapping[str, Any]) -> None:
        """Begin it, unless it has begun."""
        with self._lock:
            if not self._users and not ray.is_initialized():
                self._begin(ray, address, init_kwargs)
            self._users += 1

    def leave(self, ray: Any) -> None:
        """End it after the last user, if it was begun here."""
        with self._lock:
            self._users -= 1
            if not self._users and self._thread is not None:
                self._over.set()
                self._thread.join()
                self._thread = None

    def _begin(self, ray: Any, address: str | None, init_kwargs: Mapping[str, Any]) -> None:
        begun, problems = threading.Event(), []
        self._over = threading.Event()
        given = {"log_to_driver": False, **init_kwargs}
        if address is not None:
            given["address"] = address
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            given = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", **given}

        def live() -> None:
            try:
                ray.init(**given)
            except BaseException as error:
                problems.append(error)
                return
            finally:
                begun.set()
            self._over.wait()
            ray.shutdown()

        self._thread = threading.Thread(target=live, name="flowloop ray", daemon=True)
        self._thread.start()
        begun.wait()
        if problems:
            self._thread = None
            raise ExecutorError(f"Ray could not be begun: {problems[0]}") from problems[0]


_RUNNING = _Running()


_MANY = 100_000
"""Calls of the owner of bodies at once, most of which wait for an answer."""


class _Sent:
    """A job that Ray has."""

    def __init__(self, ticket: TaskTicket) -> None:
        self.ticket = ticket
        self.over = asyncio.Event()
        self.stored: Result | None = None
        # what it prints is printed where the run prints
        self._context = contextvars.copy_context()
        self._early: dict[int, tuple[str, Any]] = {}
        self._heard = 0

    def hear(self, number: int, kind: str, said: Any) -> None:
        """Take an event of the worker; one that came too early waits for those before it."""
        self._early[number] = kind, said
        while (event := self._early.pop(self._heard, None)) is not None:
            self._heard += 1
            self._take(*event)

    def _take(self, kind: str, said: Any) -> None:
        if kind == "began":
            self.ticket.has_begun()
        elif kind == "ended":
            self.ticket.has_taken(said)
        elif kind == "printed":
            self._context.run(sys.stdout.write, said)
        elif kind == "logged":
            passed_on(said)
        elif kind == "stored":
            self.stored = pickle.loads(said)  # noqa: S301 - from a worker that runs the user's own code
        else:
            self.over.set()


class _RayPlace(Place):
    """Ray, as this process sees it.

    An actor that no process owns begins the bodies, and has their results: both outlive this process.
    """

    reports_begin = True
    keeps_values = True
    reattaches = True

    def __init__(self, ray: Any, window: int) -> None:
        self._ray = ray
        self.window = window
        self._room = Places(window)
        self._sent: dict[str, _Sent] = {}
        self._put = Put(self._into_the_store, self._part, lambda reference: True, size)
        self._ears = ray.remote(num_cpus=0)(_alone_class(_Ears)).remote()
        owner = ray.remote(num_cpus=0, max_concurrency=_MANY)(_alone_class(_Owner))
        named = {"name": "flowloop", "namespace": "flowloop", "lifetime": "detached", "get_if_exists": True}
        self._owner = owner.options(**named).remote(alone(_start))
        self._call = ray.remote(num_cpus=0)(alone(_call))
        self._is_deaf = False

    async def listen(self) -> None:
        """Hear what the workers say."""
        try:
            while True:
                for name, number, kind, said in await self._ears.heard.remote():
                    sent = self._sent.get(name)
                    if sent is not None:
                        sent.hear(number, kind, said)
        except self._ray.exceptions.RayError:  # the actor is gone, and nothing more is heard
            self._is_deaf = True
            for sent in self._sent.values():
                sent.over.set()

    # -- values that stay ----------------------------------------------------------------------------

    async def _into_the_store(self, value: Any) -> Any:
        (reference,) = await (await anyio.to_thread.run_sync(self._owner.put.remote, value))
        return reference

    def _part(self, whole: Any, number: int) -> Any:
        """Take an element out of a value in the store."""
        return self._call.remote(_OVER_THERE, "item", whole, number)

    async def fetch(self, remote: Remote) -> Any:
        """Return a value from the store."""
        held = remote.held
        try:
            return await (self._part(held.whole.held, held.number) if isinstance(held, Part) else held)
        except self._ray.exceptions.RayError as error:
            raise errors.Lost(f"a value was lost on Ray: {error}") from error

    async def split(self, remote: Remote) -> Parts:
        """Return the elements of a value in the store."""
        try:
            found = await self._call.remote(_OVER_THERE, "width", remote.held)
        except self._ray.exceptions.RayError as error:
            raise errors.Lost(f"a value was lost on Ray: {error}") from error
        if isinstance(found, str):
            raise TypeError(found)
        return Parts(remote, found)

    # -- jobs ----------------------------------------------------------------------------------------

    async def submit(self, job: Job) -> Ticket:
        """Take a job; waits while the window is full."""
        await self._room.take(job.needs.priority)
        ticket = TaskTicket(job, functools.partial(self._work, job))
        ticket.at_the_end(self._room.give_back)
        return ticket

    async def _work(self, job: Job, ticket: TaskTicket) -> Outcome:
        request = request_for(job.body, job.args, dict(job.inputs), job.store)
        answer = await self._handed_over(job, ticket, request, with_module=False)
        if isinstance(answer, Answer) and answer.kind == "unknown":
            answer = await self._handed_over(job, ticket, request._replace(body=job.body), with_module=True)
        return outcome_of_answer(answer, job.name) if isinstance(answer, Answer) else answer

    async def _handed_over(
        self, job: Job, ticket: TaskTicket, request: Request, *, with_module: bool
    ) -> Outcome | Answer:
        async with self._put.lying(request.kwargs) as inputs:
            by_value = functools.partial(pickled, with_module=with_module)
            frame = await anyio.to_thread.run_sync(by_value, request._replace(kwargs=inputs.kept), job.name)
            name = f"body-{uuid.uuid5(uuid.NAMESPACE_OID, job.id).hex}-{int(with_module)}"
            return await self._answered(name, job, ticket, frame, inputs.lying)

    async def _answered(
        self, name: str, job: Job, ticket: TaskTicket, frame: bytes, values: list[Any]
    ) -> Outcome | Answer:
        about = {"name": name, "home": HOME, "levels": log_levels(), "stays": job.keep, "flowloop": _version()}
        sent = self._sent[name] = _Sent(ticket)
        try:
            request = _options(job.needs), _OVER_THERE, frame, about, self._ears, values
            is_new = await self._owner.begin.remote(name, *request)
            if not is_new:
                ticket.has_begun()  # for somebody else, who has heard of that
            answer, value = await self._owner.answer.remote(name)
            if isinstance(answer, str):
                return Refused(answer)
            if isinstance(answer, Exception):
                return Lost(f"it was lost on Ray: {answer}", may_have_run=True)
            if is_new and not self._is_deaf:
                await sent.over.wait()
            return await self._outcome(job, sent, answer, value)
        except asyncio.CancelledError:
            ticket.fate = Fate.GOES_ON if ticket.is_left else await self._stopped(name, job.grace)
            raise
        except Exception as error:
            return Lost(f"it was lost on Ray: {error!r}", may_have_run=True)
        finally:
            del self._sent[name]
            if not ticket.is_left:
                self._owner.release.remote(name)

    async def _outcome(self, job: Job, sent: _Sent, answer: bytes | None, value: Any) -> Outcome | Answer:
        found = Answer("value", Remote(value)) if answer is None else unpickled(answer)
        if found.kind != "value" or job.store is None or found.content is None:
            return found
        stored = sent.stored
        if stored is None:  # it was told to somebody else
            whole = found.content if answer is not None else await self.fetch(found.content)
            stored = await job.store.write(whole)
        return Done(Stored(found.content, stored))

    async def _stopped(self, name: str, grace: float) -> Fate | None:
        """Interrupt a body, and kill its worker after the grace; return what became of it, None if it ended."""
        for force in (False, True):
            # the second has to be over when the grace is
            if await self._owner.stop.remote(name, force, grace if force else grace * 0.8):
                return Fate.KILLED if force else None
        return Fate.UNKNOWN


def _options(needs: Needs) -> dict[str, Any]:
    """Return the options of a Ray task for what a body needs."""
    named = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": needs.memory}
    found: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if needs.resources:
        found["resources"] = dict(needs.resources)
    retries = -1 if needs.may_rerun else 0
    return {**found, "num_returns": 2, "max_retries": retries, **needs.options.get("ray", {})}


def _version() -> str:
    return importlib.metadata.version("flowloop")


# -- what travels as it is, so that nothing of flowloop has to be there to read it -----------------------


def _start(place: str, frame: bytes, about: dict[str, Any], ears: Any, *values: Any) -> Any:
    import importlib.metadata

    own = about["flowloop"]
    try:
        found = importlib.metadata.version("flowloop")
    except importlib.metadata.PackageNotFoundError:
        return f"a Ray worker has no flowloop: pip install flowloop=={own}", None
    if found != own:
        return f"a Ray worker has flowloop {found}, and this process {own}: use the same", None
    return importlib.import_module(place).run(frame, about, ears, *values)


def _call(place: str, what: str, *values: Any) -> Any:
    import importlib

    return getattr(importlib.import_module(place), what)(*values)


class _Owner:
    """Begins bodies, and has their results until they are let go of."""

    def __init__(self, start: Any) -> None:
        import ray

        self.start = ray.remote(start)
        self.begun: dict[str, Any] = {}

    async def put(self, value: Any) -> list[Any]:
        import ray

        return [ray.put(value)]

    async def begin(
        self, name: str, options: dict[str, Any], place: str, frame: bytes, about: Any, ears: Any, values: list[Any]
    ) -> bool:
        if name in self.begun:
            return False
        self.begun[name] = self.start.options(**options).remote(place, frame, about, ears, *values)
        return True

    async def answer(self, name: str) -> list[Any]:
        answered, value = self.begun[name]
        try:
            return [await answered, value]
        except Exception as error:
            return [RuntimeError(repr(getattr(error, "cause", None) or error)), None]

    async def stop(self, name: str, force: bool, seconds: float) -> bool:
        import asyncio

        import ray

        answered, _ = self.begun[name]
        ray.cancel(answered, force=force)
        done, _ = await asyncio.wait([asyncio.wrap_future(answered.future())], timeout=seconds)
        for one in done:
            one.exception()
        return bool(done)

    async def release(self, name: str) -> None:
        self.begun.pop(name, None)


class _Ears:
    """Hears of bodies, and hands on what it heard."""

    def __init__(self) -> None:
        import asyncio

        self.said: list[Any] = []
        self.news = asyncio.Event()

    async def tell(self, event: Any) -> None:
        self.said.append(event)
        self.news.set()

    async def heard(self) -> list[Any]:
        await self.news.wait()
        self.news.clear()
        said, self.said = self.said, []
        return said


def _alone_class(kind: type[Any]) -> type[Any]:
    """Return the class of an actor as one of no module."""
    methods = {name: alone(method) for name, method in vars(kind).items() if isinstance(method, types.FunctionType)}
    return type(kind.__name__, (), {**methods, "__module__": "__main__"})


_OVER_THERE = f"{__package__}._ray_worker"
