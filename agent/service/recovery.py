"""Recovery: seals the records that an earlier run left in its rings, each exactly once, with its own time and table."""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.pack import BirthTable, Packer, SealedPack
from agent.service.seal_jobs import loss_event
from agent.store import Resume, Store, StreamHead
from drivers.files import sync_directory
from drivers.model import Reason
from ext.ring import EVENT, Ring

log = logging.getLogger("meterhouse.recover")
RING_GLOB = "ring.*"
RESULTS = "_indicators"
NEVER = 1 << 62
_DRAFT = re.compile("new[0-9]+")  # the file of a ring has this suffix until the ring is completely created


@dataclass(slots=True)
class UnsealedSegment:
    """Unsealed records of one stream. All of them are in the same ring and have the same point table."""

    ring: Ring
    table: BirthTable
    positions: array[int] = field(default_factory=lambda: array("Q"))
    last_ms: int = 0  # the newest tick of the records, in UTC ms


@dataclass(slots=True)
class Unsealed:
    """The unsealed records of one stream: its events, and its readings by table, in the order of recording."""

    segments: list[UnsealedSegment] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    first_ms: int = NEVER  # the time of the oldest tick or event, in UTC ms


@dataclass(frozen=True, slots=True)
class LostTransactions:
    """The losses of a database whose newest transactions are missing, for the ``start`` event and the log."""

    streams: int
    packs: int  # number of packs that will be stated as lost
    again: int  # number of streams whose lost readings are still in the ring, so they are sealed again
    exact: bool  # False: more packs may be lost than are known, because there was a power cut


@dataclass(slots=True)
class Recovered:
    """The result of a recovery, for the ``start`` event and the log."""

    readings: int = 0
    packs: int = 0
    streams: int = 0
    lost_rings: list[str] = field(default_factory=list)


def resume_after_loss(store: Store, runtime_dir: Path) -> LostTransactions | None:
    """Let streams continue after packs that the database lost silently, and record the loss. None: nothing was lost.

    A stream continues after the highest sequence that it ever had. If a lost pack had left the gateway, it may have
    arrived, so its readings are not sealed again. The readings of the other lost packs are sealed again, in new packs,
    if the ring still has all of them.
    """
    if not store.behind:
        return None
    tails = dict(_readable(store, runtime_dir))
    resumes: dict[str, Resume] = {}
    again = 0
    for name, behind in store.behind.items():
        in_ring = behind.resealable and tails.get(behind.head.ring_id, NEVER) <= behind.sent_pos
        if in_ring or name.rpartition("/")[2] == RESULTS:  # results need no ring, because they are computed again
            resumes[name] = Resume(behind.sent_ms, behind.sent_pos)
            again += behind.sent_ms < behind.head.to_ms
    exact = all(behind.exact for behind in store.behind.values())
    streams, packs = store.resume_streams(resumes)
    more = "" if exact else "; the power cut may have lost more packs, and a receiver that has them sees a rollback"
    log.error(
        "the database lost its newest transactions: %d packs of %d streams are gone and will be declared lost; "
        "the readings of %d streams are sealed again%s", packs, streams, again, more
    )  # fmt: skip
    return LostTransactions(streams, packs, again, exact)


def _readable(store: Store, runtime_dir: Path) -> Iterator[tuple[int, int]]:
    """Yield (ring id, tail position) of each ring that can be read completely."""
    for path in runtime_dir.glob(RING_GLOB):
        try:
            ring = Ring.open(str(path))
        except (ValueError, OSError):
            continue
        try:
            if not _gather(ring, _tables(store, ring), {}, {}):
                yield ring.ring_id, ring.tail
        finally:
            ring.close()


def _tables(store: Store, ring: Ring) -> dict[int, BirthTable]:
    return {
        number: BirthTable(stored.stream, stored.document)
        for number, stored in store.documents.tables(ring.ring_id).items()
    }


def recover(
    store: Store,
    runtime_dir: Path,
    packer_of: Callable[[str, int], Packer],
    clock: Mapping[str, Any],
    now_ms: int,
) -> Recovered:
    """Seal and commit the unsealed records of older rings in ``runtime_dir``, then remove these rings.

    The rings of one boot are sealed together. If a reload made a larger ring, the boot has two, and each stream
    continues in the second ring. If a table of a ring is not in the store, the rest of this ring is set aside, because
    the store may have been replaced or damaged.

    Args:
        packer_of: gets a name and a time in UTC ms, and returns the packer of the stream. A stream without packs begins
            at this time.
    """
    done = Recovered()
    for paths in _left_rings(runtime_dir):
        rings: dict[Path, Ring] = {}
        try:
            for path in paths:
                try:
                    rings[path] = Ring.open(str(path))
                except (ValueError, OSError) as error:
                    log.warning("the readings in %s cannot be recovered (%s): the file is set aside", path, error)
                    _set_ring_aside(path, done)
            damage = _recover_rings(store, rings, packer_of, clock, now_ms, done)
        finally:
            for ring in rings.values():
                ring.close()
        for path in rings:
            if what := damage.get(path):
                log.warning("%s: %s; the records before were recovered, and the file is set aside", path, what)
                _set_ring_aside(path, done)
            else:
                path.unlink()
    return done


