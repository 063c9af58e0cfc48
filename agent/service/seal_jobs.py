"""The loop's side of sealing: what was recorded of each stream and waits to be sealed."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.pack import Packer, SealedPack, StreamTable, base64url, seconds
from agent.store import LossNote
from drivers.model import Reason
from ext.ring import Ring

SILENT_MS = 900_000  # a stream without readings is sealed at least this often


@dataclass(slots=True)
class TableVersion:
    """A stream in one version of its point table, from ``start_ms`` on."""

    number: int  # in the ring
    table: StreamTable
    start_ms: int
    positions: array[int] = field(default_factory=lambda: array("Q"))


@dataclass(slots=True)
class SealSegment:
    """A stretch of one version to seal; ``taken`` comes back as the number of positions used up, ``packs`` as made."""

    number: int
    table: StreamTable
    positions: array[int]
    to_ms: int
    taken: int = 0
    packs: tuple[SealedPack, ...] = ()
    sealed: array[int] = field(default_factory=lambda: array("Q"))  # positions that are in ``packs``


@dataclass(slots=True)
class SealJob:
    """All that the writer needs to seal one stream up to ``to_ms``. Made in the loop, carried out in the writer."""

    stream: Stream
    to_ms: int
    segments: list[SealSegment]
    events: list[tuple[int, Mapping[str, Any]]]
    unknown: Reason = Reason.STOPPED
    start_ms: int | None = None  # the first job of a boot: nothing is known up to here
    step_ms: int | None = None  # the clock jumped: after sealing, the stream goes on from here


class Stream:
    """One stream in the running agent. Only the loop touches it; its packer belongs to the writer."""

    def __init__(self, name: str, packer: Packer, start_ms: int) -> None:
        self.name = name
        self.packer = packer
        self.table_versions: deque[TableVersion] = deque()
        self.events: list[tuple[int, Mapping[str, Any]]] = []
        self.sealed_ms = start_ms
        self.start_ms: int | None = start_ms
        self.sealing = False  # a job is with the writer
        self.quiet = False  # the last pack held no reading ...
        self.news = False  # ... and something was read since
        self.readings = 0  # sealed since the start
        self.gap_readings = 0
        self.packs = 0

    @property
    def table_version(self) -> TableVersion:
        """The version that is being recorded in now."""
        return self.table_versions[-1]

    def switch_table(self, number: int, table: StreamTable, start_ms: int) -> None:
        """Record in a new version from the tick ``start_ms`` on."""
        if (
            self.table_versions
            and self.start_ms is not None
            and not self.sealing
            and not any(s.positions for s in self.table_versions)
        ):
            # nothing was recorded yet and no birth is out: the better known table serves from the start
            self.table_versions.clear()
            start_ms = self.start_ms
        self.table_versions.append(TableVersion(number, table, start_ms))

    def record(self, number: int, positions: Sequence[int], answered: bool) -> None:
        """Positions that a visit wrote for table ``number``."""
        self.news |= answered
        for version in reversed(self.table_versions):
            if version.number == number:
                version.positions.extend(positions)
                return

    def drop_overwritten(self, tail: int) -> None:
        """What stood before ``tail`` in the ring was overwritten: however long sealing pauses, this must not grow."""
        if not self.sealing:
            for version in self.table_versions:
                del version.positions[: bisect_left(version.positions, tail)]

    def due(self, to_ms: int) -> bool:
        """Is there reason to seal up to ``to_ms``? A silent stream waits for the long interval."""
        if self.start_ms is not None or self.events or not self.quiet:
            return True
        return self.news or to_ms - self.sealed_ms >= SILENT_MS

    def job(self, to_ms: int, unknown: Reason = Reason.STOPPED) -> SealJob:
        """What to seal now. The positions are copies: the loop goes on appending to its own."""
        self.sealing = True
        segments = []
        versions = list(self.table_versions)
        for n, version in enumerate(versions):
            after = versions[n + 1].start_ms if n + 1 < len(versions) else to_ms
            end = min(after, to_ms)
            segments.append(SealSegment(version.number, version.table, version.positions[:], end))
            if after >= to_ms:
                break
        events = [event for event in self.events if event[0] < to_ms]
        return SealJob(self, to_ms, segments, events, unknown, self.start_ms)

    def done(self, job: SealJob, readings: int, gap_readings: int, packs: int, quiet: bool) -> None:
        """The job is committed: forget what it sealed."""
        self.sealing = False
        self.sealed_ms = job.step_ms if job.step_ms is not None else job.to_ms
        self.start_ms = None
        self.quiet = quiet
        self.news = False
        self.readings += readings
        self.gap_readings += gap_readings
        self.packs += packs
        del self.events[: len(job.events)]
        for segment in job.segments:
            version = next(s for s in self.table_versions if s.number == segment.number)
            del version.positions[: segment.taken]
        while len(self.table_versions) > 1 and self.table_versions[1].start_ms <= job.to_ms:
            self.table_versions.popleft()


LONG_MS = 3_600_000  # of nothing: said at once, and not found out tick by tick
OUT_OF_TURN_MS = 600_000


def facts_in(packs: Sequence[SealedPack]) -> dict[str, bytes]:
    """What the newest births among packs say of the devices that were met, by stream."""
    return {pack.stream: pack.facts for pack in packs if pack.facts is not None}


def loss_event(note: LossNote) -> dict[str, Any]:
    """What a stream says of its own packs that had to be dropped."""
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


def seal_job(
    ring: Ring, job: SealJob, clock: Mapping[str, Any], losses: Sequence[Mapping[str, Any]] = ()
) -> list[SealedPack]:
    """Carry out one job on its stream's packer: tables in turn, the downtime first where there was one."""
    packer = job.stream.packer
    packs: list[SealedPack] = []
    events = [*losses, *(event for _, event in job.events)]
    made = 0  # packs of the segments before
    for segment in job.segments:
        if not segment.table.same_as(packer.table):
            packer.use(segment.table)
        if job.start_ms is not None:
            if packer.from_ms > job.start_ms:  # the clock was set back while we were away
                events.insert(0, packer.step(job.start_ms))
            elif packer.from_ms < job.start_ms:
                # whatever keeps this boot from sealing now: before it, nobody ran
                packs += packer.absent(ring, job.start_ms, Reason.STOPPED, clock, events)
                events = []
            job.start_ms = None
        held = segment.positions[:]
        long = _nothing_until(ring, segment.positions, segment.to_ms)
        if long - packer.from_ms > LONG_MS:  # sealing paused, and the ring has run over since
            over = bool(segment.positions) and segment.positions[0] < ring.tail
            why = Reason.RING if over and job.unknown is Reason.STOPPED else job.unknown
            packs += packer.absent(ring, long, why, clock, events)
            events = []
        packs += packer.seal(ring, segment.positions, segment.to_ms, clock, events, job.unknown)
        segment.taken = len(held) - len(segment.positions)
        segment.sealed, segment.packs = held[: segment.taken], tuple(packs[made:])
        made, events = len(packs), []
    if job.step_ms is not None:
        event = packer.step(job.step_ms)
        packs += packer.seal(ring, job.segments[-1].positions, job.step_ms, clock, [event])
        job.segments[-1].packs += tuple(packs[made:])
    return packs


def _nothing_until(ring: Ring, positions: Sequence[int], to_ms: int) -> int:
    """A time before which the ring holds none of these records, with room for ticks answered out of turn."""
    at = bisect_left(positions, ring.tail)
    if at == len(positions):
        return to_ms
    oldest = ring.record(positions[at])
    return min(oldest.tick_ms, to_ms) - OUT_OF_TURN_MS if oldest else 0
