"""Which cached results are those of a mapped child, and whose inputs have to be known by their hash."""

from __future__ import annotations

import datetime
import threading

import pytest

from flowloop.engine import task
from flowloop.engine._run.caching import check_known_input, is_of_this_child
from flowloop.engine.cache_validators import all_inputs
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.state import Cached


@pytest.mark.parametrize(
    ("hashed", "recorded_in", "is_its_own"),
    [
        ({"x": "1", "y": "9"}, "before", True),
        ({"x": "2", "y": "1"}, "before", False),
        ({"y": "1"}, "before", False),
        (None, "before", False),
        ({"x": "1"}, "now", False),
    ],
)
def test_a_cached_result_is_a_childs_by_what_tells_it_apart(
    hashed: dict[str, str] | None, recorded_in: str, is_its_own: bool
) -> None:
    cached = Cached(hashed_inputs=hashed, context={"flow_run_id": recorded_in})
    assert is_of_this_child(cached, {"x": "1", "y": "1"}, ["x"], "now") is is_its_own


def test_only_inputs_of_what_is_cached_have_to_be_known_by_their_hash() -> None:
    lock = threading.Lock()
    with pytest.warns(UserWarning, match="nothing is ever cached"):
        plain = task(lambda x: x, name="plain", cache_validator=all_inputs)
    check_known_input(plain, "x", lock)
    kept = task(lambda x: x, name="kept", cache_validator=all_inputs, cache_for=datetime.timedelta(hours=1))
    with pytest.raises(FlowDefinitionError, match="task 'kept'"):
        check_known_input(kept, "x", lock)
