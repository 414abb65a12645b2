"""Small parts that class-based tasks and their results rely on."""

from __future__ import annotations

import base64
import datetime
import gzip
import math
import pickle
import types
from typing import Any

import pytest

from flowloop.engine import EnvVarSecret, Flow, FlowRunner, Secret, Task, context, tags, task
from flowloop.engine.errors import SerializationError
from flowloop.engine.operators import GetAttr, GetItem
from flowloop.engine.result import Result
from flowloop.engine.results import LocalResult, PrefectResult
from flowloop.engine.serializers import CompressedSerializer, JSONSerializer, PickleSerializer
from flowloop.engine.state import Cached, Failed, State, Success
from flowloop.engine.testing import run

DAY = datetime.timedelta(days=1)
EVE = datetime.datetime(2023, 12, 31, 12, tzinfo=datetime.UTC)


# -- loggers -------------------------------------------------------------------------------------------


def test_a_task_has_a_logger_whose_lines_say_whose_they_are(caplog):
    class Greet(Task):
        def run(self) -> None:
            self.logger.warning("hello from %s", "inside")

    with Flow("greeting") as flow:
        Greet(name="greet")()
    with caplog.at_level("WARNING"):
        assert run(flow.run()).is_successful()
    [line] = [record for record in caplog.records if "hello" in record.getMessage()]
    assert (line.getMessage(), line.task_name, line.flow_name) == ("hello from inside", "greet", "greeting")


def test_a_task_may_have_a_logger_of_its_own():
    own = object()

    class Greet(Task):
        def __init__(self) -> None:
            super().__init__()
            self.logger = own

        def run(self) -> bool:
            return self.logger is own

    with Flow("greeting") as flow:
        greeted = Greet()()
    assert run(flow.run()).result[greeted].result is True


# -- parts of values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("getter", "part", "given", "found"),
    [
        (GetAttr(), "street.name", {}, "High Street"),
        (GetAttr(), "street", {}, types.SimpleNamespace(name="High Street")),
        (GetAttr(default=7), "town", {}, 7),
        (GetAttr(default=None), "street.number", {}, None),
        (GetAttr(), "town", {"default": 8}, 8),
        (GetAttr(default=7), "town", {"default": 8}, 8),
        (GetItem(), "a", {}, 1),
        (GetItem(default=7), "b", {}, 7),
        (GetItem(), "b", {"default": None}, None),
    ],
)
def test_a_part_of_a_value_or_a_default(getter, part, given, found):
    @task
    async def customer() -> Any:
        if isinstance(getter, GetItem):
            return {"a": 1}
        return types.SimpleNamespace(street=types.SimpleNamespace(name="High Street"))

    with Flow("parts") as flow:
        got = getter(customer(), part, **given)
    assert run(flow.run()).result[got].result == found


@pytest.mark.parametrize(("getter", "error"), [(GetAttr(), AttributeError), (GetItem(), TypeError)])
def test_without_a_default_a_missing_part_is_an_error(getter, error):
    with Flow("parts") as flow:
        got = getter(7, "town")
    assert isinstance(run(flow.run()).result[got].result, error)


# -- secrets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "found"),
    [
        (EnvVarSecret("PORT_OF_IT"), "80"),
        (EnvVarSecret("PORT_OF_IT", cast=int), 80),
        (EnvVarSecret("PORT_OF_IT", int, True, name="port"), 80),
        (EnvVarSecret(name="PORT_OF_IT"), "80"),
        (EnvVarSecret("PORT_OF_NOTHING"), None),
        (EnvVarSecret("PORT_OF_NOTHING", cast=int), None),
        (EnvVarSecret("PORT_OF_IT", raise_if_missing=True), "80"),
    ],
)
def test_a_secret_of_the_environment(monkeypatch, secret, found):
    monkeypatch.setenv("PORT_OF_IT", "80")
    with Flow("secrets") as flow:
        got = secret()
    assert run(flow.run()).result[got].result == found


def test_one_that_has_to_be_there_is_named_where_it_is_not():
    with Flow("secrets") as flow:
        got = EnvVarSecret("PORT_OF_NOTHING", name="port", raise_if_missing=True)()
    state = run(flow.run()).result[got]
    assert type(state) is Failed
    assert isinstance(state.result, ValueError)
    assert "'port'" in state.message
    assert "PORT_OF_NOTHING" in state.message


