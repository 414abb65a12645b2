"""The live page: one document, its files, and the session of whoever signed in. It is a client of the public API."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import Authenticator
from ..settings import ServerSettings
from .assets import Assets
from .session import Sessions

__all__ = ["routes"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors {ancestors}; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FOR_EVER = "public, max-age=31536000, immutable"


def routes(settings: ServerSettings, authenticator: Authenticator) -> Sequence[BaseRoute]:
    """Return the addresses of the page, all below ``ui/``.

    Args:
        - settings: who may embed it
        - authenticator: tells whose an API key is
    """
    assets = Assets.load()
    sessions = Sessions(authenticator)
    policy = _POLICY.format(ancestors=settings.page_frame_ancestors)

    async def page(request: Request) -> Response:
        path: str = request.path_params["path"]
        if path.startswith("-/"):
            return Response("This version of the page is gone: reload it.", 404, headers=_HEADERS)
        tag = f'"{assets.digest}-{path.count("/")}"'
        headers = {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-cache", "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(assets.page(path), media_type="text/html", headers=headers)

    async def asset(request: Request) -> Response:
        name: str = request.path_params["name"]
        found = assets.files.get(name) if request.path_params["digest"] == assets.digest else None
        if found is None:
            return Response("There is no such file in this version of the page.", 404, headers=_HEADERS)
        headers = {**_HEADERS, "Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(found.body, media_type=found.type, headers=headers)
        return Response(found.packed, media_type=found.type, headers={**headers, "Content-Encoding": "gzip"})

    async def with_slash(request: Request) -> Response:
        return RedirectResponse("ui/", 308)

    return [
        Route("/ui", with_slash, methods=["GET"]),
        Route("/ui/session", sessions.open, methods=["POST"]),
        Route("/ui/session", sessions.close, methods=["DELETE"]),
        Route("/ui/-/{digest}/{name:path}", asset, methods=["GET"]),
        Route("/ui/{path:path}", page, methods=["GET"]),
    ]
