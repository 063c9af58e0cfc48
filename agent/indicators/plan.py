"""Resolves a park's plan: parses the formulas into trees, and checks units, factors and thresholds."""

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
    all_of,
    decimal,
    parse_plan,
    shipped_sets,
)
from agent.indicators.factors import Factor, FactorText, make_factor, shipped
from agent.indicators.quantities import Unknown, dimension_of, near
from agent.indicators.units import NUMBER, Dimension, Unit, parse_unit, show_dimension
from agent.roles import METERED_ROLES
from drivers.encoding import base64url
from drivers.model import ConfigError
from drivers.toml import Complaint, InvalidValue, KeyPath, TomlSource, show

SITE = "site"  # the name of the set that contains the plan's own figures
BUILT_IN: Mapping[str, Dimension] = {"period.duration": (("s", 1),)}


@dataclass(frozen=True, slots=True)
class Formula:
    """One formula, parsed and checked."""

    text: str
    tree: expression.Node
    count: int  # the number of quantities in it, including those in its terms
    levels: int  # the number of levels of its tree, including those of its terms


@dataclass(frozen=True, slots=True)
class Input:
    """An input that people declare.

    ``assume``: its value in base units if nobody declared one; None: then it is unknown.
    """

    name: str
    unit: Unit
    kind: str
    title: Mapping[str, str]
    assume: Fraction | None


@dataclass(frozen=True, slots=True)
class Term:
    """A part of formulas that has a name, because several formulas share it."""

    name: str
    formula: Formula
    unit: Unit
    title: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound in the indicator's unit.

    ``where``: the threshold applies only if this term has at least this value per year (base units). None: it always
    applies.
    """

    kind: str
    text: str
    value: Fraction
    where: tuple[str, Fraction] | None = None


@dataclass(frozen=True, slots=True)
class Indicator:
    """One figure of the park. ``name`` is SET/ID. ``hash`` covers its formulas, their terms, and the units."""

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
class IndicatorPlan:
    """Everything that determines a park's figures."""

    indicators: tuple[Indicator, ...]
    inputs: Mapping[str, Input]
    terms: Mapping[str, Term]
    factors: Mapping[str, Factor]
    absent: Mapping[str, str]
    sets: Mapping[str, SetText] = field(default_factory=dict)

    def of_period(self, kind: PeriodKind) -> tuple[Indicator, ...]:
        """Return the indicators for this kind of period, without those that the plan excludes."""
        return tuple(one for one in self.indicators if kind in one.periods and not one.excluded)

    def names(self) -> set[str]:
        """Return the name of every metered quantity that a figure needs. Patterns with ``*`` stay as they are."""
        found: set[str] = set()
        for one in self.indicators:
            found |= {name for name in leaves(one) if not name.startswith(("declared.", "factor.", "period."))}
        return found


def leaves(indicator: Indicator) -> list[str]:
    """Return the quantities, inputs and factors in an indicator's formulas and their terms.

    Each name comes once, in the order of the text.
    """
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


def rests_on_declared(plan: IndicatorPlan, indicator: Indicator) -> bool:
    """Return True if declared values can change the figure: through its formulas, or the condition of a threshold."""
    found, terms = leaves(indicator), [one.where[0] for one in indicator.thresholds if one.where is not None]
    while terms:
        name = terms.pop()
        (terms if name in plan.terms else found).extend(
            expression.names(plan.terms[name].formula.tree) if name in plan.terms else [name]
        )
    return any(name in plan.inputs for name in found)


def load_plan(text: str | bytes, where: str) -> IndicatorPlan:
    """Parse and resolve the text of a plan. Raises ConfigError with all complaints, each with its line."""
    plan, source = parse_plan(text, where)
    return _Maker(plan, where, source).make()


def make_plan(text: PlanText, where: str = "plan") -> IndicatorPlan:
    """Resolve a parsed plan. Raises ConfigError with all complaints."""
    return _Maker(text, where).make()


