"""Triggers: functions of the states upstream that say whether a task runs.

A trigger takes ``{edge: state}`` and returns True to run the task. It refuses by raising a signal, whose state the
task then gets (`TRIGGERFAIL` here), or by returning False. The state of a mapped task stands for the states of its
children. A task with nothing upstream passes every trigger but `manual_only` and `not_all_skipped`.

A trigger of your own may be an ``async def``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import islice

from .context import context
from .edge import Edge
from .signals import PAUSE, SKIP, TRIGGERFAIL
from .state import Mapped, State

__all__ = [
    "Trigger",
    "all_failed",
    "all_finished",
    "all_successful",
    "always_run",
    "any_failed",
    "any_successful",
    "manual_only",
    "not_all_skipped",
    "some_failed",
    "some_successful",
]

Trigger = Callable[[dict[Edge, State]], bool | Awaitable[bool]]

_NAMED = 5


def all_successful(upstream_states: Mapping[Edge, State]) -> bool:
    """Run if every task upstream succeeded; skipped ones did."""
    return _require_all("all_successful", "successful", State.is_successful, upstream_states)


def all_failed(upstream_states: Mapping[Edge, State]) -> bool:
    """Run if every task upstream failed."""
    return _require_all("all_failed", "failed", State.is_failed, upstream_states)


def all_finished(upstream_states: Mapping[Edge, State]) -> bool:
    """Run once every task upstream is over, however it ended. `always_run` is another name for it."""
    return _require_all("all_finished", "finished", State.is_finished, upstream_states)


always_run = all_finished


def any_successful(upstream_states: Mapping[Edge, State]) -> bool:
    """Run if at least one task upstream succeeded."""
    return _require_any("any_successful", "successful", State.is_successful, upstream_states)


def any_failed(upstream_states: Mapping[Edge, State]) -> bool:
    """Run if at least one task upstream failed."""
    return _require_any("any_failed", "failed", State.is_failed, upstream_states)


def manual_only(upstream_states: Mapping[Edge, State]) -> bool:
    """Pause until somebody resumes the run."""
    if context.get("resume"):
        return True
    raise PAUSE("the trigger manual_only waits for somebody to resume this run")


def not_all_skipped(upstream_states: Mapping[Edge, State]) -> bool:
    """Run if every task upstream succeeded and not all of them were skipped; be skipped if they were."""
    if all(state.is_skipped() for state in _states(upstream_states)):
        raise SKIP("every upstream task was skipped", result=None)
    return _require_all("not_all_skipped", "successful", State.is_successful, upstream_states)


def some_failed(at_least: float | None = None, at_most: float | None = None) -> Trigger:
    """Return a trigger that wants some of the tasks upstream to have failed.

    Args:
        - at_least: how many, or which fraction of them if it is below 1; no lower limit if None
        - at_most: how many, or which fraction of them if it is below 1; no upper limit if None

    Example:

        ```python
        @task(trigger=some_failed(at_least=0.5))
        async def alarm() -> None: ...
        ```
    """
    _check_limits("some_failed", at_least, at_most)

    def some_failed(upstream_states: Mapping[Edge, State]) -> bool:
        return _require_some("some_failed", "failed", State.is_failed, upstream_states, at_least, at_most)

    return some_failed


def some_successful(at_least: float | None = None, at_most: float | None = None) -> Trigger:
    """Return a trigger that wants some of the tasks upstream to have succeeded; as `some_failed`."""
    _check_limits("some_successful", at_least, at_most)

    def some_successful(upstream_states: Mapping[Edge, State]) -> bool:
        return _require_some("some_successful", "successful", State.is_successful, upstream_states, at_least, at_most)

    return some_successful


# ---- what they are made of -------------------------------------------------------------------------

_Test = Callable[[State], bool]


def _states(upstream_states: Mapping[Edge, State]) -> list[State]:
    """Return the states, mapped ones as those of their children."""
    found: list[State] = []
    for state in upstream_states.values():
        if isinstance(state, Mapped):
            found += state.map_states
        else:
            found.append(state)
    return found


def _require_all(trigger: str, wanted: str, test: _Test, upstream_states: Mapping[Edge, State]) -> bool:
    states = _states(upstream_states)
    others = [state for state in states if not test(state)]
    if others:
        found = f"{len(others)} of {len(states)} upstream tasks not {wanted}"
        raise TRIGGERFAIL(f"{trigger}: {found}: {_listed(upstream_states, lambda state: not test(state))}")
    return True


def _require_any(trigger: str, wanted: str, test: _Test, upstream_states: Mapping[Edge, State]) -> bool:
    states = _states(upstream_states)
    if upstream_states and not any(test(state) for state in states):
        raise TRIGGERFAIL(f"{trigger}: none of {len(states)} upstream tasks {wanted}: {_listed(upstream_states)}")
    return True


def _require_some(
    trigger: str,
    wanted: str,
    test: _Test,
    upstream_states: Mapping[Edge, State],
    at_least: float | None,
    at_most: float | None,
) -> bool:
    if not upstream_states:
        return True
    states = _states(upstream_states)
    least, most = _limit(at_least, len(states), 0), _limit(at_most, len(states), len(states))
    count = sum(test(state) for state in states)
    if not least <= count <= most:
        found = f"{count} of {len(states)} upstream tasks {wanted}, not {least:g} to {most:g}"
        raise TRIGGERFAIL(f"{trigger}: {found}: {_listed(upstream_states)}")
    return True


def _limit(given: float | None, total: int, default: int) -> float:
    if given is None:
        return default
    return given * total if given < 1 else given


def _check_limits(trigger: str, at_least: float | None, at_most: float | None) -> None:
    for name, limit in (("at_least", at_least), ("at_most", at_most)):
        if limit is not None and limit < 0:
            raise ValueError(f"{trigger}: {name} is a number of tasks, or a fraction of them below 1, not {limit}")


def _listed(upstream_states: Mapping[Edge, State], test: _Test = lambda state: True) -> str:
    """Return the first few states that pass the test, each with the name of its task."""
    found = [f"{name} ({type(state).__name__})" for name, state in islice(_named(upstream_states, test), _NAMED + 1)]
    return ", ".join(found[:_NAMED]) + (", …" if len(found) > _NAMED else "")


def _named(upstream_states: Mapping[Edge, State], test: _Test) -> Iterator[tuple[str, State]]:
    for edge, state in upstream_states.items():
        name = edge.upstream_task.name
        if isinstance(state, Mapped):
            yield from ((f"{name}[{index}]", child) for index, child in enumerate(state.map_states) if test(child))
        elif test(state):
            yield name, state
