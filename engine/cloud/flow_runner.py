"""The flow runner that records every transition in a backend."""

from __future__ import annotations

import asyncio
import datetime
import functools
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, TypeVar

import anyio

from .._run import rules
from ..backend import Backend, FlowRunClaim, FlowRunInfoResult, TaskRunInfoResult, connect
from ..cancellation import Cause, at_last, stopped_state, undisturbed
from ..context import FlowScope, change_flow_scope, flow_scope, now
from ..context import values as _values
from ..directives import limits_of
from ..errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    FlowloopError,
    FlowRunOwned,
    OwnershipLost,
    VersionLockMismatch,
)
from ..executors import Executor
from ..flow import Flow
from ..flow_runner import FlowRunner, FlowRunnerInitializeResult
from ..lifecycle import KEEPS_OWNER
from ..limits import Limits, OpenLimits
from ..parameter import Parameter
from ..presence import is_gone, new_owner
from ..result import Result
from ..results import DefaultResult
from ..runner import is_outside
from ..settings import Settings
from ..signals import ENDRUN, VersionLockMismatchSignal
from ..state import (
    Cancelled,
    Cancelling,
    Failed,
    Pending,
    Queued,
    Running,
    Scheduled,
    State,
)
from ..task import Task
from ..task_states import TaskStates
from ..triggers import all_successful
from .artifacts import ArtifactShipper
from .creation import create_flow_run, recorded_parameters, start_flow_run
from .helpers import helped, without_harm
from .logs import LogShipper
from .ownership import Ownership
from .returned import read_results, recorded_states
from .task_runner import CloudTaskRunner
from .unfinished import handed_over, waits_for_tasks
from .unrecordable import cut, is_too_much, small

__all__ = ["CloudFlowRunner"]

T = TypeVar("T")

_BEGINNING = (
    "check_flow_is_pending_or_running",
    "check_flow_reached_start_time",
    "set_flow_to_running",
    "handle_state_change",
    "call_runner_target_handlers",
)
"""The steps of a flow run up to its Running state."""

_LOG_INTERVAL = 5.0
_LOOK_AFTER = 1.0
_log = logging.getLogger("flowloop")


