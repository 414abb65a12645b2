"""What the task runner and the flow runner have in common."""

from __future__ import annotations

import asyncio
import datetime
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, TypeVar, cast

from ._run import rules
from ._run.net import goes_on, is_let_through, is_moment, meant, shown
from .context import OwnLogger, OwnRunLogger, now
from .explain import brief, with_reason
from .settings import Settings
from .signals import ENDRUN, PAUSE, PrefectStateSignal
from .state import Failed, Mapped, Pending, Queued, Scheduled, State, _MetaState

__all__ = [
    "ENDRUN",
    "Runner",
    "at_length",
    "being_cancelled",
    "call_handler",
    "call_state_handlers",
    "failures",
    "handler_name",
    "is_outside",
    "settle",
]

StateT = TypeVar("StateT", bound=State)
StepT = TypeVar("StepT", bound=Callable[..., Awaitable[State]])


async def settle(answer: Any) -> Any:
    """Return the answer of a function that may be sync or async."""
    return await answer if inspect.isawaitable(answer) else answer


def being_cancelled() -> bool:
    """Tell whether the current task is being cancelled: if not, a CancelledError came out of what it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_outside(error: BaseException) -> bool:
    """Tell whether what came out of the code of users is none of theirs: an interrupt, or a cancel of who called it."""
    return goes_on(error) or (isinstance(error, asyncio.CancelledError) and being_cancelled())


async def call_handler(
    handler: Callable[..., Any], owner: Any, old_state: State, new_state: State, runner: Runner
) -> State:
    """Call one state handler, sync or async, and return the state it leaves.

    Args:
        - handler: the handler
        - owner: what it is told of: a task, a flow, or their runner
        - old_state: the old (previous) state
        - new_state: the new (current) state
        - runner: the runner that makes the change

    Raises:
        - TypeError: if it returns something that is neither a state nor None
        - ValueError: if it leaves the run in a state in which nobody goes on with it
    """
    try:
        answer = handler(owner, old_state, new_state)
        if not (answer is None or isinstance(answer, State)):
            answer = await settle(answer)
    except BaseException as raised:
        end = meant(raised)
        if isinstance(end, ENDRUN) and not rules.is_the_end(end.state):
            raise _no_end(handler, f"ended the run as {type(end.state).__name__}") from raised
        raise
    if answer is None:
        return new_state
    if not isinstance(answer, State):
        raise TypeError(
            f"the state handler {handler_name(handler)} returned {shown(answer)}; a handler returns a state, or None "
            "to keep it"
        )
    if answer is new_state:
        return answer
    if not rules.may_replace(new_state, answer, loops=runner.loops):
        raise _no_end(handler, f"put {type(answer).__name__} in the place of {type(new_state).__name__}")
    return answer if isinstance(new_state, (Scheduled, Queued)) else runner._held_back(answer)


def _no_end(handler: Callable[..., Any], what: str) -> ValueError:
    return ValueError(f"the state handler {handler_name(handler)} {what}, {rules.NO_END}")


def handler_name(handler: Callable[..., Any]) -> str:
    """Return how messages call a handler."""
    return getattr(handler, "__qualname__", None) or shown(handler)


def call_state_handlers(step: StepT) -> StepT:
    """Call the state handlers when a step of a runner changes the state.

    The change is one of identity: a step that returns an equal but new state has changed it. When the step ends the
    run, the handlers are called first, and the run ends with the state they leave.
    """

    @functools.wraps(step)
    async def with_handlers(self: Runner, state: State, *args: Any, **kwargs: Any) -> State:
        try:
            new_state = await step(self, state, *args, **kwargs)
        except ENDRUN as end:
            if end.state is state:
                raise
            if not (self.loops and isinstance(end.state, Mapped)):  # the children of a task are run next
                end.state = self._as_end(end.state)
            raise ENDRUN(await self.handle_state_change(state, end.state)) from None
        if new_state is state:
            return state
        return await self.handle_state_change(state, new_state)

    with_handlers.raw_step = (step, with_handlers)  # type: ignore[attr-defined]  # for whoever tells them himself
    return cast("StepT", with_handlers)


failures = OwnRunLogger(logging.getLogger("flowloop.failures"))
"""Where it is told why runs fail."""


def at_length(state: State) -> str:
    """Return why something failed: in one line, and the traceback below it."""
    return f"{brief(state)}\n{state.traceback}" if state.traceback else brief(state)


@functools.cache
def _logger(name: str) -> OwnLogger:
    return OwnLogger(logging.getLogger(f"flowloop.{name}"))


class Runner:
    """Moves something from state to state.

    Args:
        - state_handlers: functions (runner, old state, new state) called at each change, sync or async; each may
            return another state in the place of the new one
    """

    loops: ClassVar[bool] = False
    """Whether what is run has rounds, after each of which it is Looped."""
    settings = Settings()

    def __init__(self, state_handlers: Iterable[Callable[..., Any]] | None = None) -> None:
        if callable(state_handlers):
            raise ValueError(f"state_handlers is a list of functions, not {state_handlers!r}")
        self.state_handlers: list[Callable[..., Any]] = [*state_handlers] if state_handlers else []

    @functools.cached_property
    def logger(self) -> OwnLogger:
        """Where this kind of runner logs."""
        return _logger(type(self).__name__)

    async def initialize_run(
        self, state: State | None = None, context: dict[str, Any] | None = None
    ) -> tuple[State, dict[str, Any]]:
        """Return what a run begins with.

        Args:
            - state: the initial state; Pending if None, and what it wraps if it is a meta state
            - context: values for the run's context

        Returns:
            - tuple: the state and the context
        """
        return self._initial_state(state), {} if context is None else context

    def _initial_state(self, state: State | None) -> State:
        """Return the state to begin with: Pending if there is none, and what a meta state wraps."""
        while isinstance(state, _MetaState):
            state = state.state
        return Pending("Run created.") if state is None else state

    async def call_runner_target_handlers(self, old_state: State, new_state: State) -> State:
        """Call the handlers of what is run; here there are none.

        Args:
            - old_state: the old (previous) state
            - new_state: the new (current) state

        Returns:
            - State: the new state
        """
        return new_state

    async def handle_state_change(self, old_state: State, new_state: State) -> State:
        """Call all state handlers: those of what is run first, then those of this runner. Then tell whoever watches.

        What a handler puts in the place of the new state, or raises, is recorded where states are recorded.

        Args:
            - old_state: the old (previous) state
            - new_state: the new (current) state

        Returns:
            - State: the new state, or what a handler put in its place

        Raises:
            - PAUSE: if a handler raises it
            - ENDRUN: if a handler raises it, or fails: then with a Failed state
        """
        try:
            new_state = await self.call_runner_target_handlers(old_state, new_state)
        except BaseException as raised:
            end = self._ended_by(raised)
            if isinstance(end, (PAUSE, ENDRUN)):
                raise end from end.__cause__
            new_state = end.state
        else:
            if self.state_handlers:
                new_state = await self._call_own_handlers(old_state, new_state)
        self._tell(old_state, new_state)
        return new_state

    async def _call_own_handlers(self, old_state: State, told: State) -> State:
        new_state, end = told, None
        try:
            for handler in self.state_handlers:
                new_state = await call_handler(handler, self, old_state, new_state, self)
        except BaseException as raised:
            end = self._ended_by(raised)
            new_state = end.state
        if new_state is not told:
            new_state = await self._record(told, new_state)
        if isinstance(end, (PAUSE, ENDRUN)):
            end.state = new_state
            raise end from end.__cause__
        return new_state

    def _as_end(self, state: State) -> State:
        """Return the state that a step ends the run with; Failed for one in which nobody goes on with it."""
        if rules.is_the_end(state):
            return state
        return self._explained(Failed(f"{self._name()} was ended as {type(state).__name__}, {rules.NO_END}"))

    def _ended_by(self, raised: BaseException) -> ENDRUN | PrefectStateSignal:
        """Return the signal that what a handler raised amounts to: ENDRUN with Failed if it is none."""
        error = meant(raised)
        if isinstance(error, PrefectStateSignal):
            error.state = self._state_of(error)
            return error
        if isinstance(error, ENDRUN):
            error.state = self._held_back(error.state)
            return error
        if is_outside(error) or is_let_through(error):
            raise error
        failed = Failed(f"Exception raised while calling state handlers: {shown(error)}", result=error)
        end = ENDRUN(self._explained(failed))
        end.__cause__ = error
        return end

    def _state_of(self, signal: PrefectStateSignal) -> State:
        """Return the state that a signal sets."""
        return self._held_back(signal.state)

    def _held_back(self, state: State) -> State:
        """Return a state that the code of users has made; one that waits for nothing waits for a moment.

        Who makes it may make it each time: the run would go round and round without a pause.
        """
        if isinstance(state, (Scheduled, Queued)) and is_moment(state.start_time) and state.start_time <= now():
            state.start_time = now() + self._pause_before(state)
        return state

    def _pause_before(self, state: State) -> datetime.timedelta:
        """Return how long a run waits that is held back without a word on when it goes on: as where a backend does."""
        return datetime.timedelta(seconds=self.settings.queue_interval)

    async def _record(self, old_state: State, new_state: State) -> State:
        """Record a state; here there is nothing to record it in.

        Returns:
            - State: the state to go on with
        """
        return new_state

    def _tell(self, old_state: State, new_state: State) -> None:
        """Tell whoever watches of a change of state; here nobody does."""

    def _explained(self, state: StateT) -> StateT:
        """Say why the run fails, in its state and in its log, and return the state."""
        with_reason(state)
        failures.error("%s failed: %s", self._name(), at_length(state))
        return state

    def _name(self) -> str:
        """Return how the log calls what is run."""
        return type(self).__name__

    async def _heartbeat(self) -> bool:
        """Tell somebody that this run is alive; here there is nobody to tell.

        Returns:
            - bool: whether there was
        """
        return False
