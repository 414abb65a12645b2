"""What implements and serves the backend port: GraphQL client, store, GraphQL server, memory, command line.

Importing this package imports none of them: `connect` loads the one that a URL asks for.
"""

from __future__ import annotations

from ..engine.backend import connect

__all__ = ["connect"]
