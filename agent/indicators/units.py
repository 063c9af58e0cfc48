"""Units of figures, with exact factors and dimensions, so that kWh and GJ can be added, but kWh and m3 cannot.

Coal equivalent (``ce``), carbon dioxide (``CO2``) and carbon (``C``) are separate dimensions. No unit converts one of
them to another: only a factor with an id does. ``Nm3`` (gas at standard conditions) has another dimension than ``m3``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

Dimension = tuple[tuple[str, int], ...]  # pairs (base unit, exponent), sorted; () is a plain number
NUMBER: Dimension = ()


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit.

    ``factor``: the value of 1 of this unit in base units (J, s, kg, m3, Nm3, m2, kg CO2, kg C, kg coal equivalent).
    """

    text: str
    factor: Fraction
    dimension: Dimension


def _prefixed(name: str, factor: int, base: Dimension, prefixes: str) -> dict[str, tuple[Fraction, Dimension]]:
    powers = {"-": 0, "k": 3, "M": 6, "G": 9, "T": 12}
    return {f"{p.strip('-')}{name}": (Fraction(factor * 10 ** powers[p]), base) for p in prefixes}


_ENERGY: Dimension = (("J", 1),)
_POWER: Dimension = (("J", 1), ("s", -1))
_ATOMS: dict[str, tuple[Fraction, Dimension]] = {
    **_prefixed("J", 1, _ENERGY, "-kMGT"),
    **_prefixed("Wh", 3600, _ENERGY, "-kMGT"),
    **_prefixed("W", 1, _POWER, "-kMG"),
    "s": (Fraction(1), (("s", 1),)),
    "min": (Fraction(60), (("s", 1),)),
    "h": (Fraction(3600), (("s", 1),)),
    "d": (Fraction(86400), (("s", 1),)),
    "g": (Fraction(1, 1000), (("kg", 1),)),
    "kg": (Fraction(1), (("kg", 1),)),
    "t": (Fraction(1000), (("kg", 1),)),
    "l": (Fraction(1, 1000), (("m3", 1),)),
    "m3": (Fraction(1), (("m3", 1),)),
    "Nm3": (Fraction(1), (("Nm3", 1),)),
    "m2": (Fraction(1), (("m2", 1),)),
    "K": (Fraction(1), (("K", 1),)),
    "%": (Fraction(1, 100), NUMBER),
    "1": (Fraction(1), NUMBER),
    "": (Fraction(1), NUMBER),
}
for _what in ("CO2", "C", "ce"):
    _ATOMS |= {
        f"{name}{_what}": (Fraction(size, 1000), ((f"kg{_what}", 1),))
        for name, size in (("g", 1), ("kg", 1000), ("t", 1_000_000))
    }
_POWER_OF_TEN = re.compile(r"10\^([1-9])(?=[A-Za-z])")  # for units like 10^4Nm3, the unit of gas in Chinese tables


def multiply(left: Dimension, right: Dimension, sign: int = 1) -> Dimension:
    """Return the dimension of the product of two dimensions, or, with ``sign`` -1, of their quotient."""
    exponents = dict(left)
    for base, exponent in right:
        exponents[base] = exponents.get(base, 0) + sign * exponent
    return tuple(sorted((base, n) for base, n in exponents.items() if n))


def parse_unit(text: str) -> Unit:
    """Parse a unit such as ``kWh``, ``tCO2/tce``, ``GJ/10^4Nm3``.

    It may have products with ``*``, and at most one ``/``.

    Raises ValueError, which names the unknown part.
    """
    above, slash, below = text.partition("/")
    factor, dimension = _product(above)
    if slash:
        if not below or "/" in below:
            raise ValueError(f"unit {text!r}: expected only one /, with a unit after it")
        divisor, other = _product(below)
        factor, dimension = factor / divisor, multiply(dimension, other, -1)
    return Unit(text, factor, dimension)


def _product(text: str) -> tuple[Fraction, Dimension]:
    factor, dimension = Fraction(1), NUMBER
    for part in text.split("*"):
        scaled = _POWER_OF_TEN.match(part)
        atom = part[scaled.end() :] if scaled else part
        if atom not in _ATOMS:
            raise ValueError(f"unknown unit {part!r}; known units are {', '.join(sorted(filter(None, _ATOMS)))}")
        size, base = _ATOMS[atom]
        factor *= size * (10 ** int(scaled[1]) if scaled else 1)
        dimension = multiply(dimension, base)
    return factor, dimension


_NAMES: Mapping[str, str] = {
    "J": "energy",
    "kg": "mass",
    "m3": "volume",
    "Nm3": "gas volume",
    "m2": "area",
    "s": "time",
}
_NAMES = {**_NAMES, "kgCO2": "CO2", "kgC": "carbon", "kgce": "coal equivalent", "K": "temperature"}


def show_dimension(dimension: Dimension) -> str:
    """Return a dimension in words, such as ``energy``, ``CO2 per coal equivalent``, ``a plain number``."""

    def words(sign: int) -> str:
        parts = [_NAMES.get(b, b) + (f"^{abs(n)}" if abs(n) > 1 else "") for b, n in dimension if n * sign > 0]
        return " times ".join(parts)

    if dimension == _POWER:
        return "power"
    if not dimension:
        return "a plain number"
    return (words(1) or "1") + (f" per {words(-1)}" if words(-1) else "")
