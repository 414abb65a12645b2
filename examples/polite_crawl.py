"""A crawl that is polite, patient, and does not begin again: a site of thirty pages on this machine.

The site is slow to answer and sometimes refuses. The crawl asks for at most fifty pages a second, at most three at a
time, waits longer after each refusal, and keeps each page in a file: run it again, and only what is missing is asked
for::

    python examples/polite_crawl.py
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections import Counter

import httpx

from flowloop import Flow, FlowRunner, Limits, Parameter, Rate, task, unmapped
from flowloop.engine.results import LocalResult
from flowloop.engine.retries import exponential_backoff

PAGES = 30
asked: Counter[str] = Counter()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be the site: refuse a third of the first requests."""
    path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
    asked[path] += 1
    refuses = asked[path] == 1 and int(path.strip("/")) % 3 == 0
    body = f"<h1>page {path}</h1>".encode()
    status = b"503 Service Unavailable" if refuses else b"200 OK"
    writer.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


@task
async def links(site: str) -> list[str]:
    """Return the addresses of all pages."""
    return [f"{site}/{number}" for number in range(PAGES)]


@task(
    max_retries=5,
    retry_delay=exponential_backoff(0.2, cap=5, rng=random.Random(1)),
    retry_on=httpx.HTTPError,
    tags={"site"},
    result=LocalResult(tempfile.gettempdir()),
    target=lambda link, folder, **_: f"{folder}/{link.rpartition('/')[2]}.html",
)
async def fetch(link: str, folder: str) -> str:
    """Return a page."""
    async with httpx.AsyncClient() as client:
        page = await client.get(link)
        page.raise_for_status()
        return page.text


@task
async def count(pages: list[str]) -> str:
    """Say how much there is."""
    return f"{len(pages)} pages, {sum(map(len, pages))} characters"


with Flow("polite crawl") as flow:
    site, folder = Parameter("site", type=str), Parameter("folder", type=str)
    counted = count(fetch.map(links(site), folder=unmapped(folder)))


async def main(folder: str) -> None:
    """Crawl the site twice."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    politely = Limits(tags={"site": 3}, rate=Rate(50, 1.0))
    async with server:
        for _ in range(2):
            state = await FlowRunner(flow, limits=politely).run(
                parameters={"site": address, "folder": folder}, context={"checkpointing": True}
            )
            print(state[counted].result, f"after {asked.total()} requests")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
