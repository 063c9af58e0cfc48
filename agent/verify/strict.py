"""A strict parser of received JSON objects. It refuses input that two parsers could read differently."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain, groupby
from json.decoder import JSONDecoder
from math import isfinite
from operator import itemgetter
from typing import Any, Final, NamedTuple

from .canonical import MAX_SAFE, canonical, number_text

MAX_DEPTH: Final = 32
MAX_PACK_BYTES: Final = 8 << 20  # limit of a pack; a gateway splits packs above 64 KiB, but it cannot split a birth
MAX_OBJECT_BYTES: Final = 1 << 20  # limit of keys objects and checkpoint pages
MAX_COMPRESSED_BYTES: Final = 1 << 20
# limit of brackets and commas, because they cost parsing time; it allows births of 18,000 points
MAX_ITEMS: Final = 1 << 18
# stricter limits of bytes and items, for objects that no known key has signed
MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS = 1 << 20, 1 << 16
# decompression is limited to FREE_BYTES plus MAX_RATIO times the compressed size
MAX_RATIO, FREE_BYTES = 1000, 64 << 10
ZSTD_STEP: Final = 256  # number of compressed bytes per step; even in a decompression bomb, they become at most 8 MiB
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
MAX_SHOWN: Final = 80
MAX_REASON: Final = 400  # only this many characters of a fault's text are kept
FEW: Final = 8  # an array up to this length is checked item by item
SAMPLE: Final = 64  # about this many records are looked at to find the usual number of members


class Refused(ValueError):
    """A received object is invalid.

    ``code`` is one stable word, for programs and for counting. ``text`` has the received and the expected value.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class MissingPackage(Refused):
    """The Python package that is needed to read the object is not installed here. The object may be valid."""


