"""Follows the newest value of each point in the ring of a running agent.

It only reads, so it cannot disturb the agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from drivers.model import GatewayError, Quality
from ext.ring import ANSWER, EVENT, GAP, Record, Ring

GAP_CODES = 128  # qualities from this number on are reasons of gaps
# a number in a table has at most LONGEST characters, enough for 64 bits; a longer number gets SHORT_DIGITS digits
LONGEST, SHORT_DIGITS = 21, 15
# number of significant digits that are shown; further digits are rounding noise
FLOAT_DIGITS: Mapping[str, int] = {"gauge": 5, "counter": 8}


@dataclass(frozen=True, slots=True)
class PointName:
    """A point of a point table in the snapshot."""

    device: str
    name: str
    unit: str
    kind: str
    is_float: bool = False  # True: the raw value is IEEE 754
    # True: the point is read once a day, and again after the device was absent or the configuration was reloaded
    is_daily: bool = False


@dataclass(slots=True)
class Latest:
    """The newest record of a point. If ``quality`` is a gap reason (128 or more), ``value`` is older than the gap."""

    point: PointName
    value: Decimal | str | None = None
    quality: int = Quality.GOOD
    tick_ms: int = 0
    time_ns: int = 0  # UTC time of the newest record
    good_ns: int = 0  # UTC time of ``value``; 0 if the ring has no value
    period_ms: int = 0  # time between the last two ticks; 0 if it is not known yet

    def age_s(self, now_ns: int) -> float | None:
        """Return the seconds since the last value; None if the ring has no value (field pain 70)."""
        return (now_ns - self.good_ns) / 1e9 if self.good_ns else None

    def to_json(self, now_ns: int) -> dict[str, Any]:
        """Return the object that ``watch --json`` and ``status --points --json`` print."""
        from agent.cli.common import show_quality

        age = self.age_s(now_ns)
        facts: dict[str, Any] = {
            "device": self.point.device,
            "point": self.point.name,
            "value": number(self.value) if self.quality < GAP_CODES else None,
            "unit": self.point.unit,
            "quality": show_quality(self.quality) or "good",
            "time": round(self.time_ns / 1e9, 3) if self.time_ns else None,
            "age": None if age is None else round(age, 1),
        }
        return facts


def number(value: Decimal | str | None) -> int | float | str | None:
    """Return a value for JSON: a whole number below 2**53 as int, any other number as float."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() and abs(value) < 2**53 else float(value)


def show_number(value: Decimal | str | None, kind: str = "", is_float: bool = False) -> str:
    """Return a value as text with plain digits, never as 1E+3. A float has only its significant digits."""
    if isinstance(value, Decimal):
        return format(_rounded(value, FLOAT_DIGITS.get(kind, 5)) if is_float and value else value, "f")
    return "-" if value is None else value


def show_short(value: Decimal | str | None, kind: str = "", is_float: bool = False) -> str:
    """Return a value as ``show_number`` does, but shorter, for a table with little room.

    A number longer than a 64-bit counter is rounded to 15 digits or, if it is huge or tiny, written like 3.4028e+38.
    """
    text = show_number(value, kind, is_float)
    if not isinstance(value, Decimal) or len(text) <= LONGEST:
        return text
    if -5 < value.adjusted() < SHORT_DIGITS:
        return format(_rounded(value, SHORT_DIGITS), "f")
    return f"{value:.4e}"


def _rounded(value: Decimal, digits: int) -> Decimal:
    """Return a number rounded to this many significant digits. Digits before the decimal point are never rounded."""
    leading = value.adjusted()
    if leading < -8:
        return value
    places = max(max(digits, leading + 1) - 1 - leading, 0)
    return Decimal(f"{value:.{places}f}").normalize()


def last_answer(facts: Mapping[str, Any], points: Iterable[Latest]) -> float | None:
    """Return the time of a device's last answer, in UTC seconds; None if there was none.

    The ring may have a later time than the snapshot, because with many devices a snapshot is written only every ten
    seconds.
    """
    newest = max((one.good_ns for one in points), default=0) / 1e9
    return max(newest, float(facts.get("last_answer") or 0)) or None


