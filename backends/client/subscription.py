"""Subscriptions: a GraphQL request whose answers come one after the other, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import msgspec

from ...engine.errors import BackendRejected, BackendUnavailable, DialectError
from .transport import HttpTransport, error_of, httpx

__all__ = ["Subscriptions"]

_EVENTS = "text/event-stream"
_QUIET = 45.0  # a server says something every 15 s, if only that it is there
_OPENED_AT_ONCE = 1
"""A server under load is not asked for hundreds at once: by its turn, most of what was to be heard of is over."""
_LONGEST_EVENT = 16_000_000


class Subscriptions:
    """Opens subscriptions, each over a connection of its own: the requests of a transport do not wait for them.

    Args:
        - transport: what the other requests go through
        - name: the server, as messages name it
        - headers: sent with every request
        - timeout: seconds that opening one may take
    """

    def __init__(self, transport: HttpTransport, name: str, headers: Mapping[str, str], timeout: float) -> None:
        self._transport = transport
        self._name = name
        self._headers = {**headers, "Content-Type": "application/json", "Accept": _EVENTS}
        self._timeout = httpx.Timeout(timeout, read=_QUIET)
        self._client: Any = None
        self._turns = anyio.Semaphore(_OPENED_AT_ONCE)

    async def aclose(self) -> None:
        """Close what is open."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @asynccontextmanager
    async def subscribe(self, text: str, variables: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Open a subscription: an iterator over the ``data`` of its events, which ends when the connection does.

        Args:
            - text: the document
            - variables: its variables

        Raises:
            - BackendUnavailable: if the server cannot be reached
            - BackendRejected: if it refuses the subscription
            - DialectError: if it answers something else than events
        """
        async with self._turns:
            response = await self._post(msgspec.json.encode({"query": text, "variables": variables}))
        try:
            if response.status_code != 200 or not response.headers.get("Content-Type", "").startswith(_EVENTS):
                await self._refused(response)
            async with aclosing(self._events(response)) as events:
                yield events
        finally:
            await response.aclose()

    async def _post(self, content: bytes) -> Any:
        if self._client is None:
            # made at the first use: to load the certificates takes long
            self._client = httpx.AsyncClient(
                limits=httpx.Limits(max_keepalive_connections=0),
                timeout=self._timeout,
                verify=self._transport.has_certificates,
            )
        request = self._client.build_request("POST", self._transport.target, headers=self._headers, content=content)
        try:
            return await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise BackendUnavailable(f"{self._name}: no subscription: {error!r}") from error

    async def _refused(self, response: Any) -> None:
        try:
            await response.aread()
        except httpx.HTTPError as error:
            raise BackendUnavailable(f"{self._name}: no subscription: {error!r}") from error
        answer = self._transport.result_of(response)
        if answer.errors:
            raise error_of(list(answer.errors), self._name)
        raise DialectError(f"{self._name} answers a subscription with something else than events")

    async def _events(self, response: Any) -> AsyncGenerator[dict[str, Any]]:
        async with aclosing(_messages(response)) as messages:
            async for kind, content in messages:
                if kind == "complete":
                    return
                payload = _decoded(content)
                if payload.get("errors"):
                    raise error_of(payload["errors"], self._name)
                data = payload.get("data")
                if not isinstance(data, dict):
                    raise DialectError(f"an event of the subscription has no data: {content[:200]!r}")
                yield data


async def _messages(response: Any) -> AsyncGenerator[tuple[str, bytes]]:
    """Yield the kind and the data of each event until the connection ends, however it does."""
    waiting = b""
    try:
        async for chunk in response.aiter_bytes():
            *events, waiting = (waiting + chunk).split(b"\n\n")
            if len(waiting) > _LONGEST_EVENT:
                raise BackendRejected(f"an event of the subscription is longer than {_LONGEST_EVENT:,} bytes")
            for event in events:
                fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if not line.startswith(b":"))
                if fields:
                    yield fields.get(b"event", b"message").decode(), fields.get(b"data", b"")
    except httpx.HTTPError:
        return
    except ValueError as error:
        raise DialectError(f"the server's events are not understood: {error}") from error


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        payload = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DialectError(f"an event of the subscription is not JSON: {error}") from error
    if not isinstance(payload, dict):
        raise DialectError(f"an event of the subscription is no object: {payload!r}")
    return payload
