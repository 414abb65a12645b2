"""How the command line writes log lines."""

from __future__ import annotations

import datetime
import logging

from rich.console import Console
from rich.text import Text

from ...engine.errors import FlowloopError
from ...engine.settings import Settings
from .display import safe

__all__ = ["set_up_logging"]


class _Lines(logging.Formatter):
    """Names the task that a line is of, and lets no line do anything to a terminal but show."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        name = getattr(record, "task_name", None)
        if name and not record.message.startswith(name):
            record.message = f"{name}: {record.message}"
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record), lines=True)


def set_up_logging(settings: Settings, console: Console, *, quiet: bool = False) -> None:
    """Write what flowloop logs to a console.

    Args:
        - settings: say from which level on
        - console: where to
        - quiet: whether to write nothing; what is recorded is recorded all the same

    Raises:
        - FlowloopError: for a level that there is not
    """
    levels = logging.getLevelNamesMapping()
    level = levels.get(settings.log_level.upper())
    if level is None:
        raise FlowloopError(f"FLOWLOOP_LOG_LEVEL is one of {', '.join(levels)}, not {settings.log_level!r}")
    logger = logging.getLogger("flowloop")
    logger.setLevel(level)
    logger.handlers = [logging.NullHandler() if quiet else _handler(console)]
    logger.propagate = False


class _Terminal(logging.Handler):
    """Writes lines above what is kept up to date in a terminal. It breaks none: a path stays one that is found."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else "dim"
        time = f"{datetime.datetime.fromtimestamp(record.created).astimezone():%H:%M:%S}"
        line = Text.assemble((time, "dim"), " ", (f"{safe(record.levelname):<7}", style), " ", self.format(record))
        self._console.print(line, soft_wrap=True)


def _handler(console: Console) -> logging.Handler:
    handler = _Terminal(console) if console.is_terminal else logging.StreamHandler(console.file)
    layout = "%(message)s" if console.is_terminal else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(_Lines(layout))
    return handler
