"""Bodies that are async generators: items are told as they come, and the result is made of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from flowloop.engine import Flow, FlowRunner, Settings, context, subflow, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.executors import ProcessExecutor
from flowloop.engine.state import Failed, State, TimedOut
from flowloop.engine.watch import ItemEvent


async def items_of(runner: FlowRunner, **given: Any) -> tuple[State, list[ItemEvent]]:
    found: list[ItemEvent] = []

    async def read() -> None:
        found.extend([event async for event in runner.events() if isinstance(event, ItemEvent)])

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.lowlevel.checkpoint()
        state = await runner.run(**given)
    return state, found


@task
async def counts(n: int) -> AsyncIterator[int]:
    for number in range(n):
        await anyio.lowlevel.checkpoint()
        yield number


@pytest.mark.virtual_time
@pytest.mark.parametrize("is_recorded", [True, False])
async def test_items_are_told_as_they_come_and_are_the_result(
    memory: Backend, settings: Settings, *, is_recorded: bool
) -> None:
    with Flow("counting") as flow:
        told = counts.map([2, 3])
        last = counts(3, task_args={"stream": "last", "name": "last"})
    runner = CloudFlowRunner(flow, backend=memory, settings=settings) if is_recorded else FlowRunner(flow)
    state, items = await items_of(runner)
    assert state[told].result == [[0, 1], [0, 1, 2]]
    assert state[last].result == 2
    assert sorted((event.task_slug, event.map_index, event.item) for event in items) == [
        *[("counts-1", child, number) for child, width in ((0, 2), (1, 3)) for number in range(width)],
        *[("last-1", -1, number) for number in range(3)],
    ]


async def test_a_stream_runs_on_the_loop_and_in_no_thread() -> None:
    @task
    async def where() -> AsyncIterator[Any]:
        yield asyncio.get_running_loop(), threading.current_thread()

    with Flow("where") as flow:
        told = where()
    state = await FlowRunner(flow).run()
    assert state[told].result == [(asyncio.get_running_loop(), threading.current_thread())]


@pytest.mark.virtual_time
async def test_items_come_before_the_body_ends_and_tell_the_attempt_and_where() -> None:
    tries: list[int] = []

    @task(max_retries=1, retry_delay=1)
    async def flaky() -> AsyncIterator[str]:
        tries.append(1)
        yield f"attempt {context.task_run_count}"
        if len(tries) == 1:
            raise ValueError("once")

    with Flow("inner") as inner:
        flaky()
    with Flow("outer") as flow:
        subflow(inner, name="part")()
    state, items = await items_of(FlowRunner(flow))
    assert state.is_successful()
    assert [(one.run_count, one.item, one.parents) for one in items] == [
        (1, "attempt 1", (("part-1", -1),)),
        (2, "attempt 2", (("part-1", -1),)),
    ]


@pytest.mark.virtual_time
async def test_a_stream_that_fails_or_takes_too_long_is_closed() -> None:
    closed: list[str] = []

    def endless(name: str, **task_args: Any) -> Any:
        async def body() -> AsyncIterator[int]:
            try:
                yield 1
                if name == "fails":
                    raise ValueError("no more")
                await anyio.sleep(1000)
            finally:
                closed.append(name)

        return task(body, name=name, **task_args)

    with Flow("closing") as flow:
        fails, slow = endless("fails")(), endless("slow", timeout=5)()
    state = await FlowRunner(flow).run()
    assert type(state[fails]) is Failed
    assert type(state[slow]) is TimedOut
    assert sorted(closed) == ["fails", "slow"]


async def test_items_come_from_another_process(settings: Settings) -> None:
    with Flow("elsewhere") as flow:
        told = counts(3)
    state, items = await items_of(FlowRunner(flow, settings=settings), executor=ProcessExecutor(1))
    assert state[told].result == [0, 1, 2]
    assert [event.item for event in items] == [0, 1, 2]


def test_what_else_might_be_kept_is_refused() -> None:
    with pytest.raises(FlowDefinitionError, match='is "list" or "last"'):
        task(lambda: 1, name="one", stream="first")
