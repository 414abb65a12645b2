"""The loops of the server: what has to happen now and then, in one server process at a time."""

from __future__ import annotations

import datetime
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import anyio

from ...engine.errors import BackendUnavailable
from ..notifier import Notifier, Sender
from ..store import ANYONE, Store
from ..store.services import forget
from .metrics import Metrics
from .settings import ServerSettings

__all__ = ["Services"]

logger = logging.getLogger("flowloop.server")


class _Service(NamedTuple):
    name: str
    seconds: float
    work: Callable[[], Awaitable[Any]]


class Services:
    """Scheduler, zombie killer, Lazarus, notifier and retention: each a loop of its own.

    Before each pass a loop takes a lease in the database; who does not get it leaves this pass to the process that has
    it. A pass that fails is logged, and the next one comes all the same.

    Args:
        - store: what they work on; its clock says what is due
        - settings: which of them run, and how often
        - metrics: where their passes are counted
    """

    def __init__(self, store: Store, settings: ServerSettings, metrics: Metrics) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._holder = uuid.uuid4().hex

    def _services(self) -> list[_Service]:
        on, store = self._settings, self._store
        services: list[_Service] = []
        if on.scheduler:
            services.append(_Service("scheduler", on.scheduler_seconds, store.run_scheduler))
        if on.zombie_killer:
            services.append(_Service("zombie_killer", on.zombie_killer_seconds, lambda: store.kill_zombies(ANYONE)))
        if on.lazarus:
            services.append(_Service("lazarus", on.lazarus_seconds, lambda: store.revive(ANYONE)))
        if on.notifications:
            sender = Sender(smtp_url=on.smtp_url, mail_from=on.mail_from, page=on.page_url)
            services.append(_Service("notifier", on.notifications_seconds, Notifier(store, sender).once))
        if on.retention:
            services.append(_Service("retention", on.retention_seconds, self._prune))
        return services

    async def run(self) -> None:
        """Run the services until cancelled; then let other processes have their leases."""
        services = self._services()
        try:
            async with anyio.create_task_group() as group:
                for service in services:
                    group.start_soon(self._loop, service, name=f"flowloop {service.name}")
        finally:
            with anyio.move_on_after(2, shield=True):
                for service in services:
                    await self._release(service.name)

    async def _loop(self, service: _Service) -> None:
        while True:
            begun = anyio.current_time()
            await self.run_once(service.name)
            await anyio.sleep(max(service.seconds - (anyio.current_time() - begun), service.seconds / 10))

    async def run_once(self, name: str) -> bool:
        """Make one pass of a service, unless another process has its lease; return whether it was made."""
        service = next(service for service in self._services() if service.name == name)
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
        self._metrics.count_pass(name, outcome)
        return outcome == "made"

    async def _prune(self) -> Any:
        days = self._settings.retention_days
        if days is not None:
            return await self._store.prune(datetime.timedelta(days=days))
        return await self._store.write(ANYONE, forget)

    async def _release(self, name: str) -> None:
        try:
            await self._store.release_lease(ANYONE, service=name, holder=self._holder)
        except BackendUnavailable as error:
            logger.warning("the lease of the %s could not be given back: %s", name, error)
