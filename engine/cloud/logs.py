"""Sending the lines that a flow run logs to its backend."""

from __future__ import annotations

import datetime
import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from ..backend import Backend, LogRecord
from ..cancellation import undisturbed
from ..context import OwnLogger, text_of, unheard
from ..errors import BackendRejected, BackendUnavailable
from ..masking import masked
from ..serialization.text import storable

__all__ = ["LogShipper"]

_MOST_LINES = 100_000
_MOST_CHARACTERS = 50_000_000
_LONGEST_LINE = 100_000
"""What a line may have of them: one that drives out all others tells of nothing."""
_BATCH = 500
_LEVELS = (
    (logging.CRITICAL, "CRITICAL"),
    (logging.ERROR, "ERROR"),
    (logging.WARNING, "WARNING"),
    (logging.INFO, "INFO"),
    (logging.DEBUG, "DEBUG"),
)
_flowloop = logging.getLogger("flowloop")
_log = OwnLogger(logging.getLogger("flowloop.logs"))


class _LastResort(logging.Handler):
    """Does what logging does where nobody handles a line, which it does not while lines are collected here."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a warning to stderr, if no handler of the application would."""
        last_resort = logging.lastResort
        if last_resort is None or record.levelno < last_resort.level or any(_handlers_of_others(record.name)):
            return
        last_resort.handle(record)


def _handlers_of_others(name: str) -> Iterator[logging.Handler]:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from (handler for handler in logger.handlers if not isinstance(handler, (_Collector, _LastResort)))
        logger = logger.parent if logger.propagate else None


class _Collector(logging.Handler):
    """Hears what is logged while flow runs are under way: one for all of them, which hands each line to its run."""

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[logging.Logger, logging.Handler]] = [
            (_flowloop, self),
            (_flowloop, _LastResort()),
            (unheard, self),
        ]
        self._shippers: dict[str, tuple[LogShipper, ...]] = {}
        self._changing = threading.RLock()

    def add(self, run: str, shipper: LogShipper) -> None:
        """Hand lines of a flow run to a shipper."""
        with self._changing:
            self._shippers[run] = (*self._shippers.get(run, ()), shipper)
            # the application may have set its logging up anew since the run before
            if self not in _flowloop.handlers or self not in unheard.handlers:
                for logger, handler in self._places:
                    logger.addHandler(handler)

    def remove(self, run: str, shipper: LogShipper) -> None:
        """Hand it no more of them."""
        with self._changing:
            left = tuple([one for one in self._shippers.pop(run, ()) if one is not shipper])
            if left:
                self._shippers[run] = left
            if not self._shippers:
                for logger, handler in self._places:
                    logger.removeHandler(handler)

    def handle(self, record: logging.LogRecord) -> bool:
        """Hand a line on; nobody waits while another thread writes out a slow one."""
        run = getattr(record, "flow_run_id", None)
        for shipper in self._shippers.get(run, ()) if isinstance(run, str) else ():
            shipper.keep(record)
        return True


