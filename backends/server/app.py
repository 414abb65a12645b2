"""The server as an ASGI application, to be served alone or mounted in another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...engine.settings import Settings
from ..schedule_dates import next_events
from ..store import Store
from . import operations, queries, schema, ui
from .auth import Authenticator, Identity
from .endpoints import Endpoints
from .execution import Execution
from .graphiql_page import asset
from .live import Live
from .metrics import Metrics
from .operation_cache import Documents
from .services import Services
from .settings import ServerSettings
from .sockets import Sockets
from .stopping import told_of_stop
from .wire import wants

__all__ = ["create_app", "open_store"]

_PATHS = ("/", "/graphql", "/graphql/")


def open_store(url: str, **options: Any) -> Store:
    """Return a store as the server uses it, not yet open: it reads schedules, and encrypts secrets.

    Args:
        - url: the URL of its database
        - options: further arguments of `Store`; by default the key of secrets is the environment variable
          ``FLOWLOOP_SECRET_KEY``
    """
    settings = Settings.from_env()
    given = {"secret_key": settings.secret_key, "late_runs": settings.late_runs, "next_events": next_events}
    return Store(url, **{**given, **options})


def create_app(
    store: Store | str,
    *,
    settings: ServerSettings | None = None,
    authenticate: Callable[[str], Awaitable[Identity | None]] | None = None,
    authenticate_request: Callable[[Mapping[str, str]], Awaitable[Identity | None]] | None = None,
    routes: tuple[BaseRoute, ...] = (),
) -> Starlette:
    """Return the GraphQL server as an ASGI application.

    Its lifespan opens the database and runs the services. A framework that mounts the application has to run it with
    its own: ``app.router.lifespan_context``.

    Args:
        - store: the URL of a database, which the application opens and closes; or a store that is open as long as
          the application is served
        - settings: limits and services
        - authenticate: tells whose an API key is, where keys are not in the store; None for a key it does not know
        - authenticate_request: tells who sends a request by its headers, their names in small letters, where a proxy in
          front knows; None leaves it to the API key. It is asked at each request, and now and then while one is open.
        - routes: further routes, which come before the application's own

    Example:
        ```python
        flowloop = create_app("sqlite:///flowloop.db")
        app = FastAPI(lifespan=flowloop.router.lifespan_context)
        app.mount("/flows", flowloop)
        ```
    """
    settings = settings or ServerSettings()
    owner: AbstractAsyncContextManager[Store] | None = None
    if isinstance(store, str):
        store = owner = open_store(store)
    metrics = Metrics()
    types = schema.build()
    assert types.subscription_type is not None
    execution = Execution(types, Documents(types, settings), {**queries.resolvers(), **operations.resolvers(types)})
    authenticator = Authenticator(store, settings, authenticate, authenticate_request)
    live = Live(store, types.subscription_type.fields, settings, metrics)
    services = Services(store, settings, metrics)
    endpoints = Endpoints(settings, execution, authenticator, live, metrics)
    sockets = Sockets(settings, execution, authenticator, live, metrics)

    async def to_page(request: Request) -> Response:
        """Answer ``GET /``: a browser is led to the page."""
        is_for_people = "query" not in request.query_params and wants(request, "text/html")
        return RedirectResponse("ui/", 303) if is_for_people else await endpoints.query(request)

    async def to_query_page(request: Request) -> Response:
        """Answer ``GET /graphql/``: what the page to write queries in needs is found from one step above."""
        is_for_people = "query" not in request.query_params and wants(request, "text/html")
        return RedirectResponse("../graphql", 307) if is_for_people else await endpoints.query(request)

    async def background() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(live.run, name="flowloop live")
            group.start_soon(services.run, name="flowloop services")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if owner is not None:
                await stack.enter_async_context(owner)
            # A task of its own: an error of the application around this one must not come out as an error of a group.
            task = asyncio.create_task(background(), name="flowloop server")
            try:
                with told_of_stop(live.end):
                    yield
            finally:
                task.cancel()
                await asyncio.wait([task])

    app = Starlette(
        lifespan=lifespan,
        routes=[
            *routes,
            *(Route(path, endpoints.graphql, methods=["POST"]) for path in _PATHS),
            *(WebSocketRoute(path, sockets.endpoint) for path in _PATHS),
            Route("/", to_page if settings.page else endpoints.query, methods=["GET"]),
            Route("/graphql", endpoints.query, methods=["GET"]),
            Route("/graphql/", to_query_page, methods=["GET"]),
            Route("/graphiql/{name}", asset, methods=["GET"]),
            Route("/events", endpoints.events, methods=["GET"]),
            Route("/health", endpoints.health, methods=["GET"]),
            Route("/ready", endpoints.ready, methods=["GET"]),
            Route("/metrics", endpoints.metrics, methods=["GET"]),
            *(ui.routes(settings, authenticator) if settings.page else ()),
        ],
        middleware=[Middleware(_Announce)],
    )
    # A POST that is redirected arrives as a GET, or not at all.
    app.router.redirect_slashes = False
    app.state.live = live
    app.state.services = services
    return app


class _Announce:
    """Says on every answer what serves it: a client may send such a server batches."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._header = (b"x-flowloop-version", operations.version().encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def announce(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        await self._app(scope, receive, announce if scope["type"] == "http" else send)
