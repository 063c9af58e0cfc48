"""Encodes and decodes frames on the control socket.

Another module decodes the requests in these frames. The agent loads that module at the first request.

A frame consists of one byte (``FrameKind``), the length of the payload (32 bits, big endian), and the payload. On a
connection, the client sends one REQUEST; all other frames come from the agent:

    REQUEST   JSON object, at most 64 KiB; see ``agent.service.control.protocol``
    PART      bytes of the answer, in order
    PROGRESS  JSON object {"done", "total"}; sent at least every second or two while the agent works
    DONE      JSON object: the end of the answer
    FAILED    JSON object {"type", "what", "where", "hint"}: why there is no answer

If the client closes the connection, its request ends. A client ignores members of an answer that it does not know.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from drivers.model import ConfigError, GatewayError, LineDown, LineLent, UsageError, clean_text

SOCKET: Final = "control"  # name of the socket in the runtime directory
HEADER: Final = struct.Struct(">BI")
MAX_REQUEST: Final = 64 << 10
# the largest payload in bytes of a frame that the agent sends; it is far above the largest pack (8 MiB)
MAX_ANSWER: Final = 17 << 20
VERSIONS: Final = "Do the agent and this command have the same version? `meterhouse status` shows the agent's version"


class FrameKind(IntEnum):
    """The kind of a frame, which is its first byte."""

    REQUEST = 1
    PART = 2
    PROGRESS = 3
    DONE = 4
    FAILED = 5


class ProtocolError(GatewayError):
    """The bytes on the socket are not valid in this version of the protocol."""


_ERRORS: Final[Mapping[str, type[GatewayError]]] = {
    kind.__name__: kind for kind in (UsageError, ConfigError, LineDown, LineLent, ProtocolError)
}


def header(kind: FrameKind, size: int) -> bytes:
    """Return the header of a frame: the five bytes before the payload."""
    return HEADER.pack(kind, size)


def frame(kind: FrameKind, payload: bytes) -> bytes:
    """Encode a complete frame."""
    return header(kind, len(payload)) + payload


def parse_header(data: bytes, kinds: frozenset[FrameKind], limit: int) -> tuple[FrameKind, int]:
    """Parse a header. Returns the kind, and the length of the payload in bytes.

    Raises ProtocolError if the kind is not in ``kinds``, or the length exceeds ``limit``.
    """
    number, size = HEADER.unpack(data)
    if number not in kinds:
        raise ProtocolError(f"unexpected frame kind {number}", where="control", hint=VERSIONS)
    if size > limit:
        raise ProtocolError(f"a frame of {size} bytes is too long", where="control", hint=f"The limit is {limit} bytes")
    return FrameKind(number), size


def encode_facts(facts: Mapping[str, Any]) -> bytes:
    """Encode the payload of PROGRESS or DONE."""
    return json.dumps(facts, separators=(",", ":")).encode()


def decode_facts(payload: bytes) -> dict[str, Any]:
    """The reverse of ``encode_facts``. Raises ProtocolError."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(clean_text(str(error), 200), where="answer", hint=VERSIONS) from None
    if not isinstance(found, dict):
        raise ProtocolError("not a JSON object", where="answer", hint=VERSIONS)
    return found


def encode_error(error: GatewayError) -> bytes:
    """Encode an error as the payload of FAILED."""
    kind = type(error).__name__
    return encode_facts({"type": kind if kind in _ERRORS else "", "what": error.what, "where": error.where,
                         "hint": error.hint})  # fmt: skip


def decode_error(payload: bytes) -> GatewayError:
    """Decode the payload of FAILED. The texts are cleaned, so they can be printed. Raises ProtocolError."""
    facts = decode_facts(payload)
    what, where, hint = (clean_text(str(facts.get(name, "")), 1000) for name in ("what", "where", "hint"))
    return _ERRORS.get(str(facts.get("type")), GatewayError)(what, where=where, hint=hint)
