"""Divides the readings of counters and gauges into intervals."""
from array import array
from typing import Final
from typing_extensions import Buffer

from ext.ring import Ring

STATE_VERSION: Final[int]  # version of the bytes that ``CounterKernel.state`` returns
SLOT_BYTES: Final[int]  # size of a counter's slot with its past; a compiler with another layout gives another size

Mark = tuple[int, int, int]  # pack, read time in UTC ms, value
Done = tuple[
    int,  # slot
    int,  # start of the interval, UTC ms
    int,  # end of the interval, UTC ms
    int,  # flags
    int,  # amount of a counter, in thousandths of a count
    int,  # ms of the interval that lie between two good readings of one counter
    int,  # part of these ms that lies in steps longer than max_gap
    int,  # number of good readings within [start, end)
    Mark | None,  # the last reading at or before the start; if there is none, the first reading in the interval
    Mark | None,  # the first reading at or after the end; if there is none, the last reading in the interval
    int | None,  # lowest value of a gauge in the interval; None: there is none
    int | None,  # highest value of a gauge in the interval; None: there is none
    int,  # area of a gauge above zero, in 1/2000 of value * ms
    int,  # area of a gauge below zero, in the same unit
    int | None,  # highest growth in a sliding window that ends in the interval; for a gauge, the area above minus below
    int | None,  # highest growth in a window that begins at a fixed time and ends in the interval, likewise
]

class CounterKernel:
    """Divides the counters and gauges of one stream into intervals. Each of them has a slot. All values are integers.

    An amount is the growth of a counter. The growth between two readings is divided at the boundaries of intervals, in
    proportion to time. Each part is a whole number of thousandths of a count, and the parts add up exactly to the
    growth. Readings that are not plain growth are returned to the caller, who can wait for the next readings to judge
    them.
    """

    def __init__(self, count: int) -> None:
        """Make ``count`` slots; none is in use."""
    def configure(
        self,
        number: int,
        kind: int,  # 0 unused, 1 counter, 2 gauge
        resolution: int = 1,  # the value of one count of the device
        modulus: int = 0,  # the value at which the counter rolls over to 0; 0: unknown
        max_gap_ms: int = 300_000,  # longer steps of a counter are marked as spread; those of a gauge are not covered
        period_ms: int = 0,  # length of the demand window; 0: there is no window
        slip_ms: int = 0,  # step by which the sliding window moves; a period has at most 60 steps
    ) -> None:
        """Set up an empty slot. Raises IndexError or ValueError."""
    def bounds(self, bounds: Buffer, offset_ms: int = 0, change_ms: int = 0, later_ms: int | None = None) -> None:
        """Set the boundaries of intervals, const int64_t[::1] in ascending order. Raises ValueError.

        The open interval of each slot must begin at one of them. ``offset_ms``: local time minus UTC, which determines
        where fixed windows begin; from ``change_ms`` on it is ``later_ms`` (None: it does not change)."""
    def feed(self, numbers: Buffer, times_ms: Buffer, values: Buffer, packs: Buffer, flags: Buffer) -> list[int]:
        """Process readings in order of time: uint16_t slots, int64_t UTC ms, int64_t values, uint32_t, uint32_t.

        Returns the indexes of the readings that were not processed:
        - readings outside the boundaries
        - readings of a counter that are not plain growth: its very first reading, a fall, or a rise of more than ten
          counts and more than ten times the usual growth
        - all later readings of such a counter, because its slot is then held

        A fall of at most ten counts is plain: the level stays until a reading exceeds it.
        """
    def accept(
        self, number: int, time_ms: int, value: int, growth: int, pack: int, flags: int = 0, covered: bool = True
    ) -> None:
        """Process a reading that the caller has judged: the counter grew by ``growth``.

        ``growth`` -1: the counter went back a little, and its level stays. ``covered`` False: nothing is known about
        the time since the previous reading. Raises ValueError if the reading is outside the boundaries."""
    def hold(self, number: int, held: bool) -> None:
        """Set whether ``feed`` returns all readings of a slot without processing them."""
    def carry(self, number: int, flags: int) -> None:
        """Add flags to the cells that the next step touches."""
    def level(self, number: int) -> Mark | None:
        """Return the level of a slot: pack, time (on the present clock) and value. None before the first reading."""
    def past(self, number: int) -> list[tuple[int, int]]:
        """Return (time, value) of the last levels that were reached by growth, oldest first; at most 8."""
    def step(self, by_ms: int) -> None:
        """Apply a clock step: the time of the last reading of each slot changes by ``by_ms``.

        Raises ValueError if this time is then outside the boundaries."""
    def cut_off(self, number: int) -> None:
        """Close the open cell. The next reading is then the first one of another counter."""
    def take(self) -> list[Done]:
        """Return the cells that were closed since the last call, in the order of closing."""
    def open(self, number: int) -> Done | None:
        """Return the open cell of a slot with its present content; None if there is none."""
    def state(self, number: int) -> bytes:
        """Return the state of a slot, for ``restore``.

        Its format depends on STATE_VERSION and on the memory layout of this machine."""
    def restore(self, number: int, state: Buffer) -> None:
        """Restore a slot. Call ``configure`` and ``bounds`` first.

        If the slot now has another demand window, the window begins anew. Raises ValueError if the state is of another
        counter, or does not fit."""

def gather(
    ring: Ring,
    positions: Buffer,  # const uint64_t[::1], record positions of one table in time order
    slot_of: Buffer,  # const int32_t[::1]: by number of the point: its slot; -1: the point is not wanted
    wanted: Buffer,  # const int64_t[:, ::1]: by slot: exponent, period and phase in ms (period 0: it is always due)
    from_ms: int,
    to_ms: int,
) -> tuple[array[int], array[int], array[int], bytes, int]:
    """Return the readings of ticks in ``[from_ms, to_ms)`` from the ring.

    The result is (slots, read times in UTC ms, values, qualities, number of overwritten records). A pack of this time
    has the same readings in the same order. Values are in units of ``10**exponent`` of their slot, rounded
    half to even. A value that does not fit becomes 2**63 - 1. Raises IndexError or ValueError."""
