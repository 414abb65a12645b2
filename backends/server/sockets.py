"""GraphQL over a WebSocket: the protocol ``graphql-transport-ws``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect

from .auth import Authenticator, Identity, is_same_origin
from .errors import BadRequest, ShuttingDown
from .execution import Execution, GraphQLRequest
from .live import Live
from .metrics import Metrics
from .request import Budget, Call
from .settings import ServerSettings

__all__ = ["PROTOCOL", "Sockets"]

PROTOCOL = "graphql-transport-ws"

_INIT_SECONDS = 10.0
_OPERATIONS = 100
_TYPES = {"connection_init", "ping", "pong", "subscribe", "complete"}
_RESTART = 1012
_SAID = {"authorization", "x-flowloop-client-id", "x-prefect-agent-id", "x-prefect-core-version", "x-prefect-tenant-id"}
"""The headers that may be sent in the first message instead, because browsers set none; others are a proxy's to set."""

_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    type: str
    id: str | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")


class _Closed(Exception):
    """The client broke the protocol."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Sockets:
    """Answers WebSockets."""

    def __init__(
        self,
        settings: ServerSettings,
        execution: Execution,
        authenticator: Authenticator,
        live: Live,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._settings = settings
        self._execution = execution
        self._authenticator = authenticator
        self._live = live

    async def endpoint(self, socket: WebSocket) -> None:
        """Answer one connection, until either side closes it."""
        if not is_same_origin(socket.headers, self._authenticator.allowed_origins) or PROTOCOL not in socket.scope.get(
            "subprotocols", ()
        ):
            await socket.close(4406, f"Subprotocol not acceptable: use {PROTOCOL}")
            return
        await socket.accept(PROTOCOL)
        connection = _Connection(self, socket)
        async with anyio.create_task_group() as group:
            await connection.serve(group)
            group.cancel_scope.cancel()
        if connection.closing is not None:
            with suppress(WebSocketDisconnect):  # the other side has gone first
                await socket.close(connection.closing.code, connection.closing.reason)

    async def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return who opens a connection."""
        return await self._authenticator.identify(headers)

    async def until_revoked(self, headers: Mapping[str, str]) -> str:
        """Return why a connection is to be closed, as soon as its API key counts no more."""
        return await self._authenticator.until_revoked(headers)

    async def answers(self, request: GraphQLRequest, identity: Identity) -> AsyncGenerator[dict[str, Any] | None]:
        """Yield the answers of an operation: one, or those of a subscription."""
        try:
            operation, variables = self._execution.prepare(request)
        except BadRequest:
            self._metrics.count_request("none", 400, errors=True)
            raise
        budget = Budget(self._settings)
        call = Call(store=self._authenticator.store, identity=identity, budget=budget)
        if operation.kind != "subscription":
            whole: dict[str, Any] | None = None
            # What has begun is finished, also for a client that has gone.
            with anyio.CancelScope(shield=True):
                whole = await self._execution.execute(operation, variables, call)
            self._metrics.count_request(operation.kind, errors=whole is not None and "errors" in whole)
            yield whole
            return
        self._metrics.count_request("subscription")
        async with aclosing(self._live.subscribe(operation, variables, call)) as answers:
            async for answer in answers:
                yield answer

    @property
    def message_limit(self) -> int:
        """How many bytes a message may have."""
        return self._settings.body_limit


