"""The interval builder: makes intervals from records that were just committed and, after a start, from packs.

It runs in the database thread after the commit, so sealing never waits for it. If a kill loses intervals, they are made
again from the packs.

After a start, the packs of a stream that have no intervals yet are read in slices. Until all of them are read, new
records of the stream are ignored. From then on, its readings come directly from the ring, which takes a few nanoseconds
for each. If the stored state of a stream is not usable, the intervals of its newest day are rebuilt from packs.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.intervals.calendar import Calendar
from agent.intervals.gap_sums import GapRow, gaps_of_pack
from agent.intervals.ledger import Ledger
from agent.intervals.page_format import PageReader, PageSchema, encode, merged
from agent.intervals.rows import CounterEvent, PackSpan
from agent.intervals.state import StateError
from agent.intervals.tracked_points import Rule
from agent.pack import BirthTable, seconds
from agent.service.results.rebuild import (
    IntervalRepair,
    PackReplay,
    RebuiltRows,
    above_written,
    begin_replay,
    corrected_pages,
    new_pages,
    replaced_gaps,
    split_rows,
)  # fmt: skip
from agent.service.seal_jobs import SealedSegment
from agent.store import NewGaps, NewPage, Repair, Store
from drivers.model import GatewayError

log = logging.getLogger("meterhouse.intervals")
SLICE_S = 0.03  # one slice of reading packs takes this time in the database thread
# the pages of a day are merged this long after its end, because most corrections exist by then
FOLD_AFTER_MS = 3 * 3_600_000

Event = tuple[str, dict[str, Any]]  # stream, event


@dataclass(slots=True)
class _StreamState:
    """The ledger of a stream, and the replay that reads its packs."""

    ledger: Ledger
    replay: PackReplay
    # table of the newest committed segment; None: no segment was committed since the start
    table: BirthTable | None = None
    rebuild: _Rebuild | None = None
    rebuilt_ms: int = 0  # end of the intervals that had been written before a rebuild; 0: there was no rebuild


@dataclass(slots=True)
class _Rebuild:
    """The rebuild of a ledger from packs. Intervals of an earlier run are already written."""

    written_ms: int  # end of the intervals that are already written
    repair: Repair | None  # the repair of older intervals, which begins after the rebuild; None: no repair is needed
    made: RebuiltRows = field(default_factory=list)  # rebuilt rows that are to be compared with the written rows
    # gaps of all intervals made so far; they are written at the end of the rebuild
    gaps: list[GapRow] = field(default_factory=list)


@dataclass(slots=True)
class _Unsaved:
    """Pages, states, repairs and gaps that the next transaction will store."""

    pages: list[NewPage] = field(default_factory=list)
    states: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    repairs: list[Repair] = field(default_factory=list)
    gaps: list[NewGaps] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.pages or self.states or self.repairs or self.gaps)

    def store(self, store: Store) -> None:
        store.intervals.add(self.pages, self.states, self.repairs, self.gaps)

    def forget(self, stream: str) -> None:
        """Forget the unsaved data of a stream. The caller then continues the stream from its stored state."""
        self.pages = [page for page in self.pages if page.stream != stream]
        self.gaps = [gaps for gaps in self.gaps if gaps.stream != stream]
        self.states.pop(stream, None)


class IntervalBuilder:
    """Owns the ledgers of all streams, and writes their intervals. Used only in the database thread.

    Args:
        keep_ms: the time for which intervals are kept.
        note: called with (stream, event) for each new event, in the database thread.
    """

    def __init__(
        self, calendar: Calendar, rule: Rule, keep_ms: int, note: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self.calendar, self.rule, self._keep_ms, self._note = calendar, rule, keep_ms, note
        self._states: dict[str, _StreamState] = {}
        self._behind: dict[str, None] = {}  # streams with packs that are not read yet, in the order of reading
        self._unsaved = _Unsaved()
        self._broken: set[str] = set()
        self.repair = IntervalRepair(calendar, rule)
        self.written_ms = 0  # end of the newest written interval, in UTC ms
        self.published_ms = 0  # end of the newest published results, in UTC ms

    # --- from the ring

    def committed(self, store: Store, segments: Iterable[SealedSegment]) -> None:
        """Make intervals from the records of segments that were just committed."""
        touched: dict[str, _StreamState] = {}
        for segment in segments:
            if segment.stream in self._broken or segment.stream in self._behind or not segment.packs:
                continue
            state = self._states.get(segment.stream)
            if state is None or state.ledger.seq + 1 != segment.packs[0].seq:
                self._behind[segment.stream] = None
                continue
            try:
                if state.table is not segment.table:
                    if any(pack.is_birth for pack in segment.packs):
                        state.ledger.use(json.loads(segment.table.encoded))
                    state.table = segment.table
                spans = [
                    PackSpan(p.seq, p.boot, p.from_ms, p.to_ms, p.part, gaps_of_pack(p.gaps) if p.gaps else ())
                    for p in segment.packs
                ]
                if not state.ledger.take_ring(segment.ring, segment.positions, spans):
                    self._read_again(segment.stream)  # the ring was overwritten meanwhile
                    continue
                touched[segment.stream] = state
            except Exception as error:  # noqa: BLE001 - see ``_give_up``
                self._give_up(segment.stream, error)
        try:
            self._take_rows(store, touched)
        except GatewayError as error:  # the packs are committed already, and their intervals are made from them later
            log.warning("computing intervals is postponed: %s", error)
            for stream in touched:
                self._read_again(stream)
        self._save(store)

    def _read_again(self, stream: str) -> None:
        """Continue a stream from its stored state, because rows that its ledger has returned were not stored."""
        self._states.pop(stream, None)
        self._behind[stream] = None

    # --- from packs

    @property
    def reading(self) -> int:
        """The number of streams with packs that are not read yet. Any thread may use this."""
        return len(self._behind)

    @property
    def stopped(self) -> list[str]:
        """The streams that get no intervals until the next start. Any thread may use this."""
        return sorted(self._broken)

    def add_streams(self, streams: Iterable[str]) -> None:
        """Add streams whose packs must be read first."""
        self._behind |= dict.fromkeys(stream for stream in streams if not stream.rpartition("/")[2].startswith("_"))

    def catch_up(self, store: Store) -> bool:
        """Read packs for about ``SLICE_S``. Before that, begin to rebuild damaged pages.

        Returns True if more is left to read.
        """
        self.rebuild_damaged(store)
        end = time.monotonic() + SLICE_S
        while self._behind and time.monotonic() < end:
            stream = next(iter(self._behind))
            try:
                if self._read(store, stream, end):
                    del self._behind[stream]
            except Exception as error:  # noqa: BLE001 - see ``_give_up``
                self._give_up(stream, error)
            if stream in self._broken:
                self._behind.pop(stream, None)
        self._save(store)  # once for all streams, because each transaction waits for the disk
        return bool(self._behind)

    def _read(self, store: Store, stream: str, end: float) -> bool:
        """Read packs of a stream until ``time.monotonic()`` is ``end``. Returns True if all of them are read."""
        state = self._states.get(stream)
        if state is None:
            state = self._states[stream] = self._begin(store, stream)
        ledger = state.ledger
        try:
            is_done = state.replay.read(store, store.packs.head(stream).seq, end)
        # The events are filtered even if the disk fails in between, because the next call continues after the packs
        # that were read.
        finally:
            ledger.counter_events = [h for h in ledger.counter_events if h.key not in state.replay.events]
        try:
            self._take_rows(store, {stream: state})
        except GatewayError:
            self._read_again(stream)
            raise
        if is_done and state.rebuild is not None:
            self._finish(store, stream, state, state.rebuild)
        return is_done

    def _begin(self, store: Store, stream: str) -> _StreamState:
        """Restore a ledger from its stored state.

        If the state is not usable, begin to rebuild the ledger from packs.
        """
        self._unsaved.forget(stream)
        kept = store.intervals.state(stream)
        if kept is None:
            return self._rebuilt(store, stream, None)
        birth = store.packs.birth_before(stream, kept[0] + 1)
        ledger = Ledger(stream, self.calendar, self.rule)
        try:
            if birth is None:
                raise StateError("the previous birth pack is not in the store")
            ledger.restore(kept[1], json.loads(birth)["table"])
        except StateError as error:
            is_other = error.is_other
            log.log(
                logging.INFO if is_other else logging.WARNING,
                "counter state of %s not usable (%s); rebuilding its intervals from its packs", stream, error,
            )  # fmt: skip
            return self._rebuilt(store, stream, kept[0] if is_other else None)
        return _StreamState(ledger, PackReplay(stream, ledger, 0, False))

    def _rebuilt(self, store: Store, stream: str, other: int | None) -> _StreamState:
        """Begin to rebuild a ledger, from the newest day on.

        If the written intervals end earlier than this day begins, the rebuild starts at their end.

        Args:
            other: the sequence of the stored state, if the state is intact but was made by another version or with
                other settings. Earlier days are then compared with their packs later. None: they are not compared.
        """
        written_ms, head = store.intervals.end_ms(stream), store.packs.head(stream)
        from_ms = min(written_ms, self.calendar.stretch("day", head.to_ms)[0])
        replay = begin_replay(store, stream, self.calendar, self.rule, from_ms)
        # if ``trusted_ms`` is 0, the replay reads all packs, and itself counts how often the clock was set back
        if replay.trusted_ms:
            replay.ledger.row_builder.turn = _turn_at(store, stream, written_ms)
        repair = None
        if other is not None:
            repair = Repair(stream, other, 0 if replay.is_from_the_first else replay.trusted_ms)
        return _StreamState(replay.ledger, replay, rebuild=_Rebuild(written_ms, repair))

    def _finish(self, store: Store, stream: str, state: _StreamState, rebuild: _Rebuild) -> None:
        """Finish a rebuild after all packs are read.

        The next ``_save`` stores the corrected intervals and the ledger's state.
        """
        ledger = state.ledger
        unsaved = self._unsaved
        next_ms, written_ms = ledger.row_builder.next_ms, rebuild.written_ms
        corrected = corrected_pages(
            store, state.replay, self.calendar, rebuild.made, written_ms, next_ms=next_ms, open_ms=ledger.open_ms()
        )
        unsaved.pages += corrected
        unsaved.gaps += replaced_gaps(state.replay, rebuild.gaps, next_ms)
        self.repair.corrected += sum(len(page.changed) for page in corrected)
        if ledger.tracked is not None and ledger.to_ms:
            unsaved.states[stream] = (ledger.seq, ledger.state())
        state.rebuild, state.rebuilt_ms = None, rebuild.written_ms
        if rebuild.repair is not None:
            unsaved.repairs.append(rebuild.repair)
            self.repair.add(store, rebuild.repair)

    # --- to the store

    def _take_rows(self, store: Store, by_stream: Mapping[str, _StreamState]) -> None:
        """Take the finished intervals, gaps and events of these streams. The next ``_save`` stores them."""
        for stream, state in by_stream.items():
            try:
                self._take_rows_of(store, stream, state)
            except Exception as error:  # noqa: BLE001 - see ``_give_up``
                self._give_up(stream, error)

    def _take_rows_of(self, store: Store, stream: str, state: _StreamState) -> None:
        unsaved, ledger = self._unsaved, state.ledger
        made, gaps = ledger.rows(), ledger.gap_rows()
        for counter_event in ledger.counter_events:
            self._note(stream, event_of(counter_event))
        ledger.counter_events = []
        if not made and not gaps:
            return
        # no state is stored yet, because the rebuild must start again after a kill
        if state.rebuild is not None:
            written, made = split_rows(made, state.rebuild.written_ms)
            state.rebuild.made += written
            state.rebuild.gaps += gaps
        # this comes first, because it reads the store: after an error, the state must not be stored without its rows
        pages = new_pages(
            stream, above_written(store, stream, made, state.rebuilt_ms), self.calendar, self.published_ms
        )
        if state.rebuild is None:
            unsaved.states[stream] = (ledger.seq, ledger.state())
            self._note_gap_start(stream, ledger)
            unsaved.gaps.append(NewGaps(stream, gaps))
        unsaved.pages += pages

    def _save(self, store: Store) -> None:
        if self._unsaved.is_empty:
            return
        pages = self._unsaved.pages
        try:
            self._unsaved.store(store)
        except GatewayError:  # the pages are kept for the next try; the next commit of packs reports the error
            return
        self._unsaved = _Unsaved()
        self.written_ms = max(self.written_ms, *(page.to_ms for page in pages), 0)

    def save(self, store: Store) -> None:
        """Store the state of every stream, so that the next start need not read packs again."""
        for stream, state in list(self._states.items()):
            is_whole = state.rebuild is None and state.ledger.tracked is not None and state.ledger.to_ms
            if stream not in self._behind and is_whole:
                try:
                    self._unsaved.states[stream] = (state.ledger.seq, state.ledger.state())
                    self._note_gap_start(stream, state.ledger)
                except Exception as error:  # noqa: BLE001 - see ``_give_up``
                    self._give_up(stream, error)
        self._unsaved.store(store)
        self._unsaved = _Unsaved()

    def _note_gap_start(self, stream: str, ledger: Ledger) -> None:
        """Store, only once, the time from which the gaps of a stream are known.

        It is stored together with the first state of the stream that has gaps.
        """
        if ledger.gaps_from_ms is not None:
            self._unsaved.gaps.append(NewGaps(stream, (), from_ms=ledger.gaps_from_ms))
            ledger.gaps_from_ms = None

    def closed_ms(self, streams: Iterable[str]) -> int:
        """Return the time in UTC ms up to which all these streams have written their intervals.

        Streams that a bug has stopped are left out. The result is 0 if another stream has no interval yet, or has
        packs that are not read yet.
        """
        ends = []
        for stream in streams:
            if stream in self._broken:
                continue
            state = self._states.get(stream)
            if stream in self._behind or state is None or not state.ledger.row_builder.next_ms:
                return 0
            ends.append(state.ledger.row_builder.next_ms)
        return min(ends, default=0)

    def rebuild_damaged(self, store: Store) -> None:
        """Drop damaged interval pages, and begin to rebuild their intervals from packs."""
        damaged = store.intervals.damaged_pages
        if not damaged:
            return
        repairs = []
        for stream in sorted({page.stream for page in damaged}):
            mine, head = [page for page in damaged if page.stream == stream], store.packs.head(stream)
            log.warning(
                "%d interval pages of %s are damaged, the oldest begins at %s; rebuilding them from the stream's packs",
                len(mine), stream, datetime.fromtimestamp(min(page.from_ms for page in mine) / 1000, UTC),
            )  # fmt: skip
            self._broken.discard(stream)
            followed = stream in self._states or stream in self._behind
            start_ms, end_ms = self.calendar.stretch("day", head.to_ms)
            repairs.append(Repair(stream, head.seq, start_ms if followed else end_ms))
            if followed:  # ``catch_up`` reads the packs of the newest day again, which rebuilds that day
                self._states.pop(stream, None)
                self._behind[stream] = None
        store.intervals.drop_damaged_pages(repairs)
        for repair in repairs:
            self.repair.add(store, repair)

    def tidy(self, store: Store, now_ms: int) -> None:
        """Merge the pages of past days, a few days per call, and delete old intervals.

        ``now_ms`` 0: the clock is unreliable, so nothing is done.
        """
        if now_ms:
            store.intervals.merge_days(self.calendar.stretch("day", now_ms - FOLD_AFTER_MS)[0], self.calendar.day, fold)
            store.intervals.prune(now_ms - self._keep_ms)

    def _give_up(self, stream: str, error: Exception) -> None:
        """Limit the effect of a bug to one stream. Raises the errors of the store, which the caller handles.

        After a bug, this stream gets no more intervals until the next start, but its readings are still sealed.
        """
        if isinstance(error, GatewayError):
            raise error
        log.error(
            "internal error: no intervals of %s are computed until the next start: %s", stream, error, exc_info=error
        )
        self._broken.add(stream)
        self._states.pop(stream, None)


def event_of(counter_event: CounterEvent) -> dict[str, Any]:
    """Return the event for the stream of a counter. Its values are decimal texts."""
    event: dict[str, Any] = {
        "event": "counter",
        "kind": counter_event.kind,
        "point": counter_event.point,
        "t": seconds(counter_event.time_ms),
        "before": {"t": seconds(counter_event.before_ms), "v": f"{counter_event.before:f}"},
        "after": None if counter_event.value is None else f"{counter_event.value:f}",
    }
    if counter_event.growth:
        event["growth"] = f"{counter_event.growth:f}"
    if counter_event.count > 1:
        event |= {"count": counter_event.count, "until": seconds(counter_event.until_ms)}
    return event


def _turn_at(store: Store, stream: str, end_ms: int) -> int:
    """Return how often the clock was set back before ``end_ms``, according to the last written intervals."""
    pages = store.intervals.interval_pages(end_ms - 1, end_ms, [stream]) if end_ms else ()
    return max((turn for page in pages for turn in PageReader(page.body).row("turn")), default=0)


def fold(bodies: Sequence[bytes], shape: bytes) -> bytes:
    """Merge the bodies of the pages of one day into one body."""
    return encode(merged(bodies), len(PageSchema.decode(shape).columns), compress=True)
