"""Listening to a flow run over HTTP: what a server may do with one who listens, done by a real one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flowloop.backends.client import GraphQLBackend
from flowloop.engine.errors import BackendRejected, BackendUnavailable, DialectError
from flowloop.engine.serialization import serialize_state
from flowloop.engine.settings import Settings
from flowloop.engine.state import Cancelling, Running, State

from .serving import serve

SETTINGS = Settings(outage_limit=1, api_key="sesame")


def event(state: State) -> bytes:
    data = {"data": {"flow_run_states": {"serialized_state": serialize_state(state)}}}
    return b"event: next\ndata: " + msgspec.json.encode(data) + b"\n\n"


RUNNING, CANCELLING = event(Running("it runs")), event(Cancelling("\u2028 and \x85 end no line"))
REFUSAL = {"data": {"flow_run_states": None}, "errors": [{"message": "not found", "path": ["flow_run_states"]}]}


class Script:
    """A server that answers who it is, and a subscription with what it is told to."""

    def __init__(self, answer: Response | list[bytes], *, breaks_off: bool = False) -> None:
        self.answer = answer
        self.breaks_off = breaks_off
        self.asked: list[tuple[dict[str, str], Any]] = []

    async def post(self, request: Request) -> Response:
        body = await request.json()
        if not body["query"].startswith("subscription"):
            return JSONResponse({"data": {"api": {"flowloop": "1"}}})
        self.asked.append((dict(request.headers), body["variables"]))
        if isinstance(self.answer, Response):
            return self.answer
        return StreamingResponse(self.pieces(self.answer), media_type="text/event-stream")

    async def pieces(self, pieces: list[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)
        if self.breaks_off:
            raise ConnectionAbortedError("the machine is switched off")


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    with serve(Starlette(routes=[Route("/", script.post, methods=["POST"])])) as url:
        yield url


async def heard(script: Script) -> list[State]:
    """Return all states that are heard until the stream ends."""
    with scripted(script) as url:
        async with GraphQLBackend(url, settings=SETTINGS) as backend:
            watching = backend.watch_flow_run("the-run")
            assert watching is not None
            async with asyncio.timeout(60), watching as states:
                return [state async for state in states]


async def test_states_come_in_order_until_the_server_says_that_there_are_no_more() -> None:
    script = Script([RUNNING, CANCELLING, b"event: complete\ndata: {}\n\n", RUNNING])
    assert [state.message for state in await heard(script)] == ["it runs", "\u2028 and \x85 end no line"]
    ((headers, variables),) = script.asked
    assert headers["authorization"] == "Bearer sesame"
    assert "text/event-stream" in headers["accept"]
    assert variables == {"id": "the-run"}


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_it_does_not_matter_how_the_bytes_are_cut(size: int) -> None:
    """A ping says nothing; two events may come at once, and one in many pieces."""
    stream = b":\n\n" + RUNNING + b":\n\n:\n\n" + CANCELLING + RUNNING
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert [type(state) for state in await heard(Script(pieces))] == [Running, Cancelling, Running]


async def test_who_gives_up_before_its_turn_opens_no_subscription() -> None:
    opened, asked = threading.Event(), threading.Event()  # the server is in a thread

    class Slow(Script):
        async def post(self, request: Request) -> Response:
            response = await super().post(request)
            if self.asked:
                asked.set()
                await asyncio.to_thread(opened.wait, 60)
            return response

    async def first_of(backend: GraphQLBackend, flow_run_id: str) -> State:
        watching = backend.watch_flow_run(flow_run_id)
        assert watching is not None
        async with watching as states:
            return await anext(states)

    script = Slow([RUNNING, CANCELLING])
    with scripted(script) as url:
        async with GraphQLBackend(url, settings=SETTINGS) as backend, asyncio.timeout(60):
            watchers = [asyncio.create_task(first_of(backend, f"run {number}")) for number in range(3)]
            await asyncio.to_thread(asked.wait, 60)
            watchers[1].cancel()
            opened.set()
            await asyncio.wait(watchers)
    assert watchers[0].result().is_running()
    assert watchers[2].result().is_running()
    assert [variables["id"] for _, variables in script.asked] == ["run 0", "run 2"]


@pytest.mark.parametrize("breaks_off", [False, True])
async def test_a_server_that_goes_away_ends_the_stream(breaks_off: bool) -> None:
    script = Script([RUNNING, CANCELLING[:20]], breaks_off=breaks_off)
    assert [type(state) for state in await heard(script)] == [Running]


async def test_a_server_that_says_nothing_for_long_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowloop.backends.client.subscription._QUIET", 3.0)
    silent = asyncio.Event()

    class Silent(Script):
        async def pieces(self, pieces: list[bytes]) -> AsyncIterator[bytes]:
            yield RUNNING
            await silent.wait()

    assert [type(state) for state in await heard(Silent([]))] == [Running]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (JSONResponse(REFUSAL), BackendRejected, "not found"),
        ([RUNNING, b"event: next\ndata: " + msgspec.json.encode(REFUSAL) + b"\n\n"], BackendRejected, "not found"),
        (JSONResponse({"data": {}}), DialectError, "something else than events"),
        (Response("go away", 403), BackendRejected, "FLOWLOOP_API_KEY"),
        (Response("busy", 503), BackendUnavailable, "503"),
        (Response("slow down", 429), BackendUnavailable, "429"),
        (Response("<html>", 404), BackendRejected, "404"),
        (Response("<html>", 200), DialectError, "GraphQL"),
        ([b"event: next\ndata: {\n\n"], DialectError, "not JSON"),
        ([b"event: next\ndata: 3\n\n"], DialectError, "no object"),
        ([b"event: next\ndata: {}\n\n"], DialectError, "no data"),
        ([b"nonsense\n\n"], DialectError, "not understood"),
        ([RUNNING.replace(b'"Running"', b'"Odd"')], DialectError, "Odd"),
    ],
)  # fmt: skip
async def test_what_cannot_be_listened_to_says_why(
    answer: Response | list[bytes], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await heard(Script(answer))


async def test_a_server_that_goes_away_while_it_refuses_is_unavailable() -> None:
    async def broken_off() -> AsyncIterator[bytes]:
        yield b'{"errors": ['
        raise ConnectionAbortedError("the machine is switched off")

    with pytest.raises(BackendUnavailable, match="no subscription"):
        await heard(Script(StreamingResponse(broken_off(), 400, media_type="application/json")))


async def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowloop.backends.client.subscription._LONGEST_EVENT", 1_000)
    with pytest.raises(BackendRejected, match="longer than 1,000 bytes"):
        await heard(Script([b"data: " + b"x" * 2_000] * 3))


async def test_a_server_that_has_gone_before_is_unavailable() -> None:
    with scripted(Script([])) as url:
        backend = await GraphQLBackend(url, settings=SETTINGS).__aenter__()
    try:
        watching = backend.watch_flow_run("the-run")
        assert watching is not None
        with pytest.raises(BackendUnavailable, match="no subscription"):
            await watching.__aenter__()
    finally:
        await backend.__aexit__()


async def test_many_listeners_take_no_turn_from_the_requests() -> None:
    """A transport has four connections; each listener has one of its own."""
    silent = asyncio.Event()

    class Silent(Script):
        async def pieces(self, pieces: list[bytes]) -> AsyncIterator[bytes]:
            yield RUNNING
            await silent.wait()

    with scripted(Silent([])) as url:
        async with GraphQLBackend(url, settings=SETTINGS) as backend, asyncio.timeout(60):
            watching = [backend.watch_flow_run("the-run") for _ in range(6)]
            for one in watching:
                assert one is not None
                states = await one.__aenter__()
                assert type(await anext(aiter(states))) is Running
            assert await backend._ask_who()
            for one in watching:
                assert one is not None
                await one.__aexit__(None, None, None)
