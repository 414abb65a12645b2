"""Requests by chance: no failure of the server, no word of its insides, no answer without end.

`FUZZ_REQUESTS` says how many there are: `make fuzz` sends ten thousand.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from flowloop.backends.server import ServerSettings, schema
from flowloop.backends.store import Store

from .grammar import Grammar
from .served import QUIET, ManualClock, World, flow_document, serve_store

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "2500"))
SETTINGS = ServerSettings(require_api_key=False, body_limit=100_000, row_limit=200, answer_limit=500_000, **QUIET)
INSIDES = re.compile(rb"Traceback|sqlalchemy|sqlite3|asyncpg|object at 0x|\.py\"|internal API error")


def broken_bodies(rng: random.Random) -> Iterator[bytes]:
    """Bodies that are no GraphQL request."""
    good = msgspec.json.encode({"query": "query { hello }", "variables": "null"})
    while True:
        body = bytearray(good)
        for _ in range(rng.choice((1, 2, 8))):
            body[rng.randrange(len(body))] = rng.randrange(256)
        yield bytes(body)
        yield rng.randbytes(rng.choice((0, 1, 50)))
        yield b"[" * rng.choice((1, 500, 50_000))
        yield msgspec.json.encode({"query": "{" + "a{" * rng.choice((10, 500)) + "hello" + "}" * 500})
        yield msgspec.json.encode({"query": "query { hello }", "variables": "[" * 2_000})
        yield msgspec.json.encode(
            {"query": rng.choice((None, 1, [], "query { hello } query { hello }", "# only a comment"))}
        )


async def send(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    response = await client.post("/", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 413), (body, response.content)
    assert len(response.content) < 2_000_000, body
    assert not INSIDES.search(response.content), (body, response.content)
    answer = msgspec.json.decode(response.content)
    assert "data" in answer or answer["errors"], (body, answer)
    assert response.status_code != 200 or "data" in answer, (body, answer)
    return response


@pytest.mark.heavy
@pytest.mark.timeout(300)
async def test_requests_by_chance(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "flowloop")
    rng = random.Random(1)
    url = f"sqlite:///{tmp_path}/flowloop.db"
    async with Store(url, clock=ManualClock(), synchronous="OFF", secret_key="a key") as store:
        world = await World(store, ManualClock()).build(flow_document(*(f"task-{n}" for n in range(20))))
        ids = [
            world.project_id,
            world.flow_id,
            world.run_id,
            *list(world.task_runs.values())[:3],
            *list(world.tasks.values())[:3],
        ]
        grammar, broken = Grammar(schema.build(), rng, ids), broken_bodies(rng)
        seen: Counter[Any] = Counter()
        async with serve_store(store, SETTINGS) as served:
            for number in range(REQUESTS):
                body = next(broken) if number % 5 == 0 else msgspec.json.encode(grammar.request())
                response = await send(served.client, body)
                seen[response.status_code, b'"errors"' in response.content] += 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
    # The chance is worth something only if it meets every kind of answer often.
    assert min(seen[200, False], seen[200, True], seen[400, True]) > REQUESTS / 20, seen
