"""How the state of a ledger is kept: a magic word, a checksum, then a document and the kernel's slots, compressed.

The slots are the kernel's memory as it is, each with its own length: a gauge needs less than a counter, and a counter
with a demand window more. ``STATE_LAYOUT`` says which kernel and which machine they are of.
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

MAGIC: Final = b"MHL3"  # before it, states had none: those were of one length for all slots, and could not be read back
MAX_BYTES: Final = 64 << 20
STATE_LAYOUT: Final = f"{STATE_VERSION}/{SLOT_BYTES}/{sys.byteorder}"
_FRONT = struct.Struct("<4sI")
_SIZE = struct.Struct("<I")


class StateError(ValueError):
    """A saved state that cannot be used. ``is_other``: it is intact, but of another version or other settings."""

    def __init__(self, what: str, is_other: bool = False) -> None:
        super().__init__(what)
        self.is_other = is_other


def is_of_before(state: bytes) -> bool:
    """Was it written by a version whose states could not be read back? Its intervals may lack energy."""
    return not state.startswith(MAGIC)


def pack_state(document: Mapping[str, Any], slots: Sequence[bytes]) -> bytes:
    """A document that says in ``slots`` how long each of the kernel's slots is, as the last member of its row."""
    text = json.dumps(document, separators=(",", ":")).encode()
    body = zstandard.ZstdCompressor(level=3).compress(_SIZE.pack(len(text)) + text + b"".join(slots))
    return _FRONT.pack(MAGIC, zlib.crc32(body)) + body


def unpack_state(state: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The reverse. Raises StateError."""
    if is_of_before(state):
        raise StateError("it was written by a version before 3", is_other=True)
    body = state[_FRONT.size :]
    if len(state) < _FRONT.size or _FRONT.unpack_from(state)[1] != zlib.crc32(body):
        raise StateError("its checksum is wrong")
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
