"""Pages of intervals: decodes runs of integers, and adds them by stretch of time without an object per number."""

from array import array
from typing import Final
from typing_extensions import Buffer

FAR: Final[int]  # counts; a growth of this much or more is a jump to another level

class Runs:
    """Runs of integers in a body, with one number per row. The body is kept, not copied."""

    def __init__(self, body: bytes, head: int, rows: int, count: int) -> None:
        """``count`` codes begin at ``head``; the runs follow. A run has the lowest bytes of all its numbers first, then
        all next higher bytes, and so on.

        Code 0 means a run of zeros without any bytes; codes 1 to 4 mean signed numbers of 1, 2, 4 or 8 bytes. Raises
        ValueError if the body has not exactly the size that codes and rows give."""
    def get(self, number: int, differences: bool = False) -> array[int]:
        """A run as int64. ``differences``: the run has differences from row to row; return their sums. IndexError."""

def restore(known: Buffer, amount: Buffer, first: Buffer, last: Buffer) -> None:
    """Decode four runs of a column in place, all int64_t[::1] of one length.

    A page stores ``first`` as its distance from the ``last`` of the known row before (in the first known row, from its
    own ``last``). It stores a counter's ``amount`` as 2 * d + 1. Here d is the amount minus 1000 times the growth:
    the difference of ``last`` from that of the known row before (in the first known row, from ``first``). If the
    growth is ``FAR`` or more, d is the amount itself. Rows with ``known`` 0 are skipped, and their ``last`` becomes 0.
    Numbers beyond 64 bits wrap, but no written page has any. Raises ValueError."""

def restore_window(kept: Buffer, amount: Buffer) -> None:
    """Decode a column's demands in place, int64_t[::1].

    A page stores a demand as 2 * (demand - amount) + 1, and 0 if there is no demand, which stays 0."""

class Sums:
    """Sums by stretch of time, of one column or of several with equal counts. With 128 bits they are exact."""

    def __init__(self, count: int, flaw: int) -> None:
        """``count`` stretches. Amounts with any flag of ``flaw`` also count as flawed. Raises ValueError."""
    def add(
        self,
        rows: Buffer,  # const int32_t[::1], the rows to add, each once
        places: Buffer | None,  # const int32_t[::1], the stretch of each of these rows; None: all in the first stretch
        known: Buffer,  # const int64_t[::1], by row of the page like the buffers below: 0 (unknown), or flags + 1
        amount: Buffer,
        length: Buffer,  # ms
        lack: Buffer,  # part of the length that is not covered, ms
        also: int = 0,  # flags that apply to all rows in addition
    ) -> int:
        """Add the known rows; returns their number. After a ValueError or IndexError nothing was added."""
    def get(self, at: int = 0) -> tuple[int, int, int, int] | None:
        """(amount, flawed, covered ms, flags) of a stretch; None: it has no known row. Raises IndexError."""
