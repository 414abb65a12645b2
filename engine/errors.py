"""The exceptions flowloop raises.

::

    FlowloopError
    ├─ FlowDefinitionError (ValueError)   a flow that cannot run: a cycle, a missing parameter, a duplicate slug
    ├─ InvalidTransition                  a defect in flowloop itself; carries the key, both states and the story
    ├─ SerializationError (ValueError)    a value or a document that cannot be encoded or decoded
    ├─ ExecutorError                      a task body could not be handed to its executor
    │  └─ Lost                            nobody knows what became of it: its process or its machine is gone
    ├─ TaskRunError                       what a task run failed with in another process, if only its text is left
    └─ BackendError                       the backend could not do what was asked
       ├─ BackendUnavailable              try again: the network, a 5xx answer, a 429 answer
       ├─ BackendRejected                 the backend understood, and refuses this one item
       │  ├─ VersionLockMismatch          somebody else has moved this run since it was read
       │  └─ OwnershipLost                the flow run has another owner since
       ├─ FlowRunOwned                    the flow run has an owner that is alive
       └─ DialectError                    an answer or a state document that was not understood

Signals (`flowloop.engine.signals`) are control flow, not errors: they share no base with these.
Exceptions of other libraries are mapped to these once, at the border of the adapter that uses the
library, and stay reachable as ``__cause__``.
"""

from __future__ import annotations

import datetime
from typing import Any

__all__ = [
    "BackendError",
    "BackendRejected",
    "BackendUnavailable",
    "DialectError",
    "ExecutorError",
    "FlowDefinitionError",
    "FlowRunOwned",
    "FlowloopError",
    "InvalidTransition",
    "Lost",
    "OwnershipLost",
    "SerializationError",
    "TaskRunError",
    "UpstreamRefused",
    "VersionLockMismatch",
]


class FlowloopError(Exception):
    """The root of every error flowloop raises."""


class FlowDefinitionError(FlowloopError, ValueError):
    """A flow, a task or an edge is defined in a way that cannot run."""


class InvalidTransition(FlowloopError):
    """The ledger was asked for a move that the state machine does not have.

    Args:
        - key: what was to move, for instance ``("load-1", 3)``
        - start: the state it was in
        - finish: the state asked for
        - story: the earlier moves of the same key, oldest first
    """

    def __init__(self, key: object, start: str, finish: str, story: list[tuple[object, ...]]) -> None:
        lines = "\n".join(f"  {line}" for line in story)
        super().__init__(f"{key!r} cannot go from {start} to {finish}. Its story:\n{lines}")
        self.key = key
        self.start = start
        self.finish = finish
        self.story = story


class SerializationError(FlowloopError, ValueError):
    """A value or a document could not be encoded or decoded."""


class ExecutorError(FlowloopError):
    """A task body could not be handed to its executor, or was lost there."""


class Lost(ExecutorError):
    """Nobody knows what became of a task body: the process or the machine that had it is gone.

    A task that may be run twice names it: ``@task(max_retries=1, retry_delay=0, retry_on=Lost)``.

    Args:
        - message: what happened
        - may_have_run: whether the body may have begun
    """

    def __init__(self, message: str, may_have_run: bool = True) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run

    def __reduce__(self) -> tuple[type[Lost], tuple[str, bool]]:
        return type(self), (str(self), self.may_have_run)


class TaskRunError(FlowloopError):
    """What a task run failed with in another process, where its own error could not be stored and read again."""


class BackendError(FlowloopError):
    """The backend could not do what was asked."""


class BackendUnavailable(BackendError):
    """The backend did not answer, or asked to be left alone for a while; trying again may help.

    Args:
        - message: what happened
        - retry_after: how many seconds the backend asked to wait, if it said so
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendRejected(BackendError):
    """The backend understood the request and refuses it; trying again gives the same answer."""


class VersionLockMismatch(BackendRejected):
    """The run has moved since the version that came with this update.

    Args:
        - message: which run, and where it is
        - standing: the state that it has instead; None where the backend does not say
    """

    def __init__(self, message: str = "", standing: Any = None) -> None:
        super().__init__(message)
        self.standing = standing


class OwnershipLost(BackendRejected):
    """The flow run has been claimed by another owner since: what this one sends is recorded no more."""


class UpstreamRefused(BackendRejected):
    """A state was sent before the states upstream were acknowledged, and one of these was refused."""


class FlowRunOwned(BackendError):
    """The flow run has an owner that is alive, so nobody else can run it now.

    Args:
        - flow_run_id: the flow run
        - owner: who has it; empty if it is a client that does not say
        - last_heard: when its owner was last heard of
        - free_at: when it can be claimed, if nothing is heard of its owner until then
    """

    def __init__(
        self,
        flow_run_id: str,
        owner: str = "",
        last_heard: datetime.datetime | None = None,
        free_at: datetime.datetime | None = None,
    ) -> None:
        who = owner.partition("/")[0] or "another process"
        heard = "" if last_heard is None else f", last heard of at {last_heard.isoformat(timespec='seconds')}"
        free = "when its owner has ended" if free_at is None else f"at {free_at.isoformat(timespec='seconds')}"
        super().__init__(
            f"flow run {flow_run_id} is run by {who}{heard}; unless more is heard of it, it can be continued {free}. "
            "Follow it with if_owned='follow', or take it over with takeover=True."
        )
        self.flow_run_id = flow_run_id
        self.owner = owner
        self.last_heard = last_heard
        self.free_at = free_at


class DialectError(BackendError):
    """An answer, or a state document inside one, was not understood."""
