"""Schedules against naive oracles, most of all where the clocks change."""

from __future__ import annotations

import datetime
import json
import sys
from datetime import timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from dateutil import rrule
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowloop.engine.errors import DialectError, FlowDefinitionError, SerializationError
from flowloop.engine.schedules import (
    CronClock,
    CronSchedule,
    DatesClock,
    IntervalClock,
    IntervalSchedule,
    RRuleClock,
    RRuleSchedule,
    Schedule,
    ScheduleEvent,
    adjustments,
    deserialize_schedule,
    filters,
    next_events,
    serialize_schedule,
)

UTC = datetime.UTC
BERLIN = ZoneInfo("Europe/Berlin")  # forward 2024-03-31 at 2:00, back 2024-10-27 at 3:00
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # half an hour each way
BEIRUT = ZoneInfo("Asia/Beirut")  # forward at midnight
ZONES = [UTC, BERLIN, LORD_HOWE, BEIRUT, ZoneInfo("America/New_York")]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def berlin(text: str, fold: int = 0) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


def shown(moments: list[datetime.datetime]) -> list[str]:
    return [moment.isoformat(timespec="minutes") for moment in moments]


# ---- intervals -------------------------------------------------------------------------------------


@given(
    start=st.datetimes(datetime.datetime(2023, 1, 1), datetime.datetime(2025, 1, 1)),
    zone=st.sampled_from(ZONES),
    minutes=st.integers(1, 23 * 60),
    offset=st.integers(-3 * 86400, 3 * 86400),
)
def test_a_short_interval_keeps_real_time(start, zone, minutes, offset):
    first = start.replace(tzinfo=zone)
    interval = timedelta(minutes=minutes)
    after = first.astimezone(UTC) + timedelta(seconds=offset)
    moments = IntervalSchedule(interval=interval, start_date=first).next(4, after=after)
    instants = [moment.astimezone(UTC) for moment in moments]
    assert all(moment.tzinfo is zone for moment in moments)
    assert instants[0] > after
    assert instants[0] == first.astimezone(UTC) or instants[0] - after <= interval
    assert {b - a for a, b in pairwise(instants)} == {interval}
    assert (instants[0] - first.astimezone(UTC)) % interval == timedelta()


@given(
    start=st.datetimes(datetime.datetime(2023, 1, 1), datetime.datetime(2025, 1, 1)),
    zone=st.sampled_from(ZONES),
    days=st.integers(1, 40),
    offset=st.integers(0, 400),
)
def test_an_interval_of_days_keeps_the_clock_on_the_wall(start, zone, days, offset):
    first = start.replace(tzinfo=zone)
    after = first.astimezone(UTC) + offset * DAY
    moments = IntervalSchedule(interval=days * DAY, start_date=first).next(3, after=after)
    for moment in moments:
        count = round((moment.replace(tzinfo=None) - start) / (days * DAY))
        wanted = (start + count * days * DAY).replace(tzinfo=zone)
        assert moment.astimezone(UTC) == wanted.astimezone(UTC)
    instants = [moment.astimezone(UTC) for moment in moments]
    assert after < instants[0] < instants[1] < instants[2]
    assert instants[0] - after <= days * DAY + HOUR


def test_nine_oclock_stays_at_nine_and_hours_stay_hours():
    daily = IntervalSchedule(interval=DAY, start_date=berlin("2024-03-29T09:00"))
    assert shown(daily.next(4, after=berlin("2024-03-29T09:00"))) == [
        "2024-03-30T09:00+01:00",
        "2024-03-31T09:00+02:00",
        "2024-04-01T09:00+02:00",
        "2024-04-02T09:00+02:00",
    ]
    hourly = IntervalSchedule(interval=HOUR, start_date=berlin("2024-10-27T00:00"))
    assert shown(hourly.next(4, after=berlin("2024-10-27T00:30"))) == [
        "2024-10-27T01:00+02:00",
        "2024-10-27T02:00+02:00",
        "2024-10-27T02:00+01:00",
        "2024-10-27T03:00+01:00",
    ]


