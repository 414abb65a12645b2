# mypy: ignore-errors
# pyright: basic, reportFunctionMemberAccess=false, reportAttributeAccessIssue=false, reportMissingImports=false
"""A flow that runs unchanged under Prefect 1 and under flowloop, but for its imports.

Where Prefect 1 is installed it takes that, else flowloop::

    python examples/both_engines.py
"""

from datetime import timedelta

try:
    from prefect import Flow, Parameter, case, task, unmapped
except ImportError:
    from flowloop import Flow, Parameter, case, task, unmapped


@task
def numbers(n):
    """Return the numbers below one."""
    return list(range(n))


@task(max_retries=1, retry_delay=timedelta(seconds=0))
def power(x, exponent):
    """Return a power."""
    return x**exponent


@task
def total(values):
    """Add them."""
    return sum(values)


@task
def is_large(value):
    """Compare."""
    return value > 10


@task
def praise(value):
    """Say so."""
    return f"{value} is large"


with Flow("both engines") as flow:
    summed = total(power.map(numbers(Parameter("n", default=5)), exponent=unmapped(2)))
    with case(is_large(summed), True):
        said = praise(summed)

if __name__ == "__main__":
    run = getattr(flow, "run_sync", flow.run)
    print(run().result[said].result)
