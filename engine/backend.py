"""The backend port: how a run is read, and where its transitions are recorded.

The engine calls nothing but this protocol; what implements it lives in `flowloop.backends` (an embedded
store, a GraphQL client, memory). The names of the calls and of the records are those of the API flowloop
re-creates.

What every adapter promises (``tests/backends/test_conformance.py`` holds each of them to it):

* **Acknowledged means recorded.** A write returns after it is durable where the adapter keeps its data.
* **Versions fence.** A run starts at the version its record says, and every accepted state adds one (so does a
  Queued state that is recorded in the place of the one sent). A state sent with a version that is no longer the run's
  is refused with `VersionLockMismatch`, except when it is the very state that the version was given for (a repeated
  message), which is acknowledged again with the same answer. ``None`` means: do not check.
* **One owner.** A flow run has at most one owner, who has claimed it for a lease and prolongs that with each heartbeat.
  Each claim raises the epoch of the flow run. A state that comes with an epoch, of the flow run or of one of its task
  runs, is refused with `OwnershipLost` if that is not the newest; without one it is a person's or a foreign client's,
  and refused only if it is Running and the flow run has a living owner. A state that ends the flow run, or lets it wait
  for its time, gives it up.
* **The answer is what was recorded**, also where that is not what was sent.
* **The end is final.** A finished run takes no further state but Retrying after a failure, Cached after a success, and
  Pending, Scheduled or Resume, which restart it; and any from the owner that ended it, with its epoch and the version.
* **Order.** The states of one run are recorded in the order they were sent.
* **One bad item fails alone**, with `BackendRejected`; whatever else travelled with it is recorded.
* **An outage is waited out** inside the adapter, up to its limit, before `BackendUnavailable` is raised.
* **Cancellation is safe.** A cancelled write was either recorded whole or not at all.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn, Protocol, Self, cast

import msgspec

from .directives import Directive
from .errors import BackendRejected, FlowloopError, SerializationError
from .plain import check_finite
from .state import State

__all__ = [
    "LEASE_SECONDS",
    "MAX_LAPSES",
    "MOST_URGENT",
    "PROLONGED",
    "ArtifactRecord",
    "Backend",
    "FlowRunClaim",
    "FlowRunFilter",
    "FlowRunInfoResult",
    "FlowRunReservation",
    "FlowRunSummary",
    "FlowSummary",
    "LimitRecord",
    "LogRecord",
    "NotificationRule",
    "Post",
    "ProjectInfo",
    "RegisteredFlow",
    "StateRecord",
    "TaskRunHistory",
    "TaskRunInfoResult",
    "alone_after",
    "beside_after",
    "check_recordable",
    "connect",
    "failing",
    "started_step_by_step",
]


LEASE_SECONDS = 60.0
"""For how long a flow run is its owner's without a sign of life, where nobody says otherwise."""

PROLONGED = 0.25
"""Of which part of a lease at least is left after a Running was recorded with its epoch."""

MAX_LAPSES = 3
"""How often a flow run is begun by owners that die, where nobody says otherwise."""

MOST_URGENT = 1_000_000
"""The highest priority of a flow run."""


def alone_after(lapses: int, lease_seconds: float) -> float:
    """Return after how many seconds a flow run is begun again whose owner has died: alone, because it may be what that
    one died of.

    Args:
        - lapses: how many of its owners had died before
        - lease_seconds: how long its lease was
    """
    return min(10.0 ** min(lapses, 1), lease_seconds)


def beside_after(lapses: int) -> float:
    """Return after how many seconds it is begun beside others where no worker could run it alone, and for how long a
    worker keeps it alone that cannot give it a process of its own.
    """
    return 300.0 if lapses else 30.0


class ProjectInfo(msgspec.Struct, frozen=True):
    """The project a flow is registered in."""

    id: str
    name: str


