"""Where counters end, and what registers hold that hold nothing: widths that are usual, in counts of the device."""

from __future__ import annotations

from decimal import Decimal

_BITS = (15, 16, 24, 31, 32, 48, 63, 64)
_NINES = frozenset(10**digits - 1 for digits in range(5, 20))
# all ones; and the lowest number of a signed register, for those who read it unsigned
_ONES = frozenset([(1 << bits) - 1 for bits in _BITS] + [1 << 15, 1 << 31, 1 << 63])
_ENDS = tuple(Decimal(1 << bits) for bits in (16, 24, 31, 32, 48, 63, 64))
_DECIMAL_ENDS = tuple(Decimal(10) ** digits for digits in range(4, 13))
_SIGNED_ENDS = tuple(Decimal(1 << bits) for bits in (16, 32, 64))
MOST_COUNTS = Decimal(1 << 65)  # what no register holds


def _whole(raw: Decimal) -> int | None:
    return int(raw) if 0 <= raw < MOST_COUNTS and raw == raw.to_integral_value() else None


def is_all_nines(raw: Decimal) -> bool:
    """99999 and longer: what is left of BCD digits that are none, and the last count of a display."""
    return _whole(raw) in _NINES


def is_all_ones(raw: Decimal) -> bool:
    """All ones, all nines, the lowest signed number: what devices send for "not available"."""
    whole = _whole(raw)
    return raw >= MOST_COUNTS or whole in _ONES or whole in _NINES  # no register holds more: a float that is none


def is_nearly_full(raw: Decimal) -> bool:
    """All ones as a float rounds them, or an unsigned register that went a little below zero (# field pain 35)."""
    for bits in _BITS:
        end = 1 << bits
        away = end / 400 if bits in (31, 32, 63, 64) else max(end >> 12, 16)
        # a float may round up, and so may whoever writes 4.3e8; narrow registers are exact
        if -away <= raw - end <= (away if bits > 30 else 0):
            return True
    return False


def natural_end(level: Decimal, value: Decimal, resolution: Decimal) -> Decimal | None:
    """Where a counter of undeclared width may have passed its end: it stood right before one, and is right after it."""
    for ends, share in ((_ENDS, 200), (_DECIMAL_ENDS, 1000)):
        for end in ends:
            modulus = end * resolution
            if modulus - modulus / share < level < modulus and value < modulus / share:
                return modulus
    return None


def signed_end(level: Decimal, value: Decimal, resolution: Decimal, modulus: Decimal | None) -> Decimal | None:
    """The range of a counter that is read as a signed number, if it went from its highest to its lowest."""
    for end in _SIGNED_ENDS:
        span = end * resolution
        half = span / 2
        if modulus in (None, span) and half * 199 / 200 < level < half and -half <= value < -half * 199 / 200:
            return span
    return None
