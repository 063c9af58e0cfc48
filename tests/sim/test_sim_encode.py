"""Values to registers and back: every type and order against a slow decoder of its own."""

from __future__ import annotations

import math
import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import Kind, Point, RegisterPart
from drivers.sim.encode import EncodeError, served_value
from drivers.sim.image import Image
from ext import decode
from tests.kits.simulated import punch

ORDERS = {
    2: ("", "AB", "BA"),
    4: ("", "ABCD", "CDAB", "BADC", "DCBA"),
    8: ("", "ABCD", "CDAB", "BADC", "DCBA", "ABCDEFGH", "GHEFCDAB", "CDABGHEF", "BADCFEHG", "HGFEDCBA"),
}
LETTERS = {"ABCD": "ABCDEFGH", "CDAB": "GHEFCDAB", "BADC": "BADCFEHG", "DCBA": "HGFEDCBA"}
ORDERS_24 = (*ORDERS[4], "-ABC", "BC-A", "A-CB", "CBA-", "ABC-", "C-AB", "BA-C", "-CBA")
WHOLE = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q"}
FLOATS = {"f16": "e", "f32": "f", "f64": "d"}


def unwired(wire: bytes, order: str) -> bytes:
    """Most significant byte first, by the letters."""
    letters = LETTERS.get(order, order) if len(wire) == 8 else order
    return wire if not letters else bytes(wire[letters.index(c)] for c in sorted(letters))


def registers(image: Image, point: Point, count: int) -> bytes:
    payload = image.read(point.function, point.address, count)
    assert isinstance(payload, bytes)
    return payload


@st.composite
def whole_points(draw: st.DrawFn) -> tuple[Point, int]:
    kind = draw(st.sampled_from(sorted(WHOLE)))
    size = int(kind[1:]) // 8
    low, high = (-(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1) if kind[0] == "i" else (0, (1 << (8 * size)) - 1)
    scale = draw(st.sampled_from(["1", "0.1", "0.001", "10", "100", "0.25", "2.5"]))
    point = Point(
        "x.p",
        Kind.GAUGE,
        function=draw(st.sampled_from([3, 4])),
        address=draw(st.integers(0, 65_000)),
        count=size // 2,
        type=kind,
        order=draw(st.sampled_from(ORDERS[size])),
        scale=Decimal(scale),
        offset=Decimal(draw(st.sampled_from([0, -1000, 7]))),
    )
    return point, draw(st.integers(low, high))


@given(whole_points())
def test_whole_numbers_come_back_exactly(drawn: tuple[Point, int]) -> None:
    """The decoder's formula, value = (raw + offset) * scale, run backwards."""
    point, raw = drawn
    image = Image()
    image.set(point, (raw + point.offset) * point.scale)
    wire = unwired(registers(image, point, point.count), point.order)
    assert struct.unpack(">" + WHOLE[point.type], wire)[0] == raw


@given(st.sampled_from(sorted(FLOATS)), st.floats(width=16, allow_nan=False, allow_infinity=False), st.data())
def test_floats_come_back_exactly(kind: str, value: float, data: st.DataObject) -> None:
    size = int(kind[1:]) // 8
    order = data.draw(st.sampled_from(ORDERS[size]))
    point, image = Point("x.p", Kind.GAUGE, type=kind, count=size // 2, order=order), Image()
    image.set(point, value)
    assert struct.unpack(">" + FLOATS[kind], unwired(registers(image, point, size // 2), order))[0] == value


@given(st.integers(0, 9999), st.integers(0, 99_999_999), st.sampled_from(ORDERS[4]))
def test_bcd_digits_are_nibbles(short: int, long: int, order: str) -> None:
    image = Image()
    image.set(Point("x.a", Kind.GAUGE, type="bcd16"), short)
    image.set(two := Point("x.b", Kind.GAUGE, address=10, type="bcd32", count=2, order=order), long)
    assert f"{image.words(0)[0]:04x}" == f"{short:04d}"
    assert unwired(registers(image, two, 2), order).hex() == f"{long:08d}"


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=4))
def test_mod10k_words_are_digits_of_ten_thousand(digits: list[int]) -> None:
    value = 0
    for digit in digits:
        value = value * 10_000 + digit
    image = Image()
    image.set(Point("x.p", Kind.COUNTER, type="mod10k", count=len(digits)), value)
    assert list(image.words(0, len(digits))) == digits


@given(st.integers(0, 0xFFFF), st.integers(0, 15), st.integers(0, 1))
def test_a_bit_leaves_its_neighbours_alone(word: int, bit: int, value: int) -> None:
    image = Image()
    image.put_words(0, [word])
    image.set(Point("x.p", Kind.STATE, bit=bit), value)
    assert image.words(0)[0] == word & ~(1 << bit) | value << bit


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 15), st.sampled_from(ORDERS[4]))
def test_a_masked_field_leaves_its_neighbours_alone(word: int, value: int, order: str) -> None:
    image = Image()
    whole = Point("x.w", Kind.STATE, type="u32", count=2, order=order)
    image.set(whole, word)
    image.set(Point("x.p", Kind.STATE, type="u32", count=2, order=order, mask=0x0000_0F00), value)
    got = int.from_bytes(unwired(registers(image, whole, 2), order), "big")
    assert got == word & ~0xF00 | value << 8


@given(st.integers(0, 0xFF), st.integers(-0x80, 0x7F))
def test_two_values_share_a_register(high: int, low: int) -> None:
    image = Image()
    image.set(Point("x.h", Kind.GAUGE, type="u8h"), high)
    image.set(Point("x.l", Kind.GAUGE, type="i8l"), low)
    assert image.words(0)[0] == high << 8 | low & 0xFF


@given(st.integers(0, 10**11))
def test_parts_of_a_counter_add_up(wh: int) -> None:
    """An MWh and a kWh register make one counter."""
    parts = (RegisterPart(10, "u32", Decimal(1_000_000)), RegisterPart(20, "u32", Decimal(1)))
    image = Image()
    image.set(Point("ac.energy.import", Kind.COUNTER, unit="Wh", count=2, parts=parts), wh)
    mega = image.words(10)[0] << 16 | image.words(11)[0]
    single = image.words(20)[0] << 16 | image.words(21)[0]
    assert (mega, single) == divmod(wh, 1_000_000)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("u16", [0xFFFF]),
        ("i16", [0x8000]),
        ("u32", [0xFFFF, 0xFFFF]),
        ("i32", [0x8000, 0]),
        ("u64", [0xFFFF] * 4),
        ("i64", [0x8000, 0, 0, 0]),
        ("bcd16", [0xFFFF]),
    ],
)
def test_a_missing_value_is_its_types_sentinel(kind: str, words: list[int]) -> None:
    """Not-implemented values differ per type."""  # field pains 31, 36
    image = Image()
    image.set(Point("x.p", Kind.GAUGE, type=kind, count=len(words)), None)
    assert list(image.words(0, len(words))) == words


