"""The GraphQL client against canned answers: what it sends, and what it makes of what comes back."""

from __future__ import annotations

import asyncio
import datetime
import json
import random
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import httpx
import pytest

from flowloop.backends import connect
from flowloop.backends._circuit import CircuitState
from flowloop.backends.client.backend import GraphQLBackend
from flowloop.engine.backend import LogRecord, RegisteredFlow
from flowloop.engine.errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    DialectError,
    OwnershipLost,
    VersionLockMismatch,
)
from flowloop.engine.serialization import encode_state
from flowloop.engine.settings import Settings
from flowloop.engine.state import Queued, Running, State, Success
from flowloop.engine.testing import run as run_virtually

from .runs import MISSING

NOON = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)
Answer = httpx.Response | Exception | dict[str, Any]


class NoonClock:
    def now(self) -> datetime.datetime:
        return NOON


class Asked:
    """One request as the server sees it."""

    def __init__(self, request: httpx.Request) -> None:
        self.headers = request.headers
        self.url = str(request.url)
        self.content = request.content
        body = json.loads(request.content)
        self.text: str = body["query"]
        self.variables: dict[str, Any] = body["variables"]

    @property
    def key(self) -> str | None:
        return self.headers.get("X-FLOWLOOP-IDEMPOTENCY-KEY")


class Server:
    """Answers scripted things, and by default records whatever it is sent."""

    def __init__(self, *script: Answer, flowloop: bool = True, delay: float = 0.0) -> None:
        self.script = list(script)
        self.flowloop = flowloop
        self.delay = delay
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._at_once = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = Asked(request)
        if "flowloop" in asked.text:
            data = {"api": {"flowloop": "1.0"}}
            return answer(data) if self.flowloop else refused("Cannot query field", status=400)
        if "hello" in asked.text:
            return answer({"hello": "hi"})
        self.asked.append(asked)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay)
        finally:
            self._at_once -= 1
        scripted = self.script.pop(0) if self.script else None
        if isinstance(scripted, Exception):
            raise scripted
        if isinstance(scripted, httpx.Response):
            return scripted
        return answer(scripted if scripted is not None else recorded(asked))


def answer(data: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json={"data": data})


def refused(message: str, code: str = "INTERNAL_SERVER_ERROR", status: int = 200, **more: Any) -> httpx.Response:
    return httpx.Response(status, json={"errors": [{"message": message, "extensions": {"code": code}}], **more})


def recorded(asked: Asked) -> dict[str, Any]:
    """Acknowledge every field of a mutation."""
    data: dict[str, Any] = {}
    for key, field, variable in re.findall(r"(?:(\w+): )?(\w+)\(input: \$(\w+)\)", asked.text):
        content = asked.variables[variable]
        if "states" in content:
            data[key or field] = {
                "states": [{"status": "SUCCESS", "message": None, "code": None}] * len(content["states"])
            }
        else:
            data[key or field] = {"success": True, "id": f"id of {field}", "state": "Cancelled"}
    return data


def flow_run_row(flow_run_id: str) -> dict[str, Any]:
    """Return a flow run without tasks, as it is answered when it is read."""
    row: dict[str, Any] = dict.fromkeys(
        ("name", "serialized_state", "parameters", "context", "scheduled_start_time", "start_time", "heartbeat")
    )
    return {**row, "id": flow_run_id, "flow_id": "f", "version": 1, "flow": {"project": None}, "task_runs": []}


def backend_of(server: Callable[[httpx.Request], Awaitable[httpx.Response]], **options: Any) -> GraphQLBackend:
    options.setdefault("settings", Settings(outage_limit=60, api_key="the key"))
    options.setdefault("rng", random.Random(0))
    return GraphQLBackend(
        "http://user:secret@server:4200/", clock=NoonClock(), transport=httpx.MockTransport(server), **options
    )


