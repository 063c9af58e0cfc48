"""Factors of data years: emission factors, calorific values and coal equivalents.

They come with the program, or from a site's plan.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from agent.indicators.units import Unit, parse_unit
from drivers.toml import InvalidValue, show

Status = Literal["official", "quoted", "assumed"]


class EntryText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One published value as written in TOML. ``value`` is text: a decimal number, or a quotient of whole numbers.

    ``year`` is the year of the data. ``published`` is the date of the publication; "" if it is not known.
    """

    year: int
    value: str
    status: Status
    source: str
    published: str = ""


class FactorText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One factor as written in TOML."""

    id: str
    unit: str
    title: dict[str, str]
    entry: list[EntryText]


class FactorFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file of factors."""

    schema: Literal[1]
    factor: list[FactorText]


@dataclass(frozen=True, slots=True)
class FactorEntry:
    """One published value. ``text`` is the value as it was published, and ``base`` is the same value in base units."""

    id: str
    year: int
    text: str
    unit: Unit
    base: Fraction
    status: Status
    source: str
    published: str = ""  # date of the publication, such as 2025-12-31; "" if unknown

    @property
    def name(self) -> str:
        """The name by which a figure refers to this entry, such as ``power.fossil.cn@2022``."""
        return f"{self.id}@{self.year}"


@dataclass(frozen=True, slots=True)
class Factor:
    """All entries of one factor, in order of their years; the newest comes last."""

    id: str
    unit: Unit
    title: Mapping[str, str]
    entries: tuple[FactorEntry, ...]

    def of_year(self, year: int, pinned: int | None = None) -> FactorEntry:
        """Return the entry for a year.

        This is the pinned entry, if there is one. Otherwise it is the newest entry whose data year is not after
        ``year``, or, if all are after it, the oldest entry.
        """
        if pinned is not None:
            return next(entry for entry in self.entries if entry.year == pinned)
        fitting = [entry for entry in self.entries if entry.year <= year]
        return fitting[-1] if fitting else self.entries[0]


def make_factor(text: FactorText) -> Factor:
    """Check a factor as written in TOML, and return it as a Factor. Raises InvalidValue."""
    try:
        unit = parse_unit(text.unit)
        entries = [
            FactorEntry(text.id, e.year, e.value, unit, _number(e.value) * unit.factor, e.status, e.source, e.published)
            for e in text.entry
        ]
    except (ValueError, ZeroDivisionError) as error:
        raise InvalidValue(str(error), 'A value is text, such as "0.8325" or "44/12"') from None
    for entry in entries:
        _check_date(entry.published)
    years = [entry.year for entry in entries]
    if not years or len(set(years)) != len(years):
        raise InvalidValue("needs at least one entry, and one per year only")
    return Factor(text.id, unit, text.title, tuple(sorted(entries, key=lambda entry: entry.year)))


_PLAIN = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?(?:/\d{1,20})?")


def _number(text: str) -> Fraction:
    """Return an exact number. Quotients are allowed, because 44/12 has no finite decimal form. Raises ValueError."""
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{show(text)} is not a plain number")
    above, slash, below = text.partition("/")
    return Fraction(above) / (int(below) if slash else 1)


def _check_date(text: str) -> None:
    try:
        right = not text or date.fromisoformat(text).isoformat() == text
    except ValueError:
        right = False
    if not right:
        raise InvalidValue(f"published = {show(text)} is not a date", 'Write it as "2025-12-31"')


@cache
def shipped() -> Mapping[str, Factor]:
    """Return the factors that come with the program."""
    made: dict[str, Factor] = {}
    folder = resources.files("agent.indicators") / "tables"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            content = msgspec.convert(tomllib.loads(file.read_text("utf-8")), FactorFile)
            made |= {one.id: make_factor(one) for one in content.factor}
    return made
