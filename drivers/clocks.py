"""Converts a device's times (of demands and freezes) to UTC, and computes the offset of its clock from the host's.

Meters give local time without a zone, so the site's zone is used. At the end of summer time an hour occurs twice; a
time in this hour is taken as summer time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache

_TEXT = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ](\d{1,2}):(\d{1,2})(?::(\d{1,2}))?)?")
_START = datetime(1970, 1, 1)
LONGEST_S = 100 * 366 * 86_400  # a clock that is more than a century off is invalid
CLOCKS = ("local", "utc")  # allowed values of a profile's ``clock``


def time_ms(text: str, zone: str, utc: bool = False) -> int | None:
    """Convert a device's time to UTC in ms. None if the time is invalid.

    Args:
        text: ISO 8601 without zone; a date alone means its midnight.
        zone: IANA name of the zone; "": the zone of this machine.
        utc: the time is UTC, not the local time of ``zone``.
    """
    found = _TEXT.fullmatch(text)
    if not found:
        return None
    try:
        moment = datetime(*(int(part or 0) for part in found.groups()))  # type: ignore[arg-type]
        return _utc_ms(moment, zone, utc)
    except (ValueError, OverflowError, OSError):
        return None


def offset_s(device_time: str | int, clock: str, zone: str, time_ns: int) -> Decimal | None:
    """The offset of a device's clock from the host's clock in seconds. It is positive if the device's clock is ahead.

    Returns None if ``device_time`` is invalid.

    Args:
        device_time: ISO 8601 without zone, or seconds since 1970.
        clock: ``utc``, or ``local`` if the clock shows the local time of ``zone``.
        time_ns: the host's time of the reading, in UTC ns.
    """
    if isinstance(device_time, str) and device_time.isdecimal():
        device_time = int(device_time)
    if isinstance(device_time, int):
        try:
            device_ms = (
                device_time * 1000 if clock == "utc" else _utc_ms(_START + timedelta(seconds=device_time), zone, False)
            )
        except (ValueError, OverflowError, OSError):
            return None
    else:
        found = time_ms(device_time, zone, clock == "utc")
        if found is None:
            return None
        device_ms = found
    off_ms = device_ms - time_ns // 1_000_000
    return Decimal(off_ms).scaleb(-3) if abs(off_ms) <= LONGEST_S * 1000 else None


def _utc_ms(moment: datetime, zone: str, utc: bool) -> int:
    aware = (
        moment.replace(tzinfo=UTC) if utc else moment.astimezone() if not zone else moment.replace(tzinfo=_zone(zone))
    )
    return round(aware.timestamp() * 1000)


@lru_cache(maxsize=4)
def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)
