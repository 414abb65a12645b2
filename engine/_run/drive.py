"""The drive: starts what the ledger says is ready, and sees every started run to its end.

Each task run is an asyncio task of its own, owned by the drive. A run that never has to wait ends within the call
that starts it (Python 3.12 and later), which is what makes small tasks cheap; the drive gives the loop a turn every
few milliseconds all the same.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

from .. import telemetry
from .._eager import spawned
from ..cancellation import Cancellation, Cause, outlast, stopped_state
from ..context import OwnRunLogger, flow_scope, resting_on
from ..edge import Edge
from ..errors import ExecutorError
from ..executors.place import priority_of
from ..flow import Flow
from ..signals import ENDRUN, PrefectStateSignal
from ..state import Failed, Finished, Looped, Mapped, Pending, Queued, State
from ..task import Task
from ..task_runner import TaskRunner
from ..watch import Watch
from . import mapping
from .ahead import Ahead
from .gates import Gate, gates_of
from .ledger import Graph, Key, Ledger
from .net import Withdrawn, goes_on, is_the_end, meant, shown
from .release import Release

__all__ = ["Drive", "Plan", "plan_of"]

_log = OwnRunLogger(logging.getLogger("flowloop.runs"))

_MOST_TIMED = 2_000
"""Task runs whose beginning and end are kept, for the picture of a run: more than that nobody can look at."""

_TURN = 0.005
"""Seconds after which the loop gets a turn."""

_FAR_AHEAD = 500
"""Writes that wait to be acknowledged, above which nothing more is started.

