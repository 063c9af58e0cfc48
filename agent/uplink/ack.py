"""What a platform writes on ``ack``: checked before the store is asked."""

from __future__ import annotations

import base64
from typing import Final

from agent.outbox import Ack

MAX_ACK_BYTES: Final = 4096


def parse_ack(payload: bytes, gateway: str) -> Ack | str:
    """The ack, or what is wrong with it. ``gateway``: ``park7/gw01``, which the stream must begin with."""
    if len(payload) > MAX_ACK_BYTES:
        return f"{len(payload)} bytes, at most {MAX_ACK_BYTES} are read"
    from agent.uplink.wire import decode_ack

    try:
        wire = decode_ack(payload)
        digest = base64.urlsafe_b64decode(wire.hash + "=")
    except ValueError as error:
        return str(error)[:120]
    if not wire.stream.startswith(gateway + "/"):
        return f"stream is not one of {gateway}"
    if wire.first > wire.last:
        return "first is after last"
    return Ack(wire.stream, wire.boot, wire.first, wire.last, digest)
