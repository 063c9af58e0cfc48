"""Divides the course of counters and gauges into intervals."""
from array import array
from typing import Final
from typing_extensions import Buffer

from ext.ring import Ring

STATE_VERSION: Final[int]  # of the bytes that ``CounterKernel.state`` returns
SLOT_BYTES: Final[int]  # size of a counter's slot with its past; it differs if another compiler uses another layout

Mark = tuple[int, int, int]  # pack, read time in UTC ms, value
Done = tuple[
    int,  # slot
    int,  # start of the interval, UTC ms
    int,  # end
    int,  # flags
    int,  # amount of a counter, thousandths of a count
    int,  # ms covered: between two good readings of one counter
    int,  # part of the ms covered: in steps longer than max_gap
    int,  # good readings within [start, end)
    Mark | None,  # the last reading at or before the start; if there is none, the first reading within
    Mark | None,  # the first reading at or after the end; if there is none, the last reading within
    int | None,  # gauge: lowest value read within
    int | None,  # gauge: highest value read within
    int,  # gauge: area above zero, in 1/2000 of value * ms
    int,  # gauge: area below zero, in the same unit
    int | None,  # highest growth over a sliding window that ends within; of a gauge the net area, in its unit above
    int | None,  # the same for windows that begin at fixed times
]

class CounterKernel:
    """The counters and gauges of one stream, each in a slot, and the intervals that they pass. All values are integers.

    An amount is the growth of a counter. The growth between two readings is divided at the boundaries of intervals, in
    proportion to time. Parts are rounded down to a thousandth of a count, but the parts of a step add up to it exactly.
    Readings that are not plain growth are returned to the caller, who can wait for the next readings to judge them.
    """

    def __init__(self, count: int) -> None:
        """Make ``count`` slots; none is in use."""
    def configure(
        self,
        number: int,
        kind: int,  # 0 unused, 1 counter, 2 gauge
        resolution: int = 1,  # the step of the device's value
        modulus: int = 0,  # the value at which the counter rolls over to 0; 0: unknown
        max_gap_ms: int = 300_000,  # a counter's longer steps are marked as spread, a gauge's are not covered
        period_ms: int = 0,  # of the demand window; 0: none
        slip_ms: int = 0,  # step of the sliding window; at most 60 steps in a period
    ) -> None:
        """Set up an empty slot. Raises IndexError, ValueError."""
    def bounds(self, bounds: Buffer, offset_ms: int = 0) -> None:
        """Set the boundaries of intervals, const int64_t[::1], increasing. Each slot's open interval must begin at one.

        ``offset_ms``: local time minus UTC, for fixed windows. Raises ValueError."""
    def feed(self, numbers: Buffer, times_ms: Buffer, values: Buffer, packs: Buffer, flags: Buffer) -> list[int]:
        """Process readings in order of time: uint16_t slots, int64_t UTC ms, int64_t values, uint32_t, uint32_t.

        Returns the indexes of the readings that were not processed. These are readings outside the boundaries, and
        those that are not plain growth, such as a counter's very first reading, a fall, or a rise of more than ten
        counts and more than ten times the usual growth. The slot of such a counter is then held, so all its later
        readings are returned, too. A fall of at most ten counts is plain: the level stays until it is exceeded.
        """
    def accept(
        self, number: int, time_ms: int, value: int, growth: int, pack: int, flags: int = 0, covered: bool = True
    ) -> None:
        """Process a reading that the caller has judged: the counter grew by ``growth``; -1: a wobble, the level stays.

        ``covered`` False: nothing is known about the time since the reading before. ValueError if out of bounds."""
    def hold(self, number: int, held: bool) -> None:
        """Set whether ``feed`` returns all readings of a slot unprocessed."""
    def carry(self, number: int, flags: int) -> None:
        """Add flags to the cells that the next step touches."""
    def level(self, number: int) -> Mark | None:
        """The level of a slot: pack, time (on the present clock) and value; None before the first reading."""
    def past(self, number: int) -> list[tuple[int, int]]:
        """(time, value) of the last levels that were reached by growth, oldest first; at most 8."""
    def step(self, by_ms: int) -> None:
        """Apply a clock step: the last reading of each slot moves by ``by_ms``. Raises ValueError if out of bounds."""
    def cut_off(self, number: int) -> None:
        """Close the open cell; the next reading is the first of another counter."""
    def take(self) -> list[Done]:
        """Cells that were closed since the last call, in the order of closing."""
    def open(self, number: int) -> Done | None:
        """The open cell as it is."""
    def state(self, number: int) -> bytes:
        """The state of a slot, for ``restore``; its format depends on STATE_VERSION and on this machine's layout."""
    def restore(self, number: int, state: Buffer) -> None:
        """Restore a slot, after ``configure`` and ``bounds``. ValueError if it is of another counter or does not fit.

        If the slot now has another demand window, the window begins anew."""

def gather(
    ring: Ring,
    positions: Buffer,  # const uint64_t[::1], record positions of one table in time order
    slot_of: Buffer,  # const int32_t[::1]: by point number, -1: not wanted
    wanted: Buffer,  # const int64_t[:, ::1]: by slot: exponent, period and phase in ms (period 0: always due)
    from_ms: int,
    to_ms: int,
) -> tuple[array[int], array[int], array[int], bytes, int]:
    """(slots, read times in UTC ms, values, qualities, records overwritten) of ticks in ``[from_ms, to_ms)``.

    These are the readings of a pack of this time, in the same order. Values are in units of ``10**exponent`` of their
    slot, rounded half to even; 2**63 - 1 if a value does not fit. Raises IndexError, ValueError."""
