"""Who asks: API keys, and what the headers of a request say."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ...engine.errors import BackendError
from ..store import Caller, Store
from ..store.ids import is_id
from ..store.schema import metadata
from .database import reading
from .settings import ServerSettings

__all__ = ["Authenticator", "Identity"]

_KEPT = 1_000


class Identity(NamedTuple):
    """Who asks.

    Args:
        - caller: what the store is told; None if it is not known who asks
        - member_of: the tenants that the caller may act for; None if it is all
        - refusal: why there is no caller
    """

    caller: Caller | None
    member_of: tuple[str, ...] | None = None
    refusal: str = "Unauthenticated"


class Authenticator:
    """Finds out who asks.

    A key acts for its own tenant, and for each other tenant that the owner of the key has a key in, if the request
    names it; never with more than the scopes of the key that was sent.

    Args:
        - store: where the keys are
        - settings: whether a key is needed, and for how long one that was checked is trusted
        - authenticate: tells whose a key is, before the store is asked; None if it does not know the key
    """

    def __init__(
        self,
        store: Store,
        settings: ServerSettings,
        authenticate: Callable[[str], Awaitable[Identity | None]] | None = None,
    ) -> None:
        self.store = store
        self._settings = settings
        self._authenticate = authenticate
        self._known: OrderedDict[str, tuple[float, Identity]] = OrderedDict()

    async def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return who sends these headers (their names in small letters)."""
        tenant = headers.get("x-prefect-tenant-id")
        if self._settings.require_api_key is False:
            return Identity(_named(Caller(tenant_id=tenant if is_id(tenant) else None), headers))
        authorization = headers.get("authorization")
        if authorization is None:
            return Identity(None)
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return Identity(None, refusal="Malformed Authorization header")
        found = await self._find(key.strip())
        if found is None or found.caller is None:
            return Identity(None)
        caller = found.caller
        if tenant is not None and tenant != caller.tenant_id:
            if found.member_of is not None and tenant not in found.member_of:
                return Identity(None, refusal="The API key does not belong to this tenant.")
            caller = Caller(tenant_id=tenant, scopes=caller.scopes, user_id=caller.user_id)
        return Identity(_named(caller, headers), found.member_of)

    async def _find(self, key: str) -> Identity | None:
        known = self._known.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        self._known.pop(key, None)
        found = await self._authenticate(key) if self._authenticate is not None else None
        if found is None:
            caller = await self.store.authenticate(key)
            if caller is None:
                return None
            found = Identity(caller, await self._tenants(caller))
        self._known[key] = (time.monotonic() + self._settings.key_cache_seconds, found)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found

    async def _tenants(self, caller: Caller) -> tuple[str, ...]:
        """Return the tenants that the owner of a key has keys in."""
        assert caller.tenant_id is not None
        if caller.user_id is None:
            return (caller.tenant_id,)
        key = metadata.tables["api_key"].c
        valid = sa.or_(key.expires_at.is_(None), key.expires_at > self.store.clock.now())
        mine = sa.select(key.tenant_id).where(key.user_id == caller.user_id, valid)
        return tuple({caller.tenant_id, *await self._column(mine)})

    async def problem(self) -> str | None:
        """Return why the database does not answer, or None if it does."""
        try:
            await self._column(sa.select(sa.literal(1)))
        except BackendError as error:
            return str(error)
        return None

    async def _column(self, statement: sa.Executable) -> Sequence[Any]:
        async with reading(self.store) as connection:
            return (await connection.execute(statement)).scalars().all()


def _named(caller: Caller, headers: Mapping[str, str]) -> Caller:
    """Return the caller with what else the headers say of it."""
    return Caller(
        tenant_id=caller.tenant_id,
        scopes=caller.scopes,
        user_id=caller.user_id,
        agent_id=headers.get("x-prefect-agent-id"),
        core_version=headers.get("x-prefect-core-version"),
        client_id=headers.get("x-flowloop-client-id"),
        queue_seconds=_seconds(headers.get("x-flowloop-queue-seconds")) or Caller().queue_seconds,
    )


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 < seconds < 1e6 else None
