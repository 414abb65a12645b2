"""A run that is faster than what records it waits, and does not start all of its tasks meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from flowloop.backends import connect
from flowloop.engine import Flow, task
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.state import Cancelled, Mapped, State, Success
from flowloop.engine.testing import RecordingBackend

_CHILDREN = 10_000


class Congested(RecordingBackend):
    """Acknowledges twenty states of task runs in each turn of the loop, which is slower than they come."""

    def __init__(self) -> None:
        super().__init__(connect("memory://"))
        self.most = 0
        self.reached = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def backlog(self) -> int:
        return len(self._waiting)

    async def set_task_run_state(self, *args: Any, **kwargs: Any) -> State:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.most = max(self.most, self.backlog)
        if self.most > 500:
            self.reached.set()
        await turn
        return await self.backend.set_task_run_state(*args, **kwargs)

    async def acknowledge(self) -> None:
        while True:
            for _ in range(min(20, len(self._waiting))):
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
            await asyncio.sleep(0)


@pytest.fixture
async def backend() -> Any:
    async with Congested() as backend:
        acknowledging = asyncio.create_task(backend.acknowledge())
        yield backend
        acknowledging.cancel()


@task
async def same(x: int) -> int:
    return x


def wide_flow() -> Flow:
    with Flow("wide") as flow:
        same.map(list(range(_CHILDREN)))
    return flow


async def test_a_run_goes_no_further_while_hundreds_of_its_states_wait(backend: Congested) -> None:
    flow = wide_flow()
    state = await CloudFlowRunner(flow, backend=backend).run()
    (mapped,) = (one for one in state.result.values() if isinstance(one, Mapped))
    assert [child.result for child in mapped.map_states] == list(range(_CHILDREN))
    assert 500 < backend.most < 2_000


async def test_a_run_that_waits_for_its_states_can_be_cancelled(backend: Congested) -> None:
    runner = CloudFlowRunner(wide_flow(), backend=backend)
    running = asyncio.create_task(runner.run())
    await backend.reached.wait()
    runner.cancel()
    state = await running
    assert isinstance(state, Cancelled)
    (mapped,) = (one for one in state.result.values() if isinstance(one, Mapped))
    kinds = {type(child) for child in mapped.map_states}
    assert kinds <= {Success, Cancelled}
    assert Cancelled in kinds
