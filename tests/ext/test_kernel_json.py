"""Numbers, strings and objects in the form of RFC 8785, against the RFC's own list and an independent library."""

from __future__ import annotations

import json
import math
import struct
from enum import IntEnum, StrEnum

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ext.canon import RawJson, dumps, number, quote

# RFC 8785 appendix B: IEEE 754 bits and their ECMAScript serialisation
APPENDIX_B = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), APPENDIX_B.items())
def test_the_numbers_of_the_rfc(bits: str, text: str) -> None:
    assert dumps(struct.unpack(">d", bytes.fromhex(bits))[0]) == text.encode()


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_no_json_number(bits: str) -> None:
    with pytest.raises(ValueError, match="not a JSON number"):
        dumps(struct.unpack(">d", bytes.fromhex(bits))[0])


@pytest.mark.parametrize(
    ("mantissa", "exponent", "text"),
    [
        (-1500, 0, "-1500"),
        (2301, -1, "230.1"),
        (23010, -2, "230.1"),
        (0, -5, "0"),
        (1, -6, "0.000001"),
        (1, -7, "1e-7"),
        (12, -8, "1.2e-7"),
        (1, 20, "100000000000000000000"),
        (1, 21, "1e+21"),
        (123, 19, "1.23e+21"),
        (123, 18, "123000000000000000000"),
        (999999999999999, 6, "999999999999999000000"),
        (2**53 + 1, 0, "9007199254740992"),
        (2**64 - 1, 0, "18446744073709552000"),
        (-(2**63), 0, "-9223372036854776000"),
        (3, -324, "5e-324"),
        (2, -324, "0"),
        (10**400, -400, "1"),
    ],
)
def test_decimals_to_numbers(mantissa: int, exponent: int, text: str) -> None:
    assert number(mantissa, exponent) == text.encode()


def test_beyond_every_double() -> None:
    with pytest.raises(ValueError, match="beyond every double"):
        number(18, 307)


floats = st.floats(allow_nan=False, allow_infinity=False)


@given(floats | st.integers(0, 2**64 - 1).map(lambda n: struct.unpack(">d", n.to_bytes(8))[0]).filter(math.isfinite))
def test_every_double_agrees_with_the_library(value: float) -> None:
    assert dumps(value) == rfc8785.dumps(value)


@given(st.integers(-(2**63), 2**64 - 1), st.integers(-340, 280))
def test_every_decimal_agrees_with_the_library(mantissa: int, exponent: int) -> None:
    assert number(mantissa, exponent) == rfc8785.dumps(float(f"{mantissa}e{exponent}"))


texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | floats | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5) | st.tuples(inner, inner),
    max_leaves=25,
)


@given(values)
def test_any_value_agrees_with_the_library(value: object) -> None:
    assert dumps(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(texts)
def test_strings(text: str) -> None:
    assert quote(text) == rfc8785.dumps(text)
    assert json.loads(quote(text)) == text


def test_every_control_character_and_the_dangerous_others() -> None:
    text = "".join(map(chr, range(0x100))) + "\u2028\u2029\ufeff\uffff\U0001f600/\\\"'<>"
    assert quote(text) == rfc8785.dumps(text)


def test_keys_are_sorted_by_utf_16() -> None:
    """U+1F600 is D83D DE00 there, and so comes before U+FB33, which is smaller as a code point (RFC 8785, 3.2.3)."""
    value = {"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "\r": 4, "1": 5, "\u0080": 6, "\u00f6": 7, "": 8}
    assert dumps(value) == rfc8785.dumps(value)
    assert list(json.loads(dumps(value)).values()) == [8, 4, 5, 6, 7, 3, 2, 1]


class Level(IntEnum):
    HIGH = 3


class Name(StrEnum):
    PV = "pv"


def test_subclasses_and_raw() -> None:
    assert dumps({Name.PV: [Level.HIGH, Name.PV, True, False, None, RawJson(b'[{"n":1}]')]}) == (
        b'{"pv":[3,"pv",true,false,null,[{"n":1}]]}'
    )


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (2**53, "beyond 2\\*\\*53"),
        (-(2**53), "beyond 2\\*\\*53"),
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ({1: 1}, "a key must be a str, got 1"),
        (b"bytes", "bytes is not a JSON value"),
        ({1, 2}, "set is not a JSON value"),
        ([[math.nan]], "nan is not a JSON number"),
    ],
)
def test_refuses(value: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dumps(value)


def test_nesting_has_an_end() -> None:
    deep: list[object] = []
    deep.append(deep)
    with pytest.raises(ValueError, match="nested deeper"):
        dumps(deep)
    fine: object = 1
    for _ in range(60):
        fine = [fine]
    assert json.loads(dumps(fine)) == fine
