"""`dask.delayed` with the threaded scheduler, two threads, the graph built before and not optimised."""

import dask
from _peer import MODULUS, layer_plan, main


def same(x):
    return x


def following(x):
    return x + 1


def add(a, b, c):
    return (a + b + c) % MODULUS


def graph(workload, size):
    """Return the delayed answer of a workload."""
    one, after, plus, total = (dask.delayed(function, pure=False) for function in (same, following, add, sum))
    if workload == "chain":
        value = after(0)
        for _ in range(size - 1):
            value = after(value)
        return value
    if workload == "layers":
        layer = [one(number) for number in range(len(layer_plan(size)[0]))]
        for plan in layer_plan(size):
            layer = [plus(*(layer[number] for number in upstream)) for upstream in plan]
        return total(layer)
    if workload == "two-maps":
        return total([after(after(number)) for number in range(size // 2)])
    return total([one(number) for number in range(size)])


def prepare(workload, size):
    value = graph(workload, size)
    return lambda: value.compute(scheduler="threads", num_workers=2, optimize_graph=False)


if __name__ == "__main__":
    main("dask", prepare)
