"""Ring slices to canonical SenML JSON (RFC 8428 in the form of RFC 8785), with an account of what was due."""
from collections.abc import Sequence
from typing import NamedTuple
from typing_extensions import Buffer
from ext.ring import Ring

class PointLayout:
    """Points, rendered once for all streams that have the same ones. Of its tables, one is sealed at a time."""

    def __init__(
        self,
        # name, "u" | "du" | "", unit, kind code (0 gauge 1 counter 2 state 3 text), pace
        points: Sequence[tuple[str, str, str, int, int]],
        periods_ms: Sequence[int],  # by pace number (16 at most); 0: not on a grid, never due
        phase_ms: int = 0,
    ) -> None: ...

class Table:
    """A stream's points. Holds what was last sent of states and texts: about a hundred bytes each."""

    def __init__(self, base_name: str, layout: PointLayout) -> None: ...  # "park7/gw01/inv1/"
    def reset(self) -> None:
        """Send all states and texts again (after a birth, hourly, after a pack that was not committed)."""

class Slice(NamedTuple):
    e: bytes  # the JSON array, b"[]" if empty
    records: int  # in it
    reached_ms: int
    # the slice covers [from_ms, reached_ms); < to_ms when max_bytes was met (cut on a tick boundary);
    # == from_ms when already the first tick is too large: then ask again with points=(lo, hi) parts
    complete: bool  # every due tick of every gauge and counter in [from_ms, reached_ms) has a record
    due: int  # due readings in [from_ms, reached_ms)
    grid: bytes
    # b"" if complete; else for each gauge and counter in table order (of ``points``, if given), a byte a due tick in
    # [from_ms, reached_ms): 0 nothing known, 1 a reading, >= 128 a gap reason
    used: int  # how many of ``positions`` lie wholly before reached_ms (a prefix), overwritten ones included
    lost: int  # of those, how many were overwritten in the ring before they could be read
    tally: dict[int, int]
    # how many due readings came to what, ``due`` in all: -1 nothing known, 0 good, 1 to 6 a quality, >= 128 a gap reason

def seal(
    ring: Ring,
    positions: Buffer,  # const uint64_t[::1], record positions of this table in time order; copied at once
    table: Table,
    from_ms: int,
    to_ms: int,
    max_bytes: int = 0,  # 0: no limit
    points: tuple[int, int] | None = None,  # only points lo <= n < hi (parts of one tick)
) -> Slice:
    """Membership is by tick: records with from_ms <= tick_ms < reached_ms, in the order of positions.

    The first SenML record carries ``bn`` and ``bt``; a later answer re-bases with ``bt`` when its read time differs
    (UTC seconds, cut to whole milliseconds). States and texts only where changed (Table); they carry no due ticks.
    Values with more than 15 significant digits that a double cannot hold have ``x`` with the exact decimal beside the
    rounded ``v``; one that a double holds (as what came from an f64) has none. The device's own time of a value goes into
    ``mt``. Text goes into ``vs``. Quality names:
    suspect range frozen clock estimated substituted, in ``q``. A later value for the same point and tick is dropped
    (never two records for one due tick), as is a gauge's or counter's value at a tick at which its pace is not due.
    A reading beats a gap of the same tick, the first gap's reason a later one's.

    Several positions are walked without the GIL; its layout is busy meanwhile (RuntimeError). ValueError on a position
    that is not committed, and where more than 64 Mi readings are due.
    """

def quote(text: str) -> bytes:
    """A JSON string as RFC 8785 writes it. ValueError on a lone surrogate."""

class RawJson(bytes):
    """Canonical JSON that is written already (a Slice's ``e``); ``dumps`` takes it as it is."""

def dumps(value: object) -> bytes:
    """Any JSON value (dict with str keys, list, tuple, str, int, float, bool, None, RawJson) in the form of RFC 8785.

    Slow road, for heads, births and events. Raises ValueError on NaN, infinities, integers beyond +-(2**53 - 1), lone
    surrogates, other types, and nesting deeper than 64."""

def number(mantissa: int, exponent: int) -> bytes:
    """mantissa * 10**exponent as RFC 8785 writes the double nearest to it (``-1500``, ``230.1``, ``1e-7``).

    ValueError beyond the largest double."""
