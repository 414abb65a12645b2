"""Documents of states as the store reads them: what rules depend on, and which of them say the same."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from ...engine.lifecycle import LIFECYCLE

__all__ = ["STATE_LIMIT", "StateHead", "read_head", "same_state"]

STATE_LIMIT = 1_000_000
"""How many bytes a state document may have."""


class _Document(msgspec.Struct, gc=False):
    """A document whose fields do not matter here."""


class StateHead(msgspec.Struct, gc=False):
    """The fields of a state document that rules depend on."""

    type: str
    message: str | None = None
    start_time: datetime.datetime | msgspec.UnsetType | None = msgspec.UNSET
    cached_inputs: dict[str, msgspec.Raw] | None = None
    result: _Document | msgspec.UnsetType = msgspec.field(name="_result", default=msgspec.UNSET)


_decode = msgspec.json.Decoder(StateHead).decode


def read_head(document: bytes) -> tuple[StateHead, str]:
    """Read what rules need of a state document, and return it with the text of the document.

    Raises:
        - ValueError: if it is too large, or not the document of a state
    """
    if len(document) > STATE_LIMIT:
        raise ValueError("State payload is too large.")
    try:
        text = document.decode()
        head = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the state is malformed: {error}") from error
    if head.type not in LIFECYCLE:
        raise ValueError(f"the state is malformed: there is no state of type {head.type!r}")
    if head.message is not None and "\x00" in head.message:
        head.message = head.message.replace("\x00", "\ufffd")
    return head, text


def same_state(sent: str, recorded: str) -> bool:
    """Whether a state that was sent is the recorded one, which may have taken over cached inputs meanwhile."""
    if sent == recorded:
        return True
    mine: dict[str, Any] = msgspec.json.decode(sent)
    stored: dict[str, Any] = msgspec.json.decode(recorded)
    if not mine.get("cached_inputs"):
        mine.pop("cached_inputs", None)
        stored.pop("cached_inputs", None)
    return mine == stored
