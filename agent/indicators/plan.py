"""A park's plan with everything resolved: formulas as trees with checked units, dated factors, thresholds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from agent.indicators import expression
from agent.indicators.definitions import (
    IndicatorText,
    InputText,
    PeriodKind,
    PlanText,
    SetText,
    TermText,
    ThresholdText,
    decimal,
    shipped_sets,
)
from agent.indicators.factors import Entry, Factor, make_factors, shipped
from agent.indicators.quantities import Unknown, dimension_of, near
from agent.indicators.units import NUMBER, Dimension, Unit, parse_unit, show_dimension
from agent.roles import METERED_ROLES
from drivers.encoding import base64url
from drivers.model import ConfigError

SITE = "site"  # the set of a plan's own figures
BUILT_IN: Mapping[str, Dimension] = {"period.duration": (("s", 1),)}


@dataclass(frozen=True, slots=True)
class Formula:
    """One formula, ready to compute."""

    text: str
    tree: expression.Node
    count: int  # of quantities, with its terms written out


@dataclass(frozen=True, slots=True)
class Input:
    """A declared value, its unit and what is assumed without a declaration (base units)."""

    name: str
    unit: Unit
    kind: str
    title: Mapping[str, str]
    assume: Fraction | None


@dataclass(frozen=True, slots=True)
class Term:
    """A shared part of formulas."""

    name: str
    formula: Formula
    unit: Unit
    title: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound in the indicator's unit; ``where`` names a term and how much of it a year there must be (base units)."""

    kind: str
    text: str
    value: Fraction
    where: tuple[str, Fraction] | None = None


@dataclass(frozen=True, slots=True)
class Indicator:
    """One figure of the park. ``name`` is SET/ID; ``hash`` is of formula, terms and unit."""

    name: str
    title: Mapping[str, str]
    note: Mapping[str, str]
    numerator: Formula
    denominator: Formula | None
    numerator_unit: Unit
    denominator_unit: Unit | None
    unit: Unit
    better: str
    gate: str
    periods: tuple[PeriodKind, ...]
    official: str
    thresholds: tuple[Threshold, ...]
    excluded: str
    pins: Mapping[str, int]
    terms: Mapping[str, Term]
    weighs: tuple[tuple[str, Formula, Unit], ...]
    hash: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a park's figures are made by."""

    indicators: tuple[Indicator, ...]
    inputs: Mapping[str, Input]
    terms: Mapping[str, Term]
    factors: Mapping[str, Factor]
    absent: Mapping[str, str]
    sets: Mapping[str, SetText] = field(default_factory=dict)

    def of_period(self, kind: PeriodKind) -> tuple[Indicator, ...]:
        """The figures that are made for this kind of period and not excluded."""
        return tuple(one for one in self.indicators if kind in one.periods and not one.excluded)

    def names(self) -> set[str]:
        """Every metered quantity that some figure asks for; patterns with ``*`` as they are."""
        found: set[str] = set()
        for one in self.indicators:
            found |= {name for name in leaves(one) if not name.startswith(("declared.", "factor.", "period."))}
        return found


def leaves(indicator: Indicator) -> list[str]:
    """The quantities, inputs and factors at the ends of an indicator's formulas, each once, in order."""
    found: dict[str, None] = {}

    def walk(tree: expression.Node) -> None:
        for name in expression.names(tree):
            if name in indicator.terms:
                walk(indicator.terms[name].formula.tree)
            else:
                found.setdefault(name)

    walk(indicator.numerator.tree)
    if indicator.denominator is not None:
        walk(indicator.denominator.tree)
    return list(found)


def make_plan(text: PlanText, where: str = "plan") -> Plan:
    """The whole plan. Raises ConfigError with every complaint."""
    return _Maker(text, where).make()


