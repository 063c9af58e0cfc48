"""Converts values to register words for simulated devices. This is the exact inverse of a decode plan.

The code is slow and simple on purpose, because the decode kernel is tested against it.
"""

from __future__ import annotations

import re
import string
import struct
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

from drivers.model import GatewayError, Point, RegisterPart
from drivers.plan.compiled import BYTE_OF_REGISTER, in_text_order
from drivers.profile.register_layout import BITS, raw_range

Value = Decimal | int | float | str

INTEGER_TYPES: dict[str, tuple[int, bool]] = {  # type -> (number of bytes on the wire, whether it is signed)
    "u8h": (1, False),
    "u8l": (1, False),
    "i8h": (1, True),
    "i8l": (1, True),
    "u16": (2, False),
    "i16": (2, True),
    "u24": (4, False),
    "i24": (4, True),
    "u32": (4, False),
    "i32": (4, True),
    "u64": (8, False),
    "i64": (8, True),
}
FLOAT_TYPES: dict[str, tuple[int, str]] = {"f16": (2, ">e"), "f32": (4, ">f"), "f64": (8, ">d")}
BCD_TYPES: dict[str, int] = {"bcd16": 2, "bcd32": 4}
_EXACT = Context(prec=60)
_NAN_PATTERNS: dict[str, int] = {"f16": 0x7E00, "f32": 0x7FC00000, "f64": 0x7FF8000000000000}


class EncodeError(GatewayError):
    """A value cannot be written into the registers of its point."""

    exit_code = 2


def size_of(type_name: str, count: int) -> int:
    """The number of bytes that a value of this type takes on the wire. A type without a fixed size takes ``count``
    registers.
    """
    if type_name in INTEGER_TYPES:
        return INTEGER_TYPES[type_name][0]
    if type_name in FLOAT_TYPES:
        return FLOAT_TYPES[type_name][0]
    return BCD_TYPES.get(type_name, 2 * count)


def raw_number(value: Value, scale: Decimal, offset: Decimal) -> Decimal:
    """The raw number in the device, from ``value = (raw + offset) * scale``. It is not rounded yet."""
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return _EXACT.subtract(_EXACT.divide(exact, scale), offset)


