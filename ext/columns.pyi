"""Decodes runs of integers in pages of intervals, and adds them up by stretch of time, without an object per number."""

from array import array
from typing import Final
from typing_extensions import Buffer

FAR: Final[int]  # a growth of this many counts or more is a jump to another level

class Runs:
    """Runs of integers in a body. A run has one number per row. The body is not copied."""

    def __init__(self, body: bytes, head: int, rows: int, count: int) -> None:
        """``count`` codes begin at ``head``, and the runs follow them, one for each code.

        A run first has the lowest bytes of all its numbers, then the next higher byte of each number, and so on. Code 0
        means a run of zeros, which has no bytes. Codes 1 to 4 mean signed numbers of 1, 2, 4 or 8 bytes. Raises
        ValueError if the body does not have exactly the size that follows from codes and rows."""
    def get(self, number: int, differences: bool = False) -> array[int]:
        """Return a run as int64 numbers. Raises IndexError.

        ``differences``: the run has the differences from row to row, and the result is their running sum."""

def restore(known: Buffer, amount: Buffer, first: Buffer, last: Buffer) -> None:
    """Decode four runs of a column in place, all int64_t[::1] of one length. Raises ValueError.

    A page stores these values, where "previous" means the previous row that is known:
    - ``first``: the difference to the ``last`` of the previous row; in the first known row, to its own ``last``
    - ``amount`` of a counter: 2 * d + 1, where d is the amount minus 1000 times the growth. The growth is ``last``
      minus the ``last`` of the previous row; in the first known row, minus its own ``first``. If the growth is ``FAR``
      or more, d is the amount itself.

    Rows with ``known`` 0 are skipped, and their ``last`` becomes 0. Numbers beyond 64 bits wrap, but no page that the
    agent wrote has such numbers."""

def restore_window(kept: Buffer, amount: Buffer) -> None:
    """Decode the demands of a column in place, int64_t[::1]. ``amount``: the decoded amounts.

    A page stores a demand as 2 * (demand - amount) + 1. If there is no demand, it stores 0, which stays 0."""

class Sums:
    """Sums by stretch of time, of one column or of several columns with the same unit of counts.

    They have 128 bits, so they are exact."""

    def __init__(self, count: int, flaw: int) -> None:
        """Make ``count`` stretches. Amounts with any flag of ``flaw`` also count as flawed. Raises ValueError."""
    def add(
        self,
        rows: Buffer,  # const int32_t[::1], the rows to add, each once
        places: Buffer | None,  # const int32_t[::1], the stretch of each of these rows; None: all in the first stretch
        # This and the next three are const int64_t[::1], with one number for each row of the page.
        known: Buffer,  # 0: the row is unknown; otherwise flags + 1
        amount: Buffer,
        length: Buffer,  # ms
        lack: Buffer,  # part of the length that is not covered, ms
        also: int = 0,  # more flags, which apply to all rows
    ) -> int:
        """Add the known rows. Returns their number. After a ValueError or IndexError, nothing was added."""
    def get(self, at: int = 0) -> tuple[int, int, int, int] | None:
        """Return (amount, flawed amount, covered ms, flags) of a stretch; None if it has no known row.

        Raises IndexError."""