# Thousands of these are read at once, and none is part of a cycle: the garbage collector need not look at them.
class TaskRunInfoResult(msgspec.Struct, gc=False):
    """What a backend knows of one task run.

    Args:
        - id: the task run
        - task_id: the task it runs
        - task_slug: that task's slug in its flow
        - version: the version of the newest state
        - state: the newest state
        - map_index: the place among the children of a mapped task; -1 for the task itself
    """

    id: str
    task_id: str
    task_slug: str | None
    version: int
    state: State
    map_index: int = -1


class FlowRunInfoResult(msgspec.Struct):
    """What a backend knows of one flow run: one read at the start serves all its tasks.

    `heartbeat` is when its runner was last heard of, if that is known; `owner` is who has claimed it, and `epoch`
    counts the claims. `start_time` is when it began first, and `limits` are those that were set while it goes on.
    `task_runs` holds the static task runs (map index -1) only; those of mapped children come from
    `Backend.get_task_run_infos`.
    """

    id: str
    name: str
    flow_id: str
    version: int
    state: State
    task_runs: list[TaskRunInfoResult]
    parameters: dict[str, Any]
    context: dict[str, Any]
    scheduled_start_time: datetime.datetime | None
    project: ProjectInfo
    heartbeat: datetime.datetime | None = None
    owner: str | None = None
    epoch: int = 0
    start_time: datetime.datetime | None = None
    limits: dict[str, Any] | None = None


class FlowRunClaim(msgspec.Struct, frozen=True):
    """The right to run a flow run, until somebody else claims it.

    Args:
        - owner: who has it
        - epoch: goes with every write of its owner; the next claim has a higher one. None where the backend knows no
            claims.
        - lease_seconds: for how long it is the owner's without a sign of life
    """

    owner: str
    epoch: int | None
    lease_seconds: float = LEASE_SECONDS


class RegisteredFlow(msgspec.Struct, frozen=True):
    """A flow as the backend knows it: `created` is false when it was registered before, unchanged."""

    id: str
    version: int
    created: bool


class LogRecord(msgspec.Struct, frozen=True):
    """One line of a run's log.

    Args:
        - flow_run_id: the flow run
        - task_run_id: the task run, if the line belongs to one
        - timestamp: when it was written, aware
        - name: the logger
        - level: ``"DEBUG"``, ``"INFO"``, ``"WARNING"``, ``"ERROR"`` or ``"CRITICAL"``
        - message: the text
    """

    flow_run_id: str
    task_run_id: str | None
    timestamp: datetime.datetime
    name: str
    level: str
    message: str


class ArtifactRecord(msgspec.Struct, frozen=True):
    """Something that a task run made for people to look at.

    Args:
        - id: its id
        - task_run_id: the task run
        - kind: what it is, for instance ``"link"`` or ``"markdown"``
        - data: the thing itself, as a JSON document
        - created: when it was made
    """

    id: str
    task_run_id: str
    kind: str
    data: Any
    created: datetime.datetime


class FlowRunSummary(msgspec.Struct, frozen=True):
    """One line of a list of flow runs."""

    id: str
    name: str
    flow_name: str
    state: str
    state_message: str | None
    created: datetime.datetime
    start_time: datetime.datetime | None
    end_time: datetime.datetime | None
    scheduled_start_time: datetime.datetime | None = None
    parent_task_run_id: str | None = None
    """The task run that this flow run is, where the flow runs as a task of another one."""


class FlowRunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which flow runs a list is about.

    Args:
        - flow: the name of their flow
        - states: the names of the states they may be in; none means any
        - since: none created before
        - until: none created from then on
        - search: a part of their name, or of that of their flow, in capitals or not
        - due_before: no run that is planned for then or later, and has not begun
        - parts: whether also those that are a task run of another flow run
        - part_of: only those that are a task run of this flow run
    """

    flow: str | None = None
    states: tuple[str, ...] = ()
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    search: str | None = None
    due_before: datetime.datetime | None = None
    parts: bool = True
    part_of: str | None = None


class FlowSummary(msgspec.Struct, frozen=True):
    """One line of a list of flows: the newest version of each.

    Args:
        - id: the flow
        - name: its name
        - version: its newest version
        - project: the project it is registered in
        - has_schedule: whether it has one
        - schedule_active: whether runs are planned after it
        - next_run: when the next planned run begins, if one is planned
        - parameters: the documents of its parameters
    """

    id: str
    name: str
    version: int
    project: str
    has_schedule: bool
    schedule_active: bool
    next_run: datetime.datetime | None
    parameters: list[dict[str, Any]] = []


class LimitRecord(msgspec.Struct, frozen=True):
    """How many runs go on at once, or how often they begin.

    Args:
        - kind: ``"tag"`` for how many task runs with a tag go on at once, ``"rate"`` for how many of them begin in a
            period, ``"label"`` for how many flow runs with a label go on at once
        - name: the tag, or the label
        - limit: how many
        - period: of a rate, in how many seconds; no such time sees more
    """

    kind: str
    name: str
    limit: int
    period: float | None = None


class NotificationRule(msgspec.Struct, frozen=True):
    """Whom to tell of what.

    Args:
        - name: its name
        - kind: ``"webhook"``, ``"email"`` or ``"slack"``
        - target: the URL, or the address
        - events: names of states of flow runs (Failed is any kind of failure), ``"late"``, ``"stuck"`` and ``"paused"``
        - flow: only runs of the flow of this name
        - after: seconds after which a run counts as late, or as stuck
    """

    name: str
    kind: str
    target: str
    events: list[str]
    flow: str | None = None
    after: float | None = None


class FlowRunReservation(msgspec.Struct, frozen=True):
    """A flow run that was given to one worker.

    Args:
        - flow_run_id: the flow run
        - flow_id: the flow it runs
        - flow_name: that flow's name
        - lapsed: whether somebody else had it, and let the lease run out: that one is taken to be gone
        - claim: by which the flow run is the worker's
        - alone: for how many seconds it is to be run with no other beside it, because its owner has died; 0 if
            others may be
        - info: the flow run as it is since it was claimed; None where that is too much to come along
    """

    flow_run_id: str
    flow_id: str
    flow_name: str
    lapsed: bool
    claim: FlowRunClaim
    alone: float = 0.0
    info: FlowRunInfoResult | None = None


class StateRecord(msgspec.Struct, frozen=True):
    """One recorded state of a run.

    Args:
        - version: its number
        - timestamp: since when
        - state: the name of the state
        - message: the sentence in it
        - traceback: where the error was raised that led to it, if one was
    """

    version: int
    timestamp: datetime.datetime
    state: str
    message: str | None
    traceback: str | None = None


class TaskRunHistory(msgspec.Struct, frozen=True):
    """One task run with every state it went through, oldest first."""

    id: str
    task_slug: str
    map_index: int
    name: str | None
    states: list[StateRecord]
    start_time: datetime.datetime | None
    end_time: datetime.datetime | None


class Post(Coroutine[Any, Any, State]):
    """A state on its way to a backend; await it for what is recorded then.

    Args:
        - run_id: the run
        - state: what was sent
        - sent: what will hold the backend's answer
        - read: makes the recorded state of what was sent and the answer
    """

    __slots__ = ("_awaited", "_read", "run_id", "sent", "state")

    def __init__(
        self,
        run_id: str,
        state: State,
        sent: asyncio.Future[Any],
        read: Callable[[State, Any], State],
    ) -> None:
        self.run_id = run_id
        self.state = state
        self.sent = sent
        self._read = read
        self._awaited: Coroutine[Any, Any, State] | None = None

    def recorded(self, answer: Any) -> State:
        """Return the state that is recorded by the backend's answer; for whoever awaits `sent` himself."""
        return self._read(self.state, answer)

    async def _recorded(self) -> State:
        return self.recorded(await self.sent)

    @property
    def _coroutine(self) -> Coroutine[Any, Any, State]:
        if self._awaited is None:
            self._awaited = self._recorded()
        return self._awaited

    def __await__(self) -> Generator[Any, Any, State]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """As of any coroutine."""
        return self._coroutine.send(value)

    def throw(self, *raised: Any) -> Any:
        """As of any coroutine."""
        return self._coroutine.throw(*raised)

    def close(self) -> None:
        """As of any coroutine."""
        if self._awaited is not None:
            self._awaited.close()