def run(server: Server, use: Callable[[GraphQLBackend], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with backend_of(server, **options) as backend:
            await use(backend)

    run_virtually(main())


# ---- batches -----------------------------------------------------------------------------------------


def test_what_is_written_at_once_travels_in_one_request() -> None:
    server = Server()

    async def use(backend: GraphQLBackend) -> None:
        await asyncio.gather(
            backend.set_task_run_state("t1", 1, Running("one")),
            backend.set_task_run_name("t1", "first"),
            backend.set_task_run_state("t2", 5, Success("two")),
            backend.set_flow_run_state("f", 2, Running()),
            backend.set_task_run_name("t2", "second"),
            backend.update_flow_run_heartbeat("f"),
            backend.write_run_logs([LogRecord("f", None, NOON, "n", "INFO", "hello")]),
            backend.create_task_run_artifact("t1", "link", {"a": 1}),
        )

    run(server, use)
    [asked] = server.asked
    fields = re.findall(r"^  (\w+): (\w+)\(", asked.text, re.MULTILINE)
    assert fields == [
        ("set_task_run_name_1", "set_task_run_name"),
        ("set_task_run_name_2", "set_task_run_name"),
        ("set_task_run_states", "set_task_run_states"),
        ("set_flow_run_states", "set_flow_run_states"),
        ("update_flow_run_heartbeat_1", "update_flow_run_heartbeat"),
        ("create_task_run_artifact_1", "create_task_run_artifact"),
        ("write_run_logs", "write_run_logs"),
    ]
    states = asked.variables["set_task_run_states"]["states"]
    assert [(item["task_run_id"], item["version"], item["state"]["message"]) for item in states] == [
        ("t1", 1, "one"),
        ("t2", 5, "two"),
    ]
    assert asked.variables["set_task_run_name_2"] == {"task_run_id": "t2", "name": "second"}
    assert asked.variables["write_run_logs"]["logs"][0]["timestamp"] == "2030-01-01T12:00:00Z"


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        ({}, False),
        ({"archived": True}, True),
        ({"flow_group": {"settings": {"idempotency_key": "another"}}}, True),
        ({"flow_group": {"settings": None}}, True),
        ({"version_group_id": "another"}, True),
    ],
)
def test_a_flow_that_the_server_has_is_not_sent_again(changes: dict[str, Any], sent: bool) -> None:
    newest = {
        "id": "f",
        "version": 3,
        "archived": False,
        "version_group_id": "g",
        "flow_group": {"settings": {"idempotency_key": "k"}},
    }
    server = Server(
        {"project": [{"id": "p"}]},
        {"flow": [newest | changes]},
        {"create_flow_from_compressed_string": {"id": "new"}},
        {"flow_by_pk": {"id": "new", "version": 4}},
    )

    async def use(backend: GraphQLBackend) -> None:
        found = await backend.register_flow(
            {"name": "n"}, project_name="demo", version_group_id="g", idempotency_key="k"
        )
        assert found == (RegisteredFlow("new", 4, created=True) if sent else RegisteredFlow("f", 3, created=False))

    run(server, use)
    assert len(server.asked) == (4 if sent else 2)


def test_flow_runs_that_are_read_at_once_are_read_in_one_request_unless_that_is_too_much() -> None:
    ids = [str(uuid.UUID(int=number)) for number in range(4)]
    too_much = refused("reads more than 50000 rows", "TOO_MUCH", data={"flow_run": None})
    server = Server(too_much, *({"flow_run": [flow_run_row(one) for one in some]} for some in (ids[:2], ids[2:])))

    async def use(backend: GraphQLBackend) -> None:
        infos = await asyncio.gather(*map(backend.get_flow_run_info, ids))
        assert [info.id for info in infos] == ids

    run(server, use)
    assert [asked.variables["ids"] for asked in server.asked] == [ids, ids[:2], ids[2:]]
    assert len({asked.variables["limit"] for asked in server.asked}) == 1, "fewer runs at once come before fewer rows"


def test_the_same_kind_of_batch_has_the_same_document() -> None:
    server = Server()

    async def use(backend: GraphQLBackend) -> None:
        for number in range(3):
            await asyncio.gather(*(backend.set_task_run_state(f"t{n}", 1, Running()) for n in range(number + 1)))

    run(server, use)
    assert len(server.asked) == 3
    assert len({asked.text for asked in server.asked}) == 1


