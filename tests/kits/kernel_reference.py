"""Slow, simple versions of the kernels, with exact fractions and Python lists. Tests compare the kernels with them."""

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

# type -> (bytes, bits, sentinel; None: there is none). The size of all other types is in the field.
TYPES: dict[str, tuple[int, int, int | None]] = {
    "u16": (2, 16, 0xFFFF),
    "i16": (2, 16, 0x8000),
    "u8h": (2, 8, None),
    "u8l": (2, 8, None),
    "i8h": (2, 8, None),
    "i8l": (2, 8, None),
    "u24": (4, 24, 0xFFFFFF),
    "i24": (4, 24, 0x800000),
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
    """Bytes in order from the most to the least significant. The letters show their order on the wire; a byte with the
    sign - is not a part of the value.
    """
    if order in ("AB", "BA"):  # in each register
        return b"".join(wire[i : i + 2] if order == "AB" else wire[i : i + 2][::-1] for i in range(0, len(wire), 2))
    letters = LONG.get(order, order) if len(wire) == 8 else order or "ABCDEFGH"[: len(wire)]
    if len(wire) == 6 and order:
        letters = {"ABCD": "ABCDEF", "CDAB": "EFCDAB", "BADC": "BADCFE", "DCBA": "FEDCBA"}[order]
    return bytes(wire[letters.index(letter)] for letter in sorted(letters.replace("-", "")))


def shortest(value: float, bits: int) -> Fraction:
    """The decimal with the fewest digits that identifies this float. If there are several, the nearest of them."""
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


def raw_integer(f: Field, wire: bytes) -> int | None:
    """The unsigned integer before bits, sign and scale are applied. None for invalid mod-10000 words."""
    if f.type == "bits":
        return int.from_bytes(big_endian(wire, f.order) if f.order else wire, "little")
    if f.type == "mod10k":
        words = struct.unpack(f">{len(wire) // 2}H", big_endian(wire, f.order))
        return int("".join(f"{w:04d}" for w in words)) if max(words) <= 9999 else None
    raw = int.from_bytes(big_endian(wire, f.order))
    masks = {"8l": 0xFF, "24": 0xFFFFFF}
    return raw >> 8 if f.type[1:] == "8h" else raw & masks.get(f.type[1:], raw)


def unscaled(f: Field, raw: int, bits: int) -> Fraction | None:
    """The value of the raw integer before offset and scale. None if it is not a number."""
    if f.type.startswith("f"):
        number = struct.unpack({16: ">e", 32: ">f", 64: ">d"}[bits], raw.to_bytes(bits // 8))[0]
        return shortest(number, 32 if bits == 32 else 64) if math.isfinite(number) else None
    if f.type.startswith("bcd"):
        return Fraction(int(f"{raw:x}")) if all(c <= "9" for c in f"{raw:x}") else None
    if f.bit >= 0:
        return Fraction(raw >> f.bit & 1)
    if f.mask:
        return Fraction((raw & f.mask) // (f.mask & -f.mask))
    return Fraction(raw - (1 << bits) if f.type.startswith("i") and raw >= 1 << bits - 1 else raw)


def decode(f: Field, payload: bytes) -> tuple[Fraction | None, bool]:
    """The exact value of a field, None for "no reading"; and whether it came from a float."""
    size, bits, own = TYPES.get(f.type, (f.size, f.size * 8, None))
    floating = f.type in ("f16", "f32", "f64")
    raw = raw_integer(f, payload[f.offset : f.offset + size])
    sentinels = f.sentinels if f.sentinels is not None else [] if own is None else [own]
    value = None if raw is None or raw in sentinels else unscaled(f, raw, bits)
    if value is None:
        return None, floating
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
    values: tuple[
        tuple[int, ...], ...
    ] = ()  # answer: point, mantissa, exponent, quality; the device's time in ms if any
    points: tuple[int, ...] | None = None  # gap
    aux: int = 0  # gap: reason; text: quality
    text: bytes = b""


@dataclass
class Points:
    """A point table, and the last sent values of its states and texts."""

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
    """``v``, and ``x`` if ``v`` is rounded."""
    v = float(f"{mantissa}e{exponent}")
    digits = str(abs(mantissa)).rstrip("0")
    members: dict[str, object] = {"v": v}
    if len(digits) > 15 and Fraction(Decimal(repr(v))) != mantissa * Fraction(10) ** exponent:
        sign = "-" if mantissa < 0 else ""
        members["x"] = sign + es6(digits, len(str(abs(mantissa))) + exponent)
    return members


@dataclass
class Sealed:
    """The members of a Slice."""

    e: bytes
    records: int
    complete: bool
    due: int
    grid: bytes


@dataclass(frozen=True)
class Said:
    """One thing that a record says about one point: a value, a text or a gap."""

    rec: Rec
    point: int
    quality: int
    members: dict[str, object]  # v and x, or vs
    seen: object  # the value by which states and texts are compared


def statements(rec: Rec, count: int) -> Iterator[Said]:
    """Yield what a record says about each of its points."""
    if rec.kind == "gap":
        for p in range(count) if rec.points is None else rec.points:
            yield Said(rec, p, rec.aux, {}, None)
    elif rec.kind == "text":
        assert rec.points is not None
        yield Said(rec, rec.points[0], rec.aux, {"vs": rec.text.decode()}, (rec.aux, rec.text))
    else:
        for p, m, e, quality, *mt in rec.values:
            yield Said(rec, p, quality, ({"mt": mt[0] / 1000} if mt else {}) | number_members(m, e), (quality, m, e))


def told(
    records: Sequence[Rec], table: Points, from_ms: int, to_ms: int, points: range, marks: dict[tuple[int, int], int]
) -> Iterator[tuple[dict[str, object], Rec]]:
    """Yield (members without times, record) for each SenML record. Puts the results of due readings into ``marks``."""
    done: set[tuple[int, int]] = set()
    inside = [r for r in records if from_ms <= r.tick_ms < to_ms]
    for s in (s for r in inside for s in statements(r, len(table.points)) if s.point in points):
        name, label, unit, kind, pace = table.points[s.point]
        at, on_grid = (s.point, s.rec.tick_ms), kind <= 1 and table.periods_ms[pace] > 0
        if on_grid and s.rec.tick_ms not in table.ticks(s.point, from_ms, to_ms):
            continue  # not due at this tick
        if s.quality >= 128:
            if on_grid:
                marks.setdefault(at, s.quality)
            continue
        if at in done:
            continue
        done.add(at)
        if on_grid:
            marks[at] = 1
        elif kind > 1:
            if table.sent.get(s.point) == s.seen:
                continue
            table.sent[s.point] = s.seen
        quality = {"q": QUALITIES[s.quality]} if s.quality else {}
        yield {"n": name} | ({label: unit} if label else {}) | quality | s.members, s.rec


def seal(records: Sequence[Rec], table: Points, from_ms: int, to_ms: int, low: int = 0, high: int = 1 << 16) -> Sealed:
    """Seal the whole slice at once."""
    out: list[dict[str, object]] = []
    marks: dict[tuple[int, int], int] = {}
    points = range(low, min(high, len(table.points)))
    base: int | None = None
    for members, rec in told(records, table, from_ms, to_ms, points, marks):
        ms = rec.time_ns // 1_000_000
        if base is None:
            members["bn"] = table.base_name
        if ms != base:
            members["bt"] = ms / 1000
        base = ms
        out.append(members)
    due = [(p, tick) for p in points for tick in table.ticks(p, from_ms, to_ms)]
    grid = bytes(marks.get(at, 0) for at in due)
    complete = grid.count(1) == len(due)
    return Sealed(rfc8785.dumps(out), len(out), complete, len(due), b"" if complete else grid)


def readings(e: bytes) -> list[tuple[str, float, object]]:
    """The (name, time, value) of each record of a SenML array, as any JSON parser sees it."""
    found = []
    bn, bt = "", 0.0
    for record in json.loads(e):
        bn, bt = record.get("bn", bn), record.get("bt", bt)
        found.append((bn + record["n"], bt, record.get("x", record.get("v", record.get("vs")))))
    return found
