"""`dask.distributed` on a local cluster: one worker with two threads in this process, no dashboard; `Client.map` where
the workload maps. The graph is made anew for every run, as the scheduler does not compute a key again that it knows.
"""

from _peer import main
from dask_threads import following, graph
from distributed import Client


def prepare(workload, size):
    if workload == "two-maps":
        return lambda: two_maps(size)
    return lambda: client.compute(graph(workload, size), optimize_graph=False).result()


def two_maps(size):
    """Return the sum of two mapped stages."""
    firsts = client.map(following, range(size // 2), pure=False)
    return client.submit(sum, client.map(following, firsts, pure=False), pure=False).result()


if __name__ == "__main__":
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        main("distributed", prepare)
