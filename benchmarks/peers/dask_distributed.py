"""`dask.distributed` on a local cluster: one worker with two threads in this process, no dashboard."""

from _peer import main
from dask_threads import graph
from distributed import Client


def prepare(workload, size):
    value = graph(workload, size)
    return lambda: client.compute(value, optimize_graph=False).result()


if __name__ == "__main__":
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        main("distributed", prepare)
