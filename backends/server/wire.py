"""GraphQL over HTTP: what a request asks, and in which media type it wants the answer."""

from __future__ import annotations

import zlib

import msgspec
from starlette.requests import ClientDisconnect, Request

from .errors import BadRequest
from .execution import GraphQLRequest
from .settings import ServerSettings

__all__ = ["EVENTS", "asked_in_body", "asked_in_url", "media_type", "wants", "wants_events_alone"]

_JSON = "application/json"
_GRAPHQL = "application/graphql-response+json"
EVENTS = "text/event-stream"

_decode = msgspec.json.Decoder(GraphQLRequest).decode


def wants(request: Request, kind: str) -> bool:
    """Whether a request names a media type among those it accepts."""
    return _weight(request, kind) > 0


def _weight(request: Request, kind: str) -> float:
    """Return how much a request wants a media type, from 0, not at all, to 1."""
    for part in request.headers.get("accept", "").lower().split(","):
        name, *parameters = (each.strip() for each in part.split(";"))
        if name == kind:
            weights = [each[2:] for each in parameters if each.startswith("q=")]
            try:
                return float(weights[0]) if weights else 1.0
            except ValueError:
                return 1.0
    return 0.0


def wants_events_alone(request: Request) -> bool:
    """Whether a request accepts a stream of events, and nothing else."""
    return wants(request, EVENTS) and not any(wants(request, kind) for kind in (_JSON, _GRAPHQL, "*/*"))


def media_type(request: Request) -> str:
    """Return the type of the answer to a request."""
    is_wanted = wants(request, _GRAPHQL) and _weight(request, _GRAPHQL) >= _weight(request, _JSON)
    return f"{_GRAPHQL if is_wanted else _JSON}; charset=utf-8"


def asked_in_url(request: Request) -> GraphQLRequest | None:
    """Return what the parameters of a URL ask, or None if they ask nothing.

    Raises:
        - BadRequest: if they are not understood
    """
    given = request.query_params
    if "query" not in given:
        if "extensions" in given:
            raise _not_persisted()
        return None
    variables = given.get("variables") or "null"
    return GraphQLRequest(given["query"], msgspec.Raw(variables.encode()), given.get("operationName") or None)


async def asked_in_body(request: Request, settings: ServerSettings) -> GraphQLRequest:
    """Return what the body of a request asks.

    Raises:
        - BadRequest: if it is not understood, or too large
    """
    # A page of another site cannot send this type without asking first, which is never granted.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
        raise BadRequest("The body must be JSON: send Content-Type: application/json.", "BAD_REQUEST", status=415)
    body = await _body(request, settings.body_limit)
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        if body.lstrip()[:1] == b"[":
            raise BadRequest("Batches of requests are not taken: send each by itself.", "BAD_REQUEST") from None
        if b"persistedQuery" in body:
            raise _not_persisted() from None
        raise BadRequest(f"The body is not a GraphQL request: {error}", "BAD_REQUEST") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadRequest("The body is not JSON.", "BAD_REQUEST") from None


def _not_persisted() -> BadRequest:
    # the words that clients know to fall back from: they send the document next
    return BadRequest("PersistedQueryNotSupported", "PERSISTED_QUERY_NOT_SUPPORTED", status=200)


async def _body(request: Request, limit: int) -> bytes:
    too_large = BadRequest(f"The request is larger than {limit} bytes.", "BAD_REQUEST", status=413)
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    packing = request.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip"):
        raise BadRequest("The body may be packed with gzip, and with nothing else.", "BAD_REQUEST", status=415)
    unpack = zlib.decompressobj(wbits=31) if packing == "gzip" else None
    body = bytearray()
    try:
        async for chunk in request.stream():
            # never more than one byte too many, however much is packed in a chunk
            body += chunk if unpack is None else unpack.decompress(chunk, limit + 1 - len(body))
            if len(body) > limit:
                raise too_large
    except ClientDisconnect:
        raise BadRequest("The client has gone.", "BAD_REQUEST") from None
    except zlib.error as error:
        raise BadRequest(f"The body is not what gzip makes: {error}", "BAD_REQUEST") from None
    if unpack is not None and not unpack.eof:
        raise BadRequest("The body ends before what gzip made of it does.", "BAD_REQUEST")
    return bytes(body)
