"""Results against real places: the state itself, real files, real object stores on loopback and in memory."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import math
import os
import pickle
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.engine.context import context
from flowloop.engine.errors import FlowloopError, SerializationError
from flowloop.engine.result import (
    NoResult,
    NoResultType,
    Result,
    ResultDamaged,
    ResultNotFound,
    ResultNotImplementedError,
)
from flowloop.engine.results import (
    AzureResult,
    ConstantResult,
    DefaultResult,
    GCSResult,
    HTTPResult,
    LocalResult,
    PrefectResult,
    S3Result,
    SecretResult,
)
from flowloop.engine.results import objects as object_stores
from flowloop.engine.results.default import INLINE_LIMIT, survives_json
from flowloop.engine.results.objects import ResultStoreError
from flowloop.engine.serialization import decode_state, deserialize_state, encode_state, serialize_state
from flowloop.engine.serializers import JSONSerializer, PickleSerializer
from flowloop.engine.state import Success

# ---- the base --------------------------------------------------------------------------------------


async def test_the_base_class_stores_nothing():
    for call in (Result().read("x"), Result().write(1), Result().exists("x")):
        with pytest.raises(ResultNotImplementedError):
            await call


def test_equality_looks_at_type_and_public_attributes():
    assert Result(1) == Result(1) != Result(2)
    assert Result(1, location="a") != Result(1, location="b")
    assert LocalResult("/a", False) != LocalResult("/b", False)
    assert Result(1) != LocalResult("/a", False, value=1)
    assert Result(1) != 1


def test_from_value_clears_the_location_and_copies():
    result = LocalResult("/a", False, value=1, location="x", serializer=JSONSerializer())
    new = result.from_value(2)
    assert (new.value, new.location, new.dir, new.serializer) == (2, None, "/a", JSONSerializer())
    assert (result.value, result.location) == (1, "x")


def test_a_location_is_text_or_a_function():
    with pytest.raises(TypeError, match="str or a function that is not async, not 5"):
        Result(location=5)  # type: ignore[arg-type]


def test_parameters_stand_behind_the_context_and_that_behind_the_inputs():
    with context(parameters={"a": "parameter", "b": "parameter", "c": "parameter"}, b="context", c="context"):
        assert Result(location="{a}-{b}-{c}").format(c="input").location == "parameter-context-input"
        function = Result(location=lambda **known: "/".join(known[name] for name in "abc"))
        assert function.format(c="input").location == "parameter/context/input"


def test_format_returns_a_new_result_with_a_filled_or_a_new_location():
    template = Result(5, location="{x!r:>4}")
    filled = template.format(x=1)
    assert (filled.location, filled.value, template.location) == ("   1", 5, "{x!r:>4}")
    assert filled.format(x=2).location == "   1"
    first, second = Result().format().location, Result().format().location
    assert first != second
    assert first is not None
    assert first.endswith(".flowloop_result")
    assert Result(location="{{x}}").format().location == "{x}"


@pytest.mark.parametrize("template", ["{nobody}", "{a.b}", "{a[0]}", "{", "{a:%%}"])
def test_a_template_that_cannot_be_filled_names_what_there_is(template):
    with pytest.raises(SerializationError, match="have a"):
        Result(location=template).format(a=1)


def test_no_result_is_one_object():
    assert pickle.loads(pickle.dumps(NoResult)) is NoResult
    assert NoResult.copy() is NoResult
    assert NoResult != NoResultType()
    assert (str(NoResult), repr(NoResult)) == ("NoResult", "<No result>")


@pytest.mark.parametrize(
    "result",
    [
        Result(1, "x"),
        PrefectResult(1, "1"),
        LocalResult("/a", False, value=1),
        S3Result("b", options={"region": "x"}),
        DefaultResult("/a"),
        ConstantResult(3),
    ],
)
def test_results_can_be_pickled_and_copied(result):
    assert pickle.loads(pickle.dumps(result)) == result == result.copy()


# ---- constants and secrets -------------------------------------------------------------------------


async def test_a_constant_is_read_as_itself_and_never_written():
    constant = ConstantResult(5)
    assert await constant.read("anywhere") is constant
    assert await constant.exists("anywhere") is True
    with pytest.raises(TypeError, match="read-only"):
        await constant.write(6)


class Token:
    asked = 0

    def run(self):
        self.asked += 1
        return f"secret {self.asked}"


class AsyncToken(Token):
    async def run(self):
        return super().run()


@pytest.mark.parametrize("task", [Token(), AsyncToken()])
async def test_a_secret_is_asked_for_each_time_and_never_written(task):
    secret = SecretResult(task)
    assert secret.secret_type == type(task).__name__
    assert [(await secret.read("token")).value for _ in range(2)] == ["secret 1", "secret 2"]
    assert secret.value is None
    assert await secret.exists("token") is True
    with pytest.raises(TypeError, match="never written"):
        await secret.write("x")


# ---- in the state ----------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False)
EXACT = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FINITE | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@given(EXACT)
async def test_the_location_is_the_json_text(value):
    written = await PrefectResult().write(value)
    assert same(json.loads(written.location), value)
    assert same((await PrefectResult().read(written.location)).value, value)
    assert await PrefectResult().exists(written.location) is True


async def test_a_json_text_is_no_template():
    result = await PrefectResult().write({"a": "{b}"})
    assert result.format(b=1).location == '{"a":"{b}"}'


async def test_what_is_no_json_is_refused():
    with pytest.raises(SerializationError, match="type object"):
        await PrefectResult().write(object())
    with pytest.raises(SerializationError, match="JSON text"):
        await PrefectResult().read("{")
    assert await PrefectResult().exists("{") is False


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.characters(categories=["Cs"]),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.frozensets(st.integers())
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=10,
)


@given(EXACT | ANYTHING)
def test_a_value_survives_json_exactly_if_it_is_said_to(value):
    try:
        text = json.dumps(value, allow_nan=False)
        text.encode().decode()
        json.dumps(value, ensure_ascii=False).encode()
        exact = same(json.loads(text), value) and len(text) < INLINE_LIMIT
    except (TypeError, ValueError):
        exact = False
    claimed = survives_json(value)
    if claimed:
        assert exact
    elif exact:
        assert any(isinstance(part, int) and abs(part) >= 2**63 for part in flattened(value))


def flattened(value):
    if isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from flattened(part)
    else:
        yield value


def test_what_is_large_or_endless_does_not_survive():
    loop: list = []
    loop.append(loop)
    assert not survives_json(loop)
    assert not survives_json(["x" * 100] * 101)
    assert not survives_json([[0] * 5000] * 5000)
    assert not survives_json({str(n): n for n in range(INLINE_LIMIT + 1)})


async def test_the_default_puts_small_plain_values_in_the_state_and_others_in_files(tmp_path):
    default = DefaultResult(tmp_path / "results")
    for value in (1, "x", None, {"a": [1.5]}, "x" * (INLINE_LIMIT - 2)):
        assert type(await default.write(value)) is PrefectResult
    assert not (tmp_path / "results").exists()
    for value in ((1, 2), {1: 2}, "x" * INLINE_LIMIT, "é" * (INLINE_LIMIT // 2), 10**30, b"x"):
        written = await default.write(value)
        assert type(written) is LocalResult
        assert (await default.read(written.location)).value == value
        assert (await written.read(written.location)).value == value


async def test_a_default_with_a_location_always_writes_a_file(tmp_path):
    default = DefaultResult(tmp_path).at("{name}.out")
    assert await default.exists("{name}.out", name="a") is False
    written = await default.write(1, name="a")
    assert written.location == str(tmp_path / "a.out")
    assert await default.exists("{name}.out", name="a") is True
    by_function = await DefaultResult(tmp_path, location=lambda **known: f"{known['name']}.f").write(1, name="b")
    assert by_function.location == str(tmp_path / "b.f")


# ---- files -----------------------------------------------------------------------------------------


async def test_a_file_is_written_and_read_back(tmp_path):
    result = LocalResult(tmp_path / "new", location="{day}/{name}.bin")
    written = await result.write({1, 2}, day="monday", name="x")
    assert written.location == str(tmp_path / "new" / "monday" / "x.bin")
    assert (written.value, result.value, result.location) == ({1, 2}, None, "{day}/{name}.bin")
    assert (await LocalResult(tmp_path / "new").read(written.location)).value == {1, 2}
    assert (await LocalResult(tmp_path / "new").read("monday/x.bin")).value == {1, 2}
    assert await result.exists("{day}/{name}.bin", day="monday", name="x") is True
    assert await result.exists("{day}/{name}.bin", day="tuesday", name="x") is False


async def test_a_file_gets_a_new_name_where_none_is_given(tmp_path):
    first, second = [await LocalResult(tmp_path).write(n) for n in (1, 2)]
    assert first.location != second.location
    assert Path(first.location).is_relative_to(tmp_path)


async def test_the_folder_is_that_of_flowloop_unless_one_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWLOOP_HOME", str(tmp_path / "home"))
    assert LocalResult().dir == DefaultResult().dir == str(tmp_path / "home" / "results")
    monkeypatch.chdir(tmp_path)
    assert LocalResult("here").dir == str(tmp_path / "here")
    assert LocalResult("there", validate_dir=False).dir == "there"
    assert not (tmp_path / "there").exists()
    assert (await LocalResult("there", validate_dir=False).write(1)).location.startswith(str(tmp_path / "there"))


async def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ResultNotFound, match=r"gone\.bin") as caught:
        await LocalResult(tmp_path).read("gone.bin")
    assert isinstance(caught.value, FlowloopError)
    assert isinstance(caught.value, FileNotFoundError)


async def test_a_template_cannot_lead_out_of_the_folder(tmp_path):
    result = LocalResult(tmp_path / "results", location="{name}")
    for name in ("../x", "a/../../x", ".."):
        with pytest.raises(SerializationError, match="leads out of the folder"):
            await result.write(1, name=name)
        with pytest.raises(SerializationError, match="leads out of the folder"):
            await result.exists("{name}", name=name)
    assert sorted(os.listdir(tmp_path)) == ["results"]


class Breaking(JSONSerializer):
    def serialize(self, value):
        raise SerializationError("broken")


async def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    result = LocalResult(tmp_path, location="x")
    await result.write("old")
    with pytest.raises(SerializationError, match="broken"):
        await LocalResult(tmp_path, location="x", serializer=Breaking()).write("new")
    with pytest.raises(SerializationError, match="lock"):
        await result.write(threading.Lock())

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        await result.write("new")
    assert os.listdir(tmp_path) == ["x"]
    assert (await result.read("x")).value == "old"


def bytes_in(path):
    return Path(path).read_bytes()


class Grid:
    """A value with a large buffer, as an array has one."""

    def __init__(self, cells):
        self.cells = cells

    def __reduce_ex__(self, protocol):
        return Grid, (pickle.PickleBuffer(self.cells),)


async def test_a_large_buffer_is_not_copied_on_its_way_to_a_file_and_back(tmp_path):
    size = 16_000_000
    place, grid = LocalResult(tmp_path, location="grid.pickle"), Grid(bytearray(size))
    await place.write(1)  # what is loaded for the first one is not its own
    tracemalloc.start()
    try:
        stored = await place.write(grid)
        assert tracemalloc.get_traced_memory()[1] < size / 4
        tracemalloc.reset_peak()
        read = await place.expecting(stored).read(stored.location)
        assert tracemalloc.get_traced_memory()[1] < size * 1.25, "there is the value, and nothing beside it"
    finally:
        tracemalloc.stop()
    assert read.value.cells == grid.cells
    assert stored.size == len(bytes_in(stored.location)) > size


@pytest.mark.parametrize("key", [None, "a key"])
@pytest.mark.parametrize("value", [1, {"a": [None, "b"]}, bytes(100_000), [bytearray(70_000)] * 2, lambda: 1])
async def test_a_file_holds_what_its_serializer_returns(tmp_path, key, value):
    serializer = PickleSerializer(key)
    stored = await LocalResult(tmp_path, serializer=serializer).write(value)
    written = bytes_in(stored.location)
    assert written == serializer.serialize(value)
    assert (stored.size, stored.checksum) == (len(written), f"sha256:{hashlib.sha256(written).hexdigest()}")
    again = (await stored.read(stored.location)).value
    assert (again() if callable(value) else again) == (value() if callable(value) else value)


class Unwilling:
    def __reduce__(self):
        raise OSError("its own")


class Full(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_is_not_the_fault_of_the_value():
    with pytest.raises(OSError, match="No space"):
        LocalResult()._dump([bytes(100_000)], Full())
    with pytest.raises(SerializationError, match=r"cannot pickle a value of type Unwilling: its own"):
        LocalResult()._dump(Unwilling(), io.BytesIO())


async def test_a_subclass_of_the_serializer_has_its_own_way(tmp_path):
    class Marked(PickleSerializer):
        def serialize(self, value):
            return b"mark" + super().serialize(value)

        def deserialize(self, value):
            return super().deserialize(value.removeprefix(b"mark"))

    stored = await LocalResult(tmp_path, serializer=Marked()).write([1])
    assert bytes_in(stored.location).startswith(b"mark")
    assert (await stored.read(stored.location)).value == [1]


async def test_readers_never_see_half_a_file(tmp_path):
    result = LocalResult(tmp_path, location="x")
    await result.write("0" * 100_000)

    async def write():
        for digit in "123456789":
            await result.write(digit * 100_000)

    async def read():
        for _ in range(30):
            assert len(set((await result.read("x")).value)) == 1

    await asyncio.gather(write(), read(), read())


# ---- object stores ---------------------------------------------------------------------------------


class Shelf:
    """A small HTTP server that keeps what is PUT: enough of S3, GCS and Azure for whole objects."""

    url: str

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.broken = False

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        status, answer = self.answer(scope["method"], scope["path"], body)
        headers = [(b"etag", b'"1"'), (b"last-modified", b"Mon, 01 Jan 2024 12:00:00 GMT")]
        headers.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})

    def answer(self, method, path, body):
        if self.broken:
            return 403, b"<Error><Code>AccessDenied</Code></Error>"
        if method == "PUT":
            self.objects[path] = body
            return 201, b""
        return (200, self.objects[path]) if path in self.objects else (404, b"")


@pytest.fixture
async def shelf():
    import uvicorn

    app = Shelf()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    app.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield app
    await server.shutdown()
    object_stores._STORES.clear()


def s3(url):
    keys = {"access_key_id": "id", "secret_access_key": "key", "region": "here"}
    return S3Result("team", options={"endpoint": url, **keys}, location="{name}.bin")


def gcs(url):
    account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    return GCSResult("team", options={"service_account_key": json.dumps(account)}, location="{name}.bin")


def azure(url):
    account = {"account_name": "team", "account_key": "a2V5", "endpoint": url}
    return AzureResult("team", options=account, location="{name}.bin")


def http(url):
    return HTTPResult(f"{url}/team", location="{name}.bin")


STORES = [s3, gcs, azure, http]


@pytest.mark.parametrize("make", STORES)
async def test_an_object_is_written_and_read_back(shelf, make):
    result = make(shelf.url)
    assert await result.exists("{name}.bin", name="x") is False
    written = await result.write({1, 2}, name="x")
    assert (written.location, written.value, result.location) == ("x.bin", {1, 2}, "{name}.bin")
    assert [path.rpartition("team/")[2] for path in shelf.objects] == ["x.bin"]
    assert (await make(shelf.url).read("x.bin")).value == {1, 2}
    assert await result.exists("{name}.bin", name="x") is True


@pytest.mark.parametrize("make", STORES)
async def test_a_missing_object_is_named(shelf, make):
    with pytest.raises(ResultNotFound, match=r"gone\.bin"):
        await make(shelf.url).read("gone.bin")


@pytest.mark.parametrize("make", STORES)
async def test_what_the_store_refuses_is_one_error_with_its_cause(shelf, make):
    shelf.broken = True
    result = make(shelf.url)
    for call in (result.write(1, name="x"), result.read("x.bin"), result.exists("x.bin")):
        with pytest.raises(ResultStoreError, match=r"x\.bin.*team") as caught:
            await call
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize("result", [S3Result("b"), GCSResult("b"), AzureResult("c"), HTTPResult("http://localhost")])
async def test_all_kinds_do_the_same_in_memory(result, monkeypatch):
    from obstore.store import MemoryStore

    memory = MemoryStore()
    monkeypatch.setattr(object_stores, "_open_store", lambda *arguments: memory)
    monkeypatch.setattr(object_stores, "_STORES", {})
    written = await result.write([1])
    assert (await result.read(written.location)).value == [1]
    assert await result.exists(written.location) is True
    with pytest.raises(ResultNotFound):
        await result.read("elsewhere")


async def test_results_that_say_the_same_share_a_store(shelf):
    assert s3(shelf.url)._store is s3(shelf.url).copy()._store
    assert s3(shelf.url)._store is not http(shelf.url)._store


async def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setattr(object_stores, "_STORES", {})
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(FlowloopError, match=r"pip install 'flowloop\[objects\]'"):
        await S3Result("b").write(1)


# ---- what was recorded -----------------------------------------------------------------------------


def recorded(written):
    return decode_state(encode_state(Success(result=written)))


@pytest.mark.parametrize("found", [b"", b"short", None], ids=["empty", "cut", "another of its length"])
async def test_a_file_that_is_not_what_was_recorded_is_refused(tmp_path, found):
    written = await LocalResult(tmp_path).write({1, 2})
    file = tmp_path / written.location
    assert recorded(written)._result.size == file.stat().st_size
    for reader in (None, LocalResult(tmp_path), DefaultResult(tmp_path)):
        assert (await recorded(written).load_result(reader)).result == {1, 2}
    file.write_bytes(b"x" * written.size if found is None else found)
    for reader in (None, LocalResult(tmp_path), DefaultResult(tmp_path)):
        with pytest.raises(ResultDamaged, match="does not hold the result that was recorded"):
            await recorded(written).load_result(reader)


async def test_what_nobody_took_the_checksum_of_is_read_as_it_is(tmp_path):
    document = serialize_state(Success(result=await LocalResult(tmp_path).write({1, 2})))
    del document["_result"]["checksum"], document["_result"]["size"]
    assert (await deserialize_state(document).load_result(LocalResult(tmp_path))).result == {1, 2}
    document["_result"] |= {"checksum": "crc:12", "size": 1}  # of a later version
    assert (await deserialize_state(document).load_result(LocalResult(tmp_path))).result == {1, 2}


@pytest.mark.parametrize("make", STORES[:3])
async def test_an_object_that_is_not_what_was_recorded_is_refused(shelf, make):
    result = make(shelf.url)
    written = await result.write({1, 2}, name="x")
    state = recorded(written)
    assert (await recorded(written).load_result(result)).result == {1, 2}
    (key,) = shelf.objects
    shelf.objects[key] += b"."
    with pytest.raises(ResultDamaged, match=r"'x\.bin' in 'team' does not hold"):
        await state.load_result(result)


@pytest.mark.parametrize("kind", [LocalResult, DefaultResult])
@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{name}", "{root}/secret"),
        ("{name}/x", "{root}"),
        ("{root}/results/{name}", "../secret"),
        ("{root}/results/{name}/x", "../.."),
        ("{root}/results/a-{name}", "/../../secret"),
    ],
)
async def test_a_value_in_a_location_chooses_no_file_outside(
    kind: type[LocalResult] | type[DefaultResult], template: str, name: str, tmp_path: Path
) -> None:
    root = str(tmp_path)
    result = kind(tmp_path / "results", location=template.replace("{root}", root))
    value = name.replace("{root}", root)
    with pytest.raises(SerializationError, match="leads out of"):
        await result.write({1}, name=value)
    with pytest.raises(SerializationError, match="leads out of"):
        await result.exists(result.location or "", name=value)
    assert os.listdir(tmp_path) in ([], ["results"])


async def test_an_absolute_template_is_filled_below_its_own_folder(tmp_path: Path) -> None:
    result = LocalResult(tmp_path / "results", location=f"{tmp_path}/elsewhere/{{name}}.bin")
    written = await result.write(1, name="day/one")
    assert written.location == f"{tmp_path}/elsewhere/day/one.bin"
    assert (await result.read(written.location)).value == 1
