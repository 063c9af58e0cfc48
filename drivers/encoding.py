"""Converts numbers and bytes to text. Each number and each byte string has exactly one text."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from decimal import Decimal

_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")


def exact_text(value: Decimal | int) -> str:
    """Write a number with all its digits, but without exponent. Zeros at the end of the decimals are left out."""
    text = format(Decimal(value), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def bcd_digits(raw: bytes) -> str | None:
    """The digits of packed BCD, low byte first. None if ``raw`` is empty, or if a half byte is not a decimal digit."""
    digits = raw[::-1].hex()
    return digits if digits.isdecimal() else None


def base64url(raw: bytes) -> str:
    """Encode bytes as base64url: RFC 4648 section 5 without padding, the form that JOSE uses."""
    return base64url_bytes(raw).decode()


def base64url_bytes(raw: bytes) -> bytes:
    """Like ``base64url``, but the text is ASCII bytes."""
    return b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=")


def base64url_decode(text: str | bytes) -> bytes:
    """Decode base64url text that this program wrote itself. Raises ValueError.

    Does not check the unused bits of the last character; the verifier checks them.
    """
    data = text.encode("ascii") if isinstance(text, str) else text
    return a2b_base64(data.translate(_FROM_URL) + b"=" * (-len(data) % 4))
