"""What goes over the control socket: frames, the kinds of requests, and who may make which. Shared by agent and tools.

A frame is one byte (``Frame``), the length of its payload (32 bits, big endian), and the payload. A connection carries
one request of the client; everything after it comes from the agent:

    REQUEST   JSON object, at most 64 KiB: ``version``, ``kind`` and the members of that kind; others are refused
    PART      bytes of the answer, in order
    PROGRESS  JSON object {"done", "total"}; sent at least every second or two while the agent is at it
    DONE      JSON object: the end of the answer
    FAILED    JSON object {"type", "what", "where", "hint"}: why there is none

Whoever closes the connection ends the request. A client passes over members of an answer that it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from drivers.model import ConfigError, GatewayError, LineDown, LineLent, UsageError, clean_text

SOCKET: Final = "control"  # its name in the runtime directory
HEADER: Final = struct.Struct(">BI")
MAX_REQUEST: Final = 64 << 10
MAX_ANSWER: Final = 17 << 20  # of one frame: a pack may have 16 MiB
LONGEST_LEASE_S: Final = 900
END_MS: Final = 1 << 52  # of all times


class Frame(IntEnum):
    """The first byte of a frame."""

    REQUEST = 1
    PART = 2
    PROGRESS = 3
    DONE = 4
    FAILED = 5


class Right(Enum):
    """What a request takes: the group of the socket may look; root, the agent's user and ``[control] group`` change."""

    LOOK = "look"
    CHANGE = "change"


class ProtocolError(GatewayError):
    """What came over the socket is not what this version speaks."""


Text = Annotated[str, Meta(max_length=400)]
TimeMs = Annotated[int, Meta(ge=0, le=END_MS)]
Kid = Annotated[str, Meta(max_length=64)]


class Base(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all requests have."""

    version: Literal[1] = 1

    right: ClassVar[Right] = Right.LOOK
    module: ClassVar[str] = ""  # its ``answer`` serves the request; imported when first asked


class Stretch(Base, frozen=True):
    """``[from_ms, to_ms)`` of some streams (last parts of names; none: all)."""

    from_ms: TimeMs
    to_ms: TimeMs
    streams: Annotated[list[Text], Meta(max_length=1000)] = []

    def __post_init__(self) -> None:
        if self.from_ms >= self.to_ms:
            raise ValueError("from_ms is not before to_ms")


class Export(Stretch, frozen=True, tag="export"):
    """Signed objects of a stretch of time."""

    module: ClassVar[str] = "agent.service.control.export"


class Intervals(Stretch, frozen=True, tag="intervals"):
    """Rows of intervals of a stretch of time."""

    module: ClassVar[str] = "agent.service.control.intervals"


class Report(Base, frozen=True, tag="report"):
    """The page of a period. ``day`` is any date inside, "" today; ``now_ms`` counts where no agent runs."""

    module: ClassVar[str] = "agent.service.control.report"

    period: Literal["day", "month", "year", "rolling"]
    now_ms: TimeMs
    day: Annotated[str, Meta(max_length=10)] = ""
    by: Literal["hour", "interval"] = "hour"


class Declarations(Base, frozen=True, tag="declarations"):
    """What was declared so far."""

    module: ClassVar[str] = "agent.service.control.declare"


class Declare(Base, frozen=True, tag="declare"):
    """One entry that a person attests; ``from_`` and ``to`` in UTC seconds."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.declare"

    n: Text
    v: Text
    u: Text
    who: Text
    from_: float = msgspec.field(name="from")
    to: float | None = None
    document: Text = ""
    replaces: Text = ""


class PublishedKey(Base, frozen=True, tag="key"):
    """The newest key that this gateway has published."""

    module: ClassVar[str] = "agent.service.control.keys"


class Keys(Base, frozen=True, tag="keys"):
    """The last sequences that a key, or one of those before it, signed, up to a time if there is one.

    With ``hold`` nothing is sealed from the answer on until another key is in the place of the one that signs.
    """

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.keys"

    kid: Kid
    until_ms: TimeMs | None = None
    before: Annotated[list[Kid], Meta(max_length=1000)] = []
    hold: bool = False


class Lease(Base, frozen=True, tag="lease"):
    """A line, for as long as the connection is open, and at most so many seconds."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.lease"

    line: Text
    purpose: Literal["read", "identify", "scan"]
    seconds: Annotated[float, Meta(gt=0, le=LONGEST_LEASE_S)] = LONGEST_LEASE_S


class Reload(Base, frozen=True, tag="reload"):
    """Bring the configuration into force as the files say it now."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.reload"


Request: TypeAlias = Export | Intervals | Report | Declarations | Declare | PublishedKey | Keys | Lease | Reload

_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_plain: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
_ERRORS: Final[Mapping[str, type[GatewayError]]] = {
    kind.__name__: kind for kind in (UsageError, ConfigError, LineDown, LineLent, ProtocolError)
}


def kind_of(request: Request) -> str:
    """``export``, ``lease`` and so on."""
    return str(request.__struct_config__.tag)


def header(kind: Frame, size: int) -> bytes:
    """The five bytes before a payload."""
    return HEADER.pack(kind, size)


def frame(kind: Frame, payload: bytes) -> bytes:
    """A whole frame."""
    return header(kind, len(payload)) + payload


def parse_header(data: bytes, kinds: frozenset[Frame], limit: int) -> tuple[Frame, int]:
    """Kind and length of what follows. Raises ProtocolError for another kind, or more than ``limit`` bytes."""
    number, size = HEADER.unpack(data)
    if number not in kinds:
        raise ProtocolError(f"a frame of kind {number}", where="control", hint=_VERSIONS)
    if size > limit:
        raise ProtocolError(f"a frame of {size} bytes", where="control", hint=f"At most {limit} are read")
    return Frame(number), size


def encode_request(request: Request) -> bytes:
    """The frame of a request."""
    return frame(Frame.REQUEST, msgspec.json.encode(request))


def decode_request(payload: bytes) -> Request:
    """The request of a payload. Raises ProtocolError for whatever is none."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # of msgspec, or too deep for it
        raise ProtocolError(clean_text(str(error), 200), where="request", hint=_VERSIONS) from None


def encode_facts(facts: Mapping[str, Any]) -> bytes:
    """The payload of PROGRESS and DONE."""
    return msgspec.json.encode(facts)


def decode_facts(payload: bytes) -> dict[str, Any]:
    """The reverse. Raises ProtocolError."""
    try:
        return _plain.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(clean_text(str(error), 200), where="answer", hint=_VERSIONS) from None


def encode_error(error: GatewayError) -> bytes:
    """The payload of FAILED."""
    kind = type(error).__name__
    return encode_facts({"type": kind if kind in _ERRORS else "", "what": error.what, "where": error.where,
                         "hint": error.hint})  # fmt: skip


def decode_error(payload: bytes) -> GatewayError:
    """The error that a FAILED tells, safe to show. Raises ProtocolError."""
    facts = decode_facts(payload)
    what, where, hint = (clean_text(str(facts.get(name, "")), 1000) for name in ("what", "where", "hint"))
    return _ERRORS.get(str(facts.get("type")), GatewayError)(what, where=where, hint=hint)


_VERSIONS: Final = "Are agent and tool of one version? `meterhouse status` shows the agent's"