class _Maker:
    def __init__(self, text: PlanText, where: str) -> None:
        self._text, self._where = text, where
        self._wrong: list[ConfigError] = []
        self._factors: dict[str, Factor] = {}
        self._inputs: dict[str, Input] = {}
        self._terms: dict[str, Term] = {}

    def make(self) -> Plan:
        text = self._text
        chosen = self._chosen_sets()
        self._factors = dict(shipped())
        try:
            self._factors |= make_factors(text.factor, self._where)
        except ConfigError as error:
            self._wrong.append(error)
        pins: dict[str, int] = {}
        for one in chosen.values():
            pins |= one.pin
        pins |= text.pin
        self._check_pins(pins)
        for one in chosen.values():
            self._read_inputs(one.input, one.id)
        self._read_inputs(text.input, self._where)
        for name in text.assume:
            if name not in self._inputs:
                self._complain(f"assume.{name}", f"is no input{near(name, self._inputs)}")
        for one in chosen.values():
            self._read_terms(one.term, one.id)
        self._read_terms(text.term, self._where)
        indicators: list[Indicator] = []
        for one in chosen.values():
            indicators += [
                made for item in one.indicator if (made := self._indicator(one.id, one.official, item, pins))
            ]
        indicators += [made for item in text.indicator if (made := self._indicator(SITE, "", item, pins))]
        self._check_names({one.name for one in indicators})
        if self._wrong:
            raise ConfigError("the plan is wrong", where=self._where, complaints=tuple(self._wrong))
        used = {name: one for name, one in chosen.items() if one.indicator}
        return Plan(tuple(indicators), self._inputs, self._terms, self._factors, dict(text.absent), used)

    def _chosen_sets(self) -> dict[str, SetText]:
        known, chosen = shipped_sets(), dict[str, SetText]()

        def take(name: str, where: str) -> None:
            if name not in known:
                self._complain(where, f"{name!r} is no set{near(name, known)}; known are {', '.join(sorted(known))}")
            elif name not in chosen:
                for below in known[name].uses:
                    take(below, f"{name}: uses")
                chosen[name] = known[name]

        for name in self._text.sets:
            take(name, "sets")
        if not self._text.sets:
            take("common", "sets")  # its terms are there for a park's own figures
        return chosen

    def _complain(self, place: str, what: str, hint: str = "") -> None:
        self._wrong.append(ConfigError(what, where=f"{self._where}: {place}", hint=hint))

    def _check_pins(self, pins: Mapping[str, int]) -> None:
        for name, year in pins.items():
            factor = self._factors.get(name)
            if factor is None:
                self._complain(f"pin.{name}", f"is no factor{near(name, self._factors)}")
            elif year not in {entry.year for entry in factor.entries}:
                years = ", ".join(str(entry.year) for entry in factor.entries)
                self._complain(f"pin.{name}", f"has no entry of {year}; there are {years}")

    def _unit(self, text: str, place: str) -> Unit | None:
        try:
            return parse_unit(text)
        except ValueError as error:
            self._complain(place, str(error))
            return None

    def _read_inputs(self, texts: Iterable[InputText], where: str) -> None:
        for one in texts:
            place = f"{where}: input {one.name}"
            unit = self._unit(one.unit, place)
            if not re.fullmatch(r"declared\.[a-z][a-z0-9_]*", one.name):
                self._complain(place, "the name of an input is declared. and a word of a-z 0-9 _")
            elif one.name in self._inputs:
                self._complain(place, "is there twice")
            elif unit is not None:
                said = self._text.assume.get(one.name, one.assume)
                try:
                    assume = None if said is None else decimal(said) * unit.factor
                except ValueError as error:
                    self._complain(place, str(error))
                    continue
                self._inputs[one.name] = Input(one.name, unit, one.kind, one.title, assume)

    def _read_terms(self, texts: Iterable[TermText], where: str) -> None:
        for one in texts:
            place = f"{where}: term {one.name}"
            unit = self._unit(one.unit, place)
            if not re.fullmatch(r"[a-z][a-z0-9_]*", one.name) or one.name in expression.FUNCTIONS:
                self._complain(place, "a term's name is one word of a-z 0-9 _ that is no function")
            elif one.name in self._terms:
                self._complain(place, "is there twice")
            elif unit is not None and (formula := self._formula(one.formula, unit, place)) is not None:
                self._terms[one.name] = Term(one.name, formula, unit, one.title)

    def _formula(self, text: str, unit: Unit | None, place: str) -> Formula | None:
        """The checked formula; its dimension must be that of ``unit`` where one is given."""
        try:
            tree = expression.parse(text)
            found = expression.dimension(tree, self._dimension)
            joined = expression.count(tree, lambda name: self._terms[name].formula.count if name in self._terms else 1)
            if joined > expression.MAX_QUANTITIES:
                most = expression.MAX_QUANTITIES
                raise expression.FormulaError(
                    f"with its terms written out it joins {joined} quantities, at most {most}"
                )
        except expression.FormulaError as error:
            self._complain(place, str(error))
            return None
        if unit is not None and found is not None and found != unit.dimension:
            shown = show_dimension(found), show_dimension(unit.dimension)
            self._complain(place, f"the formula gives {shown[0]}, its unit {unit.text!r} is {shown[1]}")
            return None
        return Formula(" ".join(text.split()), tree, joined)

    def _dimension(self, name: str) -> Dimension:
        if name in self._terms:
            return self._terms[name].unit.dimension
        if name in self._inputs:
            return self._inputs[name].unit.dimension
        if name in BUILT_IN:
            return BUILT_IN[name]
        if name.startswith("factor."):
            factor = self._factors.get(name.removeprefix("factor."))
            if factor is None:
                raise expression.FormulaError(f"{name} is no factor{near(name[7:], self._factors)}")
            return factor.unit.dimension
        try:
            return dimension_of(name, [*self._terms, *self._inputs])
        except Unknown as error:
            raise expression.FormulaError(str(error)) from None

    def _indicator(self, set_id: str, official: str, one: IndicatorText, pins: Mapping[str, int]) -> Indicator | None:
        name = f"{set_id}/{one.id}"
        place = name if set_id != SITE else f"indicator {one.id}"
        unit = self._unit(one.unit, place)
        numerator = self._formula(one.numerator, None, f"{place}: numerator")
        denominator = self._formula(one.denominator, None, f"{place}: denominator") if one.denominator else None
        if unit is None or numerator is None or (one.denominator and denominator is None):
            return None
        tree = numerator.tree
        if denominator is not None:
            tree = expression.Operation("/", (numerator.tree, denominator.tree))
        found = expression.dimension(tree, self._dimension)
        if found is not None and found != unit.dimension:
            shown = show_dimension(found), show_dimension(unit.dimension)
            self._complain(place, f"the formula gives {shown[0]}, its unit {unit.text!r} is {shown[1]}")
            return None
        thresholds = self._thresholds(self._text.threshold.get(name, one.threshold), unit, place)
        above, below = self._shown_units(unit, numerator, denominator)
        weighs = self._weighs(one.weighs, place)
        made = Indicator(
            name, one.title, one.note, numerator, denominator, above, below, unit, one.better, one.gate,
            tuple(one.periods), official, thresholds, self._text.exclude.get(name, ""), dict(pins), dict(self._terms),
            weighs, "",
        )  # fmt: skip
        return _with_hash(made)

    def _shown_units(self, unit: Unit, numerator: Formula, denominator: Formula | None) -> tuple[Unit, Unit | None]:
        """Units for numerator and denominator: those of the quotient, else the usual ones of their dimensions."""
        if denominator is None:
            return unit, None
        above, _, below = unit.text.partition("/")
        if below:
            return parse_unit(above), parse_unit(below)
        return self._shown_unit(numerator.tree), self._shown_unit(denominator.tree)

    def _shown_unit(self, tree: expression.Node) -> Unit:
        """Of a term or an input its own unit, else the usual one of the dimension."""
        if isinstance(tree, expression.Name) and (found := self._terms.get(tree.name) or self._inputs.get(tree.name)):
            return found.unit
        return _usual(expression.dimension(tree, self._dimension) or NUMBER)

    def _weighs(self, names: Iterable[str], place: str) -> tuple[tuple[str, Formula, Unit], ...]:
        found = []
        for name in names:
            formula = self._formula(name, None, f"{place}: weighs")
            if formula is not None:
                unit = self._terms[name].unit if name in self._terms else _usual(self._dimension(name))
                found.append((name, formula, unit))
        return tuple(found)

    def _thresholds(self, texts: Iterable[ThresholdText], unit: Unit, place: str) -> tuple[Threshold, ...]:
        made = []
        for one in texts:
            try:
                kind, text = one.bound()
                where = None
                if one.where is not None:
                    term = self._terms.get(one.where.term)
                    given = parse_unit(one.where.unit)
                    if term is None or term.unit.dimension != given.dimension:
                        raise ValueError(f"where: {one.where.term!r} is no term in {one.where.unit}")
                    where = (one.where.term, decimal(one.where.at_least) * given.factor)
                made.append(Threshold(kind, text, decimal(text), where))
            except ValueError as error:
                self._complain(f"{place}: threshold", str(error))
        return tuple(made)

    def _check_names(self, names: set[str]) -> None:
        for table, keys in (("exclude", self._text.exclude), ("threshold", self._text.threshold)):
            for name in keys:
                if name not in names:
                    self._complain(f"{table}.{name}", f"is no indicator of this plan{near(name, names)}")
        for role in self._text.absent:
            if role not in METERED_ROLES and not role.startswith("x."):
                self._complain(f"absent.{role}", f"is no role{near(role, METERED_ROLES)}")
        for name, why in [*self._text.exclude.items(), *self._text.absent.items()]:
            if not why.strip():
                self._complain(name, "wants a reason", "A verifier reads it beside the figure")


