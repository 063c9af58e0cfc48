"""Writes ring slices as canonical SenML JSON (RFC 8428 in the form of RFC 8785), and accounts for due readings."""
from collections.abc import Sequence
from typing import NamedTuple
from typing_extensions import Buffer
from ext.ring import Ring

class PointLayout:
    """The JSON of points, made once for all streams with the same points. They must be sealed one after another."""

    def __init__(
        self,
        # name, "u" | "du" | "", unit, kind code (0 gauge 1 counter 2 state 3 text), pace
        points: Sequence[tuple[str, str, str, int, int]],
        periods_ms: Sequence[int],  # by pace number (16 at most); 0: points of this pace are never due
        phase_ms: int = 0,  # ticks are due at phase_ms + n * period
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
    # The slice covers [from_ms, reached_ms). If reached_ms is below to_ms, max_bytes cut the slice after a whole tick.
    # If reached_ms is from_ms, even the first tick is too large: seal this tick in parts, with points=(lo, hi).
    complete: bool  # every due tick of every gauge and counter in [from_ms, reached_ms) has a record
    due: int  # due readings in [from_ms, reached_ms)
    grid: bytes
    # b"" if complete. Else one byte for each due tick in [from_ms, reached_ms): 0 if nothing is known, 1 for a reading,
    # >= 128 for a gap with this reason. The gauges and counters (of ``points``, if given) follow in the table's order.
    used: int  # this many leading ``positions`` are done: overwritten, or with a tick before reached_ms
    lost: int  # how many of these were overwritten in the ring before they could be read
    tally: dict[int, int]
    # result -> number of due readings with it; their sum is ``due``. Results: -1 nothing is known, 0 a good reading,
    # 1 to 6 a reading with this quality, >= 128 a gap with this reason

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

    The first SenML record has ``bn`` and ``bt``, the read time in UTC seconds, cut to whole milliseconds. Each answer
    with another read time begins with a new ``bt``. States and texts have no due ticks: they are written only if they
    changed (see Table). If no double holds a value of more than 15 significant digits exactly, ``x`` has the exact
    decimal beside the rounded ``v``. The device's own time for a value goes into ``mt``, a text into ``vs``, and the
    quality into ``q``: suspect range frozen clock estimated substituted.

    A due tick never has two records: of two values for the same point and tick, the later one is dropped. So is a
    gauge's or counter's value at a tick at which its pace is not due. A reading replaces a gap at the same tick; of two
    gaps, the reason of the first one counts.

    With more than four positions, the kernel runs without the GIL. Meanwhile other threads must not seal a table of the
    same layout, or reset one: this raises RuntimeError. Raises ValueError for a position that is not committed, or if
    more than 64 Mi readings are due.
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
