"""Parameters: the type they have, in every process and from wherever they come; and what is refused."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import math
import pathlib
import uuid
import zoneinfo
from typing import Any, NamedTuple

import anyio
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.engine import DateTimeParameter, Flow, Parameter, context, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import FlowDefinitionError, SerializationError
from flowloop.engine.plain import plain, typed, typed_text
from flowloop.engine.serialization import encode_state
from flowloop.engine.testing import run

pytestmark = pytest.mark.virtual_time

UTC = datetime.UTC
NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=UTC)


class Address(pydantic.BaseModel):
    town: str
    zip_code: int = pydantic.Field(alias="zip", default=0)


class Person(pydantic.BaseModel):
    name: str
    lives: Address | None = None


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


@dataclasses.dataclass
class Window:
    days: int
    folder: pathlib.PurePosixPath | None = None
    by: Person | None = None


class Order(msgspec.Struct):
    item: str
    count: int


class Point(NamedTuple):
    x: int
    y: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Odd(enum.Enum):
    PAIR = (1, 2)
    HALF = 0.5


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


TYPED = [
    # type, value, the same from a command line
    (int, 7, "7"),
    (int, 2**70, str(2**70)),
    (float, 1.0, "1"),
    (bool, True, "true"),
    (bool, False, "False"),
    (str, "7", "7"),
    (bytes, b"\xff\x00", "/wA="),
    (list[int], [1, 2], "[1, 2]"),
    (set[int], {1, 2}, "[1, 2]"),
    (frozenset[str], frozenset("a"), '["a"]'),
    (tuple[int, str], (1, "a"), '[1, "a"]'),
    (dict[int, set[int]], {1: {2}}, '{"1": [2]}'),
    (datetime.datetime, NOON, "2024-05-01T12:00:00+00:00"),
    (datetime.datetime, datetime.datetime(2024, 5, 1), "2024-05-01"),
    (datetime.date, datetime.date(2024, 5, 1), "2024-05-01"),
    (datetime.time, datetime.time(1, 2), "01:02"),
    (datetime.timedelta, datetime.timedelta(seconds=90.5), "90.5"),
    (decimal.Decimal, decimal.Decimal("1.50"), "1.50"),
    (fractions.Fraction, fractions.Fraction(1, 3), "1/3"),
    (complex, 1 + 2j, "1+2j"),
    (uuid.UUID, uuid.UUID(int=7), str(uuid.UUID(int=7))),
    (pathlib.PurePosixPath, pathlib.PurePosixPath("a/b"), "a/b"),
    (pathlib.Path, pathlib.Path("a/b"), "a/b"),
    (zoneinfo.ZoneInfo, zoneinfo.ZoneInfo("UTC"), "UTC"),
    (ipaddress.IPv6Address, ipaddress.IPv6Address("::1"), "::1"),
    (Colour, Colour.RED, "red"),
    (Colour, Colour.RED, "RED"),
    (Odd, Odd.PAIR, "PAIR"),
    (Odd, Odd.HALF, "0.5"),
    (Level, Level.LOW, "1"),
    (Right, Right.READ | Right.WRITE, "3"),
    (Window, Window(3, by=Person(name="a")), '{"days": 3, "by": {"name": "a"}}'),
    (Order, Order("nut", 2), '{"item": "nut", "count": 2}'),
    (Point, Point(1, "b"), '[1, "b"]'),
    (Person, Person(name="a", lives=Address(town="b", zip=7)), '{"name": "a", "lives": {"town": "b", "zip": 7}}'),
    (list[Person], [Person(name="a")], '[{"name": "a"}]'),
    (dict[str, pathlib.PurePosixPath], {"in": pathlib.PurePosixPath("a")}, '{"in": "a"}'),
    (Person | int, Person(name="a"), '{"name": "a"}'),
    (Person | int, 3, "3"),
    (Colour | None, Colour.BLUE, "BLUE"),
    (datetime.date | None, datetime.date(2024, 5, 1), "2024-05-01"),
    (int | None, 3, "3"),
]


def ids(value: Any) -> str:
    return getattr(value, "__name__", str(value)) if isinstance(value, type) else "-"


def same(found: Any, value: Any) -> bool:
    return type(found) is type(value) and found == value


@pytest.mark.parametrize(("kind", "value", "text"), TYPED, ids=ids)
def test_a_value_comes_as_itself_as_plain_data_and_as_text(kind, value, text):
    parameter = Parameter("x", type=kind)
    for found in (parameter.cast(value), parameter.cast(plain(value)), parameter.cast(text, from_text=True)):
        assert same(found, value)
    assert same(parameter.restored(parameter.recorded(value)), value)


@pytest.mark.parametrize(("kind", "value", "text"), TYPED, ids=ids)
def test_a_default_may_be_plain_data_too(kind, value, text):
    assert same(Parameter("x", default=plain(value), type=kind).default, value)


class Used:
    """A flow that says what it was given, and which is continued by another runner."""

    def __init__(self, parameter: Any) -> None:
        self.got: list[Any] = []
        self.known: list[Any] = []

        @task(max_retries=1, retry_delay=600)
        async def use(x: Any) -> None:
            self.got.append(x)
            self.known.append(context.parameters["x"])
            if context.task_run_count == 1:
                raise ConnectionError

        with Flow("used") as self.flow:
            use(parameter())

    async def run_twice(self, backend: Any, settings: Any, **given: Any) -> None:
        runner = CloudFlowRunner(self.flow, backend=backend, settings=settings)
        assert not (await runner.run(parameters=given)).is_finished()
        await anyio.sleep(600)
        again = CloudFlowRunner(self.flow, backend=backend, settings=settings)
        assert (await again.run(context={"flow_run_id": runner.flow_run_id})).is_successful()


@pytest.mark.parametrize(("kind", "value", "text"), TYPED, ids=ids)
async def test_it_has_its_type_in_each_process_of_a_recorded_run(memory, settings, kind, value, text):
    used = Used(lambda: Parameter("x", type=kind))
    for one in (value, plain(value)):
        await used.run_twice(memory, settings, x=one)
    assert len(used.got) == 4
    assert all(same(found, value) for found in used.got + used.known)


async def test_a_secret_value_is_in_no_state_and_is_there_for_who_goes_on(memory, settings):
    seen: list[tuple[str, ...]] = []

    @task
    def uses(key: str, keys: tuple[str, ...]) -> None:
        seen.append((key, *keys))
        raise ValueError(f"no {key}")

    with Flow("hush") as flow:
        uses(Parameter("key", secret=True), Parameter("keys", default=("deep sea", "reef"), type=tuple, secret=True))
    known = {"flow_run_id": await create_flow_run(flow, memory, {"key": "coral"}, settings=settings)}
    for _ in range(2):
        state = await CloudFlowRunner(flow, backend=memory, settings=settings).run(context=known)
        assert state.is_failed()
        info = await memory.get_flow_run_info(known["flow_run_id"])
        told = b"".join(encode_state(one.state) for one in info.task_runs)
        assert not any(hidden in told for hidden in (b"coral", b"deep sea", b"reef"))
        await memory.restart_flow_run(known["flow_run_id"])
    assert seen == [("coral", "deep sea", "reef")] * 2


@pytest.mark.parametrize(
    ("value", "recorded"),
    [(NOON, "2024-05-01T12:00:00Z"), ((1, 2), [1, 2]), (Colour.RED, "red"), ({1: 2}, {"1": 2}), (Order("a", 1), None)],
)
async def test_without_a_type_it_is_what_json_makes_of_it_in_each(memory, settings, value, recorded):
    used = Used(lambda: Parameter("x"))
    await used.run_twice(memory, settings, x=value)
    assert used.got[0] == used.got[1] == used.known[0] == (recorded or {"item": "a", "count": 1})


@pytest.mark.parametrize("value", [NOON, (1, 2), Colour.RED, {1: 2}, 3, "a"])
async def test_the_default_is_the_default_in_each(memory, settings, value):
    used = Used(lambda: Parameter("x", default=value))
    await used.run_twice(memory, settings)
    assert all(same(found, value) for found in used.got + used.known)


NOT_FINITE = [math.nan, math.inf, -math.inf, [math.nan], {"a": (1, math.inf)}, Window(math.nan)]  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NOT_FINITE, ids=repr)
@pytest.mark.parametrize("kind", [Any, "its own"])
async def test_what_json_has_no_number_for_is_refused_when_the_run_is_created(memory, settings, value, kind):
    with Flow("numbers") as flow:
        Parameter("x", type=kind if kind is Any else type(value))
    for start in (
        lambda: create_flow_run(flow, memory, {"x": value}, settings=settings),
        lambda: CloudFlowRunner(flow, backend=memory, settings=settings).run(parameters={"x": value}),
    ):
        with pytest.raises(FlowDefinitionError, match="'x'"):
            await start()
    assert await memory.list_flow_runs(10) == []


async def test_so_is_a_default_that_is_none(memory, settings):
    with Flow("numbers") as flow:
        Parameter("x", default=math.nan)
    with pytest.raises(SerializationError, match=r"'x'.*nan"):
        await create_flow_run(flow, memory, settings=settings)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_without_a_record_they_are_numbers_as_any_other(value):
    @task
    async def use(x: float) -> str:
        return repr(x)

    with Flow("numbers") as flow:
        used = use(Parameter("x", type=float))
    assert run(flow.run({"x": value})).result[used].result == repr(value)


async def test_a_secret_that_would_come_back_as_stars_is_refused(memory, settings):
    with Flow("login") as flow:
        Parameter("login", type=Login)
    with pytest.raises(FlowDefinitionError, match="'login' cannot be recorded"):
        await create_flow_run(flow, memory, {"login": {"user": "a", "password": "b"}}, settings=settings)


@pytest.mark.parametrize("value", [object(), {"a": object()}, print, b"\xff".__iter__()])
async def test_what_json_cannot_carry_is_refused_by_name(memory, settings, value):
    with Flow("objects") as flow:
        Parameter("x")
    with pytest.raises(FlowDefinitionError, match="'x' cannot be recorded"):
        await create_flow_run(flow, memory, {"x": value}, settings=settings)


WRONG = [
    (int, "many"),
    (int, 1.5),
    (int, True),
    (int, None),
    (datetime.datetime, "soon"),
    (datetime.datetime, 5),
    (datetime.date, NOON),
    (Colour, "green"),
    (Colour, "RED"),  # a name is for people
    (Odd, [2, 1]),
    (Person, {"name": 3}),
    (Person, Address(town="a")),
    (pathlib.Path, 3),
    (Window, {"day": 3}),
    (list[Person], [{}]),
]


@pytest.mark.parametrize(("kind", "value"), WRONG, ids=lambda value: ids(value))
def test_a_value_of_another_type_is_one_line_that_names_the_parameter(kind, value):
    with pytest.raises(FlowDefinitionError, match="parameter 'x'") as refused:
        Parameter("x", type=kind).cast(value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("kind", "text"), [(datetime.datetime, "2024"), (datetime.date | None, "7"), (list[int], "1")])
def test_a_number_on_the_command_line_is_no_time_and_no_list(kind, text):
    with pytest.raises(FlowDefinitionError, match="'x'"):
        Parameter("x", type=kind).cast(text, from_text=True)


@pytest.mark.parametrize("kind", [int | Order | Window, "int", dict[Order, Person] | set[Order]])
def test_a_type_that_cannot_be_made_of_plain_data_is_refused_at_once(kind):
    with pytest.raises(FlowDefinitionError, match="parameter 'x' cannot have the type"):
        Parameter("x", type=kind)


def test_none_is_a_value_only_where_it_is_the_default_or_of_the_type():
    assert Parameter("x", required=False, type=int).cast(None) is None
    assert Parameter("x", type=int | None).cast(None) is None
    with pytest.raises(FlowDefinitionError, match="None is not int"):
        Parameter("x", default=3, type=int).cast(None)


def test_a_parameter_that_is_made_in_vain_is_refused():
    for wrong in ({"name": ""}, {"name": 3}, {"name": "x", "default": 1, "required": True}):
        with pytest.raises(FlowDefinitionError, match="parameter"):
            Parameter(**wrong)
    x = Parameter("x")
    with pytest.raises(FlowDefinitionError, match="outside a flow"):
        x()
    with Flow("f") as flow:
        assert x() is x
        with pytest.raises(FlowDefinitionError, match="takes no inputs"):
            x(1)
    assert flow.parameters() == {x}
    assert repr(x) == "<Parameter: x>"


def test_a_copy_under_another_name_reads_its_own_values():
    x = Parameter("x", type=set[int])
    y = x.copy("y")
    assert (y.name, y.slug, x.copy().name) == ("y", "y", "x")
    assert y.restored([1]) == {1}
    assert y.result is not x.result


# -- times ---------------------------------------------------------------------------------------------

TIMES = [
    (NOON, NOON),
    (datetime.datetime(2024, 5, 1, 12), NOON),
    ("2024-05-01T12:00:00", NOON),
    ("2024-05-01T12:00:00Z", NOON),
    (" 2024-05-01T14:00:00+02:00 ", NOON),
    ("2024-05-01", NOON.replace(hour=0)),
]


@pytest.mark.parametrize(("given", "time"), TIMES)
@pytest.mark.parametrize("from_text", [False, True])
def test_a_time_is_aware(given, time, from_text):
    found = DateTimeParameter("x").cast(given, from_text=from_text)
    assert found == time
    assert found.tzinfo is not None
    assert DateTimeParameter("x", default=given).default == time


@pytest.mark.parametrize("given", ["soon", "", 7, True, datetime.date(2024, 5, 1), None])
def test_what_is_no_time_is_refused_by_name(given):
    with pytest.raises(FlowDefinitionError, match="'x'"):
        DateTimeParameter("x").cast(given)


def test_a_time_is_required_unless_said_otherwise():
    assert DateTimeParameter("x").required is True
    assert DateTimeParameter("x", True).required is True
    assert DateTimeParameter("x", default=NOON).required is False
    optional = DateTimeParameter("x", False, tags=["t"])
    assert (optional.required, optional.default, optional.tags, optional.cast(None)) == (False, None, {"t"}, None)
    with pytest.raises(FlowDefinitionError, match="'x'"):
        DateTimeParameter("x", default="soon")


def test_a_flow_takes_a_time_as_text_and_says_what_is_missing():
    @task
    async def use(x: Any) -> Any:
        return x

    with Flow("times") as flow:
        used = use(DateTimeParameter("x"))
        optional = use(DateTimeParameter("y", required=False))
    state = run(flow.run({"x": "2024-05-01T12:00:00"}))
    assert (state.result[used].result, state.result[optional].result) == (NOON, None)
    with pytest.raises(FlowDefinitionError, match="needs the parameter 'x'"):
        run(flow.run())


@pytest.mark.parametrize("given", [NOON, "2024-05-01T12:00:00", datetime.datetime(2024, 5, 1, 12)])
async def test_it_is_a_time_in_each_process_of_a_recorded_run(memory, settings, given):
    used = Used(lambda: DateTimeParameter("x"))
    await used.run_twice(memory, settings, x=given)
    assert used.got == used.known == [NOON, NOON]


# -- plain data ----------------------------------------------------------------------------------------

ELEMENTS = st.one_of(
    st.tuples(st.just(int), st.integers()),
    st.tuples(st.just(float), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just(str), st.text(st.characters(codec="utf-8"))),
    st.tuples(st.just(bytes), st.binary()),
    st.tuples(st.just(datetime.datetime), st.datetimes(timezones=st.just(UTC))),
    st.tuples(st.just(datetime.date), st.dates()),
    st.tuples(st.just(datetime.timedelta), st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999))),
    st.tuples(st.just(decimal.Decimal), st.decimals(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just(fractions.Fraction), st.fractions()),
    st.tuples(st.just(uuid.UUID), st.uuids()),
    st.tuples(st.just(Colour), st.sampled_from(Colour)),
    st.tuples(st.just(Person), st.builds(Person, name=st.text(st.characters(codec="utf-8")))),
)


@given(ELEMENTS, st.sampled_from(["bare", "list", "tuple", "dict", "optional"]))
def test_plain_data_says_the_value(element, shape):
    kind, value = element
    kind, value = {
        "bare": (kind, value),
        "list": (list[kind], [value, value]),  # type: ignore[valid-type]
        "tuple": (tuple[kind, int], (value, 1)),  # type: ignore[valid-type]
        "dict": (dict[str, kind], {"a": value}),  # type: ignore[valid-type]
        "optional": (kind | None, value),
    }[shape]
    data = plain(value)
    assert msgspec.json.decode(msgspec.json.encode(data)) == data
    assert same(typed(data, kind), value)
    if not isinstance(data, str):
        assert same(typed_text(msgspec.json.encode(data).decode(), kind), value)


# -- schedules and documents ---------------------------------------------------------------------------


async def test_what_a_schedule_gives_is_recorded_as_any_other_parameter(memory, settings):
    from flowloop.engine.schedules import Schedule
    from flowloop.engine.schedules.clocks import IntervalClock

    def scheduled(defaults: dict[str, Any]) -> Flow:
        clock = IntervalClock(datetime.timedelta(hours=1), parameter_defaults=defaults)
        with Flow("scheduled", schedule=Schedule([clock])) as flow:
            Parameter("x", default=0.0, type=float)
        return flow

    found = scheduled({"x": pathlib.PurePosixPath("a")}).serialize()["schedule"]["clocks"][0]["parameter_defaults"]
    assert found == {"x": "a"}
    with pytest.raises(SerializationError, match=r"schedule.*nan"):
        await create_flow_run(scheduled({"x": math.nan}), memory, settings=settings)


async def test_each_process_has_a_default_of_its_own(memory, settings):
    default = {"seen": [1]}
    used = Used(lambda: Parameter("x", default=default))
    await used.run_twice(memory, settings)
    assert used.got == [default, default]
    assert all(one is not default and one["seen"] is not default["seen"] for one in used.got)
