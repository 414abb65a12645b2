"""Directives: what people ask of a flow run while it goes on, recorded with who asked and when.

=============  ===========  ===================================================================================
kind           of           what it asks
=============  ===========  ===================================================================================
cancel         flow run     that it ends as Cancelled
restart        flow run,    that a finished flow run goes on from what did not succeed, or from a task, a mapped
               task         child, and all that follows from it
resume         either       that what is paused goes on, with a value that the body finds in ``context.answer``;
                            without a task, all paused task runs do, and where there are none the flow run itself
reject         either       that what is paused fails, chosen alike
hold           task, tag    that a task run that has not begun waits, as one that is paused, until it is released; of
                            a tag, all such task runs of its tasks
release        task, tag    that a task run that is held begins in its turn
set_limits     flow run     that other limits hold for it: ``concurrency``, ``tags``, ``tasks``, ``rate``, ``timeout``
skip           task         that a task run that has not begun ends as Skipped
set_result     task         that a task run that has not begun ends as Success, with this value
set_parameter  flow run     that a flow run that has not begun gets this value for a parameter
event          flow run     nothing by itself: a task that waits for an event of this name goes on with the value
=============  ===========  ===================================================================================

What can be done at once is done in the transaction that records the directive: the states it leads to are in the
history of the run, and whoever runs it, now or after a takeover, goes on from there. An event is obeyed by the task run
that waits for it, which notes its epoch.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from . import lifecycle
from .errors import BackendRejected, SerializationError
from .plain import check_finite
from .results import PrefectResult
from .state import Failed, Paused, Resume, Scheduled, Skipped, State, Success

__all__ = [
    "GIVEN",
    "HELD",
    "KINDS",
    "LIVES",
    "OF_TAGS",
    "OF_TASKS",
    "PART",
    "Directive",
    "can_be",
    "check_state",
    "checked",
    "limits_of",
    "state_of",
]

KINDS = (
    "cancel",
    "event",
    "hold",
    "reject",
    "release",
    "restart",
    "resume",
    "set_limits",
    "set_parameter",
    "set_result",
    "skip",
)
"""What can be asked."""

GIVEN = "given"
"""The key of the context of a Success whose result somebody has set: JSON, of the type that the task returns."""

HELD = "held"
"""The key of the context of a Paused state that somebody asked for."""

PART = "Flow run {} is a part of flow run {}, and goes on with it: say so to that one."
"""Why a flow run that is a task run of another one is refused."""

LIVES = "Flow run {} has an owner that is alive: cancel it first, and delete it once it has ended."
"""Why a flow run is not deleted."""

OF_TASKS = frozenset({"hold", "release", "skip", "set_result"})
"""What is asked of a task run alone."""

OF_TAGS = frozenset({"hold", "release"})
"""What can be asked of all task runs of the tasks with a tag."""

_NAMED = frozenset({"event", "set_parameter"})
_NOT_BEGUN = lifecycle.UNFINISHED - lifecycle.RUNNING
_FROM = {
    "hold": _NOT_BEGUN - {"Paused"},
    "release": frozenset({"Paused"}),
    "resume": frozenset({"Paused"}),
    "reject": frozenset({"Paused"}),
    "skip": _NOT_BEGUN,
    "set_result": _NOT_BEGUN,
}
_DONE = {
    "hold": "Held",
    "reject": "Rejected",
    "release": "Released",
    "resume": "Resumed",
    "set_result": "Result set",
    "skip": "Skipped",
}


class Directive(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was asked of a flow run.

    Args:
        - id: its id
        - flow_run_id: the flow run
        - kind: one of `KINDS`
        - author: who asked, as far as is known
        - created: when
        - task: the slug of the task that it is about; of an event or a parameter its name
        - map_index: the mapped child; -1 for the task itself
        - value: what it brings, as JSON
        - note: why
        - tag: the tag whose tasks it is about
        - obeyed: since when it is done
        - epoch: under which epoch of the flow run
    """

    id: str
    flow_run_id: str
    kind: str
    author: str | None
    created: datetime.datetime
    task: str | None = None
    map_index: int = -1
    value: Any = None
    note: str | None = None
    tag: str | None = None
    obeyed: datetime.datetime | None = None
    epoch: int | None = None


