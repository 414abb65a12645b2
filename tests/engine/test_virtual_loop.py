"""Time on the virtual loop: it jumps when nothing is left to do, and waits for what is real."""

from __future__ import annotations

import asyncio
import datetime
import socket
import subprocess
import sys
import threading
import time

import aiosqlite
import anyio
import anyio.to_thread
import pytest

from flowloop.engine import Flow, FlowRunner, context, task
from flowloop.engine.clock import SystemClock
from flowloop.engine.context import now
from flowloop.engine.testing import VirtualClock, VirtualLoop, run
from flowloop.engine.watchdog import watched_loop

pytestmark = pytest.mark.virtual_time

DAY = 24 * 3600.0
START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def at(seconds: float) -> datetime.datetime:
    return START + datetime.timedelta(seconds=seconds)


async def test_a_long_sleep_takes_no_time_and_all_of_it() -> None:
    before = time.monotonic()
    await anyio.sleep(1000 * DAY)
    assert asyncio.get_running_loop().time() == pytest.approx(1000 * DAY)
    assert time.monotonic() - before < 5


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await anyio.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as group:
        for seconds in (3 * DAY, 0.001, 5.0, DAY):
            group.start_soon(sleeper, seconds)
    assert woken == [0.001, 5.0, DAY, 3 * DAY]


async def test_the_order_of_what_runs_does_not_hang_on_how_long_it_really_takes() -> None:
    order: list[str] = []
    has_begun = asyncio.Event()

    async def busy(number: int) -> None:
        until = time.perf_counter() + 0.006  # longer than a drive goes on without a turn of the loop
        while time.perf_counter() < until:
            has_begun.set()
        order.append(f"task {number}")

    with Flow("busy") as flow:
        task(busy).map([1, 2, 3])
    running = asyncio.ensure_future(FlowRunner(flow).run())
    await has_begun.wait()
    order.append("a turn")
    assert (await running).is_successful()
    assert order == ["task 1", "task 2", "task 3", "a turn"]


async def test_what_is_ready_comes_before_any_timer() -> None:
    seen: list[str] = []
    asyncio.get_running_loop().call_later(0.000001, seen.append, "timer")
    for turn in range(100):
        await asyncio.sleep(0)
        seen.append(f"turn {turn}")
    await anyio.sleep(1)
    assert seen == [f"turn {turn}" for turn in range(100)] + ["timer"]


async def test_timeouts_fire_when_they_are_due() -> None:
    loop = asyncio.get_running_loop()
    with anyio.move_on_after(7) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert loop.time() == 7
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 3)
    assert loop.time() == 10


async def test_the_wall_clock_follows_and_is_in_the_context() -> None:
    assert now() == START
    await anyio.sleep(DAY)
    assert now() == at(DAY)
    assert await anyio.to_thread.run_sync(now) == at(DAY)
    assert VirtualClock(start=START).now() == START


async def test_a_clock_of_the_callers_own_stays() -> None:
    class Stopped:
        def now(self) -> datetime.datetime:
            return at(5)

    async def body() -> datetime.datetime:
        return now()

    with context(clock=Stopped()):
        assert await asyncio.create_task(body()) == at(5)
    assert await asyncio.create_task(body()) == START


def test_the_start_can_be_chosen_and_the_clock_does_not_stay_behind() -> None:
    async def body() -> datetime.datetime:
        return now()

    moment = datetime.datetime(1999, 12, 31, tzinfo=datetime.UTC)
    assert run(body(), start=moment) == moment
    assert abs(now() - SystemClock().now()) < datetime.timedelta(minutes=1)


async def test_time_stands_still_while_a_thread_is_awaited() -> None:
    loop = asyncio.get_running_loop()
    fired: list[float] = []
    loop.call_later(DAY, lambda: fired.append(loop.time()))
    await anyio.to_thread.run_sync(time.sleep, 0.05)
    await asyncio.to_thread(time.sleep, 0.05)
    await loop.run_in_executor(None, time.sleep, 0.05)
    assert loop.time() == 0
    assert fired == []
    await anyio.sleep(DAY)
    assert fired == [DAY]


async def test_a_timer_fires_while_a_thread_works_once_it_would_really_be_due() -> None:
    release = threading.Event()
    began = time.monotonic()
    with anyio.move_on_after(0.2) as scope:
        await anyio.to_thread.run_sync(release.wait, abandon_on_cancel=True)
    assert scope.cancelled_caught
    assert time.monotonic() - began >= 0.2
    release.set()


