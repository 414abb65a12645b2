"""A proxy on loopback that loses things: for a share of the exchanges it does one of four evil deeds.

* ``before``: hangs up before the server has heard of the request
* ``after``: hangs up after the server has answered, so that only the answer is lost
* ``cut``: sends half of the answer and hangs up
* ``late``: keeps the answer until the client has given up waiting for it
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

DEEDS = ("before", "after", "cut", "late")


class Proxy:
    """Forwards HTTP requests to `url`, and spoils a `share` of them, chosen by `rng`.

    The next `away` requests find nobody there; `done` counts what became of all of them.
    """

    def __init__(self, url: str, share: float, rng: random.Random) -> None:
        self._target = urlsplit(url)
        self._share = share
        self._rng = rng
        self.away = 0
        self.done: Counter[str] = Counter()
        self._serving: set[asyncio.Task[None]] = set()

    def _choose(self) -> str:
        if self.away:
            self.away -= 1
            return "away"
        return self._rng.choice(DEEDS) if self._rng.random() < self._share else "fair"

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection by a task that is held: one that nobody holds may be gone in the middle of it."""
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def stop(self) -> None:
        """End what is still being served."""
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _message(reader):
                deed = self._choose()
                self.done[deed] += 1
                if deed in ("before", "away"):
                    return
                answer = await self._forward(request)
                if deed == "after":
                    return
                if deed == "late":
                    await reader.read(1)
                    return
                writer.write(answer[: len(answer) // 2] if deed == "cut" else answer)
                await writer.drain()
                if deed == "cut":
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        try:
            writer.write(request)
            await writer.drain()
            return await _message(reader)
        finally:
            writer.close()
            await writer.wait_closed()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read one HTTP message with a Content-Length; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return b""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head


@asynccontextmanager
async def proxied(url: str, share: float, rng: random.Random) -> AsyncIterator[tuple[str, Proxy]]:
    """Run a proxy before `url` while the block lasts, and give its own URL."""
    proxy = Proxy(url, share, rng)
    server = await asyncio.start_server(proxy.take, "127.0.0.1", 0, limit=16_000_000)
    async with server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy
        finally:
            await proxy.stop()
