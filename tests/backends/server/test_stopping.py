"""Subscriptions end at the signal to stop, whichever framework handles it."""

from __future__ import annotations

import asyncio
import signal
from types import FrameType

import pytest

from flowloop.backends.server.stopping import told_of_stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_told_and_handed_on(number: signal.Signals) -> None:
    heard: list[object] = []
    told = asyncio.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(number, handler)
    try:
        with told_of_stop(told.set):
            signal.raise_signal(number)
            await told.wait()
        assert heard == [number]
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


async def test_a_signal_that_nobody_handles_stays_so() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with told_of_stop(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before[1])


async def test_a_handler_that_came_later_stays() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with told_of_stop(lambda: None):
            later = lambda *_: None  # noqa: E731
            signal.signal(signal.SIGTERM, later)
        assert signal.getsignal(signal.SIGTERM) is later
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_in_another_thread_nothing_is_touched() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def inside() -> object:
        async def within() -> object:
            with told_of_stop(lambda: None):
                return signal.getsignal(signal.SIGTERM)

        return asyncio.run(within())

    assert await asyncio.to_thread(inside) is before
