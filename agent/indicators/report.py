"""The report of a period as plain values for a web page: figures with trends, main causes and completeness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

from agent.indicators import expression
from agent.indicators.compute import PeriodTotals, period_of, slots_of
from agent.indicators.declared import Declaration
from agent.indicators.definitions import PeriodKind
from agent.indicators.evaluate import evaluate
from agent.indicators.figure import Figure, Period, decimal_text
from agent.indicators.plan import IndicatorPlan
from agent.indicators.quantities import title_of
from agent.indicators.trace import Traced, TraceSlot, issue, trace
from agent.intervals.amounts import mean_of_role
from agent.intervals.calendar import Calendar
from agent.intervals.rows import RoleSum

FINER: Mapping[str, str] = {"day": "hour", "month": "day", "year": "month", "rolling": "month"}
MAX_DRAGS = 3


class Reporter:
    """Collects the intervals of a period day by day, then returns the report.

    Args:
        period: day, month, year or rolling.
        by: the length of the slots in which consumption is matched with green power.
        roles: the roles of all configured devices, including devices from which nothing was sealed yet.
        late: the roles of devices from which nothing is sealed in the period so far.
    """

    def __init__(
        self,
        plan: IndicatorPlan,
        calendar: Calendar,
        period: Period,
        entries: Sequence[Declaration],
        by: Literal["interval", "hour"] = "hour",
        roles: Collection[str] = (),
        late: Collection[str] = (),
    ) -> None:
        self._roles, self._late = frozenset(roles), frozenset(late)
        self._by: Literal["interval", "hour"] = by
        self._plan, self._calendar, self._period, self._entries = plan, calendar, period, entries
        self._whole = PeriodTotals()
        self._finer: dict[int, PeriodTotals] = {}
        self._hours: list[Any] = []
        self._months: dict[str, list[Decimal]] = {}
        self._curve = PowerCurve(calendar, period)

    def add(self, parts: Sequence[RoleSum]) -> None:
        """Add the role sums of the intervals of one local day."""
        self._whole.add(parts)
        self._curve.add(parts)
        finer = FINER[self._period.kind]
        groups: dict[int, list[RoleSum]] = {}
        for one in parts:
            groups.setdefault(self._calendar.stretch(finer, one.start_ms)[0], []).append(one)
        for start, group in groups.items():
            self._finer.setdefault(start, PeriodTotals()).add(group)
        slots = slots_of(parts, self._calendar, self._by)
        for match in trace(slots).matches:
            month = self._months.setdefault(
                f"{self._calendar.day(match.slot.start_ms):%Y-%m}", [Decimal(0), Decimal(0)]
            )
            month[0] += match.exported
            month[1] += match.slot.generation - match.exported
        self._hours += slots

    def page(self) -> dict[str, Any]:
        """Return the report, as strings, whole numbers, booleans, lists and objects."""
        wanted = [one for one in self._plan.indicators if self._period.kind in one.periods]
        kept = [one for one in wanted if not one.excluded]
        figures = evaluate(self._plan, self._period, self._whole.supply(self._entries, self._period), kept)
        trend: list[tuple[str, dict[str, Figure]]] = []
        for start, end in self._calendar.stretches(
            FINER[self._period.kind], self._period.start_ms, self._period.until_ms
        ):
            found: tuple[Figure, ...] = ()
            if start in self._finer:
                finer = self._finer_period(start, end)
                found = evaluate(self._plan, finer, self._finer[start].supply(self._entries, finer), kept)
            trend.append((self._label(start), {figure.indicator.name: figure for figure in found}))
        return {
            "period": self._period.as_dict(),
            "sets": [{"id": one.id, "title": one.title, "source": one.source} for one in self._plan.sets.values()],
            "figures": [self._figure(figure, trend) for figure in figures],
            "excluded": [{"id": one.name, "title": one.title, "why": one.excluded} for one in wanted if one.excluded],
            "trace": self._trace(),
            "curve": self._curve.page(),
        }

    def _finer_period(self, start: int, end: int) -> Period:
        kind: PeriodKind = "interval" if self._period.kind == "day" else FINER[self._period.kind]  # type: ignore[assignment]
        until = min(end, self._period.until_ms)
        made = period_of(self._calendar, kind, start, until)
        # only days of the period are added, so the months at both ends of the last 365 days are cut
        start, end = max(start, self._period.start_ms), min(end, self._period.end_ms)
        return Period(made.kind, start, end, made.label, made.year, made.year_ms, until)

    def _label(self, start: int) -> str:
        local = self._calendar.local(start)
        return {"hour": f"{local:%H:%M}", "day": f"{local:%m-%d}", "month": f"{local:%Y-%m}"}[FINER[self._period.kind]]

    def _figure(self, figure: Figure, trend: Sequence[tuple[str, dict[str, Figure]]]) -> dict[str, Any]:
        one = figure.indicator
        points = [(label, found.get(one.name)) for label, found in trend]
        valued = [(label, f) for label, f in points if f is not None and f.value is not None]
        plain = figure.as_dict("")
        del plain["config"]
        plain |= {
            "title": one.title,
            "note": one.note,
            "gate": one.gate,
            "better": one.better,
            "monitoring": bool(one.official) and not figure.official,
            "lacking": [{"n": name, "title": self._title(name)} for name in figure.missing],
            "trend": [{"label": label, "v": f.shown if f is not None else ""} for label, f in points],
            "drags": self._drags(figure),
        }
        # the figure has no value because the denominator is 0
        if one.denominator is not None and figure.denominator == 0:
            plain["zero"] = [self._title(name) for name in dict.fromkeys(expression.names(one.denominator.tree))]
        for amount in plain["inputs"]:
            amount["title"] = self._title(amount["n"])
        bases = {amount["basis"] for amount in plain["inputs"]}
        roles = [amount for amount in plain["inputs"] if amount["n"] not in self._plan.inputs]
        assumed = [amount["n"] for amount in roles if amount["basis"] == "assumed"]
        is_measured = bool(bases & {"metered", "declared"})
        # The 0 is only assumed: no meter measured it and the plan does not state it. Either no device has the role, or
        # a device has it but sent no amount yet.
        if awaited := [name for name in assumed if self._is_awaited(name, self._late if is_measured else self._roles)]:
            return self._without(plain, awaited)
        if assumed and not is_measured:
            plain["unmetered"] = True
        # The worst part of the period is shown only for quotients, because the lowest plain amount is usually
        # just that of the night. It is shown only if the values differ.
        if one.denominator is not None and len({f.value for _, f in valued}) > 1:
            pick = min if one.better == "higher" else max
            label, worst = pick(valued, key=lambda pair: pair[1].value or Fraction(0))
            plain["worst"] = {"label": label, "v": worst.shown}
        return plain

    def _is_awaited(self, name: str, roles: frozenset[str]) -> bool:
        """Return True if the quantity has one of ``roles``, and this role has no sum yet, not even an unknown one."""
        role = name.rpartition(".")[0]
        inner = role.removesuffix("*")  # generation.* means the role generation and all roles below it
        waiting = roles - self._whole.roles
        return role.removesuffix(".*") in waiting or (inner != role and any(one.startswith(inner) for one in waiting))

    def _without(self, plain: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Return the figure without its value, because the inputs in ``names`` have meters but no amounts yet."""
        kept = {key: value for key, value in plain.items() if key not in ("v", "numerator", "denominator", "zero")}
        return kept | {
            "verdict": "no data",
            "completeness": "0",
            "missing": list(names),
            "lacking": [{"n": name, "title": self._title(name)} for name in names],
            "inputs": [amount for amount in plain["inputs"] if amount["n"] not in names],
            "trend": [one | {"v": ""} for one in plain["trend"]],
            "drags": [],
        }

    def _title(self, name: str) -> Mapping[str, str]:
        if name in self._plan.inputs:
            return self._plan.inputs[name].title
        if name in self._plan.terms:
            return self._plan.terms[name].title
        return title_of(name)

    def _drags(self, figure: Figure) -> list[dict[str, Any]]:
        """Return the largest parts that make the figure worse, each with its share of the numerator or denominator."""
        one = figure.indicator
        if not one.weighs and (one.better == "higher" or len(figure.parts) < 2):
            return []
        unit = one.numerator_unit if one.better == "lower" else one.denominator_unit
        whole = figure.numerator if one.better == "lower" else figure.denominator
        heavy = sorted((part for part in figure.parts if part.value > 0), key=lambda part: part.value, reverse=True)
        return [
            {
                "n": part.name,
                "title": self._title(part.name),
                "v": decimal_text(part.value / part.unit.factor),
                "u": part.unit.text,
                "share": decimal_text(part.value / whole)
                if whole and unit and unit.dimension == part.unit.dimension
                else "",
            }
            for part in heavy[:MAX_DRAGS]
        ]

    def _trace(self) -> dict[str, Any]:
        known = self._plan.inputs.get("declared.certificates")
        certificates = Decimal(0)
        if known is not None:
            found = self._whole.supply(self._entries, self._period).declared(
                known.name, known.unit, known.kind, self._period
            )
            if found is not None:
                certificates = Decimal(decimal_text(found.value / 3_600_000))
        traced = trace(self._hours, certificates)
        months = [(label, exported, held) for label, (exported, held) in sorted(self._months.items())]
        is_short = self._period.kind in ("day", "month")
        hours, missing = (traced.matches, _missing(traced)) if is_short else ((), {})
        share = _plain(self._whole.traced_share(self._period))
        extent = {"known": share, "incomplete": traced.incomplete + self._empty()}
        return {**_totals(traced), **extent, **missing, "hours": [_hour(match) for match in hours], "issued": [
            {
                "label": one.label,
                "traded": one.traded,
                "held": one.held,
                "traded_rest": _plain(one.traded_rest),
                "held_rest": _plain(one.held_rest),
            }
            for one in issue(months)
        ]}  # fmt: skip

    def _empty(self) -> int:
        """Return the number of slots of the trace that have begun, but have no interval at all."""
        start, until = self._period.start_ms, self._period.until_ms
        if until <= start:
            return 0
        is_hourly, seen = self._by == "hour", {slot.start_ms for slot in self._hours}
        due = self._calendar.stretches("hour", start, until) if is_hourly else self._calendar.intervals(start, until)
        return sum(begin not in seen for begin, _ in due)