class LogShipper:
    """Collects the lines of one flow run, and sends them in the background.

    It never makes the run wait, and never fails it: a line that cannot be written out is kept as it was called. When
    lines come faster than they are sent, the oldest are dropped, and a line says how many.

    Args:
        - backend: where the lines go
        - flow_run_id: the flow run
    """

    def __init__(self, backend: Backend, flow_run_id: str) -> None:
        self._backend = backend
        self._flow_run_id = flow_run_id
        self._lines: deque[LogRecord] = deque()
        self._characters = 0
        self._counting = threading.RLock()  # what is finalized meanwhile may log, too
        self._dropped = 0
        self._refused = 0
        self._is_away = False
        self._is_broken = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what this flow run logs inside the block."""
        _collector.add(self._flow_run_id, self)
        try:
            yield
        finally:
            _collector.remove(self._flow_run_id, self)

    def keep(self, record: logging.LogRecord) -> None:
        """Keep a line of this flow run."""
        try:
            self._keep(self._line(record))
        except KeyboardInterrupt:
            raise
        except BaseException:  # whoever makes the records of an application may have made anything of this one
            self._refused += 1
            _collector.handleError(record)

    def _line(self, record: logging.LogRecord) -> LogRecord:
        task_run_id = getattr(record, "task_run_id", None)
        return LogRecord(
            flow_run_id=self._flow_run_id,
            task_run_id=storable(task_run_id) if isinstance(task_run_id, str) else None,
            timestamp=datetime.datetime.fromtimestamp(record.created, datetime.UTC),
            name=storable(record.name),
            level=next((name for level, name in _LEVELS if record.levelno >= level), "DEBUG"),
            message=_bounded(storable(masked(text_of(record, _collector.format)))),
        )

    def _keep(self, line: LogRecord) -> None:
        with self._counting:
            self._lines.append(line)
            self._characters += len(line.message)
            while len(self._lines) > _MOST_LINES or self._characters > _MOST_CHARACTERS:
                self._characters -= len(self._lines.popleft().message)
                self._dropped += 1

    async def ship(self, interval: float, grace: float) -> None:
        """Send what there is every `interval` seconds; once cancelled, a request under way has `grace` seconds."""
        while True:
            await anyio.sleep(interval)
            await undisturbed(self.send(), grace)

    async def send(self) -> None:
        """Send all lines that wait; those that cannot be sent now wait for the next time.

        After an error that is none of a backend's, or a cancel, there is no next time.
        """
        while not self._is_broken and (batch := self._take()):
            try:
                await self._write(batch)
            except BackendUnavailable as error:
                self._put_back(batch)
                if not self._is_away:
                    self._is_away = True
                    _log.warning("%d log lines of flow run %s wait: %s", len(self._lines), self._flow_run_id, error)
                return
            except BaseException:
                self._is_broken = True
                self._refused += len(batch)
                raise
            self._is_away = False

    @property
    def has_some(self) -> bool:
        """Whether lines wait to be sent."""
        return bool(self._lines)

    def conclude(self) -> None:
        """Say what was not stored, if anything was not."""
        missing = len(self._lines) + self._dropped + self._refused
        if missing:
            _log.warning("%d log lines of flow run %s were dropped: they are not stored", missing, self._flow_run_id)

    async def _write(self, batch: list[LogRecord]) -> None:
        """Store lines; a batch that is refused is halved until the line is found that the backend will not have."""
        try:
            await self._backend.write_run_logs(batch)
        except BackendRejected:
            if len(batch) == 1:
                self._refused += 1
                return
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])

    def _take(self) -> list[LogRecord]:
        """Take the next lines, and in the place of those that were dropped a line that says so."""
        with self._counting:
            batch = [self._lines.popleft() for _ in range(min(_BATCH, len(self._lines)))]
            self._characters -= sum(len(line.message) for line in batch)
            dropped, self._dropped = self._dropped, 0
        if dropped:
            batch.insert(0, self._notice(dropped, batch[0].timestamp))
        return batch

    def _put_back(self, batch: list[LogRecord]) -> None:
        with self._counting:
            self._lines.extendleft(reversed(batch))
            self._characters += sum(len(line.message) for line in batch)

    def _notice(self, dropped: int, moment: datetime.datetime) -> LogRecord:
        text = f"{dropped:,} lines were dropped here: they came faster than they could be stored"
        _log.warning("flow run %s: %s", self._flow_run_id, text)
        return LogRecord(self._flow_run_id, None, moment, _log.name, "WARNING", text)


_collector = _Collector()


def _bounded(text: str) -> str:
    """Return the text of a line; of one that is too long the beginning, and how long it is."""
    if len(text) <= _LONGEST_LINE:
        return text
    told = f" ... ({len(text):,} characters)"
    return text[: _LONGEST_LINE - len(told)] + told
