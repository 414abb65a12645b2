"""A client that stops amid a transaction, as a frozen process does."""

from __future__ import annotations

import anyio
from sqlalchemy import text

from flowloop.backends.store import ANYONE, Store
from flowloop.backends.store.databases.postgres import _LET_GO

from .world import flow_document


async def test_what_it_has_locked_is_let_go(postgres_url: str) -> None:
    async with Store(postgres_url) as store:
        project = await store.get_or_create_project(ANYONE, name="demo")
        flow = await store.create_flow(ANYONE, project_id=project["id"], serialized_flow=flow_document())
        run = await store.create_flow_run(ANYONE, flow_id=flow["id"])
        async with store.engine.connect() as connection:
            frozen = (await connection.get_raw_connection()).driver_connection
            assert frozen is not None
            transaction = frozen.transaction()
            await transaction.start()
            await frozen.execute(_LET_GO.replace("10s", "200ms"))
            await frozen.execute("SELECT id FROM flow_run FOR UPDATE")
            with anyio.fail_after(60):
                await store.cancel_flow_run(ANYONE, flow_run_id=run["id"])
            await connection.invalidate()


async def test_each_write_says_so(postgres_url: str) -> None:
    async with Store(postgres_url) as store:
        show = text("SHOW idle_in_transaction_session_timeout")
        assert await store.write(ANYONE, lambda tx: tx.connection.execute(show).scalar_one()) == "10s"