class _Connection:
    """One WebSocket with its running operations."""

    def __init__(self, sockets: Sockets, socket: WebSocket) -> None:
        self._sockets = sockets
        self._socket = socket
        self._identity = Identity(None)
        self._running: dict[str, anyio.CancelScope] = {}
        self.closing: _Closed | None = None
        """Why the connection is to be closed; None as long as it is not, or if the client has closed it."""

    async def serve(self, group: TaskGroup) -> None:
        """Answer until the connection ends, or is to be closed."""
        try:
            headers = await self._open()
            group.start_soon(self._watch, headers, group.cancel_scope)
            while True:
                await self._handle(await self._receive(), group)
        except WebSocketDisconnect:
            return
        except _Closed as closing:
            self.closing = closing

    async def _open(self) -> Mapping[str, str]:
        message: _Message | None = None
        with anyio.move_on_after(_INIT_SECONDS):
            message = await self._receive()
            while message.type in ("ping", "pong"):
                await self._answer_ping(message)
                message = await self._receive()
        if message is None:
            raise _Closed(4408, "Connection initialisation timeout")
        if message.type not in _TYPES:
            raise _Closed(4400, "Invalid message received")
        if message.type != "connection_init":
            raise _Closed(4401, "Unauthorized")
        headers = {**_said(message.payload), **dict(self._socket.headers)}
        self._identity = await self._sockets.identify(headers)
        if self._identity.caller is None:
            raise _Closed(4403, f"Forbidden: {self._identity.refusal}")
        await self._send(type="connection_ack")
        return headers

    async def _watch(self, headers: Mapping[str, str], connection: anyio.CancelScope) -> None:
        self._close(_Closed(4403, f"Forbidden: {await self._sockets.until_revoked(headers)}"), connection)

    def _close(self, why: _Closed, connection: anyio.CancelScope) -> None:
        self.closing = why
        connection.cancel()

    async def _answer_ping(self, message: _Message) -> None:
        if message.type == "ping":
            await self._send(type="pong")

    async def _handle(self, message: _Message, group: TaskGroup) -> None:
        if message.type in ("ping", "pong"):
            await self._answer_ping(message)
        elif message.type == "connection_init":
            raise _Closed(4429, "Too many initialisation requests")
        elif message.type == "complete" and message.id is not None:
            scope = self._running.pop(message.id, None)
            if scope is not None:
                scope.cancel()
        elif message.type == "subscribe" and message.id is not None:
            if message.id in self._running:
                raise _Closed(4409, f"Subscriber for {message.id[:80]} already exists")
            if len(self._running) >= _OPERATIONS:
                # the others on this connection go on
                refused = BadRequest(f"There are {_OPERATIONS} operations on this connection already.", "BAD_REQUEST")
                await self._send(id=message.id, type="error", payload=refused.answer()["errors"])
                return
            try:
                request = msgspec.json.decode(message.payload, type=GraphQLRequest)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                raise _Closed(4400, "Invalid message received") from None
            self._running[message.id] = anyio.CancelScope()
            group.start_soon(self._run, message.id, request, self._running[message.id], group.cancel_scope)
        else:
            raise _Closed(4400, "Invalid message received")

    async def _run(
        self, name: str, request: GraphQLRequest, scope: anyio.CancelScope, connection: anyio.CancelScope
    ) -> None:
        with scope:
            try:
                async with aclosing(self._sockets.answers(request, self._identity)) as answers:
                    async for answer in answers:
                        if answer is not None:
                            await self._send(id=name, type="next", payload=answer)
                await self._send(id=name, type="complete")
            except BadRequest as error:
                await self._send(id=name, type="error", payload=error.answer()["errors"])
            except ShuttingDown as error:
                # a client that reads an error, or a complete, subscribes no more; after this code it comes back
                self._close(_Closed(_RESTART, str(error)), connection)
            except WebSocketDisconnect:
                return
        if self._running.get(name) is scope:
            del self._running[name]

    async def _receive(self) -> _Message:
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1000))
        text = event.get("text")
        if text is None or len(text) > self._sockets.message_limit:
            raise _Closed(4400, "Invalid message received")
        try:
            return msgspec.json.decode(text, type=_Message)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise _Closed(4400, "Invalid message received") from None

    async def _send(self, **message: Any) -> None:
        try:
            await self._socket.send_text(_encode(message).decode())
        except RuntimeError:  # it was closed meanwhile
            raise WebSocketDisconnect(1006) from None


def _said(payload: msgspec.Raw) -> dict[str, str]:
    """Return the headers that the first message of a connection carries."""
    try:
        extra = msgspec.json.decode(payload, type=dict[str, Any] | None) or {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _Closed(4400, "Invalid message received") from None
    return {name.lower(): value for name, value in extra.items() if isinstance(value, str) and name.lower() in _SAID}
