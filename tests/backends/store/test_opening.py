"""Opening a database: a fresh one, one of today, an old one, and what is no database at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, select

from flowloop.backends.embedded import StoreBackend
from flowloop.backends.store import ANYONE, StateUpdate, Store
from flowloop.backends.store.databases import sqlite as sqlite_store
from flowloop.backends.store.databases.base import HEAD
from flowloop.backends.store.migrations import apply_migrations, upgrade
from flowloop.backends.store.store import open_database
from flowloop.backends.store.tx import Tx, tables
from flowloop.engine.errors import BackendRejected, BackendUnavailable, FlowloopError

from ...databases import Postgres
from .world import FENCED, ManualClock, World, flow_document, state


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The URL of a database without any tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'folder' / 'new.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    url = await server.make_database(empty=True)
    yield url
    await server.drop_database(url)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def list_folder(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def execute(url: str, *statements: str) -> None:
    """Run statements on a database, whatever is in it."""

    def work(connection: Connection, _: str = "") -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    database = open_database(url)
    await database.open(work)
    await database.close()


# -- databases that can be used ------------------------------------------------------------------------


async def test_a_fresh_database_is_made_and_found_again(empty_url: str) -> None:
    async with Store(empty_url) as store:
        project = await store.create_project(ANYONE, name="p", tenant_id=(await store.default_tenant(ANYONE))["id"])
    async with Store(empty_url) as store:
        assert await store.get_or_create_project(ANYONE, name="p") == project


async def test_several_may_make_a_fresh_database_at_once(empty_url: str) -> None:
    async def open_and_write(number: int) -> None:
        async with Store(empty_url) as store:
            await store.create_tenant(ANYONE, name="t", slug=f"t{number}")

    await asyncio.gather(*(open_and_write(number) for number in range(4)))
    async with Store(empty_url) as store, store.engine.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM tenant")).scalar() == 4


async def test_a_database_without_a_file_goes_with_the_store() -> None:
    store = Store("sqlite://")
    async with store:
        await store.default_tenant(ANYONE)
        folder = Path(store._database.path).parent  # type: ignore[attr-defined]
        assert [entry.name for entry in list_folder(folder)][:1] == ["flowloop.db"]
    with pytest.raises(FileNotFoundError):
        list_folder(folder)


async def test_to_look_at_a_database_writes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with StoreBackend(url, read_only=True) as nothing:
        assert await nothing.list_flow_runs() == []
    assert list_folder(tmp_path) == []
    async with StoreBackend(url) as backend:
        flow = await backend.register_flow(flow_document(), project_name="p")
        flow_run_id = await backend.create_flow_run(flow.id)
    before = (tmp_path / "runs.db").read_bytes()
    async with StoreBackend(url, read_only=True) as looking:
        assert (await looking.get_flow_run_info(flow_run_id)).id == flow_run_id
        with pytest.raises(BackendRejected, match="looked at"):
            await looking.cancel_flow_run(flow_run_id)
    assert (tmp_path / "runs.db").read_bytes() == before


async def test_a_file_that_nobody_may_write_can_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with StoreBackend(url) as backend:
        await backend.register_flow(flow_document(), project_name="p")
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # whoever runs the tests may be root
    async with StoreBackend(url, read_only=True) as looking:
        assert [flow.name for flow in await looking.list_flows()] == ["flow"]
        assert list_folder(tmp_path) == [tmp_path / "runs.db"]


async def test_reads_cannot_write_on_sqlite(tmp_path: Path) -> None:
    async with Store(f"sqlite:///{tmp_path / 'f.db'}") as store, store.engine.connect() as connection:
        with pytest.raises(Exception, match="readonly"):
            await connection.exec_driver_sql("DELETE FROM tenant")


async def test_settings_of_sqlite(tmp_path: Path) -> None:
    for synchronous, number in [("FULL", 2), ("NORMAL", 1), ("OFF", 0)]:
        async with Store(f"sqlite:///{tmp_path / 'f.db'}", synchronous=synchronous) as store:

            def pragma(tx: Tx) -> list[Any]:
                names = ("journal_mode", "synchronous", "foreign_keys")
                return [tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

            assert await store.write(ANYONE, pragma) == ["wal", number, 1]


# -- what cannot be used -------------------------------------------------------------------------------


def make_text(path: Path) -> None:
    path.write_text("this is not a database, however long it may be\n" * 100)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE task (id TEXT)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_text, "cannot be used as a database: file is not a database"),
        (make_folder, "cannot be used as a database: unable to open database file"),
        (make_other_database, "holds tables that are not flowloop's"),
    ],
)
async def test_a_file_that_is_not_ours(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "file"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(FlowloopError, match=message) as caught:
        await Store(f"sqlite:///{path}").__aenter__()
    assert str(path) in one_line(caught.value)
    if make is not make_other_database:  # that one is in WAL mode now
        assert before == (path.read_bytes() if path.is_file() else None)


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowloopError, match="cannot be used as a database"):
        await Store(f"sqlite:///{tmp_path / 'file' / 'flowloop.db'}").__aenter__()


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(FlowloopError, match="cannot be opened") as caught:
        await Store("postgresql://user:secret@127.0.0.1:1/flowloop").__aenter__()
    assert "secret" not in one_line(caught.value)


async def test_a_server_that_has_no_such_database(postgres_server: Postgres) -> None:
    url = postgres_server.server.get_uri("no_such_database")
    with pytest.raises(FlowloopError, match='database "no_such_database" does not exist') as caught:
        await Store(url).__aenter__()
    one_line(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not a database URL"),
        ("flowloop.db", "not a database URL"),
        ("mysql://localhost/db", "no store on 'mysql'"),
    ],
)
def test_a_url_of_nothing(url: str, message: str) -> None:
    with pytest.raises(FlowloopError, match=message):
        Store(url)


def test_an_unknown_durability() -> None:
    with pytest.raises(FlowloopError, match="FULL, NORMAL or OFF"):
        Store("sqlite://", synchronous="MAYBE; DROP TABLE run")


# -- versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "message"),
    [("0000", "run `flowloop db upgrade --db .*` once"), ("9999", "newer flowloop"), (None, "flowloop db upgrade")],
)
async def test_a_database_of_another_version(empty_url: str, version: str | None, message: str) -> None:
    async with Store(empty_url):
        pass
    await execute(empty_url, "DELETE FROM flowloop_version")
    if version is not None:
        await execute(empty_url, f"INSERT INTO flowloop_version VALUES ('{version}')")
    with pytest.raises(FlowloopError, match=message) as caught:
        await Store(empty_url).__aenter__()
    one_line(caught.value)


def tables_of(connection: Connection, _: str = "") -> dict[str, Any]:
    """What can be seen of the tables, to be compared."""
    found = inspect(connection)

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return str(sorted((key, text(item)) for key, item in value.items()))
        return str(value).strip("()")  # a negative default may stand in brackets

    def plain(items: list[Any]) -> list[str]:
        return sorted(map(text, items))

    def references(table: str) -> list[str]:
        if connection.dialect.name != "sqlite":
            return plain(found.get_foreign_keys(table))
        # SQLAlchemy reads those from the text of the table, and not all of them where a column was added later.
        listed = connection.exec_driver_sql(f"PRAGMA foreign_key_list({table})").mappings()
        return sorted(str((row["from"], row["table"], row["to"], row["on_delete"])) for row in listed)

    options = []
    if connection.dialect.name == "postgresql":
        found_options = connection.exec_driver_sql("SELECT relname, reloptions FROM pg_class WHERE reloptions <> '{}'")
        options = sorted(map(str, found_options))
    return {"options": options} | {
        name: [
            plain(found.get_columns(name)),
            str(found.get_pk_constraint(name)),
            references(name),
            plain(found.get_unique_constraints(name)),
            plain(found.get_indexes(name)),
        ]
        for name in sorted(found.get_table_names())
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_the_migrations_make_the_tables_of_the_schema(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        empty_url, database_url = (f"sqlite:///{tmp_path / name}.db" for name in ("empty", "made"))
    else:
        server: Postgres = request.getfixturevalue("postgres_server")
        empty_url, database_url = [await server.make_database(empty=True) for _ in range(2)]
    await execute(empty_url, "CREATE TABLE flowloop_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    assert await upgrade(empty_url) == ("", HEAD)
    async with Store(empty_url) as migrated, Store(database_url) as made:
        migrated_tables = await migrated.write(ANYONE, lambda tx: tables_of(tx.connection))
        made_tables = await made.write(ANYONE, lambda tx: tables_of(tx.connection))
    assert migrated_tables == made_tables
    assert len(made_tables) > 25


async def test_what_workers_had_reserved_is_theirs_after_the_upgrade_to_owners(empty_url: str) -> None:
    now = "'2030-01-01T00:00:00.000000+00:00'"
    ids = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(6)]

    def insert(connection: Connection, table: str, columns: str, *values: object) -> None:
        texts = ", ".join(f"'{value}'" if isinstance(value, str) else str(value) for value in values[1:])
        connection.exec_driver_sql(
            f"INSERT INTO {table} (id, created, updated, {columns}) VALUES ('{values[0]}', {now}, {now}, {texts})"
        )

    def make(connection: Connection, _: str = "") -> None:
        apply_migrations(connection, "0002")
        insert(connection, "tenant", "name, slug", ids[0], "t", "t")
        insert(connection, "flow_group", "tenant_id, name", ids[1], ids[0], "g")
        columns = "tenant_id, flow_group_id, version_group_id, name, version"
        insert(connection, "flow", columns, ids[2], ids[0], ids[1], "v", "f", 1)
        for number, kind in enumerate(("Running", "Success", "Running"), 3):
            insert(connection, "flow_run", "tenant_id, flow_id, version, state", ids[number], ids[0], ids[2], 2, kind)
        for number in (3, 4):
            connection.exec_driver_sql(
                f"INSERT INTO reservation (flow_run_id, worker_id, expires) VALUES ('{ids[number]}', 'w', {now})"
            )

    database = open_database(empty_url)
    await execute(empty_url, "CREATE TABLE flowloop_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    await database.open(make)
    await database.close()
    assert await upgrade(empty_url) == ("0002", HEAD)
    async with Store(empty_url) as store:
        run = tables["flow_run"]
        rows = await store.read(ANYONE, lambda tx: tx.all(select(run.c.owner, run.c.epoch).order_by(run.c.id)))
        assert [tuple(row.values()) for row in rows] == [("w", 1), (None, 0), (None, 0)]
        refused = await store.claim_flow_run(FENCED, flow_run_id=ids[3], owner="heir")
        assert (refused["claimed"], refused["owner"]) == (False, "w"), "until its reservation would have run out"
        claimed = await store.claim_flow_run(FENCED, flow_run_id=ids[3], owner="heir", takeover=True)
        assert claimed["epoch"] == 2


async def test_upgrading_what_needs_no_upgrade(empty_url: str) -> None:
    assert await upgrade(empty_url) == (None, HEAD)
    assert await upgrade(empty_url) == (HEAD, HEAD)
    async with Store(empty_url) as store:
        await store.default_tenant(ANYONE)


async def test_an_upgrade_that_fails_changes_nothing(empty_url: str) -> None:
    await execute(
        empty_url,
        "CREATE TABLE flowloop_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "CREATE TABLE task_run (id VARCHAR(36))",
    )
    with pytest.raises(FlowloopError, match="task_run"):
        await upgrade(empty_url)
    seen: list[list[str]] = []
    database = open_database(empty_url)
    await database.open(lambda connection, _: seen.append(sorted(tables_of(connection))))
    await database.close()
    assert seen == [["flowloop_version", "options", "task_run"]]


def test_the_newest_migration_is_what_the_store_asks_for() -> None:
    from alembic.script import ScriptDirectory

    import flowloop.backends.store.migrations as migrations

    assert ScriptDirectory(str(Path(migrations.__file__).parent)).get_heads() == [HEAD]
    assert apply_migrations.__module__ == migrations.__name__


# -- writes that are interrupted -----------------------------------------------------------------------


async def test_a_cancelled_write_is_recorded_whole_or_not_at_all(database_url: str) -> None:
    async with Store(database_url, clock=ManualClock(), synchronous="OFF") as store:
        await store.default_tenant(ANYONE)
        world = await World(store, store.clock).build()  # type: ignore[arg-type]
        await world.start()
        children = await store.get_or_create_task_runs(
            FENCED, flow_run_id=world.run_id, task_id=world.tasks["a"], map_indices=range(200)
        )
        batch = [StateUpdate(row["id"], state("Success"), 1) for row in children]
        for turns in (0, 1, 2, 3, 5, 8, 13, 40):
            task = asyncio.create_task(store.set_task_run_states(FENCED, batch))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await store.set_flow_run_name(ANYONE, flow_run_id=world.run_id, name="after")  # waits for what goes on
        rows = [row for row in await world.rows("task_run") if row["map_index"] >= 0]
        assert {row["version"] for row in rows} in ({1}, {2})
        assert all(outcome.version == 2 for outcome in await store.set_task_run_states(FENCED, batch))


@pytest.mark.parametrize("again", [False, True])
async def test_what_is_written_after_a_cancelled_write_is_there_for_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Also where the cancel came while the transaction began: the next one has the same connection."""
    monkeypatch.setenv("FLOWLOOP_DATABASE_CONNECTIONS", "1")
    monkeypatch.setenv("FLOWLOOP_DATABASE_OVERFLOW", "0")
    async with Store(database_url, synchronous="OFF") as store, Store(database_url, synchronous="OFF") as another:
        await store.default_tenant(ANYONE)
        for turns in range(40):
            interrupted = asyncio.create_task(store.get_or_create_project(ANYONE, name=f"cancelled {turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            interrupted.cancel()
            if again:
                await asyncio.sleep(0)
                interrupted.cancel()
            await asyncio.wait([interrupted])
            made = await store.get_or_create_project(ANYONE, name=f"after {turns}")
            async with another.engine.connect() as connection:
                project = tables["project"].c
                found = await connection.execute(select(project.id).where(project.name == f"after {turns}"))
                assert found.scalars().all() == [made["id"]], turns


async def test_a_failing_operation_leaves_no_trace(world: World) -> None:
    def fail(tx: Tx) -> None:
        tx.insert("tenant", name="t", slug="trace")
        raise BackendRejected("no")

    with pytest.raises(BackendRejected, match="no"):
        await world.store.write(ANYONE, fail)
    assert await world.rows("tenant", slug="trace") == []
    await world.store.create_tenant(ANYONE, name="t", slug="trace")


async def test_connections_that_the_server_has_cut(postgres_server: Postgres, postgres_url: str) -> None:
    async with Store(postgres_url) as store:
        await store.default_tenant(ANYONE)

        async def cut() -> None:
            await postgres_server.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                f"WHERE datname = '{postgres_url.split('?')[0].rsplit('/', 1)[1]}'"
            )

        for call in (store.default_tenant, store.list_flow_runs):
            await asyncio.gather(*(call(ANYONE) for _ in range(4)))
            await cut()
            failures = 0
            for _ in range(10):
                try:
                    await call(ANYONE)
                except BackendUnavailable as error:
                    failures += 1
                    one_line(error)
            assert failures <= 4, "a connection that is dead is not given out again"
            await call(ANYONE)


async def test_no_connection_is_left_behind(database_url: str) -> None:
    async with Store(database_url) as store:
        for _ in range(3):
            await store.list_flow_runs(ANYONE)
            with pytest.raises(BackendRejected):
                await store.get_flow_run_info(ANYONE, flow_run_id="x")
            with pytest.raises(BackendRejected):
                await store.delete_flow(ANYONE, flow_id="x")
        pool: Any = store.engine.pool
        assert pool.checkedout() == 0


async def test_what_is_in_the_log_gets_into_the_file_while_the_store_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_CHECKPOINT_AFTER", 1)
    async with Store(f"sqlite:///{tmp_path / 'open.db'}") as store:
        database = store._database
        assert isinstance(database, sqlite_store.SqliteDatabase)
        assert database._checkpoint is not None
        await asyncio.wrap_future(database._checkpoint)
        await store.get_or_create_project(ANYONE, name="demo")
        await asyncio.wrap_future(database._checkpoint)
        alone = shutil.copy(tmp_path / "open.db", tmp_path / "alone.db")  # without the log
        with closing(sqlite3.connect(alone)) as connection:
            assert connection.execute("SELECT name FROM project").fetchall() == [("demo",)]


async def test_a_log_that_cannot_be_copied_now_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_CHECKPOINT_AFTER", 1)
    async with Store(f"sqlite:///{tmp_path / 'open.db'}") as store:
        database = store._database
        assert isinstance(database, sqlite_store.SqliteDatabase)

        def fail() -> None:
            raise sqlite3.OperationalError("database is locked")

        monkeypatch.setattr(database, "_run_checkpoint", fail)
        for name in ("one", "two", "three"):
            assert (await store.get_or_create_project(ANYONE, name=name))["id"]


# -- databases that do not answer ----------------------------------------------------------------------


async def test_a_file_that_is_locked_is_waited_for_as_long_as_the_patience_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr(sqlite_store, "BUSY_LIMIT", 0.0)
    path, loop, waits = tmp_path / "f.db", asyncio.get_running_loop(), asyncio.Event()
    monkeypatch.setattr(sqlite_store.logger, "warning", lambda *_: loop.call_soon_threadsafe(waits.set))
    async with Store(f"sqlite:///{path}"):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailable, match="another process kept the database locked"):
            async with Store(f"sqlite:///{path}", patience=0.05):
                pass
        waits.clear()
        store = Store(f"sqlite:///{path}", patience=60.0)
        opening = asyncio.create_task(store.__aenter__())
        await waits.wait()
        other.execute("ROLLBACK")
        await opening
        await store.__aexit__()


async def test_a_server_that_does_not_answer_is_waited_for_as_long_as_the_patience_says() -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
        pytest.raises(BackendUnavailable, match=r"did not answer within 0\.05 s"),
    ):
        async with Store(f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/db", patience=0.05):
            pass


async def test_a_connection_that_is_about_to_be_given_back_is_closed_with_the_others(postgres_url: str) -> None:
    """A reader that is cancelled twice leaves the giving back to a task of SQLAlchemy's own."""
    store = Store(postgres_url)
    await store.__aenter__()
    held, given_back = asyncio.Event(), asyncio.Event()
    found: list[Any] = []

    async def reads() -> None:
        async with store.engine.connect() as connection:
            found.append((await connection.get_raw_connection()).driver_connection)
            held.set()
            await given_back.wait()

    reading = asyncio.create_task(reads())
    await held.wait()
    closing_store = asyncio.create_task(store.__aexit__(None, None, None))
    await asyncio.sleep(0)
    given_back.set()
    await asyncio.gather(reading, closing_store)
    assert found[0].is_closed()
