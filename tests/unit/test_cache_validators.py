"""Cache validators: when a cached result may serve."""

from __future__ import annotations

import datetime

import pytest

from flowloop.engine.cache_validators import (
    all_inputs,
    all_parameters,
    duration_only,
    never_use,
    partial_inputs_only,
    partial_parameters_only,
)
from flowloop.engine.context import context
from flowloop.engine.errors import SerializationError
from flowloop.engine.hashing import hash_inputs
from flowloop.engine.result import Result
from flowloop.engine.serialization import decode_state, encode_state
from flowloop.engine.state import Cached

NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


class Noon:
    def now(self):
        return NOON


@pytest.fixture(autouse=True)
def at_noon():
    with context(clock=Noon()):
        yield


INPUTS, PARAMETERS = {"x": 1, "y": [2]}, {"p": "a", "q": None}


def cached(expiration: datetime.datetime | None = None, **kwargs) -> Cached:
    defaults = {"hashed_inputs": hash_inputs(INPUTS), "cached_parameters": dict(PARAMETERS)}
    return Cached(cached_result_expiration=expiration, **{**defaults, **kwargs})


ALL = [
    duration_only,
    all_inputs,
    all_parameters,
    partial_inputs_only(),
    partial_inputs_only(["x"]),
    partial_parameters_only(),
    partial_parameters_only(["p"]),
]


@pytest.mark.parametrize("validator", ALL)
@pytest.mark.parametrize(
    ("expiration", "serves"),
    [(None, True), (NOON + SECOND, True), (NOON, False), (NOON - SECOND, False)],
)
def test_all_look_at_the_expiration_first(validator, expiration, serves):
    assert validator(cached(expiration), INPUTS, PARAMETERS) is serves


def test_never_use_never_serves():
    assert never_use(cached(), INPUTS, PARAMETERS) is False


@pytest.mark.parametrize(
    ("inputs", "all_of_them", "only_x", "none_of_them"),
    [
        (INPUTS, True, True, True),
        ({"x": 1, "y": [3]}, False, True, True),
        ({"x": 2, "y": [2]}, False, False, True),
        ({"x": 1}, False, True, True),
        ({"y": [2]}, False, False, True),
        ({"x": 1, "y": [2], "z": 0}, False, True, True),
        ({"x": 1.0, "y": [2]}, False, False, True),
    ],
)
def test_inputs_are_compared_by_their_hashes(inputs, all_of_them, only_x, none_of_them):
    state = cached()
    assert all_inputs(state, inputs, PARAMETERS) is all_of_them
    assert partial_inputs_only(["x"])(state, inputs, PARAMETERS) is only_x
    assert partial_inputs_only()(state, inputs, PARAMETERS) is none_of_them


def test_hashes_win_over_values():
    values = {name: Result(value) for name, value in INPUTS.items()}
    assert all_inputs(cached(hashed_inputs=None, cached_inputs=values), INPUTS, {}) is True
    assert all_inputs(cached(hashed_inputs=None, cached_inputs=values), {"x": 2, "y": [2]}, {}) is False
    assert all_inputs(cached(hashed_inputs={}, cached_inputs=values), INPUTS, {}) is False
    assert all_inputs(cached(hashed_inputs={}), {}, {}) is True


def test_an_input_without_a_hash_is_refused_by_name_only_where_it_counts():
    inputs = {"x": 1, "y": object()}
    with pytest.raises(SerializationError, match="'y'"):
        all_inputs(cached(), inputs, PARAMETERS)
    assert partial_inputs_only(["x"])(cached(), inputs, PARAMETERS) is True


@pytest.mark.parametrize(
    ("parameters", "all_of_them", "only_p"),
    [
        (PARAMETERS, True, True),
        ({"p": "a", "q": 1}, False, True),
        ({"p": "b", "q": None}, False, False),
        ({}, False, False),
    ],
)
def test_parameters_are_compared_by_value(parameters, all_of_them, only_p):
    assert all_parameters(cached(), INPUTS, parameters) is all_of_them
    assert partial_parameters_only(["p"])(cached(), INPUTS, parameters) is only_p
    assert partial_parameters_only()(cached(), INPUTS, parameters) is True


def test_parameters_that_came_back_from_a_backend_are_still_equal():
    parameters = {"p": (1, 2), "day": NOON, "words": {"a"}}
    state = decode_state(encode_state(cached(cached_parameters=parameters)))
    assert isinstance(state, Cached)
    assert state.cached_parameters != parameters
    assert all_parameters(state, {}, parameters) is True
    assert all_parameters(state, {}, {**parameters, "p": (1, 3)}) is False
    assert all_parameters(state, {}, {"p": object()}) is False


def test_a_name_instead_of_a_list_of_names_is_refused():
    for factory in (partial_inputs_only, partial_parameters_only):
        with pytest.raises(TypeError, match="list of names"):
            factory("x")
