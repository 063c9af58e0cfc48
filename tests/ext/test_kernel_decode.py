"""The decode kernel against exact fractions: every type, order, sentinel, scale, part and bit."""

from __future__ import annotations

import math
import struct
from dataclasses import asdict, replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ext.decode
from ext.decode import ORDERS, ORDERS_24, Plan
from ext.ring import ANSWER, Ring
from tests.kits.kernel_reference import RANGE, SENTINEL, TYPES, Field, decode, exact, in_range
from tests.kits.recorded import cases

LENGTH = 24


def plan(*fields: Field, length: int = LENGTH) -> Plan:
    made = Plan(length)
    for point, f in enumerate(fields):
        made.add(point, **asdict(f))
    return made


def one(f: Field, payload: bytes) -> tuple[int, int, int]:
    """Mantissa, exponent, quality of a plan of one field."""
    (_, mantissa, exponent, quality) = plan(f, length=len(payload)).values(payload)[0]
    return mantissa, exponent, quality


def value(f: Field, wire: str) -> Decimal | None:
    mantissa, exponent, quality = one(f, bytes.fromhex(wire))
    return None if quality >= 128 else Decimal(mantissa).scaleb(exponent)


def sizes(f: Field) -> int:
    return TYPES[f.type][0] if f.type in TYPES else f.size


decimals = st.tuples(st.integers(-(10**6), 10**6), st.integers(-9, 9))


@st.composite
def fields(draw: st.DrawFn) -> Field:
    kind = draw(st.sampled_from(ext.decode.TYPES))
    size = draw(st.sampled_from([2, 4, 6, 8] if kind == "mod10k" else range(1, 9))) if kind in ("mod10k", "bits") else 0
    f = Field(0, kind, size=size)
    orders = [""] + [o for o, n in ORDERS.items() if n == sizes(f) or (n == 4 and sizes(f) in (6, 8))]
    orders += {"u24": ORDERS_24, "i24": ORDERS_24, "mod10k": ("AB", "BA")}.get(kind, ())
    bits = TYPES[kind][1] if kind in TYPES else size * 8
    chosen: dict[str, object] = {}
    if kind[0] in "ui" or kind == "bits":
        pick = draw(st.sampled_from(["whole", "whole", "bit", "mask"]))
        if pick == "bit":
            chosen["bit"] = draw(st.integers(0, bits - 1))
        elif pick == "mask":
            chosen["mask"] = draw(st.integers(1, 2**bits - 1))
    if draw(st.booleans()):
        chosen["sentinels"] = draw(st.lists(st.integers(0, 2 ** min(bits, 63) - 1), max_size=3))
    scale = draw(st.sampled_from([(1, 0), (1, -1), (1, -3)]) | decimals.filter(lambda d: d[0] != 0))
    return replace(
        f,
        offset=draw(st.integers(0, LENGTH - sizes(f))),
        order=draw(st.sampled_from(orders)),
        scale=scale,
        add=draw(st.just((0, 0)) | decimals),
        low=draw(st.none() | decimals),
        high=draw(st.none() | decimals),
        scale_offset=draw(st.just(-1) | st.integers(0, LENGTH - 2)),
        negate=draw(st.booleans()),
        **chosen,
    )


# bytes that are often special: all ones, zeros, a sign bit alone, BCD digits, a sane scale factor
pieces = st.sampled_from([b"\xff\xff", b"\x00\x00", b"\x80\x00", b"\x7f\xc0", b"\x12\x34", b"\xff\xfe", b"\x00\x03"])
payloads = st.lists(pieces | st.binary(min_size=2, max_size=2), min_size=12, max_size=12).map(b"".join)


def agrees(got: tuple[int, int, int], f: Field, payload: bytes) -> None:
    mantissa, exponent, quality = got
    want, floating = decode(f, payload)
    found = mantissa * Fraction(10) ** exponent
    if want is None:
        assert (mantissa, exponent, quality) == (0, 0, SENTINEL)
        return
    if quality == SENTINEL:  # only where the value does not fit
        assert abs(want) >= Fraction(10) ** 308 or (not floating and not fits(want))
        return
    if floating and f.add != (0, 0):  # digits beyond 64 bits of mantissa are rounded off, before the scale and after it
        size = max(abs(want), abs(exact(f.add) * exact(f.scale)) * Fraction(10) ** 10)
        assert abs(found - want) <= size / 2**60
    elif floating:
        assert abs(found - want) <= abs(want) / 2**60
    else:
        assert found == want
    if found == want:
        assert quality == (0 if in_range(f, want) else RANGE)


