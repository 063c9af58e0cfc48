"""Writes JSON in the form of RFC 8785 (JCS), in plain Python. It is used for objects that a bridge re-serialised."""

from __future__ import annotations

from json.encoder import encode_basestring
from math import isfinite
from typing import Any, Final

MAX_SAFE: Final = 1 << 53


def canonical(value: Any) -> bytes:
    """Return the bytes of ``value`` as RFC 8785 writes it.

    Raises:
        ValueError: ``value`` contains NaN, an infinity, an integer that is not exact as a double, or a lone surrogate.
        TypeError: JSON cannot represent a value.
    """
    out: list[str] = []
    _write(value, out)
    return "".join(out).encode()


def number_text(value: float) -> str:
    """Return the text of a double as ECMAScript writes it (ECMA-262, Number::toString; RFC 8785 section 3.2.2.3)."""
    if not isfinite(value):
        raise ValueError("NaN and infinities are not JSON numbers")
    if value == 0:
        return "0"  # -0 is written as 0 too
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    if fraction == "0":
        fraction = ""
    point = len(whole) + int(exponent or 0)  # position of the decimal point in the digits
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        power = point - 1
        text = digits[0] + ("." + digits[1:] if count > 1 else "") + f"e{'+' if power > 0 else '-'}{abs(power)}"
    return "-" + text if value < 0 else text


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")


def _write(value: Any, out: list[str]) -> None:
    if isinstance(value, str):
        out.append(encode_basestring(value))
    elif value is None:
        out.append("null")
    elif isinstance(value, bool):
        out.append("true" if value else "false")
    elif isinstance(value, int):
        out.append(str(value) if -MAX_SAFE <= value <= MAX_SAFE else _large(value))
    elif isinstance(value, float):
        out.append(number_text(value))
    elif isinstance(value, dict):
        names = sorted(value) if all(map(str.isascii, value)) else sorted(value, key=_utf16)
        between = "{"
        for name in names:
            out.append(between + encode_basestring(name) + ":")
            _write(value[name], out)
            between = ","
        out.append("}" if names else "{}")
    elif isinstance(value, (list, tuple)):
        between = "["
        for item in value:
            out.append(between)
            _write(item, out)
            between = ","
        out.append("]" if value else "[]")
    else:
        raise TypeError(f"{type(value).__name__} is not a JSON value")


def _large(value: int) -> str:
    text = number_text(float(value))
    if text != str(value):
        raise ValueError(f"{value} is beyond 2^53 and not an exact double")
    return text
