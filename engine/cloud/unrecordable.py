"""What is recorded in the place of a state that cannot be: a small one that says why."""

from __future__ import annotations

import copy
from typing import Any

from ..results import PrefectResult
from ..state import Cancelled, Failed, Pending, State, Success

__all__ = ["cut", "is_too_much", "small", "without_value"]

_LONGEST_MESSAGE = 5_000
_LARGEST_VALUE = 100_000
_INSTEAD_OF = "instead_of"
"""Where a state says which one it stands for."""


def is_too_much(state: State) -> bool:
    """Whether something smaller may be recorded in the place of a state that was refused: it is not small yet."""
    return _INSTEAD_OF not in state.context


def small(state: State, error: BaseException, result: Any = None) -> State:
    """Return what is recorded in the place of a state that the backend refused.

    A run that failed, was cancelled or waits still did, or does, so; any other has failed now, as its result is
    nowhere. Of a message that is too long the beginning stays, and its length is noted.

    Args:
        - state: the state that was refused
        - error: why
        - result: the result; that of a failed run, or else the error, if None
    """
    name, why = type(state).__name__, cut(error)
    if isinstance(state, Pending):
        waiting = copy.copy(state)
        attempt = {key: state.context[key] for key in ("task_run_count",) if key in state.context}
        waiting.message, waiting.context = cut(state.message), {**attempt, _INSTEAD_OF: name}
        return waiting
    if state.is_failed() or isinstance(state, Cancelled):
        text, kind = f"{cut(state.message)} (the state could not be recorded whole: {why})", type(state)
        result = state._result if result is None else result
    else:
        text, kind = f"The state {name} could not be recorded: {why}", Failed
        result = error if result is None else result
    instead = kind(text, result=result)
    cause = {key: state.context[key] for key in ("cause",) if key in state.context}
    instead.context = {**cause, _INSTEAD_OF: name}  # without the tags, of which there may be too many
    return instead


def without_value(state: Success) -> State:
    """Return the state of a parameter as it is recorded: a large value lies with the flow run alone."""
    result = state._result
    if not isinstance(result, PrefectResult) or len(result.location or "") <= _LARGEST_VALUE:
        return state
    return Success(state.message, context=state.context)


def cut(text: object) -> str:
    """Return a text of a bounded length: of a longer one the beginning, and how long it is."""
    try:
        text = str(text)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a message may be any object of the user's
        return f"<a {type(text).__name__} that cannot be shown: {type(error).__name__}>"
    if len(text) <= _LONGEST_MESSAGE:
        return text
    return f"{text[:_LONGEST_MESSAGE]} ... ({len(text):,} characters)"
