from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from flowloop.backends._circuit import Circuit, CircuitState
from flowloop.backends.batcher import Batcher, RequestRejected
from flowloop.engine.errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    DialectError,
    UpstreamRefused,
    VersionLockMismatch,
)
from flowloop.engine.testing import run as run_virtually

Item = tuple[str, int]


class Recorder:
    """The far side: records batches, answers every item with itself, and does not apply a batch twice."""

    def __init__(
        self,
        faults: list[str] | None = None,
        bad: set[Item] | None = None,
        delay: float = 0.01,
        max_flights: int = 1,
    ) -> None:
        self.faults = faults or []
        self.bad = bad or set()
        self.delay = delay
        self.max_flights = max_flights
        self.batches: list[list[Item]] = []
        self.recorded: list[Item] = []
        self.in_flight = 0
        self._answers: dict[str, list[Item | BackendRejected]] = {}

    async def send(self, items: list[Item], key: str) -> list[Item | BackendRejected]:
        assert self.in_flight < self.max_flights, "too many batches in flight"
        self.in_flight += 1
        try:
            fault = self.faults.pop(0) if self.faults else "none"
            self.batches.append(list(items))
            await asyncio.sleep(self.delay)
            if fault == "dropped":
                raise BackendUnavailable("nothing was sent")
            if fault == "refused" and key not in self._answers:
                raise RequestRejected("the batch is malformed")
            if fault == "busy":
                raise BackendUnavailable("too many requests", retry_after=7.0)
            if key not in self._answers:
                self._answers[key] = [self._record(item) for item in items]
            if fault == "lost":
                raise BackendUnavailable("the answer was lost")
            return self._answers[key]
        finally:
            self.in_flight -= 1

    def _record(self, item: Item) -> Item | BackendRejected:
        if item in self.bad:
            return BackendRejected(f"{item} is refused")
        self.recorded.append(item)
        return item


def circuit(limit: float = 300.0) -> Circuit:
    return Circuit("the recorder", limit, random.Random(0))


async def outcomes_of(*writes: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*writes, return_exceptions=True)


def test_what_is_put_while_a_batch_is_in_flight_shares_the_next_one() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with Batcher(recorder.send, circuit()) as batcher:
            first = asyncio.ensure_future(batcher.put(("a", 0)))
            await asyncio.sleep(0.001)
            rest = [asyncio.ensure_future(batcher.put((name, 0))) for name in "bcd"]
            await asyncio.gather(first, *rest)
        assert recorder.batches == [[("a", 0)], [("b", 0), ("c", 0), ("d", 0)]]

    run_virtually(main())


def test_a_lone_item_does_not_wait_for_company() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Batcher(Recorder(delay=0.5).send, circuit()) as batcher:
            await batcher.put(("a", 0))
            assert loop.time() == 0.5

    run_virtually(main())


def test_those_answered_together_travel_together_again() -> None:
    async def chain(batcher: Batcher[Item, Item], name: str) -> None:
        for number in range(5):
            await batcher.put((name, number))

    async def main() -> None:
        recorder = Recorder()
        async with Batcher(recorder.send, circuit()) as batcher:
            await asyncio.gather(*(chain(batcher, name) for name in "abcdef"))
        assert [len(batch) for batch in recorder.batches] == [6] * 5

    run_virtually(main())


@pytest.mark.parametrize(
    ("limits", "sizes", "batches"),
    [
        ({"max_items": 2}, [1, 1, 1, 1, 1], [2, 2, 1]),
        ({"max_bytes": 10}, [4, 4, 4, 4, 4], [2, 2, 1]),
        ({"max_bytes": 10}, [10, 1, 10], [1, 1, 1]),
        ({"max_bytes": 10}, [3, 50, 3, 3], [1, 1, 2]),
        ({}, [1] * 1001, [1000, 1]),
        ({}, [1_000_000] * 5, [4, 1]),
    ],
)
def test_a_batch_keeps_its_limits(limits: dict[str, int], sizes: list[int], batches: list[int]) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with Batcher(recorder.send, circuit(), **limits) as batcher:
            await asyncio.gather(*(batcher.put(("a", number), size) for number, size in enumerate(sizes)))
        assert [len(batch) for batch in recorder.batches] == batches

    run_virtually(main())