class PowerCurve:
    """The electricity by role and flow. For a day it is the mean power of each interval.

    For longer periods it is the energy of each day or month.
    """

    def __init__(self, calendar: Calendar, period: Period) -> None:
        self._calendar, self._period, self._is_day = calendar, period, period.kind == "day"
        self._slots: dict[int, int] = {}  # start of the slot -> end of the slot, both in ms
        # by series and start of the slot: (amount, known time in ms)
        self._sums: dict[str, dict[int, tuple[Decimal, Decimal]]] = {}

    def add(self, parts: Sequence[RoleSum]) -> None:
        """Add role sums of single intervals."""
        for one in parts:
            if one.unit != "kWh":
                continue
            start, end = one.start_ms, one.end_ms
            if not self._is_day:
                start, end = self._calendar.stretch(FINER[self._period.kind], start)
            self._slots[start] = end
            series = self._sums.setdefault(f"{one.role}.{one.flow}", {})
            amount, known_ms = series.get(start, (Decimal(0), Decimal(0)))
            series[start] = (
                amount + one.amount if one.completeness else amount,
                known_ms + one.completeness * (one.end_ms - one.start_ms),
            )

    def page(self) -> dict[str, Any]:
        """Return the curve for the report. ``slots``: the start of each slot in s.

        Each series has one value ("" if unknown) and one known share for each slot.
        """
        slots = sorted(self._slots.items())
        series = []
        for name, sums in sorted(self._sums.items()):
            values, shares = [], []
            for start, end in slots:
                amount, known_ms = sums.get(start, (Decimal(0), Decimal(0)))
                known = min(known_ms / (end - start), Decimal(1))
                value = mean_of_role(amount, known, end - start) if self._is_day else amount if known else None
                values.append("" if value is None else _plain(value))
                shares.append(_plain(known))
            series.append({"n": name, "title": title_of(name), "v": values, "known": shares})
        return {
            "u": "kW" if self._is_day else "kWh",
            "slots": [start // 1000 for start, _ in slots],
            "ends": [end // 1000 for _, end in slots],
            "series": series,
        }


def trace_result(slots: Sequence[TraceSlot], period: Period) -> dict[str, Any]:
    """Return a day's green power by hour, as a result in a pack.

    The result has no certificates, because a certificate belongs to a month.
    """
    traced = trace(slots)
    plain = _totals(traced)
    del plain["certified"], plain["with_certificates"]
    hours = [_hour(match) for match in traced.matches]
    plain |= _missing(traced)
    return {"kind": "trace", "id": "green/hour", "period": period.as_dict(), "u": "kWh", "hours": hours, **plain}


def _missing(traced: Traced) -> dict[str, Any]:
    """Return the hours in which the consumption is unknown, each with the roles that are missing."""
    hours = [{**_times(slot), "n": list(slot.missing)} for slot in traced.missing]
    return {"missing": hours} if hours else {}


def _times(slot: TraceSlot) -> dict[str, int]:
    return {"from": slot.start_ms // 1000, "to": slot.end_ms // 1000}


def _totals(traced: Traced) -> dict[str, Any]:
    plain: dict[str, Any] = {
        name: _plain(getattr(traced, name)) for name in ("consumption", "own", "direct", "storage", "grid", "certified")
    }
    plain["incomplete"] = traced.incomplete
    for name in ("at_the_time", "with_certificates"):
        share = getattr(traced, name)
        plain[name] = "" if share is None else decimal_text(Fraction(share))
    return plain


def _hour(match: Any) -> dict[str, Any]:
    slot = match.slot
    values = {
        name: _plain(getattr(match, name)) for name in ("consumption", "own", "direct", "storage", "grid", "exported")
    }
    return {**_times(slot), "complete": slot.complete, **values}


def _plain(value: Decimal) -> str:
    return decimal_text(Fraction(value))
