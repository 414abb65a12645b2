"""taskiq with its broker in memory, tasks awaited where they are sent. It has no graph: the script orders the tasks."""

import asyncio

from _peer import MODULUS, NAP, TEN_KB, layer_plan, main
from taskiq import InMemoryBroker

broker = InMemoryBroker(await_inplace=True)


@broker.task
async def same(x: int) -> int:
    return x


@broker.task
async def following(x: int) -> int:
    return x + 1


@broker.task
async def add(a: int, b: int, c: int) -> int:
    return (a + b + c) % MODULUS


@broker.task
async def total(xs: list) -> int:
    return sum(xs)


@broker.task
async def source() -> bytes:
    return TEN_KB


@broker.task
async def turned(data: bytes) -> bytes:
    return data[::-1]


@broker.task
async def total_length(parts: list) -> int:
    return sum(map(len, parts))


@broker.task
async def nap(number: int) -> int:
    await asyncio.sleep(NAP)
    return 1


async def result(task, *arguments):
    """Send a task, and return its value."""
    sent = await task.kiq(*arguments)
    return (await sent.get_result()).return_value


async def prepare(workload, size):
    await broker.startup()

    async def run():
        if workload == "chain":
            value = 0
            for _ in range(size):
                value = await result(following, value)
            return value
        if workload == "layers":
            plan = layer_plan(size)
            layer = await asyncio.gather(*(result(same, number) for number in range(len(plan[0]))))
            for one in plan:
                layer = await asyncio.gather(*(result(add, *(layer[n] for n in upstream)) for upstream in one))
            return await result(total, list(layer))
        if workload == "two-maps":

            async def twice(number):
                return await result(following, await result(following, number))

            values = await asyncio.gather(*(twice(number) for number in range(size // 2)))
            return await result(total, list(values))
        if workload == "diamond":
            data = await result(source)
            parts = await asyncio.gather(*(result(turned, data) for _ in range(size)))
            return await result(total_length, list(parts))
        if workload == "sleepers":
            naps = await asyncio.gather(*(result(nap, number) for number in range(size)))
            return await result(total, list(naps))
        values = await asyncio.gather(*(result(same, number) for number in range(size)))
        return await result(total, list(values))

    return run


if __name__ == "__main__":
    main("taskiq", prepare)
