"""The hash of inputs: equal where values are equal, different where they differ, the same in every process."""

from __future__ import annotations

import abc
import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import time
import uuid
import zoneinfo
from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloop.engine.errors import SerializationError
from flowloop.engine.hashing import _BY_NAME, _EXACT, hash_input, hash_inputs

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(),
    st.decimals(allow_nan=False),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Tell whether two values are equal all the way down, types included; NaN is equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, collections.OrderedDict):
        return same([*a.items()], [*b.items()])
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            any(same(key, other) and same(value, b[other]) for other in b) for key, value in a.items()
        )
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(same(one, other) for other in b) for one in a)
    if isinstance(a, (float, np.floating)):
        return bool(a != a and b != b) or (bool(a == b) and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, complex):
        return same((a.real, a.imag), (b.real, b.imag))
    if isinstance(a, decimal.Decimal):
        return str(a) == str(b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and same(a.ravel().tolist(), b.ravel().tolist())
    if isinstance(a, pd.MultiIndex):
        return same(list(a.names), list(b.names)) and same(a.tolist(), b.tolist())
    if isinstance(a, (pd.Index, pd.Series)):
        parts = [(one.name, str(one.dtype), one.tolist()) for one in (a, b)]
        return same(*parts) and (isinstance(a, pd.Index) or same(a.index, b.index)) and same(*map(categories, (a, b)))
    if isinstance(a, pd.DataFrame):
        return same(a.columns, b.columns) and all(same(a.iloc[:, n], b.iloc[:, n]) for n in range(a.shape[1]))
    if a is pd.NA or a is pd.NaT:
        return True
    if isinstance(a, np.generic):
        return same(a.item(), b.item()) and a.dtype == b.dtype
    return bool(a == b)


def categories(column: Any) -> Any:
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return None
    return column.dtype.categories.tolist(), column.dtype.ordered


@given(VALUES, VALUES)
def test_hashes_are_equal_exactly_where_values_are(a, b):
    assert (hash_input(a) == hash_input(b)) == same(a, b)


@given(st.lists(st.tuples(st.text(), st.integers()), unique_by=lambda pair: pair[0]), st.randoms())
def test_the_order_of_dicts_and_sets_does_not_matter(pairs, rng):
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert hash_input(dict(pairs)) == hash_input(dict(shuffled))
    assert hash_input(set(pairs)) == hash_input(set(shuffled)) != hash_input(frozenset(pairs))
    assert hash_input(frozenset(pairs)) == hash_input(frozenset(shuffled))


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: float
    y: float
    cache: object = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass
class Vector:
    x: float
    y: float


class Order(msgspec.Struct):
    item: str
    count: int


Pair = collections.namedtuple("Pair", "a b")


class Name(str):
    pass


@attrs.define
class Part:
    number: int
    note: str = attrs.field(default="", eq=False)


@attrs.frozen(cache_hash=True)
class Key:
    number: int


class Config(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 1
    _seen: int = pydantic.PrivateAttr(default=0)


class Open(msgspec.Struct, dict=True):
    a: int


class Right(enum.Flag):
    READ = 1
    WRITE = 2


DIFFERENT = [
    *(fractions.Fraction(1), fractions.Fraction(1, 2), fractions.Fraction(2, 1), Part(1), Part(2), Config(), Open(1)),
    *(1, 1.0, True, "1", b"1", 1j, decimal.Decimal(1), decimal.Decimal("1.0"), Level.LOW, np.int64(1), np.float64(1)),
    *(None, ..., "", b"", [], (), set(), {}, float("nan"), 0.0, -0.0, math.inf),
    *([1, 2], (1, 2), {1, 2}, [[1], 2], [1, [2]], [2, 1], Pair(1, 2), range(1, 3), np.array([1, 2])),
    *({"a": 1}, {"a": 2}, {"b": 1}, {1: "a"}, collections.OrderedDict(a=1), [("a", 1)]),
    *("ab", ["a", "b"], Name("ab"), pathlib.Path("ab"), b"ab", bytearray(b"ab")),
    *(Colour.RED, Colour.BLUE, Colour, int, str),
    *(Point(1, 2), Point(2, 1), Vector(1, 2), Order("a", 1), Order("b", 1)),
    *(datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)),
    *(datetime.time(1), datetime.timedelta(hours=1), zoneinfo.ZoneInfo("UTC"), datetime.UTC, uuid.UUID(int=1)),
    *(
        np.array([1, 2], dtype="int8"),
        np.array([[1, 2]]),
        np.array([1, "a"], dtype=object),
        np.datetime64("2024-01-01"),
    ),
    *(pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [2, 1]}), pd.DataFrame({"b": [1, 2]})),
    pd.DataFrame({"a": [1, 2]}, index=["x", "y"]),
    pd.DataFrame({"a": [1, 2], "b": [3, 4]}),
    pd.DataFrame({"b": [3, 4], "a": [1, 2]}),
    *(pd.Series([1, 2]), pd.Series([1, 2], name="a"), pd.Series(["u", "v"], dtype="category"), pd.Index([1, 2])),
    *(pd.NA, pd.NaT, pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-01 00:00:00.000000001")),
]


