"""The task runner that records every transition in a backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .. import _signature
from .._run import rules
from .._run.net import Withdrawn, shown
from .._run.restart import RETRY_FOLLOWS, RUNNER, continued, is_under_way
from .._run.steps import own_steps
from ..backend import Backend, Post, TaskRunInfoResult
from ..cancellation import Cancellation, current_cancellation, stopped_state
from ..context import (
    current_flow_scope,
    current_rest,
    current_task_scope,
    current_values,
    flow_scope,
    now,
    resting_on,
)
from ..context import values as _values
from ..directives import GIVEN
from ..edge import Edge
from ..errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    FlowloopError,
    OwnershipLost,
    TaskRunError,
    UpstreamRefused,
    VersionLockMismatch,
)
from ..parameter import DateTimeParameter, Parameter
from ..plain import typed
from ..result import NoResult, NotStored, Result
from ..results import PrefectResult
from ..results.default import default_result_in
from ..retries import delay_after
from ..runner import call_state_handlers, is_outside
from ..settings import Settings
from ..signals import ENDRUN, VersionLockMismatchSignal
from ..state import (
    Cached,
    Cancelled,
    Cancelling,
    ClientFailed,
    Failed,
    Mapped,
    Pending,
    Queued,
    Retrying,
    Running,
    Skipped,
    State,
    Submitted,
    Success,
    _can_be_pickled,
    _is_gone,
)
from ..task import Task
from ..task_runner import TaskRunner, TaskRunnerInitializeResult
from .ownership import Ownership
from .unrecordable import cut, is_too_much, small, without_value

__all__ = ["TOO_LATE", "CloudTaskRunner", "heard", "is_by", "reads_like"]


class CloudTaskRunner(TaskRunner):
    """Runs a task, and records each of its transitions before the next one is made.

    It finds what is known of its task run in the run context, where `CloudFlowRunner` puts it.

    Args:
        - task: the task
        - state_handlers: functions (task runner, old state, new state) called at each change, sync or async
        - flow_result: the result instance configured for the flow (if any)
        - constants: inputs that are plain values, by name
        - settings: how long a retry is waited for here, and the like
        - backend: where the run is recorded
    """

    hands_on_errors = False
    """Whether a task downstream may be given what this one failed with, or was skipped with."""

    _goes_ahead = True
    """Whether a state may be sent before the one it rests on is acknowledged, as nobody else has a say in between."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        steps = ("initialize_run", "handle_state_change", "call_runner_target_handlers", "_record")
        cls._goes_ahead = all(getattr(cls, step) is getattr(CloudTaskRunner, step) for step in steps)

    def __init__(
        self,
        task: Task[..., Any],
        state_handlers: Iterable[Callable[..., Any]] | None = None,
        flow_result: Result | None = None,
        *,
        constants: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        backend: Backend | None = None,
    ) -> None:
        settings = settings or Settings.from_env()
        # a run that another process may have to continue needs its results stored somewhere
        flow_result = flow_result or default_result_in(settings.results_place)
        super().__init__(task, state_handlers, flow_result, constants=constants, settings=settings)
        self.backend = backend
        self._children: dict[tuple[str, int], TaskRunInfoResult] | None = None
        self._is_parameter = isinstance(task, Parameter)

    @property
    def _port(self) -> Backend:
        backend: Backend | None = self.backend or flow_scope.get().backend
        if backend is None:
            raise FlowloopError(f"the runner of task {self.task.name!r} has no backend: give it one as `backend=`")
        return backend

    @property
    def may_step_ahead(self) -> bool:
        """Whether a run may get as far as Running while what it waits for is on its way to be recorded."""
        return self._goes_ahead and self._plan.begins_unheard

    def go_step_by_step(self) -> None:
        """Let each step wait until the one before it is acknowledged."""
        self._goes_ahead = False

    # -- what is known of the run --------------------------------------------------------------------

    async def initialize_run(
        self, state: State | None = None, context: dict[str, Any] | None = None
    ) -> TaskRunnerInitializeResult:
        """Return the state and the context to begin with, as the backend knows them.

        A state that is given wins over the recorded one. One that this runner waited in gives way to the end that
        somebody else has put to the run meanwhile.

        Args:
            - state: the initial state of the run
            - context: the context to be updated with relevant information; a copy of the current one if None

        Returns:
            - tuple: the state and the context

        Raises:
            - ENDRUN: if the task run cannot be read: with the state that is given, else with Failed
        """
        context = {**_values.get()} if context is None else context
        try:
            info = await self._task_run_info(context)
        except BackendError as error:
            if state is not None and context.get("task_run_id") is not None:  # another attempt, of what was read before
                return await super().initialize_run(state, context)
            current_task_scope().is_unread = True
            if state is None:
                _note_outage(error)
                message = f"The task run of '{self.task.name}' could not be read: {error}"
                state = self._explained(Failed(message, result=error))
            raise ENDRUN(state) from error
        context["task_id"] = info.task_id
        context["task_run_id"] = info.id
        context["task_run_version"] = info.version
        if state is None:
            state = continued(info.state, takeover=flow_scope.get().takes_over)
            if type(state) is Success:
                await self._restore(state)
            elif type(state) is Cached:
                current_task_scope().was_cached = True
        elif info.state.is_finished() and not is_under_way(info.state) and not state.is_finished():
            if current_task_scope().has_waited or flow_scope.get().continues:  # somebody else has ended it meanwhile
                state = info.state
            else:
                await self._begin_again(info, state, context)
        return await super().initialize_run(state, context)

    async def _restore(self, state: Success) -> None:
        """Give a recorded Success the result that its document does not carry."""
        if GIVEN in state.context:
            await self._give(state)
        if state._result.location is None and self.task.checkpoint is False:
            state._result = NotStored
        elif state._result.location is None and self._is_parameter:
            state.result = await self.task.run()  # too large for a state, it lies with the flow run alone

    async def _give(self, state: Success) -> None:
        """Make of a result that somebody has set what the task returns."""
        kind = _signature.return_type(self.task.body)
        await state.load_result(PrefectResult())
        if kind is Any:
            return
        try:
            state._result.value = typed(state._result.value, kind)
        except (TypeError, ValueError) as error:
            self.logger.warning("the result that was set for %s is taken as it is: %s", self.task.name, error)

    async def _begin_again(
        self, info: TaskRunInfoResult, state: State, context: dict[str, Any], *, is_again: bool = False
    ) -> None:
        """Record the given state of a run that is finished: nothing else may follow its end."""
        ownership: Ownership | None = flow_scope.get().ownership
        epoch = None if ownership is None else ownership.claim.epoch
        try:
            await self._port.set_task_run_state(info.id, None, state, self.task.cache_for, epoch=epoch)
        except Exception as error:
            _note_outage(error)
            if isinstance(error, OwnershipLost) and await _is_lost(ownership):
                self._lose()
                raise ENDRUN(state) from error
            if isinstance(error, OwnershipLost) and not is_again:
                await self._begin_again(info, state, context, is_again=True)
                return
            message = f"The given state could not be recorded: {error}"
            raise ENDRUN(ClientFailed(message, state=state)) from error
        context["task_run_version"] = info.version + 1

    def _goes_on(self, state: State) -> float | None:
        return None if current_task_scope().is_unread else super()._goes_on(state)

    async def _task_run_info(self, context: dict[str, Any]) -> TaskRunInfoResult:
        flow_run_id = context.get("flow_run_id") or _values.get().get("flow_run_id")
        if flow_run_id is None:
            what = f"there is no flow run that task {self.task.name!r} is part of"
            raise FlowloopError(f"{what}: name it as `flow_run_id` in the context")
        map_index = context.get("map_index")
        if map_index is None:
            info: TaskRunInfoResult | None = flow_scope.get().known.pop(self.task, None)
            if info is not None:
                return info
        if map_index is not None and self._children is not None:
            found = self._children.pop((flow_run_id, map_index), None)
            if found is not None:
                return found
        task_id = context.get("task_id")
        if task_id is None:
            raise BackendError(f"task '{self.task.name}' is not part of the registered flow: register it again")
        return await self._port.get_task_run_info(flow_run_id, task_id, map_index)

    async def check_task_is_ready(self, state: State) -> State:
        """Check that the run has not begun, or is one that begins again; see `TaskRunner.check_task_is_ready`.

        Raises:
            - ENDRUN: also with Retrying, for a failed run whose runner was gone before it could say so
        """
        if self.settings.recompute_missing and type(state) is Success and await self._is_missing(state):
            return rules.ready(state, runs_again=True)
        attempt = state.context.get(RETRY_FOLLOWS) if state.is_failed() else None
        if attempt is None or self.task.retry_delay is None:
            return await super().check_task_is_ready(state)
        retrying = Retrying(
            f"Retrying task (after attempt {attempt} of {self.task.max_retries + 1}).",
            start_time=now() + delay_after(self.task.retry_delay, attempt, self.task.name),
            run_count=attempt,
            cached_inputs=state.cached_inputs,
        )
        raise ENDRUN(await self.handle_state_change(state, retrying))

    async def _is_missing(self, state: Success) -> bool:
        """Whether the result of a run is gone from where it was stored."""
        try:
            return await _is_gone(state._result, self.task.result or self.flow_result)
        except FlowloopError as error:  # whoever needs it hears why it cannot be read
            self.logger.debug("the result of %s could not be looked for: %s", self.task.name, error)
            return False

    async def check_task_ready_to_map(self, state: State, upstream_states: dict[Edge, State]) -> State:
        """Find out how many children a mapped task has, and ask for all their task runs at once.

        Raises:
            - ENDRUN: always; see `TaskRunner.check_task_ready_to_map`
        """
        try:
            return await super().check_task_ready_to_map(state, upstream_states)
        except ENDRUN as end:
            if isinstance(end.state, Mapped) and end.state.n_map_states:
                await self._read_children(end.state.n_map_states)
            raise

    async def _read_children(self, width: int) -> None:
        current = _values.get()
        flow_run_id = current["flow_run_id"]
        try:
            infos = await self._port.get_task_run_infos(flow_run_id, current["task_id"], range(width))
        except BackendError as error:
            # each child asks for its own, then
            _note_outage(error)
            self.logger.warning("the task runs of the children of %s could not be read: %s", self.task.name, error)
            return
        self._children = {**(self._children or {}), **{(flow_run_id, info.map_index): info for info in infos}}

    # -- recording -------------------------------------------------------------------------------------

    async def call_runner_target_handlers(self, old_state: State, new_state: State) -> State:
        """Call the task's state handlers, then record the state.

        The version that the run was read at goes with it. If somebody else has moved the run since, it ends here
        when it is running elsewhere, and goes on with the recorded state otherwise.

        Args:
            - old_state: the old (previous) state
            - new_state: the new (current) state

        Returns:
            - State: the new state

        Raises:
            - ENDRUN: if the run is somebody else's, is held back (Queued), or its state cannot be recorded
        """
        try:
            new_state = await super().call_runner_target_handlers(old_state, new_state)
        except BaseException as raised:
            end = self._ended_by(raised)
            end.state = await self._record(old_state, end.state)
            raise end from end.__cause__
        return await self._record(old_state, new_state)

    async def _record(
        self, old_state: State, new_state: State, *, is_again: bool = False, refused: State | None = None
    ) -> State:
        """Record a state, with the version that the run was read at; see `call_runner_target_handlers`.

        Args:
            - old_state: the old (previous) state
            - new_state: the new (current) state
            - is_again: whether it was refused as too late before, though nothing had come before it
            - refused: the state in whose place it is, which may be recorded all the same
        """
        current, scope = current_values(), current_flow_scope()
        task_run_id, version = current.get("task_run_id"), current.get("task_run_version")
        if task_run_id is None:
            return new_state  # what could not be read cannot be recorded
        ownership: Ownership | None = scope.ownership
        sent, asked = new_state, None
        if isinstance(new_state, _CLAIMS):
            # without it, the same words of another runner would pass for this one's said twice
            new_state.context[RUNNER] = scope.runner_id
            asked = asyncio.get_running_loop().time()
        elif type(new_state) is Success:
            if self._is_parameter:
                sent = without_value(new_state)
        elif isinstance(new_state, (Failed, Skipped)):
            await self._note_failure(old_state, new_state)
        try:
            epoch = None
            if ownership is not None:
                epoch = ownership.claim.epoch
                if ownership.lost:
                    raise OwnershipLost("the flow run has another owner since")
            resting = current_rest()
            sending = (self.backend or self._port).set_task_run_state(
                task_run_id,
                version,
                sent,
                self.task.cache_for,
                epoch=epoch,
                flow_run_id=current.get("flow_run_id"),
                rests_on=resting,
            )
            if resting:
                resting_on.set(())
            if not isinstance(sending, Post):
                answer = await sending
            elif current.get("map_index") is not None or self._is_waited_for(new_state, sending):
                answer = sending.recorded(await sending.sent)
            else:
                answer, asked = new_state, None
            if asked is not None and ownership is not None and not ownership.acknowledged(asked):
                await ownership.renew()  # nothing begins when somebody else may have the flow run
        except OwnershipLost as error:
            if await _is_lost(ownership):
                self._lose()
                raise ENDRUN(ClientFailed(f"The state could not be recorded: {error}", state=new_state)) from error
            return await self._adopted(task_run_id, old_state, new_state, is_again, refused)
        except (VersionLockMismatch, VersionLockMismatchSignal):
            return await self._adopted(task_run_id, old_state, new_state, is_again, refused)
        except BaseException as error:  # to write a state calls what users gave it, too
            if is_outside(error):
                raise
            if self._goes_ahead and isinstance(error, UpstreamRefused):
                raise Withdrawn from error
            return await self._recorded_instead(old_state, new_state, error)
        if isinstance(answer, Queued):
            answer.state = Pending() if old_state.is_running() else old_state
            raise ENDRUN(answer)
        # in place: these values are this run's alone, and one dict less for each run that waits is felt
        current["task_run_version"] = None if version is None else version + 1
        return new_state

    def _is_waited_for(self, state: State, sending: Post) -> bool:
        """Let what follows be sent behind a state, and tell whether it waits until this one is acknowledged."""
        if not (self._goes_ahead and self._plan.ends_at_once):
            return True
        if type(state) is Success:
            foresee = flow_scope.get().foresee
            if foresee is not None:
                foresee(state, sending)
        elif type(self.task) in _SEEN_BY_NOBODY and state.is_running() and not self.task.tags:
            sending.sent.add_done_callback(heard)
            resting_on.set((sending,))
            return False
        return True

    def _lose(self) -> None:
        """Stop the flow run here: it is another owner's."""
        cancellation: Cancellation | None = flow_scope.get().cancellation
        if cancellation is not None:
            cancellation.request("handover")

    async def _note_failure(self, old_state: State, state: State) -> None:
        """Add to a state without a result what whoever goes on with the flow run has to know."""
        if type(old_state) in _CLAIMS and isinstance(state, Failed):
            self._mark_retry(state)
        if self.hands_on_errors and RETRY_FOLLOWS not in state.context:
            await self._keep_what_was_left(state)

    async def _keep_what_was_left(self, state: State) -> None:
        """Store the error of a run, so that whoever is given it gets the same where the flow run is continued."""
        result = state._result
        if result.value is None or result.location is not None or self.task.checkpoint is False:
            return
        error = result.value
        value = TaskRunError(shown(error)) if isinstance(error, BaseException) and not _can_be_pickled(error) else error
        for result in (self.result, default_result_in(self.settings.results_place)):
            try:
                stored = await _of_errors(result).write(value)
            except BaseException as problem:
                if is_outside(problem):
                    raise
                self.logger.debug("the error of %s could not be stored: %s", self.task.name, shown(problem))
            else:
                stored.value = error
                state._result = stored
                return

    def _mark_retry(self, state: State) -> None:
        """Note in a Failed state that a retry follows: this runner may not get to that."""
        attempt, task = _values.get().get("task_run_count", 1), self.task
        if rules.is_retried(state, run_count=attempt, max_retries=task.max_retries, retry_on=task.retry_on):
            state.context[RETRY_FOLLOWS] = attempt

    async def _recorded_instead(self, old_state: State, refused: State, error: BaseException) -> State:
        """Record another state in the place of one that could not be."""
        if old_state.is_finished() and isinstance(error, BackendRejected):
            # a retry, or a handler's second thoughts: what is recorded stands
            return refused if await self._is_recorded(refused) else old_state
        instead = await self._instead(refused, error)
        try:
            return await self._record(old_state, instead, refused=refused)
        except ENDRUN as end:
            if isinstance(end.state, ClientFailed):
                end.state.state = refused
            raise

    async def _instead(self, refused: State, error: BaseException) -> State:
        """Return the state to record in the place of one that could not be.

        Raises:
            - ENDRUN: if there is none
        """
        why = cut(error)
        self.logger.error("the state of task run %s could not be recorded: %s", _values.get()["task_run_id"], why)
        if _note_outage(error):
            raise ENDRUN(ClientFailed(f"The state could not be recorded: {why}", state=refused)) from error
        cancellation = current_cancellation()
        if (refused.is_running() or refused.is_submitted()) and cancellation is not None:
            await cancellation.look()
            if cancellation.cause == "handover":
                raise ENDRUN(stopped_state("handover")) from error
            if cancellation.cause is not None:
                return stopped_state(cancellation.cause)
        if is_too_much(refused):
            return small(refused, error)
        raise ENDRUN(ClientFailed(f"The state could not be recorded: {why}", state=refused)) from error

    async def _is_recorded(self, refused: State) -> bool:
        """Whether a state that was refused is recorded all the same: then it is gone on from."""
        current = _values.get()
        where = current["flow_run_id"], current["task_id"], current.get("map_index")
        try:
            info = await self._port.get_task_run_info(*where)
        except BackendError as error:
            _note_outage(error)
            return False
        if not reads_like(info.state, refused):
            return False
        current["task_run_version"] = info.version
        return True

    async def _adopted(
        self, task_run_id: str, old_state: State, refused: State, is_again: bool, before: State | None = None
    ) -> State:
        """Go on after a state was refused because somebody else has moved the run, or as if somebody had.

        What is recorded is gone on with, if it is not theirs to go on with. Where nobody has moved the run, or it was
        set back, or the runner before this one was still heard while it was shut out, the state is recorded again.

        Args:
            - task_run_id: the task run
            - old_state: the state before
            - refused: the state that was refused
            - is_again: whether it was refused so before
            - before: the state in whose place it is, which was refused first
        """
        current = _values.get()
        try:
            state = await self._port.get_task_run_state(task_run_id)
            if state.is_finished() and not is_under_way(state):
                if reads_like(state, refused) and state._result.location in (None, refused._result.location):
                    return refused  # it is this very one, whose value is here
                loaded = await state.load_result(self.result)
                if type(loaded) is Success and GIVEN in loaded.context:
                    await self._give(loaded)
                return loaded
            is_own = is_free = False
            if await self._owns_flow_run():
                info = await self._port.get_task_run_info(
                    current["flow_run_id"], current["task_id"], current.get("map_index")
                )
                is_own = info.version == current["task_run_version"] or is_by(info.state, flow_scope.get().runner_id)
                is_own = is_own or any(one is not None and reads_like(info.state, one) for one in (refused, before))
                is_free = type(refused) in _CLAIMS and (flow_scope.get().took_over or type(state) is Pending)
                current["task_run_version"] = info.version
            if not is_own and not is_free and is_under_way(state):
                self.logger.debug("task run %s is running elsewhere", task_run_id)
                raise ENDRUN(continued(state, takeover=False))
        except BaseException as error:
            if isinstance(error, ENDRUN) or is_outside(error):
                raise
            _note_outage(error)
            message = f"The recorded state could not be read: {shown(error)}"
            raise ENDRUN(ClientFailed(message, state=refused)) from error
        if is_own and is_again:
            return await self._recorded_instead(old_state, refused, BackendRejected(TOO_LATE))
        return await self._record(old_state, refused, is_again=is_own) if is_own or is_free else state

    async def _owns_flow_run(self) -> bool:
        """Whether the flow run is still this runner's; if not, it is left to the one that has it now."""
        current = _values.get()
        info = await self._port.get_flow_run_info(current["flow_run_id"])
        if info.version == current["flow_run_version"]:
            return True
        cancellation: Cancellation | None = flow_scope.get().cancellation
        if cancellation is not None:
            cancellation.request("user" if isinstance(info.state, (Cancelling, Cancelled)) else "handover")
        return False

    # -- the steps that need the backend ---------------------------------------------------------------

    async def check_task_is_cached(self, state: State, inputs: dict[str, Result]) -> State:
        """Check if the task is cached in the database, and whether any of the caches are still valid.

        Args:
            - state: the current state of this task
            - inputs: a dictionary of inputs whose keys correspond to the task's run() arguments

        Returns:
            - State: the state of the task after running the check

        Raises:
            - ENDRUN: if the task is not ready to run
        """
        checked = await super().check_task_is_cached(state, inputs)
        if checked.is_cached() or self.task.cache_for is None:
            return checked
        return await self._check_recorded_cache(checked, inputs)

    @call_state_handlers
    async def _check_recorded_cache(self, state: State, inputs: dict[str, Result]) -> State:
        return await self._recorded_cache(inputs) or state

    async def _recorded_cache(self, inputs: dict[str, Result]) -> Cached | None:
        assert self.task.cache_for is not None
        try:
            candidates = await self._port.get_latest_cached_states(
                _values.get()["task_id"], self.task.cache_key, now() - self.task.cache_for
            )
        except BackendError as error:
            _note_outage(error)
            self.logger.warning("the cached states of %s could not be read: %s", self.task.name, error)
            return None
        for candidate in candidates:
            if isinstance(candidate, Cached) and await self._may_serve(candidate, inputs):
                served = await self._read_cached(candidate)
                if served is not None:
                    return served
        return None

    async def load_results(self, state: State, upstream_states: dict[Edge, State]) -> tuple[State, dict[Edge, State]]:
        """Read all results that this run needs and that are not here.

        Args:
            - state: the task's current state
            - upstream_states: the states upstream

        Returns:
            - Tuple[State, dict]: a tuple of (state, upstream_states)

        Raises:
            - ENDRUN: with Failed, if a result cannot be read
        """
        for edge, upstream in upstream_states.items():
            if edge.key is None and not edge.mapped:
                continue
            for needed in _results_of(edge, upstream):
                if type(needed) is Success and needed.result is not None:
                    continue  # it is here
                failed = await self._load(edge, needed)
                if failed is not None and not self._is_for_children(state, edge, upstream_states):
                    raise ENDRUN(await self.handle_state_change(state, self._explained(failed)))
        if state.has_cached_inputs:
            await state.load_cached_results()
        return state, upstream_states

    def _is_for_children(self, state: State, edge: Edge, upstream_states: Mapping[Edge, State]) -> bool:
        """Whether the children of a mapped task that have yet to run say themselves what they cannot do without."""
        is_parent = _values.get().get("map_index") is None and any(edge.mapped for edge in upstream_states)
        return is_parent and (isinstance(state, Mapped) or not edge.mapped)

    async def _load(self, edge: Edge, upstream: State) -> Failed | None:
        """Read a result, and return why it cannot be read if it cannot."""
        result = upstream._result
        if result is NotStored:
            return Failed(
                f"The result of '{edge.upstream_task.name}' was lost with the process that made it: the task has "
                "checkpoint=False. Where it may run again for that, set its attribute reruns_on_restart."
            )
        if isinstance(upstream, (Failed, Skipped)):
            await self._load_error(upstream, edge.upstream_task.result or self.flow_result)
        elif result.value is None and result.location is not None and upstream.is_successful():
            try:
                await upstream.load_result(edge.upstream_task.result or self.flow_result)
            except BaseException as error:
                if is_outside(error):
                    raise
                message = (
                    f"The result of '{edge.upstream_task.name}' could not be read from {result.location}: {cut(error)}"
                )
                return Failed(message, result=error)
        return None

    async def _load_error(self, state: State, given: Result | None) -> None:
        result = state._result
        if result is NoResult or result.value is not None:
            return
        if result.location is not None:
            try:
                await state.load_result(None if given is None else _of_errors(given))
            except BaseException as error:
                if is_outside(error):
                    raise
                self.logger.debug("an error could not be read from %s: %s", result.location, shown(error))
            else:
                return
        if state.is_failed():
            state._result = Result(TaskRunError(str(state.message)))

    async def set_task_run_name(self, task_inputs: dict[str, Result]) -> None:
        """Set the name for this task run by calling the set_task_run_name mutation; a name that is refused is not set.

        Args:
            - task_inputs: a dictionary of inputs whose keys correspond to the task's run() arguments
        """
        await super().set_task_run_name(task_inputs)
        current = _values.get()
        if current.get("task_run_name") is not None and current.get("task_run_id") is not None:
            try:
                await self._port.set_task_run_name(current["task_run_id"], current["task_run_name"])
            except Exception as error:
                self.logger.warning("the name of task run %s could not be set: %s", current["task_run_id"], error)


