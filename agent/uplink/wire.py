"""Checks the messages that a platform may send, ``ack`` and ``replay/request``, before they reach the store.

The uplink imports this module only when the first such message arrives, because msgspec takes 2.7 MB of memory, and
many gateways never receive one.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

import msgspec

from agent.outbox import Ack
from drivers.encoding import base64url_decode

MAX_BYTES: Final = 4096
MAX_LIST_BYTES: Final = 32 << 10  # largest message {"acks": [...]} in bytes

_Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
# "\Z" is used, because "$" would also accept a trailing line feed
_Boot = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]


class AckWire(msgspec.Struct, frozen=True):
    """A message on ``ack``: the platform has packs ``first`` to ``last``. ``hash`` is the hash of pack ``last``."""

    stream: Annotated[str, msgspec.Meta(max_length=400)]
    boot: _Boot
    first: _Sequence
    last: _Sequence
    hash: Annotated[str, msgspec.Meta(min_length=43, max_length=43)]


class AckListWire(msgspec.Struct, frozen=True):
    """Many acks in one message on ``ack``. They may be for different streams of the gateway."""

    acks: Annotated[list[AckWire], msgspec.Meta(min_length=1)]


class ReplayWire(msgspec.Struct, frozen=True):
    """A message on ``replay/request``: the platform asks for packs ``first`` to ``last`` of a stream again."""

    id: Annotated[str, msgspec.Meta(max_length=64)]
    stream: Annotated[str, msgspec.Meta(max_length=200)]
    first: _Sequence
    last: _Sequence
    boot: _Boot | None = None


_Wire = TypeVar("_Wire", AckWire, ReplayWire)
_ack_decoder, _replay_decoder = msgspec.json.Decoder(AckWire), msgspec.json.Decoder(ReplayWire)
_list_decoder = msgspec.json.Decoder(AckListWire)
_IS_LIST: Final = re.compile(rb'\s*\{\s*"acks"\s*:')


def parse_acks(payload: bytes, gateway: str) -> list[Ack]:
    """Parse and check a message on ``ack``. It is one ack, or ``{"acks": [...]}`` of at most 32 KiB.

    Args:
        gateway: full name of the gateway, such as ``park7/gw01``. The streams must belong to it.

    Raises:
        ValueError: the message is invalid, so none of its acks counts. The text of the error is the reason.
    """
    if not _IS_LIST.match(payload[:100]):
        return [_ack(_decode(_ack_decoder, payload, gateway))]
    if len(payload) > MAX_LIST_BYTES:
        raise ValueError(f"the message has {len(payload)} bytes, but at most {MAX_LIST_BYTES} are accepted")
    try:
        wires = _list_decoder.decode(payload).acks
    except (ValueError, RecursionError) as error:
        raise ValueError(str(error)[:120]) from None
    for wire in wires:
        _check_stream(wire.stream, gateway)
    return [_ack(wire) for wire in wires]


def _ack(wire: AckWire) -> Ack:
    if wire.first > wire.last:
        raise ValueError('"first" is greater than "last"')
    return Ack(wire.stream, wire.boot, wire.first, wire.last, base64url_decode(wire.hash))


def parse_replay_request(payload: bytes, gateway: str) -> ReplayWire:
    """Parse and check a message on ``replay/request``. Raises ValueError like ``parse_acks``.

    ``first`` may be greater than ``last``. The caller must check this, because only then can it reply to the platform.
    """
    return _decode(_replay_decoder, payload, gateway)


def _decode(decoder: msgspec.json.Decoder[_Wire], payload: bytes, gateway: str) -> _Wire:
    if len(payload) > MAX_BYTES:
        raise ValueError(f"the message has {len(payload)} bytes, but at most {MAX_BYTES} are accepted")
    try:
        wire = decoder.decode(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(str(error)[:120]) from None
    _check_stream(wire.stream, gateway)
    return wire


def _check_stream(stream: str, gateway: str) -> None:
    if not stream.startswith(gateway + "/"):
        raise ValueError(f"the stream does not belong to {gateway}")
