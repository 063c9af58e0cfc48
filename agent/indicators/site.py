"""The results besides figures, for an interval or a day: the balance of the site and of its nodes, and derived points.

The agent computes them from its store. A verifier computes them with the same code from intervals that it made from
packs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from agent.indicators.figure import Period, decimal_text
from agent.intervals.balance import Residual, balance, wants
from agent.intervals.calendar import Calendar
from agent.intervals.derived import Derived
from agent.intervals.meters import MeterAmount, MeterKey, MeterSums, added
from agent.intervals.page_format import Column
from agent.intervals.query import PageSource
from agent.intervals.sums import Unwritten, sums
from drivers.encoding import exact_text

KINDS = ("balance", "derived")
MAIN_COUNTERS = (".energy.import", ".energy.export", ".energy.generation", ".energy.total", ".energy.heat")
# A result of this kind is sealed with other results. For each stream, it names the last pack whose intervals were known
# when the other results were made.
KNOWN = "known"
RESTATED = "restated"  # a declaration of an earlier pack, again


class SiteResults:
    """Computes the results of one gateway.

    Args:
        rows: the member ``derived`` of the birth of ``_indicators``.
        config: hash of the configuration.
    """

    def __init__(self, calendar: Calendar, base: str, rows: Sequence[Mapping[str, Any]], config: str) -> None:
        self._calendar, self._config = calendar, config
        self._derived = Derived(rows, base)

    def takers(self, stretches: int = 1) -> tuple[MeterSums, MeterSums]:
        """Return two MeterSums, which the function ``sums`` fills: one for the balance, one for derived points."""
        return MeterSums(wants, stretches), MeterSums(self._derived.wants, stretches)

    def made(self, takers: tuple[MeterSums, MeterSums], period: Period, at: int = 0) -> list[Mapping[str, Any]]:
        """Return the results of a finished period: at most one balance, and the derived points.

        ``sums`` must have filled ``takers`` before.
        """
        electric, terms = takers
        common = {"period": period.as_dict(), "config": self._config}
        length_ms = period.end_ms - period.start_ms
        found = balance(electric.found(at), length_ms, period.kind == "interval")
        made: list[Mapping[str, Any]] = [] if found is None else [found.as_dict() | common]
        return made + [one | common for one in self._derived.results(terms.found(at), length_ms)]

    def of(self, book: PageSource, period: Period, unwritten: Iterable[Unwritten] = ()) -> list[Mapping[str, Any]]:
        """Return the results of a finished period, computed from the pages of ``book``."""
        takers, ends = self.takers(), (period.start_ms, period.end_ms)
        sums(book, self._calendar, *ends, "all", roles=(), meters=takers, unwritten=unwritten)
        return self.made(takers, period)


class BalanceReport:
    """Balance and derived points of a period, added up day by day; also the balance of each finer stretch.

    Args:
        period: if it is a day, the finer stretches are its intervals. Otherwise they are its days.
    """

    def __init__(self, calendar: Calendar, period: Period, base: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._calendar, self._period, self._is_day = calendar, period, period.kind == "day"
        self._derived = Derived(rows, base)
        self._meters: dict[str, _MeterLine] = {}
        self._stretches: list[tuple[int, int]] = []
        self._known: tuple[dict[MeterKey, MeterAmount], dict[MeterKey, MeterAmount]] = {}, {}
        self._length_ms = 0
        self._finer: list[tuple[int, Residual]] = []

    def takers(self, start_ms: int, end_ms: int) -> tuple[MeterSums, MeterSums, MeterSums]:
        """Return three MeterSums, which the function ``sums`` fills for a day.

        They are for the balance, for derived points, and for meters without a role.
        """
        count = len(list(self._calendar.intervals(start_ms, end_ms))) if self._is_day else 1
        return MeterSums(wants, count), MeterSums(self._derived.wants), MeterSums(_counts_for_nobody, count)

    def add(self, takers: tuple[MeterSums, MeterSums, MeterSums], start_ms: int, end_ms: int) -> None:
        """Add a day. ``sums`` must have filled ``takers`` for this day."""
        until_ms = min(end_ms, takers[0].until_ms)
        self._list_meters(takers, start_ms, min(end_ms, self._period.until_ms))
        if until_ms <= start_ms:
            return
        self._length_ms += until_ms - (start_ms if self._length_ms else takers[0].since_ms)
        stretches = list(self._calendar.intervals(start_ms, until_ms)) if self._is_day else [(start_ms, until_ms)]
        for at, (start, end) in enumerate(stretches):
            found = takers[0].found(at)
            self._keep(0, found)
            if end <= takers[0].since_ms:
                continue  # the stretch is before the first interval of all streams
            made = balance(found, end - start, self._is_day)
            if made is not None and made.site is not None:
                self._finer.append((start, made.site))
        self._keep(1, takers[1].found())

    def _list_meters(self, takers: Sequence[MeterSums], start_ms: int, end_ms: int) -> None:
        """Note the amounts of each meter, and how much of each stretch is known."""
        if end_ms <= start_ms:
            return
        stretches = list(self._calendar.intervals(start_ms, end_ms)) if self._is_day else [(start_ms, end_ms)]
        self._stretches += stretches
        for at, (start, end) in enumerate(stretches):
            for one in (*takers[0].found(at), *takers[2].found(at)):
                line = self._meters.get(one.place)
                if line is None:
                    line = self._meters[one.place] = _MeterLine(one.column.role)
                line.role = one.column.role
                line.add(one, start, end)

    def _keep(self, which: int, found: Sequence[MeterAmount]) -> None:
        known = self._known[which]
        for one in found:
            known[one.key] = added(known[one.key], one) if one.key in known else one

    def page(self) -> dict[str, Any]:
        """Return ``balance``, ``derived`` and ``meters`` of a report, as plain values.

        ``balance`` is None if there is nothing to compare.
        """
        electric, terms = ([*known.values()] for known in self._known)
        length_ms = max(self._length_ms, 1)
        whole, result = balance(electric, length_ms, is_interval=False), None
        if whole is not None:
            result = whole.as_dict() | {"given": exact_text(whole.given), "trend": [], "counts": {}}
            for start, residual in self._finer:
                local = self._calendar.local(start)
                label = f"{local:%H:%M}" if self._is_day else f"{local:%m-%d}"
                value = "" if residual.missing else exact_text(residual.value)
                result["trend"].append({"label": label, "v": value, "verdict": residual.verdict})
                result["counts"][residual.verdict] = result["counts"].get(residual.verdict, 0) + 1
        with_role = {name.partition("/")[0] for name, line in self._meters.items() if line.role}
        meters = [
            line.page(name, self._stretches)
            for name, line in sorted(self._meters.items())
            if line.role or name.partition("/")[0] not in with_role
        ]
        return {"balance": result, "derived": self._derived.results(terms, length_ms), "meters": meters}


def _counts_for_nobody(stream: str, column: Column) -> bool:
    """Return True for a main counter without a role. No figure includes it."""
    return column.kind == "counter" and not column.role and column.point.endswith(MAIN_COUNTERS)


class _MeterLine:
    """One meter in a period: its amounts, and the times in which they are not completely known."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._amounts: dict[tuple[str, str], Decimal | None] = {}  # by flow and unit; None: the amount is unknown
        # by start of the stretch: the known time in ms; if the flows of the meter differ, the shortest of these times
        self._covered: dict[int, int] = {}

    def add(self, one: MeterAmount, start_ms: int, end_ms: int) -> None:
        """Add one flow of the meter in one stretch."""
        key = one.key.flow or one.key.point, one.unit
        before = self._amounts.setdefault(key, None)
        if one.covered_ms:
            self._amounts[key] = (before or Decimal(0)) + one.amount
        covered = min(one.covered_ms, end_ms - start_ms)
        self._covered[start_ms] = min(self._covered.get(start_ms, covered), covered)

    def page(self, name: str, stretches: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return the meter for the report.

        ``known``: the known share of the time. ``missing``: the times that are not completely known; adjacent times are
        merged.
        """
        whole_ms = sum(end - start for start, end in stretches) or 1
        known_ms, missing = 0, list[list[int]]()
        for start, end in stretches:
            covered = self._covered.get(start, 0)
            known_ms += covered
            if covered >= end - start:
                continue
            if missing and missing[-1][1] == start // 1000:
                missing[-1][1] = end // 1000
            else:
                missing.append([start // 1000, end // 1000])
        return {
            "n": name,
            "role": self.role,
            "flows": [
                {"n": flow, "v": None if v is None else exact_text(v), "u": unit}
                for (flow, unit), v in sorted(self._amounts.items(), key=lambda item: item[0])
            ],
            "known": decimal_text(Fraction(known_ms, whole_ms)),
            "missing": [{"from": start, "to": end} for start, end in missing],
        }
