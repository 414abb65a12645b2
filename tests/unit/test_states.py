"""The tree of states: predicates, equality, wrappers, what they take from the context, pickling."""

from __future__ import annotations

import datetime
import pickle
import sys
import threading

import cloudpickle
import pytest

from flowloop.engine import state as states
from flowloop.engine.context import context
from flowloop.engine.result import NoResult, Result
from flowloop.engine.results import LocalResult, PrefectResult
from flowloop.engine.state import (
    Cached,
    Cancelled,
    Cancelling,
    ClientFailed,
    Failed,
    Finished,
    Looped,
    Mapped,
    Paused,
    Pending,
    Queued,
    Resume,
    Retrying,
    Running,
    Scheduled,
    Skipped,
    State,
    Submitted,
    Success,
    TimedOut,
    TriggerFailed,
    ValidationFailed,
)

NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
ALL = [getattr(states, name) for name in states.__all__ if name != "State"]

PREDICATES = {
    "pending": {Pending, Scheduled, Paused, Resume, Retrying},
    "queued": {Queued},
    "retrying": {Retrying},
    "running": {Running, Cancelling},
    "cached": {Cached},
    "finished": {
        *(Finished, Success, Cached, Mapped, Skipped, Cancelled, Looped),
        *(Failed, TimedOut, TriggerFailed, ValidationFailed),
    },
    "looped": {Looped},
    "scheduled": {Scheduled, Paused, Resume, Retrying, Queued},
    "submitted": {Submitted},
    "skipped": {Skipped},
    "successful": {Success, Cached, Mapped, Skipped},
    "failed": {Failed, TimedOut, TriggerFailed, ValidationFailed},
    "mapped": {Mapped},
    "meta_state": {Submitted, Queued, ClientFailed},
}


@pytest.mark.parametrize("predicate", PREDICATES)
def test_predicates(predicate):
    assert {cls for cls in ALL if getattr(cls(), f"is_{predicate}")()} == PREDICATES[predicate]


def test_every_state_has_a_colour():
    assert all(cls.color.startswith("#") and len(cls.color) == 7 for cls in ALL)


def test_children_and_parents_hide_private_classes():
    assert set(State.children(include_self=True, names_only=True)) >= {"State", "Queued", "TimedOut"}
    assert "_MetaState" not in State.children(names_only=True)
    assert Retrying.parents(names_only=True) == ["Scheduled", "Pending", "State"]
    assert Queued.parents(include_self=True) == [Queued, State]
    assert set(Failed.children()) >= {TimedOut, TriggerFailed, ValidationFailed}


# ---- as values -------------------------------------------------------------------------------------


def test_equality_looks_at_type_result_and_attributes_but_not_at_message_and_context():
    assert Success("a", result=1, context={"x": 1}) == Success("b", result=1)
    assert Success(result=1) != Success(result=2)
    assert Success(result=1) != Finished(result=1)
    assert Scheduled(start_time=NOON) != Scheduled(start_time=NOON + datetime.timedelta(1))
    assert Retrying(start_time=NOON, run_count=1) != Retrying(start_time=NOON, run_count=2)
    assert Cached(hashed_inputs={"a": "x"}) != Cached(hashed_inputs={"a": "y"})
    assert Success(cached_inputs={"a": Result(1)}) != Success(cached_inputs={"a": Result(2)})
    assert Looped(loop_count=1) != Looped(loop_count=2)
    assert Mapped(map_states=[Success(result=1)]) != Mapped(map_states=[Success(result=2)])
    assert Queued(state=Success(), start_time=NOON) != Queued(state=Failed(), start_time=NOON)
    assert Success() != "Success"


def test_the_hash_is_identity():
    a, b = Success(), Success()
    assert a == b
    assert len({a, b}) == 2


def test_repr():
    assert repr(Success("done")) == '<Success: "done">'
    assert repr(Running()) == "<Running>"
    assert repr(Running("")) == '<Running: "">'


def test_the_result_unwraps_and_wraps():
    state = Success(result=1)
    assert (state.result, type(state._result)) == (1, Result)
    state.result = 2
    assert (state.result, state._result.value) == (2, 2)
    given = PrefectResult(3)
    state.result = given
    assert state._result is given
    assert Success()._result is NoResult
    assert Success().result is None
    assert Success(result=None)._result is not NoResult


def test_the_size_counts_what_is_held():
    assert sys.getsizeof(Success(result="x" * 10_000)) > sys.getsizeof(Success()) + 9_000


# ---- start times and counts ------------------------------------------------------------------------


class Clock:
    def now(self):
        return NOON


def test_a_missing_start_time_is_now_and_stays_missing_only_for_paused():
    with context(clock=Clock()):
        assert [cls().start_time for cls in (Scheduled, Resume, Retrying, Queued)] == [NOON] * 4
        assert Paused().start_time is None
        assert Paused(start_time=NOON).start_time == NOON


@pytest.mark.parametrize("kind", [Scheduled, Paused, Queued, Retrying])
def test_a_time_is_a_time(kind):
    with pytest.raises(TypeError, match="a time is a datetime, not 'tomorrow'"):
        kind(start_time="tomorrow")


def test_a_naive_time_is_utc():
    naive = NOON.replace(tzinfo=None)
    assert Scheduled(start_time=naive).start_time == NOON
    assert Queued(start_time=naive).start_time == NOON
    assert Cached(cached_result_expiration=naive).cached_result_expiration == NOON


