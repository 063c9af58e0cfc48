"""Intervals of the running agent: made of what was just committed, caught up from packs after a start.

Lives in the writer's thread, behind the commit: what is sealed never waits for it, and what it has not written yet is
found again in the packs. A stream that is behind (a start, a kill, packs recovered from a ring) is skipped until its
packs were read up to the newest one, in slices; from then on readings come straight from the ring, at a few nanoseconds
each.
"""

from __future__ import annotations

import json
import logging
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.intervals import Cut
from agent.intervals.feed import Happening, Span
from agent.intervals.ledger import Ledger
from agent.intervals.page import Row, Shape, encode, merged
from agent.intervals.replay import happenings_in, take_body
from agent.intervals.sketch import Rule
from agent.pack import SealedPack, StreamTable, seconds
from agent.store import NewPage, Store
from drivers.model import GatewayError
from ext.ring import Ring

log = logging.getLogger("meterhouse.intervals")
SLICE_S = 0.03  # of the writer's time for catching up
PACKS = 32
FOLD_AFTER_MS = 3 * 3_600_000  # after the end of a day: corrections of the night are in

Event = tuple[str, dict[str, Any]]  # stream, event


@dataclass(frozen=True, slots=True)
class Work:
    """What of a stream was committed in one shape: packs, and the ring records that are in them."""

    stream: str
    table: StreamTable
    positions: array[int]
    packs: tuple[SealedPack, ...]


@dataclass(slots=True)
class _Account:
    """A stream's ledger and what must not be noted twice."""

    ledger: Ledger
    table: StreamTable | None = None  # in force, where it came from the ring's side
    known: frozenset[tuple[str, str, int]] = frozenset()


