"""The command line: thin, over `flowloop.engine` and `flowloop.backends`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command ``flowloop``."""
    try:
        from .commands import flowloop
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("Error: the command line needs an extra that is not installed: pip install 'flowloop[cli]'")
    flowloop(prog_name="flowloop")
