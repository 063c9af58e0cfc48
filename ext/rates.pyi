"""Counters and gauges over time, and their way into intervals."""
from array import array
from typing import Final
from typing_extensions import Buffer

from ext.ring import Ring

STATE_VERSION: Final[int]  # of what ``CounterKernel.state`` gives
SLOT_BYTES: Final[int]  # of a counter's slot with its past: differs where another compiler lays it out otherwise

Mark = tuple[int, int, int]  # pack, read time in UTC ms, value
Done = tuple[
    int,  # slot
    int,  # start of the interval, UTC ms
    int,  # end
    int,  # flags
    int,  # amount of a counter, thousandths of a count
    int,  # ms covered: between two good readings of one counter
    int,  # of these in steps longer than max_gap
    int,  # good readings within [start, end)
    Mark | None,  # the last reading at or before the start, or the first within
    Mark | None,  # the first reading at or after the end, or the last within
    int | None,  # gauge: lowest value read within
    int | None,  # highest
    int,  # gauge: area above zero, in 1/2000 of value * ms
    int,  # and below
    int | None,  # highest growth of a sliding window that ends within; in the unit of amount, or of area (net)
    int | None,  # and of a standing one
]

class CounterKernel:
    """Counters and gauges of one stream on their way through intervals: a slot each, all numbers whole.

    An amount is the growth of a counter, cut at the boundaries by straight lines between readings. Each part is rounded
    down to a thousandth of a count and the parts of a step add up to it exactly: nothing is lost or made by cutting.
    What is not plain growth is given back, to be judged by somebody who can wait for the next readings.
    """

    def __init__(self, count: int) -> None:
        """``count`` slots, none in use."""
    def configure(
        self,
        number: int,
        kind: int,  # 0 unused, 1 counter, 2 gauge
        resolution: int = 1,  # what a count of the device is worth
        modulus: int = 0,  # where the counter starts again; 0: not known
        max_gap_ms: int = 300_000,  # a counter's longer steps are marked as spread, a gauge's are not covered
        period_ms: int = 0,  # of the demand window; 0: none
        slip_ms: int = 0,  # divides it into at most 60 steps
    ) -> None:
        """Make a slot new. IndexError, ValueError."""
    def bounds(self, bounds: Buffer, offset_ms: int = 0) -> None:
        """Boundaries of intervals, const int64_t[::1], growing; every slot must stand in one of the intervals.

        ``offset_ms``: local time minus UTC, for windows that stand. ValueError."""
    def feed(self, numbers: Buffer, times_ms: Buffer, values: Buffer, packs: Buffer, flags: Buffer) -> list[int]:
        """Take in readings in order of time: uint16_t slots, int64_t UTC ms, int64_t values, uint32_t, uint32_t.

        Returns the indexes of readings that were not taken in: those other than plain growth (the first of all, a
        fall, a rise beyond ten times the usual and ten counts), all that follow in the same slot (it is held then),
        and those outside of the boundaries. A fall of at most ten counts is plain: the level stays until it is passed.
        """
    def accept(
        self, number: int, time_ms: int, value: int, growth: int, pack: int, flags: int = 0, covered: bool = True
    ) -> None:
        """Take in a reading that was judged: the counter grew by ``growth``; -1: a wobble, the level stays.

        ``covered`` False: nothing is known of the time between it and the one before. ValueError outside of bounds."""
    def hold(self, number: int, held: bool) -> None:
        """Whether ``feed`` gives back all readings of a slot."""
    def carry(self, number: int, flags: int) -> None:
        """Flags for the cells that the next step touches."""
    def level(self, number: int) -> Mark | None:
        """Where a slot stands: pack, time (on the clock of now) and value; None before the first reading."""
    def past(self, number: int) -> list[tuple[int, int]]:
        """(time, value) of the last levels that were reached by growth, oldest first; at most 8."""
    def step(self, by_ms: int) -> None:
        """The clock was set by so much. The last reading of each slot moves along. ValueError if out of bounds."""
    def cut_off(self, number: int) -> None:
        """Close what is open; the next reading is the first of another counter."""
    def take(self) -> list[Done]:
        """Cells that were closed since the last call, in the order of closing."""
    def open(self, number: int) -> Done | None:
        """The open cell as it is."""
    def state(self, number: int) -> bytes:
        """All of a slot, for ``restore``. Of this machine's layout and STATE_VERSION."""
    def restore(self, number: int, state: Buffer) -> None:
        """Put a slot back, after ``configure`` and ``bounds``. ValueError if it is of another counter or does not fit.

        Where its demand window is another one, that begins anew."""

def gather(
    ring: Ring,
    positions: Buffer,  # const uint64_t[::1], record positions of one table in time order
    slot_of: Buffer,  # const int32_t[::1]: by point number, -1: not wanted
    wanted: Buffer,  # const int64_t[:, ::1]: by slot exponent, period and phase in ms (period 0: always due)
    from_ms: int,
    to_ms: int,
) -> tuple[array[int], array[int], array[int], bytes, int]:
    """(slots, read times in UTC ms, values, qualities, records overwritten) of ticks in ``[from_ms, to_ms)``.

    The same readings as a pack of this stretch holds, in the same order. Values are in ``10**exponent`` of their slot,
    half to even; 2**63 - 1 where one does not fit. IndexError, ValueError."""