class Tallying:
    """The ledgers of all streams. Only the writer's thread touches it.

    Args:
        keep_ms: how long intervals are kept.
        note: an event for a stream; called in the writer's thread.
    """

    def __init__(self, cut: Cut, rule: Rule, keep_ms: int, note: Callable[[str, dict[str, Any]], None]) -> None:
        self.cut, self.rule, self._keep_ms, self._note = cut, rule, keep_ms, note
        self._accounts: dict[str, _Account] = {}
        self._behind: dict[str, None] = {}  # in order
        self._unsaved: tuple[list[NewPage], dict[str, tuple[int, bytes]]] = ([], {})
        self._broken: set[str] = set()
        self.written_ms = 0  # end of the newest interval that was written

    # --- from the ring

    def committed(self, store: Store, ring: Ring, works: Iterable[Work]) -> None:
        """Take in what was committed just now."""
        touched: dict[str, _Account] = {}
        for work in works:
            if work.stream in self._broken or not work.packs:
                continue
            account = self._accounts.get(work.stream)
            if account is None or account.ledger.seq + 1 != work.packs[0].seq:
                self._accounts.pop(work.stream, None)
                self._behind[work.stream] = None
                continue
            with _Guard(self, work.stream):
                if account.table is not work.table and any(pack.is_birth for pack in work.packs):
                    account.ledger.use(json.loads(work.table.encoded))
                    account.table = work.table
                spans = [Span(p.seq, p.boot, p.from_ms, p.to_ms) for p in work.packs]
                account.ledger.take_ring(ring, work.positions, spans)
                touched[work.stream] = account
        self._write(store, touched)

    # --- from packs

    @property
    def behind(self) -> bool:
        """Is there a stream whose packs are to be read?"""
        return bool(self._behind)

    def admit(self, streams: Iterable[str]) -> None:
        """Streams that have packs, to be caught up with."""
        self._behind |= dict.fromkeys(stream for stream in streams if not stream.rpartition("/")[2].startswith("_"))

    def catch_up(self, store: Store) -> bool:
        """Read packs for a slice of time. True: there is more to read."""
        end = time.monotonic() + SLICE_S
        while self._behind and time.monotonic() < end:
            stream = next(iter(self._behind))
            with _Guard(self, stream):
                if self._read(store, stream, end):
                    del self._behind[stream]
            if stream in self._broken:
                self._behind.pop(stream, None)
        return self.behind

    def _read(self, store: Store, stream: str, end: float) -> bool:
        """Read packs of a stream until the slice is over. True: it is up to date."""
        account = self._accounts.get(stream)
        if account is None:
            account = self._accounts[stream] = self._begin(store, stream)
        head = store.heads()[stream].seq
        seen = set(account.known)
        try:
            while account.ledger.seq < head and time.monotonic() < end:
                page = store.after(stream, account.ledger.seq, head, PACKS)
                if not page:
                    account.ledger.seq = head  # what is left was dropped by the size cap
                    break
                for pack in page:
                    body: Mapping[str, Any] = json.loads(pack.data, parse_float=str)
                    take_body(account.ledger, body)
                    seen |= happenings_in(body)
        finally:  # also where the disk fails in between: it goes on from there
            account.ledger.happenings = [h for h in account.ledger.happenings if h.key not in seen]
            account.known = frozenset(seen)
        self._write(store, {stream: account})
        return account.ledger.seq >= head

    def _begin(self, store: Store, stream: str) -> _Account:
        """A ledger as it was kept, or a new one that begins with the newest packs."""
        account = _Account(Ledger(stream, self.cut, self.rule))
        kept = store.interval_state(stream)
        head = store.heads()[stream].seq
        seq = kept[0] if kept else max(0, head - PACKS)
        table = store.birth_before(stream, seq + 1)
        if table is None:
            account.ledger.seq = seq
            return account
        document = json.loads(table)["table"]
        if kept:
            try:
                account.ledger.restore(kept[1], document)
            except ValueError as error:
                log.warning("%s; its counters begin anew", error)
                account = _Account(Ledger(stream, self.cut, self.rule))
            else:
                return account
        account.ledger.use(document)
        account.ledger.seq = seq
        return account

    # --- to the store

    def _write(self, store: Store, accounts: Mapping[str, _Account]) -> None:
        pages, states = self._unsaved
        for stream, account in accounts.items():
            with _Guard(self, stream):
                made = account.ledger.rows()
                for happening in account.ledger.happenings:
                    self._note(stream, event_of(happening))
                account.ledger.happenings = []
                if made:
                    pages += [page_of(stream, shape, rows) for shape, rows in made]
                    states[stream] = (account.ledger.seq, account.ledger.state())
        if not pages:
            return
        try:
            store.add_intervals(pages, states)
        except GatewayError:  # the next commit of packs says what is wrong; these wait for it
            self._unsaved = pages, states
            return
        self._unsaved = [], {}
        self.written_ms = max(self.written_ms, *(page.to_ms for page in pages))

    def save(self, store: Store) -> None:
        """Keep where every stream stands, so that the next start has nothing to read again."""
        states = {}
        for stream, account in self._accounts.items():
            if stream not in self._behind and account.ledger.sketch is not None and account.ledger.to_ms:
                with _Guard(self, stream):
                    states[stream] = (account.ledger.seq, account.ledger.state())
        pages, unsaved = self._unsaved
        store.add_intervals(pages, unsaved | states)
        self._unsaved = [], {}

    def closed_ms(self, streams: Iterable[str]) -> int:
        """Up to where all of these streams have written their intervals; those that are not known here do not count."""
        ends = [a.ledger.closing.next_ms for s in streams if (a := self._accounts.get(s)) and a.ledger.closing.next_ms]
        return 0 if self._behind else min(ends, default=0)

    def tidy(self, store: Store, now_ms: int) -> None:
        """Fold days that are over, a few at a time; drop what is too old. ``now_ms`` 0: the clock cannot be trusted."""
        if now_ms:
            store.fold_intervals(self.cut.stretch("day", now_ms - FOLD_AFTER_MS)[0], self.cut.day, fold)
            store.prune_intervals(now_ms - self._keep_ms)

    def give_up(self, stream: str, error: BaseException) -> None:
        """A fault of ours: this stream has no intervals until the next start; its readings are not concerned."""
        log.error("intervals of %s stop until the next start: %s", stream, error, exc_info=error)
        self._broken.add(stream)
        self._accounts.pop(stream, None)


class _Guard:
    """A fault in a sum must never keep readings from being sealed: it costs the intervals of its stream, loudly."""

    def __init__(self, tallying: Tallying, stream: str) -> None:
        self._tallying, self._stream = tallying, stream

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception) or isinstance(error, GatewayError):
            return False  # the store's trouble is told, and waited for, by whoever asked it
        self._tallying.give_up(self._stream, error)
        return True


def event_of(happening: Happening) -> dict[str, Any]:
    """The event of a stream; values are decimal texts."""
    event: dict[str, Any] = {
        "event": "counter",
        "kind": happening.kind,
        "point": happening.point,
        "t": seconds(happening.time_ms),
        "before": {"t": seconds(happening.before_ms), "v": f"{happening.before:f}"},
        "after": None if happening.value is None else f"{happening.value:f}",
    }
    if happening.growth:
        event["growth"] = f"{happening.growth:f}"
    if happening.count > 1:
        event |= {"count": happening.count, "until": seconds(happening.until_ms)}
    return event


def page_of(stream: str, shape: Shape, rows: Sequence[Row]) -> NewPage:
    """Rows on their way into the store."""
    return NewPage(
        stream,
        rows[0].start_ms,
        max(row.end_ms for row in rows),
        shape.encode(),
        encode(rows, len(shape.columns)),
        tuple(sorted({(row.start_ms, row.end_ms) for row in rows if row.revision})),
    )


def fold(bodies: Sequence[bytes], shape: bytes) -> bytes:
    """Pages of one day as one."""
    return encode(merged(bodies), len(Shape.decode(shape).columns), compress=True)
