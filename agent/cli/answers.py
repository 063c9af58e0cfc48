"""Checks answers and snapshots of the agent before a command shows or writes them.

The agent's user may be compromised, so its answers must not control a technician's terminal or end a tool with a
traceback. Unknown members of an answer are kept. All functions raise GatewayError for a malformed answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from agent.cli.common import clean
from drivers.model import GatewayError, clean_text

Time = Annotated[float, Meta(ge=-62_000_000_000, le=253_000_000_000)]  # UTC seconds, in the years 5 to 9987
Seconds = Annotated[float, Meta(ge=-62_000_000_000, le=253_000_000_000)]  # a duration
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


def checked(found: Any, kind: Any, what: str) -> Any:
    """Return ``found`` without control characters in its texts. If it is not of type ``kind``, raises GatewayError.

    ``what``: name of the checked object in the error.
    """
    try:
        msgspec.convert(found, kind)
        return clean(found)
    except (msgspec.ValidationError, RecursionError) as error:
        raise unlike(what, str(error)) from None


def unlike(what: str, why: str) -> GatewayError:
    """Return the error for an answer that is not a valid ``what``."""
    reason = clean_text(why, 300)
    hint = (
        f"{reason}. Do the agent and this command have the same version? `meterhouse status` shows the agent's version"
    )
    return GatewayError(f"the agent's answer is not a valid {what}", where="answer", hint=hint)


def loaded(data: bytes, what: str) -> Any:
    """Parse JSON. Raises GatewayError also for NaN and infinities."""

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not a number")

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise unlike(what, str(error)) from None


# --- export, intervals, keys, reload


class Exported(TypedDict):
    """The summary that the agent sends after an export of packs."""

    packs: Count
    streams: list[str]
    warnings: list[str]


class CheckedStore(TypedDict):
    """The result of a check of the database."""

    packs: Count
    rows: Count
    findings: list[str]
    count: Count  # number of all findings
    set_aside: Count  # number of changed packs that the database keeps aside


class Rows(TypedDict):
    """The summary that the agent sends after an export of intervals."""

    rows: Count


def check_row(line: bytes, columns: int) -> list[Any]:
    """Return one row of intervals. It has ``columns`` cells, each a text, a whole number or None."""
    kind = Annotated[list[str | int | None], Meta(min_length=columns, max_length=columns)]
    row: list[Any] = checked(loaded(line, "row of intervals"), kind, "row of intervals")
    return row


class Published(TypedDict):
    """The newest published key. Its members are None if no key was published."""

    kid: Annotated[str, Meta(max_length=64)] | None


class _Change(TypedDict):
    kind: str
    name: str
    change: str
    keys: list[str]


class _Reloaded(TypedDict):
    ok: bool
    config: Annotated[str, Meta(min_length=1, max_length=100)]
    changed: str
    complaints: list[str]
    fault: bool
    left_out: NotRequired[Count]
    changes: NotRequired[list[_Change]]
    warnings: NotRequired[list[str]]


def check_reloaded(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a reload. Raises GatewayError if ``ok`` contradicts the complaints or the fault."""
    outcome: dict[str, Any] = checked(found, _Reloaded, "outcome of a reload")
    if outcome["ok"] == bool(outcome["complaints"] or outcome["fault"]):
        raise unlike("outcome of a reload", "the JSON members contradict each other")
    return outcome


# --- declarations


class _By(TypedDict):
    uid: Count
    login: NotRequired[str]


_Entry = TypedDict(
    "_Entry",
    {
        "id": str, "n": str, "v": str, "u": str, "who": str, "at": Time, "from": Time, "to": NotRequired[Time],
        "document": NotRequired[str], "replaces": NotRequired[str], "by": NotRequired[_By],
        "in_force": NotRequired[bool],
    },
)  # fmt: skip


class Declared(TypedDict):
    """All declarations."""

    entries: list[_Entry]


class Accepted(TypedDict):
    """The declaration that was stored."""

    entry: _Entry


# --- handovers


class _PackPlace(TypedDict):
    stream: str
    boot: str
    seq: Count
    hash: str


class _Read(TypedDict):
    n: str
    u: str
    v: str
    t: Time
    q: NotRequired[str]


class _Handed(TypedDict):
    device: str
    line: str
    address: str
    url: str
    profile: str
    state: str
    identity: dict[str, str]
    label: NotRequired[str]
    reading: NotRequired[_Read]
    display: NotRequired[str]
    resolution: NotRequired[str]
    difference: NotRequired[str]
    agrees: NotRequired[bool]
    remark: NotRequired[str]


class _HandoverEvent(TypedDict):
    id: str
    t: Time
    who: str
    by: _By
    devices: list[_Handed]
    remarks: NotRequired[str]


class HandedOver(TypedDict):
    """A signed record of commissioning, and the packs that contain it."""

    events: Annotated[list[_HandoverEvent], Meta(min_length=1)]
    packs: list[_PackPlace]
    thumbprint: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]


# --- the snapshot


class _Table(TypedDict):
    stream: str
    points: list[_Point] | Count  # a number refers to another table, which has the same points