def test_one_refused_item_fails_alone() -> None:
    async def main() -> None:
        recorder = Recorder(bad={("b", 0)})
        async with Batcher(recorder.send, circuit()) as batcher:
            a, b, c = await outcomes_of(*(batcher.put((name, 0)) for name in "abc"))
        assert (a, c) == (("a", 0), ("c", 0))
        assert isinstance(b, BackendRejected)
        assert recorder.recorded == [("a", 0), ("c", 0)]

    run_virtually(main())


def test_the_kind_of_a_refusal_reaches_its_waiter() -> None:
    async def send(items: list[int], key: str) -> list[int | BackendRejected]:
        return [VersionLockMismatch("moved on")]

    async def main() -> None:
        async with Batcher(send, circuit()) as batcher:
            with pytest.raises(VersionLockMismatch, match="moved on"):
                await batcher.put(1)

    run_virtually(main())


@given(bad=st.sets(st.integers(0, 40)), count=st.integers(1, 41))
@settings(deadline=None)
def test_a_batch_refused_as_a_whole_is_halved_until_the_bad_items_are_found(bad: set[int], count: int) -> None:
    recorded: list[int] = []

    async def send(items: list[int], key: str) -> list[int]:
        if bad & set(items):
            raise RequestRejected("something here is malformed")
        recorded.extend(items)
        return items

    async def main() -> None:
        async with Batcher(send, circuit()) as batcher:
            outcomes = await outcomes_of(*(batcher.put(number) for number in range(count)))
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, BackendRejected) if number in bad else outcome == number
        assert recorded == [number for number in range(count) if number not in bad]

    run_virtually(main())


@pytest.mark.parametrize("fault", [DialectError("gibberish"), BackendRejected("who are you?")])
def test_what_concerns_no_single_item_fails_them_all_at_once(fault: BackendError) -> None:
    calls = 0

    async def send(items: list[int], key: str) -> list[int]:
        nonlocal calls
        calls += 1
        raise fault

    async def main() -> None:
        async with Batcher(send, circuit()) as batcher:
            outcomes = await outcomes_of(*(batcher.put(number) for number in range(5)))
        assert [type(outcome) for outcome in outcomes] == [type(fault)] * 5
        assert len({id(outcome) for outcome in outcomes}) == 5, "waiters must not share a traceback"
        assert calls == 1

    run_virtually(main())


