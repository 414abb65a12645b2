"""What has to happen now and then in a database: in one process at a time, by a lease in it.

A server does it, and where there is none, what lives long and has the database open: a `Worker`, a `Recovery`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from ..engine.backend import Backend
from ..engine.errors import BackendUnavailable

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Service", "Services", "look_after"]

_LOOK_AFTER = 30.0
_REVIVE = 600.0
_PLAN = 150.0
_FORGET = 3_600.0

logger = logging.getLogger("flowloop.services")


class Service(NamedTuple):
    """One of them.

    Args:
        - name: its name, which is that of its lease
        - seconds: how often
        - work: makes a pass
    """

    name: str
    seconds: float
    work: Callable[[], Awaitable[Any]]


class Services:
    """Services, each a loop of its own.

    Before each pass a loop takes a lease in the database; who does not get it leaves this pass to the process that has
    it. A pass that fails is logged, and the next one comes all the same.

    Args:
        - store: what they work on; its clock says what is due
        - services: what is to happen
        - counted: is told of each pass: of which service, and ``"made"`` or ``"failed"``
    """

    def __init__(
        self, store: Store, services: Sequence[Service], counted: Callable[[str, str], None] | None = None
    ) -> None:
        self._store = store
        self._services = {service.name: service for service in services}
        self._counted = counted
        self._holder = uuid.uuid4().hex

    async def run(self) -> None:
        """Run the services until cancelled; then let other processes have their leases."""
        try:
            async with anyio.create_task_group() as group:
                for service in self._services.values():
                    group.start_soon(self._loop, service, name=f"flowloop {service.name}")
        finally:
            with anyio.move_on_after(2, shield=True):
                for name in self._services:
                    await self._release(name)

    async def _loop(self, service: Service) -> None:
        while True:
            begun = anyio.current_time()
            await self.run_once(service.name)
            await anyio.sleep(max(service.seconds - (anyio.current_time() - begun), service.seconds / 10))

    async def run_once(self, name: str) -> bool:
        """Make one pass of a service, unless another process has its lease; return whether it was made."""
        from .store import ANYONE

        service = self._services[name]
        # The lease outlives the wait for the next pass, and not by much: a process that dies is soon replaced.
        seconds = service.seconds * 1.5 + 5
        try:
            if not await self._store.acquire_lease(ANYONE, service=name, holder=self._holder, seconds=seconds):
                return False
            result = await service.work()
        except BackendUnavailable as error:
            logger.warning("the %s has to wait: %s", name, error)
            return self._count(name, "failed")
        except Exception:
            logger.exception("the %s failed; it goes on with its next pass", name)
            return self._count(name, "failed")
        logger.debug("the %s has done its work: %s", name, result)
        return self._count(name, "made")

    def _count(self, name: str, outcome: str) -> bool:
        if self._counted is not None:
            self._counted(name, outcome)
        return outcome == "made"

    async def _release(self, name: str) -> None:
        from .store import ANYONE

        try:
            await self._store.release_lease(ANYONE, service=name, holder=self._holder)
        except BackendUnavailable as error:
            logger.warning("the lease of the %s could not be given back: %s", name, error)


async def look_after(backend: Backend) -> None:
    """Do what has to happen in the database that a backend has open, until cancelled; of any other, nothing.

    Runs are planned after schedules where the backend was opened to do so.
    """
    store: Store | None = getattr(backend, "store", None)
    if store is None:
        return
    from .store import ANYONE
    from .store.services import forget

    services = [
        Service("zombie_killer", _LOOK_AFTER, lambda: store.kill_zombies(ANYONE)),
        Service("lazarus", _REVIVE, lambda: store.revive(ANYONE)),
        Service("retention", _FORGET, lambda: store.write(ANYONE, forget)),
    ]
    if store.plans:
        services.append(Service("scheduler", _PLAN, store.run_scheduler))
    await Services(store, services).run()
