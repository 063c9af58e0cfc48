"""The state of the fleet as people ask for it: verified, missing with reasons, findings, late gateways."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from receiver.database import Connection

LATE_S: Final = 300
_GATEWAYS: Final = """
WITH s AS (SELECT id, gateway FROM streams WHERE %(like)s::text IS NULL OR gateway = %(like)s::text OR starts_with(gateway, %(like)s::text || '/')),
 b AS (SELECT s.gateway, max(b.to_ms) AS newest FROM boots b JOIN s ON s.id = b.stream GROUP BY 1),
 d AS (SELECT s.gateway, sum(d.packs) AS packs, sum(d.readings) AS readings, sum(d.due) AS due, sum(d.gaps) AS gaps, sum(d.asleep) AS asleep
   FROM days d JOIN s ON s.id = d.stream WHERE d.day >= %(since)s::date GROUP BY 1),
 h AS (SELECT s.gateway, sum((SELECT sum(upper(r) - lower(r)) FROM unnest(h.missing) r)) AS missing,
   sum((SELECT sum(upper(r) - lower(r)) FROM unnest(h.lost) r)) AS lost FROM holes h JOIN s ON s.id = h.stream GROUP BY 1),
 w AS (SELECT s.gateway, sum(greatest(0, c.seq - m.seq)) AS withheld FROM checkpoint_heads c JOIN s ON s.id = c.stream
   CROSS JOIN LATERAL (SELECT coalesce(max(upper(b.seqs)) - 1, 0) AS seq FROM boots b WHERE b.stream = c.stream) m
   WHERE NOT EXISTS (SELECT FROM agreed a WHERE a.gateway = s.gateway)
     OR EXISTS (SELECT FROM agreed a JOIN streams n ON n.id = c.stream WHERE a.gateway = s.gateway AND n.name = a.gateway || '/' || a.stream)
   GROUP BY 1),
 f AS (SELECT s.gateway, jsonb_object_agg(code, n) AS codes FROM
   (SELECT s.gateway, f.code, count(*) AS n FROM all_findings f JOIN s ON s.id = f.stream GROUP BY 1, 2) s GROUP BY 1),
 g AS (SELECT s.gateway, jsonb_object_agg(reason, n) AS reasons FROM
   (SELECT s.gateway, g.reason, sum(g.readings) AS n FROM gap_days g JOIN s ON s.id = g.stream WHERE g.day >= %(since)s::date GROUP BY 1, 2) s GROUP BY 1),
 u AS (SELECT split_part(topic, '/', 3) || '/' || split_part(topic, '/', 4) AS gateway, sum(times) AS refused FROM refused GROUP BY 1)
SELECT p.name, b.newest, coalesce(d.packs, 0), coalesce(d.readings, 0), coalesce(d.due, 0), coalesce(d.gaps, 0), coalesce(d.asleep, 0),
  coalesce(h.missing, 0), coalesce(h.lost, 0), coalesce(w.withheld, 0), f.codes, g.reasons, coalesce(u.refused, 0), k.online, k.version
FROM (SELECT DISTINCT gateway AS name FROM pins WHERE %(like)s::text IS NULL OR gateway = %(like)s::text OR starts_with(gateway, %(like)s::text || '/')) p
LEFT JOIN gateways k ON k.name = p.name LEFT JOIN b ON b.gateway = p.name LEFT JOIN d ON d.gateway = p.name LEFT JOIN h ON h.gateway = p.name
LEFT JOIN w ON w.gateway = p.name LEFT JOIN f ON f.gateway = p.name LEFT JOIN g ON g.gateway = p.name LEFT JOIN u ON u.gateway = p.name
ORDER BY p.name"""


@dataclass(slots=True)
class GatewayState:
    """One gateway. Counts of packs are of all time, those of readings since the day that was asked for."""

    name: str
    newest_ms: int | None
    packs: int
    readings: int
    due: int
    gaps: int
    asleep: int
    missing: int  # packs
    lost: int  # packs that the gateway itself declares gone
    withheld: int  # packs behind the head of its newest checkpoint
    findings: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    online: bool | None = None
    version: str | None = None

    @property
    def verdict(self) -> str:
        """``failed`` where something is false, ``incomplete`` where packs are missing, ``silent`` before any pack."""
        if self.findings or self.refused:
            return "failed"
        if self.newest_ms is None:
            return "silent"
        return "incomplete" if self.missing or self.withheld else "verified"

    @property
    def completeness(self) -> float | None:
        """Readings that are here, of those that were due and not asleep."""
        due = self.due - self.asleep
        return self.readings / due if due > 0 else None

    def late_s(self, now_s: float) -> float:
        """Seconds since the end of its newest pack."""
        return max(0.0, now_s - (self.newest_ms or 0) / 1000)


@dataclass(slots=True)
class FleetState:
    """All gateways, and what is not of any of them."""

    gateways: list[GatewayState]
    unknown: list[tuple[str, str]]  # gateway and newest thumbprint of those that nobody enrolled
    lots_waiting: int
    unsettled: int

    def summary(self, now_s: float | None = None) -> dict[str, Any]:
        """Numbers for a last line, and for metrics."""
        now_s = time.time() if now_s is None else now_s
        verdicts = [one.verdict for one in self.gateways]
        return {
            "gateways": len(self.gateways),
            **{word: verdicts.count(word) for word in ("verified", "incomplete", "failed", "silent")},
            "late": sum(one.newest_ms is not None and one.late_s(now_s) > LATE_S for one in self.gateways),
            "unknown": len(self.unknown),
            "packs": sum(one.packs for one in self.gateways),
            "readings": sum(one.readings for one in self.gateways),
            "due": sum(one.due for one in self.gateways),
            "gaps": sum(one.gaps for one in self.gateways),
            "missing_packs": sum(one.missing + one.withheld for one in self.gateways),
            "lost_packs": sum(one.lost for one in self.gateways),
            "lots_waiting": self.lots_waiting,
            "unsettled": self.unsettled,
        }


def fleet_state(connection: Connection, like: str | None = None, since: str = "1970-01-01") -> FleetState:
    """Look at one database.

    Args:
        like: a site, or one gateway; None: all.
        since: the first UTC day whose readings are counted.
    """
    rows = connection.execute(_GATEWAYS, {"like": like, "since": since}).fetchall()
    gateways = [
        GatewayState(row[0], row[1], *(int(n) for n in row[2:10]), row[10] or {}, row[11] or {}, int(row[12]), row[13], row[14])
        for row in rows
    ]  # fmt: skip
    unknown = connection.execute("SELECT gateway, thumbprint FROM unknown_gateways ORDER BY seen DESC LIMIT 1000").fetchall()
    waiting = connection.execute("SELECT count(*) FROM lots WHERE checked IS NULL").fetchone()
    unsettled = connection.execute("SELECT count(*) FROM packs WHERE due IS NULL").fetchone()
    assert waiting is not None and unsettled is not None
    return FleetState(gateways, unknown, waiting[0], unsettled[0])


def as_json(state: FleetState) -> dict[str, Any]:
    """For ``--json``."""
    gateways = [
        {**asdict(one), "verdict": one.verdict, "completeness": one.completeness} for one in state.gateways
    ]
    return {"gateways": gateways, "summary": state.summary(), "unknown": [list(one) for one in state.unknown]}
