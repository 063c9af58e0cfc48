"""The state of one stream: the order of its packs (``history``), their completeness, and the numbers for its report."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from .checkpoint import NamedHead
from .completeness import Balance, PackCounts, balance
from .history import Arrival, History
from .keyring import KeyRing
from .missing import StatedLosses, contradicts, find_missing
from .point_table import PointTable, day_name
from .report import MAX_LISTED, Day, Fault, Faults, StreamReport
from .seam import ChainLink
from .stateless import CheckedPack

MAX_TABLES: Final = 64
# limit of the packs that wait for their birth; the completeness of further packs stays unknown
MAX_WAITING: Final = 256
# limit of the bytes of the packs of one gateway that wait for their birth or for other parts of their tick
MAX_WAITING_BYTES: Final = 16 << 20
MAX_GROUPS: Final = 64  # limit of the ticks that wait for their missing parts
MAX_DAYS: Final = 1500
# limit of the different gap reasons that are counted; the format has some twenty. Further ones count together as OTHERS
MAX_REASONS, OTHERS = 100, "others"
MAX_FAULTY: Final = 10_000  # if more packs are noted as faulty, those that cannot get another fault are dropped
MAX_HEADS: Final = 128  # limit of the heads that wait for their pack; a head takes about 250 bytes


@dataclass(slots=True, eq=False)
class _Unbalanced:
    """Packs whose completeness is not known yet: one pack, or the parts of one tick."""

    counts: PackCounts
    packs: list[ChainLink]
    size: int  # published bytes


@dataclass(slots=True)
class WaitingBytes:
    """The published bytes of all waiting packs of one gateway, over all its streams."""

    count: int = 0


class StreamState:
    """Takes packs in any order. The memory does not grow with the number of packs.

    Args:
        stream: ``<site>/<gateway>/<name>``.
        waiting: shared by all streams of the gateway.
    """

    def __init__(self, stream: str, waiting: WaitingBytes) -> None:
        self.stream = stream
        self._waiting_bytes = waiting
        self.history = History()
        self.tables: OrderedDict[str, PointTable] = OrderedDict()
        self.losses = StatedLosses()
        self._faults = Faults()
        self._days: dict[int, Day] = {}
        self._sum = StreamReport(stream)
        # hash of a birth that has not arrived -> packs that wait for it
        self._waiting: dict[str, list[_Unbalanced]] = {}
        self._groups: OrderedDict[tuple[str, int], _Unbalanced] = OrderedDict()
        self._faulty: set[tuple[str, int]] = set()  # (boot, seq) of packs with a fault
        self._thin_at = MAX_FAULTY
        self._bad = 0  # number of packs with a fault
        # values of the newest pack: boot of the agent, boot id of Linux, seq, monotonic clock in ms
        self._monotonic: tuple[str, str, int, int] = ("", "", 0, 0)
        self._heads: dict[tuple[str, int], NamedHead] = {}  # (boot, seq) -> head whose pack has not arrived yet
        self._newest: NamedHead | None = None
        self._oldest: NamedHead | None = None  # the oldest head in checkpoints from files
        # The second head from a broker, with which later heads are compared. The first head is not used for this,
        # because it may be from an old retained checkpoint.
        self._second: NamedHead | None = None
        self._denied: list[NamedHead] = []  # heads that contradict the packs
        self._signed: dict[str, int] = {}  # kid -> the highest sequence that this key signed

    def take(self, pack: CheckedPack, where: str, size: int) -> tuple[Arrival, bool]:
        """Add one pack of ``size`` bytes. Returns (kind of the pack, True if it has no known fault so far)."""
        link = pack.link
        place, seams = self.history.place(link, pack.digest)
        if place is Arrival.FORK:
            self._add_fault(link, "fork", "a second pack with this identity and other bytes", where)
            return place, False
        if place is not Arrival.NEW:
            self.count_duplicate()
            return place, True
        if self._heads and (named := self._heads.pop((link.boot, link.seq), None)) and named.head[2] != link.hash:
            self._deny(named)
        if link.seq > self._signed.get(pack.kid, 0):
            self._signed[pack.kid] = link.seq
        self._sum.packs += 1
        self._sum.rewritten += pack.rewritten
        self._sum.births += link.is_birth
        self.losses.add(pack.losses)
        self._sum.handovers += pack.handovers[: MAX_LISTED - len(self._sum.handovers)]
        self._check_clock(pack)
        if pack.table:
            self.add_table(link.hash, pack.table)
        for fault in pack.faults:
            if fault.code != "due":  # ``_account`` adds faults with the code ``due``, after the faults of the seams
                self._add_fault(link, fault.code, fault.text, where)
        for other, text in seams:
            self._add_fault(other, "chain", text, where if other is link else "")
        self._account(pack, where, size)
        holds = (link.boot, link.seq) not in self._faulty
        if len(self._faulty) > self._thin_at:
            self._thin_out_faulty()
        return place, holds

    def count_duplicate(self) -> None:
        """Count a pack that is known already."""
        self._sum.redelivered += 1

    def add_table(self, birth: str, table: PointTable) -> None:
        """Add a birth's point table, which is from the birth itself or from its retained copy."""
        if self._table(birth) is not None:
            return
        self.tables[birth] = table
        if len(self.tables) > MAX_TABLES:
            self.tables.popitem(last=False)
        for waiting in self._waiting.pop(birth, ()):
            self._waiting_bytes.count -= waiting.size
            self._add_balance(waiting, balance((waiting.counts,), table), "")

    def _table(self, birth: str) -> PointTable | None:
        """Return the table of a birth. A table that is in use is kept longest."""
        if (table := self.tables.get(birth)) is not None:
            self.tables.move_to_end(birth)
        return table

    def head(self, named: NamedHead, ring: KeyRing) -> None:
        """Add a head of this stream from a checkpoint."""
        newest, oldest = self._newest, self._oldest
        if newest and ring.is_revoked(newest.kid) and ring.order[named.kid] > ring.order[newest.kid]:
            newest = None  # ignore the known head: a thief may have used the revoked key with any counter
        if newest and named.counter > newest.counter and self._second is None and not named.filed:
            self._second = named
        if newest is None or named.counter >= newest.counter:
            self._newest, self._sum.retired = named, named.retired
        if named.filed and (oldest is None or named.counter < oldest.counter):
            self._oldest = named
        boot, seq, digest, _ = named.head
        known = contradicts(self.history, named.head)
        other = self._heads.get((boot, seq))
        if known is None and other is None:
            self._heads[boot, seq] = named
            if len(self._heads) > MAX_HEADS:
                self._thin_out()
        elif known or (other and other.head[2] != digest):
            self._deny(named)

    def _deny(self, named: NamedHead) -> None:
        if len(self._denied) < MAX_LISTED:
            self._denied.append(named)

    def _thin_out(self) -> None:
        """Drop every second head of the older half.

        The other heads are enough, because a rewritten history contradicts every head after the change.
        """
        heads = sorted(self._heads.values(), key=lambda named: named.counter)
        half = MAX_HEADS // 2
        self._heads = {named.head[:2]: named for named in [*heads[:half:2], *heads[half:]]}

    @property
    def first_fault(self) -> Fault | None:
        """The first fault that was found; None if there is none."""
        return self._faults.listed[0] if self._faults.listed else None

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of packs, readings and faulty packs."""
        return self._sum.packs, self._sum.readings, self._faults.count

    def report(self, ended: bool = False, ring: KeyRing | None = None) -> StreamReport:
        """Return the report on the current state.

        Args:
            ended: True if nothing more will arrive, not even the other parts of the last tick.
            ring: the gateway's keys. Packs are checked again, because a key may have been revoked after they arrived.
        """
        made = self._copy()

        def is_cut(named: NamedHead) -> bool:
            return ring is not None and ring.is_cut(named.kid, self.stream, named.head[1])

        heads = sorted(self._heads.values(), key=lambda named: named.counter)
        if self._newest and self._newest not in heads:
            heads.append(self._newest)
        find_missing(self.history, self.tables, self.losses, [named.head for named in heads if not is_cut(named)], made)
        wrong = (named.head for named in self._denied if not is_cut(named))
        denied = [f"a checkpoint has a different hash for sequence {seq} of boot {boot}" for boot, seq, _, _ in wrong]
        late = [
            f"sequence {seq} is signed by the key {kid}, which was revoked later and is not trusted for this sequence"
            for kid, seq in self._signed.items()
            if ring is not None and ring.is_cut(kid, self.stream, seq)
        ]
        made.conflicts = list(dict.fromkeys((*late, *denied, *made.conflicts)))[:MAX_LISTED]
        partial = [group for group in self._groups.values() if not _is_at_an_end(group, made, ended)]
        pending = [*partial, *(waiting for some in self._waiting.values() for waiting in some)]
        made.unchecked = self._sum.unchecked + sum(len(waiting.packs) for waiting in pending)
        made.readings += sum(waiting.counts.readings for waiting in {*pending, *self._groups.values()})
        for number in sorted(self._days):
            day = self._days[number]
            kept = made.days.setdefault(day_name(number), Day())
            kept.due += day.due
            kept.got += day.got
            kept.asleep += day.asleep
            kept.gaps += day.gaps
        made.days = dict(sorted(made.days.items()))
        return made

    def _copy(self) -> StreamReport:
        made = StreamReport(**{name: getattr(self._sum, name) for name in _COUNTS}, stream=self.stream)
        made.retired, made.handovers = self._sum.retired, list(self._sum.handovers)
        if self._newest:
            _, made.head_seq, _, made.head_ms = self._newest.head
            made.is_unheard = self._second is not None and self._second.head[1] < made.head_seq and not made.packs
        if self._oldest:
            made.oldest_head_seq = self._oldest.head[1]
        made.gap_reasons = dict(sorted(self._sum.gap_reasons.items()))
        made.faults = Faults(self._faults.count, dict(self._faults.by_code), list(self._faults.listed))
        made.reordered, made.uncompared = self.history.reordered, self.history.uncompared
        made.verified = made.packs - self._bad
        made.boots = len(self.history.boots)
        return made

    def _add_fault(self, link: ChainLink, code: str, text: str, where: str) -> None:
        """Add a fault of a pack. Of several faults of a pack, only the first is counted; a fork is always counted."""
        if code != "fork":
            if (link.boot, link.seq) in self._faulty:
                return
            self._bad += 1
            self._faulty.add((link.boot, link.seq))
        self._faults.add(Fault(code, text, self.stream, link.boot, link.seq, where))

    def _thin_out_faulty(self) -> None:
        """Keep only the faulty packs that may get another fault. That fault must not be counted.

        These are packs whose previous pack may still arrive, and packs whose completeness is not known yet.
        """
        links = [run.first for run in self.history.runs()]
        links += (run.counts.link for some in self._waiting.values() for run in some)
        links += (link for group in self._groups.values() for link in group.packs)
        self._faulty &= {(link.boot, link.seq) for link in links}
        self._thin_at = max(MAX_FAULTY, 2 * len(self._faulty))

    def _check_clock(self, pack: CheckedPack) -> None:
        self._sum.clock_unsynced += pack.synced is False
        self._sum.clock_unknown += pack.synced is None
        self._sum.early += pack.early
        if pack.monotonic:
            boot, kernel, seq, ms = self._monotonic
            now = (pack.link.boot, pack.monotonic[0], pack.link.seq, pack.monotonic[1])
            if (boot, kernel) == now[:2] and now[2] > seq and now[3] < ms:
                self._sum.clock_backward += 1
            if (boot, kernel) != now[:2] or now[2] > seq:
                self._monotonic = now

    def _account(self, pack: CheckedPack, where: str, size: int) -> None:
        """Add the completeness of a pack, or let the pack wait for its other parts or its birth."""
        link, judged = pack.link, pack.balance
        run = _Unbalanced(pack.counts, [link], size)
        if link.part:
            whole = self._gather(run, link.part)
            if whole is None:
                return
            run = whole
        if any((e.boot, e.seq) in self._faulty for e in run.packs):
            return
        if judged is None and (table := self._table(link.birth)):
            judged = balance((run.counts,), table)
        if judged is not None:
            self._add_balance(run, judged, where)
        elif self._has_room(run.size):
            self._waiting.setdefault(link.birth, []).append(run)
            self._waiting_bytes.count += run.size
        else:
            self._leave_unchecked(run)

    def _has_room(self, size: int) -> bool:
        """True if a pack of ``size`` bytes may wait for its birth."""
        if self._waiting_bytes.count + size > MAX_WAITING_BYTES:
            return False
        return sum(map(len, self._waiting.values())) < MAX_WAITING

    def _leave_unchecked(self, run: _Unbalanced) -> None:
        self._sum.unchecked += len(run.packs)
        self._sum.readings += run.counts.readings

    def _gather(self, run: _Unbalanced, part: tuple[int, int]) -> _Unbalanced | None:
        """Add a part of a tick. Returns the whole tick if all its parts have arrived; None if parts are missing."""
        link = run.packs[0]
        key = (link.boot, link.seq - part[0])
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = run
        else:
            group.counts = group.counts.plus(run.counts)
            group.packs += run.packs
            group.size += run.size
        self._waiting_bytes.count += run.size
        if len(group.packs) >= part[1]:
            del self._groups[key]
            self._waiting_bytes.count -= group.size
            return group
        while self._groups and (len(self._groups) > MAX_GROUPS or self._waiting_bytes.count > MAX_WAITING_BYTES):
            _, old = self._groups.popitem(last=False)
            self._waiting_bytes.count -= old.size
            self._leave_unchecked(old)
        return None

    def _add_balance(self, run: _Unbalanced, judged: Balance, where: str) -> None:
        for fault in judged.faults:
            self._add_fault(run.counts.link, fault.code, fault.text, where)
        if judged.faults:
            return
        self._sum.readings += run.counts.readings
        reasons = self._sum.gap_reasons
        for reason, count in judged.gaps.items():
            kept = reason if reason in reasons or len(reasons) < MAX_REASONS else OTHERS
            reasons[kept] = reasons.get(kept, 0) + count
            self._sum.gaps += count
        self._sum.asleep += judged.gaps.get("asleep", 0)
        for number, share in judged.days:
            day = self._day(number)
            day.due += share.due
            day.got += share.got
            day.asleep += share.asleep
            day.gaps += share.gaps

    def _day(self, number: int) -> Day:
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = Day()
            if len(self._days) > MAX_DAYS:
                del self._days[min(self._days)]
        return day


def _is_at_an_end(group: _Unbalanced, made: StreamReport, ended: bool) -> bool:
    """True if missing parts of a tick are not a fault, as they may precede the first received pack or still arrive."""
    low, high = (choose(group.packs, key=lambda link: link.seq) for choose in (min, max))
    part, parts = low.part or (1, 1)
    if low.seq == made.first_seq and part > 1 and len(group.packs) == parts - part + 1:
        return True
    return not ended and high.seq == made.last_seq


_COUNTS: Final = (
    "packs", "readings", "gaps", "asleep", "redelivered", "rewritten", "births",
    "clock_unsynced", "clock_unknown", "clock_backward", "early",
)  # fmt: skip