def test_fields_of_their_own_are_at_most_fifty_in_a_request() -> None:
    server = Server()

    async def use(backend: GraphQLBackend) -> None:
        await asyncio.gather(*(backend.set_task_run_name(f"t{number}", "name") for number in range(120)))

    run(server, use)
    assert [len(asked.variables) for asked in server.asked] == [50, 50, 20]


def test_long_logs_travel_in_portions_and_an_endless_line_is_cut() -> None:
    server = Server()

    async def use(backend: GraphQLBackend) -> None:
        lines = ["☃" * 100_000] * 10 + ["\x00" * 1_000_000, "short"]
        await backend.write_run_logs([LogRecord("f", None, NOON, "n", "INFO", line) for line in lines])

    run(server, use)
    assert all(len(asked.content) < 1_100_000 for asked in server.asked)
    messages = [line["message"] for asked in server.asked for line in asked.variables["write_run_logs"]["logs"]]
    assert len(messages) == 12
    assert messages[:10] == ["☃" * 100_000] * 10
    assert messages[10].endswith(" ... (1,000,000 characters)")
    assert messages[11] == "short"


@pytest.mark.parametrize("version", [1, None])
def test_a_request_whose_answer_was_lost_is_sent_again_as_it_was(version: int | None) -> None:
    server = Server(httpx.ReadTimeout("slow"), httpx.Response(503), httpx.RemoteProtocolError("cut"))

    async def use(backend: GraphQLBackend) -> None:
        await asyncio.gather(*(backend.set_task_run_state(f"t{n}", version, Running()) for n in range(3)))
        await backend.set_task_run_state("t0", version, Success())

    run(server, use)
    first, *again, last = server.asked
    assert len(again) == 3
    assert {(asked.content, asked.key) for asked in again} == {(first.content, first.key)}
    # Only where no version tells a repeated message from a new one does the server have to remember the key.
    assert (first.key is None) is (version is not None)
    assert first.key is None or first.key != last.key


def encoded(state: State) -> Any:
    return json.loads(encode_state(state))


def test_items_of_a_batch_are_refused_one_by_one() -> None:
    waits = Queued("no room", start_time=NOON)
    states = [
        {"status": "SUCCESS", "message": None, "code": None},
        {"status": "ERROR", "message": "stale", "code": "VERSION_LOCKING_ERROR"},
        {"status": "ERROR", "message": "no such run", "code": None},
        {"status": "QUEUED", "message": "no room", "code": None, "serialized_state": encoded(waits)},
        {"status": "ERROR", "message": "not yours", "code": "OWNERSHIP_LOST"},
    ]
    server = Server({"set_task_run_states": {"states": states}})
    outcomes: list[Any] = []

    async def use(backend: GraphQLBackend) -> None:
        writes = [backend.set_task_run_state(f"t{n}", 1, Running()) for n in range(5)]
        outcomes.extend(await asyncio.gather(*writes, return_exceptions=True))

    run(server, use, settings=Settings(queue_interval=20))
    success, stale, missing, queued, lost = outcomes
    assert type(success) is Running
    assert (type(stale), str(stale)) == (VersionLockMismatch, "stale")
    assert (type(missing), str(missing)) == (BackendRejected, "no such run")
    assert (type(lost), str(lost)) == (OwnershipLost, "not yours")
    assert encoded(queued) == encoded(waits), "what was recorded is what is answered"


def test_a_field_that_fails_leaves_the_others_of_its_request() -> None:
    data = {"set_task_run_name_1": None, "set_task_run_states": {"states": [{"status": "SUCCESS", "message": None}]}}
    errors = [{"message": "no such run", "path": ["set_task_run_name_1"], "extensions": {"code": "X"}}]
    server = Server(httpx.Response(200, json={"data": data, "errors": errors}))

    async def use(backend: GraphQLBackend) -> None:
        name, state = await asyncio.gather(
            backend.set_task_run_name("t", "name"),
            backend.set_task_run_state("t", 1, Running()),
            return_exceptions=True,
        )
        assert isinstance(name, BackendRejected)
        assert isinstance(state, Running)

    run(server, use)