TOO_LATE = "it was refused as if it came too late"

_CLAIMS = (Running, Submitted)
"""The states by which a runner makes a task run its own."""

_SEEN_BY_NOBODY = (Parameter, DateTimeParameter)
"""The tasks whose bodies do nothing but look a value up."""


own_steps(CloudTaskRunner, ["check_task_is_ready", "check_task_is_cached", "check_task_ready_to_map"])
own_steps(CloudTaskRunner, ["load_results", "call_runner_target_handlers"], idle=False)


def is_by(state: State, runner_id: str | None) -> bool:
    """Whether a runner has begun a run with a state."""
    return runner_id is not None and state.context.get(RUNNER) == runner_id


def reads_like(one: State, other: State) -> bool:
    """Whether two states say the same, whatever their results."""
    return type(one) is type(other) and one.message == other.message and one.context == other.context


def heard(sent: asyncio.Future[Any]) -> None:
    """Hear of a refusal that tells nothing: what rests on the state is refused with it."""
    if not sent.cancelled():
        sent.exception()


def _results_of(edge: Edge, upstream: State) -> Sequence[State]:
    """Return the states whose results come over an edge; a child that is mapped over a child gets that one's alone."""
    if not isinstance(upstream, Mapped):
        return [upstream]
    return upstream.map_states if edge.flattened or not edge.mapped else []


def _of_errors(result: Result) -> Result:
    """Return where errors are stored: beside the results of the task, whatever these are written as."""
    place = result.at(None)
    place.serializer = Result.serializer_default
    return place


async def _is_lost(ownership: Ownership | None) -> bool:
    """Whether a flow run that is said to have another owner has one: there may be nobody here who could look."""
    return ownership is None or await ownership.is_lost()


def _note_outage(error: BaseException) -> bool:
    """Stop the flow run if the backend is away, and return whether it is."""
    cancellation = current_cancellation()
    if isinstance(error, BackendUnavailable) and cancellation is not None:
        cancellation.lose(error)
    return isinstance(error, BackendUnavailable)
