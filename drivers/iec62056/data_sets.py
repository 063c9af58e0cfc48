"""Splits a readout into data sets, and makes readings of them.

A data set is ``CODE(VALUE*UNIT)``. More brackets may follow, even on the next line: a time stamp, the same value again
(Pafal), or a list. The value of a past period often has no unit. Then the unit of the quantity's present value applies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from drivers.iec62056.codes import Code, name_of, parse_code, tariff_of, unit_of
from drivers.iec62056.frames import Identification, Readout
from drivers.model import Quality, Reading, Reason

_PIECE = re.compile(r"([^()\r\n]*)([()\r\n]|\Z)")  # the pattern matches at every position, so no text is scanned twice
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_STAMP = re.compile(r"[0-9]{10}|[0-9]{12}(?:[0-9]{2})?|([0-9])[0-9]{10}(?:[0-9]{2})?|[0-9]{10}(?:[0-9]{2})?[SWsw]")
_WRITTEN = re.compile(r"([0-9]{2})-([0-9]{2})-([0-9]{2})[ ,T]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?")
_LONGEST = 128  # length of the longest value, in characters
_DIGITS = 30  # longest number that is accepted, in digits; the standard allows 32
MOST_VALUES = 4096  # at most this many values are taken from a readout, which usually has a few hundred


@dataclass(slots=True)
class DataSet:
    """One data set. ``address`` is the code as sent; it is "" for brackets before any code.

    ``values`` has (text, unit) for each bracket.
    """

    address: str
    values: list[tuple[str, str]] = field(default_factory=list)


def data_sets(block: bytes) -> tuple[DataSet, ...]:
    """All data sets of a block, in order. Text is ignored if it is neither inside brackets nor directly before them."""
    found: list[DataSet] = []
    address: str | None = None  # the text before the open bracket; None: no bracket is open
    count = 0
    for match in _PIECE.finditer(block.decode("latin-1")):
        text, end = match.groups()
        if end == "(":
            address = text.strip("! \t\x00\x7f\x02")
            continue
        if end == ")" and address is not None:
            if count == MOST_VALUES:
                break
            count += 1
            value, _, unit = text.partition("*")
            if address or not found:
                found.append(DataSet(address))
            found[-1].values.append((value, unit))
        address = None
    return tuple(found)


def number_of(text: str) -> Decimal | None:
    """Parse a decimal number and keep all its digits. None if the text is not a number."""
    text = text.strip()
    return Decimal(text) if len(text) <= _DIGITS and _NUMBER.fullmatch(text) else None


def time_of(text: str) -> str:
    """Convert a time stamp to ISO 8601 without zone. "" if it is invalid.

    Accepts these forms:

    - ``YYMMDDhhmm`` and ``YYMMDDhhmmss``, optionally with a digit for the season in front, or with S or W at the end;
    - ``YY-MM-DD hh:mm``.
    """
    text = text.strip()
    written = _WRITTEN.fullmatch(text)
    if written is not None:
        parts = [int(part) for part in written.groups() if part is not None]
    elif (stamp := _STAMP.fullmatch(text)) is not None:
        digits = text.rstrip("SWsw")
        if stamp[1]:
            digits = digits[1:]
        if len(digits) == 14:
            if not digits.startswith("20"):
                return ""
            digits = digits[2:]
        parts = [int(digits[at : at + 2]) for at in range(0, len(digits), 2)]
    else:
        return ""
    try:
        moment = datetime(2000 + parts[0], *parts[1:])  # type: ignore[arg-type]
    except ValueError:
        return ""
    return moment.isoformat(timespec="seconds" if len(parts) == 6 else "minutes")


def date_of(text: str) -> str:
    """Convert ``YYMMDD`` or ``YY-MM-DD`` to ISO 8601; a digit for the season may precede it. "" if the date is
    invalid. A date with dots counts as invalid, because its order is unknown: some meters write the day first.
    """
    digits = text.strip().replace("-", "")
    if not digits.isdecimal() or not digits.isascii() or len(digits) not in (6, 7):
        return ""
    stamp = time_of(digits[-6:] + "0000")
    return stamp.partition("T")[0]


def time_of_day(text: str) -> str:
    """Convert ``hhmmss``, ``hh:mm:ss``, ``hhmm`` or ``hh:mm``, with or without a season, to ``hh:mm:ss``. "" if it is
    invalid.
    """
    digits = text.strip().replace(":", "").rstrip("SWsw")
    if not digits.isdecimal() or not digits.isascii() or not 4 <= len(digits) <= 7:
        return ""
    digits = (digits[1:] if len(digits) % 2 else digits).ljust(6, "0")
    stamp = time_of("000101" + digits)
    return stamp.partition("T")[2]


def printable(text: str) -> str:
    """Make a text printable. Spaces around it are removed, and it is cut to the longest text that the standard
    allows.
    """
    return "".join(c for c in text.strip() if c.isprintable())[:_LONGEST]


def is_blank(text: str) -> bool:
    """Whether the meter sent no value: the text is empty or has only spaces and dashes."""
    return not text.strip(" -_\x00")


def _value(data_set: DataSet) -> tuple[int, str]:
    """Find the value of a data set. Returns (number of its bracket, time of the value or "").

    The value is usually in the first bracket. Some gas meters send the time first, and the volume in the second
    bracket.
    """
    values = data_set.values
    if len(values) > 1:
        first, second = time_of(values[0][0]), time_of(values[1][0])
        if first and not values[0][1] and values[1][1]:
            return 1, first
        if second and not values[1][1]:
            return 0, second
    return 0, ""


def _reading(data_set: DataSet, code: Code | None, at: int, time: str, unit: str) -> Reading:
    text, own_unit = data_set.values[at]
    name = name_of(code) if code is not None else f"x.obis.{re.sub('[^0-9a-z]+', '.', data_set.address.lower())[:32]}"
    value: Decimal | str | None = number_of(text)
    quality: int = Quality.GOOD
    if is_blank(text):
        value, quality = None, Reason.SENTINEL
    elif value is None or (code is not None and name.startswith("device.")):
        value = printable(text)
    return Reading(
        name.strip("."),
        value,
        unit_of(own_unit or unit) if value is None or isinstance(value, Decimal) else "",
        quality,
        text.encode("latin-1"),
        storage=0 if code is None or code.period is None or code.is_present else code.period,
        tariff=tariff_of(code) if code is not None else 0,
        subunit=at,
        time=time,
        label=data_set.address,
    )


def decode_block(block: bytes) -> tuple[Reading, ...]:
    """The readings of a data block, in order.

    In each reading, ``label`` is the code as sent, ``raw`` the value as sent, and ``subunit`` the number of the value's
    bracket, counted from 0.
    """
    sets = data_sets(block)
    units: dict[str, str] = {}  # quantity -> unit of its present value
    for data_set in sets:
        code = parse_code(data_set.address)
        if code is not None and (unit := next((unit for _, unit in data_set.values if unit), "")):
            units.setdefault(code.quantity, unit)
    readings: list[Reading] = []
    for data_set in sets:
        code = parse_code(data_set.address)
        at, time = _value(data_set)
        inherited = units.get(code.quantity, "") if code is not None and not code.is_present else ""
        readings.append(_reading(data_set, code, at, time, inherited))
        for other in range(len(data_set.values)):
            text = data_set.values[other][0]
            if other != at and not (time and time_of(text) == time) and text != data_set.values[at][0]:
                readings.append(_reading(data_set, code, other, "", ""))
    return tuple(readings)


def identification_readings(found: Identification) -> tuple[Reading, ...]:
    """Readings of the meter's identity in its sign-on answer: maker and model."""
    return (
        Reading("device.vendor", found.maker, raw=found.raw[1:4], label="maker"),
        Reading("device.model", found.model, raw=found.raw[5:].rstrip(b"\r\n"), label="identification"),
    )


