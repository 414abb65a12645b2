"""Results where the settings say: in a bucket, through outages of it, and made anew where they are gone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, Settings, task
from flowloop.engine.backend import Backend
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import FlowloopError
from flowloop.engine.result import Result
from flowloop.engine.results import DefaultResult, LocalResult, ResultNotTrusted, S3Result, objects, trusted
from flowloop.engine.serialization import decode_state, deserialize_state, encode_state, serialize_state
from flowloop.engine.state import State, Success


@pytest.fixture(autouse=True)
def nothing_is_named_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted, "_NAMED", set())


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Object stores in memory, by the name of the bucket."""
    from obstore.store import MemoryStore

    made: dict[str, Any] = {}
    monkeypatch.setattr(objects, "_STORES", {})
    monkeypatch.setattr(objects, "_open_store", lambda _, place, __: made.setdefault(place, MemoryStore()))
    return made


def recorded(written: Result) -> State:
    return decode_state(encode_state(Success(result=written)))


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
async def test_a_setting_names_the_bucket(
    buckets: dict[str, Any], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("FLOWLOOP_RESULTS", f"{scheme}://team/runs")
    written = await DefaultResult().write({1, 2})
    assert str(written.location).startswith("runs/")
    for reader in (None, DefaultResult()):
        assert (await recorded(written).load_result(reader)).result == {1, 2}
    assert await DefaultResult().write([1]) == await DefaultResult("/somewhere").write([1]), "it is in the state"


async def test_a_target_lies_in_the_folder_of_the_bucket(
    buckets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWLOOP_RESULTS", "s3://team/runs/")
    target = DefaultResult().at("{day}.bin")
    assert await target.exists("{day}.bin", day="monday") is False
    written = await target.write(5, day="monday")
    assert written.location == "runs/monday.bin"
    assert await target.exists("{day}.bin", day="monday") is True
    assert (await target.read("monday.bin")).value == (await target.read("runs/monday.bin")).value == 5


async def test_what_was_stored_before_the_setting_is_still_read(
    buckets: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLOWLOOP_TRUSTED_RESULTS", f"s3://old,{tmp_path}")
    for written in (await LocalResult(tmp_path).write({1}), await S3Result("old").write({1})):
        for place in (None, "s3://team", str(tmp_path / "other")):
            assert (await recorded(written).load_result(DefaultResult(place))).result == {1}


@pytest.mark.parametrize(("bucket", "key"), [("evil", "runs/x"), ("team", "others/x"), ("team", "runs/../others/x")])
async def test_a_recorded_state_leads_to_no_other_bucket_or_folder(
    buckets: dict[str, Any], monkeypatch: pytest.MonkeyPatch, bucket: str, key: str
) -> None:
    monkeypatch.setenv("FLOWLOOP_RESULTS", "s3://team/runs")
    document = serialize_state(Success(result=await DefaultResult().write({1})))
    document["_result"] |= {"bucket": bucket, "location": key}
    for reader in (None, DefaultResult()):
        with pytest.raises(ResultNotTrusted, match="in no bucket that the flow or the settings"):
            await deserialize_state(document).load_result(reader)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "s3:///x"])
def test_where_no_results_can_lie_is_named(url: str) -> None:
    with pytest.raises(FlowloopError, match=r"results cannot lie at .*s3://BUCKET/FOLDER"):
        DefaultResult(url)


def test_a_store_is_waited_for_as_a_backend_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, seconds in (("7", 7.0), ("3600", 290.0)):
        monkeypatch.setenv("FLOWLOOP_OUTAGE_LIMIT", limit)
        assert objects._patience()["retry_timeout"].total_seconds() == seconds
    monkeypatch.setenv("FLOWLOOP_OUTAGE_LIMIT", "0")
    assert objects._patience()["max_retries"] == 0


# ---- results that are gone ---------------------------------------------------------------------------


class Runs:
    """A flow whose last task fails at first, and what ran."""

    def __init__(self, folder: Path) -> None:
        self.ran: Counter[str] = Counter()
        self.folder = folder
        ran = self.ran

        @task(result=LocalResult(folder, location="numbers.bin"))
        async def numbers() -> set[int]:
            ran["numbers"] += 1
            return {1, 2}

        @task(result=LocalResult(folder, location="doubled-{number}.bin"))
        async def doubled(number: int) -> frozenset[int]:
            ran[f"doubled {number}"] += 1
            return frozenset({2 * number})

        @task
        async def total(known: set[int], found: list[frozenset[int]]) -> int:
            ran["total"] += 1
            if ran["total"] == 1:
                raise ValueError("not yet")
            return sum(known) + sum(map(sum, found))

        with Flow("gone") as self.flow:
            total(numbers(), doubled.map([1, 2]))

    async def run(self, backend: Backend, flow_run_id: str, settings: Settings) -> State:
        runner = CloudFlowRunner(self.flow, backend=backend, settings=settings)
        return await runner.run(context={"flow_run_id": flow_run_id})

    async def begun(self, backend: Backend, settings: Settings) -> str:
        flow_run_id = await create_flow_run(self.flow, backend)
        assert (await self.run(backend, flow_run_id, settings)).is_failed()
        await backend.restart_flow_run(flow_run_id)
        return flow_run_id


@pytest.mark.parametrize("lost", ["numbers.bin", "doubled-2.bin"])
async def test_a_result_that_is_gone_is_made_again_on_request(tmp_path: Path, lost: str) -> None:
    for recompute in (False, True):
        runs = Runs(tmp_path / f"{recompute}")
        settings = Settings(home=str(tmp_path), recompute_missing=recompute)
        async with connect(f"sqlite:///{tmp_path / 'runs.db'}", settings=settings) as backend:
            flow_run_id = await runs.begun(backend, settings)
            (runs.folder / lost).unlink()
            state = await runs.run(backend, flow_run_id, settings)
        assert state.is_successful() is recompute
        again = {"numbers" if lost.startswith("numbers") else "doubled 2", "total"} if recompute else set()
        assert {name for name, times in runs.ran.items() if times == 2} == again


async def test_a_result_that_cannot_be_looked_for_is_not_made_again(tmp_path: Path) -> None:
    class Locked(LocalResult):
        async def exists(self, location: str, /, **kwargs: Any) -> bool:
            raise FlowloopError("there is no key for it")

    ran: Counter[str] = Counter()

    async def numbers() -> set[int]:
        ran["numbers"] += 1
        return {1, 2}

    async def total(known: set[int]) -> int:
        ran["total"] += 1
        if ran["total"] == 1:
            raise ValueError("not yet")
        return sum(known)

    with Flow("locked") as flow:
        made = task(numbers, result=Locked(tmp_path / "numbers"))()
        end = task(total)(made)
    settings = Settings(home=str(tmp_path), recompute_missing=True)
    async with connect("memory://", settings=settings) as backend:
        flow_run_id = await create_flow_run(flow, backend)
        for _ in range(2):
            state = await CloudFlowRunner(flow, backend=backend, settings=settings).run(
                context={"flow_run_id": flow_run_id}
            )
            if state.is_failed():
                await backend.restart_flow_run(flow_run_id)
    assert state.result[end].result == 3
    assert ran == {"numbers": 1, "total": 2}
