"""What goes into the store and comes out of it, beside rows."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from ...engine.errors import BackendRejected, OwnershipLost, UpstreamRefused, VersionLockMismatch
from ...engine.serialization import decode_state

__all__ = [
    "ANYONE",
    "Caller",
    "Kind",
    "NextEvents",
    "Outcome",
    "Payload",
    "ScheduledEvent",
    "StateChange",
    "StateUpdate",
]

Payload = dict[str, Any]
Kind = Literal["flow_run", "task_run"]

VERSION_LOCKING_ERROR = "VERSION_LOCKING_ERROR"
OWNERSHIP_LOST = "OWNERSHIP_LOST"
UPSTREAM_REFUSED = "UPSTREAM_REFUSED"

_ERRORS = {OWNERSHIP_LOST: OwnershipLost, UPSTREAM_REFUSED: UpstreamRefused}


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and what the headers of the request say.

    Args:
        - tenant_id: the only tenant whose rows this caller sees and writes; None sees all
        - scopes: what its API key allows; the server holds callers to it
        - user_id: the owner of its API key
        - key_name: the name of that key
        - key_id: that key in the store, or the one that it was made of as a session or a token
        - agent_id: the agent it says it is (``X-PREFECT-AGENT-ID``)
        - core_version: the version of its client (``X-PREFECT-CORE-VERSION``)
        - client_id: a random text that one flowloop client process sends with everything
          (``X-FLOWLOOP-CLIENT-ID``); None for any other client. A caller with a client id is *fenced*: it sends
          versions that it means, wherever it writes, and flows that it registers are version locked.
        - queue_seconds: after how long a run of its own that found no place asks again (``X-FLOWLOOP-QUEUE-SECONDS``)
    """

    tenant_id: str | None = None
    scopes: frozenset[str] = frozenset({"read", "admin"})
    user_id: str | None = None
    key_name: str | None = None
    key_id: str | None = None
    agent_id: str | None = None
    core_version: str | None = None
    client_id: str | None = None
    queue_seconds: float = 30.0

    @property
    def is_foreign(self) -> bool:
        """Whether it is a client of Prefect 1."""
        return self.core_version is not None and self.client_id is None


ANYONE = Caller()
"""A caller without limits: the embedded process itself, the command line, the services."""


# Thousands of these live for the length of a batch, and none is part of a cycle: the garbage collector is spared them.
class StateUpdate(msgspec.Struct, frozen=True, gc=False):
    """A state that a run is to take.

    Args:
        - run_id: the flow run or task run
        - state: the state document as JSON text in UTF-8, stored as it is
        - version: the version the run is believed to have; None if the client does not know or care
        - epoch: the claim by which the flow run is the sender's; None if it is nobody's who claims
        - rests_on: the task runs of the same request without whose states, which come before, this one makes no sense
    """

    run_id: str
    state: bytes
    version: int | None = None
    epoch: int | None = None
    rests_on: tuple[str, ...] = ()


class Outcome(msgspec.Struct, omit_defaults=True, gc=False):
    """What became of one `StateUpdate`.

    Args:
        - id: the flow run or task run
        - status: ``SUCCESS``: recorded, or recorded before; ``QUEUED``: a Queued state was recorded in its place;
          ``ERROR``: nothing was recorded
        - message: why it was queued or refused
        - version: the version of the state that was recorded, or the run's version if none was
        - code: ``VERSION_LOCKING_ERROR`` if the version was not the run's, ``OWNERSHIP_LOST`` if the epoch was not,
          ``UPSTREAM_REFUSED`` if a state that it rests on was refused
        - document: the state that was recorded, where it is not the one that was sent; of a flow run that has moved
          meanwhile, the state that it has instead
    """

    id: str
    status: Literal["SUCCESS", "QUEUED", "ERROR"] = "SUCCESS"
    message: str | None = None
    version: int | None = None
    code: str | None = None
    document: str | None = None

    @property
    def serialized_state(self) -> msgspec.Raw | None:
        """The document as an answer shows it."""
        return None if self.document is None else msgspec.Raw(self.document.encode())

    @property
    def error(self) -> BackendRejected | None:
        """The refusal as an exception, if it is one."""
        if self.status != "ERROR":
            return None
        if self.code == VERSION_LOCKING_ERROR:
            standing = None if self.document is None else decode_state(self.document)
            return VersionLockMismatch(self.message or "", standing)
        return _ERRORS.get(self.code or "", BackendRejected)(self.message or "")


class StateChange(msgspec.Struct, frozen=True, gc=False):
    """A state that has just been committed by this process, for those who watch (`Store.watch`).

    Args:
        - kind: of what it is the state
        - run_id: the run
        - flow_run_id: the flow run that it is of, or is
        - tenant_id: whose it is
        - version: the version of the run with this state
        - state: its name
        - message: its message
        - timestamp: when
        - serialized_state: its document
        - again: whether it is told again, as something else about the run has changed
    """

    kind: Kind
    run_id: str
    flow_run_id: str
    tenant_id: str
    version: int
    state: str
    message: str | None
    timestamp: datetime.datetime
    serialized_state: str
    again: bool = False


class ScheduledEvent(msgspec.Struct, frozen=True):
    """One date of a schedule, with what its clock adds to the flow run."""

    start_time: datetime.datetime
    parameter_defaults: dict[str, Any] = {}
    labels: list[str] | None = None


NextEvents = Callable[[dict[str, Any], datetime.datetime, int], Sequence[ScheduledEvent]]
"""``next_events(schedule_document, after, count)``: the next dates of a schedule, in order."""
