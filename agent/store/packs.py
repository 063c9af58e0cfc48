"""The way out of the store: heads, outboxes, and packs as the identical bytes."""

from __future__ import annotations

import contextlib
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.outbox import Ack, Gone, OutboxItem, ReplayPage
from agent.store.codec import Codec, payload_hash
from agent.store.damage import Doubt
from agent.store.documents import Records
from agent.store.errors import StoreError, explain, is_damage
from agent.store.intervals import IntervalShelf
from agent.store.retention import Pruner
from agent.store.streams import Place, StoredPack, StreamHead, boot_hex, unsigned

CHUNK = 32  # packs that an iteration holds at a time


class Shelves(IntervalShelf, Records):
    """The reading half of a store. Rows that are damaged are set aside and noted as lost, and never stop the rest."""

    _path: Path
    _doubt: Doubt
    _codec: Codec
    _pruner: Pruner
    _destinations: dict[str, int]
    _heads: dict[str, Place]
    _boots: dict[str, int]
    lost_packs: int

    def _unpack(self, number: int, dictionary: int, body: bytes, birth: bytes | None) -> bytes | None:
        """The bytes of a pack; a damaged one is dropped, noted as a loss of reason ``damaged``, and None."""
        try:
            return self._codec.unpack(dictionary, body, birth)
        except ValueError:
            with self._transaction():
                self.lost_packs += self._pruner.lose([number], "damaged")
            return None

    def _drop_if_bad(self, number: int, body: Sequence[Any], holds: Callable[[bytes], bool]) -> bool:
        """Drop a pack that is not what was sealed. It is a loss if somebody still waits for it."""
        with contextlib.suppress(ValueError):
            if holds(self._codec.unpack(*body)):
                return False
        with self._transaction():
            owed = self._conn.execute(
                "SELECT count(*) FROM outbox WHERE destination IN (SELECT id FROM destinations) AND pack = ?", (number,)
            ).fetchone()[0]
            if owed:
                self.lost_packs += self._pruner.lose([number], "damaged")
            else:
                self._conn.execute("DELETE FROM packs WHERE id = ?", (number,))
        return True

    def _explain(self, error: sqlite3.Error) -> StoreError:
        """Our error for one of SQLite's. Damage is doubted first."""
        return self._doubt.judge(error) if is_damage(error) else explain(error, str(self._path))

    def _all(self, sql: str, *values: object) -> list[Any]:
        """All rows; SQLite's errors come out as ours."""
        try:
            return self._conn.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def heads(self) -> dict[str, StreamHead]:
        """All streams that ever sealed a pack here, by name."""
        rows = self._all(
            "SELECT s.name, b.boot, s.seq, s.hash, s.to_ms, s.birth, s.ring_id, s.ring_pos"
            " FROM streams s JOIN boots b ON b.id = s.boot ORDER BY s.name"
        )
        return {
            name: StreamHead(name, boot_hex(boot), seq, digest, to_ms, birth, unsigned(ring_id), unsigned(ring_pos))
            for name, boot, seq, digest, to_ms, birth, ring_id, ring_pos in rows
        }

    def pending(
        self, destination: str, after_id: int = 0, limit: int = 100, max_bytes: int = 1 << 20
    ) -> list[OutboxItem]:
        """What ``destination`` has not confirmed, oldest first, above ``after_id``; empty when there is no more."""
        found: list[OutboxItem] = []
        bad: list[tuple[int, int, bytes, bytes | None]] = []
        size = 0
        try:
            rows = self._conn.execute(
                "SELECT p.id, s.name, p.is_birth, p.from_ms + p.span_ms, p.dictionary, p.body, b.hash FROM outbox o"
                " JOIN packs p ON p.id = o.pack JOIN streams s ON s.id = p.stream"
                " LEFT JOIN births b ON b.pack = p.birth"
                " WHERE o.destination = ? AND o.pack > ? ORDER BY o.pack LIMIT ?",
                (self._destinations[destination], after_id, limit),
            )
            with contextlib.closing(rows):
                for number, stream, is_birth, to_ms, *body in rows:
                    try:
                        data = self._codec.unpack(*body)
                    except ValueError:
                        bad.append((number, *body))
                        continue
                    size += len(data)
                    if found and size > max_bytes:
                        break
                    found.append(OutboxItem(number, stream, data, bool(is_birth), to_ms))
        except sqlite3.Error as error:
            raise self._explain(error) from error
        for row in bad:
            self._unpack(*row)
        return found if found or not bad else self.pending(destination, bad[-1][0], limit, max_bytes)

    def births(self, after: str = "", limit: int = 100, max_bytes: int = 1 << 20) -> list[OutboxItem]:
        """The newest birth of each stream whose name is above ``after``, by name; empty when there is no more."""
        rows = self._all(
            "SELECT p.id, s.name, p.from_ms + p.span_ms, p.dictionary, p.body, b.hash FROM streams s"
            " JOIN packs p ON p.id = s.birth_pack LEFT JOIN births b ON b.pack = p.birth"
            " WHERE s.name > ? ORDER BY s.name LIMIT ?",
            after,
            limit,
        )
        found: list[OutboxItem] = []
        size = 0
        for number, stream, to_ms, *body in rows:
            data = self._unpack(number, *body)
            if data is None:
                continue
            size += len(data)
            if found and size > max_bytes:
                break
            found.append(OutboxItem(number, stream, data, True, to_ms))
        return found

    def packs(self, stream: str, boot: str, first: int, last: int) -> Iterator[StoredPack]:
        """Packs ``first`` to ``last`` of a boot that are still here, in order, as published."""
        if stream not in self._heads or boot not in self._boots:
            return
        while first <= last:
            # a chunk at a time: an open cursor would keep the WAL from being reset
            rows = self._all(
                "SELECT p.id, p.seq, p.from_ms, p.span_ms, p.is_birth, p.dictionary, p.body, b.hash FROM packs p"
                " LEFT JOIN births b ON b.pack = p.birth"
                " WHERE p.stream = ? AND p.seq BETWEEN ? AND ? AND p.boot = ? ORDER BY p.seq LIMIT ?",
                *(self._heads[stream].id, first, last, self._boots[boot], CHUNK),
            )
            for number, seq, from_ms, span_ms, is_birth, *body in rows:
                data = self._unpack(number, *body)
                if data is not None:
                    yield StoredPack(number, stream, boot, seq, from_ms, from_ms + span_ms, bool(is_birth), data)
            if len(rows) < CHUNK:
                return
            first = rows[-1][1] + 1

    def newest(self, stream: str, limit: int) -> Iterator[bytes]:
        """Up to ``limit`` packs of a stream as published, from the newest back, births left out."""
        if stream not in self._heads:
            return
        seq = self._heads[stream].seq + 1
        while limit > 0:
            rows = self._all(
                "SELECT p.seq, p.id, p.dictionary, p.body, b.hash FROM packs p LEFT JOIN births b ON b.pack = p.birth"
                " WHERE p.stream = ? AND p.seq < ? AND NOT p.is_birth ORDER BY p.seq DESC LIMIT ?",
                *(self._heads[stream].id, seq, min(CHUNK, limit)),
            )
            for _, *row in rows:
                if (data := self._unpack(*row)) is not None:
                    yield data
            if not rows:
                return
            seq, limit = rows[-1][0], limit - len(rows)

    def spans(self, from_ms: int, to_ms: int) -> dict[str, tuple[int, int]]:
        """(first, last) sequence of the packs that touch ``[from_ms, to_ms)``, by stream.

        A birth at the very beginning of what is left of a stream, whose packs are gone, is not among them.
        """
        rows = self._all(
            "SELECT s.name, s.id, min(p.seq), max(p.seq) FROM packs p JOIN streams s ON s.id = p.stream"
            " WHERE p.from_ms < ? AND (p.from_ms + p.span_ms > ? OR p.span_ms = 0 AND p.from_ms >= ?)"
            " GROUP BY s.id ORDER BY s.name",
            *(to_ms, from_ms, from_ms),
        )
        return {name: (self._begin(stream, first, last), last) for name, stream, first, last in rows}

    def _begin(self, stream: int, first: int, last: int) -> int:
        """``first``, or the pack after it where that is a birth that outlived its packs."""
        while first < last:  # nearly always once
            rows = self._all(
                "SELECT is_birth, seq FROM packs WHERE stream = ? AND seq >= ? ORDER BY seq LIMIT 2", stream, first
            )
            if not rows[0][0] or rows[1][1] == first + 1:
                break
            first = rows[1][1]
        return first

    def first_pack(self, stream: str) -> tuple[int, int]:
        """(sequence, ``from`` in ms) of the first pack of a stream that is here with those after it, or (0, 0)."""
        number = self._heads[stream].id
        ((first, last),) = self._all("SELECT min(seq), max(seq) FROM packs WHERE stream = ?", number)
        if first is None:
            return 0, 0
        first = self._begin(number, first, last)
        ((from_ms,),) = self._all("SELECT from_ms FROM packs WHERE stream = ? AND seq = ?", number, first)
        return first, from_ms

    def seq_at(self, stream: str, at_ms: int) -> int:
        """The last pack of a stream that begins at or before an instant; the first one that is here if none does.

        Found by bisection: where the clock was set back, it is one of those at which the instant was passed.
        """
        number, (low, from_ms) = self._heads[stream].id, self.first_pack(stream)
        high = self._heads[stream].seq if from_ms <= at_ms else low
        while low < high:
            middle = (low + high + 1) // 2
            rows = self._all(
                "SELECT seq, from_ms FROM packs WHERE stream = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT 1",
                *(number, middle, high),
            )
            if rows and rows[0][1] <= at_ms:
                low = rows[0][0]
            else:
                high = middle - 1
        return low

    def birth_before(self, stream: str, seq: int) -> bytes | None:
        """The birth in force before pack ``seq``, as published; None if it is not here."""
        rows = self._all(
            "SELECT p.id, p.dictionary, p.body, b.hash FROM packs p LEFT JOIN births b ON b.pack = p.birth"
            " WHERE p.stream = ? AND p.is_birth AND p.seq < ? ORDER BY p.seq DESC LIMIT 1",
            *(self._heads[stream].id, seq),
        )
        return self._unpack(*rows[0]) if rows else None

    def after(self, stream: str, seq: int, last: int, limit: int = CHUNK, max_bytes: int = 1 << 30) -> list[StoredPack]:
        """Packs above ``seq`` up to ``last``, of any boot, in order; empty when there is no more."""
        found: list[StoredPack] = []
        bad: list[tuple[int, int, bytes, bytes | None]] = []
        size, at = 0, seq
        try:
            rows = self._conn.execute(
                "SELECT t.boot, p.seq, p.from_ms, p.span_ms, p.is_birth, p.id, p.dictionary, p.body, b.hash"
                " FROM packs p JOIN boots t ON t.id = p.boot LEFT JOIN births b ON b.pack = p.birth"
                " WHERE p.stream = ? AND p.seq > ? AND p.seq <= ? ORDER BY p.seq LIMIT ?",
                (self._heads[stream].id, seq, last, limit),
            )
            with contextlib.closing(rows):
                for boot, at, from_ms, span_ms, is_birth, number, *body in rows:
                    try:
                        data = self._codec.unpack(*body)
                    except ValueError:
                        bad.append((number, *body))
                        continue
                    size += len(data)
                    if found and size > max_bytes:
                        break
                    to_ms = from_ms + span_ms
                    found.append(StoredPack(number, stream, boot_hex(boot), at, from_ms, to_ms, bool(is_birth), data))
        except sqlite3.Error as error:
            raise self._explain(error) from error
        for row in bad:
            self._unpack(*row)
        return found if found or not bad else self.after(stream, at, last, limit, max_bytes)  # all were damaged

    def replay(
        self, stream: str, boot: str | None, first: int, last: int, limit: int = CHUNK, max_bytes: int = 1 << 20
    ) -> ReplayPage:
        """Packs ``first`` to ``last``, and what became of those that are not here."""
        if stream not in self._heads or (boot is not None and boot not in self._boots):
            return ReplayPage(refused="no such stream or boot")
        newest = self._heads[stream].seq
        if first > newest:
            return ReplayPage(refused=f"nothing was sealed beyond {newest}")
        last, at = min(last, newest), first
        items: list[OutboxItem] = []
        gone: list[Gone] = []
        size = 0
        for pack in self.after(stream, first - 1, last, limit):
            if items and size + len(pack.data) > max_bytes:
                return ReplayPage(items, gone, at)
            gone += self._gone(stream, at, pack.seq - 1)
            at = pack.seq + 1
            if boot in (None, pack.boot):
                size += len(pack.data)
                items.append(OutboxItem(pack.id, stream, pack.data, pack.is_birth, pack.to_ms))
        if at > last or not self.after(stream, at - 1, last, 1):
            gone += self._gone(stream, at, last)
            at = 0
        return ReplayPage(items, gone, at)

    def _gone(self, stream: str, first: int, last: int) -> list[Gone]:
        """Why packs ``first`` to ``last`` are not here."""
        if first > last:
            return []
        rows = self._all(
            "SELECT l.first, l.last, l.from_ms, l.to_ms, l.hash, l.reason, b.boot FROM losses l"
            " JOIN boots b ON b.id = l.boot WHERE l.stream = ? AND l.first <= ? AND l.last >= ? ORDER BY l.first",
            *(self._heads[stream].id, last, first),
        )
        found: list[Gone] = []
        for low, high, from_ms, to_ms, digest, reason, boot in rows:
            start, end = max(low, first), min(high, last)
            if start > first:
                found.append(Gone(first, start - 1, None))
            loss = {
                "boot": boot_hex(boot), "event": "loss", "first": low, "from": from_ms / 1000,
                "hash": urlsafe_b64encode(digest).rstrip(b"=").decode(), "last": high, "reason": reason,
                "to": to_ms / 1000,
            }  # fmt: skip
            found.append(Gone(start, end, loss))
            first = end + 1
        return found if first > last else [*found, Gone(first, last, None)]

    def covered(self, destination: str, ack: Ack) -> tuple[list[int], str | None]:
        """Ids in the outbox of ``destination`` that an ack confirms, and why it does not if it is not ours."""
        if ack.stream not in self._heads or ack.boot not in self._boots:
            return [], "no such stream or boot"
        stream, boot = self._heads[ack.stream].id, self._boots[ack.boot]
        last = self._all(
            "SELECT p.id, p.dictionary, p.body, b.hash FROM packs p LEFT JOIN births b ON b.pack = p.birth"
            " WHERE p.stream = ? AND p.seq = ? AND p.boot = ?",
            *(stream, ack.last, boot),
        )
        if not last:
            return [], "pack `last` is not here"
        data = self._unpack(*last[0])
        if data is None or payload_hash(data) != ack.hash:
            return [], "the hash is not that of pack `last`"
        rows = self._all(
            "SELECT o.pack FROM packs p JOIN outbox o ON o.pack = p.id AND o.destination = ?"
            " WHERE p.stream = ? AND p.seq BETWEEN ? AND ? AND p.boot = ? ORDER BY o.pack",
            *(self._destinations[destination], stream, ack.first, ack.last, boot),
        )
        return [row[0] for row in rows], None

    def check(self) -> list[str]:
        """What SQLite finds wrong in the whole file; empty if it is sound. Slow: for a schedule."""
        try:
            rows = self._conn.execute("PRAGMA quick_check(20)").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [text for (text,) in rows if text != "ok"]
