"""Task bodies on a Dask cluster."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import importlib.metadata
import pickle
import sys
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread

from .. import errors
from .._turns import Places
from ..errors import ExecutorError
from ..remote import Part, Parts, Remote
from ..result import Result
from ._heard import HOME, log_levels, passed_on
from ._put import LARGE, Put
from ._ticket import TaskTicket
from ._travel import Answer, alone, outcome_of_answer, pickled, request_for, unpickled
from .base import PlaceExecutor
from .place import Done, Fate, Job, Lost, Needs, Outcome, Place, Refused, Stored, Ticket

__all__ = ["DaskExecutor"]


class DaskExecutor(PlaceExecutor):
    """Runs each body, sync or async, on a worker of a Dask cluster, where flowloop is installed, too.

    A body runs once, or it is visibly `Lost`. An async body runs in its worker, a sync one in a process of its own
    beside that. One that times out or is cancelled is stopped: an async one in its loop; a sync one is interrupted, and
    after the grace its process is killed. Large inputs are put on the cluster once.

    Args:
        - address: the scheduler of a cluster that is there, or the cluster or a client of it; one of this computer is
            made for each flow run if None
        - cluster_class: what makes the cluster where there is no address, or its name with its module;
            ``distributed.LocalCluster`` if None
        - cluster_kwargs: its arguments
        - adapt_kwargs: arguments of its ``adapt``, to let it grow and shrink
        - client_kwargs: arguments of ``distributed.Client``
        - window: how many bodies are handed over at once; the others wait here

    Raises:
        - ExecutorError: if Dask is not installed
    """

    def __init__(
        self,
        address: Any = None,
        cluster_class: Callable[..., Any] | str | None = None,
        cluster_kwargs: Mapping[str, Any] | None = None,
        adapt_kwargs: Mapping[str, Any] | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        window: int = 1000,
    ) -> None:
        if address is not None and (cluster_class is not None or cluster_kwargs or adapt_kwargs):
            raise ValueError("a DaskExecutor has an address, or arguments of a cluster that it makes, not both")
        super().__init__()
        self.address: str | None = _address(address)
        self.cluster_class = cluster_class
        self.cluster_kwargs = dict(cluster_kwargs or {})
        self.adapt_kwargs = dict(adapt_kwargs or {})
        self.client_kwargs = dict(client_kwargs or {})
        self.window = window

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Place]:
        async with AsyncExitStack() as stack:
            place = _DaskPlace(await self._open(stack), self.window)
            stack.push_async_callback(place.close)
            yield place

    async def _open(self, stack: AsyncExitStack) -> Any:
        try:
            import distributed
        except ImportError:
            raise ExecutorError("a DaskExecutor needs Dask: pip install 'flowloop[dask]'") from None
        target: Any = self.address
        if target is None:
            cluster = _class(self.cluster_class or distributed.LocalCluster)(asynchronous=True, **self.cluster_kwargs)
            target = await stack.enter_async_context(cluster)
            if self.adapt_kwargs:
                target.adapt(**self.adapt_kwargs)
        client: Any = distributed.Client
        return await stack.enter_async_context(client(target, asynchronous=True, **self.client_kwargs))

    def fate_when_cut_short(self, is_async: bool) -> str:
        """Say that it did not stop."""
        return _CUT_SHORT


_CUT_SHORT = "Its Dask worker was told to stop it, but it goes on."

_MANY = 1000
"""Bodies after which the scheduler is told that they are over."""

_MOMENT = 0.002
"""Seconds for which jobs are collected, to be handed over together."""

_HEARD = 10.0
"""Seconds more in which it is heard that a process was killed: that is certain, but the machine may be busy."""

_TRIES = 4
"""How often a job is handed over before its body has begun."""


class _Sent:
    """A job on the cluster.

    Args:
        - name: the name of the job there, in which those of its Dask tasks begin
        - job: the job
        - ticket: its ticket
    """

    def __init__(self, name: str, job: Job, ticket: TaskTicket) -> None:
        self.name = name
        self.job = job
        self.ticket = ticket
        self.worker: str | None = None
        self.ended = asyncio.Event()
        self.was_killed = False
        self.stored: Result | None = None
        # what it prints is printed where the run prints
        self._context = contextvars.copy_context()

    def hear(self, kind: str, said: Any) -> None:
        """Take an event of the worker."""
        if kind == "began":
            self.worker = said
            self.ticket.has_begun()
        elif kind == "ended":
            self.ticket.has_taken(said)
            self.ended.set()
        elif kind == "killed":
            self.was_killed = True
        elif kind == "stored":
            self.stored = pickle.loads(said)  # noqa: S301 - from a worker that runs the user's own code
        elif kind == "printed":
            self._context.run(sys.stdout.write, said)
        else:
            passed_on(said)


class _Call:
    """A job on its way to the cluster.

    Args:
        - key: of its Dask task
        - frame, about, values: what the worker gets
        - needs: what the body needs
    """

    def __init__(self, key: str, frame: bytes, about: dict[str, Any], values: list[Any], needs: Needs) -> None:
        self.key = key
        self.frame = frame
        self.about = about
        self.values = values
        self.needs = needs
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def handed_over(self, future: Any) -> None:
        """Take what stands for its result."""
        if not self.future.done():
            self.future.set_result(future)


class _Together:
    """Collects for a moment what is handed over.

    Args:
        - hand_over: hands it over
    """

    def __init__(self, hand_over: Callable[[list[_Call]], None]) -> None:
        self._hand_over = hand_over
        self._waiting: list[_Call] = []

    async def put(self, call: _Call) -> Any:
        """Hand a call over, with the others of this moment, and return its future."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(_MOMENT, self._flush)
        self._waiting.append(call)
        return await call.future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        given_up = [call for call in waiting if call.future.cancelled()]
        try:
            self._hand_over([call for call in waiting if call not in given_up])
        except Exception as error:
            for call in waiting:
                if not call.future.done():
                    call.future.set_exception(error)


