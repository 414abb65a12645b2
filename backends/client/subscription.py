"""Subscriptions: the protocol ``graphql-transport-ws`` over a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from ...engine.errors import BackendUnavailable, DialectError
from .transport import error_of

__all__ = ["subscribe"]

_PROTOCOL = Subprotocol("graphql-transport-ws")
_LONGEST_MESSAGE = 16_000_000
_CLOSE_TIMEOUT = 1.0


@asynccontextmanager
async def subscribe(
    url: str, text: str, variables: Mapping[str, Any], headers: Mapping[str, str], timeout: float
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Open a subscription: an iterator over the ``data`` of its events, which ends when the connection does.

    Args:
        - url: that of the server, ``http`` or ``https``
        - text: the document
        - variables: its variables
        - headers: sent with the handshake
        - timeout: seconds that opening may take

    Raises:
        - BackendUnavailable: if the connection cannot be opened
        - BackendRejected: if the server refuses the subscription
    """
    try:
        connection = await connect(
            url.replace("http", "ws", 1),
            subprotocols=[_PROTOCOL],
            additional_headers=dict(headers),
            open_timeout=timeout,
            close_timeout=_CLOSE_TIMEOUT,
            max_size=_LONGEST_MESSAGE,
        )
    except (OSError, WebSocketException) as error:
        raise BackendUnavailable(f"{url}: no subscription: {error}") from error
    try:
        await _open(connection, url, text, variables)
        async with aclosing(_events(connection, url)) as events:
            yield events
    finally:
        with anyio.CancelScope(shield=True):
            await connection.close()


async def _open(connection: ClientConnection, url: str, text: str, variables: Mapping[str, Any]) -> None:
    try:
        await _send(connection, type="connection_init")
        if (await _receive(connection)).get("type") != "connection_ack":
            raise DialectError(f"{url} does not speak {_PROTOCOL}")
        await _send(connection, id="1", type="subscribe", payload={"query": text, "variables": dict(variables)})
    except ConnectionClosed as error:
        raise BackendUnavailable(f"{url}: no subscription: {error}") from error


async def _events(connection: ClientConnection, url: str) -> AsyncGenerator[dict[str, Any], None]:
    while True:
        try:
            message = await _receive(connection)
            kind = message.get("type")
            if kind == "next":
                payload = message["payload"]
                if payload.get("errors"):
                    raise error_of(payload["errors"], url)
                yield payload["data"]
            elif kind == "ping":
                await _send(connection, type="pong")
            elif kind == "error":
                raise error_of(message["payload"], url)
            elif kind == "complete":
                return
        except ConnectionClosed:
            return


async def _send(connection: ClientConnection, **message: Any) -> None:
    await connection.send(msgspec.json.encode(message).decode())


async def _receive(connection: ClientConnection) -> dict[str, Any]:
    try:
        message = msgspec.json.decode(await connection.recv())
    except msgspec.DecodeError as error:
        raise DialectError(f"a message of the subscription is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise DialectError(f"a message of the subscription is no object: {message!r}")
    return message
