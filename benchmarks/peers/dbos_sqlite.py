"""DBOS on SQLite: one workflow, an async step for each task (recorded once it ends), gathered; logs off. Its database
is switched to a write-ahead log and its pool to one connection, which is twice as fast as what it comes with.
"""

import asyncio
import contextlib
import sys
import tempfile

import pysqlite3

sys.modules["sqlite3"] = pysqlite3  # DBOS needs SQLite 3.42 or newer, whatever Python was built with

from _peer import MODULUS, TEN_KB, layer_plan, main  # noqa: E402
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


@DBOS.step()
async def source() -> bytes:
    return TEN_KB


@DBOS.step()
async def turned(data: bytes) -> bytes:
    return data[::-1]


@DBOS.step()
async def total_length(parts: list) -> int:
    return sum(map(len, parts))


@DBOS.workflow()
async def flow(workload: str, size: int) -> int:
    if workload == "chain":
        value = 0
        for _ in range(size):
            value = await following(value)
        return value
    if workload == "layers":
        plan = layer_plan(size)
        layer = await asyncio.gather(*(same(number) for number in range(len(plan[0]))))
        for one in plan:
            layer = await asyncio.gather(*(add(*(layer[number] for number in upstream)) for upstream in one))
        return await total(layer)
    if workload == "two-maps":
        firsts = await asyncio.gather(*(following(number) for number in range(size // 2)))
        return await total(await asyncio.gather(*(following(first) for first in firsts)))
    if workload == "diamond":
        data = await source()
        return await total_length(await asyncio.gather(*(turned(data) for _ in range(size))))
    return await total(await asyncio.gather(*(same(number) for number in range(size))))


async def prepare(workload, size):
    async def run():
        return await flow(workload, size)

    return run


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(pysqlite3.connect(f"{folder}/dbos.sqlite")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        DBOS(
            config={
                "name": "bench",
                "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
                "sys_db_pool_size": 1,
                "db_engine_kwargs": {"max_overflow": 0, "pool_timeout": 300},
                "log_level": "CRITICAL",
            }
        )
        DBOS.launch()
        main("dbos", prepare)
        DBOS.destroy()
