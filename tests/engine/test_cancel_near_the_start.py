"""A recorded flow run that is stopped before it has really begun ends all the same, with its cause."""

import asyncio
import datetime

import anyio
import pytest

from flowloop.engine import Flow, task
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run
from flowloop.engine.state import Cancelled, Cancelling, Queued, Scheduled, Success, TimedOut
from flowloop.engine.testing import FaultyBackend

pytestmark = pytest.mark.virtual_time

CREATED = ["start_flow_run", "set_flow_run_state"]
GIVEN = ["get_flow_run_info", "set_flow_run_state"]
"""What a runner calls before the first task of a flow run that it creates, and of one that it is given."""


def small_flow(slow=""):
    """Return a flow. One that has a state handler is created first, and then Running by a call of its own."""

    @task
    async def one(): ...

    def handler(owner, old, new): ...

    with Flow("small", state_handlers=[handler] if slow == "set_flow_run_state" else []) as flow:
        one()
    return flow


async def by_task(runner, context):
    run = asyncio.create_task(runner.run(context=context))
    await anyio.sleep(5)
    run.cancel()
    await run


async def by_scope(runner, context):
    with anyio.fail_after(5):
        await runner.run(context=context)


async def by_timeout(runner, context):
    async with asyncio.timeout(5):
        await runner.run(context=context)


async def by_wait_for(runner, context):
    await asyncio.wait_for(runner.run(context=context), 5)


CALLERS = {by_task: "shutdown", by_scope: "timeout", by_timeout: "timeout", by_wait_for: "timeout"}


@pytest.mark.parametrize("stopped", CALLERS)
@pytest.mark.parametrize(("given", "slow"), [(False, slow) for slow in CREATED] + [(True, slow) for slow in GIVEN])
async def test_a_caller_that_stops_while_it_begins_leaves_it_ended(backend, settings, stopped, slow, given):
    """Whatever is on its way to the backend then."""
    flow = small_flow(slow)
    context = {"flow_run_id": await create_flow_run(flow, backend, settings=settings)} if given else {}
    faulty = FaultyBackend(backend)
    faulty.delay(slow, 6)
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await stopped(CloudFlowRunner(flow, backend=faulty, settings=settings), context)
    [run] = await backend.list_flow_runs()
    state = await backend.get_flow_run_state(run.id)
    assert (type(state), state.context["cause"]) == (Cancelled, CALLERS[stopped])
    _, task_runs = await backend.get_flow_run_history(run.id)
    assert [one.states[-1].state for one in task_runs] == ["Cancelled"] or slow != "set_flow_run_state"


@pytest.mark.parametrize("slow", CREATED)
async def test_a_runner_that_is_cancelled_while_it_begins(backend, settings, slow):
    flow = small_flow(slow)
    faulty = FaultyBackend(backend)
    faulty.delay(slow, 6)
    runner = CloudFlowRunner(flow, backend=faulty, settings=settings)
    run = asyncio.create_task(runner.run())
    await anyio.sleep(5)
    runner.cancel("user")
    assert type(await run) is Cancelled
    [recorded] = await backend.list_flow_runs()
    assert (await backend.get_flow_run_state(recorded.id)).context["cause"] == "user"


@pytest.mark.parametrize("slow", [*GIVEN, "set_task_run_state"])
@pytest.mark.parametrize("later", [False, True])
async def test_a_cancel_through_the_api_while_it_begins(backend, settings, slow, later):
    """Before what is on its way arrives, or before its answer does."""
    flow = small_flow()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    faulty = FaultyBackend(backend)

    class Deaf(FaultyBackend):
        def watch_flow_run(self, flow_run_id):
            return None

        async def _called(self, call, args, kwargs):
            answer = await super()._called(call, args, kwargs)
            if later and call.method == slow:
                await anyio.sleep(6)
            return answer

    faulty = Deaf(backend)
    if not later:
        faulty.delay(slow, 6)
    runner = CloudFlowRunner(flow, backend=faulty, settings=settings)
    run = asyncio.create_task(runner.run(context={"flow_run_id": flow_run_id}))
    await anyio.sleep(5)
    await backend.cancel_flow_run(flow_run_id)
    assert type(await run) is Cancelled
    assert anyio.current_time() < 30, "long before it is asked for its cancellation"
    assert type(await backend.get_flow_run_state(flow_run_id)) is Cancelled
    _, task_runs = await backend.get_flow_run_history(flow_run_id)
    assert [one.states[-1].state for one in task_runs] == ["Cancelled"] or slow == "set_task_run_state"


async def test_a_run_of_another_owner_is_left_to_it_by_one_who_follows(backend, settings):
    flow = small_flow()
    flow_run_id = await create_flow_run(flow, backend, settings=settings, owner="another", lease_seconds=60)
    runner = CloudFlowRunner(flow, backend=backend, settings=settings, if_owned="follow")
    with anyio.move_on_after(5):
        await runner.run(context={"flow_run_id": flow_run_id})
    assert (await backend.get_flow_run_state(flow_run_id)).is_pending()


