"""States as documents: every form a Prefect 1.4.1 client and server were seen to send, and what others may send."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.engine import state as states
from flowloop.engine.context import context
from flowloop.engine.errors import DialectError, SerializationError
from flowloop.engine.result import NoResult, Result
from flowloop.engine.results import AzureResult, ConstantResult, LocalResult, PrefectResult, S3Result, SecretResult
from flowloop.engine.serialization import decode_state, deserialize_state, encode_state, serialize_state
from flowloop.engine.state import (
    Cached,
    ClientFailed,
    Failed,
    Looped,
    Mapped,
    Paused,
    Pending,
    Queued,
    Retrying,
    Running,
    Scheduled,
    State,
    Submitted,
    Success,
)

NOON = datetime.datetime(2021, 7, 1, 12, tzinfo=datetime.UTC)
NO_RESULT = {"type": "NoResultType", "__version__": "1.4.1"}
RECORDED = [
    json.loads(line) for line in (Path(__file__).parent / "recorded_states.jsonl").read_text("utf-8").splitlines()
]


def complete(document: dict) -> dict:
    """Return a recorded document with the fields that a short one leaves out."""
    full = {"context": {}, "cached_inputs": {}, "_result": NO_RESULT, "__version__": "1.4.1", **document}
    if full["type"] == "Mapped":
        del full["_result"]
    return full


@pytest.mark.parametrize("document", RECORDED, ids=lambda d: f"{d['type']}-{(d.get('_result') or {}).get('type')}")
def test_a_recorded_document_comes_back_as_it_was(document):
    state = decode_state(document)
    assert type(state).__name__ == document["type"]
    assert serialize_state(state) == complete(document)
    assert json.loads(encode_state(state)) == complete(document)
    assert decode_state(json.dumps(document)) == decode_state(encode_state(state))


def test_every_state_was_recorded_or_is_covered_here():
    assert {document["type"] for document in RECORDED} >= set(states.__all__) - {"State"}


TIMES = st.datetimes(timezones=st.just(datetime.UTC))
TEXTS = st.none() | st.text()
JSON_OBJECTS = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text())
RESULTS = st.just(NoResult) | st.builds(Result) | st.builds(PrefectResult, location=st.sampled_from(["1", '"x"']))
COMMON = {"message": TEXTS, "result": RESULTS, "context": JSON_OBJECTS}
FLAT = st.one_of(
    *(st.builds(getattr(states, name), **COMMON) for name in ("Pending", "Running", "Cancelling", "Success", "Failed")),
    *(st.builds(kind, start_time=TIMES, **COMMON) for kind in (Scheduled, states.Resume)),
    st.builds(Paused, start_time=st.none() | TIMES, **COMMON),
    st.builds(Retrying, start_time=TIMES, run_count=st.integers(0, 99), **COMMON),
    st.builds(Looped, loop_count=st.integers(0, 99), **COMMON),
    st.builds(Mapped, n_map_states=st.integers(0, 99), message=TEXTS, context=JSON_OBJECTS),
    st.builds(
        Cached,
        hashed_inputs=st.none() | st.dictionaries(st.text(), st.text()),
        cached_parameters=st.none() | JSON_OBJECTS,
        cached_result_expiration=st.none() | TIMES,
        cached_inputs=st.dictionaries(st.text(), RESULTS),
        **COMMON,
    ),
)
STATES = FLAT | st.one_of(
    st.builds(Submitted, state=st.none() | FLAT, **COMMON),
    st.builds(ClientFailed, state=st.none() | FLAT, **COMMON),
    st.builds(Queued, state=st.none() | FLAT, start_time=TIMES, **COMMON),
)


@given(STATES)
def test_any_state_survives_its_document(state):
    twin = decode_state(encode_state(state))
    assert twin == state
    assert (twin.message, twin.context) == (state.message, state.context)
    assert serialize_state(twin) == serialize_state(state) == json.loads(encode_state(state))


@given(STATES, st.dictionaries(st.sampled_from(["new", "später", "_x"]), st.integers(), min_size=1))
def test_unknown_fields_are_kept_and_written_again(state, unknown):
    document = {**serialize_state(state), **unknown}
    twin = deserialize_state(document)
    assert twin.unknown_fields == unknown
    assert serialize_state(twin) == document


def test_reading_takes_nothing_from_the_context():
    with context(task_tags={"a"}, task_run_count=7, task_loop_count=8):
        state = decode_state({"type": "Retrying", "message": "again"})
        assert isinstance(state, Retrying)
        assert (state.context, state.run_count) == ({}, 1)


def test_a_missing_start_time_is_now_but_for_paused():
    class Noon:
        def now(self):
            return NOON

    with context(clock=Noon()):
        for name in ("Scheduled", "Resume", "Retrying", "Queued"):
            assert decode_state({"type": name, "start_time": None}).start_time == NOON
    assert decode_state({"type": "Paused", "start_time": None}).start_time is None


@pytest.mark.parametrize("text", ["2021-07-01T12:00:00+00:00", "2021-07-01T12:00:00Z", "2021-07-01T14:00:00+02:00"])
def test_times_in_all_notations(text):
    assert decode_state({"type": "Scheduled", "start_time": text}).start_time == NOON


def test_a_naive_time_is_utc():
    assert decode_state({"type": "Scheduled", "start_time": "2021-07-01T12:00:00"}).start_time == NOON


def test_null_for_what_may_be_missing():
    nulls = dict.fromkeys(("message", "context", "cached_inputs", "_result"))
    assert decode_state({"type": "Success", **nulls}) == Success()


def test_another_version_is_read_and_ours_is_written():
    state = decode_state({"type": "Running", "__version__": "0.15.0"})
    assert serialize_state(state)["__version__"] == "1.4.1"


def test_a_class_of_the_users_own_travels_as_what_it_was_made_of():
    class Soft(Failed):
        pass

    assert serialize_state(Soft("no"))["type"] == "Failed"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (ValueError("boom"), "boom"),
        (ValueError(), "ValueError()"),
        ("name\udce4", "name\\udce4"),
        ("größer", "größer"),
        (None, None),
    ],
)
def test_messages(message, text):
    assert json.loads(encode_state(Failed(message)))["message"] == text
    assert serialize_state(Failed(message))["message"] == text


def test_what_json_cannot_carry_is_refused_with_the_field():
    with pytest.raises(SerializationError, match="field 'cached_parameters' of a Cached state"):
        encode_state(Cached(cached_parameters={"x": object()}))
    with pytest.raises(SerializationError, match="field 'context' of a Running state"):
        serialize_state(Running(context={"x": object()}))


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"type": "Dreaming"}, "unknown state type 'Dreaming'"),
        ({"type": "_MetaState"}, "unknown state type"),
        ({"message": "?"}, "unknown state type None"),
        ({"type": ["Running"]}, "unknown state type"),
        ([], "JSON object, not list"),
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"type": "Running", "message": "\xff"}', "not JSON"),
        (b'{"type": "Running", "context": ' + b"[" * 100_000, "not JSON"),
        ("null", "JSON object, not NoneType"),
        ({"type": "Running", "message": 1}, "should be text"),
        ({"type": "Running", "context": "x"}, "not understood"),
        ({"type": "Running", "cached_inputs": []}, None),
        ({"type": "Running", "cached_inputs": [1]}, "not understood"),
        ({"type": "Running", "_result": "x"}, "result document"),
        ({"type": "Running", "_result": {"type": "Result", "location": 1}}, "should be text"),
        ({"type": "Scheduled", "start_time": "soon"}, "not understood"),
        ({"type": "Scheduled", "start_time": 5}, "not understood"),
        ({"type": "Retrying", "run_count": "many"}, "not understood"),
        ({"type": "Cached", "hashed_inputs": []}, "should be an object"),
        ({"type": "Submitted", "state": {"type": "Dreaming"}}, "unknown state type 'Dreaming'"),
        ({"type": "Submitted", "state": "Running"}, "JSON object, not str"),
    ],
)
def test_what_is_no_state_document_is_refused(document, problem):
    if problem is None:
        decode_state(document)
    else:
        with pytest.raises(DialectError, match=problem):
            decode_state(document)


# ---- results ---------------------------------------------------------------------------------------


class Mine(Result):
    pass


@pytest.mark.parametrize(
    ("result", "document"),
    [
        (NoResult, {"type": "NoResultType"}),
        (Result(5), {"type": "Result", "location": None}),
        (PrefectResult(1, "1"), {"type": "PrefectResult", "location": "1"}),
        (ConstantResult(5), {"type": "ConstantResult", "location": None}),
        (S3Result("b", location="k"), {"type": "S3Result", "location": "k", "bucket": "b"}),
        (AzureResult("c", location="k"), {"type": "AzureResult", "location": "k", "container": "c"}),
        (LocalResult("/r", False, location="k"), {"type": "LocalResult", "location": "k", "dir": "/r"}),
        (SecretResult(Mine()), {"type": "SecretResult", "location": None, "secret_type": "Mine"}),
        (Mine(location="mine/1"), {"type": "CustomResult", "location": "mine/1"}),
    ],
)
def test_the_documents_of_results(result, document):
    assert serialize_state(Success(result=result))["_result"] == {**document, "__version__": "1.4.1"}


def test_a_result_read_from_a_document_knows_its_place_and_not_its_value(tmp_path):
    state = decode_state({"type": "Success", "_result": {"type": "LocalResult", "dir": "/nowhere", "location": "/x"}})
    assert (type(state._result), state._result.location, state._result.value) == (LocalResult, "/x", None)
    assert not Path("/nowhere").exists()


def test_an_unknown_kind_of_result_is_a_plain_one_and_is_written_as_it_came():
    came = {"type": "FtpResult", "location": "ftp://x", "mode": "active", "__version__": "1.4.1"}
    state = decode_state({"type": "Success", "_result": came})
    assert (type(state._result), state._result.location) == (Result, "ftp://x")
    assert serialize_state(state)["_result"] == came


def test_unknown_fields_of_a_result_are_written_again():
    came = {"type": "S3Result", "location": "k", "bucket": "b", "region": "x", "__version__": "1.4.1"}
    assert serialize_state(decode_state({"type": "Success", "_result": came}))["_result"] == came


async def test_a_value_in_the_state_is_read_from_its_document():
    state: State = decode_state(encode_state(Success(result=await PrefectResult().write({"a": [1, None]}))))
    assert state.result is None
    await state.load_result()
    assert state.result == {"a": [1, None]}


def test_a_mapped_state_says_how_many_children_it_has_and_no_more():
    state = Mapped("mapped", map_states=[Success(result=1), Pending()])
    document = serialize_state(state)
    assert document["n_map_states"] == 2
    assert not {"_result", "map_states"} & set(document)
    twin = decode_state(document)
    assert isinstance(twin, Mapped)
    assert (twin.n_map_states, twin.map_states) == (2, [])


def test_wrappers_collapse_when_they_are_read():
    inner = {"type": "Retrying", "start_time": NOON.isoformat(), "run_count": 2}
    state = decode_state({"type": "Queued", "state": {"type": "Submitted", "state": inner}})
    assert isinstance(state, Queued)
    assert state.state == Retrying(start_time=NOON, run_count=2)


def test_the_methods_of_a_state_do_the_same():
    state = Retrying("again", start_time=NOON, run_count=3)
    assert State.deserialize(state.serialize()) == state