def test_the_bounds_of_a_clock_are_inclusive_and_after_is_not():
    schedule = IntervalSchedule(
        interval=HOUR, start_date=berlin("2024-05-01T00:00"), end_date=berlin("2024-05-01T02:00")
    )
    times = ["2024-05-01T00:00+02:00", "2024-05-01T01:00+02:00", "2024-05-01T02:00+02:00"]
    assert shown(schedule.next(9, after=berlin("2020-01-01T00:00"))) == times
    assert shown(schedule.next(9, after=berlin("2024-05-01T01:00"))) == times[2:]
    assert schedule.next(9, after=berlin("2024-05-01T02:00")) == []


def test_an_interval_without_a_start_counts_from_2019():
    times = IntervalSchedule(interval=timedelta(minutes=90)).next(2, after=datetime.datetime(2019, 1, 1, 0, 10))
    assert shown(times) == ["2019-01-01T01:30+00:00", "2019-01-01T03:00+00:00"]


@pytest.mark.parametrize("interval", [timedelta(), -HOUR, 60, None])
def test_an_interval_is_a_timedelta_above_zero(interval):
    with pytest.raises(FlowDefinitionError, match="interval"):
        IntervalClock(interval)


# ---- cron ------------------------------------------------------------------------------------------

NAMES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *"}
EXPRESSIONS = [
    "30 2 * * *",
    "0,30 1-3 * * *",
    "0 0 * * *",
    "15 0 * * sun",
    "0 * * * *",
    "*/20 * * * *",
    "* 2 * * *",
    "0 */2 * * *",
    "@hourly",
    "@daily",
    "0 9 * * 1-5",
]


def field_matches(field: str, value: int) -> bool:
    def part_matches(part: str) -> bool:
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        return value % int(step or 1) == 0 if span == "*" else int(low) <= value <= int(high or low)

    return any(part_matches(part) for part in field.split(","))


def cron_matches(expression: str, time: datetime.datetime) -> bool:
    minute, hour, _, _, weekday = NAMES.get(expression, expression).split()
    return (
        field_matches(minute, time.minute)
        and field_matches(hour, time.hour)
        and field_matches(weekday.replace("sun", "0"), time.isoweekday() % 7)
    )


