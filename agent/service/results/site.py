"""The site's results: its balance and figures, for each interval when it closes and for longer periods at their end.

Called in the database thread. ``KnownPacks`` states up to which pack intervals were written at that time, for verifiers
that repeat the results. The sums of month and year are built day by day, in slices between other work, so that no
commit waits while a whole year is read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent.config import Config
from agent.indicators.compute import PeriodTotals, intervals_of, period_of, slots_of
from agent.indicators.declared import Declaration, from_dict
from agent.indicators.definitions import PeriodKind, read_plan
from agent.indicators.plan import IndicatorPlan, make_plan
from agent.indicators.report import trace_result
from agent.indicators.site import KNOWN, SiteResults
from agent.intervals.calendar import Calendar
from agent.intervals.page_format import Column
from agent.intervals.rows import RoleSum
from agent.intervals.sums import Unwritten
from agent.intervals.tracked_points import Rule, track
from agent.service.births import derived_row
from agent.store import Store
from drivers.model import GatewayError

SLICE_S = 0.03  # time in the database thread for adding up days
LONGER: tuple[PeriodKind, ...] = ("month", "year")


class UnwrittenStreams:
    """Configured streams whose intervals are not written yet. Used only in the database thread.

    A verifier derives the same from the packs and the result ``known``, which is sealed with the others.
    """

    def __init__(self, config: Config) -> None:
        entry = config.interval
        self._streams: Sequence[str] = sorted(f"{config.base}/{device.name}" for device in config.devices)
        self._calendar = Calendar(config.timezone, entry.length_ms)
        self._rule = Rule(entry.max_gap_ms, entry.demand_period_ms, entry.demand_slip_ms)
        self._columns: dict[str, tuple[int, tuple[Column, ...]]] = {}  # and the sequence of their birth

    def before(self, store: Store, at_ms: int) -> list[Unwritten]:
        """Streams with packs whose intervals are not written up to an instant."""
        heads, seqs = store.packs.heads(), store.intervals.seqs()
        out = []
        for stream in self._streams:
            if stream not in heads:
                continue
            from_ms = store.intervals.end_ms(stream) or self._calendar.floor(store.packs.first_pack(stream)[1])
            if from_ms < at_ms:
                out.append(Unwritten(stream, from_ms, self._columns_of(store, stream, seqs.get(stream, 0))))
        return out

    def _columns_of(self, store: Store, stream: str, seq: int) -> tuple[Column, ...]:
        """The columns of the table in effect after pack ``seq``, or of the first birth if nothing was written yet."""
        number = store.packs.birth_seq_before(stream, max(seq, 1) + 1)
        if self._columns.get(stream, (-1, ()))[0] != number:
            birth = store.packs.birth_before(stream, number + 1)
            columns = track(json.loads(birth)["table"], self._rule).shape.columns if birth is not None else ()
            self._columns[stream] = number, columns
        return self._columns[stream][1]


class KnownPacks:
    """A result producer: up to which pack of each configured stream intervals are written when results are made.

    ``last`` is 0 for a stream without written intervals. ``configured``: no stream is left out.
    """

    def __init__(self, config: Config) -> None:
        self._calendar = Calendar(config.timezone, config.interval.length_ms)
        self._streams = sorted(f"{config.base}/{device.name}" for device in config.devices)

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """One result."""
        heads, seqs = store.packs.heads(), store.intervals.seqs()
        packs = [{"stream": stream, "last": seqs.get(stream, 0)} for stream in self._streams if stream in heads]
        period = period_of(self._calendar, "interval", start_ms, end_ms).as_dict()
        return [{"kind": KNOWN, "period": period, "packs": packs, "configured": True}]


class BalanceResults:
    """A result producer; see ``agent.service.results.publisher.ResultProducer``."""

    def __init__(self, config: Config) -> None:
        calendar = Calendar(config.timezone, config.interval.length_ms)
        rows = [derived_row(one) for one in config.derived]
        self._calendar, self._results = calendar, SiteResults(calendar, config.base, rows, config.hash())
        self._unwritten = UnwrittenStreams(config)

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Results of the interval that ends here, then of the day if it ends too."""
        periods = [period_of(self._calendar, "interval", start_ms, end_ms)]
        day_start, day_end = self._calendar.stretch("day", start_ms)
        if end_ms == day_end:
            periods.append(period_of(self._calendar, "day", day_start, day_end))
        unwritten = self._unwritten.before(store, end_ms)
        return [result for period in periods for result in self._results.of(store.intervals, period, unwritten)]


class NotYet(GatewayError):
    """Earlier days are still being read; the caller tries again soon."""

    retry = True


def read(config: Config) -> IndicatorPlan:
    """The site's plan. Raises ConfigError, but never for a configuration that was loaded and checked."""
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
        """Results of the interval that ends here: declarations, then figures, then those of the day if it ends too."""
        entries = [
            entry for entry in _entries(store) if entry.at_ms < end_ms
        ]  # later ones are signed with later intervals
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
        """Add days to month and year, up to the day that contains ``end_ms``. True: more days are left."""
        today, _ = self._calendar.stretch("day", end_ms)
        changed = store.intervals.interval_changes(self._change)
        self._change = changed[-1][0] if changed else self._change
        if any(start < self._added_ms for _, start, _ in changed):
            self._starts = {}  # late readings changed days already added up: start again
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
        """Sums of single intervals, with all configured meters."""
        return intervals_of(store.intervals, self._calendar, start_ms, end_ms, self._unwritten.before(store, end_ms))

    def _day(self, store: Store, start: int, end: int, entries: Sequence[Declaration]) -> list[Mapping[str, Any]]:
        if any(repair.before_ms for repair in store.intervals.repairs().values()):
            raise NotYet("earlier intervals are still being compared with their packs", where="indicators")
        if self.prepare(store, start):
            raise NotYet("the days of this year are being summed", where="indicators")
        parts = self._parts(store, start, end)
        day = PeriodTotals()
        day.add(parts)
        made: list[Mapping[str, Any]] = []
        tallies: dict[PeriodKind, PeriodTotals] = {"day": day}
        for kind in LONGER:
            if self._added_ms < end:  # else these results were made before but could not be committed
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
