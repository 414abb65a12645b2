"""Sending what the bodies of a flow run leave for people to its backend."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager, suppress
from typing import Any

import anyio
import msgspec

from ..artifacts import Artifact, collecting
from ..backend import Backend
from ..cancellation import undisturbed
from ..errors import BackendUnavailable
from ..masking import masked

__all__ = ["ArtifactShipper"]

_MOST = 10_000
_INTERVAL = 1.0
_log = logging.getLogger("flowloop.artifacts")


class ArtifactShipper:
    """Collects the artifacts of one flow run, and sends them in the background: the newest of each name.

    It never makes the run wait, and never fails it: of an artifact that is refused the log tells. Nothing goes on in
    the background before there is an artifact, which in most runs there never is.

    Args:
        - backend: where they go
        - flow_run_id: the flow run
        - grace: seconds that a request under way gets when the run ends
    """

    def __init__(self, backend: Backend, flow_run_id: str, grace: float) -> None:
        self._backend = backend
        self._flow_run_id = flow_run_id
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self._shipping: asyncio.Task[None] | None = None
        self._is_closed = False
        self._waiting: dict[tuple[str, str, str | int], Artifact] = {}
        self._ids: dict[tuple[str, str, str | int], str] = {}
        self._count = 0
        self._dropped = 0

    def listening(self) -> AbstractContextManager[None]:
        """Take, inside a block, what bodies leave."""
        return collecting(self._flow_run_id, self._take)

    @property
    def has_taken_some(self) -> bool:
        """Whether there has been anything to send."""
        return self._count > 0

    @property
    def has_some(self) -> bool:
        """Whether artifacts wait to be sent."""
        return bool(self._waiting)

    def _take(self, left: Artifact) -> None:  # from any thread
        self._count += 1
        key = left.task_run_id, left.kind, self._count if left.name is None else left.name
        if key not in self._waiting and len(self._waiting) >= _MOST:
            self._dropped += 1
            return
        self._waiting[key] = msgspec.structs.replace(left, data=_masked(left.data))
        if self._shipping is None:
            with suppress(RuntimeError):  # from a thread that has outlived the loop
                self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._shipping is None and not self._is_closed:
            self._shipping = self._loop.create_task(self._ship())

    async def _ship(self) -> None:
        while True:
            await undisturbed(self._send(), self._grace)
            await anyio.sleep(_INTERVAL)

    async def _send(self) -> None:
        """Send all that waits; what cannot be sent now waits for the next time."""
        for key, left in list(self._waiting.items()):
            try:
                if key in self._ids:
                    await self._backend.update_task_run_artifact(self._ids[key], left.data)
                else:
                    made = await self._backend.create_task_run_artifact(left.task_run_id, left.kind, left.data)
                    if left.name is not None:
                        self._ids[key] = made
            except BackendUnavailable:
                return
            except Exception as error:
                _log.warning("an artifact (%s) of flow run %s is not recorded: %s", left.kind, self._flow_run_id, error)
            if self._waiting.get(key) is left:
                del self._waiting[key]

    async def close(self) -> None:
        """Send the rest, and say what was not stored, if anything was not."""
        self._is_closed = True
        if self._shipping is not None:
            self._shipping.cancel()
            await asyncio.wait((self._shipping,))
        try:
            await self._send()
        finally:
            missing = len(self._waiting) + self._dropped
            if missing:
                _log.warning(
                    "%d artifacts of flow run %s were dropped: they are not stored", missing, self._flow_run_id
                )


def _masked(data: Any) -> Any:
    if isinstance(data, str):
        return masked(data)
    if isinstance(data, list):
        return [_masked(one) for one in data]
    return {masked(key): _masked(one) for key, one in data.items()} if isinstance(data, dict) else data
