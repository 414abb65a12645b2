"""The services of a server."""

from __future__ import annotations

import datetime
from typing import Any

from .. import services
from ..notifier import Notifier, Sender
from ..services import Service
from ..store import ANYONE, Store
from ..store.services import forget
from .metrics import Metrics
from .settings import ServerSettings

__all__ = ["Services"]


class Services(services.Services):
    """Scheduler, zombie killer, Lazarus, notifier and retention.

    Args:
        - store: what they work on; its clock says what is due
        - settings: which of them run, and how often
        - metrics: where their passes are counted
    """

    def __init__(self, store: Store, settings: ServerSettings, metrics: Metrics) -> None:
        super().__init__(store, _services(store, settings), metrics.count_pass)


def _services(store: Store, on: ServerSettings) -> list[Service]:
    chosen: list[Service] = []
    if on.scheduler:
        chosen.append(Service("scheduler", on.scheduler_seconds, store.run_scheduler))
    if on.zombie_killer:
        chosen.append(Service("zombie_killer", on.zombie_killer_seconds, lambda: store.kill_zombies(ANYONE)))
    if on.lazarus:
        chosen.append(Service("lazarus", on.lazarus_seconds, lambda: store.revive(ANYONE)))
    if on.notifications:
        sender = Sender(smtp_url=on.smtp_url, mail_from=on.mail_from, page=on.page_url)
        chosen.append(Service("notifier", on.notifications_seconds, lambda: Notifier(store, sender).once()))
    if on.retention:
        chosen.append(Service("retention", on.retention_seconds, lambda: _prune(store, on.retention_days)))
    return chosen


async def _prune(store: Store, days: float | None) -> Any:
    if days is not None:
        return await store.prune(datetime.timedelta(days=days))
    return await store.write(ANYONE, forget)