class _Maker:
    def __init__(self, text: PlanText, where: str, source: TomlSource | None = None) -> None:
        self._text, self._where, self._source = text, where, source
        self._wrong: list[ConfigError] = []
        self._factors: dict[str, Factor] = {}
        self._inputs: dict[str, Input] = {}
        self._terms: dict[str, Term] = {}

    def make(self) -> IndicatorPlan:
        text = self._text
        chosen = self._chosen_sets()
        self._factors = dict(shipped())
        self._read_factors(text.factor)
        pins: dict[str, int] = {}
        for one in chosen.values():
            pins |= one.pin
        pins |= text.pin
        self._check_pins(pins)
        for one in chosen.values():
            self._read_inputs(one.input, f"{one.id}: ")
        self._read_inputs(text.input)
        for name in text.assume:
            if name not in self._inputs:
                self._complain(f"assume.{name}", f"unknown input{near(name, self._inputs)}", path=("assume", name))
        for one in chosen.values():
            self._read_terms(one.term, f"{one.id}: ")
        self._read_terms(text.term)
        found = [self._indicator(one.id, one.official, item, pins) for one in chosen.values() for item in one.indicator]
        found += [self._indicator(SITE, "", item, pins, ("indicator", n)) for n, item in enumerate(text.indicator)]
        indicators = [made for made in found if made is not None]
        self._check_names({one.name for one in indicators})
        if self._wrong:
            raise all_of(self._wrong, self._where)
        used = {name: one for name, one in chosen.items() if one.indicator}
        return IndicatorPlan(tuple(indicators), self._inputs, self._terms, self._factors, dict(text.absent), used)

    def _chosen_sets(self) -> dict[str, SetText]:
        known, chosen = shipped_sets(), dict[str, SetText]()

        def take(name: str, where: str) -> None:
            if name not in known:
                what = f"unknown set {show(name)}{near(name, known)}; known sets are {', '.join(sorted(known))}"
                self._complain(where, what, path=("sets",))
            elif name not in chosen:
                for below in known[name].uses:
                    take(below, f"{name}: uses")
                chosen[name] = known[name]

        for name in self._text.sets:
            take(name, "sets")
        if not self._text.sets:
            take("common", "sets")  # a park's own figures may use the terms of this set
        return chosen

    def _complain(self, place: str, what: str, hint: str = "", path: KeyPath = ()) -> None:
        """Note an error.

        ``path``: the key in the park's own plan whose line the error names; empty for a shipped set.
        """
        line = self._source.line(path) if self._source is not None else None
        self._wrong.append(Complaint(what, file=self._where, line=line, key=place, hint=hint))

    def _read_factors(self, texts: Iterable[FactorText]) -> None:
        seen: set[str] = set()
        for n, one in enumerate(texts):
            place, path = f"factor {one.id}", ("factor", n)
            if one.id in seen:
                self._complain(place, "duplicate factor", path=path)
            seen.add(one.id)
            try:
                self._factors[one.id] = make_factor(one)
            except InvalidValue as wrong:
                self._complain(place, wrong.what, wrong.hint, path)

    def _check_pins(self, pins: Mapping[str, int]) -> None:
        for name, year in pins.items():
            factor = self._factors.get(name)
            if factor is None:
                self._complain(f"pin.{name}", f"unknown factor{near(name, self._factors)}", path=("pin", name))
            elif year not in {entry.year for entry in factor.entries}:
                years = ", ".join(str(entry.year) for entry in factor.entries)
                self._complain(f"pin.{name}", f"has no entry of {year}; there are {years}", path=("pin", name))

    def _unit(self, text: str, place: str, path: KeyPath) -> Unit | None:
        try:
            return parse_unit(text)
        except ValueError as error:
            self._complain(place, str(error), path=(*path, "unit"))
            return None

    def _read_inputs(self, texts: Iterable[InputText], of_set: str = "") -> None:
        for n, one in enumerate(texts):
            place, path = f"{of_set}input {one.name}", () if of_set else ("input", n)
            unit = self._unit(one.unit, place, path)
            if not re.fullmatch(r"declared\.[a-z][a-z0-9_]*", one.name):
                self._complain(place, "invalid name of an input", "Write declared. and a word of a-z 0-9 _", path)
            elif one.name in self._inputs:
                self._complain(place, "duplicate input", path=path)
            elif unit is not None:
                assumed, assume = self._text.assume.get(one.name, one.assume), None
                try:
                    assume = None if assumed is None else decimal(assumed) * unit.factor
                except ValueError as error:
                    if one.name in self._text.assume:
                        self._complain(f"assume.{one.name}", str(error), path=("assume", one.name))
                    else:
                        self._complain(place, str(error), path=path)
                # keep the input even if its value is wrong, or each formula with it would be called wrong too
                self._inputs[one.name] = Input(one.name, unit, one.kind, one.title, assume)

    def _read_terms(self, texts: Iterable[TermText], of_set: str = "") -> None:
        for n, one in enumerate(texts):
            place, path = f"{of_set}term {one.name}", () if of_set else ("term", n)
            unit = self._unit(one.unit, place, path)
            if not re.fullmatch(r"[a-z][a-z0-9_]*", one.name) or one.name in expression.FUNCTIONS:
                self._complain(place, "invalid name of a term", "Write one word of a-z 0-9 _, not a function", path)
            elif one.name in self._terms:
                self._complain(place, "duplicate term", path=path)
            elif unit is not None and (formula := self._formula(one.formula, unit, place, path)) is not None:
                self._terms[one.name] = Term(one.name, formula, unit, one.title)

    def _formula(self, text: str, unit: Unit | None, place: str, path: KeyPath) -> Formula | None:
        """Parse and check a formula. Returns None if it is invalid.

        If ``unit`` is given, the result must have its dimension.
        """
        try:
            tree = expression.parse(text)
            found = expression.dimension(tree, self._dimension)
            joined = expression.count(tree, lambda name: self._terms[name].formula.count if name in self._terms else 1)
            if joined > expression.MAX_QUANTITIES:
                most = expression.MAX_QUANTITIES
                raise expression.FormulaError(
                    f"has {joined} quantities, including those of its terms; at most {most} are allowed"
                )
            below = {name: one.formula.levels for name, one in self._terms.items()}
            levels = expression.levels(tree, lambda name: below.get(name, 0))
            if levels > expression.MAX_LEVELS:
                most = expression.MAX_LEVELS
                raise expression.FormulaError(
                    f"has {levels} levels, including those of its terms; at most {most} are allowed"
                )
        except expression.FormulaError as error:
            self._complain(place, str(error), path=path)
            return None
        if unit is not None and not self._is_in(found, unit, place, path):
            return None
        return Formula(" ".join(text.split()), tree, joined, levels)

    def _is_in(self, found: Dimension | None, unit: Unit, place: str, path: KeyPath) -> bool:
        """Return True if a formula of this dimension can have this unit. A 0 without unit (None) fits every unit."""
        if found is None or found == unit.dimension:
            return True
        shown = show_dimension(found), show_dimension(unit.dimension)
        self._complain(place, f"the formula gives {shown[0]}, its unit {unit.text!r} is {shown[1]}", path=path)
        return False

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
                raise expression.FormulaError(f"unknown factor {name}{near(name[7:], self._factors)}")
            return factor.unit.dimension
        try:
            return dimension_of(name, [*self._terms, *self._inputs])
        except Unknown as error:
            raise expression.FormulaError(str(error)) from None

    def _indicator(
        self, set_id: str, official: str, one: IndicatorText, pins: Mapping[str, int], path: KeyPath = ()
    ) -> Indicator | None:
        name = f"{set_id}/{one.id}"
        place = name if set_id != SITE else f"indicator {one.id}"
        unit = self._unit(one.unit, place, path)
        numerator = self._formula(one.numerator, None, f"{place}: numerator", (*path, "numerator"))
        denominator = None
        if one.denominator:
            denominator = self._formula(one.denominator, None, f"{place}: denominator", (*path, "denominator"))
        if unit is None or numerator is None or (one.denominator and denominator is None):
            return None
        tree = numerator.tree
        if denominator is not None:
            tree = expression.Operation("/", (numerator.tree, denominator.tree))
        if not self._is_in(expression.dimension(tree, self._dimension), unit, place, (*path, "unit")):
            return None
        own = ("threshold", name) if name in self._text.threshold else (*path, "threshold")
        thresholds = self._thresholds(self._text.threshold.get(name, one.threshold), unit, place, own)
        above, below = self._shown_units(unit, numerator, denominator)
        if denominator is not None and below is not None and "/" in unit.text:
            # both are published in their own units, so a check of the quotient is not enough: W/m2 is also J/(m2 s)
            for what, formula, side in (("numerator", numerator, above), ("denominator", denominator, below)):
                found = expression.dimension(formula.tree, self._dimension)
                if not self._is_in(found, side, f"{place}: {what}", (*path, "unit")):
                    return None
        weighs = self._weighs(one.weighs, place, (*path, "weighs"))
        made = Indicator(
            name, one.title, one.note, numerator, denominator, above, below, unit, one.better, one.gate,
            tuple(one.periods), official, thresholds, self._text.exclude.get(name, ""), dict(pins), dict(self._terms),
            weighs, "",
        )  # fmt: skip
        return _with_hash(made)

    def _shown_units(self, unit: Unit, numerator: Formula, denominator: Formula | None) -> tuple[Unit, Unit | None]:
        """Return the units in which numerator and denominator are shown.

        They are the two sides of ``/`` in ``unit`` if it has one, otherwise the units from ``_shown_unit``.
        """
        if denominator is None:
            return unit, None
        above, _, below = unit.text.partition("/")
        if below:
            return parse_unit(above), parse_unit(below)
        return self._shown_unit(numerator.tree), self._shown_unit(denominator.tree)

    def _shown_unit(self, tree: expression.Node) -> Unit:
        """Return the unit of the term or input if the formula is one; otherwise the usual unit of the dimension."""
        if isinstance(tree, expression.Name) and (found := self._terms.get(tree.name) or self._inputs.get(tree.name)):
            return found.unit
        return _usual(expression.dimension(tree, self._dimension) or NUMBER)

    def _weighs(self, names: Iterable[str], place: str, path: KeyPath) -> tuple[tuple[str, Formula, Unit], ...]:
        found = []
        for text in names:
            formula = self._formula(text, None, f"{place}: weighs", path)
            if formula is None:
                continue
            if not isinstance(formula.tree, expression.Name):
                hint = "Give this formula a name in [[term]]"
                self._complain(f"{place}: weighs", f"{show(text)} is not the name of a term or quantity", hint, path)
                continue
            name = formula.tree.name
            unit = self._terms[name].unit if name in self._terms else _usual(self._dimension(name))
            found.append((name, formula, unit))
        return tuple(found)

    def _thresholds(
        self, texts: Iterable[ThresholdText], unit: Unit, place: str, path: KeyPath
    ) -> tuple[Threshold, ...]:
        made = []
        for one in texts:
            try:
                kind, text = one.bound()
                where = None
                if one.where is not None:
                    term = self._terms.get(one.where.term)
                    given = parse_unit(one.where.unit)
                    if term is None or term.unit.dimension != given.dimension:
                        raise ValueError(f"where: {show(one.where.term)} is not a term in {one.where.unit}")
                    where = (one.where.term, decimal(one.where.at_least) * given.factor)
                made.append(Threshold(kind, text, decimal(text), where))
            except ValueError as error:
                self._complain(f"{place}: threshold", str(error), path=path)
        return tuple(made)

    def _check_names(self, names: set[str]) -> None:
        for table, keys in (("exclude", self._text.exclude), ("threshold", self._text.threshold)):
            for name in keys:
                if name not in names:
                    what = f"unknown indicator{near(name, names)}"
                    self._complain(f"{table}.{name}", what, path=(table, name))
        for role in self._text.absent:
            if role not in METERED_ROLES and not role.startswith("x."):
                self._complain(f"absent.{role}", f"unknown role{near(role, METERED_ROLES)}", path=("absent", role))
        for table, reasons in (("exclude", self._text.exclude), ("absent", self._text.absent)):
            for name, why in reasons.items():
                if not why.strip():
                    hint = "Write the reason: verifiers see it beside the figure"
                    self._complain(name, "the reason is missing", hint, (table, name))


_USUAL = ("kWh", "tCO2", "tce", "m3", "Nm3", "t", "m2", "kW", "h")


def _usual(found: Dimension) -> Unit:
    for text in _USUAL:
        unit = parse_unit(text)
        if unit.dimension == found:
            return unit
    return Unit("", Fraction(1), found)


def _with_hash(made: Indicator) -> Indicator:
    """Set the hash: SHA-256 in base64url of the units, the formulas and their terms. Also remove unused terms."""
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
