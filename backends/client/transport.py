"""GraphQL over HTTP: gql's transport over httpx, with JSON by msgspec, and failures as flowloop's errors.

What httpx and gql raise is mapped here, once; nothing above this module knows their exceptions.
"""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import anyio
import gql.transport.httpx as gql_httpx
import msgspec
from gql import GraphQLRequest
from graphql import ExecutionResult

from ...engine.clock import Clock
from ...engine.errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    DialectError,
    OwnershipLost,
    UpstreamRefused,
    VersionLockMismatch,
)
from ..batcher import RequestRejected

__all__ = ["HttpTransport", "Request", "error_of", "httpx"]

httpx: Any = vars(gql_httpx)["httpx"]  # the module that gql chose: there may be two

_CONNECTIONS = 4
_KEEP_ALIVE = 4.0  # less than the 5 s after which servers commonly hang up, so that no request meets a closing door
_CONNECT_TIMEOUT = 5.0
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "flowloop"}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@lru_cache(maxsize=1024)
def _parsed(text: str) -> GraphQLRequest:
    return GraphQLRequest(text)


class Request(GraphQLRequest):
    """A GraphQL document and its variables; the document is parsed once per text, and its text sent as it is."""

    def __init__(self, text: str, variables: Mapping[str, Any] | None = None) -> None:
        super().__init__(_parsed(text), variable_values=dict(variables or {}))
        self.text = text

    @property
    def payload(self) -> dict[str, Any]:
        """The body of the request."""
        return {"query": self.text, "variables": self.variable_values}


