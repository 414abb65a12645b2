"""Whose flow run it is: refused, followed, lost, and given up."""

import asyncio

import anyio
import msgspec
import pytest

from flowloop.engine import Flow, context, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.errors import BackendUnavailable, FlowloopError, FlowRunOwned, OwnershipLost
from flowloop.engine.state import Failed, Running, Success
from flowloop.engine.testing import FaultyBackend

pytestmark = pytest.mark.virtual_time


def at():
    return asyncio.get_running_loop().time()


@pytest.fixture
def settings(settings):
    return msgspec.structs.replace(settings, heartbeat_interval=5.0)


class Mapped:
    """A flow of three children of ten seconds each, and who ran them."""

    def __init__(self):
        self.ran = []

        @task
        async def work(n):
            self.ran.append((context.get("who"), n))
            await anyio.sleep(10)
            return n

        with Flow("mapped") as self.flow:
            self.work = work.map([1, 2, 3])

    def begin(self, backend, settings, flow_run_id, who, **options):
        runner = CloudFlowRunner(self.flow, backend=backend, settings=settings, **options)
        given = {"flow_run_id": flow_run_id, "who": who}
        return asyncio.create_task(runner.run(context=given))


async def dies(backend, running):
    """Let a runner end as if its process had been killed: nothing of it reaches its backend any more."""
    for method in ("set_flow_run_state", "set_task_run_state", "update_flow_run_heartbeat", "release_flow_run"):
        backend.fail(method, BackendUnavailable("gone"), times=None)
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("apart", [0, 0.001, 3, 9])
async def test_a_second_runner_follows_if_it_is_to(backend, settings, apart):
    mapped = Mapped()
    flow_run_id = await create_flow_run(mapped.flow, backend, settings=settings)
    first = mapped.begin(backend, settings, flow_run_id, "first", if_owned="follow")
    await anyio.sleep(apart)
    second = mapped.begin(backend, settings, flow_run_id, "second", if_owned="follow")
    states = await asyncio.gather(first, second)
    assert [type(state) for state in states] == [Success, Success]
    assert sorted(n for _, n in mapped.ran) == [1, 2, 3]
    assert at() == pytest.approx(10, abs=0.5)


async def test_who_follows_goes_on_when_the_owner_dies(backend, settings):
    mapped, faulty = Mapped(), FaultyBackend(backend)
    flow_run_id = await create_flow_run(mapped.flow, backend, settings=settings)
    first = mapped.begin(faulty, settings, flow_run_id, "first")
    await anyio.sleep(1)
    second = mapped.begin(backend, settings, flow_run_id, "second", if_owned="follow")
    await anyio.sleep(1)
    await dies(faulty, first)
    assert type(await second) is Success
    assert sorted(mapped.ran) == [(who, n) for who in ("first", "second") for n in (1, 2, 3)]
    assert 20 <= at() < 30, "the lease of ten seconds, and the ten seconds of the bodies"


async def test_there_is_nothing_to_follow_before_a_run(memory, settings):
    with pytest.raises(FlowloopError, match="call run first"):
        await CloudFlowRunner(Mapped().flow, backend=memory, settings=settings).follow()


async def test_under_one_key_one_run_goes_on_and_all_have_its_end(backend, settings):
    mapped = Mapped()

    async def order(key):
        runner = CloudFlowRunner(mapped.flow, backend=backend, settings=settings)
        return await runner.run(idempotency_key=key), runner.flow_run_id

    (one, first), (two, second) = await asyncio.gather(order("order-17"), order("order-17"))
    three, third = await order("order-17")
    assert {type(state) for state in (one, two, three)} == {Success}
    assert first == second == third
    assert len(mapped.ran) == 3
    _, other = await order("order-18")
    assert other != first
    assert len(mapped.ran) == 6


