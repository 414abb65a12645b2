"""What a cached result is filed under, and which run may be served with it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, Parameter, context, task, unmapped
from flowloop.engine import cache_validators as validators
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import FlowDefinitionError
from flowloop.engine.hashing import hash_input
from flowloop.engine.state import Cached, Failed, State, TriggerFailed
from flowloop.engine.testing import run

HOUR = datetime.timedelta(hours=1)


class Connection:
    """Something that no hash can be taken of."""


def of_nothing(state: Cached, inputs: dict[str, Any], parameters: dict[str, Any]) -> bool:
    return True


BLIND = {
    "the default": None,
    "duration_only": validators.duration_only,
    "all_parameters": validators.all_parameters,
    "partial_parameters_only": validators.partial_parameters_only(["p"]),
    "partial_inputs_only of nothing": validators.partial_inputs_only(),
}
"""Validators that look at no input."""


def query_with(validator: Callable[..., Any] | None, ran: list[int]) -> Any:
    @task(cache_for=HOUR, cache_validator=validator)
    async def query(conn: Any, n: int) -> int:
        ran.append(n)
        return n * 10

    return query


@pytest.mark.parametrize(
    "validator",
    [*BLIND.values(), validators.partial_inputs_only(["n"]), of_nothing],
    ids=[*BLIND, "partial_inputs_only", "own"],
)
def test_an_input_that_does_not_count_needs_no_hash(validator):
    with Flow("query") as flow:
        rows = query_with(validator, [])(Connection(), 4)
    state = run(flow.run())
    assert type(state.result[rows]) is Cached
    assert state.result[rows].result == 40


@pytest.mark.parametrize(
    ("validator", "hashed"),
    [(one, set()) for one in BLIND.values()]
    + [(validators.all_inputs, {"conn", "n"}), (validators.partial_inputs_only(["n"]), {"n"}), (of_nothing, {"n"})],
)
def test_only_what_the_validator_looks_at_is_hashed(validator, hashed):
    conn = 1 if "conn" in hashed else Connection()
    with Flow("query") as flow:
        rows = query_with(validator, [])(conn, 4)
    assert set(run(flow.run()).result[rows].hashed_inputs) == hashed


def test_a_validator_may_say_itself_what_it_looks_at():
    def of_the_number(state: Cached, inputs: dict[str, Any], parameters: dict[str, Any]) -> bool:
        return state.hashed_inputs == {"n": hash_input(inputs["n"])}

    of_the_number.looks_at = ("n",)  # type: ignore[attr-defined]
    with Flow("query") as flow:
        rows = query_with(of_the_number, [])(Connection(), 4)
    assert set(run(flow.run()).result[rows].hashed_inputs) == {"n"}


@pytest.mark.parametrize("validator", [validators.all_inputs, validators.partial_inputs_only(["conn"])])
def test_a_constant_that_counts_and_has_no_hash_is_named_while_the_flow_is_built(validator):
    with Flow("query") as flow, pytest.raises(FlowDefinitionError, match=r"'query'.*'conn'.*Connection"):
        query_with(validator, [])(Connection(), 4)
    assert flow.constants == {}


def test_so_is_the_default_of_a_parameter():
    with Flow("query") as flow:
        conn = Parameter("conn", default=Connection())
        with pytest.raises(FlowDefinitionError, match=r"'query'.*'conn'.*Connection"):
            query_with(validators.all_inputs, [])(conn, 4)
    assert flow.edges_from(conn) == set()


def test_any_other_input_is_named_before_the_body():
    @task
    async def connected() -> Connection:
        return Connection()

    ran: list[int] = []
    with Flow("query") as flow:
        rows = query_with(validators.all_inputs, ran)(connected(), 4)
    state = run(flow.run())
    assert type(state.result[rows]) is Failed
    assert "'query'" in state.result[rows].message
    assert "'conn'" in state.result[rows].message
    assert ran == []


def test_the_trigger_has_its_say_first():
    @task
    async def broken() -> None:
        raise ValueError

    with Flow("query") as flow:
        rows = query_with(validators.all_inputs, [])(broken(), 4)
    assert type(run(flow.run()).result[rows]) is TriggerFailed


def test_a_body_that_changes_its_input_does_not_change_what_its_result_is_filed_under():
    @task(cache_for=HOUR, cache_validator=validators.all_inputs, max_retries=1, retry_delay=0)
    async def longest(words: list[str]) -> int:
        words.append("sentinel")
        if context.task_run_count == 1:
            raise ConnectionError
        return len(words)

    with Flow("longest") as flow:
        found = longest(Parameter("words"))
    first = run(flow.run({"words": ["a"]})).result[found]
    assert first.hashed_inputs == {"words": hash_input(["a"])}


# -- mapped children -----------------------------------------------------------------------------------


def squares(validator: Callable[..., Any] | None, numbers: list[int], late: int | None = None) -> tuple[Flow, Any]:
    @task(cache_for=HOUR, cache_validator=validator, max_retries=1, retry_delay=300)
    async def square(n: int, unit: str) -> int:
        if n == late and context.task_run_count == 1:
            raise ConnectionError
        return n * n

    with Flow("squares") as flow:
        made = square.map(numbers, unmapped("m"))
    return flow, made


COUNTING = {**BLIND, "all_inputs": validators.all_inputs, "others": validators.partial_inputs_only(["unit"])}


@pytest.mark.parametrize("validator", COUNTING.values(), ids=COUNTING)
@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_child_that_is_retried_late_gets_its_own_result(validator, late):
    flow, made = squares(validator, [1, 2, 3], late)
    assert run(flow.run()).result[made].result == [1, 4, 9]


@pytest.mark.parametrize("validator", COUNTING.values(), ids=COUNTING)
def test_each_child_of_a_later_recorded_run_gets_its_own_result(validator):
    async def main() -> list[State]:
        async with connect("memory://") as backend:
            found = []
            for numbers in ([1, 2, 3], [3, 2, 1]):
                flow, made = squares(validator, numbers)
                state = await CloudFlowRunner(flow, backend=backend).run()
                found.append(state.result[made])
            return found

    first, second = asyncio.run(main())
    assert (first.result, second.result) == ([1, 4, 9], [9, 4, 1])


def test_no_child_is_served_within_its_own_run_not_even_with_the_same_input():
    ran: list[int] = []

    @task(cache_for=HOUR, max_retries=1, retry_delay=300)
    async def draw(n: int) -> int:
        ran.append(n)
        if len(ran) == 2:
            raise ConnectionError
        return len(ran)

    with Flow("draw") as flow:
        drawn = draw.map([7, 7])
    assert run(flow.run()).result[drawn].result == [1, 3]


def test_an_element_without_a_hash_is_named_before_the_first_body():
    @task
    async def connected() -> list[Any]:
        return [1, Connection()]

    ran: list[Any] = []

    @task(cache_for=HOUR)
    async def use(conn: Any) -> None:
        ran.append(conn)

    with Flow("use") as flow:
        used = use.map(connected())
    state = run(flow.run()).result[used]
    assert type(state) is Failed
    assert "'use'" in state.message
    assert "'conn'" in state.message
    assert ran == []


# -- what serves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("validator", [*BLIND.values(), validators.all_inputs])
def test_a_validator_takes_none_for_no_inputs_and_no_parameters(validator):
    state = Cached(hashed_inputs={}, cached_parameters=None)
    assert (validator or validators.duration_only)(state, None, None) is True


async def test_a_stored_result_that_cannot_be_read_lets_the_body_run(tmp_path):
    from flowloop.engine.results import LocalResult

    class Moody(LocalResult):
        async def read(self, location: str) -> Any:
            raise KeyError(location)

    ran: list[int] = []

    @task(cache_for=HOUR, result=Moody(tmp_path))
    async def dear() -> list[object]:
        ran.append(1)
        return [len(ran)]

    with Flow("dear") as flow:
        made = dear()
    async with connect("memory://") as backend:
        for n in (1, 2):
            state = await CloudFlowRunner(flow, backend=backend).run()
            assert state.is_successful()
            assert len(ran) == n
    caches = {"dear": [Cached(result=Moody(tmp_path, location="gone"))]}
    state = await flow.run(context={"caches": caches})
    assert state.result[made].result == [3]
