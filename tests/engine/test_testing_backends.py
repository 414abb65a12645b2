"""The backends that remember every call, and that fail when told to."""

from __future__ import annotations

import datetime
import inspect
from typing import Any

import anyio
import pytest

from flowloop.backends.memory.backend import MemoryBackend
from flowloop.engine import Flow, task
from flowloop.engine.backend import Backend
from flowloop.engine.errors import BackendRejected, BackendUnavailable, VersionLockMismatch
from flowloop.engine.state import Failed, Pending, Queued, Running, Scheduled, Success
from flowloop.engine.testing import Call, FaultyBackend, RecordingBackend

pytestmark = pytest.mark.virtual_time


async def flow_run(backend: Backend) -> str:
    with Flow("recorded") as flow:
        task(lambda: 1, name="one")()
    registered = await backend.register_flow(flow.serialize(), project_name="tests")
    return await backend.create_flow_run(registered.id)


async def test_calls_are_remembered_with_their_arguments_by_name() -> None:
    async with RecordingBackend(MemoryBackend()) as backend:
        run_id = await flow_run(backend)
        state = Running("go")
        await backend.set_flow_run_state(run_id, 1, state)
        await backend.set_flow_run_state(run_id, version=None, state=Success())
    assert [call.method for call in backend.calls] == [
        "register_flow",
        "create_flow_run",
        "set_flow_run_state",
        "set_flow_run_state",
    ]
    running, success = backend.calls_of("set_flow_run_state")
    assert running.arguments == {"flow_run_id": run_id, "version": 1, "state": state}
    assert running.answer is state
    assert success.arguments["version"] is None


async def test_the_recorded_backend_does_the_work() -> None:
    memory = MemoryBackend("memory://mine")
    backend = RecordingBackend(memory)
    run_id = await flow_run(backend)
    assert backend.url == "memory://mine"
    assert type(await memory.get_flow_run_state(run_id)) is Scheduled
    assert backend.heartbeats == memory.heartbeats == {}
    watched = backend.watch_flow_run(run_id)
    assert watched is not None
    async with watched as states:
        assert type(await anext(aiter(states))) is Scheduled


async def test_what_a_call_raises_is_remembered_and_raised() -> None:
    backend = RecordingBackend(MemoryBackend())
    with pytest.raises(BackendRejected) as raised:
        await backend.get_flow_run_info("nobody")
    assert backend.calls[0] == Call("get_flow_run_info", {"flow_run_id": "nobody"}, error=raised.value)


async def test_a_call_that_was_cut_short_is_remembered() -> None:
    slow = FaultyBackend(MemoryBackend())
    slow.delay("list_flow_runs", 3600)
    backend = RecordingBackend(slow)
    with anyio.move_on_after(60):
        await backend.list_flow_runs()
    assert isinstance(backend.calls[0].error, anyio.get_cancelled_exc_class())


@pytest.mark.parametrize("wrapper", [RecordingBackend, FaultyBackend])
async def test_every_method_of_the_port_is_passed_on(wrapper: Any) -> None:
    """A new method of the port must get its line here."""
    port = {name for name in vars(Backend) if not name.startswith("_") and callable(getattr(Backend, name))}

    class Everything:
        url = ""

        def __getattr__(self, name: str) -> Any:
            async def answer(*args: Any, **kwargs: Any) -> Any:
                return name, args, kwargs

            if name not in port:
                raise AttributeError(name)
            return answer

    backend = wrapper(Everything())
    for name in sorted(port - {"watch_flow_run", "watch_ready"}):
        assert inspect.iscoroutinefunction(getattr(type(backend), name)), name
        signature = inspect.signature(getattr(Backend, name))
        given = {parameter: object() for parameter in list(signature.parameters)[1:]}
        assert await getattr(backend, name)(**given) == (name, (), given)


async def test_a_wrong_call_is_an_error_of_the_caller() -> None:
    backend: Any = RecordingBackend(MemoryBackend())
    with pytest.raises(TypeError, match="flow_run_id"):
        await backend.get_flow_run_info()
    with pytest.raises(AttributeError, match="no_such_thing"):
        backend.no_such_thing  # noqa: B018
    assert backend.calls == []


async def test_the_nth_call_fails_and_those_around_it_do_not() -> None:
    backend = FaultyBackend(MemoryBackend())
    backend.fail("list_flow_runs", BackendUnavailable("gone"), nth=2, times=2)
    outcomes = []
    for _ in range(5):
        try:
            outcomes.append(await backend.list_flow_runs())
        except BackendUnavailable:
            outcomes.append("gone")
    assert outcomes == [[], "gone", "gone", [], []]
    assert backend.counts == {"list_flow_runs": 5}


async def test_a_failed_call_does_not_reach_the_backend_unless_only_its_answer_is_lost() -> None:
    backend = FaultyBackend(MemoryBackend())
    run_id = await flow_run(backend)
    backend.fail("set_flow_run_state", VersionLockMismatch("moved"), where=lambda sent: sent["state"].is_running())
    backend.fail("set_flow_run_state", BackendUnavailable("lost"), after=True, where=lambda s: s["state"].is_failed())
    with pytest.raises(VersionLockMismatch):
        await backend.set_flow_run_state(run_id, None, Running())
    assert type(await backend.get_flow_run_state(run_id)) is Scheduled
    with pytest.raises(BackendUnavailable):
        await backend.set_flow_run_state(run_id, None, Failed())
    assert type(await backend.get_flow_run_state(run_id)) is Failed


async def test_answers_can_be_put_in_the_mouth_of_the_backend() -> None:
    backend = FaultyBackend(MemoryBackend())
    run_id = await flow_run(backend)
    queued = Queued(state=Pending())
    backend.answer("set_flow_run_state", queued, times=None)
    for _ in range(3):
        assert await backend.set_flow_run_state(run_id, 1, Running()) is queued
    assert type(await backend.get_flow_run_state(run_id)) is Scheduled


async def test_delays_pass_on_the_loops_clock() -> None:
    backend = FaultyBackend(MemoryBackend())
    backend.delay("list_flow_runs", datetime.timedelta(days=1).total_seconds())
    await backend.list_flow_runs()
    assert anyio.current_time() == 86400
    await backend.list_flow_runs()
    assert anyio.current_time() == 86400


async def test_a_fault_for_a_method_that_is_none_is_refused() -> None:
    backend = FaultyBackend(MemoryBackend())
    for wrong in ("set_state", "backend", "url", "_called"):
        with pytest.raises(AttributeError, match=f"no method '{wrong}'"):
            backend.fail(wrong, BackendUnavailable("gone"))
