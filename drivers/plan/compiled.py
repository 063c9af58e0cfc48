"""Compiles a block into a plan for the decode kernel. The plan does not include texts; this module cuts them from the
answer.
"""

from __future__ import annotations

import codecs
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from drivers.model import FIRST_REASON, DeviceSpec, Kind, Point, ProfileError, RegisterPart, clean_text
from drivers.plan.timing import Block
from drivers.profile import concerned
from drivers.profile.register_layout import REGISTERS
from ext.decode import Plan

# unit -> (c, v). The primary value is the secondary value times (current ratio)**c * (voltage ratio)**v.
_RATIO: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("V", "mV", "kV", "uV"), (0, 1)),
    **dict.fromkeys(("A", "mA", "kA", "uA", "Ah", "kAh", "mAh"), (1, 0)),
    **dict.fromkeys(("W", "kW", "MW", "GW", "var", "kvar", "Mvar", "VA", "kVA", "MVA"), (1, 1)),
    **dict.fromkeys(("Wh", "kWh", "MWh", "GWh", "varh", "kvarh", "Mvarh", "VAh", "kVAh", "MVAh"), (1, 1)),
}


class TextSlot(NamedTuple):
    """The place of a text point's bytes in the payload of a block."""

    point: int
    offset: int
    size: int


def compile_block(block: Block, points: Sequence[Point] | Mapping[int, Point], spec: DeviceSpec) -> Plan:
    """The plan with which the decode kernel decodes a block. Point numbers are indexes into ``points``. Texts are not
    in the plan; see ``text_slots``.

    Scale, ratio and sign become one exact decimal. With ``ratio = "apply"`` in the profile, voltages are multiplied by
    the voltage ratio, currents by the current ratio, and power and energy by both. If the CT is reversed, points with
    ``flips`` change their sign.

    Raises:
        ProfileError: the decode kernel refuses a point; the message names the point.
    """
    plan = Plan(block.payload)
    for number in block.points:
        point = points[number]
        if point.is_text:
            continue
        try:
            add_point(plan, number, point, block, spec)
        except ValueError as error:
            raise ProfileError(f"{point.name}: {error}", where=f"{spec.profile} on {spec.name}") from error
    return plan


class BlockDecoder(NamedTuple):
    """All that is needed to decode the answer to a block. It has no state, so devices share it."""

    plan: Plan | None  # None: the block has only texts
    counters: Plan | None  # the plan for the counters only; None: the block has no counters
    texts: tuple[TextSlot, ...]
    points: memoryview  # the numbers of the points as uint16, for gaps


def block_decoder(block: Block, points: Sequence[Point], spec: DeviceSpec) -> BlockDecoder:
    """The decoder of a block. It is made once for all devices that have the same tuple of points, and the same ratios.

    Raises ProfileError as ``compile_block`` does.
    """
    points = tuple(points)
    key = (block, id(points), spec.ratio_ct, spec.ratio_pt, spec.reversed)
    if key not in _DECODERS:
        if len(_DECODERS) >= _DECODERS_AT_MOST:
            _DECODERS.clear()
        values = tuple(n for n in block.points if not points[n].is_text)
        counters = tuple(n for n in values if points[n].kind is Kind.COUNTER)
        plans = [
            compile_block(replace(block, points=those), points, spec) if those else None for those in (values, counters)
        ]
        numbers = memoryview(array("H", block.points))
        _DECODERS[key] = BlockDecoder(plans[0], plans[1], text_slots(block, points), numbers), points
    return _DECODERS[key][0]


# An entry keeps the points, because otherwise Python could use their id again for another tuple.
_DECODERS: dict[object, tuple[BlockDecoder, tuple[Point, ...]]] = {}
_DECODERS_AT_MOST = 512


def text_slots(block: Block, points: Sequence[Point]) -> tuple[TextSlot, ...]:
    """The points of a block that are read as texts (including clocks), with the place of their bytes."""
    return tuple(
        TextSlot(n, 2 * (points[n].address - block.address), 2 * points[n].count)
        for n in block.points
        if points[n].is_text
    )