def clean(text: str, limit: int) -> str:
    """Return a received text as one line, without control characters, line breaks or marks of writing direction.

    Text longer than ``limit`` characters is cut.
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:limit]) + ("..." if len(text) > limit else "")


def shown(value: object) -> str:
    """Shorten a received value to one line for an error message."""
    if isinstance(value, str):
        return repr(value[:MAX_SHOWN]) + ("..." if len(value) > MAX_SHOWN else "")
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 10**30):
        return repr(value)
    return {dict: "an object", list: "an array", int: "an integer of more than 30 digits"}.get(
        type(value), type(value).__name__
    )


def count_items(raw: bytes) -> int:
    """Return the number of brackets and commas. A parser cannot create more objects than this. Takes 1 ns per byte."""
    return len(raw) - len(raw.translate(None, b"[{,"))


class Columns(NamedTuple):
    """An array of objects that mostly have the same members, stored as one column for each member."""

    columns: dict[str, list[Any]]  # member -> the values of all usual objects, which are only texts or only numbers
    odd: list[dict[str, Any]]  # the objects with another number of members, in order


def parse_object(raw: bytes, cap: int = MAX_PACK_BYTES, items: int = MAX_ITEMS) -> dict[str, Any]:
    """Return the JSON object in ``raw``. Arguments and errors are as in ``parse_columns``."""
    return parse_columns(raw, cap, items)[0]


def parse_columns(
    raw: bytes, cap: int = MAX_PACK_BYTES, items: int = MAX_ITEMS, records: str = ""
) -> tuple[dict[str, Any], Columns | None]:
    """Return the JSON object in ``raw``, and the columns of its member ``records``.

    The columns are None if the objects in ``records`` do not mostly have the same members.

    Duplicate names are refused. Canonical bytes have no escapes in names and no spaces beside them, so a fast check is
    possible: with a duplicate name, the text has more ``":`` than the result has members. All other bytes are parsed
    again with a hook for each object.

    Args:
        cap: limit of the bytes.
        items: limit of the brackets and commas, including those in texts. They are counted before the bytes are parsed.

    Raises:
        Refused: ``raw`` is too large, not UTF-8, not JSON or not an object. Or it has a duplicate name, a lone
            surrogate, too many levels, or a number that is neither a double nor an exact integer.
    """
    if len(raw) > cap:
        raise Refused("size", f"{len(raw)} bytes, at most {cap} are read")
    if len(raw) > items and (found := count_items(raw)) > items:
        raise Refused("size", f"{found} brackets and commas, at most {items} are read")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Refused("json", f"not UTF-8 at byte {error.start}") from None
    try:
        value = _PLAIN.decode(text)
        if not isinstance(value, dict):
            raise Refused("json", f"a JSON {type(value).__name__}, expected an object")
        members, columns = _survey_object(value, records)
        if members != raw.count(b'":') or _is_unclear(raw):
            value = columns = None  # free the first result, so that the two results are never in memory together
            value = _STRICT.decode(text)
            _survey(value, 1)
            if b"\\u" in raw:
                canonical(value)  # raises an error for a lone surrogate; only bytes with an escape can contain one
    except RecursionError:
        raise Refused("depth", f"nested deeper than {MAX_DEPTH}") from None
    except UnicodeEncodeError:
        raise Refused("json", "a lone surrogate in a text") from None
    except Refused:
        raise
    except ValueError as error:
        if "digits" in str(error):  # the number has more digits than the interpreter's own limit
            raise Refused("number", "an integer with thousands of digits") from None
        raise Refused("json", f"not JSON: {error}") from None
    parsed: dict[str, Any] = value
    return parsed, columns


def inflate(raw: bytes, cap: int = MAX_PACK_BYTES) -> bytes:
    """Return ``raw`` itself, or its content if it is a zstd frame.

    Raises:
        Refused: the frame is damaged or has more than ``cap`` bytes, or the package zstandard is not installed.
    """
    if not raw.startswith(ZSTD_MAGIC):
        return raw
    if len(raw) > MAX_COMPRESSED_BYTES:
        raise Refused("size", f"{len(raw)} compressed bytes, at most {MAX_COMPRESSED_BYTES} are read")
    frame, plain, size = Frames(), [], 0
    for at in range(0, len(raw), ZSTD_STEP):
        if step := frame.feed(raw[at : at + ZSTD_STEP]):
            plain.append(step)
            size += len(step)
        if size > cap:
            raise Refused("size", f"decompresses to more than {cap} bytes")
        if size > FREE_BYTES + MAX_RATIO * (at + ZSTD_STEP):
            raise Refused("size", f"decompresses to more than {MAX_RATIO} times its size")
    frame.close(only=1)
    return b"".join(plain)


class Frames:
    """Decompresses consecutive zstd frames step by step. Small steps let the caller stop a decompression bomb early.

    Args:
        max_window: limit, in bytes, of the memory that a frame may need.
    """

    def __init__(self, max_window: int = MAX_PACK_BYTES) -> None:
        try:
            import zstandard
        except ImportError:
            raise MissingPackage("zstd", "compressed with zstd, and the package zstandard is not installed") from None
        self._error = zstandard.ZstdError
        self._make = zstandard.ZstdDecompressor(max_window_size=max_window).decompressobj
        self._frame: Any = None
        self._count = 0

    def feed(self, step: bytes) -> bytes:
        """Decompress the next bytes. Raises Refused if they are not zstd."""
        plain = b""
        try:
            while step:
                if self._frame is None:
                    self._frame, self._count = self._make(), self._count + 1
                plain += self._frame.decompress(step)
                step = self._frame.unused_data
                if self._frame.eof:
                    self._frame = None
        except (self._error, MemoryError) as error:
            raise Refused("zstd", f"damaged zstd frame: {error}") from None
        return plain

    def close(self, only: int = 0) -> None:
        """Call this after all bytes were fed. Raises Refused if the last frame is cut off.

        If ``only`` is not 0, also raises Refused if the number of frames is not ``only``.
        """
        if self._frame is not None:
            raise Refused("zstd", "a zstd frame that is cut off")
        if only and self._count != only:
            raise Refused("zstd", f"{self._count} zstd frames for one object")


def _is_unclear(raw: bytes) -> bool:
    """True if a name may have an escape, or white space before its colon. Then names cannot be counted by ``":``."""
    return b"\\" in raw or (b" " in raw and b'" ' in raw) or any(space in raw for space in (b"\n", b"\r", b"\t"))


