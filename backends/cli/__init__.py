"""The command line: thin, over `flowloop.engine` and `flowloop.backends`."""

from __future__ import annotations

import os
import sys
import threading

__all__ = ["main"]

_FROM_THE_EXTRA = {"aiosqlite", "alembic", "click", "rich", "sqlalchemy", "starlette", "uvicorn"}
_LAST_GRACE = 1.0


def main() -> None:
    """Run the command ``flowloop``."""
    try:
        from .commands import flowloop

        flowloop(prog_name="flowloop")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _FROM_THE_EXTRA:
            raise
        sys.exit("Error: the command line needs an extra that is not installed: pip install 'flowloop[cli]'")
    except KeyboardInterrupt:
        # in the imports above: the commands see to it themselves
        sys.stderr.write("flowloop: interrupted\n")
        sys.exit(130)
    except SystemExit as end:
        _leave_abandoned_threads(end.code if isinstance(end.code, int) else 0)
        raise


def _leave_abandoned_threads(code: int) -> None:
    """End the process although a synchronous body still works in its thread: its end is recorded already."""
    for thread in threading.enumerate():
        if thread is threading.main_thread() or thread.daemon:
            continue
        thread.join(_LAST_GRACE)
        if thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