def in_text_order(raw: bytes, order: str) -> bytes:
    """The bytes of several registers, reordered from the order of the frame to the order of reading, or back.

    BA swaps the bytes of each register; BADC and DCBA do the same, because this is what other software means by DCBA
    for a text. CDAB reverses the registers, HGFEDCBA reverses all bytes, and CDABGHEF swaps each pair of registers; a
    last register alone stays in its place.
    """
    if order == "HGFEDCBA":
        return raw[::-1]
    words = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    if order in ("BA", "BADC", "BADCFEHG", "DCBA"):
        words = [word[::-1] for word in words]
    elif order in ("CDAB", "GHEFCDAB"):
        words.reverse()
    elif order == "CDABGHEF":
        words = [word for i in range(0, len(words), 2) for word in reversed(words[i : i + 2])]
    return b"".join(words)


# value of ``Point.text`` -> index of the byte, in each register, that contains the character
BYTE_OF_REGISTER = {"high": 0, "low": 1}


def text_of(point: Point, raw: bytes) -> str | None:
    """The text in the bytes of a text point. None if the text is empty or means "no reading", or if all bytes are FF.

    There are four cases:

    - A point of type str has characters; see ``characters``.
    - An integer becomes its digits.
    - If ``point.text`` is "low" or "high", this byte of each register is one character.
    - Any other ``point.text`` is a format that is filled with the numbers in the registers.
    """
    if not raw or raw.count(0xFF) == len(raw):
        return None
    text = _text(point, raw)
    return None if text in point.no_texts else text


def _text(point: Point, raw: bytes) -> str | None:
    if point.type != "str" and not point.text:
        plan = _integer_plan(point.type, point.order, point.bit, point.mask, point.sentinels)
        ((_, mantissa, exponent, quality),) = plan.values(raw)
        return None if quality >= FIRST_REASON else str(mantissa * 10**exponent)
    raw = in_text_order(raw, point.order)
    if point.text in BYTE_OF_REGISTER:
        return characters(raw[BYTE_OF_REGISTER[point.text] :: 2])
    if point.text:
        numbers = raw if point.type == "u8h" else [int.from_bytes(raw[i : i + 2]) for i in range(0, len(raw), 2)]
        return point.text.format(*numbers)
    return characters(raw)


@lru_cache(maxsize=256)
def _integer_plan(type_: str, order: str, bit: int | None, mask: int | None, sentinels: tuple[int, ...] | None) -> Plan:
    plan = Plan(2 * REGISTERS[type_])
    plan.add(0, 0, type_, order, bit=_or(bit, -1), mask=mask or 0, sentinels=sentinels)
    return plan


def characters(raw: bytes) -> str | None:
    """The text without padding around it, and safe to show. None if it is empty.

    Padding is NUL, FF and blanks. A text ends at its first NUL. NULs before it are padding only if it extends to the
    last byte; otherwise the device has cleared the text, and the bytes after the first NUL are left over from an older
    one.
    """
    if raw.startswith(b"\0") and b"\0" not in (aligned := raw.lstrip(b"\0")):
        raw = aligned
    return clean_text(decoded(raw.split(b"\0", 1)[0].strip(b"\xff \t\r\n")).strip(), 250) or None


def decoded(raw: bytes) -> str:
    """Decode a text from a device: UTF-8, else GB 18030 (Chinese firmware), else code page 437 (which accepts any
    byte).

    Registers have room for a fixed number of bytes, so the last character of a text may be cut. It is then left out,
    if an earlier character shows which encoding the text has.
    """
    for encoding in ("utf-8", "gb18030"):
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            text = decoder.decode(raw)
        except UnicodeDecodeError:
            continue
        is_cut = decoder.getstate()[0] != b""
        if not is_cut or not text.isascii():
            return text
    return raw.decode("cp437")


def ratio_of(point: Point, spec: DeviceSpec) -> Decimal:
    """The factor by which this point is multiplied because of transformer ratios.

    1 if the device has no ratios, or applies them itself.
    """
    if point.ratio != "apply":
        return Decimal(1)
    ct, pt = _RATIO.get(point.unit, (0, 0))
    return spec.ratio_ct**ct * spec.ratio_pt**pt


