"""A stream's packs read again into a new ledger, a slice at a time, so that its intervals can be made once more.

What a counter did is known from its last good reading on, and a step of it may wait a day for what those after it
say. So reading begins that long before the first interval that matters, and longer before where a counter was silent
then: the written intervals name its last reading.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.intervals import Cut
from agent.intervals.contradictions import FOREVER, corrections
from agent.intervals.judge import PATIENCE_MS
from agent.intervals.ledger import Ledger
from agent.intervals.page import Page, Row, Shape, encode
from agent.intervals.replay import happenings_in, take_body
from agent.intervals.sketch import Rule, sketch
from agent.intervals.taken import Taken, mark_at
from agent.store import NewPage, Store

PACKS = 32  # read at a time

RebuiltRows = list[tuple[Shape, list[Row]]]


@dataclass(slots=True)
class PackReplay:
    """Where reading began, and what it gave so far.

    ``trusted_ms``: intervals that begin from here on come out as if all packs had been read from the first one on.
    """

    stream: str
    ledger: Ledger
    trusted_ms: int
    is_from_the_first: bool  # nothing of the stream lies before
    events: set[tuple[str, str, int]] = field(default_factory=set)  # counter events that the packs state

    def read(self, store: Store, last: int, deadline_s: float) -> bool:
        """Read packs up to ``last`` until ``time.monotonic()`` passes the deadline. True: all are read."""
        ledger = self.ledger
        while ledger.seq < last and time.monotonic() < deadline_s:
            page = store.after(self.stream, ledger.seq, last, PACKS)
            if not page:
                ledger.seq = last  # what is left was dropped by the size cap
                break
            for pack in page:
                body: Mapping[str, Any] = json.loads(pack.data, parse_float=str)
                take_body(ledger, body)
                self.events |= happenings_in(body)
        return ledger.seq >= last


def begin_replay(store: Store, stream: str, cut: Cut, rule: Rule, from_ms: int) -> PackReplay:
    """A replay whose intervals can be trusted from ``from_ms`` on, or from earlier, as far as packs are there."""
    first, first_ms = store.first_pack(stream)
    trusted_ms = cut.floor(min(from_ms, _oldest_last_reading(store, stream, cut, rule, from_ms, first_ms)))
    seq = store.seq_at(stream, trusted_ms - PATIENCE_MS)
    ledger = Ledger(stream, cut, rule)
    is_from_the_first = seq <= first
    if is_from_the_first:
        trusted_ms = 0 if first <= 1 else max(trusted_ms, first_ms + PATIENCE_MS)
    if (birth := store.birth_before(stream, seq)) is not None:
        ledger.use(json.loads(birth)["table"])
    ledger.seq = seq - 1
    return PackReplay(stream, ledger, trusted_ms, is_from_the_first)


def _oldest_last_reading(store: Store, stream: str, cut: Cut, rule: Rule, at_ms: int, first_ms: int) -> int:
    """When the point that was silent longest at an instant was read last; the instant where none was read before.

    What follows changes intervals from there on. Points without any reading are looked for up to the first pack.
    """
    birth = store.birth_before(stream, store.seq_at(stream, at_ms) + 1)
    columns = sketch(json.loads(birth)["table"], rule).shape.columns if birth is not None else ()
    missing = {(column.point, column.epoch) for column in columns}
    end_ms = oldest = at_ms
    while missing and end_ms > first_ms:
        start_ms = cut.stretch("day", end_ms - 1)[0]
        found = _last_readings(store, stream, start_ms, end_ms, missing)
        oldest = min(oldest, *found.values(), at_ms)
        missing -= found.keys()
        end_ms = start_ms
    return oldest


def _last_readings(
    store: Store, stream: str, start_ms: int, end_ms: int, wanted: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """Of counters, by point and epoch, when each was read last within the intervals of a stretch."""
    found: dict[tuple[str, str], int] = {}
    for t in map(Taken, store.interval_pages(start_ms, end_ms, [stream])):
        for number, column in enumerate(t.shape.columns):
            key = column.point, column.epoch
            if key not in wanted:
                continue
            for n in reversed(range(t.page.rows)):
                mark = mark_at(t, number, n, "last") if t.start[n] < end_ms else None
                if mark is not None and mark.time_ms < end_ms:
                    found[key] = max(found.get(key, 0), mark.time_ms)
                    break
    return found


def split_rows(made: Sequence[tuple[Shape, Sequence[Row]]], at_ms: int) -> tuple[RebuiltRows, RebuiltRows]:
    """Rows that begin before an instant, and the others."""
    before = [(shape, [row for row in rows if row.start_ms < at_ms]) for shape, rows in made]
    after = [(shape, [row for row in rows if row.start_ms >= at_ms]) for shape, rows in made]
    return [pair for pair in before if pair[1]], [pair for pair in after if pair[1]]


def corrected_pages(
    store: Store,
    replay: PackReplay,
    cut: Cut,
    made: RebuiltRows,
    to_ms: int,
    next_ms: int = FOREVER,
    open_ms: int = FOREVER,
) -> list[NewPage]:
    """Pages to append so that the written intervals before ``to_ms`` are what a replay made, as far as it is trusted.

    Args:
        next_ms: from here on the replay's ledger will write by itself.
        open_ms: see ``agent.intervals.contradictions``.
    """
    stream = replay.stream
    first = max(replay.trusted_ms, min((row.start_ms for _, rows in made for row in rows), default=min(next_ms, to_ms)))
    pages = store.interval_pages(first, to_ms, [stream]) if first < to_ms else ()

    def is_coming(start_ms: int, end_ms: int) -> bool:
        return start_ms >= next_ms and cut.stretch("interval", start_ms) != (start_ms, end_ms)

    is_whole = not replay.trusted_ms
    true = corrections(pages, made, first, to_ms, is_whole=is_whole, open_ms=open_ms, is_coming=is_coming)
    return new_pages(stream, true, cut)


def above_written(store: Store, stream: str, made: RebuiltRows, until_ms: int) -> RebuiltRows:
    """Corrections with a revision above those that are written of the same intervals.

    Args:
        until_ms: rows that begin before may be corrections as well: something was written up to here, and rebuilt.
    """
    late = [row for _, rows in made for row in rows if row.revision or row.start_ms < until_ms]
    if not late:
        return made
    written: dict[int, int] = {}
    for page in store.interval_pages(min(r.start_ms for r in late), max(r.end_ms for r in late), [stream]):
        fields = Page(page.body)
        for start, revision in zip(fields.row("start"), fields.row("revision"), strict=True):
            written[start] = max(written.get(start, 0), revision)

    def above(row: Row) -> Row:
        if not row.revision and row.start_ms not in written:
            return row
        written[row.start_ms] = 1 + written.get(row.start_ms, 0)
        return replace(row, revision=written[row.start_ms])

    return [(shape, [above(row) for row in rows]) for shape, rows in made]


def new_pages(
    stream: str, made: Sequence[tuple[Shape, Sequence[Row]]], cut: Cut, published_ms: int = 0
) -> list[NewPage]:
    """Rows on their way into the store, a page a day at most: queries look no further back than that for a page.

    Args:
        published_ms: rows that begin before change what was published, as corrections do.
    """
    out = []
    for shape, rows in made:
        days: dict[object, list[Row]] = {}
        for row in rows:
            days.setdefault(cut.day(row.start_ms), []).append(row)
        for mine in days.values():
            changed = {(row.start_ms, row.end_ms) for row in mine if row.revision or row.start_ms < published_ms}
            end_ms, body = max(row.end_ms for row in mine), encode(mine, len(shape.columns))
            out.append(NewPage(stream, mine[0].start_ms, end_ms, shape.encode(), body, tuple(sorted(changed))))
    return out
