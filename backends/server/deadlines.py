"""Connections that are slow, or too many, are closed: each costs memory and a descriptor as long as it is open."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .settings import ServerSettings

__all__ = ["close_overdue", "protocol_with"]

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 30\r\n\r\nThere are too many connections"
)


class _Deadlines(HttpToolsProtocol):
    """HTTP, where a request has to arrive in time. It notes when it is due; who is overdue is found in one walk."""

    header_seconds: float
    body_seconds: float
    connection_limit: int
    due = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.due = time.monotonic() + self.header_seconds
        if len(self.connections) > self.connection_limit:
            transport.write(_FULL)
            transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.due = min(self.due, time.monotonic() + self.header_seconds)

    def on_headers_complete(self) -> None:
        self.due = time.monotonic() + self.body_seconds
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.due = math.inf
        super().on_message_complete()


def protocol_with(settings: ServerSettings) -> type[asyncio.Protocol]:
    """Return what speaks HTTP within these limits."""
    limits = {name: getattr(settings, name) for name in ("header_seconds", "body_seconds", "connection_limit")}
    return type("Deadlines", (_Deadlines,), limits)


def close_overdue(connections: Iterable[Any]) -> None:
    """Close the connections whose request has not arrived in time."""
    now = time.monotonic()
    for connection in tuple(connections):
        if getattr(connection, "due", math.inf) < now:
            connection.transport.abort()
