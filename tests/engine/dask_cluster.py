"""A Dask cluster in a process of its own: prints its address, and ends with its input.

``python dask_cluster.py WORKERS THREADS [without-flowloop]``
"""

import asyncio
import importlib.metadata
import sys


class _Hidden:
    """Hides flowloop from this process."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "flowloop":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide():
    found = importlib.metadata.version

    def version(name):
        if name == "flowloop":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    importlib.metadata.version = version
    sys.meta_path.insert(0, _Hidden())


async def main(workers, threads, *, in_processes):
    import dask
    import distributed

    # a worker that was killed is begun again, however long that takes on a busy machine
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"})
    async with distributed.LocalCluster(
        asynchronous=True,
        host="127.0.0.1",
        n_workers=workers,
        threads_per_worker=threads,
        processes=in_processes,
        memory_limit="1GiB",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        protocol="tcp",
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    without = "without-flowloop" in sys.argv
    if without:
        hide()
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), in_processes=not without))
