"""Intervals in the database, and their gaps by reason. Both are written and deleted together.

Pages of intervals are only added, merged into days without loss, and deleted when old. If the bytes of a page or gap
row changed, it is skipped and noted. Later it is made again from packs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

from agent.intervals.gap_sums import GapRow
from agent.intervals.page_format import PageReader, PageSchema, StoredPage
from agent.store.sqlite import Database
from agent.store.streams import StreamRegistry

GAPS_CHUNK = 1024  # gap rows that one query reads
LONGEST_INTERVAL_MS = 25 * 3_600_000
CHUNK = 256  # pages that one query reads
LONGEST_PAGE_MS = 26 * 3_600_000  # a page covers at most a day, which may have 25 hours; this is one hour more
KEEP_CHANGES = 100_000  # this many of the newest corrections are kept
ANNOUNCED, BEGIN = "interval changes announced", "results begin"  # names in meta
_COLUMNS = "start_ms, reason, ms, whole_ms, crc"


@dataclass(frozen=True, slots=True)
class NewGaps:
    """Gaps in intervals of a stream, to be added to the stored gaps.

    Args:
        replaced: (start, end) in UTC ms. The stored rows of this time are deleted first. From ``start`` on, all gaps
            count as known.
        from_ms: gaps are known only for intervals that begin at this time or later. None: the stored time stays.
    """

    stream: str
    rows: Sequence[GapRow]
    replaced: tuple[int, int] | None = None
    from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DamagedGap:
    """A damaged gap row, as stored. ``from_ms``: start of its interval; 0 if the start is not readable."""

    stream: str
    # (row id of the stream, start_ms, reason), as stored; damage may have changed them
    key: tuple[object, object, object]
    from_ms: int


class GapTable:
    """The gaps of intervals. The caller of the methods opens the transaction."""

    def __init__(self, db: Database, streams: StreamRegistry) -> None:
        self._db, self._streams = db, streams
        self._damaged: dict[tuple[object, object, object], DamagedGap] = {}

    def write(self, new: NewGaps) -> None:
        """Store gaps. If there is a row for the same interval and reason already, the durations are added up."""
        stream = self._streams.cached[new.stream].id
        if new.replaced is not None:
            from_ms, to_ms = new.replaced
            self._db.execute(
                "DELETE FROM interval_gaps WHERE stream = ? AND start_ms >= ? AND start_ms < ?",
                (stream, from_ms, to_ms),
            )
            self._db.execute(
                "INSERT INTO interval_gap_starts (stream, from_ms) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET from_ms = min(from_ms, excluded.from_ms)",
                (stream, from_ms),
            )
        if new.from_ms is not None:
            self._db.execute(
                "INSERT INTO interval_gap_starts (stream, from_ms) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET from_ms = excluded.from_ms",
                (stream, new.from_ms),
            )
        for row in new.rows:
            before = self._stored(new.stream, stream, row)
            ms, whole_ms = row.ms + before[0], row.whole_ms + before[1]
            self._db.execute(
                "INSERT OR REPLACE INTO interval_gaps (stream, start_ms, reason, ms, whole_ms, crc)"
                " VALUES (?,?,?,?,?,?)",
                (stream, row.start_ms, row.reason, ms, whole_ms, _crc(stream, row.start_ms, row.reason, ms, whole_ms)),
            )

    def _stored(self, name: str, stream: int, row: GapRow) -> tuple[int, int]:
        """Return the stored (ms, whole_ms) for the same interval and reason; (0, 0) if there is none.

        Such a row exists, for example, if the clock was set back and the interval comes again.
        """
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM interval_gaps WHERE stream = ? AND start_ms = ? AND reason = ?",
            (stream, row.start_ms, row.reason),
        ).fetchone()
        sound = found and self._sound(name, stream, found)
        return (sound.ms, sound.whole_ms) if sound else (0, 0)

    def _sound(self, name: str, stream: int, found: tuple[object, ...]) -> GapRow | None:
        start, reason, ms, whole_ms, crc = found
        if type(start) is type(ms) is type(whole_ms) is int and crc == _crc(stream, start, reason, ms, whole_ms):
            return GapRow(start, str(reason), ms, whole_ms)
        key = (stream, start, reason)
        self._damaged[key] = DamagedGap(name, key, start if isinstance(start, int) else 0)
        return None

    def rows(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterator[tuple[str, GapRow]]:
        """Yield (stream, row) of the intervals that begin in ``[from_ms, to_ms)``, by stream and time.

        Skips damaged rows.

        Args:
            streams: only these streams, by full name; empty: all.
        """
        names = sorted(self._streams.cached) if not streams else sorted(set(streams) & self._streams.cached.keys())
        for name in names:
            stream, after = self._streams.cached[name].id, (from_ms, "")
            while True:  # each query reads one chunk, because an open cursor would keep the WAL from being reset
                found = self._db.query(
                    f"SELECT {_COLUMNS} FROM interval_gaps WHERE stream = ? AND (start_ms, reason) > (?, ?)"
                    " AND start_ms < ? ORDER BY start_ms, reason LIMIT ?",
                    *(stream, *after, to_ms, GAPS_CHUNK),
                )
                for one in found:
                    if (row := self._sound(name, stream, one)) is not None:
                        yield name, row
                if len(found) < GAPS_CHUNK:
                    break
                after = found[-1][0], found[-1][1]

    def starts(self) -> dict[str, int]:
        """Return, by stream, the time in UTC ms from which its gaps are known.

        A stream without known gaps is left out.
        """
        return dict(
            self._db.query("SELECT s.name, g.from_ms FROM interval_gap_starts g JOIN streams s ON s.id = g.stream")
        )

    @property
    def damaged(self) -> Sequence[DamagedGap]:
        """The damaged rows found so far."""
        return list(self._damaged.values())

    def drop_damaged(self) -> None:
        """Delete damaged rows.

        The statement uses no index, because an index may have a damaged row in the wrong place.
        """
        self._db.executemany(
            "DELETE FROM interval_gaps WHERE +stream IS ? AND +start_ms IS ? AND +reason IS ?", list(self._damaged)
        )

    def forget_damaged(self) -> None:
        """Forget the damaged rows. Call this after their deletion is committed."""
        self._damaged.clear()

    def prune(self, before_ms: int) -> None:
        """Delete rows of intervals that ended before ``before_ms``."""
        streams: Iterable[tuple[int, int]] = [
            (place.id, before_ms - LONGEST_INTERVAL_MS) for place in self._streams.cached.values()
        ]
        self._db.executemany("DELETE FROM interval_gaps WHERE stream = ? AND start_ms < ?", streams)


def _crc(*columns: object) -> int:
    return zlib.crc32(repr(columns).encode())


@dataclass(frozen=True, slots=True)
class Repair:
    """The progress of a repair, which compares the intervals of a stream with its packs, from the newest to the oldest.

    The intervals from ``before_ms`` on are done; 0: all are done. ``seq``: the sequence of the stored state that caused
    the repair.
    """

    stream: str
    seq: int
    before_ms: int


@dataclass(frozen=True, slots=True)
class NewPage:
    """Rows of a stream with one schema, to be stored.

    ``changed``: (start, end) of the interval of each row that corrects an earlier row.
    """

    stream: str
    from_ms: int
    to_ms: int
    shape: bytes
    body: bytes
    changed: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class DamagedPage:
    """A damaged page, and the time that it covers. If ``id`` is 0, it is a damaged row of gaps instead."""

    id: int
    stream: str
    from_ms: int
    to_ms: int


class IntervalTable:
    """Interval pages, the states to continue from, and repairs, by stream. ``gaps``: the table of gaps."""

    def __init__(self, db: Database, streams: StreamRegistry) -> None:
        self._db, self._streams = db, streams
        self._damaged: dict[int, DamagedPage] = {}  # by id
        self.gaps = GapTable(db, streams)
        self.writes = 0  # number of writes since the database was opened

    def add(
        self,
        pages: Iterable[NewPage],
        states: Mapping[str, tuple[int, bytes]],
        repairs: Iterable[Repair] = (),
        gaps: Iterable[NewGaps] = (),
    ) -> None:
        """Store pages of intervals and everything that belongs to them, in one transaction.

        Args:
            states: by stream, (sequence of the last pack in the pages, state to continue from).
            repairs: the progress of repairs after these pages.
            gaps: the gaps in the intervals of these pages.

        Raises:
            StoreError: nothing was stored.
        """
        with self._db.transaction():
            for page in pages:
                self._db.execute(
                    "INSERT INTO interval_pages (stream, from_ms, to_ms, shape, folded, body, crc)"
                    " VALUES (?,?,?,?,0,?,?)",
                    (
                        self._stream_id(page.stream),
                        page.from_ms,
                        page.to_ms,
                        self._shape(page.shape),
                        page.body,
                        zlib.crc32(page.body),
                    ),
                )
                self._db.executemany("INSERT INTO interval_changes (start_ms, end_ms) VALUES (?, ?)", page.changed)
            for stream, (seq, state) in states.items():
                self._db.execute(
                    "INSERT INTO interval_states (stream, seq, body) VALUES (?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET seq = excluded.seq, body = excluded.body",
                    (self._stream_id(stream), seq, state),
                )
            self._keep_repairs(repairs)
            for new in gaps:
                self.gaps.write(new)
        self.writes += 1

    def _stream_id(self, stream: str) -> int:
        if stream not in self._streams.cached:
            raise ValueError(f"the stream {stream} has no pack in this database, so it cannot have intervals")
        return self._streams.cached[stream].id

    def _shape(self, body: bytes) -> int:
        digest = sha256(body).digest()
        self._db.execute(
            "INSERT INTO interval_shapes (hash, body) VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET body = excluded.body WHERE body <> excluded.body",
            (digest, body),
        )
        row = self._db.execute("SELECT id FROM interval_shapes WHERE hash = ?", (digest,)).fetchone()
        return int(row[0])

    def state(self, stream: str) -> tuple[int, bytes] | None:
        """Return (sequence, state) of the last stored state of a stream; None if there is none."""
        rows = self._db.query(
            "SELECT i.seq, CAST(i.body AS BLOB) FROM interval_states i JOIN streams s ON s.id = i.stream"
            " WHERE s.name = ?",
            stream,
        )
        return rows[0] if rows else None

    def repairs(self) -> dict[str, Repair]:
        """Return the progress of all repairs that have begun, by stream."""
        rows = self._db.query(
            "SELECT s.name, r.seq, r.before_ms FROM interval_repairs r JOIN streams s ON s.id = r.stream"
        )
        return {name: Repair(name, seq, before_ms) for name, seq, before_ms in rows}

    def end_ms(self, stream: str) -> int:
        """Return the end of the last stored interval of a stream in UTC ms; 0 if there is none."""
        rows = self._db.query(
            "SELECT to_ms FROM interval_pages WHERE stream = ? ORDER BY from_ms DESC LIMIT 1", self._stream_id(stream)
        )
        return rows[0][0] if rows else 0

    def seqs(self) -> dict[str, int]:
        """Return, by stream, the sequence of the last pack whose intervals are stored."""
        return dict(self._db.query("SELECT s.name, i.seq FROM interval_states i JOIN streams s ON s.id = i.stream"))

    def span(self) -> tuple[int, int]:
        """Return the start of the first stored interval and the end of the last one; (0, 0) if there is none."""
        ((start, end),) = self._db.query("SELECT min(from_ms), max(to_ms) FROM interval_pages")
        return start or 0, end or 0

    def days(self, bounds_of: Callable[[int], tuple[int, int]]) -> Iterator[int]:
        """Yield the start of each day that has pages, in order. Reads only an index.

        Args:
            bounds_of: returns the start and end of the day that contains a given time. A page lies within one day.
        """
        numbers = [place.id for place in self._streams.cached.values()]
        after, inside = 0, "SELECT min(from_ms) FROM interval_pages WHERE stream = ? AND from_ms >= ?"
        while numbers:
            first: int | None = None
            for at, number in enumerate(numbers):
                ((found,),) = self._db.query(inside, number, after)
                if found is not None and (first is None or found < first):
                    first = found
                    if after and found < bounds_of(after)[1]:
                        # try this stream first for the next day too, because most likely it has pages of that day
                        numbers.insert(0, numbers.pop(at))
                        break
            if first is None:
                return
            start, after = bounds_of(first)
            yield start

    def marks(self) -> tuple[int, int]:
        """Return (number of the newest page, number of the newest correction).

        Later pages and corrections get higher numbers.
        """
        ((page, change),) = self._db.query(
            "SELECT (SELECT max(id) FROM interval_pages), (SELECT max(id) FROM interval_changes)"
        )
        return page or 0, change or 0

    def interval_pages(self, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> Iterator[StoredPage]:
        """Yield the pages that overlap ``[from_ms, to_ms)``, by stream, in the order of writing.

        Skips damaged pages.
        """
        names = sorted(self._streams.cached) if not streams else sorted(set(streams) & self._streams.cached.keys())
        for name in names:
            after = 0
            while True:  # each query reads one chunk, because an open cursor would keep the WAL from being reset
                rows = self._db.query(
                    "SELECT p.id, p.from_ms, p.to_ms, CAST(s.body AS BLOB), s.hash, CAST(p.body AS BLOB), p.crc"
                    " FROM interval_pages p LEFT JOIN interval_shapes s ON s.id = p.shape WHERE p.stream = ?"
                    " AND p.from_ms BETWEEN ? AND ?"
                    " AND p.to_ms > ? AND p.id > ? ORDER BY p.id LIMIT ?",
                    *(self._streams.cached[name].id, from_ms - LONGEST_PAGE_MS, to_ms - 1, from_ms, after, CHUNK),
                )
                for number, start, end, shape, digest, body, crc in rows:
                    if is_sound(shape, digest, body, crc):
                        yield StoredPage(number, name, start, end, shape, body)
                    else:
                        self._damaged[number] = DamagedPage(number, name, start, end)
                if len(rows) < CHUNK:
                    break
                after = rows[-1][0]

    @property
    def damaged_pages(self) -> Sequence[DamagedPage]:
        """The damaged pages and gaps found so far."""
        gaps = [DamagedPage(0, one.stream, one.from_ms, one.from_ms) for one in self.gaps.damaged]
        return [*self._damaged.values(), *gaps]

    def drop_damaged_pages(self, repairs: Iterable[Repair]) -> None:
        """Delete the damaged pages and the states of their streams, and store the repairs that make the pages again.

        All of this is one transaction.
        """
        with self._db.transaction():
            self._db.executemany("DELETE FROM interval_pages WHERE id = ?", [(number,) for number in self._damaged])
            for stream in {page.stream for page in self.damaged_pages}:
                self._db.execute("DELETE FROM interval_states WHERE stream = ?", (self._stream_id(stream),))
            self.gaps.drop_damaged()
            self._keep_repairs(repairs)
        self._damaged.clear()
        self.gaps.forget_damaged()

    def _keep_repairs(self, repairs: Iterable[Repair]) -> None:
        for repair in repairs:
            self._db.execute(
                "INSERT INTO interval_repairs (stream, seq, before_ms) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET seq = excluded.seq, before_ms = excluded.before_ms",
                (self._stream_id(repair.stream), repair.seq, repair.before_ms),
            )

    def interval_changes(self, after: int) -> Sequence[tuple[int, int, int]]:
        """Return (number, start_ms, end_ms) of each correction to a written interval with a number above ``after``."""
        return self._db.query(
            "SELECT id, start_ms, end_ms FROM interval_changes WHERE id > ? ORDER BY id LIMIT ?", after, KEEP_CHANGES
        )

    def announced_change(self) -> int:
        """Return the number of the last correction that was announced in results.

        The first call marks all corrections so far as announced.
        """
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO meta (name, value) SELECT ?, coalesce(max(id), 0) FROM interval_changes WHERE true"
                " ON CONFLICT DO NOTHING",
                (ANNOUNCED,),
            )
        return int(self._db.query("SELECT value FROM meta WHERE name = ?", ANNOUNCED)[0][0])

    def results_begin(self, at_ms: int) -> int:
        """Return the time from which results are made. This is ``at_ms`` of the very first call, which is stored."""
        with self._db.transaction():
            self._db.execute("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (BEGIN, at_ms))
        return int(self._db.query("SELECT value FROM meta WHERE name = ?", BEGIN)[0][0])

    def announce_changes(self, number: int) -> None:
        """Record that all corrections up to this number were announced in results."""
        with self._db.transaction():
            self._db.execute("UPDATE meta SET value = ? WHERE name = ?", (number, ANNOUNCED))

    def merge_days(
        self,
        before_ms: int,
        day_of: Callable[[int], Any],
        fold: Callable[[Sequence[bytes], bytes], bytes],
        limit: int = 8,
    ) -> int:
        """Merge each stream's pages of a day into one page, for at most ``limit`` days that end before ``before_ms``.

        Args:
            day_of: maps the start of a page to a value that is the same for all pages of a day.
            fold: merges bodies of a given shape into one body with the same content.

        Returns:
            How many days were merged. 0: no day is left to merge, or a damaged page must be deleted first.
        """
        days = 0
        while days < limit:
            first = self._db.execute(
                "SELECT stream, shape, from_ms FROM interval_pages WHERE NOT folded AND to_ms <= ?"
                " ORDER BY from_ms, stream LIMIT 1",
                (before_ms,),
            ).fetchone()
            if first is None:
                break
            stream, shape, from_ms = first
            rows = self._db.execute(
                "SELECT id, from_ms, to_ms, CAST(body AS BLOB), crc"
                " FROM interval_pages WHERE NOT folded AND stream = ? AND shape = ?"
                " AND from_ms BETWEEN ? AND ? AND to_ms <= ? ORDER BY id",
                (stream, shape, from_ms, from_ms + LONGEST_PAGE_MS, before_ms),
            ).fetchall()
            mine = [row for row in rows if day_of(row[1]) == day_of(from_ms)]
            columns, digest = self._db.execute(
                "SELECT CAST(body AS BLOB), hash FROM interval_shapes WHERE id = ?", (shape,)
            ).fetchone() or (b"", b"")
            bad = [row for row in mine if not is_sound(columns, digest, row[3], row[4])]
            if bad:
                names = {place.id: name for name, place in self._streams.cached.items()}
                self._damaged.update((row[0], DamagedPage(row[0], names[stream], row[1], row[2])) for row in bad)
                break  # the damaged pages must be deleted first
            body = fold([row[3] for row in mine], columns)
            with self._db.transaction():
                self._db.executemany("DELETE FROM interval_pages WHERE id = ?", [(row[0],) for row in mine])
                self._db.execute(
                    "INSERT INTO interval_pages (stream, from_ms, to_ms, shape, folded, body, crc)"
                    " VALUES (?,?,?,?,1,?,?)",
                    (stream, min(row[1] for row in mine), max(row[2] for row in mine), shape, body, zlib.crc32(body)),
                )
            days += 1
        return days

    def prune(self, before_ms: int) -> int:
        """Delete the pages that end before ``before_ms``. Returns their number."""
        with self._db.transaction():
            dropped = self._db.execute("DELETE FROM interval_pages WHERE to_ms < ?", (before_ms,)).rowcount
            if dropped > 0:
                self.gaps.prune(before_ms)
                self._db.execute(
                    "DELETE FROM interval_shapes WHERE id NOT IN (SELECT shape FROM interval_pages)"
                    " AND id < (SELECT max(id) FROM interval_shapes)"
                )
            self._db.execute(
                "DELETE FROM interval_changes WHERE id <= (SELECT max(id) FROM interval_changes) - ?", (KEEP_CHANGES,)
            )
        return max(dropped, 0)


def is_sound(shape: bytes | None, digest: bytes | None, body: bytes, crc: int | None) -> bool:
    """Return True if the bytes of a page match their checksums.

    A page of an older version has no checksum. In this case, return True if it can be decoded.
    """
    if shape is None or digest is None or not _is_shape(shape, digest):
        return False
    if crc is not None:
        return crc == zlib.crc32(body)
    try:
        columns: int = PageReader(body).columns
        return columns == len(PageSchema.decode(shape).columns)
    except ValueError:
        return False


@lru_cache(maxsize=64)
def _is_shape(shape: bytes, digest: bytes) -> bool:
    return sha256(shape).digest() == digest