class _DaskPlace(Place):
    """A cluster, as its client sees it.

    Args:
        - client: the client
        - window: how many jobs are handed over at once
    """

    reports_begin = True
    keeps_values = True
    reattaches = True

    def __init__(self, client: Any, window: int) -> None:
        self._client = client
        self.window = window
        self._room = Places(window)
        self._topic = f"flowloop-{uuid.uuid4().hex}"
        self._keeper = f"{self._topic}-keeper"
        """In whose name answers stay at the cluster until they are recorded: that of no client, so that they outlive
        this one for whoever goes on with the flow run."""
        self._is_listening = False
        self._sent: dict[str, _Sent] = {}
        self._put = Put(self._scattered, self._part, lambda future: future.status == "finished", _size)
        self._over: list[str] = []
        self._answered_keys: list[str] = []
        self._staying: set[str] = set()
        self._submitted = _Together(self._hand_over)
        self._lock = anyio.Lock()
        self._problems: list[str] | None = None

    # -- opening and closing -------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Hear what the workers say, from the first job on: its answer comes when the scheduler knows who listens."""
        if not self._is_listening:
            self._is_listening = True
            self._client.subscribe_topic(self._topic, self._hear)
            await self._client.run_on_scheduler(_LOOK_AFTER, self._client.id, self._keeper, self._topic)

    async def close(self) -> None:
        """Leave nothing behind at the scheduler."""
        with suppress(Exception):  # the cluster may be gone
            await self._forget(self._topic)

    async def _forget(self, topic: str | None = None) -> None:
        over, self._over = self._over, []
        if topic is not None:
            over += self._staying
            self._staying.clear()
        keys, self._answered_keys = self._answered_keys, []
        await self._client.run_on_scheduler(_FORGET, over, keys, self._keeper, topic)

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        _, said = event
        sent = self._sent.get(said["name"])
        if sent is not None:
            sent.hear(said["kind"], said["said"])

    async def check(self) -> list[str]:
        """Return why bodies cannot run on this cluster."""
        found = await self._client.get_versions(packages=["flowloop"])
        own = _versions(found["client"])
        problems = _mismatches("scheduler", {"python": own["python"]}, _versions(found["scheduler"]))
        for address, info in found["workers"].items():
            problems += _mismatches(f"worker {address}", own, _versions(info))
        return problems

    async def _refusal(self) -> str | None:
        async with self._lock:
            if self._problems is None:
                self._problems = await self.check()
        return self._problems[0] if self._problems else None

    async def _scattered(self, value: Any) -> Any:
        (future,) = await self._client.scatter([value], hash=False)
        return future

    # -- values that stay -----------------------------------------------------------------------------

    def _part(self, whole: Any, index: int) -> Any:
        """Take an element out of a value, where that lies."""
        key = f"item-{uuid.uuid4().hex}"
        return self._client.submit(_CALL, _OVER_THERE, "item", whole, index, key=key, pure=False)

    async def fetch(self, remote: Remote) -> Any:
        """Return a value that stayed on the cluster."""
        held = remote.held
        from ._dask_worker import Held

        found = await (self._part(held.whole.held, held.number) if isinstance(held, Part) else held)
        if not isinstance(found, Held):
            raise errors.Lost("a value was lost with its Dask worker")
        return found.value

    async def split(self, remote: Remote) -> Parts:
        """Return the elements of a value that stayed on the cluster."""
        key = f"width-{uuid.uuid4().hex}"
        found = await self._client.submit(_CALL, _OVER_THERE, "width", remote.held, key=key, pure=False)
        if found is None:
            raise errors.Lost("a value was lost with its Dask worker")
        if isinstance(found, str):
            raise TypeError(found)
        return Parts(remote, found)

    # -- jobs ----------------------------------------------------------------------------------------

    async def submit(self, job: Job) -> Ticket:
        """Take a job; waits while the window is full."""
        await self._room.take(job.needs.priority)
        ticket = TaskTicket(job, functools.partial(self._work, job), _CUT_SHORT)
        ticket.at_the_end(self._room.give_back)
        return ticket

    def _hand_over(self, calls: list[_Call]) -> None:
        """Submit jobs together: each message to the scheduler costs it as much as many jobs do."""
        by_needs: dict[int, list[_Call]] = {}
        for call in calls:
            by_needs.setdefault(id(call.needs), []).append(call)
        for alike in by_needs.values():
            keys = [call.key for call in alike]
            given = zip(*((_OVER_THERE, call.frame, call.about, call.values) for call in alike), strict=True)
            options = _options(alike[0].needs)
            futures = self._client.map(_START, *map(list, given), key=keys, pure=False, **options)
            self._keep(keys, "desires")
            for call, future in zip(alike, futures, strict=True):
                call.handed_over(future)

    async def _work(self, job: Job, ticket: TaskTicket) -> Outcome:
        refusal = await self._refusal()
        if refusal is not None:
            return Refused(refusal)
        sent = _Sent(f"body-{uuid.uuid5(uuid.NAMESPACE_OID, job.id).hex}", job, ticket)
        self._sent[sent.name] = sent
        await self._listen()
        try:
            outcome = await self._seen_to(sent)
            self._stays(sent.name, outcome)
            return outcome
        finally:
            del self._sent[sent.name]
            if not ticket.is_left and sent.name not in self._staying:
                self._over.append(sent.name)
                if len(self._over) >= _MANY:
                    await self._forget()

    def _stays(self, name: str, outcome: Outcome) -> None:
        """Remember that a body has begun for as long as its result stays: Dask would make that again, were it lost."""
        value = outcome.value if isinstance(outcome, Done) else None
        value = value.value if type(value) is Stored else value
        if type(value) is Remote:
            self._staying.add(name)
            weakref.finalize(value, self._let_go, name).atexit = False

    def _let_go(self, name: str) -> None:
        if name in self._staying:
            self._staying.remove(name)
            self._over.append(name)

    async def _seen_to(self, sent: _Sent) -> Outcome:
        job = sent.job
        request = request_for(job.body, job.args, dict(job.inputs), job.store)
        outcome: Outcome = Lost("it could not be handed to the Dask cluster", may_have_run=False)
        with_module = False
        for number in range(1, _TRIES + 1):
            async with self._put.lying(request.kwargs) as (inputs, values, held):
                by_value = functools.partial(pickled, with_module=with_module)
                frame = await anyio.to_thread.run_sync(by_value, request._replace(kwargs=inputs), job.name)
                answer = await self._answered(sent, f"{sent.name}-{number}", frame, values, held)
            if isinstance(answer, Answer):
                if answer.kind != "unknown" or with_module:
                    return outcome_of_answer(answer, job.name)
                request, with_module = request._replace(body=job.body), True
                continue
            outcome = answer
            # one that never began can be handed over again
            if not isinstance(outcome, Lost) or await self._client.scheduler.event_is_set(name=sent.name):
                break
        return outcome

    async def _answered(
        self, sent: _Sent, key: str, frame: bytes, values: list[Any], held: list[int]
    ) -> Answer | Outcome:
        about = {
            "name": sent.name,
            "topic": self._topic,
            "home": HOME,
            "levels": log_levels(),
            "is_async": sent.job.is_async,
            "may_rerun": sent.job.needs.may_rerun,
            "stays": LARGE if sent.job.keep else None,
            "held": held,
            "grace": sent.job.grace * 0.8,  # for the kill to be over when the grace is
        }
        from ._dask_worker import Held

        distributed: Any = importlib.import_module("distributed")
        future = await self._submitted.put(_Call(key, frame, about, values, sent.job.needs))
        try:
            if sent.job.is_taken_over and await self._client.scheduler.event_is_set(name=sent.name):
                sent.ticket.has_begun()  # somebody else has heard of that
            if sent.job.keep:
                await distributed.wait(future)
                if future.status == "finished" and issubclass(future.type, Held):
                    self._keep([key], "releases")
                    return Done(await self._stored(sent, Remote(future)))
            answer = await future
            if len(answer) < LARGE:
                self._answered_keys.append(key)  # until it is recorded for certain
            else:
                self._keep([key], "releases")
            found = unpickled(answer)
            return Done(Stored(found.content, sent.stored)) if sent.stored and found.kind == "value" else found
        except asyncio.CancelledError as error:
            if type(error) is not asyncio.CancelledError:  # that of the future, which Dask gave up
                return Lost(f"it was lost on the Dask cluster: {error}", may_have_run=True)
            sent.ticket.fate = Fate.GOES_ON if sent.ticket.is_left else await self._stopped(sent, future)
            raise
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "flowloop":
                return Lost(f"it was lost on the Dask cluster: {error!r}", may_have_run=True)
            return Refused(f"a Dask worker has no flowloop: {_install()}")
        except Exception as error:
            return Lost(f"it was lost on the Dask cluster: {error!r}", may_have_run=True)

    async def _stored(self, sent: _Sent, value: Remote) -> Remote | Stored:
        if sent.job.store is None:
            return value
        if sent.stored is None:  # it was told to somebody else
            whole = await self.fetch(value)
            return Stored(whole, await sent.job.store.write(whole))
        return Stored(value, sent.stored)

    async def _stopped(self, sent: _Sent, future: Any) -> Fate | None:
        """Stop a body over there, and return what became of it; None if it ended, or never began."""
        try:
            was_under_way = sent.ticket.is_under_way
            if not was_under_way:
                # whoever begins it from now on finds that it has begun
                await self._client.scheduler.event_set(name=sent.name)
            # it is not known where one is that was begun for somebody else, or begins in this moment
            found = await self._client.run(_STOP, _OVER_THERE, sent.name, workers=sent.worker and [sent.worker])
            if not was_under_way and not any(found.values()):
                return None
            with anyio.move_on_after(sent.job.grace + (0.0 if sent.job.is_async else _HEARD)):
                await (sent.ended.wait() if sent.worker else importlib.import_module("distributed").wait(future))
                return Fate.KILLED if sent.was_killed else None
            return Fate.GOES_ON
        except Exception:
            return Fate.UNKNOWN
        finally:
            self._keep([future.key], "releases")
            await self._client.cancel([future], force=True)

    def _keep(self, keys: list[str], verb: str) -> None:
        """Have the cluster keep results, or let them go."""
        self._client._send_to_scheduler({"op": f"client-{verb}-keys", "keys": keys, "client": self._keeper})


