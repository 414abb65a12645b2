"""Slow connections are closed, and so are those above the limit; others are not."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest

from flowloop.backends.server import ServerSettings

from .served import QUIET, listening

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
QUERY = b'{"query": "query { hello }"}'


async def connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST", HEAD, HEAD + b"Content-Length: 100\r\n\r\n", HEAD + b"Content-Length: 100\r\n\r\n" + QUERY],
    ids=["nothing", "a word", "half a head", "no body", "half a body"],
)
async def test_a_request_that_does_not_arrive_is_given_up(tmp_path: object, sent: bytes) -> None:
    hasty = ServerSettings(require_api_key=False, header_seconds=0.1, body_seconds=0.1, **QUIET)
    async with listening(f"sqlite:///{tmp_path}/f.db", hasty) as url:
        reader, writer = await connected(url)
        writer.write(sent)
        assert await until_closed(reader) == b""
        writer.close()


async def test_a_second_request_has_its_deadline_too(tmp_path: object) -> None:
    hasty = ServerSettings(require_api_key=False, header_seconds=0.1, body_seconds=60, **QUIET)
    async with listening(f"sqlite:///{tmp_path}/f.db", hasty) as url:
        reader, writer = await connected(url)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(QUERY) + QUERY)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        writer.write(HEAD)
        assert b"HTTP" not in await until_closed(reader)
        writer.close()


async def test_one_connection_too_many_is_told_so(tmp_path: object) -> None:
    few = ServerSettings(require_api_key=False, connection_limit=2, **QUIET)
    async with listening(f"sqlite:///{tmp_path}/f.db", few) as url, httpx.AsyncClient(timeout=60) as client:
        assert (await client.get(f"{url}/health")).status_code == 200
        second = await connected(url)
        reader, third = await connected(url)
        answer = await until_closed(reader)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in answer
        assert (await client.get(f"{url}/health")).status_code == 200
        for writer in (second[1], third):
            writer.close()


ROOM = """
import resource

from flowloop.backends.server.deadlines import room_for

resource.setrlimit(resource.RLIMIT_NOFILE, (200, 1000))
print(room_for(50), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(room_for(500), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(room_for(5000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_there_are_no_more_connections_than_files_may_be_open() -> None:
    said = subprocess.run([sys.executable, "-c", ROOM], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["50 200", "500 600", "900 1000"]
