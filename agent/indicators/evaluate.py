"""Computes the figures of one period from a plan and the amounts in a ``Supply``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction

from agent.indicators import expression
from agent.indicators.factors import FactorEntry
from agent.indicators.figure import Amount, Contribution, Figure, Period, Verdict
from agent.indicators.plan import Indicator, IndicatorPlan, Threshold, leaves
from agent.indicators.quantities import FLOWS
from agent.indicators.supply import Supply
from agent.indicators.units import Unit, parse_unit

_ONE_SECOND = Fraction(1, 1000)


class _Missing(Exception):
    """The value of an input is unknown, and no assumption replaces it."""


def evaluate(
    plan: IndicatorPlan, period: Period, supply: Supply, indicators: Sequence[Indicator] | None = None
) -> tuple[Figure, ...]:
    """Return the figures of one period, in the order of the plan.

    ``indicators``: only these; None: all indicators of the plan for this kind of period.
    """
    cache: dict[str, Amount | None] = {}
    wanted = plan.of_period(period.kind) if indicators is None else indicators
    return tuple(_Figuring(plan, one, period, supply, cache).figure() for one in wanted)


class _Figuring:
    def __init__(
        self, plan: IndicatorPlan, indicator: Indicator, period: Period, supply: Supply, cache: dict[str, Amount | None]
    ) -> None:
        self._plan, self._one, self._period, self._supply, self._cache = plan, indicator, period, supply, cache
        self._terms: dict[str, Fraction] = {}
        self._factors: dict[str, FactorEntry] = {}

    def figure(self) -> Figure:
        one = self._one
        inputs, missing = self._inputs()
        numerator = denominator = value = None
        if not missing:
            # no value if a formula divides by a quantity that is 0, such as photovoltaic energy at night
            with suppress(ZeroDivisionError):
                numerator = expression.value(one.numerator.tree, self._of_name)
                if one.denominator is not None:
                    denominator = expression.value(one.denominator.tree, self._of_name)
                    value = numerator / denominator if denominator else None
                else:
                    value = numerator
        metered = [amount for amount in inputs if amount.basis == "metered"]
        lacks_meter = any(name not in self._plan.inputs for name in missing)
        threshold = self._threshold(bool(missing))
        return Figure(
            one,
            self._period,
            value,
            numerator,
            denominator,
            (threshold.kind, threshold.text) if threshold is not None else None,
            _verdict(value, threshold, one.unit),
            self._period.kind == one.official and self._period.until_ms >= self._period.end_ms,
            Fraction(0) if lacks_meter else min((amount.completeness for amount in metered), default=Fraction(1)),
            max((amount.estimated for amount in metered), default=Fraction(0)),
            tuple(inputs),
            tuple(missing),
            tuple(self._factors[name] for name in sorted(self._factors)),
            tuple(self._parts()) if numerator is not None else (),
        )

    def _parts(self) -> Iterator[Contribution]:
        one = self._one
        for name, formula, unit in one.weighs:
            try:
                yield Contribution(name, expression.value(formula.tree, self._of_name), unit)
            except (_Missing, ZeroDivisionError):
                continue
        if not one.weighs:
            for sign, node in _summands(one.numerator.tree, one, 1):
                name = node.name if isinstance(node, expression.Name) else _spelled(node)
                yield Contribution(name, sign * expression.value(node, self._of_name), one.numerator_unit)

    def _inputs(self) -> tuple[list[Amount], list[str]]:
        found: list[Amount] = []
        missing: list[str] = []
        for name in leaves(self._one):
            if name.startswith(("factor.", "period.")):
                continue
            amount = self._known(name)
            if amount is None:
                missing.append(name)
            else:
                found.append(amount)
        return found, missing

    def _known(self, name: str) -> Amount | None:
        """Return the amount; None if it is unknown.

        If no interval of a metered amount is known in the period, the amount is unknown, not zero.
        """
        if name not in self._cache:
            self._cache[name] = self._amount(name)
        amount = self._cache[name]
        return None if amount is None or (amount.basis == "metered" and not amount.completeness) else amount

    def _amount(self, name: str) -> Amount | None:
        declared = self._plan.inputs.get(name)
        if declared is not None:
            amount = self._supply.declared(name, declared.unit, declared.kind, self._period)
            if amount is None and declared.assume is not None:
                amount = Amount(name, declared.assume, declared.unit, "assumed", note="nothing was declared")
            return amount
        amount = self._supply.metered(name, self._period)
        if amount is not None:
            return amount
        role, _, flow = name.rpartition(".")
        unit = parse_unit(FLOWS[flow])
        why = self._plan.absent.get(role)
        if why is not None:
            return Amount(name, Fraction(0), unit, "absent", note=why)
        return Amount(name, Fraction(0), unit, "assumed", note="no meter has this role")

    def _of_name(self, name: str) -> Fraction:
        if name in self._plan.terms:
            if name not in self._terms:
                self._terms[name] = expression.value(self._plan.terms[name].formula.tree, self._of_name)
            return self._terms[name]
        if name.startswith("factor."):
            factor = self._plan.factors[name.removeprefix("factor.")]
            entry = factor.of_year(self._period.year, self._one.pins.get(factor.id))
            self._factors[entry.id] = entry
            return entry.base
        if name == "period.duration":
            return self._period.elapsed_ms * _ONE_SECOND
        amount = self._known(name)
        if amount is None:
            raise _Missing(name)
        return amount.value

    def _threshold(self, missing: bool) -> Threshold | None:
        """Return the first threshold whose condition holds; None if there is none.

        A condition is per year, so the value of its term is scaled from the period to a year.
        """
        for one in self._one.thresholds:
            if one.where is None:
                return one
            if missing:
                return None  # a condition decides which threshold applies, but its value is unknown
            term, least = one.where
            try:
                if self._of_name(term) * self._period.year_ms / self._period.elapsed_ms >= least:
                    return one
            except (_Missing, ZeroDivisionError):
                return None
        return None


def _summands(tree: expression.Node, one: Indicator, sign: int) -> Iterator[tuple[int, expression.Node]]:
    """Yield the summands of a formula with their signs (1 or -1).

    A term that is a sum is replaced by its own summands.
    """
    inner = one.terms[tree.name].formula.tree if isinstance(tree, expression.Name) and tree.name in one.terms else tree
    if isinstance(inner, expression.Operation) and inner.sign in "+-":
        yield from _summands(inner.parts[0], one, sign)
        yield from _summands(inner.parts[1], one, sign if inner.sign == "+" else -sign)
    elif not isinstance(inner, expression.Number) or inner.value:
        yield sign, tree


def _spelled(tree: expression.Node) -> str:
    """Return a name for a product. This is its first quantity, such as ``gas`` for ``gas * factor.gas.coal``."""
    return next((name for name in expression.names(tree) if not name.startswith("factor.")), expression.show(tree))


def _verdict(value: Fraction | None, threshold: Threshold | None, unit: Unit) -> Verdict:
    if value is None:
        return "no data"
    if threshold is None:
        return "no threshold"
    bound = threshold.value * unit.factor
    held: Mapping[str, bool] = {
        "at_most": value <= bound,
        "at_least": value >= bound,
        "above": value > bound,
        "below": value < bound,
    }
    return "met" if held[threshold.kind] else "not met"
