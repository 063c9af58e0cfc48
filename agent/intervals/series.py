"""Classifies the steps between the readings of a counter: growth, rollover, reset, back step, glitch, swap.

The counter kernel (``ext.rates``) accepts plain growth by itself. All other steps are judged here, both for the
running agent (``agent.intervals.anomalies``) and for a person with a whole series (``meterhouse decode counter``). The
readings after a step decide what it was: a fall was a glitch if the counter comes back, but not if it stays down.
Counting energy that was never used is a worse error than not counting energy that was used. So only growth and
rollovers have an increment (field pains 32 to 35).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from agent.intervals.growth_rates import FEW, HUGE, GrowthRates

NORMAL, ROLLOVER, RESET, BACK_STEP, GLITCH, SWAP = "normal", "rollover", "reset", "back_step", "glitch", "swap"
_NONE = Decimal(0)
_MOST_AT_ONCE = 10**9  # without other evidence, a larger step in counts is not believed
# (c, n): during a glitch, a level of at least c counts may grow by 1/n of itself; a level below all c may grow by 1/100
_SHARES = (HUGE, 10), (FEW * FEW, 40)
_NEXT = 3  # a glitch must end within this number of readings, unless other evidence decides


@dataclass(frozen=True, slots=True)
class Step:
    """The step from the last good reading to the reading with this index."""

    index: int
    increment: Decimal
    kind: str
    stays: bool = False  # True: the next step starts from the same level, not from this reading


class Series:
    """Classifies the steps of one series.

    Args:
        values: the readings in order; None where there was no reading.
        resolution: the value of one count of the device.
        modulus: the value at which the counter rolls over to 0; None if unknown.
        seconds: the times of the readings since any epoch, in ascending order; None if they are not known.
    """

    def __init__(
        self,
        values: Sequence[Decimal | None],
        resolution: Decimal,
        modulus: Decimal | None = None,
        seconds: Sequence[float] | None = None,
    ) -> None:
        self.values, self.resolution, self.modulus = values, resolution, modulus
        self._rates = GrowthRates(values, resolution, seconds, self._is_none)
        self._lower = _next_lower(values)
        # arguments and result of the last call of ``_returns``
        self._last_return: tuple[int, int, Decimal, Decimal | None] | None = None

    @property
    def rises(self) -> int:
        """The number of upward steps that give a growth rate."""
        return len(self._rates.of)

    def steps(self) -> list[Step]:
        """Return one step for each reading after the first. A series of one invalid reading has one step too."""
        found: list[Step] = []
        level = self.values[0] if self.values else None
        last = 0  # index of the reading that gave ``level``
        if level is None or self.bad_start(level):
            level = None
            if len(self.values) == 1:
                return [Step(0, _NONE, GLITCH)]
        for index in range(1, len(self.values)):
            value = self.values[index]
            if level is not None and value is not None:
                found.append(self._judge(last, index, level, value))
                if not found[-1].stays:
                    level, last = value, index
                continue
            found.append(Step(index, _NONE, GLITCH))
            again = value == self.values[index - 1]  # True: the previous reading had the same invalid value
            if value is not None and not again and not self.bad_start(value, index):
                level, last = value, index  # the first good reading; there is no earlier one to compare it with
        return found

    def step_between(self, last: int, index: int) -> Step:
        """Return the step from the reading ``last`` to ``index``, even if ``steps`` takes ``last`` for a glitch."""
        level, value = self.values[last], self.values[index]
        if level is None or value is None:
            return Step(index, _NONE, GLITCH, True)
        return self._judge(last, index, level, value)

    def _judge(self, last: int, index: int, level: Decimal, value: Decimal) -> Step:
        if value < level:
            return self._down(last, index, level, value)
        if self._is_spike(last, index, level, value):
            return Step(index, _NONE, GLITCH, True)
        if self._is_unheard_of(last, index, level, value):  # GLITCH, because the zero before this reading was invalid
            return Step(index, _NONE, GLITCH if level == 0 else SWAP)
        return Step(index, value - level, NORMAL)

    def _down(self, last: int, index: int, level: Decimal, value: Decimal) -> Step:
        if value < 0 <= level:
            end = signed_end(level, value, self.resolution, self.modulus)
            return Step(index, _NONE, GLITCH, True) if end is None else Step(index, value + end - level, ROLLOVER)
        if 0 < value < level * 9 / 10 and self.is_sentinel(value) and not self._lives_at(index, value):
            return Step(index, _NONE, GLITCH, True)
        kind, increment = self._fall(last, index, level, value)
        # after a glitch or a fall of a few counts, the next step starts from the previous level, not from this reading
        stays = kind == GLITCH or (kind == BACK_STEP and level - value <= FEW * self.resolution)
        return Step(index, increment, kind, stays)

    def _is_none(self, level: Decimal, value: Decimal, index: int) -> bool:
        """Return True if ``value`` is invalid for a counter at ``level``: below zero, beyond its end, or all ones."""
        if value < 0 <= level:
            return signed_end(level, value, self.resolution, self.modulus) is None
        if self.modulus is not None and level < self.modulus <= value:
            return True
        if self.modulus is not None and value - level > self.modulus / 2 and level > 0:
            return not self._lives_at(index, value)
        if level >= value * 9 / 10:
            return False
        raw = value / self.resolution
        return is_all_ones(raw) or (is_nearly_full(raw) and not self._lives_at(index, value))

    def _lives_at(self, index: int, value: Decimal) -> bool:
        """Return True if the counter keeps counting from ``value``.

        An invalid value would stay the same, or disappear.
        """
        highest, readings = value, 0
        for later in self.values[index + 1 : index + 2 * _NEXT]:
            if later is not None:
                if later < highest:
                    break
                highest, readings = later, readings + 1
        return readings >= _NEXT and highest > value

    def _is_unheard_of(self, last: int, index: int, level: Decimal, value: Decimal) -> bool:
        """Return True if this rise is far faster than all other rises in the series.

        If there are no others, return True if the rise is far larger than the level.
        """
        rise = value - level
        if rise <= HUGE * self.resolution:
            return False
        count, middle, fastest = self._rates.others(index)
        span = self._rates.span(last, index)
        if level == 0 and not any(v is not None and v > 2 * value for v in self.values[:last]):
            # No earlier reading was far above, so the zero may be invalid. Then the time since the zero is not used,
            # because a long time would make the rise look slow.
            span = min(span, self._rates.rhythm)
        if count and rise <= FEW * fastest * span:
            return False
        if rise > _MOST_AT_ONCE * self.resolution:
            return True
        if level > 0 and count >= 2:
            return rise > HUGE * middle * span
        return rise > HUGE * level

    def _is_spike(self, last: int, index: int, level: Decimal, value: Decimal) -> bool:
        if self._is_none(level, value, index):
            return True
        place = self._lower[index]
        if place is None:
            return False
        if level == 0:  # a later zero proves nothing, because it may be a reset, or invalid like the first zero
            return self._is_blip(last, index, value)
        while place is not None:
            later = self.values[place] or _NONE
            back = later if later >= level else self._returns(last, place, level, later)
            # The counter did not come back. This was a spike and then a reset, if the counter fell soon and had risen
            # far too fast.
            if back is None:
                return place - index <= _NEXT and self._is_unheard_of(last, index, level, value)
            # Near the end of a counter, a value of all ones may be the result of a small rise. Then later readings
            # decide.
            if self.is_sentinel(value) or self._came_back(last, index, level, max(level, back)):
                return True
            if place - index >= _NEXT or later < level:
                break
            # the reading at ``place`` may be another, lower spike: look at the next reading that is lower still
            place = self._lower[place]
        return False

    def _came_back(self, last: int, index: int, level: Decimal, later: Decimal) -> bool:
        """Return True if a rise was too large, and was almost completely reversed.

        The counter must have continued from the lower level.
        """
        value = self.values[index] or level
        rise, usual = value - level, self._rates.usual(last, index)
        if usual is not None and rise <= FEW * usual:
            return False
        back = rise > FEW * self.resolution and FEW * (later - level) <= value - later
        return back and not self._lives_at(index, value)

    def _is_blip(self, last: int, index: int, value: Decimal) -> bool:
        """Return True if a counter at zero showed another value for one reading only."""
        around = [self.values[n] for n in (index - 2, index - 1, index + 1, index + 2) if 0 <= n < len(self.values)]
        if len(around) < 3 or around[-2] != 0:
            return False
        rests = len(around) == 4 and not any(around) and value > FEW * self.resolution
        return rests or self._is_unheard_of(last, index, _NONE, value)

    def _fall(self, last: int, index: int, level: Decimal, value: Decimal) -> tuple[str, Decimal]:
        fall = level - value
        small = fall <= FEW * self.resolution and (2 * value > level or fall <= 2 * self.resolution) and value > 0
        if not small and self._returns(last, index, level, value) is not None:
            return GLITCH, _NONE
        passed_end = self._rollover(last, index, level, value)
        if passed_end is not None:
            return ROLLOVER, passed_end
        usual = self._rates.usual(last, index) or _NONE
        if value == 0:
            kind = RESET
        elif small or FEW * fall <= level:
            kind = BACK_STEP
        else:
            kind = RESET if value <= max(3 * usual, level / 100, FEW * self.resolution) else SWAP
        return kind, _NONE

    def _returns(self, last: int, index: int, level: Decimal, value: Decimal) -> Decimal | None:
        """Return the later reading that jumps back to about ``level``; None if there is none.

        If the counter reaches the level by normal growth, it did not jump back.
        """
        if self._last_return is not None and self._last_return[:3] == (last, index - 1, value):
            # reuse the last result, so that the readings after a night of zeros are searched only once
            answer = self._last_return[3]
        else:
            answer = self._looks_back(last, index, level, value)
        self._last_return = last, index, value, answer
        return answer

    def _looks_back(self, last: int, index: int, level: Decimal, value: Decimal) -> Decimal | None:
        before, above = value, 0
        share = next((n for least, n in _SHARES if level >= least * self.resolution), 100)
        for place in range(index + 1, len(self.values)):
            later = self.values[place]
            if later is None or self._is_none(level, later, place):
                continue
            if later - before > (level - value) / 2:
                bound = max(level / share, FEW * (self._rates.expected(last, place) or _NONE), 2 * self.resolution)
                if later - level <= bound:
                    return later if later - level >= -2 * self.resolution else None
                above += 1  # the reading may be a spike before the counter comes back
                if above >= _NEXT:
                    return None
                continue
            if later - value > max(2 * self.resolution, (level - value) / 50):
                return None  # the counter keeps counting from the lower level
            before = later
        return None

    def _rollover(self, last: int, index: int, level: Decimal, value: Decimal) -> Decimal | None:
        """Return the increment if the counter may have rolled over, from near its end to just above zero.

        None: it did not.
        """
        usual = self._rates.expected(last, index)
        if self.modulus is None:
            end = natural_end(level, value, self.resolution)
            if end is None or (usual is not None and value + end - level > max(2 * FEW * usual, FEW * self.resolution)):
                return None
            goes_on = value > 0 or any(
                v is not None and 0 < v < end / 200 for v in self.values[index + 1 : index + 1 + _NEXT]
            )
            return value + end - level if goes_on else None
        if level >= self.modulus:
            return None
        increment = value + self.modulus - level
        bound = min(self.modulus / FEW, _MOST_AT_ONCE * self.resolution)
        if usual is not None:
            bound = max(min(bound, 2 * FEW * usual), min(self.modulus / HUGE, _MOST_AT_ONCE * self.resolution / 100))
        return increment if increment <= bound else None

    def is_sentinel(self, value: Decimal) -> bool:
        """Return True if this is all ones of a usual width, or all nines. Devices send these for "not available"."""
        return is_all_ones(value / self.resolution)

    def bad_start(self, value: Decimal, index: int = 0) -> bool:
        """Return True if the first reading is invalid.

        It is invalid if it is negative, or all ones that the next different reading contradicts.
        """
        if value < 0:
            return True
        if not self.is_sentinel(value):
            return False
        place = self._next_other(index, value)
        if place is None:
            return not is_all_nines(value / self.resolution)
        later = self.values[place]
        assert later is not None
        if later > value:
            return later > FEW * value
        return later < value * 9 / 10 and not self._went_on(index, place, value, later)

    def _next_other(self, index: int, value: Decimal) -> int | None:
        """Return the index of the next reading with another value; None if there is none.

        A zero is returned only if no other value follows.
        """
        zero = None
        for place in range(index + 1, len(self.values)):
            later = self.values[place]
            if later == 0:
                zero = place if zero is None else zero
            elif later is not None and later > 0 and later != value:
                return place
        return zero

    def _went_on(self, index: int, place: int, value: Decimal, later: Decimal) -> bool:
        """Return True if a first reading of all ones or nines was the counter's last value before it rolled over."""
        nines, end = is_all_nines(value / self.resolution), value + self.resolution
        if self.modulus != end and not (nines and self.modulus is None):
            return False
        few = FEW * FEW * self.resolution
        bound = end / FEW if nines else few
        count, _, fastest = self._rates.others(index)
        if count:
            bound = max(min(end / FEW, _NEXT * fastest * self._rates.span(index, place)), FEW * self.resolution)
        return later + self.resolution <= (bound if self.modulus is not None else min(bound, few))


