"""A process that does nothing, to be weighed: bare, with the engine imported, or with a backend open."""

from __future__ import annotations

import importlib
import os
import sys

__all__ = ["resident"]


def resident(process: int | str = "self") -> int:
    """Return the bytes of a process that are in memory."""
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _weigh(what: str, *arguments: str) -> int:
    if what == "bare":
        return resident()
    if what == "engine":
        importlib.import_module("flowloop.engine")
        return resident()
    import asyncio

    return asyncio.run(_opened(*arguments))


async def _opened(url: str, home: str) -> int:
    from flowloop.backends import connect
    from flowloop.engine import Settings

    async with connect(url, settings=Settings(home=home)):
        return resident()


if __name__ == "__main__":
    print(f'{{"bytes": {_weigh(*sys.argv[1:])}}}')