def fits(want: Fraction) -> bool:
    """Is it a whole number of at most 64 bits times a power of ten, and are its steps within 128 bits?"""
    while want.denominator != 1:
        want *= 10
    n = want.numerator
    while n and n % 10 == 0:
        n //= 10
    return -(2**63) <= n < 2**64


@given(fields(), payloads)
def test_agrees_with_the_reference(f: Field, payload: bytes) -> None:
    agrees(one(f, payload), f, payload)


@given(st.lists(fields(), min_size=1, max_size=30), payloads, st.integers(0, 6), st.sampled_from((133, 134, 255)))
def test_the_ring_gets_the_same_values(
    one_ring: Ring, many: list[Field], payload: bytes, quality: int, absent: int
) -> None:
    made = plan(*many)
    position = made.decode_into(one_ring, payload, 3, 1_000, 2_000, 3_000, quality, absent)
    record = one_ring.record(position)
    assert record is not None
    assert (record.kind, record.table, record.aux) == (ANSWER, 3, quality)
    assert (record.tick_ms, record.time_ns, record.mono_ns) == (1_000, 2_000, 3_000)
    want = [(p, m, e, {0: quality, 133: absent}.get(q, q)) for p, m, e, q in made.values(payload)]
    assert [tuple(v) for v in record.values] == want
    assert made.points == tuple(range(len(many)))
    for f, v in zip(many, made.values(payload), strict=True):
        agrees(v[1:], f, payload)


@given(st.integers(0, 2**32 - 1))
def test_f32_is_the_shortest_decimal_that_identifies_it(raw: int) -> None:
    agrees(one(Field(0, "f32"), raw.to_bytes(4)), Field(0, "f32"), raw.to_bytes(4))


@given(st.integers(0, 2**64 - 1))
def test_f64_is_the_shortest_decimal_that_identifies_it(raw: int) -> None:
    mantissa, exponent, quality = one(Field(0, "f64"), raw.to_bytes(8))
    x = struct.unpack(">d", raw.to_bytes(8))[0]
    if not math.isfinite(x):
        assert quality == SENTINEL
    else:
        assert Decimal(mantissa).scaleb(exponent) == Decimal(repr(x))


def test_every_f16() -> None:
    """65,536 of them: all can be tried. NaN and infinities are no reading."""
    every = struct.pack(">65536H", *range(65536))
    for at in range(0, len(every), 1 << 14):
        part = every[at : at + (1 << 14)]
        made = Plan(len(part))
        for i in range(0, len(part), 2):
            made.add(0, i, "f16")
        for (x,), (_, m, e, q) in zip(struct.iter_unpack(">e", part), made.values(part), strict=True):
            assert (q == SENTINEL) if not math.isfinite(x) else m * Fraction(10) ** e == Fraction(Decimal(repr(x)))


# field pain 37: each order of 32 bit, and both word swaps of 64 bit, and none is accepted where it means nothing
@pytest.mark.parametrize(
    ("order", "wire"),
    [("ABCD", "43668000"), ("CDAB", "80004366"), ("BADC", "66430080"), ("DCBA", "00806643"), ("", "43668000")],
)
def test_orders_of_32_bits(order: str, wire: str) -> None:
    assert value(Field(0, "f32", order), wire) == Decimal("230.5")


@pytest.mark.parametrize(
    ("order", "wire"),
    [
        ("ABCDEFGH", "0102030405060708"),
        ("GHEFCDAB", "0708050603040102"),
        ("CDABGHEF", "0304010207080506"),
        ("BADCFEHG", "0201040306050807"),
        ("HGFEDCBA", "0807060504030201"),
        ("ABCD", "0102030405060708"),
        ("CDAB", "0708050603040102"),
        ("BADC", "0201040306050807"),
        ("DCBA", "0807060504030201"),
    ],
)
def test_orders_of_64_bits(order: str, wire: str) -> None:
    assert value(Field(0, "u64", order), wire) == 0x0102030405060708


