"""The streams of the running agent, and the jobs that seal their readings into packs."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agent.pack import BirthTable, Clock, Packer, Savepoint, SealedPack, base64url, seconds
from agent.service.recent_readings import RecentReadings
from agent.store import LossNote
from drivers.model import Reason
from ext.ring import Ring

SILENT_MS = 900_000  # a stream without readings is sealed at least once in this time
# a longer time without records becomes one gap at once, because it would be slow to check each tick
LONG_MS = 3_600_000
OUT_OF_TURN_MS = 600_000  # a tick may be answered after newer ticks if it is at most this much older than they are


@dataclass(slots=True)
class TableVersion:
    """One version of a stream's point table, used from ``start_ms`` on, and the unsealed records made with it."""

    ring: Ring
    number: int  # number of the table in the ring; it is unique among all rings of this boot
    table: BirthTable
    start_ms: int
    positions: array[int] = field(default_factory=lambda: array("Q"))  # ring positions of the unsealed records


@dataclass(slots=True)
class SealSegment:
    """The records of one table version that a job seals.

    ``taken``: how many of ``positions``, from the first on, are sealed.
    """

    ring: Ring
    number: int
    table: BirthTable
    positions: array[int]
    to_ms: int
    taken: int = 0


class SealedSegment(NamedTuple):
    """The packs of one segment, and the ring positions of their records."""

    stream: str
    ring: Ring
    table: BirthTable
    positions: array[int]
    packs: list[SealedPack]


@dataclass(slots=True)
class SealJob:
    """Seals one stream up to ``to_ms``.

    The loop creates the job, the database thread seals it, and the loop applies the result (``Stream.done``).
    """

    stream: Stream
    to_ms: int
    segments: list[SealSegment]
    events: list[tuple[int, Mapping[str, Any]]]
    unknown: Reason = Reason.STOPPED
    start_ms: int | None = None  # no agent ran before this time; None except in the first job of a boot
    step_ms: int | None = None  # after a clock step: the new time, at which the stream continues; otherwise None
    # results:
    packs: list[SealedPack] = field(default_factory=list)
    sealed: list[SealedSegment] = field(default_factory=list)
    losses: Sequence[LossNote] = ()  # the losses that the first pack states
    quiet: bool = False
    _mark: Savepoint | None = None

    def seal(self, clock: Clock, losses: Sequence[LossNote] = ()) -> None:
        """Make the packs, table by table. A downtime before the first table becomes a pack of its own.

        This is called in the database thread.
        """
        packer = self.stream.packer
        self._mark, self.losses = packer.savepoint(), losses
        events = [*map(loss_event, losses), *[event for _, event in self.events]]
        for segment in self.segments:
            packs: list[SealedPack] = []
            ring = segment.ring
            if not segment.table.same_as(packer.table):
                packer.use(segment.table)
            if self.start_ms is not None:
                if packer.from_ms > self.start_ms:  # the clock was set back while the agent was stopped
                    events.insert(0, packer.step(self.start_ms))
                elif packer.from_ms < self.start_ms:
                    # the reason is ``stopped``, even if sealing is prevented now for another reason, because no agent
                    # ran then
                    packs += packer.absent(ring, self.start_ms, Reason.STOPPED, clock, events)
                    events = []
                self.start_ms = None
            held = segment.positions[:]
            if segment.to_ms - packer.from_ms > LONG_MS:
                empty_ms = _empty_until(ring, segment.positions, segment.to_ms)
                if empty_ms - packer.from_ms > LONG_MS:  # after a long pause of sealing, old records are overwritten
                    overwritten = bool(segment.positions) and segment.positions[0] < ring.tail
                    reason = Reason.RING if overwritten and self.unknown is Reason.STOPPED else self.unknown
                    packs += packer.absent(ring, empty_ms, reason, clock, events)
                    events = []
            packs += packer.seal(ring, segment.positions, segment.to_ms, clock, events, self.unknown)
            segment.taken = len(held) - len(segment.positions)
            self.sealed.append(SealedSegment(self.stream.name, ring, segment.table, held[: segment.taken], packs))
            events = []
        if self.step_ms is not None:
            event, last = packer.step(self.step_ms), self.segments[-1]
            self.sealed[-1].packs.extend(packer.seal(last.ring, last.positions, self.step_ms, clock, [event]))
        self.packs = [pack for segment in self.sealed for pack in segment.packs]
        self.quiet = packer.quiet

    def forget_packs(self) -> None:
        """Free the memory of the packs, after they are committed and ``Stream.done`` has counted them."""
        self.packs, self.sealed = [], []

    def undo(self) -> None:
        """Restore the packer, because the packs could not be signed or committed."""
        if self._mark is not None:
            self.stream.packer.restore(self._mark)


