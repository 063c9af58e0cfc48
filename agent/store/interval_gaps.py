"""What is missing by interval and reason, in the database: written and dropped together with pages of intervals.

Each row has a checksum. One whose bytes changed is skipped and noted: the rows of its stream are made again from packs.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.intervals.gap_sums import GapRow
from agent.store.sqlite import Database
from agent.store.streams import StreamRegistry

CHUNK = 1024  # rows that an iteration holds at a time
LONGEST_INTERVAL_MS = 25 * 3_600_000
_COLUMNS = "start_ms, reason, ms, whole_ms, crc"


@dataclass(frozen=True, slots=True)
class NewGaps:
    """What is missing in intervals of a stream, to be added to what is stored.

    Args:
        replaced: (from_ms, to_ms) whose stored rows are dropped first; from then on the gaps from there on are known.
        from_ms: the gaps of intervals that begin before this are not known; None: as stored.
    """

    stream: str
    rows: Sequence[GapRow]
    replaced: tuple[int, int] | None = None
    from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DamagedGap:
    """A row that cannot be trusted, as it is stored, and the time it seems to be of."""

    stream: str
    key: tuple[object, object, object]  # stream, start_ms, reason
    from_ms: int


class GapTable:
    """The gaps of intervals. The caller opens the transaction."""

    def __init__(self, db: Database, streams: StreamRegistry) -> None:
        self._db, self._streams = db, streams
        self._damaged: dict[tuple[object, object, object], DamagedGap] = {}

    def write(self, new: NewGaps) -> None:
        """Store rows."""
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
        """(ms, whole_ms) that are stored: from the same time before the clock was set back."""
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
        """(stream, row) of intervals that begin in ``[from_ms, to_ms)``, by stream and time; damaged ones are skipped.

        Args:
            streams: full names; empty: all.
        """
        names = sorted(self._streams.cached) if not streams else sorted(set(streams) & self._streams.cached.keys())
        for name in names:
            stream, after = self._streams.cached[name].id, (from_ms, "")
            while True:  # a chunk at a time: an open cursor would keep the WAL from being reset
                found = self._db.query(
                    f"SELECT {_COLUMNS} FROM interval_gaps WHERE stream = ? AND (start_ms, reason) > (?, ?)"
                    " AND start_ms < ? ORDER BY start_ms, reason LIMIT ?",
                    *(stream, *after, to_ms, CHUNK),
                )
                for one in found:
                    if (row := self._sound(name, stream, one)) is not None:
                        yield name, row
                if len(found) < CHUNK:
                    break
                after = found[-1][0], found[-1][1]

    def starts(self) -> dict[str, int]:
        """By stream from when on the gaps of its intervals are known. A stream that is not in it has none yet."""
        return dict(
            self._db.query("SELECT s.name, g.from_ms FROM interval_gap_starts g JOIN streams s ON s.id = g.stream")
        )

    @property
    def damaged(self) -> Sequence[DamagedGap]:
        """The damaged rows that were found so far."""
        return list(self._damaged.values())

    def drop_damaged(self) -> None:
        """Delete them. No index is used: what is damaged may not be where it belongs."""
        self._db.executemany(
            "DELETE FROM interval_gaps WHERE +stream IS ? AND +start_ms IS ? AND +reason IS ?", list(self._damaged)
        )

    def forget_damaged(self) -> None:
        """They are deleted, and that is committed."""
        self._damaged.clear()

    def prune(self, before_ms: int) -> None:
        """Delete rows of intervals that ended before ``before_ms``."""
        streams: Iterable[tuple[int, int]] = [
            (place.id, before_ms - LONGEST_INTERVAL_MS) for place in self._streams.cached.values()
        ]
        self._db.executemany("DELETE FROM interval_gaps WHERE stream = ? AND start_ms < ?", streams)


def _crc(*columns: object) -> int:
    return zlib.crc32(repr(columns).encode())
