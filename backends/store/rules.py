"""What may become of a run: the rules of transitions, as functions of facts."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

__all__ = [
    "CASCADE",
    "CLAIMS",
    "ENDED",
    "FINISHED",
    "HEARTBEAT",
    "RUNNING",
    "STARTED_LATER",
    "SUCCESS",
    "UNFINISHED",
    "StateHead",
    "may_follow",
    "read_head",
    "same_state",
]

FAILED = frozenset({"Failed", "TimedOut", "TriggerFailed", "ValidationFailed"})
SUCCESS = frozenset({"Success", "Mapped", "Cached", "Skipped"})

RUNNING = frozenset({"Running", "Cancelling"})
FINISHED = FAILED | SUCCESS | {"Finished", "Cancelled"}
"""What ends a run. Looped, a finished state by its class, is not among them: the run is between two turns."""

STARTED_LATER = frozenset({"Scheduled", "Resume", "Paused", "Retrying", "Queued"})
"""States with a start time."""

UNFINISHED = RUNNING | STARTED_LATER | {"Pending", "Looped", "Submitted", "ClientFailed"}
"""What a run goes on from."""

_KNOWN = FINISHED | UNFINISHED

CLAIMS = frozenset({"Running", "Submitted"})
"""States by which one process takes a run for itself."""

ENDED = frozenset({"Success", "Failed", "Cached", "TimedOut", "Looped", "Cancelled"})
"""States that set the end time of a run."""

HEARTBEAT = {"flow_run": RUNNING | {"Submitted"}, "task_run": frozenset({"Running"})}
"""States that are a sign of life of a run."""

CASCADE = "Cancelled"
"""The state of a flow run that its unfinished task runs take over."""

_RESTART = frozenset({"Pending", "Scheduled", "Resume"})

_AFTER_FINISHED: dict[str, frozenset[str]] = {
    **dict.fromkeys(FINISHED, _RESTART),
    **dict.fromkeys(FAILED, _RESTART | {"Retrying"}),
    **dict.fromkeys(SUCCESS - {"Cached"}, _RESTART | {"Cached"}),
}

STATE_LIMIT = 1_000_000
"""How many bytes a state document may have."""


def may_follow(current: str | None, new: str) -> bool:
    """Whether a fenced run in state `current` may take the state `new`.

    A finished run is final, except for a retry of what failed, a cached copy of what succeeded, and an
    explicit restart.
    """
    return current not in FINISHED or new in _AFTER_FINISHED[current]


class _Document(msgspec.Struct):
    """A document whose fields do not matter here."""


class StateHead(msgspec.Struct):
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
    if head.type not in _KNOWN:
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
