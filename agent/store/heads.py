"""Where every stream stood after the last commit, beside the database: ``store.db.heads``.

SQLite drops the last transactions of a WAL that is damaged or cut short, and says nothing of it: heads go back, and the
next pack would take a sequence that was given before. So each commit is noted here as well, after it is durable and
before anybody may publish what is in it. The file may therefore lag behind the database, and is never ahead of it.

No fsync but at the start and at the end: what is written is in the kernel at once, which a killed process does not take
back. As long as the same kernel runs, and after an orderly end, the file is *exact*: nothing was published beyond it.
After a power cut it is what the kernel had written by itself, half a minute old at most: then heads are at least there.

Layout: slots of 512 bytes, each with a checksum of its own, so that a sector that was torn costs one stream. The first
holds the kernel's boot and whether the end was orderly; each other one a stream. Pages of 4 KiB are written whole.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.store.streams import Sealed, StreamHead

log = logging.getLogger("meterhouse.store")
SLOT: Final = 512
PAGE: Final = 4096
MAGIC: Final = b"mhheads1"
MAX_BYTES: Final = 4 << 20  # eight thousand streams: what is larger is no such file
_HEADER = struct.Struct("<8s16sB")
_ENTRY = struct.Struct("<Qq32sqQQqqqqQqqB")  # of a ``Recorded`` but its name, whose length comes last
_LOST = struct.Struct("<qq")  # ends a slot, before the sum; zeros where an older version wrote it
_SUM = struct.Struct("<I")


@dataclass(slots=True)
class Recorded:
    """One stream as the file has it. ``left_*``: the last pack that may have left the house."""

    stream: str
    boot: str  # 16 hex digits
    seq: int
    hash: bytes
    to_ms: int
    ring_id: int
    ring_pos: int  # every record before it in that ring is sealed
    ring_seq: int  # packs above it were sealed from that ring
    pack_id: int  # 0: not known
    left_seq: int
    left_ms: int  # its ``to``
    left_pos: int  # as ``ring_pos``; 0 where it was sealed from another ring
    owed_seq: int  # no pack below it was waited for by anybody, a minute ago at most
    owed_ms: int  # where that one begins
    lost_seq: int = 0  # the first of the newest packs that were lost by damage; 0: none were
    lost_ms: int = 0  # where it began

    def take(self, pack: Sealed, number: int) -> None:
        """A pack was committed under this id."""
        if pack.ring_id != self.ring_id:
            self.ring_id, self.ring_seq, self.left_pos = pack.ring_id, self.seq, 0
        self.boot, self.seq, self.hash, self.to_ms = pack.boot, pack.seq, pack.hash, pack.to_ms
        self.ring_pos, self.pack_id = pack.ring_pos, number

    def encode(self) -> bytes:
        """Its slot."""
        name = self.stream.encode()
        front = _ENTRY.pack(
            int(self.boot, 16), self.seq, self.hash, self.to_ms, self.ring_id, self.ring_pos, self.ring_seq,
            self.pack_id, self.left_seq, self.left_ms, self.left_pos, self.owed_seq, self.owed_ms, len(name),
        )  # fmt: skip
        return _summed(front + name, _LOST.pack(self.lost_seq, self.lost_ms))


def _summed(body: bytes, end: bytes = b"") -> bytes:
    body = body.ljust(SLOT - _SUM.size - len(end), b"\0") + end
    return body + _SUM.pack(zlib.crc32(body))


def header(boot: bytes, closed: bool) -> bytes:
    """The first slot: which start of the kernel wrote the file, and whether the end was orderly."""
    return _summed(_HEADER.pack(MAGIC, boot, int(closed)))


def _decode(slot: bytes) -> Recorded | None:
    if _SUM.unpack(slot[-_SUM.size :])[0] != zlib.crc32(slot[: -_SUM.size]):
        return None
    boot, seq, digest, *rest, length = _ENTRY.unpack_from(slot)
    if not seq or not length:
        return None
    name = slot[_ENTRY.size : _ENTRY.size + length].decode("utf-8", "replace")
    lost = _LOST.unpack_from(slot, SLOT - _SUM.size - _LOST.size)
    return Recorded(name, f"{boot:016x}", seq, digest, *rest, *lost)


def record_file(path: Path) -> Path:
    """Where the record of a database lies."""
    return path.with_name(path.name + ".heads")


def head_of(kept: Recorded) -> StreamHead:
    """A recorded head as the store knows heads; which birth was in force it does not say."""
    return StreamHead(kept.stream, kept.boot, kept.seq, kept.hash, kept.to_ms, None, kept.ring_id, kept.ring_pos)


def kernel_boot() -> bytes:
    """Which start of the kernel this is; zeros where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        return bytes.fromhex(text.strip().replace("-", ""))
    return bytes(16)


