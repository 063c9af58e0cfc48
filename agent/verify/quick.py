"""Large packs read faster: a pack that repeats the one before in all but its numbers needs no object a reading.

What a strictly parsed pack of the stream was made of, between the numbers, is kept as a shape. A later pack is cut at
the same places (``ext/shape``, where it is installed); where all pieces between its numbers are those of the shape,
only what stands around the records is left to be parsed. Whatever is different in the least makes no sketch, and is
read the long way.

Why that is as strict: the cut ``},{"n":"`` cannot lie inside a text, where quotes are escaped, and a shape is only made
of records without objects and arrays inside. So a piece of a shape with a number behind it is the same record with
another value, whatever the number is; no name can be there twice. That the records are those of the pack's own ``e``
shows in that the name stands once around them, unescaped.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.verify.canonical import MAX_SAFE
from agent.verify.strict import MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS, Refused, parse_object
from agent.verify.table import Units

LEAST: Final = 32  # records that are worth it
MAX_STREAMS: Final = 10_000
MAX_BYTES: Final = 32 << 20  # of all shapes; devices of one kind share theirs
MAX_PACK: Final = 1 << 20  # larger ones are rare, and read the long way
MAX_AROUND: Final = 64 << 10  # bytes around the records
MAX_NAME: Final = 200
MAX_NUMBER: Final = 32  # characters on average
BETWEEN: Final = b'},{"n":"'
OPEN: Final = b'"e":[{'
STREAM: Final = b'"stream":"'
MOST: Final = MAX_SAFE - 1  # an integer beyond 2^53 may round to 2^53 itself
_OTHERS: Final = frozenset(("table", "records", "heads"))  # members of what is no pack, or a birth
_SCALARS: Final = frozenset((str, int, float))
PLAIN: Final = frozenset(("n", "u", "du", "q", "v"))  # labels whose values, but for ``v``, are the same in every pack


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """The pieces of a pack around its numbers."""

    pieces: tuple[bytes, ...]  # of plain records: from the name up to the number
    odd: tuple[int, ...]  # places of the others: the first, one with a time of its own, ...
    names: tuple[str, ...]  # of the records in the odd places
    counts: Mapping[str, int]  # of all
    readings: int
    units: Units  # of the plain ones
    size: int


@dataclass(frozen=True, slots=True)
class Sketch:
    """A pack whose plain records were not made into objects."""

    value: dict[str, Any]  # the pack, with an empty ``e``
    records: list[dict[str, Any]]  # those that are not plain, and the last plain one before some of them
    counts: Mapping[str, int]
    readings: int
    units: Units


class Quick:
    """The shapes of the packs that came last. Bounded in bytes."""

    def __init__(self) -> None:
        self._shapes: OrderedDict[tuple[object, ...], Shape] = OrderedDict()
        self._of: OrderedDict[str, tuple[Shape, int]] = OrderedDict()  # by stream; how often it did not fit in a row
        self.size_bytes = 0  # of all shapes that are kept

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All that are kept, the oldest first."""
        return tuple(self._shapes.values())

    def read(self, raw: bytes) -> Sketch | None:
        """A sketch of a pack; None where it must be read the long way. Its signature is still to be checked."""
        stream = _stream_of(raw)
        known = self._of.get(stream)
        if known is None or len(raw) > MAX_PACK:
            return None
        shape, misfits = known
        start, last = raw.find(OPEN) + len(OPEN), raw.rfind(BETWEEN)
        end = raw.find(b"}]", last)
        value = _around(raw[: start - len(OPEN)], raw[end + 2 :]) if len(OPEN) <= start <= last < end else None
        if value is None or value["stream"] != stream:
            return None
        odd = fit(raw, start, end, shape.pieces, shape.odd)
        records = None if odd is None else _records(odd, shape)
        if (records is None) or misfits:
            self._of[stream] = (shape, misfits + 1 if records is None else 0)
        return None if records is None else Sketch(value, records, shape.counts, shape.readings, shape.units)

    def learn(self, raw: bytes, value: Mapping[str, Any]) -> None:
        """Keep the shape of a pack that was read the long way, and whose signature holds for these very bytes."""
        e, stream = value.get("e"), value["stream"]
        if not isinstance(e, list) or len(e) < LEAST or len(raw) > MAX_PACK:
            return
        known = self._of.get(stream)
        if known and known[1] & (known[1] - 1):  # it changes all the time: look again after 1, 2, 4, ... misfits
            return
        shape = shape_of(raw, e)
        if shape is None:
            return
        key = (shape.pieces, shape.odd, shape.names)
        if key in self._shapes:
            shape = self._shapes[key]
            self._shapes.move_to_end(key)
        else:
            self._shapes[key] = shape
            self.size_bytes += shape.size
        self._of[stream] = (shape, known[1] if known else 0)
        self._of.move_to_end(stream)
        while len(self._of) > MAX_STREAMS or self.size_bytes > MAX_BYTES:
            self._forget()

    def _forget(self) -> None:
        """The oldest shape with its streams, or the oldest stream."""
        if self.size_bytes <= MAX_BYTES:
            self._of.popitem(last=False)
            return
        _, shape = self._shapes.popitem(last=False)
        self.size_bytes -= shape.size
        for stream in [stream for stream, (kept, _) in self._of.items() if kept is shape]:
            del self._of[stream]


