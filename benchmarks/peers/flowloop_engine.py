"""flowloop without a backend, on the standard event loop, with every state and check."""

import asyncio

from _peer import MODULUS, NAP, TEN_KB, layer_plan, main

from flowloop.engine import Flow, FlowRunner, task


@task
async def same(x):
    return x


@task
async def following(x):
    return x + 1


@task
async def add(a, b, c):
    return (a + b + c) % MODULUS


@task
async def total(xs):
    return sum(xs)


@task
async def source():
    return TEN_KB


@task
async def turned(data):
    return data[::-1]


@task
async def total_length(parts):
    return sum(map(len, parts))


@task
async def nap(number):
    await asyncio.sleep(NAP)
    return 1


def define(workload, size):
    """Return the flow of a workload, and the task that has its answer."""
    with Flow("bench") as flow:
        if workload == "chain":
            answer = following(0)
            for _ in range(size - 1):
                answer = following(answer)
        elif workload == "layers":
            layer = [same(number) for number in range(len(layer_plan(size)[0]))]
            for plan in layer_plan(size):
                layer = [add(*(layer[number] for number in upstream)) for upstream in plan]
            answer = total(layer)
        elif workload == "two-maps":
            answer = total(following.map(following.map(list(range(size // 2)))))
        elif workload == "diamond":
            data = source()
            answer = total_length([turned(data) for _ in range(size)])
        elif workload == "sleepers":
            answer = total([nap(number) for number in range(size)])
        else:
            answer = total([same(number) for number in range(size)])
    return flow, answer


async def prepare(workload, size):
    flow, answer = define(workload, size)

    async def run():
        return (await FlowRunner(flow).run()).result[answer].result

    return run


if __name__ == "__main__":
    main("flowloop", prepare)