def test_a_field_that_could_not_be_executed_now_has_the_batch_sent_again() -> None:
    errors = [{"message": "the database is away", "path": ["set_task_run_states"], "extensions": {"code": "API_ERROR"}}]
    server = Server(httpx.Response(200, json={"data": {"set_task_run_states": None}, "errors": errors}))

    async def use(backend: GraphQLBackend) -> None:
        assert isinstance(await backend.set_task_run_state("t", 1, Running()), Running)

    run(server, use)
    assert server.asked[0].content == server.asked[1].content


def test_one_malformed_item_is_found_and_the_others_are_recorded() -> None:
    async def serve(request: httpx.Request) -> httpx.Response:
        asked = Asked(request)
        if "api" in asked.text:
            return answer({"api": {"flowloop": "1.0"}})
        if any(item["task_run_id"] == "bad" for item in asked.variables["set_task_run_states"]["states"]):
            return refused("'bad' is not a UUID", "GRAPHQL_VALIDATION_FAILED", status=400)
        return answer(recorded(asked))

    async def main() -> None:
        async with backend_of(serve) as backend:
            ids = ["t1", "t2", "bad", "t3"]
            writes = (backend.set_task_run_state(run_id, 1, Running()) for run_id in ids)
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [isinstance(outcome, BackendRejected) for outcome in outcomes] == [False, False, True, False]
        assert str(outcomes[2]) == "'bad' is not a UUID"

    run_virtually(main())


# ---- failures ----------------------------------------------------------------------------------------

FAILURES: list[tuple[Answer, type[BackendError], str]] = [
    (httpx.ConnectError("refused"), BackendUnavailable, "ConnectError: refused"),
    (httpx.ReadTimeout(""), BackendUnavailable, "ReadTimeout"),
    (httpx.RemoteProtocolError("cut"), BackendUnavailable, "cut"),
    (httpx.UnsupportedProtocol("ftp"), BackendRejected, "cannot be used"),
    (httpx.Response(500), BackendUnavailable, "status 500"),
    (httpx.Response(502, text="<html>"), BackendUnavailable, "status 502"),
    (httpx.Response(429), BackendUnavailable, "status 429"),
    (httpx.Response(404, text="nothing"), BackendRejected, "status 404: is it the URL of a GraphQL server"),
    (httpx.Response(302, headers={"Location": "/x"}), BackendRejected, "leads to http://server:4200/x: give that URL"),
    (httpx.Response(401, text="who?"), BackendRejected, "set FLOWLOOP_API_KEY"),
    (httpx.Response(403, json={}), BackendRejected, "set FLOWLOOP_API_KEY"),
    (httpx.Response(413, text="too long"), BackendRejected, "status 413"),
    (refused("Unknown field", "GRAPHQL_VALIDATION_FAILED", status=400), BackendRejected, "Unknown field"),
    (httpx.Response(200, text="<html>a login page</html>"), DialectError, "not answer like a GraphQL server"),
    (httpx.Response(200, json=[1]), DialectError, "not answer like a GraphQL server"),
    (httpx.Response(200, json={"data": None}), DialectError, "without data"),
    (
        httpx.Response(200, content=b'{"data": {"flow_r', headers={"Content-Type": "application/json"}),
        BackendUnavailable,
        "cut off",
    ),
    (
        httpx.Response(200, content=b'{"data": ' + b"[" * 100_000, headers={"Content-Type": "application/json"}),
        BackendUnavailable,
        "no JSON",
    ),
    (
        httpx.Response(200, content=b'{"data": "\xff"}', headers={"Content-Type": "application/json"}),
        BackendUnavailable,
        "no JSON",
    ),
    (httpx.Response(200, json={"errors": "no"}), DialectError, "not answer like a GraphQL server"),
    (httpx.Response(200, json={"errors": ["no", None]}), BackendRejected, "no; None"),
    (httpx.Response(200, json={"errors": [{"message": "no", "extensions": ["x"]}]}), BackendRejected, "no"),
    (httpx.Response(200, json={"errors": [{"message": "no", "extensions": {"code": {}}}]}), BackendRejected, "no"),
    (refused("State update failed", data={"x": None}), BackendRejected, "State update failed"),
    (refused("stale", "VERSION_LOCKING_ERROR", data={"x": None}), VersionLockMismatch, "stale"),
    (refused("Unauthenticated", "UNAUTHENTICATED", data={"x": None}), BackendRejected, "set FLOWLOOP_API_KEY"),
    (refused("Unable to complete", "API_ERROR", data={"x": None}), BackendUnavailable, "Unable to complete"),
]