def decode_readout(readout: Readout) -> tuple[Reading, ...]:
    """All readings of a readout: first those of the identification, then those of its data sets."""
    return (*identification_readings(readout.identification), *decode_block(readout.block))


def clock_text(date: str, time: str) -> str:
    """Join the meter's date and its time of day to a time in ISO 8601. "" if one of them is invalid."""
    day, hour = date_of(date), time_of_day(time)
    return f"{day}T{hour}" if day and hour else ""


def matching(readings: Sequence[Reading], wanted: Code) -> list[Reading]:
    """The readings of the quantity and period that ``wanted`` names. A code without period means the present value."""
    found: list[tuple[int, Reading]] = []
    for reading in readings:
        code = parse_code(reading.label)
        if code is None or code.quantity != wanted.quantity:
            continue
        if wanted.medium and code.medium and (code.medium, code.channel) != (wanted.medium, wanted.channel):
            continue
        if wanted.medium and not code.medium and wanted.medium != "1":
            continue
        if wanted.is_present:
            # a period 00 is accepted, too, because some meters mark present values with *00
            rank = 0 if code.is_present else 1 if code.period == 0 else -1
        else:
            rank = 0 if code.period == wanted.period else -1
        if rank >= 0:
            found.append((rank, reading))
    best = min((rank for rank, _ in found), default=0)
    return [reading for rank, reading in found if rank == best]
