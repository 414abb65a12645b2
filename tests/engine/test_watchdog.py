"""A body that blocks the event loop is named, with its line, once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloop.engine import Flow, FlowRunner, task, watchdog


class Told(threading.Event):
    """Set once the watchdog has named a body, with all that it has told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []


def waits_for_the_watchdog(told: Told) -> None:
    assert told.wait(60)


@pytest.fixture
def told() -> Iterator[Told]:
    """What the watchdog has told."""
    event = Told()

    class Tells(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event.records.append(record)
            if record.task_name:
                event.set()

    logger, handler = logging.getLogger("flowloop.loop"), Tells()
    logger.addHandler(handler)
    yield event
    logger.removeHandler(handler)


async def test_the_body_that_blocks_is_named_with_its_line_once(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_BEAT", 0.01)
    monkeypatch.setattr(watchdog, "_PATIENCE", 4)

    @task
    async def blocks(n: int) -> None:
        waits_for_the_watchdog(told)

    with Flow("blocked") as flow:
        blocks.map([0, 1])
    state = await FlowRunner(flow).run()
    assert state.is_successful(), state
    (record,) = [record for record in told.records if record.task_name]  # a busy machine may block the loop, too
    assert record.getMessage().startswith("task 'blocks[0]' has blocked the event loop for more than ")
    assert f"{Path(__file__).name}:" in record.getMessage()
    assert ", waits_for_the_watchdog: assert told.wait(60)" in record.getMessage()
    assert record.task_name == "blocks[0]"


async def test_a_body_in_a_thread_blocks_nobody(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_PATIENCE", 4)
    monkeypatch.setattr(watchdog, "_see_to_thread", lambda: None)  # the body looks itself, and gives the loop its turn
    loop = asyncio.get_running_loop()

    @task
    def works() -> None:
        for _ in range(2 * watchdog._PATIENCE):
            watchdog._watched[loop].look()
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)

    with Flow("threaded") as flow:
        works()
    state = await FlowRunner(flow).run()
    assert state.is_successful(), state
    assert not told.records


def test_without_a_run_nobody_watches() -> None:
    for thread in threading.enumerate():
        if thread.name == "flowloop watchdog":
            thread.join(60)
            assert not thread.is_alive()
