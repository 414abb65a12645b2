"""Sending the lines that a flow run logs to its backend."""

from __future__ import annotations

import datetime
import logging
from collections import deque

import anyio

from ..backend import Backend, LogRecord
from ..errors import BackendError

__all__ = ["LogShipper"]

_WAITING = 10_000
_BATCH = 500
_log = logging.getLogger("flowloop.logs")


class LogShipper(logging.Handler):
    """Collects the lines of one flow run, and sends them in the background.

    It never makes the run wait: when lines come faster than they are sent, the oldest are dropped and counted.

    Args:
        - backend: where the lines go
        - flow_run_id: the flow run
    """

    def __init__(self, backend: Backend, flow_run_id: str) -> None:
        super().__init__()
        self._backend = backend
        self._flow_run_id = flow_run_id
        self._lines: deque[LogRecord] = deque(maxlen=_WAITING)
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, if it is one of this flow run's."""
        if getattr(record, "flow_run_id", None) != self._flow_run_id:
            return
        self.dropped += len(self._lines) == self._lines.maxlen
        self._lines.append(
            LogRecord(
                flow_run_id=self._flow_run_id,
                task_run_id=getattr(record, "task_run_id", None),
                timestamp=datetime.datetime.fromtimestamp(record.created, datetime.UTC),
                name=record.name,
                level=record.levelname,
                message=self.format(record),
            )
        )

    async def ship(self, interval: float) -> None:
        """Send what there is every `interval` seconds, until cancelled."""
        while True:
            await anyio.sleep(interval)
            await self.send()

    async def send(self) -> None:
        """Send all lines that wait; those that cannot be sent wait for the next time."""
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(_BATCH, len(self._lines)))]
            try:
                await self._backend.write_run_logs(batch)
            except BackendError as error:
                self._lines.extendleft(reversed(batch))
                _log.warning("%d log lines of flow run %s wait: %s", len(self._lines), self._flow_run_id, error)
                return
