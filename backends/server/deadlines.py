"""Connections that are slow, or too many, are closed: each costs memory and a descriptor as long as it is open."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .settings import ServerSettings

try:
    import resource
except ImportError:  # not on Windows, which has no such limit
    resource = None  # type: ignore[assignment]

__all__ = ["close_overdue", "protocol_with", "room_for"]

_OTHER_FILES = 100
"""For so many files beside connections there is room: those of the database, of results, and of the interpreter."""

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


def room_for(connections: int) -> int:
    """Have this process open as many files as that many connections need, as far as the system lets it.

    A login, or a service, often has 1,024 of the many thousands that it may ask for. Without a file for it a connection
    is dropped without a word, and a database cannot be opened.

    Args:
        - connections: how many there may be

    Returns:
        - int: how many there is room for
    """
    if resource is None:
        return connections
    wanted = connections + _OTHER_FILES
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _is_enough(now, wanted):
        now = wanted if _is_enough(most, wanted) else most
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))
        except (ValueError, OSError):  # macOS allows fewer than it says
            now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if _is_enough(now, wanted) else max(1, now - _OTHER_FILES)


def _is_enough(limit: int, wanted: int) -> bool:
    return limit >= wanted or (resource is not None and limit == resource.RLIM_INFINITY)
