"""Holds the readings of a counter that are not plain growth, until later readings show what happened.

The counter kernel of ``ext.rates`` accepts plain growth. Any other reading waits. ``Series`` judges it together with
all later readings, in the same way as ``meterhouse decode counter`` does. A finding is made when later readings can
no longer change it, for example when the counter came back after a fall, or stayed at its new level. Until then the
counter does not advance and its intervals stay open, so phantom energy is never written.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from agent.intervals.rows import Flag
from agent.intervals.series import BACK_STEP, GLITCH, NORMAL, RESET, ROLLOVER, SWAP, Series, Step, is_all_ones
from ext.rates import CounterKernel

# after this time, enough for a night and a morning, a finding is made from the readings so far
PATIENCE_MS = 26 * 3_600_000
SILENCE_MS = 900_000
ALIKE = 3
MOST_GROWTH = 10**12  # a larger growth between two readings is not believed; in the slot's integer units
MOST = 64  # when this number of readings waits, a finding is made from the readings so far
TOO_LARGE = (1 << 63) - 1  # this value stands for all values that a counter cannot reach, here and in the kernel
_MOST_VALUE = 9 * 10**15  # the highest value that the kernel can count
_FLAGS = {ROLLOVER: Flag.ROLLOVER, RESET: Flag.RESET, SWAP: Flag.SWAP, GLITCH: Flag.GLITCH, BACK_STEP: Flag.BACK_STEP}


@dataclass(slots=True)
class PendingReading:
    """A reading of a counter that waits to be judged."""

    time_ms: int
    value: int
    pack: int
    flags: int

    @property
    def known(self) -> int | None:
        """The value of the reading; None if a counter cannot reach it."""
        return self.value if -_MOST_VALUE <= self.value <= _MOST_VALUE else None


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on a reading, for an event. Values are in the slot's integer units."""

    kind: str
    time_ms: int
    value: int
    before: tuple[int, int, int] | None  # the last good reading as (pack, time in ms, value)
    growth: int
    count: int = 1  # the number of consecutive readings with this verdict
    until_ms: int = 0  # time of the last of these readings


