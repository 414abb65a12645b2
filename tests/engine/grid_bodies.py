"""The bodies of the grid's tasks: a module of their own, which a process that runs them has soon imported."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import Callable, Iterator
from typing import Any

from flowloop.engine import context
from flowloop.engine.signals import PAUSE

HOUR = datetime.timedelta(hours=1)


class Record:
    """Iterates over pairs of names and values, and is no collection."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter([("x", self.x)])


@dataclasses.dataclass
class Held:
    """A record that holds other values."""

    a: Any
    b: Any = 0


# -- what the stages compute -----------------------------------------------------------------------------


def repeated(x: int) -> list[int]:
    return [x * 10 + n for n in range(abs(x) % 3)]


def source(size: int, base: int) -> list[int]:
    return [base + 2 * n for n in range(size)]


def nested_source(size: int, base: int) -> list[list[int]]:
    return [[base + n] * (n % 3) for n in range(size)]


def troubled(
    body: Callable[..., Any], late: frozenset[int], paused: frozenset[int], form: str, *, is_async: bool
) -> Callable[..., Any]:
    """Return a body some of whose runs fail or pause at first, and which hands on what it makes in a form."""

    def first(**given: Any) -> Any:
        index = context.get("map_index")
        number = 0 if index is None else index
        value = body(**given)  # it may change what it is given before it fails
        if number in late and context.task_run_count == 1:
            raise ConnectionError("not at the first time")
        if number in paused and not context.get("resume"):
            moment = context.scheduled_start_time + 2 * HOUR
            raise PAUSE("not yet", start_time=moment)
        return shaped(value, form)

    def yields(**given: Any) -> Any:
        yield from first(**given)

    async def first_async(**given: Any) -> Any:
        await asyncio.sleep(0)
        return first(**given)

    async def yields_async(**given: Any) -> Any:
        for item in first(**given):
            yield item

    chosen: Callable[..., Any] = first_async if is_async else first
    if form == "yields":
        chosen = yields_async if is_async else yields
    return chosen


def shaped(value: Any, form: str) -> Any:
    """Return a list in another form."""
    match form:
        case "generator":
            return (item for item in value)
        case "iterator":
            return iter(value)
        case "labelled":
            import pandas

            # the labels say another order than the positions
            return pandas.Series(value, index=range(len(value) - 1, -1, -1), dtype=object)
        case _:
            return value


def all_of(values: list[Any]) -> list[Any]:
    return [value if isinstance(value, int) else all_of(list(value)) for value in values]


def as_record(x: int) -> Record:
    return Record(x)


def one_more(x: int) -> int:
    return x + 1


def added(x: int, y: int) -> int:
    return x + y


def zipped(x: int, y: int) -> int:
    return x * 3 + y


def from_set(x: frozenset[int]) -> list[int]:
    if not isinstance(x, frozenset):
        raise TypeError(f"{x!r} is no frozenset")
    return sorted(x)


def broken(x: int) -> int:
    """Fail for every third number, in a way that has a name."""
    if x % 3 == 0:
        raise LookupError(x)
    return x


def survivors(x: list[Any]) -> list[int]:
    """Return what did not fail, and a number for the kind of what did."""
    return [-len(type(one).__name__) if isinstance(one, BaseException) else one for one in x]


def spoiled(x: list[int]) -> int:
    """Return the sum of a list, which is another list afterwards."""
    value = sum(x)
    x[:] = [one + 1 for one in x]
    return value


def parity_of(n: int) -> int:
    return n % 2


def with_whole(x: int, whole: Any) -> int:
    return x + len(whole)


def changing(x: int, whole: list[Any]) -> int:
    value = x + len(whole) + 100 * len(whole[1]) if isinstance(whole[1], list) else x + len(whole)
    if isinstance(whole[1], list):
        whole[1].append(0)
    whole.append(0)
    return value


def pair_of(x: int) -> tuple[int, int]:
    return x, -2 * x
