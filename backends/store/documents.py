"""What the store relies on in the documents that clients send."""

from __future__ import annotations

from typing import Any

import msgspec

from ...engine.errors import BackendRejected

__all__ = ["check_flow"]


class _Parameter(msgspec.Struct):
    name: str
    required: bool | None = None


class _Schedule(msgspec.Struct):
    clocks: list[dict[str, Any]] | None = None


class _Flow(msgspec.Struct, kw_only=True):
    name: str
    description: str | None = None
    core_version: str | None = msgspec.field(default=None, name="__version__")
    parameters: list[_Parameter] | None = None
    tasks: list[dict[str, Any]] | None = None
    edges: list[dict[str, Any]] | None = None
    schedule: _Schedule | None = None
    run_config: dict[str, Any] | None = None
    storage: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None


def check_flow(document: dict[str, Any]) -> None:
    """Check that the parts of a flow document are of the types that a flow's are.

    Raises:
        - BackendRejected: if one is not; the message names it
    """
    try:
        msgspec.convert(document, _Flow)
    except msgspec.ValidationError as error:
        raise BackendRejected(f"The serialized flow is malformed: {error}") from error
