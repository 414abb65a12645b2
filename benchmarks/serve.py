"""A server for the benchmarks, in a process of its own: prints its URL, then serves until it is stopped."""

from __future__ import annotations

import sys
from typing import Any

import uvloop

from flowloop.backends.server.run import serve, settle


async def _announce(url: str) -> None:
    settle()
    print(url, flush=True)


if __name__ == "__main__":
    options: dict[str, Any] = {"synchronous": sys.argv[2]} if len(sys.argv) > 2 else {}
    uvloop.run(serve(sys.argv[1], port=0, started=_announce, **options))
