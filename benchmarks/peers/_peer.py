"""What the scripts of the peers share: the command line, the clock, the answer as JSON."""

import asyncio
import json
import random
import resource
import sys
import time

MODULUS = 1_000_003
LAYERS = 20
UPSTREAMS = 3


def layer_plan(size):
    """Return for each task of each layer but the first which tasks of the layer before it adds up."""
    rng = random.Random(1)
    width = size // LAYERS
    return [[tuple(rng.sample(range(width), UPSTREAMS)) for _ in range(width)] for _ in range(LAYERS - 1)]


def layers_answer(size):
    """Return the right answer of the layered graph."""
    layer = list(range(size // LAYERS))
    for plan in layer_plan(size):
        layer = [sum(layer[number] for number in upstream) % MODULUS for upstream in plan]
    return sum(layer)


def answer(workload, size):
    """Return the right answer of a workload."""
    if workload == "chain":
        return size
    if workload == "layers":
        return layers_answer(size)
    if workload == "two-maps":
        half = size // 2
        return half * (half - 1) // 2 + 2 * half
    return size * (size - 1) // 2


def main(package, prepare):
    """Measure one workload.

    Args:
        - package: whose version to tell
        - prepare: a function (workload, size) that returns a function without arguments, which runs the workload once
            and returns its answer; what it does before counts as preparation. It may be a coroutine function that
            returns one: then all happens on one event loop.
    """
    from importlib.metadata import version

    workload, size, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if asyncio.iscoroutinefunction(prepare):
        seconds = asyncio.run(_measured_async(prepare, workload, size, rounds))
    else:
        seconds = _measured(prepare, workload, size, rounds)
    found = {
        "version": version(package),
        "python": sys.version.split()[0],
        "seconds": seconds,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }
    print("\nRESULT " + json.dumps(found), flush=True)


def _measured(prepare, workload, size, rounds):
    seconds = []
    warm = prepare(workload, LAYERS * UPSTREAMS)
    warm()
    run = prepare(workload, size)
    for _ in range(rounds):
        start = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - start)
        assert found == answer(workload, size), found
    return seconds


async def _measured_async(prepare, workload, size, rounds):
    seconds = []
    warm = await prepare(workload, LAYERS * UPSTREAMS)
    await warm()
    run = await prepare(workload, size)
    for _ in range(rounds):
        start = time.perf_counter()
        found = await run()
        seconds.append(time.perf_counter() - start)
        assert found == answer(workload, size), found
    return seconds
