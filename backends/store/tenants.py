"""Tenants, projects, messages, and agent configurations."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import delete, select

from ...engine.errors import BackendRejected
from .records import Payload
from .tx import Tx, tables

__all__ = [
    "create_agent_config",
    "create_project",
    "create_tenant",
    "default_tenant",
    "delete_agent_config",
    "delete_message",
    "delete_project",
    "delete_tenant",
    "get_or_create_project",
    "mark_message_as_read",
    "mark_message_as_unread",
    "set_project_description",
    "set_project_name",
    "update_agent_config",
    "update_tenant_name",
    "update_tenant_slug",
]


def create_tenant(tx: Tx, *, name: str, slug: str) -> Payload:
    """Create a tenant."""
    _check_slug(slug)
    return {"id": tx.insert("tenant", name=name, slug=slug)}


def _check_slug(slug: str) -> None:
    plain = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")
    if not slug or slug != plain:
        raise BackendRejected(f"Tenant slug is not valid: {slug!r} should be {plain!r}.")


def update_tenant_name(tx: Tx, *, tenant_id: str, name: str) -> Payload:
    """Rename a tenant."""
    tenant = tx.row("tenant", tenant_id, "Invalid tenant ID.")
    tx.update("tenant", tables["tenant"].c.id == tenant["id"], name=name)
    return {"id": tenant["id"]}


def update_tenant_slug(tx: Tx, *, tenant_id: str, slug: str) -> Payload:
    """Give a tenant another slug."""
    _check_slug(slug)
    tenant = tx.row("tenant", tenant_id, "Invalid tenant ID.")
    tx.update("tenant", tables["tenant"].c.id == tenant["id"], slug=slug)
    return {"id": tenant["id"]}


def delete_tenant(tx: Tx, *, tenant_id: str, confirm: bool = False) -> Payload:
    """Delete a tenant with everything in it."""
    if not confirm:
        raise BackendRejected("Confirm must be true to delete a tenant.")
    tenant = tx.row("tenant", tenant_id, "Invalid tenant ID.")
    tx.run(delete(tables["tenant"]).where(tables["tenant"].c.id == tenant["id"]))
    return {"success": True}


def default_tenant(tx: Tx) -> Payload:
    """Return the tenant that the caller writes for, made if there is none at all."""
    return {"id": tx.tenant_or_default(None)}


def create_project(tx: Tx, *, name: str, tenant_id: str | None = None, description: str | None = None) -> Payload:
    """Create a project."""
    owner = tx.tenant_or_default(tenant_id)
    if not name:
        raise BackendRejected("A project needs a name.")
    return {"id": tx.insert("project", tenant_id=owner, name=name, description=description)}


def get_or_create_project(tx: Tx, *, name: str) -> Payload:
    """Return the project of this name, made if it is new, in the caller's tenant or the first one."""
    if not name:
        raise BackendRejected("A project needs a name.")
    owner = tx.tenant_or_default(None)
    project = tables["project"].c
    found = tx.first(select(project.id).where(project.tenant_id == owner, project.name == name))
    return {"id": found["id"] if found is not None else tx.put("project", {"tenant_id": owner, "name": name})}


def set_project_name(tx: Tx, *, project_id: str, name: str) -> Payload:
    """Rename a project."""
    return _update_project(tx, project_id, name=name)


def set_project_description(tx: Tx, *, project_id: str, description: str | None = None) -> Payload:
    """Describe a project."""
    return _update_project(tx, project_id, description=description)


def _update_project(tx: Tx, project_id: str, **values: Any) -> Payload:
    project = tx.row("project", project_id, "Invalid project.")
    tx.update("project", tables["project"].c.id == project["id"], **values)
    return {"id": project["id"]}


def delete_project(tx: Tx, *, project_id: str) -> Payload:
    """Delete a project with its flows and their runs."""
    project = tx.row("project", project_id, "Invalid project.")
    tx.run(delete(tables["project"]).where(tables["project"].c.id == project["id"]))
    return {"success": True}


def mark_message_as_read(tx: Tx, *, message_id: str) -> Payload:
    """Mark a message as read."""
    return _mark(tx, message_id, read=True)


def mark_message_as_unread(tx: Tx, *, message_id: str) -> Payload:
    """Mark a message as not read."""
    return _mark(tx, message_id, read=False)


def _mark(tx: Tx, message_id: str, *, read: bool) -> Payload:
    message = tx.row("message", message_id, "Invalid message ID.")
    tx.update("message", tables["message"].c.id == message["id"], read=read)
    return {"success": True}


def delete_message(tx: Tx, *, message_id: str) -> Payload:
    """Delete a message."""
    message = tx.row("message", message_id, "Invalid message ID.")
    tx.run(delete(tables["message"]).where(tables["message"].c.id == message["id"]))
    return {"success": True}


def create_agent_config(
    tx: Tx, *, tenant_id: str | None = None, name: str | None = None, settings: dict[str, Any] | None = None
) -> Payload:
    """Store settings that agents can ask for."""
    owner = tx.tenant_or_default(tenant_id)
    return {"id": tx.insert("agent_config", tenant_id=owner, name=name, settings=settings or {})}


def update_agent_config(
    tx: Tx, *, agent_config_id: str, name: str | None = None, settings: dict[str, Any] | None = None
) -> Payload:
    """Change the name or the settings of an agent configuration; what is not given stays."""
    config = tx.row("agent_config", agent_config_id, "Invalid agent config ID.")
    given = {key: value for key, value in {"name": name, "settings": settings}.items() if value is not None}
    tx.update("agent_config", tables["agent_config"].c.id == config["id"], **given)
    return {"id": config["id"]}


def delete_agent_config(tx: Tx, *, agent_config_id: str) -> Payload:
    """Delete an agent configuration."""
    config = tx.row("agent_config", agent_config_id, "Invalid agent config ID.")
    tx.run(delete(tables["agent_config"]).where(tables["agent_config"].c.id == config["id"]))
    return {"success": True}
