"""DBOS on SQLite, a workflow of three async steps for each flow run, two of them gathered; its database as for the
large workflow.
"""

import asyncio
import contextlib
import sys
import tempfile

import pysqlite3

sys.modules["sqlite3"] = pysqlite3  # DBOS needs SQLite 3.42 or newer, whatever Python was built with

from _flow_runs import measured, tell  # noqa: E402
from dbos import DBOS  # noqa: E402


@DBOS.step()
async def double(x: int) -> int:
    return 2 * x


@DBOS.step()
async def square(x: int) -> int:
    return x * x


@DBOS.step()
async def add(a: int, b: int) -> int:
    return a + b


@DBOS.workflow()
async def flow(x: int) -> int:
    return await add(*await asyncio.gather(double(x), square(x)))


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
        tell("dbos", asyncio.run(measured(flow)))
        DBOS.destroy()