def tables_of(snapshot: Mapping[str, Any]) -> Iterator[tuple[int, str, list[Mapping[str, Any]]]]:
    """Yield (number, device, points) for each point table of a snapshot, in order of the numbers."""
    tables = snapshot.get("tables", {})
    for number, table in sorted(((int(text), table) for text, table in tables.items()), key=lambda item: item[0]):
        points = table["points"]
        if isinstance(points, int):  # this is the number of another table, which has the same points
            points = tables.get(str(points), {}).get("points")
        yield number, str(table["stream"]).rpartition("/")[2], points if isinstance(points, list) else []


@dataclass(slots=True)
class Follower:
    """Reads the new records of one ring. The point tables are from the snapshot."""

    ring: Ring
    names: dict[tuple[int, int], PointName] = field(default_factory=dict)
    position: int = 0
    latest: dict[tuple[str, str], Latest] = field(default_factory=dict)
    lost: int = 0  # how often the agent overwrote records before this object had read them

    @classmethod
    def open(cls, runtime_dir: Path, snapshot: Mapping[str, Any]) -> Follower:
        """Open the ring that the snapshot names, at its oldest record.

        Raises:
            GatewayError: the file is missing, cannot be read, or is not a ring.
        """
        path = runtime_dir / str(snapshot.get("ring", ""))
        try:
            ring = Ring.open(str(path))
        except OSError as error:
            hint = "Only root and members of the group meterhouse may read this file"
            raise GatewayError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error
        except ValueError as error:
            raise GatewayError(str(error), where=str(path)) from error
        follower = cls(ring, position=ring.tail)
        follower.learn(snapshot)
        return follower

    def learn(self, snapshot: Mapping[str, Any]) -> None:
        """Use the point tables of a snapshot.

        Each of their points gets an entry in ``latest``, even without a record.
        """
        for number, device, points in tables_of(snapshot):
            for index, point in enumerate(points):
                is_float, is_daily = point.get("float", False), point.get("daily", False)
                name = PointName(device, point["n"], point["u"], point["kind"], is_float, is_daily)
                self.names[number, index] = name
                self.latest.setdefault((device, name.name), Latest(name)).point = name

    def follow(self) -> Iterator[Latest]:
        """Yield the points with new records since the last call, in the order of the ring. Raises GatewayError."""
        end = self.ring.head
        if self.position < self.ring.tail:
            self.lost += 1
            self.position = self.ring.tail
        while self.position < end:
            before = self.position
            try:
                for record in self.ring.scan(self.position, end):
                    self.position = record.next
                    yield from self._take(record)
            except (ValueError, ArithmeticError) as error:  # the ring has an invalid record or number
                raise GatewayError(f"cannot be read: {error}", where="ring", hint="Is the agent restarting?") from error
            if self.position == before:  # the record was overwritten during the read, so continue at the oldest record
                self.lost += 1
                self.position = max(self.ring.tail, before)
                if self.position == before:
                    return

    def _take(self, record: Record) -> Iterator[Latest]:
        if record.kind == ANSWER:
            for point, mantissa, exponent, quality in record.values:
                value = Decimal(mantissa).scaleb(exponent) if quality < GAP_CODES else None
                yield from self._note(record, point, value, quality)
        elif record.kind == GAP:
            points = record.points
            if points is None:
                points = tuple(index for table, index in self.names if table == record.table)
            for point in points:
                yield from self._note(record, point, None, record.aux)
        elif record.kind != EVENT and record.points:
            yield from self._note(record, record.points[0], record.text.decode("utf-8", "replace"), record.aux)

    def _note(self, record: Record, point: int, value: Decimal | str | None, quality: int) -> Iterator[Latest]:
        name = self.names.get((record.table, point))
        if name is None:  # the record belongs to a table that is newer than our snapshot
            return
        latest = self.latest.setdefault((name.device, name.name), Latest(name))
        if record.tick_ms > latest.tick_ms > 0:
            latest.period_ms = record.tick_ms - latest.tick_ms
        latest.tick_ms, latest.time_ns, latest.quality = record.tick_ms, record.time_ns, quality
        if value is not None:
            latest.value, latest.good_ns = value, record.time_ns
        yield latest