class AnomalyDetector:
    """Judges the readings of one counter that the kernel did not accept.

    Args:
        tally: the kernel with all counters of the stream.
        number: the slot of this counter in it.
        resolution: the value of one count of the device, in the slot's integer units.
        modulus: the value at which the counter rolls over to 0; 0 if unknown.
    """

    def __init__(self, tally: CounterKernel, number: int, resolution: int, modulus: int) -> None:
        self._tally, self._number = tally, number
        self._resolution, self._modulus = Decimal(resolution), Decimal(modulus) if modulus else None
        self.waiting: list[PendingReading] = []
        # (value, level) of the last glitch; None: there was none
        self._last_glitch: tuple[int, tuple[int, int, int] | None] | None = None

    def take(self, reading: PendingReading) -> list[Finding]:
        """Take a reading that the kernel did not accept. Returns the verdicts that are now certain."""
        level = self._tally.level(self._number)
        is_rise = level is not None and level[2] <= reading.value <= _MOST_VALUE
        alike = len(self.waiting) >= ALIKE and self.waiting[-1].value == self.waiting[-2].value == reading.value
        if alike and not is_rise:
            # of many equal low readings, such as a night of zeros, the first ones and the last are enough; equal
            # readings after a rise are all kept, because each of them may be good
            self.waiting[-1] = reading
        else:
            self.waiting.append(reading)
        return [finding for finding in _joined(self._settle()) if self._is_news(finding)]

    def _is_news(self, finding: Finding) -> bool:
        """Return True if this is a new event.

        If the same glitch from the same level was reported before, it is not new: a night of all ones is one event.
        """
        glitch = (finding.value, finding.before) if finding.kind == GLITCH else None
        again = glitch is not None and glitch == self._last_glitch
        self._last_glitch = glitch
        return not again

    def give_up(self) -> list[Finding]:
        """Judge the pending readings now, because no more readings will arrive."""
        return list(_joined(self._settle(at_once=True)))

    @property
    def is_fresh(self) -> bool:
        """True if there is no state to save."""
        return not self.waiting and self._last_glitch is None

    def state(self) -> tuple[list[list[int]], list[Any] | None]:
        """Return the state for ``restore``: the pending readings, and the last glitch that was reported."""
        glitch = None if self._last_glitch is None else [self._last_glitch[0], self._last_glitch[1]]
        return [[w.time_ms, w.value, w.pack, w.flags] for w in self.waiting], glitch

    def restore(self, waiting: Iterable[Sequence[int]], glitch: Sequence[Any] | None) -> None:
        """Restore the result of ``state``."""
        self.waiting = [PendingReading(*w) for w in waiting]
        self._last_glitch = None if glitch is None else (glitch[0], None if glitch[1] is None else tuple(glitch[1]))

    def step(self, by_ms: int) -> None:
        """Change the times of the pending readings by ``by_ms``, because the clock was set by this amount."""
        for reading in self.waiting:
            reading.time_ms += by_ms

    def _settle(self, at_once: bool = False) -> Iterator[Finding]:
        while self.waiting:
            reading = self.waiting[0]
            level = self._tally.level(self._number)
            if level is None:
                if not self._first(at_once):
                    break
                continue
            if reading.time_ms <= level[1]:
                # a step of the clock was noticed only after this reading was taken: its time may now be before the
                # level's time
                reading.time_ms = level[1] + 1
            if self._is_plain(reading):
                del self.waiting[0]
                continue
            finding = self._finding(level, at_once)
            if finding is None:
                break
            del self.waiting[0]
            if finding.kind != NORMAL:
                yield finding
        self._tally.hold(self._number, bool(self.waiting))

    def _is_plain(self, reading: PendingReading) -> bool:
        """Return True if the kernel accepts the reading now, after the previous readings were judged."""
        self._tally.hold(self._number, False)
        one = array("H", [self._number]), array("q", [reading.time_ms]), array("q", [reading.value])
        return not self._tally.feed(*one, array("I", [reading.pack]), array("I", [reading.flags]))

    def _first(self, at_once: bool) -> bool:
        """Take the first reading of the counter. Returns False if it must wait for later readings."""
        reading = self.waiting[0]
        if reading.known is None or reading.value < 0:
            del self.waiting[0]
            return True
        values = [None if w.known is None else Decimal(w.known) for w in self.waiting]
        series = Series(values, self._resolution, self._modulus)
        if series.is_sentinel(Decimal(reading.value)):
            if len(values) < 2 and not at_once:
                return False
            if series.bad_start(Decimal(reading.value)):
                del self.waiting[0]
                return True
        self._tally.accept(self._number, reading.time_ms, reading.value, 0, reading.pack, reading.flags)
        del self.waiting[0]
        return True

    def _series(self, level: tuple[int, int, int]) -> tuple[Step, int]:
        """Return the step from the level to the first pending reading, and the number of other rises in the series."""
        past = [(t, v) for t, v in self._tally.past(self._number) if t < level[1]] + [(level[1], level[2])]
        times = [t for t, _ in past] + [w.time_ms for w in self.waiting]
        values = [Decimal(v) for _, v in past]
        values += [None if w.known is None else Decimal(w.known) for w in self.waiting]  # type: ignore[misc]
        seconds = [(t - times[0]) / 1000 for t in times]
        series = Series(values, self._resolution, self._modulus, seconds)
        steps, first = series.steps(), len(past)
        step = steps[first - 1]
        if first > 1 and steps[first - 2].stays and step.kind in (NORMAL, ROLLOVER):
            # The series takes the level for a spike, so it counts from an earlier level. But the kernel has accepted
            # the level and counted up to it.
            step = series.step_between(first - 1, first)
        return step, series.rises - (1 if self._rose(level) else 0)

    def _rose(self, level: tuple[int, int, int]) -> bool:
        known = self.waiting[0].known
        return known is not None and known > level[2]

    def _finding(self, level: tuple[int, int, int], at_once: bool) -> Finding | None:
        """Judge the first pending reading, and apply the verdict to the tally. None: the verdict is not certain yet."""
        reading, later = self.waiting[0], [w for w in self.waiting[1:] if w.known is not None]
        step, rises = self._series(level)
        kind, growth = step.kind, int(step.increment)
        late = at_once or len(self.waiting) >= MOST or self.waiting[-1].time_ms - reading.time_ms > PATIENCE_MS
        if kind == GLITCH and not step.stays and reading.known is not None:
            # the zero before this reading was invalid: the counter continues from this reading, and no growth is
            # counted
            kind = SWAP
        if kind == GLITCH:
            if not late and reading.known is not None and not self._is_glitch(reading.value, level[2], later):
                return None
            self._tally.carry(self._number, Flag.GLITCH)
            return Finding(GLITCH, reading.time_ms, reading.value, level, 0, 1, reading.time_ms)
        if not late and not self._certain(kind, level[2], reading.value, later, rises):
            return None
        if kind == ROLLOVER and reading.value == 0 and not any(w.value > 0 for w in later):
            kind, growth = RESET, 0  # no later reading is above zero, so this is a reset
        if kind == NORMAL and level[2] == 0 and not self._grows_so(reading, level[1], later):
            kind, growth = SWAP, 0  # the growth from zero is too fast: the zero may have been invalid
        if growth > MOST_GROWTH:
            kind, growth = SWAP, 0
        flags = reading.flags | _FLAGS.get(kind, Flag(0))
        counted = kind in (NORMAL, ROLLOVER)
        self._tally.accept(self._number, reading.time_ms, reading.value, growth, reading.pack, flags, counted)
        return Finding(kind, reading.time_ms, reading.value, level, growth, 1, reading.time_ms)

    @staticmethod
    def _grows_so(reading: PendingReading, since_ms: int, later: list[PendingReading]) -> bool:
        """Return True if the counter rose from zero about as fast as later, and without a silence in between."""
        pairs = [(a, b) for a, b in pairwise([reading, *later]) if b.time_ms > a.time_ms and b.value > a.value]
        paces = sorted(Fraction(b.value - a.value, b.time_ms - a.time_ms) for a, b in pairs)
        usual = paces[len(paces) // 2] if paces else Fraction(0)
        since = reading.time_ms - since_ms
        return since <= SILENCE_MS and reading.value <= ALIKE * usual * since

    def _is_glitch(self, value: int, level: int, later: list[PendingReading]) -> bool:
        """Return True if a glitch is certain.

        A jump far up may also be another meter. In this case later readings stay at the new level, or count on from it.
        """
        if value <= level or (self._modulus is not None and value >= self._modulus):
            return True
        gone = any(w.value < value for w in later)
        return gone or len(later) >= 2 * ALIKE or is_all_ones(Decimal(value) / self._resolution)

    def _certain(self, kind: str, level: int, value: int, later: list[PendingReading], rises: int) -> bool:
        """Return True if no later reading can change the finding."""
        if kind == ROLLOVER:  # close to a rollover, zeros may be invalid readings: the next value above zero decides
            return len(later) >= 1 and (value != 0 or later[-1].value > 0)
        # later readings must confirm the new level, and the usual growth of the counter must be known
        if value >= level:
            return len(later) >= 2 and rises >= 3
        moved = later[-1].value - value if later else 0
        return len(later) >= 3 and moved >= 3 * int(self._resolution)


def _joined(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Merge consecutive glitches into one."""
    run: Finding | None = None
    for finding in findings:
        if run is not None and run.kind == finding.kind == GLITCH:
            run = Finding(GLITCH, run.time_ms, run.value, run.before, 0, run.count + 1, finding.time_ms)
            continue
        if run is not None:
            yield run
        run = finding
    if run is not None:
        yield run