class _Point(TypedDict):
    n: str
    u: str
    kind: str
    float: NotRequired[bool]


class _Recent(TypedDict, total=False):
    to: Time
    settled: bool
    due: Count
    readings: Count
    complete: float | None
    missing: dict[str, Count]
    not_asked: Count
    marked: dict[str, Count]


_RecentFrom = TypedDict("_RecentFrom", {"from": Time})


class _RecentWhole(_Recent, _RecentFrom):
    """Adds the member ``from``. A class body cannot declare this member, because ``from`` is a keyword of Python."""


class _Swapped(TypedDict):
    t: Time
    what: str


class _Answers(TypedDict):
    sound: Count
    broken: Count
    mismatches: Count
    broken_share: float | None


class _Still(TypedDict):
    since: Time
    values: Count
    zero: bool


class _IdleCounter(TypedDict):
    since: Time
    counter: str
    power: str
    least_w: float


_Jump = TypedDict("_Jump", {"counter": str, "u": str, "from": str, "to": str, "t": Time})


class _Device(TypedDict, total=False):
    line: str
    address: str
    profile: str
    variant: str | None
    identity: dict[str, str | None] | None
    learned: str | None
    life: str
    added: Time
    last_answer: Time | None
    silent_for: Seconds
    answering_since: Time | None
    dead_after: float
    may_sleep: bool
    line_down: bool
    gateway_answers: bool
    garbled: bool
    error: str | None
    answers: _Answers
    still: _Still | None
    idle_counter: _IdleCounter | None
    counter_jump: _Jump | None
    recent: _RecentWhole | None
    swapped: _Swapped | None


class _Line(TypedDict, total=False):
    url: str
    open: bool
    lent: str | None
    busy_share: float
    sent: dict[str, Count]
    answers: Count
    timeouts: Count
    broken: Count
    mismatches: Count
    exceptions: Count
    stale: Count
    foreign: Count
    open_failures: Count
    lost: Count


class _Config(TypedDict, total=False):
    complaints: list[str]
    roleless: list[str]


class _SetAside(TypedDict, total=False):
    at: Time
    file: str
    declarations: Count | None
    devices: Count | None


class _Damaged(TypedDict):
    at: Time
    file: str


class _Store(TypedDict, total=False):
    trouble: str | None
    path: str
    size_bytes: Count
    limit_bytes: Count
    disk_free_bytes: Count
    unused_bytes: Count
    packs: Count
    pending: dict[str, Count]
    undelivered: Count | None
    lost_packs: Count
    lost_at: Time | None
    warnings: list[str]
    set_aside: _SetAside | None
    damaged: _Damaged | None


class _Certificate(TypedDict):
    file: str
    what: str
    ends: Time | None
    error: str | None


class _Uplink(TypedDict, total=False):
    connected: bool
    since: Time | None
    subscriber: bool | None
    waiting: Count
    confirmed: Count
    refused: Count
    backfilling: bool
    confirm: str | None
    set_aside: Count
    error: str | None
    hint: str | None
    certificates: list[_Certificate]


class _ClockSet(TypedDict):
    by: Seconds
    age: Seconds


class _Clock(TypedDict, total=False):
    synced: bool | None
    error_ms: float | None
    behind_store: float | None
    set: _ClockSet | None


class _Repair(TypedDict):
    compared_from: Time
    packs_from: Time
    streams: Count


class _Intervals(TypedDict, total=False):
    reading: Count
    repair: _Repair | None
    stopped: list[str]
    waits: str


class _Key(TypedDict, total=False):
    thumbprint: str
    trouble: str | None
    cannot_sign: str | None


class _Snapshot(TypedDict, total=False):
    site: str
    gateway: str
    version: str
    boot: str
    time: Time
    started: Time
    running_for: Seconds
    pid: int
    ring: Annotated[str, Meta(pattern=r"^ring[A-Za-z0-9._-]{0,100}\Z")]
    key: _Key
    config: _Config
    devices: dict[str, _Device]
    lines: dict[str, _Line]
    uplinks: dict[str, _Uplink]
    clock: _Clock
    store: _Store
    intervals: _Intervals
    tables: dict[Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")], _Table]


def check_snapshot(data: bytes) -> dict[str, Any]:
    """Check and return the snapshot of an agent. It has at least ``pid``, ``time`` and ``ring``."""

    def not_one(why: str) -> GatewayError:
        return GatewayError("this is not a snapshot of an agent", where="snapshot.json", hint=why)

    try:
        found = loaded(data, "snapshot of an agent")
    except GatewayError:
        raise not_one("the content is not JSON") from None
    try:
        msgspec.convert(found, _Snapshot)
    except (msgspec.ValidationError, RecursionError) as error:
        place = re.search(r"`\$\.?([^`]+)`", str(error))
        raise not_one(
            f"the JSON member {place[1]} is not valid" if place else "the content is not a JSON object"
        ) from None
    if lacking := [name for name in ("pid", "time", "ring") if not found.get(name)]:
        raise not_one(f"these JSON members are missing: {', '.join(lacking)}")
    whole: dict[str, Any] = clean(found)
    return whole
