"""The claim by which a flow run is its runner's, as the runner knows it."""

from __future__ import annotations

import asyncio
import logging
import math

import anyio

from ..backend import PROLONGED, Backend, FlowRunClaim
from ..context import OwnLogger
from ..errors import BackendError

__all__ = ["Ownership"]

_log = OwnLogger(logging.getLogger("flowloop"))


class Ownership:
    """One flow run's owner, seen from inside: whether it still is, and until when that is certain.

    Args:
        - backend: where the flow run is recorded
        - flow_run_id: the flow run
        - claim: by which it is the owner's
        - since: the time of the event loop before it was claimed; if that is not known, it has to be heard of first
    """

    __slots__ = ("_looking", "_looks", "_until", "backend", "claim", "flow_run_id", "given_up", "lost")

    def __init__(self, backend: Backend, flow_run_id: str, claim: FlowRunClaim, since: float = -math.inf) -> None:
        self.backend = backend
        self.flow_run_id = flow_run_id
        self.claim = claim
        self.lost = False
        """Whether the flow run has another owner since: nothing more is recorded, and no body begins."""
        self.given_up = False
        """Whether a state is recorded that its owner does not go on from."""
        self._until = since + claim.lease_seconds
        self._looking: anyio.Lock | None = None
        self._looks = 0

    async def is_lost(self) -> bool:
        """Find out whether the flow run has another owner since, as was said; what was said amiss is no reason to stop.

        One look is enough for all who asked before it. If it cannot be looked, what was said is believed.
        """
        before = self._looks
        self._looking = self._looking or anyio.Lock()
        async with self._looking:
            if not self.lost and self._looks == before:
                self._looks += 1
                self.lost = await self._has_another_owner()
        return self.lost

    async def _has_another_owner(self) -> bool:
        try:
            info = await self.backend.get_flow_run_info(self.flow_run_id)
        except BackendError as error:
            _log.warning("flow run %s is said to have another owner, and cannot be read: %s", self.flow_run_id, error)
            return True
        if info.epoch != self.claim.epoch:
            return True
        _log.warning("flow run %s was said to have another owner, and has not: it goes on here", self.flow_run_id)
        return False

    def acknowledged(self, asked: float) -> bool:
        """Note that a Running was recorded, which was asked for at that time of the event loop.

        Returns:
            - bool: whether nobody else can have the flow run yet, by this process's own clock
        """
        at_least = asked + PROLONGED * self.claim.lease_seconds
        if at_least > self._until:
            self._until = at_least
        return not self.lost and asyncio.get_running_loop().time() < self._until

    async def renew(self) -> None:
        """Begin the lease anew, which is counted from before it was asked for.

        Raises:
            - OwnershipLost: if the flow run has another owner since
            - BackendError: if the backend cannot be told
        """
        asked = asyncio.get_running_loop().time()
        await self.backend.update_flow_run_heartbeat(self.flow_run_id, self.claim.epoch)
        self._until = asked + self.claim.lease_seconds