@pytest.mark.parametrize("stopped", CALLERS)
async def test_a_caller_that_stops_while_the_run_waits_for_a_place(memory, settings, stopped):
    flow = small_flow()
    flow_run_id = await create_flow_run(flow, memory, settings=settings)
    faulty = FaultyBackend(memory)
    await memory.set_flow_run_state(flow_run_id, None, Scheduled())
    queued = Queued("no room", start_time=asyncio.get_running_loop().clock.now() + datetime.timedelta(seconds=30))
    faulty.answer("set_flow_run_state", queued, where=lambda sent: sent["state"].is_running(), times=None)
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await stopped(CloudFlowRunner(flow, backend=faulty, settings=settings), {"flow_run_id": flow_run_id})
    state = await memory.get_flow_run_state(flow_run_id)
    assert (type(state), state.context["cause"]) == (Cancelled, CALLERS[stopped])


# -- sections of the user's own --------------------------------------------------------------------------


class Publishing(CloudFlowRunner):
    """A runner that does something of its own before or after the tasks, or around them."""

    def __init__(self, *args, where, **kwargs):
        super().__init__(*args, **kwargs)
        self.where = where
        self.went_on = self.was_cut = False

    async def publish(self):
        async with self.check_for_cancellation():
            try:
                await anyio.sleep(60)
            except asyncio.CancelledError:
                self.was_cut = True
                raise
        self.went_on = True

    async def get_flow_run_state(self, state, **kwargs):
        if self.where == "before":
            await self.publish()
        if self.where != "around":
            return await super().get_flow_run_state(state, **kwargs)
        async with self.check_for_cancellation():
            final = await super().get_flow_run_state(state, **kwargs)
            self.went_on = True
            return final

    async def determine_final_state(self, *args, **kwargs):
        if self.where in ("after", "twice"):
            await self.publish()
        if self.where == "twice":
            await self.publish()
        return await super().determine_final_state(*args, **kwargs)


@pytest.mark.parametrize("where", ["before", "after", "twice", "around"])
async def test_a_section_is_cut_short_by_a_cancel_and_no_success_is_recorded_over_it(backend, settings, where):
    @task
    async def one():
        if where == "around":
            await anyio.sleep(60)

    with Flow("published") as flow:
        made = one()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)
    runner = Publishing(flow, backend=backend, settings=settings, where=where)
    run = asyncio.create_task(runner.run(context={"flow_run_id": flow_run_id}))
    await anyio.sleep(5)
    await backend.cancel_flow_run(flow_run_id)
    state = await run
    assert anyio.current_time() < 30
    assert type(state) is Cancelled
    assert runner.went_on, "the code after the section goes on"
    assert runner.was_cut is (where != "around")
    assert type(state.result[made]) is (Success if where in ("after", "twice") else Cancelled)
    assert type(await backend.get_flow_run_state(flow_run_id)) is Cancelled


@pytest.mark.parametrize(
    ("where", "stop", "kind"),
    [
        ("before", "cancel", Cancelled),
        ("after", "cancel", Cancelled),
        ("twice", "cancel", Cancelled),
        ("after", "time", TimedOut),
    ],
)
async def test_a_section_that_the_runner_cuts_short_ends_as_the_api_would_end_it(backend, settings, where, stop, kind):
    runner = Publishing(small_flow(), backend=backend, settings=settings, where=where)
    run = asyncio.create_task(runner.run())
    await anyio.sleep(5)
    if stop == "cancel":
        runner.cancel()
    else:
        runner._end_for_time(5)
    state = await run
    recorded = await backend.get_flow_run_state(runner.flow_run_id)
    assert [type(state), type(recorded)] == [kind, kind]
    assert recorded.context["cause"] == ("user" if kind is Cancelled else "timeout")
    assert (runner.went_on, runner.was_cut) == (True, True)


@pytest.mark.parametrize("stopped", CALLERS)
async def test_the_callers_cancel_goes_through_a_section(backend, settings, stopped):
    runner = Publishing(small_flow(), backend=backend, settings=settings, where="after")
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await stopped(runner, {})
    assert (runner.was_cut, runner.went_on) == (True, False)
    [run] = await backend.list_flow_runs()
    state = await backend.get_flow_run_state(run.id)
    assert (type(state), state.context["cause"]) == (Cancelled, CALLERS[stopped])


async def test_nothing_is_recorded_over_cancelling_but_cancelled(backend, settings):
    """The request comes while the last state is being made, and the listener has not heard of it."""
    flow = small_flow()
    flow_run_id = await create_flow_run(flow, backend, settings=settings)

    async def cancels(flow, old, new):
        if new.is_finished() and not isinstance(new, Cancelled):
            await backend.cancel_flow_run(flow_run_id)

    flow.state_handlers.append(cancels)
    runner = CloudFlowRunner(flow, backend=backend, settings=settings)
    state = await runner.run(context={"flow_run_id": flow_run_id})
    assert type(state) is Cancelled
    assert type(await backend.get_flow_run_state(flow_run_id)) is not Cancelling


@pytest.mark.parametrize("stopped", ["before", "inside"])
async def test_a_section_that_awaits_nothing_leaves_no_cancel_behind(memory, settings, stopped):
    went_on = []

    class Quick(CloudFlowRunner):
        async def determine_final_state(self, *args, **kwargs):
            if stopped == "before":
                self.cancel()
            async with self.check_for_cancellation():
                if stopped == "inside":
                    self.cancel()
            await anyio.sleep(1)
            went_on.append(anyio.current_time())
            return await super().determine_final_state(*args, **kwargs)

    with Flow("quick") as flow:
        task(lambda: 1, name="one")()
    await Quick(flow, backend=memory, settings=settings).run()
    assert went_on == [1]
