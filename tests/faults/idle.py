"""Connections that are opened and then say nothing: most are bare WebSockets; one in ten subscribes, and one streams.

As a script: ``python -m tests.faults.idle URL FLOW_RUN_ID COUNT``. It says ``open`` when all are; after a line of stdin
``heard`` when all that listen have heard of a state ``Running``; and in the end how they were closed, ``HOW:COUNT``.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import urllib.parse
from collections import Counter
from contextlib import suppress

import anyio
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from .mapped import to_pipe

OPENED_AT_ONCE = 32

_SUBSCRIPTION = "subscription ($id: UUID!) { run_states(flow_run_id: $id) { state } }"


class Idle:
    """Connections to one server, all about one flow run."""

    def __init__(self, url: str, flow_run_id: str, count: int) -> None:
        self._url = urllib.parse.urlsplit(url)
        self._flow_run_id = flow_run_id
        self._room = asyncio.Semaphore(OPENED_AT_ONCE)
        self._count = count
        self.all_open = asyncio.Event()
        self.all_heard = asyncio.Event()
        self._opened = 0
        self._heard = 0
        self._listeners = 0
        self.ends: Counter[str] = Counter()

    async def hold(self, number: int) -> None:
        """Open a connection and keep it until the server closes it."""
        kind = number % 10
        self.ends[await (self._stream() if kind == 1 else self._socket(subscribes=kind == 0))] += 1

    async def _socket(self, *, subscribes: bool) -> str:
        await self._room.acquire()
        url = f"ws://{self._url.netloc}/"
        async with connect(url, subprotocols=["graphql-transport-ws"], ping_interval=None, open_timeout=None) as socket:  # type: ignore[list-item]
            await socket.send(b'{"type": "connection_init"}', text=True)
            await socket.recv()
            if subscribes:
                asked = {"query": _SUBSCRIPTION, "variables": {"id": self._flow_run_id}}
                sent = {"type": "subscribe", "id": "1", "payload": asked}
                await socket.send(msgspec.json.encode(sent), text=True)
                await socket.recv()
                self._listeners += 1
            self._has_opened()
            with suppress(ConnectionClosed):
                while True:
                    self._hear(await socket.recv(decode=False))
        return f"{socket.close_code}"

    async def _stream(self) -> str:
        await self._room.acquire()
        assert self._url.hostname is not None
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        writer.write(f"GET /events?flow_run_id={self._flow_run_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readuntil(b"data: ")
        self._listeners += 1
        self._has_opened()
        while line := await reader.readline():
            self._hear(line)
        writer.close()
        return "cut"

    def _has_opened(self) -> None:
        self._opened += 1
        self._room.release()
        if self._opened == self._count:
            self.all_open.set()

    def _hear(self, message: bytes) -> None:
        self._heard += b'"Running"' in message
        if self._heard == self._listeners:
            self.all_heard.set()


async def main(url: str, flow_run_id: str, count: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    idle = Idle(url, flow_run_id, int(count))
    async with anyio.create_task_group() as group:
        for number in range(int(count)):
            group.start_soon(idle.hold, number)
        await idle.all_open.wait()
        to_pipe("open")
        await anyio.to_thread.run_sync(sys.stdin.readline)
        await idle.all_heard.wait()
        to_pipe("heard")
    to_pipe(" ".join(f"{end}:{number}" for end, number in sorted(idle.ends.items())))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