class CloudFlowRunner(FlowRunner):
    """Runs a flow, and records every transition of the flow run and of its task runs.

    Without a flow run to continue (``flow_run_id`` in the context), it registers the flow if that is new or changed,
    and creates a flow run.

    Args:
        - flow: the flow
        - state_handlers: functions (flow runner, old state, new state) called at each change, sync or async
        - backend: an open backend; if None, the one that the settings name is opened for each run
        - settings: where runs are recorded, how long a retry is waited for, and the like
        - limits: how many task runs may go on at once, in all and by task and tag
        - fail_fast: whether the first failed task stops all others
        - release_results: whether the value of a result is let go as soon as no task needs it any more: see
            `FlowRunner`
        - takeover: whether a flow run is continued although its owner lives. The former owner can record nothing any
            more. Without it a run is taken over when its owner is known to be dead, or its lease has run out.
        - if_owned: what `run` does where the flow run has an owner that lives: ``"raise"`` an error, or ``"follow"`` it
            to its end, and go on with the run if it dies before
        - claim: by which the flow run to continue is this runner's already
        - task_runner_cls: the class that runs the tasks; a `CloudTaskRunner`

    Example:

        ```python
        async with connect("sqlite:///runs.db") as backend:
            state = await CloudFlowRunner(flow, backend=backend).run(parameters={"name": "you"})
        ```
    """

    task_runner_class = CloudTaskRunner

    def __init__(
        self,
        flow: Flow,
        state_handlers: Iterable[Callable[..., Any]] | None = None,
        *,
        backend: Backend | None = None,
        settings: Settings | None = None,
        limits: Limits | None = None,
        fail_fast: bool = False,
        release_results: bool = False,
        takeover: bool | None = None,
        task_runner_cls: type[CloudTaskRunner] | None = None,
        if_owned: Literal["raise", "follow"] = "raise",
        claim: FlowRunClaim | None = None,
    ) -> None:
        if task_runner_cls is not None and not issubclass(task_runner_cls, CloudTaskRunner):
            raise ValueError(
                f"task_runner_cls is a CloudTaskRunner, which records what it does, not {task_runner_cls!r}"
            )
        super().__init__(
            flow,
            task_runner_cls,
            state_handlers,
            settings=settings,
            limits=limits,
            fail_fast=fail_fast,
            release_results=release_results,
        )
        self.backend = backend
        self.takeover = takeover
        self.if_owned: Literal["raise", "follow"] = if_owned
        self.claim = claim
        self._ownership: Ownership | None = None
        self._opened: Backend | None = None
        self._runner_id: str | None = None
        self._begun: FlowRunInfoResult | None = None
        """The flow run that `run` has just created, until it is made use of."""
        self._running_from_start: State | None = None
        self._default_result = DefaultResult(self.settings.results_dir)
        self._changed_elsewhere: State | None = None
        self._recorded_limits: Mapping[str, Any] = {}
        self._has_spoken = False
        """Whether this run has sent a state of the flow run."""
        self._woken = anyio.Event()
        self._looking = anyio.Lock()

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
            - BackendUnavailable: if the backend was away for longer than `Settings.outage_limit`; what was recorded
                until then stands, and the flow run can be gone on with
            - CancelledError: when the caller is cancelled, after every task run has ended in a final state
        """
        await self._prepared()
        given = dict(parameters or {})
        known = dict(context or {})
        runner_id = self._runner_id = uuid.uuid4().hex[:12]
        self._begun = None
        async with AsyncExitStack() as stack:
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
            self._has_spoken = False
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
                if final.is_failed():
                    _log.warning("flow run %s of %r failed: %s", flow_run_id, self.flow.name, final.message)
                wait = rules.due_in(final, now(), self.settings.inline_retry_limit) if final.is_queued() else None
                if wait is None:
                    return final
                stopped = await self._wait_in_queue(ownership, wait)
                if stopped is not None:
                    return await self._end_unbegun(ownership, stopped) or final

    def _lost(self) -> OwnershipLost:
        return OwnershipLost(
            f"flow run {self.flow_run_id} was claimed by another owner while it was run here: it goes on there, and "
            "nothing is recorded from here since"
        )

    def _unfinished(self, outage: BackendUnavailable) -> BackendUnavailable:
        return BackendUnavailable(
            f"flow run {self.flow_run_id} was left unfinished, because nothing can be recorded: {outage}. What "
            "was acknowledged stands. A worker goes on with it once the backend answers again, or run it again with "
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

    # -- ownership ---------------------------------------------------------------------------------------

    async def _created(
        self,
        backend: Backend,
        parameters: dict[str, Any],
        runner_id: str,
        idempotency_key: str | None,
        *,
        name: str | None,
        plainly: bool,
    ) -> Ownership:
        """Create a flow run that is this runner's from the start; one with a key may have been created before.

        Args:
            - backend: where it is recorded
            - parameters: values of the parameters, by name
            - runner_id: names this runner in its states
            - idempotency_key: of the flow run
            - name: of the flow run
            - plainly: whether it is Running from the start
        """
        began, owner = asyncio.get_running_loop().time(), new_owner()
        labels = [f"agentless-run-{uuid.uuid4().hex[:8]}"]  # no agent has this label
        options: dict[str, Any] = {"settings": self.settings, "labels": labels}
        if name is not None:
            options["name"] = name
        if idempotency_key is not None:
            options["idempotency_key"] = idempotency_key
            making = create_flow_run(self.flow, backend, parameters, **options)
            flow_run_id = await self._made(backend, owner, making, str)
            return await self._claimed(backend, flow_run_id, follows=True)
        lease = self.settings.lease_seconds
        running = Running("Running flow.", context={"runner": runner_id}) if plainly else None
        options |= {"owner": owner, "lease_seconds": lease, "state": running}
        made = self._made(backend, owner, start_flow_run(self.flow, backend, parameters, **options), lambda one: one.id)
        self._begun = info = await made
        return Ownership(backend, info.id, FlowRunClaim(owner, info.epoch or None, lease), began)

    def _begins_plainly(self) -> bool:
        """Whether nobody has a say when a new flow run becomes Running: it can be created as that."""
        if self.state_handlers or self.flow.state_handlers:
            return False
        return all(getattr(type(self), step) is getattr(CloudFlowRunner, step) for step in _BEGINNING)

    async def _made(self, backend: Backend, owner: str, making: Coroutine[Any, Any, T], id_of: Callable[[T], str]) -> T:
        """Create a flow run; one that is created although the caller was cancelled meanwhile ends at once."""
        cancellation = self._cancellation.look_around()
        made: list[T] = []

        async def create() -> None:
            made.append(await making)

        try:
            await undisturbed(create(), self.settings.cancel_grace)
        except asyncio.CancelledError:
            for one in made:
                ownership = Ownership(backend, id_of(one), FlowRunClaim(owner, None), 0.0)
                await at_last(self._end_unbegun(ownership, cancellation.cause_from_outside), self.settings.cancel_grace)
            raise
        return made[0]

    async def _claimed(self, backend: Backend, flow_run_id: str, *, follows: bool) -> Ownership:
        """Claim a flow run, also at once from an owner that is known to be dead; follow one that lives, if wanted.

        Raises:
            - FlowRunOwned: if it has an owner that lives
        """
        loop = asyncio.get_running_loop()
        self.flow_run_id = flow_run_id
        if self.claim is not None:
            return Ownership(backend, flow_run_id, self.claim)
        cancellation = self._cancellation.look_around()
        owner, gone = new_owner(), None
        while True:
            asked = loop.time()
            claiming = backend.claim_flow_run(
                flow_run_id,
                owner,
                lease_seconds=self.settings.lease_seconds,
                max_lapses=self.settings.max_lapses,
                takeover=bool(self.takeover),
                gone=gone,
            )
            try:
                claim = await undisturbed(claiming, self.settings.cancel_grace)
                return Ownership(backend, flow_run_id, claim, asked)
            except asyncio.CancelledError:
                claimed = Ownership(backend, flow_run_id, FlowRunClaim(owner, None), asked)
                ending = self._end_unbegun(claimed, cancellation.cause_from_outside, follows=follows)
                await at_last(ending, self.settings.cancel_grace)
                raise
            except FlowRunOwned as owned:
                if owned.owner != gone and is_gone(owned.owner):
                    gone = owned.owner
                    continue
                if not follows:
                    raise
            await self._follow_owner(backend, flow_run_id)

    async def _follow_owner(self, backend: Backend, flow_run_id: str) -> None:
        """Wait until the flow run has ended, or it is time to look whether its owner lives."""
        with anyio.move_on_after(min(self.settings.check_cancellation_interval, self.settings.heartbeat_interval)):
            stream = backend.watch_flow_run(flow_run_id)
            try:
                if stream is not None:
                    async with stream as states:
                        async for state in states:
                            if state.is_finished():
                                return
            except BackendError as error:
                self.logger.debug("flow run %s cannot be listened to: %s", flow_run_id, error)
            await anyio.sleep_forever()

    async def _released(self, ownership: Ownership) -> None:
        """Give up a flow run that has no state by which it was given up."""
        if ownership.lost or ownership.given_up or ownership.claim.epoch is None or self.claim is not None:
            return  # whoever has given the claim gives it up
        with anyio.CancelScope(shield=True), anyio.move_on_after(self.settings.cancel_grace):
            try:
                await ownership.backend.release_flow_run(ownership.flow_run_id, ownership.claim.epoch)
            except BackendError as error:
                told = "flow run %s can be continued when its lease has run out: %s"
                self.logger.warning(told, ownership.flow_run_id, error)

    def _lose(self) -> None:
        """Stop: the flow run is another owner's, and nothing more is recorded from here."""
        if self._ownership is not None and not self._ownership.lost:
            self._ownership.lost = True
            self.logger.warning("flow run %s has another owner since", self.flow_run_id)
            self.cancel("handover")

    def _open_scope(self) -> FlowScope:
        super()._open_scope()
        return change_flow_scope(backend=self._opened, ownership=self._ownership, runner_id=self._runner_id)

    def _forget_backend(self) -> None:
        self._opened = None

    async def _wait_in_queue(self, ownership: Ownership, seconds: float) -> Cause | None:
        """Wait before asking again for a place, and return why the run was stopped meanwhile, if it was."""
        cancellation = self._cancellation.look_around()
        self._woken = anyio.Event()
        try:
            with anyio.move_on_after(seconds):
                while not self._woken.is_set():
                    with anyio.move_on_after(ownership.claim.lease_seconds / 2):
                        await self._woken.wait()
                        break
                    await self._renewed(ownership)
        except asyncio.CancelledError:
            await at_last(self._end_unbegun(ownership, cancellation.cause_from_outside), self.settings.cancel_grace)
            raise
        return cancellation.cause

    async def _renewed(self, ownership: Ownership) -> None:
        """Keep a flow run that waits; see `_heartbeat`."""
        try:
            await ownership.renew()
        except OwnershipLost as error:
            ownership.lost = True
            raise self._lost() from error
        except BackendError as error:
            self.logger.debug("no heartbeat: %s", error)

    async def _end_unbegun(self, ownership: Ownership, cause: Cause, *, follows: bool = False) -> State | None:
        """End a flow run that was stopped before it began, unless another process is to begin it, or has.

        Args:
            - ownership: by which it is this runner's, or was to be
            - cause: why it was stopped
            - follows: whether it may be left to nobody: its end was only to be awaited
        """
        if cause == "handover":
            return None
        backend, flow_run_id = ownership.backend, ownership.flow_run_id
        info = await backend.get_flow_run_info(flow_run_id)
        is_own = info.owner == ownership.claim.owner
        others = not is_own and (follows or info.owner is not None)
        if others or info.state.is_finished() or (info.state.is_running() and not is_own):
            return info.state
        epoch = info.epoch if is_own else None
        try:
            ended = await backend.set_flow_run_state(flow_run_id, info.version, stopped_state(cause), epoch=epoch)
        except VersionLockMismatch:  # somebody was quicker
            return await backend.get_flow_run_state(flow_run_id)
        ownership.given_up = True
        return ended

    def cancel(self, cause: Cause = "user") -> None:
        """Stop the run that is going on; see `FlowRunner.cancel`.

        With the cause ``"handover"`` the run does not end: the tasks under way are stopped and become Pending, the flow
        run becomes Scheduled, and another process can continue it.

        Args:
            - cause: why, as the final states will say
        """
        super().cancel(cause)
        self._woken.set()

    def task_runner(self, task: Task[..., Any], state_handlers: Iterable[Callable[..., Any]]) -> CloudTaskRunner:
        """Return a runner for a task of the flow."""
        runner = super().task_runner(task, state_handlers)
        assert isinstance(runner, CloudTaskRunner)
        runner.backend = self._port
        if self._around is not None and isinstance(task, Parameter):
            runner.result = Result()  # whatever it is, whoever runs the flow around it has it
        runner.hands_on_errors = task in self.flow._remember("hands_on_errors", self._handing_on_errors)
        return runner

    @property
    def _port(self) -> Backend:
        """The backend of the run that is going on; outside one, where a step is called alone, the given one."""
        backend = self._opened or self.backend
        if backend is None:
            raise FlowloopError("a step that is called alone needs a backend: give the runner one as `backend=`")
        return backend

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

    def _flow_result(self) -> Result:
        return self.flow.result or self._default_result

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
            await read_results(task, returned, task.result or self._flow_result(), self.logger)
        final = await super().determine_final_state(state, key_states, return_states, terminal_states)
        if final.is_finished():
            return final
        final = await self._last_look(final)
        if final.is_finished() or self._drive is None:
            return final
        return handed_over(final, self._drive.final_states(), self._runner_id)

    async def _last_look(self, state: State) -> State:
        """Return what a flow run ends as that is not finished, once it is known that nobody has moved it meanwhile."""
        current = _values.get()
        await self._look(self._port, current["flow_run_id"])
        if self._changed_elsewhere is None:
            return state
        await self._refresh_version(self._port, current["flow_run_id"])
        return _cancelled_as(state)

    def known_states(self, task_states: dict[Task[..., Any], State]) -> dict[Task[..., Any], State]:
        """Return the recorded states, and those that are given in their place."""
        recorded = {task: info.state for task, info in flow_scope.get().known.items()}
        return {**recorded, **task_states}

    # -- what is known of the run ------------------------------------------------------------------------

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
        try:
            info = begun or await self._port.get_flow_run_info(flow_run_id)
        except BackendError as error:
            message = f"The flow run could not be read: {error}"
            self.logger.error("%s", message)
            raise ENDRUN(Failed(message, result=error) if state is None else state) from error
        if begun is not None and isinstance(begun.state, Queued):
            begun.state.state = Pending()
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
            await read_results(task, state, task.result or self._flow_result(), self.logger)
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

    # -- recording -------------------------------------------------------------------------------------

    async def call_runner_target_handlers(self, old_state: State, new_state: State) -> State:
        """Call the flow's state handlers, then record the state.

        Args:
            - old_state: the old (previous) state
            - new_state: the new (current) state

        Returns:
            - State: the new state

        Raises:
            - ENDRUN: if the run is somebody else's, is held back (Queued), or its state cannot be recorded
        """
        if self._cancellation.outage is not None:
            raise ENDRUN(new_state)
        ended = self._changed_elsewhere
        if ended is not None and ended.is_finished():
            ended.result = new_state.result
            raise ENDRUN(ended)
        if isinstance(ended, Cancelling) and not isinstance(new_state, Cancelled):
            new_state = _cancelled_as(new_state)
        try:
            new_state = await super().call_runner_target_handlers(old_state, new_state)
        except BaseException as raised:
            end = self._ended_by(raised)
            end.state = await self._record(old_state, end.state)
            raise end from end.__cause__
        return await self._record(old_state, new_state)

    async def _record(self, old_state: State, new_state: State) -> State:
        """Record a state, with the version that the run was read at; see `call_runner_target_handlers`."""
        current = _values.get()
        backend = self._port
        flow_run_id, version = current["flow_run_id"], current.get("flow_run_version")
        ownership: Ownership | None = flow_scope.get().ownership
        if ownership is not None and ownership.lost:
            raise ENDRUN(new_state)
        if new_state.is_running():
            new_state.context["runner"] = flow_scope.get().runner_id
        epoch = None if ownership is None else ownership.claim.epoch
        asked = asyncio.get_running_loop().time()
        self._has_spoken = True
        sending = backend.set_flow_run_state(flow_run_id, version, _without_results(new_state), epoch=epoch)
        try:
            # the caller may be cancelled while the state is on its way: what becomes of it is waited for
            answer = await (sending if new_state.is_finished() else undisturbed(sending, self.settings.cancel_grace))
        except OwnershipLost:
            self._lose()
            raise ENDRUN(new_state) from None
        except (VersionLockMismatch, VersionLockMismatchSignal) as error:
            return await self._adopted(old_state, new_state, getattr(error, "standing", None))
        except BaseException as error:  # to write a state calls what users gave it, too
            if is_outside(error):
                raise
            self.logger.error("the state of flow run %s could not be recorded: %s", flow_run_id, cut(error))
            if old_state.is_finished() and isinstance(error, BackendRejected):
                return old_state  # a handler's second thoughts: what is recorded stands
            if isinstance(error, BackendUnavailable):
                self._cancellation.lose(error)
            elif new_state.is_finished() and is_too_much(new_state):
                instead = small(new_state, error, new_state.result)
                try:
                    return await self._record(old_state, instead)
                except ENDRUN as end:
                    if end.state is not instead:
                        raise
            raise ENDRUN(new_state) from error
        if isinstance(answer, Queued):
            answer.state = old_state
            raise ENDRUN(answer)
        if ownership is not None:
            if new_state.is_running():
                ownership.acknowledged(asked)
            ownership.given_up = type(new_state).__name__ not in KEEPS_OWNER
        _values.set({**current, "flow_run_version": None if version is None else version + 1})
        return new_state

    async def _adopted(self, old_state: State, new_state: State, standing: State | None) -> State:
        """Go on after somebody else has moved the flow run: with what stands there, unless it is to be cancelled.

        Args:
            - old_state: the state before
            - new_state: the state that was refused
            - standing: what stands there; read, if the backend did not say it with its refusal
        """
        if standing is None or not new_state.is_finished():
            try:
                info = await self._port.get_flow_run_info(_values.get()["flow_run_id"])
            except BackendError as error:
                if isinstance(error, BackendUnavailable):
                    self._cancellation.lose(error)
                raise ENDRUN(new_state) from error
            standing, version = info.state, info.version
        else:
            version = None  # what ends a flow run needs none
        if isinstance(standing, Cancelling) and (new_state.is_finished() or self._drive is not None):
            # the request to cancel came while the run ended: it is over all the same, and only its runner can say so
            _values.set({**_values.get(), "flow_run_version": version})
            final = new_state if isinstance(new_state, Cancelled) else _cancelled_as(new_state)
            return await self.call_runner_target_handlers(old_state, final)
        if standing.is_running():
            raise ENDRUN(standing)
        standing._result = new_state._result
        return standing

    # -- alive, and listening ----------------------------------------------------------------------------

    @asynccontextmanager
    async def check_for_cancellation(self) -> AsyncIterator[None]:
        """Contextmanager used to wrap a cancellable section of a flow run.

        Inside it the backend hears a heartbeat, gets the lines that the run logs, and is asked whether the flow run was
        cancelled: at once where the backend can tell by itself, else at an interval. If it was, the section is cut
        short, the code after it goes on, and the flow run ends as Cancelled.
        """
        backend = self._port
        flow_run_id, grace = _values.get()["flow_run_id"], self.settings.cancel_grace
        shipper, artifacts = LogShipper(backend, flow_run_id), ArtifactShipper(backend, flow_run_id, grace)
        run = f"flow run {flow_run_id}"
        helpers = {
            "heartbeat": self._heartbeats,
            "listener": lambda: self._listen(backend, flow_run_id),
            "poll": lambda: self._poll(backend, flow_run_id),
            "log shipper": lambda: shipper.ship(_LOG_INTERVAL, grace),
        }
        try:
            with shipper.listening(), artifacts.listening():
                async with helped(helpers, run, self.logger, grace), self._section():
                    yield
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(grace):
                await without_harm("artifact shipper", artifacts.close, run, self.logger)
                await without_harm("log shipper", shipper.send, run, self.logger)
                if self._changed_elsewhere is not None:
                    await self._refresh_version(backend, flow_run_id)
            shipper.conclude()

    @asynccontextmanager
    async def _section(self) -> AsyncIterator[None]:
        """Let a block be cut short when the flow run is stopped; what drives the tasks of a flow stops them itself."""
        cancellation, task = self._cancellation, asyncio.current_task()
        assert task is not None
        before = task in cancellation.interruptible
        if self._driving:
            cancellation.interruptible.discard(task)
        else:
            cancellation.interruptible.add(task)
            if cancellation.cause is not None:
                task.cancel()
        try:
            yield
            if not self._driving and cancellation.cause is not None:
                await asyncio.sleep(0)  # a block that awaits nothing leaves its cancel to what comes after it
        except asyncio.CancelledError:
            if self._driving or cancellation.cause is None:
                raise
            task.uncancel()
            if task.cancelling():
                raise
        finally:
            if before:
                cancellation.interruptible.add(task)
            else:
                cancellation.interruptible.discard(task)

    async def _stopped_before_tasks(self, state: State) -> None:
        current = _values.get()
        # the state on its way when the cancel came may have been recorded
        await self._refresh_version(self._port, current["flow_run_id"])
        await super()._stopped_before_tasks(state)

    async def _refresh_version(self, backend: Backend, flow_run_id: str) -> None:
        try:
            info = await backend.get_flow_run_info(flow_run_id)
        except BackendError as error:
            self.logger.warning("flow run %s could not be read: %s", flow_run_id, error)
            return
        _values.set({**_values.get(), "flow_run_version": info.version})

    async def _heartbeats(self) -> None:
        # not at once: a claim or a Running state is a sign of life by itself
        ownership: Ownership | None = flow_scope.get().ownership
        lease = self.settings.lease_seconds if ownership is None else ownership.claim.lease_seconds
        while True:
            await anyio.sleep(lease / 2)
            await self._heartbeat()

    async def _heartbeat(self) -> bool:
        """Tell the backend that this flow run is alive.

        Returns:
            - bool: whether it heard
        """
        current = _values.get()
        ownership: Ownership | None = flow_scope.get().ownership
        try:
            if ownership is None:
                await self._port.update_flow_run_heartbeat(current["flow_run_id"])
            else:
                await ownership.renew()
        except OwnershipLost:
            self._lose()
            return False
        except BackendError as error:
            self.logger.debug("no heartbeat: %s", error)
            return False
        return True

    async def _poll(self, backend: Backend, flow_run_id: str) -> None:
        await anyio.sleep(min(_LOOK_AFTER, self.settings.check_cancellation_interval))
        await self._read_limits(backend, flow_run_id)  # that were set before anybody listened
        while self._changed_elsewhere is None:
            await anyio.sleep(self.settings.check_cancellation_interval)
            await self._look(backend, flow_run_id)

    async def _look(self, backend: Backend, flow_run_id: str, *, refused: bool = False) -> None:
        """Read the state of the flow run, and obey it; one look is enough for all who ask.

        Args:
            - backend: where to look
            - flow_run_id: the flow run
            - refused: whether a task run was refused for it, so that it must not have been scheduled anew either
        """
        async with self._looking:
            if self._cancellation.cause is not None:
                return
            try:
                state = await backend.get_flow_run_state(flow_run_id)
            except BackendError as error:
                self.logger.debug("flow run %s could not be read: %s", flow_run_id, error)
                return
            self._noticed(state)
            if refused and not state.is_running() and self._cancellation.cause is None:
                self.cancel("handover")

    async def _listen(self, backend: Backend, flow_run_id: str) -> None:
        is_new = False
        while self._changed_elsewhere is None:
            stream = backend.watch_flow_run(flow_run_id)
            if stream is None:
                return
            try:
                async with stream as states:
                    async for state in states:
                        self._noticed(state)
                        if is_new and state.is_running():  # something else about the run has changed
                            await self._read_limits(backend, flow_run_id)
                        is_new = True
            except BackendError as error:
                self.logger.debug("flow run %s cannot be listened to: %s", flow_run_id, error)
            await anyio.sleep(self.settings.check_cancellation_interval)

    def _open_limits(self) -> OpenLimits:
        """Return the places of the run, which may change while it goes on."""
        opened = super()._open_limits() or OpenLimits()
        if self._recorded_limits:
            opened.change((self.limits or Limits()).changed(self._recorded_limits))
        return opened

    def _began_at(self) -> datetime.datetime:
        return self._began or now()

    async def _read_limits(self, backend: Backend, flow_run_id: str) -> None:
        """Have the limits hold that were recorded for this flow run."""
        recorded: dict[str, Any] = {}
        try:
            for asked in await backend.list_directives(flow_run_id):
                if asked.kind == "set_limits":
                    recorded = limits_of(asked.value, recorded)
        except BackendError as error:
            self.logger.debug("what was asked of flow run %s could not be read: %s", flow_run_id, error)
            return
        if recorded != self._recorded_limits and self._limits is not None:
            self._recorded_limits = recorded
            self._limits.change((self.limits or Limits()).changed(recorded))
            self._keep_time()

    def _noticed(self, state: State) -> None:
        if isinstance(state, Cancelling) or state.is_finished():
            self._changed_elsewhere = state
            # one that is finished was brought to its end by another runner: nothing is left to record here
            self.cancel("handover" if state.is_finished() and not isinstance(state, Cancelled) else "user")


def _ambient_flow_run() -> str | None:
    """Return the flow run that an open context names; inside a task that is another flow's."""
    current = _values.get()
    found: str | None = current.get("flow_run_id") if "task_run_count" not in current else None
    return found


def _cancelled_as(state: State) -> State:
    """Return what a flow run ends as that was cancelled when it was about to take `state`."""
    cancelled = stopped_state("user")
    cancelled.result = state.result
    return cancelled


def _without_results(state: State) -> State:
    """Return the state as it is recorded: the states of the tasks have records of their own."""
    if not state.is_finished() and not state.is_running():
        return state
    if not isinstance(state.result, dict):
        return state
    return type(state)(state.message, context=state.context)