def cron_oracle(expression: str, zone: datetime.tzinfo, after: datetime.datetime, days: int) -> list[datetime.datetime]:
    """Look at every minute on the wall, and at every real minute, of some days."""
    keeps_pace = expression == "@hourly" or "*" in {field[0] for field in expression.split()[:2]}
    found = set()
    time = (after.astimezone(zone).replace(tzinfo=None) - DAY).replace(second=0, microsecond=0)
    for _ in range((days + 2) * 1440):
        time += MINUTE
        if cron_matches(expression, time):
            first, second = (time.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
            skipped = first > second
            if keeps_pace:
                found |= set() if skipped else {first, second}
            else:
                found.add(first)
    return sorted(instant for instant in found if after < instant <= after + days * DAY)


@settings(max_examples=60, deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    change=st.sampled_from(
        [
            (BERLIN, "2024-03-31T01:00"),
            (BERLIN, "2024-10-27T01:00"),
            (LORD_HOWE, "2024-04-06T15:00"),
            (LORD_HOWE, "2024-10-05T15:30"),
            (BEIRUT, "2024-03-30T22:00"),
            (BEIRUT, "2024-10-26T21:00"),
            (UTC, "2024-02-28T23:00"),
        ]
    ),
    minutes=st.integers(-600, 600),
    seconds=st.integers(0, 59),
)
@example("*/20 * * * *", (BERLIN, "2024-10-27T01:00"), 0, 30)
@example("0,30 1-3 * * *", (BERLIN, "2024-03-31T01:00"), 5, 0)
def test_cron_agrees_with_looking_at_every_minute(expression, change, minutes, seconds):
    zone, moment = change
    after = datetime.datetime.fromisoformat(moment).replace(tzinfo=UTC) + timedelta(minutes=minutes, seconds=seconds)
    wanted = cron_oracle(expression, zone, after, days=2)
    clock = CronClock(expression, start_date=datetime.datetime(2020, 1, 1, tzinfo=zone))
    events = islice(clock.events(after), len(wanted))
    assert [event.start_time.astimezone(UTC) for event in events] == wanted


def test_a_fixed_time_runs_once_when_it_comes_twice_and_late_when_it_is_skipped():
    schedule = CronSchedule("30 2 * * *", start_date=berlin("2024-01-01T00:00"))
    assert shown(schedule.next(2, after=berlin("2024-03-31T00:00"))) == [
        "2024-03-31T03:30+02:00",
        "2024-04-01T02:30+02:00",
    ]
    assert shown(schedule.next(2, after=berlin("2024-10-27T00:00"))) == [
        "2024-10-27T02:30+02:00",
        "2024-10-28T02:30+01:00",
    ]
    assert shown(schedule.next(1, after=berlin("2024-10-27T02:10", fold=1))) == ["2024-10-28T02:30+01:00"]


def test_cron_day_or():
    either = CronSchedule("0 0 13 * fri")
    both = CronSchedule("0 0 13 * fri", day_or=False)
    after = datetime.datetime(2024, 9, 1, tzinfo=UTC)
    assert shown(either.next(3, after)) == [
        "2024-09-06T00:00+00:00",
        "2024-09-13T00:00+00:00",
        "2024-09-20T00:00+00:00",
    ]
    assert shown(both.next(2, after)) == ["2024-09-13T00:00+00:00", "2024-12-13T00:00+00:00"]


def test_cron_ends_where_no_such_day_exists():
    assert CronSchedule("0 0 30 2 *").next(3, after=datetime.datetime(2024, 1, 1)) == []


@pytest.mark.parametrize("cron", ["", "every day", "61 * * * *", "* * *"])
def test_a_wrong_cron_expression_is_refused(cron):
    with pytest.raises(FlowDefinitionError, match="is not a cron expression"):
        CronClock(cron)


# ---- dates and rules -------------------------------------------------------------------------------


def test_dates_come_in_order_each_in_its_zone():
    dates = [datetime.datetime(2024, 5, 2, 12, tzinfo=UTC), berlin("2024-05-01T12:00"), datetime.datetime(2024, 5, 3)]
    times = Schedule([DatesClock(dates)]).next(9, after=datetime.datetime(2024, 5, 1, 11))
    assert [time.astimezone(UTC) for time in times] == [
        datetime.datetime(2024, 5, 2, 12, tzinfo=UTC),
        datetime.datetime(2024, 5, 3, tzinfo=UTC),
    ]


def test_a_dates_clock_without_dates_is_refused():
    with pytest.raises(FlowDefinitionError, match="dates is empty"):
        DatesClock([])


@pytest.mark.parametrize("aware", [True, False])
def test_a_recurrence_rule_keeps_the_clock_on_the_wall(aware):
    start = berlin("2024-03-29T02:30")
    rule = rrule.rrule(rrule.DAILY, dtstart=start if aware else start.replace(tzinfo=None))
    schedule = RRuleSchedule(rule, start_date=start)
    assert shown(schedule.next(3, after=berlin("2024-03-30T00:00"))) == [
        "2024-03-30T02:30+01:00",
        "2024-03-31T03:30+02:00",
        "2024-04-01T02:30+02:00",
    ]


def test_a_set_of_rules_and_an_empty_one():
    rules = rrule.rruleset()
    rules.rrule(rrule.rrule(rrule.DAILY, count=4, dtstart=berlin("2024-05-01T12:00")))
    rules.exdate(berlin("2024-05-02T12:00"))
    rules.rdate(berlin("2024-05-10T08:00"))
    schedule = Schedule([RRuleClock(rules)])
    wanted = ["2024-05-03T12:00+02:00", "2024-05-04T12:00+02:00", "2024-05-10T08:00+02:00"]
    assert shown(schedule.next(9, after=berlin("2024-05-01T12:00"))) == wanted
    assert shown(deserialize_schedule(schedule.serialize()).next(9, after=berlin("2024-05-01T12:00"))) == wanted
    assert RRuleSchedule(rrule.rruleset()).next(1) == []


# ---- schedules -------------------------------------------------------------------------------------


def test_clocks_are_merged_and_equal_events_come_once():
    start = datetime.datetime(2024, 5, 1, tzinfo=UTC)
    schedule = Schedule(
        [
            IntervalClock(2 * HOUR, start),
            IntervalClock(3 * HOUR, start),
            IntervalClock(6 * HOUR, start, parameter_defaults={"x": 1}, labels=["big"]),
        ]
    )
    events = schedule.next(7, after=start, return_events=True)
    assert [(event.start_time.hour, event.parameter_defaults, event.labels) for event in events] == [
        (2, {}, None),
        (3, {}, None),
        (4, {}, None),
        (6, {}, None),
        (6, {"x": 1}, ["big"]),
        (8, {}, None),
        (9, {}, None),
    ]


def test_all_three_kinds_of_filters_and_the_zone_they_see():
    schedule = Schedule(
        [IntervalClock(HOUR, start_date=berlin("2024-05-01T00:00"))],
        filters=[filters.is_weekday],
        or_filters=[filters.at_time(datetime.time(9)), filters.at_time(datetime.time(17))],
        not_filters=[filters.on_date(5, 2)],
    )
    assert shown(schedule.next(3, after=berlin("2024-05-01T10:00"))) == [
        "2024-05-01T17:00+02:00",
        "2024-05-03T09:00+02:00",
        "2024-05-03T17:00+02:00",
    ]


def test_a_schedule_that_keeps_nothing_ends():
    never = Schedule([IntervalClock(MINUTE)], filters=[lambda time: False])
    assert never.next(1, after=datetime.datetime(2024, 1, 1)) == []


def test_adjustments_are_applied_in_order_and_what_they_make_equal_comes_once():
    schedule = Schedule(
        [IntervalClock(DAY, start_date=datetime.datetime(2024, 5, 3, 12, tzinfo=UTC))],  # a Friday
        adjustments=[adjustments.next_weekday, adjustments.add(HOUR)],
    )
    assert shown(schedule.next(3, after=datetime.datetime(2024, 5, 3))) == [
        "2024-05-03T13:00+00:00",
        "2024-05-06T13:00+00:00",
        "2024-05-07T13:00+00:00",
    ]


def test_adding_days_keeps_the_clock_on_the_wall_and_adding_hours_does_not():
    before = berlin("2024-03-30T09:00")
    assert adjustments.add(DAY)(before).isoformat() == "2024-03-31T09:00:00+02:00"
    assert adjustments.add(23 * HOUR)(before).isoformat() == "2024-03-31T09:00:00+02:00"
    assert adjustments.add(-HOUR)(before).isoformat() == "2024-03-30T08:00:00+01:00"


@pytest.mark.parametrize(
    ("keep", "kept", "refused"),
    [
        (filters.on_datetime(datetime.datetime(2024, 5, 1, 12, tzinfo=UTC)), "2024-05-01T12:00", "2024-05-01T12:01"),
        (filters.on_date(5, 1), "2024-05-01T23:59", "2024-06-01T00:00"),
        (filters.at_time(datetime.time(12)), "2024-05-01T12:00", "2024-05-01T12:01"),
        (
            filters.between_datetimes(
                datetime.datetime(2024, 5, 1, tzinfo=UTC), datetime.datetime(2024, 5, 2, tzinfo=UTC)
            ),
            "2024-05-02T00:00",
            "2024-05-02T00:01",
        ),
        (filters.between_times(datetime.time(9), datetime.time(17)), "2024-05-01T17:00", "2024-05-01T17:01"),
        (filters.between_times(datetime.time(22), datetime.time(6)), "2024-05-01T06:00", "2024-05-01T12:00"),
        (filters.between_dates(5, 1, 6, 15), "2024-06-15T23:00", "2024-06-16T00:00"),
        (filters.between_dates(10, 15, 3, 31), "2024-01-01T00:00", "2024-10-14T00:00"),
        (filters.between_dates(5, 20, 5, 10), "2024-05-25T00:00", "2024-05-15T00:00"),
        (filters.is_weekday, "2024-05-03T00:00", "2024-05-04T00:00"),
        (filters.is_weekend, "2024-05-05T00:00", "2024-05-06T00:00"),
        (filters.is_month_start, "2024-05-01T23:00", "2024-05-02T00:00"),
        (filters.is_month_end, "2024-02-29T23:00", "2023-02-27T00:00"),
        (filters.is_day_of_week(0), "2024-05-06T00:00", "2024-05-05T00:00"),
    ],
)
def test_filters(keep, kept, refused):
    assert keep(datetime.datetime.fromisoformat(kept).replace(tzinfo=UTC)) is True
    assert keep(datetime.datetime.fromisoformat(refused).replace(tzinfo=UTC)) is False


@pytest.mark.parametrize("arguments", [{"clocks": []}, {"clocks": [IntervalClock(HOUR)], "filters": ["weekday"]}])
def test_a_schedule_checks_its_arguments(arguments):
    with pytest.raises(FlowDefinitionError):
        Schedule(**arguments)


# ---- documents -------------------------------------------------------------------------------------

RECORDED = json.loads(
    """{"not_filters": [{"fn": "prefect.schedules.filters.is_month_end", "kwargs": {}}],
    "filters": [{"fn": "prefect.schedules.filters.is_weekday", "kwargs": {}}], "adjustments": [], "or_filters": [],
    "clocks": [{"parameter_defaults": {"x": 3}, "start_date": {"dt": "2021-01-01T00:00:00", "tz": "America/New_York"},
    "day_or": true, "labels": ["a"], "end_date": null, "cron": "0 9 * * 1-5", "__version__": "1.4.1",
    "type": "CronClock"}, {"parameter_defaults": {"x": 4}, "start_date": {"dt": "2021-01-01T00:00:00", "tz": "UTC"},
    "labels": null, "end_date": null, "interval": 5400000000, "__version__": "1.4.1", "type": "IntervalClock"},
    {"dates": [{"dt": "2031-01-01T12:00:00", "tz": "UTC"}, {"dt": "2031-01-02T12:00:00", "tz": "UTC"}],
    "parameter_defaults": {"x": 5}, "labels": null, "__version__": "1.4.1", "type": "DatesClock"}],
    "__version__": "1.4.1"}"""
)


def test_a_recorded_document_comes_back_as_it_was():
    assert serialize_schedule(deserialize_schedule(RECORDED)) == RECORDED


def test_the_events_of_a_recorded_document():
    events = next_events(RECORDED, 3, datetime.datetime(2024, 7, 1, 12, 0, tzinfo=UTC))
    assert [(event.start_time.astimezone(UTC).isoformat(), event.parameter_defaults) for event in events] == [
        ("2024-07-01T13:00:00+00:00", {"x": 3}),
        ("2024-07-01T13:30:00+00:00", {"x": 4}),
        ("2024-07-01T15:00:00+00:00", {"x": 4}),
    ]
    assert events[0].labels == ["a"]
    assert isinstance(events[0], ScheduleEvent)


SCHEDULES = [
    IntervalSchedule(berlin("2024-03-29T02:30"), 36 * HOUR),
    CronSchedule("30 2 * * *", start_date=berlin("2024-03-29T02:30"), day_or=False, parameter_defaults={"a": [1]}),
    RRuleSchedule(rrule.rrule(rrule.DAILY, dtstart=berlin("2024-03-29T02:30"), until=berlin("2026-01-01T00:00"))),
    Schedule([DatesClock([berlin("2031-01-01T12:00"), berlin("2030-10-27T02:30", fold=1)])]),
    Schedule(
        [IntervalClock(HOUR, labels=["x"], end_date=datetime.datetime(2030, 1, 1))],
        filters=[filters.between_times(datetime.time(9), datetime.time(17, 30)), filters.is_day_of_week(3)],
        or_filters=[filters.between_datetimes(berlin("2024-01-01T00:00"), berlin("2024-12-31T00:00"))],
        not_filters=[filters.on_date(5, 1)],
        adjustments=[adjustments.add(timedelta(days=-1, minutes=3)), adjustments.next_weekday],
    ),
    Schedule([IntervalClock(HOUR, datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(timedelta(hours=5.5))))]),
]


