"""How a flow run becomes a runner's, and how it is given up: created, claimed, followed, queued, released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

from .._run.restart import RUNNER
from ..backend import Backend, FlowRunClaim
from ..cancellation import Cause, at_last, stopped_state, undisturbed
from ..errors import BackendError, BackendUnavailable, FlowRunOwned, OwnershipLost, VersionLockMismatch
from ..presence import is_gone, new_owner
from ..state import Running, State
from .creation import create_flow_run, start_flow_run
from .listening import ListeningFlowRunner
from .ownership import Ownership

__all__ = ["OwningFlowRunner"]

T = TypeVar("T")

_LOOKS = 2
"""How often it is looked whether a flow run can be ended: somebody may move it between the look and the end."""


class OwningFlowRunner(ListeningFlowRunner):
    """Has a flow run for its own while it runs it, and ends one that it has but was stopped before it began."""

    @property
    def has_given_up(self) -> bool:
        """Whether the flow run that went on last was left in a state from which its owner does not go on."""
        return self._ownership is not None and self._ownership.given_up

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
        labels = [f"agentless-run-{owner[-8:]}"]  # no agent has this label
        options: dict[str, Any] = {"settings": self.settings, "labels": labels}
        if name is not None:
            options["name"] = name
        if idempotency_key is not None:
            options["idempotency_key"] = idempotency_key
            making = create_flow_run(self.flow, backend, parameters, **options)
            flow_run_id = await self._made(backend, owner, making, str)
            return await self._claimed(backend, flow_run_id, follows=True)
        lease = self.settings.lease_seconds
        running = Running("Running flow.", context={RUNNER: runner_id}) if plainly else None
        options |= {"owner": owner, "lease_seconds": lease, "state": running}
        made = self._made(backend, owner, start_flow_run(self.flow, backend, parameters, **options), lambda one: one.id)
        self._begun = info = await made
        return Ownership(backend, info.id, FlowRunClaim(owner, info.epoch or None, lease), began)

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
        epoch = ownership.claim.epoch
        if ownership.lost or ownership.given_up or epoch is None or self.claim is not None:
            return  # whoever has given the claim gives it up
        await undisturbed(self._release(ownership.backend, ownership.flow_run_id, epoch), self.settings.cancel_grace)

    async def _release(self, backend: Backend, flow_run_id: str, epoch: int) -> None:
        with anyio.move_on_after(self.settings.cancel_grace):
            try:
                await backend.release_flow_run(flow_run_id, epoch)
            except BackendError as error:
                self.logger.warning("flow run %s can be continued when its lease has run out: %s", flow_run_id, error)

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
            if await ownership.is_lost():
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
        for look in range(_LOOKS):
            try:
                info = await backend.get_flow_run_info(flow_run_id)
            except BackendError as error:
                if isinstance(error, BackendUnavailable) or look + 1 == _LOOKS:
                    raise
                continue
            is_own = info.owner == ownership.claim.owner
            others = not is_own and (follows or info.owner is not None)
            if others or info.state.is_finished() or (info.state.is_running() and not is_own):
                return info.state
            epoch = info.epoch if is_own else None
            try:
                ended = await backend.set_flow_run_state(flow_run_id, info.version, stopped_state(cause), epoch=epoch)
            except VersionLockMismatch:
                continue  # somebody was quicker
            except BackendError as error:
                self.logger.error("flow run %s could not be ended: %s", flow_run_id, error)
                if epoch is not None:
                    await self._release(backend, flow_run_id, epoch)
                raise
            ownership.given_up = True
            return ended
        return await backend.get_flow_run_state(flow_run_id)

    def _lost(self) -> OwnershipLost:
        return OwnershipLost(
            f"flow run {self.flow_run_id} was claimed by another owner while it was run here: it goes on there, and "
            "nothing is recorded from here since"
        )
