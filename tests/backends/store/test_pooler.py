"""PostgreSQL behind a real pgbouncer that gives every transaction another session."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from flowloop.backends import connect
from flowloop.backends.store import ANYONE, Store
from flowloop.backends.store.databases.postgres import PostgresDatabase
from flowloop.engine import Flow, Settings, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import BackendRejected

from ...commands import own_port

pytestmark = pytest.mark.heavy

SETTINGS = Settings(outage_limit=60)


@task
def doubled(number: int) -> int:
    return 2 * number


with Flow("doubles") as flow:
    doubled.map([1, 2, 3])


@pytest.fixture(scope="module")
def pooler(postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a pgbouncer before the server."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer on this machine")
    where = parse_qs(urlsplit(postgres_server.server.get_uri("postgres")).query)["host"][0]
    folder = tmp_path_factory.mktemp("pooler")
    with own_port() as port:
        yield from _pooling(program, where, folder, port)


def _pooling(program: str, where: str, folder: Path, port: int) -> Iterator[int]:
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={where} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"auth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 3\n"
    )
    command = [program, str(folder / "pgbouncer.ini")]
    if os.getuid() == 0:  # which it refuses to run as
        owner = pwd.getpwuid(os.stat(where).st_uid).pw_name
        for path in (folder, *folder.parents[:2], *folder.iterdir()):
            path.chmod(0o755)
        command += ["-u", owner]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


async def _listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


@pytest.fixture
async def url(pooler: int, postgres_url: str) -> str:
    await _listening(pooler)
    name = urlsplit(postgres_url).path
    return f"postgresql://postgres@127.0.0.1:{pooler}{name}"


async def test_all_runs_of_two_processes_end_well(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run(backend: Backend) -> bool:
        state = await CloudFlowRunner(flow, backend=backend).run()
        return state.is_successful() and len(await backend.list_flow_runs(100)) > 0

    async with connect(url, settings=SETTINGS) as one, connect(url, settings=SETTINGS) as other:
        ends = await asyncio.gather(*(run(backend) for backend in (one, other) for _ in range(12)))
    assert ends == [True] * 24
    assert not [record for record in caplog.records if "unavailable" in record.message]


async def test_a_pooler_is_noticed_and_a_plain_server_is_taken_for_what_it_is(url: str, postgres_url: str) -> None:
    for address, pooled in ((url, True), (postgres_url, False), (f"{url}?statement_cache_size=0", True)):
        async with Store(address) as store:
            assert isinstance(store._database, PostgresDatabase)
            assert store._database._is_pooled is pooled


async def test_what_other_processes_do_is_looked_for_where_it_cannot_be_heard(url: str) -> None:
    async with Store(url) as store, store.listen(lambda _: None) as hears:
        assert not hears


async def test_what_is_locked_is_not_waited_for_without_end(postgres_url: str) -> None:
    def shown(tx: Any) -> str:
        return str(tx.connection.execute(text("SHOW lock_timeout")).scalar())

    for more, expected in (("", "30s"), ("&lock_timeout=7s", "7s")):
        async with Store(postgres_url + more) as store:
            assert await store.write(ANYONE, shown) == expected


async def test_an_error_that_nobody_foresaw_is_the_databases(postgres_url: str) -> None:
    async with Store(postgres_url) as store:
        for statement in ("SELECT nothing", "SELECT 1 / 0", "SELECT * FROM nowhere", "SELEC"):
            for use in (store.read, store.write):
                with pytest.raises(BackendRejected):
                    await use(ANYONE, lambda tx, statement=statement: tx.connection.execute(text(statement)).all())


async def test_how_many_connections_there_are_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWLOOP_DATABASE_CONNECTIONS", "3")
    monkeypatch.setenv("FLOWLOOP_DATABASE_OVERFLOW", "1")
    database = PostgresDatabase("postgresql://nobody@127.0.0.1:1/nothing")
    pool: Any = database.engine.pool
    assert (pool.size(), pool._max_overflow) == (3, 1)
    await database.close()
