"""Written intervals held against their packs, in the background, newest day first.

Where a database was written by a version that lost energy at restarts, or with other settings of intervals, its
packs tell the truth. A day of a stream at a time is made again from packs; where it differs, corrections are appended.
How far each stream is stands in the database, in the same transaction as the corrections.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.intervals import Cut
from agent.intervals.judge import PATIENCE_MS
from agent.intervals.sketch import Rule
from agent.intervals.state import MAGIC, is_of_before
from agent.pack import seconds
from agent.service.results.rebuild import PACKS, PackReplay, RebuiltRows, begin_replay, corrected_pages, split_rows
from agent.store import NewPage, Repair, Store
from drivers.model import GatewayError

log = logging.getLogger("meterhouse.intervals")
SLICE_S = 0.02  # of the writer's time


@dataclass(slots=True)
class _Day:
    """One stream from some midnight to where its repair came."""

    repair: Repair
    replay: PackReplay
    head: int
    made: RebuiltRows = field(default_factory=list)

    def is_over(self) -> bool:
        """Is every interval of the day written, and every counter read after it or silent for a day?"""
        ledger, end_ms = self.replay.ledger, self.repair.before_ms
        if ledger.seq >= self.head or ledger.to_ms > end_ms + PATIENCE_MS:
            return True
        return ledger.closing.next_ms >= end_ms and ledger.open_ms("counter") >= end_ms


class IntervalRepair:
    """Only the writer's thread touches it."""

    def __init__(self, cut: Cut, rule: Rule) -> None:
        self._cut, self._rule = cut, rule
        self._day: _Day | None = None
        self.left: dict[str, Repair] = {}  # not finished
        self.oldest_ms = 0  # how far the packs of these go back
        self.corrected = 0  # intervals, since the start

    def open(self, store: Store, followed: Collection[str]) -> None:
        """Go on with what was begun; begin with streams of devices that are no longer configured.

        Args:
            followed: streams with a ledger: their repair begins when they are caught up with, by ``add``.
        """
        begun = store.interval_repairs()
        for stream, (seq, front) in store.interval_state_fronts(len(MAGIC)).items():
            is_begun = stream in begun and begun[stream].seq == seq
            if stream not in followed and is_of_before(front) and not is_begun:
                begun[stream] = Repair(stream, seq, self._cut.stretch("day", store.heads()[stream].to_ms)[1])
        self.left = {stream: repair for stream, repair in begun.items() if repair.before_ms}
        self._look_back(store)

    def add(self, store: Store, repair: Repair) -> None:
        """A stream whose newest day was rebuilt and kept with this note."""
        if repair.before_ms:
            self.left[repair.stream] = repair
            self._look_back(store)

    def _look_back(self, store: Store) -> None:
        self.oldest_ms = min((store.first_pack(stream)[1] for stream in self.left), default=0)

    def facts(self) -> dict[str, Any]:
        """For status: nothing, or how many streams are left, from when on all agree, and how far packs go back."""
        if not (left := list(self.left.values())):  # the loop asks, while the writer's thread works
            return {}
        before_ms = max(repair.before_ms for repair in left)
        return {"streams": len(left), "compared_from": seconds(before_ms), "packs_from": seconds(self.oldest_ms)}

    def step(self, store: Store) -> bool:
        """Read packs for a slice of time, of the newest day that is left. True: there is more to do."""
        end_s = time.monotonic() + SLICE_S
        while self.left and time.monotonic() < end_s:
            repair = max(self.left.values(), key=lambda one: (one.before_ms, one.stream))
            try:
                if self._day is None or self._day.repair != repair:
                    self._day = self._begin(store, repair)
                self._read(store, self._day, end_s)
            except GatewayError:  # the disk: later once more, from the beginning of the day
                self._day = None
                raise
            except Exception:  # a fault of ours in a sum must never end the sealing of readings
                log.exception("the intervals of %s before that stay as they are written", repair.stream)
                self._keep(store, repair, [], 0)
        return bool(self.left)

    def _begin(self, store: Store, repair: Repair) -> _Day:
        from_ms = self._cut.stretch("day", repair.before_ms - 1)[0]
        replay = begin_replay(store, repair.stream, self._cut, self._rule, from_ms)
        return _Day(repair, replay, store.heads()[repair.stream].seq)

    def _read(self, store: Store, day: _Day, end_s: float) -> None:
        replay, repair = day.replay, day.repair
        while not day.is_over():
            if time.monotonic() >= end_s:
                return
            replay.read(store, min(day.head, replay.ledger.seq + PACKS), end_s)
            day.made += split_rows(replay.ledger.rows(), repair.before_ms)[0]
            replay.ledger.happenings = []
        before_ms = 0 if replay.is_from_the_first else min(replay.trusted_ms, repair.before_ms - 1)
        pages = corrected_pages(store, replay, self._cut, day.made, repair.before_ms)
        self._keep(store, repair, pages, before_ms)

    def _keep(self, store: Store, repair: Repair, pages: Sequence[NewPage], before_ms: int) -> None:
        kept = Repair(repair.stream, repair.seq, before_ms)
        store.add_intervals(pages, {}, [kept])
        self._day = None
        self.corrected += sum(len(page.changed) for page in pages)
        if before_ms:
            self.left[repair.stream] = kept
            return
        del self.left[repair.stream]
        self._look_back(store)
        if not self.left:
            log.info("all written intervals were compared with their packs; corrected: %d", self.corrected)
