"""Prefect 3 with `prefect-dask`: mapped tasks on its `DaskTaskRunner`, a local cluster of two worker processes with a
thread each, begun before; on the SQLite server that Prefect starts; logs, caching, results and analytics off. The time
is that until the flow returns; the server goes on recording the task runs after that.
"""

import os
import tempfile

home = tempfile.mkdtemp()
os.environ.update(
    PREFECT_HOME=home,
    PREFECT_LOGGING_LEVEL="CRITICAL",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_LOGGING_LEVEL="CRITICAL",
    PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="60",
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


if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        main("prefect-dask", prepare)
        os._exit(0)  # nobody waits for what its server has still to record; who started this ends it with its workers