class HttpTransport(gql_httpx.HTTPXAsyncTransport):
    """Posts requests over at most four connections: a pool grows slow with the requests that wait in it.

    Once a flowloop server has answered, what comes without its header is not its answer, but that of something in
    between: an ingress, a page to log in at. It counts as an outage.

    Args:
        - url: where to post
        - name: the server, as messages name it
        - headers: sent with every request
        - timeout: seconds a request may take
        - clock: reads a ``Retry-After`` that is a date
        - transport: httpx transport to use in place of the network
    """

    def __init__(
        self, url: str, name: str, *, headers: Mapping[str, str], timeout: float, clock: Clock, transport: Any = None
    ) -> None:
        limits = httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_KEEP_ALIVE)
        # A request is made of parts that are ready: to merge them anew each time is half the cost of a small one.
        self._target = httpx.URL(url)
        self.has_certificates = self._target.scheme == "https"  # to load them takes longer than several requests
        super().__init__(url, limits=limits, transport=transport, verify=self.has_certificates)
        self._headers = httpx.Headers({**_HEADERS, **headers})
        self._extensions = {"timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)).as_dict()}
        self._name = name
        self._clock = clock
        self._turns = anyio.Semaphore(_CONNECTIONS)
        self._is_known = False

    async def execute(
        self, request: GraphQLRequest, *, extra_args: dict[str, Any] | None = None, upload_files: bool = False
    ) -> ExecutionResult:
        """Post one request.

        Raises:
            - BackendUnavailable: if it is worth another try
            - RequestRejected: if the request as a whole is malformed or too large
            - BackendRejected: if the server wants nothing of it
            - DialectError: if the answer is not one of GraphQL
        """
        assert self.client is not None
        headers = {**self._headers, **extra_args["headers"]} if extra_args else self._headers
        try:
            content = _encode(request.payload)
        except (TypeError, ValueError) as error:
            raise RequestRejected(f"the request cannot be written as JSON: {error}") from error
        try:
            async with self._turns:
                response = await self._sent(headers, content)
                place = self._elsewhere(response)
                if place is not None:
                    response = await self._sent(headers, content, place)
                    if _is_of_flowloop(response) or not self._is_known:
                        self._target = place
        except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
            if not self._is_known and "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise BackendRejected(
                    f"the certificate of {self._name} is signed by nobody that is known here: name the file of its "
                    f"authority in SSL_CERT_FILE ({error})"
                ) from error
            raise BackendUnavailable(_reason(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if self._is_known:  # an answer that cannot be unpacked, for instance
                raise BackendUnavailable(_reason(error)) from error
            raise BackendRejected(f"{self._name} cannot be used: {_reason(error)}") from error
        return self.result_of(response)

    async def _sent(self, headers: Any, content: bytes, target: Any = None) -> Any:
        target = target or self._target
        post = httpx.Request("POST", target, headers=headers, content=content, extensions=self._extensions)
        assert self.client is not None
        return await self.client.send(post)

    def _elsewhere(self, response: Any) -> Any:
        """Return where the server wants requests posted instead, if it does, and the place is its own.

        The API key goes nowhere else, and a redirection that makes a GET of a POST is none to follow.
        """
        if not response.has_redirect_location or response.status_code not in (307, 308):
            return None
        place = self._target.join(response.headers["Location"])
        return place if _origin(place) == _origin(self._target) else None

    @property
    def target(self) -> Any:
        """Where requests are posted."""
        return self._target

    def result_of(self, response: Any) -> ExecutionResult:
        """Return what a response holds; see `execute` for what is raised."""
        status = response.status_code
        if _is_of_flowloop(response):
            self._is_known = True
        elif self._is_known and status != 413:  # which is what a proxy says of a body that is too large for it
            raise BackendUnavailable(f"something else answers in its place, with status {status}")
        if status == 429 or status == 408 or status >= 500:
            raise BackendUnavailable(f"it answers with status {status}", self._retry_after(response))
        try:
            answer = _decode(response.content)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            if status == 200 and (self._is_known or "json" in response.headers.get("Content-Type", "")):
                raise BackendUnavailable("its answer was cut off, or is no JSON") from error
            answer = None
        errors = answer.get("errors") if isinstance(answer, dict) else None
        if status in (401, 403):
            raise _refused_key(self._name)
        if status in (400, 413, 422):
            raise RequestRejected(_messages(errors) or f"{self._name} refuses the request with status {status}")
        if response.has_redirect_location:
            place = self._target.join(response.headers["Location"])
            raise BackendRejected(f"{self._name} leads to {place.copy_with(userinfo=b'')}: give that URL")
        if status != 200:
            raise BackendRejected(f"{self._name} answers with status {status}: is it the URL of a GraphQL server?")
        if not isinstance(answer, dict) or not isinstance(errors or [], list) or ("data" not in answer and not errors):
            raise DialectError(f"{self._name} does not answer like a GraphQL server")
        if not errors and not isinstance(answer["data"], dict):
            raise DialectError(f"{self._name} answers without data")
        return ExecutionResult(data=answer.get("data"), errors=errors or None)

    def _retry_after(self, response: Any) -> float | None:
        value = response.headers.get("Retry-After")
        if value is None:
            return None
        if value.strip().isdecimal():
            return float(value)
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return max(0.0, (moment - self._clock.now()).total_seconds())


def _is_of_flowloop(response: Any) -> bool:
    return "X-FLOWLOOP-VERSION" in response.headers


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def error_of(errors: Any, url: str) -> BackendError:
    """Return the exception that the ``errors`` of an answer stand for, a list if it is one of GraphQL."""
    errors = errors if isinstance(errors, list) else [errors]
    text = _messages(errors)
    extensions = [error.get("extensions") for error in errors if isinstance(error, dict)]
    codes = {one.get("code") for one in extensions if isinstance(one, dict) and isinstance(one.get("code"), str)}
    if "VERSION_LOCKING_ERROR" in codes:
        return VersionLockMismatch(text)
    if "OWNERSHIP_LOST" in codes:
        return OwnershipLost(text)
    if "UPSTREAM_REFUSED" in codes:
        return UpstreamRefused(text)
    if "TOO_MUCH" in codes:
        return RequestRejected(text)
    if "API_ERROR" in codes or "API_ERROR" in text:
        return BackendUnavailable(text)
    if "UNAUTHENTICATED" in codes or "Malformed Authorization header" in text:
        return _refused_key(url)
    return BackendRejected(text)


def _refused_key(url: str) -> BackendRejected:
    return BackendRejected(f"{url} does not accept the API key, or wants one: set FLOWLOOP_API_KEY")


def _messages(errors: Any) -> str:
    if not isinstance(errors, list):
        return ""
    return "; ".join(str(error.get("message", error)) if isinstance(error, dict) else str(error) for error in errors)


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    return f"{kind}: {error}" if str(error) else kind
