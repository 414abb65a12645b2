"""The answer of a body that ran in another process: there is one, whatever its error does where it is told."""

from __future__ import annotations

import pytest

from flowloop.engine.executors import place
from flowloop.engine.executors._travel import Told, outcome_of_answer, pickled, request_for, run, unpickled


class Exits(Exception):
    """Ends the program where it is asked for one thing too many."""

    asked: tuple[str, ...] = ()

    def __getattribute__(self, name):
        if name in type(self).asked:
            raise SystemExit
        return super().__getattribute__(name)


class WithoutText(Exits):
    def __str__(self):
        raise SystemExit

    __repr__ = __str__


class WithoutNotes(Exits):
    asked = ("__notes__",)


class WithoutCause(Exits):
    asked = ("__cause__", "__context__")


class WithoutArguments(Exits):
    asked = ("args",)


class WithoutPickle(Exits):
    def __reduce__(self):
        raise SystemExit


class ReadWrong(Exits):
    def __reduce__(self):
        return exits, ()


class WithNotesThatAreNoList(Exits):
    def __init__(self, *args):
        super().__init__(*args)
        self.__notes__ = 3


class Unreadable:
    def __reduce__(self):
        return exits, ()


class Unwritable:
    def __reduce__(self):
        raise SystemExit

    __repr__ = __reduce__


def exits():
    raise SystemExit


def answered(body):
    return outcome_of_answer(unpickled(run(pickled(request_for(body, (), {}), "odd"), Told())), "odd")


ODD = [
    WithoutText,
    WithoutNotes,
    WithoutCause,
    WithoutArguments,
    WithoutPickle,
    ReadWrong,
    WithNotesThatAreNoList,
]


@pytest.mark.parametrize("kind", ODD)
def test_an_error_that_cannot_be_told_or_pickled_is_still_the_answer(kind):
    def fails():
        raise kind("what it says")

    outcome = answered(fails)
    assert isinstance(outcome, place.Raised)
    assert type(outcome.error) is kind or kind.__qualname__ in str(outcome.error)


@pytest.mark.parametrize("kind", [Unreadable, Unwritable])
def test_a_value_that_ends_the_program_where_it_is_pickled_is_named(kind):
    outcome = answered(lambda: [kind()])
    assert isinstance(outcome, place.Raised)
    assert "its result (a " in str(outcome.error)
    assert "cannot be pickled" in str(outcome.error)


def test_the_traceback_that_comes_along_begins_with_the_body():
    def fails():
        raise ValueError("four")

    outcome = answered(fails)
    assert isinstance(outcome, place.Raised)
    [note] = outcome.error.__notes__
    assert note.startswith("In the process that ran the task:\nTraceback")
    assert note.count('File "') == 1
    assert note.endswith("ValueError: four")
