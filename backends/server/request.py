"""One request as its resolvers see it: who asks, and what it may do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..store import Caller, Store
from .auth import Identity
from .database import reading
from .errors import Forbidden, TooMuch, Unauthenticated
from .operation_cache import Field
from .settings import ServerSettings

__all__ = ["Budget", "Call"]

_SCOPES = {"query": "read", "subscription": "read", "mutation": "write"}
_OTHER = {
    "answer_task_run": "answer",
    "cancel_flow_run": "run",
    "create_flow_run": "run",
    "direct_flow_run": "run",
    "restart_flow_run": "run",
    "set_schedule_active": "run",
    "set_schedule_inactive": "run",
    # Whose keys count, what is secret, where people are told, how much goes on at once, and what is gone for good.
    "create_api_key": "admin",
    "delete_api_key": "admin",
    "set_secret": "admin",
    "delete_secret": "admin",
    "notifications": "admin",
    "set_notification": "admin",
    "delete_notification": "admin",
    "update_task_rate_limit": "admin",
    "delete_task_rate_limit": "admin",
    "update_task_tag_limit": "admin",
    "delete_task_tag_limit": "admin",
    "update_flow_concurrency_limit": "admin",
    "delete_flow_concurrency_limit": "admin",
    "delete_flow_run": "admin",
    "delete_flow": "admin",
    "delete_project": "admin",
    "create_tenant": "admin",
    "update_tenant_name": "admin",
    "update_tenant_slug": "admin",
    "delete_tenant": "admin",
    # A worker gives a secret to the tasks that it runs.
    "secret_value": "write",
}
"""The operations that another scope allows than those of their kind."""

_GRANTED_BY = {
    "read": {"read"},
    "answer": {"answer", "run", "write", "admin"},
    "run": {"run", "write", "admin"},
    "write": {"write", "admin"},
    "admin": {"admin"},
}
"""By which scopes of an API key each scope is granted."""


class Budget:
    """How much one request may still read."""

    def __init__(self, settings: ServerSettings) -> None:
        self.rows = settings.row_limit
        self.seconds = settings.query_seconds
        self._size = settings.answer_limit
        self._settings = settings

    def spend(self, rows: Sequence[Sequence[Any]]) -> None:
        """Count rows that were read.

        Raises:
            - TooMuch: if they are more than the request may read
        """
        self.rows -= len(rows)
        if self.rows < 0:
            raise TooMuch(
                f"the query reads more than {self._settings.row_limit} rows: give it a limit, or a narrower filter"
            )
        self._size -= sum(len(value) for row in rows for value in row if isinstance(value, str))
        if self._size < 0:
            limit = self._settings.answer_limit
            raise TooMuch(f"the query reads more than {limit} bytes: give it a limit, or select less of each row")


@dataclasses.dataclass(slots=True)
class Call:
    """One request.

    Args:
        - store: what answers it
        - identity: who asks
        - budget: how much it may still read
        - idempotency_key: the key under which what it sets is recorded once, if it came with one
        - refused: the runs whose last state in it was refused, so far
    """

    store: Store
    identity: Identity
    budget: Budget
    idempotency_key: str | None = None
    refused: set[str] = dataclasses.field(default_factory=set)

    @property
    def caller(self) -> Caller:
        """Who asks.

        Raises:
            - Unauthenticated: if that is not known
        """
        if self.identity.caller is None:
            raise Unauthenticated(self.identity.refusal)
        return self.identity.caller

    def tenants(self, table: str) -> Sequence[str] | None:
        """Return the tenants whose rows of a table the caller may read; None means all."""
        if table == "tenant":
            return self.identity.member_of
        return None if self.caller.tenant_id is None else [self.caller.tenant_id]

    def authorize(self, kind: str, name: str = "") -> None:
        """Check that the caller may execute the field `name` of an operation of this kind.

        Raises:
            - Unauthenticated: if it is not known who asks
            - Forbidden: if the API key lacks the scope
        """
        scope = _OTHER.get(name, _SCOPES[kind])
        if self.caller.scopes.isdisjoint(_GRANTED_BY[scope]):
            raise Forbidden(f"The API key does not have the scope {scope!r}.")

    def scopes(self) -> list[str]:
        """Return what the caller's scopes amount to."""
        return [scope for scope, granting in _GRANTED_BY.items() if not self.caller.scopes.isdisjoint(granting)]

    def key_for(self, field: Field) -> str | None:
        """Return the idempotency key of one field: a request may set states in several."""
        return f"{self.idempotency_key}/{field.key}" if self.idempotency_key else None

    async def read(self, statement: sa.Executable) -> Sequence[Any]:
        """Return the rows of a statement."""
        async with reading(self.store) as connection:
            return (await connection.execute(statement)).all()
