"""Running a flow to its end: round after round until nothing waits any more, and again at each time of its schedule."""

from __future__ import annotations

import asyncio
import datetime
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from .cancellation import Cancellation
from .context import building, now
from .context import context as run_context
from .errors import FlowDefinitionError, FlowloopError
from .executors import Executor
from .flow import Flow
from .flow_runner import FlowRunner
from .result import NoResult
from .runner import settle
from .state import Cached, Mapped, Paused, Pending, Resume, Scheduled, State
from .task import Task

__all__ = ["OnPaused", "run", "run_flow", "run_sync"]

T = TypeVar("T")

OnPaused = Callable[[Task[..., Any] | None, int, Paused], bool | Awaitable[bool]]
"""Says whether a paused run goes on: a function of the task (None for the flow itself), the mapped child or -1, and the
state; sync or async."""

_LONGEST_SLEEP = 60.0
"""Seconds. The clock of the loop stands still while a computer is suspended, so the time of day is looked at again."""


class _Rounds:
    """Runs a flow again and again, each time from where it stopped.

    Args:
        - runner: runs the flow
        - on_paused: asked about a paused run when nothing else is left to wait for
        - caches: where results are kept that may serve later runs
        - arguments: go to each ``runner.run``
    """

    def __init__(
        self, runner: FlowRunner, on_paused: OnPaused, caches: dict[str, list[Cached]], arguments: dict[str, Any]
    ) -> None:
        self._runner = runner
        self._on_paused = on_paused
        self._caches = caches
        self._arguments = arguments
        self._surroundings = Cancellation().look_around()
        self._has_begun = False

    async def run(self, state: State | None, task_states: Mapping[Task[..., Any], State] | None) -> State:
        """Run until the flow is finished, or nothing is left that goes on by itself."""
        self._state, self._task_states = state, task_states
        while state is None or not state.is_finished():
            # a given state that waits for nothing goes on at once
            must_wait = state is not None and (self._has_begun or state.is_scheduled())
            if state is not None and must_wait and not await self._wait(state):
                return state
            state = await self._round()
        return state

    async def _round(self) -> State:
        state = await self._runner.run(state=self._state, task_states=self._task_states, **self._arguments)
        self._has_begun = True
        # the next round continues the same flow run, and what it finds was made in this process
        self._arguments["context"] |= {"flow_run_id": self._runner.flow_run_id}
        self._runner.continues = True
        if isinstance(state.result, dict):
            self._task_states = state.result
            _keep_cached(state.result, self._caches)
        self._state = state
        return state

    async def _wait(self, state: State) -> bool:
        """Wait until something of the flow run can go on; return whether there is anything."""
        times = [one.start_time for _, _, one in _waiting(state) if one.start_time is not None]
        try:
            if times:
                await _sleep_until(min(times))
                return True
            return await self._resume_paused(state)
        except asyncio.CancelledError:
            if self._has_begun:
                await self._end()
            raise

    async def _resume_paused(self, state: State) -> bool:
        resumed = False
        for task, child, paused in list(_waiting(state)):
            if isinstance(paused, Paused) and await settle(self._on_paused(task, child, paused)):
                resumed = True
                going_on = Resume("Resumed.", result=paused._result, context=paused.context)
                if task is None:
                    self._state = going_on
                elif child < 0:
                    state.result[task] = going_on
                else:
                    state.result[task].map_states[child] = going_on
        if resumed and isinstance(self._state, Paused):  # it waited for these
            self._state = Resume("Resumed.")
        return resumed

    async def _end(self) -> None:
        """End in final states what waited when the wait was cut short."""
        self._runner.cancel(self._surroundings.cause_from_outside)
        with anyio.CancelScope(shield=True):
            await self._round()


def _waiting(state: State) -> Iterator[tuple[Task[..., Any] | None, int, Any]]:
    """Yield what waits for a time or for somebody: task, mapped child, state."""
    states = state.result if isinstance(state.result, dict) else {}
    if state.is_scheduled() and not states:
        yield None, -1, state
    for task, one in states.items():
        if isinstance(one, Mapped):
            for index, child in enumerate(one.map_states):
                if child is not None and child.is_scheduled():
                    yield task, index, child
        elif one.is_scheduled():
            yield task, -1, one


