"""The order of one stream. Packs come in any order and more than once; each run of consecutive packs is one entry."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from .seam import ChainLink, check_seam

RECENT: Final = 1024  # number of last packs whose hashes are kept, to distinguish a duplicate from a fork
MAX_SPARSE: Final = 1024  # number of older packs whose hashes are kept, at growing distances
MAX_RUNS: Final = 4096  # per stream


class Arrival(Enum):
    """What a received pack is, compared with the known packs of its stream."""

    NEW = "new"
    DUPLICATE = "duplicate"  # the same bytes as before
    OLD_DUPLICATE = "duplicate, too old to compare"
    FORK = "fork"  # the same identity with other bytes


@dataclass(slots=True)
class PackRun:
    """Packs of one boot, one after the other without a hole."""

    first: ChainLink
    last: ChainLink
    joined: bool = False  # the pack before the run is known; it belongs to another boot
    continued: bool = False  # the pack after the run is known; it belongs to another boot


@dataclass(slots=True)
class Boot:
    """The known runs of one boot, in order of sequence."""

    number: int
    runs: list[PackRun] = field(default_factory=list)
    highest: int = 0

    def index(self, seq: int) -> int:
        """Index of the run that begins at or before ``seq``; -1 if none does."""
        return bisect_right(self.runs, seq, key=_begins) - 1


def _begins(run: PackRun) -> int:
    return run.first.seq


class History:
    """The packs of a stream, joined to runs of consecutive packs."""

    def __init__(self) -> None:
        self.boots: dict[str, Boot] = {}
        self.reordered = 0
        self.uncompared = 0
        self.dropped_runs = 0  # number of forgotten runs that had a hole beside them
        self._forgotten_seq = 0  # packs up to this sequence may be forgotten
        self._ends: dict[str, PackRun] = {}  # runs whose next pack is not known yet, by hash of the last pack
        self._starts: dict[str, PackRun] = {}  # runs whose previous pack is not known yet, by prev of the first pack
        self._hashes = PackHashes()
        # hash of the last redelivered pack that could not be compared, and the number of such packs in a row
        self._cursor: tuple[str, int] = ("", 0)
        self._count = 0
        self._boot_numbers = 0

    def place(self, link: ChainLink, digest: bytes) -> tuple[Arrival, list[tuple[ChainLink, str]]]:
        """Add a pack. Returns what it is, and faults: (pack with the fault, text)."""
        boot = self.boots.get(link.boot)
        if link.seq <= self._forgotten_seq and (boot is None or boot.index(link.seq) < 0):
            return self._uncompared(link), []
        if boot is None:
            boot = self.boots[link.boot] = Boot(self._boot_numbers)
            self._boot_numbers += 1
        at = boot.index(link.seq)
        if at >= 0 and boot.runs[at].last.seq >= link.seq:
            return self._again(boot, boot.runs[at], link, digest), []
        if link.seq < boot.highest:
            self.reordered += 1
        else:
            boot.highest = link.seq
        self._hashes.put(boot.number, link.seq, digest)
        faults: list[tuple[ChainLink, str]] = []
        run = self._after(boot, at, link, faults)
        self._before(boot, run, link, faults)
        if self._count > MAX_RUNS:
            self._forget()
        return Arrival.NEW, faults

    def find(self, boot: str, seq: int) -> tuple[bool, bytes | None]:
        """Return whether the pack is known, and the first 16 bytes of its digest (None if no longer kept)."""
        known = self.boots.get(boot)
        at = known.index(seq) if known else -1
        if known is None or at < 0 or known.runs[at].last.seq < seq:
            return False, None
        return True, self._hashes.get(known.number, seq)

    @property
    def open_ends(self) -> int:
        """The number of run ends whose neighbour pack is unknown, such as at a gap or at the newest pack."""
        return len(self._ends) + len(self._starts)

    def runs(self) -> Iterator[PackRun]:
        """Yield all runs, boot by boot in order of arrival."""
        for boot in self.boots.values():
            yield from boot.runs

    def _after(self, boot: Boot, at: int, link: ChainLink, faults: list[tuple[ChainLink, str]]) -> PackRun:
        """Join ``link`` to the run that ends before it, or begin a new run. Returns the run."""
        near = boot.runs[at] if at >= 0 and boot.runs[at].last.seq == link.seq - 1 else None
        left = self._ends.get(link.prev) if link.prev else None
        if near:
            faults += [(link, text) for text in check_seam(near.last, link)]
            if near.last.hash == link.prev:
                if left is near:
                    del self._ends[near.last.hash]
                near.last = link
                return near
        run = PackRun(link, link)
        boot.runs.insert(at + 1, run)
        self._count += 1
        if left:
            faults += [(link, text) for text in check_seam(left.last, link)]
            del self._ends[left.last.hash]
            left.continued = run.joined = True
        elif link.prev:
            self._starts.setdefault(link.prev, run)
        return run

    def _before(self, boot: Boot, run: PackRun, link: ChainLink, faults: list[tuple[ChainLink, str]]) -> None:
        """Join the run that follows ``link``, if one does."""
        self._ends[link.hash] = run
        at = boot.index(link.seq) + 1
        near = boot.runs[at] if at < len(boot.runs) else None
        if near and near.first.seq == link.seq + 1:
            faults += [(near.first, text) for text in check_seam(link, near.first)]
            if near.first.prev != link.hash:
                return
            self._starts.pop(link.hash, None)
            del self._ends[link.hash]
            run.last, run.continued = near.last, near.continued
            if self._ends.get(near.last.hash) is near:
                self._ends[near.last.hash] = run
            del boot.runs[at]
            self._count -= 1
        elif right := self._starts.pop(link.hash, None):
            faults += [(right.first, text) for text in check_seam(link, right.first)]
            del self._ends[link.hash]
            right.joined = run.continued = True

    def _again(self, boot: Boot, run: PackRun, link: ChainLink, digest: bytes) -> Arrival:
        """Compare a known pack that arrives again.

        If its hash is no longer kept, the pack counts as uncompared. That ends when the packs after it also arrive
        again, in order, up to a pack whose hash is kept: the chain of ``prev`` then proves all of them.
        """
        known = self._hashes.get(boot.number, link.seq)
        if known is None:
            same = {run.first.seq: run.first.hash, run.last.seq: run.last.hash}.get(link.seq)
            if same is None:
                return self._uncompared(link)
            equal = same == link.hash
        else:
            equal = known == digest[:16]
        if equal and link.prev == self._cursor[0]:
            self.uncompared -= self._cursor[1]
        self._cursor = ("", 0)
        return Arrival.DUPLICATE if equal else Arrival.FORK

    def _uncompared(self, link: ChainLink) -> Arrival:
        self._cursor = (link.hash, self._cursor[1] + 1 if link.prev == self._cursor[0] else 1)
        self.uncompared += 1
        return Arrival.OLD_DUPLICATE

    def _forget(self) -> None:
        """Drop old runs, whole boots at a time, the oldest boot first.

        The first pass stops at a boot with a hole in it or after it. If more room is needed, the second pass also drops
        boots with holes. The last boot is kept, but may lose its oldest runs.
        """
        room = self._count - MAX_RUNS * 3 // 4
        order = sorted(self.boots.items(), key=lambda item: item[1].runs[0].first.seq)
        for with_holes in (False, True):
            while room > 0 and len(order) > 1:
                name, boot = order[0]
                if not with_holes and not (len(boot.runs) == 1 and boot.runs[0].continued):
                    break
                room -= len(boot.runs)
                self.dropped_runs += len(boot.runs) if with_holes else 0
                self._drop(boot, len(boot.runs))
                del self.boots[name], order[0]
        if room > 0:
            self.dropped_runs += room
            self._drop(order[0][1], room)

    def _drop(self, boot: Boot, count: int) -> None:
        for run in boot.runs[:count]:
            self._ends.pop(run.last.hash, None)
            if run.first.prev:
                self._starts.pop(run.first.prev, None)
            self._forgotten_seq = max(self._forgotten_seq, run.last.seq)
        self._count -= len(boot.runs[:count])
        del boot.runs[:count]


class PackHashes:
    """The first 16 bytes of the digests of the last packs and of some older packs. Its size does not grow."""

    def __init__(self) -> None:
        self._seqs = array("q", [-1]) * RECENT
        self._boots = array("l", [0]) * RECENT
        self._kept = bytearray(16 * RECENT)
        self._sparse: dict[tuple[int, int], bytes] = {}
        self._stride = 64

    def put(self, boot: int, seq: int, digest: bytes) -> None:
        """Remember the digest of a new pack. It never replaces the digest of a higher sequence."""
        slot = seq % RECENT
        if self._seqs[slot] <= seq:
            self._seqs[slot], self._boots[slot] = seq, boot
            self._kept[16 * slot : 16 * slot + 16] = digest[:16]
        if seq % self._stride == 0:
            self._sparse[boot, seq] = digest[:16]
            if len(self._sparse) > MAX_SPARSE:
                self._stride *= 2
                self._sparse = {key: kept for key, kept in self._sparse.items() if key[1] % self._stride == 0}

    def get(self, boot: int, seq: int) -> bytes | None:
        """Return the 16 bytes; None if they are no longer kept."""
        slot = seq % RECENT
        if self._seqs[slot] == seq and self._boots[slot] == boot:
            return bytes(self._kept[16 * slot : 16 * slot + 16])
        return self._sparse.get((boot, seq))
