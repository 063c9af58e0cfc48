"""Converts numbers and bytes to text. Each number and each byte string has exactly one text."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from decimal import Decimal


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
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def base64url_decode(text: str | bytes) -> bytes:
    """Decode base64url text that this program wrote itself. Raises ValueError.

    Does not check the unused bits of the last character; the verifier checks them.
    """
    padding = "=" if isinstance(text, str) else b"="
    return urlsafe_b64decode(text + padding * (-len(text) % 4))  # type: ignore[operator]
