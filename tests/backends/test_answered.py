"""Futures that are answered together: whoever waits for one goes on, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from flowloop.backends._answered import Answer, Answered


def unanswered(loop: asyncio.AbstractEventLoop) -> Answer[int]:
    answer: Answer[int] = Answer(loop=loop)
    answer.waiters = ()
    return answer


@pytest.fixture
async def make() -> Callable[[int], list[Answer[int]]]:
    loop = asyncio.get_running_loop()
    return lambda count: [unanswered(loop) for _ in range(count)]


Make = Callable[[int], list[Answer[int]]]


async def test_who_waits_goes_on_in_the_order_of_the_answers(make: Make) -> None:
    answers, told, answered = make(5), list[int](), Answered()

    async def wait(answer: Answer[int]) -> None:
        told.append(await answer)

    waiting = [asyncio.ensure_future(wait(answer)) for answer in answers]
    await asyncio.sleep(0)
    for number, answer in enumerate(answers):
        answer.set_result(number)
    assert not told
    answered.resume(answers)
    await asyncio.gather(*waiting)
    assert told == [0, 1, 2, 3, 4]
    assert not answered


async def test_an_answer_that_nobody_waits_for_and_one_that_is_asked_for_later(make: Make) -> None:
    (answer,), answered, told = make(1), Answered(), list[int]()
    answer.set_result(7)
    answered.resume([answer])
    assert await answer == 7
    answer.add_done_callback(lambda done: told.append(done.result()))
    await asyncio.sleep(0)
    assert told == [7]


async def test_several_wait_for_one(make: Make) -> None:
    (answer,), answered = make(1), Answered()
    first, second = (asyncio.ensure_future(asyncio.wait((answer,))) for _ in range(2))
    third = asyncio.ensure_future(asyncio.wait_for(answer, None))
    await asyncio.sleep(0)
    answer.set_result(7)
    answered.resume([answer])
    assert await third == 7
    assert (await first)[0] == (await second)[0] == {answer}


async def test_who_gives_up_leaves_the_others_waiting(make: Make) -> None:
    (answer,), answered = make(1), Answered()
    patient = asyncio.ensure_future(asyncio.wait((answer,)))
    done, pending = await asyncio.wait((answer,), timeout=0)
    assert (done, pending) == (set(), {answer})
    assert len(answer.waiters) <= 1  # the one that gave up has taken itself out
    await asyncio.sleep(0)
    answer.set_result(7)
    answered.resume([answer])
    assert (await patient)[0] == {answer}


async def test_whose_task_is_cancelled_is_told_at_once(make: Make) -> None:
    (answer,), answered = make(1), Answered()

    async def wait() -> int:
        return await answer

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert answer.cancelled()
    answered.resume([answer])
    await asyncio.sleep(0)
    assert not answered


async def test_the_loop_gets_turns_in_between(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(clock) * 0.004)
    answers, answered, told = make(6), Answered(), list[int | str]()
    for number, answer in enumerate(answers):
        answer.add_done_callback(lambda done: told.append(done.result()))
        answer.set_result(number)
    answered.resume(answers)

    async def beside() -> None:
        while answered:
            told.append("a turn")
            await asyncio.sleep(0)

    await beside()
    assert [one for one in told if one != "a turn"] == [0, 1, 2, 3, 4, 5]
    between = [list(group) for is_turn, group in itertools.groupby(told, lambda one: one == "a turn") if not is_turn]
    assert len(between) > 2


class Interrupt(KeyboardInterrupt):
    """One that no other test raises."""


def test_what_one_of_them_raises_keeps_nobody_else_from_going_on() -> None:
    loop, told, answered = asyncio.new_event_loop(), list[str](), Answered()
    answers = [unanswered(loop) for _ in range(3)]
    complaints: list[object] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))

    def interrupt(_: object) -> None:
        raise Interrupt

    def fail(_: object) -> None:
        raise ValueError("mine")

    answers[0].add_done_callback(interrupt)
    answers[0].add_done_callback(lambda _: told.append("beside it"))
    answers[1].add_done_callback(fail)
    answers[2].add_done_callback(lambda _: told.append("after it"))
    for answer in answers:
        answer.set_result(1)

    async def resume() -> None:
        answered.resume(answers)
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))

    going = loop.create_task(resume())
    with pytest.raises(Interrupt):
        loop.run_until_complete(going)
    loop.run_until_complete(going)
    loop.close()
    assert sorted(told) == ["after it", "beside it"]
    assert [str(one) for one in complaints] == ["mine"]