@pytest.mark.parametrize("kind", [EnvVarSecret, Secret])
def test_a_secret_may_be_named_when_the_task_is_called(monkeypatch, kind):
    monkeypatch.setenv("PORT_OF_IT", "80")
    with Flow("secrets") as flow:
        got = kind()(task(lambda: "PORT_OF_IT", name="chosen")())
        other = kind("PORT_OF_NOTHING")(name="PORT_OF_IT")
        unnamed = kind()()
    found = run(flow.run(context={"secrets": {"PORT_OF_IT": "80"}})).result
    assert found[got].result == found[other].result == "80"
    assert isinstance(found[unnamed].result, ValueError)
    assert f"task '{kind.__name__}' was not told which secret" in found[unnamed].message


# -- serializers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [None, "bz2", "gzip", "lzma", "zlib"])
def test_each_format_of_compression_comes_back(format):
    serializer = CompressedSerializer(PickleSerializer(), format)
    assert serializer.deserialize(serializer.serialize([1, {"a": 2}])) == [1, {"a": 2}]


def test_compression_may_be_by_functions_and_take_arguments():
    by_functions = CompressedSerializer(JSONSerializer(), compress=gzip.compress, decompress=gzip.decompress)
    assert by_functions.deserialize(by_functions.serialize([1])) == [1]
    fast, small = (CompressedSerializer(PickleSerializer(), "zlib", compress_kwargs={"level": n}) for n in (0, 9))
    assert len(small.serialize("a" * 999)) < len(fast.serialize("a" * 999))
    assert small != fast
    assert small == CompressedSerializer(PickleSerializer(), compress_kwargs={"level": 9})


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "zip"},
        {"compress": gzip.compress},
        {"decompress": gzip.decompress},
        {"format": "gzip", "compress": gzip.compress, "decompress": gzip.decompress},
    ],
)
def test_compression_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="format"):
        CompressedSerializer(PickleSerializer(), **wrong)


def test_pickles_in_base64_are_read_too():
    assert PickleSerializer().deserialize(base64.b64encode(pickle.dumps({"a": 1}))) == {"a": 1}
    for neither in (b"", b"abcd", base64.b64encode(b"abcd"), base64.b64encode(b"\x80abcd")):
        with pytest.raises(SerializationError, match="cannot unpickle"):
            PickleSerializer().deserialize(neither)


@pytest.mark.parametrize("value", [[math.nan], {"a": [None, math.inf]}, -math.inf, None, "null", [1.5, None]])
async def test_json_keeps_what_is_no_number_of_json(value):
    stored = await PrefectResult().write(value)
    for found in (
        JSONSerializer().deserialize(JSONSerializer().serialize(value)),
        (await PrefectResult().read(stored.location)).value,
    ):
        assert repr(found) == repr(value)
    assert await PrefectResult().exists(stored.location)


# -- locations -----------------------------------------------------------------------------------------


async def test_a_function_may_return_a_template(tmp_path):
    def place(**known: Any) -> str:
        return "{n}/" + known["flow_name"] + ".pickle"

    @task(target=place, result=LocalResult(tmp_path))
    async def made(n: int) -> int:
        return n

    with Flow("places") as flow:
        done = made(3)
    state = await FlowRunner(flow).run(context={"checkpointing": True})
    assert state.result[done]._result.location == str(tmp_path / "3" / "places.pickle")
    assert Result(location=lambda **known: "{a}").format(a=1).location == "1"
    with pytest.raises(SerializationError, match="function of a result's location gave 5, which is no text"):
        Result(location=lambda **known: 5).format()


async def test_a_reader_says_where_a_cached_input_is_that_does_not_know(tmp_path):
    stored = await LocalResult(tmp_path).write(7)
    state = Success(cached_inputs={"x": Result(), "y": Result(1), "z": Result()})
    await state.load_cached_results({"x": LocalResult(tmp_path, location=stored.location), "z": LocalResult(tmp_path)})
    assert {name: result.value for name, result in state.cached_inputs.items()} == {"x": 7, "y": 1, "z": None}


# -- the context ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("day", [EVE, EVE.date(), EVE.isoformat(), EVE.date().isoformat()])
def test_a_day_that_is_given_moves_the_days_around_it(day):
    @task
    async def days() -> Any:
        return [context[name] for name in ("today", "yesterday", "tomorrow", "tomorrow_nodash")]

    with Flow("days") as flow:
        told = days()
    expected = ["2023-12-31", "2023-12-30", "2024-01-01", "20240101"]
    assert run(flow.run(context={"date": day})).result[told].result == expected
    given = run(flow.run(context={"date": day, "today": "a holiday"})).result[told].result
    assert given == ["a holiday", *expected[1:]]


