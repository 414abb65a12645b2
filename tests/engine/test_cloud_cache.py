"""Results that serve later flow runs, found in the database."""

import collections
import datetime
import os

import anyio
import pytest

from flowloop.engine import Flow, Parameter, task
from flowloop.engine.cache_validators import all_inputs, all_parameters
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import BackendRejected
from flowloop.engine.results import LocalResult
from flowloop.engine.state import Cached, Failed, Success
from flowloop.engine.testing import FaultyBackend, RecordingBackend

pytestmark = pytest.mark.virtual_time

HOUR = datetime.timedelta(hours=1)


class Fetching:
    """A flow whose first task is cached, and counts how often it runs."""

    def __init__(self, name="fetching", **options):
        self.ran = collections.Counter()

        @task(cache_for=HOUR, **options)
        async def fetch(page):
            self.ran[page] += 1
            return {"page": page, "bytes": b"not for JSON"}

        @task
        async def use(fetched):
            return fetched["page"]

        with Flow(name) as self.flow:
            page = Parameter("page", default=1)
            Parameter("other", default=1)
            self.fetch = fetch(page)
            self.use = use(self.fetch)

    async def run(self, backend, settings, **parameters):
        state = await CloudFlowRunner(self.flow, backend=backend, settings=settings).run(parameters=parameters)
        return state.result[self.fetch], state.result[self.use]


async def test_a_result_serves_the_next_flow_run_until_it_expires(backend, settings):
    fetching = Fetching()
    for wait, ran in [(0, 1), (1800, 1), (1700, 1), (200, 2), (0, 2)]:
        await anyio.sleep(wait)
        fetched, used = await fetching.run(backend, settings)
        assert isinstance(fetched, Cached)
        assert used.result == 1
        assert fetching.ran[1] == ran


async def test_what_was_served_does_not_live_longer_for_it(backend, settings):
    fetching = Fetching()
    first, _ = await fetching.run(backend, settings)
    await anyio.sleep(3000)
    second, _ = await fetching.run(backend, settings)
    assert second.cached_result_expiration == first.cached_result_expiration


@pytest.mark.parametrize(
    ("validator", "second", "ran"),
    [
        (all_inputs, {"page": 1, "other": 2}, 1),
        (all_inputs, {"page": 2, "other": 1}, 2),
        (all_parameters, {"page": 1, "other": 2}, 2),
        (all_parameters, {"page": 1, "other": 1}, 1),
        (lambda state, inputs, parameters: False, {"page": 1, "other": 1}, 2),
    ],
)
async def test_a_result_serves_where_its_validator_says_so(backend, settings, validator, second, ran):
    fetching = Fetching(cache_validator=validator)
    await fetching.run(backend, settings, page=1, other=1)
    await fetching.run(backend, settings, **second)
    assert sum(fetching.ran.values()) == ran


async def test_among_several_results_the_newest_valid_one_serves(backend, settings):
    fetching = Fetching(cache_validator=all_inputs)
    for page in (1, 2, 3):
        await fetching.run(backend, settings, page=page)
    _, used = await fetching.run(backend, settings, page=2)
    assert used.result == 2
    assert fetching.ran == {1: 1, 2: 1, 3: 1}


async def test_under_a_key_tasks_of_several_flows_share_results(backend, settings):
    one, other, apart = (
        Fetching("one", cache_key="pages"), Fetching("other", cache_key="pages"), Fetching("apart", cache_key="others")
    )  # fmt: skip
    for fetching in (one, other, apart):
        await fetching.run(backend, settings)
    assert (one.ran[1], other.ran[1], apart.ran[1]) == (1, 0, 1)


async def test_a_result_that_cannot_be_read_any_more_is_made_anew(backend, settings):
    fetching = Fetching()
    first, _ = await fetching.run(backend, settings)
    os.unlink(first._result.location)
    second, used = await fetching.run(backend, settings)
    assert used.result == 1
    assert fetching.ran[1] == 2
    assert second._result.location != first._result.location


async def test_a_validator_that_fails_fails_the_task(backend, settings):
    def broken(state, inputs, parameters):
        raise ValueError("cannot tell")

    fetching = Fetching(cache_validator=broken)
    await fetching.run(backend, settings)
    fetched, _ = await fetching.run(backend, settings)
    assert type(fetched) is Failed
    assert "cannot tell" in fetched.message


async def test_nothing_is_asked_of_the_backend_where_nothing_is_cached(backend, settings):
    @task
    async def plain(): ...

    with Flow("plain") as flow:
        flow.add_task(plain)
    recording = RecordingBackend(backend)
    await CloudFlowRunner(flow, backend=recording, settings=settings).run()
    assert recording.calls_of("get_latest_cached_states") == []


async def test_children_of_a_mapped_task_are_cached_each_by_itself(backend, settings):
    ran = []

    @task(cache_for=HOUR, cache_validator=all_inputs)
    async def fetch(page):
        ran.append(page)
        return [page]

    with Flow("mapped") as flow:
        fetched = fetch.map(Parameter("pages"))
    for pages in ([1, 2], [2, 3], [1, 2, 3]):
        state = await CloudFlowRunner(flow, backend=backend, settings=settings).run(parameters={"pages": pages})
        assert state.result[fetched].result == [[page] for page in pages]
    assert sorted(ran) == [1, 2, 3]  # the two of one run ask the cache at the same time


async def test_a_target_that_is_there_serves_and_a_continued_run_takes_it_again(backend, settings, tmp_path):
    ran = []

    @task(result=LocalResult(dir=str(tmp_path / "targets")), target="{name}.bin")
    async def make(name):
        ran.append(name)
        return {name}

    @task
    async def use(made):
        if len(ran) < 2:
            ran.append("failed once")
            raise ValueError
        return made

    with Flow("targets") as flow:
        made = make("a")
        used = use(made)
    failed = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
    assert type(failed.result[made]) is Success
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
    assert type(state.result[made]) is Cached
    assert state.result[used].result == {"a"}
    assert ran == ["a", "failed once"]

    [newest] = await backend.list_flow_runs(1)
    info = await backend.get_flow_run_info(newest.id)
    restarted = [run for run in info.task_runs if run.task_slug == "use-1"]
    from flowloop.engine.state import Pending, Scheduled

    await backend.set_task_run_state(restarted[0].id, None, Pending())
    await backend.set_flow_run_state(newest.id, None, Scheduled())
    state = await CloudFlowRunner(flow, backend=backend, settings=settings).run(context={"flow_run_id": newest.id})
    assert state.is_successful()
    assert state.result[used].result == {"a"}
    assert ran == ["a", "failed once"]


async def test_caches_that_cannot_be_read_are_told_of_and_made_anew(memory, settings, caplog):
    fetching = Fetching()
    faulty = FaultyBackend(memory)
    faulty.fail("get_latest_cached_states", BackendRejected("not today"))
    for ran in (1, 1):  # the second time they can be read
        _, used = await fetching.run(faulty, settings)
        assert (used.result, fetching.ran[1]) == (1, ran)
    told = [record.getMessage() for record in caplog.records if "cached states" in record.getMessage()]
    assert told == ["the cached states of fetch could not be read: not today"]
