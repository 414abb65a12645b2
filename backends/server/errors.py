"""How a failure looks on the wire.

A failure of a field is an entry of ``errors`` beside ``data``, with status 200; what is wrong with the request as a
whole is `BadRequest`, with status 400. Each carries a code in its ``extensions``, which is what a client decides by.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from graphql import FieldNode, GraphQLError
from graphql.language import get_location

from ...engine.errors import BackendRejected, BackendUnavailable, OwnershipLost, UpstreamRefused, VersionLockMismatch

__all__ = ["BadRequest", "Forbidden", "ShuttingDown", "Unauthenticated", "failure", "field_error"]

logger = logging.getLogger("flowloop.server")

INTERNAL_ERROR = "Unable to complete operation. An internal API error occurred."


class BadRequest(BackendRejected):
    """The request as a whole cannot be executed: it is not JSON, not GraphQL, or does not fit the schema."""

    def __init__(self, message: str, code: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self._errors: list[dict[str, Any]] = [{"message": message, "extensions": {"code": code}}]

    @classmethod
    def of(cls, errors: Sequence[GraphQLError], code: str, shown: Callable[[str], str] = str) -> BadRequest:
        """Return the refusal of a document, with where in it each error is.

        Args:
            - errors: what is wrong with the document, or with its variables
            - code: what a client decides by
            - shown: makes of a message what is told
        """
        refusal = cls(shown(errors[0].message), code)
        refusal._errors = [
            {
                "message": shown(error.message),
                **({"locations": [place._asdict() for place in error.locations]} if error.locations else {}),
                "extensions": {"code": code},
            }
            for error in errors
        ]
        return refusal

    def answer(self, *, places: bool = True) -> dict[str, Any]:
        """Return the body of the answer; without `places` as clients of Prefect 1 know it."""
        if places:
            return {"errors": self._errors}
        return {"errors": [{key: error[key] for key in error if key != "locations"} for error in self._errors]}


class Unauthenticated(BackendRejected):
    """The request carries no API key, or one that is not known or has expired."""


class Forbidden(BackendRejected):
    """The API key does not allow this."""


class TooMuch(BackendRejected):
    """A request wants more than one may; in parts it can be answered."""


class ShuttingDown(BackendRejected):
    """The server stops: whoever subscribes again finds the next one."""


def item_code(error: Exception) -> str:
    """Return the code a client decides by."""
    if isinstance(error, VersionLockMismatch):
        return "VERSION_LOCKING_ERROR"
    if isinstance(error, OwnershipLost):
        return "OWNERSHIP_LOST"
    if isinstance(error, UpstreamRefused):
        return "UPSTREAM_REFUSED"
    if isinstance(error, Unauthenticated):
        return "UNAUTHENTICATED"
    if isinstance(error, Forbidden):
        return "FORBIDDEN"
    if isinstance(error, TooMuch):
        return "TOO_MUCH"
    if isinstance(error, BackendUnavailable):
        return "API_ERROR"
    return "INTERNAL_SERVER_ERROR"


def message_of(error: Exception) -> str:
    """Return what a caller may read of `error`: nothing of one that was not meant for them."""
    if isinstance(error, GraphQLError):
        return error.message
    if isinstance(error, BackendRejected):
        return str(error)
    if isinstance(error, BackendUnavailable):
        logger.warning("a request could not be answered: %s", error)
    else:
        logger.error("a request failed", exc_info=error)
    return INTERNAL_ERROR


def field_error(error: Exception, node: FieldNode, key: str) -> dict[str, Any]:
    """Return the entry of ``errors`` for a root field that failed."""
    location = get_location(node.loc.source, node.loc.start) if node.loc else None
    return {
        "message": message_of(error),
        "locations": [{"line": location.line, "column": location.column}] if location else [],
        "path": [key],
        "extensions": {"code": item_code(error)},
    }


def failure(error: Exception) -> dict[str, Any]:
    """Return the answer to a request that failed before any of its fields was executed."""
    return {"errors": [{"message": message_of(error), "extensions": {"code": item_code(error)}}], "data": None}
