"""flowloop on a local cluster of Dask, two worker processes with a thread each, and on its embedded SQLite store
(`FULL`): Submitted, Running and the end of each body are recorded. The cluster and the store are opened before, and the
flow is registered.
"""

import contextlib
import sys
import tempfile

from _peer import main
from flowloop_engine import following, same, total

from flowloop.backends import connect
from flowloop.engine import Flow, Settings
from flowloop.engine.cloud import CloudFlowRunner, register_flow
from flowloop.engine.executors import DaskExecutor

opened = contextlib.AsyncExitStack()
executor = DaskExecutor(
    cluster_kwargs={
        "n_workers": 2,
        "threads_per_worker": 1,
        "dashboard_address": None,
        "worker_dashboard_address": "127.0.0.1:0",
    }
)


async def prepare(workload, size):
    with Flow("bench") as flow:
        if workload == "two-maps":
            answer = total(following.map(following.map(list(range(size // 2)))))
        else:
            answer = total(same.map(list(range(size))))
    backend = await opened.enter_async_context(connect(f"sqlite:///{folder}/flowloop.db", settings=settings))
    await opened.enter_async_context(executor.open())  # the runs share it
    await register_flow(flow, backend, settings=settings)

    async def run():
        runner = CloudFlowRunner(flow, backend=backend, settings=settings)
        state = await runner.run(executor=executor, return_tasks=[answer])
        return state.result[answer].result

    return run


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=folder)
        main("flowloop", prepare, opened)
