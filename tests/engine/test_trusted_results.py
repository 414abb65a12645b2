"""Who may write states names locations: they are read only where code or settings say, and pickles only if signed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import SerializationError
from flowloop.engine.result import Result
from flowloop.engine.results import DefaultResult, LocalResult, ResultNotTrusted, S3Result, trusted
from flowloop.engine.results.trusted import check_object
from flowloop.engine.serialization import decode_state, encode_state
from flowloop.engine.serializers import CompressedSerializer, JSONSerializer, PickleSerializer
from flowloop.engine.state import State, Success


class Mark:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Trap:
    """A pickle that somebody put somewhere, and whether it was ever unpickled."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "it ran"
        self.file = folder / "elsewhere" / "trap.pickle"
        self.file.parent.mkdir()
        self.file.write_bytes(pickle.dumps(Mark(self.mark)))

    @property
    def ran(self) -> bool:
        return self.mark.exists()


@pytest.fixture(autouse=True)
def nothing_is_named_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted, "_NAMED", set())


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


def recorded(**result: Any) -> State:
    """Return a state as it comes from a backend, with this result and the same as cached input."""
    document = {"type": "LocalResult", "location": None, "dir": None, **result}
    return decode_state(
        {"type": "Success", "message": None, "_result": document, "cached_inputs": {"x": document}}  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kind", ["absolute", "relative", "out of the folder", "a plain result", "a link"])
@pytest.mark.parametrize("reader", ["none", "files", "default", "a bucket"])
async def test_a_forged_location_is_refused_by_name(kind: str, reader: str, trap: Trap, tmp_path: Path) -> None:
    own = tmp_path / "results"
    own.mkdir()
    (own / "link.pickle").symlink_to(trap.file)
    state = {
        "absolute": recorded(location=str(trap.file), dir=str(own)),
        "relative": recorded(location=trap.file.name, dir=str(trap.file.parent)),
        "out of the folder": recorded(location=f"{own}/../elsewhere/trap.pickle", dir=str(own)),
        "a plain result": recorded(type="Result", location=str(trap.file)),
        "a link": recorded(location=str(own / "link.pickle"), dir=str(own)),
    }[kind]
    given: Result | None = {
        "none": None,
        "files": LocalResult(own),
        "default": DefaultResult(own),
        "a bucket": S3Result("ours", options={"region": "x"}),
    }[reader]
    with pytest.raises(Exception) as refused:
        await state.load_result(given)
    with pytest.raises(type(refused.value)):
        await state.load_cached_results({} if given is None else {"x": given})
    assert not trap.ran
    if not (kind == "a plain result" and reader in ("none", "a bucket")) and not (
        kind == "relative" and reader in ("files", "default")
    ):
        assert isinstance(refused.value, ResultNotTrusted)
        assert "FLOWLOOP_TRUSTED_RESULTS" in str(refused.value)


async def test_what_code_or_settings_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mount")
    written = await LocalResult(tmp_path / "link", location="a.pickle").write(1)
    assert (await recorded(location=written.location).load_result()).result == 1
    elsewhere = tmp_path / "b.pickle"
    elsewhere.write_bytes(pickle.dumps(2))
    state = recorded(location=str(elsewhere))
    with pytest.raises(ResultNotTrusted):
        await state.load_result()
    monkeypatch.setenv("FLOWLOOP_TRUSTED_RESULTS", f"s3://bucket, {tmp_path}")
    assert (await state.load_result()).result == 2
    monkeypatch.delenv("FLOWLOOP_TRUSTED_RESULTS")
    DefaultResult(tmp_path / "none").at(f"{tmp_path}/{{name}}.pickle")
    assert (await recorded(location=str(elsewhere)).load_result()).result == 2


async def test_what_this_process_wrote_is_not_asked_for(tmp_path: Path) -> None:
    written = await LocalResult(tmp_path, location=lambda **_: f"{tmp_path}/of a function").write(1)
    state = Success(result=Result())
    state._result = LocalResult(tmp_path / "other", False).at(written.location)
    assert (await state.load_result()).result == 1


def test_a_bucket_counts_with_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    S3Result("named", options={"region": "x"})
    check_object("s3://named", "any/key")
    monkeypatch.setenv("FLOWLOOP_TRUSTED_RESULTS", "gs://set/some/folder/")
    check_object("gs://set", "some/folder/key")
    for bucket, key in (
        ("s3://other", "key"),
        ("gs://named", "key"),
        ("s3://named2", "key"),
        ("gs://set", "some/folder2/key"),
        ("gs://set", "some/folder/../key"),
    ):
        with pytest.raises(ResultNotTrusted, match=f"{bucket}/{key} .* in no bucket"):
            check_object(bucket, key)


async def test_a_forged_bucket_is_refused_by_name() -> None:
    state = recorded(type="S3Result", bucket="theirs", location="trap.pickle")
    with pytest.raises(ResultNotTrusted, match=r"s3://theirs/trap\.pickle"):
        await state.load_result(DefaultResult())


@pytest.mark.parametrize("root", ["", "{folder}/"])
async def test_a_value_that_names_a_link_leads_nowhere(root: str, trap: Trap, tmp_path: Path) -> None:
    own = tmp_path / "results"
    (own / "runs").mkdir(parents=True)
    (own / "runs" / "out").symlink_to(trap.file.parent)
    result = LocalResult(own, location=root.format(folder=own) + "runs/{name}/trap.pickle")
    filled = result.format(name="out")
    with pytest.raises(SerializationError, match=r"leads out of .*runs"):
        await filled.read(str(filled.location))
    with pytest.raises(SerializationError, match=r"leads out of .*runs"):
        await result.write(1, name="out")
    assert not trap.ran
    assert (await filled.at("b.pickle").write(2)).value == 2


async def test_a_forged_success_does_not_reach_a_body(trap: Trap, tmp_path: Path) -> None:
    seen: list[Any] = []

    @task
    def first() -> int:
        return 1

    @task
    def second(value: Any) -> None:
        seen.append(value)

    with Flow("forged") as flow:
        second(first())
    async with connect(f"sqlite:///{tmp_path}/runs.db") as backend:
        run_id = await create_flow_run(flow, backend)
        info = await backend.get_flow_run_info(run_id)
        victim = next(run for run in info.task_runs if run.task_slug == flow.slugs[flow.get_tasks("first")[0]])
        await backend.set_task_run_state(victim.id, victim.version, recorded(location=str(trap.file)))
        state = await CloudFlowRunner(flow, backend=backend).run(context={"flow_run_id": run_id})
    assert state.is_failed()
    assert not trap.ran
    assert seen == []


# ---- signatures ------------------------------------------------------------------------------------------


def test_only_what_was_signed_with_the_key_is_unpickled(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = PickleSerializer("a key").serialize([1, (2,)])
    assert PickleSerializer("a key").deserialize(signed) == [1, (2,)]
    bomb = trap.file.read_bytes()
    for data, key, why in (
        (bomb, "a key", "is not signed"),
        (PickleSerializer("another").serialize(1), "a key", "was signed with another key"),
        (signed[:-1] + b"x", "a key", "or changed since"),
        (signed[:50] + bomb, "a key", "or changed since"),
        (signed[:30], "a key", "or changed since"),
        (b"", "a key", "is not signed"),
        (signed, None, "give its key in FLOWLOOP_RESULTS_KEY"),
    ):
        with pytest.raises(SerializationError, match=why):
            PickleSerializer(key).deserialize(data)
    monkeypatch.setenv("FLOWLOOP_RESULTS_KEY", "a key")
    packed = CompressedSerializer(PickleSerializer())
    assert PickleSerializer().serialize([1, (2,)]) == signed
    assert packed.deserialize(packed.serialize({1})) == {1}
    with pytest.raises(SerializationError, match="is not signed"):
        PickleSerializer().deserialize(bomb)
    assert not trap.ran


async def test_results_are_signed_by_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWLOOP_RESULTS_KEY", "a key")
    written = await DefaultResult(tmp_path).write({1, 2})
    state = decode_state(encode_state(Success(result=written)))
    assert (await state.load_result(DefaultResult(tmp_path))).result == {1, 2}
    (tmp_path / str(written.location)).write_bytes(pickle.dumps({3}))
    forged = recorded(location=written.location, dir=str(tmp_path))  # of which nobody has to say what it holds
    with pytest.raises(SerializationError, match="is not signed"):
        await forged.load_result(DefaultResult(tmp_path))
    assert JSONSerializer().serialize([1]) == b"[1]"
