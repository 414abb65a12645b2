"""Prefect 1.4.1: `flow.run()` with the local executor, no backend, logging and checkpointing off."""

import os

os.environ["PREFECT__LOGGING__LEVEL"] = "CRITICAL"
os.environ["PREFECT__FLOWS__CHECKPOINTING"] = "false"

import prefect
from _peer import MODULUS, TEN_KB, layer_plan, main


@prefect.task
def same(x):
    return x


@prefect.task
def following(x):
    return x + 1


@prefect.task
def add(a, b, c):
    return (a + b + c) % MODULUS


@prefect.task
def total(xs):
    return sum(xs)


@prefect.task
def source():
    return TEN_KB


@prefect.task
def turned(data):
    return data[::-1]


@prefect.task
def total_length(parts):
    return sum(map(len, parts))


def prepare(workload, size):
    with prefect.Flow("bench") as flow:
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
        else:
            answer = total([same(number) for number in range(size)])

    def run():
        return flow.run().result[answer].result

    return run


if __name__ == "__main__":
    main("prefect", prepare)
