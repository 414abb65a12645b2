"""The GraphQL server: a store behind the API of Prefect 1, with additions of its own.

Public names: `create_app` makes an ASGI application, to be mounted in another one or served by any ASGI server;
`serve` serves one by itself; `ServerSettings` holds the limits and the services; `Identity` is what a function that
knows API keys answers.
"""

from __future__ import annotations

from ...engine.errors import FlowloopError

try:
    from .app import create_app
    from .auth import Identity
    from .run import serve
    from .settings import ServerSettings
except ModuleNotFoundError as error:
    raise FlowloopError("the server needs an extra: pip install 'flowloop[server]'") from error

__all__ = ["Identity", "ServerSettings", "create_app", "serve"]