# 24 bits in two registers: the byte that does not belong to the value can be anything
@pytest.mark.parametrize(
    ("order", "wire"),
    [
        ("-ABC", "ee123456"),
        ("BC-A", "3456ee12"),
        ("A-CB", "12ee5634"),
        ("CBA-", "563412ee"),
        ("ABC-", "123456ee"),
        ("C-AB", "56ee1234"),
        ("BA-C", "3412ee56"),
        ("-CBA", "ee563412"),
        ("ABCD", "ee123456"),
        ("CDAB", "3456ee12"),
        ("BADC", "12ee5634"),
        ("DCBA", "563412ee"),
        ("", "ee123456"),
    ],
)
def test_orders_of_24_bits(order: str, wire: str) -> None:
    assert value(Field(0, "u24", order), wire) == 0x123456
    assert value(Field(0, "i24", order), wire.replace("12", "92")) == 0x923456 - (1 << 24)
    for kind, missing in (("u24", "ffffff"), ("i24", "800000")):
        gone = wire.replace("12", missing[:2]).replace("34", missing[2:4]).replace("56", missing[4:])
        assert value(Field(0, kind, order), gone) is None


@pytest.mark.parametrize(
    ("f", "wire", "want"),
    [
        (Field(0, "u16", scale=(1, -1)), "08fd", "230.1"),
        (Field(0, "i32", scale=(1, -1)), "ffffc568", "-1500"),
        (Field(0, "i16"), "ffff", "-1"),
        (Field(0, "u8h"), "180d", "24"),
        (Field(0, "u8l"), "180d", "13"),
        (Field(0, "u8l", "BA"), "0d18", "13"),
        (Field(0, "i8h"), "988d", "-104"),
        (Field(0, "i8l"), "98f8", "-8"),
        (Field(0, "bcd16"), "1234", "1234"),
        (Field(0, "bcd32", "CDAB", scale=(1, -2)), "56780012", "125678E-2"),
        (Field(0, "mod10k", size=4), "04d2162e", "12345678"),
        (Field(0, "mod10k", "CDAB", size=8), "270f270f270f270f", "9999999999999999"),
        (Field(0, "mod10k", "CDAB", size=6), "000300020001", "100020003"),
        (Field(0, "mod10k", "BA", size=6), "010002000300", "100020003"),
        (Field(0, "mod10k", "AB", size=4), "04d2162e", "12345678"),
        (Field(0, "u24", "ABC-", bit=23), "80000000", "1"),
        (Field(0, "i24", "-CBA", mask=0xFF0000), "00001280", "128"),
        (Field(0, "f16", "BA"), "14b8", "-0.509765625"),
        (Field(0, "u64"), "fffffffffffffffe", "18446744073709551614"),
        (Field(0, "u64", scale=(1, 3)), "fffffffffffffffe", "18446744073709551614000"),
        (Field(0, "u16", add=(-400, -1), scale=(1, -1)), "0190", "36"),
        (Field(0, "u16", bit=3), "0008", "1"),
        (Field(0, "u16", mask=0x0FF0), "1234", "35"),
        (Field(0, "bits", size=2, bit=15), "0080", "1"),  # coils: lowest bit of the first byte first
        (Field(0, "bits", "BA", size=2, bit=7), "0080", "1"),  # and of a register
        (Field(0, "f32"), "80000000", "0"),
        (Field(0, "u16", negate=True), "0005", "-5"),
        (Field(0, "u16", scale_offset=2, scale=(1, 0)), "0905fffe", "23.09"),
        (Field(0, "u16", scale_offset=2), "0005000a", "50000000000"),  # the largest and the smallest factor
        (Field(0, "u16", scale_offset=2), "0005fff6", "0.0000000005"),
    ],
    ids=str,
)
def test_known_values(f: Field, wire: str, want: str) -> None:
    assert value(f, wire) == Decimal(want)


# field pains 31, 33, 36: what means "no reading" differs per type, is on by default, and is never a zero
@pytest.mark.parametrize(
    ("kind", "wire"),
    [
        ("u16", "ffff"),
        ("i16", "8000"),
        ("u32", "ffffffff"),
        ("i32", "80000000"),
        ("u64", "ffffffffffffffff"),
        ("i64", "8000000000000000"),
        ("f32", "7fc00000"),
        ("f32", "ff800000"),
        ("f64", "7ff8000000000000"),
        ("f16", "7e00"),
        ("bcd16", "12a4"),
        ("bcd32", "ffffffff"),
    ],
)
def test_sentinels_are_on_by_default(kind: str, wire: str) -> None:
    assert one(Field(0, kind), bytes.fromhex(wire)) == (0, 0, SENTINEL)
    off = one(Field(0, kind, sentinels=()), bytes.fromhex(wire))
    assert (off[2] == SENTINEL) == (kind[0] in "fb"), "NaN, infinities and no digits stay no reading"


def test_own_sentinels_replace_the_default() -> None:
    f = Field(0, "u16", sentinels=(0x7FFF, 0))
    assert [value(f, wire) for wire in ("7fff", "0000", "ffff")] == [None, None, 65535]


