"""The URLs of databases as operators write them, and files that are moved under a store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from flowloop.backends.store import ANYONE, Store
from flowloop.backends.store.store import open_database
from flowloop.engine.errors import BackendUnavailable, FlowloopError


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://runs.db",
        "sqlite://folder/runs.db",
        "sqlite://me@/runs.db",
        "sqlite:///runs.db?mode=ro",
        "sqlite:///file:runs.db?mode=memory&uri=true",
        "sqlite:///folder/",
        "sqlite:///runs\0.db",
    ],
)
def test_what_is_not_the_path_of_a_file_is_refused_and_never_another_database(url: str) -> None:
    with pytest.raises(FlowloopError, match=r"write sqlite:///FILE|nothing behind the name of the file"):
        open_database(url)


@pytest.mark.parametrize("url", ["sqlite:///~/runs.db", "SQLite:///~/runs.db"])
def test_a_file_may_be_in_the_home_of_who_asks(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_database(url).path == str(tmp_path / "runs.db")  # type: ignore[attr-defined]


async def test_a_question_mark_may_be_in_the_name_of_a_file(tmp_path: Path) -> None:
    async with Store(f"sqlite:///{tmp_path}/what%3F.db"):
        assert (tmp_path / "what?.db").exists()


async def told(url: str, question: str) -> str:
    async with Store(url) as store:
        return str(await store.read(ANYONE, lambda tx: tx.connection.execute(text(question)).scalar()))


def extended(url: str, parameters: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{parameters}"


@pytest.mark.parametrize(
    "parameters",
    [
        "sslmode=prefer&channel_binding=prefer&gssencmode=disable&keepalives_idle=30&sslsni=1",
        "sslmode=disable&connect_timeout=5&target_session_attrs=read-write",
        "connect_timeout=0",
        "statement_cache_size=0&prepared_statement_cache_size=0",
        "statement_cache_size=0",
    ],
)
async def test_what_hosted_databases_put_into_their_urls_is_understood(
    emptied_postgres_url: str, parameters: str
) -> None:
    assert await told(extended(emptied_postgres_url, parameters), "SELECT 1") == "1"


@pytest.mark.parametrize("scheme", ["postgres", "PostgreSQL", "postgresql+asyncpg", "postgresql+psycopg"])
async def test_every_name_of_postgresql_is_understood(emptied_postgres_url: str, scheme: str) -> None:
    assert await told(emptied_postgres_url.replace("postgresql", scheme, 1), "SELECT 1") == "1"


@pytest.mark.parametrize(
    ("parameters", "setting", "value"),
    [
        ("application_name=night%20flows", "application_name", "night flows"),
        ("fallback_application_name=flows", "application_name", "flows"),
        ("options=-c%20lock_timeout%3D7s", "lock_timeout", "7s"),
        ("statement_timeout=9s", "statement_timeout", "9s"),
    ],
)
async def test_settings_of_the_session_are_handed_on(
    emptied_postgres_url: str, parameters: str, setting: str, value: str
) -> None:
    assert await told(extended(emptied_postgres_url, parameters), f"SHOW {setting}") == value


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ("connect_timeout=soon", "connect_timeout"),
        ("channel_binding=require", "channel_binding"),
        ("sslmode=perhaps", "sslmode"),
        ("no_such_setting=1", "no_such_setting"),
    ],
)
async def test_what_a_url_cannot_say_is_named(emptied_postgres_url: str, parameters: str, named: str) -> None:
    with pytest.raises(FlowloopError, match=named):
        await told(extended(emptied_postgres_url, parameters), "SELECT 1")


def test_a_url_is_shown_without_what_is_secret() -> None:
    shown = open_database("postgres://me:s3cret@h1:1,h2:2/db?sslmode=require&sslpassword=s3cret&password=s3cret").shown
    assert "s3cret" not in shown
    assert shown.startswith("postgres://me:***@h1:1,h2:2/db?sslmode=require")


async def test_a_database_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with Store("sqlite:///:memory:") as store:
        await store.default_tenant(ANYONE)
    assert not os.listdir(tmp_path)


async def test_a_change_of_the_directory_changes_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    store = Store("sqlite:///runs.db")
    monkeypatch.chdir("elsewhere")
    async with store:
        await store.default_tenant(ANYONE)
        await store.check()
    assert not list(Path.cwd().iterdir())
    assert (tmp_path / "runs.db").exists()


def _replaced(path: Path) -> None:
    path.rename(f"{path}.moved")
    path.write_bytes(b"")


@pytest.mark.parametrize("lose", [os.remove, lambda path: path.rename(f"{path}.moved"), _replaced])
async def test_nothing_is_acknowledged_once_the_file_is_gone(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path = tmp_path / "runs.db"
    async with Store(f"sqlite:///{path}") as store:
        await store.default_tenant(ANYONE)
        lose(path)
        with pytest.raises(BackendUnavailable, match=r"runs\.db was moved, deleted or replaced"):
            await store.create_project(ANYONE, name="p")
        with pytest.raises(BackendUnavailable, match=r"runs\.db was moved, deleted or replaced"):
            await store.check()


async def test_a_file_that_is_put_back_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with Store(f"sqlite:///{path}") as store:
        await store.default_tenant(ANYONE)
        path.rename(tmp_path / "aside.db")
        with pytest.raises(BackendUnavailable):
            await store.check()
        (tmp_path / "aside.db").rename(path)
        await store.create_project(ANYONE, name="p")


async def test_a_file_that_is_moved_during_a_write_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with Store(f"sqlite:///{path}") as store:
        with pytest.raises(BackendUnavailable, match="moved"):
            await store.write(ANYONE, lambda tx: path.rename(tmp_path / "aside.db"))


@pytest.mark.parametrize("after", [False, True])
async def test_a_store_that_is_not_open_says_so(database_url: str, after: bool) -> None:
    store = Store(database_url)
    if after:
        async with store:
            await store.check()
    with pytest.raises(BackendUnavailable, match="is not open"):
        await store.check()
