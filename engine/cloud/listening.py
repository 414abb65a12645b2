"""What a flow run hears while it goes on: that it was cancelled, or is another owner's, or has other limits."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from ..backend import Backend
from ..cancellation import Cause
from ..context import flow_scope, now
from ..context import values as _values
from ..directives import limits_of
from ..errors import BackendError, OwnershipLost
from ..limits import Limits, OpenLimits
from ..state import Cancelled, Cancelling, State, Success
from .artifacts import ArtifactShipper
from .helpers import helped, without_harm
from .logs import LogShipper
from .ownership import Ownership
from .recording import RecordingFlowRunner, cancelled_as

__all__ = ["ListeningFlowRunner"]

_LOG_INTERVAL = 5.0
_LOOK_AFTER = 1.0


class ListeningFlowRunner(RecordingFlowRunner):
    """Tells the backend that a flow run is alive, and obeys what is said of it there."""

    _shippers: tuple[LogShipper | ArtifactShipper, ...] = ()
    _hears = False
    """Whether what changes is heard at once."""

    def cancel(self, cause: Cause = "user") -> None:
        """Stop the run that is going on; see `FlowRunner.cancel`.

        With the cause ``"handover"`` the run does not end: the tasks under way are stopped and become Pending, the flow
        run becomes Scheduled, and another process can continue it.

        Args:
            - cause: why, as the final states will say
        """
        super().cancel(cause)
        self._woken.set()

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
        self._shippers = (shipper, artifacts)
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
            if artifacts.has_taken_some or shipper.has_some or self._changed_elsewhere is not None:
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
            self._is_cut_short = True
        finally:
            if before:
                cancellation.interruptible.add(task)
            else:
                cancellation.interruptible.discard(task)

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
            if ownership is None or await ownership.is_lost():
                self._lose()
            return False
        except BackendError as error:
            self.logger.debug("no heartbeat: %s", error)
            return False
        return True

    async def _poll(self, backend: Backend, flow_run_id: str) -> None:
        interval = self.settings.check_cancellation_interval
        first = min(_LOOK_AFTER, interval)
        await anyio.sleep(first)
        await self._read_limits(backend, flow_run_id)  # that were set before anybody listened
        await anyio.sleep(interval - first)
        while self._changed_elsewhere is None:
            await self._look(backend, flow_run_id)
            if not self._hears:
                await self._read_limits(backend, flow_run_id)
            await anyio.sleep(interval)

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

    async def _last_look(self, state: State) -> State:
        """Return what a flow run ends as that is not finished, once it is known that nobody has moved it meanwhile."""
        current = _values.get()
        await self._look(self._port, current["flow_run_id"])
        if self._changed_elsewhere is None:
            return state
        await self._refresh_version(self._port, current["flow_run_id"])
        return cancelled_as(state)

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
                        is_new = self._hears = True
            except BackendError as error:
                self.logger.debug("flow run %s cannot be listened to: %s", flow_run_id, error)
            finally:
                self._hears = False
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

    def _has_more_to_tell(self) -> bool:
        return any(shipper.has_some for shipper in self._shippers)

    def _noticed(self, state: State) -> None:
        if self._end_ahead is not None and type(state) is Success:
            return  # it is the one that was sent from here
        if isinstance(state, Cancelling) or state.is_finished():
            self._changed_elsewhere = state
            # one that is finished was brought to its end by another runner: nothing is left to record here
            self.cancel("handover" if state.is_finished() and not isinstance(state, Cancelled) else "user")
