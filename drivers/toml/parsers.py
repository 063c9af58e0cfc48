"""Parsers of single TOML values: texts, numbers, choices, durations. An invalid value raises ``InvalidValue``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from drivers.model import clean_text

_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([A-Za-zµ]*)\Z")
_MS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_MS_NEAR = {"m": "min", "sec": "s", "secs": "s", "second": "s", "seconds": "s", "mins": "min", "minute": "min"}
_MS_NEAR |= {"minutes": "min", "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "day": "d", "days": "d", "msec": "ms"}


class InvalidValue(Exception):
    """A value is invalid. The error contains the value that was found and the value that was expected."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def show(value: object) -> str:
    """Show a value of the file so that the user recognizes it. The text is short, and safe on a terminal."""
    if isinstance(value, str):
        return f'"{clean_text(value, 60)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)):
        return clean_text(str(value), 40)
    if isinstance(value, list):
        return f"a list of length {len(value)}"
    if isinstance(value, dict):
        return "a table {...}"
    return clean_text(str(value), 40)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant. "" if no known name is close."""
    choices = {k.lower(): k for k in known}
    found = get_close_matches(name.lower()[:80], list(choices), n=1, cutoff=0.6)
    return choices[found[0]] if found else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name. "" if no known name is close."""
    near = nearest(name, known)
    return f'Did you mean "{near}"?' if near else ""


def did_you_mean(name: str, known: Iterable[str], what: str = "Known") -> str:
    """A hint with the nearest known name. If no known name is close, the hint lists all of them."""
    known = sorted(known)
    return suggestion(name, known) or f"{what}: {', '.join(known)}"


def text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValue(f"{show(value)} is not text", f'Write the value in quotes: "{clean_text(str(value), 40)}"')
    return value


def label(value: object) -> str:
    """Parse a free text for people: at most 200 characters, without control characters."""
    out = text(value)
    if len(out) > 200 or not out.isprintable():
        raise InvalidValue(f"{show(value)} is not a valid label", "Write at most 200 printable characters on one line")
    return out


def matching(pattern: re.Pattern[str], what: str, hint: str) -> Callable[[object], str]:
    """A parser of texts that match ``pattern`` completely."""

    def parse(value: object) -> str:
        out = text(value)
        if not pattern.match(out):
            raise InvalidValue(f"{show(value)} is not {what}", hint)
        return out

    return parse


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue(f"{show(value)} is neither true nor false", "Write true or false, without quotes")
    return value


def whole(low: int, high: int) -> Callable[[object], int]:
    """A parser of whole numbers from ``low`` to ``high``."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidValue(
                f"{show(value)} is not a whole number", f"Write a number from {low} to {high}, without quotes"
            )
        if not low <= value <= high:
            raise InvalidValue(f"{show(value)} is out of range", f"Allowed: {low} to {high}")
        return value

    return parse


def number(value: object) -> Decimal:
    """Parse a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or not Decimal(value).is_finite():
        raise InvalidValue(f"{show(value)} is not a number", "Write the number without quotes")
    return Decimal(value)


def of_types(types: tuple[type, ...], wanted: str) -> Callable[[object], Any]:
    """A parser that accepts values of these types and returns them unchanged. A bool does not count as an int.

    ``wanted`` names the types in the complaint.
    """

    def parse(value: object) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise InvalidValue(f"{show(value)} is not {wanted}")
        return value

    return parse


def choice(*allowed: str) -> Callable[[object], str]:
    """A parser that accepts only the ``allowed`` words."""

    def parse(value: object) -> str:
        out = text(value)
        if out not in allowed:
            raise InvalidValue(f"unknown value {show(value)}", did_you_mean(out, allowed, "Allowed"))
        return out

    return parse


def duration_ms(low_ms: int, high_ms: int, example: str = "10 s") -> Callable[[object], int]:
    """A parser of durations such as ``"1.5 s"``, within limits. It returns milliseconds. Units: ms, s, min, h, d."""

    def parse(value: object) -> int:
        ms = _milliseconds(value, example)
        if ms != int(ms):
            raise InvalidValue(f"{show(value)} is finer than a millisecond", "Write whole milliseconds only")
        if not low_ms <= ms <= high_ms:
            raise InvalidValue(f"{show(value)} is out of range", f"Allowed: {show_ms(low_ms)} to {show_ms(high_ms)}")
        return int(ms)

    return parse


def number_and_unit(value: object, noun: str, example: str) -> tuple[str, str]:
    """Split ``"8 GiB"`` into ("8", "GiB"). The unit may be missing. ``noun`` names the value in errors, such as "a
    duration".

    Raises InvalidValue.
    """
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        raise InvalidValue(f"{show(value)} has no unit", f'Write {noun} in quotes, such as "{example}"')
    found = _NUMBER_AND_UNIT.match(text(value).strip())
    if not found:
        raise InvalidValue(f"{show(value)} is not {noun}", f'Write a number and a unit, such as "{example}"')
    return found[1], found[2]


def _milliseconds(value: object, example: str) -> Decimal:
    count, unit = number_and_unit(value, "a duration", example)
    if unit not in _MS:
        near = (unit if unit.lower() in _MS else _MS_NEAR.get(unit.lower(), "")).lower()
        what = f'"{clean_text(unit, 20)}" is not a unit of time' if unit else f"{show(value)} has no unit"
        right = f'Write "{count} {near}"' if near else f'Write for example "{example}"'
        raise InvalidValue(what, f"{right}; units are ms, s, min, h, d")
    return Decimal(count) * _MS[unit]


def seconds(value: object) -> float:
    """Parse a duration such as ``"20 ms"`` to seconds, without limits."""
    return float(_milliseconds(value, "20 ms") / 1000)


def duration_s(low_ms: int, high_ms: int, example: str = "0.5 s") -> Callable[[object], float]:
    """Like ``duration_ms``, but the parser returns seconds."""
    parse_ms = duration_ms(low_ms, high_ms, example)
    return lambda value: parse_ms(value) / 1000


def show_ms(ms: int) -> str:
    """Format a duration as in agent.toml: a whole number in the largest possible unit."""
    for unit in ("d", "h", "min", "s"):
        if ms and ms % _MS[unit] == 0:
            return f"{ms // _MS[unit]} {unit}"
    return f"{Decimal(ms) / 1000} s" if ms >= 1000 else f"{ms} ms"
