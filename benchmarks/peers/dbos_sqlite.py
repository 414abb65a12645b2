"""DBOS on SQLite: one workflow, an async step for each task (recorded once it ends), 100 steps at once, logs off."""

import asyncio
import sys
import tempfile

import pysqlite3

sys.modules["sqlite3"] = pysqlite3  # DBOS needs SQLite 3.42 or newer, whatever Python was built with

from _peer import MODULUS, layer_plan, main  # noqa: E402
from dbos import DBOS  # noqa: E402


@DBOS.step()
async def same(x: int) -> int:
    return x


@DBOS.step()
async def following(x: int) -> int:
    return x + 1


@DBOS.step()
async def add(a: int, b: int, c: int) -> int:
    return (a + b + c) % MODULUS


@DBOS.step()
async def total(xs: list) -> int:
    return sum(xs)


async def together(calls):
    """Await coroutines, 100 at once: more made SQLite's pool time out."""
    calls, values = list(calls), []
    for start in range(0, len(calls), 100):
        values += await asyncio.gather(*calls[start : start + 100])
    return values


@DBOS.workflow()
async def flow(workload: str, size: int) -> int:
    if workload == "chain":
        value = 0
        for _ in range(size):
            value = await following(value)
        return value
    if workload == "layers":
        plan = layer_plan(size)
        layer = await together(same(number) for number in range(len(plan[0])))
        for one in plan:
            layer = await together(add(*(layer[number] for number in upstream)) for upstream in one)
        return await total(layer)
    if workload == "two-maps":
        firsts = await together(following(number) for number in range(size // 2))
        return await total(await together(following(first) for first in firsts))
    return await total(await together(same(number) for number in range(size)))


async def prepare(workload, size):
    async def run():
        return await flow(workload, size)

    return run


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/dbos.sqlite"
        DBOS(config={"name": "bench", "system_database_url": database, "log_level": "CRITICAL"})
        DBOS.launch()
        main("dbos", prepare)
        DBOS.destroy()
