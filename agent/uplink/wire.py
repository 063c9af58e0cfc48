"""What platforms may send, as it is on the wire. Imported with the first message: many gateways never get one."""

from __future__ import annotations

from typing import Annotated

import msgspec

_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Boot = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]  # a $ would let a line feed pass behind it


class AckWire(msgspec.Struct, frozen=True):
    """``ack``: packs ``first`` to ``last`` are safe; ``hash`` is that of the last one."""

    stream: Annotated[str, msgspec.Meta(max_length=400)]
    boot: _Boot
    first: _Seq
    last: _Seq
    hash: Annotated[str, msgspec.Meta(min_length=43, max_length=43)]


class ReplayWire(msgspec.Struct, frozen=True):
    """``replay/request``: packs ``first`` to ``last`` of a stream once more."""

    id: Annotated[str, msgspec.Meta(max_length=64)]
    stream: Annotated[str, msgspec.Meta(max_length=200)]
    first: _Seq
    last: _Seq
    boot: _Boot | None = None


_ack, _replay = msgspec.json.Decoder(AckWire), msgspec.json.Decoder(ReplayWire)


def decode_ack(payload: bytes) -> AckWire:
    """Raises ValueError, which says what is wrong."""
    try:
        return _ack.decode(payload)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def decode_replay(payload: bytes) -> ReplayWire:
    """Raises ValueError, which says what is wrong."""
    try:
        return _replay.decode(payload)
    except RecursionError as error:
        raise ValueError(str(error)) from None
