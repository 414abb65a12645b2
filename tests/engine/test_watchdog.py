"""A body that blocks the event loop is named, with its line, once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloop.engine import Flow, FlowRunner, task, watchdog


class Told(threading.Event):
    """Set once the watchdog has told something, with what it has told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []


def waits_for_the_watchdog(told: Told) -> None:
    assert told.wait(10)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What the watchdog has told; it is quick here."""
    event = Told()

    class Tells(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event.records.append(record)
            event.set()

    monkeypatch.setattr(watchdog, "_BEAT", 0.01)
    logger, handler = logging.getLogger("flowloop.loop"), Tells()
    logger.addHandler(handler)
    yield event
    logger.removeHandler(handler)


async def test_the_body_that_blocks_is_named_with_its_line_once(told: Told) -> None:
    @task
    async def blocks(n: int) -> None:
        waits_for_the_watchdog(told)

    with Flow("blocked") as flow:
        blocks.map([0, 1])
    state = await FlowRunner(flow).run()
    assert state.is_successful(), state
    (record,) = told.records
    assert record.getMessage().startswith("task 'blocks[0]' has blocked the event loop for more than ")
    assert f"{Path(__file__).name}:" in record.getMessage()
    assert ", waits_for_the_watchdog: assert told.wait(10)" in record.getMessage()
    assert record.task_name == "blocks[0]"


async def test_a_body_in_a_thread_blocks_nobody(told: Told) -> None:
    looked = threading.Event()

    @task
    def works() -> None:
        for _ in range(2 * watchdog._PATIENCE):
            looked.wait(watchdog._BEAT)

    with Flow("threaded") as flow:
        works()
    await FlowRunner(flow).run()
    assert not told.records


def test_without_a_run_nobody_watches() -> None:
    deadline = time.monotonic() + 10
    while watchdog._thread is not None and time.monotonic() < deadline:
        watchdog._thread.join(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name == "flowloop watchdog"]
