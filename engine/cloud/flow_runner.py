"""The flow runner that records every transition in a backend."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio

from .._run import rules
from ..backend import FlowRunClaim, FlowRunInfoResult, TaskRunInfoResult, connect
from ..cancellation import at_last, stopped_state
from ..context import OwnLogger, change_flow_scope, flow_scope, now
from ..context import values as _values
from ..errors import BackendError, BackendRejected, BackendUnavailable, FlowloopError
from ..executors import Executor
from ..flow_runner import FlowRunnerInitializeResult
from ..parameter import Parameter
from ..result import Result
from ..signals import ENDRUN
from ..state import Cancelling, Failed, Pending, Queued, Running, Scheduled, State
from ..task import Task
from ..task_states import TaskStates
from ..triggers import all_successful
from .creation import recorded_parameters
from .ownership import Ownership
from .owning import OwningFlowRunner
from .returned import read_results, recorded_states
from .task_runner import CloudTaskRunner
from .unfinished import handed_over, waits_for_tasks
from .unrecordable import cut

__all__ = ["CloudFlowRunner"]

_BEGINNING = (
    "check_flow_is_pending_or_running",
    "check_flow_reached_start_time",
    "set_flow_to_running",
    "handle_state_change",
    "call_runner_target_handlers",
)
"""The steps of a flow run up to its Running state."""

_ENDING = (
    "get_flow_run_state",
    "determine_final_state",
    "check_for_cancellation",
    "handle_state_change",
    "call_runner_target_handlers",
    "_record",
)
"""The steps of a flow run from there to its end."""

_log = OwnLogger(logging.getLogger("flowloop"))


class CloudFlowRunner(OwningFlowRunner):
    """Runs a flow, and records every transition of the flow run and of its task runs.

    Without a flow run to continue (``flow_run_id`` in the context), it registers the flow if that is new or changed,
    and creates a flow run.

    Args:
        - flow: the flow
        - state_handlers: functions (flow runner, old state, new state) called at each change, sync or async
        - backend: an open backend; if None, the one that the settings name is opened for each run
        - settings: where runs are recorded, how long a retry is waited for, and the like
        - limits: how many task runs may go on at once, in all and by task and tag; of each run, or, as `Limits.open`
            returns them, of all that share them
        - fail_fast: whether the first failed task stops all others
        - release_results: whether the value of a result is let go as soon as no task needs it any more: see
            `FlowRunner`
        - takeover: whether a flow run is continued although its owner lives. The former owner can record nothing any
            more. Without it a run is taken over when its owner is known to be dead, or its lease has run out.
        - if_owned: what `run` does where the flow run has an owner that lives: ``"raise"`` an error, or ``"follow"`` it
            to its end, and go on with the run if it dies before
        - claim: by which the flow run to continue is this runner's already
        - info: that flow run as it is since it was claimed, so that it need not be read
        - task_runner_cls: the class that runs the tasks; a `CloudTaskRunner`

    Example:

        ```python
        async with connect("sqlite:///runs.db") as backend:
            state = await CloudFlowRunner(flow, backend=backend).run(parameters={"name": "you"})
        ```
    """

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
        *,
        idempotency_key: str | None = None,
    ) -> State:
        """Run the flow, and record it.

        Args:
            - state: starting state for the flow; the recorded one if None
            - task_states: states of tasks to begin with, in the place of the recorded ones
            - return_tasks: the tasks whose states are in the result of the final state; all of them if None
            - parameters: values of the parameters, by name
            - task_runner_state_handlers: functions (task runner, old state, new state) called at each change of a task
            - executor: where bodies run; the flow's own if None
            - context: values for the context of all runs; ``flow_run_id`` continues that flow run
            - task_contexts: values for the contexts of single tasks
            - idempotency_key: starts a flow run, or follows the one that was started under this key before

        Returns:
            - State: the final state; its result is a dict of the states of `return_tasks`

        Raises:
            - FlowDefinitionError: for a flow that cannot run, or a parameter that cannot be; nothing is recorded
            - BackendError: if the flow cannot be registered, or the flow run cannot be created
            - FlowRunOwned: if the flow run has an owner that lives
            - OwnershipLost: if another owner has claimed the flow run meanwhile; it goes on there
            - BackendRejected: if neither the state that the flow run came to nor one in its place could be recorded;
                what was recorded until then stands, and the flow run can be gone on with
            - BackendUnavailable: if the backend was away for longer than `Settings.outage_limit`; what was recorded
                until then stands, and the flow run can be gone on with
            - CancelledError: when the caller is cancelled, after every task run has ended in a final state
        """
        if self._has_caller:
            raise self._already_running()
        given = dict(parameters or {})
        known = dict(context or {})
        runner_id = self._runner_id = os.urandom(6).hex()
        self._begun = None
        async with AsyncExitStack() as stack:
            self._has_caller = True
            stack.callback(self._forget_caller)
            await self._prepared()
            executor = self._executor(executor)
            return_tasks = None if return_tasks is None else list(return_tasks)
            self._checked(return_tasks, task_states, context, task_contexts)
            backend = self.backend
            flow_run_id = known.get("flow_run_id") or _ambient_flow_run()
            if flow_run_id is None:
                self.flow.check_parameters({**known.get("parameters", {}), **given}, complete=True)
            if backend is None:
                backend = connect(self.settings.default_backend_url, settings=self.settings)
                backend = await stack.enter_async_context(backend)
            if flow_run_id is None:
                given_all = {**known.get("parameters", {}), **given}
                plainly = state is None and self._begins_plainly()
                name = known.get("flow_run_name")
                ownership = await self._created(
                    backend, given_all, runner_id, idempotency_key, name=name, plainly=plainly
                )
            else:
                ownership = await self._claimed(backend, flow_run_id, follows=self.if_owned == "follow")
            flow_run_id = self.flow_run_id = ownership.flow_run_id
            self._ownership = ownership
            stack.push_async_callback(self._released, ownership)
            self._opened = backend
            stack.callback(self._forget_backend)
            self._changed_elsewhere = None
            self._end_ahead = None
            self._has_spoken = False
            self._is_cut_short = False
            self._unrecorded = None
            self._looking = anyio.Lock()
            known |= {
                "flow_run_id": flow_run_id,
                "running_with_backend": True,
            }
            while True:
                cancellation = self._cancellation
                try:
                    final = await super().run(
                        state,
                        task_states,
                        return_tasks,
                        given,
                        task_runner_state_handlers,
                        executor,
                        known,
                        task_contexts,
                    )
                except asyncio.CancelledError:
                    if not self._has_spoken:
                        cause = cancellation.cause or cancellation.cause_from_outside
                        await at_last(self._end_unbegun(ownership, cause), self.settings.cancel_grace)
                    raise
                if cancellation.outage is not None:
                    raise self._unfinished(cancellation.outage) from cancellation.outage
                if ownership.lost:
                    raise self._lost()
                if self._unrecorded is not None:
                    raise self._unended(final) from self._unrecorded
                if final.is_failed():
                    _log.warning("flow run %s of %r failed: %s", flow_run_id, self.flow.name, final.message)
                wait = rules.due_in(final, now(), self.settings.inline_retry_limit) if final.is_queued() else None
                if wait is None:
                    return final
                stopped = await self._wait_in_queue(ownership, wait)
                if stopped is not None:
                    return await self._end_unbegun(ownership, stopped) or final

    def _unfinished(self, outage: BackendUnavailable) -> BackendUnavailable:
        return BackendUnavailable(
            f"flow run {self.flow_run_id} was left unfinished, because nothing can be recorded: {outage}. What "
            "was acknowledged stands. A worker goes on with it once the backend answers again, or run it again with "
            f"context={{'flow_run_id': '{self.flow_run_id}'}}"
        )

    def _unended(self, final: State) -> BackendRejected:
        return BackendRejected(
            f"flow run {self.flow_run_id} came to its end here as {type(final).__name__}, and that is not recorded: "
            f"{cut(self._unrecorded)}. What was acknowledged stands. A worker goes on with it, or run it again with "
            f"context={{'flow_run_id': '{self.flow_run_id}'}}"
        )

    async def follow(self) -> State:
        """Await the end of the flow run that `run` found to have another owner; if that one dies, go on with the run.

        Returns:
            - State: the final state, as `run` returns it

        Example:

            ```python
            try:
                state = await runner.run(context={"flow_run_id": flow_run_id})
            except FlowRunOwned:
                state = await runner.follow()
            ```
        """
        if self.flow_run_id is None:
            raise FlowloopError(f"this runner of flow {self.flow.name!r} knows no flow run to follow: call run first")
        before, self.if_owned = self.if_owned, "follow"
        try:
            return await self.run(context={"flow_run_id": self.flow_run_id})
        finally:
            self.if_owned = before

    def _begins_plainly(self) -> bool:
        """Whether nobody has a say when a new flow run becomes Running: it can be created as that."""
        return self._is_plain(_BEGINNING)

    def _is_plain(self, steps: tuple[str, ...]) -> bool:
        """Whether nobody hears of a change of state, and steps are the ones that are made here."""
        kind: Any = type(self)  # which mypy takes for something that cannot be hashed
        return not (self.state_handlers or self.flow.state_handlers) and _are_own(kind, steps)

    def _end_foreseer(self) -> Callable[[dict[Task[..., Any], State], Sequence[Any]], None] | None:
        has_no_say = self.flow.terminal_state_handler is None and self._is_plain(_ENDING)
        return self._send_end if has_no_say else None

    def task_runner(self, task: Task[..., Any], state_handlers: Iterable[Callable[..., Any]]) -> CloudTaskRunner:
        """Return a runner for a task of the flow."""
        runner = super().task_runner(task, state_handlers)
        assert isinstance(runner, CloudTaskRunner)
        runner.backend = self._port
        if self._around is not None and isinstance(task, Parameter):
            runner.result = Result()  # whatever it is, whoever runs the flow around it has it
        runner.hands_on_errors = task in self.flow._remember("hands_on_errors", self._handing_on_errors)
        return runner

    def _handing_on_errors(self) -> set[Task[..., Any]]:
        """Return the tasks of which another one may be given what they failed with, or were skipped with."""
        return {
            edge.upstream_task
            for edge in self.flow.edges
            if edge.key is not None
            and not (edge.downstream_task.trigger is all_successful and edge.downstream_task.skip_on_upstream_skip)
        }

    def _backlog(self) -> int:
        return self._port.backlog

    async def determine_final_state(
        self,
        state: State,
        key_states: list[State],
        return_states: dict[Task[..., Any], State],
        terminal_states: list[State],
    ) -> State:
        """Return the state that the states of the tasks make; see `FlowRunner.determine_final_state`.

        Results of `return_states` that tasks have left in another process are read, except those that were released.
        """
        for task, returned in return_states.items():
            if self._drive is not None and self._drive.is_released(task):
                continue
            await read_results(task, returned, task.result or self.flow.result or self._default_result, self.logger)
        return await super().determine_final_state(state, key_states, return_states, terminal_states)

    def _has_ended_tasks(self) -> bool:
        ownership = self._ownership
        return self._has_spoken and ownership is not None and bool(ownership.claim.epoch) and self._leaves_some()

    async def _concluded(self, final: State) -> State:
        if final.is_finished() and not self._leaves_some():
            return final
        final = await self._last_look(final)
        if not final.is_running() or self._drive is None:
            return final
        return handed_over(final, self._drive.final_states(), self._runner_id)

    def known_states(self, task_states: dict[Task[..., Any], State]) -> dict[Task[..., Any], State]:
        """Return the recorded states, and those that are given in their place."""
        recorded = {task: info.state for task, info in flow_scope.get().known.items()}
        return {**recorded, **task_states}

    async def initialize_run(  # type: ignore[override]  # a flow run begins with more
        self,
        state: State | None = None,
        task_states: dict[Task[..., Any], State] | None = None,
        context: dict[str, Any] | None = None,
        task_contexts: dict[Task[..., Any], dict[str, Any]] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> FlowRunnerInitializeResult:
        """Return what the run begins with, as the backend knows it: one read serves all tasks.

        If the provided state is a Submitted state, the state it wraps is extracted. A given state wins over the
        recorded one, recorded context over given context, given parameters over recorded ones.

        Args:
            - state: the initial state of the run
            - task_states: a dictionary of any initial task states
            - context: the values for the context of all runs
            - task_contexts: the values for the contexts of single tasks
            - parameters: the parameter values for the run

        Returns:
            - NamedTuple: a tuple of initialized objects: (state, task_states, context, task_contexts)
        """
        task_states, context, task_contexts = task_states or {}, context or {}, task_contexts or {}
        parameters = parameters or {}
        flow_run_id = context.get("flow_run_id") or _values.get().get("flow_run_id")
        if flow_run_id is None:
            raise FlowloopError("there is no flow run to begin with: name it as `flow_run_id` in the context")
        begun, self._begun = self._begun, None
        claimed, self._info = self._info, None
        try:
            info = begun or claimed or await self._port.get_flow_run_info(flow_run_id)
        except BackendError as error:
            message = f"The flow run could not be read: {error}"
            self.logger.error("%s", message)
            if isinstance(error, BackendUnavailable):
                self._cancellation.lose(error)
            self._unrecorded = error
            self._told = Failed(message, result=error) if state is None else state
            raise ENDRUN(self._told) from error
        if begun is not None and isinstance(begun.state, Queued):
            begun.state.state = Pending()
            self._told = begun.state
            raise ENDRUN(begun.state)
        self._running_from_start = None if begun is None else begun.state
        self._cancellation.look = functools.partial(self._look, self._port, info.id, refused=True)
        self._recorded_limits = info.limits or {}
        self._began = info.start_time or now()
        recorded = self._restored(info.parameters)
        context = {
            **context,
            **info.context,
            "checkpointing": True,
            "flow_id": info.flow_id,
            "flow_run_id": info.id,
            "flow_run_name": info.name,
            "flow_run_version": info.version,
            "project_id": info.project.id,
            "project_name": info.project.name,
            "scheduled_start_time": info.scheduled_start_time,
        }
        ownership: Ownership | None = flow_scope.get().ownership
        if ownership is not None and ownership.claim.epoch is None and info.owner == ownership.claim.owner:
            ownership.claim = FlowRunClaim(ownership.claim.owner, info.epoch, ownership.claim.lease_seconds)
        chosen = {task: dict(given) for task, given in task_contexts.items()}
        tasks = {slug: task for task, slug in self.flow.slugs.items()}
        known: dict[Task[..., Any], TaskRunInfoResult] = {}
        for task_run in info.task_runs:
            task = tasks.get(task_run.task_slug or "")
            if task is not None:
                known[task] = task_run
                task_contexts[task] = {**task_contexts.get(task, {}), "task_id": task_run.task_id}
        change_flow_scope(takes_over=self._takes_over(info), known=known)
        # the checks of the base class are about names that a user chose
        result = await super().initialize_run(
            info.state if state is None else state,
            task_states,
            context,
            chosen,
            {**recorded, **self._recordable(parameters)},
        )
        return result._replace(task_contexts=task_contexts)

    def _recordable(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return given parameters as the run takes them; a part of another flow run is given whatever there is."""
        return parameters if self._around is not None else recorded_parameters(self.flow, parameters, complete=False)

    def _restored(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Return the recorded parameters that the flow still has, each as the value it was recorded of."""
        if self._around is not None:
            return {}
        return {p.name: p.restored(recorded[p.name]) for p in self.flow.parameters() if p.name in recorded}

    def _takes_over(self, info: FlowRunInfoResult) -> bool:
        """Whether this runner goes on with what another one began: it has claimed the run, or nobody runs it."""
        return self._ownership is not None or not info.state.is_running()

    async def check_flow_is_pending_or_running(self, state: State) -> State:
        """Check that the flow run has not ended; one whose runner died while it was cancelled is ended now.

        Raises:
            - ENDRUN: if it has; the result of the state has the recorded states of the tasks
        """
        if state.is_finished() and not isinstance(state.result, dict):
            state.result = await self._recorded_states()
        if isinstance(state, Cancelling) and flow_scope.get().takes_over:
            raise ENDRUN(await self.handle_state_change(state, stopped_state("user")))
        return await super().check_flow_is_pending_or_running(state)

    async def _recorded_states(self) -> TaskStates | None:
        tasks = self._named if self._is_named else self.flow.ordered_tasks()
        flow_run_id, known = _values.get()["flow_run_id"], flow_scope.get().known
        try:
            states = await recorded_states(self._port, flow_run_id, known, tasks)
        except BackendError as error:
            self.logger.warning("the states of the tasks of flow run %s cannot be read: %s", flow_run_id, error)
            return None
        for task, state in states.items():
            await read_results(task, state, task.result or self.flow.result or self._default_result, self.logger)
        return TaskStates(states, self.flow.slugs)

    async def check_flow_reached_start_time(self, state: State) -> State:
        """Check that the time of a scheduled run has come; one that waits for tasks alone may be looked at before.

        Raises:
            - ENDRUN: if it has not
        """
        return state if waits_for_tasks(state) else await super().check_flow_reached_start_time(state)

    async def set_flow_to_running(self, state: State) -> State:
        """Let the flow run begin; one that is taken over begins again, so that the former runner is shut out.

        Returns:
            - State: Running
        """
        if state is self._running_from_start and state.is_running():
            self._tell(Scheduled(), state)
            return state
        if state.is_running() and flow_scope.get().takes_over:
            state = await self.handle_state_change(state, Running("Continuing flow run."))
            change_flow_scope(took_over=True)
            return state
        return await super().set_flow_to_running(state)


@functools.cache
def _are_own(runner_class: type[CloudFlowRunner], steps: tuple[str, ...]) -> bool:
    """Whether a class has these steps as they are here."""
    return all(getattr(runner_class, step) is getattr(CloudFlowRunner, step) for step in steps)


def _ambient_flow_run() -> str | None:
    """Return the flow run that an open context names; inside a task that is another flow's."""
    current = _values.get()
    found: str | None = current.get("flow_run_id") if "task_run_count" not in current else None
    return found