class HeadRecord:
    """The file. ``found`` is what an earlier run left; from ``begin`` on it follows the commits of this one.

    ``left`` is for any thread, the rest for the one that owns the database.
    """

    def __init__(self, path: Path, boot: bytes | None = None) -> None:
        self._path, self._boot = path, kernel_boot() if boot is None else boot
        self.found: dict[str, Recorded] = {}
        self.exact = False
        self._slots: dict[str, int] = {}  # from 1
        self._heads: dict[str, Recorded] = {}
        self._image = bytearray()
        self._dirty: set[int] = set()  # pages
        self._ahead: set[str] = set()  # streams whose newest pack has not left
        self._lock = threading.Lock()
        self._fd = -1
        self.begun = False  # it follows the commits
        self._trouble = False
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
        """The highest pack id that an earlier run gave."""
        return max((entry.pack_id for entry in self.found.values()), default=0)

    def begin(
        self, heads: Iterable[StreamHead], ids: Mapping[str, int], lost: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        """Say what the database says, and follow it from now on.

        Args:
            ids: of the newest pack, where it is there.
            lost: by stream the first of the newest packs that were lost by damage, and where it began.
        """
        lost = lost or {}
        self._heads = {
            head.stream: Recorded(
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

    def advance(self, packs: Sequence[Sealed], ids: Sequence[int]) -> None:
        """These packs are committed. To be called before they are published."""
        if not self.begun:
            return
        with self._lock:
            for pack, number in zip(packs, ids, strict=True):
                entry = self._heads.get(pack.stream)
                if entry is None:
                    entry = self._heads[pack.stream] = Recorded(
                        pack.stream, pack.boot, 0, pack.hash, 0, pack.ring_id, 0, 0, 0, 0, pack.from_ms, 0,
                        pack.seq, pack.from_ms,
                    )  # fmt: skip
                    self._slots[pack.stream] = max(self._slots.values(), default=0) + 1
                entry.take(pack, number)
            for name in {pack.stream for pack in packs}:
                self._put(name)
                self._ahead.add(name)
            self._flush()

    def left(self) -> None:
        """Whatever is committed by now may leave the house: to be called before a byte of it does."""
        if not self._ahead:
            return
        with self._lock:
            if self.begun:
                self._all_left()
                self._flush()

    def _all_left(self) -> None:
        for name in self._ahead:
            entry = self._heads[name]
            entry.left_seq, entry.left_ms, entry.left_pos = entry.seq, entry.to_ms, entry.ring_pos
            self._put(name)
        self._ahead.clear()

    def owe(self, owed: Mapping[str, tuple[int, int]]) -> None:
        """By stream the lowest sequence that somebody waits for, and where it begins."""
        if not self.begun:
            return
        with self._lock:
            for name, (seq, from_ms) in owed.items():
                entry = self._heads.get(name)
                if entry is not None and entry.owed_seq != seq:
                    entry.owed_seq, entry.owed_ms = seq, from_ms
                    self._put(name)
            self._flush()

    def heads(self) -> Mapping[str, Recorded]:
        """As they stand."""
        return self._heads

    def close(self) -> None:
        """The database is closed in order: what stands here is all that there is, also for another kernel."""
        if not self.begun:
            return
        with self._lock:
            self._all_left()  # nobody says any more what leaves
            self._put_header(closed=True)
            with contextlib.suppress(OSError):
                self._write()
                os.fsync(self._fd)
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is."""
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
            self._trouble = False

    def _write(self) -> None:
        """The page with the header last: until then the file says what it said, and that still holds."""
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
                    continue  # no room for streams that it never had: the next commit tries again
                raise
            self._dirty.discard(page)

    def _failed(self, error: OSError) -> None:
        """A file that lags behind must not pass for one that does not: it goes, and the next commit makes it anew."""
        if not self._trouble:
            log.warning("%s cannot be written: %s", self._path, error.strerror)
        self._trouble = True
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._dirty = -1, set(range(len(self._image) // PAGE))
