"""What a platform writes on ``ack``: checked before the store is asked."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

import msgspec

from agent.outbox import Ack

MAX_ACK_BYTES: Final = 4096
_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class _Wire(msgspec.Struct, frozen=True):
    stream: Annotated[str, msgspec.Meta(max_length=400)]
    boot: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    first: _Seq
    last: _Seq
    hash: Annotated[str, msgspec.Meta(min_length=43, max_length=43)]


_decoder = msgspec.json.Decoder(_Wire)


def parse_ack(payload: bytes, gateway: str) -> Ack | str:
    """The ack, or what is wrong with it. ``gateway``: ``park7/gw01``, which the stream must begin with."""
    if len(payload) > MAX_ACK_BYTES:
        return f"{len(payload)} bytes, at most {MAX_ACK_BYTES} are read"
    try:
        wire = _decoder.decode(payload)
        digest = base64.urlsafe_b64decode(wire.hash + "=")
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        return str(error)[:120]
    if not wire.stream.startswith(gateway + "/"):
        return f"stream is not one of {gateway}"
    if wire.first > wire.last:
        return "first is after last"
    return Ack(wire.stream, wire.boot, wire.first, wire.last, digest)
