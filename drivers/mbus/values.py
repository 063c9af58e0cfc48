"""Decodes the data field of a record: integers, BCD, floats, dates, variable length. Source: EN 13757-3 annex A, table
5.
"""

from __future__ import annotations

import math
import struct
from datetime import date
from decimal import Decimal

from drivers.model import Quality, Reason

Value = Decimal | int | str | None
Coded = tuple[Value, int]  # (value, quality), or (None, gap reason)


def bcd(raw: bytes, minus: bool = False) -> Coded:
    """Decode type A, low byte first. F in the top nibble means minus. Other letters mean that there is no value."""
    digits = raw[::-1].hex()
    if digits and not digits.strip("f"):
        return None, Reason.SENTINEL
    if digits.startswith("f") and not minus:
        digits, minus = digits[1:], True
    if not digits.isdecimal():
        return None, Reason.SENTINEL if digits else Reason.ABSENT
    number = int(digits)
    return Decimal(-number if minus else number), Quality.GOOD


def integer(raw: bytes, *, signed: bool) -> Coded:
    """Decode type B (``signed``), or types C and D (unsigned). The lowest number of type B means that there is no
    value.
    """
    number = int.from_bytes(raw, "little", signed=signed)
    if signed and number == -(1 << (8 * len(raw) - 1)):
        return None, Reason.SENTINEL
    return Decimal(number), Quality.GOOD


def real(raw: bytes) -> Coded:
    """Decode type H: the shortest decimal that identifies the float32. NaN and infinity mean that there is no value."""
    (number,) = struct.unpack("<f", raw)
    if not math.isfinite(number):
        return None, Reason.SENTINEL
    for digits in range(6, 10):
        text = f"{number:.{digits}g}"
        if struct.pack("<f", float(text)) == raw:
            break
    return Decimal(text), Quality.GOOD


def _year(low: int, hundreds: int | None = None) -> int:
    """The full year. Without century bits, the years 0 to 80 mean 2000 to 2080 (EN 13757-3 annex A, types F and G)."""
    if hundreds:
        return 1900 + 100 * hundreds + low
    return low + (2000 if low <= 80 else 1900)


def _day(year: int, month: int, day: int, *, every_year: bool) -> Coded:
    """The date as ISO 8601. An invalid date is SUSPECT.

    A date that recurs each year (``--MM-DD``) or each month is written in a shortened form.
    """
    if month == 15 and day:
        return f"---{day:02d}", Quality.GOOD
    if every_year and month:
        return f"--{month:02d}" + (f"-{day:02d}" if day else ""), Quality.GOOD
    shown = f"{year:04d}-{month:02d}-{day:02d}"
    try:
        date(year, month, day)
    except ValueError:
        return shown, Quality.SUSPECT
    return shown, Quality.GOOD


def _split_day(low: int, high: int) -> tuple[int, int, int, bool]:
    """Decode the two date bytes of types F, G and I. Returns (two-digit year, month, day, whether the date recurs every
    year).
    """
    year = low >> 5 | (high >> 4) << 3
    return year, high & 0x0F, low & 0x1F, year == 127


def date_g(raw: bytes) -> Coded:
    """Decode type G, 2 bytes: a date."""
    if raw == b"\xff\xff":
        return None, Reason.SENTINEL
    year, month, day, every = _split_day(raw[0], raw[1])
    return _day(_year(year), month, day, every_year=every)


def datetime_f(raw: bytes) -> Coded:
    """Decode type F, 4 bytes: date and time to the minute. If its invalid bit is set, there is no value."""
    if raw == b"\xff\xff\xff\xff":
        return None, Reason.SENTINEL
    if raw[0] & 0x80:
        return None, Reason.CLOCK
    year, month, day, every = _split_day(raw[2], raw[3])
    shown, quality = _day(_year(year, raw[1] >> 5 & 3), month, day, every_year=every)
    return _with_clock(shown, quality, raw[1] & 0x1F, raw[0] & 0x3F, None)


def datetime_i(raw: bytes) -> Coded:
    """Decode type I, 6 bytes: date and time to the second."""
    if raw == b"\xff" * 6:
        return None, Reason.SENTINEL
    if raw[1] & 0x80:
        return None, Reason.CLOCK
    year, month, day, every = _split_day(raw[3], raw[4])
    shown, quality = _day(_year(year), month, day, every_year=every)
    return _with_clock(shown, quality, raw[2] & 0x1F, raw[1] & 0x3F, raw[0] & 0x3F)


def time_j(raw: bytes) -> Coded:
    """Decode type J, 3 bytes: a time of day."""
    if raw == b"\xff\xff\xff":
        return None, Reason.SENTINEL
    hour, minute, second = raw[2] & 0x1F, raw[1] & 0x3F, raw[0] & 0x3F
    good = hour < 24 and minute < 60 and second < 60
    return f"{hour:02d}:{minute:02d}:{second:02d}", Quality.GOOD if good else Quality.SUSPECT


def _with_clock(shown: Value, quality: int, hour: int, minute: int, second: int | None) -> Coded:
    if hour > 23 or minute > 59 or (second or 0) > 59:
        quality = Quality.SUSPECT
    clock = f"{hour:02d}:{minute:02d}" + (":00" if second is None else f":{second:02d}")
    return f"{shown}T{clock}", quality


def moment(raw: bytes) -> Coded:
    """Decode a date, a time or both. The number of bytes gives the type: G (2), J (3), F (4) or I (6)."""
    reader = {2: date_g, 3: time_j, 4: datetime_f, 6: datetime_i}.get(len(raw))
    return reader(raw) if reader else (raw.hex(), Quality.SUSPECT)


def text(raw: bytes) -> Coded:
    """Decode text, whose last character is sent first. If all characters are blank or zero, there is no value."""
    shown = raw[::-1].decode("latin-1").strip("\0 ")
    return (shown, Quality.GOOD) if shown else (None, Reason.ABSENT)


def variable_size(lvar: int) -> int | None:
    """The number of bytes that follow an LVAR byte. None if this LVAR is reserved."""
    if lvar < 0xC0:
        return lvar
    if lvar < 0xF0:
        return lvar & 0x0F
    return {**{0xF0 + n: 4 * (n + 4) for n in range(5)}, 0xF5: 48, 0xF6: 64}.get(lvar)


def variable(lvar: int, raw: bytes) -> Coded:
    """Decode the value after an LVAR byte: text, BCD of either sign, or a binary number.

    A binary number of more than 8 bytes is returned as hex text.
    """
    if lvar < 0xC0:
        return text(raw)
    if lvar < 0xE0:
        return bcd(raw, minus=lvar >= 0xD0) if raw else (None, Reason.ABSENT)
    if not raw:
        return None, Reason.ABSENT
    if len(raw) <= 8:
        return integer(raw, signed=True)
    return raw[::-1].hex(), Quality.GOOD