async def _sleep_until(moment: datetime.datetime) -> None:
    while (seconds := (moment - now()).total_seconds()) > 0:  # noqa: ASYNC110 - time is all that is waited for
        await anyio.sleep(min(seconds, _LONGEST_SLEEP))
    await anyio.lowlevel.checkpoint()


async def run_flow(
    flow: Flow,
    parameters: dict[str, Any],
    run_on_schedule: bool | None = None,
    runner_cls: Callable[..., Any] | None = None,
    *,
    state: State | None = None,
    task_states: Mapping[Task[..., Any], State] | None = None,
    return_tasks: Iterable[Task[..., Any]] | None = None,
    task_runner_state_handlers: Iterable[Callable[..., Any]] | None = None,
    executor: Executor | None = None,
    context: Mapping[str, Any] | None = None,
    task_contexts: Mapping[Task[..., Any], Mapping[str, Any]] | None = None,
    runner_options: Mapping[str, Any] | None = None,
    on_paused: OnPaused | None = None,
    flow_run_name: str | None = None,
    progress: bool = False,
    **more_parameters: Any,
) -> State:
    """Run a flow until it is finished, waiting for whatever it schedules on the way.

    Results that were cached for a while serve the later rounds and runs of the flow in this process.

    Args:
        - flow: the flow
        - parameters: values of the parameters, by name; those that the schedule gives to a run win over them
        - run_on_schedule: whether to run at each time of the schedule; if None, when there is one
        - runner_cls: the runner; `FlowRunner` if None
        - state, task_states, return_tasks, task_runner_state_handlers, executor, context, task_contexts: as for
            `FlowRunner.run`; `state` and `task_states` belong to a single run, and do not go with a schedule
        - runner_options: further arguments of the runner
        - on_paused: asked about each paused run once nothing else is left to wait for; if None, somebody at the
            terminal is asked, and where there is no terminal the flow comes back as it is
        - flow_run_name: the name of the run, in the context
        - progress: whether to show how far the run is: a bar in a notebook or a terminal, else one line in the end
        - more_parameters: values of further parameters

    Returns:
        - State: the final state; one that is not finished if something is paused and stays so

    Raises:
        - FlowDefinitionError: inside a ``with Flow`` block, for a parameter that is missing or not known, and for a
            schedule without any time left
    """
    if building.get() is not None:
        raise FlowDefinitionError(
            f"flow {flow.name!r} cannot run while a `with Flow` block is open: leave the block first"
        )
    on_schedule = flow.schedule is not None if run_on_schedule is None else run_on_schedule
    if on_schedule and flow.schedule is None:
        raise FlowDefinitionError(f"flow {flow.name!r} has no schedule to run on")
    if on_schedule and not (state is None and task_states is None):
        raise FlowDefinitionError(f"flow {flow.name!r}: state and task_states need run_on_schedule=False")
    given = {**parameters, **more_parameters}
    chosen = None if return_tasks is None else list(return_tasks)
    known = dict(context or {})
    if flow_run_name is not None:
        known["flow_run_name"] = flow_run_name
    if "caches" in known:
        caches: dict[str, list[Cached]] = {key: list(found) for key, found in known["caches"].items()}
    else:
        is_nested = "task_name" in run_context
        caches = run_context["caches"] if "caches" in run_context and not is_nested else flow._caches
    with run_context({"clock": known["clock"]} if "clock" in known else {}):
        event = _next_event(flow) if on_schedule else None
        if on_schedule and event is None:
            raise FlowDefinitionError(f"flow {flow.name!r}: its schedule has no time left")
        while True:
            values, changes = given, {"caches": caches}
            if event is not None:
                state = Scheduled("Waiting for the time of the schedule.", start_time=event.start_time)
                values, changes["scheduled_start_time"] = {**given, **event.parameter_defaults}, event.start_time
            if runner_cls is None:
                flow.check_parameters({**known.get("parameters", {}), **values}, complete=True)
            arguments = {
                "parameters": values,
                "task_runner_state_handlers": task_runner_state_handlers,
                "executor": executor,
                "context": {**known, **changes},
                "task_contexts": task_contexts,
            }
            runner = (runner_cls or FlowRunner)(flow, **(runner_options or {}))
            async with _showing(runner) if progress else nullcontext():
                final = await _Rounds(runner, on_paused or _ask, caches, arguments).run(state, task_states)
            event = _next_event(flow) if on_schedule else None
            if event is None:
                return _with_result_of(final, flow, chosen)


