"""A server that is not flowloop's: it is sent what the wire contract allows, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import FieldNode, OperationDefinitionNode, parse

from flowloop.backends.client.backend import GraphQLBackend
from flowloop.backends.server.app import create_app
from flowloop.backends.server.settings import ServerSettings
from flowloop.engine import Flow, task
from flowloop.engine.cloud import CloudFlowRunner
from flowloop.engine.errors import BackendRejected
from flowloop.engine.settings import Settings

from .serving import serve

KNOWN = {
    "hello",
    "cancel_flow_run",
    "create_flow_from_compressed_string",
    "create_flow_run",
    "create_project",
    "create_task_run_artifact",
    "create_tenant",
    "flow",
    "flow_by_pk",
    "flow_run",
    "flow_run_by_pk",
    "get_or_create_task_run_info",
    "get_task_run_info",
    "project",
    "set_flow_run_states",
    "set_task_run_name",
    "set_task_run_states",
    "task_run",
    "tenant",
    "update_flow_run_heartbeat",
    "write_run_logs",
}
MOST_AT_ONCE = 4


class Stranger:
    """flowloop's server in disguise: it does not say what it is, and notes what it should not be sent."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.broken: list[str] = []
        self.fields: set[str] = set()
        self.at_once = self.most_at_once = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = json.loads(body)
        if "flowloop" in query["query"]:
            await answer(send, 400, {"errors": [{"message": 'Cannot query field "flowloop" on type "api_info".'}]})
            return
        self.check(query["query"], query.get("variables") or {})
        headers = [(name, value) for name, value in scope["headers"] if not name.startswith(b"x-flowloop")]
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return messages.pop() if messages else await receive()

        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.app({**scope, "headers": headers}, replay, send)
        finally:
            self.at_once -= 1

    def check(self, text: str, variables: dict[str, Any]) -> None:
        [operation] = parse(text).definitions
        assert isinstance(operation, OperationDefinitionNode)
        roots = [node.name.value for node in operation.selection_set.selections if isinstance(node, FieldNode)]
        self.fields.update(roots)
        if len(roots) > 1:
            self.broken.append(f"several operations at once: {roots}")
        if text.lstrip().startswith("mutation"):
            given = variables["input"]
            for item in given.get("states", []):
                running = item["state"]["type"] in ("Running", "Cancelling")
                if item["version"] is not None and not running:
                    self.broken.append(f"a version with {item['state']['type']}")
            if len(given.get("states", [])) > 1:
                self.broken.append("several states at once")
        if " code" in text:
            self.broken.append(f"an addition of flowloop's: {text}")


async def answer(send: Any, status: int, document: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[str, Stranger]]:
    app = create_app(f"sqlite:///{tmp_path / 'flowloop.db'}", settings=ServerSettings(require_api_key=False))
    disguised = Stranger(app)
    with serve(disguised) as url:
        yield url, disguised


@task
async def numbers(n: int) -> list[int]:
    return list(range(n))


@task(task_run_name="double {x}")
async def double(x: int) -> int:
    if x == 3:
        raise ValueError("three is not doubled")
    return 2 * x


@task(trigger=lambda upstream: True)
async def total(values: list[Any]) -> int:
    return sum(value for value in values if isinstance(value, int))


async def test_a_whole_run_is_recorded_within_the_contract(stranger: tuple[str, Stranger], tmp_path: Path) -> None:
    url, server = stranger
    with Flow("sums") as flow:
        total(double.map(numbers(20)))
    settings = Settings(home=str(tmp_path))
    async with GraphQLBackend(url, settings=settings) as backend:
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        state = await runner.run()
        assert runner.flow_run_id is not None
        summary, histories = await backend.get_flow_run_history(runner.flow_run_id)
    assert state.is_successful()
    assert summary.state == "Success"
    children = {history.map_index: history for history in histories if history.task_slug.startswith("double")}
    assert len(children) == 21
    assert [record.state for record in children[-1].states] == ["Pending", "Mapped"]
    for index in range(20):
        end = "Failed" if index == 3 else "Success"
        assert [record.state for record in children[index].states] == ["Pending", "Running", end]
        assert children[index].name == f"double {index}"

    assert server.broken == []
    assert server.most_at_once <= MOST_AT_ONCE
    assert server.fields <= KNOWN, "operations the contract does not have"
    assert {"set_flow_run_states", "set_task_run_states", "get_or_create_task_run_info"} <= server.fields


async def test_it_cannot_be_listened_to_and_hands_out_nothing(stranger: tuple[str, Stranger]) -> None:
    url, _ = stranger
    async with GraphQLBackend(url, settings=Settings()) as backend:
        assert backend.watch_flow_run("any") is None
        with pytest.raises(BackendRejected, match="not a flowloop server"):
            await backend.reserve_flow_runs("worker")
