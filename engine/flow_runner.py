"""The flow runner: moves one flow run from state to state, and its tasks with it."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any, NamedTuple

from . import telemetry
from ._checks import checked
from ._containers import OwnCopies
from ._large import aside
from ._run import rules
from ._run.drive import Drive, plan_of
from ._run.keeping import may_stay
from ._run.left import end_tasks
from ._run.net import goes_on, is_let_through, meant, shown
from ._run.restart import tasks_to_rerun
from .cancellation import Cancellation, Cause, at_last, stopped_state, undisturbed
from .context import OF_A_TASK, FlowScope, as_day, change_flow_scope, dates, flow_scope, fresh_flow_run, merge, now
from .context import context as run_context
from .context import values as _values
from .errors import FlowDefinitionError, FlowloopError
from .executors import Executor, LocalExecutor, executor_named
from .explain import children_counted, reference_failures
from .flow import Flow
from .limits import Limits, OpenLimits
from .masking import Mask, hide, hiding
from .result import Result
from .runner import Runner, being_cancelled, call_handler, call_state_handlers, handler_name, settle
from .settings import Settings
from .signals import ENDRUN, PAUSE, PrefectStateSignal
from .state import Failed, Mapped, Pending, Running, Scheduled, State, TimedOut
from .streaming import Item, listening
from .task import Task
from .task_runner import TaskRunner
from .task_states import TaskStates
from .watch import Events, ItemEvent, Progress, RunEvent, Watch
from .watchdog import watched_loop

__all__ = ["Around", "FlowRunner", "FlowRunnerInitializeResult"]

_RESERVED = frozenset({*OF_A_TASK, "logger"})


class FlowRunnerInitializeResult(NamedTuple):
    """What a flow run begins with."""

    state: State
    task_states: dict[Task[..., Any], State]
    context: dict[str, Any]
    task_contexts: dict[Task[..., Any], dict[str, Any]]


class Around(NamedTuple):
    """The task run that a flow run is, where the flow runs as a task of another one.

    Args:
        - place: its slug and mapped child
        - names: its name and tags: the places for these that it holds under the limits of the other run
        - limits: the places of the other run
        - watch: what is seen of it
    """

    place: tuple[str, int]
    names: frozenset[str]
    limits: OpenLimits | None
    watch: Watch | None


class FlowRunner(Runner):
    """Runs a flow on the caller's event loop.

    Args:
        - flow: the flow
        - task_runner_cls: the class that runs the tasks
        - state_handlers: functions (flow runner, old state, new state) called at each change, sync or async
        - settings: how long a retry is waited for here, and the like; from the environment if None
        - limits: how many task runs may go on at once, in all and by task and tag; of each run, or, as `Limits.open`
            returns them, of all that share them
        - fail_fast: whether the first failed task stops all others
        - release_results: whether the value of a result is let go as soon as no task needs it any more, which bounds
            the memory of runs whose results are large: the states stay, a value that is stored can be read again, and
            what `return_tasks` names stays as it is

    Example:

        ```python
        state = await FlowRunner(flow).run(parameters={"name": "you"})
        assert state.is_successful()
        ```
    """

    task_runner_class: type[TaskRunner] = TaskRunner
    _default_result: Result | None = None
    """Where results are stored if neither the task nor the flow says it."""

    def __init__(
        self,
        flow: Flow,
        task_runner_cls: type[TaskRunner] | None = None,
        state_handlers: Iterable[Callable[..., Any]] | None = None,
        *,
        settings: Settings | None = None,
        limits: Limits | OpenLimits | None = None,
        fail_fast: bool = False,
        release_results: bool = False,
    ) -> None:
        super().__init__(state_handlers)
        self.flow = flow
        self.task_runner_cls = task_runner_cls or self.task_runner_class
        self.settings = settings or Settings.from_env()
        self.limits = limits if isinstance(limits, Limits) else None
        self._shared = limits if isinstance(limits, OpenLimits) else None
        self.fail_fast = fail_fast
        self.release_results = release_results
        self._named: list[Task[..., Any]] = []
        self._is_named = False
        self._own_copies: Mapping[Task[..., Any], OwnCopies] = {}
        self._around: Around | None = None
        self._limits: OpenLimits | None = None
        self._began: datetime.datetime | None = None
        self._end_of_time: asyncio.TimerHandle | None = None
        self._too_long: float | None = None
        """The time limit that the run has exceeded."""
        self._watch = Watch()
        self.flow_run_id: str | None = None
        """The flow run that is going on, or went on last."""
        self.continues = False
        """Whether what the next run finds was made in this process, by the run before it."""
        self._running = False
        self._cancellation = Cancellation()
        self._drive: Drive | None = None
        self._driving = False
        self._told: State | None = None
        """The last state that was told of, and recorded where states are: a step may end the run with another one."""

    # -- from outside ------------------------------------------------------------------------------------

    def cancel(self, cause: Cause = "user") -> None:
        """Stop the run that is going on: every task run ends in a final state, then `run` returns Cancelled.

        Before the run has begun, this stops it as soon as it begins.

        Args:
            - cause: why, as the final states will say
        """
        self._cancellation.request(cause)
        if self._drive is not None:
            self._drive.wake()

    def events(self, size: int = 10_000) -> Events:
        """Return a stream of the changes of state from now on, until the run going on, or else the next one, is over.

        Args:
            - size: how many events wait for a slow reader; beyond that the oldest are dropped, the run never waits

        Example:

            ```python
            async for event in runner.events():
                print(event.task_slug, event.state)
            ```
        """
        return self._open_watch().events(size)

    def progress(self) -> Progress:
        """Return how far the run is, or was when it ended."""
        return self._watch.progress()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.flow.name}>"

    def _name(self) -> str:
        return f"flow {self.flow.name!r}"

    def become_part(self, around: Around) -> None:
        """Let the runs of this runner be a part of another flow run: its limits hold here, and it sees what goes on."""
        self._around = around
        self._watch = self._new_watch()

    def _new_watch(self) -> Watch:
        return Watch() if self._around is None else Watch(self._around.watch, self._around.place)

    def _open_watch(self) -> Watch:
        if self._watch.closed:
            self._watch = self._new_watch()
        return self._watch

    def _open_limits(self) -> OpenLimits | None:
        around = self._around
        if self._shared is not None:
            return self._shared.shared()
        if around is None or around.limits is None:
            return None if self.limits is None else OpenLimits(self.limits)
        return OpenLimits(self.limits, around.limits, around.names)

    # -- the time limit ----------------------------------------------------------------------------------

    def _began_at(self) -> datetime.datetime:
        """When the flow run began first."""
        if self._began is None or not self.continues:
            self._began = now()
        return self._began

    def _keep_time(self) -> None:
        """End the run when its time is up; said again, with another limit."""
        self._forget_time()
        limits = self.limits if self._limits is None else self._limits.limits
        seconds = self.flow.timeout if limits is None or limits.timeout is None else limits.timeout
        if seconds is None:
            return
        left = (self._began_at() + datetime.timedelta(seconds=seconds) - now()).total_seconds()
        if left <= 0:
            self._end_for_time(seconds)
        else:
            self._end_of_time = asyncio.get_running_loop().call_later(left, self._end_for_time, seconds)

    def _forget_time(self) -> None:
        if self._end_of_time is not None:
            self._end_of_time.cancel()
            self._end_of_time = None

    def _end_for_time(self, seconds: float) -> None:
        self._too_long = seconds
        self.cancel("timeout")

    def _stopped_as(self, cause: Cause) -> State:
        """Return the state of the flow run after it was stopped."""
        if cause == "timeout" and self._too_long is not None:
            message = f"The flow run took longer than its time limit of {self._too_long:g} s."
            return TimedOut(message, context={"cause": cause})
        return _stopped_flow(cause)

    # -- handlers ----------------------------------------------------------------------------------------

    async def call_runner_target_handlers(self, old_state: State, new_state: State) -> State:
        """Call the flow's own state handlers.

        Args:
            - old_state: the old (previous) state
            - new_state: the new (current) state

        Returns:
            - State: the new state
        """
        for handler in self.flow.state_handlers:
            new_state = await call_handler(handler, self.flow, old_state, new_state, self)
        return new_state

    async def handle_state_change(self, old_state: State, new_state: State) -> State:
        """Call all state handlers, and tell whoever watches; see `Runner.handle_state_change`."""
        change = super().handle_state_change(old_state, new_state)
        try:
            # how a flow run ended, or for what it waits, is told to the end, whoever is cancelled meanwhile
            told = await (change if new_state.is_running() else undisturbed(change, self.settings.cancel_grace))
        except (ENDRUN, PAUSE) as end:
            self._told = end.state
            raise
        self._told = told
        return told

    def _state_of(self, signal: PrefectStateSignal) -> State:
        return self._as_end(super()._state_of(signal))  # a flow has no rounds

    def _tell_item(self, item: Item) -> None:
        if self._watch.active:
            running = Running("Starting task run.")
            place = item.task_slug, item.map_index
            self._watch.publish(ItemEvent(now(), *place, running, running, item.run_count, item=item.value))

    def _tell(self, old_state: State, new_state: State) -> None:
        if self._watch.active:
            self._watch.publish(RunEvent(now(), None, -1, old_state, new_state))

    # -- the whole run -----------------------------------------------------------------------------------

    async def run(
        self,
        state: State | None = None,
        task_states: Mapping[Task[..., Any], State] | None = None,
        return_tasks: Iterable[Task[..., Any]] | None = None,
        parameters: Mapping[str, Any] | None = None,
        task_runner_state_handlers: Iterable[Callable[..., Any]] | None = None,
        executor: Executor | None = None,
        context: Mapping[str, Any] | None = None,
        task_contexts: Mapping[Task[..., Any], Mapping[str, Any]] | None = None,
    ) -> State:
        """Run the flow.

        Args:
            - state: the state to begin with; Pending if None
            - task_states: states of tasks to begin with
            - return_tasks: the tasks whose states are in the result of the final state; all of them if None
            - parameters: values of the parameters, by name
            - task_runner_state_handlers: functions (task runner, old state, new state) called at each change of a task
            - executor: where bodies run; the flow's own if None
            - context: values for the context of all runs
            - task_contexts: values for the contexts of single tasks

        Returns:
            - State: the final state; its result is a dict of the states of `return_tasks`

        Raises:
            - FlowDefinitionError: for a flow that cannot run, a parameter or a context key that cannot be; before
                anything has begun
            - CancelledError: when the caller is cancelled, after every task run has ended in a final state
        """
        if self._running:
            raise self._already_running()
        hidden = hiding.set(Mask(hiding.get()))
        self._open_watch()
        self._running = True
        self._cancellation.look_around()
        try:
            await self._prepared()
            executor = self._executor(executor)
            chosen = self._checked(return_tasks, task_states, context, task_contexts)
            self._is_named = return_tasks is not None
            self._named = chosen if self._is_named else []
            with fresh_flow_run():
                self._open_scope()
                ended = await self._run(
                    state, task_states, chosen, parameters, task_runner_state_handlers, executor, context, task_contexts
                )
                if ended.is_finished() and self._has_ended_tasks():
                    end_tasks(ended)
                return ended
        finally:
            hiding.reset(hidden)
            self._watch.close()
            self._cancellation, self._drive = Cancellation(), None
            self._running = False

    def _has_ended_tasks(self) -> bool:
        """Whether the flow run has left tasks unfinished, which end with it."""
        return self._drive is not None and self._drive.leaves_some()

    def _already_running(self) -> FlowloopError:
        return FlowloopError(f"this runner of flow {self.flow.name!r} is running; make another one for another run")

    def _open_scope(self) -> FlowScope:
        return change_flow_scope(continues=self.continues)

    async def _run(
        self,
        state: State | None,
        task_states: Mapping[Task[..., Any], State] | None,
        return_tasks: list[Task[..., Any]],
        parameters: Mapping[str, Any] | None,
        task_runner_state_handlers: Iterable[Callable[..., Any]] | None,
        executor: Executor,
        context: Mapping[str, Any] | None,
        task_contexts: Mapping[Task[..., Any], Mapping[str, Any]] | None,
    ) -> State:
        start = self._told = None
        try:
            state, states, values, contexts = await self.initialize_run(
                state,
                dict(task_states or {}),
                dict(context or {}),
                {task: dict(given) for task, given in (task_contexts or {}).items()},
                dict(parameters or {}),
            )
            start = state
            _values.set(values)
            state = await self.check_flow_is_pending_or_running(state)
            state = await self.check_flow_reached_start_time(state)
            state = await self.set_flow_to_running(state)
            start = state
            going = self.get_flow_run_state(
                state,
                task_states=states,
                task_contexts=contexts,
                return_tasks=return_tasks,
                task_runner_state_handlers=task_runner_state_handlers,
                executor=executor,
            )
            ended = await (going if telemetry.active is None else telemetry.active.flow_run(going, self.flow.name))
            if ended is start or ended is self._told:
                return ended
            raise ENDRUN(ended)  # of a step of a subclass, which tells nobody
        except BaseException as raised:
            error = meant(raised)
            if isinstance(error, FlowDefinitionError) and start is None:
                raise
            if isinstance(error, asyncio.CancelledError) and being_cancelled():
                if self._drive is None and start is not None:
                    await at_last(self._stopped_before_tasks(start), self.settings.cancel_grace)
                raise
            if isinstance(error, (ENDRUN, PrefectStateSignal)):
                if error.state is start or error.state is self._told:
                    return error.state
                ended = self._as_end(self._held_back(error.state))
            elif goes_on(error) or is_let_through(error):
                raise
            else:
                message = f"Unexpected error while running flow '{self.flow.name}': {shown(error)}"
                ended = self._explained(Failed(message, result=error))
            try:
                return await self.handle_state_change(start or Pending(), ended)
            except (ENDRUN, PrefectStateSignal) as end:
                return end.state

    async def _stopped_before_tasks(self, state: State) -> None:
        """End a flow run whose caller was cancelled before its first task."""
        if not state.is_finished():
            cause = self._cancellation.cause or self._cancellation.cause_from_outside
            await self.handle_state_change(state, self._stopped_as(cause))

    async def _prepared(self) -> None:
        """Check the flow, and number its tasks."""
        await aside(len(self.flow._tasks), self.flow.validate)
        await aside(len(self.flow._tasks), lambda: plan_of(self.flow))
        self._own_copies = self.flow._own_copies()

    def _checked(
        self,
        return_tasks: Iterable[Task[..., Any]] | None,
        task_states: Mapping[Task[..., Any], State] | None,
        context: Mapping[str, Any] | None,
        task_contexts: Mapping[Task[..., Any], Mapping[str, Any]] | None,
    ) -> list[Task[..., Any]]:
        """Check what a run is given, before anything has begun, and return the tasks whose states it returns."""
        self._check_given(task_states or {}, context or {}, task_contexts or {})
        if return_tasks is None:
            return self.flow.ordered_tasks()
        chosen = list(return_tasks)
        for task in chosen:
            self.flow._must_have(task)
        return chosen

    def _check_given(
        self,
        task_states: Mapping[Task[..., Any], State],
        context: Mapping[str, Any],
        task_contexts: Mapping[Task[..., Any], Mapping[str, Any]],
    ) -> None:
        for where in (context, *task_contexts.values()):
            shadowing = sorted(_RESERVED & where.keys())
            if shadowing:
                raise FlowDefinitionError(
                    f"the context key {shadowing[0]!r} is set by flowloop itself; give your value another name"
                )
        for task in (*task_states, *task_contexts):
            self.flow._must_have(task)

    # -- the steps, in order -----------------------------------------------------------------------------

    async def initialize_run(  # type: ignore[override]  # a flow run begins with more
        self,
        state: State | None = None,
        task_states: dict[Task[..., Any], State] | None = None,
        context: dict[str, Any] | None = None,
        task_contexts: dict[Task[..., Any], dict[str, Any]] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> FlowRunnerInitializeResult:
        """Return what the run begins with.

        If the provided state is a Submitted state, the state it wraps is extracted.

        Args:
            - state: the initial state of the run
            - task_states: a dictionary of any initial task states
            - context: the values for the context of all runs
            - task_contexts: the values for the contexts of single tasks
            - parameters: the parameter values for the run

        Returns:
            - NamedTuple: state, task_states, context, task_contexts
        """
        task_states, context, task_contexts = task_states or {}, dict(context or {}), task_contexts or {}
        parameters = parameters or {}
        self._check_given(task_states, context, task_contexts)
        given = self.flow.check_parameters({**context.pop("parameters", {}), **parameters}, complete=False)
        defaults = {p.name: p.default for p in self.flow.parameters() if not p.required}
        if secrets := [given.get(p.name, p.default) for p in self.flow.parameters() if p.secret]:
            hide(secrets)
        started = now()
        day = as_day(context.get("date") or run_context.get("date"))
        self.flow_run_id = context.get("flow_run_id") or run_context.get("flow_run_id") or str(uuid.uuid4())
        values = {
            "caches": {},
            "checkpointing": False,
            "raise_on_exception": False,
            "scheduled_start_time": started,
            **dates(started if day is None else day),
            **run_context.to_dict(),
            "flow_run_id": self.flow_run_id,
            "flow_name": self.flow.name,
        }
        values = merge(values, context)
        values["parameters"] = {**defaults, **given}
        if "secrets" in values:
            hide(values["secrets"])
        return FlowRunnerInitializeResult(self._initial_state(state), task_states, values, task_contexts)

    @call_state_handlers
    async def check_flow_is_pending_or_running(self, state: State) -> State:
        """Check that the flow run has not ended.

        Raises:
            - ENDRUN: if it has
        """
        if state.is_pending() or (state.is_running() and type(state) is Running):
            return state
        raise ENDRUN(state)

    @call_state_handlers
    async def check_flow_reached_start_time(self, state: State) -> State:
        """Check that the time of a scheduled run has come.

        Raises:
            - ENDRUN: if it has not
        """
        return rules.started_by_now(state, now())

    @call_state_handlers
    async def set_flow_to_running(self, state: State) -> State:
        """Let the flow run begin.

        Returns:
            - State: Running

        Raises:
            - ENDRUN: if it is neither pending nor running
        """
        if state.is_running():
            return state
        if state.is_pending():
            return Running("Running flow.")
        raise ENDRUN(state)

    @asynccontextmanager
    async def check_for_cancellation(self) -> AsyncIterator[None]:
        """Context manager around the part of a run that can be cancelled from elsewhere; here there is no elsewhere."""
        yield

    @call_state_handlers
    async def get_flow_run_state(
        self,
        state: State,
        task_states: dict[Task[..., Any], State],
        task_contexts: dict[Task[..., Any], dict[str, Any]],
        return_tasks: Iterable[Task[..., Any]],
        task_runner_state_handlers: Iterable[Callable[..., Any]] | None,
        executor: Executor,
    ) -> State:
        """Run the tasks, and return the state that their states make.

        Args:
            - state: the state of the flow run, Running
            - task_states: states of tasks to begin with
            - task_contexts: values for the contexts of single tasks
            - return_tasks: the tasks whose states are in the result
            - task_runner_state_handlers: called at each change of a task
            - executor: where bodies run

        Returns:
            - State: the final state, or Running if some tasks go on later

        Raises:
            - ENDRUN: if the state is not running
        """
        if not state.is_running():
            raise ENDRUN(state)
        cancellation = self._cancellation
        handlers = list(task_runner_state_handlers or ())
        self._limits, self._too_long = self._open_limits(), None
        again = [] if flow_scope.get().continues else tasks_to_rerun(self.flow, self.known_states(task_states))
        change_flow_scope(
            cancellation=cancellation,
            executor=executor,
            settings=self.settings,
            limits=self._limits,
            watch=self._watch,
            slugs=self.flow.slugs,
            again=frozenset(again),
        )
        drive = self._drive = Drive(
            plan_of(self.flow),
            lambda task: self.task_runner(task, handlers),
            task_states,
            task_contexts,
            cancellation,
            self._watch,
            backlog=self._backlog,
            fail_fast=self.fail_fast,
            kept=self._named if self.release_results else None,
            grace=self.settings.cancel_grace,
        )
        drive.on_foreseen_end = self._end_foreseer()
        change_flow_scope(foresee=drive.foresee)
        try:
            self._driving = True
            self._keep_time()
            try:
                async with self.check_for_cancellation(), executor.open() as place:
                    change_flow_scope(place=place)
                    with watched_loop(), listening(str(self.flow_run_id), self._tell_item):
                        await drive.run()
            finally:
                self._forget_time()
                self._driving = False
            if cancellation.interrupted_by is not None:
                raise cancellation.interrupted_by
            if cancellation.cause is not None:
                return self._stopped(cancellation, drive, return_tasks)
            states, keys, terminals = await aside(len(self.flow._tasks), lambda: self._collected(drive.final_states()))
            final = await self.determine_final_state(
                state,
                key_states=keys,
                return_states=TaskStates({task: states[task] for task in return_tasks}, self.flow.slugs, drive.times()),
                terminal_states=terminals,
            )
            if not (rules.is_the_end(final) or type(final) is Running):
                raise ValueError(f"determine_final_state ended the flow run as {final!r}, {rules.NO_END}")
            return await self._concluded(final)
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) or being_cancelled():
                told = self.handle_state_change(state, self._stopped(cancellation, drive, return_tasks))
                await at_last(told, self.settings.cancel_grace)
            raise

    async def _concluded(self, final: State) -> State:
        """Return what the run ends here as; one that is not finished goes on later."""
        return final

    def _end_foreseer(self) -> Callable[[dict[Task[..., Any], State], Sequence[Any]], None] | None:
        """Return what is told how the run ends before it has; here nobody makes use of that."""
        return None

    def _collected(
        self, states: dict[Task[..., Any], State]
    ) -> tuple[dict[Task[..., Any], State], list[State], list[State]]:
        """Return the states of all tasks, and with their children those of the reference and the terminal tasks."""
        for state in states.values():
            if isinstance(state, Mapped):
                state.message = children_counted(state) or state.message
        return states, *self._deciding(states)

    def _deciding(self, states: Mapping[Task[..., Any], State]) -> tuple[list[State], list[State]]:
        """Return the states of the reference and of the terminal tasks, mapped children included."""
        keys = _with_children([states[task] for task in self.flow.reference_tasks()])
        return keys, _with_children([states[task] for task in self.flow.terminal_tasks()])

    def known_states(self, task_states: dict[Task[..., Any], State]) -> Mapping[Task[..., Any], State]:
        """Return the states that the tasks begin with, as far as they are known.

        Args:
            - task_states: the given ones
        """
        return task_states

    def task_runner(self, task: Task[..., Any], state_handlers: Iterable[Callable[..., Any]]) -> TaskRunner:
        """Return a runner for a task of the flow."""
        runner = self.task_runner_cls(
            task,
            state_handlers,
            self.flow.result or self._default_result,
            constants=(self._own_copies and self._own_copies.get(task)) or self.flow.constants.get(task),
            settings=self.settings,
        )
        if (self._is_named or self.release_results) and task not in self._named:
            runner.leaves_results = not runner.state_handlers and may_stay(self.flow, task)
        return runner

    def _executor(self, given: Executor | None) -> Executor:
        chosen: Executor | None = checked(f"flow {self.flow.name!r}", "executor", given) or self.flow.executor
        if chosen is None and self.settings.executor:
            chosen = executor_named(self.settings.executor)
        return chosen or LocalExecutor(self.settings.thread_limit)

    def _backlog(self) -> int:
        """Return how many writes wait to be acknowledged; here nothing is recorded."""
        return 0

    def _stopped(self, cancellation: Cancellation, drive: Drive, return_tasks: Iterable[Task[..., Any]]) -> State:
        states = drive.final_states()
        state = self._stopped_as(cancellation.cause or cancellation.cause_from_outside)
        returned = {task: states[task] for task in return_tasks if task in states}
        state.result = TaskStates(returned, self.flow.slugs, drive.times())
        return state

    async def determine_final_state(
        self,
        state: State,
        key_states: list[State],
        return_states: dict[Task[..., Any], State],
        terminal_states: list[State],
    ) -> State:
        """Return the state that the states of the tasks make.

        Args:
            - state: the current state of the flow run
            - key_states: the states of the reference tasks, mapped children included
            - return_states: the result of the final state
            - terminal_states: the states of the terminal tasks, mapped children included

        Returns:
            - State: the final state, or the current one if a terminal task is not finished
        """
        final = rules.flow_outcome(state, terminal_states, key_states, return_states)
        if final.is_failed() and self._drive is not None:
            final.message = self._failures(self._drive)
        handler = self.flow.terminal_state_handler
        if handler is not None:
            answer = await settle(handler(self.flow, final, set(key_states))) or final
            if answer is not final and not rules.may_replace(final, answer, loops=False):
                what = f"the terminal_state_handler {handler_name(handler)} ended the flow run"
                raise ValueError(f"{what} as {type(answer).__name__}, {rules.NO_END}")
            final = self._held_back(answer)
        return final

    def _failures(self, drive: Drive) -> str:
        flow = self.flow
        many = {name for name, count in Counter(task.name for task in flow.ordered_tasks()).items() if count > 1}
        names = {task: flow.slugs[task] if task.name in many else task.name for task in flow.ordered_tasks()}
        return reference_failures(flow.reference_tasks(), drive.final_states(), names, flow.upstream_tasks)


def _stopped_flow(cause: Cause) -> State:
    """Return the state of a flow run that was stopped."""
    if cause == "sibling":
        return Failed("A task failed, and the others were stopped.", context={"cause": cause})
    if cause == "handover":
        return Scheduled("Handed over to another process.", start_time=now())
    return stopped_state(cause)


def _with_children(states: list[State]) -> list[State]:
    return [*states, *chain.from_iterable([state.map_states for state in states if isinstance(state, Mapped)])]
