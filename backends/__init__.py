"""What implements and serves the backend port: GraphQL client, store, GraphQL server, memory, command line.

Importing this package imports none of them: `connect` loads the one that a URL asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine.backend import connect

if TYPE_CHECKING:
    from .recovery import Recovery

__all__ = ["Recovery", "connect"]


def __getattr__(name: str) -> Any:
    if name == "Recovery":
        from .recovery import Recovery

        return Recovery
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
