"""Bodies that are async generators: their items are told as they come, and the result is made of them."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import msgspec

from .context import values

__all__ = ["Item", "Streamed", "is_stream", "listening"]

_log = logging.getLogger("flowloop.items")


class Item(msgspec.Struct, frozen=True):
    """One item of a task run that goes on.

    Args:
        - flow_run_id: of which flow run
        - task_slug, map_index: of which task run
        - run_count: of which attempt
        - value: the item
    """

    flow_run_id: str
    task_slug: str | None
    map_index: int
    run_count: int
    value: Any


def is_stream(function: Callable[..., Any]) -> bool:
    """Whether a task body is an async generator."""
    return _is_async_generator(getattr(function, "__func__", function))


@functools.lru_cache(maxsize=4096)
def _is_async_generator(function: Callable[..., Any]) -> bool:
    return inspect.isasyncgenfunction(function)


class Streamed:
    """The body that an async generator is: a coroutine function that tells each item, and returns what is made of them.

    Args:
        - body: the async generator function
        - keeps: ``"list"`` returns all items, ``"last"`` the last one
    """

    def __init__(self, body: Callable[..., AsyncGenerator[Any, None]], keeps: str) -> None:
        self._body = body
        self._keeps_all = keeps == "list"

    async def __call__(self, **arguments: Any) -> Any:
        """Run the generator to its end."""
        items: list[Any] = []
        last = None
        async with aclosing(self._body(**arguments)) as stream:
            async for last in stream:
                _tell(last)
                if self._keeps_all:
                    items.append(last)
        return items if self._keeps_all else last


_listeners: dict[str, Callable[[Item], None]] = {}


def _tell(value: Any) -> None:
    current = values.get()
    index = current.get("map_index")
    place = current.get("task_slug"), -1 if index is None else index, current.get("task_run_count", 1)
    item = Item(current.get("flow_run_id", ""), *place, value)
    listener = _listeners.get(item.flow_run_id)
    if listener is not None:
        listener(item)
    elif _is_heard_elsewhere():
        _log.handle(_log.makeRecord(_log.name, logging.DEBUG, "", 0, "an item", (), None, extra={"item": item}))


def _is_heard_elsewhere() -> bool:
    """Whether this process sends what bodies log to the process of their run, and their items with it."""
    return any(getattr(handler, "sends_home", False) for handler in logging.getLogger().handlers)


def _taken(line: logging.LogRecord) -> bool:
    """Take an item out of the log where its flow run is."""
    item: Item | None = getattr(line, "item", None)
    listener = None if item is None else _listeners.get(item.flow_run_id)
    if item is None or listener is None:
        return True
    listener(item)
    return False


_log.addFilter(_taken)


@contextmanager
def listening(flow_run_id: str, listener: Callable[[Item], None]) -> Iterator[None]:
    """Hear of the items of a flow run inside the block."""
    _listeners[flow_run_id] = listener
    try:
        yield
    finally:
        _listeners.pop(flow_run_id, None)
