"""What tests of flows need: time that does not pass, and backends that remember or fail.

A `VirtualLoop` is an event loop whose time jumps to the next timer as soon as there is nothing else to do. A flow with
retries a day apart runs on it in milliseconds, and it is always the same day. Everything that waits on the loop works
as it does elsewhere: ``anyio.sleep``, timeouts, ``asyncio.wait_for``. The wall clock follows: on this loop a run's
context has a `VirtualClock`, so the times in states agree with the waits.

Example:

    ```python
    from flowloop.engine.testing import run

    def test_the_report_survives_a_day_without_its_source() -> None:
        state = run(report.run(parameters={"day": "monday"}))
        assert state.is_successful()
    ```

With pytest-asyncio the loop is a factory, named in ``conftest.py``:

    ```python
    def pytest_asyncio_loop_factories(config, item):
        return {"virtual": VirtualLoop}
    ```

and with anyio's own plugin a fixture ``anyio_backend`` returns ``("asyncio", {"loop_factory": VirtualLoop})``.

What is real takes its real time. While a thread works that somebody awaits (a synchronous task body, a file, a SQLite
database, anything in an executor), time stands still, unless the thread works for so long that a timer would really be
due. Open sockets, child processes and the threads of other libraries do not show whether they are at work: where there
are any, the loop gives them `patience` before each jump.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import importlib.util
import inspect
import math
import selectors
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, TypeVarTuple, Unpack, cast
from unittest import mock

import anyio
import anyio.to_thread
import msgspec

from .backend import Backend
from .context import values
from .state import State

__all__ = ["Call", "FaultyBackend", "RecordingBackend", "VirtualClock", "VirtualLoop", "run"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
_RESOLUTION = time.get_clock_info("monotonic").resolution
_KNOWN_THREADS = ("AnyIO worker thread", "asyncio_", "flowloop body", "flowloop-writer", "flowloop watchdog")
"""How the threads are called whose work the loop can count, and the one that never tells a loop anything."""


# ---- time ------------------------------------------------------------------------------------------


class VirtualClock:
    """Wall time that follows the time of an event loop.

    Args:
        - loop: the loop; the running one if None
        - start: what time it is now
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, start: datetime.datetime = _START) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._start = start - datetime.timedelta(seconds=self._loop.time())

    def now(self) -> datetime.datetime:
        """Return the current time, aware, in UTC."""
        return self._start + datetime.timedelta(seconds=self._loop.time())


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time, which begins at zero, jumps to the next timer when nothing else is left to do.

    Args:
        - start: the wall time at the beginning
        - patience: seconds of real time that sockets, child processes and other libraries' threads get before a jump

    Raises:
        - RuntimeError: out of ``run``, when everything waits for something that can never happen
    """

    def __init__(self, start: datetime.datetime = _START, *, patience: float = 0.05) -> None:
        self._jumping = _JumpingSelector(self, patience)
        super().__init__(self._jumping)
        self._threads_before = set(threading.enumerate())
        self.awaited_threads = 0
        """How many calls in threads somebody awaits."""
        self.clock = VirtualClock(self, start)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._jumping.now

    # the parameters of these two differ between the versions of Python, and only pass through

    def create_task(self, coro: Any, *, context: contextvars.Context | None = None, **kwargs: Any) -> Any:
        """Start a task, whose run context has this loop's clock."""
        context = contextvars.copy_context() if context is None else context
        context.run(self._set_clock)
        return super().create_task(coro, context=context, **kwargs)

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the threads of the default executor to end."""
        with self.awaiting_thread():
            await super().shutdown_default_executor(*args, **kwargs)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call a function in an executor."""
        future = super().run_in_executor(executor, func, *args)
        self.awaited_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def run_forever(self) -> None:
        """Run until `stop` is called."""
        # these threads report to the loop when they are done, but do not say when they begin
        with ExitStack() as counting:
            for owner, name in _calls_in_threads():
                counting.enter_context(mock.patch.object(owner, name, _counted(getattr(owner, name))))
            super().run_forever()

    @contextmanager
    def awaiting_thread(self) -> Iterator[None]:
        """Hold the time for the block, in which a call in a thread is awaited that the loop cannot see."""
        self.awaited_threads += 1
        try:
            yield
        finally:
            self.awaited_threads -= 1

    def _thread_done(self, future: asyncio.Future[Any]) -> None:
        self.awaited_threads -= 1

    def _set_clock(self) -> None:
        current = values.get()
        if isinstance(current.get("clock", self.clock), VirtualClock):
            values.set({**current, "clock": self.clock})

    def other_threads(self) -> bool:
        """Return whether threads were started whose work the loop cannot count."""
        return any(
            thread not in self._threads_before and not thread.name.startswith(_KNOWN_THREADS)
            for thread in threading.enumerate()
        )


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for what is real, and where there is nothing lets the time jump."""

    def __init__(self, loop: VirtualLoop, patience: float) -> None:
        super().__init__()
        self._loop = loop
        self._patience = patience
        self._waited = 0.0
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.now + _RESOLUTION == self.now:
            # after some months floats are so coarse that asyncio never sees a timer as due at this very moment
            self.now = math.nextafter(self.now, math.inf)
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        wait = self._real_wait(timeout)
        began = time.monotonic()
        # also where nothing is left to wait for: a thread may have reported and ended since the look above
        events = super().select(wait)
        self._waited += time.monotonic() - began
        if not events:
            self._jump(timeout)
        return events

    def _real_wait(self, timeout: float | None) -> float | None:
        """Return for how many real seconds to wait for something to happen; None is for ever."""
        if self._loop.awaited_threads:
            return None if timeout is None else timeout - self._waited
        # the loop itself holds one socket, to be woken by threads
        if len(self.get_map()) > 1 or self._loop.other_threads():
            return None if timeout is None else min(timeout, self._patience)
        return 0.0

    def _jump(self, timeout: float | None) -> None:
        if timeout is None:
            waiting = "\n".join(f"  {task!r}" for task in asyncio.all_tasks(self._loop))
            raise RuntimeError(f"everything waits, and for nothing that will ever happen:\n{waiting}")
        self.now += timeout
        self._waited = 0.0


def _calls_in_threads() -> Iterator[tuple[Any, str]]:
    """Yield what calls something in a thread and awaits it: the owner of a function, and the name it has there."""
    yield anyio.to_thread, "run_sync"
    if importlib.util.find_spec("aiosqlite") is not None:  # it reads SQLite files, where these are installed
        import aiosqlite

        yield aiosqlite.Connection, "_connect"
        yield aiosqlite.Connection, "_execute"


def _counted(call: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def counted(*args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            return await call(*args, **kwargs)
        with loop.awaiting_thread():
            return await call(*args, **kwargs)

    return counted


def run(main: Coroutine[Any, Any, T], *, start: datetime.datetime = _START, patience: float = 0.05) -> T:
    """Run a coroutine on a `VirtualLoop` of its own, and return its result.

    Args:
        - main: the coroutine
        - start: the wall time at the beginning
        - patience: see `VirtualLoop`
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start, patience=patience)) as runner:
        return runner.run(main)


