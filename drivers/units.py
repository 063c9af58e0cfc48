"""Factors from a device's unit to the profile's unit. They are powers of ten, except between units of time, which have
other whole factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal


def _family(unit: str, first: int, prefixes: str) -> dict[str, tuple[str, int]]:
    """Entries for ``_POWERS``. The first prefix means 10**``first``, and each next prefix is 1000 times larger.

    The prefix "-" stands for no prefix.
    """
    return {f"{p.strip('-')}{unit}": (unit, first + 3 * n) for n, p in enumerate(prefixes)}


_POWERS: dict[str, tuple[str, int]] = {}  # unit -> (family of units, power of ten)
for _unit in ("W", "VA", "var", "Wh", "VAh", "varh", "J"):
    _POWERS |= _family(_unit, 0, "-kMG")
for _unit in ("V", "A", "Ah", "Hz", "Ohm"):
    _POWERS |= _family(_unit, -6, "um-kM")
_POWERS |= {"Pa": ("Pa", 0), "hPa": ("Pa", 2), "mbar": ("Pa", 2), "kPa": ("Pa", 3), "bar": ("Pa", 5), "MPa": ("Pa", 6)}
_POWERS |= {"m3": ("m3", 0), "l": ("m3", -3), "ml": ("m3", -6), "m3/h": ("m3/h", 0), "l/h": ("m3/h", -3)}
_POWERS |= {"m3/s": ("m3/s", 0), "l/s": ("m3/s", -3), "m3/min": ("m3/min", 0), "l/min": ("m3/min", -3)}
_POWERS |= {"g": ("g", 0), "kg": ("g", 3), "t": ("g", 6), "kg/h": ("kg/h", 0), "t/h": ("kg/h", 3)}
_POWERS |= {"": ("", 0), "%": ("", -2), "s": ("s", 0), "ms": ("s", -3)}
_SECONDS: Mapping[str, int] = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def unit_factor(have: str, want: str) -> Decimal | None:
    """The factor from ``have`` to ``want``. None if there is no factor, or no exact factor.

    Units of time have whole factors. All other factors are powers of ten: kWh is never converted to GJ.
    """
    if have == want:
        return Decimal(1)
    if have in _SECONDS and want in _SECONDS:
        whole, rest = divmod(_SECONDS[have], _SECONDS[want])
        return None if rest else Decimal(whole)
    (family, power), (other, wanted) = _POWERS.get(have, (have, 0)), _POWERS.get(want, (want, 0))
    return Decimal(1).scaleb(power - wanted) if family == other else None