async def failing(error: Exception) -> NoReturn:
    """Raise an error when awaited: that of a state that could not be sent."""
    raise error


class Backend(Protocol):
    """What the runners need of a backend. Open it with ``async with`` before use.

    Every method may raise `BackendUnavailable` after its adapter's limit of patience, `BackendRejected` for a
    request that is refused (an unknown id, a state that is too large), and `DialectError` for an answer that
    is not understood. A state that cannot be written as a document raises `SerializationError`, and is not sent.
    """

    url: str
    """Where the runs are recorded, fit to be shown to a person: without credentials."""

    @property
    def backlog(self) -> int:
        """How many writes wait for their acknowledgement. While these are many, a run starts no further tasks."""
        ...

    async def __aenter__(self) -> Self:
        """Open connections and start what works in the background."""
        ...

    async def __aexit__(self, *exc_info: object) -> None:
        """Send what is still waiting, within a bounded grace, then close in reverse order."""
        ...

    # -- registration ------------------------------------------------------------------------------

    async def register_flow(
        self,
        serialized_flow: Mapping[str, Any],
        *,
        project_name: str,
        version_group_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> RegisteredFlow:
        """Register a flow document (`Flow.serialize`) in a project, which is created if it is new.

        With an `idempotency_key` that the newest version of the flow was registered under, nothing is
        written and that version is returned.
        """
        ...

    async def create_flow_run(
        self,
        flow_id: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Sequence[str] | None = None,
        scheduled_start_time: datetime.datetime | None = None,
        run_config: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        owner: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        priority: int = 0,
        fairness_key: str | None = None,
    ) -> str:
        """Create a flow run with a Pending task run for each task, and return its id.

        Parameters that the flow does not have are refused, and values of other types than it records of them.

        The same `idempotency_key` for the same flow returns the run created before. With an `owner` the flow run is
        created as claimed, with the epoch 1, where the backend knows claims; one that was created before is not.

        Of what is ready, workers are handed what has the higher `priority` first, from -`MOST_URGENT` to `MOST_URGENT`.
        Of one priority, the values of `fairness_key` (customers for instance) take turns, however much each has
        waiting; all without one count as one.
        """
        ...

    async def start_flow_run(
        self,
        flow_id: str,
        *,
        owner: str,
        lease_seconds: float = LEASE_SECONDS,
        state: State | None = None,
        parameters: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        name: str | None = None,
    ) -> FlowRunInfoResult:
        """Create a flow run that is its owner's from the start, and return what its runner needs to begin.

        What is recorded is what `create_flow_run` and `set_flow_run_state` would record one after the other; here it is
        one write, which others that come at the same moment share.

        Args:
            - flow_id: the flow
            - owner: who runs it, with the epoch 1
            - lease_seconds: for how long without a sign of life
            - state: the Running state it begins with; without one it is left Scheduled
            - parameters: values of the parameters, by name
            - context: values for the context of the run
            - labels: which workers may run it
            - name: what it is called; the backend finds a name if None
        """
        ...

    async def start_subflow_run(
        self,
        flow_id: str,
        *,
        task_run_id: str,
        attempt: int,
        epoch: int | None,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> FlowRunInfoResult | None:
        """Return the flow run that one attempt of a task run is, whose task runs a flow; None where there is no such.

        It is created, or found: then one that is finished is scheduled again, from what did not succeed. It belongs to
        the owner of the flow run around it, under the same epoch: it is claimed, given up and ended with that one, and
        handed out to nobody else before that one is finished.

        Args:
            - flow_id: the flow that runs as a task
            - task_run_id: the task run
            - attempt: the number of its attempt
            - epoch: that of the flow run around it
            - parameters: values of the parameters, by name
            - name: what it is called; the backend finds a name if None

        Raises:
            - OwnershipLost: if `epoch` is not that of the flow run around it
        """
        ...

    # -- reading -----------------------------------------------------------------------------------

    async def get_flow_run_info(self, flow_run_id: str) -> FlowRunInfoResult:
        """Return a flow run and all its static task runs, in one read."""
        ...

    async def get_flow_run_state(self, flow_run_id: str) -> State:
        """Return the newest state of a flow run."""
        ...

    async def get_task_run_state(self, task_run_id: str) -> State:
        """Return the newest state of a task run."""
        ...

    async def get_task_run_info(
        self, flow_run_id: str, task_id: str, map_index: int | None = None
    ) -> TaskRunInfoResult:
        """Return a task run, created (Pending) if it is new. `map_index` None means -1."""
        ...

    async def get_task_run_infos(
        self, flow_run_id: str, task_id: str, map_indices: Sequence[int]
    ) -> list[TaskRunInfoResult]:
        """Return many runs of one task, in the order asked, those that are new created (Pending)."""
        ...

    async def get_latest_cached_states(
        self, task_id: str, cache_key: str | None, created_after: datetime.datetime
    ) -> list[State]:
        """Return the Cached states of a task, or of a cache key if there is one, newest first, 100 at most."""
        ...

    async def list_flow_runs(self, limit: int = 20, only: FlowRunFilter | None = None) -> list[FlowRunSummary]:
        """Return the newest flow runs, newest first; all that there are, or those that a filter lets through."""
        ...

    async def list_flows(self) -> list[FlowSummary]:
        """Return the newest version of every flow that is not archived, by name."""
        ...

    async def list_limits(self) -> list[LimitRecord]:
        """Return the limits on task tags, the rates of these, and the limits on the labels of flow runs, by name."""
        ...

    async def get_run_logs(self, flow_run_id: str, *, skip: int = 0, limit: int = 1000) -> list[LogRecord]:
        """Return lines of a flow run's log, in the order they came in.

        Args:
            - flow_run_id: the flow run
            - skip: how many lines to leave out: who reads on leaves out those that it has
            - limit: how many at most
        """
        ...

    async def list_artifacts(self, flow_run_id: str) -> list[ArtifactRecord]:
        """Return what the task runs of a flow run made for people to look at, oldest first."""
        ...

    async def find_flow_run(self, name: str) -> FlowRunSummary:
        """Return a flow run by its id, a unique beginning of that, or its name (the newest one of that name)."""
        ...

    async def get_flow_run_history(self, flow_run_id: str) -> tuple[FlowRunSummary, list[TaskRunHistory]]:
        """Return a flow run and all its task runs, mapped children included, with their state histories.

        `flow_run_id` may also be what `find_flow_run` takes.
        """
        ...

    # -- writing -----------------------------------------------------------------------------------

    def set_flow_run_state(
        self,
        flow_run_id: str,
        version: int | None,
        state: State,
        *,
        epoch: int | None = None,
        rests_on: Sequence[Post] = (),
    ) -> Coroutine[Any, Any, State]:
        """Record a state of a flow run.

        A backend that returns a `Post` has sent the state before it is awaited.

        Args:
            - flow_run_id: the flow run
            - version: the version that it was read at; None writes over whatever there is
            - state: what to record
            - epoch: the claim by which the flow run is the sender's; None if it is nobody's who claims
            - rests_on: states of its task runs on their way, without which this one makes no sense

        Returns:
            - State: the state that was recorded: `state`, or for instance a Queued state in its place

        Raises:
            - VersionLockMismatch: if `version` is not the run's
            - OwnershipLost: if `epoch` is not the flow run's
            - UpstreamRefused: if something that it rests on was refused; then it is not recorded either
        """
        ...

    def set_task_run_state(
        self,
        task_run_id: str,
        version: int | None,
        state: State,
        cache_for: datetime.timedelta | None = None,
        *,
        epoch: int | None = None,
        flow_run_id: str | None = None,
        rests_on: Sequence[Post] = (),
    ) -> Coroutine[Any, Any, State]:
        """Record a state of a task run; as `set_flow_run_state`.

        A backend that returns a `Post` has sent the state before it is awaited, and takes states that rest on it: so
        the steps of a chain share a commit.

        Args:
            - task_run_id, version, state, epoch: as for `set_flow_run_state`
            - cache_for: belongs to the interface that is kept; when a Cached state expires is in the state itself
            - flow_run_id: with it the state takes turns with those of other flow runs, however many wait of its own
            - rests_on: what this backend has sent before, and without which this state makes no sense

        Raises:
            - UpstreamRefused: if something that it rests on was refused; then it is not recorded either
        """
        ...

    async def set_task_run_name(self, task_run_id: str, name: str) -> bool:
        """Name a task run."""
        ...

    async def update_flow_run_heartbeat(self, flow_run_id: str, epoch: int | None = None) -> None:
        """Tell that the process that runs this flow run is alive; with an `epoch`, the lease begins anew.

        Raises:
            - OwnershipLost: if `epoch` is not the flow run's
        """
        ...

    async def write_run_logs(self, records: Sequence[LogRecord]) -> None:
        """Store lines of a run's log."""
        ...

    async def create_task_run_artifact(self, task_run_id: str, kind: str, data: Any) -> str:
        """Store something a task run made for people to look at, and return its id.

        Args:
            - task_run_id: the task run
            - kind: what it is, for instance ``"link"`` or ``"markdown"``
            - data: the thing itself, as a JSON document
        """
        ...

    async def update_task_run_artifact(self, artifact_id: str, data: Any) -> None:
        """Put something else in the place of an artifact."""
        ...

    async def cancel_flow_run(self, flow_run_id: str) -> str:
        """Ask for a flow run to be cancelled, and return the name of the state it is in now.

        A running flow run becomes Cancelling, and ends when its runner has stopped its tasks; one that has
        not started becomes Cancelled at once; a finished one stays as it is.
        """
        ...

    # -- looking after runs ------------------------------------------------------------------------

    async def direct_flow_run(
        self,
        flow_run_id: str,
        kind: str,
        *,
        task: str | None = None,
        map_index: int = -1,
        value: Any = None,
        note: str | None = None,
        author: str | None = None,
        tag: str | None = None,
    ) -> Directive:
        """Ask something of a flow run, or of one of its task runs; see `flowloop.engine.directives`.

        Args:
            - flow_run_id: the flow run
            - kind: what is asked
            - task: the slug of the task that it is about; of an event its name
            - map_index: the mapped child; -1 for the task itself
            - value: what it brings, as JSON
            - note: why
            - author: who asks
            - tag: the tag whose tasks it is about, in the place of one task

        Raises:
            - BackendRejected: if there is no such thing to ask, or if it cannot be done now
        """
        ...

    async def list_directives(self, flow_run_id: str) -> list[Directive]:
        """Return what was asked of a flow run, oldest first."""
        ...

    async def obey_directive(self, directive_id: str, epoch: int | None = None) -> bool:
        """Note that what was asked is done, under this epoch; return whether it was not done before."""
        ...

    async def restart_flow_run(self, flow_run_id: str) -> int:
        """Schedule a finished flow run again, and return how many task runs run again: those that did not succeed.

        Raises:
            - BackendRejected: if it is not finished
        """
        ...

    async def set_schedule_active(self, flow_id: str, active: bool) -> bool:
        """Plan the runs of a flow after its schedule from now on, or no more; return whether it has a schedule."""
        ...

    async def set_limit(self, kind: str, name: str, limit: int | None, *, period: float | None = None) -> None:
        """Set how many runs go on at once, or with a `period` begin in one; None takes the limit away.

        Who is held back is `Queued`, and has its turn by `Needs.priority`, of one priority by how long it waits. See
        `LimitRecord`.
        """
        ...

    async def get_secret(self, name: str) -> Any:
        """Return the value of a secret that the backend keeps, encrypted where it is on disk; None if there is none.

        Raises:
            - BackendRejected: if the backend keeps no secrets, or whoever asks may not see them
        """
        ...

    async def set_secret(self, name: str, value: Any) -> None:
        """Have the backend keep a secret, which is JSON; None deletes it.

        Raises:
            - BackendRejected: if the backend keeps no secrets
        """
        ...

    async def list_secrets(self) -> list[str]:
        """Return the names of the secrets that the backend keeps, sorted."""
        ...

    async def delete_flow_run(self, flow_run_id: str) -> None:
        """Delete a flow run with all that was recorded of it, and the flow runs that are a part of it.

        Raises:
            - BackendRejected: if it has an owner that is alive
        """
        ...

    async def set_notification(self, rule: NotificationRule) -> None:
        """Tell people from now on of what happens to flow runs; a rule of the same name is replaced.

        Raises:
            - BackendRejected: for a rule that cannot be, or where nobody would send anything
        """
        ...

    async def delete_notification(self, name: str) -> None:
        """Tell people no more of what a rule says."""
        ...

    async def list_notifications(self) -> list[NotificationRule]:
        """Return the rules by which people are told of flow runs, by name."""
        ...

    # -- ownership ---------------------------------------------------------------------------------

    async def claim_flow_run(
        self,
        flow_run_id: str,
        owner: str,
        *,
        lease_seconds: float = LEASE_SECONDS,
        max_lapses: int = MAX_LAPSES,
        takeover: bool = False,
        gone: str | None = None,
    ) -> FlowRunClaim:
        """Make a flow run one's own: in one step that raises its epoch, so that a former owner can record nothing more.

        Who has it already, by the same name, has it on. A finished flow run is nobody's. One whose owners have died
        `max_lapses` times is not begun again: it becomes Failed.

        Args:
            - flow_run_id: the flow run
            - owner: who claims it; unique
            - lease_seconds: for how long it is the owner's without a heartbeat
            - max_lapses: how often it is begun by owners that die
            - takeover: whether to claim it also from an owner that is alive
            - gone: an owner that is known to be dead, whatever its lease

        Raises:
            - FlowRunOwned: if it has an owner that is alive
        """
        ...

    async def release_flow_run(self, flow_run_id: str, epoch: int | None) -> None:
        """Give a flow run up; one that has another owner since is left alone."""
        ...

    # -- handing out runs --------------------------------------------------------------------------

    async def reserve_flow_runs(
        self,
        worker_id: str,
        *,
        limit: int = 1,
        labels: Sequence[str] = (),
        flow_names: Sequence[str] | None = None,
        lease_seconds: float = LEASE_SECONDS,
        max_lapses: int = MAX_LAPSES,
        begun: bool = False,
        not_flow_ids: Sequence[str] = (),
        alone: bool = True,
    ) -> list[FlowRunReservation]:
        """Claim flow runs that are ready for one worker.

        Ready is a flow run whose time has come, one that is Running and has a task run whose time has come, and one
        whose owner has let its lease run out before the run ended, or is known to be dead, or has given it back because
        it could not go on; none of them if it has an owner that is alive.

        Args:
            - worker_id: who asks
            - limit: how many at most
            - labels: those of the worker: a run goes to a worker that has all its labels, and one without labels to a
                worker without any
            - flow_names: the flows that the worker can run; None means any
            - lease_seconds: for how long they are the worker's without a heartbeat
            - max_lapses: how often a flow run is begun by owners that die, before it becomes Failed
            - begun: whether to take only runs that had an owner before
            - not_flow_ids: flows that the worker cannot run although it has one of that name: of another version, or of
                another project
            - alone: whether the worker can run a flow run that must have no other beside it. One whose owner has died
                is such a run, and is given by itself, a while later; after a longer one to any worker.
        """
        ...

    async def next_ready(self) -> float | None:
        """Return in how many seconds a flow run may be ready to be reserved without anybody doing anything.

        Returns:
            - float | None: 0 while a flow run that was begun has not ended: its owner may die at any moment, or what it
                waits for be answered; None if nothing waits for its time
        """
        ...

    # -- watching ----------------------------------------------------------------------------------

    def watch_ready(self) -> AbstractAsyncContextManager[AsyncIterator[None]] | None:
        """Return a stream that yields when a flow run may have become ready to be reserved, or None where only asking
        again and again tells.

        What becomes ready because its time has come is not told, `next_ready` foretells it; and nothing is promised:
        who listens asks now and then all the same. The stream ends when the backend can no longer be listened to, and
        entering it raises `BackendUnavailable` when that is so from the start.
        """
        ...

    def watch_flow_run(self, flow_run_id: str) -> AbstractAsyncContextManager[AsyncIterator[State]] | None:
        """Return a live stream of the states of a flow run, or None where only polling is possible.

        The stream begins with the newest state. It ends when the backend can no longer be listened to, and entering
        it raises `BackendUnavailable` when that is so from the start: the reader polls, or opens another one later.

        Example:
            ```python
            async with backend.watch_flow_run(flow_run_id) as states:
                async for state in states:
                    ...
            ```
        """
        ...


def check_recordable(**values: Any) -> None:
    """Refuse values that a record in JSON would change: NaN and the infinities become null there.

    Args:
        - values: what is to be recorded, by the name that the error calls it

    Raises:
        - BackendRejected: if there are any
    """
    for name, value in values.items():
        try:
            check_finite(value, name)
        except SerializationError as error:
            raise BackendRejected(f"cannot be recorded: {error}") from None
        except RecursionError:
            raise BackendRejected(f"cannot be recorded: {name} contains itself, or is nested too deeply") from None


async def started_step_by_step(
    backend: Backend,
    flow_id: str,
    *,
    owner: str,
    lease_seconds: float,
    state: State | None,
    **options: Any,
) -> FlowRunInfoResult:
    """Do what `Backend.start_flow_run` does by the other calls of the port: for adapters that can share no write."""
    flow_run_id = await backend.create_flow_run(flow_id, owner=owner, lease_seconds=lease_seconds, **options)
    info = await backend.get_flow_run_info(flow_run_id)
    if state is None:
        return info
    recorded = await backend.set_flow_run_state(flow_run_id, info.version, state, epoch=info.epoch or None)
    return msgspec.structs.replace(info, state=recorded, version=info.version + 1)


def connect(url: str, **options: Any) -> Backend:
    """Return the backend that a URL leads to; open it with ``async with``.

    The adapters are the entry points of the group ``flowloop.backends``, each under the URL scheme it serves, so
    another package can add its own.

    Args:
        - url: ``memory://``, ``sqlite:///file.db``, ``postgresql://user@host/database`` or ``http://host:port``
        - options: arguments of the adapter; all know `settings` and `clock`

    Raises:
        - FlowloopError: if no adapter serves the scheme, or if it needs an extra that is not installed

    Example:
        ```python
        async with connect("sqlite:///flowloop.db") as backend:
            print(await backend.list_flow_runs())
        ```
    """
    scheme, colon, _ = url.partition(":")
    adapters = _adapters()
    adapter = adapters.get(scheme.partition("+")[0].lower()) if colon else None
    if adapter is None:
        shown = f"{scheme}:" if colon else url  # what follows may hold a password
        schemes = ", ".join(sorted(adapters))
        raise FlowloopError(f"no backend serves {shown!r}: a backend URL begins with one of {schemes}")
    return cast("Backend", adapter.load()(url, **options))


@functools.cache
def _adapters() -> dict[str, EntryPoint]:
    """Return what serves each scheme; it takes ten times as long to look through all packages as to open a database."""
    return {entry.name: entry for entry in entry_points(group="flowloop.backends")}
