"""The loop's side of sealing: what was recorded of each stream and waits to be sealed."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.pack import Packer, SealedPack, StreamTable
from drivers.model import Reason

SILENT_MS = 900_000  # a stream without readings is sealed at least this often


@dataclass(slots=True)
class TableVersion:
    """A stream in one shape of its point table, from ``start_ms`` on."""

    number: int  # in the ring
    table: StreamTable
    start_ms: int
    positions: array[int] = field(default_factory=lambda: array("Q"))


@dataclass(slots=True)
class SealSegment:
    """A stretch of one shape to seal; ``taken`` comes back as the number of positions used up, ``packs`` as made."""

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
        self.shapes: deque[TableVersion] = deque()
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
    def shape(self) -> TableVersion:
        """The shape that is being recorded in now."""
        return self.shapes[-1]

    def become(self, number: int, table: StreamTable, start_ms: int) -> None:
        """Record in a new shape from the tick ``start_ms`` on."""
        if self.shapes and self.start_ms is not None and not self.sealing and not any(s.positions for s in self.shapes):
            # nothing was recorded yet and no birth is out: the better known table serves from the start
            self.shapes.clear()
            start_ms = self.start_ms
        self.shapes.append(TableVersion(number, table, start_ms))

    def record(self, number: int, positions: Sequence[int], answered: bool) -> None:
        """Positions that a visit wrote for table ``number``."""
        self.news |= answered
        for shape in reversed(self.shapes):
            if shape.number == number:
                shape.positions.extend(positions)
                return

    def forget(self, tail: int) -> None:
        """What stood before ``tail`` in the ring was overwritten: however long sealing pauses, this must not grow."""
        if not self.sealing:
            for shape in self.shapes:
                del shape.positions[: bisect_left(shape.positions, tail)]

    def due(self, to_ms: int) -> bool:
        """Is there reason to seal up to ``to_ms``? A silent stream waits for the long interval."""
        if self.start_ms is not None or self.events or not self.quiet:
            return True
        return self.news or to_ms - self.sealed_ms >= SILENT_MS

    def job(self, to_ms: int, unknown: Reason = Reason.STOPPED) -> SealJob:
        """What to seal now. The positions are copies: the loop goes on appending to its own."""
        self.sealing = True
        segments = []
        shapes = list(self.shapes)
        for n, shape in enumerate(shapes):
            after = shapes[n + 1].start_ms if n + 1 < len(shapes) else to_ms
            end = min(after, to_ms)
            segments.append(SealSegment(shape.number, shape.table, shape.positions[:], end))
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
            shape = next(s for s in self.shapes if s.number == segment.number)
            del shape.positions[: segment.taken]
        while len(self.shapes) > 1 and self.shapes[1].start_ms <= job.to_ms:
            self.shapes.popleft()
