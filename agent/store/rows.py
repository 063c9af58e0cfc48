"""Checksums of rows. A value that the disk has changed is then noticed whenever its row is read."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

_FACTS = struct.Struct("<9q")
_SUM = struct.Struct("<I")


class PackRow(NamedTuple):
    """A row of ``packs``, with the hash of the birth that its body leaves out. See ``schema.PACKED``."""

    id: int
    stream: int  # streams.id
    boot: int  # boots.id
    seq: int
    from_ms: int
    span_ms: int
    is_birth: int
    birth: int  # births.pack; 0: the body leaves no hash out
    dictionary: int
    crc: int
    body: bytes
    birth_hash: bytes | None

    def is_sound(self) -> bool:
        """Return True if no value of the row has changed since it was stored."""
        try:
            return self.crc == pack_crc(self[:9], self.body, self.birth_hash)
        except (struct.error, TypeError):  # a value has another type
            return False


def pack_crc(facts: Sequence[int], body: bytes, birth_hash: bytes | None) -> int:
    """Return the checksum of a row of ``packs``. ``facts``: its columns from ``id`` to ``dictionary``."""
    crc = zlib.crc32(body, zlib.crc32(_FACTS.pack(*facts)))
    return zlib.crc32(birth_hash or b"", crc) if facts[7] else crc


def stream_crc(values: Sequence[object]) -> int:
    """Return the checksum of a row of ``streams``. ``values``: its columns from ``id`` to ``ring_pos``."""
    return zlib.crc32(repr(tuple(values)).encode("utf-8", "backslashreplace"))


def encode_copy(table: str, values: Sequence[object]) -> bytes:
    """Return the copy of a row: a checksum, and the values."""
    body = encode_row((table, *values))
    return _SUM.pack(zlib.crc32(body)) + body


def encode_row(values: Sequence[object]) -> bytes:
    """Return the values of a row as JSON."""
    return json.dumps([{"hex": value.hex()} if isinstance(value, bytes) else value for value in values]).encode()


def decode_copy(table: str, key: object, copy: object) -> tuple[Any, ...] | None:
    """Return the values in the copy of a row; None if the copy has changed."""
    if not isinstance(copy, bytes) or copy[: _SUM.size] != _SUM.pack(zlib.crc32(copy[_SUM.size :])):
        return None
    name, *values = (
        bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for value in json.loads(copy[_SUM.size :])
    )
    return tuple(values) if name == table and _same(values[0], key) else None


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


def same_row(a: Sequence[object], b: Sequence[object]) -> bool:
    """Return True if two rows have equal values of the same types."""
    return len(a) == len(b) and all(map(_same, a, b))