_USUAL = ("kWh", "tCO2", "tce", "m3", "Nm3", "t", "m2", "kW", "h")


def _usual(found: Dimension) -> Unit:
    for text in _USUAL:
        unit = parse_unit(text)
        if unit.dimension == found:
            return unit
    return Unit("", Fraction(1), found)


def _with_hash(made: Indicator) -> Indicator:
    """SHA-256, base64url, over the trees of the formulas and of all terms below them, and the units."""
    units = made.unit, made.numerator_unit, made.denominator_unit
    lines = [" ".join(unit.text for unit in units if unit is not None), expression.show(made.numerator.tree)]
    if made.denominator is not None:
        lines.append(expression.show(made.denominator.tree))
    seen: dict[str, None] = {}

    def collect(tree: expression.Node) -> None:
        for name in expression.names(tree):
            if name in made.terms and name not in seen:
                seen.setdefault(name)
                collect(made.terms[name].formula.tree)

    collect(made.numerator.tree)
    if made.denominator is not None:
        collect(made.denominator.tree)
    lines += [f"{name} = {expression.show(made.terms[name].formula.tree)}" for name in sorted(seen)]
    digest = hashlib.sha256("\n".join(lines).encode()).digest()
    terms = {name: made.terms[name] for name in seen}
    return replace(made, terms=terms, hash=base64url(digest))


def pick(plan: Plan, indicator: Indicator, factor: str, year: int) -> Entry:
    """The entry of a factor that a figure of ``year`` is made with."""
    return plan.factors[factor].of_year(year, indicator.pins.get(factor))