def test_a_defect_of_the_sender_reaches_the_waiters_and_the_batcher_goes_on() -> None:
    answers: list[Callable[[list[int]], list[int]]] = [
        lambda items: [1 // 0],
        lambda items: items[1:],
        lambda items: items,
    ]

    async def send(items: list[int], key: str) -> list[int]:
        return answers.pop(0)(items)

    async def main() -> None:
        async with Batcher(send, circuit()) as batcher:
            with pytest.raises(BackendError, match="zero") as caught:
                await batcher.put(1)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            with pytest.raises(DialectError, match="0 outcomes to 1 items"):
                await batcher.put(2)
            assert await batcher.put(3) == 3

    run_virtually(main())


FAULTS = st.lists(st.sampled_from(["none", "dropped", "lost", "refused", "busy"]), max_size=30)


@given(
    faults=FAULTS,
    bad=st.sets(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), max_size=4),
    cancelled=st.dictionaries(st.sampled_from("abcd"), st.floats(0, 2), max_size=2),
    max_items=st.integers(1, 6),
)
@settings(deadline=None, max_examples=200)
def test_whatever_is_lost_on_the_way_each_item_is_recorded_once_and_in_order(
    faults: list[str], bad: set[Item], cancelled: dict[str, float], max_items: int
) -> None:
    """Four runs put their states; exchanges are dropped, answered into the void or refused; waiters are cancelled."""
    put: dict[str, list[Item]] = defaultdict(list)
    refused: set[Item] = set()

    async def states(batcher: Batcher[Item, Item], name: str) -> None:
        for number in range(6):
            put[name].append((name, number))
            try:
                assert await batcher.put((name, number)) == (name, number)
            except BackendRejected:
                refused.add((name, number))

    async def main() -> Recorder:
        recorder = Recorder(list(faults), bad)
        async with Batcher(recorder.send, circuit(), max_items=max_items, grace=1000) as batcher:
            runs = {name: asyncio.create_task(states(batcher, name)) for name in "abcd"}
            for name, moment in cancelled.items():
                asyncio.get_running_loop().call_later(moment, runs[name].cancel)
            await asyncio.wait(runs.values())
            for name, run in runs.items():
                assert run.cancelled() or run.exception() is None
                assert not run.cancelled() or name in cancelled
        return recorder

    recorder = run_virtually(main())
    assert max(Counter(recorder.recorded).values(), default=1) == 1
    for name in "abcd":
        mine = [item for item in recorder.recorded if item[0] == name]
        assert mine == sorted(mine), "out of order"
        unrefused = [item for item in put[name] if item not in refused and item not in bad]
        lost = set(unrefused) - set(mine)
        # A waiter that was cancelled does not learn whether its item was refused; nothing else may be missing.
        assert not lost or (name in cancelled and lost == {put[name][-1]} and "refused" in faults)


def test_what_is_worth_two_requests_travels_in_two_at_a_time() -> None:
    async def chain(batcher: Batcher[Item, Item], name: str) -> None:
        for number in range(3):
            await batcher.put((name, number), key=name)

    async def main() -> None:
        recorder = Recorder(max_flights=2)
        async with Batcher(recorder.send, circuit(), max_flights=2) as batcher:
            await asyncio.gather(*(chain(batcher, f"run {number}") for number in range(200)))
            assert asyncio.get_running_loop().time() == pytest.approx(0.03)
        assert [len(batch) for batch in recorder.batches[:2]] == [100, 100]
        assert len(recorder.batches) == 6

    run_virtually(main())


def test_a_few_items_wait_for_the_batch_in_flight_though_there_is_room_for_another() -> None:
    async def main() -> None:
        recorder = Recorder(max_flights=2)
        async with Batcher(recorder.send, circuit(), max_flights=2) as batcher:
            tasks = [asyncio.ensure_future(batcher.put(("a", number), key=number)) for number in range(60)]
            await asyncio.sleep(0.001)
            tasks += [asyncio.ensure_future(batcher.put(("b", number), key=number + 100)) for number in range(40)]
            await asyncio.wait(tasks)
        assert [len(batch) for batch in recorder.batches] == [60, 40]

    run_virtually(main())


def test_an_item_waits_for_the_one_in_flight_with_its_key_and_others_pass_by() -> None:
    async def main() -> None:
        recorder = Recorder(max_flights=2)
        async with Batcher(recorder.send, circuit(), max_flights=2) as batcher:
            first = [asyncio.ensure_future(batcher.put(("a", number), key=number)) for number in range(60)]
            await asyncio.sleep(0.001)
            again = [asyncio.ensure_future(batcher.put(("b", number), key=number)) for number in range(60)]
            await asyncio.sleep(0.001)
            assert len(recorder.batches) == 1
            others = [asyncio.ensure_future(batcher.put(("c", number), key=100 + number)) for number in range(60)]
            await asyncio.wait([*first, *again, *others])
        assert [batch[0][0] for batch in recorder.batches] == ["a", "c", "b"]

    run_virtually(main())