def _left_rings(runtime_dir: Path) -> list[list[Path]]:
    """Return the ring files of earlier runs, grouped by boot, oldest first: ``ring.BOOT``, ``ring.BOOT.2``.

    Also deletes the files of rings that were not completely created when the agent was killed.
    """
    boots: dict[str, list[Path]] = {}
    for path in runtime_dir.glob(RING_GLOB):
        _, boot, *more = path.name.split(".")
        if path.suffix == ".aside":
            continue
        if more and _DRAFT.fullmatch(more[-1]):
            path.unlink()
            continue
        boots.setdefault(boot, []).append(path)
    for paths in boots.values():
        paths.sort(key=_generation)
    return sorted(boots.values(), key=lambda paths: min(path.stat().st_mtime_ns for path in paths))


def _generation(path: Path) -> int:
    number = path.name.split(".")[-1]
    return int(number) if path.name.count(".") > 1 and number.isdecimal() else 1


def _set_ring_aside(path: Path, done: Recovered) -> None:
    done.lost_rings.append(path.name)
    path.rename(path.with_name(path.name + ".aside"))
    sync_directory(path.parent)


def _gather(
    ring: Ring, known: Mapping[int, BirthTable], heads: Mapping[str, StreamHead], left: dict[str, Unsealed]
) -> str:
    """Add the unsealed records of a ring to ``left``.

    Returns the reason why the ring cannot be read completely; "" if it can.
    """
    try:
        for record in ring.scan(ring.tail, ring.head):
            table = known.get(record.table)
            if table is None:
                return f"table {record.table} not found in the store"
            head = heads.get(table.stream)
            at_ms = record.time_ns // 1_000_000 if record.kind == EVENT else record.tick_ms
            if head is not None and (
                at_ms < head.to_ms or (head.ring_id == ring.ring_id and record.position < head.ring_pos)
            ):
                continue
            mine = left.setdefault(table.stream, Unsealed())
            mine.first_ms = min(mine.first_ms, at_ms)
            if not mine.segments or mine.segments[-1].table is not table:
                mine.segments.append(UnsealedSegment(ring, table))
            if record.kind == EVENT:
                mine.events.append(json.loads(record.text))
                continue
            segment = mine.segments[-1]
            segment.positions.append(record.position)
            segment.last_ms = max(segment.last_ms, record.tick_ms)
    # the ring is damaged here; the records before this place are good and already in ``left``
    except ValueError as error:
        return str(error)
    return ""


def _recover_rings(
    store: Store,
    rings: Mapping[Path, Ring],
    packer_of: Callable[[str, int], Packer],
    clock: Mapping[str, Any],
    now_ms: int,
    done: Recovered,
) -> dict[Path, str]:
    """Seal the unsealed records of the rings of one boot, in one transaction. Returns the errors of damaged rings."""
    heads, losses = store.packs.heads(), store.packs.losses()
    left: dict[str, Unsealed] = {}
    damage = {path: what for path, ring in rings.items() if (what := _gather(ring, _tables(store, ring), heads, left))}
    packs: list[SealedPack] = []
    stated: list[int] = []
    for stream, mine in sorted(left.items()):
        packer = packer_of(stream, mine.first_ms)
        head = heads.get(stream)
        lost = [note for note in losses if note.stream == stream]
        events: list[Mapping[str, Any]] = [loss_event(note) for note in lost]
        oldest = mine.segments[0]
        if head is not None and head.ring_id == oldest.ring.ring_id and head.ring_pos < oldest.ring.tail:
            # the records between the last pack and the oldest record in the ring were overwritten before they were
            # sealed
            first = oldest.ring.record(oldest.positions[0]) if oldest.positions else None
            if first is not None and first.tick_ms > packer.from_ms:
                packer.use(oldest.table)
                packs += packer.absent(oldest.ring, first.tick_ms, Reason.RING, clock, events)
                events = []
        sealed = _seal_left(packer, mine, clock, now_ms, events)
        packs += sealed
        stated += [note.id for note in lost]
        done.readings += sum(p.records for p in sealed)
        done.streams += 1
    if packs:
        store.packs.commit(packs, {}, stated, {pack.stream: pack.facts for pack in packs if pack.facts is not None})
        done.packs += len(packs)
    return damage


def _seal_left(
    packer: Packer,
    mine: Unsealed,
    clock: Mapping[str, Any],
    now_ms: int,
    first: Sequence[Mapping[str, Any]],
) -> list[SealedPack]:
    """Make the packs of the unsealed records of one stream. ``first``: events that the first pack must contain."""
    packs: list[SealedPack] = []
    events = [*first, *mine.events]
    for n, segment in enumerate(mine.segments):
        if packer.table is None or not segment.table.same_as(packer.table):
            packer.use(segment.table)
        after = next((s for s in mine.segments[n + 1 :] if s.positions), None)  # a segment may have only events
        last = segment.last_ms
        if after is not None:
            first_of_next = after.ring.record(after.positions[0])
            end = first_of_next.tick_ms if first_of_next else last + 1
        else:
            end = segment.table.next_tick(last) or last + 1
        end = max(min(end, max(now_ms, last + 1)), packer.from_ms)
        packs += packer.seal(segment.ring, segment.positions, end, clock, events, Reason.STOPPED)
        events = []
    return packs
