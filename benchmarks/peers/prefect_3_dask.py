"""Prefect 3 with `prefect-dask`: mapped tasks on its `DaskTaskRunner`, a local cluster of two worker processes with a
thread each, begun before; on a server of its own on SQLite, begun before, to which the workers report as well; logs,
caching, results and analytics off. The time is that until the flow returns; the server goes on recording after that.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]

home = tempfile.mkdtemp()
os.environ.update(
    PREFECT_HOME=home,
    PREFECT_LOGGING_LEVEL="CRITICAL",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_LOGGING_LEVEL="CRITICAL",
    PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY="false",
    PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
    DO_NOT_TRACK="1",
)

from _peer import main  # noqa: E402
from distributed import LocalCluster  # noqa: E402
from prefect import flow, task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect_dask import DaskTaskRunner  # noqa: E402

plain = task(cache_policy=NO_CACHE, persist_result=False)


@plain
def same(x):
    return x


@plain
def following(x):
    return x + 1


@plain
def total(xs):
    return sum(xs)


def prepare(workload, size):
    @flow(persist_result=False, task_runner=DaskTaskRunner(address=cluster.scheduler_address))
    def bench():
        twice = workload == "two-maps"
        parts = following.map(following.map(range(size // 2))) if twice else same.map(range(size))
        return total.submit(parts).result()

    return bench


def serve():
    """Begin the server, and wait until it answers; whoever started this script ends it."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            with urllib.request.urlopen(os.environ["PREFECT_API_URL"] + "/health"):
                return
        except OSError:
            time.sleep(0.1)


if __name__ == "__main__":
    serve()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        main("prefect-dask", prepare)
        os._exit(0)  # nobody waits for what its server has still to record; who started this ends it with its workers