def test_a_missing_float_is_not_a_number_and_own_sentinels_win() -> None:
    image = Image()
    image.set(Point("x.p", Kind.GAUGE, type="f32", count=2), None)
    assert math.isnan(struct.unpack(">f", struct.pack(">2H", *image.words(0, 2)))[0])
    image.set(Point("x.q", Kind.GAUGE, address=9, sentinels=(0x7FFF,)), None)
    assert image.words(9) == (0x7FFF,)


def test_text_is_padded_and_refused_when_too_long() -> None:
    image = Image()
    point = Point("device.serial", Kind.TEXT, type="str", count=3)
    image.set(point, "AB12")
    assert image.read(3, 0, 3) == b"AB12\0\0"
    with pytest.raises(EncodeError, match="needs 7 bytes, but the registers of the point hold only 6 bytes"):
        image.set(point, "AB12345")


@pytest.mark.parametrize(
    ("point", "value", "match"),
    [
        (Point("x.p", Kind.GAUGE), 65_536, "does not fit u16"),
        (Point("x.p", Kind.GAUGE), -1, "does not fit u16"),
        (Point("x.p", Kind.GAUGE, type="f16"), 1e9, "too large for f16"),
        (Point("x.p", Kind.GAUGE, type="bcd16"), 10_000, "does not fit bcd16"),
        (Point("x.p", Kind.GAUGE, order="ABCD"), 1, "order ABCD does not fit a value of 2 bytes"),
        (Point("x.p", Kind.STATE, mask=0x30), 4, "field of 2 bits"),
        (Point("x.p", Kind.GAUGE, type="u99"), 1, "unknown type"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(point: Point, value: int | float, match: str) -> None:
    with pytest.raises(EncodeError, match=match) as caught:
        Image().set(point, value)
    assert "point x.p" in str(caught.value)


def test_coils_are_packed_lowest_bit_first() -> None:
    image = Image()
    image.put_bits(10, [1, 0, 1, 1, 0, 0, 0, 0, 1])
    assert image.read(1, 10, 9) == bytes([0b0000_1101, 1])
    image.set(Point("x.p", Kind.STATE, function=2, address=0, count=3, type="bits"), 5)
    assert image.read(2, 0, 3) == b"\x05"


def test_a_dump_is_served_as_recorded_and_bad_ones_are_named() -> None:
    image = Image.from_dump(
        {"protocol": "modbus", "address": 1, "holding": {"35000": 7, "35001": 8}, "input": {"0x10": 9}}
    )
    assert image.read(3, 35000, 2) == b"\0\7\0\x08"
    assert image.read(4, 16, 1) == b"\0\x09"
    assert image.read(3, 35000, 3) == 2
    with pytest.raises(EncodeError, match="address 'abc'"):
        Image.from_dump({"holding": {"abc": 1}})
    with pytest.raises(EncodeError, match="70000 at 1 is not 0 to 65535"):
        Image.from_dump({"holding": {"1": 70000}})
    with pytest.raises(EncodeError, match="no registers"):
        Image.from_dump({"protocol": "modbus"})


def test_holes_answer_their_exception_and_small_ones_can_be_filled() -> None:
    image = Image()  # field pains 24, 25
    image.put_words(0, [1, 2])
    image.put_words(4, [5])
    image.put_words(100, [9])
    assert image.read(3, 0, 5) == 2
    image.fill_holes(10, function=3)
    assert image.read(3, 0, 5) == b"\0\1\0\2\0\0\0\0\0\5"
    assert image.read(3, 5, 2) == 2
    punch(image, 1, code=4)
    assert image.read(3, 0, 2) == 4
    assert image.read(4, 0, 1) == 1
    assert image.read(3, 0, 126) == 3
    assert image.read(3, 65_535, 2) == 2


@given(whole_points())
def test_the_decode_kernel_agrees(drawn: tuple[Point, int]) -> None:
    """What the simulator writes, the kernel reads."""
    point, raw = drawn
    image = Image()
    value = (raw + point.offset) * point.scale
    image.set(point, value)
    plan = decode.Plan(2 * point.count)
    sign, digits, exponent = point.scale.as_tuple()
    assert not sign
    scale = (int("".join(map(str, digits))), int(exponent))
    plan.add(1, 0, point.type, point.order, scale=scale, add=(int(point.offset), 0), sentinels=())
    ((number, mantissa, exponent, quality),) = plan.values(registers(image, point, point.count))
    if quality == 0:
        assert (number, Decimal(mantissa).scaleb(exponent)) == (1, value)
    else:  # more than 64 bits of mantissa: the kernel says so
        assert abs(value) >= 2**63 * 10 ** min(0, int(point.scale.as_tuple().exponent))


@st.composite
def any_points(draw: st.DrawFn) -> tuple[Point, Decimal | float]:
    """A point of any type, and a value that fits it."""
    kinds = ["u8h", "u8l", "i8h", "i8l", "u24", "i24", "bcd16", "bcd32", "mod10k", *WHOLE, *FLOATS]
    kind = draw(st.sampled_from(kinds))
    sizes = {"bcd16": 2, "bcd32": 4, "mod10k": draw(st.sampled_from([2, 4, 6, 8])), "u24": 4, "i24": 4}
    size = sizes.get(kind, int(kind[1:]) // 8 if kind[1:].isdigit() else 1)
    orders: tuple[str, ...] = ("",) if size == 1 else ORDERS.get(size, ("",))
    if kind == "mod10k":
        orders = ("", "AB", "BA", *(("ABCD", "CDAB", "BADC", "DCBA") if size > 2 else ()))
    if kind in ("u24", "i24"):
        orders = ORDERS_24
    scale, offset = Decimal(draw(st.sampled_from(["1", "0.1", "100"]))), Decimal(0)
    value: Decimal | float
    if kind in FLOATS:
        scale = Decimal(1)
        value = draw(st.floats(width={"f16": 16, "f32": 32, "f64": 64}[kind], allow_nan=False, allow_infinity=False))
    else:
        top = {"bcd16": 9999, "bcd32": 99_999_999, "mod10k": 10_000 ** (size // 2) - 1}.get(kind, (1 << (8 * size)) - 1)
        low, wide = 0, 24 if kind.endswith("24") else 8 * size
        if kind[0] == "i":
            low, top = -(1 << wide - 1), (1 << wide - 1) - 1
        elif kind == "u24":
            top = (1 << wide) - 1
        offset = Decimal(draw(st.sampled_from([0, -40])))
        value = (draw(st.integers(low, top)) + offset) * scale
    count = max(1, size // 2)
    return Point(
        "x.p", Kind.GAUGE, type=kind, count=count, order=draw(st.sampled_from(orders)), scale=scale, offset=offset
    ), value


@given(any_points())
def test_the_decode_kernel_reads_every_type(drawn: tuple[Point, Decimal | float]) -> None:
    """Registers written here are read there, and ``served_value`` foretells the number."""
    point, value = drawn
    image = Image()
    image.set(point, value)
    plan = decode.Plan(2 * point.count)
    parts = point.scale.as_tuple()
    size = 2 * point.count if point.type == "mod10k" else 0
    scale = (int("".join(map(str, parts.digits))), int(parts.exponent))
    plan.add(1, 0, point.type, point.order, size=size, scale=scale, add=(int(point.offset), 0), sentinels=())
    ((_, mantissa, exponent, quality),) = plan.values(registers(image, point, point.count))
    expected = served_value(point, value)
    if quality == 0:
        read = Decimal(mantissa).scaleb(exponent)
        assert read == expected
    else:
        assert abs(expected) >= 2**63 / Decimal(10), "only what 64 bits of mantissa cannot hold"


@given(st.integers(0, 0xFFFF), st.integers(1, 0xFFFF), st.data())
def test_the_decode_kernel_reads_masked_fields(word: int, mask: int, data: st.DataObject) -> None:
    shift = (mask & -mask).bit_length() - 1
    value = data.draw(st.integers(0, mask >> shift)) & (mask >> shift)
    image = Image()
    image.put_words(0, [word])
    image.set(point := Point("x.p", Kind.STATE, mask=mask), value)
    plan = decode.Plan(2)
    plan.add(1, 0, "u16", mask=mask, sentinels=())
    ((_, mantissa, exponent, quality),) = plan.values(registers(image, point, 1))
    assert (mantissa * 10**exponent, quality) == (value, 0)


@given(st.integers(0, 10**10))
def test_the_decode_kernel_adds_up_parts(value: int) -> None:
    parts = (RegisterPart(0, "u32", Decimal(1000), "CDAB"), RegisterPart(2, "u16", Decimal("0.1"), "BA"))
    image, point = Image(), Point("ac.energy.import", Kind.COUNTER, unit="kWh", count=3, parts=parts)
    wanted = Decimal(value) / 10
    image.set(point, wanted)
    plan = decode.Plan(6)
    plan.add(1, 0, "u32", "CDAB", scale=(1000, 0), part=True)
    plan.add(1, 4, "u16", "BA", scale=(1, -1))
    ((_, mantissa, exponent, quality),) = plan.values(registers(image, point, 3))
    assert (Decimal(mantissa).scaleb(exponent), quality) == (wanted, 0)
    assert served_value(point, wanted) == wanted


@pytest.mark.parametrize(
    ("point", "text", "words"),
    [
        (Point("device.firmware", Kind.TEXT, count=3, text="{0}.{1}.{2:02x}"), "4.5.1f", [4, 5, 0x1F]),
        (
            Point("device.time", Kind.TEXT, type="u8h", count=2, text="20{0:02d}-{1:02d} {2}{3}"),
            "2026-11 37",
            [0x1A0B, 0x0307],
        ),
        (Point("device.serial", Kind.TEXT, type="u32", count=2, order="CDAB"), "65538", [2, 1]),
        (Point("device.model", Kind.TEXT, type="str", count=2, order="BA"), "ABC", [0x4241, 0x0043]),
    ],
)
def test_texts_of_every_form(point: Point, text: str, words: list[int]) -> None:
    image = Image()
    image.set(point, text)
    assert list(image.words(0, len(words))) == words
    if point.type != "str":
        with pytest.raises(EncodeError, match="device"):
            image.set(point, "nothing like it")
