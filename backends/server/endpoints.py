"""What the server answers over HTTP: GraphQL, whether it is well, what it counts."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ...engine.errors import BackendUnavailable
from ..store import ANYONE
from .auth import Authenticator
from .errors import BadRequest, Forbidden, ShuttingDown, Unauthenticated, failure
from .execution import Execution, GraphQLRequest, Variables
from .graphiql_page import query_page
from .live import Live
from .metrics import CONTENT_TYPE, Metrics
from .operation_cache import Operation
from .operations import version
from .request import Budget, Call
from .settings import ServerSettings
from .wire import EVENTS, asked_in_body, asked_in_url, media_type, wants, wants_events_alone

__all__ = ["Endpoints"]

_encode = msgspec.json.Encoder().encode
_JSON = "application/json; charset=utf-8"


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
        return await self._answer(request, asked_in_body(request, self._settings))

    async def query(self, request: Request) -> Response:
        """Answer ``GET /graphql``: execute the query in the URL; without one a browser gets a page to write it in.

        So does a client that does not say what it accepts.
        """
        takes_pages = "accept" not in request.headers or wants(request, "text/html")
        if "query" not in request.query_params and takes_pages:
            return await query_page(request)
        return await self._answer(request, self._asked(request))

    async def _asked(self, request: Request) -> GraphQLRequest:
        asked = asked_in_url(request)
        if asked is None:
            raise BadRequest("There is no query: send it as query, in the URL or in a JSON body.", "BAD_REQUEST")
        return asked

    async def _answer(self, request: Request, asking: Awaitable[GraphQLRequest]) -> Response:
        begun = time.perf_counter()
        kind, headers = "none", {}
        try:
            operation, variables = self._execution.prepare(await asking)
            kind = operation.kind
            if kind == "mutation" and request.method == "GET":
                headers = {"Allow": "POST"}
                raise BadRequest("A GET changes nothing: send the mutation by POST.", "BAD_REQUEST", status=405)
            call = await self._call(request)
            if kind == "subscription":
                if not wants(request, EVENTS):
                    raise BadRequest(
                        "A subscription is answered over a WebSocket, or as an event stream: send "
                        "Accept: text/event-stream.",
                        "BAD_REQUEST",
                    )
                self._metrics.count_request("subscription")
                return self._stream(operation, variables, call, request)
            answer = await self._execution.execute(operation, variables, call)
            status = 200
        except BadRequest as error:
            answer = error.answer(places="x-prefect-core-version" not in request.headers)
            status = error.status
        except Exception as error:
            answer, status = failure(error), 200
        took = time.perf_counter() - begun
        self._metrics.count_request(kind, status, errors="errors" in answer, seconds=took)
        if status == 200 and wants_events_alone(request):
            return Response(_event(answer) + _COMPLETE, headers=_OF_STREAMS, media_type=EVENTS)
        response = Response(_encode(answer), status, headers=headers, media_type=media_type(request))
        return await _packed(request, response, kind)

    async def events(self, request: Request) -> Response:
        """Answer ``GET /events``: the state changes of a flow run, or of the tenant, as server-sent events."""
        text = "subscription { flow_run_states { %s } }"
        variables = b"null"
        run = request.query_params.get("flow_run_id")
        if run is not None:
            text = "subscription ($id: UUID!) { run_states(flow_run_id: $id) { %s } }"
            variables = _encode({"id": run})
        selected = "kind id flow_run_id version state message timestamp"
        self._metrics.count_request("subscription")
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
        if not self._settings.metrics_open:
            try:
                (await self._call(request)).authorize("query")
            except Unauthenticated as error:
                return Response(str(error), 401, media_type="text/plain", headers={"WWW-Authenticate": "Bearer"})
            except Forbidden as error:
                return Response(str(error), 403, media_type="text/plain")
        asked = time.perf_counter()
        await anyio.lowlevel.checkpoint()
        lag = time.perf_counter() - asked
        try:
            self._metrics.show(**await self._authenticator.store.count_runs(ANYONE), lag=lag)
        except BackendUnavailable:  # what is known without the database is told all the same
            self._metrics.show({}, {}, {}, 0.0, lag)
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

    # -- subscriptions -------------------------------------------------------------------------------------

    def _stream(self, operation: Operation, variables: Variables, call: Call, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            try:
                async with aclosing(self._live.subscribe(operation, variables, call)) as answers:
                    async for answer in answers:
                        await self._check_still_in(request)
                        yield _event(answer) if answer is not None else b":\n\n"
            except ShuttingDown:
                return  # a client that reads an error, or a complete, subscribes no more; cut off, it comes back
            except Unauthenticated as error:
                yield _event(failure(error))
            yield _COMPLETE

        return StreamingResponse(events(), media_type=EVENTS, headers=_OF_STREAMS)


_OF_STREAMS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_COMPLETE = b"event: complete\ndata: {}\n\n"


def _event(answer: Any) -> bytes:
    return b"event: next\ndata: " + _encode(answer) + b"\n\n"
