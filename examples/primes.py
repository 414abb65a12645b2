"""Work for all processors: how many primes there are below a million, in processes.

One word sends it to a cluster instead, as the flow stays what it is::

    flowloop run examples/primes.py
    flowloop run examples/primes.py --executor dask             # four workers on this machine
    flowloop run examples/primes.py --executor dask://host:8786
    flowloop run examples/primes.py --executor ray
"""

from __future__ import annotations

from flowloop import Flow, Parameter, task
from flowloop.engine.executors import ProcessExecutor

PARTS = 8


@task
async def ranges(below: int) -> list[range]:
    """Cut the numbers into parts."""
    size = -(-below // PARTS)
    return [range(start, min(start + size, below)) for start in range(0, below, size)]


@task(timeout=120)
def count(numbers: range) -> int:
    """Count the primes among some numbers, the slow way: a sieve of the divisors, then of the numbers."""
    limit = int(numbers.stop**0.5) + 1
    is_prime = [True] * (limit + 1)
    is_composite = bytearray(len(numbers))
    for divisor in range(2, limit + 1):
        if is_prime[divisor]:
            for multiple in range(divisor * divisor, limit + 1, divisor):
                is_prime[multiple] = False
            first = max(divisor * divisor, -(-numbers.start // divisor) * divisor)
            for multiple in range(first, numbers.stop, divisor):
                is_composite[multiple - numbers.start] = 1
    return len(numbers) - sum(is_composite) - sum(number in numbers for number in (0, 1))


@task
async def total(counts: list[int]) -> int:
    """Add the parts."""
    return sum(counts)


with Flow("primes", executor=ProcessExecutor()) as flow:
    primes = total(count.map(ranges(Parameter("below", default=1_000_000, type=int))))

if __name__ == "__main__":
    print(flow.run_sync()[primes].result)
