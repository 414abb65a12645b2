"""Serializers: each is its own inverse, and says what it cannot take."""

from __future__ import annotations

import builtins
import dataclasses
import datetime
import enum
import fractions
import threading

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloop.engine.errors import SerializationError
from flowloop.engine.plain import typed
from flowloop.engine.results import LocalResult
from flowloop.engine.serializers import (
    ArrowSerializer,
    CompressedSerializer,
    DateTimeSerializer,
    JSONSerializer,
    PandasSerializer,
    PickleSerializer,
    Serializer,
)

NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FINITE | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_json_values_come_back(value):
    for serializer in (PickleSerializer(), JSONSerializer(), CompressedSerializer(JSONSerializer())):
        assert serializer.deserialize(serializer.serialize(value)) == value


def test_pickle_takes_what_has_no_name():
    add = PickleSerializer().deserialize(PickleSerializer().serialize(lambda n: n + 1))
    assert add(1) == 2


@dataclasses.dataclass
class Made:
    n: int


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(("plain", "kind"), [({"n": 1}, Made), ("red", Colour)])
def test_pickle_takes_classes_of_a_script_that_were_the_type_of_a_parameter(plain, kind, monkeypatch):
    monkeypatch.setattr(kind, "__module__", "__main__")  # as in a script: then the class itself is in the pickle
    value = typed(plain, kind)
    found = PickleSerializer().deserialize(PickleSerializer().serialize([value]))
    assert repr(found) == repr([value])
    assert typed(plain, kind) == value


@pytest.mark.parametrize("format", ["zlib", "bz2", "lzma"])
def test_compression(format):
    serializer = CompressedSerializer(PickleSerializer(), format=format)
    data = serializer.serialize("x" * 10_000)
    assert len(data) < 500
    assert serializer.deserialize(data) == "x" * 10_000


def test_times():
    serializer = DateTimeSerializer()
    assert serializer.deserialize(serializer.serialize(NOON)) == NOON


FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})


@pytest.mark.parametrize("file_type", ["csv", "parquet"])
def test_pandas(file_type):
    serializer = PandasSerializer(file_type)
    pd.testing.assert_frame_equal(serializer.deserialize(serializer.serialize(FRAME)), FRAME)


@pytest.mark.parametrize("table", [pa.table({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]})])
def test_arrow(table):
    serializer = ArrowSerializer()
    assert serializer.deserialize(serializer.serialize(table)).to_pydict() == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("serializer", "value", "kind"),
    [
        (PickleSerializer(), threading.Lock(), "lock"),
        (JSONSerializer(), object(), "object"),
        (JSONSerializer(), "\udc80", "str"),
        (JSONSerializer(), {1, 2}, "set"),
        (JSONSerializer(), [datetime.datetime(2024, 1, 1)], "datetime"),
        (JSONSerializer(), fractions.Fraction(1, 3), "Fraction"),
        (DateTimeSerializer(), "noon", "str"),
        (PandasSerializer(), [1], "list"),
        (ArrowSerializer(), 5, "int"),
        (CompressedSerializer(JSONSerializer()), object(), "object"),
    ],
)
def test_a_value_that_cannot_be_written_is_refused_by_type(serializer, value, kind):
    with pytest.raises(SerializationError, match=kind):
        serializer.serialize(value)


@pytest.mark.parametrize(
    "serializer",
    [
        PickleSerializer(),
        JSONSerializer(),
        DateTimeSerializer(),
        CompressedSerializer(JSONSerializer()),
        PandasSerializer(),
        ArrowSerializer(),
    ],
)
def test_other_bytes_are_refused(serializer):
    with pytest.raises(SerializationError):
        serializer.deserialize(b"\xff\x00 nonsense")


def test_serializers_are_equal_by_their_settings():
    assert JSONSerializer() == JSONSerializer() != PickleSerializer()
    assert CompressedSerializer(JSONSerializer()) == CompressedSerializer(JSONSerializer())
    assert CompressedSerializer(JSONSerializer()) != CompressedSerializer(PickleSerializer())
    assert PandasSerializer("csv") != PandasSerializer("parquet")
    assert PandasSerializer("csv", {"sep": ";"}) != PandasSerializer("csv")


class Reversed(Serializer):
    def __init__(self, times):
        self.times = times

    def serialize(self, value):
        return value[::-1].encode()

    def deserialize(self, value):
        return value.decode()[::-1]


def test_serializers_of_ones_own_are_equal_by_their_settings_too():
    assert Reversed(1) == Reversed(1) != Reversed(2)
    assert isinstance(Reversed(1), Serializer)
    assert not isinstance("text", Serializer)
    assert LocalResult(serializer=Reversed(1)) == LocalResult(serializer=Reversed(1))


def test_pandas_is_given_further_arguments():
    serializer = PandasSerializer("csv", {"sep": ";", "index_col": 0}, {"sep": ";", "index": True})
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    assert serializer.serialize(frame).splitlines()[1:] == [b"x;1", b"y;2"]
    pd.testing.assert_frame_equal(serializer.deserialize(serializer.serialize(frame)), frame)


@pytest.mark.parametrize(
    "wrong", [lambda: CompressedSerializer(JSONSerializer(), "rar"), lambda: PandasSerializer("xls")]
)
def test_a_wrong_format_is_refused(wrong):
    with pytest.raises(ValueError, match=r"not '(rar|xls)'"):
        wrong()


def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", lambda name: without_pyarrow(name))
    with pytest.raises(SerializationError, match=r"pip install 'flowloop\[pandas\]'"):
        ArrowSerializer().serialize(pa.table({"a": [1]}))