def _around(head: bytes, tail: bytes) -> dict[str, Any] | None:
    """A pack without its records; None unless these stood in its own ``e``, and in no other place that is called so."""
    if len(head) + len(tail) > MAX_AROUND:
        return None
    outer = head + b'"e":[]' + tail
    if b"\\" in outer or outer.count(b'"e"') != 1:  # else the ``e`` that is found below might be another
        return None
    try:
        value = parse_object(outer)
    except Refused:
        return None
    usual = value.get("e") == [] and _OTHERS.isdisjoint(value)
    return value if usual and isinstance(value.get("stream"), str) else None


def _records(odd: list[bytes], shape: Shape) -> list[dict[str, Any]] | None:
    """The records in the odd places; None where these are not the ones that the shape has there."""
    if any(b"]" in piece for piece in odd):
        return None
    opened = [(b"{" if n == 0 else b'{"n":"') + piece + b"}" for n, piece in zip(shape.odd, odd, strict=True)]
    try:
        records = parse_object(b'{"e":[' + b",".join(opened) + b"]}", MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS)["e"]
        return records if tuple(record["n"] for record in records) == shape.names else None
    except (Refused, KeyError, TypeError, IndexError):
        return None


def shape_of(raw: bytes, e: list[dict[str, Any]]) -> Shape | None:
    """The shape of a pack; None where too little of it is plain."""
    if not _SCALARS.issuperset(type(inner) for record in e for inner in record.values()):
        return None
    pieces = raw.split(BETWEEN)
    pieces[0] = pieces[0].partition(OPEN)[2]
    pieces[-1] = pieces[-1].partition(b"}]")[0]
    plain: list[bytes] = []
    odd: list[int] = []
    names: list[str] = []
    at = 0
    for n, piece in enumerate(pieces):
        inside = 1 + piece.count(b"},{")  # records that begin with another label do not begin a piece
        mine = e[at : at + inside]
        at += inside
        start = piece.rfind(b'"v":') + 4
        if n and inside == 1 and start > 4 and mine and PLAIN.issuperset(mine[0]) and b"," not in piece[start:]:
            plain.append(piece[:start])
        else:
            odd.append(n)
            names += [record["n"] for record in mine]
    if at != len(e) or 4 * len(odd) > len(pieces):
        return None
    size = sum(map(len, plain)) + 64 * len(pieces)
    counts = Counter(record["n"] for record in e)
    units = tuple(
        {(record["n"], (record.get("u", ""), record.get("du", ""))) for record in e if PLAIN.issuperset(record)}
    )
    return Shape(tuple(plain), tuple(odd), tuple(names), counts, len(e), units, size)


def plain_fit(
    raw: bytes, start: int, end: int, pieces: tuple[bytes, ...], odd: tuple[int, ...], /
) -> list[bytes] | None:
    """What ``ext.shape.fit`` does, for a verifier without the kernels: slower, and it takes large numbers too."""
    if raw.count(BETWEEN, start, end) + 1 != len(pieces) + len(odd):
        return None
    found = raw[start:end].split(BETWEEN)
    others = [found[n] for n in odd]
    for n in reversed(odd):
        del found[n]
    # a piece that does not begin as it must stays whole: then the rest is longer than it should be
    rest = sum(map(len, found)) - sum(map(len, pieces)) + len(found) - 1
    if rest > MAX_NUMBER * len(found):
        return None
    numbers = b",".join(map(bytes.removeprefix, found, pieces))
    return others if len(numbers) == rest and _are_numbers(b"[" + numbers + b"]", len(found)) else None


def _are_numbers(text: bytes, count: int) -> bool:
    """Is ``text`` a JSON list of so many numbers, each a double and no integer beyond 2^53?"""
    try:
        found = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return False
    usual = {int, float}.issuperset(map(type, found)) and (not found or -MOST <= min(found) <= max(found) <= MOST)
    return usual and len(found) == count


def _refuse(name: str) -> float:
    raise ValueError(name)


def _stream_of(raw: bytes) -> str:
    """The stream that a pack seems to be of; "" without one."""
    start = raw.rfind(STREAM) + len(STREAM)
    end = raw.find(b'"', start, start + MAX_NAME + 1)
    return raw[start:end].decode("ascii", "replace") if len(STREAM) <= start < end else ""


try:
    from ext.shape import fit
except ImportError:  # the verifier's folder alone
    fit = plain_fit