def test_what_a_large_run_has_waiting_holds_up_no_small_one() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with Batcher(recorder.send, circuit(), max_items=100) as batcher:
            large = [asyncio.ensure_future(batcher.put(("large", number), lane="large")) for number in range(1_000)]
            await asyncio.sleep(0.001)
            small = [asyncio.ensure_future(batcher.put((name, 0), lane=name)) for name in "abc"]
            await asyncio.wait([*large, *small])
        sent_in = {item: turn for turn, batch in enumerate(recorder.batches) for item in batch}
        assert [sent_in[name, 0] for name in "abc"] == [1, 1, 1]
        assert recorder.recorded == sorted(recorder.recorded, key=lambda item: sent_in[item])
        assert [item for item in recorder.recorded if item[0] == "large"] == [("large", n) for n in range(1_000)]

    run_virtually(main())


def test_batches_are_short_while_several_lanes_are_busy_and_room_is_made_for_many() -> None:
    async def sizes(large: int, small: int) -> list[int]:
        recorder = Recorder()
        async with Batcher(recorder.send, circuit()) as batcher:
            waiting = [batcher.put(("large", number), lane="large") for number in range(large)]
            waiting += [batcher.put(("small", number), lane=number) for number in range(small)]
            await asyncio.wait(waiting)
        return [len(batch) for batch in recorder.batches]

    async def main() -> None:
        assert await sizes(3_000, 0) == [1_000, 1_000, 1_000]
        assert await sizes(3_000, 1) == [200, 200, 200, 1_000, 1_000, 401]
        assert (await sizes(3_000, 99))[0] == 400
        assert await sizes(0, 600) == [600]

    run_virtually(main())


@given(
    items=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=60),
    most=st.integers(1, 7),
    flights=st.integers(1, 2),
)
def test_lanes_take_turns_and_each_keeps_its_order(items: list[tuple[str, int]], most: int, flights: int) -> None:
    numbered = [((lane, number), f"{lane}{key}") for number, (lane, key) in enumerate(items)]

    async def main() -> None:
        recorder = Recorder(max_flights=flights)
        async with Batcher(recorder.send, circuit(), max_items=most, max_flights=flights) as batcher:
            waiting = [asyncio.ensure_future(batcher.put(item, key=key, lane=item[0])) for item, key in numbered]
            if waiting:
                await asyncio.wait(waiting)
        assert sorted(recorder.recorded) == sorted(item for item, _ in numbered)
        keys = dict(numbered)
        for key in keys.values():
            own = [item for item in recorder.recorded if keys[item] == key]
            assert own == sorted(own)
        first = recorder.batches[0] if recorder.batches else []
        shares = [sum(item[0] == lane for item in first) for lane in {lane for lane, _ in items}]
        for lane, share in zip({lane for lane, _ in items}, shares, strict=True):
            wanted = sum(item[0] == lane for item, _ in numbered)
            assert share == wanted or share >= max(shares, default=0) - 1

    run_virtually(main())


# six refusals halve a batch of forty down to one item, which is then refused itself
_FEW_REFUSALS = FAULTS.filter(lambda faults: faults.count("refused") < 6)


