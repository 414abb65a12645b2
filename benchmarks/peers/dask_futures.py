"""Bare futures of `dask.distributed`: a local cluster of two worker processes with a thread each, no dashboard;
`Client.map` where the workload maps. Nothing is recorded.
"""

from _peer import main
from dask_threads import following, same
from distributed import Client, LocalCluster


def prepare(workload, size):
    if workload == "two-maps":
        return lambda: total(client.map(following, client.map(following, range(size // 2), pure=False), pure=False))
    return lambda: total(client.map(same, range(size), pure=False))


def total(futures):
    """Return the sum of what futures hold."""
    return client.submit(sum, futures, pure=False).result()


if __name__ == "__main__":
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        main("distributed", prepare)