class _Rate(msgspec.Struct, forbid_unknown_fields=True):
    count: Annotated[int, msgspec.Meta(ge=1)]
    period: Annotated[float, msgspec.Meta(gt=0)]


_Limit = Annotated[int, msgspec.Meta(ge=1)] | None


class _Limits(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    concurrency: _Limit | msgspec.UnsetType = msgspec.UNSET
    tags: dict[str, _Limit] = {}
    tasks: dict[str, _Limit] = {}
    rate: _Rate | msgspec.UnsetType | None = msgspec.UNSET
    timeout: Annotated[float, msgspec.Meta(gt=0)] | msgspec.UnsetType | None = msgspec.UNSET


def limits_of(value: Any, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the limits of a flow run that are recorded once others were asked for.

    Args:
        - value: those; what is null ends
        - before: the ones that were recorded before

    Raises:
        - BackendRejected: if these are no limits
    """
    try:
        asked: dict[str, Any] = msgspec.to_builtins(msgspec.convert(value, _Limits))
    except msgspec.ValidationError as error:
        raise BackendRejected(
            f"limits are an object of concurrency, tags, tasks, rate (count and period in seconds) and timeout: {error}"
        ) from error
    known = dict(before or {})
    for name in ("tags", "tasks"):
        if name in asked:
            asked[name] = {**known.get(name, {}), **asked[name]}
    return known | asked


def checked(kind: str, task: str | None, tag: str | None = None, value: Any = None) -> None:
    """Check that a directive asks for something that there is.

    Raises:
        - BackendRejected: if it does not
    """
    if tag is not None:
        if kind not in OF_TAGS or task is not None:
            raise BackendRejected("only hold and release are asked of a tag, and then of no task")
        return
    if kind not in KINDS:
        raise BackendRejected(f"there is no directive {kind!r}; there are: {', '.join(KINDS)}")
    if task is None and (kind in OF_TASKS or kind in _NAMED):
        raise BackendRejected(f"the directive {kind!r} needs {'a name' if kind in _NAMED else 'a task'}")
    if task is not None and kind in ("cancel", "set_limits"):
        raise BackendRejected(f"{kind} is asked of a flow run as a whole; to leave out one task, skip it")
    try:
        check_finite(value, "the value")
    except SerializationError as error:
        raise BackendRejected(f"the directive {kind!r} cannot be recorded: {error}") from None


def check_state(kind: str, state: str, name: str, *, is_held: bool = False) -> None:
    """Check that what is in this state can do what a directive asks.

    Args:
        - kind: what is asked
        - state: the name of the state
        - name: what is in it
        - is_held: whether it is Paused because somebody holds it

    Raises:
        - BackendRejected: if it cannot
    """
    if state not in _FROM[kind]:
        wanted = "is Paused" if kind in ("resume", "reject", "release") else "has not begun"
        raise BackendRejected(f"{name} is {state}: the directive {kind!r} is for what {wanted}")

    if kind == "release" and not is_held:
        raise BackendRejected(f"{name} is not held: it waits for somebody who resumes it")
    if kind == "resume" and is_held:
        raise BackendRejected(f"{name} is held: release it")


def can_be(kind: str, state: str, *, is_held: bool) -> bool:
    """Whether what is in this state can do what a directive asks; see `check_state`."""
    try:
        check_state(kind, state, "it", is_held=is_held)
    except BackendRejected:
        return False
    return True


def state_of(directive: Directive) -> State:
    """Return the state that a directive leads to; of those that lead to one."""
    by = f" by {directive.author}" if directive.author else ""
    message = f"{_DONE[directive.kind]}{by}{f': {directive.note}' if directive.note else '.'}"
    if directive.kind == "skip":
        return Skipped(message)
    if directive.kind == "hold":
        return Paused(message, context={HELD: True})
    if directive.kind == "release":  # no Resume, which would also let a task pass that waits for a person
        return Scheduled(message, start_time=directive.created)
    if directive.kind == "set_result":
        text = msgspec.json.encode(directive.value).decode()
        return Success(message, result=PrefectResult(location=text), context={GIVEN: True})
    at = directive.created.isoformat()
    answer = {"value": directive.value, "note": directive.note, "by": directive.author, "at": at}
    if directive.kind == "reject":
        return Failed(message, context={"answer": answer})
    return Resume(message, start_time=directive.created, context={"answer": answer})