@pytest.mark.parametrize(("failure", "kind", "message"), FAILURES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("call", ["read", "mutation"])
def test_failures_are_told_apart(failure: Answer, kind: type[BackendError], message: str, call: str) -> None:
    server = Server(*[failure] * 1000)

    async def use(backend: GraphQLBackend) -> None:
        with pytest.raises(BackendError) as caught:
            await (backend.get_flow_run_state(MISSING) if call == "read" else backend.cancel_flow_run("f"))
        assert isinstance(caught.value, kind)
        assert message in str(caught.value)
        assert "secret" not in str(caught.value)
        if kind is BackendUnavailable:
            assert str(caught.value).startswith("http://server:4200 is unavailable, and was waited for 60 s: ")
            assert backend.circuit_state is CircuitState.OPEN
        else:
            assert len(server.asked) == 1, "what is refused is not asked again"

    run(server, use)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda value: str(value[0])[:40])
def test_failures_of_a_batch_are_told_apart_too(failure: tuple[Answer, type[BackendError], str]) -> None:
    server = Server(*[failure[0]] * 1000)

    async def use(backend: GraphQLBackend) -> None:
        writes = (backend.set_task_run_state(f"t{n}", 1, Running()) for n in range(2))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, (failure[1], BackendRejected) if failure[1] is DialectError else failure[1])

    run(server, use)


@pytest.mark.parametrize(
    ("header", "wait"),
    [("7", 7.0), ("Tue, 01 Jan 2030 12:00:20 GMT", 20.0), ("Tue, 01 Jan 2030 11:00:00 GMT", 0.0), ("soon", 0.05)],
)
def test_the_server_may_ask_for_a_pause(header: str, wait: float) -> None:
    server = Server(httpx.Response(429, headers={"Retry-After": header}))

    async def use(backend: GraphQLBackend) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await backend.cancel_flow_run("f")
        assert wait <= loop.time() - begin <= wait + 0.1

    run(server, use)


