"""Who asks: API keys, and what the headers of a request say."""

from __future__ import annotations

import datetime
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple

import anyio
import msgspec
import sqlalchemy as sa

from ...engine.errors import BackendError
from ..store import ANYONE, Caller, Store
from ..store.ids import is_id
from ..store.schema import metadata
from .database import reading
from .settings import ServerSettings

__all__ = ["COOKIE", "Authenticator", "Identity", "is_same_origin"]

COOKIE = "flowloop_session"
"""The cookie of the page: an API key that was made for one browser."""

_KEPT = 1_000

_LOOK_AGAIN = 1.0
"""Seconds between two looks whether who is connected may still be, at the least."""


def is_same_origin(headers: Mapping[str, str], allowed: Sequence[str] = (), *, needed: bool = False) -> bool:
    """Whether a request comes from a page of this server, or unless that is `needed` from no page at all."""
    origin = headers.get("origin")
    if origin is None:
        return not needed
    return origin.partition("://")[2] == headers.get("host") or origin in allowed


class Identity(NamedTuple):
    """Who asks.

    Args:
        - caller: what the store is told; None if it is not known who asks
        - member_of: the tenants that the caller may act for; None if it is all
        - refusal: why there is no caller
        - key: the API key by which it is known; None if it was not asked for one
    """

    caller: Caller | None
    member_of: tuple[str, ...] | None = None
    refusal: str = "Unauthenticated"
    key: str | None = None


class Authenticator:
    """Finds out who asks.

    A key acts for its own tenant, and for each other tenant that the owner of the key has a key in, if the request
    names it; never with more than the scopes of the key that was sent.

    Args:
        - store: where the keys are
        - settings: whether a key is needed, and for how long one that was checked is trusted
        - authenticate: tells whose a key is, before the store is asked; None if it does not know the key
        - authenticate_request: tells who sends a request by its headers, before anything else is looked at; None if it
          does not know
    """

    def __init__(
        self,
        store: Store,
        settings: ServerSettings,
        authenticate: Callable[[str], Awaitable[Identity | None]] | None = None,
        authenticate_request: Callable[[Mapping[str, str]], Awaitable[Identity | None]] | None = None,
    ) -> None:
        self.store = store
        self._settings = settings
        self._authenticate = authenticate
        self._authenticate_request = authenticate_request
        self._known: OrderedDict[str, tuple[float, Identity]] = OrderedDict()

    async def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return who sends these headers (their names in small letters)."""
        tenant = headers.get("x-prefect-tenant-id")
        found = await self._authenticate_request(headers) if self._authenticate_request is not None else None
        if found is None:
            if self._settings.require_api_key is False:
                return Identity(_named(Caller(tenant_id=tenant if is_id(tenant) else None), headers))
            found = await self._by_key(headers)
        if found.caller is None:
            return found
        caller = found.caller
        if tenant is not None and tenant != caller.tenant_id:
            if found.member_of is not None and tenant not in found.member_of:
                return Identity(None, refusal="The API key does not belong to this tenant.")
            caller = msgspec.structs.replace(caller, tenant_id=tenant)
        return found._replace(caller=_named(caller, headers))

    async def _by_key(self, headers: Mapping[str, str]) -> Identity:
        authorization = headers.get("authorization")
        if authorization is None:
            session = _session(headers)
            if session is None:
                return Identity(None)
            if not is_same_origin(headers, self.allowed_origins, needed=True):
                return Identity(None, refusal="A session counts for the page of this server only.")
            authorization = f"Bearer {session}"
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return Identity(None, refusal="Malformed Authorization header")
        found = await self._find(key.strip())
        return Identity(None) if found is None or found.caller is None else found

    async def until_revoked(self, headers: Mapping[str, str]) -> str:
        """Return why whoever sent these headers is let in no more, as soon as that is so."""
        while True:
            await anyio.sleep(max(self._settings.key_cache_seconds, _LOOK_AGAIN))
            try:
                now = await self.identify(headers)
            except BackendError:
                continue  # an outage revokes nothing
            if now.caller is None:
                return now.refusal

    @property
    def allowed_origins(self) -> Sequence[str]:
        """Further origins whose pages count as this server's."""
        return self._settings.allowed_origins.split()

    async def open_session(self, key: str, seconds: float, *, renew: bool = False) -> str | None:
        """Return a key that stands for another one in a browser, and lives for so long.

        Args:
            - key: the API key, or the session that is to live on
            - seconds: for how long
            - renew: whether `key` is a session already

        Returns:
            - str | None: the key of the session; None if `key` is nobody's
        """
        found = await self._find(key) if key else None
        if found is None or found.caller is None:
            return None
        if found.caller.key_id is None:
            return key  # it is not in the store: nothing that is made of it could go with it
        expires = self.store.clock.now() + datetime.timedelta(seconds=seconds)
        if renew:
            return key if await self.store.renew_session(found.caller, key=key, expires_at=expires) else None
        made = await self.store.create_descendant(found.caller, expires_at=expires)
        return str(made["key"])

    async def close_session(self, key: str) -> None:
        """Forget a session."""
        self._known.pop(key, None)
        if key:
            await self.store.delete_session(ANYONE, key=key)

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
        found = found._replace(key=key)
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
            await self.store.check()
        except BackendError as error:
            return str(error)
        return None

    async def _column(self, statement: sa.Executable) -> Sequence[Any]:
        async with reading(self.store) as connection:
            return (await connection.execute(statement)).scalars().all()


def _session(headers: Mapping[str, str]) -> str | None:
    """Return the session that the cookies of a request carry."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None else None


def _named(caller: Caller, headers: Mapping[str, str]) -> Caller:
    """Return the caller with what else the headers say of it."""
    return msgspec.structs.replace(
        caller,
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
