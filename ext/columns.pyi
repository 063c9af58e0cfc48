"""Pages of intervals: runs of whole numbers taken apart, and added by stretch of time without an object a number."""

from array import array
from typing import Final
from typing_extensions import Buffer

FAR: Final[int]  # counts; a growth of so much is a jump to another level

class Runs:
    """Runs of whole numbers in a body that is kept, one number a row. The body is not copied."""

    def __init__(self, body: bytes, head: int, rows: int, count: int) -> None:
        """``count`` codes begin at ``head``; behind them lie the runs, byte plane by byte plane, the lowest first.

        A code is 0 (all zero, no bytes), or 1 to 4: numbers of 1, 2, 4 or 8 bytes with a sign. ValueError where these
        and the body do not agree to the last byte."""
    def get(self, number: int, differences: bool = False) -> array[int]:
        """A run as int64; where ``differences`` are kept, their sums from row to row. IndexError."""

def restore(known: Buffer, amount: Buffer, first: Buffer, last: Buffer) -> None:
    """Four runs of a column made whole in place, all int64_t[::1] of one length: the way back from what a page keeps.

    A page keeps of a reading at the start its distance to the last one at an end, and of a counter's amount twice its
    distance to 1000 times the growth between ends (none from a growth of ``FAR`` on) + 1. Rows where ``known`` is 0 are
    passed over, their ``last`` becomes 0. Beyond 64 bits numbers wrap: a page that was written has none. ValueError."""

def restore_window(kept: Buffer, amount: Buffer) -> None:
    """A column's demands made whole in place, int64_t[::1]: kept is twice their distance to the amount + 1, or 0."""

class Sums:
    """What a column, or several that are worth the same, came to by stretch of time. Exact: sums have 128 bits."""

    def __init__(self, count: int, flaw: int) -> None:
        """``count`` stretches; amounts that carry a flag of ``flaw`` are also counted as flawed. ValueError."""
    def add(
        self,
        rows: Buffer,  # const int32_t[::1], rows that count, each once
        places: Buffer | None,  # const int32_t[::1], the stretch of each; None: all in the first
        known: Buffer,  # const int64_t[::1], by row of the page as all that follow: 0, or flags + 1
        amount: Buffer,
        length: Buffer,  # ms
        lack: Buffer,  # of it not covered, ms
        also: int = 0,  # flags that all rows have
    ) -> int:
        """Add the rows that are known; gives how many these were. ValueError, IndexError: nothing was added."""
    def get(self, at: int = 0) -> tuple[int, int, int, int] | None:
        """(amount, flawed, covered ms, flags) of a stretch; None: nothing is known of it. IndexError."""
