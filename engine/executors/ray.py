"""Task bodies on Ray."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import importlib
import importlib.metadata
import os
import sys
import threading
import types
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread

from ..errors import ExecutorError
from ._heard import HOME, log_levels, passed_on
from ._put import Put
from ._ray_worker import size
from ._ticket import TaskTicket
from ._travel import Answer, Request, outcome_of_answer, pickled, request_for, unpickled
from .base import PlaceExecutor
from .place import Done, Fate, Job, Lost, Needs, Outcome, Place, Refused, Remote, Ticket

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


class _Sent:
    """A job that Ray has."""

    def __init__(self, ticket: TaskTicket) -> None:
        self.ticket = ticket
        self.over = asyncio.Event()
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
        else:
            self.over.set()


class _RayPlace(Place):
    """Ray, as this process sees it."""

    reports_begin = True
    keeps_values = True

    def __init__(self, ray: Any, window: int) -> None:
        self._ray = ray
        self.window = window
        self._room = anyio.Semaphore(window, fast_acquire=True)
        self._sent: dict[str, _Sent] = {}
        self._put = Put(self._into_the_store, lambda reference: True, size)
        self._ears = ray.remote(num_cpus=0)(_alone_class()).remote()
        self._start = ray.remote(_alone(_start))
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

    async def _into_the_store(self, value: Any) -> Any:
        return await anyio.to_thread.run_sync(self._ray.put, value)

    # -- jobs ----------------------------------------------------------------------------------------

    async def submit(self, job: Job) -> Ticket:
        """Take a job; waits while the window is full."""
        await self._room.acquire()
        ticket = TaskTicket(job, functools.partial(self._work, job))
        ticket.at_the_end(self._room.release)
        return ticket

    async def _work(self, job: Job, ticket: TaskTicket) -> Outcome:
        request = request_for(job.body, job.args, dict(job.inputs))
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
            return await self._answered(job, ticket, frame, inputs.lying)

    async def _answered(self, job: Job, ticket: TaskTicket, frame: bytes, values: list[Any]) -> Outcome | Answer:
        name = f"body-{uuid.uuid4().hex}"
        about = {"name": name, "home": HOME, "levels": log_levels(), "stays": job.keep, "flowloop": _version()}
        sent = self._sent[name] = _Sent(ticket)
        start = self._start.options(**_options(job.needs))
        answered, value = start.remote(_OVER_THERE, frame, about, self._ears, *values)
        try:
            answer: bytes | str | None = await answered
            if isinstance(answer, str):
                return Refused(answer)
            if not self._is_deaf:
                await sent.over.wait()
            return Done(Remote(value)) if answer is None else unpickled(answer)
        except asyncio.CancelledError:
            ticket.fate = await self._stopped(answered, job.grace)
            raise
        except Exception as error:
            return Lost(f"it was lost on Ray: {error!r}", may_have_run=True)
        finally:
            del self._sent[name]

    async def _stopped(self, answered: Any, grace: float) -> Fate | None:
        """Interrupt a body, and kill its worker after the grace; return what became of it, None if it ended."""
        self._ray.cancel(answered, force=False)
        if await self._is_over(answered, grace * 0.8):
            return None
        self._ray.cancel(answered, force=True)
        return Fate.KILLED if await self._is_over(answered, grace) else Fate.UNKNOWN

    async def _is_over(self, answered: Any, seconds: float) -> bool:
        done, _ = await anyio.to_thread.run_sync(
            functools.partial(self._ray.wait, [answered], timeout=seconds, fetch_local=False), abandon_on_cancel=True
        )
        return bool(done)


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


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as one of no module, which is pickled with its code."""
    found = types.FunctionType(function.__code__, {"__builtins__": __builtins__}, None, function.__defaults__)
    found.__module__ = "__main__"
    return found


def _alone_class() -> type[Any]:
    """Return the class of the actor as one of no module."""
    methods = {name: _alone(method) for name, method in vars(_Ears).items() if isinstance(method, types.FunctionType)}
    return type("_Ears", (), {**methods, "__module__": "__main__"})


_OVER_THERE = f"{__package__}._ray_worker"
