"""Makes the results of the site, which are balances and figures, for each interval and each longer period.

The results of an interval are made when it is closed. The results of longer periods are made when a day ends. All
functions run in the database thread. ``KnownPacks`` states from which packs the results were made, so that verifiers
can repeat them.

The sums of month and year are built day by day, in slices between other work. So no commit has to wait until a whole
year is read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent.config import Config
from agent.indicators.compute import PeriodTotals, intervals_of, period_of, slots_of
from agent.indicators.declared import Declaration, countable, from_dict, hash_of_ids
from agent.indicators.definitions import PeriodKind, read_plan
from agent.indicators.plan import IndicatorPlan, load_plan, make_plan
from agent.indicators.report import trace_result
from agent.indicators.site import KNOWN, RESTATED, SiteResults
from agent.intervals.calendar import Calendar
from agent.intervals.page_format import Column
from agent.intervals.rows import RoleSum
from agent.intervals.sums import Unwritten
from agent.intervals.tracked_points import Rule, track
from agent.service.births import derived_row
from agent.store import Store
from drivers.model import GatewayError

SLICE_S = 0.03  # one slice of adding days takes this time in the database thread
LONGER: tuple[PeriodKind, ...] = ("month", "year")


class UnwrittenStreams:
    """Finds configured streams whose intervals are not written yet. Used only in the database thread.

    A verifier finds the same streams, because it has the packs and the result ``known``, which is sealed with the other
    results.
    """

    def __init__(self, config: Config) -> None:
        entry = config.interval
        self._streams: Sequence[str] = sorted(f"{config.base}/{device.name}" for device in config.devices)
        self._calendar = Calendar(config.timezone, entry.length_ms)
        self._rule = Rule(entry.max_gap_ms, entry.demand_period_ms, entry.demand_slip_ms)
        # stream -> (sequence of its birth, columns of this birth)
        self._columns: dict[str, tuple[int, tuple[Column, ...]]] = {}

    def before(self, store: Store, at_ms: int) -> list[Unwritten]:
        """Return the streams that have packs, but whose intervals are not written up to ``at_ms``."""
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
        """Return the columns of the table in effect after pack ``seq``.

        If no interval is written yet, use the first birth.
        """
        number = store.packs.birth_seq_before(stream, max(seq, 1) + 1)
        if self._columns.get(stream, (-1, ()))[0] != number:
            birth = store.packs.birth_before(stream, number + 1)
            columns = track(json.loads(birth)["table"], self._rule).shape.columns if birth is not None else ()
            self._columns[stream] = number, columns
        return self._columns[stream][1]


class KnownPacks:
    """Produces the result ``known``.

    For each configured stream, it names the last pack that the written intervals contain.

    ``last`` is the sequence of this pack; 0: the stream has no written intervals. ``configured`` is always True: it
    states that the list has all configured streams that have packs. ``declared`` is the hash of the ids of the
    declarations that can count in the figures of this moment, so that a verifier notices if it lacks one of them.
    """

    def __init__(self, config: Config) -> None:
        self._calendar = Calendar(config.timezone, config.interval.length_ms)
        self._streams = sorted(f"{config.base}/{device.name}" for device in config.devices)

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Return the result, as a list with one element."""
        heads, seqs = store.packs.heads(), store.intervals.seqs()
        packs = [{"stream": stream, "last": seqs.get(stream, 0)} for stream in self._streams if stream in heads]
        period = period_of(self._calendar, "interval", start_ms, end_ms).as_dict()
        year_ms, _ = self._calendar.stretch("year", start_ms)
        entries = countable((entry for entry in _entries(store) if entry.at_ms < end_ms), year_ms)
        return [{"kind": KNOWN, "period": period, "packs": packs, "configured": True, "declared": hash_of_ids(entries)}]


class BalanceResults:
    """Produces the balances; see ``agent.service.results.publisher.ResultProducer``."""

    def __init__(self, config: Config) -> None:
        calendar = Calendar(config.timezone, config.interval.length_ms)
        rows = [derived_row(one) for one in config.derived]
        self._calendar, self._results = calendar, SiteResults(calendar, config.base, rows, config.hash())
        self._unwritten = UnwrittenStreams(config)

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Return the balances of the interval. If the day ends with this interval, also return those of the day."""
        periods = [period_of(self._calendar, "interval", start_ms, end_ms)]
        day_start, day_end = self._calendar.stretch("day", start_ms)
        if end_ms == day_end:
            periods.append(period_of(self._calendar, "day", day_start, day_end))
        unwritten = self._unwritten.before(store, end_ms)
        return [result for period in periods for result in self._results.of(store.intervals, period, unwritten)]


class NotYet(GatewayError):
    """Earlier days are still being compared or summed. The caller tries again soon."""

    retry = True


def read(config: Config) -> IndicatorPlan:
    """Return the site's plan, as it was when the configuration was read."""
    entry = config.indicators
    return load_plan(entry.plan_text, str(entry.plan)) if entry.plan is not None else make_plan(read_plan(None))