@pytest.mark.parametrize("wire", ["12348000", "12347fff", "1234000b"])
def test_a_scale_factor_that_means_nothing_takes_the_value_with_it(wire: str) -> None:
    assert value(Field(0, "u16", scale_offset=2), wire) is None


def test_range_marks_and_keeps() -> None:
    f = Field(0, "i16", scale=(1, -1), low=(0, 0), high=(5000, -1))
    assert [one(f, struct.pack(">h", n)) for n in (-1, 0, 5000, 5001)] == [
        (-1, -1, RANGE),
        (0, 0, 0),
        (5000, -1, 0),
        (5001, -1, RANGE),
    ]


@pytest.mark.parametrize(
    ("raw", "scale", "want"),
    [
        (1, (1, 0), "1"),
        (2, (1, 0), "0.02"),
        (99, (1, -2), "0.99"),
        (101, (1, -2), "0.0101"),
        (5 * 10**10, (999_999_999_999, -22), "0.04999999999995"),  # more than 64 bits until it is shortened
        (5 * 10**18, (2 * 10**18, -37), "1"),
        (0, (1, 3), "0"),
    ],
)
def test_a_share_above_one_is_in_percent(raw: int, scale: tuple[int, int], want: str) -> None:
    made = Plan(8)
    made.add(0, 0, "u64", scale=scale, share=True)
    ((_, mantissa, exponent, quality),) = made.values(raw.to_bytes(8, "big"))
    assert (Decimal(mantissa).scaleb(exponent), quality) == (Decimal(want), 0)


@given(
    st.integers(0, 65534),
    st.integers(0, 65535),
    st.sampled_from([(1, 3), (1000, 0), (1, 18), (1, 25), (7, -3)]),
    st.sampled_from([(1, 0), (1, -2), (1, -20)]),
    st.booleans(),
)
def test_parts_add_up(mwh: int, kwh: int, big: tuple[int, int], small: tuple[int, int], negate: bool) -> None:
    """An MWh and a kWh register make one counter; what cannot be added exactly in 128 bits is no reading."""
    made = Plan(4)
    made.add(5, 0, "u16", scale=big, part=True, negate=negate)
    made.add(5, 2, "u16", scale=small)
    ((point, mantissa, exponent, quality),) = made.values(struct.pack(">2H", mwh, kwh))
    want = exact(big) * mwh * (-1 if negate else 1) + exact(small) * kwh
    assert (point, made.points) == (5, (5,))
    if kwh == 0xFFFF or (quality == SENTINEL and not fits(want)):
        assert (mantissa, quality) == (0, SENTINEL)
    else:
        assert (mantissa * Fraction(10) ** exponent, quality) == (want, 0)


@pytest.mark.parametrize("is_float_first", [True, False])
def test_a_sum_with_a_float_is_rounded_to_64_bits_in_either_order_of_its_parts(is_float_first: bool) -> None:
    whole, tenth = (1 << 63 | 1).to_bytes(8), struct.pack(">f", 0.1)
    made = Plan(12)
    made.add(0, 0, "f32" if is_float_first else "u64", part=True)
    made.add(0, 4 if is_float_first else 8, "u64" if is_float_first else "f32")

    found = made.values(tenth + whole if is_float_first else whole + tenth)

    assert found == [(0, 1 << 63 | 1, 0, 0)]


def test_a_sentinel_in_any_part_wins() -> None:
    made = Plan(6)
    for at in (0, 2, 4):
        made.add(0, at, "u16", part=at < 4)
    for words in ((0xFFFF, 1, 2), (1, 0xFFFF, 2), (1, 2, 0xFFFF)):
        assert made.values(struct.pack(">3H", *words)) == [(0, 0, 0, SENTINEL)]
    assert made.values(struct.pack(">3H", 1, 2, 3)) == [(0, 6, 0, 0)]


def test_a_float_beyond_64_bits_keeps_its_leading_digits() -> None:
    m, e, q = one(Field(0, "f64", scale=(123456789, 0)), struct.pack(">d", 1.2345678901234567))
    assert q == 0
    assert math.isclose(m * 10.0**e, 1.2345678901234567 * 123456789, rel_tol=1e-15)
    assert one(Field(0, "f64", scale=(1, 10)), struct.pack(">d", 1e305)) == (0, 0, SENTINEL), "beyond every double"


