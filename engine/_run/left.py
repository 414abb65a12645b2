"""What becomes of the task runs that a flow run leaves unfinished when it ends."""

from __future__ import annotations

from ..cancellation import left_by
from ..state import Cancelled, ClientFailed, Mapped, State

__all__ = ["end_tasks"]


def end_tasks(state: State) -> None:
    """Have the result of a flow run say of its unfinished tasks that they ended with it.

    Args:
        - state: how it ended
    """
    if not isinstance(state.result, dict):
        return
    for task, one in state.result.items():
        if isinstance(one, Mapped):
            one.map_states = [_ended_with(state, child) for child in one.map_states]
        else:
            state.result[task] = _ended_with(state, one)


def _ended_with(state: State, one: State) -> State:
    if (one.is_finished() and not one.is_looped()) or isinstance(one, ClientFailed):
        return one
    if isinstance(state, Cancelled):
        return Cancelled(state.message, context=state.context)
    return left_by(type(state).__name__, state.context.get("cause"))
