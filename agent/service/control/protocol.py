"""The requests on the control socket: their kinds, the rights that they need, and the interface of handlers.

Agent and tools share this module. A request is a JSON object with ``version``, ``kind`` and the members of this kind.
Any other member is an error, so that an older agent does not ignore an option of a newer tool.
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
END_MS: Final = 1 << 52  # the largest time in a request, in UTC ms
DECIMAL: Final = r"^-?[0-9]{1,25}(\.[0-9]{1,12})?\Z"
# the largest ``now_ms``, in the year 2199, because calendars cannot reach END_MS
LAST_NOW_MS: Final = 7_258_000_000_000

Text = Annotated[str, Meta(max_length=400)]
TimeMs = Annotated[int, Meta(ge=0, le=END_MS)]
Kid = Annotated[str, Meta(max_length=64)]


class RequestBase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The members that every request has."""

    version: Literal[1] = 1

    right: ClassVar[Right] = Right.LOOK
    module: ClassVar[str] = ""  # the module whose ``answer`` serves the request; it is imported when it is first needed


class RangeRequest(RequestBase, frozen=True):
    """A request about ``[from_ms, to_ms)``.

    ``streams``: only streams with these last parts of their names, such as ``inv1``; empty: all streams.
    """

    from_ms: TimeMs
    to_ms: TimeMs
    streams: Annotated[list[Text], Meta(max_length=1000)] = []

    def __post_init__(self) -> None:
        if self.from_ms >= self.to_ms:
            raise ValueError("from_ms must be before to_ms")


class Export(RangeRequest, frozen=True, tag="export"):
    """Get the signed objects of a time range."""

    module: ClassVar[str] = "agent.service.control.export"


class Intervals(RangeRequest, frozen=True, tag="intervals"):
    """Get the intervals of a time range, as rows."""

    module: ClassVar[str] = "agent.service.control.export"


class KnownAnswer(RequestBase, frozen=True, kw_only=True):
    """A request whose answer the client may keep (see ``agent.service.control.period``).

    ``now_ms`` is the client's time, which is used only if no agent runs. ``unless`` and ``after_change`` are the
    ``stamp`` and ``change`` of the answer that the client already has. A member with its default value is not sent, so
    that an older agent that does not know the member can answer.
    """

    now_ms: Annotated[int, Meta(ge=0, le=LAST_NOW_MS)]
    unless: Annotated[str, Meta(max_length=64)] = ""
    after_change: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None


class PeriodReport(KnownAnswer, frozen=True, kw_only=True, omit_defaults=True, tag="report"):
    """Get the report of a period. ``day``: any date in the period; "" means today."""

    module: ClassVar[str] = "agent.service.control.pages"

    period: Literal["day", "month", "year", "rolling"]
    day: Annotated[str, Meta(max_length=10)] = ""
    by: Literal["hour", "interval"] = "hour"


class Day(KnownAnswer, frozen=True, kw_only=True, omit_defaults=True, tag="day"):
    """Get a day by intervals.

    ``day``: a date; "" means today. ``streams``: last parts of names. If it is empty, the answer has the site's roles
    and the totals of each device. Otherwise it has only the devices in ``streams``, with their points and gaps.
    ``points``: only points with these names; empty: the main points.
    """

    module: ClassVar[str] = "agent.service.control.pages"

    day: Annotated[str, Meta(max_length=10)] = ""
    streams: Annotated[list[Text], Meta(max_length=20)] = []
    points: Annotated[list[Text], Meta(max_length=24)] = []


class Days(KnownAnswer, frozen=True, omit_defaults=True, tag="days"):
    """List the days that have intervals."""

    module: ClassVar[str] = "agent.service.control.pages"


class Birth(RequestBase, frozen=True, tag="birth"):
    """Get the birth in effect at pack ``seq`` of a stream. ``seq`` 0: the newest birth.

    ``stream`` is the last part of the stream's name.
    """

    module: ClassVar[str] = "agent.service.control.pages"

    stream: Text
    seq: Annotated[int, Meta(ge=0, lt=1 << 53)] = 0


class Pack(RequestBase, frozen=True, tag="pack"):
    """Get a pack of a stream, as it was published. ``stream`` is the last part of the stream's name."""

    module: ClassVar[str] = "agent.service.control.pages"

    stream: Text
    seq: Annotated[int, Meta(ge=1, lt=1 << 53)]


class Declarations(RequestBase, frozen=True, tag="declarations"):
    """List all declarations."""

    module: ClassVar[str] = "agent.service.control.attest"