class Stream:
    """One stream of the running agent. Used only in the loop, except its packer, which the database thread uses."""

    def __init__(self, name: str, packer: Packer, start_ms: int) -> None:
        self.name = name
        self.packer = packer
        self.table_versions: deque[TableVersion] = deque()
        self.events: list[tuple[int, Mapping[str, Any]]] = []
        self.sealed_ms = start_ms
        self.start_ms: int | None = start_ms
        self.sealing = False  # True: the database thread has a job of this stream
        self.quiet = False  # True: the last pack held no reading
        self.news = False  # True: there are readings, or a loss, that no pack contains yet
        # Number of positions -> ring positions of the newest visit with this number of positions. Visits for different
        # paces have different numbers of positions.
        self.newest_visits: dict[int, Sequence[int]] = {}
        self._newest_answer = (0, -1)  # (table number, ring position) of the newest reading
        self.readings = 0  # number of readings sealed since the start
        self.gap_readings = 0
        self.packs = 0
        self.recent = RecentReadings(start_ms)

    @property
    def table_version(self) -> TableVersion:
        """The table version that is in use now."""
        return self.table_versions[-1]

    def switch_table(self, number: int, table: BirthTable, start_ms: int, ring: Ring | None = None) -> None:
        """Use another point table from tick ``start_ms`` on.

        ``ring``: another ring for its records; None: the same ring.
        """
        versions = self.table_versions
        if ring is not None:
            self.newest_visits.clear()  # its positions lie in the previous ring
        ring = ring or self.table_version.ring
        if versions and self.start_ms is not None and not self.sealing and not any(v.positions for v in versions):
            # the old table has neither a record nor a birth, so the new table replaces it from the start
            versions.clear()
            start_ms = self.start_ms
        versions.append(TableVersion(ring, number, table, start_ms))

    def begin_at(self, start_ms: int) -> bool:
        """Let the stream begin at this time, because the agent was still starting before.

        Returns False if it is too late, because a record exists or a job is sealing already.
        """
        if self.start_ms is None or self.sealing or any(version.positions for version in self.table_versions):
            return False
        self.packer.begin_at(start_ms)
        self.start_ms = self.sealed_ms = start_ms
        self.table_versions[0].start_ms = start_ms
        return True

    def record(self, number: int, positions: Sequence[int], answered: bool) -> None:
        """Add the ring positions that a poll has written for table ``number``."""
        if answered and positions:
            self.news, self._newest_answer = True, (number, positions[-1])
            self.newest_visits[len(positions)] = positions
        for version in reversed(self.table_versions):
            if version.number == number:
                version.positions.extend(positions)
                return

    def drop_overwritten(self) -> None:
        """Forget the positions of overwritten records, so that the list stays bounded while sealing is paused."""
        if not self.sealing:
            for version in self.table_versions:
                del version.positions[: bisect_left(version.positions, version.ring.tail)]

    def recent_facts(
        self,
        settled_ms: int,
        now_ms: int,
        reason: Reason,
        not_asked: Callable[[int, int], int] = lambda from_ms, to_ms: 0,
    ) -> dict[str, Any] | None:
        """Return how many of the readings due in the last minutes exist, for the snapshot.

        None: no reading was due yet.

        Args:
            settled_ms: every due tick before this time is answered, or is a gap.
            reason: the gap reason for the readings of a silent stream that are not sealed yet.
            not_asked: gets a start and an end time, and returns how many readings between them are ``absent`` because
                the device was silent and was not queried. Other ``absent`` readings are values that the device lacks.
        """
        points, silent, begin_ms = self.table_version.table.points, dict[int, int](), 0
        if self.quiet and not self.news:
            begin_ms = max(self.sealed_ms, now_ms - max(SILENT_MS, 20 * points.shortest_ms))
            if due := self.table_version.table.due_readings(begin_ms, min(settled_ms, now_ms)):
                silent = {int(reason): due}
        facts = self.recent.facts(now_ms, points.shortest_ms, silent, self.sealed_ms)
        if facts is not None:
            # ``silent`` already counts the readings that were due after ``begin_ms``
            told_ms = begin_ms if silent else now_ms
            unasked = silent.get(Reason.ABSENT, 0) + not_asked(int(facts["from"] * 1000), told_ms)
            facts["not_asked"] = min(unasked, facts["missing"].get("absent", 0))
        return facts

    def oldest(self, ring: Ring) -> int | None:
        """Return the ring position of the oldest unsealed record in a ring; None if there is none."""
        for version in self.table_versions:
            if version.ring is ring and version.positions:
                return version.positions[0]
        return None

    def due(self, to_ms: int) -> bool:
        """Return True if the stream should be sealed up to ``to_ms``.

        A silent stream is sealed only every 15 minutes.
        """
        if self.start_ms is not None or self.events or not self.quiet:
            return True
        return self.news or to_ms - self.sealed_ms >= SILENT_MS

    def job(self, to_ms: int, unknown: Reason = Reason.STOPPED) -> SealJob:
        """Create the job that seals the stream up to ``to_ms``.

        The job gets copies of the positions, because the loop adds more positions meanwhile.
        """
        self.sealing = True
        segments = []
        versions = list(self.table_versions)
        for n, version in enumerate(versions):
            after = versions[n + 1].start_ms if n + 1 < len(versions) else to_ms
            end = min(after, to_ms)
            segments.append(SealSegment(version.ring, version.number, version.table, version.positions[:], end))
            if after >= to_ms:
                break
        events = [event for event in self.events if event[0] < to_ms]
        return SealJob(self, to_ms, segments, events, unknown, self.start_ms)

    def done(self, job: SealJob) -> None:
        """Apply a committed job: count its packs, and forget the sealed positions and events."""
        self.sealing = False
        self.sealed_ms = job.step_ms if job.step_ms is not None else job.to_ms
        for pack in job.packs:
            # ``recent`` does not include the pack of the downtime
            if pack.tally and (self.start_ms is None or pack.to_ms > self.start_ms):
                self.recent.add(pack.from_ms, pack.to_ms, pack.tally, self.table_version.table.points.shortest_ms)
            self.readings += pack.records
            self.gap_readings += pack.gap_readings
        self.start_ms = None
        self.quiet = job.quiet
        self.packs += len(job.packs)
        if job.events:
            # The sealed events are not always the first ones: after the clock was set back, an older event can have a
            # later time than the job.
            sealed = {id(event) for event in job.events}
            self.events = [event for event in self.events if id(event) not in sealed]
        # the job sealed the first versions; only later ones can have been added meanwhile
        for segment, version in zip(job.segments, self.table_versions, strict=False):
            del version.positions[: segment.taken]
        while len(self.table_versions) > 1 and self.table_versions[1].start_ms <= job.to_ms:
            self.table_versions.popleft()
        # The tick at the boundary may be answered before the pack is made, but this answer belongs to the next pack.
        number, position = self._newest_answer
        self.news = False
        for version in self.table_versions:
            if version.number == number and version.positions and version.positions[-1] >= position:
                self.news = True


def loss_event(note: LossNote) -> dict[str, Any]:
    """Return the event with which a stream states that some of its packs were dropped."""
    return {
        "boot": note.boot,
        "event": "loss",
        "first": note.first,
        "from": seconds(note.from_ms),
        "hash": base64url(note.hash),
        "last": note.last,
        "reason": note.reason,
        "t": seconds(time.time_ns() // 1_000_000),
        "to": seconds(note.to_ms),
    }


def _empty_until(ring: Ring, positions: Sequence[int], to_ms: int) -> int:
    """Return a time in UTC ms before which the ring has no unsealed record of these positions.

    The time has a margin, because an old tick may be answered after newer ticks.
    """
    at = bisect_left(positions, ring.tail)
    if at == len(positions):
        return to_ms
    oldest = ring.record(positions[at])
    return min(oldest.tick_ms, to_ms) - OUT_OF_TURN_MS if oldest else 0
