"""Local times around changes of the clock, against the rules as another library has them."""

from __future__ import annotations

import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowloop.engine.schedules import IntervalClock
from flowloop.engine.schedules._zones import instants, wall

whenever = pytest.importorskip("whenever")

ZONES = "Europe/Berlin America/New_York Australia/Lord_Howe Asia/Beirut Africa/Casablanca Pacific/Apia America/St_Johns"
CHANGES = [
    datetime.datetime(2024, 3, 31, 2, 30),
    datetime.datetime(2024, 10, 27, 2, 30),
    datetime.datetime(2011, 12, 30, 12),  # a day that Apia never had
    datetime.datetime(2024, 4, 7, 1, 45),
]
near_a_change = st.builds(
    lambda change, minutes: change + datetime.timedelta(minutes=minutes),
    st.sampled_from(CHANGES),
    st.integers(-3 * 1440, 3 * 1440),
)
anywhen = st.datetimes(datetime.datetime(1995, 1, 1), datetime.datetime(2037, 1, 1))
times = st.one_of(anywhen, near_a_change).map(lambda time: time.replace(microsecond=0))
zones = st.sampled_from(ZONES.split())


def instant(time: datetime.datetime, zone: str, disambiguation: str) -> datetime.datetime:
    plain = whenever.PlainDateTime(time.year, time.month, time.day, time.hour, time.minute, time.second)
    found = plain.assume_tz(zone, disambiguation=disambiguation).to_instant().to_stdlib()
    assert isinstance(found, datetime.datetime)
    return found


@given(times, zones)
@example(CHANGES[0], "Europe/Berlin")
@example(CHANGES[1], "Europe/Berlin")
@example(CHANGES[2], "Pacific/Apia")
def test_a_time_on_the_wall_stands_for_the_instant_that_rfc_5545_says(time: datetime.datetime, zone: str) -> None:
    assert instants(time, ZoneInfo(zone))[0] == instant(time, zone, "compatible")
    assert set(instants(time, ZoneInfo(zone))) == {instant(time, zone, "earlier"), instant(time, zone, "later")}


@given(times, zones)
def test_an_instant_is_shown_on_the_wall_as_elsewhere(time: datetime.datetime, zone: str) -> None:
    moment = time.replace(tzinfo=datetime.UTC)
    there = whenever.Instant.from_utc(*time.timetuple()[:6]).to_tz(zone)
    assert wall(moment, ZoneInfo(zone)) == there.to_plain().to_stdlib()


@given(times, zones, st.integers(1, 40))
def test_days_are_counted_on_the_wall(time: datetime.datetime, zone: str, days: int) -> None:
    began = instant(time, zone, "compatible")
    start = began.astimezone(ZoneInfo(zone))
    clock = IntervalClock(datetime.timedelta(days=days), start)
    first = wall(start, ZoneInfo(zone))
    found = [
        event.start_time.astimezone(datetime.UTC)
        for event in islice(clock.events(began - datetime.timedelta(seconds=1)), 6)
    ]
    expected = [instant(first + count * datetime.timedelta(days=days), zone, "compatible") for count in range(8)]
    assert found == [one for one in expected if one >= began][:6]
