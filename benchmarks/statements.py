"""How many statements PostgreSQL is sent: for a small flow run, by a worker that has nothing to do, and by a watcher.

Counted in the log of the database, so that the machine has no say in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from flowloop.backends.embedded import StoreBackend
from flowloop.backends.worker import Worker
from flowloop.engine import Settings
from flowloop.engine.cloud import CloudFlowRunner, create_flow_run, register_flow
from flowloop.engine.state import Running

from .flow_runs import small_flow
from .harness import Row, missing, one_row
from .recording import has_postgres, postgres_server, scratch, settings

TITLE = "Statements that PostgreSQL is sent"

SUBJECT = "embedded, PostgreSQL"
_AT_ONCE = 100
_RUNS = {"quick": 500, "full": 2_000}
_SECONDS = {"quick": 15.0, "full": 90.0}


def run(scale: str) -> list[Row]:
    """Count what runs, workers and watchers send."""
    if not has_postgres():
        return [missing("all of it", SUBJECT, "no PostgreSQL can be started here")]
    with scratch() as folder, logging_postgres() as (url, log):
        return asyncio.run(_counted(url, log, settings(folder), _RUNS[scale], _SECONDS[scale]))


async def _counted(url: str, log: Log, options: Settings, runs: int, seconds: float) -> list[Row]:
    rows = []
    for clients, case in ((1, "a flow run of three tasks"), (2, "a flow run of three tasks, of two clients")):
        found = await _of_flow_runs(url, log, options, runs, clients)
        rows.append(one_row(case, SUBJECT, "statements", [found], size=runs))
    first = await _sent_in(_idle_workers(url, options, 1), log, seconds)
    rows.append(one_row("an idle worker and the services of its database, a second", SUBJECT, "statements", [first]))
    further = (await _sent_in(_idle_workers(url, options, 6), log, seconds) - first) / 5
    rows.append(one_row("a further idle worker, a second", SUBJECT, "statements", [further]))
    watched = await _sent_in(_watcher(url, options), log, seconds)
    rows.append(one_row("a watched flow run, a second", SUBJECT, "statements", [watched]))
    return rows


async def _sent_in(doing: AbstractAsyncContextManager[None], log: Log, seconds: float) -> float:
    async with doing:
        await asyncio.sleep(2.0)  # what is done once is done
        log.count()
        await asyncio.sleep(seconds)
        return log.count() / seconds


class Log:
    """What a PostgreSQL notes of the statements that it is sent.

    Args:
        - path: its log
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def count(self) -> int:
        """Return how many statements there were since it was asked last, a BEGIN and a COMMIT each among them."""
        with self._path.open() as log:
            log.seek(self._read)
            found = sum(any(word in line for word in _STATEMENT) for line in log)
            self._read = log.tell()
        return found


_STATEMENT = ("LOG:  statement:", "LOG:  execute ")


@contextmanager
def logging_postgres() -> Iterator[tuple[str, Log]]:
    """A fresh database of a PostgreSQL that notes each statement."""
    with postgres_server() as server:
        server.psql("ALTER DATABASE bench SET log_statement = 'all'")
        yield server.get_uri("bench"), Log(Path(server.log))


async def _of_flow_runs(url: str, log: Log, options: Settings, runs: int, clients: int) -> float:
    flow = small_flow()
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(StoreBackend(url, settings=options)) for _ in range(clients)]

        def one(backend: StoreBackend) -> Awaitable[object]:
            return CloudFlowRunner(flow, backend=backend, settings=options).run(parameters={"x": 1})

        for backend in backends:
            await register_flow(flow, backend, settings=options)
            await one(backend)
        log.count()
        numbers = iter(range(runs))

        async def client(backend: StoreBackend) -> None:
            for _ in numbers:
                await one(backend)

        await asyncio.gather(*(client(backends[number % clients]) for number in range(_AT_ONCE)))
        return log.count() / runs


@asynccontextmanager
async def _idle_workers(url: str, options: Settings, count: int) -> AsyncIterator[None]:
    flow = small_flow()
    async with AsyncExitStack() as stack:
        for _ in range(count):
            backend = await stack.enter_async_context(StoreBackend(url, settings=options))
            await stack.enter_async_context(Worker(backend, {flow.name: flow}, settings=options))
        yield


@asynccontextmanager
async def _watcher(url: str, options: Settings) -> AsyncIterator[None]:
    flow = small_flow()
    async with StoreBackend(url, settings=options) as backend:
        flow_run_id = await create_flow_run(flow, backend, {"x": 1}, settings=options)
        await backend.set_flow_run_state(flow_run_id, None, Running("Running flow."))
        async with backend.watch_flow_run(flow_run_id) as states:
            await anext(states)
            yield
