"""Who the caller is, its API keys, and the tokens that clients of 0.15 exchange keys for."""

from __future__ import annotations

import datetime
import secrets
from typing import Any

import msgspec
import sqlalchemy as sa
from graphql import GraphQLSchema

from ...engine.errors import BackendRejected
from ..store.schema import metadata
from .execution import Resolver, Variables
from .operation_cache import Field
from .projection import project
from .request import Call

__all__ = ["NOBODY", "resolvers"]

NOBODY = "00000000-0000-4000-8000-000000000000"
"""The user that everybody is where no API key is asked for."""

_TOKEN_LIFE = datetime.timedelta(hours=1)


def resolvers(schema: GraphQLSchema) -> dict[str, Resolver]:
    """Return how these operations are answered, by their names."""
    assert schema.mutation_type is not None
    switch = schema.mutation_type.fields["switch_tenant"]

    async def switch_tenant(call: Call, field: Field, variables: Variables) -> Any:
        tenant_id = variables.arguments(switch, field)["input"]["tenant_id"]
        if call.identity.member_of is not None and tenant_id not in call.identity.member_of:
            raise BackendRejected("Invalid tenant ID.")
        return project(await _token(call, tenant_id), field.fields)

    return {
        "auth_info": _auth_info,
        "auth_api_key": _auth_api_key,
        "user": _user,
        "switch_tenant": switch_tenant,
        "refresh_token": _refresh_token,
    }


async def _auth_info(call: Call, field: Field, variables: Variables) -> Any:
    facts = {
        "tenant_id": await _tenant(call),
        "user_id": call.caller.user_id or NOBODY,
        "api_token_scope": "USER" if "write" in call.scopes() else "READ",
        "key_name": call.caller.key_name,
        "scopes": call.scopes(),
    }
    return project(facts, field.fields)


async def _user(call: Call, field: Field, variables: Variables) -> Any:
    user = {"id": call.caller.user_id or NOBODY, "default_membership": {"tenant_id": await _tenant(call)}}
    return project([user], field.fields)


async def _tenant(call: Call) -> str | None:
    """Return the tenant that the caller acts for: without API keys, the first there is."""
    if call.caller.tenant_id is not None or call.identity.member_of is not None:
        return call.caller.tenant_id
    tenant = metadata.tables["tenant"].c
    rows = await call.read(sa.select(tenant.id).order_by(tenant.id).limit(1))
    return rows[0].id if rows else None


async def _auth_api_key(call: Call, field: Field, variables: Variables) -> Any:
    key = metadata.tables["api_key"].c
    shown = sa.select(key.id, key.name, key.user_id, key.scopes, key.created, key.expires_at, key.last_used_at)
    shown = shown.where(key.parent_id.is_(None)).order_by(key.id)
    if call.caller.tenant_id is not None:
        shown = shown.where(key.tenant_id == call.caller.tenant_id)
    return project([dict(row._mapping) for row in await call.read(shown)], field.fields)


async def _refresh_token(call: Call, field: Field, variables: Variables) -> Any:
    tenant_id = await _tenant(call)
    if tenant_id is None:
        raise BackendRejected("Invalid tenant ID.")
    return project(await _token(call, tenant_id), field.fields)


async def _token(call: Call, tenant_id: str) -> dict[str, Any]:
    """Make a token of the caller's API key: it lives for an hour, for an hour longer whenever it is refreshed, and not
    for a moment longer than the key.
    """
    expires = call.store.clock.now() + _TOKEN_LIFE
    if call.caller.key_id is not None:
        owner = msgspec.structs.replace(call.caller, tenant_id=tenant_id)
        token = (await call.store.create_descendant(owner, name="access token", expires_at=expires))["key"]
    elif call.identity.key is None:
        token = secrets.token_urlsafe(32)  # nobody is asked for it
    elif tenant_id == call.caller.tenant_id:
        token = call.identity.key  # the store does not have it, so nothing that is made of it could go with it
    else:
        raise BackendRejected("Another tenant of this API key is named in each request: X-PREFECT-TENANT-ID.")
    return {"access_token": token, "refresh_token": token, "expires_at": expires}