def _size(value: Any) -> int:
    from dask.sizeof import sizeof

    size: int = sizeof(value)
    return size


def _address(given: Any) -> str | None:
    """Return the address of a scheduler that is given as itself, or as a cluster or a client of Dask."""
    for name in ("scheduler_address", "scheduler"):
        given = getattr(given, name, given)
    address: str | None = getattr(given, "address", given)
    return address


def _class(given: Any) -> Callable[..., Any]:
    """Return a class that may be given as text, ``package.module.Class``."""
    if not isinstance(given, str):
        found: Callable[..., Any] = given
        return found
    module, _, name = given.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExecutorError(f"a DaskExecutor cannot make a cluster of {given!r}: {error}") from error
    return found


def _versions(info: Mapping[str, Any]) -> dict[str, str | None]:
    packages = dict(info["packages"])
    return {"python": ".".join(str(packages["python"]).split(".")[:2]), "flowloop": packages.get("flowloop")}


def _mismatches(who: str, own: Mapping[str, str | None], found: Mapping[str, str | None]) -> list[str]:
    """Return in what a part of the cluster differs from this process."""
    problems = []
    for what, version in own.items():
        if found[what] is None:
            problems.append(f"the Dask {who} has no {what}: {_install()}")
        elif found[what] != version:
            problems.append(f"the Dask {who} has {what} {found[what]}, and this process {version}: use the same")
    return problems


