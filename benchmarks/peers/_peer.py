"""What the scripts of the peers share: the workloads, the command line, the clock, the answer as JSON."""

import asyncio
import contextlib
import functools
import json
import random
import resource
import sys
import time

MODULUS = 1_000_003
LAYERS = 100
UPSTREAMS = 3
NAP = 0.1
TEN_KB = b"x" * 10_000

ENOUGH = 1.0
"""Seconds: once they have passed there is no further round in this process."""


@functools.cache
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
    """Return the right answer of a workload.

    The workloads, of `size` tasks:

    - fan-out: number 0, 1, 2 ... independently, and their sum
    - chain: each adds one to what the one before it returned
    - layers: a hundred layers, each task adds up three of the layer before, chosen at random; the sum of the last one
    - two-maps: add one to each of the first `size / 2` numbers, add one to each result, and the sum
    - diamond: ten thousand bytes, reversed by each of `size` tasks; the length of all the results
    - sleepers: `size` naps of 0.1 s; how many there were
    """
    if workload in ("chain", "sleepers"):
        return size
    if workload == "layers":
        return layers_answer(size)
    if workload == "two-maps":
        half = size // 2
        return half * (half - 1) // 2 + 2 * half
    if workload == "diamond":
        return size * len(TEN_KB)
    return size * (size - 1) // 2


def main(package, prepare, opened=None):
    """Measure one workload.

    Args:
        - package: whose version to tell
        - prepare: a function (workload, size) that returns a function without arguments, which runs the workload once
            and returns its answer; what it does before counts as preparation. It may be a coroutine function that
            returns one: then all happens on one event loop.
        - opened: an asynchronous context that is left at the end, on the same loop
    """
    from importlib.metadata import version

    workload, size, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if asyncio.iscoroutinefunction(prepare):
        seconds = asyncio.run(_within(opened or contextlib.nullcontext(), prepare, workload, size, rounds))
    else:
        seconds = _measured(prepare, workload, size, rounds)
    found = {
        "version": f"{package} {version(package)}",
        "python": sys.version.split()[0],
        "seconds": seconds,
        "rss_mb": peak_rss() / 1000,
    }
    print("\nRESULT " + json.dumps(found), flush=True)


def peak_rss():
    """Return the most memory that this process has had, in kB; what `getrusage` says begins with that of its parent."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _measured(prepare, workload, size, rounds):
    warm = prepare("fan-out", 50)
    warm()
    right = answer(workload, size)
    run, seconds = prepare(workload, size), []
    while len(seconds) < rounds and sum(seconds) < ENOUGH:
        start = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - start)
        assert found == right, (found, right)
    return seconds


async def _within(opened, *arguments):
    async with opened:
        return await _measured_async(*arguments)


async def _measured_async(prepare, workload, size, rounds):
    warm = await prepare("fan-out", 50)
    await warm()
    right = answer(workload, size)
    run, seconds = await prepare(workload, size), []
    while len(seconds) < rounds and sum(seconds) < ENOUGH:
        start = time.perf_counter()
        found = await run()
        seconds.append(time.perf_counter() - start)
        assert found == right, (found, right)
    return seconds
