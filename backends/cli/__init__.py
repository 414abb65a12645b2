"""The command line: thin, over `flowloop.engine` and `flowloop.backends`."""

from __future__ import annotations

import sys

__all__ = ["main"]

_FROM_THE_EXTRA = {"aiosqlite", "alembic", "click", "rich", "sqlalchemy", "starlette", "uvicorn"}


def main() -> None:
    """Run the command ``flowloop``."""
    try:
        from .commands import flowloop

        flowloop(prog_name="flowloop")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _FROM_THE_EXTRA:
            raise
        sys.exit("Error: the command line needs an extra that is not installed: pip install 'flowloop[cli]'")
