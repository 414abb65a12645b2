"""GraphiQL, served from this package: a server without internet has it too."""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["asset", "query_page"]

_FILES = resources.files(__package__ or __name__).joinpath("graphiql")
_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
_PLAIN = ("first.js", "start.js", "icon.svg")
_PACKED = ("graphiql.min.css", "graphiql.min.js", "react-dom.min.js", "react.min.js")
_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:"


async def query_page(request: Request) -> Response:
    """Answer ``GET /graphql``: the page to write queries in."""
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
    return Response(_FILES.joinpath("index.html").read_bytes(), media_type="text/html", headers=headers)


async def asset(request: Request) -> Response:
    """Answer ``GET /graphiql/<name>``: a script or a style sheet of the page."""
    name: str = request.path_params["name"]
    headers = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
    if name in _PLAIN:
        return Response(_FILES.joinpath(name).read_bytes(), media_type=_TYPES[name.rpartition(".")[2]], headers=headers)
    if name not in _PACKED:
        return Response(status_code=404)
    headers["Content-Encoding"] = "gzip"
    packed = _FILES.joinpath(f"{name}.gz").read_bytes()
    return Response(packed, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)
