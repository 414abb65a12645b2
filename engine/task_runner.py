"""The task runner: moves one task run from state to state."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import anyio

from . import telemetry
from ._at_once import answered
from ._containers import COPIED, OwnCopies, own_copy
from ._run import caching, mapping, rules
from ._run.body import BodyRunner
from ._run.net import failure, goes_on, is_let_through, meant, shown
from ._run.steps import Facts, Plan, Planned, own_steps, plan_of
from .cancellation import Cancellation, interruptible, is_stopped, stopped_state
from .context import current_flow_scope, current_task_scope, current_values, flow_scope, now, task_scope
from .context import values as _values
from .edge import Edge
from .errors import ExecutorError, SerializationError
from .executors.place import priority_of
from .remote import Remote
from .result import NoResult, Result
from .retries import delay_after, doubling_delay
from .runner import call_handler, call_state_handlers, is_outside, settle
from .settings import Settings
from .signals import ENDRUN, RETRY, PrefectStateSignal
from .state import (
    Cached,
    Failed,
    Finished,
    Looped,
    Mapped,
    Paused,
    Pending,
    Resume,
    Retrying,
    Running,
    Skipped,
    State,
    Success,
    TriggerFailed,
)
from .task import Task
from .triggers import all_successful
from .watch import RunEvent

__all__ = ["TaskRunner", "TaskRunnerInitializeResult"]

_NEW = Pending("Run created.")
"""What a run begins with of which nobody hears: one serves them all."""
_MANY_ATTEMPTS = 10
_UNLIMITED_RETRY = 60.0
"""Seconds between two attempts, at most, where nobody has said and a run waits for no retry itself."""
_NONE: Mapping[str, Any] = {}
"""What many runs have none of, so that they share it."""


class TaskRunnerInitializeResult(NamedTuple):
    """What a task run begins with."""

    state: State
    context: dict[str, Any]


class TaskRunner(BodyRunner):
    """Moves a task run from state to state, one named check after the other.

    A task runner keeps nothing of a run: one serves all the runs of its task, also at the same time.

    Args:
        - task: the task
        - state_handlers: functions (task runner, old state, new state) called at each change, sync or async
        - flow_result: where results are stored if the task does not say
        - constants: inputs that are plain values, by name; of `OwnCopies`, each attempt gets its own
        - settings: how long a retry is waited for here, and the like
    """

    loops = True
    plans: ClassVar[dict[Any, Plan]] = {}
    """The plans of this very class, made as they are needed."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.plans = {}

    def __init__(
        self,
        task: Task[..., Any],
        state_handlers: Iterable[Callable[..., Any]] | None = None,
        flow_result: Result | None = None,
        *,
        constants: Mapping[str, Any] | OwnCopies | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(task, state_handlers, flow_result, settings)
        self._constants: Any = constants or _NONE
        self._gives_copies = type(constants) is OwnCopies
        self._plan = plan_of(type(self), task, bool(self.state_handlers or task.state_handlers))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.task.name}>"

    @property
    def may_step_ahead(self) -> bool:
        """Whether a run may begin while what it waits for is on its way to be recorded; here nothing is recorded."""
        return False

    def go_step_by_step(self) -> None:
        """Step ahead no more: what was hoped for did not come."""

    async def call_runner_target_handlers(self, old_state: State, new_state: State) -> State:
        """Call the task's own state handlers.

        Args:
            - old_state: the old (previous) state
            - new_state: the new (current) state

        Returns:
            - State: the new state
        """
        for handler in self.task.state_handlers:
            new_state = await call_handler(handler, self.task, old_state, new_state, self)
        return new_state

    async def _change_unheard(self, old_state: State, new_state: State) -> State:
        """Record a change of which no handler hears, and tell whoever watches; see `handle_state_change`."""
        new_state = await self._record(old_state, new_state)
        watch = current_flow_scope().watch
        if watch is not None and watch.active:
            self._tell(old_state, new_state)
        return new_state

    def _tell(self, old_state: State, new_state: State) -> None:
        watch = flow_scope.get().watch
        if watch is not None and watch.active:
            current = _values.get()
            slug, map_index = current.get("task_slug"), current.get("map_index")
            run_count = current.get("task_run_count", 1)
            watch.publish(
                RunEvent(now(), slug, -1 if map_index is None else map_index, old_state, new_state, run_count)
            )

    # -- the whole run -----------------------------------------------------------------------------------

    async def run(
        self,
        state: State | None = None,
        upstream_states: dict[Edge, State] | None = None,
        context: Mapping[str, Any] | None = None,
        is_mapped_parent: bool = False,
    ) -> State:
        """Run the task, if the states upstream allow it, and wait for retries that are due soon.

        Args:
            - state: the state to begin with; Pending if None
            - upstream_states: the states of the tasks upstream, by the edges that lead here
            - context: values for the run's context
            - is_mapped_parent: whether this is the run of a mapped task, which finds its children but runs no body

        Returns:
            - State: the state the run ended with
        """
        upstream_states = {} if upstream_states is None else upstream_states
        plan, around, scope, outer = self._plan, current_values(), current_flow_scope(), task_scope.get()
        cancellation, watch = scope.cancellation, scope.watch
        current = _named(around, self.task, scope.slugs)
        if context:
            current.update(context)
        _values.set(current)
        if outer is not None:
            task_scope.set(None)  # its own is made when a step asks for it
        try:
            while True:
                # one frame for it all: ten thousand runs that wait are ten thousand times what is awaited in each
                facts = None
                try:
                    if state is None and plan.begins_plainly:
                        state = _NEW if plan.is_quiet else Pending(_NEW.message)
                        if context or current["task_slug"] is None:
                            self._describe(current)
                    else:
                        state, current = await self.initialize_run(state, current)
                        if _values.get() is not current:
                            _values.set(current)
                    facts = Facts(state, upstream_states, is_mapped_parent)
                    if cancellation is not None and cancellation.cause is not None:
                        return await self._cancelled(state)
                    is_clear = type(state) is Pending and not is_mapped_parent
                    for one in upstream_states.values() if is_clear else ():
                        if type(one) is not Success:
                            is_clear = False
                            break
                    steps = plan.before_if_clear if is_clear else plan.before
                    if steps:
                        await self._walk(steps, facts)
                    if plan.is_quiet and scope.limits is None and not (watch is not None and watch.active):
                        if facts.inputs is None and plan.takes_values and current.get("checkpointing") is not True:
                            body = self._outcome(self._arguments(facts.upstream), _NONE)
                        else:
                            if facts.inputs is None:
                                facts.inputs = await self.get_task_inputs(facts.state, facts.upstream)
                            body = self._outcome(_values_of(facts.inputs), facts.inputs)
                        try:
                            state = await (body if telemetry.active is None else telemetry.active.attempt(body))
                        except ENDRUN as end:
                            raise ENDRUN(await self._told_late(end.state)) from None
                        if watch is not None and watch.active:
                            state = await self._told_late(state)
                    else:
                        await self._run_body(facts)
                        state = facts.state
                    if plan.after_success or type(state) is not Success:
                        facts.state = state
                        await self._walk(plan.after, facts)
                        state = facts.state
                except BaseException as raised:
                    state = await self._caught((state or _NEW) if facts is None else facts.state, raised)
                if isinstance(state, Finished) or (wait := self._goes_on(state)) is None:
                    return state
                try:
                    with interruptible():
                        await anyio.sleep(wait)
                except ENDRUN:
                    return await self._cancelled(state)
                notes = current_task_scope()
                # by the time of the loop: the wall clock may have been set back meanwhile
                notes.has_waited, notes.waited_until = True, getattr(state, "start_time", None)
                notes.is_next_round, notes.facts = False, None
                current = {**_values.get()}
        finally:
            _values.set(around)
            if task_scope.get() is not outer:
                task_scope.set(outer)

    async def _told_late(self, state: State) -> State:
        """Tell of what comes after Running whoever has begun to watch since the body began, of which nobody heard."""
        watch = current_flow_scope().watch
        if watch is None or not watch.active:
            return state
        return await self.handle_state_change(Running("Starting task run."), state)

    def _goes_on(self, state: State) -> float | None:
        if current_task_scope().is_next_round:
            return 0.0
        return rules.due_in(state, now(), self.settings.inline_retry_limit)

    async def _walk(self, steps: Iterable[Planned], facts: Facts) -> None:
        """Take a run through steps; the handlers are told of each change of its state, also of one that ends it."""
        change = self._plan.change
        for call, tells in steps:
            try:
                changed = await call(self, facts.state, facts)
            except BaseException as raised:
                if tells:
                    await self._tell_of_end(facts, raised)
                raise
            state = facts.state  # a body that begins elsewhere has changed it within its step
            if changed is not state:
                facts.state = await change(self, state, changed) if tells else changed

    async def _tell_of_end(self, facts: Facts, raised: BaseException) -> None:
        """Tell the handlers of the state that a step ends the run with, if it raised one.

        Raises:
            - ENDRUN: with what the handlers leave of it
        """
        end = meant(raised)
        if isinstance(end, (ENDRUN, PrefectStateSignal)) and end.state is not facts.state:
            has_children = facts.is_parent and isinstance(end.state, Mapped)  # which are run next
            state = end.state if has_children else self._as_end(end.state)
            raise ENDRUN(await self.handle_state_change(facts.state, state)) from None

    async def _run_body(self, facts: Facts) -> None:
        """Run the body, and tell the handlers of Running and of what comes after it."""
        if facts.inputs is None:
            try:
                facts.inputs = await self.get_task_inputs(facts.state, facts.upstream)
            except BaseException as raised:
                await self._tell_of_end(facts, raised)
                raise
        scope = flow_scope.get()
        if self._begins_later(scope):
            current_task_scope().facts = facts
        limits = scope.limits
        if limits is None:
            await self._walk(self._plan.body, facts)
            return
        try:
            slot = limits.entered(self.task) or await limits.enter(self.task)
        except ENDRUN as end:
            raise ENDRUN(await self._cancelled(facts.state)) from end
        try:
            await self._walk(self._plan.body, facts)
        finally:
            limits.leave(slot)

    def _arguments(self, upstream_states: Mapping[Edge, State]) -> dict[str, Any]:
        arguments = self._constants.fresh() if self._gives_copies else {**self._constants}
        if not upstream_states:
            return arguments
        for edge, upstream in upstream_states.items():
            if edge.key is not None:
                value = upstream._held
                if isinstance(value, Result):
                    value = value.value
                if edge.flattened and not edge.mapped:
                    value = mapping.flat_values(value)
                if edge.upstream_task.gives_copies and type(value) in COPIED:
                    value = own_copy(value)
                arguments[edge.key] = value
        return arguments

    async def _caught(self, state: State, raised: BaseException) -> State:
        """Return the state that a run ends with because of what was raised in it, whatever that is."""
        try:
            return await self._told_of(state, raised)
        except BaseException as again:
            if issubclass(type(again), asyncio.CancelledError) or goes_on(again) or is_let_through(again):
                raise
            return await self._failed_to_tell(state, type(raised).__qualname__, type(again).__qualname__)

    async def _failed_to_tell(self, state: State, kind: str, again: str) -> State:
        """Return the state of a run whose error failed once more while it was told: of it nothing is asked any more."""
        message = f"Unexpected error while running task '{self.task.name}': {kind}, of which no more can be told"
        error = ExecutorError(f"{kind} failed with {again} while it was told")
        try:
            return await self._record(state, Failed(f"{message}: {again}", result=error))
        except ENDRUN as end:
            return end.state

    async def _told_of(self, state: State, raised: BaseException) -> State:
        error = meant(raised)
        if isinstance(error, (ENDRUN, PrefectStateSignal)):
            return error.state
        cancellation: Cancellation | None = flow_scope.get().cancellation
        if isinstance(error, KeyboardInterrupt) and cancellation is not None:
            cancellation.interrupt(error)
            return await self._cancelled(state)
        if goes_on(error) or (isinstance(error, asyncio.CancelledError) and await is_stopped()):
            raise error
        if is_let_through(error):
            raise error
        message = f"Unexpected error while running task '{self.task.name}': {shown(error)}"
        try:
            failed = self._explained(Failed(message, result=error))
            return await self.handle_state_change(Pending() if state is _NEW else state, failed)
        except (ENDRUN, PrefectStateSignal) as end:
            return end.state

    def _state_of(self, signal: PrefectStateSignal) -> State:
        if not isinstance(signal, RETRY):
            return super()._state_of(signal)
        assert isinstance(signal.state, Retrying)
        if not signal.says_when:
            signal.state.start_time, signal.says_when = now() + self._delay_of_a_retry(), True
        elif _values.get().get("task_run_count", 1) >= _MANY_ATTEMPTS:  # nobody means that many without a pause
            return self._held_back(signal.state)
        return signal.state

    def _pause_before(self, state: State) -> datetime.timedelta:
        return self._delay_of_a_retry() if isinstance(state, Retrying) else super()._pause_before(state)

    def _delay_of_a_retry(self) -> datetime.timedelta:
        """Return how long to wait where a RETRY does not say until when."""
        run_count = _values.get().get("task_run_count", 1)
        if run_count == _MANY_ATTEMPTS:
            said = "task %s has asked to be run again after %s attempts, whatever its max_retries says"
            self.logger.warning(said, self.task.name, run_count)
        if self.task.retry_delay is not None:
            return delay_after(self.task.retry_delay, run_count, self.task.name)
        return doubling_delay(run_count, self.settings.inline_retry_limit or _UNLIMITED_RETRY)

    async def _cancelled(self, state: State) -> State:
        cancellation: Cancellation | None = flow_scope.get().cancellation
        assert cancellation is not None
        assert cancellation.cause is not None
        if state.is_finished() or cancellation.cause == "handover":
            return state
        try:
            return await self.handle_state_change(state, stopped_state(cancellation.cause))
        except (ENDRUN, PrefectStateSignal) as end:
            return end.state

    # -- the checks, in order ----------------------------------------------------------------------------

    async def initialize_run(
        self, state: State | None = None, context: dict[str, Any] | None = None
    ) -> TaskRunnerInitializeResult:
        """Return the state and the context to begin with.

        A meta state gives the state it wraps. A Resume state, or a Paused one whose time has come, sets ``resume``.

        Args:
            - state: the initial state of the run
            - context: the context to be updated with relevant information

        Returns:
            - TaskRunnerInitializeResult: the state and the context
        """
        context = {} if context is None else context
        is_new = state is None
        state = self._initial_state(state)
        if context.get("task_name") is not self.task.name:
            named = _named(context, self.task, current_flow_scope().slugs)
            context = {**named, "map_index": context.get("map_index")}
        self._describe(context)
        if is_new or (type(state) is Pending and not state._context and not state.has_cached_inputs):
            return TaskRunnerInitializeResult(state, context)
        known = state._peek_context()
        context["task_run_count"] = (
            state.run_count + 1 if isinstance(state, Retrying) else known.get("task_run_count", 1)
        )
        if isinstance(state, Resume) or (
            isinstance(state, Paused) and state.start_time is not None and state.start_time <= now()
        ):
            context["resume"] = True
        if (answer := known.get("answer")) is not None:  # also to a runner that is gone
            context["resume"], context["answer"] = True, answer
        if state.has_cached_inputs and "_loop_count" in state.cached_inputs:
            context |= await self._loop_context(state)
        return TaskRunnerInitializeResult(state, context)

    def _describe(self, context: dict[str, Any]) -> None:
        """Complete what the context of a run says of it, as it is for a first attempt."""
        context["task_run_count"] = 1
        if context["task_slug"] is None:
            context["task_slug"] = flow_scope.get().slugs.get(self.task, self.task.name)
        map_index = context.get("map_index")
        if map_index is not None and map_index >= 0:
            context["task_full_name"] = f"{self.task.name}[{map_index}]"

    async def _loop_context(self, state: State) -> dict[str, Any]:
        await state.load_cached_results({"_loop_result": self.result})
        count = state.cached_inputs.pop("_loop_count")
        result = state.cached_inputs.pop("_loop_result", NoResult)
        return {"task_loop_count": int(count.value), "task_loop_result": result.value}

    @call_state_handlers
    async def check_task_is_ready(self, state: State) -> State:
        """Check that the run has not begun, or is one that begins again.

        Raises:
            - ENDRUN: if it is finished, or under way elsewhere
        """
        scope = flow_scope.get()
        return rules.ready(state, runs_again=self.task in scope.again, is_own=scope.continues)

    @call_state_handlers
    async def check_task_reached_start_time(self, state: State) -> State:
        """Check that the time of a scheduled run has come.

        Raises:
            - ENDRUN: if it has not
        """
        if not state.is_scheduled():
            return state
        waited_until = current_task_scope().waited_until
        return rules.started_by_now(state, now() if waited_until is None else max(now(), waited_until))

    @call_state_handlers
    async def check_upstream_finished(self, state: State, upstream_states: dict[Edge, State]) -> State:
        """Check that everything upstream is finished.

        Raises:
            - ENDRUN: if it is not
        """
        return rules.upstream_finished(state, upstream_states)

    @call_state_handlers
    async def check_upstream_skipped(self, state: State, upstream_states: dict[Edge, State]) -> State:
        """Skip the task if something upstream was skipped, unless the task says otherwise.

        Raises:
            - ENDRUN: with Skipped
        """
        return rules.upstream_skipped(state, upstream_states, self.task.skip_on_upstream_skip)

    async def load_results(self, state: State, upstream_states: dict[Edge, State]) -> tuple[State, dict[Edge, State]]:
        """Read the results that a restarted run needs; here they never left the process.

        Args:
            - state: the task's current state
            - upstream_states: the states upstream

        Returns:
            - tuple: the state and the states upstream
        """
        return state, upstream_states

    async def get_task_inputs(self, state: State, upstream_states: dict[Edge, State]) -> dict[str, Result]:
        """Return the inputs of the body, by name.

        Args:
            - state: the task's current state
            - upstream_states: the states upstream

        Returns:
            - dict: a `Result` for each input
        """
        constants = self._constants.fresh() if self._gives_copies else self._constants
        inputs = {name: Result(value) for name, value in constants.items()}
        for edge, upstream in upstream_states.items():
            if edge.key is not None:
                inputs[edge.key] = _input(edge, upstream)
        return inputs

    @call_state_handlers
    async def check_task_ready_to_map(self, state: State, upstream_states: dict[Edge, State]) -> State:
        """Find out how many children a mapped task has.

        Raises:
            - ENDRUN: always: with Mapped, or with Failed if nothing upstream can be mapped over
        """
        if isinstance(state, Mapped):
            if not state.map_states:
                state.map_states = [None] * state.n_map_states
            raise ENDRUN(state)
        try:
            await self._split(upstream_states)
            problem = mapping.unmappable(upstream_states)
            unequal = None if problem is not None else mapping.unequal(upstream_states)
            width = 0 if problem is not None else mapping.width(upstream_states)
        except BaseException as raised:
            error = failure(raised)
            message = f"What task '{self.task.name}' is mapped over cannot be read: {shown(error)}"
            raise ENDRUN(self._explained(Failed(message, result=error))) from error
        if problem is not None:
            raise ENDRUN(self._explained(Failed(problem)))
        if self.task.cache_for is not None and (unhashable := self._unhashable_element(upstream_states)) is not None:
            raise ENDRUN(self._explained(Failed(str(unhashable), result=unhashable)))
        if unequal is not None:
            self.logger.warning("task '%s' is mapped over inputs of unequal length: %s", self.task.name, unequal)
        raise ENDRUN(Mapped("Ready to proceed with mapping.", map_states=[None] * width, n_map_states=width))  # type: ignore[list-item]

    async def _split(self, upstream_states: Mapping[Edge, State]) -> None:
        """Ask for the elements of values that stayed elsewhere and are mapped over."""
        for edge, upstream in upstream_states.items():
            value = upstream.result
            if edge.mapped and type(value) is Remote and value.parts is None:
                try:
                    value.parts = await self._where(flow_scope.get()).split(value)
                except TypeError as error:
                    message = f"Cannot map over the result of task '{edge.upstream_task.name}': {error}"
                    raise ENDRUN(self._explained(Failed(message))) from None

    async def set_task_run_name(self, task_inputs: dict[str, Result]) -> None:
        """Name this run, after the task's ``task_run_name``.

        Args:
            - task_inputs: a `Result` for each input
        """
        template = self.task.task_run_name
        if template is not None:
            known = self._template_values(task_inputs)
            try:
                given = template(**known) if callable(template) else template.format(**known)
                name = str(answered(given, "the function"))
            except BaseException as raised:
                error = failure(raised)
                message = f"The task_run_name of task '{self.task.name}' failed: {shown(error)}"
                raise ENDRUN(self._explained(Failed(message, result=error))) from error
            _values.set({**_values.get(), "task_run_name": name})

    @call_state_handlers
    async def check_target(self, state: State, inputs: dict[str, Result]) -> State:
        """Take the result from the task's target, if it is there.

        Returns:
            - State: Cached with the result, or the state unchanged
        """
        known = self._template_values(inputs)
        result = self.result.format(**known)
        if result.location is None or not await result.exists(result.location):
            return state
        found = await result.read(result.location)
        if isinstance(state, Cached):  # by the same target, before the run was interrupted
            state.result = found
            return state
        return Cached(f"Result found at task target {result.location}", result=found)

    @call_state_handlers
    async def check_task_is_cached(self, state: State, inputs: dict[str, Result]) -> State:
        """Take the result from a cache, if a valid one is there.

        Args:
            - state: the current state of this task
            - inputs: a dictionary of inputs whose keys correspond to the task's run() arguments

        Returns:
            - State: Cached with the result; Pending if it was Cached and is valid no more; else the state unchanged

        Raises:
            - ENDRUN: if the task is not ready to run
        """
        if isinstance(state, Cached):
            if await self._cache_is_valid(state, inputs):
                return await state.load_result(self.result)
            return Pending("Cache was invalid; ready to run.")
        if self.task.cache_for is not None:
            caches = _values.get().get("caches") or {}
            for candidate in caches.get(self.task.cache_key or self.task.name, ()):
                if await self._may_serve(candidate, inputs):
                    served = await self._read_cached(_served_again(candidate))
                    if served is not None:
                        return served
        return state

    async def _may_serve(self, cached: Cached, inputs: Mapping[str, Result]) -> bool:
        current, notes = _values.get(), current_task_scope()
        identity = notes.identity
        if current.get("map_index") is not None and not (
            isinstance(identity, dict)
            and caching.is_of_this_child(cached, identity, notes.told_by, current.get("flow_run_id"))
        ):
            return False
        return await self._cache_is_valid(cached, inputs)

    async def _read_cached(self, cached: Cached) -> Cached | None:
        """Return a cached state with its value, or None if that cannot be read any more: then the body runs."""
        try:
            return await cached.load_result(self.result)
        except BaseException as error:
            if is_outside(error):
                raise
            self.logger.debug("a cached result of %s cannot be read: %s", self.task.name, shown(error))
            return None

    async def _identify(self, state: State, inputs: dict[str, Result], upstream_states: dict[Edge, State]) -> State:
        """Note what the result will be filed under, once for all attempts and rounds: a body may change its inputs.

        It is noted, too, if there is no identity: the result may be found at once.
        """
        current, notes = _values.get(), current_task_scope()
        if notes.identity is not None:
            return state
        is_child = current.get("map_index") is not None
        mapped = [edge.key for edge in upstream_states if edge.mapped and edge.key is not None] if is_child else []
        try:
            notes.identity = caching.identity_of(self.task, _values_of(inputs), mapped)
        except Exception as error:
            notes.identity = error
        notes.told_by = caching.told_by(self.task, mapped)
        return state

    @call_state_handlers
    async def _check_needs_body(self, state: State) -> State:
        if state.is_finished():
            raise ENDRUN(state)
        identity = current_task_scope().identity
        if isinstance(identity, Exception):
            raise ENDRUN(self._explained(Failed(str(identity), result=identity)))
        return state

    def _unhashable_element(self, upstream_states: Mapping[Edge, State]) -> SerializationError | None:
        """Return what is wrong with an element that is mapped over, and that no child could be told by."""
        mapped = {edge.key: edge for edge in upstream_states if edge.mapped and edge.key is not None}
        try:
            for name in caching.counted(self.task, mapped, mapped):
                edge = mapped[name]
                for element in mapping.elements_of(edge, upstream_states[edge]) or ():
                    if element is not None and element.is_successful():
                        caching.identity_of(self.task, {name: element.result}, [name])
        except SerializationError as error:
            return error
        return None

    async def _cache_is_valid(self, state: Cached, inputs: Mapping[str, Result]) -> bool:
        if isinstance(current_task_scope().identity, Exception):
            return False  # told before the body
        values = _values_of(inputs)
        parameters = _values.get().get("parameters") or {}
        try:
            return bool(await settle(self.task.cache_validator(state, values, parameters)))
        except BaseException as raised:
            error = failure(raised)
            message = f"The cache_validator of task '{self.task.name}' failed: {shown(error)}"
            raise ENDRUN(self._explained(Failed(message, result=error))) from error

    @call_state_handlers
    async def check_task_trigger(self, state: State, upstream_states: dict[Edge, State]) -> State:
        """Check that the task's trigger accepts the states upstream.

        Raises:
            - ENDRUN: if it does not; the state is TriggerFailed, or that of a signal the trigger raised
        """
        if state.is_finished() and current_task_scope().was_cached:
            return state  # it was asked before the result was found
        trigger = self.task.trigger
        try:
            if trigger is all_successful:
                all_successful(upstream_states)
                return state
            answer = await settle(trigger(upstream_states))
        except BaseException as raised:
            error = failure(raised)
            message = f"The trigger of task '{self.task.name}' failed: {shown(error)}"
            raise ENDRUN(self._explained(TriggerFailed(message, result=error))) from error
        return rules.trigger_answer(state, answer, self.task.name, getattr(trigger, "__name__", None) or shown(trigger))

    @call_state_handlers
    async def set_task_to_running(self, state: State, inputs: dict[str, Result]) -> State:
        """Let the run begin.

        Returns:
            - State: Running; Submitted if the body begins later, at the place that it is handed over to

        Raises:
            - ENDRUN: if the state is not Pending
        """
        return self._running(state)

    def _running(self, state: State) -> State:
        notes, current = task_scope.get(), current_values()
        is_handed_over = notes is not None and notes.facts is not None
        running = rules.submitted(state) if is_handed_over else rules.running(state)
        attempt = current.get("task_run_count", 1)
        if attempt > 1:  # whoever goes on with this run has to know
            running.context["task_run_count"] = attempt
        if (answer := current.get("answer")) is not None:
            running.context["answer"] = answer
        if self.task.tags and (priority := priority_of(self.task.needs)):  # a limit of the backend goes by it
            running.context["priority"] = priority
        return running

    @call_state_handlers
    async def get_task_run_state(self, state: State, inputs: dict[str, Result]) -> State:
        """Run the body, and store its result.

        Args:
            - state: the current state, Running, or Submitted if the body begins later
            - inputs: a `Result` for each input

        Returns:
            - State: how it ended

        Raises:
            - ENDRUN: if the state is not running
        """
        if not state.is_running() and not (state.is_submitted() and current_task_scope().facts is not None):
            raise ENDRUN(self._as_end(state) if isinstance(state, Looped) else state)
        body = self._outcome(_values_of(inputs), inputs)
        return await (body if telemetry.active is None else telemetry.active.attempt(body))

    @call_state_handlers
    async def cache_result(self, state: State, inputs: dict[str, Result]) -> State:
        """Turn a success into Cached, if the task says for how long its result may serve.

        Returns:
            - State: Cached, or the state unchanged
        """
        if self.task.cache_for is None or not state.is_successful() or isinstance(state, (Cached, Skipped)):
            return state
        assert self.task.cache_for is not None
        current = _values.get()
        identity = current_task_scope().identity
        if not isinstance(identity, dict):
            identity = caching.identity_of(self.task, _values_of(inputs), ())
        cached = Cached(
            state.message,
            result=state._result,
            hashed_inputs=identity,
            cached_parameters=dict(current.get("parameters") or {}),
            cached_result_expiration=now() + self.task.cache_for,
        )
        if current.get("flow_run_id") is not None:
            cached.context["flow_run_id"] = current["flow_run_id"]
        return cached

    @call_state_handlers
    async def check_for_retry(self, state: State, inputs: dict[str, Result]) -> State:
        """Try a failed run again, if it has attempts left.

        Returns:
            - State: Retrying, or the state unchanged
        """
        task, run_count = self.task, _values.get().get("task_run_count", 1)
        if task.retry_delay is None or not rules.is_retried(
            state, run_count=run_count, max_retries=task.max_retries, retry_on=task.retry_on
        ):
            return state
        try:
            delay = delay_after(task.retry_delay, run_count, task.name)
        except BaseException as raised:
            error = failure(raised)
            why = f"It is not tried again: its retry_delay failed after attempt {run_count}: {shown(error)}"
            self._log_attempt(state, f". {why}")
            # what the body raised is what counts
            raise ENDRUN(type(state)(f"{state.message} {why}", result=state._result, context=state.context)) from error
        retrying = rules.retry(
            state,
            run_count=run_count,
            max_retries=task.max_retries,
            retry_on=task.retry_on,
            start_time=now() + delay,
            cached_inputs=await self._current_round(),
        )
        self._log_attempt(state, f", next in {delay.total_seconds():g} s")
        return retrying

    async def check_task_is_looping(
        self, state: State, inputs: dict[str, Result], upstream_states: dict[Edge, State]
    ) -> State:
        """Prepare the next round, if the task asked for one. This is no change of state of its own.

        Returns:
            - State: Pending for the next round, or the state unchanged
        """
        if not isinstance(state, Looped):
            return state
        current_task_scope().is_next_round = True
        next_round = {"task_loop_count": state.loop_count + 1, "task_loop_result": state.result}
        _values.set({**_values.get(), **next_round})
        return rules.loop_again(state.loop_count + 1)


