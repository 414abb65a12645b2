"""Saying why something failed: for people who read a log, a record or the terminal."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from .masking import masked
from .state import TRACEBACK, Failed, Mapped, State, TriggerFailed

__all__ = ["RAISED", "brief", "children_counted", "explained", "reference_failures", "with_reason"]

StateT = TypeVar("StateT", bound=State)
Key = TypeVar("Key")
Upstream = Callable[[Key], set[Key]]

RAISED = "Error during execution of task: "
"""How the message of a state begins in which a body ended that raised an error."""

_LONGEST = 10_000
_LONGEST_REASON = 200
_MOST_NAMED = 3

_HALF = Path(__file__).parent
_OWN = (f"{_HALF}/", f"{_HALF.parent / 'backends'}/")
_CARRIERS = ("/asyncio/", "/concurrent/futures/", "/anyio/", "/threading.py", "/functools.py")
"""Parts of file names: what calls a body, and is of no interest to whoever wrote it."""


def with_reason(state: StateT, error: BaseException | None = None) -> StateT:
    """Return a failed state that says why: the traceback in its context as text, and no secret in its message.

    Args:
        - state: the state; changed in place
        - error: what was raised; the state's result, if that is an error, where it is not said
    """
    if isinstance(state.message, str):
        state.message = masked(state.message)
    error = state.result if error is None else error
    # past what its class makes of it, which is code of users
    if isinstance(error, BaseException) and BaseException.__getattribute__(error, "__traceback__") is not None:
        state.context[TRACEBACK] = explained(error)
    return state


def explained(error: BaseException) -> str:
    """Return the traceback of an error as text: without the frames of flowloop, its secrets masked, and bounded.

    Notes, causes and the fields of a SyntaxError may be code of users: where that fails, the text says so.
    """
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        for one in _with_causes(told):
            one.stack = _trimmed(one.stack)
        return masked(_bounded("".join(told.format()).rstrip()))
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        return f"<{type(error).__qualname__}, whose traceback fails with {type(problem).__name__}>"


def _with_causes(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    seen: set[int] = set()
    waiting: list[traceback.TracebackException | None] = [told]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]


def _trimmed(stack: traceback.StackSummary | None) -> traceback.StackSummary:
    """Return the frames of the user, and those of the libraries that these call."""
    frames = [frame for frame in stack or () if not frame.filename.startswith(_OWN)]
    first = next((n for n, frame in enumerate(frames) if not _carries(frame.filename)), len(frames))
    kept = frames[first:]
    return traceback.StackSummary.from_list(kept)


def _carries(filename: str) -> bool:
    name = filename.replace("\\", "/")
    return any(part in name for part in _CARRIERS)


def _bounded(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters are left out …\n{text[-half:]}"


def brief(state: State) -> str:
    """Return in one short line why something failed: the error, or the state and its message."""
    error = state.result if isinstance(state.result, Exception) else None
    kind = type(state if error is None else error).__name__
    told = _text(state.message) if error is None else _text(error, _text(state.message))
    if error is None and told.startswith(RAISED):  # recorded elsewhere: the error is there as text alone
        line = told.removeprefix(RAISED)
    else:
        line = f"{kind}: {told}" if told else kind
    line = " ".join(masked(line).split())
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 1]}…"


def _text(told: object, instead: str = "") -> str:
    """Return the text of a message or an error, which is code of users, or another one if it has none."""
    try:
        return "" if told is None else str(told)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return instead


# -- many runs in a sentence -----------------------------------------------------------------------------


def children_counted(state: Mapped) -> str | None:
    """Return how many children of a mapped task ended in which state; None if some have none."""
    counts = Counter(map(type, state.map_states))
    if not counts or type(None) in counts:
        return None
    told = ", ".join(f"{count} {kind.__name__}" for kind, count in counts.most_common())
    return f"{len(state.map_states)} mapped children: {told}"


def reference_failures(
    reference: Iterable[Key], states: Mapping[Key, State], slugs: Mapping[Key, str], upstream: Upstream[Key]
) -> str:
    """Return which reference tasks of a flow failed, and why.

    Args:
        - reference: the reference tasks
        - states: the states of all tasks
        - slugs: their names
        - upstream: tells the tasks that a task waits for

    Returns:
        - str: for instance ``1 of 3 reference tasks failed: transform[4] (ValueError: row 4)``
    """
    tasks = list(reference)
    failed = 0
    found: list[tuple[Key, str, State]] = []
    for task in tasks:
        before = len(found)
        found.extend((task, name, state) for name, state in _failures(states.get(task), slugs[task]))
        failed += len(found) > before
    told = []
    for task, name, state in found[:_MOST_NAMED]:
        cause = _origin(task, states, slugs, upstream) if _only_follows(state) else None
        told.append(f"{name} ({brief(state)})" if cause is None else f"{name} (after {cause[0]}: {brief(cause[1])})")
    more = f" and {len(found) - len(told)} more" if len(found) > len(told) else ""
    return f"{failed} of {len(tasks)} reference tasks failed: {', '.join(told)}{more}"


def _failures(state: State | None, name: str) -> Iterator[tuple[str, State]]:
    if isinstance(state, Mapped):
        for index, child in enumerate(state.map_states):
            if isinstance(child, Failed):
                yield f"{name}[{index}]", child
    elif isinstance(state, Failed):
        yield name, state


def _only_follows(state: State) -> bool:
    """Whether a task did not fail by itself, but because of what came before it."""
    return isinstance(state, TriggerFailed) and not isinstance(state.result, Exception)


def _origin(
    task: Key, states: Mapping[Key, State], slugs: Mapping[Key, str], upstream: Upstream[Key]
) -> tuple[str, State] | None:
    """Return the nearest task run upstream that failed by itself."""
    seen = {task}
    waiting = [task]
    for one in waiting:  # which grows meanwhile
        for before in sorted(upstream(one) - seen, key=slugs.__getitem__):
            seen.add(before)
            waiting.append(before)
            for name, state in _failures(states.get(before), slugs[before]):
                if not _only_follows(state):
                    return name, state
    return None
