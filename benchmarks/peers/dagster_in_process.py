"""Dagster: `execute_in_process` with the ephemeral instance, the job defined before, no loggers; dynamic outputs where
the workload maps.
"""

import logging

from _peer import MODULUS, TEN_KB, layer_plan, main
from dagster import DagsterInstance, DynamicOut, DynamicOutput, GraphDefinition, In, Out, graph, logger, op

logging.disable(logging.CRITICAL)


@logger
def silent(_context):
    made = logging.getLogger("silent")
    made.setLevel(logging.CRITICAL)
    return made


@op(ins={"x": In(int)}, out=Out(int))
def following(x):
    return x + 1


@op(ins={"a": In(int), "b": In(int), "c": In(int)}, out=Out(int))
def add(a, b, c):
    return (a + b + c) % MODULUS


@op(ins={"xs": In(list)}, out=Out(int))
def total(xs):
    return sum(xs)


@op(out=Out(bytes))
def source():
    return TEN_KB


@op(ins={"data": In(bytes)}, out=Out(bytes))
def turned(data):
    return data[::-1]


@op(ins={"parts": In(list)}, out=Out(int))
def total_length(parts):
    return sum(map(len, parts))


def constant(number):
    @op(name=f"n{number}", out=Out(int))
    def made():
        return number

    return made


def numbers(count):
    @op(out=DynamicOut(int))
    def each():
        for number in range(count):
            yield DynamicOutput(number, mapping_key=str(number))

    return each


def define(workload, size):
    """Return the graph of a workload; its output is the answer."""

    @graph
    def bench():
        if workload == "chain":
            value = constant(1)()
            for number in range(size - 1):
                value = following.alias(f"t{number}")(value)
            return value
        if workload == "layers":
            layer = [constant(number)() for number in range(len(layer_plan(size)[0]))]
            for depth, plan in enumerate(layer_plan(size)):
                layer = [
                    add.alias(f"t{depth}_{number}")(*(layer[one] for one in upstream))
                    for number, upstream in enumerate(plan)
                ]
            return total(layer)
        if workload == "two-maps":
            firsts = numbers(size // 2)().map(following.alias("first"))
            return total(firsts.map(following.alias("second")).collect())
        if workload == "diamond":
            data = source()
            return total_length([turned.alias(f"t{number}")(data) for number in range(size)])
        return total([constant(number)() for number in range(size)])

    return bench


def prepare(workload, size):
    defined: GraphDefinition = define(workload, size)
    job = defined.to_job(logger_defs={"silent": silent})
    instance = DagsterInstance.ephemeral()

    def run():
        result = job.execute_in_process(instance=instance, run_config={"loggers": {"silent": {}}})
        return result.output_value()

    return run


if __name__ == "__main__":
    main("dagster", prepare)