def range_of(point: Point, spec: DeviceSpec) -> tuple[Decimal | None, Decimal | None]:
    """The plausible range of a point: (lowest, highest).

    If a reversed CT changes the sign of the point, the range changes its sign, too. The transformer ratio is not
    applied.
    """
    low, high = point.low, point.high
    if point.flips and concerned(point.name, spec.reversed):
        low, high = (None if high is None else -high), (None if low is None else -low)
    return low, high


def exact(value: Decimal) -> tuple[int, int]:
    """Return (mantissa, exponent) of a number, without trailing zeros. The decode kernel multiplies integers, so it
    needs this form.
    """
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # this is always true, because the loader rejects NaN
    mantissa = int("".join(map(str, digits)))
    while mantissa and mantissa % 10 == 0:
        mantissa, exponent = mantissa // 10, exponent + 1
    return (-mantissa if sign else mantissa), (exponent if mantissa else 0)


_DECIMAL = struct.Struct("<QhBx")  # mantissa, exponent, flags, as the decode kernel reads the type "decimal"
_UNSIGNED, _MISSING = 1, 128


def pack_decimal(value: Decimal | int) -> bytes:
    """Pack a number that a device sent as digits, for ``decimal_plan``. A number that does not fit in 64 bits is packed
    as missing.
    """
    sign, digits, exponent = Decimal(value).as_tuple()
    if isinstance(exponent, int) and len(digits) < 40:
        mantissa = int("".join(map(str, digits))) * (-1 if sign else 1)
        while mantissa and mantissa % 10 == 0 and not -(1 << 63) <= mantissa < 1 << 64:
            mantissa, exponent = mantissa // 10, exponent + 1
        if -(1 << 63) <= mantissa < 1 << 64 and abs(exponent) < 1 << 15:
            return _DECIMAL.pack(mantissa & (1 << 64) - 1, exponent, _UNSIGNED if mantissa >> 63 > 0 else 0)
    return _DECIMAL.pack(0, 0, _MISSING)


def decimal_plan(number: int, point: Point, spec: DeviceSpec) -> Plan:
    """The decode plan of a point whose value the device sends as digits. Raises ProfileError."""
    words = _DECIMAL.size // 2
    digits = replace(point, function=3, address=0, count=words, type="decimal", order="", parts=())
    return compile_block(Block(3, 0, words, (number,)), {number: digits}, spec)


def add_point(plan: Plan, number: int, point: Point, block: Block, spec: DeviceSpec) -> None:
    """Add a point to the plan of a block, with everything that turns its registers into a value. Raises ValueError."""
    ratio = ratio_of(point, spec)
    negate = point.flips and concerned(point.name, spec.reversed)
    low, high = (None if v is None else v * ratio for v in range_of(point, spec))
    parts = point.parts or (RegisterPart(point.address, point.type, point.scale, point.order),)
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        bits = part.type == "bits"
        shift = part.address - block.address
        size, bit, mask = _coils(point, shift) if bits else (0, _or(point.bit, -1), point.mask or 0)
        plan.add(
            number,
            shift // 8 if bits else 2 * shift,
            part.type,
            part.order,
            size=2 * point.count if part.type == "mod10k" else size,
            bit=bit,
            mask=mask,
            scale=exact(part.scale * ratio),
            add=exact(point.offset) if place == 0 else (0, 0),
            sentinels=point.sentinels,
            low=None if low is None or not last else exact(low),
            high=None if high is None or not last else exact(high),
            scale_offset=-1 if point.scale_at is None else 2 * (point.scale_at - block.address),
            negate=negate,
            part=not last,
            share=point.share,
        )


def _coils(point: Point, shift: int) -> tuple[int, int, int]:
    """Return (size, bit, mask) of the coils that begin at coil ``shift`` of the block."""
    first = shift % 8
    size = (first + point.count + 7) // 8
    if point.bit is not None:
        return size, first + point.bit, 0
    if point.count == 1:
        return size, first, 0
    kept = point.mask if point.mask else (1 << point.count) - 1
    return size, -1, kept << first


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
