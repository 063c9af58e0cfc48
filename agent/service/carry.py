"""Carrying out the jobs of sealing on their packers. In the writer's thread."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from agent.pack import SealedPack, base64url, seconds
from agent.service.seal_jobs import SealJob
from agent.store import LossNote
from drivers.model import Reason
from ext.ring import Ring

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
