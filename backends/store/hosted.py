"""What only the hosted API had: secrets, key-value pairs, limits, API keys."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import secrets
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, or_, select, update

from ...engine.errors import BackendRejected, FlowloopError
from .._line import checked_rate
from .records import Caller, Payload
from .tx import Tx, in_utc, tables

__all__ = [
    "LIMITS",
    "authenticate",
    "create_api_key",
    "create_descendant",
    "delete_api_key",
    "delete_flow_concurrency_limit",
    "delete_key_value",
    "delete_secret",
    "delete_task_rate_limit",
    "delete_task_tag_limit",
    "list_api_keys",
    "note_use",
    "secret_names",
    "secret_value",
    "set_key_value",
    "set_limit",
    "set_secret",
    "update_flow_concurrency_limit",
    "update_task_rate_limit",
    "update_task_tag_limit",
]

_VALUE_LIMIT = 10_000
_DEFAULT = ("read", "write")
_SCOPES = ("read", "answer", "run", "write", "admin")

_NOTED_EVERY = datetime.timedelta(minutes=1)
"""When a key was last used is known this exactly."""


def _delete(tx: Tx, table: str, row_id: str, missing: str) -> Payload:
    row = tx.row(table, row_id, missing)
    tx.run(delete(tables[table]).where(tables[table].c.id == row["id"]))
    return {"success": True}


# -- secrets -------------------------------------------------------------------------------------------


def set_secret(tx: Tx, *, name: str, value: Any) -> Payload:
    """Store a secret, encrypted; the value None deletes it."""
    if not name:
        raise BackendRejected("A secret needs a name.")
    if value is None:
        return delete_secret(tx, name=name)
    ciphertext = _cipher(tx.secret_key).encrypt(msgspec.json.encode(value)).decode()
    tx.put("secret", {"tenant_id": tx.tenant_or_default(None), "name": name}, {"ciphertext": ciphertext})
    return {"success": True}


def secret_value(tx: Tx, *, name: str) -> Any:
    """Return the value of a secret."""
    secret = tables["secret"].c
    owner = tx.tenant_or_none()
    ciphertext = tx.scalar(select(secret.ciphertext).where(secret.tenant_id == owner, secret.name == name))
    if ciphertext is None:
        raise BackendRejected("No value found for the requested key")
    cipher = _cipher(tx.secret_key)
    from cryptography.fernet import InvalidToken

    try:
        return msgspec.json.decode(cipher.decrypt(ciphertext.encode()))
    except InvalidToken as error:
        raise BackendRejected(f"The secret {name!r} was stored under another key.") from error


def secret_names(tx: Tx) -> list[str]:
    """Return the names of all secrets, sorted."""
    secret = tables["secret"].c
    return list(tx.connection.execute(select(secret.name).where(tx.mine("secret")).order_by(secret.name)).scalars())


def delete_secret(tx: Tx, *, name: str) -> Payload:
    """Delete a secret; one that is not there is no error."""
    secret = tables["secret"].c
    tx.run(delete(tables["secret"]).where(secret.tenant_id == tx.tenant_or_none(), secret.name == name))
    return {"success": True}


@functools.lru_cache(maxsize=4)
def _cipher(secret_key: str) -> Any:
    if not secret_key:
        raise BackendRejected("Secrets need an encryption key: set FLOWLOOP_SECRET_KEY, of the server if there is one.")
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise FlowloopError("secrets need an extra: pip install 'flowloop[server]'") from error
    derived = hashlib.scrypt(secret_key.encode(), salt=b"flowloop secrets", n=2**12, r=8, p=1, dklen=32)
    return Fernet(base64.urlsafe_b64encode(derived))


# -- key-value pairs and limits ------------------------------------------------------------------------


def set_key_value(tx: Tx, *, key: str, value: Any) -> Payload:
    """Store a value of at most 10 KB under a key."""
    if not key:
        raise BackendRejected("A key-value pair needs a key.")
    if len(msgspec.json.encode(value)) > _VALUE_LIMIT:
        raise BackendRejected("Value payload exceedes 10KB limit.")
    return {"id": tx.put("key_value", {"tenant_id": tx.tenant_or_default(None), "key": key}, {"value": value})}


def delete_key_value(tx: Tx, *, key_value_id: str) -> Payload:
    """Delete a key with its value."""
    return _delete(tx, "key_value", key_value_id, "Invalid key value ID.")


def update_task_tag_limit(tx: Tx, *, tag: str, limit: int) -> Payload:
    """Limit how many task runs with a tag run at once."""
    return _put_limit(tx, "task_tag_limit", {"tag": tag}, limit)


def delete_task_tag_limit(tx: Tx, *, limit_id: str) -> Payload:
    """Take a limit away, with all places that are held under it."""
    return _delete(tx, "task_tag_limit", limit_id, "Invalid limit ID.")


def update_task_rate_limit(tx: Tx, *, tag: str, limit: int, period: float) -> Payload:
    """Limit how many task runs with a tag begin in any `period` seconds."""
    return _put_limit(tx, "task_rate_limit", {"tag": tag}, limit, period=checked_rate(limit, period))


def delete_task_rate_limit(tx: Tx, *, limit_id: str) -> Payload:
    """Take a rate away."""
    return _delete(tx, "task_rate_limit", limit_id, "Invalid limit ID.")


def update_flow_concurrency_limit(tx: Tx, *, name: str, limit: int) -> Payload:
    """Limit how many flow runs with a label run at once."""
    return _put_limit(tx, "flow_concurrency_limit", {"name": name}, limit)


def delete_flow_concurrency_limit(tx: Tx, *, limit_id: str) -> Payload:
    """Take a limit away, with all places that are held under it."""
    return _delete(tx, "flow_concurrency_limit", limit_id, "Invalid limit ID.")


LIMITS = {
    "tag": ("task_tag_limit", "tag"),
    "rate": ("task_rate_limit", "tag"),
    "label": ("flow_concurrency_limit", "name"),
}
"""What kinds of limits there are: where each is kept, and the column that says what it is for."""


def set_limit(tx: Tx, *, kind: str, name: str, limit: int | None, period: float | None = None) -> Payload:
    """Set how many runs go on at once, or how many begin in a period; None takes the limit away.

    Args:
        - kind: one of `LIMITS`
        - name: the tag of the tasks, or the label of the flow runs
        - limit: how many
        - period: of a rate, in how many seconds
    """
    if kind not in LIMITS:
        raise BackendRejected(f"There are limits of the kinds {', '.join(LIMITS)}, not {kind!r}.")
    table, column = LIMITS[kind]
    if limit is not None:
        rate = {"period": checked_rate(limit, period)} if kind == "rate" else {}
        return _put_limit(tx, table, {column: name}, limit, **rate)
    row = tx.first(select(tables[table].c.id).where(tx.mine(table), tables[table].c[column] == name))
    if row is None:
        raise BackendRejected(f"There is no limit for the {kind} {name!r}.")
    return _delete(tx, table, row["id"], "Invalid limit ID.")


def _put_limit(tx: Tx, table: str, key: dict[str, str], limit: int, **rate: float) -> Payload:
    if not all(key.values()):
        raise BackendRejected("A limit needs a tag or a label.")
    if limit < 0:
        raise BackendRejected("A limit must not be negative.")
    return {"id": tx.put(table, {"tenant_id": tx.tenant_or_default(None), **key}, {"limit": limit, **rate})}


# -- API keys ------------------------------------------------------------------------------------------


def create_api_key(
    tx: Tx,
    *,
    name: str,
    user_id: str | None = None,
    expires_at: datetime.datetime | None = None,
    scopes: Sequence[str] = _DEFAULT,
    tenant_id: str | None = None,
) -> Payload:
    """Create an API key. The key itself is in this answer only: the store keeps a digest.

    Returns:
        - Payload: ``id`` and ``key``
    """
    if not name:
        raise BackendRejected("An API key needs a name.")
    if not scopes or not set(scopes) <= set(_SCOPES):
        raise BackendRejected("The scopes of an API key are read, answer, run, write and admin.")
    if not set(scopes) <= _allowed(tx.caller.scopes):
        raise BackendRejected("An API key cannot allow more than the key that creates it.")
    if tx.caller.tenant_id is not None and user_id not in (None, tx.caller.user_id):
        # The owner of a key acts for every tenant that it has keys in.
        raise BackendRejected("An API key can only be made for its own user.")
    latest = _end_of_callers(tx)
    expires_at = latest if expires_at is None else in_utc(expires_at)
    if latest is not None and expires_at is not None and expires_at > latest:
        raise BackendRejected("An API key cannot live longer than the key that creates it.")
    if expires_at is not None and expires_at <= tx.now:
        raise BackendRejected("An API key cannot end before it is made.")
    key = secrets.token_urlsafe(32)
    key_id = tx.insert(
        "api_key",
        tenant_id=tx.tenant_or_default(tenant_id),
        user_id=user_id if user_id is not None else tx.caller.user_id,
        name=name,
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
        key_hash=_digest(key),
    )
    return {"id": key_id, "key": key}


def _end_of_callers(tx: Tx) -> datetime.datetime | None:
    api_key = tables["api_key"].c
    ends: datetime.datetime | None = tx.scalar(select(api_key.expires_at).where(api_key.id == tx.caller.key_id))
    return ends


def _allowed(scopes: Collection[str]) -> set[str]:
    """Return the scopes that these amount to: each but read holds those before it."""
    highest = max((_SCOPES.index(scope) for scope in scopes), default=0)
    return {*scopes, *_SCOPES[1 : highest + 1]}


def create_descendant(tx: Tx, *, expires_at: datetime.datetime, name: str | None = None) -> Payload:
    """Create a key that stands for the caller's: it allows the same, and goes when that goes.

    Args:
        - expires_at: until when it counts, if the caller's own key does not end before
        - name: its name; that of the caller's key if None

    Returns:
        - Payload: ``key``
    """
    made = secrets.token_urlsafe(32)
    tx.insert(
        "api_key",
        tenant_id=tx.tenant_or_default(None),
        user_id=tx.caller.user_id,
        name=name or tx.caller.key_name or "session",
        scopes=sorted(tx.caller.scopes),
        expires_at=expires_at,
        key_hash=_digest(made),
        parent_id=tx.caller.key_id,
    )
    return {"key": made}


def renew_session(tx: Tx, *, key: str, expires_at: datetime.datetime) -> bool:
    """Have a session live on; return whether there is one of this key."""
    api_key = tables["api_key"].c
    return bool(
        tx.update("api_key", api_key.key_hash == _digest(key), api_key.parent_id.is_not(None), expires_at=expires_at)
    )


def delete_session(tx: Tx, *, key: str) -> bool:
    """Delete a session; return whether there was one. A key that is none is left alone."""
    api_key = tables["api_key"].c
    mine = api_key.key_hash == _digest(key)
    return bool(tx.run(delete(tables["api_key"]).where(mine, api_key.parent_id.is_not(None))))


def list_api_keys(tx: Tx) -> list[Payload]:
    """Return the API keys, without what was made of them: ``id``, ``name``, ``scopes`` and three moments."""
    key = tables["api_key"].c
    shown = (key.id, key.name, key.scopes, key.created, key.expires_at, key.last_used_at)
    rows = tx.all(select(*shown).where(tx.mine("api_key"), key.parent_id.is_(None)).order_by(key.id))
    return [dict(row) for row in rows]


def delete_api_key(tx: Tx, *, key_id: str) -> Payload:
    """Delete an API key: nobody gets in any more with it, or with what was made of it."""
    return _delete(tx, "api_key", key_id, "Invalid API key ID.")


def _digest(key: str) -> str:
    # A key is 256 random bits: a plain digest cannot be guessed back.
    return hashlib.sha256(key.encode()).hexdigest()


def authenticate(connection: Connection, key: str, now: datetime.datetime) -> tuple[Caller, bool] | None:
    """Return whose API key this is, and whether its use is to be noted; None if it is nobody's, or has expired.

    What was made of a key expires with it at the latest.
    """
    api_key, parent = tables["api_key"], tables["api_key"].alias("parent")
    wanted = select(*api_key.c, parent.c.expires_at.label("parent_expires_at"))
    wanted = wanted.select_from(api_key.outerjoin(parent, api_key.c.parent_id == parent.c.id))
    row = connection.execute(wanted.where(api_key.c.key_hash == _digest(key))).mappings().first()
    if row is None or any(end is not None and end <= now for end in (row["expires_at"], row["parent_expires_at"])):
        return None
    caller = Caller(
        tenant_id=row["tenant_id"],
        scopes=frozenset(row["scopes"]),
        user_id=row["user_id"],
        key_name=row["name"],
        key_id=row["parent_id"] or row["id"],
    )
    used = row["last_used_at"]
    return caller, used is None or used < now - _NOTED_EVERY


def note_use(tx: Tx, *, key: str) -> None:
    """Note that an API key is in use, and so is the one that it was made of."""
    api_key = tables["api_key"].c
    mine = api_key.key_hash == _digest(key)
    made_of = select(api_key.parent_id).where(mine).scalar_subquery()
    used = update(tables["api_key"]).where(or_(mine, api_key.id == made_of))
    tx.run(used.values(last_used_at=tx.now))
