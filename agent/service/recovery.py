"""Recovery: what an earlier run left in its ring is sealed now, exactly once, with its own times and tables."""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.pack import BirthTable, Packer, SealedPack
from agent.service.seal_jobs import loss_event
from agent.store import Resume, Store, StreamHead
from drivers.model import Reason
from ext.ring import EVENT, Ring

log = logging.getLogger("meterhouse.recover")
RING_GLOB = "ring.*"
RESULTS = "_indicators"
NEVER = 1 << 62


@dataclass(slots=True)
class Unsealed:
    """Records of one stream in one ring that are not sealed, table by table in the order of recording."""

    tables: list[tuple[BirthTable, array[int], int]] = field(default_factory=list)  # table, positions, last tick
    events: list[Mapping[str, Any]] = field(default_factory=list)
    first_ms: int = NEVER  # the oldest tick or event


@dataclass(frozen=True, slots=True)
class LostTransactions:
    """Newest transactions that the database lost, for the ``start`` event and the log."""

    streams: int
    packs: int  # that are stated as lost
    again: int  # streams whose readings of that time are still in the ring and are sealed again
    exact: bool  # else more may be lost than is known: the power was cut


@dataclass(slots=True)
class Recovered:
    """The result of a recovery, for the ``start`` event and the log."""

    readings: int = 0
    packs: int = 0
    streams: int = 0
    lost_rings: list[str] = field(default_factory=list)


def resume_after_loss(store: Store, runtime_dir: Path) -> LostTransactions | None:
    """Continue after packs that the database lost silently, and record the loss. None if nothing was lost.

    A stream continues with the sequence after the highest that was ever committed. Packs that had left the gateway may
    have arrived, so they are not sealed a second time; others are sealed again if the ring still has all their records.
    """
    if not store.behind:
        return None
    tails = dict(_readable(store, runtime_dir))
    resumes: dict[str, Resume] = {}
    again = 0
    for name, behind in store.behind.items():
        in_ring = behind.resealable and tails.get(behind.head.ring_id, NEVER) <= behind.sent_pos
        if in_ring or name.rpartition("/")[2] == RESULTS:  # results are computed again
            resumes[name] = Resume(behind.sent_ms, behind.sent_pos)
            again += behind.sent_ms < behind.head.to_ms
    exact = all(behind.exact for behind in store.behind.values())
    streams, packs = store.resume_streams(resumes)
    more = "" if exact else "; after this power cut more may be missing, and a receiver that has it sees a rollback"
    log.error(
        "the database lost its newest transactions: %d packs of %d streams are gone and will be stated as lost; "
        "the readings of %d streams are sealed again%s", packs, streams, again, more
    )  # fmt: skip
    return LostTransactions(streams, packs, again, exact)


def _readable(store: Store, runtime_dir: Path) -> Iterator[tuple[int, int]]:
    """(ring id, tail) of the rings that can be sealed to their end."""
    for path in runtime_dir.glob(RING_GLOB):
        try:
            ring = Ring.open(str(path))
        except (ValueError, OSError):
            continue
        try:
            if not _gather(ring, _tables(store, ring), {})[1]:
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
    """Seal and commit what older rings in ``runtime_dir`` hold beyond the stored heads, then remove them.

    A ring whose tables are not in the store (another store, or a damaged one) is set aside.

    Args:
        packer_of: the packer of a stream; a stream that was never sealed begins at the given time.
    """
    done = Recovered()
    for path in sorted(runtime_dir.glob(RING_GLOB), key=lambda p: p.stat().st_mtime_ns):
        if path.suffix == ".aside":
            continue
        try:
            ring = Ring.open(str(path))
        except (ValueError, OSError) as error:
            log.warning("%s cannot be recovered (%s); set aside", path, error)
            _set_aside(path, done)
            continue
        try:
            _recover_ring(store, ring, packer_of, clock, now_ms, done)
        except ValueError as error:
            log.warning("%s: %s; what follows in it is set aside", path, error)
            _set_aside(path, done)
            continue
        finally:
            ring.close()
        path.unlink()
    return done


