"""Checks answers and snapshots of the agent before a command shows or writes them.

The agent's user may be compromised: its texts must not control a technician's terminal or end a tool with a traceback.
Unknown members pass through. All functions raise GatewayError for a malformed answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from agent.cli.common import clean
from drivers.model import GatewayError, clean_text

Time = Annotated[float, Meta(ge=-62_000_000_000, le=253_000_000_000)]  # seconds; with any zone a date of four digits
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


def checked(found: Any, kind: Any, what: str) -> Any:
    """``found`` with its texts cleaned, if it is of this kind; ``what`` names that in the error."""
    try:
        msgspec.convert(found, kind)
        return clean(found)
    except (msgspec.ValidationError, RecursionError) as error:
        raise unlike(what, str(error)) from None


def unlike(what: str, why: str) -> GatewayError:
    """The answer does not match the request."""
    hint = f"{clean_text(why, 300)}. Are agent and tool of one version? `meterhouse status` shows the agent's"
    return GatewayError(f"the answer is not a valid {what}", where="answer", hint=hint)


def loaded(data: bytes, what: str) -> Any:
    """JSON, without numbers that are none."""

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not a number")

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise unlike(what, str(error)) from None


# --- export, intervals, keys, reload


class Exported(TypedDict):
    """The end of an export."""

    packs: Count
    streams: list[str]
    warnings: list[str]


class Rows(TypedDict):
    """The end of an export of intervals."""

    rows: Count


def check_row(line: bytes, columns: int) -> list[Any]:
    """One row of intervals: as many cells, each text, a whole number or None."""
    kind = Annotated[list[str | int | None], Meta(min_length=columns, max_length=columns)]
    row: list[Any] = checked(loaded(line, "row of intervals"), kind, "row of intervals")
    return row


class Published(TypedDict):
    """The newest key that was published."""

    kid: Annotated[str, Meta(max_length=64)] | None


class _Reloaded(TypedDict):
    ok: bool
    config: Annotated[str, Meta(min_length=1, max_length=100)]
    changed: str
    complaints: list[str]
    fault: bool
    left_out: NotRequired[Count]


def check_reloaded(found: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a reload; ``ok`` if and only if there are neither complaints nor a fault."""
    outcome: dict[str, Any] = checked(found, _Reloaded, "outcome of a reload")
    if outcome["ok"] == bool(outcome["complaints"] or outcome["fault"]):
        raise unlike("outcome of a reload", "it is contradictory")
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


# --- the snapshot


class _Table(TypedDict):
    stream: str
    points: list[_Point]


class _Point(TypedDict):
    n: str
    u: str
    kind: str
    float: NotRequired[bool]


class _Device(TypedDict, total=False):
    last_answer: Time | None


class _Line(TypedDict, total=False):
    lent: str | None
    busy_share: float
    sent: dict[str, Count]


class _Config(TypedDict, total=False):
    complaints: list[str]


class _Store(TypedDict, total=False):
    warnings: list[str]


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


class _Snapshot(TypedDict, total=False):
    time: Time
    started: Time
    pid: int
    ring: Annotated[str, Meta(pattern=r"^ring[A-Za-z0-9._-]{0,100}\Z")]
    key: _Key
    config: _Config
    devices: dict[str, _Device]
    lines: dict[str, _Line]
    uplinks: dict[str, dict[str, Any]]
    store: _Store
    intervals: _Intervals
    tables: dict[Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")], _Table]


def check_snapshot(data: bytes) -> dict[str, Any]:
    """The snapshot of an agent."""
    found: dict[str, Any] = checked(loaded(data, "snapshot of an agent"), _Snapshot, "snapshot of an agent")
    return found