def test_different_values_have_different_hashes():
    hashes = [hash_input(value) for value in DIFFERENT]
    twice = [DIFFERENT[i] for i, one in enumerate(hashes) if hashes.index(one) != i]
    assert twice == []


def test_a_copy_has_the_same_hash():
    for value in DIFFERENT:
        assert hash_input(copy.deepcopy(value)) == hash_input(value), value


def test_fields_that_do_not_count_for_equality_do_not_count():
    assert hash_input(Point(1, 2, cache=object())) == hash_input(Point(1, 2))


# -- pairs that nearly are one -------------------------------------------------------------------------


class Metres(list[int]):
    unit = "m"


class Slotted(list[int]):
    __slots__ = ("unit",)


class Masked(str):
    def __str__(self) -> str:
        return "***"

    def encode(self, *args: Any) -> bytes:  # type: ignore[override]
        return b"***"


class Several(dict[str, list[int]]):
    def items(self) -> Any:
        return [(key, values[0]) for key, values in dict.items(self)]


class InOrder(dict[str, int]):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, InOrder) and list(self.items()) == list(other.items())

    __hash__ = None  # type: ignore[assignment]


class Array(np.ndarray):  # type: ignore[type-arg]
    unit = ""


class Child(Point):
    def __init__(self, more: int) -> None:
        super().__init__(1, 2)
        self.more = more


class Ordered(collections.OrderedDict[str, int]):
    pass


class Moment(datetime.datetime):
    note = ""


def having(value: Any, **attributes: Any) -> Any:
    for name, held in attributes.items():
        setattr(value, name, held)
    return value


def index(*names: str, ordered: bool = False) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples([(1, 2)], names=names)


def categorical(*categories: str, ordered: bool = False) -> pd.CategoricalDtype:
    return pd.CategoricalDtype(categories, ordered=ordered)


def frame(**attributes: Any) -> pd.DataFrame:
    found = pd.DataFrame({"a": [1]})
    found.attrs.update(attributes)
    return found


BERLIN, PARIS = zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Europe/Paris")
TWICE = datetime.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN)
ONE, TWO = datetime.timedelta(hours=1), datetime.timedelta(hours=2)