own_steps(TaskRunner)


def _named(around: Mapping[str, Any], task: Task[..., Any], slugs: Mapping[Any, str]) -> dict[str, Any]:
    """Return the values around a run, and what the context of a run says of its task."""
    context = {**around}
    context["task_name"] = context["task_full_name"] = task.name
    context["task_slug"] = slugs.get(task) if task.slug is None else task.slug
    context["task_tags"] = task.tags
    context["map_index"] = context["task_run_name"] = None
    context["task_run_count"] = 1
    return context


def _values_of(inputs: Mapping[str, Result]) -> dict[str, Any]:
    return {name: result.value for name, result in inputs.items()}


def _input(edge: Edge, upstream: State) -> Result:
    if edge.flattened and not edge.mapped:
        result = Result(mapping.flat_values(upstream.result))
    else:
        result = Result(upstream.result) if isinstance(upstream, Mapped) else upstream._result
    if edge.upstream_task.gives_copies and type(result.value) in COPIED:
        result = result.copy()
        result.value = own_copy(result.value)
    return result


def _served_again(state: Cached) -> Cached:
    served = Cached(
        state.message,
        result=state._result,
        hashed_inputs=state.hashed_inputs,
        cached_inputs=state.cached_inputs,
        cached_parameters=state.cached_parameters,
        cached_result_expiration=state.cached_result_expiration,
    )
    if "flow_run_id" in state.context:
        served.context["flow_run_id"] = state.context["flow_run_id"]
    return served
