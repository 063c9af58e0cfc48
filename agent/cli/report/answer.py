"""The types of a report that the agent sends. The report is checked like any answer (``agent.cli.answers``)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict
from zoneinfo import ZoneInfo

from msgspec import Meta

from agent.cli.answers import Count, Time, checked, loaded, unlike
from agent.indicators.definitions import PeriodKind
from agent.indicators.factors import Status
from agent.indicators.figure import Basis, Verdict
from agent.intervals.balance import BalanceVerdict

# a number as text with all digits, as ``decimal_text`` writes it
Number = Annotated[str, Meta(pattern=r"^-?[0-9]{1,24}(\.[0-9]{1,60})?\Z")]
NumberOrNone = Annotated[str, Meta(pattern=r"^(-?[0-9]{1,24}(\.[0-9]{1,60})?)?\Z")]
Title = dict[str, str]

_Period = TypedDict("_Period", {"from": Time, "to": Time, "until": Time, "kind": PeriodKind, "label": str})


class _Named(TypedDict):
    n: str
    title: Title


class _Sum(TypedDict):
    v: Number
    u: str


class _Input(TypedDict):
    basis: Basis
    n: str
    v: Number
    u: str
    title: Title
    completeness: NotRequired[Number]  # this member is present if ``basis`` is "metered"
    estimated: NotRequired[Number]
    note: NotRequired[str]


class _Factor(TypedDict):
    id: str
    source: str
    status: Status
    u: str
    v: str
    published: NotRequired[str]


class _Formula(TypedDict):
    hash: str


class _Labelled(TypedDict):
    label: str
    v: NumberOrNone


class _Drag(TypedDict):
    n: str
    title: Title
    v: Number
    u: str
    share: NumberOrNone


class _Figure(TypedDict):
    id: str
    completeness: Number
    estimated: Number
    factors: list[_Factor]
    formula: _Formula
    inputs: list[_Input]
    official: bool
    u: str
    verdict: Verdict
    title: Title
    note: Title
    gate: Literal["", "core", "guiding"]
    monitoring: bool
    lacking: list[_Named]
    trend: list[_Labelled]
    drags: list[_Drag]
    v: NotRequired[Number]
    numerator: NotRequired[_Sum]
    denominator: NotRequired[_Sum]
    threshold: NotRequired[dict[Literal["at_most", "at_least", "above", "below"], Number]]
    zero: NotRequired[list[Title]]
    worst: NotRequired[_Labelled]
    unmetered: NotRequired[bool]


class _Set(TypedDict):
    id: str
    title: Title
    source: str


class _Excluded(TypedDict):
    id: str
    title: Title
    why: str


_Hour = TypedDict(
    "_Hour",
    {
        "from": Time, "to": Time, "complete": bool, "consumption": Number, "own": Number, "direct": Number,
        "storage": Number, "grid": Number, "exported": Number,
    },
)  # fmt: skip
_Unknown = TypedDict("_Unknown", {"from": Time, "to": Time})


class _Issued(TypedDict):
    label: str
    traded: Count
    held: Count
    traded_rest: Number
    held_rest: Number


class _Trace(TypedDict):
    consumption: Number
    own: Number
    direct: Number
    storage: Number
    grid: Number
    certified: Number
    incomplete: Count
    at_the_time: NumberOrNone
    with_certificates: NumberOrNone
    hours: list[_Hour]
    issued: list[_Issued]
    known: NotRequired[Number]
    missing: NotRequired[list[_Unknown]]


class _Flow(TypedDict):
    n: str
    v: Number


class _Node(TypedDict):
    n: str
    against: str
    u: str
    verdict: BalanceVerdict
    own: NotRequired[Number]
    others: NotRequired[Number]
    residual: NotRequired[Number]
    allowed: NotRequired[Number]
    unknown: NotRequired[list[str]]


class _Balance(TypedDict):
    u: str
    given: Number
    trend: list[_Labelled]
    counts: dict[BalanceVerdict, Count]
    verdict: NotRequired[BalanceVerdict]  # this member is present if ``missing`` or ``residual`` is present
    missing: NotRequired[list[str]]
    residual: NotRequired[Number]
    allowed: NotRequired[Number]  # this member is present if ``residual`` is present
    inputs: NotRequired[list[_Flow]]
    outputs: NotRequired[list[_Flow]]
    nodes: NotRequired[list[_Node]]
    unknown: NotRequired[list[str]]


class _Derived(TypedDict):
    id: str
    v: NotRequired[Number]
    u: NotRequired[str]  # this member and ``completeness`` are present if ``v`` is present
    completeness: NotRequired[Number]
    missing: NotRequired[list[str]]  # this member is present if ``v`` is absent


class _Series(TypedDict):
    n: str
    title: Title
    v: list[NumberOrNone]
    known: list[Number]


class _Curve(TypedDict):
    u: str
    slots: list[Time]
    ends: list[Time]
    series: list[_Series]


class _Amount(TypedDict):
    n: str
    v: Number | None  # None: unknown
    u: str


class _Meter(TypedDict):
    n: str
    role: str
    flows: list[_Amount]
    known: Number
    missing: list[_Unknown]


class _Silence(TypedDict):
    """The fields of ``agent.cli.findings.Silence``."""

    since_s: Time
    answered: bool


class _Device(TypedDict):
    """A device with missing readings.

    ``missing``: reason -> (ms in which at least one point was missing, ms in which all points were missing).
    """

    device: str
    missing: dict[str, tuple[Count, Count]]
    gaps_from: Time | None
    label: NotRequired[str]
    silent: NotRequired[_Silence]  # the agent does not send this member; `report` adds it from the snapshot


class _Page(TypedDict):
    site: str
    gateway: str
    label: str
    timezone: str
    period: _Period
    sets: list[_Set]
    figures: list[_Figure]
    excluded: list[_Excluded]
    trace: _Trace
    balance: NotRequired[_Balance | None]
    derived: NotRequired[list[_Derived]]
    curve: NotRequired[_Curve]
    meters: NotRequired[list[_Meter]]
    devices: list[_Device]


def check_page(data: bytes) -> dict[str, Any]:
    """Decode and check a report. Raises GatewayError if the data are not a valid report."""
    page: dict[str, Any] = checked(loaded(data, "report"), _Page, "report")
    try:
        ZoneInfo(page["timezone"])
    except (ValueError, KeyError, OSError):
        raise unlike("report", f"unknown time zone {page['timezone']!r}") from None
    balance = page.get("balance") or {}
    wanted = {"verdict"} if balance.get("missing") else {"verdict", "allowed"} if "residual" in balance else set()
    lacking = wanted - balance.keys()
    for one in (one for figure in page["figures"] for one in figure["inputs"] if one["basis"] == "metered"):
        lacking |= {"completeness"} - one.keys()
    for one in page.get("derived", ()):
        lacking |= ({"u", "completeness"} if "v" in one else {"missing"}) - one.keys()
    curve = page.get("curve") or {"slots": [], "ends": [], "series": []}
    lengths = {len(curve["slots"]), len(curve["ends"])}
    if len(lengths | {len(one[key]) for one in curve["series"] for key in ("v", "known")}) != 1:
        raise unlike("report", "the series of the curve have different lengths")
    if lacking:
        raise unlike("report", f"these JSON members are missing: {', '.join(sorted(lacking))}")
    return page