class IndicatorResults:
    """Produces declarations and figures; see ``agent.service.results.publisher.ResultProducer``."""

    def __init__(self, config: Config) -> None:
        self._calendar = Calendar(config.timezone, config.interval.length_ms)
        self._config_hash = config.hash()
        self._plan = read(config)
        self._stream = f"{config.base}/_indicators"
        self._first_ms: int | None = None  # start of the first interval with results, until its results are committed
        self._unwritten = UnwrittenStreams(config)
        self._tallies: dict[PeriodKind, PeriodTotals] = {}
        self._starts: dict[PeriodKind, int] = {}
        self._added_ms = 0  # ``_tallies`` contain the days up to this time in UTC ms
        self._change = 0

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Return new declarations, then the figures of the interval.

        The first interval of a day restates the declarations that can still count. So an export has them even if it
        begins long after they were entered, or if retention has deleted the packs of that time.

        At the end of a day, also return the figures of the day and of longer periods.
        """
        entries = [
            entry for entry in _entries(store) if entry.at_ms < end_ms
        ]  # a later declaration is signed with the interval that contains its time
        new_ms = 0 if self._is_first(store, start_ms) else start_ms
        made: list[Mapping[str, Any]] = [
            {"kind": "declaration", **entry.as_dict()} for entry in entries if new_ms <= entry.at_ms
        ]
        day_start, day_end = self._calendar.stretch("day", start_ms)
        if start_ms == day_start:
            year_ms, _ = self._calendar.stretch("year", start_ms)
            made += [
                {"kind": RESTATED, **entry.as_dict()} for entry in countable(entries, year_ms) if entry.at_ms < new_ms
            ]
        if self._plan.of_period("interval"):
            period = period_of(self._calendar, "interval", start_ms, end_ms)
            tally = PeriodTotals()
            tally.add(self._parts(store, start_ms, end_ms))
            made += [figure.as_dict(self._config_hash) for figure in tally.figures(self._plan, period, entries)]
        if end_ms == day_end:
            made += self._day(store, day_start, day_end, entries)
        return made

    def _is_first(self, store: Store, start_ms: int) -> bool:
        """Return True if this interval is the first one with results. Its pack also has all earlier declarations."""
        if self._stream in store.packs.heads():
            return False
        # several intervals are made before the first commit; after a failed commit, they are made again
        self._first_ms = start_ms if self._first_ms is None else min(self._first_ms, start_ms)
        return start_ms == self._first_ms

    def prepare(self, store: Store, end_ms: int) -> bool:
        """Add days to the sums of month and year, up to the day that contains ``end_ms``.

        Returns True if more days are left.
        """
        today, tomorrow = self._calendar.stretch("day", end_ms)
        changed = store.intervals.interval_changes(self._change)
        self._change = changed[-1][0] if changed else self._change
        if any(start < self._added_ms for _, start, _ in changed):
            self._starts = {}  # late readings have changed days that are already added, so the sums start again
        if self._added_ms > tomorrow:
            self._starts = {}  # the commit of several days failed, so their sums start again
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
            ):  # skip a day without intervals, so that it costs no time
                parts = self._parts(store, start, end)
                for kind in LONGER:
                    if start >= self._starts[kind]:
                        self._tallies[kind].add(parts)
            self._added_ms = end
        return self._added_ms < today

    def _parts(self, store: Store, start_ms: int, end_ms: int) -> list[RoleSum]:
        """Return the sums of each interval, by role, over all configured meters."""
        return intervals_of(store.intervals, self._calendar, start_ms, end_ms, self._unwritten.before(store, end_ms))

    def _day(self, store: Store, start: int, end: int, entries: Sequence[Declaration]) -> list[Mapping[str, Any]]:
        if any(repair.before_ms for repair in store.intervals.repairs().values()):
            raise NotYet("the agent is still comparing earlier intervals with their packs", where="indicators")
        if self.prepare(store, start):
            raise NotYet("the agent is still summing the days of this year", where="indicators")
        parts = self._parts(store, start, end)
        day = PeriodTotals()
        day.add(parts)
        made: list[Mapping[str, Any]] = []
        tallies: dict[PeriodKind, PeriodTotals] = {"day": day}
        for kind in LONGER:
            if self._added_ms < end:  # False if the day was added before, and the commit of the results then failed
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
