"""GraphQL over a WebSocket: the protocol ``graphql-transport-ws``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect

from .auth import Authenticator, Identity, is_same_origin
from .errors import BadRequest
from .execution import Execution, GraphQLRequest
from .live import Live
from .request import Budget, Call
from .settings import ServerSettings

__all__ = ["PROTOCOL", "Sockets"]

PROTOCOL = "graphql-transport-ws"

_INIT_SECONDS = 10.0
_OPERATIONS = 100
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
        self, settings: ServerSettings, execution: Execution, authenticator: Authenticator, live: Live
    ) -> None:
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
        broken: _Closed | None = None
        async with anyio.create_task_group() as group:
            broken = await _Connection(self, socket).serve(group)
            group.cancel_scope.cancel()
        if broken is not None:
            await socket.close(broken.code, broken.reason)

    async def identify(self, socket: WebSocket, payload: msgspec.Raw) -> Identity:
        """Return who opens a connection: by its headers, or by those in its first message, as browsers must."""
        try:
            extra = msgspec.json.decode(payload, type=dict[str, Any] | None) or {}
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise _Closed(4400, "Invalid message received") from None
        said = {name.lower(): value for name, value in extra.items() if isinstance(value, str)}
        return await self._authenticator.identify({**said, **dict(socket.headers)})

    async def answers(self, request: GraphQLRequest, identity: Identity) -> AsyncGenerator[dict[str, Any] | None]:
        """Yield the answers of an operation: one, or those of a subscription."""
        operation, variables = self._execution.prepare(request)
        budget = Budget(self._settings)
        call = Call(store=self._authenticator.store, identity=identity, budget=budget)
        if operation.kind != "subscription":
            whole: dict[str, Any] | None = None
            # What has begun is finished, also for a client that has gone.
            with anyio.CancelScope(shield=True):
                whole = await self._execution.execute(operation, variables, call)
            yield whole
            return
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

    async def serve(self, group: TaskGroup) -> _Closed | None:
        """Answer until the connection ends; return why it has to be closed, if it is not yet."""
        try:
            await self._open()
            while True:
                await self._handle(await self._receive(), group)
        except WebSocketDisconnect:
            return None
        except _Closed as broken:
            return broken

    async def _open(self) -> None:
        message: _Message | None = None
        with anyio.move_on_after(_INIT_SECONDS):
            message = await self._receive()
        if message is None:
            raise _Closed(4408, "Connection initialisation timeout")
        if message.type != "connection_init":
            raise _Closed(4401, "Unauthorized")
        self._identity = await self._sockets.identify(self._socket, message.payload)
        if self._identity.caller is None:
            raise _Closed(4403, f"Forbidden: {self._identity.refusal}")
        await self._send(type="connection_ack")

    async def _handle(self, message: _Message, group: TaskGroup) -> None:
        if message.type == "ping":
            await self._send(type="pong")
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
            group.start_soon(self._run, message.id, request, self._running[message.id])
        elif message.type != "pong":
            raise _Closed(4400, "Invalid message received")

    async def _run(self, name: str, request: GraphQLRequest, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                async with aclosing(self._sockets.answers(request, self._identity)) as answers:
                    async for answer in answers:
                        if answer is not None:
                            await self._send(id=name, type="next", payload=answer)
                await self._send(id=name, type="complete")
            except BadRequest as error:
                await self._send(id=name, type="error", payload=error.answer()["errors"])
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
