"""Telling states to those in a process who watch."""

from __future__ import annotations

import pytest

from flowloop.backends._hub import Hub
from flowloop.engine.state import Cancelling, Running, State


async def newest() -> State:
    return Running("newest")


async def test_where_nothing_more_will_be_told_the_streams_end_and_new_ones_begin_afresh() -> None:
    hub = Hub()
    async with hub.watch("a", newest) as first:
        assert (await anext(first)).message == "newest"
        hub.publish("a", Running("told"))
        hub.end()
        assert (await anext(first)).message == "told"
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        async with hub.watch("a", newest) as second:
            assert (await anext(second)).message == "newest"
            hub.publish("a", Cancelling("told, too"))
            assert isinstance(await anext(second), Cancelling)
    assert hub.watched == []


async def test_who_leaves_after_the_end_takes_no_other_watcher_along() -> None:
    hub = Hub()
    former = hub.watch("a", newest)
    await former.__aenter__()
    hub.end()
    async with hub.watch("a", newest) as states:
        await former.__aexit__(None, None, None)
        assert hub.watches("a")
        await anext(states)
        hub.publish("a", Cancelling())
        assert isinstance(await anext(states), Cancelling)
