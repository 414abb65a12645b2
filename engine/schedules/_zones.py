"""Local times and the instants they stand for.

A local time that a clock change skips stands for the instant that it would have been without the change, and one that
comes twice for the first of the two; so says RFC 5545 (section 3.3.5), and so does `datetime` with fold 0.

All comparisons are made in UTC: two datetimes of one `ZoneInfo` compare by what the clock on the wall shows.
"""

from __future__ import annotations

import datetime
import re
import zoneinfo

from ..errors import FlowDefinitionError

__all__ = ["UTC", "instants", "wall", "zone_from_name", "zone_name"]

UTC = datetime.UTC

_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


def wall(instant: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """Return what a clock on the wall of that zone shows: a datetime without a zone."""
    return instant.astimezone(zone).replace(tzinfo=None)


def instants(time: datetime.datetime, zone: datetime.tzinfo) -> tuple[datetime.datetime, datetime.datetime]:
    """Return the instants, in UTC, that a time on the wall stands for by the clock before and after a change.

    They are the same but around a change: the first is the earlier one where the time comes twice, and the later one
    where it is skipped.
    """
    return (
        time.replace(tzinfo=zone, fold=0).astimezone(UTC),
        time.replace(tzinfo=zone, fold=1).astimezone(UTC),
    )


def zone_name(moment: datetime.datetime) -> str:
    """Return the name of a moment's zone: that of the database of time zones, or an offset like ``+02:00``."""
    for attribute in ("key", "zone", "name"):  # of zoneinfo, pytz, pendulum
        name = getattr(moment.tzinfo, attribute, None)
        if isinstance(name, str):
            return name
    offset = moment.strftime("%z")
    return f"{offset[:3]}:{offset[3:5]}" if moment.utcoffset() else "UTC"


def zone_from_name(name: str) -> datetime.tzinfo:
    """Return the zone of a name, as `zone_name` gives it.

    Raises:
        - FlowDefinitionError: if there is no such zone
    """
    if name == "UTC":
        return UTC
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        sign, hours, minutes = offset.groups()
        size = datetime.timedelta(hours=int(hours), minutes=int(minutes))
        return datetime.timezone(-size if sign == "-" else size)
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise FlowDefinitionError(f"there is no time zone {name!r} (is the tzdata package installed?)") from error
