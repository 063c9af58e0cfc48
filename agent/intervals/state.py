"""Stores the state of a ledger: a magic word, a checksum, then a compressed document with all slots.

The slots are copies of the counter kernel's memory. Their lengths differ: a gauge needs less than a counter, and a
counter with a demand window needs more. ``STATE_LAYOUT`` names the kernel version and the machine that made the slots.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import zstandard

from agent.zstd import read_frame
from ext.rates import SLOT_BYTES, STATE_VERSION

# Before version 3, states had no magic word. They cannot be read, because all their slots have the same length.
MAGIC: Final = b"MHL3"
MAX_BYTES: Final = 64 << 20
STATE_LAYOUT: Final = f"{STATE_VERSION}/{SLOT_BYTES}/{sys.byteorder}"
_FRONT = struct.Struct("<4sI")
_SIZE = struct.Struct("<I")


class StateError(ValueError):
    """A saved state that cannot be used. ``is_other``: it is not damaged, but of another version or other settings."""

    def __init__(self, what: str, is_other: bool = False) -> None:
        super().__init__(what)
        self.is_other = is_other


def pack_state(document: Mapping[str, Any], slots: Sequence[bytes]) -> bytes:
    """Encode a state. The last member of each row in the document's ``slots`` must be the length of that slot."""
    text = json.dumps(document, separators=(",", ":")).encode()
    body = zstandard.ZstdCompressor(level=3).compress(_SIZE.pack(len(text)) + text + b"".join(slots))
    return _FRONT.pack(MAGIC, zlib.crc32(body)) + body


def unpack_state(state: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The reverse of ``pack_state``: returns (document, slots). Raises StateError."""
    if not state.startswith(MAGIC):
        raise StateError(f"it begins with {state[:4]!r}, not with {MAGIC!r}", is_other=True)
    body = state[_FRONT.size :]
    if len(state) < _FRONT.size or _FRONT.unpack_from(state)[1] != zlib.crc32(body):
        raise StateError("the checksum of the saved state is wrong")
    try:
        raw = read_frame(body, MAX_BYTES)
        size = _SIZE.unpack_from(raw)[0]
        document = json.loads(raw[_SIZE.size : _SIZE.size + size])
        ends = list(accumulate((slot[-1] for slot in document["slots"]), initial=_SIZE.size + size))
    except (struct.error, LookupError, TypeError, ValueError) as error:
        raise StateError(f"it cannot be decoded: {error!r}") from error
    if ends[-1] != len(raw):
        raise StateError(f"its slots take {ends[-1]} bytes and there are {len(raw)}")
    return document, [raw[a:b] for a, b in pairwise(ends)]