def test_a_server_that_is_not_there_is_waited_for_a_while_and_named() -> None:
    async def serve(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("All connection attempts failed")

    async def main() -> None:
        with pytest.raises(BackendUnavailable) as caught:
            async with backend_of(serve, connect_limit=10):
                pass
        assert asyncio.get_running_loop().time() == pytest.approx(10)
        assert str(caught.value) == (
            "http://server:4200 is unavailable, and was waited for 10 s: ConnectError: All connection attempts failed"
        )

    run_virtually(main())


@pytest.mark.parametrize("outage_limit", [2.0, 300.0])
def test_a_server_that_takes_the_connection_and_never_answers_is_named_within_the_patience(outage_limit: float) -> None:
    async def serve(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1e6)
        raise AssertionError

    async def main() -> None:
        settings = Settings(outage_limit=outage_limit)
        with pytest.raises(
            BackendUnavailable, match=r"http://server:4200 is unavailable, and was waited for .* answer"
        ):
            async with backend_of(serve, connect_limit=10, settings=settings):
                pass
        assert asyncio.get_running_loop().time() == min(outage_limit, 10)

    run_virtually(main())


def test_a_web_page_is_no_server() -> None:
    async def serve(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>welcome</html>")

    async def main() -> None:
        with pytest.raises(DialectError, match="http://server:4200 does not answer like a GraphQL server"):
            async with backend_of(serve):
                pass

    run_virtually(main())


def test_a_backend_that_is_not_open_says_so() -> None:
    async def main() -> None:
        backend = backend_of(Server())
        for call in (backend.get_flow_run_state(MISSING), backend.set_task_run_state("t", 1, Running())):
            with pytest.raises(BackendUnavailable, match="http://server:4200 is not open"):
                await call

    run_virtually(main())


# ---- who asks ----------------------------------------------------------------------------------------


def test_every_request_says_who_asks() -> None:
    server = Server()

    async def use(backend: GraphQLBackend) -> None:
        assert backend.url == "http://server:4200"
        await backend.cancel_flow_run("f")
        await backend.set_task_run_state("t", 1, Running())

    run(server, use)
    for asked in server.asked:
        assert asked.headers["Authorization"] == "Bearer the key"
        assert asked.headers["X-PREFECT-CORE-VERSION"] == "1.4.1"
    assert len({asked.headers["X-FLOWLOOP-CLIENT-ID"] for asked in server.asked}) == 1


def test_connect_finds_the_client_by_its_scheme() -> None:
    assert isinstance(connect("http://server:4200", settings=Settings()), GraphQLBackend)
    assert isinstance(connect("HTTPS://server", settings=Settings()), GraphQLBackend)


# ---- a server that is not ours -----------------------------------------------------------------------


def test_another_server_is_sent_single_items_four_at_a_time_and_in_order() -> None:
    server = Server(flowloop=False, delay=0.1)

    async def live(backend: GraphQLBackend, run_id: str) -> None:
        await backend.set_task_run_name(run_id, "name")
        await backend.set_task_run_state(run_id, 1, Running("1"))
        await backend.set_task_run_state(run_id, 2, Success("2"))

    async def use(backend: GraphQLBackend) -> None:
        await asyncio.gather(*(live(backend, f"t{n}") for n in range(20)))
        await backend.set_flow_run_state("f", 3, Success())
        await backend.update_flow_run_heartbeat("f")

    run(server, use)
    assert 1 < server.most_at_once <= 4
    assert {len(asked.variables) for asked in server.asked} == {1}
    states = [asked.variables["input"]["states"] for asked in server.asked if "set_task_run_states" in asked.text]
    assert {len(items) for items in states} == {1}
    for n in range(20):
        mine = [items[0] for items in states if items[0]["task_run_id"] == f"t{n}"]
        # Only a running state carries a version.
        assert [(item["state"]["message"], item["version"]) for item in mine] == [("1", 1), ("2", None)]
    assert len({asked.text for asked in server.asked}) == 4


def test_another_server_answers_in_its_own_words() -> None:
    server = Server(
        refused("stale", "VERSION_LOCKING_ERROR", data={"set_task_run_states": None}),
        {"set_task_run_states": {"states": [{"id": "t", "status": "QUEUED", "message": "no room"}]}},
        {"get_task_run_info": {"serialized_state": encoded(Queued("no room", start_time=NOON))}},
        {"set_task_run_states": {"states": [{"id": "t", "status": "WHATEVER", "message": None}]}},
        refused("State update failed for task run ID t", data={"set_task_run_states": None}),
        flowloop=False,
    )

    async def use(backend: GraphQLBackend) -> None:
        with pytest.raises(VersionLockMismatch):
            await backend.set_task_run_state("t", 1, Running())
        queued = await backend.set_task_run_state("t", 1, Running())
        assert isinstance(queued, Queued)
        assert queued.start_time == NOON, "as it was recorded"
        assert isinstance(await backend.set_task_run_state("t", 1, Running()), Running)
        with pytest.raises(BackendRejected, match="State update failed"):
            await backend.set_task_run_state("t", 1, Running())
        assert backend.watch_flow_run("f") is None

    run(server, use)


def test_another_server_creates_task_runs_one_by_one() -> None:
    async def serve(request: httpx.Request) -> httpx.Response:
        asked = Asked(request)
        if "flowloop" in asked.text:
            return refused("Cannot query field", status=400)
        if "hello" in asked.text:
            return answer({"hello": "hi"})
        index = asked.variables["input"]["map_index"]
        row = {"id": f"run {index}", "version": 0, "serialized_state": None}
        return answer({"get_or_create_task_run_info": row})

    async def main() -> None:
        async with backend_of(serve) as backend:
            infos = await backend.get_task_run_infos("f", "t", [3, 1, 2])
        assert [(info.id, info.map_index, info.version) for info in infos] == [
            ("run 3", 3, 0),
            ("run 1", 1, 0),
            ("run 2", 2, 0),
        ]

    run_virtually(main())


# ---- closing -----------------------------------------------------------------------------------------


def test_leaving_sends_what_waits_even_when_everything_is_cancelled() -> None:
    server = Server(httpx.Response(503), delay=0.1)

    async def main() -> None:
        async def owner() -> None:
            async with backend_of(server) as backend:
                await backend.set_task_run_state("t", 1, Success("the last word"))

        task = asyncio.create_task(owner())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run_virtually(main())
    assert len(server.asked) == 2
    assert server.asked[1].variables["set_task_run_states"]["states"][0]["state"]["message"] == "the last word"


def test_leaving_gives_up_after_the_grace() -> None:
    async def serve(request: httpx.Request) -> httpx.Response:
        if "flowloop" in Asked(request).text:
            return answer({"api": {"flowloop": "1"}})
        raise httpx.ConnectError("gone")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with backend_of(serve, settings=Settings(cancel_grace=3)) as backend:
            write = asyncio.create_task(backend.set_task_run_state("t", 1, Success()))
            await asyncio.sleep(1)
        assert loop.time() == pytest.approx(4)
        with pytest.raises(BackendUnavailable, match="closed before 1 writes"):
            await write

    run_virtually(main())


# -- servers that lead elsewhere -----------------------------------------------------------------------


async def test_a_server_below_a_prefix_leads_to_its_own_place() -> None:
    server, asked = Server(), []

    async def mounted(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, request.headers["Authorization"]))
        if request.url.path != "/flows/":
            return httpx.Response(307, headers={"Location": "http://server:4200/flows/"})
        return await server(request)

    options = {"clock": NoonClock(), "settings": Settings(api_key="the key")}
    transport = httpx.MockTransport(mounted)
    async with GraphQLBackend("http://server:4200/flows", transport=transport, **options) as backend:
        await backend.cancel_flow_run("run")
    assert [path for path, _ in asked] == ["/flows", *["/flows/"] * (len(asked) - 1)]
    assert len(asked) > 2


@pytest.mark.parametrize(
    ("status", "place"),
    [
        (307, "http://another:4200/"),
        (308, "https://server:4200/"),
        (307, "http://server:4201/"),
        (302, "/login"),
        (303, "ui/"),
    ],
)
async def test_another_place_is_named_and_never_given_the_key(status: int, place: str) -> None:
    asked: list[str] = []

    async def leads(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(status, headers={"Location": place})

    with pytest.raises(BackendRejected, match=f"leads to .*{re.escape(place)}: give that URL"):
        async with backend_of(leads):
            pass
    assert set(asked) == {"server"}


async def test_whoever_is_slower_finds_what_another_client_has_created() -> None:
    server = Server(
        {"project": []},
        {"tenant": []},
        refused("Uniqueness violation."),
        {"tenant": [{"id": "the tenant"}]},
        refused("Uniqueness violation."),
        {"project": [{"id": "the project"}]},
        {"flow": [{"id": "f", "version": 1, "version_group_id": "v", "idempotency_key": "k", "archived": False}]},
    )
    async with backend_of(server) as backend:
        assert await backend._project("demo") == "the project"
    assert server.asked[4].variables["input"]["tenant_id"] == "the tenant"


async def test_what_is_refused_for_another_reason_is_an_error() -> None:
    server = Server({"project": []}, {"tenant": []}, refused("No more tenants."), {"tenant": []})
    async with backend_of(server) as backend:
        with pytest.raises(BackendRejected, match="No more tenants"):
            await backend._project("demo")