def test_counts_come_from_the_context():
    assert (Retrying().run_count, Looped().loop_count) == (1, 1)
    with context(task_run_count=3, task_loop_count=4):
        assert (Retrying().run_count, Looped().loop_count) == (3, 4)
        assert (Retrying(run_count=0).run_count, Looped(loop_count=0).loop_count) == (0, 0)
        assert Scheduled().context == Retrying().context == Paused().context == {"task_run_count": 3}
        assert Pending().context == Running().context == {}


@pytest.mark.parametrize(("tags", "stored"), [({"b", "a"}, ["a", "b"]), (set(), [])])
def test_every_state_made_in_a_task_carries_its_tags(tags, stored):
    with context(task_tags=tags):
        assert all(cls().context["tags"] == stored for cls in ALL)
        assert Success(context={"tags": ["own"]}).context["tags"] == ["own"]
    assert "tags" not in Success().context


def test_two_states_never_share_a_context():
    Success().context["x"] = 1
    assert Success().context == {}


# ---- wrappers and mapped states --------------------------------------------------------------------


def test_wrappers_collapse_to_the_innermost_state():
    inner = Running()
    assert ClientFailed(state=Queued(state=Submitted(state=inner))).state is inner
    wrapper = Submitted(state=Pending())
    wrapper.state = Queued(state=inner)
    assert wrapper.state is inner
    assert Queued(state=Submitted()).state is None


def test_a_mapped_state_counts_and_collects_its_children():
    children = [Success(result=1), Failed(), None, Success(result=4)]
    mapped = Mapped(map_states=children)
    assert mapped.n_map_states == 4
    assert mapped.result == [1, None, None, 4]
    assert Mapped(n_map_states=7).n_map_states == 7
    assert Mapped(n_map_states=0, map_states=children).n_map_states == 4
    assert Mapped().n_map_states == 0
    assert Mapped(result="mine", map_states=children).result == "mine"
    mapped.n_map_states = 9
    assert mapped.n_map_states == 9


# ---- reading results -------------------------------------------------------------------------------


async def test_load_result_reads_once_and_only_what_is_stored(tmp_path):
    stored = await LocalResult(tmp_path).write([1, 2])
    state = Success(result=stored.copy())
    state._result.value = None
    assert await state.load_result() is state
    assert state.result == [1, 2]
    state._result.location = "nowhere"
    await state.load_result()  # it is here already
    assert (await Success(result=Result(None)).load_result(LocalResult(tmp_path))).result is None


async def test_load_result_reads_with_what_knows_how(tmp_path):
    from flowloop.engine.serializers import JSONSerializer

    task_result = LocalResult(tmp_path, serializer=JSONSerializer())
    location = (await task_result.write({"a": 1})).location
    same_kind = Success(result=LocalResult(tmp_path, location=location))  # as it comes from a document
    assert (await same_kind.load_result(task_result)).result == {"a": 1}
    own_kind = Success(result=Result(location=location))
    assert (await own_kind.load_result(task_result)).result == {"a": 1}
    other_kind = Success(result=PrefectResult(location='"in the state"'))
    assert (await other_kind.load_result(task_result)).result == "in the state"
    nothing = Success()
    assert (await nothing.load_result(task_result.at(location))).result == {"a": 1}


async def test_a_task_that_returned_none_does_not_get_what_lies_at_its_target(tmp_path):
    target = LocalResult(tmp_path, location="fixed")
    await target.write("of yesterday")
    state = Success(result=target.from_value(None))
    assert (await state.load_result(target)).result is None


async def test_cached_inputs_are_read_each_by_its_own():
    state = Success(cached_inputs={"x": PrefectResult(location="1"), "y": PrefectResult(5), "z": Result()})
    assert await state.load_cached_results({"x": PrefectResult()}) is state
    assert {name: result.value for name, result in state.cached_inputs.items()} == {"x": 1, "y": 5, "z": None}


# ---- pickling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
def test_every_state_can_be_pickled(cls):
    state = cls("why", result=[1], context={"a": 1})
    twin = pickle.loads(pickle.dumps(state))
    assert twin == state
    assert (twin.message, twin.context, twin.unknown_fields) == ("why", {"a": 1}, None)
    assert pickle.loads(pickle.dumps(cls()))._result is NoResult


def test_a_mapped_state_is_pickled_with_its_children():
    mapped = Mapped(map_states=[Success(result=1)])
    assert pickle.loads(pickle.dumps(mapped)) == mapped


class Stubborn(Exception):
    def __reduce__(self):
        raise TypeError("not me")


class Forgetful(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")

    def __reduce__(
        self,
    ):  # what exceptions do by themselves, as long as tblib (of distributed) has not taught them more
        return Forgetful, self.args


@pytest.mark.parametrize("error", [Stubborn("boom"), Forgetful(1, 2), ValueError(threading.Lock())])
def test_an_exception_that_cannot_be_pickled_becomes_text(error):
    twin = cloudpickle.loads(cloudpickle.dumps(Failed(error, result=error)))
    assert twin.message == str(error)
    assert twin.result == repr(error)


def test_an_exception_that_can_be_pickled_stays_one():
    twin = pickle.loads(pickle.dumps(Failed("x", result=ValueError("boom"))))
    assert isinstance(twin.result, ValueError)


def test_another_value_that_cannot_be_pickled_still_raises():
    with pytest.raises(TypeError):
        cloudpickle.dumps(Success(result=threading.Lock()))
