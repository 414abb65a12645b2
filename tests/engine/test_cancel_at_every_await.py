"""A run is stopped at each place where its loop could have been elsewhere, and tells the truth each time."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, Limits, context, task, unmapped
from flowloop.engine.results import LocalResult
from flowloop.engine.settings import Settings
from flowloop.engine.signals import LOOP
from flowloop.engine.state import Cancelled, Failed, Looped, Mapped, State
from flowloop.engine.testing import VirtualLoop

GRACE = 5.0
Key = tuple[str, int]


class SteppedLoop(VirtualLoop):
    """Does something between two turns of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1
        self.action: Callable[[], object] = lambda: None
        self._select = self._jumping.select
        self._jumping.select = self._counted_select  # type: ignore[method-assign]

    def after(self, turns: int, action: Callable[[], object]) -> None:
        self.left, self.action = turns, action

    def _counted_select(self, timeout: float | None = None) -> Any:
        if self.left == 0:
            self.action()
            timeout = 0
        self.left -= 1
        return self._select(timeout)


class Observed:
    """A flow with something of everything, and what was seen of its run."""

    def __init__(self, folder: Any) -> None:
        self.changes: dict[Key, list[State]] = defaultdict(list)
        self.flow_changes: list[State] = []
        self.running = 0
        self.flow = self._build(folder)

    async def on_task(self, runner: Any, old: State, new: State) -> None:
        await anyio.sleep(0.1)  # a place where states are recorded: nothing may be cut short in it
        self.changes[context.task_slug, -1 if context.map_index is None else context.map_index].append(new)

    async def on_flow(self, flow: Flow, old: State, new: State) -> None:
        await anyio.sleep(0.1)
        self.flow_changes.append(new)

    def _build(self, folder: Any) -> Flow:
        async def body(n: int = 0) -> list[int]:
            self.running += 1
            try:
                await anyio.sleep(1)
                return [n, n + 1]
            finally:
                try:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.5)
                finally:
                    self.running -= 1

        async def flaky(n: int) -> int:
            await anyio.sleep(0.2)
            if context.task_run_count == 1:
                raise ValueError("the first time")
            return n

        async def loops(values: Any) -> int:
            await anyio.sleep(0.2)
            if context.get("task_loop_count", 1) < 3:
                raise LOOP(result=1)
            return 3

        def in_a_thread(values: Any) -> int:
            return len(values)

        async def trigger(states: Any) -> bool:
            await anyio.sleep(0.1)
            return True

        async def timed(n: int) -> int:
            await anyio.sleep(3600)
            return n

        with Flow("everything", state_handlers=[self.on_flow], result=LocalResult(folder)) as flow:
            numbers: Any = task(body, name="numbers")(1)
            stage: Any = task(flaky, name="flaky", max_retries=1, retry_delay=2).map(numbers)
            stage = task(body, name="stage", tags={"narrow"}).map(stage)
            reduced: Any = task(loops, name="loops", trigger=trigger)(stage)
            task(in_a_thread, name="thread")(stage)
            task(timed, name="timed", timeout=2)(reduced)
            task(body, name="alone", timeout=60)(unmapped(2))
        return flow

    async def run(self, runner: FlowRunner) -> State:
        return await runner.run(task_runner_state_handlers=[self.on_task], context={"checkpointing": True})

    def runner(self) -> FlowRunner:
        return FlowRunner(
            self.flow,
            settings=Settings(cancel_grace=GRACE),
            limits=Limits(concurrency=3, tags={"narrow": 1}),
        )

    def check(self, final: State) -> None:
        """Every task run ended in exactly one final state, and what the flow says of it is what was recorded."""
        assert self.running == 0
        assert final.is_finished()
        assert self.flow_changes[-1] is final
        assert sum(state.is_finished() for state in self.flow_changes) == 1
        if isinstance(final, Cancelled) and final.result is None:
            return  # before anything had begun
        assert final.result.keys() == self.flow.tasks
        told: dict[Key, State] = {}
        for one, state in final.result.items():
            slug = self.flow.slugs[one]
            told[slug, -1] = state
            if isinstance(state, Mapped):
                told |= {(slug, child): found for child, found in enumerate(state.map_states)}
        for key, state in told.items():
            assert state.is_finished(), (key, state)
            assert not isinstance(state, Looped), key
        for key, seen in self.changes.items():
            assert told[key] is seen[-1], (key, seen, told[key])
            for before, after in itertools.pairwise(seen):
                assert not before.is_finished() or isinstance(before, Looped) or after.is_retrying(), (key, seen)
            assert sum(isinstance(state, Cancelled) for state in seen) <= 1
        # a run that had begun was told of its end
        for key, state in told.items():
            if key not in self.changes:
                assert isinstance(state, Cancelled), (key, state)
                assert key[1] >= 0, (key, "only a child that never existed may go unrecorded")


