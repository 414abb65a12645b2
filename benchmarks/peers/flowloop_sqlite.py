"""flowloop on its embedded SQLite store (`FULL`): both transitions of each task acknowledged before what follows. The
store is opened and the flow registered before; creating the flow run counts. The interpreter is set up
as the documentation recommends for a process of one's own: threads take turns after half a millisecond, and the garbage
collector leaves alone what was there before; DBOS gains nothing from either.
"""

import contextlib
import gc
import sys
import tempfile

from _peer import main
from flowloop_engine import define

from flowloop.backends import connect
from flowloop.engine import Settings
from flowloop.engine.cloud import CloudFlowRunner, register_flow

opened = contextlib.AsyncExitStack()


async def prepare(workload, size):
    flow, answer = define(workload, size)
    backend = await opened.enter_async_context(connect(f"sqlite:///{folder}/flowloop.db", settings=settings))
    await register_flow(flow, backend, settings=settings)
    gc.collect()
    gc.freeze()

    async def run():
        state = await CloudFlowRunner(flow, backend=backend, settings=settings).run()
        return state.result[answer].result

    return run


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=folder)
        main("flowloop", prepare, opened)
