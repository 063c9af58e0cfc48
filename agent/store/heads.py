"""The head record: the head of every stream after the last commit, in a file beside the database, ``store.db.heads``.

If a WAL is damaged or cut short, SQLite silently drops its last transactions. The heads then go back, and the next pack
would get a sequence that was used before. So each commit is also recorded here, after it is durable and before its
packs may be published. Therefore the file may lag behind the database, but is never ahead of it.

The file is synced only at the start and at the end of a run. In between, written data is in the kernel's page cache,
where it survives a killed process. Until a reboot, and after an orderly end, the file is *exact*: it covers each
published pack. After a power cut, the file has the state of the kernel's last write-back, which is at most half a
minute old. Packs may exist that are newer than this state.

Layout: slots of 512 bytes, each with its own checksum, so that a torn sector damages only one stream. The first slot
holds the kernel's boot id, and whether the end was orderly. Each other slot holds one stream. Pages of 4 KiB are
written whole.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.clock import kernel_boot
from agent.store.errors import VALUE_ERRORS, add_suspicion, is_small
from agent.store.retention import Retention
from agent.store.schema import TALLY
from agent.store.sqlite import Database, file_bytes, quarantine_name, unchanged_damage
from agent.store.streams import DAMAGED, LaggingStream, Resume, StreamHead, StreamRegistry
from drivers.files import sync_directory

if TYPE_CHECKING:
    from agent.pack import SealedPack

log = logging.getLogger("meterhouse.store")
SLOT: Final = 512
PAGE: Final = 4096
MAGIC: Final = b"mhheads1"
MAX_BYTES: Final = 4 << 20  # bytes of a file that are read, enough for eight thousand streams
_HEADER = struct.Struct("<8s16sB")
# a ``RecordedHead`` without the name of its stream; the last field is the length of this name, which follows
_ENTRY = struct.Struct("<Qq32sqQQqqqqQqqB")
# stored at the end of a slot, before the checksum; the file of an older version has zeros there
_LOST = struct.Struct("<qq")
_SUM = struct.Struct("<I")
# a slot without its checksum: the entry, the name, zeros, and the newest loss
_SLOT = struct.Struct(f"{_ENTRY.format}{SLOT - _ENTRY.size - _LOST.size - _SUM.size}s{_LOST.format[1:]}")


@dataclass(slots=True)
class RecordedHead:
    """One stream in the file. The members ``sent_*`` are of the last pack that may have been published."""

    stream: str
    boot: str  # 16 hex digits
    seq: int
    hash: bytes
    to_ms: int
    ring_id: int
    ring_pos: int  # every record of this ring before this position is sealed
    ring_seq: int  # packs with a higher sequence were sealed from this ring
    pack_id: int  # 0: not known
    sent_seq: int
    sent_ms: int  # end of the pack ``sent_seq``
    sent_pos: int  # ``ring_pos`` of the pack ``sent_seq``; 0 if this pack was sealed from another ring
    owed_seq: int  # sequence of the first pack that a destination waits for; updated every minute
    owed_ms: int  # start of the pack ``owed_seq``
    # sequence of the first pack of the newest loss with the reason ``damaged``; 0: there is no such loss
    lost_seq: int = 0
    lost_ms: int = 0  # start of the pack ``lost_seq``

    def advance(self, pack: SealedPack, number: int) -> None:
        """Record that a pack was committed with the id ``number``."""
        if pack.ring_id != self.ring_id:
            self.ring_id, self.ring_seq, self.sent_pos = pack.ring_id, self.seq, 0
        self.boot, self.seq, self.hash, self.to_ms = pack.boot, pack.seq, pack.hash, pack.to_ms
        self.ring_pos, self.pack_id = pack.ring_pos, number

    def encode(self) -> bytes:
        """Return the bytes of the slot."""
        name = self.stream.encode()
        body = _SLOT.pack(
            int(self.boot, 16), self.seq, self.hash, self.to_ms, self.ring_id, self.ring_pos, self.ring_seq,
            self.pack_id, self.sent_seq, self.sent_ms, self.sent_pos, self.owed_seq, self.owed_ms, len(name), name,
            self.lost_seq, self.lost_ms,
        )  # fmt: skip
        return body + _SUM.pack(zlib.crc32(body))


def _summed(body: bytes) -> bytes:
    body = body.ljust(SLOT - _SUM.size, b"\0")
    return body + _SUM.pack(zlib.crc32(body))


def header(boot: bytes, closed: bool) -> bytes:
    """Make the first slot: the kernel boot that wrote the file, and whether the end was orderly."""
    return _summed(_HEADER.pack(MAGIC, boot, int(closed)))


def _decode(slot: bytes) -> RecordedHead | None:
    if _SUM.unpack(slot[-_SUM.size :])[0] != zlib.crc32(slot[: -_SUM.size]):
        return None
    boot, seq, digest, *rest, length = _ENTRY.unpack_from(slot)
    if not seq or not length:
        return None
    name = slot[_ENTRY.size : _ENTRY.size + length].decode("utf-8", "replace")
    lost = _LOST.unpack_from(slot, SLOT - _SUM.size - _LOST.size)
    return RecordedHead(name, f"{boot:016x}", seq, digest, *rest, *lost)


def record_file(path: Path) -> Path:
    """Return the path of a database's head record."""
    return path.with_name(path.name + ".heads")


