"""Serving the application: what ``flowloop server`` does."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import uvicorn
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ...engine.errors import FlowloopError
from .app import create_app, open_store
from .deadlines import close_overdue, protocol_with, room_for
from .errors import BadRequest
from .operations import version
from .settings import ServerSettings

__all__ = ["serve", "settle"]

logger = logging.getLogger("flowloop.server")

_YOUNG_OBJECTS = 10_000

_TICKS = 5
"""So many ticks of the server, each a tenth of a second, lie between two looks for slow connections."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def serve(
    db_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 4200,
    settings: ServerSettings | None = None,
    started: Callable[[str], Awaitable[None]] | None = None,
    **store_options: Any,
) -> None:
    """Serve a database until SIGINT or SIGTERM, then finish the requests that have begun.

    API keys are asked for, unless the address is loopback and the settings do not want them there either. Secrets are
    encrypted with the environment variable ``FLOWLOOP_SECRET_KEY``.

    Args:
        - db_url: ``sqlite:///FILE`` or ``postgresql://user@host/database``
        - host: the address to listen on
        - port: the port; 0 takes a free one
        - settings: limits and services
        - started: called with the URL once the server listens
        - store_options: further arguments of `Store`, ``synchronous`` and ``next_events`` for instance

    Raises:
        - FlowloopError: if the port is in use or the database cannot be used: one line that says why
    """
    settings = _with_keys(settings or ServerSettings(), host)
    room = room_for(settings.connection_limit)
    few = "" if room == settings.connection_limit else f"; {room} connections at most, as few files may be open"
    settings = msgspec.structs.replace(settings, connection_limit=room)
    with contextlib.closing(_listen(host, port)) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        async with open_store(db_url, **store_options) as store:
            starlette = create_app(store, settings=settings)
            app: ASGIApp = starlette if settings.require_api_key else _LocalNames(starlette, host)
            keys = "API keys are required" if settings.require_api_key else "no API keys: open to this machine"
            logger.info("flowloop %s serves %s at %s (%s)%s", version(), store.url, url, keys, few)
            server = _Server(_config(app, settings), starlette.state.live.close, started, url)
            await server.serve(sockets=[listener])
    if not server.was_started:
        raise FlowloopError("the server could not start: the log says why")


def settle() -> None:
    """Have the garbage collector leave alone what is there now: for a process that serves and does nothing else.

    Batches come by the thousand objects, and to look through all modules again for each few of them is a pause that
    every client feels.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def _with_keys(settings: ServerSettings, host: str) -> ServerSettings:
    local = _is_loopback(host)
    wanted = not local if settings.require_api_key is None else settings.require_api_key
    if not wanted and not local:
        raise FlowloopError(f"without API keys the server listens on loopback only, not on {host}")
    return msgspec.structs.replace(settings, require_api_key=wanted)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlowloopError(f"cannot listen on {host} port {port}: {reason}") from error


def _config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol_with(settings),
        ws="websockets-sansio",
        ws_max_size=settings.body_limit,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
    )


class _Server(uvicorn.Server):
    """A server that ends its subscriptions when it is told to stop, and then by itself."""

    def __init__(
        self,
        config: uvicorn.Config,
        close: Callable[[], Awaitable[None]],
        announce: Callable[[str], Awaitable[None]] | None,
        url: str,
    ) -> None:
        super().__init__(config)
        self.was_started = False
        self._close = close
        self._announce = announce
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.was_started = self.started
        if self.started and self._announce is not None:
            await self._announce(self._url)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:
            close_overdue(self.server_state.connections)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal. The base class would raise it once more after a clean end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _LocalNames:
    """Refuses requests under any other name than this machine's own.

    A page of another site can have its own name point here, and would reach an open server with it.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_local(Headers(scope=scope).get("host", "")):
            error = BadRequest("An open server is reached as localhost only.", "FORBIDDEN", status=403)
            await Response(msgspec.json.encode(error.answer()), error.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_local(self, name: str) -> bool:
        bare = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        return bare == self._host or _is_loopback(bare)