def _constant(name: str) -> float:
    raise Refused("number", f"{name} is not a JSON number")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Refused("duplicate", f"the member {json.dumps(twice[:MAX_SHOWN])} occurs twice")
    return made


_PLAIN: Final = JSONDecoder(parse_constant=_constant)
_STRICT: Final = JSONDecoder(parse_constant=_constant, object_pairs_hook=_pairs)
_SCALARS: Final = frozenset((str, int, float))
_NUMBERS: Final = frozenset((int, float))


def _survey_object(value: dict[str, Any], records: str) -> tuple[int, Columns | None]:
    """Do the same as ``_survey`` for a whole object. Also returns the columns of its member ``records``."""
    columns = _columns(value.get(records))
    if columns is None:
        return _survey(value, 1), None
    members = len(value) + len(columns.columns) * len(next(iter(columns.columns.values())))
    others = [inner for name, inner in value.items() if name != records]
    return members + sum(_survey(inner, 2) for inner in others) + sum(_survey(row, 3) for row in columns.odd), columns


def _columns(rows: Any) -> Columns | None:
    """Return the columns of the objects that have the usual number of members.

    Returns None if these objects have different members, or if a column mixes types or has a number that is not safe.
    """
    if type(rows) is not list or len(rows) <= FEW:
        return None
    usual: list[dict[str, Any]] = []
    odd: list[dict[str, Any]] = []
    try:
        ((width, _),) = Counter(map(len, rows[:: 1 + len(rows) // SAMPLE])).most_common(1)
        for size, run in groupby(rows, len):
            (usual if size == width else odd).extend(run)
        columns = {label: list(map(itemgetter(label), usual)) for label in dict.keys(usual[0])}
        for column in columns.values():
            if type(column[0]) is str:
                "".join(column)  # raises TypeError if an item is not a text; this is the quickest way to find one
            elif not (_NUMBERS.issuperset(map(type, column)) and min(column) >= -MAX_SAFE and max(column) <= MAX_SAFE):
                return None
    # an object lacks a member, an item is not an object, or a column has texts and numbers
    except (KeyError, TypeError):
        return None
    return Columns(columns, odd) if columns else None


def _survey(value: Any, depth: int) -> int:
    """Return the number of members in ``value``, at all depths.

    Refuses values that are too deep, and invalid numbers.
    """
    if depth > MAX_DEPTH:
        raise Refused("depth", f"nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if kind is dict:
        members = len(value)
        for inner in value.values():
            kind = type(inner)
            if kind is not str and not (kind in _NUMBERS and -MAX_SAFE <= inner <= MAX_SAFE and depth < MAX_DEPTH):
                members += _survey(inner, depth + 1)
        return members
    if kind is list:
        if len(value) > FEW:  # check all items at once
            kinds = set(map(type, value))
            inside = list(chain.from_iterable(map(dict.values, value))) if kinds == {dict} else value
            if _SCALARS.issuperset(map(type, inside)):
                numbers = [v for v in inside if type(v) is not str]
                if not numbers or (min(numbers) >= -MAX_SAFE and max(numbers) <= MAX_SAFE):
                    return sum(map(len, value)) if kinds == {dict} else 0
        return sum(_survey(inner, depth + 1) for inner in value)
    if kind is int:
        if not -MAX_SAFE <= value <= MAX_SAFE:
            _check_large(value)
    elif kind is float and not isfinite(value):
        raise Refused("number", "a number beyond the range of a double")
    return 0


def _check_large(value: int) -> None:
    """Refuse an integer beyond 2**53, except the shortest text of a double, which all parsers read alike."""
    try:
        same = number_text(float(value)) == str(value)
    except (OverflowError, ValueError):
        same = False
    if not same:
        raise Refused("number", f"{shown(value)} is beyond 2^53 and not an exact double")