def pack_raw(type_name: str, raw: Decimal | int, size: int, *, where: str) -> int:
    """Encode a raw number as ``type_name``. Returns its bit pattern as an unsigned number, most significant byte first.

    Raises EncodeError if the number does not fit. Integers are rounded half to even.
    """
    if type_name in FLOAT_TYPES:
        fmt = FLOAT_TYPES[type_name][1]
        try:
            return int.from_bytes(struct.pack(fmt, float(raw)), "big")
        except OverflowError:
            raise EncodeError(f"{raw} is too large for {type_name}", where=where) from None
    whole = int(Decimal(raw).to_integral_value(ROUND_HALF_EVEN))
    if type_name in INTEGER_TYPES:
        low, high = raw_range(type_name, 1) or (0, 0)
        pattern = whole & ((1 << BITS[type_name]) - 1)
    elif type_name in BCD_TYPES:
        low, high = 0, 10 ** (2 * size) - 1
        pattern = int(str(max(whole, 0)), 16)
    elif type_name == "mod10k":
        low, high = 0, 10_000 ** (size // 2) - 1
        rest, pattern = max(whole, 0), 0
        for shift in range(0, 8 * size, 16):
            rest, digit = divmod(rest, 10_000)
            pattern |= digit << shift
    elif type_name == "bits":
        low, high, pattern = 0, (1 << (8 * size)) - 1, whole
    else:
        raise EncodeError(f"unknown type {type_name!r}", where=where)
    if not low <= whole <= high:
        raise EncodeError(f"raw value {whole} does not fit {type_name} ({low} to {high})", where=where)
    return pattern


def _letters(order: str, size: int, where: str) -> str:
    """The order of ``size`` bytes, with one letter for each byte.

    The orders AB and BA apply to each register. ABCD, CDAB, BADC and DCBA apply to the whole value.
    """
    natural = "".join(chr(ord("A") + n) for n in range(size))
    if len(order) == size and sorted(order) == list(natural):
        return order
    words = [natural[n : n + 2] for n in range(0, size, 2)]
    if size > 2 and order in ("AB", "BA"):
        order = {"AB": "ABCD", "BA": "BADC"}[order]
    if size not in (4, 6, 8) or order not in ("ABCD", "CDAB", "BADC", "DCBA"):
        raise EncodeError(f"order {order} does not fit a value of {size} bytes", where=where)
    if order in ("CDAB", "DCBA"):
        words.reverse()
    return "".join(word[::-1] if order in ("BADC", "DCBA") else word for word in words)


def to_wire(pattern: int, size: int, order: str, *, where: str) -> bytes:
    """The bytes of a bit pattern, in the order that the letters give. A is the most significant byte."""
    if "-" in order:  # three bytes, and one that does not belong to the value
        big = pattern.to_bytes(size - 1, "big")
        return bytes(0 if letter == "-" else big[ord(letter) - ord("A")] for letter in order)
    big = pattern.to_bytes(size, "big")
    return bytes(big[ord(letter) - ord("A")] for letter in _letters(order, size, where)) if order else big


def from_wire(wire: bytes, order: str, *, where: str) -> int:
    """The bit pattern of bytes from the wire. Inverse of ``to_wire``."""
    if not order:
        return int.from_bytes(wire, "big")
    letters = order if "-" in order else _letters(order, len(wire), where)
    return int.from_bytes(bytes(wire[letters.index(letter)] for letter in sorted(letters.replace("-", ""))), "big")


def served_value(point: Point, value: Value) -> Decimal:
    """The number that a reader must read after ``value`` was encoded. It is rounded as the registers round it."""
    where = where_of(point)
    if point.parts:
        return sum(
            (raw * part.scale for raw, part in zip(split_parts(value, point.parts), point.parts, strict=True)),
            Decimal(0),
        )
    raw = raw_number(value, point.scale, point.offset)
    if point.type in FLOAT_TYPES:
        size, fmt = FLOAT_TYPES[point.type]
        pattern = pack_raw(point.type, raw, size, where=where)
        raw = Decimal(repr(_shortest(struct.unpack(fmt, pattern.to_bytes(size, "big"))[0], single=size == 4)))
    else:
        raw = raw.to_integral_value(ROUND_HALF_EVEN)
    return (raw + point.offset) * point.scale


def _shortest(number: float, *, single: bool) -> float:
    """If ``single``, the float with the fewest decimal digits that is stored as this float32. Otherwise ``number``."""
    if not single:
        return number
    for digits in range(1, 10):
        candidate = float(f"{number:.{digits}g}")
        try:
            if struct.unpack(">f", struct.pack(">f", candidate))[0] == number:
                return candidate
        except OverflowError:  # the candidate exceeds the largest float32
            continue
    return number


def missing_pattern(type_name: str, size: int, sentinels: tuple[int, ...] | None) -> int | None:
    """The bit pattern that means "no reading". None if the type has no such pattern."""
    if sentinels:
        return sentinels[0]
    if type_name in _NAN_PATTERNS:  # NaN is not a value, so it can mean "no reading"
        return _NAN_PATTERNS[type_name]
    if type_name in BCD_TYPES:  # digits above 9 are not a value, so they can mean "no reading"
        return (1 << (8 * size)) - 1
    if sentinels is not None or size == 1 or type_name not in INTEGER_TYPES:
        return None
    wide = BITS[type_name]
    return 1 << wide - 1 if INTEGER_TYPES[type_name][1] else (1 << wide) - 1


def text_width(point: Point) -> int:
    """The number of bytes of each number in a ``text`` form: whole registers, or single bytes for u8h."""
    return 1 if point.type in ("u8h", "u8l") else 2


def encode_text(point: Point, text: str) -> bytes:
    """Encode the registers of a text point: characters padded with NUL, or the numbers in the point's ``text`` form."""
    where = where_of(point)
    if point.text in BYTE_OF_REGISTER:
        raw = text.encode("utf-8")
        if len(raw) > point.count:
            what = f"{text!r} needs {len(raw)} registers, one for each character, but the point has {point.count}"
            raise EncodeError(what, where=where)
        registers = bytearray(2 * point.count)
        registers[BYTE_OF_REGISTER[point.text] : 2 * len(raw) : 2] = raw
        return in_text_order(bytes(registers), point.order)
    if point.text:
        width = text_width(point)
        numbers = b"".join(number.to_bytes(width, "big") for number in _numbers_of(point, text))
        return in_text_order(numbers, point.order)
    raw = text.encode("utf-8")
    if len(raw) > 2 * point.count:
        what = f"{text!r} needs {len(raw)} bytes, but the registers of the point hold only {2 * point.count} bytes"
        raise EncodeError(what, where=where)
    return in_text_order(raw.ljust(2 * point.count, b"\x00"), point.order)


def _numbers_of(point: Point, text: str) -> list[int]:
    """The numbers from which a ``text`` form such as ``{0}.{1:02x}`` makes this text."""
    pattern, bases = "", {}
    for before, name, form, _ in string.Formatter().parse(point.text):
        pattern += re.escape(before)
        if name is not None:
            base = 16 if (form or "")[-1:] in ("x", "X") else 10
            digits = "[0-9a-fA-F]+" if base == 16 else "[0-9]+"
            pattern += f"(?P=r{name})" if int(name) in bases else f"(?P<r{name}>{digits})"
            bases[int(name)] = base
    found = re.fullmatch(pattern, text)
    if not found:
        raise EncodeError(f"{text!r} does not have the form {point.text!r}", where=where_of(point))
    count = 2 * point.count // text_width(point)
    return [int(found[f"r{n}"], bases[n]) if n in bases else 0 for n in range(count)]


def split_parts(value: Value, parts: tuple[RegisterPart, ...]) -> list[int]:
    """The raw numbers of a counter's parts. Coarse parts are rounded down; the finest part is rounded to the nearest
    number.
    """
    rest = raw_number(value, Decimal(1), Decimal(0))
    raws = [0] * len(parts)
    by_scale = sorted(range(len(parts)), key=lambda n: -parts[n].scale)
    for n in by_scale:
        rounding = ROUND_HALF_EVEN if n == by_scale[-1] else ROUND_FLOOR
        raws[n] = int((rest / parts[n].scale).to_integral_value(rounding))
        rest -= raws[n] * parts[n].scale
    return raws


def where_of(point: Point) -> str:
    """The name of a point in error messages."""
    return f"point {point.name} at {point.address:#06x}"
