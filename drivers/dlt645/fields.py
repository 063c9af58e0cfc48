"""Converts one field of DL/T 645 to a value. A field is packed BCD (with or without sign bit), a time, text or a bit
word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal

from drivers.encoding import bcd_digits
from drivers.model import Quality, Reading, Reason

Value = Decimal | int | str | None


_WORDS = re.compile(  # names built in this package and known to the vocabulary; all others get the prefix ``x.``
    r"ac\.energy\.(import|export|total)(\.tariff\.\d+|\.l[123])?|ac\.energy\.reactive\.quadrant\.[1-4]"
    r"|ac\.energy\.(reactive\.import|reactive\.export|apparent)(\.l[123])?|ac\.demand\.(import|export|apparent)\.max"
)


def word(name: str) -> str:
    """Prefix a name below ``ac.energy`` or ``ac.demand`` with ``x.`` if the vocabulary does not contain it."""
    return name if _WORDS.fullmatch(name) else f"x.{name}"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the standard's tables. ``kind``: see ``read_value``. ``decimals`` applies to BCD only."""

    name: str
    label: str
    size: int
    decimals: int = 0
    unit: str = ""
    kind: str = "bcd"  # one of: bcd, signed, digits, ascii, bits, date, time, datetime, stamp, monthstamp, hex


def is_absent(raw: bytes) -> bool:
    """Whether all bytes are FF: the meter does not have this quantity."""
    return bool(raw) and raw.count(0xFF) == len(raw)


def read_bcd(raw: bytes, decimals: int, *, signed: bool = False) -> Decimal | None:
    """Decode packed BCD, low byte first. None if a digit is not decimal.

    If ``signed``, the top bit of the top byte is the sign.
    """
    minus = False
    if signed and raw and raw[-1] & 0x80:
        minus = True
        raw = raw[:-1] + bytes((raw[-1] & 0x7F,))
    if (digits := bcd_digits(raw)) is None:
        return None
    value = Decimal(int(digits)).scaleb(-decimals)
    return -value if minus and value else value


def read_moment(raw: bytes) -> str:
    """Decode YYMMDDhhmm (5 bytes) or YYMMDDhhmmss (6 bytes), low byte first, to ISO 8601. "" if the date does not
    exist.
    """
    if len(raw) not in (5, 6) or (digits := bcd_digits(raw)) is None:
        return ""
    parts = [int(digits[i : i + 2]) for i in range(0, len(digits), 2)]
    try:
        day = date(2000 + parts[0], parts[1], parts[2])
        clock = time(parts[3], parts[4], parts[5] if len(parts) > 5 else 0)
    except ValueError:
        return ""
    shown = clock.isoformat("seconds" if len(parts) > 5 else "minutes")
    return f"{day.isoformat()}T{shown}"


def _date(raw: bytes) -> str:
    return read_moment(b"\0\0" + raw[1:])[:10]  # YYMMDDWW without its weekday


def _time(raw: bytes) -> str:
    return read_moment(raw + b"\1\1\0")[11:]  # hhmmss on any day


def _long_moment(raw: bytes) -> str:
    return read_moment(raw[:3] + raw[4:])  # YYMMDDWWhhmmss


def _month_moment(raw: bytes) -> str:
    """Decode MMDDhhmm of 1997. It has no year, so the ISO text has no year either."""
    if (digits := bcd_digits(raw)) is None:
        return ""
    month, day, hour, minute = (int(digits[i : i + 2]) for i in range(0, 8, 2))
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60):
        return ""
    return f"--{month:02d}-{day:02d}T{hour:02d}:{minute:02d}"


def _text(raw: bytes) -> str | None:
    text = raw[::-1].rstrip(b"\0").lstrip(b"\0").decode("ascii", "replace").strip()
    return text if text and text.isprintable() else None


def read_value(field: Field, raw: bytes) -> tuple[Value, int]:
    """Decode a field to (value, quality). Returns (None, gap reason) if there is no valid value."""
    if is_absent(raw):
        return None, Reason.SENTINEL
    if len(raw) != field.size:
        return None, Reason.MISMATCH
    value: Value
    match field.kind:
        case "bcd" | "signed":
            value = read_bcd(raw, field.decimals, signed=field.kind == "signed")
        case "digits":
            value = bcd_digits(raw)
        case "bits":
            value = int.from_bytes(raw, "little")
        case "ascii":
            value = _text(raw)
        case "date":
            value = _date(raw) or None
        case "time":
            value = _time(raw) or None
        case "datetime":
            value = _long_moment(raw) or None
        case "stamp":
            value = read_moment(raw) or None
        case "monthstamp":
            value = _month_moment(raw) or None
        case _:
            value = raw[::-1].hex()
    return value, Quality.GOOD if value is not None else Reason.MISMATCH


def reading(field: Field, raw: bytes, *, storage: int = 0, tariff: int = 0, moment: str = "") -> Reading:
    """Make a reading from the bytes of a field. ``moment``: the time that the device reports for the value."""
    value, quality = read_value(field, raw)
    return Reading(
        name=field.name,
        value=value,
        unit=field.unit,
        quality=quality,
        raw=raw,
        storage=storage,
        tariff=tariff,
        time=moment,
        label=field.label,
    )