def test_a_schedule_of_an_interval_begins_with_its_start():
    with pytest.raises(FlowDefinitionError, match="interval= is missing; what comes first is the start_date"):
        IntervalSchedule(HOUR)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_schedule_survives_its_document(schedule):
    document = json.loads(json.dumps(schedule.serialize()))
    after = datetime.datetime(2024, 3, 30, tzinfo=UTC)
    twin = deserialize_schedule(document)
    assert twin.serialize() == document
    events, again = (one.next(20, after, return_events=True) for one in (schedule, twin))
    assert [event.start_time.astimezone(UTC) for event in events] == [e.start_time.astimezone(UTC) for e in again]
    assert [(e.parameter_defaults, e.labels) for e in events] == [(e.parameter_defaults, e.labels) for e in again]


def test_marked_times_are_written_as_the_dialect_does():
    schedule = Schedule(
        [IntervalClock(HOUR)],
        filters=[filters.at_time(datetime.time(9)), filters.on_datetime(datetime.datetime(2024, 1, 1, tzinfo=UTC))],
        adjustments=[adjustments.add(timedelta(minutes=90))],
    )
    document = schedule.serialize()
    assert document["filters"] == [
        {"fn": "prefect.schedules.filters.at_time", "kwargs": {"t": "//time:09:00:00"}},
        {"fn": "prefect.schedules.filters.on_datetime", "kwargs": {"dt": "//datetime:2024-01-01T00:00:00+00:00"}},
    ]
    assert document["adjustments"] == [
        {"fn": "prefect.schedules.adjustments.add", "kwargs": {"interval": "//timedelta:5400.0"}}
    ]


