"""The Seattle weather example: its numbers against pandas, its shape, and its run as the demo makes it."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import runpy
from pathlib import Path
from typing import Any

import pandas
import pytest

from flowloop.engine import Flow, FlowRunner, State
from flowloop.engine.state import Skipped

from .commands import ROOT, flowloop

EXAMPLE = ROOT / "examples" / "seattle_weather.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE), run_name="seattle_weather")


@pytest.fixture(scope="module")
def weather() -> pandas.DataFrame:
    package = importlib.util.find_spec("vega_datasets")
    assert package is not None
    assert package.origin is not None
    data = Path(package.origin).parent / "_data" / "seattle-weather.csv"
    return pandas.read_csv(data, parse_dates=["date"])


def state_of(final: State, flow: Flow, name: str) -> State:
    (task,) = flow.get_tasks(name=name)
    state: State = final.result[task]
    return state


@pytest.mark.parametrize("year", [2012, 2013, 2014, 2015])
async def test_its_numbers_are_those_of_an_independent_computation(
    example: dict[str, Any], weather: pandas.DataFrame, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = example["flow"]
    (usual,) = flow.get_tasks(name="read_usual_rain")
    monkeypatch.setattr(usual, "retry_delay", 0)
    final = await FlowRunner(flow).run(parameters={"year": year})
    assert final.is_successful()

    days = weather[weather.date.dt.year == year]
    by_month = days.groupby(days.date.dt.month)
    months = state_of(final, flow, "summarise").result
    assert [month.number for month in months] == list(range(1, 13))
    assert [month.rain for month in months] == pytest.approx(by_month.precipitation.sum().tolist())
    assert [month.dry_days for month in months] == by_month.precipitation.apply(lambda rain: (rain == 0).sum()).tolist()
    assert [month.high for month in months] == pytest.approx(by_month.temp_max.mean().tolist())

    usual_rain = weather.groupby(weather.date.dt.month).precipitation.sum() / weather.date.dt.year.nunique()
    changes = [comparison.change for comparison in state_of(final, flow, "compare").result]
    assert changes == pytest.approx((by_month.precipitation.sum() - usual_rain).tolist())

    total = state_of(final, flow, "add_up").result
    assert total.rain == pytest.approx(days.precipitation.sum())
    assert total.usual_rain == pytest.approx(weather.precipitation.sum() / 4)
    assert total.dry_days == int((days.precipitation == 0).sum())
    assert total.wettest_month == int(by_month.precipitation.sum().idxmax())

    dry = bool(days.precipitation.sum() < weather.precipitation.sum() / 4)
    taken, other = ("dry_report", "wet_report") if dry else ("wet_report", "dry_report")
    assert type(state_of(final, flow, other)) is Skipped
    assert state_of(final, flow, "publish").result == state_of(final, flow, taken).result


async def test_one_task_fails_at_first_and_two_are_mapped_over_twelve_months(example: dict[str, Any]) -> None:
    runner = FlowRunner(example["flow"])
    seen: dict[tuple[str | None, int], list[str]] = {}

    async def follow() -> None:
        async for event in runner.events():
            seen.setdefault((event.task_slug, event.map_index), []).append(type(event.state).__name__)

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await runner.run(parameters={"year": 2015})
    await following
    assert seen["read_usual_rain-1", -1] == ["Running", "Failed", "Retrying", "Running", "Success"]
    for mapped in ("summarise-1", "compare-1"):
        assert seen[mapped, -1] == ["Mapped"]
        assert {index for slug, index in seen if slug == mapped} == set(range(-1, 12))


def test_the_demo_shows_every_task_and_where_the_run_is(tmp_path: Path) -> None:
    done = flowloop("run", str(EXAMPLE), "-p", "year=2013", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "A dry year: 828 mm of rain" in done.stdout
    rows = {
        cells[0]: cells[1:]
        for line in done.stdout.splitlines()
        if (cells := [cell.strip() for cell in line.strip("│").split("│")]) and len(cells) == 4
    }
    assert rows["read_usual_rain-1"][:2] == ["Success", "2"]
    assert rows["summarise-1"][:2] == ["Mapped 12: 12 Success", "1"]
    assert rows["compare-1"][:2] == ["Mapped 12: 12 Success", "1"]
    assert rows["wet_report-1"][0] == "Skipped"
    assert rows["publish-1"][:2] == ["Success", "1"]
    assert all(re.fullmatch(r"\d+\.\d\d s", row[2]) for row in rows.values() if row[1])

    hint = done.stdout.splitlines()[-1].split()
    shown = flowloop(*hint[hint.index("show") :], cwd=tmp_path)
    names = {block.splitlines()[0].split("  ")[0] for block in shown.stdout.split("\n\n")[1:]}
    children = {f"{task}[{child}]" for task in ("summarise-1", "compare-1") for child in range(12)}
    assert names == rows.keys() | children
    retried = shown.stdout.partition("\nread_usual_rain-1  ")[2].partition("\n\n")[0]
    assert re.findall(r"^  [\d:.]+ (\w+)", retried, re.MULTILINE) == [
        "Pending",
        "Running",
        "Failed",
        "Retrying",
        "Running",
        "Success",
    ]
    assert (tmp_path / "home" / "flowloop.db").exists()


async def test_a_year_without_records_fails_with_its_reason(example: dict[str, Any]) -> None:
    flow = example["flow"]
    final = await FlowRunner(flow).run(parameters={"year": 1066})
    assert final.is_failed()
    assert (
        "there are no records of 1066: choose a year from 2012 to 2015" in state_of(final, flow, "read_months").message
    )