NEAR: dict[str, tuple[Any, Any]] = {
    "nesting": ([[1], 2], [[1, 2]]),
    "nesting of tuples": (((1,), 2), ((1, 2),)),
    "empty nests": ([[], []], [[[]]]),
    "where one text ends": (["a", "b"], ["ab", ""]),
    "where one number ends": ([1, 23], [12, 3]),
    "fractions": (fractions.Fraction(1, 2), fractions.Fraction(2, 1)),
    "attrs": (Part(1), Part(2)),
    "an attribute of a list": (having(Metres([1]), unit="m"), having(Metres([1]), unit="km")),
    "an attribute or none": (Metres([1]), having(Metres([1]), unit="m")),
    "a slot of a list": (having(Slotted([1]), unit="m"), having(Slotted([1]), unit="km")),
    "an attribute of an array": (np.array([1]).view(Array), having(np.array([1]).view(Array), unit="m")),
    "an attribute of a time": (Moment(2024, 1, 1), having(Moment(2024, 1, 1), note="x")),
    "an attribute of a dataclass": (Point(1, 2), having(Point(1, 2), more=1)),
    "an attribute of its subclass": (Child(1), Child(2)),
    "an attribute of a struct": (Open(1), having(Open(1), more=1)),
    "extras of a model": (Config(rate=0.1), Config(rate=0.9)),
    "an extra or none": (Config(), Config(rate=0.1)),
    "a private attribute of a model": (Config(), having(Config(), _seen=1)),
    "a text that shows something else": (Masked("a"), Masked("b")),
    "a dict that shows something else": (Several(a=[1, 2]), Several(a=[1, 3])),
    "the order of an OrderedDict": (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)),
    "the order of its subclass": (Ordered(a=1, b=2), Ordered(b=2, a=1)),
    "the order of a dict that compares it": (InOrder(a=1, b=2), InOrder(b=2, a=1)),
    "what a dict makes up": (collections.defaultdict(int, a=1), collections.defaultdict(list, a=1)),
    "counts": (collections.Counter("ab"), collections.Counter("abb")),
    "a flag of several": (Right.READ | Right.WRITE, Right.READ),
    "the part of a number that is none": (complex(math.nan, 1), complex(math.nan, 2)),
    "time zones of one name": (datetime.timezone(ONE, "X"), datetime.timezone(TWO, "X")),
    "an hour that there is twice": (TWICE, TWICE.replace(tzinfo=PARIS)),
    "an hour that there is twice, with an offset": (TWICE, TWICE.replace(tzinfo=datetime.timezone(TWO))),
    "nanoseconds of a duration": (pd.Timedelta(nanoseconds=1), pd.Timedelta(nanoseconds=2)),
    "nanoseconds of a time": (pd.Timestamp(1), pd.Timestamp(2)),
    "NumPy's units": (np.timedelta64(1, "s"), np.timedelta64(1, "ms")),
    "categories": (pd.Series(["a"], dtype=categorical("a", "b")), pd.Series(["a"], dtype=categorical("a", "c"))),
    "their order": (pd.Series(["a"], dtype=categorical("a", "b")), pd.Series(["a"], dtype=categorical("b", "a"))),
    "whether they have one": (
        pd.Series(["a"], dtype=categorical("a")),
        pd.Series(["a"], dtype=categorical("a", ordered=True)),
    ),
    "categories of an index": (pd.CategoricalIndex(["a"], ["a", "b"]), pd.CategoricalIndex(["a"], ["a", "c"])),
    "names of levels": (index("a", "b"), index("a", "c")),
    "the name of an index": (pd.Index([1], name="a"), pd.Index([1], name="b")),
    "the frequency of times": (
        pd.date_range("2024", periods=2),
        pd.DatetimeIndex(["2024-01-01", "2024-01-02"]),
    ),
    "attributes of a frame": (frame(unit="m"), frame(unit="km")),
    "attributes or none": (frame(), frame(unit="m")),
    "names of fields of objects": (
        np.array([(1, "a")], dtype=[("x", object), ("y", object)]),
        np.array([(1, "a")], dtype=[("z", object), ("y", object)]),
    ),
    "texts of NumPy": (np.array(["a"], dtype=np.dtypes.StringDType()), np.array(["b"], dtype=np.dtypes.StringDType())),
    "the shape of an array": (np.array([[1, 2]]), np.array([[1], [2]])),
    "a default that is unset": (Point(1, 2), Point.__new__(Point)),
}


@pytest.mark.parametrize(("one", "other"), NEAR.values(), ids=NEAR)
def test_what_is_nearly_equal_has_another_hash(one, other):
    assert hash_input(one) != hash_input(other)
    assert hash_input([one]) != hash_input([other])


def local() -> type:
    class Local:
        pass

    return Local


class Frame(pd.DataFrame):
    _metadata = ["crs"]


