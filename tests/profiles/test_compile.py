"""Blocks through the kernel: ratio, sign, parts and coils against plain decimal arithmetic."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import DeviceSpec, Kind, Point, ProfileError, Quality, Reason, RegisterPart
from drivers.plan import (
    Block,
    block_decoder,
    compile_block,
    decimal_plan,
    exact,
    pack_decimal,
    plan_blocks,
    ratio_of,
    read_image,
    text_of,
    text_slots,
)
from drivers.plan.image import plain
from drivers.profile.register_layout import orders_of
from drivers.sim.image import Image

SPEC = DeviceSpec("m1", "park7/gw01/m1", "1", "modbus", "example/x", (), (0, 0, 0, 0, 0))
SCALES = st.decimals(min_value=Decimal("-1000"), max_value=Decimal("1000"), places=4).filter(bool)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_exact_keeps_the_value(value: Decimal) -> None:
    mantissa, exponent = exact(value)
    with localcontext() as context:
        context.prec = 100
        assert Decimal(mantissa).scaleb(exponent) == value
    assert mantissa % 10 or mantissa == 0


@given(
    st.integers(0, 0xFFFE),
    SCALES,
    st.integers(-5000, 5000),
    st.sampled_from(["V", "A", "kW", "kWh", "Hz"]),
    st.booleans(),
)
def test_values_are_what_decimal_arithmetic_says(
    raw: int, scale: Decimal, offset: int, unit: str, turned: bool
) -> None:
    point = Point(
        "ac.power.active", Kind.GAUGE, unit, scale=scale, offset=Decimal(offset), ratio="apply", flips=True, address=9
    )
    spec = replace(SPEC, ratio_ct=Decimal(80), ratio_pt=Decimal("1.5"), reversed=frozenset({"ac"} if turned else ()))
    (reading,), _ = read_image({3: {9: raw}}, [point], spec)
    factor = {"V": Decimal("1.5"), "A": Decimal(80), "kW": Decimal(120), "kWh": Decimal(120), "Hz": Decimal(1)}[unit]
    expected = (Decimal(raw) + offset) * scale * factor
    assert reading.value == (-expected if turned else expected)
    assert reading.raw == raw.to_bytes(2)


def test_2301_at_a_tenth_is_230_1() -> None:
    point = Point("ac.voltage.l1", Kind.GAUGE, "V", scale=Decimal("0.1"))
    ((_, mantissa, exponent, quality),) = compile_block(Block(3, 0, 1, (0,)), [point], SPEC).values(b"\x08\xfd")
    assert (mantissa, exponent, quality) == (2301, -1, Quality.GOOD)


def test_the_ratio_acts_only_where_the_profile_says_so() -> None:
    spec = replace(SPEC, ratio_ct=Decimal(80), ratio_pt=Decimal(100))
    point = Point("ac.energy.import", Kind.COUNTER, "kWh", ratio="apply")
    assert ratio_of(point, spec) == 8000
    assert ratio_of(replace(point, ratio="done"), spec) == 1
    assert ratio_of(replace(point, unit="V"), spec) == 100
    assert ratio_of(replace(point, unit="A"), spec) == 80


def test_range_follows_ratio_and_sign() -> None:
    point = Point(
        "ac.power.active", Kind.GAUGE, "W", type="i16", low=Decimal(-10), high=Decimal(100), ratio="apply", flips=True
    )
    spec = replace(SPEC, ratio_ct=Decimal(2), reversed=frozenset({""}))
    for raw, quality in (
        (100, Quality.GOOD),
        (101, Quality.RANGE),
        (0x10000 - 10, Quality.GOOD),
        (0x10000 - 11, Quality.RANGE),
    ):
        (reading,), _ = read_image({3: {0: raw}}, [point], spec)
        assert reading.quality == quality, raw


def test_parts_make_one_counter_and_a_sentinel_in_one_takes_all() -> None:
    parts = (RegisterPart(20, "u32", Decimal(1000), "ABCD"), RegisterPart(22, "u16", Decimal(1)))
    point = Point("heat.energy", Kind.COUNTER, "kWh", address=20, count=3, type="u32", parts=parts)
    (reading,), _ = read_image({3: {20: 0, 21: 1234, 22: 567}}, [point], SPEC)
    assert reading.value == 1_234_567
    (reading,), _ = read_image({3: {20: 0, 21: 1234, 22: 0xFFFF}}, [point], SPEC)
    assert (reading.value, reading.quality) == (None, Reason.SENTINEL)


@given(st.integers(0, 30), st.integers(1, 56), st.integers(0, 2**96 - 1), st.integers(0, 7))
def test_coils_at_any_place_of_a_block(first: int, count: int, image: int, lead: int) -> None:
    point = Point("x.coils", Kind.STATE, function=1, address=lead + first, count=count, type="bits")
    payload = image.to_bytes(12, "little")
    plan = compile_block(Block(1, lead, 96, (0,)), [point], SPEC)
    ((_, mantissa, exponent, _),) = plan.values(payload)
    assert plain(mantissa, exponent) == image >> first & (1 << count) - 1


def test_text_points_are_sliced_beside_the_plan() -> None:
    points = [
        Point("device.model", Kind.TEXT, address=10, count=3, type="str"),
        Point("device.state", Kind.STATE, address=13),
    ]
    (block,) = plan_blocks(points)
    assert text_slots(block, points) == ((0, 0, 6),)
    assert compile_block(block, points, SPEC).points == (1,)


@pytest.mark.parametrize(
    ("order", "words", "text"),
    [
        ("", (0x4142, 0x4300), "ABC"),
        ("BA", (0x4241, 0x0043), "ABC"),
        ("", (0x4142, 0x4344, 0x0000), "ABCD"),
        ("BA", (0x4241, 0x4443, 0x0000), "ABCD"),
        ("", (0x4142, 0x4344), None),  # a text without end needs all its registers
        ("BA", (0x4241, 0x4443), None),
    ],
)
def test_an_image_may_end_where_a_text_ends(order: str, words: tuple[int, ...], text: str | None) -> None:
    """A recorded dump often has only the registers up to the NUL, which is in the high byte with the order BA."""
    point = Point("device.model", Kind.TEXT, type="str", count=8, order=order)
    readings, missing = read_image({3: dict(enumerate(words))}, [point], SPEC)
    assert [r.value for r in readings] == ([] if text is None else [text])
    assert missing == ([] if text else ["device.model"])


@pytest.mark.parametrize(
    ("raw", "options", "text"),
    [
        (b"EX-630\0\0", {}, "EX-630"),
        (b"  EX  \0\0", {}, "EX"),
        (b"XE6-03\0\0", {"order": "BA"}, "EX-630"),
        (b"\xff" * 8, {}, None),
        (b"\0" * 8, {}, None),
        ("逆变器".encode("gb18030") + b"\0\0", {}, "逆变器"),
        ("逆变".encode() + b"\0\0", {}, "逆变"),
        (b"EX\x1b[2J\0", {}, "EX\N{REPLACEMENT CHARACTER}[2J"),
        (b"\x00\x0f\x00\x10", {"type": "u16", "text": "{0}.{1:02x}"}, "15.10"),
        (b"\x15\x08", {"type": "u8h", "text": "20{0}-{1:02d}"}, "2021-08"),
        (b"\x86\xa1\x00\x01", {"type": "u32", "order": "CDAB"}, "100001"),
        (b"AB", {}, "AB"),  # a text in one register
        (b"BA", {"order": "BA"}, "AB"),
        (b"\0A", {"order": "BA"}, "A"),
        (b"A\0", {"order": "AB"}, "A"),
        (b"\x0f\x00\x10\x00", {"type": "u16", "order": "BA", "text": "{0}.{1:02x}"}, "15.10"),
        (b"E\0X\0", {"type": "u16", "order": "BA", "text": "low"}, "EX"),
        (b"\0E\0X", {"type": "u16", "order": "BA", "text": "high"}, "EX"),
        (b"\x12\x07", {"type": "u8h"}, "18"),
        (b"\x12\x07", {"type": "u8l"}, "7"),
        (b"\xff\xfe", {"type": "i16"}, "-2"),
        (b"\x12\x34\x56\x00", {"type": "u24", "order": "ABC-"}, str(0x123456)),
        (b"\x12\x34", {"type": "u16", "mask": 0x0FF0}, str(0x23)),
        (b"\x00\x2a", {"type": "u16", "sentinels": (42,)}, None),
        (b"\0\0\0EX-630", {}, "EX-630"),  # aligned to the right
        (b"\0\0EX\0\0", {}, None),  # a text that was cleared: what follows is left over from an older one
        (b"\xff\xffEX\xff\xff", {}, "EX"),
        (b"  EX\xff\xff\0\0", {}, "EX"),
        (b"    ", {}, None),
        (b"N/A\0", {"no_texts": ("N/A", "--")}, None),
        (b"20-1", {"type": "u16", "text": "{0:x}-{1:x}", "no_texts": ("3230-2d31",)}, None),
        ("温度".encode()[:4], {}, "温"),  # the field ends in the middle of a character
        ("型号A1温".encode()[:10], {}, "型号A1"),
        ("温度计".encode("gbk")[:-1] + b"\0", {}, "温度"),
        (b"25 \xb0\0", {}, "25 \N{LIGHT SHADE}"),  # nothing shows the encoding
    ],
)
def test_texts(raw: bytes, options: dict[str, Any], text: str | None) -> None:
    kind = {"type": "str", **options}
    assert text_of(Point("device.model", Kind.TEXT, count=len(raw) // 2, **kind), raw) == text


def in_order(text: bytes, order: str) -> bytes:
    """The bytes of a text in the order of the frame, one register at a time."""
    words = [text[i : i + 2] for i in range(0, len(text), 2)]
    places = list(range(len(words)))
    if order in ("CDAB", "HGFEDCBA"):
        places.reverse()
    elif order == "CDABGHEF":
        places = [n ^ 1 if n ^ 1 < len(words) else n for n in places]
    swapped = order in ("BA", "HGFEDCBA")
    return b"".join(bytes((words[n][1], words[n][0])) if swapped else words[n] for n in places)


@given(
    st.text(st.sampled_from("AZ09-. 逆变器é"), max_size=12),
    st.integers(0, 4),
    st.sampled_from([b"\0", b"\xff", b" "]),
    st.sampled_from(["utf-8", "gb18030"]),
    st.data(),
)
def test_a_text_is_read_in_every_order_and_with_every_padding(
    text: str, spare: int, padding: bytes, encoding: str, data: st.DataObject
) -> None:
    text = text.strip()
    raw = text.encode(encoding)
    if encoding != "utf-8":
        try:
            raw.decode("utf-8")
            text = raw.decode("utf-8")  # nothing shows that it is not UTF-8
        except UnicodeDecodeError:
            pass
    raw = raw.ljust(max(2, len(raw) + len(raw) % 2 + 2 * spare), padding)
    count = len(raw) // 2
    order = data.draw(st.sampled_from(["", *orders_of("str", count)]))
    point = Point("device.model", Kind.TEXT, type="str", count=count, order=order)
    assert text_of(point, in_order(raw, order)) == (text or None)
    if encoding == "utf-8":
        image = Image()
        image.set(point, text)
        wire = image.read(3, 0, count)
        assert wire == in_order(text.encode().ljust(2 * count, b"\0"), order)
        words = dict(enumerate(image.words(0, count)))
        assert [r.value for r in read_image({3: words}, [point], SPEC)[0]] == [text or None]


def test_a_point_that_the_kernel_refuses_is_named() -> None:
    point = Point("ac.voltage.l1", Kind.GAUGE, type="u16", order="ABCD")
    with pytest.raises(ProfileError, match=r"example/x on m1: ac\.voltage\.l1: "):
        compile_block(Block(3, 0, 1, (0,)), [point], SPEC)


NUMBERS = st.decimals(-(10**5), 10**5, places=3, allow_nan=False)


@given(NUMBERS, NUMBERS.filter(bool), NUMBERS, st.tuples(NUMBERS, NUMBERS).map(sorted), st.booleans(), st.booleans())
def test_digits_of_a_meter_obey_the_keys_of_registers(
    raw: Decimal, scale: Decimal, offset: Decimal, bounds: list[Decimal], ratio: bool, turned: bool
) -> None:
    low, high = bounds
    point = Point(
        "ac.power.active", Kind.GAUGE, "kW", scale=scale, offset=offset, low=low, high=high, flips=True, key="P",
        ratio="apply" if ratio else "",
    )  # fmt: skip
    spec = replace(SPEC, ratio_ct=Decimal(80), reversed=frozenset(("ac",) if turned else ()))
    ((number, mantissa, exponent, quality),) = decimal_plan(7, point, spec).values(pack_decimal(raw))
    scaled = (Fraction(raw) + Fraction(offset)) * Fraction(scale)
    expected = scaled * (80 if ratio else 1) * (-1 if turned else 1)
    assert (number, mantissa * Fraction(10) ** exponent) == (7, expected)
    assert quality == (Quality.GOOD if low <= scaled <= high else Quality.RANGE)


@pytest.mark.parametrize(
    ("raw", "keys", "value"),
    [
        ("65535", {"sentinels": (65535,)}, None),
        ("65535.0", {"sentinels": (65535,)}, None),
        ("6.5535", {"sentinels": (65535,)}, "6.5535"),
        ("0.5", {"sentinels": (0,)}, "0.5"),
        ("0", {"sentinels": (0,)}, None),
        ("-1", {}, "-1"),
        ("230.00", {}, "230.00"),
        ("12E+3", {}, "12000"),
        ("40960", {"bit": 13}, "1"),
        ("4.096E+4", {"mask": 0xF000}, "10"),
        ("40960.5", {"bit": 13}, None),
        ("18446744073709551615", {}, "18446744073709551615"),
        ("18446744073709551616", {}, None),
        ("18446744073709551620", {}, "18446744073709551620"),
        ("-9223372036854775809", {}, None),
        ("1E+307", {}, "1E+307"),
        ("1E+308", {}, None),
        ("1E-401", {}, None),
        ("0E+308", {}, "0"),
        ("0E+309", {}, None),
        ("18446744073709551615", {"bit": 63}, "1"),
        ("1E+99999", {}, None),
        ("NaN", {}, None),
    ],
)
def test_digits_that_are_a_reading_and_those_that_are_not(raw: str, keys: dict[str, Any], value: str | None) -> None:
    point = Point("x.a", Kind.STATE if "bit" in keys or "mask" in keys else Kind.GAUGE, key="A", **keys)
    ((_, mantissa, exponent, quality),) = decimal_plan(0, point, SPEC).values(pack_decimal(Decimal(raw)))
    assert (None if quality == Reason.SENTINEL else Decimal(mantissa).scaleb(exponent)) == (value and Decimal(value))


def test_devices_with_the_same_points_share_their_decoders() -> None:
    """A start of 3,000 devices of one family compiles a block once. Another ratio needs another plan."""
    energy = Point("energy.active.import", Kind.COUNTER, "kWh", address=1, count=2, type="u32", ratio="apply")
    points = (Point("ac.voltage", Kind.GAUGE, "V", address=0), energy, Point("device.model", Kind.TEXT, address=3))
    (block,) = plan_blocks(points)
    first = block_decoder(block, points, SPEC)
    assert block_decoder(block, points, replace(SPEC, name="m2", address="2")) is first
    assert first.plan is not None and first.plan.points == (0, 1)
    assert first.counters is not None and first.counters.points == (1,)
    assert [slot.point for slot in first.texts] == [2] and list(first.points) == [0, 1, 2]
    other = block_decoder(block, points, replace(SPEC, ratio_ct=Decimal(80)))
    assert other.plan is not first.plan and other.plan is not None
    assert [value[1:3] for value in other.plan.values(bytes(5) + b"\x01" + bytes(2))][1] == (8, 1)
