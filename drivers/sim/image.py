"""The registers of one device: their addresses, their content, and the exception that a read of a missing register
gets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from drivers.model import Kind, Point
from drivers.plan.holes import ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE
from drivers.registry import DEFAULT, has_registers
from drivers.sim.encode import (
    INTEGER_TYPES,
    EncodeError,
    Value,
    encode_text,
    from_wire,
    missing_pattern,
    pack_raw,
    raw_number,
    size_of,
    split_parts,
    to_wire,
    where_of,
)

BIT_FUNCTIONS, WORD_FUNCTIONS = (1, 2), (3, 4)
_SPACE = 0x10000


class _Table:
    """The 65,536 items of one function code. ``codes`` has 0 for an item that exists, else the exception that a read
    gets.
    """

    __slots__ = ("codes", "items", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.items = bytearray(_SPACE * width)
        self.codes = bytearray([ILLEGAL_ADDRESS]) * _SPACE


class Image:
    """Registers and coils by function code (1 coils, 2 discrete inputs, 3 holding, 4 input registers).

    All words of a value are written by one assignment, so a reader in another thread never reads half of a value.
    """

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}

    def _table(self, function: int) -> _Table:
        table = self._tables.get(function)
        if table is None:
            if function not in (*BIT_FUNCTIONS, *WORD_FUNCTIONS):
                raise EncodeError(
                    f"function {function} has no registers", where="simulator", hint="Use function 1, 2, 3 or 4"
                )
            table = self._tables[function] = _Table(2 if function in WORD_FUNCTIONS else 1)
        return table

    @property
    def functions(self) -> tuple[int, ...]:
        """The function codes that this device supports, in ascending order."""
        return tuple(sorted(self._tables))

    def read(self, function: int, address: int, count: int) -> bytes | int:
        """Read items. Returns the payload of the answer, or an exception code.

        In the payload, registers are big endian, and coils are packed with the lowest bit first.
        """
        table = self._tables.get(function)
        if table is None:
            return ILLEGAL_FUNCTION
        if not 1 <= count <= (125 if table.width == 2 else 2000):
            return ILLEGAL_VALUE
        end = address + count
        if end > _SPACE:
            return ILLEGAL_ADDRESS
        missing = table.codes[address:end].lstrip(b"\x00")
        if missing:
            return missing[0]
        if table.width == 2:
            return bytes(table.items[2 * address : 2 * end])
        bits = table.items[address:end]
        packed = bytearray((count + 7) // 8)
        for n, bit in enumerate(bits):
            packed[n >> 3] |= bit << (n & 7)
        return bytes(packed)

    def put_words(self, address: int, words: Sequence[int], *, function: int = 3) -> None:
        """Write registers. Missing registers are created."""
        self._put(function, address, b"".join(word.to_bytes(2, "big") for word in words))

    def put_bits(self, address: int, bits: Sequence[int], *, function: int = 1) -> None:
        """Write coils or discrete inputs. Missing ones are created."""
        self._put(function, address, bytes(1 if bit else 0 for bit in bits))

    def _put(self, function: int, address: int, wire: bytes) -> None:
        table = self._table(function)
        count = len(wire) // table.width
        if not 0 <= address <= _SPACE - count:
            raise EncodeError(f"address {address} with {count} items is outside 0 to 65535", where="simulator")
        table.items[address * table.width : (address + count) * table.width] = wire
        table.codes[address : address + count] = bytes(count)

    def words(self, address: int, count: int = 1, *, function: int = 3) -> tuple[int, ...]:
        """The present content of registers. It is 0 for a register that does not exist."""
        table = self._table(function)
        raw = table.items[2 * address : 2 * (address + count)]
        return tuple(int.from_bytes(raw[n : n + 2], "big") for n in range(0, len(raw), 2))

    def fill_holes(self, max_gap: int, *, function: int) -> None:
        """Fill the holes of up to ``max_gap`` items between existing items. They then read as zeros, as in many
        devices.
        """
        codes = self._table(function).codes
        for (_, end), (start, _) in pairwise(self._runs(function)):
            if start - end <= max_gap:
                codes[end:start] = bytes(start - end)

    def _runs(self, function: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges ``[start, end)`` of existing items."""
        codes = self._table(function).codes
        at = 0
        while (start := codes.find(0, at)) >= 0:
            at = start
            while at < _SPACE and codes[at] == 0:
                at += 1
            yield start, at

    def exists(self, function: int, address: int) -> bool:
        """Whether a read of this single item gets a value, not an exception."""
        table = self._tables.get(function)
        return table is not None and table.codes[address] == 0

    def set(self, point: Point, value: Value | None) -> None:
        """Write one point. None writes the pattern that the device sends for "no reading".

        Raises EncodeError if the value does not fit, or if the type has no pattern for None.
        """
        where = where_of(point)
        if point.parts:
            self._set_parts(point, value)
            return
        table = self._table(point.function)
        if table.width == 1:
            self._set_coils(point, value)
            return
        if point.kind is Kind.TEXT and point.type in INTEGER_TYPES and not point.text:
            if value is not None and not re.fullmatch("-?[0-9]+", str(value)):
                raise EncodeError(
                    f"{value!r} is not a whole number, but the registers hold a whole number", where=where
                )
            value = None if value is None else int(value)
        elif point.kind is Kind.TEXT or point.type == "str":
            wire = bytes(2 * point.count) if value is None else encode_text(point, str(value))
            self._put(point.function, point.address, wire)
            return
        if isinstance(value, str):
            raise EncodeError(f"{value!r} is not a number", where=where)
        size = size_of(point.type, point.count)
        if value is None:
            pattern = missing_pattern(point.type, size, point.sentinels)
            if pattern is None:
                raise EncodeError(f"type {point.type} has no bit pattern for a missing value", where=where)
            self._write_pattern(point.function, point.address, point.type, point.order, size, pattern, where)
            return
        raw = raw_number(value, point.scale, point.offset)
        if point.bit is None and point.mask is None:
            pattern = pack_raw(point.type, raw, size, where=where)
            self._write_pattern(point.function, point.address, point.type, point.order, size, pattern, where)
            return
        self._set_field(point, int(raw), size, where)

    def _write_pattern(
        self, function: int, address: int, type_name: str, order: str, size: int, pattern: int, where: str
    ) -> None:
        if size > 1:
            self._put(function, address, to_wire(pattern, size, order, where=where))
            return
        word = self.words(address, function=function)[0]
        word = word & 0x00FF | pattern << 8 if type_name.endswith("h") else word & 0xFF00 | pattern
        self._put(function, address, word.to_bytes(2, "big"))

    def _set_field(self, point: Point, field: int, size: int, where: str) -> None:
        """Write one bit or a masked field. The other bits of the register are kept, because they belong to other
        points.
        """
        mask = 1 << point.bit if point.bit is not None else point.mask or 0
        shift = (mask & -mask).bit_length() - 1
        if not 0 <= field <= mask >> shift:
            raise EncodeError(f"{field} does not fit a field of {(mask >> shift).bit_length()} bits", where=where)
        if size == 1:
            word = self.words(point.address, function=point.function)[0]
            old = word >> 8 if point.type.endswith("h") else word & 0xFF
        else:
            words = self.words(point.address, size // 2, function=point.function)
            old = from_wire(b"".join(w.to_bytes(2, "big") for w in words), point.order, where=where)
        self._write_pattern(
            point.function, point.address, point.type, point.order, size, old & ~mask | field << shift, where
        )

    def _set_parts(self, point: Point, value: Value | None) -> None:
        where = where_of(point)
        raws: Sequence[int | None] = [None] * len(point.parts)
        if value is not None:
            if isinstance(value, str):
                raise EncodeError(f"{value!r} is not a number", where=where)
            raws = split_parts(value, point.parts)
        for part, raw in zip(point.parts, raws, strict=True):
            size = size_of(part.type, point.count)
            pattern = (
                missing_pattern(part.type, size, point.sentinels)
                if raw is None
                else pack_raw(part.type, raw, size, where=where)
            )
            if pattern is None:
                raise EncodeError(f"type {part.type} has no bit pattern for a missing value", where=where)
            self._write_pattern(
                part.function or point.function, part.address, part.type, part.order, size, pattern, where
            )

    def _set_coils(self, point: Point, value: Value | None) -> None:
        where = where_of(point)
        if value is None or isinstance(value, str):
            raise EncodeError(f"coils can be set only to a number, not to {value!r}", where=where)
        raw = int(raw_number(value, point.scale, point.offset))
        if not 0 <= raw < 1 << point.count:
            raise EncodeError(
                f"{raw} does not fit into the coils of the point (number of coils: {point.count})", where=where
            )
        self.put_bits(point.address, [raw >> n & 1 for n in range(point.count)], function=point.function)

    def define(self, points: Iterable[Point]) -> None:
        """Make the registers of ``points`` exist. Registers that are not set yet read as zeros."""
        for point in points:
            spans = [(p.function or point.function, p.address, size_of(p.type, point.count)) for p in point.parts]
            for function, address, size in spans or [(point.function, point.address, size_of(point.type, point.count))]:
                table = self._table(function)
                items = point.count if table.width == 1 else max(1, (size + 1) // 2)
                table.codes[address : address + items] = bytes(items)

    @classmethod
    def from_dump(cls, dump: Mapping[str, object]) -> Image:
        """Make an image from a recorded dump: ``{"holding": {"35000": 1, ...}, "input": {...}, "coils": ...,
        "discrete": ...}``.

        Raises an EncodeError that names the wrong table and address.
        """
        image = cls()
        for name, function in (("coils", 1), ("discrete", 2), ("holding", 3), ("input", 4)):
            table = dump.get(name)
            if table is None:
                continue
            if not isinstance(table, Mapping):
                raise EncodeError(f"{name} must map addresses to values", where="dump")
            for key, value in table.items():
                try:
                    address = int(str(key), 0)
                except ValueError:
                    raise EncodeError(f"address {key!r} is not a number", where=f"dump, {name}") from None
                high = 1 if function in BIT_FUNCTIONS else 0xFFFF
                if not isinstance(value, int) or not 0 <= value <= high or not 0 <= address < _SPACE:
                    raise EncodeError(f"{value!r} at {key} is not 0 to {high}", where=f"dump, {name}")
                if function in BIT_FUNCTIONS:
                    image.put_bits(address, [value], function=function)
                else:
                    image.put_words(address, [value], function=function)
        if not image.functions:
            raise EncodeError("contains no registers", where="dump", hint='Expected: {"holding": {"0": 1}}')
        return image


class DumpError(EncodeError):
    """A dump cannot be read, or a file is not a dump."""

    exit_code = 3


def load_dump(path: Path) -> tuple[Image, int]:
    """Read a dump file: ``{"address": 1, "holding": {"35000": 1, ...}, "input": {...}}``. Returns (image, unit
    address).

    Raises a DumpError that names the file and the error in it.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DumpError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise DumpError(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(found, dict):
        raise DumpError("is not a register dump", where=str(path), hint='Expected: {"holding": {"0": 1}}')
    if not has_registers(str(found.get("protocol", DEFAULT))):
        raise DumpError(f"protocol {found['protocol']!r} has no registers", where=str(path))
    address = found.get("address", 1)
    if isinstance(address, str) and address.isdigit():
        address = int(address)
    if not isinstance(address, int) or not 1 <= address <= 255:
        raise DumpError(f"address {address!r} is not 1 to 255", where=str(path))
    try:
        return Image.from_dump(found), address
    except EncodeError as error:
        raise DumpError(error.what, where=f"{path}: {error.where}", hint=error.hint) from error
