"""A figure with all its inputs, computed exactly, and its form in a pack.

Arithmetic uses fractions. A figure is rounded only once, when it is written: half to even, to twelve significant
digits. So two computers that start from the same readings write the same text.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any, Final, Literal

from agent.indicators.definitions import PeriodKind
from agent.indicators.factors import FactorEntry
from agent.indicators.plan import Indicator
from agent.indicators.units import Unit
from agent.intervals.rows import Source
from agent.pack import seconds
from drivers.encoding import exact_text

Basis = Literal["metered", "declared", "assumed", "absent"]
Verdict = Literal["met", "not met", "no threshold", "no data"]
DIGITS: Final = 12
_CONTEXT = Context(prec=DIGITS, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Period:
    """A period of local time, ``[start_ms, end_ms)`` in UTC ms."""

    kind: PeriodKind
    start_ms: int
    end_ms: int
    label: str  # 2026-11-24, 2026-11, 2026
    year: int
    year_ms: int  # length of the calendar year, for thresholds that are defined per year
    until_ms: int  # values exist up to here: the end, or now

    def as_dict(self) -> dict[str, Any]:
        """The object in a pack. Times are seconds."""
        return {
            "from": seconds(self.start_ms),
            "kind": self.kind,
            "label": self.label,
            "to": seconds(self.end_ms),
            "until": seconds(self.until_ms),
        }

    @property
    def elapsed_ms(self) -> int:
        """The part of the period that is past, never 0."""
        return max(min(self.until_ms, self.end_ms) - self.start_ms, 1)


@dataclass(frozen=True, slots=True)
class Amount:
    """One input of a figure: its value in base units, and how well it is known. Shares are 0 to 1."""

    name: str
    value: Fraction
    unit: Unit
    basis: Basis
    completeness: Fraction = Fraction(1)
    estimated: Fraction = Fraction(0)
    sources: tuple[Source, ...] = ()  # of a metered input
    entries: tuple[str, ...] = ()  # ids of declarations
    note: str = ""  # why it is absent or assumed
    silent: tuple[tuple[str, str], ...] = ()  # (stream, point) of counters without any known interval in the period


@dataclass(frozen=True, slots=True)
class Contribution:
    """A cause of a bad value, for reports: from ``weighs`` of the definition, otherwise a summand of the numerator."""

    name: str  # of a term or an input
    value: Fraction  # base units
    unit: Unit


@dataclass(frozen=True, slots=True)
class Figure:
    """One indicator over one period. ``value`` is None if an input is missing or the denominator is 0."""

    indicator: Indicator
    period: Period
    value: Fraction | None  # in base units, like numerator and denominator
    numerator: Fraction | None
    denominator: Fraction | None
    threshold: tuple[str, str] | None  # ("at_most", "0.2")
    verdict: Verdict
    official: bool
    completeness: Fraction
    estimated: Fraction
    inputs: tuple[Amount, ...]
    missing: tuple[str, ...]
    factors: tuple[FactorEntry, ...]
    parts: tuple[Contribution, ...] = ()

    @property
    def shown(self) -> str:
        """The value in the indicator's unit; "" if there is none."""
        return "" if self.value is None else decimal_text(self.value / self.indicator.unit.factor)

    def as_dict(self, config: str) -> dict[str, Any]:
        """The member of a pack's ``results``: only strings, whole numbers, booleans and lists and objects of them."""
        one = self.indicator
        plain: dict[str, Any] = {
            "completeness": decimal_text(self.completeness),
            "config": config,
            "estimated": decimal_text(self.estimated),
            "factors": [_factor(entry) for entry in self.factors],
            "formula": {"hash": one.hash, "numerator": one.numerator.text},
            "id": one.name,
            "inputs": [_input(amount) for amount in self.inputs],
            "kind": "figure",
            "official": self.official,
            "period": self.period.as_dict(),
            "u": one.unit.text,
            "verdict": self.verdict,
        }
        if one.denominator is not None:
            plain["formula"]["denominator"] = one.denominator.text
        if self.value is not None:
            plain["v"] = self.shown
        if self.numerator is not None:
            plain["numerator"] = _value(self.numerator, one.numerator_unit)
        if self.denominator is not None and one.denominator_unit is not None:
            plain["denominator"] = _value(self.denominator, one.denominator_unit)
        if self.threshold is not None:
            plain["threshold"] = dict([self.threshold])
        if self.missing:
            plain["missing"] = list(self.missing)
        return plain


def _value(base: Fraction, unit: Unit) -> dict[str, str]:
    return {"u": unit.text, "v": decimal_text(base / unit.factor)}


def _factor(entry: FactorEntry) -> dict[str, str]:
    plain = {"id": entry.name, "source": entry.source, "status": entry.status, "u": entry.unit.text, "v": entry.text}
    return plain | ({"published": entry.published} if entry.published else {})


def _input(amount: Amount) -> dict[str, Any]:
    plain: dict[str, Any] = {"basis": amount.basis, "n": amount.name, **_value(amount.value, amount.unit)}
    if amount.basis == "metered":
        plain |= {"completeness": decimal_text(amount.completeness), "estimated": decimal_text(amount.estimated)}
        plain["from"] = [
            {"first": one.first_seq, "last": one.last_seq, "point": one.point, "stream": one.stream}
            for one in amount.sources
        ]
    if amount.silent:
        plain["silent"] = [{"point": point, "stream": stream} for stream, point in amount.silent]
    if amount.entries:
        plain["entries"] = list(amount.entries)
        if amount.estimated:  # an entry extends beyond the period and counts in proportion to time
            plain["estimated"] = decimal_text(amount.estimated)
    if amount.note:
        plain["note"] = amount.note
    return plain


def decimal_text(value: Fraction) -> str:
    """Plain decimal digits without trailing zeros, at most twelve significant ones, rounded half to even."""
    rounded = _CONTEXT.divide(Decimal(value.numerator), Decimal(value.denominator))
    return exact_text(rounded) if rounded else "0"
