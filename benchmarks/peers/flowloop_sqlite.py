"""flowloop on its embedded SQLite store (`FULL`): both transitions of each task acknowledged before what follows."""

import tempfile

from _peer import main
from flowloop_engine import define

from flowloop.backends import connect
from flowloop.engine import Settings
from flowloop.engine.cloud import CloudFlowRunner


async def prepare(workload, size):
    flow, answer = define(workload, size)

    async def run():
        async with connect(f"sqlite:///{folder}/flowloop.db", settings=settings) as backend:
            state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
        return state.result[answer].result

    return run


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=folder)
        main("flowloop", prepare)
