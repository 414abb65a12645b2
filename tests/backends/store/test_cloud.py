"""Secrets, key-value pairs, API keys, and what runs leave behind: logs and artifacts."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends.store import ANYONE, Caller, Store
from flowloop.engine.errors import BackendRejected

from .world import FENCED, START, World

NOWHERE = "00000000-0000-4000-8000-000000000000"


# -- secrets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"user": "u"}, "text", 7, [1, None], "", False])
async def test_a_secret_is_stored_encrypted(world: World, value: Any) -> None:
    store = world.store
    await store.set_secret(ANYONE, name="S", value=value)
    assert await store.secret_value(ANYONE, name="S") == value
    ciphertext = (await world.rows("secret"))[0]["ciphertext"]
    assert len(ciphertext) > 90
    assert "text" not in ciphertext
    assert "user" not in ciphertext


async def test_secrets_are_listed_replaced_and_deleted(world: World) -> None:
    store = world.store
    for name, value in [("B", 1), ("A", 2), ("B", 3)]:
        await store.set_secret(ANYONE, name=name, value=value)
    assert await store.secret_names(ANYONE) == ["A", "B"]
    assert await store.secret_value(ANYONE, name="B") == 3
    await store.set_secret(ANYONE, name="A", value=None)
    await store.delete_secret(ANYONE, name="never there")
    assert await store.secret_names(ANYONE) == ["B"]
    with pytest.raises(BackendRejected, match=r"^No value found for the requested key$"):
        await store.secret_value(ANYONE, name="A")
    with pytest.raises(BackendRejected, match="name"):
        await store.set_secret(ANYONE, name="", value=1)


async def test_secrets_need_the_key_they_were_stored_under(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'f.db'}"
    async with Store(url, secret_key="one") as store:
        await store.default_tenant(ANYONE)
        await store.set_secret(ANYONE, name="S", value="v")
    async with Store(url, secret_key="two") as store:
        with pytest.raises(BackendRejected, match="'S' was stored under another key"):
            await store.secret_value(ANYONE, name="S")
    async with Store(url) as store:
        for call in (store.set_secret(ANYONE, name="T", value="v"), store.secret_value(ANYONE, name="S")):
            with pytest.raises(BackendRejected, match="FLOWLOOP_SECRET_KEY"):
                await call
        assert await store.secret_names(ANYONE) == ["S"]


async def test_secrets_of_tenants_are_apart(world: World) -> None:
    other = Caller(tenant_id=(await world.store.create_tenant(ANYONE, name="O", slug="o"))["id"])
    await world.store.set_secret(ANYONE, name="S", value=1)
    await world.store.set_secret(other, name="S", value=2)
    assert await world.store.secret_value(other, name="S") == 2
    assert await world.store.secret_value(ANYONE, name="S") == 1
    await world.store.delete_secret(other, name="S")
    assert await world.store.secret_names(other) == []


# -- key-value pairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"a": [1, 2]}, "v", 5, 1.5, "5", None, True, [], "x" * 9_000])
async def test_values_under_keys(world: World, value: Any) -> None:
    store = world.store
    first = await store.set_key_value(ANYONE, key="k", value="before")
    assert await store.set_key_value(ANYONE, key="k", value=value) == first
    row = (await world.rows("key_value"))[0]
    assert (row["key"], row["value"], type(row["value"])) == ("k", value, type(value))
    await store.delete_key_value(ANYONE, key_value_id=first["id"])
    assert await world.rows("key_value") == []
    with pytest.raises(BackendRejected, match="Invalid key value ID"):
        await store.delete_key_value(ANYONE, key_value_id=first["id"])


async def test_what_is_no_pair(world: World) -> None:
    with pytest.raises(BackendRejected, match="10KB"):
        await world.store.set_key_value(ANYONE, key="k", value="x" * 10_001)
    with pytest.raises(BackendRejected, match="key"):
        await world.store.set_key_value(ANYONE, key="", value=1)
    with pytest.raises(BackendRejected, match="Invalid limit ID"):
        await world.store.delete_task_tag_limit(ANYONE, limit_id=NOWHERE)


# -- API keys ------------------------------------------------------------------------------------------


async def test_an_api_key_lets_its_tenant_in(world: World) -> None:
    store = world.store
    tenant = (await store.default_tenant(ANYONE))["id"]
    made = await store.create_api_key(ANYONE, name="key", user_id="u", scopes=["read"])
    assert await store.authenticate(made["key"]) == Caller(
        tenant_id=tenant, scopes=frozenset({"read"}), user_id="u", key_name="key", key_id=made["id"]
    )
    assert made["key"] not in str(await world.rows("api_key"))
    for wrong in ("", "wrong", made["id"], made["key"] + "x"):
        assert await store.authenticate(wrong) is None
    await store.delete_api_key(ANYONE, key_id=made["id"])
    assert await store.authenticate(made["key"]) is None


async def test_an_api_key_expires(world: World) -> None:
    with pytest.raises(BackendRejected, match="cannot end before it is made"):
        await world.store.create_api_key(ANYONE, name="key", expires_at=world.clock.now())
    made = await world.store.create_api_key(ANYONE, name="key", expires_at=START + datetime.timedelta(hours=1))
    assert await world.store.authenticate(made["key"]) is not None
    world.clock.move(hours=1)
    assert await world.store.authenticate(made["key"]) is None


async def test_an_api_key_allows_no_more_than_its_maker(world: World) -> None:
    reader = Caller(scopes=frozenset({"read"}))
    with pytest.raises(BackendRejected, match="cannot allow more"):
        await world.store.create_api_key(reader, name="key")
    for scopes in ([], ["owner"]):
        with pytest.raises(BackendRejected, match="scopes"):
            await world.store.create_api_key(ANYONE, name="key", scopes=scopes)
    with pytest.raises(BackendRejected, match="name"):
        await world.store.create_api_key(ANYONE, name="")


# -- logs ----------------------------------------------------------------------------------------------


async def test_log_lines(world: World) -> None:
    await world.build()
    line = {
        "flow_run_id": world.run_id,
        "task_run_id": world.task_runs["a"],
        "timestamp": "2021-07-01T11:00:00+00:00",
        "name": "prefect.CloudTaskRunner",
        "level": "ERROR",
        "message": "with \x00",
        "info": {"a": 1},
    }
    await world.store.write_run_logs(FENCED, logs=[line])
    await world.store.write_run_logs(FENCED, logs={"flow_run_id": world.run_id, "message": "alone"})
    first, second = await world.rows("log")
    assert first["timestamp"] == START - datetime.timedelta(hours=1)
    assert {key: first[key] for key in ("name", "level", "message", "info", "task_run_id")} == {
        "name": "prefect.CloudTaskRunner",
        "level": "ERROR",
        "message": "with \ufffd",
        "info": {"a": 1},
        "task_run_id": world.task_runs["a"],
    }
    assert (second["timestamp"], second["level"], second["task_run_id"]) == (START, "INFO", None)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"message": "of nothing"},
        {"flow_run_id": "x"},
        {"flow_run_id": NOWHERE},
        {"flow_run_id": 7},
        {"level": "LOUD"},
        {"timestamp": "yesterday"},
        {"message": {"a": 1}},
        {"task_run_id": NOWHERE},
        "text",
        None,
    ],
)
async def test_a_bad_log_line_is_dropped_and_the_others_stay(world: World, line: Any) -> None:
    await world.build()
    if isinstance(line, dict) and line and "flow_run_id" not in line and line != {"message": "of nothing"}:
        line = {"flow_run_id": world.run_id, **line}
    good = {"flow_run_id": world.run_id, "message": "good"}
    assert await world.store.write_run_logs(FENCED, logs=[good, line, good]) == {"success": True}
    assert [row["message"] for row in await world.rows("log")] == ["good", "good"]


# -- artifacts -----------------------------------------------------------------------------------------


async def test_artifacts(world: World) -> None:
    store = world.store
    await world.build()
    run_id = world.task_runs["a"]
    made = await store.create_task_run_artifact(FENCED, task_run_id=run_id, kind="link", data={"link": "x"})
    await store.update_task_run_artifact(FENCED, task_run_artifact_id=made["id"], data={"link": "y"})
    row = await world.row("task_run_artifact", made["id"])
    assert (row["task_run_id"], row["kind"], row["data"]) == (run_id, "link", {"link": "y"})
    await store.delete_task_run_artifact(FENCED, task_run_artifact_id=made["id"])
    assert await world.rows("task_run_artifact") == []
    with pytest.raises(BackendRejected, match=f"^Task run {NOWHERE} not found$"):
        await store.create_task_run_artifact(FENCED, task_run_id=NOWHERE, kind="link")
    with pytest.raises(BackendRejected, match=r"^Invalid tenant ID\.$"):
        await store.create_task_run_artifact(FENCED, task_run_id=run_id, kind="link", tenant_id=NOWHERE)
    with pytest.raises(BackendRejected, match="1,000,000"):
        await store.create_task_run_artifact(FENCED, task_run_id=run_id, kind="markdown", data="x" * 1_000_001)
    for call in (store.update_task_run_artifact, store.delete_task_run_artifact):
        with pytest.raises(BackendRejected, match="not found"):
            await call(FENCED, task_run_artifact_id=made["id"])


async def test_messages(world: World) -> None:
    def add(tx: Any) -> str:
        return str(tx.insert("message", tenant_id=tx.tenant_or_default(None), type="REQUEST", text="hello"))

    message_id = await world.store.write(ANYONE, add)
    await world.store.mark_message_as_read(ANYONE, message_id=message_id)
    assert (await world.row("message", message_id))["read"] is True
    await world.store.mark_message_as_unread(ANYONE, message_id=message_id)
    assert (await world.row("message", message_id))["read"] is False
    await world.store.delete_message(ANYONE, message_id=message_id)
    assert await world.rows("message") == []
