"""The messages of an uplink: what it publishes, what a platform may send to it, and the state that it reports."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec

from agent.outbox import Ack

LIVE: Final = "readings"
BACKFILL: Final = "backfill"
BIRTH: Final = "birth"
CONTROL: Final = "control"  # status, keys, checkpoints, replies
MAX_ACK_BYTES: Final = 4096
MAX_REQUEST_BYTES: Final = 4096
NO_LIMIT: Final = 1 << 62  # bytes of a packet, where the broker states no limit

_Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Boot = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]  # "$" would accept a trailing line feed


@dataclass(slots=True)
class OutgoingMessage:
    """A message to publish at QoS 1. ``id`` is 0 where it is not a pack that must be confirmed."""

    topic: str
    data: bytes
    kind: str = CONTROL  # LIVE, BACKFILL, BIRTH or CONTROL; of a pack also the last part of its topic
    retain: bool = True
    id: int = 0
    ref: int = 0  # the id of a pack, or minus the id of a retained birth
    stream: str = ""
    probe: bool = False  # tests whether a blocked topic is accepted again
    sent_s: float = 0.0
    end_offset: int = 0  # bytes of the connection that the broker must have received to have all of this message


class AckWire(msgspec.Struct, frozen=True):
    """A message on ``ack``: the platform has packs ``first`` to ``last``; ``hash`` is the hash of ``last``."""

    stream: Annotated[str, msgspec.Meta(max_length=400)]
    boot: _Boot
    first: _Sequence
    last: _Sequence
    hash: Annotated[str, msgspec.Meta(min_length=43, max_length=43)]


class ReplayWire(msgspec.Struct, frozen=True):
    """A message on ``replay/request``: send packs ``first`` to ``last`` of a stream again."""

    id: Annotated[str, msgspec.Meta(max_length=64)]
    stream: Annotated[str, msgspec.Meta(max_length=200)]
    first: _Sequence
    last: _Sequence
    boot: _Boot | None = None


_Wire = TypeVar("_Wire", AckWire, ReplayWire)
_ack_decoder, _replay_decoder = msgspec.json.Decoder(AckWire), msgspec.json.Decoder(ReplayWire)


def parse_ack(payload: bytes, gateway: str) -> Ack:
    """Check a message on ``ack`` before the store is asked.

    Args:
        gateway: ``park7/gw01``; the stream must belong to it.

    Raises:
        ValueError: with the reason, at most 120 characters.
    """
    wire = _decode(_ack_decoder, payload, MAX_ACK_BYTES, gateway)
    if wire.first > wire.last:
        raise ValueError("first is greater than last")
    return Ack(wire.stream, wire.boot, wire.first, wire.last, base64.urlsafe_b64decode(wire.hash + "="))


def parse_replay_request(payload: bytes, gateway: str) -> ReplayWire:
    """Check a message on ``replay/request``; otherwise as ``parse_ack``. ``first`` may be greater than ``last``."""
    return _decode(_replay_decoder, payload, MAX_REQUEST_BYTES, gateway)


def _decode(decoder: msgspec.json.Decoder[_Wire], payload: bytes, max_bytes: int, gateway: str) -> _Wire:
    if len(payload) > max_bytes:
        raise ValueError(f"{len(payload)} bytes, at most {max_bytes} are accepted")
    try:
        wire = decoder.decode(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(str(error)[:120]) from None
    if not wire.stream.startswith(gateway + "/"):
        raise ValueError(f"stream does not belong to {gateway}")
    return wire


@dataclass(frozen=True, slots=True)
class UplinkState:
    """State of one destination. Times are in seconds since the epoch."""

    connected: bool
    since: float | None  # connected or disconnected since
    waiting: int  # unconfirmed packs that the uplink knows of, including those in flight; the store counts all
    in_flight: int
    confirmed: int  # since the start, like the next three
    refused: int
    connects: int
    sent_bytes: int
    backfilling: bool  # older packs are being sent
    silent_topics: int  # topics without a subscriber, or to which we may not write
    set_aside: int  # packs that this broker cannot accept
    error: str | None  # the last fault, until it is cleared
    hint: str | None
    mqtt: str | None  # "5" or "3.1.1"
    confirm: str | None  # what counts as delivered on this connection: platform, subscriber or broker
