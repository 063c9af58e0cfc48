"""One stream on its way into intervals: fed with what was sealed, from the ring or from packs, with the same result.

Everything follows from the packs alone: read times, values, qualities, the borders of packs and the boots they name. So
a restart goes on from the last kept state with the packs since, and a verifier gets the same amounts from an export.
Spacing between readings is the packs' UTC, which no pack lets a clock step run through: where a pack begins elsewhere
than the one before ended, the last readings move along, and what lies between is as long as it was on the monotonic
clock.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import zstandard

from agent.intervals.closing import Closing
from agent.intervals.cut import DAY_MS, Cut
from agent.intervals.feed import QUALITIES, RANGE, Batch, Happening, Span
from agent.intervals.heat import HeatFlows
from agent.intervals.judge import TOO_LARGE, Judge, Verdict, Waiting
from agent.intervals.page import Row, Shape
from agent.intervals.rows import Flag
from agent.intervals.sketch import Rule, Sketch, Watched, sketch
from agent.zstd import read_frame
from ext.rates import STATE_VERSION, Tally, gather
from ext.ring import Ring

_QUALITY_FLAGS = (
    Flag(0), Flag.SUSPECT, Flag.SUSPECT, Flag.SUSPECT, Flag.SUSPECT, Flag.ESTIMATED, Flag.ESTIMATED,
)  # fmt: skip
LONGEST_MS = 400 * DAY_MS  # a counter that was silent for longer begins anew
COUNTER, GAUGE = 1, 2
MAX_STATE = 64 << 20
FIRST_PACKS = 3  # of a boot: what the ring had kept, the downtime, the first readings


class Ledger:
    """Counters of one stream. Belongs to one thread."""

    def __init__(self, stream: str, cut: Cut, rule: Rule) -> None:
        self.stream, self._cut, self._rule = stream, cut, rule
        self.sketch: Sketch | None = None
        self.tally = Tally(0)
        self.judges: dict[int, Judge] = {}
        self.seq = 0  # of the last pack taken in
        self.to_ms = 0  # its end; 0: none yet
        self.boot, self._fresh = "", 0  # packs of this boot that may still tell of the time before it
        self.closing = Closing(cut)
        self.happenings: list[Happening] = []
        self._bounds = array("q")
        self._heat = HeatFlows(())
        self._slot_of, self._wanted = array("i"), memoryview(bytes(24)).cast("q", (1, 3))
        self._names: dict[str, int] = {}

    # --- shapes

    def use(self, table: Mapping[str, Any]) -> None:
        """Another table is in force. Counters that are the same in both go on; all others end, or begin."""
        new = sketch(table, self._rule)
        if self.sketch is not None and new == self.sketch:
            return
        old, old_tally = self.sketch, self.tally
        kept = self._same_slots(old, new)
        if old is not None:
            for judge_of, judge in list(self.judges.items()):
                if judge_of not in kept.values():
                    self._note(judge_of, judge.give_up())
            for number in range(len(old.slots)):
                if number not in kept.values():
                    old_tally.cut_off(number)
            self._take()
            self.closing.end_shape()
        self.sketch = new
        self.tally = self._new_tally(new)
        before, self.judges = self.judges, {}
        if len(self._bounds) > 1:
            self.tally.bounds(self._bounds, self._cut.offset_ms(self._bounds[0]))
        for number, was in kept.items():
            self.tally.restore(number, old_tally.state(was))
        for number, was in kept.items():
            if was in before:
                self._judge(number).waiting = before[was].waiting
        self._heat = HeatFlows(new.slots)
        self._index(new)
        self.closing.begin_shape(new.shape, max(2 * new.slowest_ms, 20_000))

    @staticmethod
    def _same_slots(old: Sketch | None, new: Sketch) -> dict[int, int]:
        """New slot -> old slot of the same counter; its role may be another."""
        if old is None:
            return {}
        known = {_identity(w): number for number, w in enumerate(old.slots)}
        return {n: known[_identity(w)] for n, w in enumerate(new.slots) if _identity(w) in known}

    def _new_tally(self, new: Sketch) -> Tally:
        tally = Tally(len(new.slots))
        for number, w in enumerate(new.slots):
            window = (new.shape.period_ms, new.shape.slip_ms) if w.demand else (0, 0)
            gap = min(max(self._rule.max_gap_ms, 3 * w.period_ms), DAY_MS)
            kind = COUNTER if w.column.kind == "counter" else GAUGE
            tally.configure(number, kind, w.resolution, w.modulus, gap, *window)
        return tally

    def _index(self, new: Sketch) -> None:
        points = max((w.point for w in new.slots if w.point is not None), default=-1)
        self._slot_of = array("i", [-1]) * (points + 1)
        wanted = array("q")
        for number, w in enumerate(new.slots):
            if w.point is not None:
                self._slot_of[w.point] = number
            wanted.extend((w.column.exponent, w.period_ms, w.phase_ms))
        rows = max(1, len(new.slots))
        wanted.extend([0] * (3 * rows - len(wanted)))
        self._wanted = memoryview(wanted).cast("B").cast("q", (rows, 3))
        self._names = {w.column.point: n for n, w in enumerate(new.slots) if w.point is not None}

    # --- feeding

    def take_ring(self, ring: Ring, positions: array[int], spans: Sequence[Span]) -> bool:
        """What was sealed from the ring into these packs, one after the other. False: some of it was overwritten."""
        whole = True
        last: tuple[int, int] | None = None
        for span in spans:
            self._begin(span)
            if span.from_ms == span.to_ms or (span.from_ms, span.to_ms) == last:
                continue  # a birth; another part of the same tick
            last = span.from_ms, span.to_ms
            slots, times, values, qualities, lost = gather(
                ring, positions, self._slot_of, self._wanted, span.from_ms, span.to_ms
            )
            whole = whole and not lost
            self._feed(Batch(slots, times, values, qualities), span.seq)
        return whole

    def take_pack(self, span: Span, records: Iterable[Mapping[str, Any]]) -> None:
        """A pack with its SenML ``e``; numbers as Decimal or int."""
        self._begin(span)
        batch = Batch(array("H"), array("q"), array("q"), b"")
        qualities = bytearray()
        base = Decimal(0)
        for record in records:
            base = record.get("bt", base)
            number = self._names.get(record["n"])
            if number is None or ("v" not in record and "x" not in record):
                continue
            batch.slots.append(number)
            batch.times.append(int((Decimal(base) + Decimal(record.get("t", 0))) * 1000))
            batch.values.append(self._whole(Decimal(record.get("x", record.get("v"))), number))
            qualities.append(QUALITIES.get(record.get("q", ""), 0))
        batch.qualities = bytes(qualities)
        self._feed(batch, span.seq)

    def _whole(self, value: Decimal, number: int) -> int:
        assert self.sketch is not None
        exponent = self.sketch.slots[number].column.exponent
        found = int(value.scaleb(-exponent).to_integral_value(ROUND_HALF_EVEN))
        return found if -TOO_LARGE < found < TOO_LARGE else TOO_LARGE

    def _begin(self, span: Span) -> None:
        if self.to_ms and span.from_ms != self.to_ms:
            self._step(span.from_ms - self.to_ms)
        if span.boot != self.boot:
            self.boot, self._fresh = span.boot, FIRST_PACKS
        if self._fresh and span.from_ms < span.to_ms:
            self._fresh -= 1
            self.closing.wait_until(span.to_ms)
        if not self.to_ms:
            self.closing.start(self._cut.floor(span.from_ms))
        self.seq, self.to_ms = span.seq, span.to_ms

    def _step(self, by_ms: int) -> None:
        """The clock was set."""
        stands = [level[1] + by_ms for n in self._used() if (level := self.tally.level(n))]
        if stands:
            self._cover(min(stands), max(stands))
        self._take()
        self.tally.step(by_ms)
        self._take()
        for judge in self.judges.values():
            judge.step(by_ms)
        self._heat.last.clear()
        if by_ms < 0:
            self.closing.turn += 1

    def _feed(self, batch: Batch, seq: int) -> None:
        if self.sketch is None or not batch.times:
            return
        batch = self._heat.added(batch)
        self._cover(min(batch.times), max(batch.times))
        if any(batch.qualities):
            flags = array("I", [int(_QUALITY_FLAGS[q]) for q in batch.qualities])
            for n, quality in enumerate(batch.qualities):
                if quality == RANGE:
                    batch.values[n] = TOO_LARGE
        else:
            flags = array("I", bytes(4 * len(batch.times)))
        packs = array("I", [seq]) * len(batch.times)
        odd = self.tally.feed(batch.slots, batch.times, batch.values, packs, flags)
        for n in odd:
            number = batch.slots[n]
            if self.sketch.slots[number].column.kind == "counter":
                reading = Waiting(batch.times[n], batch.values[n], seq, flags[n])
                self._note(number, self._judge(number).take(reading))
        self._take()

    def _judge(self, number: int) -> Judge:
        if number not in self.judges:
            assert self.sketch is not None
            w = self.sketch.slots[number]
            self.judges[number] = Judge(self.tally, number, w.resolution, w.modulus)
        return self.judges[number]

    def _used(self) -> range:
        return range(len(self.sketch.slots) if self.sketch else 0)

    def _cover(self, from_ms: int, to_ms: int) -> None:
        """Boundaries for these times and for where every slot stands."""
        bounds = self._bounds
        if len(bounds) > 1 and bounds[0] <= from_ms and to_ms < bounds[-1]:
            return
        starts = []
        for n in self._used():
            cell = self.tally.open(n)
            if cell is None:
                continue
            if to_ms - cell[2] > LONGEST_MS or cell[1] - to_ms > LONGEST_MS:
                self.tally.cut_off(n)
            else:
                starts.append(cell[1])
        waiting = [w.time_ms for judge in self.judges.values() for w in judge.waiting]
        low, high = min([from_ms, *starts, *waiting]), max([to_ms, *starts, *waiting])
        self._bounds = self._cut.bounds(low, high + DAY_MS)
        self.tally.bounds(self._bounds, self._cut.offset_ms(to_ms))

    def _take(self) -> None:
        """Cells that are complete, to where rows are made of them."""
        for cell in self.tally.take():
            self.closing.add(cell)

    def _note(self, number: int, verdicts: Sequence[Verdict]) -> None:
        assert self.sketch is not None
        column = self.sketch.slots[number].column
        for v in verdicts:
            before = v.before or (0, v.time_ms, v.value)
            self.happenings.append(
                Happening(
                    point=column.point,
                    kind=v.kind,
                    time_ms=v.time_ms,
                    value=None if v.value == TOO_LARGE else Decimal(v.value).scaleb(column.exponent),
                    before_ms=before[1],
                    before=Decimal(before[2]).scaleb(column.exponent),
                    growth=Decimal(v.growth).scaleb(column.exponent),
                    count=v.count,
                    until_ms=v.until_ms,
                )
            )

    # --- rows

    def rows(self) -> list[tuple[Shape, list[Row]]]:
        """What can be written: intervals that are over and settled, corrections of earlier ones. Each comes once."""
        if self.sketch is None or not self.to_ms:
            return []
        if self.closing.next_ms and not self.closing.ready(self.to_ms):
            return self.closing.take_late()
        open_cells = [cell for n in self._used() if (cell := self.tally.open(n))]
        return self.closing.take(self.to_ms, open_cells)

    # --- over restarts

    def state(self) -> bytes:
        """All that ``restore`` needs, as of the last pack taken in and with all ``rows`` written."""
        assert self.sketch is not None
        slots = [_identity(w) for w in self.sketch.slots]
        cells = [self.tally.open(n) for n in self._used()]
        document = {
            "rates": STATE_VERSION,
            "zone": self._cut.timezone,
            "length": self._cut.length_ms,
            "seq": self.seq,
            "to": self.to_ms,
            "boot": self.boot,
            "fresh": self._fresh,
            "low": min((cell[1] for cell in cells if cell), default=self.to_ms),
            "slots": slots,
            "heat": [[slot, *last] for slot, last in self._heat.last.items()],
            "waiting": {
                n: [[w.time_ms, w.value, w.pack, w.flags] for w in j.waiting]
                for n, j in self.judges.items()
                if j.waiting
            },
            "closing": self.closing.state(),
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        raw = b"".join(self.tally.state(n) for n in self._used())
        return zstandard.ZstdCompressor(level=3).compress(struct.pack("<I", len(text)) + text + raw)

    def restore(self, state: bytes, table: Mapping[str, Any]) -> None:
        """Go on from a state; ``table`` is in force after its last pack. What does not fit in it begins anew.

        Raises:
            ValueError: of another version, or cut in another way: ``seq`` and all else are as before.
        """
        try:
            raw = read_frame(state, MAX_STATE)
            size = struct.unpack_from("<I", raw)[0]
            said = json.loads(raw[4 : 4 + size])
        except (struct.error, ValueError) as error:
            raise ValueError(f"the state of {self.stream} is damaged: {error}") from error
        cut = (said["rates"], said["zone"], said["length"])
        if cut != (STATE_VERSION, self._cut.timezone, self._cut.length_ms):
            raise ValueError(f"the state of {self.stream} is of {cut}")
        self.use(table)
        assert self.sketch is not None
        known = {json.dumps(identity): n for n, identity in enumerate(said["slots"])}
        each = (len(raw) - 4 - size) // max(1, len(said["slots"]))
        self._bounds = self._cut.bounds(min(said["low"], said["to"]), said["to"] + DAY_MS)
        self.tally.bounds(self._bounds, self._cut.offset_ms(said["to"]))
        was_slot = {}
        for number, w in enumerate(self.sketch.slots):
            was = known.get(json.dumps(_identity(w)))
            if was is not None:
                start = 4 + size + was * each
                self.tally.restore(number, raw[start : start + each])
                was_slot[was] = number
        for n, waiting in said["waiting"].items():
            if int(n) in was_slot:
                self._judge(was_slot[int(n)]).waiting = [Waiting(*w) for w in waiting]
        self._heat.last = {was_slot[slot]: (time, value) for slot, time, value in said["heat"] if slot in was_slot}
        self.seq, self.to_ms, self.boot, self._fresh = said["seq"], said["to"], said["boot"], said["fresh"]
        self.closing.restore(said["closing"], was_slot)


def _identity(w: Watched) -> tuple[object, ...]:
    c = w.column
    return c.point, c.kind, c.unit, c.exponent, c.epoch, w.resolution, w.modulus, w.demand, w.heat