def test_an_integer_beyond_64_bits_is_no_reading() -> None:
    assert one(Field(0, "u64", scale=(7, 0)), b"\xff" * 7 + b"\xfe") == (0, 0, SENTINEL)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"type": "u32", "offset": 22}, "beyond the payload"),
        ({"type": "u16", "offset": -1}, "beyond the payload"),
        ({"type": "u17"}, "unknown type; known are u16"),
        ({"type": "u16", "order": "ABCD"}, "order ABCD is for 4 bytes, u16 has 2 here"),
        ({"type": "u32", "order": "AB"}, "order AB is for 2 bytes"),
        ({"type": "u32", "order": "ABC-"}, "unknown order 'ABC-'"),
        ({"type": "u24", "order": "AB"}, "order AB is for 2 bytes"),
        ({"type": "u24", "sentinels": [0x1000000]}, "does not fit 24 bits"),
        ({"type": "i24", "bit": 24}, "bits 0 to 23"),
        ({"type": "u32", "order": "ABDC"}, "unknown order 'ABDC'"),
        ({"type": "bits", "size": 1, "order": "AB"}, "bits has 1 here"),
        ({"type": "bits"}, "size 1 to 8"),
        ({"type": "mod10k", "size": 3}, "2, 4, 6 or 8"),
        ({"type": "u16", "size": 4}, "u16 has 2 bytes"),
        ({"type": "u16", "bit": 16}, "bits 0 to 15"),
        ({"type": "u8l", "bit": 8}, "bits 0 to 7"),
        ({"type": "f32", "bit": 1}, "no bits to take"),
        ({"type": "bcd16", "mask": 1}, "no bits to take"),
        ({"type": "u16", "bit": 1, "mask": 2}, "exclude each other"),
        ({"type": "u16", "mask": 0x10000}, "wider than the 16 bits"),
        ({"type": "u16", "sentinels": [0x10000]}, "does not fit 16 bits"),
        ({"type": "u16", "scale": (0, 0)}, "scale of 0"),
        ({"type": "u16", "scale": (2**63, 0)}, "beyond 64 bits"),
        ({"type": "u16", "scale": (1, 301)}, "10\\*\\*300"),
        ({"type": "u16", "scale_offset": 23}, "scale factor at byte 23"),
        ({"type": "u16", "point": 65535}, "0 to 65534"),
        ({"type": "u16", "part": True, "low": (0, 0)}, "a part has no range"),
    ],
    ids=str,
)
def test_refuses_what_means_nothing(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Plan(LENGTH).add(**{"point": 4, "offset": 0} | arguments)  # type: ignore[arg-type]


def test_a_wrong_length_writes_nothing(one_ring: Ring) -> None:
    """A short answer is an error of the caller, never half a record."""
    made, head = plan(Field(0, "u16")), one_ring.head
    for size in (0, LENGTH - 1, LENGTH + 1):
        with pytest.raises(ValueError, match=f"answer of 24 bytes, got {size}"):
            made.decode_into(one_ring, bytes(size), 1, 2, 3, 4)
    with pytest.raises(ValueError, match="a reason is 128 or more, got 5"):
        made.decode_into(one_ring, bytes(LENGTH), 1, 2, 3, 4, absent=5)
    assert one_ring.head == head


def test_a_part_needs_the_field_that_emits() -> None:
    made = Plan(4)
    made.add(5, 0, "u16", part=True)
    with pytest.raises(ValueError, match="part of point 5"):
        made.values(bytes(4))
    with pytest.raises(ValueError, match="part of point 5"):
        made.add(6, 2, "u16")


def test_open_modbus_cases() -> None:
    """Every register decode that other projects assert (texts take another path)."""
    tried = 0
    for case in cases("modbus", "register-decode"):
        given_, want = case["input"], case["expected"].get("value")
        if given_["type"] == "str":
            continue
        wire, kind = bytes.fromhex(given_["bytes_hex"]), given_["type"]
        if kind == "bits":
            bits = [Field(0, "bits", given_["byte_order"], size=len(wire), bit=n) for n in range(len(wire) * 8)]
            got = [bool(one(f, wire)[0]) for f in bits]
        else:
            step = TYPES[kind][0]
            scale = Decimal(repr(given_["scale"])).as_tuple()
            pair = (int("".join(map(str, scale.digits))), int(scale.exponent))
            at = range(0, len(wire), step)
            three = [one(Field(o, kind, given_["byte_order"], scale=pair, sentinels=()), wire) for o in at]
            got = [float(f"{m}e{e}") for m, e, _ in three]
        assert got == pytest.approx(want if isinstance(want, list) else [want], rel=2e-6), case["id"]
        tried += 1
    assert tried > 50