class Going:
    """A run that goes on, in a scope and a task of its own."""

    def __init__(self, observed: Observed) -> None:
        self.runner = observed.runner()
        self.scope = anyio.CancelScope()
        self.task = asyncio.create_task(self._run(observed))

    async def _run(self, observed: Observed) -> State | None:
        with self.scope:
            return await observed.run(self.runner)
        return None

    @property
    def caller_was_cancelled(self) -> bool:
        return self.task.cancelled() or self.scope.cancelled_caught


def stop_by_cancelling_the_caller(going: Going) -> None:
    going.task.cancel()


def stop_by_cancelling_twice(going: Going) -> None:
    going.task.cancel()
    asyncio.get_running_loop().call_later(0.3, going.task.cancel)


def stop_by_a_scope(going: Going) -> None:
    going.scope.cancel()


def stop_by_the_runner(going: Going) -> None:
    going.runner.cancel("user")


def stop_by_both(going: Going) -> None:
    going.runner.cancel("user")
    going.task.cancel()


def stop_by_cancelling_all_tasks(going: Going) -> None:
    """As a loop does that shuts down. It cuts short even what records states, so these cannot be vouched for."""
    for one in asyncio.all_tasks():
        if one.get_name() != "main":
            one.cancel()


STOPS = [
    stop_by_cancelling_the_caller,
    stop_by_cancelling_twice,
    stop_by_a_scope,
    stop_by_the_runner,
    stop_by_both,
    stop_by_cancelling_all_tasks,
]


def stopped_after(turns: int, stop: Callable[[Going], None], folder: Any) -> bool:
    """Stop a run after so many turns of the loop, check what it left, and return whether it was still going on."""

    async def main() -> bool:
        loop, main_task = asyncio.get_running_loop(), asyncio.current_task()
        assert isinstance(loop, SteppedLoop)
        assert main_task is not None
        main_task.set_name("main")
        observed = Observed(folder)
        going = Going(observed)
        stopped_at: list[float] = []

        def stop_now() -> None:
            if not going.task.done():
                stopped_at.append(loop.time())
                stop(going)

        loop.after(turns, stop_now)
        await asyncio.wait([going.task])
        if stop is stop_by_cancelling_all_tasks and (left := asyncio.all_tasks() - {main_task}):
            await asyncio.wait(left)  # as a loop does that shuts down
        assert asyncio.all_tasks() == {main_task}
        assert observed.running == 0
        if stop is stop_by_cancelling_all_tasks:
            assert going.caller_was_cancelled or not stopped_at
        elif going.caller_was_cancelled:
            assert stopped_at
            assert stop is not stop_by_the_runner
            assert observed.flow_changes or not observed.changes
            if observed.flow_changes:
                observed.check(observed.flow_changes[-1])
        else:
            final = going.task.result()
            assert final is not None
            observed.check(final)
            # either nobody was cancelled, or the run was over by then
            assert not stopped_at or stop is stop_by_the_runner or not isinstance(final, Cancelled)
        if stopped_at:
            assert anyio.current_time() - stopped_at[0] < 2 * GRACE
        return bool(stopped_at)

    with asyncio.Runner(loop_factory=SteppedLoop) as runner:
        return runner.run(main())


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.__name__)
def test_a_cancel_at_every_await(stop: Callable[[Going], None], tmp_path: Any) -> None:
    turns = 0
    while stopped_after(turns, stop, tmp_path):
        turns += 1
    assert turns > 100  # otherwise the flow has shrunk, and this test shows little


def test_without_a_cancel_everything_ends(tmp_path: Any) -> None:
    async def main() -> None:
        observed = Observed(tmp_path)
        final = await observed.run(observed.runner())
        observed.check(final)
        assert isinstance(final, Failed)  # "timed" does not make it
        kinds = {one.name: type(state).__name__ for one, state in final.result.items()}
        assert kinds.items() >= {"flaky": "Mapped", "loops": "Success", "timed": "TimedOut", "alone": "Success"}.items()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