async def test_an_owner_that_was_stopped_begins_nothing_when_it_awakes(backend, settings):
    mapped, stopped = Mapped(), FaultyBackend(backend)
    stopped.delay("get_task_run_infos", 60)
    flow_run_id = await create_flow_run(mapped.flow, backend, settings=settings)
    first = mapped.begin(stopped, settings, flow_run_id, "first")
    await anyio.sleep(1)
    second = mapped.begin(backend, settings, flow_run_id, "second", takeover=True)
    with pytest.raises(OwnershipLost, match="goes on there"):
        await first
    assert type(await second) is Success
    assert mapped.ran == [("second", n) for n in (1, 2, 3)]
    assert type(await backend.get_flow_run_state(flow_run_id)) is Success


@pytest.mark.parametrize("late", [12.5, 15], ids=["before", "with"])
async def test_nothing_begins_when_the_lease_may_have_run_out(backend, settings, late):
    class HeardLate(FaultyBackend):
        """Says late that a Running is recorded, before its owner's next heartbeat or with it."""

        async def _called(self, call, args, kwargs):
            answer = await super()._called(call, args, kwargs)
            if call.method == "set_task_run_state" and call.arguments["state"].is_running():
                await anyio.sleep(late)
            return answer

    mapped, slow = Mapped(), HeardLate(backend)
    slow.fail("update_flow_run_heartbeat", BackendUnavailable("away"), times=2)
    flow_run_id = await create_flow_run(mapped.flow, backend, settings=settings)
    first = mapped.begin(slow, settings, flow_run_id, "first")
    await anyio.sleep(11)
    second = mapped.begin(backend, settings, flow_run_id, "second")
    with pytest.raises(OwnershipLost):
        await first
    assert type(await second) is Success
    assert mapped.ran == [("second", n) for n in (1, 2, 3)]


async def test_a_run_that_waits_for_a_place_is_still_its_runners(memory, settings):
    memory.flow_run_limit = 1
    busy, waits = Mapped(), Mapped()
    ids = [await create_flow_run(one.flow, memory, settings=settings) for one in (busy, waits)]
    first = busy.begin(memory, settings, ids[0], "first")
    await anyio.sleep(1)
    second = waits.begin(memory, settings, ids[1], "second")
    await anyio.sleep(25)
    with pytest.raises(FlowRunOwned):
        await waits.begin(memory, settings, ids[1], "third")
    assert await memory.reserve_flow_runs("worker") == []
    assert type(await first) is type(await second) is Success


async def test_a_run_that_is_lost_while_it_waits_for_a_place_goes_on_elsewhere(memory, settings):
    memory.flow_run_limit = 1
    busy, waits = Mapped(), Mapped()
    ids = [await create_flow_run(one.flow, memory, settings=settings) for one in (busy, waits)]
    first = busy.begin(memory, settings, ids[0], "first")
    await anyio.sleep(1)
    second = waits.begin(memory, settings, ids[1], "second")
    await anyio.sleep(1)
    third = waits.begin(memory, settings, ids[1], "third", takeover=True)
    with pytest.raises(OwnershipLost):
        await second
    assert type(await first) is type(await third) is Success
    assert {who for who, _ in waits.ran} == {"third"}


async def test_a_run_that_ends_unfinished_is_nobodys(memory, settings):
    @task(max_retries=1, retry_delay=3600)
    async def flaky():
        raise ValueError("once")

    with Flow("late") as flow:
        flaky()
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    assert not (await runner.run()).is_finished()
    assert (await memory.get_flow_run_info(runner.flow_run_id)).owner is None


async def test_a_run_whose_owners_die_is_failed_and_says_so(backend, settings):
    mapped = Mapped()
    flow_run_id = await create_flow_run(mapped.flow, backend, settings=settings)
    settings = msgspec.structs.replace(settings, max_lapses=2)
    for who in ("first", "second"):
        faulty = FaultyBackend(backend)
        running = mapped.begin(faulty, settings, flow_run_id, who)
        await anyio.sleep(5)
        await dies(faulty, running)
        assert type(await backend.get_flow_run_state(flow_run_id)) is Running
        await anyio.sleep(11)
    state = await mapped.begin(backend, settings, flow_run_id, "third")
    assert type(state) is Failed
    assert "2 times" in state.message
    assert {who for who, _ in mapped.ran} == {"first", "second"}
