"""The site's figures: for each interval when it closes, and for day, month and year at the end of a day.

Called in the database thread. The sums of month and year are built day by day, in slices between other work, so that no
commit ever waits for a whole year to be read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent.config import Config
from agent.indicators.compute import PeriodTotals, intervals_of, period_of, slots_of
from agent.indicators.declared import Declaration, from_dict
from agent.indicators.definitions import PeriodKind, read_plan
from agent.indicators.plan import IndicatorPlan, make_plan
from agent.indicators.report import trace_result
from agent.intervals.calendar import Calendar
from agent.intervals.rows import RoleSum
from agent.service.results.balance import UnwrittenStreams
from agent.store import Store
from drivers.model import GatewayError

SLICE_S = 0.03  # of the database thread for adding up days
LONGER: tuple[PeriodKind, ...] = ("month", "year")


class NotYet(GatewayError):
    """Earlier days are still being read; called again soon."""

    retry = True


def read(config: Config) -> IndicatorPlan:
    """The site's plan. Raises ConfigError, but not for a configuration that was loaded and checked."""
    return make_plan(read_plan(config.indicators.plan), str(config.indicators.plan or "plan"))


class IndicatorResults:
    """A result producer; see ``agent.service.results.publisher.ResultProducer``."""

    def __init__(self, config: Config) -> None:
        self._calendar = Calendar(config.timezone, config.interval.length_ms)
        self._config_hash = config.hash()
        self._plan = read(config)
        self._unwritten = UnwrittenStreams(config)
        self._tallies: dict[PeriodKind, PeriodTotals] = {}
        self._starts: dict[PeriodKind, int] = {}
        self._added_ms = 0  # days up to here are in the tallies
        self._change = 0

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Results of the interval that ends here: declarations first, then figures, then the day's if it ends too."""
        entries = [
            entry for entry in _entries(store) if entry.at_ms < end_ms
        ]  # later ones are signed with a later interval
        made: list[Mapping[str, Any]] = [
            {"kind": "declaration", **entry.as_dict()} for entry in entries if start_ms <= entry.at_ms
        ]
        if self._plan.of_period("interval"):
            period = period_of(self._calendar, "interval", start_ms, end_ms)
            tally = PeriodTotals()
            tally.add(self._parts(store, start_ms, end_ms))
            made += [figure.as_dict(self._config_hash) for figure in tally.figures(self._plan, period, entries)]
        day_start, day_end = self._calendar.stretch("day", start_ms)
        if end_ms == day_end:
            made += self._day(store, day_start, day_end, entries)
        return made

    def prepare(self, store: Store, end_ms: int) -> bool:
        """Add days to month and year, up to the day that ``end_ms`` lies in. True: there are more."""
        today, _ = self._calendar.stretch("day", end_ms)
        changed = store.intervals.interval_changes(self._change)
        self._change = changed[-1][0] if changed else self._change
        if any(start < self._added_ms for _, start, _ in changed):
            self._starts = {}  # late readings changed days that were added up: start again
        for kind in LONGER:
            start, _ = self._calendar.stretch(kind, today)
            if self._starts.get(kind) != start:
                self._starts = {other: self._calendar.stretch(other, today)[0] for other in LONGER}
                self._tallies = {other: PeriodTotals() for other in LONGER}
                self._added_ms = min(self._starts.values())
        if self._added_ms >= today:
            return False
        slice_end = time.monotonic() + SLICE_S
        while self._added_ms < today and time.monotonic() < slice_end:
            start, end = self._calendar.stretch("day", self._added_ms)
            if (
                next(iter(store.intervals.interval_pages(start, end)), None) is not None
            ):  # a day without intervals costs nothing
                parts = self._parts(store, start, end)
                for kind in LONGER:
                    if start >= self._starts[kind]:
                        self._tallies[kind].add(parts)
            self._added_ms = end
        return self._added_ms < today

    def _parts(self, store: Store, start_ms: int, end_ms: int) -> list[RoleSum]:
        """Sums of single intervals, with all meters that are configured."""
        return intervals_of(store.intervals, self._calendar, start_ms, end_ms, self._unwritten.before(store, end_ms))

    def _day(self, store: Store, start: int, end: int, entries: Sequence[Declaration]) -> list[Mapping[str, Any]]:
        if any(repair.before_ms for repair in store.intervals.repairs().values()):
            raise NotYet("earlier intervals are still being compared with their packs", where="indicators")
        if self.prepare(store, start):
            raise NotYet("the days of this year are being added up", where="indicators")
        parts = self._parts(store, start, end)
        day = PeriodTotals()
        day.add(parts)
        made: list[Mapping[str, Any]] = []
        tallies: dict[PeriodKind, PeriodTotals] = {"day": day}
        for kind in LONGER:
            if self._added_ms < end:  # else these results were made earlier and could not be committed
                self._tallies[kind].add(parts)
            tallies[kind] = self._tallies[kind]
        self._added_ms = end
        for kind, tally in tallies.items():
            period = period_of(self._calendar, kind, start, end)
            made += [figure.as_dict(self._config_hash) for figure in tally.figures(self._plan, period, entries)]
        made.append(trace_result(slots_of(parts, self._calendar), period_of(self._calendar, "day", start, end)))
        return made


def _entries(store: Store) -> list[Declaration]:
    return [from_dict(plain) for plain in store.documents.declarations()]
