"""Intervals from exported packs, as the gateway knew them when it made a figure. Later packs are ignored.

Later packs can correct an interval: a device answers again, or a suspicious counter step is accepted or rejected. So
each interval row is stored with the sequence of the pack that completed it. The gateway's results record the last pack
of each stream at their time (``known``). Rows that later packs completed do not count.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from typing import Any

from agent.indicators.compute import PeriodTotals, intervals_of
from agent.indicators.definitions import PeriodKind
from agent.indicators.figure import Period
from agent.intervals.calendar import Calendar
from agent.intervals.page_format import Column, PageSchema, Row, StoredPage, encode
from agent.intervals.rows import RoleSum
from agent.intervals.sums import Unwritten
from agent.intervals.tracked_points import Rule, track


@dataclass(slots=True)
class StreamInfo:
    """A stream: its point tables by the sequence of their birth, and the time (UTC ms) that its packs cover."""

    births: Mapping[int, Mapping[str, Any]]
    from_ms: int = 0
    to_ms: int = 0


@dataclass(slots=True)
class _FirstRevisions:
    """The first revisions of a stream's intervals, in the order of writing. ``packs``: the packs that completed them.

    ``ends`` never decreases: each item is the latest end of all intervals so far.
    """

    packs: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))

    def end_at(self, pack: int) -> int:
        """Return the latest end of the intervals that packs up to ``pack`` completed, in ms; 0 if there are none."""
        at = bisect_right(self.packs, pack)
        return self.ends[at - 1] if at else 0

    def first_between(self, before: int, pack: int) -> int | None:
        """Return the earliest start of the intervals that packs after ``before``, up to ``pack``, completed.

        None: there are no such intervals.
        """
        at, end = bisect_right(self.packs, before), bisect_right(self.packs, pack)
        return min(self.starts[at:end]) if at < end else None


class IntervalsAsOf:
    """The interval rows of all streams, in pages of one day. Only packs up to ``seen`` are taken into account.

    ``seen``: the sequence of the newest pack to take into account, by stream.
    """

    def __init__(self, calendar: Calendar, rule: Rule, streams: Mapping[str, StreamInfo]) -> None:
        self.calendar, self._rule, self._streams = calendar, rule, streams
        self.ready_ms = 0  # results of periods that begin before this time cannot be recomputed
        self.seen: dict[str, int] = {}
        # the configured streams; None: the results are of a version that did not record them
        self.configured: Collection[str] | None = None
        # by stream and day; the array has the pack of each row
        self._pages: dict[str, dict[date, list[tuple[StoredPage, array[int]]]]] = {}
        self._written: dict[str, _FirstRevisions] = {}
        self._late: dict[str, list[tuple[int, int]]] = {}  # by stream: (pack, start of the interval) of each correction
        self._late_days: set[date] = set()
        self._parts = lru_cache(maxsize=4)(self._parts_of_day)
        self._columns = lru_cache(maxsize=4096)(self._columns_at)

    @property
    def ready(self) -> str:
        """The time ``ready_ms`` as local time, for messages."""
        return f"{self.calendar.local(self.ready_ms):%Y-%m-%d %H:%M}"

    def take(self, stream: str, made: Iterable[tuple[int, PageSchema, list[Row]]]) -> None:
        """Add all rows of a stream, in the order in which they were made."""
        held: list[Row] = []
        packs = array("q")
        written = self._written.setdefault(stream, _FirstRevisions())
        front: tuple[PageSchema, date] | None = None
        for pack, shape, rows in made:
            for row in rows:
                key = shape, self.calendar.day(row.start_ms)
                if held and front is not None and (key != front or row.revision or held[-1].revision):
                    self._keep(stream, *front, held, packs)
                    held, packs = [], array("q")
                front = key
                held.append(row)
                packs.append(pack)
                if row.revision or row.turn:
                    self._late_days.add(key[1])
                    self._late.setdefault(stream, []).append((pack, row.start_ms))
                if not row.revision:
                    written.packs.append(pack)
                    written.starts.append(row.start_ms)
                    written.ends.append(max(row.end_ms, written.ends[-1] if written.ends else 0))
        if held and front is not None:
            self._keep(stream, *front, held, packs)

    def _keep(self, stream: str, shape: PageSchema, day: date, rows: list[Row], packs: array[int]) -> None:
        mine, text = self._pages.setdefault(stream, {}).setdefault(day, []), shape.encode()
        end_ms, body = max(row.end_ms for row in rows), encode(rows, len(shape.columns), compress=True)
        mine.append((StoredPage(len(mine) + 1, stream, rows[0].start_ms, end_ms, text, body), packs))

    def see(self, stream: str, pack: int) -> list[int]:
        """Take packs up to ``pack`` into account. Returns the starts of the intervals that the added packs corrected.

        If the added packs also completed intervals, the earliest start of these is returned too.
        """
        before = self.seen.get(stream, 0)
        if pack <= before:
            return []
        self.seen[stream] = pack
        late = [start for seq, start in self._late.get(stream, ()) if before < seq <= pack]
        first = self._written.get(stream, _FirstRevisions()).first_between(before, pack)
        return late if first is None else [*late, first]

    def unwritten(self, until_ms: int) -> list[Unwritten]:
        """Return the configured streams whose intervals are not completed up to ``until_ms``."""
        out = []
        for stream, info in self._streams.items():
            if not self._is_configured(stream, info, until_ms):
                continue
            from_ms = self._end_of(stream) or self.calendar.floor(info.from_ms)
            if from_ms < until_ms:
                out.append(Unwritten(stream, from_ms, self._columns(stream, max(self.seen.get(stream, 0), 1))))
        return out

    def _end_of(self, stream: str) -> int:
        return self._written.get(stream, _FirstRevisions()).end_at(self.seen.get(stream, 0))

    def _is_configured(self, stream: str, info: StreamInfo, until_ms: int) -> bool:
        """Return True if the stream was configured at ``until_ms``.

        If the results do not record this, the stream counts as configured if its packs cover that time.
        """
        if self.configured is not None:
            return stream in self.configured
        return info.from_ms < until_ms <= info.to_ms

    def _columns_at(self, stream: str, seq: int) -> tuple[Column, ...]:
        births = self._streams[stream].births
        before = max((birth for birth in births if birth <= seq), default=0)
        return track(births[before], self._rule).shape.columns if before else ()

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterator[StoredPage]:
        """See ``agent.intervals.query.PageSource``."""
        days = {
            self.calendar.day(from_ms),
            *(self.calendar.day(at) for at, _ in self.calendar.stretches("day", from_ms, to_ms)),
        }
        for stream in sorted(self._pages):
            for day in sorted(days):
                for page, packs in self._pages[stream].get(day, ()):
                    # the rows are in the order of their packs, so the first ``count`` rows are those of the packs seen
                    # so far
                    if count := bisect_right(packs, self.seen.get(stream, 0)):
                        yield page if count == len(packs) else replace(page, first=count)

    def parts(self, start_ms: int, end_ms: int) -> list[RoleSum]:
        """Return the role sums of each interval between two times of the same day."""
        day = self.calendar.day(start_ms)
        if not self.is_settled(day, end_ms):  # slow, because the sums are computed again from the packs seen so far
            return intervals_of(self, self.calendar, start_ms, end_ms, self.unwritten(end_ms))
        parts, starts = self._parts(day)
        return parts[bisect_right(starts, start_ms - 1) : bisect_right(starts, end_ms - 1)]

    def _parts_of_day(self, day: date) -> tuple[list[RoleSum], list[int]]:
        """Return the role sums of all intervals of a settled day, and their starts. The caller caches the last days."""
        with self.all_seen():
            parts = intervals_of(self, self.calendar, *self.calendar.stretch("day", self.calendar.midnight(day)))
        return parts, [one.start_ms for one in parts]

    def is_settled(self, day: date, until_ms: int) -> bool:
        """Return True if the day has no corrections, and its intervals up to ``until_ms`` are taken into account."""
        if day in self._late_days or self.unwritten(until_ms):
            return False
        return all(self._end_of(stream) >= min(until_ms, w.ends[-1]) for stream, w in self._written.items() if w.ends)

    @contextmanager
    def all_seen(self) -> Iterator[None]:
        """Take all packs into account while the context is open."""
        seen, self.seen = self.seen, dict.fromkeys(self._pages, 1 << 62)
        try:
            yield
        finally:
            self.seen = seen


class PeriodSums:
    """Running sums of periods. As figures come in order of time, the sum of a month only grows by each new day."""

    def __init__(self, book: IntervalsAsOf) -> None:
        self._book = book
        self._kept: dict[tuple[PeriodKind, int], tuple[PeriodTotals, int]] = {}

    def see(self, last: Mapping[str, int]) -> None:
        """Take packs up to ``last`` (a sequence by stream) into account, and drop the sums that these packs change."""
        for stream, pack in last.items():
            for start in self._book.see(stream, pack):
                for key, (_, added_ms) in list(self._kept.items()):
                    if key[1] <= start < added_ms:
                        del self._kept[key]

    def tally(self, period: Period) -> PeriodTotals:
        """Return the sums of a period up to its ``until_ms``."""
        key = period.kind, period.start_ms
        tally, added_ms = self._kept.get(key, (PeriodTotals(), period.start_ms))
        if added_ms > period.until_ms:
            tally, added_ms = PeriodTotals(), period.start_ms
        for day_start, day_end in self._book.calendar.stretches("day", added_ms, period.until_ms):
            start, end = max(day_start, added_ms), min(day_end, period.until_ms)
            tally.add(self._book.parts(start, end))
        self._kept = {k: v for k, v in self._kept.items() if k[0] != period.kind} | {key: (tally, period.until_ms)}
        return tally


class SequenceRanges:
    """The sequences of all packs of a stream that are present, stored as ranges."""

    def __init__(self, seqs: Iterable[int]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for seq in sorted(seqs):
            if self._ends and seq == self._ends[-1] + 1:
                self._ends[-1] = seq
            else:
                self._starts.append(seq)
                self._ends.append(seq)

    def missing(self, first: int, last: int) -> int:
        """Return the lowest missing sequence from ``first`` to ``last``; 0 if all are present."""
        at = bisect_right(self._starts, first) - 1
        if at < 0 or self._ends[at] < first:
            return first
        return 0 if self._ends[at] >= last else self._ends[at] + 1
