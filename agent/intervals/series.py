"""What happened between the readings of a counter: growth, rollover, reset, back step, glitch, swap.

The kernel (``ext.rates.Tally``) takes in plain growth by itself; everything else is judged here, for the running
agent (``agent.intervals.judge``) as for a person with a whole series in hand (``meterhouse decode counter``). Judging
needs what comes later: a fall that is taken back was a glitch, one that stays was not. Phantom energy is worse than
energy not counted: only growth and rollovers have an increment (# field pains 32 to 35).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median

NORMAL, ROLLOVER, RESET, BACK_STEP, GLITCH, SWAP = "normal", "rollover", "reset", "back_step", "glitch", "swap"
_ALL_ONES = tuple((1 << bits) - 1 for bits in (15, 16, 31, 32, 63, 64))
_NATURAL_WIDTHS = (1 << 16, 1 << 32)
FEW = 10  # this many times the usual step, or counts, is still usual
_HUGE = 1000  # this many times the usual step is not growth


@dataclass(frozen=True, slots=True)
class Step:
    """The way to one reading from the last good one before it."""

    index: int  # of the reading that the step ends at
    increment: Decimal
    kind: str


class Series:
    """Classifies the steps of one series.

    Args:
        values: the readings in order; None where there was none.
        resolution: what one count of the device is worth.
        modulus: where the counter starts again, in the unit of the values; None if unknown.
        seconds: when the readings were taken, from any epoch; None where nobody knows.
    """

    def __init__(
        self,
        values: Sequence[Decimal | None],
        resolution: Decimal,
        modulus: Decimal | None = None,
        seconds: Sequence[float] | None = None,
    ) -> None:
        self.values, self.resolution, self.modulus = values, resolution, modulus
        self.seconds = seconds
        there = [n for n, v in enumerate(values) if v is not None]
        self._rises: dict[int, Decimal] = {}  # by the index of the later reading, per second where times are known
        for before, index in itertools.pairwise(there):
            old, new = values[before], values[index]
            if old is not None and new is not None and new > old:
                self._rises[index] = (new - old) / self._span(before, index)
        self._pace = median(self._rises.values()) if len(self._rises) >= 3 else None

    @property
    def rises(self) -> int:
        """How many steps upward there are, of any kind."""
        return len(self._rises)

    def _span(self, before: int, index: int) -> Decimal:
        """Seconds between two readings, or steps where times are not known."""
        if self.seconds is None:
            return Decimal(index - before)
        return max(Decimal(self.seconds[index] - self.seconds[before]), Decimal("0.001"))

    def _usual(self, before: int, index: int) -> Decimal | None:
        """The growth that the rest of the series lets one expect from one reading to another."""
        return None if self._pace is None else self._pace * self._span(before, index)

    def steps(self) -> list[Step]:
        """One step for each reading after the first; also for a first one alone that is no reading at all."""
        found: list[Step] = []
        level = self.values[0] if self.values else None
        last = 0  # where ``level`` was read
        if level is not None and self.bad_start(level):
            level = None
            if len(self.values) == 1:
                return [Step(0, Decimal(0), GLITCH)]
        for index in range(1, len(self.values)):
            value = self.values[index]
            if value is None or value < 0 or (level is None and self.is_sentinel(value)):
                found.append(Step(index, Decimal(0), GLITCH))
            elif level is None:  # the first good reading: there is nothing to compare it with
                found.append(Step(index, Decimal(0), GLITCH))
                level, last = value, index
            else:
                step, stays = self._judge(last, index, level, value)
                found.append(step)
                if not stays:
                    level, last = value, index
        return found

    def _judge(self, last: int, index: int, level: Decimal, value: Decimal) -> tuple[Step, bool]:
        """(the step, whether the next one starts from the same level as this one)."""
        if value >= level:
            kind, increment = self._rise(last, index, level, value)
            return Step(index, increment, kind), kind == GLITCH and level > 0
        kind, increment = self._fall(last, index, level, value)
        # a wobble of a few counts keeps the highest reading, a glitch the last good one
        stays = kind == GLITCH or (kind == BACK_STEP and level - value <= FEW * self.resolution)
        return Step(index, increment, kind), stays

    def _rise(self, last: int, index: int, level: Decimal, value: Decimal) -> tuple[str, Decimal]:
        if self._is_spike(last, index, level, value):
            return GLITCH, Decimal(0)
        if self._is_unheard_of(last, index, value - level):
            return (SWAP if level > 0 else GLITCH), Decimal(0)  # from 0: it was the zero that was no reading
        return NORMAL, value - level

    def _is_unheard_of(self, last: int, index: int, rise: Decimal) -> bool:
        """Faster than anything else in the series by far: no growth."""
        others = [pace for place, pace in self._rises.items() if place != index]
        if len(others) < 3:
            return False
        pace = rise / self._span(last, index)
        return pace > _HUGE * median(others) and pace > FEW * max(others) and rise > _HUGE * self.resolution

    def _is_spike(self, last: int, index: int, level: Decimal, value: Decimal) -> bool:
        rise = value - level
        if self.modulus is not None and rise > self.modulus / 2:
            return True
        if self.is_sentinel(value) and level < value * 9 / 10:
            return True
        later = next((v for v in self.values[index + 1 :] if v is not None and v < value), None)
        if later is None or later < level:
            return False
        if self.is_sentinel(value):
            return True  # near a counter's end all ones are no large rise; what follows tells
        usual = self._usual(last, index)
        unusual = usual is None or rise > FEW * max(usual, self.resolution)
        return unusual and rise > FEW * self.resolution and FEW * (later - level) <= value - later

    def _fall(self, last: int, index: int, level: Decimal, value: Decimal) -> tuple[str, Decimal]:
        fall = level - value
        small = fall <= FEW * self.resolution and value > 0
        if not small and self._returns(last, index, level, value):
            return GLITCH, Decimal(0)
        passed_end = self._rollover(last, index, level, value)
        if passed_end is not None:
            return ROLLOVER, passed_end
        usual = self._usual(last, index) or Decimal(0)
        if value == 0:
            kind = RESET
        elif small or FEW * fall <= level:
            kind = BACK_STEP
        else:
            kind = RESET if value <= max(3 * usual, level / 100, self.resolution) else SWAP
        return kind, Decimal(0)

    def _returns(self, last: int, index: int, level: Decimal, value: Decimal) -> bool:
        """Does a later reading jump back to about ``level``? Growth that gets there by itself is no return."""
        before = value
        share = 20 if level >= _HUGE * self.resolution else 100
        for place in range(index + 1, len(self.values)):
            later = self.values[place]
            if later is None:
                continue
            if later - before > (level - value) / 2:
                bound = max(level / share, FEW * (self._usual(last, place) or Decimal(0)), 2 * self.resolution)
                return -2 * self.resolution <= later - level <= bound
            if later - value > max(2 * self.resolution, (level - value) / 50):
                return False  # it lives on from where it fell to
            before = later
        return False

    def _rollover(self, last: int, index: int, level: Decimal, value: Decimal) -> Decimal | None:
        """The increment, if the counter may have passed its end: it was near it, and went on a little."""
        modulus = self.modulus
        if modulus is None:
            near = (Decimal(w) * self.resolution for w in _NATURAL_WIDTHS)
            modulus = next((m for m in near if m * 199 / 200 < level < m and value < m / 200), None)
        if modulus is None or level >= modulus:
            return None
        increment = value + modulus - level
        usual = self._usual(last, index)
        bound = modulus / FEW
        if usual is not None:
            bound = max(min(bound, 2 * FEW * usual), modulus / _HUGE)
        return increment if increment <= bound else None

    def is_sentinel(self, value: Decimal) -> bool:
        """All ones of a usual width: what devices send for "not available"."""
        raw = value / self.resolution
        return raw == raw.to_integral_value() and int(raw) in _ALL_ONES

    def bad_start(self, value: Decimal) -> bool:
        """Is the first reading none? Negative, or all ones that the next reading does not agree with."""
        later = next((v for v in self.values[1:] if v is not None), None)
        if value < 0:
            return True
        if not self.is_sentinel(value):
            return False
        return later < value * 9 / 10 if later is not None else int(value / self.resolution) >= _ALL_ONES[2]