def _next_lower(values: Sequence[Decimal | None]) -> list[int | None]:
    """Return, for each reading, the index of the next reading that is lower and not negative; None if there is none."""
    found: list[int | None] = [None] * len(values)
    # indices of the readings that no lower reading has followed so far, in ascending order of values
    waiting: list[int] = []
    for place, value in enumerate(values):
        if value is None or value < 0:
            continue
        while waiting and (values[waiting[-1]] or 0) > value:
            found[waiting.pop()] = place
        waiting.append(place)
    return found


# --- where registers end

_BITS = (15, 16, 24, 31, 32, 48, 63, 64)
_NINES = frozenset(10**digits - 1 for digits in range(5, 20))
# all ones; also the lowest number of a signed register, which becomes 1 << 15 and so on if it is read as unsigned
_ONES = frozenset([(1 << bits) - 1 for bits in _BITS] + [1 << 15, 1 << 31, 1 << 63])
_ENDS = tuple(Decimal(1 << bits) for bits in (16, 24, 31, 32, 48, 63, 64))
_DECIMAL_ENDS = tuple(Decimal(10) ** digits for digits in range(4, 13))
_SIGNED_ENDS = tuple(Decimal(1 << bits) for bits in (16, 32, 64))
MOST_COUNTS = Decimal(1 << 65)  # more counts than any register can hold