# ---- backends --------------------------------------------------------------------------------------


class Call(msgspec.Struct):
    """One call of a backend.

    Args:
        - method: the name of the method
        - arguments: what it was called with, by name
        - answer: what it returned; None if it raised
        - error: what it raised, if it did
    """

    method: str
    arguments: dict[str, Any]
    answer: Any = None
    error: BaseException | None = None


def _passed_on(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[_Wrapper, P], CoroutineType[Any, Any, R]]:
    signature, name = inspect.signature(method), method.__name__

    async def passed_on(self: _Wrapper, /, *args: P.args, **kwargs: P.kwargs) -> R:
        arguments = signature.bind(self, *args, **kwargs).arguments
        del arguments["self"]
        return cast("R", await self._called(Call(name, dict(arguments)), args, kwargs))

    passed_on.__name__, passed_on.__doc__ = name, method.__doc__
    # the two checkers do not agree on what calling a coroutine function returns
    return cast("Callable[Concatenate[_Wrapper, P], CoroutineType[Any, Any, R]]", passed_on)


class _Wrapper:
    """A backend in front of another one."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.url = backend.url

    async def __aenter__(self) -> Self:
        await self.backend.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.backend.__aexit__(*exc_info)

    async def _called(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        # what the backend has beyond the port
        if name == "backend":
            raise AttributeError(name)
        return getattr(self.backend, name)

    @property
    def backlog(self) -> int:
        """See `Backend.backlog`."""
        return self.backend.backlog

    def watch_ready(self) -> AbstractAsyncContextManager[AsyncIterator[None]] | None:
        """See `Backend.watch_ready`."""
        return self.backend.watch_ready()

    def watch_flow_run(self, flow_run_id: str) -> AbstractAsyncContextManager[AsyncIterator[State]] | None:
        """See `Backend.watch_flow_run`."""
        return self.backend.watch_flow_run(flow_run_id)

    register_flow = _passed_on(Backend.register_flow)
    create_flow_run = _passed_on(Backend.create_flow_run)
    start_flow_run = _passed_on(Backend.start_flow_run)
    start_subflow_run = _passed_on(Backend.start_subflow_run)
    get_flow_run_info = _passed_on(Backend.get_flow_run_info)
    get_flow_run_state = _passed_on(Backend.get_flow_run_state)
    get_task_run_state = _passed_on(Backend.get_task_run_state)
    get_task_run_info = _passed_on(Backend.get_task_run_info)
    get_task_run_infos = _passed_on(Backend.get_task_run_infos)
    get_latest_cached_states = _passed_on(Backend.get_latest_cached_states)
    list_flow_runs = _passed_on(Backend.list_flow_runs)
    find_flow_run = _passed_on(Backend.find_flow_run)
    list_flows = _passed_on(Backend.list_flows)
    list_limits = _passed_on(Backend.list_limits)
    get_run_logs = _passed_on(Backend.get_run_logs)
    get_flow_run_history = _passed_on(Backend.get_flow_run_history)
    set_flow_run_state = _passed_on(Backend.set_flow_run_state)
    set_task_run_state = _passed_on(Backend.set_task_run_state)
    set_task_run_name = _passed_on(Backend.set_task_run_name)
    update_flow_run_heartbeat = _passed_on(Backend.update_flow_run_heartbeat)
    write_run_logs = _passed_on(Backend.write_run_logs)
    create_task_run_artifact = _passed_on(Backend.create_task_run_artifact)
    update_task_run_artifact = _passed_on(Backend.update_task_run_artifact)
    list_artifacts = _passed_on(Backend.list_artifacts)
    cancel_flow_run = _passed_on(Backend.cancel_flow_run)
    direct_flow_run = _passed_on(Backend.direct_flow_run)
    list_directives = _passed_on(Backend.list_directives)
    obey_directive = _passed_on(Backend.obey_directive)
    restart_flow_run = _passed_on(Backend.restart_flow_run)
    set_schedule_active = _passed_on(Backend.set_schedule_active)
    set_limit = _passed_on(Backend.set_limit)
    get_secret = _passed_on(Backend.get_secret)
    set_secret = _passed_on(Backend.set_secret)
    list_secrets = _passed_on(Backend.list_secrets)
    delete_flow_run = _passed_on(Backend.delete_flow_run)
    set_notification = _passed_on(Backend.set_notification)
    delete_notification = _passed_on(Backend.delete_notification)
    list_notifications = _passed_on(Backend.list_notifications)
    next_ready = _passed_on(Backend.next_ready)
    reserve_flow_runs = _passed_on(Backend.reserve_flow_runs)
    claim_flow_run = _passed_on(Backend.claim_flow_run)
    release_flow_run = _passed_on(Backend.release_flow_run)


class RecordingBackend(_Wrapper):
    """Passes every call on, and remembers it.

    Args:
        - backend: the backend that answers

    Example:

        ```python
        async with RecordingBackend(connect("memory://")) as backend:
            ...
        sent = [call.arguments["state"] for call in backend.calls_of("set_task_run_state")]
        assert [type(state).__name__ for state in sent] == ["Running", "Success"]
        ```
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.calls: list[Call] = []
        """The calls, in the order they were made; one that has not returned yet has neither answer nor error."""

    def calls_of(self, method: str) -> list[Call]:
        """Return the calls of one method, in the order they were made."""
        return [call for call in self.calls if call.method == method]

    async def _called(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls.append(call)
        try:
            call.answer = await getattr(self.backend, call.method)(*args, **kwargs)
        except BaseException as error:
            call.error = error
            raise
        return call.answer


class _Fault(msgspec.Struct, kw_only=True):
    method: str
    nth: int
    times: int | None
    where: Callable[[dict[str, Any]], bool] | None
    delay: float = 0.0
    error: BaseException | None = None
    answer: Any = msgspec.UNSET
    reaches_backend: bool = True
    seen: int = 0

    def hits(self, call: Call) -> bool:
        """Count a call, and return whether it is one that goes wrong."""
        if call.method != self.method or (self.where is not None and not self.where(call.arguments)):
            return False
        self.seen += 1
        return self.seen >= self.nth and (self.times is None or self.seen < self.nth + self.times)


class FaultyBackend(_Wrapper):
    """Passes calls on, except where it was told to go wrong.

    The calls that a fault is meant for are counted from one: `nth` is the first that goes wrong, and `times` how many
    in a row do, all later ones if None. With `where`, a function of the arguments by name, only calls for which it
    returns True count.

    Args:
        - backend: the backend that answers

    Example:

        ```python
        backend = FaultyBackend(connect("memory://"))
        backend.fail("set_task_run_state", BackendUnavailable("gone"), nth=2)
        backend.answer("set_flow_run_state", Queued(), where=lambda sent: sent["state"].is_running())
        ```
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.counts: Counter[str] = Counter()
        """How often each method was called."""
        self._faults: list[_Fault] = []

    def fail(
        self,
        method: str,
        error: BaseException,
        *,
        nth: int = 1,
        times: int | None = 1,
        where: Callable[[dict[str, Any]], bool] | None = None,
        after: bool = False,
    ) -> None:
        """Let calls raise an error.

        Args:
            - method: the name of the method
            - error: what is raised
            - nth, times, where: which calls
            - after: whether the call reaches the backend all the same, and only its answer is lost
        """
        self._add(_Fault(method=method, nth=nth, times=times, where=where, error=error, reaches_backend=after))

    def delay(
        self,
        method: str,
        seconds: float,
        *,
        nth: int = 1,
        times: int | None = 1,
        where: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        """Let calls wait before they reach the backend."""
        self._add(_Fault(method=method, nth=nth, times=times, where=where, delay=seconds))

    def answer(
        self,
        method: str,
        answer: Any,
        *,
        nth: int = 1,
        times: int | None = 1,
        where: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        """Let calls return `answer`; they do not reach the backend."""
        self._add(_Fault(method=method, nth=nth, times=times, where=where, answer=answer, reaches_backend=False))

    def _add(self, fault: _Fault) -> None:
        if fault.method.startswith("_") or not inspect.iscoroutinefunction(getattr(_Wrapper, fault.method, None)):
            raise AttributeError(f"backends have no method {fault.method!r}")
        self._faults.append(fault)

    async def _called(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.counts[call.method] += 1
        hits = [fault for fault in self._faults if fault.hits(call)]
        for fault in hits:
            await anyio.sleep(fault.delay)
        found: Any = None
        if all(fault.reaches_backend for fault in hits):
            found = await getattr(self.backend, call.method)(*args, **kwargs)
        for fault in hits:
            if fault.error is not None:
                raise fault.error
            if fault.answer is not msgspec.UNSET:
                found = fault.answer
        return found