class Declare(RequestBase, frozen=True, tag="declare"):
    """Add a declaration: a value that a person attests. ``from_`` and ``to`` are in UTC seconds."""

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


class ComparedDevice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One device of a handover. A member with its default value is not sent, so that an older agent can answer.

    ``n``, ``t_ms`` and ``v`` are point, time and value of a recorded reading. ``display`` is the value that a person
    read on the display of the device, in the unit of the point; "" if nobody read it. ``resolution`` is the unit of
    the display's last digit if it is more than 1, as on a display that shows a larger unit; otherwise "".
    """

    device: Text
    n: Annotated[str, Meta(max_length=200)] = ""
    t_ms: TimeMs = 0
    v: Annotated[str, Meta(max_length=40, pattern=DECIMAL)] = "0"
    display: Annotated[str, Meta(max_length=40, pattern=rf"\A\Z|{DECIMAL}")] = ""
    resolution: Annotated[str, Meta(max_length=40, pattern=r"\A\Z|^10{1,12}\Z")] = ""
    remark: Text = ""


class Handover(RequestBase, frozen=True, tag="handover"):
    """Sign a record of commissioning."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.attest"

    who: Annotated[str, Meta(min_length=1, max_length=200)]
    devices: Annotated[list[ComparedDevice], Meta(min_length=1, max_length=1000)]
    remarks: Annotated[str, Meta(max_length=2000)] = ""


class CheckStore(RequestBase, frozen=True, tag="check_store"):
    """Check the whole database. Packs that were changed in it are restored, or deleted and stated as lost."""

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.store"


class PublishedKey(RequestBase, frozen=True, tag="key"):
    """Get the thumbprint of the newest key that this gateway has published."""

    module: ClassVar[str] = "agent.service.control.keys"


class Keys(RequestBase, frozen=True, tag="keys"):
    """Get, for each stream, the last sequence that key ``kid`` or one of its predecessors (``before``) signed.

    ``until_ms``: only packs that end at or before this time count. With ``hold``, the agent answers and then seals
    nothing until another key is active, for at most ten seconds. Only root and the agent's user may use ``hold``.
    """

    right: ClassVar[Right] = Right.CHANGE
    module: ClassVar[str] = "agent.service.control.keys"

    kid: Kid
    until_ms: TimeMs | None = None
    before: Annotated[list[Kid], Meta(max_length=1000)] = []
    hold: bool = False


class Lease(RequestBase, frozen=True, tag="lease"):
    """Lease a line while the connection is open, for at most ``seconds``."""

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
    | CheckStore
    | PublishedKey
    | Keys
    | Lease
    | Reload
)

_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def kind_of(request: Request) -> str:
    """Return the name of the kind of a request, such as ``export`` or ``lease``."""
    return str(request.__struct_config__.tag)


def encode_request(request: Request) -> bytes:
    """Encode a request as a frame."""
    return frame(FrameKind.REQUEST, msgspec.json.encode(request))


def decode_request(payload: bytes) -> Request:
    """Decode the payload of a REQUEST frame. Raises ProtocolError."""
    try:
        return _decoder.decode(payload)
    # the JSON is malformed, or nested too deeply
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(clean_text(str(error), 200), where="request", hint=VERSIONS) from None


# --- serving a request


class Access(Protocol):
    """The objects that a handler may use.

    In a running agent, ``call`` and ``compute`` use the agent's threads. Where no agent runs, they use the database
    directly.
    """

    @property
    def config(self) -> Config: ...
    @property
    def caller(self) -> Caller: ...
    @property
    def service(self) -> Any: ...  # the ``agent.service.app.Service``; None where no agent runs

    async def call(self, function: Callable[[Store], T]) -> T:
        """Run a short function in the database thread. Sealing waits for it, so split larger work into slices."""

    async def compute(self, function: Callable[[], T]) -> T:
        """Run a function in another thread. The function must not use the store.

        The functions of all requests run one after the other, and take at most half of the time.
        """


class Reply(Protocol):
    """Sends an answer in pieces. When ``answer`` returns, its return value is sent last."""

    async def part(self, data: bytes) -> None:
        """Send a piece of at most about a megabyte. Waits until the client has read the previous pieces."""

    def progress(self, done: int, total: int) -> None:
        """Set the numbers that the next PROGRESS frames contain, for a progress bar."""

    def rest(self) -> None:
        """Send no more PROGRESS frames, because the client does not read the socket until the end."""


Handler = Callable[[Access, Any, Reply], Awaitable[Mapping[str, Any]]]
