"""The state of the fleet: verified and missing packs, reasons of gaps, findings, gateways that are late."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from receiver.database import Connection, parse_shards, statement
from receiver.shards import Away, each_shard

LATE_S: Final = 300
MOST_UNKNOWN: Final = 1000  # at most this many unknown gateways of each database are listed
_GATEWAYS: Final = statement("fleet")
_LIKE: Final = "%(like)s::text IS NULL OR gateway = %(like)s::text OR starts_with(gateway, %(like)s::text || '/')"
_UNKNOWN: Final = (
    f"SELECT gateway, thumbprint, count(*) OVER () FROM unknown_gateways WHERE {_LIKE} "
    f"ORDER BY seen DESC LIMIT {MOST_UNKNOWN}".encode()
)
_LOTS_WAITING: Final = f"""
SELECT count(*) FROM lots l WHERE l.checked IS NULL AND l.stored < now() - interval '1 minute'
AND (%(like)s::text IS NULL OR EXISTS
  (SELECT FROM packs p JOIN streams s ON s.id = p.stream WHERE p.lot = l.lot AND ({_LIKE})))""".encode()
_UNSETTLED: Final = f"""
SELECT count(*) FROM packs p JOIN streams s ON s.id = p.stream WHERE p.due IS NULL AND ({_LIKE})""".encode()


@dataclass(slots=True)
class GatewayState:
    """The state of a gateway.

    Stored packs, readings, gaps with their reasons, and refusals are counted from the requested day on. Missing packs
    and findings are counted over all time.
    """

    name: str
    newest_ms: int | None
    packs: int
    readings: int
    due: int
    gaps: int
    asleep: int
    missing: int  # number of packs that are missing between stored packs
    lost: int  # number of packs that the gateway itself declares lost
    withheld: int  # number of packs after the newest stored pack, up to the head in the newest checkpoint
    findings: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    online: bool | None = None
    version: str | None = None
    # number of due readings in missing packs; for each hole it is estimated from the rate of the pack after the hole
    due_missing: int = 0
    refused_codes: dict[str, int] = field(default_factory=dict)
    refused_why: str = ""  # reason of the last refused message
    refused_at: datetime | None = None
    unasked: list[str] = field(default_factory=list)  # streams that sent packs although they were not agreed
    # agreed streams that are named neither by a pack nor by a checkpoint
    unnamed: list[str] = field(default_factory=list)
    restarts: int = 0  # how often a stream has begun a new history instead of continuing its old one
    torn: int = 0  # number of pages of the newest checkpoint that were not received
    # number of packs that have waited for more than a minute for their birth, or for another part of their tick
    unsettled: int = 0

    @property
    def verdict(self) -> str:
        """``failed`` if a signed object is invalid, ``silent`` if no pack has come yet, ``incomplete`` if data are
        missing.

        Otherwise ``verified``. Refused messages do not change the verdict: anyone who may publish can send them, so
        they prove nothing.
        """
        if self.findings:
            return "failed"
        if self.newest_ms is None:
            return "silent"
        absent = self.missing or self.withheld or self.unnamed or self.unsettled or self.restarts or self.torn
        return "incomplete" if absent else "verified"

    @property
    def received(self) -> int:
        """The number of due readings that are stored. (``readings`` also counts states and texts, which are never
        due.)
        """
        return self.due - self.gaps

    @property
    def completeness(self) -> float | None:
        """The share of the due readings that were received. None if no reading was due.

        Readings in missing packs count as due. Readings that were due while a device was asleep do not.
        """
        due = self.due - self.asleep + self.due_missing
        return self.received / due if due > 0 else None

    def late_s(self, now_s: float) -> float:
        """Seconds since the end of the gateway's newest pack."""
        return max(0.0, now_s - (self.newest_ms or 0) / 1000)

    def is_late(self, now_s: float) -> bool:
        """Whether the gateway has sent packs, but none that ended in the last five minutes."""
        return self.newest_ms is not None and self.late_s(now_s) > LATE_S


