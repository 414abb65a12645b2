"""What the scripts of many small flow runs share: `at_once` clients, `count` runs, their latencies as JSON."""

import asyncio
import json
import sys
import time

from _peer import peak_rss


async def measured(one):
    """Run ``one(x)`` as often as the command line says, check what it returns, and print what was measured."""
    at_once, count = int(sys.argv[1]), int(sys.argv[2])
    await asyncio.gather(*(one(x) for x in range(min(at_once, 20))))
    numbers, latencies = iter(range(count)), []

    async def client():
        for x in numbers:
            start = time.perf_counter()
            found = await one(x)
            latencies.append(time.perf_counter() - start)
            assert found == 2 * x + x * x, (found, x)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    seconds = time.perf_counter() - start
    latencies.sort()
    return seconds, latencies


def tell(package, found):
    """Print the answer."""
    from importlib.metadata import version

    seconds, latencies = found
    details = {
        "p50 ms": latencies[len(latencies) // 2] * 1e3,
        "p99 ms": latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))] * 1e3,
    }
    answer = {
        "version": f"{package} {version(package)}",
        "python": sys.version.split()[0],
        "seconds": [seconds],
        "rss_mb": peak_rss() / 1000,
        "details": details,
    }
    print("\nRESULT " + json.dumps(answer), flush=True)
