"""Dagster: `execute_in_process` with the ephemeral instance, the job defined before, no loggers."""

import logging

from _peer import MODULUS, layer_plan, main
from dagster import (
    DagsterInstance,
    DependencyDefinition,
    GraphDefinition,
    In,
    MultiDependencyDefinition,
    NodeInvocation,
    Out,
    logger,
    op,
)

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


def source(number):
    @op(name=f"n{number}", out=Out(int))
    def made():
        return number

    return made


def prepare(workload, size):
    nodes, dependencies = [], {}

    def use(definition, alias, **upstream):
        if definition.name not in {one.name for one in nodes[-3:]} and definition not in known:
            known.add(definition)
            nodes.append(definition)
        dependencies[NodeInvocation(definition.name, alias=alias)] = {
            name: DependencyDefinition(one)
            if isinstance(one, str)
            else MultiDependencyDefinition([DependencyDefinition(each) for each in one])
            for name, one in upstream.items()
        }
        return alias

    known = set()
    if workload == "chain":
        last = use(source(1), "first")
        for number in range(size - 1):
            last = use(following, f"t{number}", x=last)
        answer = last
    elif workload == "layers":
        layer = [use(source(number), f"s{number}") for number in range(len(layer_plan(size)[0]))]
        for depth, plan in enumerate(layer_plan(size)):
            layer = [
                use(add, f"t{depth}_{number}", **{name: layer[one] for name, one in zip("abc", upstream, strict=True)})
                for number, upstream in enumerate(plan)
            ]
        answer = use(total, "answer", xs=layer)
    elif workload == "two-maps":
        made = []
        for number in range(size // 2):
            first = use(following, f"a{number}", x=use(source(number), f"s{number}"))
            made.append(use(following, f"b{number}", x=first))
        answer = use(total, "answer", xs=made)
    else:
        answer = use(total, "answer", xs=[use(source(number), f"s{number}") for number in range(size)])
    graph = GraphDefinition(name="bench", node_defs=list(known), dependencies=dependencies)
    job = graph.to_job(logger_defs={"silent": silent})
    instance = DagsterInstance.ephemeral()

    def run():
        result = job.execute_in_process(instance=instance, run_config={"loggers": {"silent": {}}})
        return result.output_for_node(answer)

    return run


if __name__ == "__main__":
    main("dagster", prepare)
