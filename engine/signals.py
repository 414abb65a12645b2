"""Signals: raise one inside a task, a trigger or a handler to set the state of the run yourself.

A signal is a ``BaseException`` so that ``except Exception`` in user code does not stop it on its way.

Example:

    ```python
    @task
    async def check(n: int) -> int:
        if n < 0:
            raise SKIP("nothing to do for a negative number")
        return n
    ```
"""

from __future__ import annotations

from typing import Any, ClassVar

from .state import (
    Failed,
    Looped,
    Paused,
    Retrying,
    Skipped,
    State,
    Success,
    TriggerFailed,
    ValidationFailed,
)

__all__ = [
    "ENDRUN",
    "FAIL",
    "LOOP",
    "PAUSE",
    "RETRY",
    "SKIP",
    "SUCCESS",
    "TRIGGERFAIL",
    "VALIDATIONFAIL",
    "PrefectSignal",
    "PrefectStateSignal",
    "TaskTimeoutSignal",
    "VersionLockMismatchSignal",
    "signal_from_state",
]


class PrefectSignal(BaseException):
    """The root of all signals, under the name that code written for Prefect 1 knows."""


class TaskTimeoutSignal(PrefectSignal):
    """A task body did not end within its timeout."""


class VersionLockMismatchSignal(PrefectSignal):
    """A backend refused a state because the run has moved since its version was read."""


class ENDRUN(PrefectSignal):
    """Stop the pipeline of this run here; `state` is the answer.

    Args:
        - state: the state the run ends with
    """

    def __init__(self, state: State) -> None:
        super().__init__(state.message)
        self.state = state

    def __reduce__(self) -> tuple[type[ENDRUN], tuple[State]]:
        return type(self), (self.state,)


class PrefectStateSignal(PrefectSignal):
    """A signal that sets a state.

    Args:
        - message: the message of the state
        - args, kwargs: go to the state class; the result is the signal itself if none is given
    """

    state_class: ClassVar[type[State]] = State

    def __init__(self, message: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(message)
        kwargs.setdefault("result", self._default_result())
        self.state = self.state_class(message, *args, **kwargs)

    def _default_result(self) -> Any:
        return self


class FAIL(PrefectStateSignal):
    """The task failed."""

    state_class = Failed


class TRIGGERFAIL(FAIL):
    """The trigger does not accept the states upstream."""

    state_class = TriggerFailed


class VALIDATIONFAIL(FAIL):
    """The result of the task is not valid."""

    state_class = ValidationFailed


class LOOP(PrefectStateSignal):
    """Run the task again, with `result` as ``context.task_loop_result``."""

    state_class = Looped

    def _default_result(self) -> Any:
        return repr(self)


class SUCCESS(PrefectStateSignal):
    """The task succeeded."""

    state_class = Success


class RETRY(PrefectStateSignal):
    """Run the task again at `start_time`, whatever its ``max_retries`` says.

    Without one it waits as the task's ``retry_delay`` says; if there is none, for a second, then twice as long each
    time, up to the inline limit of the run.
    """

    state_class = Retrying

    def __init__(self, message: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        self.says_when = (args[1] if len(args) > 1 else kwargs.get("start_time")) is not None


class SKIP(PrefectStateSignal):
    """The task has nothing to do, which counts as success."""

    state_class = Skipped


class PAUSE(PrefectStateSignal):
    """Wait until somebody resumes the run."""

    state_class = Paused


def signal_from_state(state: State) -> type[PrefectStateSignal]:
    """Return the signal class that sets a state of this class.

    Raises:
        - ValueError: if there is none
    """
    for signal in (FAIL, TRIGGERFAIL, VALIDATIONFAIL, LOOP, SUCCESS, RETRY, SKIP, PAUSE):
        if signal.state_class is type(state):
            return signal
    raise ValueError(f"no signal sets a state of type {type(state).__name__}")
