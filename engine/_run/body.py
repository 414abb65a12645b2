"""Running the body of a task, and storing what it returns."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anyio

from .. import _one_pass
from .._signature import is_async
from ..cancellation import Cancellation, absorb_cancel, current_cancellation, is_stopped, stopped_state, uninterrupted
from ..context import FlowScope, current_flow_scope, current_task_scope, current_values, flow_scope
from ..context import values as _values
from ..errors import Lost, SerializationError
from ..executors import HERE, place
from ..explain import RAISED, with_reason
from ..remote import Remote
from ..result import Result, ResultNotImplementedError
from ..runner import Runner, at_length, failures
from ..settings import Settings
from ..signals import ENDRUN, LOOP, SUCCESS, PrefectStateSignal, TaskTimeoutSignal
from ..state import Failed, Looped, State, Success, TimedOut
from ..stdout import captured_stdout
from ..streaming import Streamed, is_stream
from ..task import Task
from . import rules
from .net import LeftBehind, goes_on, is_let_through, meant, shown

__all__ = ["BodyRunner"]

_NOWHERE = Result()
_NO_NEEDS = place.Needs()


class BodyRunner(Runner):
    """What a task runner does between Running and the state after it.

    Args:
        - task: the task
        - state_handlers: as for `Runner`
        - flow_result: where results are stored if the task does not say
        - settings: how long a body gets to stop, and the like
    """

    leaves_results = False
    """Whether a result may stay where the body ran: only bodies there take it."""

    def __init__(
        self,
        task: Task[..., Any],
        state_handlers: Iterable[Callable[..., Any]] | None = None,
        flow_result: Result | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(state_handlers)
        self.task = task
        self.flow_result = flow_result
        self.settings = settings or Settings.from_env()
        result = task.result or flow_result or _NOWHERE
        self.result = result if task.target is None else result.at(task.target)
        # asking once saves asking for every run
        self._body = body = task.body
        self._is_async = is_async(body)
        if not self._is_async and is_stream(body):
            self._body, self._is_async = Streamed(body, task.stream), True
        self._needs = place.needed(task.needs, task.tags) if task.tags else task.needs or _NO_NEEDS
        self._runs_inline = (
            self._is_async and task.timeout is None and not task.log_stdout and self._needs.place is None
        )

    def _where(self, scope: FlowScope) -> place.Place:
        """Return the place where the body runs."""
        found: place.Place | None = scope.place
        if found is None or not self.task.travels:
            return HERE
        return found.named(self._needs.place) if found.is_several else found

    def _begins_later(self, scope: FlowScope) -> bool:
        """Whether the body begins some time after it was handed over."""
        return self._where(scope).reports_begin

    def _template_values(self, inputs: Mapping[str, Result]) -> dict[str, Any]:
        current = _values.get()
        return {**(current.get("parameters") or {}), **current, **{name: r.value for name, r in inputs.items()}}

    async def _outcome(self, arguments: dict[str, Any], inputs: Mapping[str, Result]) -> State:
        """Run the body, and return the state that it leaves.

        Args:
            - arguments: what the body is called with
            - inputs: the same as results, for the name of the place where its own is stored
        """
        current, scope = current_values(), current_flow_scope()
        cancellation: Cancellation | None = scope.cancellation
        task = None
        try:
            if cancellation is not None:
                if cancellation.cause is not None:
                    return stopped_state(cancellation.cause)
                task = asyncio.current_task()
                assert task is not None
                cancellation.interruptible.add(task)
            try:
                found = scope.place
                if self._runs_inline and (found is None or found.is_here or not self.task.travels):
                    value = await self._body(**arguments)
                    if type(value) not in _one_pass.PLAIN and self._is_read_once(value):
                        value = await _one_pass.gathered(_one_pass.read(value))
                else:
                    value = await self._done(self._where(scope), arguments, current)
            finally:
                if cancellation is not None and task is not None:
                    cancellation.interruptible.discard(task)
                    if task in cancellation.left_behind:
                        raise LeftBehind
                    if task.cancelling():
                        await absorb_cancel(task)
        except asyncio.CancelledError as error:
            if await is_stopped():
                if cancellation is None or cancellation.cause is None:
                    raise
                return stopped_state(cancellation.cause)
            return self._attempt_failed(Failed("The task's body was cancelled from within.", result=error))
        except BaseException as raised:
            return await self._failed(meant(raised), inputs)
        if current.get("checkpointing") is not True:
            is_bare = self.result is _NOWHERE and not isinstance(value, Result)
            return Success("Task run succeeded.", value if is_bare else self.result.from_value(value))
        return await self._succeeded(value, inputs)

    async def _failed(self, error: BaseException, inputs: Mapping[str, Result]) -> State:
        """Return the state that a body leaves with what it raised."""
        if isinstance(error, TaskTimeoutSignal):
            return self._attempt_failed(TimedOut(str(error), result=error))
        if isinstance(error, LOOP):
            return await self._looped(error)
        if isinstance(error, (ENDRUN, PrefectStateSignal)) and not self._may_end_as(error.state):
            what = f"The task's body ended its run as {type(error.state).__name__}, {rules.NO_END}"
            return self._attempt_failed(Failed(what, result=error))
        if isinstance(error, SUCCESS):
            return await self._signalled_success(error, inputs)
        if isinstance(error, PrefectStateSignal):
            return self._attempt_failed(error.state, error) if error.state.is_failed() else self._state_of(error)
        if isinstance(error, ENDRUN):
            error.state = self._held_back(error.state)
            raise error
        if goes_on(error):
            raise error
        if is_let_through(error):
            raise error
        # a Failed like any other where it is recorded, for clients that know no other
        mark = {"lost": {"may_have_run": error.may_have_run}} if isinstance(error, Lost) else None
        message = f"{RAISED}{shown(error)}"
        return self._attempt_failed(Failed(message, result=error, context=mark))

    def _attempt_failed(self, state: State, error: BaseException | None = None) -> State:
        """Say why an attempt failed, in its state and, unless another one follows that says it, in the log."""
        with_reason(state, error)
        attempt, task = _values.get().get("task_run_count", 1), self.task
        if not rules.is_retried(state, run_count=attempt, max_retries=task.max_retries, retry_on=task.retry_on):
            self._log_attempt(state, "")
        return state

    def _log_attempt(self, state: State, what_follows: str) -> None:
        attempt, attempts = _values.get().get("task_run_count", 1), self.task.max_retries + 1
        told = f"attempt {attempt} of {max(attempt, attempts)} failed{what_follows}"
        failures.error("%s: %s: %s", self._name(), told, at_length(state))

    def _name(self) -> str:
        name: str = _values.get().get("task_full_name", self.task.name)
        return name

    async def _signalled_success(self, signal: SUCCESS, inputs: Mapping[str, Result]) -> State:
        state, value = signal.state, signal.state.result
        stored = await self._succeeded(value, inputs)
        if isinstance(stored, Success):
            state._result = stored._result
        elif value is not signal:  # a signal that carries no value may have no place, as the result it stands for
            return stored
        return state

    async def _done(self, where: place.Place, arguments: dict[str, Any], current: dict[str, Any]) -> Any:
        """Let the body be run as a job, and return what it returns."""
        name = current.get("task_full_name", self.task.name)
        stays = self.leaves_results and where.keeps_values
        store = self.result if stays and self._stores(current) and self.result.is_written_anywhere else None
        job = place.Job(
            id=_job_id(current),
            name=name,
            body=self._body,
            is_async=self._is_async,
            is_read=not self.task.reruns_on_restart,
            inputs=arguments,
            keep=stays and (store is not None or not self._stores(current)),
            store=store,
            needs=self._needs,
            timeout=self.task.timeout,
            grace=self.settings.cancel_grace,
            is_taken_over=flow_scope.get().takes_over,
        )
        with captured_stdout(self.task.log_stdout):
            outcome = await self._seen_to(where, job)
        if isinstance(outcome, place.TimedOut):
            message = f"The task took longer than its timeout of {job.timeout} s. {outcome.detail}"
            raise TaskTimeoutSignal(message.rstrip())
        return place.settled(outcome, name)

    async def _seen_to(self, where: place.Place, job: place.Job) -> place.Outcome:
        """Hand a job over, tell when its body begins, and wait for what becomes of it; who is cancelled stops it."""
        deadline = math.inf if self._needs.queue_timeout is None else anyio.current_time() + self._needs.queue_timeout
        with anyio.CancelScope(deadline=deadline) as queue:
            ticket = await where.submit(job)
        if queue.cancelled_caught:
            raise self._waited_too_long()
        try:
            if where.reports_begin:
                await self._begins(ticket, deadline)
            return await ticket.outcome()
        except asyncio.CancelledError:
            fate = place.Fate.UNKNOWN
            with anyio.CancelScope(shield=True):
                fate = await ticket.stop(_cause(), job.grace)
            if fate is place.Fate.ENDED:
                outcome = await ticket.outcome()
                if not _is_cancel(outcome):
                    return outcome
            raise  # this very cancel: by what it carries a scope knows it as its own
        except BaseException:  # it may not begin
            with anyio.CancelScope(shield=True):
                await ticket.stop("not recorded", job.grace)
            raise

    async def _begins(self, ticket: place.Ticket, deadline: float) -> None:
        """Tell that a body begins where it was handed over to."""
        with anyio.CancelScope(deadline=deadline) as queue:
            has_begun = await ticket.began()
        if queue.cancelled_caught:
            raise self._waited_too_long()
        facts = current_task_scope().facts
        if facts is not None and has_begun:
            with uninterrupted():
                try:
                    facts.state = await self.handle_state_change(facts.state, rules.begun(facts.state))
                except ENDRUN as end:
                    facts.state = end.state
                    raise
            if not facts.state.is_running():
                raise ENDRUN(facts.state)

    def _may_end_as(self, state: State) -> bool:
        """Whether a run may end in a state: its body may end it so, or was never begun, as the backend said so."""
        facts = current_task_scope().facts
        return rules.is_the_end(state) or (facts is not None and facts.state is state)

    def _waited_too_long(self) -> TaskTimeoutSignal:
        seconds = self._needs.queue_timeout
        return TaskTimeoutSignal(f"The task waited longer than its queue_timeout of {seconds:g} s for a place to run.")

    def _stores(self, current: Mapping[str, Any]) -> bool:
        return current.get("checkpointing") is True and self.task.checkpoint is not False

    def _is_read_once(self, value: Any) -> bool:
        # what is no result but a thing of this process, a resource for instance, is handed on as it is
        return _one_pass.needs_reading(value) and not self.task.reruns_on_restart

    async def _looped(self, signal: LOOP) -> State:
        state = signal.state
        assert isinstance(state, Looped)
        state.message = state.message or f"Task is looping (round {state.loop_count})."
        value = state.result
        state.result = self.result.from_value(value)
        if _values.get().get("checkpointing") is True:
            try:
                state.result = await self._stored_between(value)
            except asyncio.CancelledError:
                raise
            except BaseException as raised:
                if goes_on(error := meant(raised)):
                    raise error from None
                message = f"what round {state.loop_count} of task '{self.task.name}' left cannot be stored"
                said = "%s: %s; should the run be interrupted, it loops from the beginning"
                self.logger.warning(said, message, shown(error))
            if value is None or state._result.location is not None:
                state.cached_inputs = await self._loop_inputs(state.loop_count + 1, state._result)
        return state

    async def _succeeded(self, value: Any, inputs: Mapping[str, Result]) -> State:
        try:
            result = await self._stored(value, inputs)
        except asyncio.CancelledError:
            raise
        except BaseException as raised:
            error = meant(raised)
            if isinstance(error, SerializationError):
                message = f"The result of task '{self.task.name}' cannot be stored: {error}"
                return self._attempt_failed(Failed(message, result=error))
            if isinstance(error, PrefectStateSignal):
                return error.state
            if goes_on(error) or is_let_through(error):
                raise error from None
            message = f"The result of task '{self.task.name}' could not be stored: {shown(error)}"
            return self._attempt_failed(Failed(message, result=error))
        return Success("Task run succeeded.", result)

    async def _stored(self, value: Any, inputs: Mapping[str, Result]) -> Result:
        if value is None or self.task.checkpoint is False or _values.get().get("checkpointing") is not True:
            return self.result.from_value(value)
        if type(value) is place.Stored:
            return await self._stored_there(value, inputs)
        try:
            carried = self.result._in_the_state(value)
            if carried is not None:
                return carried
            return await self.result.write(value, **self._template_values(inputs))
        except ResultNotImplementedError:
            return self.result.from_value(value)

    async def _stored_there(self, found: place.Stored, inputs: Mapping[str, Result]) -> Result:
        """Return the result that a worker has written; if it cannot be seen from here, it is written here, too."""
        result, value = found.result, found.value
        if not await result.exists(str(result.location)):
            if type(value) is Remote:
                value = await self._where(flow_scope.get()).fetch(value)
            return await self.result.write(value, **self._template_values(inputs))
        result.value = value
        return result

    async def _current_round(self) -> dict[str, Result]:
        """Return what a retry inside a loop needs to go on from the same round."""
        current = _values.get()
        if current.get("task_loop_count") is None:
            return {}
        return await self._loop_inputs(
            current["task_loop_count"], await self._stored_between(current.get("task_loop_result"))
        )

    async def _loop_inputs(self, count: int, result: Result) -> dict[str, Result]:
        from ..results import PrefectResult

        return {"_loop_count": await PrefectResult().write(count), "_loop_result": result}

    async def _stored_between(self, value: Any) -> Result:
        """Store what one round leaves to the next; not where the task's result belongs, for which it could be taken."""
        if value is None or self.task.checkpoint is False or _values.get().get("checkpointing") is not True:
            return self.result.from_value(value)
        try:
            return await self.result.at(None).write(value)
        except ResultNotImplementedError:
            return self.result.from_value(value)


def _is_cancel(outcome: place.Outcome) -> bool:
    return isinstance(outcome, place.Raised) and isinstance(outcome.error, asyncio.CancelledError)


def _cause() -> str:
    cancellation = current_cancellation()
    return "cancelled" if cancellation is None or cancellation.cause is None else cancellation.cause


def _job_id(current: Mapping[str, Any]) -> str:
    """Return the id of an attempt, the same for whoever goes on with this task run."""
    task_run_id = current.get("task_run_id")
    if task_run_id is None:
        return uuid.uuid4().hex
    return f"{task_run_id}-{current['task_run_count']}-{current.get('task_loop_count', 1)}"
