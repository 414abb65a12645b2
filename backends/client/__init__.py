"""The backend behind a GraphQL server, over HTTP."""

from .backend import GraphQLBackend

__all__ = ["GraphQLBackend"]