def test_reading_is_tolerant():
    minimal = {"clocks": [{"type": "IntervalClock", "interval": 3600000000, "surprise": 1}], "filters": [None]}
    assert len(next_events(minimal, 2, datetime.datetime(2024, 1, 1))) == 2
    iso = {"clocks": [{"type": "CronClock", "cron": "@daily", "start_date": "2024-01-01T00:00:00Z"}]}
    assert shown(deserialize_schedule(iso).next(1, datetime.datetime(2023, 1, 1))) == ["2024-01-01T00:00+00:00"]
    rule = {"clocks": [{"type": "RRuleClock", "rrule_obj": {"rr": "RRULE:FREQ=DAILY;COUNT=2"}}]}
    assert shown(deserialize_schedule(rule).next(9, datetime.datetime(2018, 1, 1))) == [
        "2018-06-20T00:00+00:00",
        "2018-06-21T00:00+00:00",
    ]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"clocks": []},
        {"clocks": [{"type": "MoonClock"}]},
        {"clocks": [{"type": "CronClock", "cron": "nonsense"}]},
        {"clocks": [{"type": "IntervalClock", "interval": "soon"}]},
        {"clocks": [{"type": "IntervalClock", "interval": 10**30}]},
        {"clocks": [{"type": "DatesClock", "dates": [None]}]},
        {"clocks": [{"type": "CronClock", "cron": "@daily", "start_date": {"dt": "2024-01-01", "tz": "Atlantis"}}]},
        {"clocks": [{"type": "CronClock", "cron": "@daily"}], "filters": [{"fn": "os.system", "kwargs": {}}]},
        {"clocks": [{"type": "CronClock", "cron": "@daily"}], "filters": [{"fn": "prefect.schedules.filters.on_date",
         "kwargs": {"year": 1}}]},
        {"clocks": "daily"},
    ],
)  # fmt: skip
def test_a_document_that_is_not_understood_is_refused(document):
    with pytest.raises(DialectError, match="schedule document"):
        deserialize_schedule(document)


class MoonClock(IntervalClock.__mro__[1]):
    pass


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule([MoonClock()]),
        Schedule([IntervalClock(HOUR)], filters=[lambda time: True]),
        Schedule([IntervalClock(HOUR)], adjustments=[filters.is_weekday.__call__]),
        Schedule([IntervalClock(HOUR, parameter_defaults={"x": object()})]),
    ],
    ids=["clock", "filter", "adjustment", "defaults"],
)
def test_what_the_dialect_has_no_words_for_is_refused_when_it_is_written(schedule):
    with pytest.raises(SerializationError):
        schedule.serialize()


def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "croniter", None)
    with pytest.raises(FlowDefinitionError, match=r"pip install 'flowloop\[schedules\]'"):
        CronClock("@daily")
    monkeypatch.setitem(sys.modules, "dateutil", None)
    with pytest.raises(DialectError, match=r"pip install 'flowloop\[schedules\]'"):
        deserialize_schedule({"clocks": [{"type": "RRuleClock", "rrule_obj": {"rr": "RRULE:FREQ=DAILY"}}]})
