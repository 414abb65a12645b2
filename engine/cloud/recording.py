"""Recording the states of a flow run, with the version that it was read at and the epoch of its owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import anyio

from .._run import rules
from .._run.restart import RUNNER
from ..backend import Backend, FlowRunClaim, FlowRunInfoResult, Post
from ..cancellation import stopped_state, undisturbed
from ..context import FlowScope, change_flow_scope, flow_scope
from ..context import values as _values
from ..errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    FlowloopError,
    OwnershipLost,
    UpstreamRefused,
    VersionLockMismatch,
)
from ..flow import Flow
from ..flow_runner import FlowRunner
from ..lifecycle import KEEPS_OWNER
from ..limits import Limits, OpenLimits
from ..results.default import default_result_in
from ..runner import is_outside
from ..settings import Settings
from ..signals import ENDRUN, VersionLockMismatchSignal
from ..state import Cancelled, Cancelling, Pending, Queued, State, Success
from ..task import Task
from .ownership import Ownership
from .task_runner import TOO_LATE, CloudTaskRunner, heard, is_by, reads_like
from .unrecordable import cut, is_too_much, small

__all__ = ["RecordingFlowRunner", "cancelled_as"]


class RecordingFlowRunner(FlowRunner):
    """Records each state of a flow run before it goes on from it; see `CloudFlowRunner` for its arguments."""

    task_runner_class = CloudTaskRunner

    def __init__(
        self,
        flow: Flow,
        state_handlers: Iterable[Callable[..., Any]] | None = None,
        *,
        backend: Backend | None = None,
        settings: Settings | None = None,
        limits: Limits | OpenLimits | None = None,
        fail_fast: bool = False,
        release_results: bool = False,
        takeover: bool | None = None,
        task_runner_cls: type[CloudTaskRunner] | None = None,
        if_owned: Literal["raise", "follow"] = "raise",
        claim: FlowRunClaim | None = None,
        info: FlowRunInfoResult | None = None,
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
        self._info = info
        """The flow run as it was when it was claimed, until it is made use of."""
        self._ownership: Ownership | None = None
        self._opened: Backend | None = None
        self._has_caller = False
        """Whether `run` goes on, also before there is a flow run."""
        self._runner_id: str | None = None
        self._begun: FlowRunInfoResult | None = None
        """The flow run that `run` has just created, until it is made use of."""
        self._running_from_start: State | None = None
        self._default_result = default_result_in(self.settings.results_place)
        self._changed_elsewhere: State | None = None
        self._end_ahead: Post | None = None
        """The Success of the flow run on its way, which was sent behind the last states of its tasks."""
        self._recorded_limits: Mapping[str, Any] = {}
        self._has_spoken = False
        """Whether this run has sent a state of the flow run."""
        self._is_cut_short = False
        """Whether a section of the run, which does not drive the tasks, was stopped, and what came after it goes on."""
        self._unrecorded: BaseException | None = None
        """Why the state that the flow run has come to is not recorded."""
        self._woken = anyio.Event()
        self._looking = anyio.Lock()

    @property
    def _port(self) -> Backend:
        """The backend of the run that is going on; outside one, where a step is called alone, the given one."""
        backend = self._opened or self.backend
        if backend is None:
            raise FlowloopError("a step that is called alone needs a backend: give the runner one as `backend=`")
        return backend

    def _open_scope(self) -> FlowScope:
        super()._open_scope()
        _values.set({**_values.get(), "flow_run_id": self.flow_run_id})  # to record what fails before it is read, too
        return change_flow_scope(backend=self._opened, ownership=self._ownership, runner_id=self._runner_id)

    def _forget_backend(self) -> None:
        self._opened = None

    def _forget_caller(self) -> None:
        self._has_caller = False

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
            new_state = cancelled_as(new_state)
        elif self._is_cut_short and self._cancellation.cause is not None and new_state.is_finished():
            stopped = self._stopped_as(self._cancellation.cause)
            stopped.result = new_state.result
            new_state = stopped
        try:
            new_state = await super().call_runner_target_handlers(old_state, new_state)
        except BaseException as raised:
            end = self._ended_by(raised)
            end.state = await self._record(old_state, end.state)
            raise end from end.__cause__
        return await self._record(old_state, new_state)

    async def _record(self, old_state: State, new_state: State, *, is_again: bool = False) -> State:
        """Record a state, with the version that the run was read at; see `call_runner_target_handlers`.

        Args:
            - old_state: the old (previous) state
            - new_state: the new (current) state
            - is_again: whether it was refused as too late before, though nothing had come before it
        """
        current = _values.get()
        backend = self._port
        flow_run_id, version = current["flow_run_id"], current.get("flow_run_version")
        ownership: Ownership | None = flow_scope.get().ownership
        if ownership is not None and ownership.lost:
            raise ENDRUN(new_state)
        if new_state.is_running():
            new_state.context[RUNNER] = flow_scope.get().runner_id
        epoch = None if ownership is None else ownership.claim.epoch
        ahead, self._end_ahead = self._end_ahead, None
        if ahead is not None and not reads_like(ahead.state, new_state):
            if await self._has_ended(ahead):
                if self._cancellation.cause is not None or isinstance(new_state, Cancelled):  # it came too late
                    ahead.state.result = new_state.result
                    return ahead.state
                version = None if version is None else version + 1
            ahead = None
        asked = asyncio.get_running_loop().time()
        self._has_spoken = True
        sending = ahead or backend.set_flow_run_state(
            flow_run_id, None if self._ends_tasks_by(new_state) else version, _without_results(new_state), epoch=epoch
        )
        try:
            # the caller may be cancelled while the state is on its way: what becomes of it is waited for
            answer = await (sending if new_state.is_finished() else undisturbed(sending, self.settings.cancel_grace))
        except OwnershipLost:
            if ownership is None or await ownership.is_lost():
                self._lose()
                raise ENDRUN(new_state) from None
            return await self._adopted(old_state, new_state, None, is_again)
        except (VersionLockMismatch, VersionLockMismatchSignal) as error:
            return await self._adopted(old_state, new_state, getattr(error, "standing", None), is_again)
        except BaseException as error:  # to write a state calls what users gave it, too
            if is_outside(error):
                raise
            if ahead is not None and isinstance(error, UpstreamRefused):
                return await self._record(old_state, new_state)
            return await self._instead(old_state, new_state, error)
        if isinstance(answer, Queued):
            answer.state = Pending() if old_state.is_running() else old_state
            raise ENDRUN(answer)
        if ownership is not None:
            if new_state.is_running():
                ownership.acknowledged(asked)
            ownership.given_up = type(new_state).__name__ not in KEEPS_OWNER
        _values.set({**current, "flow_run_version": None if version is None else version + 1})
        self._unrecorded = None
        return new_state

    def _ends_tasks_by(self, state: State) -> bool:
        """Whether a success ends the flow run before all of its tasks, for which its owner says no version."""
        return state.is_successful() and self._ownership is not None and self._leaves_some()

    def _leaves_some(self) -> bool:
        """Whether tasks are unfinished, or none has begun."""
        return self._drive is None or self._drive.leaves_some()

    async def _instead(self, old_state: State, refused: State, error: BaseException) -> State:
        """Record a small state that says why in the place of one that could not be.

        Raises:
            - ENDRUN: if that cannot be recorded either: with the end that the tasks have made, or with what keeps the
              flow run from going on
        """
        flow_run_id = _values.get()["flow_run_id"]
        self.logger.error("the state of flow run %s could not be recorded: %s", flow_run_id, cut(error))
        if old_state.is_finished() and isinstance(error, BackendRejected):
            # a handler's second thoughts: what is recorded stands
            return refused if await self._is_recorded(refused) else old_state
        if isinstance(error, BackendUnavailable):
            self._cancellation.lose(error)
        elif is_too_much(refused):
            instead = small(refused, error, refused.result)
            try:
                return await self._record(old_state, instead)
            except ENDRUN as end:
                if end.state is not instead or refused.is_running():
                    raise
        self._unrecorded = error
        raise ENDRUN(refused) from error

    async def _is_recorded(self, refused: State) -> bool:
        """Whether a state that was refused is recorded all the same."""
        try:
            recorded = await self._port.get_flow_run_state(_values.get()["flow_run_id"])
        except BackendError as error:
            self.logger.debug("flow run %s could not be read: %s", self.flow_run_id, error)
            return False
        return reads_like(recorded, refused)

    def _send_end(self, states: dict[Task[..., Any], State], posted: Sequence[Post]) -> None:
        """Send the Success of the flow run behind the last states of its tasks: they share a commit.

        Args:
            - states: how all tasks end
            - posted: those of the states that are on their way
        """
        keys, terminals = self._deciding(states)
        final = rules.flow_outcome(Pending(), terminals, keys, {})
        if type(final) is not Success or self._changed_elsewhere is not None or self._has_more_to_tell():
            return
        ownership: Ownership | None = flow_scope.get().ownership
        if ownership is None or ownership.lost or not isinstance(posted[0], Post):
            return
        current, epoch = _values.get(), ownership.claim.epoch
        flow_run_id, version = current["flow_run_id"], current.get("flow_run_version")
        end = _without_results(final)
        sent = self._port.set_flow_run_state(flow_run_id, version, end, epoch=epoch, rests_on=posted)
        if isinstance(sent, Post):
            sent.sent.add_done_callback(heard)
            self._end_ahead = sent
        else:
            sent.close()

    def _has_more_to_tell(self) -> bool:
        """Whether something waits that is to be recorded before the end of the flow run."""
        return False

    async def _has_ended(self, ahead: Post) -> bool:
        """Whether the flow run ended as it was foreseen."""
        try:
            await ahead
        except BackendError as error:
            self.logger.debug("flow run %s did not end as it was foreseen: %s", self.flow_run_id, error)
            return False
        if self._ownership is not None:
            self._ownership.given_up = True
        return True

    async def _adopted(self, old_state: State, new_state: State, standing: State | None, is_again: bool) -> State:
        """Go on after a state was refused because somebody else has moved the flow run, or as if somebody had.

        What stands there is gone on with, unless the flow run is to be cancelled, or nobody has moved it.

        Args:
            - old_state: the state before
            - new_state: the state that was refused
            - standing: what stands there; read, if the backend did not say it with its refusal
            - is_again: whether it was refused so before
        """
        current, version, is_mine = _values.get(), None, False  # what ends a flow run needs no version
        is_cancelled = isinstance(standing, Cancelling)
        if not new_state.is_finished() or standing is None or (standing.is_running() and not is_cancelled):
            try:
                info = await self._port.get_flow_run_info(current["flow_run_id"])
            except BackendError as error:
                if isinstance(error, BackendUnavailable):
                    self._cancellation.lose(error)
                self._unrecorded = error
                raise ENDRUN(new_state) from error
            standing, version, is_mine = info.state, info.version, self._is_mine(info)
            is_as_left = version == current.get("flow_run_version") or is_by(standing, flow_scope.get().runner_id)
            if is_mine and is_as_left and not standing.is_finished():
                if is_again:
                    return await self._instead(old_state, new_state, BackendRejected(TOO_LATE))
                _values.set({**current, "flow_run_version": version})
                return await self._record(old_state, new_state, is_again=True)
        if isinstance(standing, Cancelling) and (new_state.is_finished() or self._drive is not None or is_mine):
            # the request to cancel came while the run ended: it is over all the same, and only its runner can say so
            _values.set({**current, "flow_run_version": version})
            final = new_state if isinstance(new_state, Cancelled) else cancelled_as(new_state)
            return await self.call_runner_target_handlers(old_state, final)
        if standing.is_running():
            raise ENDRUN(standing)
        standing._result = new_state._result
        return standing

    def _is_mine(self, info: FlowRunInfoResult) -> bool:
        """Whether a flow run of which a state was refused is this runner's still."""
        ownership: Ownership | None = flow_scope.get().ownership
        return ownership is not None and ownership.claim.epoch is not None and info.owner == ownership.claim.owner

    def _lose(self) -> None:
        """Stop: the flow run is another owner's, and nothing more is recorded from here."""
        if self._ownership is not None and self._cancellation.cause != "handover":
            self.logger.warning("flow run %s has another owner since", self.flow_run_id)
            self.cancel("handover")

    async def _refresh_version(self, backend: Backend, flow_run_id: str) -> None:
        try:
            info = await backend.get_flow_run_info(flow_run_id)
        except BackendError as error:
            self.logger.warning("flow run %s could not be read: %s", flow_run_id, error)
            return
        _values.set({**_values.get(), "flow_run_version": info.version})

    async def _stopped_before_tasks(self, state: State) -> None:
        current = _values.get()
        # the state on its way when the cancel came may have been recorded
        await self._refresh_version(self._port, current["flow_run_id"])
        await super()._stopped_before_tasks(state)


def cancelled_as(state: State) -> State:
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
