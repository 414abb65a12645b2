"""What a body leaves at a place that keeps values: which jobs may, and where their results are written."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from flowloop.engine import Flow, FlowRunner, task
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.executors import LocalExecutor, place
from flowloop.engine.executors._ticket import TaskTicket
from flowloop.engine.results import LocalResult

pytestmark = pytest.mark.virtual_time


class Far(LocalExecutor):
    """Keeps what its bodies return, and writes results into a folder that may be out of sight from here."""

    def __init__(self, *, keeps=True, is_large=True, is_in_sight=True):
        super().__init__()
        self.keeps, self.is_large, self.is_in_sight = keeps, is_large, is_in_sight
        self.jobs, self.fetched = {}, []

    @asynccontextmanager
    async def open(self):
        yield _Far(self)


class _Far(place.Place):
    def __init__(self, executor):
        self._executor = executor
        self.keeps_values = executor.keeps

    async def submit(self, job):
        self._executor.jobs[job.name] = job
        return TaskTicket(job, lambda ticket: self._work(job, ticket))

    async def _work(self, job, ticket):
        ticket.has_begun()
        inputs = {name: one.held if type(one) is place.Remote else one for name, one in job.inputs.items()}
        value = await job.body(**inputs)
        left = place.Remote(value) if job.keep and self._executor.is_large else value
        if job.store is None:
            return place.Done(left)
        stored = await job.store.write(value) if self._executor.is_in_sight else job.store.at("/out/of/sight")
        return place.Done(place.Stored(left, stored))

    async def fetch(self, remote):
        self._executor.fetched.append(remote.held)
        return remote.held


async def make():
    await asyncio.sleep(1)
    return [1, 2, 3]


async def total(numbers):
    return sum(numbers)


def made_and_taken(result=None, **options):
    with Flow("made", result=result) as flow:
        made = task(make, **options)()
        end = task(total)(made)
    return flow, made, end


RECORDED, CHECKPOINT, WRITTEN = "recorded", "checkpoint", "written"


@pytest.mark.parametrize(
    ("how", "keeps", "asked", "expected"),
    [
        ({WRITTEN}, True, False, (True, False)),
        ({RECORDED, CHECKPOINT, WRITTEN}, True, False, (True, True)),
        ({RECORDED, WRITTEN}, True, False, (True, False)),
        ({RECORDED, CHECKPOINT}, True, False, (False, False)),
        ({RECORDED}, True, False, (True, False)),
        ({WRITTEN}, False, False, (False, False)),
        ({RECORDED, CHECKPOINT, WRITTEN}, False, False, (False, False)),
        ({WRITTEN}, True, True, (False, False)),
        ({RECORDED, CHECKPOINT, WRITTEN}, True, True, (False, False)),
    ],
)
async def test_a_result_stays_where_only_bodies_take_it_and_nobody_here_has_to_write_it(
    memory, settings, tmp_path, how, keeps, asked, expected
):
    options = {"checkpoint": None if CHECKPOINT in how else False}
    flow, made, end = made_and_taken(LocalResult(tmp_path / "results") if WRITTEN in how else None, **options)
    executor = Far(keeps=keeps)
    runner = CloudFlowRunner(flow, backend=memory, settings=settings) if RECORDED in how else FlowRunner(flow)
    state = await runner.run(executor=executor, return_tasks=[end, *([made] if asked else [])])
    assert state.result[end].result == 6
    job = executor.jobs["make"]
    assert (job.keep, job.store is not None) == expected
    assert executor.jobs["total"].store is None


@pytest.mark.parametrize("is_large", [True, False])
@pytest.mark.parametrize("is_in_sight", [True, False])
async def test_what_was_written_out_of_sight_is_written_here(memory, settings, tmp_path, is_large, is_in_sight):
    flow, made, end = made_and_taken(LocalResult(tmp_path / "results"))
    executor = Far(is_large=is_large, is_in_sight=is_in_sight)
    runner = CloudFlowRunner(flow, backend=memory, settings=settings)
    state = await runner.run(executor=executor, return_tasks=[end])
    assert state.result[end].result == 6
    info = await memory.get_flow_run_info(runner.flow_run_id)
    [recorded] = [one.state for one in info.task_runs if one.task_slug == flow.slugs[made]]
    assert (await LocalResult(tmp_path / "results").read(recorded._result.location)).value == [1, 2, 3]
    # what lies there is brought here only to be written
    assert executor.fetched == ([[1, 2, 3]] if is_large and not is_in_sight else [])