@pytest.mark.parametrize(
    "value",
    [time.gmtime(0), os.stat("."), Frame({"a": [1]}), local(), having(Metres([1]), unit=object())],
    ids=["the time of the system", "what it knows of a file", "a frame with more", "a class", "an attribute"],
)
def test_what_holds_more_than_can_be_seen_is_refused(value):
    with pytest.raises(SerializationError, match="cannot hash the input"):
        hash_input(value)


def test_what_is_only_kept_at_hand_does_not_count():
    @dataclasses.dataclass
    class Square:
        side: int

        @functools.cached_property
        def area(self) -> int:
            return self.side**2

    used = Square(2)
    assert used.area == 4
    assert hash_input(used) == hash_input(Square(2))
    key = Key(1)
    assert hash(key) == hash(Key(1))
    assert hash_input(key) == hash_input(Key(1))
    path = pathlib.PurePosixPath("a/b")
    assert str(path) + str(hash(path)) != ""
    assert hash_input(path) == hash_input(pathlib.PurePosixPath("a/b"))
    assert hash_input(Part(1, "x")) == hash_input(Part(1, "y"))
    assert hash_input(collections.Counter("ab")) == hash_input(collections.Counter("ba"))


# -- every type it knows -------------------------------------------------------------------------------

FEW = st.sampled_from([0, 1, -1])
FLOATS = st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf])
WORDS = st.text("ab", max_size=2)
HOURS = st.integers(-1, 1).map(lambda n: datetime.timedelta(hours=n))
DTYPES = st.sampled_from(["int8", "int64", "float64", "object", "datetime64[ns]", "datetime64[s]", "U2"])
ARRAYS = st.tuples(st.lists(FEW, max_size=3), DTYPES).map(lambda drawn: np.array(drawn[0]).astype(drawn[1]))
COLUMNS = st.one_of(
    st.lists(FEW, min_size=2, max_size=2).map(pd.Series),
    st.tuples(st.permutations(["a", "b"]), st.booleans()).map(
        lambda drawn: pd.Series(["a", "b"], dtype=categorical(*drawn[0], ordered=drawn[1]))
    ),
    st.lists(WORDS, min_size=2, max_size=2).map(pd.Series),
)
INDEXES = st.one_of(
    st.tuples(st.lists(FEW, max_size=2), WORDS).map(lambda drawn: pd.Index(drawn[0], name=drawn[1])),
    st.tuples(WORDS, FEW).map(lambda drawn: pd.MultiIndex.from_tuples([(1, drawn[1])], names=["a", drawn[0]])),
    st.integers(0, 2).map(pd.RangeIndex),
)
MASKS = st.integers(0, 1).map(lambda n: np.ma.MaskedArray([1, 2], mask=[n, 0]))

KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "NoneType": st.none(),
    "ellipsis": st.just(...),
    "bool": st.booleans(),
    "int": FEW,
    "float": FLOATS,
    "complex": st.builds(complex, FLOATS, FLOATS),
    "str": WORDS,
    "bytes": WORDS.map(str.encode),
    "bytearray": WORDS.map(lambda text: bytearray(text.encode())),
    "Decimal": st.sampled_from(["0", "-0", "1", "1.0", "NaN", "Infinity"]).map(decimal.Decimal),
    "Fraction": st.builds(fractions.Fraction, FEW, st.integers(1, 3)),
    "datetime": st.builds(
        datetime.datetime,
        st.just(2024),
        st.just(10),
        st.sampled_from([26, 27]),
        st.integers(1, 3),
        tzinfo=st.sampled_from([None, datetime.UTC, BERLIN, PARIS, datetime.timezone(ONE)]),
        fold=st.integers(0, 1),
    ),
    "date": st.dates(datetime.date(2024, 1, 1), datetime.date(2024, 1, 3)),
    "time": st.builds(datetime.time, st.integers(0, 1), tzinfo=st.sampled_from([None, datetime.UTC])),
    "timedelta": HOURS,
    "timezone": st.builds(datetime.timezone, HOURS, WORDS),
    "PurePath": st.sampled_from(["a", "a/b", "b", "A"]).map(pathlib.PurePosixPath),
    "type": st.sampled_from([int, str, Point, Colour, abc.ABC]),
    "range": st.builds(range, FEW, FEW),
    "Counter": WORDS.map(collections.Counter),
    "OrderedDict": st.dictionaries(WORDS, FEW, max_size=2).map(collections.OrderedDict),
    "defaultdict": st.builds(collections.defaultdict, st.sampled_from([int, list]), st.dictionaries(WORDS, FEW)),
    "UUID": st.integers(0, 2).map(lambda n: uuid.UUID(int=n)),
    "ZoneInfo": st.sampled_from([BERLIN, PARIS]),
    "ndarray": ARRAYS,
    "generic": st.one_of(FEW.map(np.int8), FLOATS.map(np.float64), WORDS.map(np.str_), FEW.map(np.int64)),
    "MaskedArray": MASKS,
    "DataFrame": st.dictionaries(WORDS, COLUMNS, max_size=2).map(pd.DataFrame),
    "Series": COLUMNS,
    "Index": INDEXES,
    "Timestamp": st.integers(0, 2).map(pd.Timestamp),
    "Timedelta": st.integers(0, 2).map(pd.Timedelta),
    "NAType": st.just(pd.NA),
    "NaTType": st.just(pd.NaT),
    # known by what they are made of
    "an enum": st.sampled_from([*Colour, *Level, *Right, Right.READ | Right.WRITE, Right(0)]),
    "a dataclass": st.builds(Point, FEW, FLOATS),
    "an attrs class": st.builds(Part, FEW),
    "a struct": st.builds(Order, WORDS, FEW),
    "a model": st.builds(Config, a=FEW, more=FEW) | st.builds(Config, a=FEW),
    "a subclass": st.builds(lambda held, unit: having(Metres(held), unit=unit), st.lists(FEW, max_size=1), WORDS),
}
CONTAINERS = {"list", "tuple", "set", "frozenset", "dict"}


KEYS = st.one_of(*(KNOWN[kind] for kind in ("NoneType", "bool", "int", "float", "str", "bytes", "Fraction", "an enum")))
PARTS = st.one_of(KEYS, *(KNOWN[kind] for kind in ("datetime", "Decimal", "a dataclass", "a model", "a subclass")))


def within(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=2),
        st.tuples(inner, inner),
        st.lists(KEYS, max_size=2).map(set),
        st.lists(KEYS, max_size=2).map(frozenset),
        st.dictionaries(KEYS, inner, max_size=2),
    )


NESTED = within(PARTS) | within(within(PARTS))


def test_no_type_is_left_out():
    fed = {kind.__name__ for kind in _EXACT} | {name.rpartition(".")[2] for name in _BY_NAME}
    assert fed - CONTAINERS <= KNOWN.keys()


def hashed(value: Any) -> str | None:
    try:
        return hash_input(value)
    except SerializationError:
        return None


def check(a: Any, b: Any) -> None:
    first, second = hashed(a), hashed(b)
    if first is not None and not same_deeply(a, b):
        assert first != second
    assert hashed(copy.deepcopy(a)) == first


def same_deeply(a: Any, b: Any) -> bool:
    if type(a) is type(b) and isinstance(a, (Point, Part, Metres, Config)):
        return same(shown(a), shown(b))
    if type(a) is type(b) and isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_deeply, a, b))
    return same(a, b)


def shown(value: Any) -> Any:
    if isinstance(value, Metres):
        return [*value], value.unit
    if isinstance(value, Config):
        return value.model_dump()
    return dataclasses.astuple(value) if isinstance(value, Point) else attrs.astuple(value)


@pytest.mark.parametrize("kind", KNOWN)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_values_of_one_type_that_differ_have_two_hashes(kind: str, data: st.DataObject):
    a, b = data.draw(KNOWN[kind]), data.draw(KNOWN[kind])
    check(a, b)
    check([a, b], [b, a])


@given(NESTED, NESTED)
@settings(deadline=None)
def test_values_within_each_other_do(a: Any, b: Any):
    check(a, b)


# -- written down --------------------------------------------------------------------------------------

GOLDEN = pathlib.Path(__file__).with_name("golden_hashes.json")

