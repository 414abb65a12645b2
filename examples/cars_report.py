"""Extract, check, transform, report: what cars used in the seventies, from records with holes in them.

The records are in the package `vega-datasets`. What does not pass the checks is counted and left out, and the flow
fails if that is too much. The report is an artifact: it is on the page of the run, and `flowloop show` prints it::

    pip install 'flowloop[demo]'
    flowloop run examples/cars_report.py
"""

from __future__ import annotations

import importlib.util
import json
import statistics
from pathlib import Path
from typing import Any

from flowloop import Flow, Parameter, context, task, unmapped
from flowloop.engine.signals import FAIL

LITRES = 235.215
"""Miles per gallon and litres per 100 km are this over each other."""


@task(max_retries=2, retry_delay=1)
def extract() -> list[dict[str, Any]]:
    """Read the records: in a thread, because it waits for a file."""
    package = importlib.util.find_spec("vega_datasets")
    if package is None or package.origin is None:
        raise RuntimeError("the records are in the package vega-datasets: pip install 'flowloop[demo]'")
    return json.loads((Path(package.origin).parent / "_data" / "cars.json").read_text())  # type: ignore[no-any-return]


@task(nout=2)
async def check(records: list[dict[str, Any]], most_broken: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records that are whole, and what is wrong with the others."""
    whole: list[dict[str, Any]] = []
    wrong: list[str] = []
    for record in records:
        missing = [field for field in ("Miles_per_Gallon", "Horsepower") if not record[field]]
        if missing:
            wrong.append(f"{record['Name']}: no {missing[0]}")
        else:
            whole.append(record)
    if len(wrong) > most_broken * len(records):
        raise FAIL(f"{len(wrong)} of {len(records)} records are broken: {wrong[0]} …")
    return whole, wrong


@task
async def origins(records: list[dict[str, Any]]) -> list[str]:
    """Return where cars came from."""
    return sorted({record["Origin"] for record in records})


@task
async def summarise(origin: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one origin."""
    own = [record for record in records if record["Origin"] == origin]
    used = [LITRES / record["Miles_per_Gallon"] for record in own]
    return {"origin": origin, "cars": len(own), "litres": round(statistics.median(used), 1)}


@task
async def report(rows: list[dict[str, Any]], wrong: list[str]) -> str:
    """Leave the report with the run, and return its last line."""
    context.artifact.table(rows, name="cars by origin")
    context.artifact.markdown("\n".join(["Left out:", *(f"- {line}" for line in wrong)]), name="left out")
    thirsty = max(rows, key=lambda row: float(row["litres"]))
    return f"{thirsty['origin']} used most: {thirsty['litres']} litres on 100 km"


with Flow("cars report") as flow:
    good, broken = check(extract(), Parameter("most_broken", default=0.1, type=float))
    figures = summarise.map(origins(good), records=unmapped(good))
    conclusion = report(figures, broken)

if __name__ == "__main__":
    print(flow.run_sync()[conclusion].result)
