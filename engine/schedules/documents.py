"""Schedules as documents, and back.

Reading is tolerant, because the documents were written by many versions of many clients: a field that is missing or
null has its default, and one that is not known is ignored.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import DialectError, FlowDefinitionError, SerializationError
from ..plain import plain
from ..serialization import VERSION, function_reference
from ..state import aware
from . import adjustments, filters
from ._zones import UTC, zone_from_name, zone_name
from .clocks import Clock, CronClock, DatesClock, IntervalClock, RRuleClock, ScheduleEvent
from .schedules import Schedule

__all__ = ["deserialize_schedule", "next_events", "serialize_schedule"]

_MICROSECOND = datetime.timedelta(microseconds=1)
_FIRST_RRULE = datetime.datetime(2018, 6, 20, tzinfo=UTC)


def next_events(document: Mapping[str, Any], n: int, after: datetime.datetime) -> list[ScheduleEvent]:
    """Return the next events of the schedule of a document.

    Args:
        - document: the document
        - n: how many; fewer come back where the schedule ends
        - after: only later ones

    Raises:
        - DialectError: if the document is not that of a schedule
    """
    return deserialize_schedule(document).next(n, after, return_events=True)


# ---- writing ---------------------------------------------------------------------------------------


def serialize_schedule(schedule: Schedule) -> dict[str, Any]:
    """Return the document of a schedule.

    Raises:
        - SerializationError: for a clock, filter or adjustment that the dialect has no name for
    """
    return {
        "clocks": [_clock_document(clock) for clock in schedule.clocks],
        "filters": [_function_document(function, "filter") for function in schedule.filters],
        "or_filters": [_function_document(function, "filter") for function in schedule.or_filters],
        "not_filters": [_function_document(function, "filter") for function in schedule.not_filters],
        "adjustments": [_function_document(function, "adjustment") for function in schedule.adjustments],
        "__version__": VERSION,
    }


def _clock_document(clock: Clock) -> dict[str, Any]:
    document: dict[str, Any] = {
        "start_date": _date_document(clock.start_date),
        "end_date": _date_document(clock.end_date),
        "parameter_defaults": clock.parameter_defaults,
        "labels": clock.labels,
        "__version__": VERSION,
    }
    if isinstance(clock, IntervalClock):
        document |= {"type": "IntervalClock", "interval": clock.interval // _MICROSECOND}
    elif isinstance(clock, CronClock):
        document |= {"type": "CronClock", "cron": clock.cron, "day_or": clock.day_or}
    elif isinstance(clock, DatesClock):
        document |= {"type": "DatesClock", "dates": [_date_document(date) for date in clock.dates]}
        del document["start_date"], document["end_date"]
    elif isinstance(clock, RRuleClock):
        document |= {"type": "RRuleClock", "rrule_obj": _recurrence_document(clock.rrule_obj)}
    else:
        raise SerializationError(f"a schedule is registered without clocks of one's own: {type(clock).__name__} is one")
    try:
        return dict(plain(document))
    except SerializationError as error:
        raise SerializationError(f"a schedule's parameter_defaults cannot be recorded: {error}") from None


def _date_document(date: datetime.datetime | None) -> dict[str, str] | None:
    if date is None:
        return None
    if date.fold:  # the document cannot say which of two equal local times is meant
        date = date.astimezone(UTC)
    return {"dt": date.replace(tzinfo=None).isoformat(), "tz": zone_name(date)}


def _function_document(function: Callable[..., Any], kind: str) -> dict[str, Any]:
    document = function_reference(function)
    if document["fn"] not in _FUNCTIONS:
        raise SerializationError(
            f"a schedule is registered without functions of one's own: the {kind} {document['fn']} is one. Use those "
            f"of flowloop.engine.schedules.{kind}s"
        )
    return document


def _recurrence_document(rule: Any) -> dict[str, Any]:
    if hasattr(rule, "_freq"):
        return {"type": "rrule", **_rule_document(rule)}
    return {
        "type": "rruleset",
        "_rrule": [_rule_document(one) for one in rule._rrule],
        "_exrule": [_rule_document(one) for one in rule._exrule],
        "_rdate": [date.isoformat() for date in rule._rdate],
        "_exdate": [date.isoformat() for date in rule._exdate],
    }


def _rule_document(rule: Any) -> dict[str, Any]:
    return {
        "rr": str(rule),
        "_dtstart": rule._dtstart.isoformat(),
        "_until": None if rule._until is None else rule._until.isoformat(),
        # the offset alone would not follow a change of the clocks; other readers ignore this one
        "_tz": None if rule._dtstart.tzinfo is None else zone_name(rule._dtstart),
        "__version__": VERSION,
    }


# ---- reading ---------------------------------------------------------------------------------------


def deserialize_schedule(document: Mapping[str, Any]) -> Schedule:
    """Return the schedule of a document.

    Raises:
        - DialectError: if the document is not that of a schedule
    """
    try:
        return Schedule(
            clocks=[_read_clock(clock) for clock in document["clocks"]],
            filters=_read_functions(document.get("filters")),
            or_filters=_read_functions(document.get("or_filters")),
            not_filters=_read_functions(document.get("not_filters")),
            adjustments=_read_functions(document.get("adjustments")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DialectError(f"a schedule document is not understood ({type(error).__name__}): {error}") from error


def _read_clock(document: Mapping[str, Any]) -> Clock:
    common = {"parameter_defaults": document.get("parameter_defaults"), "labels": document.get("labels")}
    kind = document.get("type")
    if kind == "DatesClock":
        return DatesClock([_read_date(date) or _missing("dates") for date in document["dates"]], **common)
    common |= {"start_date": _read_date(document.get("start_date")), "end_date": _read_date(document.get("end_date"))}
    if kind == "IntervalClock":
        return IntervalClock(datetime.timedelta(microseconds=document["interval"]), **common)
    if kind == "CronClock":
        return CronClock(document["cron"], day_or=document.get("day_or"), **common)
    if kind == "RRuleClock":
        return RRuleClock(_read_recurrence(document["rrule_obj"]), **common)
    raise FlowDefinitionError(f"unknown clock type {kind!r}")


def _missing(field: str) -> datetime.datetime:
    raise FlowDefinitionError(f"{field} holds null")


def _read_date(document: Mapping[str, Any] | str | None) -> datetime.datetime | None:
    if document is None:
        return None
    if isinstance(document, str):
        return aware(datetime.datetime.fromisoformat(document))
    date = datetime.datetime.fromisoformat(document["dt"])
    return date if date.tzinfo is not None else date.replace(tzinfo=zone_from_name(document.get("tz") or "UTC"))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"prefect.schedules.{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name)
    for module in (filters, adjustments)
    for name in module.__all__
}

_READ_MARKED: dict[str, Callable[[str], Any]] = {
    "datetime": datetime.datetime.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda text: datetime.timedelta(seconds=float(text)),
}


def _read_functions(documents: list[Mapping[str, Any] | None] | None) -> list[Callable[..., Any]]:
    return [_read_function(document) for document in documents or () if document is not None]


def _read_function(document: Mapping[str, Any]) -> Callable[..., Any]:
    function = _FUNCTIONS.get(document["fn"])
    if function is None:
        raise FlowDefinitionError(f"unknown function {document['fn']!r}")
    kwargs = {key: _unmarked(value) for key, value in (document.get("kwargs") or {}).items()}
    return function(**kwargs) if kwargs else function


def _unmarked(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("//"):
        mark, _, text = value[2:].partition(":")
        if mark in _READ_MARKED:
            return _READ_MARKED[mark](text)
    return value


def _read_recurrence(document: Mapping[str, Any]) -> Any:
    try:
        from dateutil import rrule
    except ImportError as error:
        raise FlowDefinitionError("an RRuleClock needs dateutil: pip install 'flowloop[schedules]'") from error
    if document.get("type") != "rruleset":
        return _read_rule(document)
    rules = rrule.rruleset()
    for one in document.get("_rrule") or ():
        rules.rrule(_read_rule(one))
    for one in document.get("_exrule") or ():
        rules.exrule(_read_rule(one))
    for date in document.get("_rdate") or ():
        rules.rdate(datetime.datetime.fromisoformat(date))
    for date in document.get("_exdate") or ():
        rules.exdate(datetime.datetime.fromisoformat(date))
    return rules


def _read_rule(document: Mapping[str, Any]) -> Any:
    from dateutil import rrule

    start, until = (
        None if document.get(field) is None else datetime.datetime.fromisoformat(document[field])
        for field in ("_dtstart", "_until")
    )
    start = start or _FIRST_RRULE
    if document.get("_tz") is not None:
        start = start.astimezone(zone_from_name(document["_tz"]))
    changes: dict[str, Any] = {"dtstart": start} if until is None else {"dtstart": start, "until": until}
    rule: Any = rrule.rrulestr(document["rr"])
    return rule.replace(**changes)