@dataclass(slots=True)
class FleetState:
    """The state of all gateways, and facts that concern the whole platform."""

    gateways: list[GatewayState]
    unknown: list[tuple[str, str]]  # gateways that are not enrolled, with their newest thumbprint
    lots_waiting: int
    unsettled: int
    # databases that cannot be reached; the gateways in them are not in ``gateways``
    away: list[Away] = field(default_factory=list)
    unlisted: int = 0  # number of gateways that are not enrolled and not in ``unknown``

    @property
    def unknown_count(self) -> int:
        """The number of gateways that publish but are not enrolled."""
        return len(self.unknown) + self.unlisted

    def summary(self, now_s: float | None = None) -> dict[str, Any]:
        """The totals over all gateways, for the last line of the table and for metrics."""
        now_s = time.time() if now_s is None else now_s
        verdicts = [one.verdict for one in self.gateways]
        return {
            "gateways": len(self.gateways),
            **{word: verdicts.count(word) for word in ("verified", "incomplete", "failed", "silent")},
            "late": sum(one.is_late(now_s) for one in self.gateways),
            "unknown": self.unknown_count,
            "packs": sum(one.packs for one in self.gateways),
            "readings": sum(one.readings for one in self.gateways),
            "received": sum(one.received for one in self.gateways),
            "due": sum(one.due for one in self.gateways),
            "gaps": sum(one.gaps for one in self.gateways),
            "due_missing": sum(one.due_missing for one in self.gateways),
            "missing_packs": sum(one.missing + one.withheld for one in self.gateways),
            "lost_packs": sum(one.lost for one in self.gateways),
            "lots_waiting": self.lots_waiting,
            "unsettled": self.unsettled,
            "refused": sum(one.refused for one in self.gateways),
            "away": len(self.away),
        }


def fleet_state(connection: Connection, like: str | None = None, since: str = "1970-01-01") -> FleetState:
    """Query the state of the gateways in one database.

    Args:
        like: only this site or gateway; None: all gateways.
        since: the first UTC day whose readings are counted, as an ISO date.
    """
    rows = connection.execute(_GATEWAYS, {"like": like, "since": since}).fetchall()
    gateways = [_state(row) for row in rows]
    unknown, waiting, unsettled = (
        connection.execute(query, {"like": like}).fetchall() for query in (_UNKNOWN, _LOTS_WAITING, _UNSETTLED)
    )
    listed = [(gateway, thumbprint) for gateway, thumbprint, _ in unknown]
    unlisted = unknown[0][2] - len(unknown) if unknown else 0
    return FleetState(gateways, listed, waiting[0][0], unsettled[0][0], unlisted=unlisted)


def _state(row: tuple[Any, ...]) -> GatewayState:
    packs, readings, due, gaps, asleep, missing, lost, withheld = (int(number) for number in row[2:10])
    return GatewayState(
        row[0], row[1], packs, readings, due, gaps, asleep, missing, lost, withheld, row[10] or {}, row[11] or {},
        int(row[12]), row[13], row[14], int(row[15]), row[16] or {}, row[17] or "", row[18], row[19], row[20],
        restarts=int(row[22]), torn=int(row[23]), unsettled=row[21],
    )  # fmt: skip


def whole_fleet(dsns: Sequence[str], like: str | None = None, since: str = "1970-01-01") -> FleetState:
    """Query the state in all databases. A database that cannot be reached is listed in ``away``.

    Raises:
        DatabaseError: no database answers, or a database has the wrong schema or place.
    """
    states, away = each_shard(parse_shards(dsns), lambda connection: fleet_state(connection, like, since))
    return joined(states, away)


def joined(states: Sequence[FleetState], away: list[Away]) -> FleetState:
    """The states of several databases, merged into one."""
    return FleetState(
        sorted((one for state in states for one in state.gateways), key=lambda one: one.name),
        [one for state in states for one in state.unknown],
        sum(state.lots_waiting for state in states), sum(state.unsettled for state in states), away,
        sum(state.unlisted for state in states),
    )  # fmt: skip


def as_json(state: FleetState) -> dict[str, Any]:
    """The state as ``--json`` prints it."""
    gateways = [
        {
            **asdict(one), "verdict": one.verdict, "completeness": one.completeness,
            "refused_at": one.refused_at.isoformat() if one.refused_at else None,
        }
        for one in state.gateways
    ]  # fmt: skip
    return {
        "away": [asdict(one) for one in state.away],
        "gateways": gateways,
        "summary": state.summary(),
        "unknown": [list(one) for one in state.unknown],
    }
