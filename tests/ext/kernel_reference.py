"""What the kernels do, slowly and plainly: exact fractions, Python lists. This is the truth they are held against."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

import rfc8785

SENTINEL, RANGE = 133, 2
QUALITIES = ("", "suspect", "range", "frozen", "clock", "estimated", "substituted")

# type -> (bytes, bits, sentinel); None where the size is the field's own
TYPES: dict[str, tuple[int, int, int | None]] = {
    "u16": (2, 16, 0xFFFF),
    "i16": (2, 16, 0x8000),
    "u8h": (2, 8, None),
    "u8l": (2, 8, None),
    "i8h": (2, 8, None),
    "i8l": (2, 8, None),
    "u32": (4, 32, 0xFFFFFFFF),
    "i32": (4, 32, 0x80000000),
    "u64": (8, 64, 0xFFFFFFFFFFFFFFFF),
    "i64": (8, 64, 0x8000000000000000),
    "f16": (2, 16, None),
    "f32": (4, 32, None),
    "f64": (8, 64, None),
    "bcd16": (2, 16, None),
    "bcd32": (4, 32, None),
}
LONG = {"": "ABCDEFGH", "ABCD": "ABCDEFGH", "CDAB": "GHEFCDAB", "BADC": "BADCFEHG", "DCBA": "HGFEDCBA"}


def big_endian(wire: bytes, order: str) -> bytes:
    """The bytes from the most to the least significant: letters say where each lies on the wire."""
    letters = LONG.get(order, order) if len(wire) == 8 else order or "ABCDEFGH"[: len(wire)]
    if len(wire) == 6 and order:
        letters = {"ABCD": "ABCDEF", "CDAB": "EFCDAB", "BADC": "BADCFE", "DCBA": "FEDCBA"}[order]
    return bytes(wire[letters.index(letter)] for letter in sorted(letters))


def shortest(value: float, bits: int) -> Fraction:
    """The decimal with the fewest digits that is nearer to this float than to any other; of several, the nearest, at last the even one."""
    if value == 0:
        return Fraction(0)
    if bits == 64:
        return Fraction(Decimal(repr(value)))
    x = Fraction(abs(value))
    raw = int.from_bytes(struct.pack(">f", abs(value)))
    below = Fraction(struct.unpack(">f", (raw - 1).to_bytes(4))[0])
    above = 2 * x - below if raw == 0x7F7FFFFF else Fraction(struct.unpack(">f", (raw + 1).to_bytes(4))[0])
    low, high = (below + x) / 2, (x + above) / 2
    even = raw % 2 == 0

    def identifies(candidate: Fraction) -> bool:
        return low <= candidate <= high if even else low < candidate < high

    for digits in range(1, 18):
        scale = Fraction(10) ** (math.floor(math.log10(abs(value))) - digits + 1)
        whole = x // scale
        two = (whole * scale, (whole + 1) * scale)
        for candidate in sorted(two, key=lambda c: (abs(c - x), c / scale % 2)):
            if identifies(candidate):
                return candidate if value > 0 else -candidate
    raise AssertionError(value)


@dataclass(frozen=True)
class Field:
    """One field of a plan, as the arguments of Plan.add."""

    offset: int
    type: str
    order: str = ""
    size: int = 0
    bit: int = -1
    mask: int = 0
    scale: tuple[int, int] = (1, 0)
    add: tuple[int, int] = (0, 0)
    sentinels: Sequence[int] | None = None
    low: tuple[int, int] | None = None
    high: tuple[int, int] | None = None
    scale_offset: int = -1
    negate: bool = False


def exact(pair: tuple[int, int]) -> Fraction:
    return pair[0] * Fraction(10) ** pair[1]


def decode(f: Field, payload: bytes) -> tuple[Fraction | None, bool]:
    """The exact value of a field, None for "no reading"; and whether it came from a float."""
    size = TYPES[f.type][0] if f.type in TYPES else f.size
    wire = payload[f.offset : f.offset + size]
    floating = f.type in ("f16", "f32", "f64")
    value: Fraction | None
    if f.type == "bits":
        ordered = big_endian(wire, f.order) if f.order else wire
        raw, bits, own = int.from_bytes(ordered, "little"), size * 8, None
    elif f.type == "mod10k":
        words = struct.unpack(f">{size // 2}H", big_endian(wire, f.order))
        if max(words) > 9999:
            return None, False
        raw, bits, own = int("".join(f"{w:04d}" for w in words)), 64, None
    else:
        _, bits, own = TYPES[f.type]
        raw = int.from_bytes(big_endian(wire, f.order))
        if f.type[1:] == "8h":
            raw >>= 8
        elif f.type[1:] == "8l":
            raw &= 0xFF
    sentinels = f.sentinels if f.sentinels is not None else [] if own is None else [own]
    if raw in sentinels:
        return None, floating
    if floating:
        number = struct.unpack({16: ">e", 32: ">f", 64: ">d"}[bits], raw.to_bytes(bits // 8))[0]
        if not math.isfinite(number):
            return None, True
        value = shortest(number, 32 if bits == 32 else 64)
    elif f.type.startswith("bcd"):
        if any(c > "9" for c in f"{raw:x}"):
            return None, False
        value = Fraction(int(f"{raw:x}"))
    elif f.bit >= 0:
        value = Fraction(raw >> f.bit & 1)
    elif f.mask:
        value = Fraction((raw & f.mask) // (f.mask & -f.mask))
    elif f.type.startswith("i") and raw >= 1 << bits - 1:
        value = Fraction(raw - (1 << bits))
    else:
        value = Fraction(raw)
    value = (value + exact(f.add)) * exact(f.scale)
    if f.scale_offset >= 0:
        factor = struct.unpack_from(">h", payload, f.scale_offset)[0]
        if not -10 <= factor <= 10:
            return None, floating
        value *= Fraction(10) ** factor
    return (-value if f.negate else value), floating


def in_range(f: Field, value: Fraction) -> bool:
    return (f.low is None or value >= exact(f.low)) and (f.high is None or value <= exact(f.high))


# -- sealing


@dataclass(frozen=True)
class Rec:
    """A ring record, as appended."""

    kind: str  # answer, gap, text
    tick_ms: int
    time_ns: int
    values: tuple[tuple[int, int, int, int], ...] = ()  # answer: point, mantissa, exponent, quality
    points: tuple[int, ...] | None = None  # gap
    aux: int = 0  # gap: reason; text: quality
    text: bytes = b""


@dataclass
class Points:
    """A point table and what was last sent of its states and texts."""

    base_name: str
    points: list[tuple[str, str, str, int, int]]
    periods_ms: list[int]
    phase_ms: int = 0
    sent: dict[int, object] = field(default_factory=dict)

    def ticks(self, point: int, from_ms: int, to_ms: int) -> range:
        period = self.periods_ms[self.points[point][4]]
        if not period or self.points[point][3] > 1:
            return range(0)
        return range(from_ms + (self.phase_ms - from_ms) % period, to_ms, period)


def plain(value: Fraction) -> Decimal:
    """The exact decimal; 10 has no other prime factors than 2 and 5, so there is one."""
    e = 0
    while (value * 10**e).denominator != 1:
        e += 1
    return Decimal((value * 10**e).numerator).scaleb(-e)


def es6(digits: str, exponent: int) -> str:
    """0.DIGITS * 10**exponent as ECMAScript lays numbers out (Number::toString, steps 6 to 10)."""
    k, n = len(digits), exponent
    if k <= n <= 21:
        return digits + "0" * (n - k)
    if 0 < n <= 21:
        return digits[:n] + "." + digits[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + digits
    sign = "+" if n > 0 else "-"
    return digits[0] + ("." + digits[1:] if k > 1 else "") + f"e{sign}{abs(n - 1)}"


def number_members(mantissa: int, exponent: int) -> dict[str, object]:
    """``v``, and ``x`` where v is rounded."""
    v = float(f"{mantissa}e{exponent}")
    digits = str(abs(mantissa)).rstrip("0")
    members: dict[str, object] = {"v": v}
    if len(digits) > 15 and Fraction(Decimal(repr(v))) != mantissa * Fraction(10) ** exponent:
        sign = "-" if mantissa < 0 else ""
        members["x"] = sign + es6(digits, len(str(abs(mantissa))) + exponent)
    return members


@dataclass
class Sealed:
    """What Slice says."""

    e: bytes
    records: int
    complete: bool
    due: int
    grid: bytes


def entries(
    records: Sequence[Rec], table: Points, from_ms: int, to_ms: int, low: int, high: int
) -> Iterator[tuple[int, dict[str, object], Rec, int]]:
    """(point, members without times, record, grid mark) of all that is said about points; marks are 0 where none."""
    done: set[tuple[int, int]] = set()
    for rec in records:
        if not from_ms <= rec.tick_ms < to_ms:
            continue
        if rec.kind == "gap":
            for p in range(len(table.points)) if rec.points is None else rec.points:
                if low <= p < min(high, len(table.points)) and rec.tick_ms in table.ticks(p, from_ms, to_ms):
                    yield p, {}, rec, rec.aux
            continue
        said = rec.values if rec.kind == "answer" else ((rec.points or (0,))[0], 0, 0, rec.aux)
        for p, m, e, quality in said if rec.kind == "answer" else [said]:  # type: ignore[misc]
            if not low <= p < min(high, len(table.points)):
                continue
            name, label, unit, kind, pace = table.points[p]
            gridded = kind <= 1 and table.periods_ms[pace] > 0
            if gridded and rec.kind == "answer" and rec.tick_ms not in table.ticks(p, from_ms, to_ms):
                continue
            if quality >= 128:
                if gridded:
                    yield p, {}, rec, quality
                continue
            if (p, rec.tick_ms) in done:
                continue
            done.add((p, rec.tick_ms))
            members: dict[str, object] = {"n": name}
            if label:
                members[label] = unit
            if quality:
                members["q"] = QUALITIES[quality]
            if rec.kind == "text":
                members["vs"] = rec.text.decode()
            else:
                members |= number_members(m, e)
            if kind > 1 or rec.kind == "text":
                seen = (quality, rec.text) if rec.kind == "text" else (quality, m, e)
                if table.sent.get(p) == seen:
                    continue
                table.sent[p] = seen
            yield p, members, rec, 1 if gridded else 0


def seal(
    records: Sequence[Rec], table: Points, from_ms: int, to_ms: int, low: int = 0, high: int = 1 << 16
) -> Sealed:
    """The whole slice at once."""
    out: list[dict[str, object]] = []
    marks: dict[tuple[int, int], int] = {}
    base: int | None = None
    for p, members, rec, mark in entries(records, table, from_ms, to_ms, low, high):
        at = (p, rec.tick_ms)
        if mark == 1 or (mark and not marks.get(at)):
            marks[at] = mark
        if not members:
            continue
        ms = rec.time_ns // 1_000_000
        if base is None:
            members["bn"] = table.base_name
        if ms != base:
            members["bt"] = ms / 1000
        base = ms
        out.append(members)
    due = [
        (p, tick)
        for p in range(low, min(high, len(table.points)))
        for tick in table.ticks(p, from_ms, to_ms)
    ]
    grid = bytes(marks.get(at, 0) for at in due)
    complete = grid.count(1) == len(due)
    return Sealed(rfc8785.dumps(out), len(out), complete, len(due), b"" if complete else grid)


def readings(e: bytes) -> list[tuple[str, float, object]]:
    """(name, time, value) of a SenML array: what a reader of any language sees."""
    found = []
    bn, bt = "", 0.0
    for record in json.loads(e):
        bn, bt = record.get("bn", bn), record.get("bt", bt)
        found.append((bn + record["n"], bt, record.get("x", record.get("v", record.get("vs")))))
    return found
