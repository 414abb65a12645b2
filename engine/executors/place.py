"""The port to where bodies run: a body is a job with a name of its own, and what became of it is an outcome.

An `Executor` describes a place and can be pickled; `Executor.open` opens it for a flow run. The `Place` takes jobs and
gives a `Ticket` for each, which tells when the body began, what became of it, and how to stop it.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never

import msgspec

from .. import errors
from ..errors import ExecutorError, FlowDefinitionError
from ..remote import Parts, Remote
from ..result import Result

__all__ = [
    "Done",
    "Fate",
    "Job",
    "Lost",
    "Needs",
    "Outcome",
    "Place",
    "Raised",
    "Refused",
    "Remote",
    "Stored",
    "Ticket",
    "TimedOut",
    "settled",
]


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What the body of a task needs to run: ``@task(needs=Needs(gpus=1, place="gpu"))``.

    Args:
        - cpus, gpus: how many of each
        - memory: bytes
        - resources: others, by name, as the workers offer them
        - priority: of what waits for a limit, a thread, a process or a cluster, what has a higher one goes first
        - place: the name of the executor, where the flow has several; its default if None
        - options: by kind of executor, for instance ``{"dask": {...}}``; passed on unread
        - may_rerun: whether the body may be run again by itself when nobody knows what became of it
        - queue_timeout: seconds that it may wait for a place to run, which the task's timeout never counts
    """

    cpus: float | None = None
    gpus: float | None = None
    memory: int | None = None
    resources: Mapping[str, float] = {}
    priority: int = 0
    place: str | None = None
    options: Mapping[str, Mapping[str, Any]] = {}
    may_rerun: bool = False
    queue_timeout: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.priority, int) or isinstance(self.priority, bool):
            raise FlowDefinitionError(f"a priority is a whole number, not {self.priority!r}")


def priority_of(needs: Needs | None) -> int:
    """Return the priority of a task with these needs."""
    return 0 if needs is None else needs.priority


_RESOURCE_TAG = "dask-resource:"