def _whole(raw: Decimal) -> int | None:
    return int(raw) if 0 <= raw < MOST_COUNTS and raw == raw.to_integral_value() else None


def is_all_nines(raw: Decimal) -> bool:
    """Return True if this is a number of five or more nines.

    Invalid BCD digits are all nines, but so is the last count of a display.
    """
    return _whole(raw) in _NINES


def is_all_ones(raw: Decimal) -> bool:
    """Return True if this is all ones, all nines or the lowest signed number.

    Devices send these for "not available".
    """
    whole = _whole(raw)
    # too many counts for any register: this is an invalid float
    return raw >= MOST_COUNTS or whole in _ONES or whole in _NINES


def is_nearly_full(raw: Decimal) -> bool:
    """Return True if this is almost the end of a register (field pain 35).

    It may be all ones that a float has rounded, or an unsigned register a little below zero.
    """
    for bits in _BITS:
        end = 1 << bits
        away = end / 400 if bits in (31, 32, 63, 64) else max(end >> 12, 16)
        # A float may be rounded up, and so may a number like 4.3e8 that a person writes. Narrow registers are exact.
        if -away <= raw - end <= (away if bits > 30 else 0):
            return True
    return False


def natural_end(level: Decimal, value: Decimal, resolution: Decimal) -> Decimal | None:
    """Return the end that a counter of unknown width may have passed, from just before it to just after 0.

    None: it has passed no usual end.
    """
    for ends, share in ((_ENDS, 200), (_DECIMAL_ENDS, 1000)):
        for end in ends:
            modulus = end * resolution
            if modulus - modulus / share < level < modulus and value < modulus / share:
                return modulus
    return None


def signed_end(level: Decimal, value: Decimal, resolution: Decimal, modulus: Decimal | None) -> Decimal | None:
    """Return the range of a counter that is read as a signed number, if it went from its highest to its lowest number.

    None: it did not.
    """
    for end in _SIGNED_ENDS:
        span = end * resolution
        half = span / 2
        if modulus in (None, span) and half * 199 / 200 < level < half and -half <= value < -half * 199 / 200:
            return span
    return None
