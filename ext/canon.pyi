"""Writes ring slices as canonical SenML JSON (RFC 8428 in the form of RFC 8785), and accounts for due readings."""
from collections.abc import Sequence
from typing import NamedTuple
from typing_extensions import Buffer
from ext.ring import Ring

class PointLayout:
    """The JSON of points, made once for all streams with the same points. One of its tables is sealed at a time."""

    def __init__(
        self,
        # name, "u" | "du" | "", unit, kind code (0 gauge 1 counter 2 state 3 text), pace
        points: Sequence[tuple[str, str, str, int, int]],
        periods_ms: Sequence[int],  # by pace number (16 at most); 0: not on a grid, never due
        phase_ms: int = 0,
    ) -> None: ...

class Table:
    """A stream's points. Remembers the last value sent of each state and text, about a hundred bytes each."""

    def __init__(self, base_name: str, layout: PointLayout) -> None: ...  # "park7/gw01/inv1/"
    def reset(self) -> None:
        """Send all states and texts again (after a birth, hourly, after a pack that was not committed)."""

class Slice(NamedTuple):
    e: bytes  # the JSON array, b"[]" if empty
    records: int  # number of records in ``e``
    reached_ms: int
    # the slice covers [from_ms, reached_ms). reached_ms < to_ms: max_bytes cut the slice, at the end of a tick.
    # reached_ms == from_ms: even the first tick is too large; seal it in parts, with points=(lo, hi)
    complete: bool  # every due tick of every gauge and counter in [from_ms, reached_ms) has a record
    due: int  # due readings in [from_ms, reached_ms)
    grid: bytes
    # b"" if complete; else, for each gauge and counter in table order (of ``points``, if given), one byte for each due
    # tick in [from_ms, reached_ms): 0 nothing known, 1 a reading, >= 128 a gap reason
    used: int  # how many of ``positions`` lie wholly before reached_ms (a prefix), overwritten ones included
    lost: int  # of those, how many were overwritten in the ring before they could be read
    tally: dict[int, int]
    # number of due readings by result, ``due`` in all: -1 nothing known, 0 good, 1 to 6 a quality, >= 128 a gap reason

def seal(
    ring: Ring,
    positions: Buffer,  # const uint64_t[::1], record positions of this table in time order; copied at once
    table: Table,
    from_ms: int,
    to_ms: int,
    max_bytes: int = 0,  # 0: no limit
    points: tuple[int, int] | None = None,  # only points lo <= n < hi (parts of one tick)
) -> Slice:
    """Write the records with from_ms <= tick_ms < reached_ms, in the order of positions.

    The first SenML record has ``bn`` and ``bt``; a later answer has a new ``bt`` if its read time differs (UTC seconds,
    cut to whole milliseconds). States and texts are written only if they changed (see Table); they have no due ticks.
    If a value has more than 15 significant digits and no double holds it exactly, ``x`` has the exact decimal beside
    the rounded ``v``. The device's own time for a value goes into ``mt``, a text into ``vs``, and the quality into
    ``q``: suspect range frozen clock estimated substituted. Of two values for the same point and tick the later one is
    dropped, so that a due tick never has two records. A gauge's or counter's value at a tick at which its pace is not
    due is dropped too. A reading replaces a gap at the same tick; of two gaps, the first one's reason counts.

    With several positions, the walk runs without the GIL; meanwhile the layout is busy, and using it raises
    RuntimeError. Raises ValueError for a position that is not committed, or if more than 64 Mi readings are due.
    """

def quote(text: str) -> bytes:
    """A JSON string as RFC 8785 writes it. Raises ValueError for a lone surrogate."""

class RawJson(bytes):
    """Canonical JSON that is already written (a Slice's ``e``); ``dumps`` inserts it unchanged."""

def dumps(value: object) -> bytes:
    """Any JSON value (dict with str keys, list, tuple, str, int, float, bool, None, RawJson) in the form of RFC 8785.

    It is slow, and meant for heads, births and events. Raises ValueError for NaN, infinities, integers beyond
    +-(2**53 - 1), lone surrogates, other types, and nesting deeper than 64."""

def number(mantissa: int, exponent: int) -> bytes:
    """mantissa * 10**exponent as RFC 8785 writes the double nearest to it (``-1500``, ``230.1``, ``1e-7``).

    Raises ValueError beyond the largest double."""
