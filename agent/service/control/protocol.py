"""Requests on the control socket: their kinds, who may send which, and what a handler gets. Shared by agent and tools.

A request is a JSON object: ``version``, ``kind`` and the members of that kind; any other member is refused, so that an
older agent never ignores what a newer tool meant.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from agent.service.control.frames import VERSIONS, FrameKind, ProtocolError, frame
from agent.service.control.peer import Caller, Right
from drivers.model import clean_text

if TYPE_CHECKING:
    from agent.config import Config
    from agent.store import Store

T = TypeVar("T")
LONGEST_LEASE_S: Final = 900
END_MS: Final = 1 << 52  # the end of time
DECIMAL: Final = r"^-?[0-9]{1,25}(\.[0-9]{1,12})?\Z"
LAST_NOW_MS: Final = 7_258_000_000_000  # in 2199: calendars end before END_MS

Text = Annotated[str, Meta(max_length=400)]
TimeMs = Annotated[int, Meta(ge=0, le=END_MS)]
Kid = Annotated[str, Meta(max_length=64)]


class RequestBase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Members of all requests."""

    version: Literal[1] = 1

    right: ClassVar[Right] = Right.LOOK
    module: ClassVar[str] = ""  # its ``answer`` serves the request; imported with the first one


class RangeRequest(RequestBase, frozen=True):
    """``[from_ms, to_ms)`` of some streams (last parts of names; none: all)."""

    from_ms: TimeMs
    to_ms: TimeMs
    streams: Annotated[list[Text], Meta(max_length=1000)] = []

    def __post_init__(self) -> None:
        if self.from_ms >= self.to_ms:
            raise ValueError("from_ms must be before to_ms")


class Export(RangeRequest, frozen=True, tag="export"):
    """Signed objects of a stretch of time."""

    module: ClassVar[str] = "agent.service.control.export"


class Intervals(RangeRequest, frozen=True, tag="intervals"):
    """Rows of intervals of a stretch of time."""

    module: ClassVar[str] = "agent.service.control.export"


class KnownAnswer(RequestBase, frozen=True, kw_only=True):
    """A request whose answer the client may keep. Members not given are not sent, so that an older agent answers too.

    ``now_ms`` is used only if no agent runs. ``unless``: the ``stamp`` of the answer that the client has;
    ``after_change``: its ``change`` (see ``agent.service.control.period``).
    """

    now_ms: Annotated[int, Meta(ge=0, le=LAST_NOW_MS)]
    unless: Annotated[str, Meta(max_length=64)] = ""
    after_change: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None


class PeriodReport(KnownAnswer, frozen=True, kw_only=True, omit_defaults=True, tag="report"):
    """The page of a period. ``day`` is any date in it, "" today."""

    module: ClassVar[str] = "agent.service.control.pages"

    period: Literal["day", "month", "year", "rolling"]
    day: Annotated[str, Meta(max_length=10)] = ""
    by: Literal["hour", "interval"] = "hour"


class Day(KnownAnswer, frozen=True, kw_only=True, omit_defaults=True, tag="day"):
    """A day by intervals: the site and each device, or some devices (last parts of names) with their points and gaps.

    ``day`` is a date, "" today. ``points``: only these points of the devices; none: the main ones.
    """

    module: ClassVar[str] = "agent.service.control.pages"

    day: Annotated[str, Meta(max_length=10)] = ""
    streams: Annotated[list[Text], Meta(max_length=20)] = []
    points: Annotated[list[Text], Meta(max_length=24)] = []


class Days(KnownAnswer, frozen=True, omit_defaults=True, tag="days"):
    """The days that have intervals."""

    module: ClassVar[str] = "agent.service.control.pages"


class Birth(RequestBase, frozen=True, tag="birth"):
    """The birth in effect at pack ``seq`` of a stream (last part of its name); 0: the newest."""

    module: ClassVar[str] = "agent.service.control.pages"

    stream: Text
    seq: Annotated[int, Meta(ge=0, lt=1 << 53)] = 0


class Pack(RequestBase, frozen=True, tag="pack"):
    """One pack of a stream (last part of its name), as it was published."""

    module: ClassVar[str] = "agent.service.control.pages"

    stream: Text
    seq: Annotated[int, Meta(ge=1, lt=1 << 53)]


