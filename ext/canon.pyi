"""Writes ring slices as canonical SenML JSON (RFC 8428 in the form of RFC 8785), and counts due readings by result."""
from collections.abc import Sequence
from typing import NamedTuple
from typing_extensions import Buffer
from ext.ring import Ring

class PointLayout:
    """The JSON of points, made once for all streams with the same points.

    These streams must be sealed one after another, never at the same time.
    """

    def __init__(
        self,
        # (name, member for the unit: "u", "du" or "" for none, unit, kind, pace number)
        # kind: 0 gauge, 1 counter, 2 state, 3 text
        points: Sequence[tuple[str, str, str, int, int]],
        periods_ms: Sequence[int],  # by number of the pace, at most 16; 0: points of this pace are never due
        phase_ms: int = 0,  # ticks are due at phase_ms + n * period
    ) -> None: ...

class Table:
    """The points of one stream. Remembers the last value sent of each state and text, about a hundred bytes each."""

    def __init__(self, base_name: str, layout: PointLayout) -> None: ...  # base_name: such as "park7/gw01/inv1/"
    def reset(self) -> None:
        """Let the next slice contain all states and texts again.

        This is needed after a birth, every hour, and after a pack that was not committed.
        """

class Slice(NamedTuple):
    e: bytes  # the JSON array, b"[]" if empty
    records: int  # number of records in ``e``
    reached_ms: int
    # The slice covers [from_ms, reached_ms). If reached_ms is below to_ms, max_bytes cut the slice after a whole tick.
    # If reached_ms equals from_ms, even the first tick is too large, and nothing is written. The caller must then seal
    # this tick in parts, with points=(lo, hi).
    complete: bool  # every due tick of every gauge and counter in [from_ms, reached_ms) has a record
    due: int  # number of due readings in [from_ms, reached_ms)
    grid: bytes
    # b"" if complete. Otherwise there is a row for each gauge and counter (only those of ``points``, if given), in the
    # order of the table. A row has one byte for each due tick in [from_ms, reached_ms): 0 if nothing is known, 1 for a
    # reading, >= 128 for a gap, whose reason is the byte.
    used: int  # number of ``positions`` at the beginning that are overwritten or have a tick before reached_ms
    lost: int  # number of ``used`` positions that were overwritten in the ring before they could be read
    tally: dict[int, int]
    # result -> number of due readings with this result; the sum of the numbers is ``due``. A result is -1 if nothing is
    # known, 0 for a good reading, 1 to 6 for a reading with this quality, >= 128 for a gap with this reason.

def seal(
    ring: Ring,
    positions: Buffer,  # const uint64_t[::1], positions of the table's records in time order; copied before the work
    table: Table,
    from_ms: int,
    to_ms: int,
    max_bytes: int = 0,  # 0: no limit
    points: tuple[int, int] | None = None,  # (lo, hi): only points lo <= n < hi, to seal a tick in parts
) -> Slice:
    """Write the records with from_ms <= tick_ms < reached_ms, in the order of positions.

    The members of a SenML record:
    - ``bn``: the base name; only the first record has it
    - ``bt``: the read time in UTC seconds, cut to whole milliseconds. The first record has it, and so does the first
      record of each answer with another read time.
    - ``v``: a number. If it has more than 15 significant digits and no double is equal to it, ``v`` is rounded, and
      ``x`` has the exact decimal.
    - ``vs``: a text
    - ``mt``: the device's own time for the value
    - ``q``: the quality: suspect, range, frozen, clock, estimated or substituted

    States and texts have no due ticks. They are written only if they changed (see Table).

    A due tick never has two records. Of two values for the same point and tick, the later one is dropped. The value of
    a gauge or counter is also dropped if its pace is not due at its tick. A reading replaces a gap at the same tick. Of
    two gaps at the same tick, the reason of the first one counts.

    With more than four positions, ``seal`` releases the GIL. If another thread meanwhile seals or resets a table of the
    same layout, that other call raises RuntimeError. Raises ValueError if a position is not committed, or if
    more than 64 Mi readings are due.
    """

def quote(text: str) -> bytes:
    """Return a text as a JSON string in the form of RFC 8785. Raises ValueError for a lone surrogate."""

class RawJson(bytes):
    """Canonical JSON that is already written (a Slice's ``e``); ``dumps`` inserts it unchanged."""

def dumps(value: object) -> bytes:
    """Return a JSON value in the form of RFC 8785.

    Values may be dict with str keys, list, tuple, str, int, float, bool, None and RawJson. This is slow, and meant for
    the small members of packs, for births and events. Raises ValueError for NaN, infinities, integers beyond +-(2**53 -
    1), lone surrogates, other types, and nesting deeper than 64."""

def number(mantissa: int, exponent: int) -> bytes:
    """Return the double nearest to mantissa * 10**exponent as RFC 8785 writes it (``-1500``, ``230.1``, ``1e-7``).

    Raises ValueError if the number is larger than the largest double."""

def split_pack(data: bytes, birth: bytes | None) -> tuple[bool, bytes, bytes, bytes] | None:
    """Separate the random values of a pack from the rest, which can be compressed.

    Returns (True if ``birth`` is left out, signature, ``prev``, rest). In the rest, the texts of the signature, of
    ``prev`` and, if it is left out, the member ``birth`` up to the end of its hash are missing. Returns None if the
    identical pack could not be restored from these values.

    Args:
        data: the pack, canonical JSON with its ``sig``.
        birth: hash of the birth in effect; it is left out if the pack begins with it. None: nothing is left out there.
    """