@given(faults=_FEW_REFUSALS, delays=st.lists(st.sampled_from([0.01, 0.02, 0.5]), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_with_two_batches_in_flight_each_item_is_recorded_once_and_those_of_a_key_in_order(
    faults: list[str], delays: list[float]
) -> None:
    """Each run puts two states without waiting between them; one batch may overtake another."""
    pace = itertools.cycle(delays)

    async def main() -> Recorder:
        recorder = Recorder(list(faults), max_flights=2)

        async def send(items: list[Item], key: str) -> list[Item | BackendRejected]:
            recorder.delay = next(pace)
            return await recorder.send(items, key)

        async def states(batcher: Batcher[Item, Item], name: str) -> None:
            for number in (0, 2):
                items = [(name, number), (name, number + 1)]
                assert await asyncio.gather(*(batcher.put(item, key=name) for item in items)) == items

        async with Batcher(send, circuit(), max_items=40, max_flights=2, grace=1000) as batcher:
            await asyncio.gather(*(states(batcher, f"run {number}") for number in range(80)))
        return recorder

    recorder = run_virtually(main())
    assert max(Counter(recorder.recorded).values()) == 1
    assert len(recorder.recorded) == 320
    for number in range(80):
        assert [item[1] for item in recorder.recorded if item[0] == f"run {number}"] == [0, 1, 2, 3]


@pytest.mark.parametrize("step", range(25))
def test_cancelling_one_waiter_at_any_moment_strands_no_other_and_loses_nothing(step: int) -> None:
    async def main() -> None:
        recorder = Recorder(["dropped", "lost"], delay=0)
        async with Batcher(recorder.send, circuit()) as batcher:
            victim = asyncio.ensure_future(batcher.put(("victim", 0)))
            others = [asyncio.ensure_future(batcher.put((name, 0))) for name in "abc"]
            for _ in range(step):
                await asyncio.sleep(0)
            victim.cancel()
            assert await asyncio.gather(*others) == [("a", 0), ("b", 0), ("c", 0)]
        assert Counter(recorder.recorded) == Counter((name, 0) for name in ("victim", "a", "b", "c"))

    run_virtually(main())


@pytest.mark.parametrize("max_flights", [1, 2])
@pytest.mark.parametrize("anyio_scope", [False, True], ids=["task.cancel", "cancel scope"])
@pytest.mark.parametrize("step", range(20))
def test_cancelling_the_owner_at_any_moment_keeps_what_was_put(step: int, anyio_scope: bool, max_flights: int) -> None:
    """Ctrl-C: the task that holds the ``async with`` is cancelled, with the last states still on their way."""
    recorder = Recorder(["lost", "dropped"], delay=0, max_flights=max_flights)
    put: list[Item] = []

    async def write(batcher: Batcher[Item, Item], name: str) -> None:
        for number in range(3):
            put.append((name, number))
            await batcher.put((name, number))

    async def owner(scope: anyio.CancelScope) -> None:
        with scope:
            async with (
                Batcher(recorder.send, circuit(), max_flights=max_flights) as batcher,
                anyio.create_task_group() as group,
            ):
                group.start_soon(write, batcher, "a")
                group.start_soon(write, batcher, "b")

    async def main() -> None:
        scope = anyio.CancelScope()
        task = asyncio.create_task(owner(scope))
        for _ in range(step + 1):
            await asyncio.sleep(0)
        if anyio_scope:
            scope.cancel()
        else:
            task.cancel()
        await asyncio.wait([task])
        assert Counter(recorder.recorded) == Counter(put)

    run_virtually(main())


def test_closing_sends_what_still_waits() -> None:
    async def main() -> None:
        recorder = Recorder(["dropped"])
        async with Batcher(recorder.send, circuit(), max_items=1) as batcher:
            waiting = [asyncio.ensure_future(batcher.put((name, 0))) for name in "abc"]
            await asyncio.sleep(0)
        assert recorder.recorded == [("a", 0), ("b", 0), ("c", 0)]
        assert all(task.done() for task in waiting)

    run_virtually(main())


def test_closing_takes_no_time_where_nothing_waits_and_is_not_heard(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Batcher(Recorder(delay=0).send, circuit(), max_flights=2) as batcher:
            await batcher.put(("a", 0))
        assert asyncio.get_running_loop().time() == 0

    run_virtually(main())
    gc.collect()  # asyncio tells then of errors that nobody has heard of
    assert caplog.messages == []


def test_closing_waits_until_what_it_cuts_off_has_cleaned_up() -> None:
    cleaned: list[int] = []

    async def send(items: list[Item], key: str) -> list[Item | BackendRejected]:
        try:
            await anyio.sleep_forever()
        finally:
            await asyncio.sleep(1)
            cleaned.append(len(items))
        return []

    async def main() -> None:
        async with Batcher(send, circuit(), grace=5) as batcher:
            write = batcher.put(("a", 0))
            await asyncio.sleep(1)
        assert cleaned == [1]
        with pytest.raises(BackendUnavailable, match="before 1 writes were acknowledged"):
            await write

    run_virtually(main())


def test_a_loop_that_ends_all_its_tasks_leaves_nobody_waiting() -> None:
    async def main() -> None:
        async with Batcher(Recorder(["dropped"] * 1000).send, circuit()) as batcher:
            first = batcher.put(("a", 0))
            await asyncio.sleep(1)
            for one in asyncio.all_tasks() - {asyncio.current_task()}:
                one.cancel()
            with pytest.raises(BackendUnavailable, match="before 1 writes were acknowledged"):
                await first
            with pytest.raises(BackendUnavailable, match="is not open"):
                batcher.put(("b", 0))

    run_virtually(main())


def test_closing_gives_up_after_its_grace_and_tells_those_who_wait(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = Batcher(Recorder(["dropped"] * 1000).send, circuit(), max_items=1, grace=5)
        async with batcher:
            waiting = [asyncio.ensure_future(batcher.put((name, 0))) for name in "abc"]
            await asyncio.sleep(1)
            started = loop.time()
        assert loop.time() == started + 5
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 3
        assert "the recorder was closed before 3 writes were acknowledged" in str(outcomes[0])
        assert "3 writes" in caplog.messages[-1]
        with pytest.raises(BackendUnavailable, match="not open"):
            await batcher.put(("d", 0))

    run_virtually(main())


def test_closing_tells_those_in_either_batch_in_flight() -> None:
    async def main() -> None:
        batcher = Batcher(Recorder(["dropped"] * 1000, max_flights=2).send, circuit(), max_flights=2)
        async with batcher:
            waiting = [asyncio.ensure_future(batcher.put(("a", number), key=number)) for number in range(130)]
            await asyncio.sleep(1)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 130
        assert "before 130 writes were acknowledged" in str(outcomes[0])

    run_virtually(main())


def test_a_second_cancel_ends_the_grace_and_leaves_no_task_behind() -> None:
    async def main() -> None:
        async def owner() -> None:
            async with Batcher(Recorder(["dropped"] * 1000).send, circuit()) as batcher:
                await batcher.put(("a", 0))

        task = asyncio.create_task(owner())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtually(main())


def test_before_it_is_opened_nothing_can_be_put() -> None:
    async def main() -> None:
        with pytest.raises(BackendUnavailable, match="the recorder is not open"):
            await Batcher(Recorder().send, circuit()).put(("a", 0))

    run_virtually(main())


def test_an_outage_is_waited_out_and_seen(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        line = circuit()
        async with Batcher(Recorder(["dropped"] * 6 + ["none"]).send, line) as batcher:
            assert line.state is CircuitState.CLOSED
            write = asyncio.ensure_future(batcher.put(("a", 0)))
            await asyncio.sleep(1)
            assert line.state is CircuitState.OPEN
            assert repr(batcher) == "<Batcher the recorder: 0 waiting, 1 in flight, open>"
            await write
            assert line.state is CircuitState.CLOSED
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 2
        assert warnings[0] == "the recorder is unavailable, waiting for it: nothing was sent"
        assert warnings[1].startswith("the recorder answers again after ")

    run_virtually(main())


def test_an_answer_to_somebody_else_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        line = circuit()
        fails = [True, False]

        async def write() -> None:
            if fails.pop(0):
                raise BackendUnavailable("it only reads")

        async def read() -> None:
            pass

        waits = asyncio.ensure_future(line.call(write))
        await asyncio.sleep(0)
        await line.call(read)
        await waits
        assert sum("answers again" in message for message in caplog.messages) == 1

    run_virtually(main())


def test_after_the_limit_all_that_wait_fail_and_later_calls_may_succeed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        recorder = Recorder(["dropped"] * 10_000)
        async with Batcher(recorder.send, circuit(limit=60), max_items=2) as batcher:
            outcomes = await outcomes_of(*(batcher.put((name, 0)) for name in "abcdef"))
            assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 6
            assert str(outcomes[0]) == "the recorder is unavailable, and was waited for 60 s: nothing was sent"
            assert 60 <= loop.time() <= 61
            assert caplog.messages[-1] == f"gave up 6 writes: {outcomes[0]}"
            assert batcher.backlog == 0
            recorder.faults.clear()
            assert await batcher.put(("g", 0)) == ("g", 0)
            await asyncio.sleep(60)
            assert recorder.recorded == [("g", 0)], "what has failed is not sent later all the same"

    run_virtually(main())


def test_it_shows_how_much_waits_and_how_much_is_in_flight() -> None:
    async def main() -> None:
        async with Batcher(Recorder(delay=10).send, circuit(), max_items=2) as batcher:
            puts = [batcher.put((name, 0)) for name in "abcde"]
            await asyncio.sleep(1)
            assert repr(batcher) == "<Batcher the recorder: 3 waiting, 2 in flight, closed>"
            assert batcher.backlog == 5
            await asyncio.gather(*puts)
            assert batcher.backlog == 0

    run_virtually(main())


def test_what_waited_in_any_lane_fails_with_the_outage_and_is_never_sent() -> None:
    async def main() -> None:
        recorder = Recorder(["dropped"] * 10_000)
        async with Batcher(recorder.send, circuit(limit=60), max_items=2) as batcher:
            puts = [batcher.put((name, n), key=name, lane=name) for n in range(3) for name in "abc"]
            outcomes = await outcomes_of(*puts)
            assert {type(outcome) for outcome in outcomes} == {BackendUnavailable}
            sent = len(recorder.batches)
            recorder.faults.clear()
            await asyncio.sleep(600)
            assert len(recorder.batches) == sent
            assert await batcher.put(("a", 9), key="a", lane="a") == ("a", 9)
        assert recorder.recorded == [("a", 9)]

    run_virtually(main())


def test_the_waits_grow_and_are_not_in_step() -> None:
    async def attempts_of(seed: int) -> list[float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        moments: list[float] = []

        async def attempt() -> None:
            moments.append(loop.time() - start)
            raise BackendUnavailable("no")

        with pytest.raises(BackendUnavailable):
            await Circuit("x", 200, random.Random(seed)).call(attempt)
        return moments

    async def main() -> None:
        one, other = await attempts_of(1), await attempts_of(2)
        assert one[1:5] != other[1:5]
        waits = [later - earlier for earlier, later in itertools.pairwise(one)]
        for tries, wait in enumerate(waits[:-1]):
            longest = min(0.1 * 2**tries, 30.0)
            assert longest / 2 <= wait <= longest + 1e-6
        assert one[-1] == pytest.approx(200)

    run_virtually(main())


def test_the_backend_may_ask_for_a_pause_but_not_for_more_than_the_limit() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked = [7.0, 3600.0]
        moments: list[float] = []

        async def attempt() -> None:
            moments.append(loop.time())
            if len(moments) <= len(asked):
                raise BackendUnavailable("slow down", retry_after=asked[len(moments) - 1])

        await Circuit("x", 100, random.Random(1)).call(attempt)
        assert 7.0 <= moments[1] <= 7.1
        assert moments[2] == pytest.approx(100)

    run_virtually(main())


def test_a_refusal_is_an_answer_and_ends_the_outage() -> None:
    async def main() -> None:
        line = circuit()
        failures: list[BackendError] = [BackendUnavailable("away"), BackendRejected("no such run")]

        async def attempt() -> None:
            raise failures.pop(0)

        with pytest.raises(BackendRejected, match="no such run"):
            await line.call(attempt)
        assert line.state is CircuitState.CLOSED

    run_virtually(main())


@pytest.mark.parametrize("run_on", [asyncio.run, uvloop.run, run_virtually])
def test_it_works_on_every_loop(run_on: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def main() -> None:
        recorder = Recorder(["none", "lost", "dropped"], delay=0)
        async with Batcher(recorder.send, circuit(), max_items=10) as batcher:
            puts = [batcher.put((name, number)) for number in range(5) for name in "abcde"]
            assert len(await asyncio.gather(*puts)) == 25
        assert Counter(recorder.recorded) == Counter((name, number) for number in range(5) for name in "abcde")

    run_on(main())


@pytest.mark.virtual_time
async def test_what_rests_on_an_item_travels_with_it_or_after_it_and_never_without_it() -> None:
    bad, good = ("bad", 0), ("good", 0)
    recorder = Recorder(bad={bad}, max_flights=2)
    async with Batcher(recorder.send, circuit(), max_flights=2) as batcher:
        first, other = batcher.put(bad, lane="run"), batcher.put(good, lane="run")
        together = batcher.put(("rests on good", 0), lane="run", rests_on=[other])
        await asyncio.sleep(0.001)
        later = batcher.put(("rests on bad", 0), lane="run", rests_on=[first])
        after = batcher.put(("rests on that", 0), lane="run", rests_on=[later])
        found = await outcomes_of(first, other, together, later, after)
    assert [type(one) for one in found] == [BackendRejected, tuple, tuple, UpstreamRefused, UpstreamRefused]
    assert recorder.batches == [[bad, good, ("rests on good", 0)]]


@pytest.mark.virtual_time
async def test_what_rests_on_an_item_waits_for_the_batch_in_flight() -> None:
    recorder = Recorder(max_flights=2)
    async with Batcher(recorder.send, circuit(), max_flights=2) as batcher:
        first = batcher.put(("first", 0), key="a", lane="run")
        await asyncio.sleep(0.001)
        second = batcher.put(("second", 0), key="b", lane="run", rests_on=[first])
        others = [batcher.put(("other", number), key=number, lane="other") for number in range(60)]
        await outcomes_of(second, *others)
    assert first.done()
    assert [("second", 0) in batch for batch in recorder.batches].index(True) > 0
    assert recorder.recorded.index(("first", 0)) < recorder.recorded.index(("second", 0))


@pytest.mark.virtual_time
async def test_beside_a_batch_in_flight_what_rests_on_an_item_shares_its_batch() -> None:
    recorder = Recorder(max_flights=2)
    async with Batcher(recorder.send, circuit(), max_flights=2) as batcher:
        first = batcher.put(("first", 0), key="first", lane="run")
        await asyncio.sleep(0.001)
        others = [batcher.put(("other", number), key=number, lane="run") for number in range(60)]
        rests = batcher.put(("rests on the last", 0), key="rests", lane="run", rests_on=[others[-1]])
        await asyncio.gather(first, *others, rests)
    assert [len(batch) for batch in recorder.batches] == [1, 61]


@pytest.mark.virtual_time
async def test_halving_keeps_what_rests_on_a_refused_item_from_being_sent_alone() -> None:
    recorder = Recorder(faults=["refused"], bad={("bad", 0)})
    async with Batcher(recorder.send, circuit()) as batcher:
        first = batcher.put(("bad", 0), lane="run")
        second = batcher.put(("second", 0), lane="run", rests_on=[first])
        found = await outcomes_of(first, second)
    assert [type(one) for one in found] == [BackendRejected, UpstreamRefused]
    assert recorder.recorded == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("of_each", [True, False])
async def test_what_is_refused_with_what_it_rests_on_says_so(of_each: bool) -> None:
    """Whether a server refuses each of a batch, or the batch as a whole."""

    async def refuse(items: list[str], key: str) -> list[BackendRejected]:
        if of_each:
            return [BackendRejected(f"no {item}") for item in items]
        raise BackendRejected("nothing of that")

    batcher: Batcher[str, str] = Batcher(refuse, circuit())
    async with batcher:
        first, other = batcher.put("first", lane="run"), batcher.put("other", lane="run")
        second = batcher.put("second", lane="run", rests_on=[first])
        third = batcher.put("third", lane="run", rests_on=[second])
        found = await outcomes_of(first, other, second, third)
    assert [type(one) for one in found] == [BackendRejected, BackendRejected, UpstreamRefused, UpstreamRefused]
