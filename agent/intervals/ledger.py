"""Turns one stream into intervals. The result is the same from sealed ring records as from packs.

The intervals depend only on the packs: on the read times, values and qualities in them, and on the start, end and boot
of each pack. So after a restart the agent continues from the last stored state with the packs since then, and a
verifier gets the same amounts from an export.

Times are the UTC of the packs, and the clock is never set within a pack. If a pack does not begin where the previous
pack ended, the clock was set in between. Then the times of the last readings are changed by the same amount, so that
the time between two readings stays what the monotonic clock measured.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from agent.intervals.anomalies import TOO_LARGE, AnomalyDetector, Finding, PendingReading
from agent.intervals.calendar import DAY_MS, Calendar
from agent.intervals.gap_sums import Gap, GapRow, GapSums, gaps_of_pack
from agent.intervals.heat import HeatFlows
from agent.intervals.page_format import PageSchema, Row
from agent.intervals.row_builder import RowBuilder
from agent.intervals.rows import QUALITIES, RANGE, CounterEvent, Flag, PackSpan, SlotReadings
from agent.intervals.state import STATE_LAYOUT, StateError, pack_state, unpack_state
from agent.intervals.tracked_points import Rule, TrackedPoint, TrackedPoints, track
from ext.rates import CounterKernel, gather
from ext.ring import Ring

_QUALITY_FLAGS = (
    Flag(0), Flag.SUSPECT, Flag.SUSPECT, Flag.SUSPECT, Flag.SUSPECT, Flag.ESTIMATED, Flag.ESTIMATED,
)  # fmt: skip
# after a longer silence the counter begins anew, and the growth during the silence is not counted
LONGEST_MS = 400 * DAY_MS
MOST_JUMP_MS = 7 * DAY_MS  # a longer jump of the clock forward makes no rows of missing time
COUNTER, GAUGE = 1, 2
# the first packs of a boot: one with records kept in the ring, one for the downtime, one with the first readings
FIRST_PACKS = 3


class Ledger:
    """The counters and gauges of one stream. Use it in one thread only."""

    def __init__(self, stream: str, calendar: Calendar, rule: Rule) -> None:
        self.stream, self._calendar, self._rule = stream, calendar, rule
        self.tracked: TrackedPoints | None = None
        self.tally = CounterKernel(0)
        self.detectors: dict[int, AnomalyDetector] = {}
        self.seq = 0  # sequence of the last pack that the ledger took
        self.to_ms = 0  # end of the last pack in UTC ms; 0: no pack was taken yet
        # ``_fresh``: how many of the next packs of this boot may have readings from before the boot
        self.boot, self._fresh = "", 0
        self.row_builder = RowBuilder(calendar)
        self.counter_events: list[CounterEvent] = []
        self._made: list[tuple[PageSchema, list[Row]]] = []
        self._gaps = GapSums()
        self._gap_rows: list[GapRow] = []
        # from this time on, the gaps are known; ``restore`` sets it if they are not known for earlier intervals
        self.gaps_from_ms: int | None = None
        self._points = 0  # number of points in the current point table
        self._bounds = array("q")
        self._heat = HeatFlows(())
        self._slot_of, self._wanted = array("i"), memoryview(bytes(24)).cast("q", (1, 3))
        self._names: dict[str, int] = {}

    # --- shapes

    def use(self, table: Mapping[str, Any]) -> None:
        """Switch to another point table. Counters that are in both tables continue; the other ones end or begin."""
        new = track(table, self._rule)
        self._points = len(table.get("points") or ())
        if self.tracked is not None and new == self.tracked:
            return
        old, old_tally = self.tracked, self.tally
        known = {_identity(w): number for number, w in enumerate(old.slots)} if old is not None else {}
        # slot in the new table -> slot in the old table
        kept = {n: known[_identity(w)] for n, w in enumerate(new.slots) if _identity(w) in known}
        if old is not None:
            for judge_of, detector in list(self.detectors.items()):
                if judge_of not in kept.values():
                    self._note(judge_of, detector.give_up())
            for number in range(len(old.slots)):
                if number not in kept.values():
                    old_tally.cut_off(number)
            self._take()
            self.row_builder.end_shape()
        self.tracked = new
        self.tally = self._new_tally(new)
        before, self.detectors = self.detectors, {}
        if len(self._bounds) > 1:
            self._use_bounds()
        for number, was in kept.items():
            self.tally.restore(number, old_tally.state(was))
        for number, was in kept.items():
            if was in before:
                self._detector(number).restore(*before[was].state())
        self._heat = HeatFlows(new.slots)
        self._index(new)
        self.row_builder.begin_shape(new.shape, max(2 * new.slowest_ms, 20_000))

    def _new_tally(self, new: TrackedPoints) -> CounterKernel:
        tally = CounterKernel(len(new.slots))
        for number, w in enumerate(new.slots):
            window = (new.shape.period_ms, new.shape.slip_ms) if w.demand else (0, 0)
            gap = min(max(self._rule.max_gap_ms, 3 * w.period_ms), DAY_MS)
            kind = COUNTER if w.column.kind == "counter" else GAUGE
            tally.configure(number, kind, w.resolution, w.modulus, gap, *window)
        return tally

    def _index(self, new: TrackedPoints) -> None:
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

    def take_ring(self, ring: Ring, positions: array[int], spans: Sequence[PackSpan]) -> bool:
        """Take the readings of these packs from the ring, where they still are after sealing.

        Returns False if some records were overwritten.
        """
        whole = True
        for span in spans:
            self._begin(span)
            if span.from_ms != span.to_ms:
                slot_of = self._slot_of if span.part is None else self._slots_in(*span.part)
                slots, times, values, qualities, lost = gather(
                    ring, positions, slot_of, self._wanted, span.from_ms, span.to_ms
                )
                whole = whole and not lost
                self._feed(SlotReadings(slots, times, values, qualities), span.seq)
            self._settle()
        return whole

    def _slots_in(self, k: int, n: int) -> array[int]:
        """Return ``_slot_of`` without the points that are not in part ``k`` of ``n``.

        A tick too large for one pack has parts.
        """
        low, high = self._points * (k - 1) // n, self._points * k // n
        return array("i", [slot if low <= point < high else -1 for point, slot in enumerate(self._slot_of)])

    def take_pack(self, span: PackSpan, records: Iterable[Mapping[str, Any]]) -> None:
        """Take a pack. ``records``: its SenML member ``e``. The numbers in it may be Decimal, int or text."""
        self._begin(span)
        batch = SlotReadings(array("H"), array("q"), array("q"), b"")
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
        self._settle()

    def _whole(self, value: Decimal, number: int) -> int:
        assert self.tracked is not None
        exponent = self.tracked.slots[number].column.exponent
        found = int(value.scaleb(-exponent).to_integral_value(ROUND_HALF_EVEN))
        return found if -TOO_LARGE < found < TOO_LARGE else TOO_LARGE

    def _begin(self, span: PackSpan) -> None:
        # True: the pack contains another part of the tick of the previous pack
        is_later_part = span.part is not None and span.part[0] > 1
        if self.to_ms and span.from_ms != self.to_ms and not is_later_part:
            self._step(span.from_ms - self.to_ms)
            # nothing was due in the time that the clock jumped over, so the packs state no gap; a clock that was never
            # set may jump by decades
            if span.seq == self.seq + 1 and 0 < span.from_ms - self.to_ms <= MOST_JUMP_MS:
                self._gaps.add([Gap(self.to_ms, span.from_ms, "clock", True)])
        if span.boot != self.boot:
            self.boot, self._fresh = span.boot, FIRST_PACKS
        if self._fresh and span.from_ms < span.to_ms:
            self._fresh -= 1
            if not _is_absent(span):  # an absent device sends no readings that could complete earlier intervals
                self.row_builder.wait_until(span.to_ms)
        if not self.to_ms:
            self.row_builder.start(self._calendar.floor(span.from_ms))
        self.seq, self.to_ms = span.seq, span.to_ms
        if span.gaps or span.part is not None:
            self._gaps.add(span.gaps, span.part)

    def _step(self, by_ms: int) -> None:
        """Change the times of the last readings by ``by_ms``, because the clock was set by this amount."""
        stands = [level[1] + by_ms for n in self._used() if (level := self.tally.level(n))]
        stands += [w.time_ms + by_ms for detector in self.detectors.values() for w in detector.waiting]
        if stands:
            self._cover(min(stands), max(stands))
        self._take()
        self.tally.step(by_ms)
        self._take()
        for detector in self.detectors.values():
            detector.step(by_ms)
        self._heat.last.clear()
        if by_ms < 0:
            self.row_builder.turn += 1

    def _feed(self, batch: SlotReadings, seq: int) -> None:
        if self.tracked is None or not batch.times:
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
            if self.tracked.slots[number].column.kind == "counter":
                reading = PendingReading(batch.times[n], batch.values[n], seq, flags[n])
                self._note(number, self._detector(number).take(reading))
        self._take()

    def _detector(self, number: int) -> AnomalyDetector:
        if number not in self.detectors:
            assert self.tracked is not None
            w = self.tracked.slots[number]
            self.detectors[number] = AnomalyDetector(self.tally, number, w.resolution, w.modulus)
        return self.detectors[number]

    def _used(self) -> range:
        return range(len(self.tracked.slots) if self.tracked else 0)

    def _cover(self, from_ms: int, to_ms: int) -> None:
        """Give the kernel boundaries around these times, all open intervals and all pending readings."""
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
        waiting = [w.time_ms for detector in self.detectors.values() for w in detector.waiting]
        low, high = min([from_ms, *starts, *waiting]), max([to_ms, *starts, *waiting])
        self._bounds = self._calendar.bounds(low, high + DAY_MS)
        self._use_bounds()

    def _use_bounds(self) -> None:
        # the UTC offsets are of this whole time, so that fixed windows do not depend on when this is called
        self.tally.bounds(self._bounds, *self._calendar.offsets_ms(self._bounds[0], self._bounds[-1]))

    def _take(self) -> None:
        """Pass the complete cells of the kernel to the row builder."""
        for cell in self.tally.take():
            self.row_builder.add(cell)

    def _note(self, number: int, findings: Sequence[Finding]) -> None:
        assert self.tracked is not None
        column = self.tracked.slots[number].column
        for v in findings:
            before = v.before or (0, v.time_ms, v.value)
            self.counter_events.append(
                CounterEvent(
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

    def rows(self) -> list[tuple[PageSchema, list[Row]]]:
        """Take the rows to write: finished intervals, and corrections of earlier intervals.

        Each row is returned only once.

        The rows depend only on the sequence of packs, not on how many packs are taken between two calls.
        """
        made, self._made = self._made, []
        return made

    def gap_rows(self) -> list[GapRow]:
        """Take the gaps of the intervals that ``rows`` returned, by reason.

        An interval may get more gaps in later calls; the caller must add up their durations.
        """
        made, self._gap_rows = self._gap_rows, []
        return made

    def _settle(self) -> None:
        """Make the rows that can be written now. This is called after each pack."""
        if self.tracked is None or not self.to_ms:
            return
        if self.row_builder.next_ms and not self.row_builder.ready(self.to_ms):
            self._made += self.row_builder.take_late()
        else:
            open_cells = [cell for n in self._used() if (cell := self.tally.open(n))]
            self._made += self.row_builder.take(self.to_ms, open_cells)
        self._gap_rows += self._gaps.take(self.row_builder.next_ms, self._calendar)

    def open_ms(self, kinds: str = "counter gauge") -> int:
        """Return the start of the first interval that a reading may still change.

        If the time of a pending reading is earlier, return that time.
        """
        starts = [w.time_ms for detector in self.detectors.values() for w in detector.waiting]
        for n in self._used():
            if self.tracked and self.tracked.slots[n].column.kind in kinds and (cell := self.tally.open(n)) is not None:
                starts.append(cell[1])
        return min(starts, default=self.to_ms)

    # --- state for restarts

    def state(self) -> bytes:
        """Return the state that ``restore`` needs to continue after the last pack.

        All ``rows`` must be written before.
        """
        assert self.tracked is not None
        states = [self.tally.state(n) for n in self._used()]
        cells = [self.tally.open(n) for n in self._used()]
        document = {
            "rule": self._made_by(),
            "seq": self.seq,
            "to": self.to_ms,
            "boot": self.boot,
            "fresh": self._fresh,
            "low": min((cell[1] for cell in cells if cell), default=self.to_ms),
            "slots": [[*_identity(w), len(raw)] for w, raw in zip(self.tracked.slots, states, strict=True)],
            "heat": [[slot, *last] for slot, last in sorted(self._heat.last.items())],
            "judges": [
                [n, *detector.state()] for n, detector in sorted(self.detectors.items()) if not detector.is_fresh
            ],
            "closing": self.row_builder.state(),
            "gaps": self._gaps.state(),
        }
        return pack_state(document, states)

    def _made_by(self) -> list[object]:
        """Return the version and the settings of the ledger.

        A state is valid only for the same version and settings.
        """
        rule = self._rule
        return [
            STATE_LAYOUT,
            self._calendar.timezone,
            self._calendar.length_ms,
            rule.max_gap_ms,
            rule.period_ms,
            rule.slip_ms,
        ]

    def restore(self, state: bytes, table: Mapping[str, Any]) -> None:
        """Continue from a state. ``table``: the point table after the state's last pack.

        A counter of the table that is missing in the state begins anew.

        Raises:
            StateError: the state is damaged, or of another version or other settings. The ledger must not be used then.
        """
        parsed, raws = unpack_state(state)
        if parsed["rule"] != self._made_by():
            raise StateError(f"it was made with {parsed['rule']}, not with {self._made_by()}", is_other=True)
        try:
            self._go_on(parsed, raws, table)
        except (LookupError, TypeError, ValueError) as error:
            raise StateError(f"it does not match the point table: {error!r}") from error

    def _go_on(self, state: Mapping[str, Any], raws: Sequence[bytes], table: Mapping[str, Any]) -> None:
        self.use(table)
        assert self.tracked is not None
        known = {json.dumps(slot[:-1]): n for n, slot in enumerate(state["slots"])}
        self._bounds = self._calendar.bounds(min(state["low"], state["to"]), state["to"] + DAY_MS)
        self._use_bounds()
        slot_of = {}  # slot in the state -> slot in this table
        for number, w in enumerate(self.tracked.slots):
            was = known.get(json.dumps(_identity(w)))
            if was is not None:
                self.tally.restore(number, raws[was])
                slot_of[was] = number
        for n, *judged in state["judges"]:
            if n in slot_of:
                self._detector(slot_of[n]).restore(*judged)
        self._heat.last = {
            slot_of[slot]: (time, value, quality) for slot, time, value, quality in state["heat"] if slot in slot_of
        }
        self.seq, self.to_ms, self.boot, self._fresh = state["seq"], state["to"], state["boot"], state["fresh"]
        self.row_builder.restore(state["closing"], slot_of)
        self._gaps.restore(state["gaps"])


def _is_absent(span: PackSpan) -> bool:
    """Return True if the whole device was absent during the whole pack."""
    return any(
        gap.is_whole and gap.reason == "absent" and gap.from_ms <= span.from_ms and span.to_ms <= gap.to_ms
        for gap in span.gaps
    )


def take_body(ledger: Ledger, body: Mapping[str, Any]) -> None:
    """Pass a pack to a ledger. ``body``: the JSON object, parsed with ``parse_float=str``.

    A birth sets the ledger's table.
    """
    if "table" in body:
        ledger.use(body["table"])
    from_ms, to_ms = (round(float(body[name]) * 1000) for name in ("from", "to"))
    part = body.get("part")
    gaps = gaps_of_pack(body.get("gaps", ()))
    span = PackSpan(body["seq"], body["boot"], from_ms, to_ms, (part[0], part[1]) if part else None, gaps)
    ledger.take_pack(span, body.get("e", ()))


def rows_of_packs(
    stream: str, packs: Iterable[bytes], calendar: Calendar, rule: Rule
) -> Iterator[tuple[int, PageSchema, list[Row]]]:
    """Yield the rows of one stream from its packs, each with the sequence of the pack after which it was written.

    ``packs`` are in order and begin with a birth. The rows equal those of the agent to the last digit. The interval in
    which the first pack begins is an exception, because the agent may have had earlier packs of that interval.
    """
    ledger = Ledger(stream, calendar, rule)
    for data in packs:
        take_body(ledger, json.loads(data, parse_float=str))
        ledger.gap_rows()  # the gaps are not needed here, so they are discarded; otherwise they would fill the memory
        for shape, rows in ledger.rows():
            yield ledger.seq, shape, rows


def _identity(w: TrackedPoint) -> tuple[object, ...]:
    """Return the members of a slot that identify its counter. Two slots with the same members are the same counter.

    The role is not among them, so it may differ.
    """
    c = w.column
    return c.point, c.kind, c.unit, c.exponent, c.epoch, w.resolution, w.modulus, w.heat
