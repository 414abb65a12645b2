"""Watching a run: its events and its progress."""

from __future__ import annotations

import asyncio
import datetime
import gc
import itertools
from typing import Any

import anyio
import pytest

from flowloop.engine import Flow, FlowRunner, context, task
from flowloop.engine.context import now
from flowloop.engine.settings import Settings
from flowloop.engine.watch import RunEvent

pytestmark = pytest.mark.virtual_time


def sleeping(seconds: float = 1, width: int = 3) -> Flow:
    async def sleep(n: int) -> int:
        await anyio.sleep(seconds * n)
        return n

    with Flow("sleeping") as flow:
        task(sleep).map(list(range(width)))
    return flow


async def collected(runner: FlowRunner, **kwargs: Any) -> list[RunEvent]:
    """Run a flow, and return its events."""
    events = runner.events(**kwargs)
    await runner.run()
    return [event async for event in events]


def told(events: list[RunEvent], slug: str | None) -> list[Any]:
    return [(event.map_index, type(event.state).__name__) for event in events if event.task_slug == slug]


async def test_every_change_of_a_run_is_an_event() -> None:
    events = await collected(FlowRunner(sleeping(width=2)))
    assert told(events, None) == [(-1, "Running"), (-1, "Success")]
    assert told(events, "sleep-1") == [
        (-1, "Mapped"),
        (0, "Running"),
        (1, "Running"),
        (0, "Success"),
        (1, "Success"),
    ]


async def test_an_event_says_when_and_what_was_before() -> None:
    start = now()

    @task(max_retries=1, retry_delay=60)
    async def flaky() -> None:
        if context.task_run_count == 1:
            raise ValueError

    with Flow("flaky") as flow:
        flaky()
    events = [event for event in await collected(FlowRunner(flow)) if event.task_slug == "flaky-1"]
    assert [(event.timestamp - start, event.run_count) for event in events] == [
        (datetime.timedelta(0), 1),
        (datetime.timedelta(0), 1),
        (datetime.timedelta(0), 1),
        (datetime.timedelta(seconds=60), 2),
        (datetime.timedelta(seconds=60), 2),
    ]
    for before, after in itertools.pairwise(events):
        assert after.old_state is before.state


async def test_events_are_seen_while_the_run_goes_on() -> None:
    runner = FlowRunner(sleeping())
    seen: list[tuple[float, str]] = []

    async def watch() -> None:
        async for event in runner.events():
            when = anyio.current_time()
            seen.append((when, type(event.state).__name__))

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await runner.run()
    await watching
    assert [time for time, kind in seen if kind == "Success"][-3:] == [1, 2, 2]  # two children, and the flow


async def test_the_stream_begins_when_it_is_asked_for_and_not_when_it_is_read() -> None:
    runner = FlowRunner(sleeping())
    running = asyncio.create_task(runner.run())
    await anyio.sleep(1.5)
    events = runner.events()
    await running
    late = [event async for event in events]
    assert told(late, "sleep-1") == [(2, "Success")]
    assert told(late, None) == [(-1, "Success")]


async def test_several_may_watch() -> None:
    runner = FlowRunner(sleeping())
    one, two = runner.events(), runner.events()
    await runner.run()
    assert [event async for event in one] == [event async for event in two] != []


async def test_a_slow_reader_loses_the_oldest_events_and_the_run_never_waits() -> None:
    runner = FlowRunner(sleeping(width=20))
    events = runner.events(size=5)
    await runner.run()
    assert anyio.current_time() == 19
    kept = [event async for event in events]
    assert len(kept) == 5
    assert type(kept[-1].state).__name__ == "Success"
    assert kept[-1].task_slug is None
    assert events.dropped > 20


async def test_a_stream_that_nobody_holds_is_forgotten() -> None:
    runner = FlowRunner(sleeping())
    events = runner.events()
    del events
    gc.collect()
    assert len(runner._watch._streams) == 0
    assert (await runner.run()).is_successful()


async def test_streams_end_however_the_run_ends() -> None:
    runner = FlowRunner(sleeping(seconds=1000))
    for by_the_runner in (True, False):
        events = runner.events()
        running = asyncio.create_task(runner.run())
        await anyio.sleep(1)
        runner.cancel() if by_the_runner else running.cancel()
        await asyncio.wait([running])
        found = [event async for event in events]
        assert told(found, None) == [(-1, "Running"), (-1, "Cancelled")]


async def test_the_events_of_the_next_run_come_in_a_new_stream() -> None:
    runner = FlowRunner(sleeping())
    assert len(await collected(runner)) == len(await collected(runner))


async def test_a_flow_that_cannot_run_ends_the_stream() -> None:
    flow = sleeping()
    runner = FlowRunner(flow)
    events = runner.events()
    with pytest.raises(ValueError, match="no parameter"):
        await runner.run(parameters={"x": 1})
    assert [event async for event in events] == []


async def test_a_reader_can_be_cancelled() -> None:
    runner = FlowRunner(sleeping(seconds=100))
    running = asyncio.create_task(runner.run())
    with anyio.move_on_after(5) as scope:
        async for _ in runner.events():
            pass
    assert scope.cancelled_caught
    assert (await running).is_successful()


# -- progress ------------------------------------------------------------------------------------------


async def test_progress_while_the_run_goes_on_and_after_it() -> None:
    runner = FlowRunner(sleeping())
    assert (runner.progress().total, runner.progress().finished) == (0, 0)
    running = asyncio.create_task(runner.run())
    await anyio.sleep(1.5)
    progress = runner.progress()
    # a constant, the mapped task, and two of its three children
    assert (progress.total, progress.finished) == (5, 4)
    assert progress.states == {"Success": 3, "Mapped": 1}
    await running
    progress = runner.progress()
    assert (progress.total, progress.finished) == (5, 5)
    assert progress.states == {"Success": 4, "Mapped": 1}


async def test_what_waits_is_not_finished() -> None:
    @task(max_retries=1, retry_delay=3600)
    async def flaky() -> None:
        raise ValueError

    with Flow("waits") as flow:
        flaky()
    runner = FlowRunner(flow, settings=Settings(inline_retry_limit=1))
    await runner.run()
    assert (runner.progress().total, runner.progress().finished) == (1, 0)
