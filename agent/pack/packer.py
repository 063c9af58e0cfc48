"""The packer of a stream. It numbers and chains packs, makes births, splits large packs, and undoes failed commits."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from agent.pack.gaps import gaps_of
from agent.pack.table import BirthTable, seconds, seconds_json
from drivers.encoding import base64url_bytes
from drivers.model import Reason
from ext.canon import RawJson, Slice, dumps, seal
from ext.ring import Ring

HEADER_BYTES = 1024  # bytes of a pack that are reserved for its members other than the readings
HOUR_MS = 3_600_000
Clock = Mapping[str, Any] | RawJson  # the object ``clock`` of packs; RawJson if several packs get the same one
_NO_TALLY: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Head:
    """The position of a stream: its newest pack, which the next pack follows. ``to_ms``: end of this pack in UTC ms."""

    boot: str
    seq: int
    hash: str  # hash of the pack's payload, as base64url without padding
    to_ms: int


class SealedPack(NamedTuple):
    """A signed pack. ``data``: the object as it is stored and published, including the signature."""

    stream: str
    boot: str
    seq: int
    from_ms: int
    to_ms: int
    hash: bytes
    is_birth: bool
    data: bytes
    ring_id: int
    ring_pos: int  # all records of the stream before this ring position are sealed
    records: int
    gap_readings: int
    part: tuple[int, int] | None = None  # (k, n): part k of n of a tick that was too large for one pack
    # if this is the birth of an identified device: its facts, which are stored beside the head; otherwise None
    facts: bytes | None = None
    tally: Mapping[int, int] = _NO_TALLY  # number of due readings by quality (0: good) or gap reason
    gaps: Sequence[Mapping[str, Any]] = ()  # the gaps that the pack states, in the form that packs use


@dataclass(slots=True)
class _State:
    """The state of a packer. It is restored if a commit fails."""

    seq: int
    prev: bytes | None  # hash of the last pack, as base64url
    prev_boot: str | None
    first: bool  # True: the next pack is the first of this boot, and contains prev_boot
    birth: bytes | None  # hash of the current birth; None: the next pack is a birth
    from_ms: int
    hour: int  # number of the UTC hour in which all states and texts were last sent again
    quiet: bool  # True: the last pack held no reading
    ring_id: int = 0
    ring_pos: int = 0  # position in the ring ``ring_id``; a pack that seals no record does not move it back


_STATE = attrgetter(*(item.name for item in fields(_State)))
Savepoint = tuple[_State, "BirthTable | None"]  # the argument of Packer.restore


def _blame(piece: Slice, unknown: Reason) -> Reason:
    """Return the gap reason for ticks that have no record.

    It is ``ring`` if records were overwritten in the ring although sealing was possible; otherwise it is ``unknown``.
    """
    return Reason.RING if piece.lost and unknown is Reason.STOPPED else unknown


def _known(tally: dict[int, int], unknown: Reason) -> dict[int, int]:
    """Return the tally without the key -1, which stands for due readings without a record.

    These readings are counted under the reason ``unknown`` instead.
    """
    if missing := tally.pop(-1, 0):
        tally[unknown] = tally.get(unknown, 0) + missing
    return tally


def _pieces(texts: Sequence[bytes], room: int) -> list[list[bytes]]:
    """Distribute texts over pieces, in order.

    A piece has at most ``room`` bytes, unless it is one text that is longer.
    """
    pieces: list[list[bytes]] = [[]]
    size = 0
    for text in texts:
        if pieces[-1] and size + len(text) + 1 > room:
            pieces.append([])
            size = 0
        pieces[-1].append(text)
        size += len(text) + 1
    return pieces


class Packer:
    """Makes the packs of one stream. Each pack advances the packer; ``savepoint`` and ``restore`` undo failed commits.

    Args:
        head: the position of the stream at the last commit. None: the stream has no pack yet.
        sign: returns a detached JWS of type ``mh-pack`` for a payload.
        from_ms: the start of the first pack, in UTC ms. It is used only if ``head`` is None.
        max_bytes: the maximum size of a pack. Births and packs of a single point may be larger.
    """

    def __init__(
        self, stream: str, boot: str, head: Head | None, sign: Callable[[bytes], str], from_ms: int, max_bytes: int
    ) -> None:
        self.stream = stream
        self._boot, self._sign, self._max = boot, sign, max(max_bytes, 4 * HEADER_BYTES)
        # the members of a pack that never change
        self._boot_member, self._stream_member = b'"boot":"' + boot.encode() + b'"', b',"stream":' + dumps(stream)
        self._table: BirthTable | None = None
        self._at = _State(
            seq=head.seq if head else 0,
            prev=head.hash.encode() if head else None,
            prev_boot=head.boot if head else None,
            first=True,
            birth=None,
            from_ms=head.to_ms if head else from_ms,
            hour=0,
            quiet=False,
        )

    @property
    def from_ms(self) -> int:
        """The start of the next pack, in UTC ms."""
        return self._at.from_ms

    @property
    def is_new(self) -> bool:
        """True if the stream has no pack yet."""
        return not self._at.seq

    @property
    def quiet(self) -> bool:
        """True if the last pack held no reading. The stream is then sealed less often."""
        return self._at.quiet

    @property
    def table(self) -> BirthTable | None:
        """The point table in effect; None before the first call of ``use``."""
        return self._table

    def begin_at(self, start_ms: int) -> None:
        """Let the first pack of the stream begin at this time. Has no effect if the stream has packs."""
        if not self._at.seq:
            self._at.from_ms = start_ms

    def limit(self, max_bytes: int) -> None:
        """Change the maximum size of packs. It applies from the next pack on."""
        self._max = max(max_bytes, 4 * HEADER_BYTES)

    def savepoint(self) -> Savepoint:
        """Return the current state. If the packs made after this call cannot be committed, pass it to ``restore``."""
        return _State(*_STATE(self._at)), self._table

    def restore(self, savepoint: Savepoint) -> None:
        """Return to the state of ``savepoint``. Packs made since then are discarded; they were never published."""
        self._at, self._table = savepoint
        if self._table:
            self._table.canon.reset()

    def use(self, table: BirthTable) -> None:
        """Switch to another point table. The next pack is then a birth."""
        self._table = table
        self._at.birth = None
        table.canon.reset()

    def step(self, new_ms: int) -> dict[str, Any]:
        """Let the next pack begin at ``new_ms``, after a clock step. Returns the event that this pack must contain."""
        event = {"event": "clock_step", "new": seconds(new_ms), "old": seconds(self._at.from_ms), "t": seconds(new_ms)}
        self._at.from_ms = new_ms
        return event

    def seal(
        self,
        ring: Ring,
        positions: array[int],
        to_ms: int,
        clock: Clock,
        events: Sequence[Mapping[str, Any]] = (),
        unknown: Reason = Reason.STOPPED,
    ) -> list[SealedPack]:
        """Make the packs that cover ``[from_ms, to_ms)``. If a birth is needed, it comes first.

        Args:
            positions: ring positions, in time order, of the records that were written with the table in effect. The
                method removes the positions that it seals.
            clock: the ``clock`` object for the packs.
            events: the events for the first pack.
            unknown: the gap reason for due ticks without any record.
        """
        table, at = self._table, self._at
        if table is None:
            raise ValueError(f"{self.stream} has no point table yet")
        out: list[SealedPack] = []
        end = positions[0] if positions else 0  # a birth seals no record, so the first record stays unsealed
        if at.birth is None:
            out.append(self._pack(ring, end, at.from_ms, clock, table=table, events=events))
            events = ()
        while at.from_ms < to_ms or events:
            self._refresh_states(table)
            target = max(to_ms, at.from_ms)
            piece = seal(ring, positions, table.canon, at.from_ms, target, self._max - HEADER_BYTES)
            if piece.reached_ms == at.from_ms < target:
                out += self._parts(ring, positions, table, clock, events, target, unknown)
            else:
                why = _blame(piece, unknown)
                gaps = [] if piece.complete else gaps_of(piece, table, at.from_ms, why)
                out.append(self._take(ring, positions, piece, piece.reached_ms, clock, gaps, events, why))
            events = ()
        return out

    def absent(
        self, ring: Ring, to_ms: int, reason: Reason, clock: Clock, events: Sequence[Mapping[str, Any]] = ()
    ) -> list[SealedPack]:
        """Make one pack that states a gap of all points up to ``to_ms``. If a birth is needed, it comes first.

        The size of the pack does not depend on the length of the gap.
        """
        table, at = self._table, self._at
        if table is None:
            raise ValueError(f"{self.stream} has no point table yet")
        out: list[SealedPack] = []
        if at.birth is None:
            out.append(self._pack(ring, 0, at.from_ms, clock, table=table, events=events))
            events = ()
        if at.from_ms >= to_ms and not events:
            return out
        due = table.due_readings(at.from_ms, to_ms)
        gaps = (
            [{"from": seconds(at.from_ms), "points": "*", "reason": reason.name.lower(), "to": seconds(to_ms)}]
            if due
            else []
        )
        tally = {int(reason): due} if due else {}
        to_ms = max(to_ms, at.from_ms)
        out.append(self._pack(ring, 0, to_ms, clock, gaps=gaps, events=events, gap_readings=due, tally=tally))
        return out

    def results(
        self,
        ring: Ring,
        clock: Clock,
        made: Sequence[tuple[int, Sequence[Mapping[str, Any]]]],
        events: Sequence[Mapping[str, Any]] = (),
    ) -> list[SealedPack]:
        """Make packs of results. If a birth is needed, it comes first.

        Args:
            made: (end in UTC ms, results) of each stretch of time, in order. Each stretch begins at the end of the
                previous stretch. A pack may hold several stretches. A stretch that is too large for one pack is split.
            events: the events for the first pack. If there are events, a pack is made even without results.
        """
        table, at, room = self._table, self._at, self._max - HEADER_BYTES
        if table is None:
            raise ValueError(f"{self.stream} has no point table yet")
        out: list[SealedPack] = []

        def pack(to_ms: int, **more: Any) -> None:
            out.append(self._pack(ring, 0, to_ms, clock, events=() if out else events, **more))

        if at.birth is None and (made or events):
            pack(at.from_ms, table=table)
        elif events and not made:
            pack(at.from_ms)
        held: list[bytes] = []
        end_ms = at.from_ms
        for to_ms, found in made:
            texts = [dumps(result) for result in found]
            if held and sum(map(len, held)) + sum(map(len, texts)) > room:
                pack(end_ms, results=held)
                held = []
            pieces = _pieces(texts, room)
            if len(pieces) > 1:
                if end_ms > at.from_ms:
                    pack(end_ms, results=held)
                    held = []
                from_ms = at.from_ms
                for k, piece in enumerate(pieces, 1):
                    at.from_ms = from_ms
                    pack(to_ms, results=piece, part=[k, len(pieces)])
            else:
                held += texts
            end_ms = to_ms
        if end_ms > at.from_ms:
            pack(end_ms, results=held)
        return out

    def _refresh_states(self, table: BirthTable) -> None:
        # packs contain states and texts only when they change, but once an hour a pack contains all of them again
        hour = self._at.from_ms // HOUR_MS
        if hour != self._at.hour:
            self._at.hour = hour
            table.canon.reset()

    def _parts(
        self,
        ring: Ring,
        positions: array[int],
        table: BirthTable,
        clock: Clock,
        events: Sequence[Mapping[str, Any]],
        to_ms: int,
        unknown: Reason,
    ) -> list[SealedPack]:
        """Make several packs for a tick that is too large for one pack.

        Each pack has some of the points; all packs have the same times.
        """
        from_ms = self._at.from_ms
        total = len(table.points.names)
        end_ms = min(table.next_tick(from_ms) or to_ms, to_ms)
        count = 2
        while True:
            cuts = [(total * k // count, total * (k + 1) // count) for k in range(count)]
            limit = self._max - HEADER_BYTES if count < total else 0  # a single point is never split
            pieces = [seal(ring, positions, table.canon, from_ms, end_ms, limit, cut) for cut in cuts]
            if all(piece.reached_ms == end_ms for piece in pieces):
                break
            table.canon.reset()
            count = min(count * 2, total)
        out = []
        for k, (cut, piece) in enumerate(zip(cuts, pieces, strict=True), 1):
            why, first = _blame(piece, unknown), events if k == 1 else ()
            gaps = [] if piece.complete else gaps_of(piece, table, from_ms, why, cut)
            last = k == count
            self._at.from_ms = from_ms
            out.append(self._take(ring, positions, piece, end_ms, clock, gaps, first, why, [k, count], consume=last))
        return out

    def _take(
        self,
        ring: Ring,
        positions: array[int],
        piece: Slice,
        to_ms: int,
        clock: Clock,
        gaps: list[dict[str, Any]],
        events: Sequence[Mapping[str, Any]],
        unknown: Reason,
        part: list[int] | None = None,
        consume: bool = True,
    ) -> SealedPack:
        """Make the pack of a slice. If ``consume`` is True, its positions are removed from ``positions``."""
        end = 0
        if piece.used:
            end = positions[piece.used] if piece.used < len(positions) else positions[piece.used - 1] + 1
            if consume:
                del positions[: piece.used]
        elif positions:
            end = positions[0]
        return self._pack(
            ring,
            end,
            to_ms,
            clock,
            e=piece.e,
            gaps=gaps,
            events=events,
            part=part,
            records=piece.records,
            gap_readings=0 if piece.complete else piece.due - piece.grid.count(1),
            tally=_known(piece.tally, unknown),
        )

    def _pack(
        self,
        ring: Ring,
        ring_pos: int,
        to_ms: int,
        clock: Clock,
        *,
        table: BirthTable | None = None,
        e: bytes = b"[]",
        gaps: Sequence[Mapping[str, Any]] = (),
        events: Sequence[Mapping[str, Any]] = (),
        results: Sequence[bytes] = (),
        part: list[int] | None = None,
        records: int = 0,
        gap_readings: int = 0,
        tally: Mapping[int, int] | None = None,
    ) -> SealedPack:
        """Write, hash and sign one pack, and advance the state of the packer."""
        at = self._at
        at.seq += 1
        front: list[bytes] = []
        if table is None and at.birth is not None:
            front.append(b'"birth":"' + at.birth + b'"')
        front += [self._boot_member, b'"clock":' + dumps(clock)]
        if e != b"[]":
            front.append(b'"e":' + e)
        if events:
            front.append(b'"events":' + dumps(list(events)))
        front.append(b'"from":' + seconds_json(at.from_ms))
        if gaps:
            front.append(b'"gaps":' + dumps(list(gaps)))
        if part:
            front.append(b'"part":' + dumps(part))
        front.append(b'"prev":"' + at.prev + b'"' if at.prev is not None else b'"prev":null')
        if at.first:
            front.append(b'"prev_boot":' + dumps(at.prev_boot))
        if results:
            front.append(b'"results":[' + b",".join(results) + b"]")
        front.append(b'"seq":%d' % at.seq)
        back = self._stream_member
        if table is not None:
            back += b',"table":' + table.encoded
        back += b',"to":' + seconds_json(to_ms) + b',"v":1}'
        head = b"{" + b",".join(front)
        payload = head + back
        digest = hashlib.sha256(payload).digest()
        data = head + b',"sig":"' + self._sign(payload).encode() + b'"' + back
        if ring.ring_id != at.ring_id:
            at.ring_id, at.ring_pos = ring.ring_id, 0
        at.ring_pos = max(at.ring_pos, ring_pos)
        pack = SealedPack(
            stream=self.stream,
            boot=self._boot,
            seq=at.seq,
            from_ms=at.from_ms,
            to_ms=to_ms,
            hash=digest,
            is_birth=table is not None,
            data=data,
            ring_id=ring.ring_id,
            ring_pos=at.ring_pos,
            records=records,
            gap_readings=gap_readings,
            part=(part[0], part[1]) if part else None,
            facts=table.facts.encode() if table is not None and table.met else None,
            tally=tally or {},
            gaps=gaps,
        )
        at.prev = base64url_bytes(digest)
        if table is not None:
            at.birth = at.prev
        at.first = False
        at.quiet = not records and table is None
        at.from_ms = to_ms
        return pack