class Declarations(RequestBase, frozen=True, tag="declarations"):
    """All declarations so far."""

    module: ClassVar[str] = "agent.service.control.attest"


class Declare(RequestBase, frozen=True, tag="declare"):
    """One entry that a person attests; ``from_`` and ``to`` in UTC seconds."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.attest"

    n: Text
    v: Text
    u: Text
    who: Text
    from_: float = msgspec.field(name="from")
    to: float | None = None
    document: Text = ""
    replaces: Text = ""


class ComparedDevice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device of a handover. ``n``, ``t_ms``, ``v``: its recorded reading; ``display``: what its display showed."""

    device: Text
    n: Annotated[str, Meta(max_length=200)] = ""
    t_ms: TimeMs = 0
    v: Annotated[str, Meta(max_length=40, pattern=DECIMAL)] = "0"
    display: Annotated[str, Meta(max_length=40, pattern=rf"\A\Z|{DECIMAL}")] = ""
    remark: Text = ""


class Handover(RequestBase, frozen=True, tag="handover"):
    """A record of commissioning, to be signed."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.attest"

    who: Annotated[str, Meta(min_length=1, max_length=200)]
    devices: Annotated[list[ComparedDevice], Meta(min_length=1, max_length=1000)]
    remarks: Annotated[str, Meta(max_length=2000)] = ""


class PublishedKey(RequestBase, frozen=True, tag="key"):
    """The newest key that this gateway has published."""

    module: ClassVar[str] = "agent.service.control.keys"


class Keys(RequestBase, frozen=True, tag="keys"):
    """The last sequences that a key or a predecessor signed, up to a time if one is given.

    With ``hold`` (root and the agent's user only) sealing is paused from the answer on until another key is active.
    """

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.keys"

    kid: Kid
    until_ms: TimeMs | None = None
    before: Annotated[list[Kid], Meta(max_length=1000)] = []
    hold: bool = False


class Lease(RequestBase, frozen=True, tag="lease"):
    """Lease a line while the connection is open, for at most this many seconds."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.running"

    line: Text
    purpose: Literal["read", "identify", "scan"]
    seconds: Annotated[float, Meta(gt=0, le=LONGEST_LEASE_S)] = LONGEST_LEASE_S


class Reload(RequestBase, frozen=True, tag="reload"):
    """Apply the current configuration files."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.running"


Request: TypeAlias = (
    Export
    | Intervals
    | PeriodReport
    | Day
    | Days
    | Birth
    | Pack
    | Declarations
    | Declare
    | Handover
    | PublishedKey
    | Keys
    | Lease
    | Reload
)

_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def kind_of(request: Request) -> str:
    """``export``, ``lease`` and so on."""
    return str(request.__struct_config__.tag)


def encode_request(request: Request) -> bytes:
    """The frame of a request."""
    return frame(FrameKind.REQUEST, msgspec.json.encode(request))


def decode_request(payload: bytes) -> Request:
    """The request in a payload. Raises ProtocolError for anything else."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # malformed, or nested too deep
        raise ProtocolError(clean_text(str(error), 200), where="request", hint=VERSIONS) from None


# --- serving a request


class Access(Protocol):
    """What a request may use: in a running agent through its threads, otherwise the database directly."""

    @property
    def config(self) -> Config: ...
    @property
    def caller(self) -> Caller: ...
    @property
    def service(self) -> Any: ...  # agent.service.app.Service; None where no agent runs

    async def call(self, function: Callable[[Store], T]) -> T:
        """Run briefly in the database thread: sealing waits meanwhile. Long work must be cut into slices."""

    async def compute(self, function: Callable[[], T]) -> T:
        """Run work without the store in another thread: one request at a time, at most half of the time."""


class Reply(Protocol):
    """Takes an answer piece by piece; the return value of ``answer`` ends it."""

    async def part(self, data: bytes) -> None:
        """Send bytes to the client, in order, up to about a megabyte; waits while the client is behind."""

    def progress(self, done: int, total: int) -> None:
        """Report progress, for a progress bar."""

    def rest(self) -> None:
        """Send no more PROGRESS until the end: the client does not read meanwhile."""


Handler = Callable[[Access, Any, Reply], Awaitable[Mapping[str, Any]]]
