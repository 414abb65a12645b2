"""One flow for both engines: ``ENGINE=prefect`` makes a Prefect 1 flow of it, anything else one of flowloop's."""

import datetime
import os
import time
from pathlib import Path

if os.environ.get("ENGINE") == "prefect":
    from prefect import Flow, Parameter, task
    from prefect.engine.results import LocalResult
else:
    from flowloop.engine import Flow, Parameter, task
    from flowloop.engine.results import LocalResult

HERE = Path(os.environ["HERE"])
ran = HERE / "ran.txt"
"""What ran, a line each; who reads it sees all that was written before a process was killed."""
closed = HERE / "closed"
"""As long as there is such a file, the third child of ``double`` does not end."""


def note(line):
    with ran.open("a") as file:
        file.write(f"{line}\n")


@task
def numbers(n):
    note("numbers")
    return list(range(n))


@task(max_retries=1, retry_delay=datetime.timedelta(seconds=0))
def double(x):
    note(f"double {x}")
    while x == 2 and closed.exists():
        time.sleep(0.02)
    return 2 * x


@task(max_retries=1, retry_delay=datetime.timedelta(seconds=0))
def total(values):
    note("total")
    if (HERE / "fail once").exists():
        (HERE / "fail once").unlink()
        raise ValueError("once")
    return sum(values)


with Flow("both", result=LocalResult(dir=str(HERE / "results"))) as flow:
    n = Parameter("n", default=4)
    total(double.map(numbers(n)))
