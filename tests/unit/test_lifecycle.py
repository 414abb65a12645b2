"""What each state means, against the classes of states and against the page of semantics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloop.engine import lifecycle, state
from flowloop.engine.state import Failed, Finished, Looped, Running, Scheduled, State, Success

PAGE = Path(__file__).parents[2] / "docs" / "semantics.md"


def classes(kind: type[State] = State) -> Iterator[type[State]]:
    for child in kind.__subclasses__():
        if child.__module__ == state.__name__ and not child.__name__.startswith("_"):
            yield child
        yield from classes(child)


AFTER_FINISHED = {
    "Success": {"Pending", "Scheduled", "Resume", "Cached"},
    "Mapped": {"Pending", "Scheduled", "Resume", "Cached"},
    "Skipped": {"Pending", "Scheduled", "Resume", "Cached"},
    "Cached": {"Pending", "Scheduled", "Resume"},
    "Failed": {"Pending", "Scheduled", "Resume", "Retrying"},
    "TimedOut": {"Pending", "Scheduled", "Resume", "Retrying"},
    "TriggerFailed": {"Pending", "Scheduled", "Resume", "Retrying"},
    "ValidationFailed": {"Pending", "Scheduled", "Resume", "Retrying"},
    "Cancelled": {"Pending", "Scheduled", "Resume"},
    "Finished": {"Pending", "Scheduled", "Resume"},
}


@pytest.mark.parametrize("current", lifecycle.LIFECYCLE)
def test_what_may_follow_a_state(current: str) -> None:
    allowed = {new for new in lifecycle.LIFECYCLE if lifecycle.may_follow(current, new)}
    assert allowed == AFTER_FINISHED.get(current, set(lifecycle.LIFECYCLE))


def test_anything_may_follow_nothing() -> None:
    assert all(lifecycle.may_follow(None, new) for new in lifecycle.LIFECYCLE)


def test_every_state_has_one_row() -> None:
    assert sorted(kind.__name__ for kind in classes()) == sorted(lifecycle.LIFECYCLE)


@pytest.mark.parametrize("kind", list(classes()), ids=lambda kind: kind.__name__)
def test_a_row_says_what_the_class_says(kind: type[State]) -> None:
    row = lifecycle.LIFECYCLE[kind.__name__]
    assert row.ends == (issubclass(kind, Finished) and kind is not Looped)
    assert (row.outcome == "success") == issubclass(kind, Success)
    assert (row.outcome == "failure") == issubclass(kind, Failed)
    assert row.runs == issubclass(kind, Running)
    assert row.waits == (issubclass(kind, Scheduled) or kind is state.Queued)
    assert row.keeps == issubclass(kind, (Scheduled, Running))


def test_whoever_owns_a_flow_run_gives_it_up_with_a_state_that_others_go_on_from() -> None:
    assert {
        "Pending",
        "Submitted",
        "ClientFailed",
        "Queued",
        "Running",
        "Cancelling",
        "Looped",
    } == lifecycle.KEEPS_OWNER


def test_what_is_read_by_name_is_what_the_rows_say() -> None:
    ended = set(AFTER_FINISHED)
    assert ended == lifecycle.FINISHED
    assert set(lifecycle.LIFECYCLE) - ended == lifecycle.UNFINISHED
    assert {"Success", "Mapped", "Cached", "Skipped"} == lifecycle.SUCCESS
    failed = {"Failed", "TimedOut", "TriggerFailed", "ValidationFailed"}
    assert failed == lifecycle.FAILED
    assert failed | {"Paused", "Retrying"} == lifecycle.ATTENTION
    assert {"Running", "Cancelling"} == lifecycle.RUNNING
    waiting = {"Scheduled", "Paused", "Resume", "Retrying"}
    assert waiting | {"Queued"} == lifecycle.WAITING
    assert waiting | {"Running", "Cancelling"} == lifecycle.PENDING
    assert {"Submitted", "Running"} == lifecycle.CLAIMS
    assert {"Looped", "Success", "Cached", "Failed", "TimedOut", "Cancelled"} == lifecycle.ENDED
    assert {"flow_run": {"Submitted", "Running", "Cancelling"}, "task_run": {"Running"}} == lifecycle.ALIVE


def test_the_page_of_semantics_has_the_table() -> None:
    assert "\n".join(lifecycle.table()) in PAGE.read_text(encoding="utf-8"), (
        "the table belongs there as `lifecycle.table()` yields it"
    )