def _install() -> str:
    return f"pip install flowloop=={importlib.metadata.version('flowloop')}"


def _options(needs: Needs) -> dict[str, Any]:
    """Return the arguments of Dask's ``submit`` for what a body needs."""
    resources = dict(needs.resources)
    if needs.gpus is not None:
        resources["GPU"] = needs.gpus
    found: dict[str, Any] = {"resources": resources} if resources else {}
    if needs.priority:
        found["priority"] = needs.priority
    return {**found, **needs.options.get("dask", {})}


# -- what travels as it is, so that nothing of flowloop has to be there to read it -----------------------


def _start(place: str, frame: bytes, about: dict[str, Any], values: list[Any]) -> Any:
    import importlib

    return importlib.import_module(place).run(frame, about, *values)


def _stop(place: str, name: str) -> Any:
    import importlib

    return importlib.import_module(place).stop(name)


def _call(place: str, what: str, *values: Any) -> Any:
    import importlib

    return getattr(importlib.import_module(place), what)(*values)


def _forget(names: list[str], keys: list[str], keeper: str, topic: str | None, dask_scheduler: Any = None) -> None:
    for name in names:
        dask_scheduler.extensions["events"].event_clear(name=name)
    if keeper in dask_scheduler.clients:
        dask_scheduler.client_releases_keys(keys=keys, client=keeper)
    if topic is not None:
        dask_scheduler._broker._topics.pop(topic, None)


def _look_after(client: str, keeper: str, topic: str, dask_scheduler: Any = None) -> None:
    later = dask_scheduler.loop.call_later

    def look() -> None:
        # what is left is for whoever goes on with the flow run, and not for ever
        later(60, look) if client in dask_scheduler.clients else later(3600, end)

    def end() -> None:
        if keeper in dask_scheduler.clients:
            for task in list(dask_scheduler.clients[keeper].wants_what):
                dask_scheduler.extensions["events"].event_clear(name=task.key.rpartition("-")[0])
            dask_scheduler.remove_client(client=keeper)
        dask_scheduler._broker._topics.pop(topic, None)

    look()


_START, _STOP, _CALL = alone(_start), alone(_stop), alone(_call)
_FORGET, _LOOK_AFTER = alone(_forget), alone(_look_after)
_OVER_THERE = f"{__package__}._dask_worker"
