"""Rebuilds intervals: reads the packs of a stream again into a new ledger, in slices.

The growth of a counter is known only after a first good reading, and it may take 26 hours until later readings confirm
a step. So the replay begins with the packs 26 hours before the first interval that must be rebuilt. If a counter has no
reading in this time, the replay begins earlier still. The written intervals tell when the counter was last read.

``IntervalRepair`` compares written intervals with their packs in the background. This is needed if the intervals were
written with other interval settings. One day of one stream is
rebuilt at a time, newest day first. The differences are appended as corrections, because the packs are right. The
progress of each stream is stored in the same transaction as the corrections.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.intervals.anomalies import PATIENCE_MS
from agent.intervals.calendar import Calendar
from agent.intervals.contradictions import FOREVER, corrections
from agent.intervals.gap_sums import GapRow, added
from agent.intervals.ledger import Ledger, take_body
from agent.intervals.page_format import DecodedPage, PageReader, PageSchema, Row, encode, end_reading
from agent.intervals.tracked_points import Rule, track
from agent.pack import seconds
from agent.store import NewGaps, NewPage, Repair, Store
from drivers.model import GatewayError

log = logging.getLogger("meterhouse.intervals")
SLICE_S = 0.02  # one slice of the comparison takes this time in the database thread
PACKS = 32  # number of packs that one query reads

RebuiltRows = list[tuple[PageSchema, list[Row]]]


@dataclass(slots=True)
class PackReplay:
    """A stream whose packs are being read again.

    ``trusted_ms``: from this time on, the intervals are the same as if all packs of the stream had been read.
    """

    stream: str
    ledger: Ledger
    trusted_ms: int
    is_from_the_first: bool  # True: the replay begins with the oldest pack in the store
    events: set[tuple[str, str, int]] = field(default_factory=set)  # counter events in the packs: (point, kind, UTC ms)

    def read(self, store: Store, last: int, deadline_s: float) -> bool:
        """Read packs up to sequence ``last``, or until ``time.monotonic()`` passes the deadline.

        Returns True if all of them are read.
        """
        ledger = self.ledger
        while ledger.seq < last and time.monotonic() < deadline_s:
            page = store.packs.after(self.stream, ledger.seq, last, PACKS)
            if not page:
                ledger.seq = last  # the store no longer has the remaining packs
                break
            for pack in page:
                body: Mapping[str, Any] = json.loads(pack.data, parse_float=str)
                take_body(ledger, body)
                counts = [event for event in body.get("events", ()) if event.get("event") == "counter"]
                self.events |= {(str(e["point"]), str(e["kind"]), round(float(e["t"]) * 1000)) for e in counts}
        return ledger.seq >= last


def begin_replay(store: Store, stream: str, calendar: Calendar, rule: Rule, from_ms: int) -> PackReplay:
    """Begin a replay.

    Its intervals are right from ``from_ms`` on, or from a later time on if older packs are missing.
    """
    first, first_ms = store.packs.first_pack(stream)
    trusted_ms = calendar.floor(min(from_ms, _oldest_last_reading(store, stream, calendar, rule, from_ms, first_ms)))
    seq = store.packs.seq_at(stream, trusted_ms - PATIENCE_MS)
    ledger = Ledger(stream, calendar, rule)
    is_from_the_first = seq <= first
    if is_from_the_first:
        trusted_ms = 0 if first <= 1 else max(trusted_ms, first_ms + PATIENCE_MS)
    if (birth := store.packs.birth_before(stream, seq)) is not None:
        ledger.use(json.loads(birth)["table"])
    ledger.seq = seq - 1
    return PackReplay(stream, ledger, trusted_ms, is_from_the_first)


def _oldest_last_reading(store: Store, stream: str, calendar: Calendar, rule: Rule, at_ms: int, first_ms: int) -> int:
    """Find when each counter was last read before ``at_ms``.

    Return the oldest of these times; ``at_ms`` if there is none.

    Readings after ``at_ms`` can change the intervals from the returned time on. The search goes back in time, to
    ``first_ms`` at most.
    """
    if at_ms <= first_ms:
        return at_ms
    birth = store.packs.birth_before(stream, store.packs.seq_at(stream, at_ms) + 1)
    columns = track(json.loads(birth)["table"], rule).shape.columns if birth is not None else ()
    missing = {(column.point, column.epoch) for column in columns}
    end_ms = oldest = at_ms
    while missing and end_ms > first_ms:
        start_ms = calendar.stretch("day", end_ms - 1)[0]
        found = _last_readings(store, stream, start_ms, end_ms, missing)
        oldest = min(oldest, *found.values(), at_ms)
        missing -= found.keys()
        end_ms = start_ms
    return oldest


def _last_readings(
    store: Store, stream: str, start_ms: int, end_ms: int, wanted: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """Return when each wanted counter was last read in a time range: (point, epoch) -> UTC ms."""
    found: dict[tuple[str, str], int] = {}
    for t in map(DecodedPage, store.intervals.interval_pages(start_ms, end_ms, [stream])):
        for number, column in enumerate(t.shape.columns):
            key = column.point, column.epoch
            if key not in wanted:
                continue
            for n in reversed(range(t.page.rows)):
                mark = end_reading(t, number, n, "last") if t.start[n] < end_ms else None
                if mark is not None and mark.time_ms < end_ms:
                    found[key] = max(found.get(key, 0), mark.time_ms)
                    break
    return found


def split_rows(made: Sequence[tuple[PageSchema, Sequence[Row]]], at_ms: int) -> tuple[RebuiltRows, RebuiltRows]:
    """Split rows into those that begin before ``at_ms``, and the rest."""
    before = [(shape, [row for row in rows if row.start_ms < at_ms]) for shape, rows in made]
    after = [(shape, [row for row in rows if row.start_ms >= at_ms]) for shape, rows in made]
    return [pair for pair in before if pair[1]], [pair for pair in after if pair[1]]


def corrected_pages(
    store: Store,
    replay: PackReplay,
    calendar: Calendar,
    made: RebuiltRows,
    to_ms: int,
    next_ms: int = FOREVER,
    open_ms: int = FOREVER,
) -> list[NewPage]:
    """Return pages with corrections. With these pages, the written intervals equal those of the replay.

    Only intervals from ``replay.trusted_ms`` to ``to_ms`` are compared.

    Args:
        made: the rows of the replay.
        next_ms: from this time on, the ledger of the replay itself writes the intervals.
        open_ms: see ``agent.intervals.contradictions.corrections``.
    """
    stream = replay.stream
    first = max(replay.trusted_ms, min((row.start_ms for _, rows in made for row in rows), default=min(next_ms, to_ms)))
    pages = store.intervals.interval_pages(first, to_ms, [stream]) if first < to_ms else ()

    def is_coming(start_ms: int, end_ms: int) -> bool:
        return start_ms >= next_ms and calendar.stretch("interval", start_ms) != (start_ms, end_ms)

    is_whole = not replay.trusted_ms
    true = corrections(
        pages,
        made,
        first,
        to_ms,
        is_whole=is_whole,
        open_ms=open_ms,
        decided_ms=replay.ledger.open_ms(),
        is_coming=is_coming,
    )
    return new_pages(stream, true, calendar)


def above_written(store: Store, stream: str, made: RebuiltRows, until_ms: int) -> RebuiltRows:
    """Give each correction a higher revision than the written rows of the same interval have. Returns all rows.

    Args:
        until_ms: intervals had been written up to this time before the ledger was rebuilt. So rows that begin before it
            may be corrections even if their revision is 0.
    """
    late = [row for _, rows in made for row in rows if row.revision or row.start_ms < until_ms]
    if not late:
        return made
    written: dict[int, int] = {}
    for page in store.intervals.interval_pages(min(r.start_ms for r in late), max(r.end_ms for r in late), [stream]):
        fields = PageReader(page.body)
        for start, revision in zip(fields.row("start"), fields.row("revision"), strict=True):
            written[start] = max(written.get(start, 0), revision)

    def above(row: Row) -> Row:
        if not row.revision and row.start_ms not in written:
            return row
        written[row.start_ms] = 1 + written.get(row.start_ms, 0)
        return replace(row, revision=written[row.start_ms])

    return [(shape, [above(row) for row in rows]) for shape, rows in made]


def new_pages(
    stream: str, made: Sequence[tuple[PageSchema, Sequence[Row]]], calendar: Calendar, published_ms: int = 0
) -> list[NewPage]:
    """Make pages for the store. A page has rows of one day only, because queries search only a day back.

    Args:
        published_ms: results are published up to this time. Rows that begin before it are marked as changes.
    """
    out = []
    for shape, rows in made:
        days: dict[object, list[Row]] = {}
        for row in rows:
            days.setdefault(calendar.day(row.start_ms), []).append(row)
        for mine in days.values():
            changed = {(row.start_ms, row.end_ms) for row in mine if row.revision or row.start_ms < published_ms}
            end_ms, body = max(row.end_ms for row in mine), encode(mine, len(shape.columns))
            out.append(NewPage(stream, mine[0].start_ms, end_ms, shape.encode(), body, tuple(sorted(changed))))
    return out


def replaced_gaps(replay: PackReplay, rows: Sequence[GapRow], to_ms: int) -> list[NewGaps]:
    """Return the gaps of a replay, which replace the stored gaps from ``trusted_ms`` up to ``to_ms``."""
    from_ms = replay.trusted_ms
    if from_ms >= to_ms:
        return []
    mine = added(row for row in rows if from_ms <= row.start_ms < to_ms)
    return [NewGaps(replay.stream, mine, replaced=(from_ms, to_ms))]


@dataclass(slots=True)
class _Day:
    """One day of one stream that is being compared. The day ends at ``repair.before_ms``."""

    repair: Repair
    replay: PackReplay
    head: int
    made: RebuiltRows = field(default_factory=list)
    gaps: list[GapRow] = field(default_factory=list)

    def is_over(self) -> bool:
        """Return True if enough packs are read: all intervals of the day are made, and no later pack can change them.

        One of these must be true: each counter has a later reading, the packs of 26 more hours are read, or all packs
        are read.
        """
        ledger, end_ms = self.replay.ledger, self.repair.before_ms
        if ledger.seq >= self.head or ledger.to_ms > end_ms + PATIENCE_MS:
            return True
        return ledger.row_builder.next_ms >= end_ms and ledger.open_ms("counter") >= end_ms


class IntervalRepair:
    """Compares written intervals with packs, and corrects them. Used only in the database thread."""

    def __init__(self, calendar: Calendar, rule: Rule) -> None:
        self._calendar, self._rule = calendar, rule
        self._day: _Day | None = None
        self.left: dict[str, Repair] = {}  # unfinished repairs, by stream
        self.oldest_ms = 0  # start of the oldest pack of the streams in ``left``; 0: all repairs are finished
        self.corrected = 0  # number of intervals corrected since the start

    def open(self, store: Store) -> None:
        """Continue unfinished repairs. ``add`` begins the repair of a stream after its packs are read."""
        self.left = {stream: repair for stream, repair in store.intervals.repairs().items() if repair.before_ms}
        self._look_back(store)

    def add(self, store: Store, repair: Repair) -> None:
        """Compare the older days of a stream in later steps. The interval builder rebuilds the newest day itself."""
        if repair.before_ms:
            self.left[repair.stream] = repair
            self._look_back(store)

    def _look_back(self, store: Store) -> None:
        self.oldest_ms = min((store.packs.first_pack(stream)[1] for stream in self.left), default=0)

    def facts(self) -> dict[str, Any]:
        """Return facts for the status; empty if nothing is left to compare.

        ``streams``: the number of streams that are still to be compared. ``compared_from``: all intervals from this
        time on are compared. ``packs_from``: the time of the oldest pack. The comparison goes back in time and ends
        there.
        """
        if not (left := list(self.left.values())):  # a copy, because the database thread may change it meanwhile
            return {}
        before_ms = max(repair.before_ms for repair in left)
        return {"streams": len(left), "compared_from": seconds(before_ms), "packs_from": seconds(self.oldest_ms)}

    def step(self, store: Store) -> bool:
        """Do one slice of the comparison, newest unfinished day first. Returns True if there is more to do."""
        end_s = time.monotonic() + SLICE_S
        while self.left and time.monotonic() < end_s:
            repair = max(self.left.values(), key=lambda one: (one.before_ms, one.stream))
            try:
                if self._day is None or self._day.repair != repair:
                    self._day = self._begin(store, repair)
                self._read(store, self._day, end_s)
            except GatewayError:  # the disk failed; the next call begins this day again
                self._day = None
                raise
            except Exception:  # a bug in a sum must never stop the sealing of readings
                log.exception("internal error: older intervals of %s remain unchanged", repair.stream)
                self._keep(store, repair, [], [], 0)
        return bool(self.left)

    def _begin(self, store: Store, repair: Repair) -> _Day:
        from_ms = self._calendar.stretch("day", repair.before_ms - 1)[0]
        replay = begin_replay(store, repair.stream, self._calendar, self._rule, from_ms)
        return _Day(repair, replay, store.packs.head(repair.stream).seq)

    def _read(self, store: Store, day: _Day, end_s: float) -> None:
        replay, repair = day.replay, day.repair
        while not day.is_over():
            if time.monotonic() >= end_s:
                return
            replay.read(store, min(day.head, replay.ledger.seq + PACKS), end_s)
            day.made += split_rows(replay.ledger.rows(), repair.before_ms)[0]
            day.gaps += replay.ledger.gap_rows()
            replay.ledger.counter_events = []
        before_ms = 0 if replay.is_from_the_first else min(replay.trusted_ms, repair.before_ms - 1)
        pages = corrected_pages(store, replay, self._calendar, day.made, repair.before_ms)
        self._keep(store, repair, pages, replaced_gaps(replay, day.gaps, repair.before_ms), before_ms)

    def _keep(
        self, store: Store, repair: Repair, pages: Sequence[NewPage], gaps: Sequence[NewGaps], before_ms: int
    ) -> None:
        kept = Repair(repair.stream, repair.seq, before_ms)
        store.intervals.add(pages, {}, [kept], gaps)
        self._day = None
        self.corrected += sum(len(page.changed) for page in pages)
        if before_ms:
            self.left[repair.stream] = kept
            return
        del self.left[repair.stream]
        self._look_back(store)
        if not self.left:
            log.info("all written intervals were compared with their packs; corrected: %d", self.corrected)
