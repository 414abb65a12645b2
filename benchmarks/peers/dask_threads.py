"""`dask.delayed` with the threaded scheduler, two threads, the graph built before and not optimised."""

import dask
from _peer import MODULUS, TEN_KB, layer_plan, main


def same(x):
    return x


def following(x):
    return x + 1


def add(a, b, c):
    return (a + b + c) % MODULUS


def source():
    return TEN_KB


def turned(data):
    return data[::-1]


def total_length(parts):
    return sum(map(len, parts))


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
    if workload == "diamond":
        data = dask.delayed(source, pure=False)()
        return dask.delayed(total_length)([dask.delayed(turned, pure=False)(data) for _ in range(size)])
    return total([one(number) for number in range(size)])


def prepare(workload, size):
    value = graph(workload, size)
    return lambda: value.compute(scheduler="threads", num_workers=2, optimize_graph=False)


if __name__ == "__main__":
    main("dask", prepare)
