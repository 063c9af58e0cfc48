"""A figure with all its inputs, computed exactly, and its form in a pack.

Arithmetic uses fractions. A figure is rounded only once, when it is written: to twelve significant digits, half to
even. So two computers that start from the same readings write the same text.
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
    """A period of local time. It is ``[start_ms, end_ms)`` in UTC ms."""

    kind: PeriodKind
    start_ms: int
    end_ms: int
    label: str  # name of the day, month or year, such as 2026-11-24, 2026-11 or 2026
    year: int
    year_ms: int  # length of the calendar year; thresholds that are defined per year need it
    until_ms: int  # values exist up to here: the end of the period, or now if the period has not ended

    def as_dict(self) -> dict[str, Any]:
        """Return the period as the object in a pack. Times are in seconds."""
        return {
            "from": seconds(self.start_ms),
            "kind": self.kind,
            "label": self.label,
            "to": seconds(self.end_ms),
            "until": seconds(self.until_ms),
        }

    @property
    def elapsed_ms(self) -> int:
        """The length of the part of the period that is past, in ms. It is never 0."""
        return max(min(self.until_ms, self.end_ms) - self.start_ms, 1)


@dataclass(frozen=True, slots=True)
class Amount:
    """One input of a figure: its value in base units, and how much of it is known. Shares are 0 to 1."""

    name: str
    value: Fraction
    unit: Unit
    basis: Basis
    completeness: Fraction = Fraction(1)
    estimated: Fraction = Fraction(0)
    sources: tuple[Source, ...] = ()  # of a metered input: the packs and readings that it comes from
    entries: tuple[str, ...] = ()  # the ids of the declarations that it comes from
    note: str = ""  # the reason why it is absent or assumed
    # (stream, point) of each counter of which no interval in the period is known
    silent: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Contribution:
    """A part of a figure, shown in reports as a cause of a bad value.

    The parts are those in ``weighs`` of the definition. Without ``weighs``, they are the summands of the numerator.
    """

    name: str  # the name of a term or an input
    value: Fraction  # base units
    unit: Unit


@dataclass(frozen=True, slots=True)
class Figure:
    """One indicator over one period."""

    indicator: Indicator
    period: Period
    # in base units, like numerator and denominator; None if an input is missing or a divisor is 0
    value: Fraction | None
    numerator: Fraction | None
    denominator: Fraction | None
    threshold: tuple[str, str] | None  # the bound that the value is compared with, such as ("at_most", "0.2")
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
        """The value in the indicator's unit, as text; "" if there is no value."""
        return "" if self.value is None else decimal_text(self.value / self.indicator.unit.factor)

    def as_dict(self, config: str) -> dict[str, Any]:
        """Return the figure as a member of a pack's ``results``.

        It consists only of strings, whole numbers, booleans, lists and objects.
        """
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
        if amount.estimated:  # a declared amount extends beyond the period and counts in proportion to time
            plain["estimated"] = decimal_text(amount.estimated)
    if amount.note:
        plain["note"] = amount.note
    return plain


def decimal_text(value: Fraction) -> str:
    """Return plain decimal digits without trailing zeros: at most twelve significant digits, rounded half to even."""
    rounded = _CONTEXT.divide(Decimal(value.numerator), Decimal(value.denominator))
    return exact_text(rounded) if rounded else "0"