def test_a_day_that_is_none_moves_nothing():
    @task
    async def day() -> Any:
        return context.today, context.date

    with Flow("days") as flow:
        told = day()
    assert run(flow.run(context={"date": "the day after"})).result[told].result == ("2024-01-01", "the day after")


def test_the_context_gives_copies_of_what_it_holds():
    with context(mine=1):
        for copied in (context.copy(), context.to_dict()):
            copied["mine"] = 2
            assert (type(copied), context.mine) == (dict, 1)


@pytest.mark.parametrize("outer", [["a", "b"], ("a", "b"), {"a", "b"}, frozenset("ab")])
def test_tags_of_the_context_come_as_any_collection(outer):
    with context(tags=outer):
        made = Task(name="made", tags=["c"])
        with tags("d"):
            inner = made.copy()
    assert (made.tags, inner.tags) == ({"a", "b", "c"}, {"a", "b", "c", "d"})


# -- errors of handlers --------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["task", "task runner", "flow", "flow runner"])
async def test_an_error_of_a_handler_comes_through_where_errors_do(owner):
    def broken(whose: Any, old: State, new: State) -> None:
        if new.is_finished():
            raise KeyError("broken")

    handlers = {name: [broken] if name == owner else [] for name in ("task", "task runner", "flow", "flow runner")}

    @task(state_handlers=handlers["task"])
    async def plain() -> None: ...

    with Flow("handled", state_handlers=handlers["flow"]) as flow:
        plain()
    runner = FlowRunner(flow, state_handlers=handlers["flow runner"])
    with pytest.raises(KeyError, match="broken"):
        await runner.run(context={"raise_on_exception": True}, task_runner_state_handlers=handlers["task runner"])


def broken(*args: Any, **kwargs: Any) -> Any:
    raise KeyError("broken")


class Unreadable(list[int]):
    __len__ = broken


@pytest.mark.parametrize(
    "changes",
    [
        {"trigger": broken},
        {"task_run_name": broken},
        {"target": broken, "result": LocalResult()},
        {"cache_for": DAY, "cache_validator": broken},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_so_does_one_of_any_other_function_that_is_called_for_a_task(changes):
    with Flow("asked") as flow:
        plain = task(lambda: 1, name="plain", **changes)()
    known = {plain: Cached()} if "cache_for" in changes else {}
    with pytest.raises(KeyError, match="broken"):
        await FlowRunner(flow).run(task_states=known, context={"raise_on_exception": True})


async def test_so_does_one_of_what_is_mapped_over():
    with Flow("mapped") as flow:
        task(lambda x: x).map(task(lambda: Unreadable())())
    with pytest.raises(KeyError, match="broken"):
        await FlowRunner(flow).run(context={"raise_on_exception": True})


# -- cached results that are let go --------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True])
def test_a_result_that_serves_later_runs_is_not_let_go(mapped):
    from flowloop.engine.context import now
    from flowloop.engine.schedules import Schedule
    from flowloop.engine.schedules.clocks import DatesClock

    ran: list[int] = []
    used: list[Any] = []

    @task(cache_for=9 * DAY)
    async def dear(n: int) -> list[int]:
        ran.append(n)
        return [n]

    @task
    async def use(found: Any) -> None:
        used.append(found)

    async def main() -> None:
        with Flow("scheduled", schedule=Schedule([DatesClock([now() + n * DAY for n in (1, 2, 3)])])) as flow:
            use(dear.map([1, 2]) if mapped else dear(1))
        assert (await flow.run(runner_options={"release_results": True})).is_successful()

    run(main())
    assert used == [[[1], [2]] if mapped else [1]] * 3
    assert len(ran) == (2 if mapped else 1)


def test_a_cached_state_that_is_served_again_is_another_one():
    @task(cache_for=DAY)
    async def dear() -> int:
        return 1

    with Flow("cached") as flow:
        made = dear()
    kept = Cached(result=5)
    state = run(flow.run(context={"caches": {"dear": [kept]}}, runner_options={"release_results": True}))
    assert state.result[made] is not kept
    assert (state.result[made].result, kept.result) == (5, 5)