def head_of(kept: RecordedHead) -> StreamHead:
    """Convert a recorded head to a StreamHead. Its birth is None, because the record does not contain it."""
    return StreamHead(kept.stream, kept.boot, kept.seq, kept.hash, kept.to_ms, None, kept.ring_id, kept.ring_pos)


def boot_bytes() -> bytes:
    """Return the id of this boot of the kernel; zeros if it is not known."""
    boot = kernel_boot()
    return bytes.fromhex(boot.replace("-", "")) if boot else bytes(16)


class HeadRecord:
    """The head record. ``found``: the heads that an earlier run recorded.

    After ``begin``, the file follows the commits of this run. ``mark_sent`` may be called in any thread, all other
    methods only in the database thread.
    """

    def __init__(self, path: Path, boot: bytes | None = None) -> None:
        self._path, self._boot = path, boot_bytes() if boot is None else boot
        self.found: dict[str, RecordedHead] = {}
        self.exact = False
        self._slots: dict[str, int] = {}  # by stream: the number of its slot, from 1 on
        self._heads: dict[str, RecordedHead] = {}
        self._image = bytearray()
        self._dirty: set[int] = set()  # numbers of pages that are not written yet
        self._unsent: set[str] = set()  # streams with packs that were committed after the last ``mark_sent``
        self._lock = threading.Lock()
        self._fd = -1
        self.begun = False  # True: the file follows the commits of this run
        self._failing = False
        self._read()

    def _read(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return
        try:
            data = os.pread(fd, MAX_BYTES, 0)
        except OSError as error:
            log.warning("%s cannot be read: %s", self._path, error.strerror)
            return
        finally:
            os.close(fd)
        slots = [data[at : at + SLOT] for at in range(0, len(data) - SLOT + 1, SLOT)]
        for number, slot in enumerate(slots[1:], 1):
            if (entry := _decode(slot)) is None:
                continue
            if (twice := self.found.get(entry.stream)) is None or twice.pack_id < entry.pack_id:
                self.found[entry.stream], self._slots[entry.stream] = entry, number
        if slots and _SUM.unpack(slots[0][-_SUM.size :])[0] == zlib.crc32(slots[0][: -_SUM.size]):
            magic, boot, closed = _HEADER.unpack_from(slots[0])
            self.exact = magic == MAGIC and bool(closed or (any(boot) and boot == self._boot))

    @property
    def last_id(self) -> int:
        """The highest pack id that an earlier run assigned."""
        return max((entry.pack_id for entry in self.found.values()), default=0)

    def begin(
        self, heads: Iterable[StreamHead], ids: Mapping[str, int], lost: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        """Record the heads of the database, and follow its commits from now on.

        Args:
            ids: by stream, the id of its newest pack, if this pack is stored.
            lost: by stream, (sequence, start) of the first pack of the newest loss with the reason ``damaged``.
        """
        lost = lost or {}
        self._heads = {
            head.stream: RecordedHead(
                head.stream, head.boot, head.seq, head.hash, head.to_ms, head.ring_id, head.ring_pos, head.seq,
                ids.get(head.stream, 0), head.seq, head.to_ms, head.ring_pos, 1, 0, *lost.get(head.stream, (0, 0)),
            )
            for head in heads
        }  # fmt: skip
        self.found = {}
        taken = {slot for name, slot in self._slots.items() if name in self._heads}
        self._slots = {name: slot for name, slot in self._slots.items() if name in self._heads}
        for name in self._heads:
            if name not in self._slots:
                self._slots[name] = next(n for n in range(1, len(taken) + 2) if n not in taken)
                taken.add(self._slots[name])
        self._image = bytearray(-(-(max((*taken, 1)) + 1) * SLOT // PAGE) * PAGE)
        self._put_header(closed=False)
        for name in self._heads:
            self._put(name)
        self._dirty, self.begun = set(range(len(self._image) // PAGE)), True
        self._flush()
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.fsync(self._fd)

    def advance(self, packs: Sequence[SealedPack], ids: Sequence[int]) -> None:
        """Record committed packs. Call this before the packs are published."""
        if not self.begun:
            return
        with self._lock:
            for pack, number in zip(packs, ids, strict=True):
                entry = self._heads.get(pack.stream)
                if entry is None:
                    entry = self._heads[pack.stream] = RecordedHead(
                        pack.stream, pack.boot, 0, pack.hash, 0, pack.ring_id, 0, 0, 0, 0, pack.from_ms, 0,
                        pack.seq, pack.from_ms,
                    )  # fmt: skip
                    self._slots[pack.stream] = max(self._slots.values(), default=0) + 1
                entry.advance(pack, number)
            for name in {pack.stream for pack in packs}:
                self._put(name)
                self._unsent.add(name)
            self._flush()

    def mark_sent(self) -> None:
        """Record that all committed packs may be published. Call this before they are published."""
        if not self._unsent:
            return
        with self._lock:
            if self.begun:
                self._mark_all_sent()
                self._flush()

    def _mark_all_sent(self) -> None:
        for name in self._unsent:
            entry = self._heads[name]
            entry.sent_seq, entry.sent_ms, entry.sent_pos = entry.seq, entry.to_ms, entry.ring_pos
            self._put(name)
        self._unsent.clear()

    def set_owed(self, owed: Mapping[str, tuple[int, int]]) -> None:
        """Record, by stream, the sequence and the start of the first pack that a destination waits for."""
        if not self.begun:
            return
        with self._lock:
            for name, (seq, from_ms) in owed.items():
                entry = self._heads.get(name)
                if entry is not None and entry.owed_seq != seq:
                    entry.owed_seq, entry.owed_ms = seq, from_ms
                    self._put(name)
            self._flush()

    def heads(self) -> Mapping[str, RecordedHead]:
        """The recorded heads, by stream."""
        return self._heads

    def close(self) -> None:
        """Record that the database was closed properly. The record is then exact, even after a reboot."""
        if not self.begun:
            return
        with self._lock:
            self._mark_all_sent()  # the committed packs may still be published after the file is closed
            self._put_header(closed=True)
            with contextlib.suppress(OSError):
                self._write()
                os.fsync(self._fd)
            self.abandon()

    def abandon(self) -> None:
        """Close the file without an update."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.begun = -1, False

    # --- pages

    def _put(self, name: str) -> None:
        at = self._slots[name] * SLOT
        if (short := at + SLOT - len(self._image)) > 0:
            self._image.extend(bytes(-(-short // PAGE) * PAGE))
        self._image[at : at + SLOT] = self._heads[name].encode()
        self._dirty.add(at // PAGE)

    def _put_header(self, closed: bool) -> None:
        self._image[:SLOT] = header(self._boot, closed)
        self._dirty.add(0)

    def _flush(self) -> None:
        try:
            self._write()
        except OSError as error:
            self._failed(error)
        else:
            self._failing = False

    def _write(self) -> None:
        """Write the changed pages.

        The page with the header comes last, because the previous record is valid until then.
        """
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._fd = os.open(self._path, flags, 0o600)
            os.ftruncate(self._fd, min(len(self._image), os.fstat(self._fd).st_size))
        size = os.fstat(self._fd).st_size
        for page in sorted(self._dirty, reverse=True):
            try:
                os.pwrite(self._fd, memoryview(self._image)[page * PAGE : (page + 1) * PAGE], page * PAGE)
            except OSError as error:
                if error.errno == errno.ENOSPC and page * PAGE >= size:
                    continue  # the disk has no space for new streams; the next commit tries again
                raise
            self._dirty.discard(page)

    def _failed(self, error: OSError) -> None:
        """Remove the file after a failed write, because its content is outdated. The next commit writes a new file."""
        if not self._failing:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
        self._failing = True
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._dirty = -1, set(range(len(self._image) // PAGE))


class HeadTracker:
    """Compares the recorded heads with the database when it opens, and keeps the record up to date afterwards."""

    def __init__(self, db: Database, streams: StreamRegistry, retention: Retention, record: HeadRecord) -> None:
        self._db, self._streams, self._retention, self.record = db, streams, retention, record
        self.behind: dict[str, LaggingStream] = {}

    def compare(self, is_salvaged: bool) -> bool:
        """Find the streams that are behind the record. Returns False if the rest of the database is inconsistent.

        Args:
            is_salvaged: True if the database is new, with data salvaged from a damaged one. It is consistent then.
        """
        heads, last = self._streams.heads(), self._streams.last_pack_id()
        row = self._db.execute("SELECT from_ms + span_ms FROM packs ORDER BY id DESC LIMIT 1").fetchone()
        newest_ms = row[0] if row else 0
        is_consistent = True
        for name, kept in self.record.found.items():
            head = heads.get(name)
            if head is None:
                # if the record is not exact, the stream restarts, because its position is unknown
                if self.record.exact:
                    self.behind[name] = _behind(kept, None, self.record.exact)
            elif head.seq < kept.seq and head.to_ms <= kept.to_ms:
                self.behind[name] = _behind(kept, head, self.record.exact)
                is_consistent &= not kept.pack_id or kept.pack_id > last
            elif head.hash == kept.hash and kept.pack_id > last and newest_ms <= kept.to_ms:
                is_consistent = False  # the head is stored, but its pack is missing
        if is_salvaged:
            return True
        if is_consistent and any(name in heads for name in self.behind):
            return self._tables_match()
        return is_consistent

    def _tables_match(self) -> bool:
        """Return True if tables and indexes match, and no stored pack comes after the head of its stream."""
        strays = self._db.execute(
            "SELECT EXISTS(SELECT 1 FROM streams s WHERE s.boot NOT IN (SELECT id FROM boots))"
            " OR EXISTS(SELECT 1 FROM streams s WHERE EXISTS"
            " (SELECT 1 FROM packs p INDEXED BY packs_seq WHERE p.stream = s.id AND p.seq > s.seq))"
        ).fetchone()[0]
        if strays:
            return False
        # the file is too large to be checked now; the first check of the whole store follows in a few minutes
        if not is_small(self._db.path):
            add_suspicion(self._db.path)
            return True
        return bool(self._db.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok")

    def resume(self, resumes: Mapping[str, Resume]) -> tuple[int, int]:
        """Continue each lagging stream after its missing packs, and note these packs as lost.

        Returns (number of streams, number of lost packs).

        Args:
            resumes: by stream, where it continues; by default after its last committed pack.
        """
        lost = 0
        with self._streams.restored(), self._db.transaction():
            for name, behind in self.behind.items():
                head = behind.head
                resume = resumes.get(name) or Resume(head.to_ms, head.ring_pos)
                stream = self._streams.put_head(replace(head, to_ms=resume.to_ms, ring_pos=resume.ring_pos))
                if behind.lost_first <= head.seq:
                    lost += head.seq - behind.lost_first + 1
                    from_ms = min(behind.lost_ms, resume.to_ms)
                    self._retention.note_loss(
                        stream, self._streams.boot_id(head.boot), behind.lost_first, head.seq, from_ms, resume.to_ms,
                        head.hash, DAMAGED,
                    )  # fmt: skip
            self._db.set_meta("last_id", self.record.last_id)
            self._db.set_meta("checkpoints_lost", 1)
        count, self.behind = len(self.behind), {}
        self._streams.refresh()
        self._retention.lost_packs += lost
        return count, lost

    def begin(self) -> None:
        """Begin to record commits. Call this before the first commit of packs or of a checkpoint."""
        if self.behind:
            self.resume({})
        if not self.record.exact:  # a power cut may have destroyed checkpoints that were published
            with self._db.transaction():
                self._db.set_meta("checkpoints_lost", 1)
        newest = (
            "SELECT s.name, max(p.id) FROM streams s, packs p WHERE p.stream = s.id AND p.seq = s.seq GROUP BY s.id"
        )
        lost = (
            "SELECT s.name, l.first, l.from_ms, max(l.last) FROM losses l JOIN streams s ON s.id = l.stream"
            " WHERE l.reason = ? GROUP BY s.id"
        )
        damaged = {name: (first, from_ms) for name, first, from_ms, _ in self._db.query(lost, DAMAGED)}
        self.record.begin(self._streams.heads().values(), dict(self._db.query(newest)), damaged)
        self.update_owed()

    def update_owed(self) -> None:
        """Record the first pack that a destination waits for, by stream, if the file is in use."""
        if self.record.begun:
            self.record.set_owed(self._owed())

    def _owed(self) -> dict[str, tuple[int, int]]:
        """Return (sequence, start) of the first pack that a destination waits for, by stream.

        A stream is left out if a quick search does not find this pack.
        """
        firsts = [
            self._db.execute(
                "SELECT min(pack) FROM outbox WHERE destination = ? AND pack < ?", (number, TALLY)
            ).fetchone()[0]
            for number in self._retention.active
        ]
        first = min((number for number in firsts if number is not None), default=None)
        heads = self.record.heads()
        nothing = {
            name: (head.seq + 1, head.to_ms) for name, head in heads.items() if first is None or head.pack_id < first
        }
        if first is None:
            return nothing
        rows = self._db.execute(
            "SELECT s.name, min(p.seq), p.from_ms FROM packs p JOIN streams s ON s.id = p.stream"
            " WHERE p.id BETWEEN ? AND ? GROUP BY s.id",
            (first, first + 4 * len(heads)),
        )
        return nothing | {name: (seq, from_ms) for name, seq, from_ms in rows}


def _behind(kept: RecordedHead, head: StreamHead | None, exact: bool) -> LaggingStream:
    """Describe the missing packs of a stream.

    ``head``: its head in the database; None: the database has no such stream.
    """
    seq, to_ms, pos = kept.sent_seq, kept.sent_ms, kept.sent_pos
    first, first_ms = max(1, kept.owed_seq), kept.owed_ms
    if kept.lost_seq and (head is None or head.seq < kept.lost_seq) and kept.lost_seq < first:
        # an older loss must be stated again, because the packs that stated it are missing too
        first, first_ms = kept.lost_seq, kept.lost_ms
    if head is not None:
        if head.seq >= seq:
            seq, to_ms, pos = head.seq, head.to_ms, head.ring_pos if head.ring_id == kept.ring_id else 0
        if head.seq >= first:
            first, first_ms = head.seq + 1, head.to_ms
    return LaggingStream(kept.stream, head_of(kept), to_ms, pos, exact and seq >= kept.ring_seq, exact, first, first_ms)


def set_stale_wal_aside(path: Path, record: HeadRecord, rescue: bool = True) -> bool:
    """Set a WAL aside if it hides newer data that the database file has. Returns True if it was set aside.

    A checkpoint may have copied the whole WAL into the database file just before the agent ended. If the WAL is damaged
    after that, older pages in its intact part hide newer pages in the file. Call this function before the database is
    opened.
    """
    wal = path.with_name(path.name + "-wal")
    if not record.found or not file_bytes(path) or not file_bytes(wal) or not is_small(path):
        return False
    # The WAL is set aside only if heads are missing with it, and present without it. Read errors are not handled here.
    if _reaches(path, "mode=ro", record) is not False or not _reaches(path, "mode=ro&immutable=1", record, sound=True):
        return False
    if not rescue:
        raise unchanged_damage(path, f"{wal.name} is older than the database")
    aside = quarantine_name(wal)
    wal.rename(aside)
    sync_directory(path.parent)
    log.warning("%s is damaged, but the database already contains all of it: set aside as %s", wal.name, aside.name)
    return True


def _reaches(path: Path, how: str, record: HeadRecord, sound: bool = False) -> bool | None:
    """Return True if the database, opened with the URI options ``how``, has all recorded heads and packs.

    If ``sound`` is True, the database must also pass SQLite's own check. Returns None if the database cannot be read.
    """
    try:
        conn = sqlite3.connect(f"file:{path}?{how}", timeout=0, uri=True, isolation_level=None)
        try:
            heads = {
                name: (seq, digest)
                for name, seq, digest in conn.execute("SELECT name, seq, CAST(hash AS BLOB) FROM streams")
            }
            last = conn.execute("SELECT max(id) FROM packs").fetchone()[0] or 0
            for name, kept in record.found.items():
                seq, digest = heads.get(name, (0, b""))
                if seq < kept.seq or (seq == kept.seq and digest != kept.hash) or last < kept.pack_id:
                    return False
            return not sound or conn.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
        finally:
            conn.close()
    except (sqlite3.Error, *VALUE_ERRORS):
        return None
    finally:
        # SQLite created this file when it read the WAL, but the agent does not use it
        with contextlib.suppress(OSError):
            path.with_name(path.name + "-shm").unlink()