Each holds a run in memory, which the garbage collector goes through again and again while it waits, and who records
them has several batches of work as it is.
"""


class Plan:
    """A flow, with its tasks numbered for the ledger."""

    __slots__ = ("graph", "index", "mapped", "priorities", "tasks", "upstream")

    def __init__(self, flow: Flow) -> None:
        self.tasks: list[Task[..., Any]] = list(flow.sorted_tasks())
        self.index = {task: number for number, task in enumerate(self.tasks)}
        edges = [flow._upstream[task] for task in self.tasks]
        self.upstream: list[Sequence[tuple[Edge, int]]] = [
            [(edge, self.index[edge.upstream_task]) for edge in found] if found else () for found in edges
        ]
        self.mapped = [any(edge.mapped for edge in found) for found in edges]
        plain: list[Key] = []
        spread: list[Key] = []
        for downstream, found in enumerate(self.upstream):
            for edge, upstream in found:
                child_by_child = edge.mapped and not edge.flattened and self.mapped[upstream]
                (spread if child_by_child else plain).append((upstream, downstream))
        self.priorities = [priority_of(task.needs) for task in self.tasks]
        self.graph = Graph(len(self.tasks), plain, spread, self.priorities)


def plan_of(flow: Flow) -> Plan:
    """Return the plan of a flow, made once for as long as the flow does not change."""
    plan: Plan = flow._remember("plan", lambda: Plan(flow))
    return plan


class Drive:
    """One run of a plan.

    Args:
        - plan: the plan
        - runner_of: makes the task runner of a task
        - task_states: states to begin with
        - task_contexts: context values of single tasks
        - cancellation: whether the run is being stopped
        - watch: where progress is counted
        - backlog: tells how many writes wait to be acknowledged
        - fail_fast: whether the first failure stops the run
        - kept: the tasks whose results stay although no task needs them any more; None lets all stay
        - grace: seconds that stopped bodies get to clean up, and again to record their states
    """

    keeps_story: ClassVar[bool] = False
    """Whether the ledger keeps a log, which the error about an impossible move then tells; always in asyncio's debug
    mode."""

    def __init__(
        self,
        plan: Plan,
        runner_of: Callable[[Task[..., Any]], TaskRunner],
        task_states: Mapping[Task[..., Any], State],
        task_contexts: Mapping[Task[..., Any], dict[str, Any]],
        cancellation: Cancellation,
        watch: Watch,
        *,
        backlog: Callable[[], int],
        fail_fast: bool,
        kept: Iterable[Task[..., Any]] | None = None,
        grace: float,
    ) -> None:
        self._plan = plan
        self._runner_of = runner_of
        self._runners: list[TaskRunner | None] = [None] * len(plan.tasks)
        self._initial = task_states
        self._contexts = task_contexts
        self._cancellation = cancellation
        self._watch = watch
        self._ended_as = watch.ended
        self._backlog = backlog
        self.on_foreseen_end: Callable[[dict[Task[..., Any], State], Sequence[Any]], None] | None = None
        """Hears, once at most, of the states of all tasks and which of them are on their way, when nothing else is
        left to happen."""
        self._fail_fast = fail_fast
        self._grace = grace
        self.ledger = Ledger(plan.graph, story=self.keeps_story or asyncio.get_running_loop().get_debug())
        self._ahead = Ahead(self.ledger)
        self._starting: Key = (-1, -1)
        self._release: Release | None = None
        if kept is not None:
            self._release = Release(plan.graph, {plan.index[task] for task in (*kept, *task_states)})
        self.states: list[State | None] = [None] * len(plan.tasks)
        self._sources: dict[int, list[tuple[Edge, State, mapping.Elements | None]]] = {}
        self._in_flight: dict[asyncio.Task[State], Key] = {}
        self._gates: Sequence[Gate | None] = ()
        # one for all runs: what a run needs while it waits is kept small, so that the garbage collector is quick
        self._done_callback = self._ended
        self._context = contextvars.copy_context()
        self._stopping = False
        self._cancelled_meanwhile = False
        self._failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._spans: dict[Key, Any] = {}
        self._began_at: dict[Key, float] = {}
        self._times: list[tuple[Key, float, float]] = []
        self._tells = _log.isEnabledFor(logging.DEBUG)
        self._times_left = _MOST_TIMED
        watch.total += len(plan.tasks)

    def final_states(self) -> dict[Task[..., Any], State]:
        """Return the states of all tasks that have one."""
        return {task: state for task, state in zip(self._plan.tasks, self.states, strict=True) if state is not None}

    def leaves_some(self) -> bool:
        """Whether runs of tasks have ended here that are not finished."""
        return not all(issubclass(kind, Finished) and kind is not Looped for kind in self._ended_as)

    def times(self) -> dict[tuple[Task[..., Any], int], tuple[float, float]]:
        """Return when the task runs began and ended, on the clock of the loop; of the first few thousand, if there are
        more.
        """
        return {(self._plan.tasks[key[0]], key[1]): (began, ended) for key, began, ended in self._times}

    def is_released(self, task: Task[..., Any]) -> bool:
        """Whether results of a task are gone because no other task needed them any more."""
        return self._release is not None and self._plan.index[task] in self._release.released

    def wake(self) -> None:
        """Make `run` look again at what there is to do."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- going -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run everything to its end, or until the run is stopped.

        Raises:
            - CancelledError: when the caller is cancelled, after everything has been stopped
            - BaseException: what a task runner raised, after everything has been stopped
        """
        loop = asyncio.get_running_loop()
        self._gates = gates_of(self._plan.tasks, flow_scope.get().place)
        try:
            while self.ledger.unfinished and not self._is_ending():
                await self._start_ready(loop)
                if self._ahead.next:
                    self._step_ahead(loop)
                if self._ahead.foreseen:
                    self._foresee_end()
                if self.ledger.ready or self._ahead.next or not self.ledger.unfinished or self._is_ending():
                    continue
                self._waiter = loop.create_future()
                await self._waiter
        except asyncio.CancelledError:
            await self._stop(self._cancellation.cause_from_outside)
            raise
        if self._failure is not None:
            await self._stop("shutdown" if isinstance(self._failure, KeyboardInterrupt) else "sibling")
            raise self._failure
        if self._cancellation.cause is not None:
            await self._stop(self._cancellation.cause)
            if self._cancelled_meanwhile:
                raise asyncio.CancelledError

    async def _start_ready(self, loop: asyncio.AbstractEventLoop) -> None:
        ledger = self.ledger
        clock = loop.time()
        turn = clock + _TURN
        gates = self._gates
        cancellation = self._cancellation
        while ledger.ready and cancellation.cause is None and self._failure is None:
            if gates and (gate := gates[ledger.ready[0][0]]) is not None:
                if gate.is_full:
                    key = ledger.ready.popleft()
                    gate.waiting.add(key, self._plan.priorities[key[0]])
                    continue
                gate.under_way += 1
            clock = self._start(ledger.start(), loop, clock)
            if clock > turn:
                await asyncio.sleep(0)
                # a look now and then: an event for every batch would be a lot to ask of a backend
                while self._backlog() > _FAR_AHEAD and not self._is_ending():  # noqa: ASYNC110
                    await asyncio.sleep(_TURN)
                clock = loop.time()
                turn = clock + _TURN

    def foresee(self, state: State, posted: Any) -> None:
        """Hear of the state that the run of this asyncio task ends with as soon as the backend has taken it.

        What waits for nothing else may then get as far as Running: both states travel together, and its body begins
        when both are acknowledged. If the first is refused, so is the second, and the run begins anew in its turn.
        """
        key = self._in_flight.get(cast("Any", asyncio.current_task()), self._starting)
        if key[0] >= 0 and key[1] < 0 and not self._plan.mapped[key[0]]:
            self._ahead.foresee(key[0], state, posted)
            self.wake()

    def _step_ahead(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start what waits only for states that are on their way to the backend."""
        while self._ahead.next and not self._is_ending():
            number = self._ahead.next.popleft()
            task = self._plan.tasks[number]
            is_held = self._plan.mapped[number] or not self.ledger.waits(number)
            if is_held or task in self._initial or (self._gates and self._gates[number] is not None):
                continue
            runner = self._runner_of(task)
            if not runner.may_step_ahead:
                continue
            sources = self._plan.upstream[number]
            foreseen = self._ahead.foreseen
            upstream = {
                edge: state
                for edge, one in sources
                if (state := foreseen[one][0] if one in foreseen else self.states[one]) is not None
            }
            token = resting_on.set(tuple([foreseen[one][1] for one in {one for _, one in sources} if one in foreseen]))
            try:
                run = spawned(runner.run(None, upstream, self._contexts.get(task)), loop)
            finally:
                resting_on.reset(token)
            self._ahead.runs[number] = run
            if not run.done():
                self._in_flight[run] = (number, -1)
                run.add_done_callback(self._done_callback, context=self._context)

    def _foresee_end(self) -> None:
        """Tell how the run ends as soon as the backend has taken what is on its way, if that is all that is left."""
        foreseen, tell = self._ahead.foreseen, self.on_foreseen_end
        if tell is not None and len(foreseen) == self.ledger.unfinished and not self._is_ending():
            self.on_foreseen_end = None
            ends = {self._plan.tasks[number]: state for number, (state, _) in foreseen.items()}
            tell({**self.final_states(), **ends}, [posted for _, posted in foreseen.values()])

    def _is_ending(self) -> bool:
        return self._cancellation.cause is not None or self._failure is not None

    def _start(self, key: Key, loop: asyncio.AbstractEventLoop, clock: float) -> float:
        """Start a run at a time of the loop's clock, and return what that says then: it may have ended."""
        if self._tells:
            _log.debug("%s begins", self._name(key))
        is_timed = self._times_left > 0
        if is_timed:
            self._times_left -= 1
        if self._ahead.runs and (ahead := self._ahead.runs.pop(key[0], None)) is not None:
            if is_timed:
                self._began_at[key] = clock
            if ahead not in self._in_flight:
                self._settle(key, ahead)
            return loop.time()
        try:
            self._starting = key
            run = self._run_task(key[0], key[1])
            if telemetry.active is not None:
                run = telemetry.active.task_run(run, self._name(key), key, self._spans, self._upstream_keys(key))
            task = spawned(run, loop)
        except BaseException as error:
            self._failure = self._failure or error
            return clock
        finally:
            self._starting = (-1, -1)
        if not task.done():
            if is_timed:
                self._began_at[key] = clock
            self._in_flight[task] = key
            task.add_done_callback(self._done_callback, context=self._context)
            return loop.time()
        self._settle(key, task)
        ended = loop.time()
        if is_timed:
            self._times.append((key, clock, ended))
        return ended

    def _ended(self, task: asyncio.Task[State]) -> None:
        key = self._in_flight.pop(task, None)
        if key is None:  # left behind, or seen to already
            self._cancellation.left_behind.discard(task)
            if not task.cancelled():
                task.exception()
            return
        if not self._ahead.runs or self._ahead.runs.get(key[0]) is not task:  # else it is settled in its turn
            self._settle(key, task)
        self.wake()

    def _settle(self, key: Key, task: asyncio.Task[State]) -> None:
        try:
            self._completed(key, task.result())
        except Withdrawn:
            self._begin_anew(key)
        except asyncio.CancelledError:
            if not self._stopping:
                name = self._plan.tasks[key[0]].name
                self._failure = self._failure or ExecutorError(f"the run of task {name!r} was cancelled from outside")
        except BaseException as error:
            self._failure = self._failure or error

    def _begin_anew(self, key: Key) -> None:
        """Start a run that had stepped ahead in vain: as if it had not, and this time step by step."""
        number = key[0]
        runner = self._runners[number] = self._runners[number] or self._runner_of(self._plan.tasks[number])
        runner.go_step_by_step()
        loop = asyncio.get_running_loop()
        self._start(key, loop, loop.time())

    def _upstream_keys(self, key: Key) -> Iterator[Key]:
        """Yield the task runs that a task run takes results of."""
        number, child = key
        for edge, upstream in self._plan.upstream[number]:
            state = self.states[upstream]
            if not isinstance(state, Mapped):
                yield upstream, -1
            elif edge.mapped and child >= 0:
                yield upstream, child
            else:
                yield from ((upstream, index) for index in range(len(state.map_states)))

    def _name(self, key: Key) -> str:
        name = self._plan.tasks[key[0]].name
        return name if key[1] < 0 else f"{name}[{key[1]}]"

    def _run_task(self, number: int, child: int) -> Coroutine[Any, Any, State]:
        plan = self._plan
        task, runner, is_mapped = plan.tasks[number], self._runners[number], plan.mapped[number]
        if runner is None:
            runner = self._runner_of(task)
            if is_mapped:  # its children share it; another one is needed once
                self._runners[number] = runner
        context = self._contexts.get(task) if self._contexts else None
        if child < 0:
            upstream = self._upstream_states(number) if plan.upstream[number] else {}
            state = self.states[number]
            if state is None and self._initial:
                state = self._initial.get(task)
            return runner.run(state, upstream, context, is_mapped)
        parent = self.states[number]
        assert isinstance(parent, Mapped)
        upstream = self._child_states(number, child)
        context = {"map_index": child} if context is None else {**context, "map_index": child}
        return runner.run(parent.map_states[child], upstream, context)

    def _child_states(self, number: int, child: int) -> dict[Edge, State]:
        sources = self._sources.get(number, [])
        try:
            return mapping.child_states(sources, child)
        except BaseException as error:
            if goes_on(meant(error)):
                raise
        return {edge: _element(edge, state, elements, child) for edge, state, elements in sources}

    def _upstream_states(self, number: int) -> dict[Edge, State]:
        states = self.states
        found = {}
        for edge, upstream in self._plan.upstream[number]:
            state = states[upstream]
            if state is not None:
                found[edge] = state
        return found

    def _completed(self, key: Key, state: State) -> None:
        number, child = key
        if self._gates and (gate := self._gates[number]) is not None:
            gate.under_way -= 1
            if gate.waiting:
                self.ledger.ready.append(gate.waiting.take())
        self._ended_as[type(state)] += 1
        if self._began_at and (began := self._began_at.pop(key, None)) is not None:
            self._times.append((key, began, asyncio.get_running_loop().time()))
        if self._tells:
            _log.debug("%s ends as %s", self._name(key), type(state).__name__)
        if child < 0:
            self.states[number] = state
            if self._ahead.foreseen and not self._stopping:
                self._ahead.settle(number)
        else:
            parent: Any = self.states[number]
            parent.map_states[child] = state
        if self._stopping:
            return
        if isinstance(state, Mapped) and child < 0 and self._plan.mapped[number]:
            self._expand(number, state)
        else:
            self.ledger.finish(key)
        if self._release is not None and isinstance(state, Finished):
            self._release_what_was_used(key)
        if self._fail_fast and state.is_failed():
            self._cancellation.request("sibling")

    def _release_what_was_used(self, key: Key) -> None:
        assert self._release is not None
        number, child = key
        if child >= 0:
            self._release.child_finished(key, self.states)
        if self.ledger.is_finished(number) and _is_over(self.states[number]):
            self._sources.pop(number, None)
            self._release.task_finished([upstream for _, upstream in self._plan.upstream[number]], self.states)

    def _expand(self, number: int, state: Mapped) -> None:
        upstream = self._upstream_states(number)
        sources = [(edge, one, _elements_of(edge, one, state.n_map_states)) for edge, one in upstream.items()]
        self._sources[number] = sources
        width = min([state.n_map_states, *(len(elements) for _, _, elements in sources if elements is not None)])
        if len(state.map_states) != width:
            state.map_states = [*state.map_states[:width], *[None] * (width - len(state.map_states))]
            state.n_map_states = width
        self._watch.total += width
        self.ledger.expand(number, width)

    # -- stopping ----------------------------------------------------------------------------------------

    async def _stop(self, cause: Cause) -> None:
        """Stop every task run within a bounded time: each ends in a final state, unless another process goes on."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        self._cancellation.request(cause)
        for number in list(self._ahead.runs):
            self._start((number, -1), loop, loop.time())
        if self._cancellation.cause != "handover":
            self._end_waiting(loop)
        await self._drain()
        self._give_up(loop)
        await self._drain()
        self._in_flight.clear()
        for number, state in enumerate(self.states):
            self.states[number] = self._last(state)

    def _end_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start what has not begun, or waits for later: with the cause set, a run goes straight to Cancelled."""
        under_way = set(self._in_flight.values())
        for number, task in enumerate(self._plan.tasks):
            state = self.states[number]
            known = self._initial.get(task) if state is None else state
            if isinstance(known, Mapped):
                self.states[number] = known
                for child, one in enumerate(known.map_states):
                    if one is not None and _waits(one) and (number, child) not in under_way:
                        self._start((number, child), loop, loop.time())
            elif (number, -1) not in under_way and (state is None or _waits(state)):
                self._start((number, -1), loop, loop.time())

    def _give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel again what is still in flight. A body that has not ended is left behind: its run ends without it."""
        for task, key in list(self._in_flight.items()):
            task.cancel()
            if task in self._cancellation.interruptible:
                self._cancellation.left_behind.add(task)
                del self._in_flight[task]
                self._start(key, loop, loop.time())

    async def _drain(self) -> None:
        """Wait until nothing is in flight, for as long as the grace."""
        tasks = [*self._in_flight, *self._cancellation.left_behind]
        if await outlast(tasks, self._grace):
            # what is in flight is seen to its end before the caller's cancel goes on
            self._cancelled_meanwhile = True
        for task in list(self._in_flight):
            if task.done():
                self._ended(task)

    def _last(self, state: State | None) -> State:
        """Return a state for what could not record one: children that never began, handlers that would not stop."""
        if isinstance(state, Mapped):
            state.map_states = [self._unrecorded() if child is None else child for child in state.map_states]
        return self._unrecorded() if state is None else state

    def _unrecorded(self) -> State:
        assert self._cancellation.cause is not None
        state = stopped_state(self._cancellation.cause)
        self._ended_as[type(state)] += 1
        return state


def _elements_of(edge: Edge, state: State, width: int) -> mapping.Elements | None:
    """Return what a mapped edge brings; what cannot be read fails the children, and nothing else."""
    try:
        elements = mapping.elements_of(edge, state)
        if elements is not None:
            len(elements)
    except BaseException as error:
        return [_unread(edge, error)] * width
    return elements


def _element(edge: Edge, state: State, elements: mapping.Elements | None, child: int) -> State:
    try:
        return state if elements is None else elements[child]
    except BaseException as error:
        return _unread(edge, error)


def _unread(edge: Edge, raised: BaseException) -> State:
    error = meant(raised)
    if isinstance(error, (ENDRUN, PrefectStateSignal)) and error.state.is_finished() and is_the_end(error.state):
        return error.state
    if goes_on(error):
        raise error
    return Failed(f"The result of '{edge.upstream_task.name}' cannot be read: {shown(error)}", result=error)


def _is_over(state: State | None) -> bool:
    if isinstance(state, Mapped):
        return all(isinstance(child, Finished) for child in state.map_states)
    return isinstance(state, Finished)


def _waits(state: State) -> bool:
    return isinstance(state, (Pending, Queued))
