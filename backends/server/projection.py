"""From a whole document to what a query selects of it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from .operation_cache import Field

__all__ = ["project"]


def project(value: Any, fields: Sequence[Field]) -> Any:
    """Return what `fields` select of a document, or of each in a list; moments as an answer shows them."""
    if isinstance(value, list):
        return [project(item, fields) for item in value]
    if value is None or not fields:
        return value.isoformat(timespec="microseconds") if isinstance(value, datetime.datetime) else value
    return {
        field.key: field.owner if field.name == "__typename" else project(value.get(field.name), field.fields)
        for field in fields
    }
