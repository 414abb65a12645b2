"""How dry was a year in Seattle? Daily records of 2012 to 2015, month by month, against the mean of all years.

The records ship inside the `vega-datasets` package, so the flow needs no network::

    flowloop run examples/seattle_weather.py -p year=2015
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowloop.engine import Flow, Parameter, context, task, unmapped
from flowloop.engine.control import case, merge

MONTHS = range(1, 13)


@dataclass(frozen=True)
class Day:
    """One day: rain in millimetres, the highest temperature in degrees Celsius."""

    date: datetime.date
    rain: float
    high: float


@dataclass(frozen=True)
class Month:
    """One month: rain in millimetres, days without any, the mean of the daily highs in degrees Celsius."""

    number: int
    rain: float
    dry_days: int
    high: float


@dataclass(frozen=True)
class Comparison:
    """One month beside the mean of that month over all years."""

    month: Month
    usual_rain: float

    @property
    def change(self) -> float:
        """Return by how much rain the month differs, in millimetres."""
        return self.month.rain - self.usual_rain


@dataclass(frozen=True)
class Year:
    """The twelve months together."""

    rain: float
    usual_rain: float
    dry_days: int
    wettest_month: int


def records() -> list[Day]:
    """Read all daily records, which `vega-datasets` holds as a CSV file."""
    package = importlib.util.find_spec("vega_datasets")
    if package is None or package.origin is None:
        raise RuntimeError("the records are in the package vega-datasets: pip install 'flowloop[demo]'")
    with (Path(package.origin).parent / "_data" / "seattle-weather.csv").open(newline="") as file:
        return [
            Day(
                date=datetime.datetime.strptime(row["date"], "%Y/%m/%d").date(),
                rain=float(row["precipitation"]),
                high=float(row["temp_max"]),
            )
            for row in csv.DictReader(file)
        ]


@task
def read_months(year: int) -> list[list[Day]]:
    """Return the days of a year, month by month. Synchronous: it reads a file, so it runs in a thread."""
    days = [day for day in records() if day.date.year == year]
    if not days:
        raise ValueError(f"there are no records of {year}: choose a year from 2012 to 2015")
    return [[day for day in days if day.date.month == month] for month in MONTHS]


@task(max_retries=2, retry_delay=1)
def read_usual_rain() -> dict[int, float]:
    """Return the mean rain of each month over all years.

    It behaves like a service that is still asleep: its first attempt fails, the next one gets the answer.
    """
    if context.task_run_count == 1:
        raise ConnectionError("the archive is not awake yet")
    days = records()
    years = {day.date.year for day in days}
    return {month: sum(day.rain for day in days if day.date.month == month) / len(years) for month in MONTHS}


@task
async def summarise(days: Sequence[Day]) -> Month:
    """Return one month in figures. Asynchronous: it runs on the event loop."""
    return Month(
        number=days[0].date.month,
        rain=sum(day.rain for day in days),
        dry_days=sum(day.rain == 0 for day in days),
        high=statistics.fmean(day.high for day in days),
    )


@task
async def compare(month: Month, usual_rain: dict[int, float]) -> Comparison:
    """Return a month beside the mean of that month."""
    return Comparison(month, usual_rain[month.number])


@task
async def add_up(months: Sequence[Comparison]) -> Year:
    """Return the year in figures."""
    return Year(
        rain=sum(each.month.rain for each in months),
        usual_rain=sum(each.usual_rain for each in months),
        dry_days=sum(each.month.dry_days for each in months),
        wettest_month=max(months, key=lambda each: each.month.rain).month.number,
    )


@task
async def is_dry(year: Year) -> bool:
    """Return whether less rain fell than usual."""
    return year.rain < year.usual_rain


@task
def dry_report(year: Year) -> str:
    """Return a sentence about a dry year."""
    missing = year.usual_rain - year.rain
    return f"A dry year: {year.rain:.0f} mm of rain, {missing:.0f} mm less than usual, and {year.dry_days} dry days."


@task
def wet_report(year: Year) -> str:
    """Return a sentence about a wet year."""
    more = year.rain - year.usual_rain
    return f"A wet year: {year.rain:.0f} mm of rain, {more:.0f} mm more than usual, most in month {year.wettest_month}."


@task
def publish(report: str) -> str:
    """Print the report and return it."""
    print(report)
    return report


with Flow("seattle-weather") as flow:
    year = Parameter("year", default=2015, type=int)
    months = summarise.map(read_months(year))
    compared = compare.map(months, unmapped(read_usual_rain()))
    total = add_up(compared)
    dry = is_dry(total)
    with case(dry, True):
        good_news = dry_report(total)
    with case(dry, False):
        bad_news = wet_report(total)
    published = publish(merge(good_news, bad_news))