def _set_aside(path: Path, done: Recovered) -> None:
    done.lost_rings.append(path.name)
    path.rename(path.with_name(path.name + ".aside"))


def _gather(
    ring: Ring, known: Mapping[int, BirthTable], heads: Mapping[str, StreamHead]
) -> tuple[dict[str, Unsealed], str]:
    """Records that are in no pack yet, by stream; and why the ring cannot be read to its end, "" if it can."""
    left: dict[str, Unsealed] = {}
    try:
        for record in ring.scan(ring.tail, ring.head):
            table = known.get(record.table)
            if table is None:
                return left, f"its table {record.table} is not in the store"
            head = heads.get(table.stream)
            at_ms = record.time_ns // 1_000_000 if record.kind == EVENT else record.tick_ms
            if head is not None and (
                at_ms < head.to_ms or (head.ring_id == ring.ring_id and record.position < head.ring_pos)
            ):
                continue
            mine = left.setdefault(table.stream, Unsealed())
            mine.first_ms = min(mine.first_ms, at_ms)
            if not mine.tables or mine.tables[-1][0] is not table:
                mine.tables.append((table, array("Q"), 0))
            if record.kind == EVENT:
                mine.events.append(json.loads(record.text))
                continue
            found, positions, last = mine.tables[-1]
            positions.append(record.position)
            mine.tables[-1] = (found, positions, max(last, record.tick_ms))
    except ValueError as error:  # everything before the damage is good
        return left, str(error)
    return left, ""


def _recover_ring(
    store: Store,
    ring: Ring,
    packer_of: Callable[[str, int], Packer],
    clock: Mapping[str, Any],
    now_ms: int,
    done: Recovered,
) -> None:
    heads, losses = store.packs.heads(), store.packs.losses()
    left, damage = _gather(ring, _tables(store, ring), heads)
    packs: list[SealedPack] = []
    stated: list[int] = []
    for stream, mine in sorted(left.items()):
        packer = packer_of(stream, mine.first_ms)
        head = heads.get(stream)
        lost = [note for note in losses if note.stream == stream]
        events: list[Mapping[str, Any]] = [loss_event(note) for note in lost]
        if head is not None and head.ring_id == ring.ring_id and head.ring_pos < ring.tail:
            # records between the last pack and the oldest one left were overwritten before they were sealed
            first = ring.record(mine.tables[0][1][0]) if mine.tables[0][1] else None
            if first is not None and first.tick_ms > packer.from_ms:
                packer.use(mine.tables[0][0])
                packs += packer.absent(ring, first.tick_ms, Reason.RING, clock, events)
                events = []
        sealed = _seal_left(ring, packer, mine, clock, now_ms, events)
        packs += sealed
        stated += [note.id for note in lost]
        done.readings += sum(p.records for p in sealed)
        done.streams += 1
    if packs:
        store.packs.commit(packs, {}, stated, {pack.stream: pack.facts for pack in packs if pack.facts is not None})
        done.packs += len(packs)
    if damage:
        raise ValueError(damage)


def _seal_left(
    ring: Ring,
    packer: Packer,
    mine: Unsealed,
    clock: Mapping[str, Any],
    now_ms: int,
    first: Sequence[Mapping[str, Any]],
) -> list[SealedPack]:
    """``first``: events for the first pack."""
    packs: list[SealedPack] = []
    events = [*first, *mine.events]
    for n, (table, positions, last) in enumerate(mine.tables):
        if packer.table is not table:
            packer.use(table)
        after = next((p[0] for _, p, _ in mine.tables[n + 1 :] if p), None)  # a table may have an event only
        if after is not None:
            first_of_next = ring.record(after)
            end = first_of_next.tick_ms if first_of_next else last + 1
        else:
            end = table.next_tick(last) or last + 1
        end = max(min(end, max(now_ms, last + 1)), packer.from_ms)
        packs += packer.seal(ring, positions, end, clock, events, Reason.STOPPED)
        events = []
    return packs
