"""Values that are given to a flow run, held to what is recorded of its parameters."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from pathlib import Path
from typing import Any, Literal

import pytest

from flowloop.engine import Parameter
from flowloop.engine.errors import BackendRejected, FlowDefinitionError
from flowloop.engine.given import check_given, from_text


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Window:
    days: int
    names: list[str] | None = None
    inner: Window | None = None


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


TYPES = {
    str(kind): kind
    for kind in (
        *(int, float, str, bool, bytes, Path, object, Colour, Level, Window),
        *(datetime.datetime, datetime.date, datetime.timedelta, decimal.Decimal, uuid.UUID),
        *(list[int], set[str], tuple[int, str], tuple[float, ...], dict[str, int], dict[int, bool], list[Window]),
        *(int | None, int | str, list[int] | None, Window | None, Literal["a", 2]),
        *(Rights, Rights | None, dict[str, Rights]),
    )
}
VALUES: list[Any] = [
    *(None, True, 0, 1, 2, 3, 1.5, "", "a", "1", "red", "RED", "2020-01-01", "2020-01-01T00:00:00Z", "PT1S"),
    *("c0ffee00-0000-4000-8000-000000000000", [], [1], [1, "a"], ["a"], [None], {}, {"a": 1}, {"1": True}, {"a": 3}),
    *({"days": 1}, {"days": "x"}, {"names": []}, {"days": 1, "names": ["a"]}, {"days": 1, "inner": {"days": None}}),
    [{"days": 1}],
]
WORDS = {"date-time", "date", "duration", "decimal", "uuid"}


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_what_the_type_takes_is_let_through_and_what_has_another_shape_is_not(kind: Any) -> None:
    parameter = Parameter("p", type=kind)
    document = parameter.serialize()
    for value in VALUES:
        try:
            parameter.cast(value)
        except FlowDefinitionError:
            # A schema does not tell which text is a date, and tells nothing of a type that has none.
            if "schema" in document and not isinstance(value, str) and kind is not datetime.date:
                with pytest.raises(BackendRejected, match="parameter 'p': "):
                    check_given([document], {"p": value})
        else:
            check_given([document], {"p": value})


def test_a_default_of_nothing_may_be_given() -> None:
    check_given([Parameter("p", type=int, default=None).serialize()], {"p": None})
    with pytest.raises(BackendRejected, match="null is not an integer"):
        check_given([Parameter("p", type=int, default=1).serialize()], {"p": None})


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (str, "5", "5"),
        (int, "5", 5),
        (list[str], '["5"]', ["5"]),
        (Any, "5", 5),
        (Any, "five", "five"),
        (datetime.datetime, "2020-01-01", "2020-01-01"),
        (int | None, "null", None),
        (int, "five", "five"),  # which is refused, with what was written
    ],
)
def test_a_text_is_what_its_parameter_takes(kind: Any, text: str, value: Any) -> None:
    assert from_text(Parameter("p", type=kind).serialize(), text) == value
