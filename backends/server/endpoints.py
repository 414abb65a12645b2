"""What the server answers over HTTP: GraphQL, whether it is well, what it counts."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import anyio
import anyio.to_thread
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from ...engine.errors import BackendUnavailable
from .auth import Authenticator
from .errors import BadRequest, ShuttingDown, Unauthenticated, failure
from .execution import Execution, GraphQLRequest, Variables
from .live import Live
from .metrics import CONTENT_TYPE, Metrics
from .operation_cache import Operation
from .operations import version
from .request import Budget, Call
from .settings import ServerSettings

__all__ = ["Endpoints"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(GraphQLRequest).decode

_JSON = "application/json; charset=utf-8"
_EVENTS = "text/event-stream"


_LEVEL = 5
_WORTH_PACKING = 1_000
_LONG_TO_PACK = 256_000


async def _packed(request: Request, response: Response, kind: str) -> Response:
    """Compress what was read for whoever takes it so; a batch is answered at once, it is small and urgent."""
    body = bytes(response.body)
    if kind != "query" or len(body) < _WORTH_PACKING or "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    pack = partial(gzip.compress, body, _LEVEL, mtime=0)
    response.body = await anyio.to_thread.run_sync(pack) if len(body) > _LONG_TO_PACK else pack()
    response.headers["content-length"] = str(len(response.body))
    response.headers["content-encoding"] = "gzip"
    response.headers["vary"] = "Accept-Encoding"
    return response


class Endpoints:
    """The HTTP endpoints of one server."""

    def __init__(
        self,
        settings: ServerSettings,
        execution: Execution,
        authenticator: Authenticator,
        live: Live,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._execution = execution
        self._authenticator = authenticator
        self._live = live
        self._metrics = metrics

    async def graphql(self, request: Request) -> Response:
        """Answer ``POST /``: execute one GraphQL request."""
        begun = time.perf_counter()
        kind = "none"
        try:
            operation, variables = self._execution.prepare(await self._body(request))
            kind = operation.kind
            call = await self._call(request)
            if kind == "subscription":
                if _EVENTS not in request.headers.get("accept", ""):
                    raise BadRequest(
                        "A subscription is answered over a WebSocket, or as an event stream: send "
                        "Accept: text/event-stream.",
                        "BAD_REQUEST",
                    )
                return self._stream(operation, variables, call, request)
            answer = await self._execution.execute(operation, variables, call)
            status = 200
        except BadRequest as error:
            answer, status = error.answer(), error.status
        except Exception as error:
            answer, status = failure(error), 200
        failed = "true" if "errors" in answer else "false"
        self._metrics.count("requests", f'kind="{kind}",status="{status}",errors="{failed}"')
        self._metrics.observe(time.perf_counter() - begun)
        return await _packed(request, Response(_encode(answer), status, media_type=_JSON), kind)

    async def events(self, request: Request) -> Response:
        """Answer ``GET /events``: the state changes of a flow run, or of the tenant, as server-sent events."""
        text = "subscription { flow_run_states { %s } }"
        variables = b"null"
        run = request.query_params.get("flow_run_id")
        if run is not None:
            text = "subscription ($id: UUID!) { run_states(flow_run_id: $id) { %s } }"
            variables = _encode({"id": run})
        selected = "kind id flow_run_id version state message timestamp"
        try:
            operation, given = self._execution.prepare(GraphQLRequest(text % selected, msgspec.Raw(variables)))
            return self._stream(operation, given, await self._call(request), request)
        except BadRequest as error:
            return Response(_encode(error.answer()), error.status, media_type=_JSON)

    async def health(self, request: Request) -> Response:
        """Answer ``GET /health``: the process is there."""
        return Response(_encode({"status": "ok", "version": version()}), media_type=_JSON)

    async def ready(self, request: Request) -> Response:
        """Answer ``GET /ready``: the database answers too."""
        problem = await self._authenticator.problem()
        body = {"status": "ok" if problem is None else "unavailable", "problem": problem}
        return Response(_encode(body), 200 if problem is None else 503, media_type=_JSON)

    async def metrics(self, request: Request) -> Response:
        """Answer ``GET /metrics``."""
        return Response(self._metrics.render(), media_type=CONTENT_TYPE)

    # -- requests ------------------------------------------------------------------------------------------

    async def _call(self, request: Request) -> Call:
        return Call(
            store=self._authenticator.store,
            identity=await self._authenticator.identify(request.headers),
            budget=Budget(self._settings),
            idempotency_key=request.headers.get("x-flowloop-idempotency-key"),
        )

    async def _check_still_in(self, request: Request) -> None:
        """Raise `Unauthenticated` if whoever opened a stream is let in no more."""
        with contextlib.suppress(BackendUnavailable):  # an outage revokes nothing
            if (now := await self._authenticator.identify(request.headers)).caller is None:
                raise Unauthenticated(now.refusal)

    async def _body(self, request: Request) -> GraphQLRequest:
        # A page of another site cannot send this type without asking first, which is never granted.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise BadRequest("The body must be JSON: send Content-Type: application/json.", "BAD_REQUEST", status=415)
        limit = self._settings.body_limit
        too_large = BadRequest(f"The request is larger than {limit} bytes.", "BAD_REQUEST", status=413)
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
        except ClientDisconnect:
            raise BadRequest("The client has gone.", "BAD_REQUEST") from None
        try:
            return _decode(body)
        except msgspec.ValidationError as error:
            raise BadRequest(f"The body is not a GraphQL request: {error}", "BAD_REQUEST") from None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise BadRequest("The body is not JSON.", "BAD_REQUEST") from None

    # -- subscriptions -------------------------------------------------------------------------------------

    def _stream(self, operation: Operation, variables: Variables, call: Call, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            try:
                async with aclosing(self._live.subscribe(operation, variables, call)) as answers:
                    async for answer in answers:
                        await self._check_still_in(request)
                        yield b"event: next\ndata: " + _encode(answer) + b"\n\n" if answer is not None else b":\n\n"
            except ShuttingDown:
                return  # a client that reads an error, or a complete, subscribes no more; cut off, it comes back
            except Unauthenticated as error:
                yield b"event: next\ndata: " + _encode(failure(error)) + b"\n\n"
            yield b"event: complete\ndata: {}\n\n"

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), media_type=_EVENTS, headers=headers)
