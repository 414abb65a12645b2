"""The claim by which a flow run is its runner's, as the runner knows it."""

from __future__ import annotations

import asyncio
import math

from ..backend import PROLONGED, Backend, FlowRunClaim

__all__ = ["Ownership"]


class Ownership:
    """One flow run's owner, seen from inside: whether it still is, and until when that is certain.

    Args:
        - backend: where the flow run is recorded
        - flow_run_id: the flow run
        - claim: by which it is the owner's
        - since: the time of the event loop before it was claimed; if that is not known, it has to be heard of first
    """

    __slots__ = ("_until", "backend", "claim", "flow_run_id", "given_up", "lost")

    def __init__(self, backend: Backend, flow_run_id: str, claim: FlowRunClaim, since: float = -math.inf) -> None:
        self.backend = backend
        self.flow_run_id = flow_run_id
        self.claim = claim
        self.lost = False
        """Whether the flow run has another owner since: nothing more is recorded, and no body begins."""
        self.given_up = False
        """Whether a state is recorded that its owner does not go on from."""
        self._until = since + claim.lease_seconds

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