async def test_threads_that_end_earlier_do_not_put_a_due_timer_off() -> None:
    release = threading.Event()

    async def others() -> None:
        while not release.is_set():
            await anyio.to_thread.run_sync(time.sleep, 0.05)

    async with anyio.create_task_group() as group:
        group.start_soon(others)
        with anyio.move_on_after(0.3) as scope:
            await anyio.to_thread.run_sync(release.wait, abandon_on_cancel=True)
        release.set()
    assert scope.cancelled_caught


async def test_an_abandoned_thread_is_not_waited_for() -> None:
    release = threading.Event()
    with anyio.move_on_after(0.01):
        await anyio.to_thread.run_sync(release.wait, abandon_on_cancel=True)
    with anyio.move_on_after(0.01):
        await asyncio.to_thread(release.wait)
    began = time.monotonic()
    await anyio.sleep(DAY)
    assert time.monotonic() - began < 10
    release.set()


async def test_what_arrives_on_a_socket_comes_before_a_later_timer() -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    answer = asyncio.create_task(loop.sock_recv(left, 10))
    await asyncio.sleep(0)
    await loop.sock_sendall(right, b"hello")
    with anyio.fail_after(DAY):
        assert await answer == b"hello"
    assert loop.time() < DAY
    left.close()
    right.close()


def test_a_server_and_its_client_on_one_loop() -> None:
    async def main() -> float:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            with anyio.fail_after(3600):
                writer.write(b"hello\n")
                assert await reader.read() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()
        await anyio.sleep(DAY)
        return asyncio.get_running_loop().time()

    # patient enough for a busy machine: the timeout above must not be what ends the wait
    assert run(main(), patience=5) >= DAY


async def test_a_silent_socket_does_not_stop_the_time() -> None:
    left, right = socket.socketpair()
    asyncio.get_running_loop().add_reader(left, lambda: None)
    await anyio.sleep(DAY)
    asyncio.get_running_loop().remove_reader(left)
    left.close()
    right.close()


def test_time_stands_still_while_a_sqlite_file_is_read() -> None:
    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        async with aiosqlite.connect(":memory:") as database:
            await database.create_function("slow", 0, lambda: time.sleep(0.05) or "done")
            with anyio.fail_after(DAY):
                async with database.execute("SELECT slow()") as rows:
                    [[found]] = await rows.fetchall()
            return found, loop.time()

    assert run(main(), patience=0) == ("done", 0)


def test_the_thread_of_another_library_gets_the_patience() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        def work() -> None:
            time.sleep(0.05)
            loop.call_soon_threadsafe(answer.set_result, "done")

        thread = threading.Thread(target=work)
        thread.start()
        with anyio.fail_after(DAY):
            found = await answer
        thread.join()
        return found

    assert run(main(), patience=10) == "done"


def test_a_thread_that_reports_and_ends_in_between_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(answer.set_result, "done"))

        def ends_while_looked_for(self: VirtualLoop) -> bool:
            if thread.ident is None:
                thread.start()
                thread.join()
            return False

        monkeypatch.setattr(VirtualLoop, "other_threads", ends_while_looked_for)
        return await answer

    assert run(main()) == "done"


def test_no_time_is_left_to_a_thread_that_tells_the_loop_nothing() -> None:
    async def main() -> bool:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        with watched_loop():
            assert any(thread.name == "flowloop watchdog" for thread in threading.enumerate())
            loop._threads_before = {one for one in loop._threads_before if one.name != "flowloop watchdog"}
            return loop.other_threads()

    assert not run(main())


def test_a_child_process_gets_the_patience() -> None:
    async def main() -> bytes:
        script = "import time; time.sleep(0.05); print('done')"
        with anyio.fail_after(DAY):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            found, _ = await process.communicate()
        return found.strip()

    assert run(main(), patience=30) == b"done"


def test_waiting_for_nothing_is_an_error_that_says_who_waits() -> None:
    async def stuck_here() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match=r"everything waits(.|\n)*stuck_here"):
        run(stuck_here())


async def test_waits_too_short_for_the_time_end_all_the_same() -> None:
    # so far from zero that one microsecond is less than the distance between two floats
    await anyio.sleep(1e9)  # noqa: ASYNC116
    await anyio.sleep(1e-6)
    await asyncio.sleep(1e-9)


def test_the_loop_is_a_factory_for_the_runner_of_asyncio() -> None:
    async def main() -> float:
        await asyncio.sleep(DAY)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == DAY
        assert runner.run(main()) == 2 * DAY


def test_the_loop_is_a_factory_for_anyio() -> None:
    async def main() -> float:
        await anyio.sleep(DAY)
        return anyio.current_time()

    assert anyio.run(main, backend_options={"loop_factory": VirtualLoop}) == DAY
    assert "clock" not in context