WRITTEN_DOWN: dict[str, Any] = {
    "none": None,
    "numbers": [0, -1, 2**100, True, 1.5, -0.0, math.nan, math.inf, 1 + 2j],
    "text": ["", "a", "ä", "\ud800", b"", b"\xff", bytearray(b"a")],
    "exact numbers": [decimal.Decimal("1.10"), fractions.Fraction(1, 3)],
    "times": [
        datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), TWICE, datetime.date(2024, 1, 1), datetime.time(1, 2, 3),
        datetime.timedelta(1, 2, 3), datetime.UTC, BERLIN,
    ],
    "containers": [[], [1, [2]], (1, 2), {1, 2, 3}, frozenset("ab"), {"b": 1, "a": [2]}, range(3)],
    "kinds of dict": [
        collections.OrderedDict(b=1, a=2), collections.Counter("aab"), collections.defaultdict(int, a=1)
    ],
    "names": [pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:/a"), uuid.UUID(int=7), int, Colour],
    "enums": [Colour.RED, Level.LOW, Right.READ | Right.WRITE],
    "records": [Point(1, 2), Part(1), Key(1), Order("a", 1), Pair(1, 2), Config(a=2, rate=0.5)],
    "subclasses": [Name("a"), having(Metres([1]), unit="km")],
    "arrays": [np.array([1, 2], dtype="<i8"), np.array([[1.5]], dtype="<f8"), np.array(["a", 1], dtype=object)],
    "scalars": [np.int8(1), np.float64(1.5), np.datetime64("2024-01-01", "D"), np.bool_(True)],
}  # fmt: skip
"""What the hashes are written down of, in the file beside this one: another hash there would make every stored cache
useless, silently.
"""


def test_no_release_changes_a_hash_unnoticed():
    assert {name: hash_input(value) for name, value in WRITTEN_DOWN.items()} == json.loads(GOLDEN.read_text())


PROGRAM = """
import datetime, decimal, enum, pathlib, sys, uuid
from flowloop.engine.hashing import hash_input
print(hash_input({"b": [1, 2.5, None], "a": {"x", "y", "z"},
    "t": (datetime.datetime(2024, 1, 1), decimal.Decimal("1.10")),
    "p": pathlib.PurePosixPath("/a"), "u": uuid.UUID(int=7), "e": b"\\x00", 5: True}))
"""


def test_a_class_may_move_within_its_library(monkeypatch):
    path = pathlib.PurePosixPath("a")
    before = hash_input(path)
    monkeypatch.setattr(pathlib.PurePosixPath, "__module__", "pathlib._elsewhere")
    assert hash_input(path) == before


def test_the_hash_is_the_same_in_every_process_and_version():
    hashes = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert hashes == {"e2f5aaa569dd10bc43406cd3e2d0618e"}


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        (object(), "rows", "builtins.object"),
        (len, "rows", "builtins.builtin_function_or_method"),
        (lambda: 0, "rows", "builtins.function"),
        ([1, {"k": (print,)}], r"rows\[1\]\['k'\]\[0\]", "builtins.builtin_function_or_method"),
        ({1: {(2, sys)}}, r"rows\[1\]\{…\}\[1\]", "builtins.module"),
        ({object(): 1}, r"rows\{…\}", "builtins.object"),
        (Point(1, [object()]), r"rows\.y\[0\]", "builtins.object"),
        (pd.DataFrame({"a": [object()]}), r"rows\['a'\]\[0\]", "builtins.object"),
        (np.ma.MaskedArray([1, 2], mask=[0, 1]), "rows", "numpy.ma.MaskedArray"),
        ((x for x in ()), "rows", "builtins.generator"),
    ],
)
def test_what_has_no_stable_hash_is_refused_by_name(value, path, kind):
    with pytest.raises(SerializationError, match=rf"input 'rows': {path} is of type {kind},"):
        hash_inputs({"fine": 1, "rows": value})


def test_what_contains_itself_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(SerializationError, match="contains itself"):
        hash_input(loop)


def test_inputs_are_hashed_by_name():
    assert hash_inputs({"a": 1, "b": 2}) == {"a": hash_input(1), "b": hash_input(2)}