def needed(needs: Needs | None, tags: Iterable[str]) -> Needs:
    """Return what a task needs; its tags may name resources too, as ``dask-resource:GPU=1``."""
    found = needs or Needs()
    named = {}
    for tag in tags:
        if tag.startswith(_RESOURCE_TAG):
            name, _, amount = tag.removeprefix(_RESOURCE_TAG).partition("=")
            named[name] = float(amount)
    return msgspec.structs.replace(found, resources={**named, **found.resources}) if named else found


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A body to be run once.

    Args:
        - id: the same for whoever asks for this attempt of this task run
        - name: what errors call it
        - body: the function
        - is_async: whether it is awaited
        - args, inputs: its arguments, by position and by name
        - keep: whether a large result may stay there, as a `Remote`
        - store: where the body's result is written from there, as a `Stored`
        - needs: what it needs to run
        - timeout: seconds that it may take from its beginning
        - is_read: whether a result that can be read only once is read where the body ran, and kept as a list
        - grace: seconds that it gets to end, once it was told to stop
        - is_taken_over: whether somebody may have submitted it before, who is gone
    """

    id: str
    name: str
    body: Callable[..., Any]
    is_async: bool
    args: tuple[Any, ...] = ()
    inputs: Mapping[str, Any] = {}
    is_read: bool = False
    keep: bool = False
    store: Result | None = None
    needs: Needs = Needs()
    timeout: float | None = None
    grace: float = 5.0
    is_taken_over: bool = False


class Stored(msgspec.Struct, frozen=True):
    """What a body returned, where the body ran and has stored it.

    Args:
        - value: the value, or a `Remote`
        - result: where it is stored
    """

    value: Any
    result: Result


class Fate(enum.Enum):
    """What became of a body that was stopped."""

    NEVER_BEGAN = "never began"
    ENDED = "ended"
    KILLED = "killed"
    GOES_ON = "goes on"
    UNKNOWN = "unknown"


class Done(msgspec.Struct, frozen=True):
    """The body returned a value."""

    value: Any


class Raised(msgspec.Struct, frozen=True):
    """The body raised an error or a signal, or was cancelled."""

    error: BaseException


class TimedOut(msgspec.Struct, frozen=True):
    """The body took longer than its timeout.

    Args:
        - fate: what became of it
        - detail: the same as a sentence; empty if it ended at once
    """

    fate: Fate
    detail: str = ""


class Lost(msgspec.Struct, frozen=True):
    """Nobody knows what became of the body.

    Args:
        - reason: why, as a sentence
        - may_have_run: whether it may have begun
    """

    reason: str
    may_have_run: bool


class Refused(msgspec.Struct, frozen=True):
    """The place does not take the job."""

    reason: str


Outcome = Done | Raised | TimedOut | Lost | Refused
"""What became of a body."""


class Ticket(ABC):
    """A job that a place has taken."""

    id: str

    @abstractmethod
    async def began(self) -> bool:
        """Wait until the body begins, or until it is known that it never will; return whether it did."""

    @abstractmethod
    async def outcome(self) -> Outcome:
        """Wait until it is known what became of the body. Whoever is cancelled meanwhile has stopped nothing."""

    @abstractmethod
    async def stop(self, cause: str, grace: float) -> Fate:
        """Stop the body.

        Args:
            - cause: why; with ``"handover"``, one that can be attached to goes on for whoever submits it next
            - grace: seconds that it gets to end by itself, where it can be asked to

        Returns:
            - Fate: what became of it
        """


class Place(ABC):
    """Where bodies run, open on one event loop."""

    is_here = False
    """Whether async bodies run on the loop of the run itself, so that those without a timeout need no job."""

    reports_begin = False
    """Whether a body begins some time after it was taken, and its ticket tells when."""

    keeps_values = False
    """Whether results can stay there."""

    window: int | None = None
    """How many jobs it takes at once; None is no limit."""

    is_several = False
    """Whether it is several places, each with a name."""

    reattaches = False
    """Whether a job goes on without its client, and is given back to whoever submits one of the same id."""

    def has(self, name: str | None) -> bool:
        """Whether there is a place of this name."""
        return True

    def named(self, name: str | None) -> Place:
        """Return the place of this name, where there are several; None is the default."""
        return self

    @abstractmethod
    async def submit(self, job: Job) -> Ticket:
        """Take a job; waits while the place is full.

        A job whose id the place has taken before is that job, also for another client where the place `reattaches`.
        """

    async def fetch(self, remote: Remote) -> Any:
        """Return a value that stayed here.

        Raises:
            - Lost: if it is gone
        """
        raise ExecutorError(f"nothing stays at a {type(self).__name__}")

    async def split(self, remote: Remote) -> Parts:
        """Return the elements of a value that stayed here, to be mapped over.

        Raises:
            - TypeError: if it has none; the text says why
            - Lost: if it is gone
        """
        raise ExecutorError(f"nothing stays at a {type(self).__name__}")

    async def check(self) -> list[str]:
        """Return why bodies cannot run here, one sentence for each reason."""
        return []


def settled(outcome: Outcome, name: str) -> Any:
    """Return what a body returned, or raise what it raised.

    Raises:
        - ExecutorError: if it was lost, refused, or took too long
    """
    match outcome:
        case Done(value):
            return value
        case Raised(error):
            raise error
        case _:
            return _fail(outcome, name)


def _fail(outcome: TimedOut | Lost | Refused, name: str) -> Never:
    match outcome:
        case TimedOut(_, detail):
            raise ExecutorError(f"task {name!r} took longer than its timeout. {detail}".rstrip())
        case Lost(reason, may_have_run):
            raise errors.Lost(f"task {name!r}: {reason}", may_have_run)
        case Refused(reason):
            raise ExecutorError(f"task {name!r}: {reason}")
