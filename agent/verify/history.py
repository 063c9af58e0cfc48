"""The order of the packs in one stream. Packs arrive in any order, and may arrive more than once.

To save memory, a run of consecutive packs is kept as one entry.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from .seam import ChainLink, check_seam

RECENT: Final = 1024  # the hashes of this many newest packs are kept, to distinguish a duplicate from a fork
MAX_SPARSE: Final = 1024  # the hashes of at most this many older packs are kept, such as every 64th or 128th
MAX_RUNS: Final = 4096  # limit of the runs that are kept for a stream


class Arrival(Enum):
    """How a received pack relates to the known packs of its stream."""

    NEW = "new"
    DUPLICATE = "duplicate"  # this pack arrived before, with the same bytes
    OLD_DUPLICATE = "duplicate, too old to compare"
    FORK = "fork"  # a pack with the same boot and sequence arrived before, with other bytes


@dataclass(slots=True)
class PackRun:
    """Consecutive packs of one boot, without a hole between them."""

    first: ChainLink
    last: ChainLink
    joined: bool = False  # True: the pack before the run is known, and belongs to another boot
    continued: bool = False  # True: the pack after the run is known, and belongs to another boot


@dataclass(slots=True)
class Boot:
    """The known runs of one boot, in order of sequence."""

    number: int
    runs: list[PackRun] = field(default_factory=list)
    highest: int = 0

    def index(self, seq: int) -> int:
        """Return the index of the last run that begins at or before ``seq``; -1 if there is none."""
        return bisect_right(self.runs, seq, key=_begins) - 1


def _begins(run: PackRun) -> int:
    return run.first.seq


class History:
    """The packs of a stream, joined into runs of consecutive packs."""

    def __init__(self) -> None:
        self.boots: dict[str, Boot] = {}
        self.reordered = 0
        self.uncompared = 0
        self.dropped_runs = 0  # number of forgotten runs with a hole before or after them
        self._forgotten_seq = 0  # if a pack up to this sequence is not in a run, it may have been forgotten
        self._ends: dict[str, PackRun] = {}  # hash of a run's last pack -> this run, if the next pack is not known yet
        # ``prev`` of a run's first pack -> this run, if the previous pack is not known yet
        self._starts: dict[str, PackRun] = {}
        self._hashes = PackHashes()
        # hash of the last redelivered pack that could not be compared, and the number of such packs in a row
        self._cursor: tuple[str, int] = ("", 0)
        self._count = 0
        self._boot_numbers = 0

    def place(self, link: ChainLink, digest: bytes) -> tuple[Arrival, list[tuple[ChainLink, str]]]:
        """Add a pack. Returns the kind of the pack, and a list of faults as (pack with the fault, text)."""
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
        """Return (True if the pack is known, first 16 bytes of its digest or None if they are no longer kept)."""
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
        """Yield all runs, boot by boot. Boots are in the order of the arrival of their first pack."""
        for boot in self.boots.values():
            yield from boot.runs

    def _after(self, boot: Boot, at: int, link: ChainLink, faults: list[tuple[ChainLink, str]]) -> PackRun:
        """Join ``link`` to the run that ends directly before it, or begin a new run. Returns the run."""
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
        """``run`` ends with ``link``. If another known run begins directly after ``link``, append it to ``run``."""
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
        """Compare a pack that arrives again with the known pack.

        If the hash of the known pack is no longer kept, the pack counts as uncompared for now. If all following packs
        also arrive again, in order, up to a pack whose hash is kept, the chain of ``prev`` proves that all are equal.
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
        """Drop old runs to make room, whole boots at a time, beginning with the oldest boot.

        The first pass stops at a boot with a hole inside or after it. If more room is needed, the second pass
        also drops boots with holes. The newest boot is never dropped as a whole, but may lose its oldest runs.
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
    """The first 16 bytes of the digests of the newest packs and of some older packs.

    The size of this object is limited.
    """

    def __init__(self) -> None:
        self._seqs = array("q", [-1]) * RECENT
        self._boots = array("l", [0]) * RECENT
        self._kept = bytearray(16 * RECENT)
        self._sparse: dict[tuple[int, int], bytes] = {}
        self._stride = 64

    def put(self, boot: int, seq: int, digest: bytes) -> None:
        """Store the digest of a new pack. Never replaces the digest of a pack with a higher sequence."""
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
        """Return the first 16 bytes of a pack's digest; None if they are no longer kept."""
        slot = seq % RECENT
        if self._seqs[slot] == seq and self._boots[slot] == boot:
            return bytes(self._kept[16 * slot : 16 * slot + 16])
        return self._sparse.get((boot, seq))