def _showing(runner: FlowRunner) -> AbstractAsyncContextManager[None]:
    from .progress import shown_progress

    return shown_progress(runner.progress)


def _next_event(flow: Flow) -> Any:
    return next(iter(flow.schedule.next(1, return_events=True)), None)


def _with_result_of(state: State, flow: Flow, tasks: list[Task[..., Any]] | None) -> State:
    if state._result is NoResult:  # it ended before the first task
        state.result = {task: Pending("The task was not run.") for task in flow.ordered_tasks()}
    if tasks is not None and isinstance(state.result, dict):
        state.result = {task: state.result[task] for task in tasks if task in state.result}
    return state


def _keep_cached(states: Mapping[Task[..., Any], State], caches: dict[str, list[Cached]]) -> None:
    """Put the cached results of a run first, and drop those that are over."""
    for task, state in states.items():
        if task.cache_for is None:
            continue
        key = task.cache_key or task.name
        children = state.map_states if isinstance(state, Mapped) else [state]
        found = [child for child in children if isinstance(child, Cached)]
        # a result that was served again is the same object, so it takes the place of the one it came from
        unique = {id(cached._result): cached for cached in [*found, *caches.get(key, ())]}
        caches[key] = [
            cached
            for cached in unique.values()
            if cached.cached_result_expiration is None or cached.cached_result_expiration > now()
        ]


# -- asking somebody ---------------------------------------------------------------------------------


async def _ask(task: Task[..., Any] | None, child: int, state: Paused) -> bool:
    """Ask at the terminal whether to resume; without a terminal the answer is no."""
    if not sys.stdin.isatty():
        return False
    name = "The flow run" if task is None else f"Task {task.name!r}" + (f" [{child}]" if child >= 0 else "")
    answer = await _answer(f"{name} is paused ({state.message}). Resume it? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


async def _answer(prompt: str) -> str:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[str] = loop.create_future()

    def deliver(text: str) -> None:
        if not answered.done():
            answered.set_result(text)

    def ask() -> None:
        try:
            text = input(prompt)
        except EOFError:
            text = ""
        with suppress(RuntimeError):  # the loop was closed in the meantime
            loop.call_soon_threadsafe(deliver, text)

    # a thread that waits for the keyboard cannot be stopped: as a daemon it does not keep the process alive
    threading.Thread(target=ask, name="flowloop asks at the terminal", daemon=True).start()
    return await answered


# -- from a script -----------------------------------------------------------------------------------


def run(flow: Flow, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> State:
    """Run a flow from a script, on an event loop of its own (uvloop where it is installed).

    Ctrl-C stops the run: every task run ends in a final state before ``KeyboardInterrupt`` is raised.

    Args:
        - flow: the flow
        - parameters: values of the parameters, by name
        - kwargs: as for `Flow.run`

    Returns:
        - State: the final state

    Raises:
        - FlowloopError: inside a running event loop, where ``await flow.run()`` is what to write
    """
    return run_sync(flow.run(parameters, **kwargs), instead="await flow.run(...)")


def run_sync(coroutine: Coroutine[Any, Any, T], *, instead: str) -> T:
    """Run a coroutine on an event loop of its own, and return its answer.

    Args:
        - coroutine: the coroutine
        - instead: what to write inside a running event loop, for the error

    Raises:
        - FlowloopError: if an event loop is running in this thread
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        coroutine.close()
        raise FlowloopError(f"an event loop is running here already, so no other can be started: write `{instead}`")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(coroutine)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
